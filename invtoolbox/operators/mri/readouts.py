"""Trajectories of magnetic resonance imaging: radial, spiral, stack of stars and cones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError, match_name, unknown_name

#: Golden angle of half a turn (Winkelmann et al., IEEE TMI 26, 2007), 111.25 degrees.
_GOLDEN = math.pi * (math.sqrt(5) - 1) / 2
#: Golden angle of a whole turn, 137.5 degrees.
_GOLDEN_TURN = math.pi * (3 - math.sqrt(5))
#: Distance of neighbours on a spiral, and of its turns, in cycles per field of view.
_SPACING = 0.75


def mri_trajectory(
    name: str, image_shape: Sequence[int], readouts: int, samples: int | None = None
) -> Tensor:
    """Compute a trajectory by its name, ``(*samples, dimensions)``, for `NonUniformFourier`.

    The last axis holds frequencies in cycles per field of view, in the order of the image's axes.

    Args:
        name: "radial" or "spiral" of two axes, "stack-of-stars" or "cones" of three.
        image_shape: shape of the image, ``(row, column)`` or ``(slice, row, column)``, with or
            without the axis of the channel in front of three.
        readouts: number of spokes, interleaves, spokes per slice, or cones.
        samples: number of samples per readout; by default the number that the functions of this
            module state.

    Raises:
        InputError: if the name is not known, or if its number of axes differs from the image's.

    >>> mri_trajectory("stack-of-stars", (4, 16, 16), readouts=5).shape
    torch.Size([4, 5, 32, 3])
    """
    match = match_name(name, _BY_NAME)
    if match is None:
        raise unknown_name("trajectory", name, _BY_NAME)
    make, axes = _BY_NAME[match]
    shape = tuple(int(n) for n in image_shape)
    shape = shape[1:] if len(shape) == axes + 1 and shape[0] == 1 else shape
    if len(shape) != axes or min(shape) < 1:
        raise InputError(
            f"the trajectory {match!r} has {axes} axes, and the image_shape is {tuple(image_shape)}"
        )
    return make(shape, readouts, samples)


def radial_trajectory(
    size: int, spokes: int, samples: int | None = None, golden: bool = True
) -> Tensor:
    """Compute spokes through the centre of k-space, ``(spoke, sample, 2)``.

    The last axis holds row and column frequency, in cycles per field of view.

    Args:
        size: number of rows and columns of the image; spokes run from ``-size / 2`` to just below
            ``size / 2``.
        spokes: number of spokes.
        samples: number of samples per spoke, ``2 * size`` by default; sample ``samples // 2`` lies
            at frequency zero.
        golden: whether the angles of the spokes are multiples of the golden angle; otherwise they
            are evenly spaced over half a turn.

    >>> radial_trajectory(4, spokes=1, samples=4)[0, :, 1]
    tensor([-2., -1.,  0.,  1.])
    """
    check_range("radial_trajectory", "[1, inf)", size=size, spokes=spokes, samples=samples)
    count = 2 * size if samples is None else samples
    angles = torch.arange(spokes, dtype=torch.float64) * (_GOLDEN if golden else math.pi / spokes)
    radii = (torch.arange(count, dtype=torch.float64) - count // 2) * (size / count)
    return torch.stack(
        [radii * angles.sin().unsqueeze(1), radii * angles.cos().unsqueeze(1)], -1
    ).float()


def spiral_trajectory(
    size: int, interleaves: int, samples: int | None = None, turns: float | None = None
) -> Tensor:
    """Compute spirals from the centre of k-space, ``(interleave, sample, 2)``.

    ``k = size / 2 sqrt(s) exp(2 pi i turns sqrt(s))`` with s from 0 to 1: Archimedean spirals of
    constant speed, apart from the first turn (Glover, MRM 42, 1999).

    Args:
        size: number of rows and columns of the image.
        interleaves: number of spirals, evenly rotated.
        samples: number of samples per spiral; by default neighbours are 3/4 of a cycle apart.
        turns: number of turns of a spiral; by default ``size / (1.5 interleaves)``, so that
            neighbouring turns are 3/4 of a cycle apart. At one cycle least squares of the middle of
            the image would still be determined, and of its corners not.

    >>> k = spiral_trajectory(32, interleaves=4)
    >>> k.shape, round(float(k.norm(dim=-1).max()), 1)
    (torch.Size([4, 358, 2]), 16.0)
    """
    check_range(
        "spiral_trajectory",
        "[1, inf)",
        size=size,
        interleaves=interleaves,
        samples=samples,
    )
    check_range("spiral_trajectory", "(0, inf)", turns=turns)
    rounds = size / (2 * interleaves * _SPACING) if turns is None else turns
    # The length of an Archimedean spiral is about pi turns size / 2.
    length = math.pi * size * rounds / 2
    count = math.ceil(length / _SPACING) if samples is None else samples
    share = (torch.arange(count, dtype=torch.float64) / max(1, count - 1)).sqrt()
    start = torch.arange(interleaves, dtype=torch.float64).unsqueeze(1) / interleaves
    angle = 2 * math.pi * (rounds * share + start)
    return (size / 2 * share.unsqueeze(1) * torch.stack([angle.sin(), angle.cos()], -1)).float()


def stack_of_stars(image_shape: Sequence[int], spokes: int, samples: int | None = None) -> Tensor:
    """Compute golden-angle spokes in every plane of slice frequency, ``(plane, spoke, sample, 3)``.

    Args:
        image_shape: shape of the volume, ``(slice, row, column)``.
        spokes: number of spokes per plane.
        samples: number of samples per spoke, twice the larger of rows and columns by default.

    >>> stack_of_stars((2, 4, 4), spokes=1, samples=4)[:, 0, 3, :]
    tensor([[-1.,  0.,  1.],
            [ 0.,  0.,  1.]])
    """
    slices, rows, columns = (int(n) for n in image_shape)
    size = max(rows, columns)
    star = radial_trajectory(size, spokes, samples) * (torch.tensor([rows, columns]) / size)
    heights = torch.arange(slices, dtype=star.dtype) - slices // 2
    heights = heights.view(-1, 1, 1, 1).expand(-1, *star.shape[:2], 1)
    return torch.cat([heights, star.expand(slices, *star.shape)], -1)


def cones_trajectory(
    image_shape: Sequence[int], cones: int, samples: int | None = None, turns: float = 4.0
) -> Tensor:
    """Compute spirals on cones from the centre of k-space, ``(cone, sample, 3)``.

    The polar angles are even in their cosine, and every cone is rotated by the golden angle
    (after Irarrazabal & Nishimura, MRM 33, 1995).

    Args:
        image_shape: shape of the volume, ``(slice, row, column)``; frequencies reach half as many
            cycles as it has pixels along every axis.
        cones: number of cones, one readout each.
        samples: number of samples per readout, twice the largest number of pixels by default.
        turns: number of turns of the spiral on a cone near the equator; in proportion to the
            radius of the cone on others.

    >>> k = cones_trajectory((8, 16, 16), cones=50)
    >>> k.shape, k.abs().amax((0, 1)) <= torch.tensor([4.0, 8.0, 8.0])
    (torch.Size([50, 32, 3]), tensor([True, True, True]))
    """
    check_range("cones_trajectory", "[1, inf)", cones=cones, samples=samples)
    check_range("cones_trajectory", "[0, inf)", turns=turns)
    half = torch.tensor([int(n) for n in image_shape], dtype=torch.float64) / 2
    count = int(4 * half.max()) if samples is None else samples
    number = torch.arange(cones, dtype=torch.float64).unsqueeze(1)
    cosine = 1 - (2 * number + 1) / cones
    sine = (1 - cosine.square()).sqrt()
    share = torch.arange(count, dtype=torch.float64) / max(1, count - 1)
    azimuth = 2 * math.pi * turns * sine * share.sqrt() + _GOLDEN_TURN * number
    direction = torch.stack(
        [cosine.expand_as(azimuth), sine * azimuth.sin(), sine * azimuth.cos()], -1
    )
    return (half * share.unsqueeze(1) * direction).float()


_Maker = Callable[[Sequence[int], int, int | None], Tensor]


def _on_rectangle(make: Callable[[int, int, int | None], Tensor]) -> _Maker:
    """Return a trajectory of a square image that is scaled to the rows and columns of another."""

    def scale(shape: Sequence[int], readouts: int, samples: int | None) -> Tensor:
        size = max(shape)
        return make(size, readouts, samples) * (torch.tensor(tuple(shape)) / size)

    return scale


_BY_NAME: dict[str, tuple[_Maker, int]] = {
    "radial": (_on_rectangle(radial_trajectory), 2),
    "spiral": (_on_rectangle(spiral_trajectory), 2),
    "stack-of-stars": (stack_of_stars, 3),
    "cones": (cones_trajectory, 3),
}
