"""Scans of objects that reach beyond the image: solve on a grid that covers the field of view.

Rays that miss the image and are not dark measure an object outside of it. This object lies in front
of the image in other views, so no image explains the measurements. A larger image does, and its
middle is the answer.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from invtoolbox.core.decision import ITEM
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.decisions.case import IS_SCAN, ITERATES, STAY, Case, Proposal, Step
from invtoolbox.jobs.images.decisions.thresholds import (
    BRIGHT_CHANCE,
    BRIGHT_FEWEST,
    BRIGHT_LEVELS,
    BRIGHT_SHARE,
    CLEAR_CHANCE,
    CLEAR_FEWEST,
    CLEAR_LEVELS,
    CLEAR_SHARE,
    WIDE_GRID_LARGEST,
    WIDE_GRID_REACH,
)
from invtoolbox.measurements.sinogram import Sinogram
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.posteriors.base import MappedPosterior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution


class WideGrid(Step):
    """Solve a scan on a grid that covers the field of view if its object reaches beyond the image."""

    name = "wide-grid"
    question = "do rays that miss the image measure an object?"
    price = "the solve and all comparisons on up to 16 times the pixels"
    needs = (ITERATES, IS_SCAN)

    def propose(self, case: Case) -> list[Proposal]:
        wider = find_wider(case.problem)
        if wider is None:
            return [STAY] * case.batch
        rows, columns = wider.operator.domain_shape[-2:]
        changed = dataclasses.replace(
            case,
            problem=case.problem.with_operator(wider.operator),
            restores=(*case.restores, partial(crop, tuple(case.problem.image_shape[-2:]))),
            fallback=case,
        )
        sentence = (
            f"the object reaches beyond the image{ITEM}: x is the middle of a solution on {rows} by "
            f"{columns} pixels, which cover the detector's field of view; automatic='-wide-grid' keeps "
            "the grid"
        )
        return [Proposal(changed, sentence) if is_beyond else STAY for is_beyond in wider.items]


class Wider(NamedTuple):
    """Scan of a larger grid, and the items whose objects reach beyond the image.

    Attributes:
        operator: the scan of an image that covers the field of view.
        items: whether an object reaches beyond the image, booleans ``(batch,)``.
    """

    operator: Scan
    items: Tensor


def find_wider(problem: Problem) -> Wider | None:
    """Return the larger grid that a scan needs, or None if the objects lie within the image.

    Args:
        problem: measurements, operator and data term.
    """
    larger = cover_field(problem.operator, problem.y0)
    if larger is None:
        return None
    items = find_beyond(problem)
    return Wider(larger, items) if bool(items.any()) else None


def find_beyond(problem: Problem) -> Tensor:
    """Return per item whether rays that miss the image measure an object, booleans ``(batch,)``.

    Args:
        problem: measurements, operator and data term.
    """
    term, y = problem.data_term, problem.y0
    if not isinstance(term, LeastSquares) or problem.unknown:
        return torch.zeros(problem.batch, dtype=torch.bool, device=y.device)
    if term.weights is not None:
        y = y * (term.weights > 0)
    return torch.tensor([_is_beyond(problem.operator, item[None]) for item in y], device=y.device)


def _is_beyond(operator: object, y: Tensor) -> bool:
    plane = Sinogram.of(y, operator) if isinstance(operator, Scan) else None
    if plane is None:
        return False
    outside = plane.rays_outside()
    if not bool(outside.any()):
        return False
    values, number = plane.values, int(outside.sum())
    try:
        noise = float(estimate_noise_std(plane.values[None, None]))
    except InputError:
        return False
    size, rays_outside = float(values.square().mean().sqrt()), values[outside]
    bright = int((rays_outside.abs() > max(BRIGHT_LEVELS * noise, BRIGHT_SHARE * size)).sum())
    # A constant, such as scattered rays, is no object.
    clear = (rays_outside - rays_outside.median()).abs() > max(
        CLEAR_LEVELS * noise, CLEAR_SHARE * size
    )
    is_clear = int(clear.sum()) >= max(CLEAR_FEWEST, CLEAR_CHANCE * number)
    return is_clear or bright > BRIGHT_FEWEST + BRIGHT_CHANCE * number


def cover_field(operator: object, y: Tensor) -> Scan | None:
    """Return the scan of an image that covers the field of view, with the same pixels in its middle.

    None if the image covers it already, if the larger one is too large, or for other operators.

    Args:
        operator: the operator of the user.
        y: its measurements.
    """
    plane = Sinogram.of(y[:1], operator) if isinstance(operator, Scan) else None
    if plane is None:
        return None
    assert isinstance(operator, Scan)
    shape = operator.domain_shape[-2:]
    radius = float(plane.distances.abs().max())
    if plane.source is not None:
        radius = min(radius, WIDE_GRID_REACH * plane.source[0] / math.sqrt(2))
    pixels = [side / n for side, n in zip(plane.sides, shape)]
    margins = [max(0, math.ceil(radius / size - n / 2)) for size, n in zip(pixels, shape)]
    larger = [n + 2 * m for n, m in zip(shape, margins)]
    corner = math.hypot(*(n * size for n, size in zip(larger, pixels))) / 2
    if (
        not any(margins)
        or math.prod(larger) > WIDE_GRID_LARGEST * math.prod(shape)
        or (plane.source is not None and corner >= plane.source[0])
    ):
        return None
    return operator.enlarge(margins[0], margins[1])


def crop(shape: tuple[int, ...], solution: Solution) -> Solution:
    """Return the middle of a solution on a larger grid.

    Args:
        shape: number of rows and columns of the middle.
        solution: solution with more rows and columns on either side.
    """
    rows, columns = shape
    larger = solution.x.shape[-2:]
    top, left = (larger[0] - rows) // 2, (larger[1] - columns) // 2

    def middle(x: Tensor) -> Tensor:
        return x[..., top : top + rows, left : left + columns].contiguous()

    posterior = solution.posterior
    return dataclasses.replace(
        solution,
        x=middle(solution.x),
        posterior=None if posterior is None else MappedPosterior(posterior, middle),
    )
