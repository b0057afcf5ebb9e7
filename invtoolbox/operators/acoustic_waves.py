"""Acoustic waves in an unknown medium, as seismic surveys and ultrasound record them."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.environment import optional_package
from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import Jacobian
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.survey_places import Survey, repeated_places
from invtoolbox.operators.travel_times import TravelTimes

#: Fewest cells per wavelength; with fewer the grid slows short waves down by more than 1 %.
CELLS_PER_WAVELENGTH = 6
#: Largest Courant number of the scheme; deepwave divides longer steps.
_COURANT = 0.6
#: Room above the largest velocity for rounding.
_ROOM = 1 + 1e-5
#: Half-width in cells of the sinc that interpolates places between cells.
_SINC = 4


def _deepwave() -> Any:
    return optional_package("deepwave", "AcousticWaves needs deepwave; install it with", "waves")


class AcousticWaves(Survey):
    r"""Records of a survey with sound waves, as a function of the velocity, ``(batch, 1, *grid)``.

    Every shot excites the medium at one place. The pressure u solves

    .. math:: \Delta u - \frac{1}{x^2} \partial_t^2 u = f

    with absorbing boundaries (perfectly matched layers), where f is the wavelet in the cell of the
    shot and 0 elsewhere, and x the velocity in m/s. The receivers record u at every time step, so A(x) has the shape
    ``(batch, 1, shots, receivers, samples)``. The operator is nonlinear. Its derivative and the
    adjoint are computed from the time steps themselves, and are exact to rounding. The equation is
    solved by deepwave (extra ``[waves]``), fourth order in space and second order in time.

    The first axis of the grid is the depth by convention. Positions are in metres from the middle of
    the first cell, in the order of the axes of the grid; between cells they are interpolated by a
    windowed sinc. The shots are the blocks of solvers with ``subset_size``. The parameter ``wavelet``
    can be unknown too: ``Problem(y, A, unknown={"wavelet": None})``.

    Velocities outside of ``velocities`` count as the nearest one, because the time steps would be
    unstable. Bound x by the prior ``it.priors.Box(*A.velocities)``.

    Args:
        grid: number of cells along each axis, two or three axes.
        spacing: side of a cell, metres; a number, or one per axis.
        shots: places of the shots, ``(shots, axes)``.
        receivers: places of the receivers, ``(receivers, axes)``, the same for all shots, or
            ``(shots, receivers, axes)``.
        wavelet: source over time, ``(samples,)``, or ``(batch, samples)`` for one per item. The
            absorbing layers suit its main frequency, of several wavelets the highest one.
        time_step: seconds between two samples.
        velocities: least and largest velocity that x may have, m/s.
        samples: number of samples that are recorded; by default as many as the wavelet has.
        absorbing: thickness of the absorbing layer at every side, in cells.
        free_surface: whether the first cells along the first axis are a free surface, which reflects
            waves, instead of absorbing.

    Raises:
        InputError: a time step that is unstable at the largest velocity; fewer than six cells per
            wavelength at the least velocity and the wavelet's main frequency; a place outside of the
            grid; a wavelet longer than the record.

    Source: Tarantola, Geophysics 49, 1984, for the adjoint.

    >>> from invtoolbox.simulation import ricker
    >>> wavelet = ricker(15.0, time_step=1e-3, samples=150)
    >>> shots, receivers = torch.tensor([[10.0, 100.0]]), torch.tensor([[10.0, 50.0], [10.0, 150.0]])
    >>> A = AcousticWaves((20, 21), 10.0, shots, receivers, wavelet, 1e-3, velocities=(1400, 2000))
    >>> y = A(torch.full((1, 1, 20, 21), 1500.0))
    >>> y.shape, torch.allclose(y[0, 0, 0, 0], y[0, 0, 0, 1], rtol=1e-3, atol=1e-3)
    (torch.Size([1, 1, 1, 2, 150]), True)
    """

    def __init__(
        self,
        grid: Sequence[int],
        spacing: float | Sequence[float],
        shots: Tensor,
        receivers: Tensor,
        wavelet: Tensor,
        time_step: float,
        velocities: tuple[float, float],
        samples: int | None = None,
        absorbing: int = 20,
        free_surface: bool = False,
    ) -> None:
        _deepwave()
        check_range(self, "[0, inf)", absorbing=absorbing)
        super().__init__(grid, spacing, shots, receivers, velocities)
        self.time_step = float(time_step)
        self.absorbing, self.free_surface = int(absorbing), free_surface
        if wavelet.ndim not in (1, 2) or not wavelet.is_floating_point():
            raise InputError(
                f"the wavelet has the shape (samples,) or (batch, samples), got {wavelet.dtype} of "
                f"shape {tuple(wavelet.shape)}"
            )
        self.samples = wavelet.shape[-1] if samples is None else int(samples)
        if wavelet.shape[-1] > self.samples:
            raise InputError(
                f"the wavelet has {wavelet.shape[-1]} samples, and the record {self.samples}; shorten "
                "the wavelet or lengthen the record"
            )
        # Between cells, places need further cells around the grid, with the values of its border.
        between = [(p != p.round()).any() for p in (self.shots, self.receivers)]
        self._margin = _SINC if any(between) else 0
        if self._margin and free_surface:
            self._check_surface()
        self.wavelet = wavelet
        self.frequency = main_frequency(wavelet, self.time_step)
        self._check_steps()
        self.items = self._count_items()
        self._set_places()

    def _check_surface(self) -> None:
        for name, places in (("shots", self.shots), ("receivers", self.receivers)):
            depth = places[..., 0]
            if bool(((depth != depth.round()) & (depth < _SINC - 1)).any()):
                raise InputError(
                    f"{name} near the free surface lie between cells; move them to depths that are "
                    f"multiples of {self.spacing[0]:g} m"
                )

    def _check_steps(self) -> None:
        low, high = self.velocities
        # Courant-Friedrichs-Lewy condition: v dt sqrt(sum 1 / h^2) <= C.
        largest = _COURANT / (_ROOM * high * math.sqrt(sum(s**-2 for s in self.spacing)))
        if not 0 < self.time_step <= largest:
            raise InputError(
                f"time steps of {self.time_step:g} s are unstable at {high:g} m/s in cells of "
                f"{min(self.spacing):g} m; take at most {math.floor(largest * 1e6) / 1e6:g} s, and "
                "interpolate records in between"
            )
        if not self.frequency > 0:
            raise InputError(
                "the wavelet is largest at the frequency 0, which does not travel; give a wavelet of at "
                "least one period"
            )
        cells = low / (self.frequency * max(self.spacing))
        if cells < CELLS_PER_WAVELENGTH:
            raise InputError(
                f"waves of {self.frequency:.3g} Hz have {cells:.2g} cells per wavelength at {low:g} "
                f"m/s, and the grid needs {CELLS_PER_WAVELENGTH}; take cells of at most "
                f"{low / (self.frequency * CELLS_PER_WAVELENGTH):.3g} m, or lower frequencies"
            )

    def _set_places(self) -> None:
        self._first = repeated_places(self.receivers)
        self.range_shape = (1, len(self.shots), self.receivers.shape[-2], self.samples)

    def _forward(self, x: Tensor) -> Tensor:
        if len(x) > 1 and x.device.type == "cpu":
            # The last bits of deepwave's gradient depend on the number of items, so each item is
            # computed alone.
            items = torch.arange(len(x)).split(1)
            return torch.cat([self.select(k)._forward(x[k]) for k in items])
        x = x.clamp(*self.velocities)
        batch, shots = len(x), len(self.shots)
        wavelet = self.wavelet.to(x).reshape(-1, 1, 1, self.wavelet.shape[-1])
        wavelet = torch.nn.functional.pad(wavelet, (0, self.samples - wavelet.shape[-1]))
        source = wavelet.expand(batch, shots, 1, -1).flatten(0, 1).contiguous()
        first = [self._margin] * len(self.grid)
        if self.free_surface:
            first[0] = 0
        shift = x.new_tensor(first)
        places = (self.shots.to(x) + shift)[:, None].repeat(batch, 1, 1)
        receivers = (self.receivers.to(x) + shift).expand(shots, -1, -1)
        if self._first is not None:
            # deepwave records one receiver per place; the others get its record below.
            same = self._first.to(x.device).expand(shots, -1)
            numbers = torch.arange(receivers.shape[1], device=x.device)
            ignored = _deepwave().IGNORE_LOCATION
            receivers = receivers.masked_fill((same != numbers)[..., None], ignored)
        receivers = receivers.repeat(batch, 1, 1)
        velocity = self._widen(x, first).expand(-1, shots, *[-1] * len(self.grid))
        velocity = velocity.flatten(0, 1).contiguous()
        layers = [self.absorbing] * (2 * len(self.grid))
        boundary = ["pml"] * (2 * len(self.grid))
        if self.free_surface:
            layers[0], boundary[0] = 0, "free"
        with warnings.catch_warnings():
            # Cells per wavelength are checked by the constructor.
            warnings.filterwarnings("ignore", message=".*number of grid cells per wavelength")
            fields = _deepwave().scalar(
                velocity,
                list(self.spacing),
                self.time_step,
                source_amplitudes=source,
                source_locations=places,
                receiver_locations=receivers,
                pml_width=layers,
                boundary=boundary,
                # The defaults follow from all wavelets and velocities of the batch, so that an item
                # would depend on the others.
                pml_freq=self.frequency,
                max_vel=self.velocities[1] * _ROOM,
                # A value that is not finite makes a line search shorten its step; an exception would
                # end the solve.
                check_output_finite=False,
            )
        records = fields.receiver_amplitudes.view(batch, 1, shots, -1, self.samples)
        if self._first is not None:
            index = same[None, None, ..., None].expand(batch, 1, -1, -1, self.samples)
            records = records.gather(3, index)
        return records

    def _widen(self, x: Tensor, first: Sequence[int]) -> Tensor:
        """Return x with the margin around it, ``first`` cells in front of each axis."""
        if not self._margin:
            return x
        sides = [(k, self._margin) for k in first]
        return torch.nn.functional.pad(
            x, [n for pair in reversed(sides) for n in pair], mode="replicate"
        )

    def simulate(self, x: Tensor, noise: Any = 0.0, seed: int | Sequence[int] = 0) -> Any:
        """Simulate noisy records, as `Operator.simulate`.

        Raises:
            InputError: a velocity lies outside of ``velocities``.
        """
        low, high = self.velocities
        if not bool(((x >= low) & (x <= high)).all()):
            raise InputError(
                f"{self} takes velocities from {low:g} to {high:g} m/s, got {float(x.amin()):g} to "
                f"{float(x.amax()):g}; widen velocities="
            )
        return super().simulate(x, noise, seed)

    def linearize(self, x: Tensor) -> LinearOperator:
        """Return the derivative at x: waves that a change of the velocity scatters."""
        return _WaveJacobian(self, x)

    def lowpass(self, y: Tensor, frequency: float) -> tuple[Tensor, AcousticWaves]:
        """Return records and the operator without the frequencies above ``frequency``, in Hz.

        Records are linear in the wavelet, so both are filtered alike: by a causal Butterworth
        filter of fourth order. Inversions begin with low frequencies, whose waves are long enough
        for a poor start.

        Args:
            y: records, ``(batch, 1, shots, receivers, samples)``.
            frequency: cutoff frequency, Hz.

        Raises:
            InputError: the frequency is not below half of the sampling rate.
        """
        if not 0 < frequency < 0.5 / self.time_step:
            raise InputError(
                f"the frequency {frequency:g} Hz of a low-pass filter must lie between 0 and half of "
                f"the sampling rate, {0.5 / self.time_step:g} Hz"
            )
        survey = copy.copy(self)
        padded = torch.nn.functional.pad(self.wavelet, (0, self.samples - self.wavelet.shape[-1]))
        survey.wavelet = lowpass(padded, self.time_step, frequency)
        survey.frequency = main_frequency(survey.wavelet, self.time_step)
        return lowpass(y, self.time_step, frequency), survey

    def travel_times(self) -> TravelTimes:
        """Return the operator of the first arrivals of the same survey."""
        sides = self.shots.new_tensor(self.spacing)
        return TravelTimes(
            self.grid, self.spacing, self.shots * sides, self.receivers * sides, self.velocities
        )

    def distances(self) -> Tensor:
        """Return the distance of every cell from the nearest shot or receiver, ``(1, 1, *grid)``.

        It is in metres, and at least one cell.
        """
        sides = self.shots.new_tensor(self.spacing)
        axes = [torch.arange(n, dtype=sides.dtype, device=sides.device) for n in self.grid]
        cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) * sides
        places = (torch.cat([self.shots, self.receivers.flatten(0, -2)]) * sides).unique(dim=0)
        blocks = cells.flatten(0, -2).split(10_000)
        nearest = torch.cat([torch.cdist(block, places).amin(1) for block in blocks])
        return nearest.clamp_min(min(self.spacing)).view(1, 1, *self.grid)

    def parameters(self) -> dict[str, Tensor]:
        """``wavelet``."""
        return {"wavelet": self.wavelet}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        survey = super()._replace(parameters)
        return survey._with_items(survey._count_items())

    def _count_items(self) -> int | None:
        return len(self.wavelet) if self.wavelet.ndim == 2 and len(self.wavelet) > 1 else None


class _WaveJacobian(Jacobian):
    """Derivative of `AcousticWaves`, whose adjoint is the backward pass of autograd.

    The transform of `torch.func` does not reach the time steps of deepwave.
    """

    def _adjoint(self, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x = self.point.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.operator._forward(x), x, y)
        return slope

    def select(self, index: Tensor) -> _WaveJacobian:
        return _WaveJacobian(self.operator.select(index), self.point.index_select(0, index))


def main_frequency(signal: Tensor, time_step: float) -> float:
    """Return the frequency of the largest amplitude, Hz; of several signals, the highest one."""
    length = max(4096, 8 * signal.shape[-1])
    spectrum = torch.fft.rfft(signal.detach().double(), n=length).abs()
    if not bool((spectrum.amax(-1) > 0).all()):
        raise InputError(
            "the wavelet is 0 at all times or not finite; give one such as simulation.ricker"
        )
    return float(spectrum.argmax(-1).max()) / (length * time_step)


def lowpass(signal: Tensor, time_step: float, frequency: float) -> Tensor:
    """Remove frequencies above ``frequency`` along the last axis (Butterworth, fourth order).

    The filter is causal, so the record of a filtered wavelet is the filtered record, to its end.
    """
    from scipy.signal import butter, sosfilt

    count = signal.shape[-1]
    impulse = np.zeros(count)
    impulse[0] = 1.0
    sections = butter(4, frequency, fs=1 / time_step, output="sos")
    # Twice the length, so that the product of the spectra is a linear convolution.
    response = torch.from_numpy(sosfilt(sections, impulse)).to(signal)
    spectrum = torch.fft.rfft(signal, n=2 * count) * torch.fft.rfft(response, n=2 * count)
    return torch.fft.irfft(spectrum, n=2 * count)[..., :count]
