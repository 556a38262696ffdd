"""Storage commitment messages: values to data sets and back, and what is no message."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node.domain.commitment import (
    CommitmentReport,
    CommitmentRequest,
    Reference,
    Remedy,
    judge_failure,
)
from dicom_node.errors import BadInput
from dicom_node.storage_commitment import read_report, read_request, write_report, write_request
from dicom_node.store.commitment_box import AnswerState, CommitmentBox
from tests.attributes import change

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ONE, TWO = Reference("1.2.840.1", "1.2.3"), Reference("1.2.840.2", "1.2.4")
REQUEST = CommitmentRequest("2.25.1", (ONE, TWO))
REPORT = CommitmentReport("2.25.1", (ONE,), ((TWO, 0x0112),))


@pytest.fixture
def box(tmp_path: Path) -> CommitmentBox:
    made = CommitmentBox(tmp_path / "commitment")
    made.prepare()
    return made


def test_a_request_and_a_report_survive_the_wire() -> None:
    assert read_request(write_request(REQUEST)) == REQUEST
    event_type, information = write_report(REPORT)
    assert (event_type, read_report(information)) == (2, REPORT)
    committed = CommitmentReport("2.25.1", (ONE, TWO))
    event_type, information = write_report(committed)
    assert (event_type, read_report(information)) == (1, committed)
    assert "FailedSOPSequence" not in information


def broken(**changes: object) -> Dataset:
    return change(write_request(REQUEST), changes)


@pytest.mark.parametrize(
    "data_set",
    [
        Dataset(),
        broken(TransactionUID=None),
        broken(TransactionUID=""),
        broken(ReferencedSOPSequence=None),
        broken(ReferencedSOPSequence=[]),
        broken(ReferencedSOPSequence=[Dataset()]),
    ],
)
def test_what_is_no_request_is_said_so(data_set: Dataset) -> None:
    with pytest.raises(BadInput):
        read_request(data_set)


def test_a_failure_without_reason_is_no_report() -> None:
    _, information = write_report(REPORT)
    del information.FailedSOPSequence[0].FailureReason
    with pytest.raises(BadInput):
        read_report(information)


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (0x0110, Remedy.ASK_AGAIN),
        (0x0112, Remedy.SEND_AGAIN),
        (0x0119, Remedy.PARK),
        (0x0122, Remedy.PARK),
        (0x0131, Remedy.ASK_AGAIN),
        (0x0213, Remedy.ASK_AGAIN),
        (0xC123, Remedy.SEND_AGAIN),
    ],
)
def test_a_failure_reason_has_a_remedy_and_a_sentence(reason: int, remedy: Remedy) -> None:
    judged, sentence = judge_failure(reason)
    assert judged is remedy
    assert f"0x{reason:04X}" in sentence


def test_letters_keep_their_order_and_content(box: CommitmentBox) -> None:
    assert not box.any_report()
    box.put_report(REPORT, calling_ae_title="PACS", now=NOW)
    name = box.put_request(REQUEST, calling_ae_title="CT1", now=NOW)
    assert box.any_report() and box.any_request()  # noqa: PT018 - one fact
    (report,), (request,) = box.reports(), box.requests()
    assert (report.report, report.calling_ae_title, report.received_at) == (REPORT, "PACS", NOW)
    assert (request.request, request.name) == (REQUEST, name)
    box.remove(report.path)
    assert not box.any_report()


def test_an_unreadable_letter_stands_aside(box: CommitmentBox, tmp_path: Path) -> None:
    (tmp_path / "commitment" / "reports" / "0.json").write_bytes(b"{")
    box.put_report(REPORT, calling_ae_title="PACS", now=NOW)
    assert [item.report for item in box.reports()] == [REPORT]
    assert (tmp_path / "commitment" / "reports" / "0.unreadable").exists()


def test_one_hand_only_holds_an_answer(box: CommitmentBox) -> None:
    box.put_answer("n", REPORT)
    assert box.answer_state("n") is AnswerState.WAITING
    assert box.hold_answer("n") == REPORT
    assert box.hold_answer("n") is None
    assert box.answer_state("n") is AnswerState.HELD
    box.let_go("n")
    assert box.hold_answer("n") == REPORT
    box.mark_sent("n")
    assert box.answer_state("n") is AnswerState.SENT
    box.forget_answer("n")
    assert box.answer_state("n") is AnswerState.ABSENT
