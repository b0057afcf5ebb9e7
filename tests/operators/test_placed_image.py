"""An image on a grid of its own at displaced points, and linear motions of its points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators import PlacedImage
from invtoolbox.priors import AffineMap

B = torch.tensor([[0.1, 0.5, 2.0], [0.4, -0.1, 3.0]], dtype=torch.float64)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_it_interpolates_as_scipy() -> None:
    image, points, u = draw(1, 2, 9, 11), 4 * draw(2, 5, 6), 0.3 * draw(2, 2, 5, 6)
    out = PlacedImage(image, B, points)(u)
    for item in range(2):
        index = (
            np.tensordot(B[:, :2].numpy(), (points + u[item]).numpy(), 1)
            + B[:, 2:].numpy()[..., None]
        )
        for channel in range(2):
            goal = ndimage.map_coordinates(
                image[0, channel].numpy(), index, order=1, mode="nearest"
            )
            assert np.allclose(out[item, channel], goal)


def test_its_gradient_is_right() -> None:
    A = PlacedImage(draw(1, 1, 6, 7), B, draw(2, 3, 3))
    assert torch.autograd.gradcheck(A, (0.1 * draw(1, 2, 3, 3)).requires_grad_())


def test_a_matrix_of_another_dimension_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(2, 3\)"):
        PlacedImage(draw(1, 1, 6, 7), torch.eye(3), draw(2, 3, 3))


@pytest.mark.parametrize(
    "kind, count", [("translation", 3), ("rigid", 6), ("similarity", 7), ("affine", 12)]
)
def test_every_kind_of_motion(kind: str, count: int) -> None:
    A = PlacedImage(draw(1, 1, 4, 4, 4), torch.eye(4)[:3], draw(3, 4, 4, 4))
    prior = AffineMap(kind).prepare(it.Problem(draw(1, 1, 4, 4, 4), A), it.solve)
    assert prior.initial()["motion"].shape == (1, count)
    T = prior.matrices({"motion": draw(5, count)})
    linear = T[:, :3, :3]
    assert (linear.det() > 0).all()
    square = linear @ linear.transpose(1, 2)
    if kind in ("rigid", "translation"):
        assert torch.allclose(square, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    if kind == "similarity":
        assert torch.allclose(square, square[:, :1, :1] * torch.eye(3, dtype=torch.float64))
    u = prior.decode({"motion": draw(5, count)})
    goal = (
        torch.einsum("bij,jklm->biklm", linear, A.points) + T[:, :3, 3, None, None, None] - A.points
    )
    assert torch.allclose(u, goal)


def test_landmarks_and_starts() -> None:
    start = torch.eye(3)[None].repeat(2, 1, 1)
    start[1, :2, 2] = 1.0
    p = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    A = PlacedImage(torch.ones(1, 1, 3, 3), torch.eye(3)[:2], draw(2, 3, 3).float())
    prior = AffineMap("rigid", start, landmarks=(p, p), landmark_weight=3.0)
    bound = prior.prepare(it.Problem(torch.ones(2, 1, 3, 3), A), it.solve)
    z = bound.initial()
    assert torch.allclose(bound.energy(z, bound.decode(z)), torch.tensor([0.0, 6.0]))
    with pytest.raises(InputError, match="PlacedImage"):
        prior.prepare(it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4))), it.solve)


def test_positions_that_are_nan_give_nan_and_a_derivative() -> None:
    """The sampling of torch alone ends the process."""
    points = torch.stack(
        torch.meshgrid(*[torch.arange(9.0, dtype=torch.float64)] * 2, indexing="ij")
    )
    B = torch.eye(3, dtype=torch.float64)[:2]
    A = PlacedImage(torch.rand(1, 1, 9, 9, dtype=torch.float64), B, points)
    u = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    u[..., 0, 0] = torch.nan
    u.requires_grad_()
    y = A(u)
    assert bool(y[0, 0, 0, 0].isnan()) and int(y.isnan().sum()) == 1
    assert torch.autograd.grad(y.nansum(), u)[0].flatten(2)[..., 1:].isfinite().all()
