"""Linear systems inside of another method: conjugate gradients, GMRES, quadratic steps.

Every solver works item by item and has a fixed number of steps or its own stopping test, without a
loop in `solve`. Conjugate gradients solve symmetric systems; GMRES solves systems that are not
symmetric. The quadratic step of splitting methods is ``(A^T W A + sum_i rho_i K_i^T K_i) d = r``.
It is closed if the operator knows its resolvent and every K is the identity, and if everything is a
periodic convolution. Otherwise it takes a fixed number of conjugate gradient steps, preconditioned
by the periodic convolution next to the system if there is such a convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from invtoolbox.core.arithmetic import add, add_product, multiply
from invtoolbox.core.constants import convert
from invtoolbox.core.pytrees import map_items
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, inner, item_norm


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    tolerance: float | Tensor,
    max_iterations: int,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``H^-1 right`` by conjugate gradients from 0, and the residual ``right - H x``.

    ``H`` is symmetric and given by its product. ``precondition`` applies a symmetric, positive
    approximation of its inverse. An item stops once its residual is within
    ``tolerance`` relative, or if ``H`` shows no positive curvature; it then keeps its answer,
    whatever its neighbours do.

    >>> conjugate_gradients(lambda v: 2 * v, torch.ones(1, 3), 1e-6, 10)[0]
    tensor([[0.5000, 0.5000, 0.5000]])
    """
    x, residual = torch.zeros_like(right), right.clone()
    conditioned = residual if precondition is None else precondition(residual)
    direction, height = conditioned.clone(), inner(residual, conditioned)
    squared = height if precondition is None else inner(right, right)
    goal = torch.as_tensor(tolerance, dtype=squared.dtype, device=squared.device) ** 2 * squared
    running = squared > goal
    for _ in range(max_iterations):
        if not bool(running.any()):
            break
        bent = product(direction)
        curvature = inner(direction, bent)
        running = running & (curvature > 0)
        alpha = quotient(height, curvature, running)
        x = torch.addcmul(x, expand(alpha, x), direction)
        residual = torch.addcmul(residual, expand(-alpha, x), bent)
        conditioned = residual if precondition is None else precondition(residual)
        new = inner(residual, conditioned)
        beta = quotient(new, height, running)
        direction = torch.addcmul(conditioned, expand(beta, x), direction)
        height = torch.where(running, new, height)
        squared = height if precondition is None else inner(residual, residual)
        running = running & (squared > goal)
    return x, residual


def gmres(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    tolerance: float,
    max_iterations: int,
    restart: int = 30,
) -> tuple[Tensor, Tensor]:
    """Return ``A^-1 right`` by GMRES from 0 (Saad and Schultz 1986), and relative residuals.

    The residuals have the shape ``(batch,)``. An item that is within the tolerance takes no further
    directions, whatever its neighbours do.

    Args:
        product: product with A, any square real matrix.
        right: right-hand sides, ``(batch, n)``.
        tolerance: bound of the residual, relative to the right-hand side.
        max_iterations: largest number of products.
        restart: number of directions that are kept before a restart from the current point.

    >>> rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> x, residual = gmres(lambda v: v @ rotation.T, torch.tensor([[1.0, 0.0]]), 1e-6, 10)
    >>> x.round(decimals=4), bool(residual < 1e-6)
    (tensor([[ 0., -1.]]), True)
    """
    size = item_norm(right)
    tiny = torch.finfo(size.dtype).tiny
    x, residual, taken = torch.zeros_like(right), right, 0
    while taken < max_iterations:
        length = item_norm(residual)
        running = length > tolerance * size
        if not bool(running.any()):
            break
        steps = min(restart, max_iterations - taken)
        basis = [residual * expand(1 / length.clamp_min(tiny), residual)]
        matrix = torch.zeros(len(right), steps + 1, steps, dtype=torch.float64, device=right.device)
        coefficients = matrix.new_zeros(len(right), 0)
        for k in range(steps):
            new = product(basis[k])
            taken += 1
            for _ in range(2):  # twice, because the first pass leaves rounding
                for i, old in enumerate(basis):
                    along = inner(new, old)
                    matrix[:, i, k] += along
                    new = torch.addcmul(new, expand(-along, new), old)
            height = item_norm(new)
            matrix[:, k + 1, k] = height
            # If the solution is found, no direction is left.
            basis.append(
                torch.where(
                    expand(height, new) > 0,
                    new * expand(1 / height.clamp_min(tiny), new),
                    torch.zeros_like(new),
                )
            )
            matrix[:, :, k] *= running.unsqueeze(1)
            least, left = _least_squares(matrix[:, : k + 2, : k + 1], length)
            earlier = torch.cat([coefficients, matrix.new_zeros(len(right), 1)], 1)
            coefficients = torch.where(running.unsqueeze(1), least, earlier)
            running = running & (left > 0.5 * tolerance * size)
            if not bool(running.any()):
                break
        for i in range(coefficients.shape[1]):
            x = torch.addcmul(x, expand(coefficients[:, i], x), basis[i])
        residual = right - product(x)
    return x, item_norm(residual) / size.clamp_min(tiny)


