"""A mistake with its right twin, what is found in it, and pictures to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from zoo.items import draws, tensor
from zoo.pictures import KINDS, picture

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.measurements import check_measurements
from invtoolbox.operators import Operator


@dataclass(frozen=True)
class Case:
    """Input that a user gives.

    Attributes:
        y: measurements.
        A: the operator; a function if its creation may be refused.
        prior: prior of the solve.
        noise_std: stated noise level.
        term: data term; least squares if it is None.
    """

    y: Tensor
    A: Operator | Callable[[], Operator]
    prior: Any = None
    noise_std: float | None = None
    term: Any = None


@dataclass(frozen=True)
class Record:
    """A mistake and its right twin.

    Attributes:
        name: the mistake in words.
        causes: names of the findings that name it; words of the sentence if it is refused.
        make: function of a seed that returns the mistaken case and the right one.
    """

    name: str
    causes: tuple[str, ...]
    make: Callable[[int], tuple[Case, Case]]


def findings(case: Case) -> tuple[set[str], list[str]]:
    """Return the names of the findings, or the sentence of a refusal, and all sentences."""
    try:
        A = case.A if isinstance(case.A, Operator) else case.A()
        term = case.term or it.data_terms.LeastSquares(noise_std=case.noise_std)
        problem = it.Problem(case.y, A, term)
        found = [f for f in check_measurements(problem, case.prior) if not f.is_remark]
    except InputError as error:
        return {f"refused: {error}"}, [str(error)]
    return {f.name for f in found}, [f.sentence for f in found]


def is_named(names: set[str], causes: tuple[str, ...]) -> bool:
    refusals = [name for name in names if name.startswith("refused")]
    return any(c in names or any(c in refusal for refusal in refusals) for c in causes)


def scene(name: str, seed: int, shape: tuple[int, int] = (96, 96)) -> tuple[Any, Tensor]:
    """Return random numbers and a picture ``(1, 1, *shape)`` in [0, 1]."""
    draw = draws(name, seed)
    half = 0 if seed < 100 else 1
    return draw, tensor(picture(draw, KINDS[seed % len(KINDS)], shape, half))[None]


def noisy(draw: Any, clean: Tensor, level: float) -> Tensor:
    return clean + level * tensor(draw.standard_normal(tuple(clean.shape)))
