"""Huber total variation: total variation that leaves gentle slopes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.smoothed_norm import HuberNorm, huber
from invtoolbox.priors.explicit.sparsity import GroupL1
from invtoolbox.priors.explicit.total_variation import TotalVariation


class HuberTV(TotalVariation):
    r"""``R(x) = sum_pixels h(|D x|)``, ``h(s) = s^2 / (2 threshold)`` up to the threshold and ``s - threshold / 2`` beyond.

    Edges cost what they cost in total variation, and slopes below the threshold are smoothed rather than turned into stairs
    (Chambolle & Pock, J. Math. Imaging Vis. 40, 2011, section 6.2). Differentiable everywhere, so solvers that follow gradients take
    it; the prox goes by the dual, which is strongly convex here, and stops as that of `TotalVariation` does.

    Args:
        threshold: positive, in the units of the differences (of the slopes, with ``spacing``); a number, or one an item.
        isotropic, periodic, coupled, tolerance, max_iterations, spacing: as for `TotalVariation`.

    >>> x = torch.tensor([[[0.0, 0.1, 0.2, 1.2]]])
    >>> HuberTV(0.2).energy(x)  # 0.1^2 / 0.4, twice, and 1 - 0.1
    tensor([0.9500])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("threshold",)
    is_smooth = True

    def __init__(
        self,
        threshold: float | Tensor = 0.02,
        isotropic: bool = True,
        periodic: bool = False,
        coupled: bool = False,
        tolerance: float = 1e-4,
        max_iterations: int = 2000,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(isotropic, periodic, coupled, tolerance, max_iterations, spacing=spacing)
        self.threshold = torch.as_tensor(threshold, dtype=torch.float64)
        if not bool(((self.threshold > 0) & self.threshold.isfinite()).all()):
            raise InputError(f"the threshold of HuberTV is positive and finite, got {threshold}")

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """``D^T (D x / max(|D x|, threshold))``, in closed form."""
        if x.requires_grad:
            return super().gradient(x, generator)
        K, F = self._split(tuple(x.shape[1:]))
        return K.adjoint(F.gradient(K(x)))

    def _loss(self, norm: Tensor) -> Tensor:
        return huber(norm, expand(self.threshold, norm))

    def _smoothing(self, like: Tensor) -> Tensor:
        return self.threshold.to(like).expand_as(like)

    def _norm(self, groups: GroupL1 | None) -> ExplicitPrior:
        return HuberNorm(self.threshold, groups)

    def __repr__(self) -> str:
        shown = (
            f"{float(self.threshold):g}"
            if self.threshold.numel() == 1
            else f"{tuple(self.threshold.shape)}"
        )
        return f"HuberTV({', '.join([shown, *self._changed()])})"
