"""Compositing of splats by blocks of threads, and what it saves: atomic additions, bytes, and time on paper.

    python benchmarks/tiled_kernels.py [--size 96] [--count 10000]

On CUDA a block of 256 threads composites a tile of 16 x 16 pixels: it copies the splats of the tile
into its shared memory once, and sums the gradient of a splat over its pixels before it writes it.
It is compared with one thread per pixel, the kernel that CUDA ran before, and with the CPU's own
kernel. No card is needed: values come from Warp's blocks on the CPU; atomic additions and bytes are
counted in the source that is generated for CUDA, run on a CPU with the grid of CUDA
(tests/kernels/memory_traffic.py). Scene: random points of gsplat's garden, as round Gaussians.

The last table is a roofline on paper (benchmarks/roofline.py). Nothing here is faster before a card
has run it.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import get_args

import torch
from common import alternating, machine, run_script, verdict
from gaussian_renderer import garden
from roofline import CARDS, Work, predict
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import invtoolbox as it
from invtoolbox.kernels.rendering.splat_binning import TILE, Tiles, bin_splats
from invtoolbox.kernels.rendering.splat_compositing import Tasks, composite
from invtoolbox.kernels.rendering.splat_projection import GEOMETRY, Projection, project
from tests.emulated_cuda import emulate_cuda
from tests.kernels.generated_cuda import why_not
from tests.kernels.kernel_resources import count_instructions, programs
from tests.kernels.memory_traffic import Traffic, count_traffic, total
from tests.kernels.recorded_launches import Launch, Recorder

#: Operations in float64 that find the ray of a detector cell: two of three coordinates by fused
#: multiplications and additions, two quotients, a root, and the places at which the ray begins.
RAY = 60
#: Splats of a batch of the gradient in float32 with three features, see its source.
BATCH_OF_GRADIENT = 32


@dataclass(frozen=True)
class Scene:
    """Splats of one view, sorted into tiles, and a gradient of the image."""

    splats: Tensor
    boxes: Tensor
    reaches: Tensor
    size: int

    @classmethod
    def of(cls, size: int, count: int) -> Scene:
        *gaussians, view, K = (t[None] for t in garden(size, count))
        return cls(*project(*gaussians, view, K, Projection(size, size)), size)

    def tiles(self) -> Tiles:
        return bin_splats(self.boxes, self.reaches, self.size, self.size)

    def run(self, tasks: Tasks, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """Return the images and the gradient in the splats."""
        splats, reaches = (t.to(device=device, dtype=dtype) for t in (self.splats, self.reaches))
        boxes, free = self.boxes.to(device), splats.requires_grad_(True)
        tiles = bin_splats(boxes, reaches, self.size, self.size)
        images = composite(free, boxes, reaches, tiles, self.size, self.size, tasks=tasks)
        slope = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        slope = slope.to(device=device, dtype=dtype)
        return images, torch.autograd.grad(images, free, slope)[0]

    def launches(self, tasks: Tasks) -> tuple[Launch, Launch]:
        """Return the launches of the compositing and of its gradient in float32."""
        recorder = Recorder()
        with emulate_cuda(recorder):
            self.run(tasks, torch.float32, "cuda")
        forward, backward = (
            launch
            for launch in recorder.launches.values()
            if f"splat_compositing_{tasks}" in launch.kernel.file
        )
        return forward, backward


@dataclass(frozen=True)
class Counts:
    """Counts of a scene: pairs of a pixel and a splat that are tested, and that add to the image.

    Counts of warps count a pair of a warp and a splat if it holds for one of the warp's pixels.
    """

    pairs: int  # of a splat and a tile
    hits: int
    warp_tests: int
    warp_hits: int
    warp_tests_backward: int  # up to the last splat of the warp
    block_tests_backward: int  # of all warps of a block up to the last splat of its batches

    @classmethod
    def of(cls, scene: Scene) -> Counts:
        """Count by whole tensors, tile by tile."""
        tiles, sums = scene.tiles(), torch.zeros(5, dtype=torch.int64)
        starts = tiles.starts.tolist()
        for tile, (first, last) in enumerate(pairwise(starts)):
            if first == last:
                continue
            index = tiles.entries[first:last, 0].long()
            row, reach = scene.splats.detach()[0, index], scene.reaches[0, index, 1]
            left, top = tile % tiles.across * TILE, tile // tiles.across * TILE
            x = left + torch.arange(TILE * TILE) % TILE + 0.5
            y = top + torch.arange(TILE * TILE) // TILE + 0.5
            dx, dy = x[:, None] - row[:, 0], y[:, None] - row[:, 1]
            sigma = 0.5 * (row[:, 2] * dx * dx + row[:, 4] * dy * dy) + row[:, 3] * dx * dy
            touched = (sigma <= reach) & ((x < scene.size) & (y < scene.size))[:, None]
            alpha = torch.where(touched, (row[:, 5] * torch.exp(-sigma)).clamp_max(0.999), 0.0)
            closed = (1 - alpha).cumprod(1) <= 1e-4
            hit = touched & ~closed
            place = torch.arange(1, len(index) + 1)
            ended = closed.any(1)
            tests = torch.where(ended, closed.int().argmax(1) + 1, len(index))
            ends = (hit * place).amax(1)
            deepest = int(ends.max())
            batches = -(-deepest // BATCH_OF_GRADIENT) * BATCH_OF_GRADIENT
            warps = hit.view(-1, 32, len(index))
            sums += torch.tensor(
                [
                    int(hit.sum()),
                    int(tests.view(-1, 32).amax(1).sum()),
                    int(warps.any(1).sum()),
                    int(ends.view(-1, 32).amax(1).sum()),
                    TILE * TILE // 32 * min(batches, len(index)),
                ]
            )
        return cls(len(tiles.entries), *sums.tolist())


def main(size: int = 96, count: int = 10000, threads: int = 1) -> None:
    """Print differences, additions, bytes, and bounds on two cards.

    Args:
        size: width and height of the picture
        count: number of Gaussians
        threads: number of torch's threads
    """
    for build in ("plain", "counts"):
        if (reason := why_not(build)) is not None:
            raise SystemExit(reason)
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    print(machine())
    scene = Scene.of(size, count)
    counts = Counts.of(scene)
    print(
        f"{size} x {size} pixels, {count} Gaussians, {counts.pairs} pairs of one and a tile, "
        f"{counts.hits} of one and a pixel"
    )
    compare(scene)
    launches = {tasks: scene.launches(tasks) for tasks in ("pixel", "block")}
    traffic = {
        tasks: tuple(total(count_traffic(launch)) for launch in both)
        for tasks, both in launches.items()
    }
    additions = {tasks: both[1].on_grid()[1] for tasks, both in launches.items()}
    show_additions(additions, counts)
    show_traffic(traffic)
    project_volumes()
    back_project_volumes()
    show_bounds(traffic, additions, counts, scene.splats.shape[2] - GEOMETRY)
    show_machine_code(launches)


def compare(scene: Scene) -> None:
    """Print the differences of the blocks from the two kernels before, and seconds on the CPU."""
    print("\nlargest difference over largest value, blocks on the CPU against the kernels before")
    print(f"{'':10s}{'':8s}{'image':>10s}{'gradient':>10s}")
    for dtype, (image_bar, gradient_bar) in {
        torch.float32: (1e-6, 1e-5),
        torch.float64: (1e-14, 1e-13),
    }.items():
        results = {tasks: scene.run(tasks, dtype) for tasks in get_args(Tasks)}
        for tasks in ("pixel", "tile"):
            pairs = zip(results["block"], results[tasks], strict=True)
            image, gradient = (float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
            holds = image <= image_bar and gradient <= gradient_bar
            print(
                f"{str(dtype)[6:]:10s}{tasks:8s}{image:10.1e}{gradient:10.1e} "
                f"{verdict(holds, f'image {image_bar:.0e}, gradient {gradient_bar:.0e}')}"
            )
    calls = {t: lambda t=t: scene.run(t, torch.float32) for t in ("tile", "block")}
    seconds = alternating(calls, 3)
    print(
        f"image and gradient on this CPU, 1 thread, blocks over the CPU's own kernel: "
        f"{seconds['block'] / seconds['tile']:.0f} times the seconds; the CPU keeps its own"
    )


def show_additions(additions: dict[str, int], counts: Counts) -> None:
    """Print the atomic additions of the gradient."""
    print(
        "\natomic additions of the gradient, counted; per pair, for each of the 9 numbers of a splat"
    )
    for tasks, number in additions.items():
        print(
            f"{tasks:8s}{number:12d}, {number / 9 / counts.hits:.2f} per pair of a splat and a pixel, "
            f"{number / 9 / counts.pairs:.2f} per pair of a splat and a tile"
        )
    few = additions["block"] <= 9 * counts.pairs
    print(verdict(few, "at most one per splat and tile; a tile's pairs belong to one block: none"))


def show_traffic(traffic: dict[str, tuple[Traffic, ...]]) -> None:
    """Print the bytes of the two kernels, and their ratios."""
    print("\nbytes read from tensors: by the threads; by warps and by blocks, a word once each")
    for k, name in enumerate(("compositing", "its gradient")):
        for tasks in ("pixel", "block"):
            t = traffic[tasks][k]
            print(
                f"{name:14s}{tasks:8s}{t.read:14d}{t.read_by_warps:12d}{t.read_by_blocks:12d}"
                f"    written {t.written:10d}"
            )
        one, two = traffic["pixel"][k], traffic["block"][k]
        ratio = one.read / two.read
        print(
            f"{name:14s}fewer   {ratio:14.1f}{one.read_by_warps / two.read_by_warps:12.1f}"
            f"{one.read_by_blocks / two.read_by_blocks:12.1f} "
            f"{verdict(ratio >= 20, '20 times fewer by the threads')}"
        )
    print(
        "The 32 threads of a warp of the pixel kernel read a splat at once: the ratio of warps is"
    )
    print("what the first cache of a card sees, and the ratio of blocks is what its memory sees.")


def project_volumes() -> None:
    """Print the bytes per ray and item of projections of eight items, by geometry and values."""
    print("\nprojection of a batch of 8, bytes read per ray and item; shared: the geometry is read")
    print("once for the 8, the most that several items per thread can save")
    gains = []
    angles = torch.linspace(0.1, 2.5, 2)
    for n in (32, 64):
        cone = it.operators.ConeBeam((n, n, n), angles, (8, 8), 4.0 * n, 6.0 * n)
        fan = it.operators.FanBeam((n, n), angles, n, 3.0 * n, 5.0 * n)
        cases = (
            (f"cone beam, {n}^3", cone, (8, 1, n, n, n), ("volume",)),
            (f"fan beam, {n}^2", fan, (8, 1, n, n), ("rows", "columns")),
        )
        for name, operator, shape, fields in cases:
            recorder = Recorder()
            with emulate_cuda(recorder):
                x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to("cuda")
                operator.to("cuda")(x)
            (launch,) = (v for v in recorder.launches.values() if "_project" in v.kernel.file)
            traffic = count_traffic(launch)
            values = sum(traffic[field].read for field in fields) / launch.tasks
            geometry = total(traffic).read / launch.tasks - values
            gains.append((geometry + values) / (geometry / 8 + values))
            print(
                f"{name:18s} geometry {geometry:6.0f}, values {values:6.0f}, shared "
                f"{geometry / 8 + values:6.0f}: at most {gains[-1]:.2f} times fewer"
            )
    reached = max(gains) < 1.5
    print(verdict(reached, "1.5 times fewer cannot be reached: the values' own bytes dominate"))


def back_project_volumes() -> None:
    """Print what the transpose of a cone beam costs by rays, and would cost by voxels, on paper."""
    n = 32
    cone = it.operators.ConeBeam(
        (n, n, n), torch.linspace(0.1, 2.5, 2), (2 * n, 2 * n), 4.0 * n, 6.0 * n
    )
    recorder = Recorder()
    with emulate_cuda(recorder):
        y = torch.rand((1, 1, *cone.range_shape[1:]), generator=torch.Generator().manual_seed(0))
        cone.to("cuda").adjoint(y.to("cuda"))
    (launch,) = (v for v in recorder.launches.values() if "_scatter" in v.kernel.file)
    additions = launch.on_grid()[1]
    print(
        f"\nexact transpose of a cone beam, {n}^3 voxels, 2 views: {additions} atomic additions "
        f"counted, {additions / (2 * n**3):.1f} per voxel and view"
    )
    print(
        "on paper, bounds in microseconds: rays that add to voxels, as now; voxels that find their"
    )
    print(
        f"rays, without additions, and compute each by {RAY} operations in float64 (volume_ray.h)"
    )
    by_rays = Work(4.0 * n**3, 0.0, additions=additions)
    by_voxels = Work(4.0 * n**3, 0.0, doubles=RAY * additions)
    ratios = []
    for card in CARDS:
        (one, _), (two, _) = predict(by_rays, card), predict(by_voxels, card)
        ratios.append(one / two)
        print(
            f"{card.name}: {1e6 * one:8.2f} and {1e6 * two:8.2f}, ratio {one / two:.2f}, predicted"
        )
    print(verdict(min(ratios) > 1, "voxels that find their rays are faster on both cards"))
    print(
        "A voxel tries more rays than touch it: the ratios are upper bounds. So the transpose stays"
    )
    print(
        "driven by rays. Feldkamp's back-projection is driven by voxels already, without additions;"
    )
    print("it is no exact transpose.")


def show_bounds(
    traffic: dict[str, tuple[Traffic, ...]],
    additions: dict[str, int],
    counts: Counts,
    features: int,
) -> None:
    """Print the roofline of each kernel and the predicted ratios."""
    print(
        "\non paper: lower bounds in microseconds of this picture on a full card, see roofline.py"
    )
    print(f"{'':14s}{'':8s}" + "".join(f"{card.name:>10s}" for card in CARDS))
    works = {
        name: {
            tasks: work(name, tasks, traffic[tasks][k], additions[tasks], counts, features)
            for tasks in ("pixel", "block")
        }
        for k, name in enumerate(("compositing", "its gradient"))
    }
    for name, both in works.items():
        times = {
            tasks: [predict(counted, card) for card in CARDS] for tasks, counted in both.items()
        }
        for tasks, row in times.items():
            figures = "".join(f"{1e6 * seconds:10.2f}" for seconds, _ in row)
            units = " and ".join(dict.fromkeys(unit for _, unit in row))
            print(f"{name:14s}{tasks:8s}{figures}    bound by {units}")
        ratios = [a / b for (a, _), (b, _) in zip(times["pixel"], times["block"], strict=True)]
        print(
            f"{name:14s}ratio   {''.join(f'{r:10.1f}' for r in ratios)}    predicted, not measured"
        )
    print(
        "published, on other scenes and cards, so not to be compared with the bounds above: gsplat 1.0"
    )
    print(
        "on a TITAN RTX, 172 images per second forward and 97 backward (its docs, tests/profile);"
    )
    print("no published times of torch-radon and diffct on these two cards are at hand")


def work(
    name: str, tasks: str, traffic: Traffic, additions: int, counts: Counts, features: int
) -> Work:
    """Return the counts of a kernel for the roofline.

    Operations and accesses per pair of a warp and a splat are read off the sources and the machine
    code: a test takes 11 operations; a hit 9 and two per feature, in the gradient 30 and four. The
    pixel kernel loads 7 numbers per test, and the opacity and the features per hit, in the gradient
    also the slopes and the number of the pair. The block kernel loads 8 numbers by two instructions
    per test and up to four per hit by one; once per splat and tile each number is copied, by a load
    and a share of a store, all threads at different places.
    """
    numbers = GEOMETRY + features
    copies = counts.pairs * (numbers + 2)
    moved = traffic.read_by_blocks + traffic.written
    if name == "compositing":
        operations = 32 * (11 * counts.warp_tests + (9 + 2 * features) * counts.warp_hits)
        accesses = (
            7 * counts.warp_tests + (1 + features) * counts.warp_hits
            if tasks == "pixel"
            else 2 * counts.warp_tests + -(-features // 4) * counts.warp_hits + copies
        )
        return Work(moved, operations, accesses)
    per_hit = 30 + 4 * features
    if tasks == "pixel":
        operations = 32 * (11 * counts.warp_tests_backward + per_hit * counts.warp_hits)
        accesses = 7 * counts.warp_tests_backward + (2 + 2 * features) * counts.warp_hits
        # An addition of a warp is an instruction, too.
        accesses += numbers * counts.warp_hits
        return Work(traffic.read_by_blocks, operations, accesses, additions)
    rounds = -(-numbers // 16)
    # 16 exchanges and a store of a warp's sums, 31 additions in them; then sums of eight warps.
    sums = counts.pairs * numbers * 8 / 32
    operations = 32 * (
        11 * counts.block_tests_backward + (per_hit + 31 * rounds) * counts.warp_hits + sums
    )
    accesses = 3 * counts.block_tests_backward + (1 + 17 * rounds) * counts.warp_hits
    return Work(moved, operations, accesses + copies + sums, additions)


def show_machine_code(launches: dict[str, tuple[Launch, Launch]]) -> None:
    """Print the loads, exchanges and atomic additions in the machine code, if it can be read."""
    if programs() is None:
        return
    print("\nmachine code for the A100: instructions in the code, inside and outside of its loops")
    for tasks, both in launches.items():
        for name, launch in zip(("compositing", "its gradient"), both, strict=True):
            code = count_instructions(launch.kernel, 80)
            shown = ", ".join(
                f"{prefix} {number}"
                for prefix in ("LDG", "LDS.128", "LDS", "SHFL", "RED")
                if (number := sum(n for key, n in code.items() if key.startswith(prefix)))
            )
            print(f"{name:14s}{tasks:8s}{shown}")


if __name__ == "__main__":
    run_script(main)
