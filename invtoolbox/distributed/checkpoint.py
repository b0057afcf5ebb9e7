"""Checkpoints of a run on ranks: one file per rank, read by any number of ranks.

The files of ``run.ckpt`` are ``run.ckpt.000120.0of2`` and ``run.ckpt.000120.1of2`` after 120
iterations. Older files are deleted once all ranks have written theirs, so that a run that is killed
at any moment leaves a complete set. All ranks need the same folder, as of a network file system.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.content import digest
from invtoolbox.datasets.output import write_bytes
from invtoolbox.distributed.slabs import Slabs
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint, Writer
from invtoolbox.loop.run import Loop

#: Axes of ``(1, channel, D, H, W)`` and ``(1, channel, V, R, C)`` that ranks divide.
_SLICES, _ROWS = 2, 3


class RankWriter(Writer):
    """Writes the loop of one rank, and reads that of any number of ranks.

    Args:
        settings: path and period.
        fingerprint: digests of everything that must be equal.
        operator: the operator of the run.
    """

    # Ranks that are interrupted at different steps have no common state.
    writes_when_interrupted = False

    def __init__(
        self, settings: Checkpoint, fingerprint: Mapping[str, str], operator: Slabs
    ) -> None:
        super().__init__(settings, fingerprint)
        self.operator, self.ranks = operator, operator.ranks
        shapes = self.ranks.gather((operator.domain_shape, operator.range_shape))
        if any(domain == projections for domain, projections in shapes):
            raise InputError(
                "a slab and its rows of projections have the same shape, so a checkpoint could not "
                "distinguish them; use another number of ranks, or no checkpoint="
            )

    def _is_due(self, loop: Loop, due: bool) -> bool:
        # The clocks of ranks differ: all write if one of them would.
        return bool(self.ranks.sum(loop.x.new_tensor([float(due)])) > 0)

    def _save(self, loop: Loop, content: bytes) -> None:
        rank, size = self.ranks.rank, self.ranks.size
        name = f"{self.path.name}.{loop.iteration:06d}.{rank}of{size}"
        failure = ""
        try:
            write_bytes(self.path.with_name(name), content, overwrite=True)
        except (InputError, OSError) as error:
            failure = str(error) or type(error).__name__
        if failures := [text for text in self.ranks.gather(failure) if text]:
            raise OSError(failures[0])
        if rank == 0:
            for path, iteration, count, _ in self._files():
                if (iteration, count) != (loop.iteration, size):
                    path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, str], dict[str, Tensor]] | None:
        from safetensors import safe_open

        # All ranks take the set that rank 0 sees.
        paths = self.ranks.gather(self._newest() if self.ranks.rank == 0 else None)[0]
        if not paths:
            return None
        meta: dict[str, str] = {}
        shapes: list[dict[str, tuple[int, ...]]] = []
        for path in paths:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                names = file.keys()
                shapes.append({name: tuple(file.get_slice(name).get_shape()) for name in names})
        tensors = {name: self._join(name, paths, shapes) for name in shapes[0]}
        return meta, tensors

    def _join(
        self, name: str, paths: list[Path], shapes: list[dict[str, tuple[int, ...]]]
    ) -> Tensor:
        """Return this rank's part of a tensor that is divided over files, or the tensor itself."""
        from safetensors import safe_open

        axis = self._divided_axis([of_file[name] for of_file in shapes])
        if axis is None:
            with safe_open(paths[0], framework="pt") as file:
                return file.get_tensor(name)
        mine = self.operator.planes if axis == _SLICES else self.operator.rows
        pieces, first = [], 0
        for path, of_file in zip(paths, shapes):
            last = first + of_file[name][axis]
            start, stop = max(mine.start, first) - first, min(mine.stop, last) - first
            if start < stop:
                with safe_open(path, framework="pt") as file:
                    index = (slice(None),) * axis + (slice(start, stop),)
                    pieces.append(file.get_slice(name)[index])
            first = last
        return torch.cat(pieces, axis)

    def _divided_axis(self, shapes: list[tuple[int, ...]]) -> int | None:
        """Return the axis along which the tensors of the files add up to a volume or a panel."""
        scan = self.operator.scan
        wholes = {
            _SLICES: tuple(scan.volume_shape),
            _ROWS: (scan.blocks, *scan.detector_shape),
        }
        for axis, whole in wholes.items():
            if len(shapes[0]) == 5:
                joined = list(shapes[0])
                joined[axis] = sum(shape[axis] for shape in shapes)
                if tuple(joined[2:]) == whole:
                    return axis
        return None

    def _files(self) -> list[tuple[Path, int, int, int]]:
        """Return path, iteration, number of ranks and rank of every file of this checkpoint."""
        pattern = re.compile(re.escape(self.path.name) + r"\.(\d{6,})\.(\d+)of(\d+)")
        matches = ((p, pattern.fullmatch(p.name)) for p in self.path.parent.iterdir())
        return [(p, int(m[1]), int(m[3]), int(m[2])) for p, m in matches if m is not None]

    def _newest(self) -> list[Path]:
        """Return the files of the last iteration that all of its ranks have written."""
        sets: dict[tuple[int, int], dict[int, Path]] = {}
        for path, iteration, size, rank in self._files():
            sets.setdefault((iteration, size), {})[rank] = path
        for (_, size), files in sorted(sets.items(), reverse=True):
            if len(files) == size:
                return [files[rank] for rank in range(size)]
        return []


def whole_content(A: Slabs, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint must agree with, in a form that does not depend on the division.

    Slabs and rows are replaced by the digests of their slices and rows, of all ranks.

    Args:
        A: the operator of the run.
        parts: measurements, data term, initial guess and all other parts by name.
    """
    term = parts["data term"]
    weights = term.weights
    return dict(parts) | {
        "measurements": _digests(A, parts["measurements"], _ROWS),
        "data term": [
            term._replace(weights=None),
            None if weights is None else _digests(A, weights.expand(1, *A.range_shape), _ROWS),
        ],
        "initial guess": _digests(A, parts["initial guess"], _SLICES),
    }


def _digests(A: Slabs, tensor: Any, axis: int) -> Any:
    if not isinstance(tensor, Tensor):
        return tensor
    lines = [digest(line) for line in tensor.unbind(axis)]
    return [text for texts in A.ranks.gather(lines) for text in texts]
