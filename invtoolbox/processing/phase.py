"""Phase retrieval from one distance, before reconstruction: the filter of Paganin.

Behind a nearly transparent object, a detector at some distance sees bright and dark fringes at its
edges, which are far stronger than the shadow. For one material, a low-pass filter of the
transmissions turns them into line integrals of the attenuation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.datasets import Geometry, Geometry3D, Measurement
from invtoolbox.errors import InputError
from invtoolbox.simulation.propagation import x_ray_wavelength

#: Padding in decay lengths of the filter: beyond it, the filter has a weight of exp(-6).
_REACH = 6.0
#: Number of values that are filtered at a time, 64 MB in float32.
_PIECE = 1 << 24
#: Units of length that a geometry may name, in millimetres.
_UNITS = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "nm": 1e-6}


def filter_phase(
    transmission: Tensor,
    delta_beta: float,
    energy: float,
    distance: float,
    pixel_size: float | tuple[float, float],
    source_distance: float = math.inf,
) -> Tensor:
    r"""Compute line integrals from transmissions with fringes by the filter of Paganin.

    .. math:: y = -\log F^{-1} \frac{F I}{1 + \pi \lambda z (\delta / \beta) |f|^2}, \qquad
              z = R / M, \quad M = 1 + R / R_0,

    where F is the Fourier transform over the detector, f is in cycles per length at the object,
    ``R`` is `distance` and ``R_0`` is `source_distance`. The object consists of one material with the
    refractive index :math:`1 - \delta + i \beta`, or of materials of one ratio. Its thickness is
    :math:`y / \mu` with :math:`\mu = 4 \pi \beta / \lambda`, its phase :math:`-(\delta / \beta) y / 2`.
    The formula is that of short distances: the Fresnel number ``p^2 / (lambda z)``, with the pixel size
    ``p`` at the object, is well above 1. At longer distances, a pixel at an edge sees several fringes.

    Remove zingers and stripes first, because the filter spreads them. A sinogram
    ``(batch, channel, view, cell)`` is filtered along its cells alone, as if the object did not
    change along the axis of rotation; projections are filtered along rows and cells. Values at the
    border are continued, so fringes that the border cuts leave errors next to it.

    Args:
        transmission: positive transmissions ``(batch, channel, view, *detector)``, after flat and dark
            field and before the logarithm.
        delta_beta: ratio ``delta / beta`` of the material, without unit.
        energy: mean energy of the photons in keV.
        distance: distance from the object to the detector in mm.
        pixel_size: distance between cells of the detector in mm; or two of them, between rows and
            between cells.
        source_distance: distance from the source to the object in mm; infinite for a parallel beam.

    Returns:
        Line integrals of the attenuation, without unit, of the shape of ``transmission``.

    Raises:
        InputError: if a number is missing, zero or negative, or a transmission is not positive.

    Source: Paganin, Mayo, Gureyev, Miller & Wilkins, Journal of Microscopy 206, 2002.

    >>> flat = torch.full((1, 1, 3, 16), 0.5)
    >>> filter_phase(flat, 1000.0, energy=20.0, distance=100.0, pixel_size=0.002)[0, 0, 0, :2]
    tensor([0.6931, 0.6931])
    """
    _check_numbers(
        delta_beta=delta_beta, energy=energy, distance=distance, source_distance=source_distance
    )
    sizes = pixel_size if isinstance(pixel_size, tuple) else (pixel_size, pixel_size)
    for size in sizes:
        _check_numbers(pixel_size=size)
    axes = 1 if transmission.ndim == 4 else 2
    if transmission.ndim not in (4, 5) or not transmission.is_floating_point():
        raise InputError(
            "filter_phase takes transmissions (batch, channel, view, *detector), got "
            f"{transmission.dtype} of shape {tuple(transmission.shape)}"
        )
    if not bool(torch.isfinite(transmission).all()):
        raise InputError(
            "transmissions hold values that are NaN or infinite, which the filter would spread; "
            "repair them"
        )
    magnification = 1 + distance / source_distance
    # Lengths in mm: lambda [nm] 1e-6 z; per pixel of the object, p / M.
    strength = math.pi * x_ray_wavelength(energy) * 1e-6 * distance / magnification * delta_beta
    ratios = [strength * (magnification / size) ** 2 for size in sizes[-axes:]]
    shape = transmission.shape[-axes:]
    # In one dimension the filter is exp(-|x| / l) / (2 l) with l = sqrt(ratio) / (2 pi) pixels.
    pads = [
        min(math.ceil(_REACH * math.sqrt(r) / (2 * math.pi)) + 1, 2 * n)
        for r, n in zip(ratios, shape)
    ]
    padding = [p for pad in reversed(pads) for p in (pad, pad)]
    lengths = [n + 2 * pad for n, pad in zip(shape, pads)]
    gain = _gain(ratios, lengths).to(transmission)
    places = tuple(range(-axes, 0))
    views = transmission.reshape(1, -1, *shape)
    filtered = torch.empty_like(views)
    step = max(1, _PIECE // math.prod(lengths))
    inside = tuple(slice(pad, pad + n) for pad, n in zip(pads, shape))
    for k in range(0, views.shape[1], step):
        padded = F.pad(views[:, k : k + step], padding, mode="replicate")
        spectrum = torch.fft.rfftn(padded, dim=places) / gain
        filtered[:, k : k + step] = torch.fft.irfftn(spectrum, s=lengths, dim=places)[
            (..., *inside)
        ]
    dark = int((filtered <= 0).sum())
    if dark:
        raise InputError(
            f"{dark} of {filtered.numel()} filtered transmissions are not positive and have no "
            "logarithm; check the flat and the dark field, or pass exp(-y) of it.processing."
            "line_integrals, which fills in rays without light"
        )
    return -filtered.log().view(transmission.shape)


def _gain(ratios: Sequence[float], lengths: Sequence[int]) -> Tensor:
    """Return ``1 + sum_axis ratio f^2`` at the frequencies f of a real transform, in float64."""
    gain, axes = torch.ones((), dtype=torch.float64), len(lengths)
    for axis, (ratio, n) in enumerate(zip(ratios, lengths)):
        frequencies = (torch.fft.fftfreq if axis < axes - 1 else torch.fft.rfftfreq)(
            n, dtype=torch.float64
        )
        gain = gain + ratio * frequencies.square().view(-1, *[1] * (axes - 1 - axis))
    return gain


def retrieve_phase(
    measurement: Measurement,
    delta_beta: float,
    energy: float,
    distance: float | None = None,
) -> Measurement:
    """Filter the line integrals of a scan as `filter_phase` does, with the lengths of its geometry.

    Args:
        measurement: line integrals ``(1, 1, view, *detector)`` and their geometry, in a unit of length
            that the geometry names.
        delta_beta: ratio ``delta / beta`` of the material.
        energy: mean energy of the photons in keV.
        distance: distance from the object to the detector in the unit of the geometry; of a parallel
            beam only. The geometry of a fan or cone beam has it.

    Raises:
        InputError: as `filter_phase`; and without a geometry of one source and one panel, or without
            its unit of length.

    >>> g = Geometry("parallel", angles=(0.0, 1.0), num_detectors=5, image_shape=(4, 4),
    ...              detector_spacing=0.002, pixel_size=0.002)
    >>> scan = Measurement(torch.zeros(1, 1, 2, 5), g)
    >>> float(retrieve_phase(scan, 1000.0, energy=20.0, distance=100.0).y.abs().max()) < 1e-6
    True
    """
    geometry = measurement.geometry
    has_poses = isinstance(geometry, Geometry3D) and bool(geometry.vectors)
    if not isinstance(geometry, Geometry | Geometry3D) or has_poses:
        raise InputError(
            "retrieve_phase needs the geometry of a parallel, fan or cone beam; with poses per view, call "
            "filter_phase with the distances and the pixel size"
        )
    unit = _UNITS.get(geometry.length_unit)
    if unit is None:
        raise InputError(
            f"retrieve_phase needs lengths in mm, and the unit of the geometry is "
            f"{geometry.length_unit!r}; give a geometry with the pixel size and length_unit = 'mm'"
        )
    spacing = geometry.detector_spacing
    sizes = spacing if isinstance(spacing, tuple) else (spacing, spacing)
    source = math.inf
    if geometry.source_origin is not None:
        assert geometry.source_detector is not None
        if distance is not None:
            raise InputError(
                "the geometry of a fan or cone beam has the distance from the object to the "
                "detector, source_detector - source_origin; leave distance out"
            )
        source = geometry.source_origin * unit
        distance = geometry.source_detector - geometry.source_origin
    y = filter_phase(
        torch.exp(-measurement.y),
        delta_beta=delta_beta,
        energy=energy,
        distance=None if distance is None else distance * unit,  # type: ignore[arg-type]
        pixel_size=(sizes[0] * unit, sizes[1] * unit),
        source_distance=source,
    )
    # The noise is smooth after the filter, so one level per reading no longer describes it.
    meta = {**measurement.meta, "delta_beta": delta_beta, "energy": energy}
    return dataclasses.replace(measurement, y=y, noise_std=None, meta=meta)


def _check_numbers(**values: float | None) -> None:
    """Refuse a missing number, 0 and negative numbers; the sentence states what is needed."""
    needs = {
        "delta_beta": "the ratio delta / beta of the material (tables of refractive indices have both)",
        "energy": "the mean energy of the photons in keV",
        "distance": "the distance from the object to the detector in mm; at 0 there are no fringes, and "
        "the line integrals need no filter",
        "pixel_size": "the distance between cells of the detector in mm",
        "source_distance": "the distance from the source to the object in mm, or infinity",
    }
    for name, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        number = float(value) if is_number and value is not None else math.nan
        if not number > 0 or (math.isinf(number) and name != "source_distance"):
            raise InputError(f"phase retrieval needs {name} above 0, {needs[name]}; got {value!r}")
