"""What a C-STORE status means for a delivery."""

from __future__ import annotations

import pytest

from dicom_node.deliver.statuses import judge_status
from dicom_node.errors import DeliveryRejected, DestinationUnavailable


def test_success_needs_no_remark() -> None:
    assert judge_status(0x0000) == (None, None)


@pytest.mark.parametrize("status", [0x0107, 0x0111, 0x0116, 0xB000, 0xB006, 0xB007, 0xB123, 0xBFFF])
def test_warnings_and_duplicates_count_as_delivered(status: int) -> None:
    remark, error = judge_status(status)
    assert error is None
    assert remark is not None
    assert f"0x{status:04X}" in remark


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0xA7FF, 0x0110, 0x0213])
def test_lack_of_resources_passes(status: int) -> None:
    remark, error = judge_status(status)
    assert remark is None
    assert isinstance(error, DestinationUnavailable)


@pytest.mark.parametrize(
    "status", [0x0117, 0x0122, 0x0124, 0xA800, 0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x9999, 0xFE00]
)
def test_everything_else_needs_a_person(status: int) -> None:
    remark, error = judge_status(status)
    assert remark is None
    assert isinstance(error, DeliveryRejected)
    assert f"0x{status:04X}" in str(error)
