"""Truncated projections: an object wider than the detector; a smooth continuation keeps filtered back-projection from cupping."""

from __future__ import annotations

import dataclasses
import math

import torch

from invtoolbox.datasets.geometry_file import check_is_2d
from invtoolbox.datasets.measurement import Measurement
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
