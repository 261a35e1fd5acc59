"""Results: predictions -> rows of a SQL table, which shows whole batches only.

Rows of a batch that is being made stand in a table beside it, written in one transaction with the ledger's answers; when the batch is
whole, one transaction moves them into the table. A key that is there already is updated, so that the same batch again changes nothing.
Rows of records that wait for a person in this batch, or are dead in it, are taken out: they were answers to what these held before. A row
whose record is not in the source any more stays: a source may be a part of what there is. What an audit corrects is updated, too, and what
it rejects is deleted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

from infra.database import address, reading, upsert, writing
from tasks.answers import MOST_PARAMETERS, make_table
from tasks.contents import CHUNK_IDS, Contents, Seen
from tasks.process import Column, Process, digest_of
from tasks.reasons import Reason
from tasks.reviews import Reviewed
from tasks.sinks import Predicted, whole_text
from tasks.terms import SinkTable
from tasks.turns import Turn, take_turn
from tasks.words import REVIEWED

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

OWN = ("record_id", "confidence", "model_version", "batch")  # columns beside the outputs
STAGED = ("clerkflow_line", "clerkflow_item", "clerkflow_at")  # and of rows that are not in the table yet
MOST_ID_BYTES = 2_000  # PostgreSQL's index takes some 2,700, with the batch's name
LARGEST_INTEGER = 2**63 - 1
STALE_DAYS = 7  # after which rows of a batch that was never finished go


class ResultTable:
    """The table that a process's results go to.

    Raises:
        DatabaseAwayError: the database does not answer.
        ValueError: the table is there, and cannot hold these results; all reasons are told.
    """

    def __init__(self, engine: "Engine", declared: SinkTable, process: Process) -> None:
        from sqlalchemy import MetaData, Table, inspect

        self.engine, self.process = engine, process
        self.outputs = output_columns(process)
        schema, _, name = declared.table.rpartition(".")
        self.table = Table(name, MetaData(), *self._columns(), schema=schema or None)
        staged = self._staged_columns()
        shape = digest_of([declared.table, *(f"{column.name} {column.type}" for column in staged)])
        self.staged = Table(f"clerkflow_staged_{shape[:12]}", MetaData(), *staged)
        with reading(engine) as connection:
            there = inspect(connection).has_table(name, schema=schema or None)
        if there:
            self._check_fits()
        make_table(engine, self.table)
        make_table(engine, self.staged)
        self.contents = Contents(engine, declared)
        with writing(engine) as connection:
            connection.execute(self.staged.delete().where(self.staged.c.clerkflow_at < datetime.now(UTC) - timedelta(days=STALE_DAYS)))

    def _columns(self) -> list[Any]:
        from sqlalchemy import Column, Double, String, Text

        outputs = [Column(name, _type_of(column), nullable=True) for name, column in self.outputs.items()]
        own = [Column("confidence", Double, nullable=False), Column("model_version", String(64), nullable=False)]
        return [Column("record_id", Text, primary_key=True), *outputs, *own, Column("batch", String(255), nullable=False)]

    def _staged_columns(self) -> list[Any]:
        from sqlalchemy import BigInteger, Column, DateTime, String

        columns = self._columns()
        columns[-1].primary_key = True
        own = [Column("clerkflow_line", BigInteger, nullable=False), Column("clerkflow_item", String(32), nullable=False)]
        return [*columns, *own, Column("clerkflow_at", DateTime(timezone=True), nullable=False)]

    def _check_fits(self) -> None:
        """That the table which is there has these columns, each of its kind, a key, and no other column that must be filled."""
        from sqlalchemy import inspect

        from tasks.tables import reflected

        there = reflected(self.engine, f"{self.table.schema}.{self.table.name}" if self.table.schema else self.table.name)
        faults = [f"no column {column.name} ({column.type})" for column in self.table.columns if column.name not in there.columns]
        for column in self.table.columns:
            found = there.columns.get(column.name)
            if found is not None and not _is_of_kind(found.type, column.type):
                faults.append(f"column {column.name} is {found.type}, and {column.type} is needed")
        for found in there.columns:
            if found.name not in self.table.columns and not found.nullable and found.server_default is None and not found.identity:
                faults.append(f"column {found.name} must be filled, and no result fills it")
        with reading(self.engine) as connection:
            unique = inspect(connection).get_unique_constraints(there.name, schema=there.schema)
        keys = [tuple(key.name for key in there.primary_key.columns), *(tuple(one["column_names"]) for one in unique)]
        if ("record_id",) not in keys:
            faults.append("record_id is neither its primary key nor unique")
        if faults:
            what = f"{self.table.name} cannot hold the results of {self.process.name}"
            raise ValueError(f"{address(self.engine.url)}: {what}: {'; '.join(faults)}")

    def begin(self, batch: str) -> None:
        """Remove what an attempt at a batch has left behind that was not finished: what it accepted may be refused now."""
        with writing(self.engine) as connection:
            connection.execute(self.staged.delete().where(self.staged.c.batch == batch))

    def stage(
        self, connection: "Connection", batch: str, rows: Sequence[Predicted], known: Mapping[int, str] | None = None
    ) -> dict[int, tuple[Reason, str]]:
        """Put rows beside the table; line -> why a row cannot stand there.

        Of two records with one id the first one stands.

        Args:
            known: line -> what its record is known by to people who review; see `publish`.
        """
        left: dict[int, tuple[Reason, str]] = {}
        cells: dict[str, dict[str, Any]] = {}
        now = datetime.now(UTC)
        for row in rows:
            try:
                own = {"batch": batch, "clerkflow_line": row.line, "clerkflow_item": (known or {}).get(row.line, ""), "clerkflow_at": now}
                values = self._cells(row) | own
            except ValueError:
                left[row.line] = Reason.UNPARSEABLE, "a value does not fit its column of the table"
                continue
            if values["record_id"] in cells:
                left[row.line] = DOUBLED
            else:
                cells[values["record_id"]] = values
        if cells:
            taken = self._upsert_staged(connection, [cells[id] for id in sorted(cells)])
            left |= {values["clerkflow_line"]: DOUBLED for id, values in cells.items() if id not in taken}
        return left

    def _upsert_staged(self, connection: "Connection", rows: Sequence[Mapping[str, Any]]) -> set[str]:
        """Write rows whose place is free or their own, from a time before; the ids of those written."""
        insert = upsert(connection, self.staged)
        update = {column.name: insert.excluded[column.name] for column in self.staged.columns if not column.primary_key}
        same = self.staged.c.clerkflow_line == insert.excluded.clerkflow_line
        keys = [self.staged.c.record_id, self.staged.c.batch]
        written = connection.execute(
            insert.on_conflict_do_update(index_elements=keys, set_=update, where=same).returning(self.staged.c.record_id), rows
        )
        return {id for (id,) in written}

    def publish(self, batch: str, seen: Seen | None = None, turn: Turn | None = None) -> int:
        """Move a batch's rows into the table, all at once; how many.

        Args:
            seen: what else its records are; None when no record was looked at, for people have spoken about those whose rows these are.
            turn: is noted, for rows of a declared table.
        """
        from sqlalchemy import select

        names = [column.name for column in self.table.columns]
        mine = select(*(self.staged.c[name] for name in names)).where(self.staged.c.batch == batch).order_by(self.staged.c.record_id)
        with writing(self.engine) as connection:
            if seen:
                self._take_out(connection, batch, seen)
                self.contents.note_staged(connection, batch, self.staged, seen.shown)
            else:
                self.contents.mark(connection, select(self.staged.c.record_id).where(self.staged.c.batch == batch), there=True)
            insert = upsert(connection, self.table).from_select(names, mine)
            update = {name: insert.excluded[name] for name in names if name != "record_id"}
            connection.execute(insert.on_conflict_do_update(index_elements=["record_id"], set_=update))
            if turn:
                take_turn(connection, turn)
            return connection.execute(self.staged.delete().where(self.staged.c.batch == batch)).rowcount

    def _take_out(self, connection: "Connection", batch: str, seen: Seen) -> None:
        """Delete rows of records that get none from this batch; a person's answer to the very same content stays.

        Of those spoken about meanwhile, the word may be in the table already: it stays, too, where nobody knows what it is on.
        """
        from sqlalchemy import and_, not_

        rows, left_out = self.table.c, dict(self._left_out(connection, batch, seen.later))
        texts = ((_text(id), item) for id, item in chain(seen.absent, left_out.items()))
        for chunk in _chunks((id, item) for id, item in texts if len(id.encode()) <= MOST_ID_BYTES):
            known = self.contents.of(connection, list(chunk))
            same = [id for id, (was, _) in known.items() if was == chunk[id] != ""]
            same += [id for id in chunk if id in left_out and (id not in known or known[id][1] != list(seen.shown))]
            stays = and_(rows.model_version == REVIEWED, rows.record_id.in_(same))
            connection.execute(self.table.delete().where(rows.record_id.in_(chunk), not_(stays)))
            self.contents.note(connection, batch, chunk, seen.shown)

    def _left_out(self, connection: "Connection", batch: str, later: Sequence[str]) -> list[tuple[str, str]]:
        """Drop the rows of a batch that people have spoken about meanwhile; their ids, and what they are known by."""
        found: list[tuple[str, str]] = []
        for start in range(0, len(later), MOST_PARAMETERS):
            over = self.staged.c.clerkflow_item.in_(later[start : start + MOST_PARAMETERS])
            gone = self.staged.delete().where(self.staged.c.batch == batch, over)
            found += connection.execute(gone.returning(self.staged.c.record_id, self.staged.c.clerkflow_item)).tuples()
        return found

    def judge(self, words: Sequence[Reviewed]) -> dict[str, bool | None]:
        """Id of a word -> whether it is on what its record held when it was seen last; None where nobody knows."""
        by_id: dict[str, list[Reviewed]] = {}
        for word in words:
            by_id.setdefault(_text(word.record_id), []).append(word)
        return self.contents.judge(by_id)

    def withdraw(self, ids: Sequence[str], versions: Iterable[str]) -> int:
        """Delete the rows of records whose answers are of these versions; how many there were."""
        gone, texts = 0, [_text(id) for id in ids]
        with writing(self.engine) as connection:
            for start in range(0, len(texts), MOST_PARAMETERS):
                these = self.table.c.record_id.in_(texts[start : start + MOST_PARAMETERS]), self.table.c.model_version.in_(versions)
                taken = connection.execute(self.table.delete().where(*these).returning(self.table.c.record_id)).scalars().all()
                self.contents.mark(connection, taken, there=False)
                gone += len(taken)
        return gone

    def _cells(self, row: Predicted) -> dict[str, Any]:
        """A prediction as a row.

        Raises:
            ValueError: a value is none of its column's type.
        """
        if len(row.record_id.encode("utf-8", "replace")) > MOST_ID_BYTES:
            raise ValueError("record_id")
        outputs = row.output if self.process.output.kind == "fields" else dict.fromkeys(self.outputs, row.output)
        cells = {name: _cell(outputs.get(name), column) for name, column in self.outputs.items()}
        own = {"record_id": _text(row.record_id), "confidence": row.confidence, "model_version": row.model_version}
        return cells | own


DOUBLED = Reason.DOUBLED_ID, "another record of this batch has its id"


def output_columns(process: Process) -> dict[str, Column]:
    """Name of a result's column -> what it holds: each field; or the label or text under its column's name."""
    output = process.output
    if output.kind == "fields":
        return dict(output.fields or {})
    path = output.label or output.text or ""
    return {path: process.column(path)}


def _chunks(pairs: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Ids with what they are known by, some at a time; of two with one id in a chunk the last."""
    chunk: dict[str, str] = {}
    for id, item in pairs:
        chunk[id] = item
        if len(chunk) == CHUNK_IDS:
            yield chunk
            chunk = {}
    if chunk:
        yield chunk


