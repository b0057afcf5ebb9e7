"""CT with a learned prior: the paper's scan of unseen thorax slices, methods at their best weight.

After Fang, Buchanan & Sulam (ICLR 2024), section 5: 256x256 pixels of side 1, parallel beam, 200
angles by 400 bins, noise of standard deviation 2.0 on line integrals of images in [0, 1] (here
-1024 to 1024 HU). Slices of the patients A046441, A048383, A056642 and A058062, two each; no prior
of the catalogue was trained on them.

    python benchmarks/lpn_ct.py [--prior lpn-ct] [--slices 8] [--only TV,LPN] [--threads 2]
                                [--gallery ct.png]

Rows: FBP without a window, TV (PDHG), LPN (ADMM), and graphLa over the pictures of TV and of LPN. A
method has one weight for all slices, with the best mean PSNR by the true slices: factors of 2 until
the best lies inside, then the root of 2 to either side. PSNR has peak 1. Every answer is clipped to
[0, 1], as in the paper; FBP is shown with and without clipping. The weight of LPN is ``noise^2 /
sigma^2`` times a number near 1. The theorem needs a weight above ``|A|^2``, at which the prior
outweighs the measurements, as the last row shows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it

PATIENTS = ("A046441", "A048383", "A056642", "A058062")
NOISE = 2.0

Method = Callable[[float], Tensor]


def slices(count: int) -> Tensor:
    """Read the slices, ``(count, 1, 256, 256)``, one of each patient first."""
    with np.load(data_folder() / "ct_slices" / "ct_hu_256.npz") as file:
        hu, patient = file["hu"], list(file["patient"])
    places = [patient.index(name) + k for k in range(2) for name in PATIENTS]
    chosen = torch.from_numpy(hu[places[:count]].astype(np.float32))[:, None]
    return ((chosen + 1024) / 2048).clamp(0, 1)


def score(x: Tensor, truth: Tensor) -> float:
    return float(it.metrics.psnr(x.clamp(0, 1), truth).mean())


def best(
    method: Method, truth: Tensor, first: float, factor: float = 2.0, refine: int = 1
) -> tuple[float, Tensor, float]:
    """Search the weight with the best mean PSNR; return it, its pictures, and seconds per call."""
    began = time.perf_counter()
    tried: dict[float, Tensor] = {}

    def at(weight: float) -> float:
        if weight not in tried:
            tried[weight] = method(weight)
        return score(tried[weight], truth)

    weights = [first / factor, first, factor * first]
    while (place := max(range(len(weights)), key=lambda k: at(weights[k]))) in (
        0,
        len(weights) - 1,
    ):
        weights = (
            [weights[0] / factor, *weights] if place == 0 else [*weights, factor * weights[-1]]
        )
    centre = weights[place]
    for _ in range(refine):
        factor = math.sqrt(factor)
        centre = max((centre / factor, centre, centre * factor), key=at)
    return centre, tried[centre], (time.perf_counter() - began) / len(tried)


def methods(
    problem: it.Problem, prior: it.priors.LearnedProximal, iterations: int
) -> dict[str, tuple[Method, float]]:
    """Return TV and LPN as functions of the weight, and a weight to start from."""

    def tv(weight: float) -> Tensor:
        return it.solve(
            problem,
            it.priors.TotalVariation(),
            it.solvers.PDHG(),
            regularization=weight,
            max_iterations=300,
            tolerance=1e-3,
            progress=False,
        ).x

    def lpn(weight: float) -> Tensor:
        start = problem.operator.pseudo_inverse(problem.y)  # type: ignore[attr-defined]
        return it.solve(
            problem,
            prior,
            it.solvers.ADMM(inner_iterations=6),
            regularization=weight,
            initial=start,
            max_iterations=iterations,
            tolerance=1e-4,
            progress=False,
        ).x

    return {"TV": (tv, 28.0), "LPN": (lpn, 0.7 * NOISE**2 / prior.sigma**2)}


def over(problem: it.Problem, guess: Tensor) -> tuple[Method, float]:
    """Return graphLa as a function of the weight, with the graph of a picture.

    The search starts from the weight of the discrepancy principle. With this much noise, neighbours
    in the guess differ by more than the default scale of intensities, and wide windows average over
    the little contrast that it has. Of radii 1 to 4 and scales 1e-4 to 1e-2 these two were the best
    on two slices.
    """
    graph = it.priors.GraphLaplacian(first=guess, radius=1, intensity_scale=1e-2)
    known = it.Problem(problem.y[:1], problem.operator, it.data_terms.LeastSquares(noise_std=NOISE))
    chosen = it.solve(
        known,
        it.priors.GraphLaplacian(first=guess[:1], radius=1, intensity_scale=1e-2),
        progress=False,
    ).regularization

    def graph_laplacian(weight: float) -> Tensor:
        return it.solve(problem, graph, regularization=weight, progress=False).x

    return graph_laplacian, float(chosen.mean()) * NOISE**2


def gallery(path: Path, truth: Tensor, rows: dict[str, Tensor]) -> None:
    from matplotlib.figure import Figure

    page = Figure(figsize=(3.2 * (len(rows) + 1), 3.5), layout="constrained")
    shown = {"truth": truth, **rows}
    for axis, (name, x) in zip(page.subplots(1, len(shown)), shown.items()):
        axis.imshow(x[0, 0].numpy(), cmap="gray", vmin=0.2, vmax=0.7)
        axis.set_title(name if x is truth else f"{name}, {score(x[:1], truth[:1]):.1f} dB")
        axis.set_axis_off()
    page.savefig(path, dpi=100)


def main(
    prior: str = "lpn-ct",
    slices_: int = 8,
    only: str = "TV,LPN,graphLa",
    iterations: int = 20,
    threads: int = 2,
    gallery_: Path | None = None,
) -> None:
    """Run the benchmark.

    Args:
        only: rows in addition to FBP
        iterations: iterations of ADMM with the learned prior
        gallery_: a picture of the first slice by every method
    """
    torch.set_num_threads(threads)
    print(machine())
    truth = slices(slices_)
    A = it.operators.ParallelBeam((256, 256), torch.arange(200) * (math.pi / 200), 400)
    problem = it.Problem(A.simulate(truth, NOISE, seed=list(range(len(truth)))), A)
    learned = it.priors.load(prior)
    assert isinstance(learned, it.priors.LearnedProximal)
    only = only.split(",")

    fbp = A.pseudo_inverse(problem.y)
    bare = float(it.metrics.psnr(fbp, truth).mean())
    print(f"{'FBP':12} {bare:6.2f} dB, clipped {score(fbp, truth):.2f} dB", flush=True)
    rows, scores = {"FBP": fbp}, {}
    for name, (method, first) in methods(problem, learned, iterations).items():
        if name not in only:
            continue
        weight, rows[name], seconds = best(method, truth, first)
        scores[name] = score(rows[name], truth)
        print(
            f"{name:12} {scores[name]:6.2f} dB, weight {weight:.4g}, {seconds:.1f} s for "
            f"{len(truth)} slices",
            flush=True,
        )
        if "graphLa" in only:
            over_it = f"graphLa+{name}"
            refined, chosen = over(problem, rows[name].clamp(0, 1))
            weight, rows[over_it], seconds = best(refined, truth, chosen)
            scores[over_it] = score(rows[over_it], truth)
            print(
                f"{over_it:12} {scores[over_it]:6.2f} dB, weight {weight:.4g}, {seconds:.1f} s for "
                f"{len(truth)} slices",
                flush=True,
            )
    if "LPN" in scores:
        print(
            f"LPN over FBP {scores['LPN'] - bare:.2f} dB "
            f"{verdict(scores['LPN'] - bare >= 10, '10 dB')}"
        )
        if "TV" in scores:
            print(
                f"LPN over TV {scores['LPN'] - scores['TV']:.2f} dB "
                f"{verdict(scores['LPN'] - scores['TV'] >= 0.3, '0.3 dB')}"
            )
        if "graphLa+LPN" in scores:
            better = max(value for name, value in scores.items() if name in ("LPN", "graphLa+TV"))
            print(
                "graphLa+LPN over the better of LPN and graphLa+TV "
                f"{scores['graphLa+LPN'] - better:.2f} dB "
                f"{verdict(scores['graphLa+LPN'] >= better, '0 dB')}"
            )
        inside = it.solve(
            problem,
            it.priors.load(prior),
            it.solvers.ADMM(),
            initial=fbp,
            max_iterations=30,
            progress=False,
        )
        print(
            f"LPN at the least weight of the theorem, {float(inside.regularization[0]):.4g}: "
            f"{score(inside.x, truth):.2f} dB"
        )
    if gallery_:
        gallery(gallery_, truth, rows)


if __name__ == "__main__":
    run_script(main)
