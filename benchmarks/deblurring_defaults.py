"""Deblurring with nothing chosen: TV, a learned proximal network and the shipped denoiser, by name.

    python benchmarks/deblurring_defaults.py [--images 1,2,3] [--again] [--only tv,lpn-natural]

Set12 pictures, Levin's kernels 1 and 4, periodic, noise of 2.55 and 7.65 (of 255). Ours is
``it.reconstruct(y, A, prior=NAME)``: no noise level, no weight, no solver. The best weight of TV is
the best of a grid by the true picture.

The peer is deepinv's PnP-ADMM with KAIR's DnCNN (level 25/255) and the true noise level:
``stepsize = (25 / noise)^2``, for which the denoiser works at its own level, and 24 iterations.
deepinv's example of DPIR presumes a denoiser for many levels; with this network it has 26.8 and
26.6 dB on picture 1 at noise 2.55.

Every result is kept in ``results/deblurring_defaults.json``, and a later call continues from there;
``--again`` computes the named rows anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import Kept, data_folder, kernels, machine, run_script, verdict
from skimage.io import imread
from torch import Tensor

import invtoolbox as it

NOISES = (2.55, 7.65)
KERNELS = (1, 4)
OURS = ("tv", "lpn-natural", "denoiser-natural")
WEIGHTS = tuple(4e-4 * 2 ** (k / 2) for k in range(-2, 11))  # of TV, for 1/2 |A x - y|^2
LEVEL = 25 / 255
RESULTS = Path(__file__).parent / "results"


def main(images: str = "1,2,3", again: bool = False, only: str = "") -> None:
    torch.set_num_threads(1)
    images = [int(k) for k in images.split(",")]
    names = only.split(",") if only else list(rows())
    kept = Kept(RESULTS / "deblurring_defaults.json")
    if again:
        kept.known = {k: v for k, v in kept.known.items() if k.split(",")[0] not in names}
    print(machine())
    table: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for noise in NOISES:
        for number, kernel in zip(KERNELS, kernels(data_folder(), KERNELS)):
            for image in images:
                case = f"kernel {number}, picture {image}, noise {noise}"
                for name in names:
                    found = kept.result(
                        f"{name}, {case}",
                        partial(measured, rows()[name], image, kernel, noise),
                    )
                    table.setdefault((name, noise), []).append(tuple(found))
    report(table)


def rows() -> dict[str, Callable[[Tensor, it.operators.Blur, Tensor, float], Tensor]]:
    """Return the methods ``method(y, A, truth, noise)`` by name."""
    ours = {name: default(name) for name in OURS}
    return {**ours, "best tv": best_tv, "deepinv ADMM": deepinv_admm}


def default(name: str) -> Callable[[Tensor, it.operators.Blur, Tensor, float], Tensor]:
    return lambda y, A, truth, noise: it.reconstruct(y, A, prior=name, progress=False).x


def best_tv(y: Tensor, A: it.operators.Blur, truth: Tensor, noise: float) -> Tensor:
    batch = it.Problem(y.expand(len(WEIGHTS), -1, -1, -1), A)
    found = it.solve(
        batch,
        it.priors.TotalVariation(),
        it.solvers.PDHG(),
        torch.tensor(WEIGHTS),
        progress=False,
    )
    best = int(it.metrics.psnr(found.x, truth.expand_as(found.x)).argmax())
    return found.x[best : best + 1]


def deepinv_admm(y: Tensor, A: it.operators.Blur, truth: Tensor, noise: float) -> Tensor:
    import deepinv

    model = deepinv.optim.ADMM(
        data_fidelity=deepinv.optim.data_fidelity.L2(),
        prior=deepinv.optim.prior.PnP(denoiser=kair()),
        stepsize=(LEVEL / (noise / 255)) ** 2,
        g_param=LEVEL,
        max_iter=24,
    )
    return model(y, physics_of(A))


def kair() -> torch.nn.Module:
    """Return KAIR's DnCNN with the call of a deepinv denoiser, which passes a level."""
    network = it.priors.load_dncnn(data_folder() / "weights" / "kair_dncnn" / "dncnn_25.pth")

    class Fixed(torch.nn.Module):
        def forward(self, x: Tensor, sigma: object = None, **_: object) -> Tensor:
            return network(x.contiguous(memory_format=torch.channels_last))

    network.to(memory_format=torch.channels_last)
    return Fixed()


def physics_of(A: it.operators.Blur) -> torch.nn.Module:
    """Return the same periodic blur as deepinv's `BlurFFT`, which has a closed prox."""
    import deepinv

    shape = A.domain_shape
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    for kernel in (A.kernel, A.kernel.flip(-1, -2)):
        physics = deepinv.physics.BlurFFT(tuple(shape), kernel.reshape(1, 1, *kernel.shape[-2:]))
        if float((physics(x) - A(x)).abs().max()) < 1e-4:
            return physics
    raise SystemExit("deepinv's BlurFFT is not the same operator")


def measured(
    method: Callable[[Tensor, it.operators.Blur, Tensor, float], Tensor],
    image: int,
    kernel: Tensor,
    noise: float,
) -> tuple[float, float]:
    """Return the PSNR and the processor seconds of a method."""
    path = data_folder() / "set12" / f"{image:02d}.png"
    truth = torch.from_numpy(imread(path).astype(np.float32) / 255)[None, None]
    A = it.operators.Blur(kernel, truth.shape[-2:], boundary="periodic")
    y = A.simulate(truth, noise / 255, seed=image)
    began = time.process_time()
    with torch.no_grad():
        x = method(y, A, truth, noise)
    return round(float(it.metrics.psnr(x, truth)), 3), round(time.process_time() - began, 2)


def report(table: dict[tuple[str, float], list[tuple[float, float]]]) -> None:
    means: dict[tuple[str, float], float] = {}
    for (name, noise), values in table.items():
        means[name, noise] = float(np.mean([psnr for psnr, _ in values]))
        scores = ", ".join(f"{psnr:.2f}" for psnr, _ in values)
        seconds = float(np.mean([each for _, each in values]))
        print(f"noise {noise}: {name:16s} {means[name, noise]:.2f} dB ({seconds:.1f} s): {scores}")
    if {name for name, _ in means} < set(rows()):
        return
    for noise in NOISES:
        tv, best = means["tv", noise], means["best tv", noise]
        lpn, ours = means["lpn-natural", noise], means["denoiser-natural", noise]
        peer = means["deepinv ADMM", noise]
        print(
            f"noise {noise}: TV below its best weight {best - tv:+.2f} "
            f"{verdict(best - tv <= 0.3, '0.3 dB')}, LPN over TV {lpn - tv:+.2f} "
            f"{verdict(lpn > tv, 'above')}, denoiser over deepinv {ours - peer:+.2f} "
            f"{verdict(ours - peer >= -0.3, '-0.3 dB')}"
        )


if __name__ == "__main__":
    run_script(main)
