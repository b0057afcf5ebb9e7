"""transforms.json of nerfstudio and instant-ngp: conventions, lenses, what is missing, what is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from invtoolbox.datasets import open_views, write_ply, write_png, write_transforms
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import look_at
from invtoolbox.geometry.lens import Lens

POSE = [
    [1.0, 0.0, 0.0, 0.5],
    [0.0, 1.0, 0.0, 0.0],
    [0.0, 0.0, 1.0, 4.0],
    [0.0, 0.0, 0.0, 1.0],
]  # looks down -z from (0.5, 0, 4)


def written(
    folder: Path, table: dict[str, Any], size: tuple[int, int] = (4, 6), frames: int = 2
) -> Path:
    generator = torch.Generator().manual_seed(0)
    (folder / "images").mkdir(exist_ok=True)
    for k in range(frames):
        write_png(
            folder / "images" / f"{k}.png",
            torch.rand(3, *size, generator=generator),
            value_range=(0, 1),
            overwrite=True,
        )
    base = {
        "frames": [
            {"file_path": f"images/{k}.png", "transform_matrix": POSE} for k in range(frames)
        ]
    }
    file = folder / "transforms.json"
    file.write_text(json.dumps({**base, **table}))
    return file


def test_shared_and_own_intrinsics_sizes_and_axes(tmp_path: Path) -> None:
    frames = [
        {"file_path": "images/0.png", "transform_matrix": POSE},
        {"file_path": "images/1.png", "transform_matrix": POSE, "fl_x": 20.0, "cx": 5.0},
        {"file_path": "images/7.png", "transform_matrix": POSE},
    ]
    file = written(
        tmp_path,
        {"w": 12, "h": 8, "fl_x": 10.0, "fl_y": 11.0, "cx": 6.5, "cy": 3.0, "frames": frames},
    )
    found = open_views(file)
    # The pictures are half as large as the file says, and so are the intrinsics.
    assert torch.allclose(
        found.cameras.intrinsics[0],
        torch.tensor([[5.0, 0.0, 3.25], [0.0, 5.5, 1.5], [0.0, 0.0, 1.0]]),
    )
    assert torch.allclose(
        found.cameras.intrinsics[1],
        torch.tensor([[10.0, 0.0, 2.5], [0.0, 5.5, 1.5], [0.0, 0.0, 1.0]]),
    )
    assert found.skipped == ("images/7.png",) and found.cameras.names == (
        "images/0.png",
        "images/1.png",
    )
    pixel, depth = found.cameras[0].project(
        torch.tensor([[0.5, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 1.0, 0.0]])
    )
    assert torch.allclose(pixel[0, 0], torch.tensor([3.25, 1.5])) and torch.allclose(
        depth, torch.full_like(depth, 4.0)
    )
    assert pixel[0, 1, 0] > 3.25 and pixel[0, 2, 1] < 1.5  # x goes right, y up
    assert len(open_views(tmp_path, names=["images/1.png"])) == 1
    assert open_views(tmp_path, names=["images/1.png"]).cameras.intrinsics[0, 0, 0] == 10


def test_a_lens_is_straightened_or_left_as_told(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"w": 24, "h": 16, "fl_x": 30.0, "k1": 0.2, "k2": -0.01, "p1": 0.001, "p2": 0.0005},
        size=(16, 24),
    )
    bent, straight = open_views(file, straighten=False), open_views(file)
    assert bent.cameras.intrinsics[0, 0, 0] == 30 and straight.cameras.intrinsics[0, 0, 0] > 30.5
    assert (
        not torch.allclose(bent.pictures, straight.pictures)
        and bent.pictures.shape == straight.pictures.shape
    )
    lens = Lens(radial=(0.2, -0.01), tangential=(0.001, 0.0005))
    assert bent.cameras.lenses == (lens,) * len(bent) and straight.cameras.lenses == ()
    fisheye = open_views(
        written(
            tmp_path,
            {"w": 24, "h": 16, "fl_x": 20.0, "camera_model": "OPENCV_FISHEYE", "k1": 0.01},
            size=(16, 24),
        )
    )
    assert fisheye.cameras.intrinsics[0, 0, 0] == 20


def test_shrinking_keeps_the_rays(tmp_path: Path) -> None:
    file = written(tmp_path, {"w": 7, "h": 5, "fl_x": 9.0}, size=(5, 7))
    whole, half = open_views(file), open_views(file, shrink=2)
    assert half.cameras.size == (2, 3)
    assert torch.allclose(half.pictures[0, :, 0, 1], whole.pictures[0, :, 0:2, 2:4].mean((1, 2)))
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(
        2 * half.cameras.project(points)[0], whole.cameras.project(points)[0], atol=1e-5
    )


def test_masks_depths_points_and_the_box(tmp_path: Path) -> None:
    from skimage import io

    depth = np.arange(24, dtype=np.uint16).reshape(4, 6) * 100
    io.imsave(tmp_path / "d.png", depth, check_contrast=False)
    io.imsave(tmp_path / "m.png", (depth > 500).astype(np.uint8) * 255, check_contrast=False)
    write_ply(tmp_path / "p.ply", torch.ones(2, 3), torch.tensor([[255, 0, 0], [0, 51, 0]]))
    frames = [
        {"file_path": "images/0.png", "transform_matrix": POSE, "depth_file_path": "d.png"},
        {"file_path": "images/1", "transform_matrix": POSE, "mask_path": "m.png"},
    ]
    box = {"aabb_scale": 2, "scale": 0.5, "offset": [0.5, 0.0, 0.5]}
    found = open_views(
        written(
            tmp_path,
            {"w": 6, "h": 4, "fl_x": 5.0, "frames": frames, "ply_file_path": "p.ply", **box},
        )
    )
    assert (
        found.depth is not None
        and found.mask is not None
        and found.points is not None
        and found.colors is not None
    )
    assert (
        torch.allclose(found.depth[0, 0], torch.from_numpy(depth.astype(np.float32)) / 1000)
        and not found.depth[1].any()
    )
    assert found.mask[0].all() and torch.equal(
        found.mask[1, 0], torch.from_numpy(depth > 500).float()
    )
    assert torch.allclose(found.colors[1], torch.tensor([0.0, 0.2, 0.0])) and len(found.points) == 2
    # instant-ngp: p -> scale p + offset, the scene within half of aabb_scale around (1/2, 1/2, 1/2)
    assert found.box is not None and torch.allclose(
        found.box, torch.tensor([[-2.0, -1.0, -2.0], [2.0, 3.0, 2.0]])
    )
    assert (
        found[1:].mask is not None
        and len(found[1:].mask) == 1
        and "mask, depth, points, box" in repr(found)
    )
    smaller = open_views(tmp_path, shrink=2)
    assert smaller.depth is not None and smaller.mask is not None
    assert torch.allclose(
        smaller.depth[0, 0, 1, 1], torch.tensor(1.5)
    )  # the lower median of 1.4, 1.5, 2.0 and 2.1
    assert torch.equal(smaller.mask[1, 0], torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))


def test_an_angle_in_place_of_a_focal_length(tmp_path: Path) -> None:
    file = written(tmp_path, {"camera_angle_x": 1.0})
    assert math.isclose(
        float(open_views(file, reader="transforms").cameras.intrinsics[0, 0, 0]),
        3 / math.tan(0.5),
        rel_tol=1e-6,
    )
    assert torch.equal(
        open_views(file).cameras.intrinsics,
        open_views(file, reader="transforms").cameras.intrinsics,
    )  # read as Blender's


def test_what_is_written_is_read(tmp_path: Path) -> None:
    cameras = look_at(torch.tensor([[0.0, -1.0, -4.0], [2.0, 0.5, 3.0]]), size=(4, 6))
    cameras = type(cameras)(
        cameras.world_to_camera, cameras.intrinsics, cameras.size, ("images/0.png", "images/1.png")
    )
    written(tmp_path, {})
    with pytest.raises(InputError, match="already"):
        write_transforms(tmp_path / "transforms.json", cameras)
    write_transforms(tmp_path / "transforms.json", cameras, overwrite=True)
    back = open_views(tmp_path).cameras
    assert torch.allclose(back.world_to_camera, cameras.world_to_camera, atol=1e-6) and torch.equal(
        back.intrinsics, cameras.intrinsics
    )


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"fl_x": 5.0}, "'w' and 'h'"),
        ({"w": 6, "h": 4}, "no focal length"),
        ({"w": 6, "h": 4, "fl_x": -1.0}, "above 0"),
        ({"w": 6, "h": 4, "fl_x": "wide"}, "finite number"),
        ({"w": 6, "h": 4, "fl_x": 5.0, "k1": math.nan}, "finite number"),
        (
            {"w": 6, "h": 4, "fl_x": 5.0, "camera_model": "EQUIRECTANGULAR"},
            "'EQUIRECTANGULAR' cannot be read",
        ),
        ({"w": 4, "h": 6, "fl_x": 5.0}, "rotated, cropped, or another picture"),
        ({"w": 6, "h": 4, "fl_x": 5.0, "k1": -30.0}, "folds a picture"),
        ({"w": 6, "h": 4, "fl_x": 5.0, "aabb_scale": 4, "offset": [1]}, "three numbers"),
        ({"frames": []}, "not a transforms.json"),
        ({"w": 6, "h": 4, "fl_x": 5.0, "frames": [{"file_path": "images/0.png"}]}, "4 by 4"),
        (
            {
                "w": 6,
                "h": 4,
                "fl_x": 5.0,
                "frames": [{"file_path": "images/9.png", "transform_matrix": POSE}],
            },
            "none of the 1 pictures",
        ),
        (
            {
                "w": 6,
                "h": 4,
                "fl_x": 5.0,
                "frames": [
                    {"file_path": "a", "transform_matrix": np.full((4, 4), math.nan).tolist()}
                ],
            },
            "NaN",
        ),
        (
            {
                "w": 6,
                "h": 4,
                "fl_x": 5.0,
                "frames": [
                    {"file_path": "a", "transform_matrix": np.diag([2.0, 2, 2, 1]).tolist()}
                ],
            },
            "not a rotation",
        ),
        (
            {
                "w": 6,
                "h": 4,
                "fl_x": 5.0,
                "frames": [
                    {"file_path": "a", "transform_matrix": np.diag([1.0, 1, -1, 1]).tolist()}
                ],
            },
            "mirrors",
        ),
        (
            {
                "w": 6,
                "h": 4,
                "fl_x": 5.0,
                "frames": [
                    {"file_path": "images/0.png", "transform_matrix": POSE, "mask_path": "m.png"}
                ],
            },
            "mask_path 'm.png'",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    tmp_path: Path, table: dict[str, Any], sentence: str
) -> None:
    file = written(tmp_path, table)
    with pytest.raises(InputError, match=sentence) as caught:
        open_views(file, reader="transforms")
    assert "\n" not in str(caught.value)


def test_what_is_no_set_of_views_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures with poses"):
        open_views(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        open_views(tmp_path / "nowhere")
    with pytest.raises(InputError, match="did you mean 'blender'"):
        open_views(tmp_path, reader="blendr")
    (tmp_path / "transforms.json").write_text("{")
    with pytest.raises(InputError, match="not a readable JSON file"):
        open_views(tmp_path)
    written(tmp_path, {"w": 6, "h": 4, "fl_x": 5.0})
    with pytest.raises(InputError, match="there is no picture 'x.png'"):
        open_views(tmp_path, names=["x.png"])


@pytest.mark.data
def test_the_fox_agrees_with_itself(data_dir: Path) -> None:
    """50 of 67 frames; the distortion of a telephone moves the corner by a pixel; every camera looks into the box."""
    found = open_views(data_dir / "ngp_fox_270x480")
    assert (
        len(found) == 50
        and len(found.skipped) == 17
        and found.cameras.size == (480, 270)
        and "images/0005.jpg" in found.skipped
    )
    K = found.cameras.intrinsics[0]
    assert (
        1375.52 / 4 < float(K[0, 0]) < 1.015 * 1375.52 / 4
        and abs(float(K[1, 2]) - 965.268 / 4) < 1e-3
    )
    assert found.box is not None and torch.allclose(
        found.box[1], torch.full((3,), 2 / 0.33), atol=1e-5
    )
    forward = found.cameras.world_to_camera[:, 2, :3]
    across = torch.eye(3) - forward[:, :, None] * forward[:, None]
    middle = torch.linalg.solve(
        across.sum(0), (across @ found.cameras.centres[..., None]).sum(0)
    )  # nearest to all axes
    pixel, depth = found.cameras.project(middle.T)
    assert bool((depth > 0).all()) and bool(
        ((pixel - torch.tensor([135.0, 240.0])).abs() < 150).all()
    )
