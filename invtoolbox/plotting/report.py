"""Self-contained HTML page about a solution: a verdict, pictures side by side, and what was done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective.gaps import measured as measured_entries
from invtoolbox.operators.tomography.arcs import arc_of, determined_edges
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.plotting import page
from invtoolbox.plotting.charts import line_chart
from invtoolbox.plotting.comparison import (
    STATES,
    Score,
    score_items,
    side_by_side,
    simple_answer,
    under_measurements,
    verdict,
)
from invtoolbox.plotting.figures import _reference, uncertainty
from invtoolbox.plotting.pixels import Window, plane, symmetric_window, window_of

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
    score: Score | None = None,
    calibration: Calibration | None = None,
    unit: str = "",
) -> Path:
    """Write a page about a solution.

    The page begins with a verdict, and with the reconstruction between the simple answer and the
    reference, in one window of values. Residual, uncertainty, convergence, settings and versions
    follow. It contains its pictures and curves, so it can be mailed.

    Args:
        solution: a solution of `solve` or of `Solution.load`.
        path: the file.
        reference: the true images ``(batch or 1, channel, *space)``; adds the error and a table of
            metrics.
        title: title of the page.
        overwrite: replace an existing file.
        score: computes metrics by name, one value per item, of images like those of the solution;
            by default PSNR, SSIM and RMSE against the reference.
        calibration: calibration of the posterior's intervals, shown next to them.
        unit: unit of the images, shown at their bars of colors.

    Raises:
        InputError: the file exists and ``overwrite`` is False, or it cannot be written.
    """
    truth = _reference(solution, reference)
    if score is None and truth is not None:
        score = partial(_measure_part, solution, truth)
    body = _show_items(solution, truth, score, unit)
    body += uncertainty(solution.posterior, truth, calibration, SHOWN, unit)
    body += _explanations(solution)
    if any(decision.is_compared or decision.question for decision in solution.decisions):
        body += ["<h2>Decisions</h2>", _decisions(solution)]
    body += ["<h2>Convergence</h2>", _convergence(solution)]
    if solution.weight_search is not None and solution.weight_search.weights.ndim == 2:
        body += ["<h2>Choice of the weight</h2>", _weights(solution)]
    return page.write_page(path, title, _lead(solution), body, _settings(solution), overwrite)


def measure(x: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """Compute PSNR, SSIM and RMSE of every item, for the range of values of the reference."""
    from invtoolbox import metrics

    if x.is_complex() or truth.is_complex():  # the pictures show the moduli
        x, truth = x.abs(), truth.abs()
    truth = truth.to(x).expand_as(x)
    scale = (truth.flatten(1).amax(1) - truth.flatten(1).amin(1)).clamp_min(1e-30)
    scores = {"PSNR [dB]": metrics.psnr(x, truth, data_range=scale), "RMSE": metrics.rmse(x, truth)}
    if x.ndim == 4 and min(x.shape[-2:]) >= 11:
        scores["SSIM"] = metrics.ssim(x, truth, data_range=scale)
    return {name: score.tolist() for name, score in scores.items()}


def _measure_part(solution: Solution, truth: Tensor, x: Tensor) -> dict[str, list[float]]:
    """Compute the metrics of images where they were measured, which the simple answer also shows."""
    return measure(under_measurements(solution, x), under_measurements(solution, truth))


def _lead(solution: Solution) -> str:
    items = len(solution.status)
    if items == 1:  # the verdict states the rest
        return f"{_shape(solution)}. {page.date()}."
    states = ", ".join(
        f"{count} {STATES.get(name, name)}" for name, count in Counter(solution.status).items()
    )
    most = int(solution.iterations.max())
    return (
        f"{items} items of {_shape(solution)}: {states} after at most {most} iterations, "
        f"{solution.seconds:.1f} s. {page.date()}."
    )


def _shape(solution: Solution) -> str:
    """Return the shape of an item in words, or the name of its class."""
    parts = solution.x if isinstance(solution.x, tuple) else (solution.x,)
    return " and ".join(
        " x ".join(str(n) for n in p.shape[1:]) if isinstance(p, Tensor) else type(p).__name__
        for p in parts
    )


def _show_items(
    solution: Solution, truth: Tensor | None, score: Score | None, unit: str
) -> list[str]:
    if not isinstance(solution.x, Tensor):
        words = "<p>The solution is not an image; it is in the saved file.</p>"
        return [verdict(solution, k, math.nan, 0.0) for k in range(len(solution.status))] + [words]
    items = min(len(solution.status), SHOWN)
    measured, predicted = solution.measured_and_predicted()
    taken = _taken(solution, measured)
    x = solution.x.detach().cpu()
    simple = simple_answer(solution, items)
    scores = {} if score is None else score(x)
    simple_scores = _score_simple(solution, score, x, simple)
    psnr = next((name for name in scores if name.lower().startswith("psnr")), "")
    body = []
    for k in range(items):
        if len(solution.status) > 1:
            state = STATES.get(solution.status[k], solution.status[k])
            steps = f"{int(solution.iterations[k])} iterations"
            body.append(f"<h2>Item {k}: {page.escape(state)} after {steps}</h2>")
        residual, size = _sizes(measured, predicted, taken, k)
        named = (
            None
            if simple is None or psnr not in simple_scores
            else (simple[0], simple_scores[psnr][k])
        )
        decibels = {} if named is None else dict([named])
        if psnr:
            decibels["Reconstruction"] = scores[psnr][k]
        body.append(verdict(solution, k, residual, size, decibels.get("Reconstruction"), named))
        estimate, picture = under_measurements(solution, x)[k], plane(x[k])
        images = _images(
            estimate,
            None if truth is None else under_measurements(solution, truth)[min(k, len(truth) - 1)],
            None if simple is None else (simple[0], simple[1][k]),
            unit,
            decibels,
        )
        shape = None if picture is None else tuple(estimate.shape[-2:])
        same, others = _data(measured, predicted, k, shape, simple)
        figures = [*images, *_edges(solution, x[k]), *same]
        columns = 3 if truth is not None or len(figures) > 2 else 2
        body += [page.row(group, columns) for group in (figures, others) if group]
    if len(solution.status) > items:
        body.append(f"<p>The first {items} of {len(solution.status)} items are shown.</p>")
    if scores:
        body += ["<h2>Metrics</h2>", _metric_table(solution, scores, simple, simple_scores)]
    return body


def _score_simple(
    solution: Solution, score: Score | None, x: Tensor, simple: tuple[str, Tensor] | None
) -> dict[str, list[float]]:
    """Return the metrics of the simple answers; empty without a reference of their size."""
    if score is None or simple is None:
        return {}
    fits = simple[1].shape[1:] == x.shape[1:]
    together = x if fits else under_measurements(solution, x)
    try:
        return score_items(score, together, simple[1])
    except InputError:  # the reference has the size of the whole image
        return {}


def _sizes(measured: Any, predicted: Any, taken: Tensor | None, k: int) -> tuple[float, float]:
    """Return the root mean squares of the residual and of the measurements; NaN in parts.

    Args:
        measured: measurements.
        predicted: their prediction.
        taken: which measurements are taken and have a weight; None for all.
        k: number of the item.
    """
    if not isinstance(measured, Tensor) or not isinstance(predicted, Tensor):
        return math.nan, math.nan
    y, fitted = (t[k].detach().cpu() for t in (measured, predicted))
    chosen = ... if taken is None else taken[k].cpu()
    values = ((fitted - y)[chosen], y[chosen])
    return tuple(float(t.abs().double().square().mean().sqrt()) for t in values)  # type: ignore[return-value]


def _taken(solution: Solution, measured: Any) -> Tensor | None:
    """Return which measurements are taken and have a weight; None for all."""
    if solution.problem is None or not isinstance(measured, Tensor):
        return None
    return measured_entries(solution.problem)


def _images(
    estimate: Tensor,
    truth: Tensor | None,
    simple: tuple[str, Tensor] | None,
    unit: str,
    decibels: Mapping[str, float],
) -> list[str]:
    """Return the reconstruction between simple answer and reference; of signals a chart."""
    named = {} if simple is None else {simple[0]: simple[1]}
    named |= {"Reconstruction": estimate} | ({} if truth is None else {"Reference": truth})
    pictures = {name: picture for name, x in named.items() if (picture := plane(x)) is not None}
    if "Reconstruction" in pictures:
        figures = {
            name: f"{value:.2f} dB" for name, value in decibels.items() if math.isfinite(value)
        }
        reference = "Reference" if truth is not None else ""
        return side_by_side(pictures, "Reconstruction", reference, unit, figures)
    lines = [t.flatten().double().numpy() for t in (estimate, truth) if t is not None]
    chart = line_chart(lines, "value", ("reconstruction", "reference"), log=False)
    return [page.chart(chart, "Reconstruction", "value over position")] if chart else []


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


def _data(
    measured: Any,
    predicted: Any,
    k: int,
    shape: tuple[int, ...] | None,
    simple: tuple[str, Tensor] | None,
) -> tuple[list[str], list[str]]:
    """Return the figures of the data in the shape of the image, and those of other shapes."""
    same: list[str] = []
    others: list[str] = []
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
        group = same if measurement.shape[:2] == shape else others
        if simple is None or simple[0] != "Measurements":
            group.append(page.shades(measurement, window_of(measurement), f"Measurements{label}"))
        residual = fitted - measurement
        about = symmetric_window(residual)
        group.append(page.signed(residual, about, f"Residual{label}", "predicted minus measured"))
    return same, others


def _metric_table(
    solution: Solution,
    scores: dict[str, list[float]],
    simple: tuple[str, Tensor] | None,
    simple_scores: dict[str, list[float]],
) -> str:
    rows, several = [], len(solution.status) > 1
    for k in range(len(solution.status)):
        name = f"Item {k}" if several else "Reconstruction"
        rows.append((name, [f"{values[k]:.4g}" for values in scores.values()]))
        if simple is not None and simple_scores and k < len(simple[1]):
            name = f"Item {k}, {simple[0]}" if several else simple[0]
            rows.append((name, [f"{simple_scores[metric][k]:.4g}" for metric in scores]))
    return page.numbers(["", *scores], rows)


def _explanations(solution: Solution) -> list[str]:
    """Return what was done for every item that is shown, and what would change the answer."""
    body, items = [], len(solution.status)
    for k in range(min(items, SHOWN)):
        lines = solution.explain(k).splitlines()
        body.append(f"<h2>What was done{f' for item {k}' if items > 1 else ''}</h2>")
        body.append(page.facts(dict(line.split(": ", 1) for line in lines)))
    return body


def _decisions(solution: Solution) -> str:
    """Return the table of the steps that were decided; without findings and remarks."""
    rows = []
    for decision in solution.decisions:
        if decision.outcome == "noted":
            continue
        item = "all" if decision.item is None else str(decision.item)
        errors = ["" if v is None else f"{v:.3g}" for v in (decision.before, decision.after)]
        measure = decision.evidence or (
            decision.text(1) if decision.outcome in ("off", "not applicable") else ""
        )
        texts = [decision.question, item, decision.outcome, measure, *errors]
        rows.append((decision.step, [*texts, f"{decision.seconds:.2f}"]))
    columns = ["step", "question", "item", "outcome", "measure, or reason", "before", "after"]
    return page.numbers([*columns, "seconds"], rows)


def _convergence(solution: Solution) -> str:
    items = range(min(len(solution.status), SHOWN))
    figures = []
    for name, meaning in _CURVES.items():
        history = solution.history.get(name)
        if history is None or int(history.isfinite().sum(0).max() if len(history) else 0) < 2:
            continue  # one value is no curve
        curves = [history[:, k].detach().cpu().double().numpy() for k in items]
        chart = line_chart(curves, name, [f"item {k}" for k in items])
        if chart is not None and not (name == "regularization" and _constant(history)):
            caption = meaning if name != "certificate" else solution.certificate
            figures.append(page.chart(chart, name.capitalize(), caption))
    return page.charts(figures) if figures else "<p>There were too few iterations for a curve.</p>"


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
