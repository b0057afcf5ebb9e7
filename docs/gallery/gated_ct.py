"""Gated CT: image and motion in one solve

A ring of textured tissue contracts and relaxes while it is scanned. Every view belongs to one of
six gates, and no gate has more than ten views. Total variation gate by gate loses the texture. One
image for all gates is blurred by the motion. `MovingImage` finds one image and the displacement of
every gate together, so that all sixty views explain the same object.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it
from invtoolbox.simulation.beating_ring import simulate_ring

ring = simulate_ring(seed=0, noise_std=0.0)
amounts = 0.5 - 0.5 * torch.cos(2 * torch.pi * torch.arange(6) / 6)
frames = [it.operators.Warp(a * ring.displacement)(ring.moving) for a in amounts]
series = torch.stack(frames, 2)  # (batch, channel, gate, row, column)

gates = torch.arange(60) % 6
angles = torch.arange(60) * 2.4 % torch.pi
A = it.operators.Gated(it.operators.ParallelBeam((96, 96), angles, 140), gates)
y = A.simulate(series, noise=0.2, seed=0)


def solve(y, A, prior, iterations):
    return it.solve(
        it.Problem(y, A), prior, max_iterations=iterations, progress=False, check=False
    ).x


tv = 0.5 * it.priors.TotalVariation()
still = it.operators.WarpSequence(torch.zeros(6, 2, 96, 96))
results = {
    "truth": series,
    "gate by gate": torch.stack(
        [solve(y[:, :, gates == k], A.parts[k], tv, 100) for k in range(6)], 2
    ),
    "one image": still(solve(y, A @ still, tv, 100)),
    "one image that moves": solve(y, A, it.priors.MovingImage(image=0.5 * it.priors.HuberTV()), 80),
}
figure, axes = plt.subplots(2, 4, figsize=(13, 6.5), layout="constrained")
for column, (name, found) in zip(axes.T, results.items()):
    psnr = float(it.metrics.psnr(found.flatten(2, 3), series.flatten(2, 3), data_range=1.5))
    print(f"{name}: {psnr:.1f} dB")
    for ax, gate in zip(column, (0, 3)):
        ax.imshow(found[0, 0, gate].numpy(), cmap="gray", vmin=0, vmax=1.2)
        ax.axis("off")
    column[0].set_title(name if name == "truth" else f"{name}: {psnr:.1f} dB")
figure.savefig("gated_ct.png", dpi=90)
