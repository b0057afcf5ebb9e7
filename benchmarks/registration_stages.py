"""Registration of images that do not start on one grid: linear stages, and the field that follows.

The images are two averages of heads, INVTOOLBOX_DATA/brains_two_grids: mni.nii.gz (axes L A S) and
ch2.nii.gz (R A S), and two slices of two people. Motions are drawn, so the truth is known:

world       mni moved by 20 degrees, 30 mm and a factor of 1.2, through its header and resampled, against
            ch2: distance of the affine map from M times the map of the unmoved pair, at the head's surface
orders      the 48 orders and directions of the axes in which arrays of both heads may be stored
rotations   mni at 4 mm, turned about 50 random axes by 0 to 180 degrees
slices      pairs of slices, shifted, scaled, turned and deformed, with nothing chosen
inverse     the same pairs by rigid, affine and diffeomorphic stages, and by bending in place of the last:
            the inverse composed with the field, and the motion of exchanged images
exchanged   pairs of slices after their linear motion, the field alone: the motion of exchanged images
contrast    slices against an inverted and remapped copy, by mutual information and by descriptors
full        mni to ch2 at 1 mm, 182 x 218 x 182, in one process of its own

The sections that are named run, all by default. ``--tune`` prints errors over the weight of the field on
textures and blobs, on which the size and the misfit in the usual weight were chosen.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from scipy import ndimage

import invtoolbox as it
from invtoolbox.datasets.volumes.volume import VolumeInMemory
from invtoolbox.geometry.grids import Grid
from invtoolbox.geometry.rigid import rotation
from invtoolbox.geometry.transforms import Affine, resample
from invtoolbox.operators.image_warp import warp_images

SEED = 900
_PAIRS = 20


def heads() -> tuple[VolumeInMemory, VolumeInMemory]:
    """Return mni and ch2 in memory."""
    folder = data_folder() / "brains_two_grids"
    volumes = [it.datasets.open(folder / f"{name}.nii.gz") for name in ("mni", "ch2")]
    mni, ch2 = (VolumeInMemory(v.slices().astype(np.float32), v.grid) for v in volumes)
    return mni, ch2


def tensor(volume: VolumeInMemory) -> torch.Tensor:
    return torch.from_numpy(np.array(volume.slices()))[None, None]


def coarsen(volume: VolumeInMemory, size: float) -> VolumeInMemory:
    """Return a volume with voxels of a size, after a convolution with a Gaussian."""
    widths = [0.4 * size / h for h in volume.grid.voxel_size]
    smooth = ndimage.gaussian_filter(volume.slices(), widths)
    shape = [round(n * h / size) for n, h in zip(smooth.shape, volume.grid.voxel_size)]
    grid = Grid((size, size, size), volume.grid.origin, volume.grid.directions)
    identity = Affine(np.eye(4))
    image = torch.from_numpy(smooth)[None, None]
    return VolumeInMemory(resample(image, identity, grid, volume.grid, shape)[0, 0].numpy(), grid)


def draw(rng: np.random.Generator, degrees: float, shift: float, factor: float) -> np.ndarray:
    """Return a motion about a random axis and along a random direction, ``(4, 4)``."""
    axis, direction = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    M = np.eye(4)
    M[:3, :3] = factor * rotation(torch.from_numpy(np.radians(degrees) * axis)).numpy()
    M[:3, 3] = shift * direction
    return M


def move(volume: VolumeInMemory, M: np.ndarray, is_resampled: bool) -> VolumeInMemory:
    """Return a volume moved by M through its header, or resampled on a box around it."""
    moved = VolumeInMemory(volume.slices(), Grid.from_affine(M @ volume.grid.affine()))
    if not is_resampled:
        return moved
    ends = itertools.product(*[(0, n - 1) for n in volume.shape])
    corners = np.array([moved.grid.affine() @ [*end, 1] for end in ends])[:, :3]
    low, size = corners.min(0), volume.grid.voxel_size[0]
    shape = np.ceil((corners.max(0) - low) / size).astype(int)[::-1] + 1
    grid = Grid((size, size, size), tuple(low))
    back = Affine(np.linalg.inv(M))
    values = resample(tensor(volume), back, grid, volume.grid, shape.tolist())
    return VolumeInMemory(values[0, 0].numpy(), grid)


def surface(volume: VolumeInMemory) -> np.ndarray:
    """Return positions on the head's surface, ``(N, 4)``."""
    head = ndimage.binary_fill_holes(volume.slices() > 0.2 * volume.slices().max())
    edge = np.argwhere(head & ~ndimage.binary_erosion(head))[::7]
    return np.c_[edge, np.ones(len(edge))] @ volume.grid.affine().T


