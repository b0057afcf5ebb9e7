"""Sparsity of stationary wavelet details, which no grid of blocks disturbs.

`StationaryWaveletL1` is the prior. `AnalysisDual` minimizes the dual problem of its prox.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, expand, inner, item_norm
from invtoolbox.operators.stationary_wavelet import StationaryWavelet
from invtoolbox.priors.base import ExplicitPrior, Problem
from invtoolbox.priors.images.itemwise_iteration import ItemwiseIteration
from invtoolbox.priors.images.sparsity import GroupL1
from invtoolbox.priors.settings import replace


class StationaryWaveletL1(ExplicitPrior):
    """Sum of the moduli of the stationary wavelet details of x; the approximation is free.

    ``R(x) = sum over levels and places of |(details of all directions)|_2``, with the details of
    `invtoolbox.operators.StationaryWavelet`, which has no blocks. `WaveletL1` takes the details of
    one orthogonal transform, whose blocks stay visible; its prox has a closed form. The directions
    of a place share a Euclidean norm; ``L1() @ StationaryWavelet(shape)`` is the mean of `WaveletL1`
    over all shifts. Complex details count by their modulus.

    The prox minimizes ``|u - x|^2 / (2 step) + R(u)`` through its dual by the accelerated projected
    gradient method (Beck & Teboulle 2009). An item stops once its duality gap is at most
    ``tolerance`` times its primal objective. No state is kept between calls.

    Args:
        wavelet: name of an orthogonal wavelet in PyWavelets.
        levels: number of levels.
        coupled: whether all channels of a place share its norm (group sparsity).
        tolerance: relative duality gap at which the prox stops.
        max_iterations: number of iterations after which the prox stops in any case.

    >>> prior = StationaryWaveletL1("haar", levels=1)
    >>> x = torch.tensor([[[1.0, 3.0, 5.0, 5.0]]])
    >>> prior.energy(x)  # (|1 - 3| + |3 - 5|) / sqrt(2) / 2
    tensor([1.4142])
    >>> prior.prox(x, 1.0).round(decimals=2)
    tensor([[[1.3500, 3.0000, 4.8200, 4.8200]]])
    """

    is_convex = True
    has_exact_prox = False

    def __init__(
        self,
        wavelet: str = "haar",
        levels: int = 2,
        coupled: bool = False,
        tolerance: float = 1e-4,
        max_iterations: int = 2000,
    ) -> None:
        check_range(self, "(0, inf]", tolerance=tolerance)
        check_range(self, "[1, inf)", max_iterations=max_iterations)
        StationaryWavelet((1, 1), wavelet, levels)  # refuses unknown names
        self.wavelet, self.levels, self.coupled = wavelet, levels, coupled
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self.shape: tuple[int, ...] | None = None

    def energy(self, x: Tensor) -> Tensor:
        details, norm = self._split(tuple(x.shape[1:]))
        return norm.energy(details(x))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return self.prox_with_gap(x, step)[0]

    def prox_with_gap(self, x: Tensor, step: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the prox and the relative duality gap that it reached, ``(batch,)``."""
        real = x.real.dtype if x.is_complex() else x.dtype
        tolerance = max(self.tolerance, 4 * torch.finfo(real).eps)
        with torch.no_grad():
            # prox_{t R}(x) = t prox_R(x / t), because R is homogeneous of degree 1.
            scale = expand(step, x).expand(x.shape[0], *[1] * (x.ndim - 1))
            unit = torch.where(scale > 0, scale, torch.ones_like(scale))
            details, norm = self._split(tuple(x.shape[1:]))
            u, gap = torch.empty_like(x), torch.zeros(x.shape[0], dtype=real, device=x.device)
            AnalysisDual(x / unit, details, norm).run((u, gap), tolerance, self.max_iterations)
            moves = scale.real > 0
            return torch.where(moves, u * unit, x), torch.where(
                moves.flatten(), gap, torch.zeros_like(gap)
            )

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        if self.shape is None:
            raise InputError(
                f"{self!r} needs the shape of the image to split; it.solve binds it, or call "
                "prior.bind(image_shape)"
            )
        return self._split(self.shape)

    def _split(self, shape: tuple[int, ...]) -> tuple[LinearOperator, GroupL1]:
        details = StationaryWavelet(shape, self.wavelet, self.levels)
        # Adjacent channels of the details: the bands of a channel, then the channels of a level.
        return details, GroupL1(details.bands * (shape[0] if self.coupled else 1))

    def bind(self, shape: tuple[int, ...]) -> Self:
        """Return a copy for images of shape ``(channel, *space)``, which `split` needs."""
        return replace(self, shape=tuple(shape))

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self.bind(problem.image_shape)

    def __repr__(self) -> str:
        coupled = ", coupled=True" if self.coupled else ""
        return f"StationaryWaveletL1({self.wavelet!r}, levels={self.levels}{coupled})"


#: The momentum is (k - 1) / (k + MOMENTUM); any value above 2 makes the iterates converge (Chambolle
#: & Dossal 2015).
_MOMENTUM = 6.0


class AnalysisDual(ItemwiseIteration):
    """Accelerated projected gradient method for the dual problem of the prox of ``norm(K u)``.

    It minimizes ``1/2 |x - K^T p|^2`` over the unit ball of the dual norm; ``u = x - K^T p``.

    Args:
        x: image, ``(items, channel, *space)``.
        K: linear operator with a bound on its norm.
        norm: norm of ``K u``, the sum of Euclidean norms of groups.
    """

    first_check = 10

    def __init__(self, x: Tensor, K: LinearOperator, norm: GroupL1) -> None:
        self.x, self.K, self.norm = x, K, norm
        self.one = torch.ones(len(x), dtype=x.real.dtype if x.is_complex() else x.dtype)
        self.one = self.one.to(x.device)
        #: Inverse of the Lipschitz constant |K|^2; K = 0 has no dual.
        bound = float(K.norm()) ** 2
        self.step = 1 / bound if bound > 0 else 0.0
        self.p = K(torch.zeros_like(x))
        self.q = self.p.clone()

    def _step(self, k: int) -> None:
        # p_new = project(q + K u / L) with u = x - K^T q; q = p_new + beta (p_new - p).
        ascent = self.K(self.x - self.K.adjoint(self.q)).mul_(self.step).add_(self.q)
        p = self.norm.prox_conjugate(ascent, self.one, self.one)
        self.q = torch.add(p, p - self.p, alpha=(k - 1) / (k + _MOMENTUM))
        self.p = p

    def _measure(self) -> tuple[Tensor, Tensor]:
        """Return u and its gap ``norm(K u) - <K u, p>``, relative to the primal objective."""
        u = self.x - self.K.adjoint(self.p)
        image = self.K(u)
        energy = self.norm.energy(image)
        gap = (energy - inner(image, self.p)).clamp_min(0)
        value = energy + 0.5 * item_norm(u - self.x).square()
        return u, torch.where(gap > 0, gap / value, gap)

    def _keep(self, index: Tensor) -> None:
        for name in ("x", "one", "p", "q"):
            setattr(self, name, getattr(self, name).index_select(0, index))
