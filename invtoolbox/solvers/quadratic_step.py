"""The quadratic step of splitting methods: ``(A^T W A + sum_i rho_i K_i^T K_i) d = r``.

Closed where the operator knows its resolvent and every K is the identity, and where everything is a periodic convolution;
elsewhere a fixed number of conjugate gradients, preconditioned by the periodic convolution next to the system where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from invtoolbox.buffers import added, added_product, multiplied
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, inner, item_norm

#: Pairs ``(rho_i, K_i)``, the weights ``(batch,)``; no operator is the identity.
Penalties = Sequence[tuple[Tensor, LinearOperator | None]]

#: Values in an image from which on a CPU transforms it by itself.
_LARGE = 1 << 15


def solve_quadratic(
    objective: Objective, penalties: Penalties, right: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """``d``, and the norm of the residual that it leaves, ``(batch,)``; ``right`` may be overwritten.

    Solve for the change of an iterate rather than for the next one: the right-hand side then is small, and so is its
    rounding, which the system amplifies by its condition number.
    """
    problem = objective.problem
    A, D = cast(LinearOperator, problem.operator), problem.data_term
    if has_resolvent(objective, penalties):
        total = torch.stack([rho for rho, _ in penalties]).sum(0)
        precision = cast(Tensor, D.curvature(problem.y)).expand_as(total)
        return A.normal_resolvent(right, total, precision), torch.zeros_like(total)
    symbol, exact = system_symbol(objective, penalties, right)
    if symbol is not None and exact:
        return filtered(right, 1 / symbol), torch.zeros_like(objective.regularization)

    def system(v: Tensor) -> Tensor:
        result = A.adjoint(D.weighted(A(v)))
        for rho, K in penalties:
            part = v if K is None else K.adjoint(K(v))
            result = torch.addcmul(
                result, expand(rho, part), part
            )  # not in place: an operator may give its argument back
        return result

    # A fixed number: a test of accuracy would send an item different ways on its two sides, for rounding that depends on
    # the batch; and a long run of conjugate gradients in float32 amplifies that rounding itself.
    return _conjugate_gradients(system, right, iterations, None if symbol is None else 1 / symbol)


def is_closed(objective: Objective, penalties: Penalties) -> bool:
    """Whether `solve_quadratic` leaves no residual."""
    return (
        has_resolvent(objective, penalties)
        or system_symbol(objective, penalties, objective.problem.zeros())[1]
    )


def has_resolvent(objective: Objective, penalties: Penalties) -> bool:
    """Whether the operator solves the system by itself."""
    A, D = cast(LinearOperator, objective.problem.operator), objective.problem.data_term
    plain = isinstance(D, LeastSquares) and D.weights is None
    return plain and A.has_normal_resolvent and all(K is None for _, K in penalties)


def system_symbol(
    objective: Objective, penalties: Penalties, like: Tensor
) -> tuple[Tensor | None, bool]:
    """The eigenvalues of the system under the FFT, and whether they are exact; or ``None``."""
    problem = objective.problem
    A, D = cast(LinearOperator, problem.operator), problem.data_term
    known = A.normal_symbol(), D.symbol(problem.y) if isinstance(problem.y, Tensor) else None
    if like.is_complex() or known[0] is None or known[1] is None:
        return None, False
    (power, first), (weights, second) = known[0], known[1]
    half = (*like.shape[2:-1], like.shape[-1] // 2 + 1)
    if any(n not in (1, m) for n, m in zip(weights.shape[2:], half)):
        return None, False  # measurements of another size than the image
    exact = first and second
    symbol = power.to(like) * weights.to(like)
    for rho, K in penalties:
        own = (torch.ones_like(symbol[:1, :1]), True) if K is None else K.normal_symbol()
        if own is None:
            return None, False
        symbol = symbol + expand(rho, symbol) * own[0].to(like)
        exact = exact and own[1]
    # Frequencies that nothing sees leave the image as it is.
    floor = 1e-6 * symbol.flatten(1).amax(1)
    return symbol.maximum(expand(floor, symbol)), exact


def filtered(x: Tensor, multiplier: Tensor) -> Tensor:
    """Multiply in the Fourier domain; large items one by one, because then they stay in the cache of a CPU."""
    axes = tuple(range(2, x.ndim))
    if x.is_cuda or x[0].numel() < _LARGE or len(x) == 1:
        return torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * multiplier, s=x.shape[2:], dim=axes)
    out = torch.empty_like(x)
    for k in range(len(x)):
        own = multiplier[k : k + 1] if len(multiplier) > 1 else multiplier
        out[k : k + 1] = torch.fft.irfftn(
            torch.fft.rfftn(x[k : k + 1], dim=axes).mul_(own), s=x.shape[2:], dim=axes
        )
    return out


def _conjugate_gradients(
    system: Callable[[Tensor], Tensor], residual: Tensor, iterations: int, inverse: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Conjugate gradients from 0, and the norm of the residual.

    ``inverse`` preconditions in the Fourier domain; ``residual``, the right-hand side, is overwritten.
    """
    x = torch.zeros_like(residual)
    conditioned = residual if inverse is None else filtered(residual, inverse)
    direction, squared = conditioned.clone(), inner(residual, conditioned)
    for k in range(iterations):
        product = system(direction)
        curvature = inner(direction, product)
        alpha = quotient(squared, curvature)
        x = added_product(x, direction, expand(alpha, x))
        residual = added_product(residual, product, expand(-alpha, x))
        if k + 1 == iterations:
            break
        conditioned = residual if inverse is None else filtered(residual, inverse)
        new = inner(residual, conditioned)
        direction = added(multiplied(direction, expand(quotient(new, squared), x)), conditioned)
        squared = new
    return x, item_norm(residual)


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """``a / b`` where b is positive, and 0 elsewhere: there is nothing left to do."""
    return torch.where(b > 0, a / torch.where(b > 0, b, torch.ones_like(b)), torch.zeros_like(a))
