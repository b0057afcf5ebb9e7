"""A walk over the weights within one run of a solver, from each weight to the next."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from invtoolbox.core.decision import Decision
from invtoolbox.core.interrupts import OutOfTime
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import RuleState, WeightCurve, WeightRule
from invtoolbox.parameter_choice.trials import Trials
from invtoolbox.problem import Problem

_LEAST_WAIT = 4  # iterations after a new weight: a certificate may lag behind it
#: Number of iterations after which a weight is judged although the certificate is large, and number
#: that a walk may take.
PATIENCE, LONGEST = 125, 1280
#: Factor of the tolerance at which a weight is judged, and distance of two weights, in decades.
LOOSEN, DECADES = 10.0, 0.25

#: ``(objective of n items, x of the operator (n, ...)) -> columns (n, k)``; the first one is the score.
Measure = Callable[[Objective, Tensor], Tensor]


class Curve(NamedTuple):
    """The judged weights of one item, in increasing order, and the columns that were measured."""

    log_weight: Tensor  # (tried,)
    columns: Tensor  # (tried, k)

    @property
    def score(self) -> Tensor:
        return self.columns[:, 0]


@dataclass
class WalkState(RuleState):
    """The position of each item on its walk, and the best one so far.

    Positions count steps from the first weight.
    """

    item: Tensor  # (batch,) place in the batch of the search
    first: Tensor  # (batch,) log of the first weight
    place: Tensor  # (batch,) position of the present weight
    low: Tensor  # (batch,) smallest position that was judged
    high: Tensor  # (batch,) largest position that was judged
    best: Tensor  # (batch,) smallest score
    best_place: Tensor  # (batch,) and its position
    score: Tensor  # (batch,) of the present weight; NaN as long as it is not judged
    waited: Tensor  # (batch,) iterations since the weight changed
    done: Tensor  # (batch,)


@dataclass(frozen=True)
class Walk(WeightRule):
    """Rule that tries weights in turn until the best score has worse ones on both sides.

    It goes down first, and up from the first weight if the score is best there. The solver goes on
    from its present state after every change of the weight, and a weight is judged at a loose
    tolerance. So a whole walk takes little longer than an accurate solve.

    Args:
        first: logarithm of the first weight, ``(batch,)``.
        items: places of the items, ``(batch,)``.
        measure: computes the score of the images, and other numbers to keep.
        tolerance: certificate at which a weight is judged.
        patience: iterations after which a weight is judged in any case.
        spacing: distance of two weights in logarithm.
        most: largest number of weights.
        beyond: number of weights on either side of the best one that must be worse.
        from_above: the first weight only leads to the next ones unless it meets the tolerance, since
            its image is still close to the initial guess.
        judged: the judged weights: places in the batch, logarithms and measured columns.
    """

    first: Tensor
    items: Tensor
    measure: Measure
    tolerance: float
    patience: int
    spacing: float = 0.4 * math.log(10.0)
    most: int = 24
    beyond: int = 1
    from_above: bool = False
    judged: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list, compare=False)

    def init(self, objective: Objective, x: Tensor) -> WalkState:
        zero = torch.zeros_like(self.first)
        return WalkState(
            weight=self._weight(self.first, zero),
            item=self.items.clone(),
            first=self.first.clone(),
            place=zero,
            low=torch.full_like(zero, torch.inf),
            high=torch.full_like(zero, -torch.inf),
            best=torch.full_like(zero, torch.inf),
            best_place=zero.clone(),
            score=torch.full_like(zero, torch.nan),
            waited=zero.clone(),
            done=torch.zeros_like(zero, dtype=torch.bool),
        )

    def observe(
        self, state: WalkState, objective: Objective, x: Tensor, certificate: Tensor
    ) -> WalkState:
        waited = state.waited + 1
        settled = (certificate <= self.tolerance) & (waited >= _LEAST_WAIT)
        ready = self.join(state.item, settled | (waited >= self.patience)) & ~state.done
        score = torch.full_like(state.score, torch.nan)
        if bool(ready.any()):
            index = ready.nonzero().squeeze(1)
            # With auxiliary variables the operator predicts from all channels of the variable.
            image = x if objective.layout is None else objective.decode(x)
            columns = self.measure(objective.select(index), image.index_select(0, index))
            t = state.first[index] + self.spacing * state.place[index]
            self.judged.append((state.item[index], t, columns))
            # A score that is not finite is no minimum.
            first_column = columns[:, 0].to(score)
            usable = first_column.isfinite()
            if self.from_above:
                usable &= settled[index] | state.low[index].isfinite()
            score[index] = torch.where(usable, first_column, torch.inf)
        return dataclasses.replace(state, waited=waited, score=score)

    def join(self, item: Tensor, ready: Tensor) -> Tensor:
        """Return which items are judged now, given which ones have settled, ``(batch,)`` booleans.

        Args:
            item: places of the items in the batch of the search, ``(batch,)``.
            ready: which of them have settled.
        """
        return ready

    def update(
        self, state: WalkState, discrepancy: Tensor, certificate: Tensor, iteration: int
    ) -> WalkState:
        judged = ~state.score.isnan()
        # Equal scores are those of an image that has vanished: the walk goes on.
        better = judged & (state.score <= state.best) & state.score.isfinite()
        best_place = torch.where(better, state.place, state.best_place)
        low = torch.where(judged, state.low.minimum(state.place), state.low)
        high = torch.where(judged, state.high.maximum(state.place), state.high)
        down, up = low > best_place - self.beyond, high < best_place + self.beyond
        done = state.done | (judged & (~down & ~up | (high - low >= self.most - 1)))
        moves = judged & ~done
        place = torch.where(moves, torch.where(down, low - 1, high + 1), state.place)
        return dataclasses.replace(
            state,
            weight=torch.where(moves, self._weight(state.first, place), state.weight),
            place=place,
            low=low,
            high=high,
            best=torch.where(better, state.score, state.best),
            best_place=best_place,
            score=torch.full_like(state.score, torch.nan),
            waited=torch.where(judged, torch.zeros_like(state.waited), state.waited),
            done=done,
        )

    def _weight(self, first: Tensor, place: Tensor) -> Tensor:
        # In float64: the last bit of an exponential depends on the number of items.
        return (first + self.spacing * place).double().exp().to(first)

    def satisfied(self, state: WalkState, discrepancy: Tensor) -> Tensor:
        return state.done

    def target(self, objective: Objective) -> Tensor:
        return objective.nan()

    def describe(self, objective: Objective) -> str:
        return "a walk over the weights"


def walk_over(
    trials: Trials,
    first: Tensor,
    measure: Measure,
    problem: Problem | None = None,
    places: Tensor | None = None,
    beyond: int = 1,
    from_above: bool = False,
    longest: int = LONGEST,
) -> list[Curve]:
    """Return the judged weights of every item, in increasing order.

    Args:
        trials: problem, priors and solver.
        first: logarithms of the first weights, ``(batch,)``.
        measure: computes the score of the images, and other numbers to keep.
        problem: another problem with the same unknowns, whose solutions are measured.
        places: places of the items that are solved; all by default.
        beyond: setting of the `Walk`.
        from_above: setting of the `Walk`.
        longest: number of iterations of a walk.
    """
    judged: list[tuple[Tensor, Tensor, Tensor]] = []
    for items in trials.split(places):
        walk = Walk(
            first[items],
            items,
            measure,
            trials.coarse(LOOSEN * trials.tolerance),
            min(trials.max_iterations, PATIENCE),
            DECADES * math.log(10.0),
            beyond=beyond,
            from_above=from_above,
            judged=judged,
        )
        with suppress(OutOfTime):
            trials.follow(walk, items, problem, longest)
    return curves_of(judged, first)


def weight_curve(
    name: str, curves: Sequence[Curve], chosen: Tensor, remarks: tuple[Decision, ...] = ()
) -> WeightCurve:
    """Return the curves of a search side by side, with the weights of given logarithms.

    Args:
        name: name of the rule.
        curves: the curve of every item.
        chosen: logarithms of the chosen weights, ``(batch,)``.
        remarks: records about the residuals of the solutions.
    """
    pad = torch.nn.utils.rnn.pad_sequence
    return WeightCurve(
        name,
        pad([c.log_weight.exp() for c in curves], batch_first=True, padding_value=math.nan),
        pad([c.score for c in curves], batch_first=True, padding_value=math.nan).to(chosen),
        chosen.double().exp().to(chosen),
        remarks,
    )


def curves_of(judged: Sequence[tuple[Tensor, Tensor, Tensor]], first: Tensor) -> list[Curve]:
    """Return the curve of every item.

    Args:
        judged: the judged weights of a `Walk`.
        first: logarithms of the first weights of all items, ``(batch,)``.
    """
    curves = []
    for k in range(len(first)):
        rows = [(t[item == k], columns[item == k]) for item, t, columns in judged]
        t = torch.cat([t for t, _ in rows]) if rows else first[:0]
        columns = torch.cat([c for _, c in rows]) if rows else first.new_zeros(0, 3)
        order = t.argsort()
        curves.append(Curve(t[order], columns[order]))
    return curves


def minimum(curve: Curve, otherwise: Tensor) -> Tensor:
    """Return the minimum of the parabola through the least of equidistant points and its neighbours."""
    t, score = curve.log_weight, curve.score
    if not len(t):
        return otherwise
    best = int(score.nan_to_num(math.inf).argmin())
    if not 0 < best < len(t) - 1:
        return t[best]
    a, b, c = (float(v) for v in score[best - 1 : best + 2])
    bend = a - 2 * b + c
    if not (math.isfinite(bend) and bend > 0):
        return t[best]
    return t[best] + 0.5 * (a - c) / bend * (t[best + 1] - t[best])
