"""Register one pair of images by another library, in the environment of that library.

    PYTHON benchmarks/registration_worker.py TOOLS FOLDER

TOOLS are names with commas: syn, greedy, greedy_squares, elastix. FOLDER holds moving.npy, fixed.npy, and
settings.json with the spacing along every axis, and whether an affine motion comes first. Displacements
on the fixed grid, along its axes in the unit of the spacing, are written to FOLDER/TOOL.npy, and seconds
of processor time with one thread are printed. NumPy and the libraries are all that it imports: `antspyx`,
`picsl-greedy` with `SimpleITK`, `itk-elastix`. Settings are the usual ones of each library, and those of
the tutorial of `greedy`: 100, 100 and 10 iterations, a radius of 2 pixels.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")

import numpy as np

Images = list[np.ndarray]


def syn(images: Images, spacing: list[float], is_affine: bool) -> tuple[np.ndarray, float]:
    """Register by the symmetric normalization of ANTs, with its usual settings."""
    import ants

    moving, fixed = (ants.from_numpy(x, spacing=tuple(spacing)) for x in images)
    kind, began = ("SyN" if is_affine else "SyNOnly"), time.process_time()
    found = ants.registration(
        fixed, moving, kind, **({} if is_affine else {"initial_transform": "identity"})
    )
    spent = time.process_time() - began
    path = ants.apply_transforms(
        fixed, moving, found["fwdtransforms"], compose=str(FOLDER / "syn_")
    )
    return np.moveaxis(ants.image_read(path).numpy(), -1, 0), spent


def greedy(
    images: Images, spacing: list[float], is_affine: bool, metric: str = "NCC 2x2x2"
) -> tuple[np.ndarray, float]:
    """Register by greedy: local correlation of windows of 5 pixels."""
    import picsl_greedy
    import SimpleITK as sitk

    d = len(spacing)
    pair = [sitk.GetImageFromArray(x) for x in images[::-1]]
    for image in pair:
        image.SetSpacing(spacing[::-1])
    tool = (picsl_greedy.Greedy2D if d == 2 else picsl_greedy.Greedy3D)()
    options = f"-i fixed moving -m {metric.replace('2x2x2', 'x'.join('2' * d))} -threads 1"
    M, began = np.eye(d + 1), time.process_time()
    extra = {"fixed": pair[0], "moving": pair[1], "warp": None}
    if is_affine:
        tool.execute(
            f"{options} -a -dof 12 -n 100x50x10 -ia-identity -o affine", affine=None, **extra
        )
        M, extra = np.array(tool["affine"]), {"warp": None}
        options += " -it affine"
    tool.execute(f"{options} -n 100x100x10 -o warp", **extra)
    spent = time.process_time() - began
    warp = np.moveaxis(sitk.GetArrayFromImage(tool["warp"]), -1, 0)  # components x, y, z in mm
    # Matrices are of positions in the frame of NIfTI, whose x and y run against ITK's.
    turn = np.diag([*[-1.0, -1.0, 1.0, 1.0][:d], 1.0])
    L = turn @ M @ turn
    sizes = np.array(spacing).reshape(-1, *[1] * d)
    p = (np.indices(images[1].shape) * sizes)[::-1]
    q = np.tensordot(L[:d, :d], p + warp, 1) + L[:d, d].reshape(-1, *[1] * d)
    return (q - p)[::-1], spent


def greedy_squares(
    images: Images, spacing: list[float], is_affine: bool
) -> tuple[np.ndarray, float]:
    """Register by greedy with least squares."""
    return greedy(images, spacing, is_affine, "SSD")


def elastix(images: Images, spacing: list[float], is_affine: bool) -> tuple[np.ndarray, float]:
    """Register by B-splines of elastix, 8 pixels apart, with its usual settings otherwise."""
    import itk

    moving, fixed = (itk.image_from_array(np.float32(x)) for x in images)
    for image in (moving, fixed):
        image.SetSpacing(spacing[::-1])
    settings = itk.ParameterObject.New()
    if is_affine:
        settings.AddParameterMap(settings.GetDefaultParameterMap("affine", 4))
    settings.AddParameterMap(settings.GetDefaultParameterMap("bspline", 3, 8.0 * spacing[0]))
    began = time.process_time()
    _, found = itk.elastix_registration_method(
        fixed, moving, parameter_object=settings, log_to_console=False, number_of_threads=1
    )
    spent = time.process_time() - began
    field = itk.transformix_deformation_field(moving, found)
    return np.moveaxis(itk.array_from_image(field), -1, 0)[::-1], spent


if __name__ == "__main__":
    FOLDER = Path(sys.argv[2])
    STATE = json.loads((FOLDER / "settings.json").read_text())
    PAIR = [np.load(FOLDER / f"{name}.npy") for name in ("moving", "fixed")]
    SPENT = {}
    for CALL in (syn, greedy, greedy_squares, elastix):
        if CALL.__name__ in sys.argv[1].split(","):
            U, SPENT[CALL.__name__] = CALL(PAIR, STATE["spacing"], STATE["is_affine"])
            np.save(FOLDER / f"{CALL.__name__}.npy", np.float32(U))
    print(json.dumps(SPENT))
