"""Scene files: what is read, what is refused and in which words, what is written and what is not written over."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.catalogue import shelves as catalogue
from invtoolbox.catalogue.documents import content_of, parse_override
from invtoolbox.cli import main
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.parts import data_term, measure, prior_of, rule, solver_of
from invtoolbox.jobs.images.tables import read_scene
from invtoolbox.jobs.job import Request
from invtoolbox.jobs.kinds import KINDS
from invtoolbox.jobs.run import prepare

SCENE = """# A small blurred picture.
[measurements.simulate]
path = "truth.npy"
noise_std = 0.01
[operator]
name = "blur"
kernel = { gaussian = 1.0 }
[prior]
name = "tikhonov"
[solver]
name = "gradient-descent"
max_iterations = 5
[regularization]
weight = 100.0
"""


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scene file with its truth, in the current directory."""
    monkeypatch.chdir(tmp_path)
    truth = np.zeros((16, 20), dtype=np.float32)
    truth[4:12, 6:14] = 1
    np.save(tmp_path / "truth.npy", truth)
    path = tmp_path / "small.toml"
    path.write_text(SCENE)
    return path


def run(scene: Path, overrides: Any = (), **how: Any) -> it.Solution:
    solution: it.Solution = it.run(scene, overrides, progress=False, **how)
    return solution


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_a_scene_names_files_of_its_folders_alone_unless_it_is_trusted(
    scene: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "truth.npy"
    (tmp_path / "truth.npy").rename(elsewhere)
    key = "measurements.simulate.path"
    for path in (str(elsewhere), os.path.relpath(elsewhere, tmp_path)):
        scene.write_text(SCENE.replace("truth.npy", path))
        with pytest.raises(
            InputError, match=r"small\.toml: it names '.*truth\.npy', which lies out"
        ):
            run(scene)
        by_option = run(scene, trusted=True, output=tmp_path / "a", overwrite=True)
        by_hand = run(scene, {key: path}, output=tmp_path / "b", overwrite=True)
        assert torch.equal(by_option.x, by_hand.x)
    preset = SCENE.replace("truth.npy", "none.npy").replace("[measure", 'preset = "p"\n[measure', 1)
    scene.write_text(f'{preset}[presets.p]\n"{key}" = "{elsewhere}"\n')
    with pytest.raises(InputError, match="lies outside of its folder"):
        run(scene)


def test_a_trusted_scene_is_trusted_by_its_workers(
    scene: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "truth.npy"
    (scene.parent / "truth.npy").rename(elsewhere)
    scene.write_text(SCENE.replace("truth.npy", str(elsewhere)))
    words = ["run", str(scene), "--workers", "1", "--quiet", "--overwrite"]
    assert main(words) == 2
    assert "give --trusted" in capsys.readouterr().err
    assert main([*words, "--trusted"]) == 0


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in sorted(catalogue.entries("scenes"))
        if not set(KINDS) & set(content_of(name)[1])
    ],
)
def test_every_scene_of_the_catalogue_reads(name: str) -> None:
    file = read_scene(name)
    assert file.name == name and file.scene.title
    assert prior_of(file.scene.prior, file) is not None and rule(file) is not None
    solver_of(file.scene.solver, file)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("a.b=1", "a.b", 1),
        ("a=1e-3", "a", 1e-3),
        ("a=true", "a", True),
        ('a="tv"', "a", "tv"),
        ("a=tv", "a", "tv"),
        ("a=[1, 2]", "a", [1, 2]),
        ("a={ b = 1 }", "a", {"b": 1}),
        ("a = 2", "a", 2),
        ("a=x=y", "a", "x=y"),
    ],
)
def test_overrides_are_toml_or_words(line: str, key: str, value: Any) -> None:
    assert parse_override(line) == (key, value)


@pytest.mark.parametrize("line", ["a", "=1", "a=", ""])
def test_overrides_without_key_or_value_are_refused(line: str) -> None:
    with pytest.raises(InputError, match="key=value"):
        parse_override(line)


