"""A part of a large picture, on which a weight comes out as on the whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.problem import Problem

#: Rows and columns of the part, and of how many such parts a picture is large.
SIDE, LARGE = 256, 2


class Crop(NamedTuple):
    """A part of every picture of a batch.

    Attributes:
        problem: measurements of the parts, their operator and their data term.
        corners: first row and first column of the part of every item, in the image.
    """

    problem: Problem
    corners: list[tuple[int, int]]

    def cut(self, image: Tensor) -> Tensor:
        """Return the parts of images, ``(batch, channel, row, column)``.

        Args:
            image: images of the whole problem.
        """
        return _cut(image, self.corners, self.problem.operator.domain_shape[-2:])


def crop_large(problem: Problem, side: int = SIDE) -> Crop | None:
    """Return the part of every large picture whose contrast is the median one; None if they are not large.

    The operator of the part predicts the same measurements as that of the whole: a blurred part keeps
    the pixels around it as unknowns (the boundary "valid"). Misfit and priors are sums over pixels, so
    one weight suits the part and the whole.

    Args:
        problem: blurred or noisy pictures under `LeastSquares` without weights.
        side: rows and columns of the part.

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
    is_known = type(A) in (Blur, Identity) and type(term) is LeastSquares
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
    tops = _starts(rows, before[0], A.domain_shape[1] - after[0], side)
    lefts = _starts(columns, before[1], A.domain_shape[2] - after[1], side)
    places = [(top, left) for top in tops for left in lefts]
    if not places:
        return None
    # (batch, place)
    contrasts = torch.stack([_cut(y, [p] * len(y), (side, side)).std((1, 2, 3)) for p in places], 1)
    middle = contrasts.argsort(dim=1, stable=True)[:, len(places) // 2].tolist()
    chosen = [places[k] for k in middle]
    shape = (A.domain_shape[0], side + kernel[0] - 1, side + kernel[1] - 1)
    part = Blur(A.kernel, shape, "valid", A.tile) if isinstance(A, Blur) else Identity(shape)
    corners = [(top - before[0], left - before[1]) for top, left in chosen]
    return Crop(Problem(_cut(y, chosen, (side, side)), part, term), corners)


def _starts(length: int, first: int, last: int, side: int) -> list[int]:
    """Return the first measurements of parts along an axis, half a part apart."""
    last = min(length, last) - side
    return list(range(first, last + 1, side // 2)) if last >= first else []


def _cut(image: Tensor, corners: list[tuple[int, int]], size: Any) -> Tensor:
    """Return a part of every image, which starts at its corner."""
    return torch.stack(
        [
            x[..., top : top + size[0], left : left + size[1]]
            for x, (top, left) in zip(image, corners, strict=True)
        ]
    )
