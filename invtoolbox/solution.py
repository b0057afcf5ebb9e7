"""The result of `solve`."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invtoolbox.core.decision import Decision, render
from invtoolbox.errors import InputError
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.posteriors.base import Posterior
from invtoolbox.problem import Problem

if TYPE_CHECKING:
    from invtoolbox.posteriors.conformal import Calibration

_FORMAT = "invtoolbox solution 1"
#: Modules of the scenes that a saved solution may hold.
_SCENES = tuple(
    f"invtoolbox.geometry.{m}" for m in ("gaussians", "moving_shapes", "skinning", "voxels")
)
#: Largest depth of the groups of a saved solution.
_DEEPEST = 16
#: Statuses of earlier versions, and their names today.
_RENAMED = {"max_iterations": "limit"}


@dataclass(frozen=True, repr=False)
class Solution:
    """Result of `solve`: an image or another variable per item, and how it was found.

    Attributes:
        x: images ``(batch, channel, *space)``, or whatever the implicit prior decodes to.
        status: per item ``converged``; ``early_stopping`` (the method ends here by design);
            ``limit`` (iterations or time are used up, and `explain` states what more of them would
            bring); ``stopped`` (by a callback, or the solver gave up); ``diverged`` (``x`` is its
            last finite iterate, or the objective is infinite); or ``invalid`` (the measurements of the item hold NaN or
            infinite values; then ``x`` is NaN).
        iterations: steps each item took, ``(batch,)``.
        history: ``objective``, ``certificate``, ``discrepancy`` and ``regularization``, each
            ``(iterations, batch)``; NaN after an item is done, and if a value does not exist
            (``notes`` gives the reason).
        regularization: final weight of the explicit priors, ``(batch,)``.
        solver: solver and its settings, as text.
        prior: priors and their weights, as text.
        certificate: name of the certificate that the tolerance bounds.
        decisions: everything that was decided or noted, in its order: findings of the measurements,
            the choice of weight and solver, and in `reconstruct` every step of
            ``invtoolbox list decisions`` with its evidence and cost.
        seconds: wall-clock time in seconds.
        seed: seed of the random draws.
        parameters: parameters of the implicit prior and unknown parameters of the operator,
            ``(batch, ...)`` each; empty if the image was the only unknown.
        posterior: distribution over ``x``, or None if the method has none.
        weight_search: weights that a rule compared and their scores, or None.
        problem: the problem with the operator that was found; None after `load`.
        data_term: the data term, as text.
        tolerance: bound of the certificate; None in files of earlier versions.
        measurements: ``y`` as it was saved; None before `load`.
        prediction: ``A(x)`` as it was saved; None before `load`.
    """

    x: Any
    status: tuple[str, ...]
    iterations: Tensor
    history: dict[str, Tensor]
    regularization: Tensor
    solver: str
    prior: str
    certificate: str
    decisions: tuple[Decision, ...]
    seconds: float
    seed: int
    parameters: dict[str, Tensor] = field(default_factory=dict)
    posterior: Posterior | None = None
    weight_search: WeightCurve | None = field(default=None, repr=False)
    data_term: str = ""
    tolerance: float | None = None
    problem: Problem | None = field(default=None, repr=False)
    measurements: Any = field(default=None, repr=False)
    prediction: Any = field(default=None, repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user, rendered from the decisions; the choice of the solver is `reason`."""
        return render(self.decisions, len(self.status))

    @property
    def reason(self) -> str:
        """Why this solver was chosen."""
        return self._sentence_of("solver")

    @property
    def weight_choice(self) -> str:
        """How the weight was chosen; empty if it was given."""
        return self._sentence_of("weight")

    def _sentence_of(self, step: str) -> str:
        texts = (d.text(len(self.status)) for d in self.decisions if d.step == step)
        return next(filter(None, texts), "")

    def note(self, *records: Decision | str) -> Solution:
        """Return the solution with further records.

        Args:
            records: the records, which are appended; a sentence is a remark on the run.
        """
        decisions = (
            Decision(step="run", sentence=record) if isinstance(record, str) else record
            for record in records
        )
        return dataclasses.replace(self, decisions=(*self.decisions, *decisions))

    def measured_and_predicted(self) -> tuple[Any, Any]:
        """Return ``y`` and ``A(x)``."""
        if self.problem is None:
            return self.measurements, self.prediction
        with torch.no_grad():
            return self.problem.measured(), self.problem.operator(self.x)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write everything but the operator to one HDF5 file, which `load` reads.

        Args:
            path: name of the file.
            overwrite: replace a file that exists.

        Raises:
            InputError: if the file exists and ``overwrite`` is False, or if it cannot be written.
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
            "parameters": self.parameters or None,
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
            "decisions": [dataclasses.asdict(decision) for decision in self.decisions],
            "seconds": self.seconds,
            "seed": self.seed,
            "data_term": self.data_term,
            "tolerance": self.tolerance,
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
        """Read a file that `save` wrote; the operator is not part of it.

        Args:
            path: name of the file.

        Raises:
            InputError: if the file is not a saved solution.
        """
        from invtoolbox.core.checks import decoding, require_file
        from invtoolbox.datasets.volumes.hdf5 import open_hdf5

        path = require_file(path)
        with decoding(path, "saved solution"):
            with open_hdf5(path) as file:
                if file.attrs.get("format") != _FORMAT:
                    raise InputError(f"{path} is an HDF5 file, but not a saved solution")
                words = json.loads(file.attrs["settings"])
                groups = {name: _read(path, file[name]) for name in file}
            words["status"] = tuple(_RENAMED.get(name, name) for name in words["status"])
            words["decisions"] = _read_decisions(words)
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
        unit: str = "",
    ) -> Path:
        """Write one self-contained HTML page about the solution.

        It begins with a verdict and with the reconstruction beside the simple answer, such as the
        filtered back-projection of a scan; residual, convergence, settings and versions follow.
        If there is a posterior, the page also shows its mean, standard deviation and samples.

        Args:
            path: name of the page.
            reference: true images; adds them, the errors, the gain over the simple answer, and the
                coverage of the intervals of the posterior. Of a "valid" blur, images of the size of
                the measurements also fit, and the metrics are of this part.
            title: title of the page.
            overwrite: replace a page that exists.
            calibration: result of `calibrate_posteriors`; adds the coverage of the calibrated
                intervals.
            unit: unit of the images, such as ``"1/mm"``, shown at their bars of colors.

        Returns:
            The path of the page.
        """
        from invtoolbox.plotting.report import write_report

        return write_report(
            self,
            Path(path),
            reference=reference,
            title=title,
            overwrite=overwrite,
            calibration=calibration,
            unit=unit,
        )

    def plot(self, reference: Tensor | None = None) -> Any:
        """Return a matplotlib figure of the first item.

        It shows reconstruction, measurements, residual and convergence.

        Args:
            reference: true images; adds the reference and the error.
        """
        from invtoolbox.plotting.figures import solution_figure

        return solution_figure(self, reference=reference)

    def explain(self, item: int = 0) -> str:
        """Return in words what was done for one item, and what would change the answer.

        One line each: the noise level, the weight and the rule that chose it, the alternatives that
        were compared, the solver with its certificate and status, and the settings to change. Only
        what the solution holds is used, so a loaded solution has the same text.

        Args:
            item: number of the item in the batch.

        Raises:
            InputError: if there is no such item.

        >>> import invtoolbox as it
        >>> problem = it.Problem(torch.ones(1, 1, 8), it.operators.Identity((1, 8)))
        >>> solution = it.solve(
        ...     problem, 0.5 * it.priors.TotalVariation(), it.solvers.FISTA(), progress=False
        ... )
        >>> print(solution.explain())
        Noise: no level was stated, and none was estimated; the data term is LeastSquares().
        Weight: 1 times 0.5 * TotalVariation(); the weights of the priors are kept as they were
            written; regularization='discrepancy' scales them by the measurements.
        Solver: FISTA was asked for. It converged after 1 iteration: the relative norm of the
            gradient mapping is 0, and the tolerance is 0.0001.
        To change the answer: give regularization= a number, noise_std= a noise level that you
            know, or another prior.
        """
        from invtoolbox.plotting.explanation import explain

        return explain(self, item)

    def __repr__(self) -> str:
        states = ", ".join(f"{count} {name}" for name, count in Counter(self.status).items())
        lines = [
            f"Solution: x {shape_of(self.x)}, {states}, at most {int(self.iterations.max())} "
            f"iterations, {self.seconds:.2f} s",
            f"  solver: {self.solver}",
            f"  prior:  {self.prior}",
            *(f"  {line}" for line in (self.reason, *self.notes) if line),
        ]
        if "limit" in self.status:
            from invtoolbox.plotting.explanation import describe_ending

            lines.append(f"  {describe_ending(self, self.status.index('limit'))}")
        return "\n".join(lines)


