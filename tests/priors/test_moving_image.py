"""One image and its motion from a series: `priors.MovingImage`, and scans by gates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.testing import check_operator, check_prior


def moving_blobs(steps: tuple[int, ...], size: int = 32) -> Tensor:
    """Return frames of two blobs that move down by whole pixels, ``(1, 1, frames, size, size)``."""
    row = torch.arange(float(size))[:, None]
    frames = [
        torch.exp(-((row - 12 - t) ** 2 + (row.T - 14) ** 2) / 20)
        + 0.5 * torch.exp(-((row - 17 - t) ** 2 + (row.T - 20) ** 2) / 12)
        for t in steps
    ]
    return torch.stack(frames)[None, None]


def test_the_prior_keeps_the_contracts() -> None:
    series = torch.rand(3, 1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    problem = it.Problem(series, it.operators.Identity((1, 3, 12, 16)))
    prior = it.priors.MovingImage(image=0.1 * it.priors.HuberTV(0.05))
    check_prior(prior.prepare(problem, it.solve), series)


def test_an_item_is_the_same_alone_and_in_a_batch() -> None:
    series = torch.cat([moving_blobs((0, 1, 2), 24), 3 * moving_blobs((2, 1, 0), 24)])
    A, prior = it.operators.Identity((1, 3, 24, 24)), it.priors.MovingImage()

    def solve(y: Tensor) -> Tensor:
        return it.solve(it.Problem(y, A), prior, max_iterations=4, progress=False).x

    both = solve(series)
    for k in range(2):
        assert torch.equal(solve(series[k : k + 1]), both[k : k + 1])


def test_image_and_motion_come_from_gates_of_few_views() -> None:
    series = moving_blobs((0, 2, 4, 2))
    angles = torch.arange(20) * torch.pi * 0.381966 % (2 * torch.pi)
    scan = it.operators.FanBeam((32, 32), angles, 40, 60.0, 120.0, detector_spacing=2.5)
    gates = torch.arange(20) % 4
    A = it.operators.Gated(scan, gates)
    y = A.simulate(series, noise=0.02, seed=0)
    prior = it.priors.MovingImage(image=0.01 * it.priors.HuberTV())
    found = it.solve(it.Problem(y, A), prior, max_iterations=50, progress=False, check=False)
    assert "LBFGS" in found.reason
    still = it.operators.WarpSequence(torch.zeros(4, 2, 32, 32))
    variation = 0.01 * it.priors.TotalVariation()
    rest = it.Problem(y, A @ still)
    alone = still(it.solve(rest, variation, max_iterations=60, progress=False, check=False).x)
    psnr = it.metrics.psnr
    assert psnr(found.x, series, data_range=1.0) > psnr(alone, series, data_range=1.0) + 8
    u = prior.displacement(found.parameters)[0, :, 0, 15, 15]
    assert u.tolist() == pytest.approx([2, 0, -2, 0], abs=0.5)


def test_the_motion_has_the_unit_of_the_spacing_and_any_scale_of_the_image() -> None:
    series, A = moving_blobs((0, 2, 4), 24), it.operators.Identity((1, 3, 24, 24))
    fields = []
    for factor, spacing in ((1.0, None), (1000.0, (0.5, 0.5))):
        prior = it.priors.MovingImage(spacing=spacing)
        problem = it.Problem(factor * series, A)
        found = it.solve(problem, prior, max_iterations=30, progress=False, check=False)
        fields.append(prior.displacement(found.parameters))
    assert torch.allclose(fields[0], 2 * fields[1], atol=0.05)


def test_counts_begin_inside_the_domain_of_their_misfit() -> None:
    counts = 100 * moving_blobs((0, 1, 2), 16) + 1
    problem = it.Problem(counts, it.operators.Identity((1, 3, 16, 16)), it.data_terms.Poisson())
    prior = it.priors.MovingImage(0.1 * it.priors.Bending())
    found = it.solve(problem, prior, max_iterations=10, progress=False, check=False)
    assert float((found.x - counts).norm() / counts.norm()) < 0.1


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="without a kink"):
        it.priors.MovingImage(image=0.1 * it.priors.TotalVariation())
    with pytest.raises(InputError, match="must be prepared"):
        it.priors.MovingImage().decode(
            {"image": torch.ones(1, 1, 8, 8), "motion0": torch.zeros(1, 2, 2, 5, 5)}
        )
    with pytest.raises(InputError, match="power of 2"):
        it.priors.MovingImage(cell=3)
    problem = it.Problem(torch.rand(1, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    with pytest.raises(InputError, match="series"):
        it.solve(problem, it.priors.MovingImage(), progress=False)
    with pytest.raises(InputError, match="write it"):
        it.priors.MovingImage(it.priors.Tikhonov()).prepare(
            it.Problem(moving_blobs((0, 1)), it.operators.Identity((1, 2, 32, 32))), it.solve
        )


def test_gated_scans_keep_the_contracts() -> None:
    scan = it.operators.ParallelBeam((6, 7), torch.arange(7) * torch.pi / 7, 10)
    A = it.operators.Gated(scan, [0, 1, 1, 3, 0, 3, 1], frames=5)
    check_operator(A)
    series = torch.rand(2, 1, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    picked = torch.tensor([5, 0, 2])
    assert torch.allclose(A.subset(picked)(series), A(series)[:, :, picked], atol=1e-5)
    assert torch.allclose(A(series)[:, :, 3], scan(series[:, :, 3])[:, :, 3], atol=1e-5)
    turned = A.with_parameters(**{"1.angles": A.parts[1].parameters()["angles"] + 0.5})
    assert torch.allclose(turned.subset(picked)(series), turned(series)[:, :, picked], atol=1e-5)
    with pytest.raises(InputError, match="one of 2 frames"):
        it.operators.Gated(scan, [0, 1, 2, 0, 1, 2, 0], frames=2)
    with pytest.raises(InputError, match="for each of the 7 views"):
        it.operators.Gated(scan, [0, 1])
