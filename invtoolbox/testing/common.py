"""The report of a check, and the properties that operators, priors and data terms share.

Every tested property has a figure and a limit. Shared properties are: a call changes nothing, and
the items of a batch are independent.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.settings import Settings, cast_dtype
from invtoolbox.operators.noise import normal_like


@dataclass(frozen=True)
class Finding:
    """Result of one tested property.

    Attributes:
        name: name of the property.
        ok: whether it holds.
        figure: measured value.
        limit: largest value allowed.
        sentence: description of the fault; empty if there is none.
    """

    name: str
    ok: bool
    figure: float
    limit: float
    sentence: str = ""

    def __str__(self) -> str:
        return (
            f"  {'ok  ' if self.ok else 'FAIL'} {self.name:<34} {self.figure:9.2e}  "
            f"(at most {self.limit:.0e})" + (f"\n       {self.sentence}" if not self.ok else "")
        )


@dataclass(frozen=True)
class Report:
    """Printable findings of a check.

    Attributes:
        subject: description of the tested object.
        findings: results of all properties.
    """

    subject: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    @property
    def faults(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.ok)

    def __getitem__(self, name: str) -> Finding:
        """Return the finding of that name; of several (such as one per precision) the worst."""
        findings = [f for f in self.findings if f.name.startswith(name)]
        if not findings:
            raise KeyError(
                f"{name!r} was not tested; tested: {', '.join(f.name for f in self.findings)}"
            )
        return min(findings, key=lambda f: f.ok)

    def __str__(self) -> str:
        verdict = "ok" if self.ok else f"{len(self.faults)} of {len(self.findings)} properties fail"
        return "\n".join([f"{self.subject}: {verdict}", *map(str, self.findings)])


class Checklist:
    """Collector of findings."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.findings: list[Finding] = []

    def at_most(self, name: str, figure: float | Tensor, limit: float, sentence: str) -> bool:
        """Record a figure that may be at most ``limit``; NaN always fails."""
        value = float(figure.detach().max()) if isinstance(figure, Tensor) else float(figure)
        ok = value <= limit
        self.findings.append(
            Finding(name, ok, value, limit, "" if ok else sentence.format(figure=value))
        )
        return ok

    def holds(self, name: str, condition: bool, sentence: str) -> bool:
        """Record a condition."""
        self.findings.append(
            Finding(
                name, condition, 0.0 if condition else math.inf, 0.0, "" if condition else sentence
            )
        )
        return condition

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Record an exception of the tested object as a fault, and go on after the block.

        The state of the process that the block has changed is put back.
        """
        before = _process_state()
        try:
            yield
        except Unusable:
            pass
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            if "non-singleton dimension" in text:
                text += "; one value per item broadcasts as value.view(-1, 1, 1, 1)"
            self.holds(
                f"{what} runs", False, f"{what} raises {type(error).__name__}: {text or 'no text'}"
            )
        finally:
            _restore_process(before)

    def finish(self, raise_error: bool) -> Report:
        """Return the report, or raise `AssertionError` with the first fault if ``raise_error``."""
        report = Report(self.subject, tuple(self.findings))
        if raise_error and not report.ok:
            more = len(report.faults) - 1
            also = (
                f" (and {more} more: {', '.join(f.name for f in report.faults[1:])})"
                if more
                else ""
            )
            raise AssertionError(f"{self.subject}: {report.faults[0].sentence}{also}")
        return report


class Unusable(Exception):
    """A fault that is recorded, and after which no further property can be tested."""


def _process_state() -> dict[str, Any]:
    """Return the settings of the process that a call could change, by name."""
    kind, keys, *rest = np.random.get_state()
    return {
        "the global generator of torch": torch.get_rng_state(),
        "the global generator of NumPy": (kind, tuple(np.asarray(keys).tolist()), *rest),
        "the global generator of Python": random.getstate(),
        "the grad mode": torch.is_grad_enabled(),
        "the default dtype": torch.get_default_dtype(),
    }


def _restore_process(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["the global generator of torch"])
    np.random.set_state(state["the global generator of NumPy"])
    random.setstate(state["the global generator of Python"])
    torch.set_grad_enabled(state["the grad mode"])
    torch.set_default_dtype(state["the default dtype"])


def _changed_in_process(before: dict[str, Any]) -> str | None:
    """Return the name of a setting of the process that has changed, or ``None``."""
    after = _process_state()
    return next(
        (
            name
            for name, value in before.items()
            if not (
                torch.equal(value, after[name])
                if isinstance(value, Tensor)
                else value == after[name]
            )
        ),
        None,
    )


def distance(a: Tensor, b: Tensor) -> float:
    """Return ``|a - b| / max(|a|, |b|)`` over all values, in float64.

    It is infinite if the shapes differ. Equal infinities count as equal.
    """
    if a.shape != b.shape:
        return math.inf
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    a, b = a.detach().to(wide), b.detach().to(wide)
    size = math.sqrt(max(float(a.abs().square().sum()), float(b.abs().square().sum())))
    same = a == b
    a, b = a.masked_fill(same, 0), b.masked_fill(same, 0)
    gap = math.sqrt(float((a - b).abs().square().sum()))
    return gap / size if 0 < size < math.inf else gap


#: Largest distance, per precision, of results that are equal except for the order of sums.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}


def precision(x: Tensor) -> torch.dtype:
    """Return the real dtype of a tensor."""
    return x.real.dtype if x.is_complex() else x.dtype


def parts(value: Any) -> tuple[Tensor, ...]:
    """Return the parts of a tuple or list, or a single value as a tuple."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def map_parts(function: Callable[..., Tensor], *values: Any) -> Any:
    """Apply a function to the parts of values; the result has the structure of the first value."""
    mapped = tuple(map(function, *map(parts, values)))
    return mapped if isinstance(values[0], (tuple, list)) else mapped[0]


