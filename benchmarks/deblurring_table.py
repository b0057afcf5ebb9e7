"""The deblurring table: every prior on Set12 with Levin's kernels 1 and 4 and three noise levels.

    python benchmarks/deblurring_table.py [--images 1,4] [--kernels 1,4] [--noises 2.55]
                                          [--methods TV,PnP] [--full] [--device cuda]

Blur is periodic, as in the plug-and-play literature. The priors are not periodic, because
differences across the border would cost a picture with different sides a decibel. Noise is white,
in units of 1/255; PSNR has peak 1. ``--full`` takes all 8 kernels and adds BSD68, which needs a
GPU. Pictures of one size are the items of one batch, each with its own noise, weight and stopping
test. Every finished cell is kept in ``results/deblurring_table.json``, so the table may be computed
in pieces: a later call skips finished cells (with ``--again`` it does not). The table is printed
and written to ``results/deblurring_table.md``: each column holds the mean over the pictures that
every row has finished, and their number.

No row uses the true picture. All rows know the noise level. SURE chooses the weight of Tikhonov
(squared differences), TV, Huber-TV, TGV and wavelets: three weights half a decade apart around an
initial guess, more if the best lies at an end, then three golden sections, which leave a quarter of
a decade. Each score is computed from the iterate at the tolerance given here, and so is the answer;
200 steps of TGV are within 0.02 dB of 1,000 steps. graphLa has three rows. One uses the discrepancy
principle for its weight and for the TV reconstruction of its graph, as in its paper. One uses SURE
for its weight alone (the graph follows the measurements when SURE moves them). One uses the graph
of the TV row's picture, held fixed while SURE chooses the weight.

PnP is ADMM with KAIR's DnCNN of level 25/255 and the penalty (noise / level)^2 of a density's prox,
at most 24 steps (up to 0.1 dB from its limit at noise 12.75, and at the limit at 2.55). RED has the
same network and weight and uses its fixed-point method, half-quadratic splitting, until the picture
converges: 6 to 25 calls of the network. 100 gradient steps for the same equation were still 1.2 dB
away (noise 2.55). Neither has a tuned weight. The network has one level only, and RED applies it to
the picture itself, which smooths too much at low noise.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, kernels, machine, run_script
from skimage.io import imread
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.datasets.output import write_bytes

NOISES = (2.55, 7.65, 12.75)
LEVEL = 25 / 255
RESULTS = Path(__file__).parent / "results"

Method = Callable[[it.Problem, float], it.Solution]


def by_sure(
    prior: it.priors.ExplicitPrior,
    solver: it.solvers.Solver | None = None,
    tolerance: float | None = None,
    steps: int | None = None,
) -> Method:
    rule = it.parameter_choice.SURE(points=3, sections=3)
    return lambda problem, noise: it.solve(
        problem, prior, solver, rule, max_iterations=steps, tolerance=tolerance, progress=False
    )


class OneByOne(nn.Module):
    """Apply a network to the pictures of a batch one after the other.

    A CPU's cache does not hold the layers of several pictures.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(
            memory_format=torch.channels_last
        )  # a third faster on a CPU, equal up to rounding

    def forward(self, x: Tensor) -> Tensor:
        return (
            torch.cat([self.network(image) for image in x.split(1)])
            if x.device.type == "cpu"
            else self.network(x)
        )


