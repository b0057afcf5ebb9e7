"""Local fields: any size, the same bits alone, learning at pixels, inpainting, and bad input."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import invtoolbox as it
from invtoolbox.errors import InputError, MeasurementWarning
from invtoolbox.training import (
    L2,
    AtPixels,
    Examples,
    InpaintingPairs,
    LocalField,
    MeasuredPairs,
    NoisyPairs,
    Stage,
    train,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_picture(rows: int, columns: int) -> torch.Tensor:
    r = (torch.arange(rows) + 0.5)[:, None] / rows
    c = (torch.arange(columns) + 0.5) / columns
    return (0.5 + 0.3 * torch.sin(5 * r) * torch.cos(4 * c))[None, None]


def untouched(**settings: object) -> LocalField:
    """Return a field whose layers return 0, so that its result is the mean of the patch."""
    network = LocalField(**settings).eval().requires_grad_(False)  # type: ignore[arg-type]
    with torch.no_grad():
        [p.zero_() for p in network.layers.parameters()]
    return network


def test_an_item_has_the_same_bits_alone_and_in_parts() -> None:
    network, x = LocalField(width=8).eval(), torch.rand(3, 1, 96, 100, generator=generator())
    whole = network(x)  # more than one chunk of pixels
    assert torch.equal(whole[1:2], network(x[1:2]))
    index = torch.tensor([[0.5 / 96, 99.5 / 100], [95.5 / 96, 0.5 / 100]])
    found = network.at(x, index.expand(3, -1, -1))
    wanted = torch.stack([whole[:, :, 0, 99], whole[:, :, 95, 0]], 2)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_another_size_shows_the_same_field() -> None:
    network = untouched(radius=0.6, rings=2, angles=4)
    coarse, fine = smooth_picture(32, 48), smooth_picture(64, 96)
    assert float((network(coarse, size=(64, 96)) - fine).abs().amax()) < 0.01
    assert float((network(coarse) - coarse).abs().amax()) < 0.01


def test_gradient_reaches_layers_and_offsets() -> None:
    network, x = LocalField(width=4, rings=2, angles=3, detail=True), smooth_picture(12, 12)
    AtPixels(pixels=20).of_network(network, x, x, generator()).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_it_learns_to_denoise_and_remembers_the_level() -> None:
    picture = smooth_picture(64, 64)
    pairs = NoisyPairs([picture], noise_std=0.2, crop=32)
    trained = train(
        LocalField(width=16, depth=1),
        pairs,
        [Stage(AtPixels(L2(), pixels=64), 60, 3e-3, 4)],
        progress=False,
    )
    network = trained.network
    noisy = picture + 0.2 * torch.randn(1, 1, 64, 64, generator=generator(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gain = it.metrics.psnr(network(noisy), picture) - it.metrics.psnr(noisy, picture)
    assert float(gain) > 6
    with pytest.warns(MeasurementWarning, match="was trained with levels from"):
        network(picture + 0.05 * (noisy - picture))


def test_a_network_in_training_does_not_judge_its_inputs() -> None:
    """The next training may be for another noise."""
    network, x = LocalField(width=4), 0.5 * torch.rand(1, 1, 32, 32, generator=generator())
    network.remember(0.01 * x)
    with pytest.warns(MeasurementWarning, match="was trained with levels from"):
        network.eval()(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network.train()(x)


def test_holes_do_not_darken_their_surroundings() -> None:
    picture = torch.full((1, 1, 24, 24), 0.8)
    pairs = InpaintingPairs([picture], crop=24, known=0.5, shrink=1)
    shown, wanted = pairs.draw(2, generator())
    network = untouched(mask=True, detail=True)
    assert float((network(shown) - wanted).abs().amax()) < 1e-5
    assert torch.equal(
        network(shown),
        network(shown + (1 - shown[:, 1:]) * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)),
    )  # values in holes are not used


def test_pairs_of_inputs_and_truths() -> None:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (8, 8))
    picture = torch.rand(1, 1, 20, 20, generator=generator())
    y, x = MeasuredPairs([picture], A, 0.01).draw(2, generator(1))
    first, same = MeasuredPairs([picture], A, 0.01, inverted=True).draw(2, generator(1))
    assert torch.equal(same, x) and torch.allclose(first, A.pseudo_inverse(y))
    shown, wanted = Examples(first, x).draw(5, generator(2))
    assert all(
        any(torch.equal(s, f) and torch.equal(w, t) for f, t in zip(first, x))
        for s, w in zip(shown, wanted)
    )
    with pytest.raises(InputError, match="a true image for each input"):
        Examples(first, x[:1])
    with pytest.raises(InputError, match="pseudo_inverse of a linear operator"):
        MeasuredPairs([picture], it.as_operator(torch.sin, (1, 8, 8), (1, 8, 8)), 0.0, True)


def test_bad_input() -> None:
    network = LocalField(width=8)
    with pytest.raises(InputError, match="9 pixels wide, and the image has 8 x 20"):
        network(torch.zeros(1, 1, 8, 20))
    with pytest.raises(InputError, match=r"takes torch.float32 images \(batch, 1, rows"):
        network(torch.zeros(1, 2, 20, 20))
    with pytest.raises(InputError, match="got torch.complex64"):
        network(torch.zeros(1, 1, 20, 20, dtype=torch.complex64))
    with pytest.raises(InputError, match=r"places \(1, n, 2\) for 1 images"):
        network.at(torch.zeros(1, 1, 20, 20), torch.zeros(5, 2))
    with pytest.raises(InputError, match="the mask included"):
        LocalField(width=8, mask=True)(torch.zeros(1, 1, 20, 20))
    with pytest.raises(InputError, match="at least 1 x 1"):
        network(torch.zeros(1, 1, 20, 20), size=(0, 10))
    with pytest.raises(InputError, match=r"images of \(rows, columns\), .* got 40"):
        network(torch.zeros(1, 1, 20, 20), size=40)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rings of LocalField must be at least 2"):
        LocalField(rings=1)
    with pytest.raises(InputError, match="pixels of AtPixels must be at least 1"):
        AtPixels(pixels=0)
    with pytest.raises(InputError, match=r"a method at\(x, places\)"):
        x = torch.zeros(1, 1, 8, 8)
        AtPixels().of_network(nn.Identity(), x, x, generator())
    with pytest.raises(InputError, match="multiple of shrink"):
        InpaintingPairs([torch.zeros(1, 1, 20, 20)], crop=15, known=0.5)
