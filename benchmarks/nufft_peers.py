"""Non-uniform Fourier transform of eight coils: time and accuracy against finufft.

    python benchmarks/nufft_peers.py [--size 256] [--rounds 15]

Radial (64 golden-angle spokes of 2 x size samples) and spiral (16 interleaves) trajectories, forward
and adjoint with the coil maps, complex64, one thread, plans of finufft reused. finufft's time is that
of the faster of its oversampling factors, 1.25 and 2, with the tolerance 1e-5, whose error is that of
our default kernel. Calls alternate; times are processor seconds, median of the rounds. Errors are
relative to the exact sum at 200 samples of one coil.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import machine, run_script, verdict
from torch import Tensor

from invtoolbox.operators import NonUniformFourier, radial_trajectory, spiral_trajectory

COILS, TOLERANCE = 8, 1e-5


def main(size: int = 256, rounds: int = 15, threads: int = 1) -> None:
    """Print one row per trajectory and direction.

    Args:
        size: number of rows and columns of the image
        rounds: number of rounds
        threads: number of torch's threads, and of finufft's
    """
    import finufft

    torch.set_num_threads(threads)
    print(f"{machine()}; finufft {finufft.__version__}, {rounds} rounds")
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.complex64, generator=draw)

    for name, k in (
        ("radial", radial_trajectory(size, spokes=64)),
        ("spiral", spiral_trajectory(size, interleaves=16)),
    ):
        maps, x = noise(COILS, size, size), noise(1, 1, size, size)
        A = NonUniformFourier(k, (size, size), maps)
        y = A(x)
        peers = [Peer(finufft, k, maps, factor, threads) for factor in (1.25, 2.0)]
        rows: dict[str, list[Callable[[], Any]]] = {
            "forward": [partial(A, x), *(partial(p.forward, x) for p in peers)],
            "adjoint": [partial(A.adjoint, y), *(partial(p.adjoint, y) for p in peers)],
        }
        for direction, calls in rows.items():
            ours, *theirs = medians(calls, rounds)
            ratio = ours / min(theirs)
            print(
                f"{name}, {k.numel() // 2} samples, {direction}: {1e3 * ours:.1f} ms, finufft "
                f"{1e3 * theirs[0]:.1f} ms (oversampling 1.25) and {1e3 * theirs[1]:.1f} ms (2), "
                f"ratio {ratio:.2f} " + verdict(ratio <= 1.2, "1.2"),
                flush=True,
            )
        few = torch.arange(0, k.numel() // 2, k.numel() // 400)
        exact = exact_sum(k.reshape(-1, 2)[few], (maps[0] * x[0, 0]).to(torch.complex128))
        errors = [
            float((values.reshape(COILS, -1)[0][few] - exact).norm() / exact.norm())
            for values in (y, *(torch.from_numpy(p.forward(x)) for p in peers))
        ]
        print(
            f"{name}: error against the exact sum {errors[0]:.1e}, finufft {errors[1]:.1e} and "
            f"{errors[2]:.1e}"
        )


class Peer:
    """finufft's transform of all coils, its plans made once."""

    def __init__(self, finufft: Any, k: Tensor, maps: Tensor, factor: float, threads: int) -> None:
        size = maps.shape[-1]
        self.maps, self.scale = maps.numpy(), 1 / size
        points = [(2 * math.pi / size * k[..., a]).reshape(-1).numpy() for a in (0, 1)]
        self.plans = []
        for kind, sign in ((2, -1), (1, 1)):
            plan = finufft.Plan(
                kind,
                (size, size),
                n_trans=COILS,
                eps=TOLERANCE,
                isign=sign,
                dtype="complex64",
                nthreads=threads,
                upsampfac=factor,
            )
            plan.setpts(*points)
            self.plans.append(plan)

    def forward(self, x: Tensor) -> np.ndarray:
        return self.plans[0].execute(self.maps * x[0].numpy()) * self.scale

    def adjoint(self, y: Tensor) -> np.ndarray:
        images = self.plans[1].execute(y.reshape(COILS, -1).numpy())
        return (self.maps.conj() * images).sum(0) * self.scale


def medians(calls: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the median processor time of every call, which alternate."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, seconds in zip(calls, times):
            began = time.process_time()
            call()
            seconds.append(time.process_time() - began)
    return [statistics.median(seconds[1:]) for seconds in times]


def exact_sum(k: Tensor, x: Tensor) -> Tensor:
    """Return the transform of one image at some samples, in complex128."""
    size = x.shape[-1]
    place = torch.arange(size, dtype=torch.float64) - size // 2
    rows, columns = (
        torch.exp(-2j * math.pi / size * k[:, a].double().unsqueeze(1) * place) for a in (0, 1)
    )
    return torch.einsum("mr,rc,mc->m", rows, x, columns) / size


if __name__ == "__main__":
    run_script(main)
