"""Registry: the published versions of a process's model, and which of them is champion.

<process>/models/shards/<sha256>.safetensors and files/<sha256>   content-addressed, shared by versions, never changed
<process>/models/versions/<version>/manifest.json                 written after everything it names, never changed
<process>/models/aliases/champion.json                            moved last, by compare-and-swap, its history inside
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.store import CHUNK_BYTES, INCOMING, STALE_SECONDS, Conflict, MissingObject, Store, check_key, copy_to
from tasks.artifacts import file_digest
from tasks.process import digest_of

logger = logging.getLogger(__name__)

# What was measured belongs to a version but does not make it another one: the same model may be judged twice.
EVIDENCE = ("metrics.json", "reference.jsonl", "verdict.json")
HISTORY = 100  # moves that an alias remembers


class Kept(BaseModel):
    """What the registry writes: nothing unknown, nothing changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class File(Kept):
    """One file of a version, and the object that holds its bytes."""

    key: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)  # bytes


class Manifest(Kept):
    """A version: every file it needs, and where it came from."""

    process: str
    version: str
    files: dict[str, File]
    created: str  # ISO 8601, UTC: when its run was begun
    run: str
    commit: str | None = None
    versions: dict[str, str] = {}
    metrics: dict[str, float] = {}
    data: dict[str, str] = {}  # stage -> SHA-256 of the artifact it made
    verdict: dict[str, Any] = {}

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        for name, file in self.files.items():
            check_key(name)
            if check_key(file.key) != key_of(self.process, name, file.sha256):
                raise ValueError(f"{name} is kept at {file.key!r}, which is not the key of its digest")
        if self.version != version_of(self.files):
            raise ValueError(f"its files make version {version_of(self.files)}, not {self.version}")
        return self


class Move(Kept):
    """One move of an alias."""

    version: str
    previous: str | None
    since: str  # ISO 8601, UTC
    reason: str
    run: str | None = None


class Alias(Move):
    """Which version is champion, and how that came about; the newest move is last."""

    history: tuple[Move, ...]


def key_of(process: str, name: str, sha256: str) -> str:
    """Key of a file's bytes."""
    return f"{process}/models/shards/{sha256}.safetensors" if name.endswith(".safetensors") else f"{process}/models/files/{sha256}"


def version_of(files: Mapping[str, File]) -> str:
    """A version's name: the digest of the files that make it, the declaration among them; time is not."""
    return digest_of({name: file.sha256 for name, file in files.items() if name not in EVIDENCE})[:12]


def manifest_key(process: str, version: str) -> str:
    """Key of a version's manifest."""
    return check_key(f"{process}/models/versions/{version}/manifest.json")


def alias_key(process: str) -> str:
    """Key of a process's champion alias."""
    return check_key(f"{process}/models/aliases/champion.json")


def publish_version(store: Store, process: str, folder: Path, **facts: Any) -> Manifest:
    """Store a folder as a version: every file first, then the manifest. Publishing it again changes nothing.

    Args:
        folder: flat folder that `from_pretrained` opens, with what else belongs to the version.
        facts: the manifest's other fields.

    Raises:
        OSError: the store does not give back what was written to it.
    """
    files = {path.name: _keep(store, process, path) for path in sorted(folder.iterdir())}
    manifest = Manifest(process=process, version=version_of(files), files=files, **facts)
    try:
        store.write(manifest_key(process, manifest.version), _lines(manifest), if_absent=True)
        return manifest
    except Conflict:
        return _published_before(store, manifest)


def _published_before(store: Store, manifest: Manifest) -> Manifest:
    """The manifest that is there already, its files found whole."""
    known = read_manifest(store, manifest.process, manifest.version)
    check_whole(store, known)
    return known


def _keep(store: Store, process: str, path: Path) -> File:
    """Store one file under its digest unless it is there, and read it back."""
    sha256 = file_digest(path)
    file = File(key=key_of(process, path.name, sha256), sha256=sha256, size=path.stat().st_size)
    if not is_kept(store, file):
        store.upload(path, file.key)
        if not is_kept(store, file):
            raise OSError(f"{store.address(file.key)} is not what was written to it; check the store's disk, then publish again")
    return file


def is_kept(store: Store, file: File) -> bool:
    """Whether the store gives back a file's bytes; they are read, not believed."""
    info = store.stat(file.key)
    if info is None or info.size != file.size:
        return False
    digest = hashlib.sha256()
    with store.open(file.key) as stream:
        while block := stream.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest() == file.sha256


