"""COVID-19 on axial chest CT slices (COVID-CT, Zhao 2020)."""

from __future__ import annotations

from dicom_node.score.preprocessing import Preprocessing, TransformSpec
from training.recipes.base import PICTURE_STAGE, SIDE, TENSOR_STAGE, Augmentation, Recipe

RECIPE = Recipe(
    name="ct-covid",
    data_set="covid_ct",
    positive_label="covid",
    group_column="group_id",
    keep=lambda row: not row["label_flag"],
    folds=6,
    epochs=14,
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
            TransformSpec(name="CropBody", arguments={"threshold": -300.0, "fraction": 0.05}),
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
        rotation=0.2,
        zoom=0.2,
        shift=0.08,
        gamma=(0.6, 1.6),
        contrast=0.4,
        noise=0.03,
        blur=1.0,
        erase=2,
    ),
    architecture="EfficientNetLite0",
    metadata={},
    card={},
    license_text="",
)
