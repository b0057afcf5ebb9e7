"""Variational inference over the latents of an implicit prior: a distribution of images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Layout, Objective
from invtoolbox.posteriors.base import Posterior
from invtoolbox.priors.base import ImplicitPrior, PriorSum
from invtoolbox.priors.implicit.variational import Family, LatentPosterior, Variational
from invtoolbox.solvers.adam import Adam, AdamState
from invtoolbox.solvers.base import Solver


@dataclass(frozen=True)
class VariationalLatent(Solver):
    r"""``min_q E_q[D(A g(z), y)] + regularization * KL(q | p)``: VBLE.

    With ``pixels=True`` it is VBLE-xz.

    Biquard, Chabert, Genin, Latry and Oberlin, "Variational Bayes image restoration with
    compressive autoencoders" (IEEE TIP 34, 2025) and "Deep priors for satellite image restoration
    with accurate uncertainties" (2024). The latents of an implicit prior with an energy
    ``-log p(z)`` in nats get a distribution q, a product over all of them. Adam finds its means and
    widths from one draw per step. The draws are a function of the seed and the iteration, the same
    for every item.

    ``regularization=1`` (the default) is Bayes' rule. A slightly smaller value is better if the
    noise is known and real; give one number per item if items are different problems. The data term
    must know the noise. ``Solution.x`` is the decoded image of the means (MMSE-z);
    ``Solution.posterior`` has the mean over samples (MMSE-x), their standard deviation, samples and
    intervals.

    The optimum is stationary only in expectation, so no tolerance is met: every item takes all
    ``max_iterations``. Certificate: ``|grad F|`` of the draw, relative to its value at the start.

    The paper takes the last of 300 steps of one size. The noise of single draws that remains in it
    costs photographs 0.2 to 0.3 dB and makes the posterior too wide; half as many steps that
    shrink, averaged at the end, have the larger bound (`vble.py --part steps`).

    Args:
        family: ``"uniform"`` with learned widths, which start at 1, the width of rounding;
            ``"gaussian"``, whose standard deviations start at ``e^-3``, for latents with a Gaussian
            density; ``"dirac"`` is a point: the mode of the latents (MAP-z), and no posterior.
        pixels: whether every pixel also varies around the decoded image, with the standard
            deviation of the prior's second decoder times a factor that is found with the latents.
            Without it the uncertainty is the uncertainty of the latents alone, which is too small.
        number: number of samples behind the posterior's mean and standard deviation.
        learning_rate: learning rate of Adam.
        clip: gradients whose norm is larger than this times the number of pixels are shortened.
        iterate: the ``"last"`` parameters, the parameters of the ``"best"`` draw, or the
            ``"average"`` of about the last tenth.
        decay: the learning rate falls as ``1 / sqrt(1 + decay * steps)``.

    >>> import invtoolbox as it
    >>> network = it.priors.MeanScaleHyperprior(widths=(4, 4, 8), latents=6, hyper=4)
    >>> problem = it.Problem(
    ...     torch.rand(1, 1, 32, 32),
    ...     it.operators.Identity((1, 32, 32)),
    ...     it.data_terms.LeastSquares(noise_std=0.1),
    ... )
    >>> solution = it.solve(
    ...     problem,
    ...     it.priors.CompressiveAutoencoder(network),
    ...     VariationalLatent(max_iterations=3),
    ...     progress=False,
    ... )
    >>> solution.posterior.std.shape, solution.posterior.sample(4).shape
    (torch.Size([1, 1, 32, 32]), torch.Size([4, 1, 1, 32, 32]))
    """

    max_iterations: int = 150
    tolerance: float = 0.0
    family: Family = "uniform"
    pixels: bool = False
    number: int = 100
    learning_rate: float = 0.1
    clip: float = 20.0
    iterate: Literal["last", "best", "average"] = "average"
    decay: float = 0.02

    takes_projection: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice(self, ("uniform", "gaussian", "dirac"), "family")
        check_range(self, "[2, inf)", "number")
        check_range(self, "(0, inf]", "clip", "learning_rate")
        if self.pixels and self.family == "dirac":
            raise InputError(
                "VariationalLatent(pixels=True) gives pixels a distribution, which a point "
                "('dirac') has none of"
            )

    def unsupported_reason(self, objective: Objective) -> str | None:
        prior = objective.prior.implicit
        if prior is None:
            return "VariationalLatent works on the latents of an implicit prior, and there is none"
        if isinstance(prior, Variational):
            return None
        if (
            self.family != "dirac"
            and getattr(objective.problem.data_term, "noise_std", 1.0) is None
        ):
            return (
                "VariationalLatent weighs the measurements against a density, and "
                f"{objective.problem.data_term!r} does not know their noise; give it noise_std, "
                "0.004 of the range of the image if there is none"
            )
        if (
            type(prior).energy is ImplicitPrior.energy
            and type(prior).decode_and_energy is ImplicitPrior.decode_and_energy
        ):
            return (
                f"VariationalLatent needs the density of the latents, and {prior!r} has no energy"
            )
        if self.pixels and prior.pixel_std(prior.initial()) is None:
            return (
                "VariationalLatent(pixels=True) needs the standard deviation of pixels, and "
                f"{prior!r} has none; give it a bitrate"
            )
        return self._adam(1).unsupported_reason(objective)

    def suits(self, objective: Objective) -> bool:
        return False  # the user has to request a distribution

    def reformulate(self, objective: Objective) -> Objective:
        """Return the objective whose variable also holds the widths.

        They follow the latents and the unknowns.
        """
        prior, old = objective.prior.implicit, objective.layout
        assert prior is not None and old is not None
        # Widths of 1 are those of rounding; the standard deviation of a Gaussian starts at exp(-3).
        start = 1.0 if self.family == "uniform" else 0.04978706836786395
        around = Variational(prior, self.family, objective.regularization, start, self.pixels)
        shapes = dict(zip(old.names, old.shapes))
        shapes |= {
            name: tuple(t.shape[1:]) for name, t in around.initial().items() if name not in shapes
        }
        layout = Layout(tuple(shapes), tuple(shapes.values()))
        return dataclasses.replace(
            objective, prior=PriorSum(objective.prior.terms, around), layout=layout
        )

    def start(self, objective: Objective, variable: Tensor) -> Tensor:
        # The means of q are the latents of the start; `widen` adds the widths.
        around, layout = objective.prior.implicit, objective.layout
        assert isinstance(around, Variational) and layout is not None
        names = tuple(around.prior.initial())
        # The variable of the original objective holds the latents and the unknowns, without widths.
        unknown = () if objective.unknowns is None else tuple(objective.unknowns.starts)
        shapes = {
            name: shape
            for name, shape in zip(layout.names, layout.shapes)
            if name in names or name in unknown
        }
        parameters = Layout(tuple(shapes), tuple(shapes.values())).unpack(variable)
        return layout.pack(parameters | around.widen({name: parameters[name] for name in names}))

    def init(self, objective: Objective, start: Tensor) -> AdamState:
        return self._adam(self._pixels(objective)).init(objective, start)

    def step(self, objective: Objective, state: AdamState) -> AdamState:
        return self._adam(self._pixels(objective)).step(objective, state)

    def converged(self, state: Any, tolerance: float) -> Tensor:
        """Return the items within the tolerance, but none at the start.

        There the gradient of one draw is no measure of convergence.
        """
        return (state.certificate <= tolerance) & (state.steps > 0)

    def result(self, state: Any) -> Tensor:
        return self._adam(1).result(state)

    def posterior(self, objective: Objective, answer: Tensor, summary: Any) -> Posterior | None:
        around = objective.prior.implicit
        if (
            self.family == "dirac"
            or objective.layout is None
            or not isinstance(around, Variational)
        ):
            return None
        parameters = objective.layout.unpack(answer)
        latents = {
            name: t
            for name, t in parameters.items()
            if objective.unknowns is None or name not in objective.unknowns.starts
        }
        return LatentPosterior(around, latents, self.number)

    def _adam(self, pixels: int) -> Adam:
        # The misfit is a sum over the pixels, so the clip grows with their number.
        return Adam(
            learning_rate=self.learning_rate,
            decay=self.decay,
            iterate=self.iterate,
            clip=self.clip * pixels,
        )

    def _pixels(self, objective: Objective) -> int:
        _, *space = objective.problem.image_shape
        return int(torch.Size(space).numel())
