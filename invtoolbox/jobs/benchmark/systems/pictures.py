"""Denoising and deblurring of grey or color pictures with a known noise level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from invtoolbox import operators
from invtoolbox.datasets.opening import open as open_path
from invtoolbox.datasets.shelf import find_file, missing_files, open_named
from invtoolbox.errors import InputError
from invtoolbox.jobs.benchmark.case import Case, Row, System, image_case


class PictureRow(Row):
    """Pictures of a data set or of a folder, with white noise, behind blur kernels or none."""

    dataset: str | None = Field(None, description="data set of pictures, if no path is given")
    path: str | None = Field(None, description="folder of pictures, or a picture")
    noise: float = Field(gt=0, description="standard deviation of the noise, in units of 1/255")
    kernels: list[int] = Field(
        default_factory=list, description="numbers of Levin's kernels, counted from 1"
    )


def _place(row: PictureRow) -> Path:
    """Return the path of the pictures; an `InputError` names what is missing."""
    if row.path is not None:
        return Path(row.path)
    if row.dataset is None:
        raise InputError(f"the row {row.name!r} names no pictures; give dataset or path")
    for file in missing_files(row.dataset)[:1]:
        find_file(row.dataset, file)  # raises: a part of the pictures would be another row
    return find_file(row.dataset)


def count(row: PictureRow) -> int:
    """Return the number of pictures times kernels."""
    if row.kernels:
        find_file("levin-kernels")
    return len(open_path(_place(row), reader="pictures")) * max(len(row.kernels), 1)


def files(row: PictureRow) -> Sequence[Path]:
    """Return the folder of the pictures, and the file of the kernels."""
    return [_place(row), *([find_file("levin-kernels")] if row.kernels else [])]


def open_case(row: PictureRow, number: int) -> Case:
    """Return a picture behind a kernel, or the picture itself, with noise of a seed of its own."""
    index, place = divmod(number, max(len(row.kernels), 1))
    truth = open_path(_place(row), reader="pictures")[index].y
    A: Any = operators.Identity(tuple(truth.shape[1:]))
    label = f"picture {index + 1}"
    if row.kernels:
        kernel = open_named("levin-kernels")[row.kernels[place] - 1].y[0, 0]
        # Periodic, as in the literature of plug-and-play methods.
        A = operators.Blur(kernel, tuple(truth.shape[-2:]), boundary="periodic")
        label += f", kernel {row.kernels[place]}"
    noise_std = row.noise / 255
    # The seed of a picture is its number, counted from 1.
    y = A.simulate(truth, noise_std, seed=number + 1)
    return image_case(label, truth, y, A, noise_std, simple=lambda: y, peak=torch.ones(1))


SYSTEM = System(
    row=PictureRow,
    signature="(y, physics) -> x",
    simple="measurements",
    metric="PSNR [dB]",
    better="higher",
    count=count,
    files=files,
    open=open_case,
    takes_automatic=True,
)
