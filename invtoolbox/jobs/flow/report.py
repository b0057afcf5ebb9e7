"""Report of the flow of a sequence on the terminal."""

from __future__ import annotations

import math
from collections import Counter

from invtoolbox.jobs.flow.results import FlowStudy
from invtoolbox.jobs.reports import count_outcomes, report_failures

# Notes that are printed of the sweeps of a sequence.
_FEW = 3


def report_flow(study: FlowStudy, quiet: bool) -> int:
    """Report the flow of a sequence; the exit code is 1 if a sweep failed."""
    if not quiet:
        spent = "" if study.seconds is None else f"; {study.seconds:.2f} s per sweep"
        sweeps = f"{len(study)} sweep{'s' if len(study) > 1 else ''}"
        print(f"{sweeps}: {count_outcomes(study)}{spent}; in {study.folder}")
        for line in [*(f"note: {note}" for note in _notes(study)), *_error_lines(study)]:
            print(f"  {line}")
    return report_failures(study)


def _error_lines(study: FlowStudy) -> list[str]:
    """Return the errors against labels in words; no line if no sweep has labels."""
    errors = study.errors()
    if errors is None:
        return []
    three, mean = errors.three_way.pool(), errors.bucketed.mean()
    classes = [
        f"{name.lower().replace('_', ' ')} {score.dynamic:.3f}"
        for name, score in errors.bucketed.by_class().items()
        if not math.isnan(score.dynamic)
    ]
    return [
        f"against labels, {errors.points:,} points within 35 m, not ground, the sensor's motion "
        "removed:",
        f"  dynamic EPE {_metres(errors.dynamic)} ({errors.dynamic_points:,} points), static EPE "
        f"{_metres(errors.static)}, AccS {errors.strict:.3f}, AccR {errors.relax:.3f}",
        f"  three-way EPE {_metres(three.mean)} over points, "
        f"{_metres(errors.three_way.per_frame().mean)} over sweeps; bucket-normalized dynamic "
        f"error {mean.dynamic:.3f}",
        "  bucket-normalized dynamic error by class: " + (", ".join(classes) or "nothing moves"),
    ]


def _metres(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f} m"


def _notes(study: FlowStudy) -> list[str]:
    """Return the notes of some pairs of sweeps but not of all, without the names of the sweeps.

    Of a single pair all notes are returned.
    """
    counts: Counter[str] = Counter()
    for facts in (item.facts for item in study.reports):
        notes = [
            note.removeprefix(f"{facts['source']}: ").removeprefix(f"{facts['target']}: ")
            for note in facts.get("notes", ())
        ]
        counts.update(list(dict.fromkeys(notes)))
    estimated = len(study) - len(study.failed)
    rare = [(note, count) for note, count in counts.items() if count < estimated or estimated == 1]
    return [f"{note} ({count} sweeps)" if count > 1 else note for note, count in rare[:_FEW]]
