"""Tables: the rows of a SQL table or view -> JSON lines on this machine, in the order of its key and a page at a time.

What is scored is the copy: it has a digest, as a file has, and rows that change meanwhile belong to the next batch.
"""

import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from infra.database import address, connected, reading
from tasks.process import Process
from tasks.readers import columns_told, stands_in
from tasks.terms import SourceTable

if TYPE_CHECKING:
    from sqlalchemy import Column, Engine, Row, Select, Table

PAGE_ROWS, PAGE_BYTES = 2_000, 16 * 2**20  # of a page, whichever comes first

Make = Callable[[Any], Any]


def url_of(variable: str, place: str) -> str:
    """The URL that an environment variable holds.

    Args:
        place: in the declaration, for the message.

    Raises:
        ValueError: it is not set here.
    """
    if url := os.environ.get(variable):
        return url
    raise ValueError(f"{place}.database names {variable}, which this machine's environment does not set")


def copy_rows(declared: SourceTable, process: Process, path: Path) -> tuple[str, int]:
    """Write a table's rows as JSON lines; the digest of these bytes, and how many rows.

    Only the key and what the declaration names is read.

    Raises:
        DatabaseAwayError: the database does not answer.
        ValueError: no such table, it lacks a column, or its key is not there in each row, or not once.
    """
    digest, rows = hashlib.sha256(), 0
    with connected(url_of(declared.database, "batch.source"), declared.database) as engine, path.open("wb") as stream:
        table = reflected(engine, declared.table)
        names = _columns(table, declared, process, address(engine.url))
        for row in _pages(engine, table, names, declared.key):
            line = json.dumps(_plain_row(row, names, declared.key, process.records.key), default=_plain) + "\n"
            content = line.encode()
            stream.write(content)
            digest.update(content)
            rows += 1
    return digest.hexdigest(), rows


def has_rows(declared: SourceTable) -> bool:
    """Whether there is anything to read. Raises as `copy_rows`."""
    from sqlalchemy import select

    with connected(url_of(declared.database, "batch.source"), declared.database) as engine:
        table = reflected(engine, declared.table)
        with reading(engine) as connection:
            return connection.execute(select(1).select_from(table).limit(1)).first() is not None


def reflected(engine: "Engine", name: str) -> "Table":
    """A table or view as it is, by `name` or `schema.name`.

    Raises:
        ValueError: there is none.
    """
    from sqlalchemy import MetaData, Table

    schema, _, plain = name.rpartition(".")
    with reading(engine) as connection:
        return Table(plain, MetaData(), schema=schema or None, autoload_with=connection)


def _columns(table: "Table", declared: SourceTable, process: Process, where: str) -> list[str]:
    """The columns to be read, the key's first."""
    there = [column.name for column in table.columns]
    missing = [name for name in declared.key if name not in there]
    missing += [path for path, column in process.input_columns.items() if not column.optional and not stands_in(there, path)]
    if missing:
        raise ValueError(f"{where}: {declared.table} has no column {', '.join(missing)}; {columns_told(there, process)}")
    wanted = [name for name in there if any(_is_part(name, path) for path in process.columns)]
    return list(dict.fromkeys([*declared.key, *wanted]))


def _is_part(name: str, path: str) -> bool:
    """Whether a column holds a path, an object that it is in, or a part of it."""
    return name == path or path.startswith(f"{name}.") or name.startswith(f"{path}.")


