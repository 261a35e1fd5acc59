"""The whole system on this machine, all of it real: it comes up, shows its page in a browser, and goes down."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from infra.system import ARRIVALS_OFFSET, REPORTS_OFFSET, WORKER_OFFSET, System
from tests.browser import Page, browser, find_browser
from tests.flows.conftest import tickets, write_rows

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "build" / "screenshots"
DECLARATION = {
    "name": "toy",
    "owner": "tests",
    "records": {"source": "sample.jsonl", "columns": ["text", "queue"]},
    "sample": {"prompt": "Message: {text}\nQueue:", "vocabulary_size": 300, "near_duplicates": None},
    "output": {"label": "queue"},
    "finetuning": {"size": {"n_layer": 1, "n_embd": 16, "n_head": 2}, "num_train_epochs": 3, "max_length": 64},
    "gate": [{"metric": "accuracy", "at_least": 0.01}],
    "schedules": {"score": None, "train": None, "monitor": None, "reconcile": None},
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, minio_program: Path) -> Iterator[System]:
    """A system of one's own, with a process that is declared; nothing of it runs afterwards."""
    place = tmp_path_factory.mktemp("machine")
    folder = place / "processes" / "toy"
    folder.mkdir(parents=True)
    (folder / "process.yaml").write_text(yaml.safe_dump(DECLARATION, sort_keys=False), encoding="utf-8")
    write_rows(folder / "sample.jsonl", tickets(120, 1))
    made = System(place / "system", free_port(ARRIVALS_OFFSET, REPORTS_OFFSET), free_port(WORKER_OFFSET))
    assert command(made, "up") == 0
    yield made
    made.down()


def free_port(*offsets: int) -> int:
    """A free port whose neighbours at these offsets are free, too."""
    for _ in range(50):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            for offset in offsets:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            return port
    pytest.fail("no free ports beside each other")


