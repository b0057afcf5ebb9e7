"""Work of a GPU and its host per step of every job, counted on an emulated GPU.

    python benchmarks/device_jobs.py [--first 20] [--last 60]

Printed per step: operations that make the host wait, copies between host and GPU (each of which
waits as well), kernels of PyTorch and of this package. Preparation and the end of a solve do not
count. The second table counts what a whole run of a pipeline without steps asks. The third counts
steps 21 to 120 of three jobs whose host reads at the tenth and the last step only
(``check_every=121``), with steps recorded as a graph where they can be (``capture=True``): then a
launch is one kernel, or one graph. The jobs are small (tests/device_jobs.py); the counts do not
depend on the size. No time is measured.

The last table is on paper: the threads that are resident on a full card, from the occupancy of the
machine code (tests/kernels/kernel_resources.py), and the number of usual items whose tasks are as
many. A smaller batch leaves a part of the card idle; a larger one takes more rounds.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from common import machine, run_script, verdict
from roofline import CARDS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.device_jobs import JOBS, STEADY, count_per_step, count_steady
from tests.emulated_cuda import emulate_cuda
from tests.kernels.device_launches import NAMES, record
from tests.kernels.kernel_resources import MULTIPROCESSORS, measure, occupancy, programs

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

#: A usual item of every kernel, and the number of its tasks on CUDA.
USUAL = {
    "grids/eikonal_derivative": ("a shot", 1),
    "grids/eikonal_march": ("a shot", 1),
    "grids/eikonal_sweep": ("a shot", 1),
    "points/rotation_fit": ("5,000 vertices", 5_000),
    "points/rotation_gradient": ("5,000 vertices", 5_000),
    "rendering/raycast": ("a sweep of 32,000 rays", 32_000),
    "rendering/splat_compositing_block": ("a picture of 256 x 256", 256 * 256),
    "rendering/splat_compositing_block_gradient": ("a picture of 256 x 256", 256 * 256),
    "rendering/splat_compositing_pixel": ("a picture of 256 x 256", 256 * 256),
    "rendering/splat_compositing_pixel_gradient": ("a picture of 256 x 256", 256 * 256),
    "rendering/splat_compositing_sum": ("100,000 Gaussians, 8 per task", 12_500),
    "rendering/splat_contributors": ("a picture of 256 x 256", 256 * 256),
    "rendering/splat_projection": ("100,000 Gaussians, 4 per task", 25_000),
    "rendering/splat_projection_gradient": ("100,000 Gaussians, 4 per task", 25_000),
    "rendering/voxel_rendering": ("a step of 4,096 rays", 4_096),
    "rendering/voxel_rendering_gradient": ("a step of 4,096 rays", 4_096),
    "rendering/window_blur": ("3 x 256 x 256 pixels, 4 per task", 3 * 256 * 64),
    "tomography/joseph_backproject": ("a slice of 256 x 256, by lines", 512),
    "tomography/joseph_project": ("a slice, 180 views of 384 cells", 180 * 384),
    "tomography/joseph_scatter": ("a slice, 180 views of 384 cells", 180 * 384),
    "tomography/pixel_backproject": ("a slice of 256 x 256", 256 * 256),
    "tomography/pixel_project": ("a slice of 256 x 256, 180 views", 256 * 180),
    "tomography/volume_backproject": ("a volume of 64^3, by planes", 3 * 64),
    "tomography/volume_geometry": ("90 views of 96 rows", 90 * 96),
    "tomography/volume_project": ("90 views of 96 x 96 cells", 90 * 96 * 96),
    "tomography/volume_scatter": ("90 views of 96 x 96 cells", 90 * 96 * 96),
    "tomography/voxel_backproject": ("a volume of 64^3", 64**3),
    "tomography/voxel_project": ("a volume of 64^3, 90 views", 64 * 64 * 90),
}


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
    worst = 0.0
    for name, job in JOBS.items():
        if name in PIPELINES:
            continue
        found = count_per_step(job, first, last)
        shown = [max(0.0, found[k]) for k in ("synchronizations", "copies", "launches", "kernels")]
        before = "".join(f"{number:8.1f}" for number in BEFORE.get(name, ()))
        print(f"{name:30s}" + "".join(f"{n:9.2f}" for n in shown) + f"   {before}", flush=True)
        worst = max(worst, *shown[:2])
    print(verdict(worst <= 0.1, "every job: at most 0.1 waits and 0.1 copies per step"))
    print("\nper run")
    for name in sorted(PIPELINES):
        with emulate_cuda() as tally:
            JOBS[name]("cuda", 1)
        print(f"{name:30s}{tally.totals()}", flush=True)
    show_steady()
    show_batches()


def show_steady() -> None:
    """Print the counts of steps 21 to 120, and whether the addresses of their buffers stay."""
    print("\nsteps 21 to 120, host reads at steps 10 and 120; launches without a graph; sets of")
    print("addresses that the buffers of the state had in these 100 steps")
    print(f"{'':30s}{'waits':>9s}{'copies':>9s}{'launches':>10s}{'without':>10s}{'addresses':>11s}")
    for name in STEADY:
        recorded, plain = count_steady(name), count_steady(name, capture=False)
        waits, copies = (max(0, recorded.counts[key]) for key in ("synchronizations", "copies"))
        launches, without = (
            run.counts["launches"] + run.counts["kernels"] for run in (recorded, plain)
        )
        stays = waits == copies == 0 and recorded.captured and recorded.places == 1
        print(
            f"{name:30s}{waits:9d}{copies:9d}{launches:10d}{without:10d}{recorded.places:11d} "
            f"{verdict(waits == copies == 0, 'no wait and no copy')} "
            f"{verdict(stays, 'constant addresses: a graph')}",
            flush=True,
        )


def show_batches() -> None:
    """Print the batch at which each kernel fills the card, on paper."""
    print("\nthreads that fill the card by the occupancy of the kernel, on paper, and the batch of")
    print("usual items that has as many tasks; a kernel in float32 of the jobs, or of the calls")
    if programs() is None:
        print("cuobjdump is missing: not computed")
        return
    kernels = {
        launch.kernel.file.removesuffix(".cpp"): launch.kernel
        for ordered in (False, True)
        for name in reversed(NAMES)
        if "float64" not in name
        for launch in record(name, ordered)
    }
    print(
        f"{'':44s}"
        + "".join(f"{card.name + ' threads':>15s}{'batch':>7s}" for card in CARDS)
        + "   item"
    )
    for file, kernel in sorted(kernels.items()):
        item, tasks = USUAL[file]
        row = ""
        for card, architecture in zip(CARDS, (80, 90), strict=True):
            share = occupancy(measure(kernel, architecture), architecture)
            threads = card.multiprocessors * MULTIPROCESSORS[architecture].threads * share
            row += f"{threads:15.0f}{-(-threads // tasks):7.0f}"
        print(f"{file:44s}{row}   {item}", flush=True)
    missing = sorted(set(USUAL) - set(kernels))
    if missing:
        print(f"not reached: {', '.join(missing)}")


if __name__ == "__main__":
    run_script(main)
