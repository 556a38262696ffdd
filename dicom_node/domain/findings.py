"""What a model says of a study: values only, no arrays, no I/O.

A `Prediction` is the scorer's whole answer and the reporter's whole input. Arrays that belong to it
(display images, heat maps) travel beside it in one file; see `dicom_node.store.predictions`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 section 8): value, coding scheme designator and meaning."""

    value: str
    scheme: str
    meaning: str


class Level(StrEnum):
    """What one finding speaks of."""

    IMAGE = "image"
    SERIES = "series"
    SLICE = "slice"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Everything that makes a score traceable to the model that gave it.

    Attributes
    ----------
    name, version
        As the bundle declares them.
    manufacturer
        Maker of the algorithm.
    weights_sha256, preprocessing_digest, thresholds_digest
        Lower-case hexadecimal SHA-256.
    """

    name: str
    version: str
    manufacturer: str
    weights_sha256: str
    preprocessing_digest: str
    thresholds_digest: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding with its probability and the place that supports it.

    Attributes
    ----------
    code
        What was looked for.
    site
        Where in the body (normally the lung).
    probability
        Calibrated probability in [0, 1].
    threshold
        Operating point in (0, 1); `present` is `probability >= threshold`.
    level
        Image, series or slice.
    sop_instance_uid
        The source image that supports the finding (the best slice for a series).
    instance_number
        Instance Number of that image, if it has one.
    frame_number
        1-based frame of a multi-frame source, else None.
    rows, columns
        Size in pixels of that source image.
    box
        (left, top, right, bottom) of the supporting region in source pixels, column and row
        coordinates with the origin at the top left corner of the top left pixel; None: whole image.
    """

    code: Code
    site: Code
    probability: float
    threshold: float
    level: Level
    sop_instance_uid: str
    instance_number: int | None
    frame_number: int | None
    rows: int
    columns: int
    box: tuple[float, float, float, float] | None = None

    @property
    def present(self) -> bool:
        """Whether the probability reaches the operating point."""
        return self.probability >= self.threshold


@dataclass(frozen=True, slots=True)
class KeyImage:
    """A source image worth showing; its pixels and heat map lie in the prediction's file.

    Attributes
    ----------
    index
        Position of its arrays in the file: `display_<index>` is (rows, columns) uint8, dark to
        bright as a radiologist expects (MONOCHROME1 already inverted); `heat_<index>` is (h, w)
        float32 in [0, 1] and covers the whole image, any resolution, or is absent.
    probability
        The model's probability on this image for the study's main finding, or None.
    """

    index: int
    sop_instance_uid: str
    instance_number: int | None
    frame_number: int | None
    probability: float | None
    has_heat: bool


@dataclass(frozen=True, slots=True)
class Prediction:
    """The scorer's answer for one job.

    Attributes
    ----------
    model
        Who says it.
    findings
        Study-level findings first, then the slices that decided; empty if not analysed.
    key_images
        Images for the Secondary Capture, most telling first; one image even if not analysed,
        provided it could be decoded.
    not_analysed
        Why the model was not applied, as a sentence for a radiologist; None if it was.
    marks
        Warnings that must stand beside the score, e.g. "outside intended use: ...".
    engine
        Runtime, device and precision, e.g. "onnxruntime 1.31.1 cpu fp32".
    source_sop_instance_uids
        Every instance that the model saw or that was weighed and refused.
    """

    model: ModelIdentity
    findings: tuple[Finding, ...]
    key_images: tuple[KeyImage, ...]
    not_analysed: str | None
    marks: tuple[str, ...]
    engine: str
    source_sop_instance_uids: tuple[str, ...] = field(default=())
