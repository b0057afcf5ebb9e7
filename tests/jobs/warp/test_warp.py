"""``invtoolbox warp``: what SimpleITK makes of the same transforms, and points that stay on the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.datasets.transforms.points import read_points
from invtoolbox.geometry import Affine, DisplacementField, Grid
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.jobs.registration.checks import looks_like_labels
from tests.command_line import Run, one_sentence

sitk = pytest.importorskip("SimpleITK")
DIRECTION = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]


def volume(sizes: tuple[int, ...], spacing: tuple[float, ...], seed: int, turned: bool) -> Any:
    """A smooth volume in whole numbers, around the origin."""
    generator = np.random.default_rng(seed)
    values = sitk.GetImageFromArray(generator.normal(size=sizes[::-1]))
    image = sitk.Cast(500 * sitk.SmoothingRecursiveGaussian(values, 1.5), sitk.sitkInt16)
    image.SetSpacing(spacing)
    direction = DIRECTION if turned else np.eye(3)
    image.SetDirection(direction.ravel())
    image.SetOrigin(-direction @ (np.array(spacing) * (np.array(sizes) - 1) / 2))
    return image


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two volumes on different grids, labels, and an affine map, a field and both of them."""
    monkeypatch.chdir(tmp_path)
    moving, fixed = (
        volume((24, 22, 16), (1.0, 1.2, 2.0), 0, True),
        volume((20, 26, 18), (1.5, 1.1, 1.8), 1, False),
    )
    affine = sitk.Euler3DTransform((1, 2, 3), 0.2, -0.1, 0.3, (2, -3, 1))
    generator = np.random.default_rng(2)
    coarse = np.zeros((6, 6, 6, 3))
    coarse[1:-1, 1:-1, 1:-1] = generator.normal(size=(4, 4, 4, 3))
    field = sitk.GetImageFromArray(coarse, isVector=True)
    field.SetSpacing((7.0, 7.0, 8.0))
    field.SetOrigin((-17.5, -17.5, -20.0))
    labels = sitk.Cast(moving > 0, sitk.sitkUInt8) + 2 * sitk.Cast(moving > 60, sitk.sitkUInt8)
    for name, image in (("moving", moving), ("fixed", fixed), ("labels", labels)):
        sitk.WriteImage(image, f"{name}.nii.gz")
    sitk.WriteTransform(affine, "affine.mat")
    sitk.WriteImage(field, "field.mha")
    # The first name on the command line is the first that points pass, in ITK's composite the last.
    both = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])
    return {"moving": moving, "fixed": fixed, "labels": labels, "affine": affine, "both": both}


def exact(moving: Any, fixed: Any, transform: Any, outside: float) -> np.ndarray:
    """Resample in double precision; SimpleITK cuts off what is behind the point of whole numbers."""
    image = sitk.Cast(moving, sitk.sitkFloat64)
    return sitk.GetArrayFromImage(sitk.Resample(image, fixed, transform, sitk.sitkLinear, outside))


def test_images_are_those_of_itk(run: Run, files: dict[str, Any]) -> None:
    words = ("warp", "moving.nii.gz", "--like", "fixed.nii.gz", "--outside", "-1000")
    for transforms, kind in (("affine.mat",), "affine"), (("field.mha", "affine.mat"), "both"):
        ran = run(*words, "--transform", *transforms, "--output", f"{kind}.nii.gz", f"{kind}.json")
        assert ran.code == 0, ran.err
        expected = exact(files["moving"], files["fixed"], files[kind], -1000.0)
        ours = sitk.ReadImage(f"{kind}.nii.gz")
        assert ours.GetPixelID() == sitk.sitkInt16
        assert np.abs(sitk.GetArrayFromImage(ours) - expected).max() < 0.501  # whole numbers
        assert ours.GetSize() == files["fixed"].GetSize()
    ran = run("warp", "fixed.nii.gz", "--transform", "affine.mat", "--inverse", "--like", "moving.nii.gz", "-o", "back.mha")  # fmt: skip
    expected = exact(files["fixed"], files["moving"], files["affine"].GetInverse(), 0.0)
    ours = sitk.ReadImage("back.mha")
    assert np.abs(sitk.GetArrayFromImage(ours) - expected).max() < 0.501, ran.err


