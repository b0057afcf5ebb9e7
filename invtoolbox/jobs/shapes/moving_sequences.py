"""Sequences of a moving object for its scene file: a simulated bar, and meshes that are filmed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from invtoolbox.catalogue.documents import FilePath, Table
from invtoolbox.datasets import PosedPictures, read_mesh
from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, Splats
from invtoolbox.geometry.moving_shapes import farthest_points
from invtoolbox.jobs.photographs.photographs import Photographs
from invtoolbox.jobs.photographs.representations import GaussianModel
from invtoolbox.simulation import bending

#: Diagonal of a filmed mesh, equal to the diagonal of the bar, so that the same cameras see it whole.
_DIAGONAL = 4.2


class Filmed(Table):
    """Cameras on two circles around an object; those that are held out see it without noise."""

    cameras: int = Field(3, ge=1, description="number of cameras of the training views")
    held_out: int = Field(6, ge=0, description="number of cameras of the held-out views")
    size: tuple[int, int] = Field((40, 48), description="rows and columns of a picture")
    noise_std: float = Field(
        0.02, ge=0, description="standard deviation of the noise of the training views"
    )


class Simulated(Filmed):
    """Simulated pictures of a bar that bends."""

    motion: bending.Bend = Field("bend", description="motion of the bar")
    times: int = Field(8, ge=1, description="number of times")


class FilmedMesh(Filmed):
    """Simulated pictures of Gaussians on the vertices of a moving mesh.

    The first frame is the shape at rest. The unseen frames take no part in the estimate: their
    poses are found from the places of a few markers.
    """

    path: FilePath = Field(
        description="archive with the vertices (T, N, 3) and the faces of a moving mesh"
    )
    points: int = Field(500, ge=1, description="number of Gaussians")
    frames: int = Field(ge=2, description="number of frames; the first one is the shape at rest")
    unseen: list[int] = Field(
        default_factory=list, description="numbers of the frames that take no part"
    )
    markers: int = Field(
        40, ge=1, description="number of Gaussians whose places are known in unseen frames"
    )


@dataclass(frozen=True, eq=False)
class Sequence:
    """Gaussians at rest, the pictures of every time, and the true displacements if known.

    Attributes:
        rest: the Gaussians at rest, a batch of one.
        frames: training and held-out views per time.
        truth: true displacements ``(T, N, 3)``, or None.
        poses: held-out views per time that takes no part.
        true_poses: true displacements of these times, ``(U, N, 3)``, or None.
        markers: numbers of the Gaussians whose places are known at these times, or None.
    """

    rest: Splats
    frames: tuple[Photographs, ...]
    truth: Tensor | None = None
    poses: tuple[Photographs, ...] = ()
    true_poses: Tensor | None = None
    markers: Tensor | None = None


def simulate_bar(table: Simulated, background: float | tuple, seed: int) -> Sequence:
    """Film a bar that bends.

    Args:
        table: the motion and the cameras.
        background: color behind the bar.
        seed: seed of the noise.
    """
    rest = bending.bar()
    truth = [
        bending.bend(rest.means[0], table.motion, k / table.times)
        for k in range(1, table.times + 1)
    ]
    return Sequence(rest, film(rest, truth, table, background, seed), torch.stack(truth))


def film_mesh(table: FilmedMesh, path: Path, background: float | tuple, seed: int) -> Sequence:
    """Film Gaussians on some vertices of a moving mesh, in a box of the diagonal 4.2.

    Args:
        table: the mesh and the cameras.
        path: archive with the arrays ``vertices``, ``(T, V, 3)``, and ``faces``.
        background: color behind the Gaussians.
        seed: seed of the noise.
    """
    count = table.frames
    invalid = [k for k in table.unseen if not 0 < k < count]
    if invalid:
        raise InputError(
            f"{path}: frame {invalid[0]} cannot be unseen; give numbers from 1 to {count - 1} "
            "(frame 0 is the shape at rest)"
        )
    meshes = [read_mesh(path, k) for k in range(count)]
    if table.points > len(meshes[0].vertices):
        raise InputError(
            f"{path}: {table.points} points of {len(meshes[0].vertices)} vertices were asked for; "
            "lower film.points"
        )
    index = farthest_points(meshes[0].vertices, table.points)
    places = torch.stack([mesh.vertices[index] for mesh in meshes]).float()
    low, high = places[0].amin(0), places[0].amax(0)
    places = (places - (low + high) / 2) * (_DIAGONAL / (high - low).norm())
    # y of a mesh points up, and y of cameras down. The longer side lies along x, as in the bar.
    sides = (places[0].amax(0) - places[0].amin(0)).tolist()
    if sides[0] >= sides[2]:
        places = places * places.new_tensor([1.0, -1.0, -1.0])
    else:
        places = places[..., [2, 1, 0]] * places.new_tensor([1.0, -1.0, 1.0])
    rest = bending.paint(places[0])
    displacements = places - places[0]
    unseen = sorted(set(table.unseen))
    truth = displacements[[k for k in range(count) if k not in unseen]]
    sequence = Sequence(rest, film(rest, truth, table, background, seed), truth)
    if not unseen:
        return sequence
    return replace(
        sequence,
        poses=film(rest, displacements[unseen], table, background, seed),
        true_poses=displacements[unseen],
        markers=farthest_points(places[0], min(table.markers, table.points)),
    )


def film(
    rest: Splats,
    displacements: Iterable[Tensor],
    table: Filmed,
    background: float | tuple,
    seed: int,
) -> tuple[Photographs, ...]:
    """Render the Gaussians at every time for both circles of cameras.

    Args:
        rest: Gaussians at rest, a batch of one.
        displacements: motion of the Gaussians from rest, ``(N, 3)`` per time.
        table: the cameras and the noise.
        background: color behind the Gaussians.
        seed: seed of the noise.
    """
    low, high = rest.means[0].amin(0), rest.means[0].amax(0)
    model = GaussianModel(tuple(low.tolist()), tuple(high.tolist()), background)
    train, held = (
        bending.cameras_around(count, table.size, height, first)
        for count, height, first in ((table.cameras, -2.0, 0.4), (table.held_out, -1.0, 0.0))
    )

    def pictures(now: Splats, cameras: Cameras, noise: torch.Generator | None) -> PosedPictures:
        if len(cameras):
            rendered = model.operator(cameras)(now)
        else:
            rendered = torch.zeros(1, 3, 0, *table.size)
        if noise is not None:
            rendered = rendered + table.noise_std * torch.randn(rendered.shape, generator=noise)
        views = rendered[0].transpose(0, 1)
        return PosedPictures(cameras, views, torch.ones_like(views[:, :1]))

    frames = []
    for k, displacement in enumerate(displacements, start=1):
        now = replace(rest, means=rest.means + displacement)
        noise = torch.Generator().manual_seed(seed + k)
        frames.append(Photographs(pictures(now, train, noise), pictures(now, held, None)))
    return tuple(frames)
