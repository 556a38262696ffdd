"""Sending by C-STORE and asking by C-ECHO, with files' bytes as they are stored."""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.config import DestinationConfig
from dicom_node.deliver.association import associate
from dicom_node.deliver.statuses import SUCCESS, judge_status
from dicom_node.errors import BadInput, DeliveryRejected, DestinationUnavailable

_VERIFICATION: Final = "1.2.840.10008.1.1"
# Between these a data set is re-encoded without touching a pixel, if the peer takes no other.
_CONVERTIBLE: Final = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
)
# What pydicom raises at bytes that are not what they claim.
_UNREADABLE: Final = (
    InvalidDicomError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_MAX_CONTEXTS = 128  # PS3.8 section 9.3.2.2: odd numbers from 1 to 255
_CONTEXTS_PER_KIND = 2
_SLOWEST_BYTES_PER_SECOND = 125_000  # an answer may take longer for a large object on a slow line
_MAX_MESSAGE_ID = 0xFFFF
_LOSSES_IN_A_ROW = 2


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """What became of one file.

    Attributes
    ----------
    status
        The C-STORE status (16 bits); None where there was no answer.
    remark
        What the destination remarked although it stored the object.
    error
        Why it is not stored there: transient or permanent; None: it is.
    """

    status: int | None
    remark: str | None = None
    error: DestinationUnavailable | DeliveryRejected | None = None

    @property
    def delivered(self) -> bool:
        """Whether the destination has the object."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int

    @property
    def kind(self) -> tuple[str, str]:
        return self.sop_class_uid, self.transfer_syntax_uid


OnResult = Callable[[Path, SendOutcome], None]


def echo(destination: DestinationConfig, calling_ae_title: str) -> None:
    """Ask a destination by C-ECHO whether it is there and knows us.

    Raises
    ------
    DestinationUnavailable
        It is not or does not; the sentence says what to mend.
    """
    contexts = [build_context(_VERIFICATION)]
    try:
        with associate(destination, calling_ae_title, contexts) as association:
            status = association.send_c_echo().get("Status")
    except DeliveryRejected as error:
        raise DestinationUnavailable(str(error)) from error
    if status is None or status != SUCCESS:
        answer = "no answer" if status is None else f"status 0x{status:04X}"
        raise DestinationUnavailable(
            f"{destination.ae_title} at {destination.host}:{destination.port} accepted the "
            f"association but not the C-ECHO ({answer}); look into its log"
        )


def send_files(
    destination: DestinationConfig,
    calling_ae_title: str,
    paths: Sequence[Path],
    on_result: OnResult,
) -> None:
    """Send Part 10 files over as few associations as possible, each in its own transfer syntax.

    A file during which the association is lost does not hold up the others: they go over a new one,
    unless that happens twice in a row.

    Parameters
    ----------
    on_result
        Called once for every path, as soon as its outcome is known; nothing is raised for a
        destination or a file that fails.
    """
    files = []
    for path in paths:
        try:
            files.append(_read_file(path))
        except BadInput as error:
            on_result(path, SendOutcome(None, error=DeliveryRejected(str(error))))
    for batch in _batches(files):
        _send_batch(destination, calling_ae_title, batch, on_result)


def send_folder(
    destination: DestinationConfig,
    calling_ae_title: str,
    folder: Path,
    on_result: OnResult,
) -> dict[Path, str]:
    """Send every DICOM file below a folder (or the one file given).

    Returns
    -------
    dict
        Files that were skipped, with the reason: not DICOM, a DICOMDIR.
    """
    paths, skipped = [], {}
    found = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    for path in found:
        if not path.is_file():
            continue
        try:
            _read_file(path)
        except BadInput as error:
            skipped[path] = str(error)
        else:
            paths.append(path)
    send_files(destination, calling_ae_title, paths, on_result)
    return skipped


def _read_file(path: Path) -> _File:
    try:
        meta = read_file_meta_info(path)
    except _UNREADABLE as error:
        raise BadInput("not a DICOM file (PS3.10): it has no preamble and file meta") from error
    sop_class_uid = str(meta.get("MediaStorageSOPClassUID", ""))
    transfer_syntax_uid = str(meta.get("TransferSyntaxUID", ""))
    if sop_class_uid == MediaStorageDirectoryStorage:
        raise BadInput("a DICOMDIR, which is not sent")
    if not (sop_class_uid and transfer_syntax_uid and meta.get("MediaStorageSOPInstanceUID")):
        raise BadInput(
            "file meta lacks MediaStorageSOPClassUID (0002,0002), MediaStorageSOPInstanceUID "
            "(0002,0003) or TransferSyntaxUID (0002,0010)"
        )
    return _File(path, sop_class_uid, transfer_syntax_uid, path.stat().st_size)


def _batches(files: Sequence[_File]) -> Iterator[list[_File]]:
    """Files in their order, cut where their kinds would need too many presentation contexts."""
    batch: list[_File] = []
    kinds: set[tuple[str, str]] = set()
    for file in files:
        if len(kinds | {file.kind}) * _CONTEXTS_PER_KIND > _MAX_CONTEXTS:
            yield batch
            batch, kinds = [], set()
        batch.append(file)
        kinds.add(file.kind)
    if batch:
        yield batch


def _send_batch(
    destination: DestinationConfig, calling_ae_title: str, batch: list[_File], on_result: OnResult
) -> None:
    waiting, losses = deque(batch), 0
    while waiting:
        give_up: DestinationUnavailable | DeliveryRejected | None = None
        try:
            with associate(destination, calling_ae_title, _contexts(waiting)) as association:
                answered = _send_over(association, destination, waiting, on_result)
        except (DestinationUnavailable, DeliveryRejected) as error:
            give_up = error
        else:
            losses = 1 if answered else losses + 1
            if losses >= _LOSSES_IN_A_ROW:
                give_up = DestinationUnavailable("the destination keeps ending the association")
        if give_up is not None:
            while waiting:
                on_result(waiting.popleft().path, SendOutcome(None, error=give_up))


def _send_over(
    association: Association,
    destination: DestinationConfig,
    waiting: deque[_File],
    on_result: OnResult,
) -> bool:
    """Send what waits until all is sent or the association is lost; whether there was an answer."""
    message_id, answered = 0, False
    while waiting:
        file = waiting.popleft()
        message_id = message_id % _MAX_MESSAGE_ID + 1
        outcome = _send(association, destination, file, message_id)
        on_result(file.path, outcome)
        if outcome.status is None and isinstance(outcome.error, DestinationUnavailable):
            association.abort()
            break
        answered = True
    return answered


def _send(
    association: Association, destination: DestinationConfig, file: _File, message_id: int
) -> SendOutcome:
    accepted = {
        context.transfer_syntax[0]
        for context in association.accepted_contexts
        if context.abstract_syntax == file.sop_class_uid
    }
    as_stored = file.transfer_syntax_uid in accepted
    if not as_stored and not (accepted and file.transfer_syntax_uid in _CONVERTIBLE):
        reason = (
            f"{destination.ae_title} does not accept {UID(file.sop_class_uid).name} "
            f"in {UID(file.transfer_syntax_uid).name}"
        )
        return SendOutcome(None, error=DeliveryRejected(reason))
    limit = destination.response_timeout.total_seconds()
    association.dimse_timeout = limit + file.size / _SLOWEST_BYTES_PER_SECOND
    try:
        whole = file.size % 2 == 0  # DCMTK ends the association at a fragment of odd length
        content = file.path if as_stored and whole else dcmread(file.path)
        answer = association.send_c_store(content, msg_id=message_id)
    except RuntimeError:  # no longer established
        answer = Dataset()
    except _UNREADABLE as error:
        reason = f"the file cannot be read or re-encoded ({type(error).__name__})"
        return SendOutcome(None, error=DeliveryRejected(reason))
    status: int | None = answer.get("Status")
    if status is None:
        reason = f"{destination.ae_title} gave no answer to C-STORE or ended the association"
        return SendOutcome(None, error=DestinationUnavailable(reason))
    return SendOutcome(status, *judge_status(status))


def _contexts(files: Iterable[_File]) -> list[PresentationContext]:
    """The stored transfer syntax alone, so that it wins; plain ones beside it where convertible."""
    contexts = []
    for sop_class_uid, transfer_syntax_uid in dict.fromkeys(file.kind for file in files):
        contexts.append(build_context(sop_class_uid, transfer_syntax_uid))
        if transfer_syntax_uid in _CONVERTIBLE:
            others: list[str | UID] = [
                uid for uid in _CONVERTIBLE[:2] if uid != transfer_syntax_uid
            ]
            contexts.append(build_context(sop_class_uid, others))
    return contexts
