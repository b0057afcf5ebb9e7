"""Scene files of two images or volumes that are registered.

The tables::

    title
    [registration]  moving, fixed: paths; spacing; mask; loss; smoothness; levels; max_iterations,
                    tolerance per level; or simulated = true, with seed and noise_std
    [[prior]]       priors of the displacement; bending by default, and prior = [] is none. A prior
                    without a weight has one that suits moderate noise
    [output]        folder, formats

``--set registration.loss=ncc`` changes a key by its dotted name, as in every scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox import datasets, metrics
from invtoolbox.catalogue.documents import CheckedScene, Several, Table
from invtoolbox.core.checks import open_arrays
from invtoolbox.datasets.output import write_png, writing
from invtoolbox.jobs.images.parts import prior_of
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.job import Request, SceneJob, read_json, write_json
from invtoolbox.jobs.registration.register import Registration, register
from invtoolbox.priors import PriorSum
from invtoolbox.simulation.beating_ring import BeatingRing, simulate_ring


class RegistrationTable(Table):
    """Two images on the same grid, or a simulation, and the misfit between them."""

    moving: str | None = None
    fixed: str | None = None
    spacing: list[float] | float | None = None
    mask: str | None = None
    loss: Literal["least-squares", "ncc", "mi"] = "least-squares"
    smoothness: float = Field(1.0, gt=0)
    levels: int | None = Field(None, ge=1)
    max_iterations: int = Field(30, ge=1)
    tolerance: float = Field(0.03, gt=0)
    simulated: bool = False
    seed: int = 0
    noise_std: float = Field(0.03, ge=0)

    @model_validator(mode="after")
    def _one_source(self) -> RegistrationTable:
        if (self.moving is None, self.fixed is None) != (self.simulated,) * 2:
            raise ValueError("give either both moving and fixed, or simulated = true")
        return self


class RegistrationOutput(Table):
    """Folder and formats of the results.

    npz holds the displacement and its Jacobian determinant, npy the warped image, and png moving,
    fixed and warped image.
    """

    folder: str | None = None
    formats: list[Literal["npz", "png", "npy"]] = Field(["npz", "npy", "png"])


class RegistrationScene(Table):
    """Scene file of a registration."""

    title: str | None = None
    registration: RegistrationTable
    prior: Several[PriorTable] = Field([PriorTable(name="bending")])
    output: RegistrationOutput = Field(default_factory=RegistrationOutput)


class RegistrationSceneFile(CheckedScene[RegistrationScene]):
    """Checked scene of a registration."""


@dataclass(frozen=True)
class RegistrationOutcome:
    """Displacement between two images, and the files.

    Attributes:
        motion: the result; None if an earlier run was finished.
        folder: folder of the results.
        metrics: "moved", the mean displacement, in the unit of the spacing; "folding", the share of
            pixels at which the motion folds; and, of a simulation, "error", the mean distance from
            the true displacement within the ring, in pixels.
        files: files that were written; empty if an earlier run was finished.
    """

    motion: Registration | None
    folder: Path
    metrics: dict[str, float]
    files: tuple[Path, ...]


def read_registration_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> RegistrationSceneFile:
    """Read and check a scene file of a registration.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    >>> read_registration_scene("registration-simulated").scene.prior[0].name
    'bending'
    """
    return RegistrationSceneFile.read(RegistrationScene, scene, overrides)


def prepare(scene: str | Path, request: Request) -> RegistrationJob:
    """Read and check a scene of a registration, and return its job."""
    return RegistrationJob.prepare(read_registration_scene(scene, request.overrides), request)


@dataclass(frozen=True)
class RegistrationJob(SceneJob[RegistrationScene]):
    """Run of one scene of a registration."""

    files: ClassVar = (
        "scene.json",
        "metrics.json",
        "motion.npz",
        "warped.npy",
        "registration.png",
    )
    free: ClassVar = ("title", "output")
    file: RegistrationSceneFile

    def run(self, progress: bool = True) -> RegistrationOutcome:
        """Register the images and write the results, or read those of a finished run."""
        folder, table = self.folder, self.file.scene.registration
        measures = folder / "metrics.json"
        truth = simulate_ring(table.seed, table.noise_std) if table.simulated else None
        if truth is not None:
            moving, fixed = truth.moving, truth.fixed
        else:
            moving, fixed = (
                read_image(self.file.locate(str(path))) for path in (table.moving, table.fixed)
            )
        mask = None if table.mask is None else datasets.read_mask(self.file.locate(table.mask))
        content = self.check_content(moving=moving, fixed=fixed, mask=mask)
        if self.resume and measures.exists():
            return RegistrationOutcome(None, folder, read_json(measures), ())
        prior = prior_of(self.file.scene.prior, self.file)
        motion = register(
            moving,
            fixed,
            PriorSum(()) if prior is None else prior,  # None would be the usual prior
            spacing=table.spacing,
            loss=table.loss,
            smoothness=table.smoothness,
            levels=table.levels,
            mask=mask,
            max_iterations=table.max_iterations,
            tolerance=table.tolerance,
            progress=progress,
        )
        found = _measure(motion, truth)
        self.start(content)
        write_json(measures, found)
        written = [measures]
        for kind in dict.fromkeys(self.file.scene.output.formats):
            path = folder / {"npz": "motion.npz", "npy": "warped.npy"}.get(kind, "registration.png")
            if kind == "npz":
                write_motion(path, motion, overwrite=True)
            elif kind == "npy":
                datasets.write(path, motion.warped[0], overwrite=True)
            else:
                write_png(path, _picture(moving, fixed, motion), overwrite=True)
            written.append(path)
        return RegistrationOutcome(motion, folder, found, tuple(written))


def read_image(path: str | Path) -> Any:
    """Return a volume, or the image of a file, ``(1, channel, rows, columns)``, or of a .npy file.

    Args:
        path: path of the file.
    """
    if Path(path).suffix.lower() == ".npy":
        return torch.from_numpy(open_arrays(path))
    opened = datasets.open_measurements(path)
    return opened if isinstance(opened, datasets.Volume) else opened[0].y


def write_motion(path: Path, motion: Registration, overwrite: bool = False) -> None:
    """Write displacement, Jacobian determinant and spacing of the first item as .npz.

    Args:
        path: path of the file.
        motion: result of `it.register`.
        overwrite: replace a file that exists.
    """
    with writing(path, overwrite) as stream:
        np.savez_compressed(
            stream,
            displacement=motion.displacement[0].cpu().numpy(),
            jacobian=motion.jacobian[0].cpu().numpy(),
            spacing=np.array(motion.spacing),
        )


def _measure(motion: Registration, truth: BeatingRing | None) -> dict[str, float]:
    u = motion.displacement
    found = {
        "moved": float(u[0].norm(dim=0).mean()),
        "folding": float(metrics.folding(u, motion.spacing)[0]),
    }
    if truth is not None:
        spacing = u.new_tensor(motion.spacing).view(-1, 1, 1)
        off = (u[0] / spacing - truth.displacement[0]).norm(dim=0)
        found["error"] = float(off[truth.inside].mean())
    return found


def _picture(moving: Any, fixed: Any, motion: Registration) -> Tensor:
    """Return moving, fixed and warped image side by side; of volumes, their middle slices."""
    views = []
    for image in (moving, fixed, motion.warped):
        values = image.slices() if isinstance(image, datasets.Volume) else image
        plane = torch.as_tensor(values).float()
        while plane.ndim > 2:
            plane = plane[len(plane) // 2]
        views.append(plane)
    return torch.cat(views, 1)