def _least_squares(matrix: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``argmin_c |length e_1 - matrix c|`` and the minimum."""
    # An item that has diverged must not stop the others, and the decomposition takes no NaN.
    matrix = torch.where(matrix.isfinite().flatten(1).all(1).view(-1, 1, 1), matrix, 0.0)
    goal = matrix.new_zeros(*matrix.shape[:2], 1)
    goal[:, 0, 0] = length.double()
    found = torch.linalg.pinv(matrix) @ goal
    return found.squeeze(2), (goal - matrix @ found).flatten(1).norm(dim=1).to(length)


#: Pairs ``(rho_i, K_i)``, the weights ``(batch,)``; no operator is the identity.
Penalties = Sequence[tuple[Tensor, LinearOperator | None]]


def solve_quadratic(
    objective: Objective, penalties: Penalties, right: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Return ``d`` and the norm of its residual, ``(batch,)``; ``right`` may be overwritten.

    Solve for the change of an iterate rather than for the next iterate: the right-hand side then is
    small, and so is its rounding, which the system amplifies by its condition number.
    """
    problem = objective.problem
    A, D = objective.linear_operator, problem.data_term
    if has_resolvent(objective, penalties):
        total = torch.stack([rho for rho, _ in penalties]).sum(0)
        precision = cast(Tensor, D.curvature(problem.y)).expand_as(total)
        return A.normal_resolvent(right, total, precision), torch.zeros_like(total)
    symbol, exact = system_symbol(objective, penalties, right)
    if symbol is not None and exact:
        return apply_multiplier(right, 1 / symbol), torch.zeros_like(objective.regularization)

    def system(v: Tensor) -> Tensor:
        result = A.adjoint(D.weighted(A(v)))
        for rho, K in penalties:
            part = v if K is None else K.adjoint(K(v))
            # Not in place: an operator may return its argument.
            result = torch.addcmul(result, expand(rho, part), part)
        return result

    # A fixed number of steps: rounding depends on the batch, and near the threshold of a test of
    # accuracy it would change the result of an item. A long run of conjugate gradients in float32
    # amplifies that rounding too.
    return _conjugate_gradients(system, right, iterations, None if symbol is None else 1 / symbol)


def is_closed(objective: Objective, penalties: Penalties) -> bool:
    """Whether `solve_quadratic` leaves no residual."""
    return (
        has_resolvent(objective, penalties)
        or system_symbol(objective, penalties, objective.problem.zeros())[1]
    )


def has_resolvent(objective: Objective, penalties: Penalties) -> bool:
    """Whether the operator solves the system by itself."""
    A, D = objective.linear_operator, objective.problem.data_term
    plain = isinstance(D, LeastSquares) and D.is_unweighted
    return plain and A.has_normal_resolvent and all(K is None for _, K in penalties)


def system_symbol(
    objective: Objective, penalties: Penalties, like: Tensor
) -> tuple[Tensor | None, bool]:
    """Return the system's eigenvalues under the FFT, or ``None``, and whether they are exact."""
    problem = objective.problem
    A, D = objective.linear_operator, problem.data_term
    known = A.normal_symbol(), D.symbol(problem.y) if isinstance(problem.y, Tensor) else None
    if like.is_complex() or known[0] is None or known[1] is None:
        return None, False
    (power, first), (weights, second) = known[0], known[1]
    half = (*like.shape[2:-1], like.shape[-1] // 2 + 1)
    if any(n not in (1, m) for n, m in zip(weights.shape[2:], half)):
        return None, False  # the measurements have another size than the image
    exact = first and second
    symbol = power.to(like) * weights.to(like)
    for rho, K in penalties:
        own = (torch.ones_like(symbol[:1, :1]), True) if K is None else K.normal_symbol()
        if own is None:
            return None, False
        symbol = symbol + expand(rho, symbol) * convert(own[0], like)
        exact = exact and own[1]
    # Frequencies that no term depends on leave the image unchanged.
    floor = 1e-6 * symbol.flatten(1).amax(1)
    return symbol.maximum(expand(floor, symbol)), exact


def apply_multiplier(x: Tensor, multiplier: Tensor) -> Tensor:
    """Multiply in the Fourier domain."""
    axes = tuple(range(2, x.ndim))

    def apply(x: Tensor, multiplier: Tensor) -> Tensor:
        return torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * multiplier, s=x.shape[2:], dim=axes)

    return map_items(apply, x, multiplier)


def _conjugate_gradients(
    system: Callable[[Tensor], Tensor], residual: Tensor, iterations: int, inverse: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the result of conjugate gradients from 0, and the norm of the residual.

    ``inverse`` preconditions in the Fourier domain; ``residual``, the right-hand side, is
    overwritten.
    """
    x = torch.zeros_like(residual)
    conditioned = residual if inverse is None else apply_multiplier(residual, inverse)
    direction, squared = conditioned.clone(), inner(residual, conditioned)
    for k in range(iterations):
        product = system(direction)
        curvature = inner(direction, product)
        alpha = quotient(squared, curvature)
        x = add_product(x, direction, expand(alpha, x))
        residual = add_product(residual, product, expand(-alpha, x))
        if k + 1 == iterations:
            break
        conditioned = residual if inverse is None else apply_multiplier(residual, inverse)
        new = inner(residual, conditioned)
        direction = add(multiply(direction, expand(quotient(new, squared), x)), conditioned)
        squared = new
    return x, item_norm(residual)


def quotient(a: Tensor, b: Tensor, where: Tensor | None = None) -> Tensor:
    """Return ``a / b`` if b is positive, or at ``where``.

    Elsewhere 0, a step that changes nothing.
    """
    usable = b > 0 if where is None else where
    return torch.where(usable, a / torch.where(usable, b, torch.ones_like(b)), torch.zeros_like(a))
