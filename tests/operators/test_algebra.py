"""The algebra of operators, against dense matrices on random shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators import (
    Blur,
    FiniteDifference,
    Identity,
    Inpainting,
    LinearOperator,
    Matrix,
    Operator,
    stack,
)
from invtoolbox.testing import check_operator

shapes = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _flat(value: Any) -> Tensor:
    return (
        torch.cat([part.flatten(1) for part in value], dim=1)
        if isinstance(value, tuple)
        else value.flatten(1)
    )


def dense(A: Operator) -> Tensor:
    """The matrix of a linear operator, column by column."""
    n = torch.Size(A.domain_shape).numel()
    return _flat(A(torch.eye(n, dtype=torch.float64).reshape(n, *A.domain_shape))).T


def _operator(kind: str, shape: tuple[int, int, int], seed: int) -> LinearOperator:
    c, h, w = shape
    if kind == "blur":
        return Blur(_random(min(2, h), min(3, w), seed=seed), shape)
    if kind == "mask":
        return Inpainting(_random(c, h, w, seed=seed), shape)
    if kind == "matrix":
        return Matrix(_random(c * h * w, c * h * w, seed=seed), shape, shape)
    return Identity(shape)


kinds = st.sampled_from(["blur", "mask", "matrix", "identity"])


@settings(max_examples=12, deadline=None)
@given(shape=shapes, first=kinds, second=kinds, a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_expressions_are_those_of_matrices(
    shape: tuple[int, int, int], first: str, second: str, a: float, b: float
) -> None:
    A, B = _operator(first, shape, 1), _operator(second, shape, 2)
    MA, MB = dense(A), dense(B)
    for expression, matrix in (
        (A @ B, MA @ MB),
        (A + B, MA + MB),
        (A - B, MA - MB),
        (a * A, a * MA),
        (A * a, a * MA),
        (-A, -MA),
        (a * A + b * (B @ A), a * MA + b * MB @ MA),
        (A.T, MA.T),
        (A.H, MA.T),
        ((A @ B).T, MB.T @ MA.T),
        (A.T @ A, MA.T @ MA),
        ((a * A).T, a * MA.T),
        (stack([A, b * B]), torch.cat([MA, b * MB])),
        (stack([A, B]).T @ stack([A, B]), MA.T @ MA + MB.T @ MB),
    ):
        assert isinstance(expression, LinearOperator)
        torch.testing.assert_close(dense(expression), matrix, rtol=1e-11, atol=1e-11)
        report = check_operator(expression, precisions=(torch.float64,), batch=2, raise_error=False)
        # Where everything cancels, relative figures mean nothing.
        assert report.ok or float(torch.linalg.matrix_norm(matrix)) < 1e-9 * float(
            MA.norm() + MB.norm()
        ), str(report)


@settings(max_examples=30, deadline=None)
@given(shape=shapes, periodic=st.booleans())
def test_finite_differences(shape: tuple[int, int, int], periodic: bool) -> None:
    assume(shape[1] * shape[2] > 1)
    D, x = FiniteDifference(shape, periodic), _random(2, *shape)
    y = D(x).unflatten(1, (shape[0], 2))
    for k in range(2):
        axis = k + 2
        expected = x.roll(-1, axis) - x
        if not periodic:
            expected.narrow(axis, shape[k + 1] - 1, 1).zero_()
        torch.testing.assert_close(y[:, :, k], expected)
    check_operator(D, batch=2)
    assert float(D.norm()) ** 2 <= 8 + 1e-4


@settings(max_examples=30, deadline=None)
@given(shape=shapes, kind=kinds)
def test_norm_and_closed_forms(shape: tuple[int, int, int], kind: str) -> None:
    A = _operator(kind, shape, 3)
    exact = float(torch.linalg.matrix_norm(dense(A), 2))
    for scaled, factor in ((A, 1.0), (-2.5 * A, 2.5), (A.T, 1.0)):
        estimate = float(scaled.norm(dtype=torch.float64, tolerance=1e-9, max_iterations=3000))
        assert exact * factor * 0.999 <= estimate <= exact * factor * (1 + 1e-9)


def test_one_factor_an_item() -> None:
    x = _random(3, 1, 4, 5)
    A = torch.tensor([1.0, 2.0, -3.0]) * Blur(_random(2, 2), (1, 4, 5))
    assert A.items == 3
    torch.testing.assert_close(A(x)[2], -3 * Blur(_random(2, 2), (1, 4, 5))(x)[2])
    torch.testing.assert_close(A.select(torch.tensor([2]))(x[2:]), A(x)[2:])
    check_operator(A)
    factor = torch.tensor([1.0 + 1j, 2.0])
    C = factor * Identity((1, 4, 5))
    z = torch.complex(_random(2, 1, 4, 5), _random(2, 1, 4, 5, seed=1))
    torch.testing.assert_close(C(z), factor.view(2, 1, 1, 1) * z)
    torch.testing.assert_close(C.adjoint(z), factor.conj().view(2, 1, 1, 1) * z)


def test_closed_forms_survive_a_factor() -> None:
    A, v = Blur(_random(3, 3), (1, 6, 5), "periodic"), _random(2, 1, 6, 5)
    scaled, weight = torch.tensor([0.5, -2.0]) * A, torch.tensor([1.0, 3.0])
    assert (
        scaled.has_normal_resolvent
        and not (2 * Blur(_random(3, 3), (1, 6, 5))).has_normal_resolvent
    )
    x = scaled.normal_resolvent(v, 0.3, weight)
    torch.testing.assert_close(weight.double().view(2, 1, 1, 1) * scaled.normal(x) + 0.3 * x, v)
    torch.testing.assert_close(
        scaled.norm(dtype=torch.float64),
        A.norm(dtype=torch.float64) * torch.tensor([0.5, 2.0]).double(),
    )


def test_parameters_of_a_combination() -> None:
    kernels, x = _random(2, 2, 2), _random(2, 1, 4, 5)
    mask = Inpainting(torch.ones(4, 5), (1, 4, 5))
    A = mask @ Blur(kernels, (1, 4, 5)) + 2.0 * Identity((1, 4, 5))
    assert A.items == 2 and {name.rsplit(".", 1)[1] for name in A.parameters()} == {
        "mask",
        "kernel",
    }
    name = next(n for n in A.parameters() if n.endswith("kernel"))
    B = A.with_parameters(**{name: 0 * kernels[:, None]})
    torch.testing.assert_close(B(x), 2 * x)
    torch.testing.assert_close(A.select(torch.tensor([1]))(x[1:]), A(x)[1:])
    assert A.to(torch.float32)(x.float()).dtype == torch.float32
    with pytest.raises(it.InputError, match="different sizes"):
        _ = Blur(kernels, (1, 4, 5)) + Blur(_random(3, 2, 2), (1, 4, 5))
    with pytest.raises(it.InputError, match="no parameter 'angle'"):
        A.with_parameters(angle=torch.ones(1))


def test_nonlinear_operators() -> None:
    square = it.as_operator(torch.square, (1, 4, 5))
    blur = Blur(_random(3, 3), (1, 4, 5))
    x, v = _random(2, 1, 4, 5), _random(2, 1, 4, 5, seed=1)
    for A, derivative in (
        (blur @ square, blur(2 * x * v)),
        (square @ blur, 2 * blur(x) * blur(v)),
        (square + blur, 2 * x * v + blur(v)),
        (3.0 * square, 6 * x * v),
    ):
        assert not isinstance(A, LinearOperator)
        torch.testing.assert_close(A.linearize(x)(v), derivative)
        check_operator(A, x)
    both = stack([square, blur])
    torch.testing.assert_close(both.linearize(x)(v)[0], 2 * x * v)
    check_operator(both, x)


@pytest.mark.parametrize(
    ("combine", "message"),
    [
        (lambda: Identity((1, 4, 5)) @ FiniteDifference((1, 5, 4)), "does not fit"),
        (lambda: Identity((1, 4, 5)) + FiniteDifference((1, 4, 5)), "does not fit"),
        (lambda: stack([Identity((1, 4, 5)), Identity((1, 5, 4))]), "same images"),
        (lambda: stack([]), "at least one"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(combine: Any, message: str) -> None:
    with pytest.raises(it.InputError, match=message):
        combine()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4, 5), "add a batch axis and a channel axis in front"),
        (torch.zeros(1, 4, 5), "add a batch axis in front"),
        (torch.zeros(1, 1, 4, 6), r"axis 3 \(column\) has 6, expected 5"),
        (torch.zeros(1, 2, 4, 5), r"axis 1 \(channel\) has 2, expected 1"),
        ([1.0], "torch tensor"),
    ],
)
def test_wrong_images_are_told_which_axis(x: Any, message: str) -> None:
    with pytest.raises(it.InputError, match=message):
        FiniteDifference((1, 4, 5))(x)
