"""One page that sets several methods side by side on the same measurements."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.datasets.output import write_bytes
from invtoolbox.environment import machine, versions
from invtoolbox.errors import InputError
from invtoolbox.plotting import page
from invtoolbox.plotting.flow_comparison import FlowCase, flow_section
from invtoolbox.plotting.pictures import (
    Window,
    diverging,
    plane,
    symmetric_window,
    to_bytes,
    window_of,
)
from invtoolbox.plotting.report import measure


@dataclass(frozen=True)
class Method:
    """What one method gave.

    Attributes:
        name: as it stands in the table.
        x: its image, ``(1, channel, rows, columns)``.
        seconds: how long it took; None leaves the cell empty.
        note: a sentence about its settings.
    """

    name: str
    x: Tensor
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Case:
    """Measurements, the truth, and the methods that were tried on them.

    Attributes:
        title, text: what it is, and whence.
        reference: the true image, ``(1, channel, rows, columns)``.
        measurements: ``(1, channel, rows, columns)``.
        methods: in the order they are shown.
        window: the values shown as black and white; chosen from the reference where not given.
        detail: top, left, rows and columns of a part that is shown enlarged.
    """

    title: str
    text: str
    reference: Tensor
    measurements: Tensor
    methods: Sequence[Method]
    window: tuple[float, float] | None = None
    detail: tuple[int, int, int, int] | None = None

    def figures(self) -> dict[str, list[float]]:
        """PSNR, RMSE and SSIM by name, one value a method."""
        together = torch.cat([m.x.detach().cpu() for m in self.methods])
        return measure(together, self.reference.detach().cpu())


def write_comparison(
    path: str | Path,
    title: str,
    lead: str,
    cases: Sequence[Case | FlowCase],
    overwrite: bool = True,
) -> Path:
    """Write a page with rows of pictures and a table for each case.

    Raises:
        InputError: where the file exists and ``overwrite`` is False, or cannot be written.
    """
    date = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    body = [page.heading(title, f"{lead} {date}.")]
    for case in cases:
        body += flow_section(case) if isinstance(case, FlowCase) else _case(case)
    body += ["<h2>Versions and machine</h2>", page.facts({**versions(), **machine()})]
    return write_bytes(path, page.page(title, body), overwrite)


def _case(case: Case) -> list[str]:
    figures = case.figures()
    truth, measured = plane(case.reference[0]), plane(case.measurements[0])
    if truth is None or measured is None:
        raise InputError(
            "a comparison shows pictures: reference and measurements are (1, channel, rows, columns)"
        )
    window = Window(*case.window) if case.window is not None else window_of(truth)
    shown = [plane(m.x[0]) for m in case.methods]
    errors = [p - truth for p in shown if p is not None]
    about = max((symmetric_window(e) for e in errors), key=lambda w: w.high)
    pictures = [page.picture(to_bytes(truth, window), "Truth", f"black to white: {window}")]
    if all(method.x is not case.measurements for method in case.methods):
        pictures.append(
            page.picture(to_bytes(measured, window_of(measured)), "Measurements", "with noise")
        )
    for k, (method, image) in enumerate(zip(case.methods, shown)):
        if image is not None:
            numbers = ", ".join([f"{figures['PSNR [dB]'][k]:.2f} dB", *_ssim(figures, k)])
            pictures.append(
                page.picture(to_bytes(image, window), method.name, method.note, numbers)
            )
    drawn = [
        page.picture(
            diverging(error, about), f"{method.name}: error", f"blue to red: {about}", light=True
        )
        for method, error in zip(case.methods, errors)
    ]
    body = [page.section(case.title, case.text), page.row(pictures)]
    if case.detail is not None:
        body += ["<h3>Detail</h3>", page.row(_details(case, truth, shown, window))]
    return [*body, "<h3>Errors</h3>", page.row(drawn), "<h3>Table</h3>", _table(case, figures)]


def _details(
    case: Case, truth: np.ndarray, shown: list[np.ndarray | None], window: Window
) -> list[str]:
    assert case.detail is not None
    top, left, rows, columns = case.detail
    named = [
        ("Truth", truth),
        *((m.name, image) for m, image in zip(case.methods, shown) if image is not None),
    ]
    return [
        page.picture(to_bytes(image[top : top + rows, left : left + columns], window), name, "")
        for name, image in named
    ]


def _ssim(figures: dict[str, list[float]], k: int) -> list[str]:
    return [f"SSIM {figures['SSIM'][k]:.3f}"] if "SSIM" in figures else []


def _table(case: Case, figures: dict[str, list[float]]) -> str:
    columns = ["Method", *figures, "Seconds"]
    rows = [
        (
            m.name,
            [
                *(f"{values[k]:.4g}" for values in figures.values()),
                "" if m.seconds is None else f"{m.seconds:.2f}",
            ],
        )
        for k, m in enumerate(case.methods)
    ]
    best = {}
    for column, (name, values) in enumerate(figures.items()):
        best[column] = values.index(min(values) if name == "RMSE" else max(values))
    return page.numbers(columns, rows, best)
