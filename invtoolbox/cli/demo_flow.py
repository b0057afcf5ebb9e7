"""The street of ``invtoolbox demo``: two sweeps of a simulated lidar, and who moves between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invtoolbox.plotting import FlowCase

_POINTS = 20_000


def street_case(say: Callable[[str], None]) -> FlowCase:
    """Two sweeps of the simulated street with exact labels: nothing moves, NSFP, and the default method."""
    import torch

    from invtoolbox.datasets.flow_files import residual_flow
    from invtoolbox.metrics import evaluate
    from invtoolbox.motion.estimation import estimate
    from invtoolbox.motion.preparation import Preparation, prepare_pair
    from invtoolbox.motion.published import nsfp
    from invtoolbox.plotting import FlowCase, FlowMethod
    from invtoolbox.scenes.lidar import simulated_street

    say("Scene flow: casting the rays of two sweeps")
    street, preparation = (
        simulated_street(sweeps=2, points=_POINTS),
        Preparation(ego_motion="poses"),
    )
    source, target = street[0], street[1]
    assert source.labels is not None and target.pose is not None
    pair = prepare_pair(source, target, preparation)

    def method(name: str, flow: torch.Tensor, seconds: float | None, note: str) -> FlowMethod:
        return FlowMethod(
            name,
            residual_flow(flow, source.points, pair.ego_motion),
            evaluate(flow, source, next_pose=target.pose),
            seconds,
            note,
        )

    methods = [
        method(
            "Nothing moves",
            pair.flow(torch.zeros_like(pair.source)),
            None,
            "the sensor's own motion alone",
        )
    ]
    say("Scene flow: NSFP")
    began = time.monotonic()
    network = nsfp(pair.source, pair.target, points=2048, max_iterations=100, patience=None)
    methods.append(
        method(
            "NSFP",
            pair.flow(network),
            time.monotonic() - began,
            "neural scene flow prior, 2,048 points, cut off after 100 iterations",
        )
    )
    say("Scene flow: the default method")
    found = estimate(source, target, "default", preparation)
    methods.append(
        method(
            "default",
            found.flow,
            found.seconds,
            "bodies that move rigidly; all else stands, at exactly zero",
        )
    )
    truth = residual_flow(source.labels.flow, source.points, pair.ego_motion)
    return FlowCase(
        "Scene flow: a simulated street",
        f"Two sweeps of {len(source):,} and {len(target):,} points of a lidar on a moving car in a town with traffic, with "
        "noise, drop-out and rolling shutter, 0.1 s apart; the flow of every point is known exactly. Errors are of points "
        "within 35 m that are not ground, without the sensor's own motion. AccS and AccR are the shares of points within 5 "
        "and 10 cm or per cent of the truth.",
        source.points,
        truth,
        methods,
    )
