r"""Differentiate a solution with respect to tensors of the problem and the prior.

These are measurements, geometry, or weights of a network. At a root of ``r(x; theta)``, by the
implicit function theorem, ``dx/dtheta = -J^{-1} d_theta r`` with J the derivative of r in x. The
vector-Jacobian product needs one solve with ``J^T``, by products with it: no iteration of the
solver is stored.

At a minimizer of a smooth objective ``r = grad F`` and J is the Hessian, so conjugate gradients
solve the system. At a fixed point of a solver's step T, ``r = x - T(x)`` and ``J = I - T'`` is not
symmetric, so GMRES solves it (`unrolling.equilibrium`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand
from invtoolbox.solvers.linear_systems import conjugate_gradients


def differentiable(x: Tensor, objective: Objective) -> Tensor:
    """Return ``x`` with a graph to all tensors of problem and prior that require a gradient.

    Raises:
        InputError: if the objective is not smooth, or has an implicit prior.
    """
    for _, prior in objective.terms:
        if "gradient" not in prior.offers or not prior.smooth:
            raise InputError(
                f"differentiate='implicit' needs a smooth objective, and {prior!r} is not "
                "differentiable"
            )
    if objective.layout is not None:
        what = (
            f"{objective.prior.implicit!r} is an implicit prior"
            if objective.unknowns is None
            else "the operator has unknowns"
        )
        raise InputError(f"differentiate='implicit' works on images, and {what}")
    point = x.detach()
    with torch.enable_grad():
        # `free` stands for x inside the gradient; the graph to theta goes through everything else.
        free = point.clone().requires_grad_(True)
        gradient = _gradient(objective, free)
    if not gradient.requires_grad:
        raise InputError(
            "differentiate='implicit' found no tensor that requires a gradient in the problem or "
            "the prior"
        )
    return attach_root(
        gradient, free, lambda hessian, right: conjugate_gradients(hessian, right, 1e-6, 500)[0]
    )


#: Maps the product with ``J^T`` and a right-hand side to the solution.
AdjointSolve = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def attach_root(residual: Tensor, free: Tensor, solve: AdjointSolve) -> Tensor:
    """Return the value of ``free``, a root of ``residual``, with the implicit function's graph.

    The graph belongs to the solution of ``residual(free; theta) = 0``.

    Args:
        residual: tensor shaped like ``free``, with a graph to it and to theta.
        free: a leaf that represents the root inside of the residual.
        solve: function that solves the adjoint equation.
    """
    return _ImplicitFunction.apply(residual, free, solve)


class _ImplicitFunction(torch.autograd.Function):
    """Forward: the root.

    Backward: ``-J^{-T} v`` enters the graph of the residual, which leads to theta.
    """

    @staticmethod
    def forward(ctx: Any, residual: Tensor, free: Tensor, solve: AdjointSolve) -> Tensor:
        ctx.residual, ctx.free, ctx.solve = residual, free, solve
        return free.detach().clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        def product(v: Tensor) -> Tensor:
            (result,) = torch.autograd.grad(ctx.residual, ctx.free, v, retain_graph=True)
            return result

        return -ctx.solve(product, outputs[0]), None, None


def _gradient(objective: Objective, x: Tensor) -> Tensor:
    """Return ``grad F`` with a graph to x and to every tensor that requires a gradient."""
    problem = objective.problem
    value = problem.data_term.value(problem.operator(x), problem.y)
    without_energy = torch.zeros_like(x)
    for weight, prior in objective.terms:
        if "energy" in prior.offers:
            value = value + weight * prior.energy(x)
        else:
            without_energy = without_energy + expand(weight, x) * prior.gradient(x)
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return gradient + without_energy
