"""Gate: evaluation/metrics.json and the declared rules -> a verdict; whatever cannot be measured is refused."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from infra.store import open_store
from tasks import stories
from tasks.artifacts import Artifact, read_json
from tasks.metrics import LOWER_IS_BETTER, TOLERANCE
from tasks.process import Rule
from tasks.runs import Run

logger = logging.getLogger(__name__)

NO_CHAMPION = "no champion yet: nothing to compare with"


class RuleResult(BaseModel):
    """One rule, what was measured, and whether it holds."""

    model_config = ConfigDict(frozen=True)

    rule: str  # in words
    metric: str
    slice: str | None = None
    measure: float | None = None
    threshold: float | None = None  # the number that the measure was compared with
    reference: float | None = None  # the champion's or the best baseline's value
    passed: bool = False
    reason: str


class Verdict(BaseModel):
    """Whether a model may be published, and every rule's result."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    results: tuple[RuleResult, ...]


class UnmeasuredError(ValueError):
    """A rule cannot be judged; the message says what is missing and what there is."""


def judge(rules: Sequence[Rule], metrics: Mapping[str, Any]) -> Verdict:
    """Every rule against the measures; passed only when there are rules and all of them hold.

    Args:
        metrics: what evaluation/metrics.json holds.
    """
    results = tuple(judge_rule(rule, metrics) for rule in rules)
    if not results:
        none = RuleResult(rule="at least one rule", metric="", reason="the gate has no rule; declare at least one under gate")
        return Verdict(passed=False, results=(none,))
    return Verdict(passed=all(result.passed for result in results), results=results)


def judge_rule(rule: Rule, metrics: Mapping[str, Any]) -> RuleResult:
    """One rule against the measures."""
    facts: dict[str, Any] = {"rule": words(rule), "metric": rule.metric, "slice": rule.slice}
    bound, number = rule.bound
    try:
        facts["measure"] = measure = measured(rule, metrics)
        if bound in ("at_least", "at_most"):
            return _compare(facts, measure, number, bound == "at_least")
        champion = "champion" in bound
        facts["reference"] = reference = champion_value(rule, metrics) if champion else best_baseline(rule, metrics)
    except UnmeasuredError as missing:
        return RuleResult(**facts, reason=str(missing))
    if reference is None:
        return RuleResult(**facts, passed=True, reason=NO_CHAMPION)
    better = number if bound.startswith("above") else -number  # by how much the model must be better than the reference
    lower = rule.metric in LOWER_IS_BETTER
    return _compare(facts, measure, reference - better if lower else reference + better, not lower)


def words(rule: Rule) -> str:
    """A rule as a person says it; above means better by, below means worse by, whichever way the metric points."""
    bound, number = rule.bound
    subject = f"{rule.metric} of {rule.slice}" if rule.slice else rule.metric
    direction, _, rest = bound.partition("_")
    if direction == "at":
        return f"{subject} {direction} {rest} {number:g}"
    other, _, size = rest.partition("_")
    named = {"champion": "the champion", "baseline": "the best baseline"}[other]
    if rule.metric in LOWER_IS_BETTER:
        direction = {"above": "better than", "below": "worse than"}[direction]
    return f"{subject} {direction} {named} by {size.replace('_', ' ')} {number:g}"


def _compare(facts: dict[str, Any], measure: float, threshold: float, upwards: bool) -> RuleResult:
    distance = measure - threshold if upwards else threshold - measure
    passed = distance >= -TOLERANCE  # NaN compares as false, so it is refused
    relation = (">=" if upwards else "<=") if passed else ("<" if upwards else ">")
    reason = f"{measure:.6g} {relation} {threshold:.6g}"
    shown = threshold if math.isfinite(threshold) else None  # JSON has no NaN
    return RuleResult(**facts, threshold=shown, passed=passed, reason=reason)


def measured(rule: Rule, metrics: Mapping[str, Any]) -> float:
    """The model's value of the rule's metric, on its slice when it names one.

    Raises:
        UnmeasuredError: evaluation gave no such metric or slice, or no number for it.
    """
    if rule.slice is None:
        return _number(metrics.get("model"), rule.metric, "evaluation")
    parts = _mapping(metrics.get("slices"))
    if rule.slice not in parts:
        raise UnmeasuredError(f"evaluation has no slice {rule.slice!r}; it gave: {_names(parts)}")
    part = _mapping(parts[rule.slice])
    if _number(part, "count", f"slice {rule.slice!r}") < 1:
        raise UnmeasuredError(f"slice {rule.slice!r} has no test samples")
    return _number(part, rule.metric, f"evaluation of {rule.slice}")


def champion_value(rule: Rule, metrics: Mapping[str, Any]) -> float | None:
    """The champion's value on the same samples; None when there is no champion.

    Raises:
        UnmeasuredError: there is one, but evaluation did not measure it.
    """
    if "champion" not in metrics or "champion_version" not in metrics:
        raise UnmeasuredError("evaluation does not say whether there is a champion")
    if metrics["champion"] is None and metrics["champion_version"] is None:
        return None
    version = metrics["champion_version"]
    values = metrics["champion"] if rule.slice is None else _mapping(metrics.get("champion_slices")).get(rule.slice)
    return _number(values, rule.metric, f"evaluation of the champion {version}")


def best_baseline(rule: Rule, metrics: Mapping[str, Any]) -> float:
    """The best value that any baseline reaches.

    Raises:
        UnmeasuredError: no baseline has the metric.
    """
    baselines = _mapping(metrics.get("baselines"))
    sliced = _mapping(metrics.get("baseline_slices"))
    tables = baselines.values() if rule.slice is None else [_mapping(sliced.get(name)).get(rule.slice) for name in baselines]
    values = [table[rule.metric] for table in map(_mapping, tables) if _is_number(table.get(rule.metric))]
    if not values:
        where = f" on {rule.slice}" if rule.slice else ""
        raise UnmeasuredError(f"no baseline has {rule.metric!r}{where}; there are: {_names(baselines)}")
    return float(min(values) if rule.metric in LOWER_IS_BETTER else max(values))


def _number(values: Any, metric: str, where: str) -> float:
    values = _mapping(values)
    if metric not in values:
        raise UnmeasuredError(f"{where} gave no {metric!r}; it gave: {_names(values)}")
    if not _is_number(values[metric]):
        raise UnmeasuredError(f"{where} gave no finite number for {metric!r}")
    return float(values[metric])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _names(values: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, values))) or "nothing"


@task(task_run_name="gate-{run.process.name}", cache_policy=NO_CACHE)
def pass_gate(evaluation: Artifact, run: Run) -> Verdict:
    """evaluation/ -> gate/verdict.json and the verdict."""
    store = open_store()
    verdict = judge(run.process.gate.rules, read_json(store, evaluation, "metrics.json"))
    told = json.dumps(verdict.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    store.write(f"{run.prefix}/gate/verdict.json", told.encode())
    stories.tell(store, run.prefix, "gate", {"reused": False, "why": ["every run is judged"]})
    broken = "; ".join(result.rule for result in verdict.results if not result.passed)
    logger.info("gate: %s", f"refused, does not hold: {broken}" if broken else f"passed, {len(verdict.results)} rules hold")
    return verdict
