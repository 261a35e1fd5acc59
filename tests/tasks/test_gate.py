"""Gate: it fails closed, and says why."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.store import LocalStore
from tasks.artifacts import store_folder, write_json
from tasks.gate import NO_CHAMPION, judge, pass_gate
from tasks.process import Process, Rule
from tasks.runs import begin

METRICS: dict[str, Any] = {
    "model": {"accuracy": 0.85, "perplexity": 3.0, "ece": 0.05},
    "slices": {"language=zh": {"accuracy": 0.7, "count": 9}, "language=en": {"accuracy": 0.9, "count": 0}},
    "champion": {"accuracy": 0.86, "perplexity": 3.2},
    "champion_version": "v1",
    "champion_slices": {"language=zh": {"accuracy": 0.8, "count": 9}},
    "baselines": {"majority": {"accuracy": 0.3}, "tfidf_linear": {"accuracy": 0.9}},
    "baseline_slices": {"majority": {}, "tfidf_linear": {"language=zh": {"accuracy": 0.6, "count": 9}}},
}


def result_of(metrics: dict[str, Any] | None = None, **rule: Any) -> Any:
    verdict = judge([Rule(**rule)], METRICS if metrics is None else metrics)
    assert verdict.passed is verdict.results[0].passed
    return verdict.results[0]


@pytest.mark.parametrize(
    ("rule", "passed", "threshold"),
    [
        ({"metric": "accuracy", "at_least": 0.85}, True, 0.85),
        ({"metric": "accuracy", "at_least": 0.85 + 1e-13}, True, 0.85),
        ({"metric": "accuracy", "at_least": 0.851}, False, 0.851),
        ({"metric": "perplexity", "at_most": 3}, True, 3.0),
        ({"metric": "perplexity", "at_most": 2.9}, False, 2.9),
        ({"metric": "accuracy", "slice": "language=zh", "at_least": 0.7}, True, 0.7),
        ({"metric": "accuracy", "below_champion_at_most": 0.01}, True, 0.85),
        ({"metric": "accuracy", "below_champion_at_most": 0}, False, 0.86),
        ({"metric": "accuracy", "above_champion_at_least": 0.01}, False, 0.87),
        ({"metric": "perplexity", "above_champion_at_least": 0.2}, True, 3.0),
        ({"metric": "perplexity", "above_champion_at_least": 0.3}, False, 2.9),
        ({"metric": "accuracy", "slice": "language=zh", "below_champion_at_most": 0.05}, False, 0.75),
        ({"metric": "accuracy", "below_baseline_at_most": 0.05}, True, 0.85),
        ({"metric": "accuracy", "above_baseline_at_least": 0.0}, False, 0.9),
        ({"metric": "accuracy", "slice": "language=zh", "above_baseline_at_least": 0.1}, True, 0.7),
    ],
)
def test_a_rule_is_compared_with_its_threshold(rule: dict[str, Any], passed: bool, threshold: float) -> None:
    found = result_of(**rule)
    assert found.passed is passed, found.reason
    assert found.threshold == pytest.approx(threshold)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"metric": "f1.typo", "at_least": 0}, "evaluation gave no 'f1.typo'; it gave: accuracy, ece, perplexity"),
        ({"metric": "accuracy", "slice": "language=fr", "at_least": 0}, "no slice 'language=fr'; it gave: language=en, language=zh"),
        ({"metric": "accuracy", "slice": "language=en", "at_least": 0}, "has no test samples"),
        ({"metric": "ece", "below_champion_at_most": 1}, "the champion v1 gave no 'ece'"),
        ({"metric": "perplexity", "above_baseline_at_least": 0}, "no baseline has 'perplexity'; there are: majority, tfidf_linear"),
    ],
)
def test_what_was_not_measured_is_refused_with_what_was(rule: dict[str, Any], reason: str) -> None:
    found = result_of(**rule)
    assert not found.passed
    assert reason in found.reason


def test_the_first_model_has_nothing_to_be_compared_with() -> None:
    first = METRICS | {"champion": None, "champion_version": None}
    found = result_of(first, metric="accuracy", below_champion_at_most=0.01)
    assert (found.passed, found.reason, found.measure) == (True, NO_CHAMPION, 0.85)
    assert not result_of(first, metric="f1.typo", below_champion_at_most=0.01).passed


def test_a_champion_that_could_not_be_measured_is_no_missing_champion() -> None:
    assert not result_of(METRICS | {"champion": {}}, metric="accuracy", below_champion_at_most=0.01).passed
    assert not result_of(METRICS | {"champion": None}, metric="accuracy", below_champion_at_most=0.01).passed
    assert not result_of({"model": METRICS["model"]}, metric="accuracy", below_champion_at_most=0.01).passed


def test_a_gate_without_a_rule_refuses() -> None:
    verdict = judge([], METRICS)
    assert not verdict.passed
    assert "no rule" in verdict.results[0].reason


def test_one_broken_rule_refuses_and_every_rule_is_shown() -> None:
    verdict = judge([Rule(metric="accuracy", at_least=0.5), Rule(metric="accuracy", at_least=0.9)], METRICS)
    assert [result.passed for result in verdict.results] == [True, False]
    assert not verdict.passed


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"metric": "accuracy", "at_least": 0.85}, "accuracy at least 0.85"),
        ({"metric": "accuracy", "slice": "language=zh", "at_most": 1}, "accuracy of language=zh at most 1"),
        ({"metric": "accuracy", "below_champion_at_most": 0.01}, "accuracy below the champion by at most 0.01"),
        ({"metric": "ece", "below_baseline_at_most": 0.01}, "ece worse than the best baseline by at most 0.01"),
    ],
)
def test_a_rule_is_said_in_words(rule: dict[str, Any], said: str) -> None:
    assert result_of(**rule).rule == said


@given(
    value=st.sampled_from([None, math.nan, math.inf, -math.inf, "0.9", True, [], {}]),
    bound=st.sampled_from(Rule.BOUNDS),
    number=st.floats(-2, 2),
    sliced=st.booleans(),
    champion=st.booleans(),
)
def test_what_is_no_number_never_passes(value: Any, bound: str, number: float, sliced: bool, champion: bool) -> None:
    metrics = METRICS | {"model": {"accuracy": value}, "slices": {"language=zh": {"accuracy": value, "count": 3}}}
    if not champion:
        metrics |= {"champion": None, "champion_version": None}
    rule = Rule(metric="accuracy", slice="language=zh" if sliced else None, **{bound: number})
    assert not judge([rule], metrics).passed


@pytest.mark.parametrize("bound", Rule.BOUNDS)
def test_a_bound_that_is_no_number_is_refused_and_never_passes(bound: str) -> None:
    with pytest.raises(ValueError, match="finite number"):
        Rule(metric="accuracy", **{bound: math.nan})
    unchecked = Rule(metric="accuracy", **{bound: 0}).model_copy(update={bound: math.nan})
    assert not judge([unchecked], METRICS).passed


def test_the_verdict_is_stored_with_the_run(tmp_path: Path) -> None:
    process = Process.model_validate(
        {
            "name": "routing",
            "owner": "tests",
            "records": {"source": "a.jsonl"},
            "sample": {"prompt": "{text}"},
            "output": {"label": "queue"},
            "gate": [{"metric": "accuracy", "at_least": 0.9}],
        }
    )
    store, run = LocalStore(tmp_path / "store"), begin(process, "train")
    write_json(tmp_path / "evaluation" / "metrics.json", METRICS)
    verdict = pass_gate.fn(store_folder(store, tmp_path / "evaluation", f"{run.prefix}/evaluation"), run)
    stored = json.loads(store.read(f"{run.prefix}/gate/verdict.json")[0])
    assert stored == verdict.model_dump(mode="json")
    assert not stored["passed"]
