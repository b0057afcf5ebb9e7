"""The deformable stage: a field between two images on one grid, from coarse to fine.

The field is a displacement, or a velocity along which the displacement flows; that one is found from
both images alike, so that they may be exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d, interpolate

from invtoolbox.core.guards import check_range
from invtoolbox.core.threads import limit_torch_threads
from invtoolbox.data_terms import (
    DataTerm,
    LeastSquares,
    MutualInformation,
    NormalizedCrossCorrelation,
    Stack,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry.placed_pixels import pool
from invtoolbox.jobs.registration.linear import WINDOW
from invtoolbox.operators import Exponential, ImageWarp, Operator, SparseMatrix, stack
from invtoolbox.operators.image_warp import Interpolation
from invtoolbox.parameter_choice.noise import estimate_or_nan
from invtoolbox.priors import Misfit, Prior, PriorSum
from invtoolbox.priors.base import Term
from invtoolbox.priors.motion.displacement import DisplacementPrior, mean_length
from invtoolbox.problem import Problem
from invtoolbox.processing.descriptors import describe
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import Solver

Loss = Literal["least-squares", "ncc", "lncc", "mi", "mind"]
LOSSES = ("least-squares", "ncc", "lncc", "mi", "mind")

#: An axis is halved for a coarser level if it has at least this number of pixels.
_HALVED = 32

#: Number of pixels below which threads cost more than they save.
SMALL = 1 << 17

#: Largest number of pixels of the finest field; larger images have a field on coarser pixels.
_MOST = 1 << 20

#: Misfit, as the standard deviation of noise relative to that of the image, and number of pixels
#: along an edge for which a prior has its `usual_strength`. The weight grows with the misfit, and
#: with the edge to the power of its length: the roughness of a motion is one of the image, not of
#: its pixels. Both were chosen on textures and blobs of 64 to 192 pixels and 32 to 48 voxels along
#: an edge, with smooth fields and noise of 0 to 0.2 (``benchmarks/registration_stages.py --tune``).
_NOISE, _EDGE = 0.1, 160.0
#: Edge of pictures below which the weight does not fall further, chosen on 40 pictures of 32 to 64
#: pixels (the even half of `benchmarks/zoo.py` and more of its kind): of 0 to 160, 96 to 128 have the
#: least mean error.
_LEAST_EDGE = 112.0
#: Losses whose misfit is half of a squared distance in units of the images; the others have the usual
#: strengths themselves.
_FOLLOWED = ("least-squares", "ncc", "lncc", "mind")
#: Least relative noise: errors of interpolation and of the model remain without noise.
_LEAST_NOISE = 0.02
#: The estimate of the noise needs this number of pixels in a row.
_LEAST_PIXELS = 5
_SEED = 0
#: Share of the local variance that counts as structure where all of it may be noise.
_LEAST_SHARE = 0.01
#: Number of pixels above which a level of a volume has at most a few iterations.
_MANY, _FEW = 1 << 18, 10
#: Weights relative to that of least squares (``benchmarks/registration.py --tune``).
_WEIGHTS = {"least-squares": 1.0, "ncc": 1.0, "lncc": 1.0, "mi": 12.0, "mind": 1.0}


@dataclass(frozen=True, eq=False)
class LevelFit:
    """Solution of a level, and the factor on the weights of its priors, if there is one."""

    solution: Solution
    weight: float | None


@dataclass(frozen=True, eq=False)
class DeformableStage:
    """Settings of the deformable stage, see `register`."""

    loss: Loss | DataTerm
    kernel: Interpolation
    solver: Solver
    levels: int | None
    skipped: int
    landmark_weight: float
    max_iterations: int
    tolerance: float
    progress: bool
    is_diffeomorphic: bool = False

    def fit(
        self,
        finest: FieldLevel,
        terms: PriorSum,
        points: tuple[Tensor, Tensor] | None,
        weighted: Sequence[LevelFit] = (),
    ) -> list[LevelFit]:
        """Return the solution of every level, the coarsest first.

        Args:
            finest: both images at full resolution.
            terms: the priors.
            points: landmarks as pixels of the fixed image, and their displacements.
            weighted: fit of the same levels whose weights are taken.
        """
        fits = list[LevelFit]()
        is_small = math.prod(finest.fixed.shape[2:]) < SMALL
        for k, level in enumerate(self.pyramid(finest)):
            with limit_torch_threads(1) if is_small else nullcontext():
                start = level.prolong(fits[-1].solution.x) if fits else level.zeros()
                problem = self._problem(level, points)
                weight = weighted[k].weight if weighted else self._weigh(terms, level, start)
                priors = terms if weight is None else weight * terms
                if points is not None and not self.is_diffeomorphic:
                    A, y, strength = level.landmarks(points, self.landmark_weight)
                    priors = priors + strength * (Misfit(y, LeastSquares()) @ A)
                is_large = math.prod(level.fixed.shape[2:]) > _MANY
                solution = solve(
                    problem,
                    priors,
                    self.solver,
                    1.0,
                    initial=start,
                    max_iterations=min(self.max_iterations, _FEW if is_large else 1 << 30),
                    tolerance=self.tolerance,
                    progress=self.progress,
                    check=False,
                )
            fits.append(LevelFit(solution, weight))
        return fits

    def objective(self, level: FieldLevel, terms: PriorSum, x: Tensor) -> float:
        """Return the objective of a field on a level.

        Args:
            level: both images at the resolution of the field.
            terms: the priors with their weights.
            x: the field, ``(1, d, *space)``.
        """
        problem = self._problem(level, None)
        with torch.no_grad():
            term = problem.data_term.prepare(problem, solve)
            total = float(term.value(problem.operator(x), problem.y)[0])
            return total + sum(
                float(prior.weight * prior.prior.prepare(problem, solve).energy(x)[0])
                for prior in terms.terms
            )

    def _problem(self, level: FieldLevel, points: tuple[Tensor, Tensor] | None) -> Problem:
        """Return the problem of a level; landmarks are measurements in the problem of a velocity."""
        to_fixed = level.problem(self.loss, self.kernel)
        if not self.is_diffeomorphic:
            return to_fixed
        # 1/2 D(moving(exp v), fixed) + 1/2 D(fixed(exp -v), moving): exchanged images have -v.
        to_moving = replace(level, moving=level.fixed, fixed=level.moving).problem(
            self.loss, self.kernel
        )
        shape = (level.fixed.ndim - 2, *level.fixed.shape[2:])
        flows = [Exponential(shape, level.spacing, time) for time in (1.0, -1.0)]
        sides = (to_fixed, to_moving)
        operators: list[Operator] = [side.operator @ flow for side, flow in zip(sides, flows)]
        measurements, terms = [side.y for side in sides], [side.data_term for side in sides]
        weights = [0.5, 0.5]
        if points is not None:
            p, u = points
            finest = torch.tensor([h / n for h, n in zip(level.spacing, level.factors)])
            for flow, ends in zip(flows, (points, (p + u / finest, -u))):
                A, y, strength = level.landmarks(ends, self.landmark_weight)
                operators.append(A @ flow)
                measurements.append(y)
                terms.append(LeastSquares())
                weights.append(0.5 * strength)
        return Problem(tuple(measurements), stack(operators), Stack(*terms, weights=weights))

    def _weigh(self, terms: PriorSum, level: FieldLevel, start: Tensor) -> float | None:
        """Return the factor of usual weights that follows the misfit at the start of a level.

        It holds noise and what no field explains, such as another person's folds: sigma^2 = D / n.
        """
        if any(term.chosen for term in terms.terms) or self.loss not in _FOLLOWED:
            return None
        misfit = self.objective(level, PriorSum(()), start)
        count = level.fixed.numel() if level.mask is None else float(level.mask.sum())
        if self.loss == "mind":
            count *= 2 * (level.fixed.ndim - 2)
        return max(math.sqrt(max(misfit, 0.0) / max(count, 1.0)), _LEAST_NOISE) / _NOISE

    def pyramid(self, finest: FieldLevel) -> list[FieldLevel]:
        """Return the levels that are solved, the coarsest first."""
        levels = finest.pyramid(self.levels)
        count = len(levels) - self.skipped
        sizes = [math.prod(level.fixed.shape[2:]) for level in levels]
        while count > 1 and sizes[count - 1] > _MOST:
            count -= 1
        return levels[: max(count, 1)]

    def prolong(self, finest: FieldLevel, field: Tensor) -> Tensor:
        """Return a field of the finest level that is solved at full resolution."""
        levels = finest.pyramid(self.levels)
        for level in levels[len(self.pyramid(finest)) :]:
            field = level.prolong(field)
        return field


@dataclass(frozen=True, eq=False)
class FieldLevel:
    """One resolution of a pair of images.

    Attributes:
        moving, fixed: images ``(1, channel, *space)``.
        mask: share of a pixel that counts, ``(1, 1, *space)``, or None.
        spacing: distance of neighbours along every axis.
        factors: number of finest pixels along a pixel, per axis.
        halved: axes that the next coarser level halves.
    """

    moving: Tensor
    fixed: Tensor
    mask: Tensor | None
    spacing: tuple[float, ...]
    factors: tuple[int, ...]
    halved: tuple[bool, ...]

    @classmethod
    def finest(
        cls, moving: Tensor, fixed: Tensor, mask: Tensor | None, spacing: tuple[float, ...]
    ) -> FieldLevel:
        return cls(
            moving,
            fixed,
            None if mask is None else mask.to(fixed),
            spacing,
            factors=(1,) * len(spacing),
            halved=_axes_to_halve(fixed.shape[2:]),
        )

    def pyramid(self, levels: int | None) -> list[FieldLevel]:
        """Return this level and coarser ones, the coarsest first."""
        pyramid = [self]
        while any(pyramid[0].halved) and (levels is None or len(pyramid) < levels):
            pyramid.insert(0, pyramid[0].halve())
        return pyramid

    def halve(self) -> FieldLevel:
        fixed = pool(self.fixed, self.halved)
        return FieldLevel(
            moving=pool(self.moving, self.halved),
            fixed=fixed,
            mask=None if self.mask is None else pool(self.mask, self.halved),
            spacing=tuple(h * (2 if half else 1) for h, half in zip(self.spacing, self.halved)),
            factors=tuple(n * (2 if half else 1) for n, half in zip(self.factors, self.halved)),
            halved=_axes_to_halve(fixed.shape[2:]),
        )

    def prolong(self, field: Tensor) -> Tensor:
        """Interpolate a displacement of the next coarser level."""
        factors = tuple(2.0 if half else 1.0 for half in self.halved)
        mode = "bilinear" if field.ndim == 4 else "trilinear"
        fine = interpolate(field, scale_factor=factors, mode=mode)
        for k, n in enumerate(self.fixed.shape[2:]):
            fine = fine.narrow(k + 2, 0, n)
        return fine

    def zeros(self) -> Tensor:
        return self.fixed.new_zeros(1, self.fixed.ndim - 2, *self.fixed.shape[2:])

    def problem(self, loss: Loss | DataTerm, interpolation: Interpolation) -> Problem:
        moving, fixed = self.moving, self.fixed
        if loss == "mind":
            moving, fixed = (describe(image) for image in (moving, fixed))
        A = ImageWarp(moving, self.spacing, interpolation)
        return Problem(fixed, A, _data_term(loss, self.mask))

    def landmarks(
        self, points: tuple[Tensor, Tensor], weight: float
    ) -> tuple[SparseMatrix, Tensor, float]:
        """Return operator, measurements and weight of the misfit of landmarks.

        Args:
            points: landmarks as pixels of the finest level, and their displacements.
            weight: weight of half a squared distance in pixels.
        """
        sizes, places = self.fixed.shape[2:], points[0]
        factors = torch.tensor(self.factors, dtype=places.dtype)
        last = torch.tensor(sizes, dtype=places.dtype) - 1
        # Centres of pixels lie at whole numbers: a coarse pixel k covers the fine ones n k to
        # n k + n - 1, whose middle is n (k + 1/2) - 1/2.
        places = ((places + 0.5) / factors - 0.5).clamp_min(0).minimum(last)
        below = places.floor().minimum((last - 1).clamp_min(0))
        share, count, dimensions = places - below, len(places), len(sizes)
        # The matrix interpolates linearly: u(p) is the sum over the corners of the cell of p of
        # u(corner) times the product over the axes of s_k or 1 - s_k, with the share s.
        rows, columns, weights = [], [], []
        for corner in torch.cartesian_prod(*[torch.arange(2)] * dimensions):
            flat = torch.zeros(count, dtype=torch.long)
            for k, n in enumerate(sizes):
                flat = flat * n + (below[:, k].long() + corner[k]).clamp_max(n - 1)
            weights += [torch.where(corner.bool(), share, 1 - share).prod(1)] * dimensions
            for k in range(dimensions):
                rows.append(torch.arange(count) * dimensions + k)
                columns.append(flat + k * math.prod(sizes))
        shape = (count * dimensions, dimensions * math.prod(sizes))
        indices = torch.stack([torch.cat(rows), torch.cat(columns)])
        matrix = torch.sparse_coo_tensor(
            indices, torch.cat(weights), shape, check_invariants=False
        ).to(self.fixed)
        A = SparseMatrix(matrix, (dimensions, *sizes), (1, shape[0]))
        y = points[1].flatten().view(1, 1, -1).to(self.fixed)
        # A coarse pixel stands for several fine ones, as in the misfit of the images.
        finest = [h / n for h, n in zip(self.spacing, self.factors)]
        share_of_pixels = 1 / math.prod(self.factors)
        return A, y, weight * share_of_pixels / mean_length(finest) ** 2


def _data_term(loss: Loss | DataTerm, mask: Tensor | None) -> DataTerm:
    if isinstance(loss, DataTerm):
        if mask is None:
            return loss
        check_takes_mask(loss)
        return loss._replace(weights=mask)
    if loss in ("ncc", "lncc"):
        return NormalizedCrossCorrelation(WINDOW if loss == "lncc" else None, mask)
    return MutualInformation(weights=mask) if loss == "mi" else LeastSquares(weights=mask)


def check_takes_mask(loss: Loss | DataTerm) -> None:
    """Raise an `InputError` if a loss has no weights, which a mask needs."""
    if isinstance(loss, DataTerm) and not hasattr(loss, "weights"):
        raise InputError(f"mask= is for losses with weights, which {loss!r} has not")


def has_usual_weight(prior: Prior | None) -> bool:
    """Return whether a prior is given without a written weight, or is the usual one."""
    terms = () if prior is None else prior.as_sum().terms
    return prior is None or (bool(terms) and not any(term.chosen for term in terms))


def is_large(level: FieldLevel) -> bool:
    """Return whether a level is a volume whose registration takes long."""
    return level.fixed.ndim == 5 and math.prod(level.fixed.shape[2:]) >= SMALL


def weigh(prior: Prior, loss: Loss | DataTerm, finest: FieldLevel, smoothness: float) -> PriorSum:
    """Return the priors with the usual weights if none was written, times the smoothness.

    Args:
        prior: prior of the displacement.
        loss: the misfit.
        finest: both images.
        smoothness: factor on the weights.
    """
    check_range("register", "(0, inf)", smoothness=smoothness)
    priors = prior.as_sum()
    if any(term.chosen for term in priors.terms):
        return (smoothness * priors).as_sum()
    factor = smoothness * (_WEIGHTS.get(loss, 1.0) if isinstance(loss, str) else 1.0)
    terms: list[Any] = []
    for energy in (term.prior for term in priors.terms):
        if not isinstance(energy, DisplacementPrior):
            raise InputError(
                f"{energy!r} has no usual weight for a registration; write it, as in 0.1 * "
                f"{type(energy).__name__}(...)"
            )
        edge = mean_length(finest.spacing)
        if loss in _FOLLOWED:
            sizes = finest.fixed.shape[2:]
            edge *= max(mean_length(sizes), _LEAST_EDGE if len(sizes) == 2 else 0.0) / _EDGE
        unit = edge**energy.length_power
        terms.append(Term(factor * energy.usual_strength * unit, energy))
    return PriorSum(tuple(terms), priors.implicit)


def scale(image: Tensor, weights: Tensor | None) -> Tensor:
    """Return the standard deviation of the pixels that count, of an image ``(1, ...)``."""
    inside = image[0] if weights is None else image[0][:, weights[0, 0] > 0.5]
    std = inside.std(correction=0)
    return torch.where(std > 0, std, 1.0)


def _axes_to_halve(sizes: Sequence[int]) -> tuple[bool, ...]:
    return tuple(n >= _HALVED for n in sizes)


def add_own_noise(
    moving: Tensor, fixed: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Return both images with white noise of their own estimated level, or None without an estimate.

    The registration of these images differs from the registration of the images themselves by about
    as much as the latter differs from that of noise-free images (parametric bootstrap, Efron 1979).
    Noise that is correlated between pixels is underestimated, and errors of the prior and of the loss
    in images without noise are not seen.

    Args:
        moving: image ``(1, channel, *space)``.
        fixed: image of the same shape.
        mask: pixels of the fixed image that count, ``(1, 1, *space)``.
    """
    if fixed.shape[-1] < _LEAST_PIXELS:
        return None
    weights = None if mask is None else mask.to(fixed).expand_as(fixed)
    levels = [estimate_or_nan(moving), estimate_or_nan(fixed, weights=weights)]
    if bool(torch.cat(levels).isnan().any()):
        return None
    generator = torch.Generator().manual_seed(_SEED)
    noisy = [
        image + level.to(image) * torch.randn(image.shape, generator=generator).to(image)
        for image, level in zip((moving, fixed), levels)
    ]
    return noisy[0], noisy[1]


