"""The one entry point: bind problem, priors, solver and rule, and run the loop."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.catalogue.presets import prior_named, solver_named
from invtoolbox.core.interrupts import DeferredInterrupt
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint, Writer, fingerprint
from invtoolbox.loop.run import RECORDED, STATUS, Callback, Limits, Loop, ProgressBar, run
from invtoolbox.objective.objective import Layout, Objective
from invtoolbox.objective.unknowns import Unknowns
from invtoolbox.operators.base import check_shape
from invtoolbox.parameter_choice import Trials, automatic, rule_named
from invtoolbox.parameter_choice.base import WeightCurve, WeightRule, WeightSearch
from invtoolbox.posteriors.exact import gaussian_posterior
from invtoolbox.priors.base import ImplicitPrior, Prior, PriorSum
from invtoolbox.problem import Problem, fitted_back_projection
from invtoolbox.solution import Solution
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.choice import check_fits, choose

log = logging.getLogger("invtoolbox")


def solve(
    problem: Problem | Sequence[Problem],
    prior: Prior | str | None = None,
    solver: Solver | str | None = None,
    regularization: float | Tensor | str | WeightRule | WeightSearch = "auto",
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
) -> Any:
    r"""Minimise ``D(A(x), y) + regularization * sum_i w_i R_i(x) + S(z)``, ``x = g(z)``, for every item of the batch.

    Args:
        problem: measurements, operator and data term; a list of problems (of different shapes, say) gives a list.
        prior: a prior, a sum of priors, a name out of ``invtoolbox list priors``, or none.
        solver: settings of an algorithm, or its name; where none is given one that fits is chosen, and
            ``Solution.reason`` says which and why.
        regularization: the weight of the explicit priors: a number, one an item ``(batch,)``, a rule or its name.
            ``"auto"`` keeps weights that were written (``0.1 * prior``), and where none was, uses the discrepancy
            principle with the noise level of the data term, or with one estimated from the data; where neither is to be
            had, the L-curve. ``"compensated-discrepancy"`` is the better rule where the noise level is known, for five times
            the work. It, ``"gcv"``, ``"sure"``, ``"l-curve"`` and ``"quasi-optimality"`` solve with several weights first
            (half of a ``time_limit`` at most); callbacks and history are of the last solve.
        initial: where to start: images ``(batch or 1, channel, *space)``, or parameters of the implicit prior.
        max_iterations, tolerance: the solver's own where not given. The tolerance bounds the solver's certificate.
        time_limit: seconds after which items that still run are ``stopped``.
        seed: random draws are a function of it and of the iteration.
        device, dtype: where given, problem and prior are copied there first.
        differentiate: ``"implicit"`` makes ``Solution.x`` differentiable in the tensors that problem and prior hold.
        callbacks: called with a `Progress` after every step; one that returns True stops the run.
        checkpoint: a file to write the run to, and to go on from where it exists.
        progress: show a bar on a terminal.

    Returns:
        a `Solution`.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(2, 1, 8), it.operators.Identity((1, 8)))
    >>> solution = it.solve(problem, prior=it.priors.Tikhonov(), regularization=1.0, progress=False)
    >>> solution.x.mean(), solution.status
    (tensor(0.5000), ('converged', 'converged'))
    """
    if not isinstance(problem, Problem):
        if checkpoint is not None or initial is not None:
            raise InputError(
                "a list of problems takes no initial= and no checkpoint=; solve them one by one for these"
            )
        return [
            solve(
                p,
                prior,
                solver,
                regularization,
                None,
                max_iterations,
                tolerance,
                time_limit,
                seed,
                device,
                dtype,
                differentiate,
                callbacks,
                None,
                progress,
            )
            for p in problem
        ]
    began = time.monotonic()
    _check_settings(max_iterations, tolerance, time_limit, differentiate)
    kept = Checkpoint(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
    problem = problem.to(device=device, dtype=dtype)
    priors = _as_sum(prior).to(device=device, dtype=dtype)
    with torch.no_grad():
        named = solver_named(solver) if isinstance(solver, str) else solver
        if (
            isinstance(named, Solver)
            and named.samples
            and isinstance(regularization, str)
            and regularization == "auto"
        ):
            regularization = 1.0
        objective, rule, why_weight = bind(problem, priors, regularization, seed)
        algorithm, reason = _solver(named, objective)
        if rule is not None and not objective.terms:
            raise InputError(
                "a rule for the weight needs an explicit prior to weigh, and there is none"
            )
        notes = [why_weight] if why_weight else []
        if not algorithm.reformulate(objective).has_value:
            without = next(p for p in objective.explicit_priors if "energy" not in p.offers)
            notes.append(f"history holds no objective: {without!r} has no energy")
        for note in (reason, *notes):
            log.info(note)
        variable = _start(objective, initial, algorithm)
        limits = Limits(
            max_iterations=algorithm.max_iterations if max_iterations is None else max_iterations,
            tolerance=algorithm.tolerance if tolerance is None else tolerance,
            deadline=None if time_limit is None else began + time_limit,
        )
        curve: WeightCurve | None = None
        search, rule = (rule, None) if isinstance(rule, WeightSearch) else (None, rule)
        # A checkpoint knows the weight, but only one an item.
        if search is not None and (kept is None or not Path(kept.path).exists() or search.separate):
            attempt = _attempts(algorithm, initial, max_iterations, tolerance, time_limit, seed)
            trials = Trials(
                objective, problem, priors, objective.decode(variable), attempt, search.separate
            )
            curve = search.choose(trials)
            objective = trials.chosen(curve)
        working = algorithm.reformulate(objective)
        loop, working = Loop.start(algorithm, working, algorithm.start(working, variable), rule)
        writer = None
        if kept is not None:
            digest = fingerprint(
                (problem.y, variable, problem.operator.parameters()),
                problem,
                priors,
                algorithm,
                regularization,
                seed,
            )
            writer = Writer(kept, digest)
            loop = writer.resume(loop)
            if search is not None:
                working = working.with_regularization(loop.weight)
        loop = _watched(loop, working, algorithm, rule, limits, callbacks, writer, progress)
        objective, working = (
            dataclasses.replace(o, layout=loop.layout) for o in (objective, working)
        )
        x = working.decode(loop.x)
    if differentiate == "implicit":
        from invtoolbox.loop.differentiation import differentiable

        weight = loop.weight
        if isinstance(regularization, Tensor) and regularization.requires_grad:
            weight = regularization.expand(problem.batch)
        x = differentiable(x, objective.with_regularization(weight))
    parameters, found = _parameters(problem, working, loop.x)
    working = working.with_regularization(loop.weight)
    posterior = algorithm.posterior(working, loop.x, loop.summary)
    if posterior is None:
        posterior = gaussian_posterior(objective.with_regularization(loop.weight), x, solve)
    rows = (
        torch.stack(loop.history).cpu()
        if loop.history
        else torch.zeros(0, len(RECORDED), problem.batch)
    )
    return Solution(
        x=x,
        status=tuple(STATUS[int(k)] for k in loop.status),
        iterations=loop.iterations.cpu(),
        history={name: rows[:, k] for k, name in enumerate(RECORDED)},
        regularization=loop.weight,
        parameters=parameters,
        solver=repr(algorithm),
        certificate=algorithm.certificate_name,
        prior=repr(priors),
        reason=reason,
        notes=tuple(notes),
        seconds=time.monotonic() - began,
        seed=seed,
        problem=found,
        weight_search=curve,
        posterior=posterior,
    )


def _watched(
    loop: Loop,
    objective: Objective,
    solver: Solver,
    rule: WeightRule | None,
    limits: Limits,
    callbacks: Sequence[Callback],
    writer: Writer | None,
    progress: bool,
) -> Loop:
    """`run` with a progress bar and checkpoints; Ctrl-C waits for the end of a step, and leaves a checkpoint."""
    with (
        ProgressBar(
            limits.max_iterations, loop.iteration, type(solver).__name__, enabled=progress
        ) as bar,
        DeferredInterrupt() as interrupt,
    ):

        def after_step(current: Loop, last: bool) -> None:
            bar.update(current)
            if writer is not None:
                writer.after_step(current, last)
            interrupt.check()

        try:
            return run(loop, objective, solver, rule, limits, callbacks, after_step)
        except KeyboardInterrupt:
            if writer is not None and not interrupt.forced:
                writer.write(loop)
            raise


def _parameters(
    problem: Problem, objective: Objective, variable: Tensor
) -> tuple[dict[str, Tensor] | None, Problem]:
    """What was found besides the images, and the problem with the operator that was found."""
    if objective.layout is None:
        return None, problem
    parameters, unknowns = objective.layout.unpack(variable), objective.unknowns
    if unknowns is None:
        return parameters, problem
    parameters = {k: t for k, t in parameters.items() if k != "x"} | unknowns.values(parameters)
    operator = problem.operator.with_parameters(**{k: parameters[k] for k in unknowns.starts})
    return parameters, problem.with_operator(operator)


def _attempts(
    solver: Solver,
    initial: Any,
    max_iterations: int | None,
    tolerance: float | None,
    time_limit: float | None,
    seed: int,
) -> Any:
    """What a search for the weight calls; see `invtoolbox.parameter_choice.trials`."""
    deadline = None if time_limit is None else time.monotonic() + 0.5 * time_limit

    def attempt(
        problem: Problem, priors: PriorSum, weight: Tensor | WeightRule, items: Tensor
    ) -> Solution:
        def pick(value: Any) -> Tensor:
            start = torch.as_tensor(value)
            return start if start.shape[0] == 1 else start.index_select(0, items.to(start.device))

        start = (
            {k: pick(t) for k, t in initial.items()}
            if isinstance(initial, dict)
            else None
            if initial is None
            else pick(initial)
        )
        left = None if deadline is None else max(1e-3, deadline - time.monotonic())
        solution: Solution = solve(
            problem,
            priors,
            solver,
            weight,
            start,
            max_iterations,
            tolerance,
            left,
            seed,
            progress=False,
        )
        return solution

    return attempt


def bind(
    problem: Problem,
    priors: PriorSum,
    regularization: float | Tensor | str | WeightRule | WeightSearch = "auto",
    seed: int = 0,
) -> tuple[Objective, WeightRule | WeightSearch | None, str]:
    """The objective of a problem with prepared priors, its rule for the weight, and why that rule."""
    rule = (
        rule_named(regularization)
        if isinstance(regularization, str) and regularization != "auto"
        else regularization
    )
    _check_fixed_levels(priors)
    problem = problem.with_data_term(problem.data_term.prepare(problem.without_unknowns(), solve))
    bound = priors.prepare(problem.without_unknowns(), solve)
    real = problem.y0.real.dtype if problem.y0.is_complex() else problem.y0.dtype
    ones = torch.ones(problem.batch, dtype=real, device=problem.y0.device)
    layout = None
    unknowns = Unknowns.of(problem, first_guess(problem)) if problem.unknown else None
    if bound.implicit is not None or unknowns is not None:
        layout = _layout(problem, bound.implicit, unknowns)
    objective = Objective(problem, bound, ones, layout=layout, unknowns=unknowns, seed=seed)
    why = ""
    if isinstance(rule, str):
        rule, why = _automatic(priors, objective)
    _check_least_weights(objective, rule)
    if isinstance(rule, WeightSearch):
        return objective, rule, f"{why}{rule.describe(objective)}"
    if isinstance(rule, WeightRule):
        objective = Objective(problem, bound, ones, rule, layout, unknowns, seed)
        return objective, rule, f"{why}{rule.describe(objective)}"
    weight = torch.as_tensor(rule, dtype=real, device=ones.device)
    if (
        weight.ndim > 1
        or weight.numel() not in (1, problem.batch)
        or not bool(((weight >= 0) & weight.isfinite()).all())
    ):
        raise InputError(
            f"regularization must be a nonnegative number or one for each of the {problem.batch} items, got {rule}"
        )
    if bool((weight != 1).any()) and any(term.prior.fixed_level for term in priors.terms):
        name = next(term.prior for term in priors.terms if term.prior.fixed_level)
        raise InputError(
            f"{name!r} knows one noise level only, so it takes no weight; use the solver's step instead"
        )
    return objective.with_regularization(weight.expand(problem.batch).clone()), None, why


def _automatic(
    priors: PriorSum, objective: Objective
) -> tuple[float | Tensor | WeightRule | WeightSearch, str]:
    weighable = [t for t in priors.terms if not t.prior.fixed_level and not t.prior.is_constraint]
    if not weighable:
        return 1.0, ""
    if any(t.chosen for t in weighable):
        return 1.0, "the weights of the priors are kept as they were written"
    for term in objective.prior.terms:
        if term.prior.least_weight is not None:
            return (
                1.05 * term.prior.least_weight,
                f"the weight is 1.05 times the least for which {term.prior!r} is known to converge",
            )
    return automatic(objective)


def _check_least_weights(objective: Objective, rule: Any) -> None:
    for term in objective.prior.terms:
        least = term.prior.least_weight
        if least is None:
            continue
        if isinstance(rule, (WeightRule, WeightSearch)):
            raise InputError(
                f"a rule for the weight may choose one for which {term.prior!r} is not known to converge; give a number above "
                f"{float(least.max()):.4g}, or within_theorem=False"
            )
        weight = torch.as_tensor(rule).to(least) * torch.as_tensor(term.weight).to(least)
        if not bool((weight > least).all()):
            raise InputError(
                f"{term.prior!r} is known to converge for weights above {float(least.max()):.4g} here, and has "
                f"{float(weight.min()):.4g}; give a larger one, or within_theorem=False"
            )


def _check_fixed_levels(priors: PriorSum) -> None:
    for term in priors.terms:
        if term.prior.fixed_level and bool((torch.as_tensor(term.weight) != 1).any()):
            raise InputError(
                f"{term.prior!r} knows one noise level only, so it takes no weight; use the solver's step instead"
            )


def _as_sum(prior: Prior | str | None) -> PriorSum:
    if prior is None:
        return PriorSum()
    if isinstance(prior, str):
        prior = prior_named(prior)
    if not isinstance(prior, Prior):
        raise InputError(
            f"prior must be one of it.priors or a subclass of ExplicitPrior or ImplicitPrior, got {type(prior).__name__}"
        )
    return prior.as_sum()


def _solver(solver: Solver | str | None, objective: Objective) -> tuple[Solver, str]:
    if solver is None:
        return choose(objective)
    algorithm = solver_named(solver) if isinstance(solver, str) else solver
    if not isinstance(algorithm, Solver):
        raise InputError(f"solver must be one of it.solvers, got {type(solver).__name__}")
    check_fits(algorithm, objective)
    return algorithm, f"{type(algorithm).__name__} was asked for"


def _layout(problem: Problem, implicit: ImplicitPrior | None, unknowns: Unknowns | None) -> Layout:
    """The implicit prior's parameters or the image, and the unknowns behind them."""
    shapes = (
        {"x": problem.image_shape}
        if implicit is None
        else {k: tuple(t.shape[1:]) for k, t in implicit.initial().items()}
    )
    for name, start in () if unknowns is None else unknowns.starts.items():
        if name in shapes:
            raise InputError(
                f"the unknown {name!r} of {problem.operator} has the name of a parameter of {implicit!r}; rename the latter"
            )
        shapes[name] = tuple(start.shape[1:])
    return Layout(tuple(shapes), tuple(shapes.values()))


