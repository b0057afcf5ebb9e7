"""Evidence of motion: which registered clusters are moving bodies, and not still things.

A motion must explain the points in all sweeps clearly better than standing still, and it must not
end on the still world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import transform
from invtoolbox.jobs.flow.tracks import Registration, RegistrationSettings
from invtoolbox.kernels.points.nearest import Tree

#: Distance of a point from the nearest points of another sweep beyond which it hardly lies on the
#: same surface: metres at the sensor, and metres per metre of range, about half the distance of
#: neighbouring rays of common lidars.
_APART, _APART_PER_RANGE = 0.05, 0.004
#: Usual speed of a body, metres per second: much faster ones need more evidence.
_USUAL = 10.0
#: Largest speed of a body without extent, metres per second, and its increase per metre of extent
#: in the plane: what is fast is large, and a few points fit many distant places.
_SLOW, _FASTER_PER_SIZE = 10.0, 20.0
#: A measured point hides the places within this angle behind it, radians, that are farther by the
#: second number, metres.
_ANGLE, _BEFORE = 0.012, 0.5
#: Share of `BodySettings.explained` that counts if there is only one other sweep.
_BY_ONE = 5 / 6
#: Largest share of the points of a body that may arrive on the still world.
_ARRIVED = 0.3


@dataclass(frozen=True)
class BodySettings:
    """Settings of the detection of moving bodies.

    A cluster is a moving body if five conditions hold: it is not slender, like a post, nor flat,
    like a single line of points near the sensor; its registration lowers the misfit to the share
    `explained` of the misfit without motion, or 5/6 of that share in one other sweep; it raises the
    log-likelihood of its points in all sweeps, under noise of `noise`, by at least
    ``gain (1 + (speed / 10)^2) K^(3/4)`` with the speed in metres per second and the number K of
    sweeps, because a small piece of wall fits many places, distant ones above all, and does so in
    sweep after sweep; and its points move by at least `least` and at most at the speed `fastest`.
    Sweeps in which the cluster is hidden by something nearer do not count.

    Attributes:
        reach: height above the ground up to which points form clusters, metres.
        fewest: smallest number of points of a body.
        largest: largest extent of a body in the plane, metres; larger clusters are walls, hedges
            or several things that touch.
        fastest: largest speed of a body, metres per second; that of small ones is lower.
        apart: smallest mean distance of the points of a body from the first and from the last
            sweep, in units of the distance that a thing at rest has.
        votes: number of translations that are tried per sweep, in addition to zero.
        iterations: iterations of the registration, see `RegistrationSettings`.
        upright: see `RegistrationSettings`.
        smooth: see `RegistrationSettings`.
        plane: see `RegistrationSettings`.
        explained: largest ratio of the misfits with and without motion.
        gain: smallest gain of log-likelihood, see above.
        least: smallest motion, metres.
        noise: standard deviation of a point from its surface, metres.
    """

    reach: float = 3.0
    fewest: int = 5
    largest: float = 20.0
    fastest: float = 55.0
    apart: float = 0.6
    votes: int = 3
    iterations: int = 10
    upright: float = 1.0
    smooth: float = 0.3
    plane: bool = True
    explained: float = 0.6
    gain: float = 8.0
    least: float = 0.04
    noise: float = 0.02

    def __post_init__(self) -> None:
        lengths = (self.reach, self.largest, self.fastest, self.explained, self.noise)
        if min(lengths) <= 0 or min(self.fewest, self.iterations) < 1:
            raise InputError(f"the settings of bodies must be positive, got {self}")

    @property
    def registration(self) -> RegistrationSettings:
        """Settings of the registration."""
        return RegistrationSettings(self.iterations, self.upright, self.smooth, plane=self.plane)


@dataclass(frozen=True, eq=False)
class Scan:
    """Low points of another sweep of the window, with its time and the position of the sensor."""

    points: Tensor
    step: float
    times: Tensor | None
    origin: Tensor

    @cached_property
    def tree(self) -> Tree:
        """Search tree of the points."""
        return Tree(self.points)

    def hides(self, points: Tensor, moved: Tensor) -> Tensor:
        """Return which places the sensor could not see in this sweep, bool ``(n,)``.

        Something nearer was measured in their direction, and it is not the body itself, which has
        moved there.

        Args:
            points: places of the points of a body, ``(n, 3)``.
            moved: places of the body in this sweep, ``(n, 3)``.
        """
        place = points - self.origin
        reach, middle = place.norm(dim=1), place.mean(0)
        ahead = middle / middle.norm()
        wide = float((place - middle).norm(dim=1).max()) + 0.1 * float(middle.norm())
        sight = self.points - self.origin
        along = sight @ ahead
        rows = ((along > 0) & (along < float(reach.max()))).nonzero().squeeze(1)
        aside = (sight[rows] - along[rows, None] * ahead).norm(dim=1)
        others = self.points[rows[aside < wide]]
        others = others[Tree(moved).query(others, 0.5)[0].isinf()] - self.origin
        if not len(others):
            return torch.zeros(len(points), dtype=torch.bool, device=points.device)
        distance = others.norm(dim=1)
        sight, wanted = others / distance[:, None], place / reach[:, None]
        near = Tree(sight).neighbours(wanted, 4)
        angle = (sight[near] - wanted[:, None]).norm(dim=2)
        return ((angle < _ANGLE) & (distance[near] < reach[:, None] - _BEFORE)).any(1)


def apart_at_rest(range_: Tensor) -> Tensor:
    """Return the distance of points at rest from another sweep, metres, by their range."""
    return _APART + _APART_PER_RANGE * range_


def largest_speed(body: Tensor, settings: BodySettings) -> Tensor:
    """Return the largest speed of a body with these points, metres per second."""
    extent = (body[:, :2].amax(0) - body[:, :2].amin(0)).norm()
    return (_SLOW + _FASTER_PER_SIZE * extent).clamp_max(settings.fastest)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Clusters that may move, and the world that they move in.

    Attributes:
        points: points of the source, ``(n, 3)``.
        members: rows of the points of each cluster.
        fastest: largest speed of each cluster, metres per second.
        period: seconds from the source to the target.
        origin: position of the sensor, ``(3,)``.
        settings: settings of the detection.
        still: points that no cluster holds; None if there are none.
    """

    points: Tensor
    members: Sequence[Tensor]
    fastest: Tensor
    period: float
    origin: Tensor
    settings: BodySettings
    still: Tree | None

    @classmethod
    def of(
        cls,
        points: Tensor,
        members: Sequence[Tensor],
        period: float,
        origin: Tensor,
        settings: BodySettings,
    ) -> Evidence:
        """Compute the speeds of clusters and the points that none of them holds.

        Args:
            points: points of the source, ``(n, 3)``.
            members: rows of the points of each cluster, at least one cluster.
            period: seconds from the source to the target.
            origin: position of the sensor, ``(3,)``.
            settings: settings of the detection.
        """
        still = torch.ones(len(points), dtype=torch.bool, device=points.device)
        still[torch.cat(list(members))] = False
        fastest = torch.stack([largest_speed(points[rows], settings) for rows in members])
        tree = Tree(points[still]) if bool(still.any()) else None
        return cls(points, members, fastest, period, origin, settings, tree)

    def likeliest(self, found: Registration) -> Tensor:
        """Return the number of the likeliest hypothesis of every cluster, in their order.

        Args:
            found: results of all hypotheses.
        """
        # Of two motions that explain a cluster equally well, the smaller one is likelier.
        unit = self.settings.gain * self.settings.noise**2 / found.misfit.shape[1] ** 0.5
        speed = found.move / self.period
        cost = found.misfit.mean(1) + unit * (speed / _USUAL).square() / self._sizes(found)
        cost = torch.where(speed <= self.fastest[found.thing], cost, torch.inf)
        best: dict[int, int] = {}
        for j, (k, value) in enumerate(zip(found.thing.tolist(), cost.tolist())):
            if k not in best or value < float(cost[best[k]]):
                best[k] = j
        return torch.tensor([best[k] for k in sorted(best)], device=found.thing.device)

    def accept(self, scans: Sequence[Scan], found: Registration) -> Tensor:
        """Return which tracks are likely enough to be those of moving bodies (`BodySettings`).

        Points whose places are hidden in a sweep are no evidence of motion there.

        Args:
            scans: sweeps that the clusters were registered with.
            found: result of one hypothesis per cluster.
        """
        settings, count = self.settings, len(scans)
        accepted = torch.zeros(len(found.thing), dtype=torch.bool, device=self.points.device)
        speed = found.move / self.period
        unit = settings.noise**2 * count**0.75 / self._sizes(found)
        least = settings.gain * (1 + (speed / _USUAL).square()) * unit
        explained = settings.explained if count > 1 else _BY_ONE * settings.explained

        def are_likely(misfit: Tensor, still: Tensor, least: Tensor) -> Tensor:
            return (misfit < explained * still) & (still - misfit >= least)

        likely = are_likely(found.misfit.sum(1), found.still.sum(1), least)
        likely &= (found.move >= settings.least) & (speed <= self.fastest[found.thing])
        for j in likely.nonzero().squeeze(1).tolist():
            body = self.points[self.members[int(found.thing[j])]]
            seen = torch.stack(
                [
                    1 - scan.hides(body, transform(track, body)).to(body).mean()
                    for scan, track in zip(scans, found.tracks[j])
                ]
            )
            misfit, still = (seen * found.misfit[j]).sum(), (seen * found.still[j]).sum()
            accepted[j] = are_likely(misfit, still, least[j]) & (
                self._arrived(transform(found.motion[j], body)) <= _ARRIVED
            )
        return accepted

    def _arrived(self, moved: Tensor) -> float:
        """Compute the share of the points of a body that have arrived on the still world.

        A piece of wall that is hidden in the other sweeps fits the next piece.
        """
        if self.still is None:
            return 0.0
        distance = self.still.query(moved, 1.0)[0]
        range_ = (moved - self.origin)[:, :2].norm(dim=1)
        return float((distance < apart_at_rest(range_)).double().mean())

    def _sizes(self, found: Registration) -> Tensor:
        sizes = [len(rows) for rows in self.members]
        return torch.tensor(sizes, device=found.thing.device)[found.thing]
