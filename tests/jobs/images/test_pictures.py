"""``invtoolbox denoise``, ``superresolve``, ``inpaint`` and ``deblur``: one picture, and folders of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import invtoolbox as it
from invtoolbox.jobs.images import picture_folder
from invtoolbox.jobs.images.kernels import disc_kernel, motion_kernel
from tests.command_line import Run, one_sentence

QUICK = ("--prior", "tv", "--regularization", "0.01", "--max-iterations", "4", "--quiet")


@pytest.fixture
def photos(here: Path) -> Path:
    """The user's folder with a folder of pictures, all of the same scene and size."""
    truth = it.datasets.photograph("coffee")[..., 60:380:8, 100:484:8].contiguous()
    noisy = truth + 0.08 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    codes = (noisy.clamp(0, 1)[0].permute(1, 2, 0) * 65535).round().numpy().astype(np.uint16)
    small = (codes / 257).round().astype(np.uint8)
    np.save("true.npy", truth[0].numpy())
    folder = here / "photos"
    folder.mkdir()
    Image.fromarray(small).save(folder / "color.png")
    Image.fromarray(np.dstack([small, small[..., :1]])).save(folder / "alpha.png")
    tifffile.imwrite(folder / "deep.tif", codes, photometric="rgb", resolution=(300, 300))
    exif = Image.Exif()
    exif[274] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(small)))
    turned.save(folder / "Turned.JPG", exif=exif, quality=98, subsampling=0)
    (folder / "._color.png").write_bytes(b"of another system")
    (folder / "notes.txt").write_text("no picture")
    return folder


def read(path: str | Path) -> torch.Tensor:
    return it.datasets.open(path)[0].y


def error(x: torch.Tensor) -> float:
    return float((x[0] - torch.as_tensor(np.load("true.npy"))).square().mean().sqrt())


NAMES = ["Turned.JPG", "alpha.png", "color.png", "deep.tif"]


def pictures(folder: str | Path) -> list[str]:
    return sorted(p.name for p in Path(folder).iterdir() if p.name[:5] not in ("study", ".lock"))


def test_a_folder_gives_a_folder_of_pictures(run: Run, photos: Path) -> None:
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    ran = run("denoise", "photos/", "--output", "clean/")
    assert ran.code == 0 and "4 items: 4 done" in ran.out, ran.err
    assert pictures("clean") == NAMES
    for name in NAMES:
        noisy, clean = read(photos / name), read(f"clean/{name}")
        assert error(clean) < (1.0 if name == "Turned.JPG" else 0.8) * error(noisy) + 1e-3
        with Image.open(photos / name) as a, Image.open(f"clean/{name}") as b:
            assert (a.format, a.mode, a.size) == (b.format, b.mode, b.size)
            assert a.getexif().get(274) == b.getexif().get(274)
    assert read("clean/deep.tif").unique().numel() > 256
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before

    assert "give --resume to go on from it" in one_sentence(run("denoise", "photos", "-o", "clean"))
    Path("clean/color.png").unlink()
    os.utime(photos / "deep.tif", (2e9, 2e9))  # changed since
    again = run("denoise", "photos", "--output", "clean", "--resume")
    assert "4 items: 2 done, 2 kept" in again.out, again
    assert "noise-std differs" in one_sentence(
        run("denoise", "photos", "--output", "clean", "--resume", "--noise-std", "0.1")
    )


