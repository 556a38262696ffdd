"""What docs/operations.md and docs/security.md say of alarms, audit events and tests is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from dicom_node.observe.audit import AuditEvent

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


def test_every_audit_event_is_explained() -> None:
    text = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    chapter = text.partition("## The audit trail")[2].partition("\n## ")[0]
    assert [event.value for event in AuditEvent if f"`{event.value}`" not in chapter] == []


def test_every_test_that_the_threat_model_names_is_there() -> None:
    text = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w./]+)`", text))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []
