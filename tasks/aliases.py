"""Aliases: which version is champion, which one challenges it, which one came before; and the log of who was champion when and why.

<process>/models/aliases/champion.json    moved by compare-and-swap: one object, so there is never none or two
<process>/models/aliases/challenger.json  the newest version that passed its gate
<process>/models/aliases/log/<number>.json every move, each with the digest of the one before it; only ever added to

The champion's object holds its newest moves. The log is completed from them after each move, so a mover that was killed in
between loses nothing, and a reader sees all of it.
"""

import errno
import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from infra.store import Conflict, MissingObject, Store, check_key
from tasks.manifests import Kept, manifest_key, read_manifest, version_names
from tasks.registry import check_whole
from tasks.reservations import reserved

logger = logging.getLogger(__name__)

ALIASES = ("champion", "challenger", "previous")
HISTORY = 100  # moves that the champion's object remembers
TRIES = 8  # of a conditional write, each after another writer was faster

K = TypeVar("K", bound=Kept)


class Move(Kept):
    """One move of the champion."""

    number: int  # from 1
    version: str
    previous: str | None
    since: str  # ISO 8601, UTC
    reason: str
    run: str | None = None
    before: str | None = None  # SHA-256 of the move before it, as it is logged


class Fence(Kept):
    """What stands in the champion's place before there is one."""

    fence: int  # the largest token of those who may move the alias


class Alias(Move):
    """Which version is champion, and how that came about; the newest move is last."""

    history: tuple[Move, ...]
    fence: int = 0  # the largest token of those who may move the alias; see `put_fence`


class Challenger(Kept):
    """The newest version that passed its gate; none any more once it is champion."""

    version: str
    since: str  # ISO 8601, UTC
    run: str | None = None


def alias_key(process: str, name: str = "champion") -> str:
    """Key of an alias of a process."""
    return check_key(f"{process}/models/aliases/{name}.json")


def log_key(process: str, number: int) -> str:
    """Key of a move in the log."""
    return check_key(f"{process}/models/aliases/log/{number:08d}.json")


def champion_of(store: Store, process: str) -> Alias | None:
    """The champion's alias; None when nothing was published yet."""
    return _champion(store, process)[0]


def _champion(store: Store, process: str) -> tuple[Alias | None, int, str | None]:
    """The champion, its fence, and the etag of the object that says so."""
    try:
        data, etag = store.read(alias_key(process))
    except MissingObject:
        return None, 0, None
    with suppress(ValidationError):
        return None, Fence.model_validate_json(data).fence, etag
    try:
        alias = Alias.model_validate_json(data)
    except ValidationError:
        raise ValueError(f"{store.address(alias_key(process))} is damaged; restore the object") from None
    return alias, alias.fence, etag


def challenger_of(store: Store, process: str) -> str | None:
    """The version that passed its gate and is not champion yet; None when there is none."""
    found, _ = _read(store, alias_key(process, "challenger"), Challenger)
    champion = champion_of(store, process)
    if found is None or (champion and any(move.version == found.version for move in champion.history)):
        return None
    return found.version


def _read(store: Store, key: str, kind: type[K]) -> tuple[K | None, str | None]:
    try:
        data, etag = store.read(key)
        return kind.model_validate_json(data), etag
    except MissingObject:
        return None, None
    except ValidationError:
        raise ValueError(f"{store.address(key)} is damaged; restore the object") from None


def aliases_of(store: Store, process: str) -> dict[str, str]:
    """Alias -> the version it stands for, of those that stand for one."""
    champion = champion_of(store, process)
    found = {
        "champion": champion.version if champion else None,
        "challenger": challenger_of(store, process),
        "previous": predecessor(champion) if champion else None,
    }
    return {name: version for name, version in found.items() if version}


def version_named(store: Store, process: str, name: str) -> str:
    """The version that an alias stands for now; what is no alias is a version itself.

    Raises:
        ValueError: the alias stands for none, or no such version is published.
    """
    found = aliases_of(store, process).get(name) if name in ALIASES else name
    if found and store.stat(manifest_key(process, found)):
        return found
    missing = f"{name} yet" if name in ALIASES and not found else f"version {found!r}"
    raise ValueError(f"{process} has no {missing}; published are: {', '.join(version_names(store, process)) or 'none'}")


def challenge(store: Store, process: str, version: str, run: str | None = None) -> None:
    """Say that a version passed its gate; from then on no collection takes it.

    Raises:
        ValueError: the version is not there, or not whole: a collection came between.
    """
    manifest, since = read_manifest(store, process, version), datetime.now(UTC).isoformat(timespec="seconds")
    with reserved(store, process, [manifest_key(process, version), *(piece.key for _, piece, _ in manifest.pieces())]):
        check_whole(store, read_manifest(store, process, version))
        store.write(alias_key(process, "challenger"), Challenger(version=version, since=since, run=run).as_bytes())


def move_alias(
    store: Store,
    process: str,
    version: str,
    reason: str,
    run: str | None = None,
    *,
    instead_of: str | None,
    after: int | None = None,
    token: int | None = None,
) -> Alias:
    """Make a whole, published version the champion in one atomic write; nothing is written when it is champion already.

    Args:
        instead_of: the champion that the version was judged against; None when there was none.
        after: number of the move that this one must follow, 0 when it must be the first: a champion that went and came back is
            another one then. Any move of `instead_of` when absent.
        token: of the claim under which the version was made; none when a person moves the alias.

    Raises:
        Conflict: another version is champion now; the message says which, and since when. Or a younger run has begun meanwhile.
        ValueError: the version is not there, not whole, or not signed as this machine asks.
    """
    manifest = read_manifest(store, process, version)
    with reserved(store, process, [manifest_key(process, version), *(piece.key for _, piece, _ in manifest.pieces())]):
        check_whole(store, read_manifest(store, process, version))
        alias = _move(store, process, version, reason, run, instead_of, after, token)
    complete_log(store, process, alias)
    return alias


