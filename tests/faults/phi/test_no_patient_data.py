"""No word of a patient leaves the data sets, except to the audit trail."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from tests.faults.phi.conftest import Traces
from tests.faults.phi.marked import DESCRIPTION, MARKERS
from tests.unit.observe.audit_schema import violations

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow]

DICOM = {".dcm"}
# Columns that may hold what rules may ask about: descriptions are free text of the modality.
DESCRIBED = {"instances.header", "decisions.reason"}


def words(text: str) -> set[str]:
    """The markers in a text, whatever the case or the escaping of what follows them."""
    upper = text.upper()
    return {marker for marker in (*MARKERS.values(), DESCRIPTION) if marker in upper}


def traces_on_disk(home: Path) -> Iterator[tuple[str, str]]:
    """Every file under the home folder that is neither a data set nor the audit trail."""
    for path in home.rglob("*"):
        inside = path.relative_to(home)
        if path.is_file() and inside.parts[0] != "audit" and path.suffix not in DICOM:
            yield str(inside), path.read_bytes().decode("utf-8", "replace")


def test_every_way_through_the_node_was_taken(traces: Traces) -> None:
    reasons = " ".join(str(job["reason"]) for job in traces.node.jobs())
    for reason in ("different identities", "Pixel Data", "no route", "given up|gave up"):
        assert any(part in reasons for part in reason.split("|")), (reason, reasons)
    log = traces.node.log.read_text()
    for action in ("process_died", "association_refused", "file_quarantined", "job_not_scored",
                   "delivery_parked", "job_scored", "result_delivered"):  # fmt: skip
        assert f'"{action}"' in log, action
    assert '"level": "debug"' in log
    armed = (traces.node.home.parent / "failpoints").iterdir()
    assert {path.suffix for path in armed} == {".fired"}


def test_logs_hold_no_patient(traces: Traces) -> None:
    for line in traces.node.log.read_text().splitlines():
        assert words(line) == set(), line
        assert json.loads(line)["process"]  # nothing but our own lines: no traceback either


def test_pages_metrics_and_commands_hold_no_patient(traces: Traces) -> None:
    for name, text in traces.said.items():
        described = "/studies/" in name or "studies show" in name
        assert words(text) <= ({DESCRIPTION} if described else set()), name
    assert len(traces.said) > 50
    assert not [name for name, text in traces.said.items() if "Traceback" in text]


def test_no_file_but_data_sets_holds_a_patient(traces: Traces) -> None:
    for name, text in traces_on_disk(traces.node.home):
        if not name.startswith("node.db"):
            assert words(text) == set(), name


def test_no_name_of_a_file_holds_a_patient(traces: Traces) -> None:
    for path in traces.node.home.rglob("*"):
        assert words(str(path.relative_to(traces.node.home))) == set()
    left = (traces.node.home.parent / "tmp").rglob("*")
    assert [path for path in left if path.is_file()] == []


def test_no_column_of_the_database_holds_a_patient(traces: Traces) -> None:
    with closing(sqlite3.connect(traces.node.home / "node.db")) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        seen: dict[str, set[str]] = {}
        for (table,) in tables.fetchall():
            rows = connection.execute(f'SELECT * FROM "{table}"')
            columns = [item[0] for item in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    if found := words(str(value)):
                        seen.setdefault(f"{table}.{column}", set()).update(found)
    assert seen.keys() <= DESCRIBED, seen
    assert set().union(*seen.values()) <= {DESCRIPTION}


def test_the_audit_trail_tells_who_did_what_and_holds(traces: Traces) -> None:
    assert json.loads(traces.said["dicom-node audit verify --json"])["intact"]
    folder = traces.node.config.audit_dir
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    records = [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    told = Counter(record["event"] for record in records)
    for event in ("application_started", "association_accepted", "association_ended",
                  "association_refused", "instances_received", "study_scored", "results_sent",
                  "results_viewed", "results_exported", "configuration_changed", "model_changed",
                  "decision_by_person", "audit_log_used"):  # fmt: skip
        assert told[event], event
    about = {
        record["event"]: record["study"]["patient_id"] for record in records if "study" in record
    }
    assert about["instances_received"].startswith(MARKERS["identifier"])
    assert about["results_sent"] == about["study_scored"] == MARKERS["identifier"]
    sent = [record["who"] for record in records if record["event"] == "results_sent"]
    assert {who["ae_title"] for who in sent} == {"ARCHIVE"}


def test_every_record_of_a_real_node_is_a_dicom_audit_message(traces: Traces) -> None:
    traces.command("audit", "export", "--format", "dicom-xml")
    messages = traces.said["dicom-node audit export --format dicom-xml"].splitlines()
    assert len(messages) > 30
    for message in messages:
        assert list(violations(fromstring(message))) == []
