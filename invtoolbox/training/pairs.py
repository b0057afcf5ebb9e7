"""Training pairs of a network: its input and the target, drawn on demand.

`Examples` are pairs that exist already. `Crops`, `NoisyPairs` and `LevelPairs` are for coders and
denoisers, `MeasuredPairs` for networks that reconstruct an image from measurements. Pairs for
training without ground truth are in `training.pairs_without_truth`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.constants import constant
from invtoolbox.core.guards import check_range
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator


class Pairs(Settings, ABC):
    """Base class of sources of pairs; a subclass writes `draw`."""

    @abstractmethod
    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw ``(shown, wanted)``, ``(count, channel, *space)`` each, from the generator alone."""


class Examples(Pairs):
    """Inputs of a network and their true images, drawn at random from a fixed set.

    Args:
        shown: inputs ``(items, channel, *space)``, such as first reconstructions of measured data.
        truths: targets ``(items, channel, *space)``.

    >>> pairs = Examples(torch.zeros(3, 1, 4, 4), torch.ones(3, 1, 8, 8))
    >>> inputs, targets = pairs.draw(2, torch.Generator().manual_seed(0))
    >>> inputs.shape, targets.shape
    (torch.Size([2, 1, 4, 4]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, shown: Tensor, truths: Tensor) -> None:
        if not len(shown) or len(shown) != len(truths):
            raise InputError(
                "Examples needs at least one pair and a true image for each input, got "
                f"{len(shown)} inputs and {len(truths)} true images"
            )
        check_finite("Examples", (shown, truths))
        self.shown, self.truths = shown, truths

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(
            len(self.shown), (count,), generator=generator, device=self.shown.device
        )
        return self.shown[index], self.truths[index]

    def __repr__(self) -> str:
        sums = [float(tensor.abs().double().sum()) for tensor in (self.shown, self.truths)]
        return (
            f"Examples({tuple(self.shown.shape)}, {tuple(self.truths.shape)}, "
            f"sums {sums[0]:.9g} and {sums[1]:.9g})"
        )


class Crops(Pairs):
    """Crops of images, rotated and mirrored, as both the input and the target.

    Args:
        images: images ``(1, channel, rows, columns)`` of any sizes; larger ones are drawn from more
            often.
        crop: side of the crops, pixels.
        contrast: range of a factor by which each crop is multiplied, all orders of magnitude alike.
            For a network of a fixed accuracy, a fainter picture is one to be coded more coarsely,
            so it learns many accuracies at once.

    >>> pairs = Crops([torch.rand(1, 1, 20, 30)], crop=8, contrast=(0.25, 1.0))
    >>> inputs, targets = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> inputs.shape, torch.equal(inputs, targets)
    (torch.Size([4, 1, 8, 8]), True)
    """

    pixels: Tensor | None = None  # all images of a GPU behind each other
    cache_fields: ClassVar[tuple[str, ...]] = ("pixels",)

    def __init__(
        self, images: Sequence[Tensor], crop: int, contrast: tuple[float, float] = (1.0, 1.0)
    ) -> None:
        if crop < 1 or not 0 < contrast[0] <= contrast[1]:
            raise InputError(
                f"{type(self).__name__} needs a positive crop and a contrast (low, high), "
                f"got {crop} and {contrast}"
            )
        for image in images:
            if image.ndim != 4 or image.shape[0] != 1 or min(image.shape[2:]) < crop:
                raise InputError(
                    f"{type(self).__name__} takes images (1, channel, rows, columns) of at least "
                    f"{crop} x {crop} pixels, got {tuple(image.shape)}"
                )
        if not images or len({image.shape[1] for image in images}) > 1:
            raise InputError(
                f"{type(self).__name__} needs at least one image, and the same number of channels "
                "in all of them"
            )
        check_finite(type(self).__name__, images)
        # Whole numbers take no noise.
        self.images = tuple(
            x if x.is_floating_point() or x.is_complex() else x.float() for x in images
        )
        self.crop, self.contrast = crop, contrast
        self._join()

    def to(
        self,
        target: torch.device | torch.dtype | str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        pairs = super().to(target, device=device, dtype=dtype)
        if pairs is not self:
            pairs._join()
        return pairs

    def _join(self) -> None:
        """Put the images of a GPU behind each other, so that it cuts crops by itself."""
        vars(self).pop("pixels", None)
        if self.images[0].device.type == "cpu":
            return
        self.pixels = torch.cat([image.flatten() for image in self.images])
        rows = self.pixels.split([image.numel() for image in self.images])
        self.images = tuple(
            row.view(image.shape) for row, image in zip(rows, self.images, strict=True)
        )

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x = self._crops(count, generator)
        low, high = self.contrast
        share = torch.rand(count, generator=generator, dtype=x.dtype, device=x.device)
        x = x * (low * (high / low) ** share).view(-1, 1, 1, 1)
        return x, x

    def _crops(self, count: int, generator: Generator) -> Tensor:
        free = [[n - self.crop + 1 for n in image.shape[2:]] for image in self.images]
        device = self.images[0].device
        places = constant([rows * columns for rows, columns in free], torch.ones(0, device=device))
        which = torch.multinomial(places, count, replacement=True, generator=generator)
        drawn = torch.rand(count, 2, generator=generator, device=device)
        turns = torch.randint(8, (count,), generator=generator, device=device)
        cut = self._cut_on_host if self.pixels is None else self._cut_on_device
        return cut(which, turns, drawn.double())

    def _cut_on_host(self, which: Tensor, turns: Tensor, shares: Tensor) -> Tensor:
        """Cut a crop from each of the images ``which``, at shares of the free rows and columns."""
        crops = []
        for k, turn, (down, right) in zip(which.tolist(), turns.tolist(), shares.tolist()):
            image = self.images[k]
            rows, columns = (n - self.crop + 1 for n in image.shape[2:])
            top, left = min(int(down * rows), rows - 1), min(int(right * columns), columns - 1)
            patch = image[..., top : top + self.crop, left : left + self.crop]
            crops.append(torch.rot90(patch.flip(-1) if turn >= 4 else patch, turn % 4, (-2, -1)))
        return torch.cat(crops)

    def _cut_on_device(self, which: Tensor, turns: Tensor, shares: Tensor) -> Tensor:
        """Cut the crops of `_cut_on_host` by one index into all pixels, which no host waits for."""
        side, channels = self.crop, self.images[0].shape[1]
        begins = [0, *accumulate(image.numel() for image in self.images)]
        numbers = [n for b, x in zip(begins, self.images) for n in (b, *x.shape[2:])]
        begin, rows, columns = constant(numbers, turns).view(-1, 3)[which].unbind(1)
        free = torch.stack([rows, columns], 1) - side + 1
        top, left = (shares * free).long().minimum(free - 1).unbind(1)
        # The place in a patch that each pixel of a rotated and mirrored one comes from.
        grid = torch.arange(side * side, device=which.device).view(side, side)
        turned = [torch.rot90(g, k) for g in (grid, grid.flip(1)) for k in range(4)]
        place = torch.stack(turned)[turns]
        rows, columns, begin, top, left = (
            n.view(-1, 1, 1) for n in (rows, columns, begin, top, left)
        )
        first = begin + (top + place // side) * columns + left + place % side
        planes = torch.arange(channels, device=which.device).view(-1, 1, 1)
        assert self.pixels is not None
        return self.pixels[first[:, None] + planes * (rows * columns)[:, None]]

    def _settings(self) -> str:
        return f"crop={self.crop}, contrast={self.contrast}"

    def __repr__(self) -> str:
        pixels = sum(image[0, 0].numel() for image in self.images)
        total = sum(float(image.double().sum()) for image in self.images)
        images = f"{len(self.images)} images of {pixels} pixels, sum {total:.6g}"
        return f"{type(self).__name__}({images}, {self._settings()})"


class NoisyPairs(Crops):
    """Crops of clean images, rotated and mirrored, with Gaussian noise as the input.

    Args:
        images: clean images ``(1, channel, rows, columns)`` of any sizes; larger ones are drawn
            from more often.
        noise_std: standard deviation of the noise, in the units of the images.
        crop: side of the crops, pixels.

    >>> pairs = NoisyPairs([torch.rand(1, 1, 20, 30)], noise_std=0.1, crop=8)
    >>> inputs, targets = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> inputs.shape, round(float((inputs - targets).std()), 1)
    (torch.Size([4, 1, 8, 8]), 0.1)
    """

    def __init__(self, images: Sequence[Tensor], noise_std: float, crop: int) -> None:
        super().__init__(images, crop)
        check_range(self, "(0, inf]", noise_std=noise_std)
        self.noise_std = noise_std

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        clean = self._crops(count, generator)
        noise = torch.randn(
            clean.shape, generator=generator, dtype=clean.dtype, device=clean.device
        )
        return clean + self.noise_std * noise, clean

    def _settings(self) -> str:
        return f"noise_std={self.noise_std:g}, crop={self.crop}"


class LevelPairs(Crops):
    """Crops with Gaussian noise of many levels, for one denoiser that takes the level as input.

    The input is the noisy crop followed by its noise map as an additional channel. Crops of color
    pictures become grey: four of five are a random mean of the channels, and the fifth is a random
    difference of them. So the network also learns the chrominance of pictures, and values on both
    sides of 0.

    A level is drawn from ``noise_std``, all orders of magnitude alike, and the whole pair is
    multiplied by ``sqrt(high / level)``. For a network that is homogeneous of degree 1 this is a
    weight of the loss, with which all levels matter alike.

    Args:
        images: clean images ``(1, channel, rows, columns)`` with 1 or 3 channels, of any sizes.
        noise_std: range ``(low, high)`` of the standard deviation, in the units of the images.
        crop: side of the crops, pixels.

    >>> pairs = LevelPairs([torch.rand(1, 3, 20, 30)], noise_std=(0.01, 0.1), crop=8)
    >>> inputs, targets = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> inputs.shape, targets.shape
    (torch.Size([4, 2, 8, 8]), torch.Size([4, 1, 8, 8]))
    """

    def __init__(self, images: Sequence[Tensor], noise_std: tuple[float, float], crop: int) -> None:
        if not (len(noise_std) == 2 and 0 < noise_std[0] <= noise_std[1] < math.inf):
            raise InputError(
                f"{type(self).__name__} needs a range (low, high) of positive levels, got {noise_std}"
            )
        if any(image.shape[1] not in (1, 3) for image in images):
            raise InputError("LevelPairs takes images of 1 or 3 channels")
        super().__init__([image.expand(-1, 3, -1, -1) for image in images], crop)
        self.noise_std = noise_std

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        clean = self._grey(count, generator)
        share = torch.rand(count, generator=generator, dtype=clean.dtype, device=clean.device)
        low, high = self.noise_std
        sigma = (low * (high / low) ** share).view(-1, 1, 1, 1)
        noise = torch.randn(
            clean.shape, generator=generator, dtype=clean.dtype, device=clean.device
        )
        noisy = torch.cat([clean + sigma * noise, sigma.expand_as(clean)], 1)
        scale = (high / sigma).sqrt()
        return scale * noisy, scale * clean

    def _grey(self, count: int, generator: Generator) -> Tensor:
        """Draw clean crops of one channel."""
        crops = self._crops(count, generator)
        return (crops * self._mixture(crops, generator)).sum(1, keepdim=True)

    @staticmethod
    def _mixture(crops: Tensor, generator: Generator) -> Tensor:
        """Draw the weights of the channels of each crop, ``(count, 3, 1, 1)``."""
        coloured = (crops.amax(1) - crops.amin(1)).flatten(1).amax(1, keepdim=True) > 0
        drawn = torch.rand(
            len(crops), 4, generator=generator, dtype=crops.dtype, device=crops.device
        )
        weights = drawn[:, :3] / drawn[:, :3].sum(1, keepdim=True)
        apart = weights - 1 / 3
        apart = apart / apart.norm(dim=1, keepdim=True).clamp_min(1e-6)
        weights = torch.where(coloured & (drawn[:, 3:] < 0.2), apart, weights)
        return weights.view(-1, 3, 1, 1)

    def _settings(self) -> str:
        return f"noise_std={self.noise_std}, crop={self.crop}"


class MeasuredPairs(Crops):
    """Crops of images x, rotated and mirrored, as the output, with the input ``A x + noise``.

    Args:
        images: images ``(1, channel, rows, columns)`` of any sizes; larger ones are drawn from more
            often.
        operator: A, of square images, whose size is the size of the crops.
        noise_std: standard deviation of Gaussian noise, in the units of the measurements; complex
            measurements have it in both of their parts.
        inverted: whether the input is the first reconstruction ``A^+ (A x + noise)``
            (`pseudo_inverse`), for networks from images to images.

    >>> import invtoolbox as it
    >>> A = it.operators.Blur(torch.ones(3, 3) / 9, (8, 8))
    >>> pairs = MeasuredPairs([torch.rand(1, 1, 20, 30)], A, noise_std=0.01)
    >>> y, x = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> y.shape, round(float((y - A(x)).std()), 3)
    (torch.Size([4, 1, 8, 8]), 0.01)
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        operator: Operator,
        noise_std: float,
        inverted: bool = False,
    ) -> None:
        if inverted and not isinstance(operator, LinearOperator):
            raise InputError(
                "inverted=True needs the pseudo_inverse of a linear operator, and "
                f"{operator} is none"
            )
        space = operator.domain_shape[1:]
        if len(space) != 2 or space[0] != space[1]:
            raise InputError(
                f"MeasuredPairs crops squares, and {operator} takes images of "
                f"{' x '.join(map(str, space))}; for others write a Pairs with a draw of your own"
            )
        check_range(self, "[0, inf]", noise_std=noise_std)
        super().__init__(images, int(space[0]))
        self.operator, self.noise_std, self.inverted = operator, noise_std, inverted

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x = self._crops(count, generator)
        with torch.no_grad():
            y = self.operator(x)
        noise = torch.randn(
            (torch.view_as_real(y) if y.is_complex() else y).shape,
            generator=generator,
            dtype=x.dtype,
            device=x.device,
        )
        y = y + self.noise_std * (torch.view_as_complex(noise) if y.is_complex() else noise)
        if self.inverted:
            assert isinstance(self.operator, LinearOperator)
            with torch.no_grad():
                y = self.operator.pseudo_inverse(y)
        return y, x

    def _settings(self) -> str:
        parts = ", ".join(
            f"{name} {float(value.detach().abs().double().sum()):.9g}"
            for name, value in self.operator.parameters().items()
        )
        inverted = ", inverted=True" * self.inverted
        return f"operator={self.operator} ({parts}), noise_std={self.noise_std:g}{inverted}"


def check_finite(name: str, parts: Iterable[Tensor]) -> None:
    """Raise an `InputError` that names the class if a tensor holds NaN or infinite values."""
    if not all(bool(tensor.isfinite().all()) for tensor in parts):
        raise InputError(f"{name} takes finite values, and got NaN or infinite ones")
