"""Base class of implicit priors whose decoded image is itself the solution of a problem."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from torch import Generator, Tensor
from torch.autograd import Function

from invtoolbox.priors.base import ImplicitPrior


class Decoding(NamedTuple):
    """Image that was decoded to an accuracy.

    Attributes:
        x: the image, ``(1, n)``.
        error: bound of the distance between x and the exact image, ``(1,)``.
        residual: gradient of the inner objective at x, ``(1, n)``.
        steps: number of iterations that it took.
    """

    x: Tensor
    error: Tensor
    residual: Tensor
    steps: int


class Pull(NamedTuple):
    """Gradient in the parameters, given the gradient in the image.

    Attributes:
        gradient: one tensor per parameter, with the names of the parameters.
        error: bound of the distance between the gradient and the exact one, ``(1,)``; infinite if
            it was not asked for.
        adjoint: solution of the adjoint equation, ``(1, n)``.
        residual: norm of the residual of the adjoint equation, ``(1,)``; infinite if the error was
            not asked for.
        steps: number of products with the Hessian that it took.
    """

    gradient: dict[str, Tensor]
    error: Tensor
    adjoint: Tensor
    residual: Tensor
    steps: int


class InexactPrior(ImplicitPrior):
    """Implicit prior whose `decode` is solved to an accuracy, and whose derivative is too.

    Methods that choose the accuracy (`solvers.AdaptiveAccuracy`) call `decode_to` and `pull_back`;
    all others use `decode`, to the accuracy of the prior. There is one item.

    Attributes:
        accuracy: accuracy of `decode` and of its derivative.
    """

    accuracy: float

    @abstractmethod
    def decode_to(
        self, parameters: dict[str, Tensor], accuracy: float, start: Tensor | None = None
    ) -> Decoding:
        """Decode the parameters to an accuracy.

        Args:
            parameters: the parameters.
            accuracy: tolerance of the inner solve, a relative gradient norm.
            start: image ``(1, n)`` to start from.
        """

    @abstractmethod
    def pull_back(
        self,
        parameters: dict[str, Tensor],
        decoded: Decoding,
        slope: Tensor,
        accuracy: float,
        start: Tensor | None = None,
        bounded: bool = True,
    ) -> Pull:
        """Return the gradient in the parameters of a function of the image.

        Args:
            parameters: the parameters.
            decoded: their image.
            slope: gradient of the function in the image, ``(1, n)``.
            accuracy: relative residual of the adjoint equation.
            start: solution ``(1, n)`` of the adjoint equation to start from.
            bounded: whether to bound the error, which takes further products with the Hessian.
        """

    @abstractmethod
    def multiply_hessian(
        self, parameters: dict[str, Tensor], decoded: Decoding, vector: Tensor
    ) -> Tensor:
        """Return the Hessian of the inner objective at an image times a vector, ``(1, n)``."""

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        return _Decoded.apply(self, tuple(parameters), *parameters.values())


class _Decoded(Function):
    """Decode parameters; the derivative follows from the implicit function theorem."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, prior: InexactPrior, names: tuple[str, ...], *values: Tensor
    ) -> Tensor:
        ctx.prior, ctx.parameters = prior, dict(zip(names, (v.detach() for v in values)))
        ctx.decoded = prior.decode_to(ctx.parameters, prior.accuracy)
        image: Tensor = ctx.decoded.x
        return image.clone()

    @staticmethod
    def backward(ctx, *slopes: Tensor):  # type: ignore[no-untyped-def]
        prior = ctx.prior
        pull = prior.pull_back(
            ctx.parameters, ctx.decoded, slopes[0], prior.accuracy, bounded=False
        )
        return None, None, *(pull.gradient[name] for name in ctx.parameters)
