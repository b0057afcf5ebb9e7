"""A part of a large picture, on which weights and comparisons come out as on the whole."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.problem import Problem

#: Rows and columns of the part, and of how many such parts a picture is large.
SIDE, LARGE = 256, 2


class Crop(NamedTuple):
    """A part of a picture.

    Attributes:
        problem: its measurements, operator and data term.
        pixels: rows and columns of the image that the measurements of the part depend on.
    """

    problem: Problem
    pixels: tuple[slice, slice]

    def cut(self, image: Tensor) -> Tensor:
        """Return the part of an image, ``(batch, channel, rows, columns)``."""
        return image[..., self.pixels[0], self.pixels[1]].contiguous()


def crop_large(problem: Problem, side: int = SIDE) -> Crop | None:
    """Return the part of a large picture whose contrast is the median one; None if it is not large.

    The operator of the part predicts the same measurements as that of the whole: a blurred part keeps
    the pixels around it as unknowns (the boundary "valid"). Misfit and priors are sums over pixels, so
    one weight suits the part and the whole.

    Args:
        problem: a blurred or noisy picture, or one with gaps, under `LeastSquares` without weights.
        side: rows and columns of the part.

    >>> import torch
    >>> A = Blur(torch.ones(5, 5) / 25, (400, 500))
    >>> x = torch.rand(1, 1, 400, 500)
    >>> part = crop_large(Problem(A(x), A))
    >>> part.problem.y.shape, part.cut(x).shape
    (torch.Size([1, 1, 256, 256]), torch.Size([1, 1, 260, 260]))
    >>> bool(torch.allclose(part.problem.operator(part.cut(x)), part.problem.y, atol=1e-5))
    True
    """
    A: Any = problem.operator
    term = problem.data_term
    is_known = type(A) in (Blur, Identity, Inpainting) and type(term) is LeastSquares
    if not is_known or problem.unknown or problem.skipped is not None or len(A.domain_shape) != 3:
        return None
    assert isinstance(term, LeastSquares)
    y, (rows, columns) = problem.y0, problem.y0.shape[-2:]
    if term.weights is not None or min(rows, columns) < side or rows * columns < LARGE * side**2:
        return None
    kernel = A.kernel.shape[-2:] if isinstance(A, Blur) else (1, 1)
    # A measurement depends on the pixels from `before` to `after` around it.
    before = [0 if getattr(A, "boundary", "") == "valid" else k - 1 - k // 2 for k in kernel]
    after = [k - 1 - b for k, b in zip(kernel, before)]
    places = [
        (top, left)
        for top in _starts(rows, before[0], A.domain_shape[1] - after[0], side)
        for left in _starts(columns, before[1], A.domain_shape[2] - after[1], side)
    ]
    if not places:
        return None
    parts = [y[..., top : top + side, left : left + side] for top, left in places]
    ranked = sorted(range(len(parts)), key=lambda k: float(parts[k].std()))
    middle = ranked[len(ranked) // 2]
    pixels = tuple(
        slice(start - b, start + side + a) for start, b, a in zip(places[middle], before, after)
    )
    part = Problem(parts[middle].contiguous(), _operator(A, pixels, side), term)
    return Crop(part, (pixels[0], pixels[1]))


def _starts(length: int, first: int, last: int, side: int) -> list[int]:
    """Return the first measurements of parts along an axis, half a part apart."""
    last = min(length, last) - side
    return list(range(first, last + 1, side // 2)) if last >= first else []


def _operator(A: Any, pixels: tuple[slice, ...], side: int) -> LinearOperator:
    if isinstance(A, Inpainting):
        return Inpainting(A.mask[..., pixels[0], pixels[1]], (A.domain_shape[0], side, side))
    if isinstance(A, Identity):
        return Identity((A.domain_shape[0], side, side))
    shape = (A.domain_shape[0], *(p.stop - p.start for p in pixels))
    return Blur(A.kernel, shape, "valid", A.tile)
