"""Reconstructions as models of deepinv and models of deepinv as solvers: the same numbers, in its trainer and its loops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepinv
import pytest
import torch
from deepinv import physics as dp
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.content import digest
from invtoolbox.errors import InputError

LEVELS = torch.tensor([0.02, 0.05, 0.1])


def pictures(n: int = 16, channels: int = 1) -> Tensor:
    grid = torch.linspace(-1, 1, n)
    disc = (torch.hypot(grid[:, None], grid) < 0.7).float()
    spot = (torch.hypot(grid[:, None] - 0.3, grid + 0.2) < 0.3).float()
    x = 0.2 + 0.5 * disc + 0.3 * spot
    x = torch.stack([x, 0.8 * x.T, x.flip(1)])[:, None]
    return torch.cat([x * (1 - 0.2 * k) for k in range(channels)], 1)


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def noise() -> dp.GaussianNoise:
    return dp.GaussianNoise(LEVELS.clone())


N = 16
MASKS = (random(3, 1, N, N) > 0.5).float()
PHYSICS: dict[str, tuple[int, Callable[[], dp.Physics]]] = {
    "denoising": (1, lambda: dp.Denoising(noise())),
    "inpainting": (1, lambda: dp.Inpainting((1, N, N), mask=MASKS, noise_model=noise())),
    "blur": (1, lambda: dp.Blur(random(3, 1, 3, 3) / 5, padding="circular", noise_model=noise())),
    "blur_fft": (1, lambda: dp.BlurFFT((1, N, N), random(3, 1, 5, 5) / 12, noise_model=noise())),
    "downsampling": (
        1,
        lambda: dp.Downsampling((1, N, N), factor=2, filter="bicubic", noise_model=noise()),
    ),
    "compressed_sensing": (
        1,
        lambda: dp.CompressedSensing(m=150, img_size=(1, N, N), noise_model=noise()),
    ),
    "tomography": (
        1,
        lambda: dp.Tomography(angles=20, img_width=N, normalize=True, noise_model=noise()),
    ),
    "single_pixel": (
        1,
        lambda: dp.SinglePixelCamera(m=150, img_size=(1, N, N), noise_model=noise()),
    ),
    "decolorize": (3, lambda: dp.Decolorize(noise_model=noise())),
    "mri": (2, lambda: dp.MRI(mask=MASKS[:1], img_size=(2, N, N), noise_model=noise())),
}


@pytest.mark.parametrize(
    ("name", "weight"), [*((name, 2.0) for name in PHYSICS), ("inpainting", "auto")]
)
def test_a_model_returns_the_bits_of_solve_for_items_that_differ(name: str, weight: Any) -> None:
    channels, make = PHYSICS[name]
    torch.manual_seed(0)
    physics, x = make(), pictures(N, channels)
    y = physics(x)
    before = digest(physics)
    model = it.as_reconstructor("tv", regularization=weight, max_iterations=40)
    with torch.no_grad():
        answer = model.eval()(y, physics)
    assert digest(physics) == before
    problem = it.Problem(
        y, it.as_operator(physics, x.shape[1:]), it.data_terms.LeastSquares(noise_std=LEVELS)
    )

    def solve(chosen: it.Problem) -> Tensor:
        solution = it.solve(chosen, "tv", regularization=weight, max_iterations=40, progress=False)
        images: Tensor = solution.x
        return images

    assert torch.equal(answer, solve(problem))
    assert torch.equal(answer, model(y, physics))
    # One item alone, as deepinv's loops call it: its own level and its own operator.
    second = problem.select(torch.tensor([1]))
    alone = it.to_deepinv(second.operator)
    alone.noise_model = dp.GaussianNoise(LEVELS[1])
    x_alone = model(y[1:2], alone)
    assert torch.equal(x_alone, solve(second))
    assert float((x_alone - answer[1:2]).abs().max()) < 1e-5


def test_a_weight_per_item_and_a_sampler_are_those_of_solve() -> None:
    physics = dp.Denoising(noise())
    y = physics(pictures())
    weights = torch.tensor([1.0, 4.0, 16.0])
    x = it.as_reconstructor("tikhonov", "cg", weights)(y, physics)
    torch.testing.assert_close(x, y / (1 + LEVELS.square() * weights).view(-1, 1, 1, 1))
    sampler = it.solvers.UnadjustedLangevin(burn_in=10, max_iterations=40)
    solution = it.as_reconstructor(it.priors.Tikhonov(), sampler, seed=3).solve(y, physics)
    assert solution.seed == 3 and solution.posterior is not None


def test_noise_models_become_likelihoods() -> None:
    x, gain = pictures() + 0.5, torch.tensor([0.02, 0.05, 0.1])
    torch.manual_seed(0)

    def problem_of(noise_model: dp.NoiseModel, y: Tensor) -> it.Problem:
        problem: it.Problem = it.as_reconstructor("tv").problem(y, dp.Denoising(noise_model))
        return problem

    poisson = problem_of(dp.PoissonNoise(gain), dp.PoissonNoise(gain)(x))
    counts = poisson.y
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-3)
    torch.testing.assert_close(poisson.operator(x), x / gain.view(-1, 1, 1, 1))
    whole = dp.PoissonNoise(0.1, normalize=False)
    assert torch.equal(problem_of(whole, torch.ones(1, 1, 4, 4)).y, torch.ones(1, 1, 4, 4))
    # The likelihoods are calibrated: at the true image each discrepancy is the expected one.
    models = [
        dp.PoissonNoise(gain),
        dp.PoissonGaussianNoise(gain, 0.05),
        dp.LogPoissonNoise(N0=1e4, mu=0.5),
        dp.UniformNoise(0.3),
        dp.LaplaceNoise(0.2),
        dp.GaussianNoise(LEVELS),
    ]
    large = torch.nn.functional.interpolate(x, size=(128, 128))
    for model in models:
        problem = problem_of(model, model(large))
        size = problem.data_term.discrepancy(problem.operator(large), problem.y)
        expected = problem.data_term.expected_discrepancy(problem.y)
        assert expected is not None
        # Variances that are estimated from single counts are less exact.
        bound = 0.1 if isinstance(model, dp.PoissonGaussianNoise) else 0.05
        assert bool(((size / expected - 1).abs() < bound).all()), type(model).__name__
    for silent in (dp.ZeroNoise(), dp.GaussianNoise(0.0), dp.UniformGaussianNoise()):
        assert problem_of(silent, x).data_term.noise_std is None  # type: ignore[attr-defined]


def test_complex_noise_has_its_level_in_both_parts_together() -> None:
    physics = dp.Denoising(dp.GaussianNoise(0.3))
    torch.manual_seed(0)
    y = physics(torch.zeros(1, 1, 100, 100, dtype=torch.complex64))
    problem = it.as_reconstructor("tv").problem(y, physics)
    assert abs(float(y.real.std()) / problem.data_term.noise_std - 1) < 0.03


def test_stacked_and_composed_physics() -> None:
    x = pictures()
    torch.manual_seed(0)
    stacked = dp.stack(
        dp.Denoising(dp.GaussianNoise(0.1)),
        dp.Inpainting((1, N, N), mask=0.5, noise_model=dp.PoissonNoise(0.05)),
    )
    y = stacked(x)
    model = it.as_reconstructor("tv", regularization=1.0, max_iterations=30)
    problem = model.problem(y, stacked)
    assert [type(term).__name__ for term in problem.data_term.terms] == ["LeastSquares", "Poisson"]
    assert model(y, stacked).shape == x.shape


def test_every_kind_of_prior_goes_through_one_line() -> None:
    physics = dp.Inpainting((1, N, N), mask=0.7, noise_model=dp.GaussianNoise(0.05))
    torch.manual_seed(0)
    x = pictures()
    y = physics(x)
    network = deepinv.models.MedianFilter()
    answers = {
        "names": it.as_reconstructor("tv, nonnegative", regularization=2.0),
        "a list": it.as_reconstructor([deepinv.optim.L1Prior(), "nonnegative"], "pdhg", 0.1),
        "deepinv's": it.as_reconstructor(deepinv.optim.Tikhonov(), "fista", 1.0),
        "a denoiser": it.as_reconstructor(network, "half-quadratic", max_iterations=3),
        "a function": it.as_reconstructor(
            it.as_prior(lambda x: x.square().flatten(1).sum(1), role="energy"),
            "gradient-descent",
            1.0,
        ),
        "none": it.as_reconstructor(None),
    }
    for name, model in answers.items():
        assert isinstance(model, deepinv.models.Reconstructor)
        try:
            answer = model(y, physics)
        except InputError as error:
            raise AssertionError(name) from error
        assert answer.shape == x.shape and bool(answer.isfinite().all()), name


def test_auto_is_that_of_reconstruct() -> None:
    physics = dp.Denoising(dp.GaussianNoise(0.1))
    torch.manual_seed(0)
    x = pictures(24)[:1]
    y = physics(x)
    prior = it.priors.Auto(["tikhonov", "tv"])
    A = it.as_operator(physics, (1, 24, 24))
    expected = it.reconstruct(y, A, prior, noise_std=0.1, progress=False, repair=False)
    assert torch.equal(it.as_reconstructor(prior)(y, physics), expected.x)
    with pytest.raises(InputError, match="takes no tolerance"):
        it.as_reconstructor(prior, tolerance=1e-3)
    with pytest.raises(InputError, match="no initial guess"):
        it.as_reconstructor(prior)(y, physics, init=y)


def test_bad_input_is_one_sentence() -> None:
    y = torch.ones(1, 1, 8, 8)
    with pytest.raises(InputError, match="did you mean 'tv'"):
        it.as_reconstructor("tvv")
    with pytest.raises(InputError, match="as_prior takes a prior or denoiser"):
        it.as_reconstructor(3)
    with pytest.raises(InputError, match="called with a deepinv physics"):
        it.as_reconstructor("tv")(y, it.operators.Identity((1, 8, 8)))
    with pytest.raises(InputError, match="GammaNoise of the physics has no data term here"):
        it.as_reconstructor("tv")(y, dp.Denoising(dp.GammaNoise(1.0)))
    robust = it.as_reconstructor("tv", "pdhg", 1.0, data_term=it.data_terms.Huber(0.1))
    assert robust(y, dp.Denoising(dp.GammaNoise(1.0))).shape == y.shape
    with pytest.raises(InputError, match="initial"):
        it.as_reconstructor("tv", regularization=1.0)(y, dp.Denoising(), init=y[..., :4])


def test_impulses_of_a_noise_model_are_outvoted() -> None:
    x = torch.full((1, 1, 16, 16), 0.4)
    physics = dp.Denoising(dp.SaltPepperNoise(0.1, 0.1, rng=torch.Generator().manual_seed(0)))
    y = physics(x)
    answer = it.as_reconstructor("tv", regularization=1.0)(y, physics)
    assert float((answer - x).norm()) < 0.05 * float((y - x).norm())


class Pairs(torch.utils.data.Dataset):
    """Pictures and their measurements, in deepinv's form."""

    def __init__(self, x: Tensor, physics: dp.Physics) -> None:
        torch.manual_seed(0)
        self.x, self.y = x, physics(x)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, k: int) -> Any:
        return {"x": self.x[k], "y": self.y[k]}


