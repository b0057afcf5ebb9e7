"""Checks of pictures, their masks and kernels: values, scale, bad pixels, clipping, orientation."""

from __future__ import annotations

import math

from torch import Tensor

from invtoolbox.measurements.findings import Finding, Subject, leave_out, register
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.blur_3d import Blur3D
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.operators.mri.cartesian import CartesianMRI
from invtoolbox.problem import Problem

#: Largest values of pictures in [0, 1], and of 8, 12 and 16 bits.
FULL_SCALES = (1.0, 255.0, 4095.0, 65535.0)
#: Values of known pixels in masks that were read from pictures.
_MASKS = (255.0, 65535.0)
#: Largest deviation of the sum of a kernel from 1 that is no mistake.
_SUM = 0.1
#: Share of the largest line from which on a line belongs to the support of a kernel, and the largest
#: shift that is no mistake, in pixels and relative to the kernel.
_SUPPORT, _PIXELS, _SHIFT = 0.02, 2.0, 0.12
#: Least number of clipped pixels.
_FEWEST = 8
#: Least share of clipped pixels, least ratio of their number to that of the pixels with one of the
#: next values, least noise relative to the range, least mean of counts of photons, and least noise
#: relative to the distance of grey levels.
_CLIPPED, _SPIKE, _QUIET, _COUNTS, _GREY = 0.003, 2.0, 1e-4, 10.0, 0.5


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


@register(Blur)
def check_kernel_centre(subject: Subject) -> Finding | None:
    """Find a kernel whose support lies at one side, which shifts the image."""
    kernel = subject.operator.kernel[0, 0].abs()  # type: ignore[attr-defined]
    offsets = []
    for axis in (1, 0):
        profile = kernel.sum(axis)
        support = (profile > _SUPPORT * profile.max()).nonzero().flatten()
        offset = float(support[0] + support[-1]) / 2 - len(profile) // 2
        # The middle of an even number of taps lies half a pixel before the entry n // 2.
        offsets.append(round(offset + 0.5 * (len(profile) % 2 == 0)))
    if max(map(abs, offsets)) <= max(_PIXELS, _SHIFT * max(kernel.shape)):
        return None
    shift = tuple(-offset for offset in offsets)
    return Finding(
        "shifted",
        f"the kernel lies {tuple(offsets)} pixels (down, right) from the middle of its array, so the "
        f"image would be shifted by {shift}; pass torch.roll(kernel, {shift}, (-2, -1)), or crop it",
    )


@register(Blur, Blur3D)
def check_pixels(subject: Subject) -> Finding | None:
    """Find pixels, rows and columns that differ from their neighbours more than the blur allows."""
    faults, y = subject.bad_pixels, subject.problem.y0
    if faults is None or not bool(faults.any()):
        return None
    columns, rows = faults.all(-2, keepdim=True), faults.all(-1, keepdim=True)
    counts = {
        "columns": int(columns.sum()),
        "rows": int(rows.sum()),
        f"pixels of {y.numel()}": int((faults & ~columns & ~rows).sum()),
    }
    words = " and ".join(f"{count} {name}" for name, count in counts.items() if count)
    fact = (
        f"{words} differ from their neighbours by more than the blur allows, so they are dead, hot "
        "or of another gain"
    )
    return Finding(
        "pixels",
        f"{fact}; give them weight 0 (the step repairs, or repair=True of it.solve)",
        repair=lambda problem: leave_out(problem, faults),
        fact=fact,
    )


@register(Blur, Blur3D)
def check_clipping(subject: Subject) -> Finding | None:
    """Find highlights and shadows that were cut off at one value."""
    y, noise_std = subject.problem.y0, subject.noise_std
    weights = getattr(subject.problem.data_term, "weights", None)
    if y.is_complex() or noise_std is None or weights is not None:
        return None
    if subject.bad_pixels is not None and bool(subject.bad_pixels.any()):
        return None
    is_whole = bool((y == y.round()).all())
    for k, (values, noise) in enumerate(zip(y, noise_std.tolist())):
        if bool((values == values.flatten()[0]).all()):
            continue
        for end, name in ((values.max(), "highlights"), (values.min(), "shadows")):
            distance = (values - end).abs()
            count, step = int((distance == 0).sum()), float(distance[distance > 0].min())
            near = int((distance <= 3 * step).sum()) - count
            # Without noise, a flat part of the image has one value as well, and so has dark noise of
            # few photons.
            is_flat = noise < max(_GREY * step, _QUIET * float(values.max() - values.min()))
            is_dark = is_whole and float(end) == 0 and float(values.mean()) < _COUNTS
            if (
                is_flat
                or is_dark
                or count < max(_FEWEST, _CLIPPED * values.numel(), _SPIKE * near / 3)
            ):
                continue
            return Finding(
                "clipped",
                f"{count / values.numel():.1%} of picture {k} are exactly {float(end):.4g}, and few "
                f"pixels are near: its {name} are cut off, and there it is no blur of an image; if "
                "they are large, leave them out with "
                f"LeastSquares(weights=(y != {float(end):.6g}).float())",
            )
    return None


def _distance(y: Tensor, factor: float) -> float:
    """Return the distance of the largest value, divided by a factor, from a full scale, as a logarithm."""
    largest = float(y.abs().max()) / abs(factor)
    return min(abs(math.log(max(largest, 1e-30) / scale)) for scale in FULL_SCALES)


@register(LinearOperator)
def check_channels(subject: Subject) -> Finding | None:
    """Find pictures of fewer channels than the image: no prior of one channel divides them."""
    measured, image = subject.operator.range_shape, subject.operator.domain_shape
    is_picture = len(image) > 2 and len(measured) == len(image)
    if not is_picture or isinstance(measured[0], tuple) or measured[1:] != image[1:]:
        return None
    if measured[0] >= image[0]:
        return None
    return Finding(
        "channels",
        f"every pixel has {measured[0]} measurement{'s' if measured[0] > 1 else ''} of {image[0]} "
        "channels: how they divide comes from the prior alone, and A.pseudo_inverse(y) divides them "
        "by least squares",
        is_remark=True,
    )
