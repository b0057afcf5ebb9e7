"""Self-contained HTML page that shows a scene of Gaussians or voxels, with WebGL 2 alone."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.datasets.output import write_bytes
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras, focus_point, upwards
from invtoolbox.geometry.gaussians import Splats, colors_to_harmonics
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.plotting import page

#: Largest number of Gaussians in a page; of more, a page shows the Gaussians of the largest area.
MOST = 200_000
#: Share of the light that a cell stops above which nodes between such cells cannot be seen.
_OPAQUE = 0.6


@dataclass(frozen=True, eq=False)
class Shown:
    """N Gaussians of one scene in the form of the page.

    Attributes:
        places: centres, ``(N, 3)``.
        scales: standard deviations along the axes, ``(N, 3)``.
        quats: rotations as quaternions w, x, y, z, ``(N, 4)``.
        opacities: opacities, ``(N,)``.
        harmonics: coefficients of the color, ``(N, 1 or 4 or 9, 3)``.
        squashed: whether colors are the sigmoid of the sum, as for voxels; otherwise 1/2 is added.
        caption: description in words.
    """

    places: Tensor
    scales: Tensor
    quats: Tensor
    opacities: Tensor
    harmonics: Tensor
    squashed: bool
    caption: str


def shown_splats(x: Splats, item: int = 0, most: int = MOST) -> Shown:
    """Return the visible Gaussians of one scene of a batch, with harmonics up to degree 2.

    Args:
        x: a batch of scenes.
        item: number of the scene.
        most: largest number of Gaussians.
    """
    visible = (x.opacities[item] > 1 / 255).nonzero()[:, 0]
    total = len(visible)
    if total > most:
        # The two longer axes span the area that a Gaussian covers.
        sides = x.scales[item, visible].sort(dim=1).values[:, 1:]
        area = sides.prod(1) * x.opacities[item, visible]
        visible = visible[area.topk(most).indices].sort().values
    colors = x.colors[item, visible]
    if x.degree is None:
        if colors.shape[-1] != 3:
            raise InputError(
                "the viewer shows colors of 3 channels, and these Gaussians have "
                f"{colors.shape[-1]}"
            )
        colors = colors_to_harmonics(colors)
    caption = f"{len(visible):,} Gaussians" + (f" of {total:,}" if len(visible) == most else "")
    return Shown(
        places=x.means[item, visible],
        scales=x.scales[item, visible],
        quats=x.quats[item, visible],
        opacities=x.opacities[item, visible],
        harmonics=colors[:, :9],
        squashed=False,
        caption=caption,
    )


def shown_voxels(x: Voxels, item: int = 0, most: int = MOST, least_alpha: float = 0.08) -> Shown:
    """Return the surface of a grid as round Gaussians.

    The surface consists of the nodes that stop light and have a neighbour that lets light pass.

    Args:
        x: a batch of grids.
        item: number of the grid.
        most: largest number of Gaussians.
        least_alpha: least share of the light that a cell with the density of a node must stop for
            the node to be shown; half of the largest share if that is less.
    """
    space = x.space
    share = -torch.expm1(
        -functional.softplus(x.density[item].detach()) * space.scale * max(space.cell)
    )
    least_alpha = min(least_alpha, max(0.5 * float(share.max()), 1e-4))
    padded = functional.pad(space.spread((share > _OPAQUE).float()[None])[:, None], (1,) * 6)
    buried = space.gather(functional.avg_pool3d(padded, 3, stride=1)[:, 0])[0] > 0.999
    visible = ((share > least_alpha) & ~buried).nonzero()[:, 0]
    if len(visible) > most:
        visible = visible[share[visible].topk(most).indices].sort().values
    return Shown(
        places=torch.tensor(space.low) + space.places()[visible] * torch.tensor(space.cell),
        scales=0.5 * torch.tensor(space.cell).expand(len(visible), 3),
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(visible), 4),
        opacities=(1.2 * share[visible]).clamp(0, 0.95),
        harmonics=x.color[item, visible].detach(),
        squashed=True,
        caption=f"the surface of a grid: {len(visible):,} nodes",
    )


def show(x: Splats | Voxels | Shown) -> Shown:
    """Return the visible Gaussians of a scene; of a batch, of the first one.

    Args:
        x: a scene.
    """
    if isinstance(x, Shown):
        return x
    return shown_splats(x) if isinstance(x, Splats) else shown_voxels(x)


def viewer_page(
    x: Splats | Voxels | Shown,
    cameras: Cameras | None = None,
    title: str = "Scene",
    background: float | Sequence[float] = 1.0,
    version: int | None = None,
) -> bytes:
    """Return the page of `write_viewer`, with the same arguments.

    With a ``version``, the page loads itself again when its server has another version.
    """
    shown = show(x)
    if not len(shown.places):
        raise InputError("nothing of the scene is visible, so there is nothing to show")
    places = shown.places.detach().cpu().float()
    scales = shown.scales.detach().cpu().float()
    unit = float(scales.max())
    quats = functional.normalize(shown.quats.detach().cpu().float(), dim=1)
    shade = [float(v) for v in np.broadcast_to(np.asarray(background, dtype=np.float64), 3)]
    content: dict[str, Any] = {
        "count": len(places),
        "bases": shown.harmonics.shape[1],
        "squashed": shown.squashed,
        "caption": shown.caption,
        "background": shade,
        "version": version,
        "unit": unit,
        "places": _pack(places, "<f4"),
        "scales": _pack(scales / unit, "<f2"),
        "turns": _pack(quats * 32767, "<i2"),
        "opacities": _pack(shown.opacities.detach().cpu() * 255, "u1"),
        "colors": _pack(shown.harmonics.detach().cpu(), "<f2"),
    }
    content |= _cameras(places, shown.opacities.detach().cpu(), cameras)
    text = files("invtoolbox.plotting").joinpath("splat_viewer.html").read_text(encoding="utf-8")
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    parts = {
        "@POLICY@": page.content_policy([script], connect=version is not None),
        "@TITLE@": page.escape(title),
        "@SCENE@": page.script_data(content),
    }
    # In one pass, so that a title or a name cannot contain a mark of the template.
    return re.sub("|".join(parts), lambda mark: parts[mark[0]], text).encode()


def write_viewer(
    path: str | Path,
    x: Splats | Voxels | Shown,
    cameras: Cameras | None = None,
    title: str = "Scene",
    background: float | Sequence[float] = 1.0,
    overwrite: bool = False,
) -> Path:
    """Write a page that shows a scene from any side, in a browser with WebGL 2.

    The page can be opened from a folder without a server. Dragging turns the scene, the wheel moves
    the eye closer, and shift with dragging moves the scene. The cameras of the photographs can be
    chosen and drawn. Gaussians are drawn as by the renderer, with harmonics up to degree 2; the
    surface of voxels is drawn as Gaussians. ``#view=3`` after the address starts at a photograph,
    ``#bare`` hides the panel.

    Args:
        path: the file.
        x: a scene; of a batch, the first one.
        cameras: cameras of the photographs.
        title: title of the page.
        background: color of the background, a number or red, green and blue, from 0 to 1.
        overwrite: replace an existing file.

    Raises:
        InputError: nothing of the scene is visible, or the file exists or cannot be written.

    >>> import tempfile
    >>> x = Splats.of_points(torch.zeros(1, 1, 3), torch.ones(1, 1, 3), 0.1, 0.9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_viewer(folder + "/scene.html", x).read_text()
    >>> "1 Gaussians" in page, "http:" in page
    (True, False)
    """
    return write_bytes(path, viewer_page(x, cameras, title, background), overwrite)


def _pack(values: Tensor, kind: str) -> str:
    array = values.numpy()
    if kind[-2] in "iu":
        array = array.round()
    return base64.b64encode(np.ascontiguousarray(array.astype(kind)).tobytes()).decode("ascii")


def _cameras(places: Tensor, opacities: Tensor, cameras: Cameras | None) -> dict[str, Any]:
    """Return the first viewpoint and the cameras of the photographs."""
    weight = opacities / opacities.sum()
    middle = (weight[:, None] * places).sum(0)
    reach = float((weight * (places - middle).norm(dim=1)).sum()) or 1.0
    if cameras is None or not len(cameras):
        eye = middle + torch.tensor([0.0, -0.35, -1.0]) * 5 * reach
        return {
            "cameras": [],
            "mark": 0.0,
            "eye": eye.tolist(),
            "target": middle.tolist(),
            "up": [0.0, -1.0, 0.0],
            "field_of_view": 0.7,
        }
    cameras = cameras.to(dtype=torch.float32, device="cpu")
    angles = [2 * math.atan(cameras.size[0] / 2 / float(K[1, 1])) for K in cameras.intrinsics]
    listed = [
        {
            "name": Path(cameras.names[k]).stem if cameras.names else str(k),
            "eye": cameras.centres[k].tolist(),
            "rows": cameras.world_to_camera[k, :3, :3].tolist(),
            "field_of_view": angles[k],
            "shape": cameras.size[1] / cameras.size[0],
        }
        for k in range(len(cameras))
    ]
    try:
        target = focus_point(cameras)
    except InputError:
        target = middle
    distance = float((cameras.centres - target).norm(dim=1).median())
    return {
        "cameras": listed,
        "mark": 0.07 * distance,
        "eye": cameras.centres[0].tolist(),
        "target": target.tolist(),
        "up": upwards(cameras).tolist(),
        "field_of_view": angles[0],
    }
