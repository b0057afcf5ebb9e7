"""A picture to start from when the variable is a code of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invtoolbox.priors.explicit.tikhonov import Tikhonov

if TYPE_CHECKING:
    from invtoolbox.problem import Problem

#: How far apart two neighbouring pixels of a picture are, in shares of the range of its intensities, and its noise where that is not known.
_STEP, _NOISE = 0.05, 0.004


def starting_picture(problem: Problem, solve: Any, intensity_range: tuple[float, float]) -> Tensor:
    """The smoothest picture that explains the measurements, ``(batch, channel, *space)``, within a third of its range beyond either end.

    It interpolates what is missing, sharpens what is blurred as far as the noise allows, and is a first reconstruction of a scan: least
    squares and the squared differences of neighbours, a few steps of conjugate gradients. Where the problem is not quadratic, the middle
    of the range.
    """
    low, high = intensity_range
    spread = high - low
    if problem.is_linear and problem.data_term.is_quadratic:
        known = getattr(problem.data_term, "noise_std", None) is not None
        weight = (1.0 if known else _NOISE**2 * spread**2) / (_STEP * spread) ** 2
        x: Tensor = solve(
            problem,
            weight * Tikhonov("gradient"),
            "cg",
            1.0,
            max_iterations=50,
            tolerance=1e-3,
            progress=False,
        ).x
        return x.clamp(low - spread / 3, high + spread / 3)
    return torch.full_like(problem.zeros(), (low + high) / 2)
