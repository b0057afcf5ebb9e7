"""``invtoolbox ct --memory``: slabs, formats that other programs read, resumption, full disks, and refusals."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.jobs.images import on_disk, sirt_on_disk, slabs
from tests.command_line import Run, one_sentence
from tests.datasets import scanner_sets as sets

SETUP = sets.Setup(panel=(20, 28), cell=1.0, views=40)


@pytest.fixture
def scan(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small scan, in a process that seems to hold nothing yet: a megabyte is a limit."""
    monkeypatch.setattr(slabs, "_resident", lambda: 0)
    monkeypatch.setattr(slabs, "_FIXED", 0)
    monkeypatch.chdir(tmp_path)
    sets.write_nikon(Path("scan"), SETUP)
    return "scan/bone.xtekct"


def whole(scan: str) -> torch.Tensor:
    item: Any = it.datasets.open(scan)[0]
    return item.geometry.operator().pseudo_inverse(item.y)[0, 0]


def test_slabs_are_the_volume(run: Run, scan: str) -> None:
    expected = whole(scan)
    for memory, output in (("100MB", "a.mha"), ("0.2MB", "b.mha")):
        ran = run("ct", scan, "--memory", memory, "--output", output)
        assert ran.code == 0, ran.err
        volume = it.datasets.open(output)
        assert isinstance(volume, it.datasets.Volume)
        assert np.allclose(volume.slices(), expected, atol=1e-5 * float(expected.abs().max()))
        assert volume.grid.voxel_size == pytest.approx((0.4,) * 3)
        assert not list(Path().glob("*.checkpoint"))
        count = int(ran.out.split()[0])
        assert (count == 1) == (memory == "100MB") and "GB of memory" in ran.out


def test_the_smallest_memory_that_is_named_works(run: Run, scan: str) -> None:
    sentence = one_sentence(run("ct", scan, "--memory", "0.001MB", "--output", "x.mha"))
    assert "--memory" in sentence and "the least that works" in sentence
    least = float(sentence.split("; ")[1].split()[0]) * 1000
    assert run("ct", scan, "--memory", f"{1.01 * least:.6f}MB", "--output", "x.mha").code == 0
    assert "below one slab" in one_sentence(
        run("ct", scan, "--memory", f"{0.9 * least:.6f}MB", "--output", "y.mha")
    )


def test_a_stopped_run_goes_on_with_the_same_bits(
    run: Run, scan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("ct", scan, "--memory", "0.2MB", "--output")
    assert run(*arguments, "a.mha").code == 0
    write, written = it.datasets.write_npy, []

    def until_one(path: Any, x: Any, overwrite: bool = False) -> Any:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, x, overwrite)

    monkeypatch.setattr(on_disk.datasets, "write_npy", until_one)
    stopped = run(*arguments, "b.mha")
    assert stopped.code == 130 and "--resume" in stopped.err and not Path("b.mha").exists()
    monkeypatch.setattr(on_disk.datasets, "write_npy", write)
    assert "an interrupted run left" in one_sentence(run(*arguments, "b.mha"))
    stamps = [path.stat().st_mtime_ns for path in written]
    # Another memory does not change the division of the slabs that are there.
    ran = run("ct", scan, "--memory", "100MB", "--output", "b.mha", "--resume")
    assert ran.code == 0, ran.err
    assert Path("a.mha").read_bytes() == Path("b.mha").read_bytes() and len(stamps) == 1