# Its trainer asks for a copy that only a GPU can overlap.
@pytest.mark.filterwarnings("ignore:non_blocking_transfers=True can only:UserWarning")
def test_deepinvs_test_and_a_loop_over_models_rank_ours() -> None:
    """`deepinv.test`, and a loop in the form of a benchmark's runner: one item, `eval`, `no_grad`."""
    x = torch.cat([pictures(), pictures().flip(2)])
    physics = dp.Inpainting((1, N, N), mask=0.6, noise_model=dp.GaussianNoise(0.05))
    loader = torch.utils.data.DataLoader(Pairs(x, physics), batch_size=2)
    ours = it.as_reconstructor("tv", regularization=5.0, max_iterations=100)
    metrics = deepinv.test(
        ours,
        loader,
        physics,
        metrics=deepinv.metric.PSNR(),
        device="cpu",
        show_progress_bar=False,
        verbose=False,
        compare_no_learning=True,
    )
    theirs = deepinv.optim.PGD(
        prior=deepinv.optim.TVPrior(n_it_max=20), lambda_reg=1e-3, stepsize=1.0, max_iter=20
    )
    table = {}
    for name, model in {"ours": ours, "theirs": theirs}.items():
        model.to("cpu").eval()
        scores = []
        with torch.no_grad():
            for item in loader.dataset:
                answer = model(item["y"][None], physics)
                scores.append(float(deepinv.metric.PSNR()(answer, item["x"][None])))
        table[name] = sum(scores) / len(scores)
    assert abs(metrics["PSNR"] - table["ours"]) < 1e-3
    assert metrics["PSNR"] > metrics["PSNR no learning"] + 5
    assert table["ours"] > 20 and table["theirs"] > 10


