"""The object store: a folder or a MinIO (S3) bucket, with the same keys and the same promises.

Promises, kept by both: a reader sees a whole object or none; `write(if_absent=True)` and `write(if_match=…)` are
atomic, so of two writers one wins and the other gets `Conflict`; keys are plain paths below the store, never above it.
"""

import errno
import fcntl
import hashlib
import io
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol, cast

from infra.settings import Settings, settings
from infra.spans import Spans

if TYPE_CHECKING:
    from infra.bucket import MinioStore

log = logging.getLogger(__name__)

CHUNK_BYTES = 2**20
INCOMING = ".incoming"  # folder of what is being written; no key may begin with it
PATIENCE_SECONDS = 60.0  # with whoever holds the lock of a folder; it is held for one rename
STALE_SECONDS = 24 * 3600.0


class MissingObject(FileNotFoundError):  # noqa: N818 - says what is the case
    """No object has this key."""


class Conflict(RuntimeError):  # noqa: N818 - says what is the case
    """Another writer was first: the object is there already, or is no longer the one that was read."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing says of an object; the etag changes whenever the bytes do."""

    key: str
    size: int  # bytes
    etag: str
    modified: datetime  # UTC


class Store(Protocol):
    """What every store can do; every call with something that is no key raises ValueError."""

    uri: str
    whole: bool  # whether objects appear whole however they come; in a folder people also copy files in by hand

    def stat(self, key: str) -> ObjectInfo | None:
        """Size, etag and time of an object; None when there is none."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key begins with `prefix`, lazily, sorted by the bytes of their keys."""

    def open(self, key: str) -> BinaryIO:
        """A stream of the object's bytes; the caller closes it. MissingObject when there is none."""

    def read(self, key: str) -> tuple[bytes, str]:
        """The object's bytes and their etag; for small objects."""

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Store bytes whole and return their etag; Conflict when the condition does not hold."""

    def upload(self, path: Path, key: str) -> None:
        """Store a file, streamed."""

    def put(self, key: str, data: Spans, sha256: str) -> None:
        """Store bytes whole, streamed; whoever keeps them has checked their SHA-256. OSError when they are not those of `sha256`."""

    def sha256(self, key: str) -> str | None:
        """SHA-256 of an object: as the server checked and kept it, else of the bytes, read now; None when there is no object."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""

    def address(self, key: str) -> str:
        """Where a person finds the object."""


def check_key(key: str) -> str:
    """The key itself, when it is a plain path below the store.

    Raises:
        ValueError: empty, absolute, with `..`, a backslash or a control character, or too long for S3 or a disk.
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or any(ord(c) < 32 or ord(c) == 127 for c in key):
        raise ValueError(f"{key!r} is not a key: expected a/b/c without empty parts, '.', '..', backslash or control characters")
    if parts[0] == INCOMING:
        raise ValueError(f"{key!r} is not a key: {INCOMING} holds what is being written")
    if len(key.encode()) > 1024 or max(len(part.encode()) for part in parts) > 255:
        raise ValueError(f"key of {len(key.encode())} bytes: S3 allows 1024, and a disk 255 between two slashes")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself, when it is empty or the beginning of a key; it may end within a name or with a slash."""
    folder = prefix.rpartition("/")[0]
    if folder:
        check_key(folder)
    elif prefix.startswith("/"):
        raise ValueError(f"{prefix!r} is not the beginning of a key: it is absolute")
    return prefix


