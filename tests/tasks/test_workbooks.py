"""Workbooks that lie, hide, or would not fit: read row by row as they say, or refused before they are unpacked."""

import datetime
import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.tasks.test_readers import file_of, process_of, read, workbook_of

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:openpyxl")

SHEET, STRINGS, STYLES = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/styles.xml"
ROWS: list[list[Any]] = [["id", "text", "queue"], ["1", "card", "a"], ["2", "late", "b"]]
MAIN = b'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def changed(old: bytes, new: bytes) -> Any:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b'<row r="3"', b'<row r="2"', "a row numbered 2 after row 2"),
        (b'<row r="3"', b'<row r="0"', "a row numbered 0 after row 2"),
        (b'<row r="3"', b'<row r="999999999999"', "a row numbered 999999999999 after row 2"),
        (b'r="B3"', b'r="C3"', "one cell twice in row 3"),
        (b'r="B3"', b'r="XFE3"', "a cell in column 16385"),
        (b"http://schemas.openxmlformats.org/spreadsheetml/2006/main", b"http://purl.oclc.org/ooxml/spreadsheetml/main", "Strict Open XML"),
    ],
)
def test_a_sheet_whose_rows_would_be_lost_is_refused(tmp_path: Path, old: bytes, new: bytes, error: str) -> None:
    path = file_of(tmp_path, "a.xlsx", workbook_of(ROWS, SHEET, changed(old, new)))
    with pytest.raises(ValueError, match=rf"a\.xlsx .*{error}"):
        read(path)


def test_rows_that_are_left_out_count_as_blank(tmp_path: Path) -> None:
    good, bad, report = read(file_of(tmp_path, "a.xlsx", workbook_of(ROWS, SHEET, changed(b'<row r="3"', b'<row r="30"'))))
    assert [(record.id, record.line) for record in good] == [("1", 2), ("2", 30)]
    assert (report["blank"], bad) == (27, [])


def test_a_formula_is_its_stored_result_and_without_one_its_row_is_rejected(tmp_path: Path) -> None:
    rows = [*ROWS, ["3", '="ca"&"rd"', "a"], ["4", "#N/A", "a"], ["5", "=1/0", "a"]]
    stored = changed(b'<c r="B4"><f>"ca"&amp;"rd"</f>', b'<c r="B4" t="str"><f>"ca"&amp;"rd"</f><v>card</v>')
    for change, ids in ((None, ["1", "2"]), (stored, ["1", "2", "3"])):
        good, bad, _ = read(file_of(tmp_path, "a.xlsx", workbook_of(rows, SHEET if change else "", change)))
        assert [record.id for record in good] == ids
    assert [(row.line, row.reason.split(",")[0]) for row in bad] == [
        (5, "an error in text"),
        (6, "a formula without its result"),
    ]


