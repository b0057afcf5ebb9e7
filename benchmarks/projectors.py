"""Projection and back-projection in 2D: ASTRA's CPU projectors, deepinv's `Tomography`, mbirtorch.

Peers and we run in turn in one process, mbirtorch if it is installed, and the median of several
rounds of processor time counts. All run on one thread.

    python benchmarks/projectors.py [--rounds 7] [--no-deepinv]
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from common import machine, run_script, verdict

from invtoolbox.operators import FanBeam, ParallelBeam

Run = Callable[[], object]
#: Images that are projected together, direction, and least ratio of ASTRA's time to ours.
BARS = ((1, "forward", 12), (1, "adjoint", 7), (8, "forward", 30), (8, "adjoint", 22))


def seconds(run: Run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def alternate(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Measure the median processor time of every run: one warm-up, then all in turn."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: statistics.median(values) for name, values in times.items()}


def astra_pair(
    kind: str,
    size: int,
    angles: torch.Tensor,
    detectors: int,
    lengths: tuple[float, ...],
    image: torch.Tensor,
    sinogram: torch.Tensor,
) -> dict[str, Run]:
    import astra

    geometry = "fanflat" if lengths else "parallel"
    projector = astra.create_projector(
        kind,
        astra.create_proj_geom(geometry, 1.0, detectors, angles.numpy(), *lengths),
        astra.create_vol_geom(size, size),
    )
    x, y = image[0, 0].numpy(), sinogram[0, 0].numpy()

    def forward() -> None:
        astra.data2d.delete(astra.create_sino(x, projector)[0])

    def adjoint() -> None:
        astra.data2d.delete(astra.create_backprojection(y, projector)[0])

    return {f"ASTRA {kind} forward": forward, f"ASTRA {kind} adjoint": adjoint}


def ours(A: ParallelBeam | FanBeam, batch: int) -> dict[str, Run]:
    x, y = torch.rand(batch, *A.domain_shape), torch.rand(batch, *A.range_shape)
    return {f"ours x{batch} forward": lambda: A(x), f"ours x{batch} adjoint": lambda: A.adjoint(y)}


def deepinv_pair(size: int, views: int, batch: int) -> dict[str, Run]:
    from deepinv.physics import Tomography

    physics = Tomography(angles=views, img_width=size, circle=False, normalize=False)
    x = torch.rand(batch, 1, size, size)
    y = physics.A(x)
    # Its adjoint and its projector are differentiable torch code; no gradient is needed here.
    return {
        f"deepinv x{batch} forward": torch.no_grad()(lambda: physics.A(x)),
        f"deepinv x{batch} adjoint": torch.no_grad()(lambda: physics.A_adjoint(y)),
    }


def mbirtorch_pair(size: int, angles: torch.Tensor, detectors: int) -> dict[str, Run]:
    import mbirtorch

    model = mbirtorch.ParallelBeamModel((len(angles), 1, detectors), angles)
    model.set_params(recon_shape=(size, size, 1))
    x, y = torch.rand(size, size, 1), torch.rand(len(angles), 1, detectors)
    return {
        "mbirtorch forward": lambda: model.forward_project(x),
        "mbirtorch adjoint": lambda: model.back_project(y),
    }


def report(name: str, times: dict[str, float], peers: dict[str, int]) -> None:
    """Print times per image, and the ratio of each peer's forward plus adjoint to ours."""
    print(f"\n{name}")

    def pair(method: str, batch: int) -> tuple[float, float, float]:
        forward, adjoint = (
            1e3 * times[f"{method} {way}"] / batch for way in ("forward", "adjoint")
        )
        print(f"  {method:20s} forward {forward:8.2f} ms   adjoint {adjoint:8.2f} ms   an image")
        return forward, adjoint, forward + adjoint

    theirs = {method: pair(method, batch) for method, batch in peers.items()}
    for batch in (1, 8):
        mine = pair(f"ours x{batch}", batch)
        for method, other in theirs.items():
            print(
                f"    {method} / ours x{batch}: forward {other[0] / mine[0]:.1f}, adjoint "
                f"{other[1] / mine[1]:.1f}, both {other[2] / mine[2]:.1f}"
            )


