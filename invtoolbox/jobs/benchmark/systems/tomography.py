"""Chest slices from few parallel views, in Hounsfield units or 1/mm, with noise of 1 %."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from invtoolbox import operators
from invtoolbox.core.checks import decoding, require_keys
from invtoolbox.datasets.shelf import find_file
from invtoolbox.errors import InputError
from invtoolbox.jobs.benchmark.case import Case, Row, System, image_case

#: Attenuation of water in 1/mm at about 70 keV.
WATER = 0.0193
_FILE = "ct_hu_256.npz"


class SliceRow(Row):
    """Slices of patients, seen by a parallel beam over 180 degrees."""

    path: str | None = Field(
        None,
        description="a .npz with hu (slices, rows, columns), patient and pixel_mm, in place of "
        "the data set ct-slices",
    )
    patients: list[str] = Field(min_length=1, description="names of the patients")
    slices: int = Field(2, ge=1, description="number of slices per patient, the first ones")
    pixels: int = Field(128, ge=16, description="number of rows and columns")
    views: int = Field(ge=2, description="number of views")
    noise: float = Field(0.01, gt=0, description="noise, relative to the largest measurement")
    unit: Literal["HU", "1/mm"] = Field("HU", description="unit of the image")


def _place(row: SliceRow) -> Path:
    return Path(row.path) if row.path is not None else find_file("ct-slices", _FILE)


def _read(row: SliceRow) -> tuple[np.ndarray, list[str], np.ndarray, list[int]]:
    """Return all slices, their patients and pixel sizes, and the numbers of the row's slices."""
    path = _place(row)
    with decoding(path, "NumPy"), np.load(path) as file:
        require_keys(f"{path}: slices need", ("hu", "patient", "pixel_mm"), file.files, "add them")
        hu, patients, sizes = file["hu"], [str(name) for name in file["patient"]], file["pixel_mm"]
    chosen = []
    for name in row.patients:
        numbers = [k for k, patient in enumerate(patients) if patient == name][: row.slices]
        if len(numbers) < row.slices:
            raise InputError(
                f"{path}: the patient {name} has {len(numbers)} slices, and {row.slices} are asked "
                "for"
            )
        chosen += numbers
    if hu.shape[-1] % row.pixels or hu.shape[-1] != hu.shape[-2]:
        raise InputError(
            f"{path}: slices of {hu.shape[-2]} x {hu.shape[-1]} pixels cannot be reduced to "
            f"{row.pixels} x {row.pixels} by whole numbers; change pixels"
        )
    return hu, patients, sizes, chosen


def open_case(row: SliceRow, number: int) -> Case:
    """Return a slice, reduced by means of blocks, and its noisy sinogram."""
    hu, patients, sizes, chosen = _read(row)
    place = chosen[number]
    factor = hu.shape[-1] // row.pixels
    truth = F.avg_pool2d(torch.from_numpy(hu[place].astype(np.float32))[None, None], factor)
    if row.unit == "1/mm":
        truth = (truth / 1000 + 1).clamp_min(0) * WATER
    pixel = float(sizes[place]) * factor
    A = operators.ParallelBeam(
        (row.pixels, row.pixels),
        torch.linspace(0, math.pi, row.views + 1)[:-1],
        int(1.5 * row.pixels),
        pixel_size=pixel,
        detector_spacing=pixel,
    )
    y = A(truth)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y = y + row.noise * y.abs().max() * noise
    return image_case(
        f"{patients[place]} slice {place}",
        truth,
        y,
        A,
        None,
        simple=lambda: A.pseudo_inverse(y),
        peak=(truth.max() - truth.min())[None],
    )


def files(row: SliceRow) -> Sequence[Path]:
    """Return the file of the slices."""
    return [_place(row)]


SYSTEM = System(
    row=SliceRow,
    signature="(y, physics) -> x",
    simple="FBP",
    metric="PSNR [dB]",
    better="higher",
    count=lambda row: len(_read(row)[3]),
    files=files,
    open=open_case,
    takes_automatic=True,
)
