"""Whoever counts on objects and whoever removes them see each other, whichever comes first and whoever is killed or sleeps."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra import here
from infra.spans import Spans
from infra.store import Conflict, LocalStore, Store
from tasks import reservations
from tasks.manifests import Manifest, manifest_key
from tasks.registry import check_whole, publish_version
from tasks.reservations import LEASE_SECONDS, Lease, collecting, collection_key, reserved, reserved_keys
from tasks.retention import collect


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is over after a second, and its other times shorter too."""
    for name, seconds in (("LEASE_SECONDS", 1.0), ("DELETING_SECONDS", 0.6), ("RENEW_SECONDS", 0.1), ("POLL_SECONDS", 0.01)):
        monkeypatch.setattr(reservations, name, seconds)


def reservations_of(store: Store) -> list[str]:
    return [info.key for info in store.list("p/models/reservations/")]


def test_what_is_reserved_is_known_to_a_collector_until_the_body_ends(store: Store) -> None:
    with reserved(store, "p", ["p/models/shards/b", "p/models/shards/a"]):
        assert reserved_keys(store, "p", datetime.now(UTC)) == {"p/models/shards/a", "p/models/shards/b"}
    assert reserved_keys(store, "p", datetime.now(UTC)) == set()
    assert reservations_of(store) == []


def test_several_reservations_add_up(local: LocalStore) -> None:
    with reserved(local, "p", ["p/a"]), reserved(local, "p", ["p/b"]), reserved(local, "q", ["q/c"]):
        assert reserved_keys(local, "p", datetime.now(UTC)) == {"p/a", "p/b"}


def test_an_error_in_the_body_leaves_no_reservation(local: LocalStore) -> None:
    with pytest.raises(OSError, match="the disk"), reserved(local, "p", ["p/a"]):
        raise OSError("the disk")
    assert reservations_of(local) == []


def test_an_error_is_not_hidden_by_a_reservation_that_cannot_be_removed(local: LocalStore) -> None:
    class Away(LocalStore):
        def delete(self, key: str) -> None:
            raise ConnectionError("the server is away")

    with pytest.raises(ValueError, match="the reason"), reserved(Away(local.root), "p", ["p/a"]):
        raise ValueError("the reason")


def test_nobody_begins_while_a_collection_runs_and_the_waiting_is_told_once(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reservations, "POLL_SECONDS", 0.01)
    caplog.set_level("INFO")
    begun: list[float] = []

    def begin() -> None:
        with reserved(local, "p", ["p/a"]):
            begun.append(time.monotonic())

    with ThreadPoolExecutor(1) as pool:
        with collecting(local, "p"):
            waiting = pool.submit(begin)
            time.sleep(0.2)
            assert begun == []
            assert len(reservations_of(local)) == 1
        waiting.result(timeout=10)
    assert sum("waiting for a collection" in line for line in caplog.messages) == 1


def test_a_collection_that_never_ends_is_told_with_what_to_do(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10**6, 50))
    monkeypatch.setattr("tasks.reservations.time.monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr("tasks.reservations.time.sleep", lambda _: local.write(collection_key("p"), b"renewed"))
    local.write(collection_key("p"), b"renewed")
    with pytest.raises(Conflict, match="still being collected; try again when 'clerkflow gc' has ended"), reserved(local, "p", ["p/a"]):
        pass
    assert reservations_of(local) == []


def test_a_collector_whose_machine_slept_longer_than_its_lease_deletes_nothing_more(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting(local, "p") as lease:
        lease.check()
        woken = here.seconds() + LEASE_SECONDS
        monkeypatch.setattr("tasks.reservations.seconds", lambda: woken)
        with pytest.raises(Conflict, match="was not renewed in time"):
            lease.check()


def test_collections_of_two_processes_do_not_meet(store: Store) -> None:
    with collecting(store, "p"), collecting(store, "q"), reserved(store, "r", ["r/a"]):
        assert reserved_keys(store, "p", datetime.now(UTC)) == set()


def test_a_second_collector_is_told_when_to_come_again_and_takes_over_from_a_killed_one(store: Store, quick: None) -> None:
    reservations.LEASE_SECONDS = 2.5  # a server tells whole seconds
    store.write(collection_key("p"), b"killed")
    with pytest.raises(Conflict, match=r"another collection runs, or was killed \d+ s ago; try again in \d+ s"), collecting(store, "p"):
        pass
    assert reservations_of(store) == []
    reservations.LEASE_SECONDS = 0.0
    time.sleep(1.1)
    with collecting(store, "p"):
        assert store.read(collection_key("p"))[0] != b"killed"
    assert store.stat(collection_key("p")) is None


def test_of_several_who_take_over_from_a_killed_collector_one_does(local: LocalStore, quick: None) -> None:
    local.write(collection_key("p"), b"killed")
    time.sleep(1.05)

    def take(_: int) -> bool:
        try:
            with collecting(local, "p"):
                time.sleep(0.3)
                return True
        except Conflict:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, range(4))) == 1


def test_a_lease_is_renewed_as_long_as_its_collector_works(local: LocalStore, quick: None) -> None:
    with collecting(local, "p") as lease:
        taken, end = lease.etag, time.monotonic() + 1.3
        while time.monotonic() < end:
            lease.check()
            time.sleep(0.01)
        assert lease.etag != taken
        with pytest.raises(Conflict), collecting(local, "p"):
            pass


def test_a_collector_that_slept_longer_than_its_lease_deletes_nothing_more(local: LocalStore, quick: None) -> None:
    """Nobody else collected meanwhile, but publishers took the lease for a dead one's and began to count on what there was."""
    with collecting(local, "p") as lease:
        lease.check()
        time.sleep(1.1)
        with pytest.raises(Conflict, match="nothing more is deleted"):
            lease.check()


def version(store: Store, number: int, shared: bytes) -> Manifest:
    files = {"model-1.safetensors": Spans((b"own %d" % number,)), "model-2.safetensors": Spans((shared,))}
    return publish_version(store, "p", files, created=f"2024-01-{number:02}T00:00:00Z", run=str(number))


def test_a_version_published_while_a_collector_slept_is_whole_when_it_wakes(
    local: LocalStore, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector sleeps before it looks at its lease; the publisher finds an old shard there and does not send it again."""
    orphan = version(local, 1, b"shared")
    local.delete(manifest_key("p", orphan.version))
    made: list[Manifest] = []
    check = Lease.check

    def sleep_first(lease: Lease) -> None:
        if not made:
            time.sleep(1.1)
            made.append(version(local, 5, b"shared"))
        check(lease)

    monkeypatch.setattr(Lease, "check", sleep_first)
    with suppress(Conflict):
        collect(local, "p", keep=1, grace_hours=0, dry_run=False)
    check_whole(local, made[0])


def test_a_reservation_is_forgotten_after_a_day_of_the_stores_own_clock(local: LocalStore) -> None:
    local.write("p/models/reservations/killed.json", json.dumps(["p/a"]).encode())
    assert reserved_keys(local, "p", datetime.now(UTC) + timedelta(hours=23)) == {"p/a"}
    assert reserved_keys(local, "p", datetime.now(UTC) + timedelta(hours=25)) == set()


def test_a_dry_run_forgets_no_reservation(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    local.write("p/models/reservations/killed.json", b"[]")
    monkeypatch.setattr(reservations, "RESERVED_SECONDS", -1.0)
    collect(local, "p", keep=1, grace_hours=0)
    assert reservations_of(local) == ["p/models/reservations/killed.json"]
