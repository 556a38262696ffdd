"""The arrows of docs/architecture.md, held by reading every import of the package.

    errors <- domain <- store <- stages <- node <- cli

Stages meet only in the store; only the scorer's process pays for PyTorch.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dicom_node"

# Small modules at the top that every stage may use: settings, paths, loop, process edge.
GROUND = frozenset(
    {
        "errors",
        "failpoint",
        "paths",
        "loop",
        "process",
        "observe",
        "__version__",
        "charset",
        "guard",
    }
    | {"config", "config_destinations", "config_network", "config_values"}
)
BELOW_A_STAGE = GROUND | {"domain", "store"}
STAGES = frozenset({"receive", "assemble", "route", "score", "report", "deliver"})
NETWORK = frozenset({"dimse", "storage_commitment", "tls", "tls_certificates", "tls_failures"})
EVERYTHING = BELOW_A_STAGE | STAGES | NETWORK | {"node", "demo", "web", "cli"}

# Room or top module: the rooms that it may import.
ALLOWED: dict[str, frozenset[str]] = {
    "__init__": frozenset(),
    "errors": frozenset(),
    "failpoint": frozenset({"errors"}),
    "charset": frozenset({"errors"}),
    "paths": frozenset(),
    "process": frozenset({"errors"}),
    "loop": frozenset({"errors"}),
    "guard": frozenset({"errors", "config", "process", "store"}),
    "domain": frozenset({"errors"}),
    "config": frozenset(
        {"errors", "config_destinations", "config_network", "config_values", "domain", "paths"}
    ),
    "config_destinations": frozenset({"errors", "config_network", "config_values", "domain"}),
    "config_network": frozenset({"config_values"}),
    "config_values": frozenset(),
    "dimse": frozenset({"errors"}),
    "storage_commitment": frozenset({"errors", "domain"}),
    "tls": frozenset({"errors", "config_network", "tls_certificates"}),
    "tls_certificates": frozenset({"errors"}),
    "tls_failures": frozenset(),
    "store": frozenset({"errors", "domain", "failpoint"}),
    "observe": frozenset(
        {
            "errors",
            "config",
            "config_network",
            "domain",
            "store",
            "tls",
            "tls_failures",
            "__version__",
        }
    ),
    **dict.fromkeys(STAGES - {"receive", "deliver"}, BELOW_A_STAGE),
    **dict.fromkeys(("receive", "deliver"), BELOW_A_STAGE | NETWORK),
    "web": BELOW_A_STAGE,
    "node": BELOW_A_STAGE,
    "demo": EVERYTHING - {"cli", "web"},
    "cli": EVERYTHING,
    "__main__": frozenset({"cli"}),
}

HEAVY = ("torch", "torchvision", "monai", "SimpleITK", "onnxruntime")
# What the light processes import, each tried in an interpreter of its own.
LIGHT = (
    "dicom_node.cli",
    "dicom_node.receive.scp",
    "dicom_node.assemble.worker",
    "dicom_node.route.worker",
    "dicom_node.deliver.worker",
    "dicom_node.report.worker",
    "dicom_node.store.jobs",
    "dicom_node.web.server",
)


def imports_of(file: Path) -> Iterator[str]:
    """The dotted names that a module imports, inside functions, too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "dicom_node.?relative" if node.level else str(node.module)
            yield from (f"{origin}.{name.name}" for name in node.names)


def violations(package: Path) -> list[str]:
    """Every import against the arrows, as `FILE imports NAME`."""
    found = []
    for file in sorted(package.rglob("*.py")):
        inside = file.relative_to(package)
        room = inside.parts[0].removesuffix(".py")
        for name in imports_of(file):
            library, _, rest = name.partition(".")
            if library == "dicom_node":
                other = rest.split(".")[0]
                wrong = other != room and other not in ALLOWED.get(room, frozenset())
            else:
                wrong = room in {"domain", "errors"} and library not in sys.stdlib_module_names
            if wrong:
                found.append(f"{inside} imports {name}")
    return found


def test_every_import_follows_the_arrows() -> None:
    assert violations(PACKAGE) == []


def test_every_room_has_its_arrows() -> None:
    rooms = {
        path.name.removesuffix(".py")
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert rooms <= set(ALLOWED)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("receive/scp.py", "from dicom_node.deliver.worker import Courier"),
        ("score/worker.py", "def f():\n    import dicom_node.report.worker"),
        ("store/jobs.py", "from dicom_node.config import NodeConfig"),
        ("domain/study.py", "from pydicom import dcmread"),
        ("domain/jobs.py", "from dicom_node.store import jobs"),
        ("errors.py", "import numpy"),
        ("route/rules.py", "from ..assemble import header"),
        ("node.py", "from dicom_node.cli import app"),
    ],
)
def test_a_planted_import_against_the_arrows_is_found(
    tmp_path: Path, module: str, line: str
) -> None:
    planted = tmp_path / module
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(line, encoding="utf-8")
    assert len(violations(tmp_path)) == 1


def heavy_after(statement: str) -> list[str]:
    """The heavy libraries that an interpreter has loaded after the statement."""
    report = f"import json, sys\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    ended = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{report}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    loaded: list[str] = json.loads(ended.stdout)
    return loaded


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_process_does_not_load_the_scorers_libraries(module: str) -> None:
    assert heavy_after(f"import {module}") == []


def test_the_look_at_loaded_libraries_sees_one() -> None:
    assert heavy_after("import SimpleITK") == ["SimpleITK"]