def test_our_model_is_an_initial_guess_of_deepinvs_optimizers() -> None:
    physics = dp.Inpainting((1, N, N), mask=0.6, noise_model=dp.GaussianNoise(0.05))
    torch.manual_seed(0)
    y, ours = physics(pictures()), it.as_reconstructor("tv", regularization=5.0)
    optimizer = deepinv.optim.GD(
        data_fidelity=deepinv.optim.L2(), prior=deepinv.optim.ZeroPrior(), stepsize=1.0, max_iter=1
    )
    start = ours(y, physics)
    # One gradient step of 1/2 |M x - y|^2 replaces the measured pixels.
    expected = torch.where(physics.mask != 0, y, start)
    torch.testing.assert_close(optimizer(y, physics, init=ours), expected)
    # And a model of theirs is the start of ours.
    first = it.as_reconstructor(None, "gradient-descent", max_iterations=0)
    assert torch.equal(first(y, physics, init=ours), start)


def test_an_epoch_of_an_unrolled_solver_in_deepinvs_trainer() -> None:
    x = torch.cat([pictures(), pictures().flip(2)])
    physics = dp.Inpainting((1, N, N), mask=0.6, noise_model=dp.GaussianNoise(0.05))
    loader = torch.utils.data.DataLoader(Pairs(x, physics), batch_size=1)
    problem = it.Problem(loader.dataset.y[:1], it.operators.Identity((1, N, N)))
    network = it.unroll("admm", problem, 5, it.priors.TotalVariation(), regularization=0.003)
    model = it.as_reconstructor(network)
    before = float((model(loader.dataset.y, physics) - x).square().mean())
    # The operator of the physics takes the place of the identity.
    same = it.unroll(
        "admm",
        it.Problem(loader.dataset.y[:1], it.as_operator(physics)),
        5,
        it.priors.TotalVariation(),
        regularization=0.003,
    )
    assert torch.equal(model(loader.dataset.y, physics), same(loader.dataset.y))
    trainer = deepinv.Trainer(
        model,
        physics,
        torch.optim.Adam(model.parameters(), 0.2),
        loader,
        losses=deepinv.loss.SupLoss(),
        epochs=1,
        save_path=None,
        show_progress_bar=False,
        verbose=False,
        device="cpu",
        log_train_batch=False,
        non_blocking_transfers=False,
    )
    trainer.train()
    assert float((model(loader.dataset.y, physics) - x).square().mean()) < before


