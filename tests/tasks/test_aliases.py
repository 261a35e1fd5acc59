"""Which version is champion, challenger, previous; and a log of moves that nothing is ever lost from."""

import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from infra.spans import Spans
from infra.store import LocalStore, Store
from tasks.aliases import (
    Alias,
    alias_key,
    aliases_of,
    challenge,
    challenger_of,
    champion_of,
    complete_log,
    log_key,
    log_of,
    move_alias,
    rollback,
    version_named,
)
from tasks.manifests import read_manifest
from tasks.registry import publish_version


def published(store: Store, number: int) -> str:
    """A version of process `p` with one file."""
    files = {"config.json": Spans((b"%d" % number,))}
    return publish_version(store, "p", files, created=f"2024-01-{number:02}T00:00:00Z", run=f"run-{number}").version


def crowned(store: Store, *numbers: int) -> list[str]:
    """Versions, each made champion after the one before it."""
    found: list[str] = []
    for number in numbers:
        found.append(published(store, number))
        move_alias(store, "p", found[-1], f"move {number}", f"run-{number}", instead_of=found[-2] if len(found) > 1 else None)
    return found


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


class Dying(LocalStore):
    """A folder whose user is killed when a key that holds a word has been written so many times."""

    def __init__(self, root: Path, word: str, writes: int) -> None:
        super().__init__(root)
        self.word, self.left = word, writes

    def write(self, key: str, data: bytes, **conditions: Any) -> str:
        if self.word in key and self.left == 0:
            raise KeyboardInterrupt
        etag = super().write(key, data, **conditions)
        self.left -= self.word in key
        return etag


def killed_after(local: LocalStore, word: str, writes: int, version: str, instead_of: str | None) -> None:
    """A move that is killed before a key that holds `word` is written another time."""
    with pytest.raises(KeyboardInterrupt):
        move_alias(Dying(local.root, word, writes), "p", version, "killed", "run-killed", instead_of=instead_of)


# Names


def test_the_aliases_name_the_champion_the_one_before_it_and_the_one_to_come(store: Store) -> None:
    first, second = crowned(store, 1, 2)
    third = published(store, 3)
    challenge(store, "p", third, "run-3")
    assert aliases_of(store, "p") == {"champion": second, "challenger": third, "previous": first}
    assert [version_named(store, "p", name) for name in ("champion", "challenger", "previous", third)] == [second, third, first, third]


def test_a_challenger_that_became_champion_challenges_nobody_any_more_not_even_after_a_rollback(store: Store) -> None:
    first, second = crowned(store, 1, 2)
    challenge(store, "p", second)
    assert challenger_of(store, "p") is None
    rollback(store, "p")
    assert aliases_of(store, "p") == {"champion": first}
    assert challenger_of(store, "p") is None


def test_what_a_collection_took_is_not_made_the_challenger(store: Store) -> None:
    first = published(store, 1)
    store.delete(next(piece.key for _, piece, _ in read_manifest(store, "p", first).pieces()))
    with pytest.raises(ValueError, match="is not whole"):
        challenge(store, "p", first)
    assert challenger_of(store, "p") is None


def test_the_newest_challenger_is_the_challenger(store: Store) -> None:
    for number in (1, 2):
        challenge(store, "p", published(store, number))
    assert challenger_of(store, "p") == published(store, 2)


@pytest.mark.parametrize("name", ["champion", "challenger", "previous"])
def test_an_alias_that_stands_for_nothing_yet_is_told_with_the_versions_there_are(local: LocalStore, name: str) -> None:
    with pytest.raises(ValueError, match=f"p has no {name} yet; published are: none"):
        version_named(local, "p", name)
    version = published(local, 1)
    with pytest.raises(ValueError, match=f"published are: {version}"):
        version_named(local, "p", name)


def test_a_damaged_alias_is_told_with_its_address(local: LocalStore) -> None:
    crowned(local, 1)
    local.write(alias_key("p"), b'{"version": ')
    with pytest.raises(ValueError, match=r"champion\.json is damaged; restore the object"):
        champion_of(local, "p")


# The log


def test_the_log_says_who_was_champion_when_why_and_by_which_run(store: Store) -> None:
    first, second = crowned(store, 1, 2)
    rollback(store, "p", None, "customers complained")
    told = [(move.number, move.version, move.previous, move.reason, move.run) for move in log_of(store, "p")]
    assert told == [
        (1, first, None, "move 1", "run-1"),
        (2, second, first, "move 2", "run-2"),
        (3, first, second, "customers complained", None),
    ]
    assert [info.key for info in store.list("p/models/aliases/log/")] == [log_key("p", number) for number in (1, 2, 3)]


def test_each_move_holds_the_digest_of_the_one_before_it(local: LocalStore) -> None:
    crowned(local, 1, 2, 3)
    logged = [local.read(log_key("p", number))[0] for number in (1, 2, 3)]
    assert [move.before for move in log_of(local, "p")] == [None, *(hashlib.sha256(data).hexdigest() for data in logged[:2])]


def test_nothing_logged_is_ever_written_again(local: LocalStore) -> None:
    versions = crowned(local, 1, 2)
    before = {info.key: info.etag for info in local.list("p/models/aliases/log/")}
    move_alias(local, "p", published(local, 3), "third", instead_of=versions[-1])
    log_of(local, "p")
    after = {info.key: info.etag for info in local.list("p/models/aliases/log/")}
    assert {key: after[key] for key in before} == before


