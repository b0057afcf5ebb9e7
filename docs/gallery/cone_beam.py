"""Cone beam: geometry, FDK and TV on a small volume

A point source and a flat panel turn around a volume. `A.plot()` draws the geometry: look at it
before anything else. Feldkamp's method (FDK) is `A.pseudo_inverse`; it amplifies the noise of 40
views. TV with the bound 0 does not.
"""

import math

import matplotlib.pyplot as plt
import torch

import invtoolbox as it

n = 48
z, y_axis, x = torch.meshgrid(*(3 * [torch.linspace(-1, 1, n)]), indexing="ij")
truth = 0.6 * ((x**2 + y_axis**2 + z**2) < 0.8**2).float()
for centre, radius, value in [
    ((0.3, 0.2, 0.0), 0.25, 1.0),
    ((-0.3, 0.1, 0.2), 0.2, 0.2),
    ((0.0, -0.35, -0.1), 0.22, 0.0),
]:
    inside = (x - centre[0]) ** 2 + (y_axis - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2
    truth[inside] = value
truth = truth[None, None]  # (batch, channel, slice, row, column)

angles = torch.arange(40) * (2 * math.pi / 40)
A = it.operators.ConeBeam(
    (n, n, n), angles, detector_shape=(88, 88), source_origin=150.0, source_detector=225.0
)
noise_std = 0.3
y = A.simulate(truth, noise_std, seed=0)
problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise_std))

solution = it.solve(
    problem,
    it.priors.TotalVariation() + it.priors.NonNegative(),
    max_iterations=150,
    progress=False,
)
print(solution)
volumes = {"truth": truth, "FDK": A.pseudo_inverse(y), "TV": solution.x}

A.plot().savefig("cone_beam_geometry.png", dpi=100)
gray = {"cmap": "gray", "vmin": 0, "vmax": 1, "origin": "lower"}
figure, axes = plt.subplots(2, 3, figsize=(9.5, 6.6), layout="constrained")
for column, (name, volume) in enumerate(volumes.items()):
    axes[0, column].imshow(volume[0, 0, n // 2].numpy(), **gray)
    axes[1, column].imshow(volume[0, 0, :, n // 2].numpy(), **gray)
    psnr = float(it.metrics.psnr(volume, truth))
    axes[0, column].set_title(name if volume is truth else f"{name}, {psnr:.1f} dB")
axes[0, 0].set_ylabel("row (y)")
axes[1, 0].set_ylabel("slice (z)")
for ax in axes.flat:
    ax.set_xticks([])
    ax.set_yticks([])
figure.savefig("cone_beam.png", dpi=100)
