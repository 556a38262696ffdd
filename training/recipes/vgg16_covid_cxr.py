"""VGG16 on 25 + 25 films: a frozen ImageNet base and a small head, after a tutorial of 2020."""

from __future__ import annotations

import math

from training.recipes import common
from training.recipes.base import Phase, Recipe, SplitPlan
from training.recipes.common import spec

RECIPE = Recipe(
    name="vgg16_covid_cxr",
    title="COVID-19 on 25 + 25 chest radiographs, VGG16 (reproduction)",
    system=(
        "VGG16 with a frozen ImageNet base; head AveragePool 4 x 4, Dense 64, Dropout 0.5, softmax "
        "2; 224 x 224, scaled to [0, 1] and no more; Adam 1e-3 with decay 1e-3 / 25, 25 epochs, "
        "batch 8, rotation by up to 15 degrees with the nearest pixel as fill; 80 / 20 stratified, "
        "seed 42."
    ),
    citation=(
        "A. Rosebrock, Detecting COVID-19 in X-ray images with Keras, TensorFlow, and Deep "
        "Learning, PyImageSearch, 16 March 2020"
    ),
    # On the ten pictures that also chose the model.
    published={"accuracy": 0.90, "sensitivity": 1.00, "specificity": 0.80},
    kind="cxr_image",
    data_set="covid25_cxr",
    data_title=f"25 + 25 films of: {common.COVID_CXR_TITLE}",
    labels=("normal", "covid"),
    positive="covid",
    split=SplitPlan("stratified", validation=0.2, grouped=False, seed=42),
    group_column=None,
    architecture="VGG16",
    weights="imagenet",
    function="softmax",
    preprocessing=common.radiograph(224, (common.THREE_CHANNELS,), clipped=0.0),
    augmentation=(spec("RandRotate", prob=1.0, range_x=math.radians(15), padding_mode="border"),),
    phases=(Phase(epochs=25, rates=1e-3, trained_groups=1, schedule="time_decay"),),
    optimizer="adam",
    batch_size=8,
    seed=42,
    findings=(common.COVID,),
    intended_use=common.COVID_CXR_USE,
    confounded_by=common.COVID_CXR_CONFOUNDED,
    limits=(*common.COVID_CXR_LIMITS, "Ten test films prove nothing."),
    license=common.COVID_CXR_LICENSE,
    license_text=common.COVID_CXR_TEXT + common.TORCHVISION_WEIGHTS_TEXT + common.CLOSED_WEIGHTS,
)
