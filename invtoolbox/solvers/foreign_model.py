"""Reconstruction models of deepinv as solvers of one step: `as_solver`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from invtoolbox.data_terms import DataTerm, LeastSquares, Poisson, Stack
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.adapters import to_physics
from invtoolbox.solvers.base import Solver, State, implicit_reason


@dataclass(frozen=True, repr=False)
class ForeignModel(Solver):
    """A model ``model(y, physics) -> x`` as a solver of one step, see `as_solver`."""

    model: Any = field(kw_only=True)
    max_iterations: int = 1
    tolerance: float = 0.0

    certificate_name: ClassVar[str] = "certificate, which a foreign model does not have"

    def unsupported_reason(self, objective: Objective) -> str | None:
        if objective.explicit_priors:
            return (
                f"{self!r} has its own prior and takes no other; leave out prior=, or pass the "
                "answer of the model as initial= to another solver"
            )
        term = objective.problem.data_term
        if type(term) not in (LeastSquares, Poisson, Stack) or _has_background(term):
            return (
                f"{self!r} takes Gaussian noise, or counts without a background, and the data term "
                f"is {term!r}; use LeastSquares(noise_std=...)"
            )
        return implicit_reason(objective, repr(self))

    def init(self, objective: Objective, start: Tensor) -> State:
        value, _, discrepancy = objective.data(start)
        return State(
            x=start,
            value=value,
            discrepancy=discrepancy,
            certificate=torch.full_like(discrepancy, torch.inf),
        )

    def step(self, objective: Objective, state: State) -> State:
        x = objective.each_alone(self._reconstruct, state.x)
        value, _, discrepancy = objective.data(x)
        return replace(state, x=x, value=value, discrepancy=discrepancy)

    def _reconstruct(self, objective: Objective, x: Tensor) -> Tensor:
        """Return the answer of the model for one item, with the draws of the run's seed."""
        from deepinv.physics import GaussianNoise, PoissonNoise, ZeroNoise
        from deepinv.utils import TensorList

        problem = objective.problem
        physics = to_physics(problem.operator)
        noise_std = getattr(problem.data_term, "noise_std", None)
        is_count = isinstance(problem.data_term, Poisson)
        physics.noise_model = PoissonNoise(gain=1.0) if is_count else ZeroNoise()
        if noise_std is not None:
            # deepinv's level of complex noise is that of both parts together.
            both = 2**0.5 if problem.y0.is_complex() else 1.0
            level = torch.as_tensor(noise_std).to(problem.y0.real) * both
            physics.noise_model = GaussianNoise(level.reshape(-1))
        y = TensorList(list(problem.y)) if isinstance(problem.y, tuple) else problem.y
        devices = [x.device] if x.is_cuda else []
        with _evaluation_mode(self.model), torch.random.fork_rng(devices=devices):
            torch.manual_seed(objective.seed)
            answer = self.model(y, physics)
        if not isinstance(answer, Tensor) or answer.shape != x.shape:
            shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise InputError(
                f"{self!r} must return images {tuple(x.shape)} of the problem, got {shape}"
            )
        return answer.detach().to(x)

    def __repr__(self) -> str:
        return f"as_solver({type(self.model).__name__})"


def _has_background(term: DataTerm) -> bool:
    return isinstance(term, Poisson) and bool(torch.as_tensor(term.background).any())


@contextlib.contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    """Run a module in evaluation mode, and restore the mode of each of its parts."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes):
            module.training = mode


def as_solver(model: Any) -> Solver:
    """Convert a reconstruction model of deepinv to a solver, ``it.solve(problem, solver=...)``.

    The model is called once per item, in evaluation mode and without gradients, with the physics of
    the problem (`to_deepinv`; the physics itself if the operator was one). The ``noise_std`` of the
    data term is its Gaussian noise, and `Poisson` its Poisson noise; a stack states none. The
    status is ``early_stopping``, because a model has no certificate; the history holds the misfit
    of its answer. To use the answer as an initial guess, pass ``solution.x`` as ``initial=``.

    Args:
        model: a ``deepinv.models.Reconstructor`` (networks, unrolled networks, and the optimizers
            and samplers of deepinv are such), or a function ``f(y, physics) -> x``.

    Raises:
        InputError: if the object is not callable, or is a denoiser, which `as_prior` takes; in a
            run, if there is a prior or another data term, or the answer does not have the shape of the images.

    >>> import deepinv, torch, invtoolbox as it
    >>> model = deepinv.optim.PGD(deepinv.optim.TVPrior(), max_iter=5)
    >>> problem = it.Problem(torch.ones(1, 1, 4, 4), it.operators.Identity((1, 4, 4)))
    >>> it.solve(problem, solver=it.as_solver(model), progress=False).status
    ('early_stopping',)
    """
    # An object of a package can exist only if the package is already imported.
    if "deepinv" in sys.modules and isinstance(model, sys.modules["deepinv"].models.Denoiser):
        raise InputError(
            f"{type(model).__name__} is a denoiser and knows no physics; it.as_prior makes it a "
            "prior"
        )
    if not callable(model):
        raise InputError(
            "as_solver takes a reconstruction model of deepinv or a function f(y, physics), got "
            f"{type(model).__name__}"
        )
    return ForeignModel(model=model)
