"""The primal-dual hybrid gradient method, preconditioned and adaptive."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.core.arithmetic import add, add_product, overwrite, subtract
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.objective.auxiliaries import with_auxiliaries
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, item_norm
from invtoolbox.operators.elementary import Identity
from invtoolbox.parameter_choice.discrepancy import first_weight
from invtoolbox.solvers.base import (
    Solver,
    implicit_reason,
)
from invtoolbox.solvers.duality import (
    data_floor,
    gradient_gap,
    has_gap,
    has_gradient_gap,
    has_lipschitz_misfit,
    objective_gap,
)
from invtoolbox.solvers.linear_systems import relative
from invtoolbox.solvers.pdhg_steps import (
    PDHGState,
    balance_steps,
    find_curvatures,
    is_milestone,
    raise_norm,
    step_sizes,
)
from invtoolbox.solvers.splitting import (
    DataSummand,
    DiscrepancyBall,
    GradientSummand,
    PriorSummand,
    Splitting,
    Summand,
    curvature_along,
    data_summands,
    enters_by_gradient,
    gradient_summands,
    operator_norm,
    prior_summands,
    take_primal,
    unsplittable_reason,
)


@dataclass(frozen=True)
class PDHG(Solver):
    r"""Primal-dual hybrid gradient (Chambolle and Pock 2011), over-relaxed (Condat 2013).

    Minimizes ``G(x) + sum_j F_j(K_j x)``. The misfit and every prior that splits (total variation)
    are summands behind a linear operator; one prior with a prox alone is ``G``. Each item has its
    own steps. One iteration applies every operator and adjoint once::

        u   = prox_{tau G}(x - tau sum_j K_j^T p_j)
        q_j = prox_{sigma_j F_j*}(p_j + sigma_j K_j (2 u - x))
        (x, p) <- (x, p) + relaxation ((u, q) - (x, p))

    Every summand has its own step, ``sigma_j = 1 / (tau J |K_j|^2)`` for J summands (block
    preconditioning, Pock and Chambolle 2011), so summands of very different scale (a projector and
    a gradient) do not slow each other. The ratio of primal to dual steps follows the sizes of x and
    p at iterations 10, 20, 40, ... A data term with a gradient but no prox enters by its gradient,
    without relaxation (Condat 2013, Vu 2013), and so does a differentiable prior without a prox (an
    energy that a user wrote): its curvature is estimated, and raised where its gradient is seen to
    change faster. For denoising the misfit itself is ``G`` if that is
    free. Auxiliary variables of a prior (`TotalGeneralizedVariation`) are further channels of x
    here. The objective in the history then is the joint objective, which lies above the objective
    of the image until the auxiliary variables have settled.

    If the weight is to be chosen by the discrepancy principle and the data term is least squares,
    the problem ``min sum_i w_i R_i(x)`` subject to ``discrepancy(A x, y) <= target`` is solved
    directly. The ball takes the place of the data term, and `Solution.regularization` reports the
    weight that is equivalent to it, ``target noise_std^-1 / |p|``.

    Converges to a minimizer for convex data terms and priors and every linear operator, because
    ``tau sum_j sigma_j |K_j|^2 <= 1`` (with a data gradient of Lipschitz constant L,
    ``1 / tau - sum_j sigma_j |K_j|^2 >= L / 2``) and the ratio changes finitely often. The
    objective need not decrease monotonically. Certificate: the larger of the primal and the dual
    residual (Goldstein et al. 2013). The primal residual is the distance to
    ``0 in dG(u) + sum_j K_j^T q_j``, relative to the largest ``K_j^T q_j``. The dual residual is
    the distance to ``K_j u in dF_j*(q_j)``, relative to the image. The duality gap of a convex
    objective whose misfit has a Lipschitz gradient joins them (`Solver.gap`).

    Args:
        relaxation: over-relaxation in (0, 2); 1 is none.
        adaptive: whether the ratio of the steps follows the iterates.
        ratio: the first ``tau / sigma``-like ratio, a guess by default.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[0.0, 0.0, 9.0, 9.0]]]), it.operators.Identity((1, 4)))
    >>> it.solve(
    ...     problem, it.priors.TotalVariation(), PDHG(), regularization=1.0, progress=False
    ... ).x.round(decimals=2)
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
        if reason := implicit_reason(objective, "PDHG") or unsplittable_reason(
            objective, "PDHG", gradients=True
        ):
            return reason
        if not 0 < self.relaxation < 2:
            return f"PDHG needs a relaxation between 0 and 2, got {self.relaxation}"
        for summand in data_summands(objective):
            if (
                "prox" not in summand.data_term.offers
                and summand.data_term.curvature(summand.y) is None
            ):
                return (
                    "PDHG needs a data term with a proximal operator or a Lipschitz gradient, and "
                    f"{summand.data_term!r} has neither"
                )
        return None

    def suits(self, objective: Objective) -> bool:
        """Whether misfit and priors are convex and their prox exact.

        Denoisers and smooth objectives are left to other solvers, and so are energies next to one
        prior with a closed prox, for which `ProximalGradient` searches its step.
        """
        priors = [prior for _, prior in objective.terms]
        if any(map(enters_by_gradient, priors)) and objective.problem.data_term.is_smooth:
            rough = [prior for prior in priors if not prior.smooth]
            if not rough or (len(rough) == 1 and rough[0].has_exact_prox):
                return False
        convex = objective.problem.data_term.is_convex and all(
            prior.is_convex is not False for prior in priors
        )
        return bool(priors) and convex and not any("denoise" in prior.offers for prior in priors)

    def reformulate(self, objective: Objective) -> Objective:
        """Write out auxiliary variables, which leaves no inner minimization in a prox."""
        return with_auxiliaries(objective)

    def meets_target(self, objective: Objective) -> bool:
        D, y = objective.problem.data_term, objective.problem.y
        plain = isinstance(D, LeastSquares) and D.is_unweighted and isinstance(y, Tensor)
        return plain and objective.discrepancy_target is not None

    # -- life --------------------------------------------------------------------------------------

    def init(self, objective: Objective, start: Tensor) -> PDHGState:
        # NaN stands for a weight that is given.
        target = objective.nan()
        if self.meets_target(objective):
            assert objective.discrepancy_target is not None
            target = objective.discrepancy_target(objective).to(target).expand_as(target).clone()
        splitting = self._split(objective, target)
        # The duals of smooth summands are their gradients at K_j x; all other duals start at 0.
        images = tuple(summand.apply(start).clone() for summand in splitting.all)
        duals = tuple(
            summand.grad(k)
            if j >= len(splitting.dual) and isinstance(summand, (DataSummand, GradientSummand))
            else torch.zeros_like(k)
            for j, (summand, k) in enumerate(zip(splitting.all, images))
        )
        norms = [operator_norm(summand.operator, start) for summand in splitting.all]
        state = PDHGState(
            x=start,
            value=objective.nan(),
            discrepancy=objective.nan(),
            certificate=torch.full_like(target, torch.inf),
            regularization=objective.regularization.clone(),
            target=target,
            ratio=torch.ones_like(target),
            norms=torch.stack(norms, 1) if norms else target.new_ones(len(target), 0),
            curvatures=find_curvatures(splitting, target, start),
            start=start,
            point=start.clone(),
            pull=torch.zeros_like(start),
            duals=duals,
            images=images,
            spare=(torch.zeros_like(start), *(torch.zeros_like(k) for k in images)),
            floor=data_floor(objective),
        )
        # The first ratio needs the norms and curvatures of a state.
        state.pull, _ = _apply_adjoints(splitting.all, duals, start)
        return replace(state, ratio=self._first_ratio(objective, splitting, state, start))

    @property
    def adjustable(self) -> tuple[str, ...]:
        return () if self.adaptive else super().adjustable

    def step(self, objective: Objective, state: PDHGState) -> PDHGState:
        # A ratio that an unrolled solver has learned may differ from step to step.
        splitting = self._split(objective, state.target)
        if self.ratio is not None and not self.adaptive:
            state = replace(state, ratio=torch.ones_like(state.ratio) * self.ratio)
        tau, sigmas = step_sizes(splitting, state)
        # With a smooth summand the theorem allows less over-relaxation (Condat 2013): take none.
        relaxation = 1.0 if splitting.smooth else self.relaxation
        # u = prox_{tau G}(x - tau sum_j K_j^T p_j),   x <- x + relaxation (u - x)
        u = _primal_update(splitting, state, tau)
        move = subtract(u, state.point, out=state.spare[0])
        point = add(state.point, move, relaxation)
        length, size = item_norm(move), item_norm(u)

        # Norms and curvatures are estimates from below, and are raised where a step shows more.
        duals, images, norms, predictions = [], [], [], []
        curvatures = list(state.curvatures.unbind(1))
        dual_residual = torch.zeros_like(tau)
        for j, (summand, p, k, change) in enumerate(
            zip(splitting.all, state.duals, state.images, state.spare[1:])
        ):
            # K_j (2 u - x) = K_j u + K_j (u - x) by linearity; k is K_j x, relaxed like x.
            image = summand.apply(u)
            change = subtract(image, k, out=change)
            k = add(k, change, relaxation)
            images.append(k)
            norms.append(raise_norm(state.norms[:, j], item_norm(change), length, size))
            predictions.append(image)
            if j >= len(splitting.dual):
                # A smooth summand has its gradient at x for a dual.
                assert isinstance(summand, (DataSummand, GradientSummand))
                slope = summand.grad(k)
                if isinstance(summand, GradientSummand):
                    # The curvatures of the smooth summands are the last columns.
                    place = j - len(splitting.all)
                    curvatures[place] = curvature_along(curvatures[place], slope - p, slope, change)
                duals.append(overwrite(p, slope))
                continue
            assert not isinstance(summand, GradientSummand)
            # q = prox_{sigma F*}(p + sigma K_j (2 u - x)),   p <- p + relaxation (q - p)
            p, residual = _dual_update(summand, p, image, change, sigmas[j], relaxation)
            # An image with small slopes is not far from optimal for that reason.
            scale = torch.maximum(item_norm(image), 1e-2 * state.norms[:, j] * size)
            dual_residual = dual_residual.maximum(relative(residual, scale))
            duals.append(p)

        pull, scale = _apply_adjoints(splitting.all, tuple(duals), point)
        scale = torch.maximum(scale, state.floor)
        primal_residual = relative(_primal_residual(state, pull, move, tau, relaxation), scale)
        regularization = (
            objective.regularization.clone()
            if splitting.ball is None
            else _ball_weight(splitting.ball, duals[0])
        )
        value, discrepancy = _values(objective, splitting, u, predictions, regularization)
        return replace(
            state,
            x=u,
            value=value,
            discrepancy=discrepancy,
            certificate=primal_residual.maximum(dual_residual),
            regularization=regularization,
            ratio=self._next_ratio(objective, splitting, state, u, duals),
            norms=torch.stack(norms, 1) if norms else state.norms,
            curvatures=torch.stack(curvatures, 1) if curvatures else state.curvatures,
            point=point,
            pull=pull,
            duals=tuple(duals),
            images=tuple(images),
        )

    def _next_ratio(
        self,
        objective: Objective,
        splitting: Splitting,
        state: PDHGState,
        u: Tensor,
        duals: list[Tensor],
    ) -> Tensor:
        """Return the ratio of primal to dual step of the next iteration.

        It changes at milestones only.
        """
        if not (self.adaptive and splitting.dual and is_milestone(objective.iteration + 1)):
            return state.ratio
        # A start that is nearly the answer must not stop the image from moving.
        away = item_norm(subtract(u, state.start, out=state.spare[0]))
        distance = torch.maximum(away, 0.02 * item_norm(u))
        # The geometric mean with the last ratio damps the changes.
        balance = balance_steps(splitting, state, distance, [item_norm(p) for p in duals])
        return (state.ratio * balance).sqrt().detach()

    def has_gap(self, objective: Objective) -> bool:
        has_prox = all("prox" in summand.data_term.offers for summand in data_summands(objective))
        return has_gap(objective, has_prox) and not self.meets_target(objective)

    def gap(self, objective: Objective, state: PDHGState, distance: Tensor) -> Tensor:
        splitting = self._split(objective, state.target)
        tau, sigmas = step_sizes(splitting, state)
        # A misfit with a Lipschitz gradient enters by it, so its dual takes no part.
        kinds = PriorSummand if has_lipschitz_misfit(objective) else (PriorSummand, DataSummand)
        duals = [
            (summand, p, sigma)
            for summand, p, sigma in zip(splitting.dual, state.duals, sigmas)
            if isinstance(summand, kinds)
        ]
        primal = splitting.primal if isinstance(splitting.primal, kinds) else None
        smooth = [
            summand.prior
            for summand in splitting.smooth
            if isinstance(summand, GradientSummand) and summand.prior is not None
        ]
        gap = objective_gap(objective, state.x, distance, primal, tau, duals=duals, smooth=smooth)
        if not has_gradient_gap(objective):
            return gap
        # The gradient may vanish before the duals have settled.
        return torch.minimum(gap, gradient_gap(objective, state.x, distance))

    def fixed_point(self, state: PDHGState) -> tuple[Tensor, ...]:
        return (state.point, *state.duals)

    def at_point(
        self, objective: Objective, state: PDHGState, point: tuple[Tensor, ...]
    ) -> PDHGState:
        # The fixed point is x with every dual; K_j x and sum_j K_j^T p_j follow from it.
        x, *duals = point
        summands = self._split(objective, state.target).all
        # At the fixed point the iterates before and after relaxation agree.
        return replace(
            state,
            x=x,
            point=x,
            pull=_apply_adjoints(summands, tuple(duals), x)[0],
            duals=tuple(duals),
            images=tuple(summand.apply(x) for summand in summands),
        )

    def _first_ratio(
        self, objective: Objective, splitting: Splitting, state: PDHGState, start: Tensor
    ) -> Tensor:
        """Return the balance for guessed sizes.

        They are half the bound of a norm, 2 % of noise, and an image that moves by a fifth.
        """
        if self.ratio is not None:
            return torch.ones_like(state.ratio) * self.ratio
        if not splitting.dual:
            return (
                1 / (10 * state.curvatures[:, 0])
                if isinstance(splitting.primal, DataSummand)
                else state.ratio
            )
        # Guesses of |p_j|: half the bound of a norm's dual, the gradient of the misfit at 2 % of
        # noise, and the dual of the ball at its first weight.
        sizes = []
        for summand in splitting.dual:
            if isinstance(summand, PriorSummand):
                sizes.append(0.5 * math.sqrt(start[0].numel()) * summand.weight)
            elif isinstance(summand, DataSummand):
                sizes.append(item_norm(summand.grad(0.98 * summand.y)))
            else:
                sizes.append(
                    summand.radius / (first_weight(objective, start) * summand.noise_std.square())
                )
        size = item_norm(start)
        if isinstance(splitting.dual[0], DataSummand):
            # A start of zeros has no size; an image that explains y has at least |A x| / |A|.
            fit = objective.problem.data_term.fitting_prediction(objective.problem.y)
            least = relative(item_norm(fit), state.norms[:, 0]) if isinstance(fit, Tensor) else size
            size = torch.where(size > 0, size, least)
        return balance_steps(splitting, state, 0.2 * size, sizes).detach()

    # -- summands ----------------------------------------------------------------------------------

    def _split(self, objective: Objective, target: Tensor) -> Splitting:
        data, priors = data_summands(objective), prior_summands(objective)
        if self.meets_target(objective):
            D = objective.problem.data_term
            assert isinstance(D, LeastSquares)
            # D(A x, y) is replaced by the constraint |A x - y| <= target noise_std.
            ball = DiscrepancyBall(
                data[0].operator, data[0].y, target * _unit(D, target), _unit(D, target)
            )
            primal, others = take_primal(priors)
            return Splitting(primal, (ball, *others), gradient_summands(objective))
        primal, others = take_primal(priors)
        smooth = gradient_summands(objective)
        # For denoising the misfit takes the place of G, which needs no dual.
        if (
            primal is None
            and not smooth
            and len(data) == 1
            and isinstance(data[0].operator, Identity)
            and "prox" in data[0].data_term.offers
        ):
            return Splitting(data[0], others, ())
        # A misfit without a prox enters by its gradient.
        proximable = tuple(summand for summand in data if "prox" in summand.data_term.offers)
        # Order: misfits with a prox, then priors, as duals; then everything smooth.
        rest = tuple(summand for summand in data if summand not in proximable)
        return Splitting(primal, (*proximable, *others), (*rest, *smooth))


