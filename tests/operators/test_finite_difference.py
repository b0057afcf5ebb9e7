"""The discrete gradient: its adjoint, its values at the border, and its norm."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.operators import FiniteDifference

SHAPES = [(1, 1), (1, 2), (1, 7), (2, 8), (1, 5, 6), (3, 4, 4), (1, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("periodic", [False, True])
def test_adjoint_and_norm_are_those_of_the_matrix(shape: tuple[int, ...], periodic: bool) -> None:
    D = FiniteDifference(shape, periodic)
    size = torch.Size(shape).numel()
    basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
    matrix = D(basis).flatten(1).T
    rows = torch.eye(len(matrix), dtype=torch.float64).view(len(matrix), *D.range_shape)
    torch.testing.assert_close(D.adjoint(rows).flatten(1), matrix)
    expected = torch.linalg.matrix_norm(matrix, 2)
    torch.testing.assert_close(D.norm(dtype=torch.float64)[0], expected, rtol=1e-12, atol=1e-7)


def test_border() -> None:
    x = torch.tensor([[[0.0, 1.0, 3.0], [10.0, 12.0, 15.0]]])[None]
    assert FiniteDifference((1, 2, 3))(x).tolist() == [
        [[[10, 11, 12], [0, 0, 0]], [[1, 2, 0], [2, 3, 0]]]
    ]
    wrapped = FiniteDifference((1, 2, 3), periodic=True)(x)
    assert wrapped.tolist() == [[[[10, 11, 12], [-10, -11, -12]], [[1, 2, -3], [2, 3, -5]]]]
    constant = torch.ones(1, 1, 2, 3)
    assert not bool(FiniteDifference((1, 2, 3))(constant).any())
