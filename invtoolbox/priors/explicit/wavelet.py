"""Sparsity in an orthogonal wavelet basis."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.operators.wavelet import OrthogonalWavelet
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.sparsity import L1, GroupL1, group_norm


class WaveletL1(ExplicitPrior):
    r"""``R(x) = sum of |wavelet coefficients|``, of the details only: the coarse approximation is free.

    The transform ``W`` is `invtoolbox.operators.wavelet.OrthogonalWavelet`: the periodised, separable discrete wavelet
    transform along every spatial axis (Mallat 1989), exactly orthogonal at every size, so the prox is
    ``W^T soft(W x, step)``. Complex coefficients count by their modulus.

    Args:
        wavelet: the name of an orthogonal wavelet in PyWavelets: ``"haar"``, ``"db4"``, ``"sym8"``,
            ``"coif2"``, ...
        levels: how often the approximation is split.
        coupled: the coefficients of all channels at one place share a norm (group sparsity): for channels whose edges lie at the
            same places, such as colours, contrasts or echoes.

    >>> prior = WaveletL1("haar", levels=1)
    >>> x = torch.tensor([[[1.0, 3.0, 5.0, 5.0]]])
    >>> prior.energy(x)
    tensor([1.4142])
    >>> prior.prox(x, 10.0)
    tensor([[[2.0000, 2.0000, 5.0000, 5.0000]]])
    """

    is_convex = True

    def __init__(self, wavelet: str = "db4", levels: int = 3, coupled: bool = False) -> None:
        self.basis, self.coupled = OrthogonalWavelet(wavelet, levels), coupled

    def energy(self, x: Tensor) -> Tensor:
        coefficients, details = self.transform(x)
        size = group_norm(coefficients, 1) if self.coupled else coefficients.abs()
        return (size * details).flatten(1).sum(1)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        coefficients, details = self.transform(x)
        norm = GroupL1() if self.coupled else L1()
        return self.inverse(torch.where(details, norm.prox(coefficients, step), coefficients))

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``W x``, shaped like ``x``, its approximation in the first corner, and which entries are detail."""
        return self.basis.transform(x), self.basis.details(tuple(x.shape[2:]), x.device)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """``W^T c``, which is the inverse."""
        return self.basis.inverse(coefficients)

    def __repr__(self) -> str:
        return f"WaveletL1({self.basis.wavelet!r}, levels={self.basis.levels}{', coupled=True' if self.coupled else ''})"
