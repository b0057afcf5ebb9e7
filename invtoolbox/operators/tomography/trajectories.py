"""Poses of source and panel in every view of a 3D scan, as vectors in ASTRA's order.

World coordinates: ``x`` along the columns of the volume, ``y`` along its rows (a larger row index
lies at a larger ``y``), ``z`` along its slices, which is the axis of rotation; the origin is the
centre of the volume. A view at angle ``t`` has the frame

    u = (cos t, sin t, 0)                       along the rows of the panel, towards larger columns
    n = (-cos a sin t, cos a cos t, -sin a)     the central ray, from the source to the panel
    v = (-sin a sin t, sin a cos t, cos a)      along the columns of the panel, towards larger rows

with ``a`` the tilt, 0 for ordinary tomography. All functions are differentiable and work in
float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: The columns of a table of vectors: four vectors (x, y, z).
PARTS = ("source", "detector", "u", "v")


def circular(
    angles: Any,
    source_origin: Any,
    source_detector: Any,
    detector_spacing: Any = 1.0,
    detector_shift: Any = (0.0, 0.0),
    axis_shift: Any = 0.0,
) -> Tensor:
    """Compute the vectors of a circle around the object.

    The vectors have the shape (V, 12), as ASTRA's ``cone_vec``: source, centre of the panel, u, v.

    Args:
        angles: angles in radians, (V,), anticlockwise seen from above (from positive z).
        source_origin: distance from the source to the axis of rotation.
        source_detector: distance from the source to the panel.
        detector_spacing: distance between neighbouring cells, one length or a pair (row, column).
        detector_shift: shift (u, v), offset of the panel's centre from the foot of the central ray;
            (2,) or (V, 2).
        axis_shift: offset of the axis of rotation from the central ray, along u.

    >>> circular([0.0], 10.0, 15.0, detector_spacing=2.0)[0].reshape(4, 3) + 0.0
    tensor([[  0., -10.,   0.],
            [  0.,   5.,   0.],
            [  2.,   0.,   0.],
            [  0.,   0.,   2.]], dtype=torch.float64)
    """
    return helical(
        angles,
        source_origin,
        source_detector,
        pitch=0.0,
        detector_spacing=detector_spacing,
        detector_shift=detector_shift,
        axis_shift=axis_shift,
    )


def helical(
    angles: Any,
    source_origin: Any,
    source_detector: Any,
    pitch: Any,
    detector_spacing: Any = 1.0,
    detector_shift: Any = (0.0, 0.0),
    axis_shift: Any = 0.0,
) -> Tensor:
    """Compute the vectors (V, 12) of a helix.

    The arguments are those of `circular`, and ``pitch``, the length by which source and panel rise
    per turn. At angle 0 they are level with the volume's centre.

    >>> float(helical([2 * math.pi], 10.0, 15.0, pitch=3.0)[0, 2])
    3.0
    """
    return cone_vectors(
        _double(angles),
        _double(source_origin),
        _double(source_detector),
        _pair(detector_spacing),
        _double(detector_shift),
        axis_shift=_double(axis_shift),
        pitch=_double(pitch),
    )


def laminography(
    angles: Any,
    source_origin: Any,
    source_detector: Any,
    tilt: Any,
    detector_spacing: Any = 1.0,
    detector_shift: Any = (0.0, 0.0),
) -> Tensor:
    """Compute the vectors (V, 12) of a circle above the object, for flat objects.

    The other arguments are those of `circular`.

    Args:
        angles: angles in radians, (V,), anticlockwise seen from above.
        source_origin: distance from the source to the centre of the volume.
        source_detector: distance from the source to the panel.
        tilt: angle in radians between the central ray, which comes down from above, and the plane
            of rotation; 0 is `circular`.
        detector_spacing: distance between neighbouring cells, one length or a pair (row, column).
        detector_shift: shift (u, v), offset of the panel's centre from the foot of the central ray.

    >>> from_above = laminography([0.0], 2.0, 3.0, tilt=math.pi / 2)[0, :3]
    >>> from_above.round(decimals=6) + 0.0
    tensor([0., 0., 2.], dtype=torch.float64)
    """
    return cone_vectors(
        _double(angles),
        _double(source_origin),
        _double(source_detector),
        _pair(detector_spacing),
        _double(detector_shift),
        tilt=_double(tilt),
    )


def parallel(
    angles: Any, detector_spacing: Any = 1.0, detector_shift: Any = (0.0, 0.0), tilt: Any = 0.0
) -> Tensor:
    """Compute the vectors of parallel rays.

    The vectors have the shape (V, 12), as ASTRA's ``parallel3d_vec``: ray direction, centre of the
    panel, u, v.

    The rays run along ``-n``: at angle 0 and without tilt along ``(0, -1, 0)``.

    >>> parallel([0.0])[0, :3] + 0.0
    tensor([ 0., -1.,  0.], dtype=torch.float64)
    """
    return parallel_vectors(
        _double(angles), _pair(detector_spacing), _double(detector_shift), _double(tilt)
    )


# -- the formulas, on tensors in float64 -----------------------------------------------------------


def frame(angles: Tensor, tilt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the vectors u, v and n of every view, (V, 3) each."""
    cos, sin, lean_cos, lean_sin = torch.broadcast_tensors(
        angles.cos(), angles.sin(), tilt.cos(), tilt.sin()
    )
    u = torch.stack([cos, sin, torch.zeros_like(cos)], -1)
    v = torch.stack([-lean_sin * sin, lean_sin * cos, lean_cos], -1)
    n = torch.stack([-lean_cos * sin, lean_cos * cos, -lean_sin], -1)
    return u, v, n


