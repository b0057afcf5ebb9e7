"""Richardson-Lucy: expectation maximization for counts, of microscopes and telescopes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invtoolbox.core.reductions import sum_items
from invtoolbox.data_terms.poisson import Poisson, expected_deviance
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.operators.imaging.blur_3d import Blur3D
from invtoolbox.priors.images.constraints import NonNegative
from invtoolbox.priors.images.sparsity import group_norm
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.problem import Problem
from invtoolbox.solvers.base import Solver, State, implicit_reason
from invtoolbox.solvers.linear_systems import relative
from invtoolbox.solvers.preconditioner import inverse_or_zero, row_sums

#: Exponent of the damping (White 1994).
_SHARPNESS = 10
#: Differences below this share of the root mean square of x are smooth in the gradient of TV.
_SMOOTH = 1e-3
#: Least share of a pixel that an extrapolation leaves.
_SHRINKING = 0.1


@dataclass(kw_only=True)
class RichardsonLucyState(State):
    """The iterate before its extrapolation, the prediction, the latest step, the sensitivity."""

    iterate: Tensor  # z; the same as x without acceleration
    prediction: Tensor  # A x
    change: Tensor  # the latest step, from x to z
    rises: Tensor  # (batch,) whether the objective rose in the latest step
    sensitivity: Tensor  # A^T 1
    excess: Tensor  # (batch,) deviance over the expected one; stop once it is at most tau


@dataclass(frozen=True)
class RichardsonLucy(Solver):
    r"""Richardson-Lucy deconvolution, which is MLEM of emission tomography.

    Richardson 1972, Lucy 1974; Shepp and Vardi 1982, for a `Poisson` data term with its background
    b and an operator without negative entries::

        x = x / (A^T 1 - w div(D x / |D x|)) * A^T (y / (A x + b))

    x stays nonnegative, and a pixel that starts at 0 stays there; a start of zeros is replaced by a
    constant that explains the total of the counts. The second part of the denominator is that of
    the prior `TotalVariation` with the weight w (Dey et al., Microsc. Res. Tech. 69, 2006); without
    that prior it is 0. Their step has this fixed point but diverges for large weights. Therefore
    every step minimizes a separable bound of the whole objective (De Pierro, IEEE TMI 14, 1995),
    with a norm ``|D x|`` that is smooth below a thousandth of the root mean square of x.

    Without acceleration an iteration never increases the objective (Vardi, Shepp and Kaufman 1985). Late
    iterates fit the noise. An item therefore ends, with the status ``early_stopping``, once twice
    the divergence of the counts from their mean is at most ``tau`` times its expectation for
    Poisson noise (`expected_deviance`), which counts of 0 and 1 fulfil as well as large ones.
    Certificate: length of the scaled gradient ``x grad F / (A^T 1)``, over that of x, with the smooth
    norm in F. Without a prior it is the step before it is extrapolated; with total variation a step
    is shorter, as its bound is steep where x is flat.

    Args:
        tau: stop at ``tau`` times the expected deviance; 0 never stops early.
        accelerated: extrapolate every iterate along its latest change (Biggs and Andrews, Appl. Opt.
            36, 1997), which saves most of the iterations. After a step that raised the objective
            there is none (O'Donoghue and Candes, Found. Comput. Math. 15, 2015). ``"fixed"`` takes the
            factors ``k / (k + 3)`` of Nesterov, which are the same for all items, such as the tiles
            of a volume.
        damping: deviations of the counts from their mean that are smaller than this many standard
            deviations are damped (White 1994); 0 for none.
        smoothing: norm ``|D x|`` below which total variation is smooth; a thousandth of the root
            mean square of x by default.

    >>> import invtoolbox as it
    >>> A = it.operators.Matrix(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    >>> problem = it.Problem(torch.tensor([[[3.0, 2.0]]]), A, it.data_terms.Poisson())
    >>> it.solve(problem, solver=RichardsonLucy(tau=0), progress=False).x.round(decimals=2)
    tensor([[[2., 1.]]])
    """

    max_iterations: int = 500
    tolerance: float = 1e-4
    tau: float = 1.0
    accelerated: bool | Literal["fixed"] = False
    damping: float = 0.0
    smoothing: float | None = None

    certificate_name: ClassVar[str] = "relative length of the scaled gradient"
    starts_at_zero: ClassVar[bool] = True

    def unsupported_reason(self, objective: Objective) -> str | None:
        if not min(self.tau, self.damping, self.smoothing or 0.0) >= 0:
            return (
                "RichardsonLucy needs tau, damping and smoothing that are not negative, got "
                f"{self.tau}, {self.damping} and {self.smoothing}"
            )
        variations = [p for p in objective.explicit_priors if type(p) is TotalVariation]
        if len(variations) > 1 or any(
            p.coupled or p.upper is not None or (p.lower or 0.0) > 0 for p in variations
        ):
            return (
                "RichardsonLucy takes one total variation, of every channel alone and without bounds "
                "but 0, and here is another; PDHG takes it"
            )
        return emission_reason(objective, "RichardsonLucy", (NonNegative, TotalVariation))

    def suits(self, objective: Objective) -> bool:
        """Whether counts of a volume have total variation as their prior, and the kernel is light.

        There `PDHG` needs thousands of iterations, because the counts have no bound of curvature.
        """
        A = objective.problem.operator
        return (
            isinstance(A, Blur3D)
            and bool((A.kernel >= 0).all())
            and any(isinstance(prior, TotalVariation) for prior in objective.explicit_priors)
        )

    def init(self, objective: Objective, start: Tensor) -> RichardsonLucyState:
        A, y = objective.linear_operator, objective.problem.y0
        x = start_of_counts(objective.problem, start)
        prediction = A(x)
        value, discrepancy = objective.value_at(x, prediction)
        return RichardsonLucyState(
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=objective.nan().fill_(torch.inf),
            iterate=x,
            prediction=prediction,
            change=torch.zeros_like(x),
            rises=torch.zeros_like(value, dtype=torch.bool),
            sensitivity=A.adjoint(torch.ones_like(y)),
            excess=self._excess(objective.problem, prediction, discrepancy),
        )

    def step(self, objective: Objective, state: RichardsonLucyState) -> RichardsonLucyState:
        problem, A = objective.problem, objective.linear_operator
        # x = x / (A^T 1 - w div(D x / |D x|)) * A^T (y / (A x + b))
        back = A.adjoint(self._ratio(problem, state.prediction))
        iterate = multiply(state.x, back, state.sensitivity)
        scaled_gradient = state.x - iterate  # x grad D / (A^T 1)
        for weight, prior in objective.terms:
            if isinstance(prior, TotalVariation):
                iterate, slope = _with_variation(
                    prior, weight, state.x, iterate, state.sensitivity, self.smoothing
                )
                by_prior = expand(weight, slope) * slope * inverse_or_zero(state.sensitivity)
                scaled_gradient = scaled_gradient + state.x * by_prior
        change, x = iterate - state.x, iterate
        if self.accelerated:
            # alpha = <g, g_before> / |g_before|^2 between 0 and 1, x = z + alpha (z - z_before)
            alpha = relative(inner(change, state.change), inner(state.change, state.change))
            alpha = torch.where(state.rises, 0.0, alpha.clamp(0, 1))
            if self.accelerated == "fixed":
                alpha = torch.full_like(alpha, objective.iteration / (objective.iteration + 3))
            x = iterate + expand(alpha, x) * (iterate - state.iterate)
            # A pixel that reaches 0 would stay there.
            x = x.maximum(_SHRINKING * iterate)
        prediction = A(x)
        value, discrepancy = objective.value_at(x, prediction)
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=relative(item_norm(scaled_gradient), item_norm(iterate)),
            iterate=iterate,
            prediction=prediction,
            change=change,
            rises=value > state.value,
            excess=self._excess(problem, prediction, discrepancy),
        )

    def gives_up(self, state: RichardsonLucyState) -> Tensor | None:
        return state.excess <= self.tau if self.tau > 0 else None

    def stops_early(self, objective: Objective) -> bool:
        return self.tau > 0 or super().stops_early(objective)

    def _ratio(self, problem: Problem, prediction: Tensor) -> Tensor:
        """Return the counts over their mean, with small deviations damped."""
        # The gradient is 1 - y / mean, so this is the ratio; the data term handles a mean of 0.
        deviation = -problem.data_term.grad(prediction, problem.y0)
        if self.damping == 0:
            return 1 + deviation
        # U = 2 (mean - y + y log(y / mean)) / damping^2, at most 1; the factor U^9 (10 - 9 U)
        mean, y = 1 + deviation, problem.y0  # mean holds y / mean
        term = problem.data_term
        assert isinstance(term, Poisson)
        divergence = term.mean(prediction) - y + torch.xlogy(y, mean)
        share = (2 * divergence / self.damping**2).clamp(0, 1)
        n = _SHARPNESS
        return 1 + share ** (n - 1) * (n - (n - 1) * share) * deviation

    def _excess(self, problem: Problem, prediction: Tensor, discrepancy: Tensor) -> Tensor:
        """Return the deviance over its expectation, ``(batch,)``."""
        if self.tau == 0:
            return torch.full_like(discrepancy, torch.inf)
        term = problem.data_term
        assert isinstance(term, Poisson)
        expected = sum_items(expected_deviance(term.mean(prediction)))
        return relative(discrepancy.square(), expected)


def emission_reason(objective: Objective, name: str, priors: tuple[type, ...]) -> str | None:
    """Return why expectation maximization does not fit, or ``None``.

    Args:
        objective: the objective.
        name: name of the solver.
        priors: kinds of priors that the solver takes.
    """
    problem = objective.problem
    if not problem.is_linear or not isinstance(problem.y, Tensor):
        return (
            f"{name} needs a linear operator and one tensor of counts, and the operator is "
            f"{problem.operator}"
        )
    if not isinstance(problem.data_term, Poisson):
        return (
            f"{name} needs the Poisson data term of emission, and {problem.data_term!r} is another"
        )
    for prior in objective.explicit_priors:
        if type(prior) not in priors:
            return (
                f"{name} takes no prior but {' and '.join(kind.__name__ for kind in priors)}, and "
                f"{prior!r} is another"
            )
    return implicit_reason(objective, name)


def start_of_counts(problem: Problem, start: Tensor) -> Tensor:
    """Return a start without negative values, and a constant c in place of zeros.

    The constant has ``sum(A c) = sum(y)``, because expectation maximization never leaves 0.
    """
    total = sum_items(row_sums(problem))
    level = sum_items(problem.y0) / total.clamp_min(torch.finfo(total.dtype).tiny)
    empty = (start <= 0).flatten(1).all(1).view(-1, *[1] * (start.ndim - 1))
    return torch.where(empty, expand(level, start), start.clamp_min(0))


def multiply(x: Tensor, factor: Tensor, denominator: Tensor) -> Tensor:
    """Return ``x * factor / denominator``, and x itself where nothing sees a pixel."""
    inverse = inverse_or_zero(denominator)
    return x * torch.where(inverse > 0, factor * inverse, 1.0).clamp_min_(0)


def _with_variation(
    prior: TotalVariation,
    weight: Tensor,
    point: Tensor,
    x: Tensor,
    sensitivity: Tensor,
    smoothing: float | None,
) -> tuple[Tensor, Tensor]:
    """Return the minimizer of a separable bound of misfit and total variation, and TV's gradient.

    Args:
        prior: the total variation; its norm is smooth at 0 here.
        weight: its weight, ``(batch,)``.
        point: where the bound touches the objective.
        x: the minimizer of the bound of the misfit alone.
        sensitivity: ``A^T 1``.
        smoothing: norm below which total variation is smooth.
    """
    D = FiniteDifference(point.shape[1:], prior.periodic, prior.spacing)
    by_axis = D(point).unflatten(1, (point.shape[1], point.ndim - 2))
    size = _SMOOTH * expand(item_norm(point) / point[0].numel() ** 0.5, by_axis)
    least = size if smoothing is None else torch.full_like(size, smoothing)
    norm = group_norm(by_axis, 2) if prior.isotropic else by_axis.abs()
    tiny = torch.finfo(x.dtype).tiny
    inverse = 1 / (norm.square() + least.square()).sqrt().clamp_min(tiny)
    inverse = inverse.expand_as(by_axis).contiguous()
    slope = D.adjoint((by_axis * inverse).flatten(1, 2))
    # sum over the neighbours of 1 / |D x|
    curvature = torch.zeros_like(x)
    for k in range(by_axis.shape[2]):
        share, axis = inverse.select(2, k), k + 2
        if not prior.periodic:
            share.narrow(axis, share.shape[axis] - 1, 1).zero_()
        length = 1.0 if prior.spacing is None else prior.spacing[k]
        curvature = curvature + (share + share.roll(1, axis)) / length**2
    # 2 w c x^2 + (s + w g - 2 w c point) x - s x_em = 0 (De Pierro, IEEE TMI 14, 1995)
    factor = expand(weight, x)
    linear = sensitivity + factor * (slope - 2 * curvature * point)
    photons = sensitivity * x
    root = (linear.square() + 8 * factor * curvature * photons).sqrt()
    far = root + linear.abs()
    positive = 2 * photons / far.clamp_min(tiny)
    negative = far / (4 * factor * curvature).clamp_min(tiny)
    return torch.where(linear >= 0, positive, negative), slope
