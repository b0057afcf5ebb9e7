"""Self-contained HTML page about a scene that was found from photographs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from invtoolbox.plotting import page
from invtoolbox.plotting.charts import line_chart
from invtoolbox.plotting.pixels import Window, heat, plane, to_bytes

#: Number of views with pictures; the table contains all views.
SHOWN = 6


@dataclass(frozen=True, eq=False)
class ViewPicture:
    """Photograph and rendering of the scene from the same camera.

    Attributes:
        name: name of the photograph.
        photograph: photograph from 0 to 1, ``(3, height, width)``.
        rendering: rendering from 0 to 1, ``(3, height, width)``.
        depth: depth along z, ``(1, height, width)``.
        alpha: share of the light that was stopped, ``(1, height, width)``; depths are shown if it
            exceeds a half.
        scores: metrics of the rendering, by name.
        nearest: training photograph of the nearest camera, the simple answer, ``(3, height,
            width)``; None if there is none of this size.
        nearest_psnr: its PSNR in place of the rendering.
    """

    name: str
    photograph: Tensor
    rendering: Tensor
    depth: Tensor
    alpha: Tensor
    scores: Mapping[str, float]
    nearest: Tensor | None = None
    nearest_psnr: float = math.nan


@dataclass(frozen=True)
class QualityCurve:
    """PSNR during a run.

    Attributes:
        seconds: seconds of work.
        psnr: PSNR at these times, dB.
        stages: times at which later stages begin, seconds.
    """

    seconds: Sequence[float]
    psnr: Sequence[float]
    stages: Sequence[float] = ()


def write_view_report(
    path: str | Path,
    title: str,
    views: Sequence[ViewPicture],
    lead: str = "",
    held_out: bool = True,
    turntable: Sequence[Tensor] = (),
    curve: QualityCurve | None = None,
    stages: Sequence[tuple[str, Sequence[str]]] = (),
    settings: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    viewer: str | None = None,
    overwrite: bool = True,
) -> Path:
    """Write a page about a scene.

    The page shows photographs, renderings, errors, depths, a turntable, PSNR over time, settings
    and versions. It contains its pictures, so it can be mailed; the viewer is a file next to it.

    Args:
        path: the file.
        title: title of the page.
        views: evaluated views. Six are shown: the worst, the best, and others evenly between them
            by PSNR.
        lead: a sentence below the title.
        held_out: whether the scene was found without these views.
        turntable: renderings ``(3, height, width)`` from cameras once around the scene.
        curve: PSNR during the run.
        stages: one row per stage, with its name and iterations, seconds and PSNR.
        settings: facts at the end.
        notes: notes for a reader.
        viewer: address of the page in which the scene can be turned.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists and ``overwrite`` is False, or it cannot be written.
    """
    body = [page.section("Note", note) for note in notes]
    figures = []
    if turntable:
        figures.append(
            page.player(
                [to_bytes(_pixels(p), _ONE) for p in turntable],
                "Turntable",
                "once around the scene",
            )
        )
    if curve is not None and len(curve.psnr):
        figures += _curve(curve, held_out)
    if figures:
        body += ["<h2>The scene</h2>", page.charts(figures, 2)]
    if viewer is not None:
        body.append(
            page.link(viewer, "Turn the scene yourself", "it opens in a browser, without a server")
        )
    if views:
        which = "held-out" if held_out else "training"
        body += [page.section(f"{which.capitalize()} views", _words(views, held_out))]
        low, high = _depths(views)
        for view in _choose_views(views):
            body += [
                f"<h3>{page.escape(Path(view.name).stem)}</h3>",
                page.row(row := _row(view, low, high), len(row)),
            ]
        columns = list(views[0].scores)
        means = {name: float(np.mean([v.scores[name] for v in views])) for name in columns}
        rows = [
            (name, [_number(column, scores[column]) for column in columns])
            for name, scores in [("mean", means), *((Path(v.name).stem, v.scores) for v in views)]
        ]
        heads = ["view", *(_LONG.get(name, name) for name in columns)]
        body += ["<h2>Metrics</h2>", page.numbers(heads, rows)]
    if stages:
        body += [
            "<h2>Stages</h2>",
            page.numbers(["what was optimized", "iterations", "seconds", "PSNR [dB]"], stages),
        ]
    lead = f"{lead} {page.date()}.".strip()
    return page.write_page(path, title, lead, body, settings, overwrite)


_ONE = Window(0.0, 1.0)
_LONG = {"psnr": "PSNR [dB]", "ssim": "SSIM"}


def _number(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "psnr" else f"{value:.4f}"


def _words(views: Sequence[ViewPicture], held_out: bool) -> str:
    how = (
        "The scene was found without them."
        if held_out
        else "No view was held out; the scene was found from these."
    )
    simple = [view.nearest_psnr for view in views if view.nearest is not None]
    if simple and all("psnr" in view.scores for view in views):
        mean = float(np.mean([view.scores["psnr"] for view in views]))
        how += (
            f" Renderings have {mean:.1f} dB on average, and the training photograph of the nearest "
            f"camera, the simple answer, {float(np.mean(simple)):.1f} dB."
        )
    return how + (
        f" {min(SHOWN, len(views))} of {len(views)} are shown, from the worst to the best."
        if len(views) > 1
        else ""
    )


def _choose_views(views: Sequence[ViewPicture]) -> list[ViewPicture]:
    ranked = sorted(views, key=lambda view: view.scores.get("psnr", 0.0))
    places = np.unique(np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked))).round().astype(int))
    return [ranked[k] for k in places]


def _row(view: ViewPicture, low: float, high: float) -> list[str]:
    error = np.abs(_pixels(view.rendering) - _pixels(view.photograph)).mean(-1)
    solid, depth = (
        view.alpha[0].detach().cpu().numpy() > 0.5,
        view.depth[0].detach().cpu().double().numpy(),
    )
    nearness = np.where(solid, 1 - (depth - low) / (high - low), 0.0)
    depths = heat(nearness * 0.9 + 0.1, _ONE)
    depths[~solid] = 247
    scores = ", ".join(
        f"{_LONG.get(name, name).split(' ')[0]} {_number(name, value)}"
        for name, value in view.scores.items()
    )
    simple = []
    if view.nearest is not None:
        simple = [
            page.picture(
                to_bytes(_pixels(view.nearest), _ONE),
                "Nearest training photograph",
                "the simple answer",
                f"PSNR {_number('psnr', view.nearest_psnr)}",
            )
        ]
    return [
        page.picture(to_bytes(_pixels(view.photograph), _ONE), "Photograph", ""),
        page.picture(
            to_bytes(_pixels(view.rendering), _ONE), "Rendering", "", scores, swipe="Photograph"
        ),
        page.picture(
            heat(error, Window(0.0, 0.25)),
            "Error",
            "mean over the colors; black 0, white 0.25 or more",
        ),
        page.picture(
            depths, "Depth", f"bright {low:.3g} to dark {high:.3g}; white if empty", light=True
        ),
        *simple,
    ]


def _depths(views: Sequence[ViewPicture]) -> tuple[float, float]:
    """Return the range of depths of all views, without a percent of outliers at either end."""
    depths = [v.depth[v.alpha > 0.5].detach().cpu().double().numpy() for v in views]
    solid = np.concatenate(depths) if depths else np.zeros(0)
    if not solid.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(solid, (1, 99)))
    return (low, high) if high > low else (low, low + 1.0)


def _curve(curve: QualityCurve, held_out: bool) -> list[str]:
    if len(curve.psnr) < 2 or not curve.seconds[-1] > curve.seconds[0]:
        return []
    svg = line_chart(
        [np.array(curve.psnr)],
        "PSNR",
        log=False,
        axis="seconds of work",
        places=curve.seconds,
        marks=curve.stages,
    )
    begins = "; dashed where a stage begins" if len(curve.stages) else ""
    what = "mean of some held-out views" if held_out else "mean of some training views"
    return [page.chart(svg, "PSNR [dB]", what + begins)] if svg is not None else []


def _pixels(picture: Tensor) -> np.ndarray:
    pixels = plane(picture)
    assert pixels is not None
    return pixels
