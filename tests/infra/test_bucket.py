"""The bucket on a bad day: a real MinIO server behind a proxy that loses answers, and what a person is then told."""

import http.client
import logging
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.bucket import MinioStore
from infra.settings import Settings, settings
from infra.spans import Spans, digest_of
from infra.store import Conflict, open_store

MISSING = "If-Match for a missing object"


class Proxy(ThreadingHTTPServer):
    """Hands requests on to the server, except where `plan` says "lost" (done, unanswered), "busy" (503), "broken" (half a body) or
    "altered" (a bit of what is sent)."""

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.plan, self.always, self.deaf_to = server, list[str](), "", ""

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fate = self.server.always or (self.server.plan.pop(0) if self.server.plan else "")
        if fate == "busy":
            self.send_response(503)
            self.send_header("Retry-After", "60")  # as MinIO says
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fate == "altered" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        upstream.request(self.command, self.path, body, dict(self.headers.items()))
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        self.close_connection = True
        if fate == "lost":
            return
        self.send_response(200 if self.is_deaf(answer.status) else answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.headers.get("Content-Length") or str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fate == "broken" else data)

    def is_deaf(self, status: int) -> bool:
        """Whether a server that ignores this condition would have taken the PUT that was refused."""
        deaf_to = self.server.deaf_to
        return (deaf_to in self.headers and status == 412) or (deaf_to == MISSING and "If-Match" in self.headers and status == 404)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815 - http.server's names

    def log_message(self, *words: object) -> None:
        """Quiet."""


