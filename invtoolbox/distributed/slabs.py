"""A 3D scan whose volume and projections are divided over the ranks of a process group.

Rank r holds slices ``planes`` of the volume and rows ``rows`` of the panel, of all views. Along the
axis of rotation the rays that cross a slab meet a band of neighbouring rows only. So a projection
takes the partial sums of the rows that a slab sees beyond the rank's own, from their owners and to
them; a back-projection takes the same rows in the other direction. For a parallel beam the bands
overlap by two rows, for a cone by the spread of a plane of voxels on the panel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from invtoolbox.core.content import digest
from invtoolbox.core.ranks import Ranks, summing_over
from invtoolbox.errors import InputError
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.operators.tomography.scan_3d import Scan3D

#: Largest number of values of a chunk of projections, in voxels of the slab, and the least number.
_SHARE, _LEAST = 0.5, 1 << 20
#: Number of values of the whole panel that the filter of the analytic inversion works on at a time,
#: divided by the number of ranks; its padding and transforms take several times this memory.
_FILTERED = 1 << 22


class Part(NamedTuple):
    """Share of one rank: the scan of its slices, its slices, the rows that see them, its rows."""

    slab: Scan3D
    planes: slice
    band: slice
    rows: slice


class Slabs(Scan):
    """The slab of a 3D scan that this rank holds: ``(1, channel, D', H, W)`` to rows of the panel.

    ``A(x)`` takes this rank's slices and returns this rank's rows, ``(1, channel, V, R', C)``; all
    ranks call it together. Sums over projections and volume are those of all ranks within
    `invtoolbox.solve`.

    Args:
        scan: `ConeBeam` or `ParallelBeam3D` of the whole volume, the same on all ranks.
        group: process group of ``torch.distributed``; None for the default one.

    Attributes:
        planes: slices of the volume that this rank holds.
        rows: rows of the panel that this rank holds.
        band: rows of the panel that see the slab.

    Raises:
        InputError: no process group; a scan that cannot be divided (a helix, a curved panel, poses
            per view or per item), or that is not the same on all ranks; more ranks than slices or
            rows.

    >>> import tempfile, torch.distributed as dist, invtoolbox as it
    >>> file = tempfile.NamedTemporaryFile()
    >>> dist.init_process_group("gloo", init_method=f"file://{file.name}", rank=0, world_size=1)
    >>> A = it.distributed.Slabs(
    ...     it.operators.ParallelBeam3D((6, 4, 4), torch.linspace(0, 3, 5), (6, 7))
    ... )
    >>> A.planes, A.rows, A(torch.ones(1, 1, 6, 4, 4)).shape
    (slice(0, 6, None), slice(0, 6, None), torch.Size([1, 1, 5, 6, 7]))
    >>> dist.destroy_process_group()
    """

    # A run may be resumed with another division.
    cache_fields: ClassVar[tuple[str, ...]] = (
        "ranks",
        "slab",
        "planes",
        "band",
        "rows",
        "domain_shape",
        "range_shape",
        "_out",
        "_in",
        "views_per_chunk",
    )

    def __init__(self, scan: Scan3D, group: Any = None) -> None:
        if not isinstance(scan, Scan3D):
            raise InputError(
                f"{scan} is not divided over ranks: that takes a 3D scan, ConeBeam or ParallelBeam3D"
            )
        self.scan, self.ranks = scan, Ranks.of_group(group)
        count, rank = self.ranks.size, self.ranks.rank
        parts = divide(scan, count)
        if len(set(self.ranks.gather(digest(scan)))) > 1:
            raise InputError(
                "ranks divide one scan, and theirs differ; make the same one on all ranks"
            )
        bands, owned = [slab.band for slab in parts], [slab.rows for slab in parts]
        self.slab, self.planes, self.band, self.rows = parts[rank]
        # Rows of this slab's band by owner, and this rank's rows by the slab that sees them.
        self._out = {q: rows for q in range(count) if (rows := _overlap(self.band, owned[q]))}
        self._in = {q: rows for q in range(count) if (rows := _overlap(bands[q], self.rows))}
        shape = (self.planes.stop - self.planes.start, *scan.volume_shape[1:])
        self.domain_shape = (scan.domain_shape[0], *shape)
        self.range_shape = (
            scan.domain_shape[0],
            scan.blocks,
            self.rows.stop - self.rows.start,
            scan.detector_shape[1],
        )
        # All ranks take the same chunks.
        thickest = max(_length(slab.planes) for slab in parts)
        values = max(_SHARE * thickest * shape[1] * shape[2], _LEAST)
        widest = max(map(_length, bands)) * scan.detector_shape[1]
        self.views_per_chunk = max(8, int(values // widest))

    def share(self, projections: Any) -> Any:
        """Return this rank's rows of the projections of the whole panel.

        Args:
            projections: tensor or array ``(..., V, R, C)``; of a file that is mapped into memory,
                only these rows are read.
        """
        return projections[..., self.rows, :]

    def gather(self, x: Tensor) -> Tensor | None:
        """Return the whole volume on rank 0, and None on all others.

        Args:
            x: this rank's slab.
        """
        sizes = self.ranks.gather(x.shape[2])
        is_first = self.ranks.rank == 0
        shapes = {q: (*x.shape[:2], sizes[q], *x.shape[3:]) for q in range(1, len(sizes))}
        arrived = self.ranks.exchange({} if is_first else {0: x}, shapes if is_first else {}, x)
        return torch.cat([x, *(arrived[q] for q in sorted(arrived))], 2) if is_first else None

    def _forward(self, x: Tensor) -> Tensor:
        _check_single(x)
        y = x.new_zeros(1, x.shape[1], *self.range_shape[1:])
        for views, chunk in self.slab.chunks(self.views_per_chunk):
            partial = chunk(x)
            arrived = self._exchange(partial, self._out, self.band.start, self._in)
            for q in sorted(arrived):  # in the order of the ranks
                place = _shift(self._in[q], -self.rows.start)
                y[:, :, views, place] += arrived[q]
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        _check_single(y)
        x: Tensor | None = None
        for views, chunk in self.slab.chunks(self.views_per_chunk):
            summand = chunk.adjoint(self._band(y[:, :, views]))
            x = summand if x is None else x.add_(summand)
        assert x is not None
        return x

    def pseudo_inverse(self, y: Tensor, filter: str = "ram-lak", cutoff: float = 1.0) -> Tensor:
        """Compute this rank's slices of the filtered back-projection of all ranks' rows.

        Args:
            y: this rank's rows, ``(1, channel, V, R', C)``.
            filter: filter of `Scan3D.pseudo_inverse`.
            cutoff: fraction of the Nyquist frequency above which nothing passes, in (0, 1].
        """
        self._check_measurements("pseudo-inverse", y)
        return self.pseudo_inverse_chunks(lambda views: y[:, :, views], filter, cutoff)

    def pseudo_inverse_chunks(
        self, load: Callable[[slice], Tensor], filter: str = "ram-lak", cutoff: float = 1.0
    ) -> Tensor:
        """Compute the `pseudo_inverse` of rows that are read part by part.

        Args:
            load: function that returns this rank's rows of some views.
            filter: filter of `Scan3D.pseudo_inverse`.
            cutoff: fraction of the Nyquist frequency above which nothing passes, in (0, 1].
        """
        rows, columns = self.scan.detector_shape
        views = min(self.scan.blocks, _FILTERED // (rows * columns))
        return self.slab.pseudo_inverse_chunks(
            lambda views: self._band(load(views)),
            filter,
            cutoff,
            views_per_chunk=max(8, views // self.ranks.size),
        )

    def _band(self, y: Tensor) -> Tensor:
        """Return the rows that see the slab, from their owners, for some views."""
        _check_single(y)
        arrived = self._exchange(y, self._in, self.rows.start, self._out)
        # The rows of different owners do not overlap and lie in the order of the ranks.
        return torch.cat([arrived[q] for q in sorted(arrived)], 3)

    def _exchange(
        self, y: Tensor, out: dict[int, slice], start: int, into: dict[int, slice]
    ) -> dict[int, Tensor]:
        """Send rows of y, whose first row has the number ``start``, and return those that come."""
        rank = self.ranks.rank
        pieces = {q: y[:, :, :, _shift(rows, -start)] for q, rows in out.items()}
        here = {rank: pieces.pop(rank)} if rank in pieces else {}
        shapes = {
            q: (*y.shape[:3], _length(rows), y.shape[4]) for q, rows in into.items() if q != rank
        }
        return here | self.ranks.exchange(pieces, shapes, y)

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Compute the largest singular value of the whole scan; see `LinearOperator.norm`."""
        with summing_over(self.ranks):
            return super().norm(
                tolerance=tolerance,
                max_iterations=max_iterations,
                seed=seed,
                dtype=dtype,
                device=device,
            )

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        raise InputError(f"the geometry of {self} is that of its scan; divide another scan instead")

    def _set_image(self, shape: tuple[int, ...]) -> None:
        raise InputError(f"the volume of {self} is that of its scan; divide another scan instead")

    def __repr__(self) -> str:
        return f"Slabs({self.scan})"


def divide(scan: Scan3D, count: int) -> list[Part]:
    """Divide a scan among ranks: slices of nearly equal number, and the rows that they see.

    Args:
        scan: scan of the whole volume.
        count: number of ranks.

    Raises:
        InputError: more ranks than slices or rows, or a scan that is not divided into slabs.

    >>> import invtoolbox as it
    >>> A = it.operators.ParallelBeam3D((6, 4, 4), torch.linspace(0, 3, 5), (6, 7))
    >>> [part.rows for part in divide(A, 2)]
    [slice(0, 3, None), slice(3, 6, None)]
    """
    depth, height = scan.volume_shape[0], scan.detector_shape[0]
    if count > min(depth, height):
        raise InputError(
            f"{count} ranks need as many slices and rows of the panel, and {scan} has {depth} "
            f"slices and {height} rows; use fewer ranks"
        )
    limits = itertools.pairwise(depth * r // count for r in range(count + 1))
    planes = [slice(a, b) for a, b in limits]
    slabs = [scan.slab(p.start, p.stop) for p in planes]
    rows = _divide_rows([band for _, band in slabs], height)
    return [Part(slab, p, band, r) for (slab, band), p, r in zip(slabs, planes, rows)]


def _divide_rows(bands: list[slice], count: int) -> list[slice]:
    """Return the rows of every rank: borders in the middle of what two neighbouring slabs see."""
    limits = [0]
    for number, (band, after) in enumerate(itertools.pairwise(bands), 1):
        middle = (band.stop + after.start) // 2
        # At least one row for every rank.
        limits.append(min(max(middle, limits[-1] + 1), count - len(bands) + number))
    limits.append(count)
    return [slice(a, b) for a, b in itertools.pairwise(limits)]


def _overlap(a: slice, b: slice) -> slice | None:
    start, stop = max(a.start, b.start), min(a.stop, b.stop)
    return slice(start, stop) if start < stop else None


def _shift(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)


def _check_single(x: Tensor) -> None:
    if len(x) != 1:
        raise InputError(
            f"ranks divide one volume, got a batch of {len(x)}; solve the volumes one after another"
        )
