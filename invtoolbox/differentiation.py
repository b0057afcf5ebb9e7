r"""Differentiate a solution in what the problem and the prior hold: measurements, geometry, weights of a network.

At a minimiser of a smooth objective ``grad F(x; theta) = 0``, so by the implicit function theorem
``dx/dtheta = -H^{-1} d_theta grad F`` with H the Hessian. The vector-Jacobian product needs one solve with H, done
here by conjugate gradients on Hessian-vector products: no iteration of the solver is stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective import Objective
from invtoolbox.operators.base import expand
from invtoolbox.solvers.inner_cg import conjugate_gradients


def differentiable(x: Tensor, objective: Objective) -> Tensor:
    """``x`` with a graph to every tensor of the problem and the prior that requires a gradient.

    Raises:
        InputError: where the objective is not smooth, or has an implicit prior.
    """
    for _, prior in objective.terms:
        if "gradient" not in prior.offers or not prior.smooth:
            raise InputError(f"differentiate='implicit' needs a smooth objective, and {prior!r} is not differentiable")
    if objective.layout is not None:
        what = f"{objective.prior.implicit!r} is an implicit prior" if objective.unknowns is None else "the operator has unknowns"
        raise InputError(f"differentiate='implicit' works on images, and {what}")
    point = x.detach()
    with torch.enable_grad():
        # `free` stands for x inside the gradient; the graph to theta goes through everything else.
        free = point.clone().requires_grad_(True)
        gradient = _gradient(objective, free)
    if not gradient.requires_grad:
        raise InputError("differentiate='implicit' found no tensor that requires a gradient in the problem or the prior")
    attached: Tensor = _ImplicitFunction.apply(point, gradient, free)
    return attached


class _ImplicitFunction(torch.autograd.Function):
    """Forward: x. Backward: ``-H^{-1} v`` goes into the graph of ``grad F``, which carries it on to theta."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor, free: Tensor) -> Tensor:
        ctx.gradient, ctx.free = gradient, free
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        def hessian(v: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(ctx.gradient, ctx.free, v, retain_graph=True)
            return product

        return None, -conjugate_gradients(hessian, outputs[0], 1e-6, 500)[0], None


def _gradient(objective: Objective, x: Tensor) -> Tensor:
    """``grad F`` with a graph to x and to every tensor that requires a gradient."""
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
