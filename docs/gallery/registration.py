"""Registration: the motion between two pictures

A ring, like a heart in a short-axis slice, contracts and twists. Its displacement is known, so that
the error of a registration can be seen. Pixels of the myocardium look alike, and only its border and
its texture show how it moves. The prior fills in the rest.

Without a prior the two pictures match best, and the motion is wrong and folds. Bending energy, which
leaves affine motion free, finds it. `invtoolbox run registration-simulated` does the same from a scene
file, which takes files of your own.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it
from invtoolbox.simulation.beating_ring import simulate_ring

moving, fixed, u, inside = simulate_ring(seed=0, noise_std=0.03)
row, column = torch.meshgrid(torch.arange(96.0) - 48, torch.arange(96.0) - 48, indexing="ij")

priors = {
    "almost no prior": 1e-4 * it.priors.Bending(),
    "diffusion": it.priors.Diffusion(),
    "bending": it.priors.Bending(),
}
figure, axes = plt.subplots(1, 5, figsize=(16, 3.5), layout="constrained")
axes[0].imshow(moving[0, 0].numpy(), cmap="gray")
axes[0].set_title("moving")
axes[1].imshow(fixed[0, 0].numpy(), cmap="gray")
axes[1].set_title("fixed")
for ax, (name, prior) in zip(axes[2:], priors.items()):
    motion = it.register(moving, fixed, prior)
    found = motion.displacement[0]
    error = float((found - u[0]).norm(dim=0)[inside].mean())
    share = float(it.metrics.folding(motion.displacement))
    print(f"{name}: error {error:.2f} pixels, {share:.1%} of the pixels fold")
    ax.imshow(motion.warped[0, 0].numpy(), cmap="gray")
    for lines in (row + found[0], column + found[1]):
        ax.contour(lines.numpy(), levels=range(-44, 48, 4), colors="tab:orange", linewidths=0.5)
    ax.set_title(f"{name}: error {error:.2f} pixels")
for ax in axes:
    ax.axis("off")
figure.savefig("registration.png", dpi=90)
