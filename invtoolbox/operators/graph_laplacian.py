"""Laplacian of a graph whose nodes are the pixels of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import to_shape
from invtoolbox.operators.base import LinearOperator, expand

Offset = tuple[int, ...]


class PixelGraphLaplacian(LinearOperator):
    r"""Graph Laplacian ``(Delta x)(p) = sum_q w(p, q) (x(p) - x(q))``.

    The sum runs over the pixels q in a window around the pixel p.

    ``Delta = D - W`` is symmetric and positive semidefinite, and an image that is constant on every
    connected part of the graph is in its null space. An edge is stored once: ``edge_weights[:, k]``
    at p is the weight between p and ``p + offsets[k]``, 0 if that pixel lies outside. Nothing else
    is stored: Delta is applied offset by offset, which takes one pass over the weights and is, on a
    CPU, several times faster than a sparse matrix.

    Args:
        image_shape: shape ``(channel, *space)``; every channel is treated alike.
        edge_weights: nonnegative weights, ``(batch or 1, offsets, *space)``.
        radius: radius of the window in pixels; a pixel has ``(2 radius + 1)^dimensions - 1``
            neighbours.

    >>> image = torch.tensor([[[0., 0., 9.]]])
    >>> Delta = PixelGraphLaplacian.from_image(image, radius=1, intensity_scale=1.0)
    >>> Delta(torch.tensor([[[1., 2., 5.]]])).round(decimals=4)
    tensor([[[-0.7071,  0.7071,  0.0000]]])
    """

    channelwise = True

    def __init__(self, image_shape: Sequence[int], edge_weights: Tensor, radius: int) -> None:
        self.domain_shape = self.range_shape = to_shape(self, image_shape=image_shape)
        self.radius = radius
        self.offsets = half_window(radius, len(self.domain_shape) - 1)
        self.edge_weights = edge_weights
        self.items = edge_weights.shape[0] if edge_weights.shape[0] > 1 else None

    @classmethod
    def from_image(cls, image: Tensor, radius: int, intensity_scale: float | Tensor) -> Self:
        r"""Create the graph of an image ``(batch, channel, *space)``, one graph per item.

        ``w(p, q) = exp(-|x(p) - x(q)|^2 / intensity_scale)`` with the distance over the channels;
        all weights of a graph are then divided by the Frobenius norm of W.

        Args:
            image: images, ``(batch, channel, *space)``.
            radius: radius of the window in pixels.
            intensity_scale: a number, or one number per item, in squared units of the image.
        """
        offsets = half_window(radius, image.ndim - 2)
        weights = image.new_zeros(image.shape[0], len(offsets), *image.shape[2:])
        rate = 1 / expand(intensity_scale, image[:, 0])
        for k, offset in enumerate(offsets):
            p, q = _pair(offset, image.shape[2:])
            difference = (
                image[(slice(None), slice(None), *p)] - image[(slice(None), slice(None), *q)]
            )
            weights[:, k][(slice(None), *p)] = difference.square_().sum(1).mul_(-rate).exp_()
        # Each edge occurs in W twice.
        norm = torch.linalg.vector_norm(weights.flatten(1), dim=1) * 2**0.5
        weights /= expand(norm.clamp_min(torch.finfo(norm.dtype).tiny), weights)
        return cls(image.shape[1:], weights, radius)

    def _forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (x.requires_grad or self.edge_weights.requires_grad):
            return _Apply.apply(self.edge_weights, x, self.offsets)
        return _apply(self.edge_weights, x, self.offsets)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    @property
    def T(self) -> LinearOperator:
        return self

    def degree(self) -> Tensor:
        """Sum the weights at every pixel, ``(batch or 1, 1, *space)``: the diagonal of Delta."""
        return self._sum_edges(self.edge_weights)

    def normal_diagonal(self) -> Tensor:
        """Compute the diagonal of ``Delta^T Delta``: ``degree^2 + sum_q w(p, q)^2``."""
        return self.degree().square_().add_(self._sum_edges(self.edge_weights.square()))

    def _sum_edges(self, values: Tensor) -> Tensor:
        """Sum the values on the edges of every pixel."""
        total = values.new_zeros(values.shape[0], 1, *values.shape[2:])
        for k, offset in enumerate(self.offsets):
            p, q = _pair(offset, values.shape[2:])
            edge = values[(slice(None), slice(k, k + 1), *p)]
            total[(slice(None), slice(None), *p)] += edge
            total[(slice(None), slice(None), *q)] += edge
        return total

    def parameters(self) -> dict[str, Tensor]:
        return {"edge_weights": self.edge_weights}

    def __repr__(self) -> str:
        return f"PixelGraphLaplacian(radius={self.radius})"


def half_window(radius: int, dimensions: int) -> tuple[Offset, ...]:
    """Return one of every pair of opposite offsets ``0 < max_k |offset_k| <= radius``.

    The chosen offsets are lexicographically positive.
    """
    return tuple(
        o for o in product(range(-radius, radius + 1), repeat=dimensions) if o > (0,) * dimensions
    )


def _pair(offset: Offset, shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of p and of ``p + offset`` over all pairs inside an image."""
    p = tuple(slice(max(0, -o), max(0, n - max(0, o))) for o, n in zip(offset, shape))
    q = tuple(slice(max(0, o), max(0, n - max(0, -o))) for o, n in zip(offset, shape))
    return p, q


def _apply(weights: Tensor, x: Tensor, offsets: Sequence[Offset]) -> Tensor:
    out = torch.zeros_like(x)
    scratch = torch.empty_like(x).flatten()
    for index, p, q in _edges(offsets, x.shape[2:]):
        a, b = x[p], x[q]
        # Edge (p, q) adds w (x_p - x_q) at p and subtracts it at q.
        # One buffer serves every offset: new temporaries of large images cost more than the
        # arithmetic.
        flow = torch.sub(a, b, out=scratch[: a.numel()].view(a.shape))
        flow.mul_(weights[index])
        out[p].add_(flow)
        out[q].sub_(flow)
    return out


def _edges(offsets: Sequence[Offset], shape: Sequence[int]) -> Iterator[tuple[Any, Any, Any]]:
    """Iterate over the offsets: index of the weights, and slices of p and of its neighbour."""
    for k, offset in enumerate(offsets):
        p, q = _pair(offset, shape)
        yield (slice(None), slice(k, k + 1), *p), (..., *p), (..., *q)


class _Apply(torch.autograd.Function):
    """Delta and its derivatives: symmetric in x; ``d/dw(p, q) = (x(p) - x(q)) (g(p) - g(q))``."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, offsets: Sequence[Offset]) -> Tensor:
        ctx.save_for_backward(weights, x)
        ctx.offsets = offsets
        return _apply(weights, x, offsets)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (g,) = gradients
        weights, x = ctx.saved_tensors
        by_x = _Apply.apply(weights, g, ctx.offsets) if ctx.needs_input_grad[1] else None
        by_weights = None
        if ctx.needs_input_grad[0]:
            parts = []
            for _, p, q in _edges(ctx.offsets, x.shape[2:]):
                product_of_differences = ((x[p] - x[q]) * (g[p] - g[q])).sum(1)
                # Edges that would leave the image have no weight.
                padding = [
                    width
                    for s, n in reversed(list(zip(p[1:], x.shape[2:])))
                    for width in (s.start, n - max(s.start, s.stop))
                ]
                parts.append(torch.nn.functional.pad(product_of_differences, padding))
            by_weights = torch.stack(parts, 1)
            if weights.shape[0] == 1:
                by_weights = by_weights.sum(0, keepdim=True)
        return by_weights, by_x, None
