"""CT of a DICOM slice: FBP, TV, graphLa and the best prior by name

A real CT slice is projected with a fan beam, 60 views and 2 % noise. Filtered back-projection
inverts the scan and amplifies the noise. Total variation prefers flat regions. The graph Laplacian
(graphLa) connects pixels with similar values in the TV image, and penalizes differences along these
connections only. `prior="auto"` compares trained priors too, and takes the one that predicts
held-out views best.

No weight is given: the default rule finds it, for each prior, from views that are held out.
"""

import math

import matplotlib.pyplot as plt
import torch

import invtoolbox as it

slice_ = it.datasets.ct_small("1/mm")  # attenuation in 1/mm, (1, 1, 128, 128); comes with pydicom
truth, pixel_size = slice_.y, slice_.meta["pixel_size"]
angles = torch.arange(60) * (2 * math.pi / 60)
A = it.operators.FanBeam(
    (128, 128),
    angles,
    num_detectors=192,
    source_origin=500.0,
    source_detector=800.0,
    pixel_size=pixel_size,
)

clean = A(truth)
noise_std = 0.02 * float(clean.norm()) / math.sqrt(clean.numel())
y = A.simulate(truth, noise=noise_std, seed=0)
problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise_std))

images = {"truth": truth, "filtered back-projection": A.pseudo_inverse(y)}
for name, prior in {
    "TV": it.priors.TotalVariation(),
    "graphLa over TV": it.priors.GraphLaplacian(first="tv"),
}.items():
    solution = it.solve(problem, prior, progress=False)
    print(name, solution, sep="\n", end="\n\n")
    images[name] = solution.x

best = it.reconstruct(y, A, prior="auto", progress=False)  # it is not given the noise level
print("auto", best, sep="\n")
images["auto"] = best.x

figure, axes = plt.subplots(1, 5, figsize=(13, 3.0), layout="constrained")
for ax, (name, image) in zip(axes, images.items()):
    psnr = float(it.metrics.psnr(image, truth, data_range=truth.max()))
    ax.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=0.03)
    ax.set_title(name if image is truth else f"{name}, {psnr:.1f} dB")
    ax.axis("off")
figure.savefig("ct_slice.png", dpi=110)
