"""What holds for every file: each row comes once, as a record or rejected, with its line; whatever is no such file is a ValueError."""

import csv
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tasks.process import Process
from tasks.readers import Reader
from tasks.records import Record, Rejected
from tasks.sheets import FORMULA_ERRORS
from tests.tasks.test_readers import process_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:openpyxl"),
    # A thread that an earlier test left behind may draw a random number meanwhile (Prefect's, to wait for a while); strategies here do not.
    pytest.mark.filterwarnings("ignore:Do not use the .random. module:hypothesis.errors.HypothesisDeprecationWarning"),
]

FEW = settings(derandomize=True, max_examples=60, deadline=None, database=None)  # the same examples in every run
COLUMNS = ("id", "text", "queue")
ODD = [
    "",
    " ",
    "中文 订单",
    "שלום עולם",
    "a\0b",
    'say "hi"',
    "a,b;c\td|e",
    "a\nb",
    "a\r\nb\r",
    "\x85\u2028\x0b\x0c\x1c",
    "\ufeff",
    "𐍈👩‍👩‍👧",
    "-1",
]
TEXTS = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
LINE_END = re.compile(rb"\r\n|\r|\n")
BROKEN = [b"{", b'"text"', b"[1]", b'{"text": 1e999}', b'{"text": "\\ud83d"}', b'{"a": 1, "a": 1}', b'{"id": []}', b"\x00", b"NaN"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """Files are read in blocks of a few bytes, so that all that may stand at the end of a block does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.encodings.BLOCK_BYTES", 7)
        yield


def read(path: Path, process: Process | None = None) -> list[Record | Rejected]:
    """All rows of a file; what is counted is what came, each line once and in order."""
    reader = Reader(path, path.name, process or process_of(), labelled=False)
    rows = list(reader)
    kinds = [isinstance(row, Record) for row in rows]
    assert (kinds.count(True), kinds.count(False)) == (reader.counts["records"], reader.counts["rejected"])
    lines = [row.line for row in rows]
    assert lines == sorted(set(lines))
    return rows


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def told(rows: list[Record | Rejected]) -> list[tuple[int, dict[str, Any]]]:
    assert all(isinstance(row, Record) for row in rows)
    return [(row.line, row.values) for row in rows if isinstance(row, Record)]


def encoded(text: str, encoding: str) -> tuple[bytes, str | None]:
    """A file's bytes, and what has to be declared: nothing where bytes tell; UTF-8 where the encoding has no such letter."""
    try:
        return text.encode(encoding), None if encoding.startswith("utf") else encoding
    except UnicodeEncodeError:
        return text.encode(), None


ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gbk", "gb18030", "latin-1"])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@FEW
@given(st.lists(st.tuples(TEXTS, ENDS, st.sampled_from(["", "\n", " \r\n", "\t\r"])), min_size=1, max_size=8), ENCODINGS, st.booleans())
def test_json_lines_come_back_as_they_were(folder: Path, rows: list[tuple[str, str, str]], encoding: str, plain: bool) -> None:
    content, expected = "", []
    for number, (text, end, blank) in enumerate(rows):
        expected.append((len(LINE_END.findall(content.encode())) + 1, {"text": text, "queue": "a"}))
        content += json.dumps({"id": f"r{number}", "text": text, "queue": "a"}, ensure_ascii=plain) + end + (blank if end != "\r" else "")
    data, declared = encoded(content, encoding)
    assert told(read(written(folder, "a.jsonl", data), process_of(encoding=declared))) == expected


@FEW
@given(st.lists(st.one_of(st.sampled_from(BROKEN), st.just(b'{"id": "r", "text": "ok"}'), st.sampled_from([b"", b" \t"])), max_size=12))
def test_every_line_that_is_not_blank_is_a_record_or_rejected_with_its_bytes(folder: Path, lines: list[bytes]) -> None:
    rows = read(written(folder, "a.jsonl", b"\n".join([*lines, b'{"id": "z"}'])))
    assert [row.line for row in rows] == [number for number, line in enumerate([*lines, b"z"], start=1) if line.strip()]
    for row in rows:
        if isinstance(row, Rejected):
            assert row.content.encode() == lines[row.line - 1] in BROKEN


@FEW
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=8), ENCODINGS, st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(",;\t|"))
def test_tables_of_text_come_back_as_they_were(folder: Path, rows: list[tuple[str, str]], encoding: str, end: str, mark: str) -> None:
    table = io.StringIO()
    writer, expected = csv.writer(table, delimiter=mark, lineterminator=end, quoting=csv.QUOTE_ALL), []
    writer.writerow(COLUMNS)
    for number, (text, queue) in enumerate(rows):
        values = {name: value for name, value in (("text", text), ("queue", queue)) if value}
        expected.append((len(LINE_END.findall(table.getvalue().encode())) + 1, values))
        writer.writerow([f"r{number}", text, queue])
    data, declared = encoded(table.getvalue(), encoding)
    assert told(read(written(folder, "a.csv", data), process_of(encoding=declared))) == expected


