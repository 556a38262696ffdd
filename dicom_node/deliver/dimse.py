"""Sending by C-STORE and asking by C-ECHO, with files' bytes as they are stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.association import Association
from pynetdicom.events import EVT_DIMSE_RECV, Event
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.association import associate
from dicom_node.deliver.part10 import UNREADABLE, StoredFile, read_stored
from dicom_node.deliver.statuses import SUCCESS, judge_status
from dicom_node.errors import BadInput, DeliveryRejected, DestinationUnavailable

_VERIFICATION: Final = "1.2.840.10008.1.1"
# Between these a data set is re-encoded without touching a pixel, if the peer takes no other.
_CONVERTIBLE: Final = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
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


class _Answers:
    """Notices answers to requests that are not under way: the library takes any for the next.

    A peer that answers one object twice would have the next one count as stored.

    Attributes
    ----------
    strayed
        Whether there was one; what came beside it proves nothing.
    """

    def __init__(self) -> None:
        self.strayed = False
        self._expected: int | None = None

    def expect(self, message_id: int) -> None:
        """A request is about to be sent."""
        self._expected = message_id

    def on_message(self, event: Event) -> None:
        """On EVT_DIMSE_RECV."""
        answered = event.message.command_set.get("MessageIDBeingRespondedTo")
        if answered is None:
            return  # a request of the peer
        if answered != self._expected:
            self.strayed = True
        self._expected = None


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
            files.append(read_stored(path))
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
            read_stored(path)
        except BadInput as error:
            skipped[path] = str(error)
        else:
            paths.append(path)
    send_files(destination, calling_ae_title, paths, on_result)
    return skipped


def _batches(files: Sequence[StoredFile]) -> Iterator[list[StoredFile]]:
    """Files in their order, cut where their kinds would need too many presentation contexts."""
    batch: list[StoredFile] = []
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
    destination: DestinationConfig,
    calling_ae_title: str,
    batch: list[StoredFile],
    on_result: OnResult,
) -> None:
    waiting, losses = deque(batch), 0
    while waiting:
        give_up: DestinationUnavailable | DeliveryRejected | None = None
        answers = _Answers()
        try:
            with associate(
                destination,
                calling_ae_title,
                _contexts(waiting),
                handlers=[(EVT_DIMSE_RECV, answers.on_message)],
            ) as association:
                answered = _send_over(association, destination, waiting, answers, on_result)
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
    waiting: deque[StoredFile],
    answers: _Answers,
    on_result: OnResult,
) -> bool:
    """Send what waits until all is sent or the association is lost; whether there was an answer."""
    message_id, answered = 0, False
    while waiting:
        file = waiting.popleft()
        message_id = message_id % _MAX_MESSAGE_ID + 1
        answers.expect(message_id)
        outcome = _send(association, destination, file, message_id, answers)
        on_result(file.path, outcome)
        if outcome.status is None and isinstance(outcome.error, DestinationUnavailable):
            association.abort()
            break
        answered = True
        if not association.is_established:
            break  # the next file goes over another, and is not blamed
    return answered


def _send(
    association: Association,
    destination: DestinationConfig,
    file: StoredFile,
    message_id: int,
    answers: _Answers,
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
    except UNREADABLE as error:
        association.abort()  # part of the object may be under way, and no other may follow it
        reason = f"the file cannot be read or re-encoded ({type(error).__name__})"
        if isinstance(error, OSError) and error.errno is not None:
            return SendOutcome(None, error=DestinationUnavailable(reason))  # the disk's doing
        return SendOutcome(None, error=DeliveryRejected(reason))
    status: int | None = answer.get("Status")
    if answers.strayed:
        reason = f"{destination.ae_title} answered another C-STORE than the one it was sent"
        return SendOutcome(None, error=DestinationUnavailable(reason))
    if status is None:
        reason = f"{destination.ae_title} gave no answer to C-STORE or ended the association"
        return SendOutcome(None, error=DestinationUnavailable(reason))
    return SendOutcome(status, *judge_status(status))


def _contexts(files: Iterable[StoredFile]) -> list[PresentationContext]:
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
