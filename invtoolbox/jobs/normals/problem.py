"""The problem of integrating one normal map, or a front and a back, and its coarse-to-fine start.

The unknown z is the depth in pixels, or its logarithm for a perspective camera. One side minimizes
the bilateral energy of Cao et al., "Bilateral Normal Integration", ECCV 2022. Two sides and a coarse
depth z_0 add the terms of d-BiNI (Xiu et al., "ECON", CVPR 2023)::

    D(A z, y) + prior_weight |z - z_0|^2 + coupling |z_front - z_back|^2 at the silhouette
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from invtoolbox.data_terms import Bilateral
from invtoolbox.operators import Inpainting, NormalIntegration, SideGap
from invtoolbox.priors import PriorSum, Tikhonov
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import Reweighted, Solver

#: Number of pixels of an object from which on a coarser map supplies the start. Conjugate gradients
#: need ever more steps for larger objects, and few from a good start.
_LARGE = 1 << 17


@dataclass(frozen=True, eq=False)
class NormalMap:
    """One object: its normals, and what else is known of it.

    Attributes:
        normals: unit normals, ``(1, sides, 3, rows, columns)``.
        mask: inside of the object, ``(1, 1, rows, columns)``.
        camera: matrix of a perspective camera, or None.
        coarse: prior of the unknown (depth in pixels, or its logarithm), NaN at unknown pixels,
            ``(1, sides, rows, columns)``, or None.
        prior_weight: weight of the prior per pixel.
        coupling: weight of the gap between two sides at the silhouette.
    """

    normals: Tensor
    mask: Tensor
    camera: Tensor | None
    coarse: Tensor | None
    prior_weight: float
    coupling: float

    def crop(self) -> tuple[NormalMap, tuple[slice, slice]]:
        """Return the smallest box around the object, and its rows and columns."""
        row, column = self.mask[0, 0].nonzero().unbind(1)
        rows = slice(int(row.min()), int(row.max()) + 1)
        columns = slice(int(column.min()), int(column.max()) + 1)
        camera = None
        if self.camera is not None:
            # The principal point, column first, in pixels of the box.
            camera = self.camera.clone()
            camera[0, 2] -= columns.start
            camera[1, 2] -= rows.start
        inside = replace(
            self,
            normals=self.normals[..., rows, columns],
            mask=self.mask[..., rows, columns],
            camera=camera,
            coarse=None if self.coarse is None else self.coarse[..., rows, columns],
        )
        return inside, (rows, columns)

    def integrate(
        self,
        k: float,
        solver: Solver | None = None,
        max_iterations: int | None = None,
        tolerance: float | None = None,
        progress: bool = False,
    ) -> Solution:
        """Solve for the depth in pixels, or for its logarithm, ``(1, sides, rows, columns)``."""
        operator = NormalIntegration(self.normals, self.mask, self.camera)
        start: Tensor | None = None
        if int(self.mask.sum()) > _LARGE:
            half = self.halve()
            coarse = half.integrate(k, solver, max_iterations, tolerance, progress)
            start = self._prolong(coarse.x, half.mask)
        return solve(
            Problem(operator.measurements(), operator, Bilateral(k)),
            self.priors(),
            published_solver() if solver is None else solver,
            regularization=1.0,
            initial=start,
            max_iterations=max_iterations,
            tolerance=tolerance,
            progress=progress,
            check=False,
        )

    def priors(self) -> PriorSum | None:
        """Return the priors of coarse depth and of sides that meet at the silhouette."""
        # A difference of logarithms times the focal length is a difference in pixels.
        focal = 1.0 if self.camera is None else float(self.camera[[0, 1], [0, 1]].mean())
        terms: list[Any] = []
        if self.coarse is not None and self.prior_weight > 0:
            # Tikhonov is half a squared norm, hence the factors of 2.
            has_prior = self.coarse.isfinite() & self.mask
            selection = Inpainting(has_prior, tuple(self.coarse.shape[1:]))
            reference = torch.where(has_prior, self.coarse, 0.0)
            terms.append(2 * self.prior_weight * focal**2 * Tikhonov(selection, reference))
        if self.normals.shape[1] == 2 and self.coupling > 0:
            terms.append(2 * self.coupling * focal**2 * Tikhonov(SideGap(silhouette(self.mask))))
        return sum(terms[1:], terms[0]) if terms else None

    def halve(self) -> NormalMap:
        """Return the map at half the resolution, with the means of four pixels."""
        mask = _pool(self.mask.to(self.normals)) > 0.4  # at least two of four pixels
        normals = _pool(self.normals[0])[None]
        length = torch.linalg.vector_norm(normals, dim=2, keepdim=True)
        camera, coarse = None, None
        if self.camera is not None:
            camera = self.camera.clone()
            camera[:2] /= 2
            camera[:2, 2] -= 0.25  # centres of pixels lie at whole numbers
        if self.coarse is not None:
            # Means over the pixels with a prior; 0 / 0 is NaN, no prior. A depth in pixels is half
            # as large in pixels of twice the size, and a logarithm is the same.
            has_prior = self.coarse.isfinite() & self.mask
            mean = _pool(torch.where(has_prior, self.coarse, 0.0)) / _pool(
                has_prior.to(self.coarse)
            )
            coarse = mean if self.camera is not None else mean / 2
        # A coarse pixel stands for four fine ones.
        return NormalMap(
            normals=torch.where(mask & (length > 1e-6), normals / length.clamp_min(1e-6), 0.0),
            mask=mask,
            camera=camera,
            coarse=coarse,
            prior_weight=4 * self.prior_weight,
            coupling=4 * self.coupling,
        )

    def _prolong(self, z: Tensor, mask: Tensor) -> Tensor:
        """Interpolate the unknown of the map at half the resolution."""
        # Normalized interpolation: pixels outside of the object have no weight. The nearest pixel
        # serves where nearly all weight is outside.
        inside = mask.to(z)
        share = interpolate(inside, scale_factor=2, mode="bilinear")
        smooth = interpolate(z * inside, scale_factor=2, mode="bilinear") / share.clamp_min(1e-3)
        fine = torch.where(share > 0.05, smooth, interpolate(z, scale_factor=2, mode="nearest"))
        fine = fine[..., : self.mask.shape[2], : self.mask.shape[3]]
        return torch.where(self.mask, fine if self.camera is not None else 2 * fine, 0.0)


def published_solver() -> Reweighted:
    """Return the solver of the published method, whose inner accuracy shapes its answer."""
    return Reweighted(
        max_iterations=150,
        tolerance=1e-3,
        inner_iterations=5000,
        inner_tolerance=1e-3,
        inner_reference="scale",
    )


def silhouette(mask: Tensor) -> Tensor:
    """Return the pixels of a mask with a neighbour outside of it.

    >>> silhouette(torch.ones(1, 1, 3, 3, dtype=torch.bool)).int()[0, 0]
    tensor([[1, 1, 1],
            [1, 0, 1],
            [1, 1, 1]], dtype=torch.int32)
    """
    padded = pad(mask, (1, 1, 1, 1))
    within = (
        padded[..., 1:-1, :-2]
        & padded[..., 1:-1, 2:]
        & padded[..., :-2, 1:-1]
        & padded[..., 2:, 1:-1]
    )
    return mask & ~within


def _pool(x: Tensor) -> Tensor:
    """Return the means of two by two pixels; pixels beyond the border count as 0."""
    return avg_pool2d(pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)), 2)
