"""The NeRF scene 'lego' from 8 pictures in a grid of voxels: what each prior for few views gains, or costs, on held-out views.

    python benchmarks/lego_8_views.py [--rows NAME ...] [--minutes 9] [--shrink 1] [--stages 48:300 80:500] [--threads 2]

Trained on r_1, r_13, ..., r_85 at 200 x 200 pixels on white; held out are r_0, r_10, ..., r_90. Depths, where they are used, are those of
a model of the 90 other pictures, which is trained first: an oracle, which no camera would give. Every row is one training of the same
length; what is found is kept in build/lego_8_views.json and .safetensors, so the script may be stopped, and goes on with the rows that are
missing. Weights stand beside the mean squared error of the pictures.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import data_folder, machine, verdict
from torch import Tensor
from torch.nn.functional import avg_pool2d

import invtoolbox as it
from invtoolbox.data_terms import DepthRanking, LeastSquares, PearsonDepth, ScaleShiftInvariant
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.datasets.cameras_blender import PosedPictures, open_blender
from invtoolbox.metrics import psnr
from invtoolbox.operators import VoxelRenderer
from invtoolbox.priors import DepthSmoothness, Misfit, OcclusionPenalty, PriorSum, ThroughOperator, VoxelGrid, VoxelSparsity, VoxelVariation
from invtoolbox.scenes import Cameras, look_at
from invtoolbox.scenes.voxels import Voxels, VoxelSpace

LOW, HIGH = (-0.75, -1.25, -0.65), (0.75, 1.25, 1.1)
FOUND = Path(__file__).resolve().parents[1] / "build" / "lego_8_views.json"
ORACLE = FOUND.with_suffix(".safetensors")
#: The row that others are compared with, and the side of patches in pixels.
NONE, ALL, PATCH = "none", "90 pictures (the oracle)", 8


def views(many: bool, shrink: int) -> tuple[PosedPictures, PosedPictures]:
    """The 8, or all 90, and those held out."""
    whole = open_blender(data_folder() / "nerf_lego_200" / "transforms_train.json")
    pictures = PosedPictures(whole.cameras.scaled(1 / shrink), *(avg_pool2d(t, shrink) for t in (whole.pictures, whole.alpha)))
    number = torch.tensor([int(Path(name).stem.removeprefix("r_")) for name in pictures.cameras.names])
    held = number % 10 == 0
    return pictures[~held if many else (number % 12 == 1) & (number < 90)], pictures[held]


def renderer(pictures: PosedPictures) -> VoxelRenderer:
    return VoxelRenderer(pictures.cameras, background=1.0, least_alpha=1e-4, stop=1e-3)


def held_out_psnr(x: Voxels, pictures: PosedPictures) -> Tensor:
    """Of each picture."""
    A = renderer(pictures)
    with torch.no_grad():
        seen = A.pictures(A(x))[0].clamp(0, 1)
    return psnr(seen, pictures.on(1.0))


def keep(x: Voxels) -> None:
    from safetensors.torch import save_file

    assert x.space.clearance is not None
    save_file({"density": x.density, "colour": x.colour.contiguous(), "occupied": x.space.clearance == 0,
               "scale": torch.tensor(x.space.scale, dtype=torch.float64)}, ORACLE)


def kept() -> Voxels:
    """The scene found from 90 pictures."""
    from safetensors.torch import load_file

    leaves = load_file(ORACLE)
    shape = [n + 1 for n in leaves["occupied"].shape]
    space = VoxelSpace.box(shape, LOW, HIGH, float(leaves["scale"])).keeping(leaves["occupied"])
    return Voxels(leaves["density"], leaves["colour"], space)


def unseen(count: int = 60) -> Cameras:
    """Poses on the upper half of the sphere that the cameras stand on, drawn once."""
    g = torch.Generator().manual_seed(5)
    height, turn = torch.rand(count, generator=g), 2 * math.pi * torch.rand(count, generator=g)
    across = (1 - height**2).clamp_min(0.01).sqrt()
    where = 4.03 * torch.stack([across * turn.cos(), across * turn.sin(), height], dim=1)
    return look_at(where, up=(0.0, 0.0, 1.0), size=(100, 100), field_of_view=39.6)


class Parts:
    """What the rows are made of; each makes explicit priors, weighed beside the mean squared error of ``one`` values."""

    def __init__(self, train: PosedPictures, one: int) -> None:
        self.train, self.one = train, 0.5 * one

    def variation(self, density: float, colour: float) -> PriorSum:
        return self.one * density * VoxelVariation("density") + self.one * colour * VoxelVariation("colour")

    def sparsity(self, weight: float) -> PriorSum:
        return self.one * weight * VoxelSparsity()

    def occlusion(self, weight: float, distance: float = 2.7) -> PriorSum:
        # The box begins 2.4 to 3 before the cameras, which stand 4 from its middle.
        return self.one * weight * OcclusionPenalty(renderer(self.train), distance, subset_size=2048)

    def smooth(self, weight: float, edges: float | None = None) -> PriorSum:
        outputs = ("depth",) if edges is None else ("colour", "depth")
        A = VoxelRenderer(unseen(), outputs=outputs, background=1.0, block=PATCH, least_alpha=1e-4, stop=1e-3)  # type: ignore[arg-type]
        return self.one * weight * ThroughOperator(DepthSmoothness(edges=edges), A, subset_size=32)

    def depth(self, weight: float, term: DataTerm, block: str | int = PATCH) -> PriorSum:
        """The oracle's depths of the 8 views, by patches, or as whole pictures of 50 x 50 pixels."""
        cameras = self.train.cameras if block != "picture" else self.train.cameras.scaled(50 / self.train.cameras.size[0])
        A = VoxelRenderer(cameras, outputs=("depth",), block=block, least_alpha=1e-4, stop=1e-3)  # type: ignore[arg-type]
        with torch.no_grad():
            truth = VoxelRenderer(cameras, outputs=("depth", "alpha"), block=block, stop=1e-3)(kept())  # type: ignore[arg-type]
        y = torch.where(truth[:, 1:] > 0.9, truth[:, :1], 0.0)
        if isinstance(term, LeastSquares):
            term, weight = LeastSquares(weights=(y > 0).float()), 2 * weight / float((y > 0).sum())
        else:
            weight = weight / y.shape[2]
        return self.one * weight * ThroughOperator(Misfit(y, term), A, subset_size=32 if block == PATCH else 1)


