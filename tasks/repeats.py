"""Repeats: the ids of a batch's records, one by one -> which of them came before, where, and whether with the same content.

A digest of each waits on disk, so that memory does not grow with the batch.
"""

import hashlib
import sqlite3
from types import TracebackType
from typing import NamedTuple, Self

ID_BYTES = 16  # of a digest; two of ten million ids are alike once in 10^24 batches
CONTENT_BYTES = 8
TABLE = "CREATE TABLE ids (id BLOB PRIMARY KEY, content BLOB, line INTEGER, counts INTEGER) WITHOUT ROWID"
PUT = "INSERT OR IGNORE INTO ids VALUES (?, ?, ?, ?)"
GET = "SELECT content, line, counts FROM ids WHERE id = ?"


class First(NamedTuple):
    """The record that had an id before."""

    line: int
    is_same: bool  # whether its content is the same
    counts: bool  # whether this batch, or the one that it replays, is about it


class Repeats:
    """The ids that were seen; their file has no name, so a killed program leaves none behind."""

    def __init__(self) -> None:
        self._ids = sqlite3.connect("", isolation_level=None)

    def __enter__(self) -> Self:
        self._ids.execute("PRAGMA journal_mode = OFF")  # one that is torn is not read again
        self._ids.execute(TABLE)
        self._ids.execute("BEGIN")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ids.close()

    def first(self, id: str, content: bytes, line: int, counts: bool = True, taken: bool = True) -> First | None:
        """The record that had this id before; None when there is none.

        Args:
            counts: see `First`.
            taken: whether the id is this record's from now on, when none had it.

        Raises:
            OSError: there is no room for it.
        """
        key, told = _digest(id.encode("utf-8", "surrogatepass"), ID_BYTES), _digest(content, CONTENT_BYTES)
        try:
            if taken and self._ids.execute(PUT, (key, told, line, counts)).rowcount:
                return None
            found = self._ids.execute(GET, (key,)).fetchone()
        except sqlite3.OperationalError as error:
            raise OSError(f"a batch's ids cannot be kept on this machine's disk: {error}; make room, or set SQLITE_TMPDIR") from None
        return First(found[1], found[0] == told, bool(found[2])) if found else None


def _digest(data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()
