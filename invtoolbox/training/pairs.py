"""Training pairs of a network: its input and the wanted output, drawn on demand.

`Examples` are pairs that exist already. `Crops`, `NoisyPairs` and `LevelPairs` are for coders and
denoisers, `MeasuredPairs` for networks that reconstruct an image from measurements. Without ground
truth, `RecorruptedPairs`, `ThinnedPairs` and `Noise2InversePairs` make pairs of noisy images, and
`Measurements` draws measurements for the losses that need nothing else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.core.constants import constant
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
        truths: wanted outputs ``(items, channel, *space)``.

    >>> pairs = Examples(torch.zeros(3, 1, 4, 4), torch.ones(3, 1, 8, 8))
    >>> shown, wanted = pairs.draw(2, torch.Generator().manual_seed(0))
    >>> shown.shape, wanted.shape
    (torch.Size([2, 1, 4, 4]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, shown: Tensor, truths: Tensor) -> None:
        if not len(shown) or len(shown) != len(truths):
            raise InputError(
                "Examples needs at least one pair and a true image for each input, got "
                f"{len(shown)} inputs and {len(truths)} true images"
            )
        _check_finite("Examples", (shown, truths))
        self.shown, self.truths = shown, truths

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(
            len(self.shown), (count,), generator=generator, device=self.shown.device
        )
        return self.shown[index], self.truths[index]

    def __repr__(self) -> str:
        sums = [float(part.abs().double().sum()) for part in (self.shown, self.truths)]
        return (
            f"Examples({tuple(self.shown.shape)}, {tuple(self.truths.shape)}, "
            f"sums {sums[0]:.9g} and {sums[1]:.9g})"
        )


class Crops(Pairs):
    """Crops of images, rotated and mirrored, as both the input and the wanted output.

    Args:
        images: images ``(1, channel, rows, columns)`` of any sizes; larger ones are drawn from more
            often.
        crop: side of the crops, pixels.
        contrast: range of a factor by which each crop is multiplied, all orders of magnitude alike.
            For a network of a fixed accuracy, a fainter picture is one to be coded more coarsely,
            so it learns many accuracies at once.

    >>> pairs = Crops([torch.rand(1, 1, 20, 30)], crop=8, contrast=(0.25, 1.0))
    >>> shown, wanted = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> shown.shape, torch.equal(shown, wanted)
    (torch.Size([4, 1, 8, 8]), True)
    """

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
        _check_finite(type(self).__name__, images)
        # Whole numbers take no noise.
        self.images = tuple(
            x if x.is_floating_point() or x.is_complex() else x.float() for x in images
        )
        self.crop, self.contrast = crop, contrast

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
        crops = []
        # One copy to the host; the numbers are exact in double precision.
        together = torch.cat([torch.stack([which, turns], 1).double(), drawn.double()], 1)
        for number, turned, down, right in together.tolist():
            k, turn = int(number), int(turned)
            top, left = (min(int(share * n), n - 1) for share, n in zip((down, right), free[k]))
            part = self.images[k][..., top : top + self.crop, left : left + self.crop]
            crops.append(torch.rot90(part.flip(-1) if turn >= 4 else part, turn % 4, (-2, -1)))
        return torch.cat(crops)

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
    >>> shown, wanted = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> shown.shape, round(float((shown - wanted).std()), 1)
    (torch.Size([4, 1, 8, 8]), 0.1)
    """

    def __init__(self, images: Sequence[Tensor], noise_std: float, crop: int) -> None:
        super().__init__(images, crop)
        if not noise_std > 0:
            raise InputError(f"{type(self).__name__} needs a positive noise_std, got {noise_std}")
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
    >>> shown, wanted = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> shown.shape, wanted.shape
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
        shown = torch.cat([clean + sigma * noise, sigma.expand_as(clean)], 1)
        scale = (high / sigma).sqrt()
        return scale * shown, scale * clean

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


