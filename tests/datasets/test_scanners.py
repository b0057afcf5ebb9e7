"""Scans of instruments: stated numbers, handedness of the phantom, and files that do not fit."""

from __future__ import annotations

import itertools
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import invtoolbox as it
from invtoolbox.datasets.scans.scanner import ScannerScan
from tests.datasets import scanner_sets as sets
from tests.datasets.scanner_sets import Setup

PLAIN = Setup()
#: A quarter of the panel of 28 mm, at the panel; and the same at the object.
QUARTER = replace(PLAIN, panel_at=(7.0, 0.0))
AXIS = replace(PLAIN, offset=-2.8)
HALF = Setup(parallel=True, cell=0.2, arc=np.pi)
ROLL, TILT = np.radians(2.0), np.radians(3.0)
LEANING = replace(
    PLAIN, axis_along=(np.sin(ROLL), np.sin(TILT) * np.cos(ROLL), np.cos(TILT) * np.cos(ROLL))
)
#: Every instrument in every geometry that its file can express: setup, writer.
CASES: dict[str, tuple[Setup, Callable[[Path], Path]]] = {
    "nikon cone": (PLAIN, lambda p: sets.write_nikon(p, PLAIN)),
    "nikon offset, by centres": (
        AXIS,
        lambda p: sets.write_nikon(
            p,
            AXIS,
            comma=True,
            settings={"CentreOfRotationTop": 7.0, "CentreOfRotationBottom": 7.0},
        ),
    ),
    "nikon offset, by the object": (
        AXIS,
        lambda p: sets.write_nikon(
            p, AXIS, settings={"ObjectOffsetX": 2.8, "CentreOfRotationTop": 1}
        ),
    ),
    "nikon offset of the panel": (
        QUARTER,
        lambda p: sets.write_nikon(
            p, QUARTER, settings={"DetectorOffsetX": -7.0, "DetectorOffsetY": 0}
        ),
    ),
    "nikon tilted": (
        LEANING,
        lambda p: sets.write_nikon(
            p, LEANING, settings={"ObjectRoll": 2.0, "ObjectTilt": 3.0, "ObjectOffsetX": 0}
        ),
    ),
    "skyscan cone": (PLAIN, lambda p: sets.write_skyscan(p, PLAIN)),
    "skyscan clockwise, axis below": (
        replace(PLAIN, panel_at=(0.0, 1.0)),
        lambda p: sets.write_skyscan(p, replace(PLAIN, panel_at=(0.0, 1.0)), "CW", white=False),
    ),
    "skyscan parallel": (HALF, lambda p: sets.write_skyscan(p, HALF)),
    "zeiss cone": (PLAIN, lambda p: sets.write_zeiss(p, PLAIN)),
    "zeiss offset": (QUARTER, lambda p: sets.write_zeiss(p, QUARTER, "several", shifts=True)),
    "zeiss parallel": (HALF, lambda p: sets.write_zeiss(p, HALF)),
    "table cone": (PLAIN, lambda p: sets.write_table(p, PLAIN)),
    "table offset": (
        replace(QUARTER, offset=0.5),
        lambda p: sets.write_table(p, replace(QUARTER, offset=0.5), header=False, white=True),
    ),
}
RTK: dict[str, tuple[Setup, Callable[[Path], Path]]] = {
    "rtk cone": (PLAIN, lambda p: sets.write_rtk(p, PLAIN)),
    "rtk offset and tilted": (QUARTER, lambda p: sets.write_rtk(p, QUARTER, tilts=(2.0, 1.5))),
    "rtk parallel and tilted": (HALF, lambda p: sets.write_rtk(p, HALF, tilts=(0.0, 2.0))),
    "rtk pages": (
        PLAIN,
        lambda p: sets.write_rtk(
            p, replace(PLAIN, cell=1.0, near=120.0, far=300.0, radius=9.2), as_tiff=True
        ),
    ),
}


