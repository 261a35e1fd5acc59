"""Users of a server: what is told when it is not MinIO, and a key that survives an interrupted try."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.minio import environment_lines, environment_of
from infra.roles import Scope, name_of, policy_of
from infra.settings import Settings
from infra.users import NoAdminApi, Users, keys_hold


class Other(BaseHTTPRequestHandler):
    """An S3 server that has never heard of MinIO's admin API."""

    def do_GET(self) -> None:
        body = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Quiet."""


@pytest.fixture
def other(minio: Settings) -> Iterator[Settings]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield minio.model_copy(update={"s3_endpoint": f"127.0.0.1:{server.server_port}", "s3_secure": False})
        server.shutdown()
        thread.join()


def test_a_server_without_the_admin_api_is_told_with_the_way_to_do_it_by_hand(other: Settings) -> None:
    with pytest.raises(NoAdminApi, match=r"HTTP status 404.*user for each role .*--print-policies"):
        Users(other).policy("any")


def test_a_user_whose_making_was_interrupted_gets_the_key_that_its_file_holds(minio: Settings, shared_bucket: str, tmp_path: Path) -> None:
    scope, file, users = Scope(shared_bucket), tmp_path / "file.env", Users(minio)
    name = name_of("watcher", scope)
    file.write_text(environment_lines(environment_of(minio, shared_bucket) | {"CLERKFLOW_S3_SECRET_KEY": "0123456789"}))
    try:
        users.set_policy(name, policy_of("watcher", scope))
        assert users.policies_of(name) is None
        users.add(name, file, minio, shared_bucket, renew=False)
        assert users.policies_of(name) == name
        assert keys_hold(name, file, minio, shared_bucket)
        file.unlink()
        assert not keys_hold(name, file, minio, shared_bucket)
    finally:
        users.remove(name)
    assert users.policies_of(name) is None
    assert users.policy(name) is None


def test_removing_what_is_not_there_is_no_mistake(minio: Settings) -> None:
    Users(minio).remove("clerkflow-nobody")


def test_wrong_keys_are_told_to_be_no_administrators(minio: Settings) -> None:
    wrong = minio.model_copy(update={"s3_secret_key": SecretStr("not-the-secret")})
    with pytest.raises(PermissionError, match="an administrator's credentials") as refused:
        Users(wrong).policy("any")
    assert "not-the-secret" not in str(refused.value)
