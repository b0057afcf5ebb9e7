"""``invtoolbox ct``: what it computes, what it refuses, what it leaves alone."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from tests.command_line import GEOMETRY, Run, one_sentence

QUICK = ("--max-iterations", "5", "--regularization", "0.05", "--quiet")


def ct(run: Run, *arguments: object) -> Any:
    return run("ct", "sinogram.npy", "--geometry", "geometry.toml", *QUICK, *arguments)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("options", [(), ("--geometry", "geometry.toml")])
def test_an_image_is_no_sinogram(run: Run, here: Path, options: tuple[str, ...]) -> None:
    """No advice leads back: the file needs no geometry. Its preamble is a TIFF header."""
    from pydicom.data import get_testdata_file

    ran = run("ct", str(get_testdata_file("CT_small.dcm")), *options)
    assert ran.code == 2 and "an image, not a sinogram" in ran.err and "ct-dicom" in ran.err
    assert "give --geometry" not in ran.err and "leave" not in ran.err


def test_a_sinogram_becomes_a_picture(run: Run, here: Path) -> None:
    ran = run(
        "ct",
        "sinogram.npy",
        "--geometry",
        "geometry.toml",
        "--prior",
        "tv",
        "--regularization",
        "0.05",
        "--max-iterations",
        "30",
        "--output",
        "slice.npy",
        "--report",
        "report.html",
        "--reference",
        "truth.npy",
    )
    assert ran.code == 0, ran.err
    assert (
        "slice.npy" in ran.out
        and "report.html" in ran.out
        and "psnr" in ran.out
        and "solver" in ran.out
    )
    y = torch.as_tensor(np.load("sinogram.npy"))[None, None]
    A = it.datasets.read_geometry("geometry.toml").operator()
    expected = it.solve(
        it.Problem(y, A),
        it.priors.TotalVariation(),
        regularization=0.05,
        max_iterations=30,
        progress=False,
    )
    assert np.array_equal(np.load("slice.npy"), expected.x[0].numpy())
    assert Path("report.html").read_text().count("data:image/png;base64") >= 4
    assert not list(here.glob("*.checkpoint"))


def test_the_default_output_is_in_the_current_folder_and_not_written_over(
    run: Run, here: Path
) -> None:
    assert ct(run).code == 0
    before = files(here)
    assert "sinogram_reconstruction.tif" in before
    assert "sinogram_reconstruction.tif exists; give --overwrite" in one_sentence(ct(run))
    assert files(here) == before
    assert ct(run, "--overwrite", "--prior", "tikhonov").code == 0
    assert files(here)["sinogram_reconstruction.tif"] != before["sinogram_reconstruction.tif"]


@pytest.mark.parametrize("suffix", ["png", "tif", "h5", "npy"])
def test_every_format(run: Run, here: Path, suffix: str) -> None:
    assert (
        ct(run, "--output", f"slice.{suffix}").code == 0
        and Path(f"slice.{suffix}").stat().st_size > 100
    )


def test_center_and_views_change_the_geometry(run: Run, here: Path) -> None:
    assert (
        ct(
            run, "--prior", "tikhonov", "--center", "10.5", "--views", "::2", "--output", "a.npy"
        ).code
        == 0
    )
    text = GEOMETRY.replace("count = 20", "count = 10").replace(
        "[angles]", "detector_shift = 1.0\n[angles]"
    )
    Path("shifted.toml").write_text(text)
    np.save("half.npy", np.load("sinogram.npy")[::2])
    assert (
        run(
            "ct",
            "half.npy",
            "--geometry",
            "shifted.toml",
            *QUICK,
            "--prior",
            "tikhonov",
            "--output",
            "b.npy",
        ).code
        == 0
    )
    # Angles of every second view and of ten views differ in the last bit.
    assert np.allclose(np.load("a.npy"), np.load("b.npy"), atol=1e-5)


def test_a_dead_column_is_repaired_when_asked(run: Run, here: Path) -> None:
    """The command gives the bits of `it.reconstruct`, and names the repair."""
    text = GEOMETRY.replace("24", "48").replace("count = 20", "count = 40")
    Path("geometry.toml").write_text(text.replace("16, 16", "32, 32"))
    A = it.datasets.read_geometry("geometry.toml").operator()
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8:22, 10:24] = 0.1
    y = A.simulate(truth, 0.01, seed=0)
    y[..., 20] = 0
    np.save("dead.npy", y[0, 0].numpy())
    options = (
        "--geometry",
        "geometry.toml",
        *QUICK[:-1],
        "--repair",
        "--output",
        "slice.npy",
        "--prior",
        "tv",
    )
    ran = run("ct", "dead.npy", *options)
    assert ran.code == 0 and "repaired" in ran.out + ran.err
    assert "automatic = 'all,+repairs' takes its place" in ran.out + ran.err
    settings = {"regularization": 0.05, "max_iterations": 5, "progress": False}
    expected = it.reconstruct(y, A, "tv", repair=True, **settings)
    assert np.array_equal(np.load("slice.npy"), expected.x[0].numpy())


def test_the_axis_is_found_when_asked(run: Run, here: Path) -> None:
    angles = np.arange(90) * np.pi / 90
    u = np.arange(64)[None] - 30.25
    scan = sum(
        np.exp(-(((u - r * np.cos(angles - a)[:, None]) / 3) ** 2))
        for r, a in [(9, 0.3), (15, 2.0)]
    )
    np.save("sinogram.npy", scan)
    Path("geometry.toml").write_text(
        GEOMETRY.replace("24", "64").replace("count = 20", "count = 90")
    )
    ran = run(
        "ct",
        "sinogram.npy",
        "--geometry",
        "geometry.toml",
        "--center",
        "auto",
        "--max-iterations",
        "2",
        "--regularization",
        "0.1",
        "--prior",
        "tikhonov",
    )
    assert ran.code == 0 and "axis of rotation is at column 30.2" in ran.out


def broken(name: str) -> None:
    """Damage one of the user's files."""
    sinogram, text = np.load("sinogram.npy"), Path("geometry.toml").read_text()
    if name == "nan":
        sinogram[3, 4] = np.nan
        sinogram[5, 6] = np.inf
    elif name == "transposed":
        sinogram = sinogram.T
    elif name == "truncated":
        Path("sinogram.npy").write_bytes(Path("sinogram.npy").read_bytes()[:200])
        return
    elif name == "empty":
        Path("sinogram.npy").write_bytes(b"")
        return
    elif name == "nonsense":
        Path("sinogram.npy").write_bytes(b"this is not an array" * 20)
        return
    elif name == "gone":
        Path("sinogram.npy").unlink()
        return
    elif name == "degrees":
        text = text.replace('unit = "degrees"', 'unit = "radians"')
    elif name == "no unit":
        text = text.replace('unit = "degrees"\n', "")
    elif name == "misspelt":
        text = text.replace("num_detectors", "num_detector")
    elif name == "misses":
        text = text.replace("[angles]", "detector_shift = 50.0\n[angles]")
    elif name == "not toml":
        text = "kind = parallel"
    np.save("sinogram.npy", sinogram)
    Path("geometry.toml").write_text(text)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("nan", r"2 of 480 values are NaN or infinite, the first at index \(0, 0, 3, 4\)"),
        (
            "transposed",
            r"24 rows and 20 columns, but the geometry has 20 angles and 24 detector elements",
        ),
        ("truncated", "sinogram.npy: truncated"),
        ("empty", "sinogram.npy: the file is empty"),
        ("nonsense", "sinogram.npy: the first bytes show no known format"),
        ("gone", "there is no file sinogram.npy"),
        ("degrees", "looks like degrees"),
        ("no unit", "the unit of the angles"),
        ("misspelt", "did you mean 'num_detectors'"),
        ("misses", "no ray meets the image"),
        ("not toml", "geometry.toml: not a TOML file"),
    ],
)
def test_bad_measurements_are_one_sentence_and_nothing_is_written(
    run: Run, here: Path, damage: str, sentence: str
) -> None:
    import re

    broken(damage)
    before = files(here)
    assert re.search(sentence, one_sentence(ct(run)))
    assert files(here) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--prior", "tvv"], "did you mean 'tv'"),
        (["--solver", "fistaa"], "did you mean 'fista'"),
        (["--regularization", "discrepansy"], "did you mean 'discrepancy'"),
        (["--output", "slice.gif"], "no format for the suffix '.gif'"),
        (["--output", "gone/slice.tif"], "folder gone does not exist"),
        (["--item", "3"], "has 1 items"),
        (["--views", "a:b"], "START:STOP"),
        (["--views", "50:60"], "leaves none of 20 views"),
        (["--center", "40"], "columns 0 to 23"),
        (["--center", "left"], "column or auto"),
        (["--device", "cuda:9"], "cuda:9"),
        (["--noise-std", "-1"], "--noise-std is -1.0: input should be greater than 0"),
        (
            ["--max-iterations", "-3"],
            "--max-iterations is -3: input should be greater than or equal",
        ),
        (["--reference", "gone.npy"], "gone.npy"),
        (["--reader", "nmupy"], "no reader named 'nmupy'"),
        (["--solver", "cg"], "ConjugateGradient"),
    ],
)
def test_bad_options_are_one_sentence_and_nothing_is_written(
    run: Run, here: Path, arguments: list[str], sentence: str
) -> None:
    before = files(here)
    assert sentence in one_sentence(ct(run, *arguments))
    assert files(here) == before


