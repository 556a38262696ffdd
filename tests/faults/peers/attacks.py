"""What a wrong or hostile peer does, and which answers the standard allows.

Each attack talks to any C-STORE SCP on 127.0.0.1 and returns the answer in words (`Peer`).
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count

from tests.faults.peers.peer import (
    COMMAND,
    CR_IMAGE,
    LAST,
    MR_IMAGE,
    ROOT,
    Peer,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    context,
    data_set,
    element,
    item,
    nested_sequences,
    p_data,
    pdu,
    pdv,
    zip_bomb,
)

_numbers = count(int(time.time()) % 1_000_000 * 1000)
ABORTED = r"ABORT \d/\d"
REFUSED = r"status 0x(?!0000)[0-9A-F]{4}|ABORT \d/\d"


def new_uid() -> str:
    """A SOP Instance UID that has not been used before."""
    return f"{ROOT}.{next(_numbers)}"


@dataclass(frozen=True)
class Attack:
    """One lie.

    Attributes
    ----------
    run
        Given a port, does it and returns the answer.
    proper
        Regular expression over the answers that are right for any SCP.
    ours
        The answer of this node; None: `proper`.
    """

    name: str
    run: Callable[[int], str]
    proper: str
    ours: str | None = None


def _raw(*contents: bytes) -> Callable[[int], str]:
    """Send this before any association."""

    def run(port: int) -> str:
        with Peer(port) as peer:
            return peer.ask(*contents)

    return run


def _inside(*contents: bytes) -> Callable[[int], str]:
    """Send this on an association."""

    def run(port: int) -> str:
        with Peer(port) as peer:
            return peer.associate().ask(*contents)

    return run


def _truncated_request(port: int) -> str:
    with Peer(port) as peer:
        peer.send(associate_rq()[:100])
        peer.connection.shutdown(1)
        return peer.answer()


def _abort_within_data(port: int) -> str:
    with Peer(port) as peer:
        peer.associate().send(_command() + p_data(pdv(1, 0, bytes(5000)), length=16_000))
        peer.send(pdu(0x07, bytes(4)))
        peer.connection.shutdown(1)
        return peer.answer()


def _over_the_announced_size(port: int) -> str:
    with Peer(port) as peer:
        peer.associate().send(_command())
        return peer.ask(p_data(pdv(1, LAST, bytes(3 << 20))))


def _store(content: Callable[[str], bytes], *, number: int) -> Callable[[int], str]:
    """Store an object that is wrong inside."""

    def run(port: int) -> str:
        uid = new_uid()
        wrong = content(uid)
        with Peer(port, seconds=60) as peer:
            return peer.associate().store(uid, wrong, number=number, sop_class=CR_IMAGE)

    return run


def _store_as(instance: str, **request: object) -> Callable[[int], str]:
    """Store an object under a command set that is wrong, and then a right one."""

    def run(port: int) -> str:
        with Peer(port) as peer:
            uid = new_uid()
            wrong = peer.associate().store(instance, data_set(uid), **request)
            if wrong.startswith("status") and peer.store(uid, data_set(uid)) != "status 0x0000":
                return f"{wrong}, then the next object is refused, too"
            return wrong

    return run


def _stall(port: int) -> str:
    """Say that 16 kB come, send a few, and wait."""
    with Peer(port) as peer:
        return peer.associate().ask(_command(), p_data(pdv(1, 0, bytes(50)), length=16_000))


def _drip(port: int) -> str:
    """Say that 16 kB come and send a byte now and then, so that no silence is ever long."""
    with Peer(port) as peer:
        peer.associate().send(_command() + p_data(pdv(1, 0, bytes(50)), length=16_000))
        peer.connection.settimeout(0.2)
        deadline = time.monotonic() + 20
        answer = "silent"
        while answer == "silent" and time.monotonic() < deadline:
            peer.send(b"\0")
            answer = peer.answer()
        return answer


def _flood_of_requests(port: int) -> str:
    """Send 400 objects of 256 kB without waiting for an answer; the last answer counts."""
    content = bytes(256 << 10)
    with Peer(port, seconds=60) as peer:
        peer.associate()
        peer.connection.settimeout(2)
        sent = 0
        with suppress(OSError):
            for _ in range(400):
                peer.connection.sendall(_command(new_uid()) + p_data(pdv(1, LAST, content)))
                sent += 1
        peer.connection.settimeout(60)
        answers = [peer.answer() for _ in range(sent)]
        return answers[-1] if answers else "closed"


def _flood_of_echoes(port: int) -> str:
    """Ask 20,000 times for an echo and read no answer for a while; then close."""
    echo = p_data(pdv(3, COMMAND | LAST, c_echo_rq()))
    with Peer(port, seconds=2) as peer:
        peer.associate()
        with suppress(OSError):
            peer.connection.sendall(echo * 20_000)
        return peer.answer()


def bare_connects(number: int) -> Callable[[int], str]:
    """What a load balancer does to see whether a port is alive."""

    def run(port: int) -> str:
        for _ in range(number):
            with Peer(port):
                pass
        with Peer(port) as peer:
            return peer.associate().release()

    return run


def silent_connections(number: int) -> Callable[[int], str]:
    """Connect, send one byte of a request, and one more each second; an honest caller after it."""

    def run(port: int) -> str:
        request = associate_rq()
        with ExitStack() as stack:
            peers = [stack.enter_context(Peer(port)) for _ in range(number)]
            for second in range(3):
                for peer in peers:
                    peer.send(request[second : second + 1])
                time.sleep(1)
            with Peer(port) as honest:
                return honest.associate().release()

    return run


def parallel_associations(number: int) -> Callable[[int], str]:
    """Ask for so many associations at once: each is accepted or rejected, none is left waiting."""

    def run(port: int) -> str:
        with ExitStack() as stack:
            peers = []
            for _ in range(number):
                peers.append(stack.enter_context(Peer(port, seconds=30)))
                peers[-1].send(associate_rq())  # at once: the node does not wait long for it
            answers = {re.sub(r" .*", "", peer.answer()) for peer in peers}
            return "+".join(sorted(answers))

    return run


def _command(instance: str = f"{ROOT}.1", **request: int) -> bytes:
    return p_data(pdv(1, COMMAND | LAST, c_store_rq(instance, **request)))


_EMPTY_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
_ENDLESS_SEQUENCE = element(0x00291010, b"SQ", b"", length=0xFFFFFFFF)
_DATA = p_data(pdv(1, LAST, b"\x08\0\x60\0CS\x02\0CT"))

BEFORE_AN_ASSOCIATION = (
    Attack("unknown PDU type", _raw(pdu(0x99, bytes(8))), ABORTED),
    Attack("P-DATA-TF before an association", _raw(_command()), ABORTED),
    Attack("A-RELEASE-RQ before an association", _raw(pdu(0x05, bytes(4))), ABORTED),
    Attack("request that claims 4 GB", _raw(pdu(0x01, bytes(80), length=0xFFFFFFF0)), ABORTED),
    Attack("request of length 0", _raw(pdu(0x01, b"")), ABORTED),
    Attack("request cut off", _truncated_request, "closed"),
    Attack(
        "item longer than its request",
        _raw(pdu(0x01, associate_rq()[6:74] + item(0x10, b"1.2", length=60_000))),
        rf"{ABORTED}|RJ .*",
        ABORTED,
    ),
    Attack(
        "UID of 100 characters in a request",
        _raw(associate_rq(contexts=context(1, "1." + "2" * 98, ["1.2.840.10008.1.2"]))),
        rf"{ABORTED}|RJ .*|AC",
    ),
    Attack(
        "AE title of control characters",
        _raw(associate_rq(calling=b"\x01\xff\n")),
        "RJ .*|AC|ABORT .*",
    ),
    Attack(
        "context without abstract syntax",
        _raw(associate_rq(contexts=item(0x20, b"\x01\0\0\0" + item(0x40, b"1.2.840.10008.1.2")))),
        rf"{ABORTED}|RJ .*|AC",
        ABORTED,
    ),
    Attack("protocol version 2", _raw(associate_rq(version=2)), "RJ 1/2/2"),
    Attack("HTTP", _raw(b"GET / HTTP/1.0\r\n\r\n"), rf"{ABORTED}|closed"),
)
INSIDE_AN_ASSOCIATION = (
    Attack("second A-ASSOCIATE-RQ", _inside(associate_rq()), ABORTED, "ABORT 2/2"),
    Attack("unknown PDU type, associated", _inside(pdu(0x99, bytes(8))), ABORTED, "ABORT 2/1"),
    Attack("PDU of length 0", _inside(pdu(0x04, b"")), ABORTED, "ABORT 2/6"),
    Attack(
        "P-DATA-TF that claims 4 GB",
        _inside(pdu(0x04, bytes(99), length=0xFFFFFFF0)),
        ABORTED,
        "ABORT 2/6",
    ),
    Attack(
        "A-RELEASE-RQ of 1 MB",
        _inside(pdu(0x05, bytes(1 << 20))),
        rf"{ABORTED}|RELEASED",
        "ABORT 2/6",
    ),
    Attack("P-DATA-TF over the announced size", _over_the_announced_size, ABORTED, "ABORT 2/6"),
    Attack(
        "value longer than its PDU",
        _inside(p_data(pdv(1, 3, bytes(99), length=9999))),
        ABORTED,
        "ABORT 2/6",
    ),
    Attack("value of length 0", _inside(pdu(0x04, bytes(5))), ABORTED, "ABORT 2/6"),
    Attack("value of length 1", _inside(pdu(0x04, b"\0\0\0\x01\x01")), ABORTED, "ABORT 2/6"),
    Attack(
        "context that was not accepted",
        _inside(p_data(pdv(99, 3, c_echo_rq()))),
        ABORTED,
        "ABORT 2/6",
    ),
    Attack("data set before its command", _inside(_DATA), ABORTED, "ABORT 2/5"),
    Attack(
        "fragment under another context",
        _inside(_command(), p_data(pdv(3, LAST, bytes(9)))),
        ABORTED,
        "ABORT 2/6",
    ),
    Attack(
        "second command within a data set", _inside(_command(), _command()), ABORTED, "ABORT 2/5"
    ),
    Attack(
        "endless command set",
        _inside(*[p_data(pdv(1, COMMAND, bytes(8000)))] * 100),
        ABORTED,
        "ABORT 2/6",
    ),
    Attack("command set of noise", _inside(p_data(pdv(1, 3, b"\xff" * 99))), ABORTED, "ABORT 2/6"),
    Attack(
        "command that does not exist",
        _inside(
            p_data(
                pdv(1, 3, c_store_rq(ROOT).replace(b"\x02\0\0\0\x01\0", b"\x02\0\0\0\x77\x77", 1))
            )
        ),
        ABORTED,
        "ABORT 2/6",
    ),
    Attack("stalls within a PDU", _stall, ABORTED, "ABORT 2/0"),
    Attack("a byte now and then", _drip, ABORTED, "ABORT 2/0"),
    Attack("abort within a PDU", _abort_within_data, "closed|ABORT .*", "closed"),
    Attack(
        "C-STORE without data set",
        _inside(_command(data_set_type=0x0101)),
        REFUSED,
        "status 0xC000",
    ),
    Attack(
        "C-STORE with an empty data set",
        _inside(_command(), p_data(pdv(1, LAST, b""))),
        REFUSED,
        "status 0xC000",
    ),
    Attack(
        "class of another context",
        _store_as(new_uid(), sop_class=MR_IMAGE),
        REFUSED,
        "status 0xA900",
    ),
    Attack("private class", _store_as(new_uid(), sop_class="1.2.3.4.5"), REFUSED, "status 0xA900"),
    Attack("UID of 65 characters", _store_as("1." + "2" * 63), REFUSED, "status 0x0117"),
    Attack("UID that is a path", _store_as("../../../../tmp/liar"), REFUSED, "status 0x0117"),
    Attack("UID that is empty", _store_as(""), REFUSED, "status 0x0117"),
    Attack("UID of NULs", _store_as("1.2\0\0.3"), REFUSED, "status 0x0117"),
)
FLOODS = (
    Attack("echoes that nobody reads", _flood_of_echoes, "status 0x0000|closed"),
    Attack(
        "400 objects without waiting",
        _flood_of_requests,
        "status 0x0000|closed|ABORT .*",
        "status 0x0000",
    ),
    Attack("300 bare connects", bare_connects(300), "RELEASED"),
    Attack("200 connections, a byte a second", silent_connections(200), "RELEASED"),
    Attack("200 associations at once", parallel_associations(200), r"AC(\+RJ)?"),
)


def _with(before_pixels: bytes) -> Callable[[str], bytes]:
    return lambda uid: data_set(uid, sop_class=CR_IMAGE, before_pixels=before_pixels)


# Radiographs that are wrong inside: context to send them in, data set for a SOP Instance UID.
POISONOUS: dict[str, tuple[int, Callable[[str], bytes]]] = {
    "data set of another instance": (7, lambda uid: data_set(f"{uid}.9", sop_class=CR_IMAGE)),
    "data set of another class": (7, data_set),
    "private and unknown VRs": (
        7,
        _with(element(0x00291010, b"ZZ", b"x") + element(0x00291011, b"UN", b"y" * 99)),
    ),
    "1,000 nested sequences": (7, _with(nested_sequences(1000, explicit_length=False))),
    "1,000 nested sequences of explicit length": (
        7,
        _with(nested_sequences(1000, explicit_length=True)),
    ),
    "element that claims 4 GB": (7, _with(element(0x00291010, b"OB", b"", length=0xFFFFFFF0))),
    "200,000 empty items": (7, _with(element(0x00291010, b"SQ", _EMPTY_ITEM * 200_000))),
    "1,000,000 empty items": (7, _with(_ENDLESS_SEQUENCE + _EMPTY_ITEM * 1_000_000)),
    "zip bomb, 2 GB from 2 MB": (9, lambda uid: zip_bomb(uid, 2 << 30)),
}
# Stored as sent or refused; what becomes of them behind the SCP is tested with the whole node.
POISON = tuple(
    Attack(name, _store(content, number=number), r"status .*|ABORT .*", "status 0x0000")
    for name, (number, content) in POISONOUS.items()
)
LONG_FLOODS = (Attack("10,000 bare connects", bare_connects(10_000), "RELEASED"),)
EVERY = (*BEFORE_AN_ASSOCIATION, *INSIDE_AN_ASSOCIATION, *FLOODS, *POISON)
