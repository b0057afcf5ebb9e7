"""A small scene, its photographs in the layout of Blender, and scene files of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from invtoolbox.geometry import Cameras, Splats, look_at
from invtoolbox.geometry.rigid import inverse
from invtoolbox.operators import GaussianRenderer

VOXELS = """
[[prior]]
name = "voxel-grid"
low = [-1, -1, -1]
high = [1, 1, 1]
resolution = 16
degree = 0
[[prior]]
name = "voxel-variation"
weight = 1e-5
[solver]
name = "adam"
learning_rate = 0.1
beta_square = 0.99
subset_size = 512
[[stage]]
iterations = 25
prior.resolution = 8
[[stage]]
iterations = 25
"""
GAUSSIANS = """
[prior]
name = "gaussians"
low = [-1, -1, -1]
high = [1, 1, 1]
count = 150
most = 300
degree = 0
length = 80
[data_term]
name = "photometric"
similarity = 0.0
[solver]
name = "adam"
subset_size = 1
epsilon = 1e-15
[[stage]]
iterations = 80
"""


def cameras(count: int = 12, side: int = 24) -> Cameras:
    """Around the origin, some of them from above."""
    angle = torch.arange(count) * 2 * torch.pi / count
    height = 0.8 * torch.cos(3 * angle)
    return look_at(
        4 * torch.stack([torch.cos(angle), height, torch.sin(angle)], 1),
        size=(side, side),
        field_of_view=40.0,
    )


def balls() -> Splats:
    """Three colored balls."""
    places = torch.tensor([[[-0.4, 0.0, 0.0], [0.4, 0.2, 0.1], [0.0, -0.4, 0.3]]])
    return Splats.of_points(places, torch.eye(3)[None] * 0.8 + 0.1, 0.2, 0.95)


def write_photographs(folder: Path, views: Cameras | None = None) -> Path:
    """Photographs of the balls with their alpha, r_0.png and so on, and transforms.json."""
    views = cameras() if views is None else views
    folder.mkdir(parents=True, exist_ok=True)
    seen: Tensor = GaussianRenderer(views, ("color", "alpha"))(balls())[0].transpose(0, 1)
    to_world = inverse(views.world_to_camera.double()) @ torch.diag(
        torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    )
    frames = []
    for k, picture in enumerate(seen):
        write_rgba(folder / f"r_{k}.png", picture)
        frames.append({"file_path": f"./r_{k}", "transform_matrix": to_world[k].tolist()})
    angle = 2 * float(torch.atan(views.size[1] / 2 / views.intrinsics[0, 0, 0]))
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return folder


def write_rgba(path: Path, picture: Tensor) -> None:
    from PIL import Image

    alpha = picture[3:].clamp(0, 1)
    straight = torch.where(
        alpha > 0, picture[:3] / alpha.clamp_min(1e-6), torch.zeros_like(picture[:3])
    ).clamp(0, 1)
    Image.fromarray(
        (255 * torch.cat([straight, alpha])).round().byte().permute(1, 2, 0).numpy()
    ).save(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photographs and two scene files, which the test works in."""
    monkeypatch.chdir(tmp_path)
    write_photographs(tmp_path / "photographs")
    head = '# Three balls.\n[views]\npath = "photographs"\nhold_out = 4\nbackground = 1.0\n'
    (tmp_path / "voxels.toml").write_text(head + VOXELS)
    (tmp_path / "gaussians.toml").write_text(head + GAUSSIANS)
    return tmp_path
