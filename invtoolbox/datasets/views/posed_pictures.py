"""Pictures with their cameras, and the functions by which every reader of views loads them."""

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

from invtoolbox.datasets.sweeps.pose_files import nearest_motions, rotation_errors
from invtoolbox.datasets.volumes.pictures import read_pixels, scale_to_unit
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras, intrinsics
from invtoolbox.geometry.lens import Lens, Straightening
from invtoolbox.geometry.rigid import inverse

#: Largest relative difference between the scales of the two sides of a picture, compared with the
#: size in its file of cameras.
_UNEVEN = 0.02


@dataclass(frozen=True, eq=False)
class PosedPictures:
    """Pictures, and the cameras that took them.

    Attributes:
        cameras: C cameras, in the order of the pictures; ``cameras.names`` are the names of the
            files.
        pictures: RGB between 0 and 1, premultiplied by the alpha, ``(C, 3, height, width)``.
        alpha: alpha, ``(C, 1, height, width)``; ones if the files have no alpha.
        skipped: names of the frames without a file.
        mask: 1 for pixels that count and 0 for pixels that the set excludes,
            ``(C, 1, height, width)``; None if all pixels count.
        depth: depth along the camera's z in the unit of the poses, 0 if unknown,
            ``(C, 1, height, width)``; or None.
        points: points of the scene in the world, ``(N, 3)``, or None.
        colors: colors of the points in [0, 1], ``(N, 3)``, or None.
        box: corners ``(low, high)`` of the part of the world that contains the scene, ``(2, 3)``,
            or None.
        near_far: least and largest depth of the scene per camera, ``(C, 2)``, or None.
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
        """Select pictures by a slice, numbers, or a mask."""
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
        """Blend the pictures with a color as background, ``(C, 3, height, width)``."""
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
    """One picture as described by a file of cameras.

    Attributes:
        name: name of the picture.
        picture: path of the picture.
        world_to_camera: pose, float64 ``(4, 4)``; x to the right, y down, z forward.
        intrinsics: intrinsics in pixels of a picture of `size`, float64 ``(3, 3)``; the centre of
            the first pixel is ``(0.5, 0.5)``. A number is the field of view across the width in
            radians, for square pixels and a principal point in the middle.
        size: height and width to which the intrinsics belong, or None for the size of the picture.
        lens: lens of the camera.
        mask: path of a picture that is 0 at pixels that do not count, or None.
        depth: path of a picture of depths, or None.
        depth_unit: length of the unit of the depths.
        written_name: name in the file of cameras if it differs from `name`; `skipped` lists it.
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
    written_name: str = ""


def load_views(
    path: str | Path,
    views: Sequence[View],
    *,
    shrink: int = 1,
    straighten: bool = True,
    names: Sequence[str] | None = None,
) -> PosedPictures:
    """Load the pictures of views; straighten and shrink them.

    Args:
        path: path of the file of cameras, for error messages.
        views: views in the order of the file.
        shrink: side of the blocks of pixels that become one pixel, their mean; remaining pixels at
            the right and at the bottom are cut off.
        straighten: resample the pictures of lenses that distort to pictures of a pinhole
            (`geometry.lens.Straightening`). If false, pictures remain distorted, and their cameras
            are wrong by the distortion.
        names: names of the pictures to load, in the order of the file; all by default.

    Raises:
        InputError: if no picture exists, if the shape of a picture differs from the file of
            cameras, or if the pictures have several sizes.
    """
    if names is not None:
        missing = sorted(set(names) - {view.name for view in views})
        if missing:
            raise InputError(
                f"{path}: there is no picture {missing[0]!r}; the first pictures are "
                f"{', '.join(v.name for v in views[:3])}"
            )
        views = [view for view in views if view.name in set(names)]
    if shrink < 1:
        raise InputError(f"{path}: shrink must be a whole number of at least 1, got {shrink}")
    found = [view for view in views if view.picture.is_file()]
    if not found:
        where = f", such as {views[0].picture}" if views else ""
        raise InputError(
            f"none of the {len(views)} pictures of {path} exists{where}; check the folder of the "
            "pictures"
        )
    plans: dict[Any, Straightening] = {}
    loaded = [_load(path, view, shrink, straighten, plans) for view in found]
    sizes = Counter(tuple(one.rgba.shape[1:]) for one in loaded)
    if len(sizes) > 1:
        listed = ", ".join(f"{n} of {h} x {w}" for (h, w), n in sizes.most_common(4))
        raise InputError(
            f"the pictures of {path} have several sizes ({listed} pixels); choose pictures of one "
            "size with names="
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
            f"{path}: intrinsics or poses are too large for single precision; their unit is wrong, "
            "or the file is damaged"
        )
    skipped = tuple(view.written_name or view.name for view in views if view not in found)
    return PosedPictures(
        cameras,
        rgba[:, :3] * rgba[:, 3:],
        rgba[:, 3:],
        skipped,
        mask=_stack([one.mask for one in loaded], 1.0),
        depth=_stack([one.depth for one in loaded], 0.0),
    )


