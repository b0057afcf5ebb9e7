"""Scene files of a moving object: Gaussians at rest, and pictures of them at several times.

The tables::

    title, seed, regularization
    [motion]               rest: PLY file of the Gaussians at rest, and pictures: one folder of
                           photographs with cameras per time, in their order, or one pattern;
                           hold_out: names or patterns of the held-out views; background;
                           largest_side; nodes: number of control nodes, by default every Gaussian
                           moves by itself
    [motion.simulate]      or a simulated bar: motion, cameras, times, held_out, size, noise_std
    [[prior]]              priors of rigidity with weights; neighbours is the number of neighbours
                           of each Gaussian in the graph, 10 by default
    [data_term]            photometric by default
    [solver]               Adam by default: settings, and the budget per time
    [output]               folder, formats
    [presets.NAME]         changes by dotted keys, made by preset = "NAME"

The times are solved one after the other, each from the result before.
"""

from __future__ import annotations

import glob
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file, save
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.catalogue.documents import Alone, CheckedScene, Several, Table
from invtoolbox.catalogue.registry import build, lookup
from invtoolbox.core.checks import decoding
from invtoolbox.datasets.models.gaussians import read_splats, write_splats
from invtoolbox.datasets.output import make_folder, write_bytes, write_png
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.geometry.moving_shapes import Moving
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.operators import OverTime
from invtoolbox.priors.base import Prior
from invtoolbox.priors.implicit.deformation import ControlNodes, Deformation, PointMotion
from invtoolbox.runs.images.parts import prior_of, solver_of
from invtoolbox.runs.images.tables import DataTerm as DataTermTable
from invtoolbox.runs.images.tables import Prior as PriorTable
from invtoolbox.runs.images.tables import Solver as SolverTable
from invtoolbox.runs.job import Request, SceneJob, read_json, write_json
from invtoolbox.simulation import bending
from invtoolbox.solve import solve
from invtoolbox.solvers.adam import Adam
from invtoolbox.views.photographs import Photographs, judge, split_views
from invtoolbox.views.representations import GaussianModel

#: Files of the results: the parameters of the motion, one PLY file per time, and a picture with a
#: column per time, measured above rendered.
STATE, MODELS, STRIP = "motion.safetensors", "models", "motion.png"
#: Number of iterations per time if the scene gives none.
STEPS = 60


class Simulated(Table):
    """Simulated pictures of a bar that bends; the held-out cameras see it without noise."""

    motion: bending.Bend = "bend"
    cameras: int = Field(3, ge=1)
    times: int = Field(8, ge=1)
    held_out: int = Field(6, ge=0)
    size: tuple[int, int] = (40, 48)
    noise_std: float = Field(0.02, ge=0)


class MotionTable(Table):
    """Gaussians at rest and pictures at several times, or a simulation of both."""

    simulate: Simulated | None = None
    rest: str | None = None
    pictures: list[str] | str | None = None
    hold_out: list[str] = Field(default_factory=list)
    background: float | tuple[float, float, float] = 0.0
    largest_side: int | None = Field(None, ge=1)
    nodes: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _measured_or_simulated(self) -> MotionTable:
        given = (self.rest is not None, self.pictures is not None)
        if given != (self.simulate is None,) * 2:
            raise ValueError("give either both rest and pictures, or the table [motion.simulate]")
        return self


class MovingOutput(Table):
    """Folder and formats of the results.

    ``model`` is a PLY file of the Gaussians per time, ``png`` a picture of all times.
    """

    folder: str | None = None
    formats: list[Literal["model", "png"]] = Field(["model", "png"])


class MovingScene(Table):
    """Scene file of a moving object."""

    title: str | None = None
    motion: MotionTable
    prior: Several[PriorTable] = Field([PriorTable(name="arap", weight=10.0)])
    data_term: Alone[DataTermTable] = DataTermTable(name="photometric", similarity=0.0)
    solver: Alone[SolverTable] = SolverTable()
    regularization: float = Field(1.0, gt=0)
    output: MovingOutput = Field(default_factory=MovingOutput)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Sequence:
    """Gaussians at rest, the pictures of every time, and the true displacements if known.

    Attributes:
        rest: the Gaussians at rest, a batch of one.
        frames: training and held-out views per time.
        truth: true displacements ``(T, N, 3)``, or None.
    """

    rest: Splats
    frames: tuple[Photographs, ...]
    truth: Tensor | None = None


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
        nodes = self.scene.motion.nodes
        motion = PointMotion(times) if nodes is None else ControlNodes(nodes, times)
        return Deformation(rest, motion)

    def sequence(self) -> Sequence:
        """Read the Gaussians and the pictures of the scene, or simulate them."""
        table = self.scene.motion
        if table.simulate is not None:
            return self._simulate(table.simulate)
        rest = read_splats(self.locate(str(table.rest)))
        frames = []
        for folder in self._folders():
            found = datasets.open_views(folder, largest_side=table.largest_side)
            try:
                frames.append(split_views(found, table.hold_out))
            except InputError as error:
                raise InputError(f"{self.path}: [motion]: {folder}: {error}") from error
        return Sequence(rest, tuple(frames))

    def _folders(self) -> list[Path]:
        given = self.scene.motion.pictures
        if not isinstance(given, str):
            assert given is not None
            return [self.locate(one) for one in given]
        for base in (self.path.parent, Path(), datasets.data_folder()):
            found = sorted(Path(one) for one in glob.glob(str(base / Path(given).expanduser())))
            if found:
                return found
        raise InputError(
            f"{self.path}: [motion]: no folder matches {given}; give one folder of photographs "
            "with cameras per time"
        )

    def _simulate(self, table: Simulated) -> Sequence:
        rest = bending.bar()
        model = self.model(rest)
        around = [
            bending.cameras_around(count, table.size, height, first)
            for count, height, first in ((table.cameras, -2.0, 0.4), (table.held_out, -1.0, 0.0))
        ]
        frames, truth = [], []
        for k in range(1, table.times + 1):
            truth.append(bending.bend(rest.means[0], table.motion, k / table.times))
            now = replace(rest, means=rest.means + truth[-1])
            sets = []
            for cameras in around:
                A = model.operator(cameras) if len(cameras) else None
                seen = torch.zeros(1, 3, 0, *table.size) if A is None else A(now)
                if cameras is around[0]:
                    generator = torch.Generator().manual_seed(self.scene.seed + k)
                    seen = seen + table.noise_std * torch.randn(seen.shape, generator=generator)
                pictures = seen[0].transpose(0, 1)
                sets.append(PosedPictures(cameras, pictures, torch.ones_like(pictures[:, :1])))
            frames.append(Photographs(*sets))
        return Sequence(rest, tuple(frames), torch.stack(truth))

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
            mean distance of the Gaussians from the truth in per cent of the diagonal at rest.
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


