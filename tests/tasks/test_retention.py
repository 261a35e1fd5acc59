"""What a collection removes and what it keeps, also while others publish, roll back and are killed."""

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.bucket import MinioStore
from infra.spans import Spans
from infra.store import Conflict, LocalStore, Store
from tasks import reservations
from tasks.aliases import challenge, champion_of, move_alias, rollback
from tasks.manifests import Manifest, manifest_key
from tasks.registry import check_whole, fetch_version, publish_version, versions_of
from tasks.reservations import collecting, collection_key, reserved
from tasks.retention import collect, plan


def publish(store: Store, number: int, shared: bytes = b"shared") -> Manifest:
    """A version with one shard of its own and one that all share."""
    files = {"model-1.safetensors": Spans((b"own %d" % number,)), "model-2.safetensors": Spans((shared,))}
    return publish_version(store, "p", files, created=f"2024-01-{number:02}T00:00:00Z", run=str(number))


def crowned(store: Store, *numbers: int) -> list[Manifest]:
    """Versions, each made champion after the one before it."""
    found: list[Manifest] = []
    for number in numbers:
        found.append(publish(store, number))
        move_alias(store, "p", found[-1].version, "test", instead_of=found[-2].version if len(found) > 1 else None)
    return found


def old(store: Store) -> datetime:
    """A time at which nothing that is there now is young any more."""
    return datetime.now(UTC) + timedelta(days=2)


def versions(store: Store) -> set[str]:
    return {manifest.version for manifest in versions_of(store, "p")}


def test_a_dry_run_says_what_would_go_and_removes_nothing(store: Store) -> None:
    made = crowned(store, 1, 2, 3, 4)
    before = [info.key for info in store.list("p/")]
    found = collect(store, "p", keep=1, grace_hours=0)
    assert set(found.dropped) == {made[0].version, made[1].version}
    assert [info.key for info in store.list("p/")] == before


def test_old_versions_and_what_only_they_needed_go_and_the_rest_stays_whole(store: Store, tmp_path: Path) -> None:
    made = crowned(store, 1, 2, 3, 4)
    found = collect(store, "p", keep=1, grace_hours=0, dry_run=False)
    assert versions(store) == {made[2].version, made[3].version}
    assert len(found.objects) == 4
    for manifest in versions_of(store, "p"):
        fetch_version(store, "p", manifest.version, tmp_path / "cache")
    assert not store.stat(made[0].files["model-1.safetensors"].pieces[0].key)
    assert store.stat(made[0].files["model-2.safetensors"].pieces[0].key)


def test_the_newest_the_champion_its_predecessor_and_the_challenger_stay(store: Store) -> None:
    made = crowned(store, 1, 2, 3)
    rollback(store, "p", made[1].version)
    late = [publish(store, number) for number in (10, 11, 12)]
    challenge(store, "p", late[0].version)
    collect(store, "p", keep=1, grace_hours=0, dry_run=False)
    assert versions(store) == {made[0].version, made[1].version, late[0].version, late[2].version}


def test_what_is_young_stays_whoever_refers_to_it(store: Store) -> None:
    crowned(store, 1, 2, 3)
    store.write("p/models/shards/" + "0" * 64 + ".safetensors", b"just arrived")
    assert collect(store, "p", keep=1, grace_hours=1, dry_run=False).objects == ()
    assert len(versions(store)) == 3


def test_what_a_running_publish_counts_on_stays_however_old_it_is(store: Store) -> None:
    key = "p/models/shards/" + "0" * 64 + ".safetensors"
    store.write(key, b"old")
    with reserved(store, "p", [key]):
        assert collect(store, "p", keep=1, grace_hours=0, dry_run=False).objects == ()
    assert [info.key for info in collect(store, "p", keep=1, grace_hours=0, dry_run=False).objects] == [key]


