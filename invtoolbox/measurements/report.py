"""Report of the measurements of a problem: shapes, range, noise, zeros, axis and findings."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import torch

from invtoolbox.measurements.findings import Finding, Subject, find
from invtoolbox.problem import Problem


@dataclass(frozen=True)
class DataReport:
    """Facts about the measurements of a problem, and what looks wrong about them.

    Its text, ``print(report)``, is one line per fact.

    Attributes:
        operator: operator, as text.
        shape: shape of the measurements, ``(batch, channel, *space)``.
        dtype: type of the numbers, as text.
        image_shape: shape ``(channel, *space)`` of the images.
        minimum: least value, or least modulus of complex values, of the counted measurements.
        maximum: largest value or modulus of the counted measurements.
        mean: mean value or modulus of the counted measurements.
        counted: share of the measurements that have a weight.
        zeros: share of the counted measurements that are exactly zero.
        noise_std: noise level of the data term, one number per item; empty if it has none.
        estimated_noise_std: noise level estimated from the measurements, one number per item; empty
            if it cannot be estimated.
        axis: detector cell that sees the axis of rotation; None if the views do not show it.
        stated_axis: the same cell according to the geometry; None if there is no such cell.
        findings: what looks wrong.
    """

    operator: str
    shape: tuple[int, ...]
    dtype: str
    image_shape: tuple[int, ...]
    minimum: float
    maximum: float
    mean: float
    counted: float
    zeros: float
    noise_std: tuple[float, ...]
    estimated_noise_std: tuple[float, ...]
    axis: float | None
    stated_axis: float | None
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        lines = [
            f"operator      {self.operator}",
            f"measurements  {self.shape}, {self.dtype}",
            f"images        {(self.shape[0], *self.image_shape)}",
            f"range         {self.minimum:.4g} to {self.maximum:.4g}, mean {self.mean:.4g}, in the "
            "units of the file",
            f"counted       {self.counted:.1%} of the measurements; {self.zeros:.1%} of these are "
            "exactly zero",
            f"noise         {_numbers(self.noise_std) or 'not stated'}; "
            f"{_numbers(self.estimated_noise_std) or 'not'} estimated from the measurements",
        ]
        if self.stated_axis is not None:
            measured = "the views do not show it" if self.axis is None else f"{self.axis:.2f} found"
            lines.append(f"axis          cell {self.stated_axis:.2f} by the geometry; {measured}")
        lines += [
            textwrap.fill(
                f"{'looks wrong' if k == 0 else '':<14}{finding.sentence}",
                100,
                subsequent_indent=" " * 14,
            )
            for k, finding in enumerate(self.findings)
        ] or ["looks wrong   nothing"]
        return "\n".join(lines)

    __repr__ = __str__


def data_report(problem: Problem) -> DataReport:
    """Describe the measurements of a problem and check them, without solving.

    Measurements that are a tuple are described one by one with ``data_report(problem.part(k))``.

    Args:
        problem: measurements, operator and data term.

    >>> import invtoolbox as it
    >>> A = it.operators.Blur(torch.ones(3, 3) / 9, (64, 64))
    >>> y = A.simulate(it.datasets.photograph("camera")[..., ::8, ::8], noise=0.01, seed=0)
    >>> data_report(it.Problem(y, A, it.data_terms.LeastSquares(noise_std=2.55)))
    operator      Blur(3x3, (1, 64, 64), boundary='reflect')
    measurements  (1, 1, 64, 64), float32
    images        (1, 1, 64, 64)
    range         ... in the units of the file
    counted       100.0% of the measurements; 0.0% of these are exactly zero
    noise         2.55; ... estimated from the measurements
    looks wrong   noise_std = 2.55 is ... times the noise estimated from the measurements, ...; it
                  seems to be in units of 1 / 255; 0.01 would fit
    """
    subject, y = Subject(problem), problem.y0.detach()
    weights = getattr(problem.data_term, "weights", None)
    used = torch.ones_like(y, dtype=torch.bool)
    if isinstance(weights, torch.Tensor):
        used = (weights.to(y.device) > 0).expand_as(y)
    values = (y.abs() if y.is_complex() else y)[used].double()
    stated = getattr(problem.data_term, "noise_std", None)
    with torch.no_grad():
        findings = find(subject)
        estimated = None if isinstance(problem.y, tuple) else subject.noise_std
        axis, plane = subject.axis, subject.plane
    return DataReport(
        operator=repr(problem.operator),
        shape=tuple(y.shape),
        dtype=str(y.dtype).removeprefix("torch."),
        image_shape=problem.image_shape,
        minimum=float(values.min()) if values.numel() else float("nan"),
        maximum=float(values.max()) if values.numel() else float("nan"),
        mean=float(values.mean()),
        counted=float(used.double().mean()),
        zeros=float((values == 0).double().mean()),
        noise_std=() if stated is None else tuple(map(float, stated.flatten())),
        estimated_noise_std=() if estimated is None else tuple(map(float, estimated)),
        axis=None if axis is None else axis.cell,
        stated_axis=None if plane is None else plane.axis,
        findings=findings,
    )


def _numbers(values: tuple[float, ...]) -> str:
    numbers = ", ".join(f"{v:.4g}" for v in values[:4])
    return f"{numbers}, ..." if len(values) > 4 else numbers
