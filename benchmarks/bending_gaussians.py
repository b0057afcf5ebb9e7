"""Gaussians of a galloping horse with bones: poses that no camera saw, with and without a prior.

    python benchmarks/bending_gaussians.py [--steps 300] [--threads 1] [--again]

Runs of the scene ``bending-horse``. 500 Gaussians on the vertices of a horse are known at rest. Four
cameras film 18 frames of its gallop with noise of 0.02, from which `priors.Bones` finds 20 bones,
their weights and all poses. Every fourth frame takes no part. Its pose is found from the true places
of 40 Gaussians, two per bone, and once more of all 500, in both cases without any prior of rigidity;
6 other cameras then judge the Gaussians in this pose. As-isometric-as-possible motion takes part in
the estimate of the bones alone. Its weight is searched by factors of 10 on the first 24 frames of a
man who jumps (preset ``man``), by the mean PSNR of frames that were seen and of poses that were not:
large weights pose well and follow badly. The printed values are of the horse.

Finished runs are kept in ``results/bending_gaussians.json``; with ``--again`` they are not.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import Kept, machine, run_script, verdict

import invtoolbox as it

RESULTS = Path(__file__).parent / "results"
EXPONENTS = (0, 1, 2)
MARKERS = (40, 500)
NAMES = ("psnr", "error", "unseen psnr", "unseen error")


def measure(preset: str | None, exponent: int | None, markers: int, steps: int) -> dict[str, float]:
    """Return the means of the metrics of a run; an exponent of None leaves the prior out."""
    prior = {"name": "as-isometric-as-possible", "neighbours": 5}
    overrides: dict[str, Any] = {
        "motion.film.markers": markers,
        "solver.max_iterations": steps,
        "output.formats": [],
        "prior": [] if exponent is None else [prior | {"weight": 10.0**exponent}],
    }
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        outcome = it.run(
            "bending-horse",
            overrides | ({"preset": preset} if preset else {}),
            folder,
            overwrite=True,
            progress=False,
        )
    found = {name: outcome.mean(name) for name in NAMES}
    return found | {"seconds": time.process_time() - began}


def main(steps: int = 300, threads: int = 1, again: bool = False) -> None:
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    kept = Kept(RESULTS / "bending_gaussians.json", again)

    def run(preset: str | None, exponent: int | None, markers: int) -> dict[str, float]:
        key = f"{preset or 'horse'}, {steps} steps, 10^{exponent}, {markers} markers"
        found: dict[str, float] = kept.result(
            key, lambda: measure(preset, exponent, markers, steps)
        )
        return found

    print("man, 40 markers, on which the weight is chosen", flush=True)
    tried = {}
    for exponent in (None, *EXPONENTS):
        row = run("man", exponent, 40)
        tried[exponent] = 0.5 * (row["psnr"] + row["unseen psnr"])
        name = "no prior" if exponent is None else f"weight 10^{exponent}"
        print(
            f"  {name:14} frames of the estimate {row['psnr']:6.2f} dB, unseen poses "
            f"{row['unseen psnr']:6.2f} dB, mean {tried[exponent]:6.2f} dB",
            flush=True,
        )
    best = max(EXPONENTS, key=lambda e: tried[e])
    print(f"horse, weight 10^{best}", flush=True)
    for markers in MARKERS:
        without, with_it = run(None, None, markers), run(None, best, markers)
        for name, row in (("no prior", without), ("as isometric as possible", with_it)):
            print(
                f"  {markers:3} markers  {name:25} unseen poses {row['unseen psnr']:6.2f} dB, "
                f"{row['unseen error']:.3f} % of the diagonal; frames of the estimate "
                f"{row['psnr']:.2f} dB, {row['error']:.3f} %; {row['seconds']:.0f} s",
                flush=True,
            )
        gain = with_it["unseen psnr"] - without["unseen psnr"]
        judged = verdict(gain >= 0.5, "0.5 dB") if markers == 40 else ""
        print(f"  {markers:3} markers  gain {gain:+.2f} dB {judged}", flush=True)


if __name__ == "__main__":
    run_script(main)
