"""``invtoolbox mri``: images placed in the patient, volumes, virtual coils, and refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest

import invtoolbox as it
from tests.command_line import Run, one_sentence
from tests.datasets.mri_sets import (
    OBLIQUE,
    acquisition,
    centred_fft,
    coils_of,
    header,
    phantom,
    write_fastmri,
    write_ismrmrd,
)

#: Place of the middle of the first slice and of a bright spot, in mm to the left, back and head.
CENTRE = np.array([12.0, -30.0, 45.0])
SPOT = CENTRE + OBLIQUE.T @ (24.0, -20.0, 10.0)
MATRIX, FOV = (32, 20), (256.0, 160.0)  # readout (twofold oversampled), phase encoding


def spot(place: np.ndarray, centre: np.ndarray, axes: np.ndarray) -> list[np.ndarray]:
    """Return the signal along each axis of a spot of 5 mm: the Fourier integral of the density."""
    signals = []
    for direction, count, fov in zip(axes, MATRIX, FOV):
        k = (np.arange(count) - count // 2) / fov  # cycles per mm
        x = (place - centre) @ direction
        signals.append(np.exp(-2j * np.pi * k * x - 2 * (np.pi * k * 5) ** 2))
    return signals


def oblique(path: Path, contrasts: Sequence[int] = (0,)) -> Path:
    """Write four oblique slices with a spot in the third one, and a faint one in the others."""
    made = []
    for contrast in contrasts:
        for number in (0, 2, 1, 3):
            centre = CENTRE + 5 * number * OBLIQUE[2]
            away = SPOT + 5 * (number - 2) * OBLIQUE[2]
            along_read, along_phase = spot(away, centre, OBLIQUE)
            size = (1 + contrast) * (1.0 if number == 2 else 0.2)
            for row in range(MATRIX[1]):
                counters = {"slice": number, "contrast": contrast}
                made.append(
                    acquisition(
                        size * along_phase[row] * along_read[None],
                        row,
                        counters=counters,
                        position=centre,
                        directions=OBLIQUE,
                    )
                )
    recon = (MATRIX[0] // 2, MATRIX[1], 1)
    fovs = ((*FOV, 5), (FOV[0] / 2, FOV[1], 5))
    xml = header((*MATRIX, 1), fovs[0], recon, fovs[1], echo_times=[4.5, 37 / 3])
    return write_ismrmrd(path, xml, made)


def test_images_are_placed_in_the_patient(run: Run, tmp_path: Path) -> None:
    nibabel, sitk = pytest.importorskip("nibabel"), pytest.importorskip("SimpleITK")
    raw, words = oblique(tmp_path / "raw.h5"), ("--prior", "none", "--max-iterations", "1")
    outputs = [str(tmp_path / name) for name in ("x.nii.gz", "x.dcm", "x.npy")]
    ran = run("mri", str(raw), *words, "--output", *outputs)
    assert ran.code == 0 and "5 x 8 x 8 mm" in ran.out, ran.err
    complex_image = np.load(outputs[2])
    assert complex_image.shape == (4, 20, 16) and np.iscomplexobj(complex_image)
    nifti = nibabel.load(outputs[0])
    values = nifti.get_fdata()
    assert np.allclose(values, np.abs(complex_image).transpose(2, 1, 0), rtol=1e-6)
    index = np.unravel_index(values.argmax(), values.shape)
    place = (nifti.affine @ (*index, 1))[:3] * (-1, -1, 1)  # NIfTI counts to the right and front
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(outputs[1])
    series = sitk.ReadImage(names)
    stored = sitk.GetArrayFromImage(series)
    largest = [int(k) for k in np.unravel_index(stored.argmax(), stored.shape)][::-1]
    assert abs(float(stored.max()) - float(values.max())) < 1e-4 * float(values.max())
    for brightest in (place, np.array(series.TransformIndexToPhysicalPoint(largest))):
        # The spot lies between voxels of 8 mm, and in the plane of a slice.
        away = OBLIQUE @ (brightest - SPOT)
        assert abs(away[0]) < 4.01 and abs(away[1]) < 4.01 and abs(away[2]) < 1e-3
    header_of_slice = it.datasets.DicomSeries(outputs[1])[0]
    assert header_of_slice.meta["units"] == "as stored"


def test_a_volume_with_two_phase_encodings_is_placed(run: Run, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    matrix, fov = (16, 12, 8), (128.0, 96.0, 40.0)
    place = CENTRE + OBLIQUE.T @ (24.0, -16.0, 10.0)  # on voxels
    signals = []
    for direction, count, length in zip(OBLIQUE, matrix, fov):
        k = (np.arange(count) - count // 2) / length
        signals.append(np.exp(-2j * np.pi * k * ((place - CENTRE) @ direction)))
    made = [
        acquisition(
            signals[2][z] * signals[1][y] * signals[0][None],
            y,
            z,
            position=CENTRE,
            directions=OBLIQUE,
        )
        for z in range(8)
        for y in range(12)
    ]
    raw = write_ismrmrd(tmp_path / "raw.h5", header(matrix, fov), made)
    words = ("--prior", "none", "--max-iterations", "1", "--quiet")
    for name, slices in (("x.nii", ()), ("y.nii", ("--slices", "1:16:2"))):
        output = str(tmp_path / name)
        assert run("mri", str(raw), *words, *slices, "--output", output).code == 0
        nifti = nibabel.load(output)
        values = nifti.get_fdata()
        assert values.shape == ((16 if not slices else 8), 12, 8)
        index = np.unravel_index(values.argmax(), values.shape)
        brightest = (nifti.affine @ (*index, 1))[:3] * (-1, -1, 1)
        assert np.abs(brightest - place).max() < 1e-3


def test_one_argument_gives_image_and_report(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nibabel")
    monkeypatch.chdir(tmp_path)
    rows, columns = 24, 20
    coils = coils_of(rows, columns, 3) * phantom(rows, columns)
    truth = np.sqrt((np.abs(coils) ** 2).sum(0))[None]
    xml = header((rows, columns, 1), (240, 200, 5))
    taken = np.ones(columns)
    taken[[0, 2, 17, 19]] = 0
    kspace = (centred_fft(coils) * taken)[None]
    write_fastmri(Path("knee.h5"), kspace, xml, mask=taken, reconstruction_rss=truth)
    ran = run("mri", "knee.h5", "--set", "method.max_iterations=20")
    assert ran.code == 0, ran.err
    assert {p.name for p in tmp_path.iterdir()} == {
        "knee.h5",
        "knee_image.nii.gz",
        "knee_report.html",
    }
    assert "sampled        0.8" in ran.out and "coils          3" in ran.out
    assert "no position and no directions" in ran.out
    page = Path("knee_report.html").read_text()
    assert "data:image" in page and "weight" in page and "dB, like zero filling." in page
    assert page.index('alt="Zero filling') < page.index('alt="Reference')
    measured = run("mri", "knee.h5", "--coils", "2", "-o", "m.json", "--regularization", "0.01")
    metrics = json.loads(Path("m.json").read_text())
    assert metrics["coils"] == 2 and metrics["psnr"] > 20
    assert "3 coils were compressed to 2" in measured.out
    options = ("--share", "0.8", "--max-iterations", "2", "--device", "cpu", "-o", "s.npy")
    assert "3 coils were compressed to" in run("mri", "knee.h5", *options).out


def test_contrasts_are_the_fourth_axis(run: Run, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    raw, words = oblique(tmp_path / "raw.h5", (0, 1)), ("--prior", "none", "--max-iterations", "1")
    outputs = [str(tmp_path / name) for name in ("x.nii.gz", "x.npy", "x.dcm")]
    assert run("mri", str(raw), *words, "-q", "-o", *outputs).code == 0
    values = nibabel.load(outputs[0]).get_fdata()
    assert values.shape == (16, 20, 4, 2) and np.load(outputs[1]).shape == (2, 4, 20, 16)
    assert np.allclose(values[..., 1], 2 * values[..., 0], rtol=1e-5, atol=1e-6)
    slice_ = pydicom.dcmread(Path(outputs[2]) / "volume_001" / "slice_0000.dcm")
    assert (slice_.Modality, slice_.RepetitionTime) == ("MR", 500.0)
    assert abs(slice_.EchoTime - 37 / 3) < 1e-6
    assert slice_.Manufacturer == "simulated"
    second = it.datasets.DicomSeries(Path(outputs[2]) / "volume_001", items="volume")[0].y[0, 0]
    assert np.allclose(second.numpy(), values[..., 1].T, atol=1e-3 * values.max())
    one = str(tmp_path / "one.npy")
    options = ("--volume", "1", "--slices", "1,2")
    assert run("mri", str(raw), *words, *options, "-q", "-o", one).code == 0
    assert np.array_equal(np.load(one), np.load(outputs[1])[1, 1:3])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mri")
    oblique(folder / "raw.h5")
    it.datasets.write_hdf5(folder / "plain.h5", {"image": np.ones((4, 4))})
    return folder


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("raw.h5", "--volume", "1"), "it has 1 volumes, counted from 0, got --volume 1"),
        (("raw.h5", "--slices", "7"), "counted from 0"),
        (("raw.h5", "--slices", "0,1,3"), "not evenly spaced"),
        (("raw.h5", "--coils", "2"), "--coils 2: the file has 1 coils; give at most as many"),
        (("raw.h5", "--coils", "1", "--share", "0.9"), "give either the number of virtual coils"),
        (("raw.h5", "--share", "1.5"), "--share"),
        (("raw.h5", "--device", "cuda:99"), "cuda:99"),
        (("raw.h5", "--encoding", "1"), "it has 1 encodings, counted from 0, got encoding=1"),
        (("raw.h5", "--group", "other"), "no acquisitions of ISMRMRD in 'other'"),
        (("raw.h5", "-o", "x.pdf"), "no format for the suffix '.pdf'"),
        (("raw.h5", "--prior", "no-prior"), "no-prior"),
        (("plain.h5",), "an HDF5 file without k-space"),
        (("missing.h5",), "there is no file missing.h5"),
    ],
)
def test_bad_input_is_one_sentence(
    run: Run,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(files)
    output = () if "-o" in words else ("-o", "x.npy")
    assert sentence in one_sentence(run("mri", *words, *output))
    assert not Path("x.npy").exists()


def test_other_commands_name_the_one_for_k_space(run: Run, files: Path) -> None:
    refused = one_sentence(run("ct", str(files / "raw.h5"), "-o", str(files / "x.tif")))
    assert "k-space of an MRI scanner" in refused and "invtoolbox mri" in refused
