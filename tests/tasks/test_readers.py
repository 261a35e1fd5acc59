import io
import json
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks import encodings
from tasks.declaration import parse_process
from tasks.process import Process
from tasks.readers import Reader, is_labelled
from tasks.records import Record, Rejected

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:openpyxl")

HEAD = b"id,text,queue\n"


def process_of(columns: Any = ("text", "queue"), **records: Any) -> Process:
    return parse_process(
        {
            "name": "t",
            "owner": "o",
            "records": {"source": "a", "columns": columns, **records},
            "sample": {"prompt": "{text}"},
            "output": {"label": "queue"},
            "gate": [{"metric": "accuracy", "at_least": 0.5}],
        },
        "test",
    )


def read(path: Path, process: Process | None = None) -> tuple[list[Record], list[Rejected], dict[str, Any]]:
    reader = Reader(path, path.name, process or process_of())
    rows = list(reader)
    good, bad = [row for row in rows if isinstance(row, Record)], [row for row in rows if isinstance(row, Rejected)]
    assert reader.report["rows"] == len(rows)
    return good, bad, reader.report


def file_of(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def line(id: str, text: str) -> bytes:
    return json.dumps({"id": id, "text": text, "queue": "a"}, ensure_ascii=False).encode() + b"\n"


def test_json_lines_give_the_declared_values_and_count_blank_lines(tmp_path: Path) -> None:
    nested = process_of({"input.text": {}, "queue": {}})
    nested = parse_process(nested.model_dump(mode="json") | {"sample": {"prompt": "{input.text}"}}, "test")
    rows = b'\xef\xbb\xbf{"id": 7, "input": {"text": "hi", "more": 1}, "queue": "a", "extra": [1]}\r\n\n  \t\n{"id":"8","queue":null}'
    good, bad, report = read(file_of(tmp_path, "a.jsonl", rows), nested)
    assert [(record.id, record.values, record.line) for record in good] == [("7", {"input.text": "hi", "queue": "a"}, 1), ("8", {}, 4)]
    assert not bad and report["blank"] == 2 and report["encoding_known"] == "byte order mark"


def test_a_key_may_stand_within_an_object(tmp_path: Path) -> None:
    good, _, _ = read(file_of(tmp_path, "a.jsonl", b'{"meta": {"id": 7}, "text": "hi", "queue": "a"}\n'), process_of(key="meta.id"))
    assert [(record.id, record.repairs) for record in good] == [("7", ())]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"id": "1", "te', "not whole JSON"),
        (b'{"id": "1", "text": "a", "text": "b"}', "one name twice"),
        (b'{"id": "1", "text": NaN}', "NaN"),
        (b'{"id": "1", "text": 1e999}', "too large"),
        (b'{"id": "1", "text": ' + b"9" * 5000 + b"}", "too large"),
        (b'{"id": "1", "text": [-' + b"9" * 309 + b"]}", "too large"),
        (b"[" * 100_000, "deep"),
        (b'{"id": "1", "text": ' + b"[" * 100 + b"]" * 100 + b"}", "deep"),
        (b'{"id": "1", "text": "\\ud800"}', "surrogate"),
        (b'{"id": "\\ud800", "text": "a"}', "id holds half of a surrogate pair or a control character"),
        (b'{"id": "a\\u0000b", "text": "a"}', "id holds half of a surrogate pair or a control character"),
        (b'{"id": "a\\nb", "text": "a"}', "control character"),
        (b'{"id": "a\\u0085b", "text": "a"}', "control character"),
        (b'{"id": 1.5, "text": "a"}', "neither a text nor a whole number"),
        (b'{"id": 9007199254740993.0, "text": "a"}', "id is a number with a point and too large to be exact"),
        (b'["a"]', "no object"),
        (b'{"id": ["1"], "text": "a"}', "neither a text nor a whole number"),
        ('{"id": "1", "text": "é"}'.encode("latin-1"), "not utf-8"),
    ],
)
def test_a_broken_line_is_rejected_with_what_came_and_the_next_is_read(tmp_path: Path, content: bytes, reason: str) -> None:
    good, bad, _ = read(file_of(tmp_path, "a.jsonl", content + b"\n" + line("2", "中文")))
    assert [record.id for record in good] == ["2"]
    assert reason in bad[0].reason and bad[0].line == 1 and bad[0].content.encode("latin-1") == content


