"""Slices of heads and hearts from simulated k-space, with a full middle and random lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from invtoolbox.catalogue.documents import Table
from invtoolbox.datasets.opening import open as open_path
from invtoolbox.datasets.shelf import find_file
from invtoolbox.errors import InputError
from invtoolbox.jobs.benchmark.case import Case, Row, System, image_case
from invtoolbox.operators import CartesianMRI
from invtoolbox.operators.mri.fourier import centred_fft, centred_ifft

#: Share of the lines in the full middle, by the acceleration; the fractions of fastMRI.
MIDDLE = {4: 0.08, 8: 0.04}


class SliceTable(Table):
    """Slice of a volume, and its simulated scan."""

    dataset: str | None = Field(None, description="data set of the volume, if the file is no path")
    file: str = Field(description="file of the volume in the data set, or its path")
    axis: int = Field(0, ge=0, le=2, description="axis of (slice, row, column) that is cut")
    index: int = Field(ge=0, description="number of the slice along the axis")
    coils: int = Field(1, ge=1, description="number of simulated coils on a ring")
    noise: float = Field(gt=0, description="noise, relative to the largest value of the image")

    def place(self) -> Path:
        """Return the path of the volume."""
        return Path(self.file) if self.dataset is None else find_file(self.dataset, self.file)


class ScanRow(Row):
    """Scans with one acceleration."""

    acceleration: int = Field(ge=2, le=32, description="ratio of all lines to those taken")
    pixels: int = Field(96, ge=16, description="number of rows and columns")
    images: list[SliceTable] = Field(min_length=1, description="the images")

    def located(self, locate: Callable[[str], str]) -> Self:
        """Return the row with absolute paths of the volumes that belong to no data set."""
        images = [
            image.model_copy(update={"file": locate(image.file)} if image.dataset is None else {})
            for image in self.images
        ]
        return self.model_copy(update={"images": images})


def open_case(row: ScanRow, number: int) -> Case:
    """Return a slice with a smooth phase, and its k-space, 0 at samples that were not taken."""
    image = row.images[number]
    seed = number + 1
    truth = with_phase(_modulus(image), row.pixels, seed)
    shape = (row.pixels, row.pixels)
    maps = None if image.coils == 1 else ring_of_coils(shape, image.coils)
    A = CartesianMRI(random_lines(shape, row.acceleration, seed + row.acceleration), shape, maps)
    x = truth[None, None].to(torch.complex64)
    generator = torch.Generator().manual_seed(seed)
    noise = image.noise * torch.randn((2, *A.range_shape), generator=generator)
    y = A(x) + torch.complex(noise[0], noise[1])[None] * A.sampled
    # The largest modulus of the truth is 1.
    return image_case(
        f"{Path(image.file).name.split('.')[0]}, slice {image.index} of axis {image.axis}",
        x,
        y,
        A,
        None,
        simple=lambda: A.pseudo_inverse(y),
        peak=torch.ones(1),
    )


def _modulus(image: SliceTable) -> np.ndarray:
    volume = open_path(image.place())
    slices = np.asarray(volume.slices(), dtype=np.float32)  # type: ignore[attr-defined]
    if image.index >= slices.shape[image.axis]:
        raise InputError(
            f"{image.place()}: slice {image.index} is asked for, and axis {image.axis} has "
            f"{slices.shape[image.axis]}"
        )
    return np.take(slices, image.index, image.axis)


def with_phase(modulus: np.ndarray, pixels: int, seed: int) -> Tensor:
    """Return an image with a smooth random phase, its lowest frequencies alone, and the peak 1.

    Args:
        modulus: modulus, ``(rows, columns)``.
        pixels: number of rows and columns of the result.
        seed: seed of the phase.
    """
    side = max(*modulus.shape, pixels)
    square = np.zeros((side, side), dtype=np.float32)
    top, left = ((side - n) // 2 for n in modulus.shape)
    square[top : top + modulus.shape[0], left : left + modulus.shape[1]] = modulus
    a, b, c = np.random.default_rng(seed).uniform(-1.5, 1.5, 3)
    v = torch.linspace(-1, 1, side)
    phase = a * v[:, None] + b * v + c * v[:, None] * v
    k_space = centred_fft(torch.polar(torch.from_numpy(square), phase), 2)
    first = side // 2 - pixels // 2
    lowest = k_space[first : first + pixels, first : first + pixels]
    image = centred_ifft(lowest, 2)
    return image / image.abs().max()


def random_lines(shape: tuple[int, int], acceleration: int, seed: int) -> Tensor:
    """Return a mask of random rows with a full middle.

    Args:
        shape: numbers of rows and columns.
        acceleration: ratio of all rows to those taken.
        seed: seed of the random rows.

    >>> int(random_lines((96, 96), 4, 1)[:, 0].sum())
    24
    """
    rows = shape[0]
    middle = round(MIDDLE.get(acceleration, 0.32 / acceleration) * rows)
    first = rows // 2 - middle // 2
    taken = torch.zeros(rows, dtype=torch.bool)
    taken[first : first + middle] = True
    rest = (~taken).nonzero().squeeze(1)
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
    taken[rest[order[: max(rows // acceleration - middle, 0)]]] = True
    return taken[:, None].expand(shape)


def ring_of_coils(shape: tuple[int, int], coils: int) -> Tensor:
    """Return smooth sensitivities of coils on a ring, whose root of squares is 1.

    Args:
        shape: numbers of rows and columns.
        coils: number of coils.
    """
    v, u = (torch.linspace(-1, 1, n) for n in shape)
    maps = []
    for k in range(coils):
        angle = 2 * math.pi * k / coils
        y, x = v[:, None] - 1.2 * math.sin(angle), u - 1.2 * math.cos(angle)
        phase = 1.5 * (y * math.cos(angle) - x * math.sin(angle)) + angle
        maps.append(torch.polar((-(y**2 + x**2) / 1.3).exp(), phase))
    stacked = torch.stack(maps)
    return stacked / stacked.abs().square().sum(0).sqrt()


def files(row: ScanRow) -> Sequence[Path]:
    """Return the volumes."""
    return list(dict.fromkeys(image.place() for image in row.images))


SYSTEM = System(
    row=ScanRow,
    signature="(y, physics) -> x, complex",
    simple="zero filling",
    metric="PSNR [dB]",
    better="higher",
    count=lambda row: len([image.place() for image in row.images]),
    files=files,
    open=open_case,
    takes_automatic=True,
    pictured="magnitude",
)
