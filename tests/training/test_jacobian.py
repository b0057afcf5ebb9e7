"""The penalty on the nuclear norm of a Jacobian: the estimate, its closed forms, and what it makes networks learn."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import Bottleneck, ConvexDense, DnCNN
from invtoolbox.training import L2, JacobianNuclearNorm, Pairs, Stage, run_recipe, train


def drawn(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def linear(*matrices: Tensor) -> nn.Sequential:
    network = nn.Sequential(
        *(nn.Linear(m.shape[1], m.shape[0], bias=False, dtype=m.dtype) for m in matrices)
    )
    with torch.no_grad():
        for layer, matrix in zip(network, matrices):
            layer.weight.copy_(matrix)
    return network


def test_the_best_way_to_come_apart_has_the_nuclear_norm() -> None:
    M = torch.randn(5, 5, generator=drawn(), dtype=torch.float64)
    U, s, Vh = torch.linalg.svd(M)
    best = linear(torch.diag(s.sqrt()) @ Vh, U @ torch.diag(s.sqrt()))
    x = torch.randn(3, 5, generator=drawn(1), dtype=torch.float64)
    exact = JacobianNuclearNorm(L2(), 1.0, probes=5).penalty(best, x, drawn(2))
    torch.testing.assert_close(exact, s.sum().expand(3), rtol=1e-9, atol=0)
    # One direction an item has the same mean, and another way to come apart lies above it.
    many = x[:1].expand(40_000, 5)
    assert float(
        JacobianNuclearNorm(L2(), 1.0).penalty(best, many, drawn(3)).mean()
    ) == pytest.approx(float(s.sum()), rel=0.01)
    worse = linear(M, torch.eye(5, dtype=torch.float64))
    assert (
        float(JacobianNuclearNorm(L2(), 1.0, probes=5).penalty(worse, x, drawn(2))[0])
        > float(s.sum()) + 0.1
    )


def test_the_estimate_is_of_the_jacobians_of_the_halves() -> None:
    network = Bottleneck(1, (3, 4)).to(torch.float64)
    x = torch.rand(1, 1, 4, 4, generator=drawn(), dtype=torch.float64)
    code = network.encode(x)
    h = torch.autograd.functional.jacobian(network.encode, x).reshape(code.numel(), x.numel())
    g = torch.autograd.functional.jacobian(network.decode, code).reshape(x.numel(), code.numel())
    expected = float(0.5 * (h.square().sum() + g.square().sum()))
    loss = JacobianNuclearNorm(L2(), 1.0, step=1e-5)
    estimates = loss.penalty(network, x.expand(8000, 1, 4, 4), drawn()).detach()
    assert float(estimates.mean()) == pytest.approx(expected, rel=0.02)
    assert expected >= float(torch.linalg.svdvals(g @ h).sum())
    torch.testing.assert_close(network.decode(code), network(x))
    assert network(torch.zeros(1, 1, 5, 7, dtype=torch.float64)).shape == (1, 1, 5, 7)


def test_of_a_convex_network_it_is_the_trace() -> None:
    network = ConvexDense(4, width=8, depth=2, seed=3).to(torch.float64)
    x = torch.randn(1, 4, generator=drawn(), dtype=torch.float64)
    J = torch.autograd.functional.jacobian(network, x).reshape(4, 4)
    estimate = JacobianNuclearNorm(L2(), 1.0, step=1e-6, probes=4).penalty(network, x, drawn(1))
    assert float(estimate) == pytest.approx(float(torch.linalg.svdvals(J).sum()), rel=1e-4)


class Basis(Pairs):
    """The axes, and what a matrix makes of them."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        n = len(self.matrix)
        return math.sqrt(n) * torch.eye(n), math.sqrt(n) * self.matrix.T

    def __repr__(self) -> str:
        return f"Basis({float(self.matrix.sum()):.6g})"


