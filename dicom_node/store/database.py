"""Opening the database: SQLite (WAL, full durability) or PostgreSQL, behind one small class."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from dicom_node.errors import ConfigError, Transient

# `Connection` is what every function of this room takes; stages name it through here.
__all__ = ["Connection", "Database", "DatabaseUnavailable", "open_database"]

MIGRATIONS = Path(__file__).parent / "migrations"
SQLITE_BUSY_TIMEOUT_MS = 10_000
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
        except DBAPIError as error:
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
        except DBAPIError as error:
            raise _mapped(error) from error

    def upgrade(self) -> None:
        """Bring the schema to the newest revision (Alembic); harmless if it is."""
        with self.begin() as connection:
            if not self.is_sqlite:  # processes that start together take turns
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

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()


def _mapped(error: DBAPIError) -> Exception:
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
        url = parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        return Database(create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=5))
    raise ConfigError(
        f"database_url: {parsed.drivername!r} is not supported; use sqlite or postgresql+psycopg"
    )


def _open_sqlite(url: str, path: str | None) -> Engine:
    if not path or path == ":memory:":
        raise ConfigError("database_url: SQLite needs a file, e.g. sqlite:////var/lib/node/node.db")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we emit BEGIN ourselves, below
        connection.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("node_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
