"""Fixtures for all tests: a store, a cache and a Prefect home of their own, no network, and a real MinIO server."""

import atexit
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from infra import postgres as postgres_server
from infra.bucket import MinioStore
from infra.connection import connect
from infra.database import sqlite_url
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
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: threads that wait for each other's turn cost twice the time
    for name in ("CLERKFLOW_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


# These begin first, or one process is left with them in the end; most of their time they wait for others.
LONGEST = (
    "test_life.py",
    "test_system.py",
    "test_arrivals.py",
    "test_watchdog.py",
    "test_serve.py",
    "test_compressing.py",
    "test_parallel.py",
    "test_backfill.py",
    "test_publishing.py",
)
SERVERS = {"minio_program", "postgres", "prefect_api"}  # fixtures, those of other fixtures among them
KINDS = {"minio", "postgresql"}  # of a store and of a database, as the fixtures below name them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order; what needs a server is marked: `make test` leaves it out."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        asked = [value for value in item.callspec.params.values() if isinstance(value, str)] if hasattr(item, "callspec") else []
        if SERVERS.intersection(getattr(item, "fixturenames", ())) or KINDS.intersection(asked):
            item.add_marker("server")


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the store and the cache of the person who runs it."""
    monkeypatch.setenv("CLERKFLOW_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CLERKFLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session", autouse=True)
def ended_servers() -> Iterator[None]:
    """Servers that Prefect starts for tasks outside of a flow end while somebody still reads what they say of it."""
    yield
    if module := sys.modules.get("prefect.server.api.server"):
        for server in list(module.SubprocessASGIServer._instances.values()):
            server.stop()


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server: the one the environment names, else one of the session's own; in CI it is never left out."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres_server.running())
        except FileNotFoundError as error:
            if CI:
                raise
            pytest.skip(str(error))
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of each kind in turn; it is also the ledger's that the environment names."""
    with ExitStack() as stack:
        url = stack.enter_context(new_database(request.getfixturevalue("postgres"))) if request.param == "postgresql" else ""
        url = url or sqlite_url(tmp_path / "answers.sqlite")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("CLERKFLOW_LEDGER_URL", url)
        yield url


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """An empty database on a server, gone afterwards."""
    import psycopg

    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
        try:
            yield f"{server.rpartition('/')[0]}/{name}"
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[arg-type]


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
