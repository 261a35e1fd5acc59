"""Registry: files -> a published version of a process's model, and back; every byte is hashed on its way in and out.

A version is its objects first, then its manifest (manifests.py); which version is champion is said in aliases.py.
"""

import hashlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from infra import signing
from infra.spans import BLOCK_BYTES, Digest, Spans, digest_of, write_at
from infra.store import INCOMING, STALE_SECONDS, Conflict, MissingObject, Store
from infra.transfer import in_parallel, moving
from tasks.manifests import (
    Contents,
    File,
    Manifest,
    Piece,
    check_signature,
    key_of,
    manifest_key,
    manifest_of,
    read_manifest,
    read_unsigned,
    signed,
    version_names,
    version_of,
)
from tasks.reservations import reserved

logger = logging.getLogger(__name__)

DEFAULT_SHARD_BYTES = 32 * 2**20


# In


def files_in(folder: Path) -> dict[str, Spans]:
    """The files of a flat folder, by name."""
    return {path.name: Spans.of(path) for path in sorted(folder.iterdir())}


def publish_version(
    store: Store, process: str, files: Mapping[str, Spans], shard_bytes: int = DEFAULT_SHARD_BYTES, **facts: Any
) -> Manifest:
    """Store files as a version: every object first, then the manifest. What is there already does not travel again.

    Args:
        files: name -> bytes of all that `from_pretrained` opens, and of what else belongs to the version.
        shard_bytes: a larger safetensors file is kept in pieces of so many bytes.
        facts: the manifest's other fields.

    Raises:
        OSError: the store does not keep what was sent to it.
    """
    pieces = _digested(process, files, shard_bytes)
    described = {name: File(pieces=tuple(piece for piece, _ in found)) for name, found in pieces.items()}
    contents = Contents(layout=2, process=process, version=version_of(described), files=described, **facts)
    objects = {piece.key: (piece, spans) for found in pieces.values() for piece, spans in found}
    with reserved(store, process, [*objects, manifest_key(process, contents.version)]):
        _send(store, process, list(objects.values()))
        return _write_manifest(store, manifest_of(contents))


def _digested(process: str, files: Mapping[str, Spans], shard_bytes: int) -> dict[str, list[tuple[Piece, Spans]]]:
    """Every file's pieces, described, each beside its bytes."""
    cut = {name: spans.pieces(shard_bytes) if name.endswith(".safetensors") else [spans] for name, spans in sorted(files.items())}
    digests = iter(in_parallel(digest_of, [spans for pieces in cut.values() for spans in pieces]))

    def described(name: str, spans: Spans, digest: Digest) -> tuple[Piece, Spans]:
        key = key_of(process, name, digest.sha256, whole=len(cut[name]) == 1)
        return Piece(key=key, sha256=digest.sha256, size=spans.size, blocks=digest.blocks), spans

    return {name: [described(name, spans, next(digests)) for spans in pieces] for name, pieces in cut.items()}


def _send(store: Store, process: str, objects: list[tuple[Piece, Spans]]) -> None:
    """Store what the store does not have, many at a time."""
    with moving(f"Publishing {process}", sum(piece.size for piece, _ in objects)) as advance:

        def keep(pair: tuple[Piece, Spans]) -> int:
            sent = _keep(store, *pair)
            advance(pair[0].size)
            return sent

        sent = in_parallel(keep, sorted(objects, key=lambda pair: -pair[0].size))  # as when it is fetched
    whole = sum(piece.size for piece, _ in objects)
    count = sum(size > 0 for size in sent)
    logger.info("publishing: %d of %d objects travelled, %.1f of %.1f MB", count, len(objects), sum(sent) / 1e6, whole / 1e6)


def _keep(store: Store, piece: Piece, spans: Spans) -> int:
    """Store an object unless the store has it, whole; bytes sent."""
    info = store.stat(piece.key)
    if info is not None and info.size == piece.size and store.sha256(piece.key) == piece.sha256:
        return 0
    store.put(piece.key, spans, piece.sha256)
    return piece.size


def _write_manifest(store: Store, manifest: Manifest) -> Manifest:
    """The manifest, as it is now kept: the first one of a version stays, but it is signed when it was not."""
    try:
        store.write(manifest_key(manifest.process, manifest.version), manifest.as_bytes(), if_absent=True)
        return manifest
    except Conflict:
        known = read_unsigned(store, manifest.process, manifest.version)
        check_whole(store, known)
        return sign_version(store, known) if manifest.signature else known


