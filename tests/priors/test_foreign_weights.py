"""Weights of other people: read without running anything, and doing what their authors say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.catalogue.presets import load_weights
from invtoolbox.errors import InputError
from invtoolbox.networks.convex_energy import mirror, mirror_transpose
from invtoolbox.networks.foreign_weights import read_weights
from invtoolbox.priors import DeepVariationNetwork, Denoiser, DnCNN, TotalDeepVariation, load_dncnn
from invtoolbox.testing import check_prior

LEVEL = 25 / 255


class Command:
    """Unpickled, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "read",
    [
        read_weights,
        load_dncnn,
        lambda p: Denoiser.from_kair(p, 0.1),
        lambda p: load_weights(DnCNN(), p),
        lambda p: TotalDeepVariation.from_file(p, trained_level=0.1),
    ],
)
def test_a_file_that_asks_for_code_is_refused(tmp_path: Path, read: Any) -> None:
    path, made = tmp_path / "weights.pth", tmp_path / "made"
    torch.save({"model.0.weight": torch.zeros(4, 1, 3, 3), "model.2.weight": Command(made)}, path)
    with pytest.raises(
        InputError, match=r"weights.pth asks for \S*mkdir .* could run any code, so it is refused"
    ):
        read(path)
    assert not made.exists()
    torch.load(path, weights_only=False)  # the same file does run it where nobody looks
    assert made.exists()


def test_what_is_no_file_of_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "noise.pth").write_bytes(b"not weights")
    (tmp_path / "noise.safetensors").write_bytes(b"not weights")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    torch.save({"config": {"R": {}}, "model": {}}, tmp_path / "tdv3-3-25-f32-gray.pth")
    for name in ("noise.pth", "noise.safetensors", "list.pth", "missing.pth"):
        with pytest.raises(InputError, match=name):
            read_weights(tmp_path / name)
    with pytest.raises(InputError, match=r"tdv3.* does not hold a network of total deep variation"):
        TotalDeepVariation.from_file(tmp_path / "tdv3-3-25-f32-gray.pth")
    torch.save({"a": torch.zeros(3)}, tmp_path / "unnamed.pth")
    with pytest.raises(InputError, match=r"'unnamed.pth' does not contain .* give trained_level"):
        TotalDeepVariation.from_file(tmp_path / "unnamed.pth")


def test_a_dncnn_of_kair_has_one_level(tmp_path: Path) -> None:
    network = DnCNN(depth=3, width=4)
    for name in ("dncnn_15.pth", "dncnn_gray_blind.pth"):
        torch.save(network.state_dict(), tmp_path / name)
    with pytest.raises(InputError, match="does not contain the noise level"):
        Denoiser.from_kair(tmp_path / "dncnn_gray_blind.pth")
    assert Denoiser.from_kair(tmp_path / "dncnn_gray_blind.pth", 0.1).sigma == 0.1
    prior = Denoiser.from_kair(tmp_path / "dncnn_15.pth")
    x = torch.rand(1, 1, 9, 10, generator=torch.Generator().manual_seed(0))
    assert (
        prior.fixed_level
        and prior.sigma == 15 / 255
        and torch.allclose(prior.denoise(x, prior.sigma), network(x), atol=1e-6)
    )
    problem = it.Problem(x, it.operators.Identity(x.shape[1:]))
    assert it.solve(problem, prior, "admm", max_iterations=2, progress=False).x.shape == x.shape
    with pytest.raises(InputError, match=r"Denoiser\(DnCNN.*weight"):
        it.solve(problem, 0.5 * prior, "admm", progress=False)
    rescaled = Denoiser.from_kair(
        tmp_path / "dncnn_15.pth", rescale=True, intensity_range=(-1000.0, 1000.0)
    )
    assert (
        not rescaled.fixed_level
        and rescaled.trained_level == 15 / 255
        and rescaled.sigma == pytest.approx(2000 * 15 / 255)
    )
    assert (
        it.solve(problem, 0.5 * rescaled, "admm", max_iterations=2, progress=False).x.shape
        == x.shape
    )


def test_a_denoiser_of_deepinv_is_a_prior() -> None:
    deepinv = pytest.importorskip("deepinv")
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    problem = it.Problem(x, it.operators.Identity(x.shape[1:]))
    blind = Denoiser(
        deepinv.models.DnCNN(in_channels=1, out_channels=1, depth=3, nf=4, pretrained=None)
    )
    levels = Denoiser(
        deepinv.models.DRUNet(
            in_channels=1, out_channels=1, nc=[2, 2, 2, 2], nb=1, pretrained=None
        ),
        sigma=0.1,
    )
    for prior in (blind, levels):
        solution = it.solve(
            problem, prior, "admm", regularization=1.0, max_iterations=2, progress=False
        )
        assert bool(solution.x.isfinite().all())
    with pytest.raises(InputError, match=r"DnCNN.*weight"):
        it.solve(problem, 0.5 * blind, "admm", progress=False)