def test_overrides_reach_every_table(scene: Path) -> None:
    lines = [
        "prior.weight=0.5",
        "solver.max_iterations=9",
        "seed=3",
        "measurements.simulate.crop.rows=8",
        "measurements.simulate.crop.columns=9",
        "regularization=0.2",
        'output.formats=["npy"]',
    ]
    read = read_scene(scene, lines).scene
    assert (
        read.prior[0].weight,
        read.solver.max_iterations,
        read.seed,
        read.regularization.weight,
    ) == (0.5, 9, 3, 0.2)
    assert read.measurements.simulate is not None and read.measurements.simulate.crop is not None
    assert read.output.formats == ["npy"]


def test_one_of_several_priors_is_named_or_numbered() -> None:
    by_name = read_scene("ct-small", ["prior.tv.weight=2"]).scene.prior
    by_number = read_scene("ct-small", ["prior.0.weight=2"]).scene.prior
    assert by_name == by_number and by_name[0].weight == 2
    with pytest.raises(InputError, match="ambiguous between tv, nonnegative"):
        read_scene("ct-small", ["prior.weight=2"])


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (
            ["measurement.simulate.noise_std=1"],
            "a scene has no key 'measurement'; did you mean 'measurements'",
        ),
        (
            ["measurements.simulate.nois=1"],
            r"\[measurements.simulate\] has no key 'nois'; did you mean 'noise_std'",
        ),
        (["solver.max_iterations=many"], "solver.max_iterations is 'many'"),
        (["solver.max_iterations=-1"], "solver.max_iterations is -1"),
        (['output.formats=["gif"]'], "output.formats.0 is 'gif'"),
        (['evaluation.metrics=["psnrr"]'], "'psnrr'"),
        (["measurements.simulate.relative_noise=0.1"], "one of them"),
        (
            ["measurements.simulate.noise=0.1"],
            "has no key 'noise'; did you mean 'noise_std' or 'relative_noise'",
        ),
        (['measurements.path="truth.npy"'], "one of them"),
        (["regularization.rule=discrepancy"], "either a weight or a rule"),
        (["prior.weight=nan-"], "prior.0.weight"),
        (["dtype=float16"], "dtype is 'float16'"),
    ],
)
def test_faults_are_said_in_a_sentence_that_names_file_and_key(
    scene: Path, overrides: list[str], fault: str
) -> None:
    with pytest.raises(InputError, match=fault) as error:
        read_scene(scene, overrides)
    assert "small.toml" in str(error.value) and "\n" not in str(error.value)


def test_a_scene_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"nowhere.toml: there is no such file"):
        read_scene("nowhere.toml")
    with pytest.raises(InputError, match="the catalogue has a scene 'ct-small'"):
        read_scene("elsewhere/ct-small.toml")


# -- parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["prior=tvv"], "did you mean 'tv'"),
        (["prior.isotropik=true"], "no setting 'isotropik'"),
        (["solver.name=fistaa"], "did you mean 'fista'"),
        (["solver.step=1"], "no setting 'step'"),
        (["operator.name=blurr"], "did you mean 'blur'"),
        (["operator.kernl.gaussian=1"], "no setting 'kernl'"),
        (["operator.kernel={ gaussian = -1 }"], "positive number of pixels"),
        (['operator.kernel={ path = "gone.png" }'], "no file gone.png"),
        (["operator.boundary=sometimes"], "sometimes"),
        (["data_term=least-square"], "did you mean 'least-squares'"),
        (["data_term.noise=1"], "no setting 'noise'"),
        (["measurements.simulate.path=gone.npy"], "no file gone.npy"),
        (["measurements.simulate.item=4"], "item 4"),
        (
            ["measurements.simulate.crop={ rows = 99, columns = 4 }"],
            "do not lie in a picture of 16 by 20",
        ),
        (['regularization={ rule = "discrepansy" }'], "did you mean 'discrepancy'"),
        (['regularization={ rule = "discrepancy", taw = 1 }'], "no setting 'taw'"),
        (["device=cuda:7"], "cuda:7"),
        (["device=nowhere"], "no device named 'nowhere'"),
    ],
)
def test_what_a_scene_names_must_exist_and_nothing_is_written(
    scene: Path, overrides: list[str], fault: str
) -> None:
    with pytest.raises(InputError, match=fault) as error:
        run(scene, overrides)
    assert "\n" not in str(error.value)
    assert not (scene.parent / "results").exists()


