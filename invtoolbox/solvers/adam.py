"""Adam, for implicit priors and noisy gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import where_items
from invtoolbox.objective.objective import Evaluation, Objective
from invtoolbox.operators.base import item_norm
from invtoolbox.priors.adaptive import Intermediate
from invtoolbox.priors.base import Prior
from invtoolbox.solvers.base import Solver, State, nonsmooth_reason
from invtoolbox.solvers.gradient_descent import gradient_scale
from invtoolbox.solvers.ordered_subsets import subset_reason


@dataclass(kw_only=True)
class AdamState(State):
    """Running moments of the gradient, the answer so far, and the patience of each item."""

    gradient: Tensor
    mean: Tensor  # running mean of the gradient
    square: Tensor  # running mean of its square
    steps: Tensor  # (batch,)
    rates: Tensor  # (1 or batch, n) factors on the learning rate, from the implicit prior
    best: Tensor  # the iterate with the least objective, or the average
    best_value: Tensor  # (batch,)
    scale: Tensor  # (batch,)
    reference: Tensor  # (batch,) the objective at the last improvement
    waited: Tensor  # (batch,) steps since that improvement
    statistics: dict[str, Tensor]  # statistics of an AdaptivePrior


@dataclass(frozen=True)
class Adam(Solver):
    r"""Adam (Kingma and Ba 2015, algorithm 1); an item gives the same result alone and in a batch.

    An implicit prior's ``learning_rates`` multiply ``learning_rate`` leaf by leaf, and constrained
    parameters are projected after every step. There is no promise of a monotone objective, nor of
    convergence (Reddi, Kale and Kumar 2018 give a convex objective on which Adam does not
    converge). With ``decay`` the learning rate falls as ``1 / sqrt(1 + decay * steps)``.
    Certificate: ``|grad F|`` relative to its value at the start.

    Args:
        learning_rate: the step in units of the variable.
        iterate: which iterate is the answer: the ``"last"`` one, the ``"best"`` one, of least
            objective, or the ``"average"``, weighted by the eighth power of the step (Shamir and
            Zhang 2013). The average covers about the last tenth of the iterates and takes the noise
            out of noisy gradients.
        patience: number of steps without an improvement after which an item gives up, with the
            status ``early_stopping``; None for never. Under an implicit prior that learns smooth content
            first, it is a regularizer.
        min_delta: the objective, in its own unit, must fall by this much below the last improvement
            to count as a new one.
        subset_size: number of blocks of the measurements (views of a scan, sweeps of a sequence)
            per step, drawn anew each time; the history then holds the objectives of these blocks.
            All of them by default.
        clip: gradients of an item that are longer are shortened to this norm before they are
            averaged.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    >>> solution = it.solve(problem, solver=it.solvers.Adam(learning_rate=0.05), progress=False)
    >>> bool((solution.x - 1).abs().max() < 1e-3)
    True
    """

    max_iterations: int = 1000
    tolerance: float = 1e-4
    learning_rate: float = 1e-2
    beta_mean: float = 0.9
    beta_square: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.0
    iterate: Literal["last", "best", "average"] = "last"
    patience: int | None = None
    min_delta: float = 0.0
    subset_size: int | None = None
    clip: float | None = None

    takes_projection: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "patience")
        check_range(self, "[0, inf]", "min_delta")
        check_range(self, "(0, inf]", "clip")

    def unsupported_reason(self, objective: Objective) -> str | None:
        if self.iterate == "best" and not objective.has_value:
            return "Adam(iterate='best') needs an energy of every prior, and a prior here has none"
        if self.patience is not None and not objective.has_value:
            return "Adam(patience=...) needs an energy of every prior, and a prior here has none"
        if self.subset_size is not None:
            if self.iterate == "best" or self.patience is not None:
                return (
                    "Adam(iterate='best') and patience compare objectives, which different "
                    "subsets do not allow; leave subset_size out"
                )
            if reason := subset_reason(objective, "Adam", self.subset_size):
                return reason
        return nonsmooth_reason(objective, "Adam")

    def suits(self, objective: Objective) -> bool:
        return objective.layout is not None

    def init(self, objective: Objective, start: Tensor) -> AdamState:
        (value, gradient, discrepancy), info = self._evaluate(objective, start)
        norm = item_norm(gradient)
        scale = gradient_scale(objective, norm)
        return AdamState(
            x=start,
            value=value,
            discrepancy=discrepancy,
            certificate=norm / scale,
            gradient=gradient,
            mean=torch.zeros_like(start),
            square=torch.zeros_like(start),
            steps=torch.zeros_like(norm),
            rates=_rates(objective, start),
            best=start.clone(),
            best_value=value.clone(),
            scale=scale,
            reference=value.clone(),
            waited=torch.zeros_like(norm),
            statistics=_gather(objective, _statistics(objective, start), start, info),
        )

    def step(self, objective: Objective, state: AdamState) -> AdamState:
        gradient = state.gradient if self.clip is None else _clip(state.gradient, self.clip)
        # m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2 (Kingma and Ba 2015, algorithm 1).
        mean = state.mean.mul_(self.beta_mean).add_(gradient, alpha=1 - self.beta_mean)
        # Complex values enter by their squared modulus, so that the phase of the image does not
        # matter.
        square = state.square.mul_(self.beta_square).addcmul_(
            gradient, gradient.conj(), value=1 - self.beta_square
        )
        steps = state.steps + 1
        shape = (-1, *[1] * (gradient.ndim - 1))
        # Both means start at 0; m / (1 - b1^k) and v / (1 - b2^k) correct this. The first divisor
        # is part of the rate.
        rate = self.learning_rate / (1 + self.decay * steps).sqrt() / (1 - self.beta_mean**steps)
        denominator = (
            (square / (1 - self.beta_square**steps).view(shape)).sqrt_().add_(self.epsilon)
        )
        rates = _schedule(objective, state.rates)
        # x <- P(x - rate m / (sqrt(v) + epsilon)), P the projection onto the constraints. An
        # adaptive prior may add its noise to the step.
        x = state.x - (mean * rates).div_(denominator).mul_(rate.view(shape))
        x = objective.project(objective.perturb(x, self.learning_rate))
        (value, gradient, discrepancy), info = self._evaluate(objective, x)
        better = value < state.best_value
        best = where_items(better, x, state.best) if self.iterate == "best" else state.best
        if self.iterate == "average":
            # The weight of step k is proportional to k^8 (polynomial decay of Shamir and Zhang
            # 2013, with their eta = 8). Not torch.lerp: it rounds the last few entries of a tensor
            # differently, so depending on the batch.
            best = state.best + (x - state.best).mul_((9 / (steps + 8)).view(shape))
        improved = value < state.reference - self.min_delta
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=item_norm(gradient) / state.scale,
            gradient=gradient,
            mean=mean,
            square=square,
            steps=steps,
            rates=rates,
            best=best,
            best_value=torch.where(better, value, state.best_value),
            reference=torch.where(improved, value, state.reference),
            waited=torch.where(improved, torch.zeros_like(state.waited), state.waited + 1),
            statistics=_gather(objective, state.statistics, x, info),
        )

    def adapt(
        self,
        objective: Objective,
        state: AdamState,
        variable: Tensor,
        move: Callable[[Tensor], Tensor],
    ) -> AdamState:
        # New entries have no gradient yet, so the next step does not move them; averages and the
        # best iterate begin again from here.
        return replace(
            state,
            x=variable,
            gradient=move(state.gradient),
            mean=move(state.mean),
            square=move(state.square),
            rates=_rates(objective, variable),
            best=variable.clone(),
            best_value=state.value.clone(),
            statistics=_statistics(objective, variable),
        )

    def gives_up(self, state: AdamState) -> Tensor | None:
        return None if self.patience is None else state.waited >= self.patience

    def stops_early(self, objective: Objective) -> bool:
        return self.patience is not None or super().stops_early(objective)

    def _evaluate(
        self, objective: Objective, x: Tensor
    ) -> tuple[Evaluation, dict[str, Intermediate]]:
        if self.subset_size is not None:
            objective = objective.subset(self.subset_size)
        has_parameters = objective.layout is not None
        return objective.evaluate_parameters(x) if has_parameters else (objective.evaluate(x), {})

    def result(self, state: AdamState) -> Tensor:
        return state.x if self.iterate == "last" else state.best


def _clip(gradient: Tensor, longest: float) -> Tensor:
    # g min(1, longest / |g|), item by item (Pascanu, Mikolov and Bengio 2013).
    norm = item_norm(gradient)
    return gradient * (longest / norm.clamp_min(longest)).view(-1, *[1] * (gradient.ndim - 1))


def _statistics(objective: Objective, x: Tensor) -> dict[str, Tensor]:
    prior, layout = objective.adaptive_prior, objective.layout
    return {} if prior is None or layout is None else prior.statistics(layout.unpack(x))


def _gather(
    objective: Objective, statistics: dict[str, Tensor], x: Tensor, info: dict[str, Intermediate]
) -> dict[str, Tensor]:
    prior, layout = objective.adaptive_prior, objective.layout
    if prior is None or layout is None:
        return statistics
    return prior.gather(statistics, layout.unpack(x), info)


def _schedule(objective: Objective, rates: Tensor) -> Tensor:
    """Return the rates of this iteration.

    If the implicit prior follows a schedule, they are written over the last ones.
    """
    implicit, layout = objective.prior.implicit, objective.layout
    if implicit is None or layout is None or type(implicit).at is Prior.at:
        return rates
    leaves = layout.unpack(rates)  # views
    for name, factor in implicit.learning_rates(leaves).items():
        leaves[name].fill_(factor)
    return rates


def _rates(objective: Objective, start: Tensor) -> Tensor:
    ones = torch.ones(
        start.shape[0], *[1] * (start.ndim - 1), dtype=start.dtype, device=start.device
    )
    if objective.layout is None or objective.prior.implicit is None:
        return ones
    parameters = objective.layout.unpack(start)
    factors = objective.prior.implicit.learning_rates(parameters)
    return objective.layout.pack(
        {k: torch.full_like(t, factors.get(k, 1.0)) for k, t in parameters.items()}
    )
