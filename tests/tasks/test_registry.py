"""Published versions and the champion alias, on a folder and on a real MinIO server."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from infra.spans import Spans
from infra.store import Conflict, Store
from tasks.aliases import champion_of, log_of, move_alias, rollback
from tasks.manifests import Manifest, key_of, manifest_key, read_manifest
from tasks.registry import fetch_version, files_in, publish_version, versions_of
from tasks.shards import shards_of

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"created": "2024-01-31T08:00:00Z", "run": "20240131T080000-abc123"}


def version_files(folder: Path, seed: int) -> dict[str, Spans]:
    """A small version: twelve layers in shards, a configuration, and what was measured."""
    chance = numpy.random.default_rng(seed)
    (folder / "model").mkdir(parents=True)
    (folder / "version").mkdir()
    save_file(
        {f"layer.{n}.weight": chance.standard_normal((32, 32), dtype="float32") for n in range(12)}, folder / "model" / "m.safetensors"
    )
    (folder / "version" / "config.json").write_text(json.dumps({"seed": seed}))
    (folder / "version" / "metrics.json").write_text("{}")
    (folder / "version" / "reference.jsonl").write_text('{"text": "一"}\n')
    return again(folder)


def again(folder: Path) -> dict[str, Spans]:
    """The files of a version as they are now."""
    return files_in(folder / "version") | shards_of(folder / "model", 10_000)


def bytes_of(files: dict[str, Spans]) -> dict[str, bytes]:
    return {name: b"".join(map(bytes, spans.blocks())) for name, spans in files.items()}


def published(store: Store, tmp_path: Path, seed: int, instead_of: str | None = None) -> Manifest:
    """A version of process `p`, published and made champion."""
    folder = tmp_path / f"seed-{seed}"
    manifest = publish_version(store, "p", version_files(folder, seed), **FACTS | {"created": f"2024-01-3{seed}T08:00:00Z"})
    move_alias(store, "p", manifest.version, "test", "run", instead_of=instead_of)
    return manifest


def test_a_version_is_fetched_as_it_was_published(store: Store, tmp_path: Path) -> None:
    manifest = published(store, tmp_path, 0)
    folder = fetch_version(store, "p", manifest.version, tmp_path / "cache")
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert there == bytes_of(again(tmp_path / "seed-0"))
    assert len([name for name in there if name.endswith(".safetensors")]) > 1
    assert all(not path.stat().st_mode & 0o222 for path in folder.iterdir())


def test_publishing_again_keeps_the_first_manifest_and_moves_nothing(store: Store, tmp_path: Path) -> None:
    first = published(store, tmp_path, 0)
    alias = champion_of(store, "p")
    second = publish_version(store, "p", again(tmp_path / "seed-0"), created="2030-01-01T00:00:00Z", run="later")
    assert second == first
    assert move_alias(store, "p", second.version, "again", "later", instead_of=None) == alias


def test_what_was_measured_does_not_make_another_version_and_the_model_does(store: Store, tmp_path: Path) -> None:
    first = published(store, tmp_path, 0)
    (tmp_path / "seed-0" / "version" / "metrics.json").write_text('{"champion_version": "other"}')
    assert publish_version(store, "p", again(tmp_path / "seed-0"), **FACTS).version == first.version
    (tmp_path / "seed-0" / "version" / "config.json").write_text("{}")
    assert publish_version(store, "p", again(tmp_path / "seed-0"), **FACTS).version != first.version


def test_versions_that_share_weights_share_shards(store: Store, tmp_path: Path) -> None:
    published(store, tmp_path, 0)
    shards = [info.key for info in store.list("p/models/shards/")]
    (tmp_path / "seed-0" / "version" / "config.json").write_text("{}")
    publish_version(store, "p", again(tmp_path / "seed-0"), **FACTS)
    assert [info.key for info in store.list("p/models/shards/")] == shards
    assert len(versions_of(store, "p")) == 2


def test_nothing_published_means_no_champion_and_no_version(store: Store, tmp_path: Path) -> None:
    assert champion_of(store, "p") is None
    assert versions_of(store, "p") == []
    with pytest.raises(ValueError, match="no champion yet"):
        rollback(store, "p")
    with pytest.raises(ValueError, match="published are: none"):
        fetch_version(store, "p", "abc", tmp_path)


def test_versions_come_newest_first(store: Store, tmp_path: Path) -> None:
    old = published(store, tmp_path, 0)
    new = published(store, tmp_path, 1, old.version)
    assert [manifest.version for manifest in versions_of(store, "p")] == [new.version, old.version]


def test_rolling_back_goes_to_the_predecessor_and_is_remembered(store: Store, tmp_path: Path) -> None:
    old = published(store, tmp_path, 0)
    new = published(store, tmp_path, 1, old.version)
    alias = rollback(store, "p", None, "customers complained")
    assert (alias.version, alias.previous, alias.reason) == (old.version, new.version, "customers complained")
    assert [move.version for move in alias.history] == [old.version, new.version, old.version]
    assert champion_of(store, "p") == alias
    assert rollback(store, "p", new.version).version == new.version


def test_rolling_back_twice_goes_back_twice_and_never_to_what_was_rolled_back(store: Store, tmp_path: Path) -> None:
    first = published(store, tmp_path, 0)
    second = published(store, tmp_path, 1, first.version)
    third = published(store, tmp_path, 2, second.version)
    assert [rollback(store, "p").version, rollback(store, "p").version] == [second.version, first.version]
    with pytest.raises(ValueError, match="no champion before"):
        rollback(store, "p")
    rollback(store, "p", third.version)
    assert rollback(store, "p").version == first.version


def test_rolling_back_to_what_cannot_be_champion_says_why(store: Store, tmp_path: Path) -> None:
    first = published(store, tmp_path, 0)
    with pytest.raises(ValueError, match=f"no champion before {first.version} is left to go back to; name a version: {first.version}"):
        rollback(store, "p")
    with pytest.raises(ValueError, match="champion already"):
        rollback(store, "p", first.version)
    with pytest.raises(ValueError, match=f"no version 'nothing'; published are: {first.version}"):
        rollback(store, "p", "nothing")
    with pytest.raises(ValueError, match="not a key"):
        rollback(store, "p", "../../other")


def test_a_version_that_is_not_whole_never_becomes_champion(store: Store, tmp_path: Path) -> None:
    old = published(store, tmp_path, 0)
    new = published(store, tmp_path, 1, old.version)
    shards = sorted(piece.key for _, piece, _ in old.pieces() if piece.key.endswith(".safetensors"))
    store.delete(shards[0])
    store.write(shards[1], b"short")
    with pytest.raises(ValueError, match="is not whole") as refused:
        rollback(store, "p")
    assert f"(missing: {store.address(shards[0])})" in str(refused.value)
    assert "(5 bytes instead of" in str(refused.value)
    alias = champion_of(store, "p")
    assert alias
    assert alias.version == new.version


def test_a_version_judged_against_another_champion_is_told_who_was_first(store: Store, tmp_path: Path) -> None:
    first = published(store, tmp_path, 0)
    late = publish_version(store, "p", version_files(tmp_path / "late", 5), **FACTS)
    with pytest.raises(Conflict, match=f"champion is {first.version} since .*run run"):
        move_alias(store, "p", late.version, "late", "late-run", instead_of=None)
    assert [move.version for move in champion_of(store, "p").history] == [first.version]  # type: ignore[union-attr]


def test_of_publishers_at_once_one_wins_and_the_others_are_told(store: Store, tmp_path: Path) -> None:
    base = published(store, tmp_path, 0)
    rivals = [publish_version(store, "p", version_files(tmp_path / f"rival-{n}", 20 + n), **FACTS).version for n in range(4)]

    def move(version: str) -> str:
        try:
            return move_alias(store, "p", version, "race", version, instead_of=base.version).version
        except Conflict as told:
            return str(told)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(move, rivals))
    winners = [answer for answer in answers if answer in rivals]
    assert len(winners) == 1
    assert all(f"champion is {winners[0]}" in answer for answer in answers if answer not in rivals)
    assert [entry.version for entry in champion_of(store, "p").history] == [base.version, winners[0]]  # type: ignore[union-attr]


def test_the_same_version_published_by_many_at_once_is_one_version(store: Store, tmp_path: Path) -> None:
    files = version_files(tmp_path / "same", 3)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: publish_version(store, "p", files, created=f"2024-01-0{n}T00:00:00Z", run=str(n)), range(1, 5)))
    assert len({manifest.model_dump_json() for manifest in found}) == 1
    assert len(versions_of(store, "p")) == 1


def a_shard(manifest: Manifest) -> str:
    return min(piece.key for _, piece, _ in manifest.pieces() if piece.key.endswith(".safetensors"))


def test_a_flipped_byte_in_the_cache_is_mended(store: Store, tmp_path: Path) -> None:
    manifest = published(store, tmp_path, 0)
    folder = fetch_version(store, "p", manifest.version, tmp_path / "cache")
    name = next(name for name, piece, _ in manifest.pieces() if piece.key == a_shard(manifest))
    whole = (folder / name).read_bytes()
    (folder / name).chmod(0o644)
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (folder / "foreign.safetensors").write_bytes(b"from_pretrained must not see this")
    fetch_version(store, "p", manifest.version, tmp_path / "cache")
    assert (folder / name).read_bytes() == whole
    assert not (folder / "foreign.safetensors").exists()


@pytest.mark.parametrize("harm", ["flipped", "truncated", "missing"])
def test_a_damaged_object_is_refused_with_its_address_and_the_remedy(store: Store, tmp_path: Path, harm: str) -> None:
    manifest = published(store, tmp_path, 0)
    key = a_shard(manifest)
    whole = store.read(key)[0]
    store.delete(key)
    if harm != "missing":
        store.write(key, whole[:-1] + bytes([whole[-1] ^ 1]) if harm == "flipped" else whole[:100])
    with pytest.raises(ValueError, match="clerkflow rollback p") as refused:
        fetch_version(store, "p", manifest.version, tmp_path / "cache")
    assert store.address(key) in str(refused.value)


def test_publishing_again_mends_a_damaged_object(store: Store, tmp_path: Path) -> None:
    manifest = published(store, tmp_path, 0)
    store.write(a_shard(manifest), b"damaged")
    publish_version(store, "p", again(tmp_path / "seed-0"), **FACTS)
    assert fetch_version(store, "p", manifest.version, tmp_path / "cache").is_dir()


def climbing(manifest: dict) -> None:  # type: ignore[type-arg]
    manifest["files"]["../../climbed"] = manifest["files"].pop("config.json")


def foreign(manifest: dict) -> None:  # type: ignore[type-arg]
    manifest["files"]["config.json"]["pieces"][0]["key"] = "other/secrets"


def exchanged(manifest: dict) -> None:  # type: ignore[type-arg]
    digest = "0" * 64
    manifest["files"]["config.json"]["pieces"][0] |= {"sha256": digest, "key": key_of("p", "config.json", digest)}


@pytest.mark.parametrize(
    ("tamper", "words"), [(climbing, "not a key"), (foreign, "not the key of its digest"), (exchanged, "make version")]
)
def test_a_manifest_that_was_tampered_with_is_refused(store: Store, tmp_path: Path, tamper: Callable[..., None], words: str) -> None:
    manifest = published(store, tmp_path, 0)
    changed = manifest.model_dump(mode="json")
    tamper(changed)
    store.write(manifest_key("p", manifest.version), json.dumps(changed).encode())
    with pytest.raises(ValueError, match=words):
        read_manifest(store, "p", manifest.version)
    with pytest.raises(ValueError, match=words):
        fetch_version(store, "p", manifest.version, tmp_path / "cache")
    assert not (tmp_path / "climbed").exists()


def test_many_fetchers_at_once_all_get_a_whole_version(store: Store, tmp_path: Path) -> None:
    manifest = published(store, tmp_path, 0)
    with ThreadPoolExecutor(6) as pool:
        folders = set(pool.map(lambda _: fetch_version(store, "p", manifest.version, tmp_path / "cache"), range(6)))
    assert len(folders) == 1
    assert {path.name for path in folders.pop().iterdir()} == set(manifest.files)


def test_the_history_keeps_the_last_hundred_moves(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.aliases.HISTORY", 3)
    first = published(store, tmp_path, 0)
    second = published(store, tmp_path, 1, first.version)
    for number in range(4):
        alias = rollback(store, "p", (first if number % 2 == 0 else second).version)
    assert len(alias.history) == 3
    assert alias.history[-1].since == alias.since
    assert [move.number for move in log_of(store, "p")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_publisher_leaves_no_half_version_and_ends_the_same_when_started_again(tmp_path: Path, store: Store, seed: int) -> None:
    files = version_files(tmp_path / "killed", 7)
    code = (
        "import sys; from pathlib import Path; from infra.store import open_store; from tasks.registry import *\n"
        "from tasks.aliases import move_alias; from tasks.shards import shards_of; folder = Path(sys.argv[1])\n"
        "store = open_store(); print('ready', flush=True)\n"
        "files = files_in(folder / 'version') | shards_of(folder / 'model', 10_000)\n"
        "manifest = publish_version(store, 'p', files, created='2024-01-31T08:00:00Z', run='r')\n"
        "move_alias(store, 'p', manifest.version, 'test', 'r', instead_of=None)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 0.15))
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=240)
    alias = champion_of(store, "p")
    for manifest in versions_of(store, "p"):
        fetch_version(store, "p", manifest.version, tmp_path / "cache")
    assert alias is None or len(versions_of(store, "p")) == 1
    finished = publish_version(store, "p", files, **FACTS)
    ended = move_alias(store, "p", finished.version, "test", instead_of=None)
    assert [manifest.version for manifest in versions_of(store, "p")] == [ended.version]
    fetched = fetch_version(store, "p", ended.version, tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == bytes_of(files)
