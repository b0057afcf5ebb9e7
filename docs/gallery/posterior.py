"""Posterior: a digit of which half is measured

A Gaussian for each of the ten digits, learned from scikit-learn's pictures of 8 x 8, is a prior
with an exact posterior. Only the left half of a digit is measured, with much noise; shown are four
digits that this leaves undetermined. The posterior mean is a blur of all digits that fit. Samples
are digits, not always the same one, and the standard deviation shows where they differ. A diffusion
sampler with the exact score (DiffPIR) comes close. The intervals are calibrated on digits that
belong neither to the prior nor to the test, and reach their nominal coverage.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import invtoolbox as it
from invtoolbox.posteriors.conformal import coverage_curve, residual_scores

digits = load_digits()
pictures, kinds = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
learned, kind, others = pictures[:1200], kinds[:1200], pictures[1200:]

means = torch.stack([learned[kind == k].mean(0) for k in range(10)])
covariances = torch.stack(
    [learned[kind == k].flatten(1).T.cov() for k in range(10)]
) + 2e-3 * torch.eye(64)
prior = it.priors.GaussianMixture(means, covariances)

left = torch.zeros(1, 8, 8)
left[..., :4] = 1
A = it.operators.Inpainting(left, (1, 8, 8))


def measured(truth):
    return it.Problem(
        A.simulate(truth, 0.25, seed=list(range(len(truth)))),
        A,
        it.data_terms.LeastSquares(noise_std=0.25),
    )


candidates = others[:100]
second = it.exact_posterior(measured(candidates), prior).shares.topk(2).values[:, 1]
shown = candidates[second.topk(4).indices]
posterior = it.exact_posterior(measured(shown), prior)
sampled = it.solve(
    measured(shown), prior, it.solvers.DiffPIR(at_once=64, max_iterations=1), progress=False
)
for k in range(len(shown)):
    likely = posterior.shares[k].topk(2)
    print(
        f"picture {k}: a {int(likely.indices[0])} with probability {float(likely.values[0]):.2f}, "
        f"a {int(likely.indices[1])} with {float(likely.values[1]):.2f}; mean of DiffPIR off by "
        f"{float((sampled.x[k] - posterior.mean[k]).norm() / posterior.mean[k].norm()):.0%}, its "
        "standard deviation "
        f"{float(sampled.posterior.std[k].mean() / posterior.std[k].mean()):.2f} times the exact "
        "one"
    )

known, tested = others[100:200], others[200:300]
calibration = it.calibrate_posteriors([it.exact_posterior(measured(known), prior)], [known], 0.95)
scores = residual_scores([it.exact_posterior(measured(tested), prior)], [tested])
print(
    f"95 % intervals hold {scores.below(1.96):.1%} of the pixels as they are, "
    f"{scores.below(calibration.factor()):.1%} calibrated"
)

figure, axes = plt.subplots(
    4, 9, figsize=(13, 6), layout="constrained", gridspec_kw={"width_ratios": [1] * 8 + [2.4]}
)
samples = posterior.sample(4, seed=3)
for k in range(4):
    row = [
        shown[k],
        left * measured(shown).y[k],
        posterior.mean[k],
        posterior.std[k],
        *samples[:, k],
    ]
    names = ["truth", "measured", "mean", "std", "sample", "sample", "sample", "sample"]
    for ax, name, picture in zip(axes[k], names, row):
        ax.imshow(
            picture[0].numpy(),
            cmap="inferno" if name == "std" else "gray",
            vmin=0,
            vmax=0.5 if name == "std" else 1,
        )
        ax.set_title(name if k == 0 else "")
        ax.axis("off")
    axes[k, 8].axis("off")
curve = figure.add_subplot(axes[0, 8].get_gridspec()[:, 8])
for label, this in (("as they are", None), ("calibrated", calibration)):
    levels, actual = coverage_curve(scores, calibration=this)
    curve.plot(levels.numpy(), actual.numpy(), label=label)
curve.plot([0, 1], [0, 1], "k:", linewidth=1)
curve.set_xlabel("an interval says")
curve.set_ylabel("pixels within")
curve.legend(frameon=False)
figure.savefig("posterior.png", dpi=100)
