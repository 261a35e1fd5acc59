"""Certificates: thresholds on drawn answers whose true error is known."""

import math

import numpy as np
import pytest

from benchmarks.automation import Setting, honest, overconfident, simulate, too_many
from tasks.certificate import (
    Certificate,
    Rows,
    Threshold,
    accepted_by,
    certify,
    fewest_rows,
    lower_bound,
    measure_accepted,
    own_labels,
    p_value,
    rows_for,
    upper_bound,
)
from tasks.terms import Automation

TERMS = Automation(max_error=0.05)


def rows(sure: list[float], wrong: list[int] | None = None, labels: list[str | None] | None = None) -> Rows:
    """Answers with these confidences; those at the places of `wrong` are wrong."""
    marks = np.zeros(len(sure), dtype=np.bool_)
    marks[wrong or []] = True
    return Rows(labels or [None] * len(sure), np.array(sure, dtype=np.float64), marks)


def falling(count: int, wrong: list[int] | None = None) -> Rows:
    """Answers of which each is a little less sure than the one before."""
    return rows([1 - 0.5 * place / count for place in range(count)], wrong)


def test_the_bound_is_exact() -> None:
    assert upper_bound(0, 59, 0.95) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_bound(7, 7, 0.95) == 1.0
    assert upper_bound(0, 0, 0.95) is None
    chances = [math.comb(10, errors) * 0.3**errors * 0.7 ** (10 - errors) for errors in range(3)]
    assert p_value(2, 10, 0.3) == pytest.approx(sum(chances))
    assert p_value(0, 0, 0.3) == 1.0


def test_fifty_nine_right_answers_certify_one_in_twenty_and_fifty_eight_do_not() -> None:
    assert fewest_rows(0.05, 0.05) == 59
    assert certify(falling(59), falling(59), TERMS)[-1].bound == pytest.approx(0.0495, abs=1e-4)
    missing = certify(falling(58), falling(58), TERMS)[-1]
    assert (missing.threshold, missing.rows, missing.accepted) == (None, 58, 0)
    assert missing.needed is not None and missing.needed > 58


def test_the_sequence_ends_at_the_first_threshold_that_fails() -> None:
    wrong = [*range(150, 180)]  # the surest 150 of 200 are right, then come the wrong ones
    found = certify(falling(200, wrong), falling(200, wrong), TERMS)[-1]
    assert found.threshold is not None
    assert 150 <= found.accepted < 160
    assert found.bound is not None and found.bound <= TERMS.max_error
    assert found.errors == sum(place < found.accepted for place in wrong)


def test_what_has_no_answer_is_never_accepted() -> None:
    nothing = rows([-1.0] * 300)
    found = certify(nothing, nothing, TERMS)
    assert found[-1].threshold is None
    assert not accepted_by(found, nothing).any()


def test_a_model_that_is_wrong_too_often_is_told_that_no_number_of_records_helps() -> None:
    assert rows_for(0.06, 0.05, 0.05) is None
    assert certify(falling(80, [*range(0, 80, 4)]), falling(80, [*range(0, 80, 4)]), TERMS)[-1].needed is None


def test_a_label_has_its_own_threshold_where_it_is_given_often_and_shares_the_risk() -> None:
    labels: list[str | None] = ["often"] * 400 + ["seldom"] * 40
    sure = [0.9] * 400 + [0.9] * 40
    both = rows(sure, None, labels)
    assert own_labels(both, TERMS) == ["often"]
    often, others = certify(both, both, TERMS)
    assert (often.label, often.threshold, often.rows) == ("often", 0.9, 400)
    assert often.confidence == pytest.approx(0.975)
    assert (others.label, others.threshold, others.rows) == (None, None, 40)
    assert accepted_by((often, others), both).sum() == 400


def test_an_answer_is_accepted_or_the_reason_is_told() -> None:
    thresholds = (Threshold(label="a", threshold=0.8, rows=9, confidence=0.9), Threshold(rows=9, confidence=0.9))
    certificate = Certificate(max_error=0.1, confidence=0.9, thresholds=thresholds, scope=0.3)
    asked = [("a", 0.8, 0.3), ("a", 0.79, 0.9), ("b", 1.0, 0.9), ("a", 1.0, 0.29)]
    assert [certificate.reason(*each) for each in asked] == [None, "unsure", "uncertified", "out_of_scope"]


def test_what_was_accepted_is_measured_with_a_bound_of_its_own() -> None:
    found = measure_accepted(np.array([True] * 59 + [False]), rows([0.9] * 60, [59]), 0.95)
    assert (found.rows, found.accepted, found.errors) == (60, 59, 0)
    assert found.bound == pytest.approx(0.0495, abs=1e-4)


@pytest.mark.parametrize(
    "setting",
    [
        Setting("honest", honest, 300, Automation(max_error=0.1, confidence=0.9)),
        Setting("labels", honest, 500, Automation(max_error=0.1, confidence=0.9), (0.7, 0.3)),
        Setting("overconfident", overconfident, 300, Automation(max_error=0.1, confidence=0.9)),
    ],
    ids=lambda setting: setting.name,
)
def test_over_many_seeds_the_bound_holds_as_stated_and_the_reported_rate_is_the_true_one(setting: Setting) -> None:
    seen = simulate(setting, 100)
    assert seen.certified > 30
    assert not too_many(seen.violated, 100, 1 - setting.terms.confidence)
    assert np.mean(seen.reported) == pytest.approx(np.mean(seen.shares), abs=0.02)


def test_bounds_are_those_of_clopper_and_pearson_on_both_sides() -> None:
    assert lower_bound(0, 10, 0.975) == 0 and upper_bound(10, 10, 0.975) == 1
    assert (lower_bound(3, 20, 0.975), upper_bound(3, 20, 0.975)) == (pytest.approx(0.032071, rel=1e-4), pytest.approx(0.378927, rel=1e-4))
    assert lower_bound(0, 0, 0.9) is None
