"""The DICOM conformance statement (PS3.2) of a node, written from what its code and settings do.

Everything that can change by code or configuration is read from there: presentation contexts,
roles, limits, reasons of refusal and the meaning of every status.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from pydicom.uid import UID, Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from dicom_node import __version__
from dicom_node.charset import UTF8
from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig, DicomwebConfig
from dicom_node.config_network import DicomConfig
from dicom_node.deliver.query import STUDY_ROOT_FIND
from dicom_node.deliver.statuses import judge_status
from dicom_node.dimse import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.errors import DestinationUnavailable
from dicom_node.receive import commitment
from dicom_node.receive.admission import Refusal
from dicom_node.receive.contexts import SCORED_CLASSES, VERIFICATION, storage_contexts
from dicom_node.receive.scp import uses_commitment
from dicom_node.receive.storage import OUT_OF_RESOURCES, SUCCESS
from dicom_node.receive.strict import (
    CANNOT_UNDERSTAND,
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    INVALID_SOP_INSTANCE,
)
from dicom_node.storage_commitment import PUSH_MODEL
from dicom_node.tls import CIPHERS

RESULT_CLASSES = (Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
"""What a node makes and sends."""

_WHY_REFUSED = {
    Refusal.NOT_AUTHENTICATED: "User identity is required and missing, or it is wrong.",
    Refusal.CALLING_AE_TITLE_NOT_RECOGNIZED: "The caller is in no list, or calls from elsewhere.",
    Refusal.CALLED_AE_TITLE_NOT_RECOGNIZED: "The caller must name us by our AE title, or by "
    "another that its entry states.",
    Refusal.TEMPORARY_CONGESTION: "The node is stopping, or the caller's associations of this "
    "minute are used up.",
    Refusal.LOCAL_LIMIT_EXCEEDED: "As many associations are open as may be, in all or of the "
    "caller.",
}
_RESULTS = {1: "permanent", 2: "transient"}
_SOURCES = {1: "service user", 3: "service provider (presentation)"}
_COMMITMENT_STATUSES = {
    commitment.SUCCESS: "Kept; it will be answered, or is an answer that we waited for.",
    commitment.PROCESSING_FAILURE: "An unforeseen fault; ask again.",
    commitment.INVALID_ARGUMENT: "The message is malformed.",
    commitment.NO_SUCH_ACTION: "Another Action Type ID than 1.",
    commitment.NOT_AUTHORIZED: "`dicom.storage_commitment` is off: we vouch for nothing.",
    commitment.RESOURCE_LIMITATION: "Too little free disk, or too long a message; ask later.",
}


def conformance_statement(config: NodeConfig) -> str:
    """Markdown of the statement for one configuration."""
    parts = (
        _overview(config),
        _receiver(config),
        _sender(config),
        _dicomweb(config),
        _security(config),
        _rest(),
    )
    return "\n\n".join(parts) + "\n"


def _overview(config: NodeConfig) -> str:
    vouches = "Yes" if config.dicom.storage_commitment else "Option"
    rows = [
        ("Storage of CR, DX and CT images, which are scored", "No", "Yes"),
        ("Storage of what stands beside them, which is kept", "No", "Yes"),
        ("Storage of Comprehensive 3D SR and Secondary Capture results", "Yes", "Yes, as above"),
        ("Verification", "Yes", "Yes"),
        ("Storage Commitment Push Model", "Option, by destination", vouches),
        ("Study Root Query/Retrieve Information Model - FIND", "Option, by destination", "No"),
        ("DICOMweb Store Transaction (STOW-RS)", "Option, by destination", "No"),
        ("DICOMweb Search Transaction (QIDO-RS)", "Option, by destination", "No"),
    ]
    return f"""# DICOM conformance statement

dicom_node {__version__} takes chest radiographs and CT series, scores them with models and sends a
Structured Report and a Secondary Capture into the same study. This statement follows PS3.2; it was
written by `dicom-node conformance` from the code and from one configuration, here that of AE title
`{config.ae_title}`. Run the command with your own configuration for the statement of your site.

## Overview

{_table(("Network service", "User (SCU)", "Provider (SCP)"), rows)}

No media storage services. No Modality Worklist, MPPS, Query/Retrieve as provider or printing.

