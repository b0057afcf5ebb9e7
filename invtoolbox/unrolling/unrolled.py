"""So many steps of a solver as a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.loop.run import Limits, Loop, run
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solvers.base import Solver
from invtoolbox.unrolling.network import Layered, SolverNetwork, Weight


class Unrolled(SolverNetwork):
    """A solver's first n iterations as a module, ``network(y) -> x``; `unroll` makes one.

    Attributes:
        prior: with the networks that learn; of no use by itself where every iteration has its own.
        learned: the parameters.
        iterations: n.
        recompute: whether iterations are computed again on the way back.
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
    ) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InputError(
                f"a solver is unrolled for a whole number of iterations, at least one, got {n!r}"
            )
        super().__init__(
            solver, problem, prior, n, regularization, learn, per_iteration, settings_too=True
        )
        self.iterations, self.recompute = n, recompute

    def forward(self, y: Any, initial: Tensor | None = None) -> Tensor:
        """The iterate after n steps.

        Args:
            y: measurements ``(batch, *range_shape)``; any batch.
            initial: where to start, ``(batch or 1, channel, *space)``; by default where `solve` does.
        """
        objective = self.bound(y)
        layered = Layered(
            solver=self.solver, learned=self.learned, base=self.prior, recomputed=self.recompute
        )
        with torch.set_grad_enabled(self.records(objective, initial)):
            start = self.start_of(objective, initial)
            if torch.is_grad_enabled() and not start.requires_grad:
                # Priors record a graph where the image asks for one.
                start = start.detach().requires_grad_(True)
            working = self.solver.reformulate(objective)
            loop, working = Loop.start(layered, working, self.solver.start(working, start), None)
            limits = Limits(self.iterations, -math.inf, None)
            loop = run(loop, working, layered, None, limits, (), lambda loop, last: None)
            x: Tensor = working.decode(loop.x)
        return x

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
) -> Unrolled:
    r"""The first n iterations of a solver as a network ``y -> x`` with parameters to learn (Gregor and LeCun, ICML 2010).

    It gives what ``solve(..., max_iterations=n, tolerance=0)`` gives until something is learned: the start, the steps and the loop are
    the same. Its derivatives are exact in the networks of the prior, the weight, the settings that were given, the measurements, and
    whatever tensor of the operator asks for a gradient. What a solver finds by itself (a step by line search, a penalty that is balanced,
    the norm of an operator) is a constant of the derivative. Train it by `training.train`, on pairs of measurements and images.

    Args:
        solver: gradient descent, proximal gradient, FISTA, ADMM, half-quadratic or Douglas-Rachford splitting, PDHG, Condat-Vu, conjugate
            gradients, CGLS, LSMR or SIRT.
        problem: operator and data term; its measurements show what is to come, and are not used.
        n: iterations.
        prior: explicit priors, as in `solve`; their networks are copied.
        regularization: the weight to start from, a number, or one an item; by default 1, or what is known to converge.
        learn: what is learned, out of ``"network"``, ``"regularization"`` and the settings of the solver that were given as numbers
            (``"step_size"``, ``"rho"``, ``"penalty"``, ``"ratio"``); everything there is by default.
        per_iteration: which of these each iteration has for itself; True for all, False for none, by default all but the networks.
        recompute: keep only the state after each iteration and compute the iteration again on the way back: the memory of a state in
            place of that of every layer of the networks, for one more pass of each.

    Raises:
        InputError: where the solver has no steps to differentiate (it names those that have), the prior is an implicit one, or
            nothing is there to be learned.

    >>> import invtoolbox as it
    >>> A = it.operators.Identity((1, 4))
    >>> problem = it.Problem(torch.zeros(1, 1, 4), A)
    >>> network = it.unroll(it.solvers.ProximalGradient(step_size=0.5), problem, 3, it.priors.L1())
    >>> network(torch.tensor([[[3.0, 0.5, -2.0, 0.0]]]))
    tensor([[[ 2.1250,  0.0000, -1.1250,  0.0000]]], grad_fn=<...>)
    >>> {name: tuple(p.shape) for name, p in network.named_parameters()}
    {'learned.logarithms.regularization': (3,), 'learned.logarithms.step_size': (3,)}
    """
    return Unrolled(solver, problem, n, prior, regularization, learn, per_iteration, recompute)
