"""Real data, real pictures with real kernels, and the zoo: all are right, or nearly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from zoo.images import JOBS

import invtoolbox as it
from invtoolbox.operators import Blur, CartesianMRI, Fourier
from mistakes.blurs import levin
from mistakes.cases import Case


def real_data(folder: Path) -> Iterator[tuple[str, Case]]:
    """Yield real data, and measurements of real pictures with real kernels; all are right."""
    from scipy.io import loadmat

    y = torch.from_numpy(np.load(folder / "mri_cartesian_8coil" / "cartesian_ksp.npy"))[None]
    mask = y.abs().sum((0, 1)) > 0
    maps = it.operators.estimate_coil_maps(y)
    yield "mri_cartesian_8coil", Case(y, CartesianMRI(mask, tuple(y.shape[2:]), maps))
    yield "mri_cartesian_8coil, one coil", Case(y[:, :1], CartesianMRI(mask, tuple(y.shape[2:])))
    knee = loadmat(folder / "mri_singlecoil_full" / "coronal_fatsat_2D_knee.mat")["kdata"]
    y = torch.from_numpy(knee)[None, None]
    yield "mri_singlecoil_full", Case(y, CartesianMRI(torch.ones(1, 1), tuple(y.shape[2:])))
    yield "mri_singlecoil_full, Fourier", Case(y, Fourier(tuple(y.shape[1:])))
    demo = folder / "cine_acdc_demo"
    frames = torch.from_numpy(loadmat(demo / "demo_data.mat")["demo_data"]).movedim(-1, 0)[1:]
    masks = torch.from_numpy(loadmat(demo / "mask_seq.mat")["sampling_mask_seq"]).movedim(-1, 0)
    x = (frames / 255).to(torch.complex64)[None, None]
    cine = CartesianMRI(masks, tuple(x.shape[1:]), axes=2)
    yield "cine_acdc_demo", Case(cine(x), cine)
    for k in range(0, x.shape[2], 4):
        whole = CartesianMRI(torch.ones(1, 1), tuple(x.shape[3:]))
        yield f"cine_acdc_demo, frame {k}", Case(whole(x[:, :, k]), whole)


def real_blurs(folder: Path) -> Iterator[tuple[str, Case]]:
    """Yield real pictures, blurred with Levin's kernels and noise of 1 or 3 %, and real stacks."""
    paths = [
        *sorted((folder / "set12").glob("*.png")),
        *sorted((folder / "bsd68_gray").glob("*.png"))[:40],
        *sorted((folder / "gb82_cc0").glob("*.png")),
    ]
    for k, path in enumerate(paths):
        picture = it.datasets.open(path)[0].y
        for number in (1 + k % 8, 1 + (k + 3) % 8):
            A = Blur(levin(number), tuple(picture.shape[2:]), boundary="periodic")
            y = A.simulate(picture, noise=(0.01, 0.03)[k % 2], seed=k)
            yield f"{path.parent.name}, {path.stem}, kernel {number}", Case(y, A)
    for k, taps in enumerate(other_kernels(folder)):
        picture = it.datasets.open(paths[k % 12])[0].y
        A = Blur(taps, tuple(picture.shape[2:]))
        yield f"kernels_12, {k}", Case(A.simulate(picture, noise=0.01, seed=k), A)
    stack = it.datasets.open(folder / "microscopy_flowdec" / "bars-25pct_data.tif").volume().y
    psf = it.datasets.open(folder / "microscopy_flowdec" / "bars-25pct_kernel.tif").volume().y
    yield (
        "microscopy_flowdec",
        Case(stack, it.operators.Blur3D(psf[0, 0] / psf.sum(), tuple(stack.shape[2:]))),
    )


def other_kernels(folder: Path) -> list[Tensor]:
    """Return the 12 kernels of KAIR: Gaussians and motions, of 25 by 25 pixels."""
    from scipy.io import loadmat

    cells = loadmat(folder / "kernels" / "kernels_12.mat")["kernels"].ravel()
    return [torch.from_numpy(np.asarray(cell, dtype=np.float32)) for cell in cells]


def zoo_items(half: int) -> Iterator[tuple[str, Case]]:
    """Yield the pictures and the k-space of half of the zoo, whose operators are right or nearly."""
    for job, entry in JOBS.items():
        for index in range(half, entry.count, 2):
            item = entry.make(index)
            yield f"zoo, {job} {index}: {item.about}", Case(item.y, item.A)
