"""Pictures with gaps: measurements that are missing are interpolated from their neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.blur_3d import Blur3D
from invtoolbox.operators.imaging.downsampling import Downsampling
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.problem import Problem

#: Operators whose measurements are pictures, so that neighbouring measurements are alike.
_OF_PICTURES = (Identity, Inpainting, Blur, Blur3D, Downsampling)
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def measured(problem: Problem) -> Tensor | None:
    """Return which measurements are taken and have a weight, booleans of the shape of ``y``.

    None if all have.

    Args:
        problem: measurements that are one tensor, operator and data term.
    """
    masks = (problem.operator.sampled, getattr(problem.data_term, "weights", None))
    sampled = torch.ones_like(problem.y0.real, dtype=torch.bool)
    for mask in masks:
        if isinstance(mask, Tensor):
            sampled = sampled & (mask.to(sampled.device) != 0)
    return None if bool(sampled.all()) else sampled


def fill_gaps(problem: Problem) -> Problem:
    """Return the problem of a picture whose unmeasured pixels are interpolated.

    Inpainting becomes the identity, and the data term least squares without weights. Problems
    without gaps, and measurements that are no pictures or volumes, are returned as they are.

    Args:
        problem: measurements, operator and data term.
    """
    A, y = problem.operator, problem.y
    if not isinstance(A, _OF_PICTURES) or y.is_complex() or y.ndim not in (4, 5):
        return problem
    sampled = measured(problem)
    if sampled is None:
        return problem
    if isinstance(A, Inpainting):
        y, A = A.pseudo_inverse(y), Identity(A.domain_shape)
    filled = problem.with_measurements(interpolate(y, sampled)).with_operator(A)
    return filled.with_data_term(LeastSquares())


def interpolate(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels with a linear interpolation of means over larger and larger blocks.

    Blocks of twice the side hold the mean of their known pixels, and are filled in the same way if
    they hold none (pull-push; Gortler et al., SIGGRAPH 1996). The work is linear in the number of
    pixels, and the known pixels stay as they are.

    Args:
        image: ``(batch, channel, *space)``, of one to three axes of space.
        known: booleans of the same shape.

    >>> row = torch.tensor([[[1.0, 0.0, 0.0, 2.0]]])
    >>> interpolate(row, row > 0)
    tensor([[[1.0000, 1.2500, 1.7500, 2.0000]]])
    """
    space = image.shape[2:]
    if max(space) == 1 or bool(known.all()):
        return image
    share = _mean_of_pairs(known.to(image.dtype))
    mean = _mean_of_pairs(torch.where(known, image, 0)) / torch.where(share > 0, share, 1)
    coarse = interpolate(mean, share > 0)
    # Items one by one: the bits of an interpolation may depend on the size of the batch.
    fine = [
        torch.nn.functional.interpolate(
            item[None], [2 * n for n in coarse.shape[2:]], mode=_INTERPOLATION[len(space)]
        )
        for item in coarse
    ]
    inside = (slice(None), slice(None), *(slice(n) for n in space))
    return torch.where(known, image, torch.cat(fine)[inside])


def _mean_of_pairs(image: Tensor) -> Tensor:
    """Return means over blocks of side 2; the pixels behind an odd end count as zeros."""
    for axis in range(2, image.ndim):
        if image.shape[axis] % 2:
            end = torch.zeros_like(image.narrow(axis, 0, 1))
            image = torch.cat([image, end], axis)
        image = image.unflatten(axis, (-1, 2)).mean(axis + 1)
    return image
