"""Choose the solver of an objective, and check that a named solver fits."""

from __future__ import annotations

import dataclasses
import logging
import textwrap
from functools import cache
from importlib.metadata import entry_points

from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.remedies import nearest_remedy

log = logging.getLogger("invtoolbox")

#: Number of steps for a learned proximal operator whose weight no theorem covers.
UNPROVEN_STEPS = 20


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
            "the priors are norms of linear operators, and majorization in a Krylov subspace "
            "needs few products",
        ),
        (
            solvers.HalfQuadratic(max_iterations=1, sigma_end="noise", schedule=1),
            "the picture is only noisy, and the prior is a denoiser, which is called once",
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
        (
            solvers.FISTA(max_iterations=320),
            "a scan and total variation, for which it needs the fewest products with the operator",
        ),
        (
            solvers.RichardsonLucy(tolerance=1e-5, tau=0, accelerated=True),
            "photons of a volume and total variation, for which it needs the fewest products",
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
        (solvers.LBFGS(), "everything is differentiable, bounds apart"),
        (solvers.Adam(), "the variable is the implicit prior's parameters"),
        (
            solvers.ProximalGradient(),
            "the misfit is differentiable and one prior has a proximal operator",
        ),
        (
            solvers.NonlinearADMM(),
            "a prior or the misfit has a kink, and the image is a nonlinear function of the "
            "variable, or the prediction of the image",
        ),
        (
            solvers.CondatVu(),
            "a prior has a gradient but no energy, and the step follows from the misfit",
        ),
        (solvers.GradientDescent(), "everything is differentiable"),
        (solvers.GradientDescent(step_size=1e-3), "priors have gradients but no energy"),
        *plugins(),
    )


@cache
def plugins() -> tuple[tuple[Solver, str], ...]:
    """Return the solvers of other packages that state which objectives they support.

    They are the classes behind entry points ``invtoolbox.solvers`` that override
    ``unsupported_reason`` and need no argument. They come last, so that installing a package does
    not change how a problem is solved that one of our solvers suits.
    """
    solvers = []
    for point in entry_points(group="invtoolbox.solvers"):
        try:
            kind = point.load()
            # Our own solvers are entry points too, and stand in `candidates` already.
            if kind.__module__.startswith("invtoolbox."):
                continue
            if kind.unsupported_reason is not Solver.unsupported_reason:
                solvers.append((kind(), f"the package {point.value.partition(':')[0]} offers it"))
        except Exception as error:
            # A broken package must not keep others from being used.
            log.warning("the solver %r of a plug-in is left out: %s", point.name, error)
    return tuple(solvers)


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


def choose(objective: Objective, differentiable: bool = False) -> tuple[Solver, str]:
    """Return the first solver that fits and suits the objective, and the reason.

    Args:
        objective: what is minimized.
        differentiable: whether the steps of the solver must be differentiable.

    Raises:
        InputError: if no solver fits; the sentence names the nearest change after which one does.
    """
    fitting = [
        (solver, reason)
        for solver, reason in candidates()
        if unsupported_reason(solver, objective) is None
    ]
    # A step that is to be differentiated needs a prox whose derivative is exact.
    suiting = [
        (solver, reason)
        for solver, reason in fitting
        if solver.suits(objective) and (not differentiable or solver.is_differentiable(objective))
    ]
    # A solver that fits without being a good choice is better than none.
    for solver, reason in suiting or fitting:
        if is_unproven(objective):
            # Outside the theorem later iterates may diverge; Fang et al. (2024) take 20, too.
            solver = dataclasses.replace(solver, max_iterations=UNPROVEN_STEPS)
            reason = f"{reason}; {UNPROVEN_STEPS} steps, because convergence is not proven"
        return solver, f"{type(solver).__name__} was chosen: {reason}"
    raise InputError(f"no solver fits this problem as it is; {_advice(objective)}")


def is_unproven(objective: Objective) -> bool:
    """Whether a prior is a learned proximal operator whose weight no theorem covers."""
    return any(p.unit_step and p.least_weight is None for _, p in objective.terms)


def check_fits(solver: Solver, objective: Objective) -> None:
    """Raise an `InputError` that names what would work, if a solver does not fit."""
    if (reason := unsupported_reason(solver, objective)) is None:
        return
    fitting = dict.fromkeys(
        type(candidate).__name__
        for candidate, _ in candidates()
        if unsupported_reason(candidate, objective) is None
    )
    advice = f"these would work: {', '.join(fitting)}" if fitting else _advice(objective)
    raise InputError(f"{textwrap.shorten(reason, 180, placeholder=' ...')}; {advice}")


def _advice(objective: Objective) -> str:
    """Return the nearest change that makes an objective solvable, as the end of a sentence."""

    def first_fitting(changed: Objective) -> str | None:
        # The first in the order of preference, as in `choose`.
        fits = (s for s, _ in candidates() if unsupported_reason(s, changed) is None)
        return next((type(solver).__name__ for solver in fits), None)

    remedy = nearest_remedy(objective, first_fitting)
    if remedy is None:
        return "no small change makes it solvable, so begin with a single prior"
    change, solver = remedy
    return f"{change}, and {solver} solves it"
