"""Decisions: a person's word on a request, written once -> the champion's alias, moved on it.

Whoever is killed between the decision and the alias runs the same command again, or leaves it to the next training run.
"""

import hashlib
import logging
from contextlib import suppress
from datetime import datetime
from typing import Literal

from infra.store import Conflict, Store
from tasks.aliases import Alias, champion_of, log_of, move_alias
from tasks.approvals import Decision, Request, Standing, decision_key, decision_on, standing, standings
from tasks.approvers import check_author, role_of
from tasks.reservations import store_time

logger = logging.getLogger(__name__)

LONGEST = 2_000  # characters of a reason


def decide(store: Store, process: str, request: str, decision: Literal["approved", "rejected"], name: str, reason: str) -> Standing:
    """A person's word on a request; approving makes its version the champion. The same word again finishes what was left unfinished.

    Raises:
        ValueError: no such request, it was changed, it has expired, this person may not decide, or there is no reason.
        Conflict: it was decided otherwise already, or the champion changed since it was asked; nothing moves.
    """
    found = standing(store, process, request)
    if found.state == "damaged" or found.request is None:
        raise ValueError(found.fault)
    made = found.decision or _write_decision(store, found, decision, name, reason)
    if (made.decision, made.name) != (decision, name):
        raise Conflict(f"{process}: {request} was {made.decision} by {made.name} at {made.decided[:16]}Z; a decision is never changed")
    if decision == "approved":
        release(store, found.request, made)
    return standing(store, process, request)


def _write_decision(store: Store, found: Standing, decision: Literal["approved", "rejected"], name: str, reason: str) -> Decision:
    """Write the decision, or find the one that another wrote meanwhile."""
    assert found.request  # noqa: S101 - a request that is not damaged
    request, role = found.request, role_of(name, found.request.by)
    if not 0 < len(reason.strip()) <= LONGEST:
        raise ValueError(f"a decision needs a reason, of {LONGEST:,} characters at most")
    now = store_time(store, request.process)
    if found.state == "expired" or now > datetime.fromisoformat(request.expires):
        raise ValueError(f"{request.id} expired at {request.expires[:16]}Z; train again to ask again: clerkflow train {request.process}")
    if found.state == "overtaken":
        raise Conflict(_overtaken(store, request))
    sha256 = hashlib.sha256(request.as_bytes()).hexdigest()  # of what was looked at, not of what may stand there now
    made = Decision(
        request=request.id,
        request_sha256=sha256,
        decision=decision,
        name=name,
        role=role,
        reason=reason.strip(),
        decided=now.isoformat(),
    ).signed()
    check_author(f"the decision on {request.id}", name, role, made.signature, made.message())
    with suppress(Conflict):  # decided by another meanwhile: the first one counts
        store.write(decision_key(request.process, request.id), made.as_bytes(), if_absent=True)
        logger.info("%s: %s is %s by %s (%s)", request.process, request.id, decision, name, role)
    kept = decision_on(store, request, sha256)
    assert kept  # noqa: S101 - just written
    return kept


def release(store: Store, request: Request, decision: Decision) -> None:
    """Make an approved version the champion; nothing happens when that was done already.

    Raises:
        Conflict: the champion was moved since the request was made.
        ValueError: the version is not whole any more.
    """
    moves = log_of(store, request.process)
    if len(moves) > request.after and moves[request.after].version == request.version:
        return
    if len(moves) > request.after:
        raise Conflict(_overtaken(store, request))
    reason = f"approved by {decision.name} ({decision.role}), request {request.id}: {decision.reason}"
    move_alias(store, request.process, request.version, reason, request.run, instead_of=request.instead_of, after=request.after)


def complete_decided(store: Store, process: str) -> list[str]:
    """Move the champion where a decision was made and whoever made it was killed before that; the versions that are champion now."""
    found = []
    for each in standings(store, process, current=True):
        if each.open and each.request and each.decision:
            try:
                release(store, each.request, each.decision)
            except (Conflict, ValueError) as error:
                logger.warning("%s: %s is approved and cannot be released: %s", process, each.id, error)
                continue
            found.append(each.version)
    return found


def check_may_return(store: Store, process: str, version: str) -> None:
    """That going back to a version does not pass an approval by: a version that was asked for and never champion needs a decision.

    Raises:
        ValueError: it does; the message says how to decide.
    """
    asked = [each.id for each in standings(store, process) if each.version == version]
    if asked and all(move.version != version for move in log_of(store, process)):
        raise ValueError(
            f"{process}: {version} was never champion and needs approval: clerkflow approve {process} {asked[-1]} --as … --reason …"
        )


def _overtaken(store: Store, request: Request) -> str:
    champion: Alias | None = champion_of(store, request.process)
    now = f"{champion.version} since {champion.since} ({champion.reason})" if champion else "none"
    return (
        f"{request.process}: champion is {now}; {request.id} was judged against {request.instead_of or 'none'}, so nothing moves. "
        f"Train again, so that it is judged against the champion of now: clerkflow train {request.process}"
    )
