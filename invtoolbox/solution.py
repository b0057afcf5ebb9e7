"""What `solve` returns."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.problem import Problem

if TYPE_CHECKING:
    from invtoolbox.posteriors.conformal import Calibration

_FORMAT = "invtoolbox solution 1"


@dataclass(frozen=True)
class Solution:
    """The answer to a problem, item by item, and how it came about.

    Attributes:
        x: images ``(batch, channel, *space)``, or whatever the implicit prior decodes to.
        status: per item ``converged``, ``max_iterations``, ``diverged`` (then ``x`` is its last finite iterate) or ``stopped``.
        iterations: steps each item took, ``(batch,)``.
        history: ``objective``, ``certificate``, ``discrepancy`` and ``regularization``, each ``(iterations, batch)``;
            NaN after an item is done, and where a value does not exist (``notes`` says why).
        regularization: the weight of the explicit priors each item ended with, ``(batch,)``.
        parameters: of the implicit prior, where there is one, and the operator's that were unknown, ``(batch, ...)`` each.
        posterior: a distribution over ``x``, only where the method has one.
        solver, prior, certificate: what was run, in words; the tolerance bounds the certificate.
        reason, notes: why this solver, and which rule chose the weight.
        seconds: wall-clock time.
        weight_search: the weights that a rule compared and their scores, where it compared several.
        problem: what was solved, with the operator that was found where parts of it were unknown; ``None`` after `load`.
        measurements, prediction: ``y`` and ``A(x)`` as they were saved, after `load`.
    """

    x: Any
    status: tuple[str, ...]
    iterations: Tensor
    history: dict[str, Tensor]
    regularization: Tensor
    solver: str
    prior: str
    certificate: str
    reason: str
    notes: tuple[str, ...]
    seconds: float
    seed: int
    parameters: dict[str, Tensor] | None = None
    posterior: Any = None
    weight_search: WeightCurve | None = field(default=None, repr=False)
    problem: Problem | None = field(default=None, repr=False)
    measurements: Any = field(default=None, repr=False)
    prediction: Any = field(default=None, repr=False)

    def measured_and_predicted(self) -> tuple[Any, Any]:
        """``y`` and ``A(x)``."""
        if self.problem is None:
            return self.measurements, self.prediction
        with torch.no_grad():
            return self.problem.y, self.problem.operator(self.x)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write everything but the operator to one HDF5 file; `load` reads it back.

        Raises:
            InputError: where the file exists and ``overwrite`` is False, or where it cannot be written.
        """
        import io

        import h5py

        from invtoolbox.datasets.output import write_bytes

        path = Path(path)
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists; give another name, or overwrite=True")
        y, prediction = self.measured_and_predicted()
        groups = {
            "x": self.x,
            "iterations": self.iterations,
            "regularization": self.regularization,
            "history": self.history,
            "parameters": self.parameters,
            "measurements": y,
            "prediction": prediction,
        }
        if self.weight_search is not None:
            groups["weight_search"] = {
                name: getattr(self.weight_search, name) for name in ("weights", "scores", "chosen")
            }
        words = {
            "status": self.status,
            "solver": self.solver,
            "prior": self.prior,
            "certificate": self.certificate,
            "reason": self.reason,
            "notes": self.notes,
            "seconds": self.seconds,
            "seed": self.seed,
            "weight_search": None if self.weight_search is None else self.weight_search.rule,
        }
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.attrs["format"], file.attrs["settings"] = _FORMAT, json.dumps(words)
            for name, value in groups.items():
                _write(file, name, value)
        return write_bytes(path, buffer.getvalue(), overwrite)

    @staticmethod
    def load(path: str | Path) -> Solution:
        """Read what `save` wrote; the operator is not part of it."""
        import h5py

        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("format") != _FORMAT:
                    raise InputError(f"{path} is an HDF5 file, but not a saved solution")
                words = json.loads(file.attrs["settings"])
                groups = {name: _read(file[name]) for name in file}
        except OSError as error:
            raise InputError(f"{path} cannot be read as a saved solution: {error}") from error
        words["status"], words["notes"] = tuple(words["status"]), tuple(words["notes"])
        rule = words.pop("weight_search", None)
        if rule is not None:
            groups["weight_search"] = WeightCurve(rule, **groups["weight_search"])
        return Solution(**words, **groups)

    def report(
        self,
        path: str | Path,
        reference: Tensor | None = None,
        title: str = "Reconstruction",
        overwrite: bool = True,
        calibration: Calibration | None = None,
    ) -> Path:
        """Write one self-contained HTML page: measurements, reconstruction, residual, convergence, settings, versions.

        Where there is a posterior also its mean, standard deviation and samples, and against a ``reference`` how often its intervals
        hold, as they are and by a ``calibration`` (`calibrate_posteriors`).
        """
        from invtoolbox.plotting.report import write_report

        written: Path = write_report(
            self,
            Path(path),
            reference=reference,
            title=title,
            overwrite=overwrite,
            calibration=calibration,
        )
        return written

    def plot(self, reference: Tensor | None = None) -> Any:
        """A matplotlib figure: reconstruction, measurements, residual and convergence of the first item."""
        from invtoolbox.plotting.figures import solution_figure

        return solution_figure(self, reference=reference)

    def __str__(self) -> str:
        states = ", ".join(f"{count} {name}" for name, count in Counter(self.status).items())
        lines = [
            f"Solution: x {shape_of(self.x)}, {states}, at most {int(self.iterations.max())} iterations, {self.seconds:.2f} s",
            f"  solver: {self.solver}",
            f"  prior:  {self.prior}",
            *(f"  {line}" for line in (self.reason, *self.notes) if line),
        ]
        return "\n".join(lines)


def shape_of(x: Any) -> str:
    """The shape of an answer in words: of a tensor, or of every part of a tuple.

    >>> shape_of((torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)))
    '((1, 2, 3), (1, 2, 3))'
    """
    if isinstance(x, tuple):
        return f"({', '.join(map(shape_of, x))})"
    return str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__


def _write(file: Any, name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, Tensor):
        file[name] = value.detach().cpu().numpy()
        return
    group = file.create_group(name)
    group.attrs["kind"] = "dict" if isinstance(value, dict) else "tuple"
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        _write(group, str(key), part)


def _read(node: Any) -> Any:
    import h5py

    if isinstance(node, h5py.Dataset):
        return torch.from_numpy(node[()]) if node.shape else torch.tensor(node[()])
    if node.attrs["kind"] == "dict":
        return {name: _read(part) for name, part in node.items()}
    return tuple(_read(node[str(k)]) for k in range(len(node)))