#: Every row: its priors, the degree of the harmonics, and whether it goes from coarse to fine.
ROWS: dict[str, tuple[Callable[[Parts], PriorSum | None], int, bool]] = {
    ALL: (lambda p: p.variation(1e-5, 1e-5), 1, True),
    NONE: (lambda p: None, 0, True),
    "TV of both": (lambda p: p.variation(1e-3, 1e-3), 0, True),
    "oracle depth, squares": (lambda p: p.depth(1e-1, LeastSquares()), 0, True),
    "sparsity": (lambda p: p.sparsity(3e-4), 0, True),
    "pair: TV of both, sparsity": (lambda p: p.variation(1e-3, 1e-3) + p.sparsity(3e-4), 0, True),
    "pair: TV of both, depth squares": (lambda p: p.variation(1e-3, 1e-3) + p.depth(1e-1, LeastSquares()), 0, True),
    "occlusion penalty": (lambda p: p.occlusion(1e-2), 0, True),
    "smooth depth, unseen views": (lambda p: p.smooth(1e-2), 0, True),
    "oracle depth, Pearson of patches": (lambda p: p.depth(1e-3, PearsonDepth()), 0, True),
    "TV of density": (lambda p: p.variation(3e-4, 0.0), 0, True),
    "TV of colour": (lambda p: p.variation(0.0, 3e-4), 0, True),
    "none, fine from the start": (lambda p: None, 0, False),
    "none, colours by direction": (lambda p: None, 1, True),
    "oracle depth, scale and shift": (lambda p: p.depth(1e-3, ScaleShiftInvariant()), 0, True),
    "oracle depth, ranking": (lambda p: p.depth(1e-2, DepthRanking(margin=1e-3)), 0, True),
    "smooth depth but for edges": (lambda p: p.smooth(1e-2, edges=10.0), 0, True),
    "pair: TV of both, smooth depth": (lambda p: p.variation(1e-3, 1e-3) + p.smooth(1e-2), 0, True),
    "oracle depth, Pearson of pictures": (lambda p: p.depth(1e-2, PearsonDepth(), "picture"), 0, True),
    "TV of both, weaker": (lambda p: p.variation(5e-5, 5e-5), 0, True),
}


