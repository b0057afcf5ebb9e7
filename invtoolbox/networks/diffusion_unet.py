"""Denoiser of a diffusion prior: a small U-Net with the preconditioning of EDM."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError, warn_user
from invtoolbox.networks.unet import UNet

#: Root mean square of an image, relative to the one that its noise level lets expect, above which
#: the network has not seen such an image.
_TOO_LARGE = 8.0


class DiffusionUNet(UNet):
    r"""Denoiser ``c_skip x + c_out F(c_in x, sigma)`` for every noise level, F a U-Net.

    The factors are those of EDM (Karras, Aittala, Aila and Laine, NeurIPS 2022, table 1), with
    s the root mean square of the pictures::

        c_skip = s^2 / (sigma^2 + s^2),   c_out = sigma s / sqrt(sigma^2 + s^2),
        c_in = 1 / sqrt(sigma^2 + s^2)

    So the input and the output of F have about unit size at every level. At small sigma the image
    passes, and at large sigma the answer is the mean of all pictures. Unlike `ResidualUNet` the
    network knows the scale of its pictures, which a sampler that starts from noise needs; much
    larger pictures cause a warning.

    F is a `UNet`. Features of ``log sigma`` scale and shift the channels of every residual block
    (Perez et al., "FiLM", AAAI 2018).

    Args:
        channels: number of channels of the image.
        widths: number of features of each level, the coarsest last.
        blocks: number of residual blocks per level and direction.
        sigma_data: root mean square s of the pictures.
        levels: range ``(low, high)`` of noise levels that F tells apart; for a level outside of it,
            F gets the nearest end, while the factors above use the level itself.
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
        check_range(
            self,
            "[1, inf)",
            channels=channels,
            blocks=blocks,
            embedding=embedding,
            widths=min(widths, default=0),
        )
        check_range(self, "(0, inf]", sigma_data=sigma_data)
        if not 0 < levels[0] < levels[1]:
            raise InputError(
                f"DiffusionUNet needs a range (low, high) of positive levels, got {tuple(levels)}"
            )
        super().__init__(channels, channels, widths, blocks)
        self.channels = channels
        self.sigma_data, self.levels = sigma_data, (float(levels[0]), float(levels[1]))
        self.frequencies = 8
        last = nn.Linear(embedding, 2 * sum(self.block_widths))
        first = nn.Linear(2 * self.frequencies, embedding)
        self.embed = nn.Sequential(first, nn.SiLU(), last)
        self.draw(seed)
        nn.init.zeros_(last.weight)  # scales and shifts begin at 0

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
        if self.training:
            return self._clean(x, sigma)
        self._check_scale(x, sigma)
        return map_items(self._clean, x, sigma)

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
                [2 * width for width in self.block_widths], 1
            )
        network = self.transform(x / total, modulation).to(x.dtype)
        return (s / total) ** 2 * x + level * s / total * network

    def _features(self, sigma: Tensor) -> Tensor:
        """Return waves of ``log sigma``, ``(batch, features)``; its range is half a period."""
        low, high = self.levels
        place = (sigma.clamp(low, high).log() - math.log(low)) / math.log(high / low)
        waves = torch.arange(1, self.frequencies + 1, dtype=place.dtype, device=place.device)
        angles = math.pi * waves * place[:, None]
        return torch.cat([angles.cos(), angles.sin()], 1)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, factor={self.factor}, sigma_data={self.sigma_data:g}"
