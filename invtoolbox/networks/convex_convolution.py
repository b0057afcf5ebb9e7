"""Convex networks of convolutions (`ConvexConvolution`) and of patches (`ConvexPatches`).

The former takes images and volumes of any size; the latter takes images of any size, every pixel of
which lies in the same number of patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.networks.convex_network import ConvexNetwork, item_sum, smooth_ramp

_CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_POOLING = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class ConvexConvolution(ConvexNetwork):
    """Convex network of convolutions, for images and volumes of any size.

    ``psi(x) = sum over places of <w, z_K> + alpha/2 |x|^2`` with
    ``z_k = g(W_k * z_{k-1} + H_k * x_k + b_k)``. All maps are convolutions, ``x_k`` is the image
    averaged over blocks down to the resolution of layer k, the entries of ``W_k`` and of w are
    nonnegative, and g is a softplus. As a sum over places, psi is convex on an image of any size,
    so f is a prox of the whole image. Nothing is cut into patches, whose average is no prox unless
    all pixels lie in the same number of them. Outside, images are 0.

    Args:
        channels: number of channels of the image.
        widths: channels of the hidden layers.
        strides: stride of each layer; 2 halves the resolution.
        kernel_size: side of the kernels, odd.
        beta: sharpness of the softplus; it bends within about ``1 / beta``, and images are meant to
            lie within [0, 1].
        strong_convexity: ``alpha``.
        dimension: 2 for images, 3 for volumes, 1 for signals.
        seed: seed of the first weights.

    >>> ConvexConvolution(1, widths=(4, 4, 4), strides=(1, 2, 2))(torch.zeros(2, 1, 13, 9)).shape
    torch.Size([2, 1, 13, 9])
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (64, 64, 64, 64),
        strides: Sequence[int] = (1, 2, 1, 2),
        kernel_size: int = 3,
        beta: float = 100.0,
        strong_convexity: float = 1e-6,
        dimension: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not widths or len(widths) != len(strides) or min(channels, *widths, *strides) < 1:
            raise InputError(
                "ConvexConvolution needs as many positive widths as strides, one per layer, got "
                f"{tuple(widths)} and {tuple(strides)}"
            )
        if (
            kernel_size < 1
            or kernel_size % 2 == 0
            or dimension not in (1, 2, 3)
            or not beta > 0
            or not strong_convexity >= 0
        ):
            raise InputError(
                "ConvexConvolution needs an odd kernel_size, a dimension of 1, 2 or 3, a positive "
                "beta and a strong_convexity that is not negative, "
                f"got {kernel_size}, {dimension}, {beta:g} and {strong_convexity:g}"
            )
        self.channels, self.beta, self.strong_convexity, self.dimension = (
            channels,
            beta,
            strong_convexity,
            dimension,
        )
        self.strides = tuple(int(s) for s in strides)
        self.padding = kernel_size // 2
        window = (kernel_size,) * dimension
        places = math.prod(window)
        generator = torch.Generator().manual_seed(seed)

        def draw(out: int, into: int) -> Tensor:
            return torch.rand(out, into, *window, generator=generator)

        depth = len(widths)
        self.skips = nn.ParameterList(
            [
                nn.Parameter((2 * draw(n, channels) - 1) / math.sqrt(channels * places))
                for n in widths
            ]
        )
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(n)) for n in widths])
        # Means of the inputs: with weights of order 1 the values would grow like width * places in
        # every layer.
        self.weights = nn.ParameterList(
            [
                nn.Parameter(2 * draw(widths[k], widths[k - 1]) / (widths[k - 1] * places))
                for k in range(1, depth)
            ]
        )
        # A place of the last layer stands for the places of the first that the strides leave out.
        share = math.prod(self.strides[1:]) ** dimension * widths[0] ** 0.5 / widths[-1]
        self.readout = nn.Parameter(torch.full((widths[-1], *[1] * dimension), share))
        self.nonnegative = (*(f"weights.{k}" for k in range(depth - 1)), "readout")

    def potential(self, x: Tensor) -> Tensor:
        return self._potential(x, self._layers(x)[0])

    def forward(self, x: Tensor) -> Tensor:
        return self._gradient(x, self._layers(x)[1])

    def potential_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, slopes = self._layers(x)
        return self._potential(x, z), self._gradient(x, slopes)

    def _gradient(self, x: Tensor, slopes: list[Tensor]) -> Tensor:
        sizes = [slope.shape[2:] for slope in slopes]
        # Backward through the layers: transposed convolutions, and the slopes of the softplus.
        pull = self.readout * slopes[-1]
        coarse: Tensor | None = None
        for k in range(len(slopes) - 1, 0, -1):
            skipped = transpose_convolution(pull, self.skips[k], 1, sizes[k])
            coarse = skipped if coarse is None else skipped + coarse
            coarse = spread(coarse, self.strides[k], sizes[k - 1])
            pull = (
                transpose_convolution(pull, self.weights[k - 1], self.strides[k], sizes[k - 1])
                * slopes[k - 1]
            )
        gradient = transpose_convolution(pull, self.skips[0], self.strides[0], x.shape[2:])
        if coarse is not None:
            gradient = gradient + spread(coarse, self.strides[0], x.shape[2:])
        return gradient + self.strong_convexity * x if self.strong_convexity else gradient

    def _layers(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the last layer, and the slopes of all layers."""
        if x.ndim != self.dimension + 2 or x.shape[1] != self.channels:
            raise InputError(
                f"this ConvexConvolution takes images (batch, {self.channels}, "
                f"{', '.join(['n'] * self.dimension)}), got {tuple(x.shape)}"
            )
        convolve = _CONVOLUTION[self.dimension]
        slopes: list[Tensor] = []
        image = z = x
        for k, (skip, bias, stride) in enumerate(zip(self.skips, self.biases, self.strides)):
            image = average(image, stride)
            if k == 0:
                before = convolve(x, skip, bias, stride, self.padding)
            else:
                before = convolve(image, skip, bias, 1, self.padding) + convolve(
                    z, self.weights[k - 1], None, stride, self.padding
                )
            z, slope = smooth_ramp(before, self.beta)
            slopes.append(slope)
        return z, slopes

    def _potential(self, x: Tensor, z: Tensor) -> Tensor:
        psi = item_sum(z * self.readout)
        return (
            psi + 0.5 * self.strong_convexity * item_sum(x.square())
            if self.strong_convexity
            else psi
        )

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, strides={self.strides}, beta={self.beta:g}, "
            f"strong_convexity={self.strong_convexity:g}, dimension={self.dimension}"
        )


class ConvexPatches(ConvexNetwork):
    """Convex network of overlapping patches: ``psi(x) = 1/n sum_i psi_patch(P_i x)``.

    Every pixel lies in n patches ``P_i x``. The gradient, ``1/n sum_i P_i^T f_patch(P_i x)``, is
    the average of the network's outputs for the patches. It is a prox of the whole image, because
    the sum of convex functions is convex. If patches cover some pixels more often than others, as
    they do when they lie inside the image, their average is no gradient. So patches reach beyond
    the image, which is 0 there, until all pixels are covered equally.

    The class is for networks that take items of one size, such as `ConvexDense`;
    `ConvexConvolution` takes images of any size directly.

    Args:
        network: network of patches ``(count, channel, patch, patch)``.
        patch: side of a patch, pixels.
        stride: number of pixels between patches, a divisor of ``patch``; half a patch by default.

    >>> import torch
    >>> from invtoolbox.priors import ConvexDense
    >>> network = ConvexPatches(ConvexDense(16, width=8, depth=2), patch=4, stride=2)
    >>> network(torch.zeros(2, 1, 13, 9)).shape, network.coverage
    (torch.Size([2, 1, 13, 9]), 4)
    """

    def __init__(self, network: ConvexNetwork, patch: int, stride: int | None = None) -> None:
        super().__init__()
        if not isinstance(network, ConvexNetwork):
            raise InputError(f"ConvexPatches takes a ConvexNetwork, got {type(network).__name__}")
        stride = max(1, patch // 2) if stride is None else stride
        if patch < 1 or stride < 1 or patch % stride:
            raise InputError(
                "ConvexPatches needs a stride that divides the side of the patches, so that every "
                "pixel lies in equally many, "
                f"got patches of {patch} pixels and a stride of {stride}"
            )
        self.network, self.patch, self.stride = network, patch, stride
        self.strong_convexity = network.strong_convexity
        self.nonnegative = tuple(f"network.{name}" for name in network.nonnegative)

    @property
    def coverage(self) -> int:
        """The number of patches in which every pixel lies."""
        return (self.patch // self.stride) ** 2

    def potential(self, x: Tensor) -> Tensor:
        patches, _ = self._patches(x)
        return self._mean(self.network.potential(patches), x)

    def potential_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        patches, padded = self._patches(x)
        psi, pulled = self.network.potential_and_gradient(patches)
        rows, columns = x.shape[2:]
        stacked = pulled.reshape(len(x), -1, x.shape[1] * self.patch**2).transpose(1, 2)
        image = F.fold(stacked, padded, self.patch, stride=self.stride) / self.coverage
        before = self.patch - self.stride
        return self._mean(psi, x), image[..., before : before + rows, before : before + columns]

    def project(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        inner = self.network.project(
            {name.removeprefix("network."): value for name, value in parameters.items()}
        )
        return {f"network.{name}": value for name, value in inner.items()}

    def _patches(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return all patches of all items, and the size of the padded image.

        The patches are ``(items * patches, channel, patch, patch)``.
        """
        if x.ndim != 4:
            raise InputError(
                f"ConvexPatches takes images (batch, channel, rows, columns), got {tuple(x.shape)}"
            )
        before = self.patch - self.stride
        # The last pixel lies in as many patches as the others if the last patch begins at the last
        # multiple of the stride before it.
        after = [
            (n - 1 + before) // self.stride * self.stride + self.patch - before - n
            for n in x.shape[2:]
        ]
        padded = F.pad(x, (before, after[1], before, after[0]))
        columns = F.unfold(padded, self.patch, stride=self.stride)
        patches = columns.transpose(1, 2).reshape(-1, x.shape[1], self.patch, self.patch)
        return patches, (padded.shape[2], padded.shape[3])

    def _mean(self, psi: Tensor, x: Tensor) -> Tensor:
        return psi.view(len(x), -1).sum(1) / self.coverage

    def extra_repr(self) -> str:
        return f"patch={self.patch}, stride={self.stride}"


def average(image: Tensor, stride: int) -> Tensor:
    """Return means over blocks; zeros fill the last block of an axis."""
    if stride == 1:
        return image
    missing = [(0, -n % stride) for n in reversed(image.shape[2:])]
    padded = F.pad(image, [n for pair in missing for n in pair])
    return _POOLING[image.ndim - 2](padded, stride)


def spread(image: Tensor, stride: int, size: Sequence[int]) -> Tensor:
    """Apply the transpose of `average`; ``size`` is the size of space before it."""
    if stride == 1:
        return image
    for axis, n in enumerate(size, start=2):
        image = image.repeat_interleave(stride, axis).narrow(axis, 0, n)
    return image / stride ** len(size)


def transpose_convolution(v: Tensor, kernel: Tensor, stride: int, size: Sequence[int]) -> Tensor:
    """Apply the transpose of a convolution of images whose size of space is ``size``."""
    padding = [n - (m - 1) * stride - 1 for n, m in zip(size, v.shape[2:])]
    apply = _TRANSPOSED[v.ndim - 2]
    return apply(v, kernel, None, stride, kernel.shape[-1] // 2, padding)
