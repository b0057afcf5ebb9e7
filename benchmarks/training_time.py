"""Gaussians from photographs in a given time: the schedule by budget, and views that fit badly.

    python benchmarks/training_time.py train fox lego cow decimated-knight [--seconds 300]
        [--seeds 0] [--label new] [--work WORK]
    python benchmarks/training_time.py report [--work WORK]

- ``train``: the scene of ``invtoolbox reconstruct FOLDER`` with ``solver.time_limit`` seconds of
  one core. PSNR and SSIM are those of the held-out views, every tenth.
- ``damaged``: 30 pictures of a scene, clean, and with one picture in which something moved, a
  blurred one, and one of a street.
- ``step``: processor time of a step of the fox at 400 pixels, 10,000 Gaussians, with and without
  SSIM.
- ``report``: the tables of all finished runs. Runs with the label ``old`` are of the revision
  before the schedule followed the budget: the same script with that revision in ``PYTHONPATH``.

The clock of the budget is processor time, so that other processes do not change the result. Fox and
lego are captures; the meshes of libigl are rendered as 40 pictures of 200 x 200 pixels from all
sides, textured and shaded. Settings were chosen on the camelhead, bumpy and the living room.
Finished runs are kept in ``training_time.json`` in the work folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import surfaces
import torch
from common import Kept, data_folder, machine, run_script, verdict
from PIL import Image

from invtoolbox.data_terms import Photometric
from invtoolbox.datasets import PosedPictures, open_views, read_mesh, write_transforms
from invtoolbox.jobs.photographs import Stage, solve_in_stages, watch
from invtoolbox.jobs.photographs.photographs import judge
from invtoolbox.jobs.photographs.scene import read_view_scene

CAPTURES = {
    "fox": "ngp_fox_270x480",
    "lego": "nerf_lego_200",
    "livingroom": "livingroom_rgbd",
}
VIEWS, SIDE = 40, 200
#: Numbers of the pictures with a moved part, with blur, and of something else; none is held out.
DAMAGED = (8, 12, 20)


def capture(name: str, work: Path) -> Path:
    """Return the folder of a capture; a mesh is rendered to it first."""
    if name in CAPTURES:
        return data_folder() / CAPTURES[name]
    folder = work / name
    if not (folder / "transforms.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        mesh = read_mesh(data_folder() / "libigl_meshes" / f"{name}.off")
        low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
        mesh = mesh.with_vertices((mesh.vertices - (low + high) / 2) / (high - low).norm())
        surfaces.SIDE = SIDE
        cameras = surfaces.around(VIEWS, 0.0)
        write_capture(folder, surfaces.photograph(mesh, cameras))
    return folder


def write_capture(folder: Path, pictures: PosedPictures) -> None:
    """Write pictures as 00.png and so on, and their cameras as transforms.json."""
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(f"{k:02d}.png" for k in range(len(pictures)))
    for file, color, alpha in zip(names, pictures.pictures, pictures.alpha):
        straight = torch.where(alpha > 0, color / alpha.clamp_min(1e-6), 0.0).clamp(0, 1)
        pixels = (255 * torch.cat([straight, alpha])).round().byte().movedim(0, -1)
        Image.fromarray(pixels.numpy()).save(folder / file)
    cameras = replace(pictures.cameras, names=names)
    write_transforms(folder / "transforms.json", cameras, True)


def damage(name: str, work: Path) -> tuple[Path, Path]:
    """Write 30 pictures of a capture, clean, and with the three pictures of `DAMAGED` changed.

    In the first one a part of another picture, a quarter of the shorter side wide, lies elsewhere;
    the second one is blurred by a motion of 2.5 per cent of its longer side; the third one shows a
    street.
    """
    folders = work / f"{name}-30", work / f"{name}-30-damaged"
    if not (folders[1] / "transforms.json").exists():
        pictures = open_views(capture(name, work), largest_side=400)
        pictures = pictures[torch.arange(30) * len(pictures) // 30]
        write_capture(folders[0], pictures)
        color, alpha = pictures.pictures.clone(), pictures.alpha.clone()
        moved, blurred, strange = DAMAGED
        height, width = color.shape[2:]
        side = min(height, width) // 4
        rows, columns = (slice((n - side) // 2, (n + side) // 2) for n in (height, width))
        there = slice(height // 8, height // 8 + rows.stop - rows.start)
        aside = slice(width // 8, width // 8 + columns.stop - columns.start)
        for planes in (color, alpha):
            planes[moved, :, there, aside] = planes[(moved + 15) % 30, :, rows, columns]
            reach = round(0.0125 * max(height, width))
            shifts = [planes[blurred].roll(k, -1) for k in range(-reach, reach + 1)]
            planes[blurred] = torch.stack(shifts).mean(0)
        street = Image.open(data_folder() / "opensfm_berlin" / "images" / "01.jpg").convert("RGB")
        pixels = torch.from_numpy(np.array(street.resize((width, height))))
        color[strange], alpha[strange] = pixels.movedim(-1, 0) / 255, 1.0
        write_capture(folders[1], replace(pictures, pictures=color, alpha=alpha))
    return folders


def train(folder: Path, seconds: float, seed: int, changes: Sequence[str]) -> dict[str, Any]:
    """Train a scene as the command line does, by processor time; return its scores."""
    watch.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[attr-defined]
    file = read_view_scene(folder, [f"seed={seed}", f"solver.time_limit={seconds}", *changes])
    photographs = file.photographs()
    model, settings = file.model(photographs), {"solver": file.solver(), "progress": False}
    # The first call compiles the kernels.
    solve_in_stages(model, photographs, [Stage(2)], data_term=file.data_term(), **settings)
    found = solve_in_stages(
        model,
        photographs,
        file.stages(),
        explicit=file.explicit(),
        data_term=file.data_term(),
        seconds=seconds,
        seed=seed,
        every=seconds / 6,
        **settings,
    )
    color = model.look(found.x, photographs.held.cameras).color
    scores = judge(color, photographs.held, model.shade(), ("psnr", "ssim"))
    return {
        **{name: float(values.mean()) for name, values in scores.items()},
        "iterations": sum(report.iterations for report in found.reports),
        "seconds": found.seconds,
        "bad": dict(getattr(found, "bad_views", {})),
        "gaussians": int((found.x.opacities > 1e-6).sum()),
        "curve": [(round(s.seconds, 1), round(s.psnr, 2)) for s in found.samples],
    }


def step_time(folder: Path, similarity: float, steps: int = 40) -> float:
    """Return the milliseconds of processor time of a step of the first Gaussians."""
    file = read_view_scene(folder)
    photographs = file.photographs()
    model, term = file.model(photographs), Photometric(similarity)
    marks: list[float] = []
    plain = watch.Watch.__call__

    def mark(self: watch.Watch, progress: Any) -> bool:
        marks.append(time.process_time())
        return plain(self, progress)

    watch.Watch.__call__ = mark  # type: ignore[method-assign]
    settings = {"solver": file.solver(), "data_term": term, "progress": False, "every": 1e9}
    solve_in_stages(model, photographs, [Stage(steps + 5)], **settings)
    watch.Watch.__call__ = plain  # type: ignore[method-assign]
    return 1e3 * (marks[-1] - marks[4]) / (len(marks) - 5)


def quality_at(curve: Sequence[tuple[float, float]], seconds: float) -> float:
    """Return the PSNR of the last measurement of a curve within some seconds, up to 2 per cent."""
    return [psnr for at, psnr in curve if at <= 1.02 * seconds][-1]


def report(known: dict[str, Any]) -> None:
    """Print every finished run, next to the old schedule after the same time."""
    for key, row in known.items():
        if isinstance(row, float):
            print(f"{key}: {row:.1f} ms")
            continue
        label, name, budget, *_ = key.split(", ")
        line = (
            f"{key}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}, {row['iterations']} steps "
            f"({row['iterations'] / row['seconds']:.1f} per second), {row['gaussians']} Gaussians"
        )
        if row.get("bad"):
            line += f"; fit badly: {row['bad']}"
        print(line)
        print("    PSNR of four views over the seconds:", row["curve"])
        old = [known[k] for k in known if k.startswith(f"old, {name}, ") and label != "old"]
        for other in old:
            seconds = float(budget.split(" ")[0])
            if other["curve"][-1][0] < 0.98 * seconds:
                continue
            before, now = quality_at(other["curve"], seconds), row["curve"][-1][1]
            print(
                f"    four views after {seconds:g} s: old {before:.2f} dB, new {now:.2f} dB,",
                verdict(now - before >= 0.5, "+0.5 dB"),
            )


def main(
    part: Literal["train", "damaged", "step", "report"],
    scenes: Sequence[str] = (),
    /,
    seconds: float = 300.0,
    seeds: int = 1,
    label: str = "new",
    changes: Sequence[str] = (),
    work: Path = Path("training-work"),
) -> None:
    """Run the benchmark.

    Args:
        seconds: processor time of each training
        seeds: number of seeds
        changes: keys of the scene to change, key=value
    """
    torch.set_num_threads(1)
    print(machine(), flush=True)
    work.mkdir(parents=True, exist_ok=True)
    kept = Kept(work / "training_time.json")
    if part == "damaged":
        for name in scenes:
            for kind, folder in zip(("clean", "damaged"), damage(name, work)):
                kept.result(
                    f"{label}, {name} {kind}, {seconds:g} s",
                    lambda f=folder: train(f, seconds, 0, changes),
                )
    elif part == "report":
        report(kept.known)
    elif part == "step":
        for similarity in (0.0, 0.2):
            kept.result(
                f"{label}, step with similarity {similarity:g}",
                lambda w=similarity: step_time(capture("fox", work), w),
            )
    elif part == "train":
        for seed in range(seeds):
            for name in scenes:
                kept.result(
                    f"{label}, {name}, {seconds:g} s, seed {seed}",
                    lambda n=name, s=seed: train(capture(n, work), seconds, s, changes),
                )


if __name__ == "__main__":
    run_script(main)
