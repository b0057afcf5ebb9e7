"""Local fields: learning from nine pictures, memory, another resolution, CT and inpainting.

    python benchmarks/local_fields.py [--only pictures|memory|ct|inpainting] [--threads 1]

pictures    nine pictures of BSD400, 128 x 128 pixels, with one draw of noise of level 0.15; PSNR on
            seven pictures of BSD68 at the same size, over nine parts of 160 steps. A local field sees
            384 pixels of 3 pictures per step, a residual U-Net 3 whole pictures. After the last part,
            the same pictures with 256 x 256 pixels and the same noise, and the noisy 128 x 128 pixels
            computed at 256 x 256.
memory      peak of the memory that a step of 512 pixels of one picture allocates.
ct          nine chest slices at 128 x 128, filtered back-projection of 45 views with 1 % noise; PSNR
            on the slices of other patients, compared with total variation with the best of four
            weights, and the same scan with twice the pixels.
inpainting  pictures at 64 x 64 of which 40 % are known, computed at 128 x 128: without a mask, with
            it, and with the channel of details; compared with total variation with the best of
            three weights.

The form of the network was chosen on Set12, and for inpainting on further pictures of BSD400.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from common import data_folder, machine, run_script, verdict
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import invtoolbox as it
from invtoolbox.networks.residual_unet import ResidualUNet
from invtoolbox.training import (
    L1,
    AtPixels,
    Examples,
    InpaintingPairs,
    LocalField,
    Loss,
    Pairs,
    Stage,
    train,
)

SIGMA, PARTS, STEPS = 0.15, 9, 160


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(it.metrics.psnr(x, truth, data_range=1.0).mean())


def known_pictures(count: int = 9) -> Tensor:
    data = it.datasets.open(data_folder() / "bsd400_gray180", reader="pictures")
    return torch.cat([data[k].y[..., :128, :128] for k in range(count)])


def unseen_pictures() -> Tensor:
    """Return the middles of seven pictures of BSD68, 256 x 256 pixels."""
    data = it.datasets.open(data_folder() / "bsd68_gray", reader="pictures")
    pictures = [data[k].y for k in range(0, 63, 9)]
    middles = [[(n - 256) // 2 for n in x.shape[2:]] for x in pictures]
    return torch.cat(
        [x[..., r : r + 256, c : c + 256] for x, (r, c) in zip(pictures, middles, strict=True)]
    )


def learn(network: nn.Module, pairs: Pairs, stage: Stage, seed: int = 0) -> nn.Module:
    return train(network, pairs, [stage], seed=seed, progress=False).network


class LevelFree(nn.Module):
    """The residual U-Net at the level of the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ResidualUNet(widths=(24, 48, 64), blocks=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x, x.new_full((len(x),), SIGMA))
        return result


def curve(
    network: nn.Module, pairs: Pairs, loss: Loss, judge: Callable[[nn.Module], float]
) -> tuple[nn.Module, list[float]]:
    """Train in parts, and return the network and its PSNR after each part."""
    found: list[float] = []
    began = time.process_time()
    for part in range(PARTS):
        network = learn(network.requires_grad_(True), pairs, Stage(loss, STEPS, 1e-3, 3), part)
        with torch.no_grad():
            found.append(judge(network))
    weights = sum(p.numel() for p in network.parameters())
    print(
        f"  {type(network).__name__}, {weights} weights, {time.process_time() - began:.0f} s: "
        + " ".join(f"{value:.2f}" for value in found),
        flush=True,
    )
    return network, found


def compare(pairs: Pairs, judge: Callable[[nn.Module], float]) -> nn.Module:
    """Print the curves of a local field and a U-Net, and return the local field."""
    network, found = curve(LocalField(), pairs, AtPixels(pixels=384), judge)
    _, control = curve(LevelFree(), pairs, L1(), judge)
    lost = max(found) - found[-1]
    print(
        f"  local field {lost:.2f} dB below its best at the end",
        verdict(lost <= 0.2, "0.2 dB"),
        f"U-Net {max(control) - control[-1]:.2f} dB",
        verdict(max(control) - control[-1] > 0.2, "falls"),
    )
    return network


def pictures() -> None:
    draw = torch.Generator().manual_seed(0)

    def spoil(x: Tensor) -> Tensor:
        return x + SIGMA * torch.randn(x.shape, generator=draw)

    fine, known = unseen_pictures(), known_pictures()
    test = F.avg_pool2d(fine, 2)
    noisy, noisy_fine = spoil(test), spoil(fine)
    network = compare(Examples(spoil(known), known), lambda f: psnr(f(noisy), test))
    with torch.no_grad():
        gain = psnr(network(noisy), test) - psnr(noisy, test)
        gain_fine = psnr(network(noisy_fine), fine) - psnr(noisy_fine, fine)
        between = network(noisy, size=(256, 256))
    raised = F.interpolate(noisy, size=(256, 256), mode="bicubic")
    print(
        f"  gain over the input {gain:.2f} dB at 128 x 128, {gain_fine:.2f} dB at 256 x 256",
        verdict(gain_fine >= gain - 1, "at most 1 dB less"),
    )
    print(
        f"  128 x 128 noisy pixels computed at 256 x 256: {psnr(between, fine):.2f} dB, bicubic "
        f"interpolation of the input {psnr(raised, fine):.2f}, of the result "
        f"{psnr(F.interpolate(network(noisy), size=(256, 256), mode='bicubic'), fine):.2f}"
    )


# -- memory ----------------------------------------------------------------------------------------


