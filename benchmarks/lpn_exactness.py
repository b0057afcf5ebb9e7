"""Learned proximal networks: whether they are proximal operators, and whether iterations converge.

    python benchmarks/lpn_exactness.py [--size 64] [--iterations 200] [--priors lpn-natural,lpn-ct]
                                       [--threads 1]

Measured in float64, for an untrained network of each kind and for trained priors of the catalogue.
**Exactness**: the Jacobian J of the network at a noisy 12x12 crop is symmetric, ``|J - J^T| /
|J|``, and positive semidefinite (its least eigenvalue). No point v of the range is better than the
prox: ``1/2 |v - y|^2 + R(v)`` is compared with its value at the prox, for random v near and far.
**Convergence**: proximal gradient with the step 0.99 / |A|^2, and ADMM with a penalty of |A|^2 /
0.99, 200 iterations of deblurring (Gaussian of width 1, noise 0.02) and CT (parallel beam, noise of
2 %). Printed: the largest increase of the objective (ADMM: of its augmented Lagrangian) as a share
of its total decrease, and the fixed-point residual ``|x - prox(x - A^T(A x - y) / w)| / |x|``. The
power method computes |A| to 1e-7.
"""

from __future__ import annotations

import math
import time

import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.priors import ConvexConvolution, ConvexDense, ConvexPatches, LearnedProximal


def natural(size: int) -> Tensor:
    """Return a crop of a photograph outside the training data, averaged to the size."""
    crop = it.datasets.photograph("camera")[..., 60:316, 140:396].double()
    return torch.nn.functional.adaptive_avg_pool2d(crop, size)


def thorax(size: int) -> Tensor:
    """Return a slice of a patient outside the training data; 0 is -1024 HU and 1 is 1024 HU."""
    import numpy as np

    with np.load(data_folder() / "ct_slices" / "ct_hu_256.npz") as file:
        hu = torch.from_numpy(file["hu"][list(file["patient"]).index("A046441")].astype(np.float64))
    return torch.nn.functional.adaptive_avg_pool2d(
        ((hu + 1024) / 2048).clamp(0, 1)[None, None], size
    )


def untrained() -> dict[str, LearnedProximal]:
    return {
        "untrained convolutions": LearnedProximal(
            ConvexConvolution(1, (16, 24, 24), (1, 2, 1), strong_convexity=1e-2).double()
        ),
        "untrained patches": LearnedProximal(
            ConvexPatches(ConvexDense(16, 32, 3, strong_convexity=1e-2), 4, 2).double()
        ),
    }


def exactness(name: str, prior: LearnedProximal, clean: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    y = clean + 0.1 * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: prior.network(v), y)
    assert isinstance(jacobian, Tensor)
    J = jacobian.reshape(y.numel(), -1)
    skew = float((J - J.T).norm() / J.norm())
    eigenvalues = torch.linalg.eigvalsh((J + J.T) / 2)
    x, energy = prior.prox_and_energy(y, 1.0)
    best = energy + 0.5 * (x - y).square().sum()
    worst = math.inf
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        others = y + scale * torch.randn(
            250, *clean.shape[1:], generator=generator, dtype=torch.float64
        )
        v, R = prior.prox_and_energy(others, 1.0)
        worst = min(worst, float((R + 0.5 * (v - y).flatten(1).square().sum(1) - best).min()))
    print(
        f"{name:24} |J - J^T| / |J| {skew:.1e}, eigenvalues {float(eigenvalues[0]):.1e} to "
        f"{float(eigenvalues[-1]):.3f}, the best of 1,000 points is worse by {worst:.1e} "
        f"{verdict(skew <= 1e-5 and float(eigenvalues[0]) >= -1e-8 and worst >= -1e-9, '1e-5, positive semidefinite, none better')}",
        flush=True,
    )


def convergence(
    name: str, prior: LearnedProximal, size: int, iterations: int, clean: Tensor
) -> None:
    profile = torch.exp(-0.5 * torch.arange(-4, 5, dtype=torch.float64) ** 2)
    kernel = torch.outer(profile, profile)
    scan = it.operators.ParallelBeam(
        (size, size), torch.arange(size) * (math.pi / size), int(1.5 * size)
    )
    for what, A, noise in (
        ("deblurring", it.operators.Blur(kernel / kernel.sum(), (size, size)), 0.02),
        ("CT", scan, 0.02 * float(scan(clean).square().mean().sqrt())),
    ):
        y = A.simulate(clean, noise, seed=0)
        problem = it.Problem(y, A)
        norm = float(A.norm(dtype=torch.float64, tolerance=1e-7, max_iterations=1000))
        weight = norm**2 / 0.99
        start = y if what == "deblurring" else A.pseudo_inverse(y)
        for solver in (it.solvers.ProximalGradient(), it.solvers.ADMM()):
            began = time.perf_counter()
            solution = it.solve(
                problem,
                prior,
                solver,
                regularization=weight,
                initial=start,
                max_iterations=iterations,
                tolerance=0.0,
                progress=False,
            )
            seconds = time.perf_counter() - began
            objective = solution.history["objective"][:, 0]
            objective = objective[~objective.isnan()]
            rise = float(objective.diff().max() / (objective[0] - objective.min()))
            x = solution.x
            missed = float((x - prior.prox(x - A.adjoint(A(x) - y) / weight)).norm() / x.norm())
            print(
                f"{name:24} {what:10} {type(solver).__name__:16} rises by {max(rise, 0.0):.1e} at "
                f"most, fixed-point residual {missed:.1e}, {float(it.metrics.psnr(x, clean)):.2f} "
                f"dB, {seconds:.1f} s "
                f"{verdict(rise <= 1e-10 and missed < 1e-5, 'never rises, below 1e-5')}",
                flush=True,
            )


def main(
    size: int = 64,
    iterations: int = 200,
    priors: str = "lpn-natural,lpn-natural-0.1,lpn-ct",
    threads: int = 1,
) -> None:
    """Run the benchmark.

    Args:
        priors: trained priors of the catalogue
    """
    torch.set_num_threads(threads)
    print(machine())
    pictures = {"natural": natural, "ct": thorax}
    for name, prior in untrained().items():
        exactness(name, prior, natural(12))
        convergence(name, prior, size, iterations, natural(size))
    for name in filter(None, priors.split(",")):
        trained = it.priors.load(name).to(torch.float64)
        assert isinstance(trained, LearnedProximal)
        picture = next(make for key, make in pictures.items() if key in name)
        exactness(name, trained, picture(12))
        convergence(name, trained, size, iterations, picture(size))


if __name__ == "__main__":
    run_script(main)
