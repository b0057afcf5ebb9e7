"""Deblurring with learned proximal networks: their paper's settings, TV, plug-and-play and RED.

    python benchmarks/lpn_deblurring.py [--pictures 20] [--crop 256] [--methods "TV;LPN 0.1"]
                                        [--settings 1/0.02] [--threads 2]

After Fang, Buchanan & Sulam, "What's in a prior? Learned proximal networks for inverse problems"
(ICLR 2024): Gaussian blur of standard deviation 1 and 2 pixels (here periodic), white noise of 0.02
and 0.04, PSNR with peak 1; pictures of BSD68 instead of faces.

Every method has one strength, with one value per setting: the best one by mean PSNR on `SEARCHED`
other pictures (their central 160x160 pixels). The search goes from an initial guess by factors of 2
until the best has worse ones on either side, then by a factor of sqrt(2) on both sides. A row with
several networks takes its better network for each setting. The 20 pictures are then reconstructed
whole, or their central ``--crop`` pixels squared. Plug-and-play and the learned proximal networks
run the same ADMM, at most `STEPS` steps as in the paper; TV runs until its certificate is 1e-3.
Seconds are processor seconds.

The objective of a learned proximal network is ``1/2 |A x - y|^2 + w R(x)``, and its theorem needs
``w > |A|^2 = 1``, which is far more than noise of 0.02 requires; the paper, too, takes 0.1. The row
"LPN, inside the theorem" searches ``w >= 1.05`` alone.

Every finished picture is kept in ``results/lpn_deblurring.json``, and a later call continues from
there; with ``--again`` it does not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from skimage.io import imread
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets.output import write_bytes

SETTINGS = {
    "1/0.02": (1.0, 0.02),
    "1/0.04": (1.0, 0.04),
    "2/0.02": (2.0, 0.02),
    "2/0.04": (2.0, 0.04),
}
SEARCHED = ("test065", "test066", "test067", "test068")
SEARCH_CROP = 160
STEPS = 20
RESULTS = Path(__file__).parent / "results"
LEARNED = {"LPN 0.05": "lpn-natural", "LPN 0.1": "lpn-natural-0.1"}
DENOISERS = {"": "dncnn-natural", " 0.1": "dncnn-natural-0.1"}
ROWS = {  # rows of the table, and their methods, of which the best counts
    "TV": ("TV",),
    "LPN": ("LPN 0.05", "LPN 0.1"),
    "LPN, inside the theorem": ("LPN 0.05, inside", "LPN 0.1, inside"),
    "PnP, dncnn-natural": ("PnP", "PnP 0.1"),
    "PnP, KAIR's DnCNN": ("PnP KAIR",),
    "RED, dncnn-natural": ("RED", "RED 0.1"),
}


@dataclass(frozen=True)
class Method:
    """A method ``run(problem, strength)`` and the start of its search.

    The search for the strength begins at ``first(noise)`` and never goes below ``least``.
    """

    run: Callable[[it.Problem, float], it.Solution]
    first: Callable[[float], float]
    least: float = 0.0


def total_variation(problem: it.Problem, weight: float) -> it.Solution:
    return it.solve(
        problem,
        it.priors.TotalVariation(),
        it.solvers.PDHG(),
        weight,
        tolerance=1e-3,
        max_iterations=1000,
        progress=False,
    )


def learned(prior: it.priors.ExplicitPrior, problem: it.Problem, weight: float) -> it.Solution:
    return it.solve(problem, prior, it.solvers.ADMM(), weight, max_iterations=STEPS, progress=False)


def plug_and_play(prior: it.priors.ExplicitPrior, problem: it.Problem, rho: float) -> it.Solution:
    return it.solve(problem, prior, it.solvers.ADMM(rho=rho), max_iterations=STEPS, progress=False)


def red(prior: it.priors.ExplicitPrior, problem: it.Problem, penalty: float) -> it.Solution:
    # The certificate is in units of the back-projection: the image then changes by about 1e-3 of
    # its size.
    solver = it.solvers.HalfQuadratic(penalty=penalty, iterate="x")
    return it.solve(
        problem, prior, solver, max_iterations=STEPS, tolerance=1e-3 * penalty, progress=False
    )


def methods(folder: Path) -> dict[str, Method]:
    """Return the methods whose weights exist."""
    found = {"TV": Method(total_variation, lambda noise: 8 * noise**2)}
    for name, entry in LEARNED.items():
        if entry in it.catalogue.entries("priors"):
            prior = it.priors.load(entry)
            found[name] = Method(partial(learned, prior), partial(ratio, sigma=prior.sigma))
            found[f"{name}, inside"] = Method(
                partial(learned, it.priors.load(entry, {"within_theorem": True})),
                lambda noise: 1.05,
                least=1.05,
            )
    denoisers = {
        name: it.priors.load(entry)
        for name, entry in DENOISERS.items()
        if entry in it.catalogue.entries("priors")
    }
    kair = it.priors.load_dncnn(folder / "weights" / "kair_dncnn" / "dncnn_25.pth").to(
        memory_format=torch.channels_last
    )
    denoisers[" KAIR"] = it.priors.Denoiser(kair, sigma=25 / 255, level="none")
    for name, denoiser in denoisers.items():
        first = partial(ratio, sigma=float(denoiser.sigma))
        found[f"PnP{name}"] = Method(partial(plug_and_play, denoiser), first)
        if name in DENOISERS:
            found[f"RED{name}"] = Method(partial(red, denoiser), first)
    return found


def ratio(noise: float, sigma: float) -> float:
    """Compute the strength that the prox of a density would have."""
    return (noise / sigma) ** 2


def gaussian(sigma: float) -> Tensor:
    reach = math.ceil(4 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma).square())
    kernel = line[:, None] * line
    return (kernel / kernel.sum()).float()


def picture(folder: Path, name: str, crop: int | None) -> Tensor:
    x = torch.from_numpy(imread(folder / "bsd68_gray" / f"{name}.png").astype(np.float32) / 255)[
        None, None
    ]
    if crop is None:
        return x
    top, left = ((n - crop) // 2 for n in x.shape[-2:])
    return x[..., top : top + crop, left : left + crop].contiguous()


class Cells:
    """Finished results, by ``setting/method/strength/picture``."""

    def __init__(self, path: Path, again: bool) -> None:
        self.path, self.folder = path, data_folder()
        self.done: dict[str, dict[str, Any]] = (
            json.loads(path.read_text()) if path.exists() and not again else {}
        )

    def cell(
        self, setting: str, name: str, method: Method, strength: float, which: str, crop: int | None
    ) -> dict[str, Any]:
        key = f"{setting}/{name}/{strength:.4g}/{which}{'' if crop is None else f' {crop}'}"
        if key not in self.done:
            sigma, noise = SETTINGS[setting]
            x = picture(self.folder, which, crop)
            A = it.operators.Blur(gaussian(sigma), x.shape[-2:], boundary="periodic")
            problem = it.Problem(A.simulate(x, noise, seed=int(which.removeprefix("test"))), A)
            began = time.process_time()
            solution = method.run(problem, strength)
            seconds = time.process_time() - began
            self.done[key] = {
                "psnr": round(float(it.metrics.psnr(solution.x, x)), 4),
                "seconds": round(seconds, 3),
                "blurred": round(float(it.metrics.psnr(problem.y, x)), 4),
                "iterations": int(solution.iterations[0]),
                "status": solution.status[0],
            }
            write_bytes(self.path, json.dumps(self.done, indent=1).encode(), overwrite=True)
            print(
                f"{key:48} {self.done[key]['psnr']:6.2f} dB, {self.done[key]['iterations']} "
                f"iterations, {seconds:.1f} s",
                flush=True,
            )
        return self.done[key]

    def best(self, setting: str, name: str, method: Method) -> tuple[float, float]:
        """Return the best strength for a setting, and its mean PSNR on the search's pictures."""

        def score(strength: float) -> float:
            return float(
                np.mean(
                    [
                        self.cell(setting, name, method, strength, which, SEARCH_CROP)["psnr"]
                        for which in SEARCHED
                    ]
                )
            )

        first = max(method.first(SETTINGS[setting][1]), method.least)
        tried = {first: score(first)}
        for factor in (2.0, math.sqrt(2.0)):
            while True:
                top = max(tried, key=lambda strength: tried[strength])
                left = [
                    w
                    for w in (top / factor, top * factor)
                    if w >= method.least and not any(abs(w / known - 1) < 0.01 for known in tried)
                ]
                if not left:
                    break
                tried |= {w: score(w) for w in left}
        top = max(tried, key=lambda strength: tried[strength])
        return top, tried[top]


