"""Metrics: what counts as right, and that a measure without a meaning is absent."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import metrics
from tasks.metrics import Answers, Case


def measured(kind: str, pairs: list[tuple[Any, Any]], **more: Any) -> dict[str, float]:
    """Measures of (true, answered) pairs."""
    return metrics.measure(kind, [Case(true) for true, _ in pairs], Answers([answer for _, answer in pairs], **more))


def test_an_unanswered_sample_is_wrong() -> None:
    found = measured("label", [("a", "a"), ("b", "b"), ("b", None), ("a", "b")])
    assert found["accuracy"] == 0.5
    assert found["answered"] == 0.75
    assert found["f1.a"] == pytest.approx(2 / 3)
    assert found["f1.b"] == 0.5
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0.5) / 2)


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    found = metrics.per_class([Case("a"), Case("b")], ["a", "a"])
    assert found["b"] == {"recall": 0.0, "f1": 0.0, "support": 1.0}


def test_a_field_counts_when_its_value_reads_the_same() -> None:
    pairs = [({"n": 3, "name": "Ann  Lee", "tags": ["x", "y"]}, {"n": 3.0, "name": "Ann Lee", "tags": ["y", "x"]})]
    found = measured("fields", pairs)
    assert found["field_f1"] == 1.0
    assert found["exact_match"] == 0.0  # quantities belong to products by their order


def test_fields_are_counted_as_pairs() -> None:
    pairs = [({"a": "1", "b": "2"}, {"a": "1", "b": "3"}), ({"a": "1"}, None), ({}, {})]
    found = measured("fields", pairs)
    assert found["field_precision"] == 0.5
    assert found["field_recall"] == pytest.approx(1 / 3)
    assert found["field_f1"] == pytest.approx(2 / 5)
    assert found["field_f1.a"] == pytest.approx(2 / 3)
    assert found["exact_match"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("kind", "true", "answered", "parts"),
    [("label", "a", "b", ("a", "b")), ("fields", {"n": 3}, {"m": 3}, ("n", "m")), ("text", "one two three four", "one two three five", ())],
)
def test_what_is_measured_is_what_a_gate_may_name(kind: str, true: Any, answered: Any, parts: tuple[str, ...]) -> None:
    cases, losses = [Case(true, facts=("one",)), Case(answered, facts=("one",))], [(1.0, 2)] * 2
    found = metrics.measure(kind, cases, Answers([true, true], [0.9, 0.6], losses, [True, None]))
    assert set(found) == set(metrics.measures(kind, parts)) - ({"ece"} if kind == "text" else set())
    assert not metrics.MODELS_ONLY & set(metrics.measure(kind, cases, Answers([true, answered])))


def test_the_area_under_the_curve_is_how_often_a_true_one_is_thought_likelier() -> None:
    cases = [Case(label) for label in ("bad", "good", "bad", "good")]
    found = metrics.measure("label", cases, Answers(["bad", "good", "good", "bad"], [0.9, 0.8, 0.6, 0.7]))
    assert found["auc"] == pytest.approx(3 / 4)  # of good: 0.1, 0.8, 0.6, 0.3
    assert "auc" not in metrics.measure("label", [*cases, Case("ugly")], Answers(["bad"] * 5, [0.9] * 5))
    assert "auc" not in metrics.measure("label", cases, Answers(["bad", None, "bad", "good"], [0.9] * 4))


def test_what_has_nothing_to_divide_by_is_absent() -> None:
    found = measured("fields", [({}, {}), ({}, None)])
    assert found == {"answered": 0.5, "exact_match": 0.5}
    assert measured("label", []) == {}
    assert "facts_stated" not in measured("text", [("a b c d", "a b c d")])


def test_every_reference_counts() -> None:
    cases = [Case("one two three four", ("one two three four", "five six seven eight")), Case("nine ten", ("nine ten",))]
    found = metrics.measure("text", cases, Answers(["five six seven eight", "nine ten"]))
    assert found["chrf"] == pytest.approx(100)
    assert found["exact_match"] == 1.0
    assert metrics.measure("text", cases, Answers([None, None]))["chrf"] == 0.0


def test_chinese_is_measured_by_characters() -> None:
    cases = [Case("第2周接到459单，准时率73%。")]
    assert metrics.bleu_tokenizer(cases) == "zh"
    assert metrics.measure("text", cases, Answers(["第2周接到459单，准时率73%。"]))["bleu"] == pytest.approx(100)


def test_the_chinese_slice_of_a_mostly_english_process_is_measured_by_characters_too() -> None:
    from sacrebleu import corpus_bleu

    english = [Case(f"Week {week} had 459 orders, 73% on time.", slices={"language": "en"}) for week in range(9)]
    chinese = Case("第2周接到459单，准时率73%，比上周好。", slices={"language": "zh"})
    said = [*(f"Week {week} had 459 orders, 73% on time." for week in range(9)), "第2周接到459单，准时率73%，和上周一样。"]
    found = metrics.measure_slices("text", [*english, chinese], Answers(said))
    assert 30 < found["language=zh"]["bleu"] < 90  # by words, a Chinese sentence is one or two: 0
    assert metrics.bleu_tokenizer(english) == "13a"
    said[3], said[5] = 'In week 3: 1,459.5 orders ("on-time" 3/4), it\'s fine.', "Week 5 had 400 orders."
    cut = [corpus_bleu(said[:9], [[case.output for case in english]], tokenize=name).score for name in ("13a", "zh")]
    assert cut[0] == cut[1] < 100  # so Chinese letters among them change nothing for English texts


@pytest.mark.parametrize(
    ("text", "fact", "stated"),
    [
        ("12 orders", "1", False),
        ("第2周459单", "2", True),
        ("1.5 km", "1", False),
        ("1,200 euros", "1", False),
        ("1,200 euros", "1200", True),
        ("in week 7.", "7", True),
        ("model A4", "4", False),
        ("费用115元", "15元", False),
        ("费用15元", "15元", True),
        ("At OLD  market", "Old Market", True),
        ("3 of 13", "3", True),
        ("13 of 3", "3", True),
        ("anything", "", False),
    ],
)
def test_a_fact_is_stated_when_it_stands_by_itself(text: str, fact: str, stated: bool) -> None:
    assert metrics.states(text, fact) is stated


def test_facts_stated_is_the_share_over_all_texts() -> None:
    cases = [Case("x", facts=("1", "2")), Case("x", facts=("3",)), Case("x")]
    assert metrics.measure("text", cases, Answers(["1 and 12", None, "y"]))["facts_stated"] == pytest.approx(1 / 3)


def test_perplexity_is_over_tokens_not_samples() -> None:
    losses = [(math.log(2) * 3, 3), (math.log(8), 1), (0.0, 0)]
    assert measured("label", [("a", "a")] * 3, losses=losses)["perplexity"] == pytest.approx(2**1.5)
    assert "perplexity" not in measured("label", [("a", "a")], losses=[(0.0, 0)])
    assert "perplexity" not in measured("label", [("a", "a")], losses=[(math.nan, 1)])
    assert "perplexity" not in measured("label", [("a", "a")], losses=[(1e9, 1)])


def test_bins_hold_about_as_many_answers_each_and_never_part_equal_confidences() -> None:
    bins = metrics.reliability([index / 100 for index in range(100)], [True] * 100)
    assert [part.count for part in bins] == [10] * 10
    (one,) = metrics.reliability([0.9] * 20, [True] * 18 + [False] * 2)
    assert (one.accuracy, one.count) == (0.9, 20)
    assert metrics.calibration_error([one]) == pytest.approx(0)
    assert metrics.calibration_error([]) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60))
def test_bins_lose_no_answer(pairs: list[tuple[float, bool]]) -> None:
    bins = metrics.reliability([confidence for confidence, _ in pairs], [right for _, right in pairs])
    assert sum(part.count for part in bins) == len(pairs)
    assert len(bins) <= 10


def test_each_slice_is_measured_and_counted() -> None:
    cases = [Case("a", slices={"language": "en"}), Case("a", slices={"language": "zh"}), Case("b", slices={"language": ""})]
    found = metrics.measure_slices("label", cases, Answers(["a", "b", "b"], [0.9, 0.8, 0.7]))
    assert {name: (part["count"], part["accuracy"]) for name, part in found.items()} == {
        "language=(none)": (1, 1.0),
        "language=en": (1, 1.0),
        "language=zh": (1, 0.0),
    }
    assert all("ece" in part for part in found.values())


def test_the_rarest_labels_of_a_confusion_are_put_together() -> None:
    labels = [f"{number:02}" for number in range(25)]
    found = metrics.confusion([Case(label) for label in labels], [None, *labels[1:]])
    assert found["rows"] == [*labels[:20], "(other)"]
    assert found["columns"] == [*labels[:20], "(other)", "(none)"]
    assert sum(map(sum, found["counts"])) == 25
    assert found["counts"][0][-1] == 1
    assert found["counts"][-1][20] == 5


def test_a_text_may_go_out_when_it_states_its_facts_and_cases_that_chose_thresholds_are_not_measured() -> None:
    cases = [Case("pay 5 to Al", facts=("5", "Al"))] * 4
    answers = Answers(["Al gets 5", "Bo gets 5", None, "Al gets 5"], accepted=[True, True, False, None])
    found = metrics.automation_measures("text", cases, answers.outputs, answers.accepted or ())
    assert found == {"straight_through_rate": 2 / 3, "accepted_error": 1 / 2}
    nothing = metrics.automation_measures("text", cases, answers.outputs, [False] * 4)
    assert nothing == {"straight_through_rate": 0.0, "accepted_error": None}
