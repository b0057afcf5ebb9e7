"""K-space of ISMRMRD, written by `ismrmrd`, and of fastMRI: what an item holds, and bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox import datasets
from invtoolbox.datasets.mri.header import read_header
from tests.datasets.mri_sets import (
    CALIBRATION,
    NAVIGATION,
    NOISE,
    REVERSE,
    acquisition,
    centred_fft,
    coils_of,
    header,
    phantom,
    write_fastmri,
    write_ismrmrd,
)

ROWS, COLUMNS, COILS = 20, 24, 3
IMAGE = phantom(ROWS, COLUMNS)
MAPS = coils_of(ROWS, COLUMNS, COILS)
#: K-space (coil, phase encoding, readout).
KSPACE = centred_fft(MAPS * IMAGE)
XML = header((COLUMNS, ROWS, 1), (240, 200, 5))


def lines(kspace: np.ndarray = KSPACE, rows: Any = None, **settings: Any) -> list[Any]:
    rows = range(kspace.shape[1]) if rows is None else rows
    return [acquisition(kspace[:, row], row, **settings) for row in rows]


def relative(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return float(np.abs(a - b).max() / np.abs(b).max())


def test_an_item_is_ready_for_a_problem(tmp_path: Path) -> None:
    data = datasets.open(write_ismrmrd(tmp_path / "a.h5", XML, lines()))
    item = data[0]
    assert isinstance(data, datasets.Ismrmrd) and len(data) == 1
    assert item.y.dtype == torch.complex64 and item.y.shape == (1, COILS, ROWS, COLUMNS)
    assert relative(item.y[0], KSPACE) < 1e-6
    A = item.geometry.operator()
    image = A.pseudo_inverse(item.y)[0, 0].abs().numpy()
    # The maps have norm 1, so the image is the root of the sum of squares.
    truth = np.sqrt((np.abs(MAPS * IMAGE) ** 2).sum(0))
    inside = truth > 0.3 * truth.max()
    assert relative(image[inside], truth[inside]) < 0.05
    assert item.meta["vendor"] == "simulated" and item.noise_std is None
    with pytest.raises(it.InputError, match="leave geometry out"):
        datasets.Ismrmrd(tmp_path / "a.h5", geometry=item.geometry)


def test_missing_lines_are_masked_and_their_order_does_not_matter(tmp_path: Path) -> None:
    rows = [11, 3, 8, 9, 10, 12, 7, 15]
    item = datasets.open(write_ismrmrd(tmp_path / "a.h5", XML, lines(rows=rows)))[0]
    taken = np.zeros((ROWS, 1), bool)
    taken[rows] = True
    assert (item.geometry.mask.numpy() == np.broadcast_to(taken, (ROWS, COLUMNS))).all()
    assert relative(item.y[0], KSPACE * taken) < 1e-6


def test_the_oversampling_of_the_readout_is_removed(tmp_path: Path) -> None:
    wide = np.zeros((COILS, ROWS, 2 * COLUMNS), complex)
    wide[..., COLUMNS // 2 : COLUMNS // 2 + COLUMNS] = MAPS * IMAGE
    xml = header((2 * COLUMNS, ROWS, 1), (480, 200, 5), (COLUMNS, ROWS, 1), (240, 200, 5))
    item = datasets.open(write_ismrmrd(tmp_path / "a.h5", xml, lines(centred_fft(wide))))[0]
    assert item.y.shape[-1] == COLUMNS and item.geometry.shown_shape is None
    assert relative(item.y[0], KSPACE) < 1e-6


def test_oversampled_lines_are_cut_from_the_image(tmp_path: Path) -> None:
    xml = header((COLUMNS, ROWS, 1), (240, 200, 5), (COLUMNS, 10, 1), (240, 100, 5))
    item = datasets.open(write_ismrmrd(tmp_path / "a.h5", xml, lines()))[0]
    x = torch.from_numpy(IMAGE)[None, None]
    assert item.geometry.shown_shape == (10, COLUMNS)
    assert (item.geometry.crop(x) == x[..., 5:15, :]).all()


def test_partial_fourier_and_partial_echoes_are_masked(tmp_path: Path) -> None:
    # Steps count from 0 at the first measured line; step 4 is frequency zero, at row 10.
    steps = range(14)
    made = [acquisition(KSPACE[:, 6 + k, 8:], k, center=COLUMNS // 2 - 8) for k in steps]
    xml = header((COLUMNS, ROWS, 1), (240, 200, 5), centers=(4, None))
    item = datasets.open(write_ismrmrd(tmp_path / "a.h5", xml, made))[0]
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[6:, 8:] = True
    assert (item.geometry.mask.numpy() == mask).all()
    assert relative(item.y[0], KSPACE * mask) < 1e-6
    # The oversampling of a partial echo stays in k-space, and is cut from the image.
    xml = header((COLUMNS, ROWS, 1), (240, 200, 5), (12, ROWS, 1), (120, 200, 5), (4, None))
    item = datasets.open(write_ismrmrd(tmp_path / "b.h5", xml, made))[0]
    assert item.geometry.image_shape == (ROWS, COLUMNS)
    assert item.geometry.shown_shape == (ROWS, 12)


def test_reversed_readouts_are_turned_and_samples_discarded(tmp_path: Path) -> None:
    made = []
    for row in range(ROWS):
        values = np.concatenate([np.full((COILS, 2), 99), KSPACE[:, row]], 1)
        if row % 2:
            values = np.concatenate([KSPACE[:, row, ::-1], np.full((COILS, 2), 99)], 1)
        settings = {"discard_post": 2, "flags": [REVERSE]} if row % 2 else {"discard_pre": 2}
        center = COLUMNS // 2 + settings.get("discard_pre", 0)
        made.append(acquisition(values, row, center=center, **settings))
    xml = header((COLUMNS, ROWS, 1), (240, 200, 5), trajectory="epi")
    item = datasets.open(write_ismrmrd(tmp_path / "a.h5", xml, made))[0]
    assert relative(item.y[0], KSPACE) < 1e-6
    assert any("echoes as having one phase" in note for note in item.meta["notes"])


def test_averages_are_averaged_and_other_counters_are_volumes(tmp_path: Path) -> None:
    made = []
    for contrast in (0, 1):
        for average in (0, 1):
            counters = {"contrast": contrast, "average": average}
            made += lines((1 + contrast) * (0.5 + average) * KSPACE, counters=counters)
    made += lines(7 * KSPACE, flags=[NAVIGATION])
    data = datasets.open(write_ismrmrd(tmp_path / "a.h5", XML, made))
    assert data.volumes == (range(1), range(1, 2))
    assert relative(data[0].y[0], KSPACE) < 1e-6 and relative(data[1].y[0], 2 * KSPACE) < 1e-6
    assert (data[1].meta["contrast"], data[1].meta["TR_ms"]) == (1, 500.0)
    assert any("20 acquisitions are navigators" in note for note in data[0].meta["notes"])


def test_slices_are_ordered_by_their_position(tmp_path: Path) -> None:
    made = []
    for number, height in enumerate((10.0, 0.0, 5.0)):  # interleaved
        made += lines((1 + height) * KSPACE, counters={"slice": number}, position=(0, 0, height))
    data = datasets.open(write_ismrmrd(tmp_path / "a.h5", XML, made))
    scales = [float(item.y.abs().max() / np.abs(KSPACE).max()) for item in data]
    assert np.allclose(scales, (1, 6, 11))
    volume, grid = data.stack(torch.zeros(3, ROWS, COLUMNS), range(3))
    assert volume.shape == (3, ROWS, COLUMNS) and grid.voxel_size == (5.0, 10.0, 10.0)
    with pytest.raises(it.InputError, match="slices 0, 2, 1 are not evenly spaced"):
        data.stack(torch.zeros(3, ROWS, COLUMNS), [0, 2, 1])
    with pytest.raises(it.InputError, match="not evenly spaced or do not lie on a line"):
        uneven = made[: 2 * ROWS] + lines(counters={"slice": 2}, position=(0, 0, 70.0))
        other = datasets.open(write_ismrmrd(tmp_path / "b.h5", XML, uneven))
        other.stack(torch.zeros(3, ROWS, COLUMNS), range(3))
    with pytest.raises(it.InputError, match="slices have different directions"):
        turned = lines(counters={"slice": 1}, position=(0, 0, 5), directions=np.eye(3)[[1, 0, 2]])
        other = datasets.open(write_ismrmrd(tmp_path / "c.h5", XML, [*lines(), *turned]))
        other.stack(torch.zeros(2, ROWS, COLUMNS), range(2))


def test_without_directions_the_axes_of_the_image_are_its_own(tmp_path: Path) -> None:
    made = lines(rows=range(3), directions=np.zeros((3, 3)))
    made += lines(rows=range(3), directions=np.zeros((3, 3)), counters={"slice": 1})
    data = datasets.open(write_ismrmrd(tmp_path / "a.h5", XML, made))
    _, grid = data.stack(torch.zeros(2, ROWS, COLUMNS), range(2))
    assert grid.directions == ((0, 0, 1), (0, 1, 0), (1, 0, 0))
    assert grid.voxel_size == (5, 10, 10) and grid.origin == (-120, -100, 0)
    assert any("directions of the image are not stated" in note for note in data.notes)
    assert any("all slices have one position" in note for note in data.notes)


def test_separate_calibration_lines_show_the_coils(tmp_path: Path) -> None:
    rows = [*range(1, ROWS, 3)]
    made = lines(rows=rows)
    made += lines(rows=range(4, 16), flags=[CALIBRATION])
    item = datasets.open(write_ismrmrd(tmp_path / "a.h5", XML, made))[0]
    assert int(item.geometry.mask[:, 0].sum()) == len(rows)
    whole = datasets.open(write_ismrmrd(tmp_path / "b.h5", XML, lines()))[0].geometry.coil_maps()
    maps = item.geometry.coil_maps()
    inside = torch.from_numpy(np.abs(IMAGE) > 0.5) & (whole.abs().sum(0) > 0)
    # The middle 12 lines and the middle 20 give nearly the same maps.
    assert float((maps - whole).abs()[:, inside].mean()) < 0.05
    without = datasets.open(write_ismrmrd(tmp_path / "c.h5", XML, lines(rows=rows)))[0]
    with pytest.raises(
        it.InputError, match="sampled completely on 1 x 24 samples only, and maps of 3"
    ):
        without.geometry.operator()
    assert without.geometry.operator(MAPS).coils == COILS


def test_noise_scans_make_the_noise_white(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    mixture = np.array([[2.0, 0, 0], [1.0, 0.5, 0], [0.2j, 0.1, 3.0]])

    def noise(count: int) -> np.ndarray:
        parts = draw.standard_normal((2, COILS, count))
        return mixture @ (parts[0] + 1j * parts[1])

    # The noise scan has half of the dwell time, thus twice the bandwidth, of which 80 % hold noise.
    dwell = {"sample_time_us": 10.0}
    made = [
        acquisition((2 * 0.8) ** 0.5 * noise(2000), flags=[NOISE], sample_time_us=5.0)
        for _ in range(3)
    ]
    samples = noise(ROWS * COLUMNS).reshape(COILS, ROWS, COLUMNS)
    made += lines(samples, **dwell)
    xml = header((COLUMNS, ROWS, 1), (240, 200, 5), bandwidth=0.8)
    item = datasets.open(write_ismrmrd(tmp_path / "a.h5", xml, made))[0]
    flat = item.y[0].flatten(1)
    covariance = flat @ flat.conj().T / flat.shape[1]
    assert item.noise_std == 1.0
    assert float((covariance / 2 - torch.eye(COILS)).abs().max()) < 0.15
    raw = datasets.Ismrmrd(tmp_path / "a.h5", whiten=False)[0]
    assert relative(raw.y[0], samples) < 1e-6 and raw.noise_std is None


def test_a_volume_is_split_along_its_readout(tmp_path: Path) -> None:
    slabs, rows, columns = 8, 10, 16
    draw = np.random.default_rng(0)
    volume = draw.standard_normal((slabs, rows, columns)) + 0j
    kspace = centred_fft(volume, (-3, -2, -1))[None]
    made = [
        acquisition(kspace[:, z, y], y, z)
        for z in range(slabs)
        for y in range(rows)
        if (y + z) % 3 or abs(y - 5) + abs(z - 4) < 4
    ]
    xml = header((columns, rows, slabs), (160, 100, 24), (columns // 2, rows, slabs), (80, 100, 24))
    data = datasets.open(write_ismrmrd(tmp_path / "a.h5", xml, made))
    assert data.volumes == (range(8),)  # half of the readout is shown
    item = data[2]
    plane = centred_fft(volume[:, :, 4 + 2])
    mask = item.geometry.mask.numpy()
    assert item.y.shape == (1, 1, slabs, rows) and 0.6 < mask.mean() < 0.9
    assert relative(item.y[0, 0], plane * mask) < 1e-6
    images = torch.stack([torch.from_numpy(volume[:, :, 4 + k]) for k in range(8)])
    stacked, grid = data.stack(images, range(8))
    assert relative(stacked, volume[:, :, 4:12]) == 0 and grid.voxel_size == (3.0, 10.0, 10.0)


@pytest.mark.parametrize("unit", ["cycles per pixel", "cycles per field of view"])
def test_trajectories_come_from_the_file(tmp_path: Path, unit: str) -> None:
    size = 24
    k = it.operators.radial_trajectory(size, spokes=40)  # (spoke, sample, 2), row first
    maps = torch.from_numpy(coils_of(size, size, COILS)).to(torch.complex64)
    A = it.operators.NonUniformFourier(k, (size, size), maps)
    y = A(torch.from_numpy(phantom(size, size)).to(torch.complex64)[None, None])
    stored = k.flip(-1).numpy() / (size if unit == "cycles per pixel" else 1)
    made = [acquisition(y[0, :, j].numpy(), j, trajectory=stored[j]) for j in range(40)]
    xml = header((size, size, 1), (240, 240, 5), trajectory="radial")
    item = datasets.open(write_ismrmrd(tmp_path / "a.h5", xml, made))[0]
    assert any(unit in note for note in item.meta["notes"])
    assert relative(item.geometry.trajectory, k) < 1e-6 and relative(item.y, y) == 0
    image = item.geometry.operator().pseudo_inverse(item.y)[0, 0].abs()
    truth = A.pseudo_inverse(y)[0, 0].abs() * maps.abs().square().sum(0).sqrt()
    assert float((image - truth).norm() / truth.norm()) < 0.15


def test_a_stack_of_trajectories_takes_its_partition_from_the_step(tmp_path: Path) -> None:
    k = it.operators.radial_trajectory(12, spokes=5).flip(-1).numpy() / 12
    made = [
        acquisition(np.ones((1, 24)), j, z, trajectory=k[j]) for z in range(4) for j in range(5)
    ]
    xml = header((12, 12, 4), (120, 120, 20), trajectory="radial")
    item = datasets.open(write_ismrmrd(tmp_path / "a.h5", xml, made))[0]
    assert item.geometry.image_shape == (4, 12, 12) and item.y.shape == (1, 1, 20, 24)
    assert item.geometry.trajectory[..., 0].unique().tolist() == [-2, -1, 0, 1]


def test_fastmri_is_read_with_mask_header_and_reference(tmp_path: Path) -> None:
    # fastMRI has rows along the readout, here twofold oversampled.
    wide = np.zeros((2, COILS, 2 * COLUMNS, ROWS), complex)
    images = (MAPS * IMAGE).transpose(0, 2, 1)
    wide[:, :, COLUMNS // 2 : COLUMNS // 2 + COLUMNS] = images
    wide[1] *= 2
    kspace = centred_fft(wide)
    mask = np.zeros(ROWS, np.float32)
    mask[[0, 3, 6, 8, 9, 10, 11, 12, 15]] = 1
    rss = np.sqrt((np.abs(wide) ** 2).sum(1))[:, COLUMNS // 2 : COLUMNS // 2 + COLUMNS]
    xml = header((2 * COLUMNS, ROWS, 1), (480, 200, 5), (COLUMNS, ROWS, 1), (240, 200, 5))
    path = write_fastmri(tmp_path / "a.h5", kspace * mask, xml, mask=mask, reconstruction_rss=rss)
    data = datasets.open(path)
    item = data[1]
    assert isinstance(data, datasets.FastMRI) and len(data) == 2
    assert relative(item.y[0], 2 * centred_fft(images) * mask) < 1e-5
    assert (item.geometry.mask.numpy() == np.broadcast_to(mask != 0, (COLUMNS, ROWS))).all()
    assert relative(item.reference[0, 0], rss[1]) < 1e-6
    assert data.stack(item.reference[0], [1])[1].voxel_size == (5.0, 10.0, 10.0)
    # Without a mask, lines of zeros are found.
    bare = datasets.open(write_fastmri(tmp_path / "b.h5", kspace * mask, xml))[1]
    assert (bare.geometry.mask == item.geometry.mask).all() and relative(bare.y, item.y) == 0
    assert any("no mask: 55% of k-space is 0" in note for note in bare.meta["notes"])
    full = datasets.open(write_fastmri(tmp_path / "c.h5", kspace, xml))[0]
    assert any("k-space is complete" in note for note in full.meta["notes"])


def test_fastmri_of_one_coil_and_without_header(tmp_path: Path) -> None:
    kspace = centred_fft(IMAGE)[None]
    points = np.random.default_rng(0).uniform(size=IMAGE.shape) < 0.4
    item = datasets.open(write_fastmri(tmp_path / "a.h5", kspace * points, None))[0]
    assert item.y.shape == (1, 1, ROWS, COLUMNS)
    assert (item.geometry.mask.numpy() == points).all()
    assert any("no ismrmrd_header" in note for note in item.meta["notes"])
    solution = it.reconstruct(item.y, item.geometry.operator(), max_iterations=5, progress=False)
    assert solution.x.shape == (1, 1, ROWS, COLUMNS)


def test_virtual_coils_hold_their_share_of_the_energy(tmp_path: Path) -> None:
    kspace = centred_fft(coils_of(ROWS, COLUMNS, 12) * IMAGE)
    item = datasets.open(write_ismrmrd(tmp_path / "a.h5", XML, lines(kspace)))[0]
    few = it.processing.compress_coils(item, share=0.99)
    count = few.y.shape[1]
    energy = float(few.y.abs().square().sum() / item.y.abs().square().sum())
    assert 1 < count < 6 and energy >= 0.99 and "hold 99" in few.meta["notes"][-1]
    fewer = it.processing.compress_coils(item, coils=count - 1)
    assert float(fewer.y.abs().square().sum() / item.y.abs().square().sum()) < 0.99
    whole = it.processing.compress_coils(item, coils=12)
    rss = item.y.abs().square().sum(1)
    assert relative(whole.y.abs().square().sum(1), rss) < 1e-5  # a rotation of the coils
    x, y = (m.geometry.operator().pseudo_inverse(m.y).abs() for m in (item, few))
    assert float((x - y).norm() / x.norm()) < 0.1
    with pytest.raises(it.InputError, match="coils of compression_matrix must"):
        it.processing.compress_coils(item, coils=13)


def broken(path: Path, case: str) -> Path:
    """Write one bad file."""
    made, xml = lines(), XML
    if case == "no header":
        return write_ismrmrd(path, None, made)
    if case == "step":
        made = [*lines(rows=range(5)), acquisition(KSPACE[:, 0], ROWS)]
    elif case == "long":
        made = [acquisition(np.ones((COILS, COLUMNS + 2)), 0)]
    elif case == "noise":
        made += [acquisition(np.ones((2, 400)), flags=[NOISE])]
    elif case == "few noise":
        made += [acquisition(np.ones((COILS, 4)), flags=[NOISE])]
    elif case == "coils":
        made += [acquisition(KSPACE[:2, 0], 0, counters={"contrast": 1})]
    elif case == "only noise":
        made = [acquisition(np.ones((COILS, 400)), flags=[NOISE])]
    elif case == "no trajectory":
        xml = header((COLUMNS, ROWS, 1), (240, 200, 5), trajectory="spiral")
    elif case == "trajectory":
        xml = header((COLUMNS, ROWS, 1), (240, 200, 5), trajectory="spiral")
        points = np.full((COLUMNS, 2), 3.1)
        points[:, 1] = 40
        made = [acquisition(KSPACE[:, 0], trajectory=points)]
    elif case == "NaN":
        made[3].data[0, 0] = np.nan
    elif case == "no xml":
        xml = b"<ismrmrdHeader><encoding>"
    elif case == "other xml":
        xml = b"<header/>"
    elif case == "no encoding":
        xml = b"<ismrmrdHeader/>"
    elif case == "no matrix":
        xml = XML.replace(b"<x>24</x>", b"<x>0</x>")
    elif case == "entities":
        xml = b'<!DOCTYPE a [<!ENTITY b "c">]>' + b"<ismrmrdHeader/>"
    elif case == "truncated":
        whole = write_ismrmrd(path.with_suffix(".all"), xml, made).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        return path
    elif case == "no k-space":
        with h5py.File(path, "w") as file:
            file["first"], file["second"] = np.ones((3, 4)), np.ones((3, 4))
        return path
    elif case == "zeros":
        return write_fastmri(path, np.zeros((1, 2, 8, 8)), None)
    elif case == "mask":
        return write_fastmri(path, KSPACE[None], None, mask=np.ones(COLUMNS - 1))
    elif case == "empty mask":
        return write_fastmri(path, KSPACE[None], None, mask=np.zeros(COLUMNS))
    return write_ismrmrd(path, xml, made)


@pytest.mark.parametrize(
    ("case", "words"),
    {
        "no header": "has no XML header, which states the matrix",
        "step": "acquisition 5 with encoding step 1 = 20; the header declares 20 steps",
        "long": "has 26 samples around sample 13, and its matrix 24",
        "noise": "its noise scans have 2 coils and its images 3",
        "few noise": "4 samples of noise do not show the covariance of 3 coils",
        "coils": "its acquisitions have 2, 3 coils",
        "only noise": "no acquisition of encoding 0 belongs to an image",
        "no trajectory": "the trajectory is spiral, and no acquisition holds its frequencies",
        "trajectory": "the trajectory reaches 3.1, 40 along kx, ky: outside of the grid",
        "NaN": "acquisition 3 holds NaN or infinite samples",
        "no xml": "its XML header cannot be read",
        "other xml": "its XML header is of 'header', not of ismrmrdHeader",
        "no encoding": "its XML header has no encoding",
        "no matrix": "the encodedSpace of its XML header has no matrix of voxels",
        "entities": "declares entities",
        "truncated": "truncated|damaged|cannot be read",
        "no k-space": "an HDF5 file without k-space: .*; it holds first, second",
        "zeros": "k-space of slice 0 is 0 everywhere",
        "mask": "the mask has 23 entries and k-space 24 phase encodings",
        "empty mask": "the mask chooses no phase encoding with samples",
    }.items(),
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, case: str, words: str) -> None:
    path = broken(tmp_path / "bad.h5", case)
    with pytest.raises(it.InputError, match=words) as caught:
        data = datasets.open_kspace(path)
        data[0]
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_other_raw_data_are_named_with_their_converter(tmp_path: Path) -> None:
    (tmp_path / "meas.dat").write_bytes(b"\x01\0\0\0")
    with pytest.raises(it.InputError, match="Siemens are not read; convert .* siemens_to_ismrmrd"):
        datasets.open_kspace(tmp_path / "meas.dat")
    with pytest.raises(it.InputError, match="leave group and encoding out"):
        datasets.open_kspace(write_fastmri(tmp_path / "a.h5", KSPACE[None], None), group="dataset")


def test_the_header_is_read_with_any_namespace() -> None:
    encoding = read_header(XML, Path("a.h5")).encodings[0]
    assert encoding.encoded.matrix == (1, ROWS, COLUMNS) and encoding.voxel_size(1) == 10
    bare = XML.replace(b'xmlns="http://www.ismrm.org/ISMRMRD"', b"")
    assert read_header(bare, Path("a.h5")).encodings == (encoding,)
