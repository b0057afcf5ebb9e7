"""Frequency of a network of sines from the spectrum of the picture (FreSh), against a search.

    python benchmarks/starting_frequencies.py [--threads 1]

Three pictures of Set12 (4, 5 and 6, 128 x 128 pixels at half resolution or cropped) are fitted by
networks of 3 layers of 64 sines, in 160 steps of Adam, at five frequencies of the first layer and
at the frequency that `SineNetwork(frequency="spectrum")` chooses; the best is taken of these six.
Printed are PSNR and processor time. The last row fits a random quarter of the pixels of the first
picture, where the number of measurements limits the frequency, and compares with the frequency that
was chosen for the whole picture.
"""

from __future__ import annotations

import time

import torch
from common import data_folder, machine, run_script, verdict
from skimage.io import imread
from torch import Tensor

import invtoolbox as it

FREQUENCIES = (10.0, 30.0, 60.0, 90.0, 120.0)


def picture(number: int) -> Tensor:
    x = torch.from_numpy(imread(data_folder() / "set12" / f"{number:02}.png")).float() / 255
    x = x[None, None]
    return (torch.nn.functional.avg_pool2d(x, 2) if x.shape[-1] > 300 else x)[..., :128, :128]


def network(frequency: float | str) -> it.priors.SineNetwork:
    return it.priors.SineNetwork(64, 3, frequency)  # type: ignore[arg-type]


def fit(problem: it.Problem, truth: Tensor, frequency: float) -> tuple[float, float]:
    """Return PSNR and seconds of a fit."""
    began = time.process_time()
    solution = it.solve(
        problem,
        network(frequency),
        it.solvers.Adam(learning_rate=1e-3),
        max_iterations=160,
        progress=False,
    )
    return float(it.metrics.psnr(solution.x, truth)), time.process_time() - began


def choose(problem: it.Problem) -> tuple[float, float]:
    """Return the frequency from the spectrum, and the seconds of the choice alone."""
    seconds = []
    for frequency in ("spectrum", 30.0):
        began = time.process_time()
        bound = network(frequency).prepare(problem, it.solve)
        seconds.append(time.process_time() - began)
        if frequency == "spectrum":
            chosen = float(bound.omega[0])
    return chosen, seconds[0] - seconds[1]


def main(threads: int = 1) -> None:
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    truths = {number: picture(number) for number in (4, 5, 6)}
    whole = it.operators.Identity((1, 128, 128))
    choose(it.Problem(truths[4], whole))  # warm-up
    picks = {}
    for number, x in truths.items():
        problem = it.Problem(x, whole)
        pick, spent = choose(problem)
        picks[number] = pick
        found = {f: fit(problem, x, f) for f in sorted({*FREQUENCIES, pick})}
        row = ", ".join(f"{f:g}: {psnr:.2f}" for f, (psnr, _) in found.items())
        own, best = found[pick][0], max(psnr for psnr, _ in found.values())
        share = spent / found[pick][1]
        print(
            f"picture {number}, PSNR by frequency: {row}; chosen {pick:g} in {spent:.2f} s, "
            f"{100 * share:.1f} % of the fit",
            verdict(own >= found[30.0][0] - 0.1, "30's - 0.1 dB"),
            verdict(own >= best - 1, "best - 1 dB"),
            verdict(share <= 0.05, "5 % of the time"),
            flush=True,
        )
    mask = torch.rand(1, 128, 128, generator=torch.Generator().manual_seed(0)) < 0.25
    A = it.operators.Inpainting(mask, (1, 128, 128))
    problem = it.Problem(A(truths[4]), A)
    pick, _ = choose(problem)
    (capped, _), (free, _) = (fit(problem, truths[4], f) for f in (pick, picks[4]))
    print(
        f"a quarter of the pixels of picture 4: chosen {pick:.1f}, {capped:.2f} dB; the frequency "
        f"of the whole picture {picks[4]:g}, {free:.2f} dB"
    )


if __name__ == "__main__":
    run_script(main)
