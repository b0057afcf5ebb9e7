"""Run a scene of photographs: read, solve in stages with checkpoints, evaluate, write results."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.catalogue.documents import CheckedScene, refuse_outside
from invtoolbox.core.environment import device_named, open3d
from invtoolbox.datasets import PosedPictures, read_splats, read_voxels, write_mesh
from invtoolbox.datasets.output import file_names, make_folder, refuse_inputs, write_png
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras, turntable
from invtoolbox.jobs.fields import input_files
from invtoolbox.jobs.job import (
    Request,
    SceneJob,
    alone,
    check_places,
    print_files,
    print_notes,
    read_json,
    write_json,
)
from invtoolbox.jobs.kind import OwnKind
from invtoolbox.jobs.photographs.command import COMMAND
from invtoolbox.jobs.photographs.exports import (
    check_exports,
    places_of,
    write_exports,
)
from invtoolbox.jobs.photographs.models import SceneModel
from invtoolbox.jobs.photographs.photographs import Photographs, judge
from invtoolbox.jobs.photographs.representations import GaussianModel
from invtoolbox.jobs.photographs.scene import MESHES, ViewScene, ViewSceneFile, read_view_scene
from invtoolbox.jobs.photographs.stages import StagedSolution, solve_in_stages, work_files
from invtoolbox.jobs.photographs.surface import mesh_scene
from invtoolbox.jobs.photographs.watch import outlook
from invtoolbox.plotting import QualityCurve, ViewPicture, write_view_report, write_viewer

PICTURES, MESH = "held-out", "mesh.obj"
#: Shares of the time for a mesh after which no further depth, and no further photograph of its
#: texture is taken.
DEPTH_SHARE, BAKE_SHARE = 0.4, 0.8


@dataclass(frozen=True, eq=False)
class ViewOutcome:
    """Scene found from photographs, its quality, and its files.

    Attributes:
        solution: the scene, its stages and the PSNR during the run; None if an earlier run was
            finished.
        folder: folder of the results.
        metrics: values by the name of the metric, one per view.
        names: names of the evaluated views.
        held_out: whether these views were held out; otherwise the scene was found from them.
        notes: notes for a reader of the results.
        files: files that were written.
        is_empty: whether nothing is visible in any of the views.
        cameras: cameras of the training views.
    """

    solution: StagedSolution | None
    folder: Path
    metrics: dict[str, list[float]]
    names: tuple[str, ...]
    held_out: bool
    notes: tuple[str, ...]
    files: tuple[Path, ...]
    is_empty: bool = False
    cameras: Cameras | None = None

    def mean(self, name: str) -> float:
        """Return the mean of a metric over the views."""
        values = self.metrics[name]
        return sum(values) / len(values)

    def scene(self) -> Any:
        """Return the scene, a batch of one.

        It is read from the folder if an earlier run was finished.
        """
        if self.solution is not None:
            return self.solution.x
        for name, read in (("model.ply", read_splats), ("model.safetensors", read_voxels)):
            if (self.folder / name).exists():
                return read(self.folder / name)
        raise InputError(
            f'{self.folder} holds no model; add "model" to output.formats and run again with --overwrite'
        )


@dataclass(frozen=True)
class ViewJob(SceneJob[ViewScene]):
    """Run of one scene of photographs."""

    #: The files of `solve_in_stages` are written, too.
    files: ClassVar = (
        "scene.json",
        "metrics.json",
        "preview.png",
        "model.ply",
        "model.safetensors",
        "report.html",
        "viewer.html",
        "mesh.obj",
        f"{PICTURES}/*.png",
    )
    free: ClassVar = ("title", "output", "evaluation", "solver.time_limit")
    file: ViewSceneFile

    @classmethod
    def prepare(cls, file: CheckedScene[ViewScene], request: Request) -> Self:
        """Take an output with a suffix as a file next to the folder; see `SceneJob.prepare`."""
        output = Path(request.output or "results")
        if re.fullmatch(r"\.[A-Za-z]\w*", output.suffix) and not output.is_dir():
            table = file.scene.output
            files = table.model_copy(update={"files": [*table.files, str(output)]})
            scene = file.scene.model_copy(update={"output": files})
            file = replace(file, scene=scene, given=file.given | {str(output)})
            request = replace(request, output=None)
        return super().prepare(file, request)

    def check(self, request: Request) -> None:
        super().check(request)
        file, exports = self.file, self.file.exports
        for path in exports:
            if str(path) not in file.given:
                refuse_outside(file.path, str(path), path, (file.path.parent, Path()))
        check_exports(exports, file.scene.model.name == "gaussians")
        refuse_inputs(places_of(exports), input_files(file))
        check_places(places_of(exports), self.overwrite)

    def existing(self) -> list[Path]:
        return [*super().existing(), *(path for path in work_files(self.folder) if path.exists())]

    @alone
    def run(
        self, progress: bool = True, show: Callable[[Any, Cameras], None] = lambda x, cameras: None
    ) -> ViewOutcome:
        """Find the scene in stages and write the results, or read the results of a finished run.

        Args:
            progress: whether to show a bar on a terminal.
            show: function that is called with the scene and the cameras of the photographs after
                every measurement of the PSNR.
        """
        file, folder = self.file, self.folder
        photographs = file.photographs(folder / "cameras")
        model, explicit, data_term = file.model(photographs), file.explicit(), file.data_term()
        solver, stages, limit = file.solver(), file.stages(), file.scene.solver.time_limit
        for stage in stages:
            model.change(stage.prior)
        if file.scene.output.mesh and isinstance(model, GaussianModel):
            open3d()  # missing before the scene is found, not after
        cameras = photographs.train.cameras
        content = self.check_content(
            photographs=photographs, model=model, prior=explicit, data_term=data_term
        )
        outcome = _read_finished(folder, file, photographs) if self.resume else None
        if outcome is not None:
            return self._export(outcome, model, photographs, progress)
        self.start(content)
        # The measures of an unfinished run are removed until this run is over.
        (folder / "metrics.json").unlink(missing_ok=True)
        evaluation = file.scene.evaluation

        def show_progress(x: Any) -> None:
            view = photographs.judged.read([0])
            pictures = view.on(model.shade()), model.look(x, view.cameras).color
            path = folder / "preview.png"
            write_png(path, torch.cat(pictures, 3)[0], (0.0, 1.0), overwrite=True)
            show(x, cameras)

        try:
            solution = solve_in_stages(
                model,
                photographs,
                stages,
                solver=solver,
                explicit=explicit,
                data_term=data_term,
                seconds=None if limit is None else limit - file.mesh_seconds,
                seed=file.scene.seed,
                device=device_named(file.scene.device),
                folder=folder,
                every=evaluation.every,
                watched=evaluation.views,
                progress=progress,
                silhouettes=file.scene.views.silhouettes,
                show=show_progress,
            )
        except KeyboardInterrupt:
            raise self.interrupted(
                bool(work_files(folder)), f"what was done is in {folder}"
            ) from None
        if "png" in file.scene.output.formats:
            make_folder(folder / PICTURES)
        scores, views, is_empty = _compare(solution, photographs, evaluation.metrics, folder)
        outcome = ViewOutcome(
            solution=solution,
            folder=folder,
            metrics=scores,
            names=photographs.judged.cameras.names,
            held_out=len(photographs.held) > 0,
            notes=_notes(photographs, solution, views, is_empty),
            files=(),
            is_empty=is_empty,
            cameras=cameras,
        )
        outcome = _write(outcome, file, photographs, views)
        return self._export(outcome, solution.model, photographs, progress)

    def _export(
        self, outcome: ViewOutcome, model: SceneModel, photographs: Photographs, progress: bool
    ) -> ViewOutcome:
        """Write the mesh and the files that the user named, and add them to the outcome."""
        file, folder, exports = self.file, self.folder, self.file.exports
        table, written = file.scene.output, list(outcome.files)
        seconds, start = file.mesh_seconds or math.inf, time.monotonic()
        is_old = outcome.solution is None and (folder / MESH).exists()
        has_mesh = table.mesh and not is_old
        meshes = [path for path in exports if path.suffix.lower() in MESHES]
        if outcome.is_empty or not (has_mesh or exports):
            return outcome
        try:
            x, mesh = outcome.scene(), None
            if has_mesh or meshes:
                mesh = mesh_scene(
                    model,
                    x,
                    photographs.train.cameras,
                    box=table.box,
                    seconds=DEPTH_SHARE * seconds,
                    progress=progress,
                )
            if has_mesh and mesh is not None:
                written.append(write_mesh(folder / MESH, mesh, overwrite=True).path)
            notes = write_exports(
                exports,
                x,
                mesh,
                file,
                folder,
                photographs,
                seconds=BAKE_SHARE * seconds - (time.monotonic() - start),
                progress=progress,
                overwrite=self.overwrite,
            )
        except KeyboardInterrupt:
            raise self.interrupted(True, f"the scene is in {folder}") from None
        return replace(outcome, files=(*written, *exports), notes=(*outcome.notes, *notes))

    def print_outcome(self, outcome: ViewOutcome, quiet: bool) -> int:
        if quiet:
            return 0
        solution = outcome.solution
        if solution is not None:
            steps = ", ".join(f"{stage.iterations}" for stage in solution.reports)
            words = solution.model.describe(solution.x)
            print(f"{words}; {solution.seconds:.0f} s, iterations: {steps}")
        which = "held-out" if outcome.held_out else "training"
        for name, values in outcome.metrics.items():
            print(
                f"  {name:<6}{outcome.mean(name):.4g} on average over {len(values)} {which} views "
                f"({min(values):.4g} to {max(values):.4g})"
            )
        print_notes(outcome.notes)
        print_files(outcome.files, outcome.folder)
        return 0


def _compare(
    solution: StagedSolution, photographs: Photographs, names: Iterable[str], folder: Path
) -> tuple[dict[str, list[float]], list[ViewPicture], bool]:
    """Render the views that judge a scene one by one.

    Renderings are written to the folder `PICTURES` if it exists.

    Returns the metrics, the pictures of a report, and whether nothing is visible in any view.
    """
    model, shade = solution.model, solution.model.shade()
    views, is_empty = [], True
    files = file_names(photographs.judged.cameras.names)
    for photograph, file in zip(photographs.judged.each(), files):
        name, look = photograph.cameras.names[0], model.look(solution.x, photograph.cameras)
        scores = judge(look.color, photograph, shade, names)
        is_empty = is_empty and not bool((look.alpha > 0.02).any())
        if (folder / PICTURES).is_dir():
            path = folder / PICTURES / f"{file}.png"
            write_png(path, look.color[0], (0.0, 1.0), overwrite=True)
        simple, psnr = _nearest(photographs, photograph, shade), math.nan
        shown = [photograph.on(shade), look.color, look.depth, look.alpha]
        if simple is not None:
            psnr = float(judge(simple, photograph, shade, ["psnr"])["psnr"])
            shown.append(simple)
        channels = torch.cat(shown, 1)
        if max(channels.shape[2:]) > REPORT_SIDE:
            small = photograph.cameras.scale(REPORT_SIDE / max(channels.shape[2:]))
            channels = functional.interpolate(channels, size=small.size, mode="area")
        truth, color, depth, alpha, nearest = channels[0].tensor_split([3, 6, 7, 8])
        values = {metric: float(score) for metric, score in scores.items()}
        picture = nearest if len(nearest) else None
        views.append(
            ViewPicture(
                name,
                photograph=truth,
                rendering=color,
                depth=depth,
                alpha=alpha,
                scores=values,
                nearest=picture,
                nearest_psnr=psnr,
            )
        )
    return {m: [view.scores[m] for view in views] for m in views[0].scores}, views, is_empty


def _nearest(
    photographs: Photographs, view: PosedPictures, background: float | Tensor
) -> Tensor | None:
    """Return the training photograph whose camera is nearest to that of a held-out view.

    Of two cameras at one place, the one that looks into a more similar direction is nearer. None if
    no view is held out, or if the photographs differ in size.
    """
    if not len(photographs.held):
        return None
    cameras, camera = photographs.train.cameras, view.cameras
    away = (cameras.centres - camera.centres).norm(dim=1)
    turned = (cameras.world_to_camera - camera.world_to_camera)[:, :3, :3].flatten(1).norm(dim=1)
    place = int((away / away.median().clamp_min(1e-12) + turned).argmin())
    picture = next(photographs.train[[place]].each()).on(background)
    return picture if picture.shape[2:] == view.pictures.shape[2:] else None


def _notes(
    photographs: Photographs, solution: StagedSolution, views: list[ViewPicture], is_empty: bool
) -> tuple[str, ...]:
    notes = list(photographs.train.notes)
    bad = solution.bad_views
    if bad:
        listed = "; ".join(f"{name} {reason}" for name, reason in bad.items())
        notes.append(
            f"{len(bad)} of {len(photographs.train)} training photographs fit badly to the others, "
            f"and were left out once this was seen: {listed}"
        )
    if outlook(solution.samples):
        notes.append(outlook(solution.samples))
    skipped = photographs.train.skipped
    if skipped:
        first = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        notes.append(
            f"{len(skipped)} of {len(skipped) + len(photographs.train) + len(photographs.held)} "
            f"photographs have no file or no camera and were skipped: {first}"
        )
    if not len(photographs.held):
        notes.append(
            "no view is held out, so the figures are of the views that the scene was found from"
        )
    simple = [view.nearest_psnr for view in views if view.nearest is not None]
    mean = statistics.fmean(view.scores.get("psnr", math.inf) for view in views)
    if simple and mean < statistics.fmean(simple):
        notes.append(
            f"the renderings of the held-out views have a PSNR of {mean:.1f} dB, and the nearest "
            f"training photograph has {statistics.fmean(simple):.1f}: check the cameras, or give more "
            "photographs or time"
        )
    if is_empty:
        notes.append(
            "nothing is visible in any of the views that are evaluated: the scene is empty there; "
            "check that low and high contain it"
        )
    return tuple(notes)


def _settings_in_words(file: ViewSceneFile) -> dict[str, str]:
    scene = file.scene
    words = {
        "scene file": file.path.name,
        "views": str(scene.views.dataset or scene.views.path),
        "priors": "; ".join(
            ", ".join(
                [
                    table.name,
                    *(f"{k} {v}" for k, v in table.settings.items()),
                    *([f"weight {table.weight:g}"] if table.weight is not None else []),
                ]
            )
            for table in scene.prior
        ),
        "solver": repr(file.solver()),
        "seed": str(scene.seed),
    }
    if scene.solver.time_limit is not None:
        words["time limit"] = f"{scene.solver.time_limit:g} s"
    return words


def _write(
    outcome: ViewOutcome,
    file: ViewSceneFile,
    photographs: Photographs,
    views: list[ViewPicture],
) -> ViewOutcome:
    solution, folder = outcome.solution, outcome.folder
    assert solution is not None
    formats = file.scene.output.formats
    written: list[Path] = []
    if "model" in formats:
        written.append(solution.model.write(folder / solution.model.file_name, solution.x))
    if "png" in formats:
        written.append(folder / PICTURES)
    content = {
        "views": outcome.names,
        "held_out": outcome.held_out,
        "metrics": outcome.metrics,
        "mean": {name: outcome.mean(name) for name in outcome.metrics},
        "scene": solution.model.describe(solution.x),
        "seconds": solution.seconds,
        "iterations": [r.iterations for r in solution.reports],
        "curve": [[sample.seconds, sample.psnr] for sample in solution.samples],
        "bad_views": dict(solution.bad_views),
        "notes": outcome.notes,
        "time_limit": file.scene.solver.time_limit,
        "is_complete": solution.is_complete,
    }
    write_json(folder / "metrics.json", content)
    written.append(folder / "metrics.json")
    if "viewer" in formats and not outcome.is_empty:
        written.append(
            write_viewer(
                folder / "viewer.html",
                solution.x,
                photographs.train.cameras,
                title=file.scene.title or file.name,
                background=file.scene.views.background,
                overwrite=True,
            )
        )
    if "html" in formats:
        written.append(
            _write_report(
                path=folder / "report.html",
                file=file,
                outcome=outcome,
                solution=solution,
                photographs=photographs,
                views=views,
                viewer="viewer.html" if folder / "viewer.html" in written else None,
            )
        )
    return replace(outcome, files=tuple(written))


def _read_finished(
    folder: Path, file: ViewSceneFile, photographs: Photographs
) -> ViewOutcome | None:
    """Read the outcome of an earlier run; None if iterations and seconds are left."""
    if not (folder / "metrics.json").exists():
        return None
    content, limit = read_json(folder / "metrics.json"), file.scene.solver.time_limit
    before = content["time_limit"]  # seconds of it may have been left for a mesh
    is_spent = limit is not None and before is not None and before >= limit
    has_end = file.stages()[-1].iterations is not None
    if not (is_spent or (has_end and content["is_complete"])):
        return None
    return ViewOutcome(
        solution=None,
        folder=folder,
        metrics=content["metrics"],
        names=tuple(content["views"]),
        held_out=content["held_out"],
        notes=tuple(content["notes"]),
        files=(),
        cameras=photographs.train.cameras,
    )


#: Number of renderings of the turntable, and their largest side, pixels.
FRAMES, SIDE = 24, 256
#: Largest side of the pictures of a report, pixels.
REPORT_SIDE = 1000


def _write_report(
    path: Path,
    file: ViewSceneFile,
    outcome: ViewOutcome,
    solution: StagedSolution,
    photographs: Photographs,
    views: list[ViewPicture],
    viewer: str | None,
) -> Path:
    """Write the HTML report of an outcome; `viewer` is the address of the viewer, or None."""
    samples, reports, cameras = solution.samples, solution.reports, photographs.train.cameras
    model, (height, width) = solution.model, cameras.size
    steps = sum(report.iterations for report in reports)
    which = f"{len(outcome.names)} held-out views" if outcome.held_out else "the views themselves"
    quality = f"; {outcome.mean('psnr'):.2f} dB on {which}" if "psnr" in outcome.metrics else ""
    # Marks of the curve: the starts of the later stages.
    starts = accumulate(report.seconds for report in reports[:-1])
    return write_view_report(
        path,
        file.scene.title or file.name,
        views,
        lead=f"{model.describe(solution.x)} from {len(photographs.train)} views of {width} x "
        f"{height} pixels, {steps:,} iterations in {solution.seconds:.0f} s{quality}.",
        held_out=outcome.held_out,
        turntable=list(model.look(solution.x, _turntable(cameras, model)).color),
        curve=QualityCurve([s.seconds for s in samples], [s.psnr for s in samples], list(starts)),
        stages=[
            (stage.prior, [f"{stage.iterations:,}", f"{stage.seconds:.1f}", f"{stage.psnr:.2f}"])
            for stage in reports
        ],
        settings=_settings_in_words(file),
        notes=outcome.notes,
        viewer=viewer,
    )


def _turntable(cameras: Cameras, model: SceneModel) -> Cameras:
    try:
        return turntable(cameras, FRAMES, SIDE)
    except InputError:  # the axes of the cameras do not meet: around the box
        middle = (torch.tensor(model.low) + torch.tensor(model.high)) / 2
        return turntable(cameras, FRAMES, SIDE, middle)


KIND = OwnKind(ViewScene, read_view_scene, ViewJob.prepare, COMMAND)
