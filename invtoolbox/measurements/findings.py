"""Findings about measurements, the registry of the checks, and the check before every solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from invtoolbox.core.decision import Decision
from invtoolbox.data_terms.base import ResidualTerm
from invtoolbox.data_terms.poisson import PoissonTransmission
from invtoolbox.errors import InputError, MeasurementWarning, warn_user
from invtoolbox.measurements.bad_pixels import find_bad_pixels
from invtoolbox.measurements.detector import fill, find_bad_readings, like, sinograms
from invtoolbox.measurements.sinogram import Axis, Sinogram
from invtoolbox.operators.algebra import Scaled
from invtoolbox.operators.base import Operator
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.blur_3d import Blur3D
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem


@dataclass(frozen=True)
class Finding:
    """One thing about measurements that looks wrong, or that limits what they determine.

    Attributes:
        name: what looks wrong, in one word.
        sentence: what is wrong, where, and what to do.
        item: number of the item that it is about; None for all items, or for the first of several.
        is_fatal: whether nothing sensible can come of a solve.
        is_conclusive: whether other checks mean nothing after this finding.
        is_remark: whether nothing is wrong, so that a note is enough, and a warning too much.
        repair: function that returns the mended problem, if the mistake can be mended without harm.
        fact: what is wrong and where, without what to do; empty if the check does not divide them.
    """

    name: str
    sentence: str
    item: int | None = None
    is_fatal: bool = False
    is_conclusive: bool = False
    is_remark: bool = False
    repair: Callable[[Problem], Problem] | None = field(default=None, repr=False, compare=False)
    fact: str = ""


class Subject:
    """Problem under examination, and what several checks need to know about it."""

    #: A full turn with fewer views does not show its axis; an axis is wrong if it is off by this
    #: number of cells, with this evidence.
    _VIEWS, _CELLS, _EVIDENCE = 16, 0.75, 4.0

    def __init__(self, problem: Problem, prior: Prior | None = None) -> None:
        self.problem, self.prior = problem, prior

    @property
    def operator(self) -> Operator:
        """The operator, without the factor of a multiple."""
        A = self.problem.operator
        return A.parts[0] if isinstance(A, Scaled) else A

    @cached_property
    def plane(self) -> Sinogram | None:
        """One plane of a scan, None for other problems."""
        # The predictions of this data term are line integrals, but its measurements are counts.
        if isinstance(self.problem.data_term, PoissonTransmission):
            return None
        plane = Sinogram.of(self.filled, self.operator)
        if plane is None or min(plane.values.shape) < 2 or not bool(plane.values.any()):
            return None
        return plane

    @cached_property
    def axis(self) -> Axis | None:
        """Cell of a scan that sees the axis of rotation, None if the views do not show it."""
        plane = self.plane
        if plane is None or (plane.is_full_turn and len(plane.angles) < self._VIEWS):
            return None
        return plane.find_axis()

    @property
    def is_shifted(self) -> bool:
        """Whether the axis is not where the geometry places it."""
        return (
            self.plane is not None
            and self.axis is not None
            and abs(self.axis.cell - self.plane.axis) > self._CELLS
            and self.axis.evidence > self._EVIDENCE
        )

    @property
    def cell(self) -> float:
        """Cell that sees the axis: the one that was found if the geometry is wrong."""
        assert self.plane is not None
        return self.axis.cell if self.is_shifted and self.axis is not None else self.plane.axis

    @cached_property
    def noise_std(self) -> Tensor | None:
        """Noise level of every item, estimated from the measurements; None if it cannot be."""
        return quick_noise_std(self.problem)

    @cached_property
    def bad_readings(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Dead cells, hot readings and clipped ones of a scan, like ``y``; None for other problems."""
        y, D = self.problem.y0, self.problem.data_term
        if not isinstance(D, ResidualTerm) or D.weights is not None:
            return None
        planes = sinograms(y, self.operator)
        if planes is None:
            return None
        dead, hot, clipped = (like(t, y) for t in find_bad_readings(planes))
        return dead, hot, clipped

    @cached_property
    def filled(self) -> Tensor:
        """The measurements of a scan, with their neighbours in place of those that do not count."""
        y = self.problem.y0
        if (bad := self.bad_readings) is not None:
            return fill(y, bad[0] | bad[1] | bad[2])
        weights = getattr(self.problem.data_term, "weights", None)
        if sinograms(y, self.operator) is None or not isinstance(weights, Tensor):
            return y
        return fill(y, torch.eq(weights, 0).to(y.device).expand_as(y))

    @cached_property
    def bad_pixels(self) -> Tensor | None:
        """Dead and hot pixels of a blurred picture, like ``y``; None for other problems."""
        y, A, weights = (
            self.problem.y0,
            self.operator,
            getattr(self.problem.data_term, "weights", None),
        )
        if not isinstance(A, (Blur, Blur3D)) or y.is_complex() or weights is not None:
            return None
        if self.noise_std is None or min(y.shape[-2:]) < self._VIEWS:
            return None
        kernels = A.kernel.expand(len(y), *A.kernel.shape[1:])
        levels = self.noise_std.expand(len(y))
        # Item by item, because bounds are common to the pictures of one call.
        return torch.cat(
            [
                find_bad_pixels(*item)
                for item in zip(y.detach().split(1), kernels.split(1), levels.split(1))
            ]
        )


#: A check of one property: it returns what looks wrong, or None.
Check = Callable[[Subject], Finding | None]

#: Largest number of rows, columns and views from which the noise level is estimated.
_CROP = 512

_CHECKS: list[tuple[type, Check]] = []