def test_a_full_disk_leaves_whole_slabs(
    run: Run, scan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("ct", scan, "--memory", "0.2MB", "--output")
    assert run(*arguments, "a.mha").code == 0
    synced, sync = [], os.fsync

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert "no room left on the disk" in one_sentence(run(*arguments, "b.mha"))
    monkeypatch.setattr(os, "fsync", sync)
    files = list(Path("b.mha.checkpoint").glob("slab_*.npy"))
    assert files and all(np.load(file).ndim == 3 for file in files)
    assert run(*arguments, "b.mha", "--resume").code == 0
    assert Path("a.mha").read_bytes() == Path("b.mha").read_bytes()


@pytest.mark.parametrize("output", ["b.mha", "slices"])
def test_a_kill_behind_the_volume_does_not_block_the_resumption(
    run: Run, scan: str, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    """The volume is in its place and the slabs stay; then no slabs stay, or a part of them under a hidden name."""

    arguments = ("ct", scan, "--memory", "0.2MB", "--output", output)
    assert run("ct", scan, "--memory", "0.2MB", "--output", "a.mha").code == 0
    for name in ("rename", "rmtree"):
        place: Any = Path if name == "rename" else on_disk.shutil
        function = getattr(place, name)

        def stop(path: Any, *settings: Any, function: Any = function, **named: Any) -> Any:
            if ".checkpoint" in str(path):
                raise KeyboardInterrupt
            return function(path, *settings, **named)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, stop)
            with contextlib.suppress(KeyboardInterrupt):
                run(*arguments, "--overwrite" if name == "rename" else "--resume")
        assert Path(output).exists()
        assert Path(f"{output}.checkpoint").exists() == (name == "rename")
    assert list(Path().glob(".*.checkpoint.*.tmp"))
    ran = run(*arguments, "--overwrite")
    assert ran.code == 0 and not list(Path().glob("*.checkpoint*")), ran.err
    assert not list(Path().glob(".*.tmp"))
    first, second = (it.datasets.open(path) for path in ("a.mha", output))
    assert isinstance(first, it.datasets.Volume) and isinstance(second, it.datasets.Volume)
    assert np.array_equal(first.slices(), second.slices())


def test_workers_give_the_same_bits(run: Run, scan: str) -> None:
    pytest.importorskip("distributed")
    arguments = ("ct", scan, "--memory", "0.2MB", "--output")
    assert run(*arguments, "a.mha").code == 0
    Path("scene.toml").write_text(
        f'[measurements]\npath = "{scan}"\n[solver]\nmemory = "0.2MB"\n[output]\nfolder = "slices"\n'
    )
    ran = run("run", "scene.toml", "--workers", "2")
    assert ran.code == 0 and "2 processes of" in ran.out, ran.err
    volume: Any = it.datasets.open("slices")
    first: Any = it.datasets.open("a.mha")
    assert np.array_equal(volume.slices(), first.slices())
    assert "one item" in one_sentence(run(*arguments, "c.mha", "--items", "0"))


SIRT = ("--solver", "sirt", "--prior", "nonnegative", "--max-iterations", "4")


@pytest.mark.parametrize("noise_std", [None, 0.02])
def test_sirt_by_slabs_is_sirt(run: Run, scan: str, noise_std: float | None) -> None:
    item: Any = it.datasets.open(scan)[0]
    problem = it.Problem(
        item.y, item.geometry.operator(), it.data_terms.LeastSquares(noise_std=noise_std)
    )
    solution = it.solve(
        problem,
        it.priors.NonNegative(),
        it.solvers.SIRT(),
        max_iterations=4 if noise_std is None else 200,
        progress=False,
        check=False,
    )
    level = () if noise_std is None else ("--noise-std", noise_std, "--max-iterations", "200")
    for memory in ("100MB", "0.4MB"):
        ran = run("ct", scan, "--memory", memory, *SIRT, *level, "--output", "a.mha", "--overwrite")
        assert ran.code == 0, ran.err
        assert (int(ran.out.split()[0]) == 1) == (memory == "100MB")
        volume: Any = it.datasets.open("a.mha")
        error = np.abs(volume.slices() - solution.x[0, 0].numpy()).max()
        assert error <= 1e-5 * float(solution.x.max())
        assert f"SIRT, {int(solution.iterations[0])} iterations" in ran.out
        assert ("not converged" in ran.out) == (noise_std is None)


def test_a_stopped_sirt_goes_on_with_the_same_bits(
    run: Run, scan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after every file: in the row sums, in the column sums, in a residual and in a slab."""
    arguments = ("ct", scan, "--memory", "0.4MB", *SIRT, "--output")
    assert run(*arguments, "a.mha").code == 0
    write, left = it.datasets.write_npy, []

    def stop(path: Any, x: Any, overwrite: bool = False) -> Any:
        left[-1] -= 1
        if left[-1] < 0:
            raise KeyboardInterrupt
        return write(path, x, overwrite)

    monkeypatch.setattr(sirt_on_disk.datasets, "write_npy", stop)
    codes: list[int] = []
    for files in (3, 40, 17, 60, 31, 10**6):
        left.append(files)
        codes.append(run(*arguments, "b.mha", *(["--resume"] if codes else [])).code)
        if codes[-1] == 0:
            break
    assert codes[:2] == [130, 130] and codes[-1] == 0
    assert Path("a.mha").read_bytes() == Path("b.mha").read_bytes()
    assert not list(Path().glob("*.checkpoint"))


@pytest.mark.slow
def test_sirt_on_workers_gives_the_same_bits(run: Run, scan: str) -> None:
    pytest.importorskip("distributed")
    arguments = ("ct", scan, "--memory", "0.4MB", *SIRT, "--output")
    assert run(*arguments, "a.mha").code == 0
    assert run(*arguments, "b.mha", "--workers", "2").code == 0
    assert Path("a.mha").read_bytes() == Path("b.mha").read_bytes()
    more = run(*arguments, "c.mha", "--set", "solver.relaxation=1.5")
    assert more.code == 0 and Path("a.mha").read_bytes() != Path("c.mha").read_bytes()


def test_slabs_of_another_scan_are_refused(
    run: Run, scan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Any, x: Any, overwrite: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(on_disk.datasets, "write_npy", stop)
        assert run("ct", scan, "--memory", "1MB", "--output", "a.mha").code == 130
    other = ("ct", scan, "--memory", "1MB", "--output", "a.mha", "--center", "13")
    assert "another scan, geometry or method" in one_sentence(run(*other, "--resume"))
    assert run(*other, "--overwrite").code == 0


def test_formats_for_other_programs(run: Run, scan: str) -> None:
    """SimpleITK reads NIfTI, MetaImage and DICOM; tifffile the series; zarr and its models the OME-Zarr."""
    sitk = pytest.importorskip("SimpleITK")
    expected = whole(scan).numpy()
    bound = 1e-5 * np.abs(expected).max()
    corner = (-13.5 * 0.4, -13.5 * 0.4, -9.5 * 0.4)
    for output in ("v.nii.gz", "v.mha"):
        assert run("ct", scan, "--memory", "0.3MB", "--output", output).code == 0
        image = sitk.ReadImage(output)
        assert np.allclose(sitk.GetArrayFromImage(image), expected, atol=bound)
        assert image.GetSpacing() == pytest.approx((0.4,) * 3)
        assert image.GetOrigin() == pytest.approx(corner)
        assert image.GetDirection() == pytest.approx(np.eye(3).ravel())
    assert run("ct", scan, "--memory", "0.3MB", "--output", "ct.dcm").code == 0
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames("ct.dcm"))
    image = reader.Execute()
    units = 1000 * (expected / 0.0193 - 1)
    step = (units.max() - units.min()) / 65535
    assert np.abs(sitk.GetArrayFromImage(image) - units).max() < 1.5 * step + 0.01
    assert image.GetSpacing() == pytest.approx((0.4,) * 3) and image.GetOrigin() == pytest.approx(
        corner
    )
    series: Any = it.datasets.open("ct.dcm", reader="dicom-series")
    assert series.units == "HU" and np.abs(series.slices() - units).max() < 1.5 * step + 0.01
    assert run("ct", scan, "--memory", "0.3MB", "--output", "slices").code == 0
    stack: Any = it.datasets.open("slices")
    assert np.allclose(stack.slices(), expected, atol=bound)
    assert stack.grid.voxel_size == pytest.approx((0.4,) * 3, rel=1e-4)


def test_ome_zarr(run: Run, scan: str) -> None:
    zarr = pytest.importorskip("zarr")
    assert run("ct", scan, "--memory", "0.3MB", "--output", "v.zarr").code == 0
    group = zarr.open_group("v.zarr", mode="r")
    expected = whole(scan).numpy()
    assert np.allclose(group["0"][:], expected, atol=1e-5 * np.abs(expected).max())
    scale, shift = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == pytest.approx([0.4] * 3) and shift["translation"][0] == pytest.approx(
        -3.8
    )
    models = pytest.importorskip("ome_zarr_models")
    models.open_ome_zarr(group)
    assert "exists" in one_sentence(run("ct", scan, "--memory", "0.3MB", "--output", "v.zarr"))
    assert run("ct", scan, "--memory", "0.3MB", "--output", "v.zarr", "--overwrite").code == 0
    with pytest.raises(it.InputError, match="no Zarr folder"):
        it.datasets.write_ome_zarr("scan", expected, overwrite=True)


def test_sixteen_bits_state_slope_and_intercept(run: Run, scan: str) -> None:
    import tifffile

    sitk = pytest.importorskip("SimpleITK")
    expected = whole(scan).numpy()
    options = ("--memory", "0.3MB", "--dtype", "uint16", "--range", "0.002", "0.05")
    bound = 0.048 / 65535
    clipped = np.clip(expected, 0.002, 0.05)
    assert (expected > 0.05).any() and (expected < 0.002).any()
    for output in ("v.nii.gz", "v.mha", "v.dcm", "v.zarr", "slices"):
        ran = run("ct", scan, *options, "--output", output)
        assert ran.code == 0 and "stored numbers q stand for" in ran.out, ran.err
    assert np.abs(sitk.GetArrayFromImage(sitk.ReadImage("v.nii.gz")) - clipped).max() < bound
    image = sitk.ReadImage("v.mha")
    assert image.GetPixelID() == sitk.sitkUInt16
    slope, intercept = (
        float(image.GetMetaData(f"Rescale{name}")) for name in ("Slope", "Intercept")
    )
    assert np.abs(sitk.GetArrayFromImage(image) * slope + intercept - clipped).max() < bound
    series: Any = it.datasets.open("v.dcm", reader="dicom-series")
    assert np.abs(0.0193 * (1 + series.slices() / 1000) - clipped).max() < bound
    zarr = pytest.importorskip("zarr")
    array = zarr.open_group("v.zarr", mode="r")["0"]
    assert array.dtype == np.uint16
    assert (
        np.abs(array[:] * array.attrs["slope"] + array.attrs["intercept"] - clipped).max() < bound
    )
    with tifffile.TiffFile("slices/slice_0010.tif") as file:
        notes: Any = file.imagej_metadata
        page = file.asarray()
    assert page.dtype == np.uint16
    assert np.abs(page * notes["slope"] + notes["intercept"] - clipped[10]).max() < 2 * bound


def test_other_files_of_projections(run: Run, cone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("ct", "projections.h5", "--geometry", "cone.toml", "--memory", "9GB")
    assert run(*arguments, "--volume-shape", "8", "16", "16", "--output", "a.nii").code == 0
    geometry = it.datasets.read_geometry("cone.toml")
    item: Any = it.datasets.open("projections.h5", geometry)[0]
    expected = geometry.operator().pseudo_inverse(item.y)[0, 0, 1:-1]  # type: ignore[attr-defined]
    volume: Any = it.datasets.open("a.nii")
    assert np.allclose(volume.slices(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--memory", "much"), "a number and MB, GB or TB"),
        (("--memory", "1MB", "--output", "x.npy"), "slab by slab, use one of"),
        (("--memory", "1MB", "--output", "x.mha", "--views", "::2"), "--views is not taken"),
        (("--memory", "1MB", "--output", "x.mha", "--solver", "sirt"), "constraints only"),
        (("--memory", "1MB", "--output", "x.mha", "--solver", "pdhg"), "the solver sirt"),
        (("--memory", "1MB", "--output", "x.mha", *SIRT, "--initial", "fbp"), "starts at 0"),
        (("--memory", "1MB", "--output", "x.mha", *SIRT, "--fbp"), "leave --solver out"),
        (("--memory", "1MB", "--output", "x.mha", "--center", "auto"), "give the column"),
        (("--memory", "1MB", "--output", "x.mha", "y.mha"), "one volume"),
        (("--memory", "1MB", "--dtype", "uint16", "--output", "x.mha"), "belong together"),
        (("--dtype", "uint16", "--range", "0", "1", "--output", "x.mha"), "--memory"),
        (
            ("--memory", "1MB", "--dtype", "uint16", "--range", "1", "0", "--output", "x.mha"),
            "must rise",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    run: Run, scan: str, options: tuple[str, ...], sentence: str
) -> None:
    ran = run("ct", scan, *options)
    assert sentence in ran.err and ran.code == 2, ran.err
    assert not list(Path().glob("x.*"))


def test_a_scene_states_its_memory(run: Run, scan: str) -> None:
    text = f'[measurements]\npath = "{scan}"\n[solver]\nmemory = "1MB"\n'
    Path("scene.toml").write_text(text + '[[prior]]\nname = "tv"\n')
    assert "filtered back-projection alone" in one_sentence(
        run("run", "scene.toml", "--output", "a")
    )
    Path("scene.toml").write_text(text)
    assert run("run", "scene.toml", "--output", "a").code == 0
    assert len(list(Path("a").glob("slice_*.tif"))) == SETUP.panel[0]
