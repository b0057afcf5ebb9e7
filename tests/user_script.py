"""A user's script that calls the entry points: it runs, and mypy strict knows every type in it."""

from __future__ import annotations

import math
from typing import assert_type

import numpy as np
import torch
from torch import Tensor

import invtoolbox as it


class Smoothness(it.priors.ExplicitPrior):
    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * (x[..., 1:] - x[..., :-1]).square().flatten(1).sum(1)


angles = torch.arange(12) * (math.pi / 12)
parallel = it.operators.ParallelBeam((16, 16), angles, num_detectors=24)
fan = it.operators.FanBeam(
    (16, 16), 2 * angles, num_detectors=32, source_origin=60.0, source_detector=90.0
)
cone = it.operators.ConeBeam((4, 8, 8), 2 * angles, (8, 12), 60.0, 90.0, 1.0, 1.0)
blur = it.operators.Blur(torch.ones(1, 3) / 3, (16, 16), boundary="reflect")
matrix = it.as_operator(torch.ones(3, 4))
x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
y = parallel.simulate(x, noise=0.01, seed=0)
prediction: Tensor = parallel(x)
assert_type(parallel.adjoint(y), Tensor)
assert_type(parallel.pseudo_inverse(y), Tensor)
assert_type(parallel.norm(), Tensor)
double = parallel.to(torch.float64)
assert_type(double, it.operators.ParallelBeam)

problem = it.Problem(y, parallel, it.data_terms.LeastSquares(noise_std=0.01))
solution = it.solve(problem, prior=Smoothness(), max_iterations=5, progress=False)
assert_type(solution, it.Solution)
assert_type(solution.status, tuple[str, ...])
assert_type(solution.parameters, dict[str, Tensor])
several = it.solve([problem, problem], max_iterations=2, progress=False)
assert_type(several, list[it.Solution])
tv = 0.1 * it.priors.TotalVariation() + it.priors.NonNegative()
assert_type(it.solve(problem, tv, it.solvers.PDHG(), max_iterations=3, progress=False), it.Solution)
sobolev = it.Problem(blur(x), blur, it.data_terms.Sobolev(-1.0, length_scale=2.0))
assert_type(it.solve(sobolev, solver="lbfgs", max_iterations=2, progress=False), it.Solution)
quick = it.reconstruct(np.asarray(y[0, 0]), parallel, prior="tv", max_iterations=2, progress=False)
assert_type(quick, it.Solution)
assert_type(it.metrics.psnr(solution.x, x, data_range=1.0), Tensor)

street = it.simulation.street(sweeps=2, points=500)
flow = it.scene_flow(street[0], street[1])
assert_type(flow, Tensor)
points, moved = street[0].points.numpy(), street[1].points.numpy()
assert_type(it.scene_flow(points, moved, ego_motion="none"), np.ndarray)
bar = torch.cartesian_prod(torch.arange(4.0), torch.arange(2.0), torch.arange(2.0))
lifted = it.deform(bar, {0: (0, 0, 0), 1: (0, 0, 1), 2: (0, 1, 0), 14: (3, 1, 1.5)})
assert_type(lifted, Tensor)
