"""The NeRF scene 'lego' from 8 pictures as voxels: gain or loss of each prior on held-out views.

    python benchmarks/lego_8_views.py [--rows NAME ...] [--minutes 9] [--shrink 1]
                                      [--stages 48:300 80:500] [--threads 2] [--seeds 0 1 2]
    python benchmarks/lego_8_views.py --search [--rows NAME ...]

Trained on r_1, r_13, ..., r_85 at 200 x 200 pixels on white; held out are r_0, r_10, ..., r_90.
Rows with depths use the depths of the scene that lego_voxels.py reconstructs from 90 pictures, the
held-out ones among them: an oracle, which no camera could provide. Silhouettes are the alpha of the 8 pictures themselves. Every
row is one training of the same length. Results are kept in build/lego_8_views.json, so that a later
call continues with the missing rows. Weights are relative to the mean squared error of the
pictures. A seed draws the rays of every step; with several seeds the gain of each row over the row
without a prior is given for each of them, both with the same seed.

``--search`` shows the choice of the weights: each row also with a third and with three times of its
weights, in a shorter training on pictures of 100 x 100 pixels. They are judged on r_5, r_15, r_35,
..., which belong neither to the training views nor to the held-out ones.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
from common import data_folder, machine, run_script, verdict
from lego_voxels import HIGH, LOW, RENDERER, held_out_psnr, kept, renderer
from torch import Tensor
from torch.nn.functional import avg_pool2d

import invtoolbox as it
from invtoolbox.data_terms import DepthRanking, LeastSquares, PearsonDepth, ScaleShiftInvariant
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.datasets import PosedPictures, open_blender
from invtoolbox.geometry import Cameras, look_at
from invtoolbox.geometry.voxels import VoxelSpace
from invtoolbox.operators import VoxelRenderer
from invtoolbox.priors import (
    DepthSmoothness,
    Misfit,
    OcclusionPenalty,
    PriorSum,
    ThroughOperator,
    VoxelGrid,
    VoxelSparsity,
    VoxelVariation,
)

BUILD = Path(__file__).resolve().parents[1] / "build"
#: The reference row, the side of patches in pixels, and the number of rays or pixels per step of a
#: prior.
NONE, PATCH, RAYS = "none", 8, 2048
#: The row with colors that depend on the direction, and without a prior.
DIRECTED = "none, colors by direction"


def views(shrink: int) -> dict[str, PosedPictures]:
    """Return the views for training, the held-out views, and the views for choosing weights."""
    whole = open_blender(data_folder() / "nerf_lego_200" / "transforms_train.json")
    pictures = PosedPictures(
        whole.cameras.scale(1 / shrink),
        *(avg_pool2d(t, shrink) for t in (whole.pictures, whole.alpha)),
    )
    number = torch.tensor(
        [int(Path(name).stem.removeprefix("r_")) for name in pictures.cameras.names]
    )
    train = (number % 12 == 1) & (number < 90)
    return {
        "train": pictures[train],
        "held": pictures[number % 10 == 0],
        "chosen on": pictures[(number % 10 == 5) & ~train],
    }


def unseen(count: int = 60) -> Cameras:
    """Draw poses once on the upper half of the sphere of the cameras."""
    g = torch.Generator().manual_seed(5)
    height, turn = torch.rand(count, generator=g), 2 * math.pi * torch.rand(count, generator=g)
    across = (1 - height**2).clamp_min(0.01).sqrt()
    where = 4.03 * torch.stack([across * turn.cos(), across * turn.sin(), height], dim=1)
    return look_at(where, up=(0.0, 0.0, 1.0), size=(100, 100), field_of_view=39.6)


def seen_by(cameras: Cameras, outputs: tuple[str, ...], block: str | int = "ray") -> VoxelRenderer:
    return VoxelRenderer(cameras, outputs=outputs, background=1.0, block=block, **RENDERER)  # type: ignore[arg-type]


class Parts:
    """Explicit priors of the rows, with weights relative to the mean squared error of a value."""

    def __init__(self, train: PosedPictures, unit: float) -> None:
        self.train, self.unit = train, unit

    def variation(self, density: float, color: float) -> PriorSum:
        return self.unit * density * VoxelVariation("density") + self.unit * color * VoxelVariation(
            "color"
        )

    def sparsity(self, weight: float) -> PriorSum:
        return self.unit * weight * VoxelSparsity()

    def occlusion(self, weight: float, distance: float = 2.7) -> PriorSum:
        # The box begins 2.4 to 3 in front of the cameras, whose distance from its middle is 4.
        return (
            self.unit * weight * OcclusionPenalty(renderer(self.train), distance, subset_size=RAYS)
        )

    def smooth(self, weight: float, edges: float | None = None) -> PriorSum:
        A = seen_by(unseen(), ("depth",) if edges is None else ("color", "depth"), PATCH)
        return (
            self.unit
            * weight
            * ThroughOperator(DepthSmoothness(edges=edges), A, subset_size=RAYS // PATCH**2)
        )

    def silhouettes(self, weight: float) -> PriorSum:
        """Penalize the mean square of the error of alpha; on white, white fog changes no color."""
        A = seen_by(self.train.cameras, ("alpha",))
        y = A.measurements(self.train.alpha[None])
        return (
            self.unit
            * (2 * weight / y.numel())
            * ThroughOperator(Misfit(y, LeastSquares()), A, subset_size=RAYS)
        )

    def depth(self, weight: float, term: DataTerm, block: str | int = PATCH) -> PriorSum:
        """Compare with the oracle's depths of the 8 views, by patches or as whole pictures.

        Whole pictures have 50 x 50 pixels.
        """
        cameras = (
            self.train.cameras
            if block != "picture"
            else self.train.cameras.scale(50 / self.train.cameras.size[0])
        )
        y = self._truth(cameras, block)
        subset = 1 if block == "picture" else RAYS // PATCH**2
        return (
            self.unit
            * (weight / y.shape[2])
            * ThroughOperator(
                Misfit(y, term), seen_by(cameras, ("depth",), block), subset_size=subset
            )
        )

    def depth_squares(self, weight: float) -> PriorSum:
        """Penalize the mean squared error of the oracle's depths, over the rays with a depth."""
        y = self._truth(self.train.cameras, "ray")
        prior = Misfit(y, LeastSquares(weights=(y > 0).float()))
        return (
            self.unit
            * (2 * weight / float((y > 0).sum()))
            * ThroughOperator(prior, seen_by(self.train.cameras, ("depth",)), subset_size=RAYS)
        )

    def free_space(self, weight: float, margin: float = 0.1) -> PriorSum:
        """Penalize the mean optical thickness in front of the oracle's surface.

        On rays without a surface the whole ray counts.
        """
        origins, directions = (t.reshape(-1, 3) for t in self.train.cameras.rays())
        length = directions.norm(dim=1)
        z = (
            self._truth(self.train.cameras, "ray", nothing=7.0)[0, 0] * length
        )  # half transparent rays have depth 0, and end in front of the box
        # Rays start behind the cameras such that they end at the surface and all have one length.
        unit, whole = directions / length[:, None], 8.0
        A = VoxelRenderer(
            (origins + (z - margin - whole)[:, None] * unit, unit),
            least_alpha=RENDERER["least_alpha"],
        )
        return self.unit * weight * OcclusionPenalty(A, whole, subset_size=RAYS)

    def _truth(self, cameras: Cameras, block: str | int, nothing: float = 0.0) -> Tensor:
        """Return the oracle's depths: 0 on half transparent rays, ``nothing`` on empty rays."""
        with torch.no_grad():
            truth = seen_by(cameras, ("depth", "alpha"), block)(kept())
        depth, alpha = truth[:, :1], truth[:, 1:]
        return torch.where(alpha > 0.9, depth, torch.where(alpha < 0.02, nothing, 0.0))


