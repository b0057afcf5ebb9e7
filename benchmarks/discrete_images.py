"""Few levels that are not given: recovery of vectors, and CT of one material from five views.

    python benchmarks/discrete_images.py [--trials 30] [--only recovery|ct]

Recovery, as in section 4 of Taner, Wang & Studer (ICLR 2025): 100 unknowns, a Gaussian matrix, no
noise. Printed is the share of the trials whose relative error is below 1 %, `CauchySchwarz` with
L-BFGS from random starts (the best of ten energies for binary vectors, one start for the others),
compared with the least maximum norm (binary) and the least l1 norm (the others), as linear programs.

CT: unions of ellipses with holes, 128 x 128, gray level 0.7, five parallel views, noise of 1 % of
the maximum. Total variation has the best of four weights by the truth on each picture, and is cut
by Otsu's threshold. `CauchySchwarz` starts from it, with Huber total variation 3 and weights 10 and
100 in turn, which were chosen on the seeds 0 to 3, and is cut at half of its own level. Printed are
Matthews' correlations and the level as a share of the true one, on the seeds 10 to 19.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from common import machine, run_script, verdict
from scipy.optimize import linprog
from skimage.filters import threshold_otsu
from torch import Tensor

import invtoolbox as it
from invtoolbox.priors import Box, CauchySchwarz, HuberTV, TotalVariation

UNKNOWNS, LEVEL, SIZE = 100, 0.7, 128
#: Allowed values, shares of measurements, and number of starts.
RECOVERY: dict[str, tuple[tuple[float, ...], tuple[float, ...], int]] = {
    "binary": ((-1.0, 1.0), (0.4, 0.5, 0.6, 0.7), 10),
    "one-sided": ((0.0, 1.0), (0.5, 0.6, 0.7), 1),
    "ternary": ((-1.0, 0.0, 1.0), (0.6, 0.7, 0.8), 1),
}
BARS = {
    "binary": "1 at 0.7, and at 0.5 at least the linear program's",
    "one-sided": "1 at 0.7",
    "ternary": "0.9 at 0.8",
}


def least_norm(matrix: Tensor, y: Tensor, maximum: bool) -> Tensor:
    """Solve ``min |x| subject to matrix x = y`` in the maximum norm or the l1 norm."""
    A, n = matrix.numpy(), matrix.shape[1]
    if maximum:
        cost = np.append(np.zeros(n), 1.0)
        bound = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
        equal = np.hstack([A, np.zeros((len(A), 1))])
        x = linprog(cost, bound, np.zeros(2 * n), equal, y.numpy(), (None, None)).x[:n]
    else:
        parts = linprog(np.ones(2 * n), A_eq=np.hstack([A, -A]), b_eq=y.numpy()).x
        x = parts[:n] - parts[n:]
    return torch.from_numpy(x)


def recovery(trials: int) -> None:
    print("recovered vectors of 100 unknowns, share of the trials: Cauchy-Schwarz (linear program)")
    for levels, (values, shares, starts) in RECOVERY.items():
        found: dict[float, list[float]] = {}
        for share in shares:
            g = torch.Generator().manual_seed(round(1000 * share))
            wins = [0, 0]
            for _ in range(trials):
                matrix = torch.randn(round(share * UNKNOWNS), UNKNOWNS, generator=g).double()
                index = torch.randint(len(values), (UNKNOWNS,), generator=g)
                truth = torch.tensor(values, dtype=torch.float64)[index]
                A = it.as_operator(matrix)
                solution = it.solve(
                    it.Problem(A(truth.view(1, 1, -1)).expand(starts, 1, -1), A),
                    CauchySchwarz(levels),  # type: ignore[arg-type]
                    it.solvers.LBFGS(),
                    regularization=1.0,
                    initial=torch.randn(starts, 1, UNKNOWNS, generator=g).double(),
                    max_iterations=2000,
                    progress=False,
                )
                last = torch.stack(
                    [h[~h.isnan()][-1] for h in solution.history["objective"].unbind(1)]
                )
                best = solution.x[int(last.argmin()), 0]
                rival = least_norm(matrix, matrix @ truth, levels == "binary")
                for k, x in enumerate((best, rival)):
                    wins[k] += int(float((x - truth).norm() / truth.norm()) < 1e-2)
            found[share] = [w / trials for w in wins]
        row = ", ".join(f"{s:.1f}: {a:.2f} ({b:.2f})" for s, (a, b) in found.items())
        last = max(shares)
        holds = found[last][0] >= (0.9 if levels == "ternary" else 1.0)
        if levels == "binary":
            holds = holds and found[0.5][0] >= found[0.5][1]
        print(f"  {levels:9} {row}", verdict(holds, BARS[levels]), flush=True)


def ellipses(seed: int) -> np.ndarray:
    """Return a mask: the union of six ellipses without six smaller ones, in a disc."""
    g = np.random.default_rng(seed)
    v, u = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) / (SIZE / 2)

    def ellipse(scale: float) -> np.ndarray:
        centre, axes = g.uniform(-0.55, 0.55, 2), g.uniform(0.1, 0.35, 2) * scale
        angle = g.uniform(0, np.pi)
        c, s = np.cos(angle), np.sin(angle)
        x, y = u - centre[0], v - centre[1]
        return ((c * x + s * y) / axes[0]) ** 2 + ((c * y - s * x) / axes[1]) ** 2 < 1

    mask = np.zeros((SIZE, SIZE), dtype=bool)
    for _ in range(6):
        mask |= ellipse(1.4)
    for _ in range(6):
        mask &= ~ellipse(0.6)
    return mask & (np.hypot(u, v) < 0.9)


def ct(seeds: range) -> None:
    views = 5
    A = it.operators.ParallelBeam((SIZE, SIZE), torch.arange(views) * torch.pi / views, 184)
    rows = []
    for seed in seeds:
        mask = ellipses(seed)
        clean = A(LEVEL * torch.from_numpy(mask).float()[None, None])
        std = 0.01 * float(clean.max())
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
        problem = it.Problem(clean + std * noise, A, it.data_terms.LeastSquares(noise_std=std))

        def matthews(x: Tensor, threshold: float, mask: np.ndarray = mask) -> float:
            found = x.numpy()[0, 0] > threshold
            return float(np.corrcoef(found.ravel(), mask.ravel())[0, 1])

        tried = [
            it.solve(problem, TotalVariation() + Box(0, None), regularization=w, progress=False).x
            for w in (0.3, 1.0, 3.0, 10.0)
        ]
        scores = [matthews(x, threshold_otsu(x.numpy())) for x in tried]
        x = tried[int(np.argmax(scores))]
        for weight in (10.0, 100.0):
            prior = 3.0 * HuberTV(0.01) + weight * CauchySchwarz("one-sided")
            x = it.solve(
                problem, prior, it.solvers.LBFGS(), initial=x, max_iterations=300, progress=False
            ).x
        level = float(CauchySchwarz("one-sided").level(x))
        rows.append((max(scores), matthews(x, level / 2), level / LEVEL))
        print(
            f"  seed {seed}: total variation {rows[-1][0]:.4f}, Cauchy-Schwarz {rows[-1][1]:.4f}, "
            f"level {rows[-1][2]:.3f} of the true one",
            flush=True,
        )
    tv, ours, level = np.array(rows).T
    print(
        f"  mean: {tv.mean():.4f} and {ours.mean():.4f}, levels {level.min():.3f} to "
        f"{level.max():.3f}",
        verdict(ours.mean() >= tv.mean() + 0.004, "0.004 above"),
        verdict(bool((abs(level - 1) <= 0.05).all()), "level within 5 %"),
    )


def main(trials: int = 30, only: Literal["recovery", "ct"] | None = None) -> None:
    torch.set_num_threads(1)
    print(machine(), flush=True)
    if only != "ct":
        recovery(trials)
    if only != "recovery":
        print(f"Matthews' correlation of one material from five views, {SIZE} x {SIZE}")
        ct(range(10, 20))


if __name__ == "__main__":
    run_script(main)
