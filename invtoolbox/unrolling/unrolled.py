"""The first n steps of a solver as a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.loop.run import Limits, Loop, run
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.objective.objective import Objective
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solvers.base import Solver
from invtoolbox.unrolling.network import LayeredSolver, SolverNetwork, Weight


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
