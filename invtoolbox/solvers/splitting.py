"""Split an objective into summands ``sum_i weight_i F_i(K_i x)``, every F with a prox.

How a prior enters a splitting method is decided here once. A prior that splits contributes its
linear operator and its simple part, a quadratic one its operator and half a square, any other its
own prox with the identity. The first guess of the penalty, also for denoisers, is here too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from invtoolbox.core.arithmetic import add
from invtoolbox.data_terms.base import DataTerm, Stack
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.algebra import LinearStack
from invtoolbox.operators.base import LinearOperator, expand, item_norm
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Term
from invtoolbox.priors.images.tikhonov import Tikhonov
from invtoolbox.priors.numerical_prox import NumericalProx
from invtoolbox.solvers.base import implicit_reason
from invtoolbox.solvers.linear_systems import quotient, relative


def denoising_term(objective: Objective) -> tuple[Tensor, ExplicitPrior] | None:
    """Return the first prior that is a denoiser, with its weight."""
    return next(
        ((weight, prior) for weight, prior in objective.terms if "denoise" in prior.offers), None
    )


def unit_step_term(objective: Objective) -> tuple[Tensor, ExplicitPrior] | None:
    """Return the first prior whose prox is known at the step ``1 / weight`` alone.

    Its weight comes first.
    """
    return next(((weight, prior) for weight, prior in objective.terms if prior.unit_step), None)


def unit_step_reason(objective: Objective, name: str, step: float | None) -> str | None:
    """Return why a step that the user chose does not suit the priors, or ``None``."""
    fixed = unit_step_term(objective)
    if fixed is None or step is None or bool(((step * fixed[0] - 1).abs() <= 1e-5).all()):
        return None
    return (
        f"{fixed[1]!r} knows its prox only if step times weight is 1, and {name} was given the "
        f"step {step:g} for the weight {float(fixed[0].flatten()[0]):g}; leave the step out and "
        "choose the weight"
    )


def first_penalty(objective: Objective, start: Tensor, fraction: float = 0.1) -> Tensor:
    """Return the penalty to start with, ``(batch,)``.

    Without a denoiser, thresholds are a fraction of the intensity range,
    ``weight / rho = fraction * range``. A quadratic prior, which has no threshold, has the same
    share of rho at every range. With a denoiser the penalty is the weight of the denoiser, so that
    the denoiser works at its own level. With a denoiser of a single level it is ``1 / sigma^2`` in
    units of the noise, as the prox of a density would have.
    """
    ones = torch.ones_like(objective.regularization)
    bound = objective.problem.data_term.curvature(objective.problem.y)
    curvature = ones if bound is None else ones * bound.to(ones)
    denoising = denoising_term(objective)
    if denoising is None:
        # rho = sum_i w_i / (fraction range), whose thresholds w / rho are in the unit of the image.
        size = start.abs().flatten(1).amax(1)
        divisor = torch.where(size > 0, size, torch.ones_like(size))
        weights = [
            weight if "quadratic" in prior.offers else weight / divisor
            for weight, prior in objective.terms
            if not prior.is_constraint
        ]
        total = sum(weights[1:], weights[0]) if weights else torch.zeros_like(size)
        usable = (total > 0) & (size > 0)
        return torch.where(usable, total / fraction, 0.1 * curvature)
    weight, prior = denoising
    if not prior.fixed_level:
        return weight
    # The misfit has 1 / noise^2 for `curvature`, so that rho is 1 / sigma^2 if it knows its noise.
    sigma = torch.as_tensor(prior.sigma, dtype=ones.dtype, device=ones.device)
    return noise_variance(objective) * curvature / sigma**2


def noise_variance(objective: Objective) -> Tensor:
    """Return the variance of the noise in the measurements, given or estimated, ``(batch,)``."""
    from invtoolbox.parameter_choice.noise import noise_std_of

    problem = objective.problem
    if problem.data_term.expected_discrepancy(problem.y) is not None:
        # Least squares with a known noise level has the curvature 1 / noise_std^2.
        curvature = problem.data_term.curvature(problem.y)
        ones = torch.ones_like(objective.regularization)
        return ones if curvature is None else ones / curvature.to(ones)
    return noise_std_of(problem).to(objective.regularization).square()


def balance_penalty(rho: Tensor, primal: Tensor, dual: Tensor, steps: Tensor) -> Tensor:
    """Return the penalty that balances the relative residuals of ADMM (Boyd et al. 2011, 3.4.1).

    It changes at steps 5, 10, 20, 40 and 80 only.
    """
    is_due = torch.stack([steps == 5 * 2**k for k in range(5)]).any(0)
    # Equation (3.13) with a continuous factor: near a threshold rounding would decide the branch.
    # Residuals below 1e-5 are mostly rounding.
    factor = (primal.clamp_min(1e-5) / dual.clamp_min(1e-5)).sqrt().clamp(0.1, 10)
    return torch.where(is_due, rho * factor, rho)


@dataclass(frozen=True)
class PriorSummand:
    """A prior as a summand, ``weight * function(operator x)``; no operator is the identity."""

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
        """Return `prox`, and the value there."""
        # A prox that is iterated knows the energy at its result.
        p, energy = self.function.prox_and_energy(v, step * self.weight)
        return p, self.weight * energy

    def prox_conjugate(self, v: Tensor, step: Tensor) -> Tensor:
        """Return the prox of the convex conjugate; may overwrite ``v``."""
        return self.function.prox_conjugate(v, step, self.weight)


@dataclass(frozen=True)
class DataSummand:
    """A misfit as a summand, ``weight * data_term(operator x, y)``.

    One of several if they are stacked.
    """

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
        return self.data_term.prox(v, self.y, self.weight * step)

    def prox_conjugate(self, v: Tensor, step: Tensor) -> Tensor:
        """Return the prox of the convex conjugate, by Moreau's identity; may overwrite ``v``."""
        # prox_{s F*}(v) = v - s prox_{F / s}(v / s)
        factor = expand(step, v)
        return add(v, factor * self.prox(v / factor, 1 / step), -1.0)


