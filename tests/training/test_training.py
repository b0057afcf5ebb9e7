"""Training: `solve` is its loop, resumed it gives the same weights, and convex networks stay convex."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.core import environment as freed_memory
from invtoolbox.errors import InputError
from invtoolbox.priors import ConvexConvolution, ConvexDense, DnCNN
from invtoolbox.training import (
    L1,
    L2,
    NoisyPairs,
    Pairs,
    ProximalMatching,
    RecorruptedPairs,
    Stage,
    proximal_matching_stages,
    run_recipe,
    train,
)
from invtoolbox.training.pairs import Crops, LevelPairs
from invtoolbox.training.recipe import StageTable
from invtoolbox.training.stages import NetworkWeights, training_problem
from tests.emulated_cuda import emulate_cuda
from tests.training.interruption import check_same_weights, trained_in_two_goes


class Shrunk(Pairs):
    """Numbers, and what half of them is."""

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, 1, generator=generator)
        return x, 0.5 * x

    def __repr__(self) -> str:
        return "Shrunk()"


def pictures(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(1, 1, 12, 16, generator=generator),
        torch.rand(1, 1, 9, 8, generator=generator),
    ]


def test_only_the_command_line_tells_the_c_library_to_keep_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: told.append("by the library"))
    monkeypatch.setattr(it.training, "keep_freed_memory", lambda: told.append("by the command"))
    train(ConvexDense(1, width=4, depth=1), Shrunk(), [Stage(L1(), 2)], progress=False)
    assert not told
    assert main(["train", str(tmp_path / "none.toml")]) != 0 and told == ["by the command"]


def test_pictures_of_whole_numbers_become_real() -> None:
    picture = torch.randint(0, 256, (1, 1, 9, 9), dtype=torch.uint8)
    shown, wanted = NoisyPairs([picture], 1.0, crop=8).draw(2, Generator().manual_seed(0))
    assert shown.dtype == wanted.dtype == torch.float32 and torch.equal(wanted, wanted.round())


def test_complex_results_count_with_both_parts() -> None:
    result, wanted = torch.full((1, 1, 2), 1 + 2j), torch.ones(1, 1, 2)
    assert float(L2()(result, wanted)) == 2.0
    torch.testing.assert_close(
        ProximalMatching(1.0)(result, wanted), 1 - torch.exp(-L2()(result, wanted))
    )
    # The imaginary part of the result is an error, although the wanted image is real.
    network = lambda x: torch.complex(x, 2 * torch.ones_like(x))  # noqa: E731
    assert float(L2().of_network(network, wanted, wanted, Generator())) == 2.0


def test_losses_are_of_whole_items() -> None:
    wanted = torch.zeros(2, 1, 2, 2)
    result = torch.stack([torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), -3.0)])
    torch.testing.assert_close(L1()(result, wanted), torch.tensor([0.1, 3.0]))
    torch.testing.assert_close(L2()(result, wanted), torch.tensor([0.01, 9.0]))
    expected = [1 - math.exp(-0.04 / (0.5**2 * 4)), 1 - math.exp(-36 / (0.5**2 * 4))]
    torch.testing.assert_close(ProximalMatching(0.5)(result, wanted), torch.tensor(expected))


def test_pairs_are_a_function_of_the_generator() -> None:
    pairs = NoisyPairs(pictures(), noise_std=0.1, crop=8)
    (shown, wanted), again = (pairs.draw(200, Generator().manual_seed(3)) for _ in range(2))
    assert (
        torch.equal(shown, again[0])
        and torch.equal(wanted, again[1])
        and shown.shape == (200, 1, 8, 8)
    )
    assert float((shown - wanted).std()) == pytest.approx(0.1, rel=0.02)
    assert not torch.equal(shown, pairs.draw(200, Generator().manual_seed(4))[0])
    # Every crop is a turned or mirrored part of a picture: the sums of its rows and columns say so.
    ways = {
        float(part.sum())
        for image in pictures()
        for part in image.unfold(2, 8, 1).unfold(3, 8, 1).flatten(0, 3)
    }
    assert all(min(abs(float(crop.sum()) - s) for s in ways) < 1e-4 for crop in wanted[:20])
    noisy = RecorruptedPairs([torch.zeros(1, 1, 64, 64)], noise_std=0.2, crop=32, strength=0.5)
    a, b = noisy.draw(50, Generator().manual_seed(0))
    assert float(a.std()) == pytest.approx(0.1, rel=0.02) and float(b.std()) == pytest.approx(
        0.4, rel=0.02
    )


def test_pairs_of_many_levels_carry_their_noise_map() -> None:
    color = torch.rand(1, 3, 40, 30, generator=Generator().manual_seed(1))
    pairs = LevelPairs([color, pictures()[0]], noise_std=(0.01, 0.1), crop=12)
    shown, wanted = pairs.draw(300, Generator().manual_seed(0))
    assert torch.equal(shown, pairs.draw(300, Generator().manual_seed(0))[0])
    level = shown[:, 1, 0, 0]  # times sqrt(high / level)
    torch.testing.assert_close((shown[:, :1] - wanted).flatten(1).std(1), level, rtol=0.3, atol=0)
    levels = level.square() / 0.1
    assert 0.0099 < float(levels.min()) < 0.012 and 0.08 < float(levels.max()) < 0.101
    assert float(levels.median()) == pytest.approx(0.0316, rel=0.15)  # log-uniform
    # A fifth of the color crops are differences of channels.
    assert 0.05 < float((wanted.flatten(1).amin(1) < 0).float().mean()) < 0.25
    with pytest.raises(InputError, match="range"):
        LevelPairs([color], noise_std=(0.1, 0.01), crop=8)
    with pytest.raises(InputError, match="1 or 3 channels"):
        LevelPairs([torch.rand(1, 2, 20, 20)], noise_std=(0.1, 0.2), crop=8)


def test_the_learning_rate_falls_to_zero_in_a_line() -> None:
    weights = NetworkWeights(
        nn.Conv2d(1, 1, 1), NoisyPairs(pictures(), 0.1, 8), L1(), 4, decay_over=10
    )
    factors = [set(weights.at(k).learning_rates(weights.initial()).values()) for k in (0, 5, 10)]
    assert factors == [{1.0}, {0.5}, {0.0}]
    network = nn.Conv2d(1, 1, 1, bias=False)
    steady, falling = (
        train(
            network,
            NoisyPairs(pictures(), 0.1, 8),
            [Stage(L1(), 20, 0.01, 4, iterate="last", decay=decay)],
            progress=False,
        ).losses
        for decay in ("none", "linear")
    )
    assert torch.equal(steady[:1], falling[:1]) and not torch.equal(steady, falling)
    skipped = Stage(L1(), 0, decay="linear")
    assert train(
        network, NoisyPairs(pictures(), 0.1, 8), [skipped], progress=False
    ).losses.shape == (0,)


def test_the_schedule_of_the_paper() -> None:
    stages = proximal_matching_stages(gamma=0.08, steps=40_000)
    assert [s.steps for s in stages] == [20_000, 5000, 5000, 5000, 5000]
    assert [getattr(s.loss, "gamma", None) for s in stages] == [None, 0.64, 0.32, 0.16, 0.08]
    assert [s.learning_rate for s in stages] == [1e-3, 1e-4, 1e-4, 1e-4, 1e-4]


def test_a_convex_network_learns_and_stays_convex() -> None:
    first = ConvexDense(1, width=16, depth=2)
    before = {k: v.clone() for k, v in first.state_dict().items()}
    stages = [Stage(L1(), 300, 1e-2), Stage(L2(), 200, 1e-3, iterate="last")]
    trained = train(
        first, Shrunk(), stages, validation=Shrunk(), validate_every=100, progress=False
    )
    assert isinstance(trained.network, ConvexDense)
    trained.network.check_convex()
    assert trained.losses.shape == (500,) and trained.validation[:, 0].tolist() == [
        100,
        200,
        300,
        400,
        500,
    ]
    x = torch.linspace(-1, 1, 9)[:, None]
    assert float((trained.network(x) - 0.5 * x).abs().max()) < 0.05
    assert all(torch.equal(v, before[k]) for k, v in first.state_dict().items())
    assert any(
        float(p.min()) == 0
        for n, p in trained.network.named_parameters()
        if n in trained.network.nonnegative
    )
    assert it.priors.LearnedProximal(trained.network).prox(x).shape == x.shape


def test_a_gpu_cuts_the_crops_that_the_host_cuts() -> None:
    g = torch.Generator().manual_seed(0)
    pairs = Crops([torch.rand(1, 3, *size, generator=g) for size in ((20, 30), (9, 40), (8, 8))], 8)
    which, turns = torch.randint(3, (60,), generator=g), torch.randint(8, (60,), generator=g)
    shares = torch.rand(60, 2, generator=g, dtype=torch.float64)
    shares[0] = 1 - 2**-53
    on_host = pairs._cut_on_host(which, turns, shares)
    with emulate_cuda():
        on_device = pairs.to("cuda")
        assert torch.equal(
            torch.cat([x.flatten().cpu() for x in on_device.images]), on_device.pixels.cpu()
        )
        crops = on_device._cut_on_device(*(t.to("cuda") for t in (which, turns, shares))).cpu()
        back = on_device.to("cpu")
    assert torch.equal(crops, on_host)
    assert back.pixels is None and repr(back) == repr(pairs)


def test_resumed_training_gives_the_same_weights(tmp_path: Path) -> None:
    stages = [Stage(L1(), 30, 1e-3, 8), Stage(ProximalMatching(0.3), 30, 1e-3, 8)]
    network, pairs = (
        ConvexConvolution(1, (4, 4), (1, 2), beta=10.0),
        NoisyPairs(pictures(), noise_std=0.1, crop=8),
    )
    whole = train(network, pairs, stages, seed=5, progress=False)

    resumed = trained_in_two_goes(network, pairs, stages, 5, tmp_path, at=47)
    assert (tmp_path / "stage-1.safetensors").is_file()
    check_same_weights(whole.network, resumed.network)
    assert torch.equal(whole.losses, resumed.losses)
    with pytest.raises(InputError, match="another problem"):
        train(
            network,
            NoisyPairs(pictures(), noise_std=0.2, crop=8),
            stages,
            seed=5,
            folder=tmp_path,
            progress=False,
        )


def test_the_average_is_of_the_last_steps() -> None:
    """Of a straight run x_t = t the average, weighted by the eighth power, lies a tenth before its end; noise is averaged out."""
    problem = it.Problem(torch.full((1, 1, 1), 1e6), it.operators.Identity((1, 1)))
    last, average = (
        it.solve(
            problem,
            solver=it.solvers.Adam(learning_rate=1.0, iterate=which),
            max_iterations=400,
            tolerance=0.0,
            initial=torch.zeros(1, 1, 1),
            progress=False,
        ).x
        for which in ("last", "average")
    )
    assert float(average / last) == pytest.approx(0.9, abs=0.01)

    class Loud(Shrunk):
        def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
            x, half = super().draw(count, generator)
            return x, half + torch.randn(count, 1, generator=generator)

    x = torch.linspace(-1, 1, 9)[:, None]
    errors = [
        float(
            (
                train(
                    ConvexDense(1, 16, 2),
                    Loud(),
                    [Stage(L2(), 400, 3e-3, 16, which)],
                    progress=False,
                ).network(x)
                - 0.5 * x
            )
            .square()
            .mean()
        )
        for which in ("average", "last")
    ]
    assert errors[0] < errors[1]


def test_any_network_is_trained_by_the_same_call() -> None:
    trained = train(
        DnCNN(depth=3, width=4),
        NoisyPairs(pictures(), noise_std=0.3, crop=8),
        [Stage(L2(), 60, 1e-2, 16)],
        progress=False,
    )
    assert float(trained.losses[-10:].mean()) < 0.8 * float(trained.losses[0])
    assert not any(p.requires_grad for p in trained.network.parameters())


def test_frozen_weights_stay_unless_all_are_frozen() -> None:
    network = nn.Sequential(nn.Linear(1, 2).requires_grad_(False), nn.Linear(2, 1))
    trained = train(network, Shrunk(), [Stage(L2(), 2)], progress=False).network
    assert torch.equal(trained[0].weight, network[0].weight)
    assert not torch.equal(trained[1].weight, network[1].weight)
    again = train(trained, Shrunk(), [Stage(L2(), 2)], progress=False).network
    assert not torch.equal(again[0].weight, trained[0].weight)

    problem = it.Problem(torch.zeros(1, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    prior, solver = (
        it.priors.Denoiser(DnCNN(depth=3, width=4)),
        it.solvers.ProximalGradient(step_size=0.5),
    )
    layers = it.unroll(solver, problem, 2, prior, learn=("step_size",))
    pairs = NoisyPairs(pictures(), 0.1, crop=8)
    trained = train(layers, pairs, [Stage(L2(), 2, count=2)], progress=False).network
    changed = {
        name.split(".")[1]
        for (name, new), old in zip(trained.named_parameters(), layers.parameters())
        if not torch.equal(new, old)
    }
    assert changed == {"logarithms"}


def test_dropout_draws_from_the_seed() -> None:
    network = nn.Sequential(nn.Linear(1, 8), nn.Dropout(), nn.Linear(8, 1))
    state = torch.random.get_rng_state()
    a, b = (train(network, Shrunk(), [Stage(L2(), 2)], progress=False).losses for _ in range(2))
    assert torch.equal(a, b) and torch.equal(state, torch.random.get_rng_state())


def test_what_cannot_be_trained_is_refused() -> None:
    missing, network = torch.full((1, 1, 8, 8), torch.nan), nn.Linear(1, 1)
    for make in (
        lambda: it.training.Examples(missing, missing),
        lambda: it.training.Measurements(missing),
        lambda: NoisyPairs([missing], 0.1, 8),
    ):
        with pytest.raises(InputError, match="NaN or infinite"):
            make()
    with pytest.raises(InputError, match="range"):
        LevelPairs(pictures(), (0.1, math.inf), 8)
    nn.init.constant_(network.weight, torch.nan)
    with pytest.raises(InputError, match="look for NaN"):
        train(network, Shrunk(), [Stage(L2(), 2, count=2)], progress=False)
    with pytest.raises(InputError, match="no weights"):
        train(nn.Identity(), Shrunk(), [Stage(L2(), 2)], progress=False)
    with pytest.raises(InputError, match="validate_every"):
        train(nn.Linear(1, 1), Shrunk(), [Stage(L2(), 2)], validate_every=0, progress=False)
    for wrong in ({"learning_rate": -1.0}, {"decay": "cosine"}, {"iterate": "mean"}, {"count": 0}):
        with pytest.raises(InputError, match="of Stage must be"):
            Stage(L2(), 2, **wrong)
    with pytest.raises(InputError, match="vanished"):
        train(ConvexDense(1, 4, 1), Shrunk(), [Stage(ProximalMatching(1e-6), 10)], progress=False)
    with pytest.raises(InputError, match="batch normalization"):
        train(
            nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)),
            Shrunk(),
            [Stage(L1(), 10)],
            progress=False,
        )
    weights = NetworkWeights(ConvexDense(1, 4, 2), Shrunk(), L1(), 8)
    with pytest.raises(InputError, match=r"LBFGS does not keep to the constraints.*Adam"):
        it.solve(training_problem(8, torch.zeros(())), weights, "lbfgs", progress=False)
    for bad in (
        lambda: ProximalMatching(0.0),
        lambda: NoisyPairs([torch.zeros(1, 1, 4, 4)], 0.1, 8),
        lambda: NoisyPairs([], 0.1, 8),
        lambda: NoisyPairs(pictures(), 0.0, 8),
        lambda: RecorruptedPairs(pictures(), 0.1, 8, 0.0),
    ):
        with pytest.raises(InputError):
            bad()


RECIPE = """# A tiny learned proximal operator.
name = "tiny"
[network]
name = "convex-convolution"
widths = [4, 4]
strides = [1, 2]
beta = 10.0
[prior]
name = "learned-proximal"
sigma = 0.1
[data]
photographs = ["camera"]
noise_std = 0.1
crop = 8
[[stage]]
loss = "l1"
steps = 5
count = 4
[[stage]]
loss = "proximal-matching"
gamma = 0.5
steps = 3
count = 4
"""


def test_a_recipe_makes_a_prior_of_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INVTOOLBOX_CATALOGUE", raising=False)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    assert main(["train", "tiny.toml", "--set", "stage.0.steps=6"]) == 0
    assert "9 steps" in capsys.readouterr().out
    folder = tmp_path / "priors" / "tiny"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "card.toml",
        "curve.csv",
        "recipe.toml",
        "weights.safetensors",
    ]
    prior = it.priors.load("tiny")
    assert isinstance(prior, it.priors.LearnedProximal) and prior.sigma == 0.1
    problem = it.Problem(
        torch.rand(1, 1, 9, 10, generator=Generator().manual_seed(0)),
        it.operators.Identity((1, 9, 10)),
    )
    assert bool(it.solve(problem, "tiny", max_iterations=3, progress=False).x.isfinite().all())
    again = ["train", "tiny.toml", "--set", "stage.0.steps=6"]
    assert main(again) == 0 and "nothing was done" in capsys.readouterr().out
    assert main(["train", "tiny.toml"]) == 2
    assert "holds a prior of another recipe" in capsys.readouterr().err
    # What was written trains it again.
    weights = (folder / "weights.safetensors").read_bytes()
    assert main(["train", str(folder / "recipe.toml"), "--output", "again", "--quiet"]) == 0
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == weights


def test_mixed_precision_is_stated_by_the_recipe_or_asked_for(tmp_path: Path) -> None:
    weights = []
    for stated, asked in (("false", False), ("true", False), ("false", True)):
        (tmp_path / "tiny.toml").write_text(f"mixed_precision = {stated}\n{RECIPE}")
        folder = tmp_path / f"{stated}-{asked}"
        run_recipe(tmp_path / "tiny.toml", [], folder, mixed_precision=asked, progress=False)
        weights.append((folder / "weights.safetensors").read_bytes())
    assert weights[0] != weights[1] == weights[2]


def test_a_network_without_a_seed_of_its_own_starts_from_that_of_the_recipe(tmp_path: Path) -> None:
    """Otherwise an interrupted training of it could not be continued."""
    recipe = RECIPE.replace(
        'name = "convex-convolution"\nwidths = [4, 4]\nstrides = [1, 2]\nbeta = 10.0\n',
        'name = "dncnn"\ndepth = 3\nwidth = 4\n',
    ).replace('"learned-proximal"', '"denoiser"')
    (tmp_path / "tiny.toml").write_text(recipe)
    state = torch.random.get_rng_state()
    weights = []
    for name in ("one", "two"):
        run_recipe(tmp_path / "tiny.toml", [], tmp_path / name, progress=False)
        weights.append((tmp_path / name / "weights.safetensors").read_bytes())
        assert torch.equal(torch.random.get_rng_state(), state)
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("stage.1.loss=l2", "gamma"),
        ("stage.0.loss=l3", "stage"),
        ("data.photographs=[]", "photographs"),
        ("network.name=convex-convolutions", "did you mean 'convex-convolution'"),
        ("network.width=3", "no setting 'width'"),
        ("prior.sigm=3", "no setting 'sigm'"),
        ("prior.name=tv", "no setting"),
        ("data.crop=4000", "at least 4000"),
    ],
)
def test_a_faulty_recipe_is_named(tmp_path: Path, change: str, fault: str) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    with pytest.raises(InputError, match=fault):
        run_recipe(tmp_path / "tiny.toml", [change], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("bitrate", "rate-distortion"),
        ("gamma", "proximal-matching"),
        ("sigma_data", "score-matching"),
        ("learning_rate", "l1"),
        ("clip", "l1"),
    ],
)
def test_settings_of_a_stage_are_positive(name: str, loss: str) -> None:
    assert getattr(StageTable(loss=loss, steps=1, **{name: 1e-3}), name) == 1e-3
    with pytest.raises(ValueError, match="greater than 0"):
        StageTable(loss=loss, steps=1, **{name: 0.0})


def test_a_recipe_takes_pictures_alone(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    (tmp_path / "points").mkdir()
    np.save(tmp_path / "points" / "sweep.npy", points)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    with pytest.raises(InputError, match="holds a Sweep, and a training takes pictures"):
        run_recipe(tmp_path / "tiny.toml", ["data.paths=['points']"], tmp_path / "out")
