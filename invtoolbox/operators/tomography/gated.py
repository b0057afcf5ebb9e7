"""Scans of an object that moves, whose views belong to phases of the motion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import _Combination
from invtoolbox.operators.base import LinearOperator


class Gated(_Combination, LinearOperator):
    """A scan of a series of images, each view of which sees one frame: gated tomography.

    View v measures frame ``gates[v]``, so ``y`` is an ordinary sinogram in the order of the views.
    The series is ``(batch, channel, frames, *space)``. Frames without a view measure nothing.

    Args:
        scan: the scan of an image at rest, with all views: `ParallelBeam`, `FanBeam`, `ConeBeam` or
            any linear operator whose measurements fall into blocks.
        gates: number of the frame that each view sees, 0, 1, 2, ...; one per view.
        frames: number of frames; by default the largest number in ``gates`` plus 1.

    Raises:
        InputError: if there is not one gate per view, or a gate is no number of a frame.

    >>> import invtoolbox as it
    >>> scan = it.operators.ParallelBeam((4, 4), torch.arange(6) * torch.pi / 6, 6)
    >>> A = Gated(scan, [0, 1, 2, 0, 1, 2])
    >>> A.domain_shape, A.range_shape
    ((1, 3, 4, 4), (1, 6, 6))
    >>> series = torch.zeros(1, 1, 3, 4, 4)
    >>> series[:, :, 1] = 1.0  # the object appears at the second time
    >>> A(series).amax((1, 3)) > 0
    tensor([[False,  True, False, False,  True, False]])
    """

    parts: tuple[LinearOperator, ...]  # type: ignore[assignment]

    def __init__(self, scan: LinearOperator, gates: Any, frames: int | None = None) -> None:
        numbers = torch.as_tensor(gates)
        if not isinstance(scan, LinearOperator) or scan.blocks is None:
            raise InputError(f"Gated takes a scan with views, and {scan} has none")
        if (
            numbers.is_floating_point()
            or numbers.is_complex()
            or tuple(numbers.shape) != (scan.blocks,)
        ):
            raise InputError(
                f"Gated takes the number of a frame for each of the {scan.blocks} views of {scan}, "
                f"got {numbers.dtype} of shape {tuple(numbers.shape)}"
            )
        count = int(numbers.max()) + 1 if frames is None else frames
        if not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
            raise InputError(
                f"gates are numbers from 0 to {count - 1}, one of {count} frames, got "
                f"{int(numbers.min())} to {int(numbers.max())}"
            )
        self.scan, self.gates, self.frames = scan, numbers.cpu().long(), count
        #: Frames that are seen, and the views of each.
        self.seen = tuple(self.gates.unique().tolist())
        self.views = tuple((self.gates == gate).nonzero()[:, 0] for gate in self.seen)
        super().__init__([scan.subset(views) for views in self.views])  # type: ignore[list-item]
        channels, *space = scan.domain_shape
        self.domain_shape = (channels, count, *space)
        self.range_shape = scan.range_shape

    def _forward(self, x: Tensor) -> Tensor:
        views = torch.cat(
            [
                scan._forward(x[:, :, gate].contiguous())
                for gate, scan in zip(self.seen, self.parts)
            ],
            2,
        )
        return views.index_select(2, torch.cat(self.views).argsort().to(views.device))

    def _adjoint(self, y: Tensor) -> Tensor:
        frames = {
            gate: scan._adjoint(y.index_select(2, views.to(y.device)))
            for gate, views, scan in zip(self.seen, self.views, self.parts)
        }
        blank = torch.zeros_like(next(iter(frames.values())))
        return torch.stack([frames.get(k, blank) for k in range(self.frames)], 2)

    @property
    def blocks(self) -> int:
        """Number of views."""
        return len(self.gates)

    def subset(self, index: Any) -> Gated:
        """Return the scan of some of the views."""
        index = index.cpu() if isinstance(index, Tensor) else index
        picked = torch.arange(self.blocks)[index].reshape(-1)
        scan: Any = self.scan.subset(picked)
        selection = Gated(scan, self.gates[picked], self.frames)
        # The parameters of the frames may be others than those of the scan, and those of an item.
        by_gate = dict(zip(self.seen, zip(self.views, self.parts)))
        parts = []
        for gate, places in zip(selection.seen, selection.views):
            views, frame_scan = by_gate[gate]
            parts.append(frame_scan.subset(torch.searchsorted(views, picked[places])))
        return selection._with_parts(parts)

    def __repr__(self) -> str:
        return f"Gated({self.scan}, {self.frames} frames)"