@pytest.fixture
def proxy(minio: Settings, bucket: MinioStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy, which the environment names instead of the server."""
    with Proxy(minio.s3_endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("CLERKFLOW_S3_ENDPOINT", f"127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def test_a_write_whose_answer_was_lost_is_not_reported_as_lost_to_another(proxy: Proxy) -> None:
    store = open_store()
    proxy.plan = ["lost"]
    etag = store.write("p/a", b"mine", if_absent=True)
    assert store.read("p/a") == (b"mine", etag)
    proxy.plan = ["lost"]
    assert store.write("p/a", b"newer", if_match=etag) == store.read("p/a")[1]


def test_a_write_that_was_retried_and_in_truth_lost_is_a_conflict(proxy: Proxy) -> None:
    store = open_store()
    store.write("p/a", b"theirs")
    proxy.plan = ["busy", "lost"]
    with pytest.raises(Conflict, match="p/a"):
        store.write("p/a", b"mine", if_absent=True)
    assert store.read("p/a")[0] == b"theirs"


def test_a_busy_server_is_asked_again(proxy: Proxy, tmp_path: Path) -> None:
    store = open_store()
    (tmp_path / "file").write_bytes(b"x" * 1000)
    proxy.plan = ["busy"]
    store.upload(tmp_path / "file", "p/file")
    proxy.plan = ["busy"]
    store.write("p/a", b"x")
    proxy.plan = ["busy"]
    assert store.read("p/file")[0] == b"x" * 1000
    proxy.plan = ["busy"]
    assert [info.key for info in store.list("p/")] == ["p/a", "p/file"]


def test_a_body_that_breaks_off_goes_on_where_it_broke(proxy: Proxy) -> None:
    store = open_store()
    data = bytes(range(256)) * 400
    store.write("p/a", data)
    proxy.plan = ["broken", "broken", "busy"]
    assert store.read("p/a")[0] == data
    proxy.plan = ["broken"]
    with store.open("p/a") as stream:
        assert stream.read() == data


def test_a_body_that_always_breaks_off_is_an_error_and_never_a_short_object(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.bucket.REST_SECONDS", 0.01)
    store = open_store()
    store.write("p/a", b"x" * 100_000)
    proxy.always = "broken"
    with pytest.raises(ConnectionError, match="p/a"):
        store.read("p/a")
    with store.open("p/a") as stream, pytest.raises(ConnectionError, match="p/a"):
        stream.read()


def test_an_object_that_changes_while_it_is_read_is_an_error_and_never_a_mixture(proxy: Proxy) -> None:
    store = open_store()
    store.write("p/a", b"x" * 3_000_000)
    proxy.plan = ["broken"]
    with store.open("p/a") as stream:
        stream.read(1000)
        store.write("p/a", b"y" * 3_000_000)
        with pytest.raises(OSError, match="changed while it was read"):
            stream.read()


def test_an_object_put_through_lost_answers_and_a_busy_server_is_whole(proxy: Proxy, tmp_path: Path) -> None:
    store = open_store()
    (tmp_path / "file").write_bytes(bytes(range(256)) * 10_000)
    spans = Spans.of(tmp_path / "file")
    proxy.plan = ["busy", "lost"]
    store.put("p/a", spans, digest_of(spans).sha256)
    assert store.sha256("p/a") == digest_of(spans).sha256


def test_bytes_that_are_altered_on_the_way_are_sent_again_and_never_seen(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.bucket.REST_SECONDS", 0.01)
    store = open_store()
    (tmp_path / "file").write_bytes(bytes(range(256)) * 10_000)
    spans = Spans.of(tmp_path / "file")
    proxy.always = "altered"
    with pytest.raises(ConnectionError, match="p/shard: in 5 tries other bytes came than were sent"):
        store.put("p/shard", spans, digest_of(spans).sha256)
    with pytest.raises(ConnectionError, match="p/small: in 5 tries other bytes came than were sent"):
        store.write("p/small", b"some bytes")
    proxy.always = ""
    assert list(store.list("")) == []
    proxy.plan = ["altered", "altered"]
    store.put("p/shard", spans, digest_of(spans).sha256)
    store.write("p/small", b"some bytes")
    assert store.read("p/small")[0] == b"some bytes"
    assert store.sha256("p/shard") == digest_of(spans).sha256


def test_a_server_that_ignores_conditions_is_refused_before_anything_is_written(proxy: Proxy) -> None:
    for ignored in ("If-None-Match", "If-Match"):
        proxy.deaf_to = ignored
        with pytest.raises(ValueError, match=f"ignores {ignored}.*two publishers could overwrite each other"):
            open_store()
    proxy.deaf_to = ""
    assert list(open_store().list("")) == []


def test_a_server_that_takes_if_match_for_a_missing_object_is_refused(proxy: Proxy) -> None:
    proxy.deaf_to = MISSING
    with pytest.raises(ValueError, match="ignores If-Match for a missing object"):
        open_store()


def test_at_the_end_of_its_patience_the_error_is_clear_and_nothing_tells_the_credentials(
    proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.bucket.REST_SECONDS", 0.01)
    store = open_store()
    caplog.set_level(logging.INFO)
    (tmp_path / "file").write_bytes(b"x")
    proxy.always = "busy"
    told = []
    for use in (
        lambda: store.write("p/a", b"x", if_absent=True),
        lambda: store.upload(tmp_path / "file", "p/a"),
        lambda: store.read("p/a"),
    ):
        with pytest.raises(ConnectionError, match=r"s3://.*p/a: no good answer in 5 tries") as refused:
            use()
        told.append("".join(traceback.format_exception(refused.value)))
    where = settings()
    for text in (*told, caplog.text, repr(where), repr(store), str(vars(store))):
        assert where.s3_access_key.get_secret_value() not in text
        assert where.s3_secret_key.get_secret_value() not in text
        assert "X-Amz-Signature" not in text


def test_wrong_keys_are_a_question_of_permission(bucket: MinioStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_S3_SECRET_KEY", "wrong-secret")
    with pytest.raises(PermissionError, match="CLERKFLOW_S3_ACCESS_KEY") as refused:
        open_store()
    assert "wrong-secret" not in str(refused.value)


def test_a_bucket_that_is_not_there_is_named(bucket: MinioStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_STORE", "s3://no-such-bucket")
    with pytest.raises(FileNotFoundError, match="no bucket 'no-such-bucket'"):
        open_store()


@pytest.mark.parametrize("where", ["s3://", "http://bucket", "s3:///prefix"])
def test_a_store_that_is_neither_folder_nor_bucket_is_refused(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_STORE", where)
    with pytest.raises(ValueError, match="expected a folder or s3://bucket"):
        open_store()


def test_a_bucket_needs_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_STORE", "s3://bucket")
    monkeypatch.delenv("CLERKFLOW_S3_ACCESS_KEY", raising=False)
    with pytest.raises(ValueError, match="CLERKFLOW_S3_SECRET_KEY in the environment"):
        open_store()


def test_a_server_that_is_not_there_is_told_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_STORE", "s3://bucket")
    monkeypatch.setenv("CLERKFLOW_S3_ENDPOINT", "127.0.0.1:1")
    monkeypatch.setenv("CLERKFLOW_S3_ACCESS_KEY", "someone")
    monkeypatch.setenv("CLERKFLOW_S3_SECRET_KEY", "something")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1/bucket.*is the server up"):
        open_store()


def test_a_large_object_travels_in_parts_and_comes_back_whole(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.bucket.WHOLE_BYTES", 2**20)
    monkeypatch.setattr("infra.bucket.PART_BYTES", 5 * 2**20)
    (tmp_path / "file").write_bytes(bytes(range(251)) * 50_000)
    spans, store = Spans.of(tmp_path / "file"), open_store()
    proxy.plan = ["", "busy", "", "lost"]
    store.put("p/a", spans, digest_of(spans).sha256)
    assert store.sha256("p/a") == digest_of(spans).sha256
    info = store.stat("p/a")
    assert info and info.etag.endswith("-3")
    with pytest.raises(OSError, match="p/b is not what was sent"):
        store.put("p/b", spans, "0" * 64)
