"""Scans of objects that reach beyond the image: solve on a grid that covers the field of view.

Rays that miss the image and are not dark measure an object outside of it. This object lies in front
of the image in other views, so no image explains the measurements. A larger image does, and its
middle is the answer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.join import join
from invtoolbox.measurements.sinogram import Sinogram
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.posteriors.base import MappedPosterior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution

#: Bright rays measure more than this number of noise levels, and than this share of the root mean
#: square of all rays. An object outside makes more bright rays than `_FEWEST`, and than five times
#: the share of rays that noise alone makes bright.
_LEVEL, _SHARE = 4.0, 0.05
_FEWEST, _CHANCE = 3, 5 * 6.3e-5
#: An object that just reaches beyond a side makes a few rays bright, as noise does not: so many noise
#: levels, share of the root mean square, least number and share of the rays that miss the image. Chosen
#: on items of the zoo with even numbers, and with numbers above those of `benchmarks/zoo.py`.
_CLEAR, _CLEAR_SHARE, _CLEAR_FEWEST, _CLEAR_CHANCE = 5.0, 0.01, 2, 5e-4
#: Largest number of pixels of the larger grid, in units of the user's.
_LARGEST = 16
#: Largest distance of the corners of the larger grid, in units of the distance of the source.
_REACH = 0.95


@dataclass(frozen=True)
class Wider:
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


def solve_beyond(
    problem: Problem, wider: Wider, solve: Callable[[Problem, Tensor], Solution]
) -> Solution:
    """Solve a scan on a larger grid, for the items whose objects reach beyond the image.

    Args:
        problem: measurements, operator and data term.
        wider: the larger grid, see `find_wider`.
        solve: solves the problem of some items of the batch, whose places are the second argument.

    Returns:
        The solution on the grid of the problem.
    """
    every, beyond = torch.arange(problem.batch, device=problem.y0.device), wider.items
    # Every item is solved as it is alone.
    parts = []
    for items in (every[beyond], every[~beyond]):
        if not len(items):
            continue
        chosen = problem if len(items) == len(every) else problem.select(items)
        if bool(beyond[items[0]]):
            try:
                solution = crop(chosen, solve(chosen.with_operator(wider.operator), items))
            except (InputError, RuntimeError) as refusal:  # a prior for the grid of the user
                solution = solve(chosen, items)
                note = (
                    f"the object reaches beyond the image, and no larger grid was taken: {refusal}"
                )
                solution = dataclasses.replace(solution, notes=(*solution.notes, note))
        else:
            solution = solve(chosen, items)
        parts.append((items, solution))
    return join(problem, parts)


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
    bright = int((rays_outside.abs() > max(_LEVEL * noise, _SHARE * size)).sum())
    # A constant, such as scattered rays, is no object.
    clear = (rays_outside - rays_outside.median()).abs() > max(_CLEAR * noise, _CLEAR_SHARE * size)
    is_clear = int(clear.sum()) >= max(_CLEAR_FEWEST, _CLEAR_CHANCE * number)
    return is_clear or bright > _FEWEST + _CHANCE * number


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
        radius = min(radius, _REACH * plane.source[0] / math.sqrt(2))
    pixels = [side / n for side, n in zip(plane.sides, shape)]
    margins = [max(0, math.ceil(radius / size - n / 2)) for size, n in zip(pixels, shape)]
    larger = [n + 2 * m for n, m in zip(shape, margins)]
    corner = math.hypot(*(n * size for n, size in zip(larger, pixels))) / 2
    if (
        not any(margins)
        or math.prod(larger) > _LARGEST * math.prod(shape)
        or (plane.source is not None and corner >= plane.source[0])
    ):
        return None
    return operator.enlarge(margins[0], margins[1])


def crop(problem: Problem, solution: Solution) -> Solution:
    """Return the solution of a larger grid on the grid of a problem, with a note.

    Args:
        problem: the problem of the user.
        solution: solution on a grid with more rows and columns on either side.
    """
    rows, columns = problem.image_shape[-2:]
    larger = solution.x.shape[-2:]
    top, left = (larger[0] - rows) // 2, (larger[1] - columns) // 2
    note = (
        f"the object reaches beyond the image: x is the middle of a solution on {larger[0]} by "
        f"{larger[1]} pixels, which cover the detector's field of view"
    )

    def middle(x: Tensor) -> Tensor:
        return x[..., top : top + rows, left : left + columns].contiguous()

    posterior = solution.posterior
    return dataclasses.replace(
        solution,
        x=middle(solution.x),
        posterior=None if posterior is None else MappedPosterior(posterior, middle),
        problem=problem,
        notes=(*solution.notes, note),
    )
