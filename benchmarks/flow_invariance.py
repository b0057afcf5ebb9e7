"""Scene flow must not depend on the frame, on the ground, or on the time between the sweeps.

    python benchmarks/flow_invariance.py [--angles 13] [--method default]

The real pair (av2_pair) is turned about the vertical axis, moved to a map's frame, and given with
its ground, without its ground, and with a point 5 m below the ground: with poses and times, and
as points alone. In a copy, a car of the second sweep is moved on, as if it drove 150 km/h. Pairs of
simulated sweeps 0.5 s apart, as between key frames, are judged by their cars. A body is found if
half of its points move within 50 % of their true motion.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry.rigid import relative_motion, rigid, rotation, transform
from invtoolbox.geometry.sweeps import Sweep, box_of_points, flow_from_boxes, number_of_track
from invtoolbox.jobs.flow import FlowEstimate, Preparation, estimate
from invtoolbox.jobs.flow.ground import ground
from invtoolbox.metrics import FlowErrors, evaluate

FAST = 150 / 3.6


def turned(sweep: Sweep, degrees: float) -> Sweep:
    about = torch.tensor([0.0, 0.0, math.radians(degrees)], dtype=torch.float64)
    motion = rigid(rotation(about), torch.zeros(3, dtype=torch.float64))
    labels = sweep.labels
    if labels is not None:
        labels = replace(labels, flow=(labels.flow.double() @ motion[:3, :3].T).float())
    assert sweep.pose is not None
    return replace(
        sweep,
        points=transform(motion, sweep.points.double()).float(),
        pose=sweep.pose @ motion.T,
        boxes=None,
        labels=labels,
    )


def bare(sweep: Sweep) -> Sweep:
    """Return the points without pose and times."""
    return replace(sweep, pose=None, time=None)


def taken(sweep: Sweep, rows: Tensor) -> Sweep:
    return replace(
        sweep,
        points=sweep.points[rows],
        time=None if sweep.time is None else sweep.time[rows],
        intensity=None,
        ring=None,
        labels=None,
    )


def with_stray(sweep: Sweep) -> Sweep:
    """Add a point 5 m below the ground, 9 m from the sensor."""
    rows = torch.cat([torch.arange(len(sweep)), torch.tensor([0])])
    moved = taken(sweep, rows)
    moved.points[-1] = torch.tensor([8.0, 4.0, -5.3])
    return moved


def shifted(sweep: Sweep) -> Sweep:
    """Return the sweep in a frame whose origin is 1 km away."""
    away = torch.eye(4, dtype=torch.float64)
    away[:3, 3] = torch.tensor([-1000.0, 600.0, -40.0])
    pose = None if sweep.pose is None else sweep.pose @ away
    return replace(sweep, points=sweep.points - away[:3, 3].float(), pose=pose)


def judge(found: FlowEstimate, source: Sweep, motion: Tensor, rows: Tensor | None) -> FlowErrors:
    """Compute the errors over all points of the source; those without an estimate stand still."""
    points = source.points.double()
    flow = (transform(motion, points) - points).float()
    if rows is None:
        flow = found.flow[: len(source)]
    else:
        flow[rows] = found.flow[: int(rows.sum())]
    return evaluate(flow, source, ego_motion=motion)


def is_found(residual: Tensor, truth: Tensor) -> bool:
    apart = (residual - truth).norm(dim=1) <= 0.5 * truth.norm(dim=1)
    return bool(apart.double().mean() >= 0.5)


def argoverse(method: str, angles: int) -> None:
    first, second = (it.datasets.open_sweeps(data_folder() / "av2_pair")[k] for k in (0, 1))
    motion = relative_motion(first.pose, second.pose)
    for name, bar, strip in (
        ("poses and times", 0.075, lambda sweep: sweep),
        ("points alone", 0.12, bare),
    ):
        errors, bodies = [], []
        for degrees in [0.0, 1.0, *(360.0 * k / (angles - 1) for k in range(1, angles - 1))]:
            source, target = turned(first, degrees), turned(second, degrees)
            found = estimate(strip(source), strip(target), method)
            true = relative_motion(source.pose, target.pose)
            errors.append(judge(found, source, true, None))
            bodies.append(len(found.instance[found.instance >= 0].unique()))
        dynamic = torch.tensor([one.dynamic for one in errors])
        spread = float(dynamic.max() - dynamic.min())
        print(
            f"av2_pair, {name}: {len(errors)} directions of the frame, dynamic "
            f"{float(dynamic.mean()):.4f} m, spread {spread:.4f} m, bodies {min(bodies)} to "
            f"{max(bodies)}, class mean "
            f"{sum(one.bucketed.mean().dynamic for one in errors) / len(errors):.3f} "
            + verdict(
                float(dynamic.mean()) <= bar and spread <= 0.01 and min(bodies) == max(bodies),
                f"{bar}, 0.01, no body gained or lost",
            ),
            flush=True,
        )
        source, target = strip(first), strip(second)
        high, target_high = ~first.labels.ground, ~ground(second.points)
        kept, plain = Preparation(ground="none"), None
        for case, one, two, preparation, rows in (
            ("plain", source, target, None, None),
            ("ground kept", source, target, kept, None),
            ("ground removed", taken(source, high), taken(target, target_high), None, high),
            ("a stray point", with_stray(source), with_stray(target), None, None),
            ("a stray point, ground kept", with_stray(source), with_stray(target), kept, None),
            ("1 km away", shifted(source), shifted(target), None, None),
        ):
            found = estimate(one, two, method, preparation)
            error = judge(found, first, motion, rows)
            plain = plain or error
            off = abs(error.dynamic - plain.dynamic)
            print(
                f"av2_pair, {name}, {case}: dynamic {error.dynamic:.4f} m, static "
                f"{error.static:.4f} m {verdict(off <= 0.01, 'within 0.01 m of plain')}",
                flush=True,
            )


def fast_car(method: str) -> None:
    first, second = (it.datasets.open_sweeps(data_folder() / "av2_pair")[k] for k in (0, 1))
    motion, period = relative_motion(first.pose, second.pose), second.timestamp - first.timestamp
    labels, points = first.labels, first.points.double()
    truth = labels.flow.double() - (transform(motion, points) - points)
    moving = labels.dynamic & ~labels.ground & (points[:, :2].norm(dim=1) < 35)
    for track in labels.instance[moving].unique().tolist():
        rows = moving & (labels.instance == track)
        step = truth[rows].mean(0)
        if float(step.norm()) < 0.8:  # cars at 30 km/h and more
            continue
        on = (FAST * period / float(step.norm()) - 1) * step
        number = [number_of_track(name) for name in second.boxes.track].index(track)
        own = box_of_points(second.points.double(), second.boxes, second.boxes.size + 0.3) == number
        points_then = second.points.clone()
        points_then[own] += on.float()
        found = estimate(first, replace(second, points=points_then), method)
        residual = found.residual(first.points).double()[rows]
        print(
            f"av2_pair, a car of {int(rows.sum())} points at "
            f"{float(points[rows, :2].norm(dim=1).mean()):.0f} m, moved on to 150 km/h: estimated "
            f"{3.6 * float(residual.mean(0).norm()) / period:.0f} km/h "
            + verdict(is_found(residual, truth[rows] + on), "found"),
            flush=True,
        )


def key_frames(method: str, count: int = 5, step: int = 5) -> None:
    found_cars, cars = 0, 0
    for seed in range(900, 900 + count):
        street = it.simulation.street(sweeps=9 + step, seed=seed, points=60_000)
        source, target = street[8], street[8 + step]
        labels = flow_from_boxes(source, target)
        found = estimate(source, target, method)
        points = source.points.double()
        truth = labels.flow.double() - (transform(found.ego_motion, points) - points)
        counts = labels.dynamic & labels.valid & (points[:, :2].norm(dim=1) < 35)
        counts &= labels.category == labels.categories.index("REGULAR_VEHICLE")
        residual = found.residual(source.points).double()
        for track in labels.instance[counts].unique().tolist():
            rows = counts & (labels.instance == track)
            if int(rows.sum()) >= 30 and float(truth[rows].norm(dim=1).mean()) > 0.5:
                cars += 1
                found_cars += is_found(residual[rows], truth[rows])
    print(
        f"{count} simulated pairs {step / 10} s apart: {found_cars} of {cars} moving cars with 30 "
        f"points within 35 m found {verdict(found_cars >= 0.7 * cars, '70 %')}"
    )


def main(angles: int = 13, method: str = "default") -> None:
    torch.set_num_threads(1)
    print(machine())
    fast_car(method)
    key_frames(method)
    argoverse(method, angles)


if __name__ == "__main__":
    run_script(main)
