"""Refusals of a run on ranks, each before the first iteration and with the same sentence on all."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.problem import Problem
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.proximal_gradient import FISTA

C = TypeVar("C")


def check_call(problem: Problem, call: C) -> C:
    """Return the arguments of `solve` for a divided volume, with FISTA unless there is a solver.

    Args:
        problem: problem whose operator is `Slabs`.
        call: the arguments of `invtoolbox.solve`.

    Raises:
        InputError: several volumes, another misfit, a weight that a rule would have to find, or an
            option that needs the whole volume in one place.
    """
    settings: Any = call
    if problem.batch != 1:
        raise InputError(
            f"ranks divide one volume, got a batch of {problem.batch}; solve the volumes one after "
            "another"
        )
    if type(problem.data_term) is not LeastSquares or problem.unknown:
        raise InputError(
            "ranks divide a scan under least squares with a known geometry, got "
            f"{problem.data_term!r}"
            + (f" and unknown {', '.join(problem.unknown)}" if problem.unknown else "")
        )
    for name, sentence in (
        ("time_limit", "clocks of ranks differ; give max_iterations="),
        ("differentiate", "solve without ranks for a derivative"),
        ("repair", "mend the measurements before they are divided"),
        ("capture", "ranks exchange sums through the host in every step"),
    ):
        if getattr(settings, name):
            raise InputError(f"a run on ranks takes no {name}=: {sentence}")
    weight, prior = settings.regularization, settings.prior
    is_number = isinstance(weight, (int, float, Tensor))
    terms = prior.as_sum().terms if hasattr(prior, "as_sum") else ()
    is_written = weight == "auto" and bool(terms) and all(term.chosen for term in terms)
    if not is_number and not is_written and prior is not None:
        raise InputError(
            "a run on ranks needs the weight of its priors: no rule finds it there; give a number "
            "as regularization, found on a smaller volume"
        )
    # Each rank would decide by its own rows where to start, and with which precision.
    initial = settings.initial
    if problem.data_term.weights is not None and initial is None:
        initial = problem.zeros()
    largest = max(problem.operator.ranks.gather(float(problem.y.abs().max())))  # type: ignore[attr-defined]
    if not 1e-15 < largest < 1e15:
        raise InputError(
            f"the largest measurement of all ranks is {largest:.3g}, whose square leaves float32; "
            "measure in another unit"
        )
    return dataclasses.replace(
        settings,
        initial=initial,
        solver=FISTA() if settings.solver is None else settings.solver,
        check=False,  # the checks compare neighbours, and a rank holds some rows only
        progress=settings.progress and problem.operator.ranks.rank == 0,  # type: ignore[attr-defined]
    )


def check_method(objective: Objective, solver: Solver) -> None:
    """Refuse solvers and priors whose sums or neighbours ranks do not provide.

    Args:
        objective: the objective with prepared priors.
        solver: the solver.
    """
    if not vars(type(solver)).get("sums_over_ranks", False):
        raise InputError(
            f"{type(solver).__name__} needs sums that ranks do not exchange; these solve a divided "
            "volume: FISTA, ProximalGradient, GradientDescent"
        )
    if objective.prior.implicit is not None:
        raise InputError(
            f"{objective.prior.implicit!r} is not divided over ranks; priors of the volume itself are"
        )
    for prior in objective.explicit_priors:
        _check_prior(prior)


def _check_prior(prior: ExplicitPrior) -> None:
    if "fits_slabs" in vars(type(prior)) and prior.fits_slabs:
        return
    if "denoise" in prior.offers and "energy" not in prior.offers:
        raise InputError(
            f"{prior!r} would see one slab only; give it.priors.Tiled(denoiser, tile, margin), which "
            "gets the margin from the neighbouring ranks"
        )
    raise InputError(
        f"{prior!r} is not divided over ranks; these are: TotalVariation, Box, NonNegative, L1, Tiled"
    )
