"""New data starts the right flow by itself, on a real Prefect server; events that double, change their order or get lost change nothing."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.memory import publish_tiny, tiny_process
from infra.ending import end
from infra.events import CATCH_UP
from infra.store import open_store
from tasks.declaration import load_process
from tasks.ledger import read_ledger
from tasks.process import Process, Schedules

ROOT = Path(__file__).resolve().parents[2]
INBOX = "memory/inbox"


@pytest.fixture
def memory(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A deployed process whose champion is tiny; a training starts at two labelled records."""
    folder = tmp_path / "processes" / "memory"
    folder.mkdir(parents=True)
    monkeypatch.setenv("CLERKFLOW_PROCESSES", str(folder.parent))
    declared = tiny_process().model_dump(mode="json", exclude_defaults=True)
    declared |= {"arrivals": {"settle_seconds": 0, "min_new_records": 2}, "schedules": dict.fromkeys(Schedules.model_fields)}
    (folder / "process.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
    publish_tiny(tiny_process(), tmp_path / "version")
    process = load_process("memory", folder.parent)
    from prefect.client.orchestration import get_client

    from flows.serve import deploy, remove_others

    deploy([process], "arrivals")
    yield process
    with get_client(sync_client=True) as client:
        remove_others(client, set(), None)


def put(name: str, *rows: dict[str, str]) -> str:
    key = f"{INBOX}/{name}"
    open_store().write(key, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return key


def card(name: str) -> dict[str, str]:
    return {"id": name, "text": f"card {name}"}


def runs(flow: str) -> list[Any]:
    """Runs of a flow's deployment, the first one first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    from infra.dispatch import deployment_of

    with get_client(sync_client=True) as client:
        deployment = deployment_of(client, flow, "memory")
        assert deployment
        found = client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])))
    return sorted(found, key=lambda run: run.created)


def until(asked: Callable[[], Any], seconds: float = 180) -> Any:
    until_then = time.monotonic() + seconds
    while time.monotonic() < until_then:
        if answer := asked():
            return answer
        time.sleep(0.2)
    pytest.fail(f"nothing after {seconds} s")


def states() -> dict[str, str]:
    return {arrival.key.rpartition("/")[2]: arrival.state for arrival in read_ledger(open_store(), "memory").arrivals.values()}


def batches() -> list[str]:
    store = open_store()
    manifests = [info.key for info in store.list("memory/batches/") if info.key.endswith("/manifest.json")]
    return sorted(json.loads(store.read(key)[0])["source"].rpartition("/")[2] for key in manifests)


def test_doubled_reordered_and_dropped_events_change_nothing(memory: Process) -> None:
    from flows.reconcile import reconcile
    from flows.score import score
    from flows.watch import watch

    keys = [put(f"{name}.jsonl", card(name)) for name in "abc"]
    told = list(watch(open_store(), [memory], [{keys[2]}, {keys[0], keys[2]}, {keys[2]}, set()]))  # b is dropped, c comes twice and first
    assert told == [{"memory": ["score"]}, {"memory": []}, {"memory": []}, {}]
    first = until(lambda: runs("score"))[0]
    assert first.parameters["arrived"] in keys
    score(**first.parameters)
    assert states() == {"a.jsonl": "processed", "b.jsonl": "processed", "c.jsonl": "processed"}
    list(watch(open_store(), [memory], [{CATCH_UP}, {keys[0]}]))  # late ones
    assert batches() == ["a.jsonl", "b.jsonl", "c.jsonl"]

    missed = put("d.jsonl", card("d"))  # its event is dropped, and while a run waits none is started
    assert reconcile("memory")["started"] == []
    release(first.id)
    assert reconcile("memory")["started"] == ["score"]
    assert [run.parameters.get("arrived") for run in runs("score")][-1] == missed
    assert len(runs("score")) == 2


def release(id: Any) -> None:
    """Take a run that no worker will ever fetch out of the queue."""
    from prefect.client.orchestration import get_client
    from prefect.states import Completed

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(id, Completed(), force=True)


def test_what_waits_is_told_again_when_the_run_that_was_to_take_it_is_lost(memory: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.watch import watch

    monkeypatch.setattr("flows.watch.LOOK_SECONDS", 0)
    key = put("a.jsonl", card("a"))
    looks = watch(open_store(), [memory], iter([{key}, set(), set()]))
    assert next(looks) == {"memory": ["score"]}
    first = until(lambda: runs("score"))[0]
    assert next(looks) == {"memory": []}
    release(first.id)
    assert next(looks) == {"memory": ["score"]}
    until(lambda: len(runs("score")) == 2)


def test_an_event_told_twice_starts_one_run(memory: Process) -> None:
    from infra.events import emit

    key = put("a.jsonl", card("a"))
    for _ in range(3):
        emit("clerkflow.unlabelled.arrived", "clerkflow.process.memory", [key, str(memory.folder)], {"process": "memory", "key": key})
    until(lambda: runs("score"))
    time.sleep(2)
    assert len(runs("score")) == 1


def test_labelled_records_ask_for_a_training_when_enough_have_gathered(memory: Process) -> None:
    from flows.watch import watch

    key = put("a.jsonl", card("a") | {"queue": "refund"})
    assert list(watch(open_store(), [memory], [{key}])) == [{"memory": []}]
    key = put("b.jsonl", card("b") | {"queue": "refund"})
    assert list(watch(open_store(), [memory], [{key}])) == [{"memory": ["train"]}]
    assert until(lambda: runs("train"))[0].parameters["arrived"] == key
    assert runs("score") == []


def test_an_unknown_version_sounds_an_alarm(memory: Process) -> None:
    from flows.reconcile import reconcile
    from tasks.arrivals import survey

    put("a.jsonl", card("a"))
    store = open_store()
    store.write(survey(store, memory).here[0].place, b"no entry")
    state: Any = reconcile("memory", return_state=True)
    assert (state.name, state.is_failed()) == ("Alarm", True)
    assert "2 unknown" in state.message
    assert "card" not in state.message
    from prefect.client.orchestration import get_client
    from prefect.events.filters import EventFilter, EventNameFilter

    def alarms() -> list[Any]:
        with get_client(sync_client=True) as client:
            names = EventFilter(event=EventNameFilter(name=["clerkflow.alarm"])).model_dump(mode="json")
            return list(client.request("POST", "/events/filter", json={"filter": names}).json()["events"])  # type: ignore[arg-type]

    assert until(alarms)[0]["payload"]["unknown"] == 2


def test_a_file_put_into_a_folder_is_scored_by_a_worker_without_anybody_asking(memory: Process) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_LOGGING_LEVEL": "ERROR"}
    programs = (["prefect", "worker", "start", "--pool", "arrivals", "--type", "process"], ["flows", "watch", "memory"])
    children = [
        subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) for words in programs
    ]
    try:
        inbox = Path(os.environ["CLERKFLOW_STORE"]) / INBOX
        until(inbox.is_dir)
        (inbox / "by hand.jsonl").write_text(json.dumps(card("a")) + "\n")
        until(batches, 240)
        until(lambda: "processed" in states().values())  # beside it a version that was seen half written, perhaps
        assert batches() == ["by hand.jsonl"]
    finally:
        for child in children:
            end(child)  # a worker of Prefect's hangs now and then when it is asked to end
