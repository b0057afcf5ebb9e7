"""Sentences about the residual of an answer that noise of the stated level does not explain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.parameter_choice.held_out import has_views
from invtoolbox.parameter_choice.noise import rough_noise
from invtoolbox.problem import Problem

#: The residual is too large, too small or too far from white for noise of the stated level.
_TOO_LARGE, _TOO_SMALL, COLOURED = 1.15, 0.9, 0.5
#: Whiteness of the residual of a scan above which it has structure.
STRUCTURED = 0.1
#: Residual of a picture, relative to the range of its measurements, that needs no explanation, and of
#: a blurred one, whose kernel may be a few percent too wide or too narrow.
_SMALL, _KERNEL = 2e-3, 6e-3
#: Residual of a scan, relative to its measurements, that pixels leave of an object without pixels.
_PIXELS = 0.03


def explain(
    problem: Problem, item: int, fit: Sequence[float], held: Sequence[float], merged: float = 0.0
) -> str:
    """Return a sentence of a `Decision` if noise does not explain the residual, else an empty one.

    If model and noise level are right, the root mean square of the residual lies below the noise
    level, and the error of the prediction of held-out measurements lies above it.

    Args:
        problem: the whole problem.
        item: place in the batch.
        fit: columns, of which the last two are `whiteness` of the residual and its logarithmic mean
            square.
        held: columns, of which the second is the logarithmic mean square of the held-out residual.
        merged: logarithm of the number of measurements of which each of these is the mean.
    """
    if not fit or not held:
        return ""
    white = fit[-2]
    fitted, unseen = (math.exp((score + merged) / 2) for score in (fit[-1], held[1]))
    std = getattr(problem.data_term, "noise_std", None)
    level = None if std is None else float(std.flatten()[min(item, std.numel() - 1)])
    if problem.y0.is_complex():
        unseen, fitted = unseen / 2**0.5, fitted / 2**0.5  # the noise level is that of one part
    size = float(problem.y0[item].abs().square().mean().sqrt())
    least = _PIXELS * size if has_views(problem) else _least_residual(problem, item, level)
    if white > COLOURED and fitted > least:
        return (
            "noise does not explain the residual{item}, which is not white: check that the "
            "operator describes the measurements"
        )
    if level is not None and _is_noise(problem, item, white, fitted, unseen):
        if fitted <= _TOO_LARGE * level and unseen >= _TOO_SMALL * level:
            return ""
        # Only the level is in doubt: a wrong model would leave more, or structure in the residual.
        return (
            f"noise_std = {level:.3g} does not fit the residual{{item}}, which is noise of "
            f"{fitted:.3g}: held-out measurements are predicted to {unseen:.3g}; the image does not "
            "depend on noise_std"
        )
    if level is not None and fitted > max(_TOO_LARGE * level, 0 if has_views(problem) else least):
        return (
            f"noise does not explain the residual{{item}}, {fitted:.3g} against noise_std = "
            f"{level:.3g}: the noise is stronger, or the operator does not describe the "
            "measurements"
        )
    if level is not None and unseen < _TOO_SMALL * level:
        return (
            f"noise_std = {level:.3g} is too large{{item}}: held-out measurements are predicted to "
            f"{unseen:.3g}"
        )
    return ""


def _is_noise(problem: Problem, item: int, white: float, fitted: float, unseen: float) -> bool:
    """Return whether the residual of a scan or of a blurred picture is noise of some level."""
    if has_views(problem):
        return white <= STRUCTURED
    # Of a blurred picture the estimate is reliable; few pixels are white by chance.
    level = _estimate(problem, item)
    is_explained = fitted <= _TOO_LARGE * level and unseen >= _TOO_SMALL * level
    return isinstance(problem.operator, Blur) and is_explained


def _estimate(problem: Problem, item: int) -> float:
    """Return the noise level of an item that its measurements show, 0 if they show none."""
    place = torch.tensor([item], device=problem.y0.device)
    return float(rough_noise(problem.select(place)).std.nan_to_num(0.0))


def _least_residual(problem: Problem, item: int, level: float | None) -> float:
    """Return the residual that noise explains, or that is small compared with the measurements."""
    y = problem.y0[item].abs()
    small = _KERNEL if isinstance(problem.operator, Blur) else _SMALL
    level = _estimate(problem, item) if level is None else level
    return max(level, small * float(y.max() - y.min()))
