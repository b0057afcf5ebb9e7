"""Linear stages of a registration: translation, rigid motion, similarity, affine map.

The coarsest level is searched for the rotation over the whole circle or sphere; the best candidates
are refined together, as the items of one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invtoolbox.data_terms import DataTerm, MutualInformation, NormalizedCrossCorrelation
from invtoolbox.geometry import Affine
from invtoolbox.geometry.placed_pixels import PlacedPixels, levels_of
from invtoolbox.geometry.transforms import halve
from invtoolbox.operators import PlacedImage
from invtoolbox.priors import AffineMap
from invtoolbox.priors.implicit.affine_map import LinearMotion
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import LBFGS

#: Number of rotations of the search, by dimension: 5 degrees apart, and about 25.
_ROTATIONS = {2: 72, 3: 1000}
#: Number of different candidates that are left after the coarsest level.
_LEFT = 6
#: Largest distance, in radii of the fixed image, of the positions of one motion.
_SAME = 0.1
#: A motion is as good as the best one if its objective per pixel is larger by at most this share of
#: the best one's and this difference, and by at most this share of what the best one explains of the
#: objective of unrelated images, 1, for at least this share of the best one's overlap.
_AS_GOOD, _NO_DIFFERENCE, _EXPLAINED, _OVERLAP = 0.05, 2e-4, 0.05, 0.5
#: Difference of the images' radii, relative, that the refinement bridges without a scaled start.
_SAME_SCALE = 0.05
#: Number of candidates without a rotation, which come first.
_UPRIGHT = 3
#: Number of candidates of pictures that are added by what both pictures show.
_COMMON = 6
#: Number of candidates that are compared at once, few enough for the cache of a processor.
_AT_ONCE = 16
#: Largest number of iterations and tolerance of a level: the coarsest, and finer ones.
_COARSE, _FINE = (30, 3e-2), (30, 1e-2)
#: Standard deviation of the smoothing of the last level, in pixels of the fixed image.
_SMOOTH = 1.5
#: Window of the local correlation, in pixels.
WINDOW = 7


#: Objective of the field that follows a motion: ``(fixed, moved image) -> energy``.
Bend = Callable[[PlacedPixels, Tensor], float]


@dataclass(frozen=True)
class Landmarks:
    """Points in the fixed and in the moving image, ``(N, d)`` each, and their weight."""

    fixed: Tensor
    moving: Tensor
    weight: float


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Linear motions of a level and their scores, the best first.

    Attributes:
        matrices: matrices ``(n, d + 1, d + 1)``, positions in the fixed to positions in the moving
            image, float64.
        scores: objective of each, ``(n,)``.
        solution: the last solution, of all motions.
    """

    matrices: Tensor
    scores: Tensor
    solution: Solution | None = None

    def best(self, count: int) -> LinearFit:
        order = self.scores.argsort(stable=True)[:count]
        return LinearFit(self.matrices[order], self.scores[order], self.solution)

    def distinct(self, level: _Level, count: int) -> LinearFit:
        """Return the best motions that differ: heads resemble themselves turned by 180 degrees."""
        ordered = self.best(len(self.scores))
        corners = level.fixed.corners()
        places = torch.stack([Affine(matrix)(corners) for matrix in ordered.matrices])
        numbers = list[int]()
        for k, corner in enumerate(places):
            distances = (places[numbers] - corner).norm(dim=-1).flatten(1).amax(1)
            if bool((distances > _SAME * level.radius).all()):
                numbers.append(k)
        return LinearFit(ordered.matrices[numbers], ordered.scores[numbers], self.solution).best(
            count
        )

    def shortest(self, level: _Level, overlap: bool) -> LinearFit:
        """Return the shortest of the motions that explain the images as well as the best one.

        A square resembles itself turned by 90 degrees, and a shift is then as good as a turn. Misfits
        other than correlations, of which mutual information grows as the overlap shrinks, return the
        best motion.

        Args:
            level: both images.
            overlap: whether only pixels that both images show are compared. Otherwise the scores
                decide, in which an image turned within its frame gains by showing more of it.
        """
        term = misfit_of(level.loss, torch.ones_like(level.fixed.image[:, :1]))
        if len(self.scores) == 1 or not isinstance(term, NormalizedCrossCorrelation):
            return self.best(1)
        scores = self.scores.nan_to_num(torch.inf, torch.inf, torch.inf)  # never as good
        place = int(scores.argmin())
        corners = level.fixed.corners()
        moves = torch.stack([Affine(m)(corners) - corners for m in self.matrices]).norm(dim=-1)
        if overlap:
            scores = level.overlap_scores(self.matrices, place)
            place = int(scores.argmin())
        tolerance = _AS_GOOD * scores[place] + _NO_DIFFERENCE
        tolerance = tolerance.minimum(_EXPLAINED * (1 - scores[place])).clamp_min(0)
        is_worse = scores > scores[place] + tolerance
        best = moves.flatten(1).mean(1).masked_fill(is_worse, torch.inf).argmin()[None]
        return LinearFit(self.matrices[best], self.scores[best], self.solution)


