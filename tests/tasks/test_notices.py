"""Notices reach a real HTTP receiver, say no secret, and never hold up a run."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks.memory import tiny_process
from tasks.declaration import DeclarationError, parse_process
from tasks.notices import Notice, tell
from tasks.process import Process

SECRET = "s3cret-t0ken"


class Receiver(ThreadingHTTPServer):
    """What came, and how to answer: 200, another status, or not at all."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.daemon_threads = True
        self.came: list[dict[str, Any]] = []
        self.status = 200
        self.open = threading.Event()
        self.open.set()

    @property
    def address(self) -> str:
        return f"json://anna:{SECRET}@127.0.0.1:{self.server_address[1]}/hook"


class _Answer(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.open.wait(30)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPS_WEBHOOK", server.address)
        yield server
        server.open.set()
        server.shutdown()


def process_that_tells(**notify: Any) -> Process:
    return parse_process(tiny_process().model_dump(mode="json") | {"notify": notify}, "here")


NOTICE = Notice("refusal", "memory", "does not hold: accuracy at least 0.5", "run-1", {"rows": 1200, "accuracy": 0.25}, ["http://ui/x"])


def test_a_notice_says_what_happened_with_counts_and_links(receiver: Receiver) -> None:
    assert tell(process_that_tells(refusal="OPS_WEBHOOK"), NOTICE) == 1
    (came,) = receiver.came
    assert came["title"] == "clerkflow memory: refused by its gate"
    assert came["message"].splitlines() == [
        "does not hold: accuracy at least 0.5",
        "run: run-1",
        "rows: 1,200",
        "accuracy: 0.2500",
        "http://ui/x",
    ]
    assert came["type"] == "warning"


def test_nobody_is_told_of_what_they_did_not_ask_for(receiver: Receiver) -> None:
    assert tell(process_that_tells(failure=["OPS_WEBHOOK"]), NOTICE) == 0
    assert tell(tiny_process(), NOTICE) == 0
    assert receiver.came == []


def test_an_address_with_a_password_is_no_link(receiver: Receiver) -> None:
    tell(process_that_tells(refusal=["OPS_WEBHOOK"]), Notice("refusal", "memory", "x", links=[f"http://me:{SECRET}@ui/x"]))
    assert SECRET not in json.dumps(receiver.came)


@pytest.mark.parametrize(
    "address,words",
    [
        ("", "not set"),
        (f"nonsense {SECRET}", "no address that Apprise knows"),
        (f"json://u:{SECRET}@127.0.0.1:9/", "cannot be reached"),
    ],
)
def test_a_target_that_cannot_be_told_is_logged_by_its_name_and_not_its_address(
    address: str, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPS_WEBHOOK", address)
    with caplog.at_level(logging.DEBUG):
        assert tell(process_that_tells(refusal=["OPS_WEBHOOK"]), NOTICE) == 0
    assert "OPS_WEBHOOK did not take" in caplog.text
    assert words in caplog.text
    assert SECRET not in caplog.text


def test_a_target_that_refuses_or_hangs_does_not_keep_the_others_from_being_told(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.notices.SECONDS", 2.0)
    with Receiver() as silent:
        threading.Thread(target=silent.serve_forever, daemon=True).start()
        silent.open.clear()
        monkeypatch.setenv("SILENT", silent.address)
        started = time.monotonic()
        assert tell(process_that_tells(refusal=["SILENT", "OPS_WEBHOOK"]), NOTICE) == 1
        assert time.monotonic() - started < 5
        receiver.status = 500
        assert tell(process_that_tells(refusal=["OPS_WEBHOOK"]), NOTICE) == 0
        silent.open.set()
        silent.shutdown()
    assert "SILENT did not take" in caplog.text
    assert "no answer within 2 s" in caplog.text


@pytest.mark.parametrize("names", [f"json://u:{SECRET}@host/", ["ok", f"https://{SECRET}"], [""]])
def test_an_address_in_a_declaration_is_refused_and_not_repeated(names: Any) -> None:
    with pytest.raises(DeclarationError, match=r"notify\.failure: expected names of environment variables") as told:
        process_that_tells(failure=names)
    assert SECRET not in str(told.value)
