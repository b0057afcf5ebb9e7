"""Base classes: explicit priors ``R(x)``, implicit priors ``x = g(z)``, and sums of priors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.arithmetic import add
from invtoolbox.core.pytrees import tree_map
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator, expand, inner
from invtoolbox.priors.settings import replace

if TYPE_CHECKING:
    from invtoolbox.priors.majorizer import Majorizer
    from invtoolbox.problem import Problem as Problem
else:
    Problem = Any  # `invtoolbox.problem` imports this module; annotations alone name the class

_METHODS = (
    "energy",
    "prox",
    "denoise",
    "gradient",
    "split",
    "joint",
    "quadratic",
    "weights",
    "majorizer",
)


class Prior(Settings):
    """Base class of everything that may stand in a sum of priors."""

    def as_sum(self) -> PriorSum:
        raise InputError(f"{self!r} is not a prior")

    def __add__(self, other: Prior) -> PriorSum:
        return self.as_sum()._join(other.as_sum()) if isinstance(other, Prior) else NotImplemented

    def __rmul__(self, weight: float | Tensor) -> PriorSum:
        return self.as_sum()._scale(weight)

    __mul__ = __rmul__

    # -- life in the loop --------------------------------------------------------------------------

    def prepare(self, problem: Problem, solve: Any) -> Self:
        """Return a frozen copy bound to the problem.

        The loop calls this once, before the first iteration.

        Graphs, trees and first reconstructions are made here. ``solve`` is `invtoolbox.solve`,
        passed as an argument so that no prior imports a solver.
        """
        return self

    def unbind(self) -> Self:
        """Return the prior as it was before `prepare`, with the settings that `prepare` chose.

        So a prior that is made from the measurements can be made from others in the same way.
        """
        return self

    def at(self, iteration: int) -> Self:
        """Return the prior at an iteration, for priors that follow a schedule."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class ExplicitPrior(Prior):
    r"""A term ``R(x)`` that is added to the objective.

    A subclass writes at least one of

    * ``energy(x) -> (batch,)``; its gradient then comes from autograd,
    * ``prox(x, step)``: ``argmin_u R(u) + |u - x|^2 / (2 step)``, ``step`` a number or one value
      per item,
    * ``denoise(x, sigma)``: a denoiser for noise of standard deviation ``sigma``; then
      ``prox(x, t)`` is ``denoise(x, sqrt(t) * self.sigma)`` (plug-and-play) and ``gradient`` is
      ``x - denoise(x, self.sigma)`` (RED),
    * ``gradient(x, generator)``, for a prior without an energy.

    It may add

    * ``split() -> (K, F)`` with ``R(x) = F(K x)``, K linear and F with a prox,
    * ``joint(image_shape)``, if R is a minimum over auxiliary variables,
    * ``quadratic() -> (L, b)`` with ``R(x) = 1/2 |L x - b|^2``,
    * ``weights(x)`` for iteratively reweighted least squares, ``gradient(x) = weights(x) x``,
    * ``majorizer(x)``, if a quadratic with the same slope lies above R (a minimum of squares over
      rotations).

    >>> class Ridge(ExplicitPrior):
    ...     def energy(self, x):
    ...         return 0.5 * x.flatten(1).square().sum(1)
    >>> Ridge().gradient(torch.tensor([[[3.0]]]))
    tensor([[[3.]]])
    >>> sorted(Ridge().offers)
    ['energy', 'gradient']

    Attributes:
        is_convex: whether R is convex; ``None`` if it is not known.
        is_smooth: whether R is differentiable everywhere; ``None`` means: unless it has a ``prox``
            or a ``split``.
        gradient_has_graph: whether `gradient` carries a graph to x and to the parameters, so that
            second derivatives need not differentiate the energy twice.
        sigma: the scale of a denoiser, see above.
        fixed_level: whether the denoiser supports one noise level only, so that the prior takes no
            weight.
        is_constraint: whether the energy is 0 or infinite, so that a weight does not matter.
        is_majorizer: whether ``1/2 <u, w u>`` with ``w = weights(x)``, plus a constant, lies above
            R and touches it at x.
        majorizer_is_fixed: whether the curvature of ``majorizer(x)`` is the same at every x.
        has_exact_prox: whether the prox has a closed form; False if it is itself iterated to a
            tolerance.
        unit_step: whether the prox is known only at steps whose product with the weight is 1;
            solvers that support this keep to such steps.
        least_weight: lower bound that the weight must exceed, one number per item ``(batch,)``;
            ``None`` if every weight is allowed.
        is_made_from_data: whether `prepare` makes the prior from the measurements, which then
            cannot be held out to choose its weight.
        fits_slabs: whether the prior of a volume that is divided into slabs over ranks is that of
            the whole (`invtoolbox.distributed`): its sums are those of `core.reductions`, and it
            gets the planes of neighbouring slabs. A class states it for itself; it is not
            inherited.
    """

    fits_slabs: bool = False
    is_convex: bool | None = None
    is_smooth: bool | None = None
    gradient_has_graph: bool = False
    sigma: float = 1.0
    fixed_level: bool = False
    is_constraint: bool = False
    is_majorizer: bool = False
    majorizer_is_fixed: bool = False
    has_exact_prox: bool = True
    unit_step: bool = False
    least_weight: Tensor | None = None
    is_made_from_data: bool = False

    def usual_weight(self, variance: Tensor, denoiser_strength: float) -> tuple[Tensor, str] | None:
        """Return the weight that is usual for this prior, and the words for a note.

        Overridden by priors whose weight follows from the noise level; other weights are chosen by
        a rule.

        Args:
            variance: variance of the noise times the curvature of the data term, ``(batch,)``: 1
                for a least-squares misfit in units of its noise.
            denoiser_strength: see `Solver`.
        """
        return None

    def energy(self, x: Tensor) -> Tensor:
        raise InputError(f"{self!r} has no energy")

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        if "denoise" not in self.offers:
            raise InputError(f"{self!r} has no proximal operator")
        step = torch.as_tensor(step, dtype=x.real.dtype, device=x.device)
        return self.denoise(x, self.sigma if self.fixed_level else step.sqrt() * self.sigma)

    def prox_and_energy(self, x: Tensor, step: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return `prox`, and the energy there, NaN if the prior has none.

        For priors that compute the energy on the way to the prox.
        """
        p = self.prox(x, step)
        return p, self.energy(p) if "energy" in self.offers else torch.full_like(
            p.flatten(1)[:, 0].real, torch.nan
        )

    def prox_conjugate(self, v: Tensor, step: Tensor, weight: Tensor) -> Tensor:
        """Return the prox of the convex conjugate of ``weight * R``, for dual methods.

        May overwrite ``v``.

        Moreau's identity unless overridden: ``v - step prox(v / step, weight / step)``.
        """
        factor = expand(step, v)
        return add(v, factor * self.prox(v / factor, weight / step), -1.0)

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        raise InputError(f"{self!r} is not a denoiser")

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        if "energy" in self.offers:
            with torch.enable_grad():
                free = x if x.requires_grad else x.detach().requires_grad_(True)
                energy = self.energy(free)
                self._require_derivative(energy)
                (result,) = torch.autograd.grad(energy.sum(), free, create_graph=x.requires_grad)
            return result
        if "denoise" in self.offers:
            return x - self.denoise(x, self.sigma)
        raise InputError(f"{self!r} has no gradient")

    def remark(self, like: Tensor) -> str | None:
        """Return a note for a user of this prior, such as a likely mistake; or None.

        Args:
            like: images of the shape, type and device that the prior will get.
        """
        return None

    def density_gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return ``-grad log p(x)`` of the prior's probability density p, for samplers.

        The density is ``exp(-R)`` if the prior has an energy. For a denoiser it is the density of
        images smoothed by noise of standard deviation ``sigma``, and Tweedie's identity gives
        ``(x - denoise(x, sigma)) / sigma^2``.
        """
        if "energy" in self.offers or "denoise" not in self.offers:
            return self.gradient(x, generator)
        level = expand(torch.as_tensor(self.sigma, dtype=x.dtype, device=x.device), x)
        return (x - self.denoise(x, self.sigma)) / level.square()

    def energy_and_gradient(
        self, x: Any, generator: Generator | None = None
    ) -> tuple[Tensor | None, Any]:
        """Return energy and gradient from one pass; the energy is None if the prior has none.

        Priors that need no automatic differentiation override it.
        """
        if "energy" not in self.offers:
            return None, self.gradient(x, generator)
        if type(self).gradient is not ExplicitPrior.gradient:
            return self.energy(x), self.gradient(x, generator)
        tracked = torch.is_grad_enabled() and isinstance(x, Tensor) and x.requires_grad
        with torch.enable_grad():
            free = x if tracked else x.detach().requires_grad_(True)
            energy = self.energy(free)
            self._require_derivative(energy)
            (slope,) = torch.autograd.grad(energy.sum(), free, create_graph=tracked)
        return energy if tracked else energy.detach(), slope

    def _require_derivative(self, energy: Tensor) -> None:
        """Raise an `InputError` if an energy is no function of its argument for torch."""
        if not energy.requires_grad:
            raise InputError(
                f"{self!r}.energy has no derivative, because it leaves torch or detaches; compute it "
                "with operations of torch, or write gradient(x, generator) too"
            )

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        raise InputError(f"{self!r} does not split into a linear operator and a simple prior")

    def joint(self, image_shape: tuple[int, ...]) -> tuple[int, PriorSum]:
        """Return the number of channels of w, and the sum that is minimized over w.

        ``R(x) = min_w sum_i c_i F_i(K_i (x, w))``.

        Each prior of the sum splits or has a prox. Its operators take ``(channel, *space)`` with
        the channels of x, an image of ``image_shape``, followed by those of w. Splitting methods
        then find x and w together.
        """
        raise InputError(f"{self!r} is no minimum over auxiliary variables")

    def quadratic(self) -> tuple[LinearOperator | None, Tensor | None]:
        """Return ``(L, b)`` with ``R(x) = 1/2 |L x - b|^2``.

        ``None`` stands for the identity and for 0.
        """
        raise InputError(f"{self!r} is not quadratic")

    def weights(self, x: Tensor) -> Tensor:
        raise InputError(f"{self!r} has no reweighting")

    def majorizer(self, x: Tensor) -> Majorizer:
        """Return the curvature of a quadratic above R that touches it at x.

        See `priors.majorizer`.
        """
        raise InputError(f"{self!r} has no quadratic above it")

    @property
    def offers(self) -> frozenset[str]:
        """Names of the methods that this prior offers, with those that follow from them."""
        written = {n for n in _METHODS if getattr(type(self), n) is not getattr(ExplicitPrior, n)}
        if "energy" in written:
            written.add("gradient")
        if "denoise" in written:
            written |= {"prox", "gradient"}
        return frozenset(written)

    @property
    def smooth(self) -> bool:
        if self.is_smooth is not None:
            return self.is_smooth
        # A prox that follows from a denoiser does not exclude its gradient (RED).
        return not {"split", "joint"} & self.offers and (
            "prox" not in self.offers or "denoise" in self.offers
        )

    def as_sum(self) -> PriorSum:
        if not self.offers:
            raise InputError(
                f"{type(self).__name__} offers nothing; write one of energy(x), prox(x, step), "
                "denoise(x, sigma) or gradient(x, generator)"
            )
        return PriorSum((Term(1.0, self),))

    def pull(self, x: Any, generator: Generator | None = None) -> Tensor:
        """Return ``<x, gradient(x)>`` with the gradient held fixed, ``(batch,)``.

        Its derivative in x is the gradient. Solvers that differentiate through the parameters of x
        need it for priors without an energy.
        """
        return inner(x, self.gradient(tree_map(Tensor.detach, x), generator))

    def subset(self, index: Any) -> Self:
        """Return the prior of some blocks of an operator's prediction (see `Operator.subset`).

        It is the prior itself unless parts of it belong to blocks.
        """
        return self

    def __matmul__(self, operator: Operator) -> ExplicitPrior:
        """Return the prior ``R(A(x))``.

        It is a `ComposedPrior` for a linear operator and a `ThroughOperator` for any other.
        """
        from invtoolbox.priors.composed import ComposedPrior, ThroughOperator

        if isinstance(operator, LinearOperator):
            return ComposedPrior(self, operator)
        return ThroughOperator(self, operator) if isinstance(operator, Operator) else NotImplemented


class ImplicitPrior(Prior, ABC):
    """The variable that is optimized in place of ``x``: ``x = decode(z)``, with a term ``S(z)``.

    ``initial()`` returns a dict of tensors with the batch as first axis (an axis of 1 is repeated
    for every item); ``decode`` turns it into images. Parameters of different items do not mix.
    Parameters whose number changes during a run need an `AdaptivePrior`.

    Attributes:
        is_well_determined: whether an item has few parameters, which the measurements determine
            well (a rigid motion). Newton methods then step all items at once. If False, as for the
            weights of a network, they step item by item, because they amplify the rounding of
            batched products.
        is_well_scaled: whether x is a smooth function of the parameters and reacts to all of them
            alike, so that methods with a line search, such as L-BFGS, suit better than `Adam`.
    """

    is_well_determined: ClassVar[bool] = False
    is_well_scaled: ClassVar[bool] = False

    @abstractmethod
    def initial(self) -> dict[str, Tensor]: ...

    @abstractmethod
    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Any: ...

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        """Return ``S(z)``, shape ``(batch,)``; 0 unless overridden."""
        first = next(iter(parameters.values()))
        return torch.zeros(first.shape[0], dtype=first.real.dtype, device=first.device)

    def decode_and_energy(
        self, parameters: dict[str, Tensor], generator: Generator | None = None
    ) -> tuple[Any, Tensor]:
        """Return `decode` and `energy` of the same random draw, for priors that decode draws."""
        x = self.decode(parameters, generator)
        return x, self.energy(parameters, x)

    def pixel_std(self, parameters: dict[str, Tensor]) -> Tensor | None:
        """Return the standard deviation of x around the decoded image, shaped like x.

        None if x is the decoded image.
        """
        return None

    def project(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the nearest allowed parameters; unless overridden, the parameters themselves.

        `Adam` calls it after every step.
        """
        return parameters

    @property
    def has_projection(self) -> bool:
        return type(self).project is not ImplicitPrior.project

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        """Return a factor on the solver's step for each leaf; 1 unless overridden."""
        return dict.fromkeys(parameters, 1.0)

    def as_sum(self) -> PriorSum:
        return PriorSum((), self)

    def __rmul__(self, weight: float | Tensor) -> PriorSum:
        raise InputError(
            f"{self!r} is an implicit prior: it is what is optimized, so it takes no weight"
        )

    __mul__ = __rmul__


@dataclass(frozen=True)
class Term:
    """A prior and its weight in a sum: one number, or one number per item.

    ``chosen`` is True if the user wrote the weight.
    """

    weight: float | Tensor
    prior: ExplicitPrior
    chosen: bool = False

    def __repr__(self) -> str:
        if isinstance(self.weight, Tensor):
            return f"w * {self.prior!r}"
        return repr(self.prior) if self.weight == 1 else f"{self.weight:g} * {self.prior!r}"


class PriorSum(Prior):
    """Explicit priors with weights, and at most one implicit prior.

    >>> import invtoolbox as it
    >>> 0.1 * it.priors.TotalVariation() + it.priors.Tikhonov()
    0.1 * TotalVariation() + Tikhonov()
    """

    def __init__(self, terms: tuple[Term, ...] = (), implicit: ImplicitPrior | None = None) -> None:
        self.terms, self.implicit = terms, implicit

    def as_sum(self) -> PriorSum:
        return self

    def _join(self, other: PriorSum) -> PriorSum:
        if self.implicit is not None and other.implicit is not None:
            raise InputError(
                f"a sum holds at most one implicit prior, got {self.implicit!r} and "
                f"{other.implicit!r}"
            )
        return PriorSum(self.terms + other.terms, self.implicit or other.implicit)

    def _scale(self, weight: float | Tensor) -> PriorSum:
        values = torch.as_tensor(weight)
        if values.ndim > 1 or not bool((values.isfinite() & (values >= 0)).all()):
            raise InputError(
                f"the weight of a prior is a nonnegative number, or one per item, got {weight}"
            )
        if self.implicit is not None:
            raise InputError(
                f"{self.implicit!r} is an implicit prior, so the sum takes no weight; weigh its "
                "other terms"
            )
        return PriorSum(tuple(Term(weight * term.weight, term.prior, True) for term in self.terms))

    def energy(self, x: Tensor) -> Tensor:
        """Return ``sum_i w_i R_i(x)``, shape ``(batch,)``."""
        total = x.new_zeros(x.shape[0], dtype=x.real.dtype if x.is_complex() else x.dtype)
        for term in self.terms:
            total = total + expand(term.weight, total) * term.prior.energy(x)
        return total

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        total = torch.zeros_like(x)
        for term in self.terms:
            total = total + expand(term.weight, x) * term.prior.gradient(x, generator)
        return total

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self._each(lambda p: p.prepare(problem, solve))

    def unbind(self) -> Self:
        return self._each(lambda p: p.unbind())

    def at(self, iteration: int) -> Self:
        return self._each(lambda p: p.at(iteration))

    def select(self, index: Tensor) -> Self:
        return self._each(
            lambda p: p.select(index),
            lambda w: w.index_select(0, index) if w.ndim and len(w) > 1 else w,
        )

    def to(
        self,
        target: torch.device | torch.dtype | str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        if target is None and device is None and dtype is None:
            return self
        # The weights move to another device, and keep their precision.
        place = target if device is None and not isinstance(target, torch.dtype) else device
        return self._each(
            lambda p: p.to(target, device=device, dtype=dtype), lambda w: w.to(device=place)
        )

    def _each(
        self, change: Callable[[Any], Any], weigh: Callable[[Tensor], Tensor] = lambda w: w
    ) -> Self:
        """Return the sum with every prior changed, and every weight that is a tensor."""
        terms = tuple(
            Term(
                weigh(term.weight) if isinstance(term.weight, Tensor) else term.weight,
                change(term.prior),
                term.chosen,
            )
            for term in self.terms
        )
        implicit = None if self.implicit is None else change(self.implicit)
        return replace(self, terms=terms, implicit=implicit)

    def __repr__(self) -> str:
        names = ([repr(self.implicit)] if self.implicit is not None else []) + [
            repr(term) for term in self.terms
        ]
        return " + ".join(names) or "no prior"
