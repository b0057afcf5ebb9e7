"""Projections of a volume that is stored in half precision: their errors, bytes, and time on paper.

    python benchmarks/stored_volumes.py

The volume is rounded, the weights of a ray and its sums are float32. Errors are those of a real
slice, the tooth of TomoPy, reconstructed from its 181 views by filtered back-projection; they are
compared with the noise of the scan, measured between its ten flat fields, where noise is least.
float16 is projected by the kernel of CUDA that loads it, compiled for the CPU; bfloat16 by rounding
the values beforehand, which is the same. Bytes are counted in the source that is generated for CUDA,
run on a CPU with the grid of CUDA. The times are a roofline on paper (benchmarks/roofline.py), and
not measured: nothing here has run on a card.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from roofline import CARDS, Work, predict
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import invtoolbox as it
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam3D
from tests.kernels.generated_cuda import why_not
from tests.kernels.memory_traffic import count_traffic
from tests.kernels.stored_volumes import projection_launch

#: Operations of a sample of a ray: two places, their conversions and weights, three interpolations
#: of a multiplication and an addition each, and the sum (volume_sample.h, volume_sums.h).
SAMPLE = 24
#: The largest error of a half volume that a scan hides, as a share of its noise.
HIDDEN = 0.1


def noise_of_flat_fields() -> float:
    """Return the standard deviation of a line integral of the tooth through nothing.

    It is that of the logarithm of a flat field, from the differences between ten of them.
    """
    with h5py.File(data_folder() / "tomopy_tooth" / "tooth.h5") as file:
        white, dark = (
            np.asarray(file[f"exchange/{name}"], dtype=np.float64)
            for name in ("data_white", "data_dark")
        )
    logarithm = np.log(white - dark.mean(0))
    # The beam flickers: the mean of every field is removed.
    logarithm -= logarithm.mean((1, 2), keepdims=True)
    return float(np.sqrt(logarithm.var(0, ddof=1).mean()))


def scan_of_tooth() -> tuple[ParallelBeam3D, Tensor]:
    """Return the scan of a slice of the tooth as a volume of one slice, and the slice."""
    item = it.datasets.open_named("tooth")[0]
    flat = item.geometry.operator()
    x = flat.pseudo_inverse(item.y.float()).clamp_min(0)
    rows, columns = x.shape[2:]
    scan = it.operators.ParallelBeam3D(
        (1, rows, columns),
        item.geometry.angles,
        (1, flat.num_detectors),
        voxel_size=(flat.pixel_size[0], *flat.pixel_size),
        detector_spacing=flat.detector_spacing,
        detector_shift=(float(flat.detector_shift), 0.0),
    )
    return scan, x[:, :, None]


def show_errors() -> None:
    """Print the errors of the projections of the rounded slice."""
    scan, x = scan_of_tooth()
    noise = noise_of_flat_fields()
    full = projection_launch(scan, x, torch.float32)
    exact = full.on_cpu()["projections"].double()
    print(
        f"\nslice {x.shape[-2]} x {x.shape[-1]}, projections {tuple(exact.shape)}, noise {noise:.4f}"
    )
    print(f"{'volume in':12s}{'rms / rms':>12s}{'rms / noise':>14s}{'largest / noise':>18s}")
    for stored in (torch.float16, torch.bfloat16):
        if stored is torch.float16:
            launch = projection_launch(scan, x, stored)
        else:
            rounded = full.arguments["volume"].to(stored).float()
            launch = replace(full, arguments={**full.arguments, "volume": rounded})
        error = launch.on_cpu()["projections"].double() - exact
        rms, largest = float(error.square().mean().sqrt()), float(error.abs().max())
        relative = rms / float(exact.square().mean().sqrt())
        print(
            f"{str(stored)[6:]:12s}{relative:12.1e}{rms / noise:14.4f}{largest / noise:18.4f} "
            f"{verdict(largest <= HIDDEN * noise, f'at most {HIDDEN:g} of the noise')}"
        )


def show_bytes() -> None:
    """Print the bytes of projections, and the roofline's times."""
    print(
        "\nbytes per ray: geometry, volume by threads, volume by blocks with a perfect cache each;"
    )
    print("bounds in nanoseconds per ray on paper, and what sets them")
    for n in (32, 64):
        angles = torch.linspace(0.1, 2.5, 2)
        scan = it.operators.ConeBeam((n, n, n), angles, (16, 16), 4.0 * n, 6.0 * n)
        x = torch.rand((1, 1, n, n, n), generator=torch.Generator().manual_seed(0))
        bounds: dict[torch.dtype, list[float]] = {}
        for stored in (torch.float32, torch.float16):
            launch = projection_launch(scan, x, stored)
            traffic, rays = count_traffic(launch), launch.tasks
            volume = traffic["volume"]
            rest = sum(t.read + t.written for k, t in traffic.items() if k != "volume") / rays
            loads = volume.read / (2 if stored is torch.float16 else 4)
            work = Work(
                bytes=volume.read_by_blocks + rest * rays,
                operations=SAMPLE * loads / 4,
                accesses=loads / 32,
            )
            predicted = [predict(work, card) for card in CARDS]
            bounds[stored] = [seconds for seconds, _ in predicted]
            shown = ", ".join(
                f"{card.name} {1e9 * seconds / rays:.3f} by {unit}"
                for card, (seconds, unit) in zip(CARDS, predicted, strict=True)
            )
            print(
                f"cone beam, {n}^3  {str(stored)[6:]:8s}{rest:6.0f}{volume.read / rays:8.0f}"
                f"{volume.read_by_blocks / rays:8.1f}   {shown}"
            )
        ratios = [a / b for a, b in zip(*bounds.values(), strict=True)]
        print(
            f"cone beam, {n}^3  ratio   predicted, not measured: "
            + ", ".join(f"{c.name} {r:.2f}" for c, r in zip(CARDS, ratios, strict=True))
        )


def main(threads: int = 1) -> None:
    """Print errors, bytes, and bounds on two cards.

    Args:
        threads: number of torch's threads
    """
    for build in ("plain", "counts"):
        if (reason := why_not(build)) is not None:
            raise SystemExit(reason)
    torch.set_num_threads(threads)
    print(machine())
    warnings.simplefilter("ignore")  # the holder of the tooth is wider than the field of view
    show_errors()
    show_bytes()


if __name__ == "__main__":
    run_script(main)
