"""Run a scene file: read, solve with checkpoints, write the results, measure them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.core.environment import device_named
from invtoolbox.core.interrupts import Interrupted
from invtoolbox.datasets.volumes.nifti import check_available
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.problem import Problem
from invtoolbox.runs.folder import check_folder, read_json, write_json, write_settings
from invtoolbox.runs.images import parts as scene_parts
from invtoolbox.runs.images.parts import Measured
from invtoolbox.runs.images.tables import SceneFile, read_scene
from invtoolbox.solution import Solution
from invtoolbox.solve import solve

CHECKPOINT = "checkpoint.safetensors"
#: What a run writes, and so what it may replace.
FILES = (
    "scene.json",
    "metrics.json",
    "solution.h5",
    "reconstruction.png",
    "reconstruction.tif",
    "reconstruction.nii",
    "reconstruction.npy",
    "report.html",
)
#: Tables that may differ between a run and its resumption: they do not change what is solved.
_FREE = (
    "title",
    "output",
    "evaluation",
    "solver.max_iterations",
    "solver.tolerance",
    "solver.time_limit",
)


@dataclass(frozen=True)
class Outcome:
    """A solution, how good it is, and where it was written.

    Attributes:
        metrics: by name, one value an item; empty where there is nothing to compare with.
        files: what was written.
    """

    solution: Solution
    folder: Path
    metrics: dict[str, list[float]]
    files: tuple[Path, ...]


def run(
    scene: str | Path,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Solution:
    """Run a scene file and write its results; behind `it.run`.

    Args:
        scene: the path of a TOML file, or the name of a scene of the catalogue.
        overrides: keys to change, ``{"solver.max_iterations": 200}`` or ``["solver.max_iterations=200"]``.
        output: folder for the results; by default that of the scene, or ``results/NAME``.
        resume: go on from the checkpoint in that folder; where the run is finished, give its solution.
        overwrite: replace the results of an earlier run.
        progress: show a bar on a terminal.

    Raises:
        InputError: a fault in the scene or its data; results that are there while neither ``resume`` nor ``overwrite``
            is given; a disk that is full.
    """
    return run_scene(scene, overrides, output, resume, overwrite, progress).solution


def run_scene(
    scene: str | Path,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Outcome:
    """As `run`, with the metrics and the files that were written."""
    file = read_scene(scene, overrides)
    folder = Path(output or file.scene.output.folder or Path("results") / file.name)
    settings = file.scene.model_dump(mode="json")
    there = [folder / name for name in (*FILES, CHECKPOINT) if (folder / name).exists()]
    check_folder(folder, settings, resume, overwrite, there, _FREE)
    finished = folder / "solution.h5"
    if resume and finished.exists() and not (folder / CHECKPOINT).exists():
        metrics = read_json(folder / "metrics.json") if (folder / "metrics.json").exists() else {}
        return Outcome(Solution.load(finished), folder, metrics, ())
    measured = scene_parts.measure(file)
    problem = Problem(
        measured.y, measured.operator, scene_parts.data_term(file, measured.noise_std)
    )
    prior, solver, rule = scene_parts.prior(file), scene_parts.solver(file), scene_parts.rule(file)
    reference, device = _reference(file, measured), device_named(file.scene.device)
    _check_evaluation(file, problem, reference, measured.segmentation)
    if "nii" in file.scene.output.formats:
        check_available()
    if overwrite:
        for name in (*FILES, CHECKPOINT):
            (folder / name).unlink(missing_ok=True)
    write_settings(folder, settings)
    budgets = file.scene.solver
    checkpoint = folder / CHECKPOINT
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
        if not checkpoint.exists():
            raise Interrupted(
                "stopped before the first iteration; nothing was computed yet"
            ) from None
        raise Interrupted(
            f"stopped; the checkpoint {checkpoint} stays, and --resume goes on from it"
        ) from None
    metrics = evaluate(file, solution.x, reference, measured.segmentation)
    files = _write(file, folder, solution, reference, metrics, measured)
    if all(status == "converged" for status in solution.status):
        checkpoint.unlink(missing_ok=True)
    return Outcome(solution, folder, metrics, files)


def evaluate(
    file: SceneFile, x: Tensor, reference: Tensor | None, segmentation: Tensor | None
) -> dict[str, list[float]]:
    """The metrics that a scene asks for, by name, one value an item."""
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
    """Whether there is what the metrics compare with; said before anything is computed."""
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
        return scene_parts.read(file, evaluation.reference).y
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
