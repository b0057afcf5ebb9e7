"""The primal-dual hybrid gradient method, preconditioned and adaptive."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.core.in_place import add, add_product, overwrite, subtract
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.objective.auxiliaries import with_auxiliaries
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, item_norm
from invtoolbox.operators.elementary import Identity
from invtoolbox.parameter_choice.discrepancy import DiscrepancyPrinciple, first_weight
from invtoolbox.solvers.base import (
    Solver,
    State,
    implicit_reason,
    inexact_prox_reason,
    nonconvex_reason,
)
from invtoolbox.solvers.splitting import (
    DataPiece,
    Piece,
    PriorPiece,
    data_pieces,
    operator_norm,
    pieces_reason,
    prior_pieces,
)


@dataclass
class PDHGState(State):
    regularization: (
        Tensor  # (batch,) the weight, or the one that the discrepancy constraint is worth
    )
    target: Tensor  # (batch,) the discrepancy to meet; NaN where the weight is given
    ratio: Tensor  # (batch,) primal over dual step
    norms: Tensor  # (batch, pieces) of the operators of the dual pieces
    curvatures: Tensor  # (batch, misfits) of every misfit in its prediction; infinite where there is no bound
    start: Tensor  # where x started
    point: Tensor  # the relaxed x
    pull: Tensor  # sum_j K_j^T p_j
    duals: tuple[Tensor, ...]  # p_j, relaxed
    images: tuple[Tensor, ...]  # K_j point
    spare: tuple[Tensor, ...]  # a buffer for every piece, and one for the image


@dataclass(frozen=True)
class PDHG(Solver):
    r"""Primal-dual hybrid gradient (Chambolle and Pock 2011), over-relaxed (Condat 2013), with steps of each item's own.

    Minimises ``G(x) + sum_j F_j(K_j x)``: the misfit and every prior that splits (total variation) are pieces behind a
    linear operator, one prior with a prox alone is ``G``. One iteration applies every operator and adjoint once::

        u   = prox_{tau G}(x - tau sum_j K_j^T p_j)
        q_j = prox_{sigma_j F_j*}(p_j + sigma_j K_j (2 u - x))
        (x, p) <- (x, p) + relaxation ((u, q) - (x, p))

    Every piece has its own step, ``sigma_j = 1 / (tau J |K_j|^2)`` for J pieces (block preconditioning, Pock and Chambolle
    2011), so pieces of very different scale (a projector and a gradient) do not slow each other. The ratio of primal
    to dual steps follows the sizes of x and p at iterations 10, 20, 40, ... A data term with a gradient but no prox enters
    by its gradient, without relaxation (Condat 2013, Vu 2013). For denoising the misfit itself is ``G`` where that is free.
    Auxiliary variables of a prior (`TotalGeneralizedVariation`) are further channels of x here, and the objective in history is
    the one of both, which lies above that of the image until they have settled.

    Where the weight is to be chosen by the discrepancy principle and the data term is least squares, the problem
    ``min sum_i w_i R_i(x)`` subject to ``discrepancy(A x, y) <= target`` is solved as it stands: the ball takes the place of
    the data term, and the weight it is worth, ``target noise_std^-1 / |p|``, is what `Solution.regularization` reports.

    Converges to a minimiser for convex data terms and priors and every linear operator, because
    ``tau sum_j sigma_j |K_j|^2 <= 1`` (with a data gradient of Lipschitz constant L, ``1 / tau - sum_j sigma_j |K_j|^2 >= L / 2``)
    and the ratio changes finitely often. The objective need not decrease monotonically.
    Certificate: the larger of the primal and the dual residual (Goldstein et al. 2013), i.e. of what is missing in
    ``0 in dG(u) + sum_j K_j^T q_j``, relative to the largest ``K_j^T q_j``, and in ``K_j u in dF_j*(q_j)``, relative to the image.

    Args:
        relaxation: in (0, 2); 1 is none.
        adaptive: whether the ratio of the steps follows the iterates.
        ratio: the first ``tau / sigma``-like ratio, a guess by default.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[0., 0., 9., 9.]]]), it.operators.Identity((1, 4)))
    >>> it.solve(problem, it.priors.TotalVariation(), PDHG(), regularization=1.0, progress=False).x.round(decimals=2)
    tensor([[[0.5000, 0.5000, 8.5000, 8.5000]]])
    """

    max_iterations: int = 2000
    tolerance: float = 1e-3
    relaxation: float = 1.8
    adaptive: bool = True
    ratio: float | None = None

    certificate_name: ClassVar[str] = "larger of relative primal and dual residual"
    per_iteration: ClassVar[tuple[str, ...] | None] = ("ratio", "regularization")

    def unsupported_reason(self, objective: Objective) -> str | None:
        objective = self.reformulate(objective)
        reason = implicit_reason(objective, "PDHG") or pieces_reason(objective, "PDHG")
        if reason is not None:
            return reason
        if not 0 < self.relaxation < 2:
            return f"PDHG needs a relaxation between 0 and 2, got {self.relaxation}"
        for piece in data_pieces(objective):
            if "prox" not in piece.data_term.offers and piece.data_term.curvature(piece.y) is None:
                return f"PDHG needs a data term with a proximal operator or a Lipschitz gradient, and {piece.data_term!r} has neither"
        return None

    def suits(self, objective: Objective) -> bool:
        """Where misfit and priors are convex and their prox exact: not for denoisers, nor where all is smooth."""
        priors = [prior for _, prior in objective.terms]
        convex = objective.problem.data_term.is_convex and all(
            prior.is_convex is not False for prior in priors
        )
        return bool(priors) and convex and not any("denoise" in prior.offers for prior in priors)

    def reformulate(self, objective: Objective) -> Objective:
        """With auxiliary variables written out, which leaves no inner minimisation in a prox."""
        return with_auxiliaries(objective)

    def meets_target(self, objective: Objective) -> bool:
        D, y = objective.problem.data_term, objective.problem.y
        plain = isinstance(D, LeastSquares) and D.weights is None and isinstance(y, Tensor)
        return plain and isinstance(objective.rule, DiscrepancyPrinciple)

    # -- life ---------------------------------------------------------------------------------------------------------

    def init(self, objective: Objective, start: Tensor) -> PDHGState:
        target = objective.nan()
        if self.meets_target(objective):
            assert objective.rule is not None
            target = objective.rule.target(objective).to(target).expand_as(target).clone()
        parts = self._parts(objective, target)
        images = tuple(piece.apply(start).clone() for piece in parts.all)
        duals = tuple(
            piece.grad(k)
            if j >= len(parts.dual) and isinstance(piece, DataPiece)
            else torch.zeros_like(k)
            for j, (piece, k) in enumerate(zip(parts.all, images))
        )
        norms = [operator_norm(piece.operator, start) for piece in parts.all]
        state = PDHGState(
            x=start,
            value=objective.nan(),
            discrepancy=objective.nan(),
            certificate=torch.full_like(target, torch.inf),
            regularization=objective.regularization.clone(),
            target=target,
            ratio=torch.ones_like(target),
            norms=torch.stack(norms, 1) if norms else target.new_ones(len(target), 0),
            curvatures=_curvatures(parts, target),
            start=start,
            point=start.clone(),
            pull=torch.zeros_like(start),
            duals=duals,
            images=images,
            spare=(torch.zeros_like(start), *(torch.zeros_like(k) for k in images)),
        )
        state.pull, _ = _pull(parts.all, duals, start)
        state.ratio = self._first_ratio(objective, parts, state, start)
        return state

    @property
    def adjustable(self) -> tuple[str, ...]:
        return () if self.adaptive else super().adjustable

    def step(self, objective: Objective, state: PDHGState) -> PDHGState:
        parts = self._parts(objective, state.target)
        if self.ratio is not None and not self.adaptive:
            state = replace(state, ratio=torch.ones_like(state.ratio) * self.ratio)
        tau, sigmas = _steps(parts, state)
        duals, images = [], []
        relaxation = 1.0 if parts.smooth else self.relaxation
        point, pull, spare = state.point, state.pull, state.spare[0]
        u = torch.addcmul(point, expand(-tau, point), pull)
        if parts.primal is not None:
            u = parts.primal.prox(u, tau)
        moved = subtract(u, point, out=spare)
        point = add(point, moved, relaxation)
        length, image, norms = item_norm(moved), item_norm(u), []

        seen, dual_residual = [], torch.zeros_like(tau)
        for j, (piece, p, k, change) in enumerate(
            zip(parts.all, state.duals, state.images, state.spare[1:])
        ):
            new = piece.apply(u)
            change = subtract(new, k, out=change)
            k = add(k, change, relaxation)
            images.append(k)
            norms.append(_corrected(state.norms[:, j], item_norm(change), length))
            seen.append(new)
            if j >= len(parts.dual):
                assert isinstance(piece, DataPiece)
                duals.append(overwrite(p, piece.grad(k)))
                continue
            sigma = expand(sigmas[j], p)
            v = torch.addcmul(p, sigma, new).addcmul_(sigma, change)
            q = add(piece.prox_conjugate(v, sigmas[j]), p, -1.0)
            change = add_product(change, q, -1 / sigma)
            size = torch.maximum(item_norm(new), 1e-2 * state.norms[:, j] * image)
            dual_residual = dual_residual.maximum(_relative(item_norm(change), size))
            duals.append(add(p, q, relaxation))

        new_pull, size = _pull(parts.all, tuple(duals), point)
        pull = subtract(new_pull, pull, out=pull).div_(relaxation)
        primal_residual = _relative(
            item_norm(add_product(pull, moved, expand(-1 / tau, moved))), size
        )
        regularization = (
            objective.regularization.clone() if parts.ball is None else _worth(parts.ball, duals[0])
        )
        value, discrepancy = _values(objective, parts, u, seen, regularization)
        ratio = state.ratio
        if self.adaptive and parts.dual and _is_milestone(objective.iteration + 1):
            # A start that is nearly the answer must not stop the image from moving.
            distance = torch.maximum(item_norm(subtract(u, state.start, out=spare)), 0.02 * image)
            ratio = (
                (ratio * _balance(parts, state, distance, [item_norm(p) for p in duals]))
                .sqrt()
                .detach()
            )
        return PDHGState(
            x=u,
            value=value,
            discrepancy=discrepancy,
            certificate=primal_residual.maximum(dual_residual),
            regularization=regularization,
            target=state.target,
            ratio=ratio,
            norms=torch.stack(norms, 1) if norms else state.norms,
            curvatures=state.curvatures,
            start=state.start,
            point=point,
            pull=new_pull,
            duals=tuple(duals),
            images=tuple(images),
            spare=state.spare,
        )

    def fixed_point(self, state: PDHGState) -> tuple[Tensor, ...]:
        return (state.point, *state.duals)

    def at_point(
        self, objective: Objective, state: PDHGState, point: tuple[Tensor, ...]
    ) -> PDHGState:
        x, *duals = point
        pieces = self._parts(objective, state.target).all
        # At the fixed point the relaxed iterate and the one before relaxation agree.
        return replace(
            state,
            x=x,
            point=x,
            pull=_pull(pieces, tuple(duals), x)[0],
            duals=tuple(duals),
            images=tuple(piece.apply(x) for piece in pieces),
        )

    def is_provably_convergent(self, objective: Objective) -> tuple[bool, str]:
        objective = self.reformulate(objective)
        reason = nonconvex_reason(objective) or inexact_prox_reason(
            piece.function for piece in prior_pieces(objective)
        )
        if reason is not None:
            return False, reason
        return (
            True,
            "everything is convex, and tau sum_j sigma_j |K_j|^2 <= 1 with norms from the power method",
        )

    def _first_ratio(
        self, objective: Objective, parts: Parts, state: PDHGState, start: Tensor
    ) -> Tensor:
        """The balance for a guess: half the bound of a norm, 2 % of noise, an image that moves by a fifth."""
        if self.ratio is not None:
            return torch.ones_like(state.ratio) * self.ratio
        if not parts.dual:
            return (
                1 / (10 * state.curvatures[:, 0])
                if isinstance(parts.primal, DataPiece)
                else state.ratio
            )
        sizes = []
        for piece in parts.dual:
            if isinstance(piece, PriorPiece):
                sizes.append(0.5 * math.sqrt(start[0].numel()) * piece.weight)
            elif isinstance(piece, DataPiece):
                sizes.append(item_norm(piece.grad(0.98 * piece.y)))
            else:
                sizes.append(
                    piece.radius / (first_weight(objective, start) * piece.noise_std.square())
                )
        return _balance(parts, state, 0.2 * item_norm(start), sizes).detach()

    # -- pieces -------------------------------------------------------------------------------------------------------

    def _parts(self, objective: Objective, target: Tensor) -> Parts:
        data, priors = data_pieces(objective), prior_pieces(objective)
        if self.meets_target(objective):
            D = objective.problem.data_term
            assert isinstance(D, LeastSquares)
            ball = _Ball(data[0].operator, data[0].y, target * _unit(D, target), _unit(D, target))
            primal, others = take_primal(priors)
            return Parts(primal, (ball, *others), ())
        primal, others = take_primal(priors)
        if (
            primal is None
            and len(data) == 1
            and isinstance(data[0].operator, Identity)
            and "prox" in data[0].data_term.offers
        ):
            return Parts(data[0], others, ())
        proximable = tuple(piece for piece in data if "prox" in piece.data_term.offers)
        return Parts(
            primal,
            (*proximable, *others),
            tuple(piece for piece in data if piece not in proximable),
        )


@dataclass(frozen=True)
class _Ball:
    """The constraint ``|operator x - y| <= radius`` in place of a misfit."""

    operator: LinearOperator
    y: Tensor
    radius: Tensor  # (batch,)
    noise_std: Tensor  # (batch,)

    def apply(self, x: Tensor) -> Tensor:
        image: Tensor = self.operator(x)
        return image

    def adjoint(self, z: Tensor) -> Tensor:
        return self.operator.adjoint(z)

    def prox_conjugate(self, v: Tensor, step: Tensor) -> Tensor:
        """``v - step P(v / step)``, P the projection onto the ball: ``v - step y``, shortened by ``step radius``."""
        v.addcmul_(self.y, expand(-step, v))
        length = item_norm(v)
        return v.mul_(
            expand(
                (
                    1 - step * self.radius / length.clamp_min(torch.finfo(length.dtype).tiny)
                ).clamp_min(0),
                v,
            )
        )


@dataclass(frozen=True)
class Parts:
    """``primal`` has a prox at the image itself, ``dual`` one behind an operator each, ``smooth`` a gradient only."""

    primal: Piece | None
    dual: tuple[Piece | _Ball, ...]
    smooth: tuple[DataPiece, ...]

    @property
    def all(self) -> tuple[Piece | _Ball, ...]:
        return (*self.dual, *self.smooth)

    @property
    def ball(self) -> _Ball | None:
        return self.dual[0] if self.dual and isinstance(self.dual[0], _Ball) else None


def take_primal(priors: tuple[PriorPiece, ...]) -> tuple[PriorPiece | None, tuple[PriorPiece, ...]]:
    """The prior that acts on the image itself, a constraint before any other, so that the answer meets it; and the rest."""
    free = [piece for piece in priors if piece.operator is None]
    if not free:
        return None, priors
    chosen = next((piece for piece in free if piece.function.is_constraint), free[0])
    return chosen, tuple(piece for piece in priors if piece is not chosen)


def _steps(parts: Parts, state: PDHGState) -> tuple[Tensor, tuple[Tensor, ...]]:
    """tau and every sigma, each ``(batch,)``."""
    count = len(parts.dual)
    squares = state.norms[:, :count].square().clamp_min(torch.finfo(state.norms.dtype).tiny)
    sigmas = (1 / (count * state.ratio.unsqueeze(1) * squares)).unbind(1) if count else ()
    if not parts.smooth:
        return state.ratio, sigmas
    bounds = zip(
        parts.smooth,
        state.norms[:, count:].unbind(1),
        state.curvatures[:, -len(parts.smooth) :].unbind(1),
    )
    lipschitz = _total([L * norm.square() for _, norm, L in bounds])
    return 1 / (1 / state.ratio + lipschitz / 2 if count else lipschitz), sigmas


def _curvatures(parts: Parts, like: Tensor) -> Tensor:
    """Of every misfit, ``(batch, misfits)``."""
    columns = []
    for piece in (*parts.all, parts.primal):
        if not isinstance(piece, DataPiece):
            continue
        bound = piece.data_term.curvature(piece.y)
        columns.append(
            torch.full_like(like, torch.inf)
            if bound is None
            else (piece.weight * bound.to(like)).expand_as(like)
        )
    return torch.stack(columns, 1) if columns else like.new_zeros(len(like), 0)


def _balance(parts: Parts, state: PDHGState, distance: Tensor, sizes: list[Tensor]) -> Tensor:
    r"""The ratio of primal to dual step that suits these sizes of ``x - start`` and of every dual.

    The geometric mean of two rules. The worst case: the bound of Chambolle and Pock (2011, theorem 1) is least where
    ``x - start`` and the duals of the priors are of equal size in the metric of the method. Strong convexity: the dual of
    a misfit of curvature L forgets its start at the rate ``sigma / L``, and its image at ``tau L``, which should not be
    small. Over three decades of the weight this was within 3 of the best ratio on CT, deblurring and denoising.
    """
    count, norms = len(parts.dual), state.norms.unbind(1)
    squares = [count * (size * norm).square() for size, norm in zip(sizes, norms)]
    priors = [square for piece, square in zip(parts.dual, squares) if isinstance(piece, PriorPiece)]
    curvatures = state.curvatures.unbind(1)
    if parts.ball is not None:  # its dual is worth that of a misfit with this curvature
        curvatures = (sizes[0] / parts.ball.radius,)
    if isinstance(parts.primal, DataPiece):
        rates = [10 * curvatures[0]]
    else:
        rates = [
            count * norm.square() * L for norm, L in zip(norms, curvatures[: count - len(priors)])
        ]
    rate = (
        torch.stack([torch.where(r.isfinite(), r, torch.zeros_like(r)) for r in rates]).amax(0)
        if rates
        else torch.zeros_like(distance)
    )
    every = _total(squares).sqrt()
    of_priors = _total(priors).sqrt() if priors else every
    ratio = torch.where(rate > 0, (distance / (of_priors * rate)).sqrt(), distance / every)
    return torch.where(ratio.isfinite() & (ratio > 0), ratio, state.ratio)


def _corrected(norm: Tensor, image: Tensor, moved: Tensor) -> Tensor:
    """The norm of an operator, raised where ``|K d| > norm |d|``: a power method ends below, by much where it is slow.

    Over-relaxed steps that are too long let exactly those directions grow that the estimate has missed, so they show.
    """
    seen = image / moved.clamp_min(torch.finfo(moved.dtype).tiny)
    return torch.where((seen > norm) & seen.isfinite(), 1.01 * seen, norm).detach()


def _total(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)


def _is_milestone(iteration: int) -> bool:
    count, rest = divmod(iteration, 10)
    return rest == 0 and count & (count - 1) == 0


def _pull(
    pieces: tuple[Piece | _Ball, ...], duals: tuple[Tensor, ...], like: Tensor
) -> tuple[Tensor, Tensor]:
    """``sum_j K_j^T p_j``, a tensor of its own, and the largest ``|K_j^T p_j|`` of each item."""
    total, largest = None, None
    for piece, p in zip(pieces, duals):
        part = piece.adjoint(p)
        size = item_norm(part)
        largest = size if largest is None else largest.maximum(size)
        total = part if total is None else total + part
    if total is None or largest is None:
        zero = torch.zeros_like(like)
        return zero, item_norm(zero)
    return (total.clone() if any(total is p for p in duals) else total), largest


def _relative(residual: Tensor, size: Tensor) -> Tensor:
    return torch.where(
        residual > 0, residual / size.clamp_min(torch.finfo(size.dtype).tiny), residual
    )


def _unit(D: LeastSquares, like: Tensor) -> Tensor:
    return torch.ones_like(like) if D.noise_std is None else D.noise_std.to(like).expand_as(like)


def _worth(ball: _Ball, dual: Tensor) -> Tensor:
    """The weight at which the problem with the misfit has the same solution: ``radius / (|p| noise_std^2)``."""
    length = item_norm(dual) * ball.noise_std.square()
    return ball.radius / length.clamp_min(torch.finfo(length.dtype).tiny)


def _values(
    objective: Objective, parts: Parts, u: Tensor, seen: list[Tensor], regularization: Tensor
) -> tuple[Tensor, Tensor]:
    """The objective and the discrepancy at ``u``, from the images that the step has made."""
    D, y = objective.problem.data_term, objective.problem.y
    data = [z for piece, z in zip(parts.all, seen) if not isinstance(piece, PriorPiece)]
    if isinstance(parts.primal, DataPiece):
        data = [u]
    prediction = tuple(data) if isinstance(y, tuple) else data[0]
    priors = [piece.value(z) for piece, z in zip(parts.all, seen) if isinstance(piece, PriorPiece)]
    if isinstance(parts.primal, PriorPiece):
        priors.append(parts.primal.value(u))
    value = D.value(prediction, y)
    for part in priors:
        value = value + (part if parts.ball is None else regularization * part)
    return value, D.discrepancy(prediction, y)