def cone_vectors(
    angles: Tensor,
    source_origin: Tensor,
    source_detector: Tensor,
    spacing: tuple[float, float],
    detector_shift: Tensor,
    axis_shift: Tensor | None = None,
    pitch: Tensor | None = None,
    tilt: Tensor | None = None,
    source_shift: Tensor | None = None,
    detector_rotation: Tensor | None = None,
    curved: bool = False,
) -> Tensor:
    """Compute the vectors (V, 12) of a cone beam.

    Every argument except ``angles`` has one entry for all views or one entry per view.
    """
    zero = angles.new_zeros(())
    u, v, n = frame(angles, zero if tilt is None else tilt)
    # A helix rises by the pitch per turn, along z.
    rise = (zero if pitch is None else pitch) * angles / (2 * math.pi)
    up = torch.stack([torch.zeros_like(rise), torch.zeros_like(rise), rise], -1)
    # The point of the axis that the central ray passes.
    centre = up - (zero if axis_shift is None else axis_shift)[..., None] * u
    source = centre - source_origin[..., None] * n
    across, along = detector_shift[..., :1], detector_shift[..., 1:]
    distance = source_detector[..., None]
    if curved:
        # The panel's centre moves along the arc.
        angle = across / distance
        detector = source + distance * (angle.cos() * n + angle.sin() * u) + along * v
        u, n = angle.cos() * u - angle.sin() * n, angle.cos() * n + angle.sin() * u
    else:
        detector = source + distance * n + across * u + along * v
    if source_shift is not None:
        # The panel stays where it is.
        basis = torch.stack(frame(angles, zero if tilt is None else tilt), -2)
        source = source + (source_shift[..., None] * basis).sum(-2)
    if detector_rotation is not None:
        u, v = _rotate_panel(u, v, n, detector_rotation)
    return _table(source, detector, spacing[1] * u, spacing[0] * v)


def parallel_vectors(
    angles: Tensor,
    spacing: tuple[float, float],
    detector_shift: Tensor,
    tilt: Tensor,
    detector_rotation: Tensor | None = None,
) -> Tensor:
    """Compute the vectors (V, 12) of a parallel beam."""
    u, v, n = frame(angles, tilt)
    detector = detector_shift[..., :1] * u + detector_shift[..., 1:] * v
    if detector_rotation is not None:
        u, v = _rotate_panel(u, v, n, detector_rotation)
    return _table(-n, detector, spacing[1] * u, spacing[0] * v)


def _rotate_panel(u: Tensor, v: Tensor, n: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate the panel's axes by three angles (..., 3).

    The rotations are about u (v towards n), about v (u towards n), and in the plane (u towards v).
    """
    (a, b, c), (a_sin, b_sin, c_sin) = (
        [t[..., None] for t in angles.cos().unbind(-1)],
        [t[..., None] for t in angles.sin().unbind(-1)],
    )
    u, n = b * u + b_sin * n, b * n - b_sin * u
    v = a * v + a_sin * n
    return c * u + c_sin * v, c * v - c_sin * u


def _table(source: Tensor, detector: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return torch.cat(torch.broadcast_tensors(source, detector, u, v), -1)


def _double(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _pair(spacing: Any) -> tuple[float, float]:
    row, column = (spacing, spacing) if np.ndim(spacing) == 0 else spacing
    return float(row), float(column)
