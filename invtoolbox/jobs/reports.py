"""Reports on the terminal: print how a run ended, and return its exit code."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invtoolbox.jobs.animation.scene import AnimationOutcome
    from invtoolbox.jobs.events.scene import EventOutcome
    from invtoolbox.jobs.flow.results import FlowStudy
    from invtoolbox.jobs.images.run import Outcome
    from invtoolbox.jobs.normals.scene import NormalOutcome
    from invtoolbox.jobs.photographs.run import ViewOutcome
    from invtoolbox.jobs.registration.scene import RegistrationOutcome
    from invtoolbox.jobs.shapes.meshes import MeshOutcome
    from invtoolbox.jobs.shapes.moving import MovingOutcome
    from invtoolbox.jobs.study import Study
    from invtoolbox.jobs.video_depths.scene import VideoOutcome
    from invtoolbox.jobs.waves.scene import WaveOutcome
    from invtoolbox.solution import Solution

# Notes that are printed of the sweeps of a sequence.
_FEW = 3


def report(outcome: Any, quiet: bool) -> int:
    """Report an outcome of any kind.

    Args:
        outcome: outcome of a job of `invtoolbox.jobs.run.prepare`.
        quiet: whether errors alone are printed.

    Returns:
        The exit code: 1 if an item failed or an iteration diverged, else 0.
    """
    by_type: dict[str, Callable[[Any, bool], int]] = {
        "AnimationOutcome": report_animation,
        "EventOutcome": report_events,
        "FlowStudy": report_flow,
        "MeshOutcome": report_mesh,
        "MovingOutcome": report_moving,
        "NormalOutcome": report_surface,
        "Outcome": report_images,
        "RegistrationOutcome": report_registration,
        "Study": report_study,
        "VideoOutcome": report_video,
        "ViewOutcome": report_views,
        "WaveOutcome": report_waves,
    }
    return by_type[type(outcome).__name__](outcome, quiet)


def report_images(outcome: Outcome, quiet: bool) -> int:
    """Report the outcome of a scene of images or scans."""
    if not quiet:
        print(outcome.solution)
        for name, values in outcome.metrics.items():
            print(f"  {name:<15}{', '.join(f'{v:.4g}' for v in values)}")
        _print_files(outcome.files, outcome.folder)
    return report_divergence(outcome.solution)


def report_divergence(solution: Solution) -> int:
    """Report a solution whose iteration diverged; the exit code is then 1."""
    if "diverged" not in solution.status:
        return 0
    print(
        "invtoolbox: the iteration diverged, and the last finite image was written; try another "
        "solver",
        file=sys.stderr,
    )
    return 1


def report_mesh(outcome: MeshOutcome, quiet: bool) -> int:
    """Report the outcome of a scene of a mesh."""
    if not quiet:
        print(outcome.solution)
        for name, value in outcome.metrics.items():
            print(f"  {name:<15}{value:.4g} % of the diagonal")
        _print_files(outcome.files, outcome.folder)
    return 1 if "diverged" in outcome.solution.status else 0


def report_moving(outcome: MovingOutcome, quiet: bool) -> int:
    """Report the outcome of a scene of a moving object."""
    if outcome.diverged:
        print(
            f"invtoolbox: the iteration diverged at the times {outcome.diverged}; take a smaller "
            "solver.learning_rate",
            file=sys.stderr,
        )
    if not quiet:
        which = "held-out" if outcome.held_out else "training"
        units = {"psnr": f"dB of {which} views", "error": "% of the diagonal from the truth"}
        for name, values in outcome.metrics.items():
            print(
                f"  {name:<14}{outcome.mean(name):.4g} {units[name.split()[-1]]}, mean of {len(values)} times "
                f"({min(values):.4g} to {max(values):.4g})"
            )
        _print_files(outcome.files, outcome.folder)
    return 1 if outcome.diverged else 0


def report_surface(outcome: NormalOutcome, quiet: bool) -> int:
    """Report the outcome of a scene of a normal map."""
    found = outcome.surface
    return _report_result(outcome, found, found.solutions[0] if found else None, quiet)


def report_registration(outcome: RegistrationOutcome, quiet: bool) -> int:
    """Report the outcome of a scene of a registration."""
    found = outcome.motion
    return _report_result(outcome, found, found.solutions[0] if found else None, quiet)


def report_events(outcome: EventOutcome, quiet: bool) -> int:
    """Report the outcome of a scene of events."""
    return _report_result(outcome, outcome.flow, outcome.solution, quiet)


def report_video(outcome: VideoOutcome, quiet: bool) -> int:
    """Report the outcome of a scene of the depths of a video."""
    found = outcome.depths
    return _report_result(outcome, None, found.alignments[0] if found else None, quiet)


def report_animation(outcome: AnimationOutcome, quiet: bool) -> int:
    """Report the outcome of a scene of a picture that two scores move."""
    return _report_result(outcome, None, outcome.solution, quiet)


def _report_result(
    outcome: AnimationOutcome | EventOutcome | NormalOutcome | RegistrationOutcome | VideoOutcome,
    result: Any,
    solution: Solution | None,
    quiet: bool,
) -> int:
    """Report the result of a scene of one item; there is no solution of a run finished earlier.

    Args:
        outcome: metrics and files.
        result: object with notes, or None.
        solution: solution that is printed, or None.
        quiet: whether errors alone are printed.
    """
    if not quiet:
        if solution is not None:
            print(solution)
        _print_measures(outcome.metrics, result)
        _print_files(outcome.files, outcome.folder)
    return 0 if solution is None else report_divergence(solution)


def report_waves(outcome: WaveOutcome, quiet: bool) -> int:
    """Report the outcome of a scene of a survey."""
    if not quiet:
        if outcome.files:
            print(outcome.solution)
        for name, value in outcome.metrics.items():
            print(f"  {name:<15}{value:.4g}{' m/s' if name != 'misfit' else ''}")
        _print_files(outcome.files, outcome.folder)
    return 0 if outcome.solution is None else report_divergence(outcome.solution)


def report_views(outcome: ViewOutcome, quiet: bool) -> int:
    """Report the outcome of a scene of photographs."""
    if quiet:
        return 0
    solution = outcome.solution
    if solution is not None:
        steps = ", ".join(f"{stage.iterations}" for stage in solution.reports)
        print(
            f"{solution.model.describe(solution.x)}; {solution.seconds:.0f} s, iterations: {steps}"
        )
    which = "held-out" if outcome.held_out else "training"
    for name, values in outcome.metrics.items():
        print(
            f"  {name:<6}{outcome.mean(name):.4g} on average over {len(values)} {which} views "
            f"({min(values):.4g} to {max(values):.4g})"
        )
    for note in outcome.notes:
        print(f"  note: {note}")
    _print_files(outcome.files, outcome.folder)
    return 0


def report_study(study: Study, quiet: bool) -> int:
    """Report a study; the exit code is 1 if an item failed or diverged."""
    diverged = [r.name for r in study.reports if "diverged" in r.facts.get("status", ())]
    if not quiet:
        print(f"{len(study)} items: {_count(study)}; in {study.folder}")
    failed = _report_failures(study)
    if diverged:
        names = ", ".join(diverged[:8])
        names += f" and {len(diverged) - 8} more" if len(diverged) > 8 else ""
        print(
            f"invtoolbox: the iteration diverged in {names}, whose last finite images were written",
            file=sys.stderr,
        )
    return 1 if failed or diverged else 0


def report_flow(study: FlowStudy, quiet: bool) -> int:
    """Report the flow of a sequence; the exit code is 1 if a sweep failed."""
    if not quiet:
        spent = "" if study.seconds is None else f"; {study.seconds:.2f} s per sweep"
        sweeps = f"{len(study)} sweep{'s' if len(study) > 1 else ''}"
        print(f"{sweeps}: {_count(study)}{spent}; in {study.folder}")
        for line in [*(f"note: {note}" for note in _notes(study)), *_error_lines(study)]:
            print(f"  {line}")
    return _report_failures(study)


def _print_measures(measures: dict[str, float], result: Any) -> None:
    """Print the notes of a result, if there is one, and its metrics."""
    for note in () if result is None else result.notes:
        print(f"  note: {note}")
    for name, value in measures.items():
        print(f"  {name:<15}{value:.4g}")


def _print_files(files: Sequence[Path], folder: Path) -> None:
    if files:
        print("written:", *files, sep="\n  ")
    else:
        print(f"the run in {folder} was finished already; nothing was done")


def _count(study: Study) -> str:
    outcomes = Counter(r.outcome for r in study.reports)
    return ", ".join(f"{outcomes[o]} {o}" for o in ("done", "kept", "failed") if outcomes[o])


def _report_failures(study: Study) -> int:
    for failure in study.failed:
        print(f"invtoolbox: {failure.name} failed: {failure.error}", file=sys.stderr)
    return 1 if study.failed else 0


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
