"""Operators built from renderers: a moving shape over time (`OverTime`), two scenes (`OnBoth`)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.moving_shapes import Moving
from invtoolbox.operators.algebra import _Combination
from invtoolbox.operators.base import Operator


class OverTime(_Combination):
    """Renderers of a moving shape, ``A(x) = (A_1(x_1), ..., A_T(x_T))``.

    Each renderer sees the shape of `geometry.moving_shapes.Moving` at its time. The predictions are
    concatenated along the axis of the blocks: the cameras of `GaussianRenderer`, so that pictures
    are ``(batch, channels, cameras of all times, row, column)``, or the rays of `VoxelRenderer`. A
    solver's ``subset_size`` selects from all of them.

    Args:
        renderers: one renderer per time, all `GaussianRenderer` or all `VoxelRenderer`, with the
            same channels and size of pictures.
        times: number of the time that each renderer sees; 0, 1, 2, ... by default.

    >>> from invtoolbox.operators import GaussianRenderer
    >>> from invtoolbox.geometry import Splats, look_at
    >>> camera = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(8, 8))
    >>> A = OverTime([GaussianRenderer(camera), GaussianRenderer(camera)])
    >>> ball = Splats.of_points(torch.zeros(1, 1, 3), torch.ones(1, 1, 3), 0.3, 0.9)
    >>> gone = torch.tensor([0.0, 9.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    >>> A(Moving(gone, None, ball)).amax((1, 3, 4)) > 0.1
    tensor([[ True, False]])
    """

    def __init__(self, renderers: Sequence[Operator], times: Sequence[int] | None = None) -> None:
        if not renderers or any(renderer.blocks is None for renderer in renderers):
            raise InputError("OverTime takes renderers, one per time")
        super().__init__(renderers)
        self.times = tuple(range(len(self.parts))) if times is None else tuple(times)
        rests = {(renderer.range_shape[0], *renderer.range_shape[2:]) for renderer in self.parts}
        if len(rests) > 1 or len(self.times) != len(self.parts):
            raise InputError(
                "OverTime takes renderers of the same channels and size of pictures, and a time "
                f"for each, got {len(rests)} kinds and {len(self.times)} times for "
                f"{len(self.parts)} renderers"
            )
        #: Order of the blocks, if a subset in another order was selected.
        self.order: Tensor | None = None
        self.domain_shape = ()
        self._set_range()

    def _set_range(self) -> None:
        first: Any = self.parts[0].range_shape
        self.range_shape = (first[0], self.blocks, *first[2:])

    def __call__(self, x: Any) -> Tensor:
        if not isinstance(x, Moving):
            raise InputError(
                f"{self} takes a moving shape, as decoded by priors.Deformation(), got "
                f"{type(x).__name__}"
            )
        if max(self.times) >= x.times:
            raise InputError(f"{self} sees time {max(self.times)}, but x has {x.times} times")
        views = [renderer(x.at(time)) for renderer, time in zip(self.parts, self.times)]
        prediction = torch.cat(views, dim=2)
        return prediction if self.order is None else prediction.index_select(2, self.order)

    def _forward(self, x: Any) -> Tensor:
        return self(x)

    @property
    def cameras(self) -> Cameras:
        """Cameras of all times, one after the other."""
        renderers: Any = self.parts
        every: list[Cameras] = [renderer.cameras for renderer in renderers]
        return Cameras(
            torch.cat([c.world_to_camera for c in every]),
            torch.cat([c.intrinsics for c in every]),
            every[0].size,
        )

    @property
    def blocks(self) -> int:
        return sum(renderer.blocks or 0 for renderer in self.parts)

    def subset(self, index: Any) -> OverTime:
        picked = torch.arange(self.blocks)[index].reshape(-1)
        if self.order is not None:
            picked = self.order[picked]
        parts, times, order, first = [], [], [], 0
        # The blocks of a renderer are `first` to `first + count - 1`.
        for renderer, time in zip(self.parts, self.times):
            count = renderer.blocks or 0
            places = ((picked >= first) & (picked < first + count)).nonzero()[:, 0]
            if len(places):
                parts.append(renderer.subset(picked[places] - first))
                times.append(time)
                order.append(places)
            first += count
        selection = copy.copy(self)
        selection.parts, selection.times = tuple(parts), tuple(times)
        selection.order = torch.cat(order).argsort()
        selection._set_range()
        return selection

    def __repr__(self) -> str:
        blocks = "rays" if len(self.range_shape) == 2 else "cameras"
        return f"OverTime({len(self.parts)} times, {self.blocks} {blocks})"


class OnBoth(_Combination):
    """One operator on two scenes, ``A((x_1, x_2))``: both predictions, along the channels.

    This serves two models of one scene, `priors.GaussianPair`: the scene is measured once and
    predicted twice, and `measurements` repeats the measurements. A subset has the same blocks for
    both.

    Args:
        operator: operator on one scene.

    >>> from invtoolbox.operators import Identity
    >>> A = OnBoth(Identity((1, 3)))
    >>> A((torch.zeros(1, 1, 3), torch.ones(1, 1, 3)))
    tensor([[[0., 0., 0.],
             [1., 1., 1.]]])
    >>> A.measurements(torch.zeros(1, 1, 3)).shape
    torch.Size([1, 2, 3])
    """

    def __init__(self, operator: Operator) -> None:
        super().__init__((operator,))
        self.channelwise = False
        self.domain_shape = ()

    @property
    def operator(self) -> Operator:
        """Operator on one scene."""
        return self.parts[0]

    @property
    def range_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        shape: Any = self.operator.range_shape
        return (2 * shape[0], *shape[1:])

    def __call__(self, x: Any) -> Tensor:
        first, second = self._pair(x)
        return torch.cat([self.operator(first), self.operator(second)], dim=1)

    def _forward(self, x: Any) -> Tensor:
        return self(x)

    def with_info(self, x: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the prediction and the info of both.

        Names begin with ``first.`` and ``second.``.
        """
        both = [self.operator.with_info(scene) for scene in self._pair(x)]
        info = {
            f"{which}.{name}": value
            for which, (_, quantities) in zip(("first", "second"), both)
            for name, value in quantities.items()
        }
        return torch.cat([prediction for prediction, _ in both], dim=1), info

    def _pair(self, x: Any) -> tuple[Any, Any]:
        if not isinstance(x, tuple) or len(x) != 2:
            raise InputError(
                f"{self} takes two scenes, as decoded by priors.GaussianPair(), got "
                f"{type(x).__name__}"
            )
        return x

    def measurements(self, y: Tensor) -> Tensor:
        """Repeat the measurements of one operator in the layout of this operator's prediction."""
        return torch.cat([y, y], dim=1)

    @property
    def blocks(self) -> int | None:
        return self.operator.blocks

    def draw_blocks(self, count: int, generator: Generator | None = None) -> Tensor:
        return self.operator.draw_blocks(count, generator)

    def subset(self, index: Any) -> Self:
        selection = copy.copy(self)
        selection.parts = (self.operator.subset(index),)
        return selection

    def __repr__(self) -> str:
        return f"OnBoth({self.operator})"
