r"""Cast rays at moving boxes, cylinders, ellipsoids and planes, as a lidar does.

Every ray has its own origin, direction and time. The time is a share of an interval, such as one
turn of a lidar. Over the interval, each primitive moves and turns at constant speed, the turn about
a pivot of its own. A point ``x`` of the primitive is at

.. math:: c + \exp(s [\omega]_\times) (x - c) + s v

at the share ``s``, with pivot ``c``, turn ``omega`` and way ``v``.

The kernel is ``raycast.cpp``, with one task per ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError, check_name
from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel

#: The kinds of primitives, in the order of their numbers in the kernel. In its own frame, a
#: primitive with half sizes (a, b, c) is the plane z = 0; the box |x| <= a, |y| <= b, |z| <= c; the
#: cylinder (x/a)^2 + (y/b)^2 <= 1, |z| <= c; the ellipsoid with these half axes.
KINDS = ("plane", "box", "cylinder", "ellipsoid")


@dataclass(frozen=True, eq=False)
class Primitives:
    """P primitives at the start of an interval, with their motion over the interval, in float64.

    Attributes:
        kind: indices into `KINDS`, ``(P,)``.
        half_size: half extents along the primitive's own axes, above zero, ``(P, 3)``; ignored for
            a plane.
        pose: frames of the primitives in the world at the start, ``(P, 4, 4)``.
        way: displacement of the pivot over the interval, ``(P, 3)``.
        turn: axis times angle in radians of the turn over the interval, ``(P, 3)``.
        pivot: centre of the turn, in the world at the start, ``(P, 3)``.

    Raises:
        InputError: if the tables do not fit together, or a half size is not positive.
    """

    kind: Tensor
    half_size: Tensor
    pose: Tensor
    way: Tensor
    turn: Tensor
    pivot: Tensor

    def __post_init__(self) -> None:
        count = len(self.kind)
        for name, shape in {
            "half_size": (3,),
            "pose": (4, 4),
            "way": (3,),
            "turn": (3,),
            "pivot": (3,),
        }.items():
            if getattr(self, name).shape != (count, *shape):
                raise InputError(
                    f"primitives: {name} has the shape {tuple(getattr(self, name).shape)}, "
                    f"expected {(count, *shape)}"
                )
        check_range(self, "(0, inf]", "half_size")

    @classmethod
    def still(cls, kinds: Sequence[str], half_size: Tensor, pose: Tensor) -> Primitives:
        """Return primitives that do not move.

        Args:
            kinds: names from `KINDS`, one per primitive.
            half_size: half extents, ``(P, 3)``.
            pose: frames of the primitives in the world, ``(P, 4, 4)``.

        Raises:
            InputError: if a kind is unknown.

        >>> Primitives.still(["box"], torch.ones(1, 3), torch.eye(4)[None]).kind
        tensor([1])
        """
        for kind in kinds:
            check_name("kind of primitive", kind, KINDS)
        zero = torch.zeros(len(kinds), 3, dtype=torch.float64)
        numbers = torch.tensor([KINDS.index(kind) for kind in kinds], dtype=torch.int64)
        return cls(numbers, half_size.double(), pose.double(), zero, zero, zero)

    def __len__(self) -> int:
        return len(self.kind)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return bounding spheres at the start, centres ``(P, 3)`` and radii ``(P,)``.

        A sphere that moves by the primitive's way holds the primitive for the whole interval. The
        radius is negative for a plane, which has no bounding sphere.
        """
        half = self.half_size
        # Spheres about the centre: half the longest axis of an ellipsoid, the distance of the rim
        # of a cylinder and of the corners of a box.
        rim = torch.hypot(half[:, :2].amax(1), half[:, 2])
        radius = torch.where(
            self.kind == 3, half.amax(1), torch.where(self.kind == 2, rim, half.norm(dim=1))
        )
        centre = self.pose[:, :3, 3]
        turning = (self.turn != 0).any(1)
        # A primitive that turns stays in a sphere about its pivot. The last terms are room for the
        # rounding of the kernel in float32.
        radius = (
            torch.where(turning, radius + (centre - self.pivot).norm(dim=1), radius) * (1 + 1e-5)
            + 1e-6
        )
        return torch.where(turning[:, None], self.pivot, centre), torch.where(
            self.kind == 0, -torch.ones_like(radius), radius
        )

    def __getitem__(self, index: Tensor) -> Primitives:
        return Primitives(
            self.kind[index],
            self.half_size[index],
            self.pose[index],
            self.way[index],
            self.turn[index],
            self.pivot[index],
        )


@dataclass
class RaycastArguments:
    """Arguments of ``raycast.cpp``."""

    ranges: Tensor  # (N,)
    hits: Tensor  # row of the table, -1 for none, (N,) int32
    origins: Tensor  # from the base of the coordinates, (N, 3)
    directions: Tensor  # unit vectors, (N, 3)
    shares: Tensor  # (N,)
    table: Tensor  # (P, 31), see `_table`
    primitives: int
    reach: float


