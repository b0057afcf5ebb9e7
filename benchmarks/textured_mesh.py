"""Meshes with textures, and the metre of a scene: distances, PSNR, time, scale.

    python benchmarks/textured_mesh.py [mesh fox length markers gps] [--steps 1500] [--side 128]
    [--threads 1] [--again]

mesh: 40 views of three meshes of libigl, textured and shaded (`surfaces.photograph`). Flat Gaussians
are trained on them, their depths fused, the mesh simplified to 20,000 faces, and its texture baked
from the 40 views. The distance is the mean of the distances of points on one mesh to the other one,
both ways, in per cent of the diagonal. A pixel is 1.1 % wide. Eight held-out views are rendered
from the textured mesh by rays, four per pixel, and from the Gaussians; both before a white
background.

fox: the fox of instant-ngp, 45 training views of 480 x 270 pixels. Gaussians are trained; then
processor seconds of the fusion, of 50,000 faces, of their charts, and of the texture.

length: two points, clicked in three random pictures with an error of half a pixel (standard
deviation), 200 draws: on the board below, and around the fox (0.2 to 1 units, pictures of 480 x 270
pixels, some from nearly one place).

markers: a board of six printed markers in twelve rendered views of 640 x 480 pixels, in an arbitrary
unit, ten draws of cameras; noise of 2 % and a blur.

gps: the cameras of the fox, spread over 60 m, at positions with a noise of 3 m per axis, 100 draws;
also with every tenth position 50 m off. Within the noise means: the error of the scale is at most
twice the standard deviation of the best linear estimate, 3 m / (sum of squared distances)^(1/2).
The headers of the three pictures of OpenSfM's Berlin set are read, too.

Flat Gaussians and their settings are those of surfaces.py. The fit of the silhouettes was tried on
the true meshes of camelhead and of the cow, moved inward, before it met a reconstruction.
Finished runs are kept in ``results/textured_mesh.json``; with ``--again`` they are not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Kept, data_folder, machine, run_script, verdict
from surfaces import FLAT, around, chamfer, photograph
from torch import Tensor
from torch.nn import functional

from invtoolbox import metrics
from invtoolbox.datasets import PosedPictures, open_views, read_mesh
from invtoolbox.datasets.views.photograph_files import read_position
from invtoolbox.datasets.views.structure_from_motion import fit_positions
from invtoolbox.geometry import Cameras, Mesh, look_at
from invtoolbox.geometry.cameras import focus_point
from invtoolbox.jobs.photographs import GaussianModel, Photographs, Stage, solve_in_stages
from invtoolbox.jobs.photographs.exports import LARGEST_SIDE, originals_of
from invtoolbox.jobs.photographs.scale import by_length, by_markers
from invtoolbox.jobs.photographs.scene import read_view_scene
from invtoolbox.jobs.photographs.surface import mesh_scene
from invtoolbox.jobs.photographs.texture import (
    bake,
    cast_rays,
    ray_scene,
    simplify,
    texture_side,
    unwrap,
)
from invtoolbox.solvers import Adam

RESULTS = Path(__file__).parent / "results"
NAMES = ("cow", "bunny", "cheburashka")
VIEWS, HELD, COUNT, FACES, TEXELS = 40, 8, 4000, 20_000, 1024
TASKS = ("mesh", "fox", "length", "markers", "gps")
#: Radius of the Earth along a meridian and an equator, m per degree, for simulated headers.
DEGREE = 111_320.0


def render(mesh: Mesh, camera: Cameras, background: float = 1.0) -> Tensor:
    """Render a mesh with its texture, or the colors of its vertices, four rays per pixel."""
    fine = camera.scale(2.0)
    origins, directions = fine.rays()
    hit = cast_rays(ray_scene(mesh.vertices, mesh.faces), origins, directions)
    there = hit["t_hit"].isfinite()[0]
    face, share = hit["primitive_ids"][0][there], hit["primitive_uvs"][0][there]
    share = torch.cat([1 - share.sum(1, keepdim=True), share], 1)[..., None]
    corners = mesh.faces[face]
    if mesh.texture is None or mesh.uv is None:
        assert mesh.colors is not None
        colors = (share * mesh.colors.float()[corners]).sum(1).T
    else:
        uv = (share * mesh.uv[corners]).sum(1)
        place = torch.stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]], 1)[None, None]
        colors = functional.grid_sample(
            mesh.texture[None], place, "bilinear", "border", align_corners=False
        )[0, :, 0]
    picture = torch.full((3, *fine.size), background)
    picture[:, there] = colors
    return functional.avg_pool2d(picture[None], 2)


def textured(name: str, steps: int, side: int) -> dict[str, float]:
    """Return distance and PSNR of the textured mesh of an object, and PSNR of its Gaussians."""
    mesh = read_mesh(data_folder() / "libigl_meshes" / f"{name}.off")
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    diagonal = float((high - low).norm())
    mesh = mesh.with_vertices((mesh.vertices - (low + high) / 2) / diagonal)
    train, held = (
        photograph(mesh, around(n, turn, side)) for n, turn in ((VIEWS, 0.0), (HELD, 1.0))
    )
    reach = (1.1 * mesh.vertices.abs().amax(0)).tolist()
    model = GaussianModel(
        tuple(-v for v in reach),
        tuple(reach),
        1.0,
        count=COUNT,
        most=COUNT,
        carve=True,
        opacity=0.5,
        degree=1,
        length=steps,
        **FLAT,
    )
    solution = solve_in_stages(
        model,
        Photographs(train, held),
        [Stage(steps)],
        Adam(subset_size=1, epsilon=1e-15),
        progress=False,
    )
    found = mesh_scene(solution.model, solution.x, train.cameras)
    simple = simplify(found, FACES)
    baked = bake(unwrap(simple, TEXELS), train.each())
    truth, look = held.on(1.0), solution.model.look(solution.x, held.cameras).color
    # Pixels at least two pixels inside of the silhouettes.
    inside = (-functional.max_pool2d(-held.alpha, 5, 1, 2) > 0.99).expand_as(truth)
    quality = {}
    for kind, pictures in (
        ("splats", look),
        ("mesh", torch.cat([render(baked, held.cameras[k]) for k in range(HELD)])),
        ("colors", torch.cat([render(found, held.cameras[k]) for k in range(HELD)])),
    ):
        quality[kind] = float(metrics.psnr(pictures, truth, data_range=1.0).mean())
        error = (pictures - truth)[inside].square().mean()
        quality[f"{kind} inside"] = float(-10 * error.log10())
    return {
        "chamfer": 100 * chamfer(simple, mesh),
        "full": 100 * chamfer(found, mesh),
        "faces": len(simple.faces),
        "all faces": len(found.faces),
        **quality,
        "seconds": solution.seconds,
    }


def fox_time(steps: int) -> dict[str, float]:
    """Return processor seconds of the parts of a textured mesh of the fox."""
    file = read_view_scene(data_folder() / "ngp_fox_270x480")
    photographs = file.photographs()
    solution = solve_in_stages(
        file.model(photographs).change({"length": steps}),
        photographs,
        [Stage(steps)],
        file.solver(),
        data_term=file.data_term(),
        progress=False,
    )
    times: dict[str, float] = {"steps": steps}

    def timed(name: str, compute: Any) -> Any:
        start = time.process_time()
        result = compute()
        times[name] = time.process_time() - start
        return result

    train = photographs.train
    mesh = timed("fusion", lambda: mesh_scene(solution.model, solution.x, train.cameras))
    times["faces"] = len(mesh.faces)
    mesh = timed("faces", lambda: simplify(mesh, 50_000))
    originals = originals_of(file, Path("none"), [train], LARGEST_SIDE)
    mesh = timed("charts", lambda: unwrap(mesh, min(2048, texture_side(mesh, originals.cameras))))
    baked = timed("texture", lambda: bake(mesh, originals.each()))
    held = [render(baked, view.cameras, 1.0) for view in photographs.held.each()]
    truth = [view.on(1.0) for view in photographs.held.each()]
    times["mesh"], times["splats"] = (
        float(
            torch.stack([metrics.psnr(a, b, data_range=1.0) for a, b in zip(views, truth)]).mean()
        )
        for views in (
            held,
            [
                solution.model.look(solution.x, view.cameras).color
                for view in photographs.held.each()
            ],
        )
    )
    return times


def fox_cameras() -> PosedPictures:
    """Return the pictures of the fox on disk."""
    return open_views(data_folder() / "ngp_fox_270x480", on_disk=True)


def length_errors(of_board: bool, draws: int = 200, noise: float = 0.5) -> list[float]:
    """Return relative errors of the scale by a length whose ends are clicked in three pictures."""
    generator, errors = torch.Generator().manual_seed(0), []
    views = photographs_of_board(1.0, 0) if of_board else fox_cameras()
    middle = torch.zeros(3) if of_board else focus_point(views.cameras)
    # On the board anywhere, at least a quarter of its width apart; 0.2 to 1 units apart on the fox.
    reach = torch.tensor([425.0, 300.0, 0.0]) if of_board else torch.full((3,), 0.3)
    least = 212.0 if of_board else 0.2
    while len(errors) < draws:
        ends = middle + reach * (2 * torch.rand(2, 3, generator=generator) - 1)
        pixels, depth = views.cameras.project(ends)
        size = torch.tensor(views.cameras.size[::-1])
        inside = ((depth > 0) & (pixels >= 0).all(-1) & (pixels < size).all(-1)).all(1).nonzero()
        distance = float((ends[0] - ends[1]).norm())
        if len(inside) < 3 or distance < least:
            continue
        rows = inside[torch.randperm(len(inside), generator=generator)[:3], 0].tolist()
        words = []
        for end in range(2):
            places = pixels[rows, end] + noise * torch.randn(3, 2, generator=generator)
            sightings = (
                f"{views.cameras.names[row]}:{float(u):.2f},{float(v):.2f}"
                for row, (u, v) in zip(rows, places)
            )
            words.append("+".join(sightings))
        factor, _ = by_length(words[0], words[1], 0.3, views)
        errors.append(abs(factor / (0.3 / distance) - 1))
    return errors


def board() -> Tensor:
    """Return a picture of six markers of 200 texels with margins, ``(rows, columns)``."""
    import cv2

    kind = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)
    picture = np.full((600, 850), 255, np.uint8)
    for k in range(6):
        row, column = 50 + 300 * (k // 3), 50 + 275 * (k % 3)
        picture[row : row + 200, column : column + 200] = cv2.aruco.generateImageMarker(
            kind, 7 + k, 200
        )
    return torch.from_numpy(picture).float() / 255


def photographs_of_board(unit: float, seed: int) -> PosedPictures:
    """Render a board whose texels are `unit` wide, by rays that meet its plane."""
    generator, texture = torch.Generator().manual_seed(seed), board()
    height, width = texture.shape
    angle = torch.rand(12, generator=generator) * 2 * math.pi
    tilt = 0.2 + 0.7 * torch.rand(12, generator=generator)
    away = 1300 + 700 * torch.rand(12, generator=generator)
    places = away[:, None] * torch.stack(
        [tilt.sin() * angle.cos(), tilt.sin() * angle.sin(), -tilt.cos()], 1
    )
    cameras = look_at(unit * places, size=(480, 640), field_of_view=45.0)
    pictures = []
    for k in range(12):
        origins, directions = cameras[k].scale(3.0).rays()
        depth = -origins[..., 2] / directions[..., 2]
        points = (origins + depth[..., None] * directions)[..., :2] / unit
        place = 2 * points / torch.tensor([width, height])
        sampled = functional.grid_sample(
            texture[None, None], place, "bilinear", "zeros", align_corners=False
        )
        beside = (place.abs().amax(-1) > 1)[:, None]
        gray = functional.avg_pool2d(torch.where(beside, 0.4, sampled), 3)
        gray = gray + 0.02 * torch.randn(gray.shape, generator=generator)
        pictures.append(gray.clamp(0, 1).expand(1, 3, *gray.shape[2:]))
    every = torch.cat(pictures)
    cameras = replace(cameras, names=tuple(f"{k}.png" for k in range(12)))
    return PosedPictures(cameras, every, torch.ones_like(every[:, :1]))


def marker_errors(draws: int = 10) -> list[float]:
    """Return relative errors of the scale by printed markers whose sides are 0.05 m."""
    errors = []
    for seed in range(draws):
        unit = 10 ** float(torch.rand(1, generator=torch.Generator().manual_seed(seed)) * 4 - 3)
        factor, _ = by_markers(0.05, "4x4_50", photographs_of_board(unit, seed))
        errors.append(abs(factor * 200 * unit / 0.05 - 1))
    return errors


def gps_errors(outliers: bool, draws: int = 100) -> list[float]:
    """Return errors of the scale by noisy positions, in units of the best estimate's deviation."""
    centres = fox_cameras().cameras.centres.double()
    centres = centres - centres.mean(0)
    spread = float((centres.amax(0) - centres.amin(0)).max())
    metres, generator = 60 / spread * centres, torch.Generator().manual_seed(0)
    bound = 3 / float(metres.square().sum().sqrt())
    errors = []
    for _ in range(draws):
        turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
        turn = turn * torch.linalg.det(turn)
        noisy = metres + 3 * torch.randn(metres.shape, generator=generator, dtype=torch.float64)
        if outliers:
            noisy[::10] += 50 * functional.normalize(
                torch.randn(noisy[::10].shape, generator=generator, dtype=torch.float64), dim=1
            )
        north = 50 + noisy[:, 1] / DEGREE
        east = 8 + noisy[:, 0] / (DEGREE * math.cos(math.radians(50)))
        places = list(zip(north.tolist(), east.tolist(), noisy[:, 2].tolist()))
        fit, _, is_exact = fit_positions(0.7 * centres @ turn.T + 3, places)
        errors.append(
            abs(float(fit.scale) * 0.7 * spread / 60 - 1) / bound if is_exact else math.inf
        )
    return errors


