"""A scene from photographs in stages, coarse to fine: each is one `solve`, which goes on from the answer of the one before.

With a folder the work can be stopped and resumed. It then holds::

    stages.json                  which stage, how many seconds were spent, the PSNR on the way
    stage-K.safetensors          what stage K starts from
    checkpoint-K.safetensors     the loop of stage K
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.datasets.output import write_bytes
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.priors.base import ImplicitPrior, Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers.adam import Adam
from invtoolbox.solvers.base import Solver
from invtoolbox.views.models import SceneModel, silhouette_prior, weight_unit
from invtoolbox.views.photographs import Photographs, scale
from invtoolbox.views.watch import Sample, Watch, spread_over

STATE = "stages.json"


@dataclass(frozen=True)
class Stage:
    """One solve of a schedule.

    Args:
        iterations: at most; None for as many as the budget in seconds allows.
        scale: of the pictures, 1 for their own size.
        prior: settings of the model that this stage changes, such as ``{"resolution": 64}``.
        solver: settings of the solver that it changes.
    """

    iterations: int | None = None
    scale: float = 1.0
    prior: Mapping[str, Any] = field(default_factory=dict)
    solver: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageReport:
    """What a stage did.

    Attributes:
        prior: what was optimised, in words.
        iterations: steps.
        seconds: of work.
        psnr: mean over the views that are looked at, dB.
    """

    prior: str
    iterations: int
    seconds: float
    psnr: float


@dataclass(frozen=True, eq=False)
class StagedSolution:
    """What came of a schedule.

    Attributes:
        x: the scene, a batch of one.
        model: which shows it.
        solution: of the last stage.
        reports: of the stages, in their order.
        samples: the PSNR on the way.
        seconds: of work.
        is_complete: whether the last stage has all of its iterations.
    """

    x: Any
    model: SceneModel
    solution: Solution
    reports: tuple[StageReport, ...]
    samples: tuple[Sample, ...]
    seconds: float
    is_complete: bool


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
    looked_at: int = 4,
    progress: bool = True,
    tell: Callable[[StageReport], None] = lambda report: None,
    silhouettes: float = 0.0,
) -> StagedSolution:
    """Find a scene from photographs.

    Args:
        model: how it is represented.
        photographs: to train from, and to look at.
        stages: coarse to fine.
        solver: `Adam` by default; a subset of the rays (voxels) or of the pictures (Gaussians) at a time.
        explicit: priors whose weights stand beside the mean misfit of a value (`weight_unit`).
        data_term: the model's own by default.
        seconds: of work; the views are looked at besides.
        seed: of the first stage; the others count on from it.
        device: where to compute.
        folder: where the work is written down, and gone on from where it was written before.
        every: seconds between two looks at ``looked_at`` of the views that are held out.
        progress: show a bar on a terminal.
        tell: called after each stage.
        silhouettes: the weight of `silhouette_prior`, beside the mean misfit of a value; for few views of pictures with an alpha.

    Raises:
        InputError: for a stage without an end; settings that do not fit; a folder with the work of another schedule.
        KeyboardInterrupt: Ctrl-C; what is in the folder is whole.
    """
    _check(stages, seconds)
    solver = solver if solver is not None else Adam()
    diary = Diary.read(folder)
    steps = (
        None
        if any(s.iterations is None for s in stages)
        else sum(s.iterations or 0 for s in stages)
    )
    watch = Watch(
        model,
        spread_over(photographs.judged, looked_at),
        every,
        seconds,
        steps,
        progress,
        diary.seconds,
        diary.samples,
    )
    watch.tell = lambda: diary.note(watch)
    watch.steps_before = sum(r.iterations for r in diary.reports)
    with watch:
        state = (
            None
            if diary.stage == 0 or folder is None
            else model.load_state(diary.state_file(diary.stage))
        )
        k = diary.stage
        while True:
            stage = stages[k]
            try:
                solution, prior = _solve_stage(
                    model.change(stage.prior),
                    photographs,
                    stage,
                    k,
                    len(stages),
                    state,
                    solver,
                    explicit,
                    data_term,
                    silhouettes,
                    seed + k,
                    device,
                    diary,
                    watch,
                )
            except KeyboardInterrupt:
                watch.end()
                diary.note(watch)
                raise
            parameters = solution.parameters
            assert parameters is not None
            quality = watch.look(solution.x)
            done = int(solution.iterations[0])
            report = StageReport(
                repr(prior), done, watch.spent - sum(r.seconds for r in diary.reports), quality
            )
            tell(report)
            complete = stage.iterations is None or done >= stage.iterations
            if k + 1 == len(stages) or watch.is_over:
                diary.note(watch)
                return StagedSolution(
                    solution.x,
                    model,
                    solution,
                    (*diary.reports, report),
                    tuple(watch.samples),
                    watch.spent,
                    complete and k + 1 == len(stages),
                )
            state = (prior, parameters)
            if folder is not None:
                model.save_state(diary.state_file(k + 1), prior, parameters)
            diary.turn(report, watch)
            k += 1


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
    diary: Diary,
    watch: Watch,
) -> tuple[Solution, ImplicitPrior]:
    pictures = scale(photographs.train, stage.scale)
    watch.begin(k, stages, model.file_name)
    start: dict[str, Tensor] | None = None
    if state is None:
        prior = model.start()
    else:
        prior, start = model.follow(*state)
    problem = model.problem(pictures, data_term)
    unit, algorithm = weight_unit(problem), _fitting(_changed(solver, stage.solver), problem)
    everything: Prior = prior if explicit is None else prior + unit * explicit
    if silhouettes > 0:
        everything = everything + unit * silhouettes * silhouette_prior(
            model, pictures, getattr(algorithm, "subset_size", None)
        )
    checkpoint = None if diary.folder is None else Checkpoint(diary.checkpoint(k))
    watch.name = _short(prior)
    most = stage.iterations if stage.iterations is not None else 10**9
    solution: Solution = solve(
        problem,
        everything,
        algorithm,
        initial=start,
        max_iterations=most,
        tolerance=0.0,
        seed=seed,
        device=device,
        callbacks=[watch],
        checkpoint=checkpoint,
        progress=False,
    )
    watch.iteration = int(solution.iterations[0])
    watch.end()
    if "diverged" in solution.status:
        raise InputError(
            f"stage {k + 1} diverged after {int(solution.iterations[0])} iterations; lower the learning_rate of the solver"
        )
    return solution, prior


def _short(prior: ImplicitPrior) -> str:
    return repr(prior).split("(")[0]


def _fitting(solver: Solver, problem: Problem) -> Solver:
    """The solver with a subset of no more blocks than there are: small pictures of an early stage may have few rays."""
    blocks, size = problem.operator.blocks, getattr(solver, "subset_size", None)
    if size is None or blocks is None or size <= blocks:
        return solver
    fitting: Solver = dataclasses.replace(solver, subset_size=blocks)  # type: ignore[call-arg]
    return fitting


def _changed(solver: Solver, changes: Mapping[str, Any]) -> Solver:
    known = [f.name for f in dataclasses.fields(solver)]  # type: ignore[arg-type]
    for key in changes:
        if key not in known:
            raise InputError(
                f"a stage changes {key!r} of the solver, and {type(solver).__name__} has {', '.join(known)}"
            )
    changed: Solver = dataclasses.replace(solver, **changes)  # type: ignore[type-var]
    return changed


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
        if not 0 < stage.scale <= 1 or (stage.iterations is not None and stage.iterations < 1):
            raise InputError(
                f"stage {k + 1} takes a scale above 0 and at most 1 and an iteration at least, got {stage.scale} and "
                f"{stage.iterations}"
            )


class Diary:
    """How far a schedule is, in a folder; in memory alone where there is none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.stage, self.seconds = 0, 0.0
        self.reports: list[StageReport] = []
        self.samples: list[Sample] = []

    @classmethod
    def read(cls, folder: Path | None) -> Diary:
        diary = cls(folder)
        if folder is None or not (folder / STATE).exists():
            return diary
        try:
            content = json.loads((folder / STATE).read_text(encoding="utf-8"))
            diary.stage, diary.seconds = int(content["stage"]), float(content["seconds"])
            diary.reports = [StageReport(**report) for report in content["reports"]]
            diary.samples = [Sample(**sample) for sample in content["samples"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder / STATE} cannot be read ({error}); start anew, with --overwrite on the command line"
            ) from error
        return diary

    def state_file(self, stage: int) -> Path:
        assert self.folder is not None
        return self.folder / f"stage-{stage}.safetensors"

    def checkpoint(self, stage: int) -> Path:
        assert self.folder is not None
        return self.folder / f"checkpoint-{stage}.safetensors"

    def note(self, watch: Watch) -> None:
        """Write down where a stage is."""
        self.seconds, self.samples = watch.worked, watch.samples
        if self.folder is None:
            return
        content = {
            "stage": self.stage,
            "seconds": self.seconds,
            "reports": [dataclasses.asdict(r) for r in self.reports],
            "samples": [s.as_dict() for s in self.samples],
        }
        write_bytes(self.folder / STATE, json.dumps(content, indent=1).encode(), overwrite=True)

    def turn(self, report: StageReport, watch: Watch) -> None:
        """Write down that a stage is over; what it left is not needed any more."""
        before = self.stage
        self.reports.append(report)
        self.stage += 1
        self.note(watch)
        if self.folder is not None:
            self.checkpoint(before).unlink(missing_ok=True)
            self.state_file(before).unlink(missing_ok=True)


def work_files(folder: Path) -> list[Path]:
    """What a schedule has left in a folder."""
    found = [
        folder / STATE,
        *sorted(folder.glob("stage-*.safetensors")),
        *sorted(folder.glob("checkpoint-*.safetensors")),
    ]
    return [path for path in found if path.exists()]