def test_a_killed_folder_goes_on(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("denoise", "photos", *QUICK, "--output", "whole").code == 0
    restore, begun = picture_folder._restore, []

    def interrupted(*arguments: Any) -> Any:
        begun.append(1)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return restore(*arguments)

    monkeypatch.setattr(picture_folder, "_restore", interrupted)
    ran = run("denoise", "photos", *QUICK, "--output", "out")
    assert ran.code == 130 and "2 of 4 results" in ran.err, ran
    monkeypatch.setattr(picture_folder, "_restore", restore)
    assert run("denoise", "photos", *QUICK, "--output", "out", "--resume").code == 0
    for name in NAMES:
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_failing_picture_leaves_the_others(run: Run, photos: Path) -> None:
    (photos / "broken.png").write_bytes((photos / "color.png").read_bytes()[:90])
    ran = run("denoise", "photos", *QUICK, "--output", "out")
    assert ran.code == 1 and "broken.png failed" in ran.err and pictures("out") == NAMES


def test_places_that_would_lose_something_are_refused(run: Run, photos: Path) -> None:
    for words, sentence in (
        (("--output", "photos"), "never written into the source"),
        (("--output", "photos/clean"), "which is never written into"),
        (("--output", "clean.png"), "a folder of pictures goes to a folder"),
        (("--output", "clean", "--report", "r.html"), "are for one picture"),
        (("--reference", "true.npy"), "are for one picture"),
        (("--items", "0,9"), "photos has 4"),
    ):
        assert sentence in one_sentence(run("denoise", "photos", *QUICK, *words)), sentence
    tifffile.imwrite(photos / "stack.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    assert "has 3 pages" in one_sentence(run("denoise", "photos", *QUICK, "--output", "out"))
    assert not Path("clean").exists() and not Path("out").exists()


def test_one_picture_keeps_its_form_and_name(run: Run, photos: Path) -> None:
    assert run("denoise", "photos/Turned.JPG", *QUICK).code == 0
    assert read("Turned_denoised.JPG").shape == (1, 3, 40, 48)
    assert (
        run("denoise", "photos/deep.tif", *QUICK, "--output", "x.tif", "x.png", "x.npy").code == 0
    )
    x = np.load("x.npy").clip(0, 1)
    for name in ("x.tif", "x.png"):
        assert np.abs(read(name)[0].numpy() - x).max() < 1e-5  # 16 bits
    refused = run("denoise", "photos/alpha.png", *QUICK, "--output", "y.jpg")
    assert "alpha channel, which JPEG cannot hold" in one_sentence(refused)
    assert not Path("y.jpg").exists()


def test_superresolve_enlarges_pixels_and_alpha(run: Run, photos: Path) -> None:
    ran = run("superresolve", "photos/", "--factor", "2", *QUICK, "--output", "large")
    assert ran.code == 0, ran.err
    assert {read(f"large/{name}").shape for name in NAMES} == {(1, 3, 80, 96)}
    with Image.open("large/alpha.png") as large, Image.open(photos / "alpha.png") as small:
        means = (np.asarray(picture)[..., 3].mean() for picture in (large, small))
        assert large.mode == "RGBA" and abs(next(means) - next(means)) < 1
    assert "--factor" in one_sentence(run("superresolve", "photos/color.png"))
    nothing = run("superresolve", "photos/color.png", "--factor", "0", *QUICK)
    assert "positive integer" in one_sentence(nothing)


def test_inpaint_fills_white_pixels_and_keeps_the_others(run: Run, photos: Path) -> None:
    mask = np.zeros((40, 48), np.uint8)
    mask[10:14, 8:30] = 255
    Image.fromarray(mask).save("mask.png")
    words = ("inpaint", "photos/color.png", "--mask", "mask.png", *QUICK)
    assert run(*words, "--output", "filled.png", "--quiet").code == 0
    before, after = read("photos/color.png"), read("filled.png")
    known = torch.as_tensor(mask == 0)
    assert torch.equal(before[..., known], after[..., known])
    assert not torch.equal(before[..., ~known], after[..., ~known])

    with Image.open("photos/color.png") as picture:
        Image.fromarray(np.dstack([np.asarray(picture), 255 - mask])).save("cut.png")
    assert run("inpaint", "cut.png", *QUICK, "--quiet").code == 0
    with Image.open("cut_inpainted.png") as picture:
        assert picture.mode == "RGBA" and np.asarray(picture)[..., 3].min() == 255
    assert torch.equal(read("cut_inpainted.png"), after)

    Path("masks").mkdir()
    for name in ("Turned", "alpha", "color", "deep"):
        Image.fromarray(mask).save(f"masks/{name}.png")
    folder = run("inpaint", "photos", "--mask", "masks", *QUICK, "--output", "out")
    assert folder.code == 0 and pictures("out") == NAMES, folder.err
    Path("masks/deep.png").unlink()
    missing = run("inpaint", "photos", "--mask", "masks", *QUICK, "--output", "out2")
    assert "has no mask for deep.tif" in one_sentence(missing)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (np.arange(40 * 48, dtype=np.uint8).reshape(40, 48), "256 values"),
        (np.zeros((40, 48), np.uint8), "no pixel is missing"),
        (np.full((40, 48), 255, np.uint8), "all pixels of mask.png are missing"),
        (np.eye(40, dtype=np.uint8) * 255, "40 x 40 pixels, and the picture 40 x 48"),
        (np.dstack([np.eye(40, 48, k).astype(np.uint8) for k in range(3)]), "has colors"),
    ],
)
def test_masks_that_are_not_black_and_white_are_refused(
    run: Run, photos: Path, mask: np.ndarray, sentence: str
) -> None:
    Image.fromarray(mask).save("mask.png")
    ran = run("inpaint", "photos/color.png", "--mask", "mask.png", "--output", "x.png")
    assert sentence in one_sentence(ran) and not Path("x.png").exists()


