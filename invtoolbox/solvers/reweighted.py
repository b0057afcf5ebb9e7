"""Iteratively reweighted least squares: robust misfits and norms as weighted squares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from invtoolbox.kernels.grids.grid_system import GridSystem
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, item_norm
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.majorizer import Majorizer
from invtoolbox.solvers.base import State, implicit_reason
from invtoolbox.solvers.duality import GradientSolver
from invtoolbox.solvers.gradient_descent import gradient_scale
from invtoolbox.solvers.linear_systems import conjugate_gradients, quotient


@dataclass(kw_only=True)
class ReweightedState(State):
    """Prediction at x, and the scale of the gradient norm."""

    prediction: Tensor  # A x
    scale: Tensor  # (batch,) scale of the gradient norm


@dataclass(frozen=True)
class Reweighted(GradientSolver):
    r"""Iteratively reweighted least squares, or majorization-minimization with quadratic majorants.

    A step finds the weights ``w`` of the misfit and of every prior at ``x``, with which
    ``1/2 <r, w r>`` has the same gradient there, and goes towards the minimizer of

    ``1/2 <A u - y, w (A u - y)> + sum_i w_i / 2 <K_i u, v_i K_i u>``

    by conjugate gradients from ``x``. It takes every data term that is quadratic or offers
    ``residual_weights`` (`Huber`, `Student`). It takes every prior that is quadratic or offers
    ``weights``, alone or behind its `split` (`SmoothedNorm`, `HuberNorm`, `HuberTV`), or has a
    ``majorizer``, a quadratic above it (`ARAP`, `Isometry`).

    If all weights majorize (``is_majorizer``) the objective never increases, however early the
    conjugate gradients stop. The iterates then converge to a stationary point, which is the
    minimizer if the objective is convex (Hunter & Lange, Am. Stat. 58, 2004; Huber 1981 for the
    weights). If some weights do not majorize (BiNI's), nothing is promised, and the answer may
    depend on ``inner_iterations``. Certificate: ``|grad F(x)|`` relative to its value at the start
    or at 0, the larger.

    If every term couples a pixel with its four neighbours only (`NormalIntegration`), the steps are
    preconditioned by the diagonal, and run in one kernel on a CPU.

    Args:
        inner_iterations: largest number of conjugate gradient steps.
        inner_tolerance: fraction of ``inner_reference`` at which their residual is small enough.
        inner_reference: ``"residual"`` is the first residual of the step. ``"scale"`` is the scale
            of the certificate, so that steps become short as the iteration settles.

    >>> import torch
    >>> import invtoolbox as it
    >>> y = torch.tensor([[[1.0, 1.1, 0.9, 1.0, 50.0]]])
    >>> A = it.operators.Matrix(torch.ones(5, 1), (1, 1), (1, 5))
    >>> problem = it.Problem(y, A, it.data_terms.Student(nu=1.0, noise_std=0.1))
    >>> round(float(it.solve(problem, solver=Reweighted(), progress=False).x), 2)
    1.0
    """

    max_iterations: int = 200
    tolerance: float = 1e-4
    inner_iterations: int = 20
    inner_tolerance: float = 0.1
    inner_reference: Literal["residual", "scale"] = "residual"

    def unsupported_reason(self, objective: Objective) -> str | None:
        if reason := implicit_reason(objective, "Reweighted"):
            return reason
        problem = objective.problem
        if not problem.is_linear or isinstance(problem.y, tuple):
            return "Reweighted needs a linear operator with its measurements in one tensor"
        if (
            not problem.data_term.is_quadratic
            and "residual_weights" not in problem.data_term.offers
        ):
            return (
                "Reweighted needs a data term that is quadratic or offers residual_weights, and "
                f"{problem.data_term!r} does not"
            )
        for _, prior in objective.terms:
            if _reweighable(prior) is None and "majorizer" not in prior.offers:
                return (
                    "Reweighted needs priors that are quadratic, offer weights, alone or behind a "
                    f"split, or a majorizer, and {prior!r} does not"
                )
        return None

    def suits(self, objective: Objective) -> bool:
        """Whether the misfit is robust.

        Norms alone are left to `KrylovMM`, and squares to `ConjugateGradient`.
        """
        return not objective.problem.data_term.is_quadratic

    def init(self, objective: Objective, start: Tensor) -> ReweightedState:
        prediction = cast(Tensor, objective.problem.operator(start))
        parts = _parts(objective, start, prediction)
        norm = item_norm(parts.gradient())
        scale = gradient_scale(objective, norm)
        value, discrepancy = objective.value_at(start, prediction)
        return ReweightedState(
            x=start,
            value=value,
            discrepancy=discrepancy,
            certificate=norm / scale,
            prediction=prediction.clone() if prediction is start else prediction,
            scale=scale,
        )

    def step(self, objective: Objective, state: ReweightedState) -> ReweightedState:
        # The majorant at x, and a step towards its minimizer (Hunter and Lange 2004).
        parts = _parts(objective, state.x, state.prediction)
        x = state.x + self._change(parts, state.scale)
        prediction = cast(Tensor, objective.problem.operator(x))
        # The gradient of F at the new x is the gradient of the majorant there.
        norm = item_norm(_parts(objective, x, prediction).gradient())
        value, discrepancy = objective.value_at(x, prediction)
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=norm / state.scale,
            prediction=prediction.clone() if prediction is x else prediction,
        )

    def _change(self, parts: _Parts, scale: Tensor) -> Tensor:
        """Minimize the quadratic majorant to the inner tolerance."""
        # (A^T w A + sum_i w_i K_i^T v_i K_i) d = -grad F(x), because the majorant touches F at x.
        right = -parts.gradient()
        size = item_norm(right)
        tolerance: float | Tensor = self.inner_tolerance
        if self.inner_reference == "scale":
            # A residual relative to the scale of the certificate.
            tolerance = quotient(tolerance * scale, size)
        system = parts.grid_system()
        # One kernel on a CPU; it takes the bound of the residual itself.
        if system is not None and right.device.type == "cpu" and not torch.is_grad_enabled():
            return system.solve(right, tolerance * size, self.inner_iterations)
        change, _ = conjugate_gradients(
            parts.product if system is None else system.product,
            right,
            tolerance,
            self.inner_iterations,
            None if system is None else system.precondition,
        )
        return change


class _Term(NamedTuple):
    """``1/2 <K u - b, v (K u - b)>``; ``None`` stands for the identity, for 1 and for 0."""

    operator: LinearOperator | None
    weights: Tensor  # broadcasts against K u; the whole weight of the term is in it
    residual: Tensor  # K x - b

    def gradient(self) -> Tensor:
        # K^T v (K x - b)
        return self._back(self.weights * self.residual)

    def product(self, u: Tensor) -> Tensor:
        # K^T v K u
        return self._back(self.weights * (u if self.operator is None else self.operator(u)))

    def grid_system(self) -> GridSystem | None:
        if self.operator is None:
            return None
        return self.operator.grid_system(self.weights.expand_as(self.residual))

    def _back(self, v: Tensor) -> Tensor:
        return v if self.operator is None else self.operator.adjoint(v)


class _Above(NamedTuple):
    """A prior by its gradient and the curvature of the quadratic above it."""

    slope: Tensor
    weight: Tensor  # (batch,)
    majorizer: Majorizer

    def gradient(self) -> Tensor:
        # w grad R(x); the quadratic above R has the same gradient at x.
        return expand(self.weight, self.slope) * self.slope

    def product(self, u: Tensor) -> Tensor:
        # w M u with the matrix M of the quadratic above the prior.
        curved = self.majorizer.product(u)
        return expand(self.weight, curved) * curved

    def grid_system(self) -> None:
        return None


class _Parts(NamedTuple):
    """The quadratic majorant at a point."""

    objective: Objective
    weights: Tensor | None  # weights of the misfit; None if it is quadratic by itself
    residual: Tensor  # A x - y
    terms: tuple[_Term | _Above, ...]

    def _weigh(self, residual: Tensor) -> Tensor:
        return (
            self.objective.problem.data_term.weighted(residual)
            if self.weights is None
            else self.weights * residual
        )

    def gradient(self) -> Tensor:
        # A^T w (A x - y) + sum_i of the terms
        A = self.objective.linear_operator
        total = A.adjoint(self._weigh(self.residual))
        for term in self.terms:
            total = total + term.gradient()
        return total

    def product(self, u: Tensor) -> Tensor:
        # (A^T w A + sum_i of the terms) u
        A = self.objective.linear_operator
        total = A.adjoint(self._weigh(A(u)))
        for term in self.terms:
            total = total + term.product(u)
        return total

    def grid_system(self) -> GridSystem | None:
        """Return the system on the grid if the misfit and every term have one."""
        # A grid system is made of weights, which a quadratic misfit does not write out.
        if self.weights is None:
            return None
        total = self.objective.linear_operator.grid_system(self.weights)
        for term in self.terms:
            system = term.grid_system()
            total = None if system is None or total is None else total + system
        return total


def _parts(objective: Objective, x: Tensor, prediction: Tensor) -> _Parts:
    D, y = objective.problem.data_term, objective.problem.y
    terms: list[_Term | _Above] = []
    for weight, prior in objective.terms:
        if "majorizer" in prior.offers:
            terms.append(_Above(prior.gradient(x), weight, prior.majorizer(x)))
            continue
        operator, function = cast(tuple[LinearOperator | None, ExplicitPrior], _reweighable(prior))
        image = x if operator is None else cast(Tensor, operator(x))
        # w_i / 2 |K x - b|^2, or the squares 1/2 <K x, v K x> with the gradient of w_i R(K x).
        if "quadratic" in prior.offers:
            target = prior.quadratic()[1]
            terms.append(
                _Term(operator, expand(weight, image), image if target is None else image - target)
            )
        else:
            weights = function.weights(image)
            terms.append(_Term(operator, weights * expand(weight, weights), image))
    return _Parts(
        objective,
        None if D.is_quadratic else D.residual_weights(prediction, y),
        prediction - y,
        tuple(terms),
    )


def _reweighable(prior: ExplicitPrior) -> tuple[LinearOperator | None, ExplicitPrior] | None:
    """Return the operator and the function that offers weights, or ``None``."""
    if "quadratic" in prior.offers:
        return prior.quadratic()[0], prior
    if "weights" in prior.offers:
        return None, prior
    if "split" in prior.offers:
        operator, function = prior.split()
        return (operator, function) if "weights" in function.offers else None
    return None