def summary(errors: Sequence[float], bar: float) -> dict[str, float]:
    """Return mean and worst of errors, and the share within a bar."""
    within = sum(error <= bar for error in errors) / len(errors)
    return {"mean": sum(errors) / len(errors), "worst": max(errors), "within": within, "bar": bar}


def in_words(row: dict[str, float], unit: float = 1.0) -> str:
    """Return the summary of errors as text."""
    return (
        f"mean {unit * row['mean']:.2f}, worst {unit * row['worst']:.2f}, {row['within']:.0%} at most "
        f"{unit * row['bar']:g}"
    )


def main(
    tasks: Sequence[str] = TASKS,
    /,
    steps: int = 1500,
    side: int = 128,
    threads: int = 1,
    again: bool = False,
) -> None:
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    kept = Kept(RESULTS / "textured_mesh.json", again)
    for name in NAMES if "mesh" in tasks else ():
        row = kept.result(
            f"{name}, {steps} steps, {side} pixels", lambda n=name: textured(n, steps, side)
        )
        loss = row["splats"] - row["mesh"]
        print(
            f"{name:12} {row['faces']:,} of {row['all faces']:,} faces, {row['chamfer']:.3f} % of the "
            f"diagonal (all faces {row['full']:.3f} %)",
            verdict(row["chamfer"] <= 0.65, "0.65 %"),
            f"splats {row['splats']:.1f} dB, texture {row['mesh']:.1f} dB, colors of vertices "
            f"{row['colors']:.1f} dB",
            verdict(loss <= 3, "3 dB"),
            f"; two pixels inside of the silhouettes {row['splats inside']:.1f}, "
            f"{row['mesh inside']:.1f} and {row['colors inside']:.1f} dB",
            flush=True,
        )
    if "fox" in tasks:
        row = kept.result(f"fox, {steps} steps", lambda: fox_time(steps))
        parts = ("fusion", "faces", "charts", "texture")
        total = sum(row[part] for part in parts)
        print(
            f"fox          {row['steps']} steps; {total:.1f} s of one core:",
            ", ".join(f"{part} {row[part]:.1f} s" for part in parts),
            verdict(total <= 60, "60 s"),
            f"; splats {row['splats']:.1f} dB, texture {row['mesh']:.1f} dB",
            flush=True,
        )
    for of_board in (True, False) if "length" in tasks else ():
        what = "board" if of_board else "fox"
        row = kept.result(f"length, {what}", lambda b=of_board: summary(length_errors(b), 0.01))
        print(
            f"length, {what}, per cent: {in_words(row, 100)}", verdict(row["mean"] <= 0.01, "1 %")
        )
    if "markers" in tasks:
        row = kept.result("markers", lambda: summary(marker_errors(), 0.01))
        print("markers, per cent:", in_words(row, 100), verdict(row["worst"] <= 0.01, "1 %"))
    for outliers in (False, True) if "gps" in tasks else ():
        words = ", a tenth of them 50 m off" if outliers else ""
        row = kept.result(f"gps{words}", lambda o=outliers: summary(gps_errors(o), 2.0))
        print(
            f"gps{words}, standard deviations of the best estimate: {in_words(row)}",
            verdict(row["within"] >= 0.9, "2 in 90 %"),
        )
    if "gps" in tasks:
        views = open_views(data_folder() / "opensfm_berlin", on_disk=True)
        places = [place for file in views.files if (place := read_position(file))]
        fit, note, _ = fit_positions(views.cameras.centres, places)
        print(
            f"berlin       {len(places)} positions, scale {float(fit.scale):.3f}; {note}",
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
