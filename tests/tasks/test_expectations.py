from datetime import date
from typing import Any

import pytest

from tasks.arguments import mistakes_in
from tasks.declaration import parse_process
from tasks.expectations import ALLOWED, OUTPUT, TOKENS, TYPE, columns_of, computed_names, derived, look, preview
from tasks.process import Column
from tasks.suites import Finding, check_rows

ROWS: list[dict[str, Any]] = [
    {"text": "abc", "age": 3, "other": 3, "day": "2024-01-02"},
    {"text": "", "age": 7, "other": 2, "day": "02.01.2024"},
    {"text": None, "age": None, "other": 5, "day": None},
    {"text": "中文字", "age": 5, "other": None, "day": "2024-13-01"},
    {"text": "b c", "age": 5, "other": 5, "day": "2024-1-2"},
]
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_(constants|parse)' is deprecated:DeprecationWarning")  # imported by GX

EXAMPLES: list[tuple[str, dict[str, Any]]] = [
    ("expect_column_values_to_not_be_null", {"column": "text"}),
    ("expect_column_values_to_be_null", {"column": "text"}),
    ("expect_column_values_to_be_in_set", {"column": "age", "value_set": [3, 5]}),
    ("expect_column_values_to_not_be_in_set", {"column": "text", "value_set": ["abc"]}),
    ("expect_column_values_to_be_between", {"column": "age", "min_value": 3, "max_value": 7, "strict_min": True}),
    ("expect_column_values_to_be_between", {"column": "age", "max_value": 7, "strict_max": True}),
    ("expect_column_value_lengths_to_be_between", {"column": "text", "min_value": 1, "max_value": 3}),
    ("expect_column_value_lengths_to_equal", {"column": "text", "value": 3}),
    ("expect_column_values_to_match_regex", {"column": "text", "regex": "b"}),
    ("expect_column_values_to_not_match_regex", {"column": "text", "regex": r"^\S+$"}),
    ("expect_column_values_to_match_regex_list", {"column": "text", "regex_list": ["a", "b"], "match_on": "all"}),
    ("expect_column_values_to_match_regex_list", {"column": "text", "regex_list": ["a", "b"]}),
    ("expect_column_values_to_not_match_regex_list", {"column": "text", "regex_list": ["a", "中"]}),
    ("expect_column_values_to_match_strftime_format", {"column": "day", "strftime_format": "%Y-%m-%d"}),
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "age", "column_B": "other"}),
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "age", "column_B": "other", "or_equal": True}),
    ("expect_column_pair_values_to_be_equal", {"column_A": "age", "column_B": "other"}),
    ("expect_select_column_values_to_be_unique_within_record", {"column_list": ["age", "other"]}),
    ("expect_multicolumn_sum_to_equal", {"column_list": ["age", "other"], "sum_total": 10}),
]


def process_of(**more: Any) -> Any:
    columns = {"text": {"max_characters": 10}, "age": {"type": "integer", "minimum": 0, "optional": True}}
    declared: dict[str, Any] = {
        "name": "t",
        "owner": "o",
        "records": {"source": "a.jsonl", "columns": columns},
        "sample": {"prompt": "{text}"},
        "output": {"label": "queue", "labels": ["a", "b"]},
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    return parse_process(declared | more, "test")


@pytest.mark.parametrize(("type", "kwargs"), EXAMPLES)
def test_the_preview_says_what_great_expectations_says(type: str, kwargs: dict[str, Any]) -> None:
    finding = Finding(type, kwargs, "declared")
    rows = [row | {TYPE.format(name): None if value is None else "string" for name, value in row.items()} for row in ROWS]
    check_rows([finding], rows, 0)
    assert preview(type, kwargs, ROWS).failed == len(finding.unexpected)


def test_every_expectation_about_single_rows_has_an_example_above() -> None:
    assert {type for type, _ in EXAMPLES} == {type for type, allowed in ALLOWED.items() if allowed.scope == "row"}


def test_every_allowed_type_is_one_that_great_expectations_has() -> None:
    from great_expectations.expectations.registry import get_expectation_impl

    for type, allowed in ALLOWED.items():
        names = get_expectation_impl(type).__fields__
        assert {*allowed.required, *allowed.optional, *allowed.fixed} <= set(names), type


def test_arguments_of_the_right_form_are_welcome() -> None:
    columns = {name: Column() for name in ("text", "day")} | {name: Column(type="integer") for name in ("age", "other")}
    for type, kwargs in EXAMPLES:
        assert not list(mistakes_in(type, kwargs, columns)), type
    for type, kwargs in derived(process_of(), ("a", "b")):
        if kwargs["column"] in columns:
            assert not list(mistakes_in(type, kwargs, columns)), type


def test_a_day_of_yaml_is_compared_as_the_text_that_records_hold() -> None:
    expectation = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "day", "min_value": date(2024, 1, 31)}}
    records = {"source": "a.jsonl", "columns": {"day": "date"}}
    assert process_of(records=records, expectations=[expectation]).expectations[0].kwargs["min_value"] == "2024-01-31"


