"""Fixtures for all tests: a store, a cache and a Prefect home of their own, no network, and a real MinIO server."""

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.bucket import MinioStore
from infra.connection import connect
from infra.minio import environment_of, find_server, make_bucket, running
from infra.settings import Settings
from infra.store import LocalStore, Store

CI = os.environ.get("CI", "").lower() in ("1", "true")
HOME = tempfile.mkdtemp(prefix="clerkflow-prefect-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# Libraries read these when they are first imported, so a fixture would come too late.
os.environ |= {
    "PREFECT_HOME": HOME,
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # a first start migrates a database
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # plain functions of stages log, too
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the store and the cache of the person who runs it."""
    monkeypatch.setenv("CLERKFLOW_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CLERKFLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def minio_program() -> Path:
    """The server's program; in CI it is never left out."""
    try:
        return find_server(build=CI)
    except FileNotFoundError as error:
        if CI:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def minio(minio_program: Path) -> Iterator[Settings]:
    """A MinIO server: the one the environment names, else one of the session's own."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def safe_minio(minio_program: Path) -> Iterator[Settings]:
    """A server of the session's own with TLS and a key for encryption, whatever the environment names."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("CLERKFLOW_S3_")]:
                patch.delenv(name)
            server = stack.enter_context(running(tls=True, kms=True))
        yield server


@pytest.fixture
def bucket(minio: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[MinioStore]:
    """An empty bucket, which is also the store that the environment names."""
    name = f"test-{secrets.token_hex(8)}"
    make_bucket(minio, name)
    for variable, value in environment_of(minio, name).items():
        monkeypatch.setenv(variable, value)
    client, pool = connect(minio)
    yield MinioStore(client, pool, name)
    remove_bucket(minio, name)
    pool.clear()


def remove_bucket(server: Settings, name: str) -> None:
    """Remove a bucket with all versions of all its objects; nothing happens when there is none."""
    client, pool = connect(server)
    if client.bucket_exists(name):
        for found in client.list_objects(name, recursive=True, include_version=True):
            client.remove_object(name, found.object_name, found.version_id)
        client.remove_bucket(name)
    pool.clear()


@pytest.fixture(scope="module")
def shared_bucket(minio: Settings) -> Iterator[str]:
    """The name of an empty bucket for all tests of a file."""
    name = f"test-{secrets.token_hex(8)}"
    make_bucket(minio, name)
    yield name
    remove_bucket(minio, name)


@pytest.fixture
def new_bucket(minio: Settings) -> Iterator[str]:
    """The name of a bucket that is not there yet, and is gone afterwards."""
    name = f"test-{secrets.token_hex(8)}"
    yield name
    remove_bucket(minio, name)


@pytest.fixture(params=["folder", "minio"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store in turn, empty; it is also the one that the environment names."""
    return request.getfixturevalue("bucket") if request.param == "minio" else LocalStore(tmp_path / "store")
