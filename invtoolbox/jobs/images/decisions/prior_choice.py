"""`prior="auto"`: compare priors by measurements that they have not seen.

A scan over a short arc is compared on the last sixth of its arc, since directions that were not
measured are what such a scan lacks; others on measurements in between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from invtoolbox.catalogue.presets import prior_named
from invtoolbox.core.decision import ITEM, Decision
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.decisions.case import Case, Proposal, Step, Trait
from invtoolbox.jobs.images.decisions.one_material import (
    is_suited,
    pyramid,
    relax,
    solve_one_material,
)
from invtoolbox.jobs.images.decisions.short_arc import bound_if_short
from invtoolbox.jobs.images.decisions.trained_range import fit_range, needs_unit, units_of
from invtoolbox.measurements import report_findings
from invtoolbox.operators.tomography.arcs import Arc, arc_of
from invtoolbox.operators.tomography.scan_2d import Scan, Scan2D
from invtoolbox.parameter_choice.held_out import ONE_OF, hold_out
from invtoolbox.priors.automatic import Auto
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import inner_solve

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

    def explain(self) -> str:
        """Return the sentence of the record."""
        if len(self.errors) < 2:
            return f"the prior{ITEM} is {self.name}: no other candidate suits these measurements"
        errors = ", ".join(f"{name} to {error:.3g}" for name, error in self.errors.items())
        return f"the prior{ITEM} is {self.name}: held-out measurements are predicted by {errors}"


class PriorChoice(Step):
    """Choose a prior per item by measurements that it has not seen, if ``prior="auto"``."""

    name = "prior-choice"
    question = "which prior predicts held-out measurements best?"
    evidence = "error of held-out measurements"
    price = "1 solve per candidate, at half the pixels of a large scan"
    needs = (
        Trait("a prior was named, or there is none", lambda case: isinstance(case.prior, Auto)),
    )

    def propose(self, case: Case) -> list[Proposal]:
        auto, settings = case.prior, dict(case.settings)
        assert isinstance(auto, Auto)
        device, dtype = settings.pop("device", None), settings.pop("dtype", None)
        problem = case.problem.to(device=device, dtype=dtype)
        moved = dataclasses.replace(case, problem=problem, settings=settings)
        skipped, valid = problem.skipped, problem.without_skipping()
        items = torch.arange(case.batch, device=valid.y0.device).split(1)
        choices = [_choose(valid.select(item), auto, settings) for item in items]
        named = {
            name: dataclasses.replace(moved, prior=prior_named(name), names=(name,))
            for name in {choice.name for choice in choices} - {_ONE_MATERIAL}
        }
        proposals = []
        for item, choice in zip(items, choices):
            if choice.name == _ONE_MATERIAL:
                method = partial(_solve_material, choice.start)
                single = dataclasses.replace(moved.select(item), prior=None)
                changed = dataclasses.replace(single, method=method, is_settled=True)
            else:
                changed = named[choice.name]
            is_valid = skipped is None or not bool(skipped[item])
            others = [error for name, error in choice.errors.items() if name != choice.name]
            proposals.append(
                Proposal(
                    changed,
                    choice.explain() if is_valid else "",
                    before=min(others, default=None),
                    after=choice.errors[choice.name] if others else None,
                )
            )
        return proposals


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
            prior = bound_if_short(fitted, priors[name], name)
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


def _solve_material(start: Tensor | None, case: Case) -> Solution:
    """Return the solution of one item by the recipe, in the unit of the measurements."""
    problem, settings = case.problem, case.settings
    with torch.no_grad():
        material = solve_one_material(problem, start, **_budget(settings))
    findings = report_findings(problem)
    polynomial = ", ".join(f"{a:.4g}" for a in material.hardening.coefficients)
    shape = "a disc" if material.support == "disc" else "what rays without absorption leave"
    choice = (
        "no weight was given: the recipe for one material takes it from the rays through a pixel"
    )
    sentences = (
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
        problem=problem,
        decisions=(
            Decision(step="weight", sentence=choice),
            *findings,
            *(Decision(step="prior-choice", sentence=sentence) for sentence in sentences),
        ),
    )
