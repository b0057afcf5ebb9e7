"""Dynamic series with priors of low rank: missing entries, and k-space with few samples.

    python benchmarks/series.py [--iterations 100] [--only entries|k-space|factors]

A cine of a heart, 184 x 256 pixels, range 0 to 1. Entries: 10 and 30 % of the pixels of 30 frames
are known exactly; every missing pixel gets the mean of the known frames of its place, or a series
of least `TubalNuclearNorm`, or of least `NuclearNorm` (the Casorati matrix). k-space: the 29 masks
of the data, 6 % of the samples of every frame, known exactly for the priors of low rank; total
variation treats every frame alone, with the best of four weights by the truth. Printed are PSNRs of
the moduli and seconds of processor time.

Factors: four symmetric tensors of 10 x 10 x 4 entries and tubal rank 2 from their products with
random symmetric tensors, by `TubalFactors` and gradient descent with a fixed step. The first size
of the factors is small, or goes from 0.1 to 1e-6, and a slope is the slope of the logarithm of the
error against the logarithm of the size. The symmetric tensors have 210 free entries: 285 products
determine them all, and gradient descent without a prior finds the tensors too, if slowly; 150
products do not. Completion: the cine from 10 and 30 % of its pixels, by factors and Adam. Printed
are relative errors and PSNRs.
"""

from __future__ import annotations

import math
import time
from typing import Literal

import torch
from common import data_folder, machine, run_script, verdict
from scipy.io import loadmat
from torch import Tensor

import invtoolbox as it
from invtoolbox.priors import NuclearNorm, TotalVariation, TubalFactors, TubalNuclearNorm

FOLDER = data_folder() / "cine_acdc_demo"


def psnr(x: Tensor, reference: Tensor) -> float:
    return float(-10 * torch.log10((x.abs() - reference.abs()).square().mean()))


def exactly(y: Tensor, A: it.operators.LinearOperator, prior: it.Prior, iterations: int) -> Tensor:
    problem = it.Problem(y, A, it.data_terms.Exact())
    return it.solve(
        problem,
        prior,
        it.solvers.PDHG(),
        regularization=1.0,
        max_iterations=iterations,
        progress=False,
    ).x


def known_entries(share: float) -> tuple[Tensor, Tensor, it.operators.LinearOperator]:
    """Return the cine, the mask of a share of its pixels, and the operator of the mask."""
    pixels = torch.from_numpy(loadmat(FOLDER / "demo_data.mat")["demo_data"]) / 255
    x = pixels.movedim(-1, 0)[None]
    drawn = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0))
    mask = (drawn < share).float()
    return x, mask, it.operators.Inpainting(mask, tuple(mask.shape))


def entries(iterations: int) -> None:
    for share, bar in ((0.1, 27.5), (0.3, 33.5)):
        x, mask, A = known_entries(share)
        y = A(x)
        mean = (x[0] * mask).sum(0) / mask.sum(0).clamp_min(1)
        print(f"{share:.0%} of the entries: means {psnr(torch.where(mask > 0, x, mean), x):.2f} dB")
        for prior in (TubalNuclearNorm(), NuclearNorm()):
            began = time.process_time()
            found = psnr(exactly(y, A, prior, iterations), x)
            print(
                f"  {prior}: {found:.2f} dB, {time.process_time() - began:.0f} s",
                verdict(found >= bar, f"{bar} dB") if isinstance(prior, TubalNuclearNorm) else "",
                flush=True,
            )


def k_space(iterations: int) -> None:
    pixels = torch.from_numpy(loadmat(FOLDER / "demo_data.mat")["demo_data"])[..., 1:] / 255
    x = pixels.movedim(-1, 0)[None, None].to(torch.complex64)
    mask = torch.from_numpy(loadmat(FOLDER / "mask_seq.mat")["sampling_mask_seq"]).movedim(-1, 0)
    A = it.operators.CartesianMRI(mask, tuple(x.shape[1:]), axes=2)
    y = A(x)
    print(
        f"{float(mask.float().mean()):.1%} of k-space: zero-filled {psnr(A.adjoint(y), x):.2f} dB"
    )
    frames = it.operators.CartesianMRI(mask[:, None].contiguous(), tuple(x.shape[3:]))
    problem = it.Problem(y[0].movedim(1, 0).contiguous(), frames)
    best = -torch.inf
    for weight in (3e-4, 1e-3, 3e-3, 1e-2):
        tv = it.solve(
            problem,
            TotalVariation(),
            regularization=weight,
            max_iterations=iterations,
            progress=False,
        ).x
        best = max(best, psnr(tv.movedim(1, 0)[None], x))
    print(f"  total variation per frame: {best:.2f} dB", flush=True)
    for prior in (TubalNuclearNorm(tubes=2, rows=3), NuclearNorm(axis=2)):
        began = time.process_time()
        found = psnr(exactly(y, A, prior, iterations), x)
        print(
            f"  {prior}: {found:.2f} dB, {time.process_time() - began:.0f} s",
            verdict(found >= best + 1, "1 dB above total variation"),
            flush=True,
        )