def correlations(x: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Correlation as it is; the largest over the proper rotations; and over those of the mirror image."""

    def correlate(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

    n = min(x.shape)
    inner = tuple(slice((s - n) // 2, (s - n) // 2 + n) for s in x.shape)
    cube, best = x[inner], {1: -1.0, -1: -1.0}
    for axes, signs in itertools.product(
        itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)
    ):
        parity = round(np.linalg.det(np.eye(3)[list(axes)]) * np.prod(signs))
        turned = cube.transpose(axes)[tuple(slice(None, None, s) for s in signs)]
        best[parity] = max(best[parity], correlate(turned, truth[inner]))
    return correlate(x, truth), best[1], best[-1]


@pytest.mark.parametrize("name", [*CASES, *RTK])
def test_the_phantom_comes_back_upright_and_not_mirrored(name: str, tmp_path: Path) -> None:
    setup, write = {**CASES, **RTK}[name]
    if name == "rtk pages":
        setup = replace(PLAIN, cell=1.0, near=120.0, far=300.0, radius=9.2)
    scan = it.datasets.open(write(tmp_path / "scan"))
    assert isinstance(scan, ScannerScan) and len(scan) == 1
    item = scan[0]
    geometry: Any = item.geometry
    assert item.y.shape == (1, 1, setup.views, *setup.panel) and item.meta["image_units"] == "1/mm"
    assert geometry.voxel_size == pytest.approx((setup.voxel,) * 3, rel=2e-6)
    x = geometry.operator().pseudo_inverse(item.y)[0, 0].numpy()
    truth = sets.truth(x.shape, setup.voxel, setup.radius)
    # A panel that is shifted along the axis moves the volume by whole voxels in these setups.
    up = setup.panel_at[1] * setup.near / setup.far / setup.voxel
    assert up == round(up)
    truth = np.roll(truth, -round(up), 0)
    same, proper, mirrored = correlations(x, truth)
    assert same > 0.95 and proper > 0.95 and mirrored < 0.85, (same, proper, mirrored)
    assert x.sum() == pytest.approx(truth.sum(), rel=0.06)  # in 1/mm


def test_numbers_of_nikon(tmp_path: Path) -> None:
    geometry: Any = it.datasets.open(CASES["nikon offset, by centres"][1](tmp_path)).geometry
    assert (geometry.source_origin, geometry.source_detector) == (60.0, 150.0)
    assert geometry.detector_spacing == (0.5, 0.5) and geometry.axis_shift == pytest.approx(-2.8)
    # The object turns by 180 - 12.5 - 4 k degrees; the source turns the other way.
    assert np.degrees(geometry.angles[:3]) == pytest.approx([12.5 - 180, 16.5 - 180, 20.5 - 180])
    folder = tmp_path / "tilted"
    leaning: Any = it.datasets.open(CASES["nikon tilted"][1](folder)).geometry
    # The panel leans as the axis does, to the second order of the angles.
    assert leaning.detector_rotation[0] == pytest.approx(-TILT, abs=2e-3)
    assert leaning.detector_rotation[2] == pytest.approx(ROLL, abs=2e-3)


def test_measured_angles_count_if_they_agree_within_a_step(tmp_path: Path) -> None:
    nominal = 12.5 + 4 * np.arange(90)
    measured = nominal + np.random.default_rng(0).uniform(-1, 1, 90)

    def listed(values: np.ndarray) -> str:
        rows = "".join(f"{k}\t{a:.4f}\t{10 * k}\n" for k, a in enumerate(values, 1))
        return f"Projs\tFrames\tExposure(ms)\n90\t1\t500\nProjection\tAngle(deg)\tTime(s)\n{rows}"

    for name, text, used in (
        ("close", listed(measured - 360), measured),
        ("other sign", listed(-measured), measured),
        ("far", listed(measured + 20), nominal),
        ("short", listed(measured[:-3]), nominal),
    ):
        scan: Any = it.datasets.open(sets.write_nikon(tmp_path / name, angles=text))
        away = (np.degrees(scan.geometry.angles) - (used - 180) + 180) % 360 - 180
        assert np.abs(away).max() < 1e-3, name
        assert any("bone_ctdata.txt" in note for note in scan.notes)
    nikon = sets.write_nikon(tmp_path / "ang")
    nikon.with_suffix(".ang").write_text(
        "Angles\n" + "".join(f"{k}: {a:.4f}\n" for k, a in enumerate(measured, 1))
    )
    assert "bone.ang" in it.datasets.open(nikon).notes[0]


def test_numbers_of_the_others(tmp_path: Path) -> None:
    below: Any = it.datasets.open(CASES["skyscan clockwise, axis below"][1](tmp_path / "s"))
    assert below.geometry.source_detector == 150.0 and below.geometry.detector_spacing == (0.5, 0.5)
    assert np.degrees(below.geometry.angles[:2]) == pytest.approx([0, 4])
    assert any("65536" in note for note in below.notes) and any(
        "z = 0.4 mm" in n for n in below.notes
    )
    zeiss: Any = it.datasets.open(CASES["zeiss offset"][1](tmp_path / "z"))
    # A positive CenterShift is an axis to the left of the panel's middle.
    assert zeiss.geometry.detector_shift == pytest.approx((7.0, 0.0), rel=1e-6)
    assert zeiss.geometry.axis_column == pytest.approx(27.5 - 14, rel=1e-6)
    table: Any = it.datasets.open(CASES["table offset"][1](tmp_path / "t"))
    assert table.geometry.axis_shift == pytest.approx(0.5) and table.geometry.kind == "cone"
    volume = it.datasets.open(
        sets.write_zeiss(tmp_path / "v", volume=np.arange(120).reshape(4, 5, 6))
    )
    assert isinstance(volume, it.datasets.Volume) and volume.grid.voxel_size == pytest.approx(
        (0.2,) * 3
    )
    assert np.array_equal(volume.slices(), np.arange(120).reshape(4, 5, 6))


def test_parts_and_folders_are_the_same_scan(tmp_path: Path) -> None:
    path = sets.write_zeiss(tmp_path / "z", shifts=True)
    scan: Any = it.datasets.open(path)
    whole = scan[0].y[0, 0].numpy()
    parts = [scan.slices(k, min(k + 7, 90)) for k in range(0, 90, 7)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert torch.equal(it.datasets.open(path.parent)[0].y, scan[0].y)
    for write in (sets.write_nikon, sets.write_skyscan, sets.write_table):
        path = write(tmp_path / write.__name__)
        assert it.datasets.open(path.parent).geometry == it.datasets.open(path).geometry  # type: ignore[attr-defined]
    other = it.datasets.Geometry3D("parallel3d", (40, 56), (4, 5, 5), angles=tuple(range(10)))
    with pytest.raises(it.InputError, match="10 views are described, but there are 90 pictures"):
        it.datasets.open(path, other)


def test_starved_and_dead_cells_are_filled_and_counted(tmp_path: Path) -> None:
    path = sets.write_skyscan(tmp_path, sets.SMALL)
    picture = tifffile.imread(tmp_path / "embryo0003.tif")
    picture[2, 3] = 0
    tifffile.imwrite(tmp_path / "embryo0003.tif", picture)
    item = it.datasets.open(path)[0]
    assert item.meta["starved_rays"] == 1
    # Rows and columns are read from the other end.
    assert float(item.y[0, 0, 3, 3, 4]) == pytest.approx(np.log(58000 / 0.5))


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def without(path: Path) -> Path:
    path.unlink()
    return path


def shorten(path: Path) -> Path:
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    return path


#: What is wrong with a small scan, and what the sentence says.
FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a picture is missing": (
        lambda p: without(
            sets.write_nikon(p, sets.SMALL).parent / "pictures" / "bone_0005.tif"
        ).parents[1],
        "5 is missing",
    ),
    "the last picture is missing": (
        lambda p: without(sets.write_skyscan(p, sets.SMALL).parent / "embryo0011.tif").parent,
        "12 views are described, but there are 11 pictures",
    ),
    "another size": (
        lambda p: edit(sets.write_nikon(p, sets.SMALL), "DetectorPixelsX=8", "DetectorPixelsX=9"),
        "6 rows and 9 columns, but those in .* have 6 and 8",
    ),
    "no folder": (
        lambda p: edit(sets.write_nikon(p, sets.SMALL), "=pictures", "=elsewhere"),
        "no such folder",
    ),
    "a folder outside": (
        lambda p: edit(sets.write_nikon(p, sets.SMALL), "=pictures", "=../.."),
        "outside of the folder",
    ),
    "no white level": (
        lambda p: edit(sets.write_nikon(p, sets.SMALL), "WhiteLevel", "White"),
        "lacks whitelevel",
    ),
    "no number": (
        lambda p: edit(
            sets.write_skyscan(p, sets.SMALL),
            "Camera to Source (mm)=150.0",
            "Camera to Source (mm)=far",
        ),
        "which is no number",
    ),
    "the axis behind the panel": (
        lambda p: edit(
            sets.write_skyscan(p, sets.SMALL),
            "Camera to Source (mm)=150.0",
            "Camera to Source (mm)=50",
        ),
        "between source and panel",
    ),
    "several positions": (
        lambda p: sets.write_skyscan(p, sets.SMALL, **{"Number Of Horizontal Offset Positions": 2}),
        "stitch",
    ),
    "no reference": (
        lambda p: sets.write_zeiss(p, sets.SMALL, reference="none"),
        "no reference picture",
    ),
    "two scans": (
        lambda p: Path(shutil.copy(sets.write_nikon(p, sets.SMALL), p / "b.xtekct")).parent,
        "several scans",
    ),
    "a row of eleven": (
        lambda p: edit(sets.write_table(p, sets.SMALL, header=False), ",0.500000000\n", "\n"),
        "each view has 12 numbers",
    ),
    "one view fewer": (
        lambda p: shorten(sets.write_table(p, sets.SMALL)),
        "11 views are described, but there are 12 pictures",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_scans_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    write, sentence = FAULTS[name]
    with pytest.raises(it.InputError, match=sentence) as caught:
        it.datasets.open(write(tmp_path / "scan"))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_rtk_without_its_stack(tmp_path: Path) -> None:
    path = sets.write_rtk(tmp_path, sets.SMALL)
    (tmp_path / "projections.mha").unlink()
    with pytest.raises(it.InputError, match="12 views and needs one stack .*there is none"):
        it.datasets.open(path)
    edit(path, "<RTKThree", '<!DOCTYPE a [<!ENTITY b "c">]><RTKThree')
    with pytest.raises(it.InputError, match="entities"):
        it.datasets.open(path)


def test_a_zeiss_file_takes_a_white_level(tmp_path: Path) -> None:
    from invtoolbox.datasets.scans.zeiss import Txrm

    path = sets.write_zeiss(tmp_path, sets.SMALL, reference="none")
    assert Txrm(path, white=50000)[0].y.shape == (1, 1, 12, 6, 8)
    content = path.read_bytes()
    place = content.index(struct.pack("<12f", *np.full(12, -60.0)))
    path.write_bytes(content[:place] + bytes(48) + content[place + 48 :])
    with pytest.raises(it.InputError, match="distance from the source to the axis is 0"):
        Txrm(path, white=50000)


@pytest.mark.parametrize(
    "name",
    [
        "nikon",
        pytest.param("skyscan", marks=pytest.mark.slow),
        pytest.param("zeiss", marks=pytest.mark.slow),
        # How a table is read is tested by its cases of the phantom above.
        pytest.param("table", marks=pytest.mark.slow),
    ],
)
def test_the_command_alone_gives_a_volume_and_a_report(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from invtoolbox.cli import main

    setup = Setup(panel=(16, 24), cell=1.2, views=36)
    path = getattr(sets, f"write_{name}")(tmp_path / "scan", setup)
    monkeypatch.chdir(tmp_path)
    assert main(["ct", str(path), "--quiet"]) == 0
    assert (tmp_path / f"{path.stem}_reconstruction.html").stat().st_size > 10_000
    volume: Any = it.datasets.open(tmp_path / f"{path.stem}_reconstruction.tif")
    truth = sets.truth((16, 24, 24), setup.voxel, setup.radius)
    same, _, mirrored = correlations(volume.slices(), truth)
    assert same > 0.95 and mirrored < 0.85
