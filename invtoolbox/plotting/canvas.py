"""Figures of matplotlib without pyplot: no global state changes and no window opens."""

from __future__ import annotations

from typing import Any


def new_figure(size: tuple[float, float], **options: Any) -> Any:
    """Return a ``matplotlib.figure.Figure`` that can be drawn and saved.

    Args:
        size: width and height, inches.
        **options: further arguments of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, **options)
    FigureCanvasAgg(figure)
    return figure