def structure(image: Tensor, mask: Tensor | None) -> Tensor:
    """Return the local variance of an image above that of its noise, ``(1, 1, *space)``.

    Where an image is flat, as around a head, noise moves a field that nothing depends on.

    Args:
        image: image ``(1, channel, *space)``.
        mask: pixels that count, ``(1, 1, *space)``.

    >>> edge = torch.zeros(1, 1, 9, 40)
    >>> edge[..., 20:] = 1.0
    >>> structure(edge, None)[0, 0, 4, [0, 15, 20]]
    tensor([0.0000, 0.0000, 0.2449])
    """
    counted = None if mask is None else mask.to(image).expand_as(image)
    noise = estimate_or_nan(image, weights=counted).nan_to_num(0.0).square()
    mean = partial(
        avg_pool2d if image.ndim == 4 else avg_pool3d,
        kernel_size=WINDOW,
        stride=1,
        padding=WINDOW // 2,
        count_include_pad=False,
    )
    centred = image - image.mean()
    variance = (mean(centred.square()) - mean(centred).square()).sum(1, keepdim=True)
    above = torch.maximum(variance - float(noise) * image.shape[1], _LEAST_SHARE * variance)
    return above if mask is None else above * mask.to(above)


def change_by_noise(field: Tensor, noisy: Tensor, mask: Tensor | None) -> float:
    """Return the mean change of a field by noise, relative to the mean length of the field.

    Args:
        field: displacement ``(1, d, *space)``.
        noisy: displacement between the images with further noise.
        mask: weights of the pixels, ``(1, 1, *space)``.

    >>> change_by_noise(torch.ones(1, 2, 4, 4), 1.5 * torch.ones(1, 2, 4, 4), None)
    0.5
    """
    lengths = torch.stack([field, noisy - field]).double().norm(dim=2)
    if mask is not None:
        lengths = lengths * mask[:, 0]
    motion, change = lengths.flatten(1).sum(1).tolist()
    return change / motion if motion > 0 else 0.0
