"""Likelihoods of deepinv's noise models; importing this module imports deepinv."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from deepinv import physics as deepinv
from torch import Tensor

from invtoolbox.core.reductions import mean_items
from invtoolbox.data_terms.base import DataTerm, Stack
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.poisson import Poisson, PoissonTransmission
from invtoolbox.data_terms.robust import L1
from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import component, scale, stack
from invtoolbox.operators.base import Operator, expand


class Likelihood(NamedTuple):
    """Measurements, the operator that predicts them, and the misfit between both.

    Attributes:
        y: measurements, a tensor or a tuple.
        operator: operator from images to the predicted measurements.
        data_term: minus the logarithm of the density of the measurements.
    """

    y: Any
    operator: Operator
    data_term: DataTerm


def likelihood(y: Any, operator: Operator, physics: deepinv.Physics) -> Likelihood:
    r"""Return the likelihood of measurements under the noise model of a deepinv physics.

    ==============================  ================================================================
    noise model                     misfit
    ==============================  ================================================================
    ``GaussianNoise(sigma)``        least squares with ``noise_std=sigma``; ``sigma / sqrt(2)`` for
                                    complex measurements, whose parts have this level in deepinv
    ``ZeroNoise``, a function       least squares without a noise level
    ``UniformGaussianNoise``        least squares without a noise level, which is drawn per call
    ``UniformNoise(a)``             least squares with the standard deviation ``a / sqrt(3)``
    ``LaplaceNoise(b)``             least squares with the standard deviation ``sqrt(2) b``
    ``PoissonNoise(gain)``          `Poisson` of the counts ``y / gain`` (``y`` itself without
                                    ``normalize``), predicted by ``A(x) / gain``
    ``PoissonGaussianNoise``        least squares with the variances ``gain (y + gain) + sigma^2``,
                                    which pull a mean down by about one photon
    ``SaltPepperNoise``             `L1`, which fits most measurements exactly
    ``LogPoissonNoise(N0, mu)``     `PoissonTransmission` of the counts ``N0 exp(-mu y)``, with the
                                    line integrals ``mu A(x)``
    ==============================  ================================================================

    A level may differ per item of the batch. The parts of a stacked physics have their own models.

    Args:
        y: measurements, a tensor or a tuple.
        operator: the operator of the physics, see `as_operator`.
        physics: physics with the noise model.

    Raises:
        InputError: if the noise has no likelihood here.
    """
    if isinstance(physics, deepinv.StackedPhysics):
        blocks = [
            likelihood(block, component(operator, k), physics.physics_list[k])
            for k, block in enumerate(y)
        ]
        return Likelihood(
            tuple(block.y for block in blocks),
            stack([block.operator for block in blocks]),
            Stack(*(block.data_term for block in blocks)),
        )
    noise = physics.noise_model
    if isinstance(noise, deepinv.PoissonNoise):
        gain = _level(noise.gain)
        counts = y / expand(gain, y) if bool(noise.normalize) else y
        return Likelihood(counts, scale(operator, 1 / gain), Poisson())
    if isinstance(noise, deepinv.LogPoissonNoise):
        mu, photons = _level(noise.mu), _level(noise.N0)
        # No photon at all gives an infinite line integral, and the count 0.
        counts = expand(photons, y) * torch.exp(-expand(mu, y) * y)
        return Likelihood(counts, scale(operator, mu), PoissonTransmission(photons))
    if isinstance(noise, deepinv.PoissonGaussianNoise):
        gain, sigma = expand(_level(noise.gain), y), expand(_level(noise.sigma), y)
        # The mean of a count is estimated by the count plus one, as for a flat prior of the mean.
        precision = 1 / (gain * (y.clamp_min(0) + gain) + sigma.square())
        # Weights of mean 1, since the expected discrepancy is the square root of their sum.
        mean = mean_items(precision)
        weights = precision / expand(mean, precision)
        return Likelihood(y, operator, LeastSquares(noise_std=mean.rsqrt(), weights=weights))
    if isinstance(noise, deepinv.SaltPepperNoise):
        return Likelihood(y, operator, L1())
    return Likelihood(y, operator, LeastSquares(noise_std=_standard_deviation(noise, y)))


def _standard_deviation(noise: deepinv.NoiseModel, y: Tensor) -> float | Tensor | None:
    """Return the standard deviation of additive noise; None if the model states none."""
    if isinstance(noise, deepinv.GaussianNoise):
        # torch divides the variance of complex normal numbers between both parts.
        sigma = _level(noise.sigma) * (math.sqrt(0.5) if y.is_complex() else 1.0)
    elif isinstance(noise, deepinv.UniformNoise):
        sigma = _level(noise.a) / math.sqrt(3)
    elif isinstance(noise, deepinv.LaplaceNoise):
        sigma = _level(noise.b) * math.sqrt(2)
    elif type(noise) in (deepinv.NoiseModel, deepinv.ZeroNoise, deepinv.UniformGaussianNoise):
        return None
    else:
        raise InputError(
            f"the noise model {type(noise).__name__} of the physics has no data term here; give "
            "data_term=, one of it.data_terms, such as LeastSquares()"
        )
    if not bool(sigma.any()):
        return None
    return float(sigma) if sigma.numel() == 1 else sigma


def _level(value: Any) -> Tensor:
    """Return a level of a noise model: a number, or one number per item ``(batch,)``."""
    level = torch.as_tensor(value).detach().reshape(-1)
    return level[0] if level.numel() == 1 else level
