"""Pictures with an orientation tag: upright, and their cameras with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invtoolbox.datasets import open_views
from invtoolbox.datasets.views.transforms import write_transforms
from invtoolbox.datasets.views.view_loading import _turn
from invtoolbox.geometry import Cameras, Splats, look_at
from invtoolbox.geometry.lens import Lens
from invtoolbox.operators import GaussianRenderer

F64 = torch.float64


@pytest.mark.parametrize("of_the_file", ["stored", "upright"])
@pytest.mark.parametrize(("tag", "turns"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_a_picture_is_upright_and_its_camera_sees_it(
    tag: int, turns: int, of_the_file: str, tmp_path: Path
) -> None:
    """The file of cameras may belong to the pixels as stored, or to the upright picture."""
    if of_the_file == "upright" and turns == 2:
        pytest.skip("a picture upside down has the same size as stored")
    views = look_at(torch.tensor([[0.6, -0.4, -3.0]]), size=(30, 20), field_of_view=40.0).to(F64)
    points = torch.tensor([[[0.0, 0.0, 0.0], [0.3, 0.6, 0.0], [-0.2, 0.4, 0.3]]], dtype=F64)
    x = Splats.of_points(points, torch.eye(3, dtype=F64)[None], 0.2, 0.9)
    picture = (255 * GaussianRenderer(views)(x)[0, :, 0]).round().byte()
    exif = Image.Exif()
    exif[274] = tag
    stored = picture.rot90(turns, (1, 2)).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    pose, K, size = _turn(views.world_to_camera[0], views.intrinsics[0], views.size, 4 - turns)
    own = Cameras(pose[None], K[None], size) if of_the_file == "stored" else views
    write_transforms(tmp_path / "transforms.json", Cameras(*_fields(own), ("a.png",)))
    found = open_views(tmp_path)
    assert torch.equal((255 * found.pictures[0]).round().byte(), picture)
    assert found.cameras.size == (30, 20)
    assert torch.allclose(found.cameras.world_to_camera.double(), views.world_to_camera, atol=1e-6)
    assert torch.allclose(found.cameras.intrinsics.double(), views.intrinsics, atol=1e-5)


def test_the_lens_of_a_picture_turns_with_it() -> None:
    lens = Lens(radial=(-0.2, 0.03), tangential=(0.02, -0.01))
    view = look_at(torch.tensor([[0.6, -0.4, -3.0]]), size=(30, 20), field_of_view=40.0).to(F64)
    pose, K, size = _turn(view.world_to_camera[0], view.intrinsics[0], view.size, 1)
    turned = Cameras(pose[None], K[None], size, lenses=(lens.quarter_turn(),))
    points = torch.rand(9, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    before = Cameras(*_fields(view), lenses=(lens,)).project(points)[0][0]
    after = turned.project(points)[0][0]
    assert torch.allclose(after, torch.stack([30 - before[:, 1], before[:, 0]], 1))


def _fields(cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    return cameras.world_to_camera, cameras.intrinsics, cameras.size