def test_a_model_moves_with_its_prior() -> None:
    model = it.as_reconstructor(it.priors.Gaussian(torch.zeros(1, N, N), 0.25), "cg", 1.0)
    physics = dp.Denoising(dp.GaussianNoise(0.5)).to(torch.float64)
    y = pictures().double()
    assert model.to(torch.float64)(y, physics).dtype == torch.float64


def test_gradients_reach_the_measurements() -> None:
    physics = dp.Denoising(dp.GaussianNoise(0.5))
    y = pictures().requires_grad_()
    model = it.as_reconstructor("tikhonov", "cg", 4.0, differentiate="implicit", tolerance=1e-6)
    model(y, physics).sum().backward()
    # x = y / (1 + 0.25 * 4)
    torch.testing.assert_close(y.grad, torch.full_like(y, 0.5), rtol=1e-4, atol=0)


#: deepinv's own tests of its trainer that take a model as a fixture and need no download.
OFFLINE = (
    "test_nolearning",
    "test_get_samples",
    "test_trainer_physics_generator_params",
    "test_dataloader_formats",
    "test_early_stop",
    "test_loss_logging",
    "test_out_dir_collision_detection",
    "test_trained_model_not_used_for_no_learning_metrics",
)
#: Two of its cases need a model that a learning rate of 1 makes worse, which ours is not.
NOT_OURS = "not device0-100000-True and not device0-100000-3"


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
def test_deepinvs_own_tests_pass_with_our_models(name: str, tmp_path: Path) -> None:
    """`ours_in_deepinvs_tests` puts our models in the place of theirs."""
    folder = Path(deepinv.__file__).parent / "tests"
    if not (folder / "test_trainer.py").exists():
        pytest.skip("this installation of deepinv has no tests")
    here = Path(__file__).parent
    paths = [str(here), str(Path(it.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(folder)),
            *("-p", "no:odl_plugins", "-p", "no:cacheprovider", "-p", "ours_in_deepinvs_tests"),
            *(str(folder / "test_trainer.py"), "-k", f"{name} and {NOT_OURS}"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:]
    assert " passed" in run.stdout


# -- back: models of deepinv as solvers ------------------------------------------------------------


def test_a_model_of_deepinv_is_a_solver_of_one_step() -> None:
    """An optimizer of theirs on our operator, per item, with the noise level it is told."""
    A = it.operators.Blur(torch.ones(1, 3) / 3, (N, N))
    x = pictures()
    y = A.simulate(x, noise=0.05, seed=0)
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=LEVELS))
    optimizer = deepinv.optim.PGD(
        prior=deepinv.optim.Tikhonov(), lambda_reg=0.5, stepsize=1.0, max_iter=200
    )
    solution = it.solve(problem, solver=it.as_solver(optimizer), progress=False)
    assert solution.status == ("early_stopping",) * 3
    expected = torch.cat([optimizer(item, it.to_deepinv(A)) for item in y.split(1)])
    assert torch.equal(solution.x, expected)
    start = it.solve(problem, "tv", regularization=2.0, initial=solution.x, progress=False)
    assert start.x.shape == x.shape
    levels = it.solve(problem, solver=it.as_solver(_level_of), progress=False).x
    torch.testing.assert_close(levels[:, 0, 0, 0], LEVELS)


