"""Which digests of configuration and models the audit trail has told of last."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

_FILE = "seen.json"


class Seen:
    """A small file beside the trail, not part of it: without it every digest is told again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE

    def exchange(self, name: str, digest: str) -> str | None:
        """Remember the digest of `name`; returns the one before.

        Raises
        ------
        OSError
            The file cannot be read or written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            known = _parse(os.read(file, os.fstat(file).st_size))
            before = known.get(name)
            if before != digest:
                content = json.dumps(known | {name: digest}, indent=1).encode()
                os.pwrite(file, content, 0)
                os.ftruncate(file, len(content))
            return before
        finally:
            os.close(file)


def _parse(content: bytes) -> dict[str, str]:
    try:
        known = json.loads(content or b"{}")
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}
