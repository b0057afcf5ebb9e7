"""How an objective falls into pieces for splitting methods: ``sum_i weight_i F_i(K_i x)``, every F with a prox.

What a splitting method can do with a prior is decided here once: a prior that splits gives its linear operator and its
simple part, a quadratic one its operator and half a square, any other its own prox with the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from invtoolbox.buffers import added
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.stack import Stack
from invtoolbox.objective import Objective
from invtoolbox.operators.algebra import LinearStack
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.tikhonov import Tikhonov
from invtoolbox.solvers.base import implicit_reason


@dataclass(frozen=True)
class PriorPiece:
    """``weight * function(operator x)``; no operator is the identity."""

    weight: Tensor  # (batch,)
    function: ExplicitPrior
    operator: LinearOperator | None

    def apply(self, x: Tensor) -> Tensor:
        return x if self.operator is None else cast(Tensor, self.operator(x))

    def adjoint(self, z: Tensor) -> Tensor:
        return z if self.operator is None else self.operator.adjoint(z)

    def value(self, z: Tensor) -> Tensor:
        if "energy" not in self.function.offers:
            return torch.full_like(self.weight, float("nan"))
        return self.weight * self.function.energy(z)

    def prox(self, v: Tensor, step: Tensor) -> Tensor:
        return self.function.prox(v, step * self.weight)

    def prox_and_value(self, v: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """`prox`, and the value there."""
        p, energy = self.function.prox_and_energy(v, step * self.weight)
        return p, self.weight * energy

    def prox_conjugate(self, v: Tensor, step: Tensor) -> Tensor:
        """The prox of the convex conjugate; may overwrite ``v``."""
        return self.function.prox_conjugate(v, step, self.weight)


@dataclass(frozen=True)
class DataPiece:
    """``weight * data_term(operator x, y)``: the misfit, or one of several that are stacked."""

    weight: float
    data_term: DataTerm
    operator: LinearOperator
    y: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.operator(x))

    def adjoint(self, z: Tensor) -> Tensor:
        return self.operator.adjoint(z)

    def value(self, z: Tensor) -> Tensor:
        return self.weight * self.data_term.value(z, self.y)

    def grad(self, z: Tensor) -> Tensor:
        gradient: Tensor = self.data_term.grad(z, self.y)
        return gradient if self.weight == 1 else self.weight * gradient

    def prox(self, v: Tensor, step: Tensor) -> Tensor:
        result: Tensor = self.data_term.prox(v, self.y, self.weight * step)
        return result

    def prox_conjugate(self, v: Tensor, step: Tensor) -> Tensor:
        """The prox of the convex conjugate, by Moreau's identity; may overwrite ``v``."""
        factor = expand(step, v)
        return added(v, factor * self.prox(v / factor, 1 / step), -1.0)


Piece = PriorPiece | DataPiece


def data_pieces(objective: Objective) -> tuple[DataPiece, ...]:
    """The misfit in pieces: stacked operators with stacked data terms give one piece each."""
    problem = objective.problem
    A, D, y = problem.operator, problem.data_term, problem.y
    if isinstance(A, LinearStack) and isinstance(D, Stack):
        return tuple(
            DataPiece(w, d, part, m) for w, d, part, m in zip(D.weights, D.terms, A.parts, y)
        )
    return (DataPiece(1.0, D, cast(LinearOperator, A), y),)


def prior_pieces(objective: Objective) -> tuple[PriorPiece, ...]:
    """Every explicit prior as a piece; `pieces_reason` says where one is not."""
    pieces = []
    for weight, prior in objective.terms:
        if "split" in prior.offers:
            K, F = prior.split()
            pieces.append(PriorPiece(weight, F, K))
        elif "prox" in prior.offers:
            pieces.append(PriorPiece(weight, prior, None))
        else:
            L, b = prior.quadratic()
            pieces.append(PriorPiece(weight, Tikhonov(reference=b), L))
    return tuple(pieces)


def copy_of_image(pieces: tuple[PriorPiece, ...], splits: Sequence[Tensor]) -> Tensor | None:
    """Of the copies ``z_i`` of ``K_i x`` the one to answer with: a constraint's on the image itself, so that it holds, else the first."""
    free = [(piece, z) for piece, z in zip(pieces, splits) if piece.operator is None]
    return next(
        (z for piece, z in free if piece.function.is_constraint), free[0][1] if free else None
    )


def pieces_reason(objective: Objective, name: str) -> str | None:
    """Why an objective does not fall into pieces, or ``None``."""
    problem = objective.problem
    if not problem.is_linear:
        return f"{name} needs a linear operator, and {problem.operator} is not"
    if isinstance(problem.y, tuple) and not (
        isinstance(problem.operator, LinearStack) and isinstance(problem.data_term, Stack)
    ):
        return f"{name} takes several measurements as stack([...]) with data_terms.Stack(...)"
    for _, prior in objective.terms:
        if not {"prox", "split", "quadratic"} & prior.offers:
            return f"{name} needs a proximal operator of every prior, alone or behind a linear operator, and {prior!r} has none"
    return None


def splitting_reason(objective: Objective, name: str) -> str | None:
    """Why a method that takes turns between a quadratic misfit and the priors does not fit, or ``None``."""
    reason = implicit_reason(objective, name) or pieces_reason(objective, name)
    if reason is not None:
        return reason
    if not objective.problem.data_term.is_quadratic:
        return f"{name} needs a quadratic data term, and {objective.problem.data_term!r} is not"
    return None if objective.terms else f"{name} needs a prior, and there is none"


def operator_norm(operator: LinearOperator | None, like: Tensor) -> Tensor:
    """The norm of an operator for every item, ``(batch,)``; a little more than estimated, as estimates come from below."""
    real = like.real.dtype if like.is_complex() else like.dtype
    if operator is None:
        return torch.ones(like.shape[0], dtype=real, device=like.device)
    with torch.no_grad():  # a constant of whatever is differentiated
        norm = operator.norm(tolerance=1e-3, dtype=like.dtype, device=like.device)
    norm = norm.real if norm.is_complex() else norm
    return (1.005 * norm.to(real)).expand(like.shape[0]).clone()
