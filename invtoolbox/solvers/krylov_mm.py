"""Majorization-minimization in a generalized Krylov subspace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from invtoolbox.core.pytrees import align
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, inner, item_norm
from invtoolbox.priors.composed import ComposedPrior
from invtoolbox.priors.images.constraints import intensity_range
from invtoolbox.priors.images.smoothed_norm import SmoothedNorm, as_smoothed_norm
from invtoolbox.solvers.base import State, implicit_reason
from invtoolbox.solvers.duality import GradientSolver
from invtoolbox.solvers.linear_systems import quotient, relative
from invtoolbox.solvers.subspace import SubspaceProblem, discrepancy_weight, minimize, times

#: Largest weight, as a multiple of the largest eigenvalue of ``A^T W A`` over the mean one of
#: ``L^T L``. At 10 % noise and a graph made from noise the weight was 1e4; if more is needed, the
#: prior agrees with all measurements, and no weight raises the discrepancy to its target.
_LARGEST = 2e4
_SMALLEST = 1e-13  # of the largest
#: Below this noise level the certificate is relative to the noise: the gradient of the data term is
#: then small long before the measurements are fitted to the discrepancy principle.
_USUAL_NOISE = 0.02


@dataclass(kw_only=True)
class KrylovState(State):
    """The basis of the Krylov subspace, its products with A and L, and the problem in it."""

    regularization: Tensor  # (batch,)
    target: Tensor  # (batch,) the discrepancy to meet; NaN if the weight is fixed
    smoothing: Tensor  # (batch,) smoothing of a prior that is not smooth by itself
    basis: Tensor  # (batch, basis_size, n) orthonormal rows V
    measured: Tensor  # (batch, basis_size, m) A V
    transformed: Tensor  # (batch, basis_size, l) L V
    subspace: SubspaceProblem  # the problem in the basis, float64
    previous: Tensor  # (batch, basis_size) the coefficients of the last iterate
    size: Tensor  # (batch,) vectors in the basis
    data_gradient: Tensor  # (batch, n) A^T W y
    data_diagonal: Tensor  # (batch,) the number for A^T W A in the preconditioner
    strictness: Tensor  # (batch,) divisor of the certificate, at most 1
    largest: Tensor  # (batch,) majorant's weight above which the prior holds almost exactly
    prior_diagonal: Tensor  # (batch, n) of L^T L, or (batch, 1) of zeros


@dataclass(frozen=True)
class KrylovMM(GradientSolver):
    r"""The l2-lq method: MM with a fixed quadratic majorant, in a generalized Krylov subspace.

    Minimizes ``1/2 <A x - y, W (A x - y)> + lambda sum_i phi((L x)_i)`` for a quadratic data term
    and one prior that is a (smoothed) norm of a linear operator: total variation, `GraphLaplacian`,
    wavelet l1, Tikhonov. With ``c >= phi''`` the majorant at ``u_k = L x_k`` is
    ``c/2 |L x - (u_k - phi'(u_k) / c)|^2``, whose matrix never changes. A step

    1. minimizes data term plus majorant over the span of V exactly, a problem of ``basis_size``
       unknowns whose matrices ``(A V)^T W (A V)`` and ``(L V)^T (L V)`` grow by one column per
       step;
    2. adds the preconditioned gradient at the new point to V, orthogonalized twice: one product
       with each of A, A^T, L and L^T.

    If the weight follows the discrepancy principle, it is found inside step 1, by Newton's method
    on the problem in the subspace, so a solve costs no more than one with a known weight. The
    preconditioner is the diagonal of ``A^T W A + lambda c L^T L``, which a `GraphLaplacian` knows
    (its pixels differ by orders of magnitude); the published method has none, and needs several
    times as many products. A full basis is restarted with ``x_k`` and ``x_k - x_{k-1}``, which for
    a quadratic objective loses nothing (it is what conjugate gradients keep).

    For a fixed weight the objective never increases, and the iterates converge to a stationary
    point for every phi with bounded curvature. They converge to the minimizer if it is convex, that
    is for ``q >= 1`` and null spaces of A and L with nothing but 0 in common (Huang, Lanza, Morigi,
    Reichel & Sgallari, BIT Numer. Math. 57, 2017). Certificate: the gradient of the objective at
    the current weight, relative to the gradient of the data term at 0, both in the norm of the
    inverse preconditioner. If the noise level n is known and below 2 % of the measurements, the
    certificate is multiplied by 0.02 / n, so that it is measured against the noise.

    Source: Lanza, Morigi, Reichel & Sgallari, SIAM J. Sci. Comput. 37 (2015).

    Args:
        basis_size: size at which the basis is restarted.
        smoothing: smoothing of a prior that is not smooth (TV), as a fraction of the intensity
            range of the image; a prior with a smoothing of its own (`GraphLaplacian`,
            `SmoothedNorm`) keeps it.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[0.0, 0.0, 9.0, 9.0]]]), it.operators.Identity((1, 4)))
    >>> it.solve(
    ...     problem, it.priors.TotalVariation(), KrylovMM(smoothing=1e-2), 1.0, progress=False
    ... ).x.round(decimals=1)
    tensor([[[0.5000, 0.5000, 8.5000, 8.5000]]])
    """

    max_iterations: int = 500
    tolerance: float = 5e-4
    basis_size: int = 20
    smoothing: float = 0.1

    certificate_name: ClassVar[str] = "relative gradient norm, preconditioned"
    safety: ClassVar[float] = 4.0  # its steps are minimizers over a basis

    def unsupported_reason(self, objective: Objective) -> str | None:
        if reason := implicit_reason(objective, "KrylovMM"):
            return reason
        problem = objective.problem
        if not problem.is_linear or not problem.data_term.is_quadratic:
            return "KrylovMM needs a linear operator and a quadratic data term"
        if isinstance(problem.y, tuple) or problem.y0.is_complex():
            return "KrylovMM works on real measurements in one tensor"
        if len(objective.terms) != 1:
            return f"KrylovMM takes one explicit prior, and here are {len(objective.terms)}"
        prior = objective.terms[0][1]
        if _parts(objective, torch.ones(1)) is None:
            return (
                f"KrylovMM needs a prior that is a norm of a linear operator, and {prior!r} is not"
            )
        return None

    def suits(self, objective: Objective) -> bool:
        """Whether the prior is smooth by itself.

        Smoothing a prior changes the answer, so a user has to request it.
        """
        prior = objective.terms[0][1]
        return prior.smooth and (
            "quadratic" not in prior.offers or objective.discrepancy_target is not None
        )

    def remark(self, objective: Objective) -> str | None:
        prior = objective.terms[0][1]
        if prior.smooth:
            return None
        return (
            f"KrylovMM minimized another objective: {prior!r} is smoothed at "
            f"{self.smoothing:g} of the intensity range (smoothing=); PDHG minimizes the "
            "objective itself"
        )

    def meets_target(self, objective: Objective) -> bool:
        return objective.discrepancy_target is not None

    def has_gap(self, objective: Objective) -> bool:
        return super().has_gap(objective) and not self.meets_target(objective)

    # -- life --------------------------------------------------------------------------------------

    def coarse(self, tolerance: float) -> tuple[KrylovMM, float]:
        # A solve that ranks weights does not know the noise level, which makes the certificate
        # strict; a loose one is met at once by every small weight.
        return self, min(tolerance, self.tolerance)

    def init(self, objective: Objective, start: Tensor) -> KrylovState:
        problem = objective.problem
        A, D = objective.linear_operator, problem.data_term
        batch, device = start.shape[0], start.device
        data_gradient = A.adjoint(D.weighted(problem.y))
        # The intensity range is read off the step of steepest descent from 0, t g with g = A^T W y
        # and t = <A g, W y> / <A g, W A g>.
        image = A(data_gradient)
        step = quotient(inner(image, D.weighted(problem.y)), inner(image, D.weighted(image)))
        smoothing = self.smoothing * intensity_range(data_gradient * expand(step, start))
        parts = _parts(objective, smoothing)
        assert parts is not None
        guess = getattr(objective.terms[0][1], "guess", None)
        vectors = [
            t.expand_as(start) for t in (guess, start, data_gradient) if isinstance(t, Tensor)
        ]  # items may share a guess
        size = max(self.basis_size, len(vectors) + 2)
        u = parts.transform(start)
        target = (
            objective.nan()
            if objective.discrepancy_target is None
            else objective.discrepancy_target(objective).to(start).expand(batch).clone()
        )
        data_diagonal, largest = _scales(A, D, parts, data_gradient, image)
        state = KrylovState(
            x=start,
            value=objective.nan(),
            discrepancy=objective.nan(),
            certificate=torch.full_like(objective.nan(), torch.inf),
            regularization=objective.regularization.clone(),
            target=target,
            smoothing=smoothing,
            basis=start.new_zeros(batch, size, start[0].numel()),
            measured=start.new_zeros(batch, size, problem.y[0].numel()),
            transformed=start.new_zeros(batch, size, u[0].numel()),
            subspace=SubspaceProblem.zeros(batch, size, device),
            previous=torch.zeros(batch, size, dtype=torch.float64, device=device),
            size=torch.zeros(batch, dtype=torch.long, device=device),
            data_gradient=data_gradient.flatten(1),
            data_diagonal=data_diagonal,
            strictness=_strictness(target, D, problem.y),
            largest=largest,
            prior_diagonal=_prior_diagonal(parts, start),
        )
        residual, slope = _evaluate(objective, parts, state, A(start), u)
        # The first basis spans the guess of the prior, the start and the back-projection. The start
        # lies in it, so its coefficients are V^T start.
        for vector in vectors:
            _expand(objective, parts, state, vector.flatten(1), residual, slope)
        k = len(vectors)
        state.subspace.coefficients[:, :k] = _against(state.basis, start.flatten(1), k).double()
        state.previous.copy_(state.subspace.coefficients)
        return state

    def step(self, objective: Objective, state: KrylovState) -> KrylovState:
        parts = _parts(objective, state.smoothing)
        assert parts is not None
        k = int(state.size[0])  # the bases of all items grow together
        # 1. y = argmin 1/2 |A V y - b|_W^2 + eta/2 |L V y - w|^2, for the change of y.
        small = state.subspace.first(k)
        eta = self._majorant_weight(objective, parts, state, small)
        step = minimize(small, eta)
        state.previous[:, :k] = small.coefficients
        small.coefficients += step
        # x = V y, A x = (A V) y and L x = (L V) y, without a product with an operator.
        x = _combine(small.coefficients, state.basis).view_as(state.x)
        prediction = _combine(small.coefficients, state.measured).view_as(objective.problem.y)
        u = _combine(small.coefficients, state.transformed).view(-1, *parts.range_shape)
        weight = (eta / (parts.weight * parts.curvature).double()).to(x.dtype.to_real())
        new = replace(state, x=x, regularization=weight)
        residual, slope = _evaluate(objective, parts, new, prediction, u)
        # 2. V <- [V, P grad F(x)], P the preconditioner.
        gradient = _gradient(objective.linear_operator, parts, new, residual, slope)
        direction = _precondition(new, eta, gradient)
        if k == state.basis.shape[1]:
            _restart(new)
        _expand(objective, parts, new, direction, residual, slope)
        return new

    def _majorant_weight(
        self, objective: Objective, parts: _Parts, state: KrylovState, small: SubspaceProblem
    ) -> Tensor:
        """Return the weight of the majorant's ``|L x - w|^2 / 2``, ``(batch,)``.

        It is ``eta = lambda * weight * curvature``.
        """
        # lambda w sum_i phi(u_i) has the majorant lambda w c/2 |u - (u_k - phi'(u_k) / c)|^2.
        unit = (parts.weight * parts.curvature).double()
        if objective.discrepancy_target is None:
            return objective.regularization.double() * unit
        target, high = state.target.double(), state.largest.double()
        first = state.regularization.double() * unit
        return discrepancy_weight(small, target, first, _SMALLEST * high, high)


# -- the prior -------------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """The prior as ``weight * sum_i phi((L x - shift)_i)``.

    The curvature of phi is at most ``curvature``.
    """

    weight: Tensor  # (batch,) weight in the sum of priors, without the regularization
    operator: LinearOperator | None  # None for the identity
    norm: SmoothedNorm
    shift: Tensor | None
    curvature: Tensor  # (batch,)
    range_shape: tuple[int, ...]

    def transform(self, x: Tensor) -> Tensor:
        return x if self.operator is None else self.operator(x)

    def back(self, u: Tensor) -> Tensor:
        return u if self.operator is None else self.operator.adjoint(u)


def _parts(objective: Objective, smoothing: Tensor) -> _Parts | None:
    term = objective.prior.terms[0]
    like, shape = objective.regularization, objective.problem.image_shape
    weight = torch.as_tensor(term.weight, dtype=like.dtype, device=like.device).expand_as(like)
    shift: Tensor | None = None
    norm: SmoothedNorm | None
    operator: LinearOperator | None
    if isinstance(term.prior, ComposedPrior) and isinstance(term.prior.prior, SmoothedNorm):
        operator, norm = term.prior.operator, term.prior.prior
    elif "quadratic" in term.prior.offers:  # 1/2 |L x - shift|^2
        operator, shift = term.prior.quadratic()
        norm = SmoothedNorm(2.0)  # |u|^2, twice the square of the prior
        weight = weight / 2
    elif "split" in term.prior.offers:
        operator, simple = term.prior.split()
        norm = as_smoothed_norm(simple, smoothing)
    else:
        operator, norm = None, as_smoothed_norm(term.prior, smoothing)
    if norm is None:
        return None
    if operator is not None:
        # A channelwise operator takes the number of channels from the image.
        range_shape = cast(tuple[int, ...], operator.range_shape)
        shape = (shape[0], *range_shape[1:]) if operator.channelwise else range_shape
    return _Parts(weight, operator, norm, shift, norm.curvature(like).expand_as(like), shape)


def _prior_diagonal(parts: _Parts, x: Tensor) -> Tensor:
    """Return the diagonal of ``L^T L``, ``(batch, n)``.

    ``(batch, 1)`` of zeros if it is unknown or constant.
    """
    # Without a diagonal the prior takes no part in the preconditioner.
    diagonal = parts.operator.normal_diagonal() if parts.operator is not None else None
    return (
        x.new_zeros(x.shape[0], 1) if diagonal is None else diagonal.to(x).expand_as(x).flatten(1)
    )


def _scales(
    A: LinearOperator, D: DataTerm, parts: _Parts, data_gradient: Tensor, image: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the number for ``A^T W A`` in the preconditioner, and the largest weight.

    Both have the shape ``(batch,)``; ``image`` is ``A data_gradient``.

    The first is the geometric mean of the mean diagonal of ``A^T W A`` (from products with noise)
    and its largest eigenvalue (from the back-projection): the middle of a spectrum that falls over
    orders of magnitude. On CT either end alone is slower. The second bounds the weight of the
    majorant.
    """
    signs = torch.randint(
        0, 2, data_gradient.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.int8
    )
    noise = (2 * signs - 1).to(data_gradient).expand_as(data_gradient).contiguous()
    noisy, rough = A(noise), parts.transform(noise)
    # tr(A^T W A) / n and tr(L^T L) / n from one vector of random signs (Hutchinson 1990), and the
    # Rayleigh quotient of g = A^T W y, which is near the largest eigenvalue.
    mean = inner(noisy, D.weighted(noisy)) / noise[0].numel()
    roughness = inner(rough, rough) / noise[0].numel()
    highest = quotient(inner(image, D.weighted(image)), inner(data_gradient, data_gradient))
    scale, largest = (mean * highest).clamp_min(0).sqrt(), _LARGEST * quotient(highest, roughness)
    ones = torch.ones_like(scale)
    return torch.where(scale > 0, scale, ones), torch.where(largest > 0, largest, ones)


