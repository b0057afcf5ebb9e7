"""Priors of displacement fields on grids: diffusion, bending, linear elasticity."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import Composition, Stack
from invtoolbox.operators.base import LinearOperator, Operator, inner
from invtoolbox.operators.finite_difference import FiniteDifference, check_lengths
from invtoolbox.operators.image_warp import Exponential, ImageWarp
from invtoolbox.operators.strain import ElasticStrain, SecondDifferences, lame_coefficients
from invtoolbox.priors.base import ExplicitPrior, Problem
from invtoolbox.priors.images.tikhonov import Tikhonov
from invtoolbox.priors.settings import format_changes, replace


class DisplacementPrior(ExplicitPrior):
    """Base class of priors of a displacement field ``(batch, dimensions, *space)``.

    Args:
        spacing: distance of neighbours along every axis, 1 by default. A problem with an
            `ImageWarp` always takes the spacing of that.

    Attributes:
        usual_strength: weight that suits moderate noise in a registration by least squares, times
            the length of a pixel to the power `length_power`.
        length_power: power of the unit of length in which the weight is measured.
    """

    is_smooth = True
    usual_strength: float = 1.0
    length_power: int = 0

    def __init__(self, spacing: Sequence[float] | None = None) -> None:
        self.spacing = None if spacing is None else tuple(float(h) for h in spacing)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        self.lengths(problem.image_shape)
        warp = _image_warp(problem.operator)
        return self if warp is None else replace(self, spacing=warp.spacing)

    def lengths(self, shape: Sequence[int]) -> tuple[float, ...]:
        """Return the spacing for displacements of a shape ``(dimensions, *space)``.

        Raises:
            InputError: if the shape is none of a displacement.
        """
        if len(shape) not in (3, 4) or shape[0] != len(shape) - 1:
            raise InputError(
                f"{self!r} takes displacements (batch, 2, rows, columns) or (batch, 3, slices, "
                f"rows, columns), got (batch, {', '.join(map(str, shape))})"
            )
        return check_lengths(repr(self), self.spacing, len(shape) - 1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({format_changes(self, spacing=None)})"


class QuadraticDisplacementPrior(DisplacementPrior):
    """Base class of priors ``R(u) = 1/2 |L u|^2`` of a displacement field."""

    is_convex = True

    @abstractmethod
    def operator(self, shape: tuple[int, ...]) -> LinearOperator:
        """Return L for displacements of a shape ``(dimensions, *space)``."""

    def prepare(self, problem: Problem, solve: Any) -> Self:
        bound = super().prepare(problem, solve)
        return replace(bound, bound=bound.operator(tuple(problem.image_shape)))

    #: The operator L of the problem that the prior is prepared for.
    bound: LinearOperator | None = None

    def energy(self, x: Tensor) -> Tensor:
        strain = self._operator(x)(x)
        return 0.5 * inner(strain, strain)

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self._operator(x).normal(x)

    def quadratic(self) -> tuple[LinearOperator | None, Tensor | None]:
        if self.bound is None:
            raise InputError(f"{self!r} has no operator before it.solve binds it to a problem")
        return self.bound, None

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        L, _ = self.quadratic()
        assert L is not None
        return L, Tikhonov()

    def _operator(self, x: Tensor) -> LinearOperator:
        shape = tuple(x.shape[1:])
        fits = self.bound is not None and self.bound.domain_shape == shape
        return self.bound if fits else self.operator(shape)  # type: ignore[return-value]


class Diffusion(QuadraticDisplacementPrior):
    """Squared slopes of a displacement field, ``R(u) = 1/2 sum |grad u|^2``, a sum over pixels.

    A translation costs nothing, and a rotation as much as a stretch. With ``spacing`` the slopes
    are numbers without a unit (Horn and Schunck 1981; Fischer and Modersitzki 2002).

    Args:
        spacing: distance of neighbours along every axis, 1 by default; a problem with an
            `ImageWarp` takes the spacing of that.

    >>> import torch
    >>> Diffusion().energy(torch.tensor([[[[0.0, 1.0]], [[0.0, 0.0]]]]))
    tensor([0.5000])
    """

    usual_strength = 0.3

    def operator(self, shape: tuple[int, ...]) -> LinearOperator:
        return FiniteDifference(shape, spacing=self.lengths(shape))


class Bending(QuadraticDisplacementPrior):
    """Squared second derivatives of a displacement field, ``R(u) = 1/2 sum_k |Hess u_k|^2``.

    The thin-plate energy of Bookstein (1989) and Rueckert et al. (1999), a sum over pixels. Affine
    displacements cost nothing. Its weight has the unit of a squared length.

    Args:
        spacing: distance of neighbours along every axis, 1 by default; a problem with an
            `ImageWarp` takes the spacing of that.

    >>> import torch
    >>> u = torch.zeros(1, 2, 1, 4)
    >>> u[0, 1, 0] = torch.tensor([0.0, 1.0, 2.0, 4.0])
    >>> Bending().energy(u)
    tensor([0.5000])
    """

    usual_strength = 10.0
    length_power = 2

    def operator(self, shape: tuple[int, ...]) -> LinearOperator:
        return SecondDifferences(shape, self.lengths(shape))


class LinearElastic(QuadraticDisplacementPrior):
    r"""Energy of an elastic body, ``R(u) = sum mu sum_ij e_ij^2 + lambda / 2 (div u)^2``.

    The strain is ``e = (grad u + grad u^T) / 2``, and the sum is over the cells between pixels
    (`operators.ElasticStrain`). A translation costs nothing, and neither does a rotation to first
    order. With ``poisson`` near its bound the body hardly changes its volume. A uniform stretch e
    of a sheet costs ``E e^2 / (2 (1 - nu^2))`` per cell.

    Source: Broit (1981); biomechanics of the heart: Qin et al. (2020), Zhang et al. (2022).

    Args:
        young: Young's modulus E, in effect a factor on the weight.
        poisson: Poisson's ratio nu; 0.4 as for the heart in the source.
        plane: ``"stress"`` (a sheet that may change its thickness) or ``"strain"`` (a slice of a
            long body); volumes take neither.
        spacing: distance of neighbours along every axis, 1 by default; a problem with an
            `ImageWarp` takes the spacing of that.

    >>> import torch
    >>> stretch = torch.zeros(1, 2, 3, 3)
    >>> stretch[:, 1] = 0.1 * torch.arange(3.0)
    >>> LinearElastic(poisson=0.4).energy(stretch) / 4  # per cell
    tensor([0.0060])
    >>> round(0.1**2 / (2 * (1 - 0.4**2)), 4)
    0.006
    """

    usual_strength = 0.5

    def __init__(
        self,
        young: float = 1.0,
        poisson: float = 0.4,
        plane: str = "stress",
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(spacing)
        lame_coefficients(young, poisson, plane, 2)
        self.young, self.poisson, self.plane = float(young), float(poisson), plane

    def operator(self, shape: tuple[int, ...]) -> LinearOperator:
        return ElasticStrain(shape, self.young, self.poisson, self.plane, self.lengths(shape))

    def __repr__(self) -> str:
        changes = format_changes(self, young=1.0, poisson=0.4, plane="stress", spacing=None)
        return f"LinearElastic({changes})"


def mean_length(spacing: Sequence[float]) -> float:
    """Return the geometric mean of the lengths of a pixel's edges."""
    return math.prod(spacing) ** (1 / len(spacing))


def _image_warp(operator: Operator) -> ImageWarp | Exponential | None:
    """Return the `ImageWarp` or `Exponential` that an operator applies first, or None."""
    while isinstance(operator, (Composition, Stack)):
        operator = operator.parts[1 if isinstance(operator, Composition) else 0]
    return operator if isinstance(operator, (ImageWarp, Exponential)) else None
