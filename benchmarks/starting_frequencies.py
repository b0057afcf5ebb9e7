"""Frequency of a network of sines from the spectrum of the picture (FreSh), against a search.

    python benchmarks/starting_frequencies.py [--threads 1] [--unseen 10]

Three pictures of Set12 (4, 5 and 6, 128 x 128 pixels at half resolution or cropped) are fitted by
networks of 3 layers of 64 sines, in 160 steps of Adam, at five frequencies of the first layer and
at the frequency that `SineNetwork(frequency="spectrum")` chooses; the best is taken of these six.
Printed are PSNR and processor time. The last row fits a random quarter of the pixels of the first
picture, where the number of measurements limits the frequency, and compares with the frequency that
was chosen for the whole picture.
"""

from __future__ import annotations

import statistics
import time

import torch
from common import data_folder, machine, run_script, verdict
from skimage.io import imread
from torch import Tensor

import invtoolbox as it

FREQUENCIES = (10.0, 30.0, 60.0, 90.0, 120.0)


def unseen_picture(number: int) -> Tensor:
    """Return the middle 128 x 128 pixels of a picture of BSD68."""
    x = torch.from_numpy(imread(data_folder() / "bsd68_gray" / f"test{number:03}.png")).float()
    top, left = ((n - 128) // 2 for n in x.shape)
    return x[None, None, top : top + 128, left : left + 128] / 255


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


def fit_unseen(count: int) -> None:
    """Compare the chosen frequency with plain ones on pictures without a part in the rule."""
    whole = it.operators.Identity((1, 128, 128))
    plain = (30.0, 60.0, 90.0)
    gaps: dict[float, list[float]] = {f: [] for f in plain}
    for number in range(1, 69, 6)[:count]:
        x = unseen_picture(number)
        problem = it.Problem(x, whole)
        pick, _ = choose(problem)
        scores = {f: fit(problem, x, f)[0] for f in sorted({*plain, pick})}
        for f in plain:
            gaps[f].append(scores[pick] - scores[f])
        row = ", ".join(f"{f:g}: {psnr:.2f}" for f, psnr in scores.items())
        print(f"unseen picture {number}, PSNR by frequency: {row}; chosen {pick:g}", flush=True)
    for f, values in gaps.items():
        mean, worst = statistics.mean(values), min(values)
        print(
            f"chosen over {f:g}, {len(values)} unseen pictures: {mean:+.2f} dB in the mean, "
            f"{worst:+.2f} at worst {verdict(mean >= 0, 'not below a plain frequency')}"
        )


def main(threads: int = 1, unseen: int = 0) -> None:
    """Run the benchmark.

    Args:
        threads: number of torch's threads
        unseen: number of pictures of BSD68 that are fitted in place of the others
    """
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    if unseen:
        fit_unseen(unseen)
        return
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