def test_fitting_with_the_penalty_shrinks_singular_values() -> None:
    """``1/2 |W - M|^2 + weight |W|_*`` is least for the singular values of M less the weight, and no less than 0."""
    n, weight = 4, 0.4
    U, _, Vh = torch.linalg.svd(torch.randn(n, n, generator=drawn()))
    s = torch.tensor([2.0, 1.0, 0.7, 0.2])
    M = U @ torch.diag(s) @ Vh
    start = linear(
        torch.randn(n, n, generator=drawn(1)) / 2, torch.randn(n, n, generator=drawn(2)) / 2
    )
    loss = JacobianNuclearNorm(L2(), 2 * weight, step=1e-2, probes=n)
    # Of one axis the loss is 1/n |(W - M) e|^2 with e of squared length n, so the mean over the
    # axes is 1/n |W - M|^2.
    stages = [Stage(loss, 500, 3e-2, n), Stage(loss, 300, 3e-3, n)]
    network = train(start, Basis(M), stages, progress=False).network
    W = network[1].weight @ network[0].weight  # type: ignore[index]
    expected = U @ torch.diag((s - weight).clamp_min(0)) @ Vh
    assert float((W - expected).abs().max()) < 5e-3


def test_a_network_with_a_way_around_is_refused() -> None:
    loss = JacobianNuclearNorm(L2(), 0.1)
    with pytest.raises(InputError, match="DnCNN has none"):
        loss.of_network(
            DnCNN(depth=3, width=4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), drawn()
        )
    for bad in (
        lambda: JacobianNuclearNorm(L2(), 0.0),
        lambda: JacobianNuclearNorm(L2(), 1.0, probes=0),
        lambda: Bottleneck(1, ()),
        lambda: Bottleneck().encode(torch.zeros(1, 1, 5, 4)),
    ):
        with pytest.raises(InputError):
            bad()
    assert float(loss(torch.ones(1, 2), torch.zeros(1, 2))) == 1.0


RECIPE = """# A denoiser that learned from noisy pictures alone.
name = "narrow"
[network]
name = "bottleneck"
widths = [4, 8]
[prior]
name = "denoiser"
sigma = 0.1
level = "none"
[data]
photographs = ["camera"]
contrast = [1.0, 1.0]
crop = 8
[[stage]]
loss = "l2"
nuclear_norm = 0.02
steps = 4
count = 4
"""


def test_the_penalty_in_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "narrow.toml").write_text(RECIPE)
    outcome = run_recipe(tmp_path / "narrow.toml", output=tmp_path / "narrow", progress=False)
    assert (
        outcome.trained is not None
        and "nuclear norm 0.02" in (outcome.folder / "README.md").read_text()
    )
    plain = run_recipe(
        tmp_path / "narrow.toml",
        ["stage.0.nuclear_norm=1e-9"],
        output=tmp_path / "plain",
        progress=False,
    )
    assert plain.trained is not None and float(plain.trained.losses[0]) < float(
        outcome.trained.losses[0]
    )
    with pytest.raises(InputError, match="nuclear_norm is a penalty on denoisers"):
        run_recipe(
            tmp_path / "narrow.toml",
            ["stage.0.loss=pixel-likelihood"],
            output=tmp_path / "no",
            progress=False,
        )
    with pytest.raises(InputError, match="nuclear_norm"):
        run_recipe(
            tmp_path / "narrow.toml",
            ["stage.0.nuclear_norm=-1"],
            output=tmp_path / "no",
            progress=False,
        )


def test_it_learns_to_denoise_from_noisy_pictures_alone() -> None:
    """Without the penalty the network gives back what it is shown."""
    x = it.datasets.photograph("camera")[..., ::4, ::4]
    noisy = x + 0.2 * torch.randn(x.shape, generator=drawn())
    gains = []
    for weight in (2 * 0.2**2, 1e-9):
        loss = JacobianNuclearNorm(L2(), weight, step=1e-2)
        trained = train(
            Bottleneck(1, (8, 16)),
            it.training.Crops([noisy], 16),
            [Stage(loss, 80, 1e-2, 8)],
            progress=False,
        )
        gains.append(float(it.metrics.psnr(trained.network(noisy), x) - it.metrics.psnr(noisy, x)))
    assert gains[0] > 4.0 and gains[0] > gains[1] + 0.5, gains
