"""Mistakes in kernels and in blurred pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import data_folder, kernels
from torch import Tensor
from zoo.images import kernel
from zoo.items import draws, log_uniform, tensor
from zoo.pictures import KINDS, picture

from invtoolbox.operators import Blur
from mistakes.cases import Case, Record

SIDE = 96


@dataclass(frozen=True)
class Blurred:
    """A right blur: kernel, picture in [0, 1] with a margin, and its noise level."""

    kernel: Tensor
    entire: Tensor
    noise: Tensor
    draw: Any

    def case(self, y: Tensor, taps: Tensor | None = None, **settings: Any) -> Case:
        taps = self.kernel if taps is None else taps
        return Case(y, lambda: Blur(taps, (y.shape[-2], y.shape[-1])), **settings)

    def clean(self, taps: Tensor | None = None) -> Tensor:
        """Return the picture blurred with a kernel, by default the right one."""
        taps, margin = self.kernel if taps is None else taps, max(self.kernel.shape)
        size = (self.entire.shape[-2], self.entire.shape[-1])
        y = Blur(taps, size, boundary="periodic")(self.entire)
        return y[..., margin:-margin, margin:-margin]

    @property
    def y(self) -> Tensor:
        return self.clean() + self.noise


@functools.cache
def levin(number: int) -> Tensor:
    taps = kernels(data_folder(), [number])[0]
    return taps / taps.sum()


def blurred(seed: int, family: str, kinds: tuple[str, ...] = KINDS, inner: int = SIDE) -> Blurred:
    """Return a picture and a kernel of a family: drawn ones, those of them without symmetry, or Levin's."""
    draw = draws(f"blur {family}", seed)
    if family == "shaking hand":
        taps = levin(1 + seed % 8)
    else:
        taps = tensor(kernel(draw)(1.0)[1])
        while family == "skew" and not is_skew(taps):
            taps = tensor(kernel(draw)(1.0)[1])
    side = inner + 2 * max(taps.shape)
    half = 0 if seed < 100 else 1
    entire = tensor(picture(draw, kinds[seed % len(kinds)], (side, side), half))[None]
    level = log_uniform(draw, 1e-3, 0.03)
    noise = level * tensor(draw.standard_normal((1, 1, inner, inner)))
    return Blurred(taps, entire, noise, draw)


def is_skew(taps: Tensor) -> bool:
    """Return whether a kernel differs from its turned and mirrored ones."""
    turned = (taps.flip(0, 1), taps.flip(1), taps.flip(0), taps.mT, taps.mT.flip(0, 1))
    return min(float((taps - t).norm() / taps.norm()) for t in turned) > 0.4


def blur_record(
    name: str,
    causes: tuple[str, ...],
    family: str,
    change: Callable[[Blurred], Case],
    right: Callable[[Blurred], Case] = lambda b: b.case(b.y),
    kinds: tuple[str, ...] = KINDS,
    inner: int = SIDE,
) -> Record:
    def make(seed: int) -> tuple[Case, Case]:
        b = blurred(seed, family, kinds, inner)
        return change(b), right(b)

    return Record(f"{name}, {family}", causes, make)


def scattered(b: Blurred, value: float) -> Case:
    """Return a picture in which 1 % of the pixels have one value."""
    share = tensor(np.random.default_rng(int(1e6 * b.noise.std())).uniform(size=(SIDE, SIDE)))
    return b.case(torch.where(share < 0.01, value, b.y))


def hot(b: Blurred) -> Case:
    """Return a picture in which 1 % of the pixels are brighter by random amounts."""
    random = np.random.default_rng(int(1e6 * b.noise.std()))
    share, size = random.uniform(size=(2, SIDE, SIDE))
    return b.case(torch.where(tensor(share) < 0.01, b.y + 0.3 + tensor(size), b.y))


def dead_line(b: Blurred, axis: int) -> Case:
    y = b.y.clone()
    y.select(axis, 40).fill_(0)
    return b.case(y)


def clipped(b: Blurred, low: float, high: float) -> Case:
    """Return a picture that is cut off at quantiles of its values."""
    y = b.y
    return b.case(y.clamp(y.quantile(low), y.quantile(high)))


def at_side(taps: Tensor) -> Tensor:
    """Return the kernel in the corner of an array of about twice its size."""
    reach = tuple(2 * (n // 2) for n in taps.shape)
    return torch.nn.functional.pad(taps, (0, reach[1], 0, reach[0]))


def in_the_middle(taps: Tensor) -> Tensor:
    reach = tuple(n // 2 for n in taps.shape)
    return torch.nn.functional.pad(taps, (reach[1], reach[1], reach[0], reach[0]))


BLURS = [
    record
    for family in ("drawn", "shaking hand")
    for record in (
        blur_record("kernel sums to 10", ("sum",), family, lambda b: b.case(b.y, 10 * b.kernel)),
        blur_record(
            "kernel is a picture of 0 to 255", ("sum",), family,
            lambda b: b.case(b.y, (255 * b.kernel / b.kernel.max()).round()),
        ),
        blur_record("kernel sums to -1", ("sum",), family, lambda b: b.case(b.y, -b.kernel)),
        blur_record(
            "kernel sums to 10, twin with its factor", ("sum",), family,
            lambda b: b.case(b.y, 10 * b.kernel), lambda b: b.case(10 * b.y, 10 * b.kernel),
        ),
        blur_record(
            "kernel at one side", ("shifted",), family,
            lambda b: b.case(b.y, at_side(b.kernel)), lambda b: b.case(b.y, in_the_middle(b.kernel)),
        ),
        blur_record("clipped highlights", ("clipped",), family, lambda b: clipped(b, 0, 0.98)),
        blur_record("clipped shadows", ("clipped",), family, lambda b: clipped(b, 0.05, 1)),
        blur_record(
            "clipped highlights, 8 bits", ("clipped",), family,
            lambda b: b.case((255 * b.y).round().clamp(max=(255 * b.y).quantile(0.98).round())),
            lambda b: b.case((255 * b.y).round()),
        ),
        blur_record("hot pixels", ("pixels",), family, hot),
        blur_record("hot pixels of one value", ("pixels",), family, lambda b: scattered(b, 1.5)),
        blur_record("dead pixels", ("pixels",), family, lambda b: scattered(b, -0.2)),
        blur_record("dead column", ("pixels",), family, lambda b: dead_line(b, -1)),
        blur_record("dead row", ("pixels",), family, lambda b: dead_line(b, -2)),
    )
] + [
    blur_record(f"{name}, {kinds[0]} picture", ("orientation",), family, change, kinds=kinds, inner=2 * SIDE)
    for family in ("skew", "shaking hand")
    for kinds in (("constant",), ("natural",))
    for name, change in (
        ("kernel transposed", lambda b: b.case(b.y, b.kernel.mT)),
        ("kernel turned by half a turn", lambda b: b.case(b.y, b.kernel.flip(0, 1))),
        ("kernel mirrored", lambda b: b.case(b.y, b.kernel.flip(1))),
        ("kernel upside down", lambda b: b.case(b.y, b.kernel.flip(0))),
        ("kernel turned by a quarter", lambda b: b.case(b.y, b.kernel.rot90(1))),
        (
            "kernel in the corners",
            lambda b: b.case(b.y, torch.fft.ifftshift(torch.nn.functional.pad(b.kernel, (4,) * 4))),
        ),
    )
]  # fmt: skip
