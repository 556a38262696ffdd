"""The validators that the tests call themselves, and what they may say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dicom_node.report.validate import available_validators

PIXELMED_JAR = Path("/usr/share/java/pixelmed.jar")
_IN_CI = bool(os.environ.get("CI"))
_ALLOWED = re.compile(
    r"Device UID|Standard Extended SOP Class|Retired Person Name form|needed to build DICOMDIR"
)

needs_pixelmed = pytest.mark.skipif(
    (shutil.which("java") is None or not PIXELMED_JAR.is_file()) and not _IN_CI,
    reason="PixelMed or Java is not installed",
)
needs_dsrdump = pytest.mark.skipif(
    shutil.which("dsrdump") is None and not _IN_CI, reason="DCMTK is not installed"
)


def dciodvfy(path: Path) -> list[str]:
    """Errors, and warnings other than those that every result may give."""
    tool = available_validators()["dciodvfy"]
    assert tool is not None
    done = subprocess.run([tool, path], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("Error", "Warning"))]
    assert done.returncode == 0 or lines
    return [line for line in lines if not _ALLOWED.search(line)]


def pixelmed(path: Path) -> list[str]:
    """PixelMed's errors, and warnings other than of the verdict's and Comment's place."""
    limits = ("xpathTotalOpLimit", "xpathExprOpLimit", "xpathExprGrpLimit")
    done = subprocess.run(
        [
            "java",
            *(f"-Djdk.xml.{limit}=0" for limit in limits),
            "-cp",
            str(PIXELMED_JAR),
            "com.pixelmed.validate.DicomSRValidator",
            str(path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    # Its exit code is always 0; only the text tells.
    output = done.stdout + done.stderr
    assert "Root Template Validation Complete" in output
    assert "IOD validation complete" in output
    return [
        line
        for line in output.splitlines()
        if line.startswith("Error")
        or (line.startswith("Warning") and not line.endswith("Content Item not in template"))
    ]
