"""Run a scene of images or scans: read, solve with checkpoints, evaluate, write the results.

The results go to a folder, or to files whose suffixes give the formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.core.environment import device_named
from invtoolbox.core.interrupts import limit
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.datasets.output import refuse_inputs
from invtoolbox.datasets.volumes.nifti import check_available
from invtoolbox.datasets.volumes.picture_writer import KINDS, check_form
from invtoolbox.errors import InputError
from invtoolbox.jobs.fields import input_files
from invtoolbox.jobs.images import parts
from invtoolbox.jobs.images.decisions.case import Case
from invtoolbox.jobs.images.decisions.default_prior import DEFAULT, choose_priors
from invtoolbox.jobs.images.decisions.order import MEND, decide, off_words
from invtoolbox.jobs.images.on_disk import reconstruct_on_disk
from invtoolbox.jobs.images.on_ranks import is_first, is_launched, reconstruct_on_ranks
from invtoolbox.jobs.images.parts import Measured
from invtoolbox.jobs.images.tables import Scene, SceneFile
from invtoolbox.jobs.images.tiles import LARGE, OFF_IN_TILES, TILED, InTiles
from invtoolbox.jobs.job import (
    Request,
    SceneJob,
    check_places,
    print_files,
    print_metrics,
    print_notes,
    read_json,
    report_divergence,
    write_json,
)
from invtoolbox.jobs.kind import SceneOutcome
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution

CHECKPOINT = "checkpoint.safetensors"
_ARRAYS = ("h5", "hdf5", "npy")
#: What takes the place of ``repair = false``.
_NO_REPAIR = ",".join(f"-{step.name}" for step in MEND if not step.is_asked_for)
#: Suffixes of files of a picture, and of a volume.
FORMATS = ("tif", "tiff", "png", *_ARRAYS)
VOLUME_FORMATS = ("tif", "tiff", "nii", "nii.gz", "mha", "mhd", "raw", "zarr", "dcm", *_ARRAYS)


@dataclass(frozen=True)
class ImageJob(SceneJob[Scene]):
    """Run of one scene of images or scans.

    Attributes:
        outputs: files to write in place of the folder, and their formats. The format of an output
            without a suffix is empty: of a volume it becomes a folder with one TIFF file per slice,
            and of a picture the folder of all results.
        request: the workers of a run from disk to disk.
    """

    files: ClassVar = (
        "scene.json",
        "metrics.json",
        "solution.h5",
        "reconstruction.png",
        "reconstruction.tif",
        "reconstruction.nii",
        "reconstruction.npy",
        "report.html",
        CHECKPOINT,
    )
    free: ClassVar = (
        "title",
        "output",
        "evaluation",
        "solver.max_iterations",
        "solver.tolerance",
        "solver.time_limit",
    )
    file: SceneFile
    outputs: Mapping[Path, str] = field(default_factory=dict)
    request: Request = field(default_factory=Request)

    @property
    def checkpoint(self) -> Path:
        """File from which an interrupted run is resumed."""
        for path in self.outputs:
            # Beside a file or folder; within a folder without a name of its own.
            is_named = path.name not in ("", "..")
            return (
                path.with_name(f"{path.name}.checkpoint") if is_named else path / "run.checkpoint"
            )
        return self.folder / CHECKPOINT

    def check(self, request: Request) -> None:
        if not self.outputs:
            super().check(request)
            return
        refuse_inputs([*self.places, self.checkpoint], input_files(self.file))
        if self.checkpoint.exists() and not (self.resume or self.overwrite):
            raise InputError(
                f"an interrupted run left {self.checkpoint}; give --resume to go on from it, or "
                "--overwrite to start anew"
            )

    @property
    def places(self) -> list[Path]:
        return list(self.outputs) or [self.folder]

    def run(self, progress: bool = True) -> SceneOutcome[Any]:
        """Solve the problem of the scene and write the results, or read those of a finished run."""
        return reconstruct_on_ranks(self, progress) if is_launched() else self._run_alone(progress)

    def _run_alone(self, progress: bool) -> SceneOutcome[Any]:
        table = self.file.scene.solver
        with self.locked(), limit(table.time_limit):
            return self._run(progress)

    def _run(self, progress: bool) -> SceneOutcome[Any]:
        if self.file.scene.solver.memory is not None:
            return reconstruct_on_disk(self, progress)
        if self.file.scene.output.dtype != "float32":
            raise InputError(
                f"{self.file.path}: output.dtype uint16 is for runs from disk to disk; give solver.memory"
            )
        measured = parts.measure(self.file)
        if "" not in self.outputs.values() or len(measured.operator.domain_shape) == 4:
            return self.solve(measured, progress)
        if len(self.outputs) > 1:
            raise InputError(
                f"the folder {self.folder} takes everything, also the report; leave the other "
                "outputs out"
            )
        job = replace(self, outputs={})
        job.check(Request())
        return job.solve(measured, progress)

    def solve(self, measured: Measured, progress: bool) -> SceneOutcome[Measured]:
        """Solve, evaluate and write.

        Args:
            measured: measurements and operator of the scene.
            progress: whether to show a bar on a terminal.
        """
        file, folder, checkpoint = self.file, self.folder, self.checkpoint
        problem = Problem(measured.y, measured.operator, parts.data_term(file, measured.noise_std))
        is_default = parts.is_default(file.scene.prior)
        prior = None if is_default else parts.prior_of(file.scene.prior, file)
        solver, rule = parts.solver_of(file.scene.solver, file), parts.rule(file)
        content: dict[str, str] = {}
        if not self.outputs:
            content = self.check_content(
                measurements=problem.y,
                operator=problem.operator,
                data_term=problem.data_term,
                prior=prior,
            )
            finished, measures = folder / "solution.h5", folder / "metrics.json"
            if self.resume and finished.exists() and not checkpoint.exists():
                metrics = read_json(measures) if measures.exists() else {}
                return SceneOutcome(None, folder, metrics, (), Solution.load(finished))
        reference, device = _reference(file, measured), device_named(file.scene.device)
        _check_evaluation(file, problem, reference, measured.segmentation)
        self._check_formats(measured, is_volume=len(problem.image_shape) == 4)
        if not self.outputs:
            self.start(content)
        elif self.overwrite and not self.resume:
            checkpoint.unlink(missing_ok=True)
        case, off = self._pose(problem, prior, solver, rule, device, progress)
        try:
            solution = decide(case, off)
        except KeyboardInterrupt:
            raise self.interrupted(
                checkpoint.exists(), f"the checkpoint {checkpoint} stays"
            ) from None
        if file.scene.measurements.repair is not None:
            word = "all,+repairs" if file.scene.measurements.repair else _NO_REPAIR
            sentence = f"repair is a word of earlier versions; automatic = {word!r} takes its place"
            solution = solution.note(sentence)
        if (
            isinstance(problem.operator, Inpainting)
            and measured.original is not None
            and measured.noise_std is None
        ):
            is_known = problem.operator.sampled.to(solution.x) > 0
            sentence = "the known pixels stay as they are; a stated noise level denoises them too"
            x = torch.where(is_known, problem.y0.to(solution.x), solution.x)
            solution = replace(solution, x=x).note(sentence)
        x = _shown(file, problem, solution.x)
        metrics = evaluate(file, x, reference, measured.segmentation)
        files = self._write(solution, x.detach().cpu(), reference, metrics, measured)
        if self.outputs or all(status == "converged" for status in solution.status):
            checkpoint.unlink(missing_ok=True)
        return SceneOutcome(measured, folder, metrics, files, solution)

    def _pose(
        self, problem: Problem, prior: Any, solver: Any, rule: Any, device: Any, progress: bool
    ) -> tuple[Case, dict[str, str]]:
        """Return the case of the scene, and the steps that are off."""
        scene = self.file.scene
        table, metal = scene.solver, scene.measurements.metal
        settings: dict[str, Any] = {
            "regularization": rule,
            "initial": None if table.initial is None else self._initial,
            "max_iterations": table.max_iterations,
            "tolerance": table.tolerance,
            "seed": scene.seed,
            "device": device,
            "dtype": getattr(torch, scene.dtype) if scene.dtype else None,
            "progress": progress,
        }
        # A prior with a weight or settings stays as it was written.
        is_plain = not any(t.settings or t.weight is not None for t in scene.prior)
        names = [t.name for t in scene.prior if is_plain]
        if parts.is_default(scene.prior):
            prior, names = choose_priors(DEFAULT, problem)
        off = off_words(scene.automatic, scene.measurements.repair)
        if metal is not False:
            off.pop("metal", None)
        case = Case.of(problem, prior, solver, settings, names, metal or True)
        if tile := self._tile(problem):
            self._check_tiles(problem, prior)
            return replace(case, method=InTiles(tile)), {**off, **OFF_IN_TILES}
        settings["checkpoint"] = Checkpoint(self.checkpoint)
        return case, off

    def print_outcome(self, outcome: SceneOutcome[Measured], quiet: bool) -> int:
        if outcome.solution is None:
            if not quiet and is_first():
                print_notes(outcome.notes)
                print_files(outcome.files, outcome.folder)
            return 0
        if not quiet:
            scene, shape = self.file.scene, tuple(outcome.solution.x.shape)
            if scene.solver.initial and scene.solver.max_iterations == 0 and not scene.prior:
                print(f"filtered back-projection alone: x {shape}, no priors, no iterations")
            else:
                print(outcome.solution)
            print_notes(outcome.notes)
            print_metrics(outcome.metrics, {})
            print_files(outcome.files, outcome.folder)
        return report_divergence(outcome.solution)

    def _takes_form(self, path: Path, measured: Measured) -> bool:
        """Return whether a file takes the form of the picture that was measured."""
        kind = KINDS.get(path.suffix.lower()) if self.outputs else None
        has_form = measured.original is not None and kind is not None
        return has_form and (measured.is_photograph or kind == "tiff")

    def _check_formats(self, measured: Measured, is_volume: bool) -> None:
        """Refuse formats that do not fit, before anything is computed."""
        formats = VOLUME_FORMATS if is_volume else FORMATS
        choice = f"use one of {', '.join(formats)}"
        if is_volume:
            choice += ", or a folder for one TIFF file per slice (a report shows the middle slice)"
        for path, form in self.outputs.items():
            if form == "":
                check_places([path], self.overwrite or self.resume)
            elif self._takes_form(path, measured):
                assert measured.original is not None
                check_form(path, measured.original)
            elif form not in (*formats, "html", "json"):
                what = "the answer is one picture or slice, and no volume"
                if is_volume:
                    what = "a volume is not one picture"
                elif form not in VOLUME_FORMATS:
                    what = f"only what was read from a picture is written as {form}"
                raise InputError(f"--output {path}: {what}; {choice}")
            if form == "json" and self.file.scene.evaluation is None:
                raise InputError(f"--output {path}: there are no measures without a reference")
        forms = self.outputs.values() or self.file.scene.output.formats
        if any(form.startswith("nii") for form in forms):
            check_available()

    def _initial(self, problem: Problem) -> Tensor | None:
        """Return the initial guess of the scene."""
        if self.file.scene.solver.initial is None:
            return None
        if not isinstance(problem.operator, LinearOperator):
            raise InputError(f"{self.file.path}: solver.initial fbp is for linear operators")
        return problem.operator.pseudo_inverse(problem.y)

    def _tile(self, problem: Problem) -> int:
        """Return the size of the tiles; 0 for a picture that is solved as a whole."""
        table, A = self.file.scene.solver, problem.operator
        if table.tile != "auto":
            return table.tile or 0
        suits = isinstance(A, TILED) and getattr(A, "boundary", "valid") in ("reflect", "valid")
        is_whole = table.time_limit is not None or self.checkpoint.exists()
        is_whole |= bool(self.file.scene.measurements.repair)
        large = problem.y0.ndim == 4 and A.domain_shape[-2] * A.domain_shape[-1] > LARGE
        return 512 if suits and large and not is_whole else 0

    def _check_tiles(self, problem: Problem, prior: Any) -> None:
        """Refuse tiles of what has none."""
        path, scene = self.file.path, self.file.scene
        is_squares = isinstance(problem.data_term, LeastSquares)
        if not isinstance(problem.operator, TILED) or not is_squares or prior is None:
            raise InputError(
                f"{path}: tiles are for pictures, least squares and a prior; set solver.tile to 0"
            )
        if scene.measurements.repair or "repairs" not in off_words(scene.automatic):
            raise InputError(f"{path}: a picture in tiles is not repaired; set solver.tile to 0")
        if self.checkpoint.exists():
            raise InputError(
                f"{self.checkpoint} is of a picture as a whole, and a picture in tiles is not "
                "resumed; set solver.tile to 0, or give --overwrite to start anew"
            )

    def _write(
        self,
        solution: Solution,
        x: Tensor,
        reference: Tensor | None,
        metrics: dict[str, list[float]],
        measured: Measured,
    ) -> tuple[Path, ...]:
        from invtoolbox.plotting.report import write_report

        scene = self.file.scene
        window = scene.output.window or ((0.0, 1.0) if measured.is_photograph else None)
        settings = {} if scene.operator is None else scene.operator.settings
        is_filled = settings.get("mask") == {"missing": "transparent"}
        outputs = self.outputs
        if not outputs:
            names = {"h5": "solution.h5", "html": "report.html", "json": "metrics.json"}
            forms = dict.fromkeys([*(["json"] if metrics else []), *scene.output.formats])
            outputs = {
                self.folder / names.get(form, f"reconstruction.{form}"): form for form in forms
            }
        for path, form in outputs.items():
            datasets.remove_stale(path.parent, path.name)
            if form == "json":
                write_json(path, metrics)
            elif form == "html":
                fits = reference is not None and reference.shape[1:] == x.shape[1:]
                is_scan = isinstance(measured.operator, Scan) and measured.grid is not None
                write_report(
                    solution,
                    path,
                    reference if fits else None,
                    scene.title or self.file.name,
                    score=partial(self._score, solution, reference, measured) if metrics else None,
                    unit=f"1/{measured.grid.unit}" if is_scan and measured.grid else "",
                )
            elif form == "h5" and not self.outputs:
                solution.save(path, overwrite=True)
            elif self._takes_form(path, measured):
                assert measured.original is not None
                datasets.write_picture(path, x[0], measured.original, is_filled, overwrite=True)
            elif form == "png":
                picture = x[0, :, x.shape[2] // 2] if x.ndim == 5 else x[0]
                datasets.write_png(path, picture, window, overwrite=True)
            else:
                _write_image(path, form, x, measured.grid, is_alone=bool(self.outputs))
        return tuple(outputs)

    def _score(
        self, solution: Solution, reference: Tensor | None, measured: Measured, x: Tensor
    ) -> dict[str, list[float]]:
        """Return the metrics of images of the solution's size, or of the size of the results."""
        is_whole = x.shape[1:] == solution.x.shape[1:]
        if is_whole and solution.problem is not None:
            x = _shown(self.file, solution.problem, x)
        if reference is not None and reference.shape[1:] != x.shape[1:]:
            raise InputError(
                f"images of {tuple(x.shape[1:])} have no reference, which has "
                f"{tuple(reference.shape[1:])} values"
            )
        return evaluate(self.file, x, reference, measured.segmentation)


