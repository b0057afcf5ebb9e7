"""``invtoolbox register``: volumes and pictures in, warped images, labels and the field out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import invtoolbox as it
from invtoolbox.datasets.volumes.volume import VolumeInMemory
from invtoolbox.geometry.grids import Grid
from tests.command_line import Run, one_sentence
from tests.jobs.registration.test_register import case
from tests.jobs.registration.test_stages import body

MIRRORED = Grid(
    (3.0, 3.0, 3.0), (0.0, 69.0, 0.0), ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0))
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    moving, fixed, _ = case(spacing=0.5)
    for name, image in (("moving", moving), ("fixed", fixed)):
        np.save(f"{name}.npy", image[0, 0].numpy())
        it.datasets.write(f"{name}.png", image[0, 0])
    labels = (moving[0, 0] > 0.5).to(int).numpy()
    np.save("labels.npy", labels)


def test_arrays_give_a_warped_image_labels_and_the_field(run: Run, files: None) -> None:
    words = ("register", "moving.npy", "fixed.npy", "--spacing", "0.5", "--labels", "labels.npy")
    ran = run(*words, "moved.npy", "--output", "warped.npy", "field.npz")
    assert ran.code == 0, ran.err
    assert "converged" in ran.out and ran.out.endswith("warped.npy\n  field.npz\n  moved.npy\n")
    moving, fixed, warped = (np.load(f"{name}.npy") for name in ("moving", "fixed", "warped"))
    assert (warped - fixed).std() < 0.15 * (moving - fixed).std()
    with np.load("field.npz") as file:
        assert file["displacement"].shape == (2, 48, 48) and file["spacing"].tolist() == [0.5, 0.5]
        assert (file["jacobian"] > 0).all()
    assert set(np.unique(np.load("moved.npy"))) == {0, 1}
    assert "exists" in one_sentence(run(*words, "moved.npy", "--output", "warped.npy"))


def test_volumes_keep_their_grid(run: Run, files: None) -> None:
    pytest.importorskip("nibabel")
    image = np.load("moving.npy")[None, :32, :32]
    grid = Grid(voxel_size=(3.0, 0.5, 0.5), origin=(1.0, 2.0, 3.0))
    it.datasets.write("a.nii.gz", VolumeInMemory(image, grid))
    it.datasets.write("b.nii.gz", VolumeInMemory(np.roll(image, 1, 1), grid))
    ran = run("register", "a.nii.gz", "b.nii.gz", "--prior", "linear-elastic", "--quiet")
    assert ran.code == 0 and not ran.out, ran.err
    assert it.datasets.open("a_registered.nii.gz").grid == it.datasets.open("b.nii.gz").grid


def test_stages_take_volumes_of_different_grids(run: Run, files: None) -> None:
    pytest.importorskip("nibabel")
    head = body((20, 24, 22))
    it.datasets.write("a.nii.gz", VolumeInMemory(head, Grid((3.0, 3.0, 3.0), (20.0, 0.0, 0.0))))
    it.datasets.write("b.nii.gz", VolumeInMemory(head[:, ::-1].copy(), MIRRORED))
    words = ("register", "a.nii.gz", "b.nii.gz", "--stages", "translation", "--quick")
    ran = run(*words, "-o", "warped.nii.gz")
    assert ran.code == 0, ran.err
    warped = it.datasets.open("warped.nii.gz")
    assert warped.grid.voxel_size == (3.0, 3.0, 3.0)
    assert (warped.slices() - head[:, ::-1])[3:-3, 3:-3, 3:-3].std() < 0.2 * head.std()
    assert "'elastic'" in one_sentence(
        run("register", "a.nii.gz", "b.nii.gz", "--stages", "elastic")
    )


def test_pictures_and_bad_options(run: Run, files: None) -> None:
    ran = run("register", "moving.png", "fixed.png", "--loss", "ncc", "-q")
    assert ran.code == 0, ran.err
    assert Path("moving_registered.png").exists()
    words = ("register", "moving.png", "fixed.png", "-o", "y.png")
    assert "--prior is missing" in one_sentence(run(*words, "--poisson", "0.3"))
    other = run(*words, "--poisson", "0.3", "--prior", "bending")
    assert "poisson" in one_sentence(other)
    assert "smoothness" in one_sentence(run(*words, "--smoothness", "0"))
