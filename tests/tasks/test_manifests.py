"""What a version's manifest must be: its own digest, its root, its keys, and signed when that is asked for."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from infra.signing import public_key_of
from infra.spans import Spans
from infra.store import LocalStore, Store
from tasks.aliases import move_alias, rollback
from tasks.manifests import Manifest, manifest_key, merkle_root, read_manifest, read_unsigned
from tasks.registry import export_version, fetch_version, publish_version, versions_of
from tasks.verification import sign_verified

FACTS: dict[str, Any] = {"created": "2024-01-31T08:00:00Z", "run": "r"}


def publish(store: Store, text: str = "weights") -> Manifest:
    files = {"model-00001-of-00001.safetensors": Spans((text.encode(),)), "config.json": Spans((b"{}",))}
    return publish_version(store, "p", files, **FACTS)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> Ed25519PrivateKey:
    """A signing key that this machine has and trusts."""
    private = Ed25519PrivateKey.generate()
    monkeypatch.setenv("CLERKFLOW_SIGNING_KEY", base64.b64encode(private.private_bytes_raw()).decode())
    monkeypatch.setenv("CLERKFLOW_PUBLIC_KEYS", public_key_of(private))
    return private


def leaf(name: str, digest: str) -> bytes:
    return hashlib.sha256(b"\0" + name.encode() + b"\0" + bytes.fromhex(digest)).digest()


def test_the_root_of_three_parts_is_that_of_a_hash_tree() -> None:
    a, b, c = ("11" * 32, "22" * 32, "33" * 32)
    pair = hashlib.sha256(b"\1" + leaf("a", a) + leaf("b", b)).digest()
    assert merkle_root({"a": a}) == leaf("a", a).hex()
    assert merkle_root({"c": c, "b": b, "a": a}) == hashlib.sha256(b"\1" + pair + leaf("c", c)).hexdigest()


def test_a_part_under_another_name_makes_another_root() -> None:
    assert merkle_root({"a": "11" * 32}) != merkle_root({"b": "11" * 32})


@pytest.mark.parametrize(
    ("field", "value"), [("commit", "abc"), ("metrics", {"accuracy": 0.9}), ("verdict", {"passed": True}), ("run", "s")]
)
def test_every_fact_of_a_manifest_is_part_of_its_root(local: LocalStore, field: str, value: Any) -> None:
    manifest = publish(local)
    changed = manifest.model_dump(mode="json") | {field: value}
    with pytest.raises(ValidationError, match="its parts make root"):
        Manifest.model_validate(changed)


def test_a_stages_artifact_is_part_of_the_root(local: LocalStore) -> None:
    changed = publish(local).model_dump(mode="json") | {"data": {"ingestion": {"key": "p/raw/files.json", "sha256": "0" * 64}}}
    with pytest.raises(ValidationError, match="its parts make root"):
        Manifest.model_validate(changed)


def without_root(told: dict[str, Any]) -> None:
    del told["root"]


def without_block(told: dict[str, Any]) -> None:
    told["files"]["config.json"]["pieces"][0]["blocks"] = []


def other_process(told: dict[str, Any]) -> None:
    told["process"] = "q"


def without_layout(told: dict[str, Any]) -> None:
    del told["layout"]


def other_layout(told: dict[str, Any]) -> None:
    told["layout"] = 3


def unknown_field(told: dict[str, Any]) -> None:
    told["extra"] = 1


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (without_root, "root"),
        (without_block, "blocks"),
        (other_process, "not the key"),
        (without_layout, "layout"),
        (other_layout, "layout"),
        (unknown_field, "extra"),
    ],
)
def test_a_manifest_that_is_not_of_this_form_is_refused(local: LocalStore, tamper: Callable[[dict[str, Any]], None], words: str) -> None:
    manifest = publish(local)
    told = manifest.model_dump(mode="json")
    tamper(told)
    local.write(manifest_key("p", manifest.version), json.dumps(told).encode())
    with pytest.raises(ValueError, match=words):
        read_manifest(local, "p", manifest.version)


def test_a_version_is_a_flat_folder(local: LocalStore) -> None:
    with pytest.raises(ValidationError, match="one flat folder"):
        publish_version(local, "p", {"sub/config.json": Spans((b"{}",))}, **FACTS)


def test_a_damaged_manifest_is_named_or_left_out_with_a_warning(local: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = publish(local), publish(local, "others")
    local.write(manifest_key("p", bad.version), b"{")
    with pytest.raises(ValueError, match="is damaged"):
        versions_of(local, "p")
    assert versions_of(local, "p", skip_damaged=True) == [good]
    assert f"p {bad.version} is left out" in caplog.text


def test_a_file_larger_than_a_shard_is_kept_in_pieces_and_comes_back_whole(local: LocalStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    manifest = publish_version(local, "p", {"model.safetensors": Spans((data,)), "config.json": Spans((b"{}",))}, 4096, **FACTS)
    sizes = [info.size for info in local.list("p/models/shards/")]
    assert len(manifest.files["model.safetensors"].pieces) == 3 and max(sizes) == 4096
    assert all(info.key.endswith(".part") for info in local.list("p/models/shards/"))
    assert (fetch_version(local, "p", manifest.version, tmp_path / "cache") / "model.safetensors").read_bytes() == data


# Signatures


def loaders(store: Store, version: str, folder: Path) -> list[Callable[[], Any]]:
    """Every way to use a version."""
    return [
        lambda: fetch_version(store, "p", version, folder / "cache"),
        lambda: export_version(store, "p", version, folder / "exported"),
        lambda: move_alias(store, "p", version, "test", instead_of=None),
        lambda: read_manifest(store, "p", version),
    ]


def test_a_signed_version_is_taken_by_every_loader(local: LocalStore, key: Ed25519PrivateKey, tmp_path: Path) -> None:
    manifest = publish(local)
    assert manifest.signature and manifest.signature.public_key == public_key_of(key)
    for load in loaders(local, manifest.version, tmp_path):
        load()


def test_an_unsigned_version_is_refused_by_every_loader(local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = publish(local)
    monkeypatch.setenv("CLERKFLOW_PUBLIC_KEYS", public_key_of(Ed25519PrivateKey.generate()))
    for load in loaders(local, manifest.version, tmp_path):
        with pytest.raises(ValueError, match=r"is not signed.*clerkflow sign p"):
            load()
    assert not (tmp_path / "exported").exists()


def test_a_version_signed_by_somebody_else_is_refused(local: LocalStore, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = publish(local)
    monkeypatch.setenv("CLERKFLOW_PUBLIC_KEYS", public_key_of(Ed25519PrivateKey.generate()))
    with pytest.raises(ValueError, match="which is not among CLERKFLOW_PUBLIC_KEYS"):
        read_manifest(local, "p", manifest.version)


def test_a_signature_of_another_manifest_is_refused(local: LocalStore, key: Ed25519PrivateKey) -> None:
    first, second = publish(local, "one"), publish(local, "two")
    forged = second.model_copy(update={"signature": first.signature})
    local.write(manifest_key("p", second.version), forged.as_bytes())
    with pytest.raises(ValueError, match="does not fit what it says"):
        read_manifest(local, "p", second.version)


def test_going_back_to_an_unsigned_version_is_refused(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = publish(local, "one"), publish(local, "two")
    for before, now in ((None, first), (first.version, second)):
        move_alias(local, "p", now.version, "test", instead_of=before)
    monkeypatch.setenv("CLERKFLOW_PUBLIC_KEYS", public_key_of(Ed25519PrivateKey.generate()))
    with pytest.raises(ValueError, match="not signed"):
        rollback(local, "p")


def test_what_was_published_before_there_was_a_key_can_be_signed_once_it_is_proven(
    local: LocalStore, request: pytest.FixtureRequest
) -> None:
    manifest = publish(local)
    request.getfixturevalue("key")
    signed = sign_verified(local, "p", manifest.version)
    assert read_manifest(local, "p", manifest.version) == signed
    assert signed.root == manifest.root
    assert sign_verified(local, "p", manifest.version) == signed


def test_a_damaged_version_is_not_signed(local: LocalStore, request: pytest.FixtureRequest) -> None:
    manifest = publish(local)
    piece = manifest.files["config.json"].pieces[0]
    local.write(piece.key, b"[]")
    request.getfixturevalue("key")
    with pytest.raises(ValueError, match=r"is not signed, for it is not what was published: files/config.json"):
        sign_verified(local, "p", manifest.version)
    assert read_unsigned(local, "p", manifest.version).signature is None


def test_publishing_again_with_a_key_signs_what_was_unsigned(local: LocalStore, request: pytest.FixtureRequest) -> None:
    publish(local)
    request.getfixturevalue("key")
    assert publish(local).signature is not None
    assert [manifest.signature is not None for manifest in versions_of(local, "p")] == [True]


def test_a_forged_signature_gives_way_to_a_real_one_also_where_no_key_is_trusted_by_name(
    local: LocalStore, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publish(local, "one"), publish(local, "two")
    local.write(manifest_key("p", second.version), second.model_copy(update={"signature": first.signature}).as_bytes())
    monkeypatch.delenv("CLERKFLOW_PUBLIC_KEYS")
    assert sign_verified(local, "p", second.version) == second


def test_no_key_is_ever_in_an_error(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_SIGNING_KEY", "c2VjcmV0LWtleQ==")
    with pytest.raises(ValueError, match="CLERKFLOW_SIGNING_KEY is not an Ed25519 key") as told:
        publish(local)
    assert "c2VjcmV0" not in str(told.value)
    assert list(local.list("p/models/versions/")) == []
