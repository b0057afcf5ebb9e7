"""Lenses with distortion: projection of rays, and undistortion of pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.errors import InputError


@dataclass(frozen=True)
class Lens:
    r"""Distortion of OpenCV and COLMAP, on coordinates ``(x, y) = (X / Z, Y / Z)``.

    With ``r^2 = x^2 + y^2``:

    - ``kind="perspective"``: ``x' = x c + 2 p1 x y + p2 (r^2 + 2 x^2)`` and
      ``y' = y c + p1 (r^2 + 2 y^2) + 2 p2 x y``, with
      ``c = (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6)``.
    - ``kind="fisheye"``:
      ``(x', y') = (x, y) theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8) / r``,
      ``theta = atan(r)``.

    Attributes:
        kind: model of the distortion, "perspective" or "fisheye".
        radial: coefficients ``k1, k2, ...``; missing ones are 0.
        tangential: coefficients ``p1, p2`` of a perspective lens.

    >>> Lens(radial=(0.5,)).distort(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    tensor([[0.0000, 0.0000],
            [1.5000, 0.0000]])
    """

    kind: Literal["perspective", "fisheye"] = "perspective"
    radial: tuple[float, ...] = ()
    tangential: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        most = {"perspective": 6, "fisheye": 4}.get(self.kind, -1)
        numbers = torch.tensor([*self.radial, *self.tangential], dtype=torch.float64)
        if (
            len(self.radial) > most
            or len(self.tangential) != 2
            or not bool(numbers.isfinite().all())
        ):
            raise InputError(
                "a Lens is perspective, with up to 6 finite radial coefficients and 2 tangential "
                f"ones, or fisheye, with up to 4, got kind={self.kind!r}, radial={self.radial}, "
                f"tangential={self.tangential}"
            )
        if self.kind == "fisheye" and any(self.tangential):
            raise InputError(
                f"a fisheye Lens has no tangential coefficients, got {self.tangential}"
            )

    @property
    def distorts(self) -> bool:
        return self.kind == "fisheye" or any(self.radial) or any(self.tangential)

    def distort(self, rays: Tensor) -> Tensor:
        """Project rays ``(X / Z, Y / Z)``, ``(..., 2)``, at focal length 1, differentiably."""
        from kornia.geometry.calibration import distort_points
        from kornia.geometry.camera import distort_points_kannala_brandt

        # kornia's functions take a camera matrix too: here focal length 1 and principal point 0.
        if self.kind == "fisheye":
            k = [*self.radial, *[0.0] * (4 - len(self.radial))]
            return distort_points_kannala_brandt(rays, rays.new_tensor([1, 1, 0, 0, *k]))
        k = [*self.radial, *[0.0] * (6 - len(self.radial))]
        # OpenCV's order: k1, k2, p1, p2, k3, k4, k5, k6.
        coefficients = rays.new_tensor([*k[:2], *self.tangential, *k[2:]])
        eye = torch.eye(3, dtype=rays.dtype, device=rays.device)
        return distort_points(rays, eye, coefficients)

    def distort_within(self, rays: Tensor) -> Tensor:
        """Project rays as `distort`, but rays beyond the reach of the lens as if at its reach.

        Beyond its reach a lens folds: points far off the axis would fall into the picture.
        """
        limit = reach_of(self)
        radius = rays.norm(dim=-1, keepdim=True)
        return self.distort(rays * (limit / radius.clamp_min(limit)))

    def undistort(self, points: Tensor) -> Tensor:
        """Compute the rays ``(X / Z, Y / Z)`` of points ``(..., 2)`` at focal length 1.

        A fisheye is inverted by Newton's method on the angle, a perspective lens by a fixed-point
        iteration, as in OpenCV.

        Args:
            points: points in the picture, as `distort` returns them.

        >>> lens = Lens("fisheye", (0.05, -0.01))
        >>> rays = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
        >>> bool((lens.undistort(lens.distort(rays)) - rays).abs().max() < 1e-9)
        True
        """
        if self.kind == "perspective":
            # x <- x + (x' - distort(x)), a contraction if the distortion changes slowly.
            rays = points
            for _ in range(40 if self.distorts else 0):
                rays = rays + points - self.distort(rays)
            return rays
        # Solve r' = theta + k1 theta^3 + k2 theta^5 + ... for theta, from theta = r'. The clamp keeps
        # rays in front of the camera, where tan(theta) is finite.
        goal = points.norm(dim=-1, keepdim=True)
        angle = goal
        for _ in range(12):
            radius, slope, power = angle, torch.ones_like(angle), angle
            for order, k in enumerate(self.radial, start=1):
                # d/dtheta of k theta^(2 order + 1), with power = theta^(2 order - 1).
                slope = slope + (2 * order + 1) * k * power * angle
                power = power * angle.square()
                radius = radius + k * power
            angle = (angle - (radius - goal) / slope).clamp(0, 0.4999 * torch.pi)
        # The ray has the direction of the point, and the length tan(theta).
        return points * torch.where(goal > 0, angle.tan() / goal.clamp_min(1e-30), 1.0)

    def quarter_turn(self) -> Lens:
        """Return the lens of the picture after a quarter turn clockwise."""
        # A quarter turn maps (x, y) to (-y, x); in the formulas p1 and p2 then change places, and the
        # sign of one of them. 0.0 - p1 in place of -p1, so that 0 does not become -0.
        p1, p2 = self.tangential
        return replace(self, tangential=(p2, 0.0 - p1))

    def pixels(self, rays: Tensor, intrinsics: Tensor) -> Tensor:
        """Compute the pixels ``(column, row)`` of rays ``(..., 2)``, for intrinsics ``(3, 3)``."""
        K = intrinsics.to(rays)
        return self.distort(rays) @ K[:2, :2].T + K[:2, 2]


@cache
def reach_of(lens: Lens) -> float:
    """Return the largest ``tan`` of the angle to the axis up to which a lens does not fold.

    Args:
        lens: the lens.

    >>> round(reach_of(Lens(radial=(-0.3,))), 2), reach_of(Lens()) > 50
    (1.05, True)
    """
    # The distorted radius along the x axis must grow with the angle; the first sample at which it
    # falls ends the reach. 0.495 pi is just below a ray across the axis.
    angles = torch.linspace(0, 0.495 * math.pi, 4000, dtype=torch.float64)
    rays = torch.stack([angles.tan(), torch.zeros_like(angles)], 1)
    grows = lens.distort(rays)[:, 0].diff() > 0
    folds = (~grows).nonzero()
    return float(rays[int(folds[0]) if len(folds) else -1, 0])


@dataclass(frozen=True, eq=False)
class Straightening:
    """Resampling of pictures from one lens to a pinhole of the same size at the same place.

    The pinhole keeps the principal point. It keeps the focal lengths if every pixel of its picture
    lies within the lens's picture; otherwise both are enlarged by the smallest common factor for
    which this holds, so that no pixel of a straight picture is invented.

    Attributes:
        intrinsics: intrinsics of the pinhole, ``(3, 3)`` float64, pixels.
        source: position of each of its pixels in the picture of the lens, ``(height, width, 2)``
            float64, ``(column, row)``.
    """

    intrinsics: Tensor
    source: Tensor

    @classmethod
    def of(cls, lens: Lens, intrinsics: Tensor, size: tuple[int, int]) -> Straightening:
        """Compute the resampling of a lens with given intrinsics and size of picture.

        Raises:
            InputError: if the distortion folds the picture, as coefficients of another camera do.
        """
        K = intrinsics.double()
        zoom = _least_zoom(lens, K, size)
        pinhole = K.clone()
        pinhole[:2, :2] *= zoom
        height, width = size
        rows, columns = torch.meshgrid(
            *(torch.arange(side, dtype=torch.float64) + 0.5 for side in size), indexing="ij"
        )
        # Backward: pixel of the pinhole, its ray, and where the lens shows this ray.
        source = lens.pixels(_rays(torch.stack([columns, rows], dim=-1), pinhole), K)
        if height > 1 and width > 1:
            # The determinant of the Jacobian by forward differences: 0 or less if the map folds.
            across, down = source[:-1, 1:] - source[:-1, :-1], source[1:, :-1] - source[:-1, :-1]
            if not bool((across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0] > 0).all()):
                raise InputError(
                    f"the distortion {lens.radial}, {lens.tangential} folds a picture of {height} "
                    f"by {width} pixels; its coefficients belong to another lens or another unit"
                )
        return cls(pinhole, source)

    def __call__(
        self, picture: Tensor, mode: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    ) -> Tensor:
        """Resample a picture ``(channel, height, width)``; bicubic values stay within its range."""
        # grid_sample takes -1 at the outer edge of the first pixel and 1 at the outer edge of the
        # last one.
        height, width = picture.shape[1:]
        span = self.source.new_tensor([width, height])
        grid = (2 * self.source / span - 1).to(picture.dtype)
        straight = functional.grid_sample(
            picture[None], grid[None], mode=mode, padding_mode="border", align_corners=False
        )[0]
        return straight.clamp(picture.min(), picture.max()) if mode == "bicubic" else straight


def _rays(pixels: Tensor, K: Tensor) -> Tensor:
    # K^-1 (column, row, 1) without its last entry, 1; K may have a skew.
    return torch.linalg.solve(K[:2, :2], (pixels - K[:2, 2])[..., None])[..., 0]


def _least_zoom(lens: Lens, K: Tensor, size: tuple[int, int]) -> float:
    """Find the smallest zoom from 1 on that keeps the pinhole's edge within the lens's picture."""
    height, width = size
    along = torch.arange(width, dtype=K.dtype) + 0.5
    down = torch.arange(height, dtype=K.dtype) + 0.5
    edge = torch.cat(
        [torch.stack([along, torch.full_like(along, row)], 1) for row in (0.5, height - 0.5)]
        + [torch.stack([torch.full_like(down, column), down], 1) for column in (0.5, width - 0.5)]
    )
    # A focal length that is larger by zoom divides the rays by zoom.
    rays = _rays(edge, K)

    def inside(zoom: float) -> bool:
        place = lens.pixels(rays / zoom, K)
        # Values end half a pixel within the edge; the tolerance covers rounding.
        end = place.new_tensor([width, height])
        return bool(((place >= 0.5 - 1e-6) & (place <= end - 0.5 + 1e-6)).all())

    if inside(1.0):
        return 1.0
    # Doubling brackets the zoom, and 40 bisections find it to 1e-12 of the bracket.
    low, high = 1.0, 2.0
    while not inside(high):
        low, high = high, 2 * high
        if high > 64:
            raise InputError(
                f"the distortion {lens.radial}, {lens.tangential} leads out of a picture of "
                f"{height} by {width} pixels; its coefficients belong to another lens or another "
                "unit, or the principal point lies outside"
            )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if inside(middle) else (middle, high)
    return high