def _write_image(
    path: Path, form: str, x: Tensor, grid: datasets.Grid | None, is_alone: bool
) -> None:
    """Write a batch with its axes; or, as a file alone, the only item of the batch."""
    grid = grid or datasets.Grid()
    if form == "":
        datasets.write_tiff_stack(path, x[0], overwrite=True)
    elif form not in _ARRAYS and (x.ndim == 5 or form == "nii"):
        datasets.write(path, datasets.VolumeInMemory(x[0], grid), overwrite=True)
    elif not is_alone:
        datasets.write(path, x, overwrite=True)
    elif form in ("h5", "hdf5") and x.ndim == 5:
        axes = ("voxel_size_slice", "voxel_size_row", "voxel_size_column")
        attributes: dict[str, Any] = {**dict(zip(axes, grid.voxel_size)), "length_unit": grid.unit}
        datasets.write_hdf5(path, {"volume": x[0, 0]}, attributes, overwrite=True)
    else:
        datasets.write(path, x[0, 0] if x.ndim == 5 else x[0], overwrite=True)


def evaluate(
    file: SceneFile, x: Tensor, reference: Tensor | None, segmentation: Tensor | None
) -> dict[str, list[float]]:
    """Return the metrics of a scene by name, one value per item."""
    from invtoolbox import metrics

    table = file.scene.evaluation
    if table is None:
        return {}
    x = x.detach().cpu()
    usual = ["psnr", "rmse", *(["ssim"] if x.ndim == 4 and min(x.shape[-2:]) >= 11 else [])]
    measures: dict[str, list[float]] = {}
    truth = None if reference is None else reference.to(x).expand_as(x)
    for name in table.metrics or usual:
        if name == "matthews":
            assert segmentation is not None
            labels = (segmentation > 0).expand(x.shape)
            segments = metrics.otsu_segmentation(x)
            score = metrics.matthews_correlation(segments, labels, border=table.border)
        elif name in ("psnr", "ssim"):
            assert truth is not None
            span = table.data_range or (truth.flatten(1).amax(1) - truth.flatten(1).amin(1))
            score = getattr(metrics, name)(x, truth, data_range=span, border=table.border)
        else:
            score = getattr(metrics, name)(x, truth, border=table.border)
        measures[name] = [float(v) for v in score]
    return measures


