"""Tikhonov regularization, a quadratic penalty."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, expand, inner
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.priors.base import ExplicitPrior, Problem
from invtoolbox.priors.settings import replace


class Tikhonov(ExplicitPrior):
    """Quadratic penalty ``R(x) = 1/2 |L (x - reference)|^2`` (Tikhonov 1963).

    With the identity there is a prox, ``(x + step reference) / (1 + step)``; with another ``L``,
    `split` gives ``L`` and the squared norm. `quadratic` serves the solvers of linear systems.

    Args:
        operator: the linear operator ``L``; ``None`` is the identity, and ``"gradient"`` stands for
            the forward differences along every spatial axis (the H1 seminorm), made for the shape
            of the image.
        reference: image towards which the solution is pulled, ``(batch or 1, channel, *space)``; 0
            by default.

    >>> import torch
    >>> Tikhonov().energy(torch.full((2, 1, 3), 2.0))
    tensor([6., 6.])
    >>> Tikhonov(reference=torch.ones(1, 1, 1)).prox(torch.zeros(1, 1, 1), 1.0)
    tensor([[[0.5000]]])
    >>> Tikhonov("gradient").energy(torch.tensor([[[0., 1., 3.]]]))
    tensor([2.5000])
    """

    is_convex = True
    is_smooth = True
    item_fields: ClassVar[tuple[str, ...]] = ("operator", "reference")

    def __init__(
        self,
        operator: LinearOperator | Literal["gradient"] | None = None,
        reference: Tensor | None = None,
    ) -> None:
        if (
            operator is not None
            and operator != "gradient"
            and not isinstance(operator, LinearOperator)
        ):
            raise InputError(
                "the operator of Tikhonov is a linear operator, 'gradient' or None, "
                f"got {operator!r}"
            )
        self.operator, self.reference = operator, reference
        self.shape: tuple[int, ...] | None = None

    def energy(self, x: Tensor) -> Tensor:
        residual = self._residual(x)
        return 0.5 * inner(residual, residual)

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        # L^T L (x - reference).
        residual = self._residual(x)
        L = self._operator(tuple(x.shape[1:]))
        return residual if L is None else L.adjoint(residual)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        if self.operator is not None:
            raise InputError(
                f"{self!r} has a proximal operator for the identity only; "
                "its split() serves other operators"
            )
        # 0 = u - reference + (u - x) / step.
        step = expand(step, x)
        return (x if self.reference is None else x + step * self.reference.to(x.dtype)) / (1 + step)

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        L, target = self.quadratic()
        if L is None:
            raise InputError(f"{self!r} needs no split, it has a proximal operator")
        return L, Tikhonov(reference=target)

    def quadratic(self) -> tuple[LinearOperator | None, Tensor | None]:
        if self.operator == "gradient" and self.shape is None:
            raise InputError(
                f"{self!r} has no operator before it has the shape of the image; "
                "it.solve binds it, or call prior.bind(image_shape)"
            )
        L = self._operator(self.shape or ())
        return L, self.reference if L is None or self.reference is None else L(self.reference)

    @property
    def offers(self) -> frozenset[str]:
        return super().offers - ({"split"} if self.operator is None else {"prox"})

    def bind(self, shape: tuple[int, ...]) -> Self:
        """Return a copy for images of shape ``(channel, *space)``."""
        return replace(self, shape=tuple(shape))

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self.bind(problem.image_shape)

    def _residual(self, x: Tensor) -> Tensor:
        """Return ``L (x - reference)``."""
        difference = x if self.reference is None else x - self.reference.to(x.dtype)
        L = self._operator(tuple(x.shape[1:]))
        return difference if L is None else L(difference)

    def _operator(self, shape: tuple[int, ...]) -> LinearOperator | None:
        return FiniteDifference(shape) if isinstance(self.operator, str) else self.operator

    def __repr__(self) -> str:
        settings = [] if self.operator is None else [repr(self.operator)]
        settings += [] if self.reference is None else ["reference=..."]
        return f"Tikhonov({', '.join(settings)})"
