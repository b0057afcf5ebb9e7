"""Parts of a report next to a result: the simple answer, the errors, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective.gaps import fill_gaps
from invtoolbox.operators import (
    Blur,
    CartesianMRI,
    Downsampling,
    Identity,
    Inpainting,
    LinearOperator,
    Matrix,
    Operator,
)
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.plotting import page
from invtoolbox.plotting.explanation import estimated_noise
from invtoolbox.plotting.pixels import Window, symmetric_window, window_of

if TYPE_CHECKING:
    from invtoolbox.problem import Problem
    from invtoolbox.solution import Solution

#: Largest number of values of the images whose simple answer is computed for a page, and largest
#: product of the sides of a matrix and the shorter one, to which the time of its inversion is
#: proportional.
_LARGEST, _LARGEST_MATRIX = 1 << 26, 1 << 31
#: Gains below this number of dB are called equal: a reader sees no difference.
_EQUAL = 0.05
#: Ratios of residual and noise level at which measurements are explained.
_EXPLAINED = (0.8, 1.25)

#: Words for the outcome of a run, by its status.
STATES = {
    "early_stopping": "ended early by design",
    "limit": "reached the limit of iterations or time",
    "stopped": "stopped before the tolerance was met",
}
#: First words of a verdict without a reference, by the status.
HEADS = {
    "converged": "Converged.",
    "early_stopping": "Finished: the method ends here by design.",
    "limit": "Reached its limit of iterations or time; more may improve it.",
    "stopped": "Stopped before the tolerance was met.",
    "diverged": "Diverged: this is the last finite image.",
    "invalid": "Invalid: the measurements are not finite, so there is no answer.",
}
#: Computes metrics by name, one value per item, of a batch of images.
Score = Callable[[Tensor], dict[str, list[float]]]


def under_measurements(solution: Solution, x: Tensor) -> Tensor:
    """Return the part of images that the measurements show: of a "valid" blur, all but its margin.

    Args:
        solution: the solution with its operator.
        x: images of its shape, ``(batch, channel, *space)``.
    """
    A = None if solution.problem is None else solution.problem.operator
    is_whole = isinstance(A, Blur) and tuple(x.shape[-2:]) == tuple(A.domain_shape[-2:])
    return A.crop(x) if is_whole and isinstance(A, Blur) else x


def simple_answer(solution: Solution, items: int) -> tuple[str, Tensor] | None:
    """Return name and images of the answer without a prior, ``(items, channel, *space)``.

    It is the measured picture itself, an interpolation of its gaps, a bicubic enlargement, zero
    filling, a filtered back-projection, or the pseudo-inverse of the operator. Pictures are those
    of `under_measurements`.

    Args:
        solution: a solution of images.
        items: number of items, the first ones.

    Returns:
        None if the operator is not part of a loaded solution and the measurements are no picture of
        its size, if there is no closed form, or if the images or the matrix are too large.
    """
    x = solution.x[:items]
    y = solution.measurements if solution.problem is None else solution.problem.measured()
    if not isinstance(y, Tensor) or not isinstance(x, Tensor) or x.numel() > _LARGEST:
        return None
    A, y = None if solution.problem is None else solution.problem.operator, y[:items].detach()
    shape = under_measurements(solution, x).shape
    if (A is None or isinstance(A, (Identity, Blur, Inpainting))) and y.shape == shape:
        return None if y.is_complex() else _without_gaps(solution, y)
    if isinstance(A, Downsampling) and y.ndim == 4:
        size = tuple(x.shape[-2:])
        enlarged = torch.nn.functional.interpolate(y.cpu(), size, mode="bicubic")
        return "Bicubic interpolation", enlarged
    images = _pseudo_inverse(solution, items)
    if images is None or images.shape != x.shape:
        return None
    return _name(A), images


def _without_gaps(solution: Solution, y: Tensor) -> tuple[str, Tensor]:
    """Return the first measured pictures, whose gaps are interpolated."""
    if solution.problem is None:
        return "Measurements", y.cpu()
    first = _first_items(solution.problem, len(y))
    filled = fill_gaps(first)
    return ("Measurements" if filled is first else "Interpolation"), filled.y0.detach().cpu()


def _first_items(problem: Problem, items: int) -> Problem:
    return problem.without_skipping().select(torch.arange(items, device=problem.y0.device))


def _pseudo_inverse(solution: Solution, items: int) -> Tensor | None:
    problem = solution.problem
    if problem is None or not isinstance(problem.operator, LinearOperator):
        return None
    if isinstance(problem.operator, Matrix):
        *_, rows, columns = problem.operator.matrix.shape
        if rows * columns * min(rows, columns) > _LARGEST_MATRIX:
            return None
    first = _first_items(problem, items)
    try:
        with torch.no_grad():
            return first.operator.pseudo_inverse(first.y0).detach().cpu()  # type: ignore[attr-defined, no-any-return]
    except InputError:  # the operator has no closed form
        return None


def _name(A: Operator | None) -> str:
    if isinstance(A, Scan):
        return "Filtered back-projection"
    return "Zero filling" if isinstance(A, CartesianMRI) else "Pseudo-inverse"


def score_items(score: Score, x: Tensor, images: Tensor) -> dict[str, list[float]]:
    """Compute the metrics of images that are fewer than the items of the solution.

    Args:
        score: metrics of a whole batch.
        x: images of all items.
        images: images of the first items.
    """
    together = torch.cat([images.to(x), x[len(images) :]])
    return {name: values[: len(images)] for name, values in score(together).items()}


def side_by_side(
    pictures: Mapping[str, np.ndarray],
    shown: str,
    truth: str = "",
    unit: str = "",
    figures: Mapping[str, str] | None = None,
) -> list[str]:
    """Return figures of pictures in one window, then of their differences from the truth.

    A slider lays every picture over the next one.

    Args:
        pictures: pictures of one shape by name, the simple answer first and the truth last.
        shown: name of the picture whose window all have without a truth.
        truth: name of the truth; empty without one.
        unit: unit of the values.
        figures: line of numbers per picture, such as its PSNR.
    """
    window, before = window_of(pictures[truth or shown]), ""
    cards = []
    for name, picture in pictures.items():
        numbers = (figures or {}).get(name, "")
        cards.append(page.shades(picture, window, name, "", numbers, swipe=before, unit=unit))
        before = name
    errors = {
        name: picture - pictures[truth]
        for name, picture in pictures.items()
        if truth and name != truth
    }
    largest = max([symmetric_window(error).high for error in errors.values()], default=1.0)
    about, words = Window(-largest, largest), f"minus {truth.lower()}"
    return cards + [
        page.signed(error, about, f"Error: {name}", words, unit=unit)
        for name, error in errors.items()
    ]


def describe_gain(psnr: float, simple: float, name: str) -> tuple[str, bool]:
    """Return how far a result lies above a simple answer, and whether it is not below.

    Args:
        psnr: PSNR of the result, dB.
        simple: PSNR of the simple answer, dB.
        name: name of the simple answer in a sentence.

    >>> describe_gain(30.0, 28.5, "zero filling")
    ('30.0 dB, 1.5 dB better than zero filling.', True)
    """
    gain = psnr - simple
    if abs(gain) < _EQUAL:
        return f"{psnr:.1f} dB, like {name}.", True
    relation = "better" if gain > 0 else "worse"
    return f"{psnr:.1f} dB, {abs(gain):.1f} dB {relation} than {name}.", gain > 0


def verdict(
    solution: Solution,
    k: int,
    residual: float,
    size: float,
    psnr: float | None = None,
    simple: tuple[str, float] | None = None,
) -> str:
    """Return the paragraph that states whether an item is good, and by how much.

    Args:
        solution: the solution.
        k: number of the item.
        residual: root mean square of prediction minus measurements; NaN if it is not known.
        size: root mean square of the measurements.
        psnr: PSNR against the reference, dB.
        simple: name and PSNR of the simple answer.
    """
    state = STATES.get(solution.status[k], solution.status[k])
    is_good: bool | None = None
    if solution.status[k] in ("diverged", "invalid"):
        is_good = False
    count = int(solution.iterations[k])
    steps = f"{count} iteration{'' if count == 1 else 's'}"
    words = []
    if psnr is not None and math.isfinite(psnr):
        head = f"{psnr:.1f} dB."
        if simple is not None and math.isfinite(simple[1]):
            head, is_gain = describe_gain(psnr, simple[1], "the simple answer")
            is_good = is_gain if is_good is None else is_good
            words.append(f"{simple[0]}: {simple[1]:.1f} dB (PSNR against the reference).")
        words.append(f"The run {state} after {steps} in {solution.seconds:.3g} s.")
    else:
        head = HEADS.get(solution.status[k], f"{state}.")
        words.append(f"It took {steps} and {solution.seconds:.3g} s.")
    if math.isfinite(residual) and size > 0:
        fit, explains = _fit(solution, k, residual, size)
        words.append(fit)
        if (
            psnr is None
            and is_good is None
            and solution.status[k] in ("converged", "early_stopping")
        ):
            is_good = explains or None
    if solution.prior != "no prior" and math.isfinite(float(solution.regularization[k])):
        words.append(f"Prior: {float(solution.regularization[k]):.3g} times {solution.prior}.")
    batch = len(solution.status)
    words += [
        f"Note: {decision.text(batch)}."
        for decision in solution.decisions
        if decision.is_compared and decision.concerns(k) and decision.outcome == "taken"
    ]
    count = len(solution.notes)
    if count:
        words.append(f"{count} note{'s' if count > 1 else ''} below.")
    return page.verdict(head, " ".join(words), is_good)


def _fit(solution: Solution, k: int, residual: float, size: float) -> tuple[str, bool | None]:
    """Return how well the result explains the measurements, and whether it does if that is known."""
    share = f"The prediction differs from the measurements by {100 * residual / size:.2g} %"
    level, source = _noise_level(solution, k)
    if level is None or not level > 0:
        return f"{share}; the noise level is not known.", None
    ratio = residual / level
    relation = f"{ratio:.2g} times the noise level ({level:.3g}, {source})"
    return f"{share}, {relation}.", _EXPLAINED[0] <= ratio <= _EXPLAINED[1]


def _noise_level(solution: Solution, k: int) -> tuple[float | None, str]:
    term = None if solution.problem is None else solution.problem.data_term
    level = getattr(term, "noise_std", None)
    if level is not None:
        values = torch.as_tensor(level).detach().flatten()
        return float(values[min(k, len(values) - 1)]), "stated"
    return estimated_noise(solution, k), "estimated"
