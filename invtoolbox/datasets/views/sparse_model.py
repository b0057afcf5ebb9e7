"""Sparse model of structure from motion: cameras, poses, points, and observations of points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from invtoolbox.core.trust import named_file
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.view_loading import Loading, View, load_views
from invtoolbox.errors import InputError
from invtoolbox.geometry.lens import Lens


@dataclass(frozen=True, eq=False)
class SparseCamera:
    """One camera, which may have taken many pictures.

    Attributes:
        intrinsics: intrinsics in pixels, float64 ``(3, 3)``; the centre of the first pixel is
            ``(0.5, 0.5)``.
        size: height and width in pixels.
        lens: distortion of the camera; None for an unknown model, whose pictures cannot be loaded.
        model: name of the model in the file, for error messages.
    """

    intrinsics: Tensor
    size: tuple[int, int]
    lens: Lens | None = None
    model: str = ""


@dataclass(frozen=True, eq=False)
class SparseModel:
    """S pictures with poses, N points of the scene, and M observations of these points.

    Positions are in the world and the unit of the file.

    Attributes:
        cameras: cameras, each once.
        names: names of the pictures.
        world_to_camera: poses of the pictures, float64 ``(S, 4, 4)``; x to the right, y down, z
            forward.
        camera_of: row of the camera of each picture, int64 ``(S,)``.
        points: positions of the points, float64 ``(N, 3)``.
        colors: colors of the points, uint8 ``(N, 3)``.
        pixels: position ``(column, row)`` of each observation in its picture, including the
            distortion of the lens, float64 ``(M, 2)``.
        picture_of, point_of: picture and point of each observation, int64 ``(M,)``.
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
                    f"SparseModel takes {name} of shape {shape}, got "
                    f"{tuple(getattr(self, name).shape)}"
                )
        for name, count in (("camera_of", len(self.cameras)), ("picture_of", S), ("point_of", N)):
            rows = getattr(self, name)
            if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < count):
                raise InputError(
                    f"SparseModel takes {name} from 0 to {count - 1}, got {int(rows.min())} to "
                    f"{int(rows.max())}"
                )

    def project(self) -> Tensor:
        """Project the observed points into their pictures, ``(M, 2)``; NaN for unknown lenses."""
        inside = torch.einsum(
            "mij,mj->mi", self.world_to_camera[self.picture_of, :3, :3], self.points[self.point_of]
        )
        inside = inside + self.world_to_camera[self.picture_of, :3, 3]
        rays = inside[:, :2] / inside[:, 2:]
        pixels = torch.full_like(rays, torch.nan)
        camera_of = self.camera_of[self.picture_of]
        for k, camera in enumerate(self.cameras):
            rows = camera_of == k
            if camera.lens is not None and bool(rows.any()):
                pixels[rows] = camera.lens.pixels(rays[rows], camera.intrinsics)
        return pixels

    def reprojection_errors(self) -> Tensor:
        """Compute the distance of each observation from the projection of its point, ``(M,)``.

        Distances are in pixels.
        """
        return (self.project() - self.pixels).norm(dim=1)

    def mean_errors(self) -> Tensor:
        """Compute the mean of the `reprojection_errors` per point, ``(N,)``.

        It is 0 for points without observations.
        """
        zeros = self.points.new_zeros(len(self.points))
        total = zeros.index_add_(0, self.point_of, self.reprojection_errors())
        return total / torch.bincount(self.point_of, minlength=len(self.points)).clamp(min=1)

    def views(
        self,
        path: str | Path,
        pictures: str | Path,
        loading: Loading = Loading(),
        *,
        masks: Callable[[str], Path] | None = None,
    ) -> PosedPictures:
        """Load the pictures of a folder with the poses and the points of this model.

        Args:
            path: path of the model, for error messages.
            pictures: folder of the pictures.
            loading: how the pictures are loaded.
            masks: function that returns the path of the mask of a picture; the file is optional. By
                default ``NAME.png`` or ``STEM.png`` in a folder ``masks`` in or next to the folder
                of the pictures.
        """
        views = []
        for name, pose, row in zip(self.names, self.world_to_camera, self.camera_of.tolist()):
            camera = self.cameras[row]
            if camera.lens is None:
                raise InputError(
                    f"{path}: the camera of {name!r} is of the model {camera.model}, whose "
                    "distortion is not known here; undistort the pictures first (COLMAP's "
                    "image_undistorter)"
                )
            mask = _find_mask(Path(pictures), name) if masks is None else masks(name)
            views.append(
                View(
                    name,
                    named_file(Path(pictures), name, Path(path)),
                    pose,
                    camera.intrinsics,
                    camera.size,
                    camera.lens,
                    mask=mask if mask is not None and mask.is_file() else None,
                )
            )
        loaded = load_views(path, views, loading)
        if not len(self.points):
            return loaded
        return replace(loaded, points=self.points.float(), colors=self.colors.float() / 255)

    def __repr__(self) -> str:
        return (
            f"SparseModel({len(self.names)} pictures of {len(self.cameras)} cameras, "
            f"{len(self.points)} points, {len(self.pixels)} observations)"
        )


def _find_mask(pictures: Path, name: str) -> Path | None:
    folders = (folder / "masks" for folder in (pictures, pictures.parent))
    files = (folder / f"{word}.png" for folder in folders for word in (name, Path(name).stem))
    return next((file for file in files if file.is_file()), None)
