"""Headers of photographs (EXIF): positions, orientation, and pictures of phones in HEIC and WebP."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import invtoolbox as it
from invtoolbox.core.environment import MissingDependency
from invtoolbox.datasets import open_views, write_colmap
from invtoolbox.datasets.views.photograph_files import (
    as_jpeg,
    east_north_up,
    find_photographs,
    read_position,
)
from invtoolbox.datasets.views.structure_from_motion import _to_metres
from tests.datasets.test_capture_layouts import sparse

#: A picture of 64 x 96 pixels, red at the upper left and blue at the lower right, whose header turns
#: it by a quarter clockwise and places it in Sydney. Written by pillow-heif 1.8 (libheif, x265).
HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAaFtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ADRpbG9jAAAAAERAAAIAAQAAAAABxQABAAAAAAAAAMIAAgAAAAAChwABAAAAAAAAALYAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA4GlwcnAAAADAaXBjbwAAAHhodmNDAQNwAAAA"
    "kAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoDCBBZbq"
    "SSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABgAAAAQAAAABBw"
    "aXhpAAAAAAMICAgAAAAJaXJvdAMAAAAYaXBtYQAAAAAAAAABAAEFgQIDBIUAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAYBt"
    "ZGF0AAAAvigBrwngITl1X//8aT//+/oPIfsEx0kEp//waVDvgJr/+YVV1HBYfLTbp++/oVNpUju4E63kec+IdLyipXFp4ZosxW41"
    "+gcabtBKn8tGwtvRtPyGyJcH7AC454Q6gffiF9/sT/JZNrGdnpsSov//rkogPk7+v/WXgSDMH+CmJ/o91tj7IPd/tRV/r9z2VTUG"
    "4sMcN6xuUpPM7d+GHFFDBmhYk/kQyIRBe8APpT9J0aGLuaxOcfAj44fjc9+wxm4AAAAGRXhpZgAATU0AKgAAAAgAAgESAAMAAAAB"
    "AAYAAIglAAQAAAABAAAAJgAAAAAABgABAAIAAAACUwAAAAACAAUAAAADAAAAdAADAAIAAAACRQAAAAAEAAUAAAADAAAAjAAFAAEA"
    "AAABAAAAAAAGAAUAAAABAAAApAAAAAAAAAAhAAAAAQAAADMAAAABAAAAHgAAAAEAAACXAAAAAQAAAAwAAAABAAAAJAAAAAEAAAAZ"
    "AAAAAg=="
)


def gps(latitude: float, longitude: float, height: float) -> Image.Exif:
    header = Image.Exif()
    table = header.get_ifd(0x8825)
    for number, angle, words in ((1, latitude, "NS"), (3, longitude, "EW")):
        whole, minutes = divmod(abs(angle), 1.0)[0], 60 * (abs(angle) % 1.0)
        table[number] = words[int(angle < 0)]
        table[number + 1] = (whole, float(int(minutes)), round(60 * (minutes % 1.0), 5))
    table[5], table[6] = (b"\x01" if height < 0 else b"\x00"), abs(height)
    return header


def test_positions_become_metres_as_on_the_ellipsoid(tmp_path: Path) -> None:
    places = [(-33.86, 151.21, 12.0), (-33.857, 151.214, -3.0), (-33.861, 151.207, 80.0)]
    axis, square = 6378137.0, 0.00669437999014

    def earth(latitude: float, longitude: float, height: float) -> np.ndarray:
        """Return the position in the frame of the earth (geodetic to ECEF, WGS 84)."""
        p, q = math.radians(latitude), math.radians(longitude)
        N = axis / math.sqrt(1 - square * math.sin(p) ** 2)
        x, y = ((N + height) * math.cos(p) * f for f in (math.cos(q), math.sin(q)))
        return np.array([x, y, (N * (1 - square) + height) * math.sin(p)])

    points = np.stack([earth(*place) for place in places])
    metres = east_north_up(places)
    for j, k in ((0, 1), (1, 2), (0, 2)):
        straight = float(np.linalg.norm(points[j] - points[k]))
        assert float((metres[j] - metres[k]).norm()) == pytest.approx(straight, rel=1e-4)
    assert bool(((metres[1] - metres[0])[:2] > 0).all())  # to the north-east
    for k, place in enumerate(places):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{k}.jpg", exif=gps(*place))
        assert read_position(tmp_path / f"{k}.jpg") == pytest.approx(place, abs=1e-6)
    Image.new("RGB", (8, 6)).save(tmp_path / "none.jpg")
    assert read_position(tmp_path / "none.jpg") is None


@pytest.mark.data
def test_positions_of_berlin_are_those_that_opensfm_read(data_dir: Path) -> None:
    folder = data_dir / "opensfm_berlin"
    shots = json.loads((folder / "reconstruction_example.json").read_text())[0]["shots"]
    names = sorted(shots)
    places = [read_position(folder / "images" / name) for name in names]
    ours = east_north_up([place for place in places if place is not None])
    theirs = torch.tensor([shots[name]["gps_position"] for name in names], dtype=torch.float64)
    assert torch.allclose(ours - ours[0], theirs - theirs[0], atol=0.01)


def test_a_phone_s_pictures_are_upright_and_open_in_a_capture(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    for name in ("a.heic", "b.heic"):
        (tmp_path / name).write_bytes(base64.b64decode(HEIC))
    y = it.datasets.open(tmp_path / "a.heic")[0].y
    assert y.shape == (1, 3, 96, 64)
    for row, column, color in (
        (10, -10, (200, 40, 40)),
        (-10, 10, (40, 40, 200)),
        (10, 10, (0, 0, 0)),
    ):
        assert torch.allclose(255 * y[0, :, row, column], torch.tensor(color).to(y), atol=8)
    assert read_position(tmp_path / "a.heic") == pytest.approx((-33.858333, 151.21, 12.5), abs=1e-4)
    # A file of cameras that names the JPEG files of another export.
    frames = [
        {"file_path": f"images/{name}.jpg", "transform_matrix": torch.eye(4).tolist()}
        for name in "ab"
    ]
    table = {"fl_x": 50.0, "w": 64, "h": 96, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(table))
    views = open_views(tmp_path)
    assert len(views) == 2 and torch.allclose(views.pictures[0].double(), y[0].double(), atol=1e-6)
    copies = as_jpeg(find_photographs(tmp_path), tmp_path / "out")
    assert [copy.name for copy in copies] == ["a.heic.jpg", "b.heic.jpg"]
    assert read_position(copies[0]) == read_position(tmp_path / "a.heic")
    with Image.open(copies[0]) as picture:
        assert picture.size == (64, 96) and picture.getexif().get(274, 1) == 1


def test_the_package_for_heic_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.heic").write_bytes(base64.b64decode(HEIC))
    monkeypatch.setitem(__import__("sys").modules, "pi_heif", None)
    with pytest.raises(MissingDependency, match=r"decoded by pi-heif, .*\[captures\]"):
        it.datasets.open(tmp_path / "a.heic")[0]


def test_webp_is_upright_too(tmp_path: Path) -> None:
    header = Image.Exif()
    header[274] = 6
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:2] = 200
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True, exif=header)
    y = it.datasets.open(tmp_path / "a.webp")[0].y[0, 0]
    assert torch.allclose(255 * y, torch.tensor([0.0, 0.0, 200.0, 200.0]).to(y).expand(6, 4))


@pytest.mark.data
@pytest.mark.parametrize("case", ["exact enough", "too coarse", "along a line"])
def test_positions_give_the_metre(case: str, data_dir: Path, tmp_path: Path) -> None:
    """The fox at a size of tens of metres, with positions that are off by 3 m in every coordinate."""
    colmap = pytest.importorskip("pycolmap")
    views = open_views(data_dir / "ngp_fox_270x480", largest_side=20)
    write_colmap(tmp_path / "model", sparse(views))
    model = colmap.Reconstruction(str(tmp_path / "model"))
    centres = views.cameras.centres.double()
    if case == "along a line":
        centres = torch.arange(50.0).double()[:, None] * torch.tensor([0.5, 0.1, 0.05]).double()
        for image in model.images.values():
            k = [Path(n).name for n in views.cameras.names].index(image.name)
            pose = image.frame.rig_from_world
            turn = torch.from_numpy(pose.rotation.matrix())
            pose.translation = (-turn @ centres[k]).numpy()
            image.frame.rig_from_world = pose
    scale = {"exact enough": 10.0, "too coarse": 0.5, "along a line": 10.0}[case]
    draw = np.random.default_rng(0)
    metres = scale * centres.numpy() + 3.0 * draw.standard_normal((50, 3))
    pictures = []
    for name, (east, north, up) in zip(views.cameras.names, metres):
        pictures.append(tmp_path / Path(name).name)
        place = (52.5 + float(north) / 111267.0, 13.4 + float(east) / 67907.0, float(up) + 200.0)
        Image.new("RGB", (8, 6)).save(pictures[-1], exif=gps(*place))
    before = {i.image_id: i.projection_center() for i in model.images.values()}
    (note,) = _to_metres(colmap, model, pictures)
    after = {i.image_id: i.projection_center() for i in model.images.values()}
    span = (
        np.std(np.stack([*after.values()]), 0).sum() / np.std(np.stack([*before.values()]), 0).sum()
    )
    if case == "too coarse":
        assert span == 1.0 and "too coarse" in note
        return
    assert note.startswith("the unit of the world is the metre")
    assert ("east, north and up" in note) == (case == "exact enough")
    distances = [
        np.linalg.norm(x - y)
        for t in (after, before)
        for x, y in zip(t.values(), [*t.values()][1:])
    ]
    ratio = sum(distances[:49]) / sum(distances[49:])
    spread = scale * float((centres - centres.mean(0)).norm(dim=1).square().mean().sqrt())
    assert abs(ratio / scale - 1) < 3.0 / spread
