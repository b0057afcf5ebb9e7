"""Meshes of rendered objects: flat Gaussians against round ones, distance to the true mesh.

    python benchmarks/surfaces.py [cow bumpy decimated-knight] [--steps 2000] [--threads 1]
    [--again]

32 views of 96 x 96 pixels around three meshes of libigl, textured and shaded, before a white
background. Both runs have the same steps, seed, number of Gaussians and start (the visual hull).
Round Gaussians have the strategy and the renderer by default, flat ones no strategy. Their meshes
are made by `views.mesh_scene` with the same grid: of round Gaussians by the fusion of their median
depths, of flat ones by the fusion of the depths of their planes. The distance is the mean of the
distances of points on one mesh to the other mesh, both ways, in per cent of the diagonal. The mean
signed distance of the points on the found mesh is negative if it lies inside of the object. A pixel
is 1.45 % wide.

The weight of the consistency was chosen on camelhead, another mesh of libigl, and the renderer of
flat Gaussians on the knight. The usual blur of 0.3 square pixels swells silhouettes, and training
fits these, so that the surface moves inside of the object.

Finished runs are kept in ``results/surfaces.json``; with ``--again`` they are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import igl
import numpy as np
import torch
from common import Kept, data_folder, machine, run_script, verdict
from torch import Tensor
from torch.nn import functional

from invtoolbox.datasets import PosedPictures, read_mesh
from invtoolbox.geometry import Cameras, Mesh, look_at
from invtoolbox.jobs.photographs import GaussianModel, Photographs, Stage, solve_in_stages
from invtoolbox.jobs.photographs.surface import mesh_scene
from invtoolbox.solvers import Adam

RESULTS = Path(__file__).parent / "results"
NAMES = ("cow", "bumpy", "decimated-knight")
VIEWS, HELD, SIDE, COUNT = 32, 4, 96, 3000
ROUND: dict[str, Any] = {}
FLAT: dict[str, Any] = {"flat": True, "strategy": "none"}


def rasterize(mesh: Mesh, camera: Cameras) -> tuple[Tensor, Tensor]:
    """Return the number of the face in every pixel, or -1, and the point seen there."""
    height, width = camera.size
    corners = mesh.vertices.float()[mesh.faces]
    pixels, depth = camera.project(corners.reshape(-1, 3))
    pixels, depth = pixels[0].view(-1, 3, 2), depth[0].view(-1, 3)
    least, most = (pixels.amin(1) - 0.5).ceil().long(), (pixels.amax(1) - 0.5).floor().long()
    least = least.clamp_min(0)
    most = torch.minimum(most, torch.tensor([width - 1, height - 1]))
    sides = (most - least + 1).clamp_min(0)
    counts = sides.prod(1)
    face = torch.repeat_interleave(torch.arange(len(counts)), counts)
    place = torch.arange(len(face)) - (counts.cumsum(0) - counts)[face]
    x, y = least[face, 0] + place % sides[face, 0], least[face, 1] + place // sides[face, 0]
    at = torch.stack([x + 0.5, y + 0.5], 1)
    a, b, c = (pixels[face, k] for k in range(3))

    def area(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        return (q - p)[:, 0] * (r - p)[:, 1] - (q - p)[:, 1] * (r - p)[:, 0]

    shares = torch.stack([area(b, c, at), area(c, a, at), area(a, b, at)], 1)
    shares = shares / shares.sum(1, keepdim=True)
    inside = (shares >= 0).all(1)
    face, shares, pixel = face[inside], shares[inside], (y * width + x)[inside]
    shares = shares / depth[face]  # perspective
    z = 1 / shares.sum(1)
    nearest = torch.full((height * width,), math.inf).scatter_reduce(0, pixel, z, "amin")
    seen = z == nearest[pixel]
    index = torch.full((height * width,), -1).index_copy(0, pixel[seen], face[seen])
    points = torch.zeros(height * width, 3).index_copy(
        0, pixel[seen], ((shares * z[:, None])[seen, :, None] * corners[face[seen]]).sum(1)
    )
    return index.view(height, width), points.view(height, width, 3)


def photograph(mesh: Mesh, cameras: Cameras) -> PosedPictures:
    """Render a mesh with a texture and a light, four samples per pixel."""
    a, b, c = mesh.vertices.float()[mesh.faces].unbind(1)
    normals = functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    light = functional.normalize(torch.tensor([0.4, -0.7, -0.6]), dim=0)
    waves = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(0)) * 12
    pictures = []
    for k in range(len(cameras)):
        face, points = rasterize(mesh, cameras[k].scale(2.0))
        texture = 0.55 + 0.4 * torch.sin(torch.einsum("hwi,cji->hwcj", points, waves)).mean(-1)
        shade = 0.7 + 0.3 * (normals[face] @ light)
        picture = texture.clamp(0, 1) * shade[..., None]
        there = (face >= 0)[..., None].float()
        rgba = torch.cat([picture * there, there], -1).movedim(-1, 0)
        pictures.append(functional.avg_pool2d(rgba, 2))
    every = torch.stack(pictures)
    return PosedPictures(cameras, every[:, :3], every[:, 3:])


def around(count: int, turn: float, side: int = SIDE) -> Cameras:
    """Return cameras on a sphere, along a spiral."""
    k = torch.arange(count) + 0.5
    height, angle = 0.95 * (2 * k / count - 1), math.pi * (3 - 5**0.5) * k + turn
    radius = (1 - height**2).sqrt()
    places = torch.stack([radius * angle.cos(), height, radius * angle.sin()], 1)
    return look_at(2.6 * places, size=(side, side), field_of_view=30.0)


def sample(mesh: Mesh, count: int) -> np.ndarray:
    """Draw points on a mesh, evenly by area."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    face = torch.multinomial(area, count, True, generator=generator)
    u, v = torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
    root = u.sqrt()
    points = (1 - root) * a[face] + root * (1 - v) * b[face] + root * v * c[face]
    return points.numpy()


