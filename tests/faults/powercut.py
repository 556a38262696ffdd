"""What a power cut would leave: system calls replayed on the meanest disk that POSIX allows.

A name that was made (created, renamed to, linked) is gone unless its folder was synced since; a
name that was taken away (unlinked, renamed from) is gone at once; bytes are gone unless their file
was synced after the last write. Real file systems keep more.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.harness import tool, wait_for

CALLS = (
    "openat,creat,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,renameat,renameat2,"
    "link,linkat,unlink,unlinkat,mkdir,mkdirat,sendto,sendmsg"
)
_LINE = re.compile(r"^(\d+) +(.*)$")
_DESCRIPTOR = re.compile(r"^\w+\(\d+<([^>]*)>")
_PATHS = re.compile(r'"((?:[^"\\]|\\.)*)"')
_P_DATA_TF = '"\\4'  # PS3.8 9.3.5, as strace prints the first byte that is sent


@contextmanager
def traced(pids: Sequence[int], log: Path) -> Iterator[None]:
    """Trace running processes and their threads into one log until the block ends."""
    errors = log.with_suffix(".err")
    with errors.open("w") as stderr:
        tracer = subprocess.Popen(
            [tool("strace"), "-f", "-yy", "-s", "8", "-e", f"trace={CALLS}", "-o", str(log)]
            + [word for pid in pids for word in ("-p", str(pid))],
            stderr=stderr,
        )
        try:
            wait_for(
                lambda: all(f"Process {pid} attached" in errors.read_text() for pid in pids),
                20,
                "strace attached",
            )
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(20)


def calls_of(log: str) -> Iterator[tuple[str, str]]:
    """Threads and their system calls in the order in which they take effect.

    What takes away or leaves the machine counts from its start, what makes durable from its end.
    """
    begun: dict[str, str] = {}
    for line in log.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread, call = match.groups()
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
            if call.startswith(("unlink", "send", "write", "pwrite")):
                yield thread, begun[thread] + "= 0"
        elif "resumed>" in call:
            start = begun.pop(thread, "")
            if not start.startswith(("unlink", "send", "write", "pwrite")):
                yield thread, start + call.split("resumed>", 1)[1]
        elif not call.startswith(("---", "+++")):
            yield thread, call


@dataclass(eq=False, slots=True)
class Content:
    """The bytes behind one or more names."""

    synced: bool = False
    names: set[str] = field(default_factory=set)
    """Names that would survive."""


class Disk:
    """Names and bytes under one folder; what was there before the trace counts as durable."""

    def __init__(self, home: Path) -> None:
        self._home = str(home)
        self._now: dict[str, Content] = {}

    def survives(self, content: Content) -> bool:
        """Whether the bytes could be read after a power cut at this moment."""
        return content.synced and any(self._folders_survive(name) for name in content.names)

    def content(self, name: str) -> Content:
        """The bytes that a name leads to; unknown ones are older than the trace."""
        return self._now.setdefault(name, Content(synced=True, names={name}))

    def names(self) -> dict[str, Content]:
        return dict(self._now)

    def _folders_survive(self, name: str) -> bool:
        folder = name.rpartition("/")[0]
        while folder.startswith(self._home + "/"):
            made = self._now.get(folder)
            if made is not None and folder not in made.names:
                return False
            folder = folder.rpartition("/")[0]
        return True

    def apply(self, call: str) -> None:
        """Do what a system call does to the disk."""
        name, _, rest = call.partition("(")
        if re.search(r"= -1 E\w+", rest):
            return
        paths = [path for path in _PATHS.findall(rest) if path.startswith(self._home)]
        described = _DESCRIPTOR.match(call)
        on = described[1] if described and described[1].startswith(self._home) else None
        if name in {"openat", "creat"} and paths and ("O_CREAT" in rest or name == "creat"):
            if paths[0] not in self._now and not self._older(paths[0], rest):
                self._now[paths[0]] = Content()
        elif name.startswith("mkdir") and paths:
            self._now[paths[0]] = Content(synced=True)
        elif name.startswith("rename") and len(paths) == 2:
            self._now[paths[1]] = moved = self.content(paths[0])
            self._take_away(paths[0])
            moved.names.discard(paths[1])
        elif name.startswith("link") and len(paths) == 2:
            self._now[paths[1]] = self.content(paths[0])
        elif name.startswith("unlink") and paths:
            self._take_away(paths[0])
        elif on is not None:
            self._on_descriptor(name, on)

    def _older(self, path: str, rest: str) -> bool:
        """Whether a file that may be created was there before: opened without O_EXCL or a .part."""
        return "O_EXCL" not in rest and not path.endswith(".part")

    def _take_away(self, name: str) -> None:
        self.content(name).names.discard(name)
        del self._now[name]

    def _on_descriptor(self, call: str, name: str) -> None:
        if call in {"write", "pwrite64", "writev", "ftruncate"}:
            self.content(name).synced = False
        elif call in {"fsync", "fdatasync"}:
            self.content(name).synced = True
            for inside, content in self._now.items():
                if inside.rpartition("/")[0] == name:
                    content.names.add(inside)


@dataclass(slots=True)
class Findings:
    """What a replay saw."""

    acknowledged: int = 0
    moments: int = 0
    lost: list[str] = field(default_factory=list)
    commits: int = 0
    named_before_durable: list[str] = field(default_factory=list)
    taken_before_committed: list[str] = field(default_factory=list)
    taken: int = 0


class Replay:
    """Cuts the power after every system call and sees what was promised and is not there.

    - Every object whose C-STORE was answered is there, in the inbox or in the store.
    - At every commit (sync of SQLite's write-ahead log), each finished file of predictions,
      results and instances is there: a row never names what could vanish.
    - An inbox name goes only after whoever linked the file into the store has committed since.
    """

    def __init__(self, home: Path, port: int) -> None:
        self.found = Findings()
        self._disk = Disk(home)
        self._inbox, self._store = f"{home}/inbox/", f"{home}/store/"
        self._wal = f"<{home}/node.db-wal>"
        self._answer = f":{port}->"
        self._received: list[tuple[str, Content]] = []
        self._promised: list[tuple[str, Content]] = []
        self._uncommitted: dict[str, set[Content]] = {}

    def step(self, thread: str, call: str) -> None:
        """Do one system call, then cut the power."""
        moved = '"' + self._inbox in call and ".dcm" in call
        paths = _PATHS.findall(call)
        if moved and call.startswith("unlink"):
            self._taken(call, self._disk.content(paths[0]))
        self._disk.apply(call)
        if moved and call.startswith("rename"):
            self._received.append((paths[1], self._disk.content(paths[1])))
        elif moved and call.startswith("link"):
            self._uncommitted.setdefault(thread, set()).add(self._disk.content(paths[0]))
        elif call.startswith("send") and self._answer in call and _P_DATA_TF in call:
            self._promised = list(self._received)
            self.found.acknowledged = len(self._promised)
        elif call.startswith(("fsync", "fdatasync")) and self._wal in call:
            self._committed(thread)
        self.found.moments += 1
        self.found.lost += [
            f"{name} after {call}"
            for name, content in self._promised
            if not self._disk.survives(content)
        ]

    def _taken(self, call: str, content: Content) -> None:
        self.found.taken += 1
        if any(content in waiting for waiting in self._uncommitted.values()):
            self.found.taken_before_committed.append(call)

    def _committed(self, thread: str) -> None:
        self._uncommitted.pop(thread, None)
        self.found.commits += 1
        self.found.named_before_durable += [
            name
            for name, content in self._disk.names().items()
            if name.startswith(self._store)
            and name.endswith((".dcm", ".npz", ".png"))
            and not self._disk.survives(content)
        ]


def replay(log: str, home: Path, port: int) -> Findings:
    """Replay a trace of the node whose home and DICOM port these are."""
    power = Replay(home, port)
    for thread, call in calls_of(log):
        power.step(thread, call)
    return power.found
