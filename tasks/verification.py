"""Verification: a published version -> whether every byte it stands for is still what it was, and where it is not."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import xxhash

from infra.spans import BLOCK_BYTES
from infra.store import CHUNK_BYTES, MissingObject, Store
from infra.transfer import in_parallel, moving
from tasks.artifacts import Artifact, listing_of
from tasks.manifests import Manifest, Piece, check_signature, read_unsigned
from tasks.registry import sign_version

SIGNATURE = "signature"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one part of a version; `fault` is empty when it is what it was."""

    part: str
    size: int  # bytes read
    fault: str


def verify_version(store: Store, process: str, version: str) -> tuple[Manifest, list[Finding]]:
    """Recompute what the root of a version stands for, from the bytes in the store.

    Raises:
        ValueError: no such version, or its manifest does not make its own root.
    """
    manifest = read_unsigned(store, process, version)
    found = [_signature(manifest)]
    with moving(f"Verifying {process} {version}", manifest.size) as advance:

        def look(one: tuple[str, Piece, int]) -> Finding:
            name, piece, start = one
            finding = Finding(f"files/{name}", piece.size, _fault(store, piece, start))
            advance(piece.size)
            return finding

        found += in_parallel(look, manifest.pieces())
    found += [part for stage, evidence in manifest.data.items() for part in _stage(store, stage, evidence.key, evidence.sha256)]
    return manifest, found


def sign_verified(store: Store, process: str, version: str) -> Manifest:
    """Sign a version that is all it was, but perhaps for a signature.

    Raises:
        ValueError: a part of it is not; or this machine has no signing key.
        Conflict: its manifest changed meanwhile.
    """
    manifest, findings = verify_version(store, process, version)
    wrong = [f"{finding.part}: {finding.fault}" for finding in findings if finding.fault and finding.part != SIGNATURE]
    if wrong:
        raise ValueError(f"{process} {version} is not signed, for it is not what was published: {'; '.join(wrong)}")
    return sign_version(store, manifest)


def _signature(manifest: Manifest) -> Finding:
    try:
        check_signature(manifest)
    except ValueError as error:
        return Finding(SIGNATURE, 0, str(error))
    return Finding(SIGNATURE, 0, "")


def _fault(store: Store, piece: Piece, start: int) -> str:
    """What is wrong with an object, with the first byte range of the file that differs; empty when nothing is."""
    digest, size, differs = hashlib.sha256(), 0, ""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    try:
        with store.open(piece.key) as stream:
            while count := cast(Any, stream).readinto(buffer):
                due = min(BLOCK_BYTES, max(0, piece.size - size))
                if not differs and 0 < due <= count and xxhash.xxh3_64_hexdigest(buffer[:due]) != piece.blocks[size // BLOCK_BYTES]:
                    differs = f"bytes {start + size}–{start + size + due - 1} differ"
                digest.update(buffer[:count])
                size += count
    except MissingObject:
        return f"missing: {store.address(piece.key)}"
    except OSError as error:
        return str(error)
    if size != piece.size:
        what = "missing" if size < piece.size else "too many"
        ends = f"bytes {start + min(size, piece.size)}–{start + max(size, piece.size) - 1} are {what}"
        return f"{size} bytes instead of {piece.size}: {store.address(piece.key)}; first, {differs or ends}"
    if digest.hexdigest() == piece.sha256:
        return ""
    return f"{differs or f'somewhere in bytes {start}–{start + size - 1}'}: {store.address(piece.key)}"


def _stage(store: Store, stage: str, key: str, sha256: str) -> Iterator[Finding]:
    """The files of a stage's artifact, against its listing."""
    artifact = Artifact(key=key, sha256=sha256)
    try:
        files = listing_of(store, artifact)
    except MissingObject:
        yield Finding(f"data/{stage}", 0, f"missing: {store.address(key)}")
        return
    except ValueError as error:
        yield Finding(f"data/{stage}", 0, str(error))
        return
    yield from (
        Finding(f"data/{stage}/{name}", file["size"], _file_fault(store, artifact.prefix + name, file)) for name, file in files.items()
    )


def _file_fault(store: Store, key: str, file: dict[str, Any]) -> str:
    digest, size = hashlib.sha256(), 0
    try:
        with store.open(key) as stream:
            while block := stream.read(CHUNK_BYTES):
                digest.update(block)
                size += len(block)
    except (MissingObject, OSError) as error:
        return str(error)
    if size != file["size"]:
        return f"{size} bytes instead of {file['size']}: {store.address(key)}"
    return "" if digest.hexdigest() == file["sha256"] else f"somewhere in bytes 0–{max(0, size - 1)}: {store.address(key)}"
