"""Undoing the sensor's motion within a sweep: points as if all were measured at the sweep's time, and back.

The sensor's own motion between two sweeps: from their poses, or by registration of the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry.rigid import check_motion, inverse, relative_motion, rotation_vector
from invtoolbox.geometry.sweeps import Sweep

When = Literal["auto", "always", "never"]


@dataclass(frozen=True, eq=False)
class Deskew:
    """Even motion of the sensor while it measured: each point is moved by the part of the motion that had passed at its time.

    With the sensor's motion M from the sweep's time to that of the next, of rotation vector w and translation t, a point that was
    measured after a share s of that time is ``q = R(s w) p + s t`` (`geometry.rigid.part_of`), exactly, not in groups of points.

    Attributes:
        share: when each point was measured, in durations from this sweep to the next, ``(N,)`` float64.
        motion: M, the frame of the next sweep in that of this one, ``(4, 4)`` float64.

    >>> Deskew(torch.tensor([0.5]).double(), torch.eye(4).double())(torch.ones(1, 3))
    tensor([[1., 1., 1.]])
    """

    share: Tensor
    motion: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """Measured points as they stand at the sweep's time: ``(N, 3) -> (N, 3)``."""
        p = points.double()
        return (self._turned(p, self.share) + self.share[:, None] * self.motion[:3, 3]).to(
            points.dtype
        )

    def undo(self, points: Tensor) -> Tensor:
        """Points at the sweep's time as the sensor measured them: ``(N, 3) -> (N, 3)``."""
        q = points.double() - self.share[:, None] * self.motion[:3, 3]
        return self._turned(q, -self.share).to(points.dtype)

    def _turned(self, p: Tensor, share: Tensor) -> Tensor:
        """About one axis, by an angle of its own for each point (Rodrigues)."""
        turn = rotation_vector(self.motion[:3, :3])
        angle = float(turn.norm())
        if angle < 1e-12:
            return p
        axis = (turn / angle).expand_as(p)
        sine, cosine = (share * angle).sin()[:, None], (share * angle).cos()[:, None]
        return (
            cosine * p
            + sine * torch.linalg.cross(axis, p)
            + (1 - cosine) * (p @ axis[0])[:, None] * axis
        )


def deskewing(
    sweep: Sweep, ego_motion: Tensor, period: float, when: When = "auto"
) -> tuple[Deskew | None, str]:
    """How to deskew a sweep, or None, and why: `when` is "auto" (where the points have times and the data set says that they
    are not deskewed), "always" or "never".

    Args:
        ego_motion: E from a sweep to the one `period` seconds later; the sensor goes on as it went.
        period: seconds between the two sweeps.
    """
    if when not in ("auto", "always", "never"):
        raise InputError(f"deskew is {when!r}; expected 'auto', 'always' or 'never'")
    if when == "never":
        return None, "not asked for"
    why = ""
    if sweep.time is None:
        why = "its points have no times"
    elif not period > 0:
        why = f"the sweeps' timestamps are {period:g} s apart"
    if when == "always":
        if why:
            raise InputError(f"{sweep.source} cannot be deskewed: {why}")
    elif sweep.deskewed is not False:
        why = "the data set has done so" if sweep.deskewed else "nothing says that it is needed"
    if why or sweep.time is None:
        return None, why
    share = torch.nan_to_num(sweep.time.double(), nan=0.0) / period
    return Deskew(share, inverse(ego_motion.to(share))), ""


How = Literal["auto", "poses", "icp", "none"]

#: Closer than this are the vehicle's own parts, which do not move in the sensor's frame; beyond that points are few.
NEAREST, FARTHEST = 2.5, 80.0
#: Cells of a metre and of half a metre, and how far a correspondence may reach in each pass. The last reach is short, so that what
#: moves and what the other sweep does not show have none: in simulated streets this takes the error from 7 mm to 1 mm.
_CELLS = (1.0, 0.5)
_PASSES = ((0, 3.0), (1, 1.0), (1, 0.35))
_NEIGHBOURS = 10
#: Where a registration begins again that ended with less than `_GOOD` overlap: metres ahead and degrees to the left that the
#: sensor may have gone.
_STARTS = (
    (0.0, 0.0),
    (0.0, 4.0),
    (0.0, -4.0),
    (1.5, 0.0),
    (1.5, 4.0),
    (1.5, -4.0),
    (3.0, 0.0),
    (5.0, 0.0),
    (7.0, 0.0),
    (-2.0, 0.0),
)
_GOOD, _LEAST = 0.7, 0.5
_FEWEST = 100


