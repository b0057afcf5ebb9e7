"""The simulated street: seconds per sweep, the ray-caster's share, and growth of memory.

python benchmarks/street.py [--sweeps 100] [--points 60000]
"""

from __future__ import annotations

import resource
import time
from statistics import median

import torch
from common import machine, run_script, verdict

import invtoolbox as it
from invtoolbox.kernels.rendering.raycast import cast_rays


def peak() -> float:
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(sweeps: int = 100, points: int = 60_000) -> None:
    print(machine())
    began = time.perf_counter()
    sequence = it.simulation.street(sweeps=sweeps, points=points)
    sequence[0]
    print(
        "the town and the first sweep (kernels compiled or loaded): "
        f"{time.perf_counter() - began:.2f} s"
    )

    rays = sequence.lidar.directions.flatten(0, 1) @ sequence.pose(0)[:3, :3].T
    origins, share = (
        sequence.pose(0)[:3, 3].expand_as(rays).contiguous(),
        torch.linspace(0, 1, len(rays), dtype=torch.float64),
    )
    primitives = sequence.street.primitives(0.0, 0.1)
    seconds = []
    for _ in range(11):
        began = time.perf_counter()
        cast_rays(origins, rays, share, primitives, sequence.lidar.reach)
        seconds.append(time.perf_counter() - began)
    print(
        f"{len(rays)} rays against {len(primitives)} primitives: {1e3 * median(seconds):.0f} ms "
        f"{verdict(median(seconds) < 1, 'well under 1 s')}"
    )

    seconds, points, moving, early = [], 0, 0, 0.0
    for k in range(sweeps):
        began = time.perf_counter()
        sweep = sequence[k]
        seconds.append(time.perf_counter() - began)
        assert sweep.labels is not None
        points, moving = points + len(sweep), moving + int(sweep.labels.dynamic.sum())
        if k == sweeps // 10:
            early = peak()
    print(
        f"{sweeps} sweeps of {points / sweeps:.0f} points with labels: "
        f"{1e3 * median(seconds):.0f} ms a sweep, {100 * moving / points:.1f} % of the points "
        "dynamic"
    )
    print(
        f"peak memory {early:.0f} MiB after a tenth of them, {peak():.0f} MiB after all "
        f"{verdict(peak() < early + 20, 'does not grow')}"
    )


if __name__ == "__main__":
    run_script(main)
