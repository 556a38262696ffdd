"""ResNet50 in the manner of fast.ai: one cycle on the head, then discriminative rates."""

from __future__ import annotations

import math

from training.recipes import common
from training.recipes.base import Phase, Recipe, SplitPlan
from training.recipes.common import spec

SIDE = 299
"""As published."""

RECIPE = Recipe(
    name="resnet50_pneumonia_cxr",
    title="Pneumonia on chest radiographs of young children, ResNet50 (reproduction)",
    system=(
        "ResNet50, fast.ai 1: learning-rate finder, one cycle of 8 epochs with a frozen base, then "
        "10 epochs of all layers with rates from 1e-6 to 1e-4; 299 x 299, ImageNet's "
        "normalisation, default augmentation, batch 64; the test folder served as "
        "validation."
    ),
    citation="Looking for pneumonia in X-rays with Fast.ai, Habr 471282, October 2019",
    published={"precision": 0.863, "recall": 0.987, "accuracy": 0.894},
    kind="cxr_image",
    data_set="pneumonia_cxr",
    data_title=common.KERMANY_TITLE,
    labels=("normal", "pneumonia"),
    positive="pneumonia",
    split=SplitPlan("official", folds=8, seed=5),
    group_column="patient_key",
    architecture="ResNet50",
    weights="imagenet",
    function="softmax",
    preprocessing=common.radiograph(SIDE, common.IMAGENET_TENSOR, clipped=0.0),
    # fast.ai's get_transforms(): mirror, rotation by 10 degrees, zoom to 1.1, lighting 0.2, warp
    # 0.2. MONAI has no perspective warp of planes; a shear of the same size stands for it.
    augmentation=(
        spec("RandFlip", prob=0.5, spatial_axis=1),
        spec("RandRotate", prob=0.75, range_x=math.radians(10), padding_mode="reflection"),
        spec("RandZoom", prob=0.75, min_zoom=1.0, max_zoom=1.1, mode="bilinear"),
        spec("RandScaleIntensityFixedMean", prob=0.75, factors=0.2, fixed_mean=True),
        spec("RandShiftIntensity", prob=0.75, offsets=0.1),
        spec("RandAffine", prob=0.75, shear_range=(0.2, 0.2), padding_mode="reflection"),
    ),
    phases=(
        # 3e-3 is fast.ai's own default; the finder may choose less.
        Phase(epochs=8, rates=3e-3, trained_groups=1, schedule="one_cycle", find_rate=True),
        Phase(epochs=10, rates=(1e-6, 1e-4), schedule="one_cycle"),
    ),
    optimizer="adamw",
    weight_decay=0.01,
    batch_size=64,
    seed=5,
    findings=(common.PNEUMONIA,),
    intended_use=common.KERMANY_USE,
    limits=common.KERMANY_LIMITS,
    license=common.KERMANY_LICENSE,
    license_text=common.KERMANY_TEXT + common.TORCHVISION_WEIGHTS_TEXT + common.OPEN_WEIGHTS,
)
