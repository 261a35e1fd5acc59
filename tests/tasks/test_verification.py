"""Verification reads everything again, and names the first bytes that differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.spans import Spans
from infra.store import LocalStore, Store
from tasks.artifacts import store_folder
from tasks.manifests import Contents, Evidence, Manifest, manifest_key, manifest_of
from tasks.registry import publish_version
from tasks.verification import verify_version

FACTS: dict[str, Any] = {"created": "2024-01-31T08:00:00Z", "run": "r"}


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def publish(store: Store) -> Manifest:
    return publish_version(store, "p", {"model-00001-of-00001.safetensors": Spans((b"weights",))}, **FACTS)


def faulty(store: Store, manifest: Manifest) -> list[str]:
    """Parts that are not what they were."""
    return [finding.part for finding in verify_version(store, "p", manifest.version)[1] if finding.fault]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("at", "words"), [(0, "bytes 0–1048575 differ"), (2**20 + 5, "bytes 1048576–2097151 differ"), (2_500_000, "bytes 2097152–2999999")]
)
def test_the_first_bytes_that_differ_are_named(store: Store, at: int, words: str) -> None:
    data = bytes(3_000_000)
    manifest = publish_version(store, "p", {"model.safetensors": Spans((data,))}, **FACTS)
    store.write(manifest.files["model.safetensors"].pieces[0].key, flipped(data, at))
    _, findings = verify_version(store, "p", manifest.version)
    assert [finding.part for finding in findings if finding.fault] == ["files/model.safetensors"]
    assert words in "".join(finding.fault for finding in findings)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda data: data[:1_500_000], "first, bytes 1500000–2999999 are missing"),
        (lambda data: data[: 2**20], "first, bytes 1048576–2999999 are missing"),
        (lambda data: data + b"!!", "first, bytes 3000000–3000001 are too many"),
        (lambda data: flipped(data, 5)[:1_500_000], "first, bytes 0–1048575 differ"),
        (lambda data: flipped(data, 2_999_999) + b"!!", "first, bytes 2097152–2999999 differ"),
    ],
)
def test_of_a_shorter_or_longer_object_no_byte_is_named_that_is_right(store: Store, harm: Callable[[bytes], bytes], words: str) -> None:
    data = bytes(3_000_000)
    manifest = publish_version(store, "p", {"model.safetensors": Spans((data,))}, **FACTS)
    store.write(manifest.files["model.safetensors"].pieces[0].key, harm(data))
    (fault,) = (finding.fault for finding in verify_version(store, "p", manifest.version)[1] if finding.fault)
    assert fault.endswith(words)


def test_in_a_file_of_several_pieces_the_place_is_that_in_the_file(local: LocalStore) -> None:
    data = bytes(range(250)) * 40
    manifest = publish_version(local, "p", {"model.safetensors": Spans((data,))}, 4096, **FACTS)
    piece = manifest.files["model.safetensors"].pieces[1]
    local.write(piece.key, flipped(local.read(piece.key)[0], 7))
    _, findings = verify_version(local, "p", manifest.version)
    assert ["bytes 4096–8191 differ" in finding.fault for finding in findings if finding.fault] == [True]


@pytest.mark.parametrize(("harm", "words"), [("cut", "5 bytes instead of 7"), ("grown", "9 bytes instead of 7"), ("gone", "missing")])
def test_a_shard_of_another_size_or_a_missing_one_is_named(store: Store, harm: str, words: str) -> None:
    manifest = publish(store)
    key = manifest.files["model-00001-of-00001.safetensors"].pieces[0].key
    if harm == "gone":
        store.delete(key)
    else:
        store.write(key, b"weigh" if harm == "cut" else b"weights!!")
    faults = [finding.fault for finding in verify_version(store, "p", manifest.version)[1] if finding.fault]
    assert len(faults) == 1 and words in faults[0] and store.address(key) in faults[0]


def test_the_data_that_a_version_came_from_is_verified_too(local: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "records.jsonl").write_text("1\n2\n")
    raw = store_folder(local, tmp_path / "raw", "p/runs/r/raw")
    data = {"ingestion": Evidence(key=raw.key, sha256=raw.sha256)}
    manifest = publish_version(local, "p", {"config.json": Spans((b"{}",))}, **FACTS, data=data)
    assert faulty(local, manifest) == []
    local.write("p/runs/r/raw/records.jsonl", b"1\n3\n")
    assert faulty(local, manifest) == ["data/ingestion/records.jsonl"]
    local.delete(raw.key)
    assert faulty(local, manifest) == ["data/ingestion"]


def test_every_fault_is_named_at_once_that_of_the_evaluation_among_them(local: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text("{}")
    (tmp_path / "evaluation" / "proof.jsonl").write_text("1\n")
    evaluation = store_folder(local, tmp_path / "evaluation", "p/runs/r/evaluation")
    files = {f"model-{number}.safetensors": Spans((b"weights %d" % number,)) for number in (1, 2, 3)}
    data = {"evaluation": Evidence(key=evaluation.key, sha256=evaluation.sha256)}
    manifest = publish_version(local, "p", files, **FACTS, data=data)
    local.write(manifest.files["model-1.safetensors"].pieces[0].key, b"Weights 1")
    local.delete(manifest.files["model-3.safetensors"].pieces[0].key)
    local.write("p/runs/r/evaluation/proof.jsonl", b"1\n2\n")
    assert faulty(local, manifest) == ["files/model-1.safetensors", "files/model-3.safetensors", "data/evaluation/proof.jsonl"]


def test_evidence_that_lies_outside_the_store_is_a_fault_and_not_read(local: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "files.json").write_text("{}")
    outside = Evidence(key="../files.json", sha256="44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")
    told = publish(local).model_dump(exclude={"root", "signature"}) | {"data": {"ingestion": outside}}
    manifest = manifest_of(Contents(**told))
    local.write(manifest_key("p", manifest.version), manifest.as_bytes())
    assert faulty(local, manifest) == ["data/ingestion"]
