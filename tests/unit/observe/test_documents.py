"""What docs/operations.md and docs/security.md say of alarms, audit events and tests is so."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.domain.jobs import JobState
from dicom_node.observe.audit import AuditEvent
from dicom_node.observe.metrics import NodeCollector
from dicom_node.store import commitments, deliveries
from dicom_node.store.counts import Counts

REPOSITORY = Path(__file__).resolve().parents[3]
LEVELS = {"warning", "error", "critical"}


def actions_in_code() -> dict[str, set[str]]:
    """Action to the levels at which the package logs it."""
    found: dict[str, set[str]] = {}
    for file in (REPOSITORY / "dicom_node").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                for keyword in node.keywords:
                    value = keyword.value
                    if keyword.arg == "action" and node.func.attr in LEVELS:
                        assert isinstance(value, ast.Constant), f"{file}: {node.lineno}"
                        found.setdefault(str(value.value), set()).add(node.func.attr)
    return found


def actions_in_the_chapter() -> dict[str, set[str]]:
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    chapter = text.partition("## What each alarm means")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \|", chapter, re.MULTILINE)
    found: dict[str, set[str]] = {}
    for level, actions in rows:
        for action in re.findall(r"`(\w+)`", actions):
            if level in LEVELS:
                found.setdefault(action, set()).add(level)
    return found


def test_every_alarm_is_explained_and_every_explanation_has_its_alarm() -> None:
    assert actions_in_the_chapter() == actions_in_code()


NOW = datetime(2026, 1, 2, tzinfo=UTC)
EVERY_STATE = Counts(
    jobs_by_state=dict.fromkeys(JobState, 1),
    deliveries={
        ("PACS", state): 1
        for state in (deliveries.PENDING, deliveries.SENT, deliveries.DELIVERED, deliveries.PARKED)
    },
    instances=0,
    studies_receiving=0,
    quarantined=0,
    models_offered=0,
    pruned_bytes=0,
    oldest_queued_at=NOW,
    undelivered_since={"PACS": NOW},
    commitment_requests=dict.fromkeys(
        (commitments.PENDING, commitments.ANSWERED, commitments.PARKED), 1
    ),
)
NEEDS_A_PERSON = {
    'dicom_node_jobs{state="parked"}',
    'dicom_node_jobs{state="failed"}',
    'dicom_node_deliveries{state="parked"}',
    'dicom_node_commitment_requests{state="parked"}',
}


def metrics_in_code(home: Path) -> set[str]:
    """Every metric by its name alone, and by its name and state if it has one."""
    collector = NodeCollector(
        lambda: EVERY_STATE, home=home, inbox_dir=home / "inbox", clock=lambda: NOW
    )
    found = set()
    for family in collector.collect():
        found.add(family.name)
        for sample in family.samples:
            if "state" in sample.labels:
                found.add(f'{family.name}{{state="{sample.labels["state"]}"}}')
    return found


def metrics_in_the_chapter() -> set[str]:
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    chapter = text.partition("## What to watch")[2].partition("\n## ")[0]
    return set(re.findall(r"`(dicom_node_[^`]+)`", chapter))


def test_every_metric_of_the_chapter_exists_and_every_metric_is_in_it(tmp_path: Path) -> None:
    told, exported = metrics_in_the_chapter(), metrics_in_code(tmp_path)
    assert told - exported == set()
    bare = {name.partition("{")[0] for name in told}
    assert {name.partition("{")[0] for name in exported} - bare == set()


def test_every_state_that_needs_a_person_has_an_alarm(tmp_path: Path) -> None:
    assert metrics_in_code(tmp_path) >= NEEDS_A_PERSON
    assert metrics_in_the_chapter() >= NEEDS_A_PERSON


def test_every_audit_event_is_explained() -> None:
    text = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    chapter = text.partition("## The audit trail")[2].partition("\n## ")[0]
    assert [event.value for event in AuditEvent if f"`{event.value}`" not in chapter] == []


def test_every_test_that_the_threat_model_names_is_there() -> None:
    text = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w./]+)`", text))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []
