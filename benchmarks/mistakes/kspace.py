"""Mistakes in k-space: centre, signs, phases, zeros, masks and coils."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from zoo.images import _coils, places
from zoo.items import log_uniform, tensor

from invtoolbox.operators import CartesianMRI
from mistakes.cases import Case, Record, scene

SIDES = (96, 80)


@dataclass(frozen=True)
class Kspace:
    """A right measurement of k-space: image, mask, coils and samples."""

    x: Tensor
    mask: Tensor
    maps: Tensor | None
    y: Tensor

    def case(self, y: Tensor, mask: Tensor | None = None, maps: Tensor | None = None) -> Case:
        mask, maps = self.mask if mask is None else mask, self.maps if maps is None else maps
        return Case(y, lambda: CartesianMRI(mask, SIDES, maps))


def kspace(seed: int, coils: bool, sampling: str) -> Kspace:
    draw, modulus = scene(f"mri {coils} {sampling}", seed, SIDES)
    v, u = places(SIDES)
    window = np.clip(1.6 - 1.6 * np.hypot(u, v), 0, 1)
    a, b, c = draw.uniform(-1.5, 1.5, 3)
    x = modulus * tensor(window * np.exp(1j * (a + b * u + c * u * v)))
    share, middle = draw.uniform(0.25, 0.5), draw.uniform(0.08, 0.15)
    if sampling == "lines":
        k = abs(np.arange(SIDES[0]) - SIDES[0] // 2) / SIDES[0]
        taken = (draw.uniform(size=k.shape) < share) | (k <= middle / 2)
        mask = np.broadcast_to(taken[:, None], SIDES)
    elif sampling == "points":
        mask = (draw.uniform(size=SIDES) < share) | (np.hypot(v, u) <= 2 * middle)
    else:
        mask = np.ones(SIDES)
    maps = tensor(_coils(draw)(v, u)) if coils else None
    A = CartesianMRI(tensor(mask.astype(float)), SIDES, maps)
    clean, level = A(x), log_uniform(draw, 1e-3, 0.05)
    parts = level * draw.standard_normal((2, *clean.shape))
    return Kspace(x, A.mask, maps, (clean + tensor(parts[0] + 1j * parts[1])) * A.sampled)


def mri_record(
    name: str, causes: tuple[str, ...], coils: bool, sampling: str, change: Callable[[Kspace], Case]
) -> Record:
    def make(seed: int) -> tuple[Case, Case]:
        k = kspace(seed, coils, sampling)
        return change(k), k.case(k.y)

    return Record(f"{name}, {sampling}, {4 if coils else 1} coils", causes, make)


def alternating(*axes: int) -> Tensor:
    row, column = torch.meshgrid(*(torch.arange(n) for n in SIDES), indexing="ij")
    return (-1.0) ** sum((row, column)[axis + 2] for axis in axes)


def shifted(y: Tensor, *axes: int) -> Tensor:
    return torch.fft.ifftshift(y, dim=axes)


def no_shifts(k: Kspace) -> Case:
    """Return the k-space of a plain fft2 of the coil images."""
    images = k.x if k.maps is None else k.maps * k.x
    return k.case(torch.fft.fft2(images, norm="ortho"))


def few_missing_lines(k: Kspace) -> Case:
    y = k.y.clone()
    y[..., 11, :] = y[..., 70, :] = 0
    return k.case(y)


def zero_filled(k: Kspace) -> Case:
    return k.case(k.y, torch.ones(1, 1))


MRI = [
    record
    for coils in (False, True)
    for record in (
        mri_record(
            "frequency zero in the corner", ("centre",), coils, "all",
            lambda k: k.case(shifted(k.y, -2, -1)),
        ),
        mri_record(
            "frequency zero at the first row", ("centre",), coils, "all",
            lambda k: k.case(shifted(k.y, -2)),
        ),
        mri_record(
            "frequency zero in the corner, with its mask", ("centre",), coils, "points",
            lambda k: k.case(shifted(k.y, -2, -1), shifted(k.mask, -2, -1)),
        ),
        mri_record(
            "frequency zero in the corner, mask in the middle", ("middle",), coils, "lines",
            lambda k: k.case(k.y, shifted(k.mask, -2)),
        ),
        mri_record("plain fft2", ("centre",), coils, "all", no_shifts),
        mri_record(
            "alternating signs", ("signs",), coils, "all",
            lambda k: k.case(k.y * alternating(-2, -1)),
        ),
        mri_record(
            "alternating signs along the rows", ("signs",), coils, "lines",
            lambda k: k.case(k.y * alternating(-1)),
        ),
        mri_record(
            "magnitudes", ("magnitudes",), coils, "all", lambda k: k.case(k.y.abs())
        ),
        mri_record(
            "magnitudes, complex numbers", ("magnitudes",), coils, "points",
            lambda k: k.case(k.y.abs().to(torch.complex64)),
        ),
        mri_record("zero-filled, full mask", ("zeros",), coils, "lines", zero_filled),
        mri_record("zero-filled, full mask", ("zeros",), coils, "points", zero_filled),
        mri_record("two lines missing", ("zeros",), coils, "all", few_missing_lines),
        mri_record(
            "mask inverted", ("inverted",), coils, "lines", lambda k: k.case(k.y, 1 - k.mask)
        ),
        mri_record(
            "mask inverted", ("inverted",), coils, "points", lambda k: k.case(k.y, 1 - k.mask)
        ),
        mri_record(
            "mask of 0 and 255", ("mask",), coils, "points", lambda k: k.case(k.y, 255 * k.mask)
        ),
        mri_record(
            "the image in place of k-space", ("image",), coils, "all",
            lambda k: k.case(k.x if k.maps is None else k.maps * k.x),
        ),
    )
] + [
    mri_record("conjugated", ("coils",), True, "all", lambda k: k.case(k.y.conj())),
    mri_record("conjugated", ("coils",), True, "lines", lambda k: k.case(k.y.conj())),
    mri_record(
        "conjugated maps", ("coils",), True, "points",
        lambda k: k.case(k.y, maps=k.maps.conj()),
    ),
    mri_record(
        "coils in reversed order", ("coils",), True, "all", lambda k: k.case(k.y.flip(1))
    ),
]  # fmt: skip
