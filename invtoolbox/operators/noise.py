"""Simulation of measurement noise.

Draws depend on the seed alone: an item gets the same noise alone and in a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import Operator, expand, item_norm


class Noise(ABC):
    """Noise model of a detector.

    A subclass implements ``apply(clean, generator)`` for one item, shape ``(1, ...)``. It draws on
    the CPU and in float64, so that a draw is the same on every device and in every precision.
    """

    @abstractmethod
    def apply(self, clean: Tensor, generator: Generator) -> Tensor:
        """Return noisy measurements of one item."""

    def item(self, k: int, batch: int) -> Noise:
        """Return the noise of item ``k``, if a level differs from item to item."""
        return self


@dataclass(frozen=True)
class Gaussian(Noise):
    """Gaussian noise ``y = A x + std * n`` with n standard normal.

    In complex measurements, real and imaginary part have the standard deviation ``std`` each.

    Attributes:
        std: standard deviation in the units of the measurements, a number or one number per item,
            shape ``(batch,)``.

    >>> y = Gaussian(0.1).apply(torch.zeros(1, 1, 10000), torch.Generator().manual_seed(0))
    >>> round(float(y.std()), 2)
    0.1
    """

    std: float | Tensor

    def __post_init__(self) -> None:
        _check_level(self.std, "the std of Gaussian noise")

    def apply(self, clean: Tensor, generator: Generator) -> Tensor:
        return clean + normal_like(clean, generator) * expand(self.std, clean)

    def item(self, k: int, batch: int) -> Noise:
        return Gaussian(_take_item(self.std, k, batch, "std"))


@dataclass(frozen=True)
class RelativeGaussian(Noise):
    """Gaussian noise scaled so that ``|y - A x| = level * |A x|`` exactly, for every item.

    Attributes:
        level: relative noise level, a number or one number per item, shape ``(batch,)``.

    >>> y = RelativeGaussian(0.02).apply(torch.ones(1, 1, 100), torch.Generator().manual_seed(0))
    >>> round(float((y - 1).norm() / 10), 6)
    0.02
    """

    level: float | Tensor

    def __post_init__(self) -> None:
        _check_level(self.level, "the level of RelativeGaussian noise")

    def apply(self, clean: Tensor, generator: Generator) -> Tensor:
        noise = normal_like(clean, generator)
        size = item_norm(clean) / item_norm(noise)
        return clean + noise * expand(self.level * size.to(torch.float64), clean)

    def item(self, k: int, batch: int) -> Noise:
        return RelativeGaussian(_take_item(self.level, k, batch, "level"))


@dataclass(frozen=True)
class Poisson(Noise):
    """Poisson noise ``y = Poisson(counts * A x) / counts``.

    Attributes:
        counts: mean number of photons of a measurement of value 1. The default of 1 is for
            operators that already predict numbers of photons; larger counts are less noise.

    >>> y = Poisson(100.0).apply(torch.full((1, 1, 10000), 0.5), torch.Generator().manual_seed(0))
    >>> round(float(y.mean()), 2), round(float(y.var() * 100), 1)
    (0.5, 0.5)
    """

    counts: float | Tensor = 1.0

    def __post_init__(self) -> None:
        _check_level(self.counts, "the counts of Poisson noise", positive=True)

    def apply(self, clean: Tensor, generator: Generator) -> Tensor:
        if clean.is_complex() or bool((clean < 0).any()):
            got = "complex ones" if clean.is_complex() else f"a minimum of {float(clean.min()):.3g}"
            raise InputError(
                "Poisson noise needs measurements that are real and not negative, because they are "
                f"mean counts; got {got}"
            )
        counts = torch.as_tensor(self.counts, dtype=torch.float64).reshape(-1)[0].cpu()
        noisy = torch.poisson(clean.detach().cpu().double() * counts, generator=generator) / counts
        return noisy.to(dtype=clean.dtype, device=clean.device)

    def item(self, k: int, batch: int) -> Noise:
        return Poisson(_take_item(self.counts, k, batch, "counts"))


def simulate(
    operator: Operator,
    x: Tensor,
    noise: float | Tensor | Noise = 0.0,
    seed: int | Sequence[int] = 0,
) -> Any:
    """Simulate noisy measurements ``A(x) + e``, shape ``(batch, *range_shape)``.

    The result is a tuple if the measurements of the operator are a tuple.

    Args:
        operator: the operator A.
        x: images, ``(batch, *domain_shape)``.
        noise: standard deviation (a number, or one number per item), or a `Noise`.
        seed: one seed, with which every item gets the same draw, or a sequence of seeds, one per
            item.

    >>> import invtoolbox as it
    >>> A = it.operators.Identity((1, 2))
    >>> y = simulate(A, torch.zeros(2, 1, 2), noise=0.1, seed=0)
    >>> torch.equal(y[0], y[1])
    True
    >>> torch.equal(y[:1], simulate(A, torch.zeros(1, 1, 2), noise=0.1, seed=0))
    True
    """
    with torch.no_grad():
        clean = operator(x)
    model = noise if isinstance(noise, Noise) else Gaussian(noise)
    tensors = tuple(clean) if isinstance(clean, (tuple, list)) else (clean,)
    batch = tensors[0].shape[0]
    seeds = [int(seed)] * batch if isinstance(seed, int) else [int(s) for s in seed]
    if len(seeds) != batch:
        raise InputError(
            f"there are {len(seeds)} seeds for a batch of {batch}; give one seed, or one per item"
        )
    rows = []
    for k in range(batch):
        # Noise is drawn item by item, because the rates of a Poisson draw determine how far it
        # advances the generator.
        generator, item_model = torch.Generator().manual_seed(seeds[k]), model.item(k, batch)
        rows.append([item_model.apply(tensor[k : k + 1], generator) for tensor in tensors])
    noisy = tuple(torch.cat([row[j] for row in rows]) for j in range(len(tensors)))
    return noisy if isinstance(clean, (tuple, list)) else noisy[0]


def normal_like(like: Tensor, generator: Generator) -> Tensor:
    """Draw standard normal numbers of the shape, dtype and device of ``like``."""
    shape = (*like.shape, 2) if like.is_complex() else tuple(like.shape)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (torch.view_as_complex(normal) if like.is_complex() else normal).to(like)


def _check_level(value: float | Tensor, what: str, positive: bool = False) -> None:
    level = torch.as_tensor(value)
    fits = level.ndim <= 1 and not level.is_complex() and bool(level.isfinite().all())
    if not fits or bool((level < 0).any()) or (positive and bool((level == 0).any())):
        sign = "positive" if positive else "nonnegative"
        raise InputError(f"{what} must be a {sign} number, or one per item, got {value}")


def _take_item(value: float | Tensor, k: int, batch: int, name: str) -> float | Tensor:
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == 1:
        return value
    if len(value) != batch:
        raise InputError(f"the noise has {len(value)} values of {name} for a batch of {batch}")
    return value[k : k + 1]
