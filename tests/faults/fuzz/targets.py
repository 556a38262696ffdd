"""What is fuzzed: a target takes bytes and may raise nothing but the error that it documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicom_node.assemble.header import Arrival, read_header
from dicom_node.config import load_config
from dicom_node.errors import BadInput, ConfigError
from dicom_node.route.rules import load_routes
from dicom_node.score.pixels import read_frame
from dicom_node.score.slices import read_slice_headers
from tests.faults.fuzz import seeds

_ARRIVAL: Final = Arrival("fuzz", datetime(2026, 1, 2, tzinfo=UTC))


@dataclass(frozen=True)
class Target:
    """Attributes: `run` takes bytes and a folder that it may write to; `begin` makes the seeds."""

    run: Callable[[bytes, Path], None]
    begin: Callable[[], Sequence[bytes]]


def _file(content: bytes, folder: Path) -> Path:
    path = folder / "object.dcm"
    path.write_bytes(content)
    return path


def header(content: bytes, folder: Path) -> None:
    """Header reading; what is recorded must fit into JSON and PostgreSQL."""
    try:
        record = read_header(_file(content, folder), _ARRIVAL)
    except BadInput:
        return
    text = json.dumps(record.header, allow_nan=False)
    assert "\\u0000" not in text
    text.encode()
    assert len(text) < 200_000


def decode(content: bytes, folder: Path) -> None:
    """Pixels as a radiograph, and the geometry as a CT slice."""
    path = _file(content, folder)
    for read in (read_frame, lambda path: read_slice_headers([path])):
        try:
            read(path)
        except BadInput:
            continue


def rules(content: bytes, folder: Path) -> None:
    """The rules' file."""
    path = folder / "routes.yaml"
    path.write_bytes(content)
    try:
        load_routes(path)
    except ConfigError:
        return


def settings(content: bytes, folder: Path) -> None:
    """The settings' file."""
    path = folder / "node.yaml"
    path.write_bytes(content)
    try:
        load_config(path)
    except ConfigError:
        return


TARGETS: Final = {
    "header": Target(header, seeds.files),
    "decode": Target(decode, seeds.files),
    "rules": Target(rules, seeds.rules),
    "settings": Target(settings, seeds.settings),
}
