"""Scans with metal: rays through metal get weight 0, and the metal is put back into the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.join import join
from invtoolbox.measurements.findings import leave_out
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.problem import Problem
from invtoolbox.processing.metal import reduce_metal
from invtoolbox.solution import Solution


def solve_without_metal(
    problem: Problem,
    solve: Callable[[Problem, Tensor], Solution],
    metal: bool | float = True,
) -> Solution:
    """Solve a scan without the rays that meet metal, and put the metal back.

    The line integrals of these rays are those of `reduce_metal`, which a filtered back-projection and an
    initial guess use; a fit gives them the weight 0. An item without metal is solved as it is.

    Args:
        problem: line integrals, operator of a scan and least squares.
        solve: solves the problem of some items of the batch, whose places are the second argument.
        metal: attenuation above which a pixel is metal; True for the default of `reduce_metal`.

    Returns:
        The solution, with a note if there is metal.
    """
    A, y = problem.operator, problem.y0
    if not isinstance(A, Scan) or type(problem.data_term) is not LeastSquares:
        raise InputError(
            "metal is found in line integrals of a scan with least squares, got "
            f"{type(A).__name__} and {type(problem.data_term).__name__}; leave metal out"
        )
    with torch.no_grad():
        reduction = reduce_metal(y, A, None if metal is True else metal)
    every = torch.arange(problem.batch, device=y.device)
    is_metal = reduction.metal.flatten(1).any(1)
    if not bool(is_metal.any()):
        return solve(problem, every)
    solutions: list[tuple[Tensor, Solution]] = []
    if not bool(is_metal.all()):
        clean = every[~is_metal]
        solutions.append((clean, solve(problem.select(clean), clean)))
    for place in every[is_metal].split(1):
        single = problem if len(every) == 1 else problem.select(place)
        k = int(place)
        reduced = leave_out(
            single.with_measurements(reduction.y[k : k + 1]), reduction.hidden[k : k + 1]
        )
        solution = solve(reduced, place)
        image, mask = reduction.image[k : k + 1].to(solution.x), reduction.metal[k : k + 1]
        note = (
            f"metal: {int(mask.sum())} pixels, which {float(reduction.hidden[k].double().mean()):.1%} of "
            "the rays meet; these rays got weight 0, and the metal has the values of the filtered "
            "back-projection"
        )
        solution = dataclasses.replace(
            solution,
            x=torch.where(mask.to(solution.x.device), image, solution.x),
            problem=single,
            notes=(*solution.notes, note),
        )
        solutions.append((place, solution))
    return join(problem, solutions)
