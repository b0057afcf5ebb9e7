"""Scene files of seismic surveys: records or a model to simulate them, and the velocity.

The tables::

    title
    [survey]           path: a SEG-Y file whose places lie on a line; rows: number of cells below it
    [survey.simulate]  or a model: path (.npy, .npz or .mat with the array name), in m/s; cell: side of
                       its cells; rows and columns: first one, and one behind the last; shots,
                       receivers: their numbers, in the second row of cells; samples; noise_std, seed
    [inversion]        spacing: side of a cell; frequency: main frequency of a Ricker wavelet; velocities:
                       least and largest; time_step, of a simulation; start: velocities at the top and at
                       the bottom, the path of a .npy file, or "smooth" with smooth = metres; bands;
                       order, length: Sobolev misfit along time, length in seconds; max_iterations per
                       band
    [[prior]]          priors with gradients, of weight 1 unless given; none by default
    [output]           folder, formats
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene, Several, Table
from invtoolbox.core.checks import decoding, open_arrays, require_file
from invtoolbox.data_terms import LeastSquares, Sobolev
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.datasets.output import write_bytes, write_npy
from invtoolbox.datasets.scans.segy import read_segy
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.parts import prior_of
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.job import Request, SceneJob, read_json, write_json
from invtoolbox.jobs.waves.invert import invert_waveforms
from invtoolbox.operators import AcousticWaves
from invtoolbox.simulation.wavelets import ricker
from invtoolbox.solution import Solution


class SimulatedSurvey(Table):
    """Model of the velocity, and shots and receivers at its top."""

    path: str
    name: str | None = None
    cell: float = Field(gt=0)
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    shots: int = Field(8, ge=1)
    receivers: int = Field(60, ge=1)
    samples: int = Field(ge=1)
    noise_std: float = Field(0.0, ge=0)
    seed: int = 0


class SurveyTable(Table):
    """Records of a file, or of a simulation."""

    path: str | None = None
    rows: int | None = Field(None, ge=1)
    simulate: SimulatedSurvey | None = None

    @model_validator(mode="after")
    def _one_source(self) -> SurveyTable:
        if (self.path is None) == (self.simulate is None):
            raise ValueError("give either a path or the table [survey.simulate]")
        if (self.path is None) != (self.rows is None):
            raise ValueError("records of a file need rows, the number of cells of the depth")
        return self


class InversionTable(Table):
    """Grid, wavelet, start and bands of the inversion."""

    spacing: float = Field(gt=0)
    frequency: float = Field(gt=0)
    velocities: tuple[float, float]
    time_step: float | None = Field(None, gt=0)
    start: tuple[float, float] | str
    smooth: float = Field(320.0, gt=0)
    bands: list[float]
    order: float = 0.0
    length: float | None = Field(None, gt=0)
    max_iterations: int = Field(20, ge=1)

    @model_validator(mode="after")
    def _order_with_length(self) -> InversionTable:
        if self.order != 0 and self.length is None:
            raise ValueError("a misfit of another order than 0 needs its length in seconds")
        return self


class WaveOutput(Table):
    """Folder and formats of the results; h5 holds the solution, npy the velocity."""

    folder: str | None = None
    formats: list[Literal["npy", "png", "h5"]] = Field(["npy", "png", "h5"])


class WaveScene(Table):
    """Scene file of a survey."""

    title: str | None = None
    survey: SurveyTable
    inversion: InversionTable
    prior: Several[PriorTable] = Field([])
    output: WaveOutput = Field(default_factory=WaveOutput)


class WaveSceneFile(CheckedScene[WaveScene]):
    """Checked scene of a survey."""

    def survey(self) -> tuple[Tensor, AcousticWaves, Tensor | None]:
        """Read or simulate the records; return them, the survey, and the true velocity if known."""
        table, inversion = self.scene.survey, self.scene.inversion
        if table.simulate is None:
            return *self._recorded(table, inversion), None
        simulated, spacing = table.simulate, inversion.spacing
        truth = self._model(simulated, spacing)
        rows, columns = truth.shape[-2:]
        if inversion.time_step is None:
            raise InputError(f"{self.path}: a simulation needs inversion.time_step, in seconds")
        width = (columns - 1) * spacing
        step = width / simulated.shots
        along = torch.linspace(step / 2, width - step / 2, simulated.shots)
        every = torch.linspace(0, width, simulated.receivers)
        A = AcousticWaves(
            (rows, columns),
            spacing,
            torch.stack([torch.full_like(along, spacing), along], 1),
            torch.stack([torch.full_like(every, spacing), every], 1),
            self._wavelet(inversion.time_step, simulated.samples),
            inversion.time_step,
            inversion.velocities,
            samples=simulated.samples,
        )
        return A.simulate(truth, simulated.noise_std, simulated.seed), A, truth

    def start(self, survey: AcousticWaves, truth: Tensor | None) -> Tensor:
        """Return the velocity from which the inversion starts, ``(1, 1, rows, columns)``."""
        from scipy.ndimage import gaussian_filter

        table, grid = self.scene.inversion, survey.grid
        if isinstance(table.start, tuple):
            line = torch.linspace(table.start[0], table.start[1], grid[0])
            return line[:, None].expand(grid)[None, None].contiguous()
        if table.start == "smooth":
            if truth is None:
                raise InputError(
                    f"{self.path}: start = 'smooth' smooths the model of a simulation; give the "
                    "velocities at the top and at the bottom, or the path of a .npy file"
                )
            cells = table.smooth / table.spacing
            return torch.from_numpy(gaussian_filter(truth[0, 0].numpy(), cells, mode="nearest"))[
                None, None
            ]
        path = self.locate(table.start)
        opened = open_arrays(path)
        if not isinstance(opened, np.ndarray):
            raise InputError(f"{path}: the start is one array; save it as a .npy file")
        start = torch.from_numpy(np.asarray(opened, np.float32))
        if tuple(start.shape) != grid:
            raise InputError(
                f"{path}: the start has the shape {tuple(start.shape)}, and the grid {grid}; give one "
                "velocity per cell"
            )
        return start[None, None]

    def _recorded(
        self, table: SurveyTable, inversion: InversionTable
    ) -> tuple[Tensor, AcousticWaves]:
        found = read_segy(self.locate(str(table.path)))
        shots, receivers = found.line()
        end = max(float(shots[:, 1].max()), float(receivers[..., 1].max()))
        columns = math.ceil(end / inversion.spacing - 1e-6) + 1
        assert table.rows is not None
        samples = found.records.shape[-1]
        A = AcousticWaves(
            (table.rows, columns),
            inversion.spacing,
            shots,
            receivers,
            self._wavelet(found.time_step, samples),
            found.time_step,
            inversion.velocities,
            samples=samples,
        )
        return found.records[None, None], A

    def _wavelet(self, time_step: float, samples: int) -> Tensor:
        """Return a Ricker wavelet, cut where it ends near 0."""
        frequency = self.scene.inversion.frequency
        return ricker(frequency, time_step, min(samples, math.ceil(2.4 / frequency / time_step)))

    def _model(self, table: SimulatedSurvey, spacing: float) -> Tensor:
        """Return the model in cells of the inversion, each the mean of the model's own cells."""
        path = self.locate(table.path)
        values = _read_array(path, table.name)
        share = spacing / table.cell
        factor = round(share)
        if values.ndim != 2 or factor < 1 or abs(share - factor) > 1e-6:
            raise InputError(
                f"{path}: a model of shape {values.shape} in cells of {table.cell:g} m cannot have "
                f"cells of {spacing:g} m; give two axes, and a multiple of the cells"
            )
        ends = [end or (0, n) for end, n in zip((table.rows, table.columns), values.shape)]
        if any(not 0 <= first < last <= n for (first, last), n in zip(ends, values.shape)):
            raise InputError(
                f"{path}: rows {list(ends[0])} and columns {list(ends[1])} are no part of a model of "
                f"shape {values.shape}; give the first one and one behind the last"
            )
        values = values[slice(*ends[0]), slice(*ends[1])]
        if not np.isfinite(values).all():
            raise InputError(f"{path}: the model holds NaN or infinite values; fill them")
        rows, columns = (n // factor for n in values.shape)
        if not rows or not columns:
            raise InputError(f"{path}: no cell is left of the model; check rows and columns")
        blocks = values[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
        return torch.from_numpy(blocks.mean((1, 3))).float()[None, None]


@dataclass(frozen=True)
class WaveOutcome:
    """Velocity below a survey, and the files.

    Attributes:
        solution: solution of the last band; None if the earlier run left no solution.
        folder: folder of the results.
        metrics: "misfit", the norm of the residual relative to that of the records, and, of a
            simulation, "start error" and "error", root mean square errors in m/s.
        files: files that were written; empty if an earlier run was finished.
    """

    solution: Solution | None
    folder: Path
    metrics: dict[str, float]
    files: tuple[Path, ...]


def read_wave_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> WaveSceneFile:
    """Read and check a scene file of a survey.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    >>> read_wave_scene("marmousi").scene.inversion.bands
    [2.0, 3.5, 5.0]
    """
    return WaveSceneFile.read(WaveScene, scene, overrides)


def prepare(scene: str | Path, request: Request) -> WaveJob:
    """Read and check a scene of a survey, and return its job."""
    return WaveJob.prepare(read_wave_scene(scene, request.overrides), request)


@dataclass(frozen=True)
class WaveJob(SceneJob[WaveScene]):
    """Run of one scene of a survey."""

    files: ClassVar = ("scene.json", "metrics.json", "velocity.npy", "velocity.png", "solution.h5")
    free: ClassVar = ("title", "output")
    file: WaveSceneFile

    def run(self, progress: bool = True) -> WaveOutcome:
        """Invert the records and write the results, or read those of a finished run."""
        folder, scene, table = self.folder, self.file.scene, self.file.scene.inversion
        finished, measures = folder / "solution.h5", folder / "metrics.json"
        y, A, truth = self.file.survey()
        start = self.file.start(A, truth)
        content = self.check_content(records=y, start=start)
        if self.resume and measures.exists():
            solution = Solution.load(finished) if finished.exists() else None
            return WaveOutcome(solution, folder, read_json(measures), ())
        term: DataTerm = LeastSquares()
        if table.order != 0:
            length = float(table.length or 0) / A.time_step
            term = Sobolev(table.order, length_scale=length, axes=(-1,), unit="sample")
        prior: Any = prior_of(scene.prior, self.file) if scene.prior else None
        solution = invert_waveforms(
            y,
            A,
            start,
            table.bands,
            term,
            prior,
            max_iterations=table.max_iterations,
            progress=progress,
        )
        metrics = _metrics(solution.x, y, A, start, truth)
        self.start(content)
        write_json(measures, metrics)
        written = [measures]
        for kind in dict.fromkeys(scene.output.formats):
            path = finished if kind == "h5" else folder / f"velocity.{kind}"
            if kind == "h5":
                solution.save(path, overwrite=True)
            elif kind == "npy":
                write_npy(path, solution.x[0, 0].cpu().numpy(), overwrite=True)
            else:
                write_bytes(path, _picture(solution.x, start, truth, A), overwrite=True)
            written.append(path)
        return WaveOutcome(solution, folder, metrics, tuple(written))


def _read_array(path: Path, name: str | None) -> np.ndarray:
    """Return an array of a .npy, .npz or .mat file."""
    require_file(path)
    if path.suffix.lower() == ".mat":
        from scipy.io import loadmat

        with decoding(path, "MATLAB"):
            arrays = {k: v for k, v in loadmat(path).items() if isinstance(v, np.ndarray)}
    else:
        opened = open_arrays(path)
        if isinstance(opened, np.ndarray):
            return opened
        arrays = dict(opened)
    if name is None and len(arrays) == 1:
        (name,) = arrays
    if name not in arrays:
        raise InputError(
            f"{path} holds the arrays {', '.join(arrays) or 'none'}; name one of them by "
            "survey.simulate.name"
        )
    return np.asarray(arrays[name])


def _metrics(
    x: Tensor, y: Tensor, survey: AcousticWaves, start: Tensor, truth: Tensor | None
) -> dict[str, float]:
    found = {"misfit": float((survey(x) - y).norm() / y.norm())}
    if truth is not None:
        for name, velocity in (("start error", start), ("error", x)):
            found[name] = float((velocity - truth).square().mean().sqrt())
    return found


def _picture(x: Tensor, start: Tensor, truth: Tensor | None, survey: AcousticWaves) -> bytes:
    """Return start, result and truth as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {"start": start, "inversion": x} | ({} if truth is None else {"truth": truth})
    low, high = (
        float(min(v.min() for v in shown.values())),
        float(max(v.max() for v in shown.values())),
    )
    rows, columns = (n * s for n, s in zip(survey.grid, survey.spacing))
    height = 0.6 + 7 * rows / columns
    figure = Figure(figsize=(8, len(shown) * height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for k, (title, velocity) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(len(shown), 1, k)
        drawn = axes.imshow(
            velocity[0, 0].cpu().numpy(), vmin=low, vmax=high, extent=(0, columns, rows, 0)
        )
        axes.set(title=title, xlabel="along, m", ylabel="depth, m")
    figure.colorbar(drawn, ax=figure.axes, label="velocity, m/s", shrink=0.7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
