"""Sequences of a moving object for its scene file: a simulated bar, and meshes that are filmed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from invtoolbox.catalogue.documents import Table
from invtoolbox.datasets.models.meshes import read_mesh
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.geometry.moving_shapes import farthest_points
from invtoolbox.jobs.photographs.photographs import Photographs
from invtoolbox.jobs.photographs.representations import GaussianModel
from invtoolbox.simulation import bending

#: Diagonal of a filmed mesh, equal to the diagonal of the bar, so that the same cameras see it whole.
_DIAGONAL = 4.2


class Filmed(Table):
    """Cameras on two circles around an object; those that are held out see it without noise."""

    cameras: int = Field(3, ge=1)
    held_out: int = Field(6, ge=0)
    size: tuple[int, int] = (40, 48)
    noise_std: float = Field(0.02, ge=0)


class Simulated(Filmed):
    """Simulated pictures of a bar that bends."""

    motion: bending.Bend = "bend"
    times: int = Field(8, ge=1)


class FilmedMesh(Filmed):
    """Simulated pictures of Gaussians on the vertices of a moving mesh.

    The first frame is the shape at rest. The unseen frames take no part in the estimate: their
    poses are found from the places of a few markers.
    """

    path: str
    points: int = Field(500, ge=1)
    frames: int = Field(ge=2)
    unseen: list[int] = Field(default_factory=list)
    markers: int = Field(40, ge=1)


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
    wrong = [k for k in table.unseen if not 0 < k < count]
    if wrong:
        raise InputError(
            f"{path}: frame {wrong[0]} cannot be unseen; give numbers from 1 to {count - 1} "
            "(frame 0 is the shape at rest)"
        )
    meshes = [read_mesh(path, k) for k in range(count)]
    if table.points > len(meshes[0].vertices):
        raise InputError(
            f"{path}: {table.points} points of {len(meshes[0].vertices)} vertices were asked for; "
            "lower film.points"
        )
    chosen = farthest_points(meshes[0].vertices, table.points)
    places = torch.stack([mesh.vertices[chosen] for mesh in meshes]).float()
    low, high = places[0].amin(0), places[0].amax(0)
    places = (places - (low + high) / 2) * (_DIAGONAL / (high - low).norm())
    # y of a mesh points up, and y of cameras down. The longer side lies along x, as in the bar.
    sides = (places[0].amax(0) - places[0].amin(0)).tolist()
    if sides[0] >= sides[2]:
        places = places * places.new_tensor([1.0, -1.0, -1.0])
    else:
        places = places[..., [2, 1, 0]] * places.new_tensor([1.0, -1.0, 1.0])
    rest = bending.paint(places[0])
    moved = places - places[0]
    seen = [k for k in range(count) if k not in table.unseen]
    unseen = sorted(set(table.unseen))
    return Sequence(
        rest,
        film(rest, moved[seen], table, background, seed),
        moved[seen],
        film(rest, moved[unseen], table, background, seed),
        moved[unseen] if unseen else None,
        farthest_points(places[0], min(table.markers, table.points)) if unseen else None,
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
        if not len(cameras):
            seen = torch.zeros(1, 3, 0, *table.size)
        else:
            seen = model.operator(cameras)(now)
        if noise is not None:
            seen = seen + table.noise_std * torch.randn(seen.shape, generator=noise)
        views = seen[0].transpose(0, 1)
        return PosedPictures(cameras, views, torch.ones_like(views[:, :1]))

    frames = []
    for k, moved in enumerate(displacements, start=1):
        now = replace(rest, means=rest.means + moved)
        noise = torch.Generator().manual_seed(seed + k)
        frames.append(Photographs(pictures(now, train, noise), pictures(now, held, None)))
    return tuple(frames)
