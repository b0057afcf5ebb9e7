"""Scene files of seismic surveys: records or a model to simulate them, and the velocity.

The tables::

    title
    [survey]           path: a SEG-Y file whose places lie on a line; rows: number of cells below it;
                       geometry: a CSV table of sources and receivers in place of its headers
    [survey.simulate]  or a model: path (.npy, .npz or .mat with the array name), in m/s; cell: side of
                       its cells; rows and columns: first one, and one behind the last; shots,
                       receivers: their numbers, in the second row of cells; samples; noise_std, seed
    [inversion]        spacing: side of a cell; frequency: main frequency of a Ricker wavelet; velocities:
                       least and largest; time_step, of a simulation; start: velocities at the top and at
                       the bottom, the path of a .npy file, "smooth" with smooth = metres, or
                       "first arrivals", picked from the records; bands;
                       order, length: Sobolev misfit along time, length in seconds; max_iterations per
                       band
    [window]           samples that count: begin, end: seconds and velocity of a line over the offset;
                       arrivals: seconds before and after the picked onset; offsets: least and
                       largest; taper in seconds
    [[prior]]          priors with gradients, of weight 1 unless given; none by default
    [output]           folder, formats
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene, FilePath, Several, Table
from invtoolbox.core.checks import decoding, open_arrays, require_file
from invtoolbox.data_terms import DataTerm, LeastSquares, Sobolev
from invtoolbox.datasets import read_segy, write_npy
from invtoolbox.errors import InputError
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.images.parts import prior_of
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.kind import Compared, Inputs, Kind, SceneTables, write_figure, write_solution
from invtoolbox.jobs.waves.first_arrivals import invert_first_arrivals, pick_first_arrivals
from invtoolbox.jobs.waves.invert import Times, data_window, invert_waveforms
from invtoolbox.operators import AcousticWaves
from invtoolbox.plotting.canvas import new_figure
from invtoolbox.processing.onsets import pick_onsets
from invtoolbox.simulation.propagation import ricker
from invtoolbox.solution import Solution


class SimulatedSurvey(Table):
    """Model of the velocity, and shots and receivers at its top."""

    path: FilePath = Field(description="model of the velocity in m/s: .npy, .npz or .mat")
    name: str | None = Field(None, description="name of the array in the file")
    cell: float = Field(gt=0, description="side of a cell of the model, in metres")
    rows: tuple[int, int] | None = Field(None, description="first row, and one behind the last")
    columns: tuple[int, int] | None = Field(
        None, description="first column, and one behind the last"
    )
    shots: int = Field(8, ge=1, description="number of shots, in the second row of cells")
    receivers: int = Field(60, ge=1, description="number of receivers, in the second row of cells")
    samples: int = Field(ge=1, description="number of samples of a record")
    noise_std: float = Field(0.0, ge=0, description="standard deviation of the noise")
    seed: int = Field(0, description="seed of the noise")


class SurveyTable(Table):
    """Records of a file, or of a simulation."""

    path: FilePath | None = Field(None, description="SEG-Y file whose places lie on a line")
    rows: int | None = Field(None, ge=1, description="number of cells of the depth")
    geometry: FilePath | None = Field(
        None, description="CSV table of the sources and receivers, one row per trace"
    )
    simulate: SimulatedSurvey | None = None

    @model_validator(mode="after")
    def _one_source(self) -> SurveyTable:
        if (self.path is None) == (self.simulate is None):
            raise ValueError("give either a path or the table [survey.simulate]")
        if (self.path is None) != (self.rows is None):
            raise ValueError("records of a file need survey.rows, the number of cells of the depth")
        if self.path is None and self.geometry is not None:
            raise ValueError(
                "a geometry replaces the places of a file, and there is no path of one"
            )
        return self


class InversionTable(Table):
    """Grid, wavelet, start and bands of the inversion."""

    spacing: float = Field(gt=0, description="side of a cell, in metres")
    frequency: float = Field(gt=0, description="main frequency of the Ricker wavelet, in Hz")
    velocities: tuple[float, float] = Field(description="least and largest velocity, in m/s")
    time_step: float | None = Field(
        None, gt=0, description="time between the samples of a simulation, in seconds"
    )
    start: tuple[float, float] | FilePath = Field(
        description='velocities at the top and at the bottom, a .npy file, "first arrivals" to pick '
        'them and invert their travel times, or "smooth" for the smoothed model of a simulation',
    )
    smooth: float = Field(320.0, gt=0, description="width of the smoothing, in metres")
    bands: list[float] = Field(description="largest frequency of every band, in Hz")
    order: float = Field(0.0, description="order of the Sobolev misfit along time")
    length: float | None = Field(
        None, gt=0, description="length scale of the Sobolev misfit, in seconds"
    )
    max_iterations: int = Field(20, ge=1, description="maximum number of iterations per band")

    @model_validator(mode="after")
    def _order_with_length(self) -> InversionTable:
        if self.order != 0 and self.length is None:
            raise ValueError("a misfit of another order than 0 needs its length in seconds")
        return self


class WindowTable(Table):
    """Mutes and data window: which samples of the records count."""

    begin: tuple[float, float] | None = Field(
        None, description="first time at offset 0 in seconds, and velocity in m/s of its line"
    )
    end: tuple[float, float] | None = Field(
        None, description="last time at offset 0 in seconds, and velocity in m/s of its line"
    )
    arrivals: tuple[float, float] | None = Field(
        None, description="seconds before and after the picked onset of every record"
    )
    offsets: tuple[float, float] | None = Field(
        None, description="least and largest distance of shot and receiver, in metres"
    )
    taper: float = Field(0.0, ge=0, description="seconds of the transition")

    @model_validator(mode="after")
    def _one_window(self) -> WindowTable:
        if self.arrivals is not None and (self.begin or self.end):
            raise ValueError("give either arrivals, about the picked onsets, or begin and end")
        if self.arrivals is not None and sum(self.arrivals) <= 0:
            raise ValueError("arrivals are seconds before and after the onset, with a positive sum")
        return self


class WaveScene(SceneTables):
    """Scene file of a survey."""

    survey: SurveyTable
    inversion: InversionTable
    window: WindowTable | None = None
    prior: Several[PriorTable] = Field(
        [], description="priors with gradients, of weight 1 unless given"
    )


@dataclass(frozen=True, eq=False)
class _Measured:
    """Records of a scene, their survey, and what is known about them.

    Attributes:
        records: ``(1, 1, shots, receivers, samples)``.
        survey: the survey.
        truth: the true velocity of a simulation.
        mask: 0 for receivers that a shot does not have, ``(1, 1, shots, receivers, 1)``.
        notes: notes of the reader.
    """

    records: Tensor
    survey: AcousticWaves
    truth: Tensor | None = None
    mask: Tensor | None = None
    notes: tuple[str, ...] = ()


def _measured(file: CheckedScene[WaveScene]) -> _Measured:
    """Read or simulate the records."""
    table, inversion = file.scene.survey, file.scene.inversion
    if table.simulate is None:
        return _recorded(file)
    simulated, spacing = table.simulate, inversion.spacing
    truth = _model(file, simulated, spacing)
    rows, columns = truth.shape[-2:]
    if inversion.time_step is None:
        raise InputError(f"{file.path}: a simulation needs inversion.time_step, in seconds")
    width = (columns - 1) * spacing
    step = width / simulated.shots
    along = torch.linspace(step / 2, width - step / 2, simulated.shots)
    every = torch.linspace(0, width, simulated.receivers)
    shots, receivers = (
        torch.stack([torch.full_like(line, spacing), line], 1) for line in (along, every)
    )
    A = _acoustic_waves(
        file, (rows, columns), shots, receivers, inversion.time_step, simulated.samples
    )
    return _Measured(A.simulate(truth, simulated.noise_std, simulated.seed), A, truth)


def _start(file: CheckedScene[WaveScene], measured: _Measured) -> tuple[Tensor, tuple[str, ...]]:
    """Return the velocity from which the inversion starts, and notes about it."""
    if file.scene.inversion.start == "first arrivals":
        picks = pick_first_arrivals(measured.records, measured.survey)
        solution = invert_first_arrivals(picks, measured.survey, progress=False)
        return solution.x, solution.notes
    return _stated_start(file, measured.survey, measured.truth), ()


def _stated_start(
    file: CheckedScene[WaveScene], survey: AcousticWaves, truth: Tensor | None
) -> Tensor:
    """Return the velocity that the scene states, ``(1, 1, rows, columns)``."""
    from scipy.ndimage import gaussian_filter

    table, grid = file.scene.inversion, survey.grid
    if isinstance(table.start, tuple):
        line = torch.linspace(table.start[0], table.start[1], grid[0])
        return line[:, None].expand(grid)[None, None].contiguous()
    if table.start == "smooth":
        if truth is None:
            raise InputError(
                f"{file.path}: start = 'smooth' smooths the model of a simulation; give the "
                "velocities at the top and at the bottom, or the path of a .npy file"
            )
        cells = table.smooth / table.spacing
        return torch.from_numpy(gaussian_filter(truth[0, 0].numpy(), cells, mode="nearest"))[
            None, None
        ]
    path = file.locate(table.start)
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


def _recorded(file: CheckedScene[WaveScene]) -> _Measured:
    """Return the records of a SEG-Y file, and the survey down to the last row of the grid."""
    table, inversion = file.scene.survey, file.scene.inversion
    geometry = None if table.geometry is None else file.locate(table.geometry)
    gathers = read_segy(file.locate(str(table.path)), geometry)
    shots, receivers = gathers.line()
    end = max(float(shots[:, 1].max()), float(receivers[..., 1].max()))
    columns = math.ceil(end / inversion.spacing - 1e-6) + 1
    assert table.rows is not None
    grid, samples = (table.rows, columns), gathers.records.shape[-1]
    A = _acoustic_waves(file, grid, shots, receivers, gathers.time_step, samples)
    mask = None if bool(gathers.mask.all()) else gathers.mask[None, None, ..., None].float()
    return _Measured(gathers.records[None, None], A, mask=mask, notes=gathers.notes)


def _acoustic_waves(
    file: CheckedScene[WaveScene],
    grid: tuple[int, int],
    shots: Tensor,
    receivers: Tensor,
    time_step: float,
    samples: int,
) -> AcousticWaves:
    """Return the survey, with a Ricker wavelet that is cut where it ends near 0."""
    table = file.scene.inversion
    length = min(samples, math.ceil(2.4 / table.frequency / time_step))
    return AcousticWaves(
        grid,
        table.spacing,
        shots,
        receivers,
        wavelet=ricker(table.frequency, time_step, length),
        time_step=time_step,
        velocities=table.velocities,
        samples=samples,
    )


def _model(file: CheckedScene[WaveScene], table: SimulatedSurvey, spacing: float) -> Tensor:
    """Return the model in cells of the inversion, each the mean of the model's own cells."""
    path = file.locate(table.path)
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