One application entity, `{config.ae_title}`, accepts associations to receive and initiates others to
send. An image is answered with success after it is durable on disk; a study is scored when it is
complete; results wait in a queue until their destination has confirmed them."""


def _receiver(config: NodeConfig) -> str:
    dicom = config.dicom
    syntaxes = storage_contexts()[1].transfer_syntax or []
    contexts = storage_contexts(dicom.extra_storage_classes)
    plain = contexts[0].transfer_syntax or []
    classes = [UID(str(context.abstract_syntax)) for context in contexts]
    rows = [(_name(uid), f"`{uid}`", _fate(uid)) for uid in classes]
    roles = "Its role is negotiated: whoever answers us connects as SCP (SCP/SCU Role Selection)."
    if uses_commitment(config):
        rows.append((_name(PUSH_MODEL), f"`{PUSH_MODEL}`", "as SCP, and as SCU for answers"))
    else:
        roles = "It is not accepted in this configuration."
    refusals = [
        (
            f"{_RESULTS[reason.value[0]]}, {_SOURCES[reason.value[1]]}, {reason.value[2]}",
            reason.name.lower().replace("_", " "),
            _WHY_REFUSED[reason],
        )
        for reason in Refusal
    ]
    stored = [
        (_hex(SUCCESS), "Success", "The object is durable on disk, byte for byte as it was sent."),
        (
            _hex(OUT_OF_RESOURCES),
            "Refused: out of resources",
            "Too little free disk, an object larger than `dicom.maximum_object_bytes`, or a fault "
            "of the disk. Nothing is kept; send it again.",
        ),
        (
            _hex(DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
            "Error: data set does not match SOP class",
            "The command names another SOP class than its presentation context.",
        ),
        (
            _hex(INVALID_SOP_INSTANCE),
            "Invalid SOP instance",
            "The command names no valid SOP Instance UID.",
        ),
        (_hex(CANNOT_UNDERSTAND), "Error: cannot understand", "The message has no data set."),
    ]
    messages = [(_hex(status), meaning) for status, meaning in _COMMITMENT_STATUSES.items()]
    return f"""## Receiving

### Association policies

{_table(("", ""), _acceptance(config))}

### Presentation contexts

{_table(("SOP class", "UID", "What becomes of it"), rows)}

Every storage class is accepted in each of these transfer syntaxes; where one context offers
several, the first of this list is chosen:

{_table(("Transfer syntax", "UID"), [(_name(uid), f"`{uid}`") for uid in syntaxes])}

Verification and Storage Commitment take {" and ".join(_name(uid) for uid in plain)}.
Further storage classes can be configured (`dicom.extra_storage_classes`). Nothing is decoded,
coerced or re-encoded on receipt; private attributes stay.

### Answers to C-STORE and C-ECHO

{_table(("Status", "Meaning", "When"), stored)}

C-ECHO is answered with {_hex(SUCCESS)}. A peer that breaks the protocol gets an A-ABORT with the
standard's reason.

### Refused associations

{_table(("Result, source, diagnostic", "Reason", "When"), refusals)}

### Storage Commitment

{roles}

{_table(("Status of N-ACTION and N-EVENT-REPORT", "Meaning"), messages)}"""


def _acceptance(config: NodeConfig) -> list[tuple[str, str]]:
    dicom = config.dicom
    ports = [] if dicom.port is None else [f"{dicom.port}"]
    if dicom.tls is not None:
        ports.append(f"{dicom.tls.port} with TLS")
    return [
        ("Application context", "1.2.840.10008.3.1.1.1"),
        ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
        ("Port", ", ".join(ports)),
        ("Associations at a time", f"{dicom.max_associations}"),
        ("Largest PDU accepted", _bytes(dicom.maximum_pdu_bytes)),
        ("Largest object accepted", _bytes(dicom.maximum_object_bytes)),
        ("Who may connect", _callers(dicom)),
        ("Called AE title", "must be ours" if dicom.require_called_ae_title else "any"),
        ("Asynchronous operations window", "not supported (one operation at a time)"),
        ("User identity", _identity(dicom)),
        ("SOP class extended negotiation", "not supported"),
        ("Time to an association request", _time(dicom.request_timeout)),
        ("Silence after which we abort", _time(dicom.idle_timeout)),
    ]


def _sender(config: NodeConfig) -> str:
    classes = [(_name(uid), f"`{uid}`", "SCU", "each result") for uid in RESULT_CLASSES]
    classes += [
        (_name(VERIFICATION), f"`{VERIFICATION}`", "SCU", "`dicom-node check`"),
        (_name(PUSH_MODEL), f"`{PUSH_MODEL}`", "SCU", "`confirm: storage_commitment`"),
        (_name(STUDY_ROOT_FIND), f"`{STUDY_ROOT_FIND}`", "SCU", "`confirm: query`"),
    ]
    peers = [
        (name, f"`{peer.ae_title}`", f"{peer.host}:{peer.port}", peer.confirm)
        for name, peer in config.peers.items()
        if isinstance(peer, DestinationConfig)
    ]
    listed = _table(("Destination", "AE title", "Address", "Delivered means"), peers)
    retry = config.delivery
    return f"""## Sending