#: Rows: priors, degree of the harmonics, and whether the grid goes from coarse to fine.
ROWS: dict[str, tuple[Callable[[Parts], PriorSum | None], int, bool]] = {
    NONE: (lambda p: None, 0, True),
    "TV of both": (lambda p: p.variation(1e-3, 1e-3), 0, True),
    "silhouettes": (lambda p: p.silhouettes(1.0), 0, True),
    "oracle depth, squares": (lambda p: p.depth_squares(1e-1), 0, True),
    "pair: silhouettes, depth squares": (
        lambda p: p.silhouettes(1.0) + p.depth_squares(1e-1),
        0,
        True,
    ),
    "pair: silhouettes, TV of both": (
        lambda p: p.silhouettes(1.0) + p.variation(1e-3, 1e-3),
        0,
        True,
    ),
    "pair: TV of both, depth squares": (
        lambda p: p.variation(1e-3, 1e-3) + p.depth_squares(1e-1),
        0,
        True,
    ),
    "three: silhouettes, depth squares, TV": (
        lambda p: p.silhouettes(1.0) + p.depth_squares(1e-1) + p.variation(5e-4, 5e-4),
        0,
        True,
    ),
    "oracle depth, free space": (lambda p: p.free_space(1e-2), 0, True),
    "sparsity": (lambda p: p.sparsity(3e-4), 0, True),
    "occlusion penalty": (lambda p: p.occlusion(1e-2), 0, True),
    "smooth depth, unseen views": (lambda p: p.smooth(3e-2), 0, True),
    "smooth depth but for edges": (lambda p: p.smooth(3e-2, edges=10.0), 0, True),
    "TV of density": (lambda p: p.variation(1e-3, 0.0), 0, True),
    "TV of color": (lambda p: p.variation(0.0, 1e-3), 0, True),
    "oracle depth, Pearson of patches": (lambda p: p.depth(3e-3, PearsonDepth()), 0, True),
    "oracle depth, Pearson of pictures": (
        lambda p: p.depth(1e-2, PearsonDepth(), "picture"),
        0,
        True,
    ),
    "oracle depth, scale and shift": (lambda p: p.depth(3e-3, ScaleShiftInvariant()), 0, True),
    "oracle depth, ranking": (lambda p: p.depth(3e-2, DepthRanking(margin=1e-3)), 0, True),
    "pair: TV of both, sparsity": (lambda p: p.variation(1e-3, 1e-3) + p.sparsity(3e-4), 0, True),
    "pair: TV of both, smooth depth": (lambda p: p.variation(1e-3, 1e-3) + p.smooth(3e-2), 0, True),
    "none, fine from the start": (lambda p: None, 0, False),
    DIRECTED: (lambda p: None, 1, True),
    "pair: silhouettes, depth squares, by direction": (
        lambda p: p.silhouettes(1.0) + p.depth_squares(1e-1),
        1,
        True,
    ),
}


