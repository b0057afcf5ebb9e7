"""The views of a 3D scan, as the volume kernels take them: a source (or ray direction) and a panel each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from invtoolbox.errors import InputError


@dataclass(frozen=True, eq=False)
class Views:
    r"""V views of a flat or curved panel of (R rows, C columns) cells through a volume of shape (D, H, W) = (slice z, row y, column x).

    World coordinates are those of ASTRA's 3D geometries: ``x`` along the columns, ``y`` along the rows (a larger row index lies at a
    larger ``y``, **unlike** the 2D scans of this package, whose ``y`` points against the rows), ``z`` along the slices; the origin is
    the volume's centre. Voxel (i, j, k) is centred at ``x = (k - (W - 1) / 2) * voxel_size[2]``, and so on. Vectors are in ASTRA's
    order: ``cone_vec`` is (source, detector, u, v), ``parallel3d_vec`` is (ray direction, detector, u, v).

    With ``c' = c - (C - 1) / 2`` and ``r' = r - (R - 1) / 2``, cell (r, c) is centred at

    - flat: ``detector + c' u + r' v``;
    - curved: ``source + cos(a) e + sin(a) |e| u / |u| + r' v`` with ``e = detector - source`` and ``a = c' |u| / |e|``. With ``u``, ``v``
      and ``e`` perpendicular to each other this is a cylinder around the source with axis ``v`` and radius ``|e|``.

    Attributes:
        source: (V, 3) source position (x, y, z) in the user's unit; for parallel beams the ray DIRECTION (any length).
        detector: (V, 3) centre of the panel.
        u: (V, 3) from cell (r, c) to (r, c + 1).
        v: (V, 3) from cell (r, c) to (r + 1, c).
        panel: (R, C).
        volume: (D, H, W).
        voxel_size: (z, y, x), in the user's unit.
        parallel: rays are parallel to ``source`` in each view.
        curved: the panel lies on a cylinder around the source: columns are equally spaced in angle, with the spacing ``|u|`` along the
            arc; rows run straight along ``v``. Not with ``parallel``.
    """

    source: Tensor
    detector: Tensor
    u: Tensor
    v: Tensor
    panel: tuple[int, int]
    volume: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    parallel: bool
    curved: bool

    def __post_init__(self) -> None:
        if self.parallel and self.curved:
            raise InputError(
                "a curved panel lies around a source, and a parallel beam has none; choose one of `parallel` and `curved`"
            )

    @property
    def count(self) -> int:
        """V, the number of views."""
        return int(self.source.shape[0])
