"""Claims: one is at work, a dead one is overtaken, and one that slept writes nothing more; on a folder and on a real MinIO server."""

import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.memory import publish_tiny, tiny_process
from infra.here import here, is_alive
from infra.spans import Spans
from infra.store import Conflict, LocalStore, Store
from tasks import claims, retries
from tasks.aliases import champion_of, fence_of, log_of, move_alias, put_fence
from tasks.claims import Claim, Held, Hold, Lost, check, claimed, read, take
from tasks.registry import publish_version
from tasks.runs import Run
from tasks.scoring import score_batch

ROOT = Path(__file__).resolve().parents[2]
KEY = "p/claims/train.json"
ELSEWHERE = "another-boot pid:[1] 7 1.00"


def hold(claim: Claim, key: str = KEY) -> Hold:
    return Hold(key=key, token=claim.token, holder=claim.holder)


def move_away(store: Store, key: str, **update: object) -> Claim:
    """Make a claim one of another machine, so that only its lease can tell whether its holder lives."""
    claim, etag = read(store, key)
    assert claim
    claim = claim.model_copy(update={"place": ELSEWHERE} | update)
    store.write(key, claim.as_bytes(), if_match=etag)
    return claim


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of a second, on a clock that is not rounded."""
    monkeypatch.setenv("CLERKFLOW_LEASE_SECONDS", "1")
    monkeypatch.setattr(claims, "TICK_SECONDS", 0.2)
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.1)


def test_one_works_and_the_other_is_told_who_does(store: Store) -> None:
    with claimed(store, KEY, "first") as first:
        with pytest.raises(Held, match="first is at work on it since"):
            take(store, KEY, "second")
        check(store, first)
    with claimed(store, KEY, "second") as second:
        assert (first.token, second.token) == (1, 2)
        with pytest.raises(Lost, match="second took it over"):
            check(store, first)


def test_of_many_at_once_one_works(store: Store) -> None:
    taken, held, start = [], [], threading.Barrier(8)

    def try_it(number: int) -> None:
        start.wait()
        try:
            taken.append(take(store, KEY, str(number))[0])
        except Held:
            held.append(number)

    threads = [threading.Thread(target=try_it, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(held), taken[0].token) == (1, 7, 1)


def test_a_process_of_this_machine_that_was_killed_is_overtaken_at_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    code = f"import os; from tasks.claims import take; from infra.store import open_store; take(open_store(), {KEY!r}, 'dead'); os._exit(9)"
    words = [sys.executable, "-c", code]
    subprocess.run(words, cwd=ROOT, env=os.environ | {"CLERKFLOW_STORE": str(tmp_path)}, timeout=60, check=False)
    before = time.monotonic()
    assert take(store, KEY, "next")[0].token == 2
    assert time.monotonic() - before < 5


def test_a_silent_holder_elsewhere_is_overtaken_when_its_lease_has_passed(store: Store, short: None) -> None:
    take(store, KEY, "far")
    move_away(store, KEY)
    before = time.monotonic()
    assert take(store, KEY, "next")[0].token == 2
    assert 0.9 < time.monotonic() - before < 10


def test_a_holder_elsewhere_that_renews_is_alive(store: Store, short: None) -> None:
    take(store, KEY, "far")
    move_away(store, KEY, lease_seconds=30)
    renewal = threading.Timer(0.5, move_away, (store, KEY), {"renewed": 1})
    renewal.start()
    with pytest.raises(Held, match="far"):
        take(store, KEY, "next")
    renewal.join()


def test_whoever_waits_comes_next(tmp_path: Path, short: None) -> None:
    store, order = LocalStore(tmp_path), []

    def wait() -> None:
        with claimed(store, KEY, "second", wait=True):
            order.append("second")

    with claimed(store, KEY, "first"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(1.5)  # longer than the lease: a holder that renews is not overtaken
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]


def test_a_damaged_claim_is_nobodys(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write(KEY, b"{}")
    with pytest.raises(ValueError, match="is no claim; when nobody is at work, remove it"):
        take(store, KEY, "next")


def test_a_place_is_this_process_or_a_dead_one_or_unknown() -> None:
    machine, _, rest = here().rpartition(" ")[0].rpartition(" ")
    assert rest == str(os.getpid())
    assert (is_alive(here()), is_alive(f"{machine} {rest} 1.00"), is_alive(ELSEWHERE), is_alive("")) == (True, False, None, None)


# --- the fence


def two_versions(store: Store) -> list[str]:
    """Two versions of process `p` with one file each."""
    files = [{"config.json": Spans((b"%d" % number,))} for number in (1, 2)]
    return [publish_version(store, "p", each, created="2024-01-01T00:00:00Z", run="r").version for each in files]


def test_who_wakes_after_another_has_begun_cannot_move_the_alias(store: Store) -> None:
    first, second = two_versions(store)
    before = move_alias(store, "p", first, "first", "r", instead_of=None, token=1)
    put_fence(store, "p", 2)
    with pytest.raises(Conflict, match="a younger run is at work"):
        move_alias(store, "p", second, "slept", "r", instead_of=first, token=1)
    assert champion_of(store, "p") == before.model_copy(update={"fence": 2})
    moved = move_alias(store, "p", second, "awake", "r", instead_of=first, token=2)
    assert (moved.version, moved.fence) == (second, 2)
    back = move_alias(store, "p", first, "a person may", instead_of=second)
    assert (back.version, back.fence, len(log_of(store, "p"))) == (first, 2, 3)


class Woken(LocalStore):
    """A store whose writer of the alias sleeps between reading and writing, while another run takes over."""

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        if key.endswith("champion.json") and b'"reason": "slept"' in data:
            put_fence(LocalStore(self.root), "p", 2)
        return super().write(key, data, if_absent=if_absent, if_match=if_match)


@pytest.mark.parametrize("champion", [False, True])
def test_who_sleeps_between_reading_and_writing_the_alias_cannot_write_it(tmp_path: Path, champion: bool) -> None:
    store = Woken(tmp_path)
    first, second = two_versions(store)
    if champion:
        move_alias(store, "p", first, "first", "r", instead_of=None)
    put_fence(store, "p", 1)  # without a champion it stands alone in its place
    before = champion_of(store, "p")
    with pytest.raises(Conflict, match="a younger run is at work"):
        move_alias(store, "p", second, "slept", "r", instead_of=first if champion else None, token=1)
    assert (champion_of(store, "p"), fence_of(store, "p")) == (before and before.model_copy(update={"fence": 2}), 2)


def test_a_fence_never_goes_back(store: Store) -> None:
    put_fence(store, "p", 3)
    put_fence(store, "p", 3)
    with pytest.raises(Conflict, match="younger"):
        put_fence(store, "p", 2)
    assert (champion_of(store, "p"), fence_of(store, "p")) == (None, 3)
    assert take(store, KEY, "after the claim was removed", above=fence_of(store, "p"))[0].token == 4


# --- batches


def test_a_batch_that_another_run_is_at_is_left_to_it(tmp_path: Path) -> None:
    publish_tiny(tiny_process(), tmp_path / "version")
    store, run = LocalStore(tmp_path / "store"), Run(id="second", process=tiny_process(), flow="score")
    source = tmp_path / "new.jsonl"
    source.write_text('{"id": "a", "text": "card"}\n')
    done = score_batch.fn(str(source), run)
    assert not isinstance(done, Claim)
    store.delete(done.prefix + "manifest.json")
    with claimed(store, claims.batch_key("memory", done.facts["batch"]), "first"):
        left = score_batch.fn(str(source), run)
        assert isinstance(left, Claim)
        assert left.run == "first"
    assert store.stat(done.prefix + "manifest.json") is None
    assert score_batch.fn(str(source), run).sha256 == done.sha256  # type: ignore[union-attr]


def test_who_loses_a_batch_while_scoring_writes_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_tiny(tiny_process(), tmp_path / "version")
    store, run = LocalStore(tmp_path / "store"), Run(id="sleeper", process=tiny_process(), flow="score")
    source = tmp_path / "new.jsonl"
    source.write_text('{"id": "a", "text": "card"}\n')
    import tasks.scoring

    fetch = tasks.scoring.fetch_version

    def sleep(*words: object) -> Path:
        """The run sleeps here, and another one takes its batch."""
        key = next(store.list("memory/claims/batches/")).key
        take_over(store, key)
        return fetch(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks.scoring, "fetch_version", sleep)
    with pytest.raises(Lost, match="other took it over"):
        score_batch.fn(str(source), run)
    assert list(store.list("memory/batches/")) == []


def take_over(store: Store, key: str) -> Hold:
    """What another run does when a lease is over."""
    before, etag = read(store, key)
    assert before
    mine = before.model_copy(update={"token": before.token + 1, "holder": "other", "run": "other", "since": datetime.now(UTC)})
    store.write(key, mine.as_bytes(), if_match=etag)
    return hold(mine, key)


# --- what the watchdog reads


def test_silent_runs_are_those_that_neither_ended_nor_renewed(store: Store, short: None) -> None:
    take(store, claims.run_key("p", "dead"), "dead", "dead")
    with claimed(store, claims.run_key("p", "ended"), "ended", "ended"):
        pass
    with claimed(store, claims.run_key("p", "alive"), "alive", "alive"):
        time.sleep(2.5 if store.whole else 1.5)  # MinIO tells whole seconds
        assert [claim.run for claim in claims.silent_runs(store, "p")] == ["dead"]
    claims.close(store, "p", "dead")
    assert claims.silent_runs(store, "p") == []


def test_a_crash_is_counted_and_given_up_once(store: Store) -> None:
    told = [retries.count(store, "p", "run") for _ in range(5)]
    assert told == ["once more", "once more", "just given up", "given up", "given up"]