def methods(folder: Path, device: str) -> dict[str, Method]:
    network = OneByOne(it.priors.load_dncnn(folder / "weights" / "kair_dncnn" / "dncnn_25.pth")).to(
        device
    )
    denoiser = it.priors.Denoiser(network, sigma=LEVEL, level="none")

    def plug_and_play(problem: it.Problem, noise: float) -> it.Solution:
        bare = it.Problem(problem.y, problem.operator)
        return it.solve(
            bare,
            denoiser,
            it.solvers.ADMM(rho=(noise / LEVEL) ** 2),
            max_iterations=24,
            progress=False,
        )

    def red(problem: it.Problem, noise: float) -> it.Solution:
        bare, penalty = it.Problem(problem.y, problem.operator), (noise / LEVEL) ** 2
        # The certificate is in units of the back-projection: the image then changes by about 1e-3
        # of its size.
        return it.solve(
            bare,
            denoiser,
            it.solvers.HalfQuadratic(penalty=penalty, iterate="x"),
            max_iterations=60,
            tolerance=1e-3 * penalty,
            progress=False,
        )

    graph = it.priors.GraphLaplacian(first="tv")
    total_variation = by_sure(it.priors.TotalVariation(), it.solvers.PDHG(), 2e-3)

    solved: list[tuple[Tensor, Tensor]] = []  # measurements and picture of the last TV row

    def tv_row(problem: it.Problem, noise: float) -> it.Solution:
        solution = total_variation(problem, noise)
        solved[:] = [(problem.y, solution.x)]
        return solution

    def graph_of_the_tv_row(problem: it.Problem, noise: float) -> it.Solution:
        is_known = bool(solved) and torch.equal(solved[0][0], problem.y)
        first = solved[0][1] if is_known else tv_row(problem, noise).x
        return by_sure(it.priors.GraphLaplacian(first=first))(problem, noise)

    return {
        "Tikhonov": by_sure(it.priors.Tikhonov("gradient")),
        "wavelet l1": by_sure(it.priors.WaveletL1(), it.solvers.ADMM(), 2e-3),
        "stationary wavelet l1": by_sure(it.priors.StationaryWaveletL1(), it.solvers.PDHG(), 2e-3),
        "Huber-TV": by_sure(it.priors.HuberTV(0.02)),
        "TV": tv_row,
        "TGV": by_sure(it.priors.TotalGeneralizedVariation(), it.solvers.PDHG(), 1e-2, 200),
        "graphLa+TV, discrepancy": lambda problem, noise: it.solve(problem, graph, progress=False),
        "graphLa+TV, SURE": by_sure(graph),
        "graphLa, graph of the TV row": graph_of_the_tv_row,
        "PnP": plug_and_play,
        "RED": red,
    }


def pictures(folder: Path, full: bool, chosen: list[int] | None) -> dict[str, Path]:
    found = {
        f"set12 {int(path.stem)}": path
        for path in sorted((folder / "set12").glob("*.png"))
        if chosen is None or int(path.stem) in chosen
    }
    if full:
        found |= {
            f"bsd68 {path.stem}": path for path in sorted((folder / "bsd68_gray").glob("*.png"))
        }
    return found


def batches(names: dict[str, Path], at_once: int) -> list[dict[str, Tensor]]:
    """Read the pictures, ``(1, 1, row, column)`` in [0, 1], and join pictures of equal size."""
    sizes: dict[tuple[int, ...], dict[str, Tensor]] = {}
    for name, path in names.items():
        truth = torch.from_numpy(imread(path).astype(np.float32) / 255)[None, None]
        sizes.setdefault(tuple(truth.shape), {})[name] = truth
    return [
        dict(list(group.items())[k : k + at_once])
        for group in sizes.values()
        for k in range(0, len(group), at_once)
    ]


def cells(
    batch: dict[str, Tensor], kernel: Tensor, noise: float, method: Method, device: str
) -> dict[str, dict[str, Any]]:
    """Solve for pictures of one size with one method.

    They are the items of one problem, each with its own noise, weight and stopping test.
    """
    truth = torch.cat(list(batch.values())).to(device)
    A = it.operators.Blur(kernel.to(device), truth.shape[-2:], boundary="periodic")
    seeds = [int(name.split()[1].lstrip("tes")) for name in batch]
    problem = it.Problem(A.simulate(truth, noise, seed=seeds), A, it.data_terms.LeastSquares(noise))
    began = time.perf_counter()
    solution = method(problem, noise)
    seconds = (time.perf_counter() - began) / len(batch)
    columns = {
        "psnr": it.metrics.psnr(solution.x, truth),
        "ssim": it.metrics.ssim(solution.x, truth),
        "blurred": it.metrics.psnr(problem.y, truth),
    }
    return {
        name: {
            **{column: round(float(values[k]), 4) for column, values in columns.items()},
            "weight": float(solution.regularization[k]),
            "status": solution.status[k],
            "iterations": int(solution.iterations[k]),
            "seconds": round(seconds, 2),
        }
        for k, name in enumerate(batch)
    }


