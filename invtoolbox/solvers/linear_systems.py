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
from functools import partial
from typing import cast

import torch
from torch import Tensor

from invtoolbox.core.arithmetic import add_product
from invtoolbox.core.constants import convert
from invtoolbox.core.interrupts import check_time
from invtoolbox.core.pytrees import map_items
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, inner, item_norm


def conjugate_gradients(
    A: Callable[[Tensor], Tensor],
    b: Tensor,
    tolerance: float | Tensor,
    max_iterations: int,
    M: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``A^-1 b`` by conjugate gradients from 0, and the residual ``b - A x``.

    Preconditioned conjugate gradients (Saad 2003, algorithm 9.1), item by item. An item stops once
    its residual is within the tolerance, or if A shows no positive curvature; it then keeps its
    answer, whatever its neighbours do.

    Args:
        A: product with the matrix, which is symmetric and positive semidefinite.
        b: right-hand sides, ``(batch, ...)``.
        tolerance: bound of ``|r| / |b|``, a number or one per item. With 0 every iteration is done,
            and on CUDA none waits for the host.
        max_iterations: largest number of products with A.
        M: product with a symmetric, positive approximation of the inverse of A.

    >>> conjugate_gradients(lambda v: 2 * v, torch.ones(1, 3), 1e-6, 10)[0]
    tensor([[0.5000, 0.5000, 0.5000]])
    """
    x, r = torch.zeros_like(b), b.clone()
    z = r if M is None else M(r)
    p, rz = z.clone(), inner(r, z)
    squared = rz if M is None else inner(b, b)
    goal = expand(tolerance, squared) ** 2 * squared
    running = squared > goal
    has_test = isinstance(tolerance, Tensor) or tolerance > 0
    for k in range(max_iterations):
        # On CUDA the test waits for the host.
        if has_test and (k % 10 == 0 or not b.is_cuda) and not bool(running.any()):
            break
        check_time()
        Ap = A(p)
        pAp = inner(p, Ap)
        running = running & (pAp > 0)
        # An item that does not run has alpha = 0, so its x and r keep their bits.
        alpha = quotient(rz, pAp, running)
        x = add_product(x, p, expand(alpha, x))
        r = add_product(r, Ap, expand(-alpha, r))
        if k + 1 == max_iterations:
            break  # the next direction would not be used
        z = r if M is None else M(r)
        rz_next = inner(r, z)
        beta = quotient(rz_next, rz, running & (rz > 0))
        # p = z + beta p, in the memory of p unless a graph holds it.
        p = torch.addcmul(z, expand(beta, p), p, out=None if torch.is_grad_enabled() else p)
        rz = torch.where(running, rz_next, rz)
        running = running & ((rz if M is None else inner(r, r)) > goal)
    return x, r


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
    x, r, products = torch.zeros_like(right), right, 0
    while products < max_iterations:
        beta = item_norm(r)
        running = beta > tolerance * size
        if not bool(running.any()):
            break
        # Arnoldi's relation A V_k = V_{k+1} H, with v_1 = r / beta; H is upper Hessenberg and
        # small, so it is kept in float64.
        V = [r * expand(1 / beta.clamp_min(tiny), r)]
        system = HessenbergSystem(beta)
        for k in range(min(restart, max_iterations - products)):
            check_time()
            w = product(V[k])
            products += 1
            column = [torch.zeros_like(beta, dtype=torch.float64) for _ in V]
            # Modified Gram-Schmidt, twice, because the first pass leaves rounding.
            for _ in range(2):
                for i, v in enumerate(V):
                    h = inner(w, v)
                    column[i] = column[i] + h
                    w = torch.addcmul(w, expand(-h, w), v)
            norm = item_norm(w)
            # If the solution lies in the basis, no direction is left.
            unit = w * expand(1 / norm.clamp_min(tiny), w)
            V.append(torch.where(expand(norm, w) > 0, unit, torch.zeros_like(w)))
            bound = system.append([*column, norm.double()], running).to(beta)
            # Half the tolerance, because the bound knows nothing of the rounding of V.
            running = running & (bound > 0.5 * tolerance * size)
            if not bool(running.any()):
                break
        # x = V_k c has the residual |beta e_1 - H c|.
        for c, v in zip(system.solve(), V):
            x = torch.addcmul(x, expand(c, x), v)
        r = right - product(x)
    return x, item_norm(r) / size.clamp_min(tiny)


class HessenbergSystem:
    """The least-squares problem ``min_c |beta e_1 - H c|`` of `gmres`, one per item.

    Givens rotations turn H, column by column, into an upper triangle R, and ``beta e_1`` into g,
    whose last entry has the modulus of the least residual (Saad 2003, section 6.5.3). Every
    operation works on one number per item, so that an item has the same bits alone and in a batch.

    Args:
        beta: norm of the right-hand side, ``(batch,)``.

    >>> system = HessenbergSystem(torch.tensor([2.0]))
    >>> residual = system.append([torch.tensor([3.0]), torch.tensor([4.0])], torch.tensor([True]))
    >>> residual, system.solve()[0]  # c = 2 * 3 / (9 + 16)
    (tensor([1.6000], dtype=torch.float64), tensor([0.2400], dtype=torch.float64))
    """

    def __init__(self, beta: Tensor) -> None:
        self.g = [beta.double()]
        self.columns: list[list[Tensor]] = []
        self.rotations: list[tuple[Tensor, Tensor]] = []

    def append(self, column: list[Tensor], used: Tensor) -> Tensor:
        """Append a column of H, and return the least residual, ``(batch,)``.

        Args:
            column: entries of the column down to the one below the diagonal, ``(batch,)`` each.
            used: items whose solution may use the column, ``(batch,)`` booleans. The coefficient of
                the others is 0, and so is that of an item with an infinite or undefined entry.
        """
        k, entries = len(self.columns), torch.stack(column).double()
        used = used & entries.isfinite().all(0)
        rows = list(torch.where(used, entries, 0.0).unbind(0))
        size = (entries * entries).sum(0).sqrt()
        for i, (cosine, sine) in enumerate(self.rotations):
            upper, lower = rows[i], rows[i + 1]
            rows[i], rows[i + 1] = cosine * upper + sine * lower, cosine * lower - sine * upper
        diagonal = (rows[k] * rows[k] + rows[k + 1] * rows[k + 1]).sqrt()
        # A column that depends on the earlier ones, to rounding, has the coefficient 0.
        free = used & (diagonal > (k + 2) * torch.finfo(diagonal.dtype).eps * size)
        cosine = torch.where(free, rows[k] / diagonal, 0.0)
        sine = torch.where(free, rows[k + 1] / diagonal, 1.0)
        self.rotations.append((cosine, sine))
        self.columns.append([*rows[:k], torch.where(free, diagonal, 0.0)])
        self.g[k:] = [cosine * self.g[k], -sine * self.g[k]]
        return self.g[-1].abs()

    def solve(self) -> list[Tensor]:
        """Return c, one entry ``(batch,)`` per column."""
        c: list[Tensor] = []
        for k in reversed(range(len(self.columns))):
            total = self.g[k]
            for column, entry in zip(self.columns[k + 1 :], c):
                total = total - column[k] * entry
            c.insert(0, quotient(total, self.columns[k][k]))
        return c


#: Pairs ``(rho_i, K_i)``, the weights ``(batch,)``; no operator is the identity.
Penalties = Sequence[tuple[Tensor, LinearOperator | None]]


def solve_quadratic(
    objective: Objective,
    penalties: Penalties,
    right: Tensor,
    iterations: int,
    precondition: bool = True,
    tolerance: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return ``d`` and the norm of its residual, ``(batch,)``.

    Solve for the change of an iterate rather than for the next iterate: the right-hand side then is
    small, and so is its rounding, which the system amplifies by its condition number.

    Args:
        objective: the objective, whose data term is quadratic.
        penalties: weights and operators of the quadratic penalties.
        right: right-hand side.
        iterations: largest number of conjugate gradient steps, if the system has no closed solution.
        precondition: use the inverse of the nearest periodic convolution, if there is one. Many
            steps then converge faster. After a few steps, errors at the border, where the blur is
            not periodic, are larger than without it, by up to the largest eigenvalue over the least
            weight.
        tolerance: relative residual at which the steps of an item end; with 0 all are taken.
    """
    problem = objective.problem
    A, D = objective.linear_operator, problem.data_term
    if has_resolvent(objective, penalties):
        # With W = precision I and every K_i = I the matrix is precision A^T A + sum_i rho_i.
        total = torch.stack([rho for rho, _ in penalties]).sum(0)
        precision = cast(Tensor, D.curvature(problem.y)).expand_as(total)
        return A.normal_resolvent(right, total, precision), torch.zeros_like(total)
    symbol, exact = system_symbol(objective, penalties, right)
    if symbol is not None and exact:
        # The Fourier transform diagonalizes every term of the matrix.
        return apply_multiplier(right, 1 / symbol), torch.zeros_like(objective.regularization)

    def system(v: Tensor) -> Tensor:
        product = A.adjoint(D.weighted(A(v)))
        for rho, K in penalties:
            KTKv = v if K is None else K.adjoint(K(v))
            # Not in place: an operator may return its argument.
            product = torch.addcmul(product, expand(rho, KTKv), KTKv)
        return product

    M = None
    if symbol is not None and precondition:
        M = partial(apply_multiplier, multiplier=1 / symbol)
    # With tolerance 0 the number of steps is fixed: on a GPU rounding depends on the batch, and may
    # change the step at which an item ends.
    d, residual = conjugate_gradients(system, right, tolerance, iterations, M)
    return d, item_norm(residual)


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
    of_operator = A.normal_symbol()
    of_misfit = D.symbol(problem.y) if isinstance(problem.y, Tensor) else None
    if like.is_complex() or of_operator is None or of_misfit is None:
        return None, False
    # A^T W A has the eigenvalues |A^|^2 W^ if both are periodic convolutions. A real image has half
    # a spectrum.
    (power, operator_exact), (weights, misfit_exact) = of_operator, of_misfit
    half = (*like.shape[2:-1], like.shape[-1] // 2 + 1)
    if any(n not in (1, m) for n, m in zip(weights.shape[2:], half)):
        return None, False  # the measurements have another size than the image
    exact = operator_exact and misfit_exact
    symbol = power.to(like) * weights.to(like)
    for rho, K in penalties:
        of_penalty = (torch.ones_like(symbol[:1, :1]), True) if K is None else K.normal_symbol()
        if of_penalty is None:
            return None, False
        symbol = symbol + expand(rho, symbol) * convert(of_penalty[0], like)
        exact = exact and of_penalty[1]
    # Frequencies that no term depends on leave the image unchanged.
    floor = 1e-6 * symbol.flatten(1).amax(1)
    return symbol.maximum(expand(floor, symbol)), exact


def apply_multiplier(x: Tensor, multiplier: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """Multiply in the Fourier domain.

    Args:
        x: images ``(batch, channel, *space)``.
        multiplier: factors of half a spectrum of that size, or of larger sizes.
        sizes: larger sizes, to which the images are continued by zeros.
    """
    # F^-1 diag(multiplier) F, over the axes of space.
    axes, inside = tuple(range(2, x.ndim)), tuple(slice(n) for n in x.shape[2:])
    lengths = x.shape[2:] if sizes is None else sizes

    def apply(x: Tensor, multiplier: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(x, s=lengths, dim=axes) * multiplier
        return torch.fft.irfftn(spectrum, s=lengths, dim=axes)[(..., *inside)]

    return map_items(apply, x, multiplier)


def enlarge_symbol(symbol: Tensor, sizes: Sequence[int], larger: Sequence[int]) -> Tensor:
    """Return the eigenvalues of the same convolution on a larger periodic grid.

    Args:
        symbol: eigenvalues, half a spectrum ``(..., *space)`` of images of ``sizes``.
        sizes: number of pixels along every axis.
        larger: that of the larger grid.

    >>> second_difference = lambda n: 2 - 2 * torch.cos(2 * torch.pi * torch.arange(n // 2 + 1) / n)
    >>> larger = enlarge_symbol(second_difference(7), (7,), (8,))
    >>> torch.allclose(larger, second_difference(8), atol=1e-6)
    True
    """
    axes = tuple(range(-len(sizes), 0))
    kernel = torch.fft.irfftn(symbol, s=tuple(sizes), dim=axes)
    for axis, n, more in zip(axes, sizes, larger):
        # A kernel shorter than the grid lies around pixel 0, at both ends of every axis.
        right, left = kernel.tensor_split([n - n // 2], axis)
        gap = list(kernel.shape)
        gap[axis] = more - n
        kernel = torch.cat([right, kernel.new_zeros(gap), left], axis)
    return torch.fft.rfftn(kernel, dim=axes).real


def quotient(a: Tensor, b: Tensor, where: Tensor | None = None) -> Tensor:
    """Return ``a / b`` if b is positive and no subnormal number, or at ``where``.

    Elsewhere 0, a step that changes nothing. A subnormal number has few digits, and ``a / b`` may
    overflow: conjugate gradients divide by one some steps after their residual has vanished.
    """
    usable = b >= torch.finfo(b.dtype).tiny if where is None else where
    # The inner `where` keeps 0 / 0 out of the derivative, which would be NaN for both branches.
    return torch.where(usable, a / torch.where(usable, b, torch.ones_like(b)), torch.zeros_like(a))


def relative(length: Tensor, scale: Tensor) -> Tensor:
    """Return ``length / scale``; a scale of 0 counts as the smallest positive number."""
    return length / scale.clamp_min(torch.finfo(scale.dtype).tiny)
