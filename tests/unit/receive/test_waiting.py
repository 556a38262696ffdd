"""Connections without an association."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from dicom_node.receive import waiting
from dicom_node.receive.waiting import WaitingRoom, read_request
from tests.faults.peers.peer import associate_rq

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair() for _ in range(3)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


def hung_up(peer: socket.socket) -> bool:
    peer.settimeout(0.05)
    try:
        return peer.recv(1) == b""
    except TimeoutError:
        return False


def test_who_waits_longest_goes_when_one_more_comes(
    pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_GRACE_SECONDS", 0.0)
    room = WaitingRoom(2)
    for ours, _ in pairs:
        room.enter(ours)
        time.sleep(0.001)
    assert [hung_up(peer) for _, peer in pairs] == [True, False, False]
    room.leave(pairs[0][0])
    room.leave(pairs[1][0])
    room.close()
    assert [hung_up(peer) for _, peer in pairs] == [True, False, True]


def test_a_crowd_of_newcomers_is_left_alone(pairs: list[Pair]) -> None:
    room = WaitingRoom(1)
    for ours, _ in pairs:
        room.enter(ours)
    assert not any(hung_up(peer) for _, peer in pairs)


def test_a_whole_request_is_returned_as_it_came(pairs: list[Pair]) -> None:
    ours, peer = pairs[0]
    peer.sendall(associate_rq() + b"more")
    assert read_request(ours, 1) == associate_rq()
    assert ours.recv(9) == b"more"


def test_a_request_that_does_not_arrive_in_time_gets_no_answer(pairs: list[Pair]) -> None:
    ours, peer = pairs[0]
    peer.sendall(associate_rq()[:50])
    started = time.monotonic()
    assert read_request(ours, 0.2) is None
    assert 0.1 < time.monotonic() - started < 1
    assert not hung_up(peer)
