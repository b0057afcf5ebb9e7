"""Networks of sines, and their frequency from the spectrum of the image."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it


def wave(cycles: float) -> torch.Tensor:
    place = torch.linspace(-1, 1, 96)
    return torch.sin(torch.pi * cycles * place).expand(1, 1, 96, 96)


def chosen(x: torch.Tensor, A: it.operators.Operator | None = None) -> list[float]:
    A = it.operators.Identity(x.shape[1:]) if A is None else A
    prior = it.priors.SineNetwork(width=32, depth=2, frequency="spectrum")
    return prior.prepare(it.Problem(A(x), A), it.solve).omega.tolist()


def test_faster_waves_have_faster_networks() -> None:
    slow, middle, fast = chosen(torch.cat([wave(3), wave(8), wave(20)]))
    assert slow < middle < fast
    assert chosen(wave(8)) == [middle]


def test_few_measurements_limit_the_frequency() -> None:
    mask = torch.zeros(96, 96)
    mask[::8, ::8] = 1
    noise = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    limit = torch.pi * 12 / 8
    assert max(chosen(noise)) > 60
    (found,) = chosen(noise, it.operators.Inpainting(mask, (1, 96, 96)))
    assert found <= limit + 1e-4


def test_a_network_starts_as_sitzmann_et_al_do() -> None:
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    problem = it.Problem(x, it.operators.Identity((1, 32, 32)))
    prior = it.priors.SineNetwork(width=256, depth=2).prepare(problem, it.solve)
    start = prior.initial()
    assert float(start["weight0"].abs().max()) <= 0.5
    # The sum of 256 sines of variance 1/2 has the variance 1 of the draws of U(-sqrt(6/n), sqrt(6/n)).
    inside = (30 * (torch.rand(1, 500, 256) * 2 * torch.pi).sin() @ start["weight1"]).std()
    assert float(inside) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("shape", [(1, 64), (1, 1, 64), (1, 12, 12), (3, 8, 8)])
@pytest.mark.parametrize("kind", [it.priors.SineNetwork, it.priors.CoordinateNetwork])
def test_items_are_independent(shape: tuple[int, ...], kind: type) -> None:
    y = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))

    def fit(y: torch.Tensor) -> torch.Tensor:
        problem = it.Problem(y, it.operators.Identity(shape))
        solver = it.solvers.Adam(max_iterations=4)
        return it.solve(problem, kind(width=16, depth=2), solver, progress=False).x

    assert torch.equal(fit(y)[1:2], fit(y[1:2]))


def test_an_axis_of_one_pixel_does_not_hide_the_spectrum() -> None:
    place = torch.linspace(-1, 1, 96)
    slow, fast = (torch.sin(torch.pi * k * place).view(1, 1, 1, 96) for k in (3, 20))
    assert chosen(slow) < chosen(fast)


def test_settings_are_checked() -> None:
    for frequency in (0.0, float("inf"), "fourier"):
        with pytest.raises(it.InputError, match="frequency"):
            it.priors.SineNetwork(frequency=frequency)  # type: ignore[arg-type]
    square = it.as_operator(lambda x: x**2, (1, 4, 4))
    with pytest.raises(it.InputError, match="as a number"):
        it.priors.SineNetwork(frequency="spectrum").prepare(
            it.Problem(torch.ones(1, 1, 4, 4), square), it.solve
        )
    complex_ = it.Problem(torch.ones(1, 1, 4, dtype=torch.complex64), it.operators.Fourier((1, 4)))
    with pytest.raises(it.InputError, match="SineNetwork makes real images"):
        it.solve(complex_, it.priors.SineNetwork(), progress=False)
