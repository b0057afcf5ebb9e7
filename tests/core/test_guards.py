"""Guards of settings: what they accept, and the sentence of what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError


@dataclass
class Descent:
    """Settings of a made-up solver."""

    rate: Any = 0.5
    steps: Any = 3


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", (0, 1, 0.5), (-1e-9, 1.1, math.nan)),
        ("(0, 1)", (0.5,), (0, 1, math.nan)),
        ("(0, inf)", (1e-300, 1e300), (0, math.inf, -1, math.nan)),
        ("[0, inf]", (0, math.inf), (-1, math.nan)),
        ("[2, inf)", (2, 7), (1, math.inf, "2", [3])),
    ],
)
def test_an_interval_means_what_mathematics_means(
    interval: str, inside: tuple[Any, ...], outside: tuple[Any, ...]
) -> None:
    for value in (*inside, None):
        check_range(Descent(rate=value), interval, "rate")
    for value in outside:
        with pytest.raises(InputError, match="rate of Descent must"):
            check_range(Descent(rate=value), interval, "rate")


@pytest.mark.parametrize(
    ("interval", "sentence"),
    [
        ("[0, 1)", r"must lie in \[0, 1\), got -1"),
        ("(0, inf)", "must be positive, got -1"),
        ("[0, inf)", "must not be negative, got -1"),
        ("[2, inf)", "must be at least 2, got -1"),
        ("(2, inf)", "must be above 2, got -1"),
    ],
)
def test_the_sentence_says_what_is_allowed(interval: str, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^steps of Descent {sentence}$"):
        check_range(
            Descent(steps=-1), interval, "rate" if interval == "[0, inf)" else "steps", "steps"
        )


def test_infinity_at_an_open_end_is_refused_for_being_infinite() -> None:
    for value in (math.inf, torch.tensor([1.0, math.inf])):
        with pytest.raises(InputError, match="rate of f must be positive and finite, got"):
            check_range("f", "(0, inf)", rate=value)
    with pytest.raises(InputError, match="rate of f must be positive, got -inf"):
        check_range("f", "(0, inf)", rate=-math.inf)
    with pytest.raises(InputError, match=r"rate of f must lie in \[0, 1\], got inf"):
        check_range("f", "[0, 1]", rate=math.inf)


def test_every_entry_of_a_tensor_counts() -> None:
    check_range("f", "[0, 1]", weights=torch.tensor([0.0, 1.0]))
    with pytest.raises(InputError, match="weights of f must lie in .* got values from -1 to 2"):
        check_range("f", "[0, 1]", weights=torch.tensor([-1.0, 2.0]))
    with pytest.raises(InputError, match="got nan"):
        check_range("f", "[0, 1]", weights=torch.tensor([math.nan]))


def test_a_choice_is_one_of_the_words_and_none_only_if_it_is_named() -> None:
    check_choice(Descent(rate="fast"), ("fast", "slow"), "rate")
    check_choice(Descent(rate=None), (None, "slow"), "rate")
    with pytest.raises(InputError, match="^rate of Descent must be 'fast' or 'slow', got None$"):
        check_choice(Descent(rate=None), ("fast", "slow"), "rate")
    with pytest.raises(InputError, match="steps of Descent must be 1, 2 or 3, got 4"):
        check_choice(Descent(steps=4), (1, 2, 3), "steps")


@pytest.mark.parametrize(
    "make",
    [
        lambda: it.operators.Downsampling(2, (1, 16, 16)),  # type: ignore[arg-type]
        lambda: it.operators.Blur((16, 16), torch.ones(3, 3)),  # type: ignore[arg-type]
        lambda: it.operators.Inpainting((16, 16), torch.ones(16, 16)),  # type: ignore[arg-type]
        lambda: it.operators.Identity((1, 16.5, 16)),  # type: ignore[arg-type]
    ],
)
def test_a_shape_in_another_place_is_one_sentence(make: Callable[[], Any]) -> None:
    with pytest.raises(
        InputError, match="must be whole numbers.* check the order of the arguments"
    ):
        make()
