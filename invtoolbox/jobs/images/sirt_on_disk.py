"""SIRT from disk to disk: the volume in slabs, the projections in chunks of views.

The answer is that of `invtoolbox.solvers.SIRT`, to rounding. A projection is the sum of the
projections of the slabs, also of a cone beam, where a ray crosses several of them; a slab of the
back-projection is the sum over the chunks of views. So an iteration has two rounds of independent
tasks: every chunk of views computes its residual from the slabs on the disk, then every slab is
corrected from these residuals. The sums have a fixed order, so the bits do not depend on the number
of workers. A run that was stopped repeats the iteration that it was in.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from invtoolbox import datasets
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.datasets.output import make_folder
from invtoolbox.jobs.images.slabs import Plan, slab_file
from invtoolbox.jobs.job import read_json, write_json
from invtoolbox.jobs.study.workers import Perform
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import inner
from invtoolbox.operators.tomography.scan_3d import Scan3D
from invtoolbox.solvers.preconditioner import inverse_or_zero
from invtoolbox.solvers.sirt import SIRT, constrain

#: Bytes per voxel of a slab, and per value of a chunk of views.
PER_VOXEL, PER_VALUE = 36, 28


@dataclass(frozen=True)
class SlabSIRT:
    """SIRT on files; the methods with a number are tasks.

    The folder holds the measurements, the row sums and the weighted residual of every chunk of
    views, and the column sums and the iterates of every slab.

    Attributes:
        scan: the scan.
        plan: division of volume and views.
        folder: folder of all files.
        solver: settings.
        objective: constraints and noise level; its problem is not used otherwise.
        read: function that reads the measurements of some views, ``(1, 1, V', R, C)``.
    """

    scan: Scan3D
    plan: Plan
    folder: Path
    solver: SIRT
    objective: Objective
    read: Callable[[slice], Tensor]

    def run(
        self,
        perform: Perform,
        max_iterations: int | None,
        tolerance: float | None,
        progress: bool,
    ) -> tuple[Path, str]:
        """Iterate; return the folder of the slabs, and a phrase about the end.

        Args:
            perform: function that does tasks.
            max_iterations: largest number of iterations; None for the solver's own.
            tolerance: bound of the certificate; None for the solver's own.
            progress: whether to show a bar on a terminal.
        """
        most = self.solver.max_iterations if max_iterations is None else max_iterations
        bound = self.solver.tolerance if tolerance is None else tolerance
        chunks, slabs = range(len(self._chunks())), range(len(self.plan.slabs(self.scan)))

        def total(task: Callable[[int], Any], numbers: range) -> list[Any]:
            outcomes = dict(perform(task, numbers))
            return [outcomes[number] for number in numbers]

        record = self.folder / "record.json"
        if not record.exists():
            row = max(total(self.sum_rows, chunks))
            make_folder(self._iterate(0))
            column = max(total(partial(self.sum_columns, row), slabs))
            write_json(record, {"iteration": 0, "row": row, "column": column, "certificate": None})
        facts = read_json(record)
        term = cast(LeastSquares, self.objective.problem.data_term)
        # tau times the expected discrepancy; without a noise level, no discrepancy is small enough.
        expected = math.sqrt(np.prod(self.scan.range_shape))
        target = -1.0 if term.noise_std is None else self.solver.tau * expected
        with tqdm(total=most, initial=facts["iteration"], disable=not progress or None) as bar:
            while True:
                iteration, certificate = facts["iteration"], facts["certificate"]
                residual = partial(self.compute_residual, iteration, facts["row"])
                discrepancy = math.sqrt(2 * sum(total(residual, chunks)))
                is_met = certificate is not None and certificate <= bound
                if is_met or discrepancy <= target or iteration >= most:
                    break
                make_folder(self._iterate(iteration + 1))
                lengths = total(partial(self.correct, iteration, facts["column"]), slabs)
                step, first = (math.sqrt(sum(squares)) for squares in zip(*lengths))
                scale = facts.get("scale", first)
                certificate = step / self.solver.relaxation / (scale or 1.0)
                facts |= {"iteration": iteration + 1, "scale": scale, "certificate": certificate}
                write_json(record, facts)
                shutil.rmtree(self._iterate(iteration), ignore_errors=True)
                bar.update()
        reason = "discrepancy" if discrepancy <= target else self.solver.certificate_name
        end = f"converged ({reason})" if is_met or discrepancy <= target else "not converged"
        return self._iterate(iteration), f"SIRT, {iteration} iterations, {end},"

    def sum_rows(self, number: int) -> float:
        """Write the measurements and the row sums of a chunk; return the largest sum."""
        views = self._chunks()[number]
        sums = self._project(views, lambda slab, shape: torch.ones(shape))
        datasets.write_npy(self._file("views", number), self.read(views), overwrite=True)
        datasets.write_npy(self._file("rows", number), sums, overwrite=True)
        return float(sums.max())

    def sum_columns(self, largest: float, number: int) -> float:
        """Write the column sums of a slab, and its first iterate; return the largest sum."""

        def ones(sums: Tensor) -> Tensor:
            # A row whose sum is 0 has the weight 0, so the column sums leave it out.
            return inverse_or_zero(sums, sums.new_tensor([largest])).mul_(sums)

        sums = self._backproject("rows", number, ones)
        datasets.write_npy(self._file("columns", number), sums, overwrite=True)
        start = constrain(self.objective, torch.zeros_like(sums))
        datasets.write_npy(slab_file(self._iterate(0), number), start[0, 0], overwrite=True)
        return float(sums.max())

    def compute_residual(self, iteration: int, largest: float, number: int) -> float:
        """Write R (y - A x) of a chunk; return its data term."""

        def load(slab: int, shape: tuple[int, ...]) -> Tensor:
            return _load(slab_file(self._iterate(iteration), slab)).view(shape)

        prediction = self._project(self._chunks()[number], load)
        y = _load(self._file("views", number))
        value = float(self.objective.problem.data_term.value(prediction, y))
        rows = inverse_or_zero(_load(self._file("rows", number)), prediction.new_tensor([largest]))
        residual = torch.sub(y, prediction, out=prediction).mul_(rows)
        datasets.write_npy(self._file("residual", number), residual, overwrite=True)
        return value

    def correct(self, iteration: int, largest: float, number: int) -> tuple[float, float]:
        """Write the next iterate of a slab; return the squared lengths of two steps.

        They are those of the step and of the one without constraints, in the metric ``C^-1``.
        """
        update = self._backproject("residual", number, lambda residual: residual)
        columns = inverse_or_zero(
            _load(self._file("columns", number)), update.new_tensor([largest])
        )
        update.mul_(columns)
        x = _load(slab_file(self._iterate(iteration), number)).view_as(update)
        # x = P(x + relaxation C A^T R (y - A x))
        after = constrain(self.objective, torch.add(x, update, alpha=self.solver.relaxation))
        datasets.write_npy(
            slab_file(self._iterate(iteration + 1), number), after[0, 0], overwrite=True
        )
        metric, step = inverse_or_zero(columns), after.sub_(x)
        return float(inner(step, step * metric)), float(inner(update, update * metric))

    def _project(self, views: slice, load: Callable[[int, tuple[int, ...]], Tensor]) -> Tensor:
        """Project all slabs onto some views.

        Args:
            views: the views.
            load: function of the number of a slab and its shape that returns the slab.
        """
        scan = self.scan.subset(views)
        total = torch.zeros(1, *scan.range_shape)
        for number, ends in enumerate(self.plan.slabs(scan)):
            slab, rows = scan.slab(*ends)
            x = load(number, (1, *slab.domain_shape))
            # The first iterate may be 0.
            if bool(x.any()):
                total[..., rows, :] += slab(x)
        return total

    def _backproject(self, name: str, number: int, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Back-project the files of all chunks onto a slab.

        Args:
            name: name of the files.
            number: number of the slab.
            change: function of the content of a file.
        """
        ends = self.plan.slabs(self.scan)[number]
        total = torch.zeros(1, *self.scan.slab(*ends)[0].domain_shape)
        for k, views in enumerate(self._chunks()):
            slab, rows = self.scan.subset(views).slab(*ends)
            y = change(_load(self._file(name, k), rows))
            total += slab.adjoint(y)
        return total

    def _chunks(self) -> list[slice]:
        """Return the views of every chunk."""
        return [views for views, _ in self.scan.chunks(self.plan.views)]

    def _iterate(self, iteration: int) -> Path:
        return self.folder / f"iterate_{iteration:05d}"

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{name}_{number:05d}.npy"


def _load(path: Path, rows: slice = slice(None)) -> Tensor:
    """Read a file, or some of the rows of its projections."""
    return torch.from_numpy(np.array(np.load(path, mmap_mode="r")[..., rows, :]))