class LocalStore:
    """A folder: written beside, synced, then renamed into place."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)
        self.whole = False
        self._swept = False

    def _path(self, key: str) -> Path:
        path = self.root / check_key(key)
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(f"{key!r} leads out of the store through a link")
        return path

    def stat(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _local_info(key, found) if S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder, _, _ = check_prefix(prefix).rpartition("/")
        yield from self._walk(self._path(folder) if folder else self.root, f"{folder}/" if folder else "", prefix)

    def _walk(self, folder: Path, base: str, prefix: str) -> Iterator[ObjectInfo]:
        """One folder at a time in memory; a folder stands among its siblings where its slash puts it. Linked folders are not entered."""
        try:
            with os.scandir(folder) as entries:
                found = sorted((base + entry.name + "/" * entry.is_dir(follow_symlinks=False), entry) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        for key, entry in found:
            if key.endswith("/"):
                if (key.startswith(prefix) or prefix.startswith(key)) and key != f"{INCOMING}/":
                    yield from self._walk(Path(entry.path), key, prefix)
            elif key.startswith(prefix) and (info := self._listed(key, entry)):
                yield info

    def _listed(self, key: str, entry: "os.DirEntry[str]") -> ObjectInfo | None:
        """What is known of a listed file; None when it is gone, a pipe or a device, or a link that leads out or in a circle."""
        try:
            if entry.is_symlink():
                return self.stat(key)
            found = entry.stat(follow_symlinks=False)
            return _local_info(key, found) if S_ISREG(found.st_mode) else None
        except FileNotFoundError:
            return None
        except (ValueError, RuntimeError) as error:
            log.warning("%r is left out of the listing: %s", key, error)
            return None

    def open(self, key: str) -> BinaryIO:
        path = self._path(key)
        if self.stat(key):  # opening a pipe would wait for whoever writes to it
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return path.open("rb")
        raise MissingObject(f"{self.address(key)} does not exist")

    def read(self, key: str) -> tuple[bytes, str]:
        with self.open(key) as stream:
            return stream.read(), _local_info(key, os.fstat(stream.fileno())).etag

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        target = self._path(key)
        with self._incoming() as path:
            path.write_bytes(data)
            return self._place(path, key, target, if_absent, if_match)

    def upload(self, path: Path, key: str) -> None:
        target = self._path(key)
        with self._incoming() as incoming:
            shutil.copyfile(path, incoming)
            self._place(incoming, key, target, False, None)

    def put(self, key: str, data: Spans, sha256: str) -> None:
        target, digest = self._path(key), hashlib.sha256()
        with self._incoming() as incoming:
            with incoming.open("wb") as stream:
                for block in data.blocks():
                    digest.update(block)
                    stream.write(block)
            if digest.hexdigest() != sha256:
                raise OSError(f"{self.address(key)}: SHA-256 of what came is {digest.hexdigest()}, not {sha256}; send it again")
            self._place(incoming, key, target, False, None)

    def sha256(self, key: str) -> str | None:
        try:
            with self.open(key) as stream:
                return hashlib.file_digest(cast(io.BufferedReader, stream), "sha256").hexdigest()
        except MissingObject:
            return None

    def delete(self, key: str) -> None:
        if self.stat(key):
            self._path(key).unlink(missing_ok=True)

    def address(self, key: str) -> str:
        return str(self.root / key)

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A path beside the objects, on the same disk, gone afterwards."""
        folder = self.root / INCOMING
        folder.mkdir(parents=True, exist_ok=True)
        self._sweep(folder)
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        try:
            yield Path(name)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, f"{self.root} is full; make room there and do it again, what has arrived stays") from None
            raise
        finally:
            Path(name).unlink(missing_ok=True)

    def _sweep(self, folder: Path) -> None:
        """Remove what killed writers left; a running writer's file is as young as its last block."""
        if self._swept:
            return
        self._swept = True
        for path in folder.iterdir():
            try:
                if path.name != "lock" and time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # its writer is done, or another sweeper was faster
                continue

    def _place(self, incoming: Path, key: str, target: Path, if_absent: bool, if_match: str | None) -> str:
        try:
            _make_folder(target.parent)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"{key!r} cannot be stored: a part of it is an object already") from None
        with incoming.open("rb+") as stream:
            os.fsync(stream.fileno())
        with self._one_writer():
            there = self.stat(key)
            if if_absent and there:
                raise Conflict(f"{self.address(key)} exists already")
            if if_match is not None and (there is None or there.etag != if_match):
                raise Conflict(f"{self.address(key)} was changed by another writer")
            _make_younger(incoming, target)
            incoming.replace(target)
            _sync_folder(target.parent)
            return _local_info(key, target.stat()).etag

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        """Checking and renaming are one step for all processes; the lock goes with its holder.

        Raises:
            TimeoutError: its holder is stopped, or its disk hangs.
        """
        file, last = self.root / INCOMING / "lock", time.monotonic() + PATIENCE_SECONDS
        with file.open("w") as lock:
            while not _is_ours(lock):
                if time.monotonic() > last:
                    raise TimeoutError(f"{file} has been held for {PATIENCE_SECONDS:g} s; fuser tells who holds it: end that process")
                time.sleep(0.005)
            yield


def _is_ours(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _local_info(key: str, stat: os.stat_result) -> ObjectInfo:
    etag = f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
    return ObjectInfo(key, stat.st_size, etag, datetime.fromtimestamp(stat.st_mtime, UTC))


def _make_younger(incoming: Path, target: Path) -> None:
    """Make an etag never come back: inodes are used again, and the clock of a disk may tick in milliseconds."""
    try:
        last = target.stat().st_mtime_ns
    except FileNotFoundError:
        return
    now = incoming.stat().st_mtime_ns
    os.utime(incoming, ns=(now, max(now, last + 1)))


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, lasting through a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_store(where: Settings | None = None) -> "LocalStore | MinioStore":
    """The store that the settings name; a bucket must exist already.

    Raises:
        ValueError: s3:// without a bucket, or without credentials in the environment.
        FileNotFoundError: the bucket does not exist.
        PermissionError: the server does not take the credentials.
        ConnectionError: no server answers.
    """
    where = where or settings()
    if "://" not in where.store:
        return LocalStore(Path(where.store))
    from infra.connection import open_bucket

    return open_bucket(where)


def copy_to(store: Store, key: str, path: Path, sha256: str | None = None) -> str:
    """Copy an object to a file, hashing what is read, and return its SHA-256.

    Raises:
        MissingObject: there is none.
        ValueError: the bytes are not those of `sha256`; nothing is left at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    incoming = path.with_name(f"{path.name[:50]}.{secrets.token_hex(8)}{INCOMING}")
    digest = hashlib.sha256()
    try:
        with store.open(key) as stream, incoming.open("wb") as target:
            while block := stream.read(CHUNK_BYTES):
                digest.update(block)
                target.write(block)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ValueError(
                f"{store.address(key)}: SHA-256 is {digest.hexdigest()}, {sha256} was stored; do not use it, restore the object"
            )
        incoming.replace(path)
        return digest.hexdigest()
    finally:
        incoming.unlink(missing_ok=True)
