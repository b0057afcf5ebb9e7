"""Compressive autoencoders: densities that are densities, codes of any picture, models of compressai, and posteriors item by item."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.networks.hyperprior import FactorizedDensity, log_box_normal
from invtoolbox.priors import CompressiveAutoencoder, MeanScaleHyperprior
from invtoolbox.solvers import VariationalLatent
from invtoolbox.training import Crops, PixelLikelihood, RateDistortion, Stage, run_recipe, train


def small(channels: int = 1) -> MeanScaleHyperprior:
    return (
        MeanScaleHyperprior(channels, widths=(4, 4, 6), latents=5, hyper=3)
        .eval()
        .requires_grad_(False)
    )


def picture(batch: int = 1, channels: int = 1, size: tuple[int, int] = (37, 50)) -> Tensor:
    x = torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(x, 5, 1, 2)


def test_the_densities_of_rounded_values_add_up_to_one() -> None:
    whole = torch.arange(-60.0, 61.0)
    for std in (0.1, 0.7, 9.0):
        assert float(
            log_box_normal(whole + 0.3, torch.tensor(0.1), torch.tensor(std)).exp().sum()
        ) == pytest.approx(1, abs=1e-5)
    reference = torch.distributions.Normal(0.0, 1.3)
    torch.testing.assert_close(
        log_box_normal(torch.tensor(2.0), torch.tensor(0.0), torch.tensor(1.3)),
        (reference.cdf(torch.tensor(2.5)) - reference.cdf(torch.tensor(1.5))).log(),
        rtol=1e-5,
        atol=1e-6,
    )
    density = FactorizedDensity(2, seed=3)
    density.requires_grad_(False)
    every = torch.arange(-400.0, 401.0).view(-1, 1, 1, 1).expand(-1, 2, 1, 1)
    apart = torch.stack(
        [
            -density(torch.cat([every[:, :1], torch.zeros_like(every[:, :1])], 1)),
            -density(torch.cat([torch.zeros_like(every[:, :1]), every[:, :1]], 1)),
        ]
    )
    at_zero = -density(torch.zeros(1, 2, 1, 1))
    # log p(k, 0) + log p(0, l) = log p(0, 0) + log p(k) p(l): the two sums are p(0) of the other
    # channel
    assert float(apart.exp().sum(1).prod()) == pytest.approx(float(at_zero.exp()), rel=1e-4)


def test_far_out_there_still_is_a_gradient() -> None:
    z = torch.tensor([-3000.0, 800.0, 40.0], requires_grad=True)
    (slope,) = torch.autograd.grad(
        log_box_normal(z, torch.zeros(3), torch.full((3,), 0.1)).sum(), z
    )
    assert slope.isfinite().all() and bool((slope * z < 0).all())
    h = torch.tensor([5000.0, -5000.0]).view(1, 2, 1, 1).requires_grad_(True)
    (slope,) = torch.autograd.grad(FactorizedDensity(2)(h).sum(), h)
    assert slope.isfinite().all() and float(slope[0, 0]) > 0 > float(slope[0, 1])


@pytest.mark.parametrize("size", [(37, 50), (64, 32), (3, 5)])
def test_pictures_of_any_size_come_back_in_their_size(size: tuple[int, int]) -> None:
    prior = prepared(CompressiveAutoencoder(small()), picture(2, 1, size))
    code = prior.encode(picture(2, 1, size))
    assert prior.decode(code).shape == (2, 1, *size) and prior.pixel_std(code).shape == (
        2,
        1,
        *size,
    )
    assert prior.energy(code, None).shape == (2,)


def prepared(prior: CompressiveAutoencoder, x: Tensor) -> CompressiveAutoencoder:
    return prior.prepare(
        it.Problem(x, it.operators.Identity(tuple(x.shape[1:])), it.data_terms.LeastSquares(0.02)),
        it.solve,
    )


def test_color_is_coded_channel_by_channel_and_grey_by_a_color_network() -> None:
    grey = prepared(CompressiveAutoencoder(small()), picture(2, 3))
    code = grey.encode(picture(2, 3))
    alone = prepared(CompressiveAutoencoder(small()), picture(2)[:, :1])
    torch.testing.assert_close(
        grey.decode(code)[:, 1:2], alone.decode(alone.encode(picture(2, 3)[:, 1:2]))
    )
    parts = sum(alone.energy(alone.encode(picture(2, 3)[:, k : k + 1]), None) for k in range(3))
    torch.testing.assert_close(grey.energy(code, None), parts)
    color = prepared(CompressiveAutoencoder(small(3)), picture())
    assert color.decode(color.encode(picture())).shape == (1, 1, 37, 50)
    with pytest.raises(InputError, match="2 channels|got \\(2"):
        prepared(CompressiveAutoencoder(small(3)), picture(1, 2))


def test_rate_scale_and_range_are_a_change_of_units() -> None:
    x, network = picture(2), small()
    plain = prepared(CompressiveAutoencoder(network), x)
    scaled = prepared(CompressiveAutoencoder(network, rate_scale=torch.tensor([0.5, 1.0])), x)
    torch.testing.assert_close(scaled.encode(x)["z"][:1], plain.encode(0.5 * x)["z"][:1])
    torch.testing.assert_close(
        scaled.decode(scaled.encode(x))[:1], 2 * plain.decode(plain.encode(0.5 * x))[:1]
    )
    torch.testing.assert_close(
        scaled.decode(scaled.encode(x))[1:], plain.decode(plain.encode(x))[1:]
    )
    moved = prepared(CompressiveAutoencoder(network, intensity_range=(-1.0, 3.0)), 4 * x - 1)
    torch.testing.assert_close(
        moved.decode(moved.encode(4 * x - 1)), 4 * plain.decode(plain.encode(x)) - 1
    )
    torch.testing.assert_close(
        moved.pixel_std(moved.encode(4 * x - 1)), 4 * plain.pixel_std(plain.encode(x))
    )


def test_items_of_different_problems_are_solved_as_if_alone() -> None:
    """Other noise, another weight and another rate scale an item."""
    x, network = picture(3, 1, (32, 40)), small()
    noise, weight, scale = (
        torch.tensor([0.02, 0.05, 0.1]),
        torch.tensor([0.5, 1.0, 2.0]),
        torch.tensor([1.0, 0.5, 0.25]),
    )
    A = it.operators.Blur(torch.ones(3, 3) / 9, (32, 40))
    y = A.simulate(x, it.operators.noise.Gaussian(noise), seed=0)

    def solved(items: list[int]) -> it.Solution:
        problem = it.Problem(y[items], A, it.data_terms.LeastSquares(noise[items]))
        return it.solve(
            problem,
            CompressiveAutoencoder(network, rate_scale=scale[items]),
            VariationalLatent(number=4, pixels=True),
            regularization=weight[items],
            max_iterations=6,
            progress=False,
        )

    together = solved([0, 1, 2])
    for k in range(3):
        alone = solved([k])
        torch.testing.assert_close(together.x[k : k + 1], alone.x, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            together.posterior.std[k : k + 1], alone.posterior.std, rtol=1e-4, atol=1e-6
        )
    permuted = solved([2, 0, 1])
    torch.testing.assert_close(permuted.x, together.x[[2, 0, 1]], rtol=0, atol=1e-5)


# The level has to exceed the noise by far, so that the measurements say nothing.
@pytest.mark.filterwarnings("ignore:noise_std = 10 is")
def test_the_second_decoder_widens_the_posterior() -> None:
    x = picture(1, 1, (32, 32))
    problem = it.Problem(
        x, it.operators.Identity((1, 32, 32)), it.data_terms.LeastSquares(10.0)
    )  # says nothing: q stays near p
    latent, pixels = (
        it.solve(
            problem,
            CompressiveAutoencoder(small()),
            VariationalLatent(pixels=flag, number=400),
            max_iterations=20,
            progress=False,
        )
        for flag in (False, True)
    )
    assert set(pixels.parameters) - set(latent.parameters) == {"pixel_log_factor"}
    torch.testing.assert_close(
        pixels.parameters["pixel_log_factor"].exp(), torch.ones(1, 1, 32, 32), rtol=0.3, atol=0
    )
    own = CompressiveAutoencoder(small())
    own.image_shape = (1, 32, 32)
    std = own.pixel_std({"z": pixels.parameters["z"]})
    assert float((pixels.posterior.std / std).median()) == pytest.approx(
        1, rel=0.15
    )  # latents alone move this network little
    flat = CompressiveAutoencoder(nn_without_second_decoder(), bitrate=0.0483)
    flat.image_shape = (1, 32, 32)
    assert 255 * float(flat.pixel_std({"z": pixels.parameters["z"]}).mean()) == pytest.approx(
        3.86, abs=0.01
    )


def nn_without_second_decoder() -> nn.Module:
    class Bare(nn.Module):
        channels = 1
        encode, decode, energy = (
            staticmethod(getattr(small(), name)) for name in ("encode", "decode", "energy")
        )

    return Bare()


def test_a_resumed_run_and_a_dirac_start_where_they_should(tmp_path: Path) -> None:
    x = picture(1, 1, (32, 32))
    problem = it.Problem(x, it.operators.Identity((1, 32, 32)), it.data_terms.LeastSquares(0.02))
    prior = CompressiveAutoencoder(small())
    whole = it.solve(problem, prior, VariationalLatent(number=2), max_iterations=6, progress=False)
    it.solve(
        problem,
        prior,
        VariationalLatent(number=2),
        max_iterations=3,
        checkpoint=tmp_path / "run",
        progress=False,
    )
    resumed = it.solve(
        problem,
        prior,
        VariationalLatent(number=2),
        max_iterations=6,
        checkpoint=tmp_path / "run",
        progress=False,
    )
    assert torch.equal(whole.x, resumed.x)
    other = prior.encode(1 - x)
    point = it.solve(
        problem,
        prior,
        VariationalLatent(family="dirac"),
        initial=other,
        max_iterations=0,
        progress=False,
    )
    torch.testing.assert_close(point.parameters["z"], other["z"])


class LowerBound(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_min(1e-9)


class StandInBottleneck(nn.Module):
    """Of compressai's interface: ``_likelihood`` of ``(channel, 1, values)`` gives likelihood and two logits."""

    likelihood_lower_bound = LowerBound()

    def _likelihood(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert inputs.ndim == 3 and inputs.shape[1] == 1
        return torch.sigmoid(inputs + 0.5) - torch.sigmoid(inputs - 0.5), inputs, inputs


class StandInConditional(nn.Module):
    likelihood_lower_bound = LowerBound()

    def _likelihood(self, inputs: Tensor, scales: Tensor, means: Tensor | None = None) -> Tensor:
        away = (inputs if means is None else inputs - means).abs()
        normal = torch.distributions.Normal(0.0, 1.0)
        scales = scales.clamp_min(0.11)
        return normal.cdf((0.5 - away) / scales) - normal.cdf((-0.5 - away) / scales)


class StandIn(nn.Module):
    """The parts of a compressai model: 16 pixels a latent, 64 a hyper-latent."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.entropy_bottleneck = StandInBottleneck()
        self.g_a = nn.Sequential(*(nn.Conv2d(3 if k == 0 else 4, 4, 5, 2, 2) for k in range(4)))
        self.g_s = nn.Sequential(
            *(nn.ConvTranspose2d(4, 3 if k == 3 else 4, 5, 2, 2, 1) for k in range(4))
        )
        if kind == "factorized":
            return
        self.gaussian_conditional = StandInConditional()
        self.h_a = nn.Sequential(nn.Conv2d(4, 2, 5, 2, 2), nn.Conv2d(2, 2, 5, 2, 2))
        self.h_s = nn.Sequential(
            nn.ConvTranspose2d(2, 4, 5, 2, 2, 1),
            nn.ConvTranspose2d(4, 4 if kind == "scale" else 8, 5, 2, 2, 1),
        )
        if kind == "autoregressive":
            self.context_prediction = nn.Conv2d(4, 8, 5, padding=2)
            self.entropy_parameters = nn.Conv2d(16, 8, 1)


@pytest.mark.parametrize("kind", ["factorized", "scale", "mean-scale", "autoregressive"])
def test_models_of_compressai_are_accepted_as_objects(kind: str) -> None:
    torch.manual_seed(0)
    model, x = StandIn(kind), picture(1, 3, (64, 70))
    prior = prepared(CompressiveAutoencoder(model, bitrate=0.05), x)
    code = prior.encode(x)
    assert prior.decode(code).shape == x.shape and set(code) == (
        {"z"} if kind == "factorized" else {"z", "h"}
    )
    padded = F.pad(x, (0, 58, 0, 0), "reflect")
    wanted = model.g_a(padded if kind != "factorized" else padded[..., :80])
    torch.testing.assert_close(code["z"], wanted)
    if kind == "scale":
        torch.testing.assert_close(code["h"], model.h_a(wanted.abs()))
    if kind == "mean-scale":
        scales, means = model.h_s(code["h"]).chunk(2, 1)
        nats = -model.gaussian_conditional._likelihood(code["z"], scales, means).log().sum()
        nats -= model.entropy_bottleneck._likelihood(code["h"].reshape(2, 1, -1))[0].log().sum()
        torch.testing.assert_close(prior.energy(code, None), nats[None])
    solution = it.solve(
        it.Problem(x, it.operators.Identity((3, 64, 70)), it.data_terms.LeastSquares(0.02)),
        CompressiveAutoencoder(model),
        VariationalLatent(number=2),
        max_iterations=2,
        progress=False,
    )
    assert solution.x.shape == x.shape and solution.posterior.std.isfinite().all()


def test_what_is_no_autoencoder_is_refused() -> None:
    with pytest.raises(InputError, match="no encode"):
        CompressiveAutoencoder(nn.Linear(2, 2))
    with pytest.raises(InputError, match="positive"):
        CompressiveAutoencoder(small(), rate_scale=0.0)
    model = StandIn("scale")
    del model.h_s
    with pytest.raises(InputError, match="not all of"):
        CompressiveAutoencoder(model)


def test_rate_distortion_is_learned_and_then_the_second_decoder_alone(tmp_path: Path) -> None:
    network = MeanScaleHyperprior(widths=(4, 4, 6), latents=5, hyper=3)
    pairs = Crops([picture(1, 1, (60, 60))], 32, (0.5, 1.0))
    learned = train(network, pairs, [Stage(RateDistortion(0.01), 60, 2e-3, 2)], progress=False)
    assert float(learned.losses[-5:].mean()) < 0.5 * float(learned.losses[:5].mean())
    second = train(
        learned.network.requires_grad_(True),
        pairs,
        [Stage(PixelLikelihood(), 30, 1e-2, 2)],
        progress=False,
    )
    assert float(second.losses[-5:].mean()) < float(second.losses[:5].mean())
    before, after = learned.network.state_dict(), second.network.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"deviation"}


def test_the_loss_is_alpha_times_the_error_and_the_bits() -> None:
    network, x = small(), picture(2, 1, (32, 32))
    coded = network(x, torch.Generator().manual_seed(5))
    loss = RateDistortion(0.02).of_network(network, x, x, torch.Generator().manual_seed(5))
    wanted = (
        0.02 * 255**2 * (coded.x - x).square().mean((1, 2, 3)) + coded.nats / math.log(2) / 1024
    )
    torch.testing.assert_close(loss, wanted)


def test_a_recipe_makes_a_prior_of_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("""# A tiny autoencoder.
name = "cae-tiny"
[network]
name = "mean-scale-hyperprior"
widths = [4, 4, 6]
latents = 5
hyper = 3
[prior]
name = "compressive-autoencoder"
bitrate = 0.02
[data]
photographs = ["camera"]
shrink = [4, 8]
contrast = [0.5, 1.0]
crop = 32
[[stage]]
loss = "rate-distortion"
bitrate = 0.02
steps = 2
count = 2
[[stage]]
loss = "pixel-likelihood"
steps = 1
count = 2
""")
    outcome = run_recipe(recipe, output=tmp_path / "priors" / "cae-tiny", progress=False)
    assert (
        outcome.psnr is not None
        and "rate-distortion, bitrate 0.02" in (outcome.folder / "README.md").read_text()
    )
    monkeypatch.setenv("INVTOOLBOX_CATALOGUE", str(tmp_path))
    prior = it.priors.load("cae-tiny", {"rate_scale": 0.5})
    assert (
        isinstance(prior, CompressiveAutoencoder)
        and prior.bitrate == 0.02
        and prior.rate_scale == 0.5
    )
    with pytest.raises(InputError, match="bitrate belongs"):
        run_recipe(recipe, ["stage.1.bitrate=0.1"], output=tmp_path / "other", progress=False)
    with pytest.raises(InputError, match="noise_std, for pairs"):
        run_recipe(recipe, ["data.noise_std=0.1"], output=tmp_path / "other", progress=False)


def test_the_trained_autoencoder_restores_what_it_never_saw_and_knows_how_well() -> None:
    from invtoolbox.datasets import photograph

    x = photograph("camera")[..., 60:124, 180:244]
    A = it.operators.Blur(torch.ones(3, 3) / 9, (64, 64))
    problem = it.Problem(A.simulate(x, 0.03, seed=0), A, it.data_terms.LeastSquares(0.03))
    prior = it.priors.load("cae-natural", {"rate_scale": 0.5})
    solution = it.solve(
        problem,
        prior,
        VariationalLatent(pixels=True, number=30),
        regularization=0.7,
        max_iterations=60,
        progress=False,
    )
    mean, std = solution.posterior.mean, solution.posterior.std
    gained = it.metrics.psnr(mean, x) - it.metrics.psnr(problem.y, x)
    assert (
        float(gained) > 1.0
        and float(it.metrics.psnr(mean, x))
        > float(it.metrics.psnr(solution.posterior.sample(1)[0], x)) + 0.3
    )
    assert (
        float(torch.corrcoef(torch.stack([std.flatten(), (mean - x).abs().flatten()]))[0, 1]) > 0.1
    )
    assert 0.6 < float(solution.posterior.coverage(x)) <= 1