def test_the_first_sheet_that_is_shown_is_read(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.worksheets[0].sheet_state = "hidden"
    book.worksheets[0].append(["an old list"])
    for row in ROWS:
        book.create_sheet("New").append(row) if "New" not in book.sheetnames else book["New"].append(row)
    book.active = 1
    book.save(tmp_path / "a.xlsx")
    good, _, report = read(tmp_path / "a.xlsx")
    assert (len(good), report["sheet"]) == (2, "New")
    with pytest.raises(ValueError, match="no column text"):
        read(tmp_path / "a.xlsx", process_of(sheet="Sheet"))


def test_days_times_and_what_xml_cannot_hold_are_read_as_shown(tmp_path: Path) -> None:
    cells = [datetime.datetime(2024, 5, 1), datetime.datetime(2024, 5, 1, 6, 30), datetime.time(6, 30), datetime.timedelta(hours=30)]
    cells += [True, 1.5, 7.0, "a_x000D_\nb"]
    book = openpyxl.Workbook()
    for row in [["id", "text", "queue"], *([number, cell, "a"] for number, cell in enumerate(cells))]:
        book.worksheets[0].append(row)
    book.save(tmp_path / "a.xlsx")
    shown = [record.values["text"] for record in read(tmp_path / "a.xlsx")[0]]
    assert shown[:4] == ["2024-05-01", "2024-05-01 06:30:00", "06:30:00", "1 day, 6:00:00"]
    assert shown[4:] == ["true", "1.5", "7", "a\r\nb"]


def test_shared_texts_are_read_with_their_pieces_and_without_how_they_are_said(tmp_path: Path) -> None:
    texts = b"<si><t>card</t></si><si><r><t>la</t></r><r><t>te</t></r><rPh><t>reading</t></rPh></si>"
    content = io.BytesIO(workbook_of(ROWS, SHEET, lambda data: inline_as_shared(data)))
    types = b'<Override PartName="/xl/sharedStrings.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.%s+xml"/>'
    with zipfile.ZipFile(content) as came, zipfile.ZipFile(tmp_path / "a.xlsx", "w") as made:
        for name in set(came.namelist()) - {STRINGS}:
            data = came.read(name)
            if name == "[Content_Types].xml" and b"sharedStrings" not in data:
                data = data.replace(b"</Types>", types % b"sharedStrings" + b"</Types>")
            made.writestr(name, data)
        made.writestr(STRINGS, b"<sst " + MAIN + b">" + texts + b"</sst>")
    assert [record.values["text"] for record in read(tmp_path / "a.xlsx")[0]] == ["card", "late"]


def test_a_text_that_is_stored_once_cannot_fill_sheet_after_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.workbooks.FREE_CHARACTERS", 10_000)
    monkeypatch.setattr("tasks.workbooks.CHARACTERS_A_BYTE", 2)
    rows: list[list[Any]] = [["id", "text", "queue"], *([str(row), "card", "a"] for row in range(100))]
    whole = workbook_of(rows, "", None)
    assert len(read(file_of(tmp_path, "a.xlsx", whole))[0]) == 100
    packed = io.BytesIO()  # as programs store it: a row then takes few bytes, and the text could be of any length
    with zipfile.ZipFile(io.BytesIO(whole)) as came, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        for name in came.namelist():
            made.writestr(name, came.read(name).replace(b">card<", b">" + b"card" * 50 + b"<"))
        made.writestr("xl/media/a.png", b"")
        made.filelist[-1].compress_size = 10**9  # as the file states, and nobody reads it
    path = file_of(tmp_path, "b.xlsx", packed.getvalue())
    with pytest.raises(ValueError, match=r"b\.xlsx repeats shared texts until it is 2 times as large as its file; save it as CSV"):
        read(path)


def inline_as_shared(data: bytes) -> bytes:
    """The two texts of column B as references to shared ones, however openpyxl wrote them."""
    import re

    for place, cell in enumerate((b"B2", b"B3")):
        data, count = re.subn(rb'<c r="%s".*?</c>' % cell, b'<c r="%s" t="s"><v>%d</v></c>' % (cell, place), data)
        assert count == 1
    return data


BOMBS = {
    SHEET: (b"<worksheet " + MAIN + b'><sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>', b"a", "a row of more than"),
    STRINGS: (b"<sst " + MAIN + b">", b"<si><t>a</t></si>", "a part that unpacks to"),
    STYLES: (b"<styleSheet " + MAIN + b"><cellXfs>", b"<xf/>", "a part that unpacks to"),
    "[Content_Types].xml": (b"<Types>", b"<Default/>", "a part that unpacks to"),
    "xl/media/a.bin": (b"", b"\0", "unpacks to"),
}


@pytest.mark.parametrize("part", BOMBS)
def test_a_zip_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("MAX_UNPACKED_BYTES", 30), ("MAX_STRINGS_BYTES", 8), ("MAX_PART_BYTES", 8), ("MAX_ROW_BYTES", 4)):
        monkeypatch.setattr(f"tasks.workbooks.{name}", most * 2**20)
    head, unit, error = BOMBS[part]
    content = io.BytesIO(workbook_of(ROWS, part, lambda _: None))
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(part, "w") as stream:
        stream.write(head)
        for _ in range(29 if part == SHEET else 40 if "media" in part else 12):
            stream.write(unit * (2**20 // len(unit)))
    path = file_of(tmp_path, "a.xlsx", content.getvalue())
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"a\.xlsx .*{error} .*; save it as CSV"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 24 * 2**20
    finally:
        tracemalloc.stop()
