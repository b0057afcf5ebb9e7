"""Transform, measures and pictures of a registration on the command line; SimpleITK applies the files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.datasets.volumes.volume import VolumeInMemory
from invtoolbox.geometry import Affine, Composite, DisplacementField, Grid
from invtoolbox.jobs.registration.evaluation import images_of_stages
from invtoolbox.jobs.registration.register import Registration
from invtoolbox.plotting.figures import registration_figure
from tests.command_line import Run, one_sentence

sitk = pytest.importorskip("SimpleITK")
DIRECTION = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
GRID = Grid.from_itk((1.0, 1.3, 2.0), (5.0, -6.0, 7.0), DIRECTION)


def blob(shape: tuple[int, ...], shift: float) -> np.ndarray:
    """An ellipsoid with a darker one in it, moved and stretched."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radii = [(a - shift * (k + 1) / 2) / (0.6 + shift) for k, a in enumerate(axes)]
    radius = np.sqrt(sum(r * r for r in radii))
    pattern = np.cos(7 * axes[-1] + shift) * np.cos(6 * axes[-2])
    values = 1 / (1 + np.exp(16 * (radius - 1))) - 0.5 / (1 + np.exp(16 * (radius - 0.4)))
    return (1000 * (values + 0.1 * pattern * (radius < 1))).astype(np.float32)


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, shift in (("moving", 0.1), ("fixed", 0.0)):
        values = blob((20, 24, 28), shift)
        it.datasets.write(f"{name}.nii.gz", VolumeInMemory(values, GRID))
        labels = (values > 200).astype(np.uint8) + 2 * (values > 700)
        it.datasets.write(f"{name}_labels.nii.gz", VolumeInMemory(labels, GRID))


WORDS = (
    *("register", "moving.nii.gz", "fixed.nii.gz", "--stages", "bending"),
    *("--smoothness", "0.1", "-q"),
)


@pytest.mark.parametrize("suffix", ["h5", "nii.gz", "mha"])
def test_itk_applies_the_transform(run: Run, volumes: None, suffix: str) -> None:
    ran = run(*WORDS, "--transform", f"motion.{suffix}", "--output", "warped.nii.gz", "field.mha")
    assert ran.code == 0, ran.err
    if suffix == "h5":
        transform = sitk.ReadTransform("motion.h5")
    else:
        field = sitk.ReadImage(f"motion.{suffix}")
        transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    moving, fixed = (sitk.ReadImage(f"{name}.nii.gz") for name in ("moving", "fixed"))
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear))
    ours = sitk.GetArrayFromImage(sitk.ReadImage("warped.nii.gz"))
    inner = (slice(3, -3),) * 3  # beyond the border ITK's value is 0
    assert np.abs(ours - expected)[inner].max() < 1e-3 * 1000
    start = sitk.GetArrayFromImage(moving) - sitk.GetArrayFromImage(fixed)
    assert (ours - sitk.GetArrayFromImage(fixed)).std() < 0.3 * start.std()
    # An image whose suffix is that of a field is the warped image.
    assert sitk.ReadImage("field.mha").GetNumberOfComponentsPerPixel() == 1
    again = run("warp", "moving.nii.gz", "--transform", f"motion.{suffix}", "--like", "fixed.nii.gz", "-o", "w.nii.gz")  # fmt: skip
    assert again.code == 0, again.err
    assert np.abs(sitk.GetArrayFromImage(sitk.ReadImage("w.nii.gz")) - expected).max() < 1


