"""One self-contained HTML page about the scene flow of a sequence.

Several scene flows of one pair of sweeps, side by side on a page: from above, and their errors.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from invtoolbox.core.environment import machine, versions
from invtoolbox.datasets.output import write_bytes
from invtoolbox.geometry.sweeps import MOVES
from invtoolbox.metrics.flow_evaluation import FlowErrors, pool
from invtoolbox.plotting import page
from invtoolbox.plotting.birds_eye import birds_eye_pixels, full_speed_of
from invtoolbox.plotting.charts import line_chart

#: Sweeps that the table of errors names one by one; the mean is of all.
LISTED = 40


@dataclass(frozen=True)
class SweepResult:
    """What came of one sweep.

    Attributes:
        name: of the sweep.
        seconds: how long it took; None where it was there already.
        errors: against the labels, where there are some.
        moving: how many points move.
        speed: the speed that 95 % of them stay below, metres a sweep.
        failed: why there is no flow; empty where there is one.
    """

    name: str
    seconds: float | None = None
    errors: FlowErrors | None = None
    moving: int | None = None
    speed: float | None = None
    failed: str = ""


@dataclass(frozen=True, eq=False)
class SweepPicture:
    """A sweep that the page shows from above.

    Attributes:
        name: of the sweep.
        points: ``(N, 3)``.
        residual: its flow without the sensor's own motion, ``(N, 3)``.
        dynamic: boolean ``(N,)``, or None to call moving what is faster than 0.05 m a sweep.
        truth: the true flow, likewise without the sensor's motion; adds two pictures, of the truth and of the difference.
        radius: how far the pictures reach to every side, metres.
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
    lead: str = "",
    settings: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> Path:
    """Pictures of some sweeps, errors where there are labels, seconds a sweep, and the sweeps that failed, on one page.

    The page needs nothing from outside, and may be mailed.

    Args:
        path: where the page is written.
        title: of the page.
        results: of every sweep, in the order of time.
        pictures: of the sweeps that are shown. They are taken one after the other, so that a generator keeps one sweep in memory.
        lead: a sentence below the title.
        settings: facts at the end, such as the method and its settings.

    Raises:
        InputError: where the file exists and ``overwrite`` is False, or cannot be written.
    """
    body = [page.heading(title, " ".join(filter(None, [lead, _lead(results)])))]
    for picture in pictures:
        body += _pictures(picture)
    failed = [r for r in results if r.failed]
    if failed:
        body += [
            page.section(
                "Sweeps that failed",
                f"{len(failed)} of {len(results)}; the others are not touched by them.",
            ),
            page.facts({r.name: r.failed for r in failed}),
        ]
    scored = [r for r in results if r.errors is not None]
    if scored:
        body += _errors(scored)
    curves = _curves(results)
    if curves:
        body += ["<h2>Over the sequence</h2>", page.row(curves)]
    if settings:
        body += ["<h2>Settings</h2>", page.facts(settings)]
    body += ["<h2>Versions and machine</h2>", page.facts({**versions(), **machine()})]
    return write_bytes(path, page.page(title, body), overwrite)


def _lead(results: Sequence[SweepResult]) -> str:
    timed = [r.seconds for r in results if r.seconds is not None]
    failed = sum(bool(r.failed) for r in results)
    parts = [f"{len(results)} sweep{'s' if len(results) != 1 else ''}"]
    parts += [f"{failed} failed"] if failed else []
    parts += (
        [f"{float(np.median(timed)):.2f} s a sweep (median; the slowest {max(timed):.2f} s)"]
        if timed
        else []
    )
    return f"{', '.join(parts)}. {datetime.datetime.now().strftime('%Y-%m-%d %H:%M')}."


def _pictures(shown: SweepPicture) -> list[str]:
    speeds = [shown.residual] if shown.truth is None else [shown.residual, shown.truth]
    moving = [np.linalg.norm(flow.detach().cpu().double().numpy(), axis=1) for flow in speeds]
    full = full_speed_of(np.concatenate([v[v >= MOVES] for v in moving]))
    estimate = birds_eye_pixels(
        shown.points, shown.residual, shown.dynamic, radius=shown.radius, full_speed=full
    )
    drawn = [page.picture(estimate, "Flow", "without the sensor's own motion; grey stands")]
    if shown.truth is not None:
        truth = birds_eye_pixels(shown.points, shown.truth, radius=shown.radius, full_speed=full)
        error = birds_eye_pixels(
            shown.points, shown.residual - shown.truth, radius=shown.radius, full_speed=full
        )
        drawn += [
            page.picture(truth, "Truth", "in the same colors"),
            page.picture(
                error,
                "Difference",
                "flow minus truth, where it is 0.05 m or more, in the same colors",
            ),
        ]
    return [page.section(f"Sweep {shown.name}", "From above, ahead is up."), page.row(drawn)]


