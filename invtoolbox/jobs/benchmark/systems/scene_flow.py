"""Scene flow of simulated lidar sweeps: bucket-normalized errors by class and by range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from invtoolbox import simulation
from invtoolbox.datasets.sweeps.flow_files import residual_flow
from invtoolbox.errors import require_name
from invtoolbox.geometry.rigid import relative_motion
from invtoolbox.jobs.benchmark.case import Case, Row, Solved, System, check_answer
from invtoolbox.jobs.flow.estimation import scene_flow
from invtoolbox.jobs.flow.methods import METHODS
from invtoolbox.jobs.flow.sequence import window_of
from invtoolbox.metrics.flow_scores import BACKGROUND, bucketed_epe, meta_class

#: Side of the pictures from above in pixels, and metres per pixel.
_SIDE, _PIXEL = 280, 0.25
#: Speed in metres per sweep that is white in the pictures, and the shade of points at rest.
_FAST, _SHADE = 1.0, 0.3
#: Sweeps of a street, and rings of distance in metres; challenges count points within 35 m.
_SWEEPS, _RINGS = 42, ((0.0, 35.0), (35.0, 50.0), (50.0, 75.0))


class StreetRow(Row):
    """Sweeps of simulated streets."""

    seeds: list[int] = Field(min_length=1, description="seeds of the streets")
    sources: list[int] = Field(min_length=1, description="numbers of the first sweeps of pairs")
    window: int = Field(2, ge=2, le=25, description="number of sweeps that a method may use")
    points: int = Field(60_000, ge=1000, description="approximate number of points of a sweep")


def open_case(row: StreetRow, number: int) -> Case:
    """Return a pair of sweeps with the flow of every point of the first one."""
    seed = row.seeds[number // len(row.sources)]
    index = row.sources[number % len(row.sources)]
    street = simulation.street(sweeps=_SWEEPS, seed=seed, points=row.points)
    source, target = street[index], street[index + 1]
    window = [street[k] for k in window_of(index, row.window, _SWEEPS)]
    labels = source.labels
    assert labels is not None and labels.ground is not None
    assert source.pose is not None and target.pose is not None
    ego = relative_motion(source.pose, target.pose)
    truth = residual_flow(labels.flow.double(), source.points.double(), ego)
    classes = meta_class(labels.category, labels.categories)
    distance = source.points[:, :2].norm(dim=1)
    counted = labels.valid & ~labels.ground
    still = residual_flow(torch.zeros_like(truth), source.points.double(), ego)

    def solve(name: Any, solver: Any, automatic: str) -> Solved:
        return scene_flow(source, target, name, window=window), ()

    def scores(answer: Any) -> dict[str, float]:
        flow = check_answer(answer, truth.shape, "the flow of every point").double()
        flow = residual_flow(flow, source.points.double(), ego)

        def measure(mask: Tensor) -> Any:
            return bucketed_epe(flow, truth, classes, counted & mask)

        rings = [measure((near <= distance) & (distance < far)) for near, far in _RINGS]
        by_class = rings[0].by_class()
        dynamic = {name: by_class[name].dynamic for name in by_class if name != BACKGROUND}
        return {
            "bucketed EPE": rings[0].mean().dynamic,
            **{f"EPE of {name}": value for name, value in dynamic.items()},
            **{
                f"EPE, {near:.0f} to {far:.0f} m": ring.mean().dynamic
                for (near, far), ring in zip(_RINGS[1:], rings[1:])
            },
            "static [m]": rings[0].mean().static,
        }

    def above(residual: Tensor) -> np.ndarray:
        return speeds_from_above(source.points, residual)

    return Case(
        label=f"street {seed}, sweep {index}",
        # Labels hold the answer.
        arguments=lambda: (replace(source, labels=None), replace(target, labels=None)),
        solve=solve,
        # Nothing moves but the sensor: the residual is zero.
        simple=lambda: -still,
        scores=scores,
        picture=lambda flow: above(
            residual_flow(torch.as_tensor(flow).double(), source.points.double(), ego)
        ),
        truth=above(truth),
    )


def speeds_from_above(points: Tensor, residual: Tensor) -> np.ndarray:
    """Return a picture of the points within 35 m from above, x up and y to the left.

    A pixel without points is black, one with points at rest is grey, and the largest speed of its
    points makes it brighter, up to white.

    Args:
        points: points of a sweep, ``(N, 3)`` in metres.
        residual: their flow without the motion of the sensor, ``(N, 3)`` in metres.

    >>> float(speeds_from_above(torch.zeros(1, 3), torch.zeros(1, 3)).max())
    0.3
    """
    row, column = (_SIDE // 2 - (points[:, k] / _PIXEL).round().long() for k in (0, 1))
    inside = (row >= 0) & (row < _SIDE) & (column >= 0) & (column < _SIDE)
    speed = residual.norm(dim=1).clamp(max=_FAST) / _FAST
    shades = _SHADE + (1 - _SHADE) * speed[inside].double().numpy()
    image = np.zeros((_SIDE, _SIDE))
    np.maximum.at(image, (row[inside].numpy(), column[inside].numpy()), shades)
    return image


SYSTEM = System(
    row=StreetRow,
    signature="(source, target) -> flow",
    simple="nothing moves",
    metric="bucketed EPE",
    better="lower",
    count=lambda row: len(row.seeds) * len(row.sources),
    files=lambda row: [],
    open=open_case,
    check=lambda name: require_name("method of scene flow", name, METHODS),
    takes_prior=False,
    pictured="from above; brighter is faster",
)