def _read(file: CheckedScene[WaveScene]) -> Inputs:
    measured = _measured(file)
    start, notes = _start(file, measured)
    return {
        "records": measured.records,
        "start": start,
        "survey": measured.survey,
        "truth": measured.truth,
        "weights": _weights(file.scene.window, measured),
        "notes": (*measured.notes, *notes),
    }


def _weights(table: WindowTable | None, measured: _Measured) -> Tensor | None:
    """Return the weights of the samples: the window times the mask of the receivers."""
    survey, mask = measured.survey, measured.mask
    if table is None:
        return mask
    begin: Times | None = table.begin
    end: Times | None = table.end
    if table.arrivals is not None:
        onsets = pick_onsets(measured.records, survey.time_step, 1 / survey.frequency)
        begin, end = onsets - table.arrivals[0], onsets + table.arrivals[1]
    window = data_window(survey, begin, end, table.offsets, table.taper)
    return window if mask is None else window * mask


def _invert(file: CheckedScene[WaveScene], inputs: Inputs, progress: bool) -> Solution:
    table, survey = file.scene.inversion, inputs["survey"]
    term: DataTerm = LeastSquares()
    if table.order != 0:
        length = float(table.length or 0) / survey.time_step
        term = Sobolev(table.order, length_scale=length, axes=(-1,), unit="sample")
    solution = invert_waveforms(
        inputs["records"],
        survey,
        inputs["start"],
        table.bands,
        data_term=term,
        prior=prior_of(file.scene.prior, file),
        max_iterations=table.max_iterations,
        weights=inputs["weights"],
        progress=progress,
    )
    return solution.note(*inputs["notes"])


