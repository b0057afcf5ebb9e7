"""Pictures of meshes: shaded, from one side, side by side at one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from invtoolbox.scenes.mesh import Mesh

_LIGHT = (0.4, 0.6, 0.7)


def mesh_figure(
    meshes: Sequence[Mesh],
    titles: Sequence[str] = (),
    up: int = 1,
    turn: float = 35.0,
    colours: Sequence[Tensor | None] = (),
) -> Any:
    """A figure with a panel for each mesh, all seen from the same place.

    Args:
        meshes: one or several.
        titles: above the panels.
        up: the axis that points up, 0 to 2.
        turn: degrees about that axis.
        colours: of the vertices of each mesh, ``(N,)`` in [0, 1], from yellow to red; grey where None.

    >>> import torch
    >>> from invtoolbox.scenes.mesh import Mesh
    >>> figure = mesh_figure([Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))], ["a triangle"])
    >>> len(figure.axes)
    1
    """
    import matplotlib
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

    order = [
        (up + 1) % 3,
        (up + 2) % 3,
        up,
    ]  # right, towards the eye or away, up: a right-handed frame
    angle = np.deg2rad(turn)
    frame = np.array(
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    tilt = np.deg2rad(12.0)
    frame = (
        np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
        @ frame
    )
    seen = [mesh.vertices.detach().cpu().double().numpy()[:, order] @ frame.T for mesh in meshes]
    low, high = np.min([v.min(0) for v in seen], 0), np.max([v.max(0) for v in seen], 0)
    wide, tall = high[0] - low[0], high[2] - low[2]
    figure = Figure(
        figsize=(4.2 * len(meshes), min(7.0, 4.2 * max(tall, 1e-9) / max(wide, 1e-9) + 0.5)),
        layout="constrained",
    )
    light = np.array(_LIGHT) / np.linalg.norm(_LIGHT)
    for k, (mesh, vertices) in enumerate(zip(meshes, seen)):
        axes = figure.add_subplot(1, len(meshes), k + 1)
        faces = mesh.faces.cpu().numpy()
        corners = vertices[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        normals[normals[:, 1] > 0] *= -1  # towards the eye, which stands at negative depth
        shade = 0.35 + 0.65 * np.clip(normals @ (light * [1, -1, 1]), 0, 1)
        own = colours[k] if k < len(colours) else None
        base = (
            np.full((len(faces), 3), 0.8)
            if own is None
            else matplotlib.colormaps["YlOrRd"](own.detach().cpu().double().numpy()[faces].mean(1))[
                :, :3
            ]
        )
        back_to_front = np.argsort(-corners[:, :, 1].mean(1))
        axes.add_collection(
            PolyCollection(
                corners[back_to_front][:, :, [0, 2]],
                facecolors=(base * shade[:, None])[back_to_front],
                edgecolors="face",
                linewidths=0.2,
            )
        )
        margin = 0.04 * max(wide, tall)
        axes.set(
            xlim=(low[0] - margin, high[0] + margin),
            ylim=(low[2] - margin, high[2] + margin),
            aspect="equal",
        )
        axes.set_title(titles[k] if k < len(titles) else "")
        axes.axis("off")
    return figure
