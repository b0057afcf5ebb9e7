"""What structure from motion finds: lenses, poses, points, and which point was seen at which pixel of which picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from invtoolbox.datasets.views.posed_pictures import PosedPictures, View, load_views
from invtoolbox.errors import InputError
from invtoolbox.geometry.lens import Lens


@dataclass(frozen=True, eq=False)
class SparseCamera:
    """One camera, which may have taken many pictures.

    Attributes:
        intrinsics: ``(3, 3)`` float64, pixels; the centre of the first pixel is ``(0.5, 0.5)``.
        size: ``(height, width)``, pixels.
        lens: how it distorts; or None for a model that is not known here: then its pictures cannot be loaded.
        model: what the file calls it, for errors.
    """

    intrinsics: Tensor
    size: tuple[int, int]
    lens: Lens | None = None
    model: str = ""


@dataclass(frozen=True, eq=False)
class SparseModel:
    """Pictures with poses, N points of the scene, and M observations of them, in the world and the unit of the file.

    Attributes:
        cameras: each once.
        names: of the S pictures.
        world_to_camera: ``(S, 4, 4)`` float64; x to the right, y down, z forward.
        camera_of: the row of the camera of each picture, ``(S,)`` int64.
        points: ``(N, 3)`` float64.
        colors: ``(N, 3)`` uint8.
        pixels: where points were seen, ``(column, row)`` in the pictures as the lens took them, ``(M, 2)`` float64.
        picture_of, point_of: the picture and the point of each observation, ``(M,)`` int64.
    """

    cameras: tuple[SparseCamera, ...]
    names: tuple[str, ...]
    world_to_camera: Tensor
    camera_of: Tensor
    points: Tensor
    colors: Tensor
    pixels: Tensor
    picture_of: Tensor
    point_of: Tensor

    def __post_init__(self) -> None:
        S, N, M = len(self.names), len(self.points), len(self.pixels)
        shapes = {
            "world_to_camera": (S, 4, 4),
            "camera_of": (S,),
            "points": (N, 3),
            "colors": (N, 3),
            "pixels": (M, 2),
            "picture_of": (M,),
            "point_of": (M,),
        }
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise InputError(
                    f"SparseModel takes {name} of shape {shape}, got {tuple(getattr(self, name).shape)}"
                )
        for name, count in (("camera_of", len(self.cameras)), ("picture_of", S), ("point_of", N)):
            rows = getattr(self, name)
            if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < count):
                raise InputError(
                    f"SparseModel takes {name} from 0 to {count - 1}, got {int(rows.min())} to {int(rows.max())}"
                )

    def project(self) -> Tensor:
        """Where the observed points should have been seen, ``(M, 2)``; NaN for lenses that are not known."""
        inside = torch.einsum(
            "mij,mj->mi", self.world_to_camera[self.picture_of, :3, :3], self.points[self.point_of]
        )
        inside = inside + self.world_to_camera[self.picture_of, :3, 3]
        rays = inside[:, :2] / inside[:, 2:]
        seen = torch.full_like(rays, torch.nan)
        camera_of = self.camera_of[self.picture_of]
        for k, camera in enumerate(self.cameras):
            rows = camera_of == k
            if camera.lens is not None and bool(rows.any()):
                seen[rows] = camera.lens.pixels(rays[rows], camera.intrinsics)
        return seen

    def reprojection_errors(self) -> Tensor:
        """How far each observation lies from the projection of its point, pixels, ``(M,)``."""
        return (self.project() - self.pixels).norm(dim=1)

    def mean_errors(self) -> Tensor:
        """The mean of the `reprojection_errors` of each point, ``(N,)``; 0 for points without observations."""
        total = self.points.new_zeros(len(self.points)).index_add_(
            0, self.point_of, self.reprojection_errors()
        )
        return total / torch.bincount(self.point_of, minlength=len(self.points)).clamp(min=1)

    def views(
        self,
        path: str | Path,
        pictures: str | Path,
        *,
        masks: Callable[[str], Path] | None = None,
        shrink: int = 1,
        straighten: bool = True,
        names: Sequence[str] | None = None,
    ) -> PosedPictures:
        """The pictures of a folder with these poses, and the points.

        Args:
            path: the file of the model, for errors.
            masks: gives the file of the mask of a picture, which need not exist.
        """
        views = []
        for name, pose, row in zip(self.names, self.world_to_camera, self.camera_of.tolist()):
            camera = self.cameras[row]
            if camera.lens is None:
                raise InputError(
                    f"{path}: the camera of {name!r} is of the model {camera.model}, whose distortion is not known here; "
                    "undistort the pictures first (COLMAP's image_undistorter)"
                )
            mask = None if masks is None else masks(name)
            views.append(
                View(
                    name,
                    Path(pictures) / name,
                    pose,
                    camera.intrinsics,
                    camera.size,
                    camera.lens,
                    mask=mask if mask is not None and mask.is_file() else None,
                )
            )
        found = load_views(path, views, shrink=shrink, straighten=straighten, names=names)
        if not len(self.points):
            return found
        return replace(found, points=self.points.float(), colors=self.colors.float() / 255)

    def __repr__(self) -> str:
        return (
            f"SparseModel({len(self.names)} pictures of {len(self.cameras)} cameras, {len(self.points)} points, "
            f"{len(self.pixels)} observations)"
        )