def test_a_picture_without_gaps_needs_a_mask(run: Run, photos: Path) -> None:
    ran = run("inpaint", "photos/color.png")
    assert "no pixels that are transparent or NaN" in one_sentence(ran)
    values = read("photos/color.png")[0, 0].numpy()
    values[5:8, 5:9] = np.nan
    tifffile.imwrite("nan.tif", values, photometric="minisblack")
    assert run("inpaint", "nan.tif", "--quiet").code == 0
    gaps = it.datasets.Pictures("nan.tif", with_gaps=True)[0]
    assert bool(gaps.y.isfinite().all()) and not bool(gaps.meta["original"].known()[6, 6])
    filled = tifffile.imread("nan_inpainted.tif")
    assert filled.dtype == np.float32 and np.isfinite(filled).all()
    assert np.array_equal(filled[~np.isnan(values)], values[~np.isnan(values)])


def test_deblur_knows_the_shapes_of_kernels(run: Run, photos: Path) -> None:
    words = ("deblur", "photos/color.png", *QUICK)
    for k, kernel in enumerate(("disc:1.5", "motion:4,30", "gaussian:0.8")):
        assert run(*words, "--kernel", kernel, "--output", f"x{k}.png").code == 0
        assert read(f"x{k}.png").shape == (1, 3, 40, 48)
    for kernel, sentence in (
        ("auto", "the toolbox has no blind deblurring"),
        ("box:3", "the shapes are disc:RADIUS, motion:LENGTH,ANGLE and gaussian:WIDTH"),
        ("disc:wide", "the radius of a disc is a positive number of pixels"),
        ("motion:5", "a motion has a length in pixels and an angle in degrees"),
        ("motion:-5,0", "the length of a motion is a positive number of pixels"),
        ("motion:5,up", "the angle of a motion is a number of degrees"),
        ("disc:30", "larger than the image"),
    ):
        assert sentence in one_sentence(run(*words, "--kernel", kernel, "-o", "y.png")), kernel


def test_kernels_cover_their_shape() -> None:
    disc, motion = disc_kernel(3.2, "kernel"), motion_kernel([5, 0], "kernel")
    assert disc.shape == (7, 7) and float(disc[3, 3]) == pytest.approx(
        1 / (np.pi * 3.2**2), rel=0.01
    )
    assert torch.allclose(motion, torch.full((1, 5), 0.2))
    slanted = motion_kernel([9, 45], "kernel")
    assert torch.allclose(slanted, slanted.T.flip(0, 1)) and float(slanted[2, -3]) > 0.05
    for kernel in (disc, motion, slanted):
        assert float(kernel.sum()) == pytest.approx(1)


def test_the_current_folder_takes_the_results(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos.parent / "out").mkdir()
    monkeypatch.chdir(photos.parent / "out")
    ran = run("denoise", "../photos/color.png", "--output", ".", *QUICK)
    assert ran.code == 0, ran.err
    assert "reconstruction.png" in {path.name for path in Path().iterdir()}
    again = run("denoise", "../photos/color.png", "--output", ".", *QUICK)
    assert "holds results already" in one_sentence(again)


def test_an_inverted_mask_is_named(run: Run, photos: Path) -> None:
    picture = np.asarray(Image.open(photos / "color.png").convert("L")).copy()
    is_known = np.zeros(picture.shape, bool)
    is_known[::2] = True
    Image.fromarray(np.where(is_known, picture, 0).astype(np.uint8)).save("gaps.png")
    Image.fromarray((is_known * 255).astype(np.uint8)).save("known.png")
    ran = run("inpaint", "gaps.png", "--mask", "known.png", "--output", "x.png", *QUICK)
    assert "so invert the mask" in one_sentence(ran)


def test_a_key_is_named_as_the_user_wrote_it(run: Run, photos: Path) -> None:
    ran = run("denoise", str(photos / "color.png"), "--set", "noise_std=0.1", "--output", "x.png")
    assert "has no key 'noise_std'" in one_sentence(ran)
