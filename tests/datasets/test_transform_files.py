"""Files of transforms: SimpleITK applies the ones written here, and the ones it writes are applied here."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from invtoolbox import datasets
from invtoolbox.errors import InputError
from invtoolbox.geometry import (
    Affine,
    Composite,
    DisplacementField,
    Grid,
    Inverse,
    Transform,
    resample,
)

sitk = pytest.importorskip("SimpleITK")
RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Start the draws of every test anew, so that they do not depend on its neighbours."""
    global RNG
    RNG = np.random.default_rng(3)


def turned(d: int) -> np.ndarray:
    """A random orientation, at times a mirrored one."""
    return np.linalg.qr(RNG.normal(size=(d, d)))[0]


def vectors(d: int, dtype: Any = np.float64) -> Any:
    """A field of SimpleITK with oblique directions and anisotropic spacing."""
    sizes = (9, 11, 14)[3 - d :]
    image = sitk.GetImageFromArray(RNG.normal(size=(*sizes, d)).astype(dtype), isVector=True)
    image.SetSpacing(RNG.uniform(0.5, 2.5, d))
    image.SetOrigin(RNG.normal(size=d) * 2)
    image.SetDirection(turned(d).ravel())
    return image


def grid_of(image: Any) -> Grid:
    d = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (d, d))
    return Grid.from_itk(image.GetSpacing(), image.GetOrigin(), direction)


def field(d: int, dtype: Any = np.float64) -> DisplacementField:
    image = vectors(d, dtype)
    values = np.moveaxis(sitk.GetArrayFromImage(image), -1, 0)
    return DisplacementField(torch.from_numpy(values.copy()), grid_of(image))


def affine(d: int) -> Affine:
    matrix = np.eye(d + 1)
    matrix[:d] += 0.1 * RNG.normal(size=(d, d + 1))
    return Affine(matrix)


def check_same(theirs: Any, ours: Transform, tolerance: float = 1e-6) -> None:
    """Compare at points within and outside of the grids of fields."""
    points = RNG.normal(size=(400, ours.dimensions)) * 8
    expected = np.array([theirs.TransformPoint(p) for p in points])
    assert np.abs(ours(torch.from_numpy(points)).numpy() - expected).max() < tolerance


def linear(d: int) -> list[Any]:
    """Every linear transform of SimpleITK, away from the identity and with a centre."""
    general = sitk.AffineTransform(d)
    general.SetMatrix((np.eye(d) + 0.2 * RNG.normal(size=(d, d))).ravel())
    general.SetTranslation(RNG.normal(size=d))
    general.SetCenter(RNG.normal(size=d) * 5)
    scale = sitk.ScaleTransform(d, [1.1, 0.8, 1.3][:d])
    scale.SetCenter([1.0, 2.0, 3.0][:d])
    kinds = [general, scale, sitk.TranslationTransform(d, [1.0, 2.0, 3.0][:d])]
    if d == 2:
        centre, shift = (1.0, 2.0), (4.0, 5.0)
        return [
            *kinds,
            sitk.Euler2DTransform(centre, 0.3, shift),
            sitk.Similarity2DTransform(1.1, 0.3, shift, centre),
        ]
    axis, angle, shift, centre = (0.6, 0.48, 0.64), 0.7, (4.0, 5.0, 6.0), (1.0, 2.0, 3.0)
    zyx = sitk.Euler3DTransform(centre, 0.1, 0.2, 0.3, shift)
    zyx.SetComputeZYX(True)
    scales, shears = (1.1, 1.2, 1.3), (0.1, 0.2, 0.3, 0.15, 0.25, 0.35)
    return [
        *kinds,
        zyx,
        sitk.Euler3DTransform(centre, 0.1, 0.2, 0.3, shift),
        sitk.VersorTransform(axis, angle, centre),
        sitk.VersorRigid3DTransform(axis, angle, shift, centre),
        sitk.Similarity3DTransform(1.1, axis, angle, shift, centre),
        sitk.ScaleVersor3DTransform(scales, axis, angle, shift, centre),
        sitk.ScaleSkewVersor3DTransform(scales, shears, axis, angle, shift, centre),
    ]


@pytest.mark.parametrize("suffix", ["tfm", "txt", "mat", "h5"])
@pytest.mark.parametrize("d", [2, 3])
def test_linear_transforms_of_itk(tmp_path: Path, d: int, suffix: str) -> None:
    for k, theirs in enumerate(linear(d)):
        path = tmp_path / f"{k}.{suffix}"
        sitk.WriteTransform(theirs, str(path))
        check_same(theirs, datasets.read_transform(path))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "mha", "mhd", "h5", "tfm"])
@pytest.mark.parametrize("d", [2, 3])
def test_fields_of_itk(tmp_path: Path, d: int, suffix: str) -> None:
    path = tmp_path / f"field.{suffix}"
    image = vectors(d)
    theirs = sitk.DisplacementFieldTransform(sitk.Image(image))
    if suffix in ("h5", "tfm"):
        sitk.WriteTransform(theirs, str(path))
    else:
        sitk.WriteImage(image, str(path), useCompression=suffix == "mha")
    check_same(theirs, datasets.read_transform(path), 1e-5)


