"""Elementary operators: unitary transforms, identity, no measurement, selection of channels.

`Unitary` is the base of transforms whose adjoint is the inverse, which gives every closed form.
`Identity` states denoising as an inverse problem. `NoMeasurement` serves problems that a prior
alone decides, such as editing a scene by score distillation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import to_shape
from invtoolbox.core.pytrees import tree_leaves
from invtoolbox.operators.base import LinearOperator, Operator, expand


class Identity(LinearOperator):
    """Identity ``A(x) = x`` for images of shape ``(channel, *space)``.

    >>> Identity((1, 2))(torch.ones(1, 1, 2))
    tensor([[[1., 1.]]])
    """

    channelwise = True

    normal_is_diagonal = True

    def __init__(self, shape: Sequence[int]) -> None:
        self.domain_shape = self.range_shape = to_shape(self, shape=shape)

    def _forward(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        return y

    def _known_norm(self) -> Tensor:
        return torch.ones(1)

    def normal_symbol(self) -> tuple[Tensor, bool]:
        return torch.ones([1] * (len(self.domain_shape) + 1)), True

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return y


class NoMeasurement(Operator):
    """Operator without measurements: ``A(x)`` is empty, ``(batch, 1, 0)``, so its misfit is 0.

    The problem is ``Problem(A.measurements(batch), A)``.

    Args:
        domain_shape: shape of x if x is an image; scenes have no shape.

    >>> import invtoolbox as it
    >>> A = NoMeasurement((1, 2, 2))
    >>> problem = it.Problem(A.measurements(), A)
    >>> known = it.priors.Gaussian(torch.full((1, 2, 2), 0.3), 1.0)
    >>> solver = it.solvers.Adam(learning_rate=0.1)
    >>> it.solve(problem, 1.0 * known, solver, max_iterations=200, progress=False).x.mean()
    tensor(0.3000)
    """

    def __init__(self, domain_shape: tuple[int, ...] = ()) -> None:
        self.domain_shape, self.range_shape = domain_shape, (1, 0)

    def measurements(self, batch: int = 1) -> Tensor:
        """Return the empty measurements of ``batch`` items, ``(batch, 1, 0)``."""
        return torch.zeros(batch, *self.range_shape)

    def __call__(self, x: Any) -> Tensor:
        return self._forward(x)

    def _forward(self, x: Any) -> Tensor:
        # An empty part of x, so that the prediction has a derivative like any other prediction.
        leaf = next(
            leaf for _, leaf in tree_leaves(x) if leaf.is_floating_point() or leaf.is_complex()
        )
        return leaf.flatten(1)[:, None, :0]


class ChannelSlices(LinearOperator):
    """Selection of slices of the channels of an image, one slice behind the other.

    The adjoint fills all other channels with zeros.

    Args:
        image_shape: shape ``(channel, *space)`` of the whole image.
        slices: channels ``(start, stop)`` of every slice, ``stop`` not included; the slices do not
            overlap.

    >>> x = torch.tensor([[[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]])
    >>> ChannelSlices((3, 2), ((0, 1), (2, 3)))(x)
    tensor([[[0., 0.],
             [3., 4.]]])
    """

    def __init__(self, image_shape: Sequence[int], slices: Sequence[tuple[int, int]]) -> None:
        channels, *space = image_shape
        self.slices = tuple(slices)
        self.domain_shape = (channels, *space)
        self.range_shape = (sum(stop - start for start, stop in self.slices), *space)

    def _forward(self, x: Tensor) -> Tensor:
        parts = [x[:, start:stop] for start, stop in self.slices]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.replace_blocks(y.new_zeros(y.shape[0], *self.domain_shape), y)

    def replace_blocks(self, x: Tensor, part: Tensor) -> Tensor:
        """Write ``part`` into the slices of ``x``, in place, and return ``x``."""
        for (start, stop), piece in zip(
            self.slices, part.split([stop - start for start, stop in self.slices], 1)
        ):
            x[:, start:stop] = piece
        return x

    def _known_norm(self) -> Tensor:
        return torch.ones(1)


class Unitary(LinearOperator):
    """Unitary transform, ``A^H A = I``; a subclass implements ``_forward`` and ``_adjoint``."""

    def _known_norm(self) -> Tensor:
        return torch.ones(1)

    def normal_symbol(self) -> tuple[Tensor, bool]:
        return torch.ones([1] * (len(self.domain_shape) + 1)), True

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``v / (weight + rho)``."""
        return v / (expand(weight, v) + expand(rho, v))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Compute the inverse, which is the adjoint."""
        return self.adjoint(y)
