"""Local fields: a learned inverse that computes every pixel from a patch of a first reconstruction.

`LocalField` is the network and `AtPixels` the loss that trains it at a few random pixels, so that
the memory of a step hardly grows with the image. `InpaintingPairs` are pairs for inpainting with
super-resolution.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from invtoolbox.core.constants import constant
from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.contrast import gaussian_blur
from invtoolbox.errors import InputError, MeasurementWarning, warn_user
from invtoolbox.networks.denoisers import draw_weights
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.training.losses import L1, Loss
from invtoolbox.training.pairs import Crops

#: Number of pixels that `LocalField` computes at a time.
_CHUNK = 8192
#: Factor by which the noise of an input may lie outside of the levels of the training.
_TOLERANCE = 1.5


class LocalField(nn.Module):
    """Network that computes every pixel from a patch of a first reconstruction around it.

    The patch is sampled by bicubic interpolation on rings around the pixel, at learned offsets. A
    mean with learned weights is subtracted before a network of dense layers and added to the
    result, so brightness needs no training. The network contains no size: it computes images of any
    size, a few thousand pixels at a time, and also values between pixels. It sees nothing but the
    patch, so a few images teach it, and its memory hardly grows with them (Khorashadizadeh,
    Liaudat, Liu, McEwen and Dokmanic, "LoFi: Neural local fields", 2024; their filter over the
    whole image is left out). Train it with the loss `AtPixels`.

    With ``mask=True`` the last channel of the input is 1 for known pixels and 0 for holes, in which
    the image is 0; the mean and the network then use known pixels alone. Holes have to be smaller
    than the patch. ``detail=True`` adds the difference between the image and its blurred copy
    as further channels. Together they are made for inpainting with super-resolution (the ideas of
    Zhang et al., "SuperInpaint", 2023); see `InpaintingPairs`.

    `train` keeps the noise levels of the training inputs in the buffer `levels`, and inputs
    with another noise level cause a `MeasurementWarning`. With ``mask=True`` the level is not
    known, and there is no warning.

    Args:
        channels: number of channels of the image, without the mask.
        radius: radius of the patch, pixels of the input.
        rings: number of radii, the centre included.
        angles: number of samples per ring.
        width: number of features of the hidden layers.
        depth: number of hidden layers.
        mask: whether the last channel of the input is a mask of the known pixels.
        detail: whether the network also sees the image less its blurred copy.
        seed: seed of the first weights.

    >>> network = LocalField(width=8)
    >>> x = torch.rand(2, 1, 20, 24)
    >>> network(x).shape, network(x, size=(40, 48)).shape
    (torch.Size([2, 1, 20, 24]), torch.Size([2, 1, 40, 48]))
    >>> torch.allclose(network(x + 1), network(x) + 1, atol=1e-5)
    True
    """

    levels: Tensor

    def __init__(
        self,
        channels: int = 1,
        radius: float = 4.0,
        rings: int = 9,
        angles: int = 9,
        width: int = 160,
        depth: int = 3,
        mask: bool = False,
        detail: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range(self, "(0, inf)", radius=radius)
        check_range(self, "[2, inf)", rings=rings)
        check_range(self, "[1, inf)", channels=channels, angles=angles, width=width, depth=depth)
        self.channels, self.radius, self.mask, self.detail = channels, radius, mask, detail
        distance = torch.linspace(0, radius, rings)[:, None]
        angle = 2 * math.pi * torch.arange(angles) / angles
        offsets = torch.stack([distance * angle.sin(), distance * angle.cos()], -1)
        self.offsets = nn.Parameter(offsets.flatten(0, 1))
        # A Gaussian of a quarter of the radius.
        self.importance = nn.Parameter(
            (-8 * (distance / radius).square()).expand(-1, angles).flatten()
        )
        inputs = (channels * (2 if detail else 1) + (1 if mask else 0)) * rings * angles
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([inputs, *[width] * depth]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, channels))
        draw_weights(self.layers, seed)
        self.register_buffer("levels", torch.tensor([0.0, math.inf]))

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Compute images ``(batch, channels, *size)``.

        Args:
            x: first reconstructions, ``(batch, channels, rows, columns)``, with a mask one channel
                more.
            size: number of rows and columns of the result, which covers the same field; by default
                those of ``x``.

        Raises:
            InputError: The channels or the precision are wrong, or the patch is larger than the image.
        """
        self._check(x)
        self._compare_noise(x)
        size = x.shape[-2:] if size is None else size
        if isinstance(size, int) or len(size) != 2 or min(size) < 1:
            raise InputError(
                f"LocalField computes images of (rows, columns), at least 1 x 1, got {size}"
            )
        rows, columns = size
        images = []
        # Item by item, because a product of matrices rounds differently in a batch.
        for item in self._extend(x).split(1):
            parts = [
                self._compute(item, _places(pixels, (rows, columns), x)[None])
                for pixels in torch.arange(rows * columns, device=x.device).split(_CHUNK)
            ]
            images.append(torch.cat(parts, 2).view(1, self.channels, rows, columns))
        return torch.cat(images)

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """Compute values at some places, ``(batch, channels, n)``.

        Args:
            x: first reconstructions, see `forward`.
            places: rows and columns as fractions of the height and width of the image,
                ``(batch, n, 2)``; the centre of the first of m rows is ``0.5 / m``.
        """
        self._check(x)
        if places.ndim != 3 or len(places) != len(x) or places.shape[2] != 2:
            raise InputError(
                f"LocalField takes places ({len(x)}, n, 2) for {len(x)} images, got "
                f"{tuple(places.shape)}"
            )
        return self._compute(self._extend(x), places)

    def remember(self, x: Tensor) -> None:
        """Keep the least and the largest noise level of training inputs, see `train`."""
        if not self.mask:
            levels = estimate_noise_std(x)
            self.levels.copy_(torch.stack([levels.amin(), levels.amax()]))

    def _extend(self, x: Tensor) -> Tensor:
        """Empty the holes, and add the channels of the details."""
        image, mask = x[:, : self.channels], x[:, self.channels :]
        valid = mask if self.mask else torch.ones_like(image[:, :1])
        image = image * valid if self.mask else image
        if not self.detail:
            return torch.cat([image, mask], 1) if self.mask else image
        weight = gaussian_blur(valid, self.radius / 2)
        smooth = gaussian_blur(image, self.radius / 2) / weight.clamp_min(1e-3)
        return torch.cat([image, valid * (image - smooth), mask], 1)

    def _compute(self, x: Tensor, places: Tensor) -> Tensor:
        """Compute values at places from extended inputs."""
        size = constant([float(n) for n in x.shape[2:]], x)
        grid = 2 * (places[:, :, None] + self.offsets / size) - 1
        patch = F.grid_sample(x, grid.flip(-1), "bicubic", "reflection", align_corners=False)
        image, extension = patch[:, : self.channels], patch[:, self.channels :]
        valid = patch[:, -1:] if self.mask else torch.ones_like(image[:, :1])
        weight = self.importance.softmax(0)
        # Interpolated masks overshoot, and holes can be wider than the patch.
        total = (weight * valid).sum(3, keepdim=True).clamp_min(0.01)
        mean = (weight * image).sum(3, keepdim=True) / total
        features = torch.cat([image - mean * valid, extension], 1)
        change: Tensor = self.layers(features.movedim(1, 2).flatten(2))
        return mean[..., 0] + change.movedim(2, 1)

    def _check(self, x: Tensor) -> None:
        expected_channels = self.channels + (1 if self.mask else 0)
        dtype = self.offsets.dtype
        if x.ndim != 4 or x.shape[1] != expected_channels or x.dtype != dtype:
            with_mask = ", the mask included" if self.mask else ""
            raise InputError(
                f"this LocalField takes {dtype} images (batch, {expected_channels}, rows, columns){with_mask}, "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        if min(x.shape[2:]) < 2 * self.radius + 1:
            raise InputError(
                f"the patch of this LocalField is {2 * self.radius + 1:g} pixels wide, and the "
                f"image has {x.shape[2]} x {x.shape[3]} pixels; take a smaller radius"
            )

    def _compare_noise(self, x: Tensor) -> None:
        """Warn if the noise of the inputs lies outside of the levels of the training."""
        low, high = self.levels.tolist()
        if self.training or not high < math.inf:
            return
        levels = estimate_noise_std(x)
        wrong = (levels < low / _TOLERANCE) | (levels > high * _TOLERANCE)
        if bool(wrong.any()):
            k = int(wrong.nonzero()[0])
            warn_user(
                f"the noise level of item {k} is about {float(levels[k]):.2g}, and this LocalField "
                f"was trained with levels from {low:.2g} to {high:.2g}; train it for this noise",
                MeasurementWarning,
            )

    def extra_repr(self) -> str:
        extra = ", mask=True" * self.mask + ", detail=True" * self.detail
        return f"channels={self.channels}, radius={self.radius:g}{extra}"


@dataclass(frozen=True)
class AtPixels(Loss):
    """Loss at random pixels of the target, for a `LocalField`.

    Input and target show the same field and may have different sizes.

    Args:
        loss: loss of the values at these pixels.
        pixels: number of pixels per pair.

    >>> network, x = LocalField(width=8), torch.rand(2, 1, 16, 16)
    >>> AtPixels(pixels=10).of_network(network, x, x, torch.Generator().manual_seed(0)).shape
    torch.Size([2])
    """

    loss: Loss = field(default_factory=L1)
    pixels: int = 512

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "pixels")

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return self.loss(result, wanted)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        if not callable(getattr(network, "at", None)):
            raise InputError(
                "AtPixels trains a network with a method at(x, places), such as LocalField, and "
                f"{type(network).__name__} has none; give the loss {self.loss!r} itself"
            )
        index = torch.randint(
            wanted[0, 0].numel(),
            (len(wanted), self.pixels),
            generator=generator,
            device=wanted.device,
        )
        values = cast(Any, network).at(shown, _places(index, wanted.shape[2:], shown))
        there = index[:, None].expand(-1, wanted.shape[1], -1)
        return self(values.to(wanted.dtype), wanted.flatten(2).gather(2, there))


