"""The objective around a point: products with its generalized Gauss-Newton matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.objective.objective import Objective


class Linearization:
    r"""``F(u + v) ~ F(u) + <g, v> + 1/2 <v, H v>`` with the generalized Gauss-Newton matrix H.

    Schraudolph 2002:

    .. math:: H = J^T \, C'' \, J + S''

    ``J`` is the derivative of image and prediction in the variable. ``C`` is the convex rest
    ``D + sum_i w_i R_i`` as a function of the two (with the Hessian of D, or its replacement
    `DataTerm.gauss_newton`). ``S`` is the energy of parameters. For a quadratic misfit of a linear
    operator H is the Hessian. For a nonlinear operator it leaves out the terms that the residual
    multiplies, and stays positive semidefinite if C and S are convex.

    Nothing is stored but the graph of one evaluation. ``J v`` is computed by reverse mode twice,
    ``J^T w`` being linear in w, because operators need a backward pass only.
    """

    def __init__(self, objective: Objective, variable: Tensor) -> None:
        D, y = objective.problem.data_term, objective.problem.y
        self._data_term, self._quadratic = D, D.is_quadratic
        with torch.enable_grad():
            self._free = variable.detach().requires_grad_(True)
            decoded = objective.decode_parameters(self._free)
            prediction = decoded.operator(decoded.x)
            self._predictions = prediction if isinstance(prediction, tuple) else (prediction,)
            self._is_tuple = isinstance(prediction, tuple)
            images = decoded.x if isinstance(decoded.x, tuple) else (decoded.x,)
            self._outputs = (*self._predictions, *images)
            self._probe = tuple(torch.zeros_like(t, requires_grad=True) for t in self._outputs)
            (self._pulled,) = torch.autograd.grad(
                self._outputs, self._free, self._probe, create_graph=True
            )
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
            self._image_slopes = _slopes(objective.prior_value(image), self._images)
            self._parameter_slopes = (
                _slopes(objective.parameter_energy(decoded), (self._free,))
                if objective.layout is not None
                else None
            )

    def product(self, v: Tensor) -> Tensor:
        """Return ``H v``."""
        with torch.enable_grad():
            every = torch.autograd.grad(self._pulled, self._probe, v, retain_graph=True)
            moved, moved_images = every[: len(self._predictions)], every[len(self._predictions) :]
            if self._quadratic:
                bent: tuple[Any, ...] = (self._data_term.weighted(moved[0]),)
            elif self._bend is not None:
                curved = self._bend(tuple(moved) if self._is_tuple else moved[0])
                bent = curved if self._is_tuple else (curved,)
            else:
                bent = torch.autograd.grad(self._slopes, self._points, moved, retain_graph=True)
            bent_images = _products(self._image_slopes, self._images, moved_images)
            (result,) = torch.autograd.grad(
                self._outputs, self._free, (*bent, *bent_images), retain_graph=True
            )
            if self._parameter_slopes is not None:
                result = result + _products(self._parameter_slopes, (self._free,), (v,))[0]
        return result.detach()


def _slopes(energy: Tensor, at: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Return the gradients in every part, with their own graph.

    None for a constant or linear energy.
    """
    if not energy.requires_grad:
        return None
    found = torch.autograd.grad(energy.sum(), at, create_graph=True, allow_unused=True)
    slopes = tuple(torch.zeros_like(t) if slope is None else slope for slope, t in zip(found, at))
    return slopes if any(slope.requires_grad for slope in slopes) else None


def _products(
    slopes: tuple[Tensor, ...] | None, at: tuple[Tensor, ...], v: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    if slopes is None:
        return tuple(torch.zeros_like(t) for t in v)
    curved = [(slope, u) for slope, u in zip(slopes, v) if slope.requires_grad]
    found = torch.autograd.grad(
        [slope for slope, _ in curved],
        at,
        [u for _, u in curved],
        retain_graph=True,
        allow_unused=True,
    )
    return tuple(
        torch.zeros_like(t) if product is None else product for product, t in zip(found, at)
    )
