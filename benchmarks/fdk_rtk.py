"""FDK of this package and of RTK (itk-rtk) on the same projections: largest difference, and processor time.

    python benchmarks/fdk_rtk.py [--side 128] [--views 180] [--repeats 3]

One thread each, alternating in one process; the compilation of kernels is not counted. RTK's geometry is written to
a file and read by `it.datasets.open`, so that the axes are those of the reader.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import machine, run_script, verdict

import invtoolbox as it

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    return call(), time.process_time() - began


def main(side: int = 128, views: int = 180, repeats: int = 3) -> None:
    """Run the benchmark."""
    import itk
    from itk import RTK as rtk

    from tests.datasets import scanner_sets as sets

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    torch.set_num_threads(1)
    setup = sets.Setup(panel=(side, side), cell=28.0 / side, views=views)
    with tempfile.TemporaryDirectory() as folder:
        scan: Any = it.datasets.open(sets.write_rtk(Path(folder), setup))
        y, A = scan[0].y, scan.geometry.operator()
        geometry = rtk.ThreeDCircularProjectionGeometry.New()
        for k in range(views):
            geometry.AddProjection(setup.near, setup.far, math.degrees(setup.arc) / views * k)
        Image = itk.Image[itk.F, 3]
        # The arrays of RTK's images must outlive the filters.
        stack = itk.image_from_array(y[0, 0].numpy())
        stack.SetSpacing([setup.cell, setup.cell, 1.0])
        stack.SetOrigin([-(side - 1) / 2 * setup.cell] * 2 + [0.0])

        def peer() -> np.ndarray:
            source = rtk.ConstantImageSource[Image].New()
            source.SetOrigin([-(side - 1) / 2 * setup.voxel] * 3)
            source.SetSpacing([setup.voxel] * 3)
            source.SetSize([side] * 3)
            source.SetConstant(0.0)
            fdk = rtk.FDKConeBeamReconstructionFilter[Image].New()
            fdk.SetInput(0, source.GetOutput())
            fdk.SetInput(1, stack)
            fdk.SetGeometry(geometry)
            fdk.GetRampFilter().SetTruncationCorrection(0.0)
            fdk.Update()
            # RTK's axes (z, y, x) are (-y, z, x) here.
            return itk.array_from_image(fdk.GetOutput()).transpose(1, 0, 2)[:, ::-1]

        A.pseudo_inverse(y)
        ours, theirs = [], []
        for _ in range(repeats):
            x, seconds = timed(lambda: A.pseudo_inverse(y))
            ours.append(seconds)
            reference, seconds = timed(peer)
            theirs.append(seconds)
    print(machine())
    inside = (
        torch.hypot(*torch.meshgrid(*[torch.arange(side) - (side - 1) / 2] * 2, indexing="ij"))
        < 0.45 * side
    )
    difference = (
        np.abs(x[0, 0].numpy() - reference)[:, inside.numpy()].max() / np.abs(reference).max()
    )
    print(
        f"{views} views of {side} x {side} cells, volume {side} x {side} x {side}, {repeats} repetitions, 1 thread"
    )
    print(
        f"largest difference {difference:.1e} of the largest value {verdict(difference <= 1e-4, 'at most 1e-4')}"
    )
    ratio = median(ours) / median(theirs)
    print(
        f"processor time {median(ours):.2f} s against {median(theirs):.2f} s of RTK, ratio {ratio:.2f} "
        f"{verdict(ratio <= 0.1, 'at most 0.1')}"
    )


if __name__ == "__main__":
    run_script(main)
