"""The files of a model folder as types: `configs/metadata.json`, `inference.json`, `golden.json`.

The standard fields of a MONAI bundle stand at the top of `metadata.json`; ours stand under
`dicom_node` and are strict. Nothing here imports torch or MONAI.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dicom_node.score.preprocessing import Declared, Preprocessing

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Version = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$", max_length=16)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LongString = Annotated[str, Field(min_length=1, max_length=64)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]

ARCHITECTURE_NAMES = frozenset({"EfficientNetLite0"})
"""Names in `networks.ARCHITECTURES`, known without importing torch."""


class CodeEntry(Declared):
    """A coded concept (PS3.3 section 8); the value fits Code Value (0008,0100), VR SH."""

    value: Annotated[str, Field(min_length=1, max_length=16)]
    scheme: Annotated[str, Field(min_length=1, max_length=16)]
    meaning: LongString


class OperatingPoint(Declared):
    """A threshold with what it gave on the validation images."""

    name: str
    threshold: OpenFraction
    sensitivity: Fraction
    specificity: Fraction


class FindingEntry(Declared):
    """One output of the network: p = sigmoid(logit / temperature + bias).

    `threshold` is the operating point in use, on the calibrated probability of one image or, for
    a series, of the aggregated series.
    """

    code: CodeEntry
    site: CodeEntry
    threshold: OpenFraction
    operating_points: tuple[OperatingPoint, ...] = ()
    temperature: Annotated[float, Field(gt=0)] = 1.0
    bias: float = 0.0


class IntendedUse(Declared):
    """What the model may be used on.

    `age_years` are completed years, both ends included. Where `age_must_be_known` is false, an
    absent age is a remark beside the score, not a reason to refuse; `body_part_must_be_known` and
    an absent Body Part Examined likewise.
    """

    statement: str
    modalities: Annotated[tuple[str, ...], Field(min_length=1)]
    body_parts: Annotated[tuple[str, ...], Field(min_length=1)]
    body_part_must_be_known: bool = True
    view_positions: tuple[str, ...] = ()
    age_years: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(le=150)]] | None = None
    age_must_be_known: bool = True
    minimum_rows: Annotated[int, Field(ge=1)] = 1
    minimum_columns: Annotated[int, Field(ge=1)] = 1


class Aggregation(Declared):
    """From up to `slices` slices to a series: the mean of the highest `top_share` of them."""

    slices: Annotated[int, Field(ge=1, le=512)]
    top_share: Annotated[float, Field(gt=0, le=1)]
    key_slices: Annotated[int, Field(ge=1, le=20)]


class Evidence(Declared):
    """A number that was measured, and on what."""

    data_set: str
    split: str
    n: Annotated[int, Field(ge=1)]
    n_positive: Annotated[int, Field(ge=0)]
    metric: str
    value: float
    confidence_interval: tuple[float, float] | None = None
    note: str = ""


class NodeSection(Declared):
    """Our own part of `metadata.json`."""

    format: Literal[1]
    name: Name
    manufacturer: LongString
    kind: Literal["cxr_image", "ct_series"]
    intended_use: IntendedUse
    findings: Annotated[tuple[FindingEntry, ...], Field(min_length=1)]
    aggregation: Aggregation | None = None
    bfloat16_deviation: Annotated[float, Field(ge=0)]
    evidence: tuple[Evidence, ...]
    limits: tuple[str, ...]
    license: str
    sha256: dict[str, Digest]

    @model_validator(mode="after")
    def _series_is_aggregated(self) -> Self:
        if (self.kind == "ct_series") != (self.aggregation is not None):
            raise ValueError("aggregation belongs to kind ct_series, and to it alone")
        return self


class Metadata(BaseModel):
    """`configs/metadata.json`: MONAI's standard fields, others kept, and ours."""

    model_config = ConfigDict(extra="allow", frozen=True)

    version: Version
    changelog: dict[str, str]
    monai_version: str
    pytorch_version: str
    numpy_version: str
    task: str
    description: str
    authors: str
    copyright: str
    network_data_format: dict[str, Any]
    dicom_node: NodeSection


class NetworkEntry(Declared):
    """An architecture of our registry."""

    architecture: str
    findings: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _is_registered(self) -> Self:
        if self.architecture not in ARCHITECTURE_NAMES:
            known = ", ".join(sorted(ARCHITECTURE_NAMES))
            raise ValueError(f"architecture {self.architecture!r} is not known; known are {known}")
        return self


class Inference(Declared):
    """`configs/inference.json`: declarations only, nothing in it is ever evaluated."""

    network: NetworkEntry
    preprocessing: Preprocessing


class GoldenImage(Declared):
    """A synthetic image (`dicom_node.score.golden.synthetic_image`) and what must come out."""

    rows: Annotated[int, Field(ge=32, le=1024)]
    columns: Annotated[int, Field(ge=32, le=1024)]
    phase: float
    sha256: Digest
    probabilities: Annotated[tuple[Fraction, ...], Field(min_length=1)]


class Golden(Declared):
    """`configs/golden.json`: checked whenever a model is opened.

    `tolerance` bounds the difference of probabilities in float32.
    """

    tolerance: Annotated[float, Field(gt=0, le=0.05)]
    images: Annotated[tuple[GoldenImage, ...], Field(min_length=1)]