def draw_tensor(generator: torch.Generator) -> Tensor:
    """Draw ``X * X^T`` with orthonormal tubal columns, 10 x 10 x 4 entries and tubal rank 2."""
    drawn = torch.randn(4, 10, 2, generator=generator, dtype=torch.float64)
    spectrum = torch.linalg.qr(torch.fft.rfft(drawn, dim=0)).Q
    return torch.fft.irfft(spectrum @ spectrum.mH, n=4, dim=0)


def draw_products(count: int, generator: torch.Generator) -> Tensor:
    """Draw symmetric tensors, as the rows of a matrix."""
    rows = torch.randn(count, 4, 10, 10, generator=generator, dtype=torch.float64)
    rows = (rows + rows.mT.roll(-1, 1).flip(1)) / 2
    return rows.flatten(1) / math.sqrt(count)


def factors(iterations: int = 500) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    x = torch.stack([draw_tensor(generator) for generator in generators])
    solver = it.solvers.GradientDescent(step_size=0.1, tolerance=0.0)
    for count in (285, 150):
        matrices = torch.stack([draw_products(count, generator) for generator in generators])
        A = it.as_operator(matrices, (4, 10, 10))
        problem = it.Problem(A(x), A)

        def errors(prior: it.Prior | None, problem: it.Problem = problem) -> Tensor:
            found = it.solve(
                problem, prior, solver, max_iterations=iterations, progress=False, check=False
            ).x
            return (found - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)

        def show(values: Tensor) -> str:
            return f"{values.min():.1e} to {values.max():.1e}"

        began = time.process_time()
        print(
            f"four tensors of tubal rank 2, {count} products, {iterations} iterations: "
            f"without a prior {show(errors(None))}"
        )
        for rank in (10, 50):
            prior = TubalFactors(rank, symmetric=True, scale=1e-7)
            found = errors(prior)
            print(
                f"  {prior}: {show(found)}",
                verdict(bool((found <= 1e-5).all()), "1e-5") if count == 285 else "",
            )
        sizes = (1e-1, 1e-2, 1e-4, 1e-6)
        reached = [errors(TubalFactors(10, symmetric=True, scale=size)) for size in sizes]
        for size, found in zip(sizes, reached):
            print(f"  rank 10, scale {size:g}: {show(found)}")
        slopes = (reached[1] / reached[3]).log10() / 4
        print(
            "  slopes from 1e-2 to 1e-6: " + ", ".join(f"{slope:.2f}" for slope in slopes.tolist()),
            verdict(bool(((slopes >= 0.7) & (slopes <= 1.4)).all()), "0.7 to 1.4")
            if count == 285
            else "",
        )
        print(f"  {time.process_time() - began:.0f} s", flush=True)
    for share in (0.1, 0.3):
        cine, _, mask = known_entries(share)
        prior = TubalFactors(10)
        began = time.process_time()
        found = it.solve(
            it.Problem(mask(cine), mask),
            prior,
            it.solvers.Adam(),
            max_iterations=200,
            progress=False,
        ).x
        print(
            f"{share:.0%} of the entries: {prior}, Adam: {psnr(found, cine):.2f} dB,",
            f"{time.process_time() - began:.0f} s",
            flush=True,
        )


def main(
    iterations: int = 100, only: Literal["entries", "k-space", "factors"] | None = None
) -> None:
    torch.set_num_threads(1)
    print(machine(), flush=True)
    if only in (None, "entries"):
        entries(iterations)
    if only in (None, "k-space"):
        k_space(iterations)
    if only in (None, "factors"):
        factors()


if __name__ == "__main__":
    run_script(main)