def seconds(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    return call(), time.process_time() - began


def linear(motion: it.Registration) -> np.ndarray:
    return motion.linear[0].matrix.numpy()


def world() -> bool:
    mni, ch2 = heads()
    points, stages = surface(ch2), ("rigid", "affine")
    unmoved = linear(it.register(mni, ch2, stages=stages))
    rng, rows = np.random.default_rng(SEED), []
    for _ in range(10):
        M = draw(rng, 20.0, 30.0, 1.2)
        for is_resampled in (False, True):
            moving = move(mni, M, is_resampled)
            motion, spent = seconds(lambda moving=moving: it.register(moving, ch2, stages=stages))
            away = (points @ (linear(motion) - M @ unmoved).T)[:, :3]
            likeness = np.corrcoef(motion.warped.flatten(), tensor(ch2).flatten())[0, 1]
            rows.append((np.linalg.norm(away, axis=1).max(), likeness, spent))
    table = np.array(rows).reshape(10, 2, 3)
    print(
        "  mni moved by a known M, to ch2; 10 draws: largest error at the surface in mm, correlation,"
    )
    print("  seconds of processor time; mean and worst")
    for k, name in enumerate(("through the header", "resampled")):
        best = table[:, k].mean(0), table[:, k].max(0)
        print(
            f"    {name:20s} error {best[0][0]:.3f} {best[1][0]:.3f}, correlation "
            f"{best[0][1]:.3f} {table[:, k, 1].min():.3f}, {best[0][2]:.1f} {best[1][2]:.1f} s"
        )
    return report(
        {
            "every error at most 0.2 mm": table[..., 0].max() <= 0.2,
            "correlation at least 0.95": table[..., 1].min() >= 0.95,
            "at most 19 s": table[..., 2].max() <= 19,
        }
    )


def reorder(
    volume: VolumeInMemory, axes: tuple[int, ...], signs: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the array of a volume in another order and direction of the axes, and its matrix."""
    change = np.eye(4)[[*axes, 3]].T
    for k, sign in enumerate(signs):
        if sign < 0:
            change[:, 3] += change[:, k] * (volume.shape[axes[k]] - 1)
            change[:, k] *= -1
    values = volume.slices().transpose(axes)[tuple(slice(None, None, s) for s in signs)]
    return values.copy(), volume.grid.affine() @ change


def orders() -> bool:
    mni, ch2 = (coarsen(volume, 4.0) for volume in heads())
    points, found = surface(ch2), []
    words = list(
        itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    )
    for word, other in zip(words, reversed(words)):  # both images, in different orders
        (moving, A), (fixed, B) = reorder(mni, *word), reorder(ch2, *other)
        motion = it.register(moving, fixed, affine=(A, B), stages=("rigid", "affine"))
        found.append(linear(motion))
    worst = max(np.linalg.norm((points @ (M - found[0]).T)[:, :3], axis=1).max() for M in found)
    print(
        f"  {len(found)} orders of the axes at 4 mm: largest difference of the affine maps {worst:.2g} mm"
    )
    return report({"at most 1e-3 mm": worst <= 1e-3})


def rotations() -> bool:
    mni = coarsen(heads()[0], 4.0)
    rng, rows = np.random.default_rng(SEED), []
    middle = surface(mni).mean(0)
    for k in range(50):
        M = draw(rng, 180.0 * k / 49, 20.0, 1.0)
        moving = move(mni, M, True)
        motion, spent = seconds(lambda moving=moving: it.register(moving, mni, stages=("rigid",)))
        turn = linear(motion)[:3, :3].T @ M[:3, :3]
        angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
        rows.append((angle, np.linalg.norm(((linear(motion) - M) @ middle)[:3]), spent))
    table = np.array(rows)
    good = int(((table[:, 0] <= 2) & (table[:, 1] <= 3)).sum())
    print(
        f"  mni at 4 mm, 0 to 180 degrees about 50 axes: {good} within 2 degrees and 3 mm; median "
        f"{np.median(table[:, 0]):.3f} degrees, {np.median(table[:, 1]):.3f} mm; worst "
        f"{table[:, 0].max():.2f} degrees; {table[:, 2].mean():.1f} s, worst {table[:, 2].max():.1f} s"
    )
    return report({"48 of 50": good >= 48, "at most 60 s": table[:, 2].max() <= 60})


def smooth_field(
    shape: tuple[int, ...], rng: np.random.Generator, std: float, largest: float
) -> np.ndarray:
    """Return a field of Gaussian correlation, ``(d, *space)``, with a largest length in pixels."""
    u = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), std) for _ in shape])
    return u * largest / np.sqrt((u**2).sum(0)).max()


def people() -> list[np.ndarray]:
    """Return slices of two people."""
    folder = data_folder() / "brains_two_grids"
    return [
        it.datasets.open_measurements(folder / f"{name}slice.jpg")[0].y[0, :1].mean(0).numpy()
        for name in ("r16", "r27")
    ]


def slice_cases() -> Iterator[tuple[list[np.ndarray], np.ndarray, np.ndarray]]:
    """Yield moving and fixed slice, true displacement, and the pixels that count."""
    images, cases = people(), np.random.default_rng(SEED)
    for k in range(_PAIRS):
        image = images[k % 2] / images[k % 2].std()
        u = smooth_field(image.shape, cases, 24.0, 4.0)
        turn, factor = np.radians(cases.uniform(-45, 45)), cases.uniform(0.85, 1.15)
        L = factor * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shift, middle = cases.uniform(-25, 25, 2), np.array(image.shape) / 2
        p = np.indices(image.shape).astype(float)
        q = np.tensordot(L, p + u - middle[:, None, None], 1) + (middle + shift)[:, None, None]
        fixed = ndimage.map_coordinates(image, q, order=3, mode="constant")
        noisy = [x + 0.05 * cases.standard_normal(x.shape) for x in (image, fixed)]
        yield [np.float32(x) for x in noisy], q - p, fixed > 0.3


def slices() -> bool:
    images, rows = people(), []
    for noisy, truth, inside in slice_cases():
        motion, spent = seconds(lambda noisy=noisy: it.register(*noisy))
        away = np.linalg.norm(motion.displacement[0].numpy() - truth, axis=0)[inside].mean()
        says = motion.status[0] != "converged" or bool(
            [n for n in motion.notes if "a linear motion" not in n]
        )
        folds = float(it.metrics.folding(motion.displacement)[0])
        rows.append((away, says, folds, spent))
    table = np.array(rows, dtype=float)
    good = table[:, 0] <= 2
    print(
        f"  {_PAIRS} pairs of slices: {int(good.sum())} within 2 pixels, median "
        f"{np.median(table[:, 0]):.2f}, worst {table[:, 0].max():.2f}; of the others "
        f"{int(table[~good, 1].sum())} say so; folds at most {table[:, 2].max():.2%}; "
        f"{table[:, 3].mean():.1f} s"
    )
    folder_images = [torch.from_numpy(image)[None, None] for image in images]
    motion = it.register(*folder_images)
    between = float(it.metrics.folding(motion.displacement)[0])
    likeness = np.corrcoef(motion.warped.flatten(), images[1].ravel())[0, 1]
    print(f"  r16 to r27: folds at {between:.2%}, correlation {likeness:.3f}, {motion.status[0]}")
    return report(
        {
            "18 of 20 within 2 pixels": good.sum() >= 18,
            "the others say so": bool(table[~good, 1].all()),
            "folds at most 0.1 %": max(table[:, 2].max(), between) <= 1e-3,
        }
    )


def inverse() -> bool:
    stages = ("rigid", "affine", "diffeomorphic")
    bending, flows, ends = [], [], []
    for pair, truth, inside in [*slice_cases(), (people(), None, None)]:
        mask = pair[1] > 0.2 * pair[1].max() if inside is None else inside
        for names, rows in ((("rigid", "affine", "bending"), bending), (stages, flows)):
            motion, spent = seconds(lambda pair=pair, names=names: it.register(*pair, stages=names))
            u = motion.displacement[0].numpy()
            away = np.nan if truth is None else np.linalg.norm(u - truth, axis=0)[mask].mean()
            folds = float(it.metrics.folding(motion.displacement)[0])
            rows.append((away, folds, float(motion.jacobian[0].numpy()[mask].min()), spent))
        back = it.register(*pair[::-1], stages=stages)
        gap = np.linalg.norm(u - back.inverse[0].numpy(), axis=0)[mask]
        round_trip = motion.displacement + warp_images(
            motion.inverse, motion.displacement, (1.0, 1.0)
        )
        left = round_trip[0].norm(dim=0).numpy()[mask]
        likeness = np.corrcoef(motion.warped.flatten(), pair[1].ravel())[0, 1]
        ends.append((left.mean(), left.max(), gap.mean(), gap.max(), likeness))
    tables, last = [np.array(rows) for rows in (bending, flows)], np.array(ends)
    for name, table in zip(("bending", "diffeomorphic"), tables):
        drawn, two = table[:-1], table[-1]
        print(
            f"  {_PAIRS} pairs of slices, rigid, affine, {name}: error mean {drawn[:, 0].mean():.3f}, worst "
            f"{drawn[:, 0].max():.3f}; folds at most {drawn[:, 1].max():.2%}, least Jacobian "
            f"{drawn[:, 2].min():.2f}; {drawn[:, 3].mean():.1f} s\n  r16 to r27, {name}: folds at "
            f"{two[1]:.2%}, least Jacobian {two[2]:.2f}; {two[3]:.1f} s"
        )
    for name, table in (("pairs of slices", last[:-1]), ("r16 to r27", last[-1:])):
        print(
            f"  {name}, diffeomorphic: inverse after the field, mean {table[:, 0].mean():.4f}, largest "
            f"{table[:, 1].max():.4f} pixels; exchanged images, mean {table[:, 2].mean():.4f}, largest "
            f"{table[:, 3].max():.4f} pixels; correlation at least {table[:, 4].min():.3f}"
        )
    return report(
        {
            "the inverse after the field, everywhere: 0.05 pixels": last[:, 1].max() <= 0.05,
            "exchanged images, mean of every pair: 0.1 pixels": last[:, 2].max() <= 0.1,
            "no folds": tables[1][:, 1].max() == 0,
            "mean error at most 1.1 times that of bending": np.nanmean(tables[1][:, 0])
            <= 1.1 * np.nanmean(tables[0][:, 0]),
        }
    )


def exchanged() -> bool:
    images, rows = people(), []
    images = [np.float32(image / image.std()) for image in images]
    cases = [tuple(images), *[pair for pair, _, _ in itertools.islice(slice_cases(), 4)]]
    for moving, fixed in cases:
        near = it.register(moving, fixed, stages=("rigid", "affine")).warped[0, 0].numpy()
        there, back = (
            it.register(*pair, stages=("diffeomorphic",)) for pair in ((near, fixed), (fixed, near))
        )
        mask = fixed > 0.2 * fixed.max()
        gap = (there.displacement - back.inverse)[0].norm(dim=0).numpy()[mask]
        rows.append((gap.mean(), gap.max(), float(there.displacement[0].norm(dim=0).max())))
    table = np.array(rows)
    print(
        f"  r16 placed on r27, and 4 pairs of slices, the field alone: exchanged images, mean "
        f"{table[:, 0].max():.4f}, largest {table[:, 1].max():.4f} pixels, of motions up to "
        f"{table[:, 2].max():.1f} pixels"
    )
    return report({"exchanged images, everywhere: 0.1 pixels": table[:, 1].max() <= 0.1})


def contrast_errors(seed: int) -> list[float]:
    """Return errors in the head of least squares, and of two losses on one contrast and on another."""
    image = people()[seed % 2]
    image = (image / np.quantile(image, 0.999)).reshape(128, 2, 128, 2).mean((1, 3))
    rng = np.random.default_rng(seed)
    u, p = smooth_field(image.shape, rng, 10.0, 3.0), np.indices(image.shape)
    fixed = ndimage.map_coordinates(image, p + u, order=3, mode="nearest")
    sides = image, fixed, (1 - fixed.clip(0, 1)) ** 1.5
    noisy = [np.float32(x / x.std() + 0.1 * rng.standard_normal(x.shape)) for x in sides]
    errors = []
    for loss, side in ((None, 1), ("mi", 1), ("mi", 2), ("mind", 1), ("mind", 2)):
        motion = it.register(noisy[0], noisy[side], loss=loss)
        away = np.linalg.norm(motion.displacement[0].numpy() - u, axis=0)
        errors.append(float(away[fixed > 0.1].mean()))
    return [*errors, float(np.linalg.norm(u, axis=0)[fixed > 0.1].mean())]


def contrast() -> bool:
    rows = []
    print(
        "  slices of 128 x 128 against an inverted, remapped copy, 10 % noise: error in pixels of least\n"
        "  squares on one contrast, mutual information on one and on two, descriptors likewise, no motion"
    )
    for seed in range(SEED + 100, SEED + 110):
        rows.append(contrast_errors(seed))
        print("    " + " ".join(f"{value:.3f}" for value in rows[-1]), flush=True)
    table = np.array(rows)
    print("    mean " + " ".join(f"{value:.3f}" for value in table.mean(0)))
    checks = {}
    for name, one, two in (("mutual information", 1, 2), ("descriptors", 3, 4)):
        for word, column in (("the same loss", one), ("least squares", 0)):
            worst = (table[:, two] / table[:, column]).max()
            checks[f"{name}: 1.5 times {word} on one contrast, {worst:.2f} here"] = worst <= 1.5
    return report(checks)


def full() -> bool:
    mni, ch2 = heads()
    began = time.perf_counter()
    motion, spent = seconds(lambda: it.register(mni, ch2))
    wall, memory = (
        time.perf_counter() - began,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )
    likeness = np.corrcoef(motion.warped.flatten(), tensor(ch2).flatten())[0, 1]
    print(
        f"  mni to ch2 at 1 mm, affine and field, {torch.get_num_threads()} threads: {wall:.0f} s, "
        f"{spent:.0f} s of processor time, {memory:.1f} GiB at most, correlation {likeness:.3f}, folds "
        f"{float(it.metrics.folding(motion.displacement)[0]):.2%}, {motion.status[0]}"
    )
    return report({"90 s": wall <= 90, "4 GiB": memory <= 4})


def report(checks: dict[str, Any]) -> bool:
    for bar, holds in checks.items():
        print("    " + verdict(bool(holds), bar), flush=True)
    return all(checks.values())


def texture(shape: tuple[int, ...], rng: np.random.Generator, std: float) -> np.ndarray:
    image = ndimage.gaussian_filter(rng.standard_normal(shape), std, mode="wrap")
    return image / image.std()


def tune() -> None:
    """Print errors over weights relative to the usual one, of several sizes, motions and noise."""
    factors = 10.0 ** np.arange(-1.5, 1.6, 0.5)
    cases = itertools.product(
        ((2, 64), (2, 128), (2, 192), (3, 32), (3, 48)), (8, 14), (0.0, 0.05, 0.2)
    )
    for (dimensions, n), rough, noise in cases:
        shape, errors = (n,) * dimensions, []
        for kind in ("texture", "blobs"):
            rng = np.random.default_rng(5000)
            u = np.stack([texture(shape, rng, n / rough) for _ in shape])
            u *= n / (4 * rough) / np.sqrt((u**2).sum(0)).max()
            image, p = texture(shape, rng, n / 24), np.indices(shape).astype(float)
            inside = np.zeros(shape, bool)
            inside[(slice(max(3, n // 12), -max(3, n // 12)),) * dimensions] = True
            if kind == "texture":
                image = 0.7 * image + 0.3 * texture(shape, rng, 1.2)
            else:
                body = np.linalg.norm(p - n / 2, axis=0) < 0.4 * n
                steps = 0.4 + 0.3 * np.digitize(image, [-0.5, 0.5])
                image, inside = (
                    ndimage.gaussian_filter(np.where(body, steps, 0.0), 0.7),
                    inside & body,
                )
            image /= image.std()
            pair = [
                np.float32(x + noise * rng.standard_normal(shape))
                for x in (image, ndimage.map_coordinates(image, p + u, order=3, mode="nearest"))
            ]
            row = []
            for factor in factors:
                x = it.register(*pair, smoothness=factor, stages=("bending",)).solutions[0].x[0]
                row.append(np.linalg.norm(x.numpy() - u, axis=0)[inside].mean())
            errors.append(row)
        mean = np.exp(np.log(errors).mean(0))
        print(
            dimensions,
            n,
            rough,
            noise,
            np.round(mean / mean.min(), 2),
            f"{mean.min():.3f}",
            flush=True,
        )


SECTIONS = {
    f.__name__: f for f in (world, orders, rotations, slices, inverse, exchanged, contrast, full)
}


def main(only: str = "", tune_: bool = False) -> None:
    """Run sections of the benchmark.

    Args:
        only: names of sections, with commas; all if empty.
        tune_: print errors over the weight of the field instead.
    """
    if tune_:
        tune()
        return
    names = only.split(",") if only else list(SECTIONS)
    print(f"Stages of registration; {machine()}; seed {SEED}", flush=True)
    for name in names:
        SECTIONS[name]()


if __name__ == "__main__":
    run_script(main)