def test_a_missing_id_is_made_from_the_content_and_noted(tmp_path: Path) -> None:
    rows = b'{"text": "a", "queue": "x"}\n{"queue": "x", "text": "a", "id": " "}\n{"text": "b"}\n'
    good, _, _ = read(file_of(tmp_path, "a.jsonl", rows))
    assert good[0].id == good[1].id != good[2].id
    assert good[0].repairs == ("id: missing, made from the content",)


def test_an_id_that_is_a_whole_number_with_a_point_is_that_number(tmp_path: Path) -> None:
    import pandas as pd

    pd.DataFrame({"id": [3, None, 5], "text": "abc", "queue": "a"}).to_parquet(tmp_path / "a.parquet")
    good, bad, _ = read(tmp_path / "a.parquet")
    assert [record.id for record in good if not record.repairs] == ["3", "5"] and not bad
    assert read(file_of(tmp_path, "a.jsonl", b'{"id": 3.0, "text": "a"}'))[0][0].id == "3"


def test_a_line_that_is_too_long_is_rejected_and_not_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("BLOCK_BYTES", 64), ("KEPT_BYTES", 32), ("MAX_ROW_BYTES", 256)):
        monkeypatch.setattr(encodings, name, size)
    monkeypatch.setattr("tasks.readers.MAX_ROW_BYTES", 256)
    good, bad, _ = read(file_of(tmp_path, "a.jsonl", line("1", "x" * 900) + line("2", "y")))
    assert [record.id for record in good] == ["2"]
    assert "bytes, at most 256 are read" in bad[0].reason
    assert bad[0].content == line("1", "x" * 900).decode()[:32]


def test_a_line_end_that_begins_in_one_block_and_ends_in_the_next_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in range(8, 12):
        monkeypatch.setattr(encodings, "BLOCK_BYTES", size)
        good, _, report = read(file_of(tmp_path, "a.jsonl", b'{"id": 1}\r\r\n{"id": 2}\r\n{"id": 3}'))
        assert [record.line for record in good] == [1, 3, 4] and report["blank"] == 1


def test_the_name_of_a_column_may_run_over_lines(tmp_path: Path) -> None:
    good, bad, _ = read(file_of(tmp_path, "a.csv", b'id,text,queue,"how\nlong",more\n1,a,x,2,3\n'))
    assert [(record.id, record.line) for record in good] == [("1", 3)] and not bad


def test_a_quoted_cell_may_hold_marks_and_line_ends(tmp_path: Path) -> None:
    rows = HEAD + b'1,"a, ""b""\nc\r\nd",x\r\n2,e,x\r3,f,x\n'
    good, bad, _ = read(file_of(tmp_path, "a.csv", rows))
    assert [record.values["text"] for record in good] == ['a, "b"\nc\r\nd', "e", "f"] and not bad
    assert [record.line for record in good] == [2, 5, 6]


@pytest.mark.parametrize("broken", [b'2,"open,x\n', b'2,"op"en,x\n', b'2,a "b,"x\n'])
def test_rows_after_an_unbalanced_quote_are_not_lost(tmp_path: Path, broken: bytes) -> None:
    good, bad, _ = read(file_of(tmp_path, "a.csv", HEAD + b"1,a,x\n" + broken + b'3,"c",x\n4,d,x\n' + b'5,"e,x'))
    assert [record.id for record in good] == ["1", "3", "4"]
    assert [row.line for row in bad] == [3, 6]
    assert bad[0].content.encode() == broken.rstrip(b"\n") and "quote" in bad[0].reason


def test_a_row_of_several_lines_and_a_wrong_length_is_one_rejected_row(tmp_path: Path) -> None:
    good, bad, _ = read(file_of(tmp_path, "a.csv", HEAD + b'1,"a\nb",x,more\n2,"c\nd",x\n3,"e\nf"\n4,h,x\n'))
    assert [record.id for record in good] == ["2", "4"]
    assert [(row.line, row.reason) for row in bad] == [(2, "4 cells, the header has 3"), (6, "2 cells, the header has 3")]
    assert bad[0].content == '1,"a\nb",x,more'


