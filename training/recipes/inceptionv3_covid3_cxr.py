"""Inception V3 on three classes of films, all layers trained, after a repository of 2020."""

from __future__ import annotations

import math

from training.recipes import common
from training.recipes.base import Phase, Recipe, SplitPlan
from training.recipes.common import spec

RECIPE = Recipe(
    name="inceptionv3_covid3_cxr",
    title="COVID-19, bacterial pneumonia or normal on films, Inception V3 (reproduction)",
    system=(
        "Inception V3, every layer trained; head AveragePool 4 x 4, Dense 64, Dropout 0.5, softmax "
        "3; 256 x 256, scaled to [0, 1]; Adam 1e-5, 50 epochs, batch 8, rotation by up to 15 "
        "degrees; 27 further films as test."
    ),
    citation="zhongli1990/Covid19-X-Rays, GitHub, April 2020",
    # Accuracy on 40 validation films; all 9 COVID-19 films of the test were right as well.
    published={"accuracy": 0.975, "sensitivity": 1.00},
    kind="cxr_image",
    data_set="covid3_cxr",
    data_title=common.COVID_CXR_TITLE,
    labels=("covid", "normal", "pneumonia_bac"),
    positive="covid",
    split=SplitPlan("stratified", validation=0.2, grouped=False, seed=42),
    group_column="patient_key",
    architecture="InceptionV3",
    weights="imagenet",
    function="softmax",
    preprocessing=common.radiograph(256, (common.THREE_CHANNELS,), clipped=0.0),
    augmentation=(spec("RandRotate", prob=1.0, range_x=math.radians(15), padding_mode="border"),),
    phases=(Phase(epochs=50, rates=1e-5),),
    optimizer="adam",
    batch_size=8,
    seed=42,
    findings=(common.COVID, common.BACTERIAL_PNEUMONIA),
    intended_use=common.COVID_CXR_USE,
    confounded_by=common.COVID_CXR_CONFOUNDED,
    limits=common.COVID_CXR_LIMITS,
    license=common.COVID_CXR_LICENSE,
    license_text=common.COVID_CXR_TEXT + common.TORCHVISION_WEIGHTS_TEXT + common.CLOSED_WEIGHTS,
)
