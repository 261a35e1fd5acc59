"""Scratch: empty folders on this machine, gone afterwards; what a killed program left behind goes when the next one begins."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "clerkflow-scratch-"
LOCK = ".lock"
YOUNG_SECONDS = 3600.0  # a folder without a lock may be one that is being made
SWEPT: set[str] = set()  # places that this program has looked through


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder, gone afterwards. Records may be in it, so it is held by a lock that goes with its holder."""
    sweep(Path(tempfile.gettempdir()))
    held = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (held / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (held / "files").mkdir()
            yield held / "files"
    finally:
        shutil.rmtree(held, ignore_errors=True)


def sweep(place: Path) -> None:
    """Remove this user's folders whose holder is gone; once a program for each place."""
    if str(place) in SWEPT:
        return
    SWEPT.add(str(place))
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_uid == os.getuid() and _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    """Whether nobody holds a folder any more."""
    try:
        with (folder / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > YOUNG_SECONDS