@dataclass(frozen=True, eq=False)
class EgoMotion:
    """What a point that stands still in the world does between two sweeps, in the sensor's frame.

    Attributes:
        matrix: E, float64 ``(4, 4)``: ``p1 = E p0``.
        how: "poses", "icp" or "none".
        overlap: the share of upright structure of the source that lies on a surface of the target after E; None where it was
            not looked at. Sweeps that follow each other have 0.83 and more, those of different streets 0.2 and less.
        notes: what is worth knowing about it.
    """

    matrix: Tensor
    how: str
    overlap: float | None = None
    notes: tuple[str, ...] = ()


def ego_motion(
    source: Sweep, target: Sweep, how: How = "auto", guess: Tensor | None = None
) -> EgoMotion:
    """The motion of the sensor from one sweep to the next.

    "poses" is ``pose1^-1 pose0``. "icp" is generalised ICP (Segal et al., RSS 2009, by small-gicp) of the points between 2.5 m and
    80 m, on cells of 1 m and then of 0.5 m; each surface counts by how flat it is. What moves farther than 0.35 m has no
    correspondence in the last pass, and what moves less is outnumbered. It is computed in one thread, so that it gives the same bits
    every time. "auto" takes poses where both sweeps have one, and else registers. "none" supposes that the sensor stands still.

    Points of a sweep that is not deskewed lie where the sensor saw them while it moved. With even motion what stands still is
    distorted alike in both sweeps, since the sensor sees it after almost the same part of each turn; E is off by the share w / 360
    where the sensor turns by w degrees from one sweep to the next, 1 % in a sharp bend. `prepare_pair` deskews and registers
    again where points have times. A change of speed or of turn between the two sweeps bends them differently, and no rigid motion
    makes good for that.

    Args:
        guess: ``(4, 4)``, where the registration begins: E of the sweeps before, at even motion. Poses do not need it.

    Raises:
        InputError: a pose is asked for and missing, there are too few points, or the sweeps do not overlap.
        MissingDependency: "icp" without small-gicp (the extra `lidar`).

    >>> ahead = torch.eye(4, dtype=torch.float64)
    >>> ahead[0, 3] = 0.5
    >>> first, second = (Sweep(torch.zeros(1, 3), pose=pose) for pose in (torch.eye(4, dtype=torch.float64), ahead))
    >>> ego_motion(first, second).matrix[:3, 3]
    tensor([-0.5000,  0.0000,  0.0000], dtype=torch.float64)
    """
    if how == "none":
        return EgoMotion(torch.eye(4, dtype=torch.float64), "none")
    if how not in ("auto", "poses", "icp"):
        raise InputError(f"ego_motion is {how!r}; expected 'auto', 'poses', 'icp' or 'none'")
    missing = [
        sweep.source
        for sweep in (source, target)
        if sweep.pose is None or bool(sweep.pose.isnan().any())
    ]
    if how == "poses" and missing:
        raise InputError(
            f"{missing[0]} has no pose; ego_motion='icp' finds the sensor's motion from the points"
        )
    if not missing and how != "icp":
        pose, later = (
            check_motion(sweep.pose, f"{sweep.source}: the pose")
            for sweep in (source, target)
            if sweep.pose is not None
        )
        return EgoMotion(relative_motion(pose, later), "poses")
    found = _registered(source, target, guess)
    if how == "auto" and len(missing) == 1:
        return EgoMotion(
            found.matrix,
            "icp",
            found.overlap,
            (*found.notes, f"{missing[0]} has no pose; the motion is from the points"),
        )
    return found


