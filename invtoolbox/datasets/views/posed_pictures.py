"""Pictures and the cameras that took them: what every reader of camera sets gives, and how it loads them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.datasets.volumes.pictures import read_pixels, scale_to_unit
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras, intrinsics
from invtoolbox.geometry.lens import Lens, Straightening
from invtoolbox.geometry.rigid import inverse

#: How much the two sides of a picture may be scaled differently from what its file of cameras says.
_UNEVEN = 0.02


@dataclass(frozen=True, eq=False)
class PosedPictures:
    """Pictures, and the cameras that took them.

    Attributes:
        cameras: C of them, in the order of the pictures; ``cameras.names`` are those of the files.
        pictures: RGB between 0 and 1, premultiplied by the alpha, ``(C, 3, height, width)``.
        alpha: ``(C, 1, height, width)``; ones where the files have none.
        skipped: frames that are named and have no file.
        mask: 1 where a pixel counts and 0 where the set says that it does not, ``(C, 1, height, width)``; or None, where all do.
        depth: along the camera's z in the unit of the poses, 0 where it is not known, ``(C, 1, height, width)``; or None.
        points: points of the scene in the world that the set brings, ``(N, 3)``, or None; ``colors``, theirs, ``(N, 3)`` in [0, 1].
        box: the corners ``(low, high)`` of the part of the world that the set says the scene lies in, ``(2, 3)``, or None.
        near_far: of each camera the least and the largest depth of the scene, ``(C, 2)``, or None.
    """

    cameras: Cameras
    pictures: Tensor
    alpha: Tensor
    skipped: tuple[str, ...] = ()
    mask: Tensor | None = None
    depth: Tensor | None = None
    points: Tensor | None = None
    colors: Tensor | None = None
    box: Tensor | None = None
    near_far: Tensor | None = None

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: Any) -> PosedPictures:
        """Some of them: a slice, numbers, or a mask."""
        rows = torch.arange(len(self))[index].reshape(-1)
        per_view = {
            name: getattr(self, name) for name in ("pictures", "alpha", "mask", "depth", "near_far")
        }
        return replace(
            self,
            cameras=self.cameras[rows],
            **{name: t[rows] for name, t in per_view.items() if t is not None},
        )

    def on(self, background: float | Tensor) -> Tensor:
        """The pictures in front of a color, ``(C, 3, height, width)``."""
        shade = torch.as_tensor(background, dtype=self.pictures.dtype)
        return self.pictures + (1 - self.alpha) * (shade.view(-1, 1, 1) if shade.ndim else shade)

    def __repr__(self) -> str:
        height, width = self.cameras.size
        more = [
            name
            for name in ("mask", "depth", "points", "box", "near_far")
            if getattr(self, name) is not None
        ]
        return (
            f"PosedPictures({len(self)} of {height} x {width} pixels"
            + (f", with {', '.join(more)}" if more else "")
            + (f", {len(self.skipped)} skipped" if self.skipped else "")
            + ")"
        )


@dataclass(frozen=True, eq=False)
class View:
    """One picture as a file of cameras speaks of it.

    Attributes:
        name: as the file has it.
        picture: where it lies.
        world_to_camera: ``(4, 4)`` float64; x to the right, y down, z forward.
        intrinsics: ``(3, 3)`` float64, in pixels of a picture of `size`; the centre of the first pixel is ``(0.5, 0.5)``. Or, for square
            pixels and a principal point in the middle, the field of view across the width, radians.
        size: ``(height, width)`` that the intrinsics belong to, or None for that of the picture.
        lens: of the camera.
        mask: a picture that is 0 where a pixel does not count, or None.
        depth: a picture of depths, or None, and how long its unit is.
        said: how the file writes the name, where it writes another one; `skipped` says that.
    """

    name: str
    picture: Path
    world_to_camera: Tensor
    intrinsics: Tensor | float
    size: tuple[int, int] | None = None
    lens: Lens = dataclasses.field(default_factory=Lens)
    mask: Path | None = None
    depth: Path | None = None
    depth_unit: float = 1e-3
    said: str = ""


def load_views(
    path: str | Path,
    views: Sequence[View],
    *,
    shrink: int = 1,
    straighten: bool = True,
    names: Sequence[str] | None = None,
) -> PosedPictures:
    """Load the pictures of views, straightened and made smaller.

    Args:
        path: the file of cameras, for errors.
        shrink: every block of so many pixels a side becomes one, its mean; what is left at the right and at the bottom is cut off.
        straighten: resample the pictures of lenses that distort to those of a pinhole (`geometry.lens.Straightening`); False leaves them
            bent, and their cameras wrong by the distortion.
        names: only these, in the order of the file.

    Raises:
        InputError: no picture is there; one is of another shape than the file says; they have several sizes.
    """
    if names is not None:
        missing = sorted(set(names) - {view.name for view in views})
        if missing:
            raise InputError(
                f"{path}: there is no picture {missing[0]!r}; the first ones are {', '.join(v.name for v in views[:3])}"
            )
        views = [view for view in views if view.name in set(names)]
    if shrink < 1:
        raise InputError(f"{path}: shrink is a whole number from 1 on, got {shrink}")
    found = [view for view in views if view.picture.is_file()]
    if not found:
        where = f", such as {views[0].picture}" if views else ""
        raise InputError(f"none of the {len(views)} pictures that {path} names is there{where}")
    loaded: list[_Loaded] = []
    plans: dict[Any, Straightening] = {}
    for view in found:
        loaded.append(_load(path, view, shrink, straighten, plans))
    sizes = Counter(tuple(one.rgba.shape[1:]) for one in loaded)
    if len(sizes) > 1:
        told = ", ".join(f"{n} of {h} x {w}" for (h, w), n in sizes.most_common(4))
        raise InputError(
            f"the pictures of {path} have several sizes ({told} pixels); read those of one size with names="
        )
    size = next(iter(sizes))
    rgba = torch.stack([one.rgba for one in loaded])
    cameras = Cameras(
        torch.stack([view.world_to_camera for view in found]).float(),
        torch.stack([one.K for one in loaded]).float(),
        (int(size[0]), int(size[1])),
        tuple(view.name for view in found),
    )
    if not bool(cameras.intrinsics.isfinite().all() and cameras.world_to_camera.isfinite().all()):
        raise InputError(
            f"{path}: intrinsics or poses are too large for single precision; their unit is wrong, or the file is damaged"
        )
    skipped = tuple(view.said or view.name for view in views if view not in found)
    return PosedPictures(
        cameras,
        rgba[:, :3] * rgba[:, 3:],
        rgba[:, 3:],
        skipped,
        mask=_stacked([one.mask for one in loaded], 1.0),
        depth=_stacked([one.depth for one in loaded], 0.0),
    )


def rigid_poses(path: str | Path, names: Sequence[str], matrices: Any, to: str) -> Tensor:
    """Rigid motions ``(C, 4, 4)`` float64 from rows ``(C, 3 or 4, 4)``, rotations made exact.

    Args:
        names: of the frames, for errors.
        to: what they are, for errors: "camera to world".

    Raises:
        InputError: for NaN, and for what scales, shears or mirrors; it names the frame.
    """
    try:
        poses = np.array([np.array(matrix, dtype=np.float64)[:3] for matrix in matrices]).reshape(
            len(names), 3, 4
        )
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{path}: a pose ({to}) is a matrix of 4 by 4 numbers: {' '.join(str(error).split())[:100]}"
        ) from error
    top = torch.from_numpy(poses)
    wrong = (~top.isfinite().all(2).all(1)).nonzero()
    if len(wrong):
        raise InputError(
            f"{path}: the pose of {names[int(wrong[0])]!r} holds NaN or infinite numbers; take the frame out of the file"
        )
    R = top[:, :, :3]
    off = (R @ R.mT - torch.eye(3, dtype=R.dtype)).abs().amax((1, 2)) + (
        torch.linalg.det(R) - 1
    ).abs()
    if len(off) and float(off.max()) > 1e-3:
        raise InputError(
            f"{path}: the pose of {names[int(off.argmax())]!r} scales, shears or mirrors: its upper left 3 by 3 numbers are "
            f"no rotation; write rigid motions ({to})"
        )
    U, _, V = torch.linalg.svd(R)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype).expand(len(top), 1, 4)
    return torch.cat([torch.cat([U @ V, top[:, :, 3:]], dim=2), bottom], dim=1)


def from_opengl(camera_to_world: Tensor) -> Tensor:
    """World to camera with y down and z forward, from camera to world with y up and z backward (OpenGL, Blender): ``(C, 4, 4)``."""
    return inverse(
        camera_to_world
        @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=camera_to_world.dtype))
    )


def read_rgba(file: Path) -> Tensor:
    """A picture between 0 and 1 as it is stored, ``(4, height, width)``; alpha is 1 where the file has none."""
    array = read_pixels(file, 0)
    values = torch.from_numpy(np.ascontiguousarray(scale_to_unit(file, array), dtype=np.float32))
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 2, 3, 4):
        raise InputError(
            f"{file}: an array of shape {tuple(array.shape)} is neither a grey nor a color picture"
        )
    if not bool(values.isfinite().all()):
        raise InputError(
            f"{file}: the picture holds NaN or infinite values; repair it, or take it out of the set"
        )
    alpha = values[..., -1:] if values.shape[-1] in (2, 4) else torch.ones_like(values[..., :1])
    color = (
        values[..., :1].expand(*values.shape[:2], 3) if values.shape[-1] <= 2 else values[..., :3]
    )
    return torch.cat([color, alpha], dim=-1).permute(2, 0, 1).contiguous()


def one_channel(file: Path, size: tuple[int, int]) -> Tensor:
    """The stored numbers of a mask or of a picture of depths (or a `.npy`), ``(1, height, width)``; NaN becomes 0."""
    if file.suffix.lower() == ".npy":
        from invtoolbox.core.checks import decoding, require_file

        with decoding(require_file(file), "NumPy"):
            array = np.load(file, allow_pickle=False)
    else:
        array = read_pixels(file, 0)
    array = array[..., 0] if array.ndim == 3 else array
    if array.shape != size:
        raise InputError(
            f"{file} has the shape {array.shape}, and its picture has {size[0]} x {size[1]} pixels"
        )
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None].nan_to_num(
        0.0, posinf=0.0, neginf=0.0
    )


@dataclass(frozen=True, eq=False)
class _Loaded:
    rgba: Tensor
    K: Tensor
    mask: Tensor | None
    depth: Tensor | None


def _load(
    path: Any, view: View, shrink: int, straighten: bool, plans: dict[Any, Straightening]
) -> _Loaded:
    rgba = read_rgba(view.picture)
    size = (int(rgba.shape[1]), int(rgba.shape[2]))
    K = (
        view.intrinsics.double()
        if isinstance(view.intrinsics, Tensor)
        else _of_angle(view.intrinsics, size)
    )
    if view.size is not None and view.size != size:
        down, across = (mine / said for mine, said in zip(size, view.size))
        if abs(down / across - 1) > _UNEVEN:
            raise InputError(
                f"{view.picture} has {size[0]} x {size[1]} pixels, and {path} speaks of {view.size[0]} x {view.size[1]}; "
                "it is turned, cut, or another picture"
            )
        K = torch.tensor([across, down, 1.0], dtype=K.dtype)[:, None] * K
    mask, depth = (
        None if file is None else one_channel(file, size) for file in (view.mask, view.depth)
    )
    mask = None if mask is None else (mask > 0).float()
    depth = None if depth is None else depth * view.depth_unit
    if straighten and view.lens.distorts:
        key = (view.lens, size, tuple(K.flatten().tolist()))
        if key not in plans:
            plans[key] = _plan(view, K, size)
        plan = plans[key]
        # Colors are straightened premultiplied, else what lies behind an edge of alpha 0 bleeds into it.
        premultiplied = plan(torch.cat([rgba[:3] * rgba[3:], rgba[3:]]))
        rgba = torch.cat(
            [premultiplied[:3] / premultiplied[3:].clamp(min=1e-6), premultiplied[3:]]
        ).clamp(0, 1)
        mask = None if mask is None else (plan(mask, "bilinear") > 0.999).float()
        depth = None if depth is None else plan(depth, "nearest")
        K = plan.intrinsics
    if shrink > 1:
        if min(size) < shrink:
            raise InputError(
                f"{view.picture} has {size[0]} x {size[1]} pixels; it cannot shrink by {shrink}"
            )
        alpha = functional.avg_pool2d(rgba[3:], shrink)
        rgba = torch.cat(
            [functional.avg_pool2d(rgba[:3] * rgba[3:], shrink) / alpha.clamp(min=1e-6), alpha]
        )
        mask = None if mask is None else -functional.max_pool2d(-mask, shrink)
        depth = None if depth is None else _middle_depth(depth, shrink)
        K = torch.tensor([1 / shrink, 1 / shrink, 1.0], dtype=K.dtype)[:, None] * K
    return _Loaded(rgba, K, mask, depth)


def _of_angle(angle: float, size: tuple[int, int]) -> Tensor:
    return intrinsics(0.5 * size[1] / math.tan(0.5 * angle), size).double()


def _plan(view: View, K: Tensor, size: tuple[int, int]) -> Straightening:
    try:
        return Straightening.of(view.lens, K, size)
    except InputError as error:
        raise InputError(f"{view.picture}: {error}") from error


def _middle_depth(depth: Tensor, shrink: int) -> Tensor:
    """The lower median of the known depths of each block: a mean would lie between foreground and background."""
    height, width = (side // shrink for side in depth.shape[1:])
    blocks = (
        depth[:, : height * shrink, : width * shrink]
        .unfold(1, shrink, shrink)
        .unfold(2, shrink, shrink)
        .flatten(3)
    )
    known = torch.where(blocks > 0, blocks, torch.nan)
    return known.nanmedian(dim=3).values.nan_to_num(0.0)


def _stacked(parts: Sequence[Tensor | None], otherwise: float) -> Tensor | None:
    """All of them, with a constant for those that lack it; None where all do."""
    some = next((part for part in parts if part is not None), None)
    return (
        None
        if some is None
        else torch.stack(
            [torch.full_like(some, otherwise) if part is None else part for part in parts]
        )
    )
