"""Audit records as DICOM audit messages: the XML of PS3.15 A.5, codes of PS3.16 CID 400 to 404.

Participants of messages about instances are the two processes; of the others, whoever acted. The
schema demands a name or a query of each object: names of patients are not recorded, so the name
repeats the identifier.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement, tostring

from dicom_node.observe.audit import AuditEvent

_DCM: Final = "DCM"
_APPLICATION_SERVER: Final = "4"  # Audit Source Type Code, PS3.15 A.5.1.2.1
_PERSON, _SYSTEM_OBJECT = "1", "2"  # Participant Object Type Code
_PATIENT, _REPORT, _SECURITY_RESOURCE = "1", "3", "13"  # Participant Object Type Code Role
_MACHINE_NAME, _IP_ADDRESS = "1", "2"  # Network Access Point Type Code

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_AUDIT_LOG: Final = "Security Audit Log"  # its name, PS3.15 A.5.3.2

_MEANING: Final = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110103": "DICOM Instances Accessed",
    "110104": "DICOM Instances Transferred",
    "110105": "DICOM Study Deleted",
    "110106": "Export",
    "110113": "Security Alert",
    "110114": "User Authentication",
    "110120": "Application Start",
    "110121": "Application Stop",
    "110122": "Login",
    "110123": "Logout",
    "110126": "Node Authentication",
    "110129": "Security Configuration",
    "110131": "Software Configuration",
    "110132": "Use of Restricted Function",
    "110133": "Audit Recording Stopped",
    "110134": "Audit Recording Started",
    "110150": "Application",
    "110152": "Destination Role ID",
    "110153": "Source Role ID",
    "110180": "Study Instance UID",
    "110182": "Node ID",
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of record is said in DICOM.

    Attributes
    ----------
    event_id, action, event_type
        EventID (CID 400), EventActionCode, EventTypeCode (CID 401 and 403).
    roles
        RoleIDCode (CID 402) of the other side and of this node.
    other_requests
        UserIsRequestor of the other side; this node's is the opposite.
    """

    event_id: str
    action: str
    event_type: str | None = None
    roles: tuple[str | None, str | None] = (None, None)
    other_requests: bool = True


_TO_US: Final = ("110153", "110152")
_FROM_US: Final = ("110152", "110153")

_KINDS: Final[Mapping[AuditEvent, _Kind]] = {
    AuditEvent.APPLICATION_STARTED: _Kind("110100", "E", "110120", (None, "110150")),
    AuditEvent.APPLICATION_STOPPED: _Kind("110100", "E", "110121", (None, "110150")),
    AuditEvent.ASSOCIATION_ACCEPTED: _Kind("110114", "E", "110122"),
    AuditEvent.ASSOCIATION_ENDED: _Kind("110114", "E", "110123"),
    AuditEvent.ASSOCIATION_REFUSED: _Kind("110113", "E", "110126"),
    AuditEvent.NODE_AUTHENTICATION_FAILED: _Kind("110113", "E", "110126"),
    # "C": the receiver did not hold these copies; "R": the sender cannot know (A.5.3.7)
    AuditEvent.INSTANCES_RECEIVED: _Kind("110104", "C", None, _TO_US),
    AuditEvent.STUDY_SCORED: _Kind("110103", "R"),
    AuditEvent.RESULTS_SENT: _Kind("110104", "R", None, _FROM_US, other_requests=False),
    AuditEvent.RESULTS_VIEWED: _Kind("110103", "R"),
    AuditEvent.RESULTS_EXPORTED: _Kind("110106", "R", None, _FROM_US),
    AuditEvent.CONFIGURATION_CHANGED: _Kind("110113", "E", "110129"),
    AuditEvent.MODEL_CHANGED: _Kind("110113", "E", "110131"),
    AuditEvent.DECISION_BY_PERSON: _Kind("110113", "E", "110132"),
    AuditEvent.DATA_DELETED: _Kind("110105", "D"),
    AuditEvent.AUDIT_LOG_USED: _Kind("110101", "R"),
    AuditEvent.RECORDS_LOST: _Kind("110113", "E", "110133"),
    AuditEvent.TRAIL_RECOVERED: _Kind("110113", "E", "110134"),
}


