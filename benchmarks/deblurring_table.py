"""The deblurring table: every prior that deblurs, on Set12 with Levin's kernels 1 and 4 and three noise levels.

    python benchmarks/deblurring_table.py [--images 1,4] [--kernels 1,4] [--noises 2.55] [--methods TV,PnP] [--full] [--device cuda]

Blur is periodic, as in the plug-and-play literature; noise is white, in units of 1/255; PSNR has peak 1. ``--full`` takes
all 8 kernels and adds BSD68, which is for a GPU. Every finished cell is kept in ``results/deblurring_table.json``, so the
table may be made in pieces: a later call skips what is there (``--again`` does not). The table is printed and written to
``results/deblurring_table.md``: the mean over the pictures that are finished, and how many these are.

How the weights are chosen, with the noise level known: SURE for Tikhonov (squared differences), TV, Huber-TV, TGV and
wavelets; the discrepancy principle for graphLa+TV, as its paper has it. PnP is ADMM with KAIR's DnCNN of level 25/255 and the
penalty (noise / level)^2, that of a density's prox; RED is gradient descent with the same network and the weight
1 / level^2, that of a density's score, 100 steps. Neither has a weight that was tuned.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, kernels, machine
from skimage.io import imread
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets.output import write_bytes

NOISES = (2.55, 7.65, 12.75)
LEVEL = 25 / 255
RESULTS = Path(__file__).parent / "results"

Method = Callable[[it.Problem, float], it.Solution]


def by_sure(prior: it.priors.ExplicitPrior) -> Method:
    return lambda problem, noise: it.solve(problem, prior, regularization=it.parameter_choice.SURE(points=5, sections=3), progress=False)


def methods(folder: Path, device: str) -> dict[str, Method]:
    network = it.priors.load_dncnn(folder / "weights" / "kair_dncnn" / "dncnn_25.pth").to(device)

    def plug_and_play(problem: it.Problem, noise: float) -> it.Solution:
        prior = it.priors.Denoiser(network, sigma=LEVEL, level="none")
        bare = it.Problem(problem.y, problem.operator)
        solver = it.solvers.ADMM(rho=(noise / LEVEL) ** 2, max_iterations=24)
        return it.solve(bare, prior, solver, progress=False)

    def red(problem: it.Problem, noise: float) -> it.Solution:
        prior = it.priors.Denoiser(network, sigma=LEVEL, level="none", trained_level=LEVEL, rescale=True)
        # The misfit bends by 1 / noise^2 at most, and x - D(x) by less than 2.
        solver = it.solvers.GradientDescent(step_size=1 / (noise**-2 + 2 * LEVEL**-2), max_iterations=100)
        return it.solve(problem, prior, solver, regularization=LEVEL**-2, progress=False)

    return {
        "Tikhonov": by_sure(it.priors.Tikhonov("gradient")),
        "TV": by_sure(it.priors.TotalVariation(periodic=True)),
        "Huber-TV": by_sure(it.priors.HuberTV(0.02, periodic=True)),
        "TGV": by_sure(it.priors.TotalGeneralizedVariation()),
        "wavelet l1": by_sure(it.priors.WaveletL1()),
        "graphLa+TV": lambda problem, noise: it.solve(problem, it.priors.GraphLaplacian(first="tv"), progress=False),
        "PnP": plug_and_play,
        "RED": red,
    }


def pictures(folder: Path, full: bool, chosen: list[int] | None) -> dict[str, Path]:
    found = {f"set12 {int(path.stem)}": path for path in sorted((folder / "set12").glob("*.png"))
             if chosen is None or int(path.stem) in chosen}
    if full:
        found |= {f"bsd68 {path.stem}": path for path in sorted((folder / "bsd68_gray").glob("*.png"))}
    return found


def cell(path: Path, kernel: Tensor, noise: float, method: Method, seed: int, device: str) -> dict[str, Any]:
    truth = torch.from_numpy(imread(path).astype(np.float32) / 255)[None, None].to(device)
    A = it.operators.Blur(kernel.to(device), truth.shape[-2:], boundary="periodic")
    problem = it.Problem(A.simulate(truth, noise, seed=seed), A, it.data_terms.LeastSquares(noise))
    began = time.perf_counter()
    solution = method(problem, noise)
    seconds = time.perf_counter() - began
    return {"psnr": round(float(it.metrics.psnr(solution.x, truth)), 3), "ssim": round(float(it.metrics.ssim(solution.x, truth)), 4),
            "blurred": round(float(it.metrics.psnr(problem.y, truth)), 3), "weight": float(solution.regularization),
            "status": solution.status[0], "seconds": round(seconds, 2)}


def table(cells: dict[str, dict[str, Any]], names: list[str]) -> str:
    """Markdown: a row a method, a column a data set, kernel and noise level; the mean PSNR and the number of pictures."""
    groups: dict[tuple[str, int, float], dict[str, list[dict[str, Any]]]] = {}
    for key, value in cells.items():
        picture, kernel, noise, method = key.split("/")
        where = groups.setdefault((picture.split()[0], int(kernel), float(noise)), {})
        where.setdefault(method, []).append(value)
    columns = sorted(groups)
    lines = ["| mean PSNR in dB (pictures) | " + " | ".join(f"{data}, kernel {k}, noise {n:g}" for data, k, n in columns) + " |",
             "|---|" + "---|" * len(columns)]
    rows = [("blurred", "blurred", None), *((name, "psnr", name) for name in names)]
    for title, field, name in rows:
        entries = []
        for column in columns:
            group = groups[column]
            found = group.get(name, []) if name is not None else max(group.values(), key=len)
            entries.append(f"{np.mean([c[field] for c in found]):.2f} ({len(found)})" if found else "")
        if any(entries):
            lines.append(f"| {title} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="numbers of Set12; all by default")
    parser.add_argument("--kernels")
    parser.add_argument("--noises", default=",".join(map(str, NOISES)), help="in units of 1/255")
    parser.add_argument("--methods")
    parser.add_argument("--full", action="store_true", help="all 8 kernels, and BSD68 too")
    parser.add_argument("--again", action="store_true", help="also cells that are finished")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = data_folder()
    every = methods(folder, options.device)
    chosen = options.methods.split(",") if options.methods else list(every)
    for name in chosen:
        if name not in every:
            parser.error(f"there is no method {name!r}; there are {', '.join(every)}")
    numbers = [int(k) for k in options.kernels.split(",")] if options.kernels else list(range(1, 9)) if options.full else [1, 4]
    images = [int(k) for k in options.images.split(",")] if options.images else None
    kept = options.results / "deblurring_table.json"
    cells: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    print(machine())
    for number, kernel in zip(numbers, kernels(folder, numbers)):
        for noise in (float(n) for n in options.noises.split(",")):
            for picture, path in pictures(folder, options.full, images).items():
                for name in chosen:
                    key = f"{picture}/{number}/{noise:g}/{name}"
                    if key in cells and not options.again:
                        continue
                    cells[key] = cell(path, kernel, noise / 255, every[name], int(path.stem.lstrip("tes")), options.device)
                    write_bytes(kept, json.dumps(cells, indent=1).encode(), overwrite=True)
                    print(f"{key:40} {cells[key]['psnr']:6.2f} dB, weight {cells[key]['weight']:.3g}, {cells[key]['seconds']:.1f} s, "
                          f"{cells[key]['status']}", flush=True)
    text = table(cells, list(every))
    write_bytes(options.results / "deblurring_table.md", (text + "\n").encode(), overwrite=True)
    print(f"\n{text}")


if __name__ == "__main__":
    main()
