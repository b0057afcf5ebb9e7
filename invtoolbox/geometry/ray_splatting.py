"""Rendering of 3D Gaussians along rays of any directions from one place, as of a spinning lidar."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.splatting import check_splats
from invtoolbox.kernels.rendering.splat_binning import bin_splats
from invtoolbox.kernels.rendering.splat_compositing import Rays, composite
from invtoolbox.kernels.rendering.splat_projection import Projection, project

#: The six faces of a cube around the sensor as cameras: the rows are the right, the downward and
#: the forward axis.
_FACES = torch.tensor(
    [
        [[0.0, -1, 0], [0, 0, -1], [1, 0, 0]],
        [[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]],
        [[1.0, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]],
        [[0.0, -1, 0], [1, 0, 0], [0, 0, 1]],
        [[0.0, -1, 0], [-1, 0, 0], [0, 0, -1]],
    ]
)


def ray_rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    directions: Tensor,
    near: float = 0.01,
    far: float = 1e10,
    beam: float = 1e-3,
    sh_degree: int | None = None,
    *,
    median_range: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    r"""Render 3D Gaussians along the rays of C sensors: colors, ranges and alpha.

    Each sensor is surrounded by six pinhole cameras of 90 degrees, the faces of a cube; a ray
    passes the face that it meets at exactly the point where it meets it. Gaussians are projected
    onto the faces and composited as by `rasterization`, so that rays through the centres of pixels
    have the values of these pixels. A Gaussian has the depth of its mean; the range is that depth
    along the ray. Derivatives reach the means, quaternions, scales, opacities, colors and
    ``viewmats``.

    Args:
        means: centres; see `rasterization`; ``...`` are axes of scenes, or none.
        quats: quaternions; see `rasterization`.
        scales: standard deviations; see `rasterization`.
        opacities: opacities; see `rasterization`.
        colors: colors; see `rasterization`. They may be intensities, ``(..., N, 1)``.
        viewmats: world to sensor, ``(..., C, 4, 4)``, in any axes of the sensor.
        directions: directions of the rays in the frame of each sensor, ``(C, R, 3)``, of any
            length; 0 for no ray. All rays of a sensor leave one place: undo its motion first, or
            cut the sweep into pieces with a pose each.
        near: smallest depth before a face at which a Gaussian is seen.
        far: largest depth before a face at which a Gaussian is seen.
        beam: standard deviation of a beam across its direction, radians; it corresponds to
            ``eps2d`` of pixels.
        sh_degree: degree of the spherical harmonics; see `rasterization`.
        median_range: whether to return the range of the Gaussian at which the transmittance falls
            below 1/2.

    Returns:
        colors ``(..., C, R, D)``, alpha ``(..., C, R, 1)``, and a dict: "range" ``(..., C, R, 1)``,
        the expected range, 0 where alpha is 0, and "median_range", 0 where the transmittance stays
        above 1/2.

    Raises:
        InputError: if shapes and types do not fit together.

    >>> mean, size = torch.tensor([[3.0, 4.0, 0.0]]), torch.full((1, 3), 0.2)
    >>> splat = mean, torch.tensor([[1.0, 0, 0, 0]]), size, torch.tensor([0.9]), torch.ones(1, 1)
    >>> ahead = torch.tensor([[[0.6, 0.8, 0.0], [-1.0, 0.0, 0.0]]])
    >>> _, alpha, info = ray_rasterization(*splat, torch.eye(4)[None], ahead)
    >>> alpha[0, :, 0].round(decimals=3), info["range"][0, :, 0].round(decimals=3)
    (tensor([0.9000, 0.0000]), tensor([5., 0.]))
    """
    sensors = viewmats.shape[-3] if viewmats.ndim >= 3 else 0
    if directions.ndim != 3 or directions.shape[0] != sensors or directions.shape[-1] != 3:
        raise InputError(
            f"directions have the shape {tuple(directions.shape)}, expected {(sensors, 'rays', 3)} "
            f"for viewmats {tuple(viewmats.shape)}"
        )
    check_range("ray_rasterization", "(0, inf]", near=near, beam=beam)
    directions = directions.detach().to(means)
    K = torch.eye(3, dtype=means.dtype, device=means.device).expand(*viewmats.shape[:-2], 3, 3)
    inputs = means, quats, scales, opacities, colors
    leading = check_splats(*inputs, viewmats, K, sh_degree)
    scenes = torch.Size(leading).numel()
    aimed = _RayViews.of(directions)
    side, views = aimed.side, len(aimed.faces)
    m, q, s, o, f, V = (t.reshape(scenes, *t.shape[len(leading) :]) for t in (*inputs, viewmats))
    # World to face: the rotation to the axes of the face follows the pose of the sensor.
    turns = torch.zeros(views, 4, 4, dtype=means.dtype, device=means.device)
    turns[:, :3, :3] = _FACES.to(means)[aimed.faces]
    turns[:, 3, 3] = 1
    looks = turns @ V[:, aimed.sensors]
    # A pinhole of 90 degrees has the focal length side / 2, so the angle beam at its centre is
    # beam side / 2 pixels wide.
    half = side / 2
    K = means.new_tensor([[half, 0, half], [0, half, half], [0, 0, 1]]).expand(scenes, views, 3, 3)
    how = Projection(
        side,
        side,
        near,
        far,
        blur=(beam * half) ** 2,
        degree=-1 if sh_degree is None else sh_degree,
        depth=True,
        anywhere=True,
    )
    flat = m, q, s, o, f, looks, K
    splats, boxes, reaches = project(*flat, how)
    tiles = bin_splats(boxes, reaches, side, side)
    view = (torch.arange(scenes, device=means.device)[:, None] * views + aimed.view).flatten()
    rays = Rays.sort(view, aimed.places.repeat(scenes, 1), scenes * views, side, side)
    # A splat holds six numbers of its shape, its channels, and its depth.
    channels = splats.shape[-1] - 7
    median = channels if median_range else None
    planes = composite(splats, boxes, reaches, tiles, side, side, median=median, rays=rays)
    # Move the axis of planes to the end, and fill in the rays without a direction: transmittance 1.
    hits = planes.unflatten(1, (scenes, len(aimed.rays))).movedim(0, -1)
    pixels = hits.new_zeros(scenes, directions.shape[0] * directions.shape[1], hits.shape[-1])
    pixels[..., channels + 1] = 1
    pixels = (
        pixels.index_copy(1, aimed.rays, hits)
        .unflatten(1, directions.shape[:2])
        .unflatten(0, leading or (1,))
    )
    pixels = pixels if leading else pixels[0]
    # Planes: the channels, the depth sum(w z), the transmittance, the median depth. The expected
    # range is sum(w z) / sum(w), stretched from the depth before the face to the length of the ray.
    alpha = 1 - pixels[..., channels + 1 : channels + 2]
    stretch = aimed.stretch.view(*directions.shape[:2], 1)
    info = {"range": pixels[..., channels : channels + 1] / alpha.clamp_min(1e-10) * stretch}
    if median_range:
        info["median_range"] = pixels[..., channels + 2 :] * stretch
    return pixels[..., :channels], alpha, info


@dataclass(frozen=True, eq=False)
class _RayViews:
    """Rays, sorted by the faces that they meet.

    Attributes:
        sensors: sensor of each view that a ray passes, ``(V,)``.
        faces: face of each view that a ray passes, ``(V,)``.
        rays: numbers of the rays with a direction, ``(n,)``.
        view: number of the view of each of these rays, ``(n,)``.
        places: place at which the ray meets the view, in pixels, ``(n, 2)``.
        stretch: range per depth of every ray, ``(C * R,)``.
        side: side of a face, in pixels.
    """

    sensors: Tensor
    faces: Tensor
    rays: Tensor
    view: Tensor
    places: Tensor
    stretch: Tensor
    side: int

    @classmethod
    def of(cls, directions: Tensor) -> _RayViews:
        """Sort the rays of directions ``(C, R, 3)``."""
        # The face of a ray is that of its largest coordinate, with its sign; the depth before the
        # face is the absolute value of this coordinate.
        flat = directions.reshape(-1, 3)
        size, axis = flat.abs().max(1)
        face = 2 * axis + (flat.gather(1, axis[:, None])[:, 0] < 0)
        sensor = torch.arange(len(flat), device=flat.device) // max(directions.shape[1], 1)
        rays = (size > 0).nonzero()[:, 0]
        used, view, counts = (6 * sensor + face)[rays].unique(
            return_inverse=True, return_counts=True
        )
        inside = (_FACES.to(flat)[face[rays]] @ flat[rays][:, :, None]).squeeze(-1)
        # Tiles of 16 pixels a side hold some hundred rays each.
        busiest = int(counts.max()) if len(counts) else 1
        side = 16 * max(1, min(128, math.ceil(math.sqrt(busiest / 128))))
        # x / z and y / z lie in [-1, 1] on a face of 90 degrees.
        places = (0.5 + 0.5 * inside[:, :2] / inside[:, 2:]) * side
        stretch = torch.zeros_like(size)
        stretch[rays] = flat[rays].norm(dim=1) / size[rays]
        return cls(
            sensors=torch.div(used, 6, rounding_mode="floor"),
            faces=used % 6,
            rays=rays,
            view=view,
            places=places,
            stretch=stretch,
            side=side,
        )
