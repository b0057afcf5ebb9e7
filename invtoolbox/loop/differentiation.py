r"""Differentiate a solution with respect to tensors of the problem and the prior.

These are measurements, geometry, or weights of a network. At a root of ``r(x; theta)``, by the
implicit function theorem, ``dx/dtheta = -J^{-1} d_theta r`` with J the derivative of r in x. The
vector-Jacobian product needs one solve with ``J^T``, by products with it: no iteration of the
solver is stored.

At a minimizer of a smooth objective ``r = grad F`` and J is the Hessian, so conjugate gradients
solve the system. At a fixed point of a solver's step T, ``r = x - T(x)`` and ``J = I - T'`` is not
symmetric, so GMRES solves it. Objectives that are not smooth are differentiated this way: T is
differentiable almost everywhere (`differentiate_fixed_point`, `unrolling.equilibrium`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.pytrees import tree_leaves
from invtoolbox.errors import InputError, warn_user
from invtoolbox.loop.run import CONVERGED, Loop
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.linear_systems import conjugate_gradients, gmres


def differentiates_fixed_point(objective: Objective, solver: Solver) -> bool:
    """Whether the derivative belongs to the solver's fixed point, since a term is not smooth.

    Raises:
        InputError: if the solver has none.
    """
    rough: list[Any] = [p for _, p in objective.terms if "gradient" not in p.offers or not p.smooth]
    if not objective.problem.data_term.is_smooth:
        rough.append(objective.problem.data_term)
    if rough and not type(solver).has_fixed_point():
        raise InputError(
            f"differentiate='implicit' needs the fixed point of a solver, since {rough[0]!r} is "
            f"not differentiable, and {type(solver).__name__} has none; give "
            "solver=it.solvers.PDHG() or ADMM()"
        )
    return bool(rough)


def differentiate_answer(
    x: Tensor, objective: Objective, working: Objective, solver: Solver, loop: Loop, weight: Tensor
) -> Tensor:
    """Return the answers of a solve with a graph; a warning reports items without convergence.

    Args:
        x: the answers, ``(batch, channel, *space)``.
        objective: the objective.
        working: the objective as the solver reformulated it.
        solver: the solver.
        loop: the loop at its end; it keeps states if the fixed point is differentiated.
        weight: weight of the explicit priors, which may require a gradient, ``(batch,)``.
    """
    _warn_if_unconverged(loop, solver.certificate_name)
    if not loop.keeps_state:
        return differentiable(x, objective.with_regularization(weight))
    here = working.with_regularization(weight).at(loop.iteration)
    adjoint = solve_by_gmres(1e-6, 500, "see whether the solver has converged")
    return differentiate_fixed_point(x, here, solver, loop.summary, adjoint, working.decode)


def differentiable(x: Tensor, objective: Objective) -> Tensor:
    """Return ``x`` with a graph to all tensors of problem and prior that require a gradient.

    The objective is smooth; x is its minimizer.

    Raises:
        InputError: if the objective has an implicit prior, or nothing requires a gradient.
    """
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
        gradient = gradient_with_graph(objective, free)
    if not gradient.requires_grad:
        raise InputError(
            "differentiate='implicit' found no tensor that requires a gradient in the problem or "
            "the prior"
        )
    return attach_root(
        gradient, free, lambda hessian, right: conjugate_gradients(hessian, right, 1e-6, 500)[0]
    )


def check_differentiable(solver: Solver, objective: Objective, state: Any) -> None:
    """Raise an `InputError` if the graph ends inside of a step.

    A prox that is itself iterated gives numbers, not a function.
    """
    if all(
        tensor.requires_grad
        for name, tensor in tree_leaves(state)
        if name == "x" or name.startswith("splits")
    ):
        return
    iterated = next((prior for _, prior in objective.terms if not prior.has_exact_prox), None)
    why = (
        f"the prox of {iterated!r} is iterated to a tolerance"
        if iterated is not None
        else "a prior or the operator gives no graph"
    )
    raise InputError(
        f"a step of {type(solver).__name__} cannot be differentiated here, because {why}; ADMM and "
        "PDHG split priors behind linear operators, and those steps can be"
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


def differentiate_fixed_point(
    x: Tensor,
    objective: Objective,
    solver: Solver,
    state: Any,
    adjoint: AdjointSolve,
    decode: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the answers with the graph of the solver's fixed point.

    Args:
        x: the answers, ``(batch, channel, *space)``.
        objective: objective with a graph to all tensors that require a gradient.
        solver: solver whose `Solver.apply_map` has the fixed point.
        state: its state at the answers.
        adjoint: function that solves the adjoint equation; see `solve_by_gmres`.
        decode: maps the variable of the solver to the image.
    """
    parts = [t.detach() for t in solver.fixed_point(state)]
    free = _pack(parts).requires_grad_(True)
    residual = free - _pack(solver.apply_map(objective, state, _unpack(free, parts)))
    root = attach_root(residual, free, adjoint)
    settled = solver.at_point(objective, state, _unpack(root, parts))
    check_differentiable(solver, objective, settled)
    answer = decode(solver.result(settled))
    # The value is the solver's own; the graph adds nothing to it.
    return x + (answer - answer.detach())


