"""Operators under `torch.func` and `torch.compile`: the same numbers as calls one by one."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import invtoolbox as it
from invtoolbox.operators import LinearOperator

F64 = torch.float64
ANGLES = torch.linspace(0.1, 2.9, 4, dtype=F64)
OPERATORS = {
    "parallel": lambda: it.operators.ParallelBeam((5, 4), ANGLES, 6),
    "fan": lambda: it.operators.FanBeam((5, 4), ANGLES, 6, source_origin=20, source_detector=30),
    "cone": lambda: it.operators.ConeBeam((3, 4, 5), ANGLES, (3, 8), 20.0, 30.0, 1.0, 1.0),
    "parallel 3D": lambda: it.operators.ParallelBeam3D((3, 4, 5), ANGLES, (3, 4), 1.0, 1.0),
    "blur": lambda: it.operators.Blur(torch.rand(3, 3, dtype=F64), (5, 4)),
    "differences": lambda: it.operators.FiniteDifference((1, 5, 4)),
    "sparse": lambda: it.as_operator(torch.rand(7, 20, dtype=F64).to_sparse_csr(), (1, 5, 4)),
}


def operator(name: str) -> LinearOperator:
    torch.manual_seed(0)
    return OPERATORS[name]().to(F64)


@pytest.mark.parametrize("name", OPERATORS)
def test_vmap_is_a_loop_and_jacobians_are_the_matrix(name: str) -> None:
    A = operator(name)
    x = torch.rand(3, 2, *A.domain_shape, dtype=F64)
    y = torch.rand(3, 2, *A.range_shape, dtype=F64)  # type: ignore[misc]
    torch.testing.assert_close(vmap(A)(x), torch.stack([A(one) for one in x]), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        vmap(A.adjoint, in_dims=1, out_dims=1)(y),
        torch.stack([A.adjoint(one) for one in y.unbind(1)], 1),
        rtol=0,
        atol=1e-14,
    )
    size = x[0, 0].numel()
    basis = torch.eye(size, dtype=F64).reshape(size, *A.domain_shape)
    matrix = A(basis).reshape(size, -1).T
    for jacobian in (jacrev(A), jacfwd(A)):
        torch.testing.assert_close(jacobian(x[0, :1]).reshape(-1, size), matrix)
    squares = hessian(lambda v: A(v).square().sum() / 2)(x[0, :1]).reshape(size, size)
    torch.testing.assert_close(squares, matrix.T @ matrix)
    slopes = vmap(grad(lambda v: A(v[None]).square().sum() / 2))(x[0])
    torch.testing.assert_close(slopes, A.adjoint(A(x[0])))


@pytest.mark.parametrize("name", ["parallel", "fan", "cone"])
def test_jacobians_in_the_angles_against_differences(name: str) -> None:
    A = operator(name)
    x, h = torch.rand(2, *A.domain_shape, dtype=F64), 1e-6

    def project(angles: torch.Tensor) -> torch.Tensor:
        return A.with_parameters(angles=angles)(x)

    turns = h * torch.eye(len(ANGLES), dtype=F64)
    wanted = torch.stack(
        [(project(ANGLES + turn) - project(ANGLES - turn)) / (2 * h) for turn in turns], -1
    )
    for jacobian in (jacrev(project), jacfwd(project)):
        torch.testing.assert_close(jacobian(ANGLES), wanted, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parallel", "cone"])
def test_a_compiled_function_applies_a_projector(name: str) -> None:
    A = operator(name)

    def misfit(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(A(x.relu())).square().sum()

    x, same = (torch.rand(2, *A.domain_shape, dtype=F64).requires_grad_() for _ in range(2))
    with torch.no_grad():
        same.copy_(x)
    misfit(x).backward()
    torch.compile(misfit, backend="eager")(same).backward()
    assert torch.equal(x.grad, same.grad)  # type: ignore[arg-type]