def test_an_array_without_geometry_says_what_is_missing(run: Run, here: Path) -> None:
    assert "--geometry" in one_sentence(run("ct", "sinogram.npy"))
    assert "--geometry" in one_sentence(run("ct", "photo.png"))


def test_ctrl_c_says_where_the_checkpoint_is_and_resume_goes_on(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--prior", "tikhonov", "--solver", "gradient-descent")
    assert ct(run, *options, "--output", "whole.npy").code == 0
    step, done = it.solvers.GradientDescent.step, []

    def interrupted(self: Any, objective: Any, state: Any) -> Any:
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, objective, state)

    monkeypatch.setattr(it.solvers.GradientDescent, "step", interrupted)
    ran = ct(run, *options, "--output", "slice.npy")
    assert (
        ran.code == 130
        and "slice.npy.checkpoint" in ran.err
        and "--resume" in ran.err
        and "Traceback" not in ran.err
    )
    assert not Path("slice.npy").exists()
    monkeypatch.setattr(it.solvers.GradientDescent, "step", step)
    assert "give --resume" in one_sentence(ct(run, *options, "--output", "slice.npy"))
    assert ct(run, *options, "--output", "slice.npy", "--resume").code == 0
    assert (
        np.array_equal(np.load("slice.npy"), np.load("whole.npy"))
        and not Path("slice.npy.checkpoint").exists()
    )


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ct(run).code == 0
    before = files(here)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    ran = ct(run, "--overwrite")
    *notes, sentence = ran.err.strip().splitlines()
    assert ran.code == 2 and "no room left" in sentence
    assert all("could not be written to the checkpoint" in note for note in notes)
    assert files(here) == before