class RecorruptedPairs(NoisyPairs):
    """Pairs from noisy images alone: the input is ``y + a z``, the wanted output ``y - z / a``.

    z is as strong as the noise of y. The two have independent noise about the same clean image. So
    `L2`, and no other loss, is minimized by the denoiser that clean images would have taught, for
    the noise ``sqrt(1 + a^2) noise_std`` (Pang, Zheng, Quan and Ji, "Recorrupted-to-recorrupted",
    CVPR 2021).

    Args:
        images: noisy images ``(1, channel, rows, columns)``.
        noise_std: standard deviation of their Gaussian noise.
        crop: side of the crops, pixels.
        strength: a.
    """

    def __init__(
        self, images: Sequence[Tensor], noise_std: float, crop: int, strength: float = 0.5
    ) -> None:
        super().__init__(images, noise_std, crop)
        if not strength > 0:
            raise InputError(f"RecorruptedPairs needs a positive strength, got {strength}")
        self.strength = strength

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        y = self._crops(count, generator)
        z = self.noise_std * torch.randn(
            y.shape, generator=generator, dtype=y.dtype, device=y.device
        )
        return y + self.strength * z, y - z / self.strength

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, strength={self.strength:g})"


class ThinnedPairs(Crops):
    """Pairs from images of counts alone: photons are divided at random into input and target.

    Each photon goes to the target with probability ``share``. The two parts of a Poisson variable
    are independent, so `L2` is minimized by the denoiser that clean images would have taught, for
    counts with ``1 - share`` of the exposure (Monroy, Bacca and Tachella, "Generalized recorrupted-
    to-recorrupted", CVPR 2025, for Poisson noise). Both are divided by their share, so they have
    the mean of the image.

    Args:
        images: images of counts times the gain ``(1, channel, rows, columns)``.
        gain: value of one count in the images; 1 for photon counts.
        crop: side of the crops, pixels.
        share: share of the counts in the target.

    >>> images = [torch.poisson(torch.full((1, 1, 20, 30), 9.0))]
    >>> shown, wanted = ThinnedPairs(images, 1.0, crop=8).draw(4, torch.Generator().manual_seed(0))
    >>> bool((0.85 * shown + 0.15 * wanted).frac().abs().max() < 1e-5)
    True
    """

    def __init__(
        self, images: Sequence[Tensor], gain: float, crop: int, share: float = 0.15
    ) -> None:
        super().__init__(images, crop)
        if not gain > 0 or not 0 < share < 1:
            raise InputError(
                f"ThinnedPairs needs a positive gain and a share between 0 and 1, "
                f"got {gain} and {share}"
            )
        counts = [image / gain for image in images]
        if any(bool(((c - c.round()).abs() > 1e-3).any() or (c < 0).any()) for c in counts):
            raise InputError(
                f"ThinnedPairs divides counts, and the images divided by the gain {gain:g} are "
                "not whole numbers of at least 0; check the gain, or use RecorruptedPairs"
            )
        self.gain, self.share = gain, share

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        counts = (self._crops(count, generator) / self.gain).round()
        share = torch.full_like(counts, self.share)
        taken = torch.binomial(counts, share, generator=generator)
        return self.gain / (1 - self.share) * (counts - taken), self.gain / self.share * taken

    def _settings(self) -> str:
        return f"gain={self.gain:g}, crop={self.crop}, share={self.share:g}"


