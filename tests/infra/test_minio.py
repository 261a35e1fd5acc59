"""A MinIO server of one's own: found, started, its credentials kept, and gone when it should be."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.minio import credentials, find_server, running
from infra.settings import Settings
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
