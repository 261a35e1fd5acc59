"""Progress: how far a long stage is -> a bar in the Prefect UI, now and then; nothing for what is done soon, or outside a run."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

logger = logging.getLogger(__name__)

FIRST_SECONDS = 5.0  # what is done by then has no bar
EVERY_SECONDS = 5.0


@contextmanager
def shown_progress(process: str, stage: str, first_seconds: float = FIRST_SECONDS) -> Iterator[Callable[[float], None]]:
    """A function to be told the share that is done, 0 to 1, as often as one likes; a server that is away stops nothing."""
    bar, due = None, time.monotonic() + first_seconds

    def show(share: float) -> None:
        nonlocal bar, due
        if time.monotonic() < due or TaskRunContext.get() is None:
            return
        due = time.monotonic() + EVERY_SECONDS
        bar = _put(bar, 100.0 * share, process, stage)

    yield show
    if bar is not None:
        _put(bar, 100.0, process, stage)


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
