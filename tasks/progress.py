"""Progress: how far a long stage is -> a bar in the Prefect UI, now and then; nothing for what is done soon, or outside a run.

A process that a stage has started is outside its run: it tells the share in a file, and the stage passes it on.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

logger = logging.getLogger(__name__)

FIRST_SECONDS = 5.0  # what is done by then has no bar
EVERY_SECONDS = 5.0
SHARE_FILE = "CLERKFLOW_SHARE_FILE"  # the variable that names the file to a process which was started


@contextmanager
def shown_progress(process: str, stage: str, first_seconds: float = FIRST_SECONDS) -> Iterator[Callable[[float], None]]:
    """A function to be told the share that is done, 0 to 1, as often as one likes; a server that is away stops nothing."""
    bar, due = None, time.monotonic() + first_seconds

    def show(share: float) -> None:
        nonlocal bar, due
        file = os.environ.get(SHARE_FILE)
        if time.monotonic() < due or (TaskRunContext.get() is None and not file):
            return
        due = time.monotonic() + EVERY_SECONDS
        if file:
            _tell(Path(file), share)
            return
        bar = _put(bar, 100.0 * share, process, stage)

    yield show
    if bar is not None:
        _put(bar, 100.0, process, stage)


def _tell(file: Path, share: float) -> None:
    """The share as text, whole or not at all; where it cannot be written, nobody is told."""
    part = file.with_name(f"{file.name}.part")
    with suppress(OSError):
        part.write_text(f"{share:.4f}", encoding="ascii")
        part.replace(file)


def told_share(file: Path) -> float | None:
    """What a started process has told; None when it has told nothing yet."""
    with suppress(OSError, ValueError):
        return float(file.read_text(encoding="ascii"))
    return None


def _put(bar: Any, percent: float, process: str, stage: str) -> Any:
    """The bar's id, once it is there."""
    key = f"{process.replace('_', '-')}-{stage}-progress"
    try:
        if bar is None:
            return create_progress_artifact(percent, key=key, description=f"{process}: {stage}")
        update_progress_artifact(bar, progress=percent)
    except Exception as error:
        logger.warning("%s: no progress is shown for now: %s", stage, type(error).__name__)
    return bar
