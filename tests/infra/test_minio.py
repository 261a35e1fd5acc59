"""A MinIO server of one's own: found, started, its credentials kept, and gone when it should be."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from minio.sseconfig import Rule, SSEConfig
from pydantic import SecretStr

from infra.connection import connect, connect_admin
from infra.minio import credentials, environment_lines, environment_of, find_server, make_bucket, running
from infra.settings import Settings, settings
from infra.store import open_store

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("CLERKFLOW_S3_ENDPOINT", "CLERKFLOW_S3_ACCESS_KEY", "CLERKFLOW_S3_SECRET_KEY")


def answers(endpoint: str) -> bool:
    host, port = endpoint.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def gone(endpoint: str) -> bool:
    """Whether nobody answers there any more, within a bounded time."""
    return any(not answers(endpoint) or time.sleep(0.2) for _ in range(100))


def test_a_server_that_the_environment_names_is_used_and_left_alone(minio: Settings, bucket: object) -> None:
    with running() as server:
        assert server.s3_endpoint == minio.s3_endpoint
    assert answers(minio.s3_endpoint)


def test_a_server_of_ones_own_answers_and_is_gone_afterwards(minio: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with running() as server:
        assert answers(server.s3_endpoint)
        assert server.s3_endpoint.startswith("127.0.0.1:")
    assert gone(server.s3_endpoint)


def test_without_a_minio_program_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("GOPATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"go install github\.com/minio/minio@"):
        find_server()


def test_credentials_are_random_kept_and_for_their_owner_only(tmp_path: Path) -> None:
    keys = credentials(tmp_path / "data" / "credentials")
    assert credentials(tmp_path / "data" / "credentials") == keys
    assert credentials(None) != keys
    assert (tmp_path / "data" / "credentials").stat().st_mode & 0o777 == 0o600


def test_a_server_with_tls_and_a_key_reads_after_a_restart_what_it_encrypted_before(
    minio_program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for once in (True, False):
        with running(tmp_path, tls=True, kms=True) as server:
            make_bucket(server, "bucket")
            client, pool = connect(server)
            if once:
                client.set_bucket_encryption("bucket", SSEConfig(Rule.new_sse_s3_rule()))
                client.put_object("bucket", "a", io.BytesIO(b"kept"), 4)
            assert client.get_object("bucket", "a").data == b"kept"
            pool.clear()
    assert (tmp_path / "kms").stat().st_mode & 0o777 == 0o600


def test_unfinished_uploads_go_when_the_settings_say(minio_program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLERKFLOW_S3_ABORT_UPLOADS_DAYS", "3")
    with running() as server:
        assert "MINIO_API_STALE_UPLOADS_EXPIRY=72h" in connect_admin(server).config_get("api")


def test_the_variables_of_a_server_lead_to_it_through_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Settings(
        s3_endpoint="host:9000",
        s3_ca_file=tmp_path / "our ca.pem",
        s3_credentials_file=tmp_path / "it's",
        s3_profile="mine",
        s3_access_key=SecretStr(""),
        s3_secret_key=SecretStr(""),
    )
    (tmp_path / "env").write_text(environment_lines(environment_of(server, "bucket/some where")))
    shown = subprocess.run(["bash", "-c", f"set -a; . {tmp_path}/env; env -0"], env={}, capture_output=True, text=True, check=True).stdout
    for line in shown.split("\0"):
        if line.startswith("CLERKFLOW_"):
            monkeypatch.setenv(*line.split("=", 1))
    assert settings() == server.model_copy(update={"store": "s3://bucket/some where", "cache": settings().cache})


def test_the_command_serves_a_bucket_keeps_its_objects_and_dies_with_whoever_killed_it(
    minio: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | {"TMPDIR": str(tmp_path / "tmp")}
    for end in (signal.SIGTERM, signal.SIGKILL):
        line = [sys.executable, "-m", "infra.minio", "--data", str(tmp_path / "data")]
        server = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert server.stdout
        said = server.stdout.readline() + server.stdout.readline()
        file = tmp_path / "data" / "minio.env"
        assert str(file) in said
        assert file.stat().st_mode & 0o777 == 0o600
        for variable in file.read_text().split():
            name, _, value = variable.partition("=")
            monkeypatch.setenv(name, value)
            assert "KEY" not in name or value not in said
        store = open_store()
        if end == signal.SIGTERM:
            store.write("p/a", b"kept")
        assert store.read("p/a")[0] == b"kept"
        server.send_signal(end)
        server.communicate(timeout=30)
        assert gone(os.environ["CLERKFLOW_S3_ENDPOINT"])