def chamfer(found: Mesh, true: Mesh, count: int = 20_000) -> float:
    """Return the mean distance between two meshes, both ways."""
    ways = []
    for one, other in ((found, true), (true, found)):
        vertices, faces = other.vertices.double().numpy(), other.faces.numpy()
        squared = igl.point_mesh_squared_distance(sample(one, count), vertices, faces)[0]
        ways.append(float(np.sqrt(squared).mean()))
    return sum(ways) / 2


def signed_distance(found: Mesh, true: Mesh, count: int = 20_000) -> float:
    """Return the mean signed distance of points on a mesh to the true one, negative inside."""
    vertices, faces = true.vertices.double().numpy(), true.faces.numpy()
    how = igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
    return float(
        igl.signed_distance(sample(found, count), vertices, faces, sign_type=how)[0].mean()
    )


def reconstruct(name: str, settings: dict[str, Any], steps: int) -> dict[str, float]:
    """Find the mesh of an object; return its distance, and the PSNR of unseen views."""
    mesh = read_mesh(data_folder() / "libigl_meshes" / f"{name}.off")
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    diagonal = float((high - low).norm())
    mesh = mesh.with_vertices((mesh.vertices - (low + high) / 2) / diagonal)
    photographs = Photographs(
        photograph(mesh, around(VIEWS, 0.0)), photograph(mesh, around(HELD, 1.0))
    )
    reach = 1.1 * mesh.vertices.abs().amax(0)
    low, high = (tuple(round(float(v), 3) for v in end) for end in (-reach, reach))
    model = GaussianModel(
        low,
        high,
        1.0,
        count=COUNT,
        most=COUNT,
        carve=True,
        opacity=0.5,
        degree=1,
        length=steps,
        **settings,
    )
    solution = solve_in_stages(
        model, photographs, [Stage(steps)], Adam(subset_size=1, epsilon=1e-15), progress=False
    )
    found = mesh_scene(solution.model, solution.x, photographs.train.cameras)
    return {
        "chamfer": 100 * chamfer(found, mesh),
        "signed": 100 * signed_distance(found, mesh),
        "psnr": solution.reports[-1].psnr,
        "seconds": solution.seconds,
    }


def main(
    names: Sequence[str] = NAMES, /, steps: int = 2000, threads: int = 1, again: bool = False
) -> None:
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    kept = Kept(RESULTS / "surfaces.json", again)
    for name in names:
        rows = {
            kind: kept.result(
                f"{name}, {kind}, {steps} steps",
                lambda n=name, s=settings: reconstruct(n, s, steps),
            )
            for kind, settings in (("round", ROUND), ("flat", FLAT))
        }
        before, after = (rows[kind]["chamfer"] for kind in ("round", "flat"))
        ratio = after / before
        shown = ", ".join(
            f"{kind} {row['chamfer']:.3f} % of the diagonal (signed {row['signed']:+.2f} %, "
            f"{row['psnr']:.1f} dB)"
            for kind, row in rows.items()
        )
        print(
            f"{name:16} {shown}, ratio {ratio:.2f}",
            verdict(ratio <= 0.8, "0.80"),
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
