"""What a check found: every property with its figure and its limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Finding:
    """One property that was tested.

    Attributes:
        name: the property.
        ok: whether it holds.
        figure, limit: what was measured, and what it may be at most.
        sentence: what is wrong, in words; empty where nothing is.
    """

    name: str
    ok: bool
    figure: float
    limit: float
    sentence: str = ""

    def __str__(self) -> str:
        return (
            f"  {'ok  ' if self.ok else 'FAIL'} {self.name:<34} {self.figure:9.2e}  (at most {self.limit:.0e})"
            + (f"\n       {self.sentence}" if not self.ok else "")
        )


@dataclass(frozen=True)
class Report:
    """The findings of a check; printable."""

    subject: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    @property
    def faults(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.ok)

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name; of several (one a precision, say) the worst."""
        found = [f for f in self.findings if f.name.startswith(name)]
        if not found:
            raise KeyError(
                f"{name!r} was not tested; tested: {', '.join(f.name for f in self.findings)}"
            )
        return min(found, key=lambda f: f.ok)

    def __str__(self) -> str:
        verdict = "ok" if self.ok else f"{len(self.faults)} of {len(self.findings)} properties fail"
        return "\n".join([f"{self.subject}: {verdict}", *map(str, self.findings)])


class Checklist:
    """Collects findings."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.findings: list[Finding] = []

    def at_most(self, name: str, figure: float | Tensor, limit: float, sentence: str) -> bool:
        """Write down a figure that may be at most ``limit``; NaN is more than anything."""
        value = float(figure.max()) if isinstance(figure, Tensor) else float(figure)
        ok = value <= limit
        self.findings.append(
            Finding(name, ok, value, limit, "" if ok else sentence.format(figure=value))
        )
        return ok

    def holds(self, name: str, condition: bool, sentence: str) -> bool:
        """Write down something that is true or not."""
        self.findings.append(
            Finding(
                name, condition, 0.0 if condition else math.inf, 0.0, "" if condition else sentence
            )
        )
        return condition

    def finish(self, raise_error: bool) -> Report:
        """The report; an `AssertionError` with the first fault where something failed and ``raise_error``."""
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


def distance(a: Tensor, b: Tensor) -> float:
    """``|a - b| / max(|a|, |b|)`` over everything, in float64; infinite where shapes differ, and equal infinities are equal."""
    if a.shape != b.shape:
        return math.inf
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    a, b = a.detach().to(wide), b.detach().to(wide)
    size = math.sqrt(max(float(a.abs().square().sum()), float(b.abs().square().sum())))
    same = a == b
    a, b = a.masked_fill(same, 0), b.masked_fill(same, 0)
    gap = math.sqrt(float((a - b).abs().square().sum()))
    return gap / size if 0 < size < math.inf else gap
