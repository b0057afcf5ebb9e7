"""Captures in the layouts that other programs leave behind open with every camera, or say what to move."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from invtoolbox.datasets import PosedPictures, SparseCamera, SparseModel, open_views, write_colmap
from invtoolbox.errors import InputError
from invtoolbox.geometry.lens import Lens

FOX, LEGO = "ngp_fox_270x480", "nerf_lego_200"


def copy(source: Path, target: Path, *, pictures: str | None = "images") -> Path:
    """Copy a capture; its pictures go to another folder, or nowhere."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
        elif pictures is not None:
            (target / pictures).mkdir(exist_ok=True)
            for picture in file.iterdir():
                shutil.copyfile(picture, target / pictures / picture.name)
    return target


def resave(folder: Path, suffix: str, shrink: int = 1) -> None:
    for file in sorted(folder.iterdir()):
        with Image.open(file) as picture:
            size = (picture.width // shrink, picture.height // shrink)
            picture.convert("RGB").resize(size).save(file.with_suffix(suffix))
        if file.suffix != suffix:
            file.unlink()


def sparse(views: PosedPictures) -> SparseModel:
    """Return the cameras of views as a model of COLMAP, each picture with a camera of its own."""
    cameras, count = views.cameras, len(views)
    lenses = cameras.lenses or (Lens(),) * count
    none = torch.zeros(0, dtype=torch.int64)
    return SparseModel(
        tuple(
            SparseCamera(K.double(), cameras.size, lens)
            for K, lens in zip(cameras.intrinsics, lenses)
        ),
        tuple(Path(name).name for name in cameras.names),
        cameras.world_to_camera.double(),
        torch.arange(count),
        torch.zeros(0, 3).double(),
        torch.zeros(0, 3).byte(),
        torch.zeros(0, 2).double(),
        none,
        none,
    )


def smaller_copies(data: Path, place: Path) -> Path:
    copy(data / FOX, place, pictures="images_4")
    shutil.copytree(place / "images_4", place / "images_8")
    resave(place / "images_8", ".jpg", 2)
    return place


def dense(data: Path, place: Path) -> Path:
    """Write COLMAP's workspace after the lens was removed; the photographs themselves are not in it."""
    views = open_views(data / FOX)
    images = place / "dense" / "0" / "images"
    images.mkdir(parents=True)
    for name, picture in zip(views.cameras.names, views.pictures):
        pixels = (255 * picture).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(images / Path(name).name)
    write_colmap(place / "dense" / "0" / "sparse", sparse(views))
    write_colmap(place / "sparse" / "0", sparse(open_views(data / FOX, straighten=False)))
    (place / "database.db").write_bytes(b"SQLite format 3\0")
    return place


def two_models(data: Path, place: Path) -> Path:
    views = open_views(data / FOX, straighten=False)
    write_colmap(place / "sparse" / "0", sparse(views[:3]))
    write_colmap(place / "sparse" / "1", sparse(views))
    shutil.copytree(data / FOX / "images", place / "input")
    return place


def train_without_pictures(data: Path, place: Path) -> Path:
    copy(data / LEGO, place, pictures="all")
    table = json.loads((place / "transforms_train.json").read_text())
    for frame in table["frames"]:
        frame["file_path"] = frame["file_path"].replace("train", "all")
    (place / "transforms.json").write_text(json.dumps(table))
    return place


def beside_the_file(data: Path, place: Path) -> Path:
    return copy(data / LEGO, place, pictures=".")


def one_folder_down(data: Path, place: Path) -> Path:
    copy(data / FOX, place / "fox")
    resave(place / "fox" / "images", ".webp")
    return place


def paths_of_another_machine(data: Path, place: Path) -> Path:
    """Write absolute paths, half of them with the separators of Windows."""
    copy(data / FOX, place, pictures="photos")
    table = json.loads((place / "transforms.json").read_text())
    for k, frame in enumerate(table["frames"]):
        name = Path(frame["file_path"]).name
        frame["file_path"] = f"/home/me/fox/{name}" if k % 2 else f"C:\\fox\\{name}"
    (place / "transforms.json").write_text(json.dumps(table))
    return place


def stem(name: str) -> str:
    return Path(name.replace("\\", "/")).stem


OPEN: dict[str, tuple[Callable[[Path, Path], Path], int, str]] = {
    "as it stands": (lambda data, place: data / FOX, 50, ""),
    "images_4 and images_8": (smaller_copies, 50, "pictures are taken from .*images_4"),
    "dense/0": (dense, 50, r"the model .*dense/0/sparse is read"),
    "train without pictures": (
        train_without_pictures,
        100,
        "from .*transforms.json; not read: transforms_train",
    ),
    "OpenSfM's example": (
        lambda data, place: data / "opensfm_berlin",
        3,
        "from .*reconstruction_example.json",
    ),
    "two models, input": (two_models, 50, r"the model .*sparse/1 is read"),
    "one folder down, WebP": (one_folder_down, 50, "cameras are read from .*fox/transforms.json"),
    "paths of another machine": (paths_of_another_machine, 50, "taken from .*photos"),
    "pictures beside the file": (beside_the_file, 100, "the pictures are taken from"),
}


@pytest.mark.data
@pytest.mark.parametrize("name", list(OPEN))
def test_a_layout_opens_with_every_camera(name: str, data_dir: Path, tmp_path: Path) -> None:
    write, count, note = OPEN[name]
    views = open_views(write(data_dir, tmp_path / "capture"), largest_side=60)
    assert len(views) == count and views.pictures.shape[0] == count
    assert float(views.pictures.std()) > 0.05
    assert bool(note) == bool(views.notes) and re.search(note, " ".join(views.notes))
    original = data_dir / ("opensfm_berlin" if count == 3 else FOX if count == 50 else LEGO)
    same = open_views(original, largest_side=60)
    assert {stem(n) for n in views.cameras.names} == {stem(n) for n in same.cameras.names}
    order = {stem(n): k for k, n in enumerate(same.cameras.names)}
    rows = [order[stem(n)] for n in views.cameras.names]
    assert torch.allclose(
        views.cameras.world_to_camera, same.cameras.world_to_camera[rows], atol=1e-5
    )
    assert torch.allclose(views.cameras.intrinsics, same.cameras.intrinsics[rows], rtol=0.02)
    assert float((views.pictures - same.pictures[rows]).abs().mean()) < 0.03


@pytest.mark.data
def test_other_layouts_say_what_to_move(data_dir: Path, tmp_path: Path) -> None:
    alone = copy(data_dir / FOX, tmp_path / "alone", pictures=None)
    with pytest.raises(
        InputError, match=r"none of the 67 pictures .* move them to .*alone.images$"
    ):
        open_views(alone)
    both = tmp_path / "both"
    copy(data_dir / FOX, both / "fox")
    copy(data_dir / LEGO, both / "lego", pictures="train")
    with pytest.raises(InputError, match="holds 2 captures, fox, lego; give the folder of one"):
        open_views(both)
