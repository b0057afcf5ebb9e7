"""``invtoolbox deblur``: what it computes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import invtoolbox as it
from tests.command_line import Run, one_sentence

QUICK = ("--max-iterations", "10", "--regularization", "0.001", "--quiet")


def test_a_photograph_becomes_sharper(run: Run, here: Path) -> None:
    ran = run(
        "deblur",
        "photo.png",
        "--kernel",
        "kernel.png",
        "--noise-std",
        "0.002",
        "--output",
        "sharp.npy",
    )
    assert ran.code == 0, ran.err
    truth = torch.as_tensor(np.load("truth.npy"))
    blurred, sharp = (
        it.datasets.open("photo.png")[0].y[0, 0],
        torch.as_tensor(np.load("sharp.npy"))[0],
    )
    assert (sharp - truth).norm() < 0.5 * (blurred - truth).norm()


def test_the_default_output_is_a_png_of_the_same_range(run: Run, here: Path) -> None:
    assert run("deblur", "photo.png", "--kernel", "gaussian:0.8", *QUICK).code == 0
    y = it.datasets.open("photo_deblurred.png")[0].y
    assert y.shape == (1, 1, 16, 16) and 0.8 < float(y.max()) <= 1


def test_a_stack_and_a_stack_as_kernel_are_a_volume(run: Run, here: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(1, 6, 10, 12, generator=generator) > 0.8).float()
    kernel = torch.rand(3, 3, 3, generator=generator)
    A = it.operators.Blur3D(kernel / kernel.sum(), (6, 10, 12))
    for name, volume in (("cells.tif", A(truth[None])[0]), ("psf.tif", kernel[None])):
        it.datasets.write(name, it.datasets.VolumeInMemory(volume[None], it.datasets.Grid()))
    quick = ("--max-iterations", "60", "--regularization", "0.001", "--quiet")
    ran = run("deblur", "cells.tif", "--kernel", "psf.tif", *quick, "--output", "sharp.npy")
    assert ran.code == 0, ran.err
    sharp, blurred = torch.as_tensor(np.load("sharp.npy")), A(truth[None])[0, 0]
    assert sharp.shape == (6, 10, 12)
    assert (sharp - truth[0]).norm() < 0.5 * (blurred - truth[0]).norm()

    flat = run("deblur", "cells.tif", "--kernel", "kernel.png", *quick, "--output", "no.tif")
    assert flat.code == 2 and "6 slices" in one_sentence(flat) and "--items all" in flat.err
    thick = run("deblur", "photo.png", "--kernel", "psf.tif", *quick, "--output", "no.png")
    assert thick.code == 2 and "--kernel-item" in one_sentence(thick)
    assert not Path("no.tif").exists() and not Path("no.png").exists()


def test_a_picture_in_tiles(run: Run, here: Path) -> None:
    tiled = run(
        "deblur",
        "photo.png",
        "--kernel",
        "kernel.png",
        *QUICK,
        "--prior",
        "tv",
        "--tile",
        "10",
        "--output",
        "tiled.npy",
    )
    assert tiled.code == 0, tiled.err
    options = (*QUICK, "--prior", "tv", "--output", "whole.npy")
    whole = run("deblur", "photo.png", "--kernel", "kernel.png", *options)
    assert whole.code == 0
    # The margin covers this small picture, so every tile is solved from all of it.
    np.testing.assert_allclose(np.load("tiled.npy"), np.load("whole.npy"), atol=1e-6)
    both = run("deblur", "photo.png", "--kernel", "kernel.png", "--tile", "8", "--time-limit", "1")
    assert both.code == 2 and "--time-limit" in one_sentence(both)


def test_a_color_photograph_keeps_its_colors(run: Run, here: Path) -> None:
    torch.manual_seed(0)
    it.datasets.write_png("color.png", torch.rand(1, 3, 14, 18), (0.0, 1.0))
    assert (
        run("deblur", "color.png", "--kernel", "kernel.png", *QUICK, "--output", "sharp.npy").code
        == 0
    )
    assert np.load("sharp.npy").shape == (3, 14, 18)


def test_valid_boundary_gives_what_the_camera_did_not_see(run: Run, here: Path) -> None:
    assert (
        run(
            "deblur",
            "photo.png",
            "--kernel",
            "kernel.png",
            "--boundary",
            "valid",
            *QUICK,
            "--output",
            "a.npy",
        ).code
        == 0
    )
    assert np.load("a.npy").shape == (1, 18, 18)


@pytest.mark.parametrize(("boundary", "rows"), [("reflect", 16), ("valid", 28)])
def test_a_kernel_with_empty_borders_states_what_was_not_seen(
    run: Run, here: Path, boundary: str, rows: int
) -> None:
    """A crop would change the size of the picture, which has 13 - 1 pixels more than were seen."""
    kernel = np.zeros((13, 13))
    kernel[5:8, 5:8] = 1
    np.save("wide.npy", kernel)
    options = ("--kernel", "wide.npy", "--boundary", boundary, *QUICK, "--output", "a.npy")
    assert run("deblur", "photo.png", *options).code == 0
    assert np.load("a.npy").shape == (1, rows, rows)


def test_a_kernel_is_scaled_to_the_sum_one(run: Run, here: Path) -> None:
    np.save("large.npy", np.full((3, 3), 7.0))
    for kernel in ("kernel.png", "large.npy"):
        assert (
            run(
                "deblur", "photo.png", "--kernel", kernel, *QUICK, "--output", f"{kernel}.out.npy"
            ).code
            == 0
        )
    assert np.allclose(np.load("kernel.png.out.npy"), np.load("large.npy.out.npy"), atol=1e-5)


def test_a_kernel_in_color_is_refused_unless_its_channels_are_equal(run: Run, here: Path) -> None:
    color = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(0))
    it.datasets.write_png("color.png", color, (0.0, 1.0))
    it.datasets.write_png("equal.png", torch.ones(3, 3, 3), (0.0, 1.0))
    words = ("deblur", "photo.png", "--kernel")
    sentence = one_sentence(run(*words, "color.png", *QUICK, "--output", "a.npy"))
    assert "color.png has 3 channels that differ" in sentence and "grey" in sentence
    assert not Path("a.npy").exists()
    for kernel in ("equal.png", "kernel.png"):
        assert run(*words, kernel, *QUICK, "--output", f"{kernel}.npy").code == 0
    assert np.array_equal(np.load("equal.png.npy"), np.load("kernel.png.npy"))


@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        ("zero.npy", "sums to 0"),
        ("nan.npy", "NaN or infinite"),
        ("wide.npy", "larger than the image"),
        ("gone.png", "there is no such file"),
        ("gaussian:wide", "positive number of pixels"),
        ("gaussian:-1", "positive number of pixels"),
        ("gaussian:", "positive number of pixels"),
        ("cut.png", "truncated"),
    ],
)
def test_bad_kernels_are_one_sentence_and_nothing_is_written(
    run: Run, here: Path, kernel: str, sentence: str
) -> None:
    np.save("zero.npy", np.zeros((3, 3)))
    np.save("nan.npy", np.full((3, 3), np.nan))
    np.save("wide.npy", np.ones((3, 33)))
    Path("cut.png").write_bytes(Path("photo.png").read_bytes()[:60])
    before = sorted(p.name for p in here.iterdir())
    assert sentence in one_sentence(run("deblur", "photo.png", "--kernel", kernel, *QUICK))
    assert sorted(p.name for p in here.iterdir()) == before


def test_kernel_items_are_counted(run: Run, here: Path) -> None:
    assert "--kernel-item 2" in one_sentence(
        run("deblur", "photo.png", "--kernel", "kernel.png", "--kernel-item", "2")
    )


@pytest.mark.data
def test_levins_kernels_are_read(run: Run, here: Path, data_dir: Path) -> None:
    torch.manual_seed(0)
    it.datasets.write_png("large.png", torch.rand(1, 1, 40, 40), (0.0, 1.0))
    ran = run(
        "deblur",
        "large.png",
        "--kernel",
        data_dir / "kernels" / "Levin09.mat",
        "--kernel-item",
        "3",
        *QUICK,
    )
    assert ran.code == 0, ran.err
