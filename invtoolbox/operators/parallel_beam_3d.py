"""X-ray projection of volumes along parallel rays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.feldkamp import parallel_backprojection
from invtoolbox.operators.scan_3d import Scan3D
from invtoolbox.operators.scan_3d_checks import checked_angles, finite, lengths
from invtoolbox.operators.trajectories import parallel_vectors
from invtoolbox.operators.vector_scan import VectorScan


class ParallelBeam3D(Scan3D):
    r"""Line integrals along parallel rays onto a panel that turns around the object: synchrotrons, electron tomography, laminography.

    World coordinates are those of `ConeBeam`: ``y`` grows with the row index, the axis of rotation is ``z``. At angle ``t`` the rays run
    along ``(sin t, -cos t, 0)``, the columns of the panel grow along ``u = (cos t, sin t, 0)`` and its rows along ``v = (0, 0, 1)``:
    ASTRA's ``parallel3d``. A slice of the volume is one of `ParallelBeam` with its rows flipped.

    Args:
        volume_shape: (slices, rows, columns), or (channels, ...); any number of channels is accepted in a call.
        angles: radians, shape (views,): tensor, array or list, in any order and spacing.
        detector_shape: (rows, columns) of the panel.
        voxel_size: one length, or three (slice, row, column).
        detector_spacing: distance between the centres of neighbouring cells; one length, or (between rows, between columns).
        detector_shift: **(u, v)**, how far the panel's centre lies from the projection of the volume's centre, along its rows and along
            its columns, lengths; or (views, 2). If the axis of rotation is seen at column ``c`` (counted from 0), the first is
            ``((columns - 1) / 2 - c) * spacing``.
        tilt: radians by which the rays leave the plane of rotation: laminography.
        detector_rotation: (about u, about v, in plane), radians by which the panel is turned about its centre, as in `ConeBeam`; or
            (views, 3).
        views_per_chunk: how many views are worked on at a time in `normal`, `pseudo_inverse` and `chunks`; chosen where not given.

    ``angles``, ``detector_shift``, ``tilt`` and ``detector_rotation`` are the operator's parameters, differentiable, and may differ from
    item to item.

    `pseudo_inverse` is filtered back-projection: exact for a tilt of 0 up to sampling, and for a full turn with a tilt up to the cone of
    frequencies around the axis that no view sees.

    >>> import torch
    >>> A = ParallelBeam3D((2, 5, 5), [0.0, 1.0], (2, 5))
    >>> A(torch.ones(1, 1, 2, 5, 5))[0, 0, 0]
    tensor([[5., 5., 5., 5., 5.],
            [5., 5., 5., 5., 5.]])
    """

    parallel = True
    _components: ClassVar[dict[str, int]] = {
        "angles": 0,
        "detector_shift": 2,
        "tilt": 0,
        "detector_rotation": 3,
    }
    angles: Tensor
    detector_shift: Tensor
    tilt: Tensor
    detector_rotation: Tensor

    def __init__(
        self,
        volume_shape: Sequence[int],
        angles: Any,
        detector_shape: Sequence[int],
        voxel_size: float | Sequence[float] = 1.0,
        detector_spacing: float | Sequence[float] = 1.0,
        detector_shift: Any = (0.0, 0.0),
        tilt: Any = 0.0,
        detector_rotation: Any = (0.0, 0.0, 0.0),
        views_per_chunk: int | None = None,
    ) -> None:
        self.detector_spacing: tuple[float, float] = lengths(
            "detector_spacing", detector_spacing, ("between rows", "between columns")
        )
        super().__init__(
            volume_shape,
            detector_shape,
            voxel_size,
            {
                "angles": checked_angles(angles),
                "detector_shift": finite("detector_shift", detector_shift),
                "tilt": finite("tilt", tilt),
                "detector_rotation": finite("detector_rotation", detector_rotation),
            },
            views_per_chunk,
        )
        if float(self.tilt.detach().abs().max()) >= 1.6:
            raise InputError(
                f"tilt is in radians, less than pi / 2, got {float(self.tilt.detach().abs().max()):.4g}"
            )
        self._check_view()

    @staticmethod
    def from_vectors(
        volume_shape: Sequence[int],
        vectors: Any,
        detector_shape: Sequence[int],
        voxel_size: float | Sequence[float] = 1.0,
        views_per_chunk: int | None = None,
    ) -> VectorScan:
        """A parallel beam with any pose in every view: vectors (V, 12) of ASTRA's ``parallel3d_vec``. See `VectorScan`."""
        return VectorScan(
            volume_shape, vectors, detector_shape, voxel_size, True, False, views_per_chunk
        )

    def _vectors(self, p: dict[str, Tensor]) -> Tensor:
        return parallel_vectors(
            p["angles"],
            self.detector_spacing,
            p["detector_shift"],
            p["tilt"],
            p["detector_rotation"],
        )

    def _invert(
        self, y: Tensor, parameters: dict[str, Tensor], views: slice, filter: str, cutoff: float
    ) -> Tensor:
        return parallel_backprojection(y, self, parameters, views, filter, cutoff)
