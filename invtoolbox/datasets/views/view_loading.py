"""Views: pictures as a file of cameras describes them, and their conversion to `PosedPictures`.

Every reader of views lists its pictures as `View`s and calls `load_views`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.checks import sniff
from invtoolbox.core.guards import check_range
from invtoolbox.datasets.pose_files import nearest_motions, rotation_errors
from invtoolbox.datasets.views.photograph_files import (
    find_pictures,
    middle_depth,
    read_blocks,
    read_one_channel,
    resize,
)
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.volumes.pictures import read_orientation, read_size
from invtoolbox.errors import InputError, naming
from invtoolbox.geometry.cameras import Cameras, intrinsics
from invtoolbox.geometry.lens import Lens, Straightening
from invtoolbox.geometry.rigid import inverse

#: Largest relative difference between the scales of the two sides of a picture, compared with the
#: size in its file of cameras.
_UNEVEN = 0.02


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


@dataclass(frozen=True)
class Loading:
    """How the pictures of views are loaded: reduced, straightened, chosen, kept on disk.

    Attributes:
        shrink: side of the blocks of pixels that become one pixel, their mean; remaining pixels at
            the right and at the bottom are cut off.
        straighten: resample the pictures of lenses that distort to pictures of a pinhole
            (`geometry.lens.Straightening`). If false, pictures remain distorted, and their cameras
            have lenses (`Cameras.lenses`).
        names: names of the pictures to load, in the order of the file; all by default.
        largest_side: number of pixels of the longer side above which a picture is reduced to it.
        on_disk: leave the pictures in their files, from which `PosedPictures.read` reads them.

    Raises:
        InputError: if `shrink` or `largest_side` is below 1.
    """

    shrink: int = 1
    straighten: bool = True
    names: Sequence[str] | None = None
    largest_side: int | None = None
    on_disk: bool = False

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "shrink", "largest_side")


def load_views(
    path: str | Path, views: Sequence[View], loading: Loading = Loading()
) -> PosedPictures:
    """Load the pictures of views; straighten and shrink them.

    Pictures of several sizes lie in the upper left corners of pictures of one size, and the mask is
    0 outside of them.

    Args:
        path: path of the file of cameras, for error messages.
        views: views in the order of the file.
        loading: how the pictures are loaded.

    Raises:
        InputError: if no picture exists, or if the shape of a picture differs from the file of
            cameras or from its mask.
    """
    if loading.names is not None:
        missing = sorted(set(loading.names) - {view.name for view in views})
        if missing:
            raise InputError(
                f"{path}: there is no picture {missing[0]!r}; the first pictures are "
                f"{', '.join(v.name for v in views[:3])}"
            )
        views = [view for view in views if view.name in set(loading.names)]
    capture = Path(path) if Path(path).is_dir() else Path(path).parent
    places = find_pictures([view.picture for view in views], capture) if views else {}
    notes = [f"the pictures are taken from {place.parent}" for place in list(places.values())[:1]]
    views = [replace(view, picture=places.get(view.picture, view.picture)) for view in views]
    existing = [view for view in views if view.picture.is_file()]
    if not existing:
        where = f"; move them to {views[0].picture.parent}" if views else ""
        first = f", such as {views[0].picture.name}" if views else ""
        raise InputError(f"none of the {len(views)} pictures of {path} exists{first}{where}")
    frames = _Frames(path, loading)
    for view in existing:
        frames.add(view)
    cameras = frames.cameras
    if not bool(cameras.intrinsics.isfinite().all() and cameras.world_to_camera.isfinite().all()):
        raise InputError(
            f"{path}: intrinsics or poses are too large for single precision; their unit is wrong, "
            "or the file is damaged"
        )
    stored = PosedPictures(
        cameras,
        torch.zeros(0, 3, *frames.canvas),
        torch.zeros(0, 1, *frames.canvas),
        tuple(view.written_name or view.name for view in views if view not in existing),
        sizes=frames.sizes,
        source=frames.load,
        notes=tuple(notes),
        files=tuple(view.picture for view in existing),
    )
    return stored if loading.on_disk else stored.read()


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


@dataclass(frozen=True, eq=False)
class _Frame:
    """Geometry of one picture: its straightening, and the camera and the size of the result.

    Blocks of ``block`` pixels are averaged first if the picture is much larger than needed. At the
    end the picture makes a number of quarter turns clockwise, so that it is upright.
    """

    view: View
    stored: tuple[int, int]
    block: int
    plan: Straightening | None
    target: tuple[int, int]
    turns: int
    world_to_camera: Tensor
    intrinsics: Tensor
    size: tuple[int, int]
    lens: Lens


class _Frames:
    """Pictures in their files, and their conversion to pictures of one size."""

    def __init__(self, path: Any, loading: Loading) -> None:
        self.path, self.loading = path, loading
        self.frames: list[_Frame] = []
        self._plans: dict[Any, Straightening] = {}

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width that hold every picture."""
        height, width = (max(frame.size[k] for frame in self.frames) for k in range(2))
        return height, width

    @property
    def sizes(self) -> Tensor | None:
        """Sizes of the pictures ``(C, 2)``; None if all are the same."""
        sizes = torch.tensor([frame.size for frame in self.frames])
        return sizes if bool((sizes != sizes[0]).any()) else None

    def add(self, view: View) -> None:
        """Add a picture.

        Args:
            view: the picture and its camera.
        """
        stored = read_size(view.picture)
        has_tag = sniff(view.picture) in ("jpeg", "png", "tiff", "webp")
        turns = _TURNS.get(read_orientation(view.picture), 0) if has_tag else 0
        view = _as_stored(view, stored, turns)
        K = _fit_intrinsics(self.path, view, stored)
        shrink, largest_side = self.loading.shrink, self.loading.largest_side or math.inf
        block = max(1, int(max(stored) / (2 * shrink * largest_side)))
        size = (stored[0] // block, stored[1] // block)
        K = torch.tensor([1 / block, 1 / block, 1.0], dtype=K.dtype)[:, None] * K
        plan = None
        if self.loading.straighten and view.lens.distorts:
            key = (view.lens, size, tuple(K.flatten().tolist()))
            if key not in self._plans:
                with naming(view.picture):
                    self._plans[key] = Straightening.of(view.lens, K, size)
            plan = self._plans[key]
            K = plan.intrinsics
        if min(size) < shrink:
            raise InputError(
                f"{view.picture} has {size[0]} x {size[1]} pixels and cannot be shrunk by "
                f"{shrink}; choose a smaller number"
            )
        height, width = (side // shrink for side in size)
        K = torch.tensor([1 / shrink, 1 / shrink, 1.0], dtype=K.dtype)[:, None] * K
        factor = min(1.0, largest_side / max(height, width))
        target = (max(1, round(height * factor)), max(1, round(width * factor)))
        ratio = torch.tensor([target[1] / width, target[0] / height, 1.0], dtype=K.dtype)
        pose, K, upright = _turn(view.world_to_camera, ratio[:, None] * K, target, turns)
        lens = Lens() if self.loading.straighten else view.lens
        for _ in range(turns):
            lens = lens.quarter_turn()
        self.frames.append(
            _Frame(
                view,
                stored=stored,
                block=block,
                plan=plan,
                target=target,
                turns=turns,
                world_to_camera=pose,
                intrinsics=K,
                size=upright,
                lens=lens,
            )
        )

    def load(self, rows: Tensor) -> PosedPictures:
        """Read pictures.

        Args:
            rows: numbers of the pictures.
        """
        chosen = [self.frames[row] for row in rows.tolist()]
        count, (height, width) = len(chosen), self.canvas
        rgba = torch.zeros(count, 4, height, width)
        has_mask = self.sizes is not None or any(f.view.mask is not None for f in self.frames)
        has_depth = any(f.view.depth is not None for f in self.frames)
        mask = torch.zeros(count, 1, height, width) if has_mask else None
        depth = torch.zeros(count, 1, height, width) if has_depth else None
        for k, frame in enumerate(chosen):
            colors, valid, distances = self._read(frame)
            corner = (k, slice(None), slice(0, frame.size[0]), slice(0, frame.size[1]))
            rgba[corner] = colors
            if mask is not None:
                mask[corner] = 1.0 if valid is None else valid
            if depth is not None and distances is not None:
                depth[corner] = distances
        return PosedPictures(self.cameras[rows], rgba[:, :3], rgba[:, 3:], mask=mask, depth=depth)

    @property
    def cameras(self) -> Cameras:
        """Cameras of the pictures."""
        views = [frame.view for frame in self.frames]
        return Cameras(
            torch.stack([frame.world_to_camera for frame in self.frames]).float(),
            torch.stack([frame.intrinsics for frame in self.frames]).float(),
            self.canvas,
            tuple(view.name for view in views),
            tuple(frame.lens for frame in self.frames),
        )

    def _read(self, frame: _Frame) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Read colors, premultiplied, with alpha, mask and depth of one picture."""
        view, shrink = frame.view, self.loading.shrink
        if read_size(view.picture) != frame.stored:
            raise InputError(f"{view.picture} has changed while it was in use; start again")
        rgba = read_blocks(view.picture, frame.block)
        mask, depth = (
            None if file is None else read_one_channel(file, frame.stored)
            for file in (view.mask, view.depth)
        )
        mask = None if mask is None else (mask > 0).float()
        depth = None if depth is None else depth * view.depth_unit
        if frame.block > 1:
            mask = None if mask is None else -functional.max_pool2d(-mask, frame.block)
            depth = None if depth is None else middle_depth(depth, frame.block)
        if (plan := frame.plan) is not None:
            rgba = plan(rgba).clamp(0, 1)
            rgba[:3] = rgba[:3].minimum(rgba[3:])
            mask = None if mask is None else (plan(mask, "bilinear") > 0.999).float()
            depth = None if depth is None else plan(depth, "nearest")
        if shrink > 1:
            rgba = functional.avg_pool2d(rgba, shrink)
            mask = None if mask is None else -functional.max_pool2d(-mask, shrink)
            depth = None if depth is None else middle_depth(depth, shrink)
        if tuple(rgba.shape[1:]) != frame.target:
            channels = (None if channel is None else channel[None] for channel in (mask, depth))
            colors, mask, depth = resize(frame.target, rgba[None], *channels)
            rgba = colors[0]
            mask, depth = (None if channel is None else channel[0] for channel in (mask, depth))
        if frame.turns:
            rgba = rgba.rot90(-frame.turns, (1, 2))
            mask, depth = (
                None if channel is None else channel.rot90(-frame.turns, (1, 2))
                for channel in (mask, depth)
            )
        return rgba, mask, depth


#: Quarter turns clockwise that make a picture upright, by its orientation tag. Mirrored pictures
#: stay as they are, because no camera mirrors.
_TURNS = {3: 2, 6: 1, 8: 3}


def _turn(
    pose: Tensor, K: Tensor, size: tuple[int, int], turns: int
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return pose, intrinsics and size of a camera whose picture makes quarter turns clockwise.

    >>> K = torch.tensor([[5.0, 0, 1], [0, 6, 2], [0, 0, 1]])
    >>> _turn(torch.eye(4), K, (8, 4), 1)[1:]
    (tensor([[6., 0., 6.],
            [0., 5., 1.],
            [0., 0., 1.]]), (4, 8))
    """
    for _ in range(turns):
        height = float(size[0])
        pixel = K.new_tensor([[0.0, -1.0, height], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        quarter = torch.eye(4, dtype=pose.dtype)
        quarter[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        pose, K = quarter @ pose, pixel @ K @ quarter[:3, :3].to(K).T
        size = size[1], size[0]
    return pose, K, size


def _as_stored(view: View, stored: tuple[int, int], turns: int) -> View:
    """Return a view whose camera belongs to the pixels as stored.

    A file of cameras may belong to the upright picture, as OpenCV reads it. Its size then shows
    that, unless the picture is square.
    """
    size, K = view.size, view.intrinsics
    if turns % 2 == 0 or size is None or not isinstance(K, Tensor) or any(view.lens.tangential):
        return view
    if (size[0] > size[1]) == (stored[0] > stored[1]):
        return view
    pose, K, size = _turn(view.world_to_camera, K.double(), size, 4 - turns)
    return replace(view, world_to_camera=pose, intrinsics=K, size=size)


def _fit_intrinsics(path: Any, view: View, size: tuple[int, int]) -> Tensor:
    """Return the intrinsics of a picture at its size in the file."""
    K = view.intrinsics
    if not isinstance(K, Tensor):
        K = intrinsics(0.5 * size[1] / math.tan(0.5 * K), size)
    K = K.double()
    if view.size is None or view.size == size:
        return K
    # A side may be declared as 0 or as nearly infinite.
    down, across = (actual / side if side > 0 else 0.0 for actual, side in zip(size, view.size))
    if not (across > 0 and abs(down - across) <= _UNEVEN * across):
        raise InputError(
            f"{view.picture} has {size[0]} x {size[1]} pixels, but {path} declares "
            f"{view.size[0]} x {view.size[1]}; it is rotated, cropped, or another picture"
        )
    return torch.tensor([across, down, 1.0], dtype=K.dtype)[:, None] * K