def _type_of(column: Column) -> Any:
    """The SQL type of a declared output."""
    from sqlalchemy import JSON, BigInteger, Boolean, Date, Double, Text

    if column.list:
        return JSON()
    kinds = {"integer": BigInteger, "number": Double, "boolean": Boolean, "date": Date, "object": JSON, "string": Text}
    return kinds[column.type]()


def _is_of_kind(found: Any, needed: Any) -> bool:
    """Whether a column that is there holds what is needed; longer or shorter texts and numbers are of a kind."""
    from sqlalchemy import JSON, Boolean, Date, Integer, Numeric, String

    kinds = (JSON, Boolean, Date, Integer, Numeric, String)
    return any(isinstance(found, kind) and isinstance(needed, kind) for kind in kinds)


def _cell(value: Any, column: Column) -> Any:
    if value is None:
        return None
    if column.list or column.type == "object":
        return _json(value)
    if column.type == "date":
        return date.fromisoformat(str(value))
    kinds: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "boolean": (bool,)}
    if column.type not in kinds:
        return _text(str(value))
    if not isinstance(value, kinds[column.type]) or (column.type != "boolean" and isinstance(value, bool)):
        raise ValueError(column.type)
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError("larger than a database's integers")
    return value


def _text(text: str) -> str:
    """Text that PostgreSQL takes: no NUL, no half of a surrogate pair."""
    return whole_text(text).replace("\0", "\N{REPLACEMENT CHARACTER}")


def _json(value: Any) -> Any:
    """Lists and objects whose texts PostgreSQL takes."""
    if isinstance(value, Mapping):
        return {_text(str(name)): _json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return _text(value) if isinstance(value, str) else value
