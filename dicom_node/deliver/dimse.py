"""C-STORE and C-ECHO as SCU: files go out as their bytes are stored, many over one association."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association

from dicom_node.config import DestinationConfig
from dicom_node.errors import DeliveryRejected, DestinationUnavailable

VERIFICATION = UID("1.2.840.10008.1.1")
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_MAXIMUM_CONTEXTS = 128  # PS3.8 section 9.3.2.2: odd numbers 1 to 255

# PS3.7 annex C, PS3.4 table B.2-1. Some archives answer 0x0111 to an object that they have.
_HAD_ALREADY = 0x0111
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
_ATTEMPT_AGAIN = frozenset({0x0110, 0x0124, 0x0210, 0x0213})

# Result, source and diagnostic of A-ASSOCIATE-RJ (PS3.8 table 9-21) in plain words.
_REJECTIONS = {
    (1, 1, 3): "it does not know our AE title; enter it at the destination",
    (1, 1, 7): "it does not answer to the called AE title; correct the destination's ae_title",
    (2, 3, 1): "it is temporarily congested",
    (2, 3, 2): "it has no free association",
}


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """What a destination answered for one file.

    Attributes
    ----------
    error
        None if the destination has the object; else transient or permanent.
    remark
        A warning that came with success.
    """

    error: DestinationUnavailable | DeliveryRejected | None = None
    remark: str | None = None


def outcome_of(status: int) -> SendOutcome:
    """Read a C-STORE status (PS3.4 table B.2-1, PS3.7 annex C)."""
    if status == 0x0000:
        return SendOutcome()
    if status == _HAD_ALREADY:
        return SendOutcome(remark="had it already (0x0111)")
    if status in _WARNINGS or 0xB000 <= status <= 0xBFFF:
        return SendOutcome(remark=f"stored with warning 0x{status:04X}")
    if 0xA700 <= status <= 0xA7FF:
        return SendOutcome(DestinationUnavailable(f"out of resources (0x{status:04X})"))
    if status in _ATTEMPT_AGAIN:
        return SendOutcome(DestinationUnavailable(f"could not process it now (0x{status:04X})"))
    if 0xA900 <= status <= 0xA9FF:
        reason = "says that the data set does not match its SOP class"
    elif 0xC000 <= status <= 0xCFFF:
        reason = "cannot understand the object"
    elif status == 0x0122:
        reason = "does not take this SOP class"
    else:
        reason = "failed to store the object"
    return SendOutcome(DeliveryRejected(f"the destination {reason} (0x{status:04X})"))


def send_files(
    destination: DestinationConfig,
    calling_ae_title: str,
    paths: Sequence[Path],
    on_result: Callable[[Path, SendOutcome], None],
) -> None:
    """Send Part 10 files by C-STORE, as they are.

    Parameters
    ----------
    on_result
        Called for each file as soon as its answer is here.

    Raises
    ------
    DestinationUnavailable
        No connection, no association, or it broke: files without a result were not answered.
    """
    metas = {path: _file_meta(path) for path in paths}
    for group in _by_contexts(metas):
        contexts = sorted({_context_of(metas[path]) for path in group})
        with _associated(destination, calling_ae_title, contexts) as association:
            for path in group:
                on_result(path, _send_one(association, path, metas[path]))


def echo(destination: DestinationConfig, calling_ae_title: str) -> None:
    """Verify that a destination answers C-ECHO.

    Raises
    ------
    DestinationUnavailable
        It does not; says what to look at.
    """
    contexts = [(VERIFICATION, ImplicitVRLittleEndian)]
    with _associated(destination, calling_ae_title, contexts) as association:
        if association.send_c_echo().get("Status") != 0x0000:
            raise DestinationUnavailable("it does not answer C-ECHO with success")


def find_dicom_files(place: Path) -> tuple[list[Path], list[Path]]:
    """Find DICOM Part 10 files below a folder (or the one file).

    Returns
    -------
    files, others
        DICOM files in order of their names (DICOMDIR left out), and what is not DICOM.
    """
    candidates = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    files, others = [], []
    for path in candidates:
        if path.name == "DICOMDIR":
            continue
        try:
            _file_meta(path)
        except DeliveryRejected:
            others.append(path)
        else:
            files.append(path)
    return files, others


def _file_meta(path: Path) -> FileMetaDataset:
    try:
        meta = read_file_meta_info(path)
        if all(meta.get(key) for key in ("MediaStorageSOPClassUID", "TransferSyntaxUID")):
            return meta
    except (InvalidDicomError, OSError, ValueError, EOFError) as error:
        raise DeliveryRejected(f"{path.name} is not a DICOM Part 10 file") from error
    raise DeliveryRejected(f"{path.name} has no complete file meta information")


def _context_of(meta: FileMetaDataset) -> tuple[UID, UID]:
    return UID(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID)


def _by_contexts(metas: dict[Path, FileMetaDataset]) -> Iterator[list[Path]]:
    """Split the files so that each group fits into the contexts of one association."""
    group: list[Path] = []
    contexts: set[tuple[UID, UID]] = set()
    for path, meta in metas.items():
        context = _context_of(meta)
        # Two contexts each: the stored syntax, and a native one to fall back to.
        if context not in contexts and (len(contexts) + 1) * 2 > _MAXIMUM_CONTEXTS:
            yield group
            group, contexts = [], set()
        contexts.add(context)
        group.append(path)
    if group:
        yield group


def _send_one(association: Association, path: Path, meta: FileMetaDataset) -> SendOutcome:
    sop_class, syntax = _context_of(meta)
    accepted = {
        (context.abstract_syntax, context.transfer_syntax[0])
        for context in association.accepted_contexts
    }
    try:
        if (sop_class, syntax) in accepted:
            response = association.send_c_store(path)  # streams the file's bytes
        elif syntax in _NATIVE and any((sop_class, native) in accepted for native in _NATIVE):
            response = association.send_c_store(dcmread(path))  # re-encodes implicit/explicit
        else:
            return SendOutcome(
                DeliveryRejected(
                    f"the destination takes no {sop_class.name} in {syntax.name}; enable it there"
                )
            )
    except (RuntimeError, OSError) as error:
        raise DestinationUnavailable("the association was lost while sending") from error
    except ValueError as error:
        return SendOutcome(DeliveryRejected(f"the file cannot be sent ({type(error).__name__})"))
    if "Status" not in response:
        raise DestinationUnavailable("no answer to C-STORE in time, or the association was lost")
    return outcome_of(int(response.Status))


@contextmanager
def _associated(
    destination: DestinationConfig, calling_ae_title: str, contexts: Sequence[tuple[UID, UID]]
) -> Iterator[Association]:
    association = _associate(destination, calling_ae_title, contexts)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _associate(
    destination: DestinationConfig, calling_ae_title: str, contexts: Sequence[tuple[UID, UID]]
) -> Association:
    logging.getLogger("pynetdicom").setLevel(logging.ERROR)  # it would log data sets
    # Paths are sent from the file as they are, instead of decoded and encoded again.
    _config.STORE_SEND_CHUNKED_DATASET = True
    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = destination.connect_timeout.total_seconds()
    ae.acse_timeout = destination.connect_timeout.total_seconds()
    ae.dimse_timeout = destination.response_timeout.total_seconds()
    ae.network_timeout = destination.response_timeout.total_seconds()
    # One transfer syntax a context: the peer then says of each whether it takes it. A native one
    # brings the other along, for archives that take only one of the two.
    offered = dict.fromkeys(contexts)
    for sop_class, syntax in contexts:
        if syntax in _NATIVE:
            offered |= dict.fromkeys((sop_class, native) for native in _NATIVE)
    requested = [build_context(str(sop_class), str(syntax)) for sop_class, syntax in offered]
    association = ae.associate(
        destination.host,
        destination.port,
        contexts=requested,
        ae_title=destination.ae_title,
        max_pdu=0,
        evt_handlers=[(evt.EVT_CONN_OPEN, _without_nagle)],
    )
    if not association.is_established:
        raise DestinationUnavailable(_why_not(association, destination))
    return association


def _without_nagle(event: evt.Event) -> None:
    """Without TCP_NODELAY, Nagle's algorithm and delayed ACK cost 40 ms an object."""
    wrapped = event.assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None:
        wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _why_not(association: Association, destination: DestinationConfig) -> str:
    """Say in plain words why there is no association."""
    place = f"{destination.ae_title}@{destination.host}:{destination.port}"
    if association.is_rejected:
        answer = association.acceptor.primitive
        fields = ("result", "result_source", "diagnostic")
        key = tuple(getattr(answer, name, None) for name in fields)
        reasons = [text for known, text in _REJECTIONS.items() if known == key]
        return f"{place} refused the association: {reasons[0] if reasons else f'reason {key}'}"
    timeout = destination.connect_timeout.total_seconds()
    try:
        with socket.create_connection((destination.host, destination.port), timeout=timeout):
            return f"{place} accepts connections but gave no DICOM answer; is it a DICOM port?"
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else "no answer in time"
        return f"no connection to {place}: {why}; is it running, and is the port right?"
