"""A compressive autoencoder that starts as a cosine transform, with dependent groups of latents.

`CosineHyperprior` gives a good code after a few thousand steps of training. In `ChannelContext`,
latents of low frequency come first, and predict position and size of the higher ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.networks.hyperprior import (
    LEAST_STD,
    FactorizedDensity,
    HyperpriorNetwork,
    Residual,
    extend,
    hyper_transforms,
    log_box_normal_or_odd,
)

#: Norm of a cosine's first weights. Steps of Adam all have one size and must not destroy the basis.
_AT_FIRST = 4.0


class CosineHyperprior(HyperpriorNetwork):
    """Compressive autoencoder: encoder, decoder and the density ``p(z, h) = p(z | h) p(h)``.

    Minnen, Balle and Toderici, "Joint autoregressive and hierarchical priors for learned image
    compression" (NeurIPS 2018), with dependent groups of channels of z in place of the
    autoregression over places (`ChannelContext`): ``z`` is normal given ``h`` and the groups
    before, with a mean and a scale per entry, ``h`` has the learned factorised density, both
    convolved with the unit box. ``z`` has one place per 8 by 8 pixels, ``h`` one per 32 by 32.

    Encoder and decoder start as the cosines of JPEG, 8 by 8 pixels at a time, with one step of
    quantisation for all of them; their residual networks start at 0. A network of random weights
    needs ten times the steps to reach this state.

    A second decoder (Biquard et al., "Deep priors for satellite image restoration with accurate
    uncertainties", 2024) gives the standard deviation of a pixel around its decoded value.

    Pictures may have any size: they are extended by reflection to a multiple of 32 pixels, and
    cropped when decoded.

    Args:
        channels: number of channels of the pictures, 1 or 3.
        widths: channels at a quarter and at an eighth of the resolution.
        latents: channels of z; 64 for each channel of the pictures are all cosines there are.
        hyper: channels of h.
        step: first step of quantisation, in units of the pictures. For a training with the bitrate
            ``alpha`` it should be near ``0.0115 / sqrt(alpha)``, which is the best for cosines.
        seed: seed of the first weights.

    >>> network = CosineHyperprior(widths=(4, 8), latents=6, hyper=4)
    >>> z, h = network.encode(torch.rand(1, 1, 40, 70))
    >>> z.shape, h.shape
    (torch.Size([1, 6, 8, 12]), torch.Size([1, 4, 2, 3]))
    >>> network.decode(z, (40, 70)).shape, network.energy(z, h).shape
    (torch.Size([1, 1, 40, 70]), torch.Size([1]))
    """

    spread: Tensor

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, int] = (64, 96),
        latents: int = 64,
        hyper: int = 48,
        step: float = 0.038,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(widths) != 2 or min(channels, *widths, latents, hyper) < 1 or not step > 0:
            raise InputError(
                "CosineHyperprior needs positive channels, two widths, latents, hyper and step, "
                f"got {channels}, {tuple(widths)}, {latents}, {hyper} and {step}"
            )
        self.channels, self.latents, self.step = channels, latents, step
        fine, coarse = widths
        # The modules draw their first weights from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks, self.pixels = (
                nn.Conv2d(n, m, 3, padding=1)
                for n, m in ((64 * channels, latents), (latents, 64 * channels))
            )
            self.analysis = nn.Sequential(
                nn.PixelUnshuffle(4),
                _conv3x3(16 * channels, fine),
                Residual(fine),
                nn.LeakyReLU(0.1),
                _conv3x3(fine, coarse, stride=2),
                Residual(coarse),
                nn.LeakyReLU(0.1),
                _zero(_conv3x3(coarse, latents)),
            )
            self.coarse = nn.Sequential(
                _conv3x3(latents, coarse),
                Residual(coarse),
                nn.LeakyReLU(0.1),
                nn.Conv2d(coarse, 4 * fine, 1),
                nn.PixelShuffle(2),
            )
            self.fine = nn.Sequential(
                _conv3x3(fine + 16 * channels, fine),
                Residual(fine),
                Residual(fine),
                nn.LeakyReLU(0.1),
                _zero(_conv3x3(fine, 16 * channels)),
                nn.PixelShuffle(4),
            )
            self.deviation = nn.Sequential(
                _conv3x3(latents, fine),
                nn.LeakyReLU(),
                _conv3x3(fine, 64 * channels),
                nn.PixelShuffle(8),
            )
            self.hyper_analysis, self.hyper_synthesis = hyper_transforms(latents, hyper)
            order = frequencies(latents, channels)
            self.context = ChannelContext(_groups(order), max(12, coarse), 2 * latents)
        self.density = FactorizedDensity(hyper, seed=seed)
        _begin_as(self.blocks, self.pixels, _AT_FIRST * cosines(latents, channels))
        # Photographs have half of the standard deviation at one and a half times the frequency.
        # This is only the start of the training.
        self.register_buffer(
            "spread",
            (0.4 / (step * order.clamp_min(0.35) ** 1.5)).clamp_min(0.3).view(1, -1, 1, 1),
            persistent=False,
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(z, h)`` of pictures, not rounded."""
        rows, columns = x.shape[-2:]
        x = extend(x - 0.5, -rows % self.stride, -columns % self.stride)
        z = self.blocks(F.pixel_unshuffle(x, 8)) / (_AT_FIRST * self.step) + self.analysis(4 * x)
        return z, 4 * self.hyper_analysis(self._squash(z))

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """Return pictures of ``size``, rows and columns."""
        x = (self.step / _AT_FIRST) * F.pixel_shuffle(self.pixels(z), 8)
        features = torch.cat([self.coarse(self._squash(z)), F.pixel_unshuffle(4 * x, 4)], 1)
        x = x + 0.1 * self.fine(features) + 0.5
        return x[..., : size[0], : size[1]]

    def energy(self, z: Tensor, h: Tensor) -> Tensor:
        """Return ``-log p(z | h) - log p(h)`` in nats, ``(batch,)``."""
        from_h = self.hyper_synthesis(h / 4)
        mean, raw = (from_h + self.context(self._squash(z), from_h)).chunk(2, 1)
        mean, std = self.spread * mean, LEAST_STD + self.spread * torch.exp(5 * torch.tanh(raw / 5))
        nats_of_h: Tensor = self.density(h)
        return nats_of_h - log_box_normal_or_odd(z, mean, std).flatten(1).sum(1)

    def _squash(self, z: Tensor) -> Tensor:
        """Return latents as the networks take them: near 1, with few that are far larger."""
        return torch.asinh(z / self.spread)


class ChannelContext(nn.Module):
    """Prediction of groups of channels from the groups before, in one pass.

    ``p(z) = prod_g p(z_g | z_1, ..., z_{g-1})`` (Minnen and Singh, "Channel-wise autoregressive
    entropy models for learned image compression", ICIP 2020). The following groups depend on all of
    a group, at a place and around it; the channels of a group are independent given the groups
    before. Two convolutions with masks (Germain, Gregor, Murray and Larochelle, "MADE", ICML 2015)
    compute all groups at once.

    The call takes latents ``(batch, sum(groups), *space)`` and known values
    ``(batch, known, *space)``, and returns two numbers per latent:
    ``(batch, 2 sum(groups), *space)``, 0 at first.

    Args:
        groups: number of channels of each group.
        hidden: number of hidden channels, shared among the groups.
        known: number of channels of the other values that are known at every place.

    >>> context = ChannelContext((1, 2), hidden=4, known=3)
    >>> context(torch.zeros(1, 3, 5, 5), torch.zeros(1, 3, 5, 5)).shape
    torch.Size([1, 6, 5, 5])
    """

    first_mask: Tensor
    second_mask: Tensor

    def __init__(self, groups: Sequence[int], hidden: int, known: int) -> None:
        super().__init__()
        channels = sum(groups)
        of_channel = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(tuple(groups)))
        of_hidden = torch.arange(hidden) * len(groups) // hidden
        self.known = nn.Conv2d(known, hidden, 1)
        self.first = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.second = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer(
            "first_mask", _to_mask(of_hidden[:, None] > of_channel), persistent=False
        )
        self.register_buffer(
            "second_mask", _to_mask(of_channel.repeat(2)[:, None] >= of_hidden), persistent=False
        )

    def forward(self, z: Tensor, known: Tensor) -> Tensor:
        inside = F.conv2d(z, self.first.weight * self.first_mask, padding=1) + self.known(known)
        return F.conv2d(
            F.leaky_relu(inside, 0.1),
            self.second.weight * self.second_mask,
            self.second.bias,
            padding=1,
        )


