"""What a business works with: sheets and documents of accepted answers, of a batch made by a model that answers at once."""

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from benchmarks import quick
from tasks.answering import Terms, score_file
from tasks.answers import opened_ledger
from tasks.artifacts import file_digest, modified_at
from tasks.batches import batch_id
from tasks.declaration import DeclarationError
from tasks.deliveries import file_names
from tasks.sources import Source
from tasks.tallies import Tally

COLUMNS = {"text": {}, "amount": {"type": "number", "optional": True}, "paid": {"type": "boolean", "optional": True}}
SHEET = {"columns": ["id", "text", "amount", "queue", "confidence"]}
LETTERS = {
    "format": "markdown",
    "title": "{queue}: {id}",
    "text": {label: f"To {label}.\n\nAmount {{amount}}" for label in quick.LABELS},
    "columns": ["amount"],
    "file_name": "{queue}",
}


def deliver(folder: Path, rows: list[dict[str, Any]], **batch: Any) -> Tally:
    """A batch of rows with what is declared of it."""
    folder.mkdir(exist_ok=True)
    path = folder.parent / "new.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = Source(path, path.name, file_digest(path), modified_at(path), str(path))
    asked = quick.process(records={"source": "a.jsonl", "columns": COLUMNS}, batch=batch)
    with opened_ledger(f"sqlite:///{folder.parent / 'ledger.db'}", "TEST") as ledger:
        return score_file(source, quick.champion(asked), asked, Terms(ledger, "b", "jsonl", asked.batch), folder)


def messages(count: int) -> list[dict[str, Any]]:
    return [{"id": f"r/{number}", "text": f"=cmd() 退款 {number}", "amount": number + 0.5} for number in range(count)]


def sheets_in(folder: Path) -> dict[str, list[str]]:
    """Name of a sheet -> ids of its rows."""
    texts = {path.stem: path.read_text(encoding="utf-8-sig") for path in (folder / "sheets").iterdir()}
    return {name: [row["id"] for row in csv.DictReader(text.splitlines())] for name, text in texts.items()}


def label_of(row: dict[str, Any]) -> str:
    return quick.label_of(f"Message: {row['text']}\nQueue:")


def test_a_workbook_holds_the_chosen_columns_numbers_as_numbers_and_no_formula(tmp_path: Path) -> None:
    rows = messages(7)
    assert deliver(tmp_path / "out", rows, sheet=SHEET).done == 7
    sheet = openpyxl.load_workbook(tmp_path / "out" / "sheet.xlsx").active
    found = list(sheet.iter_rows(values_only=True))
    assert found == [("id", "text", "amount", "queue", "confidence"), *((r["id"], r["text"], r["amount"], label_of(r), 0.75) for r in rows)]
    assert {cell.data_type for cell in sheet["B"]} == {"s"} and sheet["B2"].value.startswith("=")


def test_a_sheet_for_each_queue_also_of_those_that_nothing_went_to(tmp_path: Path) -> None:
    rows = messages(30)
    deliver(tmp_path / "out", rows[:2], sheet=SHEET | {"format": "csv", "split_by": "queue"})
    found = sheets_in(tmp_path / "out")
    routed = {label: [row["id"] for row in rows[:2] if label_of(row) == label] for label in quick.LABELS}
    assert found == routed | {"other": []}


def test_a_sheet_may_be_split_by_what_the_record_says(tmp_path: Path) -> None:
    rows = [row | {"paid": paid} for row, paid in zip(messages(3), (True, False, None), strict=True)]
    deliver(tmp_path / "out", rows, sheet=SHEET | {"format": "csv", "split_by": "paid"})
    assert sheets_in(tmp_path / "out") == {"yes": ["r/0"], "no": ["r/1"], "other": ["r/2"]}


def test_each_accepted_record_has_its_document_with_the_text_of_its_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.deliveries.PART_DOCUMENTS", 2)
    rows = [*messages(4), {"id": "none", "text": "nothing to say"}, *messages(5)[4:]]
    tally = deliver(tmp_path / "out", rows, documents=LETTERS)
    assert (tally.done, tally.dead) == (5, 1)
    archives = sorted((tmp_path / "out" / "documents").iterdir())
    assert [archive.name for archive in archives] == ["00001.zip", "00002.zip", "00003.zip"]
    found: dict[str, str] = {}
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            found |= {name: archive.read(name).decode() for name in archive.namelist()}
    lines = [line for line, row in enumerate(rows, start=1) if row["id"] != "none"]
    assert list(found) == [f"{line:08d}-{label_of(rows[line - 1])}.md" for line in lines]
    first = found[f"00000001-{label_of(rows[0])}.md"]
    assert first.startswith(f"# {label_of(rows[0])}: r/0\n\nTo {label_of(rows[0])}") and "| amount | 0.5 |" in first


def test_the_same_batch_again_gives_the_same_files(tmp_path: Path) -> None:
    declared = {"sheet": SHEET, "documents": LETTERS | {"format": "docx"}}
    for name in ("one", "two"):
        deliver(tmp_path / name, messages(3), **declared)
    one, two = (
        {str(path.relative_to(tmp_path / name)): file_digest(path) for path in files_of(tmp_path / name)} for name in ("one", "two")
    )
    assert one == two
    assert {"sheet.xlsx", "documents/00001.zip", "predictions.jsonl"} < set(one)


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_made_of_it_is_part_of_a_batchs_name() -> None:
    names = {
        batch_id("s", "a.jsonl", quick.process(batch=batch), "v", "jsonl")
        for batch in ({}, {"sheet": {"columns": ["id"]}}, {"sheet": {"columns": ["text"]}})
    }
    assert len(names) == 3


def test_names_of_files_are_good_for_any_disk_and_each_its_own() -> None:
    assert file_names(["a/b", "A b", "../../etc", "退款", "", ".hidden"]) == {
        "a/b": "a_b", "A b": "A_b-2", "../../etc": "etc", "退款": "退款", "": "other", ".hidden": "hidden",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"sheet": {"columns": ["txt"]}}, r"batch.sheet.columns names 'txt'.*did you mean text"),
        ({"sheet": {"columns": ["text"], "split_by": "text"}}, r"split_by: 'text' is no column with declared values"),
        ({"documents": LETTERS | {"title": "{queu}"}}, r"batch.documents.title names 'queu'"),
        ({"documents": LETTERS | {"text": {"refund": "x"}}}, r"one for each declared label: complaint, delivery, invoice, refund"),
    ],
)
def test_what_cannot_be_delivered_is_said_when_it_is_declared(batch: dict[str, Any], told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        quick.process(records={"source": "a.jsonl", "columns": COLUMNS}, batch=batch)
