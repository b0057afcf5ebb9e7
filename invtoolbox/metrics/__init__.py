"""Measures of quality, each defined once, and each per item of the batch: the answer has shape
``(batch,)``."""

from __future__ import annotations

from invtoolbox.metrics.errors import correlation, mae, psnr, relative_error, rmse
from invtoolbox.metrics.flow import end_point_error
from invtoolbox.metrics.segmentation import matthews_correlation, otsu_segmentation, otsu_threshold
from invtoolbox.metrics.structural_similarity import ssim

__all__ = [
    "correlation", "end_point_error", "mae", "matthews_correlation", "otsu_segmentation", "otsu_threshold",
    "psnr", "relative_error", "rmse", "ssim",
]