class InpaintingPairs(Crops):
    """Crops of images as the output, and a coarse copy with random holes and its mask as the input.

    The input has the channels of the image, which are 0 in the holes, and the mask, 1 for known
    pixels, as an additional channel.

    Args:
        images: images ``(1, channel, rows, columns)`` of any sizes.
        crop: side of the crops, pixels, a multiple of ``shrink``.
        known: share of the pixels of the coarse copy that are known.
        shrink: number of pixels of the image per pixel of the coarse copy, along each axis.
        noise_std: standard deviation of Gaussian noise of the known pixels.

    >>> pairs = InpaintingPairs([torch.rand(1, 1, 20, 30)], crop=16, known=0.5)
    >>> inputs, targets = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> inputs.shape, targets.shape
    (torch.Size([4, 2, 8, 8]), torch.Size([4, 1, 16, 16]))
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        crop: int,
        known: float,
        shrink: int = 2,
        noise_std: float = 0.0,
    ) -> None:
        super().__init__(images, crop)
        if not 0 < known <= 1 or shrink < 1 or crop % shrink or not noise_std >= 0:
            raise InputError(
                "InpaintingPairs needs a share of known pixels in (0, 1], a crop that is a "
                "multiple of shrink, and a noise_std that is not negative, got "
                f"{known}, {crop}, {shrink} and {noise_std}"
            )
        self.known, self.shrink, self.noise_std = known, shrink, noise_std

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        clean = self._crops(count, generator)
        return self.spoil(clean, generator), clean

    def spoil(self, clean: Tensor, generator: Generator) -> Tensor:
        """Return the inputs for clean images."""
        coarse = F.avg_pool2d(clean, self.shrink)
        like: dict[str, Any] = {"dtype": clean.dtype, "device": clean.device}
        noise = torch.randn(coarse.shape, generator=generator, **like)
        drawn = torch.rand(coarse[:, :1].shape, generator=generator, **like)
        mask = (drawn < self.known).to(clean.dtype)
        return torch.cat([mask * (coarse + self.noise_std * noise), mask], 1)

    def _settings(self) -> str:
        return (
            f"crop={self.crop}, known={self.known:g}, shrink={self.shrink}, "
            f"noise_std={self.noise_std:g}"
        )


def _places(index: Tensor, size: Sequence[int], like: Tensor) -> Tensor:
    """Return the centres of pixels, as fractions of height and width, ``(*index.shape, 2)``."""
    rows, columns = size
    row = (index.div(columns, rounding_mode="floor").to(like.dtype) + 0.5) / rows
    column = ((index % columns).to(like.dtype) + 0.5) / columns
    return torch.stack([row, column], -1)
