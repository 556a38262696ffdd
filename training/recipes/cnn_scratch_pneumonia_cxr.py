"""A small network from random weights: five convolution blocks and four dense layers."""

from __future__ import annotations

from training.recipes import common
from training.recipes.base import Phase, Recipe, SplitPlan

SIDE = 160
"""Such tutorials use 150, which would do; docs/models.md tells what was measured at this side."""

RECIPE = Recipe(
    name="cnn_scratch_pneumonia_cxr",
    title="Pneumonia on chest radiographs of young children, CNN from scratch (reproduction)",
    system=(
        "Five blocks of convolution, max pool and batch norm, four dense layers, dropout, sigmoid; "
        "Adam, binary cross-entropy; checkpoint on best, early stopping, 10 epochs, batch 32."
    ),
    citation="An article on detecting pneumonia with a small Keras network (Kaggle chest-xray set)",
    published={"accuracy": 0.910, "precision": 0.898, "recall": 0.967, "f1": 0.931},
    kind="cxr_image",
    data_set="pneumonia_cxr",
    data_title=common.KERMANY_TITLE,
    labels=("normal", "pneumonia"),
    positive="pneumonia",
    split=SplitPlan("official", folds=8, seed=42),
    group_column="patient_key",
    architecture="FiveBlockCNN",
    weights="none",
    function="sigmoid",
    preprocessing=common.radiograph(SIDE, (common.THREE_CHANNELS,), clipped=0.0),
    augmentation=(),
    phases=(Phase(epochs=10, rates=1e-3),),
    optimizer="adam",
    early_stopping=3,
    batch_size=32,
    seed=42,
    findings=(common.PNEUMONIA,),
    intended_use=common.KERMANY_USE,
    limits=common.KERMANY_LIMITS,
    license=common.KERMANY_LICENSE,
    license_text=common.KERMANY_TEXT + common.OPEN_WEIGHTS,
)
