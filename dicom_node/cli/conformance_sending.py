"""The part of the conformance statement on sending: results, and how they are confirmed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from dicom_node.cli.conformance_words import hex_of, name_of, table, time_of
from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig, DicomwebConfig
from dicom_node.deliver.query import STUDY_ROOT_FIND
from dicom_node.deliver.statuses import judge_status
from dicom_node.errors import DestinationUnavailable
from dicom_node.receive.contexts import VERIFICATION
from dicom_node.storage_commitment import PUSH_MODEL

RESULT_CLASSES = (Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
"""What a node makes and sends."""


def sending(config: NodeConfig) -> str:
    """Markdown of what the node sends by DIMSE, and what answers mean to it."""
    classes = [(name_of(uid), f"`{uid}`", "SCU", "each result") for uid in RESULT_CLASSES]
    classes += [
        (name_of(VERIFICATION), f"`{VERIFICATION}`", "SCU", "`dicom-node check`"),
        (name_of(PUSH_MODEL), f"`{PUSH_MODEL}`", "SCU", "`confirm: storage_commitment`"),
        (name_of(STUDY_ROOT_FIND), f"`{STUDY_ROOT_FIND}`", "SCU", "`confirm: query`"),
    ]
    peers = [
        (name, f"`{peer.ae_title}`", f"{peer.host}:{peer.port}", peer.confirm)
        for name, peer in config.peers.items()
        if isinstance(peer, DestinationConfig)
    ]
    listed = table(("Destination", "AE title", "Address", "Delivered means"), peers)
    retry = config.delivery
    return f"""## Sending

{table(("SOP class", "UID", "Role", "For"), classes)}

Results are offered in Explicit VR Little Endian, as they are stored, and beside it in Implicit VR
Little Endian, for which they are re-encoded only where the destination takes no other. No maximum
PDU is announced (0). One association carries what waits for a destination; none is kept open for
what may come. Nothing is sent to a peer that is not configured, except to the sender itself where
`send_to` says so.

{listed if peers else "No DIMSE destination is configured here."}

### What a status of C-STORE means to us

{table(("Status", "Then"), _meanings())}

An attempt that failed for now is repeated after {time_of(retry.first)}, doubling to
{time_of(retry.ceiling)}; after {time_of(retry.give_up_after)} the result waits for a person.

### Confirmation

By `status` a result is delivered with a success or warning of the table. By `storage_commitment`
an N-ACTION (Action Type ID 1) follows, and the N-EVENT-REPORT is awaited on the same association
and then on our own port. By `query` a C-FIND at IMAGE level follows, with Study, Series and SOP
Instance UID as unique keys. See `docs/confirmation.md`."""


def dicomweb(config: NodeConfig) -> str:
    """Markdown of what the node asks of DICOMweb services."""
    services = [
        (name, service.confirm, "TLS" if service.url.startswith("https:") else "no TLS")
        for name, service in config.peers.items()
        if isinstance(service, DicomwebConfig)
    ]
    listed = table(("Destination", "Delivered means", "Channel"), services)
    return f"""## DICOMweb

As origin server: none. As user agent, PS3.18:

- Store Transaction (10.5): `POST SERVICE/studies`, `multipart/related; type="application/dicom"`,
  Explicit VR Little Endian; the answer, in DICOM JSON or XML, is read object by object: Failure
  Reasons mean what the statuses above mean.
- Search Transaction (10.6), with `confirm: query`: `GET SERVICE/studies/UID/series/UID/instances`
  with `SOPInstanceUID`, as `application/dicom+json`.
- Authentication by a bearer token or HTTP Basic, from files of the node's user.

{listed if services else "No DICOMweb destination is configured here."}"""


def _meanings() -> Iterator[tuple[str, str]]:
    """What `judge_status` makes of every status, in ranges; most failures are of one kind."""
    usual = _meaning(0x0001)
    for meaning, group in itertools.groupby(range(0x10000), _meaning):
        statuses = list(group)
        if meaning != usual:
            yield _span(statuses), meaning
    yield "any other", usual


def _meaning(status: int) -> str:
    remark, error = judge_status(status)
    if error is None:
        return "stored" if remark is None else "stored; the remark is kept"
    if isinstance(error, DestinationUnavailable):
        return "not stored now; tried again"
    return "rejected; the result waits for a person"


def _span(statuses: Sequence[int]) -> str:
    ends = dict.fromkeys((statuses[0], statuses[-1]))
    return " to ".join(hex_of(status) for status in ends)
