"""Several scene flows of one pair of sweeps, side by side on a page: from above, and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from invtoolbox.metrics.flow_errors import FlowErrors
from invtoolbox.plotting import page
from invtoolbox.plotting.birds_eye import birds_eye_pixels
from invtoolbox.plotting.flow_colours import full_speed_of
from invtoolbox.scenes.sweep import MOVES

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
    """The part of a page that shows a case: the truth and every method from above in the same colours, and the table."""
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
            "from above, ahead is up; colour is direction and speed, grey stands",
        )
    ]
    for method in case.methods:
        figures = f"dynamic EPE {method.errors.dynamic:.3f} m, static {method.errors.static:.3f} m"
        pictures.append(seen(method.residual, method.name, method.note, figures))
    table = page.numbers(["Method", *case.columns()], case.rows())
    return [page.section(case.title, case.text), page.row(pictures), "<h3>Table</h3>", table]
