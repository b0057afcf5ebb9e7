"""Scene files of a moving object: Gaussians at rest, and pictures of them at several times.

The tables::

    title, seed, regularization
    [motion]               rest: PLY file of the Gaussians at rest, and pictures: one folder of
                           photographs with cameras per time, in their order, or one pattern;
                           hold_out: names or patterns of the held-out views; background;
                           largest_side; nodes: number of control nodes, or bones: number of bones,
                           by default every Gaussian moves by itself
    [motion.simulate]      or a simulated bar: motion, cameras, times, held_out, size, noise_std
    [motion.film]          or a filmed mesh: path, points, frames, unseen, markers, cameras, ...
    [[prior]]              priors of rigidity with weights; neighbours is the number of neighbours
                           of each Gaussian in the graph, 10 by default
    [data_term]            photometric by default
    [solver]               Adam by default: settings, and the budget per time
    [output]               folder, formats
    [presets.NAME]         changes by dotted keys, made by preset = "NAME"

The times are solved one after the other, each from the result before. Bones have the same weights
at all times, which are solved together.
"""

from __future__ import annotations

import glob
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file, save
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.catalogue.documents import (
    Alone,
    CheckedScene,
    FilePath,
    Several,
    Table,
    refuse_outside,
)
from invtoolbox.catalogue.registry import build, lookup
from invtoolbox.core.checks import decoding
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.datasets import PosedPictures, read_splats, write_splats
from invtoolbox.datasets.output import make_folder, write_bytes, write_png
from invtoolbox.errors import InputError
from invtoolbox.geometry import NeighbourGraph, Splats
from invtoolbox.geometry.moving_shapes import Moving, blend_turns
from invtoolbox.jobs.images.parts import prior_of, solver_of
from invtoolbox.jobs.images.tables import DataTerm as DataTermTable
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.images.tables import Solver as SolverTable
from invtoolbox.jobs.job import SceneJob, alone, print_files, read_json, write_json
from invtoolbox.jobs.kind import OwnKind
from invtoolbox.jobs.photographs.photographs import Photographs, judge, split_views
from invtoolbox.jobs.photographs.representations import GaussianModel
from invtoolbox.jobs.shapes.articulation import find_bones
from invtoolbox.jobs.shapes.moving_sequences import (
    FilmedMesh,
    Sequence,
    Simulated,
    film_mesh,
    simulate_bar,
)
from invtoolbox.operators import OverTime
from invtoolbox.priors import Bones, Prior
from invtoolbox.priors.implicit.deformation import ControlNodes, Deformation, Motion, PointMotion
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.adam import Adam

#: Files of the results: the parameters of the motion, one PLY file per time, and a picture with a
#: column per time, measured above rendered.
STATE, MODELS, STRIP = "motion.safetensors", "models", "motion.png"
#: Number of iterations per time, or of bones in all, if the scene gives none.
STEPS, BONES_STEPS = 60, 300
#: Weight of the energy of bones, whose misfit is a mean over pictures.
_BONES_WEIGHT = 1e-4
#: Number of iterations for the poses that were not seen.
_POSE_STEPS = 100


class MotionTable(Table):
    """Gaussians at rest and pictures at several times, or a simulation of both."""

    simulate: Simulated | None = Field(None, description="simulation of a bar that bends")
    film: FilmedMesh | None = Field(None, description="simulated pictures of a moving mesh")
    rest: FilePath | None = Field(None, description="PLY file of the Gaussians at rest")
    pictures: list[FilePath] | FilePath | None = Field(
        None,
        description="one folder of photographs with cameras per time, in their order, or a pattern "
        "of these folders",
    )
    hold_out: list[str] = Field(
        default_factory=list, description="names or patterns of the held-out views"
    )
    background: float | tuple[float, float, float] = Field(
        0.0, description="color behind the Gaussians"
    )
    largest_side: int | None = Field(
        None, ge=1, description="largest side of a picture; larger ones are reduced"
    )
    nodes: int | None = Field(
        None, ge=1, description="number of control nodes; by default every Gaussian moves by itself"
    )
    bones: int | None = Field(None, ge=1, description="number of bones, in place of nodes")

    @model_validator(mode="after")
    def _measured_or_simulated(self) -> MotionTable:
        simulations = [table for table in (self.simulate, self.film) if table is not None]
        measured = (self.rest is not None, self.pictures is not None)
        if len(simulations) > 1 or measured != (not simulations,) * 2:
            raise ValueError(
                "give either both rest and pictures, or the table [motion.simulate], or the table "
                "[motion.film]"
            )
        if self.nodes is not None and self.bones is not None:
            raise ValueError("the motion has either nodes or bones, not both")
        if self.film is not None and self.film.unseen and self.bones is None:
            raise ValueError(
                "only bones have poses that were not seen: give bones = 20, or leave "
                "film.unseen out"
            )
        return self