def _measure(solution: Solution, inputs: Inputs) -> dict[str, float]:
    """Return the relative misfit and, of a simulation, errors at the start and of the result."""
    records, truth, weights = inputs["records"], inputs["truth"], inputs["weights"]
    residual = inputs["survey"](solution.x) - records
    if weights is not None:
        residual, records = weights.sqrt() * residual, weights.sqrt() * records
    metrics = {"misfit": float(residual.norm() / records.norm())}
    if truth is not None:
        for name, velocity in (("start error", inputs["start"]), ("error", solution.x)):
            metrics[name] = float((velocity - truth).square().mean().sqrt())
    return metrics


def _compare(file: CheckedScene[WaveScene], solution: Solution, inputs: Inputs) -> Compared:
    """Return the velocity at the start, which is the simple answer, the result, and the truth."""
    images = {"Start": inputs["start"][0], "Inversion": solution.x[0]}
    if inputs["truth"] is None:
        return Compared(images, "Inversion", unit="m/s")
    measures = _measure(solution, inputs)
    words = (
        f"Error {measures['error']:.3g} m/s, and {measures['start error']:.3g} m/s at the start."
    )
    is_good = measures["error"] <= measures["start error"]
    images["Truth"] = inputs["truth"][0]
    return Compared(images, "Inversion", "Truth", "m/s", words, is_good)


