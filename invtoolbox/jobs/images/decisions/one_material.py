"""The recipe for an object of one material from few directions: two levels, support, hardening.

Bounds alone do not determine an image of a short arc. If the object is of one material, its values
are two, and the scan itself shows the density and the hardening of the beam: they are fitted to the
rays that meet no hole, then to the paths through the present image, and the image is solved for
again, first on coarse grids.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.decisions.thresholds import (
    BETWEEN_LEVELS,
    CHORD_GROUPS,
    COARSEST_GRID,
    DETAILS,
    EMPTY_LEAST,
    EMPTY_LEVELS,
    EMPTY_SHARE,
    FINER_ITERATIONS,
    HARDENING_DEGREE,
    HARDENING_STRONGEST,
    MATERIAL_ITERATIONS,
    MATERIAL_ROUNDS,
    MOST_GRIDS,
    PENALTY_WARM_UP,
    RELAXED_ITERATIONS,
    ROUND,
)
from invtoolbox.metrics.images import otsu_segmentation
from invtoolbox.objective.coarse_grids import coarsen
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.operators.tomography.support import disc_misfit, disc_support, ray_support
from invtoolbox.parameter_choice.noise import estimate_or_nan
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.priors.images.two_level import TwoLevel
from invtoolbox.problem import Problem
from invtoolbox.processing.attenuation import BeamHardening, fit_beam_hardening
from invtoolbox.solution import Solution
from invtoolbox.solve import inner_solve
from invtoolbox.solvers.pdhg import PDHG


class Material(NamedTuple):
    """Image of an object of one material.

    Attributes:
        share: 1 in the material and 0 outside of it, ``(1, 1, row, column)``.
        attenuation: the attenuation of the material that explains the measurements best.
        hardening: polynomial from measurements to lengths of paths.
        support: how the support was found.
        solution: solution whose image is ``share``.
    """

    share: Tensor
    attenuation: float
    hardening: BeamHardening
    support: Literal["disc", "rays"]
    solution: Solution


def is_suited(problem: Problem) -> bool:
    """Return whether the recipe applies: a 2D scan of one channel that absorbs, least squares.

    Args:
        problem: measurements, operator and data term.
    """
    term = problem.data_term
    return (
        isinstance(problem.operator, Scan2D)
        and type(term) is LeastSquares
        and term.weights is None
        and not problem.unknown
        and problem.y0.shape[1] == 1
        and is_absorption(problem)
    )


def is_absorption(problem: Problem) -> bool:
    """Return whether no measurement is negative beyond the noise, in any item.

    Args:
        problem: measurements of a scan and its operator.
    """
    y = problem.y0
    if y.is_complex():
        return False
    least = y.flatten(1).amin(1)
    return bool(
        (y.flatten(1).amax(1) > 0).all() and (least >= -EMPTY_LEVELS * noise_of(problem)).all()
    )


def noise_of(problem: Problem) -> Tensor:
    """Return the standard deviation of the noise that the measurements show, ``(batch,)``.

    Args:
        problem: measurements and operator.
    """
    try:
        return estimate_or_nan(problem.y0, problem.operator).nan_to_num(0.0)
    except InputError:
        return torch.zeros(problem.batch).to(problem.y0)


def empty_level(problem: Problem) -> Tensor:
    """Return the measurement up to which a ray is taken as empty, ``(batch,)``.

    It is six times the noise, because the air of real scans is not quite 0, but within 2 % of the
    largest measurement, and at least 1.5 times the noise.

    Args:
        problem: measurements and operator of a scan.
    """
    noise, largest = noise_of(problem), problem.y0.flatten(1).amax(1)
    return torch.maximum(
        torch.minimum(EMPTY_LEVELS * noise, EMPTY_SHARE * largest), EMPTY_LEAST * noise
    )


def solve_one_material(
    problem: Problem,
    start: Tensor | None = None,
    seed: int = 0,
    max_iterations: int | None = None,
) -> Material:
    """Reconstruct an object of one material whose density and beam hardening are not known.

    Args:
        problem: one item of a 2D scan; see `is_suited`.
        start: first image, of any number of pixels; by default the first hardening is that of the rays
            that meet no hole.
        seed: seed of random draws.
        max_iterations: largest number of iterations of every solve.

    Raises:
        InputError: if hardly any ray passes through the material.
    """
    grids = pyramid(problem)
    empty = float(empty_level(problem))
    support = _choose_support(problem, empty)
    share = None if start is None else otsu_segmentation(start).to(start)
    for level in reversed(range(len(grids))):
        is_first = level == len(grids) - 1
        rounds, iterations = (
            (MATERIAL_ROUNDS, MATERIAL_ITERATIONS)
            if is_first
            else (1, FINER_ITERATIONS[level == 0])
        )
        if max_iterations is not None:
            iterations = min(iterations, max_iterations)
        share = None if share is None else _resize(share, grids[level])
        for _ in range(rounds):
            solution, hardening = _solve_round(
                grids[level],
                share,
                support,
                empty,
                iterations=iterations,
                is_warm=not is_first,
                seed=seed,
            )
            share = solution.x
    share = solution.x
    lengths = problem.operator(share)
    attenuation = float((lengths * problem.y0).sum() / lengths.square().sum().clamp_min(1e-30))
    return Material(share, attenuation, hardening, support, solution)


def pyramid(problem: Problem) -> list[Problem]:
    """Return a problem on its grid and on coarser ones, down to 128 pixels.

    Args:
        problem: a 2D scan.
    """
    grids = [problem]
    while len(grids) < MOST_GRIDS and min(grids[-1].image_shape[1:]) >= 2 * COARSEST_GRID:
        coarse = coarsen(grids[-1])
        if coarse is None:
            break
        grids.append(coarse)
    return grids


def relax(problem: Problem, material: Material, seed: int = 0) -> Tensor:
    """Return the image without the penalty on values between the levels, on the grid of the problem.

    Bounds, support and hardening stay. Two levels alone explain the measurements worse, because no
    edge lies between two pixels, and so predict others worse than what is known about the object.

    Args:
        problem: one item of a 2D scan.
        material: its solution.
        seed: seed of random draws.
    """
    solution, _ = _solve_round(
        problem,
        material.share,
        material.support,
        float(empty_level(problem)),
        iterations=RELAXED_ITERATIONS,
        is_warm=True,
        between=0.0,
        seed=seed,
    )
    return solution.x


def _resize(image: Tensor, grid: Problem) -> Tensor:
    size = (grid.image_shape[1], grid.image_shape[2])
    if tuple(image.shape[2:]) == size:
        return image
    if image.shape[2] > size[0]:
        return torch.nn.functional.adaptive_avg_pool2d(image, size)
    return torch.nn.functional.interpolate(image, size, mode="bilinear")


def _choose_support(problem: Problem, empty: float) -> Literal["disc", "rays"]:
    try:
        is_disc = float(disc_misfit(problem.operator, problem.y0, empty)) <= ROUND
    except InputError:
        is_disc = False
    return "disc" if is_disc else "rays"


def _solve_round(
    problem: Problem,
    share: Tensor | None,
    support: Literal["disc", "rays"],
    empty: float,
    *,
    iterations: int,
    is_warm: bool,
    seed: int,
    between: float = BETWEEN_LEVELS,
) -> tuple[Solution, BeamHardening]:
    """Fit the hardening to the paths through the present image, and solve for the next one."""
    A, y = problem.operator, problem.y0
    find = disc_support if support == "disc" else ray_support
    inside = find(A, y, empty)
    if share is None:
        hardening = _fit_hardening(*_shortest_chords(y, A(inside.to(y)), empty))
    else:
        lengths = A(otsu_segmentation(share).to(share) * inside)
        hardening = _fit_hardening(y, lengths)
    paths = hardening.apply(y)
    # The sum of the lengths of the rays through a pixel, times the size of a detail: a hole of about
    # that size is worth its edge. The penalty counts pixels, which are `fineness` details long.
    assert isinstance(A, Scan2D)
    fineness = DETAILS / min(A.image_shape)
    weight = float(A.adjoint(torch.ones_like(y)).max()) * A.pixel_size[0] / fineness
    prior = weight * TotalVariation() + between * fineness * weight * TwoLevel(
        1.0,
        support=support,
        empty=float(hardening.apply(torch.tensor(empty))),
        warm_up=int(PENALTY_WARM_UP * iterations),
    )
    # Not before the penalty has grown.
    solver = PDHG(max_iterations=iterations, tolerance=1e-6)
    solution = inner_solve(
        Problem(paths, A),
        prior,
        solver,
        initial=share if is_warm else None,
        seed=seed,
        progress=False,
    )
    return solution, hardening


def _shortest_chords(y: Tensor, chords: Tensor, empty: float) -> tuple[Tensor, Tensor]:
    """Return measurements and lengths of paths of rays that meet no hole.

    A path is at most as long as the chord of the support, and as long if it meets no hole. Of rays
    with about the same measurement, these have the shortest chords.

    Args:
        y: measurements.
        chords: lengths of the rays within the support, of the same shape.
        empty: measurement up to which a ray is empty.
    """
    rays = (y > 2 * empty) & (chords > 0)
    if int(rays.sum()) < CHORD_GROUPS:
        raise InputError("hardly any ray passes through the object; check the measurements")
    order = y[rays].argsort()
    groups = zip(y[rays][order].chunk(CHORD_GROUPS), chords[rays][order].chunk(CHORD_GROUPS))
    pairs = []
    for values, lengths in groups:
        shortest = lengths.argsort()[: max(1, len(lengths) // CHORD_GROUPS)]
        pairs.append((values[shortest], lengths[shortest]))
    some, paths = (torch.cat(each) for each in zip(*pairs))
    return some, paths


def _fit_hardening(y: Tensor, lengths: Tensor) -> BeamHardening:
    """Return the polynomial from measurements to lengths of paths, a line if it bends too much.

    A wrong image makes long paths of small measurements, and the next image follows them.
    """
    try:
        curve = fit_beam_hardening(y, lengths, HARDENING_DEGREE, attenuation=1.0)
        if max(curve.slopes) <= HARDENING_STRONGEST * min(curve.slopes):
            return curve
    except InputError:
        pass
    return fit_beam_hardening(y, lengths, 1, attenuation=1.0)
