"""Calibration: a detector in the wrong place

The detector is shifted by 3 cells, and the shift is not recorded. A reconstruction without the
shift doubles every edge. `Problem(unknown={"detector_shift": None})` adds the shift to the
unknowns. Any parameter in `A.parameters()` can be estimated in this way: angles, distances, poses,
a blur kernel.
"""

import math

import matplotlib.pyplot as plt
import torch

import invtoolbox as it

truth = it.datasets.ct_small("1/mm").y
angles = torch.arange(120) * (2 * math.pi / 120)


def scan(shift):
    return it.operators.FanBeam(
        (128, 128),
        angles,
        num_detectors=200,
        source_origin=500.0,
        source_detector=800.0,
        pixel_size=0.66,
        detector_shift=shift,
    )  # a length, in mm like the others; cells are 1 mm wide


y = scan(3.0).simulate(truth, noise=0.02, seed=0)
data_term = it.data_terms.LeastSquares(noise_std=0.02)
prior, weight = it.priors.Tikhonov(operator="gradient"), 3e4

assumed = it.solve(
    it.Problem(y, scan(0.0), data_term), prior, regularization=weight, progress=False
)
solution = it.solve(
    it.Problem(y, scan(0.0), data_term, unknown={"detector_shift": None}),
    prior,
    regularization=weight,
    max_iterations=40,
    progress=False,
)
shift = float(solution.parameters["detector_shift"])
print(solution.reason)
print(f"shift found: {shift:.3f} mm, true: 3 mm")
final = it.solve(
    it.Problem(y, solution.problem.operator, data_term), it.priors.TotalVariation(), progress=False
)

figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
for ax, (name, image) in zip(
    axes,
    {
        "truth": truth,
        "taken as 0 mm": assumed.x,
        f"found: {shift:.2f} mm": solution.x,
        "TV with the shift found": final.x,
    }.items(),
):
    psnr = float(it.metrics.psnr(image, truth, data_range=truth.max()))
    ax.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=0.03)
    ax.set_title(name if image is truth else f"{name}, {psnr:.1f} dB")
    ax.axis("off")
figure.savefig("calibration.png", dpi=110)