def _write_picture(path: Path, solution: Solution, inputs: Inputs) -> None:
    """Write start, result and truth as PNG, with one scale of colors."""
    models = {"start": inputs["start"], "inversion": solution.x, "truth": inputs["truth"]}
    models = {
        title: model[0, 0].cpu().numpy() for title, model in models.items() if model is not None
    }
    low = float(min(model.min() for model in models.values()))
    high = float(max(model.max() for model in models.values()))
    survey = inputs["survey"]
    rows, columns = (n * s for n, s in zip(survey.grid, survey.spacing))
    height = 0.6 + 7 * rows / columns
    figure = new_figure((8, len(models) * height), dpi=110, layout="constrained")
    for k, (title, velocity) in enumerate(models.items(), start=1):
        axes = figure.add_subplot(len(models), 1, k)
        image = axes.imshow(velocity, vmin=low, vmax=high, extent=(0, columns, rows, 0))
        axes.set(title=title, xlabel="along, m", ylabel="depth, m")
    figure.colorbar(image, ax=figure.axes, label="velocity, m/s", shrink=0.7)
    write_figure(path, figure)


COMMAND = SceneCommand(
    description="Invert the records of a seismic survey to the velocity below it, band by band from low "
    "frequencies to high ones.",
    positional={"RECORDS": "survey.path"},
    options={
        "--rows": "survey.rows",
        "--geometry": "survey.geometry",
        "--spacing": "inversion.spacing",
        "--frequency": "inversion.frequency",
        "--velocities": "inversion.velocities",
        "--start": "inversion.start",
        "--bands": "inversion.bands",
        "--order": "inversion.order",
        "--length": "inversion.length",
        "--iterations": "inversion.max_iterations",
        "--begin": "window.begin",
        "--end": "window.end",
        "--arrivals": "window.arrivals",
        "--offsets": "window.offsets",
        "--taper": "window.taper",
    },
    examples=(
        "waves line.segy --rows 80 --spacing 20 --frequency 5 --velocities 1400 5000 "
        "--start 1500 4000 --bands 2 3.5 5 --output velocity.npy velocity.png",
        "waves land.segy --geometry places.csv --rows 60 --spacing 25 --frequency 8 "
        "--velocities 800 5000 --start 'first arrivals' --bands 4 8 --offsets 100 3000",
    ),
    outputs=("{stem}_velocity.npy", "{stem}_velocity.png"),
)

KIND = Kind(
    WaveScene,
    "a survey",
    _read,
    _invert,
    _measure,
    {
        "npy": (
            "velocity.npy",
            lambda path, answer, _: write_npy(path, answer.x[0, 0], overwrite=True),
        ),
        "png": ("velocity.png", _write_picture),
        "h5": ("solution.h5", write_solution),
    },
    usual=("npy", "png", "h5"),
    units={"start error": "m/s", "error": "m/s"},
    compare=_compare,
    command=COMMAND,
)