Summand = PriorSummand | DataSummand


@dataclass(frozen=True)
class GradientSummand:
    """A differentiable part of the objective that enters by its gradient in the image.

    It is a prior with its weight, or the misfit of a nonlinear operator. Its curvature is estimated
    along the way; see `curvature_along`.
    """

    gradient: Callable[[Tensor], Tensor]
    prior: tuple[Tensor, ExplicitPrior] | None = None
    operator: ClassVar[None] = None

    def apply(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, z: Tensor) -> Tensor:
        return z

    def grad(self, z: Tensor) -> Tensor:
        return self.gradient(z)

    def value(self, z: Tensor) -> Tensor:
        """Return the energy of a prior, NaN if it has none, ``(batch,)``."""
        if self.prior is None or "energy" not in self.prior[1].offers:
            return torch.full_like(z.flatten(1)[:, 0].real, torch.nan)
        return self.prior[0] * self.prior[1].energy(z)


def enters_by_gradient(prior: ExplicitPrior) -> bool:
    """Whether a prior is differentiable and has no other form that a splitting could use."""
    has_form = bool({"prox", "split", "quadratic"} & prior.offers)
    return not has_form and prior.smooth and "gradient" in prior.offers


def with_numerical_prox(objective: Objective) -> Objective:
    """Return the objective in which every energy without a prox has a numerical one."""
    terms = tuple(
        Term(term.weight, NumericalProx(term.prior), term.chosen)
        if enters_by_gradient(term.prior) and "energy" in term.prior.offers
        else term
        for term in objective.prior.terms
    )
    if terms == objective.prior.terms:
        return objective
    return dataclasses.replace(objective, prior=PriorSum(terms, objective.prior.implicit))


def gradient_summands(objective: Objective) -> tuple[GradientSummand, ...]:
    """Return the priors that enter by their gradient."""

    def follow(weight: Tensor, prior: ExplicitPrior) -> GradientSummand:
        def gradient(x: Tensor) -> Tensor:
            # w grad R(x)
            slope = prior.gradient(x, objective.generator())
            return expand(weight, slope) * slope

        return GradientSummand(gradient, (weight, prior))

    return tuple(follow(w, prior) for w, prior in objective.terms if enters_by_gradient(prior))