def misfit_of(loss: str | DataTerm, weights: Tensor) -> DataTerm:
    """Return the misfit of linear stages: one that no change of brightness affects.

    Args:
        loss: name of the loss, or a data term.
        weights: weights of the pixels, ``(batch, 1, *space)``.
    """
    if isinstance(loss, DataTerm):
        return loss if not hasattr(loss, "weights") else loss._replace(weights=weights)
    if loss in ("mi", "mind"):
        return MutualInformation(weights=weights)
    return NormalizedCrossCorrelation(WINDOW if loss == "lncc" else None, weights)


@dataclass(frozen=True, eq=False)
class _Level:
    """Both images at one resolution, and what they are compared by."""

    fixed: PlacedPixels
    moving: PlacedPixels
    loss: str | DataTerm
    landmarks: Landmarks | None
    centre: Tensor
    radius: float

    @property
    def pixels(self) -> int:
        return math.prod(self.fixed.sizes)

    def operator(self) -> PlacedImage:
        image = self.moving.image
        return PlacedImage(image, self.moving.to_index.to(image), self.fixed.points().to(image))

    def weights(self, matrices: Tensor) -> Tensor:
        """Return the weights of the pixels of the fixed image that a motion maps to the moving."""
        points = self.fixed.points().to(self.fixed.image)
        B = self.moving.to_index.to(points) @ matrices.to(points)
        index = torch.einsum("bij,jn->bin", B[..., :-1], points.flatten(1)) + B[..., -1:]
        weights = self.moving.inside(index.unflatten(2, points.shape[1:]))
        return weights if self.fixed.mask is None else weights * self.fixed.mask.to(weights)

    def moved(self, matrix: Tensor) -> Tensor:
        """Return the moving image on the pixels of the fixed one, continued beyond its border."""
        points = self.fixed.points()
        u = (matrix[:-1, :-1] @ points.flatten(1) + matrix[:-1, -1:]).unflatten(1, points.shape[1:])
        return self.operator()((u - points)[None].to(self.moving.image))

    def prior(self, kind: LinearMotion, matrices: Tensor) -> AffineMap:
        landmarks = self.landmarks
        # A coarse pixel stands for several fine ones, so landmarks weigh as many pixels.
        weight = 0.0 if landmarks is None else landmarks.weight * self.pixels
        return AffineMap(
            kind,
            matrices,
            centre=self.centre,
            radius=self.radius,
            landmarks=None if landmarks is None else (landmarks.fixed, landmarks.moving),
            landmark_weight=weight,
        )

    def problem(self, weights: Tensor, loss: str | DataTerm) -> Problem:
        y = self.fixed.image.expand(len(weights), *self.fixed.image.shape[1:])
        return Problem(y, self.operator(), misfit_of(loss, weights))

    def score(self, matrices: Tensor, overlap: bool = False) -> Tensor:
        """Return the objective of motions per pixel, ``(n,)``.

        Pixels without a counterpart count as those of unrelated images; with ``overlap`` none does.
        """
        # Windows pay off once the images are near each other.
        loss = "ncc" if self.loss == "lncc" else self.loss
        whole = 1.0 if self.fixed.mask is None else float(self.fixed.mask.mean())
        scores = []
        for chunk in matrices.split(_AT_ONCE):
            weights = self.weights(chunk)
            problem = self.problem(weights, loss)
            prior = self.prior("affine", chunk).prepare(problem, solve)
            term, y = problem.data_term.prepare(problem, solve), problem.y
            z = prior.initial()
            u = prior.decode(z)
            absent = whole * self.pixels - weights.flatten(1).sum(1)
            unrelated = 1.0
            if not isinstance(term, NormalizedCrossCorrelation):
                mean = y[:1].mean(tuple(range(2, y.ndim)), keepdim=True).expand_as(y[:1])
                bare = misfit_of(loss, torch.ones_like(weights[:1])).prepare(problem, solve)
                unrelated = float(bare.value(mean, y[:1])[0]) / self.pixels
            value = term.value(problem.operator(u), y) + prior.energy(z, u)
            if overlap:
                score = value / weights.flatten(1).sum(1).clamp_min(1)
            else:
                score = (value + unrelated * absent * y.shape[1]) / self.pixels
            scores.append(score.double())
        return torch.cat(scores)

    def overlap_scores(self, matrices: Tensor, reference: int | None = None) -> Tensor:
        """Return scores of what both images show, infinite if that is less than half.

        Args:
            matrices: motions, ``(n, d + 1, d + 1)``.
            reference: number of the motion whose overlap is the whole; by default the largest one.
        """
        shares = self.weights(matrices).flatten(1).sum(1)
        whole = shares.max() if reference is None else shares[reference]
        scores = self.score(matrices, overlap=True).nan_to_num(torch.inf, torch.inf, torch.inf)
        return scores.masked_fill(shares < _OVERLAP * whole, torch.inf)

    def fit(
        self,
        kinds: Sequence[LinearMotion],
        matrices: Tensor,
        limits: tuple[int, float],
        progress: bool,
    ) -> LinearFit:
        """Refine motions by one kind after the other."""
        solution: Solution | None = None
        for kind in kinds:
            problem = self.problem(self.weights(matrices), self.loss)
            prior = self.prior(kind, matrices)
            solution = solve(
                problem,
                prior,
                LBFGS(),
                max_iterations=limits[0],
                tolerance=limits[1],
                progress=progress,
                check=False,
            )
            bound = prior.prepare(problem, solve)
            fitted = bound.matrices(solution.parameters).double()
            # A start that left the image may have no finite answer, and stays where it was.
            is_finite = fitted.flatten(1).isfinite().all(1)[:, None, None]
            matrices = torch.where(is_finite, fitted, matrices)
        return LinearFit(matrices, self.score(matrices), solution)


