"""Scenes in stages: they come out, and a stopped schedule goes on bitwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import invtoolbox as it
from invtoolbox.datasets import PosedPictures, open_views
from invtoolbox.datasets.models.gaussians import read_voxels, write_voxels
from invtoolbox.errors import InputError
from invtoolbox.jobs.photographs import (
    GaussianModel,
    Photographs,
    Stage,
    StagedSolution,
    VoxelModel,
    silhouette_prior,
    solve_in_stages,
    split_views,
)
from invtoolbox.jobs.photographs.models import weight_unit
from invtoolbox.jobs.photographs.photographs import find_bad_views
from invtoolbox.jobs.photographs.watch import Watch
from invtoolbox.operators import GaussianRenderer
from invtoolbox.priors import VoxelVariation
from tests.jobs.photographs.conftest import balls, cameras, write_photographs

BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
STAGES = (
    Stage(30, scale=0.5, prior={"resolution": 8}),
    Stage(20, prior={"margin": 0}, solver={"decay": 0.01}),
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    return split_views(open_views(write_photographs(tmp_path_factory.mktemp("views"))), 4)


def voxels(photographs: Photographs, **settings: object) -> StagedSolution:
    solver = it.solvers.Adam(learning_rate=0.2, beta_square=0.99, subset_size=512)
    return solve_in_stages(
        VoxelModel(*BOX, 1.0, resolution=16, degree=1),
        photographs,
        STAGES,
        solver,
        1e-5 * VoxelVariation("density"),
        progress=False,
        **settings,
    )  # type: ignore[arg-type]


def test_voxels_come_out_coarse_to_fine(photographs: Photographs) -> None:
    reports = []
    found = voxels(photographs, report=reports.append, every=0.1)
    assert (
        [r.iterations for r in reports] == [30, 20]
        and found.is_complete
        and found.reports == tuple(reports)
    )
    assert (
        found.x.space.shape == (16, 16, 16)
        and found.x.space.rows < 16**3
        and "of 16 x 16 x 16 nodes" in found.model.describe(found.x)
    )
    assert reports[1].psnr > reports[0].psnr and reports[1].psnr > 19
    assert [s.stage for s in found.samples] == sorted(s.stage for s in found.samples)
    assert all(a.seconds <= b.seconds for a, b in zip(found.samples, found.samples[1:]))


class Stop:
    """Ctrl-C after so many steps of a stage."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stage: int, step: int) -> None:
        plain = Watch.__call__

        def call(watch: Watch, progress: object) -> bool:
            stop = plain(watch, progress)  # type: ignore[arg-type]
            if watch.stage == stage and watch.iteration == step:
                raise KeyboardInterrupt
            return stop

        monkeypatch.setattr(Watch, "__call__", call)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stopped_schedule_goes_on_bitwise(
    photographs: Photographs, stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = voxels(photographs)
    with monkeypatch.context() as patched:
        Stop(patched, stage, 7)
        with pytest.raises(KeyboardInterrupt):
            voxels(photographs, folder=tmp_path)
    resumed = voxels(photographs, folder=tmp_path)
    assert torch.equal(resumed.x.density, whole.x.density) and torch.equal(
        resumed.x.color, whole.x.color
    )
    assert [r.iterations for r in resumed.reports] == [30, 20]


def test_gaussians_come_out_and_go_on_in_a_second_stage(
    photographs: Photographs, tmp_path: Path
) -> None:
    model = GaussianModel(*BOX, 1.0, count=100, most=200, degree=1, length=60)
    solver = it.solvers.Adam(subset_size=1, epsilon=1e-15)
    stages = [Stage(60, scale=0.5), Stage(30, prior={"strategy": "none"})]
    found = solve_in_stages(
        model,
        photographs,
        stages,
        solver,
        data_term=it.data_terms.Photometric(0.0),
        progress=False,
        folder=tmp_path,
    )
    assert found.reports[1].psnr > 17 and "Gaussians" in model.describe(found.x)
    assert (tmp_path / "stages.json").exists() and (tmp_path / "checkpoint-1.safetensors").exists()
    again = solve_in_stages(
        model,
        photographs,
        stages,
        solver,
        data_term=it.data_terms.Photometric(0.0),
        progress=False,
        folder=tmp_path,
    )
    assert torch.equal(again.x.means, found.x.means)


def test_a_schedule_follows_its_steps_and_goes_on_bitwise(
    photographs: Photographs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dict(
        solver=it.solvers.Adam(subset_size=1, epsilon=1e-15),
        data_term=it.data_terms.Photometric(),
        progress=False,
    )
    model = GaussianModel(*BOX, 1.0, count=100, most=300, degree=1)
    stages = [Stage(120, scale=0.5), Stage(180)]
    whole = solve_in_stages(model, photographs, stages, **settings)  # type: ignore[arg-type]
    with monkeypatch.context() as patched:
        Stop(patched, 1, 60)
        with pytest.raises(KeyboardInterrupt):
            solve_in_stages(model, photographs, stages, folder=tmp_path, **settings)  # type: ignore[arg-type]
    resumed = solve_in_stages(model, photographs, stages, folder=tmp_path, **settings)  # type: ignore[arg-type]
    assert torch.equal(resumed.x.means, whole.x.means)
    assert torch.equal(resumed.x.colors, whole.x.colors)
    # The number grew although the run is short, and every degree takes part.
    assert int((whole.x.opacities > 1e-6).sum()) > 100 and whole.x.degree == 1


def test_rates_fall_with_the_share_of_the_budget(photographs: Photographs) -> None:
    model = GaussianModel(*BOX, 1.0, count=50, degree=2)
    rates = []
    for share in (0.0, 0.5, 1.0):
        prior = model.with_pace(lambda iteration, share=share: share).start().at(7)
        rates.append(prior.learning_rates(prior.initial()))
    assert rates[2]["means"] == pytest.approx(0.01 * rates[0]["means"])
    assert rates[1]["means"] == pytest.approx(0.1 * rates[0]["means"])
    assert rates[1]["colors"] == rates[0]["colors"] == pytest.approx(10 * rates[2]["colors"])
    fixed = replace(model, length=60)
    assert fixed.with_pace(lambda iteration: 1.0) is fixed


class Clock:
    """A clock that goes on by a hundredth of a second per look."""

    seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 0.01
        return self.seconds


def test_stages_share_the_seconds_by_their_iterations(
    photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invtoolbox.jobs.photographs.watch.time", Clock())
    model = GaussianModel(*BOX, 1.0, count=50, degree=0)
    stages = [Stage(1000, scale=0.5), Stage(3000)]
    found = solve_in_stages(
        model, photographs, stages, it.solvers.Adam(subset_size=1), seconds=8.0, progress=False
    )
    first, second = found.reports
    assert first.seconds == pytest.approx(2.3, abs=0.3) and found.seconds >= 8
    assert 1 < first.iterations < second.iterations < 3000


def test_views_that_fit_badly_are_found_and_left_out() -> None:
    views = cameras(count=16, side=48)
    names = tuple(f"{k:02d}.png" for k in range(16))
    pictures = GaussianRenderer(views, ("color", "alpha"))(balls())[0].transpose(0, 1)
    color, alpha = pictures[:, :3].clone(), pictures[:, 3:].clone()
    color[3], alpha[3] = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0)), 1.0
    color[7, :, 4:14, 4:14], alpha[7, :, 4:14, 4:14] = 0.3, 1.0
    for planes in (color, alpha):
        planes[11] = torch.stack([planes[11].roll(k, -1) for k in range(-6, 7)]).mean(0)
    # As rendered, with the noise of a scene that is not yet exact.
    color = color + 0.01 * torch.randn(color.shape, generator=torch.Generator().manual_seed(1))
    shown = PosedPictures(replace(views, names=names), color, alpha)
    bad = find_bad_views(GaussianModel(*BOX, 1.0), balls(), shown)
    assert {name: reason.split(",")[0] for name, reason in bad.items()} == {
        "03.png": "shows something else",
        "07.png": "shows something that moved",
        "11.png": "is blurred",
    }
    assert not find_bad_views(GaussianModel(*BOX, 1.0), balls(), shown[[0, 1, 2]])
    held = shown[[0, 8]]
    found = solve_in_stages(
        GaussianModel(*BOX, 1.0, count=300, most=300, degree=0),
        Photographs(shown[[k for k in range(16) if k % 8]], held),
        [Stage(400), Stage(5)],
        it.solvers.Adam(subset_size=1, epsilon=1e-15),
        progress=False,
    )
    assert "03.png" in found.bad_views


def test_the_bar_says_stage_time_and_quality(
    photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("COLUMNS", "120")
    model = GaussianModel(*BOX, 1.0, count=50, degree=0, strategy="none")
    solve_in_stages(
        model,
        photographs,
        [Stage(30), Stage()],
        it.solvers.Adam(subset_size=1),
        seconds=2.0,
        every=0.1,
    )
    said = shown.getvalue()
    assert (
        "stage 1 of 2, Gaussians" in said
        and "%" in said
        and "PSNR" in said
        and " dB, iteration" in said
        and ", ," not in said
    )


def test_a_budget_in_seconds_ends_the_last_stage(photographs: Photographs) -> None:
    model = GaussianModel(*BOX, 1.0, count=50, degree=0, strategy="none")
    found = solve_in_stages(
        model, photographs, [Stage()], it.solvers.Adam(subset_size=1), seconds=0.5, progress=False
    )
    assert 0.5 <= found.seconds < 5 and found.reports[0].iterations > 1


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ([], "there is no stage"),
        ([Stage()], "stage 1 has no end"),
        ([Stage(), Stage(3)], "only the last one"),
        ([Stage(3, scale=0.0)], r"scale of stage 1 must lie in \(0, 1\]"),
        ([Stage(3, solver={"rate": 1.0})], "changes the solver: Adam has no setting 'rate'"),
        ([Stage(3, prior={"resolutio": 4})], "no setting 'resolutio'"),
    ],
)
def test_faults_of_stages_are_named(
    photographs: Photographs, stages: list[Stage], fault: str
) -> None:
    with pytest.raises(InputError, match=fault):
        solve_in_stages(VoxelModel(*BOX, resolution=8), photographs, stages, progress=False)


