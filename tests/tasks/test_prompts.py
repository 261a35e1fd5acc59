"""Prompts: what the model reads and writes, and what is understood of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.declaration import merge, parse_process
from tasks.process import OutputField, Process
from tasks.prompts import completion_of, output_of, parse, prompt_of, regions_in, regions_of, render, typed, values_in

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
BASE: dict[str, Any] = {
    "name": "p",
    "owner": "o",
    "records": {"source": "s.jsonl"},
    "sample": {"prompt": "Message: {text}\nAnswer:"},
    "output": {"label": "queue"},
    "gate": [{"metric": "answered", "at_least": 0.5}],
}
FIELDS = {
    "date": {"type": "date", "optional": True},
    "count": {"type": "integer", "optional": True, "minimum": 1, "maximum": 9},
    "names": {"list": True, "optional": True},
    "size": {"values": ["small", "large"], "optional": True},
    "paid": {"type": "boolean", "optional": True},
    "sum": {"type": "number", "optional": True},
}
FORM = {"output": {"label": None, "fields": FIELDS, "within": "output"}}


def process(changes: dict[str, Any] | None = None) -> Process:
    return parse_process(merge(BASE, changes or {}), "test")


def test_a_template_takes_paths_and_keeps_doubled_braces() -> None:
    assert render('{{"a": {in.put}}} { b }', {"in": {"put": 1.0}, "b": "x{b}"}) == '{"a": 1} x{b}'


def test_a_missing_value_leaves_nothing() -> None:
    assert prompt_of(process(), {"text": None}) == "Message: \nAnswer:"


def test_the_input_is_cleaned_and_the_template_is_not() -> None:
    assert prompt_of(process(), {"text": "a\r\nb\x00"}) == "Message: a\nb\nAnswer:"


def test_an_object_stands_in_the_prompt_a_line_for_each_key() -> None:
    assert (
        prompt_of(process({"sample": {"prompt": "{input}"}}), {"input": {"name": "店", "food": None, "n": [1, 2]}}) == "name: 店\nn: 1, 2"
    )


def test_the_places_of_values_are_found_in_a_prompt_alone() -> None:
    asked = process({"sample": {"prompt": "{{Message}} of {who}: {text}{more}\nAnswer:"}})
    values = {"who": "Li", "text": "of: x", "more": "\nAnswer: y"}
    prompt = prompt_of(asked, values)
    assert [prompt[start:end] for start, end in regions_in(asked, prompt)] == ["Li", "of: x\nAnswer: y"]
    assert regions_of(asked, values)[0] == regions_in(asked, prompt)[0]
    assert regions_in(asked, prompt_of(asked, {})) == []
    assert [start == stop for start, stop in values_in(asked, prompt_of(asked, {}))] == [True, True, True]
    assert regions_in(asked, "something else") == [(0, 14)]


@given(TEXT.filter(lambda text: text.strip() != ""), st.sampled_from([" {queue}", "Queue: {queue}.", "{queue}"]))
def test_a_spelled_label_comes_back(label: str, template: str) -> None:
    spelled = process({"sample": {"completion": template, "label_tokens": False}})
    assert parse(spelled, completion_of(spelled, label.strip())) == label.strip()


def test_a_label_that_is_a_token_is_the_whole_completion_and_comes_back() -> None:
    assert completion_of(process(), "a b") == "<|label:a b|>"
    assert parse(process(), "<|label:a b|>") == "a b"


def test_a_label_outside_the_declared_ones_is_no_output() -> None:
    closed = process({"output": {"labels": ["a", "b"]}})
    assert parse(closed, "<|label:a|>") == "a"
    with pytest.raises(ValueError, match="not a declared label"):
        parse(closed, "c")


@given(TEXT)
def test_a_text_comes_back_as_it_was_cleaned(text: str) -> None:
    writing = process({"output": {"label": None, "text": "answer"}, "sample": {"completion": "Reply: {answer}"}})
    completion = completion_of(writing, text)
    if completion == "Reply: ":
        with pytest.raises(ValueError, match="empty"):
            parse(writing, completion)
    else:
        assert completion_of(writing, parse(writing, completion)) == completion


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "date": st.dates().map(str),
            "count": st.integers(1, 9),
            "names": st.lists(TEXT),
            "size": st.sampled_from(["small", "large"]),
            "paid": st.booleans(),
            "sum": st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        },
    )
)
def test_fields_come_back_whatever_stands_in_them(output: dict[str, Any]) -> None:
    assert parse(process(FORM), completion_of(process(FORM), output)) == output


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"sum": NaN}', "not JSON"),
        ('{"sum": 1e999}', "not JSON"),
        ('{"names": ["\\ud800"]}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"other": 1}', "undeclared field"),
        ('{"count": "3"}', "field count is not a integer"),
        ('{"count": 10}', "field count"),
        ('{"count": true}', "field count"),
        ('{"count": [3]}', "field count is a list, one value is declared"),
        ('{"names": "Li"}', "field names is one value, a list is declared"),
        ('{"names": [1]}', "field names"),
        ('{"size": "huge"}', "field size"),
        ('{"date": "2024-02-30"}', "field date"),
        ('{"date": 20240101}', "field date"),
        ('{"paid": 1}', "field paid"),
        ('{"date": null}', "field date"),
    ],
)
def test_a_completion_that_breaks_the_declaration_states_no_output(completion: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(process(FORM), completion)


def test_a_required_field_must_be_there() -> None:
    form = process(merge(FORM, {"output": {"fields": {"size": {"optional": False}}}}))
    with pytest.raises(ValueError, match="required fields are missing: size"):
        parse(form, "{}")


def held(field: dict[str, Any]) -> Process:
    return process({"output": {"label": None, "fields": {"it": field}}})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ({"type": "date"}, "2024-01-01", "20240101"),
        ({"type": "date"}, "2024-01-01", "2024-W01-1"),
        ({"type": "date", "values": ["2024-01-01"]}, "2024-01-01", "2024-01-02"),
        ({"pattern": "^[A-Z]{2}-[0-9]{4}$"}, "AB-1234", "ab-1234"),
        ({"max_characters": 3}, "中文字", "four"),
        ({"list": True, "pattern": "^[0-9]+$"}, ["12", "3"], ["12", "three"]),
        ({"list": True, "type": "date"}, ["2024-01-01"], ["20240101"]),
        ({"type": "number", "minimum": 0.5}, 1, 0.25),
    ],
)
def test_what_a_record_may_not_hold_no_output_may_state(field: dict[str, Any], good: Any, bad: Any) -> None:
    assert parse(held(field), json.dumps({"it": good})) == {"it": good}
    with pytest.raises(ValueError, match="field it is not a"):
        parse(held(field), json.dumps({"it": bad}))


def test_a_written_text_or_label_keeps_the_length_and_pattern_of_its_column() -> None:
    columns = {"records": {"columns": {"answer": {"max_characters": 5, "pattern": "^[a-z ]+$"}}}}
    for output, sample in (({"label": None, "text": "answer"}, {}), ({"label": "answer"}, {"label_tokens": False})):
        spelled = process(columns | {"output": output, "sample": sample})
        assert parse(spelled, " abc") == "abc"
        for wrong in (" abcdef", " ABC"):
            with pytest.raises(ValueError, match="length or pattern"):
                parse(spelled, wrong)


def test_empty_fields_are_left_out_and_zero_is_not_empty() -> None:
    values = {"output": {"count": 0, "names": [], "size": "", "date": None, "paid": False}}
    assert output_of(process(FORM), values) == {"count": 0, "paid": False}


@pytest.mark.parametrize("values", [{"text": "x"}, {"output.count": None, "text": "x"}, {"output": None}])
def test_a_record_without_its_object_of_fields_is_not_labelled(values: dict[str, Any]) -> None:
    assert output_of(process(FORM), values) is None


def test_an_object_without_any_field_is_an_output() -> None:
    assert output_of(process(FORM), {"output": {}}) == {}
    assert json.loads(completion_of(process(FORM), {})) == {}


def test_fields_beside_the_input_are_an_output_only_when_one_is_there() -> None:
    flat = process({"output": {"label": None, "fields": {"count": "integer", "size": {"optional": True}}}})
    assert output_of(flat, {"text": "x"}) is None
    assert output_of(flat, {"text": "x", "count": 2}) == {"count": 2}


@pytest.mark.parametrize(("value", "label"), [("a", "a"), (3, "3"), (3.0, "3"), (False, "no"), ("", None), (None, None)])
def test_a_label_is_its_text(value: Any, label: str | None) -> None:
    assert output_of(process(), {"queue": value}) == label


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", 1234),
        ("-1,234,567.89", -1234567.89),
        ("１，２３４", 1234),
        ("5.0", 5.0),
        ("+7", 7),
        ("1e3", 1000.0),
        *dict.fromkeys(("NaN", "Inf", "-Infinity", "1e999", "12,50", "5,5,5", "1234,567", "1_000", "1 234", "", "."), None).items(),
    ],
)
def test_a_text_is_a_number_only_where_it_can_be_no_other(text: str, value: Any) -> None:
    found = typed(OutputField(type="number"), text)
    assert found == value and type(found) is type(value)
    assert typed(OutputField(type="integer"), text) == (value if isinstance(value, int) else None)