def trained(
    name: str,
    stages: list[str],
    rays: int,
    rate: float,
    shrink: int,
    factor: float = 1.0,
    seed: int = 0,
) -> dict[str, float]:
    """Train a row, with its weights times a factor; return its mean and least PSNR."""
    pictures = views(shrink)
    train = pictures["train"]
    priors, degree, coarse_to_fine = ROWS[name]
    A = renderer(train)
    y = A.measurements(train.on(1.0)[None])
    extra = priors(Parts(train, 0.5 * factor * y[0].numel()))
    problem, began = it.Problem(y, A), time.monotonic()
    steps = [tuple(map(int, stage.split(":"))) for stage in stages]
    if not coarse_to_fine:
        steps = [(steps[-1][0], sum(count for _, count in steps))]
    grid, start, solution = None, None, None
    for k, (resolution, count) in enumerate(steps):
        space = VoxelSpace.box(resolution, LOW, HIGH, scale=128 / 2.5)
        if grid is None or start is None:
            grid = VoxelGrid(space, degree=degree)
        else:
            grid, start = grid.refine(start, space.shape)
        solver = it.solvers.Adam(
            learning_rate=rate,
            beta_square=0.99,
            decay=0.01 if k == len(steps) - 1 else 0.0,
            subset_size=rays,
            tolerance=0.0,
        )
        solution = it.solve(
            problem,
            grid if extra is None else grid + extra,
            solver,
            initial=start,
            max_iterations=count,
            seed=len(steps) * seed + k,
            progress=False,
        )
        start = solution.parameters
    assert solution is not None
    seconds = time.monotonic() - began
    x = solution.x
    held, chosen, seen = (
        held_out_psnr(x, pictures[which]) for which in ("held", "chosen on", "train")
    )
    return {
        "held": float(held.mean()),
        "least": float(held.min()),
        "chosen on": float(chosen.mean()),
        "trained": float(seen.mean()),
        "seconds": seconds,
    }


def shown(found: dict[str, dict[str, float]]) -> None:
    none = found[NONE]["held"] if NONE in found else math.nan
    print(f"\n{'':46}{'held out':>9}{'over none':>11}{'worst':>8}{'seen':>9}   dB")
    for name in (name for name in ROWS if name in found):
        row = found[name]
        print(
            f"{name:46}{row['held']:9.2f}{row['held'] - none:+11.2f}{row['least']:8.2f}{row['trained']:9.2f}   {row['seconds']:.0f} s"
        )
    # Compare rows of equal degree: colors that depend on the direction have a gain of their own.
    for base in (name for name in (NONE, DIRECTED) if name in found):
        pairs = [
            name
            for name in ROWS
            if name in found and name.startswith("pair") and ROWS[name][1] == ROWS[base][1]
        ]
        if pairs:
            best = max(pairs, key=lambda name: found[name]["held"])
            gain = found[best]["held"] - found[base]["held"]
            print(f"the best {best}: {gain:+.2f} dB over {base}", verdict(gain >= 2, "2 dB"))