def rigid_poses(path: str | Path, names: Sequence[str], matrices: Any, to: str) -> Tensor:
    """Build rigid motions with exact rotations, float64 ``(C, 4, 4)``.

    Args:
        path: path of the file, for error messages.
        names: names of the frames, for error messages.
        matrices: matrices ``(C, 3, 4)`` or ``(C, 4, 4)``.
        to: direction of the motions, for error messages: "camera to world".

    Raises:
        InputError: for NaN, and for a matrix that scales, shears or mirrors; the error names the
            frame.
    """
    try:
        poses = np.array([np.array(matrix, dtype=np.float64)[:3] for matrix in matrices]).reshape(
            len(names), 3, 4
        )
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{path}: a pose ({to}) must be a matrix of 4 by 4 numbers: "
            f"{' '.join(str(error).split())[:100]}"
        ) from error
    top = torch.from_numpy(poses)
    wrong = (~top.isfinite().all(2).all(1)).nonzero()
    if len(wrong):
        raise InputError(
            f"{path}: the pose of {names[int(wrong[0])]!r} holds NaN or infinite numbers; remove "
            "the frame from the file"
        )
    off = rotation_errors(top)
    if len(off) and float(off.max()) > 1e-3:
        raise InputError(
            f"{path}: the pose of {names[int(off.argmax())]!r} scales, shears or mirrors: its "
            f"upper left 3 by 3 numbers are not a rotation; write rigid motions ({to})"
        )
    return nearest_motions(top)


def from_opengl(camera_to_world: Tensor) -> Tensor:
    """Convert poses of OpenGL and Blender to ours, ``(C, 4, 4)``.

    The arguments map the camera's frame with y up and z backward to the world. The results map the
    world to the camera's frame with y down and z forward.
    """
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=camera_to_world.dtype))
    return inverse(camera_to_world @ flip)


def read_rgba(file: Path) -> Tensor:
    """Read a picture between 0 and 1 as stored, ``(4, height, width)``.

    Alpha is 1 if the file has no alpha.
    """
    array = read_pixels(file, 0)
    values = torch.from_numpy(np.ascontiguousarray(scale_to_unit(file, array), dtype=np.float32))
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 2, 3, 4):
        raise InputError(
            f"{file}: an array of shape {tuple(array.shape)} is neither a grey nor a color "
            "picture; export it again"
        )
    if not bool(values.isfinite().all()):
        raise InputError(
            f"{file}: the picture holds NaN or infinite values; repair it, or remove it from the "
            "set"
        )
    alpha = values[..., -1:] if values.shape[-1] in (2, 4) else torch.ones_like(values[..., :1])
    color = (
        values[..., :1].expand(*values.shape[:2], 3) if values.shape[-1] <= 2 else values[..., :3]
    )
    return torch.cat([color, alpha], dim=-1).permute(2, 0, 1).contiguous()


