"""The head of a Part 10 file (PS3.10 section 7.1), written without decoding the data set."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dicom_node.dimse import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_PREAMBLE = bytes(128) + b"DICM"
_LONG_FORM = frozenset({"OB", "UR"})  # 32-bit length in explicit VR, PS3.5 section 7.1.2


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sends: the AE titles of the association, without padding, and the sender's address."""

    calling_ae_title: str
    called_ae_title: str
    host: str
    port: int

    @property
    def presentation_address(self) -> str:
        """`dicom://host:port` (PS3.10 section 7.1.1.1)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"dicom://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the C-STORE request and its presentation context say of the data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def part10_head(peer: Peer, announced: Announcement) -> bytes:
    """Preamble, prefix and File Meta Information; the data set's bytes follow it as they are.

    The sender counts as the source too: C-STORE does not tell where an object was before.
    """
    elements = b"".join(
        [
            _element(0x0001, "OB", b"\x00\x01"),
            _text(0x0002, "UI", announced.sop_class_uid),
            _text(0x0003, "UI", announced.sop_instance_uid),
            _text(0x0010, "UI", announced.transfer_syntax_uid),
            _text(0x0012, "UI", IMPLEMENTATION_CLASS_UID),
            _text(0x0013, "SH", IMPLEMENTATION_VERSION_NAME),
            _text(0x0016, "AE", peer.calling_ae_title),
            _text(0x0017, "AE", peer.calling_ae_title),
            _text(0x0018, "AE", peer.called_ae_title),
            _text(0x0026, "UR", peer.presentation_address),
        ]
    )
    return _PREAMBLE + _element(0x0000, "UL", struct.pack("<L", len(elements))) + elements


def _text(element: int, vr: str, value: str) -> bytes:
    content = value.encode("ascii")
    if len(content) % 2:
        content += b"\0" if vr == "UI" else b" "
    return _element(element, vr, content)


def _element(element: int, vr: str, content: bytes) -> bytes:
    length = "2xL" if vr in _LONG_FORM else "H"
    return struct.pack(f"<HH2s{length}", 0x0002, element, vr.encode(), len(content)) + content
