"""Images warped by a displacement field, and the displacement of a stationary velocity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator, count_items
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.finite_difference import check_lengths

Interpolation = Literal["linear", "cubic"]
_INTERPOLATIONS = ("linear", "cubic")
#: Number of pixels of a volume from which the derivative of a composition is computed anew, not stored.
_STORED = 1 << 17


class ImageWarp(Operator):
    r"""An image warped by a displacement field u, ``A(u)(p) = moving(p + u(p))``.

    Component k of u points along axis k of the image (0 is the row, or the slice of a volume), in
    the unit of ``spacing``. The centres of pixels lie at whole multiples of the spacing. Between
    them the image is interpolated, and beyond its border it continues with the values there. In a
    problem, ``A @ ImageWarp(moving)`` measures the warped image by any operator A.

    `torch.nn.functional.grid_sample` and kornia's ``remap`` interpolate linearly as well. They are
    not used, because they have no second derivative, which products with the Gauss-Newton matrix
    need, and no cubic interpolation of volumes.

    Args:
        moving: image ``(batch or 1, channel, *space)`` of 2 or 3 axes of space.
        spacing: distance of neighbours along every axis; 1 by default.
        interpolation: ``"linear"``, or ``"cubic"`` (Keys 1981), whose slopes are continuous, so that
            Newton methods converge in fewer steps. It takes twice as many pixels along every axis.

    >>> ramp = torch.arange(5.0).view(1, 1, 1, 5).expand(-1, -1, 4, -1)
    >>> u = torch.zeros(1, 2, 4, 5)
    >>> u[:, 1] = 0.25  # along the columns
    >>> ImageWarp(ramp, spacing=(1.0, 0.5))(u)[0, 0, 0]
    tensor([0.5000, 1.5000, 2.5000, 3.5000, 4.0000])
    """

    has_batch_axis = True

    def __init__(
        self,
        moving: Tensor,
        spacing: Sequence[float] | None = None,
        interpolation: Interpolation = "linear",
    ) -> None:
        if moving.ndim not in (4, 5):
            raise InputError(
                "ImageWarp takes an image (batch, channel, *space) with 2 or 3 axes of space, got "
                f"{tuple(moving.shape)}"
            )
        self.moving = moving
        self.spacing = check_lengths(type(self).__name__, spacing, moving.ndim - 2)
        check_choice(self, _INTERPOLATIONS, interpolation=interpolation)
        self.interpolation = interpolation
        self.domain_shape = (moving.ndim - 2, *moving.shape[2:])
        self.range_shape = tuple(moving.shape[1:])
        self.items = count_items("images", moving)

    def _forward(self, x: Tensor) -> Tensor:
        return _sample(self.moving.to(x.dtype), _taps(x, self.spacing, self.interpolation))

    def linearize(self, x: Tensor) -> LinearOperator:
        """Return the derivative at x in closed form, the slopes of the image pixel by pixel."""
        x = x.detach()
        taps = _taps(x, self.spacing, self.interpolation)
        return WarpJacobian(_sample_slopes(self.moving.to(x.dtype), taps))

    def parameters(self) -> dict[str, Tensor]:
        """``moving``, the image ``(1 or batch, channel, *space)``."""
        return {"moving": self.moving}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        warp = super()._replace(parameters)
        return warp._with_items(count_items("images", warp.moving))


class WarpJacobian(LinearOperator):
    """Derivative of `ImageWarp`: ``(J v)(p) = sum_k slopes_k(p) v_k(p)``.

    Args:
        slopes: slopes of the warped image, ``(batch, channel, dimensions, *space)``.

    >>> J = WarpJacobian(torch.tensor([2.0, 3.0]).view(1, 1, 2, 1, 1))
    >>> J(torch.ones(1, 2, 1, 1))
    tensor([[[[5.]]]])
    """

    has_batch_axis = True

    def __init__(self, slopes: Tensor) -> None:
        self.slopes = slopes
        _, channels, *domain = slopes.shape
        self.domain_shape, self.range_shape = tuple(domain), (channels, *domain[1:])
        self.items = count_items("slopes", slopes)

    def _forward(self, x: Tensor) -> Tensor:
        return (self.slopes.to(x.dtype) * x.unsqueeze(1)).sum(2)

    def _adjoint(self, y: Tensor) -> Tensor:
        return (self.slopes.to(y.dtype) * y.unsqueeze(2)).sum(1)

    def normal_diagonal(self) -> Tensor:
        return self.slopes.square().sum(1)

    def parameters(self) -> dict[str, Tensor]:
        """``slopes``, of shape ``(1 or batch, channel, dimensions, *space)``."""
        return {"slopes": self.slopes}


class Warp(LinearOperator):
    r"""The linear map of an image to the warped one, ``(A x)(p) = x(p + u(p))``, for a known motion.

    The conventions are those of `ImageWarp`. ``stack([A_t @ Warp(u_t) for t in times])`` measures a
    moving object at several times, so that one image explains all measurements. The displacement is
    a parameter, which a problem may leave unknown.

    Args:
        displacement: the field u, ``(batch or 1, 2 or 3, *space)``.
        spacing: distance of neighbours along every axis; 1 by default.
        interpolation: as in `ImageWarp`.

    >>> u = torch.zeros(1, 2, 1, 4)
    >>> u[:, 1] = 0.5
    >>> Warp(u)(torch.tensor([[[[0.0, 2.0, 4.0, 8.0]]]]))
    tensor([[[[1., 3., 6., 8.]]]])
    """

    channelwise = True
    has_batch_axis = True

    def __init__(
        self,
        displacement: Tensor,
        spacing: Sequence[float] | None = None,
        interpolation: Interpolation = "linear",
    ) -> None:
        dimensions = displacement.ndim - 2
        if dimensions not in (2, 3) or displacement.shape[1] != dimensions:
            raise InputError(
                "Warp takes a displacement (batch, 2, rows, columns) or (batch, 3, slices, rows, "
                f"columns), got {tuple(displacement.shape)}"
            )
        self.displacement = displacement
        self.spacing = check_lengths(type(self).__name__, spacing, dimensions)
        check_choice(self, _INTERPOLATIONS, interpolation=interpolation)
        self.interpolation = interpolation
        self.domain_shape = self.range_shape = (1, *displacement.shape[2:])
        self.items = count_items("displacements", displacement)

    def _forward(self, x: Tensor) -> Tensor:
        return _sample(x, self._taps(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return _spread(y, self._taps(y))

    def _taps(self, like: Tensor) -> list[_Taps]:
        field = self.displacement.to(like.real.dtype)
        return _taps(field, self.spacing, self.interpolation)

    def parameters(self) -> dict[str, Tensor]:
        """``displacement``, of shape ``(1 or batch, 2 or 3, *space)``."""
        return {"displacement": self.displacement}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        warp = super()._replace(parameters)
        return warp._with_items(count_items("displacements", warp.displacement))


class Exponential(Operator):
    r"""Displacement u of the flow of a stationary velocity v for a time t, ``p + u(p) = exp(t v)(p)``.

    Scaling and squaring (Arsigny et al. 2006): the flow for the time ``t / 2^n`` is a step of the
    midpoint rule, which is composed with itself n times, ``u(p) <- u(p) + u(p + u(p))``. A short
    step does not fold, and neither do compositions of maps that do not. The inverse is the flow
    for the time ``-t``. In a problem, ``ImageWarp(moving) @ Exponential(shape)`` warps an image by
    a velocity, the unknown, and priors of displacements are priors of the velocity.

    Args:
        domain_shape: shape of v and u, ``(2 or 3, *space)``.
        spacing: distance of neighbours along every axis, the unit of v and u; 1 by default.
        time: the time t.
        squarings: the number n.

    >>> v = torch.zeros(1, 2, 1, 9)
    >>> v[:, 1] = 0.5 * (torch.arange(9.0) - 4)  # x' = x / 2, whose flow is x exp(t / 2)
    >>> round(float(Exponential((2, 1, 9))(v)[0, 1, 0, 5]), 2)  # exp(1/2) - 1
    0.65
    """

    has_batch_axis = True

    def __init__(
        self,
        domain_shape: Sequence[int],
        spacing: Sequence[float] | None = None,
        time: float = 1.0,
        squarings: int = 4,
    ) -> None:
        if len(domain_shape) not in (3, 4) or domain_shape[0] != len(domain_shape) - 1:
            raise InputError(
                "Exponential takes velocities (2, rows, columns) or (3, slices, rows, columns), got "
                f"{tuple(domain_shape)}"
            )
        check_range(self, "[0, 30]", squarings=squarings)
        self.domain_shape = self.range_shape = tuple(domain_shape)
        self.spacing = check_lengths(type(self).__name__, spacing, len(domain_shape) - 1)
        self.time, self.squarings = float(time), int(squarings)

    def _forward(self, x: Tensor) -> Tensor:
        step = (self.time / 2**self.squarings) * x
        u = warp_images(step, 0.5 * step, self.spacing)
        is_large = x.requires_grad and math.prod(self.domain_shape[1:]) > _STORED
        for _ in range(self.squarings):
            u = checkpoint(self._square, u, use_reentrant=False) if is_large else self._square(u)
        return u

    def _square(self, u: Tensor) -> Tensor:
        return u + warp_images(u, u, self.spacing)

    def near_derivative(self, x: Tensor) -> LinearOperator:
        """Return ``t dv``, to which the derivative tends for short and for rigid motions."""
        return cast(LinearOperator, self.time * Identity(self.domain_shape))


class WarpSequence(LinearOperator):
    r"""The frames of a moving object, ``(A x)_t(p) = x(p + u_t(p))``, from one image and its motion.

    With an operator that measures every frame by itself, such as
    ``CartesianMRI(masks, (1, frames, rows, columns), axes=2) @ WarpSequence(u)``, all measurements
    explain one image. The conventions are those of `ImageWarp`.

    Args:
        displacement: the fields u_t, ``(frames, 2 or 3, *space)``.
        spacing: distance of neighbours along every axis of space; 1 by default.
        interpolation: as in `ImageWarp`.

    >>> u = torch.zeros(2, 2, 1, 4)
    >>> u[1, 1] = 1.0
    >>> WarpSequence(u)(torch.tensor([[[[0.0, 2.0, 4.0, 8.0]]]]))
    tensor([[[[[0., 2., 4., 8.]],
    <BLANKLINE>
              [[2., 4., 8., 8.]]]]])
    """

    def __init__(
        self,
        displacement: Tensor,
        spacing: Sequence[float] | None = None,
        interpolation: Interpolation = "linear",
    ) -> None:
        self.warp = Warp(displacement, spacing, interpolation)._with_items(None)
        self.domain_shape = self.warp.domain_shape
        self.range_shape = (1, len(displacement), *displacement.shape[2:])

    def _forward(self, x: Tensor) -> Tensor:
        taps = self.warp._taps(x)
        return torch.stack([_sample(image[None], taps).transpose(0, 1) for image in x])

    def _adjoint(self, y: Tensor) -> Tensor:
        taps = self.warp._taps(y)
        return torch.stack([_spread(frames.transpose(0, 1), taps).sum(0) for frames in y])

    def parameters(self) -> dict[str, Tensor]:
        """``displacement``, of shape ``(frames, 2 or 3, *space)``."""
        return {"displacement": self.warp.displacement}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        sequence = super()._replace({})
        sequence.warp = self.warp._replace(parameters)._with_items(None)
        return sequence


def warp_images(
    images: Tensor,
    displacement: Tensor,
    spacing: Sequence[float],
    interpolation: Interpolation = "linear",
) -> Tensor:
    """Return ``images(p + u(p))``, differentiable in both.

    Args:
        images: images ``(batch, channel, *space)``.
        displacement: the fields u, ``(batch, 2 or 3, *space)``, in the unit of ``spacing``.
        spacing: distance of neighbours along every axis.
        interpolation: as in `ImageWarp`.
    """
    return _sample(images, _taps(displacement, spacing, interpolation))


class _Taps(NamedTuple):
    """Pixels along one axis from which a displaced pixel is interpolated.

    Attributes:
        first: pixel before every displaced pixel, ``(batch, *space)``.
        pixels: pixels of the axis continued at its ends, so that every tap lies on it.
        steps: distances of the taps from the first pixel.
        weights: weights of the taps, ``(batch, 1, *space)`` each.
        slopes: their derivatives.
    """

    first: Tensor
    pixels: Tensor
    steps: range
    weights: list[Tensor]
    slopes: list[Tensor]


def _taps(displacement: Tensor, spacing: Sequence[float], interpolation: str) -> list[_Taps]:
    sizes = displacement.shape[2:]
    taps = []
    for k, (n, length) in enumerate(zip(sizes, spacing)):
        grid = torch.arange(n, dtype=displacement.dtype, device=displacement.device)
        grid = grid.view([-1 if j == k else 1 for j in range(len(sizes))])
        place = displacement[:, k] / length + grid
        # Beyond the border the image is constant: slope 0.
        inside = ((place >= 0) & (place <= n - 1)).to(place).unsqueeze(1) / length
        place = place.clamp(0, n - 1)
        below = place.detach().floor().clamp_max(max(n - 2, 0))
        t = (place - below).unsqueeze(1)
        first = below.long()
        if interpolation == "linear":
            steps, weights, slopes = range(2), [1 - t, t], [-inside, inside]
        else:
            # Keys' cubic (1981) with a = -1/2 at the four neighbours, and its derivative.
            steps = range(-1, 3)
            weights = [
                ((1 - 0.5 * t) * t - 0.5) * t,
                (1.5 * t - 2.5) * t * t + 1,
                ((2 - 1.5 * t) * t + 0.5) * t,
                (0.5 * t - 0.5) * t * t,
            ]
            with torch.no_grad():
                slopes = [
                    ((2 - 1.5 * t) * t - 0.5) * inside,
                    (4.5 * t - 5) * t * inside,
                    ((4 - 4.5 * t) * t + 0.5) * inside,
                    (1.5 * t - 1) * t * inside,
                ]
        ends = steps.start, max(n - 2, 0) + steps.stop
        pixels = torch.arange(*ends, device=first.device).clamp(0, n - 1)
        taps.append(_Taps(first, pixels, steps, weights, slopes))
    return taps


def _addresses(taps: list[_Taps]) -> tuple[Tensor, list[int]]:
    """Return flat indices ``(batch, 1, pixels)`` of the first taps, and the offsets of all taps.

    Both are of the continued image, on which a tap is at one distance from the first one.
    """
    first, offsets = torch.zeros_like(taps[0].first), [0]
    for axis in taps:
        n = len(axis.pixels)
        first = first * n + axis.first
        offsets = [offset * n + step for offset in offsets for step in range(len(axis.steps))]
    return first.flatten(1).unsqueeze(1), offsets


def _values(image: Tensor, taps: list[_Taps]) -> list[Tensor]:
    """Return the values of all taps, ``(batch, channel, *space)``, those of the last axis next."""
    batch, channels, *sizes = image.shape
    batch = max(batch, len(taps[0].first))
    for k, axis in enumerate(taps, 2):
        image = image.index_select(k, axis.pixels)
    first, offsets = _addresses(taps)
    flat = image.flatten(2).expand(batch, -1, -1)
    index, count = first.expand(batch, channels, -1), flat.shape[2] - offsets[-1]
    # The taps at one offset are those of the first ones in an image that begins later.
    return [
        flat.narrow(2, offset, count).gather(2, index).view(batch, channels, *sizes)
        for offset in offsets
    ]


def _combine(values: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Sum weighted values over the taps of the last axis."""
    count = len(weights)
    sums = []
    for k in range(0, len(values), count):
        total = values[k] * weights[0]
        for value, weight in zip(values[k + 1 : k + count], weights[1:]):
            total = total + value * weight
        sums.append(total)
    return sums


