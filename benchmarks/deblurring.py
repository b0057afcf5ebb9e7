"""Deblurring Set12 with Levin's kernels 1 and 4: TV, plug-and-play, and TV of pyproximal.

    python benchmarks/deblurring.py [--images 1,4,8] [--skip-peer]

The noise is 2.55/255. TV has the best weight of a grid by the true picture, plug-and-play (ADMM
with KAIR's DnCNN of level 25/255) one penalty for all pictures. The peer minimizes the same
objective, ``1/2 |A x - y|^2 + weight TV(x)``, isotropic, by pyproximal's primal-dual method with
steps from the same norm. Both run until the objective is within 1e-3 of the best one known.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from common import data_folder, kernels, machine, run_script, verdict
from skimage.io import imread

import invtoolbox as it

NOISE = 2.55 / 255
WEIGHTS = (4e-4, 8e-4, 1.6e-3, 3.2e-3)  # of TV, in units of 1/2 |Ax - y|^2


def main(images: str = "1,2,3,4,5,6,7,8,9,10,11,12", skip_peer: bool = False) -> None:
    torch.set_num_threads(2)
    folder = data_folder()
    print(machine())
    network = it.priors.load_dncnn(folder / "weights" / "kair_dncnn" / "dncnn_25.pth")
    for number, kernel in zip((1, 4), kernels(folder, (1, 4))):
        gains = []
        for image in (int(k) for k in images.split(",")):
            x = torch.from_numpy(
                imread(folder / "set12" / f"{image:02d}.png").astype(np.float32) / 255
            )[None, None]
            A = it.operators.Blur(kernel, x.shape[-2:], boundary="periodic")
            y = A.simulate(x, NOISE, seed=image)
            problem = it.Problem(y, A)
            began = time.perf_counter()
            batch = it.Problem(y.expand(len(WEIGHTS), -1, -1, -1), A)  # the weights are one batch
            tv = it.solve(
                batch,
                it.priors.TotalVariation(periodic=True),
                it.solvers.PDHG(),
                progress=False,
                regularization=torch.tensor(WEIGHTS),
            )
            seconds_tv = (time.perf_counter() - began) / len(WEIGHTS)
            scores = it.metrics.psnr(tv.x, x.expand_as(tv.x))
            best = int(scores.argmax())
            began = time.perf_counter()
            # rho in units of 1/2 |Ax - y|^2: (noise / level)^2, as for the prox of a density.
            pnp = it.solve(
                problem,
                it.priors.Denoiser(network, sigma=25 / 255, level="none"),
                progress=False,
                solver=it.solvers.ADMM(rho=(NOISE / (25 / 255)) ** 2, max_iterations=24),
            )
            seconds_pnp = time.perf_counter() - began
            score = float(it.metrics.psnr(pnp.x, x))
            gains.append(score - float(scores[best]))
            print(
                f"kernel {number}, picture {image:2d}: blurred {float(it.metrics.psnr(y, x)):.2f} "
                f"dB, TV {float(scores[best]):.2f} ({seconds_tv:.1f} s, weight {WEIGHTS[best]:g}), "
                f"PnP {score:.2f} ({seconds_pnp:.1f} s)",
                flush=True,
            )
            if not skip_peer and image == 1:
                compare_with_pyproximal(problem, kernel, x, WEIGHTS[best])
        mean = float(np.mean(gains))
        print(
            f"kernel {number}: PnP over TV {mean:+.2f} dB on average, {min(gains):+.2f} at least "
            f"{verdict(mean >= 1.0, '1.0 dB')}"
        )


def compare_with_pyproximal(
    problem: it.Problem, kernel: torch.Tensor, x: torch.Tensor, weight: float
) -> None:
    """Compare iterations to 1e-3 of the best objective, seconds and PSNR with pyproximal."""
    import pylops
    import pyproximal

    prior = it.priors.TotalVariation(periodic=True)
    y = problem.y[0, 0].numpy()

    def objective(image: np.ndarray) -> float:
        u = torch.from_numpy(image.reshape(1, 1, *y.shape).astype(np.float32))
        return float(
            problem.data_term.value(problem.operator(u), problem.y) + weight * prior.energy(u)
        )

    reference = it.solve(
        problem,
        prior,
        it.solvers.PDHG(),
        regularization=weight,
        tolerance=1e-6,
        max_iterations=4000,
        progress=False,
    ).x
    goal = 1.001 * objective(reference[0, 0].numpy())

    def ours(iterations: int) -> np.ndarray:
        return (
            it.solve(
                problem,
                prior,
                it.solvers.PDHG(),
                regularization=weight,
                tolerance=0,
                max_iterations=iterations,
                progress=False,
            )
            .x[0, 0]
            .numpy()
        )

    class PeriodicBlur(pylops.LinearOperator):
        """Blur by FFT, as pyproximal's users write it."""

        def __init__(self) -> None:
            padded = np.zeros(y.shape, dtype=np.float32)
            padded[: kernel.shape[0], : kernel.shape[1]] = kernel.numpy()
            padded = np.roll(padded, (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1))
            self.transfer = np.fft.rfft2(padded)
            super().__init__(dtype=np.float32, dims=y.shape, dimsd=y.shape)

        def _matvec(self, v: np.ndarray) -> np.ndarray:
            return (
                np.fft.irfft2(self.transfer * np.fft.rfft2(v.reshape(y.shape)), y.shape)
                .ravel()
                .astype(np.float32)
            )

        def _rmatvec(self, v: np.ndarray) -> np.ndarray:
            return (
                np.fft.irfft2(self.transfer.conj() * np.fft.rfft2(v.reshape(y.shape)), y.shape)
                .ravel()
                .astype(np.float32)
            )

    blur = PeriodicBlur()
    gradient = pylops.Gradient(dims=y.shape, kind="forward", edge=False, dtype=np.float32)
    misfit = pyproximal.L2(Op=blur, b=y.ravel(), niter=20, warm=True)
    norm = pyproximal.L21(ndim=2, sigma=weight)
    step = 0.95 / np.sqrt(8.0)

    def peer(iterations: int) -> np.ndarray:
        return pyproximal.optimization.primaldual.PrimalDual(
            misfit,
            norm,
            gradient,
            x0=y.ravel().copy(),
            tau=step * 10,
            mu=step / 10,
            theta=1.0,
            niter=iterations,
        ).reshape(y.shape)

    for name, run in (("ours", ours), ("pyproximal", peer)):
        for iterations in (10, 20, 40, 80, 160, 320, 640, 1280):
            began = time.perf_counter()
            image = run(iterations)
            seconds = time.perf_counter() - began
            if objective(image) <= goal:
                break
        score = float(it.metrics.psnr(torch.from_numpy(image)[None, None].float(), x))
        print(
            f"  {name:10s}: {iterations} iterations, {seconds:.2f} s, objective / best "
            f"{objective(image) / goal * 1.001:.5f}, {score:.3f} dB",
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