def _primal_update(splitting: Splitting, state: PDHGState, tau: Tensor) -> Tensor:
    """``u = prox_{tau G}(x - tau sum_j K_j^T p_j)`` (Condat 2013, algorithm 3.1)."""
    # The pull is sum_j K_j^T p_j of the relaxed duals.
    u = torch.addcmul(state.point, expand(-tau, state.point), state.pull)
    return u if splitting.primal is None else splitting.primal.prox(u, tau)


def _dual_update(
    summand: Summand | DiscrepancyBall,
    p: Tensor,
    image: Tensor,
    change: Tensor,
    sigma: Tensor,
    relaxation: float,
) -> tuple[Tensor, Tensor]:
    """Return the relaxed dual, and the norm of the dual residual, ``(batch,)``.

    ``q = prox_{sigma F*}(p + sigma K (2 u - x))`` (Condat 2013, algorithm 3.1), from
    ``image = K u`` and ``change = K (u - x)``; the residual is that of Goldstein et al. (2013).
    Both ``p`` and ``change`` are overwritten.
    """
    # v = p + sigma (K u + K (u - x))
    step = expand(sigma, p)
    v = torch.addcmul(p, step, image).addcmul_(step, change)
    # (p - q) / sigma + K (2 u - x) is in dF*(q); K u differs by K (u - x) - (q - p) / sigma.
    difference = add(summand.prox_conjugate(v, sigma), p, -1.0)
    residual = add_product(change, difference, -1 / step)
    return add(p, difference, relaxation), item_norm(residual)