def test_landmarks_labels_and_jacobian(run: Run, volumes: None) -> None:
    """The measures are those of SimpleITK with the same transform."""
    points = GRID.points((20, 24, 28))[6:15:4, 8:18:5, 8:20:5].reshape(-1, 3).numpy()
    displaced = points + 1.5
    for name, side in (("p_moving", displaced), ("p_fixed", points)):
        rows = [",".join(map(repr, row)) for row in side.tolist()]
        Path(f"{name}.csv").write_text("\n".join(["x,y,z", *rows]))
    words = (*WORDS, "--landmarks", "p_moving.csv", "p_fixed.csv", "--transform", "motion.h5")
    words = (*words, "--labels", "moving_labels.nii.gz", "moved_labels.nii.gz")
    ran = run(*words, "--fixed-labels", "fixed_labels.nii.gz", "-o", "m.json", "r.html", "f.npz")
    assert ran.code == 0, ran.err
    measures = json.loads(Path("m.json").read_text())
    transform = sitk.ReadTransform("motion.h5")
    there = np.array([transform.TransformPoint(p) for p in points.tolist()])
    errors = np.linalg.norm(there - displaced, axis=1)
    assert measures["landmark error"] == pytest.approx(errors.mean(), rel=1e-4)
    assert measures["worst landmark"] == pytest.approx(errors.max(), rel=1e-4)
    assert measures["landmark error before"] == pytest.approx(1.5 * np.sqrt(3))
    moved, fixed = (
        sitk.GetArrayFromImage(sitk.ReadImage(f"{name}_labels.nii.gz"))
        for name in ("moved", "fixed")
    )
    for label in (1, 3):
        both = 2 * ((moved == label) & (fixed == label)).sum()
        expected = both / ((moved == label).sum() + (fixed == label).sum())
        assert measures[f"dice of {label}"] == pytest.approx(expected, abs=1e-6)
    assert measures["dice"] > 0.8 and measures["correlation before"] < 0.9
    assert measures["correlation after field"] > 0.98
    information = measures["mutual information after field"], measures["mutual information before"]
    assert 2 > information[0] > information[1] + 0.1 > 1.1
    field = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
    # ITK's filter does not turn the vectors to the axes of the image, along which it differentiates.
    straight = sitk.GetImageFromArray(sitk.GetArrayFromImage(field) @ DIRECTION, isVector=True)
    straight.SetSpacing(field.GetSpacing())
    jacobian = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(straight))
    with np.load("f.npz") as file:
        ours = file["jacobian"]
    inner = (slice(1, -1),) * 3
    assert np.abs(ours - jacobian)[inner].max() < 1e-3
    assert measures["least jacobian"] == pytest.approx(ours.min())
    assert measures["folding"] == (ours <= 0).mean()
    page = Path("r.html").read_text()
    assert page.count("data:image/png") == 4 and "landmark error" in page


def test_a_folder_holds_transform_and_picture(run: Run, volumes: None) -> None:
    ran = run(*WORDS, "--output", "folder")
    assert ran.code == 0, ran.err
    names = {path.name for path in Path("folder").iterdir()}
    assert names >= {"transform.h5", "registration.png", "report.html", "metrics.json"}
    assert isinstance(it.datasets.read_transform("folder/transform.h5"), DisplacementField)
    sentence = one_sentence(run(*WORDS, "--transform", "t.h5", "--output", "other"))
    assert "--transform writes a file; give files as --output" in sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--transform", "t.tfm"), "a registration has a displacement field"),
        (("--transform", "t.png"), "no format of transforms for the suffix '.png'"),
        (("--output", "t.tfm"), "no format for the suffix '.tfm'"),
        (("--transform", "t.mha", "--output", "t.mha"), "is named twice, by --transform too"),
        (("--transform", "fixed.nii.gz", "--overwrite"), "never written into the source"),
        (("--fixed-labels", "fixed_labels.nii.gz"), "give labels"),
        (("--landmarks", "a.csv", "b.csv"), "b.csv has 2 points of 3 coordinates, but 1 of 3"),
        (("--landmarks", "flat.csv", "flat.csv"), "1 points of 2 coordinates, but 1 of 3"),
        (("--landmarks", "a.csv", "missing.csv"), "there is no file missing.csv"),
    ],
)
def test_bad_options_are_refused_before_anything_is_computed(
    run: Run,
    volumes: None,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    Path("a.csv").write_text("x,y,z\n1,2,3\n")
    Path("flat.csv").write_text("x,y\n1,2\n")
    Path("b.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")

    def computes(*_: Any, **__: Any) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr("invtoolbox.jobs.registration.scene.register", computes)
    assert sentence in one_sentence(run(*WORDS, *words))


def test_pictures_have_a_transform_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, shift in (("moving", 0.1), ("fixed", 0.0)):
        np.save(f"{name}.npy", blob((48, 56), shift))
    words = ("register", "moving.npy", "fixed.npy", "--spacing", "0.5", "0.8", "-q")
    ran = run(*words, "--transform", "motion.mha", "--output", "warped.npy", "field.npz")
    assert ran.code == 0, ran.err
    field = sitk.ReadImage("motion.mha")
    assert field.GetSpacing() == (0.8, 0.5) and field.GetOrigin() == (0.0, 0.0)
    moving = sitk.GetImageFromArray(np.load("moving.npy"))
    moving.SetSpacing((0.8, 0.5))
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, transform, sitk.sitkLinear))
    with np.load("field.npz") as file:
        displacement = torch.from_numpy(file["displacement"])[None]
    ours = it.operators.Warp(displacement, (0.5, 0.8))(
        torch.from_numpy(blob((48, 56), 0.1))[None, None]
    )
    assert np.abs(ours[0, 0].numpy() - expected)[8:-8, 8:-8].max() < 1


