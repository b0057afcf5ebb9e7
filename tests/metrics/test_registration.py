"""Jacobian determinant, folding, Dice and Hausdorff distance, against closed forms."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import hausdorff_distance

from invtoolbox.errors import InputError
from invtoolbox.metrics import dice, folding, hausdorff, jacobian_determinant


@pytest.mark.parametrize("space, spacing", [((5, 6), (2.0, 0.5)), ((4, 5, 6), (2.0, 1.0, 0.5))])
def test_the_jacobian_of_a_linear_map_is_its_determinant(space, spacing) -> None:
    d = len(space)
    matrix = 0.3 * torch.randn(d, d, generator=torch.Generator().manual_seed(0)).double()
    axes = [h * torch.arange(n).double() for n, h in zip(space, spacing)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    u = torch.einsum("ij,j...->i...", matrix, places)[None]
    expected = torch.linalg.det(torch.eye(d).double() + matrix)
    assert torch.allclose(jacobian_determinant(u, spacing), expected)
    mirrored = torch.stack([-2 * places[0], *(0 * places[1:])])[None]
    assert folding(torch.cat([u, mirrored]), spacing).tolist() == [float(expected <= 0), 1.0]


def test_overlap_per_item_and_label() -> None:
    a, b = torch.zeros(2, 1, 9, 9).int(), torch.zeros(2, 1, 9, 9).int()
    a[:, :, 2:5, 2:5], b[0, :, 2:5, 3:6], b[1, :, 2:5, 2:5] = 2, 2, 2
    assert torch.allclose(dice(a, b, label=2), torch.tensor([2 / 3, 1.0]))
    assert dice(a, b, label=7).isnan().all()
    assert hausdorff(a, b, label=2).tolist() == [1.0, 0.0]
    assert hausdorff(a, b, (1.0, 2.5), label=2)[0] == 2.5
    assert hausdorff(a, b, label=7).isnan().all()
    expected = hausdorff_distance(*(x[0, 0].numpy() == 2 for x in (a, b)))
    assert float(hausdorff(a, b, label=2)[0]) == expected
    assert hausdorff(a, b, label=2, percentile=0.0)[0] == 0


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        dice(torch.zeros(1, 1, 3), torch.zeros(1, 1, 4))
    with pytest.raises(InputError, match="displacement"):
        jacobian_determinant(torch.zeros(1, 1, 3, 3))
    with pytest.raises(InputError, match="spacing"):
        jacobian_determinant(torch.zeros(1, 2, 3, 3), (1.0,))