class MovingOutput(Table):
    """Folder and formats of the results.

    ``model`` is a PLY file of the Gaussians per time, ``png`` a picture of all times.
    """

    folder: str | None = Field(None, description="folder of the results")
    formats: list[Literal["model", "png"]] = Field(
        ["model", "png"], description="formats of the results"
    )


class MovingScene(Table):
    """Scene file of a moving object."""

    title: str | None = Field(None, description="title of the report")
    motion: MotionTable
    prior: Several[PriorTable] = Field(
        [PriorTable(name="arap", weight=10.0)], description="priors of rigidity"
    )
    data_term: Alone[DataTermTable] = DataTermTable(name="photometric", similarity=0.0)
    solver: Alone[SolverTable] = SolverTable()
    regularization: float = Field(1.0, gt=0, description="factor on the priors")
    output: MovingOutput = Field(default_factory=MovingOutput)
    seed: int = Field(0, description="seed of the simulation and of the solver")


class MovingSceneFile(CheckedScene[MovingScene]):
    """Checked scene of a moving object."""

    def model(self, rest: Splats) -> GaussianModel:
        """Return the model that renders the Gaussians.

        Args:
            rest: the Gaussians at rest.
        """
        low, high = (tuple(v.tolist()) for v in (rest.means[0].amin(0), rest.means[0].amax(0)))
        return GaussianModel(low, high, self.scene.motion.background)

    def deformation(self, rest: Splats, times: int) -> Deformation:
        """Return the prior that represents the motion at some times.

        Args:
            rest: the Gaussians at rest.
            times: number of times.
        """
        table = self.scene.motion
        motion: Motion = PointMotion(times)
        if table.nodes is not None:
            motion = ControlNodes(table.nodes, times)
        elif table.bones is not None:
            motion = Bones(table.bones, times, weight=_BONES_WEIGHT)
        return Deformation(rest, motion)

    def sequence(self) -> Sequence:
        """Read the Gaussians and the pictures of the scene, or simulate them."""
        table, seed = self.scene.motion, self.scene.seed
        if table.simulate is not None:
            return simulate_bar(table.simulate, table.background, seed)
        if table.film is not None:
            return film_mesh(table.film, self.locate(table.film.path), table.background, seed)
        rest = read_splats(self.locate(str(table.rest)))
        frames = []
        for folder in self._folders():
            views = datasets.open_views(folder, largest_side=table.largest_side)
            try:
                frames.append(split_views(views, table.hold_out))
            except InputError as error:
                raise InputError(f"{self.path}: [motion]: {folder}: {error}") from error
        return Sequence(rest, tuple(frames))

    def _folders(self) -> list[Path]:
        pattern = self.scene.motion.pictures
        if not isinstance(pattern, str):
            return [self.locate(name) for name in pattern or ()]
        for base in (self.path.parent, Path(), datasets.data_folder()):
            names = sorted(glob.glob(str(base / Path(pattern).expanduser())))
            if names:
                if pattern not in self.given:
                    refuse_outside(self.path, pattern, Path(names[0]))
                return [Path(name) for name in names]
        raise InputError(
            f"{self.path}: [motion]: no folder matches {pattern}; give one folder of photographs "
            "with cameras per time"
        )

    def explicit(self, rest: Splats) -> Prior | None:
        """Return the sum of the priors of rigidity, on graphs of the Gaussians at rest.

        Args:
            rest: the Gaussians at rest.
        """
        tables = []
        for table in self.scene.prior:
            settings = dict(table.settings)
            if "graph" in inspect.signature(lookup("priors", table.name)).parameters:
                count = settings.pop("neighbours", 10)
                settings["graph"] = NeighbourGraph.of_points(rest.means[0], count)
            tables.append(PriorTable(name=table.name, weight=table.weight, **settings))
        return prior_of(tables, self)


