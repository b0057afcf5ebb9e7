"""Gibbs sampling: draw the image, the noise level and the weight of the prior in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import items_are_independent
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.posteriors.running_moments import Chain, ChainPosterior
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.images.sparsity import L1, GroupL1, group_norm
from invtoolbox.solvers.base import implicit_reason
from invtoolbox.solvers.langevin import TRACE, ChainSampler, ChainState
from invtoolbox.solvers.linear_systems import conjugate_gradients

#: Shape of the gamma densities of the precision of the noise and of the weight, and their rates
#: relative to the mean square of the measurements and to the prior's energy per degree of freedom
#: at the start. Both densities are proper, and nearly flat over many decades.
_SHAPE, _NOISE_RATE, _WEIGHT_RATE = 1e-3, 1e-6, 1e-3
#: Variance of the noise at the start, relative to the variance of the measurements.
_FIRST = 0.1
#: Number of blocks of the chain of noise level and weight, which forget their start more slowly than
#: the image, and least number of states that show their error.
_LONG, _MANY = 8, 500
#: Least norm of a group relative to their mean, below which its precision grows no further.
_LEAST = 1e-5


@dataclass(kw_only=True)
class GibbsState(ChainState):
    """The chains, and the last draws of precision and weight of every chain."""

    precision: Tensor  # (batch, chains) 1 / s^2; 1 if the data term knows its noise level
    weight: Tensor  # (batch, chains)
    rates: tuple[Tensor, Tensor]  # rates of the weak gamma densities of both, (batch,) each
    logarithms: Chain  # of noise level and weight, (batch, chains, 2)


class Form(NamedTuple):
    """A prior of one weight, as ``1/2 |L x - b|^2`` or as the sum of the norms of the ``(L x)_i``.

    Attributes:
        operator: L, None for the identity.
        target: b, None for 0.
        norm: the norm of L x, None for squares.
    """

    operator: LinearOperator | None
    target: Tensor | None
    norm: L1 | GroupL1 | None

    def apply(self, x: Tensor) -> Tensor:
        return x if self.operator is None else self.operator(x)

    def adjoint(self, z: Tensor) -> Tensor:
        return z if self.operator is None else self.operator.adjoint(z)


class GibbsPosterior(ChainPosterior):
    """Draws of the image, of the noise level and of the weight of the prior.

    Attributes:
        noise_std: mean of the noise level, ``(batch,)``; NaN if it was stated.
        weight: mean of the weight, ``(batch,)``; NaN if it was fixed.
    """

    #: Places of the parameters among the traces.
    _PLACES: ClassVar[dict[str, int]] = {"noise_std": 2, "weight": 3}

    @property
    def noise_std(self) -> Tensor:
        return torch.stack([draws.mean() for draws in self._parameter("noise_std")])

    @property
    def weight(self) -> Tensor:
        return torch.stack([draws.mean() for draws in self._parameter("weight")])

    def interval_of(self, parameter: str, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return the interval between two quantiles of a parameter, ``(batch,)`` each.

        Args:
            parameter: ``"noise_std"`` or ``"weight"``.
            level: probability of the interval.

        Raises:
            InputError: for another name, or a level outside (0, 1).
        """
        check_range("interval_of", "(0, 1)", level=level)
        draws = self._parameter(parameter)
        low, high = (
            torch.stack([values.quantile(share) for values in draws])
            for share in (0.5 - level / 2, 0.5 + level / 2)
        )
        return low, high

    def _parameter(self, name: str) -> list[Tensor]:
        """Return the draws of a parameter after the burn-in, one tensor per item."""
        if name not in self._PLACES:
            raise InputError(f"a parameter is one of {', '.join(self._PLACES)}, got {name!r}")
        return [
            item.scalars.kept[0, : max(1, item.scalars.full()[0]), :, self._PLACES[name]].flatten()
            for item in self._items
        ]


