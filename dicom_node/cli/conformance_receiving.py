"""The part of the conformance statement on receiving: whom, what, and with which answers."""

from __future__ import annotations

from pydicom.uid import UID

from dicom_node.cli.conformance_words import bytes_of, hex_of, name_of, table, time_of
from dicom_node.config import NodeConfig
from dicom_node.config_network import DicomConfig
from dicom_node.dimse import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
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


def receiving(config: NodeConfig) -> str:
    """Markdown of what the node accepts, and how it answers."""
    dicom = config.dicom
    syntaxes = storage_contexts()[1].transfer_syntax or []
    contexts = storage_contexts(dicom.extra_storage_classes)
    plain = contexts[0].transfer_syntax or []
    classes = [UID(str(context.abstract_syntax)) for context in contexts]
    rows = [(name_of(uid), f"`{uid}`", _fate(uid)) for uid in classes]
    if uses_commitment(config):
        rows.append((name_of(PUSH_MODEL), f"`{PUSH_MODEL}`", "as SCP, and as SCU for answers"))
    refusals = [
        (
            f"{_RESULTS[reason.value[0]]}, {_SOURCES[reason.value[1]]}, {reason.value[2]}",
            reason.name.lower().replace("_", " "),
            _WHY_REFUSED[reason],
        )
        for reason in Refusal
    ]
    stored = [
        (
            hex_of(SUCCESS),
            "Success",
            "The object is durable on disk, byte for byte as sent.",
        ),
        (
            hex_of(OUT_OF_RESOURCES),
            "Refused: out of resources",
            "Too little free disk, an object larger than `dicom.maximum_object_bytes`, or a fault "
            "of the disk. Nothing is kept; send it again.",
        ),
        (
            hex_of(DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
            "Error: data set does not match SOP class",
            "The command names another SOP class than its presentation context.",
        ),
        (
            hex_of(INVALID_SOP_INSTANCE),
            "Invalid SOP instance",
            "The command names no valid SOP Instance UID.",
        ),
        (hex_of(CANNOT_UNDERSTAND), "Error: cannot understand", "The message has no data set."),
    ]
    return f"""## Receiving

### Association policies

{table(("", ""), _acceptance(config))}

### Presentation contexts

{table(("SOP class", "UID", "What becomes of it"), rows)}

Every storage class is accepted in each of these transfer syntaxes; where one context offers
several, the first of this list is chosen:

{table(("Transfer syntax", "UID"), [(name_of(uid), f"`{uid}`") for uid in syntaxes])}

Verification and Storage Commitment take {" and ".join(name_of(uid) for uid in plain)}.
Further storage classes can be configured (`dicom.extra_storage_classes`). Nothing is decoded,
coerced or re-encoded on receipt; private attributes stay.

### Answers to C-STORE and C-ECHO

{table(("Status", "Meaning", "When"), stored)}

C-ECHO is answered with {hex_of(SUCCESS)}. A peer that breaks the protocol gets an A-ABORT with the
standard's reason.

### Refused associations

{table(("Result, source, diagnostic", "Reason", "When"), refusals)}

### Storage Commitment

{_commitment(config)}"""


def _commitment(config: NodeConfig) -> str:
    if not uses_commitment(config):
        return "It is not accepted in this configuration."
    messages = [(hex_of(status), meaning) for status, meaning in _COMMITMENT_STATUSES.items()]
    return (
        "Its role is negotiated: whoever answers us connects as SCP (SCP/SCU Role Selection).\n\n"
        + table(("Status of N-ACTION and N-EVENT-REPORT", "Meaning"), messages)
    )


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
        ("Largest PDU accepted", bytes_of(dicom.maximum_pdu_bytes)),
        ("Largest object accepted", bytes_of(dicom.maximum_object_bytes)),
        ("Who may connect", _callers(dicom)),
        ("Called AE title", "must be ours" if dicom.require_called_ae_title else "any"),
        ("Asynchronous operations window", "not supported (one operation at a time)"),
        ("User identity", _identity(dicom)),
        ("SOP class extended negotiation", "not supported"),
        ("Time to an association request", time_of(dicom.request_timeout)),
        ("Silence after which we abort", time_of(dicom.idle_timeout)),
    ]


def _fate(uid: str) -> str:
    if uid == VERIFICATION:
        return "answered"
    return "kept and scored" if uid in SCORED_CLASSES else "kept, never scored"


def _callers(dicom: DicomConfig) -> str:
    count = len(dicom.peers) + len(dicom.calling_ae_titles)
    return f"{count} configured AE titles" if count else "anybody"


def _identity(dicom: DicomConfig) -> str:
    if dicom.require_user_identity:
        return "required"
    return "ignored" if dicom.users_file is None else "checked where offered"
