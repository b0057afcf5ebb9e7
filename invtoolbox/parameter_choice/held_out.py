"""Measurements that a solution does not see: held-out views, and held-out pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.core.reductions import mean_items
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.poisson import PoissonTransmission
from invtoolbox.objective.gaps import interpolate
from invtoolbox.objective.initial_guess import filtered_back_projection
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand
from invtoolbox.operators.tomography.arcs import arc_of
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.problem import Problem

#: Inverse share of the measurements that are held out, and least number of views (blocks) of which
#: whole ones are.
ONE_OF = 6
LEAST_BLOCKS = 12
#: Least number of held-out views whose filtered back-projection tells weights apart, and largest
#: missing part of the arc.
_LEAST_INVERTED, _MISSING = 10, math.radians(5)
#: With fewer measurements, their prediction says too little.
LEAST_MEASUREMENTS = 64
#: Distance of the seeds of held-out measurements from the seeds that a user takes.
_APART = 1_597_334_677


class HeldOut(LeastSquares):
    """Least squares of a part of the measurements.

    Args:
        term: least squares of all measurements.
        weights: weights of the part that is fitted.
        held: weights of the other part.
        image: the filtered back-projection of the other part, ``(batch, channel, *space)``, if there
            is one.
    """

    item_fields = (*LeastSquares.item_fields, "held", "image")
    measurement_fields = (*LeastSquares.measurement_fields, "held")

    def __init__(
        self, term: LeastSquares, weights: Tensor, held: Tensor, image: Tensor | None = None
    ) -> None:
        super().__init__(term.noise_std, weights)
        self.held = held
        self.image = image


def accepts(objective: Objective) -> bool:
    """Return whether measurements can be held out: least squares or transmission of one tensor."""
    problem = objective.problem
    is_known = type(problem.data_term) in (LeastSquares, PoissonTransmission)
    return is_known and isinstance(problem.y, Tensor)


def quadratic_model(problem: Problem) -> tuple[Problem, Tensor]:
    """Return the problem under least squares, and the factor of the weight of its priors.

    The likelihood of counts y of transmitted photons, with the background b, is expanded about the
    line integrals ``log(I0 / (y - b))`` that fit exactly. Its second derivative there is
    ``(y - b)^2 / y`` (Sauer & Bouman, IEEE TSP 41, 1993). The weights of the residual have the
    mean 1, and the factor, ``(batch,)``, is the mean of the derivatives.

    Args:
        problem: one that `accepts` accepts.
    """
    term, y = problem.data_term, problem.y0
    if not isinstance(term, PoissonTransmission):
        return problem, y.real.new_ones(problem.batch)
    line_integrals = term.fitting_prediction(y)
    passed = expand(term.I0, y) if term.I0.ndim <= 1 else term.I0.to(y)
    curvature = (passed * torch.exp(-line_integrals)).square() / y.clamp_min(0.5)
    mean = mean_items(curvature)
    weights = curvature / mean.view(-1, *[1] * (y.ndim - 1))
    quadratic = problem.with_measurements(line_integrals)
    return quadratic.with_data_term(LeastSquares(weights=weights)), mean


def hold_out(problem: Problem, seed: int) -> HeldOut:
    """Return the data term of most measurements: all but every sixth view, or a random sixth.

    Args:
        problem: the whole problem, with `LeastSquares`.
        seed: seed of the random choice; without effect on views.
    """
    term = problem.data_term
    assert isinstance(term, LeastSquares)
    image = _invert_views(problem, held_views(problem)) if has_views(problem) else None
    return HeldOut(term, *divide_weights(problem, seed), image)


def divide_weights(problem: Problem, seed: int) -> tuple[Tensor, Tensor]:
    """Return the weights of the measurements that are fitted, and of those that are held out.

    Args:
        problem: the whole problem, with a term that has ``weights``.
        seed: seed of the random choice; without effect on views.
    """
    y, weights = problem.y0, getattr(problem.data_term, "weights", None)
    real = y.real.dtype if y.is_complex() else y.dtype
    used = torch.ones((), dtype=real) if weights is None else weights.to(real)
    if has_views(problem):
        fitted = torch.ones(1, 1, y.shape[2], *[1] * (y.ndim - 3), dtype=real)
        fitted[:, :, held_views(problem).cpu()] = 0
    else:
        generator = separate_generator(seed)
        fitted = torch.rand(1, *y.shape[1:], generator=generator).ge(1 / ONE_OF).to(real)
    fitted = fitted.to(y.device)
    return used * fitted, used * (1 - fitted)


def held_views(problem: Problem) -> Tensor:
    """Return the places of the views that are held out."""
    y = problem.y0
    return torch.arange(ONE_OF // 2, y.shape[2], ONE_OF, device=y.device)


def _invert_views(problem: Problem, views: Tensor) -> Tensor | None:
    """Return the filtered back-projection of some views, ``(batch, channel, *space)``.

    Cells without a weight are interpolated. None if the scan has no such inverse, or too few views.

    Args:
        problem: views of a scan, with `LeastSquares`.
        views: places of some views, evenly spaced.
    """
    A = problem.operator
    if not isinstance(A, Scan2D) or A.items is not None or not A.sees_whole_image:
        return None
    if len(views) < _LEAST_INVERTED:
        return None
    arc = arc_of(A)
    if arc is None or arc.covered < arc.needed - _MISSING:
        return None
    some = problem.subset(views)
    weights, y = getattr(some.data_term, "weights", None), some.y0
    if weights is not None:
        y = interpolate(y, (weights > 0).expand_as(y))
    return filtered_back_projection(some.with_measurements(y).with_data_term(LeastSquares()))


def in_norm_of_image(residual: Tensor) -> Tensor:
    """Return views after the square root of the ramp filter along their rows of cells.

    Views smooth the errors of an image. After this filter, the norm of parallel views over half a
    turn is proportional to that of the image, by the Fourier slice theorem and Parseval's relation
    (Natterer, The Mathematics of Computerized Tomography, 1986, section II.1).

    Args:
        residual: residuals of views, ``(batch, channel, view, ..., cell)``.
    """
    n = 2 * residual.shape[-1]  # with zeros beyond the cells
    ramp = torch.fft.rfftfreq(n, dtype=residual.dtype, device=residual.device).sqrt()
    # Item by item, because the bits of a transform depend on the number of items.
    items = [torch.fft.irfft(torch.fft.rfft(item, n) * ramp, n) for item in residual.split(1)]
    return torch.cat(items) if items else residual


def separate_generator(seed: int) -> torch.Generator:
    """Return a generator whose draws are not those of `torch.manual_seed` with the same seed.

    A mask that is drawn with it, ``torch.rand(shape) > 0.5``, would hold none of the measurements
    that ``torch.rand(shape) < 1 / 6`` holds out.

    Args:
        seed: seed of the draws.
    """
    return torch.Generator().manual_seed(_APART + seed)


def has_views(problem: Problem) -> bool:
    """Return whether the measurements are blocks, such as views, along their third axis."""
    y, blocks = problem.y0, problem.operator.blocks
    return blocks is not None and y.ndim > 2 and y.shape[2] == blocks >= LEAST_BLOCKS