def sign_version(store: Store, manifest: Manifest) -> Manifest:
    """Put this machine's signature under a manifest that is kept already; one that a trusted key signed stays as it is.

    Raises:
        ValueError: this machine has no signing key.
        Conflict: the manifest changed meanwhile.
    """
    mine = signed(manifest.model_copy(update={"signature": None}))
    if mine.signature is None:
        raise ValueError("CLERKFLOW_SIGNING_KEY is not set: 'python -m infra.signing FILE' makes a key")
    if manifest.signature is not None and signing.trusted_keys():
        with suppress(ValueError):
            check_signature(manifest)
            return manifest
    if mine == manifest:
        return manifest
    key = manifest_key(manifest.process, manifest.version)
    data, etag = store.read(key)
    if data != manifest.as_bytes():
        raise Conflict(f"{store.address(key)} changed while it was to be signed; look at it, then sign again")
    store.write(key, mine.as_bytes(), if_match=etag)
    return mine


def versions_of(store: Store, process: str, skip_damaged: bool = False) -> list[Manifest]:
    """Published versions, the newest first, whoever signed them.

    Args:
        skip_damaged: warn of a manifest that cannot be read and leave it out, so that one bad version does not stop the others.

    Raises:
        ValueError: a manifest is damaged and must not be left out.
    """

    def read(version: str) -> Manifest | None:
        try:
            return read_unsigned(store, process, version)
        except ValueError as error:
            if store.stat(manifest_key(process, version)) is None:  # collected meanwhile
                return None
            if skip_damaged:
                logger.warning("%s %s is left out: %s", process, version, error)
                return None
            raise

    found = [manifest for manifest in in_parallel(read, list(version_names(store, process))) if manifest]
    return sorted(found, key=lambda manifest: (manifest.created, manifest.version), reverse=True)


def check_whole(store: Store, manifest: Manifest, every_byte: bool = False) -> None:
    """Raise ValueError unless every object of a version is in the store with its size, or its digest; all that are not are named."""

    def fault(found: tuple[str, Piece, int]) -> str:
        name, piece, _ = found
        info = store.stat(piece.key)
        if info is not None and info.size == piece.size:
            right = not every_byte or store.sha256(piece.key) == piece.sha256
            return "" if right else f"{name} (other bytes: {store.address(piece.key)})"
        what = f"{info.size} bytes instead of {piece.size}" if info else "missing"
        return f"{name} ({what}: {store.address(piece.key)})"

    lost = [words for words in in_parallel(fault, manifest.pieces()) if words]
    if lost:
        who = f"{manifest.process} {manifest.version}"
        raise ValueError(f"{who} is not whole: {'; '.join(lost)}; restore the objects or use another version")


# Out


def fetch_version(store: Store, process: str, version: str, cache: Path) -> Path:
    """A folder with every file of a version, each one's digest checked now; what the cache lacks is fetched.

    The folder holds the model and its tokenizer for `from_pretrained`, contract.json, declaration.json and reference.jsonl;
    nothing in it is to be written to.

    Raises:
        ValueError: no such version, it is not signed as this machine asks, or an object of it is damaged or missing.
    """
    manifest = read_manifest(store, process, version)
    folder = cache / process / version
    folder.mkdir(parents=True, exist_ok=True)
    _tidy(folder, manifest)
    stale = [name for name, good in zip(manifest.files, _are_good(folder, manifest), strict=True) if not good]
    for name in stale:
        if (folder / name).exists():
            logger.warning("%s %s: %s in the cache was damaged, it is fetched again", process, version, name)
    _fetch(store, manifest, stale, folder)
    return folder


