"""The renderer of Gaussians on a CPU: seconds, growth, and a brute-force compositor in PyTorch.

    python benchmarks/gaussian_renderer.py [--threads 2] [--repeats 7]

The scene `gsplat_garden`: 138,766 points, isotropic scale 0.02, opacity 0.5, identity quaternions,
intrinsics rescaled to the picture. Printed: forward, and forward with backward (to all parameters
and the pose), at 256 x 256, part by part. The same for a compositor of every pixel with every
Gaussian, vectorized in PyTorch with autograd, at the largest size whose tensors fit in 4 GB.
Seconds for several numbers of points and pixels; and 50 scenes of 1,000 Gaussians in one batch and
one by one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from common import alternating, data_folder, machine, run_script, verdict
from torch import Tensor

from invtoolbox.geometry.splatting import rasterization
from invtoolbox.kernels.rendering.splat_binning import bin_splats
from invtoolbox.kernels.rendering.splat_compositing import composite
from invtoolbox.kernels.rendering.splat_projection import Projection, project

Scene = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def garden(size: int, count: int | None = None) -> Scene:
    table = np.load(data_folder() / "gsplat_garden" / "test_garden.npz")
    points, colors = torch.from_numpy(table["means3d"]), torch.from_numpy(table["colors"]) / 255
    if count is not None:
        rows = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:count]
        points, colors = points[rows], colors[rows]
    n = len(points)
    K = torch.from_numpy(table["Ks"])[:1].clone()
    K[:, 0] *= size / int(table["width"])
    K[:, 1] *= size / int(table["height"])
    turn = torch.tensor([1.0, 0, 0, 0]).repeat(n, 1)
    return (
        points,
        turn,
        torch.full((n, 3), 0.02),
        torch.full((n,), 0.5),
        colors,
        torch.from_numpy(table["viewmats"])[:1],
        K,
    )


def denser(scene: Scene, times: int) -> Scene:
    """Repeat every point with small offsets, for more points than the scene has."""
    points, turn, scales, opacities, colors, view, K = scene
    shift = 0.01 * torch.randn(times, *points.shape, generator=torch.Generator().manual_seed(1))
    shift[0] = 0
    return (
        (points + shift).flatten(0, 1),
        turn.repeat(times, 1),
        scales.repeat(times, 1),
        opacities.repeat(times),
        colors.repeat(times, 1),
        view,
        K,
    )


def calls(scene: Scene, size: int, render: Callable[..., Tensor]) -> dict[str, Callable[[], Any]]:
    free = [t.clone().requires_grad_(True) for t in scene[:6]]
    slope = torch.randn(1, size, size, 3, generator=torch.Generator().manual_seed(0))

    def forward() -> Tensor:
        with torch.no_grad():
            return render(*scene, size, size)

    def both() -> Any:
        return torch.autograd.grad(render(*free, scene[6], size, size), free, slope)

    return {"forward": forward, "both": both}


def own(*arguments: Any) -> Tensor:
    return rasterization(*arguments)[0]


def brute_force(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    views: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
) -> Tensor:
    """Composite every pixel with every round Gaussian in front of the camera, by whole tensors."""
    view, K = views[0], Ks[0]
    p = means @ view[:3, :3].T + view[:3, 3]
    order = p[:, 2].detach().argsort()
    order = order[p[order, 2] > 0.01]
    p, opacities, colors = p[order], opacities[order], colors[order]
    w, x, y, z = torch.nn.functional.normalize(quats[order], dim=1).unbind(1)
    turn = torch.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            1 - 2 * (x * x + y * y),
        ],
        1,
    ).view(-1, 3, 3)
    axes = view[:3, :3] @ (turn * scales[order][:, None])
    focal, centre, size = K.diagonal()[:2], K[:2, 2], torch.tensor([float(width), float(height)])
    margin = 0.15 * size / focal
    slope = torch.minimum(
        torch.maximum(p[:, :2] / p[:, 2:], -centre / focal - margin),
        (size - centre) / focal + margin,
    )
    J = (
        torch.cat([torch.diag_embed(focal / p[:, 2:]), (-focal * slope / p[:, 2:])[..., None]], 2)
        @ axes
    )
    C = J @ J.transpose(1, 2) + 0.3 * torch.eye(2)
    a, b, c = C[:, 0, 0], C[:, 0, 1], C[:, 1, 1]
    det = a * c - b * b
    middle = focal * p[:, :2] / p[:, 2:] + centre
    dx = (torch.arange(width) + 0.5)[None, :, None] - middle[:, 0]
    dy = (torch.arange(height) + 0.5)[:, None, None] - middle[:, 1]
    alpha = (
        opacities * torch.exp(-0.5 * (c * dx * dx - 2 * b * dx * dy + a * dy * dy) / det)
    ).clamp_max(0.999)
    alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
    behind = (1 - alpha).cumprod(2)
    alpha = torch.where(behind <= 1e-4, 0.0, alpha)
    before = torch.cat([torch.ones_like(behind[..., :1]), behind[..., :-1]], 2)
    return ((alpha * before) @ colors)[None]


def parts(scene: Scene, size: int, repeats: int) -> None:
    free = [t[None].clone().requires_grad_(True) for t in scene[:6]]
    how = Projection(size, size)
    splats, boxes, reaches = project(*free[:5], free[5], scene[6][None], how)
    tiles = bin_splats(boxes, reaches, size, size)
    held = splats.detach().requires_grad_(True)
    image = composite(held, boxes, reaches, tiles, size, size)
    slope, back = torch.ones_like(image), torch.ones_like(splats)
    times = alternating(
        {
            "projection": lambda: project(*free[:5], free[5], scene[6][None], how),
            "sorting into tiles": lambda: bin_splats(boxes, reaches, size, size),
            "compositing": lambda: composite(held, boxes, reaches, tiles, size, size),
            "compositing, backward": lambda: torch.autograd.grad(
                image, held, slope, retain_graph=True
            ),
            "projection, backward": lambda: torch.autograd.grad(
                splats, free, back, retain_graph=True
            ),
        },
        repeats,
    )
    seen = int((boxes[..., 0] < boxes[..., 1]).sum())
    print(
        f"  {seen} Gaussians seen, {len(tiles.entries)} pairs of one and a tile; ms: "
        + ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in times.items())
    )


def main(threads: int = 2, repeats: int = 7) -> None:
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    began = time.perf_counter()
    scene = garden(256)
    calls(scene, 256, own)["both"]()
    print(
        f"first call, kernels compiled or read from the cache: {time.perf_counter() - began:.1f} s"
    )
    times = alternating(calls(scene, 256, own), repeats)
    print(
        f"garden, {len(scene[0])} points, 256 x 256: forward {times['forward']:.4f} s, forward and "
        f"backward {times['both']:.4f} s"
    )
    parts(scene, 256, repeats)

    # Four tensors of pixels times Gaussians, eight with autograd, in 4 GB.
    size, count = 32, 20_000
    small = garden(size, count)
    ours, theirs = calls(small, size, own), calls(small, size, brute_force)
    error = float((ours["forward"]() - theirs["forward"]()).abs().max())
    both = alternating(
        {
            **{f"own {k}": c for k, c in ours.items()},
            **{f"brute {k}": c for k, c in theirs.items()},
        },
        3,
    )
    ratios = [both[f"brute {k}"] / both[f"own {k}"] for k in ("forward", "both")]
    print(
        f"{count} points, {size} x {size}, brute force in PyTorch: forward "
        f"{both['brute forward']:.3f} s against {both['own forward']:.4f} s, {ratios[0]:.0f} "
        f"times; with backward {both['brute both']:.3f} s against {both['own both']:.4f} s, "
        f"{ratios[1]:.0f} times; they differ by {error:.1e}",
        verdict(min(ratios) >= 20, "20 times as fast"),
        flush=True,
    )

    print("points at 256 x 256, and pixels with all points, forward and backward:")
    costs = []
    for points, side in [
        (17_345, 256),
        (34_691, 256),
        (69_383, 256),
        (138_766, 256),
        (277_532, 256),
        (555_064, 256),
        (138_766, 128),
        (138_766, 512),
        (138_766, 1024),
    ]:
        given = (
            garden(side, points) if points <= 138_766 else denser(garden(side), points // 138_766)
        )
        seconds = alternating({"both": calls(given, side, own)["both"]}, 3)["both"]
        costs.append((points, side, seconds))
        print(f"  {points:7} points {side:5} x {side:<5} {seconds:.4f} s", flush=True)
    by_points = [c for c in costs if c[1] == 256]
    by_pixels = sorted(c for c in costs if c[0] == 138_766)
    for name, table, what in (("points", by_points, 0), ("pixels", by_pixels, 1)):
        growth = [
            math.log(b[2] / a[2]) / math.log((b[what] / a[what]) ** (1 + what))
            for a, b in pairwise(table)
        ]
        print(
            f"  exponent in {name}: " + ", ".join(f"{g:.2f}" for g in growth),
            verdict(max(growth) <= 1.05, "no faster than in proportion"),
        )

    batch = [t[None].repeat(50, *[1] * t.ndim) for t in garden(64, 1000)]
    batch[0] = batch[0] + 0.1 * torch.randn(50, 1, 3, generator=torch.Generator().manual_seed(2))

    def together() -> Any:
        free = [t.clone().requires_grad_(True) for t in batch[:6]]
        image = rasterization(*free, batch[6], 64, 64)[0]
        return image.detach(), torch.autograd.grad(image.sum(), free)

    def alone() -> Any:
        found = []
        for k in range(50):
            free = [t[k].clone().requires_grad_(True) for t in batch[:6]]
            image = rasterization(*free, batch[6][k], 64, 64)[0]
            found.append((image.detach(), torch.autograd.grad(image.sum(), free)))
        return torch.stack([f[0] for f in found]), [
            torch.stack(leaf) for leaf in zip(*(f[1] for f in found))
        ]

    (images, slopes), (others, their_slopes) = together(), alone()
    equal = torch.equal(images, others) and all(
        torch.equal(a, b) for a, b in zip(slopes, their_slopes)
    )
    seconds = alternating({"together": together, "alone": alone}, repeats)
    print(
        f"50 scenes of 1000, 64 x 64, forward and backward: in one batch {seconds['together']:.4f} "
        f"s, one by one {seconds['alone']:.4f} s",
        verdict(equal and seconds["together"] <= seconds["alone"], "equal, and not slower"),
    )


if __name__ == "__main__":
    run_script(main)