def test_strategies_by_name() -> None:
    with pytest.raises(InputError, match="did you mean 'mcmc'"):
        GaussianModel(*BOX, strategy="mcm").start()
    with pytest.raises(InputError, match="no setting 'grow'"):
        GaussianModel(*BOX, strategy={"name": "mcmc", "grow": 1.0}).start()
    assert "DefaultStrategy" in repr(
        GaussianModel(*BOX, strategy={"name": "default", "small": 0.02}).start()
    )


def test_weights_stand_beside_the_mean_misfit(photographs: Photographs) -> None:
    model = VoxelModel(*BOX, 1.0, resolution=8)
    problem = model.problem(photographs.train)
    x = model.start().decode(model.start().initial())
    prediction = problem.operator(x)
    mean_square = (prediction - problem.y).square().mean()
    assert torch.allclose(
        problem.data_term.value(prediction, problem.y) / weight_unit(problem),
        mean_square,
        rtol=1e-4,
    )


def test_a_file_of_voxels_holds_them_exactly(photographs: Photographs, tmp_path: Path) -> None:
    found = voxels(photographs)
    write_voxels(tmp_path / "x.safetensors", found.x)
    again = read_voxels(tmp_path / "x.safetensors")
    assert torch.equal(again.density, found.x.density) and torch.equal(again.color, found.x.color)
    assert (
        torch.equal(again.space.numbers, found.x.space.numbers)
        and again.space.scale == found.x.space.scale
    )
    for content, fault in (
        (b"no", "not a readable voxels"),
        ((tmp_path / "x.safetensors").read_bytes()[:-9], "not a readable voxels"),
    ):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=fault):
            read_voxels(tmp_path / "bad.safetensors")


