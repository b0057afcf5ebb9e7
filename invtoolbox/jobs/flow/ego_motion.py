"""Ego motion: the motion of the sensor between two sweeps, and within a sweep (deskewing).

The motion between two sweeps comes from their poses, or from a registration of their points.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.environment import optional_package
from invtoolbox.core.guards import check_choice
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import (
    check_motion,
    inverse,
    own_axes,
    relative_motion,
    rotation_vector,
)
from invtoolbox.geometry.sweeps import Sweep

When = Literal["auto", "always", "never"]


@dataclass(frozen=True, eq=False)
class Deskew:
    """Deskewing under uniform motion: every point moves by the part of the motion before its time.

    M is the motion of the sensor from the time of the sweep to the time of the next, with rotation
    vector w and translation t. A point measured after the share s of that time is moved to
    ``q = R(s w) p + s t`` (`geometry.rigid.part_of`), exactly for every point.

    Attributes:
        share: time of every point, as a share of the time from this sweep to the next, float64
            ``(N,)``.
        motion: M, the frame of the next sweep in the frame of this one, float64 ``(4, 4)``.

    >>> Deskew(torch.tensor([0.5]).double(), torch.eye(4).double())(torch.ones(1, 3))
    tensor([[1., 1., 1.]])
    """

    share: Tensor
    motion: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """Move measured points to their positions at the time of the sweep.

        Args:
            points: measured points, ``(N, 3)``.
        """
        # q = R(s w) p + s t: the rotation and the path of uniform motion up to the share s.
        p = points.double()
        return (self._rotate(p, self.share) + self.share[:, None] * self.motion[:3, 3]).to(
            points.dtype
        )

    def undo(self, points: Tensor) -> Tensor:
        """Move points at the time of the sweep back to where the sensor measured them.

        Args:
            points: deskewed points, ``(N, 3)``.
        """
        # The inverse, p = R(-s w) (q - s t).
        q = points.double() - self.share[:, None] * self.motion[:3, 3]
        return self._rotate(q, -self.share).to(points.dtype)

    def _rotate(self, p: Tensor, share: Tensor) -> Tensor:
        """Rotate every point about one axis by its own angle (Rodrigues' formula)."""
        turn = rotation_vector(self.motion[:3, :3])
        angle = float(turn.norm())
        if angle < 1e-12:
            return p
        # R p = cos(a) p + sin(a) (n x p) + (1 - cos(a)) (n . p) n, with the axis n and the angle a.
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
    """Return the deskewing of a sweep, or None and the reason.

    Args:
        sweep: the sweep.
        ego_motion: E from the sweep to the one `period` seconds later; the motion is uniform.
        period: seconds between the two sweeps.
        when: ``"auto"`` (if the points have times and the data set states that they are not
            deskewed), ``"always"`` or ``"never"``.

    Raises:
        InputError: if ``when`` is ``"always"`` and the sweep has no times.
    """
    check_choice("Preparation", get_args(When), deskew=when)
    if when == "never":
        return None, "not requested"
    # Both reasons are errors only if deskewing was required.
    why = ""
    if sweep.time is None:
        why = "its points have no times"
    elif not period > 0:
        why = f"the sweeps' timestamps are {period:g} s apart"
    if when == "always":
        if why:
            raise InputError(f"{sweep.source} cannot be deskewed: {why}")
    elif sweep.deskewed is not False:
        why = "the data set is deskewed" if sweep.deskewed else "the data set does not state a need"
    if why or sweep.time is None:
        return None, why
    # A point without a time counts as measured at the time of the sweep.
    share = torch.nan_to_num(sweep.time.double(), nan=0.0) / period
    return Deskew(share, inverse(ego_motion.to(share))), ""


How = Literal["auto", "poses", "icp", "none"]

#: Range of the points used, metres: closer are parts of the vehicle, farther are few points.
NEAREST, FARTHEST = 2.5, 80.0
#: Median distance above which numbers are millimetres, and not centimetres.
_MILLIMETRES = 2000.0
#: Cell sizes, metres, and the level and the largest distance of correspondences of each pass. The
#: last distance is short, so that moving and occluded points have no correspondence: in simulated
#: streets this lowers the error from 7 mm to 1 mm.
_CELLS = (1.0, 0.5)
_PASSES = ((0, 3.0), (1, 1.0), (1, 0.35))
#: Number of neighbours that a covariance and a normal are computed from.
_NEIGHBOURS = 10
#: Initial guesses of a second registration, if the first one ends with less than `_GOOD` overlap:
#: metres ahead and degrees to the left.
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
#: Overlap below which other initial guesses are tried, and below which the sweeps are refused.
#: Successive sweeps have 0.83 and more, sweeps of different streets 0.2 and less.
_GOOD, _LEAST = 0.7, 0.5
#: Smallest number of cells of a sweep that can be registered, and number of points below which the
#: surfaces of a street have too few points for a reliable overlap.
_FEWEST, _SPARSE = 100, 5000
#: Number of points by which poses are judged, and overlap by which another motion is clearly better.
#: On eleven pairs of streets and cars, poses have 0.76 to 0.94, and their inverses 0.3 to 0.6 less.
_MOST, _CLEARLY = 40_000, 0.1


@dataclass(frozen=True, eq=False)
class EgoMotion:
    """Motion of static points between two sweeps, in the frame of the sensor.

    Attributes:
        matrix: E, float64 ``(4, 4)``: ``p1 = E p0``.
        how: ``"poses"``, ``"icp"`` or ``"none"``.
        notes: remarks on the registration.
    """

    matrix: Tensor
    how: str
    notes: tuple[str, ...] = ()


def ego_motion(
    source: Sweep, target: Sweep, how: How = "auto", guess: Tensor | None = None
) -> EgoMotion:
    """Compute the motion of the sensor from one sweep to the next.

    The points of a sweep that is not deskewed are distorted by the motion of the sensor. Under
    uniform motion, static points are distorted alike in both sweeps, because the sensor sees them
    after almost the same part of each turn; E then has the relative error w / 360 if the sensor
    turns by w degrees per sweep, 1 % in a sharp bend. `prepare_pair` deskews and registers again if
    the points have times. A change of speed or turn rate between the two sweeps distorts them
    differently, which no rigid motion can correct.

    Args:
        source: first sweep.
        target: second sweep.
        how: ``"poses"`` is ``pose1^-1 pose0``. ``"icp"`` is generalized ICP (Segal et al., RSS
            2009, by small-gicp) of the points between 2.5 m and 80 m, on cells of 1 m and then of
            0.5 m, in which flat surfaces count more. Points that move farther than 0.35 m have no
            correspondence in the last pass, and slower ones are outnumbered. It runs in one thread,
            so that it gives the same bits every time. ``"auto"`` takes poses if both sweeps have
            one, and else registers. ``"none"`` assumes that the sensor stands still.
        guess: initial guess of the registration, ``(4, 4)``, for example E of the previous pair.

    Raises:
        InputError: if a required pose is missing, there are too few points, or the sweeps do not
            overlap.
        MissingDependency: if ``"icp"`` is needed and small-gicp (extra `lidar`) is not installed.

    >>> still = torch.eye(4, dtype=torch.float64)
    >>> ahead = still.clone()
    >>> ahead[0, 3] = 0.5
    >>> first, second = (Sweep(torch.zeros(1, 3), pose=pose) for pose in (still, ahead))
    >>> ego_motion(first, second).matrix[:3, 3]
    tensor([-0.5000,  0.0000,  0.0000], dtype=torch.float64)
    """
    check_choice("Preparation", get_args(How), ego_motion=how)
    if how == "none":
        return EgoMotion(torch.eye(4, dtype=torch.float64), "none")
    missing = [
        sweep.source
        for sweep in (source, target)
        if sweep.pose is None or bool(sweep.pose.isnan().any())
    ]
    if how == "poses" and missing:
        raise InputError(
            f"{missing[0]} has no pose; ego_motion='icp' finds the sensor's motion from the points"
        )
    # E = pose1^-1 pose0
    if not missing and how != "icp":
        pose, later = (
            check_motion(sweep.pose, f"{sweep.source}: the pose")
            for sweep in (source, target)
            if sweep.pose is not None
        )
        matrix = relative_motion(pose, later)
        return EgoMotion(matrix, "poses", _judge_poses(source, target, matrix))
    motion = _register(source, target, guess)
    if how == "auto" and len(missing) == 1:
        note = f"{missing[0]} has no pose; the motion is from the points"
        return replace(motion, notes=(*motion.notes, note))
    return motion


def _judge_poses(source: Sweep, target: Sweep, matrix: Tensor) -> tuple[str, ...]:
    """Return a note on poses that fit the points worse than a registration does.

    Without small-gicp, and for sweeps of few cells, nothing is compared.

    Args:
        source: first sweep.
        target: second sweep.
        matrix: E of the poses.

    Raises:
        InputError: the inverses of the poses fit clearly better, and as well as successive sweeps.
    """
    if importlib.util.find_spec("small_gicp") is None:
        return ()
    small_gicp = optional_package("small_gicp", "registration needs it;", "lidar")
    pyramid = []
    for sweep in (source, target):
        points = sweep.points.detach()[:: max(1, math.ceil(len(sweep) / _MOST))]
        thinned = Sweep(points, source=sweep.source)
        try:
            pyramid.append(_cells(small_gicp, thinned, np.eye(3), _CELLS[-1]))
        except InputError:  # too few cells
            return ()
    (first, _), (second, tree) = pyramid
    overlap = _overlap(first, second, tree, matrix.cpu().numpy())
    if overlap >= _LEAST or source.pose is None or target.pose is None:
        return ()
    opposite = relative_motion(inverse(source.pose.double()), inverse(target.pose.double()))
    better = _overlap(first, second, tree, opposite.cpu().numpy())
    if better > max(overlap + _CLEARLY, _LEAST):
        raise InputError(
            f"{source.source}: by the poses {overlap:.0%} of its upright structure lies on surfaces of "
            f"the next sweep, and by their inverses {better:.0%}; a pose maps points of the sensor to "
            "the world, so invert poses that map the world to the sensor"
        )
    try:
        registered = _register(source, target, None).matrix
    except InputError:  # no overlap either
        return ()
    better = _overlap(first, second, tree, registered.numpy())
    if better <= overlap + _CLEARLY:
        return ()
    return (
        f"{source.source}: by the poses {overlap:.0%} of its upright structure lies on surfaces of "
        f"the next sweep, and after registration {better:.0%}, so the poses are probably those of "
        "another sensor, sweep or unit; ego_motion='icp' takes the motion from the points",
    )


def _register(source: Sweep, target: Sweep, guess: Tensor | None) -> EgoMotion:
    small_gicp = optional_package(
        "small_gicp",
        "the sensor's motion from points needs small-gicp, which is not installed;",
        "lidar",
        "; or give poses, or ego_motion='none'",
    )
    # The cells of the registration lie along the points' own axes, so that a turn of the frame
    # changes nothing: T = U E U^T is registered, with the rotation U into these axes.
    near = _near(source)
    axes = own_axes(torch.from_numpy(near)).numpy() if len(near) else np.eye(3)
    turn = np.eye(4)
    turn[:3, :3] = axes
    # From coarse to fine: means of the points in cells of 1 m and of 0.5 m.
    pyramid = [
        [_cells(small_gicp, sweep, axes, cell) for sweep in (source, target)] for cell in _CELLS
    ]
    start = (
        np.eye(4)
        if guess is None
        else check_motion(guess, "the guess of the ego motion").cpu().numpy()
    )
    matrix, overlap, converged = _align(small_gicp, pyramid, turn @ start @ turn.T, _PASSES)
    if overlap < _GOOD:
        # ICP converges to a local minimum. Several starts make one coarse pass each, and the one of
        # the largest overlap makes all passes.
        starts = [turn @ _moved_sensor(*move) @ turn.T for move in _STARTS]
        coarse = [_align(small_gicp, pyramid, initial, _PASSES[:1]) for initial in starts]
        best = max(coarse, key=lambda tried: tried[1])
        again = _align(small_gicp, pyramid, best[0], _PASSES)
        if again[1] > overlap:
            matrix, overlap, converged = again
    # Back to the frame of the points: E = U^T T U.
    matrix = turn.T @ matrix @ turn
    if overlap < _LEAST:
        bent = (
            ""
            if source.deskewed and target.deskewed
            else ", that no sudden turn distorts one of them (they are not known to be deskewed)"
        )
        raise InputError(
            f"{source.source} and {target.source} do not overlap: after registration {overlap:.0%} "
            "of the upright structure of the first lies on surfaces of the second; check that "
            f"they follow each other{bent}{_describe_density(source)}, or give poses"
        )
    notes = [] if converged else [f"the registration of {source.source} had not converged"]
    if overlap < _GOOD:
        notes.append(
            f"{source.source}: after registration {overlap:.0%} of its upright structure lies on "
            "surfaces of the next sweep"
        )
    return EgoMotion(torch.from_numpy(matrix), "icp", tuple(notes))


def _describe_density(sweep: Sweep) -> str:
    """Return a part of a sentence if a sweep has few points for a registration, else nothing."""
    count = len(_near(sweep))
    if count >= _SPARSE:
        return ""
    return f", that {count:,} points are enough (registration needs some thousands)"


def _near(sweep: Sweep) -> np.ndarray:
    """Return the points that are registered, float64 ``(n, 3)``."""
    points = sweep.points.detach().cpu().numpy()
    distance = np.linalg.norm(points, axis=1)  # NaN compares false
    return points[(distance > NEAREST) & (distance < FARTHEST)].astype(np.float64)


def _cells(small_gicp: Any, sweep: Sweep, axes: np.ndarray, cell: float) -> tuple[Any, Any]:
    """Return the mean of the points of every cell, with covariance and normal, and a tree."""
    points = _near(sweep) @ axes.T
    cloud, tree = (
        small_gicp.preprocess_points(points, cell, _NEIGHBOURS, 1) if len(points) else (None, None)
    )
    if cloud is None or cloud.size() < _FEWEST:
        count = 0 if cloud is None else cloud.size()
        raise InputError(
            f"{sweep.source}: {count} cells of {cell:g} m hold points between {NEAREST:g} m and "
            f"{FARTHEST:g} m; registration needs {_FEWEST}: give poses, or ego_motion='none' if "
            f"the sensor stands still{_describe_distance(sweep)}"
        )
    return cloud, tree


def _describe_distance(sweep: Sweep) -> str:
    """Return the end of a sentence if most points are too near or too far for metres, else nothing."""
    distance = np.linalg.norm(sweep.points.detach().cpu().double().numpy(), axis=1)
    distance = distance[np.isfinite(distance)]
    median = float(np.median(distance)) if len(distance) else NEAREST
    if NEAREST < median < FARTHEST:
        return ""
    unit = "millimetres by 1000" if median > _MILLIMETRES else "centimetres by 100"
    return (
        f"; half of the points are {'within' if median <= NEAREST else 'beyond'} {median:.3g} m, and "
        f"coordinates are metres in the frame of the sensor: divide {unit}, and subtract "
        "the place of the sensor from the coordinates of a map"
    )


def _moved_sensor(ahead: float, turn: float) -> np.ndarray:
    """Return E of a sensor that moved ahead by metres and then turned left by degrees."""
    # The sensor's new pose P has its axes turned left, and E = P^-1 moves points at rest.
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
    """Return E, its overlap, and whether the last pass converged."""
    matrix, converged = start, False
    for level, reach in passes:
        (source, _), (target, tree) = pyramid[level]
        # Generalized ICP (Segal et al. 2009), in one thread: the order of its sums fixes the bits.
        registered = small_gicp.align(
            target,
            source,
            tree,
            matrix,
            registration_type="GICP",
            max_correspondence_distance=reach,
            num_threads=1,
            max_iterations=50,
            rotation_epsilon=1e-5,
            translation_epsilon=1e-4,
        )
        matrix, converged = registered.T_target_source, bool(registered.converged)
    # Results of different passes are compared at one level, the finest one.
    (source, _), (target, tree) = pyramid[-1]
    return matrix, _overlap(source, target, tree, matrix), converged


def _overlap(source: Any, target: Any, tree: Any, matrix: np.ndarray) -> float:
    """Compute the share of upright points of the source that lie on a surface of the target.

    Such a point has a neighbour within 0.5 m and lies within 0.15 m of its plane. The ground does
    not count, because the ground of any two streets overlaps, unless there is nothing else.
    """
    points, normals = np.asarray(source.points())[:, :3], np.asarray(source.normals())[:, :3]
    # Upright: the normal is more than about 45 degrees away from the vertical.
    upright = np.abs(normals[:, 2]) < 0.7
    if upright.sum() >= _FEWEST // 2:
        points = points[upright]
    # |(p - q) . n| is the distance from the plane of the nearest point q with the normal n.
    arrived = points @ matrix[:3, :3].T + matrix[:3, 3]
    nearest, squared = map(np.ravel, tree.batch_nearest_neighbor_search(arrived, 1))
    off = arrived - np.asarray(target.points())[nearest, :3]
    plane = np.abs((off * np.asarray(target.normals())[nearest, :3]).sum(axis=1))
    return float(((squared < 0.5**2) & (plane < 0.15)).mean())