@FEW
@given(st.text('a1,"\n\r é', max_size=60), st.sampled_from(["\n", "\r\n"]))
def test_a_whole_row_after_whatever_quotes_is_never_lost(folder: Path, before: str, end: str) -> None:
    content = f"id,text,queue\n{before}{end}z,clean,x\n".encode()
    rows = read(written(folder, "a.csv", content))
    last = rows[-1]
    assert isinstance(last, Record)
    assert (last.id, last.values) == ("z", {"text": "clean", "queue": "x"})
    assert last.line == len(LINE_END.findall(content))


IN_SHEETS = TEXTS.filter(
    lambda text: not re.search("[\x00-\x08\x0b-\x1f\ufffe\uffff]|_x[0-9A-Fa-f]{4}_|^=", text) and text not in FORMULA_ERRORS
)
CELLS = st.one_of(st.none(), IN_SHEETS, st.booleans(), st.integers(-(2**40), 2**40))


def as_shown(cell: Any) -> str | None:
    return None if cell in (None, "") else str(cell).lower() if isinstance(cell, bool) else str(cell)


@FEW
@given(st.lists(st.one_of(st.none(), st.tuples(CELLS, CELLS)), max_size=6))
def test_sheets_come_back_as_they_are_shown(folder: Path, rows: list[tuple[Any, Any] | None]) -> None:
    book, expected = openpyxl.Workbook(), []
    book.worksheets[0].append(COLUMNS)
    for line, row in enumerate(rows, start=2):
        book.worksheets[0].append([f"r{line}", *row] if row else [])
        if row:
            values = {"text": as_shown(row[0]), "queue": as_shown(row[1])}
            expected.append((line, {name: value for name, value in values.items() if value is not None}))
    book.save(folder / "a.xlsx")
    assert told(read(folder / "a.xlsx")) == expected


@FEW
@given(st.lists(st.one_of(st.none(), TEXTS), max_size=8), st.sampled_from(["string", "large_string", "dictionary"]), st.integers(1, 3))
def test_parquet_comes_back_as_it_was(folder: Path, texts: list[str | None], kind: str, group: int) -> None:
    types = {"string": pyarrow.string(), "large_string": pyarrow.large_string(), "dictionary": pyarrow.dictionary("int8", pyarrow.string())}
    table = pyarrow.table(
        {"id": [f"r{n}" for n in range(len(texts))], "text": pyarrow.array(texts, types[kind]), "queue": ["a"] * len(texts)}
    )
    parquet.write_table(table, folder / "a.parquet", row_group_size=group)
    expected = [(line, ({} if text is None else {"text": text}) | {"queue": "a"}) for line, text in enumerate(texts, start=1)]
    assert told(read(folder / "a.parquet")) == expected


def whole_files() -> Iterator[tuple[str, bytes]]:
    """One small file of each format."""
    rows = [["1", "hello 你好", "a"], ["2", "b", "c"]]
    book = openpyxl.Workbook()
    for row in [COLUMNS, *rows]:
        book.worksheets[0].append(row)
    book.save(sheet := io.BytesIO())
    parquet.write_table(pyarrow.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))), columns := io.BytesIO())
    yield "a.jsonl", "".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n" for row in rows).encode()
    yield "a.csv", "\n".join(map(",".join, [COLUMNS, *rows])).encode()
    yield "a.xlsx", sheet.getvalue()
    yield "a.parquet", columns.getvalue()


WHOLE = dict(whole_files())


def spoiled(content: bytes, seed: int) -> bytes:
    """A file with some bytes changed, left out, doubled, or cut off."""
    chance, data = random.Random(seed), bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at, size = chance.randrange(len(data) + 1), chance.randint(1, 8)
        data[at : at + size] = chance.choice([b"", chance.randbytes(size), bytes(data[at : at + size]) * 2, b"\0" * size, b"\xff" * size])
    return bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.3 else data)


@settings(FEW, max_examples=150)
@given(st.sampled_from(sorted(WHOLE)), st.one_of(st.binary(max_size=80), st.integers(0, 10**6)))
def test_whatever_bytes_come_the_file_is_read_or_refused_in_words(folder: Path, name: str, made: bytes | int) -> None:
    path = written(folder, name, made if isinstance(made, bytes) else spoiled(WHOLE[name], made))
    try:
        read(path)
    except ValueError as error:
        assert name in str(error) and len(str(error)) < 500
