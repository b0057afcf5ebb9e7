"""Bodies that move: every thing on the street is registered with the next sweep as one rigid body, and judged by what that explains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.errors import InputError
from invtoolbox.kernels.nearest import Tree
from invtoolbox.motion.clusters import clusters
from invtoolbox.motion.voting import translations
from invtoolbox.operators.point_warp import PointWarp
from invtoolbox.priors.implicit.rigid_motion import RigidMotion
from invtoolbox.problem import Problem
from invtoolbox.scenes.rigid import rigid, rotation
from invtoolbox.scenes.surfaces import Surface, covariances
from invtoolbox.solve import solve
from invtoolbox.solvers.gauss_newton import LevenbergMarquardt

#: Points farther than this from the other sweep have no partner there, metres: about twice the distance of lidar lines at 30 m.
_APART = 0.15
#: Items are padded to the largest of their group; a group holds those up to this many points.
_GROUPS = (48, 256)


@dataclass(frozen=True)
class BodySettings:
    """How bodies are found.

    Attributes:
        cell: of the clusters, metres.
        reach: height above the ground up to which points make clusters, metres.
        fewest: points that a body needs.
        largest: extent of a body in the plane, metres; larger clusters are walls, hedges or several things grown together.
        farthest: how far a body may move in a sweep, metres, along each axis of the plane.
        votes: translations that are tried for a cluster whose points have no partners, besides none.
        iterations: of the registration.
        upright: see `RigidMotion`.
        plane: whether surfaces are registered (`PlaneToPlane`), or points, which lidar lines hold back.
        explained: a body moves where its registration lowers the misfit to this share of what standing still leaves,
        gain: and raises the log-likelihood of its points, under noise of `noise` metres, by this much times ``1 + move^2`` with the
            move in metres (a small piece of wall fits many places, far ones above all),
        least: and where its points move by at least this, metres.
        noise: standard deviation of a point off its surface, metres.
    """

    cell: float = 0.3
    reach: float = 3.0
    fewest: int = 15
    largest: float = 20.0
    farthest: float = 3.0
    votes: int = 3
    iterations: int = 15
    upright: float = 1.0
    plane: bool = True
    explained: float = 0.3
    gain: float = 15.0
    least: float = 0.05
    noise: float = 0.02

    def __post_init__(self) -> None:
        lengths = (self.cell, self.reach, self.largest, self.farthest, self.explained, self.noise)
        if min(lengths) <= 0 or min(self.fewest, self.iterations) < 1:
            raise InputError(f"the settings of bodies must be positive, got {self}")


@dataclass(frozen=True, eq=False)
class Bodies:
    """What moves, and how.

    Attributes:
        label: the body of each point, ``(n,)`` int64; -1 for what stands still or is part of nothing that moves.
        motion: of each body from the one sweep to the next, ``(bodies, 4, 4)``.
        flow: of each point by its body's motion, ``(n, 3)``; 0 where there is none.
    """

    label: Tensor
    motion: Tensor
    flow: Tensor


@dataclass(frozen=True, eq=False)
class _Cloud:
    """Points with what the registration needs of each."""

    points: Tensor
    times: Tensor | None
    height: Tensor


def moving_bodies(points: Tensor, target: Tensor, height: Tensor, target_height: Tensor, times: tuple[Tensor, Tensor] | None = None,
                  settings: BodySettings | None = None) -> Bodies:
    """Find the bodies among points of which the static world lies on the target already.

    Args:
        points, target: ``(n, 3)`` and ``(m, 3)`` in one frame, without ground.
        height, target_height: above the ground, ``(n,)`` and ``(m,)``.
        times: when they were measured within their sweeps, seconds, ``(n,)`` and ``(m,)``.
    """
    settings = settings or BodySettings()
    none = Bodies(torch.full((len(points),), -1, device=points.device), points.new_zeros(0, 4, 4), torch.zeros_like(points))
    here = _Cloud(points, None if times is None else times[0], height)
    low = target_height < settings.reach + 0.5
    there = _Cloud(target[low], None if times is None else times[1][low], target_height[low])
    if len(points) == 0 or len(there.points) == 0:
        return none
    apart = Tree(target).query(points)[0] > _APART
    labels = _things(here, apart, settings)
    if not bool((labels >= 0).any()):
        return none
    members, starts = _hypotheses(here, there, labels, apart, settings)
    found = _register(here, there, members, starts, settings)
    return _judged(here, there, members, found, settings)


def _things(cloud: _Cloud, apart: Tensor, settings: BodySettings) -> Tensor:
    """Clusters that can be bodies; of larger ones, the parts without partners, which may stand in front of them."""
    labels = _compact(cloud.points, clusters(cloud.points, cloud.height, settings.cell, settings.reach), settings)
    rest = ((labels < 0) & apart & (cloud.height < settings.reach)).nonzero().squeeze(1)
    if len(rest):
        parts = _compact(cloud.points[rest], clusters(cloud.points[rest], cloud.height[rest], settings.cell, settings.reach), settings)
        labels[rest] = torch.where(parts >= 0, parts + int(labels.max()) + 1, parts)
    return labels


def _compact(points: Tensor, labels: Tensor, settings: BodySettings) -> Tensor:
    """The labels of clusters of a body's size, counted anew; -1 elsewhere."""
    count = int(labels.max()) + 1
    if count == 0:
        return labels
    inside = labels >= 0
    of, places = labels[inside], points[inside, :2]
    index = of[:, None].expand(-1, 2)
    low = points.new_full((count, 2), torch.inf).scatter_reduce(0, index, places, "amin")
    high = points.new_full((count, 2), -torch.inf).scatter_reduce(0, index, places, "amax")
    good = (torch.bincount(of, minlength=count) >= settings.fewest) & ((high - low).amax(1) <= settings.largest)
    number = torch.where(good, good.long().cumsum(0) - 1, -1)
    return torch.where(inside, number[labels.clamp_min(0)], -1)