def read_manifest(store: Store, process: str, version: str) -> Manifest:
    """The manifest of a version.

    Raises:
        ValueError: no such version, the message lists those there are; or its manifest is damaged.
    """
    key = manifest_key(process, version)
    try:
        manifest = Manifest.model_validate_json(store.read(key)[0])
    except MissingObject:
        known = ", ".join(_names(store, process)) or "none"
        raise ValueError(f"{process} has no version {version!r}; published are: {known}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "manifest"
        raise ValueError(
            f"{store.address(key)} is damaged ({where}: {fault['msg']}); do not use this version, restore the object"
        ) from None
    if (manifest.process, manifest.version) != (process, version):
        raise ValueError(f"{store.address(key)} is the manifest of {manifest.process} {manifest.version}; restore the object")
    return manifest


def _names(store: Store, process: str) -> Iterator[str]:
    for info in store.list(f"{process}/models/versions/"):
        if info.key.endswith("/manifest.json"):
            yield info.key.split("/")[-2]


def versions_of(store: Store, process: str) -> list[Manifest]:
    """Published versions, the newest first."""
    found = [read_manifest(store, process, version) for version in _names(store, process)]
    return sorted(found, key=lambda manifest: (manifest.created, manifest.version), reverse=True)


def check_whole(store: Store, manifest: Manifest) -> None:
    """Raise ValueError unless every object of a version is in the store with its size; all that are not are named."""
    lost = []
    for name, file in manifest.files.items():
        info = store.stat(file.key)
        if info is None or info.size != file.size:
            found = f"{info.size} bytes instead of {file.size}" if info else "missing"
            lost.append(f"{name} ({found}: {store.address(file.key)})")
    if lost:
        who = f"{manifest.process} {manifest.version}"
        raise ValueError(f"{who} is not whole: {'; '.join(lost)}; restore the objects or use another version")


def champion_of(store: Store, process: str) -> Alias | None:
    """The champion's alias; None when nothing was published yet."""
    return _read_alias(store, process)[0]


def _read_alias(store: Store, process: str) -> tuple[Alias | None, str | None]:
    try:
        data, etag = store.read(alias_key(process))
        return Alias.model_validate_json(data), etag
    except MissingObject:
        return None, None
    except ValidationError:
        raise ValueError(f"{store.address(alias_key(process))} is damaged; restore the object") from None


def move_alias(store: Store, process: str, version: str, reason: str, run: str | None = None, *, instead_of: str | None) -> Alias:
    """Make a whole, published version the champion in one atomic write; nothing is written when it is champion already.

    Args:
        instead_of: the champion that the version was judged against; None when there was none.

    Raises:
        Conflict: another version is champion now; the message says which, and since when.
        ValueError: the version is not there or not whole.
    """
    check_whole(store, read_manifest(store, process, version))
    before, etag = _read_alias(store, process)
    if before and before.version == version:
        return before
    if (before.version if before else None) != instead_of:
        raise Conflict(_overtaken(process, version, before, instead_of))
    since = datetime.now(UTC).isoformat(timespec="seconds")
    move = Move(version=version, previous=instead_of, since=since, reason=reason, run=run)
    alias = Alias(**move.model_dump(), history=((*before.history, move) if before else (move,))[-HISTORY:])
    try:
        store.write(alias_key(process), _lines(alias), if_absent=before is None, if_match=etag)
    except Conflict:
        now = champion_of(store, process)
        if now and now.version == version:
            return now
        raise Conflict(_overtaken(process, version, now, instead_of)) from None
    logger.info("%s: champion is %s, was %s", process, version, instead_of or "none")
    return alias


def _overtaken(process: str, version: str, now: Alias | None, instead_of: str | None) -> str:
    winner = f"{now.version} since {now.since} ({now.reason}, run {now.run})" if now else "none"
    wanted = f"version {version} was to take the place of {instead_of or 'none'}"
    return f"{process}: champion is {winner}; {wanted}. Train again, so that it is judged against the champion of now"


def rollback(store: Store, process: str, version: str | None = None, reason: str = "rolled back") -> Alias:
    """Make another published version the champion again.

    Args:
        version: the champion's predecessor when absent.

    Raises:
        ValueError: there is no champion or no predecessor; the version is unknown, not whole, or champion already.
        Conflict: the champion changed meanwhile.
    """
    before = champion_of(store, process)
    if before is None:
        raise ValueError(f"{process} has no champion yet: publish one with 'clerkflow train {process}'")
    target = version or before.previous
    if target is None:
        raise ValueError(f"{process}: champion {before.version} is the first one; name a version: {', '.join(_names(store, process))}")
    if target == before.version:
        raise ValueError(f"{process}: {target} is champion already")
    return move_alias(store, process, target, reason, instead_of=before.version)


def fetch_version(store: Store, process: str, version: str, cache: Path) -> Path:
    """A folder with every file of a version, each one's digest checked now; what the cache lacks is fetched.

    The folder holds the model and its tokenizer for `from_pretrained`, contract.json, declaration.json and reference.jsonl;
    nothing in it is to be written to.

    Raises:
        ValueError: no such version, or an object of it is damaged or missing.
    """
    manifest = read_manifest(store, process, version)
    folder = cache / process / version
    folder.mkdir(parents=True, exist_ok=True)
    _tidy(folder, manifest)
    for name, file in manifest.files.items():
        _fetch(store, manifest, name, file, folder / name)
    return folder


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


def _fetch(store: Store, manifest: Manifest, name: str, file: File, path: Path) -> None:
    if path.is_file() and file_digest(path) == file.sha256:
        return
    if path.exists():
        logger.warning("%s %s: %s in the cache was damaged, it is fetched again", manifest.process, manifest.version, name)
    try:
        copy_to(store, file.key, path, file.sha256)
    except (MissingObject, ValueError) as error:
        remedy = f"restore it, or use another version: clerkflow rollback {manifest.process}"
        raise ValueError(f"{manifest.process} {manifest.version} cannot be used, {name}: {error}; {remedy}") from None
    path.chmod(0o444)


def _lines(value: Kept) -> bytes:
    return json.dumps(value.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
