"""Wasserstein distance of traces along time, by exact optimal transport in one dimension."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError

#: Least density of a sample before the normalization. A density of 0 has no quantile function.
_LEAST = 1e-30


class Wasserstein(DataTerm):
    r"""Squared Wasserstein distance of traces made positive.

    It is :math:`\frac12 \sum_k W_2^2(P(p_k), P(y_k))`, with the sum over all traces of an item,
    which run along the last axis. P makes a trace x a density, constant within each sample,
    :math:`P(x) \propto \mathrm{softplus}(a\,x / \max |y_k|)` with the sharpness a. The distance
    compares positions in time: the misfit of a delayed copy grows with the delay, also beyond half
    a period, and its unit is the square of a sample.
    In one dimension the optimal plan matches the distribution functions, and

    .. math:: W_2^2 = \int_0^1 \big(F^{-1}(u) - G^{-1}(u)\big)^2 du

    is computed exactly, because the quantile functions are piecewise linear (Engquist and Froese,
    "Application of the Wasserstein metric to seismic signals", Commun. Math. Sci. 12, 2014; Qiu,
    Ramos-Martinez, Valenciano, Yang and Engquist, "Full-waveform inversion with an exponentially
    encoded optimal-transport norm", SEG 2017). A density has mass 1, so amplitudes matter
    less than in least squares. Traces of the measurements that are 0 everywhere are left out.

    Args:
        sharpness: a; a larger one lets positive peaks count more, compared with samples near 0.

    >>> wave = torch.zeros(1, 1, 60, dtype=torch.float64)
    >>> wave[..., 20:23] = 1.0
    >>> term = Wasserstein()
    >>> values = [float(term.value(wave.roll(k, -1), wave)) for k in (0, 5, 10, 20)]
    >>> values == sorted(values) and values[0] == 0
    True
    """

    is_convex = False

    def __init__(self, sharpness: float = 5.0) -> None:
        check_range(self, "(0, inf)", sharpness=sharpness)
        self.sharpness = float(sharpness)

    def value(self, prediction: Any, y: Any) -> Tensor:
        scale = y.abs().amax(-1, keepdim=True)
        factor = self.sharpness / torch.where(scale > 0, scale, 1.0)
        distance = squared_distance(_density(factor * prediction), _density(factor * y))
        distance = torch.where(scale[..., 0] > 0, distance, 0.0)
        return (0.5 * distance.reshape(len(y), -1).sum(1)).to(prediction.dtype)

    def check(self, y: Any) -> None:
        if isinstance(y, tuple) or y.is_complex() or y.ndim < 3 or y.shape[-1] < 2:
            raise InputError(
                "Wasserstein compares real traces (batch, channel, ..., samples) of at least two "
                "samples in one tensor"
            )

    def __repr__(self) -> str:
        return f"Wasserstein({self.sharpness:g})"


def squared_distance(p: Tensor, q: Tensor) -> Tensor:
    """Compute the squared Wasserstein distance of densities on samples of length 1, ``(...)``.

    Args:
        p: positive densities ``(..., samples)``, each with the sum 1.
        q: densities of the same shape.

    >>> p, q = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]).double() + 1e-12
    >>> round(float(squared_distance(p, q)), 6)
    4.0
    """
    below_p, below_q = p.cumsum(-1), q.cumsum(-1)
    # Both quantile functions are linear between neighbours among these values.
    u = torch.cat([torch.zeros_like(p[..., :1]), below_p, below_q], -1).sort(-1).values
    gap = _quantile(p, below_p, u) - _quantile(q, below_q, u)
    left, right = gap[..., :-1], gap[..., 1:]
    squares = (left.square() + left * right + right.square()) / 3
    return (squares * u.diff(dim=-1)).sum(-1)


def _quantile(p: Tensor, below: Tensor, u: Tensor) -> Tensor:
    """Evaluate the quantile function of a density; ``below`` are its cumulated sums."""
    index = torch.searchsorted(below.detach().contiguous(), u.detach().contiguous())
    index = index.clamp_max(p.shape[-1] - 1)
    before = F.pad(below, (1, 0)).gather(-1, index)
    # The share is at most 1, but in a sample of hardly any mass the rounding of u makes it large.
    return index + ((u - before) / p.gather(-1, index)).clamp_max(2.0)


def _density(x: Tensor) -> Tensor:
    """Return positive traces of sum 1.

    They are float64, because differences of sums are divided by samples.
    """
    positive = F.softplus(x.double()) + _LEAST
    return positive / positive.sum(-1, keepdim=True)