def prepare(scene: str | Path, request: Request) -> MovingJob:
    """Read and check a scene of a moving object, and return its job."""
    return MovingJob.prepare(read_moving_scene(scene, request.overrides), request)


def read_moving_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> MovingSceneFile:
    """Read and check a scene file of a moving object.

    The errors are those of `invtoolbox.runs.images.tables.read_scene`.

    >>> read_moving_scene("bending-bar", {"preset": "isometry"}).scene.prior[0].name
    'isometry'
    """
    return MovingSceneFile.read(MovingScene, scene, overrides)


@dataclass(frozen=True)
class MovingJob(SceneJob[MovingScene]):
    """Run of one scene of a moving object."""

    files: ClassVar = ("scene.json", "metrics.json", STATE, STRIP)
    free: ClassVar = ("title", "output")
    file: MovingSceneFile

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
        done = 0 if state is None else next(iter(state.values())).shape[1]
        if state is not None and done == times and measures.exists():
            known = read_json(measures)
            moving = file.deformation(rest, times).prepare(None, None).decode(state)
            return MovingOutcome(moving, folder, known["metrics"], known["held_out"])
        self.start(content)
        measures.unlink(missing_ok=True)
        represented = file.deformation(rest, 1)
        prior: Prior = represented if explicit is None else represented + explicit
        diverged = []
        try:
            for k in range(done, times):
                train = sequence.frames[k].train
                problem = file.model(rest).problem(train, term)
                solution = solve(
                    problem.with_operator(OverTime([problem.operator])),
                    prior,
                    solver,
                    regularization=file.scene.regularization,
                    initial=None if state is None else {n: t[:, -1:] for n, t in state.items()},
                    max_iterations=budgets.max_iterations or STEPS,
                    tolerance=budgets.tolerance or 0.0,
                    time_limit=budgets.time_limit,
                    seed=file.scene.seed,
                    progress=progress,
                )
                diverged += [k] if "diverged" in solution.status else []
                found: dict[str, Tensor] = {n: t.cpu() for n, t in solution.parameters.items()}
                state = (
                    found
                    if state is None
                    else {n: torch.cat([state[n], t], 1) for n, t in found.items()}
                )
                write_bytes(folder / STATE, save(_contiguous(state)), overwrite=True)
        except KeyboardInterrupt:
            raise self.interrupted(
                state is not None, f"the times so far are in {folder / STATE}"
            ) from None
        assert state is not None
        moving = file.deformation(rest, times).prepare(None, None).decode(state)
        return self._write(sequence, moving, tuple(diverged))

    def _write(
        self, sequence: Sequence, moving: Moving, diverged: tuple[int, ...]
    ) -> MovingOutcome:
        folder, formats = self.folder, self.file.scene.output.formats
        model, held = self.file.model(sequence.rest), len(sequence.frames[0].held) > 0
        quality, strip = [], []
        for k, frame in enumerate(sequence.frames):
            seen = model.look(moving.at(k), frame.judged.cameras).color
            scores = judge(seen, frame.judged, model.shade(), ("psnr",))["psnr"]
            quality.append(float(scores.mean()))
            strip.append(torch.cat([frame.judged.on(model.shade())[0], seen[0]], 1))
        metrics = {"psnr": quality}
        if sequence.truth is not None:
            points = sequence.rest.means[0]
            diagonal = float((points.amax(0) - points.amin(0)).norm())
            off = (moving.displacements[0] - sequence.truth).norm(dim=-1).mean(1)
            metrics["error"] = (100 * off / diagonal).tolist()
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
        write_json(folder / "metrics.json", {"metrics": metrics, "held_out": held})
        written.append(folder / "metrics.json")
        return MovingOutcome(moving, folder, metrics, held, tuple(written), diverged)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read the parameters of the times so far, ``(1, T, ...)`` each."""
    with decoding(path, "safetensors"):
        return load_file(path)
