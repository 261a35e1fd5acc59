"""Hints of what arrives, from a real folder and a real MinIO, and events that a real Prefect server took."""

import queue
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import events
from infra.bucket import MinioStore
from infra.connection import connect
from infra.minio import environment_of, make_bucket, running
from infra.ports import free_port
from infra.settings import settings
from infra.store import LocalStore

TOKEN = secrets.token_hex(12)


def gathered(hints: Iterator[set[str]], wanted: set[str], stop: threading.Event) -> set[str]:
    """What hints say until all that is wanted was named, or for 10 s."""
    found: set[str] = set()
    end = time.monotonic() + 10
    for keys in hints:
        found |= keys
        if wanted <= found or time.monotonic() > end:
            stop.set()
    return found


def test_a_file_of_an_inbox_is_named_whichever_way_it_comes(tmp_path: Path) -> None:
    store, stop = LocalStore(tmp_path / "store"), threading.Event()
    hints = events.folder_hints(store, ["toy"], stop)
    assert next(hints) == {events.CATCH_UP}
    store.write("toy/inbox/of our own.jsonl", b"{}")  # in the very moment after everything was looked at
    (tmp_path / "store/toy/inbox/copied.jsonl").write_text("{}")
    store.write("toy/runs/other.json", b"{}")
    wanted = {"toy/inbox/of our own.jsonl", "toy/inbox/copied.jsonl"}
    assert gathered(hints, wanted, stop) == wanted


@pytest.fixture
def telling(minio: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[MinioStore]:
    """A bucket of a server that tells what arrives to the address and with the token of the environment."""
    address = f"127.0.0.1:{free_port()}"
    for name in ("CLERKFLOW_S3_ENDPOINT", "CLERKFLOW_S3_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLERKFLOW_ARRIVALS_ADDRESS", address)
    monkeypatch.setenv("CLERKFLOW_ARRIVALS_TOKEN", TOKEN)
    with running(environment=events.webhook_environment(address, TOKEN)) as server:
        make_bucket(server, "telling")
        for variable, value in environment_of(server, "telling").items():
            monkeypatch.setenv(variable, value)
        client, pool = connect(server)
        yield MinioStore(client, pool, "telling", "part")
        pool.clear()


def test_minio_names_the_keys_of_an_inbox_as_they_are(telling: MinioStore) -> None:
    stop = threading.Event()
    hints = events.bucket_hints(telling, ["toy"], settings(), stop)
    assert next(hints) == {events.CATCH_UP}
    keys = {"toy/inbox/a b+c é 发票.jsonl", "toy/inbox/deep/er.jsonl"}

    def come() -> None:
        for key in [*keys, "toy/runs/other.json", "strange/inbox/x"]:
            telling.write(key, b"{}")

    threading.Timer(0.5, come).start()
    assert gathered(hints, keys, stop) == keys
    rules = telling.client.get_bucket_notification("telling").queue_config_list
    assert [rule.prefix_filter_rule.value for rule in rules] == ["part/toy/inbox/"]
    assert events.subscribe(telling, ["other"])
    rules = telling.client.get_bucket_notification("telling").queue_config_list
    assert [rule.prefix_filter_rule.value for rule in rules] == ["part/other/inbox/"]


def test_a_server_that_tells_nobody_is_told_as_a_warning(bucket: MinioStore, caplog: pytest.LogCaptureFixture) -> None:
    assert not events.subscribe(bucket, ["toy"])
    assert "the reconciler finds it" in caplog.text


def ask(url: str, body: bytes = b"{}", token: str = TOKEN, **headers: str) -> int:
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_receiver_hears_only_who_shows_the_token_and_says_little() -> None:
    heard: queue.Queue[str] = queue.Queue(10)
    with events.receiver(heard, "127.0.0.1:0", TOKEN) as url:
        assert ask(url, token="x" * 24) == 401
        assert ask(url.replace("/arrivals", "/other")) == 404
        assert ask(url, **{"Content-Length": str(events.BODY_BYTES + 1)}) == 413
        assert ask(url, **{"Content-Length": "-1"}) in (400, 411)
        assert heard.empty()
        assert ask(url, b'{"Records": [{"s3": {"object": {"key": "toy/inbox/a%20b%2B.jsonl"}}}]}') == 204
        assert heard.get_nowait() == "toy/inbox/a b+.jsonl"


def test_a_short_token_is_refused() -> None:
    with pytest.raises(ValueError, match="CLERKFLOW_ARRIVALS_TOKEN"), events.receiver(queue.Queue(), "127.0.0.1:0", "short"):
        pass


def test_what_cannot_be_read_is_a_hint_at_everything_and_what_is_not_ours_is_none() -> None:
    assert events.keys_of(b"\xff{") == events.keys_of(b'{"Records": [{}]}') == events.keys_of(b"[]") == [events.CATCH_UP]
    assert events.keys_of(b'{"Records": null}') == []
    assert events.keys_of(b'{"Records": [{"s3": {"object": {"key": "other/x"}}}]}', "part/") == []


def test_too_many_hints_become_one_at_everything() -> None:
    heard: queue.Queue[str] = queue.Queue(3)
    for number in range(4):
        events.put(heard, str(number))
    assert events.burst(heard) == {events.CATCH_UP}


def test_an_event_that_nobody_takes_is_an_error_after_some_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    rests: list[float] = []
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ConnectionError, match="5 tries"),
    ):
        events.emit("clerkflow.test", "clerkflow.process.toy", ["a"], {}, rests.append)
    assert len(rests) == 4
