"""Limited angle: missing edges, and priors that restore them

A parallel beam turns by 60 degrees only. The data contain an edge only if some ray is tangent to
it: filtered back-projection smears all other edges. TV and the bounds 0 and 1 of a two-phase object
restore most of them. The quality depends on how well the prior describes the object; it is an
assumption, not a measurement.
"""

import math

import matplotlib.pyplot as plt
import torch

import invtoolbox as it

n = 96
y_axis, x_axis = torch.meshgrid(torch.linspace(1, -1, n), torch.linspace(-1, 1, n), indexing="ij")
truth = (torch.hypot(x_axis, y_axis) < 0.85).float()
for x0, y0, radius in [
    (0.3, 0.25, 0.22),
    (-0.35, 0.3, 0.15),
    (-0.1, -0.35, 0.28),
    (0.45, -0.3, 0.1),
]:
    truth[torch.hypot(x_axis - x0, y_axis - y0) < radius] = 0
truth = truth[None, None]

angles = torch.linspace(0, math.pi / 3, 61)[:-1]
A = it.operators.ParallelBeam((n, n), angles, num_detectors=138)
noise_std = 0.5
y = A.simulate(truth, noise=noise_std, seed=0)
problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise_std))

images = {
    "truth": truth,
    "filtered back-projection": A.pseudo_inverse(y),
    "TV": it.solve(problem, it.priors.TotalVariation(), max_iterations=500, progress=False).x,
    "TV between 0 and 1": it.solve(
        problem,
        it.priors.TotalVariation() + it.priors.Box(0, 1),
        max_iterations=500,
        progress=False,
    ).x,
}

figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
for ax, (name, image) in zip(axes, images.items()):
    agreement = float(it.metrics.matthews_correlation(image > 0.5, truth > 0.5))
    print(f"{name}: Matthews correlation {agreement:.3f}")
    ax.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(name if image is truth else f"{name}, MCC {agreement:.3f}")
    ax.axis("off")
figure.savefig("limited_angle.png", dpi=110)
