r"""Project Gaussians through a lens with distortion, by the unscented transform.

The projection of a lens has no simple derivative. So seven points of every Gaussian, its mean and
two on each axis, go through the lens one by one, and the mean and the covariance of their pixels
are those of the splat:

.. math:: x_0 = m, \quad x_{k\pm} = m \pm \sqrt{3 + \lambda}\, s_k q_k, \qquad
          \mu = \sum_i w_i \pi(x_i), \quad C = \sum_i w'_i (\pi(x_i) - \mu)(\pi(x_i) - \mu)^T

with the weights of Julier and Uhlmann. For small Gaussians and a lens without distortion, this is
the linearization of `geometry.rasterization`.

With a rolling shutter, the camera moves while the rows of a picture are read. A point is seen by
the camera at the time of the row that it falls on, which is the solution of a fixed-point equation.

Source: Wu et al., "3DGUT: enabling distorted cameras and secondary rays in Gaussian splatting",
CVPR 2025; Julier and Uhlmann, "New extension of the Kalman filter to nonlinear systems", 1997.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import spherical_harmonics
from invtoolbox.geometry.lens import Lens, reach_of
from invtoolbox.geometry.rigid import inverse, rotation_vector
from invtoolbox.geometry.rotations import rotation_matrices
from invtoolbox.kernels.rendering.splat_projection import Projection

#: Steps of the fixed-point iteration of a rolling shutter. The error falls by the ratio of the
#: motion of a point in the picture to the height, per step.
ROLLING_STEPS = 4
#: Spread of the seven points and the parameter of their weights, as in 3DGUT: for alpha = 1 the
#: points lie at sqrt(3) standard deviations, and the weight of the mean in C is beta.
ALPHA, BETA, KAPPA = 1.0, 2.0, 0.0


def project_through_lens(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    how: Projection,
    lens: Lens | Sequence[Lens],
    ends: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Project Gaussians into views of a lens, or into views of one lens each.

    The arguments and the results are those of `kernels.rendering.splat_projection.project`, for
    ``how`` without normals and surfaces; derivatives pass through the operations of torch.

    Args:
        means: centres, ``(S, N, 3)``.
        quats: quaternions, ``(S, N, 4)``.
        scales: standard deviations, ``(S, N, 3)``.
        opacities: opacities, ``(S, N)``.
        colors: colors ``(S, N, D)``, or harmonics ``(S, N, K, 3)``.
        viewmats: world to camera, ``(S, C, 4, 4)``.
        Ks: intrinsics, ``(S, C, 3, 3)``.
        how: settings of the projection.
        lens: lens of all cameras, or one lens per camera.
        ends: world to camera when the last row is read, ``(S, C, 4, 4)``; ``viewmats`` then belong
            to the first row. None if all rows are read at once.
    """
    scenes, views, count = len(means), viewmats.shape[1], means.shape[1]
    if not isinstance(lens, Lens):
        if len(lens) != views:
            raise InputError(f"there are {len(lens)} lenses for {views} views; give one per view")
        # The views of equal lenses together, then back in the order of the views.
        gaussians = means, quats, scales, opacities, colors
        groups, order = [], []
        for model in dict.fromkeys(lens):
            index = [k for k, candidate in enumerate(lens) if candidate == model]
            cameras = viewmats[:, index], Ks[:, index]
            last = None if ends is None else ends[:, index]
            projected = project_through_lens(*gaussians, *cameras, how=how, lens=model, ends=last)
            groups.append([t.unflatten(0, (scenes, len(index))) for t in projected])
            order += index
        place = torch.tensor(order, device=means.device).argsort()
        return tuple(torch.cat(tensors, 1)[:, place].flatten(0, 1) for tensors in zip(*groups))  # type: ignore[return-value]
    # Sigma points of the mean and of m +- sqrt(3 + lambda) s_k q_k, with the columns q_k of R.
    scale = ALPHA**2 * (3 + KAPPA)  # 3 + lambda
    first = 1 - 3 / scale
    axes = math.sqrt(scale) * rotation_matrices(quats) * scales[..., None, :]
    offsets = torch.cat([torch.zeros_like(means[..., None]), axes, -axes], -1).transpose(-1, -2)
    points = means[:, :, None] + offsets  # (S, N, 7, 3)
    R, t = viewmats[:, :, :3, :3], viewmats[:, :, :3, 3]
    local = points.flatten(1, 2)[:, None] @ R.transpose(-1, -2) + t[:, :, None]
    local = local.unflatten(2, (count, 7))  # (S, C, N, 7, 3)
    depth, radius, pixels = _see(local, Ks, how, lens)
    eye = -(R.transpose(-1, -2) @ t[..., None])[..., None, :, 0]  # (S, C, 1, 3)
    if ends is not None:
        # The row on which a point falls gives its time, and the time its row: a fixed point.
        path = Path.between(viewmats, ends)
        start = local
        for _ in range(ROLLING_STEPS):
            time = (pixels[..., 1:] / how.height).clamp(0, 1)
            local = path.at(start, time)
            depth, radius, pixels = _see(local, Ks, how, lens)
        eye = eye + time[..., 0, :] * path.shift[:, :, None]
    limit = reach_of(lens)
    # Weights of the mean: w_0 = lambda / (3 + lambda) = 1 - 3 / scale, and 1 / (2 scale) for the others.
    weights = torch.full_like(pixels[0, 0, 0, :, :1], 0.5 / scale)
    weights[0] = first
    mean = (weights * pixels).sum(-2)
    off = pixels - mean[..., None, :]
    # Weights of the covariance: w'_0 = w_0 + 1 - alpha^2 + beta. C = [[a, b], [b, c]] with the blur.
    spread = weights.clone()
    spread[0] = first + 1 - ALPHA**2 + BETA
    a, c = ((spread * off.square()).sum(-2) + how.blur).unbind(-1)
    b = (spread[:, 0] * off[..., 0] * off[..., 1]).sum(-1)
    det = a * c - b * b
    share = torch.ones_like(det)
    if how.antialiased:
        # sqrt(det C / det(C + blur I)), as in Mip-Splatting (Yu et al. 2024).
        sharp = (a - how.blur) * (c - how.blur) - b * b
        share = (sharp / det).clamp_min(1e-12).sqrt()
    opacity = opacities[:, None] * share
    boxes, visible = _boxes(mean, a, c, opacity.detach(), how)
    visible = visible & (depth > how.near) & (depth < how.far) & (det > 0)
    visible = visible & (radius[..., 0, 0] < limit)
    features = [_features(means, colors, eye, views, how.degree)]
    features += [depth[..., None]] if how.depth else []
    # The conic C^-1 = [[c, -b], [-b, a]] / det, in the layout of `kernels.rendering.splat_projection`.
    safe = torch.where(visible, det, 1.0)
    rows = [mean, torch.stack([c / safe, -b / safe, a / safe, opacity], -1), *features]
    splats = torch.where(visible[..., None], torch.cat(rows, -1), 0.0)
    # o exp(-d^2 / 2) = 1/255 at d^2 / 2 = log(255 o).
    reach = torch.stack([depth, (255 * opacity).clamp_min(1.0).log()], -1).detach()
    reaches = torch.where(visible[..., None], reach, 0.0)
    boxes = torch.where(visible[..., None], boxes, 0).int()
    flat = (scenes * views, count, -1)
    return tuple(t.reshape(flat).contiguous() for t in (splats, boxes, reaches))  # type: ignore[return-value]


