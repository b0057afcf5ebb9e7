"""A convex network of the energies of filters, for images of any size.

`mirror` extends images by reflection, and `mirror_transpose` is its transpose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.networks.convex_convolution import average, spread, transpose_convolution
from invtoolbox.networks.convex_network import ConvexNetwork, item_sum, smooth_ramp


class ConvexEnergy(ConvexNetwork):
    """Convex network of the energies of filters, on several levels of resolution.

    ``psi(x) = sum over levels and places of <q_k, e_k> + <w_k, z_k> + alpha/2 |x|^2``.

    The input of level k is the image ``x_k``, averaged over blocks by the strides of the levels
    before. Its filters have energies ``e_k = 1/2 (G_k * x_k)^2``, and
    ``z_k = g(V_k * e_k + W_k * z_{k-1} + H_k * x_{k+1} + b_k)``. The entries of V, W, q and w are
    nonnegative and g is a softplus, so psi is convex. Outside of its borders, an image is extended
    by reflection, and all other arrays are 0.

    The gradient at a level is ``G^T (a G x)`` with a gain ``a = q + V^T(...)`` at every place that
    grows with the energy nearby and at coarser levels: filters with a signal above the noise pass,
    others are shrunk, as in Wiener filters of local energies. A softplus of linear features alone
    (`ConvexConvolution`) must approximate the identity by many bent lines.

    Args:
        channels: number of channels of the image.
        filters: number of filters of each level.
        widths: channels of ``z_k``.
        strides: stride of each level; 2 halves the resolution of its output.
        filter_size: side of the filters G and H, odd.
        kernel_size: side of V and W, odd.
        beta: sharpness of the softplus; it bends within about ``1 / beta``, and images are meant to
            lie within [0, 1].
        strong_convexity: ``alpha``.
        seed: seed of the first weights. The first filters are products of cosines, the smoothest of
            a basis of the windows: from random filters training takes about ten times as long.

    >>> network = ConvexEnergy(1, filters=(4, 4), widths=(6, 6), strides=(2, 2))
    >>> network(torch.zeros(2, 1, 13, 9)).shape
    torch.Size([2, 1, 13, 9])
    """

    def __init__(
        self,
        channels: int = 1,
        filters: Sequence[int] = (48, 24, 24),
        widths: Sequence[int] = (48, 48, 48),
        strides: Sequence[int] = (2, 1, 2),
        filter_size: int = 7,
        kernel_size: int = 3,
        beta: float = 20.0,
        strong_convexity: float = 1e-6,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (
            not widths
            or not len(widths) == len(strides) == len(filters)
            or min(channels, *widths, *strides, *filters) < 1
        ):
            raise InputError(
                "ConvexEnergy needs as many positive filters and widths as strides, one per level, "
                f"got {tuple(filters)}, {tuple(widths)} and {tuple(strides)}"
            )
        if (
            min(filter_size % 2, kernel_size % 2) == 0
            or min(filter_size, kernel_size) < 1
            or not beta > 0
            or not strong_convexity >= 0
        ):
            raise InputError(
                "ConvexEnergy needs an odd filter_size and kernel_size, a positive beta and a "
                "strong_convexity that is not negative, "
                f"got {filter_size}, {kernel_size}, {beta:g} and {strong_convexity:g}"
            )
        self.channels, self.beta, self.strong_convexity = channels, beta, strong_convexity
        self.strides = tuple(int(s) for s in strides)
        generator = torch.Generator().manual_seed(seed)
        inputs = channels * filter_size**2

        def draw(out: int, into: int, side: int) -> Tensor:
            return torch.rand(out, into, side, side, generator=generator)

        levels = range(len(self.strides))
        self.filters = nn.ParameterList(
            [nn.Parameter(4 * _cosines(n, channels, filter_size, generator)) for n in filters]
        )
        self.skips = nn.ParameterList(
            [
                nn.Parameter((2 * draw(n, channels, filter_size) - 1) / math.sqrt(inputs))
                for n in widths
            ]
        )
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(n)) for n in widths])
        # Small weights are stored larger, see `_mean` and `_share`, because a step of Adam has the
        # same size for all parameters.
        self.pooling = nn.ParameterList(
            [
                nn.Parameter(
                    draw(widths[k], filters[k], kernel_size)
                    * (2 / (filters[k] * kernel_size**2) ** 0.25)
                )
                for k in levels
            ]
        )
        self.weights = nn.ParameterList(
            [
                nn.Parameter(
                    draw(widths[k], widths[k - 1], kernel_size)
                    * (2 / (widths[k - 1] * kernel_size**2) ** 0.25)
                )
                for k in levels[1:]
            ]
        )
        self.floors = nn.ParameterList([nn.Parameter(torch.full((n, 1, 1), 0.3)) for n in filters])
        self.readouts = nn.ParameterList([nn.Parameter(torch.full((n, 1, 1), 0.3)) for n in widths])
        self.nonnegative = tuple(
            name
            for name, _ in self.named_parameters()
            if name.split(".")[0] in ("pooling", "weights", "floors", "readouts")
        )

    def potential(self, x: Tensor) -> Tensor:
        return self._evaluate(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        return self._backpropagate(x, self._evaluate(x, value=False)[1])

    def potential_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        psi, levels = self._evaluate(x)
        return psi, self._backpropagate(x, levels)

    def _evaluate(self, x: Tensor, value: bool = True) -> tuple[Tensor, list[_Level]]:
        """Return psi, if ``value``, and the results that the backward pass needs."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise InputError(
                f"this ConvexEnergy takes images (batch, {self.channels}, rows, columns), "
                f"got {tuple(x.shape)}"
            )
        psi = 0.5 * self.strong_convexity * item_sum(x.square()) if value else item_sum(x[:, :, :0])
        levels: list[_Level] = []
        image = z = x
        for k, stride in enumerate(self.strides):
            filtered = F.conv2d(mirror(image, self.filters[k].shape[-1] // 2), self.filters[k])
            energy = filtered * (0.5 * filtered)  # faster than a square
            before = F.conv2d(
                energy, self._mean(self.pooling[k]), None, stride, self.pooling[k].shape[-1] // 2
            )
            if k > 0:
                before = before + F.conv2d(
                    z,
                    self._mean(self.weights[k - 1]),
                    None,
                    stride,
                    self.weights[k - 1].shape[-1] // 2,
                )
            fine, last = image.shape[2:], z.shape[2:]
            image = average(image, stride)
            before = before + F.conv2d(
                mirror(image, self.skips[k].shape[-1] // 2), self.skips[k], self.biases[k]
            )
            z, slope = smooth_ramp(before, self.beta)
            levels.append(_Level(filtered, slope, fine, last))
            if value:
                psi = (
                    psi
                    + item_sum(energy * self._share(self.floors[k]))
                    + item_sum(z * self._readout(k))
                )
        return psi, levels

    def _backpropagate(self, x: Tensor, levels: list[_Level]) -> Tensor:
        pull: Tensor | None = None
        coarse: Tensor | None = None
        for k in range(len(levels) - 1, -1, -1):
            level, stride = levels[k], self.strides[k]
            weight = level.slope * (self._readout(k) if pull is None else self._readout(k) + pull)
            skip = mirror_transpose(_synthesis(weight, self.skips[k]), self.skips[k].shape[-1] // 2)
            coarse = spread(skip if coarse is None else skip + coarse, stride, level.fine)
            gain = self._share(self.floors[k]) + transpose_convolution(
                weight, self._mean(self.pooling[k]), stride, level.fine
            )
            passed = _synthesis(gain * level.filtered, self.filters[k])
            coarse = coarse + mirror_transpose(passed, self.filters[k].shape[-1] // 2)
            if k > 0:
                pull = transpose_convolution(
                    weight, self._mean(self.weights[k - 1]), stride, level.before
                )
        assert coarse is not None
        return coarse + self.strong_convexity * x if self.strong_convexity else coarse

    def _mean(self, stored: Tensor) -> Tensor:
        return stored / stored[0].numel() ** 0.75

    def _share(self, stored: Tensor) -> Tensor:
        """Scale stored weights so that a gain is near 1/16 per filter at first.

        With this gain the first filters, a basis of the window, would return the image.
        """
        return stored / (16 * len(stored))

    def _readout(self, level: int) -> Tensor:
        return self.readouts[level] * (0.1 * self.strides[level] ** 2 / len(self.readouts[level]))

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, strides={self.strides}, beta={self.beta:g}, "
            f"strong_convexity={self.strong_convexity:g}"
        )


class _Level(NamedTuple):
    """Results of a level of the forward pass that the backward pass needs.

    Attributes:
        filtered: filtered image.
        slope: slope of the softplus.
        fine: size of the level's input image, rows and columns.
        before: size of the last level's z; of the image at the first level.
    """

    filtered: Tensor
    slope: Tensor
    fine: torch.Size
    before: torch.Size


def mirror(image: Tensor, reach: int) -> Tensor:
    """Extend an image by ``reach`` pixels on every side, by reflection.

    The outermost pixels are repeated in reverse order. Beyond an image smaller than ``reach``, the
    values are 0.
    """
    for axis in (2, 3):
        n = image.shape[axis]
        m = min(reach, n)
        image = torch.cat(
            [image.narrow(axis, 0, m).flip(axis), image, image.narrow(axis, n - m, m).flip(axis)],
            axis,
        )
        if m < reach:
            image = F.pad(
                image, (reach - m, reach - m) if axis == 3 else (0, 0, reach - m, reach - m)
            )
    return image


def mirror_transpose(padded: Tensor, reach: int) -> Tensor:
    """Apply the transpose of `mirror`."""
    for axis in (3, 2):
        n = padded.shape[axis] - 2 * reach
        m = min(reach, n)
        inside = padded.narrow(axis, reach, n).clone()
        inside.narrow(axis, 0, m).add_(padded.narrow(axis, reach - m, m).flip(axis))
        inside.narrow(axis, n - m, m).add_(padded.narrow(axis, reach + n, m).flip(axis))
        padded = inside
    return padded


def _cosines(count: int, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """Return the smoothest of the orthonormal products of cosines in a window.

    If there are not enough of them, the remaining filters are random and of the same size.
    """
    index = torch.arange(side, dtype=torch.float64)
    places, frequencies = index + 0.5, index[:, None]
    lines = (
        torch.cos(math.pi * frequencies * places / side)
        * torch.where(frequencies == 0, 1.0, 2.0).div(side).sqrt()
    )
    filters = torch.randn(count, channels, side, side, generator=generator) / math.sqrt(
        channels * side**2
    )
    order = sorted(
        itertools.product(range(side), range(side), range(channels)),
        key=lambda at: (at[0] ** 2 + at[1] ** 2, at),
    )
    for filter_, (row, column, channel) in zip(filters, order):
        filter_.zero_()[channel] = torch.outer(lines[row], lines[column])
    return filters


def _synthesis(v: Tensor, filters: Tensor) -> Tensor:
    """Apply the transpose of filters inside of an image.

    One matrix product is several times as fast as a transposed convolution.
    """
    side = filters.shape[-1]
    windows = filters.flatten(1).T @ v.flatten(2)
    return F.fold(windows, (v.shape[2] + side - 1, v.shape[3] + side - 1), side)
