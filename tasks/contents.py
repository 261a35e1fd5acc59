"""Contents: which content of a record its row in the table of results stands for -> a word on an older one changes no row.

A line for each id, in a table of its own, written in the transaction that moves rows. Records that wait for a person or are dead have a
line, too, so that the word on what was seen last is known from words on what the record held before. What was scored before there were
such lines has none, and then nobody knows.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.database import reading, upsert
from tasks.answers import make_table
from tasks.process import digest_of
from tasks.readers import UnreadableRowError, id_of, parse_object
from tasks.reasons import Reason
from tasks.reviews import Reviewed, shown_id
from tasks.routing import FILE as REVIEW
from tasks.rows import json_rows
from tasks.sinks import LETTERS
from tasks.terms import SinkTable

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

CHUNK_IDS = 10_000  # of one statement; SQLite takes 32,766 parameters


@dataclass(frozen=True, slots=True)
class Seen:
    """What a batch knows of its records beside the rows that it moves."""

    shown: tuple[str, ...]  # paths that the model was shown: by their values a content is known
    absent: Iterable[tuple[str, str]] = ()  # id, and what the content is known by, of records that wait for a person or are dead
    later: Sequence[str] = ()  # what is known by that people have spoken about meanwhile; its rows are left out: theirs is the last word


def absent_in(
    folder: Path, known_by: Callable[[str, Mapping[str, Any]], str], key: str, replayed: bool = False
) -> Iterator[tuple[str, str]]:
    """Id, and what the content is known by, of each record that a batch's files keep for a person or hold as a dead letter.

    A row that could not be read is known by nothing, but for its id, where that can be read: a table's row keeps it whatever else it
    holds. Another record stands for one whose id came before, and nobody saw one that is gone.

    Args:
        key: the column that holds a record's id.
        replayed: whether the batch replays another, which has seen to its dead letters: a row that their id has is another record's.
    """
    for row in json_rows(folder / REVIEW):
        yield row["record_id"], known_by(row["record_id"], row["inputs"])
    if replayed:
        return
    for row in json_rows(folder / LETTERS):
        if row["code"] == Reason.UNREADABLE:
            with suppress(UnreadableRowError):
                if id := id_of(parse_object(row["content"]), key):
                    yield id, ""
        elif row["code"] not in (Reason.DOUBLED_ID, Reason.REPEATED, Reason.GONE):
            yield row["record_id"], known_by(row["record_id"], json.loads(row["content"]))


class Contents:
    """The lines of one table of results."""

    def __init__(self, engine: "Engine", declared: SinkTable) -> None:
        self.engine, self.declared = engine, declared
        self.table = _table(f"clerkflow_contents_{digest_of(declared.table)[:12]}")
        make_table(engine, self.table)

    def of(self, connection: "Connection", ids: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
        """Id -> what its content is known by, and the paths whose values make that; of those that have a line."""
        from sqlalchemy import select

        wanted, found = select(self.table.c.record_id, self.table.c.item, self.table.c.shown), dict[str, tuple[str, list[str]]]()
        for start in range(0, len(ids), CHUNK_IDS):
            rows = connection.execute(wanted.where(self.table.c.record_id.in_(ids[start : start + CHUNK_IDS])))
            found |= {id: (item, json.loads(shown)) for id, item, shown in rows}
        return found

    def judge(self, words: Mapping[str, Sequence[Reviewed]]) -> dict[str, bool | None]:
        """Id of a word -> whether it is on the content that was seen last; None where nobody knows.

        Args:
            words: by the id that their records have in the table.
        """
        with reading(self.engine) as connection:
            known = self.of(connection, list(words))
        found: dict[str, bool | None] = {}
        for id, said in words.items():
            item, shown = known.get(id, ("", []))
            found |= {word.id: shown_id(word.record_id, word.inputs, shown) == item if id in known else None for word in said}
        return found

    def note(self, connection: "Connection", batch: str, seen: Mapping[str, str], shown: Sequence[str]) -> None:
        """Lines of records that have no row: id -> what the content is known by."""
        own = {"shown": json.dumps(list(shown)), "batch": batch, "there": False}
        rows = [{"record_id": id, "item": seen[id]} | own for id in sorted(seen)]
        if rows:
            connection.execute(self._upsert(connection, upsert(connection, self.table)), rows)

    def note_staged(self, connection: "Connection", batch: str, staged: "Table", shown: Sequence[str]) -> None:
        """Lines of a batch's rows, from where these stand before they are moved."""
        from sqlalchemy import literal, select, true

        own = literal(json.dumps(list(shown))), staged.c.batch, true()
        rows = select(staged.c.record_id, staged.c.clerkflow_item, *own).where(staged.c.batch == batch, staged.c.clerkflow_item != "")
        insert = upsert(connection, self.table).from_select(list(self.table.columns.keys()), rows.order_by(staged.c.record_id))
        connection.execute(self._upsert(connection, insert))

    def _upsert(self, connection: "Connection", insert: Any) -> Any:
        update = {column.name: insert.excluded[column.name] for column in self.table.columns if not column.primary_key}
        return insert.on_conflict_do_update(index_elements=["record_id"], set_=update)

    def mark(self, connection: "Connection", ids: Any, there: bool) -> None:
        """Note that records have a row from now on, or have none any more.

        Args:
            ids: of records, or a query that gives them.
        """
        connection.execute(self.table.update().where(self.table.c.record_id.in_(ids)).values(there=there))

    def is_emptied(self, batch: str) -> bool:
        """Whether a batch's records had rows, and the table of results holds none for any of them."""
        from sqlalchemy import Column, MetaData, Table, Text, exists, inspect, select

        schema, _, name = self.declared.table.rpartition(".")
        rows = Table(name, MetaData(), Column("record_id", Text), schema=schema or None)
        mine = select(self.table.c.record_id).where(self.table.c.batch == batch, self.table.c.there.is_(True)).limit(1)
        left = mine.where(exists().where(rows.c.record_id == self.table.c.record_id))
        with reading(self.engine) as connection:
            if connection.execute(mine).first() is None:
                return False
            return not inspect(connection).has_table(name, schema=schema or None) or connection.execute(left).first() is None


def _table(name: str) -> "Table":
    from sqlalchemy import Boolean, Column, MetaData, String, Table, Text

    own = [Column("item", String(32), nullable=False), Column("shown", Text, nullable=False), Column("batch", String(255), nullable=False)]
    return Table(name, MetaData(), Column("record_id", Text, primary_key=True), *own, Column("there", Boolean, nullable=False))
