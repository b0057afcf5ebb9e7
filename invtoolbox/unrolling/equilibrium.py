"""Solvers as networks: their first n steps, or their fixed point and its implicit derivative."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import select_items
from invtoolbox.errors import InputError
from invtoolbox.loop.differentiation import differentiate_fixed_point, solve_by_gmres
from invtoolbox.loop.run import DIVERGED, INVALID, LIMIT, STATUS, Limits, Loop, run
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.objective.objective import Objective
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solvers.base import Solver
from invtoolbox.unrolling.network import (
    LayeredSolver,
    SolverNetwork,
    Weight,
    solver_names,
)

Skip = nn.Module | Literal["step"]


@dataclass(frozen=True)
class FixedPoint:
    """The fixed point of a solver, and the run that found it.

    Attributes:
        x: the answers ``(batch, channel, *space)``, with the graph of the implicit function theorem
            if one is recorded.
        start: the image at which the iterations start; with its own graph if it was predicted.
        iterations: iterations of every item, ``(batch,)``: each calls the networks of the prior
            once.
        residual: the quantity that the tolerance bounds, ``(batch,)``; see the solver's
            certificate.
        status: status of every item, as `Solution.status`.
    """

    x: Tensor
    start: Tensor
    iterations: Tensor
    residual: Tensor
    status: tuple[str, ...]


class Equilibrium(SolverNetwork):
    """The fixed point of a solver as a module, ``network(y) -> x``; `equilibrium` makes one.

    Attributes:
        prior: the prior, with the networks that learn.
        learned: the parameters.
        skip: module that predicts the start, if there is one.
    """

    def __init__(
        self,
        solver: Solver | str,
        problem: Problem,
        prior: Prior | str | None,
        regularization: Weight,
        learn: Sequence[str] | None,
        skip: Skip | None,
        max_iterations: int | None,
        tolerance: float | None,
        adjoint_tolerance: float,
        adjoint_iterations: int,
    ) -> None:
        if not (skip is None or skip == "step" or isinstance(skip, nn.Module)):
            raise InputError(f"skip is a module from image to image, 'step' or None, got {skip!r}")
        check_range("equilibrium", "[1, inf)", max_iterations=max_iterations)
        check_range("equilibrium", "[1, inf)", adjoint_iterations=adjoint_iterations)
        check_range("equilibrium", "(0, inf]", adjoint_tolerance=adjoint_tolerance)
        super().__init__(
            solver,
            problem,
            prior,
            iterations=1,
            regularization=regularization,
            learn=learn,
            per_iteration=False,
            settings_too=False,
        )
        self.limits = Limits(
            self.solver.max_iterations if max_iterations is None else max_iterations,
            self.solver.tolerance if tolerance is None else tolerance,
        )
        self.skip, self.adjoint_tolerance = skip, adjoint_tolerance
        self.adjoint_iterations = adjoint_iterations

    def _check(self, objective: Objective) -> None:
        if not type(self.solver).has_fixed_point():
            raise InputError(
                f"the iterates of {type(self.solver).__name__} are not those of a map with a fixed "
                "point that could be differentiated; those of "
                f"{solver_names(lambda kind: kind.has_fixed_point())} are"
            )
        super()._check(objective)

    def forward(self, y: Any, initial: Tensor | None = None) -> Tensor:
        """Return the answer of the solver; a warning reports items that have not converged."""
        return self.settle(y, initial).x

    def settle(self, y: Any, initial: Tensor | None = None) -> FixedPoint:
        """Return the answer with start, iterations, residual and status.

        Args:
            y: measurements ``(batch, *range_shape)``; any batch.
            initial: start of the iterations, in place of the prediction of `skip`.
        """
        objective = self.objective_of(y)
        layered = LayeredSolver(
            solver=self.solver, learned=self.learned, base=self.prior, settles=True
        )
        working = self.solver.reformulate(objective)
        recorded = self.records(objective, initial)
        with torch.set_grad_enabled(recorded):
            start = (
                self._predict(objective, working, layered)
                if initial is None
                else self.start_of(objective, initial)
            )
        # The iterations themselves record nothing; `_attach` adds the derivative at their end.
        with torch.no_grad():
            loop, _ = Loop.start(
                layered, working, self.solver.start(working, start.detach()), None, keeps_state=True
            )
            loop = run(
                loop,
                working,
                layered,
                rule=None,
                limits=self.limits,
                callbacks=(),
                after_step=lambda *_: None,
            )
            x = working.decode(loop.x)
        certificate: Tensor = loop.summary.certificate
        self._report(loop, certificate)
        if recorded:
            x = self._attach(x, working, layered, loop)
        status = loop.status
        if objective.problem.skipped is not None:
            status = status.masked_fill(objective.problem.skipped, INVALID)
        return FixedPoint(
            self.blank_skipped(objective, x),
            start,
            loop.iterations,
            certificate,
            tuple(STATUS[int(k)] for k in status),
        )

    def _predict(self, objective: Objective, working: Objective, layered: LayeredSolver) -> Tensor:
        first = self.start_of(objective)
        if self.skip is None:
            return first
        if isinstance(self.skip, nn.Module):
            start = self.skip(first)
            if not isinstance(start, Tensor) or start.shape != first.shape:
                raise InputError(
                    f"skip takes an image {tuple(first.shape)} and gives one of the same shape, "
                    "got "
                    f"{tuple(start.shape) if isinstance(start, Tensor) else type(start).__name__}"
                )
            return start
        # One step of the solver, differentiated, from the start of `solve`.
        first = first.detach().requires_grad_(torch.is_grad_enabled())
        state = layered.init(working, self.solver.start(working, first))
        return working.decode(layered.result(layered.step(working.at(0), state)))

    def _report(self, loop: Loop, certificate: Tensor) -> None:
        short = (loop.status == LIMIT) | (loop.status == DIVERGED)
        if bool(short.any()):
            worst = float(certificate[short].nan_to_num(math.inf).max())
            warnings.warn(
                f"the fixed point of {type(self.solver).__name__} was not reached for "
                f"{int(short.sum())} of {len(short)} items in {self.limits.max_iterations} "
                f"iterations: the {self.solver.certificate_name} is {worst:.2g} at the most, and "
                f"{self.limits.tolerance:.2g} was asked for; the derivative assumes a fixed point, "
                "so give more max_iterations=, a larger tolerance=, or unroll the solver",
                stacklevel=3,
            )

    # -- the derivative ----------------------------------------------------------------------------

    def _attach(self, x: Tensor, working: Objective, layered: LayeredSolver, loop: Loop) -> Tensor:
        """Return the answers with a graph.

        Answers that are not finite get none, so that they do not spoil tensors that all items
        share.
        """
        finite = (loop.status != DIVERGED).nonzero().squeeze(1)
        if not len(finite):
            return x
        objective = working.at(self.limits.max_iterations)
        state = loop.summary
        if len(finite) < len(x):
            objective, state = objective.select(finite), select_items(state, finite)
        solver, objective = layered.at(objective, 0)
        adjoint = solve_by_gmres(
            self.adjoint_tolerance,
            self.adjoint_iterations,
            "give more adjoint_iterations=, or see whether the solver has converged",
        )
        # x = T(x; theta): the backward pass solves w = v + (dT/dx)^T w.
        answer = differentiate_fixed_point(
            x[finite], objective, solver, state, adjoint, working.decode
        )
        return x.index_copy(0, finite, answer)

    def extra_repr(self) -> str:
        return (
            f"max_iterations={self.limits.max_iterations}, tolerance={self.limits.tolerance:g}, "
            f"{super().extra_repr()}"
        )


def equilibrium(
    solver: Solver | str,
    problem: Problem,
    prior: Prior | str | None = None,
    *,
    regularization: Weight = "auto",
    learn: Sequence[str] | None = None,
    skip: Skip | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    adjoint_tolerance: float = 1e-5,
    adjoint_iterations: int = 100,
) -> Equilibrium:
    r"""Return the fixed point of a solver as a network ``y -> x`` (deep equilibrium).

    Bai, Kolter and Koltun 2019; Gilton, Ongie and Willett 2021. The loop of `solve` finds the fixed
    point, so it is the same answer; nothing is stored during the iterations. With
    ``z = T(z; theta)`` the solver's step, the derivative follows from the implicit function
    theorem. The backward pass solves ``w = v + (dT/dz)^T w`` by GMRES, which costs products with
    one step, and ``(dT/dtheta)^T w`` is the gradient of the parameters. So the memory is that of
    one step, for any number of iterations, and the derivative is right only as far as the solver
    has converged.

    A good start saves iterations: ``skip`` predicts one, and `training.SkipLoss` trains it (Pal,
    Edelman and Rackauckas, HPEC 2023).

    Args:
        solver: gradient descent, proximal gradient, FISTA, ADMM, half-quadratic or Douglas-Rachford
            splitting, PDHG, Condat-Vu or conjugate gradients.
        problem: operator and data term; its measurements only define shapes, and are not used.
        prior: explicit priors, as in `solve`; their networks are copied.
        regularization: the weight to start from, a number, or one number per item; by default 1, or
            a weight that is known to converge.
        learn: names of the learned parts, out of ``"network"``, ``"regularization"`` and the
            settings of the solver that were given as numbers; networks and weight by default. A
            step size has no influence on the fixed point of a proximal operator, but it has with a
            denoiser in its place.
        skip: a module that maps the image at which `solve` would start to a better one; or
            ``"step"``: the first step of the solver itself, which is trained to go as far as it
            can.
        max_iterations: largest number of iterations; the solver's own by default.
        tolerance: tolerance of the certificate; the solver's own by default.
        adjoint_tolerance: relative residual of the adjoint equation.
        adjoint_iterations: largest number of products in the adjoint equation.

    Raises:
        InputError: if the solver has no fixed point to differentiate (the error names solvers that
            have one), the prior is an implicit one, or there is nothing to learn.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.zeros(1, 1, 4), it.operators.Identity((1, 4)))
    >>> network = it.equilibrium(it.solvers.ADMM(rho=1.0, tolerance=1e-6), problem, it.priors.L1())
    >>> x = network(torch.tensor([[[3.0, 0.5, -2.0, 0.0]]]))
    >>> x.detach().round(decimals=4)
    tensor([[[ 2.,  0., -1.,  0.]]])
    >>> x.sum().backward()  # d/dw of (3 - w) + (w - 2) is 0, and d/dw of its parts is not
    >>> network.learned.logarithms["regularization"].grad.abs() < 1e-4
    tensor([True])
    """
    return Equilibrium(
        solver,
        problem,
        prior,
        regularization=regularization,
        learn=learn,
        skip=skip,
        max_iterations=max_iterations,
        tolerance=tolerance,
        adjoint_tolerance=adjoint_tolerance,
        adjoint_iterations=adjoint_iterations,
    )


class Unrolled(SolverNetwork):
    """A solver's first n iterations as a module, ``network(y) -> x``; `unroll` makes one.

    Attributes:
        prior: the prior, with the networks that learn; not used if every iteration has its own
            networks.
        learned: the parameters.
        iterations: n.
        recompute: whether iterations are computed again in the backward pass.
        inverse: whether iterations start at the filtered back-projection of a scan.
    """

    def __init__(
        self,
        solver: Solver | str,
        problem: Problem,
        n: int,
        prior: Prior | str | None,
        regularization: Weight,
        learn: Sequence[str] | None,
        per_iteration: Sequence[str] | bool | None,
        recompute: bool,
        inverse: bool,
    ) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InputError(
                f"a solver is unrolled for a whole number of iterations, at least one, got {n!r}"
            )
        super().__init__(
            solver,
            problem,
            prior,
            iterations=n,
            regularization=regularization,
            learn=learn,
            per_iteration=per_iteration,
            settings_too=True,
        )
        self.iterations, self.recompute, self.inverse = n, recompute, inverse

    def forward(self, y: Any, initial: Tensor | None = None) -> Tensor:
        """Return the iterate after n steps.

        Args:
            y: measurements ``(batch, *range_shape)``; any batch.
            initial: start of the iterations, ``(batch or 1, channel, *space)``; by default the
                start of `solve`, or the filtered back-projection if `inverse` is set.
        """
        objective = self.objective_of(y)
        layered = LayeredSolver(
            solver=self.solver, learned=self.learned, base=self.prior, recomputed=self.recompute
        )
        with torch.set_grad_enabled(self.records(objective, initial)):
            start = self.start_of(objective, initial)
            if torch.is_grad_enabled() and not start.requires_grad:
                # Priors record a graph if the image requires a gradient.
                start = start.detach().requires_grad_(True)
            working = self.solver.reformulate(objective)
            loop, working = Loop.start(layered, working, self.solver.start(working, start), None)
            # A tolerance below every certificate: all items take all n steps.
            limits = Limits(self.iterations, -math.inf)
            loop = run(
                loop,
                working,
                layered,
                rule=None,
                limits=limits,
                callbacks=(),
                after_step=lambda *_: None,
            )
            return self.blank_skipped(objective, working.decode(loop.x))

    def start_of(self, objective: Objective, initial: Tensor | None = None) -> Tensor:
        if initial is None and self.inverse:
            return first_guess(objective.problem, inverse=True)
        return super().start_of(objective, initial)

    def extra_repr(self) -> str:
        return f"n={self.iterations}, {super().extra_repr()}"


def unroll(
    solver: Solver | str,
    problem: Problem,
    n: int,
    prior: Prior | str | None = None,
    *,
    regularization: Weight = "auto",
    learn: Sequence[str] | None = None,
    per_iteration: Sequence[str] | bool | None = None,
    recompute: bool = False,
    inverse: bool = False,
) -> Unrolled:
    r"""Return the first n iterations of a solver as a network ``y -> x`` with parameters to learn.

    Gregor and LeCun, ICML 2010. Until something is learned it returns the result of
    ``solve(..., max_iterations=n, tolerance=0)``: the start, the steps and the loop are the same.
    Its derivatives are exact in the networks of the prior, the weight, the given settings, the
    measurements, and every tensor of the operator that requires a gradient. Values that a solver
    finds by itself (a step by line search, a balanced penalty, the norm of an operator) are
    constants of the derivative. Train it by `training.train`, on pairs of measurements and images.

    Args:
        solver: gradient descent, proximal gradient, FISTA, ADMM, half-quadratic or Douglas-Rachford
            splitting, PDHG, Condat-Vu, conjugate gradients, CGLS, LSMR or SIRT.
        problem: operator and data term; its measurements only define shapes, and are not used.
        n: number of iterations.
        prior: explicit priors, as in `solve`; their networks and parameters are copied.
        regularization: the weight to start from, a number, or one number per item; by default 1, or
            a weight that is known to converge.
        learn: names of the learned parts, out of ``"network"`` (the networks of the prior, and each
            `torch.nn.Parameter` that it holds), ``"regularization"`` and the settings of the solver
            that were given as numbers (``"step_size"``, ``"rho"``, ``"penalty"``, ``"ratio"``); all
            available ones by default.
        per_iteration: names of the learned parts that every iteration has for itself; True for all,
            False for none, by default all but the networks.
        recompute: keep only the state after each iteration and compute the iteration again in the
            backward pass: the memory of a state instead of every layer of the networks, for one
            more pass of each.
        inverse: start at the filtered back-projection of a scan. Few iterations then are enough
            for the low frequencies too.

    Raises:
        InputError: if the solver has no steps to differentiate (the error names solvers that have),
            the prior is an implicit one, or there is nothing to learn.

    >>> import invtoolbox as it
    >>> A = it.operators.Identity((1, 4))
    >>> problem = it.Problem(torch.zeros(1, 1, 4), A)
    >>> network = it.unroll(it.solvers.ProximalGradient(step_size=0.5), problem, 3, it.priors.L1())
    >>> network(torch.tensor([[[3.0, 0.5, -2.0, 0.0]]]))
    tensor([[[ 2.1250,  0.0000, -1.1250,  0.0000]]], grad_fn=<...>)
    >>> {name: tuple(p.shape) for name, p in network.named_parameters()}
    {'learned.logarithms.regularization': (3,), 'learned.logarithms.step_size': (3,)}
    """
    return Unrolled(
        solver,
        problem,
        n,
        prior,
        regularization=regularization,
        learn=learn,
        per_iteration=per_iteration,
        recompute=recompute,
        inverse=inverse,
    )
