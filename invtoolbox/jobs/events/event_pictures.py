"""Pictures of events: where they are, where their flow carries them, and the flow."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from invtoolbox.plotting.birds_eye import flow_colors
from invtoolbox.plotting.canvas import new_figure


def event_figure(still: Tensor, warped: Tensor, flow: Tensor, every: int | None = None) -> Any:
    """Draw still events, events that their flow carries to one time, and the flow.

    The result is a ``matplotlib.figure.Figure``. Both pictures have one scale, so that the sharper
    one is darker. The hue of the flow is its direction, and grey stands for no motion.

    Args:
        still: number of events at every pixel, ``(rows, columns)``.
        warped: picture of the warped events, ``(rows, columns)``.
        flow: flow in pixels per second, ``(rows, columns, 2)``, columns first.
        every: pixels between two arrows; by default 16 arrows along the shorter side.
    """
    figure = new_figure((12, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    pictures = [picture.detach().cpu().numpy() for picture in (still, warped)]
    top = max(float(np.quantile(picture[picture > 0], 0.99)) for picture in pictures)
    for axis, picture, name in zip(axes, pictures, ("events", "events along their flow")):
        axis.imshow(picture, cmap="gray_r", vmin=0, vmax=top)
        axis.set_title(name)
    field = flow.detach().cpu().numpy().astype(float)
    speed = np.linalg.norm(field, axis=2)
    full = max(float(np.quantile(speed, 0.95)), 1e-9)
    axes[2].imshow(flow_colors(np.concatenate([field, 0 * field[..., :1]], 2), full))
    step = every or max(1, min(field.shape[:2]) // 16)
    row, column = (np.arange(step // 2, side, step) for side in field.shape[:2])
    arrows = field[step // 2 :: step, step // 2 :: step].transpose(2, 0, 1)
    if arrows.any():  # the scale of arrows without length is undefined
        axes[2].quiver(column, row, *arrows, angles="xy", color="black", width=0.003)
    axes[2].set_title(f"flow, median {np.median(speed):.3g} pixels per second")
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure
