"""Cameras: poses, projections and rays, cameras on a circle, and similarities of space.

`Cameras` holds the cameras. `look_at` and `turntable` create cameras, `focus_point` and `upwards`
describe what a group of cameras sees, and `Similarity` aligns the worlds of two groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.lens import Lens
from invtoolbox.geometry.rigid import inverse, rigid, rotation, transform
from invtoolbox.geometry.rotations import best_rotation


@dataclass(frozen=True, eq=False)
class Cameras:
    """C cameras with pictures of one size, pinholes unless they have lenses.

    A camera looks along its z, with x to the right and y down (OpenCV, COLMAP, gsplat). Pixel
    coordinates are ``(column, row)``, and the centre of the first pixel is ``(0.5, 0.5)``. Readers
    straighten the pictures of lenses that distort, unless an argument turns it off; then the
    cameras have `lenses`, which `project`, `rays` and `operators.GaussianRenderer` use. Other
    functions take pinholes.

    Attributes:
        world_to_camera: rigid motions, ``(C, 4, 4)``: ``p_camera = R p_world + t``; gsplat calls
            them viewmats.
        intrinsics: matrices of the intrinsics, ``(C, 3, 3)``, pixels;
            ``[[fx, s, cx], [0, fy, cy], [0, 0, 1]]``.
        size: size ``(height, width)`` of the pictures, pixels.
        names: one name per camera, such as the name of its picture's file; or empty.
        lenses: one lens per camera; or empty for pinholes, which lenses without distortion become.

    >>> camera = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(2, 4), field_of_view=90.0)
    >>> camera.project(torch.zeros(1, 3))
    (tensor([[[2., 1.]]]), tensor([[4.]]))
    """

    world_to_camera: Tensor
    intrinsics: Tensor
    size: tuple[int, int]
    names: tuple[str, ...] = ()
    lenses: tuple[Lens, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.world_to_camera)
        if self.world_to_camera.shape != (count, 4, 4) or self.intrinsics.shape != (count, 3, 3):
            raise InputError(
                "Cameras takes world_to_camera (C, 4, 4) and intrinsics (C, 3, 3), got "
                f"{tuple(self.world_to_camera.shape)} and {tuple(self.intrinsics.shape)}"
            )
        if min(self.size) < 1 or (self.names and len(self.names) != count):
            raise InputError(
                "Cameras needs a size (height, width) of at least one pixel, and no names or one "
                f"per camera, got {self.size} and {len(self.names)} names for {count} cameras"
            )
        if self.lenses and len(self.lenses) != count:
            raise InputError(
                f"Cameras takes no lenses or one per camera, got {len(self.lenses)} for {count} "
                "cameras"
            )
        if not any(lens.distorts for lens in self.lenses):
            object.__setattr__(self, "lenses", ())

    def __len__(self) -> int:
        return len(self.world_to_camera)

    def __getitem__(self, index: Any) -> Cameras:
        """Select some of the cameras by a slice, numbers or a mask.

        One number selects a batch of one.
        """
        rows = torch.arange(len(self))[index].reshape(-1)
        names = tuple(self.names[int(k)] for k in rows) if self.names else ()
        lenses = tuple(self.lenses[int(k)] for k in rows) if self.lenses else ()
        rows = rows.to(self.world_to_camera.device)
        return replace(
            self,
            world_to_camera=self.world_to_camera[rows],
            intrinsics=self.intrinsics[rows],
            names=names,
            lenses=lenses,
        )

    def pinholes(self) -> Cameras:
        """Return the same cameras without lenses."""
        return replace(self, lenses=())

    def require_pinholes(self, user: str) -> None:
        """Raise an `InputError` if the cameras have lenses.

        Args:
            user: the function that takes pinholes, for the message.
        """
        if self.lenses:
            raise InputError(
                f"{user} takes pinholes, and these cameras have lenses; read the pictures with "
                "straighten=True"
            )

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Cameras:
        return replace(
            self,
            world_to_camera=self.world_to_camera.to(dtype=dtype, device=device),
            intrinsics=self.intrinsics.to(dtype=dtype, device=device),
        )

    @property
    def centres(self) -> Tensor:
        """Positions of the cameras in the world, ``(C, 3)``."""
        return inverse(self.world_to_camera)[:, :3, 3]

    def scale(self, factor: float) -> Cameras:
        """Return the cameras of pictures ``factor`` times as large, rounded to whole pixels."""
        height, width = (max(1, round(side * factor)) for side in self.size)
        # diag(width'/width, height'/height, 1) K: the centre of the first pixel stays (0.5, 0.5).
        zoom = self.intrinsics.new_tensor([width / self.size[1], height / self.size[0], 1.0])
        return replace(self, intrinsics=zoom[:, None] * self.intrinsics, size=(height, width))

    def rotate(self, twist: Tensor) -> Cameras:
        """Move the cameras in their own frames, differentiably.

        ``world_to_camera`` becomes ``exp(twist) world_to_camera``.

        Args:
            twist: motion, ``(C, 6)``: a rotation vector in radians, then a translation, which
                follows the rotation.
        """
        step = rigid(rotation(twist[:, :3]), twist[:, 3:])
        return replace(self, world_to_camera=step @ self.world_to_camera)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Project points ``(N, 3)``: pixels ``(C, N, 2)``, and depths along z ``(C, N)``.

        Pixels of points behind a camera, of depth 0 or less, have no meaning.
        """
        # Homogeneous pixels are K (R p + t). A lens acts between the two, on (X / Z, Y / Z).
        local = transform(self.world_to_camera, points)
        depth = local[..., 2]
        if self.lenses:
            rays = local[..., :2] / local[..., 2:]
            bent = torch.stack([lens.distort_within(xy) for lens, xy in zip(self.lenses, rays)])
            local = torch.cat([bent, torch.ones_like(bent[..., :1])], -1)
        image = local @ self.intrinsics.transpose(1, 2)
        return image[..., :2] / image[..., 2:], depth

    def rays(self, pixels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the rays through the centres of the pixels, ``(C, height, width, 3)`` each.

        The result is origins and directions in the world. A direction has the length of one unit of
        depth, so that ``origin + depth * direction`` is a point of that depth; its length is not 1.

        Args:
            pixels: coordinates ``(column, row)`` to use instead, ``(C, ..., 2)``; the
                result then has their shape.
        """
        if pixels is None:
            height, width = self.size
            middles = [
                torch.arange(side, dtype=self.intrinsics.dtype, device=self.intrinsics.device) + 0.5
                for side in (height, width)
            ]
            rows, columns = torch.meshgrid(*middles, indexing="ij")
            pixels = torch.stack([columns, rows], dim=-1).expand(len(self), height, width, 2)
        flat = pixels.reshape(len(self), -1, 2)
        homogeneous = torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1)
        # K^-1 (column, row, 1) has z = 1, so a direction reaches depth 1 at its end, (C, 3, pixels).
        inside = torch.linalg.solve(self.intrinsics, homogeneous.transpose(1, 2))
        if self.lenses:
            bent = zip(self.lenses, inside[:, :2].transpose(1, 2))
            straight = torch.stack([lens.undistort(xy) for lens, xy in bent])
            inside = torch.cat([straight.transpose(1, 2), inside[:, 2:]], 1)
        # R maps the world to the camera, so its transpose maps directions back.
        directions = (self.world_to_camera[:, :3, :3].transpose(1, 2) @ inside).transpose(1, 2)
        shape = (*pixels.shape[:-1], 3)
        return self.centres[:, None].expand_as(directions).reshape(shape), directions.reshape(shape)


def look_at(
    centres: Tensor,
    target: Sequence[float] = (0.0, 0.0, 0.0),
    up: Sequence[float] = (0.0, -1.0, 0.0),
    *,
    size: tuple[int, int],
    field_of_view: float = 50.0,
) -> Cameras:
    """Create cameras that look at one point.

    Args:
        centres: positions of the cameras, ``(C, 3)``.
        target: point that all cameras look at.
        up: direction of the world that points upwards in the pictures.
        size: size ``(height, width)`` of the pictures, pixels.
        field_of_view: angle across the width, degrees.

    Raises:
        InputError: if a camera is at the target, or looks along `up`.
    """
    forward = centres.new_tensor(target) - centres
    distance = forward.norm(dim=-1, keepdim=True)
    # The rows of R are the axes of the camera in the world: z ahead, x = z x up to the right, and
    # y = z x x down, a right-handed frame (the convention of OpenCV).
    z = forward / distance
    right = torch.linalg.cross(z, centres.new_tensor(up).expand_as(z))
    length = right.norm(dim=-1, keepdim=True)
    if bool((distance == 0).any()) or bool((length < 1e-6).any()):
        raise InputError(
            "look_at needs cameras that stand apart from the target and do not look along up"
        )
    x = right / length
    R = torch.stack([x, torch.linalg.cross(z, x), z], dim=1)
    # width / 2 = f tan(angle / 2), and a camera at c has t = -R c.
    half_angle = torch.deg2rad(torch.tensor(field_of_view, dtype=torch.float64)) / 2
    focal_length = 0.5 * size[1] / float(torch.tan(half_angle))
    K = intrinsics(focal_length, size).to(centres).expand(len(centres), 3, 3)
    return Cameras(rigid(R, -(R @ centres[..., None]).squeeze(-1)), K, size)


def turntable(
    cameras: Cameras, frames: int = 24, largest_side: int = 256, middle: Tensor | None = None
) -> Cameras:
    """Create cameras that circle once around the point that a group of cameras looks at.

    They keep the mean distance and height of the group. If all cameras of the group look from one
    side, the new cameras circle around the mean of their positions, on a circle as wide as the
    group is spread.

    Args:
        cameras: cameras of the photographs.
        frames: number of new cameras.
        largest_side: largest side of their pictures, pixels.
        middle: centre of the circle, ``(3,)``; by default the point that the cameras look at.
    """
    middle = focus_point(cameras) if middle is None else middle.to(cameras.world_to_camera)
    up = upwards(cameras)
    arms = cameras.centres - middle
    distance = arms.norm(dim=1, keepdim=True)
    # The mean of unit vectors has length 1 if all cameras look from one side, and 0 if they
    # surround the middle.
    one_sided = float((arms / distance).mean(0).norm()) > 0.8
    smaller = cameras[:1].scale(min(1.0, largest_side / max(cameras.size)))
    turn = torch.arange(frames) * 2 * math.pi / frames
    if one_sided:
        mean = arms.mean(0)
        side = torch.linalg.cross(up, mean)
        # A circle across the mean direction; its radius is the root mean square distance of the
        # positions from their mean.
        side, spread = side / side.norm(), (arms - mean).norm(dim=1).square().mean().sqrt()
        lift = torch.linalg.cross(mean / mean.norm(), side)
        places = mean + spread * (turn.cos()[:, None] * side + turn.sin()[:, None] * lift)
    else:
        # A circle around the upward axis, at the median sine of the elevation; it starts at the
        # first camera. Above the middle that camera has no direction around the axis, and its x axis
        # gives the start.
        height = float(((arms / distance) @ up).clamp(-0.94, 0.94).median())
        first = arms[0] - (arms[0] @ up) * up
        if float(first.norm()) > 1e-6:
            first = first / first.norm()
        else:
            first = torch.linalg.cross(up, cameras.world_to_camera[0, 0, :3])
        side = torch.linalg.cross(up, first)
        flat = turn.cos()[:, None] * first + turn.sin()[:, None] * side
        places = distance.median() * (math.sqrt(1 - height**2) * flat + height * up)
    z = -places / places.norm(dim=1, keepdim=True)
    x = torch.linalg.cross(z, up.expand_as(z))
    x = x / x.norm(dim=1, keepdim=True)
    R = torch.stack([x, torch.linalg.cross(z, x), z], dim=1)
    pose = rigid(R, -(R @ (middle + places)[..., None]).squeeze(-1))
    return Cameras(pose, smaller.intrinsics.expand(frames, 3, 3), smaller.size)


@dataclass(frozen=True, eq=False)
class Similarity:
    """Similarity of space, ``p -> scale R p + t``.

    Attributes:
        scale: the scale, above 0, a tensor without axes.
        rotation: the rotation R, ``(3, 3)``.
        shift: the translation t, ``(3,)``.
    """

    scale: Tensor
    rotation: Tensor
    shift: Tensor

    @classmethod
    def between(cls, source: Tensor, target: Tensor, weights: Tensor | None = None) -> Similarity:
        """Find the similarity that maps points to others with the least squared distance.

        The closed form is that of Umeyama (IEEE TPAMI 13, 1991), computed in float64.

        Args:
            source: points, ``(N, 3)``, three or more that do not lie on one line.
            target: their images, ``(N, 3)``.
            weights: weights of the squared distances, ``(N,)``; all the same by default.

        >>> source = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> similarity = Similarity.between(source, 2 * source + 1)
        >>> round(float(similarity.scale), 5), similarity.shift
        (2.0, tensor([1., 1., 1.]))
        """
        if (
            source.ndim != 2
            or source.shape != target.shape
            or source.shape[1] != 3
            or len(source) < 3
        ):
            raise InputError(
                "a similarity is computed from three or more pairs of points (N, 3), got "
                f"{tuple(source.shape)} and {tuple(target.shape)}"
            )
        # Umeyama (1991), equations 40 to 42 for centred points p and q: R from the correlation of
        # q and p, scale = sum q . R p / sum |p|^2, and t = mean(q) - scale R mean(p).
        p, q = source.to(torch.float64), target.to(torch.float64)
        w = torch.ones_like(p[:, :1]) if weights is None else weights.to(p)[:, None]
        middle_p, middle_q = (w * p).sum(0) / w.sum(), (w * q).sum(0) / w.sum()
        p, q = p - middle_p, q - middle_q
        R = best_rotation((w * q).T @ p)
        size = (w * p.square()).sum()
        if not float(size) > 0:
            raise InputError(
                "a similarity needs points in several places, but these are all in one place"
            )
        scale = (w * q * (p @ R.T)).sum() / size
        return cls(scale.to(source), R.to(source), (middle_q - scale * R @ middle_p).to(source))

    @classmethod
    def of_cameras(cls, source: Cameras, target: Cameras) -> Similarity:
        """Find the similarity that maps the positions of cameras to those of others."""
        return cls.between(source.centres, target.centres)

    def points(self, points: Tensor) -> Tensor:
        """Map points ``(..., 3)``."""
        return self.scale * points @ self.rotation.T + self.shift

    def cameras(self, cameras: Cameras) -> Cameras:
        """Map cameras, so that they see mapped points as the given cameras see the points.

        Depths grow by the scale.
        """
        # Centres are points, but the axes of a camera only turn: the scale changes no direction.
        to_world = inverse(cameras.world_to_camera)
        poses = rigid(self.rotation @ to_world[:, :3, :3], self.points(to_world[:, :3, 3]))
        return replace(cameras, world_to_camera=inverse(poses))

    def inverse(self) -> Similarity:
        # q = s R p + t gives p = R^T q / s - R^T t / s.
        R = self.rotation.T
        return Similarity(1 / self.scale, R, -(R @ self.shift) / self.scale)


def intrinsics(focal_length: float | Sequence[float], size: tuple[int, int]) -> Tensor:
    """Return intrinsics ``(3, 3)`` with the principal point in the middle.

    Args:
        focal_length: focal length in pixels, one number or a pair (columns, rows).
        size: size ``(height, width)`` of the pictures, pixels.
    """
    fx, fy = (
        (focal_length, focal_length) if isinstance(focal_length, (int, float)) else focal_length
    )
    return torch.tensor([[fx, 0.0, size[1] / 2], [0.0, fy, size[0] / 2], [0.0, 0.0, 1.0]])


def focus_point(cameras: Cameras) -> Tensor:
    """Find the point ``(3,)`` nearest to the optical axes of all cameras, in the mean square.

    Raises:
        InputError: if the point lies behind all cameras, or if their axes are parallel.

    >>> from invtoolbox.geometry.cameras import look_at
    >>> centres = torch.tensor([[0.0, 0.0, -4.0], [4.0, 0.0, 1.0]])
    >>> middle = focus_point(look_at(centres, (0.5, 0.0, 1.0), size=(8, 8)))
    >>> bool((middle - torch.tensor([0.5, 0.0, 1.0])).abs().max() < 1e-5)
    True
    """
    centres, axes = cameras.centres.double(), cameras.world_to_camera[:, 2, :3].double()
    middle = nearest_point(centres, axes)
    if middle is None or not bool((((middle - centres) * axes).sum(1) > 0).any()):
        raise InputError(
            "the cameras look all in one direction or away from one another, so nothing is in the "
            "middle of their pictures"
        )
    return middle.to(cameras.world_to_camera)


def nearest_point(origins: Tensor, directions: Tensor) -> Tensor | None:
    """Find the point ``(3,)`` nearest to lines in the mean square; None if they are parallel.

    Args:
        origins: a point of each line, ``(N, 3)``.
        directions: their directions, ``(N, 3)``.

    >>> origins, directions = torch.tensor([[[0.0, 0, 5], [5, 0, 1]], [[0, 0, 1], [2, 0, 0]]])
    >>> [abs(round(value, 6)) for value in nearest_point(origins, directions).tolist()]
    [0.0, 0.0, 1.0]
    """
    # The squared distance of x from the line a through c is |(I - a a^T)(x - c)|^2. Its sum over the
    # lines is least where sum(I - a a^T) x = sum (I - a a^T) c.
    a, c = torch.nn.functional.normalize(directions.double(), dim=1), origins.double()
    across = torch.eye(3, dtype=torch.float64) - a[:, :, None] * a[:, None, :]
    # Along parallel lines all points are equally near: the matrix has an eigenvalue 0.
    if float(torch.linalg.eigvalsh(across.mean(0))[0]) < 1e-6:
        return None
    return torch.linalg.lstsq(across.sum(0), (across @ c[..., None]).sum(0)).solution[:, 0]


def upwards(cameras: Cameras) -> Tensor:
    """Return the unit vector ``(3,)`` that points upwards in the pictures on average."""
    # The second row of R is the camera's y in the world, which points down. If the mean vanishes,
    # the first camera decides.
    up = -cameras.world_to_camera[:, 1, :3].mean(0)
    if float(up.norm()) < 1e-3:
        up = -cameras.world_to_camera[0, 1, :3]
    return up / up.norm()
