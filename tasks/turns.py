"""Turns: which batch of a declared table's rows its table of results shows -> rows that change back to what they were are shown again.

A batch is named after its bytes, so one of rows that were scored before is found again, and nothing happens. But when other rows were
scored in between, the table of results shows those: then the batch is made once more, under a name that says what it came after, from
answers that the ledger has. So it is when the table of results was emptied, or is another one. A kill between any two steps changes no
name.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from infra.database import reading, upsert
from tasks.answers import make_table

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table


@dataclass(frozen=True, slots=True)
class Turn:
    """A batch of a declared table's rows, and the one before it."""

    process: str
    source: str  # its name among sources
    plain: str  # these rows, how they are read, who answers, what is accepted, and into which table: what else is made does not count
    batch: str  # that has moved their answers there
    after: str = ""  # the batch that it came after, where these rows had been scored before that one


@cache
def _table() -> "Table":
    from sqlalchemy import Column, DateTime, MetaData, String, Table, Text

    keys = Column("process", String(63), primary_key=True), Column("source", Text, primary_key=True)
    told = (Column(name, String(255), nullable=False) for name in ("plain", "batch", "after"))
    return Table("clerkflow_turns", MetaData(), *keys, *told, Column("at", DateTime(timezone=True), nullable=False))


def latest_turn(engine: "Engine", process: str, source: str) -> Turn | None:
    """The last batch of a source whose rows went into the table of results; None when there was none."""
    from sqlalchemy import select

    table = _table()
    make_table(engine, table)
    wanted = select(*(table.c[name] for name in ("plain", "batch", "after"))).where(table.c.process == process, table.c.source == source)
    with reading(engine) as connection:
        found = connection.execute(wanted).first()
    return Turn(process, source, *found) if found else None


def take_turn(connection: "Connection", turn: Turn) -> None:
    """Note whose rows the table of results shows, in the transaction that moves them there."""
    row = {name: getattr(turn, name) for name in turn.__slots__} | {"at": datetime.now(UTC)}
    insert = upsert(connection, _table()).values(row)
    connection.execute(insert.on_conflict_do_update(index_elements=["process", "source"], set_=row))
