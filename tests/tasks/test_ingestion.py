import io
import json
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pytest
from pyarrow import parquet

from infra.store import open_store
from tasks.artifacts import fetch_file, read_json
from tasks.declaration import load_process
from tasks.ingestion import ingest
from tasks.process import Process
from tasks.records import Record, read_records
from tasks.runs import begin

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:openpyxl")

ROW = '{"id": "%s", "text": "hello", "queue": "a"}\n'


def process_of(folder: Path, **records: Any) -> Process:
    folder.mkdir(exist_ok=True)
    declared = {
        "name": "tickets",
        "owner": "o",
        "records": {"source": "a.jsonl", "columns": ["text", "queue"], **records},
        "sample": {"prompt": "{text}"},
        "output": {"label": "queue"},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
    }
    (folder / "process.yaml").write_text(json.dumps(declared), encoding="utf-8")
    return load_process(str(folder), folder)


def ingested(process: Process, folder: Path) -> tuple[list[Record], dict[str, Any]]:
    raw = ingest.fn(begin(process, "train"))
    records = list(read_records(fetch_file(open_store(), raw, "records.jsonl", folder)))
    report: dict[str, Any] = read_json(open_store(), raw, "report.json")
    assert raw.rows == report["rows"]
    return records, report


def test_fixed_files_give_their_records_a_split(tmp_path: Path) -> None:
    process = process_of(tmp_path / "p", validation="v.jsonl", test="t.jsonl")
    for name in "avt":
        (tmp_path / "p" / f"{name}.jsonl").write_text(ROW % name, encoding="utf-8")
    records, report = ingested(process, tmp_path)
    assert [(record.id, record.split) for record in records] == [("a", ""), ("v", "validation"), ("t", "test")]
    assert [file["rows"] for file in report["files"]] == [1, 1, 1]


def test_labelled_files_of_the_inbox_are_added_by_key_and_others_left_with_the_reason(tmp_path: Path) -> None:
    process = process_of(tmp_path / "p")
    (tmp_path / "p" / "a.jsonl").write_text(ROW % "a" + "broken\n", encoding="utf-8")
    store = open_store()
    store.write("tickets/inbox/2.csv", b"id,text,queue\n2,hello,b\n")
    store.write("tickets/inbox/1.jsonl", (ROW % "1").encode())
    store.write("tickets/inbox/new.csv", b"id,text\n3,hello\n")
    store.write("tickets/inbox/odd.xlsx", b"PK\x03\x04")
    records, report = ingested(process, tmp_path)
    assert [(record.id, record.file) for record in records] == [
        ("a", "a.jsonl"),
        ("1", "tickets/inbox/1.jsonl"),
        ("2", "tickets/inbox/2.csv"),
    ]
    assert report["rows"] == 4 and report["files"][0]["rejected"] == 1
    assert [file["name"] for file in report["left_out"]] == ["tickets/inbox/new.csv", "tickets/inbox/odd.xlsx"]


CANARY = "canary-7171"


def sheet_of(*rows: list[Any]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    book.save(content := io.BytesIO())
    return content.getvalue()


def parquet_of(**columns: Any) -> bytes:
    parquet.write_table(pyarrow.table(columns), content := io.BytesIO())
    return content.getvalue()


WITHOUT_HEADER = {
    "a.csv": f"17,{CANARY} speaking,{CANARY}-b\n18,foo,shipping\n".encode(),
    "twice.csv": f"17,{CANARY},{CANARY}\n18,foo,shipping\n".encode(),
    "one.csv": f"{CANARY}\n".encode(),
    "id.csv": f"id,{CANARY}\n18,foo\n".encode(),
    "a.xlsx": sheet_of([17, CANARY, "billing"], [18, "foo", "shipping"]),
    "a.parquet": parquet_of(**{CANARY: ["1"], "17": ["2"]}),
}


@pytest.mark.parametrize("name", WITHOUT_HEADER)
def test_no_value_of_a_table_without_a_header_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    caplog.set_level("DEBUG")
    process = process_of(tmp_path / "p", source=name)
    open_store().write(f"tickets/inbox/{name}", WITHOUT_HEADER[name])
    (tmp_path / "p" / name).write_bytes(WITHOUT_HEADER[name])
    with pytest.raises(ValueError, match=name) as told:
        ingest.fn(begin(process, "train"))
    (tmp_path / "p" / "a.jsonl").write_text(ROW % "a", encoding="utf-8")
    _, report = ingested(process_of(tmp_path / "p"), tmp_path)
    assert [file["name"] for file in report["left_out"]] == [f"tickets/inbox/{name}"]
    assert name in caplog.text
    assert "7171" not in caplog.text + json.dumps(report) + str(told.value)


def test_a_second_run_takes_up_what_is_there_until_a_file_changes(tmp_path: Path) -> None:
    process = process_of(tmp_path / "p")
    source = tmp_path / "p" / "a.jsonl"
    source.write_text(ROW % "a", encoding="utf-8")
    first, second = ingest.fn(begin(process, "train")), ingest.fn(begin(process, "train"))
    assert second == first
    source.write_text(ROW % "b", encoding="utf-8")
    assert ingest.fn(begin(process, "train")).sha256 != first.sha256


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    process = process_of(tmp_path / "p", source=["x.csv", "y.csv"])
    with pytest.raises(FileNotFoundError, match=r"x\.csv, .*y\.csv; see records in process.yaml"):
        ingest.fn(begin(process, "train"))


def test_a_source_without_rows_is_an_error(tmp_path: Path) -> None:
    process = process_of(tmp_path / "p")
    (tmp_path / "p" / "a.jsonl").write_text("\n\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tickets: no rows in a\.jsonl"):
        ingest.fn(begin(process, "train"))
