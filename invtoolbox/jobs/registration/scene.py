"""Scene files of two images or volumes that are registered.

The tables::

    title
    [registration]  moving, fixed: paths; spacing; stages; mask, moving_mask; loss; smoothness; levels;
                    max_iterations, tolerance per level; mirrored; quick; or simulated = true, with
                    seed and noise_std
    [[prior]]       priors of the displacement; bending by default, and prior = [] is none. A prior
                    without a weight has one that suits the misfit that is left
    [output]        folder, formats

``--set registration.loss=ncc`` changes a key by its dotted name, as in every scene.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.catalogue.documents import CheckedScene, FilePath, Several, Table
from invtoolbox.core.checks import open_arrays
from invtoolbox.datasets.transforms.points import read_points
from invtoolbox.datasets.writers import SUFFIXES
from invtoolbox.errors import InputError
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.images.parts import prior_of
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.kind import Inputs, Kind, SceneTables, arrays_of
from invtoolbox.jobs.registration.checks import to_image
from invtoolbox.jobs.registration.evaluation import (
    check_transform,
    compare,
    measure,
    warp_labels,
    write_inverse,
    write_picture,
    write_transform,
)
from invtoolbox.jobs.registration.register import Registration, register
from invtoolbox.priors import PriorSum
from invtoolbox.simulation.beating_ring import simulate_ring

_IMAGE = "image: NIfTI, MetaImage, DICOM, PNG, TIFF or .npy"


class RegistrationTable(Table):
    """Two images or a simulation, the stages of their motion, and the misfit between them."""

    moving: FilePath | None = Field(None, description=f"the moving {_IMAGE}")
    fixed: FilePath | None = Field(None, description=f"the fixed {_IMAGE}")
    spacing: list[float] | float | None = Field(
        None,
        description="distance of pixels along every axis, for files that do not state it; 1 by "
        "default",
    )
    stages: (
        list[Literal["translation", "rigid", "similarity", "affine", "bending", "diffeomorphic"]]
        | None
    ) = Field(
        None,
        description="kinds of motion, from the stiffest to the field, which bends or, diffeomorphic, "
        "neither folds nor depends on the order of the images; by default bending for images on one "
        "grid that lie near each other, otherwise rigid, affine and bending",
    )
    mask: FilePath | None = Field(
        None, description="picture or array, not 0 at pixels of the fixed image that count"
    )
    moving_mask: FilePath | None = Field(
        None, description="mask of the moving image, as for the fixed one"
    )
    labels: FilePath | None = Field(
        None, description="labels on the moving image, which are warped too, and their file"
    )
    loss: Literal["least-squares", "ncc", "lncc", "mi", "mind"] | None = Field(
        None,
        description="least squares for the same brightness (default on one grid), normalized "
        "cross-correlation if brightness differs (default on two), in windows if it also varies, "
        "mutual information or descriptors of edges for two modalities",
    )
    smoothness: float = Field(1.0, gt=0, description="factor on the usual weight of the prior")
    levels: int | None = Field(
        None, ge=1, description="number of levels of resolution; by default, the size decides"
    )
    max_iterations: int = Field(30, ge=1, description="maximum number of iterations per level")
    tolerance: float = Field(0.03, gt=0, description="bound of the certificate per level")
    mirrored: bool = Field(False, description="also search mirrored positions")
    quick: bool = Field(False, description="a quarter of the resolution, for a first look")
    simulated: bool = Field(False, description="simulate a beating ring in place of files")
    seed: int = Field(0, description="seed of the simulation")
    noise_std: float = Field(0.03, ge=0, description="noise of the simulation")
    fixed_labels: FilePath | None = Field(
        None, description="labels on the fixed image, for Dice of the warped ones"
    )
    landmarks: tuple[FilePath, FilePath] | None = Field(
        None,
        title="MOVING_POINTS FIXED_POINTS",
        description="points in the moving image and the same points in the fixed one (.csv with "
        "columns x, y, z in mm, .vtk, .ply), for the error only: the registration does not use them",
    )

    @model_validator(mode="after")
    def _one_source(self) -> RegistrationTable:
        if (self.moving is None, self.fixed is None) != (self.simulated,) * 2:
            raise ValueError("give either both moving and fixed, or simulated = true")
        if self.fixed_labels is not None and self.labels is None:
            raise ValueError(
                "fixed_labels are compared with labels on the moving image; give labels"
            )
        return self


class RegistrationScene(SceneTables):
    """Scene file of a registration."""

    registration: RegistrationTable
    prior: Several[PriorTable] = Field(
        [PriorTable(name="bending")], description="priors of the displacement"
    )


def read_image(path: str | Path) -> Any:
    """Return a volume, or the image of a file, ``(1, channel, rows, columns)``, or of a .npy file.

    Args:
        path: path of the file.
    """
    if Path(path).suffix.lower() == ".npy":
        return torch.from_numpy(open_arrays(path))
    opened = datasets.open_measurements(path)
    return opened if isinstance(opened, datasets.Volume) else opened[0].y


def _read(file: CheckedScene[RegistrationScene]) -> Inputs:
    """Return both images, mask, labels, and the simulated ring if there is one."""
    table = file.scene.registration
    ring = simulate_ring(table.seed, table.noise_std) if table.simulated else None
    if ring is not None:
        moving, fixed = ring.moving, ring.fixed
    else:
        paths = (file.locate(str(path)) for path in (table.moving, table.fixed))
        moving, fixed = map(read_image, paths)
    return {
        "moving": moving,
        "fixed": fixed,
        "mask": None if table.mask is None else datasets.read_mask(file.locate(table.mask)),
        "moving mask": None
        if table.moving_mask is None
        else datasets.read_mask(file.locate(table.moving_mask)),
        "labels": None if table.labels is None else read_image(file.locate(table.labels)),
        "fixed labels": None
        if table.fixed_labels is None
        else read_image(file.locate(table.fixed_labels)),
        "landmarks": None
        if table.landmarks is None
        else _read_landmarks(file, table.landmarks, to_image(fixed, "the fixed image").ndim - 2),
        "ring": ring,
    }


def _read_landmarks(
    file: CheckedScene[RegistrationScene], paths: tuple[str, str], dimensions: int
) -> tuple[np.ndarray, np.ndarray]:
    sides = [read_points(file.locate(path)) for path in paths]
    for path, side in zip(paths, sides):
        if side.shape[1] < dimensions or side[:, dimensions:].any() or len(side) != len(sides[0]):
            raise InputError(
                f"{path} has {len(side)} points of {side.shape[1]} coordinates, but {len(sides[0])} "
                f"of {dimensions} are needed; give the same points of both images"
            )
    return sides[0][:, :dimensions], sides[1][:, :dimensions]


def _register(
    file: CheckedScene[RegistrationScene], inputs: Inputs, progress: bool
) -> Registration:
    prior, table = prior_of(file.scene.prior, file), file.scene.registration
    return register(
        inputs["moving"],
        inputs["fixed"],
        PriorSum(()) if prior is None else prior,  # None would be the usual prior
        spacing=table.spacing,
        stages=table.stages,
        loss=table.loss,
        smoothness=table.smoothness,
        levels=table.levels,
        mask=inputs["mask"],
        moving_mask=inputs["moving mask"],
        mirrored=table.mirrored,
        quick=table.quick,
        max_iterations=table.max_iterations,
        tolerance=table.tolerance,
        progress=progress,
    )


def _describe(motion: Registration) -> tuple[str]:
    largest = float(motion.displacement[0].norm(dim=0).max())
    return (f"the largest displacement is {largest:.3g}, in the unit of the spacing",)


def _arrays(motion: Registration, inputs: Inputs) -> dict[str, Any]:
    """Return displacement, Jacobian determinant and spacing of the first item."""
    displacement, jacobian = motion.displacement[0], motion.jacobian[0]
    arrays = {"displacement": displacement, "jacobian": jacobian, "spacing": motion.spacing}
    return {**arrays, "inverse": motion.inverse[0]} if motion.has_inverse else arrays


def _write_image(path: Path, motion: Registration, inputs: Inputs) -> None:
    """Write the warped image in a format of images, on the grid of the fixed one."""
    datasets.write(path, _on_grid(inputs["fixed"], motion.warped), overwrite=True)


def _write_labels(path: Path, motion: Registration, inputs: Inputs) -> None:
    """Write the warped labels on the grid of the fixed image."""
    labels = warp_labels(motion, inputs["labels"])
    datasets.write(path, _on_grid(inputs["fixed"], labels), overwrite=True)


def _on_grid(fixed: Any, image: Tensor) -> Any:
    if isinstance(fixed, datasets.Volume):
        values = image[0, 0] if image.ndim == 5 else image[0]
        return datasets.VolumeInMemory(values, fixed.grid)
    return image[0, 0] if image.shape[1] == 1 else image


COMMAND = SceneCommand(
    description="Find the motion that takes a moving image to a fixed one: linear stages and a "
    "displacement field. Warp the moving\nimage, or labels that belong to it.",
    positional={"MOVING": "registration.moving", "FIXED": "registration.fixed"},
    options={
        "--stages": "registration.stages",
        "--quick": "registration.quick",
        "--loss": "registration.loss",
        "--prior": "prior.name",
        "--fixed-labels": "registration.fixed_labels",
        "--landmarks": "registration.landmarks",
        "--smoothness": "registration.smoothness",
        "--spacing": "registration.spacing",
        "--mask": "registration.mask",
        "--moving-mask": "registration.moving_mask",
        "--mirrored": "registration.mirrored",
    },
    examples=(
        "register moving.nii.gz fixed.nii.gz --output warped.nii.gz field.npz",
        "register ct.nii.gz mr.nii.gz --loss mi --labels organs.nii.gz moved.nii.gz",
        "register mni.nii.gz ch2.nii.gz --stages rigid affine --quick",
        "register before.png after.png --prior linear-elastic --smoothness 2",
        "register moving.nii.gz fixed.nii.gz --output warped.nii.gz --transform motion.h5",
        "register a.nii.gz b.nii.gz --stages affine diffeomorphic --transform to_a.mha --inverse to_b.mha",
        "register moving.nii.gz fixed.nii.gz --landmarks moving.csv fixed.csv --output measures.json",
    ),
    outputs=("{stem}_registered{suffix}",),
    writers={
        ".npz": arrays_of(_arrays),
        **dict.fromkeys(SUFFIXES, _write_image),
    },
    files={
        "--transform": (
            "file of the transform from the fixed to the moving image, for `invtoolbox warp`, ITK, "
            "3D Slicer and ANTs: .h5, or a displacement field on the fixed grid, .nii.gz or .mha; "
            "--output is the warped image",
            check_transform,
            write_transform,
        ),
        "--inverse": (
            "file of the inverse transform, from the moving to the fixed image, in the same formats; a "
            "displacement field is on the moving grid. A diffeomorphic stage always has one",
            check_transform,
            write_inverse,
        ),
    },
    settings={
        "--poisson": (
            "prior.poisson",
            {
                "type": float,
                "metavar": "NU",
                "help": "Poisson's ratio of --prior linear-elastic (default: 0.4)",
            },
        )
    },
    pairs={"--labels": ("registration.labels", _write_labels)},
)

KIND = Kind(
    RegistrationScene,
    "two images",
    _read,
    _register,
    measure,
    {
        "npz": ("motion.npz", arrays_of(_arrays)),
        "npy": (
            "warped.npy",
            lambda path, motion, _: datasets.write(path, motion.warped[0], overwrite=True),
        ),
        "h5": ("transform.h5", write_transform),
        "png": ("registration.png", write_picture),
    },
    usual=("npz", "npy", "h5", "png"),
    units={"error": "pixels", **dict.fromkeys(("landmark error", "worst landmark"), "mm")},
    solution=lambda motion: motion.solutions[0],
    compare=compare,
    describe=_describe,
    command=COMMAND,
)
