"""A tensor as a product of two small tensors under products of tubes, for gradient descent."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.images.tubal_nuclear_norm import check_axes, check_shape
from invtoolbox.priors.settings import format_changes, replace, require_bound


class TubalFactors(ImplicitPrior):
    r"""Product of two tensors, ``x = L * R``, or of a tensor and its transpose, ``x = L * L^T``.

    The t-product multiplies the slices after a Fourier transform along the tubes, which have n
    entries: ``F(L * R)_k = F(L)_k F(R)_k``. Without the transform it is a circular convolution of
    slices, ``(L * R)_i = sum_j L_j R_{i - j}``. The transpose takes ``F(L)_k`` to its conjugate
    transpose. The slices of the factors have ``rank`` columns and rows, so the tubal rank of x is
    at most ``rank``. Tubes of one entry give the product of two matrices.

    There is no term S. Plain gradient descent from small factors finds the large components of x
    first, so a ``rank`` that is too high does little harm. Use `GradientDescent` with a fixed
    ``step_size`` and a small ``scale``: the error falls with the scale, and the number of
    iterations grows with its logarithm. `LBFGS` hardly leaves a small start. For the completion of
    a series `TubalNuclearNorm` is better.

    Sources: Karnik, Veselovska, Iwen and Krahmer, "Implicit regularization for tubal tensor
    factorizations via gradient descent", ICML 2025; Kilmer and Martin, "Factorization strategies
    for third-order tensors", Linear Algebra and its Applications 435, 2011 (the t-product).

    Args:
        rank: number of columns of the slices of L; it may exceed the number of rows.
        tubes: axis of the image that holds the tubes, counted with the batch as axis 0: 1, the
            channel or the frame, or an axis of space.
        rows: axis of the rows of the slices. All other axes form the columns.
        symmetric: whether x is ``L * L^T``; the slices must be square.
        scale: size of the first factors, ``scale N(0, 1) / sqrt(rank)``. The first x is of the order
            of its square.
        seed: seed of the first factors, which are the same for every item.

    Raises:
        InputError: a rank below 1, equal axes, or a scale that is not positive; or, when the
            problem is known, an image with too few axes, or slices that are not square.

    >>> import invtoolbox as it
    >>> series = torch.outer(torch.arange(4.0), torch.ones(5)).expand(1, 3, 4, 5)
    >>> problem = it.Problem(series, it.operators.Identity((3, 4, 5)))
    >>> found = it.solve(problem, TubalFactors(2), it.solvers.GradientDescent(), progress=False)
    >>> bool((found.x - series).abs().max() < 1e-3)
    True
    """

    def __init__(
        self,
        rank: int,
        tubes: int = 1,
        rows: int = 2,
        symmetric: bool = False,
        scale: float = 1e-2,
        seed: int = 0,
    ) -> None:
        check_axes(self, tubes, rows)
        check_range(self, "[1, inf)", rank=rank)
        check_range(self, "(0, inf)", scale=scale)
        self.rank, self.tubes, self.rows, self.symmetric = rank, tubes, rows, symmetric
        self.scale, self.seed = scale, seed
        self.image_shape: tuple[int, ...] = ()
        self.like = torch.zeros(())

    def prepare(self, problem: Problem, solve: Any) -> Self:
        shape = problem.image_shape
        check_shape(self, (problem.batch, *shape))
        bound = replace(self, image_shape=shape, like=problem.zeros().new_zeros(()))
        rows, columns = shape[self.rows - 1], math.prod(bound._columns)
        if self.symmetric and rows != columns:
            raise InputError(
                "TubalFactors(symmetric=True) needs square slices: as many rows as columns, the "
                f"product of the other axes, got {rows} rows (axis {self.rows}) and {columns} "
                f"columns in an image of shape {shape}"
            )
        return bound

    @property
    def _columns(self) -> tuple[int, ...]:
        """Lengths of the axes that form the columns."""
        axes = enumerate(require_bound(self, self.image_shape), start=1)
        return tuple(n for axis, n in axes if axis not in (self.tubes, self.rows))

    def initial(self) -> dict[str, Tensor]:
        """Draw ``left (1, n, rows, rank)`` and, unless symmetric, ``right (1, n, rank, columns)``."""
        columns, shape = math.prod(self._columns), self.image_shape
        n, rows = shape[self.tubes - 1], shape[self.rows - 1]
        shapes = {"left": (1, n, rows, self.rank)}
        if not self.symmetric:
            shapes["right"] = (1, n, self.rank, columns)
        generator = torch.Generator().manual_seed(self.seed)
        dtype = torch.complex128 if self.like.is_complex() else torch.float64
        factor = self.scale / math.sqrt(self.rank)
        return {
            name: (factor * torch.randn(size, generator=generator, dtype=dtype)).to(self.like)
            for name, size in shapes.items()
        }

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        names = ("left",) if self.symmetric else ("left", "right")
        return map_items(self._multiply, *(parameters[name] for name in names))

    def _multiply(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        n, is_complex = left.shape[1], left.is_complex()
        transform = torch.fft.fft if is_complex else torch.fft.rfft
        spectrum = transform(left, dim=1)
        spectrum = spectrum @ (spectrum.mH if right is None else transform(right, dim=1))
        inverse = torch.fft.ifft if is_complex else torch.fft.irfft
        x = inverse(spectrum, n=n, dim=1).unflatten(3, self._columns)
        return x.movedim((1, 2), (self.tubes, self.rows)).contiguous()

    def __repr__(self) -> str:
        changes = format_changes(self, tubes=1, rows=2, symmetric=False, scale=1e-2, seed=0)
        return f"TubalFactors({self.rank}{', ' if changes else ''}{changes})"
