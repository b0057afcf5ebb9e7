"""Least squares in place of the misfit of counts, if a denoiser is the prior."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.poisson import Poisson, PoissonTransmission
from invtoolbox.jobs.images.decisions.case import (
    HAS_NO_SOLVER,
    HAS_PRIOR,
    Case,
    Proposal,
    Step,
    Trait,
)
from invtoolbox.jobs.images.decisions.smooth_noise import usual_weight
from invtoolbox.operators.tomography.scan_2d import Scan


class Counts(Step):
    """Measure the misfit of counts by least squares, if a denoiser is the prior.

    Denoisers without an energy have no stable answer with `Poisson`, whose curvature has no bound.
    The variance of a count is its mean, so the noise level is the square root of the mean count.
    They diverge with `PoissonTransmission`, whose curvature differs between rays by orders of
    magnitude. Its place is taken by the line integrals that fit the counts exactly, whose noise is
    estimated; the weights of their noise made answers worse.
    """

    name = "counts"
    question = "has the prior a stable answer with the misfit of counts?"
    price = "none"
    needs = (
        HAS_NO_SOLVER,
        HAS_PRIOR,
        Trait("no denoiser under the misfit of counts", lambda case: _are_counts_denoised(case)),
    )

    def propose(self, case: Case) -> list[Proposal]:
        changed, sentence = _approximate(case)
        return [Proposal(changed, sentence)] * case.batch


def _are_counts_denoised(case: Case) -> bool:
    offers = [term.prior.offers for term in case.sum_of_priors.as_sum().terms]
    is_denoiser = any("denoise" in some and "energy" not in some for some in offers)
    are_counts = type(case.problem.data_term) in (Poisson, PoissonTransmission)
    return is_denoiser and are_counts and isinstance(case.problem.y, Tensor)


def _approximate(case: Case) -> tuple[Case, str]:
    problem, y = case.problem, case.problem.y0
    term: Any = problem.data_term
    if isinstance(term, PoissonTransmission):
        lines = problem.with_measurements(term.fitting_prediction(y))
        return dataclasses.replace(case, problem=lines.with_data_term(LeastSquares())), (
            "denoisers have no stable answer with the misfit of PoissonTransmission, so least squares "
            "of the line integrals took its place; solver= keeps it"
        )
    level = y.flatten(1).nanmean(1).nan_to_num(1.0).clamp_min(1.0).sqrt()
    intensities = problem.with_measurements(y - term.mean(torch.zeros_like(y)))
    settings = dict(case.settings)
    is_picture = not isinstance(problem.operator, Scan)
    if is_picture and case.is_free and (usual := usual_weight(case.sum_of_priors)):
        # The level of counts differs from place to place, and flat parts, which show one, are dark.
        settings["regularization"] = usual
    changed = dataclasses.replace(
        case, problem=intensities.with_data_term(LeastSquares(noise_std=level)), settings=settings
    )
    return changed, (
        "denoisers have no stable answer with the misfit of Poisson, so least squares took its "
        "place, with the square root of the mean count as the noise level; solver= keeps Poisson"
    )
