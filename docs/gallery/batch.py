"""A batch of different problems, each with its own stopping test

Four photographs with four kernels and four noise levels are one batch: one operator with a kernel
per item, one data term with a noise level per item. Every item gets its own weight, step size and
stopping test, and its answer is the same as alone. The last lines check this.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it

n = 96
truth = torch.cat(
    [
        it.datasets.photograph(name)[:, :1, 60 : 60 + n, 170 : 170 + n]
        for name in ("camera", "coins", "cat", "brick")
    ]
)
r = torch.arange(-5, 6.0)
width = torch.tensor([0.7, 1.0, 1.3, 1.6])[:, None, None]
kernels = torch.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (2 * width**2))
kernels = kernels / kernels.sum((1, 2), keepdim=True)
noise_std = torch.tensor([0.05, 0.03, 0.02, 0.01])

A = it.operators.Blur(kernels[:, None], (n, n))  # (item, channel, row, column)
y = A.simulate(truth, noise=it.operators.noise.Gaussian(noise_std), seed=0)
problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise_std))

left = []  # number of running items after each step
solution = it.solve(
    problem,
    it.priors.TotalVariation(),
    callbacks=[lambda state: left.append(len(state.running))],
    progress=False,
)
psnr = it.metrics.psnr(solution.x, truth)
for k in range(4):
    print(
        f"item {k}: {solution.status[k]} after {int(solution.iterations[k])} steps, weight "
        f"{float(solution.regularization[k]):.3g}, {float(psnr[k]):.1f} dB"
    )
print(
    f"steps with 4, 2 and 1 items in the batch: {left.count(4)}, {left.count(2)}, {left.count(1)}"
)

alone = it.solve(problem.select(torch.tensor([2])), it.priors.TotalVariation(), progress=False)
print(
    "item 2 alone and in the batch: largest difference "
    f"{float((alone.x - solution.x[2:3]).abs().max()):.1e}"
)

figure, axes = plt.subplots(2, 4, figsize=(12, 6.4), layout="constrained")
for k in range(4):
    axes[0, k].imshow(y[k, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    axes[0, k].set_title(f"kernel {float(width[k, 0, 0]):g}, noise {float(noise_std[k]):g}")
    axes[1, k].imshow(solution.x[k, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    axes[1, k].set_title(f"{int(solution.iterations[k])} steps, {float(psnr[k]):.1f} dB")
for ax in axes.flat:
    ax.axis("off")
figure.savefig("batch.png", dpi=90)
