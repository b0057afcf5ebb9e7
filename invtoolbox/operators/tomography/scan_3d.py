"""Base class of the 3D scans: parameters, channels, views, chunks of views, inversion."""

from __future__ import annotations

import copy
import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.rays import Views
from invtoolbox.kernels.tomography.volume import backproject_volume, project_volume
from invtoolbox.operators.base import check_shape
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.operators.tomography.scan_checks import (
    check_view,
    half_size,
    lengths,
    seen_cells,
    shape_of,
    whole,
)

#: Number of values in a chunk of projections if the volume has fewer values: 64 MB in float32.
_CHUNK = 1 << 24
_FEWEST_VIEWS = 8


class Scan3D(Scan):
    """3D scan along straight rays: line integrals of ``(batch, channel, D, H, W)``.

    The result has the shape ``(batch, channel, V, R, C)``: V views of a panel with R rows and C
    columns. A subclass implements the poses of source and panel (`_vectors`), and the analytic
    inversion if it exists (`_invert`). Any number of channels is accepted.

    Every parameter has one entry per view, or one for all views: shape (V, ...) or (1, ...). With
    one more axis in front it belongs to the items of the batch: (items, V, ...) or (items, 1, ...).

    Attributes:
        volume_shape: shape (D, H, W) = (slice z, row y, column x).
        voxel_size: size of a voxel, (z, y, x), lengths.
        detector_shape: shape (R, C).
        parallel: whether the rays of a view are parallel.
        curved: whether the panel is an arc around the source.
        views_per_chunk: number of views processed at a time, if work is done in chunks; ``None``
            chooses it.
    """

    #: The parameters, and the number of components of each per view (0: one number). The first
    #: parameter determines the number of views.
    _components: ClassVar[dict[str, int]]

    parallel: bool = False
    curved: bool = False
    detector_spacing: tuple[float, float]

    def __init__(
        self,
        volume_shape: Sequence[int],
        detector_shape: Sequence[int],
        voxel_size: float | Sequence[float],
        parameters: dict[str, Any],
        views_per_chunk: int | None,
    ) -> None:
        channels, self.volume_shape = shape_of(
            "volume_shape", volume_shape, ("slices", "rows", "columns")
        )
        panels, self.detector_shape = shape_of(
            "detector_shape", detector_shape, ("rows", "columns")
        )
        if panels != 1:
            raise InputError(f"detector_shape must be (rows, columns), got {tuple(detector_shape)}")
        self.voxel_size: tuple[float, float, float] = lengths(
            "voxel_size", voxel_size, ("slice", "row", "column")
        )
        self.views_per_chunk = (
            None if views_per_chunk is None else whole("views_per_chunk", views_per_chunk)
        )
        self.domain_shape = (channels, *self.volume_shape)
        for name, value in parameters.items():
            setattr(self, name, self._check_parameter(name, value))
        self._settle()

    # -- for subclasses to implement ---------------------------------------------------------------

    @abstractmethod
    def _vectors(self, parameters: dict[str, Tensor]) -> Tensor:
        """Compute the vectors of every view, (V, 12), from parameters in float64.

        The vectors are source (or ray direction), centre of the panel, u and v.
        """

    def _invert(
        self, y: Tensor, parameters: dict[str, Tensor], views: slice, filter: str, cutoff: float
    ) -> Tensor:
        """Compute the analytic inversion ``(N, D, H, W)`` of some views ``(N, V', R, C)``.

        The inversion of a scan is the sum over its views.
        """
        raise InputError(
            f"{self} has no closed-form pseudo-inverse; use it.solve(problem, "
            "solver=it.solvers.CGLS())"
        )

    # -- parameters --------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self._components}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        scan = super()._replace(parameters)
        for name in parameters:
            setattr(scan, name, scan._check_parameter(name, getattr(scan, name)))
        scan._settle()
        return scan

    def select(self, index: Tensor) -> Self:
        if self.items is None:
            return self
        scan = copy.copy(self)
        for name, value in self.parameters().items():
            if self._per_item(name, value) and value.shape[0] > 1:
                setattr(scan, name, value.index_select(0, index.to(value.device)))
        return scan._with_items(len(index))

    def subset(self, index: Tensor | slice | Sequence[int]) -> Self:
        """Return the scan of some views: ``A.subset(i)(x) = A(x)[:, :, i]``.

        >>> import invtoolbox as it
        >>> A = it.operators.ParallelBeam3D((2, 4, 4), torch.linspace(0, 3, 6), (2, 7))
        >>> A.subset([0, 2]).range_shape
        (1, 2, 2, 7)
        """
        scan = copy.copy(self)
        for name, value in self.parameters().items():
            axis = value.ndim - 1 - bool(self._components[name])
            if value.shape[axis] == self.blocks and (
                self.blocks > 1 or name == next(iter(self._components))
            ):
                pick = (
                    index
                    if isinstance(index, slice)
                    else torch.as_tensor(index, device=value.device)
                )
                setattr(scan, name, value[(slice(None),) * axis + (pick,)])
        scan._settle()
        return scan

    @property
    def blocks(self) -> int:
        """The number of views."""
        name = next(iter(self._components))
        return int(getattr(self, name).shape[-1 - bool(self._components[name])])

    @property
    def vectors(self) -> Tensor:
        """Vectors of source and panel, (V, 12) in float64, or (items, V, 12).

        They are in ASTRA's order and in world coordinates: source (or ray direction), centre of the
        panel, u, v; see `Views`. They are differentiable in the parameters.
        """
        if self.items is None:
            return self._vectors(self._item(None))
        return torch.stack([self._vectors(self._item(k)) for k in range(self.items)])

    def _per_item(self, name: str, value: Tensor) -> bool:
        return value.ndim == 2 + bool(self._components[name])

    def _item(self, item: int | None) -> dict[str, Tensor]:
        """Return the parameters of one item of the batch, in float64."""
        return {
            name: (
                value
                if item is None or not self._per_item(name, value)
                else value[min(item, len(value) - 1)]
            ).double()
            for name, value in self.parameters().items()
        }

    def _check_parameter(self, name: str, value: Any) -> Tensor:
        """Return a parameter as a tensor with the axis of the views."""
        parts = self._components[name]
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
        tensor = tensor if tensor.is_floating_point() else tensor.double()
        if tensor.ndim == bool(parts):
            tensor = tensor[None]
        if tensor.ndim not in (1 + bool(parts), 2 + bool(parts)) or (
            parts and tensor.shape[-1] != parts
        ):
            tail = f", {parts}" if parts else ""
            raise InputError(
                f"{name} of a {type(self).__name__} must have the shape (views{tail}) or "
                f"(1{tail}), or one more axis in front for the items of a batch; got "
                f"{tuple(tensor.shape)}"
            )
        return tensor

    def _settle(self) -> None:
        """Set the attributes that follow from the parameters: the numbers of views and of items."""
        views, items = self.blocks, []
        for name, value in self.parameters().items():
            axis = value.ndim - 1 - bool(self._components[name])
            if value.shape[axis] not in (1, views) or views == 0:
                raise InputError(
                    f"{name} of a {type(self).__name__} must have one entry, or one per view "
                    f"({views}), got shape {tuple(value.shape)}"
                )
            if self._per_item(name, value):
                items.append(len(value))
        counts = {count for count in items if count != 1}
        if len(counts) > 1:
            raise InputError(
                f"the parameters of a {type(self).__name__} belong to different numbers of items: "
                f"{sorted(counts)}"
            )
        self.items = max(items) if items else None
        self.range_shape = (self.domain_shape[0], views, *self.detector_shape)

    def _set_cells(self, count: int) -> None:
        self.detector_shape = (self.detector_shape[0], count)
        self._settle()

    def refine(self) -> Self:
        scan, (slices, rows, columns) = copy.copy(self), self.voxel_size
        scan.voxel_size = (slices / 2, rows / 2, columns / 2)
        scan._set_image((self.domain_shape[0], *(2 * n for n in self.volume_shape)))
        return scan

    def _set_image(self, shape: tuple[int, ...]) -> None:
        self.domain_shape, self.volume_shape = shape, shape[1:]

    # -- the operator ------------------------------------------------------------------------------

    def _views(self, vectors: Tensor, like: Tensor) -> Views:
        source, detector, u, v = vectors.to(like.device).split(3, -1)
        return Views(
            source=source.contiguous(),
            detector=detector.contiguous(),
            u=u.contiguous(),
            v=v.contiguous(),
            panel=self.detector_shape,
            volume=self.volume_shape,
            voxel_size=self.voxel_size,
            parallel=self.parallel,
            curved=self.curved,
        )

    def _forward(self, x: Tensor) -> Tensor:
        return self._each_item(
            lambda item, p: project_volume(item, self._views(self._vectors(p), item)), x
        )

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._each_item(
            lambda item, p: backproject_volume(item, self._views(self._vectors(p), item)), y
        )

    def _each_item(
        self, function: Callable[[Tensor, dict[str, Tensor]], Tensor], value: Tensor
    ) -> Tensor:
        """Apply ``function`` with the channels in the batch, or per item if geometries differ."""
        if self.items is None:
            return function(value.flatten(0, 1), self._item(None)).unflatten(0, value.shape[:2])
        return torch.stack([function(item, self._item(k)) for k, item in enumerate(value)])

    def normal(self, x: Tensor) -> Tensor:
        """Compute A^T A x by chunks: not all projections are in memory together."""
        check_shape(x, self.domain_shape, f"{self} takes x", self.channelwise, self.items)
        return _sum(scan._adjoint(scan._forward(x)) for _, scan in self.chunks())

    # -- chunks of views ---------------------------------------------------------------------------

    def chunks(self, views_per_chunk: int | None = None) -> Iterator[tuple[slice, Self]]:
        """Iterate over consecutive parts of the scan: (views, scan of these views).

        Chunks serve projections that do not fit in memory. By default a part holds about as many
        values as the volume, but at least 64 MB of float32 and 8 views.

        >>> import invtoolbox as it
        >>> A = it.operators.ParallelBeam3D((2, 4, 4), torch.linspace(0, 3, 6), (2, 7))
        >>> [views for views, part in A.chunks(4)]
        [slice(0, 4, None), slice(4, 6, None)]
        """
        depth, height, width = self.volume_shape
        count = (
            views_per_chunk
            or self.views_per_chunk
            or self._views_of(max(depth * height * width, _CHUNK))
        )
        for start in range(0, self.blocks, count):
            views = slice(start, min(start + count, self.blocks))
            yield views, self if views == slice(0, self.blocks) else self.subset(views)

    def _views_of(self, values: int) -> int:
        return max(values // (self.detector_shape[0] * self.detector_shape[1]), _FEWEST_VIEWS)

    def project_chunks(
        self, x: Tensor, views_per_chunk: int | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Compute ``A(x)`` part by part, for projections that are written away as they come.

        Each part is (views, projections of these views ``(batch, channel, V', R, C)``).

        >>> import invtoolbox as it
        >>> A = it.operators.ParallelBeam3D((2, 4, 4), torch.linspace(0, 3, 6), (2, 7))
        >>> [y.shape[2] for views, y in A.project_chunks(torch.ones(1, 1, 2, 4, 4), 4)]
        [4, 2]
        """
        check_shape(x, self.domain_shape, f"{self} takes x", self.channelwise, self.items)
        for views, scan in self.chunks(views_per_chunk):
            yield views, scan._forward(x)

    def adjoint_chunks(
        self, load: Callable[[slice], Tensor], views_per_chunk: int | None = None
    ) -> Tensor:
        """Compute ``A^T y`` of projections that are read part by part.

        Args:
            load: function that returns the projections of some views,
                ``(batch, channel, V', R, C)``; with a memory-mapped array
                ``lambda views: torch.from_numpy(array[None, None, views])``.
            views_per_chunk: number of views per part; see `chunks`.

        >>> import invtoolbox as it
        >>> A = it.operators.ParallelBeam3D((2, 4, 4), torch.linspace(0, 3, 6), (2, 7))
        >>> y = A(torch.ones(1, 1, 2, 4, 4))
        >>> torch.allclose(A.adjoint_chunks(lambda views: y[:, :, views], 4), A.adjoint(y))
        True
        """
        return _sum(scan.adjoint(load(views)) for views, scan in self.chunks(views_per_chunk))

    # -- slabs of the volume -----------------------------------------------------------------------

    def slab(self, start: int, stop: int) -> tuple[Self, slice]:
        """Return the scan of the slices ``start`` to ``stop - 1``, and the panel rows that see them.

        Slabs serve volumes that do not fit in memory: the `pseudo_inverse` of a slab's rows is the
        slab of the `pseudo_inverse`, to rounding.

        Args:
            start: first slice.
            stop: slice after the last one.

        Raises:
            InputError: no such slices; or a helix, a curved panel, poses per view or per item.

        >>> import invtoolbox as it
        >>> A = it.operators.ParallelBeam3D((6, 4, 4), torch.linspace(0, 3, 6), (6, 7))
        >>> A.slab(0, 2)
        (ParallelBeam3D(2x4x4, 6 views, panel 4x7), slice(0, 4, None))
        """
        p, depth = self.parameters(), self.volume_shape[0]
        if not 0 <= start < stop <= depth:
            raise InputError(f"slices {start} to {stop} of {self}, which has {depth} slices")
        if (
            self.items is not None
            or self.curved
            or "tilt" not in p
            or bool((p.get("pitch", p["tilt"] * 0) != 0).any())
        ):
            raise InputError(
                f"{self} is not divided into slabs: that takes a circle with a flat panel, one for all items"
            )
        # The slab's centre becomes the origin: source and panel move by -height along z, which is
        # (0, cos a, -sin a) in the frame (u, v, n) of a view.
        height = (start + stop - depth) / 2 * self.voxel_size[0]
        zero, up, ahead = p["tilt"] * 0, height * p["tilt"].cos(), -height * p["tilt"].sin()
        changes = {"detector_shift": p["detector_shift"] - torch.stack([zero, up], -1)}
        if not self.parallel:
            changes["source_shift"] = p["source_shift"] - torch.stack([zero, up, ahead], -1)
            changes["source_detector"] = p["source_detector"] - ahead
        scan = self._replace(changes)
        scan._set_image((self.domain_shape[0], stop - start, *self.volume_shape[1:]))
        count = self.detector_shape[0]
        first, last = 0, count
        if not bool((p["detector_rotation"] != 0).any()):
            views = scan._views(scan.vectors.detach(), p["tilt"])
            corners = views.source.new_tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
            row, _, depths = seen_cells(views, corners * half_size(views))
            if bool((depths > 0).all()):
                first = min(max(math.floor(float(row.min())) - 1, 0), count - 1)
                last = max(min(math.ceil(float(row.max())) + 2, count), first + 1)
        shift = ((first + last - count) / 2) * self.detector_spacing[0]
        offset = changes["detector_shift"].new_tensor([0.0, shift])
        scan = scan._replace({"detector_shift": changes["detector_shift"] + offset})
        scan.detector_shape = (last - first, self.detector_shape[1])
        scan._settle()
        return scan, slice(first, last)

    # -- analytic inversion ------------------------------------------------------------------------

    def pseudo_inverse(self, y: Tensor, filter: str = "ram-lak", cutoff: float = 1.0) -> Tensor:
        """Compute the filtered back-projection; differentiable in ``y``.

        Args:
            y: projections, ``(batch, channel, V, R, C)``.
            filter: "ram-lak", "shepp-logan", "cosine", "hamming" or "hann".
            cutoff: fraction of the Nyquist frequency above which nothing passes, in (0, 1].

        Returns:
            volumes, ``(batch, channel, D, H, W)``.
        """
        self._check_measurements("pseudo-inverse", y)
        return self.pseudo_inverse_chunks(lambda views: y[:, :, views], filter, cutoff)

    def pseudo_inverse_chunks(
        self,
        load: Callable[[slice], Tensor],
        filter: str = "ram-lak",
        cutoff: float = 1.0,
        views_per_chunk: int | None = None,
    ) -> Tensor:
        """Compute the `pseudo_inverse` of projections that are read part by part.

        Args:
            load: function that returns the projections of some views; see `adjoint_chunks`.
            filter: filter of `pseudo_inverse`.
            cutoff: fraction of the Nyquist frequency above which nothing passes, in (0, 1].
            views_per_chunk: number of views per part; see `chunks`.
        """

        def invert(views: slice, scan: Scan3D) -> Tensor:
            y = load(views)
            scan._check_measurements("pseudo-inverse", y)
            return self._each_item(lambda item, p: self._invert(item, p, views, filter, cutoff), y)

        # The filter needs several times the memory of its input.
        count = views_per_chunk or self.views_per_chunk or self._views_of(_CHUNK // 4)
        return _sum(invert(views, scan) for views, scan in self.chunks(count))

    def _check_view(self) -> None:
        """Raise if no ray meets the volume or its centre is never seen; warn if it is cut off."""
        vectors = self.vectors.detach()
        for table in vectors if self.items is not None else [vectors]:
            check_view(str(self), self._views(table, table))

    def __repr__(self) -> str:
        volume, panel = (
            "x".join(map(str, shape)) for shape in (self.volume_shape, self.detector_shape)
        )
        curved = ", curved" if self.curved else ""
        return f"{type(self).__name__}({volume}, {self.blocks} views, panel {panel}{curved})"


def _sum(summands: Iterator[Tensor]) -> Tensor:
    """Add up the parts in place of the first, so that no more volumes than needed are in memory."""
    total = next(summands)
    for summand in summands:
        total = total.add_(summand)
    return total