@dataclass(frozen=True, eq=False)
class LinearStages:
    """Settings of the linear stages of one pair.

    Attributes:
        kinds: kinds of motion, from the stiffest to the most flexible.
        loss: name of the loss, or a data term.
        landmarks: points that belong together.
        mirrored: whether mirrored positions are searched too.
        most: about the largest number of pixels of the finest level.
        refined: number of candidates of the search that are refined.
        progress: show progress bars.
    """

    kinds: Sequence[LinearMotion]
    loss: str | DataTerm
    landmarks: Landmarks | None = None
    mirrored: bool = False
    most: int = 1 << 20
    refined: int = 10
    progress: bool = False

    def fit(
        self,
        fixed: PlacedPixels,
        moving: PlacedPixels,
        bend: Bend | None = None,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Solution]:
        """Return the motion from the fixed to the moving image, and the last solution.

        The motion is a matrix ``(d + 1, d + 1)`` of positions, float64.

        Args:
            fixed: the fixed image.
            moving: the moving image.
            bend: objective of a field after a motion, by which different motions are compared.
            start: motion that is refined; by default the search finds some.
        """
        fixed, moving = fixed.canonical(), moving.canonical()
        levels = self.levels(fixed, moving)
        if start is None:
            every = self.search(levels[0])
            numbers = every.scores.argsort(stable=True)[: self.refined]
            numbers = torch.cat([numbers, every.scores[:_UPRIGHT].argmin()[None]])
            if fixed.image.ndim == 4:
                # A square's quarter turns lose other parts of the frame, which hides its marks.
                common = levels[0].overlap_scores(every.matrices)
                numbers = torch.cat([numbers, common.argsort(stable=True)[:_COMMON]])
            numbers = numbers.unique()
            fit = LinearFit(every.matrices[numbers], every.scores[numbers])
        else:
            fit = LinearFit(start[None], start.new_zeros(1))
        for k, level in enumerate(levels):
            limits = _COARSE if k == 0 else _FINE
            kinds = self.kinds if k == 0 and start is None else self.kinds[-1:]
            fit = level.fit(kinds, fit.matrices, limits, self.progress)
            if k == 0:
                fit = fit.distinct(level, _LEFT)
            is_bent = k == min(1, len(levels) - 1) and bend is not None and len(fit.scores) > 1
            if is_bent:
                assert bend is not None
                energies = [bend(level.fixed, level.moved(m)) / level.pixels for m in fit.matrices]
                scores = torch.tensor(energies, dtype=torch.float64)
                fit = LinearFit(fit.matrices, scores, fit.solution)
            if k > 0 or len(levels) == 1:
                if len(levels) == 1 and not is_bent and len(fit.scores) > 1:
                    # Smooth images, in which edges between pixels count less than their marks.
                    level = self._smooth(level, fixed, moving, fit.matrices[0])
                    fit = level.fit(self.kinds[-1:], fit.matrices, _FINE, self.progress)
                fit = fit.shortest(level, overlap=not is_bent)
        return self._finish(levels[-1], fixed, moving, fit.matrices[:1])

    def _finish(
        self, finest: _Level, fixed: PlacedPixels, moving: PlacedPixels, start: Tensor
    ) -> tuple[Tensor, Solution]:
        """Refine a motion ``(1, d + 1, d + 1)`` on the whole resolution, or the finest level."""
        finest = self._smooth(finest, fixed, moving, start[0])
        fit = finest.fit(self.kinds[-1:], start, _FINE, self.progress)
        assert fit.solution is not None
        return fit.matrices[0], fit.solution

    def _smooth(
        self, finest: _Level, fixed: PlacedPixels, moving: PlacedPixels, motion: Tensor
    ) -> _Level:
        """Return the level of the whole resolution, equally smooth in the fixed image's frame."""
        if self.most < math.prod(fixed.sizes) or self.loss == "lncc":
            return finest
        std = _SMOOTH * max(fixed.spacing)
        larger = float(motion[:-1, :-1].det().abs()) ** (1 / (fixed.image.ndim - 2))
        return self._level(fixed.smooth(std).thin(), moving.smooth(larger * std))

    def fit_both(
        self, fixed: PlacedPixels, moving: PlacedPixels, bend: Bend | None = None
    ) -> tuple[Tensor, Solution]:
        """Return the motion as `fit` does, so that exchanged images have its inverse.

        It is ``A (A^-1 B)^(1/2)``, the geometric mean of the motion A and the inverse B of the motion
        back. If both are different motions, the one whose misfits in both directions are less is
        refined in both.
        """
        fixed, moving, marks = fixed.canonical(), moving.canonical(), self.landmarks
        marks = marks and Landmarks(marks.moving, marks.fixed, marks.weight)
        back = replace(self, landmarks=marks)
        there, solution = self.fit(fixed, moving, bend)
        inverse = torch.linalg.inv(back.fit(moving, fixed, bend)[0])
        both = torch.stack([there, inverse])
        sides = (
            (self.levels(fixed, moving)[-1], both),
            (
                back.levels(moving, fixed)[-1],
                torch.linalg.inv(both),
            ),
        )
        scores = torch.stack([level.score(motions) for level, motions in sides]).sum(0)
        starts = [
            LinearFit(motions, scores).distinct(level, 2).matrices for level, motions in sides
        ]
        if max(map(len, starts)) > 1:
            there, solution = self._finish(sides[0][0], fixed, moving, starts[0][:1])
            inverse = torch.linalg.inv(back._finish(sides[1][0], moving, fixed, starts[1][:1])[0])
        step = halve(torch.linalg.solve(there, inverse))
        return there if step is None else there @ step, solution

    def levels(self, fixed: PlacedPixels, moving: PlacedPixels) -> list[_Level]:
        most = min(self.most, math.prod(fixed.sizes))
        return [self._level(*pair) for pair in levels_of(fixed, moving, most)]

    def _level(self, fixed: PlacedPixels, moving: PlacedPixels) -> _Level:
        # In float64, because line searches of few parameters end in the rounding of float32.
        fixed, moving = fixed.double(), moving.double()
        return _Level(fixed, moving, self.loss, self.landmarks, *fixed.mass())

    def search(self, coarsest: _Level) -> LinearFit:
        """Score the candidates of the coarsest level; the first one is no motion."""
        starts = _candidates(coarsest, self.kinds, self.mirrored)
        return LinearFit(starts, coarsest.score(starts))


