"""Pneumonia on frontal chest radiographs of young children (Kermany 2018)."""

from __future__ import annotations

from dicom_node.score.preprocessing import Preprocessing
from training.recipes.base import PICTURE_STAGE, SIDE, TENSOR_STAGE, Augmentation, Recipe

RECIPE = Recipe(
    name="cxr-pneumonia",
    data_set="pneumonia_cxr",
    positive_label="pneumonia",
    group_column="patient_key",
    keep=lambda row: True,
    folds=8,
    epochs=3,
    batch_size=32,
    learning_rate=6e-4,
    weight_decay=0.02,
    label_smoothing=0.05,
    seed=20261121,
    preprocessing=Preprocessing(
        input="display", rows=SIDE, columns=SIDE, display=PICTURE_STAGE, tensor=TENSOR_STAGE
    ),
    augmentation=Augmentation(
        flip=0.0,
        rotation=0.15,
        zoom=0.15,
        shift=0.06,
        gamma=(0.6, 1.6),
        contrast=0.3,
        noise=0.03,
        blur=1.2,
        erase=0,
    ),
    architecture="EfficientNetLite0",
    metadata={},
    card={},
    license_text="",
)
