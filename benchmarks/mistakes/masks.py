"""Mistakes in masks of inpainting, and in the range of the measurements for a trained prior."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from zoo.images import _gaps, kernel, places
from zoo.items import log_uniform, tensor

import invtoolbox as it
from invtoolbox.operators import Blur, CartesianMRI, Inpainting, Operator
from mistakes.cases import Case, Record, noisy, scene


def gap_case(seed: int, kind: str) -> tuple[Tensor, Tensor]:
    """Return masked measurements and their mask."""
    draw, x = scene(f"gaps {kind}", seed)
    mask = tensor(_gaps(draw, kind, (96, 96), draw.uniform(0.3, 0.7))).bool()
    return noisy(draw, x, log_uniform(draw, 1e-3, 0.05)) * mask, mask


def mask_record(
    name: str, causes: tuple[str, ...], kind: str, change: Callable[[Tensor, Tensor], Any]
) -> Record:
    """Return the record of a mistake that `change` makes of measurements and their mask."""

    def make(seed: int) -> tuple[Case, Case]:
        y, mask = gap_case(seed, kind)
        wrong_y, wrong = change(y, mask)
        right = Inpainting(mask, (96, 96))
        return Case(wrong_y, lambda: Inpainting(wrong, (96, 96))), Case(y, right)

    return Record(f"{name}, {kind}", causes, make)


def at_gaps(y: Tensor, mask: Tensor, value: float) -> Tensor:
    return torch.where(mask, y, value)


def nan_among_known(seed: int) -> tuple[Case, Case]:
    y, mask = gap_case(seed, "pixels")
    places = mask & (torch.rand(96, 96, generator=torch.Generator().manual_seed(seed)) < 0.01)
    right = Inpainting(mask & ~places, (96, 96))
    broken = torch.where(places, torch.nan, y)
    return Case(broken, Inpainting(mask, (96, 96))), Case(broken, right)


MASKS = [
    record
    for kind in ("pixels", "lines", "blocks")
    for record in (
        mask_record("mask inverted", ("inverted",), kind, lambda y, m: (y, ~m)),
        mask_record(
            "mask of 0 and 255", ("mask",), kind, lambda y, m: (y, 255 * m.to(torch.uint8))
        ),
        mask_record("mask transposed", ("exchanged",), kind, lambda y, m: (y, m.mT)),
    )
] + [
    mask_record("mask of 0 and 65535", ("mask",), "pixels", lambda y, m: (y, 65535.0 * m)),
    mask_record("mask upside down", ("reversed",), "pixels", lambda y, m: (y, m.flip(-2))),
    mask_record("mask mirrored", ("reversed",), "blocks", lambda y, m: (y, m.flip(-1))),
    mask_record(
        "mask inverted, NaN at the gaps",
        ("inverted",),
        "blocks",
        lambda y, m: (at_gaps(y, m, torch.nan), ~m),
    ),
    mask_record(
        "mask of another shape",
        ("does not broadcast",),
        "pixels",
        lambda y, m: (y, m[:, :64]),
    ),
    Record("NaN at known pixels", ("NaN",), nan_among_known),
]


load = functools.cache(it.priors.load)


@functools.cache
def load_for(name: str, high: float) -> Any:
    """Return a trained prior for images from 0 to a value."""
    return it.priors.load(name, {"intensity_range": (0.0, high)})


def range_record(operator: str, name: str, factor: float, right: str = "unit") -> Record:
    """Return the record of measurements in another unit than that of a trained prior.

    The right twin has the unit of the prior; with ``right="range"`` the prior has the range, and
    with ``right="free"`` the prior is one that takes every range.
    """

    def make(seed: int) -> tuple[Case, Case]:
        draw, x = scene(f"range {operator} {name}", seed)
        A: Operator
        if operator == "blur":
            A = Blur(tensor(kernel(draw)(1.0)[1]), SHAPE)
        elif operator == "gaps":
            A = Inpainting(tensor(_gaps(draw, "pixels", SHAPE, 0.5)), SHAPE)
        elif operator == "coarse":
            A = it.operators.Downsampling((1, *SHAPE), 2)
        elif operator == "k-space":
            A = CartesianMRI(tensor(_gaps(draw, "lines", SHAPE, 0.3)), SHAPE)
            v, u = places(SHAPE)
            x = (x * tensor(np.clip(1.6 - 1.6 * np.hypot(u, v), 0, 1))).to(torch.complex64)
        else:
            A = it.operators.Identity((1, *SHAPE))
        y = A.simulate(x, noise=log_uniform(draw, 3e-3, 0.03), seed=seed)
        wrong = Case(factor * y, A, load(name))
        if right == "range":
            return wrong, Case(factor * y, A, load_for(name, factor))
        if right == "free":
            return wrong, Case(factor * y, A, load("denoiser-natural"))
        return wrong, Case(y, A, load(name))

    unit = f"times {factor:.3g}"
    return Record(f"{operator} {unit} with {name}, twin in its {right}", ("range", "trained"), make)


SHAPE = (96, 96)
RANGES = [
    range_record("blur", "dncnn-natural", 255),
    range_record("blur", "dncnn-natural", 255, "range"),
    range_record("blur", "lpn-natural", 255),
    range_record("gaps", "lpn-natural", 255, "free"),
    range_record("gaps", "dncnn-natural", 65535),
    range_record("noise", "lpn-natural-0.1", 65535),
    range_record("noise", "dncnn-natural", 4095, "free"),
    range_record("coarse", "lpn-natural", 255, "range"),
    range_record("coarse", "diffusion-natural", 255),
    range_record("blur", "diffusion-natural", 65535, "range"),
    range_record("k-space", "dncnn-natural", 1e-4),
    range_record("k-space", "diffusion-natural", 1e4),
    range_record("blur", "cae-natural", 255),
    range_record("gaps", "cae-natural", 65535, "range"),
    range_record("noise", "lpn-natural", 1 / 255),
    range_record("blur", "dncnn-natural", 1 / 255),
]
