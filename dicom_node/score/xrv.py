"""What TorchXRayVision's adult chest network is and finds, as declarations of a model folder.

Cohen et al. 2022, "TorchXRayVision: A library of chest X-ray datasets and models", MIDL,
arXiv:2111.00595; the network: Cohen et al. 2020, arXiv:2002.02497. Labels and thresholds are those
that torchxrayvision 1.5.7 (Apache License 2.0) states for `densenet121-res224-all`.
"""

from __future__ import annotations

from typing import Any

from dicom_node.score.preprocessing import Preprocessing, TransformSpec

NAME = "xrv_densenet121"
ARCHITECTURE = "DenseNet121"
SIDE = 224
VERSION = "1.0.0"
MANUFACTURER = "TorchXRayVision authors"
URL = (
    "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
    "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-"
    "best.pt"
)
LICENSE = "Apache-2.0 (weights); the image sets have terms of their own; research use only"

_PRIVATE = "99DCMNODE"
_LUNG = ("39607008", "SCT", "Lung")
_PLEURA = ("3120008", "SCT", "Pleura")
_HEART = ("80891009", "SCT", "Heart")
_CHEST = ("816094009", "SCT", "Chest")
_MEDIASTINUM = ("72410000", "SCT", "Mediastinum")

# Output of the network -> code, site, threshold of the raw sigmoid. A label without a SNOMED CT
# concept of quite its meaning has a code of ours.
_Triplet = tuple[str, str, str]
_OUTPUTS: dict[str, tuple[_Triplet, _Triplet, float]] = {
    "Atelectasis": (("46621007", "SCT", "Atelectasis"), _LUNG, 0.07422872),
    "Consolidation": (("95436008", "SCT", "Lung consolidation"), _LUNG, 0.038290843),
    "Infiltration": (("INFILTRATION", _PRIVATE, "Lung infiltration"), _LUNG, 0.09814756),
    "Pneumothorax": (("36118008", "SCT", "Pneumothorax"), _PLEURA, 0.0098118475),
    "Edema": (("19242006", "SCT", "Pulmonary edema"), _LUNG, 0.023601074),
    "Emphysema": (("87433001", "SCT", "Pulmonary emphysema"), _LUNG, 0.0022490358),
    "Fibrosis": (("51615001", "SCT", "Fibrosis of lung"), _LUNG, 0.010060724),
    "Effusion": (("60046008", "SCT", "Pleural effusion"), _PLEURA, 0.103246614),
    "Pneumonia": (("233604007", "SCT", "Pneumonia"), _LUNG, 0.056810737),
    "Pleural_Thickening": (("PLEURAL_THICK", _PRIVATE, "Pleural thickening"), _PLEURA, 0.026791653),
    "Cardiomegaly": (("8186001", "SCT", "Cardiomegaly"), _HEART, 0.050318155),
    "Nodule": (("786838002", "SCT", "Nodule of lung"), _LUNG, 0.023985857),
    "Mass": (("309529002", "SCT", "Lung mass"), _LUNG, 0.01939503),
    "Hernia": (("HERNIA", _PRIVATE, "Hernia seen on chest radiograph"), _CHEST, 0.042889766),
    "Lung Lesion": (("LUNG_LESION", _PRIVATE, "Lung lesion"), _LUNG, 0.053369623),
    "Fracture": (("125605004", "SCT", "Fracture of bone"), _CHEST, 0.035975814),
    "Lung Opacity": (("LUNG_OPACITY", _PRIVATE, "Lung opacity"), _LUNG, 0.20204692),
    "Enlarged Cardiomediastinum": (
        ("ENLARGED_MEDIAST", _PRIVATE, "Enlarged cardiomediastinum"),
        _MEDIASTINUM,
        0.05015312,
    ),
}
LABELS = tuple(_OUTPUTS)
"""Of the network's outputs, in order."""

_MAIN = "Pneumonia"
_LIMITS = (
    "Nothing was measured here: no evidence of this network on your films is in this folder. "
    "Measure it with `python -m training evaluate` before anyone looks at its scores.",
    "The folder has no image-based scope gate: only the header tells that a film is out of scope.",
    "Labels were taken from reports by software and mean different things in the data sets.",
    "Probabilities are the raw sigmoid of a network trained on rare findings: compare them with "
    "the threshold, not with 50 %.",
    "Images are resized without keeping the aspect ratio and stretched from their darkest to their "
    "brightest pixel; TorchXRayVision crops the middle square and divides by the largest value "
    "that the pixels can have.",
)
_STATEMENT = (
    "Research: scores of 18 findings on a frontal chest radiograph of an adult. Not for diagnosis."
)


def preprocessing() -> Preprocessing:
    """224 x 224, three equal channels in the library's range of [-1024, 1024]."""
    return Preprocessing(
        input="display",
        rows=SIDE,
        columns=SIDE,
        display=(
            TransformSpec(name="ResizeAntialiased", arguments={"rows": SIDE, "columns": SIDE}),
            TransformSpec(
                name="ScaleIntensityRangePercentiles",
                arguments={"lower": 0.0, "upper": 100.0, "b_min": 0.0, "b_max": 1.0, "clip": True},
            ),
        ),
        tensor=(
            TransformSpec(name="RepeatChannel", arguments={"repeats": 3}),
            TransformSpec(
                name="ScaleIntensityRange",
                arguments={"a_min": 0.0, "a_max": 1.0, "b_min": -1024.0, "b_max": 1024.0},
            ),
        ),
    )