def cosines(count: int, channels: int = 1) -> Tensor:
    """Return the first ``count`` cosines on 8 by 8 pixels of every channel, by frequency.

    The shape is ``(count, 64 channels)``, with rows of norm 1.

    >>> C = cosines(64)
    >>> bool((C @ C.T - torch.eye(64)).abs().max() < 1e-6)
    True
    """
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)
    # The orthonormal DCT-II of 8 samples, its products, and these for every channel.
    lines = torch.cos(math.pi * k * (n + 0.5) / 8) / torch.where(k == 0, math.sqrt(8), 2.0)
    blocks = torch.einsum("ui,vj->uvij", lines, lines).reshape(64, 64)[_by_frequency()]
    rows = torch.einsum("kp,ab->kabp", blocks, torch.eye(channels))
    rows = rows.reshape(64 * channels, 64 * channels)
    return F.pad(rows, (0, 0, 0, max(0, count - len(rows))))[:count]


def frequencies(count: int, channels: int = 1) -> Tensor:
    """Return the frequency of each row of `cosines`, in half periods per block.

    Rows beyond the last cosine get its frequency.
    """
    u, v = torch.arange(8.0)[:, None], torch.arange(8.0)
    radii = (u.square() + v.square()).sqrt().flatten()[_by_frequency()].repeat_interleave(channels)
    return torch.cat([radii, radii[-1:].expand(max(0, count - len(radii)))])[:count]


def _to_mask(is_visible: Tensor) -> Tensor:
    return is_visible[..., None, None].float()


def _by_frequency() -> Tensor:
    u, v = torch.arange(8)[:, None], torch.arange(8)
    return (100 * (u.square() + v.square()) + u).flatten().argsort()


def _groups(order: Tensor) -> tuple[int, ...]:
    """Return the number of channels with frequency 0, up to 1, 2, 3.5, 5.5 and beyond."""
    place = torch.bucketize(order, torch.tensor([0.5, 1.2, 2.5, 3.7, 5.7]))
    return tuple(int(n) for n in torch.bincount(place) if n)


def _begin_as(blocks: nn.Conv2d, pixels: nn.Conv2d, rows: Tensor) -> None:
    with torch.no_grad():
        for parameter in (*blocks.parameters(), *pixels.parameters()):
            parameter.zero_()
        blocks.weight[..., 1, 1] = rows
        pixels.weight[..., 1, 1] = rows.T


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _conv3x3(into: int, out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(into, out, 3, stride=stride, padding=1)
