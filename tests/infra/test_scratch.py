"""Folders that are gone afterwards, also when whoever made them was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import scratch as module
from infra.scratch import PREFIX, YOUNG_SECONDS, scratch, sweep

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for scratch folders of the test's own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(module, "SWEPT", set())
    return tmp_path


def folders(place: Path) -> list[Path]:
    return sorted(place.glob(f"{PREFIX}*"))


def test_a_scratch_folder_is_empty_and_gone_afterwards(place: Path) -> None:
    with scratch() as folder:
        assert list(folder.iterdir()) == []
        (folder / "record").write_text("secret")
        assert len(folders(place)) == 1
    assert folders(place) == []


def test_it_is_gone_after_an_error_too(place: Path) -> None:
    with pytest.raises(RuntimeError), scratch():
        raise RuntimeError
    assert folders(place) == []


def test_what_a_killed_program_left_goes_when_the_next_one_begins_and_a_running_ones_stays(place: Path) -> None:
    code = (
        "import time\nfrom infra.scratch import scratch\n"
        "with scratch() as folder:\n (folder / 'r').write_text('x')\n print(folder, flush=True)\n time.sleep(60)"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"TMPDIR": str(place)}, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    killed, running = (Path(child.stdout.readline().strip()) for child in children if child.stdout)
    children[0].send_signal(signal.SIGKILL)
    children[0].communicate(timeout=20)
    try:
        assert killed.exists()
        with scratch():
            assert not killed.exists()
            assert (running / "r").read_text() == "x"
    finally:
        children[1].terminate()
        children[1].communicate(timeout=20)


def test_a_folder_that_is_just_being_made_is_left_alone(place: Path) -> None:
    (place / f"{PREFIX}new").mkdir()
    (place / f"{PREFIX}old").mkdir()
    old = time.time() - YOUNG_SECONDS - 60
    os.utime(place / f"{PREFIX}old", (old, old))
    sweep(place)
    assert [folder.name for folder in folders(place)] == [f"{PREFIX}new"]
