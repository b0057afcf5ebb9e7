"""Scenes from photographs without cameras: placement, quality, exposure, memory.

    python benchmarks/photographs.py cameras [--threads 1]
    python benchmarks/photographs.py fox | start | exposure | lens [--side 200] [--steps 2000]
    python benchmarks/photographs.py memory [--pictures 200] [--steps 50] [--limit 3600]

- ``cameras``: ``invtoolbox reconstruct`` of three photographs of a street and of the fox without
  its file of cameras, with a mesh. Two calls with one seed are compared bit by bit.
- ``fox``: the found poses against the given ones after a similarity, and the PSNR of every eighth
  picture with found and with given poses. Both runs start from the same points.
- ``start``: the same run from the points and from random positions.
- ``exposure``: training pictures with gains from 0.7 to 1.4 per picture, held-out ones at gain 1.
  All pictures are divided by 1.4 first, so that nothing is clipped.
- ``lens``: the fox with its own cameras, straightened or rendered through its lens. Each scene is
  judged on the held-out pictures as they are, and on the straightened ones, which are resampled.
- ``memory``: pictures of 12 megapixels with given cameras, at full size; peak memory of the process.

Trainings have `--steps` steps of one picture on one thread, with the settings of
``invtoolbox reconstruct FOLDER``. Finished parts are kept in ``photographs.json`` in `--work`.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common import Kept, data_folder, machine, run_script, verdict
from fox_poses import errors
from PIL import Image

import invtoolbox as it
from invtoolbox.datasets import PosedPictures, find_cameras, open_found_cameras, read_colmap
from invtoolbox.geometry import Similarity, look_at
from invtoolbox.jobs.photographs import GaussianModel, Stage, solve_in_stages, split_views
from invtoolbox.jobs.photographs.models import box_of_points
from invtoolbox.jobs.photographs.photographs import judge


def copied(name: str, work: Path) -> Path:
    """Return a folder with links to the photographs of a data set, and nothing else."""
    folder = work / name / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((data_folder() / name / "images").glob("*.jpg")):
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file)
    return folder.parent


def command(*words: str) -> dict[str, Any]:
    """Run the command line in a process; return its output, seconds, and peak memory in GB."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-m", "invtoolbox", "reconstruct", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "code": done.returncode,
        "said": (done.stdout + done.stderr).strip()[-600:],
        "seconds": used.ru_utime - began,
        "gigabytes": used.ru_maxrss / 2**20,
    }


def cameras(arguments: argparse.Namespace) -> None:
    for name, side in (("opensfm_berlin", 300), ("ngp_fox_270x480", 200)):
        folder, out = copied(name, arguments.work), arguments.work / f"{name}-run"
        settings = (
            f"views.largest_side={side}",
            f"stage=[{{iterations={arguments.steps}}}]",
            f"prior.gaussians.length={arguments.steps}",
        )
        words = [word for one in settings for word in ("--set", one)]
        given = (str(folder), "-o", str(out), "--mesh", "--overwrite", *words)
        arguments.kept.result(f"{name}: command", lambda given=given: command(*given))
        model = read_colmap(out / "cameras")
        count = len(list((folder / "images").iterdir()))
        print(
            f"{name}: {len(model.names)} of {count} photographs placed, {len(model.points)} points, "
            f"mean reprojection error {float(model.mean_errors().mean()):.2f} pixels",
            verdict(len(model.names) == count, "all"),
        )
    berlin = copied("opensfm_berlin", arguments.work)
    poses = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as again:
            poses.append(read_colmap(find_cameras(berlin, again).parent).world_to_camera)
    same = torch.equal(*poses)
    print(
        f"two calls with one seed: {'the same bits' if same else 'poses differ'}",
        verdict(same, "same"),
    )


def found_fox(arguments: argparse.Namespace) -> PosedPictures:
    record = find_cameras(copied("ngp_fox_270x480", arguments.work), arguments.work / "fox-cameras")
    return open_found_cameras(record, it.datasets.Loading(largest_side=arguments.side))


