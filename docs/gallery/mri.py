"""MRI: eight coils, every third line

Eight simulated coils measure a head-like phantom: every third line of k-space and the 16 lines in
the middle. Zero-filling folds the picture over itself. Least squares with the coil maps (SENSE)
unfolds it and amplifies noise, which a wavelet prior removes. Samples that were not taken have
weight 0, because the operator knows its mask.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

import invtoolbox as it

n, coils = 128, 8
head = torch.from_numpy(resize(shepp_logan_phantom(), (n, n), anti_aliasing=True)).float()
rows, columns = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
truth = (head * torch.exp(0.8j * torch.pi * rows))[None, None]  # complex, with a slow phase

turn = torch.arange(coils) * (2 * np.pi / coils)
distance = (rows - 1.2 * turn.sin()[:, None, None]) ** 2 + (
    columns - 1.2 * turn.cos()[:, None, None]
) ** 2
maps = torch.exp(-distance / 0.5) * torch.exp(1j * turn[:, None, None])
maps = maps / maps.abs().square().sum(0).sqrt()  # (coil, row, column)

mask = torch.zeros(1, n)
mask[:, ::3] = 1
mask[:, n // 2 - 8 : n // 2 + 8] = 1  # the middle of k-space, index n // 2, is sampled in full
A = it.operators.CartesianMRI(mask, (n, n), coil_maps=maps)
noise_std = 0.015
y = A.simulate(truth, noise_std, seed=0)
problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std))

print(f"{float(mask.mean()):.0%} of k-space is sampled")
images = {"truth": truth, "zero-filled": A.adjoint(y)}
images["SENSE (least squares)"] = it.solve(problem, max_iterations=15, progress=False).x
solution = it.solve(problem, it.priors.StationaryWaveletL1(), progress=False)
print(solution)
images["wavelet prior"] = solution.x
solution = it.solve(problem, it.priors.TotalVariation(), progress=False)
images["TV"] = solution.x

figure, axes = plt.subplots(1, 5, figsize=(15, 3.4), layout="constrained")
for ax, (name, image) in zip(axes, images.items()):
    psnr = float(it.metrics.psnr(image.abs(), truth.abs()))
    ax.imshow(image[0, 0].abs().numpy(), cmap="gray", vmin=0, vmax=0.6)
    ax.set_title(name if image is truth else f"{name}, {psnr:.1f} dB")
    ax.axis("off")
figure.savefig("mri.png", dpi=100)
