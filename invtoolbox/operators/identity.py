"""The identity: denoising is an inverse problem too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.operators.base import LinearOperator


class Identity(LinearOperator):
    """``A(x) = x``, for images of shape ``(channel, *space)``.

    >>> Identity((1, 2))(torch.ones(1, 1, 2))
    tensor([[[1., 1.]]])
    """

    channelwise = True

    normal_is_diagonal = True

    def __init__(self, shape: Sequence[int]) -> None:
        self.domain_shape = self.range_shape = tuple(int(n) for n in shape)

    def _forward(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        return y

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return torch.ones(1, dtype=dtype, device=device)

    def normal_symbol(self) -> tuple[Tensor, bool]:
        return torch.ones([1] * (len(self.domain_shape) + 1)), True

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return y