def _level_of(y: Tensor, physics: dp.Physics) -> Tensor:
    return physics.noise_model.sigma.view(-1, 1, 1, 1).expand_as(y)


def test_a_model_receives_its_own_physics_and_keeps_its_mode() -> None:
    """A mask is an attribute that networks read; batch statistics and dropout stay as they are."""

    class Network(deepinv.models.Reconstructor):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Dropout(0.5).eval()

        def forward(self, y: Tensor, physics: dp.Physics, **unused: Any) -> Tensor:
            assert not self.training
            return self.inner(y) * physics.mask + torch.rand(y.shape)

    network = Network().train()
    network.inner.eval()
    physics = dp.Inpainting((1, N, N), mask=MASKS)
    problem = it.Problem(physics(pictures()), it.as_operator(physics))
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again = (
        it.solve(problem, solver=it.as_solver(network), progress=False, seed=2).x for _ in range(2)
    )
    assert torch.equal(first, again)
    assert torch.equal(state, torch.random.get_rng_state())
    assert network.training and not network.inner.training
    # The draws are the same for every item, and another seed has others.
    noise_part = first - problem.y * MASKS
    torch.testing.assert_close(noise_part[:1].expand_as(noise_part), noise_part)
    other = it.solve(problem, solver=it.as_solver(network), progress=False, seed=3).x
    assert not torch.equal(first, other)


