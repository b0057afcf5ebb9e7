"""Exact Gauss-Newton steps from the dual system, which has one row per measurement."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.objective.linearization import Linearization
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior, ImplicitPrior


def dual_reason(objective: Objective, name: str) -> str | None:
    """Return why the dual system does not describe the step of an objective, or ``None``."""
    problem = objective.problem
    if problem.y0.is_complex() or problem.operator.complex_images:
        what = "measurements" if problem.y0.is_complex() else "images"
        return (
            f"{name}(inner='dual') takes real numbers, and the {what} of this problem are complex"
        )
    others = [
        prior
        for _, prior in objective.terms
        if objective.layout is not None or not _is_ridge(prior)
    ]
    # The dual system knows the curvature of the misfit and a multiple of the identity, no other.
    if objective.unknowns is not None:
        others += [t.prior for sum_ in objective.unknowns.priors.values() for t in sum_.terms]
    implicit = objective.prior.implicit
    if others or (implicit is not None and _has_energy(implicit)):
        return (
            f"{name}(inner='dual') takes no prior with a curvature but Tikhonov() on an image, got "
            f"{others[0] if others else implicit!r}; leave out inner='dual'"
        )
    return None


def solve_dual(
    objective: Objective, model: Linearization, variable: Tensor, damping: Tensor
) -> Tensor:
    r"""Return the step d with ``(J^T W J + mu I) d = -(J^T s + b)`` of one item.

    ``s`` and ``W`` are gradient and Hessian of the misfit in the m measurements. ``b`` and a part
    of ``mu`` come from `Tikhonov`, the other part is the damping. With ``K = J J^T``,

    .. math:: d = J^T w - b / \mu, \qquad (W K + \mu I) \, w = -s + W J b / \mu

    (the identity of Duncan 1944 and Guttman 1946). The system has m rows, and J costs m backward
    passes. Without damping and priors d is the shortest step if W is invertible.

    Args:
        objective: objective that `dual_reason` accepts.
        model: its linearization at the variable.
        variable: the variable, ``(1, ...)``.
        damping: damping, ``(1,)``.
    """
    J, W = model.rows(), model.curvature()
    with torch.no_grad():
        decoded = objective.decode_parameters(variable)
        slope = objective.problem.data_term.grad(decoded.operator(decoded.x), objective.problem.y)
    # The right-hand side of the dual system starts with -s, a row of all m measurements.
    slopes = slope if isinstance(slope, tuple) else (slope,)
    right = -torch.cat([s.flatten(1) for s in slopes], 1)
    mu = damping + sum((weight for weight, _ in objective.terms), torch.zeros_like(damping))
    # b, the gradient of the priors, and then b / mu.
    pull = torch.zeros_like(variable)
    for weight, prior in objective.terms:
        pull = torch.addcmul(pull, prior.gradient(variable), expand(weight, pull))
    # Without mu there is no prior, and the quotient is 0.
    pull = pull.flatten(1) / torch.where(mu > 0, mu, torch.ones_like(mu))[:, None]
    # -s + W J b / mu
    right = right + (W @ (J @ pull[:, :, None]))[:, :, 0]
    # In double precision, because the matrix is ill conditioned if the measurements are similar.
    system = W.double() @ (J @ J.mT).double()
    if not bool(system.isfinite().all()):
        return torch.full_like(variable, torch.nan)  # the item diverges, and the others go on
    if bool((mu > 0).all()):
        system = system + mu.double()[:, None, None] * torch.eye(J.shape[1], device=J.device)
        w = torch.linalg.solve(system, right.double()[:, :, None])
    else:
        # Without damping the pseudo-inverse gives the shortest w; eigenvalues that are rounding
        # count as 0.
        rounding = J.shape[1] * torch.finfo(J.dtype).eps
        w = torch.linalg.pinv(system, rtol=rounding) @ right.double()[:, :, None]
    # d = J^T w - b / mu
    return ((J.mT @ w.to(J))[:, :, 0] - pull).reshape(variable.shape)


def _is_ridge(prior: ExplicitPrior) -> bool:
    """Whether a prior is ``1/2 |x - b|^2``."""
    return "quadratic" in prior.offers and prior.quadratic()[0] is None


def _has_energy(prior: ImplicitPrior) -> bool:
    kind, base = type(prior), ImplicitPrior
    return kind.energy is not base.energy or kind.decode_and_energy is not base.decode_and_energy
