"""Measures of quality, each defined once. Those of images are per item of the batch: the answer has shape ``(batch,)``. Those of scene
flow in `evaluate` are of one sweep, and add over sweeps."""

from __future__ import annotations

from invtoolbox.metrics.bucketed import BucketedEPE, BucketedErrors, bucketed_epe
from invtoolbox.metrics.errors import correlation, mae, psnr, relative_error, rmse
from invtoolbox.metrics.flow import accuracy_relax, accuracy_strict, end_point_error, outliers
from invtoolbox.metrics.flow_angle import angle_error, space_time_angle_error
from invtoolbox.metrics.flow_errors import FlowErrors, evaluate, pool
from invtoolbox.metrics.flow_region import (
    RangeError,
    dynamic_end_point_error,
    range_wise_epe,
    static_end_point_error,
)
from invtoolbox.metrics.meta_classes import AV2_META_CLASSES, META_CLASSES, meta_class
from invtoolbox.metrics.segmentation import matthews_correlation, otsu_segmentation, otsu_threshold
from invtoolbox.metrics.structural_similarity import ssim
from invtoolbox.metrics.three_way import ThreeWay, ThreeWayEPE, three_way_epe
from invtoolbox.metrics.trajectory import TrajectoryErrors, trajectory_errors

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
    "dynamic_end_point_error",
    "end_point_error",
    "evaluate",
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
    "three_way_epe",
    "trajectory_errors",
]
