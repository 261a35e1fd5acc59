"""How far a stage is, told by a process that it has started."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks import parallel
from tasks.progress import SHARE_FILE, shown_progress, told_share

CHILD = """
import time
from tasks.progress import shown_progress
with shown_progress("toy", "finetuning", first_seconds=0) as show:
    show(0.25)
    time.sleep(4)
"""


def test_a_share_is_told_in_a_file_and_nothing_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "share"
    monkeypatch.setenv(SHARE_FILE, str(file))
    assert told_share(file) is None
    with shown_progress("toy", "finetuning", first_seconds=0) as show:
        show(0.5)
        show(0.75)  # too soon
    assert told_share(file) == 0.5
    file.write_text("half")
    assert told_share(file) is None


def test_who_waits_for_a_process_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    @contextmanager
    def shown(*_: str) -> Iterator[Callable[[float], None]]:
        yield seen.append

    monkeypatch.setattr(parallel, "shown_progress", shown)
    monkeypatch.setenv(SHARE_FILE, str(tmp_path / "share"))
    child = subprocess.Popen([sys.executable, "-c", CHILD], cwd=Path(__file__).parents[2])
    assert parallel._waited(child, "toy", tmp_path / "share") == 0
    assert seen and set(seen) == {0.25}
