"""Days: however a day is written, it is the same one; what could be two is none."""

import pytest

from tasks.days import day_of, days_in


@pytest.mark.parametrize("text", ["2025-02-16", "2025年2月16日", "2025/2/16", "16 February 2025", "Feb. 16th, 2025", "February 16, 2025"])
def test_a_day_is_read_however_it_is_written(text: str) -> None:
    assert day_of(text) == "2025-02-16"
    assert list(days_in(f"请在{text}交货 or so")) == [(text, "2025-02-16")]


@pytest.mark.parametrize("text", ["3/4/2025", "30 February 2025", "2025", "PO-2025-9448", "tomorrow"])
def test_what_is_no_day_or_could_be_two_is_none(text: str) -> None:
    assert day_of(text) is None
