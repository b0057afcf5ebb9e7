"""Register one pair of images by stages, and test whether they need linear ones, and the field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invtoolbox import metrics
from invtoolbox.errors import InputError
from invtoolbox.geometry import (
    Affine,
    Composite,
    DisplacementField,
    Grid,
    Transform,
    resample,
)
from invtoolbox.geometry.placed_pixels import PlacedPixels
from invtoolbox.geometry.transforms import halve, turn_of
from invtoolbox.jobs.registration.checks import Pair, bring, meet
from invtoolbox.jobs.registration.deformable import (
    DeformableStage,
    FieldLevel,
    add_own_noise,
    change_by_noise,
    is_large,
    scale,
    structure,
    weigh,
)
from invtoolbox.jobs.registration.linear import Bend, Landmarks, LinearStages
from invtoolbox.operators import Exponential, PlacedImage
from invtoolbox.priors import Prior, PriorSum
from invtoolbox.priors.implicit.affine_map import LINEAR_MOTIONS, LinearMotion
from invtoolbox.priors.motion.displacement import mean_length
from invtoolbox.solution import Solution

#: The deformable stages, by a displacement and by a velocity.
BENDING, DIFFEOMORPHIC = "bending", "diffeomorphic"
#: Turn of volumes, in degrees, that a note states: heads and bodies lie as their headers state.
_LARGE_TURN = 60
#: Stages that are usual for images on different grids.
USUAL = ("rigid", "affine", BENDING)
#: Number of pixels of the level on which stages are compared, by dimension.
_COMPARED = {2: 1 << 12, 3: 1 << 16}
#: Least mean length of a linear motion, in pixels, for which there are linear stages. Fields alone
#: are better below it: by 5 dB for volumes of mni, moved by at most 0.3 pixels.
_FAR = 2.0
#: Share of the variance between images at rest that a linear motion leaves, below which it is surely
#: the right one, and below which it explains most of the variance. Of the right ones, 39 pairs of
#: turned slices have 0.01 to 0.04, eleven of slightly moved ones 0.02 to 0.14, four of hearts 0.04 to
#: 0.11 and volumes 0.03 to 0.16; wrong ones of slices and hearts have 0.37 to 0.64, and those of the
#: even half of ``benchmarks/zoo.py`` in which stages lose 0.37 and 0.71.
_SURELY, _MOSTLY = 0.1, 0.25
#: Least share of a variance.
_TINY = 1e-12
#: Ratio of the objectives of fields, after linear stages and without, below which linear stages are
#: kept: if they explain most of the variance, and otherwise. The first is 0.16 to 1.8 for the pairs
#: above, in which stages change the error by -9 to +2 dB, and 36 for a smooth picture in which the
#: search errs. The second is 0.05 to 0.62 for brain slices that were turned, scaled and shifted (26
#: draws, noise of 5 to 40 %), and 0.68 to 0.95 for five pictures with motions of at most three pixels.
_NOT_WORSE, _CLEARLY = 2.0, 0.65
#: Number of candidates of the search that are refined for this decision.
_REFINED = 3
#: Number of iterations per level for objectives by which linear motions are compared.
_ROUGH = 6
#: Change of the field by noise where the image has structure, relative to its length, above which no
#: motion is determined. Of the even half of ``benchmarks/zoo.py``, fields with at most 0.27 are 5 to 26
#: dB better than no motion, and of six with 0.34 and more one is better, by 2 dB. Noise changes
#: fields of descriptors (MIND) more: of 25 pairs of brain slices, one of them inverted, with 5 to 40 %
#: noise, nine have at most 0.75 and are 3 to 14 dB better; of the others two are.
MOST_BY_NOISE, MOST_BY_NOISE_OF_MIND = 0.3, 0.7


@dataclass(frozen=True)
class Stages:
    """The linear stages, and whether a deformable one follows, with an inverse or without."""

    linear: tuple[LinearMotion, ...]
    is_deformable: bool
    is_diffeomorphic: bool


def read_stages(stages: Sequence[str]) -> Stages:
    """Check the names of stages and their order.

    Raises:
        InputError: an unknown name, a stage before one that is stiffer, or two fields.
    """
    names = (*LINEAR_MOTIONS, BENDING, DIFFEOMORPHIC)
    stages = (stages,) if isinstance(stages, str) else tuple(stages)
    unknown = [stage for stage in stages if stage not in names]
    if unknown or not stages:
        raise InputError(
            f"stages of register are some of {', '.join(names)}, got {unknown[0]!r}"
            if unknown
            else f"stages of register is empty; give some of {', '.join(names)}"
        )
    places = [names.index(stage) for stage in stages]
    if places != sorted(set(places)):
        raise InputError(
            f"the stages {', '.join(stages)} are not in the order {', '.join(names)}, once each"
        )
    if {BENDING, DIFFEOMORPHIC} <= set(stages):
        raise InputError(
            f"the stages {BENDING} and {DIFFEOMORPHIC} both end in a field; give one of them"
        )
    linear = tuple(name for name in LINEAR_MOTIONS if name in stages)
    return Stages(linear, len(linear) < len(stages), DIFFEOMORPHIC in stages)


def check_overlap(pair: Pair, stages: Stages) -> list[str]:
    """Return a note if the images lie apart; without linear stages it is an error."""
    boxes = []
    for image, matrix in zip((pair.moving, pair.fixed), pair.matrices):
        corners = PlacedPixels(image[:1], matrix).corners()
        boxes.append((corners.amin(0), corners.amax(0)))
    (a, b), (c, d) = boxes
    if bool(((a <= d) & (c <= b)).all()):
        return []
    places = [" x ".join(f"{low:.4g} to {high:.4g}" for low, high in zip(*ends)) for ends in boxes]
    sentence = (
        f"the images do not overlap in space: the moving one lies at {places[0]} and the fixed one "
        f"at {places[1]} {pair.grids[1].unit} (x, y, z)"
    )
    if stages.linear:
        return [f"{sentence}; the linear stages start from their centres"]
    raise InputError(f"{sentence}; correct the headers, or add a linear stage")


def place(
    image: Tensor,
    mask: Tensor | None,
    matrix: Tensor,
    grids: tuple[Grid, Grid],
    shape: Sequence[int],
) -> tuple[Tensor, Tensor | None]:
    """Resample an image on another grid, and return the weights of its pixels.

    Args:
        image: the image ``(1, channel, *space)``.
        mask: its pixels that count.
        matrix: linear motion from the other grid to the image.
        grids: grid of the image, and the other one.
        shape: number of pixels along every axis of the other grid.

    Returns:
        the image, and weights ``(1, 1, *space)``, None if all pixels count.
    """
    T = Affine(matrix)
    placed = resample(image, T, grids[1], grids[0], shape, outside=float(image.min()))
    share = torch.ones_like(image[:, :1]) if mask is None else mask.to(image)
    weights = resample(share, T, grids[1], grids[0], shape)
    return placed, None if bool((weights == 1).all()) else weights


def compose(motion: Motion, pair: Pair) -> tuple[Tensor, Transform]:
    """Return the whole displacement along the axes of the fixed image, and the transform.

    ``T(p) = L(p + u(p))`` with the field u and the linear motion L.

    Args:
        motion: field and linear motion of the pair.
        pair: both images.
    """
    field, matrix = motion.field, motion.matrix
    place = PlacedPixels(pair.fixed[:1], pair.matrix(1))
    D = (place.matrix[:-1, :-1] / place.matrix[:-1, :-1].norm(dim=0)).to(field)
    u = torch.tensordot(D, field[0], 1)  # components x, y, z
    back = None if motion.inverse is None else torch.tensordot(D, motion.inverse[0], 1)
    bent = DisplacementField(u, pair.grids[1], back)
    if matrix is None:
        return field, bent
    linear = Affine(matrix)
    if not bool(field.any()):
        steps: Transform = linear
    else:
        steps = Composite((bent, linear))
    points = place.points().to(field)
    L = matrix.to(field)
    flat = (points + u).flatten(1)
    total = L[:-1, :-1] @ flat + L[:-1, -1:] - points.flatten(1)
    return (torch.linalg.inv(D) @ total).unflatten(1, field.shape[2:])[None], steps


def to_field(
    points: tuple[Tensor, Tensor], matrix: Tensor | None, pair: Pair
) -> tuple[Tensor, Tensor]:
    """Return landmarks as indices of the fixed image and displacements along its axes.

    Args:
        points: positions in the moving and in the fixed image.
        matrix: linear motion L before the field, ``L(p + u(p)) = q``, or None.
        pair: both images.
    """
    q, p = points
    if matrix is not None:
        q = Affine(matrix).inverse()(q)
    place = pair.matrix(1)
    D = place[:-1, :-1] / place[:-1, :-1].norm(dim=0)
    return Affine(place).inverse()(p), (q - p) @ torch.linalg.inv(D).T


def find_linear(
    stage: DeformableStage,
    terms: PriorSum,
    finest: FieldLevel,
    linear: LinearStages,
    pair: Pair,
    bend: Bend | None,
) -> Tensor | None:
    """Return a linear motion that explains two images on one grid better than a field alone, or None.

    A field alone follows motions of a few pixels as well, and the search may end at a wrong place.
    So the motion must be longer, and either leave a small share of the variance that the images at
    rest leave, or lower the objective of the field on a coarse level clearly. Affine displacements
    cost no bending energy, so both ways end at minima of one objective.

    Args:
        stage: the deformable stage.
        terms: its priors.
        finest: both images.
        linear: the linear stages.
        pair: both images and their grid.
        bend: objective of the field that follows a motion, see `LinearStages.fit`.
    """
    fixed, moving = (
        PlacedPixels(image, pair.matrix(side), mask)
        for image, side, mask in ((finest.fixed, 1, finest.mask), (finest.moving, 0, None))
    )
    levels = stage.pyramid(finest)
    sizes = [math.prod(level.fixed.shape[2:]) for level in levels]
    count = max(1, sum(n <= _COMPARED[len(pair.spacing)] for n in sizes))
    coarse = levels[count - 1]
    points = fixed.points().flatten(1)
    # A wrong place leaves much of the variance, and is searched for among more candidates.
    for refined, objective in ((_REFINED, None), (linear.refined, bend)):
        rough = replace(linear, most=sizes[count - 1], refined=refined)
        matrix, _ = rough.fit(fixed, moving, objective)
        moves = (matrix[:-1, :-1] @ points + matrix[:-1, -1:] - points).norm(dim=0)
        if float(moves.mean()) < _FAR * mean_length(pair.spacing):
            return None
        turned = _turn(coarse, matrix, pair)
        # Images of inverted contrast lie where they belong, although another place looks more alike.
        images = (coarse.fixed, coarse.moving, turned.moving)
        same, there = (float(metrics.correlation(images[0], image)) for image in images[1:])
        there = abs(there) if stage.loss in ("mi", "mind") else there
        left = (1 - there**2) / max(1 - same**2, _TINY)
        if there > abs(same) and left < _SURELY:
            break
    if not there > abs(same):
        return None
    explains_most = left < _MOSTLY
    iterations = _ROUGH if explains_most else stage.max_iterations
    simple = replace(stage, levels=None, skipped=0, max_iterations=iterations)
    terms = (1.0 * terms).as_sum()  # one objective, so one weight
    at_rest, placed = (
        simple.objective(level, terms, simple.fit(level, terms, None)[-1].solution.x)
        for level in (coarse, turned)
    )
    is_better = placed < (_NOT_WORSE if explains_most else _CLEARLY) * at_rest
    return matrix if is_better else None


def _turn(level: FieldLevel, matrix: Tensor, pair: Pair) -> FieldLevel:
    """Return a level whose moving image is moved, and continues beyond its border."""
    change = torch.eye(len(pair.spacing) + 1, dtype=torch.float64)
    for k, n in enumerate(level.factors):  # pixel k covers n k to n k + n - 1
        change[k, k], change[k, -1] = n, (n - 1) / 2
    p = PlacedPixels(level.fixed, pair.matrix(1) @ change).points()
    source = PlacedPixels(level.moving, pair.matrix(0) @ change)
    u = (matrix[:-1, :-1] @ p.flatten(1) + matrix[:-1, -1:]).unflatten(1, p.shape[1:]) - p
    A = PlacedImage(source.image, source.to_index, p.to(source.image))
    return replace(level, moving=A(u[None].to(source.image)))


@dataclass(frozen=True, eq=False)
class Motion:
    """Motion of one pair: field, linear motion or None, last solution, notes, and inverse field."""

    field: Tensor
    matrix: Tensor | None
    solution: Solution
    notes: list[str]
    inverse: Tensor | None = None


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
        start = self._find_linear(linear, moving, fixed, weights, item) if self.is_free else None
        if start is not None:
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
            if self.stage.is_diffeomorphic:
                matrix, solution = linear.fit_both(places[1], places[0], self._bending(item))
            else:
                bend = None if start is not None else self._bending(item)
                matrix, solution = linear.fit(places[1], places[0], bend, start)
            is_free = fixed.ndim == 5 and self.points is None
            if is_free and (turn := turn_of(matrix)) > _LARGE_TURN:
                notes.append(
                    f"the volumes are turned by {turn:.0f} degrees: if that cannot be, as for a body "
                    'that resembles itself turned, give landmarks=, or stages= without "rigid" and '
                    '"affine"'
                )
        is_flow, bent = self.stage.is_diffeomorphic, None
        if is_flow and matrix is not None and (bent := self._meet(item, matrix)) is None:
            notes.append(
                "the linear motion has no half, as it mirrors, turns by 180 degrees or leaves no "
                "overlap: the field is found on the fixed grid, and exchanged images have another"
            )
        if bent is None and (matrix is not None or supports[0] is not None):
            eye = torch.eye(fixed.ndim - 1, dtype=torch.float64) if matrix is None else matrix
            moving, inside = place(moving, supports[0], eye, pair.grids, fixed.shape[2:])
            if inside is not None:
                weights = inside if weights is None else weights * inside
        if not self.plan.is_deformable:
            assert solution is not None
            field = fixed.new_zeros(1, fixed.ndim - 2, *fixed.shape[2:])
            return Motion(field, matrix, solution, notes)
        field, solution, remarks = bent or self._bend(item, moving, fixed, weights, matrix)
        back = None
        if is_flow:
            flows = [Exponential(field.shape[1:], pair.spacing, time) for time in (1.0, -1.0)]
            field, back = (flow(field) for flow in flows)
        return Motion(field, matrix, solution, notes + remarks, back)

    def _meet(self, item: int, matrix: Tensor) -> tuple[Tensor, Solution, list[str]] | None:
        """Return the velocity v of ``T = H exp(v) H`` on the fixed grid, its solution, and notes."""
        pair, half = self.pair, halve(matrix)
        if half is None or (frame := meet(pair, half)) is None:
            return None
        grid, shape = frame
        motions = half, Affine(half).inverse().matrix
        images, inside = zip(
            *(
                place(
                    image[item : item + 1],
                    None if mask is None else mask[item : item + 1],
                    motion,
                    (space, grid),
                    shape,
                )
                for image, mask, motion, space in zip(
                    (pair.moving, pair.fixed), self.masks, motions, pair.grids
                )
            )
        )
        counted = [weights for weights in inside if weights is not None]
        points = self.points and (
            Affine(motions[1])(self.points[0]),
            Affine(motions[0])(self.points[1]),
        )
        middle = Pair(images[0], images[1], (grid, grid), grid.voxel_size[-len(shape) :], True, ())
        task = replace(self, pair=middle, points=points)
        weights = torch.stack(counted).prod(0) if counted else None
        v, solution, notes = task._bend(item, images[0], images[1], weights, None)
        return bring(v, grid, half, pair), solution, notes

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
        if self.stage.is_diffeomorphic and self.stage.loss == "least-squares":
            unit = (unit * scale(moving, weights)) ** 0.5  # alike in both images
        return FieldLevel.finest(moving / unit, fixed / unit, weights, self.pair.spacing)

    def _terms(self, item: int, finest: FieldLevel) -> PriorSum:
        priors = weigh(self.prior, self.stage.loss, finest, self.smoothness)
        return priors.select(torch.tensor([item]))

    def _find_linear(
        self, linear: LinearStages, moving: Tensor, fixed: Tensor, weights: Tensor | None, item: int
    ) -> Tensor | None:
        finest = self._level(moving, fixed, weights)
        terms, bend = self._terms(item, finest), self._bending(item)
        return find_linear(self.stage, terms, finest, linear, self.pair, bend)

    def _bending(self, item: int) -> Bend | None:
        """Return the objective of the field after a motion, by which motions are compared."""
        if not self.plan.is_deformable or self.points is not None:
            return None
        # Objectives of right and wrong motions differ several times, so rough minima are enough.
        simple = replace(
            self.stage, levels=None, skipped=0, is_diffeomorphic=False, max_iterations=_ROUGH
        )

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
            shown = replace(finest, mask=structure(finest.fixed, weights))
            coarser = replace(stage, levels=len(fits) - depth, skipped=0)
            for _ in range(len(finest.pyramid(stage.levels)) - len(fits) + depth):
                copy, shown = copy.halve(), shown.halve()
            again = coarser.fit(copy, terms, None, fits)[-1].solution.x
            share = change_by_noise(fits[-1 - depth].solution.x, again, shown.mask)
            most = MOST_BY_NOISE_OF_MIND if stage.loss == "mind" else MOST_BY_NOISE
            if not share <= most:
                field = torch.zeros_like(field)
                notes.append(
                    f"noise like that of the images changes the field by {share:.0%} of its "
                    "length, so they determine no motion: the displacement is 0. A larger "
                    "smoothness may find one; a written weight of the prior keeps the field, which "
                    f"is solutions[{item}].x"
                )
        return field, solution, notes
