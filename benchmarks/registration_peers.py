"""Registration against SyN (ANTs), greedy and elastix, in an environment of theirs, on the same files.

    python benchmarks/registration_peers.py --peer-python PATH [--only hearts,fields]

PATH is the Python of an environment with `antspyx`, `picsl-greedy` and `itk-elastix`, by default the
environment variable INVTOOLBOX_PEER_PYTHON. Every pair is written to a folder, registered here and by the
peers in turn (`registration_worker.py`), and all displacements are measured alike. Both sides have one
thread, and seconds are of processor time. Without PATH our rows are printed alone.

hearts      short-axis slice of the heart, frames 13 to 24 of a finite-element simulation, five noise
            seeds (`registration.py`): distance to the true displacement in the myocardium
fields      mni at 3 mm, smooth fields of 1 to 3 voxels, with and without an affine map: error within the
            head, Dice of three tissue classes by thresholds
large       mni at 1 mm, smooth fields of 6 mm, one of them with an affine map: the same measures
heads       mni to ch2 at 3 mm, no truth: mutual information of 32 bins within the head, and the standard
            deviation of log J of the whole motion, at several factors on the weight of our field
slices      r16 to r27, slices of two people: correlation and mutual information, folds
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, machine, run_script
from registration import heart_image, pair
from registration_stages import (
    coarsen,
    draw,
    people,
    report,
    seconds,
    smooth_field,
)
from registration_stages import (
    heads as two_heads,
)
from scipy import ndimage

import invtoolbox as it
from invtoolbox.geometry.transforms import Affine, resample

SEED = 900
#: Python of the peers' environment, empty without one.
_PYTHON = {"path": ""}
_WORKER = Path(__file__).with_name("registration_worker.py")

Answer = tuple[np.ndarray, float]


def peers(
    tools: str, images: Sequence[np.ndarray], size: float, is_affine: bool
) -> dict[str, Answer]:
    """Return displacement along the axes in pixels, and processor seconds, of peers by name."""
    if not _PYTHON["path"]:
        return {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for word, image in zip(("moving", "fixed"), images):
            np.save(folder / f"{word}.npy", np.float32(image))
        state = {"spacing": [size] * images[0].ndim, "is_affine": is_affine}
        (folder / "settings.json").write_text(json.dumps(state))
        ran = subprocess.run(
            [_PYTHON["path"], str(_WORKER), tools, name], capture_output=True, text=True
        )
        if ran.returncode:
            raise SystemExit(f"{tools} failed:\n{ran.stderr[-2000:]}")
        spent = json.loads(ran.stdout.strip().splitlines()[-1])
        return {tool: (np.load(folder / f"{tool}.npy") / size, spent[tool]) for tool in spent}


def ours(images: Sequence[np.ndarray], size: float, **settings: Any) -> Answer:
    motion, spent = seconds(
        lambda: it.register(*[np.float32(image) for image in images], spacing=size, **settings)
    )
    return motion.displacement[0].numpy() / size, spent


def hearts() -> bool:
    folder = data_folder() / "cardiac_ed" / "SimMotion" / "train"
    myocardium = np.load(folder / "001_slice_05_ED.npy").astype(bool)
    frames, rows = np.load(folder / "001_slice_05_disp.npy")[13:25], dict[str, list[Any]]()
    for seed, u in itertools.product(range(2, 7), frames):
        images = [x.numpy() for x in pair(heart_image(myocardium, seed), u, 0.03, seed)]
        answers = {"ours": ours(images, 1.0)}
        answers |= peers("syn,greedy,greedy_squares,elastix", images, 1.0, False)
        for name, (v, spent) in answers.items():
            error = np.hypot(*(v - u))[myocardium].mean()
            rows.setdefault(name, []).append((error, spent))
    print(
        f"  heart, frames 13 to 24, five noise seeds, {len(rows['ours'])} pairs: error in pixels,"
    )
    print("  mean and worst; processor seconds per pair")
    means = {}
    for name, table in rows.items():
        errors, spent = np.array(table).T
        means[name] = errors.mean()
        print(f"    {name:15s} {errors.mean():.3f} {errors.max():.3f}  {spent.mean():6.2f} s")
    if len(means) == 1:
        return True
    best = min(value for name, value in means.items() if name != "ours")
    return report(
        {
            f"mean 0.9 of the best peer's, {means['ours'] / best:.2f} here": means["ours"]
            <= 0.9 * best
        }
    )


def field_cases() -> Any:
    """Yield name, moving and fixed volume, and the true displacement in voxels."""
    mni = coarsen(two_heads()[0], 3.0)
    image = mni.slices() / mni.slices().std()
    p = np.indices(image.shape).astype(float)
    middle = (np.array(image.shape) / 2)[:, None, None, None]
    for is_affine, largest in itertools.product((False, True), (1.0, 2.0, 3.0)):
        rng = np.random.default_rng(SEED + int(largest))
        u, L, shift = smooth_field(image.shape, rng, 6.0, largest), np.eye(3), np.zeros(3)
        if is_affine:
            M = draw(rng, 12.0, 6.0, 1.05)
            L, shift = M[:3, :3], M[:3, 3]
        q = np.tensordot(L, p + u - middle, 1) + middle + shift[:, None, None, None]
        fixed = ndimage.map_coordinates(image, q, order=3, mode="constant")
        noisy = [np.float32(x + 0.02 * rng.standard_normal(x.shape)) for x in (image, fixed)]
        yield f"{largest:g} voxel{'s' * (largest > 1)}{', affine map' * is_affine}", noisy, q - p


def tissue(image: np.ndarray) -> np.ndarray:
    smooth = ndimage.gaussian_filter(image, 0.7)
    return np.digitize(smooth, np.quantile(smooth[smooth > 0.5], (0.0, 1 / 3, 2 / 3)))


def measure(u: np.ndarray, moving: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Return error in voxels and Dice within the head, and the share of folds."""
    p = np.indices(moving.shape)
    labels = tissue(moving)
    goal, got = (ndimage.map_coordinates(labels, p + v, order=0) for v in (truth, u))
    dice = np.mean(
        [
            2 * ((goal == k) & (got == k)).sum() / ((goal == k).sum() + (got == k).sum())
            for k in (1, 2, 3)
        ]
    )
    error = np.linalg.norm(u - truth, axis=0)[goal > 0].mean()
    return (
        float(error),
        float(dice),
        float(it.metrics.folding(torch.from_numpy(u).float()[None])[0]),
    )