def _candidates(level: _Level, kinds: Sequence[LinearMotion], mirrored: bool) -> Tensor:
    """Return the motions that the search compares, ``(n, d + 1, d + 1)``."""
    d = len(level.centre)
    goal = level.moving.mass()
    ratio = goal.radius / level.radius
    is_scaled = {"similarity", "affine"} & set(kinds) and abs(ratio - 1) > _SAME_SCALE
    scales = [1.0, ratio] if is_scaled else [1.0]
    unit = torch.eye(d, dtype=torch.float64)
    centres = [
        (image.corners().amin(0) + image.corners().amax(0)) / 2
        for image in (level.fixed, level.moving)
    ]
    matrices = [torch.eye(d + 1, dtype=torch.float64)]
    matrices += [_place(unit, *pair) for pair in (centres, (level.centre, goal.centre))]
    if tuple(kinds) != ("translation",):
        turns = rotations(d)
        if mirrored:
            flip = unit.clone()
            flip[0, 0] = -1.0
            turns = torch.cat([turns, turns @ flip])
        for scale in scales:
            matrices += [_place(scale * turn, level.centre, goal.centre) for turn in turns]
    return torch.stack(matrices)


def _place(linear: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return the map ``p -> L (p - source) + target``."""
    matrix = torch.eye(len(linear) + 1, dtype=torch.float64)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = target - linear @ source
    return matrix


def rotations(dimensions: int) -> Tensor:
    """Return rotations that cover the circle or SO(3) evenly, ``(n, d, d)``, float64.

    In space they are the super-Fibonacci spirals of Alexa (CVPR 2022).

    >>> rotations(2).shape, bool((rotations(3).det() - 1).abs().max() < 1e-12)
    (torch.Size([72, 2, 2]), True)
    """
    count = _ROTATIONS[dimensions]
    s = torch.arange(count, dtype=torch.float64) + 0.5
    if dimensions == 2:
        angle = 2 * math.pi * (s - 0.5) / count
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos, -sin, sin, cos], 1).unflatten(1, (2, 2))
    # q = (r sin a, r cos a, R sin b, R cos b), r^2 = s / n, R^2 = 1 - s / n, a = 2 pi s / phi,
    # b = 2 pi s / psi with phi = sqrt 2 and psi^4 = psi + 4.
    r, R = (s / count).sqrt(), (1 - s / count).sqrt()
    a, b = 2 * math.pi * s / math.sqrt(2), 2 * math.pi * s / 1.533751168755204288
    x, y, z, w = r * a.sin(), r * a.cos(), R * b.sin(), R * b.cos()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