def misfit_summand(objective: Objective) -> GradientSummand:
    """Return the misfit of a nonlinear operator as a summand."""
    return GradientSummand(lambda x: objective.data(x).gradient)


def first_curvature(summand: GradientSummand, x: Tensor, iterations: int = 6) -> Tensor:
    """Estimate the largest curvature at x by the power method on differences, ``(batch,)``."""
    # |grad F(x + d) - grad F(x)| / |d| with d along the last difference, of a length at which
    # float32 still resolves it.
    slope = summand.grad(x)
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(x.shape[1:], generator=draw, dtype=torch.float64).to(x).expand_as(x)
    largest = torch.zeros_like(item_norm(x))
    length = 1e-3 * (item_norm(x) + 1e-3 * x[0].numel() ** 0.5)
    for _ in range(iterations):
        # The last difference, scaled to the length of the step.
        size = item_norm(direction)
        unit = direction * expand(quotient(length, size), direction)
        direction = summand.grad(x + unit) - slope
        largest = largest.maximum(item_norm(direction) / length)
    return 1.05 * largest


def curvature_along(curvature: Tensor, change: Tensor, slope: Tensor, move: Tensor) -> Tensor:
    """Return a curvature, raised if the gradient changed faster along the last step, ``(batch,)``.

    A change of the gradient that may be rounding is left out.
    """
    size = item_norm(change)
    ratio = relative(size, item_norm(move))
    sure = size > torch.finfo(size.dtype).eps ** 0.5 * item_norm(slope)
    is_larger = sure & (ratio > curvature) & ratio.isfinite()
    return torch.where(is_larger, 1.05 * ratio, curvature).detach()


def data_summands(objective: Objective) -> tuple[DataSummand, ...]:
    """Return the misfit in summands: one per part of stacked operators and data terms."""
    problem = objective.problem
    A, D, y = problem.operator, problem.data_term, problem.y
    if isinstance(A, LinearStack) and isinstance(D, Stack):
        return tuple(DataSummand(*summand) for summand in zip(D.weights, D.terms, A.parts, y))
    return (DataSummand(1.0, D, cast(LinearOperator, A), y),)


def prior_summands(objective: Objective) -> tuple[PriorSummand, ...]:
    """Return every explicit prior that has a prox as a summand; see `gradient_summands`.

    `unsplittable_reason` reports a prior that is neither.
    """
    return summands_of(
        (weight, prior) for weight, prior in objective.terms if not enters_by_gradient(prior)
    )


def summands_of(terms: Iterable[tuple[Tensor, ExplicitPrior]]) -> tuple[PriorSummand, ...]:
    """Return weighted priors as summands."""
    summands = []
    for weight, prior in terms:
        if "split" in prior.offers:
            K, F = prior.split()
            summands.append(PriorSummand(weight, F, K))
        elif "prox" in prior.offers:
            summands.append(PriorSummand(weight, prior, None))
        else:
            # 1/2 |L x - b|^2 is a Tikhonov prior behind L.
            L, b = prior.quadratic()
            summands.append(PriorSummand(weight, Tikhonov(reference=b), L))
    return tuple(summands)


@dataclass(frozen=True)
class DiscrepancyBall:
    """The constraint ``|operator x - y| <= radius`` in place of a misfit."""

    operator: LinearOperator
    y: Tensor
    radius: Tensor  # (batch,)
    noise_std: Tensor  # (batch,)

    def apply(self, x: Tensor) -> Tensor:
        return self.operator(x)

    def adjoint(self, z: Tensor) -> Tensor:
        return self.operator.adjoint(z)

    def prox_conjugate(self, v: Tensor, step: Tensor) -> Tensor:
        """Return ``v - step P(v / step)``, P the projection onto the ball.

        It is ``v - step y``, shortened by ``step radius``.
        """
        # With w = v - step y: v - step P(v / step) = w max(0, 1 - step radius / |w|).
        v.addcmul_(self.y, expand(-step, v))
        share = 1 - relative(step * self.radius, item_norm(v))
        return v.mul_(expand(share.clamp_min(0), v))


