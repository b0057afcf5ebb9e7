"""Stacks of a microscope in tiles: seams, the camera, resumption, the command and its refusals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import invtoolbox as it
from invtoolbox.datasets.volumes.stacks import open_stack
from invtoolbox.errors import InputError
from invtoolbox.geometry.tiles import cut
from invtoolbox.jobs.images.stacks import Method, deconvolve_stack, estimate_camera
from tests.command_line import Run, one_sentence

pytest.importorskip("zarr")
SIZE = (0.3, 0.12, 0.12)
OBJECTIVE = ["--na", "1.1", "--wavelength", "0.52", "--immersion", "water"]
WHOLE = (slice(None),) * 3


def cells(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return readings of a camera with gain 2 and offset 100, and the true photons."""
    rng = np.random.default_rng(0)
    x = torch.zeros(1, 1, *shape)
    for _ in range(shape[0] * shape[1] * shape[2] // 2000):
        z, y, c = (int(rng.integers(1, n - 3)) for n in shape)
        x[0, 0, z : z + 2, y : y + 3, c : c + 3] = float(rng.uniform(500, 3000))
    A = it.operators.Microscope(shape, 1.1, 0.52, "water", SIZE, kernel_shape=(7, 15, 15))
    photons = torch.poisson((A(x) + 3).clamp_min(0), generator=torch.Generator().manual_seed(0))
    return (2 * photons[0, 0] + 100).numpy().astype(np.uint16), x[0, 0].numpy()


def write(path: Path, data: np.ndarray, axes: str = "ZYX", sizes: Any = SIZE) -> Path:
    known = {f"PhysicalSize{a}": s for a, s in zip("ZYX", sizes or ())}
    tifffile.imwrite(path, data, metadata={"axes": axes, **known}, photometric="minisblack")
    return path


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("stack") / "a.ome.tif", cells((12, 60, 50))[0])


def kernel() -> torch.Tensor:
    A = it.operators.Microscope((12, 60, 50), 1.1, 0.52, "water", SIZE, kernel_shape=(7, 15, 15))
    return A.kernel[0, 0].float()


def test_every_voxel_belongs_to_one_tile() -> None:
    count = np.zeros((9, 20, 30))
    for tile in cut((9, 20, 30), (4, 8, 16), (1, 2, 3)):
        count[tile.kept] += 1
        assert tuple(s.stop - s.start for s in tile.seen) == tile.shape
    assert (count == 1).all()


@pytest.mark.parametrize("prior", ["tv", "none"])
def test_tiles_fit_each_other(tmp_path: Path, stack: Path, prior: str) -> None:
    opened, images = open_stack(stack), []
    for name, tile in (("whole", (99, 99, 99)), ("tiles", (99, 32, 32))):
        method = Method(
            prior, 0.01, 20, tile, gain=2.0, offset=100.0, background=3.0, saturation=None
        )
        (tmp_path / name).mkdir()
        result, _ = deconvolve_stack(opened, [kernel()], method, tmp_path / name, False)
        images.append(result.read(0, 0, WHOLE))
    whole, tiles = images
    assert np.abs(tiles - whole).max() <= 1e-3 * (whole.max() - whole.min())


def test_the_camera_is_estimated() -> None:
    readings, _ = cells((12, 60, 50))
    gain, offset = estimate_camera([readings.astype(float)])
    assert gain == pytest.approx(2.0, rel=0.1) and offset == pytest.approx(100.0, abs=2.0)
    assert estimate_camera([readings.astype(float)], gain=2.0)[1] == pytest.approx(100.0, abs=2.0)
    assert estimate_camera([readings.astype(float)], offset=100.0)[0] == pytest.approx(2.0, rel=0.1)
    assert estimate_camera([np.ones((2, 3, 4))]) == (1.0, 0.0)


def test_the_command_keeps_channels_times_and_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    readings, truth = cells((12, 40, 36))
    data = np.stack([[readings, readings[::-1]], [readings[:, ::-1], readings]])
    write(tmp_path / "a.ome.tif", data, "TCZYX")
    line = ["deconvolve", "a.ome.tif", *OBJECTIVE, "--psf-size", "7", "15", "15", "--quiet"]
    line += ["--prior", "none", "--tile", "16", "32", "32", "--iterations", "20"]
    assert run(*line, "--output", "b.zarr", "c.ome.tif").code == 0
    found = open_stack("b.zarr")
    assert found.shape == data.shape and found.metadata.voxel_size == pytest.approx(SIZE)
    image = found.read(0, 0, WHOLE)
    np.testing.assert_array_equal(open_stack("c.ome.tif").read(0, 0, WHOLE), image)
    np.testing.assert_allclose(found.read(0, 1, WHOLE).sum(), image.sum(), rtol=0.05)
    blurred = readings.astype(float) - 106
    errors = [np.linalg.norm(v - 2 * truth) for v in (image, blurred)]
    assert errors[0] < 0.8 * errors[1]
    assert not list(tmp_path.glob("*.tiles"))


