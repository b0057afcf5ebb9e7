"""Pictures with poses from Blender's transforms.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from invtoolbox.datasets.views.transforms import open_blender
from invtoolbox.errors import InputError


def written(folder: Path, missing: bool = False) -> Path:
    from skimage import io

    pose = np.eye(4)
    pose[:3, 3] = [0.0, 0.0, 4.0]  # looks along -z, down on the origin, as Blender's cameras do
    (folder / "train").mkdir()
    picture = np.zeros((4, 6, 4), dtype=np.uint8)
    picture[1, 2] = [255, 128, 0, 51]
    io.imsave(folder / "train" / "r_0.png", picture, check_contrast=False)
    frames = [{"file_path": "./train/r_0", "transform_matrix": pose.tolist()}]
    if missing:
        frames.append({"file_path": "./train/r_1", "transform_matrix": pose.tolist()})
    file = folder / "transforms_train.json"
    file.write_text(json.dumps({"camera_angle_x": 0.9, "frames": frames}))
    return file


def test_pictures_poses_and_what_is_missing(tmp_path: Path) -> None:
    found = open_blender(written(tmp_path, missing=True))
    assert (
        found.skipped == ("./train/r_1",)
        and len(found) == 1
        and found.cameras.names == ("r_0.png",)
    )
    assert torch.allclose(found.pictures[0, :, 1, 2], torch.tensor([0.2, 0.2 * 128 / 255, 0.0]))
    assert torch.allclose(
        found.on(1.0)[0, :, 1, 2], torch.tensor([1.0, 0.8 + 0.2 * 128 / 255, 0.8])
    )
    assert torch.allclose(
        found.on(torch.tensor([1.0, 0.0, 0.0]))[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.0])
    )
    pixel, depth = found.cameras.project(
        torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    )
    assert torch.allclose(pixel[0, 0], torch.tensor([3.0, 2.0])) and torch.allclose(
        depth[0, 0], torch.tensor(4.0)
    )
    assert pixel[0, 1, 0] > 3 and pixel[0, 2, 1] < 2  # x goes right, y up


def test_what_is_no_such_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"transforms\.json"):
        open_blender(tmp_path / "transforms.json")
    file = written(tmp_path)
    (tmp_path / "train" / "r_0.png").unlink()
    with pytest.raises(InputError, match="none of the 1 pictures"):
        open_blender(file)


@pytest.mark.data
def test_lego_looks_at_the_middle(data_dir: Path) -> None:
    found = open_blender(data_dir / "nerf_lego_200" / "transforms_train.json")
    assert len(found) == 100 and found.cameras.size == (200, 200) and not found.skipped
    pixel, depth = found.cameras.project(torch.zeros(1, 3))
    assert bool(((pixel - 100).abs() < 30).all()) and torch.allclose(
        depth, torch.full_like(depth, 4.03), atol=0.1
    )
    assert 0.1 < float(found.alpha.mean()) < 0.5