def rerun_gap(a: Any, b: Any) -> float:
    """Return 0 if two results are bitwise equal, and their `gap`, at least 1e-30, if not."""
    equal = all(torch.equal(p, q) for p, q in zip(parts(a), parts(b)))
    return 0.0 if equal else max(gap(a, b), 1e-30)


def gap(a: Any, b: Any) -> float:
    """Return the largest `distance` of the parts of two results."""
    return max(distance(p, q) for p, q in zip(parts(a), parts(b)))


def item(value: Any, k: int) -> Any:
    """Return item ``k`` of every part, with its batch axis."""
    return map_parts(lambda p: p[k : k + 1], value)


def randn_like(value: Any, seed: int) -> Any:
    """Draw standard normal values in the shape, dtype and on the device of every part.

    They are drawn on the CPU in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    return map_parts(lambda part: normal_like(part, generator), value)


def in_precision(value: Any, dtype: torch.dtype) -> Any:
    """Return a copy of every part in another precision; complex stays complex."""
    return map_parts(lambda p: p.to(cast_dtype(p.dtype, dtype)), value)


def tensors_of(subject: Any, path: str = "") -> dict[str, Tensor]:
    """Return copies of all tensors of an object, by name, to detect later changes."""
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
        # Attributes with an underscore are caches, like the spectrum of a kernel, and may change.
        named = [(k, v) for k, v in vars(subject).items() if not k.startswith("_")]
    else:
        return {}
    tensors = {}
    for name, value in named:
        tensors.update(tensors_of(value, f"{path}.{name}" if path else str(name)))
    return tensors


def same_tensors(before: dict[str, Tensor], after: dict[str, Tensor]) -> str | None:
    """Return the name of a tensor that has changed, appeared or vanished, or ``None``."""
    for name, value in before.items():
        if name not in after or not torch.equal(value.nan_to_num(), after[name].nan_to_num()):
            return name
    return next((name for name in after if name not in before), None)


def check_purity(
    check: Checklist,
    subject: Settings,
    what: str,
    call: Callable[..., Any],
    arguments: Sequence[Any],
    others: Sequence[Any],
) -> Any:
    """Call twice, and once with ``others`` in between: no result may differ.

    Returns:
        The result of the call.
    """
    held, process = tensors_of(subject), _process_state()
    copies = [tuple(p.clone() for p in parts(a)) for a in arguments]
    first = call(*arguments)
    disturbed = _changed_in_process(process)
    check.holds(
        f"{what} leaves the process alone",
        disturbed is None,
        f"{what} changes {disturbed}, which belongs to the caller; draw from a generator of your "
        "own, and change a mode within a context only",
    )
    _restore_process(process)
    wrong = next((p for p in parts(first) if not isinstance(p, Tensor)), None)
    if not check.holds(
        f"{what} gives tensors",
        wrong is None,
        f"{what} gives a {type(wrong).__module__}.{type(wrong).__qualname__}; write it in torch",
    ):
        raise Unusable
    is_defined = not any(bool(p.isnan().any()) for p in parts(first))
    if not check.holds(
        f"{what} gives numbers",
        is_defined or any(bool(p.isnan().any()) for p in chain(*map(parts, arguments))),
        f"{what} gives NaN for finite images; a root has no derivative at 0, and a logarithm no "
        "value below 0: write (d.square() + 1e-12).sqrt(), or clamp the argument",
    ):
        raise Unusable
    copies_of_result = tuple(p.detach().clone() for p in parts(first))
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
        torch.equal(p.nan_to_num(), q.nan_to_num()) for p, q in zip(parts(first), copies_of_result)
    )
    check.holds(
        f"{what} returns its own memory",
        result_kept,
        f"{what} returns memory that a later call writes into; copy it",
    )
    first = copies_of_result if isinstance(first, (tuple, list)) else copies_of_result[0]
    second = call(*arguments)
    on_gpu = parts(first)[0].is_cuda  # sums by atomics have no fixed order there
    check.at_most(
        f"{what} twice",
        rerun_gap(first, second),
        1e-6 if on_gpu else 0.0,
        f"{what} called twice on the same input gives results that differ by {{figure:.1e}} "
        "relative; it must not depend on earlier calls or on unseeded draws",
    )
    changed = same_tensors(held, tensors_of(subject))
    check.holds(
        f"{what} changes nothing", changed is None, f"{what} writes into {subject!r}.{changed}"
    )
    return second


def check_kind(check: Checklist, what: str, result: Any, like: Tensor) -> None:
    """Check that the precision and the device of the input are kept."""
    for tensor in parts(result):
        check.holds(
            f"{what} keeps the precision",
            precision(tensor) == precision(like),
            f"{what} of {like.dtype} gives {tensor.dtype}; keep the precision of the input",
        )
        check.holds(
            f"{what} keeps the device",
            tensor.device == like.device,
            f"{what} of a tensor on {like.device} gives one on {tensor.device}; "
            "keep the device of the input",
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
    """Check that every item gives the same result alone and in a batch."""
    worst = max(gap(item(whole, k), alone(k)) for k in range(batch))
    check.at_most(
        f"{what} item by item ({_short(dtype)})",
        worst,
        tolerance or ROUNDING[dtype],
        f"{what} gives an item another result alone than in a batch of {batch}, by "
        "{figure:.1e} relative; reduce over every axis but the first, x.flatten(1).sum(1)",
    )


def derivative(
    call: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, step: float
) -> Tensor:
    """Return ``d/dt call(x + t direction)`` at 0 by central differences of fourth order."""

    def at(t: float) -> Tensor:
        return call(x + t * step * direction)

    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
