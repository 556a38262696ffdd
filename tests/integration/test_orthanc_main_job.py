"""A real Orthanc forwards by its own rule and finds one SR and one SC more in each study."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from tests.e2e.harness import RESULT_SECONDS, Node, free_port, wait_for
from tests.e2e.studies import CT_SLICES, radiograph, real_ct, rg1
from tests.integration.orthanc import Orthanc

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber")
# Past StableAge (1 s) and the node's own pauses: time enough for a loop to show itself.
SETTLE_SECONDS = 6.0
RESULTS = Counter({"SR": 1, "OT": 1})


def everything(orthanc: Orthanc, studies: Sequence[Dataset]) -> dict[str, Counter[str]]:
    """Modality counts of each study, as Orthanc's REST interface tells them."""
    uids = [str(study.StudyInstanceUID) for study in studies]
    return {uid: orthanc.modalities(uid) for uid in uids}


def test_orthanc_shows_one_sr_and_one_sc_more_in_each_study_and_sending_again_changes_nothing(
    start_orthanc: Callable[..., Orthanc],
    start_node: Callable[..., Node],
    database_url: str,
    tmp_path: Path,
) -> None:
    node_port = free_port()
    # Long enough that slices which are slow to come are still one study.
    orthanc = start_orthanc(node_port=node_port, stable_age=5)
    start_node(send_to=[orthanc.peer], database_url=database_url, dicom={"port": node_port})
    child = radiograph(tmp_path, "child")
    ct = real_ct(tmp_path / "ct", "adult")
    sources = [dcmread(path) for path in (rg1(), child, ct[0])]
    expected = {
        str(source.StudyInstanceUID): RESULTS + Counter({source.Modality: count})
        for source, count in zip(sources, (1, 1, CT_SLICES), strict=True)
    }

    for path in (rg1(), child, *ct):
        orthanc.upload(path)
    wait_for(
        lambda: everything(orthanc, sources) == expected,
        2 * RESULT_SECONDS,
        f"{expected} in Orthanc, see {orthanc.log}",
    )
    for source in sources:
        for stored in orthanc.datasets(source.StudyInstanceUID):
            told = {keyword: stored.get(keyword) for keyword in IDENTITY}
            assert told == {keyword: source.get(keyword) for keyword in IDENTITY}

    transfers = len(orthanc.transfers())
    for path in (rg1(), child, *ct):
        orthanc.upload(path)
    wait_for(
        lambda: all(orthanc.is_stable(source.StudyInstanceUID) for source in sources),
        SETTLE_SECONDS * 5,
        "the studies are stable again",
    )
    time.sleep(SETTLE_SECONDS)
    assert everything(orthanc, sources) == expected
    assert len(orthanc.transfers()) == transfers