@cache
def raycast_kernel(dtype: torch.dtype) -> Kernel:
    """Return the kernel for rays of a precision."""
    definitions = {"REAL": REAL[dtype]}
    return native_kernel("rendering/raycast.cpp", definitions, RaycastArguments, task="ray")


def cast_rays(
    origins: Tensor, directions: Tensor, share: Tensor, primitives: Primitives, reach: float = 1e6
) -> tuple[Tensor, Tensor]:
    """Find the first surface that each ray meets.

    A ray that starts inside of a primitive meets its wall from within. Rays test the primitives in
    the order of their distance from the first ray's origin, and stop when all others lie behind the
    hit. Therefore rays from one place are the fastest.

    Args:
        origins: origins of the rays, ``(N, 3)``, float32 or float64, which is also the precision of
            the result.
        directions: directions of the rays, ``(N, 3)``, of any length but zero.
        share: time of each ray, 0 at the start of the interval and 1 at its end, ``(N,)``.
        primitives: primitives to hit.
        reach: largest distance of a hit.

    Returns:
        The distance ``(N,)``, infinite without a hit, and the index of the primitive ``(N,)``
        int64, -1 for none.

    Raises:
        InputError: if the shapes of the rays do not fit together, or their precision is another
            one.

    >>> ball = Primitives.still(["ellipsoid"], torch.ones(1, 3), torch.eye(4)[None])
    >>> rays = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    >>> cast_rays(torch.tensor([[-3.0, 0, 0], [-3.0, 0, 0]]), rays, torch.zeros(2), ball)
    (tensor([2., inf]), tensor([ 0, -1]))
    """
    if (
        origins.ndim != 2
        or origins.shape[1] != 3
        or directions.shape != origins.shape
        or share.shape != origins.shape[:1]
    ):
        raise InputError(
            f"rays: origins {tuple(origins.shape)}, directions {tuple(directions.shape)} and share "
            f"{tuple(share.shape)} must be (N, 3), (N, 3) and (N,)"
        )
    if origins.dtype not in (torch.float32, torch.float64):
        raise InputError(f"rays: origins are {origins.dtype}; float32 or float64 is expected")
    unit = torch.nn.functional.normalize(directions.to(origins), dim=1).contiguous()
    # Relative to the first origin: coordinates of a map would lose digits in float32.
    base = origins[:1].double().cpu() if len(origins) else torch.zeros(1, 3, dtype=torch.float64)
    table, order = _table(primitives, base)
    table = table.to(origins)
    near = (origins.double() - base.to(origins.device)).to(origins.dtype).contiguous()
    ranges = near.new_empty(len(near))
    hits = torch.empty(len(near), dtype=torch.int32, device=near.device)
    arguments = RaycastArguments(
        ranges=ranges,
        hits=hits,
        origins=near,
        directions=unit,
        shares=share.to(near).contiguous(),
        table=table.contiguous(),
        primitives=len(primitives),
        reach=float(reach),
    )
    launch(raycast_kernel(near.dtype), len(near), arguments, float(len(near)) * len(primitives))
    hit = hits >= 0
    # From rows of the table to numbers of primitives; -1 reads the entry behind the last one.
    numbers = torch.cat([order, order.new_full((1,), -1)]).to(near.device)
    return torch.where(hit, ranges, torch.full_like(ranges, torch.inf)), numbers[hits.long()]


def _table(primitives: Primitives, base: Tensor) -> tuple[Tensor, Tensor]:
    """Return the table for ``raycast.cpp``, the nearest to ``base`` first, and the order."""
    centre, radius = primitives.bounds()
    # Least distance from the base within the interval, rounded down; planes may be anywhere.
    nearest = (centre - base).norm(dim=1) - radius - primitives.way.norm(dim=1)
    nearest = torch.where(radius < 0, torch.full_like(nearest, -1e30), nearest * (1 - 1e-5) - 1e-5)
    order = nearest.argsort(stable=True)
    angle = primitives.turn.norm(dim=1, keepdim=True)
    axis = primitives.turn / torch.where(angle == 0, torch.ones_like(angle), angle)
    # The kernel divides by the half sizes, and a plane has none.
    half_size = torch.where(
        (primitives.kind == 0)[:, None], torch.ones_like(primitives.half_size), primitives.half_size
    )
    # The order is that in which raycast.cpp reads a row.
    rows = [
        primitives.kind[:, None].double(),
        half_size,
        centre - base,
        primitives.way,
        radius[:, None],
        angle,
        axis,
        primitives.pivot - base,
        primitives.pose[:, :3, :3].flatten(1),
        primitives.pose[:, :3, 3] - base,
        nearest[:, None],
    ]
    return torch.cat(rows, dim=1)[order], order
