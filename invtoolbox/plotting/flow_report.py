"""Self-contained HTML page about the scene flow of a sequence.

A section can compare several methods on one pair of sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from invtoolbox.geometry.sweeps import MOVES
from invtoolbox.metrics.flow_evaluation import FlowErrors, pool
from invtoolbox.plotting import page
from invtoolbox.plotting.birds_eye import birds_eye_pixels, full_speed_of
from invtoolbox.plotting.charts import line_chart

#: Number of sweeps that the table of errors lists; its first row is of all sweeps.
LISTED = 40


#: Columns of the tables of sweeps and of methods, by their names in `FlowErrors.COLUMNS`: more
#: columns do not fit into a narrow window.
_SHOWN = (
    "dynamic EPE [m]",
    "static EPE [m]",
    "AccS",
    "AccR",
    "three-way EPE [m]",
    "bucketed dynamic",
)


@dataclass(frozen=True)
class SweepResult:
    """Result of one sweep.

    Attributes:
        name: name of the sweep.
        seconds: seconds of the computation; None if the result existed already.
        errors: errors against the labels; None without labels.
        moving: number of moving points.
        speed: speed below which 95 % of the moving points stay, metres per sweep.
        failed: reason of a failure; empty if the flow was estimated.
    """

    name: str
    seconds: float | None = None
    errors: FlowErrors | None = None
    moving: int | None = None
    speed: float | None = None
    failed: str = ""


@dataclass(frozen=True, eq=False)
class SweepPicture:
    """Sweep that the page shows from above.

    Attributes:
        name: name of the sweep.
        points: points, ``(N, 3)``.
        residual: flow without the motion of the sensor, ``(N, 3)``.
        dynamic: which points move, boolean ``(N,)``; None for points faster than 0.05 m per sweep.
        truth: true flow without the motion of the sensor; adds pictures of the truth and of the
            difference.
        radius: distance from the sensor to the edges of the picture, metres.
    """

    name: str
    points: Tensor
    residual: Tensor
    dynamic: Tensor | None = None
    truth: Tensor | None = None
    radius: float = 50.0


def write_flow_report(
    path: str | Path,
    title: str,
    results: Sequence[SweepResult],
    pictures: Iterable[SweepPicture] = (),
    settings: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> Path:
    """Write a page about the flow of a sequence.

    The page shows pictures of some sweeps, errors against labels, seconds per sweep, and failures.
    It contains its pictures, so it can be mailed.

    Args:
        path: the file.
        title: title of the page.
        results: results of all sweeps, in the order of time.
        pictures: sweeps with pictures. They are read one after another, so a generator keeps one
            sweep in memory.
        settings: facts at the end, such as the method and its settings.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists and ``overwrite`` is False, or it cannot be written.
    """
    scored = [r for r in results if r.errors is not None]
    errors = [r.errors for r in scored if r.errors is not None]
    body = _verdict(pool(errors)) if errors else []
    for picture in pictures:
        body += _pictures(picture)
    failed = [r for r in results if r.failed]
    if failed:
        body += [
            page.section(
                "Sweeps that failed",
                f"{len(failed)} of {len(results)}; the other sweeps are not affected.",
            ),
            page.facts({r.name: r.failed for r in failed}),
        ]
    if scored:
        body += _errors(scored)
    curves = _curves(results)
    if curves:
        body += ["<h2>Over the sequence</h2>", page.charts(curves)]
    return page.write_page(path, title, _lead(results), body, settings, overwrite)


def _verdict(errors: FlowErrors, name: str = "") -> list[str]:
    """Return the error relative to the speed, which is 1 for the answer that nothing moves."""
    relative = errors.bucketed.mean().dynamic
    if math.isnan(relative):
        return []
    head = f"{name}{': e' if name else 'E'}rror of {relative:.2f} relative to the speed."
    text = (
        f"It is 1 if nothing moves. Moving points are off by {errors.dynamic:.3f} m per sweep, and "
        f"static points by {errors.static:.3f} m."
    )
    return [page.verdict(head, text, relative < 1)]


def _lead(results: Sequence[SweepResult]) -> str:
    timed = [r.seconds for r in results if r.seconds is not None]
    failed = sum(bool(r.failed) for r in results)
    parts = [f"{len(results)} sweep{'s' if len(results) != 1 else ''}"]
    if failed:
        parts.append(f"{failed} failed")
    if timed:
        median, slowest = float(np.median(timed)), max(timed)
        parts.append(f"{median:.2f} s per sweep (median; the slowest {slowest:.2f} s)")
    return f"{', '.join(parts)}. {page.date()}."


def _pictures(sweep: SweepPicture) -> list[str]:
    flows = [sweep.residual] if sweep.truth is None else [sweep.residual, sweep.truth]
    full = _full_speed(*flows)

    def view(
        flow: Tensor, name: str, caption: str, dynamic: Tensor | None = None, swipe: str = ""
    ) -> str:
        pixels = birds_eye_pixels(sweep.points, flow, dynamic, radius=sweep.radius, full_speed=full)
        return page.picture(pixels, name, caption, swipe=swipe)

    caption = "without the motion of the sensor; static points are grey"
    drawn = [view(sweep.residual, "Flow", caption, sweep.dynamic)]
    if sweep.truth is not None:
        caption = "flow minus truth if it is at least 0.05 m, in the same colors"
        drawn += [
            view(sweep.truth, "Truth", "in the same colors", swipe="Flow"),
            view(sweep.residual - sweep.truth, "Difference", caption),
        ]
    return [
        page.section(f"Sweep {sweep.name}", "From above, ahead is up."),
        page.row(drawn, 3 if len(drawn) > 1 else 2),
    ]


def _full_speed(*flows: Tensor) -> float:
    """Return the speed of the most saturated color for the moving points of all flows."""
    speeds = [np.linalg.norm(flow.detach().cpu().double().numpy(), axis=1) for flow in flows]
    return full_speed_of(np.concatenate([speed[speed >= MOVES] for speed in speeds]))


def _errors(scored: Sequence[SweepResult]) -> list[str]:
    errors = [r.errors for r in scored if r.errors is not None]
    together = pool(errors)
    rows = [("all, every point alike", _figures(together))] if len(errors) > 1 else []
    rows += [(r.name, _figures(e)) for r, e in zip(scored[:LISTED], errors)]
    classes = [
        (name.capitalize().replace("_", " "), (_number(e.static), _number(e.dynamic)))
        for name, e in together.bucketed.by_class().items()
    ]
    ranges = [
        (
            f"{p.near:g} to {p.far:g} m",
            (_number(p.dynamic), str(p.dynamic_points), _number(p.static), str(p.static_points)),
        )
        for p in together.ranges
    ]
    three_way = [
        (
            f"over {e.averaged}",
            tuple(
                _number(v)
                for v in (e.foreground_dynamic, e.foreground_static, e.background_static, e.mean)
            ),
        )
        for e in (together.three_way.pool(), together.three_way.per_frame())
    ]
    text = (
        "The motion of the sensor is removed. Points within 35 m of the sensor count if they are "
        "not ground and their flow is known; the table by range contains all distances."
    )
    more = (
        [f"<p>The first {LISTED} of {len(scored)} sweeps are listed; the first row is of all.</p>"]
        if len(scored) > LISTED
        else []
    )
    return [
        page.section("Errors", text),
        "<h3>Bucket-normalized error by class</h3>",
        page.numbers(["class", "static [m]", "dynamic"], classes),
        "<h3>All sweeps, every point alike</h3>",
        page.numbers(
            ["figure", "value"], [(n, [v]) for n, v in zip(FlowErrors.COLUMNS, together.row())]
        ),
        "<h3>By sweep</h3>",
        page.numbers(["Sweep", *_SHOWN], rows),
        *more,
        "<h3>Three-way end-point error [m]</h3>",
        page.numbers(
            ["averaged", "foreground dynamic", "foreground static", "background static", "mean"],
            three_way,
        ),
        "<h3>End-point error by range</h3>",
        page.numbers(["distance", "dynamic [m]", "points", "static [m]", "points"], ranges),
    ]


def _figures(errors: FlowErrors) -> list[str]:
    """Return the figures of the columns `_SHOWN`."""
    row = errors.row()
    return [row[FlowErrors.COLUMNS.index(name)] for name in _SHOWN]


def _curves(results: Sequence[SweepResult]) -> list[str]:
    nan = math.nan
    scores = [
        (nan, nan) if r.errors is None else (r.errors.dynamic, r.errors.static) for r in results
    ]
    lines: list[tuple[str, str, list[list[float]], tuple[str, ...]]] = [
        (
            "End-point error [m]",
            "of moving and of static points, within 35 m",
            [[dynamic for dynamic, _ in scores], [static for _, static in scores]],
            ("dynamic", "static"),
        ),
        (
            "Speed [m per sweep]",
            "95 % of the moving points are slower",
            [[nan if r.speed is None else r.speed for r in results]],
            (),
        ),
        (
            "Moving points",
            "number of moving points",
            [[nan if r.moving is None else float(r.moving) for r in results]],
            (),
        ),
        (
            "Seconds per sweep",
            "with reading and preparation",
            [[nan if r.seconds is None else r.seconds for r in results]],
            (),
        ),
    ]
    drawn = []
    for name, caption, curves, names in lines:
        svg = (
            line_chart([np.array(v) for v in curves], name, names, log=False, axis="sweep")
            if len(results) > 1
            else None
        )
        if svg is not None:
            drawn.append(page.chart(svg, name, caption))
    return drawn


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


@dataclass(frozen=True, eq=False)
class FlowMethod:
    """Flow of one method.

    Attributes:
        name: name of the method in the table.
        residual: flow without the motion of the sensor, metres per sweep, ``(N, 3)``.
        errors: errors against the truth.
        seconds: seconds of the computation; None leaves the cell empty.
        note: a sentence about the settings.
    """

    name: str
    residual: Tensor
    errors: FlowErrors
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class FlowCase:
    """Sweep, true flow of its points, and the flows of several methods.

    Attributes:
        title, text: title and description, with the origin of the data.
        points: points, ``(N, 3)``.
        truth: true flow without the motion of the sensor, ``(N, 3)``.
        methods: flows in the order in which they are shown.
        radius: distance from the sensor to the edges of the pictures, metres.
    """

    title: str
    text: str
    points: Tensor
    truth: Tensor
    methods: Sequence[FlowMethod]
    radius: float = 35.0

    def columns(self) -> list[str]:
        """Return the heads of the table's columns after the name of the method."""
        return [*_SHOWN, "seconds"]

    def rows(self) -> list[tuple[str, list[str]]]:
        """Return the figures of each method in words, in the order of `columns`."""
        return [
            (
                m.name,
                [
                    *_figures(m.errors),
                    "" if m.seconds is None else f"{m.seconds:.2f}",
                ],
            )
            for m in self.methods
        ]


def flow_section(case: FlowCase) -> list[str]:
    """Return the section of a page about a case.

    It shows truth and methods from above in the same colors, and a table.
    """
    full = _full_speed(case.truth)

    def view(residual: Tensor, name: str, note: str, figures: str = "", swipe: str = "") -> str:
        pixels = birds_eye_pixels(case.points, residual, radius=case.radius, full_speed=full)
        return page.picture(pixels, name, note, figures, swipe=swipe)

    note = "from above, ahead is up; colors show direction and speed, static points are grey"
    pictures, before = [], ""
    for method in case.methods:
        figures = f"dynamic EPE {method.errors.dynamic:.3f} m, static {method.errors.static:.3f} m"
        pictures.append(view(method.residual, method.name, method.note, figures, before))
        before = method.name
    pictures.append(view(case.truth, "Truth", note, swipe=before))
    return [
        page.section(case.title, case.text),
        *_verdict(case.methods[-1].errors, case.methods[-1].name),
        page.row(pictures, 2),
        "<h3>Table</h3>",
        page.numbers(["Method", *case.columns()], case.rows()),
    ]
