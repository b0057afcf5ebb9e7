"""The prior of digits in a learned proximal network: R(x) grows with corruptions of a digit.

After Fang, Buchanan & Sulam, "What's in a prior? Learned proximal networks for inverse problems"
(ICLR 2024), figure 3. A convex network learns from 9,900 of MNIST's test digits with noise 0.1, by
l1 and then by proximal matching; the last 100 digits are for the test. Each of these gets noise
(clipped to [0, 1] as in the paper), or is blurred, or mixed with another digit, and R is computed
by inversion.

    python benchmarks/lpn_mnist.py [--steps 7000] [--folder CHECKPOINTS] [--threads 1]

Printed: the mean of R over the digits in units of the noise's variance, minus its mean over the
clean digits (R is known up to a constant, and trained to be ``-sigma^2 log p``), the share of
digits whose own R grows at every step, and the error of the inversion. Mixtures are farthest from
both digits at equal shares: R must grow up to equal shares and fall beyond, which no convex prior
can do. The figure goes to ``docs/how_do_i/figures``.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.training import L1, Pairs, ProximalMatching, Stage, keep_freed_memory, train

NOISE = 0.1
TEST = 100
NOISES = (0.0, 0.05, 0.1, 0.2, 0.3)
BLURS = (0.0, 0.5, 1.0, 2.0, 4.0)
MIXTURES = (0.0, 0.25, 0.5, 0.75, 1.0)
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "how_do_i" / "figures" / "lpn_mnist.png"


class NoisyDigits(Pairs):
    """Digits, neither turned nor cropped, and the digits with noise."""

    def __init__(self, digits: Tensor, noise_std: float) -> None:
        self.digits, self.noise_std = digits, noise_std

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        clean = self.digits[torch.randint(len(self.digits), (count,), generator=generator)]
        return clean + self.noise_std * torch.randn(clean.shape, generator=generator), clean

    def __repr__(self) -> str:
        return f"NoisyDigits({len(self.digits)} digits, noise_std={self.noise_std:g})"


def digits(folder: Path) -> Tensor:
    """Read the digits, ``(10000, 1, 28, 28)``, from 0 to 1."""
    with gzip.open(folder / "mnist_t10k" / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16)
    return torch.from_numpy(pixels.reshape(-1, 1, 28, 28) / np.float32(255))


def stages(steps: int) -> list[Stage]:
    """Return the stages: half of the steps by l1, then gamma 8, 4, 2 and 1 times 0.08.

    They are the stages of the paper's code, with larger learning rates because there are fewer
    steps.
    """
    return [
        Stage(L1(), steps // 2, 2e-3, 32),
        *(Stage(ProximalMatching(0.08 * f), steps // 8, 5e-4, 32) for f in (8, 4, 2, 1)),
    ]


def corrupted(clean: Tensor) -> dict[str, tuple[tuple[float, ...], list[Tensor]]]:
    """Return the digits under each strength of each corruption."""
    noise = torch.randn(clean.shape, generator=Generator().manual_seed(1))
    other = clean.roll(1, 0)

    def blurred(width: float) -> Tensor:
        if width == 0:
            return clean
        profile = torch.exp(-0.5 * (torch.arange(-13, 14) / width) ** 2)
        kernel = torch.outer(profile, profile)
        # The background of digits is dark: zeros outside.
        return it.operators.Blur(kernel / kernel.sum(), (28, 28), boundary="zero")(clean)

    return {
        "noise": (NOISES, [(clean + s * noise).clamp(0, 1) for s in NOISES]),
        "blur": (BLURS, [blurred(s) for s in BLURS]),
        "mixture": (MIXTURES, [(1 - t) * clean + t * other for t in MIXTURES]),
    }


def values(prior: it.priors.LearnedProximal, images: Tensor) -> tuple[Tensor, float]:
    """Compute R of every image in units of the noise's variance, and the inversion's largest error.

    20 images at a time fit a cache.
    """
    parts = [prior.inverse(part.double(), tolerance=1e-3) for part in images.split(20)]
    return torch.cat([part.energy for part in parts]) / NOISE**2, max(
        float(part.residual.max()) for part in parts
    )


def figure(
    path: Path,
    pictures: dict[str, tuple[tuple[float, ...], list[Tensor]]],
    energies: dict[str, Tensor],
) -> None:
    from matplotlib.figure import Figure

    page = Figure(figsize=(10, 5.4), layout="constrained")
    grid = page.add_gridspec(2, 3, height_ratios=[3, 1])
    axis_names = {
        "noise": "standard deviation of the noise",
        "blur": "width of the blur, pixels",
        "mixture": "share of another digit",
    }
    for column, (name, (strengths, shown)) in enumerate(pictures.items()):
        R = energies[name]
        axis = page.add_subplot(grid[0, column])
        places = np.arange(len(strengths))
        low, high = (R.quantile(q, 1).numpy() for q in (0.25, 0.75))
        axis.fill_between(places, low, high, alpha=0.25, linewidth=0, label="half of the digits")
        axis.plot(places, R.mean(1).numpy(), "o-", label="mean")
        axis.set_xticks(places, [f"{s:g}" for s in strengths])
        axis.set_xlabel(axis_names[name])
        if column == 0:
            axis.set_ylabel("R(x) / sigma², less that of clean digits")
            axis.legend(frameon=False)
        strip = page.add_subplot(grid[1, column])
        pixels = torch.cat([image[3, 0] for image in shown], 1).numpy()
        strip.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        strip.set_axis_off()
    page.savefig(path, dpi=90)


def main(
    steps: int = 7000, folder: Path | None = None, threads: int = 1, figure_: Path = FIGURE
) -> None:
    """Run the benchmark.

    Args:
        steps: training steps of 32 digits each
        folder: folder of checkpoints, from which a later run continues
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    print(machine())
    every = digits(data_folder())
    clean = every[-TEST:]
    network = it.priors.ConvexConvolution(
        1, widths=(32, 32, 32), strides=(2, 1, 2), kernel_size=5, beta=10.0, strong_convexity=0.01
    )
    trained = train(
        network,
        NoisyDigits(every[:-TEST], NOISE),
        stages(steps),
        seed=1,
        folder=folder,
        progress=False,
    )
    prior = it.priors.LearnedProximal(trained.network, sigma=NOISE)
    shown = clean + NOISE * torch.randn(clean.shape, generator=Generator().manual_seed(0))
    before, after = (float(it.metrics.psnr(x, clean).mean()) for x in (shown, prior.prox(shown)))
    weights = sum(p.numel() for p in network.parameters())
    print(
        f"{weights} weights, {steps} steps, {trained.seconds:.0f} s in this run; digits "
        f"with noise {before:.2f} dB, after the prox {after:.2f} dB"
    )

    precise = prior.to(torch.float64)
    pictures = corrupted(clean)
    found: dict[str, Tensor] = {}
    of_clean, clean_missed = values(precise, clean)
    for name, (strengths, images) in pictures.items():
        began = time.perf_counter()
        parts = [values(precise, image) for image in images[1:]]
        R = torch.stack([of_clean, *(R for R, _ in parts)])
        found[name] = R - of_clean.mean()
        means, missed = found[name].mean(1), max(clean_missed, *(miss for _, miss in parts))
        share = float((found[name].diff(dim=0) > 0).all(0).double().mean())
        print(
            f"{name:8} "
            + "  ".join(f"{s:g}: {float(m):.1f}" for s, m in zip(strengths, means))
            + f"  ({time.perf_counter() - began:.0f} s, inversion misses {missed:.1e} at most)",
            flush=True,
        )
        if name == "mixture":
            hump = (
                bool(means.diff()[0] > 0)
                and bool(means.diff()[1] > 0)
                and bool(means.diff()[2] < 0)
                and bool(means.diff()[3] < 0)
            )
            print(f"{'':8} grows until half way and falls after {verdict(hump, 'both')}")
        else:
            print(
                f"{'':8} grows at every step, also for {share:.0%} of the digits alone "
                f"{verdict(bool((means.diff() > 0).all()), 'monotone in the mean')}"
            )
    figure(figure_, pictures, found)


if __name__ == "__main__":
    run_script(main)
