"""A Gaussian scene that bends, seen by three cameras over time, under every prior of rigidity.

    python benchmarks/bending_scene.py [--cameras 3] [--steps 60] [--threads 1] [--again]

Runs of the scene ``bending-bar``. A bar of 256 Gaussians of random colors is known at rest. It then
moves over 8 times: in the first sequence it bends by 100 degrees, in the second it bends to an S,
twists by 90 degrees and shifts. The pictures have noise of 0.02. Each Gaussian moves and turns
independently (`priors.PointMotion`), so that only the prior of rigidity joins them. The times are
solved one after the other, each from the result before. The weight of a prior is searched by
factors of 10 on the first sequence and judged there; the printed values are of the second sequence:
PSNR of 6 cameras that took no part, mean over all times, and the mean distance of the Gaussians
from the truth in per cent of the diagonal of the bar.

Finished runs are kept in ``results/bending_scene.json``; with ``--again`` they are not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from common import Kept, machine, run_script, verdict

import invtoolbox as it

RESULTS = Path(__file__).parent / "results"
#: Motions that the weights are chosen on, and that the priors are compared on.
CHOSEN_ON, JUDGED_ON = "bend", "s-and-twist"
PRIORS: dict[str, tuple[str, int] | None] = {
    "none": None,
    "ARAP": ("arap", 10),
    "local rigidity": ("local-rigidity", 20),
    "isometry": ("isometry", 20),
    "as isometric as possible": ("as-isometric-as-possible", 5),
}
EXPONENTS = (-1, 0, 1)


def track(motion: str, name: str, exponent: int, cameras: int, steps: int) -> dict[str, float]:
    """Estimate the motion of a sequence; return the PSNR of unseen views and the error."""
    chosen = PRIORS[name]
    overrides: dict[str, Any] = {
        "motion.simulate.motion": motion,
        "motion.simulate.cameras": cameras,
        "solver.max_iterations": steps,
        "output.formats": [],
        "prior": []
        if chosen is None
        else [{"name": chosen[0], "neighbours": chosen[1], "weight": 10.0**exponent}],
    }
    with tempfile.TemporaryDirectory() as folder:
        outcome = it.run("bending-bar", overrides, folder, overwrite=True, progress=False)
    return {metric: outcome.mean(metric) for metric in ("psnr", "error")}


def main(cameras: int = 3, steps: int = 60, threads: int = 1, again: bool = False) -> None:
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    kept = Kept(RESULTS / "bending_scene.json", again)
    rows = {}
    for name, chosen in PRIORS.items():

        def run(motion: str, exponent: int, name: str = name) -> dict[str, float]:
            key = f"{cameras} cameras, {steps} steps, {motion}, {name}, 10^{exponent}"
            return kept.result(key, lambda: track(motion, name, exponent, cameras, steps))

        tried = {e: run(CHOSEN_ON, e)["psnr"] for e in (EXPONENTS if chosen else (0,))}
        best = max(tried, key=lambda e: tried[e])
        rows[name] = (run(JUDGED_ON, best), best, tried[best])
    print(f"\n{cameras} cameras, '{JUDGED_ON}', weights from '{CHOSEN_ON}'")
    for name, (found, best, other) in sorted(rows.items(), key=lambda row: -row[1][0]["psnr"]):
        about = PRIORS[name]
        words = f"{about[1]} neighbours, weight 10^{best}" if about else ""
        print(
            f"  {name:26} {found['psnr']:6.2f} dB  {found['error']:6.2f} % of the diagonal  {words} "
            f"({other:.2f} dB on '{CHOSEN_ON}')"
        )
    gain = max(row[0]["psnr"] for row in rows.values()) - rows["none"][0]["psnr"]
    print(f"the best over none: {gain:.1f} dB", verdict(gain >= 10, "10 dB"))


if __name__ == "__main__":
    run_script(main)
