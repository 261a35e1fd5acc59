"""Approvals: a model that holds every rule, and a person's word -> the champion. Both are data in the store, and nothing waits for them.

<process>/approvals/<version>-<n>/request.json   the version, the champion that it was judged against, who may decide, until when
<process>/approvals/<version>-<n>/decision.json  who decided what, and why: the first one counts, and there is never a second

How a request stands follows from these two objects, the champion's log and the store's clock, so it survives a restart of
everything. A request is good for one move of the champion, the next one after it was asked: so it cannot be used twice, and not
after somebody else moved the champion. Deciding is in decisions.py; what a name is worth, in approvers.py.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import ValidationError

from infra.store import Conflict, MissingObject, Store, check_key
from tasks.aliases import Move, champion_of, log_of
from tasks.approvers import check_author
from tasks.manifests import Kept, Manifest, Signature, check_signed, manifest_key, read_manifest, signature_of
from tasks.process import digest_of
from tasks.registry import check_whole
from tasks.reservations import reserved, store_time
from tasks.terms import Approval, Gate

if TYPE_CHECKING:
    from tasks.gate import Verdict

logger = logging.getLogger(__name__)

State = Literal["waiting", "approved", "rejected", "expired", "overtaken", "damaged"]
TRIES = 5  # of finding a free number, while others ask for the same version
NAME = re.compile(r"[0-9a-f]{12}-[1-9][0-9]{0,5}")

K = TypeVar("K", bound="Vouched")


class Vouched(Kept):
    """What somebody wrote down once, perhaps with a signature."""

    signature: Signature | None = None

    def message(self) -> bytes:
        """What is signed."""
        kind = f"clerkflow {type(self).__name__.lower()}\0"
        return kind.encode() + digest_of(self.model_dump(mode="json", exclude={"signature"})).encode()

    def signed(self: K) -> K:
        """With this machine's signature, when it has a signing key."""
        return self.model_copy(update={"signature": signature_of(self.message())})


class Request(Vouched):
    """A version that waits for a person's word."""

    id: str
    process: str
    version: str
    root: str  # of the version's manifest
    run: str
    rules: tuple[str, ...]  # each rule of the gate and its measure, in words
    by: tuple[str, ...]  # roles
    instead_of: str | None  # the champion that it was judged against
    after: int  # number of that champion's move, 0 when there was none
    created: str  # ISO 8601, UTC, by the store's clock
    expires: str  # likewise


class Decision(Vouched):
    """A person's word on a request."""

    request: str
    request_sha256: str  # of request.json
    decision: Literal["approved", "rejected"]
    name: str
    role: str
    reason: str
    decided: str  # ISO 8601, UTC, by the store's clock


@dataclass(frozen=True, slots=True)
class Standing:
    """A request, and how it stands."""

    id: str
    state: State
    request: Request | None = None
    decision: Decision | None = None
    released: bool = False  # the champion was moved on this decision
    fault: str = ""  # why it is damaged

    @property
    def version(self) -> str:
        """The version that is asked for, also of a request that cannot be read."""
        return self.id.rpartition("-")[0]

    @property
    def open(self) -> bool:
        """Whether its version may still become champion through it."""
        return self.state == "waiting" or (self.state == "approved" and not self.released)


def request_key(process: str, request: str) -> str:
    """Key of a request."""
    return check_key(f"{process}/approvals/{request}/request.json")


def decision_key(process: str, request: str) -> str:
    """Key of the one decision on a request."""
    return check_key(f"{process}/approvals/{request}/decision.json")


# How requests stand


def state_of(request: Request, decision: Decision | None, moves: Sequence[Move], now: datetime) -> State:
    """How a request stands.

    Args:
        moves: the champion's log, the oldest first.
        now: by the store's clock.
    """
    if decision and decision.decision == "rejected":
        return "rejected"
    if len(moves) > request.after and not (decision and moves[request.after].version == request.version):
        return "overtaken"
    if decision:
        return "approved"
    return "expired" if now > datetime.fromisoformat(request.expires) else "waiting"


