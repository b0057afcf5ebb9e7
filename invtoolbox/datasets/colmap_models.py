"""COLMAP's models of cameras: their numbers in binary files, their parameters, and the lenses that they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from invtoolbox.datasets.sparse_model import SparseCamera
from invtoolbox.errors import InputError
from invtoolbox.scenes.lens import Lens

#: Names in the order of their numbers, and how many parameters each has.
MODELS: dict[str, int] = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
    "RAD_TAN_THIN_PRISM_FISHEYE": 16,
}
#: One focal length for columns and rows.
_ONE_FOCAL = (
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
)
_NO_LENS = ("FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE")


def camera_of(
    what: str, model: str, width: int, height: int, parameters: Sequence[float]
) -> SparseCamera:
    """A camera out of a line of ``cameras.txt``.

    Args:
        what: the file and the camera, for errors.

    >>> camera_of("camera 1", "SIMPLE_RADIAL", 640, 480, [500.0, 320.0, 240.0, 0.1]).lens
    Lens(kind='perspective', radial=(0.1,), tangential=(0.0, 0.0))
    """
    if model not in MODELS:
        raise InputError(f"{what} is of the model {model[:40]!r}; known are {', '.join(MODELS)}")
    p = [float(value) for value in parameters]
    if len(p) != MODELS[model]:
        raise InputError(
            f"{what} has {len(p)} parameters, and the model {model} has {MODELS[model]}"
        )
    focal = 1 if model in _ONE_FOCAL else 2
    fx, fy, (cx, cy), rest = p[0], p[focal - 1], p[focal : focal + 2], p[focal + 2 :]
    if (
        not all(map(math.isfinite, p))
        or not (fx > 0 and fy > 0)
        or not (0 < width < 2**24 and 0 < height < 2**24)
    ):
        raise InputError(
            f"{what} has {width} x {height} pixels and the focal lengths {fx:g} and {fy:g}, with the parameters {p}; sizes "
            "and focal lengths are above 0, and all are finite"
        )
    K = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return SparseCamera(K, (height, width), _lens(model, rest), model)


def _lens(model: str, rest: Sequence[float]) -> Lens | None:
    if model in _NO_LENS:
        return None
    if model.endswith("FISHEYE"):
        return Lens("fisheye", tuple(rest))
    if model in ("OPENCV", "FULL_OPENCV"):
        k1, k2, p1, p2, *more = rest
        return Lens(radial=(k1, k2, *more), tangential=(p1, p2))
    return Lens(radial=tuple(rest))


def parameters_of(camera: SparseCamera) -> tuple[str, list[float]]:
    """The plainest model that holds a camera, and its parameters.

    Raises:
        InputError: for intrinsics with a skew, which no model of COLMAP has, and for a lens that is not known.
    """
    K, lens = camera.intrinsics, camera.lens
    if lens is None or float(K[0, 1]) != 0:
        raise InputError(
            "a camera with a skew, or of a lens that is not known, is none of COLMAP's models"
        )
    pinhole = [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]
    radial = [*lens.radial, *[0.0] * (6 - len(lens.radial))]
    if lens.kind == "fisheye":
        return "OPENCV_FISHEYE", [*pinhole, *radial[:4]]
    if any(radial[2:]):
        return "FULL_OPENCV", [*pinhole, *radial[:2], *lens.tangential, *radial[2:]]
    if lens.distorts:
        return "OPENCV", [*pinhole, *radial[:2], *lens.tangential]
    return "PINHOLE", pinhole
