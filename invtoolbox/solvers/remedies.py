"""Find the nearest change that makes a refused objective solvable.

The change is found by trial: one part of the objective is replaced, and the candidates are asked
again. No table lists which combinations fit, so a new solver changes the advice by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.robust import Huber
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.elementary import Identity
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Term
from invtoolbox.priors.images.total_variation import HuberTV, TotalVariation

#: Longest name of a part in a message.
_LONGEST = 70


def nearest_remedy(
    objective: Objective, fits: Callable[[Objective], str | None]
) -> tuple[str, str] | None:
    """Return the first single change after which a solver fits, and the name of that solver.

    If no single change helps, two changes are tried, and ``None`` is returned if they do not help
    either.

    Args:
        objective: the refused objective.
        fits: function that returns the name of a solver for an objective, or ``None``.
    """
    # All single changes come before any pair, so that the advice is the shortest.
    for words, changed in _changes(objective):
        if (solver := fits(changed)) is not None:
            return words, solver
    for words, changed in _changes(objective):
        for more, twice in _changes(changed):
            if (solver := fits(twice)) is not None:
                return f"{words}, {more}", solver
    return None


def shorten(part: Any) -> str:
    """Return the text of a part of an objective, cut to a length that leaves room for advice.

    >>> shorten("x" * 100)[-5:]
    'xx...'
    """
    text = str(part)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _changes(objective: Objective) -> Iterator[tuple[str, Objective]]:
    """Yield every single change in words, and the objective after it, the smallest first.

    A method that the author of a prior can add comes first, then a similar part, then a part less.
    """
    terms = objective.prior.terms
    for k, term in enumerate(terms):
        prior, name = term.prior, shorten(term.prior)
        if "prox" not in prior.offers:
            yield (
                f"write prox(x, step) for {name}",
                _with_prior(objective, k, _Having(prior, "prox")),
            )
        if "energy" not in prior.offers:
            yield f"write energy(x) for {name}", _with_prior(objective, k, _Having(prior, "energy"))
    for k, term in enumerate(terms):
        if not term.prior.smooth:
            smooth, words = (
                (HuberTV(), "HuberTV()")
                if isinstance(term.prior, TotalVariation)
                else (_Smooth(term.prior), "a differentiable prior (SmoothedNorm, for example)")
            )
            yield (
                f"take {words} in place of {shorten(term.prior)}",
                _with_prior(objective, k, smooth),
            )
    problem = objective.problem
    # Stacked measurements have one data term each, which is no single change.
    if not isinstance(problem.y, tuple):
        for data_term in (Huber(delta=1.0), LeastSquares()):
            if type(data_term) is not type(problem.data_term):
                words = f"data_terms.{type(data_term).__name__} in place of {problem.data_term!r}"
                changed = problem.with_data_term(data_term)
                yield f"take {words}", dataclasses.replace(objective, problem=changed)
    for k, term in enumerate(terms):
        left = PriorSum(terms[:k] + terms[k + 1 :], objective.prior.implicit)
        yield f"leave {shorten(term.prior)} out", dataclasses.replace(objective, prior=left)
    if objective.unknowns is not None:
        without_unknowns = dataclasses.replace(
            objective,
            problem=problem.without_unknowns(),
            unknowns=None,
            layout=None if objective.prior.implicit is None else objective.layout,
        )
        yield f"give {' and '.join(objective.unknowns.starts)} as known", without_unknowns
    elif objective.prior.implicit is not None:
        words = f"leave {shorten(objective.prior.implicit)} out and solve for the image"
        yield words, dataclasses.replace(objective, prior=PriorSum(terms), layout=None)
    if not problem.is_linear and objective.layout is None:
        linear = problem.with_operator(Identity(problem.image_shape))  # a stand-in
        words = "take a linear operator, A.linearize(x) for example"
        yield words, dataclasses.replace(objective, problem=linear)


def _with_prior(objective: Objective, k: int, prior: ExplicitPrior) -> Objective:
    terms = objective.prior.terms
    changed = Term(terms[k].weight, prior, terms[k].chosen)
    priors = PriorSum((*terms[:k], changed, *terms[k + 1 :]), objective.prior.implicit)
    return dataclasses.replace(objective, prior=priors)


class _StandIn(ExplicitPrior):
    """A prior that states what another one would state after a change; it computes nothing."""

    def __init__(self, prior: ExplicitPrior) -> None:
        self.prior = prior
        self.is_convex, self.is_smooth = prior.is_convex, prior.is_smooth
        self.is_constraint, self.fixed_level = prior.is_constraint, prior.fixed_level
        self.unit_step = prior.unit_step

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        return self.prior.split()

    def quadratic(self) -> Any:
        return self.prior.quadratic()

    def joint(self, image_shape: tuple[int, ...]) -> tuple[int, PriorSum]:
        return self.prior.joint(image_shape)


class _Having(_StandIn):
    """The prior with one more method."""

    def __init__(self, prior: ExplicitPrior, method: str) -> None:
        super().__init__(prior)
        self.method = method

    @property
    def offers(self) -> frozenset[str]:
        return (
            self.prior.offers | {self.method} | ({"gradient"} if self.method == "energy" else set())
        )


class _Smooth(_StandIn):
    """A differentiable prior in place of the prior."""

    def __init__(self, prior: ExplicitPrior) -> None:
        super().__init__(prior)
        self.is_smooth, self.is_constraint = True, False

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"energy", "gradient"})
