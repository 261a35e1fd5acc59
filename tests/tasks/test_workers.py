"""A real Ray with a MinIO store: its workers give what one process gives, whatever becomes of them."""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import quick
from benchmarks.memory import publish_tiny, tiny_process, write_records
from infra.cluster import check_installed, started
from infra.minio import environment_of
from infra.settings import Settings
from infra.store import Store, open_store
from tasks.answers import Answers, opened_ledger
from tasks.artifacts import Artifact
from tasks.predictions import Prediction
from tasks.preview import preview
from tasks.process import Process
from tasks.runs import Run
from tasks.scoring import score_batch
from tasks.workers import Worker, Workers, hired


def declared(workers: int) -> Process:
    return Process.model_validate(tiny_process().model_dump(mode="json") | {"scoring": {"workers": workers}})


def score(source: Path, workers: int) -> Artifact:
    return score_batch.fn(str(source), Run(id="now", process=declared(workers), flow="score"))


def bytes_of(store: Store, batch: Artifact) -> dict[str, bytes]:
    return {info.key: store.read(info.key)[0] for info in store.list(batch.prefix) if not info.key.endswith("manifest.json")}


def rays(word: str = "/ray/|ray::") -> list[psutil.Process]:
    """The processes of Ray that this one has started, the youngest last."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if re.search(word, " ".join(child.cmdline())):
                found.append(child)
    return sorted(found, key=lambda child: child.create_time())


@pytest.fixture(scope="module")
def nodes(minio: Settings, shared_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Ray, and what the environment of its nodes says: a bucket, and a cache of their own."""
    environment = environment_of(minio, shared_bucket)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment | {"CLERKFLOW_CACHE": str(tmp_path_factory.mktemp("node"))}).items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        with started(2):
            yield environment
    assert not rays()


@pytest.fixture
def store(nodes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Store:
    """The nodes' store, for this process, too."""
    for name, value in nodes.items():
        monkeypatch.setenv(name, value)
    return open_store()


def test_a_worker_loads_the_version_from_the_store_and_answers_as_a_predictor_does(store: Store, tmp_path: Path) -> None:
    import ray
    import torch

    from tasks.generation import Predictor

    version = publish_tiny(tiny_process(), tmp_path / "version")
    workers = Workers(tiny_process(), [ray.remote(Worker).remote("memory", version, torch.get_num_threads())])
    predictor = Predictor.load(tmp_path / "version")
    prompts = [workers.prompt_of({"text": f"card {number} 退款 " * (number % 9)}) for number in range(300)]
    assert workers.predict(prompts) == predictor.predict(prompts)
    assert workers.decoding == predictor.decoding


def test_a_killed_worker_changes_no_byte_and_nothing_is_asked_twice(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sqlalchemy import text

    monkeypatch.setattr("tasks.answering.CHUNK_RECORDS", 100)
    monkeypatch.setattr("tasks.generation.Predictor.load", lambda folder: quick.Predictor(tiny_process()))
    monkeypatch.setattr("tasks.workers.Worker", quick.Worker)
    publish_tiny(tiny_process(), tmp_path / "version")
    source = write_records(tmp_path / "new.jsonl", 1200)
    monkeypatch.setenv("CLERKFLOW_LEDGER_URL", f"sqlite:///{tmp_path}/one.sqlite")
    batch = score(source, workers=1)
    before = bytes_of(store, batch)
    store.delete(batch.prefix + "manifest.json")
    monkeypatch.setenv("CLERKFLOW_LEDGER_URL", f"sqlite:///{tmp_path}/two.sqlite")
    kept: list[int] = []

    def keep(self: Answers, process: str, said: dict[bytes, Prediction]) -> Any:
        kept.append(len(said))
        if len(kept) == 2:  # stopped first, so that it dies with questions in its hands
            worker = rays("^ray::Worker")[-1]
            os.kill(worker.pid, signal.SIGSTOP)
            threading.Timer(0.3, os.kill, (worker.pid, signal.SIGKILL)).start()
        return whole(self, process, said)

    whole = Answers.keep
    monkeypatch.setattr(Answers, "keep", keep)
    again = score(source, workers=2)
    assert "died and was started again" in caplog.text
    assert kept == [100] * 11 + [99]
    assert (again.facts["asked"], again.facts["done"], again.facts["dead"]) == (1199, 1199, 1)
    assert bytes_of(store, again) == before
    with opened_ledger(f"sqlite:///{tmp_path}/two.sqlite", "") as ledger, ledger.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM clerkflow_answers")) == 1199


def test_what_a_worker_cannot_load_is_told_as_it_would_be_here(store: Store, tmp_path: Path) -> None:
    (tmp_path / "declaration.json").write_text(declared(2).model_dump_json())
    with pytest.raises(ValueError, match="memory has no version 'none'"), hired(declared(2), tmp_path, "none"):
        pass


def test_more_workers_than_there_are_cpus_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scoring\.workers is 64, and Ray has"), hired(declared(64), tmp_path, "none"):
        pass


def test_nothing_of_ray_listens_but_on_loopback(nodes: dict[str, str]) -> None:
    places = set()
    for each in (psutil.Process(), *rays()):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # a worker of the test before
            places |= {place.laddr.ip for place in each.net_connections() if place.status == "LISTEN"}
    assert places
    assert places <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_without_ray_one_worker_is_as_before_and_two_are_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    check_installed(1)
    publish_tiny(tiny_process(), tmp_path / "version")
    with pytest.raises(ValueError, match=r"scoring.workers is 2, and Ray is not installed: pip install 'clerkflow\[ray\]'"):
        score(write_records(tmp_path / "new.jsonl", 2), workers=2)
    assert not (tmp_path / "cache").exists()


def test_check_says_that_ray_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = declared(2)
    process._folder = tmp_path
    (tmp_path / "sample.jsonl").write_text('{"id": "a", "text": "card", "queue": "refund"}\n')
    assert not preview(process).mistakes
    monkeypatch.setitem(sys.modules, "ray", None)
    assert [mistake for mistake in preview(process).mistakes if "Ray is not installed" in mistake]