def test_a_quoted_cell_of_many_lines_is_one_row(tmp_path: Path) -> None:
    cell = b'say ""hi"", then\n\n' * 20_000
    good, bad, _ = read(file_of(tmp_path, "a.csv", HEAD + b'1,"' + cell + b'",x\n2,b,x\n'))
    assert [(record.id, record.line) for record in good] == [("1", 2), ("2", 40_003)] and not bad
    assert good[0].values["text"].count("\n") == 40_000


@pytest.mark.parametrize("prose", [b"a,\n", b"no mark\n\n", b'a ""quoted"" word, and more\n', b"one, two, three, four\n"])
def test_the_lines_of_a_cell_that_never_ends_are_one_rejected_row(tmp_path: Path, prose: bytes) -> None:
    for end in (b"", b"5,c,x\n6,d,x\n", b'"odd, 5,c,x\n6,d,x\n'):
        good, bad, _ = read(file_of(tmp_path, "a.csv", HEAD + b'1,"' + prose * 20_000 + end))
        assert [record.id for record in good] == (["6"] if b"odd" in end else ["5", "6"] if end else [])
        assert [row.line for row in bad][:1] == [2] and len(bad) == (2 if b"odd" in end else 1)
        assert "with the lines after it that are no rows" in bad[0].reason and bad[0].content.encode().startswith(b'1,"' + prose)
        assert len(bad[0].content) <= 2**20


def test_a_cell_beyond_the_limits_is_one_rejected_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, value in (("LOOK_AHEAD", 50), ("MAX_ROW_BYTES", 500)):
        with monkeypatch.context() as patch:
            patch.setattr(f"tasks.delimited.{limit}", value)
            good, bad, _ = read(file_of(tmp_path, "a.csv", HEAD + b'1,"' + b"some words\n" * 900 + b'",x\n2,b,x\n'))
        assert [record.id for record in good] == ["2"]
        assert [row.line for row in bad] == [2, 902]  # its end looks like the beginning of another


def test_two_stray_quotes_far_apart_do_not_make_one_row_of_those_between(tmp_path: Path) -> None:
    rows = b"".join(b"%d,text,x\n" % n for n in range(3_000))
    good, bad, _ = read(file_of(tmp_path, "a.csv", HEAD + b'a,"open,x\n' + rows + b'b,c",x\n'))
    assert len(good) == 3_001 and good[-1].values["text"] == 'c"'
    assert [row.line for row in bad] == [2] and bad[0].content == 'a,"open,x'


@pytest.mark.parametrize("lines", [b'a","b\n', b'a","b\n1,2,3\n', b'1,"a\n', b'1,a"b,"c\n2,d,x\n', b'1,"a\n2,""b"",x\n'])
def test_reading_takes_time_in_proportion_whatever_the_quotes(tmp_path: Path, lines: bytes) -> None:
    started = time.process_time()
    good, bad, _ = read(file_of(tmp_path, "a.csv", HEAD + lines * 20_000))
    assert time.process_time() - started < 15  # looking ahead anew at every quote takes minutes
    assert len(good) + len(bad) <= 20_000 * lines.count(b"\n")


def test_rows_of_a_wrong_length_are_rejected_and_rows_of_nothing_are_blank(tmp_path: Path) -> None:
    good, bad, report = read(file_of(tmp_path, "a.csv", HEAD + b"1,a\n2,b,x,y\n,,\n\n3,\0c,x\n4," + b"d" * 200_000 + b",x\n"))
    assert [row.reason for row in bad] == ["2 cells, the header has 3", "4 cells, the header has 3"]
    assert report["blank"] == 2 and good[0].values["text"] == "\0c" and len(good[1].values["text"]) == 200_000


