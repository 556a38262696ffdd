"""The same wrong peers against this node's receiver, DCMTK's storescp and Orthanc, as a table.

    python -m tests.faults.peers.side_by_side [--long] [--only node|storescp|Orthanc]

For each attack: the answer; `+` if the standard allows it, `-` if not; what memory (MB) and threads
the server keeps afterwards, if more than 5 MB or any; and whether a right sender is served then. A
server that has died is started again. --long adds 10,000 bare connects.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.peers.attacks import EVERY, LONG_FLOODS, Attack, new_uid
from tests.faults.peers.peer import Peer, data_set
from tests.faults.peers.servers import (
    Server,
    start_node,
    start_orthanc,
    start_storescp,
    wait_until_calm,
)

SERVERS: dict[str, Callable[[Path], Server]] = {
    "node": start_node,
    "storescp": start_storescp,
    "Orthanc": start_orthanc,
}
_NOTED_GROWTH_KB = 5_000
_CALM_SECONDS = 4.0


def honest(server: Server) -> bool:
    """Whether a right sender is served."""
    uid = new_uid()
    try:
        with Peer(server.port) as peer:
            return peer.associate().store(uid, data_set(uid)) == "status 0x0000"
    except OSError:
        return False


def result(attack: Attack, server: Server) -> str:
    """One cell of the table."""
    before = server.use()
    try:
        answer = attack.run(server.port)
    except OSError as error:
        answer = str(error) or type(error).__name__
    proper = re.fullmatch(attack.proper, answer) is not None
    after = wait_until_calm(server, before, seconds=_CALM_SECONDS)
    notes = []
    if not server.alive():
        notes.append("crashed")
    elif not honest(server):
        notes.append("then serves nobody")
    if after.resident_kb - before.resident_kb > _NOTED_GROWTH_KB:
        notes.append(f"keeps {(after.resident_kb - before.resident_kb) / 1000:.0f} MB")
    if after.threads > before.threads:
        notes.append(f"keeps {after.threads - before.threads} threads")
    said = {"silent": "hung", "closed": "closed without a word"}.get(answer, answer)
    return "; ".join([f"{'+' if proper else '-'} {said}", *notes])


def column(name: str, attacks: tuple[Attack, ...], folder: Path) -> dict[str, str]:
    """Every attack against one server."""
    cells = {}
    folder.mkdir()
    server = SERVERS[name](folder / "0")
    try:
        honest(server)
        for number, attack in enumerate(attacks, start=1):
            if not server.alive():
                server = SERVERS[name](folder / str(number))
            cells[attack.name] = result(attack, server)
            print(f"  {name}: {attack.name}: {cells[attack.name]}", flush=True)
    finally:
        server.stop()
    return cells


def main() -> None:
    """Run and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only", choices=SERVERS, action="append")
    options = parser.parse_args()
    attacks = EVERY + (LONG_FLOODS if options.long else ())
    names = options.only or list(SERVERS)
    with tempfile.TemporaryDirectory() as folder:
        table = {name: column(name, attacks, Path(folder) / name) for name in names}
    print("\n| attack | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for attack in attacks:
        print(f"| {attack.name} | " + " | ".join(table[name][attack.name] for name in names) + " |")


if __name__ == "__main__":
    main()