@pytest.mark.data
@pytest.mark.filterwarnings("default:the field of view of this ParallelBeam:UserWarning")
@pytest.mark.parametrize("name", ["htc2022/htc2022_01a_limited.mat", "tomopy_tooth/tooth.h5"])
def test_measured_files_bring_their_geometry(
    run: Run, here: Path, data_dir: Path, name: str
) -> None:
    ran = run(
        "ct",
        data_dir / name,
        "--views",
        "::8",
        "--prior",
        "tikhonov",
        "--regularization",
        "1",
        "--max-iterations",
        "2",
        "--image-shape",
        "64",
        "64",
        "--pixel-size",
        "1.2" if "htc" in name else "10",
        "--output",
        "slice.npy",
    )
    assert ran.code == 0, ran.err
    image = np.load("slice.npy")
    assert image.shape == (1, 64, 64) and np.isfinite(image).all() and image.std() > 0


def test_fringes_are_filtered_before_the_reconstruction(run: Run, here: Path) -> None:
    phase = ("--phase", "1000", "--energy", "20", "--distance", "50000")
    ran = run(
        "ct",
        "sinogram.npy",
        "--geometry",
        "geometry.toml",
        *phase,
        "--fbp",
        "--output",
        "slice.npy",
    )
    assert ran.code == 0, ran.err
    scan = it.datasets.open("sinogram.npy", "geometry.toml")[0]
    filtered = it.processing.retrieve_phase(scan, 1000.0, 20.0, 50000.0)
    assert scan.geometry is not None and float((filtered.y - scan.y).norm()) > 1e-3
    expected = scan.geometry.operator().pseudo_inverse(filtered.y)
    assert np.array_equal(np.load("slice.npy"), expected[0].numpy())


@pytest.mark.parametrize(
    "options, sentence",
    [
        (("--phase", "1000", "--distance", "50"), "needs energy, the mean energy of the photons"),
        (("--energy", "20", "--distance", "50"), "needs --phase, the ratio"),
        (("--phase", "1000", "--energy", "20"), "needs distance above 0, the distance from"),
        (("--phase", "1000", "--energy", "20", "--distance", "0"), "at 0 there are no fringes"),
        (("--phase", "1000", "--energy", "0", "--distance", "9"), "needs energy above 0"),
    ],
)
def test_a_filter_of_fringes_names_the_number_it_needs(
    run: Run, here: Path, options: tuple[str, ...], sentence: str
) -> None:
    assert sentence in one_sentence(ct(run, *options))


def test_stripes_are_removed_before_the_reconstruction(run: Run, here: Path) -> None:
    y = np.load("sinogram.npy")
    y[:, y.shape[1] // 2 + 3] = 0.0
    np.save("striped.npy", y)
    options = ("--geometry", "geometry.toml", "--fbp", "--stripes", "--output", "slice.npy")
    ran = run("ct", "striped.npy", *options)
    assert ran.code == 0 and "note: stripes were removed" in ran.out, ran
    scan = it.datasets.open("striped.npy", "geometry.toml")[0]
    assert scan.geometry is not None
    repaired, _ = it.processing.remove_stripes(scan.y)
    expected = scan.geometry.operator().pseudo_inverse(repaired)
    assert np.array_equal(np.load("slice.npy"), expected[0].numpy())


def test_metal_is_an_option_and_no_metal_changes_nothing(run: Run, here: Path) -> None:
    options = ("--geometry", "geometry.toml", "--fbp", "--quiet")
    assert run("ct", "sinogram.npy", *options, "--output", "a.npy").code == 0
    assert run("ct", "sinogram.npy", *options, "--metal", "--output", "b.npy").code == 0
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))
    threshold = ("--set", "measurements.metal=1e-9")
    ran = run("ct", "sinogram.npy", *options, *threshold, "--output", "c.npy")
    assert "give a higher threshold" in one_sentence(ran)
    ran = run("ct", "sinogram.npy", *options, "--set", "measurements.metal=-1.0")
    assert "takes true, or an attenuation above 0" in one_sentence(ran)
