"""Learn the parameters of a prior so that the answers of problems come near known images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from invtoolbox.catalogue.presets import prior_named
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.operators.elementary import Identity
from invtoolbox.priors.base import Prior, PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.inexact_descent import AdaptiveAccuracy
from invtoolbox.training.prior_parameters import PriorParameters


@dataclass(frozen=True)
class LearnedPrior:
    """Result of `learn_prior`.

    Attributes:
        prior: copy of the prior with the learned parameters; use it with weight 1.
        losses: mean of half the squared error of a value, after every step, ``(steps,)``.
        solution: solution of the outer problem, with its status and certificate.
    """

    prior: PriorSum
    losses: Tensor
    solution: Solution


def learn_prior(
    prior: Prior | str,
    problems: Problem | Sequence[Problem],
    truths: Tensor | Sequence[Tensor],
    solver: Solver | None = None,
    *,
    lower: Solver | None = None,
    accuracy: float = 1e-4,
    neumann: int | None = None,
    curvature: float | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    time_limit: float | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = True,
) -> LearnedPrior:
    r"""Minimize ``1/(2n) sum_i |x_i(theta) - truth_i|^2`` over the parameters theta of a prior.

    ``x_i(theta)`` is the solution of problem i with the prior and weight 1, n the number of values.
    This is bilevel learning: weights, smoothing and filters are those with which the solutions, not
    a denoiser, are best. Parameters are the `torch.nn.Parameter` of the prior, such as those of
    `priors.FieldsOfExperts`; logarithms keep them positive.

    Args:
        prior: smooth prior with parameters, a sum, or a name; it is not written to.
        problems: problem or problems, in units of their noise
            (``LeastSquares(noise_std=...)``); the draws of noise are fixed.
        truths: true images, one batch per problem.
        solver: method of the outer problem: `AdaptiveAccuracy` by default, `ScheduledAccuracy`, or
            any other method that follows gradients, such as ``Adam``, at a fixed accuracy.
        lower: solver of the problems; by default L-BFGS.
        accuracy: relative gradient norm of the problems for methods without an accuracy of their
            own.
        neumann: see `PriorParameters`.
        curvature: see `PriorParameters`.
        max_iterations: largest number of outer steps.
        tolerance: bound of the certificate of the outer method.
        time_limit: seconds after which learning stops.
        checkpoint: file from which an interrupted run continues.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: the prior has no parameters or is not smooth; a truth has another shape than the
            image of its problem; images are complex, or values are not finite.

    >>> import invtoolbox as it
    >>> truth = torch.zeros(2, 1, 12, 12)
    >>> truth[:, :, 3:9, 4:8] = 1
    >>> A = it.operators.Identity((1, 12, 12))
    >>> y = A.simulate(truth, noise=0.1, seed=0)
    >>> problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.1))
    >>> prior = it.priors.FieldsOfExperts.total_variation(weight=0.5)
    >>> learned = learn_prior(prior, problem, truth, max_iterations=3, progress=False)
    >>> bool(learned.losses[-1] < learned.losses[0])
    True
    """
    prior = prior_named(prior) if isinstance(prior, str) else prior
    problems = [problems] if isinstance(problems, Problem) else list(problems)
    truths = [truths] if isinstance(truths, Tensor) else list(truths)
    if len(problems) != len(truths) or not problems:
        raise InputError(f"{len(problems)} problems and {len(truths)} truths; give one per problem")
    for number, (problem, truth) in enumerate(zip(problems, truths)):
        expected_shape = (problem.batch, *problem.image_shape)
        if tuple(truth.shape) != expected_shape:
            raise InputError(
                f"the truth of problem {number} has the shape {tuple(truth.shape)}, and its images "
                f"{expected_shape}"
            )
        if problem.image_dtype.is_complex:
            raise InputError(
                f"learn_prior works on real images, and those of problem {number} are complex"
            )
        if problem.skipped is not None or not bool(truth.isfinite().all()):
            raise InputError(
                f"the measurements or the truth of problem {number} hold NaN or infinite values"
            )
    unknown = PriorParameters(prior, problems, lower, accuracy, neumann, curvature)
    y = torch.cat([truth.flatten() for truth in truths])[None]
    n = y.shape[1]
    outer = Problem(y, Identity((n,)), LeastSquares(noise_std=math.sqrt(n)))
    solution = solve(
        outer,
        unknown,
        AdaptiveAccuracy() if solver is None else solver,
        regularization=1.0,
        max_iterations=max_iterations,
        tolerance=tolerance,
        time_limit=time_limit,
        checkpoint=checkpoint,
        progress=progress,
        check=False,
    )
    return LearnedPrior(
        unknown.prior_at(solution.parameters), solution.history["objective"][:, 0], solution
    )
