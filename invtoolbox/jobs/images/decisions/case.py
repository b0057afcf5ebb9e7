"""A problem on its way to an answer, what steps ask of it, and what they propose."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from invtoolbox.core.decision import Decision, select_decisions
from invtoolbox.core.interrupts import OutOfTime, budget
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.jobs.images.decisions.join import take
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.posteriors.base import MappedPosterior
from invtoolbox.posteriors.exact import GaussianPosterior
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import inner_solve, solve
from invtoolbox.solvers.base import Solver

#: Statuses of answers that may be compared.
USABLE = ("converged", "early_stopping", "limit")
#: Records of one answer, which do not pass to the answer that takes its place.
_OF_ANSWER = ("solver", "weight", "noise", "residual")


def solve_case(case: Case) -> Solution:
    """Solve the problem of a case as it is posed.

    Args:
        case: the case.
    """
    settings = dict(case.settings)
    if callable(initial := settings.get("initial")):
        settings["initial"] = initial(case.problem)
    return solve(case.problem, case.prior, case.solver, **settings)


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """Some items of a batch, which are decided alike, from the problem as posed to the answer.

    A step changes a case by `dataclasses.replace`.

    Attributes:
        problem: measurements, operator and data term.
        prior: sum of the priors, or `Auto` until a prior is chosen.
        names: names by which the user chose the priors, without weights and settings.
        solver: solver of the user, or None.
        settings: further keywords of `invtoolbox.solve`; ``initial`` may be a function of the problem.
        places: places of the items in the batch of the user.
        is_free: whether the weight was left to the toolbox, so that another answer may be taken.
        metal: attenuation above which a pixel is metal; True for the default of `reduce_metal`.
        method: function that solves the case.
        solution: the answer so far, on the grid of ``problem``.
        decisions: records from before the solve; later ones belong to the solution.
        restores: functions that return the solution on the grid of the user, the last one first.
        is_mended: whether a step has repaired the measurements.
        is_settled: whether no other answer is proposed.
        is_continued: whether the views of a scan were continued by a guess.
        without_views: image of the views that are not held out, and whether the object is made of its
            pixels, ``(batch,)``, if a comparison has computed them.
        fallback: the case before a larger grid was posed, which takes its place if that fails.
    """

    problem: Problem
    prior: Prior | None
    places: Tensor
    names: Sequence[str] = ()
    solver: Solver | str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_free: bool = True
    metal: bool | float = True
    method: Callable[[Case], Solution] = solve_case
    solution: Solution | None = None
    decisions: tuple[Decision, ...] = ()
    restores: tuple[Callable[[Solution], Solution], ...] = ()
    is_mended: bool = False
    is_settled: bool = False
    is_continued: bool = False
    without_views: tuple[Tensor, Tensor] | None = None
    fallback: Case | None = None

    @classmethod
    def of(
        cls,
        problem: Problem,
        prior: Prior | None,
        solver: Solver | str | None,
        settings: Mapping[str, Any],
        names: Sequence[str] = (),
        metal: bool | float = True,
    ) -> Case:
        """Return the case of a whole batch.

        Args:
            problem: measurements, operator and data term.
            prior: sum of the priors.
            solver: solver of the user, or None.
            settings: further keywords of `invtoolbox.solve`.
            names: names by which the user chose the priors.
            metal: attenuation above which a pixel is metal.
        """
        weight = settings.get("regularization", "auto")
        return cls(
            problem=problem,
            prior=prior,
            places=torch.arange(problem.batch, device=problem.y0.device),
            names=tuple(names),
            solver=solver,
            settings=settings,
            is_free=isinstance(weight, str) and weight == "auto",
            metal=metal,
        )

    @property
    def batch(self) -> int:
        """Number of items."""
        return len(self.places)

    @property
    def answer(self) -> Solution:
        """The solution of a case that is solved."""
        assert self.solution is not None
        return self.solution

    @property
    def sum_of_priors(self) -> Prior:
        """The priors of a case that has some."""
        assert self.prior is not None
        return self.prior

    @property
    def posed(self) -> Problem:
        """The problem in the precision of the answer and on its device, without skipped items."""
        x = self.answer.x
        return self.problem.without_skipping().to(device=x.device, dtype=x.real.dtype)

    @property
    def usable(self) -> Tensor:
        """Which items have an answer that may be compared, ``(batch,)`` booleans."""
        return torch.tensor([status in USABLE for status in self.answer.status])

    def select(self, items: Tensor) -> Case:
        """Return the case of some items.

        Args:
            items: places of the items in this case.
        """
        if len(items) == self.batch:
            return self
        places, without = items.tolist(), self.without_views
        settings = {
            key: value[items.to(value.device)]
            if isinstance(value, Tensor) and value.ndim and len(value) == self.batch
            else value
            for key, value in self.settings.items()
            if key != "checkpoint"  # a file holds one run
        }
        return dataclasses.replace(
            self,
            problem=self.problem.select(items.to(self.problem.y0.device)),
            prior=None if self.prior is None else self.prior.select(items),
            places=self.places[items.to(self.places.device)],
            settings=settings,
            solution=None if self.solution is None else take(self.solution, items),
            decisions=select_decisions(self.decisions, places),
            without_views=without and (without[0][items], without[1][items]),
            fallback=self.fallback and self.fallback.select(items),
        )

    def note(self, *decisions: Decision) -> Case:
        """Return the case with further records.

        Args:
            decisions: the records, with the numbers of the items of this case.
        """
        if self.solution is None:
            return dataclasses.replace(self, decisions=(*self.decisions, *decisions))
        return dataclasses.replace(self, solution=self.solution.note(*decisions))

    def with_answer(self, solution: Solution, **changes: Any) -> Case:
        """Return the case with the answer of another solve, which keeps the records of the case.

        Args:
            solution: the other answer.
            changes: further attributes of the case.
        """
        before = [d for d in self.answer.decisions if d.step not in _OF_ANSWER]
        decisions = (*before, *(d for d in solution.decisions if d not in before))
        solution = dataclasses.replace(solution, decisions=decisions)
        return dataclasses.replace(self, solution=solution, **changes)

    def again(self, problem: Problem, tolerance: float | None = None) -> Tensor:
        """Return the images of another problem, solved with the weights of the answer.

        Args:
            problem: the other problem, with as many items.
            tolerance: bound of the certificate; by default that of the solver.

        Raises:
            OutOfTime: the time limit has ended the solve.
        """
        solution = self.answer
        valid = torch.tensor([status != "invalid" for status in solution.status])
        x = inner_solve(
            problem,
            self.prior,
            self.solver,
            torch.where(valid.to(solution.x.device), solution.regularization, 1),
            max_iterations=self.settings.get("max_iterations"),
            tolerance=tolerance,
            seed=solution.seed,
            progress=False,
        ).x
        require_time()
        return x

    def restore(self) -> Solution:
        """Return the answer on the grid of the user."""
        solution = self.answer
        for restore in reversed(self.restores):
            solution = restore(solution)
        return solution


def require_time() -> None:
    """Raise `OutOfTime` if the time limit of the run is reached."""
    if budget().is_spent:
        raise OutOfTime


class Trait(NamedTuple):
    """A property that a step needs.

    Attributes:
        words: why the step does not apply without the property.
        holds: function of a case that returns whether it has the property.
    """

    words: str
    holds: Callable[[Case], bool]


def _yields(case: Case) -> bool:
    """Return whether another answer may take the place of the answer."""
    solution, prior = case.answer, case.prior
    posterior = solution.posterior
    while isinstance(posterior, MappedPosterior):  # means over blocks of smaller pixels
        posterior = posterior.posterior
    is_drawn = not isinstance(posterior, GaussianPosterior | None)
    is_written = prior is not None and any(term.chosen for term in prior.as_sum().terms)
    return not (is_drawn or is_written or solution.parameters)


IS_SCAN = Trait("no scan", lambda case: isinstance(case.problem.operator, Scan))
IS_BLUR = Trait("no blur", lambda case: isinstance(case.problem.operator, Blur))
IS_SQUARES = Trait(
    "the misfit is not least squares of one tensor",
    lambda case: (
        type(case.problem.data_term) is LeastSquares and isinstance(case.problem.y, Tensor)
    ),
)
IS_KNOWN = Trait("parameters of the operator are unknown", lambda case: not case.problem.unknown)
IS_WHOLE = Trait("items are not finite", lambda case: case.problem.skipped is None)
IS_REAL = Trait("the measurements are complex", lambda case: not case.problem.y0.is_complex())
IS_UNMENDED = Trait("an earlier step has repaired it", lambda case: not case.is_mended)
HAS_PRIOR = Trait("there is no prior", lambda case: case.prior is not None)
HAS_NO_SOLVER = Trait("the solver was given", lambda case: case.solver is None)
IS_FREE = Trait("the weight was given", lambda case: case.is_free)
ITERATES = Trait("there are no iterations", lambda case: case.settings.get("max_iterations") != 0)
IS_OPEN = Trait("an earlier step has settled it", lambda case: not case.is_settled)
YIELDS = Trait(
    "weights of the priors or parameters belong to the answer, or a sampler drew it", _yields
)
#: What every step needs that proposes another answer.
MAY_CHANGE = (IS_OPEN, HAS_PRIOR, IS_FREE, YIELDS)


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a step proposes for one item.

    Attributes:
        case: the changed case of all items of the batch, or of those alone that share it; None if the
            item stays as it is.
        sentence: sentence for the user, see `Decision`.
        before: error of the answer before the step.
        after: error of the answer that the step compared with it.
        records: further records, such as findings, about the item.
        is_kept: whether the answer stays, and the case only holds what the comparison computed.
    """

    case: Case | None = None
    sentence: str = ""
    before: float | None = None
    after: float | None = None
    records: tuple[Decision, ...] = ()
    is_kept: bool = False


