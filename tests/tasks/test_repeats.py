"""Which ids of a batch came before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.repeats import First, Repeats

IDS = st.text(max_size=3) | st.sampled_from(["a", "\udcff", "x" * 100_000])


@settings(deadline=None)
@given(st.lists(st.tuples(IDS, st.binary(max_size=1)), max_size=60))
def test_each_id_but_the_first_is_told_with_the_line_and_content_of_the_first(seen: list[tuple[str, bytes]]) -> None:
    known: dict[str, tuple[int, bytes]] = {}
    with Repeats() as repeats:
        for line, (id, content) in enumerate(seen, start=1):
            was = known.setdefault(id, (line, content))
            assert repeats.first(id, content, line) == (None if was[0] == line else First(was[0], was[1] == content, True))


def test_ids_that_need_more_than_the_memory_are_found_on_disk() -> None:
    with Repeats() as repeats:
        assert not any(repeats.first(f"id {n}", b"", n) for n in range(200_000))
        assert [repeats.first(f"id {n}", b"", 0) for n in (0, 99_999)] == [First(0, True, True), First(99_999, True, True)]


def test_a_full_disk_is_told() -> None:
    with Repeats() as repeats, pytest.raises(OSError, match=r"ids cannot be kept on this machine's disk: .* full; make room"):
        repeats._ids.execute("PRAGMA max_page_count = 9")
        for number in range(10_000):
            repeats.first(f"id {number}", b"", number)


def test_whether_the_first_one_counts_is_remembered() -> None:
    with Repeats() as repeats:
        repeats.first("a", b"", 1, counts=False)
        assert repeats.first("a", b"", 2) == First(1, True, False)


def test_an_id_that_was_not_taken_is_free() -> None:
    with Repeats() as repeats:
        assert repeats.first("a", b"", 1, taken=False) is None
        assert repeats.first("a", b"", 2) is None
        assert repeats.first("a", b"", 3, taken=False) == First(2, True, True)
