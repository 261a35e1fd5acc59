"""Files of predictions: whole, streamed, and harmless in a spreadsheet."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow.parquet
import pytest

from tasks.declaration import parse_process
from tasks.process import Process
from tasks.rows import READERS
from tasks.sinks import WRITERS, DeadLetter, Predicted, json_lines, safe_cell


def process(kind: str) -> Process:
    fields = {"customer": {}, "quantity": {"type": "integer"}, "products": {"list": True}}
    declared = {
        "name": "p",
        "owner": "tests",
        "records": {"source": "a.jsonl"},
        "sample": {"prompt": "{mail}"},
        "output": {"label": {"label": "queue"}, "fields": {"fields": fields}}[kind],
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    return parse_process(declared, "test")


def written(folder: Path, kind: str, output_format: str, *outputs: Any, fields: dict[str, float] | None = None) -> Path:
    path = folder / f"predictions.{output_format}"
    with WRITERS[output_format](path, process(kind)) as write:
        for number, output in enumerate(outputs):
            write([Predicted(f"r-{number}", output, 0.5, "v1", number + 1, fields)])
        write([])
    return path


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-5", "@SUM(A1)", "＝1+1", "＋1", "－1", "＠x", "  =1", "\u3000＝1", "\u200b=1", "\ufeff+1", "﹦1"]
)
def test_a_text_that_a_spreadsheet_would_run_is_led_by_an_apostrophe(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["\tx", "\rx", "\nx", "\x00=1"])
def test_tabs_line_breaks_and_control_characters_at_the_beginning_do_not_help(text: str) -> None:
    assert str(safe_cell(text)).startswith(("'", "\N{REPLACEMENT CHARACTER}"))


@pytest.mark.parametrize("value", [-5, -2.5, 0, 1e-9])
def test_real_numbers_stay_numbers(value: float) -> None:
    assert safe_cell(value) is value


@pytest.mark.parametrize("text", ["", "a=b", "退款", "1-2", "x\ny"])
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert safe_cell(text) == text


def test_csv_opens_in_excel_as_utf8_and_reads_back(tmp_path: Path) -> None:
    raw = written(tmp_path, "label", "csv", "退款", 'say "hi",\nthen', "=cmd()", "a\0b").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline="")))
    assert [row["output"] for row in rows] == ["退款", 'say "hi",\nthen', "'=cmd()", "a\N{REPLACEMENT CHARACTER}b"]
    assert rows[0] | {"output": ""} == {"record_id": "r-0", "output": "", "confidence": "0.5", "model_version": "v1", "line": "1"}


def test_csv_of_fields_has_a_column_for_each_field_and_the_object_as_json(tmp_path: Path) -> None:
    path = written(tmp_path, "fields", "csv", {"customer": "=Evil", "quantity": -3, "products": ["茶", "=x"]}, {"customer": "B"})
    first, second = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    assert (first["output.customer"], first["output.quantity"], first["output.products"]) == ("'=Evil", "-3", '["茶", "=x"]')
    assert json.loads(first["output"]) == {"customer": "=Evil", "quantity": -3, "products": ["茶", "=x"]}
    assert (second["output.customer"], second["output.quantity"]) == ("B", "")


def test_json_lines_keep_every_value_half_surrogates_too(tmp_path: Path) -> None:
    lines = written(tmp_path, "fields", "jsonl", {"customer": "\ud800=茶", "quantity": -3}).read_bytes().splitlines()
    assert json.loads(lines[0])["output"] == {"customer": "\ud800=茶", "quantity": -3}


def test_parquet_has_fixed_types_even_without_a_row(tmp_path: Path) -> None:
    kinds = {"record_id": "string", "output": "string", "confidence": "double", "model_version": "string", "line": "int64"}
    for outputs in ([], ["a", "\ud800"]):
        table = pyarrow.parquet.read_table(written(tmp_path, "label", "parquet", *outputs))
        assert {field.name: str(field.type) for field in table.schema} == kinds
        assert table.num_rows == len(outputs)


def test_dead_letters_keep_what_came(tmp_path: Path) -> None:
    letter = DeadLetter("r", 3, "reading", "unreadable", "not whole JSON", 1, "a.jsonl", "0" * 64, '{"a": \udcff')
    with json_lines(tmp_path / "dead.jsonl") as write:
        write([letter])
    assert json.loads((tmp_path / "dead.jsonl").read_text())["content"] == letter.content


def test_a_workbook_reads_back_texts_are_no_formulas_and_none_is_longer_than_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.sinks.SHEET_ROWS", 3)
    outputs = [{"customer": "=A1"}, {"customer": "a\0\ud800茶", "quantity": 10**17}, {"customer": "x" * 40_000, "products": ["茶"]}]
    book = openpyxl.load_workbook(written(tmp_path, "fields", "xlsx", *outputs))
    rows = [row for sheet in book for row in sheet.iter_rows(min_row=2)]
    assert [cell.data_type for cell in rows[0]] == ["s", "s", "n", "s", "n", "n", "s", "n", "n"]
    assert rows[0][6].value == "=A1" and json.loads(rows[0][1].value) == {"customer": "=A1"}
    assert (rows[1][6].value, rows[1][7].value) == ("a\N{REPLACEMENT CHARACTER}?茶", str(10**17))
    assert len(rows[2][6].value) == 32_767 and rows[2][6].value.endswith("x…")
    assert [sheet.max_row for sheet in book] == [3, 2]


@pytest.mark.parametrize("output_format", list(WRITERS))
def test_every_format_tells_how_sure_each_field_is_and_of_labels_has_no_such_column(tmp_path: Path, output_format: str) -> None:
    sure = {"customer": 0.9, "quantity": 0.25}
    for fields in (sure, None):
        path = written(tmp_path, "fields", output_format, {"customer": "Ann", "quantity": 3}, fields=fields)
        (row,) = READERS[output_format](path, None)
        found = row["fields"]
        assert (json.loads(found) if found and output_format != "jsonl" else found or None) == fields
    (row,) = READERS[output_format](written(tmp_path, "label", output_format, "a"), "r-0")
    assert "fields" not in row