@dataclass(frozen=True)
class Splitting:
    """The summands of an objective, by how they enter.

    Attributes:
        primal: the summand with a prox at the image itself, if there is one.
        dual: the summands with a prox behind an operator each.
        smooth: the misfits and priors that enter by their gradient.
    """

    primal: Summand | None
    dual: tuple[Summand | DiscrepancyBall, ...]
    smooth: tuple[DataSummand | GradientSummand, ...]

    @property
    def all(self) -> tuple[Summand | GradientSummand | DiscrepancyBall, ...]:
        return (*self.dual, *self.smooth)

    @property
    def ball(self) -> DiscrepancyBall | None:
        return self.dual[0] if self.dual and isinstance(self.dual[0], DiscrepancyBall) else None


def take_primal(
    priors: tuple[PriorSummand, ...],
) -> tuple[PriorSummand | None, tuple[PriorSummand, ...]]:
    """Return the prior that acts on the image itself, and the other priors.

    A constraint is taken before any other prior, so that the answer meets it.
    """
    # Only a summand without an operator can be G, the one with its prox at x itself.
    free = [summand for summand in priors if summand.operator is None]
    if not free:
        return None, priors
    chosen = next((summand for summand in free if summand.function.is_constraint), free[0])
    return chosen, tuple(summand for summand in priors if summand is not chosen)


def copy_of_image(summands: tuple[PriorSummand, ...], splits: Sequence[Tensor]) -> Tensor | None:
    """Return the copy of the image that is the answer, among the copies ``z_i`` of ``K_i x``.

    It is the copy of a constraint on the image itself, so that the constraint holds, else the first
    one; None if every prior is behind an operator.
    """
    free = [(summand, z) for summand, z in zip(summands, splits) if summand.operator is None]
    return next(
        (z for summand, z in free if summand.function.is_constraint), free[0][1] if free else None
    )


def unsplittable_reason(
    objective: Objective, name: str, gradients: bool = False, nonlinear: bool = False
) -> str | None:
    """Return why an objective does not split into summands, or ``None``.

    Args:
        objective: the objective.
        name: name of the solver.
        gradients: whether the solver takes priors by their gradient.
        nonlinear: whether the solver takes the misfit of a nonlinear operator by its gradient.
    """
    problem = objective.problem
    if not problem.is_linear and not nonlinear:
        return f"{name} needs a linear operator, and {problem.operator} is not"
    if (
        problem.is_linear
        and isinstance(problem.y, tuple)
        and not (isinstance(problem.operator, LinearStack) and isinstance(problem.data_term, Stack))
    ):
        return f"{name} takes several measurements as stack([...]) with data_terms.Stack(...)"
    for _, prior in objective.terms:
        if gradients and enters_by_gradient(prior):
            continue
        if not {"prox", "split", "quadratic"} & prior.offers:
            return (
                f"{name} needs a proximal operator of every prior, alone or behind a linear "
                f"operator, and {prior!r} has none"
            )
    return None


def splitting_reason(objective: Objective, name: str) -> str | None:
    """Return why a splitting of a quadratic misfit and priors does not fit, or ``None``."""
    if reason := implicit_reason(objective, name) or unsplittable_reason(objective, name):
        return reason
    if not objective.problem.data_term.is_quadratic:
        return f"{name} needs a quadratic data term, and {objective.problem.data_term!r} is not"
    return None if objective.terms else f"{name} needs a prior, and there is none"


def operator_norm(operator: LinearOperator | None, like: Tensor) -> Tensor:
    """Return the norm of an operator for every item, ``(batch,)``.

    It is a little larger than the estimate, because estimates come from below.
    """
    real = like.real.dtype if like.is_complex() else like.dtype
    if operator is None:
        return torch.ones(like.shape[0], dtype=real, device=like.device)
    with torch.no_grad():  # constant under differentiation
        norm = operator.norm(tolerance=1e-3, dtype=like.dtype, device=like.device)
    # The power method stops at a relative change of 1e-3, so half a per cent covers most of the
    # rest.
    norm = norm.real if norm.is_complex() else norm
    return (1.005 * norm.to(real)).expand(like.shape[0]).clone()
