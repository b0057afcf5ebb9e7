r"""The numbers that the volume kernels keep of a view, and which main axes its rays have.

In units of voxels and counted from the volume's centre, the ray of cell ``(r', c')`` (counted from the panel's centre) runs from a point
``p`` along ``d``:

- cone, flat: ``p = a``, ``d = e + c' f + r' v``;
- cone, curved: ``p = a``, ``d = cos(c' w) e + sin(c' w) f + r' v``;
- parallel: ``p = e + c' f + r' v``, ``d = a``,

with the 13 numbers ``(a, e, f, v, w)`` a view; vectors are (x, y, z).
"""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.kernels.views import Views

#: Numbers a view.
WIDTH = 13


def table_of(views: Views, device: torch.device) -> Tensor:
    """The table (V, 13), float64, differentiable in the views' tensors."""
    source, detector, u, v = (
        t.to(device=device, dtype=torch.float64)
        for t in (views.source, views.detector, views.u, views.v)
    )
    size = source.new_tensor(views.voxel_size[::-1])
    if views.parallel:
        e, f, turn = detector, u, torch.zeros_like(source[:, :1])
    elif views.curved:
        e = detector - source
        radius, spacing = (torch.linalg.vector_norm(t, dim=1, keepdim=True) for t in (e, u))
        f, turn = u * (radius / spacing), spacing / radius
    else:
        e, f, turn = detector - source, u, torch.zeros_like(source[:, :1])
    v = v / size
    # Rows that are stacked along z but for the rounding of a rotation are stacked along z, which the kernels turn to account. Only the
    # value is rounded: the derivative stays.
    sideways = v * v.new_tensor([1.0, 1.0, 0.0])
    rounding = sideways.abs().amax(dim=1, keepdim=True) <= 1e-13 * v[:, 2:].abs()
    v = v - torch.where(rounding, sideways, 0.0).detach()
    return torch.cat([source / size, e / size, f / size, v, turn], dim=1)


def views_by_axis(table: Tensor, views: Views) -> list[Tensor]:
    """For each main axis x, y, z the numbers (int32) of the views that may have rays along it, in order."""
    # Some views at a time: the bounds of all of them would take more memory than the projection itself.
    parts = [_possible(part, views) for part in table.split(max(1, 16384 // views.panel[1]))]
    possible = torch.cat(parts)
    return [possible[:, k].nonzero()[:, 0].to(torch.int32) for k in range(3)]


def _possible(table: Tensor, views: Views) -> Tensor:
    """Which views may have rays along which axis, (V, 3)."""
    a, e, f, v = (table[:, None, 3 * k : 3 * k + 3] for k in range(4))
    rows, columns = views.panel
    if views.parallel:
        low = high = a
    else:
        c = (
            torch.arange(columns, dtype=table.dtype, device=table.device)[:, None]
            - (columns - 1) / 2
        )
        angle = c * table[:, None, 12:]
        middle = angle.cos() * e + angle.sin() * f if views.curved else e + c * f
        reach = (rows - 1) / 2 * v.abs()
        low, high = middle - reach, middle + reach
    # Along a column of cells the direction is linear: bounds of its components, with room for rounding.
    most = torch.maximum(low.abs(), high.abs())
    least = torch.where(low * high <= 0, 0.0, torch.minimum(low.abs(), high.abs()))
    others = torch.stack(
        [torch.maximum(least[..., (k + 1) % 3], least[..., (k + 2) % 3]) for k in range(3)], dim=-1
    )
    return (most * (1 + 1e-9) >= others).any(dim=1)