def fields() -> bool:
    print("  mni at 3 mm: error in voxels, Dice of three tissue classes, folds, processor seconds")
    rows = dict[str, list[Any]]()
    for name, images, truth in field_cases():
        is_affine = "affine" in name
        answers = {"ours": ours(images, 3.0)}
        linear = ("rigid", "affine") if is_affine else ()
        answers["diffeomorphic"] = ours(images, 3.0, stages=(*linear, "diffeomorphic"))
        answers |= peers("greedy,syn", images, 3.0, is_affine)
        for tool, (u, spent) in answers.items():
            row = (*measure(u, images[0], truth), spent)
            rows.setdefault(tool, []).append(row)
            print(
                f"    {name:22s} {tool:13s} {row[0]:.3f} {row[1]:.3f} {row[2]:.2%} {row[3]:6.1f}",
                flush=True,
            )
    table = {name: np.array(values) for name, values in rows.items()}
    mine, checks = table["ours"], {"no folds": table["ours"][:, 2].max() == 0}
    if "greedy" in table:
        other = table["greedy"]
        checks["every error at most greedy's"] = bool((mine[:, 0] <= other[:, 0]).all())
        checks["every Dice at least greedy's"] = bool((mine[:, 1] >= other[:, 1]).all())
        ratio = mine[:, 3].sum() / other[:, 3].sum()
        checks[f"3 times greedy's seconds, {ratio:.1f} here"] = ratio <= 3
        ratio = mine[:, 3].sum() / table["syn"][:, 3].sum()
        checks["every error at most SyN's"] = bool((mine[:, 0] <= table["syn"][:, 0]).all())
        checks[f"half of SyN's seconds, {ratio:.2f} here"] = ratio <= 0.5
    return report(checks)


def large() -> bool:
    print("  mni at 1 mm: error in voxels, Dice of three tissue classes, folds, processor seconds")
    image = np.float32(two_heads()[0].slices())
    image /= image.std()
    middle, errors = (np.array(image.shape) / 2)[:, None, None, None], dict[str, list[float]]()
    for seed, is_affine in ((SEED + 1, False), (SEED + 2, False), (SEED + 3, True)):
        rng = np.random.default_rng(seed)
        u = np.float32(smooth_field(image.shape, rng, 18.0, 6.0))
        M = draw(rng, 12.0, 18.0, 1.05) if is_affine else np.eye(4)
        p = np.indices(image.shape, dtype=np.float32)
        q = np.tensordot(M[:3, :3], p + u - middle, 1) + middle + M[:3, 3][:, None, None, None]
        fixed = ndimage.map_coordinates(image, q, order=3, mode="constant")
        noisy = [np.float32(x + 0.02 * rng.standard_normal(x.shape)) for x in (image, fixed)]
        answers = {"ours": ours(noisy, 1.0)} | peers("greedy", noisy, 1.0, is_affine)
        for tool, (v, spent) in answers.items():
            row = (*measure(v, image, np.float32(q - p)), spent)
            errors.setdefault(tool, []).append(row[0])
            print(
                f"    seed {seed}{', affine map' * is_affine:12s} {tool:13s} {row[0]:.3f} {row[1]:.3f} "
                f"{row[2]:.2%} {row[3]:6.1f}",
                flush=True,
            )
    if "greedy" not in errors:
        return True
    is_less = bool((np.array(errors["ours"]) <= np.array(errors["greedy"])).all())
    return report({"every error at most greedy's": is_less})