def _pages(engine: "Engine", table: "Table", names: Sequence[str], key: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """All rows in the order of the key; each page is asked for by the last key of the one before, in a transaction of its own."""
    from sqlalchemy import func, or_, select, tuple_

    order = [table.c[name] for name in key]
    with reading(engine) as connection:
        if connection.scalar(select(func.count()).where(or_(*(column.is_(None) for column in order)))):
            raise ValueError(f"{table.name} has rows without {', '.join(key)}: each row needs its key")
    loose = [table.c[name] for name in names[len(key) :]] if engine.dialect.name == "sqlite" else []  # it keeps words among days, too
    makers = [_maker(column, engine) for column in loose]
    typed = [table.c[name] for name in names[: len(names) - len(loose)]]
    page: Select[Any] = select(*typed, *map(_as_stored, loose)).order_by(*order).limit(PAGE_ROWS + 1)
    last: tuple[Any, ...] | None = None
    while True:
        asked = page if last is None else page.where(tuple_(*order) > tuple_(*last) if len(order) > 1 else order[0] > last[0])
        rows, ended = _rows(engine, asked, table.name)
        keys = [tuple(row[: len(key)]) for row in rows]
        if any(one == other for one, other in itertools.pairwise(keys)):
            raise ValueError(f"{table.name}: two rows have one {', '.join(key)}; batch.source.key must tell rows apart")
        for row in rows if ended else rows[:-1]:  # the last one is read again, in front of the next page
            yield (*row[: len(typed)], *(make(value) for make, value in zip(makers, row[len(typed) :], strict=True)))
        if ended:
            return
        last = keys[-2]


def _rows(engine: "Engine", asked: "Select[Any]", name: str) -> tuple[list["Row[Any]"], bool]:
    """A page and a row beyond it, two rows at least where there are so many; and whether none is left behind them."""
    rows, size = list["Row[Any]"](), 0
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite" and (driver := connection.connection.driver_connection):
            driver.text_factory = _any_text
        try:
            with connection.execute(asked, execution_options={"stream_results": True}) as found:
                for row in found:
                    rows.append(row)
                    size += sum(len(value) for value in row if isinstance(value, str | bytes | memoryview))
                    if len(rows) > PAGE_ROWS or (len(rows) > 1 and size > PAGE_BYTES):
                        return rows, False
            return rows, True
        except (TypeError, ValueError, OverflowError) as error:  # of what makes Python's values
            raise ValueError(f"{name}: a value cannot be read: {type(error).__name__}") from None


def _any_text(stored: bytes) -> str:
    """A text, whose bytes that are no UTF-8 become halves of surrogate pairs: the reader refuses that row, and not the table."""
    return stored.decode(errors="surrogateescape")


def _as_stored(column: "Column[Any]") -> Any:
    """A column's values as they are stored, without its type."""
    from sqlalchemy import type_coerce
    from sqlalchemy.types import NullType

    return type_coerce(column, NullType())


def _maker(column: "Column[Any]", engine: "Engine") -> Make:
    """What its type makes of a stored value; what it cannot make anything of stays as it is."""
    make = column.type.dialect_impl(engine.dialect).result_processor(engine.dialect, None)

    def made(value: Any) -> Any:
        try:
            return make(value) if make else value
        except (TypeError, ValueError, OverflowError, ArithmeticError):
            return value

    return made


def _plain_row(row: Sequence[Any], names: Sequence[str], key: Sequence[str], id: str) -> dict[str, Any]:
    """A row by column name, with its key as the record's id; parts of a key that has several are joined by slashes."""
    values = {name: None if _is_no_number(value) else value for name, value in zip(names, row, strict=True)}
    parts = [bytes(part).hex() if isinstance(part, bytes | memoryview) else part for part in row[: len(key)]]
    return values | {id: parts[0] if len(parts) == 1 else "/".join(quote(str(part), safe="") for part in parts)}


def _plain(value: Any) -> Any:
    """A database's value as JSON can hold it; bytes that are no text become what no column takes, so that they are no text by mistake."""
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return {"bytes": bytes(value).hex()}
    return str(value)


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _number(value: Decimal) -> int | float | str | None:
    if not value.is_finite():
        return None
    if value.adjusted() > sys.float_info.max_10_exp:
        return str(value)  # which no column of numbers takes
    return int(value) if value == value.to_integral_value() else float(value)