def _errors(scored: Sequence[SweepResult]) -> list[str]:
    errors = [r.errors for r in scored if r.errors is not None]
    together = pool(errors)
    rows = [("all, every point alike", together.row())] if len(errors) > 1 else []
    rows += [(r.name, e.row()) for r, e in zip(scored[:LISTED], errors)]
    by_class = together.bucketed.by_class()
    classes = [
        (name.capitalize().replace("_", " "), (_number(e.static), _number(e.dynamic)))
        for name, e in by_class.items()
    ]
    ranges = [
        (
            f"{p.near:g} to {p.far:g} m",
            (_number(p.dynamic), str(p.dynamic_points), _number(p.static), str(p.static_points)),
        )
        for p in together.ranges
    ]
    three, frames = together.three_way.pool(), together.three_way.per_frame()
    ways = [
        (
            f"over {e.averaged}",
            tuple(
                _number(v)
                for v in (e.foreground_dynamic, e.foreground_static, e.background_static, e.mean)
            ),
        )
        for e in (three, frames)
    ]
    text = (
        "The sensor's own motion is removed. Points count that are not ground, within 35 m of the sensor, and whose flow is known; "
        "every distance in the table by range."
    )
    more = (
        [f"<p>The first {LISTED} of {len(scored)} sweeps are listed; the first row is of all.</p>"]
        if len(scored) > LISTED
        else []
    )
    return [
        page.section("Errors", text),
        page.numbers(["Sweep", *FlowErrors.COLUMNS], rows),
        *more,
        "<h3>Three-way end-point error [m]</h3>",
        page.numbers(
            ["averaged", "foreground dynamic", "foreground static", "background static", "mean"],
            ways,
        ),
        "<h3>Bucket-normalised error by class</h3>",
        page.numbers(["class", "static [m]", "dynamic"], classes),
        "<h3>End-point error by range</h3>",
        page.numbers(["distance", "dynamic [m]", "points", "static [m]", "points"], ranges),
    ]


def _curves(results: Sequence[SweepResult]) -> list[str]:
    nan = math.nan
    scores = [
        (nan, nan) if r.errors is None else (r.errors.dynamic, r.errors.static) for r in results
    ]
    lines: list[tuple[str, str, list[list[float]], tuple[str, ...]]] = [
        (
            "End-point error [m]",
            "of what moves and of what stands, within 35 m",
            [[dynamic for dynamic, _ in scores], [static for _, static in scores]],
            ("dynamic", "static"),
        ),
        (
            "Speed [m a sweep]",
            "95 % of the moving points are slower",
            [[nan if r.speed is None else r.speed for r in results]],
            (),
        ),
        (
            "Moving points",
            "how many are called so",
            [[nan if r.moving is None else float(r.moving) for r in results]],
            (),
        ),
        (
            "Seconds a sweep",
            "with reading and preparation",
            [[nan if r.seconds is None else r.seconds for r in results]],
            (),
        ),
    ]
    drawn = []
    for name, caption, values, names in lines:
        svg = (
            line_chart([np.array(v) for v in values], name, names, log=False, axis="sweep")
            if len(results) > 1
            else None
        )
        if svg is not None:
            drawn.append(page.chart(svg, name, caption))
    return drawn


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


#: The columns of the table, by their names in `FlowErrors.COLUMNS`.
_SHOWN = (
    "dynamic EPE [m]",
    "static EPE [m]",
    "AccS",
    "AccR",
    "three-way EPE [m]",
    "bucketed dynamic",
)


@dataclass(frozen=True, eq=False)
class FlowMethod:
    """What one method gave.

    Attributes:
        name: as it stands in the table.
        residual: the flow without the sensor's own motion, ``(N, 3)``, metres a sweep.
        errors: against the truth.
        seconds: how long it took; None leaves the cell empty.
        note: a sentence about its settings.
    """

    name: str
    residual: Tensor
    errors: FlowErrors
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class FlowCase:
    """A sweep, the true flow of its points, and the methods that were tried on it.

    Attributes:
        title, text: what it is, and whence.
        points: ``(N, 3)``.
        truth: the true flow without the sensor's own motion, ``(N, 3)``.
        methods: in the order they are shown.
        radius: how far the pictures reach to every side, metres.
    """

    title: str
    text: str
    points: Tensor
    truth: Tensor
    methods: Sequence[FlowMethod]
    radius: float = 40.0

    def columns(self) -> list[str]:
        """The heads of the table's columns beside the method's name."""
        return [*_SHOWN, "seconds"]

    def rows(self) -> list[tuple[str, list[str]]]:
        """The figures of each method as words, in the order of `columns`."""
        place = [FlowErrors.COLUMNS.index(name) for name in _SHOWN]
        return [
            (
                m.name,
                [
                    *(m.errors.row()[k] for k in place),
                    "" if m.seconds is None else f"{m.seconds:.2f}",
                ],
            )
            for m in self.methods
        ]


def flow_section(case: FlowCase) -> list[str]:
    """The part of a page that shows a case: the truth and every method from above in the same colors, and the table."""
    speed = np.linalg.norm(case.truth.detach().cpu().double().numpy(), axis=1)
    full = full_speed_of(speed[speed >= MOVES])

    def seen(residual: Tensor, name: str, note: str, figures: str = "") -> str:
        return page.picture(
            birds_eye_pixels(case.points, residual, radius=case.radius, full_speed=full),
            name,
            note,
            figures,
        )

    pictures = [
        seen(
            case.truth,
            "Truth",
            "from above, ahead is up; color is direction and speed, grey stands",
        )
    ]
    for method in case.methods:
        figures = f"dynamic EPE {method.errors.dynamic:.3f} m, static {method.errors.static:.3f} m"
        pictures.append(seen(method.residual, method.name, method.note, figures))
    table = page.numbers(["Method", *case.columns()], case.rows())
    return [page.section(case.title, case.text), page.row(pictures), "<h3>Table</h3>", table]
