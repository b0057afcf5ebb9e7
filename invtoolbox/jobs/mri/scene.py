"""Scene files of MRI: k-space of a scanner, and ``invtoolbox mri raw.h5``.

The tables::

    title
    [kspace]   path: an ISMRMRD or fastMRI file; group, encoding, volume, slices: what is
               reconstructed; coils: number of virtual coils, or share: their energy; whiten
    [method]   prior, regularization, max_iterations, time_limit, device
    [output]   folder, formats
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene, FilePath, Table
from invtoolbox.core.environment import device_named
from invtoolbox.core.interrupts import limit
from invtoolbox.datasets import (
    KSpaceData,
    Measurement,
    VolumeInMemory,
    open_kspace,
    write_dicom_series,
)
from invtoolbox.datasets.output import make_folder, write_npy, writing
from invtoolbox.datasets.volumes.nifti import check_available, start_of_file, write_packed
from invtoolbox.errors import InputError
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.images.reconstruct import reconstruct
from invtoolbox.jobs.kind import Compared, Inputs, Kind, SceneTables, write_figure
from invtoolbox.jobs.mri.reconstruct import (
    Images,
    check_volumes,
    compress_to,
    reconstruct_volumes,
)
from invtoolbox.jobs.study.driver import parse_items
from invtoolbox.metrics import psnr
from invtoolbox.plotting.canvas import new_figure
from invtoolbox.plotting.comparison import HEADS, describe_gain
from invtoolbox.solution import Solution

#: Fields of DICOM by the facts about a volume.
_FIELDS = {
    "vendor": "Manufacturer",
    "model": "ManufacturerModelName",
    "protocol": "ProtocolName",
    "patient_position": "PatientPosition",
    "field_strength_T": "MagneticFieldStrength",
    "TR_ms": "RepetitionTime",
    "TE_ms": "EchoTime",
    "TI_ms": "InversionTime",
    "flip_angle_degrees": "FlipAngle",
}
#: Number of coil maps in the picture.
_MOST_MAPS = 8


class KSpaceTable(Table):
    """File of a scanner, and what is reconstructed of it."""

    path: FilePath = Field(description="an ISMRMRD or fastMRI file (.h5), or the folder of one")
    group: str | None = Field(None, description="name of the measurement in an ISMRMRD file")
    encoding: int | None = Field(
        None, ge=0, description="number of the encoding of an ISMRMRD file; 0 by default"
    )
    volume: int | None = Field(
        None,
        ge=0,
        description="number of the volume among contrasts, repetitions, phases and sets, counted from "
        "0; all by default",
    )
    slices: str | None = Field(
        None,
        title="SLICES",
        description="START:STOP:STEP, or numbers separated by commas, counted from 0; all by default",
    )
    coils: int | None = Field(
        None,
        ge=1,
        description="number of virtual coils, which hold most of the energy; by default all coils, or "
        "12 of more than 12",
    )
    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the energy that the virtual coils hold, in place of their number",
    )
    whiten: bool = Field(True, description="make the noise of coils white by the file's noise scan")

    @model_validator(mode="after")
    def _number_or_share(self) -> KSpaceTable:
        if self.coils is not None and self.share is not None:
            raise ValueError("give either the number of virtual coils, or the share of the energy")
        return self


class MethodTable(Table):
    """Prior and its weight, per slice."""

    prior: str = Field(
        "tv",
        title="NAMES",
        description="names of priors with commas between them, or none for least squares; see "
        "`invtoolbox list priors`",
    )
    regularization: float | str = Field(
        "auto",
        title="WEIGHT",
        description="weight of the priors, or name of a rule for it; chosen per slice",
    )
    max_iterations: int | None = Field(
        None, ge=0, description="maximum number of iterations of a slice"
    )
    time_limit: float | None = Field(
        None,
        gt=0,
        description="maximum number of seconds of a slice; the current iterate is the result",
    )
    device: str | None = Field(None, title="DEVICE", description="cpu (default), cuda or cuda:1")


class MRIScene(SceneTables):
    """Scene file of MRI."""

    kspace: KSpaceTable
    method: MethodTable = Field(default_factory=MethodTable)


@dataclass(frozen=True, eq=False)
class RawData:
    """Open file and the items that are reconstructed; its digest is the content of the file."""

    data: KSpaceData
    volumes: tuple[tuple[int, ...], ...]

    def __getstate__(self) -> Any:
        with self.data.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(file: CheckedScene[MRIScene]) -> Inputs:
    table = file.scene.kspace
    data = open_kspace(file.locate(table.path), table.group, table.encoding, table.whiten)
    volumes = [tuple(items) for items in data.volumes]
    if table.volume is not None:
        if table.volume >= len(volumes):
            raise InputError(
                f"{data.path}: it has {len(volumes)} volumes, counted from 0, got --volume {table.volume}"
            )
        volumes = [volumes[table.volume]]
    if table.slices is not None:
        volumes = [
            tuple(items[k] for k in sorted(parse_items(table.slices, len(items), str(data.path))))
            for items in volumes
        ]
    check_volumes(data, volumes)
    return {"kspace": RawData(data, tuple(volumes))}


def _reconstruct(file: CheckedScene[MRIScene], inputs: Inputs, progress: bool) -> Images:
    raw, method, table = inputs["kspace"], file.scene.method, file.scene.kspace
    device = device_named(method.device)
    prior = None if method.prior.strip() == "none" else method.prior

    def solve(item: Any, operator: Any) -> Solution:
        with limit(method.time_limit):
            return reconstruct(
                item.y.to(device),
                operator.to(device=device),
                prior=prior,
                noise_std=item.noise_std,
                regularization=method.regularization,
                max_iterations=method.max_iterations,
                progress=progress,
            )

    def compress(item: Measurement) -> Measurement:
        return compress_to(item, table.coils, table.share)

    return reconstruct_volumes(raw.data, raw.volumes, compress, solve)


def _measure(images: Images, inputs: Inputs) -> dict[str, float]:
    """Return numbers of coils and solved items, sampled share, median weight, and PSNR if known."""
    middle = images.middle
    metrics = {
        "coils": float(1 if middle.coil_maps is None else len(middle.coil_maps)),
        "items": float(len(images.weights)),
        "sampled": middle.sampled,
        "weight": float(np.median(images.weights)),
    }
    if images.reference is not None:
        truth = images.reference.flatten(0, 1)[:, None]
        scores = psnr(images.x.abs().flatten(0, 1)[:, None], truth, data_range=float(truth.max()))
        metrics["psnr"] = float(scores.mean())
    return metrics


def _describe(images: Images) -> list[str]:
    size = " x ".join(f"{length:.3g}" for length in images.grid.voxel_size)
    count, *shape = images.x.shape
    shown = " x ".join(map(str, shape))
    return [f"{count} x {shown} voxels (volumes, slices, rows, columns) of {size} mm"]


def _write_npy(path: Path, images: Images, inputs: Inputs) -> None:
    """Write complex images ``(volume, slice, row, column)``, without an axis of one volume."""
    values = images.x[0] if len(images.x) == 1 else images.x
    write_npy(path, values.numpy(), overwrite=True)


def _write_nifti(path: Path, images: Images, inputs: Inputs) -> None:
    """Write the moduli; the volumes are the fourth axis."""
    moduli = images.x.abs().numpy().astype("<f4")
    volumes, slices, rows, columns = moduli.shape
    sizes = (columns, rows, slices) if volumes == 1 else (columns, rows, slices, volumes)
    start = start_of_file(sizes, moduli.dtype, images.grid)
    with writing(path, overwrite=True) as stream:
        blocks = (page.tobytes() for volume in moduli for page in volume)
        write_packed(path, stream, itertools.chain([start], blocks))


def _write_dicom(path: Path, images: Images, inputs: Inputs) -> None:
    """Write the moduli as a folder of MR images; of several volumes, a folder with one per volume."""
    for number, (volume, facts) in enumerate(zip(images.x.abs(), images.facts)):
        folder, fields = path, {key: facts[name] for name, key in _FIELDS.items() if name in facts}
        # A long string of DICOM has at most 64 characters.
        fields = {key: v[:64] if isinstance(v, str) else v for key, v in fields.items()}
        if len(images.x) > 1:
            folder = make_folder(path) / f"volume_{number:03}"
        placed = VolumeInMemory(volume, images.grid)
        write_dicom_series(folder, placed, overwrite=True, modality="MR", fields=fields)


def _write_picture(path: Path, images: Images, inputs: Inputs) -> None:
    """Write the middle slice, the zero-filled one, the reference and the coil maps as PNG."""
    middle = images.middle
    pictures: dict[str, Tensor] = {"reconstruction": middle.x, "zero-filled": middle.zero_filled}
    if middle.reference is not None:
        pictures["reference"] = middle.reference
    largest = float(middle.x.abs().flatten().quantile(0.995)) or 1.0
    panels = [(name, image.abs(), largest) for name, image in pictures.items()]
    maps = () if middle.coil_maps is None else middle.coil_maps[:_MOST_MAPS]
    panels += [(f"coil {k}", coil.abs(), 1.0) for k, coil in enumerate(maps)]
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = new_figure((3 * columns, 3.2 * rows), dpi=110, layout="constrained")
    for k, (name, image, white) in enumerate(panels, start=1):
        shown = image if image.ndim == 2 else image[image.shape[0] // 2]
        axes = figure.add_subplot(rows, columns, k)
        axes.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=white)
        axes.set_title(name)
        axes.axis("off")
    write_figure(path, figure)


def _compare(file: CheckedScene[MRIScene], images: Images, inputs: Inputs) -> Compared:
    """Return the middle slice, with zero filling and the reference for comparison."""
    middle = images.middle
    pictures = {"Zero filling": middle.zero_filled, "Reconstruction": middle.x}
    if middle.reference is not None:
        pictures["Reference"] = middle.reference
    moduli = {name: image.abs().reshape(1, *image.shape) for name, image in pictures.items()}
    if middle.reference is None:
        status = middle.solution.status[0]
        return Compared(moduli, "Reconstruction", words=HEADS.get(status, f"{status}."))
    zero, x, truth = (moduli[name][None] for name in pictures)
    before, after = (
        float(psnr(image, truth, data_range=float(truth.max()))) for image in (zero, x)
    )
    words, is_good = describe_gain(after, before, "zero filling")
    return Compared(moduli, "Reconstruction", "Reference", "", words, is_good)


class MRICommand(SceneCommand):
    """Command of MRI, which refuses NIfTI without its package before anything is computed."""

    def job(
        self, arguments: argparse.Namespace, kind: Any, content: dict[str, Any], name: str
    ) -> Any:
        for path in self._outputs(arguments, self.source(arguments)):
            if path.name.lower().endswith((".nii", ".nii.gz")):
                check_available()
        return super().job(arguments, kind, content, name)


_WRITERS: Mapping[str, Any] = {
    "nii.gz": ("image.nii.gz", _write_nifti),
    "nii": ("image.nii", _write_nifti),
    "dcm": ("image.dcm", _write_dicom),
    "npy": ("image.npy", _write_npy),
    "png": ("image.png", _write_picture),
}

COMMAND = MRICommand(
    description="Reconstruct the k-space of an MRI scanner, slice by slice: coil maps, weight, image and "
    "report. ISMRMRD and fastMRI files\nstate matrix, oversampling, noise and positions; .nii.gz and .dcm "
    "(a folder of DICOM images) are placed in the patient,\n.npy holds complex values.",
    positional={"RAW": "kspace.path"},
    options={
        "--group": "kspace.group",
        "--encoding": "kspace.encoding",
        "--volume": "kspace.volume",
        "--slices": "kspace.slices",
        "--coils": "kspace.coils",
        "--share": "kspace.share",
        "--prior": "method.prior",
        "--regularization": "method.regularization",
        "--max-iterations": "method.max_iterations",
        "--time-limit": "method.time_limit",
        "--device": "method.device",
    },
    examples=(
        "mri raw.h5",
        "mri raw.h5 --coils 8 --slices 10:20 --output image.nii.gz image.npy report.html",
        "mri file_brain.h5 --prior wavelet --output series.dcm",
    ),
    outputs=("{stem}_image.nii.gz", "{stem}_report.html"),
)

KIND = Kind(
    MRIScene,
    "k-space",
    _read,
    _reconstruct,
    _measure,
    _WRITERS,
    usual=("npy", "png"),
    units={"psnr": "dB"},
    compare=_compare,
    describe=_describe,
    command=COMMAND,
)
