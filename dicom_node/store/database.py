"""Opening the database: SQLite (WAL, full durability) or PostgreSQL, behind one small class."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from dicom_node.errors import ConfigError, Transient

# `Connection` is what every function of this room takes; stages name it through here.
__all__ = ["Connection", "Database", "DatabaseUnavailable", "insert_ignore", "open_database"]

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_TIMEOUT_MS = 10_000
# What libpq is told unless the URL says otherwise: a server whose host is gone is noticed within
# about a minute, where the system would wait for minutes to connect and hours for an answer.
_POSTGRESQL_PATIENCE = {
    "connect_timeout": "10",  # s
    "keepalives_idle": "20",  # s
    "keepalives_interval": "10",  # s
    "keepalives_count": "3",
    "tcp_user_timeout": "50000",  # ms
}
UPGRADE_LOCK = 0x6469636F  # any constant of ours; names the advisory lock on PostgreSQL


class DatabaseUnavailable(Transient):
    """The database did not answer or is locked; the same statement may succeed later."""


class Database:
    """One engine with two doors: `read()` and `begin()`; nothing else opens a transaction.

    `begin()` takes SQLite's write lock at once (BEGIN IMMEDIATE), so that a check and the write
    that depends on it cannot be separated by another process; on PostgreSQL the guarded
    statements (`UPDATE ... WHERE state = ...`) and row locks do the same.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a writing transaction; commits at the end, rolls back on an exception.

        Raises
        ------
        DatabaseUnavailable
            The server is gone or the lock was not to be had in time.
        """
        try:
            engine = self._engine.execution_options(node_write=True)
            with engine.begin() as connection:
                yield connection
        except (DBAPIError, NoConnectionFree) as error:
            raise _mapped(error) from error

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a reading transaction.

        Raises
        ------
        DatabaseUnavailable
            The server is gone.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (DBAPIError, NoConnectionFree) as error:
            raise _mapped(error) from error

    def upgrade(self) -> None:
        """Bring the schema to the newest revision (Alembic); harmless if it is.

        Raises
        ------
        ConfigError
            A newer version of the node has made or upgraded this database.
        DatabaseUnavailable
            The server is gone.
        """
        found, _ = self.schema_state()
        if not self.knows(found):
            raise ConfigError(
                f"database: its schema {found} is of a newer version of dicom_node; install that "
                "one, or restore the backup that was made under this one"
            )
        with self.begin() as connection:
            if not self.is_sqlite:  # processes that start together take turns, however long
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK}
                )
            command.upgrade(_alembic_config(connection), "head")

    def schema_state(self) -> tuple[str | None, str]:
        """Return the schema revision found in the database and the one that this code needs."""
        with self.read() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
        assert head is not None, "the package ships at least one migration"
        return found, head

    @property
    def place(self) -> str:
        """Where it is, without user and password."""
        url = self._engine.url
        if self.is_sqlite:
            return str(url.database)
        return f"{url.host}:{url.port or 5432}" if url.host else "PostgreSQL on this machine"

    def server_time(self) -> datetime | None:
        """What the server's clock shows; None: there is no server.

        Raises
        ------
        DatabaseUnavailable
            The server is gone.
        """
        if self.is_sqlite:
            return None
        with self.read() as connection:
            shown: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            return shown

    def knows(self, revision: str | None) -> bool:
        """Whether this code can work with a schema, or upgrade it; None: there is none yet."""
        script = ScriptDirectory(str(MIGRATIONS))
        return revision is None or revision in {known.revision for known in script.walk_revisions()}

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()


def insert_ignore(connection: Connection, table: Any) -> Any:
    """An INSERT that does nothing on a duplicate key, for the connection's engine."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()


def _mapped(error: DBAPIError | NoConnectionFree) -> Exception:
    if isinstance(error, NoConnectionFree):
        return DatabaseUnavailable("database: every connection of this process is in use")
    # OperationalError and InterfaceError: connection, lock, disk. Others are defects: keep them.
    if type(error).__name__ in {"OperationalError", "InterfaceError"}:
        return DatabaseUnavailable(f"database: {type(error.orig).__name__}")
    return error


def _alembic_config(connection: Connection) -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def open_database(url: str) -> Database:
    """Open the database at a SQLAlchemy URL; makes no connection and changes no schema.

    Raises
    ------
    ConfigError
        Not a URL, or an engine other than SQLite and PostgreSQL (psycopg).
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError("database_url: not a database URL") from error
    if parsed.drivername == "sqlite":
        return Database(_open_sqlite(url, parsed.database))
    if parsed.drivername in {"postgresql", "postgresql+psycopg"}:
        return Database(_open_postgresql(parsed))
    raise ConfigError(
        f"database_url: {parsed.drivername!r} is not supported; use sqlite or postgresql+psycopg"
    )


def _open_postgresql(url: URL) -> Engine:
    patient = url.set(drivername="postgresql+psycopg", query=_POSTGRESQL_PATIENCE | dict(url.query))
    engine = create_engine(patient, pool_pre_ping=True, pool_size=5, max_overflow=5)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        connection.commit()

    return engine


def _open_sqlite(url: str, path: str | None) -> Engine:
    if not path or path == ":memory:":
        raise ConfigError("database_url: SQLite needs a file, e.g. sqlite:////var/lib/node/node.db")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we emit BEGIN ourselves, below
        connection.execute(f"PRAGMA busy_timeout={LOCK_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("node_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
