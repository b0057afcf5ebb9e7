"""Scene files of stacks of a microscope, and ``invtoolbox deconvolve STACK``.

The tables::

    title
    [stack]        path, axes, voxel_size
    [microscope]   na, wavelength, immersion, kind, model, excitation, sample, depth, psf_size; or psf
    [camera]       gain, offset, background, saturation
    [method]       prior, weight, iterations, tile
    [output]       folder
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene, FilePath, Table
from invtoolbox.datasets.output import make_folder, refuse_inputs, remove_stale
from invtoolbox.datasets.volumes.stacks import Stack, open_stack, write_stack
from invtoolbox.errors import InputError
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.fields import input_files
from invtoolbox.jobs.images.stacks import Method, deconvolve_stack
from invtoolbox.jobs.job import (
    Request,
    SceneJob,
    alone,
    differences,
    print_files,
    print_notes,
    read_json,
    write_json,
)
from invtoolbox.jobs.kind import SceneOutcome, SceneTables
from invtoolbox.operators.imaging.blur_3d import measured_psf
from invtoolbox.operators.imaging.kernel_support import LOST, crop_kernel
from invtoolbox.operators.imaging.microscope import Kind, Microscope, Model

#: Wavelengths above this many micrometres were written in nanometres.
_LONGEST = 10.0


class StackTable(Table):
    """Stack of a microscope: a file with its axes and the size of a voxel."""

    path: FilePath = Field(description="an OME-TIFF, an ImageJ stack, or an OME-Zarr folder")
    axes: str | None = Field(
        None, title="AXES", description="names of the stored axes, letters of TCZYX; from the file"
    )
    voxel_size: tuple[float, float, float] | None = Field(
        None,
        title="Z Y X",
        description="distances of slices, rows and columns in micrometres; from the file by default",
    )


class MicroscopeTable(Table):
    """Numbers of the objective, or a point spread function."""

    na: float | None = Field(None, gt=0, description="numerical aperture; from the file by default")
    wavelength: list[float] | None = Field(
        None,
        title="WAVELENGTHS",
        description="emission wavelength in micrometres, one or one per channel; from the file by "
        "default",
    )
    immersion: str | float | None = Field(
        None,
        title="MEDIUM",
        description="air, water, glycerol, silicone, oil, or a refractive index; from the file by "
        "default",
    )
    kind: Kind = Field("widefield", description="kind of the microscope")
    model: Model = Field("scalar", description="model of the light; vectorial for large apertures")
    excitation: float | None = Field(
        None, gt=0, description="wavelength of the excitation in micrometres"
    )
    sample: float = Field(1.333, gt=0, description="refractive index of the sample")
    depth: float = Field(0.0, ge=0, description="depth below the coverslip in micrometres")
    psf: FilePath | None = Field(
        None, description="stack of a point spread function in place of a model; a file of any size"
    )
    psf_size: tuple[int, int, int] | None = Field(
        None, title="Z Y X", description="slices, rows and columns of the point spread function"
    )

    @model_validator(mode="after")
    def _micrometres(self) -> MicroscopeTable:
        for length in (*(self.wavelength or ()), self.excitation or 0.0):
            if length > _LONGEST:
                raise ValueError(
                    f"wavelengths are in micrometres; write {length / 1000:g} for {length:g} nm"
                )
        if self.psf is not None and self.na is not None:
            raise ValueError("give na for a model, or psf for a file, not both")
        return self


class CameraTable(Table):
    """Numbers of the camera; estimated from the stack by default."""

    gain: float | None = Field(None, gt=0, description="units of a reading per photon")
    offset: float | None = Field(None, description="reading without light")
    background: float | None = Field(
        None, ge=0, description="photons per voxel that do not come from the sample"
    )
    saturation: float | None = Field(
        None, description="reading from which a voxel is clipped; the end of its type by default"
    )


class MethodTable(Table):
    """Prior, weight and tiles."""

    prior: Literal["tv", "none"] = Field(
        "tv", description="tv is total variation; none is Richardson-Lucy that stops by itself"
    )
    weight: float | None = Field(
        None, ge=0, description="weight of total variation; chosen by held-out photons by default"
    )
    iterations: int | None = Field(None, ge=1, description="number of iterations of every tile")
    tile: tuple[int, int, int] = Field(
        (64, 192, 192),
        title="Z Y X",
        description="largest lengths of a tile, which bound the memory",
    )


class StackScene(SceneTables):
    """Scene file of a stack of a microscope."""

    stack: StackTable
    microscope: MicroscopeTable = Field(default_factory=MicroscopeTable)
    camera: CameraTable = Field(default_factory=CameraTable)
    method: MethodTable = Field(default_factory=MethodTable)


@dataclass(frozen=True)
class StackJob(SceneJob[StackScene]):
    """Run of one scene of a stack.

    Attributes:
        outputs: files to write; by default an OME-Zarr folder in the folder of the results.
    """

    files: ClassVar = ("deconvolved.zarr",)
    free: ClassVar = ("title", "output")
    outputs: Mapping[Path, Any] = field(default_factory=dict)

    @property
    def places(self) -> list[Path]:
        return list(self.outputs)

    @property
    def checkpoint(self) -> Path:
        """Folder of the finished tiles."""
        first = self.places[0]
        return first.with_name(f"{first.name}.tiles")

    def check(self, request: Request) -> None:
        refuse_inputs([*self.places, self.checkpoint], input_files(self.file))
        if self.checkpoint.exists() and not (self.resume or self.overwrite):
            raise InputError(
                f"an interrupted run left {self.checkpoint}; give --resume to go on from it, or "
                "--overwrite to start anew"
            )

    @alone
    def run(self, progress: bool = True) -> SceneOutcome[Any]:
        """Deconvolve by tiles, and write the stack."""
        scene, state = self.file.scene, self.checkpoint
        stack = open_stack(
            self.file.locate(scene.stack.path), scene.stack.axes, scene.stack.voxel_size
        )
        kernels, notes = _kernels(self.file, stack)
        method = Method(**scene.method.model_dump(), **scene.camera.model_dump())
        settings = scene.model_dump(mode="json", exclude={"title", "output"})
        settings["shape"] = list(stack.shape)
        if state.exists() and self.overwrite:
            shutil.rmtree(state)
        before = state / "settings.json"
        if before.exists() and (changed := differences(read_json(before), settings)):
            raise InputError(
                f"{state} holds tiles of a run with another {', '.join(changed)}; resume it with the "
                "same settings, or give --overwrite to start anew"
            )
        make_folder(state)
        remove_stale(state)
        write_json(before, settings)
        try:
            result, more = deconvolve_stack(stack, kernels, method, state, progress)
        except KeyboardInterrupt:
            raise self.interrupted(True, f"the finished tiles in {state} stay") from None
        for path in self.places:
            write_stack(path, result, overwrite=self.overwrite or self.resume)
        shutil.rmtree(state)
        outcome = _Outcome(tuple([*notes, *more]))
        return SceneOutcome(outcome, self.folder, {}, tuple(self.places))

    def print_outcome(self, outcome: SceneOutcome[Any], quiet: bool) -> int:
        if not quiet:
            print_notes(outcome.notes)
            print_files(outcome.files, outcome.folder)
        return 0


@dataclass(frozen=True)
class _Outcome:
    """Notes for a reader of the result."""

    notes: tuple[str, ...]


def _kernels(file: CheckedScene[StackScene], stack: Stack) -> tuple[list[Tensor], list[str]]:
    """Return one kernel per channel, and notes."""
    table, stated = file.scene.microscope, stack.metadata
    count = stack.shape[1]
    if table.psf is not None:
        psf = open_stack(file.locate(table.psf), unnamed="Z")
        if psf.shape[0] != 1 or psf.shape[1] not in (1, count):
            raise InputError(
                f"{psf.path}: a point spread function has no times, and 1 or {count} channels, got "
                f"{psf.shape[0]} times and {psf.shape[1]} channels"
            )
        every = (slice(None),) * 3
        kernels = [
            measured_psf(
                torch.from_numpy(psf.read(0, c, every).astype("float32")), size=table.psf_size
            )
            for c in range(psf.shape[1])
        ]
        notes, measured = [], kernels
        if table.psf_size is None:
            kernels = [crop_kernel(kernel) for kernel in measured]
        for whole, kernel in zip(measured, kernels):
            if kernel is not whole:
                notes.append(
                    f"the point spread function was cropped from {tuple(whole.shape)} to "
                    f"{tuple(kernel.shape)} voxels, beyond which lies less than {LOST:.1%} of it"
                )
        if stated.voxel_size is None:
            notes.append(f"{stack.path} states no voxel size, and neither does the result")
        elif psf.metadata.voxel_size not in (None, stated.voxel_size):
            notes.append(
                f"voxels of the point spread function are {psf.metadata.voxel_size} micrometres, and "
                f"of the stack {stated.voxel_size}: the kernel was not resampled"
            )
        return kernels * (count // len(kernels)), notes
    na, immersion = table.na or stated.na, table.immersion or stated.immersion
    waves = table.wavelength or stated.wavelengths
    missing = {"--na": na, "--wavelength": waves, "--immersion": immersion}
    if None in missing.values() or (waves and None in waves):
        name = next(name for name, value in missing.items() if value is None or value is waves)
        raise InputError(
            f"{stack.path} does not state what {name} gives; a model needs na, wavelength and "
            "immersion: give them, or a file of the point spread function as --psf"
        )
    if stated.voxel_size is None:
        raise InputError(
            f"{stack.path} states no voxel size, and a model is computed in micrometres; give "
            "--voxel-size Z Y X, or a file of the point spread function as --psf"
        )
    assert waves is not None and na is not None and immersion is not None
    if len(waves) not in (1, count):
        raise InputError(
            f"{stack.path} has {count} channels, and --wavelength names {len(waves)}; give one, or "
            "one per channel"
        )
    kernels = [
        Microscope(
            stack.shape[2:],
            na,
            float(wave or 0),
            immersion if not isinstance(immersion, str) else _medium(immersion),
            stated.voxel_size,
            table.kind,
            model=table.model,
            excitation=table.excitation,
            sample=table.sample,
            depth=table.depth,
            kernel_shape=table.psf_size,
        ).kernel[0, 0].float()
        for wave in waves
    ]  # fmt: skip
    return kernels * (count // len(kernels)), []


def _medium(name: str) -> str | float:
    try:
        return float(name)
    except ValueError:
        return name


@dataclass(frozen=True)
class StackKind:
    """Scenes of stacks of a microscope, as the command describes and runs them.

    Attributes:
        command: the command.
    """

    command: SceneCommand
    tables: ClassVar = StackScene
    writers: ClassVar = dict.fromkeys(("zarr", "tif", "tiff"))

    def job(
        self, file: Any, request: Request, outputs: Mapping[Path, Any] | None = None
    ) -> StackJob:
        """Return the job of a checked scene.

        Args:
            file: the scene.
            request: how it is to be run.
            outputs: files to write; by default an OME-Zarr folder in the folder of the results.
        """
        folder = request.folder(file)
        if not outputs:
            outputs = {make_folder(folder) / "deconvolved.zarr": "zarr"}
        job = StackJob(file, folder, request.resume, request.overwrite, outputs)
        job.check(request)
        return job

    def prepare(self, scene: str | Path, request: Request) -> StackJob:
        """Read and check a scene, and return its job.

        Args:
            scene: path of a TOML file, or name of a scene of the catalogue.
            request: how the scene is to be run.
        """
        return self.job(CheckedScene.read(StackScene, scene, request.overrides), request)


COMMAND = SceneCommand(
    description="Deconvolve a stack of a microscope, with channels and times. The point spread "
    "function comes from the objective's\nnumbers, or from a file. Stacks of any size go by "
    "overlapping tiles from disk to disk.",
    positional={"STACK": "stack.path"},
    options={
        "--na": "microscope.na",
        "--wavelength": "microscope.wavelength",
        "--immersion": "microscope.immersion",
        "--voxel-size": "stack.voxel_size",
        "--axes": "stack.axes",
        "--kind": "microscope.kind",
        "--model": "microscope.model",
        "--excitation": "microscope.excitation",
        "--depth": "microscope.depth",
        "--psf": "microscope.psf",
        "--psf-size": "microscope.psf_size",
        "--prior": "method.prior",
        "--weight": "method.weight",
        "--iterations": "method.iterations",
        "--tile": "method.tile",
        "--gain": "camera.gain",
        "--offset": "camera.offset",
        "--saturation": "camera.saturation",
    },
    examples=(
        "deconvolve cells.ome.tif --na 1.4 --wavelength 0.52 --immersion oil",
        "deconvolve cells.zarr --na 1.1 --wavelength 0.46 0.52 --immersion water --kind confocal",
        "deconvolve cells.zarr --psf psf.tif --prior none --output sharp.zarr",
    ),
    outputs=("{stem}_deconvolved{suffix}",),
)

KIND = StackKind(COMMAND)
