"""Checks of pictures, their masks and kernels: values, scale, bad pixels, clipping, orientation."""

from __future__ import annotations

import math

from torch import Tensor

from invtoolbox.measurements.findings import Finding, Subject, register
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.blur_3d import Blur3D
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.operators.mri.cartesian import CartesianMRI
from invtoolbox.problem import Problem

#: Largest values of pictures in [0, 1], and of 8, 12 and 16 bits.
_FULL_SCALES = (1.0, 255.0, 4095.0, 65535.0)
#: Values of known pixels in masks that were read from pictures.
_MASKS = (255.0, 65535.0)
#: Largest deviation of the sum of a kernel from 1 that is no mistake.
_SUM = 0.1


@register(Inpainting, CartesianMRI)
def check_mask_values(subject: Subject) -> Finding | None:
    """Find a mask of 0 and 255 in place of 0 and 1, whose values weight the measurements."""
    operator, y = subject.operator, subject.problem.y0
    mask = operator.mask  # type: ignore[attr-defined]
    largest = float(mask.max())
    if largest not in _MASKS or bool(((mask != 0) & (mask != largest)).any()):
        return None
    # Measurements that were multiplied by the mask have its range.
    if not y.is_complex() and _distance(y, largest) < _distance(y, 1.0):
        return None

    def repair(problem: Problem) -> Problem:
        return problem.with_operator(problem.operator.with_parameters(mask=mask / largest))

    return Finding(
        "mask",
        f"the mask has the values 0 and {largest:g}, which multiply the image; pass mask > 0, which "
        "is 1 at measured places",
        repair=repair if operator is subject.problem.operator else None,
    )


@register(Blur, Blur3D)
def check_kernel_sum(subject: Subject) -> Finding | None:
    """Find a kernel that does not sum to 1 if the picture does not show its factor."""
    kernel, y = subject.operator.kernel, subject.problem.y0  # type: ignore[attr-defined]
    total = float(kernel[0, 0].double().sum())
    # The kernel of a derivative sums to nearly 0, and does not keep the brightness.
    if abs(total - 1) <= _SUM or abs(total) < 0.3 * float(kernel[0, 0].abs().double().sum()):
        return None
    if total > 0 and _distance(y, total) < _distance(y, 1.0):
        return None
    if total < 0 and float(y.mean()) < 0:
        return None
    return Finding(
        "sum",
        f"the kernel sums to {total:.4g}, so the image would be {1 / total:.3g} times as bright as "
        "the measurements; pass kernel / kernel.sum()",
    )


def _distance(y: Tensor, factor: float) -> float:
    """Return the distance of the largest value, divided by a factor, from a full scale, as a logarithm."""
    largest = float(y.abs().max()) / abs(factor)
    return min(abs(math.log(max(largest, 1e-30) / scale)) for scale in _FULL_SCALES)
