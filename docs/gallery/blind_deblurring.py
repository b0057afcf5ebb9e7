"""Blind deblurring: the kernel is unknown too

`Problem(unknown={"kernel": ...})` joins the kernel to the image. `Simplex` keeps it nonnegative with sum 1, TV speaks of the image,
and PALM alternates between the two; no other loop is needed. The problem is not convex, and "no blur at all" is a solution that fits
the data perfectly: so the start matters (a flat kernel here), the weight of TV is large at first, and lower in a second run
from where the first one stopped.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it

n = 96
truth = it.datasets.photograph("page")[..., 20:20 + n, 160:160 + n]
kernel = torch.zeros(7, 7)
for k, weight in enumerate([0.1, 0.15, 0.25, 0.25, 0.15, 0.1]):  # motion along a diagonal
    kernel[1 + k, 5 - k] += weight if 0 <= 5 - k else 0
kernel = kernel / kernel.sum()
noise_std = 0.003
y = it.operators.Blur(kernel, (n, n)).simulate(truth, noise_std, seed=0)

start = it.operators.Blur(torch.full((7, 7), 1 / 49), (n, n))
data_term = it.data_terms.LeastSquares(noise_std=noise_std)
image = None
for weight, iterations in [(400.0, 150), (60.0, 250)]:
    problem = it.Problem(y, start, data_term, unknown={"kernel": it.priors.Simplex()})
    solution = it.solve(problem, it.priors.TotalVariation(), it.solvers.PALM(), regularization=weight, initial=image,
                        max_iterations=iterations, progress=False)
    image, start = solution.x, solution.problem.operator
found = solution.parameters["kernel"][0, 0]
print(solution)
print(f"kernel: relative error {float((found - kernel).norm() / kernel.norm()):.3f}")

known = it.solve(it.Problem(y, it.operators.Blur(kernel, (n, n)), data_term), it.priors.TotalVariation(), progress=False).x
figure, axes = plt.subplots(1, 6, figsize=(16, 3.1), layout="constrained")
for ax, (name, picture) in zip(axes, {
    "truth": truth[0, 0], f"blurred, {float(it.metrics.psnr(y, truth)):.1f} dB": y[0, 0], "true kernel": kernel, "found kernel": found,
    f"blind, {float(it.metrics.psnr(image, truth)):.1f} dB": image[0, 0],
    f"kernel known, {float(it.metrics.psnr(known, truth)):.1f} dB": known[0, 0],
}.items()):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=float(kernel.max()) if "kernel" in name and "dB" not in name else 1)
    ax.set_title(name)
    ax.axis("off")
figure.savefig("blind_deblurring.png", dpi=100)
