from typing import Any

import pytest

from tasks.declaration import parse_process
from tasks.process import Column, Process
from tasks.records import Record
from tasks.repairs import mend, repair


def process_of(columns: dict[str, Any], labels: list[str] | None = None) -> Process:
    return parse_process(
        {
            "name": "t",
            "owner": "o",
            "records": {"source": "a.csv", "columns": columns},
            "sample": {"prompt": "{text}"},
            "output": {"label": "queue", **({"labels": labels} if labels else {})},
            "gate": [{"metric": "accuracy", "at_least": 0.5}],
        },
        "test",
    )


def record(**values: Any) -> Record:
    return Record("1", values, "a.csv", 2)


@pytest.mark.parametrize(
    ("type", "came", "value"),
    [
        ("integer", "5", 5),
        ("integer", " 1,234 ", 1234),
        ("integer", "１２", 12),
        ("integer", 7.0, 7),
        ("integer", "forty", "forty"),
        ("integer", "1.5", "1.5"),
        ("integer", "1,23", "1,23"),
        ("integer", "N/A", "N/A"),
        ("integer", "  ", None),
        ("integer", True, True),
        ("number", "1,234.50", 1234.5),
        ("number", "-3", -3),
        ("number", "123,456,789,012,345,678", 123456789012345678),
        ("number", "1" + ",000" * 200, "1" + ",000" * 200),
        ("integer", "1" + ",000" * 6, "1" + ",000" * 6),
        ("integer", "1" + ",000" * 200 + ".0", "1" + ",000" * 200 + ".0"),
        ("boolean", "是", True),
        ("boolean", "No", False),
        ("boolean", "maybe", "maybe"),
        ("date", "2024年3月5日", "2024-03-05"),
        ("date", "2024/3/5", "2024-03-05"),
        ("date", "3/4/2024", "3/4/2024"),
        ("date", "2024-02-31", "2024-02-31"),
        ("string", 12345, 12345),
        ("string", "a\0b", "ab"),
    ],
)
def test_a_value_is_mended_where_only_one_meaning_is_possible(type: Any, came: Any, value: Any) -> None:
    found, _ = mend(came, Column(type=type))
    assert found == value and isinstance(found, bool) == isinstance(value, bool)


def test_a_spelling_variant_of_a_label_becomes_the_label_and_is_noted_without_the_value() -> None:
    process = process_of({"text": {}}, ["card_arrival", "top_up"])
    for variant in ("CARD ARRIVAL ", "ｃａｒｄ＿ａｒｒｉｖａｌ", "card-arrival"):
        mended = repair(process, record(text="x", queue=variant), ["card_arrival", "top_up"])
        assert mended.values["queue"] == "card_arrival"
        assert mended.repairs == ("queue: spelling of a known value",)


def test_a_variant_that_could_be_two_values_stays() -> None:
    assert mend("TOP UP", Column(values=("top_up", "top up"))) == ("TOP UP", [])


def test_an_unknown_label_stays_for_validation_to_refuse() -> None:
    assert repair(process_of({"text": {}}), record(text="x", queue="teleport"), ["a", "b"]).values["queue"] == "teleport"


def test_a_whole_number_is_a_label_too_and_a_blank_one_is_none() -> None:
    process = process_of({"text": {}})
    assert repair(process, record(text="x", queue=3), None).values["queue"] == "3"
    assert "queue" not in repair(process, record(text="x", queue="  "), None).values


def test_a_table_may_hold_lists_as_json_or_with_semicolons() -> None:
    column = Column(list=True, values=("red", "blue"))
    assert mend('["Red", "blue"]', column)[0] == ["red", "blue"]
    assert mend("red；BLUE", column)[0] == ["red", "blue"]


@pytest.mark.parametrize("text", ['["\\ud800"]', "[1e999]", f"[{10**400}]", "[" * 80 + "]" * 80, '[{"a": 1, "a": 2}]'])
def test_json_in_a_cell_that_could_not_be_stored_stays_the_text_that_it_is(text: str) -> None:
    assert mend(text, Column(type="object", list=True)) == (text, [])


def test_a_record_in_order_is_not_touched() -> None:
    process = process_of({"text": {}, "age": "integer"})
    came = record(text="0<=X<200", age=5, queue="a")
    assert repair(process, came, ["a", "b"]) == came
