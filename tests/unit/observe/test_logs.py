"""Logs say what happened, and nothing of the patient."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from dicom_node.config import LogConfig
from dicom_node.observe.logs import configure_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_patient_attributes_and_uids_do_not_get_through(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogConfig(format="json"), "test")
    log = structlog.get_logger()
    log.info("study 1.2.840.113619.2.1 stored", patient_name="MARKER", uid="1.2.840.113619.2.1")
    logging.getLogger("some.library").warning("read 1.2.840.113619.2.1")
    logging.getLogger("py.warnings").warning("the name MARKER is unusual")
    text = capsys.readouterr().err
    assert "MARKER" not in text
    assert "113619" not in text
    assert text.count("uid:") == 3


def test_an_exception_gives_its_place_but_not_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogConfig(format="json"), "test")
    try:
        raise ValueError("bad name MARKER")
    except ValueError:
        structlog.get_logger().exception("failed", action="failed")
    (line,) = lines(capsys)
    assert line["exception"].startswith("ValueError at test_an_exception")
    assert "MARKER" not in str(line)


def test_every_line_has_level_time_and_process(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogConfig(format="json", level="warning"), "receive")
    log = structlog.get_logger()
    log.info("not shown")
    log.warning("shown", action="shown")
    (line,) = lines(capsys)
    assert (line["process"], line["level"], line["action"]) == ("receive", "warning", "shown")
    assert line["timestamp"].endswith("Z")
