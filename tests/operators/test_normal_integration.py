"""Slopes of depth maps along their normals: the adjoint, the system, and what the rows mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators import Inpainting, NormalIntegration, SideGap
from invtoolbox.testing import check_operator

K = torch.tensor([[20.0, 0.0, 4.0], [0.0, 22.0, 3.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def operator(sides: int = 1, camera: Tensor | None = None) -> NormalIntegration:
    generator = torch.Generator().manual_seed(0)
    n = torch.randn(2, sides, 3, 6, 9, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 1, 6, 9, generator=generator) > 0.2
    return NormalIntegration(n / n.norm(dim=2, keepdim=True), mask, camera)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("camera", [None, K])
def test_keeps_the_contracts(sides: int, camera: Tensor | None) -> None:
    check_operator(operator(sides, camera))


def test_the_gap_keeps_the_contracts() -> None:
    check_operator(
        SideGap(torch.rand(2, 1, 6, 9, generator=torch.Generator().manual_seed(0)) > 0.5)
    )


@pytest.mark.parametrize("kind", ["normals", "gap", "mask"])
def test_the_grid_system_is_the_weighted_normal_operator(kind: str) -> None:
    A = {
        "normals": operator(2),
        "gap": SideGap(torch.ones(1, 1, 6, 9, dtype=torch.bool)),
        "mask": Inpainting(torch.eye(6, 9), (2, 6, 9)),
    }[kind]
    generator = torch.Generator().manual_seed(1)
    w = torch.rand(2, *A.range_shape, generator=generator, dtype=torch.float64)
    z = torch.randn(2, *A.domain_shape, generator=generator, dtype=torch.float64)
    system = A.grid_system(w)
    assert system is not None
    assert torch.allclose(system.product(z), A.adjoint(w * A(z)), atol=1e-12)


def test_a_plane_in_perspective_fits_its_normals() -> None:
    v, u = torch.meshgrid(
        torch.arange(6.0, dtype=torch.float64),
        torch.arange(9.0, dtype=torch.float64),
        indexing="ij",
    )
    n = torch.tensor([0.2, -0.3, 0.93], dtype=torch.float64)  # x right, y up, z to the camera
    n = n / n.norm()
    ray = torch.stack([(u - K[0, 2]) / K[0, 0], -(v - K[1, 2]) / K[1, 1], -torch.ones_like(u)], -1)
    depth = -5 / (ray @ n)
    normals = n.view(1, 1, 3, 1, 1).expand(1, 1, 3, 6, 9)
    A = NormalIntegration(normals, torch.ones(1, 1, 6, 9, dtype=torch.bool), K)
    z = depth.log()[None, None]
    # Differences of logarithms are derivatives up to second order.
    assert (A(z) - A.measurements()).abs().max() < 0.005
    assert (A(z) + A.measurements()).abs().max() > 0.2


def test_shapes_are_named() -> None:
    with pytest.raises(InputError, match="takes a mask"):
        NormalIntegration(torch.zeros(1, 1, 3, 4, 5), torch.ones(1, 1, 5, 4))
    with pytest.raises(InputError, match=r"normals \(batch, sides, 3"):
        NormalIntegration(torch.zeros(1, 3, 4, 5), torch.ones(1, 1, 4, 5))
