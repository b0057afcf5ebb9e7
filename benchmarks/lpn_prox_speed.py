"""One prox of a 256x256 picture: the catalogue's convex network and the architecture of the paper.

    python benchmarks/lpn_prox_speed.py [--minutes 4] [--threads 1] [--skip-training]

The reference is a port of the layers that Fang, Buchanan & Sulam, "What's in a prior? Learned
proximal networks for inverse problems" (ICLR 2024), use for pictures: 3x3 convolutions with strides
1, 2, 1, 2, 1, 2 of 256 channels, a 16x16 convolution to 64, a linear layer; skips from the picture
resized by linear interpolation, softplus with beta 100, initial weights exp(N(-10, 0.1)). A larger
picture is cut into 128x128 patches every 64 pixels, whose results are averaged.

Its time is the time of an untrained forward pass, with f by autograd. For the PSNR its layers are
64 wide. Both networks are trained by l1 for the same processor minutes, on the data of
priors/lpn-natural-0.1 (noise 0.1), each at the better of two learning rates, and denoise the
central 256x256 pixels of the pictures that the recipe holds out.
"""

from __future__ import annotations

import time
from functools import partial

import torch
import torch.nn.functional as F
from common import alternating, machine, run_script, verdict
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.catalogue.documents import check, content_of
from invtoolbox.networks.convex_network import ConvexNetwork, item_sum
from invtoolbox.training import L1, NoisyPairs, Stage, keep_freed_memory, train
from invtoolbox.training.recipe import Recipe

ENTRY, SIDE, STRIDE = "lpn-natural-0.1", 128, 64


class PaperLayers(ConvexNetwork):
    """The paper's layers for grey 128x128 patches; larger pictures are averages over patches."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        self.strong_convexity = 2e-6  # their alpha lacks the factor 1/2
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(1, width, 3, padding=1)
            self.strides = (2, 1, 2, 1, 2)
            self.hidden = nn.ModuleList(
                [nn.Conv2d(width, width, 3, s, 1, bias=False) for s in self.strides]
            )
            self.skips = nn.ModuleList([nn.Conv2d(1, width, 3, padding=1) for _ in self.strides])
            self.pooling = nn.Conv2d(width, 64, 16, bias=False)
            self.pooling_skip = nn.Conv2d(1, 64, 16)
            self.readout = nn.Linear(64, 1, bias=False)
            for layer in (*self.hidden, self.pooling, self.readout):
                layer.weight.data = torch.exp(0.1 * torch.randn_like(layer.weight) - 10)
        self.nonnegative = (
            *(f"hidden.{k}.weight" for k in range(len(self.strides))),
            "pooling.weight",
            "readout.weight",
        )

    def potential(self, x: Tensor) -> Tensor:
        z, side = F.softplus(self.first(x), 100), SIDE
        for layer, skip, stride in zip(self.hidden, self.skips, self.strides):
            side //= stride
            z = F.softplus(layer(z) + skip(self._resized(x, side)), 100)
        z = F.softplus(self.pooling(z) + self.pooling_skip(self._resized(x, side)), 100)
        return self.readout(z.flatten(1))[:, 0].double() + 0.5 * self.strong_convexity * item_sum(
            x.square()
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == SIDE and x.shape[-2] == SIDE:
            return super().forward(x)
        result, covers = torch.zeros_like(x), torch.zeros_like(x)
        for top in range(0, x.shape[-2] - SIDE + 1, STRIDE):
            for left in range(0, x.shape[-1] - SIDE + 1, STRIDE):
                window = (..., slice(top, top + SIDE), slice(left, left + SIDE))
                result[window] += super().forward(x[window])
                covers[window] += 1
        return result / covers

    def _resized(self, x: Tensor, side: int) -> Tensor:
        return x if side == x.shape[-1] else F.interpolate(x, (side, side), mode="bilinear")


def trained_for(
    network: ConvexNetwork, pairs: NoisyPairs, count: int, rate: float, seconds: float
) -> tuple[ConvexNetwork, int]:
    """Train for a number of processor seconds, estimated from the time of the first steps."""
    began = time.process_time()
    train(network, pairs, [Stage(L1(), 20, rate, count)], progress=False)
    steps = max(
        20, round(seconds / ((time.process_time() - began) / 21))
    )  # the initial point is evaluated too
    result = train(network, pairs, [Stage(L1(), steps, rate, count)], progress=False).network
    assert isinstance(result, ConvexNetwork)
    return result, steps


def quality(network: ConvexNetwork, pictures: list[Tensor], noise: float) -> float:
    with torch.no_grad():
        scores = []
        for k, picture in enumerate(pictures):
            top, left = ((n - 256) // 2 for n in picture.shape[-2:])
            x = picture[..., top : top + 256, left : left + 256]
            y = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
            scores.append(float(it.metrics.psnr(network(y), x)))
    return sum(scores) / len(scores)


def main(minutes: float = 4.0, threads: int = 1, skip_training: bool = False) -> None:
    keep_freed_memory()
    torch.set_num_threads(threads)
    print(machine())
    prior = it.priors.load(ENTRY)
    ours, theirs = prior.network, PaperLayers(256).requires_grad_(False)
    x = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        times = alternating({"ours": partial(ours, x), "theirs": partial(theirs, x)}, repeats=3)
    ratio = times["theirs"] / times["ours"]
    print(
        f"one prox of 256x256: {1e3 * times['ours']:.0f} ms, the paper's layers "
        f"{1e3 * times['theirs']:.0f} ms, {ratio:.1f} times",
        verdict(ratio >= 4, "4 times as fast"),
    )
    if skip_training:
        return
    path = it.catalogue.find("priors", ENTRY).path.parent / "recipe.toml"
    path, content = content_of(path, ())
    recipe = check(Recipe, path, content)
    assert recipe.validation is not None
    held_out, noise = list(recipe.validation.pairs(path).images), recipe.data.noise_std
    images = list(recipe.data.pairs(path).images)
    fresh = it.presets.build_network(content["network"], None).requires_grad_(True)
    scores: dict[str, float] = {}
    for name, network, crop, count in (
        ("ours", fresh, recipe.data.crop, 16),
        ("theirs, 64 wide", PaperLayers(64), SIDE, 4),
    ):
        assert isinstance(network, ConvexNetwork)
        for rate in (1e-3, 3e-3):
            began = time.process_time()
            result, steps = trained_for(
                network, NoisyPairs(images, noise, crop), count, rate, 60 * minutes
            )
            score = quality(result, held_out, noise)
            scores[name] = max(score, scores.get(name, 0.0))
            print(
                f"{name}, learning rate {rate:g}: {steps} steps of {count} crops of {crop} in "
                f"{time.process_time() - began:.0f} s of the processor, {score:.2f} dB on "
                f"{len(held_out)} held-out pictures",
                flush=True,
            )
    gain = scores["ours"] - scores["theirs, 64 wide"]
    print(f"ours over theirs {gain:+.2f} dB", verdict(gain >= 0, "not below"))
    print(
        "(the prior of the catalogue, trained as its recipe says: "
        f"{quality(ours, held_out, noise):.2f} dB)"
    )


if __name__ == "__main__":
    run_script(main)
