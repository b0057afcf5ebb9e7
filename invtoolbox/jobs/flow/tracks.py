"""Registration of clusters with the other sweeps of a window, as rigid bodies on smooth tracks.

`Refinement` is Levenberg-Marquardt with closed normal equations, all bodies at once. The energy is that
of `PlaneToPlane` on a `RigidTrack`, whose nine unknowns per body need no automatic differentiation.
Points of all bodies lie in one array, without padding, so a body gives the same result alone and among
others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invtoolbox.geometry.rigid import rigid, rotation, skew, transform
from invtoolbox.jobs.flow.evidence import Evidence, Registration
from invtoolbox.jobs.flow.window import Neighbour

#: Largest number of points of a cluster; larger ones are thinned. With fewer points the motion of a
#: near car depends on the choice of the points.
_MOST = 512
#: Smallest variance across the surface of the points of a cluster, and of the other sweeps, in units
#: of the variance along it, see `surface_normals.covariances`. The first one is also the share of
#: the distance along a surface that counts, see `PlaneToPlane`.
_ACROSS, _ACROSS_OTHERS = 0.005, 0.02
#: Largest variance across a surface, see `covariances`: a person has a surface too.
_THICKEST = 0.05
#: Distance within which a point that moves keeps its partner, metres.
_STAYS = 0.001
#: Largest distance of partners whose times are compared, metres.
_PARTNERS = 0.3


def register(
    evidence: Evidence,
    sweeps: Sequence[Neighbour],
    times: Tensor | None,
    surface: tuple[Tensor, Tensor],
    cluster: Tensor,
    initial: dict[str, Tensor],
    scale: float = 1.0,
) -> Registration:
    """Register clusters with the sweeps of a window, from every initial track.

    The distance is that of generalized ICP (Segal, Haehnel and Thrun 2009), see `Refinement`.

    Args:
        evidence: the clusters.
        sweeps: the other sweeps.
        times: times of the points within their sweep, seconds, ``(n,)``; None if they are unknown
            in one of the sweeps.
        surface: normals ``(n, 3)`` and thickness ``(n,)`` at the points of the clusters.
        cluster: number of the cluster of every hypothesis, ``(h,)``, at least one.
        initial: parameters of the `RigidTrack` that every hypothesis starts from, ``(h, 3)`` each.
        scale: scale of the robust misfit in the first iteration, metres.
    """
    points, settings, plane = evidence.points, evidence.settings, evidence.settings.plane
    members = [_thin(evidence.members[k], _MOST) for k in cluster.tolist()]
    index = torch.cat(members)
    sizes = torch.tensor([len(rows) for rows in members], device=index.device)
    body = torch.arange(len(members), device=index.device).repeat_interleave(sizes)
    places, within = points[index], None if times is None else times[index].to(points)
    surfaces = [sweep.surface(times is not None) if plane else None for sweep in sweeps]

    # Row of the partner of every point in every sweep, and the places for which they were searched.
    row = index.new_zeros(len(index), len(sweeps))
    searched = places.new_full((*row.shape, 3), torch.inf)

    def search(moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        far, partners = (moved - searched).square().sum(2) > _STAYS**2, []
        for k, (sweep, sides) in enumerate(zip(sweeps, surfaces)):
            new = far[:, k].nonzero().squeeze(1)
            times_there = None if within is None else within[new]
            row[new, k] = sweep.query(moved[new, k], times=times_there)[1]
            searched[new, k] = moved[new, k]
            # Without surfaces the covariances are identities, whatever the normals are.
            normal, across = sweep.points[row[:, k]], torch.ones_like(moved[:, k, 0])
            if sides is not None:
                normal, across = (
                    sides[0][row[:, k]],
                    sides[1][row[:, k]].clamp(_ACROSS_OTHERS, _THICKEST),
                )
            partners.append((sweep.points[row[:, k]], normal, across))
        partner, normal, across = (torch.stack(columns, 1) for columns in zip(*partners))
        return partner, normal, across

    across = torch.ones_like(places[:, 0])
    if plane:
        across = surface[1][index].clamp(_ACROSS, _THICKEST)
    refine = Refinement(
        places=places,
        body=body,
        sizes=sizes,
        normals=surface[0][index],
        across=across,
        search=search,
        along=_ACROSS if plane else 1.0,
        upright=settings.upright,
        smooth=settings.smooth,
    )
    start = {"bend": torch.zeros_like(initial["turn"]), **initial}
    at_rest = refine.start({name: torch.zeros_like(t) for name, t in start.items()}, sweeps)
    tracks = refine(refine.start(start, sweeps), settings.iterations, scale)
    late = torch.ones_like(tracks.radius)
    if within is not None:
        late = 1 + _lateness(refine, refine.moved(tracks), within, sweeps, evidence.period)
    # A body that crosses the view is measured somewhat earlier or later in every sweep: its track
    # takes 1 + lateness periods per sweep, so its motion in one period is smaller by that factor.
    motion = tracks.ahead(late)
    way = transform(motion[body], places[:, None]).squeeze(1) - places
    turn, translation, bend = tracks.unknowns.view(-1, 3, 3).unbind(1)
    return Registration(
        cluster=cluster,
        tracks=tracks.motions(),
        motion=motion,
        misfit=refine.misfits(tracks),
        still=refine.misfits(at_rest),
        move=refine.means(way.norm(dim=1)).to(way),
        firm=refine.firmness(way),
        parameters={"turn": turn, "translation": translation, "bend": bend},
    )


def _lateness(
    refine: Refinement,
    places: Tensor,
    times: Tensor,
    sweeps: Sequence[Neighbour],
    period: float,
) -> Tensor:
    """Return by which share of a period the sweeps see each body later per period, ``(h,)``.

    A lidar that turns meets a body that crosses the view at another angle, so at another time
    within each sweep.

    Args:
        refine: the points of the bodies.
        places: their places in all K sweeps, ``(P, K, 3)``.
        times: their times, ``(P,)``.
        sweeps: the sweeps.
        period: seconds from the source to the target.
    """
    # Least squares through the origin: the slope b of `later = b s` over the pairs that have a
    # partner is sum(s later) / sum(s^2), with s the time of the sweep in periods.
    later, total = torch.zeros_like(times), torch.zeros_like(times)
    for k, sweep in enumerate(sweeps):
        distance, row = sweep.query(places[:, k], _PARTNERS, times)
        count = distance.isfinite().to(times) * sweep.step
        assert sweep.times is not None
        later += count * (sweep.times[row].to(times) - times) / period
        total += count * sweep.step
    return (refine.means(later) / refine.means(total).clamp_min(1e-12)).to(times)


def _thin(rows: Tensor, most: int) -> Tensor:
    """Return at most ``most`` rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[
        torch.linspace(0, len(rows) - 1, most, dtype=torch.float64, device=rows.device)
        .round()
        .long()
    ]


