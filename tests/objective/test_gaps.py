"""Pictures with gaps: interpolation, starts without held-out pixels, noise among gaps."""

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.objective.gaps import fill_gaps, interpolate
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.parameter_choice import estimate_noise_std
from invtoolbox.parameter_choice.held_out import hold_out
from invtoolbox.parameter_choice.noise import noise_std_of


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("space", [(40,), (33, 47), (9, 12, 7)])
def test_known_pixels_stay_and_the_others_lie_between_them(space: tuple[int, ...]) -> None:
    image = random(2, 3, *space)
    known = random(2, 3, *space, seed=1) > 0.6
    filled = interpolate(image, known)
    assert torch.equal(filled[known], image[known])
    for item, mask, result in zip(image, known, filled):
        assert float(result.min()) >= float(item[mask].min()) - 1e-6
        assert float(result.max()) <= float(item[mask].max()) + 1e-6


def test_a_constant_is_filled_exactly_and_an_item_alone_as_in_a_batch() -> None:
    known = random(3, 1, 21, 30) > 0.8
    assert torch.allclose(interpolate(torch.full((3, 1, 21, 30), 2.5), known), torch.tensor(2.5))
    image = random(3, 1, 21, 30, seed=2)
    alone = interpolate(image[1:2], known[1:2])
    assert torch.equal(interpolate(image, known)[1:2], alone)


def test_a_ramp_is_filled_better_than_by_its_mean() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    known = random(1, 1, 64, 64) > 0.5
    assert float((interpolate(ramp, known) - ramp).abs().max()) < 0.05


@pytest.mark.parametrize(
    "operator",
    [
        it.operators.Identity((1, 32, 32)),
        it.operators.Blur(torch.ones(3, 3) / 9, (32, 32)),
        it.operators.Inpainting(random(32, 32) > 0.3, (1, 32, 32)),
    ],
)
def test_the_start_of_a_held_out_run_has_not_seen_what_is_held_out(operator) -> None:
    y = operator(random(1, 1, 32, 32, seed=3))
    problem = it.Problem(y, operator)
    term = hold_out(problem, 0)
    changed = y + 100 * (term.held != 0)
    starts = [
        first_guess(it.Problem(measurements, operator, term)) for measurements in (y, changed)
    ]
    assert torch.equal(*starts)


def test_problems_without_gaps_are_returned_as_they_are() -> None:
    A = it.operators.Identity((1, 8, 8))
    problem = it.Problem(random(1, 1, 8, 8), A)
    assert fill_gaps(problem) is problem


def test_noise_among_scattered_gaps_is_estimated_along_lines() -> None:
    clean = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    noisy = clean + 0.05 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    A = it.operators.Inpainting(random(64, 64) > 0.5, (1, 64, 64))
    assert float(estimate_noise_std(A(noisy), A)) == pytest.approx(0.05, rel=0.2)


def test_noise_is_unknown_rather_than_zero_if_gaps_leave_no_neighbours() -> None:
    mask = torch.zeros(32, 32)
    mask[::2, ::2] = 1
    A = it.operators.Inpainting(mask, (1, 32, 32))
    y = A(random(1, 1, 32, 32))
    with pytest.raises(InputError, match="give it with LeastSquares"):
        estimate_noise_std(y, A)
    assert float(noise_std_of(it.Problem(y, A))) > 0.001
