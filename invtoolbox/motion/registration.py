"""Things registered with another sweep as rigid bodies: every hypothesis of where one went is an item of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.operators.point_warp import PointWarp
from invtoolbox.priors.implicit.rigid_motion import RigidMotion
from invtoolbox.problem import Problem
from invtoolbox.scenes.surfaces import Surface, covariances
from invtoolbox.solve import solve
from invtoolbox.solvers.gauss_newton import LevenbergMarquardt

#: Items are padded to the largest of their group; a group holds those up to this many points, and of larger ones as many are taken.
_GROUPS = (48, 256)


@dataclass(frozen=True)
class RegistrationSettings:
    """How things are registered.

    Attributes:
        iterations: of Levenberg-Marquardt, all of them, because the misfit sharpens from one to the next.
        upright: see `RigidMotion`.
        plane: whether surfaces are laid on each other (`PlaneToPlane`), or points, which lidar lines hold back.
    """

    iterations: int = 15
    upright: float = 1.0
    plane: bool = True


@dataclass(frozen=True, eq=False)
class Registration:
    """What came of h hypotheses.

    Attributes:
        thing: which thing each is about, ``(h,)``.
        motion: ``(h, 4, 4)``.
        misfit, still: the mean robust misfit, and that of standing still, square metres, ``(h,)``.
        move: how far its points move on average, metres, ``(h,)``.
    """

    thing: Tensor
    motion: Tensor
    misfit: Tensor
    still: Tensor
    move: Tensor


def register(
    members: list[Tensor],
    starts: list[Tensor],
    points: Tensor,
    target: Tensor,
    times: Tensor | None = None,
    target_times: Tensor | None = None,
    settings: RegistrationSettings | None = None,
) -> Registration:
    """Register things with the target from every translation that each may begin from.

    Args:
        members: the rows of the points of each thing, at least one.
        starts: the translations in the plane of each, ``(k, 2)``, at least one.
        points, target: ``(n, 3)``, at least one, and ``(m, 3)``; normals are taken from all of them.
        times, target_times: when they were measured within their sweeps, seconds, ``(n,)`` and ``(m,)``; used where both are known.
    """
    settings = settings or RegistrationSettings()
    if times is None or target_times is None:
        times = target_times = None
    rows = torch.cat(members)
    spread = torch.eye(3).to(points).repeat(len(points), 1, 1)
    if settings.plane:
        spread[rows] = covariances(points, times, rows=rows)
    surface = (
        Surface.of(target, target_times)
        if settings.plane
        else Surface.of_points(target, target_times)
    )
    found, smaller = [], 0
    for largest in _GROUPS:
        group = [
            k
            for k, member in enumerate(members)
            if smaller < len(member) and (len(member) <= largest or largest == _GROUPS[-1])
        ]
        smaller = largest
        if group:
            thing = torch.tensor([k for k in group for _ in starts[k]], device=points.device)
            index, counts = _padded([_thinned(members[k], largest) for k in group])
            repeat = torch.tensor(
                [j for j, k in enumerate(group) for _ in starts[k]], device=points.device
            )
            begin = torch.cat([starts[k] for k in group])
            found.append(
                _register(
                    thing,
                    index[repeat],
                    counts[repeat],
                    begin,
                    points,
                    spread,
                    surface,
                    times,
                    target_times,
                    settings,
                )
            )
    return Registration(
        *(
            torch.cat([getattr(part, name) for part in found])
            for name in ("thing", "motion", "misfit", "still", "move")
        )
    )


def _register(
    thing: Tensor,
    index: Tensor,
    counts: Tensor,
    begin: Tensor,
    points: Tensor,
    spread: Tensor,
    surface: Surface,
    times: Tensor | None,
    target_times: Tensor | None,
    settings: RegistrationSettings,
) -> Registration:
    """One batch: the rows ``(h, p)`` of each hypothesis, of which some only fill up, and its start ``(h, 2)``."""
    here, weights = points[index], counts.to(points)
    # What fills up must have a covariance that can be inverted too.
    spread = torch.where(counts[..., None, None], spread[index], torch.eye(3).to(points))
    along = PlaneToPlane().along if settings.plane else 1.0
    term = PlaneToPlane(
        along=along,
        covariances=spread,
        weights=weights,
        surface=surface,
        times=None if times is None or target_times is None else (times[index], target_times[None]),
    )
    problem = Problem(surface.points[None], PointWarp(here), term)
    prior = RigidMotion(settings.upright, weights)
    initial = {
        "turn": begin.new_zeros(len(begin), 3),
        "translation": torch.cat([begin, begin.new_zeros(len(begin), 1)], 1),
    }
    solver = LevenbergMarquardt(
        max_iterations=settings.iterations, tolerance=0.0, inner_iterations=6
    )
    solution = solve(problem, prior, solver, initial=initial, progress=False)
    final, bound = term.at(settings.iterations), prior.prepare(problem, solve)
    moves = solution.x.norm(dim=2)
    return Registration(
        thing,
        bound.motions(solution.parameters),
        final.value(here + solution.x, problem.y),
        final.value(here, problem.y),
        (weights * moves).sum(1) / weights.sum(1),
    )


def _thinned(rows: Tensor, most: int) -> Tensor:
    """At most so many rows, evenly taken."""
    if len(rows) <= most:
        return rows
    return rows[
        torch.linspace(0, len(rows) - 1, most, dtype=torch.float64, device=rows.device)
        .round()
        .long()
    ]


def _padded(groups: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of every group filled up with its first one, ``(groups, longest)``, and which of them count."""
    longest = max(len(rows) for rows in groups)
    index = torch.stack(
        [torch.cat([rows, rows[:1].expand(longest - len(rows))]) for rows in groups]
    )
    counts = (
        torch.arange(longest, device=index.device)
        < index.new_tensor([len(rows) for rows in groups])[:, None]
    )
    return index, counts
