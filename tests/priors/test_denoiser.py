"""Denoisers as priors: how networks are called, and that they are left as they were."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import Denoiser, DnCNN, load_dncnn


class Shrink(nn.Module):
    """A denoiser with a known answer, ``x / (1 + sigma^2)``, that keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.calls: list[Any] = []

    def forward(self, x: Tensor, sigma: Any) -> Tensor:
        self.calls.append((x.detach(), sigma, self.training))
        return self.scale * x / (1 + torch.as_tensor(sigma).view(-1, *[1] * (x.ndim - 1)) ** 2)


class Blind(nn.Module):
    def forward(self, x: Tensor, sigma: float | None = None) -> Tensor:
        return 0.5 * x


def test_plug_and_play_prox_and_red_gradient() -> None:
    prior, x = Denoiser(Shrink(), sigma=0.5), torch.ones(2, 1, 4, 4)
    u = prior.prox(x, torch.tensor([1.0, 4.0]))
    torch.testing.assert_close(u[:, 0, 0, 0], torch.tensor([1 / 1.25, 1 / 2.0]))
    torch.testing.assert_close(prior.gradient(x), x - x / 1.25)
    assert sorted(prior.offers) == ["denoise", "gradient", "prox"] and prior.smooth


@pytest.mark.parametrize(
    ("network", "level", "fixed"),
    [
        (Shrink(), "batch", False),
        (Blind(), "none", True),
        (nn.Identity(), "none", True),
        (lambda x, sigma: x, "number", False),
        (lambda x: x, "none", True),
        (lambda x, mask=3: x, "none", True),
        (lambda x, sigma=0.1: x, "number", False),
        (DnCNN(depth=2, width=2), "none", True),
    ],
)
def test_the_level_argument_is_read_from_the_signature(
    network: Any, level: str, fixed: bool
) -> None:
    prior = Denoiser(network)
    assert (prior.level, prior.fixed_level) == (level, fixed)


def test_deepinv_denoisers() -> None:
    deepinv = pytest.importorskip("deepinv")
    assert Denoiser(
        deepinv.models.DnCNN(pretrained=None, depth=3, nf=4, in_channels=1, out_channels=1)
    ).fixed_level
    drunet = deepinv.models.DRUNet(
        in_channels=1, out_channels=1, nc=[2, 2, 2, 2], nb=1, pretrained=None
    )
    prior = Denoiser(drunet)
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([0.01, 0.1, 0.5])
    together = prior.denoise(x, sigmas)
    for k in range(3):
        torch.testing.assert_close(
            prior.denoise(x[k : k + 1], float(sigmas[k])), together[k : k + 1], rtol=0, atol=1e-5
        )
    assert prior.level == "batch" and not torch.equal(prior.denoise(x, 0.5), prior.denoise(x, 0.01))


def test_callables_get_numbers() -> None:
    """A function that multiplies by sigma would broadcast a tensor of levels along the wrong axis."""
    levels = []
    prior = Denoiser(lambda x, sigma: (levels.append(sigma), sigma * x)[1])
    x = torch.ones(3, 1, 1, 3)
    out = prior.denoise(x, torch.tensor([1.0, 2.0, 3.0]))
    assert out[:, 0, 0, 0].tolist() == [1, 2, 3] and all(isinstance(s, float) for s in levels)


def test_the_network_is_left_as_it_was() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Conv2d(2, 1, 1)
    )
    network.train()
    network[2].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    prior = Denoiser(network)
    first = prior.denoise(x, 0.1)
    assert torch.equal(first, prior.denoise(x, 0.1))
    assert not first.requires_grad and all(p.grad is None for p in network.parameters())
    assert [m.training for m in network] == [True, True, False, True] and network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert prior.denoise(x.clone().requires_grad_(True), 0.1).requires_grad


def test_intensity_range_and_precision() -> None:
    network = Shrink()
    prior = Denoiser(network, intensity_range=(-1000.0, 3000.0))
    x = torch.full((1, 1, 2, 2), 1000.0, dtype=torch.float64)
    out = prior.denoise(x, 400.0)
    seen, sigma, training = network.calls[0]
    assert seen.dtype == torch.float32 and out.dtype == torch.float64 and not training
    assert seen.unique().tolist() == [0.5] and sigma.item() == pytest.approx(0.1)
    assert out.unique().item() == pytest.approx(0.5 / 1.01 * 4000 - 1000, rel=1e-5)


