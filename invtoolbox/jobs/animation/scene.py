"""Scene files that move a picture as a model of pictures moves: a motion from two scores.

The tables::

    title
    [animation]  picture: the picture to move; rest, moved: files of pictures of other objects
                 before and after the motion, of the same size; or simulated = true with a seed;
                 std: width of the models around their pictures; reference: "origin", "moving" or
                 "none"; strength, steps, learning_rate, max_iterations
    [[prior]]    priors of the displacement; bending of weight 1 by default
    [output]     folder, formats

Each group of pictures makes a model whose score is exact: a Gaussian mixture around them. The
difference of the two scores drives the displacement (`priors.ScoreDistillation`): what both models
have in common, such as the brightness of their objects, cancels.
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
from invtoolbox.datasets.output import write_png, writing
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.parts import prior_of
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.job import Request, SceneJob, read_json, write_json
from invtoolbox.jobs.registration.scene import read_image
from invtoolbox.operators import ImageWarp, NoMeasurement
from invtoolbox.priors import DenoiserScore, GaussianMixture, ScoreDistillation, ThroughOperator
from invtoolbox.problem import Problem
from invtoolbox.simulation.beating_ring import simulate_ring
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import Adam

#: Number of simulated pictures per model, and the brightness that they have in addition.
_EXAMPLES, _BRIGHTER = 6, 0.3


class AnimationTable(Table):
    """Picture, examples of its motion, and how the scores drive it."""

    picture: str | None = None
    rest: list[str] = Field(default_factory=list)
    moved: list[str] = Field(default_factory=list)
    simulated: bool = False
    seed: int = 0
    std: float = Field(0.1, gt=0)
    reference: Literal["origin", "moving", "none"] = "origin"
    strength: float = Field(300.0, gt=0)
    steps: tuple[float, float] = (0.5, 0.98)
    learning_rate: float = Field(0.05, gt=0)
    max_iterations: int = Field(300, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> AnimationTable:
        if self.simulated == (self.picture is not None):
            raise ValueError("give either a picture or simulated = true")
        if not self.simulated and not (self.rest and self.moved):
            raise ValueError("give pictures of other objects at rest and moved")
        if self.simulated and (self.rest or self.moved):
            raise ValueError("a simulation makes its own pictures; give no rest and no moved")
        return self


class AnimationOutput(Table):
    """Folder and formats: npz holds the displacement, npy the moved picture, png both pictures."""

    folder: str | None = None
    formats: list[Literal["npz", "npy", "png"]] = Field(["npz", "npy", "png"])


class AnimationScene(Table):
    """Scene file of a picture that two scores move."""

    title: str | None = None
    animation: AnimationTable
    prior: Several[PriorTable] = Field([PriorTable(name="bending", weight=1.0)])
    output: AnimationOutput = Field(default_factory=AnimationOutput)


class AnimationSceneFile(CheckedScene[AnimationScene]):
    """Checked scene of a picture that two scores move."""


@dataclass(frozen=True)
class AnimationOutcome:
    """Motion of a picture, and the files.

    Attributes:
        solution: the result, whose x is the displacement; None if an earlier run was finished.
        folder: folder of the results.
        metrics: "moved", the mean displacement in pixels, and "folding", the share of pixels at
            which it folds; and, of a simulation, "psnr" of the moved picture against the true one,
            and "psnr at rest" of the given picture.
        files: files that were written; empty if an earlier run was finished.
    """

    solution: Solution | None
    folder: Path
    metrics: dict[str, float]
    files: tuple[Path, ...]


def read_animation_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> AnimationSceneFile:
    """Read and check a scene file of a picture that two scores move.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    >>> read_animation_scene("animation-simulated").scene.animation.reference
    'origin'
    """
    return AnimationSceneFile.read(AnimationScene, scene, overrides)


def prepare(scene: str | Path, request: Request) -> AnimationJob:
    """Read and check a scene of a picture that two scores move, and return its job."""
    return AnimationJob.prepare(read_animation_scene(scene, request.overrides), request)


@dataclass(frozen=True)
class AnimationJob(SceneJob[AnimationScene]):
    """Run of one scene of a picture that two scores move."""

    files: ClassVar = ("scene.json", "metrics.json", "motion.npz", "moved.npy", "animation.png")
    free: ClassVar = ("title", "output")
    file: AnimationSceneFile

    def run(self, progress: bool = True) -> AnimationOutcome:
        """Move the picture and write the results, or read those of a finished run."""
        folder, scene = self.folder, self.file.scene
        measures, table = folder / "metrics.json", scene.animation
        picture, rest, moved, truth = _read(self.file)
        content = self.check_content(picture=picture, rest=rest, moved=moved)
        if self.resume and measures.exists():
            return AnimationOutcome(None, folder, read_json(measures), ())
        score, reference = (
            DenoiserScore(GaussianMixture(examples, table.std**2)) for examples in (moved, rest)
        )
        drive = ScoreDistillation(
            score,
            None if table.reference == "none" else reference,
            table.steps,
            origin=picture if table.reference == "origin" else None,
        )
        A = ImageWarp(picture)
        still = NoMeasurement(A.domain_shape)
        priors = table.strength * ThroughOperator(drive, A)
        smooth = prior_of(scene.prior, self.file)
        solution = solve(
            Problem(still.measurements(), still),
            priors if smooth is None else priors + smooth,
            # The draws of noise differ from step to step, and the average levels them out.
            Adam(learning_rate=table.learning_rate, iterate="average"),
            1.0,
            max_iterations=table.max_iterations,
            tolerance=0,
            progress=progress,
            check=False,
        )
        after = A(solution.x)
        found = {
            "moved": float(solution.x[0].norm(dim=0).mean()),
            "folding": float(metrics.folding(solution.x)[0]),
        }
        if truth is not None:
            for name, image in (("psnr", after), ("psnr at rest", picture)):
                found[name] = float(metrics.psnr(image, truth, data_range=1.0))
        self.start(content)
        write_json(measures, found)
        written = [measures]
        for kind in dict.fromkeys(scene.output.formats):
            path = folder / {"npz": "motion.npz", "npy": "moved.npy"}.get(kind, "animation.png")
            if kind == "npz":
                with writing(path, overwrite=True) as stream:
                    np.savez_compressed(stream, displacement=solution.x[0].numpy())
            elif kind == "npy":
                datasets.write(path, after[0], overwrite=True)
            else:
                pair = torch.cat([picture, after], 3)[0]
                write_png(path, pair if len(pair) == 3 else pair[0], overwrite=True)
            written.append(path)
        return AnimationOutcome(solution, folder, found, tuple(written))


def _read(file: AnimationSceneFile) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the picture, the examples at rest and moved, and the moved picture if it is known."""
    table = file.scene.animation
    if table.simulated:
        mine = simulate_ring(table.seed, 0.0)
        others = [simulate_ring(table.seed + k, 0.0) for k in range(1, _EXAMPLES + 1)]
        rest = torch.cat([other.moving for other in others]) + _BRIGHTER
        return mine.moving, rest, torch.cat([o.fixed for o in others]) + _BRIGHTER, mine.fixed

    def read(name: str) -> Tensor:
        image = read_image(file.locate(name))
        if isinstance(image, Tensor) and image.ndim == 2:
            image = image[None, None]
        if not isinstance(image, Tensor) or image.ndim != 4 or len(image) > 1:
            raise InputError(f"{name} is no picture; give PNG, TIFF or .npy files with two axes")
        if image.is_complex() or not bool(image.isfinite().all()):
            raise InputError(f"{name} holds NaN, infinite or complex values; give a real picture")
        return image.float()

    picture = read(str(table.picture))
    groups = []
    for names in (table.rest, table.moved):
        examples = [read(name) for name in names]
        for name, example in zip(names, examples):
            if example.shape != picture.shape:
                raise InputError(
                    f"{name} has the shape {tuple(example.shape[1:])} and {table.picture} "
                    f"{tuple(picture.shape[1:])}; give pictures of one size"
                )
        groups.append(torch.cat(examples))
    return picture, groups[0], groups[1], None
