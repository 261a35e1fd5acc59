"""Many objects moved at once: results in order, the first error stops the rest, and a bar only where somebody looks."""

import threading
import time

import pytest

from infra.transfer import THREADS, in_parallel, moving


def test_results_come_in_the_order_of_the_items_not_of_their_ends() -> None:
    assert in_parallel(lambda n: (time.sleep((5 - n) / 100), n)[1], range(6)) == [0, 1, 2, 3, 4, 5]


def test_nothing_to_do_gives_nothing() -> None:
    assert in_parallel(lambda n: n, []) == []


def test_no_more_than_the_threads_work_at_once() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work(_: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    in_parallel(work, range(20))
    assert most == THREADS


def test_the_first_error_leaves_out_what_was_not_begun_and_waits_for_what_was() -> None:
    begun: list[int] = []
    ended: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise OSError("the second one")
        time.sleep(0.05)
        ended.append(number)

    with pytest.raises(OSError, match="the second one"):
        in_parallel(work, range(100), threads=2)
    assert len(begun) < 10
    assert sorted(ended) == sorted(set(begun) - {1})


def test_an_interrupt_in_a_worker_is_raised_too() -> None:
    def work(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_parallel(work, range(50))


def test_the_bar_counts_bytes_from_any_thread_and_shows_their_rate_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with moving("Publishing p", 4_000_000) as advance:
        in_parallel(advance, [1_000_000] * 4)
    told = capsys.readouterr()
    assert "Publishing p" in told.err
    assert "4.0/4.0 MB" in told.err
    assert "/s" in told.err
    assert told.out == ""


def test_the_bar_is_silent_where_nobody_looks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    with moving("Publishing p", 10) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")
