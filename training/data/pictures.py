"""From items to pictures: decoded, prepared with the node's own preprocessing, labelled."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from dicom_node.score.transforms import Pipeline
from training.data.items import FloatArray, Item, Loaded, Picture, Source
from training.errors import TrainingDataError
from training.kept import keep_array, kept_array

DEFAULT_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
_PREAMBLE = 128
DICOM_BEGINNING = _PREAMBLE + 4
"""Bytes by which `is_dicom` tells."""
_THREADS = 2


def data_dir() -> Path:
    """Folder of the published sets: `DICOM_NODE_DATA`, else `../shared/data` of the checkout."""
    return Path(os.environ.get("DICOM_NODE_DATA", DEFAULT_DATA))


def is_dicom(beginning: bytes) -> bool:
    """Whether a file begins as PS3.10 section 7.1 says."""
    return beginning[_PREAMBLE:DICOM_BEGINNING] == b"DICM"


def decode_picture(content: bytes, name: str) -> FloatArray:
    """Gray image (rows, columns) float32 of a PNG, JPEG or other picture, its own scale kept.

    It is turned as its EXIF orientation says.

    Raises
    ------
    TrainingDataError
        It is no picture, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            # 16 bits of gray must not be cut to 8.
            deep = image.mode.startswith(("I", "F"))
            upright = ImageOps.exif_transpose(image)
            return np.array(upright if deep else upright.convert("L"), dtype=np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if is_dicom(content):
            raise TrainingDataError(
                f"{name} is a DICOM file: those are read from folders and tables, so unpack it if "
                "it is in a tar, and give it a suffix that is no picture's"
            ) from error
        raise TrainingDataError(
            f"{name} cannot be decoded ({type(error).__name__}); mend or remove it"
        ) from error


def parse_label_map(text: str) -> dict[str, str]:
    """Read `normal=normal,covid=pneumonia`: a foreign manifest's labels to the model's.

    Raises
    ------
    TrainingDataError
        Not of this form, or one label twice.
    """
    result: dict[str, str] = {}
    for part in text.split(","):
        foreign, equals, ours = (piece.strip() for piece in part.partition("="))
        if not (foreign and equals and ours) or foreign in result:
            raise TrainingDataError(
                f"label map {text!r}: {part.strip()!r} is not `foreign=label`, or comes twice; "
                "write for example normal=normal,covid=pneumonia"
            )
        result[foreign] = ours
    return result


def load_pictures(
    source: Source,
    pipeline: Pipeline,
    labels: Sequence[str],
    *,
    label_map: Mapping[str, str] | None = None,
    split: str | None = None,
    cache: Path | None = None,
    progress: bool = False,
) -> Loaded:
    """Prepare the items of a split, or all of them, whose label is one of `labels`.

    Parameters
    ----------
    label_map
        Applied to labels first.
    cache
        Folder of planes prepared earlier from the same source by the same preprocessing; filled if
        they are not there.

    Raises
    ------
    TrainingDataError
        An image cannot be read.
    """
    mapping = label_map or {}
    wanted = [item for item in source.items if split is None or item.split == split]
    named = [(item, mapping.get(item.label, item.label)) for item in wanted]
    unknown = Counter(item.label for item, label in named if label not in labels)
    known = [(item, list(labels).index(label)) for item, label in named if label in labels]
    planes = _cached(source, [item for item, _ in known], pipeline, cache, progress=progress)
    pictures = [
        Picture(item, plane, target) for (item, target), plane in zip(known, planes, strict=True)
    ]
    return Loaded(pictures, dict(unknown))


def read_finite(source: Source, item: Item) -> FloatArray:
    """What `Source.read` gives.

    Raises
    ------
    TrainingDataError
        As `Source.read`, or a pixel is no number.
    """
    image = source.read(item)
    if not np.isfinite(image).all():
        raise TrainingDataError(
            f"{source.name}: {item.path} holds values that are no numbers; remove it"
        )
    return image


def prepared_plane(source: Source, item: Item, pipeline: Pipeline) -> FloatArray:
    """Plane (1, rows, columns) float32 in [0, 1] of an item, as the node makes it."""
    if item.units == "hounsfield" and pipeline.declaration.input != "hounsfield":
        raise TrainingDataError(
            f"{source.name}: {item.path} is a CT image, and this model takes radiographs"
        )
    image = read_finite(source, item)
    if item.units == "hounsfield":
        image = pipeline.display(image)
    return pipeline.plane(image)


def _cached(
    source: Source, items: list[Item], pipeline: Pipeline, cache: Path | None, *, progress: bool
) -> Sequence[FloatArray]:
    if cache is None or not items:
        return _prepared(source, items, pipeline, progress=progress)
    digest = hashlib.sha256(pipeline.declaration.digest().encode())
    for item in items:
        name = f"{item.path}\0{item.columns.get('sha256', '')}\0"
        digest.update(name.encode(errors="surrogateescape"))  # file names need not be UTF-8
    file = cache / f"{source.name}-{digest.hexdigest()[:16]}.npy"
    kept = kept_array(file)
    if kept is not None and len(kept) == len(items):
        return list(kept)
    planes = np.stack(_prepared(source, items, pipeline, progress=progress))
    keep_array(file, planes)
    return list(planes)


def _prepared(
    source: Source, items: list[Item], pipeline: Pipeline, *, progress: bool
) -> list[FloatArray]:
    with ThreadPoolExecutor(_THREADS) as pool:
        planes = pool.map(lambda item: prepared_plane(source, item, pipeline), items)
        return list(
            track(
                planes,
                description=f"preparing {source.name}",
                total=len(items),
                disable=not progress,
                console=Console(stderr=True),
                transient=True,
            )
        )
