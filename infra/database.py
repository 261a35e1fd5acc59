"""Databases: the URL of a SQLite file or a PostgreSQL server -> an engine; what it says when it fails holds no value and no secret."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.settings import Settings, settings

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine, Table

WAIT_SECONDS = 30  # for a connection, and for another one's lock
LOG_PAGES = 16_384  # 64 MiB that SQLite logs before it moves them into its file: keys come in no order, so a page changes often
MAY_PASS = ("08", "53", "57", "40", "55")  # classes of SQLSTATE: connection, resources, stopped, collision, lock


class DatabaseAwayError(OSError):
    """A database did not answer, or gave up; another attempt may succeed."""


def ledger_url(places: Settings | None = None) -> str:
    """The URL of the ledger of answers: as the machine's settings say, else a SQLite file beside the local store, or in the cache."""
    places = places or settings()
    if url := places.ledger_url.get_secret_value():
        return url
    if "://" in places.store:
        return sqlite_url(places.cache / "answers.sqlite")
    store = Path(places.store).expanduser().absolute()
    return sqlite_url(store.with_name(f"{store.name}-answers.sqlite"))


def sqlite_url(file: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{file.absolute()}"


@contextmanager
def connected(url: str, name: str) -> Iterator["Engine"]:
    """An engine of a database; its connections are closed afterwards.

    Args:
        name: of the environment variable that holds the URL, for messages: the URL itself is a secret.

    Raises:
        ValueError: it is no URL of a SQLite file or of PostgreSQL.
    """
    from sqlalchemy import create_engine

    target = _parsed(url, name)
    sqlite = target.get_backend_name() == "sqlite"
    if sqlite and target.database:
        _own_file(Path(target.database))
    options: dict[str, Any] = {"timeout": WAIT_SECONDS} if sqlite else {"connect_timeout": WAIT_SECONDS, "application_name": "clerkflow"}
    engine = create_engine(target, hide_parameters=True, pool_pre_ping=not sqlite, connect_args=options)
    if sqlite:
        _one_writer_at_a_time(engine)
    try:
        yield engine
    finally:
        engine.dispose()


def _parsed(url: str, name: str) -> "URL":
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    expected = f"{name} holds no URL such as postgresql://user:password@host/database or sqlite:////folder/file"
    try:
        target = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(expected) from None
    if target.get_backend_name() == "postgresql":
        return target.set(drivername="postgresql+psycopg")
    if target.drivername == "sqlite" and target.database:
        return target
    raise ValueError(expected)


def is_missing(url: str, name: str) -> bool:
    """Whether a database is a SQLite file that nobody has made yet.

    Raises:
        ValueError: it is no URL of a SQLite file or of PostgreSQL.
    """
    target = _parsed(url, name)
    return target.get_backend_name() == "sqlite" and not Path(target.database or "").exists()


def _own_file(file: Path) -> None:
    """The file is there, for its owner's eyes only: answers are a company's data."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.touch(mode=0o600)


def _one_writer_at_a_time(engine: "Engine") -> None:
    """Readers go on while one writes (WAL); who means to write waits for its turn at once, for later it would be refused.

    The driver's own way would begin a transaction at the first change only: docs.sqlalchemy.org, "pysqlite, transactional DDL".
    """
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {WAIT_SECONDS * 1000}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")

    @event.listens_for(engine, "begin")
    def begin(connection: "Connection") -> None:
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: "Engine") -> Iterator["Connection"]:
    """A connection that changes nothing.

    Raises:
        DatabaseAwayError: the database did not answer.
        ValueError: it refused what was asked.
    """
    with _told(engine), engine.connect() as connection:
        yield connection.execution_options(reads=True)


@contextmanager
def writing(engine: "Engine") -> Iterator["Connection"]:
    """A transaction: all that is written in the body, or nothing. Raises as `reading`."""
    with _told(engine), engine.begin() as connection:
        yield connection


@contextmanager
def _told(engine: "Engine") -> Iterator[None]:
    """A database's fault in words of ours: its own may repeat values, and the URL holds a password."""
    from sqlalchemy.exc import DBAPIError, NoSuchTableError, TimeoutError

    where = address(engine.url)
    try:
        yield
    except TimeoutError:
        raise DatabaseAwayError(f"{where}: no connection was free within {WAIT_SECONDS} s") from None
    except NoSuchTableError as error:
        raise ValueError(f"{where} has no table or view {str(error)!r}") from None
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        fault = f"{type(error.orig).__name__}{f' (SQLSTATE {state})' if state else ''}"
        if _may_pass(error, state):
            raise DatabaseAwayError(f"{where} did not answer, or gave up: {fault}; run it again, what was done is kept") from None
        raise ValueError(f"{where} refused: {fault}") from None


def _may_pass(error: Any, state: str | None) -> bool:
    from sqlalchemy.exc import InterfaceError, OperationalError

    if error.connection_invalidated or state is not None:
        return error.connection_invalidated or state[:2] in MAY_PASS  # type: ignore[index,no-any-return]
    return isinstance(error, OperationalError | InterfaceError)


def address(url: "URL") -> str:
    """A database as people may see it: no user, no password, no options."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{url.database}"
    return f"{url.get_backend_name()}://{url.host or 'local'}{f':{url.port}' if url.port else ''}/{url.database or ''}"


def upsert(connection: "Connection", table: "Table") -> Any:
    """INSERT INTO a table, with ON CONFLICT as both databases write it."""
    from sqlalchemy.dialects import postgresql, sqlite

    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
