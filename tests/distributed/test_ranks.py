"""A volume on two ranks and on one has the same answer; refusals are one sentence each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

import invtoolbox as it
from invtoolbox.core.ranks import Ranks, sum_over_ranks, summing_over
from invtoolbox.core.reductions import mean_items, norm_items, sum_items
from invtoolbox.distributed.slabs import divide
from invtoolbox.errors import RankLost
from tests.distributed.ranks import SIZE, TV, answers, measurements, run_rank, scan, tiled, volume


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run_rank, (2, str(folder / "meeting"), str(folder)), nprocs=2)
    return torch.load(folder / "answers.pt"), folder


@pytest.fixture
def slabs(tmp_path: Path) -> Iterator[it.distributed.Slabs]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    yield it.distributed.Slabs(scan())
    dist.destroy_process_group()


def test_two_ranks_have_the_answers_of_one_process(of_two: tuple[dict[str, Any], Path]) -> None:
    A = scan()
    alone = answers(A, measurements(A), volume())
    ranks, _ = of_two
    first, second = ranks.pop("history")
    assert torch.equal(first, second), "ranks have the same sums, to the last bit"
    torch.testing.assert_close(first, alone.pop("history"), rtol=1e-4, atol=0)
    periodic = it.priors.TotalVariation(periodic=True, tolerance=1e-5)
    alone["norm"] = A.norm(max_iterations=400, tolerance=1e-7)
    assert float(ranks["norm"] / alone.pop("norm")) == pytest.approx(1, abs=2e-3)
    alone |= {"energy": periodic.energy(volume()), "periodic": periodic.prox(volume(), 0.2)}
    for name, value in alone.items():
        error = float((ranks[name] - value).norm() / value.norm())
        assert error < 1e-5, name


def test_one_rank_goes_on_from_the_checkpoint_of_two(
    of_two: tuple[dict[str, Any], Path], slabs: it.distributed.Slabs
) -> None:
    _, folder = of_two
    names = sorted(path.name for path in folder.glob("run.ckpt*"))
    assert names == ["run.ckpt.000003.0of2", "run.ckpt.000003.1of2"]
    # A set of a later iteration that a killed rank did not complete is left alone.
    (folder / "run.ckpt.000004.0of2").write_bytes(b"")
    y, iterations = measurements(slabs.scan), []
    settings: dict[str, Any] = {"max_iterations": 6, "progress": False, "check": False}
    resumed = it.solve(
        it.Problem(y, slabs),
        TV,
        "fista",
        0.2,
        checkpoint=folder / "run.ckpt",
        callbacks=[lambda progress: iterations.append(progress.iteration)],
        **settings,
    )
    assert iterations == [4, 5, 6]
    alone = it.solve(it.Problem(y, slabs.scan), TV, "fista", 0.2, **settings)
    assert float((resumed.x - alone.x).norm() / alone.x.norm()) < 1e-5
    with pytest.raises(it.InputError, match="belongs to another problem.*changed: measurements"):
        it.solve(
            it.Problem(2 * y, slabs), TV, "fista", 0.2, checkpoint=folder / "run.ckpt", **settings
        )


def test_slabs_thinner_than_the_halo_are_refused(of_two: tuple[dict[str, Any], Path]) -> None:
    sentence = of_two[0]["thin slabs"]
    assert "the margin of 9 slices is wider than the thinnest slab, which has 8" in sentence
    assert "ranks divide one scan, and theirs differ" in of_two[0]["two scans"]


def test_tiles_are_checked() -> None:
    denoiser = tiled().denoiser
    with pytest.raises(it.InputError, match="takes a prior with the method denoise"):
        it.priors.Tiled(it.priors.TotalVariation())
    with pytest.raises(it.InputError, match="tile of Tiled must be at least 1, got 0"):
        it.priors.Tiled(denoiser, tile=0)
    with pytest.raises(it.InputError, match="has 2 numbers, and the image 3 axes"):
        it.priors.Tiled(denoiser, 8, (1, 1)).denoise(volume(), 0.1)
    whole, cut = denoiser.denoise(volume(), 0.1), tiled().denoise(volume(), 0.1)
    torch.testing.assert_close(cut, whole, rtol=1e-6, atol=1e-7)


def test_weights_of_rays_and_tiny_units(slabs: it.distributed.Slabs) -> None:
    y = measurements(slabs.scan)
    weights = torch.ones_like(y)
    weights[..., :2, :] = 0.0
    settings: dict[str, Any] = {"max_iterations": 3, "progress": False, "check": False}
    term = it.data_terms.LeastSquares(0.1, weights)
    ours = it.solve(it.Problem(y, slabs, term), TV, "fista", 0.2, **settings)
    zeros = torch.zeros(1, *slabs.domain_shape)
    alone = it.solve(it.Problem(y, slabs.scan, term), TV, "fista", 0.2, initial=zeros, **settings)
    torch.testing.assert_close(ours.x, alone.x, rtol=1e-4, atol=1e-5)
    with pytest.raises(it.InputError, match="whose square leaves float32"):
        it.solve(it.Problem(1e-20 * y, slabs), TV, "fista", 0.2, **settings)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_rows_and_slices_are_divided_without_gaps(count: int) -> None:
    A = scan()
    parts = divide(A, count)
    assert [n for p in parts for n in range(A.volume_shape[0])[p.planes]] == list(range(SIZE))
    assert [n for p in parts for n in range(A.detector_shape[0])[p.rows]] == list(range(20))
    y = sum(
        torch.nn.functional.pad(
            p.slab(volume()[:, :, p.planes]), (0, 0, p.band.start, 20 - p.band.stop)
        )
        for p in parts
    )
    torch.testing.assert_close(y, A(volume()), rtol=1e-4, atol=1e-4)


def test_sums_within_ranks_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second rank of the same terms, sums double and means stay."""
    monkeypatch.setattr(Ranks, "sum", lambda self, terms: 2 * terms)
    x = torch.arange(1.0, 7.0).view(1, 6)
    with summing_over(Ranks(0, 2)):
        assert float(sum_items(x)) == 42
        assert float(norm_items(x)) == pytest.approx(math.sqrt(2 * 91))
        assert float(mean_items(x)) == 3.5
        with summing_over(None):
            assert float(sum_over_ranks(torch.ones(1))) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [("Connection closed by peer", RankLost), ("Tensors must have the same shape", RuntimeError)],
)
def test_the_loss_of_a_rank_is_one_sentence(error: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised, Ranks(0, 2)._naming_loss():
        raise RuntimeError(error)
    is_named = "rank 0 of 2 stopped because another rank did" in str(raised.value)
    assert is_named is (kind is RankLost)


def test_ranks_need_a_process_group() -> None:
    with pytest.raises(it.InputError, match="need a process group.*torchrun"):
        it.distributed.Slabs(scan())


@pytest.mark.filterwarnings("ignore:the field of view of ConeBeam")
def test_scans_that_are_not_divided_are_refused(slabs: it.distributed.Slabs) -> None:
    with pytest.raises(it.InputError, match="takes a 3D scan"):
        it.distributed.Slabs(it.operators.ParallelBeam((8, 8), [0.0, 1.0], 12))  # type: ignore[arg-type]
    helix = it.operators.ConeBeam(
        (SIZE,) * 3, torch.linspace(-3, 3, 9), (20, 24), 40.0, 64.0, pitch=2.0
    )
    with pytest.raises(it.InputError, match="is not divided into slabs"):
        it.distributed.Slabs(helix)
    with pytest.raises(it.InputError, match="17 ranks need as many slices"):
        divide(scan(), 17)


@pytest.mark.parametrize(
    ("prior", "solver", "changes", "sentence"),
    [
        (TV, "pdhg", {}, "PDHG needs sums that ranks do not exchange"),
        (it.priors.TotalGeneralizedVariation(), "fista", {}, "prox|not divided over ranks"),
        (it.priors.WaveletL1(), "fista", {}, "is not divided over ranks"),
        (tiled().denoiser, it.solvers.ProximalGradient(step_size=1e-3), {}, "give it.priors.Tiled"),
        (TV, "fista", {"regularization": "auto"}, "needs the weight of its priors"),
        (TV, "fista", {"time_limit": 3.0}, "takes no time_limit=: clocks of ranks differ"),
        (TV, "fista", {"capture": True}, "takes no capture=: ranks exchange sums through the host"),
        (TV, "fista", {"repair": True}, "takes no repair="),
    ],
)
def test_what_ranks_do_not_take_is_refused(
    slabs: it.distributed.Slabs, prior: Any, solver: Any, changes: dict[str, Any], sentence: str
) -> None:
    problem = it.Problem(measurements(slabs.scan), slabs)
    with pytest.raises(it.InputError, match=sentence):
        it.solve(
            problem,
            prior,
            solver,
            **{"regularization": 1.0, "max_iterations": 2, "progress": False, **changes},
        )


def test_a_batch_of_volumes_is_refused(slabs: it.distributed.Slabs) -> None:
    y = measurements(slabs.scan).repeat(2, 1, 1, 1, 1)
    with pytest.raises(it.InputError, match="ranks divide one volume, got a batch of 2"):
        it.solve(it.Problem(y, slabs), TV, "fista", 1.0, progress=False)
    with pytest.raises(it.InputError, match="ranks divide one volume, got a batch of 2"):
        slabs(volume().repeat(2, 1, 1, 1, 1))
    term = it.data_terms.Huber(1.0)
    with pytest.raises(it.InputError, match="a scan under least squares"):
        it.solve(it.Problem(y[:1], slabs, term), TV, "fista", 1.0, progress=False)


def test_written_weights_and_the_chosen_solver_are_kept(slabs: it.distributed.Slabs) -> None:
    problem = it.Problem(measurements(slabs.scan), slabs)
    solution = it.solve(problem, 0.2 * it.priors.TotalVariation(), max_iterations=1, progress=False)
    assert solution.solver.startswith("FISTA") and float(solution.regularization) == 1.0
