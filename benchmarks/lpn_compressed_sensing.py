"""Compressed sensing of a CT slice at rates 1/16 and 1/4: a learned prior, and wavelets.

After Fang, Buchanan & Sulam (ICLR 2024), section 5: random signs, a circulant matrix of normal
entries, and a random part of the result; noise 1e-3; the image lies in [0, 1]. Here the circulant
has a flat spectrum with random phases, so that its norm is known: its rows are exactly orthogonal,
while the paper's rows are nearly orthogonal. The slices are those of `lpn_ct.py`.

    python benchmarks/lpn_compressed_sensing.py [--prior lpn-ct] [--slices 4] [--rates 4,16]
                                                [--iterations 80] [--threads 2]

Rows: the pseudo-inverse, wavelet l1 and LPN, both by ADMM with the box [0, 1] and at the best
weight by the true slices: factors of 4 until the best lies inside, then two halvings of the
distance. PSNR has peak 1.
"""

from __future__ import annotations

import math

import torch
from common import machine, run_script, verdict
from lpn_ct import best, score, slices
from torch import Tensor

import invtoolbox as it

NOISE = 1e-3


class CirculantSensing(it.operators.LinearOperator):
    """Random signs, a circulant matrix with a flat spectrum, and ``count`` of its n outputs.

    ``A x = S C D x`` with ``|A| = 1``.
    """

    def __init__(self, image_shape: tuple[int, int], count: int, seed: int = 0) -> None:
        n = math.prod(image_shape)
        self.domain_shape, self.range_shape = (1, *image_shape), (1, count)
        generator = torch.Generator().manual_seed(seed)
        self.signs = torch.randint(0, 2, (n,), generator=generator) * 2.0 - 1
        entries = torch.randn(n, generator=generator, dtype=torch.float64)
        spectrum = torch.fft.rfft(entries)
        self.phases = spectrum / spectrum.abs()
        self.index = torch.randperm(n, generator=generator)[:count].sort().values

    def _forward(self, x: Tensor) -> Tensor:
        return self._filtered(x.flatten(1) * self.signs.to(x.dtype), self.phases)[
            :, None, self.index
        ]

    def _adjoint(self, y: Tensor) -> Tensor:
        spread = y.new_zeros(len(y), len(self.signs)).index_copy(1, self.index, y[:, 0])
        mixed = self._filtered(spread, self.phases.conj()) * self.signs.to(y.dtype)
        return mixed.view(len(y), *self.domain_shape)

    def _filtered(self, x: Tensor, phases: Tensor) -> Tensor:
        transformed = torch.fft.rfft(x)
        return torch.fft.irfft(transformed * phases.to(transformed.dtype), n=x.shape[1])

    @property
    def has_normal_resolvent(self) -> bool:
        return True

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``(w A^T A + rho)^-1 v``, using ``A A^T = 1``."""
        rho, weight = (
            torch.as_tensor(t, dtype=v.dtype).reshape(-1, 1, 1, 1) for t in (rho, weight)
        )
        return v / rho - weight / (rho * (rho + weight)) * self.normal(v)


def main(
    prior: str = "lpn-ct",
    slices_: int = 4,
    rates: str = "4,16",
    iterations: int = 80,
    threads: int = 2,
) -> None:
    torch.set_num_threads(threads)
    print(machine())
    truth = slices(slices_)
    prior = it.priors.load(prior)
    box = it.priors.Box(0, 1)
    for rate in (int(r) for r in rates.split(",")):
        A = CirculantSensing((256, 256), 256 * 256 // rate)
        problem = it.Problem(A.simulate(truth, NOISE, seed=list(range(len(truth)))), A)
        start = A.adjoint(problem.y)
        print(f"rate 1/{rate}: pseudo-inverse {score(start, truth):.2f} dB", flush=True)

        def solved(
            term: it.priors.Prior, problem: it.Problem = problem, start: Tensor = start
        ) -> Tensor:
            return it.solve(
                problem,
                term,
                it.solvers.ADMM(),
                regularization=1.0,
                initial=start,
                max_iterations=iterations,
                tolerance=1e-5,
                progress=False,
            ).x

        scores = {}
        for name, make, first in (
            ("wavelet l1", lambda w: solved(w * it.priors.WaveletL1() + box), 1e-3),
            ("LPN", lambda w: solved(w * prior + box), 1e-2),
        ):
            weight, x, seconds = best(make, truth, first, factor=4.0, refine=2)
            scores[name] = score(x, truth)
            print(
                f"rate 1/{rate}: {name:11} {scores[name]:.2f} dB, weight {weight:.4g}, "
                f"{seconds:.1f} s for {len(truth)} slices",
                flush=True,
            )
        print(
            f"rate 1/{rate}: LPN over wavelets {scores['LPN'] - scores['wavelet l1']:.2f} dB "
            f"{verdict(scores['LPN'] > scores['wavelet l1'], 'above')}"
        )


if __name__ == "__main__":
    run_script(main)
