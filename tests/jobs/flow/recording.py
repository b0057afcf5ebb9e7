"""A short recording on disk, and a flow that costs nothing: all that is not the sensor's own motion stands still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch

from invtoolbox import simulation
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.estimation import FlowEstimate, estimate_prepared
from invtoolbox.jobs.flow.preparation import Preparation, PreparedPair, prepare_pair
from invtoolbox.jobs.flow.window import Motion, Pair


def record(folder: Path, sweeps: int = 6, points: int = 1500) -> Path:
    """A folder of `.bin` sweeps of the simulated street with ``poses.txt``."""
    folder.mkdir(parents=True)
    street = simulation.street(sweeps=sweeps, points=points)
    poses = []
    for name, sweep in zip(street.names, (street[k] for k in range(sweeps))):
        assert sweep.intensity is not None and sweep.pose is not None
        torch.cat([sweep.points, sweep.intensity[:, None]], 1).numpy().astype("<f4").tofile(
            folder / f"{name}.bin"
        )
        poses.append(sweep.pose[:3].flatten().tolist())
    np.savetxt(folder / "poses.txt", np.array(poses))
    return folder


def standing(
    source: Sweep,
    target: Sweep,
    method: Any,
    preparation: Preparation | None,
    seed: int,
    window: Sequence[Sweep] = (),
) -> Any:
    """No flow but the sensor's own motion."""
    pair = prepare_pair(source, target, preparation)
    no = torch.zeros(len(source), dtype=torch.bool)
    return SimpleNamespace(
        flow=pair.flow(torch.zeros_like(pair.source)),
        ego_motion=pair.ego_motion,
        dynamic=no,
        ground=pair.ground,
        instance=torch.full((len(source),), -1),
        valid=pair.valid,
        method="standing",
        seconds=0.0,
        notes=pair.notes,
    )


def standing_pair(
    pair: PreparedPair, neighbours: Any, estimator: Any, seed: int = 0, device: Any = None
) -> FlowEstimate:
    """No flow but the sensor's own motion, of a pair that is prepared."""

    def stand(prepared: Pair, seed: int) -> Any:
        nothing = torch.full((len(prepared.source),), -1)
        return SimpleNamespace(flow=torch.zeros_like(prepared.source), instance=nothing)

    estimate = estimate_prepared(pair, (), stand, seed, device)
    return replace(estimate, method="standing", seconds=0.0)


@dataclass(frozen=True)
class MeanOfWindow:
    """A method whose flow depends on every sweep of the window, and costs nothing."""

    window: ClassVar[bool] = True

    def __call__(self, pair: Pair, seed: int) -> Motion:
        middle = sum(one.points.mean(0) * one.step for one in pair.window)
        flow = torch.zeros_like(pair.source) + middle
        return Motion(flow, torch.full((len(flow),), -1))