def _check_evaluation(
    file: SceneFile, problem: Problem, reference: Tensor | None, segmentation: Tensor | None
) -> None:
    """Refuse metrics without a reference of the same shape, before anything is computed."""
    evaluation = file.scene.evaluation
    for name in () if evaluation is None else evaluation.metrics or ("psnr",):
        is_labels = name == "matthews"
        truth = segmentation if is_labels else reference
        if truth is None:
            raise InputError(
                f"{file.path}: evaluation.metrics has {name!r}, but "
                + (
                    "no segmentation comes with the data"
                    if is_labels
                    else "there is nothing to compare with; add evaluation.reference"
                )
            )
        shape = tuple(
            _shown(file, problem, problem.y0.new_empty(1, *problem.image_shape)).shape[1:]
        )
        if tuple(truth.shape[1:]) != shape:
            raise InputError(
                f"{file.path}: evaluation compares images of {shape} with "
                f"{'a segmentation' if is_labels else 'a reference'} of {tuple(truth.shape[1:])}; "
                "give the true image of the same shape"
            )


def _shown(file: SceneFile, problem: Problem, x: Tensor) -> Tensor:
    """Return the part of the image that the results show."""
    A = problem.operator
    return A.crop(x) if file.scene.output.crop and isinstance(A, Blur) else x


def _reference(file: SceneFile, measured: Measured) -> Tensor | None:
    evaluation = file.scene.evaluation
    if evaluation is None or evaluation.reference is None:
        return measured.truth
    is_volume = len(measured.operator.domain_shape) == 4
    return parts.read(file, evaluation.reference, "evaluation.reference", is_volume=is_volume).y