def _hypotheses(here: _Cloud, there: _Cloud, labels: Tensor, apart: Tensor, settings: BodySettings) -> tuple[list[Tensor], list[Tensor]]:
    """Every thing with each translation that it may begin from: the rows of its points, and starts ``(k, 2)``."""
    order = labels.argsort(stable=True)
    count = int(labels.max()) + 1
    sizes = torch.bincount(labels[labels >= 0], minlength=count)
    members = list(order[int((labels < 0).sum()) :].split(sizes.tolist()))
    share = torch.stack([apart[rows].float().mean() for rows in members])
    # What lies on things that stand still has been seen before, and is no place that a moving thing may have gone to.
    still = labels < 0
    still |= (share <= _APART)[labels.clamp_min(0)]
    new = torch.ones_like(there.height, dtype=torch.bool)
    if bool(still.any()):
        new = Tree(here.points[still]).query(there.points)[0] > 0.1
    starts = []
    for rows, alone in zip(members, share.tolist()):
        begin = [here.points.new_zeros(1, 2)]
        if alone > _APART:
            points = here.points[rows]
            near = new & ((there.points[:, :2] > points[:, :2].amin(0) - settings.farthest)
                          & (there.points[:, :2] < points[:, :2].amax(0) + settings.farthest)).all(1)
            votes = torch.from_numpy(translations(points, there.points[near], settings.farthest, settings.votes)).to(points)
            begin.append(votes[votes.norm(dim=1) > _APART])
        starts.append(torch.cat(begin))
    return members, starts


@dataclass(frozen=True, eq=False)
class _Found:
    """The best motion of each thing, its misfit, and the misfit of standing still: ``(things, ...)``."""

    turn: Tensor  # rotation vectors
    translation: Tensor
    centre: Tensor
    misfit: Tensor
    still: Tensor


def _register(here: _Cloud, there: _Cloud, members: list[Tensor], starts: list[Tensor], settings: BodySettings) -> _Found:
    """Each hypothesis is an item of a batch: its own motion, steps and stopping; the best of each thing is kept."""
    count = len(members)
    like = here.points
    found = _Found(like.new_zeros(count, 3), like.new_zeros(count, 3), torch.stack([like[rows].mean(0) for rows in members]),
                   like.new_full((count,), torch.inf), like.new_zeros(count))
    rows = torch.cat(members)
    spread = like.new_zeros(len(like), 3, 3)
    spread[rows] = covariances(like, here.times, rows=rows) if settings.plane else torch.eye(3).to(like)
    reached = _within_reach(here, there, members, settings)
    if not bool(reached.any()):
        return found
    times = None if there.times is None else there.times[reached]
    target = Surface.of(there.points[reached], times) if settings.plane else Surface.of_points(there.points[reached], times)
    sizes = torch.tensor([len(rows) for rows in members])
    smaller = 0
    for largest in _GROUPS:
        group = ((sizes > smaller) & ((sizes <= largest) | (largest == _GROUPS[-1]))).nonzero().squeeze(1).tolist()
        smaller = largest
        if group:
            _register_group(here, target, times, spread, members, starts, group, largest, settings, found)
    return found


