"""The Laplacian of a pixel graph against one that is built edge by edge."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from invtoolbox.operators.graph_laplacian import PixelGraphLaplacian, half_window


def dense_laplacian(image: Tensor, radius: int, scale: float) -> Tensor:
    """Delta of one image ``(channel, *space)`` as the definition says it, in float64."""
    pixels = list(product(*(range(n) for n in image.shape[1:])))
    values = image.double().flatten(1).T
    weights = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
    for a, p in enumerate(pixels):
        for b, q in enumerate(pixels):
            if 0 < max(abs(i - j) for i, j in zip(p, q)) <= radius:
                weights[a, b] = torch.exp(-(values[a] - values[b]).square().sum() / scale)
    weights /= torch.linalg.matrix_norm(weights)
    return torch.diag(weights.sum(1)) - weights


def matrix_of(delta: PixelGraphLaplacian, channels: int = 1) -> Tensor:
    n = torch.Size(delta.domain_shape[1:]).numel()
    columns = torch.eye(n, dtype=torch.float64).view(n, 1, *delta.domain_shape[1:])
    return delta(columns).flatten(1).T


CASES = [((1, 6, 7), 2), ((3, 5, 4), 1), ((1, 3, 5), 4), ((2, 9), 3), ((1, 3, 4, 3), 1)]


@pytest.mark.parametrize(("shape", "radius"), CASES)
def test_equals_the_definition(shape: tuple[int, ...], radius: int) -> None:
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    delta = PixelGraphLaplacian.from_image(image, radius, 0.3)
    assert torch.allclose(matrix_of(delta), dense_laplacian(image[0], radius, 0.3), atol=1e-14)


@pytest.mark.parametrize(("shape", "radius"), CASES)
def test_symmetric_semidefinite_and_zero_on_constants(shape: tuple[int, ...], radius: int) -> None:
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    delta = PixelGraphLaplacian.from_image(image, radius, 0.05)
    matrix = matrix_of(delta)
    assert torch.equal(matrix, matrix.T)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert (
        eigenvalues[0] > -1e-14 and eigenvalues[1] > 1e-12
    )  # connected: constants are all there is
    assert torch.equal(
        delta(torch.full((1, *shape), 3.7, dtype=torch.float64)),
        torch.zeros(1, *shape, dtype=torch.float64),
    )


def test_weights_across_a_jump_vanish() -> None:
    image = torch.tensor([0.0, 1.0]).repeat_interleave(4).expand(1, 1, 8, 8)
    delta = PixelGraphLaplacian.from_image(image, 4, 1e-3)
    assert float(delta(image).abs().max()) == 0.0


def test_every_item_has_its_own_graph() -> None:
    images = torch.rand(3, 2, 8, 9, generator=torch.Generator().manual_seed(3))
    x = torch.randn(3, 2, 8, 9, generator=torch.Generator().manual_seed(4))
    scales = torch.tensor([0.1, 0.3, 0.5])
    delta = PixelGraphLaplacian.from_image(images, 2, scales)
    for k in range(3):
        alone = PixelGraphLaplacian.from_image(images[k : k + 1], 2, float(scales[k]))
        assert torch.allclose(delta(x)[k], alone(x[k : k + 1])[0], rtol=0, atol=1e-8)
    chosen = delta.select(torch.tensor([2, 0]))
    assert torch.equal(chosen(x[[2, 0]]), delta(x)[[2, 0]])
    with pytest.raises(ValueError, match="batch of 3"):
        delta(x[:2])


def test_diagonals() -> None:
    image = torch.rand(1, 1, 5, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    delta = PixelGraphLaplacian.from_image(image, 2, 0.2)
    matrix = matrix_of(delta)
    assert torch.allclose(delta.degree().flatten(), matrix.diagonal())
    assert torch.allclose(delta.normal_diagonal().flatten(), (matrix @ matrix).diagonal())


def test_derivatives_in_image_and_weights() -> None:
    image = torch.rand(1, 1, 4, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    weights = PixelGraphLaplacian.from_image(image, 2, 0.2).edge_weights
    x = torch.randn(2, 1, 4, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def function(w: Tensor, x: Tensor) -> Tensor:
        result: Tensor = PixelGraphLaplacian((1, 4, 5), w, 2)(x)
        return result.square().sum()

    arguments = (weights.requires_grad_(True), x.requires_grad_(True))
    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


def test_half_window_has_one_of_each_pair() -> None:
    offsets = half_window(4, 2)
    assert len(offsets) == 40
    assert not {tuple(-o for o in offset) for offset in offsets} & set(offsets)
