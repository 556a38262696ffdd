"""The files of a model folder as types: `configs/metadata.json`, `inference.json`, `golden.json`.

The standard fields of a MONAI bundle stand at the top of `metadata.json`; ours stand under
`dicom_node` and are strict. Nothing here imports torch or MONAI.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dicom_node.score.preprocessing import Declared, Preprocessing

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Version = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$", max_length=16)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Field(min_length=1, max_length=64)]
LongString = Annotated[str, Field(min_length=1, max_length=64)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]

FORMAT = 2
"""Of the `dicom_node` section; a folder of another format is refused."""

ARCHITECTURE_NAMES = frozenset(
    {
        "DenseNet121",
        "EfficientNetB0",
        "EfficientNetLite0",
        "EfficientNetLite1",
        "EfficientNetLite2",
        "FiveBlockCNN",
        "InceptionV3",
        "ResNet50",
        "VGG16",
    }
)
"""Names in `networks.ARCHITECTURES`, known without importing torch."""


class CodeEntry(Declared):
    """A coded concept (PS3.3 section 8); the value fits Code Value (0008,0100), VR SH."""

    value: Annotated[str, Field(min_length=1, max_length=16)]
    scheme: Annotated[str, Field(min_length=1, max_length=16)]
    meaning: LongString


class OperatingPoint(Declared):
    """A threshold with what it gave on the validation images."""

    name: Literal["high_sensitivity", "balanced", "high_specificity"]
    threshold: OpenFraction
    sensitivity: Fraction
    specificity: Fraction


class Calibration(Declared):
    """From K logits to K probabilities: p = function(logits / temperature + bias)."""

    function: Literal["sigmoid", "softmax"]
    temperature: Annotated[float, Field(gt=0)]
    bias: Annotated[tuple[float, ...], Field(min_length=1)]


class FindingEntry(Declared):
    """A coded finding and the network output that speaks for it.

    `threshold` is the operating point in use, on the calibrated probability of one image or, for
    a series, of the aggregated series.
    """

    label: Label
    code: CodeEntry
    site: CodeEntry
    threshold: OpenFraction
    operating_points: tuple[OperatingPoint, ...] = ()

    def contradictions(self) -> list[str]:
        """Why the thresholds cannot be right."""
        names = [point.name for point in self.operating_points]
        thresholds = {point.threshold for point in self.operating_points}
        reasons = []
        if len(set(names)) != len(names):
            reasons.append(f"finding {self.label} has two operating points of one name")
        if thresholds and self.threshold not in thresholds:
            reasons.append(
                f"finding {self.label}: threshold {self.threshold} is none of its operating points"
            )
        return reasons


class GateEntry(Declared):
    """How far from the training images an image may be (`dicom_node.score.scope`).

    `refused_validation` is the share of the validation images that lie beyond the limit;
    `alterations` has a word for each way of altering a picture that the gate knows.
    """

    limit: Annotated[float, Field(gt=0)]
    refused_validation: Fraction
    alterations: tuple[Label, ...] = ()


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
    """Our own part of `metadata.json`.

    Attributes
    ----------
    labels
        Every label of the training data.
    outputs
        The label of each of the network's K outputs, in order. One that no finding names, such as
        a normal class, has no code and no threshold.
    findings
        What is reported, in order; the first is the main finding.
    scope_gate
        Present exactly where the folder holds `models/scope.safetensors`.
    """

    format: Literal[2]
    name: Name
    manufacturer: LongString
    kind: Literal["cxr_image", "ct_series"]
    intended_use: IntendedUse
    labels: Annotated[tuple[Label, ...], Field(min_length=1)]
    outputs: Annotated[tuple[Label, ...], Field(min_length=1)]
    calibration: Calibration
    findings: Annotated[tuple[FindingEntry, ...], Field(min_length=1)]
    aggregation: Aggregation | None = None
    scope_gate: GateEntry | None = None
    bfloat16_deviation: Annotated[float, Field(ge=0)]
    evidence: tuple[Evidence, ...]
    limits: tuple[str, ...]
    license: str
    sha256: dict[str, Digest]

    @model_validator(mode="before")
    @classmethod
    def _format_is_read(cls, content: Any) -> Any:
        stated = content.get("format") if isinstance(content, dict) else None
        if isinstance(stated, int) and stated != FORMAT:
            raise ValueError(
                f"the folder has format {stated} and this node reads format {FORMAT}; export the "
                "model again with the training code of this version"
            )
        return content

    def contradictions(self) -> list[str]:
        """Every reason why the parts cannot all be right."""
        reasons = [text for finding in self.findings for text in finding.contradictions()]
        reasons += self._label_contradictions()
        count = len(self.outputs)
        if len(self.calibration.bias) != count:
            reasons.append(f"calibration has {len(self.calibration.bias)} biases, {count} outputs")
        if self.calibration.function == "softmax" and count < max(2, len(self.labels)):
            reasons.append("softmax needs an output for each of two or more labels")
        if (self.kind == "ct_series") != (self.aggregation is not None):
            reasons.append("aggregation belongs to kind ct_series, and to it alone")
        return reasons

    def _label_contradictions(self) -> list[str]:
        found = tuple(finding.label for finding in self.findings)
        named = {"labels": self.labels, "outputs": self.outputs, "findings": found}
        reasons = [
            f"{name} name a label twice"
            for name, labels in named.items()
            if len(set(labels)) != len(labels)
        ]
        reasons += [
            f"output {label} is not among the labels"
            for label in self.outputs
            if label not in self.labels
        ]
        reasons += [
            f"finding {label} is not among the outputs"
            for label in found
            if label not in self.outputs
        ]
        return reasons


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
    outputs: Annotated[int, Field(ge=1)]

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
    """A synthetic image (`dicom_node.score.golden.synthetic_image`) and what must come out.

    `probabilities` are those of the network's K outputs.
    """

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
