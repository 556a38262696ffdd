"""A film of an honest header whose scoring takes more memory than a job may have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.process import memory_of
from tests.e2e.harness import storescu
from tests.e2e.studies import radiograph
from tests.faults.poison.evidence import quarantined
from tests.faults.stages import StageKeeper

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow]

MEMORY_LIMIT = 1_700_000_000
LARGE = 7900  # rows and columns; just below the largest frame that is decoded


def large_film(folder: Path) -> Path:
    """A film of an honest header whose scoring takes more than a gigabyte."""
    path = radiograph(folder, "large")
    made = dcmread(path)
    pixels = made.pixel_array
    times = LARGE // min(pixels.shape) + 1
    large = np.kron(pixels, np.ones((times, times), pixels.dtype))[:LARGE, :LARGE]
    made.Rows, made.Columns = large.shape
    made.PixelData = np.ascontiguousarray(large).tobytes()
    made.save_as(path)
    return path


def test_a_job_that_takes_more_memory_than_it_may_is_parked_and_the_others_go_on(
    keep_stages: Callable[..., StageKeeper], tmp_path: Path
) -> None:
    keeper = keep_stages(scoring={"job_memory_bytes": MEMORY_LIMIT})
    assert (memory_of(keeper.pid("score-worker")) or 0) < MEMORY_LIMIT - 300_000_000
    port = keeper.config.dicom.port
    assert port is not None

    storescu(port, [large_film(tmp_path), radiograph(tmp_path, "good")])

    greedy = quarantined(keeper, 2)
    assert f"memory limit of {MEMORY_LIMIT} bytes" in greedy["reason"]
    for item in greedy["attempt_log"]:
        assert item["peak_memory_bytes"] > MEMORY_LIMIT
    assert {stage for stage, _ in keeper.deaths} == {"score-worker"}
