r"""Write out priors that are minima over auxiliary variables.

Such a prior is ``R(x) = min_w sum_i c_i F_i(K_i (x, w))``. Total generalized variation has no prox
in closed form, because w is minimized inside of it. Minimizing over x and w together is the same
problem, and there every summand is closed. `with_auxiliaries` makes that objective: its variable
has the channels of the image, followed by the channels of every w, and `Objective.decode` returns
the image at the end. A solver that needs it calls it in `Solver.reformulate`.
"""

from __future__ import annotations

import dataclasses
from typing import Self, cast

import torch
from torch import Tensor

from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.elementary import ChannelSlices, Identity
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Term
from invtoolbox.priors.composed import ComposedPrior


def with_auxiliaries(objective: Objective) -> Objective:
    """Return the objective with the auxiliary variables of its priors as further channels.

    It is the objective itself if there are no such variables, or no image. Its value equals the
    original one at the best auxiliary variables, and lies above it elsewhere.
    """
    if objective.layout is not None or not any(
        "joint" in term.prior.offers for term in objective.prior.terms
    ):
        return objective
    problem = objective.problem
    channels, *space = problem.image_shape
    joints = [
        term.prior.joint(problem.image_shape) if "joint" in term.prior.offers else None
        for term in objective.prior.terms
    ]
    total = channels + sum(joint[0] for joint in joints if joint is not None)
    image = ChannelSlices((total, *space), ((0, channels),))
    image.complex_images = problem.operator.complex_images
    terms, start = [], channels
    for term, joint in zip(objective.prior.terms, joints):
        if joint is None:
            terms.append(Term(term.weight, _OfTheImage(term.prior, image), term.chosen))
            continue
        stop = start + joint[0]
        alone = joint[0] == total - channels
        select = None if alone else ChannelSlices((total, *space), ((0, channels), (start, stop)))
        terms += [
            Term(
                term.weight * summand.weight,
                summand.prior if select is None else summand.prior @ select,
                term.chosen,
            )
            for summand in joint[1].terms
        ]
        start = stop
    operator = image if isinstance(problem.operator, Identity) else problem.operator @ image
    return dataclasses.replace(
        objective,
        problem=problem.with_operator(operator),
        prior=PriorSum(tuple(terms)),
        image_channels=channels,
    )


def with_auxiliary_variables(objective: Objective, image: Tensor) -> Tensor:
    """Return the variable of an objective that starts from an image.

    Auxiliary variables start at 0.
    """
    if objective.image_channels is None:
        return image
    shape = objective.problem.image_shape
    return torch.cat(
        [image, image.new_zeros(image.shape[0], shape[0] - image.shape[1], *shape[1:])], 1
    )


class _OfTheImage(ComposedPrior):
    """A prior of the image as a prior of image and auxiliary variables.

    Its prox leaves the auxiliary variables unchanged.
    """

    operator: ChannelSlices

    def __init__(self, prior: ExplicitPrior, image: ChannelSlices) -> None:
        super().__init__(prior, image)
        self.sigma, self.fixed_level = prior.sigma, prior.fixed_level
        self.is_constraint, self.has_exact_prox = prior.is_constraint, prior.has_exact_prox

    @property
    def offers(self) -> frozenset[str]:
        return self.prior.offers & {"energy", "prox", "denoise", "gradient", "split", "quadratic"}

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return self.operator.replace_blocks(x.clone(), self.prior.prox(self.operator(x), step))

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.operator.replace_blocks(x.clone(), self.prior.denoise(self.operator(x), sigma))

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        K, F = self.prior.split()
        return cast(LinearOperator, K @ self.operator), F

    def _with(self, prior: ExplicitPrior) -> Self:
        prior_of_image = super()._with(prior)
        prior_of_image.sigma = prior.sigma
        return prior_of_image

    def __repr__(self) -> str:
        return repr(self.prior)
