"""Denoiser of a diffusion prior: a small U-Net with the preconditioning of EDM."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.errors import InputError, warn_user

#: Root mean square of an image, relative to the one that its noise level lets expect, above which
#: the network has not seen such an image.
_TOO_LARGE = 8.0


class DiffusionUNet(nn.Module):
    r"""Denoiser ``c_skip x + c_out F(c_in x, sigma)`` for every noise level, F a U-Net.

    The factors are those of EDM (Karras, Aittala, Aila and Laine, NeurIPS 2022, table 1), with
    s the root mean square of the pictures::

        c_skip = s^2 / (sigma^2 + s^2),   c_out = sigma s / sqrt(sigma^2 + s^2),
        c_in = 1 / sqrt(sigma^2 + s^2)

    So the input and the output of F have about unit size at every level. At small sigma the image
    passes, and at large sigma the answer is the mean of all pictures. Unlike `ResidualUNet` the
    network knows the scale of its pictures, which a sampler that starts from noise needs; much
    larger pictures cause a warning.

    The finest level of F works on 2x2 pixels at a time. Features of ``log sigma`` scale and shift
    the channels of every residual block (Perez et al., "FiLM", AAAI 2018).

    Args:
        channels: number of channels of the image.
        widths: number of features of each level, the coarsest last.
        blocks: number of residual blocks per level and direction.
        sigma_data: root mean square s of the pictures.
        levels: range ``(low, high)`` of noise levels that F tells apart; for a level outside of it,
            F gets the nearest end, while the factors above stay those of the level itself.
        embedding: number of features of the level.
        seed: seed of the first weights.

    >>> network = DiffusionUNet(widths=(8, 16), blocks=1).eval()
    >>> x = torch.rand(2, 1, 9, 14)
    >>> clean = network(x, torch.tensor([0.1, 0.2]))
    >>> clean.shape, torch.equal(clean[1:], network(x[1:], torch.tensor([0.2])))
    (torch.Size([2, 1, 9, 14]), True)
    >>> torch.allclose(network(x, torch.tensor([1e-6, 0.0])), x, atol=1e-4)
    True
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 80),
        blocks: int = 2,
        sigma_data: float = 0.5,
        levels: tuple[float, float] = (0.001, 20.0),
        embedding: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not widths or min(channels, blocks, embedding, *widths) < 1:
            raise InputError(
                "DiffusionUNet needs positive channels, blocks and embedding and at least one "
                f"width, got {channels}, {blocks}, {embedding} and {tuple(widths)}"
            )
        if not sigma_data > 0 or not 0 < levels[0] < levels[1]:
            raise InputError(
                "DiffusionUNet needs a positive sigma_data and a range (low, high) of positive "
                f"levels, got {sigma_data} and {tuple(levels)}"
            )
        self.channels, self.factor = channels, 2 ** len(widths)
        self.sigma_data, self.levels = sigma_data, (float(levels[0]), float(levels[1]))
        self.frequencies = 8
        pairs = list(itertools.pairwise(widths))
        self.head = _convolution(4 * channels, widths[0])
        self.down = nn.ModuleList(_Blocks(width, blocks) for width, _ in pairs)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, 2, bias=False) for a, b in pairs)
        self.middle = _Blocks(widths[-1], blocks)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2, bias=False) for a, b in pairs)
        self.up = nn.ModuleList(_Blocks(width, blocks) for width, _ in pairs)
        self.tail = _convolution(widths[0], 4 * channels)
        order = [*widths, *reversed(widths[:-1])]
        self.modulated = [width for width in order for _ in range(blocks)]
        self.embed = nn.Sequential(
            nn.Linear(2 * self.frequencies, embedding),
            nn.SiLU(),
            nn.Linear(embedding, 2 * sum(self.modulated)),
        )
        self._draw(seed)

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return the clean images.

        Args:
            x: images ``(batch, channels, rows, columns)``; without ``sigma`` their last channel,
                an additional one, holds the noise level, the same number in all pixels.
            sigma: noise levels ``(batch,)`` or ``(1,)``, in the units of the image.
        """
        if sigma is None:
            x, sigma = x[:, :-1], x[:, -1].flatten(1)[:, 0]
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise InputError(
                f"this DiffusionUNet takes images (batch, {self.channels}, rows, columns) and a "
                f"level, or images with their noise map, got {tuple(x.shape)}"
            )
        sigma = sigma.expand(len(x))
        if not self.training:
            self._check_scale(x, sigma)
        if not self.training and x.device.type == "cpu":
            # The convolutions of small images round differently in a batch.
            items = zip(x.split(1), sigma.split(1))
            return torch.cat([self._clean(item, level) for item, level in items])
        return self._clean(x, sigma)

    def _check_scale(self, x: Tensor, sigma: Tensor) -> None:
        """Warn of pictures that are far outside of the scale of the training."""
        size = x.detach().flatten(1).square().mean(1).sqrt()
        usual = (sigma.square() + self.sigma_data**2).sqrt()
        if bool((size > _TOO_LARGE * usual).any()):
            k = int((size / usual).nan_to_num().argmax())
            warn_user(
                f"a DiffusionUNet knows pictures with a root mean square of about "
                f"{self.sigma_data:g} and got {float(size[k]):.3g} at the noise level "
                f"{float(sigma[k]):.3g}; for pictures of another range, give their values of black "
                "and white to the prior as intensity_range=(low, high)"
            )

    def _clean(self, x: Tensor, sigma: Tensor) -> Tensor:
        level, s = sigma.view(-1, 1, 1, 1), self.sigma_data
        total = (level.square() + s**2).sqrt()
        with torch.autocast(x.device.type, enabled=False):
            modulation = self.embed(self._features(sigma)).split(
                [2 * width for width in self.modulated], 1
            )
        return (s / total) ** 2 * x + level * s / total * self._network(x / total, modulation)

    def _network(self, x: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        """Return F of scaled images, given the scales and shifts of every block."""
        given = iter(modulation)
        rows, columns = x.shape[-2:]
        x = F.pad(x, (0, -columns % self.factor, 0, -rows % self.factor), mode="replicate")
        x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        # In bfloat16 the sums of the finest level would round weak noise away.
        with torch.autocast(x.device.type, enabled=False):
            first = self.head(x)
        x, passed = first, []
        for blocks, shrink in zip(self.down, self.shrink):
            x = blocks(x, given)
            passed.append(x)
            x = shrink(x)
        x = self.middle(x, given)
        for blocks, grow, fine in zip(reversed(self.up), reversed(self.grow), reversed(passed)):
            x = blocks(grow(x) + fine, given)
        return F.pixel_shuffle(self.tail(x + first), 2)[..., :rows, :columns].to(first.dtype)

    def _features(self, sigma: Tensor) -> Tensor:
        """Return waves of ``log sigma``, ``(batch, features)``; its range is half a period."""
        low, high = self.levels
        place = (sigma.clamp(low, high).log() - math.log(low)) / math.log(high / low)
        waves = torch.arange(1, self.frequencies + 1, dtype=place.dtype, device=place.device)
        angles = math.pi * waves * place[:, None]
        return torch.cat([angles.cos(), angles.sin()], 1)

    def _draw(self, seed: int) -> None:
        """Draw normal weights; the last ones of a residual branch and of F are a tenth as large.

        Scales and shifts begin at 0.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.endswith("bias") or name == "embed.2.weight":
                    weight.zero_()
                    continue
                inputs = weight[0].numel() if "grow" not in name else weight.shape[0]
                small = 0.1 if name.startswith("tail") or name.endswith("last.weight") else 1.0
                weight.normal_(0, small * math.sqrt(2 / inputs), generator=generator)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, factor={self.factor}, sigma_data={self.sigma_data:g}"


class _Block(nn.Module):
    """Residual block ``x + last(relu((1 + scale) first(x) + shift))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = _convolution(width, width), _convolution(width, width)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        inner = self.first(x)
        scale, shift = modulation.to(inner.dtype)[..., None, None].chunk(2, 1)
        return x + self.last(F.relu(torch.addcmul(shift, inner, 1 + scale), inplace=True))


class _Blocks(nn.ModuleList):
    """Residual blocks one after the other, each with the next scales and shifts."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__(_Block(width) for _ in range(count))

    def forward(self, x: Tensor, modulation: Iterator[Tensor]) -> Tensor:
        for block in self:
            x = block(x, next(modulation))
        return x


def _convolution(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, bias=False)
