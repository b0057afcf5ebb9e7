"""A start of waveform inversion from the records alone: picked first arrivals and their tomography."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.data_terms import LeastSquares
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.loop.run import Callback
from invtoolbox.operators import AcousticWaves, TravelTimes
from invtoolbox.priors import Box, Prior, Tikhonov
from invtoolbox.problem import Problem
from invtoolbox.processing.onsets import pick_onsets
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import LBFGS, Solver

#: Number of velocities and of gradients that are compared for the first model, number of them on
#: either side of the best one that the next round divides, and number of rounds.
_TRIALS, _WIDTH, _ROUNDS = 41, 5, 8
#: Number of picks from which on some are left out of the first model.
_MOST_PICKS = 2000
#: Largest gradient of the velocity with the depth, 1/s.
_STEEPEST = 3.0


def pick_first_arrivals(
    y: Tensor, survey: AcousticWaves, threshold: float = 4.0, floor: float = 0.01
) -> Tensor:
    """Pick the travel times of the first arrivals, in seconds, NaN without an arrival.

    `processing.pick_onsets` picks the onset of every record and of the wavelet as a far receiver
    records it; the travel time is the difference. Times below one period of the wavelet are left out,
    because the receiver is within about one wavelength of the shot.

    Args:
        y: records ``(batch, 1, shots, receivers, samples)``; records of zeros have no arrival.
        survey: the survey, with the wavelet of the shots.
        threshold: as in `processing.pick_onsets`.
        floor: as in `processing.pick_onsets`.

    Returns:
        Times ``(batch, 1, shots, receivers)``.

    Raises:
        InputError: all picks are missing.
    """
    period, step = 1 / survey.frequency, survey.time_step
    delay = pick_onsets(_far_wavelet(survey), step, period, threshold, floor)
    picks = pick_onsets(y, step, period, threshold, floor) - delay.max().to(y)
    picks = torch.where(picks >= period, picks, math.nan)
    _refuse_empty(picks)
    return picks


@naming_arguments
def invert_first_arrivals(
    picks: Tensor,
    survey: AcousticWaves | TravelTimes,
    initial: Tensor | None = None,
    noise_std: float | None = None,
    prior: Prior | None = None,
    solver: Solver | None = None,
    max_iterations: int = 25,
    roughness: float = 100.0,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Solution:
    r"""Find a smooth velocity from travel times of first arrivals, a start of `invert_waveforms`.

    The travel times T(x) are those of `TravelTimes`. The velocity minimizes

    .. math:: \tfrac12 \sum_i \left(\frac{T_i(x) - t_i}{\sigma}\right)^2
              + \frac{1}{2 r^2} |\nabla (x - x_0)|^2

    over the picks t_i within the velocities of the survey, with the differences of neighbouring
    cells, so that x changes as x_0 where no ray passes. Without a start, x_0 is the velocity
    ``a + b depth`` whose travel times, in closed form, are nearest to the picks in the mean.

    Args:
        picks: times ``(batch, 1, shots, receivers)`` in seconds, NaN without an arrival.
        survey: the survey.
        initial: velocity x_0, m/s, ``(batch, 1, *grid)``.
        noise_std: standard deviation sigma of the picks in seconds; a tenth of the period of the
            survey's wavelet by default.
        prior: explicit prior in place of the differences above, with its weight.
        solver: solver; `LBFGS` by default.
        max_iterations: number of iterations.
        roughness: the r of the formula, m/s.
        callbacks: as in `solve`.
        progress: as in `solve`.

    Returns:
        The solution, whose notes state the misfit of the picks.

    Raises:
        InputError: all picks of an item are missing, picks of another shape, a negative pick, or
            `TravelTimes` without ``noise_std``.

    >>> import invtoolbox as it
    >>> along = torch.linspace(0, 1000, 21)
    >>> line = torch.stack([torch.zeros(21), along], 1)
    >>> A = it.operators.TravelTimes((11, 41), 25.0, line[::10], line, velocities=(1000, 4000))
    >>> truth = (1500 + 2.0 * 25 * torch.arange(11.0))[:, None].expand(11, 41)[None, None]
    >>> x = invert_first_arrivals(A(truth), A, noise_std=0.005, progress=False).x
    >>> bool((x - truth).abs().mean() < 10)
    True
    """
    times = survey.travel_times() if isinstance(survey, AcousticWaves) else survey
    if noise_std is None:
        if not isinstance(survey, AcousticWaves):
            raise InputError("TravelTimes have no wavelet; give noise_std=, the error of the picks")
        noise_std = 0.1 / survey.frequency
    check_range("invert_first_arrivals", "(0, inf)", noise_std=noise_std, roughness=roughness)
    if tuple(picks.shape[1:]) != times.range_shape:
        raise InputError(
            f"picks of {times} have the shape (batch, {', '.join(map(str, times.range_shape))}), got "
            f"{tuple(picks.shape)}; give NaN where a pick is missing"
        )
    _refuse_empty(picks)
    if bool((picks < 0).any()):
        raise InputError("some picks lie before the shot; subtract the delay of the wavelet once")
    picked = picks.isfinite()
    x0 = fit_gradient(picks, times) if initial is None else initial
    if prior is None:
        prior = roughness**-2 * Tikhonov("gradient", reference=x0)
    seconds = picks.nan_to_num(0.0)
    solution = solve(
        Problem(seconds, times, LeastSquares(noise_std, weights=picked.to(picks))),
        prior + Box(*times.velocities),
        LBFGS() if solver is None else solver,
        initial=x0,
        regularization=1.0,
        max_iterations=max_iterations,
        callbacks=callbacks,
        progress=progress,
    )
    errors = [_error(times, x, seconds, picked) for x in (x0, solution.x)]
    note = (
        f"{int(picked.sum())} of {picked.numel()} records have a pick; the travel times miss them by "
        f"{1e3 * errors[0]:.3g} ms at the start and by {1e3 * errors[1]:.3g} ms at the end (root mean "
        "square)"
    )
    return solution.note(note)


def fit_gradient(picks: Tensor, times: TravelTimes) -> Tensor:
    r"""Return the velocity ``a + b depth`` whose travel times are nearest to the picks.

    The travel time between two places at a distance d, with the velocities v_1 and v_2, is

    .. math:: T = \tfrac1b \operatorname{arcosh}\left(1 + \frac{b^2 d^2}{2 v_1 v_2}\right).

    Args:
        picks: times ``(batch, 1, shots, receivers)`` in seconds, NaN without an arrival.
        times: the survey.

    Returns:
        Velocities ``(batch, 1, *grid)``, within the velocities of the survey.

    Source: Slotnick, Lessons in Seismic Computing, 1959.
    """
    sides = times.shots.new_tensor(times.spacing)
    receivers = (times.receivers * sides).expand(len(times.shots), -1, -1)
    shots = (times.shots * sides)[:, None].expand_as(receivers)
    square = (receivers - shots).square().sum(-1)
    depth = torch.arange(times.grid[0], dtype=torch.float64) * times.spacing[0]
    low, high = times.velocities
    models = []
    for item in picks[:, 0].double().cpu():
        numbers = item.isfinite().flatten().nonzero()[:, 0]
        # Two parameters need no more picks, and all trials are compared at once.
        numbers = numbers[:: max(1, len(numbers) // _MOST_PICKS)]
        d2, above, below, measured = (
            values.flatten()[numbers] for values in (square, shots[..., 0], receivers[..., 0], item)
        )
        # The mean absolute error, on ever finer grids of a and b about the best pair.
        ends = [(low, high), (1e-3, _STEEPEST)]
        for _ in range(_ROUNDS):
            a, b = (torch.linspace(*end, _TRIALS, dtype=torch.float64) for end in ends)
            top, slope = a[:, None, None], b[None, :, None]
            product = (top + slope * above) * (top + slope * below)
            time = (1 + slope.square() * d2 / (2 * product)).acosh() / slope
            error = (time - measured).abs().mean(-1)
            best = divmod(int(error.argmin()), _TRIALS)
            ends = [
                (float(line[max(k - _WIDTH, 0)]), float(line[min(k + _WIDTH, _TRIALS - 1)]))
                for line, k in zip((a, b), best)
            ]
        velocity = (a[best[0]] + b[best[1]] * depth).clamp(low, high)
        models.append(velocity.view(-1, *[1] * (len(times.grid) - 1)).expand(times.grid))
    return torch.stack(models)[:, None].to(picks)


def _error(times: TravelTimes, x: Tensor, seconds: Tensor, picked: Tensor) -> float:
    """Return the root mean square error of the travel times at the picks, in seconds."""
    return float((times(x) - seconds)[picked].double().square().mean().sqrt())


def _far_wavelet(survey: AcousticWaves) -> Tensor:
    """Return the wavelets as a receiver far from the shot records them, ``(wavelets, samples)``.

    In three dimensions that is the wavelet; in two it is its half integral, ``(i omega)^(-1/2)``.
    """
    padded = torch.zeros(*survey.wavelet.shape[:-1], survey.samples, dtype=torch.float64)
    padded[..., : survey.wavelet.shape[-1]] = survey.wavelet.detach().cpu()
    padded = padded.reshape(-1, survey.samples)
    if len(survey.grid) == 3:
        return padded
    count = 4 * survey.samples
    omega = 2 * math.pi * torch.fft.rfftfreq(count, survey.time_step, dtype=torch.float64)
    half = torch.polar(omega.clamp_min(1e-9).rsqrt(), torch.full_like(omega, -0.25 * math.pi))
    half[0] = 0.0
    return torch.fft.irfft(torch.fft.rfft(padded, n=count) * half, n=count)[:, : survey.samples]


def _refuse_empty(picks: Tensor) -> None:
    empty = ~picks.isfinite().flatten(1).any(1)
    if bool(empty.any()):
        which = f" of item {int(empty.nonzero()[0])}" if len(empty) > 1 else ""
        raise InputError(
            f"all picks{which} are missing; check that the records hold waves of the survey's "
            "wavelet, lower threshold= or floor=, or give picks of your own"
        )