def test_rescaling_gives_a_fixed_network_other_levels() -> None:
    """Above the trained level intensities are scaled, below it a part is removed, at 0 nothing."""
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return x - 0.01  # removes "noise" of a fixed size

    prior = Denoiser(network, sigma=0.1, trained_level=0.1, rescale=True)
    out = prior.denoise(torch.full((4, 1, 2, 2), 0.5), torch.tensor([0.1, 0.2, 0.05, 0.0]))
    assert not prior.fixed_level and torch.cat(seen)[:, 0, 0, 0].tolist() == pytest.approx(
        [0.5, 0.25, 0.5, 0.5]
    )
    assert out[:, 0, 0, 0].tolist() == pytest.approx([0.49, 0.48, 0.495, 0.5])


@pytest.mark.parametrize("learned", [False, True])
def test_convolutions_give_an_item_the_same_bits_alone(learned: bool) -> None:
    torch.manual_seed(0)
    if learned:
        prior: Any = it.priors.LearnedProximal(it.priors.ConvexEnergy(1, (4,), (4,), (1,)))
    else:
        prior = Denoiser(DnCNN(depth=3, width=8))
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    together = prior.prox(x, 1.0)
    assert all(torch.equal(prior.prox(x[k : k + 1], 1.0)[0], together[k]) for k in range(4))


def test_channels_and_complex_images() -> None:
    network = Shrink()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([1.0, 2.0])
    expected = x / (1 + sigmas.view(-1, 1, 1, 1) ** 2)
    torch.testing.assert_close(Denoiser(network, channelwise=True).denoise(x, sigmas), expected)
    assert torch.cat([seen for seen, *_ in network.calls]).shape == (6, 1, 4, 4)
    z = torch.complex(x, x.flip(1))
    torch.testing.assert_close(
        Denoiser(network, channelwise=True).denoise(z, sigmas),
        torch.complex(expected, expected.flip(1)),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Denoiser(3),  # type: ignore[arg-type]
        lambda: Denoiser(Shrink(), sigma=0.0),
        lambda: Denoiser(Shrink(), trained_level=0.1, rescale=True),
        lambda: Denoiser(nn.Identity(), rescale=True),
        lambda: Denoiser(nn.Identity(), intensity_range=(1.0, 1.0)),
        lambda: Denoiser(nn.Identity(), intensity_range="HU"),
        lambda: Denoiser(lambda x: x[..., :1]).denoise(torch.ones(1, 1, 2, 2), 0.1),
        lambda: load_dncnn("missing.pth"),
    ],
)
def test_bad_input_is_refused(make: Any) -> None:
    with pytest.raises(InputError):
        make()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "noise.pth").write_bytes(b"not weights")
    network = DnCNN(channels=3, depth=4, width=5)
    torch.save(network.state_dict(), tmp_path / "dncnn.pth")
    for name in ("other.pth", "noise.pth"):
        with pytest.raises(InputError, match=name):
            load_dncnn(tmp_path / name)
    x = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_dncnn(tmp_path / "dncnn.pth")(x), network(x))


@pytest.mark.data
def test_trained_dncnn_removes_noise(data_dir: Path) -> None:
    from skimage import data

    weights = data_dir / "weights" / "kair_dncnn" / "dncnn_25.pth"
    if not weights.is_file():
        pytest.skip(f"no weights at {weights}")
    image = torch.from_numpy(data.camera()[200:296, 200:296].astype(np.float32) / 255)[None, None]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    network = load_dncnn(weights)

    def psnr(prior: Denoiser, sigma: float) -> float:
        return float(
            -10 * (prior.denoise(image + sigma * noise, sigma) - image).square().mean().log10()
        )

    plain, rescaled = Denoiser(network), Denoiser(network, trained_level=25 / 255, rescale=True)
    assert psnr(plain, 25 / 255) > 27.0 and psnr(rescaled, 25 / 255) == pytest.approx(
        psnr(plain, 25 / 255), abs=1e-3
    )
    assert psnr(rescaled, 5 / 255) > psnr(plain, 5 / 255) + 2.0
    assert psnr(rescaled, 50 / 255) > psnr(plain, 50 / 255) + 5.0


