"""The prox of an energy by iteration, for splitting methods and priors without a closed form."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.composed import PriorWrapper
from invtoolbox.priors.images.itemwise_iteration import ItemwiseIteration


class NumericalProx(PriorWrapper, ExplicitPrior):
    r"""A differentiable energy together with its prox, which is found by gradient descent.

    ``prox(x, t)`` minimizes ``R(u) + |u - x|^2 / (2 t)`` from ``u = x`` by steps of Barzilai and
    Borwein (1988) with the line search of Armijo, until the gradient is ``tolerance`` of its scale
    ``|x| / t``. If R is convex this is the prox to that accuracy. If R is not, it is a stationary
    point below R(x).

    Args:
        prior: prior with an energy and a gradient.
        tolerance: relative norm of the gradient at the result.
        max_iterations: largest number of steps.

    >>> class Quartic(ExplicitPrior):
    ...     def energy(self, x):
    ...         return 0.25 * x.pow(4).flatten(1).sum(1)
    >>> NumericalProx(Quartic()).prox(torch.tensor([[[2.0]]]), 1.0)  # u + u^3 = 2
    tensor([[[1.]]])
    """

    has_exact_prox = False

    def __init__(
        self, prior: ExplicitPrior, tolerance: float = 1e-5, max_iterations: int = 200
    ) -> None:
        self.prior, self.tolerance, self.max_iterations = prior, tolerance, max_iterations
        self.is_convex = prior.is_convex

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"energy", "gradient", "prox"})

    def energy(self, x: Tensor) -> Tensor:
        return self.prior.energy(x)

    def gradient(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.prior.gradient(x, generator)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        with torch.no_grad():
            steps = torch.ones_like(item_norm(x)) * step
            descent = _Descent(self.prior, x, steps)
            result, gap = x.clone(), torch.zeros_like(steps)
            descent.run((result, gap), self.tolerance, self.max_iterations)
        return result

    def _with(self, prior: ExplicitPrior) -> Self:
        return type(self)(prior, self.tolerance, self.max_iterations)

    def __repr__(self) -> str:
        return repr(self.prior)


class _Descent(ItemwiseIteration):
    """Gradient descent on ``phi(u) = R(u) + |u - x|^2 / (2 t)``."""

    def __init__(self, prior: ExplicitPrior, x: Tensor, step: Tensor) -> None:
        self.prior, self.x, self.step = prior, x, step
        self.u, self.trial = x, step.clone()
        self.value, self.slope = self._evaluate(x)

    def _evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        energy, slope = self.prior.energy_and_gradient(u)
        assert energy is not None
        away = u - self.x
        value = energy + inner(away, away) / (2 * self.step)
        return value, slope + away / expand(self.step, u)

    def _step(self, k: int) -> None:
        squared, trial = inner(self.slope, self.slope), self.trial
        rounding = 8 * torch.finfo(squared.dtype).eps * self.value.abs()
        for _ in range(30):
            u = torch.addcmul(self.u, expand(-trial, self.slope), self.slope)
            value, slope = self._evaluate(u)
            # Armijo's condition, up to the rounding of phi; a step that fails is halved.
            short = ~(value <= self.value - 1e-4 * trial * squared + rounding)
            if not bool(short.any()):
                break
            trial = torch.where(short, trial / 2, trial)
        # Barzilai and Borwein 1988: the next step is <s, s> / <s, y> with s = u - u_before and y the
        # difference of the slopes there.
        s, y = u - self.u, slope - self.slope
        curvature, length = inner(s, y), inner(s, s)
        usable = (curvature > 0) & (length > 0)
        self.trial = torch.where(
            usable, length / torch.where(usable, curvature, torch.ones_like(curvature)), self.step
        )
        self.u, self.value, self.slope = u, value, slope

    def _measure(self) -> tuple[Tensor, ...]:
        scale = item_norm(self.x) / self.step
        return self.u, item_norm(self.slope) / scale.clamp_min(torch.finfo(scale.dtype).tiny)

    def _keep(self, index: Tensor) -> None:
        self.prior = self.prior.select(index)
        self.x, self.step, self.u = self.x[index], self.step[index], self.u[index]
        self.trial, self.value, self.slope = self.trial[index], self.value[index], self.slope[index]
