import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from infra.threads import calm_openmp, quota_of, side_by_side, use_threads


def test_what_the_environment_says_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    calm_openmp()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_waiting_threads_spin_only_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    calm_openmp()
    assert 0 < int(os.environ["GOMP_SPINCOUNT"]) < 100_000


def test_torch_gets_the_declared_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("CLERKFLOW_THREADS", "1")
    try:
        use_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_process_that_may_use_one_core_counts_one_and_gives_torch_one_thread() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import torch; from infra.threads import cores, use_threads\n"
        "torch.set_num_threads(2); use_threads(); print(cores(), torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("CLERKFLOW_THREADS", "OMP_NUM_THREADS")}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == ["1", "1"]


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/pod/job\n", {"pod/cpu.max": "50000 100000\n", "pod/job/cpu.max": "200000 100000\n"}, 0.5),
        ("4:cpu,cpuacct:/docker/abc\n0::/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("3:cpuset:/\n0::/\n", {}, None),
    ],
)
def test_the_quota_of_a_container_is_found_in_both_versions_of_control_groups(
    tmp_path: Path, membership: str, files: dict[str, str], quota: float | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert quota_of(membership, tmp_path) == quota


def test_parts_are_worked_on_side_by_side_in_order_with_the_threads_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLERKFLOW_THREADS", raising=False)
    monkeypatch.setattr("infra.threads.usable_cores", lambda: 8)
    before, meeting = torch.get_num_threads(), threading.Barrier(2)

    def work(part: int) -> tuple[int, int]:
        if part < 2:
            meeting.wait(timeout=30)  # the first two are under way at once, or this fails
        return part, torch.get_num_threads()

    torch.set_num_threads(2)
    try:
        assert side_by_side(work, range(5)) == [(part, 1) for part in range(5)]
        assert side_by_side(work, [7]) == [(7, 2)]
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda part: 1 // part, [1, 0, 1])
        found = list[int]()
        other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert (torch.get_num_threads(), found) == (2, [2])
        assert side_by_side(lambda _: threads_of_a_newcomer(), range(2)) == [2, 2]
    finally:
        torch.set_num_threads(before)


def threads_of_a_newcomer() -> int:
    """What a thread has that begins, and says so, while others are worked on."""
    found = list[int]()
    other = threading.Thread(target=lambda: (use_threads(), found.append(torch.get_num_threads())))
    other.start()
    other.join()
    return found[0]
