"""Order of the stages of a registration, and the test for a large linear motion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.transforms import (
    Affine,
    Composite,
    DisplacementField,
    Transform,
    resample,
)
from invtoolbox.jobs.registration.checks import Pair
from invtoolbox.jobs.registration.deformable import DeformableStage, FieldLevel
from invtoolbox.jobs.registration.linear import Bend, LinearStages
from invtoolbox.jobs.registration.pyramid import PlacedPixels
from invtoolbox.operators import PlacedImage
from invtoolbox.priors import PriorSum
from invtoolbox.priors.implicit.affine_map import LINEAR_MOTIONS, LinearMotion

#: The deformable stage.
BENDING = "bending"
#: Stages that are usual for images on different grids.
USUAL = ("rigid", "affine", BENDING)
#: Number of pixels of the level on which stages are compared, by dimension.
_COMPARED = {2: 1 << 12, 3: 1 << 15}


@dataclass(frozen=True)
class Stages:
    """The linear stages, and whether a deformable one follows."""

    linear: tuple[LinearMotion, ...]
    is_deformable: bool


def read_stages(stages: Sequence[str]) -> Stages:
    """Check the names of stages and their order.

    Raises:
        InputError: an unknown name, or a stage before one that is stiffer.
    """
    names = (*LINEAR_MOTIONS, BENDING)
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
    linear = tuple(name for name in LINEAR_MOTIONS if name in stages)
    return Stages(linear, BENDING in stages)


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
    pair: Pair, matrix: Tensor, moving: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Resample a moving image on the fixed grid, and return the weights of its pixels.

    Args:
        pair: both images.
        matrix: linear motion from the fixed to the moving image.
        moving: the moving image ``(1, channel, *space)``.
        mask: its pixels that count.

    Returns:
        the image, and weights ``(1, 1, *space)``, None if all pixels count.
    """
    shape, T = pair.fixed.shape[2:], Affine(matrix)
    image = resample(moving, T, pair.grids[1], pair.grids[0], shape, outside=float(moving.min()))
    share = torch.ones_like(moving[:, :1]) if mask is None else mask.to(moving)
    weights = resample(share, T, pair.grids[1], pair.grids[0], shape)
    return image, None if bool((weights == 1).all()) else weights


def compose(field: Tensor, matrix: Tensor | None, pair: Pair) -> tuple[Tensor, Transform]:
    """Return the whole displacement along the axes of the fixed image, and the transform.

    ``T(p) = L(p + u(p))`` with the field u and the linear motion L.

    Args:
        field: u along the axes, ``(1, d, *space)``.
        matrix: the linear motion, or None.
        pair: both images.
    """
    place = PlacedPixels(pair.fixed[:1], pair.matrix(1))
    D = (place.matrix[:-1, :-1] / place.matrix[:-1, :-1].norm(dim=0)).to(field)
    u = torch.tensordot(D, field[0], 1)  # components x, y, z
    bent = DisplacementField(u, pair.grids[1])
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


def needs_linear(
    stage: DeformableStage,
    terms: PriorSum,
    finest: FieldLevel,
    linear: LinearStages,
    pair: Pair,
    bend: Bend | None,
) -> bool:
    """Return whether linear stages explain two images on one grid better than a field alone.

    Affine displacements cost no bending energy, so both ways end at minima of one objective, and
    the lower one is kept, on a coarse level, if the search finds a better position than that of the
    images. A difference below the tolerance of the solver is none.

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
    search = linear.search(linear.levels(fixed, moving)[0])
    if not bool((search.scores[1:] < (1 - 1e-4) * search.scores[0]).any()):
        return False
    simple, levels = replace(stage, levels=None, skipped=0), stage.pyramid(finest)
    terms = (1.0 * terms).as_sum()  # one objective, so one weight

    def field(level: FieldLevel) -> float:
        return simple.objective(level, terms, simple.fit(level, terms, None)[-1].solution.x)

    sizes = [math.prod(level.fixed.shape[2:]) for level in levels]
    count = max(1, sum(n <= _COMPARED[len(pair.spacing)] for n in sizes))
    coarse = levels[count - 1]
    matrix, _ = replace(linear, most=sizes[count - 1]).fit(fixed, moving, bend)
    return field(_turn(coarse, matrix, pair)) < (1 - stage.tolerance) * field(coarse)


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
