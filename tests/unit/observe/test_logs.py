"""Logs say what happened, and nothing of the patient."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from pydicom.dataset import Dataset

from dicom_node.config import LogConfig
from dicom_node.errors import BadInput, short_uid
from dicom_node.observe.logs import configure_logging

UID = "1.2.840.113619.2.1"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook
    yield
    sys.excepthook, threading.excepthook = hooks
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
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


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_shape_of_value_carries_a_patient_or_a_uid(
    style: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogConfig(format=style), "test")
    data_set = Dataset()
    data_set.PatientName = "MARKER"
    structlog.get_logger().warning(
        f"SR_{UID}.dcm of x{UID}",
        path=Path(f"/store/SR_{UID}.dcm"),
        nested=[{"patient_id": "MARKER", UID: (UID,)}],
        data_set=data_set,
        name=data_set.PatientName,
        error=ValueError(f"MARKER {UID}"),
    )
    logging.getLogger("some.library").error("read %s in %s", UID, [f"CT{UID}"])
    text = capsys.readouterr().err
    assert "MARKER" not in text
    assert "113619" not in text
    assert text.count(short_uid(UID)) == 7


def test_plain_values_keep_their_kind(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogConfig(format="json"), "test")
    structlog.get_logger().info(
        "x", n=3, p=0.5, none=None, yes=True, count=np.int64(4), ip="10.0.0.1"
    )
    (line,) = lines(capsys)
    assert [line[key] for key in ("n", "p", "none", "yes", "count", "ip")] == [
        3, 0.5, None, True, 4, "10.0.0.1",
    ]  # fmt: skip


def test_our_own_errors_keep_their_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogConfig(format="json"), "test")
    try:
        raise BadInput(f"Rows (0028,0010) of {UID} is empty")
    except BadInput as error:
        structlog.get_logger().exception("failed", error=error)
    (line,) = lines(capsys)
    assert line["error"] == f"Rows (0028,0010) of {short_uid(UID)} is empty"
    assert line["exception"].startswith("BadInput: Rows (0028,0010)")


def test_a_thread_that_dies_is_logged_with_its_process_and_without_its_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogConfig(format="json"), "deliver")

    def die() -> None:
        raise ValueError(f"MARKER {UID}")

    thread = threading.Thread(target=die, name="courier")
    thread.start()
    thread.join()
    (line,) = lines(capsys)
    assert (line["process"], line["thread"]) == ("deliver", "courier")
    assert line["exception"].startswith("ValueError at test_a_thread_that_dies")
    assert "MARKER" not in str(line)


def test_a_process_that_dies_does_not_print_what_the_error_quotes() -> None:
    program = (
        "from dicom_node.config import LogConfig\n"
        "from dicom_node.observe.logs import configure_logging\n"
        "configure_logging(LogConfig(format='json'), 'score')\n"
        f"raise ValueError(''.join(['MAR', 'KER {UID}']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    line = json.loads(done.stderr)
    assert (line["action"], line["process"]) == ("process_died", "score")
    assert "MARKER" not in done.stderr


def test_ids_bound_once_are_in_every_line_of_their_job(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogConfig(format="json"), "score")
    with structlog.contextvars.bound_contextvars(job=7):
        structlog.get_logger().info("scoring")
        logging.getLogger("some.library").warning("slow")
    structlog.get_logger().info("idle")
    assert [line.get("job") for line in lines(capsys)] == [7, 7, None]
