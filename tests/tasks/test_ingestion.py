import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import openpyxl
import pyarrow
import pytest
from pyarrow import parquet

from infra.store import LocalStore, Store, open_store
from tasks.artifacts import fetch_file, read_json
from tasks.declaration import load_process
from tasks.ingestion import copy_inbox, ingest
from tasks.process import Process
from tasks.records import Record, read_records, to_line
from tasks.runs import begin

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:openpyxl")

ROW = '{"id": "%s", "text": "hello", "queue": "a"}\n'


def process_of(folder: Path, output: dict[str, Any] | None = None, **records: Any) -> Process:
    folder.mkdir(exist_ok=True)
    columns = ["text", *(output["fields"] if output else ["queue"])]
    declared = {
        "name": "tickets",
        "owner": "o",
        "records": {"source": "a.jsonl", "columns": columns, **records},
        "sample": {"prompt": "{text}"},
        "output": output or {"label": "queue"},
        "gate": [{"metric": "answered", "at_least": 0.5}],
        "arrivals": {"settle_seconds": 0},
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


def sheet_that_breaks_off_after(count: int) -> bytes:
    """An XLSX file whose sheet ends in the middle of the row after so many."""
    whole, broken = sheet_of(["id", "text", "queue"], *([n, CANARY, "b"] for n in range(2 * count))), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as came, zipfile.ZipFile(broken, "w") as made:
        for name in came.namelist():
            data = came.read(name)
            made.writestr(name, data[: data.index(b'<row r="%d"' % (count + 2)) + 9] if name == "xl/worksheets/sheet1.xml" else data)
    return broken.getvalue()


def test_a_file_that_breaks_off_is_left_out_whole_and_the_others_are_taken(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    process = process_of(tmp_path / "p")
    (tmp_path / "p" / "a.jsonl").write_text(ROW % "a", encoding="utf-8")
    store.write("tickets/inbox/1.xlsx", sheet_that_breaks_off_after(150))
    store.write("tickets/inbox/2.jsonl", (ROW % "2").encode())
    records, report = ingested(process, tmp_path)
    assert [record.id for record in records] == ["a", "2"]
    assert report["left_out"] == [
        {"name": "tickets/inbox/1.xlsx", "left_out": "tickets/inbox/1.xlsx is no workbook that can be read: ParseError"}
    ]
    assert "tickets/inbox/1.xlsx is left out" in caplog.text and CANARY not in caplog.text + json.dumps(report)
    caplog.clear()
    ingest.fn(begin(process, "train"))
    assert "nothing changed" in caplog.text and "tickets/inbox/1.xlsx is left out" in caplog.text


def test_files_whose_names_are_no_keys_and_links_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = process_of(tmp_path / "p")
    (tmp_path / "p" / "a.jsonl").write_text(ROW % "a", encoding="utf-8")
    inbox, long = tmp_path / "store" / "tickets" / "inbox", "订" * 80 + ".jsonl"
    inbox.mkdir(parents=True)
    for name in (b"1\\2.jsonl", b"3\n4.jsonl", b"5\xff.jsonl", long.encode(), b"7.jsonl"):
        Path(os.fsdecode(os.fsencode(inbox) + b"/" + name)).write_text(ROW % len(name), encoding="utf-8")
    (inbox / "6.jsonl").symlink_to(tmp_path / "p" / "a.jsonl")
    (inbox / "8.jsonl").symlink_to("8.jsonl")
    records, report = ingested(process, tmp_path)
    assert [record.file for record in records] == ["a.jsonl", "tickets/inbox/7.jsonl", f"tickets/inbox/{long}"]
    assert [file["name"] for file in report["left_out"]] == [f"tickets/inbox/{name}.jsonl" for name in ("1\\2", "3\\n4", "5\\udcff")]
    for name in ("1\\\\2", "3\\n4", "5\\udcff", "6.jsonl", "8.jsonl"):
        assert name in caplog.text


def test_a_table_that_lacks_one_of_two_outputs_is_left_out(tmp_path: Path) -> None:
    process = process_of(tmp_path / "p", output={"fields": {"city": {}, "day": {}}})
    (tmp_path / "p" / "a.jsonl").write_text('{"id": "a", "text": "x", "city": "Oslo", "day": "now"}\n', encoding="utf-8")
    open_store().write("tickets/inbox/1.csv", b"id,text,city\n1,x,Oslo\n")
    records, report = ingested(process, tmp_path)
    assert [record.id for record in records] == ["a"]
    assert report["left_out"][0]["left_out"] == "tickets/inbox/1.csv: no column day; columns found: 3, like declared ones: id, text, city"


def test_a_store_that_does_not_answer_stops_the_run_and_is_no_reason_to_leave_a_file_out(tmp_path: Path) -> None:
    process, store = process_of(tmp_path / "p"), open_store()
    (tmp_path / "p" / "a.jsonl").write_text(ROW % "a", encoding="utf-8")
    store.write("tickets/inbox/1.jsonl", (ROW % "1").encode())

    class Away(LocalStore):
        def open(self, key: str) -> BinaryIO:
            raise ConnectionError("no answer")

    with pytest.raises(ConnectionError):
        copy_inbox(process, Away(tmp_path / "store"), tmp_path / "copies")


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


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_is_replaced_or_written_to_while_it_is_read_is_told(
    tmp_path: Path, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = process_of(tmp_path / "p")
    source = tmp_path / "p" / "a.jsonl"
    source.write_text(ROW % "a" + ROW % "b", encoding="utf-8")

    def disturbed(row: Record) -> str:
        if replaced:
            (tmp_path / "new").write_bytes(source.read_bytes())
            os.utime(tmp_path / "new", ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
            (tmp_path / "new").replace(source)
        else:
            source.write_bytes(source.read_bytes() + b"\n")
        return to_line(row)

    monkeypatch.setattr("tasks.ingestion.to_line", disturbed)
    with pytest.raises(ValueError, match=r"a\.jsonl was written to while it was read"):
        ingest.fn(begin(process, "train"))
