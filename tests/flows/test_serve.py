"""Deployments of declared processes on a real Prefect server."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def ask(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_every_flow_of_a_process_becomes_a_deployment_and_a_schedule_makes_runs(toy: Path, server: str) -> None:
    words = [sys.executable, "-m", "flows", "serve", "toy"]
    child = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"PREFECT_LOGGING_LEVEL": "ERROR"}, stdout=subprocess.DEVNULL)
    try:
        made, scheduled = [], []
        for _ in range(120):
            made = [found for found in ask(server, "/deployments/filter", {}) if found["name"] == "toy"]
            scheduled = ask(server, "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
            if len(made) == 5 and scheduled:
                break
            assert child.poll() is None
            time.sleep(0.5)
        assert sorted(found["entrypoint"] for found in made) == [
            f"flows.{name}.{name}" for name in ("backfill", "decide", "monitor", "score", "train")
        ]
        assert all("clerkflow" in found["tags"] for found in made)
        assert {run["parameters"]["process"] for run in scheduled} == {"toy"}
    finally:
        child.terminate()
        child.wait(30)


def test_without_a_server_serve_says_how_to_start_one(toy: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    for address in ({}, {"PREFECT_API_URL": "http://127.0.0.1:9/api"}):
        words = [sys.executable, "-m", "flows", "serve", "toy"]
        answer = subprocess.run(words, cwd=ROOT, env=environment | address, capture_output=True, text=True, timeout=120)
        assert answer.returncode == 2, answer.stderr
        assert "prefect server start" in answer.stderr