def shape_of(x: Any) -> str:
    """Return the shape of a solution as text: of a tensor, or of every part of a tuple.

    Args:
        x: tensor, tuple, or another value, whose class is named.

    >>> shape_of((torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)))
    '((1, 2, 3), (1, 2, 3))'
    """
    if isinstance(x, tuple):
        return f"({', '.join(map(shape_of, x))})"
    return str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__


def _read_decisions(words: dict[str, Any]) -> tuple[Decision, ...]:
    """Return the records of a file, also of one that holds sentences, and remove these."""
    if (records := words.pop("decisions", None)) is not None:
        return tuple(Decision(**record) for record in records)
    choice, reason = words.pop("weight_choice", ""), words.pop("reason", "")
    notes = dict.fromkeys((choice, *words.pop("notes", ())))
    steps = ["weight", *["run"] * (len(notes) - 1)]
    return (
        Decision(step="solver", sentence=reason),
        *(Decision(step=step, sentence=note) for step, note in zip(steps, notes) if note),
    )


def _write(file: Any, name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, Tensor):
        file[name] = value.detach().cpu().numpy()
        return
    if isinstance(value, dict):
        kind, entries = "dict", value
    elif names := _field_names(type(value)):
        kind = f"{type(value).__module__}:{type(value).__name__}"
        entries = {key: getattr(value, key) for key in names}
    elif isinstance(value, tuple):
        kind, entries = "tuple", dict(enumerate(value))
    else:
        raise InputError(
            f"{name} holds a {type(value).__name__}, which no file of a solution takes; save "
            "solution.parameters with torch.save"
        )
    group = file.create_group(name)
    group.attrs["kind"] = kind
    for key, entry in entries.items():
        if ":" in kind and not isinstance(entry, Tensor) and not _field_names(type(entry)):
            group.attrs[str(key)] = json.dumps(entry)
        else:
            _write(group, str(key), entry)


