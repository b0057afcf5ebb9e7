"""Choosing the weight: discrepancy, SURE, GCV and the L-curve

The curve shows the quality of the reconstruction for every weight, which only a simulation can
compute. The marks show the weights that the rules choose without the truth. The discrepancy
principle and SURE use the noise level; GCV and the L-curve do not. All rules except the first solve
the problem with several weights.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it

truth = it.datasets.photograph("camera")[..., 100:164, 190:254]
A = it.operators.Blur(torch.ones(5, 5) / 25, (64, 64))
y = A.simulate(truth, noise=0.02, seed=0)
problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.02))
prior = it.priors.TotalVariation()

# One batch: the same picture with 15 weights. Every item of a batch has its own weight and stops by
# itself.
weights = torch.logspace(0, 2.5, 15)
sweep = it.solve(
    it.Problem(y.expand(15, -1, -1, -1), A, problem.data_term),
    prior,
    regularization=weights,
    progress=False,
)
quality = it.metrics.psnr(sweep.x, truth.expand_as(sweep.x))

chosen = {}
for rule in ("discrepancy", "sure", "gcv", "l-curve"):
    solution = it.solve(problem, prior, regularization=rule, progress=False)
    chosen[rule] = solution
    psnr = float(it.metrics.psnr(solution.x, truth))
    print(
        f"{rule}: weight {float(solution.regularization):.2f}, {psnr:.2f} dB, "
        f"{solution.seconds:.1f} s"
    )

figure, (left, *right) = plt.subplots(
    1, 4, figsize=(14, 3.6), layout="constrained", width_ratios=(1.5, 1, 1, 1)
)
left.semilogx(weights.numpy(), quality.numpy(), color="black")
for (rule, solution), marker in zip(chosen.items(), "osD^"):
    left.plot(
        float(solution.regularization),
        float(it.metrics.psnr(solution.x, truth)),
        marker,
        markersize=8,
        label=rule,
    )
left.set(xlabel="weight of TV", ylabel="PSNR, dB")
left.legend()
for ax, (name, image) in zip(
    right,
    {
        "too little": sweep.x[0, 0],
        "discrepancy": chosen["discrepancy"].x[0, 0],
        "too much": sweep.x[-1, 0],
    }.items(),
):
    ax.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(name)
    ax.axis("off")
figure.savefig("choosing_the_weight.png", dpi=110)
