"""The conformance statement says what code and settings do, and docs/ has the shipped one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import MRImageStorage

from dicom_node.cli.conformance_statement import conformance_statement
from dicom_node.config import NodeConfig, load_config
from dicom_node.deliver.statuses import judge_status
from dicom_node.storage_commitment import PUSH_MODEL

ROOT = Path(__file__).resolve().parents[3]
PACS = {"ae_title": "PACS", "host": "pacs.example.org", "port": 104}


def statement(**settings: Any) -> str:
    return conformance_statement(NodeConfig(**settings))


def test_the_documentation_has_the_statement_of_the_shipped_configuration() -> None:
    written = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    shipped = load_config(ROOT / "config" / "node.yaml")
    assert written == conformance_statement(shipped), "run `make docs`"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ae_title": "AI_NODE"}, "One application entity, `AI_NODE`,"),
        ({"dicom": {"port": 104}}, "| Port | 104 |"),
        ({"dicom": {"calling_ae_titles": ["CT1", "CT2"]}}, "2 configured AE titles"),
        ({"dicom": {"maximum_pdu_bytes": 0}}, "| Largest PDU accepted | no limit |"),
        ({"dicom": {"extra_storage_classes": [MRImageStorage]}}, f"`{MRImageStorage}` | kept, nev"),
        ({"dicom": {"storage_commitment": True}}, f"`{PUSH_MODEL}` | as SCP, and as SCU"),
        ({"dicom": {"storage_commitment": True}}, "| 0x0123 | Another Action Type ID than 1. |"),
        (
            {"destinations": {"pacs": {**PACS, "confirm": "storage_commitment"}}},
            "| pacs | `PACS` | pacs.example.org:104 | storage_commitment |",
        ),
        ({"send_to": ["OTHER@10.1.2.3:4242"]}, "| OTHER | `OTHER` | 10.1.2.3:4242 | status |"),
        (
            {"destinations": {"cloud": {"url": "https://dicom.example.org/web"}}},
            "| cloud | status | TLS |",
        ),
    ],
)
def test_settings_change_what_is_stated(settings: dict[str, Any], words: str) -> None:
    assert words in statement(**settings)
    assert words not in statement()


def test_every_status_is_stated_once_as_it_is_judged() -> None:
    table = statement().partition("### What a status of C-STORE means to us")[2]
    rows = [line.split(" | ") for line in table.split("###")[0].splitlines() if "| 0x" in line]
    stated: dict[int, str] = {}
    for cells in rows:
        ends = [int(end, 16) for end in cells[0].removeprefix("| ").split(" to ")]
        for status in range(ends[0], ends[-1] + 1):
            assert status not in stated
            stated[status] = cells[1]
    for status in range(0x10000):
        remark, error = judge_status(status)
        said = stated.get(status, "rejected")
        assert said.startswith("stored") == (error is None), hex(status)
        assert ("remark" in said) == (remark is not None), hex(status)
        assert ("tried again" in said) == (type(error).__name__ == "DestinationUnavailable")