def _registered(source: Sweep, target: Sweep, guess: Tensor | None) -> EgoMotion:
    small_gicp = _small_gicp()
    pyramid = [[_cells(small_gicp, sweep, cell) for sweep in (source, target)] for cell in _CELLS]
    start = (
        np.eye(4)
        if guess is None
        else check_motion(guess, "the guess of the ego motion").cpu().numpy()
    )
    matrix, overlap, converged = _align(small_gicp, pyramid, start, _PASSES)
    if overlap < _GOOD:
        coarse = [_align(small_gicp, pyramid, _gone(*start), _PASSES[:1]) for start in _STARTS]
        best = max(coarse, key=lambda tried: tried[1])
        again = _align(small_gicp, pyramid, best[0], _PASSES)
        if again[1] > overlap:
            matrix, overlap, converged = again
    if overlap < _LEAST:
        bent = (
            ""
            if source.deskewed and target.deskewed
            else ", that no sudden turn bends one of them (they are not known to be deskewed)"
        )
        raise InputError(
            f"{source.source} and {target.source} do not overlap: after registration {overlap:.0%} of the upright structure "
            f"of the first lies on surfaces of the second; see that they follow each other{bent}, or give poses"
        )
    notes = [] if converged else [f"the registration of {source.source} had not converged"]
    if overlap < _GOOD:
        notes.append(
            f"{source.source}: after registration {overlap:.0%} of its upright structure lies on surfaces of the next sweep"
        )
    return EgoMotion(torch.from_numpy(matrix), "icp", overlap, tuple(notes))


def _cells(small_gicp: Any, sweep: Sweep, cell: float) -> tuple[Any, Any]:
    """The mean of the points of each cell, with covariance and normal, and a tree."""
    points = sweep.points.detach().cpu().numpy()
    distance = np.linalg.norm(points, axis=1)  # NaN compares false
    points = points[(distance > NEAREST) & (distance < FARTHEST)].astype(np.float64)
    cloud, tree = (
        small_gicp.preprocess_points(points, cell, _NEIGHBOURS, 1) if len(points) else (None, None)
    )
    if cloud is None or cloud.size() < _FEWEST:
        count = 0 if cloud is None else cloud.size()
        raise InputError(
            f"{sweep.source}: {count} cells of {cell:g} m hold points between {NEAREST:g} m and {FARTHEST:g} m; registration "
            f"needs {_FEWEST}: give poses, or ego_motion='none' if the sensor stands still"
        )
    return cloud, tree


def _gone(ahead: float, turn: float) -> np.ndarray:
    """E of a sensor that has gone ahead, metres, and then turned to the left, degrees."""
    pose = np.eye(4)
    cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    pose[:2, :2] = [[cosine, -sine], [sine, cosine]]
    pose[0, 3] = ahead
    return np.linalg.inv(pose)


def _align(
    small_gicp: Any,
    pyramid: list[list[tuple[Any, Any]]],
    start: np.ndarray,
    passes: tuple[tuple[int, float], ...],
) -> tuple[np.ndarray, float, bool]:
    """E, its overlap, and whether the last pass converged."""
    matrix, converged = start, False
    for level, reach in passes:
        (source, _), (target, tree) = pyramid[level]
        result = small_gicp.align(target, source, tree, matrix, "GICP", reach, 1, 50, 1e-5, 1e-4)
        matrix, converged = result.T_target_source, bool(result.converged)
    (source, _), (target, tree) = pyramid[-1]
    return matrix, _overlap(source, target, tree, matrix), converged


def _overlap(source: Any, target: Any, tree: Any, matrix: np.ndarray) -> float:
    """How much of what stands upright in the source lies on a surface of the target: within 0.5 m, and 0.15 m from its plane.

    The ground does not count: that of any two streets is the same. Where nothing stands upright there is only the ground.
    """
    points, normals = np.asarray(source.points())[:, :3], np.asarray(source.normals())[:, :3]
    upright = np.abs(normals[:, 2]) < 0.7
    if upright.sum() >= _FEWEST // 2:
        points = points[upright]
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    nearest, squared = (
        np.asarray(values).ravel() for values in tree.batch_nearest_neighbor_search(moved, 1)
    )
    off = moved - np.asarray(target.points())[nearest, :3]
    plane = np.abs((off * np.asarray(target.normals())[nearest, :3]).sum(axis=1))
    return float(((squared < 0.5**2) & (plane < 0.15)).mean())


def _small_gicp() -> Any:
    try:
        import small_gicp
    except ImportError as error:
        from invtoolbox.core.environment import how_to_get

        raise MissingDependency(
            f"the sensor's motion from points needs small-gicp, which is not installed; {how_to_get('lidar')}; "
            "or give poses, or ego_motion='none'"
        ) from error
    return small_gicp