def dicom_message(record: Mapping[str, Any], *, site: str | None = None) -> bytes:
    """Make the AuditMessage of one record, UTF-8, on one line.

    Parameters
    ----------
    record
        As read back from the trail.
    site
        AuditEnterpriseSiteID.

    Raises
    ------
    KeyError, ValueError
        Not a record of this version.
    """
    event = AuditEvent(record["event"])
    kind = _KINDS[event]
    message = Element("AuditMessage")
    identification = SubElement(
        message,
        "EventIdentification",
        EventActionCode=kind.action,
        EventDateTime=record["at"],
        EventOutcomeIndicator=str(record["outcome"]),
    )
    _coded(identification, "EventID", kind.event_id)
    if kind.event_type is not None:
        _coded(identification, "EventTypeCode", kind.event_type)
    if record["outcome"]:
        facts = record.get("facts", {})
        told = facts.get("reason") or facts.get("detail") or event.value.replace("_", " ")
        SubElement(identification, "EventOutcomeDescription").text = _token(str(told))
    _add_participants(message, record, kind)
    source_id = _token(record["source"])
    source = SubElement(message, "AuditSourceIdentification", AuditSourceID=source_id)
    if site is not None:
        source.set("AuditEnterpriseSiteID", site)
    SubElement(source, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    _add_objects(message, record, kind)
    document: bytes = tostring(message, encoding="utf-8", xml_declaration=True)
    return document.replace(b"\n", b"")


def _token(value: str) -> str:
    """What an XML attribute of type token can hold: data sets hold control characters, too."""
    return " ".join(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value).split())


def _coded(parent: Element, name: str, code: str, system: str = _DCM, text: str = "") -> Element:
    meaning = text or _MEANING[code]
    coded = {"csd-code": code, "codeSystemName": system, "originalText": meaning}
    return SubElement(parent, name, coded)


def _add_participants(message: Element, record: Mapping[str, Any], kind: _Kind) -> None:
    who = record.get("who", {})
    requests = bool(who) and kind.other_requests
    ours = _participant(
        message, f"{record['source']}/{record['process']}", not requests, kind.roles[1]
    )
    ours.set("AlternativeUserID", str(record["pid"]))
    if not who:
        return
    name = who.get("user") or who.get("ae_title") or who.get("host", "unknown")
    other = _participant(message, name, requests, kind.roles[0])
    if who.get("ae_title"):
        other.set("AlternativeUserID", _token(f"AETITLES={who['ae_title']}"))
    if host := who.get("host"):
        other.set("NetworkAccessPointID", host)
        other.set("NetworkAccessPointTypeCode", _IP_ADDRESS if _is_address(host) else _MACHINE_NAME)


def _participant(message: Element, user_id: str, requests: bool, role: str | None) -> Element:
    values = {"UserID": _token(user_id), "UserIsRequestor": "true" if requests else "false"}
    made = SubElement(message, "ActiveParticipant", values)
    if role is not None:
        _coded(made, "RoleIDCode", role)
    return made


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _add_objects(message: Element, record: Mapping[str, Any], kind: _Kind) -> None:
    study, details = record.get("study"), list(_details(record))
    if study is not None:
        uid = study["study_instance_uid"]
        made = _object(message, uid, _SYSTEM_OBJECT, _REPORT, ("110180", _DCM, ""), details)
        described = SubElement(made, "ParticipantObjectDescription")
        for sop_class, count in study["sop_classes"].items():
            SubElement(described, "SOPClass", UID=sop_class, NumberOfInstances=str(count))
        patient = study["patient_id"] or "none"
        _object(message, patient, _PERSON, _PATIENT, ("2", "RFC-3881", "Patient Number"), [])
    elif kind.event_id == "110101":
        place = f"urn:dicom_node:audit:{record['source']}"
        id_type = ("12", "RFC-3881", "URI")
        _object(message, place, _SYSTEM_OBJECT, _SECURITY_RESOURCE, id_type, details, _AUDIT_LOG)
    else:
        # The alert subject of A.5.3.11: this node; what happened stands in its details.
        subject = record["source"]
        _object(message, subject, _SYSTEM_OBJECT, _SECURITY_RESOURCE, ("110182", _DCM, ""), details)


def _details(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    # The record's place in the chain: a message can be held against the trail it came from.
    yield "record", str(record["n"])
    yield "previous record SHA-256", record["prev"]
    yield "event", record["event"]
    for name, value in record.get("facts", {}).items():
        yield name, str(value)


def _object(
    message: Element,
    identifier: str,
    object_type: str,
    role: str,
    id_type: tuple[str, str, str],
    details: list[tuple[str, str]],
    name: str = "",
) -> Element:
    identifier = _token(identifier)
    made = SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=identifier,
        ParticipantObjectTypeCode=object_type,
        ParticipantObjectTypeCodeRole=role,
    )
    _coded(made, "ParticipantObjectIDTypeCode", *id_type)
    SubElement(made, "ParticipantObjectName").text = name or identifier
    for kind, value in details:
        encoded = base64.b64encode(value.encode()).decode("ascii")
        SubElement(made, "ParticipantObjectDetail", type=kind, value=encoded)
    return made
