"""Training pairs from measurements alone, without ground truth.

`RecorruptedPairs`, `ThinnedPairs` and `Noise2InversePairs` make pairs of images with independent
noise. `Measurements` draws measurements for the losses that need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator
from invtoolbox.training.pairs import Crops, NoisyPairs, Pairs, check_finite


class RecorruptedPairs(NoisyPairs):
    """Pairs from noisy images alone: the input is ``y + a z``, the target ``y - z / a``.

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
        check_range(self, "(0, inf]", strength=strength)
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
    >>> inputs, targets = ThinnedPairs(images, 1.0, crop=8).draw(4, torch.Generator().manual_seed(0))
    >>> bool((0.85 * inputs + 0.15 * targets).frac().abs().max() < 1e-5)
    True
    """

    def __init__(
        self, images: Sequence[Tensor], gain: float, crop: int, share: float = 0.15
    ) -> None:
        super().__init__(images, crop)
        check_range(self, "(0, inf]", gain=gain)
        check_range(self, "(0, 1)", share=share)
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
    a tooth of 163 views, the residual on other views is then 38 % below filtered back-projection
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
    >>> inputs, targets = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> inputs.shape, targets.shape
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
            part_operator: Any = operator.subset(index)
            part_y = y.index_select(2, index)
            image = (
                reconstruct(part_operator, part_y)
                if reconstruct
                else part_operator.pseudo_inverse(part_y)
            )
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
        target_image = parts.gather(1, target.expand_as(parts[:, :1]))[:, 0]
        return (parts.sum(1) - target_image) / (self.splits - 1), target_image

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
    >>> inputs, targets = Measurements(y).draw(2, torch.Generator().manual_seed(0))
    >>> inputs.shape, torch.equal(inputs, targets)
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
        check_finite("Measurements", (y,) if second is None else (y, second))
        self.y, self.second = y, second

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(self.y), (count,), generator=generator, device=self.y.device)
        y = self.y[index]
        return y, y if self.second is None else self.second[index]

    def __repr__(self) -> str:
        total = float(self.y.abs().double().sum())
        more = "" if self.second is None else f", second sum {float(self.second.abs().sum()):.6g}"
        return f"Measurements({tuple(self.y.shape)}, sum {total:.9g}{more})"
