"""Parameters of the operator that are found together with the image.

Examples are angles, shifts, poses, a kernel, coil maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from invtoolbox.operators.base import Operator, expand, inner
from invtoolbox.priors.base import PriorSum
from invtoolbox.problem import Problem


@dataclass(frozen=True)
class Unknowns:
    """The unknown parameters ``theta`` of an operator, one set per item.

    A solver optimizes ``u`` in ``theta = start + scale * u``, so that a unit of ``u`` changes the
    misfit as much as a unit of ``x`` does. Angles in radians and images in attenuation differ by
    orders of magnitude, and a gradient method would change only one of them. An operator may know
    the scale of a parameter itself (``fixed_scales``).

    Attributes:
        starts: start of each parameter, ``(batch, ...)``.
        scales: scale of each parameter, ``(batch,)``.
        priors: explicit priors of the parameters, with the weights as they were written.
    """

    starts: dict[str, Tensor]
    scales: dict[str, Tensor]
    priors: dict[str, PriorSum]

    @classmethod
    def of(cls, problem: Problem, x: Tensor) -> Unknowns:
        """Return the unknowns of a problem, with scales that fit near the image ``x``."""
        every = problem.operator.item_parameters(problem.batch)
        starts = {name: every[name].detach() for name in problem.unknown}
        like = problem.y0.real if problem.y0.is_complex() else problem.y0
        fixed = problem.operator.fixed_scales()
        scales = {
            name: like.new_full((problem.batch,), fixed[name])
            if name in fixed
            else _scale(problem, starts, name, x).to(like)
            for name in starts
        }
        return cls(starts, scales, dict(problem.unknown))

    def zeros(self, like: Tensor) -> dict[str, Tensor]:
        """Return ``u`` at the start."""
        return {
            name: torch.zeros_like(start, dtype=like.dtype, device=like.device)
            for name, start in self.starts.items()
        }

    def values(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``theta`` of ``u``."""
        return {
            name: start + expand(self.scales[name], start) * _as_real(parameters[name], start)
            for name, start in self.starts.items()
        }

    def operator(self, operator: Operator, parameters: dict[str, Tensor]) -> Operator:
        return operator.with_parameters(**self.values(parameters))

    def energy(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return the sum of the parameters' priors, ``(batch,)``."""
        values = self.values(parameters)
        first = next(iter(self.scales.values()))
        return sum(
            (self.priors[name].energy(value).to(first) for name, value in values.items()),
            torch.zeros_like(first),
        )

    def select(self, index: Tensor) -> Unknowns:
        def pick(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.index_select(0, index) for name, tensor in tensors.items()}

        return Unknowns(
            pick(self.starts),
            pick(self.scales),
            {name: prior.select(index) for name, prior in self.priors.items()},
        )


def _as_real(u: Tensor, start: Tensor) -> Tensor:
    """Return the real part of a parameter that is packed with a complex image.

    Next to a complex image every parameter is packed as complex; the imaginary part of a real
    parameter changes nothing.
    """
    return u.real if u.is_complex() and not start.is_complex() else u


def _scale(problem: Problem, starts: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Return ``|A x| / |x|`` over ``|J v| / |v|``, with a random direction v.

    J is the derivative of ``A x`` in the parameter.
    """
    operator, start = problem.operator, starts[name]
    v = (
        torch.randn(start.shape[1:], generator=Generator().manual_seed(0), dtype=torch.float64)
        .to(start)
        .expand_as(start)
    )
    with torch.enable_grad():
        free = start.clone().requires_grad_(True)
        prediction = operator.with_parameters(**{**starts, name: free})(x)
        parts = prediction if isinstance(prediction, tuple) else (prediction,)
        # Forward mode by reverse mode twice, as kernels have a backward pass only: J^T w is linear
        # in w, and its derivative is J v.
        w = tuple(torch.zeros_like(p, requires_grad=True) for p in parts)
        (pulled,) = torch.autograd.grad(parts, free, w, create_graph=True)
        derivative = torch.autograd.grad(pulled, w, v)
    prediction_size = inner(tuple(p.detach() for p in parts), tuple(p.detach() for p in parts))
    derivative_size, size, length = (
        inner(derivative, derivative),
        inner(x, x),
        inner(v, v).to(prediction_size),
    )
    usable = (derivative_size > 0) & (prediction_size > 0) & (size > 0)
    ratio = (prediction_size * length) / torch.where(
        usable, size * derivative_size, torch.ones_like(derivative_size)
    )
    return torch.where(usable, ratio, torch.ones_like(ratio)).sqrt()
