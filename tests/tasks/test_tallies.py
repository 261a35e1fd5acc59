"""When a batch has too many dead letters, in plain counts."""

from collections import Counter

import pytest

from tasks.reasons import Reason
from tasks.tallies import Tally, chance_of, check_budget


def test_the_chance_of_so_many_dead_letters_is_exact() -> None:
    assert chance_of(1, 1, 0.1) == pytest.approx(0.1)
    assert chance_of(2, 3, 0.5) == pytest.approx(0.5)
    assert chance_of(3, 3, 1.0) == 1.0


def test_what_a_person_has_rejected_stops_no_batch() -> None:
    rejected = Tally(rows=4, dead=4, reasons=Counter({Reason.REJECTED: 4}))
    check_budget(rejected, 0.1, "a.jsonl", ended=True)
    with pytest.raises(ValueError, match="4 of the first 4 records are dead letters"):
        check_budget(Tally(rows=4, dead=4, reasons=Counter({Reason.TOO_LONG: 4})), 0.1, "a.jsonl", ended=True)


def test_a_small_batch_is_not_judged_before_its_end() -> None:
    check_budget(Tally(rows=199, dead=199), 0.1, "a.jsonl", ended=False)
    with pytest.raises(ValueError, match="stopped"):
        check_budget(Tally(rows=200, dead=21), 0.1, "a.jsonl", ended=False)


def test_a_record_that_came_before_neither_fills_the_budget_nor_stretches_it() -> None:
    copies = Counter({Reason.REPEATED: 900, Reason.INPUT_BLANK: 50})
    with pytest.raises(ValueError, match="50 of the first 100 records are dead letters"):
        check_budget(Tally(rows=1000, dead=950, reasons=copies), 0.1, "a.jsonl", ended=True)
    check_budget(Tally(rows=1000, dead=900, reasons=Counter({Reason.REPEATED: 900})), 0.01, "a.jsonl", ended=True)