def main(
    pictures: int = 20,
    crop: int | None = None,
    methods_: str | None = None,
    settings: str | None = None,
    threads: int = torch.get_num_threads(),
    again: bool = False,
    results: Path = RESULTS,
) -> None:
    """Run the benchmark.

    Args:
        crop: the central pixels of the pictures; whole ones by default
        again: compute finished pictures again
    """
    torch.set_num_threads(threads)
    results.mkdir(parents=True, exist_ok=True)
    cells = Cells(results / "lpn_deblurring.json", again)
    every = methods(cells.folder)
    chosen = methods_.split(";") if methods_ else list(every)
    settings = settings.split(",") if settings else list(SETTINGS)
    names = [f"test{k:03d}" for k in range(1, pictures + 1)]
    print(machine())
    table: dict[str, dict[str, tuple[float, float, float, str, float]]] = {}
    for setting in settings:
        for row, candidates in ROWS.items():
            here = [name for name in candidates if name in chosen and name in every]
            if not here:
                continue
            found = {name: cells.best(setting, name, every[name]) for name in here}
            name = max(found, key=lambda candidate: found[candidate][1])
            done = [
                cells.cell(setting, name, every[name], found[name][0], which, crop)
                for which in names
            ]
            table.setdefault(row, {})[setting] = (
                *(
                    float(np.mean([cell[key] for cell in done]))
                    for key in ("psnr", "seconds", "blurred")
                ),
                name,
                found[name][0],
            )
    size = "" if crop is None else f" ({crop}x{crop})"
    print(
        f"\nmean PSNR of {len(names)} pictures{size}, dB (seconds of the processor a picture; "
        "method and strength)"
    )
    for setting in settings:
        print(f"blur {setting.split('/')[0]}, noise {setting.split('/')[1]}:")
        for row, columns in table.items():
            score, seconds, blurred, name, strength = columns[setting]
            print(
                f"  {row:26} {score:6.2f}  ({seconds:5.2f} s; {name}, {strength:.3g})   blurred "
                f"{blurred:.2f}"
            )
    judge(table, settings)


def judge(
    table: Mapping[str, Mapping[str, tuple[float, float, float, str, float]]], settings: list[str]
) -> None:
    if "LPN" not in table:
        return
    for row, least, mean in (
        ("TV", 0.0, 0.2),
        ("PnP, dncnn-natural", None, -0.4),
        ("PnP, KAIR's DnCNN", None, -0.4),
    ):
        if row in table:
            gains = [table["LPN"][s][0] - table[row][s][0] for s in settings]
            holds = np.mean(gains) >= mean and (least is None or min(gains) >= least)
            bar = f"{mean:+g} on average" + (
                "" if least is None else f", {least:g} in every setting"
            )
            print(
                f"LPN over {row}: {', '.join(f'{g:+.2f}' for g in gains)}, {np.mean(gains):+.2f} "
                "dB on average",
                verdict(holds, bar),
            )
    if "PnP, dncnn-natural" in table:
        times = [
            np.mean([table[row][s][1] for s in settings]) for row in ("LPN", "PnP, dncnn-natural")
        ]
        print(
            f"seconds a picture: LPN {times[0]:.2f}, PnP {times[1]:.2f}",
            verdict(times[0] <= times[1], "at most that of PnP"),
        )


if __name__ == "__main__":
    run_script(main)
