"""Self-contained HTML page that compares several methods on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.plotting import page
from invtoolbox.plotting.comparison import describe_gain
from invtoolbox.plotting.figures import deviation_pictures
from invtoolbox.plotting.flow_report import FlowCase, flow_section
from invtoolbox.plotting.pixels import Window, plane, symmetric_window, to_bytes, window_of
from invtoolbox.plotting.report import measure


@dataclass(frozen=True)
class Method:
    """Result of one method.

    Attributes:
        name: name of the method in the table.
        x: image, ``(1, channel, rows, columns)``.
        seconds: seconds of the computation; None leaves the cell empty.
        note: a sentence about the settings.
    """

    name: str
    x: Tensor
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Case:
    """Measurements, the truth, and the results of several methods.

    Attributes:
        title, text: title and description, with the origin of the data.
        reference: true image, ``(1, channel, rows, columns)``.
        measurements: measurements, ``(1, channel, rows, columns)``.
        methods: results in the order in which they are shown.
        window: values shown as black and white; chosen from the reference by default.
        detail: top, left, rows and columns of an enlarged part.
        deviation: name, mean and standard deviation of a posterior, ``(1, channel, rows, columns)``.
        unit: unit of the images.
    """

    title: str
    text: str
    reference: Tensor
    measurements: Tensor
    methods: Sequence[Method]
    window: tuple[float, float] | None = None
    detail: tuple[int, int, int, int] | None = None
    deviation: tuple[str, Tensor, Tensor] | None = None
    unit: str = ""

    def figures(self) -> dict[str, list[float]]:
        """Compute PSNR, RMSE and SSIM, one value per method."""
        together = torch.cat([m.x.detach().cpu() for m in self.methods])
        return measure(together, self.reference.detach().cpu())


def write_comparison(
    path: str | Path,
    title: str,
    lead: str,
    cases: Sequence[Case | FlowCase],
    overwrite: bool = True,
) -> Path:
    """Write a page with rows of pictures and a table per case.

    Args:
        path: the file.
        title: title of the page.
        lead: a sentence below the title.
        cases: the cases in their order.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists and ``overwrite`` is False, or it cannot be written.
    """
    body = []
    for case in cases:
        body += flow_section(case) if isinstance(case, FlowCase) else _case(case)
    return page.write_page(path, title, f"{lead} {page.date()}.", body, overwrite=overwrite)


def _case(case: Case) -> list[str]:
    figures = case.figures()
    truth, measured = plane(case.reference[0]), plane(case.measurements[0])
    if truth is None or measured is None:
        raise InputError(
            "a comparison shows pictures: reference and measurements are (1, channel, rows, "
            "columns)"
        )
    window = Window(*case.window) if case.window is not None else window_of(truth)
    images = [plane(m.x[0]) for m in case.methods]
    errors = [p - truth for p in images if p is not None]
    about = max((symmetric_window(e) for e in errors), key=lambda w: w.high)
    pictures, before = [], ""
    for k, (method, image) in enumerate(zip(case.methods, images)):
        if image is not None:
            ssim = [f"SSIM {figures['SSIM'][k]:.3f}"] if "SSIM" in figures else []
            numbers = ", ".join([f"{figures['PSNR [dB]'][k]:.2f} dB", *ssim])
            pictures.append(
                page.shades(
                    image, window, method.name, method.note, numbers, swipe=before, unit=case.unit
                )
            )
            before = method.name
    pictures.append(page.shades(truth, window, "Truth", swipe=before, unit=case.unit))
    columns = len(pictures)
    pictures += [
        page.signed(error, about, f"Error: {method.name}", "minus truth", unit=case.unit)
        for method, error in zip(case.methods, errors)
    ]
    body = [page.section(case.title, case.text), *_gain(case, figures)]
    body.append(page.row(pictures, columns))
    if case.detail is not None:
        body += ["<h3>Detail</h3>", page.row(_details(case, truth, images, window), columns)]
    if case.deviation is not None:
        name, mean, std = case.deviation
        pictures, _ = deviation_pictures(mean[0], std[0], truth, name, case.unit)
        body += ["<h3>How sure the answer is</h3>", page.row(pictures, columns)]
    if all(method.x is not case.measurements for method in case.methods):
        shown = page.shades(measured, window_of(measured), "Measurements", "with noise")
        body += ["<h3>Measurements</h3>", page.row([shown], columns)]
    return [*body, "<h3>Table</h3>", _table(case, figures)]


def _gain(case: Case, figures: dict[str, list[float]]) -> list[str]:
    """Return the verdict: the gain of the last method over the first one."""
    if len(case.methods) < 2:
        return []
    first, *_, last = figures["PSNR [dB]"]
    words, is_good = describe_gain(last, first, case.methods[0].name)
    return [page.verdict(f"{case.methods[-1].name}: {words}", "", is_good)]


def _details(
    case: Case, truth: np.ndarray, images: list[np.ndarray | None], window: Window
) -> list[str]:
    assert case.detail is not None
    top, left, rows, columns = case.detail
    named = [
        *((m.name, image) for m, image in zip(case.methods, images) if image is not None),
        ("Truth", truth),
    ]
    return [
        page.picture(
            to_bytes(image[top : top + rows, left : left + columns], window),
            name,
            "detail",
            swipe=named[k - 1][0] if k else "",
        )
        for k, (name, image) in enumerate(named)
    ]


def _table(case: Case, figures: dict[str, list[float]]) -> str:
    columns = ["Method", *figures, "Seconds"]
    rows = [
        (
            m.name,
            [
                *(f"{scores[k]:#.4g}" for scores in figures.values()),
                "" if m.seconds is None else f"{m.seconds:.2f}",
            ],
        )
        for k, m in enumerate(case.methods)
    ]
    best = {
        column: scores.index(min(scores) if name == "RMSE" else max(scores))
        for column, (name, scores) in enumerate(figures.items())
    }
    return page.numbers(columns, rows, best)
