"""Dynamic series with priors of low rank: missing entries, and k-space with few samples.

    python benchmarks/series.py [--iterations 100] [--only entries|k-space]

A cine of a heart, 184 x 256 pixels, range 0 to 1. Entries: 10 and 30 % of the pixels of 30 frames
are known exactly; every missing pixel gets the mean of the known frames of its place, or a series
of least `TubalNuclearNorm`, or of least `NuclearNorm` (the Casorati matrix). k-space: the 29 masks
of the data, 6 % of the samples of every frame, known exactly for the priors of low rank; total
variation treats every frame alone, with the best of four weights by the truth. Printed are PSNRs of
the moduli and seconds of processor time.
"""

from __future__ import annotations

import argparse
import time

import torch
from common import data_folder, machine, verdict
from scipy.io import loadmat
from torch import Tensor

import invtoolbox as it
from invtoolbox.priors import NuclearNorm, TotalVariation, TubalNuclearNorm

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


def entries(iterations: int) -> None:
    pixels = torch.from_numpy(loadmat(FOLDER / "demo_data.mat")["demo_data"]) / 255
    x = pixels.movedim(-1, 0)[None]
    for share, bar in ((0.1, 27.5), (0.3, 33.5)):
        drawn = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0))
        mask = (drawn < share).float()
        A = it.operators.Inpainting(mask, tuple(mask.shape))
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--only", choices=("entries", "k-space"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), flush=True)
    if arguments.only != "k-space":
        entries(arguments.iterations)
    if arguments.only != "entries":
        k_space(arguments.iterations)


if __name__ == "__main__":
    main()
