"""X-ray projection of volumes with any pose of source and panel in every view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.scan_3d import Scan3D
from invtoolbox.operators.scan_3d_checks import numbers
from invtoolbox.operators.trajectories import PARTS


class VectorScan(Scan3D):
    """Line integrals along the rays of a cone or a parallel beam whose source and panel stand anywhere in every view.

    World coordinates are those of `ConeBeam`. Cell (r, c) of the panel is centred at
    ``detector + (c - (columns - 1) / 2) u + (r - (rows - 1) / 2) v``.

    Args:
        volume_shape: (slices, rows, columns), or (channels, ...); any number of channels is accepted in a call.
        vectors: (V, 12) as ASTRA's ``cone_vec`` and ``parallel3d_vec``: source (for parallel beams the direction of the rays, of any
            length), centre of the panel, vector from a cell to its neighbour in the row (u), and in the column (v); (x, y, z) each.
            `invtoolbox.operators.trajectories` makes them.
        detector_shape: (rows, columns) of the panel.
        voxel_size: one length, or three (slice, row, column).
        parallel: the rays of a view are parallel.
        curved: the panel is an arc around the source, with ``u`` tangent to it at the panel's centre.
        views_per_chunk: how many views are worked on at a time in `normal` and `chunks`; chosen where not given.

    ``source``, ``detector``, ``u`` and ``v``, (V, 3) each, are the operator's parameters, differentiable, so that any pose can be
    calibrated.

    Raises:
        InputError: vectors of another shape, not finite or of length 0, rays that miss the volume.

    >>> from invtoolbox.operators.trajectories import circular
    >>> A = VectorScan((5, 5, 5), circular([0.0, 1.0], 10.0, 20.0, detector_spacing=3.0), (3, 3))
    >>> A(torch.ones(1, 1, 5, 5, 5))[0, 0, 0, 1, 1]
    tensor(5.)
    """

    _components: ClassVar[dict[str, int]] = dict.fromkeys(PARTS, 3)
    source: Tensor
    detector: Tensor
    u: Tensor
    v: Tensor

    def __init__(
        self,
        volume_shape: Sequence[int],
        vectors: Any,
        detector_shape: Sequence[int],
        voxel_size: float | Sequence[float] = 1.0,
        parallel: bool = False,
        curved: bool = False,
        views_per_chunk: int | None = None,
    ) -> None:
        table = numbers("vectors", vectors)
        if table.ndim not in (2, 3) or table.shape[-1] != 12 or 0 in table.shape:
            raise InputError(
                f"vectors must have the shape (views, 12): source, detector, u, v with (x, y, z) each; got "
                f"{tuple(table.shape)}"
            )
        if not bool(torch.isfinite(table).all()):
            raise InputError(
                f"vectors must be finite, but row {int((~torch.isfinite(table)).nonzero()[0][-2])} is not"
            )
        if parallel and curved:
            raise InputError(
                "a curved panel is an arc around the source, which a parallel beam does not have; leave curved=False"
            )
        self.parallel, self.curved = bool(parallel), bool(curved)
        parts = dict(zip(PARTS, table.split(3, -1)))
        for name in ("u", "v", *(("source",) if parallel else ())):
            if not bool((parts[name].detach() != 0).any(-1).all()):
                raise InputError(
                    f"{'the direction of the rays' if name == 'source' else name} has the length 0 in some view"
                )
        super().__init__(volume_shape, detector_shape, voxel_size, parts, views_per_chunk)
        self._check_view()

    def _vectors(self, parameters: dict[str, Tensor]) -> Tensor:
        return torch.cat(torch.broadcast_tensors(*(parameters[name] for name in PARTS)), -1)
