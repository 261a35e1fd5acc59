"""Manifests: what a published version consists of, where it came from, and the one digest that stands for all of it.

<process>/models/shards/<sha256>.safetensors, shards/<sha256>.part and files/<sha256>   content-addressed, shared, never changed
<process>/models/versions/<version>/manifest.json                                       written after everything it names
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra import signing
from infra.spans import BLOCK_BYTES
from infra.store import MissingObject, Store, check_key
from tasks.artifacts import json_bytes
from tasks.process import digest_of

# What was measured belongs to a version but does not make it another one: the same model may be judged twice.
EVIDENCE = ("metrics.json", "reference.jsonl", "verdict.json")
SHA256 = "^[0-9a-f]{64}$"


class Kept(BaseModel):
    """What the registry writes: nothing unknown, nothing changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def as_bytes(self) -> bytes:
        """JSON with sorted keys: equal values are equal bytes."""
        return json_bytes(self.model_dump(mode="json"))


class Piece(Kept):
    """An object that holds a file, or a part of one that is larger than a shard may be."""

    key: str
    sha256: str = Field(pattern=SHA256)
    size: int = Field(ge=0)  # bytes
    blocks: tuple[str, ...]  # a quick sum of each BLOCK_BYTES: shows where bytes differ, proves nothing

    @model_validator(mode="after")
    def _covers(self) -> Self:
        if len(self.blocks) != -(-self.size // BLOCK_BYTES):
            raise ValueError(f"{self.size} bytes have {-(-self.size // BLOCK_BYTES)} blocks, not {len(self.blocks)}")
        return self


class File(Kept):
    """One file of a version, from its pieces in their order."""

    pieces: tuple[Piece, ...] = Field(min_length=1)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(piece.size for piece in self.pieces)

    @property
    def digest(self) -> str:
        """SHA-256 of the file, or of its pieces' SHA-256 when it has several."""
        if len(self.pieces) == 1:
            return self.pieces[0].sha256
        return digest_of([piece.sha256 for piece in self.pieces])


class Evidence(Kept):
    """A stage's artifact that a version came from: the key of its listing, and the listing's SHA-256."""

    key: str
    sha256: str = Field(pattern=SHA256)


class Signature(Kept):
    """Who vouches for a manifest."""

    public_key: str  # Ed25519, base64
    value: str  # base64


NOTHING = Evidence(key="none", sha256="0" * 64)


class Contents(Kept):
    """What a version consists of, and where it came from."""

    layout: Literal[2]  # of manifest.json
    process: str
    version: str
    files: dict[str, File]
    created: str  # ISO 8601, UTC: when its run was begun
    run: str
    commit: str | None = None
    versions: dict[str, str] = {}
    metrics: dict[str, float] = {}
    data: dict[str, Evidence] = {}  # stage -> the artifact it made
    verdict: dict[str, Any] = {}

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        for name, piece, _ in self.pieces():
            if "/" in check_key(name):
                raise ValueError(f"{name!r}: a version is one flat folder of files")
            if check_key(piece.key) != key_of(self.process, name, piece.sha256, len(self.files[name].pieces) == 1):
                raise ValueError(f"{name} is kept at {piece.key!r}, which is not the key of its digest")
        if self.version != version_of(self.files):
            raise ValueError(f"its files make version {version_of(self.files)}, not {self.version}")
        return self

    def pieces(self) -> Iterator[tuple[str, Piece, int]]:
        """File name, piece, and the byte of the file at which the piece begins."""
        for name, file in self.files.items():
            start = 0
            for piece in file.pieces:
                yield name, piece, start
                start += piece.size

    @property
    def made_from(self) -> Evidence:
        """The model/ that was published: the tuned one, or what compression made of it."""
        return self.data.get("compression") or self.data.get("finetuning") or NOTHING

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def leaves(self) -> dict[str, str]:
        """Part -> SHA-256, for all that the root stands for: files, the stages' artifacts, and each fact of the manifest."""
        facts = self.model_dump(mode="json", exclude={"root", "signature", "files", "data"})
        parts = {f"files/{name}": file.digest for name, file in self.files.items()}
        parts |= {f"data/{stage}": evidence.sha256 for stage, evidence in self.data.items()}
        return parts | {f"manifest/{name}": digest_of(value) for name, value in facts.items()}


class Manifest(Contents):
    """Contents, the one digest that stands for all of them, and perhaps the signature of whoever vouches for it."""

    root: str = Field(pattern=SHA256)
    signature: Signature | None = None

    @model_validator(mode="after")
    def _has_its_root(self) -> Self:
        if self.root != (root := merkle_root(self.leaves())):
            raise ValueError(f"its parts make root {root[:12]}, not {self.root[:12]}")
        return self

    def message(self) -> bytes:
        """What is signed."""
        return b"clerkflow manifest\0" + digest_of(self.model_dump(mode="json", exclude={"signature"})).encode()


def manifest_of(contents: Contents) -> Manifest:
    """A new manifest, signed when this machine has a signing key."""
    return signed(Manifest(**dict(contents), root=merkle_root(contents.leaves())))


def signed(manifest: Manifest) -> Manifest:
    """The manifest with this machine's signature; as it is when the machine has no signing key."""
    signature = signature_of(manifest.message())
    return manifest.model_copy(update={"signature": signature}) if signature else manifest


def check_signature(manifest: Manifest) -> None:
    """Raise ValueError when signatures are asked for and none of a trusted key is there."""
    name = f"{manifest.process} {manifest.version}"
    check_signed(name, manifest.signature, manifest.message(), f"sign it: clerkflow sign {manifest.process}")


def check_signed(name: str, found: Signature | None, message: bytes, remedy: str) -> None:
    """Raise ValueError when signatures are asked for and a trusted key has not signed this message.

    Args:
        name: of what should be signed, for the error.
        remedy: what to do when it is not signed at all.
    """
    if not (trusted := signing.trusted_keys()):
        return
    if found is None:
        raise ValueError(f"{name} is not signed, and CLERKFLOW_PUBLIC_KEYS asks for it; {remedy}")
    if found.public_key not in trusted:
        raise ValueError(f"{name} is signed by {found.public_key}, which is not among CLERKFLOW_PUBLIC_KEYS; do not use it")
    if not signing.is_signed(found.public_key, found.value, message):
        raise ValueError(f"{name}: the signature does not fit what it says; do not use it, restore the object")


def signature_of(message: bytes) -> Signature | None:
    """This machine's signature; None when it has no signing key."""
    if (key := signing.signing_key()) is None:
        return None
    return Signature(public_key=signing.public_key_of(key), value=signing.sign(key, message))


def merkle_root(leaves: Mapping[str, str]) -> str:
    """The root of a binary hash tree over named digests, in the order of their names; leaves and nodes cannot be confused (RFC 6962)."""
    level = [hashlib.sha256(b"\0" + name.encode() + b"\0" + bytes.fromhex(leaves[name])).digest() for name in sorted(leaves)]
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [hashlib.sha256(b"\1" + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0].hex() if level else hashlib.sha256().hexdigest()


def key_of(process: str, name: str, sha256: str, whole: bool = True) -> str:
    """Key of a file's bytes, or of those of one of its pieces."""
    if not name.endswith(".safetensors"):
        return f"{process}/models/files/{sha256}"
    return f"{process}/models/shards/{sha256}.{'safetensors' if whole else 'part'}"


def version_of(files: Mapping[str, File]) -> str:
    """A version's name: the digest of the files that make it, the declaration among them; time is not."""
    return digest_of({name: file.digest for name, file in files.items() if name not in EVIDENCE})[:12]


def manifest_key(process: str, version: str) -> str:
    """Key of a version's manifest."""
    return check_key(f"{process}/models/versions/{version}/manifest.json")


def read_manifest(store: Store, process: str, version: str) -> Manifest:
    """The manifest of a version; with the signature that this machine asks for.

    Raises:
        ValueError: no such version, the message lists those there are; or its manifest is damaged, or not signed as it should be.
    """
    manifest = read_unsigned(store, process, version)
    check_signature(manifest)
    return manifest


def read_unsigned(store: Store, process: str, version: str) -> Manifest:
    """The manifest of a version, whoever signed it or nobody; for listing and signing, never for loading."""
    key = manifest_key(process, version)
    try:
        manifest = Manifest.model_validate_json(store.read(key)[0])
    except MissingObject:
        known = ", ".join(version_names(store, process)) or "none"
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


def version_names(store: Store, process: str) -> Iterator[str]:
    """Versions that have a manifest, in the order of their names."""
    for info in store.list(f"{process}/models/versions/"):
        if info.key.endswith("/manifest.json"):
            yield info.key.split("/")[-2]