def given_fox(
    arguments: argparse.Namespace, found: PosedPictures, straighten: bool = True
) -> PosedPictures:
    """Return the fox with its own cameras, and the found points in their frame."""
    given = it.datasets.open_views(
        data_folder() / "ngp_fox_270x480", straighten=straighten, largest_side=arguments.side
    )
    names = [Path(name).name for name in given.cameras.names]
    given = given[[names.index(name) for name in found.cameras.names]]
    move = Similarity.of_cameras(found.cameras, given.cameras)
    assert found.points is not None
    return replace(
        given,
        cameras=replace(given.cameras, names=found.cameras.names),
        points=move.points(found.points),
        colors=found.colors,
    )


def trained(
    pictures: PosedPictures, steps: int, other: PosedPictures | None = None, **settings: Any
) -> dict[str, float]:
    """Train with every eighth picture held out; return the mean PSNR and SSIM of these.

    With other pictures of the same views, also return the scores of those that are held out.
    """
    assert pictures.points is not None
    photographs = split_views(pictures, 8)
    low, high = box_of_points(pictures.points)
    chosen = {"count": 10_000, "most": 50_000, "length": steps, **settings}
    model = GaussianModel(low, high, 1.0, cloud=(pictures.points, pictures.colors), **chosen)
    found = solve_in_stages(
        model,
        photographs,
        [Stage(iterations=steps)],
        it.solvers.Adam(subset_size=1, epsilon=1e-15),
        data_term=it.data_terms.Photometric(0.0),
        progress=False,
        every=1e9,
    )
    result = {}
    for kind, views in (("", photographs), ("other ", other and split_views(other, 8))):
        if views:
            color = model.look(found.x, views.held.cameras).color
            scores = judge(color, views.held, 1.0, ("psnr", "ssim"))
            result |= {kind + name: float(values.mean()) for name, values in scores.items()}
    return {**result, "gaussians": int((found.x.opacities > 1e-6).sum())}


def fox(arguments: argparse.Namespace) -> None:
    found = found_fox(arguments)
    given = given_fox(arguments, found)
    degrees, length = errors(found.cameras, given.cameras)
    centres = given.cameras.centres
    spread = float((centres - centres.mean(0)).norm(dim=1).mean())
    print(
        f"fox: {len(found)} of {len(given)} photographs placed; poses {degrees:.3f} degrees and "
        f"{100 * length / spread:.2f} % of the mean distance of the cameras from their centre off"
    )
    kept, key = arguments.kept, f"{arguments.side} pixels, {arguments.steps} steps"
    own = kept.result(f"fox, found, {key}", lambda: trained(found, arguments.steps))
    theirs = kept.result(f"fox, given, {key}", lambda: trained(given, arguments.steps))
    gap = own["psnr"] - theirs["psnr"]
    print(
        f"fox, every eighth picture: {own['psnr']:.2f} dB with found poses, {theirs['psnr']:.2f} dB "
        f"with given ones, {gap:+.2f} dB",
        verdict(gap > -0.5, "within 0.5 dB"),
    )


def start(arguments: argparse.Namespace) -> None:
    pictures, kept = found_fox(arguments), arguments.kept
    key = f"{arguments.side} pixels, {arguments.steps} steps"
    own = kept.result(f"fox, found, {key}", lambda: trained(pictures, arguments.steps))
    chance = kept.result(
        f"fox, random, {key}", lambda: trained(pictures, arguments.steps, points="random")
    )
    gain = own["ssim"] - chance["ssim"]
    print(
        f"fox, {key}: from points {own['psnr']:.2f} dB and SSIM {own['ssim']:.3f}, from random "
        f"positions {chance['psnr']:.2f} dB and {chance['ssim']:.3f}, {gain:+.3f}",
        verdict(gain >= 0.05, "+0.05"),
    )


def exposure(arguments: argparse.Namespace) -> None:
    pictures, kept = found_fox(arguments), arguments.kept
    pictures = replace(pictures, pictures=pictures.pictures / 1.4)
    held = split_views(pictures, 8).held.cameras.names
    draw = torch.Generator().manual_seed(0)
    gains = torch.exp(
        torch.empty(len(pictures), 3, 1, 1).uniform_(np.log(0.7), np.log(1.4), generator=draw)
    )
    gains[[pictures.cameras.names.index(name) for name in held]] = 1.0
    changed = replace(pictures, pictures=pictures.pictures * gains)
    key = f"{arguments.side} pixels, {arguments.steps} steps"
    runs = {
        "without gains": (pictures, False),
        "with gains, exposure found": (changed, True),
    }
    found = {
        name: kept.result(
            f"fox, {name}, {key}", lambda p=p, e=e: trained(p, arguments.steps, exposure=e)
        )
        for name, (p, e) in runs.items()
    }
    for name, one in found.items():
        print(f"fox, {name}: {one['psnr']:.2f} dB, SSIM {one['ssim']:.3f}")
    gap = found["with gains, exposure found"]["psnr"] - found["without gains"]["psnr"]
    print(
        f"with found exposure less without gains: {gap:+.2f} dB",
        verdict(gap > -0.5, "within 0.5 dB"),
    )