@dataclass(frozen=True, eq=False)
class MovingOutcome:
    """Estimated motion, its quality, and its files.

    Attributes:
        moving: the Gaussians at rest, and their displacements and rotations at all times.
        folder: folder of the results.
        metrics: one value per time by the name of the metric: "psnr", the mean of the held-out
            views, or of the training views if none is held out; and, of a simulation, "error", the
            mean distance of the Gaussians from the truth in per cent of the diagonal at rest. "unseen
            psnr" and "unseen error" are those of poses that took no part, found from markers.
        held_out: whether "psnr" is that of held-out views.
        files: files that were written; empty if an earlier run was finished.
        diverged: numbers of the times whose iteration diverged.
    """

    moving: Moving
    folder: Path
    metrics: dict[str, list[float]]
    held_out: bool
    files: tuple[Path, ...] = ()
    diverged: tuple[int, ...] = ()

    def mean(self, name: str) -> float:
        """Return the mean of a metric over the times."""
        return sum(self.metrics[name]) / len(self.metrics[name])


def read_moving_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> MovingSceneFile:
    """Read and check a scene file of a moving object.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    >>> read_moving_scene("bending-bar", {"preset": "isometry"}).scene.prior[0].name
    'isometry'
    """
    return MovingSceneFile.read(MovingScene, scene, overrides)


@dataclass(frozen=True)
class MovingJob(SceneJob[MovingScene]):
    """Run of one scene of a moving object."""

    files: ClassVar = ("scene.json", "metrics.json", STATE, STRIP, f"{MODELS}/time_*.ply")
    free: ClassVar = ("title", "output")
    file: MovingSceneFile

    @alone
    def run(self, progress: bool = True) -> MovingOutcome:
        """Estimate the motion time by time; a resumed run begins after the last known time."""
        file, folder = self.file, self.folder
        sequence = file.sequence()
        rest, times, measures = sequence.rest, len(sequence.frames), folder / "metrics.json"
        content = self.check_content(rest=rest, pictures=sequence.frames)
        explicit, budgets = file.explicit(rest), file.scene.solver
        solver = solver_of(budgets, file) or Adam(learning_rate=3e-3, epsilon=1e-15)
        term = build("data_terms", file.scene.data_term.name, file.scene.data_term.settings)
        state = _read_state(folder / STATE) if self.resume and (folder / STATE).exists() else None
        done = 0 if state is None else state["motion.turns"].shape[1]
        if state is not None and done == times and measures.exists():
            saved = read_json(measures)
            moving = file.deformation(rest, times).prepare(None, None).decode(state)
            return MovingOutcome(moving, folder, saved["metrics"], saved["held_out"])
        self.start(content)
        measures.unlink(missing_ok=True)
        # Bones have the same weights at all times, which are solved together.
        has_bones = file.scene.motion.bones is not None
        together = times if has_bones else 1
        deformation = file.deformation(rest, together)
        prior: Prior = deformation if explicit is None else deformation + explicit
        diverged: list[int] = []
        try:
            for first in range(done, times, together):
                frames = sequence.frames[first : first + together]
                problem = _problem(file.model(rest), frames, term)
                solution = solve(
                    problem,
                    prior,
                    solver,
                    regularization=file.scene.regularization,
                    initial=None if state is None else {n: t[:, -1:] for n, t in state.items()},
                    max_iterations=budgets.max_iterations or (BONES_STEPS if has_bones else STEPS),
                    tolerance=budgets.tolerance or 0.0,
                    time_limit=budgets.time_limit,
                    seed=file.scene.seed,
                    progress=progress,
                )
                if "diverged" in solution.status:
                    diverged += range(first, first + together)
                parameters: dict[str, Tensor] = solution.parameters
                if state is None:
                    state = {n: t.cpu() for n, t in parameters.items()}
                else:
                    state = {n: torch.cat([state[n], t.cpu()], 1) for n, t in parameters.items()}
                tensors = {n: t.contiguous() for n, t in state.items()}
                write_bytes(folder / STATE, save(tensors), overwrite=True)
        except KeyboardInterrupt:
            raise self.interrupted(
                state is not None, f"the times so far are in {folder / STATE}"
            ) from None
        assert state is not None
        moving = file.deformation(rest, times).prepare(None, None).decode(state)
        return self._write(sequence, moving, tuple(diverged))

    def print_outcome(self, outcome: MovingOutcome, quiet: bool) -> int:
        if outcome.diverged:
            print(
                f"invtoolbox: the iteration diverged at the times {outcome.diverged}; take a smaller "
                "solver.learning_rate",
                file=sys.stderr,
            )
        if not quiet:
            which = "held-out" if outcome.held_out else "training"
            units = {"psnr": f"dB of {which} views", "error": "% of the diagonal from the truth"}
            for name, values in outcome.metrics.items():
                print(
                    f"  {name:<14}{outcome.mean(name):.4g} {units[name.split()[-1]]}, mean of "
                    f"{len(values)} times ({min(values):.4g} to {max(values):.4g})"
                )
            print_files(outcome.files, outcome.folder)
        return 1 if outcome.diverged else 0

    def _write(
        self, sequence: Sequence, moving: Moving, diverged: tuple[int, ...]
    ) -> MovingOutcome:
        folder, formats = self.folder, self.file.scene.output.formats
        has_held_out = len(sequence.frames[0].held) > 0
        metrics, strip = self._judge(moving, sequence.frames, sequence.truth)
        if sequence.poses:
            posed = _pose(moving, sequence)
            metrics_of_poses, columns = self._judge(posed, sequence.poses, sequence.true_poses)
            metrics |= {f"unseen {name}": values for name, values in metrics_of_poses.items()}
            strip += columns
        written = [folder / STATE]
        if "model" in formats:
            make_folder(folder / MODELS)
            for k in range(moving.times):
                path = folder / MODELS / f"time_{k:04d}.ply"
                write_splats(path, moving.at(k), overwrite=True)
            written.append(folder / MODELS)
        if "png" in formats:
            write_png(folder / STRIP, torch.cat(strip, 2), (0.0, 1.0), overwrite=True)
            written.append(folder / STRIP)
        write_json(folder / "metrics.json", {"metrics": metrics, "held_out": has_held_out})
        written.append(folder / "metrics.json")
        return MovingOutcome(moving, folder, metrics, has_held_out, tuple(written), diverged)

    def _judge(
        self, moving: Moving, frames: tuple[Photographs, ...], truth: Tensor | None
    ) -> tuple[dict[str, list[float]], list[Tensor]]:
        """Return the metrics of every time, and pictures of it, measured above rendered."""
        model = self.file.model(moving.shape)
        quality, strip = [], []
        for k, frame in enumerate(frames):
            rendered = model.look(moving.at(k), frame.judged.cameras).color
            scores = judge(rendered, frame.judged, model.shade(), ("psnr",))["psnr"]
            quality.append(float(scores.mean()))
            strip.append(torch.cat([frame.judged.on(model.shade())[0], rendered[0]], 1))
        metrics = {"psnr": quality}
        if truth is not None:
            points = moving.shape.means[0]
            diagonal = float((points.amax(0) - points.amin(0)).norm())
            distance = (moving.displacements[0] - truth).norm(dim=-1).mean(1)
            metrics["error"] = (100 * distance / diagonal).tolist()
        return metrics, strip


