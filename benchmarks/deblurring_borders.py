"""Deblur parts of photographs whose surroundings are unknown, with nothing chosen.

    python benchmarks/deblurring_borders.py [--count 12] [--size 128] [--priors tv,denoiser-natural]
                                            [--only mirror]

Middle parts of the pictures of Set12, on which no setting was chosen. A draw has a kernel (gaussian
of 0.8 to 3 pixels, disc of 1 to 4, motion of 3 to 15) and noise of 0.001 to 0.05. The boundary is
"reflect", where the picture is mirrored, or "valid", where the measurements are a part of a larger
scene. There the kernel is also given too wide and too narrow, and "mirror" is the case in which the
default of `Blur`, "reflect", is given. The call is ``it.reconstruct(y, A, prior=NAME)``, with nothing
else. Figures are gains in PSNR over the measurements, within the measured part.
"""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from skimage.io import imread
from torch import Tensor

import invtoolbox as it
from invtoolbox.jobs.images.kernels import disc_kernel, gaussian_kernel, motion_kernel

#: Boundaries of the measurements ("mirror" is "valid" of which "reflect" is assumed), and factors on
#: the width of the kernel that is given.
CASES = (
    ("reflect", 1.0),
    ("valid", 1.0),
    ("valid", 1.1),
    ("valid", 1.25),
    ("valid", 0.9),
    ("mirror", 1.0),
)


def kernel(draw: Any, factor: float = 1.0) -> tuple[str, Tensor]:
    """Return the name and the kernel of a draw, its width multiplied by a factor."""
    kind = ("gaussian", "disc", "motion")[int(draw.integers(3))]
    if kind == "gaussian":
        width = float(draw.uniform(0.8, 3))
        return f"gaussian {width:.1f}", gaussian_kernel(factor * width, "kernel")
    if kind == "disc":
        radius = float(draw.uniform(1, 4))
        return f"disc {radius:.1f}", disc_kernel(factor * radius, "kernel")
    length, angle = float(draw.uniform(3, 15)), float(draw.uniform(0, 180))
    return f"motion {length:.1f}", motion_kernel((factor * length, angle), "kernel")


def main(
    count: int = 12,
    size: int = 128,
    priors: str = "tv,denoiser-natural",
    only: str = "",
    threads: int = 1,
) -> None:
    """Print one row per draw and boundary, and one summary per prior and boundary.

    Args:
        count: number of pictures
        size: number of rows and columns of a part
        priors: names of priors, separated by commas
        only: one of the boundaries of `CASES`; all if empty
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    print(f"{machine()}; {threads} thread; parts of {size} pixels; kernel known unless stated")
    files = sorted((data_folder() / "set12").glob("*.png"))[:count]
    names = priors.split(",")
    gains: dict[tuple[str, str], list[float]] = {}
    for number, path in enumerate(files):
        whole = torch.from_numpy(imread(path)).float()[None, None] / 255
        top, left = ((n - size) // 2 for n in whole.shape[-2:])
        truth = whole[..., top : top + size, left : left + size].contiguous()
        for boundary, factor in (case for case in CASES if only in ("", case[0])):
            draw = np.random.default_rng(number)
            name, true_kernel = kernel(draw)
            noise = float(10 ** draw.uniform(-3, -1.3))
            measured = "reflect" if boundary == "reflect" else "valid"
            camera = it.operators.Blur(true_kernel, (size, size), measured)
            y = camera.simulate(truth, noise, seed=number)
            assumed = kernel(np.random.default_rng(number), factor)[1]
            shape = tuple(y.shape[-2:])
            if boundary == "valid":
                shape = tuple(n + k - 1 for n, k in zip(shape, assumed.shape[-2:]))
            A = it.operators.Blur(assumed, shape, "valid" if boundary == "valid" else "reflect")
            margin = [(n - m) // 2 for n, m in zip(truth.shape[-2:], y.shape[-2:])]
            inside = truth[..., margin[0] : margin[0] + y.shape[-2], margin[1] :][
                ..., : y.shape[-1]
            ]
            before = it.metrics.psnr(y, inside, 1.0)
            wrong = f"{abs(factor - 1) * 100:.0f} % too {'wide' if factor > 1 else 'narrow'}"
            kind = boundary if factor == 1 else f"{boundary}, kernel {wrong}"
            cells = []
            for prior in names:
                began = time.process_time()
                x = it.reconstruct(y, A, prior=prior, progress=False).x
                gain = float(it.metrics.psnr(A.crop(x), inside, 1.0) - before)
                gains.setdefault((kind, prior), []).append(gain)
                cells.append(f"{prior} {gain:+.2f} dB in {time.process_time() - began:.0f} s")
            print(
                f"{path.stem}, {name}, noise {noise:.4f}, {kind}: {float(before):.2f} dB; "
                f"{', '.join(cells)}",
                flush=True,
            )
    for (kind, prior), values in gains.items():
        bar = verdict(min(values) >= -0.3, "no item below -0.3 dB")
        print(
            f"{kind}, {prior}: {statistics.mean(values):+.2f} dB in the mean, {min(values):+.2f} at "
            f"worst {bar}"
        )


if __name__ == "__main__":
    run_script(main)
