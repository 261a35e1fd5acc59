"""Spans: bytes put together from parts of files and of memory, read as one stream; nothing is copied before it is read."""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, cast

import xxhash

BLOCK_BYTES = 2**20
BUFFER_BYTES = 2**16  # smaller than a block, so that a block is read without a copy
WRITE_BYTES = 2**16  # more has Linux take large pieces of memory, which a small virtual machine must often get from its host first


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of a file."""

    path: Path
    start: int  # bytes from the beginning of the file
    size: int  # bytes


Part = bytes | Extent


def _size(part: Part) -> int:
    return len(part) if isinstance(part, bytes) else part.size


def _within(part: Part, start: int, stop: int) -> Part:
    return part[start:stop] if isinstance(part, bytes) else Extent(part.path, part.start + start, stop - start)


@dataclass(frozen=True, slots=True)
class Spans:
    """Bytes that lie in several places, in their order."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, path: Path) -> Self:
        """A whole file, as long as it is now."""
        return cls((Extent(path, 0, path.stat().st_size),))

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return sum(map(_size, self.parts))

    def cut(self, start: int, stop: int) -> "Spans":
        """The bytes from `start` up to `stop`, or to the end when that comes first."""
        found, at = [], 0
        for part in self.parts:
            low, high = max(start - at, 0), min(stop - at, _size(part))
            if low < high:
                found.append(_within(part, low, high))
            at += _size(part)
        return Spans(tuple(found))

    def pieces(self, most: int) -> list["Spans"]:
        """The same bytes in pieces of `most` bytes, the last one with what is left; nothing is one empty piece."""
        return [self.cut(start, start + most) for start in range(0, max(self.size, 1), most)]

    def open(self) -> BinaryIO:
        """A stream of the bytes; the caller closes it."""
        return cast(BinaryIO, io.BufferedReader(_Stream(self), BUFFER_BYTES))

    def blocks(self) -> Iterator[memoryview]:
        """The bytes in blocks of BLOCK_BYTES, the last one shorter; a block is good until the next one is asked for.

        Raises:
            ValueError: a file is shorter than it was.
        """
        buffer, left = memoryview(bytearray(min(BLOCK_BYTES, self.size))), self.size
        with self.open() as stream:
            while left:
                count = cast(io.BufferedReader, stream).readinto(buffer[: min(left, BLOCK_BYTES)])
                left -= count
                yield buffer[:count]


class _Stream(io.RawIOBase):
    """Spans as a raw stream, one file open at a time."""

    def __init__(self, spans: Spans) -> None:
        self._left = list(reversed(spans.parts))
        self._file: io.FileIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while self._left and not _size(self._left[-1]):  # an empty part is not the end
            self._left.pop()
        if not self._left:
            return 0
        part = self._left.pop()
        count = min(len(buffer), _size(part))
        if isinstance(part, bytes):
            buffer[:count] = part[:count]
        else:
            count = self._read(part, memoryview(buffer)[:count])  # io gives a bytearray too, whose slice would be a copy
        if count < _size(part):
            self._left.append(_within(part, count, _size(part)))
        return count

    def _read(self, part: Extent, buffer: memoryview) -> int:
        if self._file is None or self._file.name != str(part.path):
            self._close_file()
            self._file = io.FileIO(str(part.path))
        self._file.seek(part.start)
        count = self._file.readinto(buffer)
        if count == 0 and len(buffer):
            raise ValueError(f"{part.path.name} is shorter than it was; make it again")
        return count or 0

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    def close(self) -> None:
        self._close_file()
        super().close()


@dataclass(frozen=True, slots=True)
class Digest:
    """What proves bytes, and what finds the place where they differ."""

    sha256: str
    blocks: tuple[str, ...]  # XXH3 (64 bits) of each BLOCK_BYTES: names a place, proves nothing


def digest_of(spans: Spans) -> Digest:
    """SHA-256 of the bytes, and a quick sum of each block; read once."""
    whole, blocks = hashlib.sha256(), []
    for block in spans.blocks():
        whole.update(block)
        blocks.append(xxhash.xxh3_64_hexdigest(block))
    return Digest(whole.hexdigest(), tuple(blocks))


def write_at(handle: int, data: memoryview, at: int) -> None:
    """Write all of `data` to an open file from byte `at` on; a disk that takes a part is asked for the rest, or says that it is full."""
    while data:
        count = os.pwrite(handle, data[:WRITE_BYTES], at)
        data, at = data[count:], at + count
