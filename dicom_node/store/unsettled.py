"""Claims of workers that were told to stop while the database was away.

Nobody died of such a job, and it must not count as an attempt. The worker leaves a note, and
whoever starts next in the same home gives the claim back. Where another node is quicker and finds
the lease ended, one attempt counts all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from dicom_node.store.database import Database
from dicom_node.store.files import fsync_folder, write_durably
from dicom_node.store.jobs import release_claim

FOLDER: Final = "unsettled"
"""Below home: one empty file a claim, named by its token."""
_log = structlog.get_logger()


def leave_note(home: Path, token: str) -> None:
    """Write down that a claim was held by a worker that ends in good order.

    Harmless where the claim was settled all the same. A disk that does not take it is logged.
    """
    try:
        write_durably(home / FOLDER / token, b"")
    except OSError as error:
        _log.warning(
            "claim not noted; its attempt will count",
            action="claim_not_noted",
            reason=f"errno {error.errno}",
        )


def give_back(home: Path, database: Database, clock: Callable[[], datetime]) -> int:
    """Give back the claims that notes name; called before anybody looks for expired leases.

    Returns
    -------
    int
        How many notes there were.

    Raises
    ------
    DatabaseUnavailable
        Notes are left for the next start.
    """
    folder = home / FOLDER
    notes = [path for path in folder.iterdir() if not path.suffix] if folder.is_dir() else []
    for path in notes:
        with database.begin() as connection:
            release_claim(connection, path.name, now=clock())
        path.unlink(missing_ok=True)
    if notes:
        fsync_folder(folder)
        _log.info("claims given back", action="claims_given_back", count=len(notes))
    return len(notes)
