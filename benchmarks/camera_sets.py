"""Readers of camera sets on real data, compared with COLMAP's own reader, and the fusion of depths.

    python benchmarks/camera_sets.py [--step 5] [--voxel 0.03]

Points are projected and compared with their measured pixels. pycolmap is compared if it is
installed. The depths of a room are fused to one surface, by Open3D: every `step`-th frame, at half
the pixels; then the distance of the points of the frames in between to the mesh is measured.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from scipy.spatial import cKDTree

import invtoolbox as it
from invtoolbox.datasets import PosedPictures, SparseModel, read_colmap, read_opensfm, write_colmap
from invtoolbox.geometry.meshes import Mesh

LARGEST_DEPTH = 3.5


def main(step: int = 5, voxel: float = 0.03) -> None:
    torch.set_num_threads(1)
    print(machine())
    model = read_opensfm(data_folder() / "opensfm_berlin" / "reconstruction_example.json")
    errors = model.reprojection_errors()
    print(
        f"opensfm_berlin, {len(model.points)} points, {len(errors)} observations in 3 pictures of "
        f"3264 x 2448: median {errors.median():.2f}, mean {errors.mean():.2f} pixels "
        f"{verdict(float(errors.median()) < 1, 'median below 1 pixel')}"
    )
    for binary in (True, False):
        with_colmap(model, binary)
    room(step, voxel)


def with_colmap(model: SparseModel, binary: bool) -> None:
    """Compare COLMAP's reading of our files, and our reading of the files that it writes."""
    try:
        import pycolmap
    except ImportError:
        print("pycolmap is not installed: no comparison")
        return
    kind = "binary" if binary else "text"
    with tempfile.TemporaryDirectory() as folder:
        theirs = pycolmap.Reconstruction(str(write_colmap(folder + "/ours", model, binary)))
        off = abs(theirs.compute_mean_reprojection_error() - float(model.mean_errors().mean()))
        back = Path(folder, "theirs")
        back.mkdir()
        (theirs.write_binary if binary else theirs.write_text)(str(back))
        again = read_colmap(back)
        moved = float(
            (
                again.world_to_camera[[again.names.index(name) for name in model.names]]
                - model.world_to_camera
            )
            .abs()
            .max()
        )
        project = max(
            float((torch.from_numpy(image.project_point(point)) - pixel).norm())
            for image, pixel, point in _projections(theirs, model)
        )
    print(
        f"pycolmap {pycolmap.__version__}, {kind}: mean reprojection error of its reader against "
        f"ours {off:.1e}, projections {project:.1e} pixels, poses of its files {moved:.1e} "
        f"{verdict(max(off, project, moved) < 1e-6, '1e-6')}"
    )


def _projections(theirs: Any, model: SparseModel) -> list[tuple[Any, torch.Tensor, np.ndarray]]:
    images = {image.name: image for image in theirs.images.values()}
    seen = model.project()
    names = [model.names[k] for k in model.picture_of.tolist()]
    return [
        (images[names[k]], seen[k], model.points[model.point_of[k]].numpy())
        for k in range(0, len(seen), 100)
    ]


def room(step: int, voxel: float) -> None:
    every = sorted((data_folder() / "livingroom_rgbd" / "image").glob("*.jpg"))
    used, left = every[::step], every[step // 2 :: step]
    loading = it.datasets.Loading(names=[f.name for f in {*used, *left}], shrink=2)
    pictures = it.datasets.open_rgbd(data_folder() / "livingroom_rgbd", loading)
    names = list(pictures.cameras.names)
    train, held = (pictures[[names.index(f.name) for f in part]] for part in (used, left))
    assert train.depth is not None
    began = time.perf_counter()
    import open3d  # noqa: F401

    loaded = time.perf_counter() - began
    began = time.perf_counter()
    mesh = it.geometry.fuse_depth(
        train.cameras, train.depth, voxel, colors=train.pictures, largest_depth=LARGEST_DEPTH
    ).mesh()
    seconds = time.perf_counter() - began
    median, share = from_mesh(mesh, held, voxel)
    print(
        f"livingroom_rgbd, {len(train)} frames of {train.cameras.size[0]} x "
        f"{train.cameras.size[1]} fused at {100 * voxel:g} cm in {seconds:.2f} s, after {loaded:.1f} s "
        f"for the import of Open3D: "
        f"{len(mesh.faces):,} faces; points of {len(held)} other frames lie {1000 * median:.1f} mm "
        f"from it (median), {100 * share:.1f} % within a voxel "
        f"{verdict(median < voxel / 2, 'median below half a voxel')}"
    )


def from_mesh(mesh: Mesh, pictures: PosedPictures, voxel: float) -> tuple[float, float]:
    """Compute the median distance of the points of frames to the nearest vertex.

    The second value is the number of points within one voxel.
    """
    assert pictures.depth is not None
    origins, directions = pictures.cameras.rays()
    depth = pictures.depth[:, 0]
    points = (origins + depth[..., None] * directions)[(depth > 0) & (depth < LARGEST_DEPTH - 0.5)][
        ::50
    ]
    distance = cKDTree(mesh.vertices.numpy()).query(points.numpy())[0]
    return float(np.median(distance)), float((distance < voxel).mean())


if __name__ == "__main__":
    run_script(main)
