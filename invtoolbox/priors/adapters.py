"""Conversions of priors from and to other packages: `as_prior` and `to_deepinv`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Literal

from torch import Generator, Tensor

from invtoolbox.core.guards import check_choice
from invtoolbox.errors import InputError
from invtoolbox.operators.adapters import to_physics
from invtoolbox.operators.base import Operator
from invtoolbox.priors.base import ExplicitPrior, Prior
from invtoolbox.priors.learned.denoiser import Denoiser

Role = Literal["denoiser", "energy", "gradient", "prox"]


def as_prior(obj: Any, sigma: float | None = None, *, role: Role = "denoiser") -> Prior:
    """Convert an object of another package, or a function, to a prior.

    ==============================================  ================================================
    ``obj``                                         result
    ==============================================  ================================================
    deepinv ``L1Prior``, ``Tikhonov``, ``TVPrior``  `L1`, `Tikhonov`, `TotalVariation`
    deepinv ``L12Prior(l2_axis=1)``                 `GroupL1`
    another deepinv ``Prior``                       the same energy, gradient and prox
    deepinv ``PnP``, denoiser, ``torch.nn.Module``  `Denoiser`
    function                                        the ``role`` that the argument states
    a prior                                         the prior itself
    ==============================================  ================================================

    A prior of deepinv that the user writes offers the methods that its class defines, and the
    gradient of ``fn``. deepinv's numerical prox, which is inexact, is not used.

    Args:
        obj: object to convert.
        sigma: noise level of a denoiser, in the units of the image, by default 0.05; deepinv's
            solvers call it ``g_param``.
        role: what a function computes: ``"denoiser"``, ``f(x, sigma)`` or ``f(x)``; ``"energy"``,
            ``f(x) -> (batch,)``; ``"gradient"``, ``f(x)``; or ``"prox"``, ``f(x, step)``.

    Raises:
        InputError: if the object is none of these.

    >>> import torch
    >>> ridge = as_prior(lambda x: 0.5 * x.flatten(1).square().sum(1), role="energy")
    >>> ridge.gradient(torch.tensor([[[3.0]]]))
    tensor([[[3.]]])
    """
    if isinstance(obj, Prior):
        return obj
    # An object of a package can exist only if the package is already imported.
    if "deepinv" in sys.modules:
        optim = sys.modules["deepinv"].optim
        if isinstance(obj, optim.Prior):
            from invtoolbox.priors.deepinv_prior import DeepinvPrior, PriorForDeepinv, equal_prior

            if isinstance(obj, PriorForDeepinv):
                return obj.prior
            if type(obj) is not optim.PnP:
                return equal_prior(obj) or DeepinvPrior(obj, sigma)
            obj = obj.denoiser
    if isinstance(obj, type):
        raise InputError(
            f"as_prior takes an object, got the class {obj.__name__}; pass {obj.__name__}()"
        )
    if not callable(obj):
        raise InputError(
            "as_prior takes a prior or denoiser of deepinv, a torch.nn.Module or a function, got "
            f"{type(obj).__name__}"
        )
    if role == "denoiser":
        return Denoiser(obj, 0.05 if sigma is None else sigma)
    return FunctionPrior(obj, role)


def to_deepinv(obj: Operator | Prior) -> Any:
    """Convert an operator or a prior for deepinv's reconstructors.

    **An operator** becomes a noiseless ``LinearPhysics``, or a ``Physics`` if it is not linear.
    Parameters of the operator may be passed by name, ``physics.A(x, kernel=k)``; a tuple of
    measurements becomes a ``TensorList``. ``A_dagger`` is the pseudo-inverse: an exact closed form
    of the operator, or conjugate gradients on the normal equations. ``prox_l2`` uses the closed
    form if there is one. An approximate inverse, such as filtered back-projection, is
    ``physics.operator.pseudo_inverse(y)``.

    **An explicit prior** or a sum of them becomes a ``deepinv.optim.Prior``: ``fn`` is the energy,
    ``grad`` the gradient and ``prox`` the prox. The prox of a sum, or of a prior that has none, is
    deepinv's numerical one. A denoiser follows deepinv's convention: if the solver passes a noise
    level (``g_param``), ``prox`` is the denoiser at this level. The attribute ``denoiser`` of the
    result is a denoiser of deepinv, for its samplers and its DPIR.

    Raises:
        InputError: if the object is neither, or is an implicit prior.

    >>> import invtoolbox as it, torch
    >>> physics = it.to_deepinv(it.operators.Identity((1, 4, 4)))
    >>> physics.A_adjoint(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 4, 4])
    >>> it.to_deepinv(2.0 * it.priors.L1()).prox(torch.tensor([[[3.0]]]), gamma=0.5)
    tensor([[[2.]]])
    """
    if isinstance(obj, Operator):
        return to_physics(obj)
    if isinstance(obj, Prior):
        from invtoolbox.priors.deepinv_prior import PriorForDeepinv

        return PriorForDeepinv(obj)
    raise InputError(f"to_deepinv takes an operator or a prior, got {type(obj).__name__}")


class FunctionPrior(ExplicitPrior):
    """A prior with one method, given as a function; see `as_prior`.

    Args:
        function: the function.
        role: name of the method.
    """

    def __init__(self, function: Callable[..., Tensor], role: Role) -> None:
        check_choice("as_prior", ("denoiser", "energy", "gradient", "prox"), role=role)
        self.function, self.role = function, role

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({self.role} | ({"gradient"} if self.role == "energy" else set()))

    def energy(self, x: Tensor) -> Tensor:
        return self.function(x) if self.role == "energy" else super().energy(x)

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self.function(x) if self.role == "gradient" else super().gradient(x, generator)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return self.function(x, step) if self.role == "prox" else super().prox(x, step)

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"as_prior({name}, role={self.role!r})"
