"""Records: paths find what they name, values read as a person writes them, lines come back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import Record, as_text, lookup, read_records, write_lines

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
)


@pytest.mark.parametrize(
    ("values", "path", "found"),
    [
        ({"a": {"b": {"c": 1}}}, "a.b.c", 1),
        ({"a.b": {"c": 1}}, "a.b.c", 1),
        ({"a": {"b.c": 1}}, "a.b.c", 1),
        ({"a.b.c": 1, "a": {"b": {"c": 2}}}, "a.b.c", 1),
        ({"a.b": {"x": 1}, "a": {"b": {"c": 2}}}, "a.b.c", 2),
        ({"a": "text"}, "a.b", None),
        ({"a": {"b": False}}, "a.b", False),
        ({"a": None}, "a", None),
        ({}, "a.b", None),
        ({"a": 1}, "", None),
    ],
)
def test_a_path_finds_its_value(values: dict[str, Any], path: str, found: Any) -> None:
    assert lookup(values, path) == found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (2.0, "2"),
        (2.5, "2.5"),
        (1e22, "10000000000000000000000"),
        (["a", "b\nc"], "a, b; c"),
        ({"a": 1, "b": "", "c": ["x"], "d": {}, "e": 0}, "a: 1\nc: x\ne: 0"),
        ([{"sku": "A1", "quantity": 2}], "sku: A1; quantity: 2"),
        ("包裹", "包裹"),
    ],
)
def test_a_value_reads_as_a_person_writes_it(value: Any, text: str) -> None:
    assert as_text(value) == text


@given(st.lists(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=3), max_size=3))
def test_records_come_back_from_their_lines(tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("records") / "below" / "records.jsonl"
    records = [Record(f"r{line}", each, "a\u2028b.csv", line, ("trimmed",), "test") for line, each in enumerate(values)]
    assert write_lines(path, records) == len(records)
    assert list(read_records(path)) == records