def trained(name: str, stages: list[str], rays: int, rate: float, shrink: int) -> dict[str, float]:
    train, held = views(name == ALL, shrink)
    priors, degree, coarse_to_fine = ROWS[name]
    A = renderer(train)
    y = A.measurements(train.on(1.0)[None])
    extra = priors(Parts(train, y[0].numel()))
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
            grid, start = grid.refined(start, space.shape)
        solver = it.solvers.Adam(learning_rate=rate, beta_square=0.99, decay=0.01 if k == len(steps) - 1 else 0.0, subset_size=rays,
                                 tolerance=0.0)
        solution = it.solve(problem, grid if extra is None else grid + extra, solver, initial=start, max_iterations=count, seed=k,
                            progress=False)
        start = solution.parameters
    assert solution is not None
    if name == ALL:
        keep(solution.x)
    quality = held_out_psnr(solution.x, held)
    return {"held": float(quality.mean()), "least": float(quality.min()), "trained": float(held_out_psnr(solution.x, train[::4]).mean()),
            "seconds": time.monotonic() - began}


def shown(found: dict[str, dict[str, float]]) -> None:
    none = found[NONE]["held"] if NONE in found else math.nan
    print(f"\n{'':38}{'held out':>9}{'over none':>11}{'worst':>8}{'seen':>9}   dB (of the seen views, two are looked at)")
    for name in (name for name in ROWS if name in found):
        row = found[name]
        print(f"{name:38}{row['held']:9.2f}{row['held'] - none:+11.2f}{row['least']:8.2f}{row['trained']:9.2f}   {row['seconds']:.0f} s")
    pairs = {name: row["held"] for name, row in found.items() if name.startswith("pair")}
    if pairs and NONE in found:
        best = max(pairs, key=lambda name: pairs[name])
        print(f"the best {best}: {pairs[best] - none:+.2f} dB over none", verdict(pairs[best] >= none + 2, "2 dB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--minutes", type=float, default=math.inf, help="no row is begun that would end after so many")
    parser.add_argument("--stages", nargs="+", default=["48:300", "80:500"])
    parser.add_argument("--rays", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--shrink", type=int, default=1, help="1 for pictures of 200 x 200 pixels, 2 for 100 x 100")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    FOUND.parent.mkdir(exist_ok=True)
    side = 200 // arguments.shrink
    print(f"{side} x {side} pixels, stages {' '.join(arguments.stages)}, {arguments.rays} rays a step, {machine()}", flush=True)
    found: dict[str, dict[str, float]] = json.loads(FOUND.read_text()) if FOUND.is_file() else {}
    began, longest = time.monotonic(), 0.0
    for name in arguments.rows:
        if name in found:
            continue
        if time.monotonic() - began + longest > 60 * arguments.minutes:
            print("the time is over; run again for the other rows")
            break
        found[name] = trained(name, arguments.stages, arguments.rays, arguments.rate, arguments.shrink)
        longest = max(longest, found[name]["seconds"])
        print(name, {key: round(value, 2) for key, value in found[name].items()}, flush=True)
        FOUND.write_text(json.dumps(found, indent=1))
    shown(found)


if __name__ == "__main__":
    main()
