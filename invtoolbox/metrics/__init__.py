"""Measures of quality, each defined once.

Metrics of images are per item of the batch and have shape ``(batch,)``. `evaluate` computes the
metrics of scene flow of one sweep; `pool` combines those of many sweeps.
"""

from __future__ import annotations

from invtoolbox.metrics.flow import (
    RangeError,
    TrajectoryErrors,
    accuracy_relax,
    accuracy_strict,
    angle_error,
    dynamic_end_point_error,
    end_point_error,
    outliers,
    range_wise_epe,
    space_time_angle_error,
    static_end_point_error,
    trajectory_errors,
)
from invtoolbox.metrics.flow_evaluation import FlowErrors, evaluate, pool
from invtoolbox.metrics.flow_scores import (
    AV2_META_CLASSES,
    META_CLASSES,
    BucketedEPE,
    BucketedErrors,
    ThreeWay,
    ThreeWayEPE,
    bucketed_epe,
    meta_class,
    three_way_epe,
)
from invtoolbox.metrics.images import (
    correlation,
    mae,
    matthews_correlation,
    otsu_segmentation,
    otsu_threshold,
    psnr,
    relative_error,
    rmse,
    ssim,
)
from invtoolbox.metrics.registration import (
    dice,
    folding,
    hausdorff,
    jacobian_determinant,
    jacobian_statistics,
    target_registration_error,
)
from invtoolbox.metrics.stein_discrepancy import kernel_stein_discrepancy

__all__ = [
    "AV2_META_CLASSES",
    "META_CLASSES",
    "BucketedEPE",
    "BucketedErrors",
    "FlowErrors",
    "RangeError",
    "ThreeWay",
    "ThreeWayEPE",
    "TrajectoryErrors",
    "accuracy_relax",
    "accuracy_strict",
    "angle_error",
    "bucketed_epe",
    "correlation",
    "dice",
    "dynamic_end_point_error",
    "end_point_error",
    "evaluate",
    "folding",
    "hausdorff",
    "jacobian_determinant",
    "jacobian_statistics",
    "kernel_stein_discrepancy",
    "mae",
    "matthews_correlation",
    "meta_class",
    "otsu_segmentation",
    "otsu_threshold",
    "outliers",
    "pool",
    "psnr",
    "range_wise_epe",
    "relative_error",
    "rmse",
    "space_time_angle_error",
    "ssim",
    "static_end_point_error",
    "target_registration_error",
    "three_way_epe",
    "trajectory_errors",
]
