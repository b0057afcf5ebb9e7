"""Choose the solver of an objective, and check that a named solver fits."""

from __future__ import annotations

from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.solvers.base import Solver


def candidates() -> tuple[tuple[Solver, str], ...]:
    """Return every solver in the order of preference, with the reason to choose it if it fits."""
    from invtoolbox import solvers

    return (
        (
            solvers.ConjugateGradient(),
            "everything is quadratic, and conjugate gradients solve the normal equations",
        ),
        (
            solvers.LocalGlobal(),
            "points are observed and the priors are minima of squares over rotations, which are "
            "found in turn",
        ),
        (
            solvers.KrylovMM(),
            "the priors are norms of linear operators, and majorisation in a Krylov subspace "
            "needs few products",
        ),
        (
            solvers.HalfQuadratic(max_iterations=8, sigma_end="noise"),
            "the misfit is quadratic, and the prior is a denoiser for many noise levels (DPIR)",
        ),
        (solvers.ADMM(), "the misfit is quadratic and a prior is a denoiser"),
        (
            solvers.Reweighted(),
            "the misfit is robust and the priors are smooth norms, which are squares once they "
            "are weighted",
        ),
        (solvers.PDHG(), "every prior has a proximal operator, alone or behind a linear operator"),
        (
            solvers.LevenbergMarquardt(),
            "parameters of the operator are unknown, which makes a smooth problem nonlinear",
        ),
        (
            solvers.PALM(),
            "parameters of the operator are unknown, and a prior enters by its proximal operator",
        ),
        (solvers.LBFGS(), "everything is differentiable"),
        (solvers.Adam(), "the variable is the implicit prior's parameters"),
        (
            solvers.ProximalGradient(),
            "the misfit is differentiable and one prior has a proximal operator",
        ),
        (solvers.GradientDescent(), "everything is differentiable"),
        (solvers.GradientDescent(step_size=1e-3), "priors have gradients but no energy"),
    )


def unsupported_reason(solver: Solver, objective: Objective) -> str | None:
    """Return why a solver cannot minimize an objective, or ``None``."""
    fixed = next((prior for _, prior in objective.terms if prior.unit_step), None)
    if fixed is not None and not solver.takes_unit_step:
        return (
            f"{type(solver).__name__} chooses its proximal steps, and {fixed!r} knows the prox at "
            "one alone, 1 / weight"
        )
    implicit = objective.prior.implicit
    if implicit is not None and implicit.has_projection and not solver.takes_projection:
        return (
            f"{type(solver).__name__} does not keep to the constraints on the parameters of "
            f"{implicit!r}"
        )
    if objective.adaptive_prior is not None and type(solver).adapt is Solver.adapt:
        return (
            f"{type(solver).__name__} does not go on when the parameters of {implicit!r} change in "
            "number"
        )
    return solver.unsupported_reason(objective)


def choose(objective: Objective) -> tuple[Solver, str]:
    """Return the first solver that fits and suits the objective, and the reason."""
    for solver, reason in candidates():
        if unsupported_reason(solver, objective) is None and solver.suits(objective):
            return solver, f"{type(solver).__name__} was chosen: {reason}"
    for solver, reason in candidates():
        if unsupported_reason(solver, objective) is None:
            return solver, f"{type(solver).__name__} was chosen: {reason}"
    reasons = "; ".join(
        dict.fromkeys(unsupported_reason(solver, objective) or "" for solver, _ in candidates())
    )
    raise InputError(f"no solver fits this problem: {reasons}")


def check_fits(solver: Solver, objective: Objective) -> None:
    """Raise an `InputError` that names the solvers that would work, if a solver does not fit."""
    reason = unsupported_reason(solver, objective)
    if reason is None:
        return
    fitting = dict.fromkeys(
        type(other).__name__
        for other, _ in candidates()
        if unsupported_reason(other, objective) is None
    )
    raise InputError(
        f"{reason}; {'these would work: ' + ', '.join(fitting) if fitting else 'no solver fits'}"
    )
