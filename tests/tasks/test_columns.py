"""Columns: values that repeat are tokens with their names, numbers are told by the part of their range; texts stay texts."""

from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from typing import Any

import pytest

from tasks.columns import PARTS, Columns, edges_of, learn_columns, names_of
from tasks.process import Process
from tasks.records import NUMBER
from tasks.tokenising import Encoder, Sample, learned_columns, make_tokenizer

TEMPLATE = "Status: {status}\nAmount: {amount}\n备注：{note}\nDecision:"


def process(template: str = TEMPLATE, **sample: Any) -> Process:
    declared = {
        "name": "credit",
        "owner": "risk",
        "records": {"source": "sample.jsonl"},
        "sample": {"prompt": template, **sample},
        "output": {"label": "decision", "labels": ["no", "yes"]},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
    }
    return Process.model_validate(declared)


def samples(count: int = 200) -> Iterator[Sample]:
    for row in range(count):
        inputs = {"status": ("open", "已结清")[row % 2], "amount": row * 10, "note": f"客户 {row} called"}
        prompt = TEMPLATE
        for path, value in inputs.items():
            prompt = prompt.replace(f"{{{path}}}", str(value))
        yield Sample(str(row), prompt, "<|label:yes|>", "yes", inputs, {}, prompt)


def encoder(declared: Process) -> tuple[Encoder, Any]:
    tokenizer = make_tokenizer(declared, (sample.prompt for sample in samples()), ["no", "yes"])
    return Encoder(declared, tokenizer, None, learned_columns(declared, tokenizer, samples())), tokenizer


def test_values_that_repeat_are_tokens_with_their_names_and_texts_are_not() -> None:
    found = learn_columns(process(), samples())
    assert found.tokens == ("Status: open", "Status: 已结清", "\nAmount: ")
    assert set(found.parts) == {"\nAmount: "}
    assert not found.whole
    assert learn_columns(process("Status: {status}\nAmount: {amount}\nDecision:"), samples()).whole


def test_a_far_number_or_a_word_among_many_numbers_ends_no_range() -> None:
    def with_strange(value: Any) -> Iterator[Sample]:
        for sample in samples():
            yield replace(sample, inputs=sample.inputs | {"amount": value}) if sample.record_id == "7" else sample

    parts = learn_columns(process(), samples()).parts["\nAmount: "]
    for value in (1e30, "unknown"):
        assert learn_columns(process(), with_strange(value)).parts["\nAmount: "] == pytest.approx(parts, abs=20)


def test_the_parts_of_a_range_have_as_many_records_each() -> None:
    edges = edges_of({str(value): 1 for value in range(800)})
    assert edges == [100, 200, 300, 400, 500, 600, 700]
    assert edges_of({"1": 990, "2": 5, "3.5": 5}) == []
    assert len(edges_of({str(value): value for value in range(1, 100)})) < PARTS


def test_a_number_is_told_with_its_part_and_the_rest_as_it_is_written() -> None:
    asked, tokenizer = encoder(process())
    low, high, none = asked.prompts([f"Status: open\nAmount: {amount}\n备注：x\nDecision:" for amount in ("30", "1999", "unknown")])
    tokens = tokenizer.convert_ids_to_tokens
    assert tokens(low)[:5] == ["Status: open", "\nAmount: ", "<|part:0|>", "3", "0"]
    assert tokens(high)[2] == f"<|part:{PARTS - 1}|>"
    assert not any(token.startswith("<|part") for token in tokens(none))


def test_training_and_asking_see_the_same_tokens() -> None:
    asked, _ = encoder(process())
    rows = list(samples(20))
    assert [prompt for prompt, _, _ in asked.encode(rows)] == asked.prompts([row.prompt for row in rows])


def test_a_text_cannot_write_a_part_itself() -> None:
    asked, tokenizer = encoder(process())
    [row] = asked.prompts(["Status: open\nAmount: 5\n备注：<|part:7|>\nDecision:"])
    assert tokenizer.convert_ids_to_tokens(row).count("<|part:7|>") == 0


def test_columns_are_learned_for_labels_from_scratch_only() -> None:
    assert learn_columns(process(label_tokens=False), samples()) == Columns()


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{a} {b}", {}),  # nothing tells them apart
        ("A: {a}, {{B}}: {b}", {"a": "A: ", "b": ", {B}: "}),
        ("x={a};x={b}", {"a": "x=", "b": ";x="}),
        ("| {a} | {b} | {c}", {}),
    ],
)
def test_a_name_is_what_stands_before_a_value_and_before_no_other(template: str, names: dict[str, str]) -> None:
    assert names_of(template) == names


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[(text, True) for text in ("0.30000000000000004", "4.8e-05", "+7", ".5", "-12.")],
        *[(text, False) for text in ("1,200", "12 EUR", "e5", ".", "", "9" * 19, "1e100")],
    ],
)
def test_numbers_as_programs_write_them_are_numbers(text: str, number: bool) -> None:
    assert (NUMBER.fullmatch(text) is not None) == number
    if number:
        assert isfinite(float(text))
