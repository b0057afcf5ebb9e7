"""Total generalized variation of second order: pictures made of slopes rather than of plateaus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.operators.symmetrised_gradient import SymmetrisedGradient
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Term
from invtoolbox.priors.explicit.sparsity import GroupL1
from invtoolbox.priors.explicit.total_generalized_variation_primal_dual import TGVPrimalDual


class TotalGeneralizedVariation(ExplicitPrior):
    r"""``R(x) = min_w sum |D x - w|_2 + ratio sum |E w|_F``: TGV of second order (Bredies, Kunisch & Pock, SIAM J. Imaging Sci. 3, 2010).

    ``w`` is a field of slopes that is free to follow those of the image, and pays where it bends: an affine picture costs nothing,
    a jump what it costs in total variation, and a bend ``ratio`` times its angle. So there are no stairs. D are the forward
    differences of `TotalVariation`, E is `SymmetrisedGradient`; signals, images and volumes.

    The energy and the prox are minimisations of their own, by an over-relaxed primal-dual method with steps for each item. An item
    stops once its duality gap is at most ``tolerance`` times its primal objective (or a thousandth of its total variation). For the
    prox the gap is a true bound, so the distance to the exact answer is at most ``sqrt(2 step gap)``; with the default, a few percent
    of the noise that is removed. The energy is too large by about ``tolerance``, relative. Nothing is kept between calls.

    Splitting methods (`PDHG`, which is chosen, `CondatVu`, `StochasticPDHG`, `ADMM`) do without: `joint` gives them ``w`` as further
    channels of their variable, where every piece has a closed form, and x and w are found together. Every other solver that takes a
    prox takes this prior too, and pays for hundreds of inner steps in each of its own.

    Args:
        ratio: the price of a bend over that of a jump; its unit is a length. 2 pixels suit most pictures; large values give affine
            pieces, small ones let w follow everything.
        coupled: the channels of a pixel share their norms.
        spacing: the distance of two neighbours along every axis, as for `TotalVariation`.
        tolerance, max_iterations: of the inner minimisation; `prox_with_gap` tells what was reached.

    >>> ramp = torch.tensor([[[0.0, 1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0]]])
    >>> tgv = TotalGeneralizedVariation()
    >>> tgv.energy(ramp).round(decimals=1)  # one bend, from slope 1 to slope -1
    tensor([4.])
    >>> import invtoolbox as it
    >>> problem = it.Problem(ramp, it.operators.Identity((1, 8)))
    >>> x = it.solve(problem, tgv, regularization=0.5, tolerance=1e-6, max_iterations=10000, progress=False).x
    >>> bool((x - tgv.prox(ramp, 0.5)).abs().max() < 0.01)
    True
    """

    is_convex = True
    is_smooth = False
    has_exact_prox = False

    def __init__(
        self,
        ratio: float = 2.0,
        coupled: bool = False,
        spacing: Sequence[float] | None = None,
        tolerance: float = 1e-3,
        max_iterations: int = 5000,
    ) -> None:
        if not (ratio > 0 and math.isfinite(ratio)):
            raise InputError(
                f"the ratio of TotalGeneralizedVariation is positive and finite, got {ratio}"
            )
        if not tolerance > 0 or max_iterations < 1:
            raise InputError(
                "TotalGeneralizedVariation needs a positive tolerance and at least one iteration, "
                f"got {tolerance} and {max_iterations}"
            )
        self.ratio, self.coupled = float(ratio), coupled
        self.spacing = None if spacing is None else tuple(float(h) for h in spacing)
        self.tolerance, self.max_iterations = tolerance, max_iterations

    @property
    def offers(self) -> frozenset[str]:
        # The energy is known to the tolerance only, which is too rough for differences, and it has kinks.
        return frozenset({"energy", "prox", "joint"})

    def energy(self, x: Tensor) -> Tensor:
        return (
            self._inner(x.detach(), fixed=True).solve(self._tolerance(x), self.max_iterations).value
        )

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return self.prox_with_gap(x, step)[0]

    def prox_with_gap(self, x: Tensor, step: float | Tensor) -> tuple[Tensor, Tensor]:
        """The prox and the relative duality gap that it reached, ``(batch,)``."""
        with torch.no_grad():
            scale = expand(step, x).expand(x.shape[0], *[1] * (x.ndim - 1))
            # In units of the step, the dual ball has radius 1 for every item.
            unit = torch.where(scale > 0, scale, torch.ones_like(scale))
            answer = self._inner(x / unit, fixed=False).solve(
                self._tolerance(x), self.max_iterations
            )
            flat = scale.flatten()
            return torch.where(scale > 0, answer.u * unit, x), torch.where(
                flat > 0, answer.gap, torch.zeros_like(flat)
            )

    def joint(self, image_shape: tuple[int, ...]) -> tuple[int, PriorSum]:
        """``sum |D x - w| + ratio sum |E w|``: w has the channels of the differences."""
        channels, dimensions = image_shape[0], len(image_shape) - 1
        together, entries = (channels if self.coupled else 1), dimensions * (dimensions + 1) // 2
        left, bends = _SlopesLeft(image_shape, self.spacing), _Bends(image_shape, self.spacing)
        terms = (
            Term(1.0, GroupL1(dimensions * together) @ left),
            Term(self.ratio, GroupL1(entries * together) @ bends),
        )
        return channels * dimensions, PriorSum(terms)

    def _tolerance(self, x: Tensor) -> float:
        return max(self.tolerance, 8 * torch.finfo(x.real.dtype if x.is_complex() else x.dtype).eps)

    def _inner(self, x: Tensor, fixed: bool) -> TGVPrimalDual:
        dimensions, channels = x.ndim - 2, x.shape[1]
        if self.spacing is not None and len(self.spacing) != dimensions:
            raise InputError(
                f"{self!r} has a spacing for {len(self.spacing)} axes, and the image has {dimensions}"
            )
        return TGVPrimalDual(x, self.ratio, self.spacing, channels if self.coupled else 1, fixed)

    def __repr__(self) -> str:
        shown = [
            f"{name}={value}"
            for name, value, default in (
                ("ratio", self.ratio, 2.0),
                ("coupled", self.coupled, False),
                ("spacing", self.spacing, None),
            )
            if value != default
        ]
        return f"TotalGeneralizedVariation({', '.join(shown)})"


class _SlopesLeft(LinearOperator):
    """``(x, w) -> D x - w``."""

    def __init__(self, shape: Sequence[int], spacing: Sequence[float] | None) -> None:
        self.differences = FiniteDifference(shape, spacing=spacing)
        self.range_shape = cast(tuple[int, ...], self.differences.range_shape)
        self.domain_shape = (shape[0] + self.range_shape[0], *shape[1:])

    def _forward(self, x: Tensor) -> Tensor:
        channels = self.differences.domain_shape[0]
        return self.differences._forward(x[:, :channels]) - x[:, channels:]

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.cat([self.differences._adjoint(y), -y], 1)

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``|D|^2 + 1`` under the root."""
        return (self.differences.norm(dtype=dtype, device=device).square() + 1).sqrt()


class _Bends(LinearOperator):
    """``(x, w) -> E w``."""

    def __init__(self, shape: Sequence[int], spacing: Sequence[float] | None) -> None:
        self.bends = SymmetrisedGradient(shape, spacing)
        self.channels = shape[0]
        self.domain_shape = (shape[0] + self.bends.domain_shape[0], *shape[1:])
        self.range_shape = self.bends.range_shape

    def _forward(self, x: Tensor) -> Tensor:
        return self.bends._forward(x[:, self.channels :])

    def _adjoint(self, y: Tensor) -> Tensor:
        w = self.bends._adjoint(y)
        return torch.cat([w.new_zeros(w.shape[0], self.channels, *w.shape[2:]), w], 1)

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self.bends.norm(dtype=dtype, device=device)