def shown_by_seed(found: dict[str, dict[str, float]], rows: list[str], seeds: list[int]) -> None:
    print(f"\ngain over the same row without a prior, by seed {', '.join(map(str, seeds))}, dB")
    for name in (name for name in rows if name not in (NONE, DIRECTED)):
        base = DIRECTED if ROWS[name][1] else NONE
        both = [(key(name, seed), key(base, seed)) for seed in seeds]
        gains = [found[a]["held"] - found[b]["held"] for a, b in both if a in found and b in found]
        if len(gains) == len(seeds):
            mean = sum(gains) / len(gains)
            print(
                f"{name:46}" + "".join(f"{gain:+8.2f}" for gain in gains) + f"   mean {mean:+.2f}",
                verdict(min(gains) >= 2, "2 dB with every seed") if name.startswith("pair") else "",
            )


def key(name: str, seed: int) -> str:
    """Return the name of a row in the kept results."""
    return f"{name}, seed {seed}" if seed else name


def search(rows: list[str], rays: int, rate: float) -> None:
    """Search the weights."""
    path = BUILD / "lego_8_views_search.json"
    found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
    print(
        f"100 x 100 pixels, stages 48:150 64:250, {rays} rays a step; dB on r_5, r_15, ... with "
        f"the weights times\n{'':38}" + "".join(f"{label:>8}" for label in ("1/3", "1", "3"))
    )
    for name in rows:
        every = (1.0,) if name.startswith("none") else (1 / 3, 1.0, 3.0)
        for factor in every:
            key = f"{name} x {factor:.3g}"
            if key not in found:
                found[key] = trained(name, ["48:150", "64:250"], rays, rate, 2, factor)
                path.write_text(json.dumps(found, indent=1))
        values = "".join(f"{found[f'{name} x {factor:.3g}']['chosen on']:8.2f}" for factor in every)
        print(f"{name:38}{values if len(every) > 1 else ' ' * 8 + values}", flush=True)


def main(
    rows: Sequence[Annotated[str, list(ROWS)]] = tuple(ROWS),
    search_: bool = False,
    minutes: float = math.inf,
    stages: Sequence[str] = ("48:300", "80:500"),
    rays: int = 2048,
    rate: float = 0.1,
    shrink: int = 1,
    threads: int = 2,
    seeds: Sequence[int] = (0,),
) -> None:
    """Run the benchmark.

    Args:
        search_: try the rows with other weights
        minutes: time limit; a row that would exceed it is not started
        shrink: 1 for pictures of 200 x 200 pixels, 2 for 100 x 100
    """
    torch.set_num_threads(threads)
    BUILD.mkdir(exist_ok=True)
    if search_:
        search(rows, rays, rate)
        return
    side, path = 200 // shrink, BUILD / "lego_8_views.json"
    print(
        f"{side} x {side} pixels, stages {' '.join(stages)}, {rays} rays a step, {machine()}",
        flush=True,
    )
    print(
        "the oracle, from 90 pictures: "
        f"{float(held_out_psnr(kept(), views(1)['held']).mean()):.2f} dB on the held-out views",
        flush=True,
    )
    found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
    began, longest = time.monotonic(), 0.0
    for name, seed in ((name, seed) for seed in seeds for name in rows):
        if key(name, seed) in found:
            continue
        if time.monotonic() - began + longest > 60 * minutes:
            print("the time is over; run again for the other rows")
            break
        row = trained(
            name,
            stages,
            rays,
            rate,
            shrink,
            seed=seed,
        )
        found[key(name, seed)] = row
        longest = max(longest, row["seconds"])
        rounded = {field: round(value, 2) for field, value in row.items()}
        print(key(name, seed), rounded, flush=True)
        path.write_text(json.dumps(found, indent=1))
    shown(found)
    if len(seeds) > 1:
        shown_by_seed(found, rows, seeds)


if __name__ == "__main__":
    run_script(main)
