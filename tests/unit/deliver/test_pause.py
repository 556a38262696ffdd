"""An answer reaches whoever asked, however slowly the library's reactor leaves a pause."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.association import associate
from dicom_node.deliver.pause import ReactorPause
from tests.e2e.harness import StoreScp

REQUESTS = 8
SLOW_SECONDS = 0.05


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[DestinationConfig]:
    scp = StoreScp(tmp_path / "archive")
    scp.start()
    yield DestinationConfig(
        ae_title="ARCHIVE",
        host="127.0.0.1",
        port=scp.port,
        response_timeout=timedelta(seconds=3),
    )
    scp.stop()


@pytest.mark.dcmtk
def test_no_answer_is_taken_by_a_reactor_that_is_slow_to_leave_its_pause(
    archive: DestinationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the machine gives the reactor's thread no time just then.
    leave = ReactorPause.wait

    def leave_slowly(pause: ReactorPause, timeout: float | None = None) -> bool:
        went_on = leave(pause, timeout)
        time.sleep(SLOW_SECONDS)
        return went_on

    monkeypatch.setattr(ReactorPause, "wait", leave_slowly)
    with associate(archive, "NODE", [build_context(Verification)]) as association:
        for _ in range(REQUESTS):
            assert association.send_c_echo().get("Status") == 0x0000
    assert association.is_released