def standings(store: Store, process: str, current: bool = False) -> list[Standing]:
    """Every request of a process, the oldest first.

    Args:
        current: only those that were judged against the present champion, and what cannot be read; the others are history, and
            reading what they stand for takes longer from year to year.
    """
    names = list(request_names(store, process))
    if not names:
        return []
    moves, now = log_of(store, process), _now(store, process)
    names = [name for name in names if not (current and _is_past(store, process, name, moves))]
    found = [_standing(store, process, name, moves, now) for name in names]
    return sorted(found, key=lambda each: (each.request.created if each.request else "", each.id))


def _is_past(store: Store, process: str, name: str, moves: Sequence[Move]) -> bool:
    """Whether the champion moved since a request was made, so that nothing comes of it any more."""
    try:
        return _read(store, request_key(process, name), Request)[0].after < len(moves)
    except ValueError:
        return False


def standing(store: Store, process: str, request: str) -> Standing:
    """How one request stands.

    Raises:
        ValueError: there is none of this name; the message lists those that can be decided on.
    """
    if not NAME.fullmatch(request) or store.stat(request_key(process, request)) is None:
        known = ", ".join(each.id for each in standings(store, process) if each.state == "waiting") or "none"
        raise ValueError(f"{process} has no request {request!r}; waiting are: {known}")
    return _standing(store, process, request, log_of(store, process), _now(store, process))


def _standing(store: Store, process: str, name: str, moves: Sequence[Move], now: datetime) -> Standing:
    try:
        request, sha256 = _read(store, request_key(process, name), Request)
        check_request(store, process, name, request)
        decision = decision_on(store, request, sha256)
    except ValueError as error:
        return Standing(name, "damaged", fault=str(error))
    state = state_of(request, decision, moves, now)
    return Standing(name, state, request, decision, state == "approved" and len(moves) > request.after)


def _now(store: Store, process: str) -> datetime:
    """The store's time; this machine's, where one may only read."""
    with suppress(PermissionError):
        return store_time(store, process)
    return datetime.now(UTC)


def request_names(store: Store, process: str) -> Iterator[str]:
    """Names of a process's requests."""
    for info in store.list(f"{process}/approvals/"):
        parts = info.key.split("/")
        if parts[-1] == "request.json" and NAME.fullmatch(parts[-2]):
            yield parts[-2]


def awaited_versions(store: Store, process: str) -> set[str]:
    """Versions that may still become champion through a request, or whose request cannot be read: these are not collected."""
    return {each.version for each in standings(store, process, current=True) if each.open or each.state == "damaged"}


def _read(store: Store, key: str, kind: type[K]) -> tuple[K, str]:
    """What was written down, and the SHA-256 of its bytes."""
    data, _ = store.read(key)
    try:
        return kind.model_validate_json(data), hashlib.sha256(data).hexdigest()
    except ValidationError:
        raise ValueError(f"{store.address(key)} is damaged; restore the object") from None


def check_request(store: Store, process: str, name: str, request: Request) -> None:
    """That a request says what the training run wrote: its version's root, and roles and hours of the declaration that the root stands for.

    Raises:
        ValueError: it does not, it is not signed as this machine asks, or its version is gone.
    """
    where = store.address(request_key(process, name))
    check_signed(f"request {name}", request.signature, request.message(), "train again on a machine that has CLERKFLOW_SIGNING_KEY")
    manifest = read_manifest(store, process, request.version)
    declared = _declared(store, manifest)
    hours = datetime.fromisoformat(request.expires) - datetime.fromisoformat(request.created)
    is_own = (request.id, request.process, name.rpartition("-")[0], request.root) == (name, process, request.version, manifest.root)
    if not is_own or declared is None or (request.by, hours) != (declared.by, timedelta(hours=declared.expires_hours)):
        raise ValueError(f"{where} was changed after it was written: it does not fit version {request.version}; do not decide, train again")