def _primal_residual(
    state: PDHGState, pull: Tensor, move: Tensor, tau: Tensor, relaxation: float
) -> Tensor:
    """Return the norm of ``sum_j K_j^T (q_j - p_j) - (u - x) / tau``, ``(batch,)``.

    The pull of the state is overwritten.
    """
    # The relaxed duals changed by relaxation (q - p).
    change = subtract(pull, state.pull, out=state.pull).div_(relaxation)
    return item_norm(add_product(change, move, expand(-1 / tau, move)))


def _apply_adjoints(
    summands: tuple[Summand | GradientSummand | DiscrepancyBall, ...],
    duals: tuple[Tensor, ...],
    like: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return ``sum_j K_j^T p_j``, and the largest ``|K_j^T p_j|`` of each item.

    The sum is a tensor of its own.
    """
    total, largest = None, None
    for summand, p in zip(summands, duals):
        KTp = summand.adjoint(p)
        size = item_norm(KTp)
        largest = size if largest is None else largest.maximum(size)
        total = KTp if total is None else total + KTp
    if total is None or largest is None:
        zero = torch.zeros_like(like)
        return zero, item_norm(zero)
    # An adjoint may return its argument, and the duals are overwritten in the next step.
    return (total.clone() if any(total is p for p in duals) else total), largest


def _unit(D: LeastSquares, like: Tensor) -> Tensor:
    return torch.ones_like(like) if D.noise_std is None else D.noise_std.to(like).expand_as(like)


def _ball_weight(ball: DiscrepancyBall, dual: Tensor) -> Tensor:
    """Return the weight for which the problem with the misfit has the same solution.

    It is ``radius / (|p| noise_std^2)``.
    """
    # p = (A x - y) / (weight noise_std^2) at the solution, and |A x - y| is the radius.
    return relative(ball.radius, item_norm(dual) * ball.noise_std.square())


def _values(
    objective: Objective,
    splitting: Splitting,
    u: Tensor,
    images: list[Tensor],
    regularization: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the objective and the discrepancy at ``u``, from the images of the step."""
    D, y = objective.problem.data_term, objective.problem.y
    data = [
        image
        for summand, image in zip(splitting.all, images)
        if not isinstance(summand, (PriorSummand, GradientSummand))
    ]
    if isinstance(splitting.primal, DataSummand):
        data = [u]
    if not data:  # the misfit of a nonlinear operator
        data = [objective.problem.operator(u)]
    prediction = tuple(data) if isinstance(y, tuple) else data[0]
    energies = [
        summand.value(image)
        for summand, image in zip(splitting.all, images)
        if isinstance(summand, PriorSummand)
        or (isinstance(summand, GradientSummand) and summand.prior is not None)
    ]
    if isinstance(splitting.primal, PriorSummand):
        energies.append(splitting.primal.value(u))
    # With the ball the priors have weight 1, and the weight is found along the way.
    value = D.value(prediction, y)
    for energy in energies:
        value = value + (energy if splitting.ball is None else regularization * energy)
    return value, D.discrepancy(prediction, y)