def _field_names(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of a scene, such as `Voxels`; empty for other classes."""
    if not kind.__module__.startswith("invtoolbox.geometry."):
        return ()
    return (
        tuple(field.name for field in dataclasses.fields(kind))
        if dataclasses.is_dataclass(kind)
        else getattr(kind, "_fields", ())
    )


def _read(path: Path, node: Any, depth: int = 0) -> Any:
    import h5py

    from invtoolbox.core.checks import require_plausible

    if depth > _DEEPEST:
        raise InputError(f"{path}: its groups lie deeper than {_DEEPEST}; save it again")
    if isinstance(node, h5py.Dataset):
        if node.size:
            require_plausible(path, node.shape or (1,), node.dtype)
        return torch.from_numpy(node[()]) if node.shape else torch.tensor(node[()])
    if node.attrs["kind"] == "dict":
        return {name: _read(path, entry, depth + 1) for name, entry in node.items()}
    if node.attrs["kind"] == "tuple":
        return tuple(_read(path, node[str(k)], depth + 1) for k in range(len(node)))
    module, _, name = str(node.attrs["kind"]).partition(":")
    kind = getattr(import_module(module), name, None) if module in _SCENES else None
    if kind is None or not _field_names(kind):
        raise InputError(f"{path} holds a {node.attrs['kind']}, which is no scene")
    plain = {key: json.loads(node.attrs[key]) for key in node.attrs if key != "kind"}
    plain = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
    return kind(**plain, **{key: _read(path, entry, depth + 1) for key, entry in node.items()})