def test_silhouettes_clear_what_colors_do_not_show(photographs: Photographs) -> None:
    few = Photographs(photographs.train[::3], photographs.held)
    model = VoxelModel(
        *BOX, 1.0, resolution=16, degree=0, alpha=0.1
    )  # it starts as fog, which may turn white
    solver = it.solvers.Adam(learning_rate=0.2, beta_square=0.99, subset_size=512)
    missed = []
    for weight in (0.0, 1.0):
        found = solve_in_stages(model, few, [Stage(60)], solver, progress=False, silhouettes=weight)
        seen = model.look(found.x, few.train.cameras).alpha
        assert float(silhouette_prior(model, few.train).energy(found.x)) == pytest.approx(
            float((seen - few.train.alpha).square().mean())
        )
        missed.append(
            float((model.look(found.x, few.held.cameras).alpha - few.held.alpha).abs().mean())
        )
    assert missed[1] < 0.7 * missed[0]
    # Pixels that do not count do not count.
    half = torch.ones_like(few.train.alpha)
    half[..., 12:] = 0
    masked = silhouette_prior(model, replace(few.train, mask=half)).energy(found.x)
    assert float(masked) == pytest.approx(float((seen - few.train.alpha)[..., :12].square().mean()))
    plain = replace(few.train, alpha=torch.ones_like(few.train.alpha))
    with pytest.raises(InputError, match="leave silhouettes out"):
        solve_in_stages(
            model, Photographs(plain, few.held), [Stage(2)], solver, progress=False, silhouettes=1.0
        )


def test_silhouettes_of_gaussians_are_those_of_their_pictures(photographs: Photographs) -> None:
    model = GaussianModel(*BOX, 1.0, count=60, most=60, degree=0, length=30)
    found = solve_in_stages(
        model,
        photographs,
        [Stage(30)],
        it.solvers.Adam(subset_size=1, epsilon=1e-15),
        progress=False,
        silhouettes=0.5,
    )
    seen = model.look(found.x, photographs.train.cameras).alpha
    wanted = float((seen - photographs.train.alpha).square().mean())
    assert float(silhouette_prior(model, photographs.train).energy(found.x)) == pytest.approx(
        wanted, rel=1e-4
    )