def test_the_noise_level_reaches_the_data_term(scene: Path) -> None:
    file = read_scene(scene)
    assert repr(data_term(file, measure(file).noise_std)) == "LeastSquares(noise_std=0.01)"
    relative = read_scene("ct-small", ["measurements.simulate.relative_noise=0.05"])
    measured = measure(relative)
    assert measured.truth is not None and measured.noise_std is not None
    clean = measured.operator(measured.truth)
    assert measured.noise_std == pytest.approx(
        float(0.05 * clean.norm() / clean.numel() ** 0.5), rel=1e-4
    )


def test_measured_arrays_come_with_a_geometry_and_views(scene: Path) -> None:
    np.save("sinogram.npy", np.random.default_rng(0).random((8, 12), dtype=np.float32))
    geometry = {
        "kind": "parallel",
        "num_detectors": 12,
        "image_shape": [8, 8],
        "angles": {"unit": "degrees", "start": 0, "stop": 180, "count": 8, "endpoint": False},
    }
    scene.write_text('measurements.path = "sinogram.npy"\nprior = "tikhonov"\n')
    changes = {
        "measurements.geometry": geometry,
        "measurements.views": {"start": 2, "step": 2},
        "operator": {"pixel_size": 0.5},
    }
    measured = measure(read_scene(scene, changes))
    assert measured.y.shape == (1, 1, 3, 12) and measured.operator.range_shape == (1, 3, 12)
    assert torch.allclose(
        measured.operator.parameters()["angles"].rad2deg(),
        torch.tensor([45.0, 90.0, 135.0], dtype=torch.float64),
    )
    with pytest.raises(InputError, match="say how they were made"):
        measure(read_scene(scene))


def test_beam_hardening_is_corrected_in_a_sinogram(scene: Path) -> None:
    sinogram = np.linspace(0, 3, 96, dtype=np.float32).reshape(8, 12)
    np.save("sinogram.npy", sinogram)
    geometry = {
        "kind": "parallel",
        "num_detectors": 12,
        "image_shape": [8, 8],
        "angles": {"unit": "degrees", "start": 0, "stop": 180, "count": 8, "endpoint": False},
    }
    scene.write_text('measurements.path = "sinogram.npy"\nprior = "tikhonov"\n')
    changes = {
        "measurements.geometry": geometry,
        "measurements.beam_hardening": {"coefficients": [1.0, 0.5], "largest": 2.0},
    }
    y = measure(read_scene(scene, changes)).y[0, 0].numpy()
    below = sinogram <= 2
    np.testing.assert_allclose(y[below], (sinogram + 0.5 * sinogram**2)[below], rtol=1e-5)
    np.testing.assert_allclose(
        y[~below], (4 + 3 * (sinogram - 2))[~below], rtol=1e-5
    )  # on along the tangent
    np.save("photo.npy", sinogram)
    scene.write_text(
        'measurements.path = "photo.npy"\nprior = "tikhonov"\noperator.name = "identity"\n'
    )
    with pytest.raises(InputError, match="in a sinogram whose geometry is known"):
        measure(
            read_scene(
                scene, {"measurements.beam_hardening": {"coefficients": [1.0], "largest": 2.0}}
            )
        )


def test_priors_of_a_scene_add_with_their_weights(scene: Path) -> None:
    file = read_scene(scene, {"prior": [{"name": "tikhonov", "weight": 0.5}, "nonnegative"]})
    assert repr(prior_of(file.scene.prior, file)) == "0.5 * Tikhonov() + NonNegative()"


def test_a_denoiser_of_a_scene_has_its_network(scene: Path) -> None:
    file = read_scene(
        scene, {"prior": {"name": "denoiser", "network": {"name": "dncnn", "depth": 2, "width": 4}}}
    )
    built = prior_of(file.scene.prior, file)
    assert built is not None and sum(p.numel() for p in built.network.parameters()) > 0  # type: ignore[attr-defined]


