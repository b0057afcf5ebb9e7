"""Properties that operators, priors and data terms share: a call changes nothing, and items do not see each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.settings import Settings, cast_dtype
from invtoolbox.testing.report import Checklist, distance

#: How far results may differ that are equal but for the order of sums, by precision.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}


def precision(x: Tensor) -> torch.dtype:
    """The real dtype of a tensor."""
    return x.real.dtype if x.is_complex() else x.dtype


def parts(value: Any) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def gap(a: Any, b: Any) -> float:
    """The largest `distance` of the parts of two results."""
    return max(distance(p, q) for p, q in zip(parts(a), parts(b)))


def item(value: Any, k: int) -> Any:
    """Item ``k`` of every part, batch axis kept."""
    return (
        tuple(p[k : k + 1] for p in value) if isinstance(value, (tuple, list)) else value[k : k + 1]
    )


def randn_like(value: Any, seed: int) -> Any:
    """Standard normal, in the shape, dtype and on the device of every part; drawn on the CPU in float64."""
    generator = torch.Generator().manual_seed(seed)

    def one(like: Tensor) -> Tensor:
        shape = (*like.shape, 2) if like.is_complex() else tuple(like.shape)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (torch.view_as_complex(drawn) if like.is_complex() else drawn).to(like)

    return tuple(map(one, value)) if isinstance(value, (tuple, list)) else one(value)


def in_precision(value: Any, dtype: torch.dtype) -> Any:
    """A copy of every part in another precision; complex stays complex."""
    moved = tuple(p.to(cast_dtype(p.dtype, dtype)) for p in parts(value))
    return moved if isinstance(value, (tuple, list)) else moved[0]


def tensors_of(subject: Any, path: str = "") -> dict[str, Tensor]:
    """Copies of the tensors that something holds, by name, to see later whether they were written to."""
    if isinstance(subject, Tensor):
        return {path: subject.detach().clone()}
    if isinstance(subject, torch.nn.Module):
        return {f"{path}.{name}": t.detach().clone() for name, t in subject.state_dict().items()}
    if isinstance(subject, dict):
        named = list(subject.items())
    elif isinstance(subject, (tuple, list)):
        named = list(enumerate(subject))
    elif isinstance(subject, Settings) or (
        dataclasses.is_dataclass(subject) and not isinstance(subject, type)
    ):
        # What begins with an underscore is kept for speed, like the spectrum of a kernel; it may come and go.
        named = [(k, v) for k, v in vars(subject).items() if not k.startswith("_")]
    else:
        return {}
    found = {}
    for name, value in named:
        found.update(tensors_of(value, f"{path}.{name}" if path else str(name)))
    return found


def same_tensors(before: dict[str, Tensor], after: dict[str, Tensor]) -> str | None:
    """The name of a tensor that is not what it was."""
    for name, value in before.items():
        if name not in after or not torch.equal(value.nan_to_num(), after[name].nan_to_num()):
            return name
    return None


def check_purity(
    check: Checklist,
    subject: Settings,
    what: str,
    call: Callable[..., Any],
    arguments: Sequence[Any],
    others: Sequence[Any],
) -> Any:
    """Call twice, and once with ``others`` in between: nothing may be different. Returns the result."""
    held = tensors_of(subject)
    copies = [tuple(p.clone() for p in parts(a)) for a in arguments]
    first = call(*arguments)
    kept = tuple(p.detach().clone() for p in parts(first))
    for k, (argument, copy) in enumerate(zip(arguments, copies)):
        untouched = all(
            torch.equal(p.nan_to_num(), q.nan_to_num()) for p, q in zip(parts(argument), copy)
        )
        check.holds(
            f"{what} leaves argument {k + 1} alone",
            untouched,
            f"{what} writes into its argument {k + 1}; work on a copy",
        )
        for p, q in zip(parts(argument), copy):
            p.copy_(q)
    call(*others)
    result_kept = all(
        torch.equal(p.nan_to_num(), q.nan_to_num()) for p, q in zip(parts(first), kept)
    )
    check.holds(
        f"{what} returns its own memory",
        result_kept,
        f"{what} returns memory that a later call writes into; copy it",
    )
    first = kept if isinstance(first, (tuple, list)) else kept[0]
    second = call(*arguments)
    equal = all(torch.equal(p, q) for p, q in zip(parts(first), parts(second)))
    on_gpu = parts(first)[0].is_cuda  # sums by atomics have no fixed order there
    check.at_most(
        f"{what} twice",
        0.0 if equal else max(gap(first, second), 1e-30),
        1e-6 if on_gpu else 0.0,
        f"{what} called twice on the same input gives results that differ by {{figure:.1e}} relative; it must "
        "not depend on earlier calls or on unseeded draws",
    )
    changed = same_tensors(held, tensors_of(subject))
    check.holds(
        f"{what} changes nothing", changed is None, f"{what} writes into {subject!r}.{changed}"
    )
    return second


def check_kind(check: Checklist, what: str, result: Any, like: Tensor) -> None:
    """The precision and the device of the input are kept."""
    for part in parts(result):
        check.holds(
            f"{what} keeps the precision",
            precision(part) == precision(like),
            f"{what} of {like.dtype} gives {part.dtype}; keep the precision of what is given",
        )
        check.holds(
            f"{what} keeps the device",
            part.device == like.device,
            f"{what} of a tensor on {like.device} gives one on {part.device}; keep the device of what is given",
        )


def check_items(
    check: Checklist,
    what: str,
    whole: Any,
    alone: Callable[[int], Any],
    batch: int,
    dtype: torch.dtype,
    tolerance: float | None = None,
) -> None:
    """Every item alone gives what it gives in company."""
    worst = max(gap(item(whole, k), alone(k)) for k in range(batch))
    check.at_most(
        f"{what} item by item ({_short(dtype)})",
        worst,
        tolerance or ROUNDING[dtype],
        f"{what} gives an item another result alone than in a batch of {batch}, by {{figure:.1e}} relative; "
        "reduce over every axis but the first, x.flatten(1).sum(1)",
    )


def derivative(
    call: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, step: float
) -> Tensor:
    """``d/dt call(x + t direction)`` at 0 by central differences of fourth order."""

    def at(t: float) -> Tensor:
        return call(x + t * step * direction)

    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
