"""``invtoolbox normals``: files in, depth and a mesh out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import invtoolbox as it
from tests.command_line import Run, one_sentence
from tests.jobs.normals.test_integrate import body, hill


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skimage.io import imsave

    monkeypatch.chdir(tmp_path)
    normals, truth, mask = hill()
    imsave("map.png", (normals * 127.5 + 127.5).round().byte().numpy(), check_contrast=False)
    imsave("mask.png", (255 * mask.byte()).numpy(), check_contrast=False)
    np.save("truth.npy", truth.numpy())
    Path("K.txt").write_text("100 0 19.5\n0 100 19.5\n0 0 1\n")


def test_a_picture_becomes_depth_and_a_mesh(run: Run, files: None) -> None:
    words = ("normals", "map.png", "--mask", "mask.png", "--output", "depth.npz", "mesh.obj")
    ran = run(*words)
    assert ran.code == 0, ran.err
    assert "8-bit" in ran.out and "converged" in ran.out
    depth, mask = np.load("depth.npz")["depth"], it.datasets.read_mask("mask.png").numpy()
    gap = (depth - np.load("truth.npy"))[mask]
    assert np.abs(gap - np.median(gap)).mean() < 0.1
    assert len(it.datasets.read_mesh("mesh.obj").faces) > 1000
    assert "depth.npz exists" in one_sentence(run(*words))


def test_a_perspective_camera(run: Run, files: None) -> None:
    words = ("--mask", "mask.png", "--intrinsics", "K.txt", "--median-depth", "300", "--quiet")
    ran = run("normals", "map.png", *words)
    assert ran.code == 0 and not ran.out
    assert abs(np.nanmedian(np.load("map_depth.npz")["depth"]) - 300) < 0.1
    assert "perspective" in one_sentence(
        run("normals", "map.png", *words, "--pixel-size", "2", "-o", "x.npy")
    )


def test_the_front_and_the_back(run: Run, files: None) -> None:
    normals, truth, mask = body()
    for name, n, z in zip(("front", "back"), normals, truth):
        np.save(f"{name}.npy", n.numpy())
        np.save(f"{name}_prior.npy", torch.where(mask, z, torch.nan).numpy())
    words = ("--back", "back.npy", "--prior", "front_prior.npy", "back_prior.npy")
    ran = run("normals", "front.npy", *words, "--output", "body.npz", "body.obj")
    assert ran.code == 0, ran.err
    with np.load("body.npz") as file:
        assert (file["front"] <= file["back"])[mask].all()
    assert len(it.datasets.read_mesh("body.obj").vertices) > int(mask.sum())


def test_bad_files_are_one_sentence(run: Run, files: None) -> None:
    assert "grey" in one_sentence(run("normals", "mask.png"))
    assert "(3, 3)" in one_sentence(run("normals", "map.png", "--intrinsics", "truth.npy"))
    assert "file(s) of --prior" not in one_sentence(run("normals", "map.txt"))
    assert "one prior per side" in one_sentence(
        run("normals", "map.png", "--prior", "truth.npy", "truth.npy")
    )


def test_a_photograph_is_no_normal_map(tmp_path: Path) -> None:
    photograph = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    it.datasets.write_png(tmp_path / "photograph.png", photograph, (0.0, 1.0))
    with pytest.raises(it.InputError, match="no normal map, because .* are no directions"):
        it.datasets.read_normal_map(tmp_path / "photograph.png")