def command(system: System, word: str) -> int:
    """What a person types; its exit status."""
    ports = ["--minio-port", str(system.minio_port), "--prefect-port", str(system.prefect_port)]
    words = [sys.executable, "-m", "infra.system", word, "--folder", str(system.folder), *ports]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLERKFLOW_", "PREFECT_"))}
    place = system.folder.parent
    environment = kept | {
        "CLERKFLOW_PROCESSES": str(place / "processes"),
        "CLERKFLOW_CACHE": str(place / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, timeout=200, check=False).returncode


def parts(system: System) -> dict[str, int]:
    return {each.name: each.pid for each in system.started()}


def family(system: System) -> list[psutil.Process]:
    processes = [each.process for each in system.started() if each.process]
    return [*processes, *(child for process in processes for child in process.children(recursive=True))]


def until(asked: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (answer := asked()) and time.monotonic() < end:
        time.sleep(0.2)
    return answer


def password(system: System) -> str:
    return f"clerkflow:{(system.folder / 'password').read_text().strip()}"


def ask(system: System, path: str, body: dict[str, Any]) -> Any:
    """What the Prefect server answers to somebody with its password."""
    headers = {"Content-Type": "application/json", "Authorization": "Basic " + base64.b64encode(password(system).encode()).decode()}
    with urllib.request.urlopen(urllib.request.Request(system.api + path, json.dumps(body).encode(), headers), timeout=20) as answer:
        return json.load(answer)


def test_a_person_starts_a_training_from_the_form_and_opens_what_it_found(system: System, tmp_path: Path) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium (about 300 MB)")
    page_of = f"http://127.0.0.1:{system.prefect_port}/v2"
    [deployment] = [found for found in ask(system, "/deployments/filter", {}) if found["entrypoint"] == "flows.train.train"]
    with browser(program, tmp_path / "profile") as page:
        page.go(page_of)
        page.wait_for("Login")
        page.fill("input", password(system))
        page.click("button", "Login")
        page.wait_for("Logout")
        page.go(f"{page_of}/deployments/deployment/{deployment['id']}/run?parameters=%7B%22process%22%3A%22toy%22%7D")
        page.click("button", "Overrides")
        page.click("button", "FinetuningOverrides")
        page.click("button", "float", behind="Num Train Epochs")
        page.fill("input[type=number]", "1", behind="Num Train Epochs")
        page.picture(PICTURES / "form.png")
        run = submitted(page, system, deployment["id"])
        page.picture(PICTURES / "submitted.png")
        page.go(f"{page_of}/runs/flow-run/{run['id']}")
        ended = until(lambda: [one for one in ask(system, "/flow_runs/filter", {}) if one["id"] == run["id"] and one["end_time"]], 300)
        assert [one["state_type"] for one in ended] == ["COMPLETED"]
        assert ended[0]["parameters"]["overrides"]["finetuning"]["num_train_epochs"] == 1
        page.wait_for("Completed")
        page.go(page.run("location.href"))  # what was listed before is not asked for again
        page.wait_for("Completed")
        see(page, page_of, system, run["id"])


def submitted(page: Page, system: System, deployment: str) -> Any:
    """The run that the form has made. A first click may be spent on leaving the field: then a person clicks again."""
    for _ in range(4):
        page.click("button", "Submit")
        asked = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        if runs := until(lambda asked=asked: ask(system, "/flow_runs/filter", asked), 15):
            return runs[0]
    pytest.fail(f"no run was made; the page says: {page.text()[-1000:]}")


def see(page: Page, page_of: str, system: System, run: str) -> None:
    """Every artifact of the run as it is shown, and a report behind its link."""
    for _ in range(6):  # a tab that is clicked while the page still loads stays shut
        page.click("button", "Artifacts")
        with contextlib.suppress(AssertionError):
            page.wait_for("toy-verdict", 10)
            break
    page.wait_for("toy-verdict", 1)
    page.picture(PICTURES / "run.png")
    found = ask(system, "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    assert not [each["key"] for each in found if secret_in(system, json.dumps(each))]
    ids = {each["key"].removeprefix("toy-"): each["id"] for each in found}
    shows = {
        "verdict": "Gate passed",
        "metrics": "majority",
        "validation": "120 records = 120 valid + 0 quarantined",
        "data-docs": "Great Expectations",
        "plots": "3 plots",
    }
    for subject, words in shows.items():
        page.go(f"{page_of}/artifacts/artifact/{ids[subject]}")
        page.wait_for(words)
        if subject == "plots":
            assert page.until("[...document.images].filter(i => i.src.startsWith('data:image/png') && i.naturalWidth > 100).length") == 3
        page.picture(PICTURES / f"{subject}.png")
    for subject, words in {"report": "How this was measured", "data-docs": "Expectation Suite"}.items():
        page.go(f"{page_of}/artifacts/artifact/{ids[subject]}")
        link = page.until("([...document.querySelectorAll('main a')].find(a => a.href.includes('/reports/')) || {}).href")
        assert refused(link) == 401
        page.go(link.replace("//", f"//{password(system)}@"))
        page.wait_for(words)
        assert page.run("document.contentType") == "text/html"
        assert "X-Amz-Expires=300" in page.run("location.href")
        page.picture(PICTURES / f"{subject}-opened.png")


def secret_in(system: System, text: str) -> bool:
    """Whether a password, a key or a signed address is in a text."""
    secrets = [line.partition("=")[2].strip("'\"") for line in (system.folder / "env").read_text().splitlines() if is_secret(line)]
    return any(secret in text for secret in [*secrets, "X-Amz-"])


def is_secret(line: str) -> bool:
    return any(word in line.partition("=")[0] for word in ("KEY", "TOKEN", "AUTH_STRING"))


def refused(address: str) -> int:
    """The status of an answer to somebody without the password."""
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_part_that_was_killed_is_seen_and_comes_back_and_nothing_is_left_running(system: System) -> None:
    first = parts(system)
    assert list(first) == ["minio", "prefect", "worker", "watcher", "reports"]
    assert [each.state for each in system.started()] == [str(pid) for pid in first.values()]
    assert refused(f"{system.api}/admin/version") == 401

    os.kill(first["watcher"], signal.SIGKILL)
    assert until(lambda: {each.name: each.state for each in system.started()}["watcher"] == "gone")
    assert command(system, "status") == 1
    assert command(system, "up") == 0
    assert [name for name, pid in parts(system).items() if first[name] != pid] == ["watcher"]

    members = family(system)
    assert len(members) > len(first)
    assert command(system, "down") == 0
    assert [each for each in members if each.is_running()] == []
    assert system.down() == []
