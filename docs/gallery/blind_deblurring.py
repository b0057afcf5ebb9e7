"""Blind deblurring of drawings: the kernel is unknown too

This method is for drawings, labels and other pictures of flat regions. Methods for photographs work
from coarse to fine and select edges; this one does neither, and no photograph is measured here.

`Problem(unknown={"kernel": it.priors.Simplex()})` adds the kernel to the unknowns; the simplex
keeps it nonnegative with sum 1. PALM alternates between image and kernel in the one loop.

The problem is not convex, and three choices decide. The *prior*: TV has the same value for a
blurred edge as for a sharp one and even prefers low contrast, so it finds a kernel that is too
short. A prior of few large differences, `log(1 + d^2 / s^2)`, prefers the sharp edge. The *weight*:
large at first and then lower; each run starts from the last result. The *initial guess*: a flat
kernel.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it


class FewDifferences(it.priors.ExplicitPrior):
    is_convex = False

    def energy(self, x):  # (batch, channel, row, column) -> (batch,)
        return sum(
            torch.log1p((x.diff(dim=axis) / 0.05).square()).flatten(1).sum(1) for axis in (2, 3)
        )


n = 64
rows, columns = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
truth = torch.full((n, n), 0.2)
truth[torch.hypot(rows, columns) < 0.75] = 0.8
truth[(rows > 0.1) & (rows < 0.45) & (columns > -0.4) & (columns < 0.1)] = 0.4
truth[torch.hypot(rows + 0.3, columns - 0.2) < 0.2] = 1.0
truth[torch.hypot(rows + 0.3, columns + 0.35) < 0.12] = 0.0
truth = truth[None, None]

kernel = torch.diag(torch.tensor([0.15, 0.25, 0.3, 0.2, 0.1])).flip(1)  # motion along a diagonal
noise_std = 0.005
y = it.operators.Blur(kernel, (n, n)).simulate(truth, noise_std, seed=0)


def deblur(prior, weights):
    A, image = it.operators.Blur(torch.full((5, 5), 1 / 25), (n, n)), None
    for weight in weights:
        problem = it.Problem(
            y, A, it.data_terms.LeastSquares(noise_std), unknown={"kernel": it.priors.Simplex()}
        )
        solution = it.solve(
            problem,
            prior,
            it.solvers.PALM(),
            regularization=weight,
            initial=image,
            max_iterations=80,
            progress=False,
        )
        image, A = solution.x, solution.problem.operator
    found = solution.parameters["kernel"][0, 0]
    print(
        f"{prior}: relative error of the kernel "
        f"{float((found - kernel).norm() / kernel.norm()):.3f}"
    )
    return image, found


tv, tv_kernel = deblur(it.priors.TotalVariation(), (1000.0, 300.0, 100.0))
few, few_kernel = deblur(FewDifferences(), (30.0, 10.0, 3.0))

figure, axes = plt.subplots(2, 4, figsize=(11, 5.8), layout="constrained")
pictures = {"truth": truth, "blurred": y, "blind, TV": tv, "blind, few differences": few}
for ax, (name, picture) in zip(axes[0], pictures.items()):
    ax.imshow(picture[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(
        name if picture is truth else f"{name}, {float(it.metrics.psnr(picture, truth)):.1f} dB"
    )
for ax, (name, picture) in zip(
    axes[1],
    {
        "true kernel": kernel,
        "start": torch.full((5, 5), 1 / 25),
        "found with TV": tv_kernel,
        "found with few differences": few_kernel,
    }.items(),
):
    ax.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=0.4)
    ax.set_title(name)
for ax in axes.flat:
    ax.axis("off")
figure.savefig("blind_deblurring.png", dpi=100)