#: An item stays as it is, and there is nothing to say.
STAY = Proposal()


class Step(ABC):
    """One thing that is decided automatically.

    Attributes:
        name: the word that turns it off.
        question: what it asks.
        evidence: name of the measure by which answers are compared; empty if there is no other answer.
        price: work in addition to one solve.
        needs: properties of the cases that it applies to.
        is_asked_for: whether it is left out unless the user names it.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    evidence: ClassVar[str] = ""
    price: ClassVar[str]
    needs: ClassVar[tuple[Trait, ...]] = ()
    is_asked_for: ClassVar[bool] = False

    def misses(self, case: Case) -> str:
        """Return why the step does not apply to a case, an empty string if it does.

        Args:
            case: the case.
        """
        return next((trait.words for trait in self.needs if not trait.holds(case)), "")

    @abstractmethod
    def propose(self, case: Case) -> Sequence[Proposal]:
        """Return one proposal per item; items that share a changed case stay together.

        Args:
            case: a case that has all that the step needs.

        Raises:
            OutOfTime: the time limit leaves no time for the comparison.
        """

    def propose_each(self, case: Case, propose: Callable[[Case], Proposal]) -> list[Proposal]:
        """Return the proposals of a function for every item alone.

        Args:
            case: the case.
            propose: function of the case of one item.
        """
        items = torch.arange(case.batch, device=case.places.device)
        return [propose(case.select(item)) for item in items.split(1)]