def register(*kinds: type) -> Callable[[Check], Check]:
    """Register a check for the problems whose operator is of one of some kinds.

    Args:
        kinds: classes of operators.
    """

    def add(check: Check) -> Check:
        _CHECKS.extend((kind, check) for kind in kinds)
        return check

    return add


def check_measurements(problem: Problem, prior: Prior | None = None) -> tuple[Finding, ...]:
    """Return what looks wrong about the measurements of a problem, an empty tuple if nothing does.

    The checks compare the measurements with the operator and with the noise level of the data term.
    They are cheap compared with a solve, and change nothing. `solve` runs them first, and writes
    the sentences into ``Solution.notes``.

    Args:
        problem: measurements, operator and data term.
        prior: prior of the solve, whose range of values the measurements have to fit.

    >>> import invtoolbox as it
    >>> angles = torch.arange(60) * torch.pi / 60
    >>> A = it.operators.ParallelBeam((32, 32), angles, 48)
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> x[..., 10:20, 8:22] = 0.1
    >>> check_measurements(it.Problem(A(x), A))
    ()
    >>> counts = torch.poisson(1000 * torch.exp(-A(x)), generator=torch.Generator().manual_seed(0))
    >>> check_measurements(it.Problem(counts, A))[0].name
    'counts'
    """
    with torch.no_grad():
        return find(Subject(problem, prior))


def find(
    subject: Subject, without: Callable[[Subject], Finding | None] | None = None
) -> tuple[Finding, ...]:
    """Run the checks that are registered for the operator of a problem.

    Args:
        subject: the problem.
        without: a check that is left out; the others then all run, also after a conclusive finding.
    """
    problem = subject.problem
    if isinstance(problem.y, tuple):
        terms = getattr(problem.data_term, "terms", ())
        parts = [Subject(problem.part(k), subject.prior) for k in range(len(terms))]
        return tuple(finding for term in parts for finding in find(term, without))
    findings: list[Finding] = []
    for kind, check in _CHECKS:
        if check is without or not isinstance(subject.operator, kind):
            continue
        if (finding := check(subject)) is not None:
            findings.append(finding)
            if finding.is_conclusive and without is None:
                break
    return tuple(findings)


def leave_out(problem: Problem, faulty: Tensor) -> Problem:
    """Return the problem in which some measurements have weight 0, the same if its term has none.

    Args:
        problem: measurements, operator and data term.
        faulty: true at these measurements; it broadcasts against ``y``.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    >>> leave_out(problem, torch.tensor([True, False, False, False])).data_term.weights
    tensor([[[0., 1., 1., 1.]]])
    """
    D, good = problem.data_term, ~faulty.expand_as(problem.y0)
    if not isinstance(D, ResidualTerm):
        return problem
    weights = good.to(problem.y0.real.dtype)
    if D.weights is not None:
        weights = weights * D.weights.to(weights)
    return problem.with_data_term(D._replace(weights=weights, weights_are_mask=False))


def repair_measurements(problem: Problem) -> tuple[Problem, tuple[str, ...]]:
    """Mend what can be mended without harm, and return the problem and a sentence per repair.

    Args:
        problem: measurements, operator and data term.

    >>> import invtoolbox as it
    >>> A = it.operators.Inpainting(255 * torch.eye(8), (8, 8))
    >>> problem, sentences = repair_measurements(it.Problem(torch.eye(8)[None, None], A))
    >>> float(problem.operator.mask.max()), len(sentences)
    (1.0, 1)
    """
    sentences: list[str] = []
    if not isinstance(problem.y, tuple):
        for finding in check_measurements(problem):
            if finding.repair is not None:
                problem = finding.repair(problem)
                sentences.append(f"repaired: {finding.sentence}")
    return problem, tuple(sentences)


def report_findings(problem: Problem, prior: Prior | None = None) -> tuple[Decision, ...]:
    """Warn of what looks wrong about measurements, and return a record per finding.

    Args:
        problem: measurements, operator and data term.
        prior: prior of the solve.

    Raises:
        InputError: if nothing sensible can come of a solve.
    """
    findings = check_measurements(problem, prior)
    for finding in findings:
        if finding.is_fatal:
            raise InputError(finding.sentence)
    records = tuple(
        Decision(step=f"check-{f.name}", item=f.item, sentence=f.sentence) for f in findings
    )
    for finding, record in zip(findings, records):
        if not finding.is_remark:
            warn_user(record.text(problem.batch), MeasurementWarning)
    return records


def quick_noise_std(problem: Problem) -> Tensor | None:
    """Estimate the noise level from the middle of large measurements, ``(batch,)`` in float64.

    Args:
        problem: measurements, operator and data term.

    Returns:
        the noise level, or None if it cannot be estimated.
    """
    y, operator = problem.y0, problem.operator
    weights = getattr(problem.data_term, "weights", None)
    mask = getattr(operator, "mask", None)
    kind: Operator | None = operator
    if not (y.is_complex() or isinstance(problem.y, tuple)) and weights is None and mask is None:
        # An estimate without an operator is for a picture, which has the shape of the image.
        if max(y.shape[2:], default=0) > _CROP and tuple(operator.domain_shape[1:]) == tuple(
            y.shape[2:]
        ):
            kind = None
        for axis in range(2, y.ndim):
            extra = y.shape[axis] - _CROP
            if extra > 0:
                y = y.narrow(axis, extra // 2, _CROP)
    try:
        level = estimate_noise_std(y.detach(), kind, weights).cpu().double()
    except InputError:
        return None
    # Without a window of neighbours that all count, the level is 0: nothing was estimated.
    has_holes = mask is not None or weights is not None
    return None if has_holes and not bool((level > 0).all()) else level
