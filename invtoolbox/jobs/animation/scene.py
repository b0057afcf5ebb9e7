"""Scene files that move a picture as a model of pictures moves: a motion from two scores.

The tables::

    title
    [animation]  picture: the picture to move; rest, moved: files of pictures of other objects
                 before and after the motion, of the same size; or simulated = true with a seed;
                 std: width of the models around their pictures; reference: "origin", "moving" or
                 "none"; strength, steps, learning_rate, max_iterations
    [[prior]]    priors of the displacement; bending of weight 1 by default
    [output]     folder, formats: npz, the displacement; npy, the moved picture; png, both pictures

Each group of pictures makes a model whose score is exact: a Gaussian mixture around them. The
difference of the two scores drives the displacement (`priors.ScoreDistillation`): what both models
have in common, such as the brightness of their objects, cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox import datasets, metrics
from invtoolbox.catalogue.documents import CheckedScene, FilePath, Several, Table
from invtoolbox.datasets.output import write_png
from invtoolbox.errors import InputError
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.images.parts import prior_of
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.kind import Compared, Inputs, Kind, SceneTables, arrays_of
from invtoolbox.jobs.registration.scene import read_image
from invtoolbox.operators import ImageWarp, NoMeasurement
from invtoolbox.plotting.comparison import describe_gain
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

    picture: FilePath | None = Field(None, description="the picture to move: PNG, TIFF or .npy")
    rest: list[FilePath] = Field(
        default_factory=list, description="pictures of other objects before the motion"
    )
    moved: list[FilePath] = Field(
        default_factory=list, description="pictures of the same objects after the motion"
    )
    simulated: bool = Field(False, description="simulate beating rings in place of files")
    seed: int = Field(0, description="seed of the simulation")
    std: float = Field(0.1, gt=0, description="width of the models around their pictures")
    reference: Literal["origin", "moving", "none"] = Field(
        "origin",
        description="picture at which the score of the rest is evaluated; none takes drawn noise",
    )
    strength: float = Field(300.0, gt=0, description="weight of the scores")
    steps: tuple[float, float] = Field(
        (0.5, 0.98), description="range of the noise levels, as shares of all steps"
    )
    learning_rate: float = Field(0.05, gt=0, description="learning rate of Adam")
    max_iterations: int = Field(300, ge=1, description="number of iterations")

    @model_validator(mode="after")
    def _one_source(self) -> AnimationTable:
        if self.simulated == (self.picture is not None):
            raise ValueError("give either a picture or simulated = true")
        if not self.simulated and not (self.rest and self.moved):
            raise ValueError(
                "give pictures of other objects at rest and moved: animation.rest and animation.moved"
            )
        if self.simulated and (self.rest or self.moved):
            raise ValueError("a simulation makes its own pictures; give no rest and no moved")
        return self


class AnimationScene(SceneTables):
    """Scene file of a picture that two scores move."""

    animation: AnimationTable
    prior: Several[PriorTable] = Field(
        [PriorTable(name="bending", weight=1.0)], description="priors of the displacement"
    )


@dataclass(frozen=True)
class Animation:
    """Motion of a picture.

    Attributes:
        solution: the solution, whose x is the displacement.
        picture: the moved picture.
    """

    solution: Solution
    picture: Tensor


def _read(file: CheckedScene[AnimationScene]) -> Inputs:
    """Return the picture, the examples at rest and moved, and the moved picture if it is known."""
    table = file.scene.animation
    if table.simulated:
        target = simulate_ring(table.seed, 0.0)
        rings = [simulate_ring(table.seed + k, 0.0) for k in range(1, _EXAMPLES + 1)]
        return {
            "picture": target.moving,
            "rest": torch.cat([ring.moving for ring in rings]) + _BRIGHTER,
            "moved": torch.cat([ring.fixed for ring in rings]) + _BRIGHTER,
            "truth": target.fixed,
        }

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
    return {"picture": picture, "rest": groups[0], "moved": groups[1], "truth": None}


def _move(file: CheckedScene[AnimationScene], inputs: Inputs, progress: bool) -> Animation:
    table, picture = file.scene.animation, inputs["picture"]
    score, reference = (
        DenoiserScore(GaussianMixture(inputs[name], table.std**2)) for name in ("moved", "rest")
    )
    drive = ScoreDistillation(
        score,
        None if table.reference == "none" else reference,
        table.steps,
        origin=picture if table.reference == "origin" else None,
    )
    # Nothing is measured: the scores, at the warped picture, and the priors determine the motion.
    A = ImageWarp(picture)
    nothing = NoMeasurement(A.domain_shape)
    scores = table.strength * ThroughOperator(drive, A)
    smoothness = prior_of(file.scene.prior, file)
    solution = solve(
        Problem(nothing.measurements(), nothing),
        scores if smoothness is None else scores + smoothness,
        # The draws of noise differ from step to step, and the average levels them out.
        Adam(learning_rate=table.learning_rate, iterate="average"),
        1.0,
        max_iterations=table.max_iterations,
        tolerance=0,
        progress=progress,
        check=False,
    )
    return Animation(solution, A(solution.x))


def _measure(animation: Animation, inputs: Inputs) -> dict[str, float]:
    """Return mean displacement, share of folds and, of a simulation, PSNR moved and at rest."""
    u = animation.solution.x
    measures = {
        "moved": float(u[0].norm(dim=0).mean()),
        "folding": float(metrics.folding(u)[0]),
    }
    if inputs["truth"] is not None:
        for name, image in (("psnr", animation.picture), ("psnr at rest", inputs["picture"])):
            measures[name] = float(metrics.psnr(image, inputs["truth"], data_range=1.0))
    return measures


def _compare(file: CheckedScene[AnimationScene], animation: Animation, inputs: Inputs) -> Compared:
    """Return the picture at rest, which is the simple answer, the moved one, and the truth."""
    images = {"At rest": inputs["picture"][0], "Moved": animation.picture[0]}
    if inputs["truth"] is None:
        return Compared(images, "Moved")
    measures = _measure(animation, inputs)
    words, is_good = describe_gain(
        measures["psnr"], measures["psnr at rest"], "the picture at rest"
    )
    images["Truth"] = inputs["truth"][0]
    return Compared(images, "Moved", "Truth", words=words, is_good=is_good)


def _write_pictures(path: Path, animation: Animation, inputs: Inputs) -> None:
    """Write the picture before and after the motion."""
    pair = torch.cat([inputs["picture"], animation.picture], 3)[0]
    write_png(path, pair if len(pair) == 3 else pair[0], overwrite=True)


COMMAND = SceneCommand(
    description="Move a picture as pictures of other objects move, from examples at rest and moved. "
    "What both groups have in common,\nsuch as the brightness of their objects, cancels.",
    positional={"PICTURE": "animation.picture"},
    options={
        "--rest": "animation.rest",
        "--moved": "animation.moved",
        "--std": "animation.std",
        "--strength": "animation.strength",
        "--iterations": "animation.max_iterations",
        "--seed": "animation.seed",
    },
    examples=(
        "animate heart.png --rest other-*-0.png --moved other-*-1.png --output moved.npy motion.npz",
        "animate heart.png --rest a0.png b0.png --moved a1.png b1.png --output results/heart",
    ),
    outputs=("{stem}_moved.npy", "{stem}_motion.npz"),
)

KIND = Kind(
    AnimationScene,
    "a picture that moves",
    _read,
    _move,
    _measure,
    {
        "npz": ("motion.npz", arrays_of(lambda motion, _: {"displacement": motion.solution.x[0]})),
        "npy": (
            "moved.npy",
            lambda path, moved, _: datasets.write(path, moved.picture[0], overwrite=True),
        ),
        "png": ("animation.png", _write_pictures),
    },
    usual=("npz", "npy", "png"),
    units={"moved": "pixels", "psnr": "dB", "psnr at rest": "dB"},
    compare=_compare,
    command=COMMAND,
)
