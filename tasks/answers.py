"""Answers: the ledger of what a model has said to a record -> said once, paid once, whoever asks again, after a kill or in another file.

A table in a SQL database. Its key stands for the record's id, what the model is shown, the model, and how it is asked; what is made of an
answer afterwards is not in it. Two jobs at once may both ask the model, but only the first answer counts, and both go on with it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from infra.database import connected, ledger_url, reading, upsert, writing
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.tables import url_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

TABLE = "clerkflow_answers"
FORGOTTEN = {"completion"}  # of a prediction: the output says it
FORM = [field.name for field in fields(Prediction)]  # when a prediction tells more, what was answered before does not count
MOST_PARAMETERS = 30_000  # of one statement: SQLite takes 32,766, PostgreSQL 65,535


def ledger_of(process: Process) -> tuple[str, str]:
    """URL of the ledger's database, and the variable that says it: that of the table of results, so that one transaction holds both."""
    sink = process.batch.sink
    named = sink.database if sink else None
    return (url_of(named, "batch.sink"), named) if named else (ledger_url(), "CLERKFLOW_LEDGER_URL")


def key_of(model: str, decoding: str, id: str, prompt: str) -> bytes:
    """What an answer is found by, 32 bytes.

    Args:
        model: the root of the published version, which stands for the template of the prompt, too.
        decoding: what else decides the answer.
    """
    text = json.dumps([FORM, model, decoding, id, prompt])
    return hashlib.sha256(text.encode()).digest()


@cache
def _table() -> "Table":
    from sqlalchemy import Column, DateTime, LargeBinary, MetaData, String, Table, Text

    return Table(
        TABLE,
        MetaData(),
        Column("key", LargeBinary(32), primary_key=True),
        Column("process", String(63), nullable=False),
        Column("at", DateTime(timezone=True), nullable=False),
        Column("answer", Text, nullable=False),  # JSON
        sqlite_with_rowid=False,
    )


@contextmanager
def opened_ledger(url: str, name: str) -> Iterator["Answers"]:
    """The ledger in a database, made when it is not there.

    Args:
        name: of the environment variable that holds the URL.

    Raises:
        DatabaseAwayError: the database does not answer.
        ValueError: no such database can be used.
    """
    with connected(url, name) as engine:
        make_table(engine, _table())
        yield Answers(engine)


def make_table(engine: "Engine", table: "Table") -> None:
    """A table that is there afterwards; nothing happens when it is there already, and two that make it at once do not collide."""
    from sqlalchemy import inspect, text
    from sqlalchemy.schema import CreateTable

    with reading(engine) as connection:
        if inspect(connection).has_table(table.name, schema=table.schema):
            return
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":  # two that create one name at once fail, even with IF NOT EXISTS
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": table.name})
        connection.execute(CreateTable(table, if_not_exists=True))


class Answers:
    """What models have said, in one database."""

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine

    def known(self, keys: Sequence[bytes]) -> dict[bytes, Prediction]:
        """The answers among these that are there."""
        with reading(self.engine) as connection:
            return _read(connection, keys)

    @contextmanager
    def keep(self, process: str, said: Mapping[bytes, Prediction]) -> Iterator[tuple["Connection", dict[bytes, Prediction]]]:
        """A transaction that holds new answers, and what counts: where another job was faster, its answer.

        Whatever the body writes through the connection is there together with the answers, or not at all.
        """
        with writing(self.engine) as connection:
            yield connection, _enter(connection, process, said)

    def forget(self, process: str, line: datetime, dry_run: bool) -> dict[str, int]:
        """Remove what was answered to a process's records before a time: how many answers, and their bytes.

        A part of the keys at a time, so that a job which answers meanwhile does not wait for long.
        """
        from sqlalchemy import func, select

        table, found = _table(), {"objects": 0, "bytes": 0}
        told = select(func.count(), func.coalesce(func.sum(func.length(table.c.answer)), 0))
        for first in range(256):
            old = [table.c.process == process, table.c.at < line, table.c.key >= bytes([first])]
            old += [table.c.key < bytes([first + 1])] if first < 255 else []
            with reading(self.engine) if dry_run else writing(self.engine) as connection:
                objects, size = connection.execute(told.where(*old)).one()
                if objects and not dry_run:
                    connection.execute(table.delete().where(*old))
            found = {"objects": found["objects"] + objects, "bytes": found["bytes"] + size}
        return found


def _read(connection: "Connection", keys: Sequence[bytes]) -> dict[bytes, Prediction]:
    from sqlalchemy import select

    table, found = _table(), dict[bytes, Prediction]()
    for start in range(0, len(keys), MOST_PARAMETERS):
        rows = connection.execute(select(table.c.key, table.c.answer).where(table.c.key.in_(keys[start : start + MOST_PARAMETERS])))
        found |= {bytes(key): from_json(answer) for key, answer in rows}
    return found


def _enter(connection: "Connection", process: str, said: Mapping[bytes, Prediction]) -> dict[bytes, Prediction]:
    """Insert what is not there yet, in the order of keys, so that two jobs never wait for each other in a circle."""
    if not said:
        return {}
    table, now = _table(), datetime.now(UTC)
    rows = [{"key": key, "process": process, "at": now, "answer": as_json(said[key])} for key in sorted(said)]
    insert = upsert(connection, table).on_conflict_do_nothing()
    if connection.execute(insert, rows, execution_options={"preserve_rowcount": True}).rowcount == len(rows):
        return dict(said)
    there = _read(connection, list(said))
    return {key: own if from_json(as_json(own)) == there[key] else there[key] for key, own in said.items()}


def as_json(prediction: Prediction) -> str:
    """A prediction as ASCII JSON, which every database takes: NUL and halves of surrogate pairs are escaped."""
    return json.dumps({name: getattr(prediction, name) for name in FORM if name not in FORGOTTEN})


def from_json(text: str) -> Prediction:
    """What `as_json` wrote; without the completion."""
    told: dict[str, Any] = dict.fromkeys(FORGOTTEN, "") | json.loads(text)
    return Prediction(**told)
