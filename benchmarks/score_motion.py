"""A motion from the difference of two scores: a ring that contracts as brighter rings do.

The scene ``animation-simulated`` on three seeds: a ring at rest, and models of six brighter rings with
other textures, at rest and contracted. The scores of the models are exact. The displacement is driven
by the score of the contracted rings alone (score distillation), by the difference of both scores at
the moving picture, and by the difference with the second score at the picture at rest. The settings of
the scene were chosen on seed 0. PSNR is against the true contracted ring with its own texture.

    python benchmarks/score_motion.py
"""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from common import machine, verdict

import invtoolbox as it

SEEDS = (10, 20, 30)
NAMES = {
    "none": "one score (score distillation)",
    "moving": "difference at the moving picture",
    "origin": "difference, reference at rest",
}


def main() -> None:
    torch.set_num_threads(1)
    print(f"Motion from two scores, mean of {len(SEEDS)} seeds; {machine()}")
    found: dict[str, np.ndarray] = {}
    rest = []
    for reference in NAMES:
        rows = []
        for seed in SEEDS:
            changes = {
                "animation.seed": seed,
                "animation.reference": reference,
                "output.formats": [],
            }
            with tempfile.TemporaryDirectory() as folder:
                outcome = it.run("animation-simulated", changes, folder + "/out", progress=False)
            rows.append([outcome.metrics["psnr"], 100 * outcome.metrics["folding"]])
            rest.append(outcome.metrics["psnr at rest"])
        found[reference] = np.mean(rows, 0)
    print(f"  picture at rest                   {np.mean(rest):6.2f} dB")
    for reference, (psnr, folding) in found.items():
        print(f"  {NAMES[reference]:34s}{psnr:6.2f} dB, folding {folding:.1f} %")
    gain = found["origin"][0] - max(found["none"][0], np.mean(rest))
    print("  " + verdict(gain > 1, f"1 dB over one score and over no motion, {gain:.2f} here"))


if __name__ == "__main__":
    main()
