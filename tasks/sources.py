"""Sources: a file on disk, or a key of the store -> bytes on this machine, and their name among batches."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from infra.store import MissingObject, Store, copy_to
from tasks.artifacts import copy_name, file_digest, modified_at, scratch, shown
from tasks.encodings import byte_lines, encoding_of, text_of
from tasks.process import Process, digest_of
from tasks.readers import Reader, columns_told, parse_object
from tasks.records import Record
from tasks.terms import SourceTable

LOOK_AT = 100  # records that show which columns a file has


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be scored: its bytes on this machine, and what they are called."""

    path: Path
    name: str  # the key, or the file's name; sql:<table> for the rows of a table
    sha256: str
    modified: tuple[int, int, int]  # before it was hashed, see `modified_at`
    location: str  # what `opened` finds it by again


@contextmanager
def opened(store: Store, name: str, process: Process | None = None) -> Iterator[Source]:
    """A file on disk, a key's object, or the rows of the declared table, copied to this machine.

    Args:
        process: who may have declared a table.

    Raises:
        DatabaseAwayError: the table's database does not answer.
        ValueError: there is none of them.
    """
    path, declared = Path(name), process.batch.source if process else None
    if process and declared and name == table_name(declared):
        from tasks.tables import copy_rows

        with scratch() as folder:
            digest, _ = copy_rows(declared, process, copy := folder / "rows.jsonl")
            yield Source(copy, name, digest, modified_at(copy), name)
        return
    if os.path.isfile(name):  # noqa: PTH113 - Path.is_file raises for a name that is too long
        if not _is_text(name):
            raise ValueError(f"{shown(path.name)} has a name that is not UTF-8, which no manifest can hold; rename it")
        modified = modified_at(path)
        yield Source(path, path.name, file_digest(path), modified, str(path.absolute()))
        return
    with scratch() as folder:
        copy = folder / copy_name(name)
        try:
            digest = copy_to(store, name, copy)
        except (MissingObject, ValueError):
            raise _nowhere(name, store) from None
        yield Source(copy, name, digest, modified_at(copy), name)


def check_source(store: Store, name: str, process: Process) -> None:
    """That there is a source of this name, which may be a declared table's.

    Raises:
        ValueError: there is none.
    """
    if (process.batch.source and name == table_name(process.batch.source)) or os.path.isfile(name):  # noqa: PTH113 - as in `opened`
        return
    with suppress(ValueError):
        if store.stat(name):
            return
    raise _nowhere(name, store)


def _nowhere(name: str, store: Store) -> ValueError:
    return ValueError(f"{name!r} is neither a file here nor a key of {store.uri}")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def source_id(source_sha256: str, name: str, process: Process) -> str:
    """A source as the beginning of its batches' names: the same bytes under another ending are read differently."""
    reading = process.records.model_dump(mode="json", include={"encoding", "sheet", "key"})
    return digest_of([source_sha256, Path(name).suffix.lower(), reading])[:16]


def table_name(declared: SourceTable) -> str:
    """What a declared table is called among sources."""
    return f"sql:{declared.table}"


def read_as_today(own: Process, today: Process, source: Source) -> Process:
    """The model's own declaration, with today's word on ids, encoding and sheet: these say how a file is read, not what the model takes."""
    update = {name: getattr(today.records, name) for name in ("key", "encoding", "sheet")}
    if today.batch.source and source.name == table_name(today.batch.source):
        update["encoding"] = None  # the copy is ours
    return own.model_copy(update={"records": own.records.model_copy(update=update)})


def check_columns(path: Path, name: str, process: Process) -> None:
    """That the first records of a file have a value that the prompt shows; tables are also checked by their reader.

    Raises:
        ValueError: they have none; the message names the columns expected, and of those found the ones like them.
    """
    reader = Reader(path, name, process, labelled=False)
    first = [row for row in islice(reader, LOOK_AT) if isinstance(row, Record)]
    if not first or any(record.values.get(path) is not None for record in first for path in process.input_columns):
        return
    told = f"{name}: no value in the prompt's columns {', '.join(process.input_columns)} in the first {len(first)} records"
    if reader.facts["format"] == "jsonl":
        told += f"; {columns_told(_names_in(path, process), process)}"
    raise ValueError(told)


def _names_in(path: Path, process: Process) -> Collection[str]:
    """The names in the first objects of a file of JSON lines."""
    found: dict[str, None] = {}
    for line, _ in islice(byte_lines(path, encoding := encoding_of(path, process.records.encoding)), LOOK_AT):
        with suppress(ValueError):
            found |= dict.fromkeys(parse_object(text_of(line, encoding)))
    return found