@pytest.mark.parametrize("suffix", ["h5", "tfm"])
@pytest.mark.parametrize("d", [2, 3])
def test_composites_of_itk_apply_the_last_transform_first(
    tmp_path: Path, d: int, suffix: str
) -> None:
    path = tmp_path / f"composite.{suffix}"
    first, *_, last = linear(d)
    theirs = sitk.CompositeTransform([last, sitk.DisplacementFieldTransform(vectors(d)), first])
    sitk.WriteTransform(theirs, str(path))
    check_same(theirs, datasets.read_transform(path))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "mha", "h5"])
@pytest.mark.parametrize("d", [2, 3])
def test_fields_written_here(tmp_path: Path, d: int, suffix: str, dtype: Any) -> None:
    path, ours = tmp_path / f"field.{suffix}", field(d, dtype)
    datasets.write_transform(path, ours)
    if suffix == "h5":
        theirs = sitk.ReadTransform(str(path))
    else:
        image = sitk.ReadImage(str(path))
        assert (
            image.GetPixelID()
            == {4: sitk.sitkVectorFloat32, 8: sitk.sitkVectorFloat64}[np.dtype(dtype).itemsize]
        )
        theirs = sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))
    check_same(theirs, ours, 1e-5)
    again = datasets.read_transform(path)
    assert isinstance(again, DisplacementField) and torch.equal(
        again.displacement, ours.displacement
    )
    with pytest.raises(InputError, match="file of that name already"):
        datasets.write_transform(path, ours)


@pytest.mark.parametrize("d", [2, 3])
def test_linear_maps_and_composites_written_here(tmp_path: Path, d: int) -> None:
    maps = affine(d), affine(d)
    nested = Composite([maps[0], Composite([field(d), maps[1]])])
    for suffix in ("tfm", "txt", "mat", "h5"):
        for k, ours in enumerate((maps[0], Composite(maps), nested)):
            path = tmp_path / f"{k}.{suffix}"
            if ours is nested and suffix != "h5":
                with pytest.raises(InputError, match="affine maps only"):
                    datasets.write_transform(path, ours)
                continue
            datasets.write_transform(path, ours)
            check_same(sitk.ReadTransform(str(path)), ours)
            check_same(sitk.ReadTransform(str(path)), datasets.read_transform(path))
    with pytest.raises(InputError, match=r"DisplacementField\.sample"):
        datasets.write_transform(tmp_path / "x.nii.gz", nested)
    with pytest.raises(InputError, match=r"no format of transforms for the suffix '\.png'"):
        datasets.write_transform(tmp_path / "x.png", maps[0])
    with pytest.raises(InputError, match="Inverse has no form in ITK"):
        datasets.write_transform(tmp_path / "i.h5", Inverse(maps[0]))


def test_names_of_itk_4_and_other_frames_of_vectors(tmp_path: Path) -> None:
    import h5py
    import nibabel

    path, ours = tmp_path / "a.h5", affine(3)
    datasets.write_transform(path, ours)
    with h5py.File(path, "r+") as file:
        group = file["TransformGroup/0"]
        for name in ("Parameters", "FixedParameters"):
            group.move(f"Transform{name}", f"Tranform{name}")
    check_same(sitk.ReadTransform(str(path)), datasets.read_transform(path))
    # ITK turns vectors with the intent of displacements from NIfTI's frame to its own.
    datasets.write_transform(tmp_path / "f.nii", field(3))
    image = nibabel.load(tmp_path / "f.nii")
    image.header.set_intent(1006)
    nibabel.save(image, tmp_path / "d.nii")
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "d.nii")))
    check_same(theirs, datasets.read_transform(tmp_path / "d.nii"), 1e-5)


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("d", [2, 3])
def test_resampling_is_that_of_itk(d: int, nearest: bool) -> None:
    reference = vectors(d)
    size, direction = (26, 23, 21)[:d], turned(d)
    extent = np.mean(np.multiply(reference.GetSize(), reference.GetSpacing()))
    spacing = 0.7 * extent / np.array(size)  # it covers a part of the reference
    moving = sitk.GetImageFromArray(RNG.normal(size=size[::-1]).astype(np.float32))
    moving.SetSpacing(spacing)
    moving.SetDirection(direction.ravel())
    centre = reference.TransformContinuousIndexToPhysicalPoint(
        [(n - 1) / 2 for n in reference.GetSize()]
    )
    moving.SetOrigin(centre - direction @ (spacing * (np.array(size) - 1) / 2))
    warp = sitk.DisplacementFieldTransform(vectors(d))
    theirs = sitk.Resample(
        moving,
        sitk.VectorIndexSelectionCast(reference, 0),
        warp,
        sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
        -3.0,
    )
    displacement = warp.GetDisplacementField()
    values = torch.from_numpy(np.moveaxis(sitk.GetArrayFromImage(displacement), -1, 0).copy())
    ours = resample(
        torch.from_numpy(sitk.GetArrayFromImage(moving))[None, None],
        DisplacementField(values, grid_of(displacement)),
        grid_of(reference),
        grid_of(moving),
        reference.GetSize()[::-1],
        nearest=nearest,
        outside=-3.0,
    )[0, 0].numpy()
    expected = sitk.GetArrayFromImage(theirs)
    assert 0.05 < (expected == -3).mean() < 0.95
    assert np.abs(ours - expected).max() < 1e-5