def _declared(store: Store, manifest: Manifest) -> Approval | None:
    """What a version's own declaration says of approval; its bytes are those that the root stands for."""
    file = manifest.files["declaration.json"]
    data = b"".join(store.read(piece.key)[0] for piece in file.pieces)
    if hashlib.sha256(data).hexdigest() != file.digest:
        raise ValueError(f"{manifest.process} {manifest.version}: declaration.json is not what was published: clerkflow verify")
    return Gate.model_validate(json.loads(data)["gate"]).approval


def decision_on(store: Store, request: Request, sha256: str) -> Decision | None:
    """The decision on a request; None when there is none yet.

    Raises:
        ValueError: it was made on another request, too late, by another role, or is not signed as it must be.
    """
    key = decision_key(request.process, request.id)
    try:
        decision, _ = _read(store, key, Decision)
    except MissingObject:
        return None
    if (decision.request, decision.request_sha256) != (request.id, sha256):
        raise ValueError(f"{store.address(key)} was made on another request than the one that is there now; one of the two was changed")
    late = datetime.fromisoformat(decision.decided) > datetime.fromisoformat(request.expires)
    if late or decision.role not in request.by:
        raise ValueError(f"{store.address(key)} was made too late, or in a role that may not decide; it does not count")
    check_author(f"the decision on {request.id}", decision.name, decision.role, decision.signature, decision.message())
    return decision


# Asking


def request_for(store: Store, process: str, version: str) -> Standing | None:
    """The request for a version that still counts: it waits, or was decided, and the champion is the one it was judged against."""
    found = [each for each in standings(store, process, current=True) if each.version == version]
    return next((each for each in reversed(found) if each.state in ("waiting", "approved", "rejected")), None)


def ask(store: Store, manifest: Manifest, verdict: "Verdict", run: str, approval: Approval, instead_of: str | None) -> Standing:
    """Write a request for a version, once: the same version that waits already, or was decided on, is not asked for again.

    Raises:
        Conflict: the champion is another one than the version was judged against.
    """
    process, version = manifest.process, manifest.version
    with reserved(store, process, [manifest_key(process, version), *(piece.key for _, piece, _ in manifest.pieces())]):
        check_whole(store, manifest)
        for _ in range(TRIES):
            if known := request_for(store, process, version):
                return known
            request = _new_request(store, manifest, verdict, run, approval, instead_of)
            with suppress(Conflict):  # another run asked meanwhile; look again
                store.write(request_key(process, request.id), request.as_bytes(), if_absent=True)
                logger.info("%s: %s waits for approval by %s until %s", process, request.id, " or ".join(request.by), request.expires)
                return Standing(request.id, "waiting", request)
    raise Conflict(f"{process}: others keep asking for {version}; try again")


def _new_request(store: Store, manifest: Manifest, verdict: "Verdict", run: str, approval: Approval, instead_of: str | None) -> Request:
    process, champion = manifest.process, champion_of(store, manifest.process)
    if (champion.version if champion else None) != instead_of:
        winner = champion.version if champion else "none"
        raise Conflict(f"{process}: champion is {winner}; {manifest.version} was judged against {instead_of or 'none'}. Train again")
    numbers = [int(name.rpartition("-")[2]) for name in request_names(store, process) if name.startswith(f"{manifest.version}-")]
    now = store_time(store, process)
    return Request(
        id=f"{manifest.version}-{max(numbers, default=0) + 1}",
        process=process,
        version=manifest.version,
        root=manifest.root,
        run=run,
        rules=tuple(f"{result.rule}: {result.reason}" for result in verdict.results),
        by=approval.by,
        instead_of=instead_of,
        after=champion.number if champion else 0,
        created=now.isoformat(),
        expires=(now + timedelta(hours=approval.expires_hours)).isoformat(),
    ).signed()