def table(done: dict[str, dict[str, Any]], names: list[str]) -> str:
    """Format the table as Markdown: methods by row; data set, kernel and noise level by column.

    Entries are the mean PSNR over the pictures that all rows have finished.
    """
    columns: dict[tuple[str, int, float], dict[str, dict[str, dict[str, Any]]]] = {}
    for key, cell in done.items():
        picture, kernel, noise, method = key.split("/")
        if method in names:
            columns.setdefault((picture.split()[0], int(kernel), float(noise)), {}).setdefault(
                method, {}
            )[picture] = cell
    rows = [name for name in names if any(name in column for column in columns.values())]
    shared = {
        where: set.intersection(*(set(cells) for cells in columns[where].values()))
        for where in sorted(columns)
    }
    lines = [
        "| mean PSNR in dB | "
        + " | ".join(f"{data}, kernel {k}, noise {n:g}" for data, k, n in shared)
        + " |",
        "|---|" + "---:|" * len(shared),
        "| pictures | " + " | ".join(str(len(pictures)) for pictures in shared.values()) + " |",
    ]
    for title, field, row in [
        ("blurred", "blurred", None),
        *((name, "psnr", name) for name in rows),
    ]:
        entries = []
        for where, common in shared.items():
            cells = (
                next(iter(columns[where].values())) if row is None else columns[where].get(row, {})
            )
            entries.append(
                f"{np.mean([cells[picture][field] for picture in common]):.2f}"
                if cells and common
                else ""
            )
        lines.append(f"| {title} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def main(
    images: str | None = None,
    kernels_: str | None = None,
    noises: str = ",".join(map(str, NOISES)),
    methods_: str | None = None,
    full: bool = False,
    again: bool = False,
    at_once: int = 8,
    device: str = "cpu",
    threads: int = torch.get_num_threads(),
    results: Path = RESULTS,
) -> None:
    """Run the benchmark.

    Args:
        images: numbers of Set12; all by default
        noises: noise levels in units of 1/255
        full: all 8 kernels, and BSD68 too
        again: compute finished cells again
        at_once: pictures of one size in a batch
    """
    torch.set_num_threads(threads)
    folder = data_folder()
    every = methods(folder, device)
    chosen = methods_.split(",") if methods_ else list(every)
    for name in chosen:
        if name not in every:
            raise SystemExit(f"there is no method {name!r}; there are {', '.join(every)}")
    numbers = (
        [int(k) for k in kernels_.split(",")] if kernels_ else list(range(1, 9)) if full else [1, 4]
    )
    images = [int(k) for k in images.split(",")] if images else None
    results.mkdir(parents=True, exist_ok=True)
    kept = results / "deblurring_table.json"
    done: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    print(machine())
    for noise in (float(n) for n in noises.split(",")):
        for number, kernel in zip(numbers, kernels(folder, numbers)):
            for name in chosen:

                def key(picture: str, row: str = f"{number}/{noise:g}/{name}") -> str:
                    return f"{picture}/{row}"

                left = {
                    picture: path
                    for picture, path in pictures(folder, full, images).items()
                    if again or key(picture) not in done
                }
                for batch in batches(left, at_once):
                    for picture, cell in cells(
                        batch, kernel, noise / 255, every[name], device
                    ).items():
                        done[key(picture)] = cell
                        print(
                            f"{key(picture):40} {cell['psnr']:6.2f} dB, weight "
                            f"{cell['weight']:.3g}, {cell['iterations']} iterations, "
                            f"{cell['seconds']:.1f} s, {cell['status']}",
                            flush=True,
                        )
                    write_bytes(kept, json.dumps(done, indent=1).encode(), overwrite=True)
    text = table(done, list(every))
    write_bytes(results / "deblurring_table.md", (text + "\n").encode(), overwrite=True)
    print(f"\n{text}")


if __name__ == "__main__":
    run_script(main)
