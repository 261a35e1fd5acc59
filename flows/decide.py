"""Decide: a person's word on a request -> the challenger is champion, or stays what it is."""

from typing import Literal

from prefect import flow

from flows import pages, telling, turns
from flows.opening import run_name
from infra.settings import settings
from infra.store import open_store
from tasks import decisions
from tasks.approvals import Standing, standings
from tasks.declaration import load_process


@flow(name="decide", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
@turns.once
def decide(process: str, request: str, decision: Literal["approved", "rejected"], name: str, reason: str) -> Standing:
    """Approve or reject a model that passed its gate and waits for somebody's word. A decision is never changed.

    Whoever can start this flow can write any name into it: names that must be proven have a key in CLERKFLOW_APPROVERS, and their
    holders decide with `clerkflow approve` on their own machine instead.

    Args:
        process: Name of a declared process, a folder of data/processes.
        request: Name of the request, as its artifact and `clerkflow approvals` say it.
        decision: Approved makes the model champion at once; rejected leaves everything as it is.
        name: Who decides, a name in CLERKFLOW_APPROVERS.
        reason: Why; it is kept in the champion's log.
    """
    declared, store = load_process(process, settings().processes), open_store()
    found = decisions.decide(store, declared.name, request, decision, name, reason)
    pages.show_standings(standings(store, declared.name), declared.name)
    telling.tell_decision(found, declared)
    return found
