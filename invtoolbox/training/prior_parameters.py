r"""Learn the parameters of a prior so that the answers of problems come near known images.

For the parameters theta, ``x(theta) = argmin_x h(x; theta)``, the answer of a problem with the
prior. By the implicit function theorem, the gradient of a function g of the answer is

.. math:: \nabla_\theta g = -(\partial_\theta \nabla_x h)^T q, \qquad
          \nabla_x^2 h \; q = \nabla_x g(x).

Both the answer and q are computed to an accuracy only, and `PriorParameters` bounds the error that
this causes (Ehrhardt and Roberts, IMA J. Appl. Math. 89, 2024; Salehi, Mukherjee, Roberts and
Ehrhardt, "An adaptively inexact first-order method for bilevel optimization", 2023).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from invtoolbox.catalogue.presets import prior_named
from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.loop.differentiation import gradient_with_graph
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.operators.elementary import Identity
from invtoolbox.priors.base import Prior, PriorSum
from invtoolbox.priors.inexact import Decoding, InexactPrior, Pull
from invtoolbox.priors.settings import require_bound
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import bind, inner_solve, solve
from invtoolbox.solvers import LBFGS, AdaptiveAccuracy
from invtoolbox.solvers.base import Solver, missing_gradient_reason
from invtoolbox.solvers.linear_systems import conjugate_gradients
from invtoolbox.unrolling.learned import modules_of

#: Number of Hessian products for the estimate of its smallest eigenvalue, the share of the estimate
#: that is used, and the number of products that the bound of the error of a gradient takes.
_LANCZOS, _SAFE, _BOUND = 30, 0.9, 5
#: Smallest eigenvalue of a Hessian, relative to the largest, for which bounds of errors make sense.
_LEAST_SHARE = 1e-6
#: Largest number of products of one adjoint equation.
_MOST_PRODUCTS = 1000


class PriorParameters(InexactPrior):
    """Learned parameters of a prior, decoded to the answers of problems, ``(1, values)``.

    Args:
        prior: smooth prior that holds `torch.nn.Parameter`, such as `priors.FieldsOfExperts`, or a
            sum of priors. It is never written to.
        problems: problems that are solved with weight 1, each with a batch of its own.
        solver: solver of the problems.
        accuracy: relative gradient norm at which `decode` ends.
        neumann: number of terms of the Neumann series for the inverse of the Hessian, in place of
            conjugate gradients (Lorraine, Vicol and Duvenaud, AISTATS 2020).
        curvature: lower bound of the smallest eigenvalue of the Hessians, for the bounds of errors.
            By default 0.9 of an estimate at the first answers (Lanczos), so that the bounds are
            estimates too.

    Raises:
        InputError: if the prior holds no parameter, or is not smooth.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.rand(2, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    >>> prior = PriorParameters(it.priors.FieldsOfExperts(2, 3), [problem])
    >>> prior.decode(prior.initial()).shape
    torch.Size([1, 128])
    """

    def __init__(
        self,
        prior: Prior,
        problems: Sequence[Problem],
        solver: Solver | None = None,
        accuracy: float = 1e-5,
        neumann: int | None = None,
        curvature: float | None = None,
    ) -> None:
        self.prior, self.problems = prior.as_sum(), tuple(problems)
        self.solver = LBFGS(max_iterations=1000) if solver is None else solver
        self.accuracy, self.neumann, self.curvature = accuracy, neumann, curvature
        check_range("learn_prior", "(0, inf]", accuracy=accuracy, curvature=curvature)
        check_range("learn_prior", "[1, inf)", neumann=neumann)
        if not any(True for _ in _leaves(self.prior)):
            raise InputError(
                f"there is nothing to learn: {prior!r} holds no torch.nn.Parameter that requires a "
                "gradient; priors.FieldsOfExperts does"
            )
        for term in self.prior.terms:
            if reason := missing_gradient_reason(term.prior, "learn_prior"):
                raise InputError(f"{reason}; FieldsOfExperts.total_variation() is smooth")
        if self.prior.implicit is not None:
            raise InputError(f"learn_prior works on images, and {prior!r} is an implicit prior")

    def initial(self) -> dict[str, Tensor]:
        return {name: leaf.detach()[None].clone() for name, leaf in _leaves(self.prior)}

    def prior_at(self, parameters: dict[str, Tensor]) -> PriorSum:
        """Return a copy of the prior with other parameters."""
        prior = copy.deepcopy(self.prior)
        for name, leaf in _leaves(prior):
            leaf.data = parameters[name][0].detach().clone()
        return prior

    def prepare(self, problem: Problem, solve: Any) -> Self:
        if self.curvature is not None:
            return self
        prepared, parameters = copy.copy(self), self.initial()
        decoded, low = self.decode_to(parameters, 0.1), math.inf
        for local in self._locals(parameters, decoded.x):
            ends = _ritz_values(local.hessian, local.x)
            if not bool((ends[:, 0] > _LEAST_SHARE * ends[:, 1]).all()):
                raise InputError(
                    "the problems are not strongly convex: the eigenvalues of a Hessian lie between "
                    f"about {float(ends[:, 0].min()):.1g} and {float(ends[:, 1].max()):.1g}; add "
                    "1e-3 * it.priors.Tikhonov() to the prior, or give curvature="
                )
            low = min(low, float(ends[:, 0].min()))
        prepared.curvature = _SAFE * low
        return prepared

    def decode_to(
        self, parameters: dict[str, Tensor], accuracy: float, start: Tensor | None = None
    ) -> Decoding:
        prior, images, gradients, steps = self.prior_at(parameters), [], [], 0
        starts = [None] * len(self.problems) if start is None else self._split(start)
        with torch.no_grad():
            for problem, first in zip(self.problems, starts):
                solution = inner_solve(
                    problem,
                    prior,
                    self.solver,
                    1.0,
                    initial=first,
                    tolerance=accuracy,
                    progress=False,
                )
                images.append(solution.x.flatten())
                steps += int(solution.iterations.max()) + 1
                objective = bind(problem, prior, 1.0)[0]
                gradients.append(objective.evaluate(solution.x).gradient.flatten())
        # h is strongly convex: |x - x*| <= |grad h(x)| / curvature.
        residual = torch.cat(gradients)[None]
        length = residual.norm()[None]
        error = (
            torch.full_like(length, math.inf) if self.curvature is None else length / self.curvature
        )
        return Decoding(torch.cat(images)[None], error, residual, steps)

    def pull_back(
        self,
        parameters: dict[str, Tensor],
        decoded: Decoding,
        slope: Tensor,
        accuracy: float,
        start: Tensor | None = None,
        bounded: bool = True,
    ) -> Pull:
        total = {name: torch.zeros_like(value) for name, value in parameters.items()}
        starts = [None] * len(self.problems) if start is None else self._split(start)
        bound, left, adjoints, steps = slope.new_zeros(1), slope.new_zeros(1), [], 0
        for local, right, first in zip(
            self._locals(parameters, decoded.x), self._split(slope), starts
        ):
            q, products = self._solve_adjoint(local, right, accuracy, first)
            pulled = local.pull(q)
            for name, derivative in zip(total, pulled):
                total[name] = total[name] - derivative[None]
            adjoints.append(q.flatten())
            steps += products
            if bounded:
                product = local.hessian(q)
                bound = bound + self._bound(local, right, q, product, pulled)
                left = (left.square() + (right - product).square().sum()).sqrt()
                steps += _BOUND
        unknown = torch.full_like(bound, math.inf)
        return Pull(
            total,
            bound if bounded else unknown,
            torch.cat(adjoints)[None],
            left if bounded else unknown,
            steps,
        )

    def multiply_hessian(
        self, parameters: dict[str, Tensor], decoded: Decoding, vector: Tensor
    ) -> Tensor:
        parts = zip(self._locals(parameters, decoded.x), self._split(vector))
        return torch.cat([local.hessian(v).flatten() for local, v in parts])[None]

    def _bound(
        self, local: _Local, right: Tensor, q: Tensor, product: Tensor, pulled: list[Tensor]
    ) -> Tensor:
        """Return an estimate of the error of ``pulled`` that the errors of q and x cause."""
        # How much both products change over a step that is as long as the bound of |x - x*|. The
        # error of q is that of its residual under the inverse Hessian, which is at most 1 / mu.
        mu = self._least_curvature
        shifted = local.moved(mu)
        wrong = (_length(local.pull(v)) for v in (right - product, shifted.hessian(q) - product))
        turned = _length([a - b for a, b in zip(shifted.pull(q), pulled)])
        return sum(wrong) / mu + turned

    @property
    def _least_curvature(self) -> float:
        return require_bound(self, self.curvature)

    def _solve_adjoint(
        self, local: _Local, right: Tensor, accuracy: float, start: Tensor | None
    ) -> tuple[Tensor, int]:
        """Return q and the number of products."""
        if self.neumann is not None:
            step = 1 / _largest_eigenvalue(local.hessian, local.x)
            term = q = expand(step, right) * right
            for _ in range(self.neumann):
                term = term - expand(step, term) * local.hessian(term)
                q = q + term
            return q, self.neumann + 10
        count = 0

        def product(v: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return local.hessian(v)

        first = torch.zeros_like(right) if start is None else start
        left = right if start is None else right - product(first)
        # The tolerance is relative to the right-hand side of a start at 0.
        tiny = torch.finfo(right.dtype).tiny
        goal = accuracy * item_norm(right) / item_norm(left).clamp_min(tiny)
        correction, _ = conjugate_gradients(product, left, goal, _MOST_PRODUCTS)
        return first + correction, count

    def _locals(self, parameters: dict[str, Tensor], x: Tensor) -> Iterator[_Local]:
        for problem, point in zip(self.problems, self._split(x)):
            prior = self.prior_at(parameters)
            objective = bind(problem, prior, 1.0)[0]
            yield _Local.of(objective, point, [leaf for _, leaf in _leaves(prior)])

    def _split(self, x: Tensor) -> list[Tensor]:
        shapes = [(problem.batch, *problem.image_shape) for problem in self.problems]
        sizes = [math.prod(shape) for shape in shapes]
        return [image.reshape(shape) for image, shape in zip(x[0].split(sizes), shapes)]

    def __repr__(self) -> str:
        return f"PriorParameters({self.prior!r}, {len(self.problems)} problems)"


class _Local(NamedTuple):
    """Derivatives of ``grad_x h`` at a point.

    Attributes:
        objective: h.
        x: the point, a leaf.
        gradient: ``grad_x h(x)`` with a graph to x and to the parameters.
        leaves: the parameters.
    """

    objective: Objective
    x: Tensor
    gradient: Tensor
    leaves: list[Tensor]

    @classmethod
    def of(cls, objective: Objective, x: Tensor, leaves: list[Tensor]) -> _Local:
        with torch.enable_grad():
            free = x.detach().clone().requires_grad_(True)
            return cls(objective, free, gradient_with_graph(objective, free), leaves)

    def hessian(self, v: Tensor) -> Tensor:
        """Return the product of the Hessian in x."""
        return torch.autograd.grad(self.gradient, self.x, v, retain_graph=True)[0]

    def pull(self, v: Tensor) -> list[Tensor]:
        """Return ``(d_theta grad_x h)^T v``."""
        gradients = torch.autograd.grad(
            self.gradient, self.leaves, v, retain_graph=True, allow_unused=True
        )
        return [torch.zeros_like(t) if g is None else g for g, t in zip(gradients, self.leaves)]

    def moved(self, curvature: float) -> _Local:
        """Return the derivatives a step of ``-grad h / curvature`` away, as far as x* may be."""
        return self.of(
            self.objective, self.x.detach() - self.gradient.detach() / curvature, self.leaves
        )


def _leaves(prior: PriorSum) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the names and the parameters that are learned, always in the same order."""
    for number, module in enumerate(modules_of(prior)):
        if isinstance(module, nn.Parameter):
            if module.requires_grad:
                yield f"{number}", module
        else:
            for name, leaf in module.named_parameters():
                if leaf.requires_grad:
                    yield f"{number}.{name}", leaf


def _length(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in parts]).sum().sqrt()