def _warn_if_unconverged(loop: Loop, name: str) -> None:
    """Warn if derivatives are wrong because items have not converged; ``name`` of the certificate."""
    short = (loop.status != CONVERGED).nonzero().flatten().tolist()
    if not short:
        return
    rows = [loop.history[max(0, int(loop.iterations[k]) - 1)][1] for k in short if loop.history]
    certificates = [float(row[k].nan_to_num(math.inf)) for k, row in zip(short, rows)]
    warn_user(
        f"differentiate='implicit' assumes converged answers, and {len(short)} of "
        f"{len(loop.status)} items have not converged (the {name} is up to "
        f"{max(certificates, default=math.inf):.2g}), so that their derivatives are wrong; give more "
        "max_iterations="
    )


def solve_by_gmres(tolerance: float, max_iterations: int, remedy: str) -> AdjointSolve:
    """Return the function that solves adjoint equations by GMRES; a warning reports failures.

    Args:
        tolerance: relative residual.
        max_iterations: largest number of products.
        remedy: advice of the warning.
    """

    def solve(product: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
        solution, residual = gmres(product, right, tolerance, max_iterations)
        left = residual > 10 * tolerance
        if bool(left.any()):
            warnings.warn(
                f"the adjoint equation of {int(left.sum())} of {len(left)} items was solved to "
                f"{float(residual.max()):.2g} only; {remedy}",
                stacklevel=2,
            )
        return solution

    return solve


def gradient_with_graph(objective: Objective, x: Tensor) -> Tensor:
    """Return ``grad F`` with a graph to x and to every tensor that requires a gradient."""
    problem = objective.problem
    value = problem.data_term.value(problem.operator(x), problem.y)
    closed = torch.zeros_like(x)
    for weight, prior in objective.terms:
        if "energy" in prior.offers and not prior.gradient_has_graph:
            value = value + weight * prior.energy(x)
        else:
            closed = closed + expand(weight, x) * prior.gradient(x)
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return gradient + closed


def _pack(parts: Sequence[Tensor]) -> Tensor:
    """Return one real vector per item."""
    return torch.cat(
        [(torch.view_as_real(t) if t.is_complex() else t).flatten(1) for t in parts], 1
    )


def _unpack(vector: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    sizes = [t[0].numel() * (2 if t.is_complex() else 1) for t in like]
    pieces = torch.split(vector, sizes, 1)
    return tuple(
        torch.view_as_complex(piece.reshape(*t.shape, 2))
        if t.is_complex()
        else piece.reshape(t.shape)
        for piece, t in zip(pieces, like)
    )