def _strictness(target: Tensor, D: DataTerm, y: Tensor) -> Tensor:
    """Return noise over signal in units of `_USUAL_NOISE`, at most 1, ``(batch,)``.

    1 if neither the target of the discrepancy nor the noise level is known.
    """
    # The discrepancy of 0 is the norm of the measurements, in the unit of the target.
    signal = D.discrepancy(torch.zeros_like(y), y)
    expected = D.expected_discrepancy(y)
    if expected is not None:
        target = torch.where(target.isnan(), expected.to(target), target)
    noise = quotient(target, _USUAL_NOISE * signal)
    return torch.where(noise > 0, noise, torch.ones_like(noise)).clamp(1e-3, 1.0)


# -- the basis -------------------------------------------------------------------------------------


def _evaluate(
    objective: Objective, parts: _Parts, state: KrylovState, prediction: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Set value and discrepancy at ``state.x``, and return ``W (A x - y)`` and ``phi'(L x)``."""
    D, y = objective.problem.data_term, objective.problem.y
    if parts.shift is not None:
        u = u - parts.shift
    state.discrepancy = D.discrepancy(prediction, y)
    # F = 1/2 |A x - y|_W^2 + lambda w sum_i phi((L x - shift)_i)
    energy = parts.norm.energy(u)
    state.value = D.value(prediction, y) + state.regularization * parts.weight * energy
    state.subspace.squared.copy_(state.discrepancy.double().square())
    return D.weighted(prediction - y), parts.norm.gradient(u)


def _gradient(
    A: LinearOperator, parts: _Parts, state: KrylovState, residual: Tensor, slope: Tensor
) -> Tensor:
    """Return the gradient of the objective at the current weight, ``(batch, n)``."""
    # A^T W (A x - y) + lambda w L^T phi'(L x)
    pull = parts.back(slope)
    weight = expand(state.regularization * parts.weight, pull)
    return torch.addcmul(A.adjoint(residual), weight, pull).flatten(1)


def _precondition(state: KrylovState, eta: Tensor, gradient: Tensor) -> Tensor:
    """Return the preconditioned gradient, and set the certificate.

    The certificate is the norm of the gradient relative to the norm of the data term's gradient at
    0.
    """
    # P^-1 = data_diagonal + eta diag(L^T L); |g|_P / |g_0|_P with g_0 = A^T W y.
    diagonal = state.data_diagonal.view(-1, 1)
    inverse = 1 / torch.addcmul(diagonal, eta.to(gradient).view(-1, 1), state.prior_diagonal)
    direction = gradient * inverse
    reference = inner(state.data_gradient, state.data_gradient * inverse)
    state.certificate = relative(inner(gradient, direction), reference).sqrt() / state.strictness
    return direction


def _expand(
    objective: Objective,
    parts: _Parts,
    state: KrylovState,
    direction: Tensor,
    residual: Tensor,
    slope: Tensor,
) -> None:
    """Append a direction, orthogonalized twice, and extend the subspace problem.

    A direction that depends on the basis becomes 0.
    """
    A, D = objective.problem.operator, objective.problem.data_term
    k = int(state.size[0])
    tiny = torch.finfo(direction.dtype).tiny
    v = direction / item_norm(direction).clamp_min(tiny).unsqueeze(1)
    # Classical Gram-Schmidt, v <- v - V V^T v, twice.
    for _ in range(2 if k else 0):
        v = v - _combine(_against(state.basis, v, k), state.basis)
    norm = item_norm(v).unsqueeze(1)
    v = torch.where(
        norm > 50 * torch.finfo(v.dtype).eps, v / norm.clamp_min(tiny), torch.zeros_like(v)
    )
    image = v.view_as(state.x)
    measured, transformed = A(image), parts.transform(image)
    state.basis[:, k] = v
    state.measured[:, k] = measured.flatten(1)
    state.transformed[:, k] = transformed.flatten(1)
    # One more row and column of (A V)^T W (A V) and (L V)^T (L V), and new gradients in V.
    small = state.subspace
    for rows, matrix, column, gradient, force in (
        (state.measured, small.data_matrix, D.weighted(measured), small.data_gradient, residual),
        (state.transformed, small.prior_matrix, transformed, small.prior_gradient, slope),
    ):
        matrix[:, k, : k + 1] = matrix[:, : k + 1, k] = _against(
            rows, column.flatten(1), k + 1
        ).double()
        gradient[:, : k + 1] = _against(rows, force.flatten(1), k + 1).double()
    small.prior_gradient[:, : k + 1] /= parts.curvature.double().unsqueeze(1)
    small.coefficients[:, k] = state.previous[:, k] = 0
    state.size += 1


def _restart(state: KrylovState) -> None:
    """Keep the span of ``x_k`` and ``x_k - x_{k-1}``.

    Their products with A and L are combinations of known products.
    """
    current, change = state.subspace.coefficients, state.subspace.coefficients - state.previous
    # Gram-Schmidt in the coefficients, because V is orthonormal. If x has not changed, the second
    # vector is 0.
    units: list[Tensor] = []
    for vector in (current, change):
        for unit in units * 2:
            vector = vector - (vector * unit).sum(1, keepdim=True) * unit
        length = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        small = length <= 1e-10 * torch.linalg.vector_norm(current, dim=1, keepdim=True)
        units.append(torch.where(small, torch.zeros_like(vector), relative(vector, length)))
    rotation = torch.stack(units, 2)
    for rows in (state.basis, state.measured, state.transformed):
        rows[:, :2] = torch.stack([_combine(unit, rows) for unit in units], 1)
    previous = times(rotation.mT, state.previous)
    state.subspace.change_basis(rotation, current.shape[1])
    state.previous.zero_()
    state.previous[:, :2] = previous
    state.size.fill_(2)


def _combine(coefficients: Tensor, rows: Tensor) -> Tensor:
    """Return ``sum_k coefficients_k rows_k``, ``(batch, n)``, over as many rows as coefficients."""
    # Item by item: a batched product is many times slower for shapes this thin, and its rounding
    # depends on the batch.
    k = coefficients.shape[1]
    return torch.stack(
        [torch.mv(align(row[:k]).T, align(c)) for row, c in zip(rows, coefficients.to(rows.dtype))]
    )


def _against(rows: Tensor, vector: Tensor, k: int) -> Tensor:
    """Return ``<rows_j, vector>`` for the first k rows, ``(batch, k)``."""
    return torch.stack([torch.mv(align(row[:k]), align(v)) for row, v in zip(rows, vector)])