def export_version(store: Store, process: str, version: str, folder: Path) -> Path:
    """A version as a folder of one's own, in the layout of Hugging Face: shards and model.safetensors.index.json.

    Raises:
        ValueError: the folder holds something already; or as for `fetch_version`.
    """
    folder = folder.resolve()  # before: it may be the one where one is, which will be another one then
    with new_folder(folder) as incoming:
        manifest = read_manifest(store, process, version)
        _fetch(store, manifest, list(manifest.files), incoming, mode=0o644)
    return folder


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A place whose files are all in `folder` in the end, or, when something fails, none of them.

    Raises:
        ValueError: the folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and not an empty folder; name another one")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    incoming = folder.with_name(f"{folder.name}.{secrets.token_hex(8)}{INCOMING}")
    incoming.mkdir()
    try:
        yield incoming
        incoming.replace(folder)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _tidy(folder: Path, manifest: Manifest) -> None:
    """Remove what is not the version's, since `from_pretrained` would read it; what is being fetched stays for a day."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in manifest.files and not (path.name.endswith(INCOMING) and _is_young(path)):
            path.unlink(missing_ok=True)


def _is_young(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:  # its fetcher is done
        return True


def _are_good(folder: Path, manifest: Manifest) -> list[bool]:
    """Whether each file is in the folder with the right bytes, which are read."""

    def good(found: tuple[str, Piece, int]) -> bool:
        name, piece, start = found
        spans = _whole_file(folder / name, manifest.files[name].size)
        return spans is not None and digest_of(spans.cut(start, start + piece.size)).sha256 == piece.sha256

    pieces = list(manifest.pieces())
    bad = {name for (name, _, _), right in zip(pieces, in_parallel(good, pieces), strict=True) if not right}
    return [name not in bad for name in manifest.files]


def _whole_file(path: Path, size: int) -> Spans | None:
    return Spans.of(path) if path.is_file() and path.stat().st_size == size else None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A piece to be fetched, and its place in a file that is being made."""

    name: str
    piece: Piece
    start: int  # bytes from the beginning of the file
    handle: int


def _fetch(store: Store, manifest: Manifest, names: Iterable[str], folder: Path, mode: int = 0o444) -> None:
    """Fetch files, their pieces in parallel; each gets its name when all of its bytes are right."""
    wanted = set(names)
    if not wanted:
        return
    with (
        _incoming(folder, Counter(name for name, _, _ in manifest.pieces() if name in wanted), mode) as (handles, arrived),
        moving(f"Fetching {manifest.process} {manifest.version}", sum(manifest.files[name].size for name in wanted)) as advance,
    ):

        def fetch(one: _Wanted) -> None:
            _fetch_piece(store, manifest, one)
            advance(one.piece.size)
            arrived(one.name)

        pieces = [_Wanted(name, piece, start, handles[name]) for name, piece, start in manifest.pieces() if name in wanted]
        in_parallel(fetch, sorted(pieces, key=lambda one: -one.piece.size))  # a large one that comes last has all others wait


@contextmanager
def _incoming(folder: Path, pieces: Mapping[str, int], mode: int) -> Iterator[tuple[dict[str, int], Callable[[str], None]]]:
    """Open files beside those of these names, and what is told of each piece that is in its place.

    A file takes its name's place with its last piece, and stays after an error, so that it need not come again; others are gone then.

    Args:
        pieces: name -> how many it has.
    """
    token, left, lock = secrets.token_hex(8), dict(pieces), threading.Lock()
    paths = {name: folder / f"{name[:200]}.{token}{INCOMING}" for name in pieces}
    handles: dict[str, int] = {}

    def arrived(name: str) -> None:
        with lock:
            left[name] -= 1
            last = not left[name]
        if last:
            paths[name].replace(folder / name)

    try:
        for name, path in paths.items():
            handles[name] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        yield handles, arrived
    finally:
        for handle in handles.values():
            os.close(handle)
        for path in paths.values():
            path.unlink(missing_ok=True)


def _fetch_piece(store: Store, manifest: Manifest, one: _Wanted) -> None:
    """Copy one object to its place; what is written is hashed.

    Raises:
        ValueError: the object is missing, or its bytes are not those that were published.
    """
    digest, at, buffer = hashlib.sha256(), one.start, memoryview(bytearray(min(BLOCK_BYTES, max(1, one.piece.size))))
    try:
        with store.open(one.piece.key) as stream:
            while count := cast(Any, stream).readinto(buffer):
                digest.update(buffer[:count])
                write_at(one.handle, buffer[:count], at)
                at += count
                if at > one.start + one.piece.size:
                    break
    except MissingObject as error:
        raise ValueError(_unusable(manifest, one.name, str(error))) from None
    if digest.hexdigest() != one.piece.sha256:
        told = f"{store.address(one.piece.key)}: SHA-256 is {digest.hexdigest()}, {one.piece.sha256} was published; do not use it"
        raise ValueError(_unusable(manifest, one.name, told))


def _unusable(manifest: Manifest, name: str, reason: str) -> str:
    remedy = f"restore it, or use another version: clerkflow rollback {manifest.process}"
    return f"{manifest.process} {manifest.version} cannot be used, {name}: {reason}; {remedy}"
