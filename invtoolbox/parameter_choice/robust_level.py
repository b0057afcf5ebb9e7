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
#: Number of windows that a level needs: it is accurate to 0.5 %, and more of them only take time.
_ENOUGH = 1 << 17


@torch.no_grad()
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
    taken = measured(problem)
    taken = torch.ones_like(y.real, dtype=torch.bool) if taken is None else taken
    levels = torch.stack([_level(item, used) for item, used in zip(y, taken)])
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
    numbers = torch.stack([item.real, item.imag]) if item.is_complex() else item[None]
    selected = used.expand_as(numbers)
    if item.ndim < 3:
        numbers, selected = numbers.unsqueeze(-2), selected.unsqueeze(-2)
    size = numbers.shape[-2:]
    step = max(1, round((numbers.numel() / _ENOUGH) ** 0.5))
    residuals, half = [], _WINDOW // 2
    for plane, mask in zip(numbers.reshape(-1, *size), selected.reshape(-1, *size)):
        windows = plane = interpolate(plane[None, None], mask[None, None])[0, 0]
        for axis in (0, 1):
            if size[axis] > half:
                last = size[axis] - 1
                places = torch.arange(-half, size[axis] + half, device=plane.device).abs()
                places = last - (last - places).abs()  # mirrored at both ends
                windows = windows.index_select(axis, places).unfold(axis, _WINDOW, 1)
        windows = windows[::step, ::step]
        medians = windows.flatten(2).median(-1).values if windows.ndim > 2 else windows
        residual = (plane[::step, ::step] - medians).abs()
        residuals.append(residual[mask[::step, ::step]])
    residual = torch.cat(residuals).double()
    scale = residual.new_zeros(())
    for _ in range(_CLIPPINGS if len(residual) else 0):
        scale = residual.median() / MEDIAN_OF_MODULUS
        residual = residual[residual <= _CLIP * scale]
    return scale
