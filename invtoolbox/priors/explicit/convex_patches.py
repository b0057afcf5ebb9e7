"""A convex network of patches, for images of any size: every pixel lies in equally many of them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.explicit.convex_network import ConvexNetwork


class ConvexPatches(ConvexNetwork):
    r"""``psi(x) = 1/n sum_i psi_patch(P_i x)`` over overlapping patches ``P_i x``, n of which hold each pixel.

    Its gradient, ``1/n sum_i P_i^T f_patch(P_i x)``, is the average of what the network makes of the patches, and a prox as a whole,
    because the sum of convex functions is convex. The average over patches that cover some pixels more often than others, as they lie where
    they fit into the image, is the gradient of nothing. So patches reach beyond the image, which is 0 there, until all pixels are covered
    alike.

    For networks that take items of one size, such as `ConvexDense`; `ConvexConvolution` takes images of any size as they are.

    Args:
        network: takes patches ``(count, channel, patch, patch)``.
        patch: side of a patch, pixels.
        stride: pixels between patches; it divides ``patch``. Half a patch unless given.

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
                "ConvexPatches needs a stride that divides the side of the patches, so that every pixel lies in equally many, "
                f"got patches of {patch} pixels and a stride of {stride}"
            )
        self.network, self.patch, self.stride = network, patch, stride
        self.strong_convexity = network.strong_convexity
        self.nonnegative = tuple(f"network.{name}" for name in network.nonnegative)

    @property
    def coverage(self) -> int:
        """In how many patches every pixel lies."""
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

    def projected(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        inner = self.network.projected(
            {name.removeprefix("network."): value for name, value in parameters.items()}
        )
        return {f"network.{name}": value for name, value in inner.items()}

    def _patches(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """All patches of all items, ``(items * patches, channel, patch, patch)``, and the size with what lies beyond the border."""
        if x.ndim != 4:
            raise InputError(
                f"ConvexPatches takes images (batch, channel, rows, columns), got {tuple(x.shape)}"
            )
        before = self.patch - self.stride
        # The last pixel lies in as many patches as the others where the last patch begins at the last multiple of the stride before it.
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
