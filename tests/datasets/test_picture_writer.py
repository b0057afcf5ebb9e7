"""Pictures in the form of others: values, depth, alpha, orientation and metadata stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, PngImagePlugin

import invtoolbox as it
from invtoolbox.datasets.volumes.picture_writer import write_picture

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DRAWS = np.random.default_rng(0)
COLOR = DRAWS.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY, ALPHA = COLOR[..., 0], DRAWS.integers(0, 256, (6, 8, 1), dtype=np.uint8)
DEEP = np.dstack([COLOR, ALPHA]).astype(np.uint16) * 257 - np.uint16(3)


def store(path: Path) -> None:
    """Write a picture whose name says what it is."""
    exif, notes = Image.Exif(), PngImagePlugin.PngInfo()
    exif[271], notes_of = "a maker", {"pnginfo": notes, "icc_profile": PROFILE, "dpi": (300, 300)}
    notes.add_text("Author", "me")
    if path.stem.startswith("turned"):
        exif[274] = 6
    tags: dict[str, Any] = {"metadata": None, "resolution": (200, 200), "resolutionunit": 2}
    arrays = {"grey": GREY, "color": COLOR, "both": np.dstack([COLOR, ALPHA]), "turned": COLOR}
    array = arrays.get(path.stem, np.dstack([GREY[..., None], ALPHA]))
    if path.name == "palette.png":
        Image.fromarray(COLOR).quantize(16).save(path, transparency=3, **notes_of)
    elif path.name == "key.png":
        Image.fromarray(COLOR).save(path, transparency=tuple(int(n) for n in COLOR[0, 0]))
    elif path.name == "bits.png":
        Image.fromarray(GREY > 99).save(path)
    elif path.name == "deep.png":
        import kornia_rs.io

        kornia_rs.io.write_image_png_u16(str(path), DEEP, "rgba")
    elif path.name == "deep_grey.png":
        Image.fromarray(GREY.astype(np.uint16) * 257).save(path, dpi=(300, 300))
    elif path.name == "deep.tif":
        places = (274, 3, 1, 8, True), (33550, 12, 3, (1.0, 1.0, 0.0), True)
        tags |= {"extratags": places, "extrasamples": ["unassalpha"], "iccprofile": PROFILE}
        tifffile.imwrite(path, DEEP, photometric="rgb", compression="zlib", **tags)
    elif path.name == "white_is_0.tif":
        tifffile.imwrite(path, GREY, photometric="miniswhite", description="a scan", **tags)
    elif path.name == "float.tif":
        tifffile.imwrite(path, GREY.astype(np.float32) * 3 - 7, photometric="minisblack", **tags)
    elif path.suffix == ".png":
        Image.fromarray(array).save(path, **notes_of)
    elif path.suffix == ".jpg":
        Image.fromarray(array).save(
            path, exif=exif, icc_profile=PROFILE, dpi=(72, 72), comment=b"hi"
        )
    elif path.suffix == ".webp":
        Image.fromarray(array).save(path, lossless=True, exif=exif, icc_profile=PROFILE)
    else:
        Image.fromarray(array).save(path, dpi=(100, 100))


EXACT = [
    "grey.png",
    "both.png",
    "grey_alpha.png",
    "color.png",
    "palette.png",
    "key.png",
    "bits.png",
    "deep.png",
    "deep_grey.png",
    "deep.tif",
    "white_is_0.tif",
    "float.tif",
    "turned.webp",
    "both.webp",
    "color.bmp",
]


@pytest.mark.parametrize("name", [*EXACT, "turned.jpg", "grey.jpg"])
def test_the_same_values_give_the_same_picture(tmp_path: Path, name: str) -> None:
    source, copy, large = (tmp_path / f / name for f in ("in", "out", "large"))
    for path in (source, copy, large):
        path.parent.mkdir()
    store(source)
    item = it.datasets.open(source)[0]
    original = item.meta["original"]
    write_picture(copy, item.y[0], original)
    again = it.datasets.open(copy)[0]
    pairs = list(zip(original.read(), again.meta["original"].read()))
    if name in EXACT and name != "bits.png":
        assert np.array_equal(*pairs[0]) and pairs[0][0].dtype == pairs[0][1].dtype
    assert float((again.y - item.y).abs().max()) < (1e-6 if name in EXACT else 0.06)
    assert (pairs[1][0] is None and pairs[1][1] is None) or np.array_equal(*pairs[1])
    assert original.orientation == again.meta["original"].orientation
    with Image.open(source) as before, Image.open(copy) as after:
        assert before.format == after.format
        for key in ("icc_profile", "dpi", "exif", "comment", "Author"):
            assert before.info.get(key) == after.info.get(key), key
    doubled = item.y[0].repeat_interleave(2, 1).repeat_interleave(2, 2)
    write_picture(large, doubled, original)
    assert it.datasets.open(large)[0].y.shape[2:] == doubled.shape[1:]
    with Image.open(copy) as after, Image.open(large) as twice:
        if "dpi" in after.info:
            assert twice.info["dpi"][0] == pytest.approx(2 * after.info["dpi"][0], rel=1e-3)


def test_tags_of_a_tiff_stay_and_those_of_its_size_go_with_it(tmp_path: Path) -> None:
    for name in ("deep.tif", "white_is_0.tif"):
        store(tmp_path / name)
        item = it.datasets.open(tmp_path / name)[0]
        write_picture(tmp_path / f"x{name}", item.y[0], item.meta["original"])
        with tifffile.TiffFile(tmp_path / name) as a, tifffile.TiffFile(tmp_path / f"x{name}") as b:
            first, second = a.pages[0].tags, b.pages[0].tags
            for code in {tag.code for tag in first} - {256, 257, 273, 278, 279}:
                assert first[code].value == second[code].value, code
    item = it.datasets.open(tmp_path / "deep.tif")[0]
    large = item.y[0].repeat_interleave(2, 1).repeat_interleave(2, 2)
    write_picture(tmp_path / "large.tif", large, item.meta["original"])
    with tifffile.TiffFile(tmp_path / "large.tif") as file:
        assert 33550 not in file.pages[0].tags and file.pages[0].tags[282].value[0] == 400


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_another_format_is_upright_without_the_tag(tmp_path: Path, suffix: str) -> None:
    store(tmp_path / "turned.webp")
    item = it.datasets.open(tmp_path / "turned.webp")[0]
    path = tmp_path / f"other{suffix}"
    write_picture(path, item.y[0], item.meta["original"], overwrite=True)
    other = it.datasets.open(path)[0]
    assert float((other.y - item.y).abs().max()) < (0.1 if suffix == ".jpg" else 1e-6)
    with Image.open(path) as picture:
        assert picture.info.get("icc_profile") == PROFILE
        assert picture.getexif().get(274, 1) == (6 if suffix == ".webp" else 1)
        assert suffix == ".tif" or picture.getexif()[271] == "a maker"


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    for name, suffix, words in (
        ("both.png", ".jpg", "alpha channel, which JPEG cannot hold"),
        ("float.tif", ".png", "floating-point values, which PNG cannot hold"),
        ("grey.png", ".gif", "pictures are not written as .gif"),
    ):
        store(tmp_path / name)
        item = it.datasets.open(tmp_path / name)[0]
        with pytest.raises(it.InputError, match=words):
            write_picture(tmp_path / f"x{suffix}", item.y[0], item.meta["original"])


def test_transparent_pixels_are_filled_on_demand(tmp_path: Path) -> None:
    alpha = np.full((6, 5), 200, np.uint8)
    alpha[1, 2] = 0
    Image.fromarray(np.dstack([np.zeros((6, 5), np.uint8), alpha])).save(tmp_path / "a.png")
    original = it.datasets.open(tmp_path / "a.png")[0].meta["original"]
    known = original.known()
    assert known.sum() == 29 and not known[1, 2] and original.known(alpha=False).all()
    write_picture(tmp_path / "b.png", torch.zeros(1, 6, 5), original, fill=True)
    with Image.open(tmp_path / "b.png") as picture:
        assert np.asarray(picture)[..., 1].tolist() == np.full((6, 5), 200).tolist()


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    store(tmp_path / "grey.png")
    (tmp_path / "._grey.png").write_bytes(b"of another system")
    assert len(it.datasets.open(tmp_path, reader="pictures")) == 1
