"""PALM: alternating proximal steps in the image and in each unknown, as for blind deblurring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, inner
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Term
from invtoolbox.solvers.base import Solver, State, missing_gradient_reason
from invtoolbox.solvers.gradient_descent import gradient_scale


@dataclass(kw_only=True)
class PALMState(State):
    """The step of every block, and the scale of the certificate."""

    steps: Tensor  # (batch, blocks) the step to try first in each block, in the block's own unit
    scale: Tensor  # (batch,) scale of the gradient mapping


@dataclass(frozen=True)
class PALM(Solver):
    r"""Proximal alternating linearized minimization, in the image and in each unknown.

    Bolte, Sabach and Teboulle, Math. Program. 146, 2014, section 3. For the image and then for each
    unknown of the problem, ``b <- prox_{t R_b}(b - t grad_b f)``, f the misfit and the smooth
    priors as a function of all blocks, with the other blocks held fixed. Each item and block has
    its own step t, halved until f lies below its quadratic model and lengthened a little
    afterwards, because the curvature of a block changes with the others.

    A block takes at most one prior by its prox; its other priors must be differentiable. The
    objective never increases. Converges to a critical point if f and the priors are semi-algebraic
    and the iterates stay bounded (ibid., theorem 1), which holds for least squares with TV, bounds
    and the simplex. As the problem is not convex, the start matters. Certificate: the norm of the
    gradient mappings of all blocks, relative to the gradient of f at the start.

    >>> import invtoolbox as it
    >>> x = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> y = it.operators.Blur(torch.tensor([[0.2, 0.5, 0.3]]), (12, 12))(x)
    >>> A = it.operators.Blur(torch.tensor([[0.0, 1.0, 0.0]]), (12, 12))
    >>> problem = it.Problem(y, A, unknown={"kernel": it.priors.Simplex()})
    >>> solution = it.solve(
    ...     problem, it.priors.Tikhonov(reference=x), PALM(), regularization=10.0, progress=False
    ... )
    >>> solution.parameters["kernel"].flatten().round(decimals=2)
    tensor([0.2000, 0.5000, 0.3000])
    """

    max_iterations: int = 1000
    tolerance: float = 1e-4
    growth: float = 1.3

    certificate_name: ClassVar[str] = "relative norm of the gradient mappings"

    def unsupported_reason(self, objective: Objective) -> str | None:
        if objective.unknowns is None or objective.prior.implicit is not None:
            return (
                "PALM alternates between the image and unknown parameters of the operator, "
                "Problem(unknown=...); use ProximalGradient"
            )
        for name, terms in _blocks(objective).items():
            rough = [prior for _, prior in terms if not prior.smooth]
            if len(rough) > 1 or any("prox" not in prior.offers for prior in rough):
                return (
                    f"PALM takes one prior of {name} by its proximal operator, and there is "
                    f"{' and '.join(map(repr, rough))}"
                )
            for prior in (prior for _, prior in terms if prior.smooth):
                reason = missing_gradient_reason(prior, "PALM")
                if reason is not None or "energy" not in prior.offers:
                    return (
                        reason
                        or f"PALM needs an energy of {prior!r} for its steps, and it has none"
                    )
        return None

    def init(self, objective: Objective, start: Tensor) -> PALMState:
        # f, the misfit and the smooth priors, is the part that is differentiated.
        smooth = _smooth_part(objective)
        value, gradient, discrepancy = smooth.evaluate(start)
        scale = gradient_scale(objective, inner(gradient, gradient).sqrt())
        steps = torch.ones(
            len(start), len(_blocks(objective)), dtype=value.dtype, device=value.device
        )
        return PALMState(
            x=start,
            value=value,
            discrepancy=discrepancy,
            certificate=torch.full_like(value, torch.inf),
            steps=steps,
            scale=scale,
        )

    def step(self, objective: Objective, state: PALMState) -> PALMState:
        assert objective.layout is not None
        smooth, vector = _smooth_part(objective), state.x
        steps, squared = state.steps.clone(), torch.zeros_like(state.value)
        for k, (name, terms) in enumerate(_blocks(objective).items()):
            # b <- prox_{t R_b}(b - t grad_b f), with t halved until
            # f(new) <= f(b) + <grad_b f, d> + |d|^2 / (2 t) for the change d of the block.
            rough = next(((weight, prior) for weight, prior in terms if not prior.smooth), None)
            here, gradient, _ = smooth.evaluate(vector)
            slope = objective.layout.unpack(gradient)[name]
            # Longer than the last step, because the curvature of a block changes with the others.
            step = self.growth * steps[:, k]
            rounding = 8 * torch.finfo(here.dtype).eps * here.abs()
            for _ in range(60):
                candidate, d = _block_step(objective, vector, name, slope, step, rough)
                bound = here + inner(slope, d) + inner(d, d) / (2 * step) + rounding
                too_long = ~(smooth.value(candidate) <= bound)
                if not bool(too_long.any()):
                    break
                step = torch.where(too_long, step / 2, step)
            vector, steps[:, k] = candidate, step
            # The gradient mapping of a block is d / t.
            squared = squared + inner(d, d) / step.square()
        # F = f + the priors that entered by their prox.
        after = smooth.evaluate(vector)
        value = after.value + sum(
            (
                w * p.energy(_block(objective, vector, name))
                for name, terms in _blocks(objective).items()
                for w, p in terms
                if not p.smooth
            ),
            torch.zeros_like(after.value),
        )
        return replace(
            state,
            x=vector,
            value=value,
            discrepancy=after.discrepancy,
            certificate=squared.sqrt() / state.scale,
            steps=steps,
        )


def _blocks(objective: Objective) -> dict[str, list[tuple[Tensor, ExplicitPrior]]]:
    """Return the blocks of the variable, each with its priors and their weights, ``(batch,)``."""
    assert objective.unknowns is not None
    # The weight of the priors of x follows the regularization; priors of unknowns have their own.
    ones = torch.ones_like(objective.regularization)
    of_unknowns = {
        name: [
            (ones * torch.as_tensor(t.weight, dtype=ones.dtype, device=ones.device), t.prior)
            for t in prior.terms
        ]
        for name, prior in objective.unknowns.priors.items()
    }
    return {"x": list(objective.terms), **of_unknowns}


def _smooth_part(objective: Objective) -> Objective:
    """Return the objective of misfit and differentiable priors alone."""

    def smooth(priors: PriorSum) -> PriorSum:
        terms: tuple[Term, ...] = tuple(term for term in priors.terms if term.prior.smooth)
        return PriorSum(terms, priors.implicit)

    assert objective.unknowns is not None
    unknowns = replace(
        objective.unknowns, priors={k: smooth(p) for k, p in objective.unknowns.priors.items()}
    )
    return replace(objective, prior=smooth(objective.prior), unknowns=unknowns)


def _block(objective: Objective, vector: Tensor, name: str) -> Tensor:
    """Return the image, or a parameter in its own unit."""
    assert objective.layout is not None and objective.unknowns is not None
    parameters = objective.layout.unpack(vector)
    return parameters["x"] if name == "x" else objective.unknowns.values(parameters)[name]


def _block_step(
    objective: Objective,
    vector: Tensor,
    name: str,
    slope: Tensor,
    step: Tensor,
    rough: tuple[Tensor, ExplicitPrior] | None,
) -> tuple[Tensor, Tensor]:
    """Return the variable after a step of this length in one block, and the block's change."""
    assert objective.layout is not None and objective.unknowns is not None
    parameters = objective.layout.unpack(vector)
    # b - t grad_b f, then the prox of the one prior that is not smooth.
    old = parameters[name]
    new = torch.addcmul(old, expand(-step, old), slope)
    if rough is not None:
        weight, prior = rough
        if name == "x":
            new = prior.prox(new, step * weight)
        else:
            # The prior acts on theta = start + scale u: in theta the step t is scale^2 t.
            start, scale = objective.unknowns.starts[name], objective.unknowns.scales[name]
            theta = prior.prox(start + expand(scale, start) * new, step * weight * scale.square())
            new = ((theta - start) / expand(scale, start)).to(old.dtype)
    return objective.layout.pack({**parameters, name: new}), new - old