def test_an_inpainting_scene(scene: Path) -> None:
    changes = {"operator": {"name": "inpainting", "mask": {"keep": 0.5, "seed": 1}}}
    measured = measure(read_scene(scene, changes))
    mask = measured.operator.parameters()["mask"]
    assert mask.shape[-2:] == (16, 20) and 0.3 < float(mask.float().mean()) < 0.7


# -- running ---------------------------------------------------------------------------------------


def test_a_run_writes_its_results_and_equals_solve(scene: Path) -> None:
    changes = {
        "evaluation": {"metrics": ["psnr", "rmse"]},
        "output.formats": ["h5", "png", "tif", "npy", "html"],
    }
    outcome: Any = prepare(scene, Request(changes)).run(progress=False)
    folder = scene.parent / "results" / "small"
    assert set(contents(folder)) == {
        "scene.json",
        "metrics.json",
        "solution.h5",
        "reconstruction.png",
        "reconstruction.tif",
        "reconstruction.npy",
        "report.html",
        "checkpoint.safetensors",
    }
    assert json.loads((folder / "metrics.json").read_text()) == outcome.metrics
    measured = measure(read_scene(scene))
    problem = it.Problem(measured.y, measured.operator, it.data_terms.LeastSquares(0.01))
    alone = it.solve(
        problem,
        it.priors.Tikhonov(),
        "gradient-descent",
        regularization=100.0,
        max_iterations=5,
        progress=False,
    )
    assert torch.equal(outcome.solution.x, alone.x)
    assert torch.equal(it.Solution.load(folder / "solution.h5").x, alone.x)
    assert outcome.metrics["rmse"][0] == pytest.approx(
        float((alone.x - measured.truth).square().mean().sqrt()), rel=1e-5
    )


def test_results_are_not_written_over_unasked(scene: Path) -> None:
    run(scene)
    folder = Path("results/small")
    before = contents(folder)
    with pytest.raises(InputError, match=r"holds results already.*--resume.*--overwrite"):
        run(scene, ["seed=1"])
    assert contents(folder) == before
    run(scene, ["prior.weight=3"], overwrite=True)
    assert contents(folder)["solution.h5"] != before["solution.h5"]
    with pytest.raises(InputError, match="one of them"):
        run(scene, overwrite=True, resume=True)