def _see(local: Tensor, Ks: Tensor, how: Projection, lens: Lens) -> tuple[Tensor, Tensor, Tensor]:
    """Return the depth of the means, the radius of rays, and the pixels of points in the camera."""
    depth = local[..., 0, 2]
    # Points behind the camera have no pixel. If their Gaussian is visible, they move to the front.
    z = torch.maximum(local[..., 2], 0.1 * depth[..., None].clamp_min(how.near))
    rays = local[..., :2] / z[..., None]
    radius = rays.norm(dim=-1, keepdim=True)
    bent = lens.distort_within(rays)
    focal, centre = Ks[:, :, None, None, [0, 1], [0, 1]], Ks[:, :, None, None, :2, 2]
    return depth, radius, bent * focal + centre


@dataclass(frozen=True)
class Path:
    """Motion of cameras between two poses: the centre goes straight, the rotation is even.

    Attributes:
        turn: rotation vector of the second pose, in the frame of the first one, ``(S, C, 3)``.
        shift: way of the centre in the world, ``(S, C, 3)``.
        local: the same way in the frame of the first pose, ``(S, C, 3)``.
    """

    turn: Tensor
    shift: Tensor
    local: Tensor

    @classmethod
    def between(cls, first: Tensor, last: Tensor) -> Path:
        """Return the path between poses world to camera, ``(S, C, 4, 4)`` each."""
        # Centres are c = -R^T t. R_last R_first^T maps the axes of the first camera to the last one's.
        shift = inverse(last)[..., :3, 3] - inverse(first)[..., :3, 3]
        R = first[..., :3, :3]
        turn = rotation_vector(last[..., :3, :3] @ R.transpose(-1, -2))
        return cls(turn, shift, (R @ shift[..., None])[..., 0])

    def at(self, points: Tensor, time: Tensor) -> Tensor:
        """Return points of the first camera's frame, ``(S, C, N, 7, 3)``, in the frame at a time.

        Args:
            points: the points.
            time: time of each point from 0 to 1, ``(S, C, N, 7, 1)``.
        """
        # Rodrigues: p cos + (k x p) sin + k (k . p)(1 - cos), after the centre has moved.
        points = points - time * self.local[:, :, None, None]
        angle = self.turn.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        axis = (self.turn / angle)[:, :, None, None].expand_as(points)
        turned = time * angle[:, :, None, None]
        along = (axis * points).sum(-1, keepdim=True)
        across = torch.linalg.cross(axis, points)
        return points * turned.cos() + across * turned.sin() + axis * along * (1 - turned.cos())


