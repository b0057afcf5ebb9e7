"""Denoisers: `Bottleneck`, whose features all pass a narrow middle, and `DnCNN`.

`load_dncnn` reads the weights of a DnCNN, the plain convolutional denoiser that plug-and-play
methods are usually compared with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.networks.foreign_weights import read_weights


class Bottleneck(nn.Module):
    """Denoiser ``f(x) = decode(encode(x))``: a U-Net without connections around its middle.

    It is the network that Scarvelis and Solomon train ("Nuclear norm regularization for deep
    learning", NeurIPS 2024). There are two 3x3 convolutions with ELU on every level, averages of
    2x2 pixels on the way down, and each pixel is repeated four times on the way up. Images whose
    sides are no multiples of the levels' factor are extended by their last row and column, and
    cropped afterwards.

    Args:
        channels: number of channels of the image.
        widths: number of features of each level, the coarsest last.
        seed: seed of the first weights.

    >>> Bottleneck(1, (4, 8))(torch.zeros(2, 1, 9, 12)).shape
    torch.Size([2, 1, 9, 12])
    """

    def __init__(
        self, channels: int = 1, widths: Sequence[int] = (32, 64, 128), seed: int = 0
    ) -> None:
        super().__init__()
        if not widths or min(channels, *widths) < 1:
            raise InputError(
                "Bottleneck needs positive channels and at least one width, "
                f"got {channels} and {tuple(widths)}"
            )
        self.channels, self.factor = channels, 2 ** (len(widths) - 1)
        down, up = [channels, *widths], [*reversed(widths)]
        self.down = nn.ModuleList(
            [_level(before, after) for before, after in itertools.pairwise(down)]
        )
        self.up = nn.ModuleList([_level(before, after) for before, after in itertools.pairwise(up)])
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)
        draw_weights(self, seed)

    def encode(self, x: Tensor) -> Tensor:
        """Return the middle features of images whose sides are multiples of ``2^k``.

        They are ``(batch, widths[-1], rows / 2^k, columns / 2^k)``, k the number of levels minus 1.
        """
        if x.ndim != 4 or x.shape[1] != self.channels or any(n % self.factor for n in x.shape[2:]):
            raise InputError(
                f"this Bottleneck encodes images (batch, {self.channels}, rows, columns) whose "
                f"sides are multiples of {self.factor}, got {tuple(x.shape)}"
            )
        for k, level in enumerate(self.down):
            x = level(x if k == 0 else F.avg_pool2d(x, 2))
        return x

    def decode(self, code: Tensor) -> Tensor:
        for level in self.up:
            code = level(code.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return self.last(code)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        padding = [-n % self.factor for n in (rows, columns)]
        if any(padding):
            x = F.pad(x, (0, padding[1], 0, padding[0]), mode="replicate")
        return self.decode(self.encode(x))[..., :rows, :columns]

    def extra_repr(self) -> str:
        return f"channels={self.channels}, factor={self.factor}"


class DnCNN(nn.Module):
    """Denoiser ``x - F(x)``, F a chain of 3x3 convolutions and ReLUs that predicts the noise.

    Source: Zhang et al., IEEE TIP 26, 2017. Batch normalization is merged into the convolutions, so
    training and evaluation are the same. The weights have the layout of the KAIR model zoo
    (``model.0.weight``, ``model.2.weight``, ...), whose files `load_dncnn` reads.

    Args:
        channels: number of channels of the image.
        depth: number of convolutions; 17 for one noise level, 20 for a blind denoiser.
        width: channels of the hidden layers.

    >>> import torch
    >>> DnCNN(depth=3, width=8)(torch.zeros(1, 1, 16, 16)).shape
    torch.Size([1, 1, 16, 16])
    """

    def __init__(self, channels: int = 1, depth: int = 17, width: int = 64) -> None:
        super().__init__()
        widths = [channels, *[width] * (depth - 1), channels]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        noise: Tensor = self.model(x)
        return x - noise


def load_dncnn(path: str | Path) -> DnCNN:
    """Read a `DnCNN` in evaluation mode from a file of weights, which define its size.

    Only tensors are unpickled.

    Args:
        path: path of the file.

    Raises:
        InputError: The file is missing, is not a file of weights, or holds another network.
    """
    state = read_weights(path)
    layers = [w for name, w in state.items() if name.endswith("weight")]
    if not layers or not isinstance(layers[0], Tensor) or layers[0].ndim != 4:
        raise InputError(f"{path} does not hold the convolutions of a DnCNN")
    network = DnCNN(layers[0].shape[1], len(layers), layers[0].shape[0])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{path} holds another network than DnCNN: {reason}") from error
    return network.eval().requires_grad_(False)


def draw_weights(network: nn.Module, seed: int) -> None:
    """Draw normal weights whose variance is the reciprocal of the inputs; biases are 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.zero_() if name.endswith("bias") else value.normal_(
                0, 1 / math.sqrt(value[0].numel()), generator=generator
            )


def _level(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.ELU(),
        nn.Conv2d(after, after, 3, padding=1),
        nn.ELU(),
    )
