"""HTC2022 on real measurements: FBP of the full arc against the reconstruction that comes with it; 90 degrees against 360.

    python benchmarks/htc2022.py

Prints the correlation for disc ``ta`` and, for disc ``01a``, the Matthews correlation of Otsu's segmentation with the one
from the full scan, for FBP and for TV with nonnegativity by FISTA; and the seconds, with kernels warm.
"""

from __future__ import annotations

import os
import time

import torch
from common import data_folder, machine, verdict

import invtoolbox as it


def main() -> None:
    folder = data_folder() / "htc2022"
    print(machine())

    scan = it.datasets.open(folder / "htc2022_ta_full.mat")[0]
    fbp = scan.geometry.operator().pseudo_inverse(scan.y)
    correlation = float(it.metrics.correlation(fbp, scan.reference))
    print(f"ta, full arc: correlation of FBP with the reconstruction that comes with it {correlation:.4f} "
          f"{verdict(correlation >= 0.985, 'at least 0.985')}")

    full = it.datasets.open(folder / "htc2022_01a_full.mat")[0]
    truth = it.metrics.otsu_segmentation(full.geometry.operator().pseudo_inverse(full.y))
    limited = it.datasets.open(folder / "htc2022_01a_limited.mat")[0]
    A = limited.geometry.operator()
    fbp = A.pseudo_inverse(limited.y)
    print(f"01a, 90 degrees: FBP {matthews(fbp.clamp_min(0), truth):.4f}")

    problem = it.Problem(limited.y, A)
    prior = it.priors.TotalVariation(lower=0.0, tolerance=1e-2, max_iterations=30)
    for weight in (0.03, 0.1, 0.3):
        began = time.perf_counter()
        solution = it.solve(problem, prior, it.solvers.FISTA(), regularization=weight, initial=fbp.clamp(0, 0.04),
                            max_iterations=400, tolerance=1e-6, progress=False)
        seconds = time.perf_counter() - began
        score = matthews(solution.x, truth)
        print(f"01a, 90 degrees: TV, weight {weight:<5} {score:.4f} in {seconds:.1f} s, {int(solution.iterations[0])} iterations "
              f"{verdict(score >= 0.967 and seconds < 30, 'at least 0.967 in under 30 s, aim 0.975')}", flush=True)


def matthews(x: torch.Tensor, truth: torch.Tensor) -> float:
    return float(it.metrics.matthews_correlation(it.metrics.otsu_segmentation(x), truth))


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    main()
