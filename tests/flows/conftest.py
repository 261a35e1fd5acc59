"""A real Prefect server for the tests of flows, and a process small enough to train in seconds."""

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from flows import __main__ as line
from flows import console
from infra.ending import end
from infra.ports import free_port

Command = Callable[..., tuple[int, str]]

ROOT = Path(__file__).resolve().parents[2]
QUEUES = {"billing": ["invoice", "发票"], "shipping": ["parcel", "快递"]}
FILLERS = [f"{first}{last}" for first in "bdfgklmnprst" for last in ("a", "ei", "o", "um")]  # words that say nothing


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prefect server's API on loopback, started once, stopped by its process id."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    address = f"http://127.0.0.1:{port}/api"
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    }
    words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=home)
    try:
        _wait_for(f"{address}/health", server, home / "server.log")
        yield address
    finally:
        end(server, 20)


def _wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the Prefect server did not answer in 120 s: {log.read_text()[-2000:]}")


@pytest.fixture
def server(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The Prefect server, as this process's and its children's API."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield prefect_api


def tickets(count: int, seed: int) -> list[dict[str, str]]:
    """Short messages whose words say their queue."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        queue = chance.choice(sorted(QUEUES))
        words = [chance.choice(QUEUES[queue]), *chance.sample(FILLERS, 2)]
        chance.shuffle(words)
        rows.append({"id": f"t-{seed}-{number}", "text": " ".join(words), "queue": queue})
    return rows


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a declared process `toy` with 240 records, in a folder of processes of its own."""
    folder = tmp_path / "processes" / "toy"
    folder.mkdir(parents=True)
    monkeypatch.setenv("CLERKFLOW_PROCESSES", str(folder.parent))
    declaration = {
        "name": "toy",
        "owner": "tests",
        "records": {"source": "sample.jsonl", "columns": ["text", "queue"]},
        "sample": {"prompt": "Message: {text}\nQueue:", "vocabulary_size": 400, "near_duplicates": None},
        "output": {"label": "queue"},
        "finetuning": {
            "size": {"n_layer": 1, "n_embd": 32, "n_head": 2},
            "learning_rate": 0.01,
            "num_train_epochs": 12,
            "max_length": 64,
            "tokens_per_batch": 256,
            "dropout": 0.0,
            **dict.fromkeys(("label_smoothing_factor", "prompt_loss_weight", "token_dropout"), 0.0),  # seconds are too few for these
        },
        "gate": [{"metric": "accuracy", "at_least": 0.8}, {"metric": "accuracy", "below_champion_at_most": 0.05}],
        "drift": {"min_records": 50},
        "arrivals": {"settle_seconds": 0.5, "min_new_records": 100},
        "schedules": {"score": "* * * * *"},
    }
    (folder / "process.yaml").write_text(yaml.safe_dump(declaration, sort_keys=False), encoding="utf-8")
    write_rows(folder / "sample.jsonl", tickets(240, 1))
    return folder


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def clerkflow(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command line, as a user runs it."""
    line = [sys.executable, "-m", "flows", *words]
    return subprocess.run(line, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process: status, and what stood on both streams with its line breaks as blanks."""
    wide = Console(highlight=False, width=300, height=100)  # COLUMNS does not count where there is no terminal
    monkeypatch.setattr(console, "out", wide)
    monkeypatch.setattr(console, "quiet_libraries", lambda: None)  # what it does to a process would outlive the test

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["clerkflow", *words])
        capsys.readouterr()  # what others said before
        with pytest.raises(SystemExit) as end:
            line.main()
        told = capsys.readouterr()
        assert "Traceback" not in told.out + told.err
        return int(end.value.code or 0), " ".join((told.out + told.err).split())

    return run