def _move(
    store: Store, process: str, version: str, reason: str, run: str | None, instead_of: str | None, after: int | None, token: int | None
) -> Alias:
    for _ in range(TRIES):
        before, fence, etag = _champion(store, process)
        if before and before.version == version:
            return before
        if token is not None and token < fence:
            raise Conflict(f"{process}: a younger run is at work, so version {version} of run {run} is not released; nothing moves")
        if (before.version if before else None) != instead_of or after not in (None, before.number if before else 0):
            raise Conflict(_overtaken(process, version, before, instead_of))
        alias = _next(before, version, reason, run, max(fence, token or 0))
        with suppress(Conflict):  # another one was faster, perhaps only with its fence: look again
            store.write(alias_key(process), alias.as_bytes(), if_absent=etag is None, if_match=etag)
            logger.info("%s: champion is %s, was %s", process, version, instead_of or "none")
            return alias
    raise Conflict(f"{process}: the champion's alias was changed by others {TRIES} times; run it again")


def _next(before: Alias | None, version: str, reason: str, run: str | None, fence: int) -> Alias:
    """The alias after another move."""
    history = before.history if before else ()
    move = Move(
        number=history[-1].number + 1 if history else 1,
        version=version,
        previous=before.version if before else None,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        run=run,
        before=hashlib.sha256(history[-1].as_bytes()).hexdigest() if history else None,
    )
    return Alias(**move.model_dump(), history=(*history, move)[-HISTORY:], fence=fence)


def fence_of(store: Store, process: str) -> int:
    """The largest token of those who were to move the alias; 0 when there was none."""
    return _champion(store, process)[1]


def put_fence(store: Store, process: str, token: int) -> None:
    """From now on only who holds this token, or a larger one, and persons move the alias.

    It makes the alias's etag another one, too: whoever read the alias before, and sleeps now, cannot write it any more.

    Raises:
        Conflict: a younger run has put its own already.
    """
    for _ in range(TRIES):
        before, fence, etag = _champion(store, process)
        if fence >= token:
            if fence > token:
                raise Conflict(f"{process}: a younger run is at work; this one ends here")
            return
        stamped = before.model_copy(update={"fence": token}) if before else Fence(fence=token)
        with suppress(Conflict):
            store.write(alias_key(process), stamped.as_bytes(), if_absent=etag is None, if_match=etag)
            return
    raise Conflict(f"{process}: the champion's alias was changed by others {TRIES} times; run it again")


def predecessor(alias: Alias) -> str | None:
    """The champion to go back to: the one before the present one, where going back undoes what came after; None when there is none."""
    line: list[str] = []
    for move in alias.history:
        line = line[: line.index(move.version) + 1] if move.version in line else [*line, move.version]
    return line[-2] if len(line) > 1 else None


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
    target = version or predecessor(before)
    if target is None:
        known = ", ".join(version_names(store, process))
        raise ValueError(f"{process}: no champion before {before.version} is left to go back to; name a version: {known}")
    if target == before.version:
        raise ValueError(f"{process}: {target} is champion already")
    return move_alias(store, process, target, reason, instead_of=before.version)


# The log


def complete_log(store: Store, process: str, alias: Alias) -> None:
    """Write the moves that the champion's object remembers and the log lacks."""
    missing: list[Move] = []
    for move in reversed(alias.history):
        if store.stat(log_key(process, move.number)):
            break
        missing.append(move)
    for move in reversed(missing):  # the oldest first, so that a writer that is killed leaves no gap behind it
        with suppress(Conflict):
            store.write(log_key(process, move.number), move.as_bytes(), if_absent=True)


def champion_at(moves: Sequence[Move], when: datetime) -> str | None:
    """The version that was champion at a time; None when there was none yet.

    Args:
        moves: the champion's log, the oldest first.
    """
    return next((move.version for move in reversed(moves) if datetime.fromisoformat(move.since) <= when), None)


def log_of(store: Store, process: str) -> list[Move]:
    """Every move of the champion, the oldest first, with those that are not logged yet.

    Raises:
        ValueError: a move is missing, or was changed after it was written.
    """
    alias = champion_of(store, process)
    if alias is None:
        return []
    try:
        complete_log(store, process, alias)
    except OSError as error:  # a reader may not write; it sees all the same
        if error.errno != errno.EROFS and not isinstance(error, PermissionError):
            raise
    remembered = {move.number: move for move in alias.history}
    moves: list[Move] = []
    for number in range(1, alias.number + 1):
        move = _read(store, log_key(process, number), Move)[0] or remembered.get(number)
        before = hashlib.sha256(moves[-1].as_bytes()).hexdigest() if moves else None
        if move is None or move.number != number or move.before != before:
            raise ValueError(f"{store.address(log_key(process, number))} is missing or was changed; restore the object")
        moves.append(move)
    if moves[-1] != alias.history[-1]:
        raise ValueError(f"{store.address(log_key(process, alias.number))} is not what the champion's alias says; restore the object")
    return moves
