"""Register one pair of images after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invtoolbox.jobs.registration.checks import Pair
from invtoolbox.jobs.registration.deformable import (
    DeformableStage,
    FieldLevel,
    is_large,
    scale,
    weigh,
)
from invtoolbox.jobs.registration.floor import MOST_BY_NOISE, add_own_noise, change_by_noise
from invtoolbox.jobs.registration.linear import Bend, Landmarks, LinearStages
from invtoolbox.jobs.registration.pyramid import PlacedPixels
from invtoolbox.jobs.registration.stages import Stages, needs_linear, place, to_field
from invtoolbox.priors import Prior, PriorSum
from invtoolbox.priors.motion.displacement import mean_length
from invtoolbox.solution import Solution


@dataclass(frozen=True, eq=False)
class Motion:
    """Motion of one pair: field, linear motion or None, last solution, and notes."""

    field: Tensor
    matrix: Tensor | None
    solution: Solution
    notes: list[str]


@dataclass(frozen=True, eq=False)
class Task:
    """A batch of pairs and how they are registered.

    Attributes:
        points: landmarks, positions in the moving and in the fixed image.
        masks: masks of the moving and the fixed images.
        is_tested: whether a field that noise makes is refused.
        is_free: whether linear stages are added if the images need them.
    """

    pair: Pair
    plan: Stages
    stage: DeformableStage
    prior: Prior
    smoothness: float
    points: tuple[Tensor, Tensor] | None
    masks: tuple[Tensor | None, Tensor | None]
    mirrored: bool
    is_tested: bool
    is_free: bool

    def register(self, item: int) -> Motion:
        """Register one pair."""
        pair, entry = self.pair, slice(item, item + 1)
        moving, fixed = pair.moving[entry], pair.fixed[entry]
        supports = [None if mask is None else mask[entry] for mask in self.masks]
        weights = None if supports[1] is None else supports[1].to(fixed)
        matrix = None if pair.is_one_grid else torch.eye(fixed.ndim - 1, dtype=torch.float64)
        notes, solution = list[str](), None
        linear: LinearStages | None = self._linear(fixed)
        assert linear is not None
        if self.is_free and self._needs_linear(linear, moving, fixed, weights, item):
            notes.append(
                "a linear motion explains the images better than a field alone, so rigid and "
                'affine stages come first; stages=("bending",) leaves them out'
            )
        elif not self.plan.linear:
            linear = None
        if linear is not None:
            places = [
                PlacedPixels(image, pair.matrix(k)).masked(mask)
                for k, (image, mask) in enumerate(zip((moving, fixed), supports))
            ]
            matrix, solution = linear.fit(places[1], places[0], self._bending(item))
        if matrix is not None or supports[0] is not None:
            eye = torch.eye(fixed.ndim - 1, dtype=torch.float64)
            moving, inside = place(pair, eye if matrix is None else matrix, moving, supports[0])
            if inside is not None:
                weights = inside if weights is None else weights * inside
        if not self.plan.is_deformable:
            assert solution is not None
            field = fixed.new_zeros(1, fixed.ndim - 2, *fixed.shape[2:])
            return Motion(field, matrix, solution, notes)
        field, solution, found = self._bend(item, moving, fixed, weights, matrix)
        return Motion(field, matrix, solution, notes + found)

    def _linear(self, fixed: Tensor) -> LinearStages:
        pixels, stage, landmarks = fixed[0, 0].numel(), self.stage, None
        if self.points is not None:
            # In pixels, relative to the pixels of the image.
            weight = stage.landmark_weight / pixels / mean_length(self.pair.spacing) ** 2
            landmarks = Landmarks(self.points[1], self.points[0], weight)
        return LinearStages(
            self.plan.linear or ("rigid", "affine"),
            stage.loss,
            landmarks,
            self.mirrored,
            most=pixels // 4 ** (fixed.ndim - 2) if stage.skipped else pixels,
            progress=stage.progress,
        )

    def _level(self, moving: Tensor, fixed: Tensor, weights: Tensor | None) -> FieldLevel:
        # Least squares in units of the standard deviation of the fixed image, |m(p + u) - f|^2 /
        # s^2, for weights that do not depend on the unit of the images.
        unit = scale(fixed, weights) if self.stage.loss == "least-squares" else 1.0
        return FieldLevel.finest(moving / unit, fixed / unit, weights, self.pair.spacing)

    def _terms(self, item: int, finest: FieldLevel) -> PriorSum:
        priors = weigh(self.prior, self.stage.loss, finest, self.smoothness)
        return priors.select(torch.tensor([item]))

    def _needs_linear(
        self, linear: LinearStages, moving: Tensor, fixed: Tensor, weights: Tensor | None, item: int
    ) -> bool:
        finest = self._level(moving, fixed, weights)
        terms, bend = self._terms(item, finest), self._bending(item)
        return needs_linear(self.stage, terms, finest, linear, self.pair, bend)

    def _bending(self, item: int) -> Bend | None:
        """Return the objective of the field after a motion, by which motions are compared."""
        if not self.plan.is_deformable or self.points is not None:
            return None
        simple = replace(self.stage, levels=None, skipped=0)

        def energy(fixed: PlacedPixels, moved: Tensor) -> float:
            mask = None if fixed.mask is None else fixed.mask.float()
            unit = scale(fixed.image, mask) if simple.loss == "least-squares" else 1.0
            pair = (moved / unit).float(), (fixed.image / unit).float()
            level = FieldLevel.finest(*pair, mask, fixed.spacing)
            terms = weigh(self.prior, simple.loss, level, self.smoothness)
            terms = (1.0 * terms.select(torch.tensor([item]))).as_sum()  # one objective
            return simple.objective(level, terms, simple.fit(level, terms, None)[-1].solution.x)

        return energy

    def _bend(
        self,
        item: int,
        moving: Tensor,
        fixed: Tensor,
        weights: Tensor | None,
        matrix: Tensor | None,
    ) -> tuple[Tensor, Solution, list[str]]:
        """Return the field of the deformable stage, its solution, and notes."""
        stage, finest = self.stage, self._level(moving, fixed, weights)
        terms, notes = self._terms(item, finest), list[str]()
        points = None
        if self.points is not None:
            points = to_field(self.points, matrix, self.pair)
        fits = stage.fit(finest, terms, points)
        solution = fits[-1].solution
        field = stage.prolong(finest, solution.x)
        noisy = None
        if self.is_tested and bool(field.any()):
            noisy = add_own_noise(finest.moving, finest.fixed, weights)
        if noisy is not None:
            # A level less is enough for large images, and takes an eighth of the time.
            depth = 1 if is_large(finest) and len(fits) > 1 else 0
            copy = FieldLevel.finest(*noisy, weights, self.pair.spacing)
            coarser = replace(stage, levels=len(fits) - depth, skipped=0)
            for _ in range(len(finest.pyramid(stage.levels)) - len(fits) + depth):
                copy = copy.halve()
            again = coarser.fit(copy, terms, None, fits)[-1].solution.x
            inside = weights if again.shape[2:] == fixed.shape[2:] else None
            share = change_by_noise(fits[-1 - depth].solution.x, again, inside)
            if not share <= MOST_BY_NOISE:
                field = torch.zeros_like(field)
                notes.append(
                    f"noise like that of the images changes the field by {share:.0%} of its "
                    "length, so they determine no motion: the displacement is 0. A larger "
                    "smoothness may find one; a written weight of the prior keeps the field, which "
                    f"is solutions[{item}].x"
                )
        return field, solution, notes
