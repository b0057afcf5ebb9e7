"""Diffusion samplers with a step that is exact for Gaussian priors: DAPS, PiGDM and EDM.

They go through falling noise levels in the units of the image (the variance-exploding schedule of
Karras et al. 2022) and use the denoiser's derivative to measure how uncertain its answer is.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.interrupts import check_time
from invtoolbox.core.reductions import draw_normal, mean_items, sum_items
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.priors.implicit.probability_flow import falling_levels
from invtoolbox.priors.settings import check_graph, check_intensity_range
from invtoolbox.solvers.diffusion import DiffusionSampler, the_prior
from invtoolbox.solvers.linear_systems import gmres, solve_quadratic

#: Least variance of an uncertain image, as a fraction of the squared noise level.
_LEAST_SHARE = 1e-3
#: Conjugate gradient steps of a data step without a closed form.
_INNER = 30
#: Number of steps that restore an image to start from.
_RESTORING = 10
#: Settings of a sampler by its name alone: levels from above the error of a restored image, chosen
#: on pictures 60 to 65 of BSD68 (benchmarks/diffusion_prior.py).
_QUICK: dict[str, Any] = {"levels": (0.2, 0.01), "begin": "restored"}


@dataclass(frozen=True)
class AnnealedSampler(DiffusionSampler):
    """Base class of samplers that go through falling noise levels; a subclass writes `refine`.

    Args:
        steps: number of noise levels.
        levels: largest and smallest noise level, as fractions of the intensity range.
        intensity_range: usual values ``(low, high)`` of the image.
        begin: image to which the noise of the first level is added: ``"grey"``, of which a
            `GuidedSampler` takes the posterior mean at the first level, or ``"restored"`` from the
            measurements by ten denoising steps of falling level, each followed by a proximal step
            on the misfit. From a restored image, few steps from a level that exceeds its error are
            enough, such as 0.2 (Chung, Sim and Ye, "Come-closer-diffuse-faster", CVPR 2022).
    """

    steps: int = 100
    levels: tuple[float, float] = (2.0, 0.003)
    intensity_range: tuple[float, float] = (0.0, 1.0)
    begin: Literal["grey", "restored"] = "grey"

    linear_only: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {**_QUICK, "steps": 20}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_intensity_range(self.intensity_range)
        check_range(self, "[2, inf)", "steps")
        check_choice(self, ("grey", "restored"), "begin")
        if not 0 < self.levels[1] < self.levels[0]:
            raise InputError(
                f"{type(self).__name__} needs levels (largest, smallest), got {self.levels}"
            )

    def schedule(self) -> list[float]:
        """Return the noise levels in the units of the image, followed by 0."""
        return falling_levels(self.levels, self.intensity_range, self.steps)

    @abstractmethod
    def refine(
        self, objective: Objective, x: Tensor, level: float, following: float, noise: Noise
    ) -> Tensor:
        """Return images with the noise level ``following`` from images with ``level``.

        Args:
            objective: objective with one item per row of x.
            x: noisy images ``(samples * batch, channel, *space)``.
            level: their noise level.
            following: noise level of the result; 0 in the last step.
            noise: source of random numbers.
        """

    def draws(self, objective: Objective, generators: list[Generator]) -> Tensor:
        items = torch.arange(objective.batch, device=objective.problem.y0.device)
        rows = objective.select(items.repeat(len(generators)))
        noise = Noise(generators)
        schedule = self.schedule()
        first = objective.problem.zeros() + sum(self.intensity_range) / 2
        if self.begin == "restored":
            first = self._restore(objective, first)
        else:
            first = self.centre(objective, first, schedule[0])
        x = first.repeat(len(generators), *[1] * (first.ndim - 1))
        x = x + schedule[0] * noise(x)
        for level, following in itertools.pairwise(schedule):
            check_time()
            x = self.refine(rows, x, level, following, noise)
        return x.unflatten(0, (len(generators), -1))

    def centre(self, objective: Objective, x: Tensor, level: float) -> Tensor:
        """Return the image to which the noise of the first level is added, from a grey one.

        Args:
            objective: objective with one item per row of x.
            x: grey images ``(batch, channel, *space)``.
            level: the first noise level.
        """
        return x

    def _restore(self, objective: Objective, x: Tensor) -> Tensor:
        """Return images that explain the measurements, without noise, by half-quadratic steps."""
        low, high = self.intensity_range
        for k in range(_RESTORING):
            # Levels from the whole intensity range to 2 % of it, in equal ratios.
            level = (high - low) * 0.02 ** (k / (_RESTORING - 1))
            x = _denoise(objective, x, level)
            x = x + _data_step(objective, x, objective.problem.y, x.new_full((len(x),), level**2))
        return x


@dataclass(frozen=True)
class Noise:
    """Random numbers of one generator per sample, the same for every item of the batch."""

    generators: list[Generator]

    def __call__(self, like: Tensor) -> Tensor:
        """Return standard normal numbers of the shape of ``like (samples * batch, ...)``."""
        return draw_normal(self.generators, like.shape, like.dtype, like.device)


@dataclass(frozen=True)
class DAPS(AnnealedSampler):
    r"""At every noise level, draw a clean image that explains the measurements, and add noise.

    The clean image follows ``N(m, r^2 I) p(y | x)``, m the denoised image. For a linear operator it
    is drawn exactly: m and y are perturbed by noise of their variances, and the normal equations
    are solved. Because noise is added afresh, errors of early levels are forgotten (Zhang, Chu,
    Berner, Meng, Anandkumar and Song, "Improving diffusion inverse problem solving with decoupled
    noise annealing", CVPR 2025).

    The paper takes the end of the probability flow for m, and r equal to the noise level. Here m is
    the posterior mean, the denoiser's own answer, and ``r^2 = level^2 tr(J) / n`` the mean of its variance by Tweedie's
    formula, J the denoiser's Jacobian, with one probe per image (benchmarks/samplers.py). On
    photographs its draws are below total variation (benchmarks/samplers_by_name.py).

    >>> import torch, invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.full((1, 1, 50), 0.6),
    ...     it.operators.Identity((1, 50)),
    ...     it.data_terms.LeastSquares(noise_std=0.1),
    ... )
    >>> prior = it.priors.Gaussian(torch.full((1, 50), 0.4), 0.01)
    >>> sampler = DAPS(steps=30, at_once=64, max_iterations=1)
    >>> solution = it.solve(problem, prior, sampler, progress=False)
    >>> [round(float(v.mean()), 2) for v in (solution.x, solution.posterior.std)]  # 0.5, 0.071
    [0.5, 0.07]
    """

    mark: ClassVar[str] = "by its name alone below total variation on photographs"

    def refine(
        self, objective: Objective, x: Tensor, level: float, following: float, noise: Noise
    ) -> Tensor:
        # N(m, r^2 I) with m = E[x | x_t] and r^2 = level^2 tr(J) / n, the mean of Tweedie's
        # variance level^2 J.
        clean, share = _denoise_with_share(objective, x, level, noise)
        variance = level**2 * share
        centre = clean + expand(variance.sqrt(), x) * noise(x)
        # The minimizer of D(A x, y + e) + |x - m - r n|^2 / (2 r^2), with draws e and n of the
        # noise, is a draw from N(m, r^2 I) p(y | x) (Papandreou and Yuille 2010).
        y, D = objective.problem.y, cast(LeastSquares, objective.problem.data_term)
        perturbed = y + noise(y) * _deviation(D, y)
        return centre + _data_step(objective, centre, perturbed, variance) + following * noise(x)


@dataclass(frozen=True)
class GuidedSampler(AnnealedSampler):
    r"""Base class of samplers that follow the posterior mean of a noisy image, `guided`.

    The denoised image m moves towards the measurements as a Gaussian of covariance C does:
    ``m + C A^T (A C A^T + Sigma)^{-1} (y - A m)``. C is by default ``level^2 J``, J the denoiser's
    Jacobian (Tweedie's formula; Boys et al., "Tweedie moment projected diffusions for inverse
    problems", TMLR 2024), which makes the result exact for a Gaussian prior. The inverse takes
    steps of GMRES, each with one derivative of the denoiser.

    ``covariance="isotropic"`` takes ``C = r^2 I``, with r from the eigenvalues of J in the
    direction of the measurements, and two derivatives.

    Args:
        covariance: how uncertain the denoised image is, see above.
        inner: number of GMRES steps for Tweedie's covariance.
    """

    covariance: Literal["tweedie", "isotropic"] = "tweedie"
    inner: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[1, inf)", "inner")
        check_choice(self, ("tweedie", "isotropic"), "covariance")

    def guided(self, objective: Objective, x: Tensor, level: float) -> Tensor:
        """Return the posterior mean of the clean image, given a noisy one and the measurements."""
        move = self._tweedie if self.covariance == "tweedie" else self._isotropic
        return move(objective, x, level)

    def centre(self, objective: Objective, x: Tensor, level: float) -> Tensor:
        # The noisy images of the first level have the posterior mean for their mean. About a grey
        # image the draws would be off by (grey - mean) / level of their own deviation, always
        # towards grey (benchmarks/posterior_checks.py).
        return self.guided(objective, x, level)

    def _tweedie(self, objective: Objective, x: Tensor, level: float) -> Tensor:
        problem, D = objective.problem, cast(LeastSquares, objective.problem.data_term)
        A, y = cast(LinearOperator, problem.operator), problem.y
        # With S = Sigma^{-1/2} the update is m + C A^T S (I + S A C A^T S)^{-1} S (y - A m), whose
        # system is near the identity wherever the measurements say little.
        whiten = _root_precision(D, y)
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            clean = _denoise(objective, x, level)

            def covariance(v: Tensor) -> Tensor:
                """Return ``level^2 J^T v``; J is symmetric for the exact denoiser."""
                (product,) = torch.autograd.grad(clean, x, v, retain_graph=True)
                return level**2 * product

            def system(v: Tensor) -> Tensor:
                return v + whiten * A(covariance(A.adjoint(whiten * v)))

            mean = clean.detach()
            residual = whiten * (y - A(mean))
            # The Jacobian of a network is not quite symmetric, and conjugate gradients diverge.
            v, _ = gmres(system, residual, 1e-4, self.inner)
            return mean + covariance(A.adjoint(whiten * v))

    def _isotropic(self, objective: Objective, x: Tensor, level: float) -> Tensor:
        A, D = objective.linear_operator, cast(LeastSquares, objective.problem.data_term)
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            clean = _denoise(objective, x, level)
            mean = clean.detach()
            # m + C A^T (A C A^T + Sigma)^{-1} (y - A m) is m + (A^T Sigma^{-1} A + C^{-1})^{-1} g
            # with g = A^T Sigma^{-1} (y - A m), and the inverse takes variance I for C.
            towards = A.adjoint(D.weighted(objective.problem.y - A(mean)))
            variance = level**2 * _share_along(clean, x, towards)
            change, _ = solve_quadratic(objective, [(1 / variance, None)], towards, _INNER)
            (product,) = torch.autograd.grad(clean, x, change)
        # C = level^2 J stays in front: m + C / variance times the change.
        return mean + expand(level**2 / variance, x) * product


@dataclass(frozen=True)
class PiGDM(GuidedSampler):
    r"""The reverse diffusion, guided by the pseudo-inverse of operator and uncertainty.

    A step computes the posterior mean of `GuidedSampler` and continues the diffusion from there
    (Song, Vahdat, Mardani and Kautz, "Pseudoinverse-guided diffusion models for inverse problems",
    ICLR 2023, whose covariance is ``"isotropic"``). With that one the variance of the draws is 0.87
    to 0.97 of the exact one (benchmarks/samplers.py), and a step is several times cheaper.

    Args:
        fresh: share of fresh noise, 0 to 1: 1 are ancestral steps, 0 the probability flow.
    """

    fresh: float = 1.0

    quick: ClassVar[dict[str, Any]] = {**_QUICK, "steps": 10, "inner": 3}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[0, 1]", "fresh")

    def refine(
        self, objective: Objective, x: Tensor, level: float, following: float, noise: Noise
    ) -> Tensor:
        mean = self.guided(objective, x, level)
        # Ancestral step: a share of the noise of the next level is drawn anew. With a share of 1
        # its variance is s'^2 (1 - s'^2 / s^2), that of x_{s'} given x_s and the clean image.
        fresh = self.fresh * following * (1 - (following / level) ** 2) ** 0.5
        remaining = (following**2 - fresh**2) ** 0.5
        return mean + remaining / level * (x - mean) + fresh * noise(x)


@dataclass(frozen=True)
class EDM(GuidedSampler):
    r"""The probability flow of the posterior with steps of second order, and a little fresh noise.

    A step first raises the noise level by the factor ``1 + min(churn / steps, sqrt(2) - 1)``, then
    follows ``dx / dsigma = (x - m(x)) / sigma`` by Heun's method, m the posterior mean of
    `GuidedSampler` (Karras, Aittala, Aila and Laine, NeurIPS 2022, algorithm 2, with their denoiser
    replaced by m). With the exact score of a Gaussian the variance of its draws is right to 2 %
    (benchmarks/samplers.py), where `PiGDM` loses 7 to 9 %. Every step computes m twice.

    Args:
        churn: amount of fresh noise over all steps, S_churn of the paper; it corrects errors of
            earlier steps.

    >>> import torch, invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.full((1, 1, 50), 0.6),
    ...     it.operators.Identity((1, 50)),
    ...     it.data_terms.LeastSquares(noise_std=0.1),
    ... )
    >>> prior = it.priors.Gaussian(torch.full((1, 50), 0.4), 0.01)
    >>> sampler = EDM(steps=15, at_once=64, max_iterations=1)
    >>> solution = it.solve(problem, prior, sampler, progress=False)
    >>> [round(float(v.mean()), 2) for v in (solution.x, solution.posterior.std)]  # 0.5, 0.071
    [0.5, 0.07]
    """

    steps: int = 40
    churn: float = 0.0

    quick: ClassVar[dict[str, Any]] = {**_QUICK, "steps": 5, "inner": 3}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[0, inf]", "churn")

    def refine(
        self, objective: Objective, x: Tensor, level: float, following: float, noise: Noise
    ) -> Tensor:
        # Karras et al. 2022, algorithm 2, lines 4 to 6: raise the level by fresh noise.
        raised = level * (1 + min(self.churn / self.steps, 2**0.5 - 1))
        if raised > level:
            x = x + (raised**2 - level**2) ** 0.5 * noise(x)
        # Lines 7 to 11: Heun's method, and Euler's for the step to level 0.
        slope = (x - self.guided(objective, x, raised)) / raised
        end = x + (following - raised) * slope
        if following == 0:
            return end
        end_slope = (end - self.guided(objective, end, following)) / following
        return x + (following - raised) / 2 * (slope + end_slope)


def _denoise(objective: Objective, x: Tensor, level: float) -> Tensor:
    prior = the_prior(objective)
    return check_graph(prior.denoise(x, x.new_full((len(x),), level)), x, prior)


def _data_step(objective: Objective, x: Tensor, y: Tensor, variance: Tensor) -> Tensor:
    """Return the change of x that minimizes ``D(A x, y) + |change|^2 / (2 variance)``."""
    A, D = cast(LinearOperator, objective.problem.operator), objective.problem.data_term
    # (A^T W A + 1 / variance) change = A^T W (y - A x)
    right = A.adjoint(cast(LeastSquares, D).weighted(y - A(x)))
    return solve_quadratic(objective, [(1 / variance, None)], right, _INNER)[0]


def _denoise_with_share(
    objective: Objective, x: Tensor, level: float, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return the denoised images and ``tr(J) / n`` per row."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        clean = _denoise(objective, x, level)
        return clean.detach(), _share(clean, x, noise)


def _share(clean: Tensor, x: Tensor, noise: Noise) -> Tensor:
    """Return ``tr(J) / n`` per row by one probe of random signs, between a small number and 1."""
    # E <v, J v> = tr(J) for random signs v (Hutchinson 1990).
    probe = torch.sign(noise(x))
    (product,) = torch.autograd.grad(clean, x, probe, retain_graph=True)
    return mean_items(probe * product).clamp(_LEAST_SHARE, 1.0)


def _share_along(clean: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """Return ``|J v|^2 / (v . J v)`` per row: the eigenvalues of J, weighted by what v has of them.

    The few directions in which a picture is uncertain have eigenvalues far above ``tr(J) / n``, and
    a step along v for this mean would overshoot.
    """
    (product,) = torch.autograd.grad(clean, x, v, retain_graph=True)
    along = sum_items(v * product)
    share = sum_items(product.square()) / along.clamp_min(torch.finfo(v.dtype).tiny)
    return share.clamp(_LEAST_SHARE, 1.0)


def _root_precision(D: LeastSquares, y: Tensor) -> Tensor:
    """Return the reciprocal standard deviation of each measurement."""
    assert D.noise_std is not None
    # The data term is sum_i weights_i |A x - y|_i^2 / (2 noise_std^2).
    weights = torch.ones_like(y[:1]) if D.weights is None else D.weights.to(y.dtype)
    return weights.sqrt() / expand(D.noise_std, y)


def _deviation(D: LeastSquares, y: Tensor) -> Tensor:
    """Return the standard deviation of each measurement; 0 for measurements without weight."""
    precision = _root_precision(D, y)
    return torch.where(precision > 0, 1 / precision.clamp_min(1e-30), 0.0)
