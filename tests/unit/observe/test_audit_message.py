"""DICOM audit messages: PS3.15 A.5, its schema and its rules for each event."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest
from pydicom.sr.codedict import codes

from dicom_node.observe import audit_message
from dicom_node.observe.audit import AuditEvent, AuditTrail, Outcome, StudyPart, Who
from dicom_node.observe.audit_message import dicom_message
from dicom_node.observe.audit_verify import records_since
from tests.unit.observe.audit_schema import violations

STUDY = StudyPart("1.2.3.4", "Ö<17>", {"1.2.840.10008.5.1.4.1.1.2": 40})


def message(folder: Path, event: AuditEvent, **record: Any) -> Element:
    audit = AuditTrail(
        folder, source="NODE@host", process="web", clock=lambda: datetime(2026, 11, 21, tzinfo=UTC)
    )
    audit.record(event, **record)
    return fromstring(dicom_message(list(records_since(folder, None))[-1], site="Site 1"))


@pytest.mark.parametrize("event", AuditEvent)
@pytest.mark.parametrize(
    "record",
    [
        {},
        {"who": Who(ae_title="PACS", host="10.0.0.1"), "study": STUDY, "job": 3},
        {"who": Who(user="jo", host="pc.example.org"), "outcome": Outcome.SERIOUS_FAILURE},
        {"who": Who(host="::1"), "study": StudyPart("1.2"), "reason": "line\nfeed \x1b \"<&'"},
        {
            "study": StudyPart("1.2", "a\x00  b\\\x1b\ufffe "),
            "outcome": Outcome.MINOR_FAILURE,
            "reason": "line\nfeed \x1b",
            "who": Who(ae_title="A\x07B"),
        },
    ],
)
def test_every_message_follows_the_schema(
    tmp_path: Path, event: AuditEvent, record: dict[str, Any]
) -> None:
    assert list(violations(message(tmp_path, event, **record))) == []


def test_the_schema_check_sees_what_is_wrong(tmp_path: Path) -> None:
    made = message(tmp_path, AuditEvent.RESULTS_SENT, study=STUDY)
    made[0].set("EventOutcomeIndicator", "1")
    made[0].remove(made[0][0])
    made.append(made[1])
    found = list(violations(made))
    assert "EventIdentification EventOutcomeIndicator='1'" in found
    assert "EventIdentification has 0 EventID" in found
    assert any("not in order" in item for item in found)


def test_codes_and_meanings_are_those_of_the_dicom_ontology() -> None:
    known = {
        code.value: code.meaning
        for name in codes.DCM.dir()
        if (code := getattr(codes.DCM, name)).value in audit_message._MEANING
    }
    assert known == audit_message._MEANING


def coded(element: Element | None) -> tuple[str | None, str | None]:
    assert element is not None
    return element.get("csd-code"), element.get("codeSystemName")


@pytest.mark.parametrize(
    ("event", "event_id", "type_code", "action"),
    [
        (AuditEvent.APPLICATION_STARTED, "110100", "110120", "E"),
        (AuditEvent.APPLICATION_STOPPED, "110100", "110121", "E"),
        (AuditEvent.AUDIT_LOG_USED, "110101", None, "R"),
        (AuditEvent.STUDY_SCORED, "110103", None, "R"),
        (AuditEvent.INSTANCES_RECEIVED, "110104", None, "C"),
        (AuditEvent.RESULTS_SENT, "110104", None, "R"),
        (AuditEvent.DATA_DELETED, "110105", None, "D"),
        (AuditEvent.RESULTS_EXPORTED, "110106", None, "R"),
        (AuditEvent.NODE_AUTHENTICATION_FAILED, "110113", "110126", "E"),
        (AuditEvent.CONFIGURATION_CHANGED, "110113", "110129", "E"),
        (AuditEvent.MODEL_CHANGED, "110113", "110131", "E"),
        (AuditEvent.ASSOCIATION_ACCEPTED, "110114", "110122", "E"),
    ],
)
def test_events_have_their_codes(
    tmp_path: Path, event: AuditEvent, event_id: str, type_code: str | None, action: str
) -> None:
    identification = message(tmp_path, event).find("EventIdentification")
    assert identification is not None
    assert coded(identification.find("EventID")) == (event_id, "DCM")
    assert identification.get("EventActionCode") == action
    found = identification.find("EventTypeCode")
    assert (found.get("csd-code") if found is not None else None) == type_code


@pytest.mark.parametrize(
    ("event", "sender", "receiver", "requestor"),
    [
        (AuditEvent.INSTANCES_RECEIVED, "PACS", "NODE@host/web", "PACS"),
        (AuditEvent.RESULTS_SENT, "NODE@host/web", "PACS", "NODE@host/web"),
    ],
)
def test_a_transfer_names_both_processes_study_and_patient(
    tmp_path: Path, event: AuditEvent, sender: str, receiver: str, requestor: str
) -> None:
    made = message(tmp_path, event, who=Who(ae_title="PACS", host="10.0.0.1"), study=STUDY)
    roles = {coded(item.find("RoleIDCode"))[0]: item for item in made.iter("ActiveParticipant")}
    assert roles["110153"].get("UserID") == sender
    assert roles["110152"].get("UserID") == receiver
    assert [
        item.get("UserID") for item in roles.values() if item.get("UserIsRequestor") == "true"
    ] == [requestor]
    study, patient = made.iter("ParticipantObjectIdentification")
    assert coded(study.find("ParticipantObjectIDTypeCode")) == ("110180", "DCM")
    assert study.get("ParticipantObjectID") == "1.2.3.4"
    assert (study.get("ParticipantObjectTypeCode"), study.get("ParticipantObjectTypeCodeRole")) == (
        "2", "3",
    )  # fmt: skip
    held = study.find("ParticipantObjectDescription/SOPClass")
    assert held is not None
    assert held.attrib == {"UID": "1.2.840.10008.5.1.4.1.1.2", "NumberOfInstances": "40"}
    assert coded(patient.find("ParticipantObjectIDTypeCode")) == ("2", "RFC-3881")
    assert patient.get("ParticipantObjectID") == "Ö<17>"
    assert patient.get("ParticipantObjectTypeCodeRole") == "1"


def test_a_failure_says_why_and_a_message_leads_back_to_its_record(tmp_path: Path) -> None:
    made = message(
        tmp_path,
        AuditEvent.ASSOCIATION_REFUSED,
        outcome=Outcome.SERIOUS_FAILURE,
        who=Who(ae_title="EVIL", host="10.0.0.9"),
        reason="calling_ae_title_not_recognized",
    )
    assert made.findtext("EventIdentification/EventOutcomeDescription") == (
        "calling_ae_title_not_recognized"
    )
    details = {
        item.get("type"): base64.b64decode(item.get("value", "")).decode()
        for item in made.iter("ParticipantObjectDetail")
    }
    assert details["record"] == "1"
    assert details["event"] == "association_refused"
    source = made.find("AuditSourceIdentification")
    assert source is not None
    assert (source.get("AuditSourceID"), source.get("AuditEnterpriseSiteID")) == (
        "NODE@host", "Site 1",
    )  # fmt: skip
