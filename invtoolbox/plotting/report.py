"""Self-contained HTML pages about a solution, and about several methods on the same data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.tomography.arcs import arc_of, determined_edges
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.plotting import page
from invtoolbox.plotting.charts import line_chart
from invtoolbox.plotting.figures import _reference, uncertainty
from invtoolbox.plotting.flow_report import FlowCase, flow_section
from invtoolbox.plotting.page import Window, plane, symmetric_window, to_bytes, window_of

if TYPE_CHECKING:
    from invtoolbox.posteriors.conformal import Calibration
    from invtoolbox.solution import Solution

#: Number of items of a batch that are shown; the saved solution holds all items.
SHOWN = 4
#: Largest number of rows and columns of the picture of edges.
_LARGEST = 256

_CURVES = {
    "objective": "minimized by the solver",
    "certificate": "bounded by the tolerance",
    "discrepancy": "the size of the misfit",
    "regularization": "the weight of the priors",
}


def write_report(
    solution: Solution,
    path: Path,
    reference: Tensor | None = None,
    title: str = "Reconstruction",
    overwrite: bool = True,
    metrics: dict[str, list[float]] | None = None,
    calibration: Calibration | None = None,
) -> Path:
    """Write a page about a solution.

    The page shows measurements, reconstruction, residual, uncertainty, convergence, settings and
    versions. It contains its pictures and curves, so it can be mailed.

    Args:
        solution: a solution of `solve` or of `Solution.load`.
        path: the file.
        reference: the true images ``(batch or 1, channel, *space)``; adds the error and a table of
            metrics.
        title: title of the page.
        overwrite: replace an existing file.
        metrics: values by the name of the metric, one per item; by default PSNR, SSIM and RMSE
            against the reference.
        calibration: calibration of the posterior's intervals, shown next to them.

    Raises:
        InputError: the file exists and ``overwrite`` is False, or it cannot be written.
    """
    truth = _reference(solution, reference)
    body = _show_items(solution, truth)
    if metrics is None and truth is not None:
        metrics = measure(solution.x, truth)
    if metrics:
        body += ["<h2>Metrics</h2>", _metric_table(solution, metrics)]
    body += uncertainty(solution.posterior, truth, calibration, SHOWN)
    body += _explanations(solution)
    body += ["<h2>Convergence</h2>", _convergence(solution)]
    if solution.weight_search is not None and solution.weight_search.weights.ndim == 2:
        body += ["<h2>Choice of the weight</h2>", _weights(solution)]
    return page.write_page(path, title, _lead(solution), body, _settings(solution), overwrite)


def measure(x: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """Compute PSNR, SSIM and RMSE of every item, for the range of values of the reference."""
    from invtoolbox import metrics

    truth = truth.to(x).expand_as(x)
    scale = (truth.flatten(1).amax(1) - truth.flatten(1).amin(1)).clamp_min(1e-30)
    scores = {"PSNR [dB]": metrics.psnr(x, truth, data_range=scale), "RMSE": metrics.rmse(x, truth)}
    if x.ndim == 4 and min(x.shape[-2:]) >= 11:
        scores["SSIM"] = metrics.ssim(x, truth, data_range=scale)
    return {name: score.tolist() for name, score in scores.items()}


_STATES = {
    "limit": "reached the limit of iterations or time",
    "early_stopping": "ended early by design",
    "stopped": "stopped before the tolerance was met",
}


def _lead(solution: Solution) -> str:
    items = len(solution.status)
    states = ", ".join(
        f"{count if items > 1 else ''} {_STATES.get(name, name)}".strip()
        for name, count in Counter(solution.status).items()
    )
    most = int(solution.iterations.max())
    parts = solution.x if isinstance(solution.x, tuple) else (solution.x,)
    shape = " and ".join(
        " x ".join(str(n) for n in p.shape[1:]) if isinstance(p, Tensor) else type(p).__name__
        for p in parts
    )
    return (
        f"{items} item{'s' if items > 1 else ''} of {shape}: {states} after "
        f"{'at most ' if items > 1 else ''}{most} iterations, {solution.seconds:.1f} s. {page.date()}."
    )


def _show_items(solution: Solution, truth: Tensor | None) -> list[str]:
    if not isinstance(solution.x, Tensor):
        return ["<p>The solution is not an image; it is in the saved file.</p>"]
    items = min(len(solution.status), SHOWN)
    measured, predicted = solution.measured_and_predicted()
    x = solution.x.detach().cpu()
    body = []
    for k in range(items):
        name = (
            f"Item {k}: {_STATES.get(solution.status[k], solution.status[k])} after "
            f"{int(solution.iterations[k])} iterations"
        )
        body.append(f"<h2>{name if len(solution.status) > 1 else 'Pictures'}</h2>")
        reference = None if truth is None else truth[min(k, len(truth) - 1)]
        figures = [*_image(x[k], reference), *_edges(solution, x[k])]
        body.append(page.row([*figures, *_data(measured, predicted, k)]))
    if len(solution.status) > items:
        body.append(f"<p>The first {items} of {len(solution.status)} items are shown.</p>")
    return body


def _image(item: Tensor, reference: Tensor | None) -> list[str]:
    estimate, true = plane(item), None if reference is None else plane(reference)
    if estimate is None:
        chart = line_chart(
            [t.flatten().double().numpy() for t in (item, reference) if t is not None],
            "value",
            ("reconstruction", "reference"),
            log=False,
        )
        return [page.chart(chart, "Reconstruction", "value over position")] if chart else []
    window = window_of(estimate if true is None else true)
    figures = [page.shades(estimate, window, "Reconstruction")]
    if true is not None:
        error = estimate - true
        figures += [
            page.shades(true, window, "Reference"),
            page.signed(error, symmetric_window(error), "Error", "reconstruction minus reference"),
        ]
    return figures


def _edges(solution: Solution, item: Tensor) -> list[str]:
    """Return the picture of the edges that the views of a short arc determine."""
    A = None if solution.problem is None else solution.problem.operator
    arc, estimate = None if A is None else arc_of(A), plane(item)
    if not isinstance(A, Scan2D) or arc is None or not arc.is_limited or estimate is None:
        return []
    step = max(1, max(estimate.shape) // _LARGEST)
    values = torch.from_numpy(np.ascontiguousarray(estimate[::step, ::step]))
    strength = torch.hypot(*torch.gradient(values.double())).numpy()
    strength = np.clip(strength / max(float(np.quantile(strength, 0.98)), 1e-300), 0, 1)
    # Blue is determined and red is not; flat parts are white.
    signed = np.where(determined_edges(A, values).numpy(), -strength, strength)
    caption = "blue: along a measured ray; red: from the prior alone"
    return [page.signed(signed, Window(-1.0, 1.0), "Edges that the views determine", caption)]


def _data(measured: Any, predicted: Any, k: int) -> list[str]:
    figures = []
    parts = (
        list(zip(measured, predicted)) if isinstance(measured, tuple) else [(measured, predicted)]
    )
    for number, (y, prediction) in enumerate(parts):
        if not isinstance(y, Tensor):
            continue
        label = f" {number + 1}" if len(parts) > 1 else ""
        measurement, fitted = plane(y[k]), plane(prediction[k])
        if measurement is None or fitted is None:
            continue
        residual = fitted - measurement
        about = symmetric_window(residual)
        figures += [
            page.shades(measurement, window_of(measurement), f"Measurements{label}"),
            page.signed(residual, about, f"Residual{label}", "predicted minus measured"),
        ]
    return figures


def _metric_table(solution: Solution, metrics: dict[str, list[float]]) -> str:
    rows = [
        (
            f"Item {k}" if len(solution.status) > 1 else "Reconstruction",
            [f"{scores[k]:.4g}" for scores in metrics.values()],
        )
        for k in range(len(solution.status))
    ]
    return page.numbers(["", *metrics], rows)


def _explanations(solution: Solution) -> list[str]:
    """Return what was done for every item that is shown, and what would change the answer."""
    body, items = [], len(solution.status)
    for k in range(min(items, SHOWN)):
        lines = solution.explain(k).splitlines()
        body.append(f"<h2>What was done{f' for item {k}' if items > 1 else ''}</h2>")
        body.append(page.facts(dict(line.split(": ", 1) for line in lines)))
    return body


def _convergence(solution: Solution) -> str:
    items = range(min(len(solution.status), SHOWN))
    figures = []
    for name, meaning in _CURVES.items():
        history = solution.history.get(name)
        if history is None or not len(history):
            continue
        curves = [history[:, k].detach().cpu().double().numpy() for k in items]
        chart = line_chart(curves, name, [f"item {k}" for k in items])
        if chart is not None and not (name == "regularization" and _constant(history)):
            caption = meaning if name != "certificate" else solution.certificate
            figures.append(page.chart(chart, name.capitalize(), caption))
    return page.row(figures) if figures else "<p>No step was taken.</p>"


def _weights(solution: Solution) -> str:
    """Return one table per item of the weights that the rule compared.

    The least score is bold.
    """
    curve, tables = solution.weight_search, []
    assert curve is not None
    for k in range(min(len(solution.status), SHOWN)):
        tried = curve.weights[k].isfinite() & curve.scores[k].isfinite()
        weights, scores = curve.weights[k][tried].tolist(), curve.scores[k][tried].tolist()
        rows = [(f"{w:.4g}", [f"{v:.6g}"]) for w, v in zip(weights, scores)]
        tables.append(
            page.numbers(
                [f"weight of item {k}", f"score of {curve.rule}"],
                rows,
                {0: scores.index(min(scores))} if scores else None,
            )
        )
    return "".join(tables)


def _constant(values: Tensor) -> bool:
    finite = values[torch.isfinite(values)]
    return not finite.numel() or bool(finite.max() - finite.min() <= 1e-12 * finite.abs().max())


def _settings(solution: Solution) -> dict[str, str]:
    weights = ", ".join(f"{float(w):.4g}" for w in solution.regularization.flatten()[:SHOWN])
    settings = {
        "solver": solution.solver,
        "prior": solution.prior,
        "weight of the prior": weights,
        "tolerance bounds": solution.certificate,
        "seed": str(solution.seed),
    }
    if solution.problem is not None:
        settings = {"problem": repr(solution.problem), **settings}
    return settings


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
    """

    title: str
    text: str
    reference: Tensor
    measurements: Tensor
    methods: Sequence[Method]
    window: tuple[float, float] | None = None
    detail: tuple[int, int, int, int] | None = None

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
    pictures = [page.shades(truth, window, "Truth")]
    if all(method.x is not case.measurements for method in case.methods):
        pictures.append(page.shades(measured, window_of(measured), "Measurements", "with noise"))
    for k, (method, image) in enumerate(zip(case.methods, images)):
        if image is not None:
            ssim = [f"SSIM {figures['SSIM'][k]:.3f}"] if "SSIM" in figures else []
            numbers = ", ".join([f"{figures['PSNR [dB]'][k]:.2f} dB", *ssim])
            pictures.append(page.shades(image, window, method.name, method.note, numbers))
    drawn = [
        page.signed(error, about, f"{method.name}: error")
        for method, error in zip(case.methods, errors)
    ]
    body = [page.section(case.title, case.text), page.row(pictures)]
    if case.detail is not None:
        body += ["<h3>Detail</h3>", page.row(_details(case, truth, images, window))]
    return [*body, "<h3>Errors</h3>", page.row(drawn), "<h3>Table</h3>", _table(case, figures)]


def _details(
    case: Case, truth: np.ndarray, images: list[np.ndarray | None], window: Window
) -> list[str]:
    assert case.detail is not None
    top, left, rows, columns = case.detail
    named = [
        ("Truth", truth),
        *((m.name, image) for m, image in zip(case.methods, images) if image is not None),
    ]
    return [
        page.picture(to_bytes(image[top : top + rows, left : left + columns], window), name, "")
        for name, image in named
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