BAD = {
    "bspline.tfm": "BSplineTransform of 3 dimensions, which is not read; sample it",
    "thin_plate.tfm": "ThinPlateSplineKernelTransform of 3 dimensions, which is not read",
    "elastix.txt": "a file of elastix; set",
    "lta.lta": "a transform of FreeSurfer; convert it with `lta_convert",
    "minc.xfm": "a transform of MINC; convert it",
    "flirt.mat": "no transform of ITK; a matrix as text",
    "picture.png": "a file of the format png, no transform",
    "volume.nii": "give the field, not an image",
    "volume.mha": "give the field, not an image",
    "spm.nii": "a deformation of SPM",
    "fnirt.nii": "a field of FSL",
    "nan.mha": "NaN or infinite at 1 of 36 voxels",
    "nan.tfm": "NaN or infinite; write it again",
    "short.tfm": "has 11 parameters and 3 fixed ones; 12 and 3",
    "cut.tfm": "lacks parameters: the file is truncated",
    "several.tfm": "holds 2 transforms that no composite joins",
    "singular.tfm": "singular or not finite",
    "four.tfm": "only transforms of ITK of 2 and 3 dimensions",
    "mixed.tfm": "2 and 3 dimensions",
    "other.h5": "no transform of ITK is in the file",
    "level5.mat": "MATLAB file of version 5 or later",
    "huge.mat": "larger than the file",
}


def write_bad(path: Path) -> None:
    import nibabel
    from scipy.io import savemat

    head = "#Insight Transform File V1.0\n"

    def text(name: str, count: int = 12, word: str = "1", centre: int = 3) -> str:
        numbers = f"Parameters: {' '.join([word] * count)}\nFixedParameters: {'0 ' * centre}\n"
        return f"Transform: {name}\n{numbers}"

    same, eye = "AffineTransform_double_3_3", "1 0 0 0 1 0 0 0 1 0 0 0"
    texts = {
        "bspline.tfm": head + text("BSplineTransform_double_3_3"),
        "thin_plate.tfm": head + text("ThinPlateSplineKernelTransform_double_3_3"),
        "elastix.txt": '(Transform "EulerTransform")\n(NumberOfParameters 6)\n',
        "lta.lta": "type      = 1\nnxforms   = 1\n",
        "minc.xfm": "MNI Transform File\nTransform_Type = Linear;\n",
        "flirt.mat": "1 0 0 5\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
        "nan.tfm": head + text(same, 12, "nan"),
        "short.tfm": head + text(same, 11),
        "cut.tfm": (head + text(same)).partition("FixedParameters")[0],
        "several.tfm": head + text(same).replace("1 " * 11 + "1", eye) * 2,
        "singular.tfm": head + text(same, 12, "1"),
        "four.tfm": head + text("AffineTransform_double_4_4"),
        "mixed.tfm": head + "Transform: CompositeTransform_double_3_3\n"
        + text(same).replace("1 " * 11 + "1", eye)
        + text("TranslationTransform_double_2_2", 2, "1", 0),
    }  # fmt: skip
    if path.name in texts:
        path.write_text(texts[path.name])
    elif path.name == "picture.png":
        datasets.write_png(path, np.zeros((4, 5)), (0, 1))
    elif path.name in ("volume.nii", "volume.mha"):
        datasets.write(path, np.ones((3, 4, 5)))
    elif path.suffix == ".nii":
        datasets.write_transform(path, field(3))
        image = nibabel.load(path)
        if path.stem == "spm":
            image.header["intent_name"] = "Mapping"
        else:
            image.header["intent_code"] = 2006
        values = np.array(image.dataobj)
        nibabel.save(nibabel.Nifti1Image(values, None, image.header), path)
    elif path.name == "nan.mha":
        values = np.ones((3, 3, 4, 3))
        values[1, 1, 1, 1] = np.nan
        sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(path))
    elif path.name == "other.h5":
        datasets.write_hdf5(path, {"x": np.ones((3, 4))})
    elif path.name == "level5.mat":
        savemat(path, {"AffineTransform_double_3_3": np.ones(12)})
    else:
        path.write_bytes(struct.pack("<5i", 0, 2**30, 2**30, 0, 6) + b"fixed\0")


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    write_bad(tmp_path / name)
    with pytest.raises(InputError) as error:
        datasets.read_transform(tmp_path / name)
    assert BAD[name] in str(error.value) and str(tmp_path / name) in str(error.value)