#: Largest and smallest scale of the robust misfit, metres, and its factor per iteration: see
#: `PlaneToPlane`.
_LAST_SCALE, _DECAY = 0.1, 0.7
#: Damping of the first iteration, and smallest gain ratio of a step: see `LevenbergMarquardt`.
_DAMPING, _GAIN = 1e-3, 1e-4

#: Partners of P places in each of K sweeps, ``(P, K, 3)``: the nearest measured points ``(P, K, 3)``,
#: their normals ``(P, K, 3)`` and the variances across their surfaces ``(P, K)``.
Search = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Tracks:
    """Rigid tracks of h bodies at K times, see `RigidTrack`: rotation v / r, way t, bend a.

    Attributes:
        unknowns: v, t and a of every body, ``(h, 9)``; a stays 0 if there is one time.
        centre: centres c, ``(h, 3)``.
        radius: radii r, ``(h,)``.
        steps: times s in periods, ``(K,)``.
    """

    unknowns: Tensor
    centre: Tensor
    radius: Tensor
    steps: Tensor

    def paths(self) -> tuple[Tensor, Tensor]:
        """Return the rotations ``(h, K, 3, 3)`` and the ways of the centre ``(h, K, 3)``."""
        v, t, a = self.unknowns.view(-1, 3, 3).unbind(1)
        turn, s = v / self.radius[:, None], self.steps[:, None]
        # s t + (s^2 - s) / 2 ((v / r) x t + a)
        bent = 0.5 * (s.square() - s) * (torch.linalg.cross(turn, t) + a)[:, None]
        return rotation(s * turn[:, None]), s * t[:, None] + bent

    def motions(self) -> Tensor:
        """Return the motion of each body to each time, ``(h, K, 4, 4)``."""
        turned, path = self.paths()
        centre = self.centre[:, None].expand_as(path)
        return rigid(turned, centre + path - (turned @ centre[..., None]).squeeze(-1))

    def ahead(self, periods: Tensor) -> Tensor:
        """Return the motion of each body in one period, ``(h, 4, 4)``.

        Args:
            periods: periods per time, by which the unknowns are divided, ``(h,)``.
        """
        one = replace(
            self,
            unknowns=self.unknowns / periods[:, None],
            steps=torch.ones_like(self.steps[:1]),
        )
        return one.motions()[:, 0]

    def derivative(self) -> Tensor:
        """Return the derivative of rotation and way in the unknowns, ``(h, K, 6, 9)``.

        The first three rows are the rotation vector by which a body turns further about its centre.
        """
        v, t, _ = self.unknowns.view(-1, 3, 3).unbind(1)
        turn, s = v / self.radius[:, None], self.steps[:, None, None]
        angle = s[..., 0] * turn[:, None]
        # The left Jacobian of SO(3): I + (1 - cos x) / x^2 [w] + (x - sin x) / x^3 [w]^2 for the
        # rotation vector w of the length x; the factors are 1/2 and 1/6 at 0.
        size = angle.norm(dim=2).double()[..., None, None]
        safe = size.clamp_min(1e-3)
        first = torch.where(size > 1e-3, (1 - safe.cos()) / safe**2, 0.5).to(angle)
        second = torch.where(size > 1e-3, (safe - safe.sin()) / safe**3, 1 / 6).to(angle)
        w, eye = skew(angle), torch.eye(3).to(angle)
        per_radius = 1 / self.radius[:, None, None, None]
        bend = 0.5 * (s.square() - s)
        turning = per_radius * s * (eye + first * w + second * (w @ w))
        zero = torch.zeros_like(turning)
        # The way changes by -(s^2 - s) / 2 [t] / r with v, and by s + (s^2 - s) / 2 [v / r] with t.
        way = [-per_radius * bend * skew(t)[:, None], s * eye + bend * skew(turn)[:, None]]
        # One time does not determine a change of velocity.
        bent = (bend * eye * (len(self.steps) > 1)).expand_as(zero)
        rows = torch.cat([turning, zero, zero], 3), torch.cat([*way, bent], 3)
        return torch.cat(rows, 2)