def test_a_mover_killed_between_the_alias_and_the_log_loses_no_move(local: LocalStore) -> None:
    (first,) = crowned(local, 1)
    second = published(local, 2)
    killed_after(local, "/log/", 0, second, first)
    assert local.stat(log_key("p", 2)) is None
    assert [move.version for move in log_of(local, "p")] == [first, second]
    assert local.stat(log_key("p", 2)) is not None


def test_the_next_mover_logs_what_a_killed_one_could_not(local: LocalStore) -> None:
    (first,) = crowned(local, 1)
    second, third = published(local, 2), published(local, 3)
    killed_after(local, "/log/", 0, second, first)
    move_alias(local, "p", third, "third", instead_of=second)
    assert [info.key for info in local.list("p/models/aliases/log/")] == [log_key("p", number) for number in (1, 2, 3)]


def test_a_mover_killed_while_it_logs_two_moves_leaves_no_gap_for_ever(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second killed mover had two moves to log and wrote one; the champion's object forgets both after some more moves."""
    monkeypatch.setattr("tasks.aliases.HISTORY", 3)
    versions = [*crowned(local, 1), *(published(local, number) for number in range(2, 8))]
    killed_after(local, "/log/", 0, versions[1], versions[0])
    killed_after(local, "/log/", 1, versions[2], versions[1])
    for before, version in pairwise(versions[2:]):
        move_alias(local, "p", version, "more", instead_of=before)
    assert [move.version for move in log_of(local, "p")] == versions


def test_a_move_killed_before_the_alias_never_happened(local: LocalStore) -> None:
    (first,) = crowned(local, 1)
    second = published(local, 2)
    killed_after(local, "champion.json", 0, second, first)
    assert [move.version for move in log_of(local, "p")] == [first]
    move_alias(local, "p", second, "again", instead_of=first)
    assert [move.version for move in log_of(local, "p")] == [first, second]


def changed(local: LocalStore, number: int) -> None:
    key = log_key("p", number)
    local.write(key, local.read(key)[0].replace(b"move", b"lie!"))


def removed(local: LocalStore, number: int) -> None:
    local.delete(log_key("p", number))


def exchanged(local: LocalStore, number: int) -> None:
    local.write(log_key("p", number), local.read(log_key("p", number % 4 + 1))[0])


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("harm", [changed, exchanged])
def test_a_move_that_was_changed_after_it_was_written_is_named(local: LocalStore, harm: Any, number: int) -> None:
    crowned(local, 1, 2, 3, 4)
    harm(local, number)
    with pytest.raises(ValueError, match=r"log/0000000[1-4]\.json is (missing or was changed|not what the champion's alias says)") as told:
        log_of(local, "p")
    named = int(str(told.value).split(".json")[0][-8:])
    assert named in (number, number + 1)


def test_a_move_that_is_gone_is_written_again_while_the_champion_remembers_it_and_named_afterwards(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.aliases.HISTORY", 2)
    versions = crowned(local, 1, 2, 3, 4)
    removed(local, 4)
    assert [move.version for move in log_of(local, "p")] == versions
    removed(local, 1)
    with pytest.raises(ValueError, match=r"log/00000001\.json is missing or was changed; restore the object"):
        log_of(local, "p")


@pytest.mark.parametrize("refusal", [PermissionError("no"), OSError(errno.EROFS, "read-only")])
def test_a_reader_that_may_not_write_sees_every_move(local: LocalStore, refusal: OSError) -> None:
    (first,) = crowned(local, 1)
    second = published(local, 2)
    killed_after(local, "/log/", 0, second, first)

    class ReadOnly(LocalStore):
        def write(self, key: str, data: bytes, **_: Any) -> str:
            raise refusal

    assert [move.version for move in log_of(ReadOnly(local.root), "p")] == [first, second]


def test_readers_at_once_and_a_mover_among_them_all_see_a_whole_log(store: Store) -> None:
    versions = crowned(store, 1, 2)
    for info in list(store.list("p/models/aliases/log/")):
        store.delete(info.key)
    with ThreadPoolExecutor(5) as pool:
        reading = [pool.submit(log_of, store, "p") for _ in range(8)]
        moving = pool.submit(rollback, store, "p")
        seen = [[move.version for move in each.result()] for each in reading]
        moving.result()
    assert all(story in (versions, [*versions, versions[0]]) for story in seen)
    assert [move.version for move in log_of(store, "p")] == [*versions, versions[0]]


def test_completing_a_whole_log_changes_nothing(local: LocalStore) -> None:
    crowned(local, 1, 2)
    before = {info.key: info.etag for info in local.list("p/")}
    alias = champion_of(local, "p")
    assert isinstance(alias, Alias)
    complete_log(local, "p", alias)
    assert {info.key: info.etag for info in local.list("p/")} == before


# Going back


def test_going_back_twice_goes_to_the_champion_before_the_last(store: Store) -> None:
    first, second, third = crowned(store, 1, 2, 3)
    assert [rollback(store, "p").version for _ in range(2)] == [second, first]
    with pytest.raises(ValueError, match=f"name a version: .*{third}"):
        rollback(store, "p")


def test_two_who_go_back_at_once_go_back_to_the_same_champion_by_one_move(store: Store) -> None:
    first, second, _ = crowned(store, 1, 2, 3)
    with ThreadPoolExecutor(2) as pool:
        answers = {alias.version for alias in pool.map(lambda _: rollback(store, "p"), range(2))}
    assert [move.version for move in log_of(store, "p")][3:] == [second, first][: len(answers)]
