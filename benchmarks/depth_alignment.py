"""Depths of a short video: scale and shift of every frame, and depths that agree between frames.

    python benchmarks/depth_alignment.py

Six frames of INVTOOLBOX_DATA/livingroom_rgbd, numbers 0, 9, ..., 45, at half the resolution. Every
depth map gets a random scale (factors of 0.5 to 2) and shift (up to 0.5 m), and noise of 5 % of the
depth in every pixel. `it.align_depths` knows the cameras alone.

The recorded poses are an estimate; the second table has the poses that small-gicp finds from the
true depths. Weight and widths were chosen on frames 60 to 105 and on analytic scenes.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from common import data_folder, machine, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry import Cameras

FRAMES = range(0, 54, 9)
NOISE = 0.05


def main() -> None:
    torch.set_num_threads(1)
    print(f"Depths of a short video; {machine()}")
    names = [f"{frame:05d}.jpg" for frame in FRAMES]
    video = it.datasets.open_views(data_folder() / "livingroom_rgbd", shrink=2, names=names)
    depth = video.depth[:, 0].double()
    cameras = video.cameras.to(torch.float64)
    for title, views in (
        ("recorded poses", cameras),
        ("poses by small-gicp", refine_poses(cameras, depth)),
    ):
        print(
            f"  {title}: largest error of a scale, of a shift relative to the mean depth; RMSE in mm"
        )
        measure(views, depth, 0.0, "no noise")
        found = measure(views, depth, NOISE, "noise of 5 %")
        print("    " + verdict(max(found[:2]) <= 0.01, "scale and shift within 1 %"))
        bar = f"RMSE 40 % below the noise, {100 * (1 - found[3] / found[2]):.0f} % here"
        print("    " + verdict(found[3] <= 0.6 * found[2], bar))


def measure(cameras: Cameras, depth: Tensor, noise: float, title: str) -> list[float]:
    """Return the errors of scales and shifts, and the RMSE of the noise and of the result."""
    draws = torch.Generator().manual_seed(1)
    scale = torch.empty(len(depth), dtype=torch.float64).uniform_(-0.7, 0.7, generator=draws).exp()
    shift = torch.empty(len(depth), dtype=torch.float64).uniform_(-0.5, 0.5, generator=draws)
    spoil = 1 + noise * torch.randn(depth.shape, generator=draws, dtype=torch.float64)
    known = depth > 0
    maps = scale[:, None, None] * depth * spoil + shift[:, None, None]
    maps = torch.where(known, maps, torch.nan)
    began = time.process_time()
    found = it.align_depths(maps.float(), cameras, consistency=1.0 if noise else 0.0)
    seconds = time.process_time() - began
    off = (found.shift[0] - shift) / scale / depth[known].mean()
    errors = [float((found.scale[0] / scale - 1).abs().max()), float(off.abs().max())]
    for result in (depth * spoil, found.depths[0]):
        errors.append(1e3 * float((result - depth)[known].square().mean().sqrt()))
    print(
        f"    {title:14s}{100 * errors[0]:6.2f} %{100 * errors[1]:6.2f} %   noise {errors[2]:5.1f}, "
        f"found {errors[3]:5.1f}; noise level {float(found.noise[0]):.3f}; {seconds:.0f} s of "
        "processor time"
    )
    return errors


def refine_poses(cameras: Cameras, depth: Tensor) -> Cameras:
    """Return the cameras after aligning the point cloud of every frame with that of the first one."""
    import small_gicp

    origins, directions = cameras.rays()
    points = origins + depth[..., None] * directions
    clouds = [own[seen].numpy() for own, seen in zip(points, depth > 0)]
    poses = [cameras.world_to_camera[0]]
    for pose, cloud in zip(cameras.world_to_camera[1:], clouds[1:]):
        found = small_gicp.align(
            clouds[0], cloud, downsampling_resolution=0.02, max_correspondence_distance=0.05
        )
        poses.append(pose @ torch.linalg.inv(torch.from_numpy(np.array(found.T_target_source))))
    return replace(cameras, world_to_camera=torch.stack(poses))


if __name__ == "__main__":
    main()
