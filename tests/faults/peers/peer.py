"""A DICOM peer on a raw socket: every PDU is built by hand, so that it can be wrong."""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
ROOT = "1.2.826.0.1.3680043.10.7"

COMMAND, LAST = 1, 2  # message control header, PS3.8 annex E.2
ANSWER_SECONDS = 10.0


def pdu(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """A PDU; `length` says something else than the body has."""
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def item(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """An item of an A-ASSOCIATE PDU."""
    return struct.pack(">BxH", kind, len(body) if length is None else length) + body


def context(number: int, abstract: str, syntaxes: Sequence[str]) -> bytes:
    """A proposed presentation context."""
    names = item(0x30, abstract.encode())
    names += b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
    return item(0x20, struct.pack(">B3x", number) + names)


CONTEXTS = (
    context(1, CT_IMAGE, [EXPLICIT_LITTLE])
    + context(3, VERIFICATION, [IMPLICIT_LITTLE])
    + context(5, CT_IMAGE, [DEFLATED])
    + context(7, CR_IMAGE, [EXPLICIT_LITTLE])
    + context(9, CR_IMAGE, [DEFLATED])
)


def associate_rq(
    *,
    version: int = 1,
    contexts: bytes = CONTEXTS,
    called: bytes = b"NODE",
    calling: bytes = b"LIAR",
) -> bytes:
    """An A-ASSOCIATE-RQ."""
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, f"{ROOT}.1".encode())
    body = struct.pack(">H2x16s16s32x", version, called.ljust(16), calling.ljust(16))
    body += item(0x10, APPLICATION_CONTEXT.encode()) + contexts + item(0x50, user)
    return pdu(0x01, body)


def pdv(number: int, control: int, data: bytes, *, length: int | None = None) -> bytes:
    """A presentation data value item; `control` holds COMMAND and LAST."""
    length = len(data) + 2 if length is None else length
    return struct.pack(">LBB", length, number, control) + data


def p_data(*values: bytes, length: int | None = None) -> bytes:
    """A P-DATA-TF of presentation data values."""
    return pdu(0x04, b"".join(values), length=length)


def command(elements: dict[int, bytes]) -> bytes:
    """A command set of group 0000 elements, with its group length."""
    body = b"".join(
        struct.pack("<HHL", 0, number, len(value)) + value for number, value in elements.items()
    )
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def padded(uid: str) -> bytes:
    """A UID of even length."""
    return uid.encode() + b"\0" * (len(uid) % 2)


def c_store_rq(
    instance: str, *, sop_class: str = CT_IMAGE, message: int = 1, data_set_type: int = 1
) -> bytes:
    """The command set of a C-STORE-RQ."""
    return command(
        {
            0x0002: padded(sop_class),
            0x0100: struct.pack("<H", 0x0001),
            0x0110: struct.pack("<H", message),
            0x0700: struct.pack("<H", 0),
            0x0800: struct.pack("<H", data_set_type),
            0x1000: padded(instance),
        }
    )


def c_echo_rq(message: int = 1) -> bytes:
    """The command set of a C-ECHO-RQ."""
    return command(
        {
            0x0002: padded(VERIFICATION),
            0x0100: struct.pack("<H", 0x0030),
            0x0110: struct.pack("<H", message),
            0x0800: struct.pack("<H", 0x0101),
        }
    )


def element(tag: int, vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    """An element in Explicit VR Little Endian; the value is padded to even length."""
    if len(value) % 2:
        value += b"\0" if vr in {b"UI", b"OB", b"UN"} else b" "
    length = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in {b"OB", b"OW", b"SQ", b"UN", b"UT"}:
        return head + struct.pack("<2xL", length) + value
    return head + struct.pack("<H", length) + value


def data_set(instance: str, *, sop_class: str = CT_IMAGE, before_pixels: bytes = b"") -> bytes:
    """A small CT slice with a study of its own; `before_pixels` goes where its tags belong."""
    pixels = bytes(64 * 64 * 2)
    return b"".join(
        [
            element(0x00080016, b"UI", sop_class.encode()),
            element(0x00080018, b"UI", instance.encode()),
            element(0x00080060, b"CS", b"CT" if sop_class == CT_IMAGE else b"CR"),
            element(0x00100010, b"PN", b"Liar^Peer"),
            element(0x00100020, b"LO", b"LIAR"),
            element(0x0020000D, b"UI", f"{instance}.1".encode()[:64]),
            element(0x0020000E, b"UI", f"{instance}.2".encode()[:64]),
            element(0x00280002, b"US", struct.pack("<H", 1)),
            element(0x00280004, b"CS", b"MONOCHROME2"),
            element(0x00280010, b"US", struct.pack("<H", 64)),
            element(0x00280011, b"US", struct.pack("<H", 64)),
            element(0x00280100, b"US", struct.pack("<H", 16)),
            element(0x00280101, b"US", struct.pack("<H", 16)),
            element(0x00280102, b"US", struct.pack("<H", 15)),
            element(0x00280103, b"US", struct.pack("<H", 0)),
            before_pixels,
            element(0x7FE00010, b"OW", pixels),
        ]
    )


def nested_sequences(depth: int, *, explicit_length: bool) -> bytes:
    """A private sequence in an item of a private sequence, and so on."""
    tag, content = 0x00291010, b""
    if explicit_length:
        for _ in range(depth):
            inner = struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content
            content = element(tag, b"SQ", inner)
    else:
        opening = element(tag, b"SQ", b"", length=0xFFFFFFFF)
        opening += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        closing = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        content = opening * depth + closing * depth
    return element(0x00290010, b"LO", b"LIAR") + content


def zip_bomb(instance: str, inflated: int) -> bytes:
    """A deflated data set (PS3.5 A.5) that holds so many zero bytes in a private element."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = data_set(instance, sop_class=CR_IMAGE)
    packed = deflater.compress(head[: head.index(struct.pack("<HH", 0x7FE0, 0x0010))])
    packed += deflater.compress(element(0x00291010, b"OB", b"", length=inflated))
    packed += deflater.flush(zlib.Z_FULL_FLUSH)
    megabyte = deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    packed += megabyte * (inflated >> 20) + deflater.flush()
    return packed + b"\0" * (len(packed) % 2)


class Peer:
    """A connection and what comes back on it, in words.

    An answer is one of `AC`, `RJ result/source/reason`, `RELEASED`, `ABORT source/reason`,
    `status 0x....`, `closed` (the connection has ended) and `silent` (nothing in time).
    """

    def __init__(self, port: int, *, seconds: float = ANSWER_SECONDS) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.connection.close()

    def send(self, content: bytes) -> None:
        """Send, as much as the other side takes."""
        with suppress(OSError):
            self.connection.sendall(content)

    def answer(self) -> str:
        """The next PDU that comes back."""
        try:
            head = self._read(6)
            if head is None:
                return "closed"
            kind, length = struct.unpack(">BxL", head)
            body = self._read(length)
        except TimeoutError:
            return "silent"
        except OSError:
            return "closed"
        if body is None:
            return "closed"
        if kind == 0x04:
            return _status(body[6:])
        if kind == 0x03:
            return f"RJ {body[1]}/{body[2]}/{body[3]}"
        if kind == 0x07:
            return f"ABORT {body[2]}/{body[3]}"
        return {0x02: "AC", 0x06: "RELEASED"}.get(kind, f"PDU {kind:02X}")

    def ask(self, *contents: bytes) -> str:
        """Send and take the next answer."""
        self.send(b"".join(contents))
        return self.answer()

    def associate(self) -> Peer:
        """Open an association; whoever refuses it is not to be tested further."""
        answer = self.ask(associate_rq())
        if answer != "AC":
            raise ConnectionError(answer)
        return self

    def store(self, instance: str, content: bytes, *, number: int = 1, **request: Any) -> str:
        """C-STORE in PDUs of 16 kB."""
        parts = [p_data(pdv(number, COMMAND | LAST, c_store_rq(instance, **request)))]
        pieces = [content[start : start + 16000] for start in range(0, len(content), 16000)]
        parts += [p_data(pdv(number, 0, piece)) for piece in pieces[:-1]]
        return self.ask(*parts, p_data(pdv(number, LAST, pieces[-1])))

    def release(self) -> str:
        """A-RELEASE-RQ and its answer."""
        return self.ask(pdu(0x05, bytes(4)))

    def _read(self, count: int) -> bytes | None:
        received = b""
        while len(received) < count:
            piece = self.connection.recv(count - len(received))
            if not piece:
                return None
            received += piece
        return received


def _status(command_set: bytes) -> str:
    offset = 0
    while offset + 8 <= len(command_set):
        group, number, length = struct.unpack_from("<HHL", command_set, offset)
        if (group, number) == (0x0000, 0x0900):
            return f"status 0x{struct.unpack_from('<H', command_set, offset + 8)[0]:04X}"
        offset += 8 + length
    return "no status"