def test_a_killed_run_goes_on_with_the_same_bits(
    tmp_path: Path, stack: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    # With wide margins every tile would see the whole of this small stack, which is then not cut.
    monkeypatch.setattr("invtoolbox.jobs.images.stacks._FURTHER", 2)
    shutil.copy(stack, "a.ome.tif")
    line = ["deconvolve", "a.ome.tif", *OBJECTIVE, "--psf-size", "5", "9", "9", "--quiet"]
    line += ["--tile", "8", "32", "32", "--weight", "0.01", "--iterations", "3"]
    assert run(*line, "--output", "whole.zarr").code == 0
    from invtoolbox import datasets

    write_npy, calls = datasets.write_npy, []

    def stop(*arguments: Any, **settings: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return write_npy(*arguments, **settings)

    monkeypatch.setattr(datasets, "write_npy", stop)
    stopped = run(*line, "--output", "b.zarr")
    assert stopped.code != 0 and "the finished tiles in" in stopped.err
    assert len(list(Path("b.zarr.tiles").glob("tile_*.npy"))) == 3
    assert "--resume to go on" in one_sentence(run(*line, "--output", "b.zarr"))
    other = run(*line[:-1], "4", "--output", "b.zarr", "--resume")
    assert "another method.iterations" in one_sentence(other).replace("--", "method.")
    assert run(*line, "--output", "b.zarr", "--resume").code == 0
    found, wanted = (open_stack(p).read(0, 0, WHOLE) for p in ("b.zarr", "whole.zarr"))
    np.testing.assert_array_equal(found, wanted)


def test_a_saved_scene_gives_the_bits_of_its_command(
    tmp_path: Path, stack: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(stack, "a.ome.tif")
    line = ["a.ome.tif", *OBJECTIVE, "--psf-size", "5", "9", "9", "--weight", "0.01", "--quiet"]
    line += ["--iterations", "2", "--output", "a.zarr", "--save-scene", "scene.toml"]
    ran = run("deconvolve", *line)
    assert ran.code == 0 and not ran.out, ran.err
    assert run("run", "scene.toml", "--output", "second", "--quiet").code == 0
    found, wanted = (open_stack(p).read(0, 0, WHOLE) for p in ("second/deconvolved.zarr", "a.zarr"))
    np.testing.assert_array_equal(found, wanted)
    assert "exists" in one_sentence(run("deconvolve", *line[:-2]))


def test_saturated_voxels_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    readings, truth = cells((12, 40, 36))
    place = np.unravel_index(readings.argmax(), readings.shape)
    clipped = readings.copy()
    clipped[place] = 65535
    errors = []
    for name, data in (("clean", readings), ("clipped", clipped)):
        write(tmp_path / f"{name}.ome.tif", data)
        line = [f"{name}.ome.tif", *OBJECTIVE, "--psf-size", "7", "15", "15", "--prior", "none"]
        ran = run("deconvolve", *line, "--iterations", "15", "--output", f"{name}.zarr")
        assert ran.code == 0
        x = open_stack(f"{name}.zarr").read(0, 0, WHOLE)
        errors.append(np.linalg.norm(x - 2 * truth))
    assert "1 voxels are saturated (at least 65535)" in ran.out
    assert errors[1] < 1.1 * errors[0]


WIDE = [
    "--axes",
    "ZYX",
    "--voxel-size",
    "0.2",
    "0.1",
    "0.1",
    "--psf-size",
    "5",
    "9",
    "17",
    "--tile",
    "8",
    "16",
    "16",
]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["plain.tif", *OBJECTIVE], "give --axes with one letter"),
        (["bare.ome.tif", *OBJECTIVE], "states no voxel size, and a model is computed"),
        (["a.ome.tif", *OBJECTIVE[2:]], "does not state what --na gives"),
        (["a.ome.tif", "--na", "1.1", "--immersion", "water"], "what --wavelength gives"),
        (["a.ome.tif", *OBJECTIVE, "--wavelength", "520"], "write 0.52 for 520 nm"),
        (["a.ome.tif", *OBJECTIVE, "--wavelength", "0.5", "0.6"], "1 channels, and --wavelength"),
        (
            ["wide.tif", *OBJECTIVE, *WIDE],
            "larger than a tile",
        ),
        (["a.ome.tif", *OBJECTIVE, "--psf", "a.ome.tif"], "not both"),
    ],
)
def test_bad_input_is_refused(
    tmp_path: Path,
    stack: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
    options: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(stack, "a.ome.tif")
    readings, _ = cells((12, 20, 20))
    write(tmp_path / "bare.ome.tif", readings, sizes=None)
    tifffile.imwrite("plain.tif", readings)
    tifffile.imwrite("wide.tif", np.tile(readings, (1, 1, 9)))
    assert sentence in one_sentence(run("deconvolve", *options, "--output", "x.zarr"))
    assert not Path("x.zarr").exists()


def test_a_file_of_a_psf_needs_no_voxel_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bare.ome.tif", cells((12, 20, 20))[0], sizes=None)
    write(tmp_path / "psf.ome.tif", kernel().numpy()[1:6, 3:12, 3:12].copy())
    line = ["deconvolve", "bare.ome.tif", "--psf", "psf.ome.tif", "--iterations", "2"]
    ran = run(*line, "--weight", "0.01")
    assert ran.code == 0 and "states no voxel size, and neither does the result" in ran.out
    assert open_stack("bare.ome_deconvolved.tif").metadata.voxel_size is None


def test_a_point_spread_function_needs_no_names_of_axes(tmp_path: Path) -> None:
    """Three axes of a plain TIFF may be times of a stack, but only slices of a kernel."""
    path, values = tmp_path / "psf.tif", np.random.default_rng(0).random((5, 7, 9), np.float32)
    tifffile.imwrite(path, values)
    with pytest.raises(InputError, match="QYX"):
        open_stack(path)
    assert np.array_equal(open_stack(path, unnamed="Z").read(0, 0, WHOLE), values)
