"""Whom the receiver lets in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicom_node.receive.admission import Admission, Refusal

OPEN_HOUSE = Admission("NODE", (), require_called_ae_title=False, max_associations=2)
STRICT = replace(OPEN_HOUSE, calling_ae_titles=("PACS",), require_called_ae_title=True)


@pytest.mark.parametrize(
    ("admission", "calling", "called", "others", "draining", "expected"),
    [
        (OPEN_HOUSE, "ANY", "OTHER", 0, False, None),
        (OPEN_HOUSE, "ANY", "NODE", 2, False, Refusal.LOCAL_LIMIT_EXCEEDED),
        (OPEN_HOUSE, "ANY", "NODE", 0, True, Refusal.TEMPORARY_CONGESTION),
        (STRICT, "PACS", "NODE", 1, False, None),
        (STRICT, "  PACS ", " NODE", 1, False, None),
        (STRICT, "pacs", "NODE", 0, False, Refusal.CALLING_AE_TITLE_NOT_RECOGNIZED),
        (STRICT, "PACS", "NODE2", 0, False, Refusal.CALLED_AE_TITLE_NOT_RECOGNIZED),
        (STRICT, "MALLORY", "NODE", 9, True, Refusal.CALLING_AE_TITLE_NOT_RECOGNIZED),
    ],
)
def test_a_caller_is_let_in_or_refused_with_the_standards_reason(
    admission: Admission,
    calling: str,
    called: str,
    others: int,
    draining: bool,
    expected: Refusal | None,
) -> None:
    refusal = admission.refuse(
        calling=calling, called=called, open_associations=others, draining=draining
    )
    assert refusal is expected