def _problem(model: GaussianModel, frames: tuple[Photographs, ...], term: DataTerm) -> Problem:
    """Return the problem of the training views of some times."""
    problems = [model.problem(frame.train, term) for frame in frames]
    A = OverTime([problem.operator for problem in problems])
    if len(problems) == 1:
        return problems[0].with_operator(A)
    views = [frame.train.read() for frame in frames]
    masks = [torch.ones_like(view.alpha) if view.mask is None else view.mask for view in views]
    joined = PosedPictures(
        A.cameras,
        torch.cat([view.pictures for view in views]),
        torch.cat([view.alpha for view in views]),
        mask=None if all(view.mask is None for view in views) else torch.cat(masks),
    )
    return model.problem(joined, term).with_operator(A)


def _pose(moving: Moving, sequence: Sequence) -> Moving:
    """Return the Gaussians in the unseen poses, found from the places of the markers alone."""
    assert sequence.markers is not None and sequence.true_poses is not None
    rest, weights = sequence.rest.means[0], moving._bones("an unseen pose").weights[0]
    places = (rest + sequence.true_poses)[:, sequence.markers]
    posed = find_bones(
        rest,
        places,
        index=sequence.markers,
        weights=weights,
        ordered=False,
        max_iterations=_POSE_STEPS,
    ).x
    bones = posed.skinning
    return Moving(posed.displacements, blend_turns(bones.weights, bones.poses), moving.shape, bones)


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read the parameters of the times so far, ``(1, T, ...)`` each."""
    with decoding(path, "safetensors"):
        return load_file(path)


KIND = OwnKind(MovingScene, read_moving_scene, MovingJob.prepare)
