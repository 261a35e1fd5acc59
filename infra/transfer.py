"""Transfer: many objects moved at once, with bounded memory, the first error stopping the rest, and a bar that shows it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

THREADS = 4  # each holds one block; more are no faster against one server

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Iterable[T], threads: int = THREADS) -> list[R]:
    """The results of `work`, in the order of the items; the first error leaves out what was not begun, and is raised."""
    with ThreadPoolExecutor(threads) as pool:
        futures: list[Future[R]] = [pool.submit(work, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((future for future in futures if future in done and future.exception()), None)
            if failed:
                failed.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


@contextmanager
def moving(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of bytes, with their rate, on a terminal; silence elsewhere. The function it gives adds bytes, from any thread."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console, lock = Console(stderr=True), threading.Lock()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task(title, total=total)

        def advance(count: int) -> None:
            with lock:
                bar.advance(line, count)

        yield advance
