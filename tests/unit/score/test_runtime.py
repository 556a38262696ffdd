"""The inference library does not report to its maker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import dicom_node


# Its telemetry leaves `.ses` in TMPDIR, and an identifier and a cache under HOME.
def run(folder: Path, imports: str) -> list[Path]:
    folder.mkdir()
    model = Path(dicom_node.__file__).parents[1] / "models" / "cxr_pneumonia" / "models"
    program = f"{imports}\nonnxruntime.InferenceSession({str(model / 'model.onnx')!r})"
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "CI"))
    }
    environment = clean | {
        "TMPDIR": str(folder),
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder),
    }
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_inference_library_leaves_no_trace_of_telemetry(tmp_path: Path) -> None:
    assert run(tmp_path / "plain", "import onnxruntime") != []  # or this test sees nothing
    ours = "from dicom_node.score.runtime import onnxruntime"
    assert run(tmp_path / "ours", ours) == []


def test_nobody_takes_the_library_from_elsewhere() -> None:
    root = Path(dicom_node.__file__).parents[1]
    found = {
        str(file.relative_to(root))
        for room in ("dicom_node", "training")
        for file in (root / room).rglob("*.py")
        if re.search(r"^\s*(import|from) onnxruntime", file.read_text(), re.MULTILINE)
    }
    assert found == {"dicom_node/score/runtime.py"}