{_table(("SOP class", "UID", "Role", "For"), classes)}

Results are offered in Explicit VR Little Endian, as they are stored, and beside it in Implicit VR
Little Endian, for which they are re-encoded only where the destination takes no other. No maximum
PDU is announced (0). One association carries what waits for a destination; none is kept open for
what may come. Nothing is sent to a peer that is not configured, except to the sender itself where
`send_to` says so.

{listed if peers else "No DIMSE destination is configured here."}

### What a status of C-STORE means to us

{_table(("Status", "Then"), _meanings())}

An attempt that failed for now is repeated after {_time(retry.first)}, doubling to
{_time(retry.ceiling)}; after {_time(retry.give_up_after)} the result waits for a person.

### Confirmation

By `status` a result is delivered with a success or warning of the table. By `storage_commitment`
an N-ACTION (Action Type ID 1) follows, and the N-EVENT-REPORT is awaited on the same association
and then on our own port. By `query` a C-FIND at IMAGE level follows, with Study, Series and SOP
Instance UID as unique keys. See `docs/confirmation.md`."""


def _dicomweb(config: NodeConfig) -> str:
    services = [
        (name, service.confirm, "TLS" if service.url.startswith("https:") else "no TLS")
        for name, service in config.peers.items()
        if isinstance(service, DicomwebConfig)
    ]
    listed = _table(("Destination", "Delivered means", "Channel"), services)
    return f"""## DICOMweb

As origin server: none. As user agent, PS3.18:

- Store Transaction (10.5): `POST SERVICE/studies`, `multipart/related; type="application/dicom"`,
  Explicit VR Little Endian; the answer, in DICOM JSON or XML, is read object by object: Failure
  Reasons mean what the statuses above mean.
- Search Transaction (10.6), with `confirm: query`: `GET SERVICE/studies/UID/series/UID/instances`
  with `SOPInstanceUID`, as `application/dicom+json`.
- Authentication by a bearer token or HTTP Basic, from files of the node's user.

{listed if services else "No DICOMweb destination is configured here."}"""


def _security(config: NodeConfig) -> str:
    suites = [name for name in CIPHERS.split(":") if not name.startswith("@")]
    here = "off" if config.dicom.tls is None else f"on, port {config.dicom.tls.port}"
    syslog = "configured" if config.audit.syslog else "not configured"
    return f"""## Security

- DICOM TLS in both roles by the "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile"
  (PS3.15 B.12), TLS 1.2 and 1.3. Here for receiving: {here}. Cipher suites of TLS 1.2:
  {", ".join(suites[:2])},
  {", ".join(suites[2:])}.
- User identity negotiation (PS3.7 D.3.3.7) as acceptor: user name, and user name with passcode.
- Audit messages (PS3.15 A.5) are kept in a chained trail and, where configured, sent by syslog over
  TLS (RFC 5425); here {syslog}.
- No de-identification profile: results carry the identity of their study."""


def _rest() -> str:
    return f"""## Results

Comprehensive 3D SR by TID 1500 and Secondary Capture, both with Specific Character Set {UTF8},
in new series of the source study, with UIDs derived from their content: a repeated run sends the
same UIDs. Content, codes and the repair of attributes are in `docs/results.md`.

## Character sets

Received: every Specific Character Set of PS3.3 C.12.1.1.2, and common misspellings.
Sent: {UTF8}."""


def _fate(uid: str) -> str:
    if uid == VERIFICATION:
        return "answered"
    return "kept and scored" if uid in SCORED_CLASSES else "kept, never scored"


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
    return " to ".join(_hex(status) for status in ends)


def _callers(dicom: DicomConfig) -> str:
    count = len(dicom.peers) + len(dicom.calling_ae_titles)
    return f"{count} configured AE titles" if count else "anybody"


def _identity(dicom: DicomConfig) -> str:
    if dicom.require_user_identity:
        return "required"
    return "ignored" if dicom.users_file is None else "checked where offered"


def _name(uid: str) -> str:
    return UID(uid).name


def _hex(status: int) -> str:
    return f"0x{status:04X}"


def _bytes(count: int) -> str:
    return f"{count:,} bytes".replace(",", " ") if count else "no limit"


def _time(duration: timedelta) -> str:
    return f"{duration.total_seconds():g} s"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