def test_what_is_no_model_is_refused() -> None:
    problem = it.Problem(torch.ones(1, 1, 4, 4), it.operators.Identity((1, 4, 4)))
    with pytest.raises(InputError, match="it.as_prior makes it a prior"):
        it.as_solver(deepinv.models.MedianFilter())
    with pytest.raises(InputError, match="as_solver takes a reconstruction model"):
        it.as_solver("tv")
    model = it.as_solver(lambda y, physics: y)
    with pytest.raises(InputError, match="has its own prior and takes no other"):
        it.solve(problem, "tv", model, 1.0, progress=False)
    wrong = it.as_solver(lambda y, physics: y[..., :2])
    with pytest.raises(InputError, match="must return images"):
        it.solve(problem, solver=wrong, progress=False)


def test_a_model_is_told_the_noise_of_counts_and_refuses_other_misfits() -> None:
    models: list[str] = []

    def model(y: Tensor, physics: dp.Physics) -> Tensor:
        models.append(type(physics.noise_model).__name__)
        return y

    y, A = torch.ones(1, 1, 4, 4), it.operators.Identity((1, 4, 4))
    solver = it.as_solver(model)
    it.solve(it.Problem(y, A, it.data_terms.Poisson()), solver=solver, progress=False)
    assert models == ["PoissonNoise"]
    for term in (it.data_terms.Poisson(background=1.0), it.data_terms.Huber(0.1)):
        with pytest.raises(InputError, match="counts without a background"):
            it.solve(it.Problem(y, A, term), solver=solver, progress=False)


def test_reconstruct_takes_the_noise_model_and_the_parts_of_a_physics() -> None:
    torch.manual_seed(0)
    x = pictures()[:1] + 0.5
    physics = dp.Denoising(dp.PoissonNoise(0.02))
    y = physics(x)
    settings: dict[str, Any] = {"regularization": 1.0, "max_iterations": 20}
    answer = it.reconstruct(y, physics, "tv", **settings, progress=False).x
    assert torch.equal(answer, it.as_reconstructor("tv", **settings)(y, physics))
    plain = it.data_terms.LeastSquares()
    other = it.reconstruct(y, physics, "tv", data_term=plain, **settings, progress=False).x
    assert float((answer - other).abs().max()) > 1e-3
    parts = dp.Pansharpen((3, N, N), factor=4)
    images = it.reconstruct(parts(pictures(N, 3)), parts, "tv", **settings, progress=False).x
    assert images.shape == (3, 3, N, N)


def test_a_mosaic_of_colours_has_gaps() -> None:
    x = pictures(32, 3)[:1]
    physics = dp.Demosaicing((3, 32, 32))
    operator = it.as_operator(physics)
    assert isinstance(operator, it.operators.Inpainting)
    assert torch.equal(operator(x), physics(x))


def test_an_adjoint_that_is_none_is_replaced() -> None:
    class Shift(dp.LinearPhysics):
        def A(self, x: Tensor, **_: Any) -> Tensor:
            return x.roll(3, -1)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return y.roll(3, -1)

    with pytest.warns(UserWarning, match=r"A_adjoint is not the adjoint .* automatic"):
        operator = it.as_operator(Shift(), (1, 8, 8))
    y = random(2, 1, 8, 8)
    assert torch.equal(operator.adjoint(y), y.roll(-3, -1))  # type: ignore[attr-defined]


def test_a_scan_of_colours_is_a_scan_per_channel() -> None:
    physics, x = dp.Tomography(angles=12, img_width=N, normalize=True), pictures(N, 3)[:1]
    settings: dict[str, Any] = {"regularization": 1e-3, "max_iterations": 5, "progress": False}
    image = it.reconstruct(physics(x), physics, "tikhonov", **settings).x
    second = it.reconstruct(physics(x[:, 1:2]), physics, "tikhonov", **settings).x
    assert image.shape == x.shape
    torch.testing.assert_close(image[:, 1:2], second, rtol=0, atol=1e-2)