def test_what_only_the_whole_set_can_tell_is_left_to_validation() -> None:
    assert str(preview("expect_table_row_count_to_equal", {"value": 5}, ROWS)) == "checked in validation"
    assert str(preview("expect_column_values_to_be_between", {"column": "text", "min_value": 1}, ROWS)).startswith("cannot be computed")


def test_a_declaration_gives_its_own_expectations() -> None:
    found = derived(process_of(), ("a", "b"))
    assert ("expect_column_values_to_not_be_null", {"column": "text"}) in found
    assert ("expect_column_values_to_not_be_null", {"column": "age"}) not in found
    assert ("expect_column_values_to_be_in_set", {"column": "queue", "value_set": ["a", "b"]}) in found
    assert ("expect_column_values_to_be_between", {"column": "age", "min_value": 0}) in found
    assert ("expect_column_values_to_be_between", {"column": TOKENS, "min_value": 1, "max_value": 512}) in found
    assert found[-1] == ("expect_column_values_to_be_unique", {"column": "id"})
    assert all(type in ALLOWED for type, _ in found)


@pytest.mark.parametrize("name", [TOKENS, OUTPUT, "type of text", "visible characters of text", "faults in text"])
def test_a_column_cannot_have_the_name_of_a_computed_one(name: str) -> None:
    for records in ({"source": "a.jsonl", "columns": ["text", name]}, {"source": "a.jsonl", "key": name}):
        with pytest.raises(ValueError, match=f"{name!r} is what validation calls a column of its own; give it another name"):
            process_of(records=records)
    assert process_of(records={"source": "a.jsonl", "columns": ["text", "type of contract"]})


def test_every_column_that_a_record_does_not_bring_is_known_as_computed() -> None:
    process = process_of(output={"fields": {"tags": {"list": True}}})
    row = look(process, "1", {"text": "abc", "age": 5, "tags": ["x"]})
    named = {name for _, kwargs in derived(process, None) for name in columns_of(kwargs)}
    assert row.keys() | named == {"id", *process.columns} | computed_names(process.columns) & (row.keys() | named)


def test_a_value_of_another_type_shows_in_its_type_and_not_as_a_value() -> None:
    row = look(process_of(), "1", {"text": ["abc"], "age": "forty", "queue": "a"})
    assert row["type of text"] == "list of string" and row["text"] is None
    assert row["type of age"] == "string" and row["age"] is None
    assert look(process_of(), "1", {"text": "\u200b\u3000<br>"})["visible characters of text"] == 0


def test_the_elements_of_a_list_keep_the_column_s_bounds() -> None:
    fields = {"fields": {"tags": {"list": True, "values": ["x", "y"]}}}
    row = look(process_of(output=fields), "1", {"text": "abc", "tags": ["x", "z"]})
    assert row["faults in tags"] == 1 and row["type of tags"] == "list of string" and row[OUTPUT] == "given"
