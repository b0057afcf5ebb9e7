"""Your own prior, in ten lines

A prior is a class with one method. Here it is an energy of the differences to the neighbours that
grows only logarithmically for large ones: `log(1 + d^2 / s^2)`. `check_prior` tests it against the
contract: sums per item, a gradient that belongs to the energy, the same result of two calls. Then
it runs in every solver that fits, alone or in a sum.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it


class LogDifferences(it.priors.ExplicitPrior):
    is_convex = False

    def __init__(self, scale):
        self.scale = scale

    def energy(self, x):  # (batch, channel, row, column) -> (batch,)
        total = 0
        for axis in (2, 3):
            total = total + torch.log1p((x.diff(dim=axis) / self.scale).square()).flatten(1).sum(1)
        return total


truth = it.datasets.photograph("coins")[..., 20:148, 60:188]
report = it.testing.check_prior(LogDifferences(0.1), truth)
print(f"check_prior: {len(report.findings)} properties tested, {len(report.faults)} fail")

A = it.operators.Blur(torch.ones(5, 5) / 25, (128, 128))
y = A.simulate(truth, noise=0.02, seed=0)
problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.02))
solution = it.solve(problem, LogDifferences(0.1), progress=False)
print(solution)
tikhonov = it.solve(problem, it.priors.Tikhonov(operator="gradient"), progress=False)

figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
for ax, (name, image) in zip(
    axes,
    {"truth": truth, "blurred, noisy": y, "Tikhonov": tikhonov.x, "own prior": solution.x}.items(),
):
    ax.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(
        name if image is truth else f"{name}, {float(it.metrics.psnr(image, truth)):.1f} dB"
    )
    ax.axis("off")
figure.savefig("own_prior.png", dpi=110)
