"""Observed points: the displacements of some of the points."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, check_shape, expand
from invtoolbox.operators.point_warp import checked_points


class ObservedPoints(LinearOperator):
    r"""``(A x)_k = x_{i_k}``: of the displacements x of all points, those of the points ``i_1, ..., i_m``; ``(batch, N, 3) -> (batch, m,
    3)``.

    Where points were seen, say vertices of a mesh or handles that a user moves, ``A.displacements(positions)`` makes the
    measurements for it.

    Args:
        points: at rest, ``(1, N, 3)``, or ``(batch, N, 3)`` where every item has its own; the unit is theirs.
        index: of the observed points, whole numbers ``(m,)``, or ``(batch, m)``; no point twice.

    Raises:
        InputError: points that are not finite, an index beyond them, or one that is there twice.

    >>> A = ObservedPoints(torch.zeros(1, 4, 3), torch.tensor([2, 0]))
    >>> A(torch.arange(12.0).view(1, 4, 3))
    tensor([[[6., 7., 8.],
             [0., 1., 2.]]])
    """

    normal_is_diagonal = True

    def __init__(self, points: Tensor, index: Tensor) -> None:
        self.points = checked_points(points, type(self).__name__)
        index = torch.as_tensor(index, device=points.device)
        if index.ndim not in (1, 2) or index.is_floating_point() or not index.numel():
            raise InputError(
                f"ObservedPoints takes the whole numbers of points, (m,) or (batch, m), "
                f"got {tuple(index.shape)} of {index.dtype}"
            )
        self.index = index.long().reshape(-1, index.shape[-1])
        count = points.shape[1]
        wrong = ((self.index < 0) | (self.index >= count)).nonzero()
        if len(wrong):
            item, k = wrong[0].tolist()
            raise InputError(
                f"observed point {k} is number {int(self.index[item, k])}, and there are the points 0..{count - 1}"
            )
        for item, row in enumerate(self.index):
            numbers, counts = row.unique(return_counts=True)
            if bool((counts > 1).any()):
                raise InputError(
                    f"point {int(numbers[counts > 1][0])} is observed {int(counts.max())} times"
                    + (f" in item {item}" if len(self.index) > 1 else "")
                    + "; give it once"
                )
        items = {n for n in (len(self.points), len(self.index)) if n > 1}
        if len(items) > 1:
            raise InputError(
                f"there are points of {len(self.points)} items and observed ones of {len(self.index)}"
            )
        self.items = items.pop() if items else None
        self.domain_shape = tuple(self.points.shape[1:])
        self.range_shape = (self.index.shape[1], 3)

    def displacements(self, positions: Tensor) -> Tensor:
        """The measurements of points that were seen at ``positions``, ``(batch or 1, m, 3)``."""
        rest = self.points.gather(
            1,
            self._spread(
                self.points.expand(max(len(self.points), len(self.index)), *self.domain_shape)
            ),
        )
        return positions - rest.to(positions)

    def select(self, index: Tensor) -> Self:
        if self.items is None:
            return self
        fields = {name: getattr(self, name) for name in ("points", "index")}
        return self._replace(
            {k: t.index_select(0, index) if len(t) > 1 else t for k, t in fields.items()}
        )._with_items(len(index))

    def _spread(self, like: Tensor) -> Tensor:
        return self.index[..., None].expand(len(like), -1, 3)

    def _forward(self, x: Tensor) -> Tensor:
        return x.gather(1, self._spread(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), *self.domain_shape).scatter(1, self._spread(y), y)

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """1: exact."""
        return torch.ones(self.items or 1, dtype=dtype, device=device)

    def normal_diagonal(self) -> Tensor:
        one = torch.ones(
            len(self.index),
            self.index.shape[1],
            3,
            dtype=self.points.dtype,
            device=self.points.device,
        )
        return self._adjoint(one)

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """``v / (weight * observed + rho)``."""
        return v / (expand(weight, v) * self.normal_diagonal().to(v) + expand(rho, v))

    def pseudo_inverse(self, y: Any) -> Tensor:
        """What was observed, and 0 elsewhere."""
        check_shape(
            y,
            self.range_shape,
            f"the pseudo-inverse of {self} takes y",
            self.channelwise,
            self.items,
        )
        return self._adjoint(y)

    def __repr__(self) -> str:
        return f"ObservedPoints({self.index.shape[1]} of {self.points.shape[1]})"