class Noise2InversePairs(Crops):
    """Pairs of reconstructions from different views of the same scans, without ground truth.

    The views are divided into interleaved parts, and each part is reconstructed alone. The target
    is the reconstruction of one part, drawn at random, and the input the mean of the others. Their
    noise is independent, so a denoiser trained by `L2` removes it (Hendriksen, Pelt and Batenburg,
    "Noise2Inverse", IEEE TCI 6, 2020, strategy X:1). Apply the network to `mean_of_parts` and take
    its result as the image.

    A part has few views, and filtered back-projection of few views has streaks, which hide the
    noise. If the scan has fewer views than detector pixels, reconstruct the parts by a few steps of
    least squares, and let a few more steps begin at the image of the network, which is blurred. On
    a tooth of 163 views, the residual on other views is then 39 % below filtered back-projection
    (``benchmarks/learn_without_truth.py``).

    Args:
        y: measurements ``(batch, channel, views, *detector)``.
        operator: scan A.
        splits: number of parts.
        crop: side of the crops, pixels.
        reconstruct: function ``(A, y) -> images`` that reconstructs a part and is linear in y, or
            nearly so; by default ``A.pseudo_inverse(y)``.

    Raises:
        InputError: The operator has no views, or too few for the number of parts, or the function
            returns images of another shape.

    >>> import invtoolbox as it
    >>> A = it.operators.ParallelBeam((16, 16), torch.arange(24) * torch.pi / 24, 24)
    >>> pairs = Noise2InversePairs(torch.rand(1, 1, 24, 24), A, splits=3, crop=8)
    >>> shown, wanted = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> shown.shape, wanted.shape
    (torch.Size([4, 1, 8, 8]), torch.Size([4, 1, 8, 8]))
    """

    def __init__(
        self,
        y: Tensor,
        operator: LinearOperator,
        splits: int = 4,
        crop: int = 64,
        reconstruct: Callable[[Any, Tensor], Tensor] | None = None,
    ) -> None:
        views = operator.blocks
        if views is None or splits < 2 or views < splits:
            raise InputError(
                f"Noise2InversePairs divides the views of a scan into at least 2 parts with one "
                f"view each; {operator} has {views or 'no'} views, and splits is {splits}"
            )
        if y.ndim < 3 or y.shape[2] != views:
            raise InputError(
                f"{operator} has {views} views, and the measurements have the shape "
                f"{tuple(y.shape)}; the views are axis 2, (batch, channel, views, *detector)"
            )
        parts = []
        for k in range(splits):
            index = torch.arange(k, views, splits, device=y.device)
            part: Any = operator.subset(index)
            seen = y.index_select(2, index)
            image = reconstruct(part, seen) if reconstruct else part.pseudo_inverse(seen)
            if image.shape != (len(y), *operator.domain_shape):
                raise InputError(
                    f"Noise2InversePairs needs images {(len(y), *operator.domain_shape)} from the "
                    f"function reconstruct, and it returned {tuple(image.shape)}"
                )
            parts.append(image)
        self.channels, self.splits = operator.domain_shape[0], splits
        super().__init__(list(torch.cat(parts, 1).split(1)), crop)

    @property
    def mean_of_parts(self) -> Tensor:
        """Mean of the reconstructions of all parts, ``(batch, channel, rows, columns)``."""
        return self._by_part(torch.cat(self.images)).mean(1)

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        parts = self._by_part(self._crops(count, generator))
        target = torch.randint(
            self.splits, (count,), generator=generator, device=parts.device
        ).view(-1, 1, 1, 1, 1)
        wanted = parts.gather(1, target.expand_as(parts[:, :1]))[:, 0]
        return (parts.sum(1) - wanted) / (self.splits - 1), wanted

    def _by_part(self, images: Tensor) -> Tensor:
        return images.unflatten(1, (self.splits, self.channels))

    def _settings(self) -> str:
        return f"splits={self.splits}, crop={self.crop}"


class Measurements(Pairs):
    """Items of a batch of measurements, as both the input and the target.

    With a second measurement of the same objects as the target, a network learns the mean of
    either: it removes noise without clean images (Lehtinen et al., "Noise2Noise", ICML 2018).

    Args:
        y: measurements ``(batch, channel, *space)``.
        second: another measurement of the same items.

    >>> y = torch.arange(3.0).view(3, 1, 1)
    >>> shown, wanted = Measurements(y).draw(2, torch.Generator().manual_seed(0))
    >>> shown.shape, torch.equal(shown, wanted)
    (torch.Size([2, 1, 1]), True)
    """

    def __init__(self, y: Tensor, second: Tensor | None = None) -> None:
        if y.ndim < 3 or not len(y):
            raise InputError(
                f"Measurements takes a batch (batch, channel, *space), got {tuple(y.shape)}"
            )
        if second is not None and second.shape != y.shape:
            raise InputError(
                f"the second measurement has the shape {tuple(second.shape)}, and the first "
                f"{tuple(y.shape)}; they have to show the same items"
            )
        _check_finite("Measurements", (y,) if second is None else (y, second))
        self.y, self.second = y, second

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(self.y), (count,), generator=generator, device=self.y.device)
        shown = self.y[index]
        return shown, shown if self.second is None else self.second[index]

    def __repr__(self) -> str:
        total = float(self.y.abs().double().sum())
        more = "" if self.second is None else f", second sum {float(self.second.abs().sum()):.6g}"
        return f"Measurements({tuple(self.y.shape)}, sum {total:.9g}{more})"


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
        if not noise_std >= 0:
            raise InputError(
                f"MeasuredPairs needs a noise_std that is not negative, got {noise_std}"
            )
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


def _check_finite(name: str, parts: Iterable[Tensor]) -> None:
    if not all(bool(part.isfinite().all()) for part in parts):
        raise InputError(f"{name} takes finite values, and got NaN or infinite ones")
