"""Scenes from photographs in stages, coarse to fine.

Each stage is one `solve` that starts from the result of the previous stage. With a folder the work
can be stopped and resumed. It then holds::

    stages.json                  current stage, seconds spent, PSNR so far, digests of all inputs
    stage-K.safetensors          initial state of stage K
    checkpoint-K.safetensors     the loop of stage K
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.catalogue.registry import require_settings
from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.datasets import PosedPictures, write_bytes
from invtoolbox.errors import InputError, naming, warn_user
from invtoolbox.jobs.photographs.models import SceneModel, silhouette_prior, weight_unit
from invtoolbox.jobs.photographs.photographs import Photographs, find_bad_views, scale
from invtoolbox.jobs.photographs.watch import Sample, Watch, spread
from invtoolbox.loop.checkpoint import Checkpoint, fingerprint
from invtoolbox.priors.base import ImplicitPrior, Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import Adam, Solver

STATE = "stages.json"


@dataclass(frozen=True)
class Stage:
    """One solve of a schedule.

    Args:
        iterations: largest number of iterations; None for as many as the budget allows.
        scale: scale of the pictures, 1 for their full size.
        prior: settings of the model that this stage changes, such as ``{"resolution": 64}``.
        solver: settings of the solver that this stage changes.
    """

    iterations: int | None = None
    scale: float = 1.0
    prior: Mapping[str, Any] = field(default_factory=dict)
    solver: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageReport:
    """Summary of a stage.

    Attributes:
        prior: the optimized prior, as text.
        iterations: number of iterations.
        seconds: seconds of work.
        psnr: mean PSNR over the monitored views, dB.
    """

    prior: str
    iterations: int
    seconds: float
    psnr: float


@dataclass(frozen=True, eq=False)
class StagedSolution:
    """Result of a schedule.

    Attributes:
        x: the scene, a batch of one.
        model: model that renders it.
        solution: solution of the last stage.
        reports: summaries of the stages, in order.
        samples: PSNR measured during the run.
        seconds: seconds of work.
        is_complete: whether the last stage finished all of its iterations.
        bad_views: reasons why training views fit badly, by name (`find_bad_views`). Those that an
            earlier stage found were left out of the later ones.
    """

    x: Any
    model: SceneModel
    solution: Solution
    reports: tuple[StageReport, ...]
    samples: tuple[Sample, ...]
    seconds: float
    is_complete: bool
    bad_views: Mapping[str, str] = field(default_factory=dict)


def solve_in_stages(
    model: SceneModel,
    photographs: Photographs,
    stages: Sequence[Stage],
    solver: Solver | None = None,
    explicit: Prior | None = None,
    data_term: DataTerm | None = None,
    seconds: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    folder: Path | None = None,
    every: float = 15.0,
    watched: int = 4,
    progress: bool = True,
    report: Callable[[StageReport], None] = lambda finished: None,
    silhouettes: float = 0.0,
    show: Callable[[Any], None] = lambda x: None,
) -> StagedSolution:
    """Find a scene from photographs.

    Args:
        model: representation of the scene.
        photographs: training views and held-out views.
        stages: stages, coarse to fine.
        solver: `Adam` by default; it takes a subset of the rays (voxels) or pictures (Gaussians)
            per step.
        explicit: explicit priors whose weights are relative to the mean misfit (`weight_unit`).
        data_term: misfit of pictures; the default of the model if None.
        seconds: seconds of work allowed, without the time of measuring the PSNR.
        seed: seed of the first stage; stage k has the seed ``seed + k``.
        device: device to compute on.
        folder: folder that the work is saved in, and resumed from if it was saved before.
        every: seconds between two measurements of the PSNR.
        watched: number of held-out views whose PSNR is measured.
        progress: show a bar on a terminal.
        report: function that is called after each stage.
        silhouettes: weight of `silhouette_prior` relative to the mean misfit; useful for few
            pictures with an alpha.
        show: function that is called with the scene after every measurement of the PSNR.

    Raises:
        InputError: if a stage has no end, settings do not fit, or the folder holds the work of
            another schedule.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the folder then holds a complete state.
    """
    _check(stages, seconds)
    solver = solver if solver is not None else Adam()
    journal = Journal.read(folder)
    if folder is not None:
        inputs = {
            "photographs": photographs,
            "model": model,
            "solver": solver,
            "explicit priors": explicit,
            "data term": data_term,
            "weight of silhouettes": silhouettes,
            "seed": seed,
        }
        journal.check_inputs(fingerprint(inputs), stages)
    judged = photographs.judged
    is_open = any(stage.iterations is None for stage in stages)
    # With a time limit, stages divide the time in proportion to their iterations.
    steps = list(accumulate(stage.iterations or 0 for stage in stages))
    watch = Watch(
        model,
        judged[spread(len(judged), watched)],
        every,
        seconds=seconds,
        steps=None if is_open else steps[-1],
        progress=progress,
        spent=journal.seconds,
        samples=journal.samples,
        show=show,
    )
    watch.record = lambda: journal.save(watch)
    watch.steps_before = sum(r.iterations for r in journal.reports)
    with watch:
        state = None
        if journal.stage > 0 and folder is not None:
            state = model.load_state(journal.file("stage", journal.stage))
        for k in range(journal.stage, len(stages)):
            stage, is_last = stages[k], k + 1 == len(stages)
            train = photographs.train[_fitting(photographs.train, journal.bad_views)]
            try:
                solution, prior = _solve_stage(
                    model.change(stage.prior),
                    replace(photographs, train=train),
                    stage,
                    k=k,
                    stages=len(stages),
                    state=state,
                    solver=solver,
                    explicit=explicit,
                    data_term=data_term,
                    silhouettes=silhouettes,
                    seed=seed + k,
                    device=device,
                    journal=journal,
                    watch=watch,
                    end_share=1.0 if is_open or seconds is None else steps[k] / steps[-1],
                )
            except KeyboardInterrupt:
                watch.end()
                journal.save(watch)
                raise
            psnr, done = watch.look(solution.x), int(solution.iterations[0])
            spent = watch.spent - sum(earlier.seconds for earlier in journal.reports)
            finished = StageReport(repr(prior), done, spent, psnr)
            report(finished)
            bad = find_bad_views(model, solution.x, scale(train, stage.scale))
            if is_last or watch.is_over:
                break
            journal.bad_views |= bad
            state = prior, _parameters_of_views(solution, _fitting(train, bad))
            journal.next_stage(finished, watch, state)
        journal.save(watch)
        return StagedSolution(
            x=solution.x,
            model=model,
            solution=solution,
            reports=(*journal.reports, finished),
            samples=tuple(watch.samples),
            seconds=watch.spent,
            is_complete=is_last and (stage.iterations is None or done >= stage.iterations),
            bad_views=journal.bad_views | bad,
        )


def _solve_stage(
    model: SceneModel,
    photographs: Photographs,
    stage: Stage,
    k: int,
    stages: int,
    state: Any,
    solver: Solver,
    explicit: Prior | None,
    data_term: DataTerm | None,
    silhouettes: float,
    seed: int,
    device: Any,
    journal: Journal,
    watch: Watch,
    end_share: float,
) -> tuple[Solution, ImplicitPrior]:
    pictures = scale(photographs.train, stage.scale)
    watch.begin(k, stages, model.file_name, end_share)
    model = model.with_pace(watch.used)
    start: dict[str, Tensor] | None = None
    if state is None:
        prior = model.start()
    else:
        prior, start = model.follow(*state)
    problem = model.problem(pictures, data_term)
    if start is not None and problem.unknown:
        # Parameters of the operator, such as exposures, are no leaves of the prior.
        learned = {name: start[name] for name in problem.unknown}
        start = {name: leaf for name, leaf in start.items() if name not in learned}
        problem = problem.with_operator(problem.operator.with_parameters(**learned))
    unit, algorithm = weight_unit(problem), _solver_of(stage, solver, problem)
    priors: Prior = prior if explicit is None else prior + unit * explicit
    subset_size = getattr(algorithm, "subset_size", None)
    if silhouettes > 0:
        priors = priors + unit * silhouettes * silhouette_prior(model, pictures, subset_size)
    regularizer = model.regularizer(pictures, subset_size)
    if regularizer is not None:
        priors = priors + unit * regularizer
    watch.name = repr(prior).split("(")[0]
    solution: Solution = solve(
        problem,
        priors,
        algorithm,
        initial=start,
        max_iterations=10**9 if stage.iterations is None else stage.iterations,
        tolerance=0.0,
        seed=seed,
        device=device,
        callbacks=[watch],
        checkpoint=None if journal.folder is None else Checkpoint(journal.file("checkpoint", k)),
        progress=False,
    )
    watch.iteration = int(solution.iterations[0])
    watch.end()
    if "diverged" in solution.status:
        raise InputError(
            f"stage {k + 1} diverged after {int(solution.iterations[0])} iterations; lower the "
            "learning_rate of the solver"
        )
    return solution, prior


def _parameters_of_views(solution: Solution, views: Tensor) -> dict[str, Tensor]:
    """Return the parameters with which the next stage starts.

    Those of the operator, such as exposures, are of the views that stay alone.
    """
    assert solution.problem is not None
    of_views = solution.problem.unknown
    return {
        name: leaf[..., views, :] if name in of_views else leaf
        for name, leaf in solution.parameters.items()
    }


def _fitting(pictures: PosedPictures, bad: Mapping[str, str]) -> Tensor:
    """Return which pictures are not among the views that fit badly."""
    names = pictures.cameras.names or ("",) * len(pictures)
    return torch.tensor([name not in bad for name in names])


def _solver_of(stage: Stage, solver: Solver, problem: Problem) -> Solver:
    """Return the solver of a stage; small pictures may have fewer blocks than its subset."""
    settings = [field.name for field in dataclasses.fields(solver)]  # type: ignore[arg-type]
    with naming("a stage changes the solver"):
        require_settings(type(solver).__name__, stage.solver, settings)
    changed: Any = dataclasses.replace(solver, **stage.solver)  # type: ignore[type-var]
    blocks, size = problem.operator.blocks, getattr(changed, "subset_size", None)
    if size is None or blocks is None or size <= blocks:
        return changed
    return dataclasses.replace(changed, subset_size=blocks)


def _check(stages: Sequence[Stage], seconds: float | None) -> None:
    if not stages:
        raise InputError("there is no stage; give one at least")
    for k, stage in enumerate(stages):
        if stage.iterations is None and (seconds is None or k + 1 < len(stages)):
            raise InputError(
                f"stage {k + 1} has no end: give its iterations"
                + (
                    ", or a time limit"
                    if k + 1 == len(stages)
                    else "; only the last one may go on until the time is used up"
                )
            )
        check_range(f"stage {k + 1}", "(0, 1]", scale=stage.scale)
        check_range(f"stage {k + 1}", "[1, inf)", iterations=stage.iterations)


class Journal:
    """Progress of a schedule, saved in a folder if there is one."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.stage, self.seconds = 0, 0.0
        self.reports: list[StageReport] = []
        self.samples: list[Sample] = []
        self.inputs: dict[str, str] = {}
        self.bad_views: dict[str, str] = {}
        self._unsaved: Any = None  # initial state of the stage, until it is written

    @classmethod
    def read(cls, folder: Path | None) -> Journal:
        journal = cls(folder)
        if folder is None or not (folder / STATE).exists():
            return journal
        try:
            content = json.loads((folder / STATE).read_text(encoding="utf-8"))
            journal.stage, journal.seconds = int(content["stage"]), float(content["seconds"])
            journal.reports = [StageReport(**report) for report in content["reports"]]
            journal.samples = [Sample(**sample) for sample in content["samples"]]
            journal.inputs = dict(content.get("inputs", {}))
            journal.bad_views = dict(content.get("bad_views", {}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder / STATE} cannot be read ({error}); start anew, with --overwrite on the "
                "command line"
            ) from error
        return journal

    def check_inputs(self, inputs: Mapping[str, str], stages: Sequence[Stage]) -> None:
        """Refuse to go on with other inputs.

        Stages that have not begun may differ, and so may the iterations of the current one.

        Args:
            inputs: digest of every input.
            stages: stages of the schedule.
        """
        named = {f"stage {k + 1}": stage for k, stage in enumerate(stages)}
        # The start of a stage is the stage without its number of iterations.
        starts = {
            f"start of {name}": dataclasses.replace(stage, iterations=None)
            for name, stage in named.items()
        }
        digests = {**inputs, **fingerprint({**named, **starts})}
        begun = [f"stage {k + 1}" for k in range(self.stage)]
        begun.append(f"start of stage {self.stage + 1}")
        changed = [
            name
            for name in self.inputs
            if (name in inputs or name in begun) and digests.get(name) != self.inputs[name]
        ]
        if changed:
            raise InputError(
                f"{self.folder} holds the work of another schedule (changed: "
                f"{', '.join(changed)}); give another folder, or start anew, with --overwrite on "
                "the command line"
            )
        self.inputs = digests

    def file(self, name: str, stage: int) -> Path:
        """Return the file of a stage: ``stage``, its initial state, or ``checkpoint``."""
        assert self.folder is not None
        return self.folder / f"{name}-{stage}.safetensors"

    def save(self, watch: Watch) -> None:
        """Save the progress of a stage, and delete the files of the stages before.

        If this fails, on a full disk for example, it is a warning; the earlier files stay, and the
        next call is another attempt.
        """
        self.seconds, self.samples = watch.worked, watch.samples
        if self.folder is None:
            return
        content = {
            "stage": self.stage,
            "seconds": self.seconds,
            "reports": [dataclasses.asdict(r) for r in self.reports],
            "samples": [dataclasses.asdict(s) for s in self.samples],
            "inputs": self.inputs,
            "bad_views": self.bad_views,
        }
        try:
            if self._unsaved is not None:
                watch.model.save_state(self.file("stage", self.stage), *self._unsaved)
                self._unsaved = None
            write_bytes(self.folder / STATE, json.dumps(content, indent=1).encode(), overwrite=True)
        except InputError as error:
            warn_user(f"the progress could not be saved ({error}); the run goes on and tries again")
            return
        for stage in range(self.stage):
            self.file("checkpoint", stage).unlink(missing_ok=True)
            self.file("stage", stage).unlink(missing_ok=True)

    def next_stage(self, report: StageReport, watch: Watch, state: Any) -> None:
        """Save that a stage is finished, and the state from which the next one starts."""
        self.reports.append(report)
        self.stage += 1
        self._unsaved = state
        self.save(watch)


def work_files(folder: Path) -> list[Path]:
    """Return the files that a schedule has left in a folder.

    Args:
        folder: the folder.
    """
    patterns = (STATE, "stage-*.safetensors", "checkpoint-*.safetensors")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]