def _start(
    objective: Objective, initial: Tensor | dict[str, Tensor] | None, solver: Solver
) -> Tensor:
    implicit = objective.prior.implicit
    parameters = (
        {"x": _start_image(objective, initial, solver)}
        if implicit is None
        else _start_parameters(objective, implicit, initial)
    )
    if objective.layout is None:
        return parameters["x"]
    if objective.unknowns is not None:
        parameters |= objective.unknowns.zeros(next(iter(parameters.values())))
    return objective.layout.pack(parameters)


def _start_parameters(
    objective: Objective, implicit: ImplicitPrior, initial: Any
) -> dict[str, Tensor]:
    first = implicit.initial()
    parameters = first if initial is None else initial
    if not isinstance(parameters, dict) or set(parameters) != set(first):
        raise InputError(f"initial must be a dict with {', '.join(first)} for {implicit!r}")
    return {
        k: t.detach().expand(objective.batch, *t.shape[1:]) if t.shape[0] == 1 else t.detach()
        for k, t in parameters.items()
    }


def _start_image(objective: Objective, initial: Any, solver: Solver) -> Tensor:
    problem, batch = objective.problem, objective.batch
    if initial is not None:
        image = (
            torch.as_tensor(initial)
            .detach()
            .to(device=problem.y0.device, dtype=problem.image_dtype)
        )
        check_shape(image, problem.image_shape, "initial is an image", problem.operator.channelwise)
        if image.shape[0] not in (1, batch):
            raise InputError(f"initial has {image.shape[0]} items, expected 1 or {batch}")
        if not bool(torch.isfinite(image).all()):
            raise InputError("initial holds values that are NaN or infinite")
        return image.expand(batch, *image.shape[1:]).clone()
    return problem.zeros() if solver.starts_at_zero else first_guess(problem)


def first_guess(problem: Problem) -> Tensor:
    """Where solvers start: the back-projection that fits best; zeros where predictions and measurements are of another kind."""
    alike = problem.data_term.is_quadratic or problem.data_term.is_of_residual
    return fitted_back_projection(problem) if alike else problem.zeros()


def _check_settings(
    max_iterations: int | None,
    tolerance: float | None,
    time_limit: float | None,
    differentiate: str | None,
) -> None:
    if max_iterations is not None and max_iterations < 0:
        raise InputError(f"max_iterations must not be negative, got {max_iterations}")
    if tolerance is not None and not tolerance >= 0:
        raise InputError(f"tolerance must be a nonnegative number, got {tolerance}")
    if time_limit is not None and not time_limit > 0:
        raise InputError(f"time_limit must be a positive number of seconds, got {time_limit}")
    if differentiate not in (None, "implicit"):
        raise InputError(f"differentiate must be None or 'implicit', got {differentiate!r}")