def test_labels_stay_labels(run: Run, files: dict[str, Any]) -> None:
    words = ("warp", "labels.nii.gz", "--transform", "affine.mat", "--like", "fixed.nii.gz")
    expected = sitk.GetArrayFromImage(
        sitk.Resample(files["labels"], files["fixed"], files["affine"], sitk.sitkNearestNeighbor)
    )
    ran = run(*words)
    assert ran.code == 0 and "looks like labels" in ran.out, ran.err
    ran = run(*words, "--labels", "--output", "named.nii.gz")
    assert ran.code == 0 and "looks like" not in ran.out
    for name in ("labels_warped.nii.gz", "named.nii.gz"):
        image = sitk.ReadImage(name)
        assert image.GetPixelID() == sitk.sitkUInt8
        assert (sitk.GetArrayFromImage(image) == expected).all()
    run(*words, "--set", "warp.labels=false", "-o", "mixed.nii.gz")
    assert (sitk.GetArrayFromImage(sitk.ReadImage("mixed.nii.gz")) != expected).any()
    photograph = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    assert not looks_like_labels(photograph) and not looks_like_labels(np.zeros((4, 4)))


@pytest.mark.parametrize("suffix", ["csv", "vtk", "binary.vtk", "ply", "obj"])
def test_points_and_meshes_stay_on_the_image(run: Run, files: dict[str, Any], suffix: str) -> None:
    """A bright voxel and a point at its place meet again after both were warped."""
    places = files["moving"].TransformContinuousIndexToPhysicalPoint([12.0, 10.0, 8.0])
    points = np.array([places, [1.0, -2.0, 3.0], [-4.0, 5.0, 0.5]])
    path = Path(f"points.{suffix}")
    if suffix == "csv":
        rows = [f"{k},{z!r},{x!r},{y!r}" for k, (x, y, z) in enumerate(points.tolist())]
        path.write_text("\n".join(["name,z,x,y", *rows]) + "\n")
    elif suffix.endswith("vtk"):
        is_text = suffix == "vtk"
        head = f"# vtk DataFile Version 3.0\nx\n{'ASCII' if is_text else 'BINARY'}\nDATASET POLYDATA\nPOINTS 3 double\n"
        body = " ".join(map(repr, points.ravel().tolist())).encode()
        path.write_bytes(
            head.encode() + (body if is_text else points.astype(">f8").tobytes()) + b"\nMETADATA\n"
        )
    elif suffix == "ply":
        it.datasets.write_ply(path, points, scalars={"name": np.arange(3)})
    else:
        mesh = Mesh(torch.from_numpy(points), torch.tensor([[0, 1, 2]]))
        it.datasets.write_mesh(path, mesh)
    ran = run("warp", str(path), "--transform", "field.mha", "affine.mat", "-o", f"in.{suffix}")
    assert ran.code == 0 and "by the inverse of the transform" in ran.out, ran.err
    read: Any = it.datasets.read_mesh if suffix == "obj" else read_points
    moved = read(Path(f"in.{suffix}"))
    moved = moved.vertices.numpy() if suffix == "obj" else moved
    again = np.array([files["both"].TransformPoint(p) for p in moved.tolist()])
    assert np.abs(again - points).max() < 1e-3
    spot = sitk.Image(files["moving"].GetSize(), sitk.sitkFloat32)
    spot.CopyInformation(files["moving"])
    spot[12, 10, 8] = 1.0
    spot = sitk.SmoothingRecursiveGaussian(spot, 2.0)
    sitk.WriteImage(spot, "spot.nii.gz")
    run("warp", "spot.nii.gz", "--transform", "field.mha", "affine.mat", "--like", "fixed.nii.gz", "-o", "s.mha")  # fmt: skip
    warped = sitk.ReadImage("s.mha")
    index = np.unravel_index(sitk.GetArrayFromImage(warped).argmax(), warped.GetSize()[::-1])
    peak = warped.TransformIndexToPhysicalPoint([int(k) for k in index[::-1]])
    assert np.abs(np.array(peak) - moved[0]).max() < 1.5  # a voxel
    if suffix == "csv":
        assert path.with_name("in.csv").read_text().splitlines()[2].startswith("1,")
    if suffix.endswith("vtk"):
        assert Path(f"in.{suffix}").read_bytes().endswith(b"METADATA\n")
    ran = run("warp", str(path), "--transform", "field.mha", "affine.mat", "--inverse", "-o", f"out.{suffix}")  # fmt: skip
    there = read(Path(f"out.{suffix}"))
    there = there.vertices.numpy() if suffix == "obj" else there
    expected = np.array([files["both"].TransformPoint(p) for p in points.tolist()])
    assert np.abs(there - expected).max() < 1e-5


