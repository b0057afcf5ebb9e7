"""A scan of an object that reaches beyond the image is solved on a larger grid, and cropped."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.jobs.images.decisions.wide_grid import find_beyond
from tests.operators.scan_helpers import cells, chords, disc, fan_distance, parallel_distance, turn

N, COUNT = 48, 84
NEAR, FAR = 150.0, 220.0
#: Centres, radii and values of discs; the first is wider than the image.
DISCS = [((0.0, 1.0), 30.0, 1.0), ((8.0, 5.0), 7.0, 0.5), ((-9.0, -8.0), 5.0, -0.6)]


def scan(n: int, beam: str, radius: float = 30.0) -> tuple[Any, Tensor, Tensor]:
    """An operator on n x n pixels, measurements in closed form with noise, and the truth."""
    angles, s = turn(90, 0.2), cells(COUNT, 1.5 if beam == "fan" else 1.0, 0.0)
    A: Any
    if beam == "fan":
        A = it.operators.FanBeam((n, n), angles, COUNT, NEAR, FAR, detector_spacing=1.5)
    else:
        A = it.operators.ParallelBeam((n, n), angles, COUNT)
    discs = [(DISCS[0][0], radius, 1.0), *DISCS[1:]]

    def distance(centre: tuple[float, float]) -> Tensor:
        if beam == "fan":
            return fan_distance(A.angles, (s / FAR).atan(), NEAR, centre)
        return parallel_distance(A.angles, s, centre)

    y = torch.stack([value * chords(distance(c), r) for c, r, value in discs]).sum(0)
    y = y + 0.3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).double()
    truth = torch.stack([value * disc(A, c, r) for c, r, value in discs]).sum(0)
    return A, y.float()[None, None], truth.float()


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(it.metrics.psnr(x, truth, data_range=2.1))


@pytest.mark.filterwarnings("ignore::invtoolbox.errors.MeasurementWarning")
# The fan beam takes the same path, and widens in tests/operators.
@pytest.mark.parametrize("beam", ["parallel", pytest.param("fan", marks=pytest.mark.slow)])
def test_the_answer_is_the_middle_of_one_on_a_larger_grid(beam: str) -> None:
    A, y, truth = scan(N, beam)
    wide = scan(COUNT, beam)[0]
    solution = it.reconstruct(y, A, "tv", regularization=2.0, progress=False)
    assert any("the object reaches beyond the image" in note for note in solution.notes)
    assert solution.x.shape == truth.shape
    larger = it.reconstruct(y, wide, "tv", regularization=2.0, progress=False).x
    margin = (COUNT - N) // 2
    reference = psnr(larger[..., margin:-margin, margin:-margin], truth)
    assert psnr(solution.x, truth) > reference - 1
    assert psnr(solution.x, truth) > psnr(A.pseudo_inverse(y), truth)
    on_the_small_grid = it.solve(it.Problem(y, A), "tv", regularization=2.0, progress=False).x
    assert psnr(solution.x, truth) > psnr(on_the_small_grid, truth) + 5


@pytest.mark.filterwarnings("ignore::invtoolbox.errors.MeasurementWarning")
def test_a_prior_with_an_image_of_one_size_keeps_the_grid() -> None:
    A, y, truth = scan(N, "parallel")
    prior = it.priors.Tikhonov(reference=torch.zeros_like(truth))
    solution = it.reconstruct(y, A, prior, regularization=2.0, max_iterations=3, progress=False)
    assert any("no larger grid was taken" in note for note in solution.notes)


def test_an_object_inside_of_the_image_keeps_its_grid() -> None:
    A, y, truth = scan(N, "parallel", radius=21.0)
    settings: Any = {"regularization": 2.0, "progress": False}
    solution = it.reconstruct(y, A, prior="tikhonov", **settings)
    assert not any("beyond" in note for note in solution.notes)
    assert torch.equal(solution.x, it.solve(it.Problem(y, A), "tikhonov", **settings).x)
    # Squares follow the detail within pixels: the weight of the search has 20.7 dB.
    automatic = it.reconstruct(y, A, prior="tikhonov", progress=False)
    assert not any("beyond" in note for note in automatic.notes)
    assert psnr(automatic.x, truth) >= psnr(A.pseudo_inverse(y), truth)


def test_a_corner_beyond_a_side_is_seen_by_few_rays_and_a_constant_is_no_object() -> None:
    """Two rays far above a low noise are an object; one is a fault, and scattered rays are many."""
    A, y, _ = scan(N, "parallel", radius=21.0)
    noise = 0.05 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y = A(torch.ones(1, 1, N, N)) * 0.3 + noise
    assert not bool(find_beyond(it.Problem(y, A)))
    assert not bool(find_beyond(it.Problem(y + 0.2, A)))
    y[0, 0, 0, 2] += 1.0
    assert not bool(find_beyond(it.Problem(y, A)))
    y[0, 0, 40, -3] += 1.0
    assert bool(find_beyond(it.Problem(y, A)))


@pytest.mark.filterwarnings("ignore::invtoolbox.errors.MeasurementWarning")
def test_an_item_goes_its_own_way_in_a_batch() -> None:
    A, inside, _ = scan(N, "parallel", radius=21.0)
    beyond = scan(N, "parallel")[1]
    weight = torch.tensor([2.0, 3.0])
    both = it.reconstruct(
        torch.cat([inside, beyond]), A, "tikhonov", regularization=weight, progress=False
    )
    for k, y in enumerate((inside, beyond)):
        alone = it.reconstruct(y, A, "tikhonov", regularization=float(weight[k]), progress=False)
        assert torch.equal(alone.x[0], both.x[k])
    assert both.status == ("converged", "converged") and both.iterations.shape == (2,)


@pytest.mark.filterwarnings("ignore::invtoolbox.errors.MeasurementWarning")
def test_the_posterior_and_a_prior_of_the_users_grid() -> None:
    A, y, truth = scan(N, "parallel")
    solution = it.reconstruct(y, A, "tikhonov", noise_std=0.3, regularization=1.0, progress=False)
    assert solution.posterior is None or solution.posterior.mean.shape == truth.shape
    bound = it.priors.GraphLaplacian(first=truth)
    solution = it.reconstruct(y, A, bound, regularization=1.0, max_iterations=10, progress=False)
    assert solution.x.shape == truth.shape
    assert not any("beyond the image:" in note for note in solution.notes)


def test_a_volume_is_enlarged_across_the_axis() -> None:
    from invtoolbox.jobs.images.decisions.wide_grid import cover_field

    A = it.operators.ConeBeam((6, 20, 24), turn(40), (8, 60), 100.0, 150.0)
    larger = cover_field(A, torch.zeros(1, *A.range_shape))
    assert larger is not None and larger.domain_shape[1] == 6
    reach = 100 * math.sin(math.atan(29.5 / 150))
    assert all(n / 2 >= reach > n / 2 - 1 for n in larger.domain_shape[2:])
    assert larger.domain_shape[2] % 2 == 0 and larger.domain_shape[3] % 2 == 0
