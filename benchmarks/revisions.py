"""Compare the speed of two checkouts of the toolbox: projectors, Gaussian renderer, batch, import.

    python benchmarks/revisions.py /path/to/another/checkout

Each round starts one process per checkout, alternating; a process times every case and prints its
medians. The table shows the seconds of both and the median of the ratios of the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 5
HERE = Path(__file__).resolve().parents[1]


def cases() -> dict[str, Callable[[], object]]:
    """Return the timed calls, which use only names that both checkouts have."""
    import torch

    import invtoolbox as it

    geometry = it.geometry if hasattr(it, "geometry") else it.scenes
    generator = torch.Generator().manual_seed(0)
    angles = torch.arange(360) * (2 * torch.pi / 360)
    fan = it.operators.FanBeam((256, 256), angles, 600, 500.0, 800.0)
    parallel = it.operators.ParallelBeam((256, 256), angles[:180], 400)
    cone = it.operators.ConeBeam((64, 64, 64), angles[::8], (96, 96), 200.0, 300.0, 1.0, 1.0)
    x, volume = torch.rand(1, 1, 256, 256, generator=generator), torch.rand(1, 1, 64, 64, 64)
    y, panel, rays = fan(x), cone(volume), parallel(x)
    points = torch.rand(1, 20_000, 3, generator=generator) - 0.5
    colors = torch.rand(1, 20_000, 3, generator=generator)
    splats = geometry.Splats.of_points(points, colors, 0.01, 0.5)
    place = torch.tensor([[0.0, 0.0, -2.0]])
    renderer = it.operators.GaussianRenderer(geometry.look_at(place, size=(256, 256)))
    free = geometry.Splats(
        *(getattr(splats, n).clone().requires_grad_() for n in splats.__dataclass_fields__)
    )
    truths = torch.rand(8, 1, 64, 64, generator=generator)
    blur = it.operators.Blur(torch.ones(5, 5) / 25, (64, 64))
    problem = it.Problem(blur(truths), blur, it.data_terms.LeastSquares(noise_std=0.01))
    tv = it.priors.TotalVariation()

    def solve() -> object:
        return it.solve(problem, tv, it.solvers.PDHG(), 0.1, max_iterations=40, progress=False)

    def backward() -> None:
        renderer(free).sum().backward()

    return {
        "fan beam 256, 360 views": lambda: fan(x),
        "its adjoint": lambda: fan.adjoint(y),
        "parallel beam 256, FBP": lambda: parallel.pseudo_inverse(rays),
        "cone beam 64, 45 views": lambda: cone(volume),
        "its adjoint, 3D": lambda: cone.adjoint(panel),
        "20,000 Gaussians at 256x256": lambda: renderer(splats),
        "with every derivative": backward,
        "TV of a batch of 8, 40 steps": solve,
    }


def measure() -> None:
    began = time.perf_counter()
    import invtoolbox  # noqa: F401

    found = {"import": time.perf_counter() - began}
    import torch

    torch.set_num_threads(1)
    for name, call in cases().items():
        call()
        times = []
        for _ in range(9):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        found[name] = statistics.median(times)
    print(json.dumps(found))


def run(checkout: Path) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--measure"]
    done = subprocess.run(
        command, env=environment, cwd=checkout, capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    if "--measure" in sys.argv:
        measure()
        return
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    other = Path(sys.argv[1]).resolve()
    run(HERE), run(other)  # compiles the kernels
    rounds = [(run(HERE), run(other)) for _ in range(ROUNDS)]
    print(f"1 thread, {ROUNDS} rounds, load average {os.getloadavg()[0]:.2f}")
    print(f"{'':32}{'this, s':>10}{'other, s':>10}{'ratio':>8}")
    for name in rounds[0][0]:
        ours, theirs = (statistics.median(r[k][name] for r in rounds) for k in (0, 1))
        ratio = statistics.median(r[0][name] / r[1][name] for r in rounds)
        print(f"{name:32}{ours:>10.4f}{theirs:>10.4f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
