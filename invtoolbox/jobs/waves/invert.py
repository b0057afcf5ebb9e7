"""Waveform inversion band by band: the velocity of a medium, and the windows of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor, check_range
from invtoolbox.data_terms import DataTerm, LeastSquares, Windowed
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.loop.run import Callback
from invtoolbox.operators import AcousticWaves
from invtoolbox.priors import Box, Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import LBFGS, Solver

#: A line of times over the offset, (seconds at offset 0, velocity in m/s), or times of every record.
Times = tuple[float, float] | Tensor


def data_window(
    survey: AcousticWaves,
    begin: Times | None = None,
    end: Times | None = None,
    offsets: tuple[float, float] | None = None,
    taper: float = 0.0,
) -> Tensor:
    r"""Compute weights of the samples of a survey, from 0 for muted ones to 1.

    A linear mute is ``t_0 + offset / velocity``; a picked one is a time per record, such as those of
    `pick_first_arrivals`. Times count from the first sample. A record without a pick (NaN) is muted
    as a whole. The weight rises over ``taper`` seconds before ``begin`` and falls over as many after
    ``end``, as the square of a sine.

    Args:
        survey: the survey.
        begin: times from which on samples count: ``(t_0, velocity)``, or ``(shots, receivers)`` with
            any axes of length 1 in front.
        end: times up to which samples count, of the same shape.
        offsets: least and largest distance of shot and receiver, metres.
        taper: seconds of the transition.

    Returns:
        Weights ``(1, 1, shots, receivers, samples)``.

    Raises:
        InputError: a velocity or a taper that is not positive, times of another shape, offsets in the
            wrong order, or a window that mutes every sample.

    >>> from invtoolbox.simulation import ricker
    >>> place = torch.tensor([[0.0, 0.0]])
    >>> apart = torch.tensor([[0.0, 100.0], [0.0, 200.0]])
    >>> A = AcousticWaves((5, 21), 10.0, place, apart, ricker(10.0, 0.002, 110), 0.002, (1000, 2000))
    >>> data_window(A, begin=(0.05, 1000.0)).sum(-1)  # from 0.15 and from 0.25 s on
    tensor([[[[35.,  0.]]]])
    """
    check_range("data_window", "[0, inf)", taper=taper)
    offset = _offsets(survey)
    time = torch.arange(survey.samples, dtype=torch.float64) * survey.time_step
    weights = torch.ones(*offset.shape, survey.samples, dtype=torch.float64)
    for name, times, sign in (("begin", begin, 1.0), ("end", end, -1.0)):
        if times is not None:
            # Seconds inside the window; rounding must not decide about a sample.
            edge = _edge(name, times, offset)[..., None]
            inside = sign * (time - edge) + 1e-6 * survey.time_step
            share = (1 + inside / taper).clamp(0, 1) if taper else (inside >= 0).double()
            weights = weights * (0.5 * math.pi * share).sin().square().nan_to_num(0.0)
    if offsets is not None:
        low, high = offsets
        if not 0 <= low <= high:
            raise InputError(
                f"offsets are the least and the largest distance in metres, got {tuple(offsets)}"
            )
        weights = weights * ((offset >= low) & (offset <= high))[..., None]
    if not bool(weights.any()):
        raise InputError(
            "the window mutes every sample of the survey; its offsets go from "
            f"{float(offset.min()):.4g} to {float(offset.max()):.4g} m and its times to "
            f"{float(time[-1]):.4g} s"
        )
    return weights.float()[None, None]


def shift_window(weights: Tensor, delay: float, time_step: float) -> Tensor:
    """Move a window to later samples; the first samples keep the first weight.

    Args:
        weights: weights ``(..., samples)``.
        delay: seconds.
        time_step: seconds between two samples.

    >>> shift_window(torch.tensor([0.0, 1.0, 1.0, 0.0]), 0.2, 0.1)
    tensor([0., 0., 0., 1.])
    """
    count = min(round(delay / time_step), weights.shape[-1] - 1)
    first = weights[..., :1].expand(*weights.shape[:-1], max(count, 0))
    return torch.cat([first, weights[..., : weights.shape[-1] - count]], -1)


def _offsets(survey: AcousticWaves) -> Tensor:
    """Return the distances of shots and receivers in metres, ``(shots, receivers)``."""
    receivers = survey.receivers.expand(len(survey.shots), -1, -1).double()
    apart = receivers - survey.shots.double()[:, None]
    return (apart * apart.new_tensor(survey.spacing)).square().sum(-1).sqrt().cpu()


def _edge(name: str, times: Times, offset: Tensor) -> Tensor:
    """Return the time of an edge of the window for every record."""
    if isinstance(times, Tensor):
        if tuple(times.shape[-2:]) != tuple(offset.shape) or times.numel() != offset.numel():
            raise InputError(
                f"times of {name} are one per record, {tuple(offset.shape)}, got "
                f"{tuple(times.shape)}"
            )
        return times.double().cpu().reshape(offset.shape)
    start, velocity = times
    check_range("data_window", "(0, inf)", **{f"velocity of {name}": velocity})
    return start + offset / velocity


#: Share of the misfit at zero records that is rounding: residuals of 1e-5 of the records.
_ROUNDING = 1e-10
#: Ratio up to which the sizes of measured and predicted records count as alike.
_ALIKE = 10.0


@naming_arguments
def invert_waveforms(
    y: Tensor,
    survey: AcousticWaves,
    initial: Tensor,
    bands: Sequence[float],
    data_term: DataTerm | None = None,
    prior: Prior | None = None,
    solver: Solver | None = None,
    max_iterations: int = 20,
    weights: Tensor | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Solution:
    r"""Find the velocity of a medium from records of waves, first from their low frequencies.

    Every band adds higher frequencies, and starts at the answer of the band before:

    .. math:: x_b = \arg\min_{x} D(P_b A(x), P_b y) + R(x)
              \quad\text{within the velocities of the survey},

    with the low-pass filter P_b of `AcousticWaves.lowpass` (Bunks et al., Geophysics 60, 1995). A
    start must predict the lowest frequency to about half a period, otherwise waves are matched with
    waves of the next period. `invert_first_arrivals` finds one from the records alone.

    Args:
        y: records ``(batch, 1, shots, receivers, samples)``.
        survey: the survey.
        initial: velocity to start from, m/s, ``(batch, 1, *grid)``.
        bands: highest frequency of every band in Hz, in rising order.
        data_term: misfit; by default least squares. `Sobolev` of negative order along time bears a
            poorer start: ``Sobolev(-1.0, axes=(-1,), length_scale=..., unit="sample")``.
        prior: explicit prior with a gradient, with its weight.
        solver: solver of a band; by default `LBFGS`, in which the change of a cell is proportional to
            its distance from the nearest shot or receiver, because waves are strongest there.
        max_iterations: number of iterations per band.
        weights: weights of the samples that broadcast against the records, such as those of
            `data_window`, and 0 for receivers that a shot does not have; see `Windowed`. In every
            band they move later by the delay of its low-pass filter.
        callbacks: as in `solve`, called in every band.
        progress: as in `solve`.

    Returns:
        The solution of the last band; its notes state how far the objective fell in every band.

    Raises:
        InputError: bands that do not rise or that reach half of the sampling rate, a start outside
            of the survey's velocities, or weights of another shape.

    >>> import torch, invtoolbox as it
    >>> wavelet = it.simulation.ricker(15.0, time_step=1e-3, samples=120)
    >>> ends = torch.tensor([[10.0, 20.0], [10.0, 180.0]])
    >>> A = it.operators.AcousticWaves((9, 21), 10.0, ends, ends, wavelet, 1e-3, (1400, 1700))
    >>> y = A.simulate(torch.full((1, 1, 9, 21), 1550.0))
    >>> start = torch.full((1, 1, 9, 21), 1500.0)
    >>> x = invert_waveforms(y, A, start, bands=(8, 15), max_iterations=3, progress=False).x
    >>> bool(x.mean() > 1505)
    True
    """
    y, initial, bands = _read(y, survey, initial, bands)
    if weights is not None:
        check_weights(weights, y)
    # One problem per band, D(P_b A(x), P_b y) + R(x), from the answer of the band before. Low
    # frequencies come first, because their periods are longer than the errors of the start.
    term = LeastSquares() if data_term is None else data_term
    bounds = Box(*survey.velocities)
    terms = bounds if prior is None else prior + bounds
    solver = LBFGS(scale=survey.distances()) if solver is None else solver
    x, notes = initial, []
    for band in bands:
        records, low_survey = survey.lowpass(y, band)
        if band == bands[0]:
            notes += _compare_sizes(records, low_survey(initial))
        misfit = term
        if weights is not None:
            # At low frequencies the filter of fourth order delays by 2.61 / (2 pi f).
            delay = 2.613 / (2 * math.pi * band)
            misfit = Windowed(term, shift_window(weights, delay, survey.time_step))
        solution = solve(
            Problem(records, low_survey, misfit),
            terms,
            solver,
            initial=x,
            regularization=1.0,
            max_iterations=max_iterations,
            callbacks=callbacks,
            progress=progress,
        )
        x = solution.x
        at_zero = misfit.value(torch.zeros_like(records), records)
        notes.append(_note(band, solution.history["objective"], at_zero))
    return solution.note(*notes)


def _read(
    y: Any, survey: AcousticWaves, initial: Any, bands: Sequence[float] | float
) -> tuple[Tensor, Tensor, Sequence[float]]:
    """Return records, start and bands, or raise an `InputError` if one does not fit the survey."""
    if not isinstance(survey, AcousticWaves):
        raise InputError(
            "invert_waveforms takes records, survey and start in this order, got "
            f"{type(survey).__name__} as the survey"
        )
    y, initial = as_tensor(y), as_tensor(initial)
    if isinstance(bands, (int, float)):
        bands = (bands,)
    if not bands or any(b <= a for a, b in zip([0.0, *bands], bands)):
        raise InputError(f"bands are frequencies in Hz in rising order, got {tuple(bands)}")
    if bands[-1] >= 0.5 / survey.time_step:
        raise InputError(
            f"the band up to {bands[-1]:g} Hz reaches half of the sampling rate of the records, "
            f"{0.5 / survey.time_step:g} Hz; leave it out or lower it"
        )
    low, high = survey.velocities
    if not bool(((initial >= low) & (initial <= high)).all()):
        raise InputError(
            f"the start has velocities from {float(initial.amin()):g} to {float(initial.amax()):g} "
            f"m/s, and the survey takes {low:g} to {high:g}; clamp the start or widen velocities="
        )
    if not bool(y.any()):
        raise InputError("all records are 0, so they hold no wave; check the file and its traces")
    return y, initial, bands


def check_weights(weights: Tensor, y: Tensor) -> None:
    """Raise an `InputError` unless weights broadcast against records and leave some of them."""
    fits = weights.ndim == y.ndim and all(n in (1, m) for n, m in zip(weights.shape, y.shape))
    if not fits:
        raise InputError(
            f"weights of records of shape {tuple(y.shape)} have as many axes, each of the same "
            f"length or of length 1, got {tuple(weights.shape)}"
        )
    if not bool(((weights >= 0) & weights.isfinite()).all() and weights.any()):
        raise InputError(
            "weights of records are numbers of at least 0 and not all 0; check the window and the "
            "mask of the receivers"
        )


def _compare_sizes(records: Tensor, predicted: Tensor) -> list[str]:
    """Return a note on records of another size than those that the start predicts."""
    ratio = float(records.norm() / predicted.norm().clamp_min(torch.finfo(predicted.dtype).tiny))
    if 1 / _ALIKE <= ratio <= _ALIKE:
        return []
    return [
        f"the records are {ratio:.1e} times as large as those that the start predicts, and velocities "
        "cannot explain it; bring the wavelet to the unit of the records"
    ]


def _note(band: float, objectives: Tensor, at_zero: Tensor) -> str:
    """Return how much the objective fell in a band, from ``(iterations, batch)`` values.

    Items that begin at rounding errors of their misfit at zero, ``(batch,)``, are left out.
    """
    falls = []
    for objective, size in zip(objectives.unbind(1), at_zero):
        finite = objective[objective.isfinite()]  # NaN after an item has stopped
        if len(finite) and float(finite[0]) > _ROUNDING * float(size):
            falls.append(f"{float(finite[-1] / finite[0]):.2g}")
    if not falls:
        return f"up to {band:g} Hz no iteration was needed"
    return (
        f"up to {band:g} Hz the objective fell to {', '.join(falls)} of its value after the first "
        "iteration"
    )