def test_images_of_several_stages() -> None:
    """A linear stage and a field: misfit before, after the first, and after both."""
    moving = torch.from_numpy(blob((20, 24, 28), 0.1))[None, None]
    u = torch.full((3, 20, 24, 28), 0.5)
    shift = Affine(torch.tensor([[1, 0, 0, 2.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    transform = Composite((DisplacementField(u, GRID), shift))
    motion = Registration(
        u[None], moving, (2.0, 1.3, 1.0), (), (), transforms=(transform,), grids=(GRID, GRID)
    )
    images = images_of_stages(motion, moving)
    assert list(images) == ["before", "after linear", "after field"]
    inner = (..., slice(5, -5), slice(5, -5), slice(5, -5))
    assert torch.allclose(images["before"], moving, atol=1e-3)
    alone = it.geometry.resample(moving, shift, GRID, GRID, (20, 24, 28))
    assert torch.equal(images["after linear"][inner], alone[inner])
    whole = it.geometry.resample(moving, transform, GRID, GRID, (20, 24, 28))
    assert torch.equal(images["after field"][inner], whole[inner])


def test_the_transform_of_volumes_at_two_places_gives_the_warped_image() -> None:
    values = [blob((12, 24, 28), shift) for shift in (0.1, 0.0)]
    elsewhere = dataclasses.replace(GRID, origin=(9.0, -4.0, 5.0))
    pair = [VolumeInMemory(x, g) for x, g in zip(values, (elsewhere, GRID))]
    motion = it.register(*pair, max_iterations=3)
    image = torch.from_numpy(values[0])[None, None]
    warped = it.geometry.resample(image, motion.transform(), GRID, elsewhere, (12, 24, 28))
    inner = (..., slice(3, -3), slice(6, -6), slice(6, -6))
    assert float(motion.warped[inner].std()) > 50
    assert torch.allclose(warped[inner], motion.warped[inner], atol=1.0)


def test_the_figure_marks_folds() -> None:
    image = torch.from_numpy(blob((20, 24), 0.0))
    u = torch.zeros(2, 20, 24)
    u[1, :, 8:12] = -3.0 * torch.arange(4.0)
    jacobian = it.metrics.jacobian_determinant(u[None])[0]
    figure = registration_figure((image, image, image), u, jacobian, (1.0, 1.0))
    assert len(figure.axes) == 6 and len(figure.axes[4].images) == 2
    folds = figure.axes[4].images[1].get_array()
    assert (~np.ma.getmaskarray(folds) == (jacobian <= 0).numpy()).all()


def test_target_registration_error_is_refused_for_other_points() -> None:
    with pytest.raises(it.InputError, match="of the same points"):
        it.metrics.target_registration_error(lambda p: p, torch.zeros(2, 3), torch.zeros(3, 3))
