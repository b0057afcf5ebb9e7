"""Truncated projections: an object wider than the detector; a smooth continuation keeps filtered back-projection from cupping.

Binning, cropping and leaving out: the sinogram and its geometry change together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.datasets.measurement import Measurement
from invtoolbox.datasets.scans.geometry_2d import Geometry
from invtoolbox.datasets.scans.geometry_file import check_is_2d
from invtoolbox.errors import InputError


def extend_truncated(measurement: Measurement, cells: int | None = None) -> Measurement:
    r"""More cells on either side of the detector, with a smooth guess of what they would have measured.

    Filtered back-projection takes what lies beyond the detector for 0, and the filter turns the step at the edge into a bright
    rim and a shift of the values inside. Here every view goes on by its own mirror image through the edge's value, faded out:
    :math:`e_k = \max(2 y_0 - y_k, 0) \cos^2(\pi k / (2 n + 2))` at ``k`` cells beyond the edge of value ``y_0``, continuous
    with its slope (Ohnesorge, Flohr, Schwarz, Heiken and Bae, Medical Physics 27, 2000). The values inside the field of view become
    usable; their level stays a guess, which only knowledge from outside can settle. Iterative solvers need no continuation, but an
    image that reaches beyond the field of view.

    Args:
        measurement: line integrals ``(1, 1, view, cell)`` and their geometry.
        cells: ``n``, how many are added on either side; half the detector by default.

    >>> from invtoolbox.datasets import Geometry
    >>> g = Geometry("parallel", angles=(0.0,), num_detectors=5, image_shape=(4, 4))
    >>> extend_truncated(Measurement(torch.ones(1, 1, 1, 5), g), 2).y.round(decimals=2)
    tensor([[[[0.2500, 0.7500, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 0.7500, 0.2500]]]])
    """
    geometry, y = check_is_2d(measurement.geometry, "extend_truncated"), measurement.y
    count = y.shape[-1]
    n = count // 2 if cells is None else int(cells)
    if not 1 <= n < count:
        raise InputError(
            f"extend_truncated adds between 1 and {count - 1} cells on either side of {count}, got {n}"
        )
    fade = torch.cos(
        math.pi / (2 * n + 2) * torch.arange(1, n + 1, dtype=y.dtype, device=y.device)
    ).square()
    right = (2 * y[..., -1:] - y[..., count - 1 - n : count - 1].flip(-1)).clamp_min(0) * fade
    left = ((2 * y[..., :1] - y[..., 1 : n + 1]).clamp_min(0) * fade).flip(-1)
    changed = dataclasses.replace(geometry, num_detectors=count + 2 * n)
    return dataclasses.replace(
        measurement,
        y=torch.cat([left, y, right], -1),
        geometry=changed,
        meta={**measurement.meta, "detector_extended": n},
    )


def bin_detector(
    measurement: Measurement, factor: int, average: str = "transmission"
) -> Measurement:
    """Cells joined in groups of ``factor``; what is left over at the end of the detector is cut off.

    Args:
        measurement: line integrals ``(1, 1, view, cell)``, without unit, and their geometry.
        factor: how many cells become one.
        average: ``"transmission"`` averages ``exp(-y)``, as a larger cell would have counted; ``"line integral"`` averages ``y``.
            They differ where line integrals vary within a cell.

    Returns:
        a measurement whose geometry has fewer, wider cells at the same places, and whose noise is ``1 / sqrt(factor)`` of before.

    >>> g = Geometry("parallel", angles=(0.0,), num_detectors=5, image_shape=(4, 4))
    >>> m = bin_detector(Measurement(torch.ones(1, 1, 1, 5), g), 2)
    >>> m.y.shape, m.geometry.detector_spacing, m.geometry.detector_shift
    (torch.Size([1, 1, 1, 2]), 2.0, -0.5)
    """
    geometry = _geometry(measurement, "bin_detector")
    factor = int(factor)
    count = geometry.num_detectors // factor if factor >= 1 else 0
    if count < 1:
        raise InputError(
            f"bin_detector joins between 1 and {geometry.num_detectors} cells, got {factor}"
        )
    groups = measurement.y[..., : count * factor].unflatten(-1, (count, factor))
    if average == "transmission":
        # In terms of the smallest line integral, so that strong attenuation does not underflow.
        least = groups.amin(-1, keepdim=True)
        y = least.squeeze(-1) - (least - groups).exp().mean(-1).log()
    elif average == "line integral":
        y = groups.mean(-1)
    else:
        raise InputError(
            f"bin_detector averages 'transmission' or 'line integral', got {average!r}"
        )
    lost = geometry.num_detectors - count * factor
    changed = dataclasses.replace(
        geometry,
        num_detectors=count,
        detector_spacing=geometry.detector_spacing * factor,
        detector_shift=geometry.detector_shift - lost / 2 * geometry.detector_spacing,
    )
    noise = None if measurement.noise_std is None else measurement.noise_std / math.sqrt(factor)
    return _changed(measurement, y, changed, noise, detector_binning=factor)


def crop_detector(measurement: Measurement, start: int, stop: int) -> Measurement:
    """The cells ``start`` to ``stop - 1``, which stay where they are: the shift of the detector changes with them.

    >>> g = Geometry("parallel", angles=(0.0,), num_detectors=6, image_shape=(4, 4))
    >>> crop_detector(Measurement(torch.zeros(1, 1, 1, 6), g), 0, 4).geometry.axis_column  # as before, counted from cell 0
    2.5
    """
    geometry = _geometry(measurement, "crop_detector")
    cells = geometry.num_detectors
    if not 0 <= start < stop <= cells:
        raise InputError(
            f"crop_detector keeps cells from start to stop - 1 within 0..{cells}, got {start} and {stop}"
        )
    moved = ((start + stop - 1) / 2 - (cells - 1) / 2) * geometry.detector_spacing
    changed = dataclasses.replace(
        geometry, num_detectors=stop - start, detector_shift=geometry.detector_shift + moved
    )
    return _changed(
        measurement,
        measurement.y[..., start:stop],
        changed,
        measurement.noise_std,
        detector_cells=(start, stop),
    )


def select_views(measurement: Measurement, views: Sequence[int] | slice | Tensor) -> Measurement:
    """Some of the views, by index or slice, in the order given, with their angles.

    >>> g = Geometry("parallel", angles=(0.0, 0.5, 1.0), num_detectors=6, image_shape=(4, 4))
    >>> select_views(Measurement(torch.zeros(1, 1, 3, 6), g), slice(None, None, 2)).geometry.angles
    (0.0, 1.0)
    """
    geometry = _geometry(measurement, "select_views")
    count = len(geometry.angles)
    chosen = range(count)[views] if isinstance(views, slice) else [int(k) for k in views]
    if not len(chosen) or not all(-count <= k < count for k in chosen):
        raise InputError(f"select_views takes at least one index of the {count} views, got {views}")
    chosen = [k % count for k in chosen]
    changed = dataclasses.replace(geometry, angles=tuple(geometry.angles[k] for k in chosen))
    y = measurement.y.index_select(-2, torch.tensor(chosen, device=measurement.y.device))
    return _changed(measurement, y, changed, measurement.noise_std, views=tuple(chosen))


def _geometry(measurement: Measurement, name: str) -> Geometry:
    return check_is_2d(measurement.geometry, name)


def _changed(
    measurement: Measurement, y: Tensor, geometry: Any, noise_std: float | None, **facts: Any
) -> Measurement:
    return dataclasses.replace(
        measurement, y=y, geometry=geometry, noise_std=noise_std, meta={**measurement.meta, **facts}
    )
