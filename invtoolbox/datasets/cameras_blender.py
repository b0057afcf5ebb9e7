"""Pictures with poses in the layout of the synthetic NeRF scenes: ``transforms_train.json`` as Blender's exporters write it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.scenes.cameras import Cameras, intrinsics
from invtoolbox.scenes.rigid import inverse


@dataclass(frozen=True, eq=False)
class PosedPictures:
    """Pictures, and the cameras that took them.

    Attributes:
        cameras: C of them, in the order of the pictures; ``cameras.names`` are those of the files.
        pictures: RGB between 0 and 1, premultiplied by the alpha, ``(C, 3, height, width)``.
        alpha: ``(C, 1, height, width)``; ones where the files have none.
        skipped: frames that are named and have no file.
    """

    cameras: Cameras
    pictures: Tensor
    alpha: Tensor
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: Any) -> PosedPictures:
        rows = torch.arange(len(self))[index].reshape(-1)
        return PosedPictures(self.cameras[rows], self.pictures[rows], self.alpha[rows], self.skipped)

    def on(self, background: float | Tensor) -> Tensor:
        """The pictures in front of a colour, ``(C, 3, height, width)``."""
        shade = torch.as_tensor(background, dtype=self.pictures.dtype)
        return self.pictures + (1 - self.alpha) * (shade.view(-1, 1, 1) if shade.ndim else shade)


def open_blender(path: str | Path) -> PosedPictures:
    """Read a ``transforms*.json`` with ``camera_angle_x``, and the pictures that it names (``.png`` where it gives no suffix).

    ``transform_matrix`` takes the camera's frame to the world, with the camera's y up and z backward.

    Raises:
        InputError: for a file that is none of this kind, without a picture, or with pictures of several sizes.
    """
    file = Path(path)
    try:
        table = json.loads(file.read_text())
        angle, frames = float(table["camera_angle_x"]), table["frames"]
        poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)
        names = [str(frame["file_path"]) for frame in frames]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no transforms.json of Blender: {error}") from error
    found, skipped = [], []
    for k, name in enumerate(names):
        place = file.parent / name
        place = place if place.suffix else place.with_suffix(".png")
        if place.is_file():
            found.append((k, place))
        else:
            skipped.append(name)
    if not found:
        raise InputError(f"none of the {len(names)} pictures that {file} names is there")
    pictures = [_picture(place) for _, place in found]
    if len({p.shape for p in pictures}) != 1:
        raise InputError(f"the pictures of {file} have several sizes: {sorted({tuple(p.shape[1:]) for p in pictures})}")
    stacked = torch.stack(pictures)
    height, width = stacked.shape[2:]
    to_world = poses[[k for k, _ in found]] @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    K = intrinsics(0.5 * width / math.tan(0.5 * angle), (height, width)).expand(len(found), 3, 3)
    cameras = Cameras(inverse(to_world).float(), K, (height, width), tuple(place.name for _, place in found))
    alpha = stacked[:, 3:]
    return PosedPictures(cameras, stacked[:, :3] * alpha, alpha, tuple(skipped))


def _picture(place: Path) -> Tensor:
    """RGBA between 0 and 1, ``(4, height, width)``."""
    from skimage import io

    raw = torch.from_numpy(io.imread(place))
    values = raw.float() / (255 if raw.dtype == torch.uint8 else 65535)
    if values.ndim == 2:
        values = values[..., None].expand(*values.shape, 3)
    if values.shape[-1] == 3:
        values = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)
    return values.permute(2, 0, 1).contiguous()
