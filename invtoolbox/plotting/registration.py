"""Figure of a registration: overlays, a checkerboard, the deformed grid and the Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from invtoolbox.plotting.canvas import new_figure

#: Number of tiles of the checkerboard, and of lines of the grid, along the longer side.
_TILES, _LINES = 8, 28


def registration_figure(
    images: Sequence[Tensor],
    displacement: Tensor,
    jacobian: Tensor,
    spacing: Sequence[float],
) -> Any:
    """Draw a registration; of volumes, the three middle slices, one per row.

    In an overlay the fixed image is cyan and the moving one red, so that equal images are grey.

    Args:
        images: the fixed image, and the moving image on its grid before and after the registration,
            NaN outside of it, ``(*space)`` each.
        displacement: the field, ``(d, *space)``, components along the axes, in the unit of the
            spacing.
        jacobian: Jacobian determinant, ``(*space)``.
        spacing: distance of neighbours along every axis.
    """
    shape = images[0].shape
    planes: list[int | None] = [0, 1, 2] if len(shape) == 3 else [None]
    figure = new_figure((16, 3.4 * len(planes)), layout="constrained")
    titles = ("overlay before", "overlay after", "checkerboard", "deformed grid", "Jacobian")
    scaled = [_normalize(image) for image in images]
    for number, plane in enumerate(planes):
        axes = [k for k in range(len(shape)) if k != plane]
        index = tuple(n // 2 if k == plane else slice(None) for k, n in enumerate(shape))
        still, start, end = (image[index] for image in scaled)
        u = [displacement[k][index].detach().cpu().double().numpy() for k in axes]
        change = jacobian[index].detach().cpu().numpy()
        rows, columns = still.shape
        h, w = (spacing[k] for k in axes)
        row, column = np.mgrid[:rows, :columns]
        tile = max(rows, columns) / _TILES
        is_moved = (row // tile + column // tile) % 2 == 1
        panels = [figure.add_subplot(len(planes), 5, 5 * number + k) for k in range(1, 6)]
        # In the planes along the slices the first slice is at the bottom.
        ends = (0, rows * h) if number else (rows * h, 0)
        settings = {"extent": (0, columns * w, *ends), "origin": "lower" if number else "upper"}
        for axis, moving in zip(panels, (start, end)):
            axis.imshow(np.stack([moving, still, still], -1), **settings)
        panels[2].imshow(np.where(is_moved, end, still), cmap="gray", vmin=0, vmax=1, **settings)
        step = max(1, max(rows, columns) // _LINES)
        x, y = (column + 0.5) * w + u[1], (row + 0.5) * h + u[0]
        for lines in ((x[::step].T, y[::step].T), (x[:, ::step], y[:, ::step])):
            panels[3].plot(*lines, color="tab:blue", linewidth=0.5)
        panels[3].set(xlim=(0, columns * w), ylim=ends, aspect="equal")
        shown = panels[4].imshow(change, cmap="RdBu_r", vmin=0, vmax=2, **settings)
        if (change <= 0).any():
            folds = np.ma.masked_where(change > 0, np.ones_like(change))
            panels[4].imshow(folds, cmap="summer", vmin=0, vmax=1, **settings)
        figure.colorbar(shown, ax=panels[4], shrink=0.8, label="folds are yellow")
        for axis, title in zip(panels, titles if number == 0 else [""] * 5):
            axis.set(title=title, xticks=[], yticks=[])
    return figure


def _normalize(image: Tensor) -> np.ndarray:
    """Return an image in [0, 1], between two percentiles, 0 for values that are not finite."""
    values = image.detach().cpu().double().numpy()
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(values, nan=low) - low) / ((high - low) or 1.0)
    return np.asarray(np.clip(scaled, 0, 1))
