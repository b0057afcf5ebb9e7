"""What unitary transforms have in common: the adjoint is the inverse, so every closed form is known."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.operators.base import LinearOperator, expand


class Unitary(LinearOperator):
    """``A^H A = I``: a subclass writes ``_forward`` and ``_adjoint``."""

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """1: exact."""
        return torch.ones(1, dtype=dtype, device=device)

    def normal_symbol(self) -> tuple[Tensor, bool]:
        return torch.ones([1] * (len(self.domain_shape) + 1)), True

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """``v / (weight + rho)``."""
        return v / (expand(weight, v) + expand(rho, v))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """The inverse."""
        return self.adjoint(y)
