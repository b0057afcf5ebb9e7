"""`prior="auto"`: compare priors by measurements that they have not seen, and bounds of short arcs.

A scan over a short arc is compared on the last sixth of its arc, since directions that were not
measured are what such a scan lacks; others on measurements in between.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from invtoolbox.catalogue.presets import prior_named
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.poisson import Poisson, PoissonTransmission
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.beyond_edges import solve_open
from invtoolbox.jobs.images.fine_grid import solve_finer
from invtoolbox.jobs.images.floor import keep_floor
from invtoolbox.jobs.images.held_out import repeat
from invtoolbox.jobs.images.join import join, take
from invtoolbox.jobs.images.one_material import (
    empty_level,
    is_absorption,
    is_suited,
    pyramid,
    relax,
    solve_one_material,
)
from invtoolbox.jobs.images.smooth_noise import (
    LEVELS,
    find_smooth_noise,
    note_on_smooth_noise,
    settings_for,
    usual_weight,
)
from invtoolbox.jobs.images.trained_range import fit_range, needs_unit, units_of
from invtoolbox.jobs.images.truncated import continue_views
from invtoolbox.measurements import report_findings
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.tomography.arcs import Arc, arc_of
from invtoolbox.operators.tomography.scan_2d import Scan, Scan2D
from invtoolbox.parameter_choice.held_out import ONE_OF, hold_out
from invtoolbox.priors.automatic import Auto
from invtoolbox.priors.base import Prior
from invtoolbox.priors.images.tangent_bound import TangentBound
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import inner_solve, solve

#: Name of the recipe for an object of one material.
_ONE_MATERIAL = "two-level"
#: Candidates of pictures, of scans, and of problems whose measurements cannot be held out.
_PICTURE, _SCAN, _OTHER = ("tv", "wavelet", "tgv"), ("tv", _ONE_MATERIAL), ("tv",)
#: Further candidates of a scan that shows soft tissue and has no short arc.
_TISSUE = ("lpn-ct", "diffusion-ct")


class Choice(NamedTuple):
    """Prior that was chosen for one item.

    Attributes:
        name: its name.
        errors: root mean squares of the errors of held-out measurements, by candidate.
        start: first image of the recipe for one material.
    """

    name: str
    errors: dict[str, float]
    start: Tensor | None = None

    def explain(self, where: str) -> str:
        """Return the sentence for the user.

        Args:
            where: the words that name the item.
        """
        if len(self.errors) < 2:
            return f"the prior{where} is {self.name}: no other candidate suits these measurements"
        errors = ", ".join(f"{name} to {error:.3g}" for name, error in self.errors.items())
        return f"the prior{where} is {self.name}: held-out measurements are predicted by {errors}"


def bound_short_arc(
    problem: Problem, prior: Prior | None, names: Sequence[str]
) -> tuple[Prior | None, tuple[str, ...]]:
    """Add the bound of tangent rays to total variation by name, if the arc of a scan is short.

    Args:
        problem: measurements, operator and data term.
        prior: sum of the priors.
        names: names by which they were chosen, without weights and settings.

    Returns:
        The prior, and a sentence for the user if it was changed.
    """
    arc = arc_of(problem.operator)
    if (
        prior is None
        or arc is None
        or not arc.is_limited
        or problem.unknown
        or "tv" not in names
        or not set(names) <= {"tv", "nonnegative"}
        or type(problem.data_term) is not LeastSquares
        or not isinstance(problem.y, Tensor)
    ):
        return prior, ()
    valid = problem.without_skipping()
    if not is_absorption(valid):
        return prior, ()
    note = (
        "the arc is short, and no measurement is negative: x is kept nonnegative, and 0 where rays "
        "pass that nothing absorbs; prior=it.priors.TotalVariation() leaves these bounds out"
    )
    return prior + TangentBound(empty_level(valid)), (note,)


def approximate_counts(
    problem: Problem, prior: Prior | None, solver: Any = None
) -> tuple[Problem, tuple[str, ...]]:
    """Measure the misfit of counts by least squares, if a denoiser is the prior.

    Denoisers without an energy have no stable answer with `Poisson`, whose curvature has no bound.
    The variance of a count is its mean, so the noise level is the square root of the mean count.
    They diverge with `PoissonTransmission`, whose curvature differs between rays by orders of
    magnitude. Its place is taken by the line integrals that fit the counts exactly, whose noise is
    estimated; the weights of their noise made answers worse.

    Args:
        problem: measurements, operator and data term.
        prior: sum of the priors.
        solver: solver of the user; the problem stays as it is if there is one.

    Returns:
        The problem, and a sentence for the user if it was changed.
    """
    offers = [] if prior is None else [term.prior.offers for term in prior.as_sum().terms]
    is_denoiser = any("denoise" in some and "energy" not in some for some in offers)
    term, y = problem.data_term, problem.y
    if solver is not None or not is_denoiser or not isinstance(y, Tensor):
        return problem, ()
    if type(term) is PoissonTransmission:
        note = (
            "denoisers have no stable answer with the misfit of PoissonTransmission, so least squares "
            "of the line integrals took its place; solver= keeps it"
        )
        lines = problem.with_measurements(term.fitting_prediction(y))
        return lines.with_data_term(LeastSquares()), (note,)
    if type(term) is not Poisson:
        return problem, ()
    level = y.flatten(1).nanmean(1).nan_to_num(1.0).clamp_min(1.0).sqrt()
    changed = problem.with_measurements(y - term.mean(torch.zeros_like(y)))
    note = (
        "denoisers have no stable answer with the misfit of Poisson, so least squares took its "
        "place, with the square root of the mean count as the noise level; solver= keeps Poisson"
    )
    return changed.with_data_term(LeastSquares(noise_std=level)), (note,)


def solve_with_defaults(
    problem: Problem,
    prior: Prior | None,
    names: Sequence[str],
    solver: Any,
    settings: Mapping[str, Any],
) -> Solution:
    """Solve, with the misfit and the bounds that suit the problem, and keep the simple answer.

    `find_smooth_noise`, `approximate_counts`, `bound_short_arc`, `solve_open`, `continue_views`,
    `solve_finer` and `keep_floor` decide. The first and the last four need
    ``regularization="auto"``, the default.

    Args:
        problem: measurements, operator and data term.
        prior: sum of the priors.
        names: names by which they were chosen, without weights and settings.
        solver: solver of the user, or None.
        settings: further keywords of `invtoolbox.solve`.
    """
    weight = settings.get("regularization", "auto")
    is_automatic = isinstance(weight, str) and weight == "auto"
    if is_automatic and solver is None:
        levels = find_smooth_noise(problem, prior)
        if bool((levels > 0).any()):
            return _solve_smooth(problem, prior, levels, settings)
    units = units_of(problem) if needs_unit(prior) else [None] * problem.batch
    is_constant = [False] * problem.batch
    if is_automatic and prior is not None and solver is None:  # draws depend on the weight
        is_constant = _constant_items(problem, prior)
    kinds = list(zip(units, is_constant))
    if prior is not None and len(set(kinds)) > 1:
        return _solve_by_unit(problem, prior, kinds, names, solver, settings)
    problem, counted = approximate_counts(problem, prior, solver)
    prior, bounds = bound_short_arc(problem, prior, names)
    posed, fitted = problem, fit_range(problem, prior, units[0], is_free=solver is None)
    problem, prior = fitted.problem, fitted.prior
    chosen = dict(settings)
    is_picture = not isinstance(problem.operator, Scan)
    if counted and is_picture and is_automatic and prior and (usual := usual_weight(prior)):
        # The level of counts differs from place to place, and flat parts, which show one, are dark.
        chosen["regularization"] = usual
    if all(is_constant):
        chosen["regularization"] = 1.0
        counted = ("the picture is constant, which total variation keeps at every weight",)
    solution = solve(problem, prior, solver, **chosen)
    notes = (*solution.notes, *counted, *bounds, *fitted.notes)
    solution = dataclasses.replace(solution, notes=notes)
    if not is_automatic or all(is_constant):
        return fitted.restore(solution, posed)

    limit = settings.get("max_iterations")
    solution, is_compared = solve_open(problem, solution, prior, solver, chosen)
    if is_compared:
        return fitted.restore(solution, posed)

    def again(item: Problem, place: Tensor) -> Tensor:
        some = None if prior is None else prior.select(place)
        return repeat(take(solution, place), some, solver, limit)(item)

    continued = continue_views(problem, solution, again)
    # The pixels of an object wider than the detector are no reason for its residual.
    is_same = (continued.x == solution.x).flatten(1).all(1)
    solution, held_out = solve_finer(problem, continued, is_same, prior, solver, settings)
    return fitted.restore(keep_floor(problem, solution, prior, solver, limit, held_out), posed)


def _constant_items(problem: Problem, prior: Prior) -> list[bool]:
    """Return per item whether it is a constant picture, in which total variation changes nothing.

    A search for the weight would compare equal answers.
    """
    priors, y = prior.as_sum(), problem.y
    is_total_variation = [type(entry.prior) for entry in priors.terms] == [TotalVariation]
    if (
        not isinstance(y, Tensor)
        or not isinstance(problem.operator, Identity)
        or type(problem.data_term) is not LeastSquares
        or problem.skipped is not None
        or priors.implicit is not None
        or not is_total_variation
    ):
        return [False] * problem.batch
    pixels = y.flatten(2)
    return (pixels == pixels[..., :1]).flatten(1).all(1).tolist()


def _solve_by_unit(
    problem: Problem,
    prior: Prior,
    units: Sequence[Any],
    names: Sequence[str],
    solver: Any,
    settings: Mapping[str, Any],
) -> Solution:
    """Solve the items of every unit together, because the range of a prior is one for all items."""
    every, parts = torch.arange(problem.batch, device=problem.y0.device), []
    for unit in dict.fromkeys(units):
        items = every[[name == unit for name in units]]
        some = _settings_of(settings, items, problem.batch)
        group, chosen = problem.select(items), prior.select(items)
        parts.append((items, solve_with_defaults(group, chosen, names, solver, some)))
    return join(problem, parts)


def _solve_smooth(
    problem: Problem,
    prior: Any,
    levels: Tensor,
    settings: Mapping[str, Any],
) -> Solution:
    """Solve the items with smooth noise at `LEVELS` times its level, and the others as usual."""
    parts, notes = [], []
    for k, level in enumerate(levels.tolist()):
        place = torch.tensor([k], device=problem.y0.device)
        item, some = problem.select(place), prior.select(place)
        chosen = _settings_of(settings, place, problem.batch)
        if not level > 0:
            parts.append((place, solve_with_defaults(item, some, (), None, chosen)))
            continue
        notes += report_findings(item, some) if settings.get("check", True) else []
        notes.append(note_on_smooth_noise(level, "" if len(levels) == 1 else f" of item {k}"))
        noisy = item.with_data_term(LeastSquares(noise_std=LEVELS * level))
        parts.append((place, solve(noisy, some, **{**chosen, **settings_for(some)})))
    solution = join(problem, parts)
    return dataclasses.replace(solution, notes=(*solution.notes, *notes))


def solve_automatically(
    problem: Problem, auto: Auto, solver: Any = None, settings: Mapping[str, Any] | None = None
) -> Solution:
    """Choose a prior per item by held-out measurements, and solve with all measurements.

    Args:
        problem: measurements, operator and data term.
        auto: the candidates.
        solver: solver of the last solve; by default the one that suits the prior.
        settings: further keywords of `invtoolbox.solve`.

    Raises:
        InputError: if a candidate is no prior.
    """
    start_time, settings = time.monotonic(), dict(settings or {})
    device, dtype = settings.pop("device", None), settings.pop("dtype", None)
    problem = problem.to(device=device, dtype=dtype)
    valid, skipped = problem.without_skipping(), problem.skipped
    with torch.no_grad():
        choices = [
            _choose(valid.select(torch.tensor([k], device=valid.y0.device)), auto, settings)
            for k in range(problem.batch)
        ]
    every, parts = torch.arange(problem.batch, device=valid.y0.device), []
    for name in dict.fromkeys(choice.name for choice in choices):
        items = every[[choice.name == name for choice in choices]]
        if name == _ONE_MATERIAL:
            for k in items.split(1):
                material = _solve_material(problem.select(k), choices[int(k)].start, settings)
                parts.append((k, material))
            continue
        group = problem.select(items)
        group_settings = _settings_of(settings, items, problem.batch)
        prior = prior_named(name)
        parts.append((items, solve_with_defaults(group, prior, [name], solver, group_settings)))
    notes = tuple(
        choice.explain("" if problem.batch == 1 else f" of item {k}")
        for k, choice in enumerate(choices)
        if skipped is None or not bool(skipped[k])
    )
    solution = join(problem, parts)
    seconds = time.monotonic() - start_time
    return dataclasses.replace(solution, notes=(*solution.notes, *notes), seconds=seconds)


def _settings_of(settings: Mapping[str, Any], items: Tensor, batch: int) -> dict[str, Any]:
    """Return the settings of `solve` for some items of a batch."""
    return {
        key: value[items.to(value.device)]
        if isinstance(value, Tensor) and value.ndim and len(value) == batch
        else value
        for key, value in settings.items()
    }


def _choose(problem: Problem, auto: Auto, settings: Mapping[str, Any]) -> Choice:
    """Compare the candidates on one item."""
    is_simple = type(problem.data_term) is LeastSquares and isinstance(problem.y, Tensor)
    if is_simple and isinstance(problem.operator, Scan2D):
        arc = arc_of(problem.operator)
        is_short = arc is not None and arc.is_limited
        body = () if is_short or units_of(problem)[0] is None else _TISSUE
        names = auto.candidates or (_SCAN if is_suited(problem) else _OTHER) + body
    elif is_simple and problem.is_linear and not isinstance(problem.operator, Scan):
        names = auto.candidates or _PICTURE
    else:
        names = auto.candidates or _OTHER
    if _ONE_MATERIAL in names and not is_suited(problem):
        raise InputError(
            "the candidate 'two-level' is for 2D scans of one channel that absorb; leave it out"
        )
    if len(names) == 1:
        return Choice(names[0], {names[0]: float("nan")})
    if not is_simple:
        raise InputError(
            f"prior 'auto' compares priors by held-out measurements of LeastSquares, and the data "
            f"term is {problem.data_term!r}; give the name of one prior"
        )
    start = None
    if isinstance(problem.operator, Scan):
        errors, start = _compare_views(problem, names, settings)
    else:
        errors = _compare_samples(problem, names, settings)
    # In a tie the recipe is taken, because it uses more prior knowledge.
    order = sorted(errors, key=lambda name: (errors[name], name != _ONE_MATERIAL))
    return Choice(order[0], errors, start)


def _compare_views(
    problem: Problem, names: Sequence[str], settings: Mapping[str, Any]
) -> tuple[dict[str, float], Tensor | None]:
    """Predict held-out views of a scan, on a grid of half its pixels if it is large.

    On the coarsest grid two levels could not follow the edges as well as values in between.
    Returns the errors and the image of the recipe for one material, without the recipe if the scan
    shows no object.
    """
    grids = pyramid(problem)
    level = min(1, len(grids) - 1)
    grid, arc = grids[level], arc_of(problem.operator)
    held = _held_views(problem, arc)
    fitted = grid.subset((~held).nonzero().squeeze(1))
    priors = {name: prior_named(name) for name in names if name != _ONE_MATERIAL}
    # The unit costs a filtered back-projection, which only trained priors need.
    unit = units_of(fitted)[0] if any(map(needs_unit, priors.values())) else None
    errors = {}
    share = None
    for name in names:
        if name == _ONE_MATERIAL:
            try:
                material = solve_one_material(fitted, **_budget(settings))
            except InputError:  # no ray passes through an object: other candidates remain
                continue
            share = material.share
            lengths = grid.operator(relax(fitted, material, settings.get("seed", 0)))
            prediction = _measurements_of_paths(lengths, grid.y0, held)
        else:
            # The bounds may not depend on the views that are held out.
            prior, _ = bound_short_arc(fitted, priors[name], [name])
            changed = fit_range(fitted, prior, unit)
            x = _solve_inner(changed.problem, changed.prior, settings) + changed.offset
            prediction = grid.operator(x)
        errors[name] = float((prediction - grid.y0)[:, :, held].square().mean().sqrt())
    return errors, share


def _held_views(problem: Problem, arc: Arc | None) -> Tensor:
    """Return which views are held out, ``(view,)`` booleans: the end of a short arc, else in between."""
    views = problem.y0.shape[2]
    held = torch.zeros(views, dtype=torch.bool, device=problem.y0.device)
    if arc is None or not arc.is_limited:
        held[ONE_OF // 2 :: ONE_OF] = True
        return held
    A: Any = problem.operator
    order = ((A.angles.detach().double() - arc.start + 1e-6) % (2 * torch.pi)).argsort()
    held[order[views - max(1, views // ONE_OF) :]] = True
    return held


def _measurements_of_paths(lengths: Tensor, y: Tensor, held: Tensor) -> Tensor:
    """Return the measurements that paths through a material predict.

    A polynomial without constant term is fitted to the views that are not held out.
    """
    scale = lengths.abs().max().clamp_min(torch.finfo(lengths.dtype).tiny)
    powers = torch.stack([(lengths / scale).double() ** k for k in (1, 2, 3)], -1)
    fitted = ~held
    system, goal = powers[:, :, fitted].flatten(0, -2), y[:, :, fitted].flatten().double()
    coefficients = torch.linalg.lstsq(system, goal[:, None]).solution.squeeze(1)
    return (powers @ coefficients).to(y)


def _compare_samples(
    problem: Problem, names: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, float]:
    """Predict held-out pixels or samples."""
    term = hold_out(problem, settings.get("seed", 0))
    fitted = problem.with_data_term(LeastSquares(term.noise_std, term.weights))
    errors = {}
    for name in names:
        x = _solve_inner(fitted, prior_named(name), settings)
        squares = term.held * (problem.operator(x) - problem.y0).abs().square()
        count = term.held.expand_as(squares).sum().clamp_min(1)
        errors[name] = float((squares.sum() / count).sqrt())
    return errors


def _solve_inner(problem: Problem, prior: Prior | None, settings: Mapping[str, Any]) -> Tensor:
    return inner_solve(problem, prior, progress=False, **_budget(settings)).x


def _budget(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"seed": settings.get("seed", 0), "max_iterations": settings.get("max_iterations")}


def _solve_material(
    problem: Problem, start: Tensor | None, settings: Mapping[str, Any]
) -> Solution:
    """Return the solution of one item by the recipe, in the unit of the measurements."""
    with torch.no_grad():
        material = solve_one_material(problem, start, **_budget(settings))
    findings = report_findings(problem)
    polynomial = ", ".join(f"{a:.4g}" for a in material.hardening.coefficients)
    shape = "a disc" if material.support == "disc" else "what rays without absorption leave"
    choice = (
        "no weight was given: the recipe for one material takes it from the rays through a pixel"
    )
    notes = (
        choice,
        *findings,
        "the object is taken as one material, between whose density and 0 values are penalized, "
        f"inside {shape}; prior='tv' leaves this out",
        f"the density {material.attenuation:.4g} was fitted, and so were the lengths of paths as a "
        f"polynomial of the measurements, with the coefficients {polynomial}",
    )
    status = material.solution.status
    if settings.get("max_iterations") is None:
        status = tuple("early_stopping" if word == "limit" else word for word in status)
    return dataclasses.replace(
        material.solution,
        x=material.attenuation * material.share,
        status=status,
        weight_choice=choice,
        problem=problem,
        notes=notes,
        reason="",
    )