def test_a_publisher_that_was_killed_is_forgotten_after_a_day(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    key = "p/models/shards/" + "0" * 64 + ".safetensors"
    store.write(key, b"old")
    store.write("p/models/reservations/killed.json", b'["%s"]' % key.encode())
    assert plan(store, "p", 1, 0, datetime.now(UTC)).objects == ()
    assert [info.key for info in plan(store, "p", 1, 0, old(store)).objects] == [key]
    assert store.stat("p/models/reservations/killed.json") is None


def test_of_two_collections_at_once_one_is_told(store: Store) -> None:
    with collecting(store, "p"), pytest.raises(Conflict, match="another collection runs"):
        collect(store, "p", keep=1, dry_run=False)
    collect(store, "p", keep=1, dry_run=False)


def test_a_collection_that_was_killed_stands_in_nobodys_way_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.write(collection_key("p"), b"killed")
    monkeypatch.setattr(reservations, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(reservations, "POLL_SECONDS", 0.05)
    publish(store, 1)
    collect(store, "p", keep=1, dry_run=False)
    assert store.stat(collection_key("p")) is None


def test_a_publisher_waits_until_a_collection_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    monkeypatch.setattr(reservations, "POLL_SECONDS", 0.05)
    with ThreadPoolExecutor(1) as pool:
        with collecting(store, "p"):
            publishing = pool.submit(publish, store, 1)
            with pytest.raises(TimeoutError):
                publishing.result(timeout=0.4)
            assert versions(store) == set()
        assert publishing.result(timeout=20).version in versions(store)


def test_a_collector_that_lost_its_lease_deletes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    monkeypatch.setattr(reservations, "RENEW_SECONDS", 0.0)
    with collecting(store, "p") as lease:
        lease.check()
        store.write(collection_key("p"), b"somebody else")
        with pytest.raises(Conflict):
            lease.check()
    assert store.read(collection_key("p"))[0] == b"somebody else"


def test_a_damaged_manifest_stops_a_collection_since_nobody_knows_what_it_needs(store: Store) -> None:
    made = crowned(store, 1, 2)
    store.write(manifest_key("p", made[0].version), b"{")
    with pytest.raises(ValueError, match="is damaged"):
        collect(store, "p", keep=1, grace_hours=0, dry_run=False)
    check_whole(store, made[1])


class Interrupted:
    """A store whose n-th call is preceded by what somebody else does."""

    def __init__(self, inner: Store, at: int, other: Callable[[], Any]) -> None:
        self.inner, self.left, self.other, self.lock = inner, at, other, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return self.delayed(found) if callable(found) and name != "address" else found

    def delayed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def after_the_other(*words: Any, **more: Any) -> Any:
            with self.lock:
                self.left -= 1
                now = self.left == 0
            if now:
                self.other()
            return call(*words, **more)

        return after_the_other


def collector(root: Path, at: int, begin: Callable[[], Any]) -> Any:
    """A store for a collector, which gives the other side some time to get on when it begins."""
    return Interrupted(LocalStore(root), at, lambda: (begin(), time.sleep(0.1)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two champions, and with the shards of a version that was dropped before: they are nobody's."""
    folder = tmp_path_factory.mktemp("shared")
    plain = LocalStore(folder)
    crowned(plain, 1, 2)
    plain.delete(manifest_key("p", publish(plain, 0, shared=b"old").version))
    return folder


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Manifest]]:
    """A store with four champions, and these."""
    folder = tmp_path_factory.mktemp("four")
    return folder, crowned(LocalStore(folder), 1, 2, 3, 4)


def copied(folder: Path, into: Path) -> LocalStore:
    """The same store once more, which is quicker than to publish it all again."""
    shutil.copytree(folder, into, dirs_exist_ok=True)
    return LocalStore(into)


def collect_quietly(store: Store) -> None:
    try:
        collect(store, "p", keep=1, grace_hours=0, dry_run=False)
    except Conflict:
        return


@pytest.mark.parametrize("at", range(1, 25))  # it makes 20 calls
def test_a_version_is_whole_wherever_a_collection_comes_between_its_publishing(
    tmp_path: Path, shared: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old version's shards are shared with the new one, and nothing else keeps them."""
    monkeypatch.setattr(reservations, "POLL_SECONDS", 0.01)
    published_beside_a_collection(copied(shared, tmp_path), at)


def published_beside_a_collection(plain: Store, at: int) -> None:
    publisher: Any = Interrupted(plain, at, lambda: collect_quietly(plain))
    made = publish(publisher, 5, shared=b"old")
    move_alias(publisher, "p", made.version, "test", instead_of=champion_of(plain, "p").version)  # type: ignore[union-attr]
    check_whole(plain, made)
    assert champion_of(plain, "p").version == made.version  # type: ignore[union-attr]


@pytest.mark.parametrize("at", range(2, 25, 4))
def test_the_same_on_a_server(bucket: MinioStore, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "POLL_SECONDS", 0.01)
    crowned(bucket, 1, 2)
    bucket.delete(manifest_key("p", publish(bucket, 0, shared=b"old").version))
    published_beside_a_collection(bucket, at)


@pytest.mark.parametrize("at", range(1, 21))  # it makes 17 calls
def test_a_version_is_whole_wherever_its_publishing_comes_between_a_collection(
    tmp_path: Path, shared: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher meets the collector's lease: it waits in a thread of its own until the collector is done."""
    monkeypatch.setattr(reservations, "POLL_SECONDS", 0.01)
    plain = copied(shared, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        publishing: list[Future[Manifest]] = []
        collect(collector(tmp_path, at, lambda: publishing.append(pool.submit(publish, plain, 5, b"old"))), "p", 1, 0, dry_run=False)
        if not publishing:
            publishing.append(pool.submit(publish, plain, 5, b"old"))
        check_whole(plain, publishing[0].result(timeout=30))


@pytest.mark.parametrize("at", range(1, 25))  # it makes 21 calls
def test_a_champion_is_whole_wherever_a_rollback_comes_between_a_collection(
    tmp_path: Path, four: tuple[Path, list[Manifest]], at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservations, "POLL_SECONDS", 0.01)
    plain, made = copied(four[0], tmp_path), four[1]
    with ThreadPoolExecutor(1) as pool:
        moving: list[Future[Any]] = []
        other = collector(tmp_path, at, lambda: moving.append(pool.submit(rollback, plain, "p", made[0].version)))
        collect(other, "p", 1, 0, dry_run=False)
        for each in moving:
            try:
                each.result(timeout=30)
            except ValueError as told:
                assert "no version" in str(told) or "not whole" in str(told)
    champion = champion_of(plain, "p")
    assert champion
    fetch_version(plain, "p", champion.version, tmp_path / "cache")


@pytest.mark.parametrize("at", range(1, 8))  # it makes 5 calls
def test_versions_can_be_listed_wherever_a_collection_comes_between(tmp_path: Path, four: tuple[Path, list[Manifest]], at: int) -> None:
    plain, made = copied(four[0], tmp_path), four[1]
    reader: Any = Interrupted(plain, at, lambda: collect_quietly(plain))
    assert {made[2].version, made[3].version} <= {manifest.version for manifest in versions_of(reader, "p")}
