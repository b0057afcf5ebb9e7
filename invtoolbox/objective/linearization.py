"""The objective around a point: products with its generalized Gauss-Newton matrix."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from invtoolbox.objective.objective import Objective
from invtoolbox.operators.algebra import Composition, Stack, stack
from invtoolbox.operators.base import LinearOperator, Operator, expand
from invtoolbox.priors.base import ExplicitPrior


class Linearization:
    r"""``F(u + v) ~ F(u) + <g, v> + 1/2 <v, H v>`` with the generalized Gauss-Newton matrix H.

    Schraudolph 2002:

    .. math:: H = J^T \, C'' \, J + S''

    ``J`` is the derivative of image and prediction in the variable. ``C`` is the convex rest
    ``D + sum_i w_i R_i`` as a function of the two (with the Hessian of D, or its replacement
    `DataTerm.gauss_newton`). ``S`` is the energy of parameters. For a quadratic misfit of a linear
    operator H is the Hessian. For a nonlinear operator it leaves out the terms that the residual
    multiplies, and stays positive semidefinite if C and S are convex.

    Nothing is stored but the derivative at the point. If the operator has it in closed form
    (`Operator.linearize`) and the variable is the image, its products are taken. Otherwise ``J v``
    is computed by reverse mode twice, ``J^T w`` being linear in w, because operators need a
    backward pass only. Quadratic priors ``1/2 |L x - b|^2`` add ``L^T L v``.
    """

    def __init__(self, objective: Objective, variable: Tensor) -> None:
        D, y = objective.problem.data_term, objective.problem.y
        self._problem = objective.problem
        self._data_term, self._quadratic = D, D.is_quadratic
        self._jacobian = (
            closed_derivative(objective.problem.operator, variable)
            if objective.layout is None
            else None
        )
        with torch.enable_grad():
            self._free = variable.detach().requires_grad_(True)
            decoded = objective.decode_parameters(self._free)
            images = decoded.x if isinstance(decoded.x, tuple) else (decoded.x,)
            prediction: Any
            if self._jacobian is not None and self._quadratic:
                prediction = ()  # neither its value nor its graph is needed
            else:
                with torch.set_grad_enabled(self._jacobian is None):
                    prediction = decoded.operator(decoded.x)
            self._predictions: tuple[Tensor, ...] = (
                prediction if isinstance(prediction, tuple) else (prediction,)
            )
            self._is_tuple = isinstance(prediction, tuple)
            if self._jacobian is None:
                self._outputs = (*self._predictions, *images)
            detached = tuple(p.detach() for p in self._predictions)
            self._bend = (
                None
                if self._quadratic
                else D.gauss_newton(detached if self._is_tuple else detached[0], y)
            )
            if not self._quadratic and self._bend is None:
                self._points = tuple(p.detach().requires_grad_(True) for p in self._predictions)
                misfit = D.value(self._points if self._is_tuple else self._points[0], y)
                self._slopes = torch.autograd.grad(misfit.sum(), self._points, create_graph=True)
            self._images = tuple(t.detach().requires_grad_(True) for t in images)
            image: Any = self._images if isinstance(decoded.x, tuple) else self._images[0]
            self._image_slopes = _slopes(_curved_energy(objective, image), self._images)
            self._squares = [
                (weight, prior.quadratic()[0])
                for weight, prior in objective.terms
                if _is_square(prior, image)
            ]
            self._parameter_slopes = (
                _slopes(objective.parameter_energy(decoded), (self._free,))
                if objective.layout is not None
                else None
            )

    def product(self, v: Tensor) -> Tensor:
        """Return ``H v``."""
        if self._jacobian is not None:
            return self._closed_product(v, self._jacobian)
        with torch.enable_grad():
            pulled, probe = self._transpose
            products = torch.autograd.grad(pulled, probe, v, retain_graph=True)
            predictions, images = (
                products[: len(self._predictions)],
                products[len(self._predictions) :],
            )
            curved = self._bent(predictions)
            curved_images = self._bent_images(images)
            (result,) = torch.autograd.grad(
                self._outputs, self._free, (*curved, *curved_images), retain_graph=True
            )
            if self._parameter_slopes is not None:
                result = result + _products(self._parameter_slopes, (self._free,), (v,))[0]
        return result.detach()

    def rows(self) -> Tensor:
        """Return the derivative of the prediction in the variable, row by row, ``(batch, m, n)``.

        The m measurements of an item need one backward pass each.
        """
        return torch.stack([self._pull(w).flatten(1) for w in self._unit_vectors()], 1)

    def curvature(self) -> Tensor:
        """Return the Hessian of the misfit in the prediction, ``(batch, m, m)``."""
        columns = []
        for w in self._unit_vectors():
            with torch.enable_grad():
                curved = self._bent(w)
            columns.append(torch.cat([column.detach().flatten(1) for column in curved], 1))
        return torch.stack(columns, 2)

    def _unit_vectors(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the change of one measurement after the other, as parts of the prediction."""
        like = self._predictions or (self._problem.y,)  # a quadratic misfit has one prediction
        for k, prediction in enumerate(like):
            for i in range(prediction[0].numel()):
                parts = [tensor.detach().new_zeros(tensor.shape) for tensor in like]
                parts[k].view(len(prediction), -1)[:, i] = 1.0
                yield tuple(parts)

    def _pull(self, w: tuple[Tensor, ...]) -> Tensor:
        """Return ``J^T w``."""
        if self._jacobian is not None:
            return self._jacobian.adjoint(w if len(w) > 1 else w[0])
        (result,) = torch.autograd.grad(self._predictions, self._free, w, retain_graph=True)
        return result

    @cached_property
    def _transpose(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``J^T w`` and the w of which it is a function."""
        with torch.enable_grad():
            probe = tuple(torch.zeros_like(t, requires_grad=True) for t in self._outputs)
            (pulled,) = torch.autograd.grad(self._outputs, self._free, probe, create_graph=True)
        return pulled, probe

    def _closed_product(self, v: Tensor, J: LinearOperator) -> Tensor:
        prediction = J(v)
        parts = prediction if isinstance(prediction, tuple) else (prediction,)
        with torch.enable_grad():
            curved = self._bent(parts)
        result = J.adjoint(curved if isinstance(prediction, tuple) else curved[0])
        return (result + self._bent_images((v,))[0]).detach()

    def _bent(self, tangent: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the Hessian of the misfit times a change of the prediction."""
        if self._quadratic:
            return (self._data_term.weighted(tangent[0]),)
        if self._bend is not None:
            curved = self._bend(tuple(tangent) if self._is_tuple else tangent[0])
            return tuple(curved) if self._is_tuple else (curved,)
        return torch.autograd.grad(self._slopes, self._points, tangent, retain_graph=True)

    def _bent_images(self, tangent: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the Hessian of the explicit priors times a change of the image."""
        if self._image_slopes is None:
            total = tuple(torch.zeros_like(t) for t in tangent)
        else:
            with torch.enable_grad():
                total = _products(self._image_slopes, self._images, tangent)
        for weight, L in self._squares:
            normal = tangent[0] if L is None else L.normal(tangent[0])
            total = (torch.addcmul(total[0], expand(weight, normal), normal),)
        return total


def closed_derivative(operator: Operator, x: Tensor) -> LinearOperator | None:
    """Return the derivative at x of an operator that has it in closed form, else ``None``.

    An operator may replace it by a `near_derivative`.
    """
    if isinstance(operator, LinearOperator):
        return operator
    if isinstance(operator, Stack):
        parts = [closed_derivative(factor, x) for factor in operator.parts]
        derivatives = [factor for factor in parts if factor is not None]
        whole = len(derivatives) == len(parts)
        return cast(LinearOperator, stack(derivatives)) if whole else None
    if isinstance(operator, Composition):
        outer, inner = operator.parts
        first = closed_derivative(inner, x)
        second = None if first is None else closed_derivative(outer, inner(x))
        return None if first is None or second is None else cast(LinearOperator, second @ first)
    if type(operator).linearize is not Operator.linearize:
        return operator.linearize(x)
    return operator.near_derivative(x)


def _is_square(prior: ExplicitPrior, image: Any) -> bool:
    return isinstance(image, Tensor) and "quadratic" in prior.offers


def _curved_energy(objective: Objective, image: Any) -> Tensor:
    """Return the energy of the explicit priors that are not quadratic."""
    total = torch.zeros_like(objective.regularization)
    for weight, prior in objective.terms:
        if not _is_square(prior, image):
            total = total + weight * prior.energy(image)
    return total


def _slopes(energy: Tensor, at: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Return the gradients in every part, with their own graph.

    None for a constant or linear energy.
    """
    if not energy.requires_grad:
        return None
    gradients = torch.autograd.grad(energy.sum(), at, create_graph=True, allow_unused=True)
    slopes = tuple(
        torch.zeros_like(t) if slope is None else slope for slope, t in zip(gradients, at)
    )
    return slopes if any(slope.requires_grad for slope in slopes) else None


def _products(
    slopes: tuple[Tensor, ...] | None, at: tuple[Tensor, ...], v: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    if slopes is None:
        return tuple(torch.zeros_like(t) for t in v)
    curved = [(slope, u) for slope, u in zip(slopes, v) if slope.requires_grad]
    products = torch.autograd.grad(
        [slope for slope, _ in curved],
        at,
        [u for _, u in curved],
        retain_graph=True,
        allow_unused=True,
    )
    return tuple(
        torch.zeros_like(t) if product is None else product for product, t in zip(products, at)
    )
