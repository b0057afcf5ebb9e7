"""Work of a GPU and its host per step of every job, counted on an emulated GPU.

    python benchmarks/device_jobs.py [--first 20] [--last 60]

Printed per step: operations that make the host wait, copies between host and GPU (each of which
waits as well), kernels of PyTorch and of this package. Preparation and the end of a solve do not
count. The second table counts what a whole run of a pipeline without steps asks. The jobs are small
(tests/device_jobs.py); the counts do not depend on the size. No time is measured.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from common import machine, run_script, verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.device_jobs import JOBS, count_per_step
from tests.emulated_cuda import emulate_cuda

#: Counts per step of commit ccc5527, before the loop stopped waiting, by the same emulation: waits,
#: copies and kernels of PyTorch.
BEFORE = {
    "CT, fan beam, TV, PDHG": (2.4, 1.0, 170),
    "CT, cone beam, Tikhonov, CG": (3.3, 5.0, 254),
    "deblurring, TV, ADMM": (2.4, 2.0, 328),
    "MRI, wavelets, FISTA": (5.4, 1.0, 384),
    "deblurring, LPN, ADMM": (3.3, 1.0, 494),
    "deblurring, VBLE": (2.3, 1.0, 420),
    "sampling, Langevin": (4.3, 1.0, 65),
    "sampling, DPS": (2.2, 0.8, 110),
    "scene flow, rigidity": (5.3, 1.0, 533),
    "voxels": (4.3, 4.0, 134),
    "Gaussians": (6.3, 3.0, 252),
    "Gaussians that split": (7.9, 3.5, 358),
    "deformation, ARAP": (6.3, 3.0, 80),
    "coordinate network": (2.3, 0.0, 106),
    "training of a denoiser": (5.3, 1.0, 113),
}
PIPELINES = {"scene flow of a street"}


def main(first: int = 20, last: int = 60) -> None:
    """Run the benchmark.

    Args:
        first: steps of the first run
        last: steps of the second run
    """
    print(machine())
    warnings.simplefilter("ignore")
    columns = ("waits", "copies", "torch", "own")
    print(f"{'per step':30s}" + "".join(f"{name:>9s}" for name in columns) + "   before")
    for name, job in JOBS.items():
        if name in PIPELINES:
            continue
        found = count_per_step(job, first, last)
        shown = [max(0.0, found[k]) for k in ("synchronizations", "copies", "launches", "kernels")]
        before = "".join(f"{number:8.1f}" for number in BEFORE.get(name, ()))
        print(f"{name:30s}" + "".join(f"{n:9.2f}" for n in shown) + f"   {before}", flush=True)
        if name == "Gaussians":
            print(
                f"    {verdict(max(shown[:2]) <= 0.1, 'at most 0.1 waits and 0.1 copies per step')}"
            )
    print("\nper run")
    for name in sorted(PIPELINES):
        with emulate_cuda() as tally:
            JOBS[name]("cuda", 1)
        print(f"{name:30s}{tally.totals()}", flush=True)


if __name__ == "__main__":
    run_script(main)
