"""Conversions between deepinv's priors and ours; importing this module imports deepinv."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from deepinv import optim
from deepinv.models.base import Denoiser
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.operators.deepinv_physics import place_like
from invtoolbox.priors.base import ExplicitPrior, Prior
from invtoolbox.priors.images.sparsity import L1, GroupL1
from invtoolbox.priors.images.tikhonov import Tikhonov
from invtoolbox.priors.images.total_variation import TotalVariation

#: Priors of deepinv that are convex functions.
_CONVEX = (optim.ZeroPrior, optim.Tikhonov, optim.L1Prior, optim.TVPrior, optim.prior.L12Prior)


#: Relative duality gap of the prox of total variation; twice its root bounds the error.
_GAP = 1e-9


def equal_prior(source: optim.Prior) -> ExplicitPrior | None:
    """Return the prior of the toolbox that is the same function; None without one.

    Its prox has a closed form, or a duality gap that bounds its error, where deepinv iterates
    without a bound. A class that the user derives from one of deepinv is another function, and so
    is `WaveletPrior`, whose transform is not orthogonal at the border.

    Args:
        source: a prior of deepinv.
    """
    kind = type(source)
    if kind is optim.L1Prior:
        return L1()
    if kind is optim.Tikhonov:
        return Tikhonov()
    if kind is optim.TVPrior:
        return TotalVariation(tolerance=_GAP)
    # Its norm runs along any axis, and ours over the channels.
    if kind is optim.prior.L12Prior and source.l2_axis == 1:
        return GroupL1()
    return None


class DeepinvPrior(ExplicitPrior):
    """A prior of deepinv: its ``fn``, ``grad`` and ``prox``, as far as its class defines them.

    Each item is computed alone, because iterated proxes of deepinv stop by the whole batch.

    Args:
        source: the prior of deepinv.
        sigma: noise level that deepinv's solvers call ``g_param``; priors without one ignore it.
    """

    has_exact_prox = False

    def __init__(self, source: optim.Prior, sigma: float | None = None) -> None:
        self.source, self.sigma = source, sigma  # type: ignore[assignment]
        kind = type(source)
        self.is_convex = True if kind in _CONVEX else None
        self._offers = frozenset(
            name
            for name, is_offered in (
                ("energy", source.explicit_prior),
                ("gradient", source.explicit_prior or kind.grad is not optim.Prior.grad),
                ("prox", kind.prox is not optim.Prior.prox),
            )
            if is_offered
        )

    @property
    def offers(self) -> frozenset[str]:
        return self._offers

    def energy(self, x: Tensor) -> Tensor:
        values = [self.source.fn(item, self.sigma).reshape(-1).sum() for item in x.split(1)]
        return torch.stack(values)

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        # deepinv sets requires_grad of its argument, and keeps the graph of the result.
        items = (x if x.requires_grad else x.detach()).split(1)
        gradient = torch.cat([self.source.grad(item, self.sigma) for item in items])
        return gradient if x.requires_grad else gradient.detach()

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        steps = torch.as_tensor(step, dtype=x.real.dtype).reshape(-1).expand(len(x)).tolist()
        # A copy that shares the tensors: the proxes of TVPrior and others keep their last iterate.
        shared = {id(t): t for t in (*self.source.parameters(), *self.source.buffers())}
        items = [
            copy.deepcopy(self.source, dict(shared)).prox(item, self.sigma, gamma=gamma)
            for item, gamma in zip(x.split(1), steps)
        ]
        return torch.cat(items)

    def __repr__(self) -> str:
        return f"DeepinvPrior({type(self.source).__name__})"


class PriorForDeepinv(optim.Prior):  # type: ignore[misc]
    """A sum of our explicit priors as a prior of deepinv, see `to_deepinv`."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior.as_sum()
        if self.prior.implicit is not None:
            raise InputError(
                f"{self.prior.implicit!r} is an implicit prior, which deepinv's solvers do not "
                "take; solve with it.solve"
            )
        self.explicit_prior = all("energy" in term.prior.offers for term in self.prior.terms)

    def fn(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.prior.energy(x)

    def grad(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        level = self._level(args)
        return self.prior.gradient(x) if level is None else x - self._only_term().denoise(x, level)

    def prox(self, x: Tensor, *args: Any, gamma: float | Tensor = 1.0, **kwargs: Any) -> Tensor:
        level = self._level(args)
        if level is not None:
            return self._only_term().denoise(x, level)
        if len(self.prior.terms) != 1 or "prox" not in self.prior.terms[0].prior.offers:
            return cast(Tensor, super().prox(x, *args, gamma=gamma, **kwargs))
        step = gamma.flatten() if isinstance(gamma, Tensor) and gamma.ndim else gamma
        return self._only_term().prox(x, step * self.prior.terms[0].weight)

    def _only_term(self) -> ExplicitPrior:
        return self.prior.terms[0].prior

    def _level(self, args: tuple[Any, ...]) -> float | Tensor | None:
        """Return the noise level that deepinv passes to a single denoiser, or None."""
        terms = self.prior.terms
        if not args or args[0] is None or len(terms) != 1 or "denoise" not in terms[0].prior.offers:
            return None
        level = args[0]
        return level.flatten() if isinstance(level, Tensor) and level.ndim else level

    @property
    def denoiser(self) -> DenoiserForDeepinv:
        """The prior as a denoiser of deepinv, ``denoiser(x, sigma)``."""
        return DenoiserForDeepinv(self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if "prior" in self.__dict__:
            self.prior = place_like(self.prior, fn)
        return super()._apply(fn, recurse)


class DenoiserForDeepinv(Denoiser):  # type: ignore[misc]
    """``denoiser(x, sigma)``: the prior's own denoiser, or its prox with the step ``sigma^2``."""

    def __init__(self, prior: PriorForDeepinv) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, sigma: float | Tensor, **kwargs: Any) -> Tensor:
        if self.prior._level((sigma,)) is not None:
            return self.prior.prox(x, sigma)
        level = expand(sigma, x) if isinstance(sigma, Tensor) and sigma.ndim == 1 else sigma
        return self.prior.prox(x, gamma=level**2)
