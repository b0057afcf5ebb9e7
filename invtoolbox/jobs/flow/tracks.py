"""Registration of clusters with the other sweeps of a window, as rigid bodies on smooth tracks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.geometry.rigid import transform
from invtoolbox.jobs.flow.evidence import Evidence, Registration
from invtoolbox.jobs.flow.refinement import Refinement
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
