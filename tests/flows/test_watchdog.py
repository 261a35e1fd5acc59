"""Runs that died are found, marked and tried again, a bounded number of times, on a real Prefect server."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from infra.store import open_store
from tasks import claims
from tasks.declaration import load_process
from tasks.process import Process
from tests.flows.test_arrivals import batches, card, memory, put, until

__all__ = ["memory"]  # a fixture of another file

ROOT = Path(__file__).resolve().parents[2]

DEAD = {"place": "another-boot pid:[1] 7 1.00", "lease_seconds": -10.0}  # of another machine, and its lease is over


@pytest.fixture
def deployed(toy: Path, server: str) -> Iterator[dict[str, UUID]]:
    """Flow -> the deployment of `toy`; no worker runs."""
    from prefect.client.orchestration import get_client

    from flows.serve import deploy, remove_others

    yield {one.name.partition("/")[0]: one.id for one in deploy([load_process("toy", toy.parent)], "watched")}
    with get_client(sync_client=True) as client:
        remove_others(client, set(), None)


def running(client: Any, deployment: UUID) -> UUID:
    """A run that a worker began, and that died without a word: it is Running by Prefect's word, and its claim is silent."""
    from prefect.states import Pending, Running

    id = client.create_flow_run_from_deployment(deployment).id
    begin(client, id, Pending(), Running())
    return UUID(str(id))


def begin(client: Any, id: UUID, *states: Any) -> None:
    for state in states:
        client.set_flow_run_state(id, state, force=True)
    store, key = open_store(), claims.run_key("toy", str(id))
    claim, etag = claims.take(store, key, "dead", str(id))
    store.write(key, claim.model_copy(update=DEAD).as_bytes(), if_match=etag)


def test_a_run_that_died_is_marked_and_tried_again_and_given_up_after_two_retries(
    deployed: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Completed, Crashed, Pending

    from flows.watchdog import watchdog

    with get_client(sync_client=True) as client:
        dead, ended, monitored = (running(client, deployed[flow]) for flow in ("train", "train", "reconcile"))
        client.set_flow_run_state(ended, Completed(), force=True)  # it could say so to Prefect, and not to the store any more
        name = client.read_flow_run(dead).name

        found = watchdog("toy")
        assert (set(found["marked"]), found["tried again"]) == ({name, client.read_flow_run(monitored).name}, [name])
        states = [client.read_flow_run(id).state_name for id in (dead, ended, monitored)]
        assert states == ["AwaitingRetry", "Completed", "Crashed"]  # reconcile comes again on its schedule

        assert watchdog("toy") == {"marked": [], "tried again": [], "given up": []}
        client.set_flow_run_state(dead, Pending(name="Submitting"), force=True)  # as a worker says that takes it, and dies too
        assert watchdog("toy") == {"marked": [], "tried again": [], "given up": []}
        monkeypatch.setattr("flows.watchdog.BEGINS_WITHIN", timedelta())
        assert watchdog("toy") == {"marked": [name], "tried again": [name], "given up": []}
        client.set_flow_run_state(dead, Crashed(), force=True)  # as a worker says that sees it die
        assert watchdog("toy") == {"marked": [], "tried again": [], "given up": [name]}
        assert watchdog("toy") == {"marked": [], "tried again": [], "given up": []}
        assert client.read_flow_run(dead).state_name == "Crashed"


def test_a_run_that_is_executed_twice_leaves_its_state_to_the_one_at_work(toy: Path, server: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Abort
    from prefect.flow_engine import run_flow
    from prefect.states import Running

    from flows.decide import decide

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(decide, parameters={"process": "toy"})
        client.set_flow_run_state(run.id, Running(), force=True)
        run = client.read_flow_run(run.id)
        words = {"process": "toy", "request": "r", "decision": "approved", "name": "n", "reason": "w"}
        first = claims.claimed(open_store(), claims.run_key("toy", str(run.id)), "the first one", str(run.id))
        with first, pytest.raises(Abort, match="the first one is at work on it"):
            run_flow(decide, flow_run=run, parameters=words)
        assert client.read_flow_run(run.id).state_name == "Running"


@contextmanager
def worker(**environment: str) -> Iterator[psutil.Popen]:
    """A worker of the pool that `memory` is deployed to; it is killed in the end, with all that it started."""
    words = [sys.executable, "-m", "infra.worker", "--pool", "arrivals"]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": "0.5", "PREFECT_LOGGING_LEVEL": "ERROR"}
    one = psutil.Popen(words, cwd=ROOT, env=settings | environment, stdout=subprocess.DEVNULL)
    try:
        yield one
    finally:
        for process in (*one.children(recursive=True), one):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        one.wait(20)


def test_runs_that_died_with_their_worker_are_taken_up_by_the_next_one_whether_they_had_begun_or_not(
    memory: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client

    from flows.watchdog import watchdog
    from infra.dispatch import deployment_of

    put("a.jsonl", card("a"))
    with get_client(sync_client=True) as client:

        def asked_for(flow: str) -> UUID:
            deployment = deployment_of(client, flow, "memory")
            assert deployment
            return UUID(str(client.create_flow_run_from_deployment(deployment.id).id))

        def states() -> list[str]:
            return [client.read_flow_run(id).state_type.value for id in (begun, taken)]  # type: ignore[union-attr]

        begun = taken = asked_for("score")
        with worker(CLERKFLOW_LEASE_SECONDS="1") as first:
            until(lambda: open_store().stat(claims.run_key("memory", str(begun))))
            for process in first.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.suspend()  # so that it is still under way when it is killed
            taken = asked_for("monitor")
            until(lambda: states()[1] == "PENDING")
        assert (states(), batches()) == (["RUNNING", "PENDING"], [])

        time.sleep(3.5)  # longer than the lease
        monkeypatch.setattr("flows.watchdog.BEGINS_WITHIN", timedelta())
        names = {client.read_flow_run(id).name for id in (begun, taken)}
        found = watchdog("memory")
        assert (set(found["marked"]), set(found["tried again"]), found["given up"]) == (names, names, [])
        assert states() == ["SCHEDULED", "SCHEDULED"]
        with worker():
            until(lambda: states() == ["COMPLETED", "COMPLETED"], 240)
        assert client.read_flow_run(begun).run_count == 2
    assert batches() == ["a.jsonl"]
    assert watchdog("memory") == {"marked": [], "tried again": [], "given up": []}
