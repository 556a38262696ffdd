"""What `check` says of a DICOMweb destination."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.cli.check_dicomweb import dicomweb
from dicom_node.config_destinations import DicomwebConfig
from tests.e2e.harness import free_port
from tests.faults.destinations.dicomweb import DicomwebPeer, Script
from tests.faults.destinations.test_stow import HTML, hangs_before_the_answer, says


@pytest.fixture
def peer() -> Iterator[DicomwebPeer]:
    """A scripted service, listening."""
    service = DicomwebPeer()
    yield service
    service.stop()


def said(settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Part, state, and found with what to do."""
    verdicts = dicomweb("cloud", DicomwebConfig.model_validate(settings))
    return [(item.part, item.state, f"{item.found}; {item.mend}") for item in verdicts]


@pytest.mark.parametrize(
    ("script", "confirm", "state", "words"),
    [
        (says(200, b"[]"), "status", "ok", "answers QIDO-RS"),
        (says(204), "query", "ok", "answers QIDO-RS"),
        (says(401), "status", "failed", "check basic_auth_file or bearer_token_file"),
        (says(403), "status", "warning", "nothing, if it is there to store alone"),
        (says(405), "query", "failed", "set confirm: status"),
        (says(404), "status", "failed", "there is no such service; check url"),
        (says(200, HTML, "text/html"), "status", "failed", "answers with a web page"),
        (
            says(301, Location="http://other.example/"),
            "status",
            "failed",
            "redirects to http://oth",
        ),
        (says(503), "status", "failed", "HTTP 503"),
        (hangs_before_the_answer, "status", "failed", "gave no answer within 0.5 s"),
    ],
)
def test_the_answer_to_a_query_is_judged(
    script: Script, confirm: str, state: str, words: str, peer: DicomwebPeer
) -> None:
    peer.query_scripts = [script]
    ((part, found_state, text),) = said(peer.destination(confirm=confirm, response_timeout=0.5))
    assert (part, found_state) == ("destination", state)
    assert text.startswith("cloud: ")
    assert words in text
    assert peer.requests[0][:2] == ("GET", "/rs/studies?limit=1")


def test_nobody_there_is_named() -> None:
    ((part, state, text),) = said({"url": f"http://127.0.0.1:{free_port()}"})
    assert (part, state) == ("destination", "failed")
    assert "refused the connection" in text


def test_credentials_that_others_may_read_are_a_warning(peer: DicomwebPeer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hidden")
    file.chmod(0o644)
    peer.query_scripts = [says(200, b"[]")] * 2
    settings = peer.destination(bearer_token_file=file)
    _, (part, state, text) = said(settings)
    assert (part, state) == ("credentials", "warning")
    assert f"chmod 600 {file}" in text
    file.chmod(0o600)
    assert len(said(settings)) == 1
    assert "hidden" not in text


def test_credentials_that_travel_in_the_open_are_a_warning(tmp_path: Path) -> None:
    settings = {"url": "http://no-such-host.invalid/rs", "bearer_token_file": tmp_path / "token"}
    (tmp_path / "token").write_text("hidden")
    (first, state, text), _ = said(settings)
    assert (first, state) == ("destination", "warning")
    assert "travel unencrypted" in text
    assert [verdict[1] for verdict in said({**settings, "url": "https://nowhere.invalid"})] == [
        "failed"
    ]
