"""Score distillation against closed forms, and with a pipeline that has the members of one of diffusers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import (
    ConditionalMixture,
    DenoiserScore,
    DiffusersScore,
    Gaussian,
    GaussianMixture,
    GaussianScore,
    ScoreDistillation,
    linear_schedule,
)

SHAPE = (2, 3, 3)


def pictures(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(
        batch, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_schedule_is_that_of_ddpm() -> None:
    alphas = linear_schedule()
    assert float(alphas[0]) == pytest.approx(1 - 1e-4) and float(alphas[-1]) == pytest.approx(
        4.04e-5, rel=1e-2
    )


def test_an_exact_gaussian_through_tweedie_is_the_closed_form() -> None:
    mean, z, t = pictures(1)[0], pictures(4, 1), torch.tensor([0, 100, 500, 999])
    exact = GaussianScore(mean, 0.3).noise(z, t)
    assert torch.allclose(DenoiserScore(Gaussian(mean, 0.09)).noise(z, t), exact, rtol=1e-8)
    a = linear_schedule()[t].view(-1, 1, 1, 1)
    assert torch.allclose(exact, (1 - a).sqrt() * (z - a.sqrt() * mean) / (a * 0.09 + 1 - a))


def test_a_mixture_s_score_is_the_gradient_of_its_density() -> None:
    mixture = GaussianMixture(pictures(3), 0.04, torch.tensor([0.2, 0.5, 0.3]))
    z, t = pictures(2, 5), torch.tensor([80, 400])
    found = DenoiserScore(mixture).noise(z, t)
    a = linear_schedule()[t].view(-1, 1, 1, 1)
    noisy = [
        GaussianMixture(
            a[k].sqrt() * mixture.means,
            float(0.04 * a[k] + 1 - a[k]),
            torch.tensor([0.2, 0.5, 0.3]),
        )
        for k in range(2)
    ]
    wanted = torch.stack([noisy[k].gradient(z[k : k + 1])[0] * (1 - a[k]).sqrt() for k in range(2)])
    assert torch.allclose(found, wanted, rtol=1e-7)


def test_the_pull_of_a_sharp_score_is_towards_its_picture() -> None:
    """``w(t) sqrt(a / (1 - a)) (x - m)``, whatever noise was drawn."""
    mean, x = pictures(1)[0], pictures(3, 1)
    prior = ScoreDistillation(GaussianScore(mean, 0.0), steps=(0.5, 0.5))
    a = linear_schedule()[500 if round(0.5 * 999) == 500 else round(0.5 * 999)]
    wanted = (1 - a) * (a / (1 - a)).sqrt() * (x - mean)
    for seed in range(3):
        assert torch.allclose(prior.gradient(x, generator(seed)), wanted)
    flat = ScoreDistillation(
        GaussianScore(mean, 0.0), steps=(0.5, 0.5), weight=lambda alpha: torch.ones_like(alpha)
    )
    assert torch.allclose(flat.gradient(x, generator()), wanted / (1 - a))


def test_the_mean_pull_of_a_wide_score_is_that_of_its_density() -> None:
    mean, x, std = pictures(1)[0], pictures(1, 1), 0.5
    prior = ScoreDistillation(GaussianScore(mean, std), steps=(0.3, 0.3))
    many = x[:, :, None].expand(1, 2, 4000, 3, 3)  # one draw a picture
    draws = prior.gradient(many, generator()).sum(2)
    a = linear_schedule()[round(0.3 * 999)]
    wanted = (1 - a) * (1 - a).sqrt() * a.sqrt() / (a * std**2 + 1 - a) * (x - mean)
    assert torch.allclose(draws, wanted, atol=0.02)


def test_a_difference_of_scores_is_that_of_their_means_and_knows_no_noise() -> None:
    moving, still, x = pictures(1, 2)[0], pictures(1, 3)[0], pictures(2, 4)
    prior = ScoreDistillation(
        GaussianScore(moving, 0.2), reference=GaussianScore(still, 0.2), steps=(0.4, 0.4)
    )
    slopes = [prior.gradient(x + shift, generator(seed)) for shift, seed in ((0.0, 0), (3.0, 1))]
    a = linear_schedule()[round(0.4 * 999)]
    wanted = (1 - a) * (1 - a).sqrt() * a.sqrt() / (a * 0.04 + 1 - a) * (still - moving)
    assert all(torch.allclose(s, wanted.expand_as(s)) for s in slopes)
    same = ScoreDistillation(GaussianScore(still, 0.2), reference=GaussianScore(still, 0.2))
    assert torch.equal(same.gradient(x, generator()), torch.zeros_like(x))
    with pytest.raises(InputError, match="schedules"):
        ScoreDistillation(
            GaussianScore(still, 0.2), reference=GaussianScore(still, 0.2, torch.tensor([0.5]))
        )


def test_items_pictures_and_conditions() -> None:
    means = pictures(3)
    x = torch.rand(
        2, 2, 3, 3, 3, generator=generator(), dtype=torch.float64
    )  # (batch, channel, picture, row, column)
    prior = ScoreDistillation(GaussianScore(means, 0.1))
    whole = prior.gradient(x, generator(7))
    assert torch.equal(prior.gradient(x[1:], generator(7)), whole[1:]) and torch.equal(
        prior.gradient(x, generator(7)), whole
    )
    still = ScoreDistillation(GaussianScore(means, 0.0), steps=(0.5, 0.5))
    part = still.subset(torch.tensor([2, 0])).gradient(x[:, :, [2, 0]], generator(9))
    assert torch.allclose(
        part, 1.5 * still.gradient(x, generator(9))[:, :, [2, 0]]
    )  # a mean over two pictures, not three
    mixture = ConditionalMixture(
        GaussianMixture(means, 0.01), torch.eye(3, dtype=torch.float64), temperature=0.1
    )
    told = DenoiserScore(mixture, condition=torch.eye(3, dtype=torch.float64))
    one = told.noise(x[0].transpose(0, 1), torch.tensor([300] * 3))
    assert torch.allclose(
        one,
        GaussianScore(means, 0.1).noise(x[0].transpose(0, 1), torch.tensor([300] * 3)),
        rtol=1e-6,
    )
    assert torch.allclose(told.subset([1]).noise(x[0, :, 1][None], torch.tensor([300])), one[1:2])
    with pytest.raises(InputError, match="made for 3 pictures"):
        GaussianScore(means, 0.1).noise(pictures(2), torch.tensor([1, 1]))
    with pytest.raises(InputError, match="takes pictures"):
        prior.gradient(torch.zeros(1, 3, 9))


def test_the_largest_step_shrinks() -> None:
    prior = ScoreDistillation(GaussianScore(pictures(1)[0], 0.1), shrink=(4000, 600, 0.75, 0.22))
    assert prior.at(3999).steps == (0.02, 0.98) and prior.at(4000).steps[1] == pytest.approx(0.735)
    assert (
        prior.at(4600).steps[1] == pytest.approx(0.98 * 0.75**2) and prior.at(9000).steps[1] == 0.22
    )


def test_a_denoiser_pulls_to_what_it_knows_in_the_one_loop() -> None:
    """Nothing is measured; a mixture of two pictures pulls each item to the nearer one."""
    means = torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)])
    problem = it.Problem(
        torch.zeros(2, *SHAPE),
        it.operators.Identity(SHAPE),
        it.data_terms.LeastSquares(weights=torch.zeros(1)),
    )
    prior = ScoreDistillation(DenoiserScore(GaussianMixture(means, 0.01)), steps=(0.02, 0.3))
    start = torch.stack([torch.full(SHAPE, 0.3), torch.full(SHAPE, 0.75)])
    found = it.solve(
        problem,
        1.0 * prior,
        it.solvers.Adam(learning_rate=0.02),
        initial=start,
        max_iterations=150,
        tolerance=0,
        progress=False,
    )
    assert (found.x - means).abs().max() < 0.1 and "no energy" in " ".join(found.notes)


class _Pipeline:
    """The members of a text-to-image pipeline that are used, around a Gaussian over latents whose mean the prompt gives."""

    device = torch.device("cpu")

    def __init__(self, kind: str) -> None:
        alphas = linear_schedule(100)
        self.scheduler = SimpleNamespace(
            alphas_cumprod=alphas, config=SimpleNamespace(prediction_type=kind)
        )
        encoder = nn.AvgPool2d(2)
        self.vae = SimpleNamespace(
            config=SimpleNamespace(scaling_factor=0.5),
            encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: encoder(x))),
        )

        def unet(z: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Any:
            a = alphas[t].view(-1, 1, 1, 1).to(z)
            e = (z - a.sqrt() * encoder_hidden_states.view(-1, 1, 1, 1)) / (1 - a).sqrt()
            return SimpleNamespace(
                sample=e if kind == "epsilon" else (e - (1 - a).sqrt() * z) / a.sqrt()
            )

        self.unet = unet

    def encode_prompt(
        self, prompt: list[str], device: Any, number: int, free: bool, negative_prompt: list[str]
    ) -> tuple[Tensor, Tensor]:
        assert free and number == 1
        return tuple(
            torch.tensor([float(p or 0) for p in texts])[:, None]
            for texts in (prompt, negative_prompt)
        )  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("negative", "means"), [("", (0.6, 0.2)), ("0.2", (0.4, 0.0))])
def test_a_pipeline_of_diffusers_is_guided_and_differentiated_through_its_encoder(
    kind: str, negative: str, means: tuple[float, float]
) -> None:
    score = DiffusersScore(_Pipeline(kind), ["0.3", "0.1"], guidance=2.0, negative_prompt=negative)
    x = torch.rand(1, 3, 2, 4, 4, dtype=torch.float64)
    prior = ScoreDistillation(score, steps=(0.5, 0.5))
    slope = prior.gradient(x, generator())
    a = float(linear_schedule(100)[round(0.5 * 99)])
    for k, mean in enumerate(means):  # guided twice as far from the negative prompt
        latent = 0.5 * nn.functional.avg_pool2d(2 * x[:, :, k] - 1, 2)
        pull = (1 - a) * (a / (1 - a)) ** 0.5 * (latent - mean) / 2  # the mean over two pictures
        assert torch.allclose(
            slope[:, :, k], pull.repeat_interleave(2, 2).repeat_interleave(2, 3) * 0.25, rtol=1e-5
        )
    assert torch.allclose(score.subset([1]).given, torch.tensor([[0.1]]))
    sized = DiffusersScore(_Pipeline(kind), "0.3", size=(8, 8))
    assert sized.encode(x[:, :, 0]).shape == (1, 3, 4, 4)


def test_red_diff_of_a_gaussian_ends_at_the_closed_form() -> None:
    y, mean, variance, noise, alpha, weight = pictures(1), 0.3, 0.04, 0.2, 0.6, 5.0
    alphas = torch.tensor([alpha], dtype=torch.float64)
    prior = Gaussian(torch.full(SHAPE, mean, dtype=torch.float64), variance)
    pull = ScoreDistillation(
        DenoiserScore(prior, alphas), weight=lambda a: ((1 - a) / a).sqrt(), steps=(0.0, 0.0)
    )
    problem = it.Problem(y, it.operators.Identity(SHAPE), it.data_terms.LeastSquares(noise))
    x = it.solve(
        problem,
        weight * pull,
        it.solvers.Adam(learning_rate=0.02, iterate="average"),
        max_iterations=2000,
        tolerance=0.0,
        progress=False,
        check=False,
    ).x
    # The mean pull is c (x - mean), by Tweedie's identity of the Gaussian.
    c = weight * (1 - alpha) / (alpha * variance + 1 - alpha)
    exact = (y / noise**2 + c * mean) / (1 / noise**2 + c)
    assert float((x - exact).abs().max()) < 0.1 * float((y - exact).abs().max())


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="no unet"):
        DiffusersScore(object(), "a dog")
    with pytest.raises(InputError, match="'sample'"):
        DiffusersScore(_Pipeline("sample"), "1")
    with pytest.raises(InputError, match="denoises"):
        DenoiserScore(it.priors.TotalVariation())
    with pytest.raises(InputError, match="alphas"):
        GaussianScore(pictures(1)[0], 0.1, torch.tensor([0.5, 0.9]))
    with pytest.raises(InputError, match="shares"):
        ScoreDistillation(GaussianScore(pictures(1)[0], 0.1), steps=(0.9, 0.1))