def step_memory(side: int) -> float:
    """Return the peak of the memory that one step allocates beyond picture and weights, MiB."""
    network, x = LocalField(), torch.rand(1, 1, side, side)
    draw = torch.Generator().manual_seed(0)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        AtPixels(pixels=512).of_network(network, x, x, draw).sum().backward()
    held = peak = 0
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def memory() -> None:
    found = {side: step_memory(side) for side in (128, 512, 1024)}
    row = ", ".join(f"{side} x {side}: {value:.1f} MiB" for side, value in found.items())
    ratio = found[1024] / found[128]
    print(
        f"  beyond the picture: {row}; {ratio:.2f} times",
        verdict(ratio < 2, "2 times"),
        "the picture itself: 0.1, 1.0 and 4.0 MiB",
    )


# -- CT --------------------------------------------------------------------------------------------


def best_of(weights: list[float], solve: Callable[[float], Tensor], truth: Tensor) -> str:
    found = {weight: psnr(solve(weight), truth) for weight in weights}
    best = max(found, key=lambda weight: found[weight])
    return f"{found[best]:.2f} dB (weight {best:g})"


def ct() -> None:
    with np.load(data_folder() / "ct_slices" / "ct_hu_256.npz") as file:
        hu = torch.from_numpy(file["hu"].astype(np.float32))[:, None]
        patients = file["patient"]
    fine = 0.5 * (hu / 1000 + 1).clamp_min(0)
    unseen = torch.from_numpy(np.isin(patients, np.unique(patients)[-3:]))
    known, fine = fine[~unseen], fine[unseen][::2]
    known = F.avg_pool2d(known[:: len(known) // 9][:9], 2)
    test = F.avg_pool2d(fine, 2)
    draw = torch.Generator().manual_seed(0)
    angles = torch.arange(45) * math.pi / 45
    A = it.operators.ParallelBeam((128, 128), angles, 184)

    def scan(x: Tensor, A: it.operators.LinearOperator, level: float) -> Tensor:
        y: Tensor = A(x)
        return y + level * torch.randn(y.shape, generator=draw)

    level = 0.01 * float(A(known).abs().amax())
    y = scan(test, A, level)
    first = A.pseudo_inverse(y)
    pairs = Examples(A.pseudo_inverse(scan(known, A, level)), known)
    print(f"  {len(known)} slices, {len(test)} unseen; back-projection {psnr(first, test):.2f} dB")
    network = compare(pairs, lambda f: psnr(f(first), test))
    problem = it.Problem(y, A)
    print(
        "  total variation "
        + best_of(
            [1.0, 2.0, 4.0, 8.0],
            lambda w: it.solve(problem, w * level * it.priors.TotalVariation(), progress=False).x,
            test,
        )
    )
    with torch.no_grad():
        gain = psnr(network(first), test) - psnr(first, test)
        between = network(first, size=(256, 256))
    raised = F.interpolate(first, size=(256, 256), mode="bicubic")
    gain_fine = psnr(between, fine) - psnr(raised, fine)
    print(
        f"  gain over the input {gain:.2f} dB at 128 x 128; computed at 256 x 256 {gain_fine:.2f} "
        "dB over bicubic interpolation"
    )


# -- inpainting ------------------------------------------------------------------------------------


def inpainting() -> None:
    known, truth = known_pictures(), unseen_pictures()
    truth = F.avg_pool2d(truth, 2)
    pairs = InpaintingPairs(list(known.split(1)), 128, known=0.4, shrink=2)
    shown = pairs.spoil(truth, torch.Generator().manual_seed(0))
    found = {}
    for name, mask, detail in (
        ("no mask", False, False),
        ("mask", True, False),
        ("mask, details", True, True),
    ):
        source: Pairs = pairs if mask else WithoutMask(pairs)
        field = LocalField(mask=mask, detail=detail)
        began = time.process_time()
        stage = Stage(AtPixels(pixels=256), 1000, 3e-3, 3, decay="linear")
        network = learn(field, source, stage)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # holes look like noise
            x = network(shown if mask else shown[:, :1], size=(128, 128))
        found[name] = psnr(x, truth)
        print(f"  {name}: {found[name]:.2f} dB, {time.process_time() - began:.0f} s", flush=True)
    print(
        " ",
        verdict(found["no mask"] < found["mask"] < found["mask, details"], "in this order"),
    )

    def by_variation(weight: float) -> Tensor:
        images = []
        for item in shown.split(1):
            mask = item[0, 1:].bool()
            A = it.operators.Inpainting(mask, (1, 64, 64)) @ it.operators.Downsampling(
                (128, 128), 2, filter="box"
            )
            problem = it.Problem(item[:, :1], A)
            prior = weight * it.priors.TotalVariation()
            images.append(it.solve(problem, prior, max_iterations=300, progress=False).x)
        return torch.cat(images)

    print("  total variation " + best_of([3e-4, 1e-3, 3e-3], by_variation, truth))


class WithoutMask(Pairs):
    """The same pairs with 0 in the holes and no mask."""

    def __init__(self, pairs: InpaintingPairs) -> None:
        self.pairs = pairs

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shown, wanted = self.pairs.draw(count, generator)
        return shown[:, :1], wanted


def main(
    only: Literal["pictures", "memory", "ct", "inpainting"] | None = None, threads: int = 1
) -> None:
    parts = {"pictures": pictures, "memory": memory, "ct": ct, "inpainting": inpainting}
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    for name, run in parts.items():
        if only in (None, name):
            print(name, flush=True)
            run()


if __name__ == "__main__":
    run_script(main)
