"""Deployments of declared processes on a real Prefect server."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.declaration import declared_processes, load_process
from tasks.process import Process
from tests.flows.conftest import Command

ROOT = Path(__file__).resolve().parents[2]
FLOWS = ["backfill", "decide", "monitor", "reconcile", "score", "tidy", "train", "tune", "watchdog"]


def ask(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def declared(toy: Path) -> list[Process]:
    return [load_process(name, toy.parent) for name in declared_processes(toy.parent)]


def change(toy: Path, **sections: Any) -> None:
    """Sections of a declaration replaced."""
    file = toy / "process.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text(encoding="utf-8")) | sections), encoding="utf-8")


@pytest.fixture
def clean(server: str) -> Iterator[str]:
    """A server without deployments of ours, before and after."""
    from prefect.client.orchestration import get_client

    from flows.serve import remove_others

    with get_client(sync_client=True) as client:
        remove_others(client, set(), None)
        yield server
        remove_others(client, set(), None)


def test_a_changed_declaration_updates_in_place_and_what_is_gone_is_removed(toy: Path, clean: str) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client

    from flows.serve import deploy

    @flow(name="foreign")
    def foreign() -> None:
        """Somebody else's flow, which happens to carry our tag."""

    other = toy.parent / "other"
    other.mkdir()
    (other / "process.yaml").write_text((toy / "process.yaml").read_text().replace("name: toy", "name: other"))
    with get_client(sync_client=True) as client:
        theirs = foreign.to_deployment("toy", tags=["clerkflow"]).apply()
        first = {one.name: one.id for one in deploy(declared(toy), "tests")}
        assert sorted(first) == [f"{flow}/{name}" for flow in FLOWS for name in ("other", "toy")]
        made = client.read_deployment(first["score/toy"])  # type: ignore[arg-type]
        assert [schedule.schedule.cron for schedule in made.schedules] == ["* * * * *"]  # type: ignore[union-attr]
        assert (made.work_pool_name, made.entrypoint, made.tags) == ("tests", "flows.score.score", ["clerkflow", "toy", "owner:tests"])
        assert made.global_concurrency_limit and made.concurrency_options
        assert (made.global_concurrency_limit.limit, made.concurrency_options.collision_strategy.value) == (1, "ENQUEUE")
        assert [one.name for one in automations(clean)] == [
            f"clerkflow: {flow} {name} when something arrives" for flow in ("score", "train") for name in ("other", "toy")
        ]

        change(toy, schedules={"train": "0 3 * * 1"}, owner="another")
        (other / "process.yaml").unlink()
        second = deploy(declared(toy), "tests")
        assert {one.name: one.id for one in second if one.change == "updated"} == {n: i for n, i in first.items() if n.endswith("toy")}
        assert sorted(one.name for one in second if one.change == "removed") == [f"{flow}/other" for flow in FLOWS]
        updated = client.read_deployment(first["score/toy"])  # type: ignore[arg-type]
        assert (updated.schedules, updated.tags[-1]) == ([], "owner:another")
        assert len(automations(clean)) == 2
        assert client.read_deployment(theirs)  # type: ignore[arg-type]


def automations(address: str) -> list[Any]:
    found = ask(address, "/automations/filter", {"sort": "NAME_ASC"})
    return [type("Automation", (), one) for one in found if one["name"].startswith("clerkflow")]


def test_deploying_some_processes_leaves_the_others(toy: Path, clean: str) -> None:
    from flows.serve import deploy

    deploy(declared(toy), "tests")
    other = Process.model_validate(declared(toy)[0].model_dump() | {"name": "other"})
    assert {one.change for one in deploy([other], "tests", everything=False)} == {"made"}


def test_the_form_of_a_run_explains_itself_and_refuses_what_is_out_of_bounds(toy: Path, clean: str) -> None:
    from flows.serve import deployments_of

    train, score = (deployment._parameter_openapi_schema.model_dump() for deployment in deployments_of(declared(toy)[0])[:2])
    assert all(inner["description"] for schema in (train, score) for inner in schema["properties"].values())
    tuning = train["definitions"]["FinetuningOverrides"]["properties"]["num_train_epochs"]
    assert (tuning["description"], tuning["anyOf"][0]["exclusiveMinimum"]) == ("How often every sample is seen.", 0)


def test_empty_fields_of_the_form_are_as_declared_and_other_keys_may_be_added() -> None:
    from flows.parameters import Overrides, plain

    form = {"min_valid_share": None, "finetuning": {"seed": 3, "learning_rate": None, "dropout": 0.2}, "sample": {"near_duplicates": None}}
    assert plain(Overrides.model_validate(form)) == {"finetuning": {"seed": 3, "dropout": 0.2}, "sample": {"near_duplicates": None}}
    assert plain(None) == plain(Overrides()) == {}


def test_served_deployments_have_names_of_their_own_and_a_schedule_makes_runs(toy: Path, clean: str) -> None:
    words = [sys.executable, "-m", "flows", "serve"]
    child = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"PREFECT_LOGGING_LEVEL": "ERROR"}, stdout=subprocess.DEVNULL)
    try:
        made, scheduled = [], []
        for _ in range(120):
            made = [found for found in ask(clean, "/deployments/filter", {}) if found["name"] == "toy.served"]
            waiting = ask(clean, "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
            scheduled = [run for run in waiting if run["deployment_id"] in {found["id"] for found in made}]
            if len(made) == len(FLOWS) and scheduled:
                break
            assert child.poll() is None
            time.sleep(0.5)
        assert sorted(found["entrypoint"] for found in made) == [f"flows.{name}.{name}" for name in sorted(FLOWS)]
        assert {run["parameters"]["process"] for run in scheduled} == {"toy"}
    finally:
        child.terminate()
        child.wait(30)


def test_without_a_server_serve_says_how_to_start_one(toy: Path, command: Command) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    for address in (None, "http://127.0.0.1:9/api"):
        with temporary_settings({PREFECT_API_URL: address}):
            status, told = command("serve", "toy")
        assert (status, "prefect server start" in told) == (2, True), told
