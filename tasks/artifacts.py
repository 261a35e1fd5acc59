"""Artifacts: what passes between stages, references to stored folders with their digest; never tables or models."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.scratch import scratch as scratch
from infra.spans import Spans, digest_of
from infra.store import MissingObject, Store, check_key, copy_to
from infra.transfer import in_parallel

LISTING = "files.json"


class Artifact(BaseModel):
    """A stored folder: `key` is its listing, written after every file that it names; `sha256` is the listing's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    sha256: str
    rows: int | None = None
    facts: dict[str, Any] = {}  # counts and measures for people, never row values

    @property
    def prefix(self) -> str:
        """The key of the folder, with its last slash."""
        return self.key.removesuffix(LISTING)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def modified_at(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written to or replaced: size, time in ns, and its place on the disk."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def store_folder(store: Store, folder: Path, prefix: str, rows: int | None = None, **facts: Any) -> Artifact:
    """Store every file of a folder below `prefix`, then their listing.

    Args:
        prefix: key of the folder, without the last slash.

    Raises:
        ValueError: a file has the listing's name, or one that is no key.
    """
    if (folder / LISTING).exists():
        raise ValueError(f"{LISTING} is the name of the listing; give the file another name")
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def keep(name: str) -> dict[str, Any]:
        spans = Spans.of(paths[name])
        sha256 = digest_of(spans).sha256
        store.put(f"{prefix}/{name}", spans, sha256)
        return {"sha256": sha256, "size": spans.size}

    files = dict(zip(paths, in_parallel(keep, paths), strict=True))
    listing = json.dumps(files, sort_keys=True, indent=1).encode()
    store.write(f"{prefix}/{LISTING}", listing)
    return Artifact(key=f"{prefix}/{LISTING}", sha256=hashlib.sha256(listing).hexdigest(), rows=rows, facts=facts)


def listing_of(store: Store, artifact: Artifact) -> dict[str, dict[str, Any]]:
    """File name -> its sha256 and size.

    Raises:
        MissingObject: the artifact is gone.
        ValueError: the listing was changed since the artifact was made, or names a file outside its folder.
    """
    data, _ = store.read(artifact.key)
    if hashlib.sha256(data).hexdigest() != artifact.sha256:
        raise ValueError(f"{store.address(artifact.key)} was changed after it was written; run its stage again")
    files: dict[str, dict[str, Any]] = json.loads(data)
    return {check_key(name): file for name, file in files.items()}


def is_whole(store: Store, artifact: Artifact) -> bool:
    """Whether every file of the artifact is in the store, with its bytes: a stage that finds damage is better done again."""
    try:
        files = listing_of(store, artifact)
    except (MissingObject, ValueError):
        return False
    found = {info.key: info.size for info in store.list(artifact.prefix)}
    if any(found.get(artifact.prefix + name) != file["size"] for name, file in files.items()):
        return False
    digests = in_parallel(lambda name: store.sha256(artifact.prefix + name), files)
    return all(sha256 == file["sha256"] for sha256, file in zip(digests, files.values(), strict=True))


def fetch_file(store: Store, artifact: Artifact, name: str, folder: Path) -> Path:
    """Copy one file of an artifact into a folder, its digest checked.

    Raises:
        KeyError: the artifact has no such file; the message lists those it has.
    """
    files = listing_of(store, artifact)
    if name not in files:
        raise KeyError(f"{artifact.key} has no {name!r}; it has: {', '.join(files)}")
    copy_to(store, artifact.prefix + name, folder / name, files[name]["sha256"])
    return folder / name


def fetch_folder(store: Store, artifact: Artifact, folder: Path, below: str = "") -> Path:
    """Copy the files whose name begins with `below` into a folder, each digest checked."""
    wanted = {name: file for name, file in listing_of(store, artifact).items() if name.startswith(below)}
    in_parallel(lambda name: copy_to(store, artifact.prefix + name, folder / name, wanted[name]["sha256"]), wanted)
    return folder


def read_json(store: Store, artifact: Artifact, name: str) -> Any:
    """One JSON file of an artifact."""
    with scratch() as folder:
        return json.loads(fetch_file(store, artifact, name, folder).read_text(encoding="utf-8"))


def copy_name(key: str) -> str:
    """A name for an object's copy on this machine: short enough for any disk, with the ending that says how it is read."""
    path = Path(key)
    return f"{path.stem[:30]}{path.suffix[:10]}"


def shown(key: str) -> str:
    """A key as it can be logged and stored: a file's name in a folder may hold line ends and bytes that are no text."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in key)


def write_json(path: Path, value: Any) -> None:
    """Plain data as a file of readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Plain data as readable JSON, keys sorted, so that equal data are equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