def _sample(image: Tensor, taps: list[_Taps]) -> Tensor:
    """Interpolate images, ``(batch, channel, *space)``."""
    values = _values(image, taps)
    for axis in reversed(taps):
        values = _combine(values, axis.weights)
    return values[0]


def _sample_slopes(image: Tensor, taps: list[_Taps]) -> Tensor:
    """Interpolate the slopes of images, ``(batch, channel, dimensions, *space)``."""
    values, slopes = _values(image, taps), list[list[Tensor]]()
    for axis in reversed(taps):
        slopes = [_combine(component, axis.weights) for component in slopes]
        slopes.insert(0, _combine(values, axis.slopes))
        values = _combine(values, axis.weights)
    return torch.stack([component[0] for component in slopes], 2)


def _spread(values: Tensor, taps: list[_Taps]) -> Tensor:
    """Compute the adjoint of `_sample` in the image."""
    batch, channels, *sizes = values.shape
    shares = [values]
    for axis in taps:
        shares = [value * weight for value in shares for weight in axis.weights]
    lengths = [len(axis.pixels) for axis in taps]
    out = values.new_zeros(batch, channels, math.prod(lengths))
    first, offsets = _addresses(taps)
    index, count = first.expand(batch, channels, -1), out.shape[2] - offsets[-1]
    for offset, value in zip(offsets, shares):
        out.narrow(2, offset, count).scatter_add_(2, index, value.flatten(2))
    out = out.view(batch, channels, *lengths)
    for k, (axis, n) in enumerate(zip(taps, sizes), 2):
        whole = out.new_zeros(*out.shape[:k], n, *out.shape[k + 1 :])
        out = whole.index_add(k, axis.pixels, out)
    return out
