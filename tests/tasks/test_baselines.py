"""Baselines: simple methods that learn from the training split only, in Chinese and English alike."""

import json
from typing import Any

import pytest

from tasks.baselines import (
    Chooser,
    Row,
    baseline_answers,
    fields_in,
    is_closed,
    majority,
    sampled,
    tags_of,
    texts_of,
    tokens_of,
    typed,
)
from tasks.metrics import Answers
from tasks.process import OutputField, Process


def process(output: dict[str, Any], prompt: str = "Message: {text}\nAnswer:") -> Process:
    declared = {
        "name": "tiny",
        "owner": "tests",
        "records": {"source": "a.jsonl"},
        "sample": {"prompt": prompt},
        "output": output,
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    return Process.model_validate(declared)


def row(text: str, output: Any = None) -> Row:
    return {"prompt": f"Message: {text}\nAnswer:", "output": json.dumps(output), "inputs": json.dumps({"text": text})}


def rows(pairs: dict[str, Any]) -> list[Row]:
    return [row(text, output) for text, output in pairs.items()]


def said(found: dict[str, Answers]) -> dict[str, Any]:
    return {name: answers.outputs for name, answers in found.items()}


ROUTES = {"my card is lost": "card", "the card is gone": "card", "pay the invoice": "bill", "我的卡丢了": "card", "发票没有付": "bill"}


def test_a_label_is_recognised_by_words_and_by_chinese_characters() -> None:
    found = baseline_answers(
        "label", rows(ROUTES), rows({"card lost": "", "an invoice": "", "卡不见了": "", "付发票": ""}), process({"label": "q"})
    )
    assert said(found) == {"majority": ["card"] * 4, "tfidf_linear": ["card", "bill", "card", "bill"]}
    ranks = found["tfidf_linear"].ranks
    assert ranks
    assert [value > 0 for value in ranks["bill"]] == [False, True, False, True]


@pytest.mark.parametrize("texts", [{"": "a", " ": "b"}, {"only": "a", "one": "a"}, {"?": "a", "!": "b"}])
def test_texts_without_words_and_a_single_class_are_answered_too(texts: dict[str, str]) -> None:
    found = baseline_answers("label", rows(texts), rows({"": "", "x": ""}), process({"label": "q"}))
    assert set(found["tfidf_linear"].outputs) <= {"a", "b"}
    assert len(found["tfidf_linear"].outputs) == 2


def test_only_the_most_frequent_classes_are_learned() -> None:
    from scipy.sparse import eye

    chooser = Chooser(eye(402, format="csr"), [f"{number // 2:03}" for number in range(400)] + ["rare", "rarer"])
    assert len(chooser.model.classes_) == 200
    assert "rare" not in chooser.model.classes_


def test_the_words_of_every_prompt_are_no_features() -> None:
    assert texts_of([row("hello")], process({"label": "q"})) == ["hello"]
    template = "{{x}} {a}: {b} end"
    assert texts_of([{"prompt": "{x} 1: 2 end"}], process({"label": "q"}, template)) == ["1: 2"]


def test_a_sample_of_the_training_rows_is_drawn_by_the_seed() -> None:
    every = rows({str(number): "a" for number in range(20)})
    assert sampled(every, 7, 5) == sampled(every, 7, 5)
    assert sampled(every, 7, 5) != sampled(every, 8, 5)
    assert len(sampled(every, 7)) == 20


def test_the_nearest_neighbours_text_is_given() -> None:
    train = rows({"what is the water price": "15 euros", "水费多少钱": "15元", "where is the office": "Main street"})
    found = baseline_answers("text", train, rows({"water price please": "", "请问水费": ""}), process({"text": "answer"}))
    assert found["nearest_neighbour"].outputs == ["15 euros", "15元"]
    assert found["majority"].outputs == ["15 euros"] * 2


ORDERS = {
    f"Send {count} {item} to {name}, {pace}": {"count": count, "name": name, "pace": mark}
    for count, item in ((3, "pens"), (12, "cups"), (40, "lamps"))
    for name in ("Anna", "Bo", "Carl")
    for pace, mark in (("quickly", "urgent"), ("no hurry", "normal"))
}
FIELDS = {"count": {"type": "integer", "verbatim": True}, "name": {"verbatim": True}, "pace": {"values": ["urgent", "normal"]}}


def test_a_form_is_filled_by_choosing_and_by_finding() -> None:
    test = rows({"Send 77 cups to Dora, quickly": None, "Send 5 pens to Bo, no hurry": None})
    found = baseline_answers("fields", rows(ORDERS), test, process({"fields": FIELDS}))
    assert found["tfidf_linear"].outputs == [{"count": 77, "name": "Dora", "pace": "urgent"}, {"count": 5, "name": "Bo", "pace": "normal"}]
    assert found["majority"].outputs[0] == {"count": 12, "name": "Anna", "pace": "normal"}


def test_a_field_that_is_mostly_absent_is_absent_from_the_majority_form() -> None:
    declared = process({"fields": {"a": {"optional": True}, "b": {"optional": True}}})
    assert majority("fields", [{"a": "1"}, {"a": "1", "b": "2"}, {"a": "1"}], declared) == {"a": "1"}


def test_which_fields_are_chosen_and_which_are_found() -> None:
    many = [json.dumps(str(number)) for number in range(60)]
    assert is_closed(OutputField(values=("a", "b")), many)
    assert is_closed(OutputField(), ['"a"', "null"])
    assert not is_closed(OutputField(), many)
    assert not is_closed(OutputField(verbatim=True), ['"a"'])


def test_true_values_are_marked_where_they_stand_and_read_back_as_they_stand() -> None:
    fields = {"customer": OutputField(), "items": OutputField(list=True), "count": OutputField(type="integer", list=True)}
    text = "成都恒兴公司 订 纸杯 30 个, paper Cups 5"
    tokens = tokens_of(text)
    tags = tags_of(text, tokens, {"customer": "成都恒兴公司", "items": ["纸杯", "Paper cups"], "count": [30, 5]}, fields)
    assert fields_in(text, tokens, tags, fields) == {"customer": "成都恒兴公司", "items": ["纸杯", "paper Cups"], "count": [30, 5]}


def test_a_value_inside_a_word_or_nowhere_is_not_marked() -> None:
    text = "1234 pens"
    assert tags_of(text, tokens_of(text), {"a": "pen", "b": "12", "c": "gone"}, dict.fromkeys("abc", OutputField())) == ["O", "O"]


def test_a_text_that_does_not_fit_the_declared_type_is_no_value() -> None:
    assert typed(OutputField(type="integer"), "30") == 30
    assert typed(OutputField(type="integer"), "many") is None
    assert typed(OutputField(type="number"), "1,200.5") == 1200.5
    assert typed(OutputField(type="date"), "tomorrow") is None
    assert typed(OutputField(type="integer", maximum=10), "30") is None
