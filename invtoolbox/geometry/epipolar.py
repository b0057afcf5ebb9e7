r"""Flow of the picture of a moving camera, and the motion that a flow determines.

A camera that moves with the velocity v and turns with the rate w, both in its own frame, sees a
static point X move as :math:`\dot X = -v - w \times X`. Its place x = (X / Z, Y / Z, 1) then moves
with u, and v and w fulfil the differential epipolar constraint

.. math:: u^T (v \times x) - (x^T w)(x^T v) + (v^T w)(x^T x) = 0

at every point, whatever its depth. The constraint determines v up to a factor.

Source: Ma, Kosecka, Sastry, "Linear differential algorithm for motion recovery: a geometric
approach" (IJCV 2000), with the sign of u for the motion of the camera, not of the world.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError

#: Largest number of points that a fit uses; more are thinned evenly.
_MOST = 1500
#: Number of directions of v that are tried, and of the points on which they are.
_DIRECTIONS, _FEW = 200, 150
#: Residual of the best motion relative to a pure rotation, above which the camera only turns.
_TURNS_ONLY = 0.8
#: The same if the rotation explains the flow to within its accuracy: errors of a smooth flow look
#: like a velocity, but leave a residual.
_DOUBTFUL = 0.3


def motion_field(rays: Tensor, twist: Tensor, inverse_depth: Tensor | float) -> Tensor:
    """Compute the flow of static points, ``(..., 2)``, at focal length 1.

    Args:
        rays: places ``(X / Z, Y / Z)``, ``(..., 2)``.
        twist: velocity v, then rate of rotation w, ``(..., 6)`` or ``(6,)``, per unit of time.
        inverse_depth: 1 / Z, ``(...)``, in the unit of 1 / v.

    >>> motion_field(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0, 1, 0, 0, 0]), 2.0)
    tensor([1., 0.])
    """
    # u = A(x) v / Z + B(x) w with A = [[-1, 0, x], [0, -1, y]] (Longuet-Higgins and Prazdny, 1980).
    x, y = rays.unbind(-1)
    v, w = twist[..., :3], twist[..., 3:]
    nearness = torch.as_tensor(inverse_depth, dtype=rays.dtype, device=rays.device)
    across = (x * v[..., 2] - v[..., 0]) * nearness
    down = (y * v[..., 2] - v[..., 1]) * nearness
    return torch.stack([across, down], -1) + rotational_field(rays, w)


def rotational_field(rays: Tensor, rate: Tensor) -> Tensor:
    """Compute the flow of a camera that only turns, ``(..., 2)``, at focal length 1.

    Args:
        rays: places ``(X / Z, Y / Z)``, ``(..., 2)``.
        rate: rate of rotation w, ``(..., 3)`` or ``(3,)``.
    """
    # B = [[x y, -(1 + x^2), y], [1 + y^2, -x y, -x]], independent of the depth.
    x, y = rays.unbind(-1)
    a, b, c = rate.unbind(-1)
    return torch.stack(
        [x * y * a - (1 + x * x) * b + y * c, (1 + y * y) * a - x * y * b - x * c], -1
    )


def epipolar_residual(rays: Tensor, flow: Tensor, twist: Tensor) -> Tensor:
    """Compute the left side of the differential epipolar constraint, ``(...)``.

    Args:
        rays: places ``(X / Z, Y / Z)``, ``(..., 2)``.
        flow: their motion at focal length 1, ``(..., 2)``, per unit of time.
        twist: velocity and rate of rotation, ``(..., 6)`` or ``(6,)``.

    >>> rays, twist = torch.rand(5, 2).double(), torch.rand(6).double()
    >>> flow = motion_field(rays, twist, torch.rand(5).double())
    >>> bool(epipolar_residual(rays, flow, twist).abs().max() < 1e-14)
    True
    """
    v, w = twist[..., :3], twist[..., 3:]
    x = torch.cat([rays, torch.ones_like(rays[..., :1])], -1)
    u = torch.cat([flow, torch.zeros_like(rays[..., :1])], -1)
    # u . (v x x) - ((x . w)(x . v) - (v . w)(x . x)), see the head of the module.
    flow_term = (u * torch.linalg.cross(v.expand_as(x), x)).sum(-1)
    rotation_term = (x * w).sum(-1) * (x * v).sum(-1) - (v * w).sum(-1) * (x * x).sum(-1)
    return flow_term - rotation_term


def epipolar_distance(rays: Tensor, flow: Tensor, twist: Tensor) -> Tensor:
    """Compute the distance of flow from the epipolar lines, ``(...)``, at focal length 1.

    It is the residual divided by the length of the flow that v alone causes at depth 1, so that
    neither the length of v nor the place in the picture matters. With v = 0 it is 0.

    Args:
        rays: places, ``(..., 2)``.
        flow: their motion, ``(..., 2)``.
        twist: velocity and rate of rotation, ``(..., 6)`` or ``(6,)``.
    """
    # The residual is the cross product of A v and u - B w: |A v| times the distance of u from the line.
    v = twist[..., :3]
    Av = rays * v[..., 2:] - v[..., :2]
    # A twentieth of v keeps the focus of expansion, where every direction fits, from dominating.
    length = (Av.square().sum(-1) + 0.0025 * v.square().sum(-1)).clamp_min(1e-30).sqrt()
    return epipolar_residual(rays, flow, twist) / length


@dataclass(frozen=True)
class CameraMotion:
    """Motion of a camera that explains a flow.

    Attributes:
        twist: unit velocity v (or 0, if the camera only turns), then the rate of rotation w in
            radians per unit of time, ``(6,)`` float64.
        residual: root mean square distance of the flow from the epipolar lines, at focal length 1.
        turns_only: whether a pure rotation explains the flow about as well, so that v is unknown.
    """

    twist: Tensor
    residual: float
    turns_only: bool


def linear_camera_motion(rays: Tensor, flow: Tensor) -> Tensor:
    """Compute v and w by the linear algorithm, ``(6,)`` float64; v has unit length.

    The constraint is linear in v and in the symmetric matrix s of the terms without u. Exact flow
    gives the exact answer, but noise turns v towards the axis of the camera; see `camera_motion`.

    Args:
        rays: places ``(X / Z, Y / Z)``, ``(N, 2)``, at least 8.
        flow: their motion, ``(N, 2)``, per unit of time.

    >>> rays, truth = torch.rand(20, 2).double(), torch.tensor([0.6, 0, 0.8, 0.1, 0.2, -0.1])
    >>> flow = motion_field(rays, truth.double(), 0.5 + torch.rand(20).double())
    >>> torch.allclose(linear_camera_motion(rays, flow).float(), truth, atol=1e-5)
    True
    """
    p, u = _checked(rays, flow)
    # Unknowns are v and the six entries of s = (v w^T + w v^T) / 2 - (v . w) I; the constraint is
    # (x x u) . v - x^T s x = 0, one row per point.
    x = torch.cat([p, torch.ones_like(p[:, :1])], 1)
    u3 = torch.cat([u, torch.zeros_like(p[:, :1])], 1)
    squares = torch.stack(
        [x[:, i] * x[:, j] * (1 if i == j else 2) for i in range(3) for j in range(i, 3)], 1
    )
    rows = torch.cat([torch.linalg.cross(x, u3), -squares], 1)
    # Columns of equal length: the flow may be far smaller than the places.
    scale = rows.norm(dim=0).clamp_min(1e-30)
    # The right singular vector of the least singular value solves the homogeneous equations.
    v = torch.linalg.svd(rows / scale, full_matrices=False).Vh[-1, :3] / scale[:3]
    v = v / v.norm().clamp_min(1e-30)
    return _signed(p, u, v, _rate(p, u, v[None])[0][0])


def camera_motion(rays: Tensor, flow: Tensor, accuracy: float = 0.0) -> CameraMotion:
    """Fit v and w to a noisy flow by the distances from the epipolar lines.

    For every direction of v, w follows by weighted least squares. The direction is searched on the
    sphere from 200 directions and from the linear algorithm, then refined. The sign of v is that
    of which most points lie in front of the camera.

    Args:
        rays: places ``(X / Z, Y / Z)``, ``(N, 2)``, at least 8.
        flow: their motion, ``(N, 2)``, per unit of time.
        accuracy: error of the flow relative to its root mean square. If a rotation explains the
            flow this well, v counts only if it leaves less than a third of the rotation's residual.

    Raises:
        InputError: shapes differ, or there are fewer than 8 points.
    """
    p, u = _checked(rays, flow)
    k = torch.arange(_DIRECTIONS, dtype=p.dtype) + 0.5  # a spiral of Fibonacci on the half sphere
    z, turn = 1 - k / _DIRECTIONS, k * (torch.pi * (3 - 5**0.5))
    flat = (1 - z * z).sqrt()
    spiral = torch.stack([flat * turn.cos(), flat * turn.sin(), z], 1)
    # The sign of v does not change the distances, so half of the sphere is enough.
    every = -(-len(p) // _FEW)
    coarse = spiral[_rate(p[::every], u[::every], spiral)[1].argmin()]
    candidates = torch.stack([coarse, linear_camera_motion(p, u)[:3]])
    radius = 0.1
    for _ in range(40):
        rates, residuals = _rate(p, u, candidates)
        least = int(residuals.argmin())
        best, rate, residual = candidates[least], rates[least], residuals[least]
        # Once around, in the plane that touches the sphere; a better direction keeps the radius.
        radius = radius if least > 0 else radius / 2
        if radius < 1e-7:
            break
        around = torch.linalg.svd(best[None]).Vh[1:]
        angle = torch.arange(6, dtype=p.dtype) * (torch.pi / 3)
        ring = torch.stack([angle.cos(), angle.sin()], 1) @ around
        candidates = torch.cat([best[None], best + radius * ring])
        candidates = candidates / candidates.norm(dim=1, keepdim=True)
    turn, turn_error = _rotation(p, u)
    # A pure rotation has two numbers per point to explain, the epipolar distance one.
    within = bool(turn_error <= accuracy * u.square().sum(1).mean().sqrt())
    if bool(residual > (_DOUBTFUL if within else _TURNS_ONLY) * turn_error / 2**0.5):
        return CameraMotion(torch.cat([torch.zeros_like(turn), turn]), float(turn_error), True)
    return CameraMotion(_signed(p, u, best, rate), float(residual), False)


def _checked(rays: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    if rays.shape != flow.shape or rays.ndim != 2 or rays.shape[1] != 2 or len(rays) < 8:
        raise InputError(
            "the motion of a camera needs places and flow (N, 2) of at least 8 points, got "
            f"{tuple(rays.shape)} and {tuple(flow.shape)}"
        )
    every = -(-len(rays) // _MOST)
    return rays[::every].detach().double().cpu(), flow[::every].detach().double().cpu()


def _rate(p: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best w of each v ``(C, 3)``, and the root mean square distance, ``(C,)``."""
    # The distance is affine in w: d(w) = d(0) + M w, and column k of M is the distance of no flow
    # under the unit rate k. Least squares by the normal equations, all directions v at once.
    still = torch.cat([v, torch.zeros_like(v)], 1)[:, None]
    p, u = p.expand(len(v), -1, -1), u.expand(len(v), -1, -1)
    right = epipolar_distance(p, u, still)
    columns = []
    for k in range(3):
        unit = still.clone()
        unit[..., 3 + k] = 1.0
        columns.append(epipolar_distance(p, torch.zeros_like(u), unit))
    matrix = torch.stack(columns, -1)
    normal = matrix.mT @ matrix
    # A ridge relative to the trace: w along some axis may have no effect on the distances.
    size = normal.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-30)
    normal = normal + 1e-12 * size[:, None, None] * torch.eye(3, dtype=p.dtype)
    w = -torch.linalg.solve(normal, (matrix.mT @ right[..., None]))
    residual = (right + (matrix @ w).squeeze(-1)).square().mean(1).sqrt()
    return w.squeeze(-1), residual


def _rotation(p: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the w of a pure rotation, and the root mean square error of its flow."""
    matrix = torch.stack(
        [rotational_field(p, unit) for unit in torch.eye(3, dtype=p.dtype)], -1
    ).flatten(0, 1)
    w = torch.linalg.lstsq(matrix, u.reshape(-1, 1)).solution.squeeze(1)
    return w, (u.flatten() - matrix @ w).view(-1, 2).square().sum(1).mean().sqrt()


def _signed(p: Tensor, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Return the twist with the sign of v that puts most points in front of the camera."""
    # u - B w = A v / Z with A v = away, so their product has the sign of the depth.
    Av = p * v[2] - v[:2]
    in_front = ((u - rotational_field(p, w)) * Av).sum(1).sign().sum()
    return torch.cat([-v if in_front < 0 else v, w])
