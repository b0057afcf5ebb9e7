"""Scene flow on streets and with sensors that nothing was chosen on, against the plain street.

    python benchmarks/scene_flow_streets.py [--seeds 900-904] [--sources 8,26] [--windows 2,5]
        [--cases plain,rails,...]

Each case is a street or a sensor: a highway with guard rails, a garage, a crossing with 30 people,
10 % of drops of rain among the points, a sensor tilted by 20 degrees, points without rings in any
order, rings from 16 to 128, rays from 0.0035 to 0.01 rad apart, 2 to 20 sweeps per second. The class
mean of bucket-normalized errors (`scene_flow_simulated.py`; zero flow has 1) is compared with that of
the plain street, a town, with the same rings, rate and number of sweeps. A mover, any moving object
with at least five points within 35 m, is found if half of its points have less than 50 % error. A
false mover is a body within 75 m that truly stands still. Poses are true. Settings were chosen on
seeds below 900, and on other rings, rays and rates (`--tuning`).
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated

import torch
from common import machine, run_script, verdict
from scene_flow_simulated import Score, numbers, score

from invtoolbox.geometry.rigid import relative_motion
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow import estimate
from invtoolbox.jobs.flow.sequence import window_of
from invtoolbox.simulation import SimulatedSequence, SpinningLidar
from invtoolbox.simulation.places import PLACES

#: Bars: ratio of the class mean to the plain street's, share of movers found, static error in metres.
RATIO, FOUND, STATIC = 1.3, 0.8, 0.02


#: Sensors by their number of rings.
SENSORS = {
    16: SpinningLidar(16, 1800, (-15.0, 15.0)),
    24: SpinningLidar(24, 1500, (-20.0, 10.0)),
    32: SpinningLidar(32, 1085, (-30.7, 10.7)),
    48: SpinningLidar(48, 1200, (-24.0, 6.0), noise_std=0.025),
    64: SpinningLidar(),
    96: SpinningLidar(96, 1400, (-20.0, 15.0)),
    128: SpinningLidar(128, 1024, (-22.5, 22.5)),
}
USUAL = SENSORS[64]


@dataclass(frozen=True)
class Case:
    """A street and a sensor; `rings` is False if the points have neither rings nor order."""

    place: str = "town"
    lidar: SpinningLidar = USUAL
    rings: bool = True

    @property
    def plain(self) -> Case:
        """The town with the same number of rings and the same rate."""
        return Case(lidar=replace(SENSORS[self.lidar.rings], rate=self.lidar.rate))


CASES = {
    "plain": Case(),
    "rails": Case("highway"),
    "garage": Case("garage"),
    "crossing": Case("crossing"),
    "rain": Case(lidar=replace(USUAL, stray=0.055)),
    "tilted": Case(lidar=replace(USUAL, tilt=(0.0, 20.0))),
    "no rings": Case(rings=False),
    "16 rings": Case(lidar=SENSORS[16]),
    "32 rings": Case(lidar=SENSORS[32]),
    "128 rings": Case(lidar=SENSORS[128]),
    "0.0035 rad": Case(lidar=replace(USUAL, azimuths=1795)),
    "0.01 rad": Case(lidar=replace(USUAL, azimuths=628)),
    "2 Hz": Case(lidar=replace(USUAL, rate=2.0)),
    "5 Hz": Case(lidar=replace(USUAL, rate=5.0)),
    "20 Hz": Case(lidar=replace(USUAL, rate=20.0)),
}
#: Cases that settings are chosen on.
_TUNING = SENSORS[48]
TUNING = {
    "plain": Case(lidar=_TUNING),
    "rails": Case("highway", _TUNING),
    "garage": Case("garage", _TUNING),
    "crossing": Case("crossing", _TUNING),
    "rain": Case(lidar=replace(_TUNING, stray=0.04)),
    "tilted": Case(lidar=replace(_TUNING, tilt=(12.0, -14.0))),
    "24 rings": Case(lidar=SENSORS[24]),
    "96 rings": Case(lidar=SENSORS[96]),
    "0.009 rad": Case(lidar=replace(_TUNING, azimuths=700)),
    "3 Hz": Case(lidar=replace(_TUNING, rate=3.0)),
    "15 Hz": Case(lidar=replace(_TUNING, rate=15.0)),
}


@cache
def run(case: Case, size: int, seeds: tuple[int, ...], sources: tuple[int, ...]) -> Score:
    """Estimate the flow of some sweeps of a case, and compare it with its labels."""
    total = Score()
    for seed in seeds:
        street = SimulatedSequence(PLACES[case.place](seed), case.lidar, 42, seed)
        for k in sources:
            source, target, *window = (
                street[j] if case.rings else shuffled(street[j], seed)
                for j in (k, k + 1, *window_of(k, size, len(street)))
            )
            began = time.process_time()
            answer = estimate(source, target, window=window)
            seconds = time.process_time() - began
            assert source.pose is not None and target.pose is not None
            ego = relative_motion(source.pose, target.pose)
            residual = answer.residual(source.points).double()
            total.add(score(residual, answer.instance, source, ego, seconds))
    return total


def shuffled(sweep: Sweep, seed: int) -> Sweep:
    """Return a sweep without rings, times and order."""
    order = torch.randperm(len(sweep), generator=torch.Generator().manual_seed(seed))
    labels = sweep.labels
    assert labels is not None and labels.ground is not None and labels.instance is not None
    return replace(
        sweep,
        points=sweep.points[order],
        time=None,
        intensity=None,
        ring=None,
        labels=replace(
            labels,
            flow=labels.flow[order],
            valid=labels.valid[order],
            dynamic=labels.dynamic[order],
            category=labels.category[order],
            ground=labels.ground[order],
            instance=labels.instance[order],
        ),
    )


def main(
    seeds: Annotated[list[int], numbers] = numbers("900-904"),
    windows: Annotated[list[int], numbers] = numbers("2,5"),
    sources: Annotated[list[int], numbers] = numbers("8,26"),
    cases: str = "",
    tuning: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        cases: names of cases, joined by commas; all by default
        tuning: run the cases that settings are chosen on
    """
    torch.set_num_threads(1)
    print(machine())
    print(f"seeds {seeds}, sweeps {sources}")
    chosen = (tuple(seeds), tuple(sources))
    table = TUNING if tuning else CASES
    for size in windows:
        for name in cases.split(",") if cases else table:
            case = table[name]
            one = run(case, size, *chosen)
            ratio = one.mean() / run(case.plain, size, *chosen).mean()
            sweeps, share = len(one.seconds), one.movers_found / max(one.movers, 1)
            static = one.static / max(one.static_points, 1)
            classes = ", ".join(f"{c[:3]} {v:.2f}" for c, v in one.dynamic().items() if v == v)
            print(
                f"{name:10s} window {size}: mean {one.mean():.3f} ({ratio:.2f} of plain; {classes}), "
                f"movers found {one.movers_found} of {one.movers} ({100 * share:.0f} %), "
                f"false {one.false_movers / sweeps:.2f} of {one.bodies / sweeps:.1f} bodies, static "
                f"{static:.4f} m, {statistics.median(one.seconds):.2f} s "
                + verdict(
                    ratio <= RATIO and share >= FOUND and static <= STATIC,
                    f"{RATIO} of plain, {100 * FOUND:.0f} %, {STATIC} m",
                ),
                flush=True,
            )


if __name__ == "__main__":
    run_script(main)
