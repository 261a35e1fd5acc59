"""Monitoring through the real flow: what people found among accepted answers."""

from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact

from benchmarks.memory import publish_tiny
from flows.monitor import monitor
from infra.store import open_store
from tasks.process import Process
from tasks.reviewing import Queue
from tests.flows.conftest import Command
from tests.tasks.test_audit import accepting, put_audit, say
from tests.tasks.test_notices import Receiver, receiver

__all__ = ["receiver"]  # a fixture


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    """The tiny process with an audit, in a folder of declarations; its champion was never trained."""
    folder = tmp_path / "processes" / "memory"
    folder.mkdir(parents=True)
    plain = accepting(0.1).model_dump(mode="json") | {"notify": {"drift": "OPS_WEBHOOK"}}
    (folder / "process.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    monkeypatch.setenv("CLERKFLOW_PROCESSES", str(folder.parent))
    return Process.model_validate(plain)


def test_a_refuted_certificate_is_told_by_monitor_models_the_page_and_a_notice(
    declared: Process, server: str, tmp_path: Path, command: Command, receiver: Receiver
) -> None:
    version = publish_tiny(declared, tmp_path / "version")
    texts = {str(number): f"card {number}" for number in range(1, 9)}
    put_audit(dict.fromkeys(texts, ("billing", version)), texts)
    queue = Queue(open_store(), declared)
    first, *others = queue.waiting()
    queue.decide(first, "rejected", "Ann", reason="spam")
    told = f"1 of 1 accepted answers of {version} that people looked at afterwards were wrong"
    status, words = command("monitor", "memory", "--no-train")
    assert (status, told in words, "memory: not compared" in words, receiver.came) == (0, True, True, [])
    for item in others:
        say(queue, item, "corrected")
    status, words = command("monitor", "memory", "--no-train")
    told = f"8 of 8 accepted answers of {version} that people looked at afterwards were wrong"
    assert (status, f"memory: drifted: {told}" in words, "its certificate is refuted; not enough records" in words) == (0, True, True)
    assert told in command("models", "memory")[1]
    (notice,) = receiver.came
    assert told in notice["message"] and "refuted" in notice["message"]
    assert monitor("memory", retrain=False).facts["refuted"]
    assert any(told in artifact.description for artifact in artifacts("memory-audit"))


def artifacts(key: str) -> list[Artifact]:
    """What stands in the Prefect UI under a key."""
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