@dataclass(frozen=True, eq=False)
class Refinement:
    """Points of h bodies, one body after the other, and the weights of their tracks.

    Attributes:
        places: points at rest, ``(P, 3)``.
        body: body of every point, ascending, ``(P,)``.
        sizes: number of points of every body, ``(h,)``.
        normals: normals of the points, ``(P, 3)``.
        across: variances across the surface of every point, ``(P,)``; 1 for points without surface.
        search: search for partners.
        along: the share alpha of `PlaneToPlane`.
        upright: see `RigidTrack`.
        smooth: see `RigidTrack`.
    """

    places: Tensor
    body: Tensor
    sizes: Tensor
    normals: Tensor
    across: Tensor
    search: Search
    along: float
    upright: float
    smooth: float

    def start(self, initial: dict[str, Tensor], sweeps: Sequence[Neighbour]) -> Tracks:
        """Return tracks through sweeps from initial parameters of a `RigidTrack`, ``(h, 3)`` each."""
        centre = self.means(self.places)
        squared = self.means((self.places - centre.to(self.places)[self.body]).square().sum(1))
        unknowns = torch.cat([initial[name] for name in ("turn", "translation", "bend")], 1)
        radius, steps = squared.sqrt().clamp_min(0.1), [sweep.step for sweep in sweeps]
        return Tracks(
            unknowns, centre.to(unknowns), radius.to(unknowns), unknowns.new_tensor(steps)
        )

    def __call__(self, tracks: Tracks, iterations: int, scale: float) -> Tracks:
        """Return the tracks after some iterations, of which each lowers the energy or is left out.

        Args:
            tracks: initial tracks.
            iterations: number of iterations.
            scale: scale of the robust misfit in the first iteration, metres.
        """
        arms, apart, metric = self._at(tracks)
        damping, growth = None, torch.full_like(tracks.radius, 2.0).double()
        for k in range(iterations):
            tau = max(_LAST_SCALE, scale * _DECAY**k)
            value = self._energy(tracks, apart, metric, tau)
            H, g = self._equations(tracks, arms, apart, metric, tau)
            if damping is None:
                # mu_0 = damping <g, H g> / |g|^2
                squared = g.square().sum(1)
                curved = torch.einsum("hi,hij,hj->h", g, H, g) / squared.clamp_min(1e-300)
                damping = _DAMPING * torch.where(squared > 0, curved, 1.0)
            damped = H + damping[:, None, None] * torch.eye(9).to(H)
            step = -torch.linalg.solve(damped, g)
            # -<g, d> - <d, H d> / 2 with (H + mu) d = -g.
            predicted = 0.5 * (damping * step.square().sum(1) - (step * g).sum(1))
            trial = replace(tracks, unknowns=tracks.unknowns + step.to(tracks.unknowns))
            arrived = self._at(trial)
            decrease = value - self._energy(trial, *arrived[1:], tau)
            # Madsen, Nielsen and Tingleff 2004, algorithm 3.16; the ratio counts as 1 if the
            # decrease is below rounding.
            rounding = 4 * torch.finfo(tracks.unknowns.dtype).eps * value.abs()
            ratio = torch.where(predicted > rounding, decrease / predicted, 1.0)
            taken = (ratio > _GAIN) & (decrease >= -rounding)
            smaller = damping * (1 - (2 * ratio - 1) ** 3).clamp_min(1 / 3)
            damping = torch.where(taken, smaller, damping * growth)
            growth = torch.where(taken, 2.0, 2 * growth)
            chosen = torch.where(taken[:, None], trial.unknowns, tracks.unknowns)
            tracks, here = replace(tracks, unknowns=chosen), taken[self.body]
            arms, apart, metric = (
                torch.where(here.view(-1, *[1] * (old.ndim - 1)), new, old)
                for new, old in zip(arrived, (arms, apart, metric))
            )
        return tracks

    def misfits(self, tracks: Tracks) -> Tensor:
        """Return the mean robust misfit of every body at every time, at the last scale, ``(h, K)``."""
        _, apart, metric = self._at(tracks)
        misfit, _ = _robust(apart, metric, _LAST_SCALE)
        return self.means(misfit).to(misfit)

    def means(self, columns: Tensor) -> Tensor:
        """Return the means over the points of every body in float64, ``(P, ...) -> (h, ...)``."""
        sums = self._sums(columns)
        return sums / self.sizes.view(-1, *[1] * (sums.ndim - 1))

    def firmness(self, way: Tensor) -> Tensor:
        """Return the share of each body's normals that lies along its motion, ``(h,)``.

        It is the mean of (1 - s) (n u)^2 over the points, with their normals n, the variances s
        across their surfaces, and the direction u of the motion: the normal matrix of the
        registration along u. A motion along a flat surface has 0, because the surface looks the
        same everywhere.

        Args:
            way: displacements of the points, ``(P, 3)``.
        """
        ahead = torch.nn.functional.normalize(self._sums(way), dim=1).to(way)[self.body]
        along = (1 - self.across) * (self.normals * ahead).sum(1).square()
        return self.means(along).to(way)

    def moved(self, tracks: Tracks) -> Tensor:
        """Return the places of the points at all times, ``(P, K, 3)``."""
        return self._arms(tracks)[1]

    def _arms(self, tracks: Tracks) -> tuple[Tensor, Tensor]:
        """Return the turned arms of the points, and their places, ``(P, K, 3)`` both."""
        turned, path = tracks.paths()
        around = self.places - tracks.centre[self.body]
        arms = torch.einsum("pkij,pj->pki", turned[self.body], around)
        return arms, arms + (tracks.centre[:, None] + path)[self.body]

    def _at(self, tracks: Tracks) -> tuple[Tensor, Tensor, Tensor]:
        """Return the turned arms of the points, their offsets from their partners, and the metric.

        The shapes are ``(P, K, 3)`` twice and ``(P, K, 3, 3)``.
        """
        arms, places = self._arms(tracks)
        partner, n, across = self.search(places)
        # With unit normals m and n, and variances a + 1 and b + 1 across the surfaces, the
        # covariances are I + a m m^T and I + b n n^T. By Woodbury's formula, the metric 2 alpha (C_p +
        # C_q)^-1 is alpha (I - x m m^T - y (m n^T + n m^T) - z n n^T).
        a, b = (self.across - 1)[:, None], across - 1
        m = self.normals[:, None].expand_as(n)
        cosine = (m * n).sum(2)
        by = 1 / ((2 + a) * (2 + b) - a * b * cosine.square())
        x, y, z = (
            factor[..., None]
            for factor in (a * (2 + b) * by, -a * b * cosine * by, b * (2 + a) * by)
        )
        pull_m, pull_n = x * m + y * n, y * m + z * n
        outer = pull_m[..., None] * m[..., None, :] + pull_n[..., None] * n[..., None, :]
        return arms, places - partner, self.along * (torch.eye(3).to(outer) - outer)

    def _energy(self, tracks: Tracks, apart: Tensor, metric: Tensor, tau: float) -> Tensor:
        """Return the energy of every body, float64 ``(h,)``."""
        misfit, _ = _robust(apart, metric, tau)
        mean = self.means(misfit).mean(1)
        return mean + 0.5 * (self._stiffness(tracks) * tracks.unknowns.double().square()).sum(1)

    def _equations(
        self, tracks: Tracks, arms: Tensor, apart: Tensor, metric: Tensor, tau: float
    ) -> tuple[Tensor, Tensor]:
        """Return the Gauss-Newton matrices ``(h, 9, 9)`` and gradients ``(h, 9)``, in float64."""
        _, share = _robust(apart, metric, tau)
        # A place moves by G (w, d), with G = (-[u], I) for the arm u, if the body turns by w and is
        # displaced by d. G^T W G and G^T W r are summed per body and time: W, [u] W, [u] W [u]^T.
        W = share.square()[..., None, None] * metric
        pull = (W @ apart[..., None]).squeeze(-1)
        uW = torch.linalg.cross(arms[..., None].expand_as(W), W, dim=2)
        uWu = torch.linalg.cross(arms[..., None, :].expand_as(W), uW, dim=3)
        blocks = [uWu, uW, W, torch.linalg.cross(arms, pull), pull]
        sums = self._sums(torch.cat([block.flatten(2) for block in blocks], 2))
        turned, mixed, straight = sums[..., :27].unflatten(2, (3, 3, 3)).unbind(2)
        normal = torch.cat(
            [torch.cat([turned, mixed], 3), torch.cat([mixed.transpose(2, 3), straight], 3)], 2
        )
        # The derivative T of (w, d) in the unknowns: H = sum_k T^T N T, and the prior's stiffness.
        T, stiffness = tracks.derivative().double(), self._stiffness(tracks)
        count = (self.sizes * apart.shape[1])[:, None]
        H = (T.transpose(2, 3) @ normal @ T).sum(1) / count[..., None]
        g = (T.transpose(2, 3) @ sums[..., 27:, None]).sum(1).squeeze(2) / count
        return H + stiffness.diag(), g + stiffness * tracks.unknowns.double()

    def _stiffness(self, tracks: Tracks) -> Tensor:
        """Return the weights of the squares of the unknowns in the energy, ``(9,)``."""
        up, smooth = self.upright, self.smooth
        weights = [up, up, 0.0, 0.0, 0.0, up, smooth, smooth, smooth]
        return torch.tensor(weights, dtype=torch.float64, device=tracks.unknowns.device)

    def _sums(self, columns: Tensor) -> Tensor:
        """Return the sums over the points of every body in float64, ``(P, ...) -> (h, ...)``."""
        # In the order of the points, so that no other body has an effect on the bits.
        sums = torch.segment_reduce(
            columns.reshape(len(columns), -1).double(),
            "sum",
            lengths=self.sizes,
            axis=0,
            unsafe=True,
        )
        return sums.view(-1, *columns.shape[1:])


def _robust(apart: Tensor, metric: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return Geman and McClure's function of the distances d, and ``1 / (1 + d^2 / tau^2)``."""
    squared = torch.einsum("pki,pkij,pkj->pk", apart, metric, apart)
    share = 1 / (1 + squared / tau**2)
    return 0.5 * squared * share, share