def first_call() -> str:
    """Measure the first projection and back-projection of a fresh process.

    The kernels are compiled in the first measurement, and cached in the second.
    """
    code = (
        "import time, torch, invtoolbox as it\nA = it.operators.ParallelBeam((64, 64), "
        "torch.arange(10) * 0.3, 91)\nt = time.perf_counter(); A.adjoint(A(torch.rand(1, 1, 64, "
        "64))); print(time.perf_counter() - t)"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"WARP_CACHE_PATH": cache}
        times = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for _ in range(2)
        ]
    return (
        f"{times[0]:.2f} s (compiles the kernels, once per machine), {times[1]:.2f} s in a later "
        "process"
    )


def peak_memory(size: int, views: int, detectors: int) -> str:
    """Measure the memory of one projection and back-projection beyond input and output."""
    code = (
        "import resource, torch, invtoolbox as it\n"
        "torch.set_num_threads(2)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        f"def scan(n, v, d):\n"
        "    A = it.operators.ParallelBeam((n, n), torch.arange(v) * 3.14159 / v, d)\n"
        "    x = torch.rand(1, 1, n, n); y = A(x); b = A.adjoint(y)\n"
        "    return (x.numel() + y.numel() + b.numel()) * 4 / 2**20\n"
        "scan(64, 10, 91); before = peak()\n"
        f"held = scan({size}, {views}, {detectors}); print(peak() - before - held, held)"
    )
    extra, held = map(
        float,
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split(),
    )
    return f"{extra:.0f} MB beyond input and output ({held:.0f} MB)"


def main(rounds: int = 7, deepinv: bool = True) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    print(f"first call: {first_call()}")
    print(f"memory at 512x512, 360 views, 725 cells: {peak_memory(512, 360, 725)}")

    for size, views, detectors in ((256, 180, 384), (512, 360, 725)):
        angles = torch.arange(views, dtype=torch.float64) * math.pi / views
        A = ParallelBeam((size, size), angles, detectors)
        x, y = torch.rand(1, *A.domain_shape), torch.rand(1, *A.range_shape)
        runs = astra_pair("linear", size, angles, detectors, (), x, y) | ours(A, 1) | ours(A, 8)
        times = alternate(runs, rounds)
        report(
            f"parallel beam {size}x{size}, {views} views, {detectors} cells",
            times,
            {"ASTRA linear": 1},
        )
        if size == 256:
            for batch, way, least in BARS:
                ratio = batch * times[f"ASTRA linear {way}"] / times[f"ours x{batch} {way}"]
                bar = f"x{batch} {way} at least {least} times as fast as ASTRA"
                print(f"    {ratio:.1f} {verdict(ratio >= least, bar)}")

    angles = torch.arange(180, dtype=torch.float64) * math.pi / 90
    fan = FanBeam((256, 256), angles, 640, 600.0, 900.0)
    x, y = torch.rand(1, *fan.domain_shape), torch.rand(1, *fan.range_shape)
    runs = (
        astra_pair("line_fanflat", 256, angles, 640, (600.0, 300.0), x, y)
        | ours(fan, 1)
        | ours(fan, 8)
    )
    report(
        "fan beam 256x256, 180 views, 640 cells",
        alternate(runs, rounds),
        {"ASTRA line_fanflat": 1},
    )

    if deepinv:
        # deepinv's detector has one cell per pixel of the padded image: 363 at 256x256.
        angles = torch.arange(180, dtype=torch.float64) * math.pi / 180
        A = ParallelBeam((256, 256), angles, 363)
        runs = deepinv_pair(256, 180, 1) | deepinv_pair(256, 180, 8) | ours(A, 1) | ours(A, 8)
        times = alternate(runs, max(3, rounds // 2))
        report(
            "parallel beam 256x256, 180 views, 363 cells", times, {"deepinv x1": 1, "deepinv x8": 8}
        )
        angles = torch.arange(360, dtype=torch.float64) * math.pi / 360
        A = ParallelBeam((512, 512), angles, 725)
        runs = deepinv_pair(512, 360, 1) | ours(A, 1) | ours(A, 8)
        peers = {"deepinv x1": 1}
        if find_spec("mbirtorch") is not None:
            runs, peers = runs | mbirtorch_pair(512, angles, 725), peers | {"mbirtorch": 1}
        report("parallel beam 512x512, 360 views, 725 cells", alternate(runs, 3), peers)
    print(
        "\npeak memory of this process "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB; load average "
        f"{os.getloadavg()[0]:.2f}"
    )


if __name__ == "__main__":
    run_script(main)