def test_the_delimiter_is_the_one_under_which_the_columns_are_found(tmp_path: Path) -> None:
    for mark in (";", "\t", "|"):
        path = file_of(tmp_path, "a.tsv", f"id{mark}text{mark}queue\n1{mark}a,b{mark}x\n".encode())
        assert read(path)[0][0].values == {"text": "a,b", "queue": "x"}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"id,text,text,queue\n", "columns 2, 3 have one name, text; give each its own"),
        (b"id,secret,secret,queue\n", "columns 2, 3 have one name; give each its own"),
        (b"id,,text,queue\n", "column 2 has no name"),
        (b"id, T ext ,queue\n1,a,x\n", "no column text; columns found: 3, like declared ones: id, T ext, queue$"),
        (b"1,secret\n2,a\n", "no column text, queue; columns found: 2, none like a declared one; the first row must hold their names$"),
        (b"", "is empty"),
        (b"\xd0\xcf\x11\xe0 old", "old .xls"),
        (b"PK\x03\x04 not a zip", "no whole .xlsx"),
        (b"PAR1 not parquet", "no Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_a_clear_error(tmp_path: Path, content: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        read(file_of(tmp_path, "a.csv", content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.csv does not exist"):
        read(tmp_path / "a.csv")


def test_a_sheet_is_read_as_a_table_of_text(tmp_path: Path) -> None:
    import datetime

    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["id", "text", "queue", "day", *(f"more {n}" for n in range(2_000))])
    sheet.append([1, "你好", "a", datetime.datetime(2024, 5, 1)])
    sheet.append([])
    sheet.append([2.0, "=1+1", "a"])
    sheet.append([3, "#N/A", "a"])
    book.save(tmp_path / "a.xlsx")
    good, bad, report = read(tmp_path / "a.xlsx", process_of(["text", "queue", "day"]))
    assert [(record.id, record.values) for record in good] == [
        ("1", {"text": "你好", "queue": "a", "day": "2024-05-01"}),
    ]
    assert [row.reason.split(",")[0] for row in bad] == ["a formula without its result", "an error in text"]
    assert report["blank"] == 1
    with pytest.raises(ValueError, match="no sheet 'May'; it has: Sheet"):
        read(tmp_path / "a.xlsx", process_of(sheet="May"))


def workbook_of(rows: list[list[Any]], part: str, change: Any) -> bytes:
    """An XLSX file, one part of it changed; None leaves the part out."""
    import openpyxl

    book, content = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.worksheets[0].append(row)
    book.save(whole := io.BytesIO())
    with zipfile.ZipFile(whole) as came, zipfile.ZipFile(content, "w") as made:
        for name in came.namelist():
            data = came.read(name)
            if (data := change(data) if name == part else data) is not None:
                made.writestr(name, data)
    return content.getvalue()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data[: len(data) * 2 // 3], "ParseError"),
        (lambda data: data.replace(b"<v>7171</v>", b"<v>canary-7171</v>"), "ValueError"),
        (lambda _: None, "no sheet"),
    ],
)
def test_a_workbook_that_breaks_off_is_a_clear_error_without_values(tmp_path: Path, change: Any, error: str) -> None:
    rows = [["id", "text", "queue"], *([n, f"text {n}", "a"] for n in range(200)), [7171, "x", "a"], *([n, "x", "a"] for n in range(200))]
    path = file_of(tmp_path, "a.xlsx", workbook_of(rows, "xl/worksheets/sheet1.xml", change))
    with pytest.raises(ValueError, match=rf"a\.xlsx .*{error}") as told:
        read(path)
    assert "7171" not in str(told.value)
    assert told.value.__suppress_context__ or told.value.__context__ is None


def test_a_workbook_is_read_whatever_its_name_ends_in(tmp_path: Path) -> None:
    content = workbook_of([["id", "text", "queue"], [1, "hello", "a"]], "", None)
    assert read(file_of(tmp_path, "a.csv", content))[0][0].values["text"] == "hello"