@dataclass(frozen=True)
class Gibbs(ChainSampler):
    r"""Draw the image, the noise level and the weight of the prior in turn, each from its density.

    The density is ``exp(-|A x - y|^2 / (2 s^2) - w R(x)) / (s^m Z(w))`` times weak gamma densities
    of ``1 / s^2`` and w. A prior of degree a, ``R(c x) = c^a R(x)``, with d directions that it
    weighs has ``Z(w) ~ w^(-d / a)`` (Pereyra, Bioucas-Dias and Figueiredo, EUSIPCO 2015), so both
    are drawn from gamma densities: ``1 / s^2`` of shape ``m / 2`` and rate ``|A x - y|^2 / 2``, w
    of shape ``d / a`` and rate ``R(x)``, plus those of the weak densities. Under a quadratic prior
    the image is drawn from its normal density, by perturbing y and solving (Bardsley, SIAM J. Sci.
    Comput. 34, 2012). A sum of norms, as total variation, is the mixture of normal densities of
    variances t_i; given the image, ``1 / t_i`` has the inverse normal density of mean
    ``w / |(L x)_i|`` and shape ``w^2`` (Park and Casella, J. Am. Stat. Assoc. 103, 2008; Kyung,
    Gill, Ghosh and Casella, Bayesian Anal. 5, 2010). No step size biases the
    chain, but conjugate gradients that stop early do a little.

    The noise level is drawn if ``LeastSquares`` does not know it; a stated one is kept. The weight w
    is that of the formula, which is the ``regularization`` of `solve` with a stated noise level.
    The posterior has both: ``solution.posterior.noise_std``, ``.weight`` and ``.interval_of``.

    Args:
        burn_in, blocks, chains: as in `ChainSampler`.
        fixed_weight: weight that is kept instead of being drawn.
        inner_iterations: largest number of conjugate gradient steps of a draw.
        inner_tolerance: bound of their residual, relative to the right-hand side.

    Raises:
        InputError: from `solve`, if there is not one prior of `Tikhonov`, `L1` or total variation,
            if the operator is not linear, or if the images are complex.

    >>> import invtoolbox as it
    >>> steps, noise = torch.randn(2, 1, 1, 400, generator=torch.Generator().manual_seed(0))
    >>> problem = it.Problem(steps.cumsum(-1) + 2 * noise, it.operators.Identity((1, 400)))
    >>> prior = it.priors.Tikhonov(operator="gradient")
    >>> solution = it.solve(problem, prior, Gibbs(max_iterations=300, burn_in=60), progress=False)
    >>> round(float(solution.posterior.noise_std))
    2
    """

    max_iterations: int = 5000
    burn_in: int = 200
    fixed_weight: float | None = None
    inner_iterations: int = 300
    inner_tolerance: float = 1e-4

    posterior_class: ClassVar[type[ChainPosterior]] = GibbsPosterior

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "(0, inf)", "fixed_weight")
        check_range(self, "[1, inf)", "inner_iterations")
        check_range(self, "(0, 1)", "inner_tolerance")

    def unsupported_reason(self, objective: Objective) -> str | None:
        if reason := implicit_reason(objective, "Gibbs"):
            return reason
        problem = objective.problem
        if type(problem.data_term) is not LeastSquares or not problem.is_linear:
            return "Gibbs needs LeastSquares and a linear operator"
        if problem.image_dtype.is_complex or problem.y0.is_complex():
            return f"Gibbs draws real images, and {problem.operator} takes or gives complex ones"
        if len(objective.terms) != 1 or form_of(objective.terms[0][1]) is None:
            return (
                "Gibbs draws the weight of one prior, which is Tikhonov, L1 or total variation "
                "without bounds, of the image itself or of its differences, and the prior is "
                f"{objective.prior!r}"
            )
        return None

    def init(self, objective: Objective, start: Tensor) -> GibbsState:
        states = self.scatter(start)
        rows = self.rows(objective)
        x = states.flatten(0, 1)
        value, _, discrepancy = rows.data(x)
        prior = objective.terms[0][1]
        # The rates of the weak densities are in the units of the measurements and of the prior.
        size, variance = _moments(objective)
        noise_rate = _NOISE_RATE * size
        energy = prior.energy(x).view(-1, self.chains).double()
        degrees = _degrees(objective)
        weight_rate = _WEIGHT_RATE * energy[:, 0] / degrees
        shape = (objective.batch, self.chains)
        if _is_unknown(objective):
            # A chain leaves a noise level that is too low only slowly.
            precision = (1 / (_FIRST * variance)).view(-1, 1).expand(shape)
        else:
            precision = torch.ones(shape, dtype=torch.float64, device=x.device)
        tiny = torch.finfo(energy.dtype).tiny ** 0.25
        weight = degrees.view(-1, 1) / energy.clamp_min(tiny)
        if self.fixed_weight is not None:
            weight = torch.full_like(weight, self.fixed_weight)
        potential = (precision * value.view(shape) + weight * energy).to(value).flatten()
        return GibbsState(
            x=states[:, 0],
            value=potential.view(shape)[:, 0],
            discrepancy=discrepancy.view(shape)[:, 0],
            certificate=torch.full_like(discrepancy.view(shape)[:, 0], torch.inf),
            states=states,
            precision=precision,
            weight=weight,
            rates=(noise_rate, weight_rate.clamp_min(tiny)),
            logarithms=Chain.start(_logarithms(precision, weight), _LONG),
            chain=Chain.start(states, self.blocks),
            scalars=Chain.start(
                self._traced(objective, states, potential, precision, weight), TRACE
            ),
        )

    def step(self, objective: Objective, state: GibbsState) -> GibbsState:
        rows, prior = self.rows(objective), objective.terms[0][1]
        form = cast(Form, form_of(prior))
        numbers = Numbers(objective, self.chains)
        shape = (objective.batch, self.chains)
        precision, weight = state.precision, state.weight
        # The image first: the start may fit the measurements exactly, as if there were no noise.
        x = self._draw_image(
            rows, form, state.states.flatten(0, 1), precision.flatten(), weight.flatten(), numbers
        )
        value, _, discrepancy = rows.data(x)
        energy = prior.energy(x).view(shape)
        if _is_unknown(objective):
            rate = value.view(shape).double() + state.rates[0].view(-1, 1)
            precision = numbers.gamma(_SHAPE + _count(objective) / 2) / rate
        if self.fixed_weight is None:
            rate = energy.double() + state.rates[1].view(-1, 1)
            weight = numbers.gamma(_SHAPE + _degrees(objective)) / rate
        states = x.view_as(state.states)
        potential = (precision * value.view(shape) + weight * energy).to(value).flatten()
        traced = self._traced(objective, states, potential, precision, weight)
        fields = self.record(objective, state, states, traced)
        logarithms, number = state.logarithms, objective.iteration + 1 - self.burn_in
        if number == 1:
            logarithms = logarithms.recenter(_logarithms(precision, weight))
        if number >= 1:
            logarithms.add(_logarithms(precision, weight), number)
        if fields["certificate"] is not state.certificate:
            error = (logarithms.relative_error() / self.chains**0.5).to(fields["certificate"])
            error = error if number * self.chains >= _MANY else torch.full_like(error, torch.inf)
            fields["certificate"] = torch.maximum(fields["certificate"], error)
        return replace(
            state,
            value=potential.view(shape)[:, 0],
            discrepancy=discrepancy.view(shape)[:, 0],
            precision=precision,
            weight=weight,
            logarithms=logarithms,
            **fields,
        )

    def _draw_image(
        self,
        rows: Objective,
        form: Form,
        x: Tensor,
        precision: Tensor,
        weight: Tensor,
        numbers: Numbers,
    ) -> Tensor:
        """Draw the images given all else: minimize with perturbed measurements and targets."""
        A, D = (
            cast(LinearOperator, rows.problem.operator),
            cast(LeastSquares, rows.problem.data_term),
        )
        y, p = rows.problem.y0, expand(precision, x).to(x.dtype)
        z = form.apply(x)
        # Precision of (L x)_i: w, or 1 / t_i of the mixture.
        v = expand(weight, z).to(z.dtype).expand_as(z)
        if form.norm is not None:
            v = _draw_precision(form.norm, z, weight, numbers)
        # b = A^T W (y + n), n ~ N(0, 1 / (p W)), plus L^T V (b + e), e ~ N(0, 1 / V).
        whitened = D.weighted(torch.ones_like(y)).sqrt()
        measured = expand(precision, y).to(y.dtype)
        right = A.adjoint(
            measured * D.weighted(y) + (measured.sqrt() * whitened) * numbers.normal(y)
        )
        pull = v.sqrt() * numbers.normal(z)
        if form.target is not None:
            pull = pull + v * form.target.to(z)
        right = right + form.adjoint(pull)

        def H(u: Tensor) -> Tensor:
            return p * A.adjoint(D.weighted(A(u))) + form.adjoint(v * form.apply(u))

        # The last image is as near as any start that does not depend on the new draw.
        change, _ = conjugate_gradients(
            H, right - H(x), self.inner_tolerance, self.inner_iterations
        )
        return x + change

    def _traced(
        self, objective: Objective, states: Tensor, value: Tensor, precision: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the functionals of `traced`, the noise level and the weight; NaN if not drawn."""
        level = (
            precision.rsqrt() if _is_unknown(objective) else torch.full_like(precision, torch.nan)
        )
        if self.fixed_weight is not None:
            weight = torch.full_like(weight, torch.nan)
        parameters = torch.stack([level, weight], 2)
        return torch.cat([self.traced(states, value), parameters.to(value)], 2)


class Numbers:
    """Random numbers of one step: the same ones for every item, a function of seed and iteration.

    Args:
        objective: the objective, which knows seed and iteration.
        chains: number of chains per item.
    """

    def __init__(self, objective: Objective, chains: int) -> None:
        self.generator, self.batch, self.chains = objective.generator(), objective.batch, chains

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal numbers ``(batch * chains, ...)``."""
        return self._fill(like, torch.randn)

    def gamma(self, shape: Tensor) -> Tensor:
        """Return draws of the gamma density of rate 1, ``(batch, chains)``.

        Args:
            shape: its shape, ``(batch,)``.
        """
        seed = int(torch.randint(1 << 40, (1,), generator=self.generator, device=shape.device))
        draws = [
            np.random.default_rng(seed + (k if items_are_independent() else 0)).gamma(
                float(a), size=self.chains
            )
            for k, a in enumerate(shape.tolist())
        ]
        return torch.as_tensor(np.array(draws), device=shape.device)

    def inverse_gaussian(self, mean: Tensor, shape: Tensor) -> Tensor:
        """Return draws of the inverse Gaussian density.

        The transformation of Michael, Schucany and Haas (Am. Stat. 30, 1976), in a form that does
        not cancel.

        Args:
            mean: mean m, ``(batch * chains, ...)``.
            shape: shape parameter of the density, like the mean.
        """
        # The smaller root is m / (1 + q + sqrt(2 q + q^2)) with q = m n^2 / (2 shape).
        q = mean * self.normal(mean).square() / (2 * shape)
        small = mean / (1 + q + (q * (2 + q)).sqrt())
        is_small = self._fill(mean, torch.rand) <= mean / (mean + small)
        return torch.where(is_small, small, mean.square() / small)

    def _fill(self, like: Tensor, draw: Any) -> Tensor:
        """Return random numbers like a tensor, the same ones for every item."""
        drawn = (self.batch if items_are_independent() else 1, self.chains, *like.shape[1:])
        values: Tensor = draw(drawn, generator=self.generator, dtype=like.dtype, device=like.device)
        return values.expand(self.batch, *drawn[1:]).reshape(like.shape)


def form_of(prior: ExplicitPrior) -> Form | None:
    """Return a prior as squares or as a sum of norms of a linear map, None if it is neither.

    Args:
        prior: the prior, bound to the shape of the image.
    """
    target: Tensor | None = None
    if "quadratic" in prior.offers:
        operator, target = prior.quadratic()
        return Form(operator, target, None) if _has_known_rank(operator) else None
    operator, simple = prior.split() if "split" in prior.offers else (None, prior)
    if not _has_known_rank(operator):
        return None
    if isinstance(simple, L1) and simple.bounds is None:
        return Form(operator, None, simple)
    if isinstance(simple, GroupL1) and not simple.nonnegative:
        return Form(operator, None, simple)
    return None


def _has_known_rank(operator: LinearOperator | None) -> bool:
    """Return whether `_degrees` knows the directions that a prior of this operator weighs."""
    return operator is None or isinstance(operator, FiniteDifference)


def _draw_precision(norm: L1 | GroupL1, z: Tensor, weight: Tensor, numbers: Numbers) -> Tensor:
    """Draw the precisions 1 / t of the normal densities whose mixture is ``exp(-w |z|)``.

    Args:
        norm: norm of single values, or of groups, whose members share their precision.
        z: values L x.
        weight: w, one per row.
        numbers: random numbers of the step.
    """
    if isinstance(norm, GroupL1):
        grouped, axis = norm.group(z)
        radius = group_norm(grouped, axis)
    else:
        grouped, radius = z, z.abs()
    w = expand(weight, radius).to(radius.dtype)
    # A group of norm 0 would have no variance.
    least = _LEAST * radius.flatten(1).mean(1).clamp_min(torch.finfo(z.dtype).tiny ** 0.5)
    mean = w / radius.maximum(expand(least, radius))
    drawn = numbers.inverse_gaussian(mean, (w * w).expand_as(mean))
    return drawn.expand_as(grouped).reshape(z.shape)


def _logarithms(precision: Tensor, weight: Tensor) -> Tensor:
    """Return the logarithms of noise level and weight, ``(batch, chains, 2)``."""
    return torch.stack([-0.5 * precision.log(), weight.log()], 2)


def _is_unknown(objective: Objective) -> bool:
    """Return whether the noise level is drawn."""
    return getattr(objective.problem.data_term, "noise_std", None) is None


def _measured(objective: Objective) -> Tensor:
    """Return 1 for measurements with a weight and 0 for others, ``(batch, values)`` in float64."""
    y, weights = objective.problem.y0, getattr(objective.problem.data_term, "weights", None)
    is_measured = torch.ones_like(y) if weights is None else (weights > 0).to(y).expand_as(y)
    return is_measured.double().flatten(1)


def _count(objective: Objective) -> Tensor:
    """Return the number of measurements with a weight, ``(batch,)``."""
    return _measured(objective).sum(1)


def _moments(objective: Objective) -> tuple[Tensor, Tensor]:
    """Return mean square and variance of the measurements with a weight, ``(batch,)`` each."""
    is_measured, y = _measured(objective), objective.problem.y0.double().flatten(1)
    count = is_measured.sum(1).clamp_min(1)
    mean, square = ((is_measured * v).sum(1) / count for v in (y, y.square()))
    return square.clamp_min(1e-30), (square - mean.square()).clamp_min(1e-30)


def _degrees(objective: Objective) -> Tensor:
    """Return d / a: the directions that the prior weighs, over its degree, ``(batch,)``."""
    zeros = objective.problem.zeros()[:1]
    form = cast(Form, form_of(objective.terms[0][1]))
    # Differences do not weigh the mean of a channel.
    free = 0 if form.operator is None else zeros.shape[1]
    degrees = (zeros[0].numel() - free) / (2 if form.norm is None else 1)
    return torch.full((objective.batch,), degrees, dtype=torch.float64, device=zeros.device)
