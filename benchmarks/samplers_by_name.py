"""Every sampler by its name and nothing else on photographs of 256 x 256 pixels, and total variation.

    python benchmarks/samplers_by_name.py [--pictures 3] [--only edm,ula] [--again]

A periodic Gaussian blur of standard deviation 1 and noise of 7.65/255, pictures of BSD68, their
centre of 256 x 256 pixels. The call is ``it.solve(problem, PRIOR, NAME)``: diffusion samplers and
``ula`` have the prior ``"diffusion-natural"``; ``myula``, ``sk-rock`` and ``gibbs``, which are made
for priors that are not smooth, have ``"tv"``. ``gibbs`` is not told the noise level. Printed: seconds
of the call, number of draws or states, the note of the time limit, and PSNR over that of
``it.solve(problem, "tv")`` on the same picture. A sampler that is more than 0.5 dB below in the mean
is marked in ``invtoolbox list solvers`` and on the page of samplers.

The settings of a run by the name alone were chosen on picture 60 and on pictures 60 to 65
(diffusion_prior.py). Finished runs are kept in ``results/samplers_by_name.json``.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import Kept, data_folder, machine, run_script, verdict
from torch import Tensor
from vble import pictures as pictures_of_bsd68

import invtoolbox as it

RESULTS = Path(__file__).parent / "results" / "samplers_by_name.json"
#: Samplers by name, and the prior that each is given.
SAMPLERS = {
    "edm": "diffusion-natural",
    "pigdm": "diffusion-natural",
    "diffpir": "diffusion-natural",
    "ddrm": "diffusion-natural",
    "daps": "diffusion-natural",
    "dps": "diffusion-natural",
    "ula": "diffusion-natural",
    "myula": "tv",
    "sk-rock": "tv",
    "gibbs": "tv",
}
SIZE, NOISE = 256, 7.65 / 255


def main(
    pictures: int = 3,
    only: str = ",".join(SAMPLERS),
    again: bool = False,
    threads: int = 1,
) -> None:
    """Print one row per sampler.

    Args:
        pictures: number of pictures, the first ones of BSD68
        only: names of samplers, separated by commas
        again: whether finished runs are repeated
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    kept = Kept(RESULTS, again)
    print(f"{machine()}; {SIZE} x {SIZE} pixels")
    numbers = range(1, pictures + 1)
    base = {k: kept.result(f"tv/{k}", lambda k=k: run("tv", "tv", k)) for k in numbers}
    rows: dict[str, list[float]] = {}
    for name in only.split(","):
        for k in numbers:
            cell = kept.result(f"{name}/{k}", lambda k=k, name=name: run(name, SAMPLERS[name], k))
            rows.setdefault(name, []).append(cell["psnr"] - base[k]["psnr"])
        cells = [kept.known[f"{name}/{k}"] for k in numbers]
        longest = max(cell["seconds"] for cell in cells)
        count = ", ".join(str(cell["steps"]) for cell in cells)
        has_note = all(cell["noted"] for cell in cells)
        ended = "by its own limit with a note" if has_note else "before its limit"
        bar = verdict(longest < 180, "under 180 s")
        print(
            f"{name} with {SAMPLERS[name]}: {statistics.mean(rows[name]):+.2f} dB over tv in the "
            f"mean, {min(rows[name]):+.2f} at worst; at most {longest:.0f} s, ended {ended} {bar}; "
            f"steps {count}",
            flush=True,
        )
    below = [name for name, gains in rows.items() if statistics.mean(gains) < -0.5]
    bar = verdict(len(below) <= 3, "at most three")
    print(f"more than 0.5 dB below tv in the mean: {', '.join(below) or 'none'} {bar}")


def problem_of(number: int) -> tuple[Tensor, it.operators.Blur, Tensor]:
    """Return a picture, the blur, and the measurements."""
    truth = pictures_of_bsd68(data_folder(), [number], SIZE)
    row = torch.exp(-torch.arange(-3.0, 4.0).square() / 2)
    kernel = row[:, None] * row / row.sum() ** 2
    A = it.operators.Blur(kernel, (SIZE, SIZE), boundary="periodic")
    return truth, A, A.simulate(truth, NOISE, [number])


def run(name: str, prior: str, number: int) -> dict[str, Any]:
    """Return PSNR, seconds, number of steps, and whether the limit of time is noted."""
    truth, A, y = problem_of(number)
    known = None if name == "gibbs" else NOISE
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=known))
    solver = None if name == "tv" else name
    began, processor = time.perf_counter(), time.process_time()
    solution = it.solve(problem, prior, solver, progress=False)
    return {
        "psnr": round(float(it.metrics.psnr(solution.x, truth)), 3),
        "seconds": round(time.perf_counter() - began, 1),
        "processor": round(time.process_time() - processor, 1),
        "steps": int(solution.iterations),
        "noted": any("by its name alone" in note for note in solution.notes),
    }


if __name__ == "__main__":
    run_script(main)
