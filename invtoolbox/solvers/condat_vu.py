"""Condat-Vu: the primal-dual method in which the misfit enters by its gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from invtoolbox.objective.objective import Objective
from invtoolbox.solvers.base import implicit_reason
from invtoolbox.solvers.pdhg import PDHG
from invtoolbox.solvers.splitting import (
    Splitting,
    data_summands,
    gradient_summands,
    misfit_summand,
    prior_summands,
    take_primal,
    unsplittable_reason,
)


@dataclass(frozen=True)
class CondatVu(PDHG):
    r"""The method of Condat (J. Optim. Theory Appl. 158, 2013, algorithm 3.1) and Vu (2013).

    One iteration is::

        u   = prox_{tau G}(x - tau (grad f(x) + sum_j K_j^T p_j))
        p_j = prox_{sigma_j F_j*}(p_j + sigma_j K_j (2 u - x))
        x   = u

    f is the misfit and every differentiable prior without a prox; G is one prior with a prox. Each F_j stands behind a
    linear operator K_j, and there may be any number of them. It is `PDHG` with the misfit taken by
    its gradient even if it has a prox: no dual of the size of the measurements is kept, but the
    steps are shorter if the misfit is the stiff part. Without a split prior it is the proximal
    gradient method. ``relaxation`` is not used.

    The operator may be nonlinear, and the misfit then is linearized at every x, as in the method of
    Valkonen (Inverse Problems 30, 2014) with a smooth misfit.

    Converges to a minimizer for convex f, G and F_j, because
    ``1 / tau - sum_j sigma_j |K_j|^2 >= L / 2`` (ibid., theorem 3.1), L the Lipschitz constant of
    grad f. For the misfit of a linear operator it is ``curvature |A|^2``, with norms from the power
    method. For everything else it is estimated at the start, and raised where the gradient is seen
    to change faster. If f is not convex, the answer is a stationary point. Certificate: that of
    `PDHG`.

    >>> import torch
    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[0.0, 0.0, 9.0, 9.0]]]), it.operators.Identity((1, 4)))
    >>> solution = it.solve(
    ...     problem,
    ...     it.priors.TotalVariation() + it.priors.NonNegative(),
    ...     CondatVu(),
    ...     regularization=1.0,
    ...     progress=False,
    ... )
    >>> solution.x.round(decimals=2)
    tensor([[[0.5000, 0.5000, 8.5000, 8.5000]]])
    """

    def unsupported_reason(self, objective: Objective) -> str | None:
        objective = self.reformulate(objective)
        if reason := implicit_reason(objective, "CondatVu") or unsplittable_reason(
            objective, "CondatVu", gradients=True, nonlinear=True
        ):
            return reason
        # A misfit that is linearized at every x needs no Lipschitz constant in advance: it is
        # estimated.
        D = objective.problem.data_term
        if not objective.problem.is_linear:
            if not D.is_smooth:
                return f"CondatVu needs a data term with a gradient, and {D!r} has none everywhere"
            return None
        for summand in data_summands(objective):
            if summand.data_term.curvature(summand.y) is None:
                return (
                    "CondatVu needs a data term with a Lipschitz gradient, and that of "
                    f"{summand.data_term!r} has no bound"
                )
        return None

    def suits(self, objective: Objective) -> bool:
        """Whether a prior is not differentiable or has no energy, and none is a denoiser."""
        priors = [prior for _, prior in objective.terms]
        return not all(prior.smooth and "energy" in prior.offers for prior in priors) and not any(
            "denoise" in prior.offers for prior in priors
        )

    def meets_target(self, objective: Objective) -> bool:
        return False  # the ball of the discrepancy principle has no gradient

    def _split(self, objective: Objective, target: Tensor) -> Splitting:
        # G has its prox, the F_j stand behind operators, and f is everything with a gradient.
        primal, others = take_primal(prior_summands(objective))
        linear = objective.problem.is_linear
        data = data_summands(objective) if linear else (misfit_summand(objective),)
        return Splitting(primal, others, (*data, *gradient_summands(objective)))