# -- total deep variation --------------------------------------------------------------------------


def test_the_mirror_has_its_transpose() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 3, 7, 9), (1, 1, 2, 4)):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        p = mirror(x, 3)
        v = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(
            (p * v).sum(), (x * mirror_transpose(v, 3)).sum(), rtol=1e-12, atol=0
        )


def test_total_deep_variation_keeps_the_contract() -> None:
    prior = TotalDeepVariation(
        DeepVariationNetwork(1, features=3, scales=3, blocks=2),
        sigma=torch.tensor([0.05, 0.1]),
        trained_level=0.1,
    )
    x = torch.rand(2, 1, 9, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check_prior(
        prior.to(torch.float64), x, problem=it.Problem(x, it.operators.Identity(x.shape[1:]))
    )
    lone = TotalDeepVariation(DeepVariationNetwork(3, features=2, scales=2, blocks=1)).to(
        torch.float64
    )
    y = torch.rand(
        1,
        3,
        5,
        6,
        generator=torch.Generator().manual_seed(1),
        dtype=torch.float64,
        requires_grad=True,
    )
    assert torch.autograd.gradcheck(lone.energy, y) and torch.autograd.gradgradcheck(lone.energy, y)
    # The filters have no mean, so what is added to every pixel does not count; an image in other
    # units has the same energy.
    torch.testing.assert_close(lone.energy(y + 0.3), lone.energy(y), rtol=1e-5, atol=0)
    wide = TotalDeepVariation(lone.network, intensity_range=(-100.0, 300.0))
    torch.testing.assert_close(wide.energy(400 * y - 100), lone.energy(y))
    apart = TotalDeepVariation(
        DeepVariationNetwork(1, features=2, scales=2, blocks=1), channelwise=True
    ).to(torch.float64)
    torch.testing.assert_close(
        apart.energy(y), sum(apart.energy(y[:, k : k + 1]) for k in range(3))
    )


def test_another_level_is_the_problem_in_other_units() -> None:
    """``1/2 |x - y|^2 / sigma^2 + R`` of images that are twice as large, with twice the noise, has the same value."""
    network = DeepVariationNetwork(1, features=3, scales=2, blocks=1)
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, two = (
        TotalDeepVariation(network, sigma, trained_level=0.1, balance=0.3).to(torch.float64)
        for sigma in (0.1, 0.2)
    )
    torch.testing.assert_close(one.energy(x), two.energy(2 * x))


@pytest.mark.data
def test_total_deep_variation_denoises_as_published(data_dir: Path) -> None:
    """Ten steps of the flow that the authors learned: 29.37 dB on BSD68 in their table, where DnCNN has 29.23."""
    from skimage.io import imread

    weights = data_dir / "weights" / "tdv" / "tdv3-3-25-f32-gray.pth"
    other = data_dir / "weights" / "kair_dncnn" / "dncnn_25.pth"
    if not weights.is_file() or not other.is_file():
        pytest.skip(f"no weights at {weights} or {other}")
    prior, dncnn = TotalDeepVariation.from_file(weights), Denoiser.from_kair(other)
    content = read_weights(weights)["model"]
    learned, trust = float(content["T"]), float(content["lmbda"])
    assert prior.sigma == LEVEL and prior.balance == pytest.approx(learned / trust)
    x = torch.from_numpy(imread(data_dir / "bsd68_gray" / "test003.png").astype(np.float32) / 255)[
        None, None, 100:196, 150:246
    ]
    y = x + LEVEL * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    u = y
    for _ in range(10):
        slope = prior.gradient(u) * LEVEL**2 / prior.balance
        u = (u - learned / 10 * slope + trust / 10 * y) / (1 + trust / 10)
    assert float(it.metrics.psnr(u, x)) > float(it.metrics.psnr(dncnn.denoise(y, LEVEL), x)) - 0.3


def test_items_of_total_deep_variation_have_the_same_bits_alone() -> None:
    torch.manual_seed(0)
    prior = TotalDeepVariation(DeepVariationNetwork(1, features=4, scales=2, blocks=1))
    x = torch.rand(3, 1, 31, 33, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prior.gradient(x[1:2]), prior.gradient(x)[1:2])