def test_a_run_in_a_folder_of_somebody_else_leaves_its_files(scene: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    run(scene, output="mine")
    run(scene, output="mine", overwrite=True)
    assert Path("mine/notes.txt").read_text() == "keep"
    Path("file").write_text("keep")
    with pytest.raises(InputError, match="the output file is a file"):
        run(scene, output="file")


def test_a_larger_budget_goes_on_bitwise(scene: Path) -> None:
    run(scene)
    longer = run(scene, ["solver.max_iterations=20"], resume=True)
    whole = run(scene, ["solver.max_iterations=20"], output="whole")
    assert torch.equal(longer.x, whole.x) and int(longer.iterations[0]) == 20
    assert torch.equal(longer.history["objective"], whole.history["objective"])


def test_a_finished_run_is_given_back(scene: Path) -> None:
    first = run(scene, ["solver.max_iterations=500", "solver.tolerance=0.01"])
    assert (
        first.status == ("converged",) and not Path("results/small/checkpoint.safetensors").exists()
    )
    before = contents(Path("results/small"))
    again = run(scene, ["solver.max_iterations=500", "solver.tolerance=0.01"], resume=True)
    assert torch.equal(first.x, again.x) and contents(Path("results/small")) == before


def test_another_problem_is_not_resumed(scene: Path) -> None:
    run(scene)
    before = contents(Path("results/small"))
    with pytest.raises(InputError, match=r"another prior\.0\.weight, seed;"):
        run(scene, ["prior.weight=2", "seed=4"], resume=True)
    assert contents(Path("results/small")) == before


def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_goes_on_bitwise(
    scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(scene, output="whole")
    step, done = it.solvers.GradientDescent.step, []

    def interrupted(self: Any, objective: Any, state: Any) -> Any:
        done.append(1)
        if len(done) == 3:  # in the middle of a step
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, objective, state)

    monkeypatch.setattr(it.solvers.GradientDescent, "step", interrupted)
    with pytest.raises(
        KeyboardInterrupt, match=r"checkpoint .*checkpoint\.safetensors stays, and --resume"
    ):
        run(scene)
    assert len(done) == 3 and not Path("results/small/solution.h5").exists()
    monkeypatch.setattr(it.solvers.GradientDescent, "step", step)
    resumed = run(scene, resume=True)
    assert torch.equal(resumed.x, whole.x)
    assert torch.equal(resumed.history["certificate"], whole.history["certificate"])


def test_a_full_disk_is_said_and_leaves_what_was_there(
    scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(scene)
    before = contents(Path("results/small"))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match=r"could not be written: No space left on device|no room left"
    ):
        run(scene, ["solver.max_iterations=8"], resume=True)
    assert contents(Path("results/small")) == before


def test_a_reference_that_is_missing_is_said(scene: Path) -> None:
    np.save("y.npy", np.ones((16, 20), dtype=np.float32))
    changes = {"measurements": {"path": "y.npy"}, "evaluation": {"metrics": ["psnr"]}}
    with pytest.raises(InputError, match="nothing to compare with"):
        run(scene, changes)
    with pytest.raises(InputError, match="no segmentation comes with"):
        run(scene, {**changes, "evaluation": {"metrics": ["matthews"]}})
    with pytest.raises(
        InputError, match=r"compares images of \(1, 16, 20\) with a reference of \(1, 8, 8\)"
    ):
        np.save("small.npy", np.ones((8, 8)))
        run(scene, {"evaluation": {"metrics": ["rmse"], "reference": {"path": "small.npy"}}})
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("name", "least"), [("deblur-lpn", 19.5), ("inpaint-lpn", 17.5), ("superresolve-lpn", 20.4)]
)
def test_scenes_with_a_learned_prior_run(name: str, least: float, tmp_path: Path) -> None:
    """On fewer pixels, where they say how good the answer is; inside the theorem the objective falls."""
    changes = {
        "measurements.simulate.crop": {"top": 90, "left": 200, "rows": 32, "columns": 40},
        "output.formats": ["npy"],
    }
    solution: it.Solution = it.run(name, changes, output=tmp_path / name, progress=False)
    assert "LearnedProximal" in solution.prior
    assert json.loads((tmp_path / name / "metrics.json").read_text())["psnr"][0] > least
    objective = solution.history["objective"][:, 0]
    if name == "inpaint-lpn":
        assert bool((objective.diff().nan_to_num() <= 1e-5 * objective.abs().max()).all())


@pytest.mark.parametrize("name", ["deblur-vble", "inpaint-vble", "ct-vble"])
def test_scenes_with_a_posterior_run(name: str, tmp_path: Path) -> None:
    """On fewer pixels and with a tenth of the steps: the mean is better than a sample, and the report shows what is not known."""
    changes: dict[str, Any] = {
        "solver.max_iterations": 20,
        "solver.number": 8,
        "output.formats": ["html"],
    }
    if name != "ct-vble":
        changes["measurements.simulate.crop"] = {"top": 90, "left": 200, "rows": 32, "columns": 40}
    solution: it.Solution = it.run(name, changes, output=tmp_path / name, progress=False)
    posterior = solution.posterior
    assert "CompressiveAutoencoder" in solution.prior and bool((posterior.std > 0).all())
    truth = measure(read_scene(name, changes)).truth
    errors = [
        float((x - truth).square().mean()) for x in (posterior.mean, *posterior.sample(3, seed=1))
    ]
    assert errors[0] < min(errors[1:])
    assert "Uncertainty" in (tmp_path / name / "report.html").read_text()


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["htc2022-full", "htc2022-90deg", "tooth", "ct-dicom", "deblur-levin"]
)
def test_scenes_on_real_data_find_their_measurements(name: str, data_dir: Path) -> None:
    measured = measure(read_scene(name))
    assert measured.y.isfinite().all()
    assert tuple(measured.y.shape[1:]) == tuple(measured.operator.range_shape)
    evaluation = read_scene(name).scene.evaluation
    if evaluation is not None:
        wanted = measured.segmentation if "matthews" in evaluation.metrics else measured.truth
        assert wanted is not None and tuple(wanted.shape[1:]) == tuple(
            measured.operator.domain_shape
        )