def test_luminance_and_chrominance_are_denoised_apart_and_turned_back() -> None:
    x = torch.rand(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    kept = Denoiser(lambda v: v, opponent=True)
    torch.testing.assert_close(kept.denoise(x, 0.1), x, rtol=0, atol=1e-6)
    network = Shrink()
    shown = Denoiser(network, opponent=True)
    sigma = torch.tensor([0.5, 1.0])
    clean = shown.denoise(x, sigma)
    # The luminance has the scale of a grey picture, and the level of the mean of three channels.
    weights = 1 / (1 + sigma[:, None].square() * torch.tensor([1 / 3, 1.0, 1.0]))
    mean = x.mean(1, keepdim=True)
    expected = weights[:, 0].view(2, 1, 1, 1) * mean + weights[:, 1].view(2, 1, 1, 1) * (x - mean)
    torch.testing.assert_close(clean, expected)
    parts, levels = (
        torch.cat(values).view(2, 3, *values[0].shape[1:])
        for values in itertools.islice(zip(*network.calls), 2)
    )
    torch.testing.assert_close(parts[:, 0, 0], x.mean(1))
    noise = (parts[:, :, 0] / levels.view(2, 3, 1, 1)).square().flatten(1).sum(1)
    torch.testing.assert_close(noise, (x / sigma.view(2, 1, 1, 1)).square().flatten(1).sum(1))
    network.calls.clear()
    assert shown.denoise(x[:, :1], 0.5).shape == (2, 1, 8, 10)  # grey pictures as they are
    torch.testing.assert_close(torch.cat([seen for seen, *_ in network.calls]), x[:, :1])


def test_complex_images_take_their_levels_from_real_numbers(
    recwarn: pytest.WarningsRecorder,
) -> None:
    x = torch.ones(2, 1, 4, 4, dtype=torch.complex64) * (1 + 1j)
    prior = Denoiser(Shrink(), sigma=0.5, channelwise=True)
    torch.testing.assert_close(prior.prox(x, torch.tensor([1.0, 4.0]))[1], x[1] / 2)
    assert not recwarn.list


def smooth(x: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


@pytest.mark.parametrize(
    ("network", "is_named"),
    [
        (smooth, False),
        (lambda x: x - smooth(x), True),  # predicts the noise
        (lambda x: 255 * smooth(x), True),
        (lambda x: smooth(x) if x.shape[-1] == 80 else None, False),  # for one size
    ],
)
def test_what_a_network_returns_is_looked_at_once(network: Any, is_named: bool) -> None:
    y = torch.linspace(0, 1, 80).expand(1, 1, 80, 80)
    problem = it.Problem(y, it.operators.Identity((1, 80, 80)), it.data_terms.LeastSquares(0.1))
    solution = it.solve(
        problem, Denoiser(network, sigma=0.1), "admm", max_iterations=1, progress=False
    )
    named = [note for note in solution.notes if "subtract a predicted noise" in note]
    assert len(named) == is_named
    assert Denoiser(DnCNN(depth=3, width=4), sigma=0.1).remark(y) is None  # of this package


class Output(dict[str, Tensor]):
    """As diffusers returns its samples."""


class WithMap(nn.Module):
    """As KAIR's networks, whose second channel is the noise level."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, torch.ones(1, 2, 1, 1))


@pytest.mark.parametrize(
    "network", [lambda x, t: Output(sample=x), lambda x, t: (x,), WithMap(), lambda x: x.mean()]
)
def test_networks_of_other_calls_are_told_how_to_come_in(network: Any) -> None:
    with pytest.raises(InputError, match=r"give a function \(x, sigma\)"):
        Denoiser(network, sigma=0.1).denoise(torch.zeros(1, 1, 8, 8), 0.1)