def _start_vector(like: Tensor) -> Tensor:
    drawn = torch.randn(like[0].shape, generator=torch.Generator().manual_seed(0))
    v = drawn.to(like).expand_as(like)
    return v / expand(item_norm(v), v)


def _largest_eigenvalue(product: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Return an estimate of the largest eigenvalue from above, ``(batch,)``: 10 power steps."""
    v = _start_vector(like)
    for _ in range(10):
        v = product(v)
        size = item_norm(v)
        v = v / expand(size, v)
    return 1.2 * size


def _ritz_values(product: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Return the smallest and the largest Ritz value of a Krylov space, ``(batch, 2)`` (Lanczos)."""
    v, before = _start_vector(like), torch.zeros_like(like)
    beta = item_norm(before)
    diagonal, next_to_it = [], []
    for _ in range(min(_LANCZOS, like[0].numel())):
        w = product(v) - expand(beta, v) * before
        alpha = inner(v, w)
        w = w - expand(alpha, v) * v
        diagonal.append(alpha)
        beta = item_norm(w)
        next_to_it.append(beta)
        before, v = v, w / expand(beta.clamp_min(torch.finfo(w.dtype).tiny), w)
    matrix = torch.diag_embed(torch.stack(diagonal, 1).double())
    if len(next_to_it) > 1:
        off = torch.diag_embed(torch.stack(next_to_it[:-1], 1).double(), 1)
        matrix = matrix + off + off.mT
    return torch.linalg.eigvalsh(matrix)[:, [0, -1]]


@dataclass(frozen=True)
class LearnedPrior:
    """Result of `learn_prior`.

    Attributes:
        prior: copy of the prior with the learned parameters; use it with weight 1.
        losses: mean of half the squared error of a value, after every step, ``(steps,)``.
        solution: solution of the outer problem, with its status and certificate.
    """

    prior: PriorSum
    losses: Tensor
    solution: Solution


def learn_prior(
    prior: Prior | str,
    problems: Problem | Sequence[Problem],
    truths: Tensor | Sequence[Tensor],
    solver: Solver | None = None,
    *,
    lower: Solver | None = None,
    accuracy: float = 1e-4,
    neumann: int | None = None,
    curvature: float | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    time_limit: float | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = True,
) -> LearnedPrior:
    r"""Minimize ``1/(2n) sum_i |x_i(theta) - truth_i|^2`` over the parameters theta of a prior.

    ``x_i(theta)`` is the solution of problem i with the prior and weight 1, n the number of values.
    This is bilevel learning: weights, smoothing and filters are those with which the solutions, not
    a denoiser, are best. Parameters are the `torch.nn.Parameter` of the prior, such as those of
    `priors.FieldsOfExperts`; logarithms keep them positive.

    Args:
        prior: smooth prior with parameters, a sum, or a name; it is not written to.
        problems: problem or problems, in units of their noise
            (``LeastSquares(noise_std=...)``); the draws of noise are fixed.
        truths: true images, one batch per problem.
        solver: method of the outer problem: `AdaptiveAccuracy` by default, `ScheduledAccuracy`, or
            any other method that follows gradients, such as ``Adam``, at a fixed accuracy.
        lower: solver of the problems; by default L-BFGS.
        accuracy: relative gradient norm of the problems for methods without an accuracy of their
            own.
        neumann: see `PriorParameters`.
        curvature: see `PriorParameters`.
        max_iterations: largest number of outer steps.
        tolerance: bound of the certificate of the outer method.
        time_limit: seconds after which learning stops.
        checkpoint: file from which an interrupted run continues.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: the prior has no parameters or is not smooth; a truth has another shape than the
            image of its problem; images are complex, or values are not finite.

    >>> import invtoolbox as it
    >>> truth = torch.zeros(2, 1, 12, 12)
    >>> truth[:, :, 3:9, 4:8] = 1
    >>> A = it.operators.Identity((1, 12, 12))
    >>> y = A.simulate(truth, noise=0.1, seed=0)
    >>> problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.1))
    >>> prior = it.priors.FieldsOfExperts.total_variation(weight=0.5)
    >>> learned = learn_prior(prior, problem, truth, max_iterations=3, progress=False)
    >>> bool(learned.losses[-1] < learned.losses[0])
    True
    """
    prior = prior_named(prior) if isinstance(prior, str) else prior
    problems = [problems] if isinstance(problems, Problem) else list(problems)
    truths = [truths] if isinstance(truths, Tensor) else list(truths)
    if len(problems) != len(truths) or not problems:
        raise InputError(f"{len(problems)} problems and {len(truths)} truths; give one per problem")
    for number, (problem, truth) in enumerate(zip(problems, truths)):
        expected_shape = (problem.batch, *problem.image_shape)
        if tuple(truth.shape) != expected_shape:
            raise InputError(
                f"the truth of problem {number} has the shape {tuple(truth.shape)}, and its images "
                f"{expected_shape}"
            )
        if problem.image_dtype.is_complex:
            raise InputError(
                f"learn_prior works on real images, and those of problem {number} are complex"
            )
        if problem.skipped is not None or not bool(truth.isfinite().all()):
            raise InputError(
                f"the measurements or the truth of problem {number} hold NaN or infinite values"
            )
    unknown = PriorParameters(prior, problems, lower, accuracy, neumann, curvature)
    y = torch.cat([truth.flatten() for truth in truths])[None]
    n = y.shape[1]
    outer = Problem(y, Identity((n,)), LeastSquares(noise_std=math.sqrt(n)))
    solution = solve(
        outer,
        unknown,
        AdaptiveAccuracy() if solver is None else solver,
        regularization=1.0,
        max_iterations=max_iterations,
        tolerance=tolerance,
        time_limit=time_limit,
        checkpoint=checkpoint,
        progress=progress,
        check=False,
    )
    return LearnedPrior(
        unknown.prior_at(solution.parameters), solution.history["objective"][:, 0], solution
    )
