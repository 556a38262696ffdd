"""A prediction as one file: the JSON of `domain.findings.Prediction` and its arrays (NumPy .npz).

Written by the scorer, read by the reporter; a crash between the two does not predict again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_node.domain.findings import (
    Code,
    Finding,
    KeyImage,
    Level,
    ModelIdentity,
    Prediction,
)
from dicom_node.store.files import write_durably

Arrays = Mapping[str, NDArray[Any]]
_JSON_KEY = "prediction"


def save_prediction(path: Path, prediction: Prediction, arrays: Arrays) -> None:
    """Write a prediction and its arrays durably.

    Parameters
    ----------
    arrays
        `display_<i>` (rows, columns) uint8 and `heat_<i>` (h, w) float32 in [0, 1], by key image.
    """
    text = json.dumps(asdict(prediction), sort_keys=True)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        **{_JSON_KEY: np.frombuffer(text.encode(), dtype=np.uint8)},
        **arrays,
    )
    write_durably(path, buffer.getvalue())


def load_prediction(path: Path) -> tuple[Prediction, dict[str, NDArray[Any]]]:
    """Read what `save_prediction` wrote."""
    # Opened here: of a file that is no archive, the library leaves its own descriptor open.
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    raw = json.loads(arrays.pop(_JSON_KEY).tobytes().decode())
    return _prediction(raw), arrays


def _prediction(raw: dict[str, Any]) -> Prediction:
    return Prediction(
        model=ModelIdentity(**raw["model"]),
        findings=tuple(_finding(item) for item in raw["findings"]),
        key_images=tuple(KeyImage(**item) for item in raw["key_images"]),
        not_analysed=raw["not_analysed"],
        marks=tuple(raw["marks"]),
        engine=raw["engine"],
        source_sop_instance_uids=tuple(raw["source_sop_instance_uids"]),
    )


def _finding(raw: dict[str, Any]) -> Finding:
    box = raw["box"]
    fixed = {
        "code": Code(**raw["code"]),
        "site": Code(**raw["site"]),
        "level": Level(raw["level"]),
        "box": tuple(box) if box else None,
    }
    return Finding(**(raw | fixed))
