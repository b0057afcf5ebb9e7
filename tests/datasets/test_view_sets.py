"""Every format of pictures with poses against one scene, and what damaged ones are told."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from invtoolbox.datasets import (
    Loading,
    SparseCamera,
    open_rgbd,
    open_views,
    read_colmap,
    read_opensfm,
    write_colmap,
)
from invtoolbox.datasets.views.colmap_files import MODELS, camera_of
from invtoolbox.errors import InputError
from invtoolbox.geometry.lens import Lens
from tests.datasets import view_sets


@pytest.mark.parametrize("name", list(view_sets.SETS))
def test_every_format_gives_the_same_cameras(name: str, tmp_path: Path) -> None:
    folder = view_sets.SETS[name][1](tmp_path / "set")
    found, true = open_views(folder, straighten=False), view_sets.cameras()
    assert len(found) == 3 and found.cameras.size == view_sets.SIZE
    assert torch.allclose(found.cameras.world_to_camera.double(), true.world_to_camera, atol=1e-6)
    assert torch.allclose(
        found.cameras.intrinsics[0].double(),
        true.intrinsics[0] * (1 if "blender" not in name else 1.0),
        atol=0.02,
    )
    pictures = sorted(
        place for kind in ("images", "image") for place in (folder / kind).glob("*.png")
    )
    from skimage import io

    assert torch.allclose(
        found.pictures[1],
        torch.from_numpy(io.imread(pictures[1])).permute(2, 0, 1) / 255,
        atol=1e-6,
    )
    straight = open_views(folder)
    assert straight.pictures.shape == found.pictures.shape


@pytest.mark.parametrize("binary", [True, False])
def test_a_model_of_colmap_is_written_and_read(binary: bool, tmp_path: Path) -> None:
    for lenses in (
        view_sets.LENSES,
        (Lens("fisheye", (0.1, 0.02, 0.0, 0.01)), Lens(radial=(0.1, 0.2, 0.01, 0.0, 0.03, 0.001))),
    ):
        one = view_sets.model(lenses)
        assert float(one.reprojection_errors().max()) < 1e-9
        back = read_colmap(write_colmap(tmp_path, one, binary, overwrite=True))
        assert back.names == one.names and [c.size for c in back.cameras] == [
            c.size for c in one.cameras
        ]
        assert [c.model for c in back.cameras] == {
            2: ["OPENCV", "PINHOLE"],
            4: ["OPENCV_FISHEYE", "FULL_OPENCV"],
        }[len(lenses[0].radial)]
        assert torch.allclose(back.world_to_camera, one.world_to_camera, atol=1e-12)
        for field in ("points", "colors", "camera_of", "pixels", "picture_of", "point_of"):
            assert torch.equal(getattr(back, field), getattr(one, field)), field
        assert float(back.reprojection_errors().max()) < 1e-9
        with pytest.raises(InputError, match="already"):
            write_colmap(tmp_path, one, binary)


def test_colmap_says_what_each_model_of_a_camera_is() -> None:
    p = [50.0, 60.0, 8.0, 6.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    one, two = [50, 50, 60, 8], [50, 60, 8, 6]
    wanted = {
        "SIMPLE_PINHOLE": (one, Lens()),
        "PINHOLE": (two, Lens()),
        "SIMPLE_RADIAL": (one, Lens(radial=(6.0,))),
        "RADIAL": (one, Lens(radial=(6.0, 0.1))),
        "OPENCV": (two, Lens(radial=(0.1, 0.2), tangential=(0.3, 0.4))),
        "OPENCV_FISHEYE": (two, Lens("fisheye", (0.1, 0.2, 0.3, 0.4))),
        "FULL_OPENCV": (two, Lens(radial=(0.1, 0.2, 0.5, 0.6, 0.7, 0.8), tangential=(0.3, 0.4))),
        "SIMPLE_RADIAL_FISHEYE": (one, Lens("fisheye", (6.0,))),
        "RADIAL_FISHEYE": (one, Lens("fisheye", (6.0, 0.1))),
    }
    for model, count in MODELS.items():
        camera = camera_of("camera 1", model, 16, 12, (p * 2)[:count])
        if model not in wanted:
            assert camera.lens is None
            continue
        pinhole, lens = wanted[model]
        K = camera.intrinsics
        assert [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])] == pinhole
        assert camera.lens == lens and camera.size == (12, 16)
    with pytest.raises(InputError, match="'EQUIRECTANGULAR'"):
        camera_of("camera 1", "EQUIRECTANGULAR", 16, 12, [])
    with pytest.raises(InputError, match="has 3 parameters, and the model OPENCV has 8"):
        camera_of("camera 1", "OPENCV", 16, 12, [1.0, 2.0, 3.0])


def test_points_and_masks_come_along(tmp_path: Path) -> None:
    found = open_views(view_sets.write_opensfm(tmp_path / "o"))
    one = read_opensfm(tmp_path / "o")
    assert float(one.reprojection_errors().max()) < 1e-6 and len(one.pixels) == len(
        view_sets.model().pixels
    )  # nowhere.jpg is left out
    assert (
        found.mask is not None
        and found.mask.all()
        and found.points is not None
        and found.colors is not None
        and len(found.points) == 12
    )
    assert torch.allclose(found.colors * 255, view_sets.model().colors.float())
    near_far = open_views(view_sets.write_llff(tmp_path / "l"), shrink=2).near_far
    (tmp_path / "l" / "images").rename(tmp_path / "l" / "images_4")
    renamed = open_views(tmp_path / "l")
    assert len(renamed) == 3 and re.search("are taken from .*images_4", renamed.notes[0])
    assert near_far is not None and near_far.tolist() == [[2.0, 6.0]] * 3


def test_the_wall_of_rgbd_frames_is_a_wall(tmp_path: Path) -> None:
    found = open_rgbd(view_sets.write_rgbd(tmp_path / "r"))
    assert found.depth is not None and not found.skipped
    origins, directions = found.cameras.rays()
    assert float((origins[..., 2] + found.depth[:, 0] * directions[..., 2] - 1).abs().max()) < 1e-3
    # The layout of TUM: times, quaternions, 1/5000 m
    folder = tmp_path / "r"
    (folder / "image").rename(folder / "rgb")
    quaternion = "0.0 0.0 0.0 1.0"
    (folder / "groundtruth.txt").write_text(
        f"# time\n0.001 1.0 2.0 3.0 {quaternion}\n3.010 4.0 5.0 6.0 {quaternion}\n"
    )
    (folder / "trajectory.log").unlink()
    tum = open_views(folder)
    assert tum.cameras.centres.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]] and tum.skipped == (
        "00006.png",
    )
    assert tum.depth is not None and torch.allclose(tum.depth * 5, found.depth[:2], atol=1e-4)


def damage_binary(path: Path, place: int, layout: str, value: float) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, place, value)
    path.write_bytes(bytes(content))


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cut(path: Path, lines: int) -> None:
    path.write_text("\n".join(path.read_text().split("\n")[:lines]) + "\n")


@pytest.mark.parametrize(
    ("sentence", "damage"),
    [
        (
            "truncated",
            lambda f: (f / "images.bin").write_bytes((f / "images.bin").read_bytes()[:-5]),
        ),
        (
            "truncated",
            lambda f: (f / "cameras.bin").write_bytes((f / "cameras.bin").read_bytes()[:40]),
        ),
        (
            "truncated",
            lambda f: (f / "points3D.bin").write_bytes((f / "points3D.bin").read_bytes()[:100]),
        ),
        (
            "bytes follow the last record",
            lambda f: (f / "points3D.bin").write_bytes((f / "points3D.bin").read_bytes() + b"more"),
        ),
        ("records are declared", lambda f: damage_binary(f / "images.bin", 0, "<Q", 2**60)),
        ("is of model 77", lambda f: damage_binary(f / "cameras.bin", 12, "<i", 77)),
        ("focal lengths", lambda f: damage_binary(f / "cameras.bin", 32, "<d", float("nan"))),
        ("needs camera 9", lambda f: damage_binary(f / "images.bin", 8 + 4 + 56, "<I", 9)),
        (
            "holds NaN or infinite",
            lambda f: damage_binary(f / "images.bin", 8 + 4 + 32, "<d", float("nan")),
        ),
        (
            "quaternion of length zero",
            lambda f: [damage_binary(f / "images.bin", 12 + 8 * k, "<d", 0.0) for k in range(4)],
        ),
        ("points are NaN", lambda f: damage_binary(f / "points3D.bin", 16, "<d", float("nan"))),
        (
            "two points have the same number",
            lambda f: damage_binary(f / "points3D.bin", 8, "<Q", 2),
        ),
        ("there is no such file", lambda f: (f / "points3D.bin").unlink()),
    ],
)
def test_damaged_binary_models_are_told_in_one_sentence(
    sentence: str, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = write_colmap(tmp_path / "m", view_sets.model())
    damage(folder)
    with pytest.raises(InputError, match=sentence) as caught:
        read_colmap(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("sentence", "damage"),
    [
        (
            "cameras.txt: line 3 cannot be read",
            lambda f: replace_text(f / "cameras.txt", "16 12", "wide 12"),
        ),
        ("'THICK'", lambda f: replace_text(f / "cameras.txt", "OPENCV", "THICK")),
        (
            "line 6 cannot be read; expected IMAGE_ID",
            lambda f: replace_text(f / "images.txt", "\n2 ", "\n 1.0 2.0\n2 "),
        ),
        ("no such feature", lambda f: cut(f / "images.txt", 7)),
        ("does not exist", lambda f: cut(f / "points3D.txt", 9)),
        ("colors from 0 to 255", lambda f: (f / "points3D.txt").write_text("1 0 0 0 300 0 0 0\n")),
        ("0 cameras", lambda f: (f / "cameras.txt").write_text("# nothing\n")),
        ("not a text file", lambda f: (f / "images.txt").write_bytes(b"\xff\xfe\x00\x01")),
    ],
)
def test_damaged_texts_are_told_in_one_sentence(
    sentence: str, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = write_colmap(tmp_path / "m", view_sets.model(), binary=False)
    damage(folder)
    with pytest.raises(InputError, match=sentence) as caught:
        read_colmap(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_what_else_is_wrong_with_a_set_is_said(tmp_path: Path) -> None:
    project = view_sets.write_colmap_project(tmp_path / "p")
    shutil.rmtree(project / "images")
    with pytest.raises(InputError, match="no folder 'images'"):
        open_views(project)
    (project / "images").mkdir()
    with pytest.raises(InputError, match="none of the 3 pictures"):
        open_views(project)
    view_sets.write_pictures(project / "images", ("a.png",))
    assert open_views(project).skipped == ("b b.png", "c.png")
    one = view_sets.model()
    unknown = replace(
        one,
        cameras=(
            SparseCamera(one.cameras[0].intrinsics, view_sets.SIZE, None, "FOV"),
            one.cameras[1],
        ),
    )
    with pytest.raises(InputError, match="model FOV, whose distortion is not known"):
        unknown.views("model", project / "images")
    llff = view_sets.write_llff(tmp_path / "l")
    (llff / "images" / "2.png").unlink()
    with pytest.raises(InputError, match="3 poses, but .* 2 pictures"):
        open_views(llff)
    opensfm = view_sets.write_opensfm(tmp_path / "o")
    table = json.loads((opensfm / "reconstruction.json").read_text())
    table[0]["shots"]["a.png"]["translation"] = [1.0, float("nan"), 0.0]
    (opensfm / "reconstruction.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="'translation' number 1 holds NaN"):
        read_opensfm(opensfm)
    rgbd = view_sets.write_rgbd(tmp_path / "r")
    replace_text(rgbd / "trajectory.log", "0.", "5.")
    with pytest.raises(InputError, match="not a rotation"):
        open_rgbd(rgbd)
    (rgbd / "trajectory.log").write_text("0 0 1\n1 0 0 0\n")
    with pytest.raises(InputError, match="not a trajectory of Redwood"):
        open_rgbd(rgbd)


@pytest.mark.data
def test_points_of_berlin_lie_where_they_were_seen(data_dir: Path, tmp_path: Path) -> None:
    one = read_opensfm(data_dir / "opensfm_berlin" / "reconstruction_example.json")
    errors = one.reprojection_errors()
    assert len(one.points) == 1430 and len(errors) > 3000
    assert float(errors.median()) < 2.0, float(
        errors.median()
    )  # of 3264 pixels; OpenSfM finds features at 1024
    back = read_colmap(write_colmap(tmp_path, one))
    assert abs(float(back.reprojection_errors().mean() - errors.mean())) < 1e-6
    found = open_views(
        data_dir / "opensfm_berlin" / "reconstruction_example.json",
        shrink=8,
        straighten=False,
        names=["02.jpg"],
    )
    assert (
        len(found) == 1
        and found.mask is not None
        and 0 < float(found.mask.mean()) < 1
        and found.points is not None
    )


@pytest.mark.data
def test_frames_of_the_living_room_agree(data_dir: Path) -> None:
    """Points of one frame, seen from the next one that is there: their depths agree with its own."""
    loading = Loading(names=["00000.jpg", "00009.jpg"], shrink=4)
    found = open_rgbd(data_dir / "livingroom_rgbd", loading)
    assert found.depth is not None and len(found) == 2
    origins, directions = found.cameras.rays()
    points = (origins[0] + found.depth[0, 0, ..., None] * directions[0])[found.depth[0, 0] > 0]
    pixel, depth = (value[0] for value in found.cameras[1:].project(points))
    height, width = found.cameras.size
    inside = (
        (pixel[:, 0] > 0)
        & (pixel[:, 0] < width)
        & (pixel[:, 1] > 0)
        & (pixel[:, 1] < height)
        & (depth > 0)
    )
    seen = found.depth[1, 0][pixel[inside, 1].long(), pixel[inside, 0].long()]
    off = (seen - depth[inside])[seen > 0].abs()
    moved = float((found.depth[0] - found.depth[1]).abs().median())
    assert float(inside.float().mean()) > 0.7 and float(off.median()) < 0.01, float(off.median())
    assert float(off.median()) < 0.5 * moved, (float(off.median()), moved)  # what the poses explain