def _boxes(
    mean: Tensor, a: Tensor, c: Tensor, opacity: Tensor, how: Projection
) -> tuple[Tensor, Tensor]:
    """Return the boxes of pixels, and whether there is any pixel in them."""
    with torch.no_grad():
        # The ellipse d^2 = 2 log(255 o) extends sqrt(2 log(255 o) C_kk) along axis k, here with a
        # margin for rounding; pixel i belongs to it if its centre i + 1/2 does.
        limit = (255 * opacity).clamp_min(1.0).log()
        half = (2 * limit[..., None] * torch.stack([a, c], -1)).sqrt() * 1.0001 + 1e-3
        size = mean.new_tensor([how.width, how.height])
        start = (mean - half - 0.5).ceil().clamp_min(0)
        end = torch.minimum((mean + half - 0.5).ceil(), size)
        visible = (start < end).all(-1) & (opacity >= 1 / 255) & (half.amax(-1) > how.clip)
        boxes = torch.stack([start[..., 0], end[..., 0], start[..., 1], end[..., 1]], -1)
        return torch.where(visible[..., None], boxes, 0.0), visible


def _features(means: Tensor, colors: Tensor, eye: Tensor, views: int, degree: int) -> Tensor:
    """Return the colors of the Gaussians in every view, ``(S, C, N, channels)``.

    The camera is at ``eye`` when it sees a Gaussian, ``(S, C, 1 or N, 3)``.
    """
    if degree < 0:
        return colors[:, None].expand(-1, views, -1, -1)
    # color = max(sum_k Y_k(d) c_k + 1/2, 0) in the direction d from the camera (Kerbl et al. 2023).
    directions = means[:, None] - eye
    basis = spherical_harmonics(
        directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-30), degree
    )
    harmonics = colors[:, None, :, : basis.shape[-1]]
    return ((basis[..., None] * harmonics).sum(-2) + 0.5).clamp_min(0)
