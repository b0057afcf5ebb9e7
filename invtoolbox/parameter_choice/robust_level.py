"""The level of the noise without its outliers, for robust misfits that need one and have none."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.data_terms.base import MEDIAN_OF_MODULUS
from invtoolbox.data_terms.robust import Robust
from invtoolbox.objective.gaps import interpolate, measured
from invtoolbox.parameter_choice.noise import LEAST_NOISE
from invtoolbox.problem import Problem

#: Side of the windows of the medians, in measurements; residuals beyond this multiple of their scale
#: are outliers, in so many rounds.
_WINDOW, _CLIP, _CLIPPINGS = 5, 3.5, 6


def scale_robust(problem: Problem) -> tuple[Problem, tuple[str, ...]]:
    """State the noise level of a robust misfit that needs one and has none.

    With the unit of ``y`` as the level, Huber's misfit of a picture between 0 and 1 is least squares.
    The level is the median distance from the local median over windows of 5 by 5 measurements, by
    which half of the measurements may be outliers (Hampel, JASA 69, 1974).

    Args:
        problem: measurements, operator and data term.

    Returns:
        The problem with the level, and a sentence for the user; the same problem and none if its
        misfit needs no level.

    >>> import invtoolbox as it
    >>> y = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) / 100
    >>> y[..., ::4, ::3] = 1.0
    >>> A = it.operators.Identity((1, 64, 64))
    >>> problem, notes = scale_robust(it.Problem(y, A, it.data_terms.Huber()))
    >>> round(float(problem.data_term.noise_std), 2)
    0.01
    """
    term, y = problem.data_term, problem.y
    if not isinstance(term, Robust) or not term.needs_level or not isinstance(y, Tensor):
        return problem, ()
    known = measured(problem)
    if known is not None:
        y = interpolate(y, known)
    known = torch.ones_like(y.real, dtype=torch.bool) if known is None else known
    levels = torch.stack([_level(item, used) for item, used in zip(y, known)])
    size = y.abs().flatten(1).double().median(1).values
    levels = torch.maximum(levels, LEAST_NOISE * torch.where(size > 0, size, 1.0))
    numbers = ", ".join(f"{float(level):.3g}" for level in levels[:4])
    note = (
        f"{type(term).__name__} got no noise_std: the level of the noise without outliers was "
        f"estimated as {numbers}{', ...' if len(levels) > 4 else ''}"
    )
    return problem.with_data_term(term._replace(noise_std=levels)), (note,)


def _level(item: Tensor, used: Tensor) -> Tensor:
    """Return the level of one item ``(channel, *space)``, from the measurements that are used."""
    rows = item.unsqueeze(-2) if item.ndim < 3 else item
    planes, half = rows.reshape(-1, *rows.shape[-2:]), _WINDOW // 2
    residuals = []
    for plane in planes if not item.is_complex() else torch.cat([planes.real, planes.imag]):
        windows = plane
        for axis in (0, 1):
            if windows.shape[axis] > half:
                places = torch.arange(-half, plane.shape[axis] + half, device=plane.device).abs()
                last = plane.shape[axis] - 1
                places = last - (last - places).abs()  # mirrored at both ends
                windows = windows.index_select(axis, places).unfold(axis, _WINDOW, 1)
        count = windows.ndim - 2
        medians = windows.flatten(2).median(-1).values if count else plane
        residuals.append((plane - medians).abs().flatten())
    selected = used.flatten().repeat(2 if item.is_complex() else 1)
    residual = torch.cat(residuals)[selected].double()
    scale = residual.new_zeros(())
    for _ in range(_CLIPPINGS if len(residual) else 0):
        scale = residual.median() / MEDIAN_OF_MODULUS
        residual = residual[residual <= _CLIP * scale]
    return scale
