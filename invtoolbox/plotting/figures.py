"""matplotlib figures of solutions, made without pyplot: nothing global is touched, no window opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from invtoolbox.plotting.pictures import plane, symmetric_window, window_of
from invtoolbox.plotting.report import _reference

if TYPE_CHECKING:
    from invtoolbox.solution import Solution


def solution_figure(solution: Solution, reference: Tensor | None = None, item: int = 0) -> Any:
    """Reconstruction, measurements, residual and convergence of one item, as a ``matplotlib.figure.Figure``.

    Args:
        solution: as `solve` returns it, or as `Solution.load` reads it.
        reference: the true images; adds the reference and the error.
        item: which item of the batch.

    ``figure.savefig("picture.png")`` writes it; a notebook shows it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    truth = _reference(solution, reference)
    images = _images(solution, truth, item)
    columns = len(images) + 1
    figure = Figure(figsize=(3.4 * columns, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis, (name, picture, window, signed) in zip(axes, images):
        shown = (
            picture
            if picture.ndim == 2
            else np.clip((picture - window.low) / (window.high - window.low), 0, 1)
        )
        drawn = axis.imshow(
            shown,
            cmap="RdBu_r" if signed else "gray",
            vmin=window.low,
            vmax=window.high,
            aspect="equal" if max(shown.shape[:2]) < 4 * min(shown.shape[:2]) else "auto",
        )
        axis.set_title(name)
        axis.set_xticks([])
        axis.set_yticks([])
        if picture.ndim == 2:
            figure.colorbar(drawn, ax=axis, shrink=0.8)
    _convergence(axes[-1], solution, item)
    return figure


def _images(
    solution: Solution, truth: Tensor | None, item: int
) -> list[tuple[str, np.ndarray, Any, bool]]:
    shown = plane(solution.x[item]) if isinstance(solution.x, Tensor) else None
    reference = None if truth is None else plane(truth[min(item, len(truth) - 1)])
    images: list[tuple[str, np.ndarray, Any, bool]] = []
    if shown is not None:
        window = window_of(shown if reference is None else reference)
        images.append(("reconstruction", shown, window, False))
        if reference is not None:
            error = (shown - reference).mean(-1) if shown.ndim == 3 else shown - reference
            images += [
                ("reference", reference, window, False),
                ("error", error, symmetric_window(error), True),
            ]
    measured, predicted = solution.measured_and_predicted()
    if isinstance(measured, tuple):
        measured, predicted = measured[0], predicted[0]
    y, fitted = (plane(t[item]) if isinstance(t, Tensor) else None for t in (measured, predicted))
    if y is not None and fitted is not None:
        residual = (fitted - y).mean(-1) if y.ndim == 3 else fitted - y
        images += [
            ("measurements", y, window_of(y), False),
            ("residual", residual, symmetric_window(residual), True),
        ]
    return images


def _convergence(axis: Any, solution: Solution, item: int) -> None:
    axis.set_title("convergence")
    axis.set_xlabel("iteration")
    for name in ("objective", "certificate"):
        values = solution.history[name][:, item].detach().cpu().double().numpy()
        finite = values[np.isfinite(values)]
        if finite.size:
            axis.plot(np.arange(1, len(values) + 1), values, label=name)
            if (finite > 0).all():
                axis.set_yscale("log")
    if axis.lines:
        axis.legend(frameon=False)
