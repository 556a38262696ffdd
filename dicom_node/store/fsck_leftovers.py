"""What processes that died left lying around."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dicom_node.store.files import ROOMS
from dicom_node.store.fsck import GRACE, Problem, Survey
from dicom_node.store.inbox import Inbox, scan, unowned_folders


def check_half_written(survey: Survey) -> Iterator[Problem]:
    """Temporary files that nobody will finish, wherever the node writes."""
    folders = [*(survey.store_dir / room for room in ROOMS), survey.commitment_dir]
    found = [path for folder in folders for path in folder.rglob("*.part")]
    # Large objects on their way in; they have a name where the file system needs one for a moment.
    found += [path for path in survey.inbox_dir.glob("tmp*") if path.is_file()]
    for path in sorted(found):
        if survey.is_old(path):
            yield Problem(
                "part",
                "a half-written file, never named by any row",
                "--repair removes it",
                _shown(survey, path),
                repair=partial(_remove, path),
            )


def _shown(survey: Survey, path: Path) -> str:
    """Its path relative to the store, else to the home folder."""
    below = survey.store_dir if path.is_relative_to(survey.store_dir) else survey.inbox_dir.parent
    return path.relative_to(below).as_posix()


def _remove(path: Path) -> str:
    path.unlink(missing_ok=True)
    return "removed"


def check_inbox(survey: Survey) -> Iterator[Problem]:
    """Folders of receivers that died, and images that nobody assembles."""
    for folder in unowned_folders(survey.inbox_dir):
        yield Problem(
            "unowned_inbox",
            "a receiver died and left an association's folder",
            "--repair marks it as aborted; its images are assembled either way",
            folder.name,
            repair=partial(_mark_orphans, survey),
        )
    for listing in scan(survey.inbox_dir):
        if any(survey.is_old(path) for path in listing.files):
            hours = GRACE.total_seconds() / 3600
            what = f"images lie in the inbox for more than {hours:g} h: does `assemble` run?"
            remedy = "start it, and look at its log"
            yield Problem("waiting_in_inbox", what, remedy, listing.folder.name)


def _mark_orphans(survey: Survey) -> str:
    Inbox(survey.inbox_dir).mark_orphans()
    return "marked as aborted"
