"""The HTML page about a scene that was found from photographs: what of the results it shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from invtoolbox.errors import InputError
from invtoolbox.plotting.view_report import QualityCurve, ViewPicture, write_view_report
from invtoolbox.scenes.cameras import Cameras
from invtoolbox.scenes.orbits import turntable
from invtoolbox.views.models import Look, SceneModel
from invtoolbox.views.photographs import Photographs
from invtoolbox.views.stages import StagedSolution

if TYPE_CHECKING:
    from invtoolbox.views.run import ViewOutcome

#: Renderings of the turntable, and how large they are at most, pixels.
FRAMES, SIDE = 24, 256


def write_outcome_report(
    path: Path,
    title: str,
    outcome: ViewOutcome,
    photographs: Photographs,
    look: Look,
    viewer: str | None,
    settings: Mapping[str, str],
) -> Path:
    """Write the page of an outcome.

    Args:
        look: what the judged views see of the scene.
        viewer: the address of the viewer, where there is one.
        settings: further facts.
    """
    solution = outcome.solution
    assert solution is not None
    model, truth = solution.model, photographs.judged.on(solution.model.shade())
    views = [
        ViewPicture(
            name,
            truth[k],
            look.colour[k],
            look.depth[k],
            look.alpha[k],
            {m: v[k] for m, v in outcome.metrics.items()},
        )
        for k, name in enumerate(outcome.names)
    ]
    around = list(model.look(solution.x, _turntable(photographs.train.cameras, model)).colour)
    return write_view_report(
        path,
        title,
        views,
        lead(outcome, photographs),
        outcome.held_out,
        around,
        curve(solution),
        stages(solution),
        settings,
        outcome.notes,
        viewer,
    )


def _turntable(cameras: Cameras, model: SceneModel) -> Cameras:
    try:
        return turntable(cameras, FRAMES, SIDE)
    except InputError:  # their axes do not meet: around the box
        return turntable(
            cameras, FRAMES, SIDE, (torch.tensor(model.low) + torch.tensor(model.high)) / 2
        )


def lead(outcome: ViewOutcome, photographs: Photographs) -> str:
    """The outcome in a sentence."""
    solution = outcome.solution
    assert solution is not None
    height, width = photographs.train.cameras.size
    steps = sum(report.iterations for report in solution.reports)
    which = f"{len(outcome.names)} held-out views" if outcome.held_out else "the views themselves"
    quality = f"; {outcome.mean('psnr'):.2f} dB on {which}" if "psnr" in outcome.metrics else ""
    return (
        f"{solution.model.describe(solution.x)} from {len(photographs.train)} views of {width} x {height} pixels, {steps:,} iterations "
        f"in {solution.seconds:.0f} s{quality}."
    )


def curve(solution: StagedSolution) -> QualityCurve:
    """PSNR on the way; stages after the first one are marked."""
    begins, spent = [], 0.0
    for report in solution.reports[:-1]:
        spent += report.seconds
        begins.append(spent)
    return QualityCurve(
        [s.seconds for s in solution.samples], [s.psnr for s in solution.samples], begins
    )


def stages(solution: StagedSolution) -> list[tuple[str, list[str]]]:
    """A row for each stage."""
    return [
        (report.prior, [f"{report.iterations:,}", f"{report.seconds:.1f}", f"{report.psnr:.2f}"])
        for report in solution.reports
    ]