def likeness(u: np.ndarray, images: Sequence[np.ndarray]) -> list[float]:
    """Return mutual information and correlation in the head, least J and the deviation of log J."""
    moving, fixed = images
    head = fixed > 0.1 * fixed.max()
    warped = ndimage.map_coordinates(moving, np.indices(fixed.shape) + u, order=1, mode="nearest")
    counts = np.histogram2d(warped[head], fixed[head], 32)[0]
    share = counts / counts.sum()
    product = np.outer(share.sum(1), share.sum(0))
    there = share > 0
    mutual = (share[there] * np.log(share[there] / product[there])).sum()
    J = it.metrics.jacobian_determinant(torch.from_numpy(np.float32(u))[None])[0].numpy()[head]
    return [
        float(mutual),
        float(np.corrcoef(warped[head], fixed[head])[0, 1]),
        float(J.min()),
        float(np.log(np.maximum(J, 1e-6)).std()),
    ]


def _compare(images: Sequence[np.ndarray], size: float, losses: Sequence[str]) -> bool:
    """Print SyN's and our likeness at factors on our weight, with diffeomorphic fields."""
    rows = []
    answer = peers("syn", images, size, True).get("syn")
    if answer is not None:
        rows.append((*likeness(answer[0], images), answer[1]))
        print("    {:26s} {:.4f} {:.4f} {:.3f} {:.4f} {:6.1f}".format("SyN", *rows[0]), flush=True)
    for loss, factor in itertools.product(losses, (1.0, 0.3, 0.1)):
        stages = ("rigid", "affine", "diffeomorphic")
        u, spent = ours(images, size, stages=stages, loss=loss, smoothness=factor)
        rows.append((*likeness(u, images), spent))
        name = f"{loss}, smoothness {factor:g}"
        print("    {:26s} {:.4f} {:.4f} {:.3f} {:.4f} {:6.1f}".format(name, *rows[-1]), flush=True)
    if answer is None:
        return True
    syn, mine = np.array(rows[0]), np.array(rows[1:])
    as_smooth = mine[(mine[:, 3] <= syn[3]) & (mine[:, 2] > 0.05)]
    best = as_smooth[as_smooth[:, 0].argmax()] if len(as_smooth) else np.full(5, np.nan)
    return report(
        {
            "mutual information at least SyN's, as smooth, J above 0.05": best[0] >= syn[0],
            f"half of SyN's seconds, {best[4] / syn[4]:.2f} here": best[4] <= 0.5 * syn[4],
        }
    )


def heads() -> bool:
    mni, ch2 = (coarsen(volume, 3.0) for volume in two_heads())
    image = torch.from_numpy(np.array(mni.slices()))[None, None]
    placed = resample(image, Affine(np.eye(4)), ch2.grid, mni.grid, ch2.shape)[0, 0].numpy()
    print("  mni to ch2 at 3 mm: mutual information, correlation, least J, deviation of log J, s")
    return _compare((placed, np.array(ch2.slices())), 3.0, ("ncc", "lncc"))


def slices() -> bool:
    print("  r16 to r27: mutual information, correlation, least J, deviation of log J, seconds")
    return _compare(
        [np.float32(image) for image in people()], 1.0, ("ncc", "lncc", "least-squares")
    )


SECTIONS = {f.__name__: f for f in (hearts, fields, large, heads, slices)}


def main(only: str = "", peer_python: str = "") -> None:
    """Run sections of the benchmark.

    Args:
        only: names of sections, with commas; all if empty.
        peer_python: Python of the environment of the peers.
    """
    torch.set_num_threads(1)
    _PYTHON["path"] = peer_python or os.environ.get("INVTOOLBOX_PEER_PYTHON", "")
    print(f"Registration and its peers; {machine()}; seed {SEED}", flush=True)
    for name in only.split(",") if only else list(SECTIONS):
        SECTIONS[name]()


if __name__ == "__main__":
    run_script(main)