def test_pictures_keep_their_brightness(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = torch.from_numpy(np.random.default_rng(0).uniform(0.2, 0.7, (3, 20, 30))).float()
    it.datasets.write_png("a.png", picture, (0, 1))
    it.datasets.write_transform("shift.tfm", Affine([[1, 0, 2.0], [0, 1, 3.0], [0, 0, 1]]))
    ran = run("warp", "a.png", "--transform", "shift.tfm", "--like", "a.png", "--output", "b.png")
    assert ran.code == 0, ran.err
    before, after = (it.datasets.open(name)[0].y for name in ("a.png", "b.png"))
    assert torch.allclose(after[..., :-3, :-2], before[..., 3:, 2:], atol=1e-6)
    assert not after[..., -3:, :].any()


def test_bad_input(run: Run, files: dict[str, Any]) -> None:
    far = Affine(np.array([[1, 0, 0, 500.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    it.datasets.write_transform("far.tfm", far)
    it.datasets.write_transform("plane.tfm", Affine.identity(2))
    u = torch.zeros(3, 4, 5, 6)
    u[0] = -2 * torch.arange(6.0)
    it.datasets.write_transform("folds.nii.gz", DisplacementField(u, Grid()))
    Path("p.csv").write_text("x,y,z\n1,2,3\n")
    Path("flat.csv").write_text("x,y\n1,2\n")
    Path("words.csv").write_text("a,b\n1,2\n")
    image = ("warp", "moving.nii.gz", "--like", "fixed.nii.gz", "-o", "x.nii.gz", "--transform")
    for words, sentence in (
        ((*image, "far.tfm"), "no voxel of the result lies in the image: it spans x"),
        ((*image, "plane.tfm"), "has the shape (16, 22, 24), and the transform 2 dimensions"),
        ((*image, "plane.tfm", "affine.mat"), "2 and 3 dimensions"),
        ((*image, "folds.nii.gz", "--inverse"), "folds at 120 of 120 voxels"),
        ((*image, "fixed.nii.gz"), "give the field, not an image"),
        (("warp", "moving.nii.gz", "-o", "x.mha"), "--transform is missing"),
        (("warp", "moving.nii.gz", "--transform", "affine.mat"), "give --like, the fixed image"),
        ((*image, "affine.mat", "--outside", "40000"), "which the image's int16 does not hold"),
        (("warp", "p.csv", "--transform", "plane.tfm"), "3 coordinates, and the transform 2"),
        (("warp", "flat.csv", "--transform", "affine.mat"), "2 coordinates, and the transform 3"),
        (("warp", "words.csv", "--transform", "affine.mat"), "no columns x and y with numbers"),
        (("warp", "p.csv", "--transform", "affine.mat", "-o", "p.nii"), "is written as .csv"),
        (
            ("warp", "p.csv", "--transform", "affine.mat", "-o", "p.csv", "--overwrite"),
            "never written into the source",
        ),
        (
            ("warp", "moving.nii.gz", "--transform", "affine.mat", "-o", "x.csv"),
            "is written as .png",
        ),
    ):
        assert sentence in one_sentence(run(*words)), words
    assert not Path("x.nii.gz").exists()
    run("warp", "p.csv", "--transform", "affine.mat", "-o", "q.csv")
    ran = run("warp", "p.csv", "--transform", "affine.mat", "-o", "q.csv")
    assert "exists" in one_sentence(ran)


def test_a_folder_holds_the_image_and_a_report(run: Run, files: dict[str, Any]) -> None:
    words = ("warp", "moving.nii.gz", "--transform", "field.mha", "-o", "folder")
    ran = run(*words, "--save-scene", "scene.toml")
    assert ran.code == 0, ran.err
    assert {p.name for p in Path("folder").iterdir()} >= {
        "warped.mha",
        "metrics.json",
        "report.html",
    }
    assert it.datasets.open("folder/warped.mha").shape == (6, 6, 6)  # the grid of the field
    assert run("run", "scene.toml", "--output", "again").code == 0
    assert "folder" in one_sentence(run(*words))
