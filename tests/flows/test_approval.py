"""A model that waits for a person's word, through the real flows and the command line; and who is told of all that."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.store import open_store
from tasks.aliases import challenger_of, champion_of
from tests.flows.conftest import Command, write_rows
from tests.tasks.test_notices import SECRET, receiver

__all__ = ["receiver"]  # a fixture of another file

CANARY = "zanzibarquux"  # stands in records, and must not stand in a message


@pytest.fixture
def careful(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy process; somebody must approve its models, everybody is told everything, and a word in its records is a secret."""
    declared = yaml.safe_load((toy / "process.yaml").read_text(encoding="utf-8"))
    declared["gate"] = {"rules": declared["gate"], "approval": {"by": ["owner"], "expires_hours": 24}}
    declared["notify"] = dict.fromkeys(("success", "refusal", "failure", "drift", "approval", "alarm"), "OPS_WEBHOOK")
    (toy / "process.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
    rows = [json.loads(line) for line in (toy / "sample.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[0]["id"] = CANARY
    write_rows(toy / "sample.jsonl", rows)
    (tmp_path / "approvers.yaml").write_text("anna: [owner]\nben: [intern]\n")
    monkeypatch.setenv("CLERKFLOW_APPROVERS", str(tmp_path / "approvers.yaml"))
    return toy


def asked(server: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{server}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_a_model_waits_until_somebody_approves_it_and_all_that_is_told_without_values(
    careful: Path, server: str, receiver: Any, command: Command
) -> None:
    from flows.decide import decide
    from flows.score import score
    from flows.train import train

    assert train("toy", {"gate": [{"metric": "accuracy", "at_least": 1.01}]}).became == "refused"
    state = train("toy", return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "AwaitingApproval"), state.result()
    outcome, store = state.result(), open_store()
    assert (outcome.passed, outcome.became, champion_of(store, "toy")) == (True, "waiting", None)
    assert challenger_of(store, "toy") == outcome.request.partition("-")[0]
    page = asked(server, "/artifacts/filter", {"artifacts": {"key": {"any_": ["toy-approval"]}}, "sort": "CREATED_DESC"})[0]
    assert f"clerkflow approve toy {outcome.request}" in page["data"]
    with pytest.raises(ValueError, match="no champion"):
        score("toy", str(careful / f"{CANARY}.jsonl"))

    status, listed = command("approvals", "toy")
    assert (status, outcome.request in listed, "waiting" in listed) == (0, True, True), listed
    words = ("approve", "toy", outcome.request, "--reason", "measured by hand, too")
    assert command(*words, "--as", "ben")[0] == 1
    assert champion_of(store, "toy") is None
    status, told = command(*words, "--as", "anna")
    assert (status, "approved" in told) == (0, True), told
    alias = champion_of(store, "toy")
    assert alias and "approved by anna (owner)" in alias.reason
    assert decide("toy", outcome.request, "approved", "anna", "again").released
    assert train("toy").became == "published"

    kinds = [message["title"].rpartition(": ")[2] for message in receiver.came]
    assert kinds == ["refused by its gate", "approval", "failed", "approval", "approval", "done"]
    assert "accuracy at least 1.01" in receiver.came[0]["message"]
    assert f"clerkflow approve toy {outcome.request}" in receiver.came[1]["message"]
    assert "was approved by anna (owner)" in receiver.came[3]["message"]
    told = json.dumps(receiver.came)
    assert not [word for word in (CANARY, SECRET, "measured by hand") if word in told]


def test_overrides_cannot_lift_an_approval(careful: Path, command: Command) -> None:
    for override in ("gate={rules: [{metric: accuracy, at_least: 0.1}], approval: null}", "gate.approval.by=[intern]"):
        status, told = command("train", "toy", "--set", override)
        assert (status, "gate.approval cannot be changed for one run" in told) == (2, True), told


def test_check_says_who_must_approve_and_which_address_is_missing(careful: Path, command: Command) -> None:
    status, told = command("check", "toy")
    assert status == 0, told
    assert "then owner approves it within 24 hours" in told
    assert "not set here: OPS_WEBHOOK" in told
