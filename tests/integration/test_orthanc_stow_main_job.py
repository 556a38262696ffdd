"""The whole path with a DICOMweb archive: in by C-STORE, results back by STOW-RS and confirmed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.e2e.harness import RESULT_SECONDS, Node, free_port, wait_for
from tests.e2e.studies import rg1
from tests.integration.orthanc import Orthanc

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

USER = ("node", "secret-of-the-archive")


def test_results_go_by_stow_to_an_archive_with_a_password_byte_for_byte(
    start_orthanc: Callable[..., Orthanc],
    start_node: Callable[..., Node],
    database_url: str,
    tmp_path: Path,
) -> None:
    port = free_port()
    orthanc = start_orthanc(node_port=port, user=USER)
    (tmp_path / "credentials").write_text(":".join(USER))
    cloud = {
        "url": orthanc.dicomweb_url,
        "basic_auth_file": str(tmp_path / "credentials"),
        "confirm": "query",
        "query_after": 0.5,
    }
    node = start_node(
        send_to=["cloud"],
        destinations={"cloud": cloud},
        database_url=database_url,
        dicom={"port": port},
        log={"format": "json", "level": "debug"},
    )
    source = dcmread(rg1())
    orthanc.upload(rg1())
    expected = Counter({source.Modality: 1, "SR": 1, "OT": 1})
    wait_for(
        lambda: orthanc.modalities(source.StudyInstanceUID) == expected,
        2 * RESULT_SECONDS,
        f"{expected} in Orthanc, see {node.log}",
    )
    wait_for(
        lambda: node.log.read_text().count('"result_delivered"') == 2,
        RESULT_SECONDS,
        f"both are confirmed, see {node.log}",
    )
    results = {path.read_bytes() for path in node.config.store_dir.glob("results/**/*.dcm")}
    assert len(results) == 2
    assert results <= set(orthanc.files())
    log = node.log.read_text()
    for secret in (USER[1], "Basic ", "/dicom-web/studies", source.StudyInstanceUID):
        assert secret not in log