def test_parquet_values_that_cannot_be_converted_cost_their_rows_only(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"\xff\xfea"))
    columns = {
        "days": pa.array([2**30, 0], pa.int32()).cast(pa.date32()),
        "zone": pa.array([1, None], pa.timestamp("s", tz="Mars/Phobos")),
        "text": texts,
    }
    for name, column in columns.items():
        table = pa.table({"id": ["1", "2"], "queue": ["x", "y"], "text": ["a", "b"]} | {name: column})
        parquet.write_table(table, tmp_path / "a.parquet")
        good, bad, _ = read(tmp_path / "a.parquet", process_of(["text", "queue", *columns]))
        assert [record.id for record in good] == ["2"]
        assert [row.line for row in bad] == [1] and bad[0].reason.startswith(f"a value of {name} that cannot be read: ")
        assert json.loads(bad[0].content)["id"] == "1"


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {"id": 1, "text": "a", "queue": "x", "input": {"n": 2}, "other": b"\0"},
        {"id": 2, "text": None, "queue": "x", "input": None, "other": None},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    good, bad, _ = read(tmp_path / "a.parquet", process_of({"text": {}, "queue": {}, "input.n": "integer"}))
    assert [(record.id, record.values) for record in good] == [("1", {"text": "a", "queue": "x", "input.n": 2}), ("2", {"queue": "x"})]
    assert not bad


def test_an_object_of_a_table_is_the_columns_below_it(tmp_path: Path) -> None:
    process = process_of({"text": {}, "form": "object"})
    good, _, _ = read(file_of(tmp_path, "a.csv", b"id,text,queue,form.age,form.city\n1,a,x,5,Oslo\n"), process)
    assert good[0].values["form"] == {"age": "5", "city": "Oslo"}


def test_a_file_is_labelled_when_any_record_carries_an_output(tmp_path: Path) -> None:
    assert is_labelled(file_of(tmp_path, "a.csv", HEAD + b"1,a,\n2,b,x\n"), "a", process_of())
    assert not is_labelled(file_of(tmp_path, "b.csv", b"id,text\n1,a\n"), "b", process_of())


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "xlsx"])
def test_ten_thousand_columns_are_no_reason_to_lose_a_row(tmp_path: Path, ending: str) -> None:
    names = [*(f"column {number}" for number in range(9_997)), "id", "text", "queue"]
    table = pd.DataFrame([["x"] * 9_997 + ["1", "late", "a"], ["y"] * 9_997 + ["2", "broken", "b"]], columns=names)
    path = tmp_path / f"wide.{ending}"
    write = {
        "csv": table.to_csv,
        "jsonl": partial(table.to_json, orient="records", lines=True),
        "parquet": table.to_parquet,
        "xlsx": table.to_excel,
    }
    write[ending](path, **({} if ending == "jsonl" else {"index": False}))
    good, bad, _ = read(path)
    assert [(record.id, record.values["text"], record.values["queue"]) for record in good] == [("1", "late", "a"), ("2", "broken", "b")]
    assert not bad


def test_a_text_that_many_cells_share_makes_no_row_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MAX_ROW_BYTES", 2_000), ("KEPT_BYTES", 300)):
        monkeypatch.setattr(f"tasks.sheets.{name}", value)
    table = pd.DataFrame({"id": ["a", "b"], "text": ["card", "x" * 1_500], "queue": ["y", "x" * 1_500]})
    table.to_excel(tmp_path / "a.xlsx", index=False)
    good, bad, _ = read(tmp_path / "a.xlsx")
    assert [record.id for record in good] == ["a"]
    assert "a row of 3001 characters, at most 2000 are read" in bad[0].reason and len(bad[0].content) == 300


def test_what_is_kept_of_a_row_is_cut_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.sheets.KEPT_BYTES", 300)
    written = list[int]()
    plain = json.dumps
    monkeypatch.setattr("tasks.sheets.json.dumps", lambda value: (written.append(len(plain(value))), plain(value))[1])
    columns = {f"other {number}": ["x" * 1_500] for number in range(50)}
    pd.DataFrame({"id": ["a"], "text": ["card"], "queue": ["y"], **columns}).to_excel(tmp_path / "a.xlsx", index=False)
    reader = Reader(tmp_path / "a.xlsx", "a.xlsx", process_of())
    assert [row.id for row in reader] == ["a"]
    assert len(reader.raw) == 300 and max(written) < 300 + 50 * 20  # the texts that are kept, and the names of the columns
