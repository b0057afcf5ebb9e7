"""``invtoolbox ct`` and scenes with the projections of 3D scans."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.operators.tomography.trajectories import circular
from tests.command_line import CONE, Run, one_sentence

QUICK = ("--max-iterations", "5", "--regularization", "0.05", "--quiet")


def ct(run: Run, *arguments: object) -> Any:
    return run("ct", "projections.h5", "--geometry", "cone.toml", *arguments)


def measured() -> tuple[torch.Tensor, Any]:
    geometry = it.datasets.read_geometry("cone.toml")
    return it.datasets.open("projections.h5", geometry)[0].y, geometry.operator()


def test_projections_become_a_volume(run: Run, cone: Path) -> None:
    """TV as `it.solve` has it, better than FDK, which is `pseudo_inverse`; in NIfTI with the size of the voxels."""
    y, A = measured()
    ran = ct(
        run, "--fbp", "--output", "fdk.nii.gz", "--reference", "truth.npy", "--report", "fdk.html"
    )
    assert ran.code == 0 and "no iterations" in ran.out and "psnr" in ran.out, ran.err
    assert "solver" not in ran.out + ran.err and "written" in ran.out
    fdk = it.datasets.open("fdk.nii.gz")
    assert isinstance(fdk, it.datasets.Volume) and fdk.grid.voxel_size == pytest.approx(
        (0.5, 0.5, 0.5)
    )
    assert fdk.grid.origin == pytest.approx((-3.75, -3.75, -2.25))
    assert torch.allclose(fdk.volume().y, A.pseudo_inverse(y), atol=1e-6)
    ran = ct(
        run,
        "--prior",
        "tv",
        "--regularization",
        "0.05",
        "--max-iterations",
        "40",
        "--output",
        "tv.npy",
        "--quiet",
    )
    assert ran.code == 0, ran.err
    expected = it.solve(
        it.Problem(y, A),
        it.priors.TotalVariation(),
        regularization=0.05,
        max_iterations=40,
        progress=False,
    ).x
    assert np.array_equal(np.load("tv.npy"), expected[0, 0].numpy())
    truth = torch.from_numpy(np.load("truth.npy"))[None, None]
    assert (
        float(it.metrics.psnr(expected, truth)) > float(it.metrics.psnr(fdk.volume().y, truth)) + 5
    )
    assert Path("fdk.html").read_text().count("data:image/png;base64") >= 2 and not list(
        cone.glob("*.checkpoint")
    )


def test_a_start_from_fdk_is_one(run: Run, cone: Path) -> None:
    y, A = measured()
    assert ct(run, *QUICK, "--prior", "tikhonov", "--initial", "fbp", "--output", "x.npy").code == 0
    expected = it.solve(
        it.Problem(y, A),
        it.priors.Tikhonov(),
        regularization=0.05,
        max_iterations=5,
        initial=A.pseudo_inverse(y),
        progress=False,
    ).x
    assert np.array_equal(np.load("x.npy"), expected[0, 0].numpy())


@pytest.mark.parametrize("name", ["v.tif", "v.nii", "v.mha", "v.h5", "slices"])
def test_every_format_of_volumes(run: Run, cone: Path, name: str) -> None:
    assert ct(run, "--fbp", "--quiet", "--output", name).code == 0
    written = it.datasets.open(name)
    assert len(written) == 10 and written[0].y.shape == (1, 1, 16, 16)
    if name in ("v.tif", "v.nii", "v.mha"):
        assert isinstance(written, it.datasets.Volume) and written.grid.voxel_size == pytest.approx(
            (0.5, 0.5, 0.5), rel=1e-4
        )
    assert "exists" in one_sentence(ct(run, "--fbp", "--quiet", "--output", name))
    assert ct(run, "--fbp", "--quiet", "--output", name, "--overwrite").code == 0


def test_the_command_line_changes_the_geometry(run: Run, cone: Path) -> None:
    changes = (
        "--views",
        "::2",
        "--volume-shape",
        "8",
        "12",
        "12",
        "--voxel-size",
        "0.6",
        "--center",
        "12.0",
    )
    assert ct(run, "--fbp", "--quiet", *changes, "--output", "a.npy").code == 0
    text = CONE.replace("[10, 16, 16]", "[8, 12, 12]").replace(
        "voxel_size = 0.5", "voxel_size = 0.6\ndetector_shift = [0.5, 0.0]"
    )
    Path("other.toml").write_text(text.replace("count = 24", "count = 12"))
    y, _ = measured()
    np.save("half.npy", y[0, 0, ::2].numpy())
    assert (
        run(
            "ct", "half.npy", "--geometry", "other.toml", "--fbp", "--quiet", "--output", "b.npy"
        ).code
        == 0
    )
    assert np.allclose(np.load("a.npy"), np.load("b.npy"), atol=1e-5)


def test_poses_in_a_file_beside_it(run: Run, cone: Path) -> None:
    angles = torch.arange(24, dtype=torch.float64) * (2 * torch.pi / 24)
    np.save("vectors.npy", circular(angles, 40.0, 70.0).numpy())
    top = "".join(line for line in CONE.splitlines(keepends=True)[:4])
    Path("poses.toml").write_text(top + 'vectors = "vectors.npy"\n')
    for name in ("cone", "poses"):
        ran = run(
            "ct",
            "projections.h5",
            "--geometry",
            f"{name}.toml",
            *QUICK,
            "--prior",
            "tikhonov",
            "--output",
            f"{name}.npy",
        )
        assert ran.code == 0, ran.err
    assert np.allclose(np.load("cone.npy"), np.load("poses.npy"), atol=1e-4)
    assert "no closed-form pseudo-inverse" in one_sentence(
        run("ct", "projections.h5", "--geometry", "poses.toml", "--fbp")
    )


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "count = 24",
            "count = 23",
            "24x18x26, but the geometry has 23 views of a panel with 18 rows and 26 columns",
        ),
        ("[18, 26]", "[26, 18]", "has 24 views of a panel with 26 rows and 18 columns"),
        ("voxel_size", "voxel_sise", "did you mean 'voxel_size'"),
        ('kind = "cone"', 'kind = "parallel3d"', "source_origin belongs to a cone beam"),
        ('unit = "degrees"', 'unit = "radians"', "looks like degrees"),
        ("source_detector = 70.0", "source_detector = 7.0", "source_detector"),
        ("[10, 16, 16]", "[16, 16]", "list of 3 numbers"),
    ],
)
def test_a_geometry_that_does_not_fit_is_one_sentence(
    run: Run, cone: Path, old: str, new: str, sentence: str
) -> None:
    Path("cone.toml").write_text(CONE.replace(old, new))
    before = sorted(p.name for p in cone.iterdir())
    assert re.search(sentence, one_sentence(ct(run, *QUICK)))
    assert sorted(p.name for p in cone.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output", "v.png"], "a volume is not one picture"),
        (["--output", "v.gif"], "v.gif: no format for the suffix '.gif'; use one of tif"),
        (["--image-shape", "4", "4"], "give --volume-shape"),
        (["--pixel-size", "4"], "give --voxel-size"),
        (["--center", "auto"], "give the column"),
        (["--center", "99"], "columns 0 to 25"),
        (["--views", "90:"], "leaves none of 24 views"),
        (["--fbp", "--solver", "pdhg"], "leave --solver out"),
        (["--items", "all", "--output", "v.nii"], "give a folder"),
        (["--reference", "projections.h5"], "give the true image of the same shape"),
    ],
)
def test_bad_options_are_one_sentence(
    run: Run, cone: Path, arguments: list[str], sentence: str
) -> None:
    options = ("--quiet",) if "--fbp" in arguments else QUICK
    assert sentence in one_sentence(ct(run, *options, *arguments))


def test_2d_scans_start_from_filtered_back_projection_too(run: Run, here: Path) -> None:
    assert (
        run(
            "ct",
            "sinogram.npy",
            "--geometry",
            "geometry.toml",
            "--fbp",
            "--quiet",
            "--output",
            "x.npy",
        ).code
        == 0
    )
    A = it.datasets.read_geometry("geometry.toml").operator()
    y = torch.from_numpy(np.load("sinogram.npy"))[None, None]
    assert np.allclose(np.load("x.npy"), A.pseudo_inverse(y)[0].numpy(), atol=1e-6)  # type: ignore[operator]
    assert "give --image-shape" in one_sentence(
        run("ct", "sinogram.npy", "--geometry", "geometry.toml", "--volume-shape", "2", "3", "4")
    )


METHOD = """[prior]
name = "tikhonov"
[solver]
max_iterations = 3
[regularization]
weight = 0.05
[output]
formats = ["h5", "png", "nii", "html"]
"""


@pytest.mark.parametrize("how", ["geometry", "operator", "simulate"])
def test_scenes_of_3d_scans(cone: Path, how: str) -> None:
    """A geometry file, an operator in the scene, and a simulation, say the same scan."""
    angles = 'angles = { unit = "degrees", start = 0, stop = 360, count = 24, endpoint = false }\n'
    fields = "".join(
        line
        for line in CONE.split("[angles]")[0].splitlines(keepends=True)
        if "kind" not in line and "volume" not in line
    )
    operator = f'[operator]\nname = "cone-beam"\n{fields}{angles}'
    text = {
        "geometry": '[measurements]\npath = "projections.h5"\ngeometry = "cone.toml"\n[operator]\nvoxel_size = 0.5\n',
        "operator": f'[measurements]\npath = "projections.h5"\n{operator}volume_shape = [10, 16, 16]\n',
        "simulate": f'[measurements.simulate]\npath = "truth.npy"\nreader = "arrays"\noptions = {{ items = "volume" }}\nrelative_noise = 0.02\n'
        f"{operator}",
    }[how]
    Path("scan.toml").write_text(text + METHOD)
    if how == "simulate":  # its noise is known, and the uncertainty of a report takes a minute
        Path("scan.toml").write_text(text + METHOD.replace(', "html"', ""))
    if how == "geometry":  # a length or three
        Path("scan.toml").write_text(
            Path("scan.toml")
            .read_text()
            .replace("voxel_size = 0.5", "voxel_size = [0.5, 0.5, 0.5]")
        )
    solution = it.run("scan.toml", output="out", progress=False)
    y, A = measured()
    expected = it.solve(
        it.Problem(y, A),
        it.priors.Tikhonov(),
        regularization=0.05,
        max_iterations=3,
        progress=False,
    )
    if how != "simulate":
        assert torch.equal(solution.x, expected.x)
    assert solution.x.shape == (1, 1, 10, 16, 16)
    volume = it.datasets.open("out/reconstruction.nii")
    assert isinstance(volume, it.datasets.Volume) and volume.grid.voxel_size == pytest.approx(
        (0.5, 0.5, 0.5)
    )
    assert it.datasets.open("out/reconstruction.png")[0].y.shape[-2:] == (16, 16)


@pytest.mark.parametrize(
    ("scene", "sentence"),
    [
        (
            '[measurements]\npath = "projections.h5"\n[operator]\nname = "cone-beam"\nvolume_shape = [1, 2, 3]\n',
            "'detector_shape' is missing",
        ),
        pytest.param(
            '[measurements.simulate]\npath = "truth.npy"\nrelative_noise = 0.1\n[operator]\nname = "cone-beam"\n',
            "read all slices as one item",
            marks=pytest.mark.filterwarnings("ignore:truth.npy has 10 pages, and only page 0 is"),
        ),
        (
            '[measurements]\npath = "projections.h5"\ngeometry = "cone.toml"\n[operator]\npixel_size = 1\n',
            "no field 'pixel_size'",
        ),
    ],
)
def test_scenes_that_do_not_fit_are_one_sentence(cone: Path, scene: str, sentence: str) -> None:
    Path("scan.toml").write_text(scene + METHOD)
    with pytest.raises(it.errors.InputError, match=sentence) as caught:
        it.run("scan.toml", output="out", progress=False)
    assert "\n" not in str(caught.value) and not Path("out").exists()


def test_the_commands_of_the_page_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of docs/how_do_i/ct_geometry.md: the geometry files read, and what a newcomer types works with the second."""
    page = (Path(__file__).parents[3] / "docs" / "how_do_i" / "ct_geometry.md").read_text()
    fan, cone = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert it.datasets.geometry_from_mapping(tomllib.loads(fan)).kind == "fan"
    monkeypatch.chdir(tmp_path)
    Path("cone.toml").write_text(cone)
    A = it.datasets.read_geometry("cone.toml").operator()
    it.datasets.write_hdf5(
        "projections.h5",
        {"projections": A.simulate(torch.ones(1, *A.domain_shape), noise=0.02, seed=0)[0, 0]},
    )
    (shell,) = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    lines = shell.replace("\\\n", " ").splitlines()
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        budget = () if "--fbp" in words else ("--max-iterations", "2")  # the last one counts
        ran = run(*words, *budget, "--overwrite", "--quiet")
        assert ran.code == 0, (line, ran.err)
        assert Path(words[words.index("--output") + 1]).exists()