def lens(arguments: argparse.Namespace) -> None:
    found, kept = found_fox(arguments), arguments.kept
    straight, bent = (given_fox(arguments, found, own) for own in (True, False))
    key = f"{arguments.side} pixels, {arguments.steps} steps"
    for name, pictures, other in (
        ("straightened", straight, bent),
        ("through the lens", bent, straight),
    ):
        one = kept.result(
            f"fox, {name}, {key}", lambda p=pictures, o=other: trained(p, arguments.steps, o)
        )
        own, others = (one[kind + "psnr"] for kind in ("", "other "))
        held = (own, others) if other is bent else (others, own)
        print(
            f"fox, {key}, trained {name}: {held[0]:.2f} dB on straightened held-out pictures, "
            f"{held[1]:.2f} dB on the pictures as they are",
            flush=True,
        )


def memory(arguments: argparse.Namespace) -> None:
    folder = arguments.work / "large"
    folder.mkdir(exist_ok=True)
    photograph = sorted((data_folder() / "opensfm_berlin" / "images").glob("*.jpg"))[0]
    with Image.open(photograph) as picture:
        picture.resize((4000, 3000)).save(folder / "000.jpg", quality=90)
    angle = torch.arange(arguments.pictures) * 2 * torch.pi / arguments.pictures
    places = 4 * torch.stack([angle.cos(), -0.3 * torch.ones_like(angle), angle.sin()], 1)
    names = tuple(f"{k:03d}.jpg" for k in range(arguments.pictures))
    for name in names[1:]:
        (folder / name).unlink(missing_ok=True)
        (folder / name).hardlink_to(folder / "000.jpg")
    it.datasets.write_transforms(
        folder / "transforms.json", replace(look_at(places, size=(3000, 4000)), names=names), True
    )
    steps = arguments.steps
    for side in (400, 4000):
        done = arguments.kept.result(
            f"memory, {arguments.pictures} pictures, side {side}, {steps} steps",
            lambda side=side: command(
                str(folder),
                *("-o", str(arguments.work / f"large-{side}"), "--overwrite"),
                *("--set", f"views.largest_side={side}", "--set", "views.hold_out=100"),
                *("--set", f"stage=[{{iterations={steps}}}]", "--set", "evaluation.every=1e6"),
                *(
                    "--set",
                    f"prior.gaussians.length={steps}",
                    "--set",
                    f"solver.time_limit={arguments.limit}",
                ),
            ),
        )
        scene = next((line for line in done["said"].splitlines() if "iterations" in line), "")
        print(
            f"{arguments.pictures} pictures of 12 megapixels, largest side {side}, {steps} steps: "
            f"{done['gigabytes']:.2f} GB, {done['seconds']:.0f} s of processor time, exit code "
            f"{done['code']}, {scene}",
            verdict(done["code"] == 0 and done["gigabytes"] < 3, "3 GB"),
        )


def main(
    part: Literal["cameras", "fox", "start", "exposure", "lens", "memory"],
    /,
    side: int = 200,
    steps: int | None = None,
    pictures: int = 200,
    limit: int = 3600,
    threads: int = 1,
    work: Path = Path("photographs-work"),
) -> None:
    """Run the benchmark.

    Args:
        side: largest side, pixels
        steps: 2000; 50 for memory
        limit: largest seconds of a memory run
    """
    parts = {f.__name__: f for f in (cameras, fox, start, exposure, lens, memory)}
    steps = steps or (50 if part == "memory" else 2000)
    work.mkdir(parents=True, exist_ok=True)
    kept = Kept(work / "photographs.json")
    arguments = argparse.Namespace(**locals())
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    parts[part](arguments)


if __name__ == "__main__":
    run_script(main)