def _register_group(here: _Cloud, target: Surface, target_times: Tensor | None, spread: Tensor, members: list[Tensor], starts: list[Tensor],
                    group: list[int], most: int, settings: BodySettings, found: _Found) -> None:
    thing = torch.tensor([k for k in group for _ in starts[k]])
    begin = torch.cat([starts[k] for k in group])
    index, weights = _padded([_thinned(members[k], most) for k in group])
    repeat = torch.tensor([j for j, k in enumerate(group) for _ in starts[k]])
    index, weights = index[repeat], weights[repeat].to(here.points)
    points = here.points[index]
    times = None if here.times is None or target_times is None else (here.times[index], target_times[None])
    spread = torch.where((weights == 0)[..., None, None], torch.eye(3).to(points), spread[index])  # filling must be invertible too
    term = PlaneToPlane(along=PlaneToPlane().along if settings.plane else 1.0, covariances=spread, weights=weights, times=times,
                        surface=target)
    problem = Problem(target.points[None], PointWarp(points), term)
    prior = RigidMotion(settings.upright, weights)
    translation = torch.cat([begin, begin.new_zeros(len(begin), 1)], 1)
    solver = LevenbergMarquardt(max_iterations=settings.iterations, tolerance=0.0, inner_iterations=6)
    solution = solve(problem, prior, solver, initial={"turn": torch.zeros_like(translation), "translation": translation}, progress=False)
    final = term.at(settings.iterations)
    reached, still = final.value(points + solution.x, problem.y), final.value(points, problem.y)
    bound = prior.prepare(problem, solve)
    centre = points[:, 0] - bound.around[:, 0] if bound.around is not None else points[:, 0]
    # Of two motions that explain a thing as well, the smaller one is likelier: see `BodySettings.gain`.
    moves = ((weights[..., None] * solution.x).sum(1) / weights.sum(1, keepdim=True)).norm(dim=1)
    cost = reached + settings.gain * settings.noise**2 * moves.square() / reached.new_tensor([len(members[k]) for k in thing.tolist()])
    least = [math.inf] * len(members)
    for j, (k, paid) in enumerate(zip(thing.tolist(), cost.tolist())):
        if paid < least[k]:
            least[k] = paid
            found.misfit[k], found.still[k], found.centre[k] = reached[j], still[j], centre[j]
            found.turn[k] = solution.parameters["turn"][j] / bound.radius[j]
            found.translation[k] = solution.parameters["translation"][j]


def _within_reach(here: _Cloud, there: _Cloud, members: list[Tensor], settings: BodySettings) -> Tensor:
    """Which points of the target a thing may come to: those in squares that a thing's own squares reach."""
    side = settings.farthest
    squares = torch.cat([here.points[torch.cat(members), :2], there.points[:, :2]]).div(side).floor().long()
    squares = squares - squares.min(0).values + 1
    width = squares.max(0).values + 2
    flat = squares[:, 0] * width[1] + squares[:, 1]
    own = torch.zeros(int(width[0] * width[1]), dtype=torch.bool, device=flat.device)
    own[flat[: -len(there.points)]] = True
    reached = torch.nn.functional.max_pool2d(own.view(1, 1, *width.tolist()).float(), 3, 1, 1).flatten() > 0
    return reached[flat[-len(there.points) :]]


def _thinned(rows: Tensor, most: int) -> Tensor:
    """At most so many rows, evenly taken."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most, dtype=torch.float64, device=rows.device).round().long()]


def _padded(groups: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of every group filled up with its first one, ``(groups, longest)``, and which of them count."""
    longest = max(len(rows) for rows in groups)
    index = torch.stack([torch.cat([rows, rows[:1].expand(longest - len(rows))]) for rows in groups])
    counts = torch.arange(longest, device=index.device) < index.new_tensor([len(rows) for rows in groups])[:, None]
    return index, counts


def _judged(here: _Cloud, there: _Cloud, members: list[Tensor], found: _Found, settings: BodySettings) -> Bodies:
    turned = rotation(found.turn)
    farthest = math.hypot(settings.farthest, settings.farthest)
    label, flow = torch.full((len(here.points),), -1, device=here.points.device), torch.zeros_like(here.points)
    motions: list[Tensor] = []
    for k, rows in enumerate(members):
        around = here.points[rows] - found.centre[k]
        moved = around @ (turned[k] - torch.eye(3).to(turned)).T + found.translation[k]
        move, still, misfit = float(moved.norm(dim=1).mean()), float(found.still[k]), float(found.misfit[k])
        gain = len(rows) * (still - misfit) / settings.noise**2
        if misfit >= settings.explained * still or gain < settings.gain * (1 + move**2) or not settings.least <= move <= farthest:
            continue
        label[rows], flow[rows] = len(motions), moved
        motions.append(rigid(turned[k], found.centre[k] + found.translation[k] - turned[k] @ found.centre[k]))
    return Bodies(label, torch.stack(motions) if motions else here.points.new_zeros(0, 4, 4), flow)
