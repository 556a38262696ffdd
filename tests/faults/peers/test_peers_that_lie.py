"""Peers that break the protocol: each gets the right answer, others are served, nothing grows."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tests.e2e.harness import storescu
from tests.faults.peers.attacks import (
    BEFORE_AN_ASSOCIATION,
    FLOODS,
    INSIDE_AN_ASSOCIATION,
    POISON,
    Attack,
    new_uid,
)
from tests.faults.peers.peer import COMMAND, LAST, Peer, c_store_rq, data_set, p_data, pdv
from tests.faults.peers.servers import Server, start_node, wait_until_calm

# 200 threads at once leave their heaps behind, once; a leak of one PDU an attack would be more.
_GROWTH_KB = 64_000
_WARM_UP = 3
CT = Path(get_testdata_file("CT_small.dcm"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A receiver with 2 s of patience that has been used before; at the end nothing has grown."""
    folder = tmp_path_factory.mktemp("liars")
    server = start_node(folder)
    for _ in range(_WARM_UP):
        storescu(server.port, [CT])
    before = wait_until_calm(server, server.use())
    yield server
    after = wait_until_calm(server, before)
    server.stop()
    assert after.threads <= before.threads
    assert after.descriptors <= before.descriptors
    assert after.resident_kb - before.resident_kb < _GROWTH_KB
    assert "Traceback" not in (folder / "log").read_text()


def honest(server: Server) -> str:
    """A right sender's last answer."""
    uid = new_uid()
    with Peer(server.port) as peer:
        return peer.associate().store(uid, data_set(uid))


def stored_by_storescu(server: Server) -> bool:
    """Whether DCMTK's sender got its image in; a full house may send it away for now."""
    try:
        storescu(server.port, [CT])
    except subprocess.CalledProcessError as error:
        if b"Local Limit Exceeded" not in error.stderr:
            raise
        return False
    return True


@pytest.mark.parametrize(
    "attack", [*BEFORE_AN_ASSOCIATION, *INSIDE_AN_ASSOCIATION, *POISON], ids=lambda a: a.name
)
def test_the_peer_gets_the_right_answer_and_the_next_one_is_served(
    attack: Attack, node: Server
) -> None:
    answer = attack.run(node.port)
    assert re.fullmatch(attack.ours or attack.proper, answer), answer
    assert honest(node) == "status 0x0000"


@pytest.mark.dcmtk
@pytest.mark.parametrize("attack", FLOODS, ids=lambda a: a.name)
def test_storescu_is_served_during_a_flood(attack: Attack, node: Server) -> None:
    answers: list[str] = []
    flood = threading.Thread(target=lambda: answers.append(attack.run(node.port)))
    flood.start()
    served = 0
    while flood.is_alive() or not served:
        served += stored_by_storescu(node)
    flood.join()
    assert re.fullmatch(attack.ours or attack.proper, answers[0]), answers[0]


def test_an_object_beyond_the_limit_is_refused_and_the_association_goes_on(node: Server) -> None:
    uid = new_uid()
    with Peer(node.port, seconds=60) as peer:
        peer.associate()
        assert peer.store(new_uid(), bytes(65 << 20)) == "status 0xA700"
        assert peer.store(uid, data_set(uid)) == "status 0x0000"
        assert peer.release() == "RELEASED"


def test_a_large_object_does_not_stay_in_memory(node: Server) -> None:
    """60 MB in 16 kB pieces, then waiting for the last fragment: they lie in a file."""
    uid, before = new_uid(), node.use().resident_kb
    content = data_set(uid)[:-8192] + bytes(60 << 20)
    with Peer(node.port, seconds=60) as peer:
        peer.associate().send(p_data(pdv(1, COMMAND | LAST, c_store_rq(uid))))
        for start in range(0, len(content), 16_000):
            peer.send(p_data(pdv(1, 0, content[start : start + 16_000])))
        during = node.use().resident_kb
        assert peer.ask(p_data(pdv(1, LAST, b"\0\0"))) == "status 0x0000"
    assert during - before < 30_000
