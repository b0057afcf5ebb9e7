"""Network of total deep variation: small U-Nets on several scales give one energy per pixel."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.networks.convex_energy import mirror, mirror_transpose
from invtoolbox.networks.denoisers import draw_weights

#: Binomial window that blurs the filters between scales, against aliasing.
_WINDOW = (1.0, 4.0, 6.0, 4.0, 1.0)


class DeepVariationNetwork(nn.Module):
    """Energy ``r(x) = <w, N(K x)>`` at every pixel.

    K are filters without a mean, N are ``blocks`` U-Nets one after the other, and w is a vector. A
    U-Net has residual steps ``x + K_2 phi(K_1 x)``, ``phi(t) = 1/2 log(1 + t^2)``, two on a scale
    and one on the coarsest. Between scales the features are filtered by a blurred kernel with a
    stride of 2, and on the way back by the transpose of such a kernel. Every U-Net but the first
    starts a scale from the result of the one before on that scale. Outside of its borders an image
    is extended by reflection. After Kobler, Effland, Kunisch and Pock, "Total deep variation for
    linear inverse problems", CVPR 2020; the names of the weights are those of their files.

    Args:
        channels: number of channels of the image.
        features: number of channels of all features, F.
        scales: number of scales.
        blocks: number of U-Nets.
        seed: seed of the first weights.

    >>> DeepVariationNetwork(1, features=4, scales=2, blocks=1)(torch.zeros(2, 1, 9, 12)).shape
    torch.Size([2, 1, 9, 12])
    """

    def __init__(
        self, channels: int = 1, features: int = 32, scales: int = 3, blocks: int = 3, seed: int = 0
    ) -> None:
        super().__init__()
        check_range(
            self, "[1, inf)", channels=channels, features=features, scales=scales, blocks=blocks
        )
        self.channels, self.features, self.scales = channels, features, scales
        self.K1 = _Filters(channels, features, 3)
        self.mb = nn.ModuleList([_UNet(features, scales) for _ in range(blocks)])
        self.KN = _Filters(features, 1, 1)
        draw_weights(self, seed)
        with torch.no_grad():
            self.K1.weight.sub_(self.K1.weight.mean((1, 2, 3), keepdim=True))
            self.K1.weight.div_(self.K1.weight.square().sum((1, 2, 3), keepdim=True).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``r(x)``, ``(batch, 1, rows, columns)``."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise InputError(
                f"this DeepVariationNetwork takes images (batch, {self.channels}, rows, columns), "
                f"got {tuple(x.shape)}"
            )
        scales: list[Tensor] = [self.K1(x)]
        for block in self.mb:
            scales = block(scales)
        return self.KN(scales[0])

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, features={self.features}, scales={self.scales}, "
            f"blocks={len(self.mb)}"
        )


class _Filters(nn.Module):
    """Convolution that keeps the size."""

    def __init__(self, before: int, after: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(after, before, side, side))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(mirror(x, self.weight.shape[-1] // 2), self.weight)


class _Between(nn.Module):
    """Convolution down to half the size, and its transpose, up to a given size."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, features, 3, 3))

    def kernel(self) -> Tensor:
        line = self.weight.new_tensor(_WINDOW) / sum(_WINDOW)
        window = torch.outer(line, line)[None, None]
        return F.conv2d(self.weight.flatten(0, 1)[:, None], window, padding=4).unflatten(
            0, self.weight.shape[:2]
        )[:, :, 0]

    def down(self, x: Tensor) -> Tensor:
        return F.conv2d(mirror(x, 3), self.kernel(), stride=2)

    def up(self, x: Tensor, size: torch.Size) -> Tensor:
        padding = [n - 2 * m + 1 for n, m in zip(size[2:], x.shape[2:])]
        return mirror_transpose(
            F.conv_transpose2d(x, self.kernel(), stride=2, output_padding=padding), 3
        )


class _Step(nn.Module):
    """Residual step ``x + K_2 phi(K_1 x)``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _Filters(features, features, 3), _Filters(features, features, 3)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.conv2(_Potential.apply(self.conv1(x)))
        return x + changed


class _UNet(nn.Module):
    """U-Net of residual steps, which takes and returns the features of all scales."""

    def __init__(self, features: int, scales: int) -> None:
        super().__init__()
        self.mb = nn.ModuleList(
            [
                nn.ModuleList([_Step(features) for _ in range(2 if k + 1 < scales else 1)])
                for k in range(scales)
            ]
        )
        self.conv_down = nn.ModuleList([_Between(features) for _ in range(scales - 1)])
        self.conv_up = nn.ModuleList([_Between(features) for _ in range(scales - 1)])

    def forward(self, scales: list[Tensor]) -> list[Tensor]:
        x = list(scales)
        for k, between in enumerate(self.conv_down):
            x[k] = self._step(k, 0, x[k])
            coarser = cast(_Between, between).down(x[k])
            x[k + 1 : k + 2] = [x[k + 1] + coarser if k + 1 < len(x) else coarser]
        x[-1] = self._step(len(x) - 1, 0, x[-1])
        for k in range(len(x) - 2, -1, -1):
            finer = cast(_Between, self.conv_up[k]).up(x[k + 1], x[k].shape)
            x[k] = self._step(k, 1, x[k] + finer)
        return x

    def _step(self, scale: int, number: int, x: Tensor) -> Tensor:
        return cast(nn.ModuleList, self.mb[scale])[number](x)


class _Potential(torch.autograd.Function):
    """Function ``1/2 log(1 + t^2)``, whose backward pass needs t alone."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        ctx.save_for_backward(t)
        return t.square().log1p_().mul_(0.5)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors
        return gradient * (t / (1 + t * t))
