"""Models of deepinv that run our solvers; importing this module imports deepinv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from deepinv.models import Reconstructor
from deepinv.physics import Physics
from torch import Tensor

from invtoolbox.catalogue.presets import priors_named, solver_named, split_priors
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.deepinv_noise import likelihood
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.decisions.case import Case
from invtoolbox.jobs.images.decisions.order import decide, off_words
from invtoolbox.operators.deepinv_physics import operator_of, place_like, to_tuple
from invtoolbox.priors.adapters import as_prior
from invtoolbox.priors.automatic import Auto
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solvers.base import Solver
from invtoolbox.unrolling.network import SolverNetwork


class SolverReconstructor(Reconstructor):  # type: ignore[misc]
    """A prior and a solver as a model of deepinv; the arguments are those of `as_reconstructor`."""

    def __init__(
        self,
        prior: Any,
        solver: Solver | str | None,
        regularization: Any,
        *,
        data_term: DataTerm | None,
        domain_shape: Sequence[int] | None,
        max_iterations: int | None,
        tolerance: float | None,
        time_limit: float | None,
        seed: int,
        differentiate: str | None,
        automatic: str | None,
    ) -> None:
        super().__init__()
        # Names are resolved once, so that a wrong one is an error here.
        self.prior = _as_prior(prior)
        self.names = tuple(split_priors(prior)) if isinstance(prior, str) else ()
        is_auto = isinstance(self.prior, Auto)
        self.automatic = automatic or ("+prior-choice" if is_auto else "none")
        off_words(self.automatic)
        self.solver = solver_named(solver) if isinstance(solver, str) else solver
        self.regularization, self.data_term = regularization, data_term
        self.domain_shape = domain_shape
        self.max_iterations, self.tolerance = max_iterations, tolerance
        self.time_limit, self.seed, self.differentiate = time_limit, seed, differentiate
        if isinstance(self.prior, Auto) and (tolerance, time_limit, differentiate) != (None,) * 3:
            raise InputError(
                "as_reconstructor('auto') compares several solves, and takes no tolerance, "
                "time_limit or differentiate; leave them out, or name a prior"
            )

    def problem(self, y: Any, physics: Physics) -> Problem:
        """Return the problem of measurements and a physics, with the noise model of the physics.

        Args:
            y: measurements ``(batch, ...)``, a tensor or a ``TensorList``.
            physics: physics of the measurements.
        """
        operator = operator_of(y, physics, self.domain_shape)
        measured = to_tuple(y)
        if self.data_term is not None:
            return Problem(measured, operator, self.data_term)
        return Problem(*likelihood(measured, operator, physics))

    def solve(self, y: Any, physics: Physics, init: Any = None) -> Solution:
        """Return the solution of which a call of the model returns the images.

        Args:
            y: measurements ``(batch, ...)``, a tensor or a ``TensorList``.
            physics: physics of the measurements.
            init: initial guess, or a function ``init(y, physics)`` that computes it.
        """
        problem, prior = self.problem(y, physics), self.prior
        if isinstance(prior, Auto) and init is not None:
            raise InputError("as_reconstructor('auto') takes no initial guess; leave out init=")
        settings = {
            "regularization": self.regularization,
            "initial": init(y, physics) if callable(init) else init,
            "max_iterations": self.max_iterations,
            "tolerance": self.tolerance,
            "time_limit": self.time_limit,
            "seed": self.seed,
            "differentiate": self.differentiate if torch.is_grad_enabled() else None,
            "progress": False,
        }
        case = Case.of(problem, prior, self.solver, settings, self.names)
        return decide(case, off_words(self.automatic))

    def forward(self, y: Any, physics: Physics, init: Any = None) -> Tensor:
        """Return the reconstructed images ``(batch, channel, *space)``.

        Args:
            y: measurements ``(batch, ...)``, a tensor or a ``TensorList``.
            physics: physics of the measurements.
            init: initial guess, or a function ``init(y, physics)`` that computes it.
        """
        return self.solve(y, physics, init).x

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # The base class moves itself during its construction, before there is a prior.
        for name in ("prior", "data_term"):
            settings = self.__dict__.get(name)
            if settings is not None and not isinstance(settings, Auto):
                setattr(self, name, place_like(settings, fn))
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"prior={self.prior!r}, solver={self.solver!r}"


class NetworkReconstructor(Reconstructor):  # type: ignore[misc]
    """A solver as a network (`unroll`, `equilibrium`) as a model of deepinv that trains.

    Args:
        network: the network; its parameters are the parameters of the model.
        domain_shape: shape of the images, as in `as_reconstructor`.
    """

    def __init__(self, network: SolverNetwork, domain_shape: Sequence[int] | None) -> None:
        super().__init__()
        self.network, self.domain_shape = network, domain_shape

    def forward(self, y: Any, physics: Physics, init: Tensor | None = None) -> Tensor:
        """Return the images of the network with the operator of the physics.

        Args:
            y: measurements ``(batch, ...)``, a tensor or a ``TensorList``.
            physics: physics of the measurements.
            init: initial guess.
        """
        network = self.network.with_operator(operator_of(y, physics, self.domain_shape))
        measured = to_tuple(y)
        return network(measured, init)


def _as_prior(prior: Any) -> Any:
    """Return a prior for a prior, names, a list of both, or an object that `as_prior` takes."""
    if prior is None or isinstance(prior, (str, Prior)):
        return priors_named(prior)
    if isinstance(prior, (list, tuple)):
        return priors_named([p if isinstance(p, (str, Prior)) else as_prior(p) for p in prior])
    return as_prior(prior)
