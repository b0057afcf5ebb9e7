"""Register images and volumes by a displacement field; `it.register`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d, interpolate, pad

from invtoolbox import metrics
from invtoolbox.core.guards import check_range
from invtoolbox.core.threads import limit_torch_threads
from invtoolbox.data_terms import (
    DataTerm,
    LeastSquares,
    MutualInformation,
    NormalizedCrossCorrelation,
)
from invtoolbox.datasets.volumes.volume import Volume
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.geometry.transforms import Affine, Composite, DisplacementField, Transform
from invtoolbox.jobs.registration.checks import read_pair, to_image, to_landmarks, to_mask
from invtoolbox.jobs.registration.floor import MOST_BY_NOISE, add_own_noise, change_by_noise
from invtoolbox.operators import ImageWarp, SparseMatrix, Warp
from invtoolbox.operators.image_warp import Interpolation
from invtoolbox.priors import Bending, Misfit, Prior, PriorSum
from invtoolbox.priors.motion.displacement import DisplacementPrior, mean_length
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import GaussNewton, Solver

Loss = Literal["least-squares", "ncc", "mi"]

#: An axis is halved for a coarser level if it has at least this number of pixels.
_HALVED = 32

#: Number of pixels below which threads cost more than they save.
_SMALL = 1 << 17

#: Weights of a prior that was given without one, relative to its `usual_strength`, which was chosen
#: for least squares on simulated motion (``benchmarks/registration.py --tune``).
_WEIGHTS = {"least-squares": 1.0, "ncc": 1.0, "mi": 12.0}


@dataclass(frozen=True, eq=False)
class Registration:
    """Result of registering images.

    Attributes:
        displacement: the field u, ``(batch, 2 or 3, *space)``, in the unit of the spacing:
            ``warped(p) = moving(p + u(p))``. Component k is along axis k.
        warped: the moving image in the place of the fixed one, ``(batch, channel, *space)``.
        spacing: distance of neighbours along every axis.
        solutions: `Solution` of every item on the finest level.
        notes: findings, one sentence each.
        transforms: map of every item from points of the fixed image to points of the moving one.
        grids: positions of the pixels of the moving and of the fixed image.
    """

    displacement: Tensor
    warped: Tensor
    spacing: tuple[float, ...]
    solutions: tuple[Solution, ...]
    notes: tuple[str, ...]
    transforms: tuple[Transform, ...]
    grids: tuple[Grid, Grid]

    @property
    def status(self) -> tuple[str, ...]:
        """Status of every item on the finest level."""
        return tuple(solution.status[0] for solution in self.solutions)

    @property
    def jacobian(self) -> Tensor:
        """Jacobian determinant, the local change of volume, ``(batch, *space)``."""
        return metrics.jacobian_determinant(self.displacement, self.spacing)

    def transform(self, item: int = 0) -> Transform:
        """Return the map of an item from points of the fixed image to points of the moving one.

        Points are ``(..., 2 or 3)``, as (x, y[, z]) in mm, see `geometry.transforms`. An image
        without a grid begins at 0, with x along its columns and y along its rows. `datasets.
        write_transform` writes the transform for ITK.

        Args:
            item: number of the item of the batch.
        """
        return self.transforms[item]

    def apply(self, image: Any) -> Any:
        """Warp another image of the moving side: another channel, or labels.

        Labels (integers or booleans) are taken from the nearest pixel, other images are
        interpolated.

        Args:
            image: image or labels, ``(*space)`` or ``(batch, channel, *space)``, a tensor or an
                array.

        Returns:
            The warped image, of the type and number of axes of the argument.
        """
        original = image if isinstance(image, Tensor) else torch.as_tensor(np.asarray(image))
        field = self.displacement
        batch = to_image(original, "the image").to(field)
        if batch.shape[2:] != field.shape[2:]:
            raise InputError(
                f"the image has {tuple(batch.shape[2:])} pixels, and the registration "
                f"{tuple(field.shape[2:])}"
            )
        batch = batch.expand(max(len(batch), len(field)), *batch.shape[1:])
        if original.is_floating_point():
            warped = Warp(field, self.spacing)(batch)
        else:  # whole pixels, so that labels do not mix, and no errors of rounding
            warped = Warp(_to_nearest(field, self.spacing), self.spacing)(batch).round()
        warped = warped.to(original.dtype)
        if original.ndim == batch.ndim - 2 and len(warped) == 1:
            warped = warped[0, 0]
        return warped if isinstance(image, Tensor) else warped.cpu().numpy()


def register(
    moving: Any,
    fixed: Any,
    prior: Prior | None = None,
    *,
    spacing: Sequence[float] | float | None = None,
    loss: Loss | DataTerm = "least-squares",
    smoothness: float = 1.0,
    levels: int | None = None,
    landmarks: Any = None,
    landmark_weight: float = 10.0,
    mask: Any = None,
    interpolation: Interpolation | None = None,
    solver: Solver | None = None,
    max_iterations: int = 30,
    tolerance: float = 0.03,
    progress: bool = False,
) -> Registration:
    r"""Find the displacement field that takes a moving image to a fixed one.

    Minimizes ``D(moving(p + u(p)), fixed(p)) + R(u)`` over displacement fields u, one pixel one
    vector, from coarse to fine images. A batch is registered pair by pair.

    If the prior has no written weight and there are no landmarks, the images are registered again
    with as much further noise as they have, for any loss. If that changes the field by more than
    0.4 of its length, the displacement is zero, and a note says so.

    Args:
        moving: image or volume, ``(*space)`` or ``(batch, channel, *space)`` with 2 or 3 axes of
            space; a tensor, an array, or a volume of `datasets.open`.
        fixed: image or volume that the moving one is taken to, on the same grid.
        prior: prior of the displacement: `priors.Bending` (the default), `priors.Diffusion`,
            `priors.LinearElastic`, `priors.GridARAP`, or any other or a sum.
        spacing: distance of neighbours along every axis, a number or one per axis; by default that
            of the volumes, or 1.
        loss: ``"least-squares"`` for images of the same brightness, ``"ncc"`` (normalized
            cross-correlation) if brightness and contrast differ, ``"mi"`` (mutual information) for
            two modalities; or any data term. Least squares compares the images in units of the
            standard deviation of the fixed one.
        smoothness: factor on the weight of the prior. A prior without a written weight has one that
            suits moderate noise, for any unit of brightness and length.
        levels: number of resolutions, each half of the next; by default as many as leave 16 pixels
            along an axis. Axes of fewer than 32 pixels are not halved.
        landmarks: pair of points in the moving image and the same points in the fixed one,
            ``(N, 2 or 3)`` each, in the unit of the spacing, from the centre of the first pixel.
        landmark_weight: weight of half the squared distance between landmarks, in pixels.
        mask: true at pixels of the fixed image whose misfit counts, for least squares.
        interpolation: see `operators.ImageWarp`; by default cubic for images, linear for volumes.
        solver: solver of every level; Gauss-Newton with a Fourier preconditioner by default.
        max_iterations: largest number of iterations per level.
        tolerance: bound on the gradient relative to its start, per level, see the solver.
        progress: show progress bars.

    Returns:
        Displacement, warped image, Jacobian determinant, status and notes.

    Raises:
        InputError: for images of different shape, spacing or orientation, that are constant or NaN,
            an empty mask, or landmarks outside of the image.

    >>> row, column = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    >>> blob = lambda r, c: torch.exp(-((row - r) ** 2 + (column - c) ** 2) / 50)
    >>> motion = register(blob(22, 18), blob(20, 20), spacing=0.5)  # millimetres
    >>> [round(float(u)) for u in motion.displacement[0, :, 20, 20]], motion.status
    ([1, -1], ('converged',))
    """
    source, target, lengths = read_pair(moving, fixed, spacing)
    support = None if mask is None else to_mask(mask, target)
    if support is not None and loss != "least-squares":
        raise InputError('mask= is for loss="least-squares"; crop the images for other losses')
    points = None if landmarks is None else to_landmarks(landmarks, lengths, target.shape[2:])
    priors = _weigh(Bending() if prior is None else prior, loss, lengths, smoothness)
    kernel: Interpolation = interpolation or ("cubic" if target.ndim == 4 else "linear")
    algorithm = solver or GaussNewton(
        preconditioner="fourier", inner_iterations=10, inner_tolerance=0.1
    )
    # Least squares in units of the standard deviation of the fixed image, |m(p + u) - f|^2 / s^2,
    # for weights that do not depend on the unit of the images.
    unit = (
        _scale(target, support)
        if loss == "least-squares"
        else torch.ones_like(target[:, 0].flatten(1)[:, 0])
    )
    is_small = math.prod(target.shape[2:]) < _SMALL

    def fit(finest: _Level, terms: PriorSum) -> Solution:
        solution: Solution | None = None
        for level in finest.pyramid(levels):
            with limit_torch_threads(1) if is_small else nullcontext():
                solution = solve(
                    level.problem(loss, kernel),
                    terms + level.landmarks(points, landmark_weight) if points else terms,
                    algorithm,
                    1.0,
                    initial=level.zeros() if solution is None else level.prolong(solution.x),
                    max_iterations=max_iterations,
                    tolerance=tolerance,
                    progress=progress,
                    check=False,
                )
        assert solution is not None
        return solution

    # A written weight, or landmarks, are the user's word on the motion.
    is_tested = points is None and _has_usual_weight(prior)
    fields, solutions, notes = [], [], []
    for item in range(len(target)):
        # Pair by pair: the answer does not depend on the batch, and neither does the work.
        entry = slice(item, item + 1)
        inside = None if support is None else support[entry]
        pair = source[entry] / unit[item], target[entry] / unit[item]
        terms = priors.select(torch.tensor([item]))
        solution = fit(_Level.finest(*pair, inside, lengths), terms)
        field, name = solution.x, f"pair {item}: " if len(target) > 1 else ""
        noisy = add_own_noise(*pair, inside) if is_tested and bool(field.any()) else None
        if noisy is not None:
            again = fit(_Level.finest(*noisy, inside, lengths), terms)
            share = change_by_noise(field, again.x, inside)
            if not share <= MOST_BY_NOISE:
                field = torch.zeros_like(field)
                notes.append(
                    f"{name}noise like that of the images changes the field by {share:.0%} of its "
                    "length, so they determine no motion: the displacement is 0. A larger "
                    "smoothness may find one; a written weight of the prior keeps the field, which "
                    f"is solutions[{item}].x"
                )
        fields.append(field)
        solutions.append(solution)
        notes.extend(_findings(field, lengths, solution, name))
    u = torch.cat(fields)
    warped = Warp(u, lengths, kernel)(source)
    grids = _grids(moving, lengths), _grids(fixed, lengths)
    transforms = tuple(_transform(field, grids) for field in u)
    return Registration(u, warped, lengths, tuple(solutions), tuple(notes), transforms, grids)


def _grids(image: Any, spacing: tuple[float, ...]) -> Grid:
    grid = image.grid if isinstance(image, Volume) else Grid()
    slices, rows, columns = (*grid.voxel_size[: 3 - len(spacing)], *spacing)
    return replace(grid, voxel_size=(slices, rows, columns))


def _transform(field: Tensor, grids: tuple[Grid, Grid]) -> Transform:
    """Return the map of positions in space; the images have the same pixels, perhaps at two places."""
    matrices = [torch.from_numpy(grid.affine(len(field))) for grid in grids]
    axes = matrices[1][:-1, :-1]
    u = torch.tensordot((axes / axes.norm(dim=0)).to(field), field, 1)
    shift = matrices[0] @ torch.linalg.inv(matrices[1])
    bent = DisplacementField(u, grids[1])
    if torch.allclose(shift, torch.eye(len(shift), dtype=shift.dtype), atol=1e-6):
        return bent
    return Composite((bent, Affine(shift)))


@dataclass(frozen=True, eq=False)
class _Level:
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
    ) -> _Level:
        sizes = fixed.shape[2:]
        weights = None if mask is None else mask.to(fixed)
        return cls(moving, fixed, weights, spacing, (1,) * len(sizes), _axes_to_halve(sizes))

    def pyramid(self, levels: int | None) -> list[_Level]:
        """Return this level and coarser ones, the coarsest first."""
        pyramid = [self]
        while any(pyramid[0].halved) and (levels is None or len(pyramid) < levels):
            pyramid.insert(0, pyramid[0].halve())
        return pyramid

    def halve(self) -> _Level:
        fixed = _pool(self.fixed, self.halved)
        return _Level(
            moving=_pool(self.moving, self.halved),
            fixed=fixed,
            mask=None if self.mask is None else _pool(self.mask, self.halved),
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
        A = ImageWarp(self.moving, self.spacing, interpolation)
        if loss == "least-squares":
            return Problem(self.fixed, A, LeastSquares(weights=self.mask))
        return Problem(self.fixed, A, _data_term(loss))

    def landmarks(self, points: tuple[Tensor, Tensor], weight: float) -> PriorSum:
        """Return the misfit of landmarks, given as pixels of the finest level and displacements."""
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
        return weight * share_of_pixels / mean_length(finest) ** 2 * (Misfit(y, LeastSquares()) @ A)


def _data_term(loss: Loss | DataTerm) -> DataTerm:
    if isinstance(loss, DataTerm):
        return loss
    if loss == "ncc":
        return NormalizedCrossCorrelation()
    if loss == "mi":
        return MutualInformation()
    raise InputError(f'loss is "least-squares", "ncc", "mi" or a data term, got {loss!r}')


def _has_usual_weight(prior: Prior | None) -> bool:
    """Return whether a prior is given without a written weight, or is the usual one."""
    if prior is None:
        return True
    terms = prior.as_sum().terms
    return bool(terms) and not any(term.chosen for term in terms)


def _weigh(
    prior: Prior, loss: Loss | DataTerm, spacing: Sequence[float], smoothness: float
) -> PriorSum:
    """Return the priors with the usual weights if none was written, times the smoothness."""
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
        # The usual strengths are for pixels of length 1.
        unit = mean_length(spacing) ** energy.length_power
        terms.extend((factor * energy.usual_strength * unit * energy).terms)
    return PriorSum(tuple(terms), priors.implicit)


def _scale(image: Tensor, mask: Tensor | None) -> Tensor:
    """Return the standard deviation of the pixels that count, ``(batch,)``."""
    deviations = []
    for k in range(len(image)):
        inside = image[k] if mask is None else image[k][:, mask[k, 0]]
        deviations.append(inside.std(correction=0))
    scale = torch.stack(deviations)
    return torch.where(scale > 0, scale, 1.0)


def _findings(
    field: Tensor, spacing: tuple[float, ...], solution: Solution, name: str
) -> list[str]:
    notes = []
    folded = float(metrics.folding(field, spacing)[0])
    if folded > 0:
        notes.append(
            f"{name}the field folds at {folded:.2%} of the pixels; a larger weight of the prior "
            "prevents it"
        )
    lengths = torch.tensor([n * h for n, h in zip(field.shape[2:], spacing)], dtype=field.dtype)
    largest = field[0].abs().flatten(1).amax(1).cpu()
    if bool((largest > 0.5 * lengths).any()):
        notes.append(
            f"{name}a displacement is longer than half of the image; check the images' positions"
        )
    if solution.status[0] != "converged":
        notes.append(
            f"{name}on the finest level the status is {solution.status[0]} after "
            f"{int(solution.iterations[0])} iterations"
        )
    return notes


def _axes_to_halve(sizes: Sequence[int]) -> tuple[bool, ...]:
    return tuple(n >= _HALVED for n in sizes)


def _pool(image: Tensor, halved: Sequence[bool]) -> Tensor:
    """Return the means of two pixels along some axes; the last pixel is repeated if one is missing."""
    kernel = [2 if half else 1 for half in halved]
    missing = [n % k for n, k in zip(image.shape[2:], kernel)]
    padded = pad(image, [m for n in reversed(missing) for m in (0, n)], mode="replicate")
    return (avg_pool2d if image.ndim == 4 else avg_pool3d)(padded, kernel)


def _to_nearest(field: Tensor, spacing: Sequence[float]) -> Tensor:
    """Return the displacement to the centres of the nearest pixels."""
    lengths = torch.tensor(spacing, dtype=field.dtype, device=field.device)
    lengths = lengths.view(-1, *[1] * (field.ndim - 2))
    return (field / lengths).round() * lengths
