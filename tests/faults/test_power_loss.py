"""The disk on which a power cut is replayed keeps what was synced, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.powercut import Disk

HOME = "/h"
WRITTEN = ('openat(AT_FDCWD</>, "/h/inbox/a.part", O_WRONLY|O_CREAT|O_EXCL) = 5</h/inbox/a.part>',)
SYNCED = (*WRITTEN, "write(5</h/inbox/a.part>, ...) = 9", "fsync(5</h/inbox/a.part>) = 0")
NAMED = (*SYNCED, 'rename("/h/inbox/a.part", "/h/inbox/a.dcm") = 0')
KEPT = (*NAMED, "fsync(6</h/inbox>) = 0")


@pytest.mark.parametrize(
    ("calls", "survives"),
    [
        (NAMED, False),
        (KEPT, True),
        ((*KEPT, "write(5</h/inbox/a.dcm>, ...) = 9"), False),
        ((*KEPT, 'unlink("/h/inbox/a.dcm") = 0'), False),
        ((*KEPT, 'link("/h/inbox/a.dcm", "/h/b.dcm") = 0', 'unlink("/h/inbox/a.dcm") = 0'), False),
        (
            (
                *KEPT,
                'link("/h/inbox/a.dcm", "/h/b.dcm") = 0',
                "fsync(7</h>) = 0",
                'unlink("/h/inbox/a.dcm") = 0',
            ),
            True,
        ),
        (
            (
                *KEPT,
                'mkdir("/h/new", 0700) = 0',
                'link("/h/inbox/a.dcm", "/h/new/b.dcm") = 0',
                "fsync(7</h/new>) = 0",
                'unlink("/h/inbox/a.dcm") = 0',
            ),
            False,
        ),
    ],
)
def test_the_replayed_disk_is_mean(calls: tuple[str, ...], survives: bool) -> None:
    disk = Disk(Path(HOME))
    for call in calls[: len(NAMED)]:
        disk.apply(call)
    content = disk.content("/h/inbox/a.dcm")
    for call in calls[len(NAMED) :]:
        disk.apply(call)
    assert disk.survives(content) is survives
