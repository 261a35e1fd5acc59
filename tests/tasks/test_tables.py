"""Rows of SQL tables as records, in SQLite and in a real PostgreSQL."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from benchmarks.quick import process
from infra.database import DatabaseAwayError, connected, writing
from tasks import tables
from tasks.process import Process
from tasks.tables import copy_rows, has_rows
from tasks.terms import SourceTable


@pytest.fixture
def run_sql(database: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs statements in the database that ORDERS_DATABASE names."""
    monkeypatch.setenv("ORDERS_DATABASE", database)

    def run(*statements: str) -> None:
        with connected(database, "TEST") as engine, writing(engine) as connection:
            for statement in statements:
                connection.execute(text(statement))

    return run


def rows_of(tmp_path: Path, declared: SourceTable, asked: Process | None = None) -> list[dict[str, Any]]:
    path = tmp_path / "rows.jsonl"
    digest, rows = copy_rows(declared, asked or process(), path)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert (len(digest), rows) == (64, len(found))
    return found


def source(**other: Any) -> SourceTable:
    return SourceTable(database="ORDERS_DATABASE", table="orders", **other)


def test_every_row_comes_once_in_the_order_of_its_key_and_only_what_is_declared(
    run_sql: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.tables.PAGE_ROWS", 3)
    values = ", ".join(f"({number}, 'card {number}', 'secret')" for number in (7, 2, 9, 1, 4, 3))
    run_sql("CREATE TABLE orders (id INTEGER PRIMARY KEY, text TEXT, iban TEXT)", f"INSERT INTO orders VALUES {values}")
    assert rows_of(tmp_path, source()) == [{"id": number, "text": f"card {number}"} for number in (1, 2, 3, 4, 7, 9)]


def test_a_page_ends_where_its_rows_are_large(run_sql: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.tables.PAGE_BYTES", 1_000)
    texts = {number: "x" * (2_000 if number in (1, 2, 5, 9) else 300) for number in range(1, 10)}
    run_sql("CREATE TABLE orders (id INTEGER PRIMARY KEY, text TEXT)")
    for number, words in texts.items():
        run_sql(f"INSERT INTO orders VALUES ({number}, '{words}')")
    pages = list[int]()
    plain = tables._rows
    monkeypatch.setattr(tables, "_rows", lambda *asked: (found := plain(*asked), pages.append(len(found[0])))[0])
    assert rows_of(tmp_path, source()) == [{"id": number, "text": words} for number, words in texts.items()]
    assert max(pages) <= 4 and len(pages) > 4


def test_a_key_of_several_columns_and_a_view_are_read(
    run_sql: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.tables.PAGE_ROWS", 2)
    keys = [(shop, number) for shop in ("a/b", "b", "a") for number in (10, 9, 1)]
    run_sql(
        "CREATE TABLE all_orders (shop TEXT, number INTEGER, text TEXT, PRIMARY KEY (shop, number))",
        *(f"INSERT INTO all_orders VALUES ('{shop}', {number}, 'card')" for shop, number in keys),
        "CREATE VIEW orders AS SELECT * FROM all_orders WHERE number > 1",
    )
    found = rows_of(tmp_path, source(key=("shop", "number")))
    assert sorted(row["id"] for row in found) == ["a%2Fb/10", "a%2Fb/9", "a/10", "a/9", "b/10", "b/9"]
    assert [(row["shop"], row["number"]) for row in found] == sorted([key for key in keys if key[1] > 1])
    assert has_rows(source())


def test_values_become_what_json_can_hold(run_sql: Callable[..., None], tmp_path: Path) -> None:
    asked = process(records={"source": "a.jsonl", "columns": {"paid": "number", "due": {}, "box": "object"}})
    kind = "JSONB" if "postgresql" in str(run_sql) else "JSON"
    run_sql(f"CREATE TABLE orders (id INTEGER PRIMARY KEY, text TEXT, paid NUMERIC(10, 2), due DATE, box {kind})")
    run_sql("""INSERT INTO orders VALUES (1, '退款', 12.50, '2026-01-31', '{"a": [1]}'), (2, NULL, 3, NULL, NULL)""")
    first, second = rows_of(tmp_path, source(), asked)
    assert first == {"id": 1, "text": "退款", "paid": 12.5, "due": "2026-01-31", "box": {"a": [1]}}
    assert second == {"id": 2, "text": None, "paid": 3, "due": None, "box": None}


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("CREATE TABLE other (id INTEGER)", "has no table or view 'orders'"),
        ("CREATE TABLE orders (id INTEGER, body TEXT, canary_7171 TEXT)", "has no column text; columns found: 3, like declared ones: id"),
        ("CREATE VIEW orders AS SELECT NULL AS id, 'x' AS text", "rows without id"),
        ("CREATE VIEW orders AS SELECT 7171 AS id, 'x' AS text UNION ALL SELECT 7171, 'y'", "two rows have one id"),
    ],
)
def test_what_cannot_be_read_whole_is_refused(run_sql: Callable[..., None], tmp_path: Path, made: str, told: str) -> None:
    run_sql(made)
    with pytest.raises(ValueError, match=told) as error:
        rows_of(tmp_path, source())
    assert "7171" not in str(error.value)


def test_a_database_that_nobody_named_or_that_is_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"batch\.source\.database names ORDERS_DATABASE"):
        rows_of(tmp_path, source())
    monkeypatch.setenv("ORDERS_DATABASE", "postgresql://u:canary-7171@127.0.0.1:1/d")
    with pytest.raises(DatabaseAwayError, match="did not answer") as error:
        rows_of(tmp_path, source())
    assert "7171" not in str(error.value)


def test_values_that_are_no_numbers_no_days_or_no_text_cost_their_rows_at_most(
    run_sql: Callable[..., None], database: str, tmp_path: Path
) -> None:
    asked = process(records={"source": "a.jsonl", "columns": {"text": {}, "paid": "number", "due": {}}})
    if database.startswith("sqlite"):
        run_sql("CREATE TABLE orders (id INTEGER PRIMARY KEY, text TEXT, paid NUMERIC, due DATE)")
        run_sql("INSERT INTO orders VALUES (1, CAST(X'C4E3' AS TEXT), 9e999, 'yesterday'), (2, X'C4E3', 'much', '2026-01-31')")
        first, second = rows_of(tmp_path, source(), asked)
        assert (first["text"], first["paid"], first["due"]) == ("\udcc4\udce3", None, "yesterday")
        assert (second["text"], second["paid"], second["due"]) == ({"bytes": "c4e3"}, "much", "2026-01-31")
    else:
        run_sql("CREATE TABLE orders (id INTEGER PRIMARY KEY, text BYTEA, paid NUMERIC, due DATE)")
        run_sql("INSERT INTO orders VALUES (1, '\\xC4E3', 'NaN', NULL), (2, 'ok', 'Infinity', NULL), (3, NULL, 1e400, NULL)")
        found = rows_of(tmp_path, source(), asked)
        assert [row["text"] for row in found] == [{"bytes": "c4e3"}, "ok", None]
        assert [row["paid"] for row in found] == [None, None, "1" + "0" * 400]


def test_keys_of_bytes_are_told_in_hexadecimal(run_sql: Callable[..., None], database: str, tmp_path: Path) -> None:
    kind, value = ("BLOB", "X'00FF'") if database.startswith("sqlite") else ("BYTEA", "'\\x00FF'")
    run_sql(f"CREATE TABLE orders (id {kind} PRIMARY KEY, text TEXT)", f"INSERT INTO orders VALUES ({value}, 'card')")
    assert rows_of(tmp_path, source())[0]["id"] == "00ff"