def read_one_channel(file: Path, size: tuple[int, int]) -> Tensor:
    """Read the stored numbers of a mask or of depths from a picture or a `.npy`.

    The result is ``(1, height, width)``; NaN becomes 0.
    """
    if file.suffix.lower() == ".npy":
        from invtoolbox.core.checks import decoding, open_arrays

        with decoding(file, "NumPy"):
            array = open_arrays(file)
    else:
        array = read_pixels(file, 0)
    array = array[..., 0] if array.ndim == 3 else array
    if array.shape != size:
        raise InputError(
            f"{file} has the shape {array.shape}, but its picture has {size[0]} x {size[1]} "
            "pixels; export it again"
        )
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
    return values.nan_to_num(0.0, posinf=0.0, neginf=0.0)


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
    K = view.intrinsics
    if not isinstance(K, Tensor):
        K = intrinsics(0.5 * size[1] / math.tan(0.5 * K), size)
    K = K.double()
    if view.size is not None and view.size != size:
        down, across = (actual / declared for actual, declared in zip(size, view.size))
        if abs(down / across - 1) > _UNEVEN:
            raise InputError(
                f"{view.picture} has {size[0]} x {size[1]} pixels, but {path} declares "
                f"{view.size[0]} x {view.size[1]}; it is rotated, cropped, or another picture"
            )
        K = torch.tensor([across, down, 1.0], dtype=K.dtype)[:, None] * K
    mask, depth = (
        None if file is None else read_one_channel(file, size) for file in (view.mask, view.depth)
    )
    mask = None if mask is None else (mask > 0).float()
    depth = None if depth is None else depth * view.depth_unit
    if straighten and view.lens.distorts:
        key = (view.lens, size, tuple(K.flatten().tolist()))
        if key not in plans:
            plans[key] = _plan(view, K, size)
        plan = plans[key]
        # Colors are straightened premultiplied; otherwise colors of alpha 0 bleed across edges.
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
                f"{view.picture} has {size[0]} x {size[1]} pixels and cannot be shrunk by "
                f"{shrink}; choose a smaller number"
            )
        alpha = functional.avg_pool2d(rgba[3:], shrink)
        rgba = torch.cat(
            [functional.avg_pool2d(rgba[:3] * rgba[3:], shrink) / alpha.clamp(min=1e-6), alpha]
        )
        mask = None if mask is None else -functional.max_pool2d(-mask, shrink)
        depth = None if depth is None else _middle_depth(depth, shrink)
        K = torch.tensor([1 / shrink, 1 / shrink, 1.0], dtype=K.dtype)[:, None] * K
    return _Loaded(rgba, K, mask, depth)


def _plan(view: View, K: Tensor, size: tuple[int, int]) -> Straightening:
    try:
        return Straightening.of(view.lens, K, size)
    except InputError as error:
        raise InputError(f"{view.picture}: {error}") from error


def _middle_depth(depth: Tensor, shrink: int) -> Tensor:
    """Return the lower median of the known depths of each block.

    A mean would lie between the foreground and the background.
    """
    height, width = (side // shrink for side in depth.shape[1:])
    blocks = (
        depth[:, : height * shrink, : width * shrink]
        .unfold(1, shrink, shrink)
        .unfold(2, shrink, shrink)
        .flatten(3)
    )
    known = torch.where(blocks > 0, blocks, torch.nan)
    return known.nanmedian(dim=3).values.nan_to_num(0.0)


def _stack(parts: Sequence[Tensor | None], missing: float) -> Tensor | None:
    """Stack tensors, with a constant for missing ones; None if all are missing."""
    some = next((part for part in parts if part is not None), None)
    if some is None:
        return None
    constant = torch.full_like(some, missing)
    return torch.stack([constant if part is None else part for part in parts])
