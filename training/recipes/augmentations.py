"""Random variations of the shipped models: what differs from scanner to scanner and crop to crop.

Sizes are shares of the side (`training.augment`). Border, JPEG traces and resolution tell the
sources of the public sets apart, so all three are varied.
"""

from __future__ import annotations

from training.recipes.common import spec

_TRACES = (
    spec("RandHistogramShift", prob=0.3, num_control_points=(5, 9)),
    spec("RandGaussianSmooth", prob=0.3, sigma_x=(0.2, 1.5), sigma_y=(0.2, 1.5)),
    spec("RandGaussianNoise", prob=0.3, std=0.05),
    spec("RandLowResolution", prob=0.3, zoom=(0.4, 0.9)),
    spec("RandJPEG", prob=0.5, quality=(30, 95)),
    spec("RandBorder", prob=0.3, fraction=0.1),
)

RADIOGRAPH = (
    spec("RandFlip", prob=0.5, spatial_axis=1),
    spec(
        "RandAffine",
        prob=0.9,
        rotate_range=0.2,
        translate_range=(0.08, 0.08),
        scale_range=(0.2, 0.2),
        padding_mode="zeros",
    ),
    spec("RandAdjustContrast", prob=0.6, gamma=(0.55, 1.8)),
    spec("RandScaleIntensityFixedMean", prob=0.5, factors=0.4, fixed_mean=True),
    spec("RandHistogramShift", prob=0.4, num_control_points=(5, 9)),
    spec("RandLowResolution", prob=0.6, zoom=(0.35, 1.0)),
    spec("RandJPEG", prob=0.4, quality=(30, 95)),
    spec("RandGaussianSmooth", prob=0.3, sigma_x=(0.2, 1.5), sigma_y=(0.2, 1.5)),
    spec("RandGaussianNoise", prob=0.4, std=0.06),
    spec("RandBorder", prob=0.3, fraction=0.1),
    spec(
        "RandCoarseDropout",
        prob=0.4,
        holes=1,
        max_holes=4,
        spatial_size=0.055,
        max_spatial_size=0.215,
    ),
)

IMITATED = (
    spec("RandFlip", prob=0.5, spatial_axis=1),
    spec(
        "RandAffine",
        prob=1.0,
        rotate_range=0.2,
        translate_range=(0.11, 0.11),
        scale_range=(0.3, 0.3),
        padding_mode="zeros",
    ),
    spec("RandAdjustContrast", prob=0.3, gamma=(0.8, 1.25)),
    spec("RandScaleIntensityFixedMean", prob=0.3, factors=0.2, fixed_mean=True),
)
"""What both see while one network imitates another: other crops, so that there is more to see."""

CT_SLICE = (
    spec("RandFlip", prob=0.5, spatial_axis=1),
    spec(
        "RandAffine",
        prob=0.8,
        rotate_range=0.15,
        translate_range=(0.08, 0.08),
        scale_range=(0.15, 0.15),
        padding_mode="zeros",
    ),
    spec("RandAdjustContrast", prob=0.5, gamma=(0.7, 1.4)),
    spec("RandScaleIntensityFixedMean", prob=0.5, factors=0.3, fixed_mean=True),
    *_TRACES,
    spec(
        "RandCoarseDropout",
        prob=0.3,
        holes=1,
        max_holes=2,
        spatial_size=0.05,
        max_spatial_size=0.18,
    ),
)
