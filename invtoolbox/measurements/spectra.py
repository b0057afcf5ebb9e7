"""Checks of k-space: its centre, signs, conjugation, missing phases, and images in its place."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from invtoolbox.measurements.findings import Finding, Subject, register
from invtoolbox.operators.algebra import Composition
from invtoolbox.operators.base import Operator
from invtoolbox.operators.mri.cartesian import CartesianMRI
from invtoolbox.operators.mri.coils import combine_coils
from invtoolbox.operators.mri.fourier import Fourier, centred_fft, centred_ifft

#: Half width of the box around frequency zero, and width of the frame of an image, as shares of the
#: axes; least length of an axis.
_BOX, _FRAME, _LEAST = 1 / 16, 1 / 16, 16
#: Least ratio of the energies at two places for the frequency zero.
_CENTRE = 4.0
#: Least ratio of the energies in the frames of two images, and largest energy in the darker frame,
#: relative to the mean of the image.
_DARKER, _DARK = 4.0, 0.3
#: Shares of the energy in the box that k-space has at least, and that an image has at most.
_SPECTRAL, _SPATIAL = 0.4, 0.25
#: Least residual of coil images that other maps may explain, and least ratio of the residuals.
_UNEXPLAINED, _RATIO = 0.05, 2.0
#: Largest number of samples that are transformed.
_SAMPLES = 4_000_000


class Spectrum:
    """K-space of the first item, frequency zero in the middle if the operator is right.

    Attributes:
        y: samples ``(1, coil, *space)``, complex.
        axes: number of the last axes that are transformed.
        coil_maps: sensitivities of the coils, None for one coil.
        centred: whether the operator takes frequency zero in the middle.
    """

    def __init__(self, y: Tensor, fourier: Fourier | CartesianMRI) -> None:
        self.axes = fourier.axes
        self.dims = tuple(range(-self.axes, 0))
        self.centred = getattr(fourier, "centred", True)
        self.coil_maps = getattr(fourier, "coil_maps", None)
        self.y = y[:1].detach()
        if self.y[0, 0].numel() * self.y.shape[1] > _SAMPLES:
            self.y, self.coil_maps = self.y[:, :1], None
        self.y = self.y.to(self.y.dtype.to_complex())
        if not self.centred:
            self.y = centred_fft(torch.fft.ifftn(self.y, dim=self.dims, norm="ortho"), self.axes)

    @classmethod
    def of(cls, subject: Subject) -> Spectrum | None:
        """Return the k-space of a problem, None if its operator is no Fourier transform."""
        fourier, y = subject.operator, subject.problem.y0
        if isinstance(fourier, Composition) and fourier.parts[0].sampled is not None:
            fourier = fourier.parts[1]
        if not isinstance(fourier, (Fourier, CartesianMRI)) or not bool((y[:1] != 0).any()):
            return None
        return cls(y, fourier) if min(y.shape[-fourier.axes :]) >= _LEAST else None

    def power(self, values: Tensor) -> Tensor:
        """Sum the squares of values over all axes but the axes of the transform."""
        return values.abs().square().flatten(0, -self.axes - 1).sum(0)

    def shifts(self) -> list[tuple[int, ...]]:
        """Return the shifts by half an axis, along no axis first."""
        halves = [(0, n // 2) for n in self.y.shape[-self.axes :]]
        return list(itertools.product(*halves))

    def share(self, power: Tensor) -> float:
        """Return the share of the energy in the box around the middle."""
        box = [slice(n // 2 - _width(n, _BOX), n // 2 + _width(n, _BOX) + 1) for n in power.shape]
        return float(power[tuple(box)].sum() / power.sum())

    def shift_of_signs(self, y: Tensor) -> tuple[int, ...] | None:
        """Return the shift of the image whose frame is dark, if the frame of the image is not."""
        power = self.power(centred_ifft(y, self.axes))
        inner = [slice(_width(n, _FRAME), n - _width(n, _FRAME)) for n in power.shape]
        frame = torch.ones_like(power, dtype=torch.bool)
        frame[tuple(inner)] = False
        energies = {s: float(power.roll(s, self.dims)[frame].mean()) for s in self.shifts()}
        stated, best = next(iter(energies)), min(energies, key=lambda s: energies[s])
        if energies[stated] < _DARKER * energies[best]:
            return None
        return best if energies[best] < _DARK * float(power.mean()) else None

    def axes_of(self, shift: tuple[int, ...]) -> tuple[int, ...]:
        """Return the axes along which a shift is not 0, counted from the end."""
        return tuple(axis for axis, places in zip(self.dims, shift) if places)


@register(Operator)
def check_phases(subject: Subject) -> Finding | None:
    """Find images in place of k-space, moduli of k-space without phases, and real parts of it."""
    S = Spectrum.of(subject)
    if S is None:
        return None
    spectral, transformed = S.share(S.power(S.y)), S.share(S.power(centred_fft(S.y, S.axes)))
    if transformed > max(_SPECTRAL, 2 * spectral) and spectral < _SPATIAL:
        return Finding(
            "image",
            "the measurements look like an image and not like its k-space: their transform is "
            f"concentrated around frequency zero ({transformed:.0%} of the energy, theirs has "
            f"{spectral:.0%}); transform them, or give A = it.operators.Identity(image_shape)",
            is_fatal=not subject.problem.y0.is_complex(),  # else it may be a point in the middle
            is_conclusive=True,
        )
    moduli = S.y.real[S.y != 0]
    if not subject.problem.y0.is_complex() and bool((moduli < 0).any()):
        return Finding(
            "real",
            "samples of k-space are complex, and these are real numbers of both signs, so their "
            "imaginary parts were lost and the image lies over its own mirror image; pass the "
            "complex samples",
            is_conclusive=True,
        )
    if bool((S.y.imag != 0).any()) or bool((moduli < 0).any()) or len(moduli) < _LEAST**2:
        return None
    if float(moduli.max()) < 1.001 * float(moduli.min()):
        return None
    return Finding(
        "magnitudes",
        f"all {len(moduli)} samples of k-space are real and none is negative: these are magnitudes "
        "without phases, which do not determine an image; pass the complex samples",
        is_fatal=True,
        is_conclusive=True,
    )


@register(Operator)
def check_centre(subject: Subject) -> Finding | None:
    """Find k-space whose frequency zero is not where the operator takes it."""
    S = Spectrum.of(subject)
    if S is None:
        return None
    power = S.power(S.y)
    shares = {shift: S.share(power.roll(shift, S.dims)) for shift in S.shifts()}
    stated, best = next(iter(shares)), max(shares, key=lambda s: shares[s])
    if shares[best] < max(_CENTRE * shares[stated], _SPECTRAL):
        return None
    places, axes = ("index 0", "n // 2") if S.centred else ("n // 2", "index 0"), S.axes_of(best)
    name = "fftshift" if S.centred else "ifftshift"
    signs = S.shift_of_signs(S.y.roll(best, S.dims))
    more = "" if signs is None else f", and multiply it by {_signs(S.axes_of(signs))}"
    return Finding(
        "centre",
        f"frequency zero lies at {places[0]} of the axes {axes} of k-space, and the operator takes "
        f"it at {places[1]}; pass torch.fft.{name}(y, dim={axes}){more}",
        is_conclusive=True,
    )


@register(Operator)
def check_signs(subject: Subject) -> Finding | None:
    """Find k-space whose signs alternate, which shifts the image by half of its size."""
    S = Spectrum.of(subject)
    # Without the middle of k-space, an image shows little but its edges.
    if S is None or S.share(S.power(S.y)) < _SPECTRAL:
        return None
    shift = S.shift_of_signs(S.y)
    if shift is None:
        return None
    axes = S.axes_of(shift)
    return Finding(
        "signs",
        f"the image is bright at its borders and dark in between, as if it were shifted by half "
        f"of its size along the axes {axes}: the signs of k-space alternate; multiply it by "
        f"{_signs(axes)}",
        is_conclusive=True,
    )


@register(CartesianMRI)
def check_coils(subject: Subject) -> Finding | None:
    """Find conjugated k-space, and coil maps that are conjugated or in another order."""
    S = Spectrum.of(subject)
    if S is None or S.coil_maps is None or S.coil_maps.shape[1] < 2:
        return None
    # The box around frequency zero is usually complete, and maps hardly change a blurred image.
    box = torch.zeros(S.y.shape[-S.axes :], dtype=torch.bool, device=S.y.device)
    box[tuple(slice(n // 2 - _width(n, _BOX), n // 2 + _width(n, _BOX) + 1) for n in box.shape)] = (
        True
    )
    maps = S.coil_maps[:1].to(S.y)
    candidates: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "": lambda: (S.y, maps),
        "the samples are conjugated; pass y.conj()": lambda: (S.y.conj(), maps),
        "the coil maps are conjugated; pass coil_maps.conj()": lambda: (S.y, maps.conj()),
        "the coils of y run the other way; pass y.flip(1)": lambda: (S.y.flip(1), maps),
    }
    residuals = {}
    for words, make in candidates.items():
        y, sensitivities = make()
        images = centred_ifft(y * box, S.axes)
        power = sensitivities.abs().square().sum(1, keepdim=True)
        combined = combine_coils(images, sensitivities) / power.clamp_min(1e-6 * power.max())
        gap = (images - sensitivities * combined)[(power > 0).expand_as(images)]
        residuals[words] = float(gap.norm() / images[(power > 0).expand_as(images)].norm())
    best = min(residuals, key=lambda words: residuals[words])
    if residuals[""] < max(_UNEXPLAINED, _RATIO * residuals[best]):
        return None
    return Finding(
        "coils",
        f"the coil maps leave {residuals['']:.0%} of the middle of k-space unexplained, and "
        f"{residuals[best]:.0%} if {best}",
    )


def _width(n: int, share: float) -> int:
    return max(1, math.ceil(share * n))


def _signs(axes: tuple[int, ...]) -> str:
    names = {-1: "column", -2: "row", -3: "slice"}
    return f"(-1) ** ({' + '.join(names[axis] for axis in axes)})"
