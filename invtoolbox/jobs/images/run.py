"""Run a scene of images or scans: read, solve with checkpoints, evaluate, write the results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.core.environment import device_named
from invtoolbox.datasets.volumes.nifti import check_available
from invtoolbox.errors import InputError
from invtoolbox.jobs.images import parts
from invtoolbox.jobs.images.parts import Measured
from invtoolbox.jobs.images.tables import Scene, SceneFile
from invtoolbox.jobs.job import SceneJob, read_json, write_json
from invtoolbox.jobs.reports import print_files, report_divergence
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Outcome:
    """Solution of a scene, its quality, and its files.

    Attributes:
        solution: the solution.
        folder: folder of the results.
        metrics: values by the name of the metric, one per item; empty if there is no reference.
        files: files that were written; empty if an earlier run was finished.
    """

    solution: Solution
    folder: Path
    metrics: dict[str, list[float]]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class ImageJob(SceneJob[Scene]):
    """Run of one scene of images or scans."""

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

    def run(self, progress: bool = True) -> Outcome:
        """Solve the problem of the scene and write the results, or read those of a finished run."""
        file, folder, checkpoint = self.file, self.folder, self.folder / CHECKPOINT
        finished, measures = folder / "solution.h5", folder / "metrics.json"
        measured = parts.measure(file)
        problem = Problem(measured.y, measured.operator, parts.data_term(file, measured.noise_std))
        prior, solver, rule = parts.prior(file), parts.solver(file), parts.rule(file)
        content = self.check_content(
            measurements=problem.y,
            operator=problem.operator,
            data_term=problem.data_term,
            prior=prior,
        )
        if self.resume and finished.exists() and not checkpoint.exists():
            metrics = read_json(measures) if measures.exists() else {}
            return Outcome(Solution.load(finished), folder, metrics, ())
        reference, device = _reference(file, measured), device_named(file.scene.device)
        _check_evaluation(file, problem, reference, measured.segmentation)
        if "nii" in file.scene.output.formats:
            check_available()
        self.start(content)
        budgets = file.scene.solver
        try:
            solution: Solution = solve(
                problem,
                prior=prior,
                solver=solver,
                regularization=rule,
                max_iterations=budgets.max_iterations,
                tolerance=budgets.tolerance,
                time_limit=budgets.time_limit,
                seed=file.scene.seed,
                device=device,
                dtype=getattr(torch, file.scene.dtype) if file.scene.dtype else None,
                checkpoint=Checkpoint(checkpoint),
                progress=progress,
            )
        except KeyboardInterrupt:
            raise self.interrupted(
                checkpoint.exists(), f"the checkpoint {checkpoint} stays"
            ) from None
        metrics = evaluate(file, solution.x, reference, measured.segmentation)
        files = _write(file, folder, solution, reference, metrics, measured)
        if all(status == "converged" for status in solution.status):
            checkpoint.unlink(missing_ok=True)
        return Outcome(solution, folder, metrics, files)

    def print_outcome(self, outcome: Outcome, quiet: bool) -> int:
        if not quiet:
            print(outcome.solution)
            for name, values in outcome.metrics.items():
                print(f"  {name:<15}{', '.join(f'{v:.4g}' for v in values)}")
            print_files(outcome.files, outcome.folder)
        return report_divergence(outcome.solution)


def evaluate(
    file: SceneFile, x: Tensor, reference: Tensor | None, segmentation: Tensor | None
) -> dict[str, list[float]]:
    """Return the metrics of a scene by name, one value per item."""
    from invtoolbox import metrics

    wanted = file.scene.evaluation
    if wanted is None:
        return {}
    x = x.detach().cpu()
    found: dict[str, list[float]] = {}
    truth = None if reference is None else reference.to(x).expand_as(x)
    for name in wanted.metrics:
        if name == "matthews":
            assert segmentation is not None
            labels = (segmentation > 0).expand(x.shape)
            value = metrics.matthews_correlation(
                metrics.otsu_segmentation(x), labels, border=wanted.border
            )
        elif name in ("psnr", "ssim"):
            assert truth is not None
            span = wanted.data_range or (truth.flatten(1).amax(1) - truth.flatten(1).amin(1))
            value = getattr(metrics, name)(x, truth, data_range=span, border=wanted.border)
        else:
            value = getattr(metrics, name)(x, truth, border=wanted.border)
        found[name] = [float(v) for v in value]
    return found


def _check_evaluation(
    file: SceneFile, problem: Problem, reference: Tensor | None, segmentation: Tensor | None
) -> None:
    """Refuse metrics without a reference of the same shape, before anything is computed."""
    for name in file.scene.evaluation.metrics if file.scene.evaluation is not None else ():
        labels = name == "matthews"
        other = segmentation if labels else reference
        if other is None:
            raise InputError(
                f"{file.path}: evaluation.metrics has {name!r}, but "
                + (
                    "no segmentation comes with the data"
                    if labels
                    else "there is nothing to compare with; add evaluation.reference"
                )
            )
        if tuple(other.shape[1:]) != problem.image_shape:
            raise InputError(
                f"{file.path}: evaluation compares images of {problem.image_shape} with "
                f"{'a segmentation' if labels else 'a reference'} of {tuple(other.shape[1:])}"
            )


def _reference(file: SceneFile, measured: Measured) -> Tensor | None:
    evaluation = file.scene.evaluation
    if evaluation is not None and evaluation.reference is not None:
        return parts.read(file, evaluation.reference).y
    return measured.truth


def _write(
    file: SceneFile,
    folder: Path,
    solution: Solution,
    reference: Tensor | None,
    metrics: dict[str, list[float]],
    measured: Measured,
) -> tuple[Path, ...]:
    from invtoolbox.plotting.report import write_report

    wanted, x = file.scene.output, solution.x
    written: list[Path] = []
    if metrics:
        write_json(folder / "metrics.json", metrics)
        written.append(folder / "metrics.json")
    for kind in dict.fromkeys(wanted.formats):
        if kind == "h5":
            written.append(solution.save(folder / "solution.h5", overwrite=True))
        elif kind == "html":
            fits = reference is not None and reference.shape[1:] == x.shape[1:]
            written.append(
                write_report(
                    solution,
                    folder / "report.html",
                    reference if fits else None,
                    file.scene.title or file.name,
                    metrics=metrics or None,
                )
            )
        else:
            images = x.detach().cpu()
            if kind == "nii" or (kind == "tif" and images.ndim == 5):
                images = datasets.VolumeInMemory(images[0], measured.grid or datasets.Grid())
            path = folder / f"reconstruction.{kind}"
            if kind == "png":
                window = wanted.window or ((0.0, 1.0) if measured.is_photograph else None)
                shown = images[0, :, images.shape[2] // 2] if images.ndim == 5 else images[0]
                datasets.write_png(path, shown, window, overwrite=True)
            else:
                datasets.write(path, images, overwrite=True)
            written.append(path)
    return tuple(written)
