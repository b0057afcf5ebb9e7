"""The one entry point: bind problem, priors, solver and rule for the weight, and run the loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar, overload

import torch
from torch import Tensor

from invtoolbox.core.inference_mode import leaving_inference_mode
from invtoolbox.core.interrupts import limit
from invtoolbox.core.memory import is_out_of_memory, memory_error
from invtoolbox.core.ranks import summing_over
from invtoolbox.core.threads import choose_threads, limit_torch_threads
from invtoolbox.distributed.limits import check_call
from invtoolbox.distributed.slabs import Slabs
from invtoolbox.errors import InputError, check_keywords
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.loop.run import ACCELERATED_CHECKS, Callback
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import WeightRule
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.priors.base import Prior, PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.binding import Regularization, bind_objective
from invtoolbox.solving.call import Call, as_checkpoint
from invtoolbox.solving.run import Run

P = ParamSpec("P")
T = TypeVar("T")


def _entry_point(function: Callable[P, T]) -> Callable[P, T]:
    """Check the names of keywords, leave `torch.inference_mode`, and choose the number of threads.

    A checkpoint determines the number. Errors of allocation become one sentence.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        check_keywords(function, kwargs)
        checkpoint = as_checkpoint(kwargs.get("checkpoint"))
        before = checkpoint.threads() if isinstance(checkpoint, Checkpoint) else None
        with (
            leaving_inference_mode((args, kwargs)) as (positional, keywords),
            limit_torch_threads(before or choose_threads()),
        ):
            try:
                return function(*positional, **keywords)
            except (MemoryError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise memory_error(error) from error
                raise

    return call


@overload
def solve(
    problem: Problem,
    prior: Prior | str | Sequence[Prior | str] | None = None,
    solver: Solver | str | None = None,
    regularization: Regularization = "auto",
    *,
    initial: Tensor | dict[str, Tensor] | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    differentiate: str | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = True,
    check: bool = True,
    check_every: int = ACCELERATED_CHECKS,
    capture: bool = False,
    repair: bool = False,
) -> Solution: ...


@overload
def solve(
    problem: Sequence[Problem],
    prior: Prior | str | Sequence[Prior | str] | None = None,
    solver: Solver | str | None = None,
    regularization: Regularization = "auto",
    *,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    differentiate: str | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    check: bool = True,
    check_every: int = ACCELERATED_CHECKS,
    capture: bool = False,
    repair: bool = False,
) -> list[Solution]: ...


@_entry_point
def solve(
    problem: Problem | Sequence[Problem],
    prior: Prior | str | Sequence[Prior | str] | None = None,
    solver: Solver | str | None = None,
    regularization: Regularization = "auto",
    *,
    initial: Tensor | dict[str, Tensor] | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    differentiate: str | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = True,
    check: bool = True,
    check_every: int = ACCELERATED_CHECKS,
    capture: bool = False,
    repair: bool = False,
) -> Solution | list[Solution]:
    r"""Minimize ``D(A(x), y) + regularization * sum_i w_i R_i(x) + S(z)``, ``x = g(z)``, per item.

    Args:
        problem: measurements, operator and data term; a list of problems (of different shapes, for
            example) gives a list of solutions.
        prior: a prior, a sum of priors, a name of ``invtoolbox list priors``, names with commas
            between them, a list of priors and names, or None.
        solver: settings of an algorithm, or its name. If it is None, a solver that fits is chosen,
            and ``Solution.reason`` states which and why.
        regularization: weight of the explicit priors: a number, one number per item ``(batch,)``, a
            rule or the name of a rule. ``"auto"`` keeps weights that were written (``0.1 *
            prior``). If none was written, it is ``"validation"`` for least squares, or counts of
            transmitted photons, with linear operators and convex priors: it needs no noise level,
            and about four times the work of one solve. For other problems it is the discrepancy
            principle with the noise level of the data term, or with a noise level estimated from
            the data; if neither is available, the L-curve. All rules but ``"discrepancy"`` first
            solve with several weights (for at most half of ``time_limit``); callbacks and history
            belong to the last solve. For samplers it is 1, or 1.5 times the weight of the minimizer
            if the prior is a norm or a square without a scale of its own, with a note.
        initial: initial guess: images ``(batch or 1, channel, *space)``, or parameters of the
            implicit prior.
        max_iterations: largest number of iterations; None for the setting of the solver. Weight and
            start do not depend on it, so that a run may be resumed with more.
        tolerance: bound on the certificate that the solver states; None for the setting of the
            solver. If the solver has a duality gap (`Solver.gap`), the gap must also be within 1e-3
            of a convex objective, or within the tolerance if it is larger. The gap contains an
            estimate of the distance to the minimizer, so it is no proof.
        time_limit: seconds after which items that still run end with the status ``limit``. A step
            that would end later is cut and discarded. First reconstructions of priors take at most
            half of the time, and so does a search for the weight of what is left; a search without
            any answer leaves a weight from the size of the noise. A sampler that is given by its
            name alone, without ``max_iterations``, ``tolerance`` and ``checkpoint``, ends after
            150 s, with a note; it takes fewer steps per draw (`Solver.alone`), and a chain starts
            at the minimizer.
        seed: seed of random draws, which are a function of it and of the iteration.
        device: device that problem and prior are copied to first; None leaves them where they are.
        dtype: precision that problem and prior are converted to first; None keeps it.
        differentiate: ``"implicit"`` makes ``Solution.x`` differentiable in the tensors that
            problem and prior hold, by the implicit function theorem. For total variation, l1 and
            constraints it is the derivative of the fixed point of PDHG, Condat-Vu, ADMM,
            Douglas-Rachford or proximal gradient, as exact as the solve (``tolerance=1e-6``). A
            warning reports items that have not converged.
        callbacks: functions that are called with a `Progress` after every step; one that returns
            True stops the run.
        checkpoint: file that the run is written to, and from which it is resumed if it exists. A
            write that fails is a warning, and a sentence in ``Solution.notes`` if it was the last.
        progress: show a progress bar on a terminal.
        check: look for measurements that do not fit the operator or the noise level
            (`measurements.check_measurements`). What looks wrong is a `MeasurementWarning`, and a
            sentence in ``Solution.notes``.
        check_every: number of steps after which the host reads on an accelerator which items are
            done; a CPU reads after every step. Between two readings the host does not wait. As many
            steps may run in vain after the last item is done, or have to be repeated.
        capture: on CUDA, record a step as a graph and replay it by one launch, if a step depends on
            its state alone: not for draws and schedules. If it has no effect, a sentence in
            ``Solution.notes`` gives the reason.
        repair: first mend what can be mended without harm (`measurements.repair_measurements`):
            dead and hot pixels get weight 0. Every repair is a note.

    Returns:
        The solution, or one solution per problem.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(2, 1, 8), it.operators.Identity((1, 8)))
    >>> solution = it.solve(problem, prior=it.priors.Tikhonov(), regularization=1.0, progress=False)
    >>> solution.x.mean(), solution.status
    (tensor(0.5000), ('converged', 'converged'))
    """
    is_list = isinstance(problem, (list, tuple)) and all(isinstance(p, Problem) for p in problem)
    if not isinstance(problem, Problem) and not is_list:
        raise InputError(
            f"solve takes a Problem or a list of them, got {type(problem).__name__}; "
            "it.solve(it.Problem(y, A), prior), or it.reconstruct(y, A, prior)"
        )
    if not isinstance(problem, Problem) and (checkpoint is not None or initial is not None):
        raise InputError(
            "a list of problems takes no initial= and no checkpoint=; solve them one by one for "
            "these"
        )
    call = Call(
        prior=prior,
        solver=solver,
        regularization=regularization,
        initial=initial,
        max_iterations=max_iterations,
        tolerance=tolerance,
        time_limit=time_limit,
        seed=seed,
        device=device,
        dtype=dtype,
        differentiate=differentiate,
        callbacks=callbacks,
        checkpoint=as_checkpoint(checkpoint),
        progress=progress,
        check=check,
        check_every=check_every,
        capture=capture,
        repair=repair,
    )
    if isinstance(problem, Problem):
        return _solve(problem, call)
    return [_solve(item, call) for item in problem]


def _solve(problem: Problem, call: Call) -> Solution:
    """Solve one problem in six steps."""
    if isinstance(problem.operator, Slabs):
        call = check_call(problem, call)
        with summing_over(problem.operator.ranks):
            return _solve_here(problem, call)
    with summing_over(None):
        return _solve_here(problem, call)


def _solve_here(problem: Problem, call: Call) -> Solution:
    with limit(call.seconds):
        steps = Run.plan(problem, call, inner_solve)
        with torch.no_grad():
            steps.refuse_changed_content()  # before anything costs
            steps.find_weight()
            start = steps.start()
    with torch.no_grad():
        loop = steps.iterate(start)
    return steps.answer(loop)


#: The first reconstructions of priors are of measurements that were checked before.
inner_solve = functools.partial(solve, check=False)


def bind(
    problem: Problem,
    priors: PriorSum,
    regularization: Regularization = "auto",
    seed: int = 0,
    denoiser_strength: float = 1.0,
) -> tuple[Objective, WeightRule | WeightSearch | None, str]:
    """Return the objective with prepared priors, the rule for the weight, and why that rule.

    The arguments are those of `solvers.binding.bind_objective`.
    """
    return bind_objective(problem, priors, regularization, inner_solve, seed, denoiser_strength)