def node_section(thresholds: dict[str, float]) -> dict[str, Any]:
    """The `dicom_node` section of the metadata, without the files' SHA-256.

    Parameters
    ----------
    thresholds
        Label -> threshold in (0, 1) of the checkpoint; the library's own where a label is absent.
    """
    ordered = (_MAIN, *(label for label in LABELS if label != _MAIN))
    return {
        "format": 2,
        "name": NAME,
        "manufacturer": MANUFACTURER,
        "kind": "cxr_image",
        "intended_use": {
            "statement": _STATEMENT,
            "modalities": ["CR", "DX"],
            "body_parts": ["CHEST", "THORAX", "LUNG", "PORT CHEST"],
            "view_positions": ["AP", "PA"],
            "age_years": [18, 150],
            "minimum_rows": SIDE,
            "minimum_columns": SIDE,
        },
        "labels": list(LABELS),
        "outputs": list(LABELS),
        "calibration": {"function": "sigmoid", "temperature": 1.0, "bias": [0.0] * len(LABELS)},
        "findings": [_finding(label, thresholds) for label in ordered],
        "aggregation": None,
        "scope_gate": None,
        # Not measured: larger than any tolerance, so that CUDA runs it in float32.
        "bfloat16_deviation": 1.0,
        "evidence": [],
        "limits": list(_LIMITS),
        "license": LICENSE,
        "sha256": {},
    }


def _finding(label: str, thresholds: dict[str, float]) -> dict[str, Any]:
    code, site, threshold = _OUTPUTS[label]
    names = ("value", "scheme", "meaning")
    return {
        "label": label,
        "code": dict(zip(names, code, strict=True)),
        "site": dict(zip(names, site, strict=True)),
        "threshold": thresholds.get(label, threshold),
    }


def origin(source: str, sha256: str, *, compared: bool) -> dict[str, str]:
    """Where the weights come from, for the metadata; see `card`."""
    digest = digest_sentence(sha256, compared=compared)
    return {"url": URL, "file": source, "sha256": sha256, "digest": digest}


def digest_sentence(sha256: str, *, compared: bool) -> str:
    """What is known of the converted file's SHA-256; `compared`: whether one was given."""
    if compared:
        return f"Its SHA-256 was verified, it is the one given with --sha256: {sha256}."
    return (
        f"Its SHA-256 is {sha256}; it was not compared with a published one, as none is known here."
    )


def card(source: str, sha256: str, *, compared: bool) -> str:
    """The model card.

    Parameters
    ----------
    source, sha256
        Name and SHA-256 of the file that was converted.
    compared
        Whether the SHA-256 was given by whoever pulled the model.
    """
    return "\n".join(
        [
            "# 18 findings on chest radiographs of adults",
            "",
            f"`{NAME}` {VERSION}, {ARCHITECTURE} of TorchXRayVision (`densenet121-res224-all`). "
            f"{_STATEMENT}",
            "",
            "## Intended use",
            "- Modality: CR, DX; body part: chest; view: AP, PA",
            "- Age: 18 completed years and more",
            "- Anything else is not analysed, or is marked where a route says so.",
            "",
            "## Evidence",
            "None was measured here. The authors' own: arXiv:2002.02497, arXiv:2111.00595.",
            "",
            "## Known flaws",
            *(f"- {limit}" for limit in _LIMITS),
            "",
            "## Findings",
            *(f"- {label}: {_OUTPUTS[label][0][2]}" for label in LABELS),
            "",
            "## Method",
            "The published weights, unchanged, in this node's own network of the same keys. "
            "Trained by the authors on ChestX-ray14, PadChest, CheXpert, MIMIC-CXR, Google's "
            "relabelled ChestX-ray14, Open-i and the RSNA challenge. Input: one gray channel from "
            f"-1024 to 1024, {SIDE} x {SIDE}. p = sigmoid(logit). Thresholds: those the library "
            "states, unless the checkpoint holds its own.",
            "",
            f"Converted from `{source}`. {digest_sentence(sha256, compared=compared)}",
            "",
        ]
    )


LICENSE_TEXT = f"""Weights: TorchXRayVision, Apache License 2.0,
{URL}
Cite: Joseph Paul Cohen, Joseph D. Viviano, Paul Bertin, Paul Morrison, Parsa Torabian, Matteo
Guarrera, Matthew P. Lungren, Akshay Chaudhari, Rupert Brooks, Mohammad Hashir, Hadrien Bertrand:
TorchXRayVision: A library of chest X-ray datasets and models. Medical Imaging with Deep Learning
(2022), arXiv:2111.00595.
Changes: stored as safetensors and ONNX. No image is in this folder. The data sets that the weights
were trained on have terms of their own; some allow research only.
"""
