"""Deblurring a photograph: four priors without a network, and a trained denoiser

One blurred and noisy photograph, four priors without a network, and the denoiser that ships. The
default rule finds the weight of each prior without a network from pixels that are held out. The
toolbox chooses a solver that fits the prior, and the printed lines give the choice and the reason.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it

truth = it.datasets.photograph("camera")[
    ..., 80:208, 160:288
]  # (1, 1, 128, 128), values from 0 to 1
r = torch.arange(-4, 5.0)
kernel = torch.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (2 * 1.6**2))
A = it.operators.Blur(kernel / kernel.sum(), truth.shape[2:])
y = A.simulate(truth, noise=0.02, seed=0)
problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.02))

images = {"truth": truth, "blurred, noisy": y}
for name, prior in {
    "Tikhonov": it.priors.Tikhonov(operator="gradient"),
    "TV": it.priors.TotalVariation(),
    "wavelets": it.priors.StationaryWaveletL1(),
    "graphLa over TV": it.priors.GraphLaplacian(first="tv"),
    "denoiser-natural": it.priors.load("denoiser-natural"),
}.items():
    solution = it.solve(problem, prior, progress=False)
    print(
        f"{name}: {solution.reason}; weight {float(solution.regularization):.3g}, "
        f"{solution.seconds:.1f} s"
    )
    images[name] = solution.x

figure, axes = plt.subplots(2, 4, figsize=(13, 7.0), layout="constrained")
axes.flat[-1].axis("off")
for ax, (name, image) in zip(axes.flat, images.items()):
    ax.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(
        name if image is truth else f"{name}, {float(it.metrics.psnr(image, truth)):.1f} dB"
    )
    ax.axis("off")
figure.savefig("deblurring.png", dpi=100)
