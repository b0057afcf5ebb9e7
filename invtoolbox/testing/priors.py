"""`check_prior`: test a prior against its contract; `check_minimises`: test a proximal operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from invtoolbox.core.content import digest
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.operators.elementary import Identity
from invtoolbox.priors.base import ExplicitPrior, ImplicitPrior, Prior, PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.testing.common import (
    ROUNDING,
    Checklist,
    Report,
    check_items,
    check_kind,
    check_purity,
    derivative,
    gap,
    in_precision,
    item,
    precision,
    randn_like,
)
from invtoolbox.testing.implicit_priors import check_implicit
from invtoolbox.testing.operators import PRECISIONS


def check_prior(
    prior: Prior,
    x: Tensor,
    *,
    problem: Problem | None = None,
    steps: Sequence[float] = (0.01, 0.1, 1.0),
    sigmas: Sequence[float] = (0.02, 0.1),
    precisions: Sequence[torch.dtype] = PRECISIONS,
    seed: int = 0,
    prox_tolerance: float = 1e-4,
    item_tolerance: float | None = None,
    raise_error: bool = True,
) -> Report:
    """Test a prior against its contract, on images ``x`` like those that it is meant for.

    Every method that the prior offers is tested: shape, precision and device are kept, a call
    changes nothing, a second call is bitwise equal, an item gives the same result alone and in a
    batch, steps and noise levels may differ from item to item, and a permuted batch gives the
    permuted result. The methods are compared in float64:

    * ``gradient`` is the gradient of ``energy``, by finite differences in random directions;
    * ``prox(x, step)`` minimises ``R(u) + |u - x|^2 / (2 step)``: no other candidate is better, and
      for a convex prior every other is worse by at least ``|u - prox|^2 / (2 step)``;
    * if ``is_convex``, no midpoint of two images has a larger energy than the two on average (or,
      without an energy, the gradient is monotone);
    * a prox of a convex prior is firmly nonexpansive, with or without an energy;
    * ``weights(x) x`` is the gradient, and if ``is_majoriser``, the weights make a majorant;
    * the quadratic of ``majoriser(x)`` lies above the energy;
    * ``prox_conjugate`` is Moreau's; ``split() = (K, F)`` has ``F(K x) = R(x)``;
      ``quadratic() = (L, b)`` has ``1/2 |L x - b|^2 = R(x)``.

    A call, also of ``at``, must leave the prior and the process alone: the global generators, the
    grad mode and the default dtype. An exception that the prior raises is a fault of the report.

    Of an implicit prior, ``decode`` of ``initial`` and its derivative are tested, and the
    independence of items. Of a sum, each of its terms is tested.

    Args:
        prior: explicit or implicit prior, or a sum.
        x: images ``(batch, channel, *space)``; a single one is extended by darker and noisier
            copies.
        problem: problem that the prior is prepared for, as `solve` does; denoising ``x`` by
            default.
        steps: proximal steps of the tests.
        sigmas: noise levels of the tests.
        precisions: dtypes of the tests.
        seed: seed of the random images and directions.
        prox_tolerance: relative violation of the minimum that is allowed to an iterative prox.
        item_tolerance: largest relative distance of an item alone and in a batch; 1e-5 in float32
            and 1e-12 in float64 by default.
        raise_error: whether a fault raises an error; otherwise it is only reported.

    Raises:
        AssertionError: There is a fault; the message is one sentence about the first one.

    >>> class Ridge(ExplicitPrior):
    ...     is_convex = True
    ...     def energy(self, x):
    ...         return 0.5 * x.square().sum()  # mixes the items
    >>> report = check_prior(Ridge(), torch.rand(2, 1, 4, 4), raise_error=False)
    >>> print(report.faults[0].sentence.split(";")[0])
    energy has shape (), expected one number for each of 2 items
    """
    if not isinstance(prior, (PriorSum, ImplicitPrior, ExplicitPrior)):
        raise InputError(
            f"check_prior takes an explicit or an implicit prior, got {type(prior).__name__}"
        )
    check = Checklist(repr(prior))
    if len(x) == 1 and problem is None:
        x = torch.cat([x, 0.5 * x, x + 0.1 * x.abs().mean() * randn_like(x, seed)])
    if isinstance(prior, ExplicitPrior) and not check.holds(
        "offers something",
        bool(prior.offers),
        "the prior offers nothing; write one of energy(x), prox(x, step), denoise(x, sigma) or "
        "gradient(x, generator)",
    ):
        return check.finish(raise_error)
    with torch.enable_grad(), check.attempt("prepare"):
        prepared = prior.as_sum().prepare(
            Problem(x, Identity(x.shape[1:])) if problem is None else problem, solve
        )
        for term in prepared.terms:
            _check_explicit(
                check,
                term.prior,
                x,
                steps,
                sigmas,
                precisions,
                seed,
                prox_tolerance,
                item_tolerance,
            )
        if prepared.implicit is not None:
            with check.attempt("the implicit prior"):
                check_implicit(check, prepared.implicit, precisions, seed)
    return check.finish(raise_error)


def check_minimises(
    check: Checklist,
    what: str,
    energy: Callable[[Tensor], Tensor],
    p: Tensor,
    x: Tensor,
    step: Tensor,
    convex: bool | None,
    tolerance: float,
    seed: int,
    gradient: Callable[[Tensor], Tensor] | None = None,
) -> None:
    r"""Compare ``p`` with other candidates for ``argmin_u phi(u)``.

    ``phi(u) = R(u) + |u - x|^2 / (2 step)``. For a convex R, phi is strongly convex and every u
    satisfies :math:`\phi(u) \ge \phi(p) + |u - p|^2 / (2\,step)`. This is sharper than
    :math:`\phi(u) \ge \phi(p)`, the condition for any other R. Candidates lie on the line to ``x``,
    in random directions of several lengths, at a scaled ``p``, and along the negative gradient of
    phi if there is one. The figure is the violation of the condition, relative to the size of phi.
    """

    def phi(u: Tensor) -> Tensor:
        misfit = u - x
        return energy(u) + inner(misfit, misfit) / (2 * step)

    at_p, length = phi(p), item_norm(p - x)
    # If p is x, the image itself sets the scale.
    reach = torch.maximum(length, 1e-3 * item_norm(x))
    candidates = [p + t * (x - p) for t in (1.0, 0.1, 0.01, -0.1, -0.01)] + [
        p * (1 + t) for t in (0.01, -0.01)
    ]
    for k, size in enumerate((1e-3, 1e-1, 1.0)):
        direction = randn_like(x, seed + 10 + k)
        candidates.append(p + expand(size * reach / item_norm(direction), direction) * direction)
    if gradient is not None:
        slope = gradient(p) + (p - x) / expand(step, x)
        candidates += [p - expand(t * step, slope) * slope for t in (1.0, 0.1, 0.01)]
    violation = torch.full_like(at_p, -torch.inf)
    for u in candidates:
        excess = at_p - phi(u)
        if convex:
            moved = u - p
            excess = excess + inner(moved, moved) / (2 * step)
        # The energy of a constraint is infinite outside: such a candidate is no better.
        violation = torch.maximum(
            violation, torch.where(torch.isfinite(phi(u)), excess, -torch.inf)
        )
    scale = torch.maximum(at_p.abs(), reach.square() / (2 * step)).clamp_min(
        torch.finfo(x.dtype).tiny
    )
    check.at_most(
        f"{what} minimises",
        violation / scale,
        tolerance,
        f"{what} does not minimise R(u) + |u - x|^2 / (2 step): "
        "another image is better by {figure:.1e} of it",
    )


def _check_explicit(
    check: Checklist,
    prior: ExplicitPrior,
    x: Tensor,
    steps: Sequence[float],
    sigmas: Sequence[float],
    precisions: Sequence[torch.dtype],
    seed: int,
    prox_tolerance: float,
    item_tolerance: float | None,
) -> None:
    _check_schedule(check, prior, x)
    for dtype in precisions:
        with check.attempt(f"to({dtype})"):
            _check_calls(
                check, prior.to(dtype), in_precision(x, dtype), steps, sigmas, dtype, item_tolerance
            )
    unusable = (" has the shape", " runs", " gives tensors")
    if torch.float64 in precisions and not any(
        not f.ok and any(word in f.name for word in unusable) for f in check.findings
    ):
        with check.attempt("the comparison of the methods"):
            _check_consistent(
                check,
                prior.to(torch.float64),
                in_precision(x, torch.float64),
                steps,
                seed,
                prox_tolerance,
            )


def _check_schedule(check: Checklist, prior: ExplicitPrior, x: Tensor) -> None:
    """Check that ``at(iteration)`` leaves the prior as it was."""
    with check.attempt("at(iteration)"):
        before = digest(prior, key="check")
        first = digest(prior.at(3), key="check")
        prior.at(7)
        check.holds(
            "at leaves the prior alone",
            digest(prior, key="check") == before,
            f"at(iteration) writes into {prior!r}; change a copy, copy.copy(self), and return it",
        )
        check.holds(
            "at twice",
            digest(prior.at(3), key="check") == first,
            "at(3) gives another prior after a call of at(7); the result is a function of the "
            "iteration alone",
        )


def _check_calls(
    check: Checklist,
    prior: ExplicitPrior,
    x: Tensor,
    steps: Sequence[float],
    sigmas: Sequence[float],
    dtype: torch.dtype,
    item_tolerance: float | None,
) -> None:
    """Test each method separately: shape, precision, device, purity, items, permutation."""
    short, batch, other = str(dtype).removeprefix("torch."), len(x), x.flip(-1) * 0.9 + 0.02
    order = torch.arange(batch - 1, -1, -1, device=x.device)

    def test(
        name: str,
        call: Callable[[ExplicitPrior, Tensor, Tensor], Tensor],
        levels: Sequence[float],
        image: bool,
    ) -> None:
        with check.attempt(f"{name} ({short})"):
            _test(name, call, levels, image)

    def _test(
        name: str,
        call: Callable[[ExplicitPrior, Tensor, Tensor], Tensor],
        levels: Sequence[float],
        image: bool,
    ) -> None:
        # One level per item, so that a level that is shared by mistake is detected.
        level = torch.tensor(
            [levels[k % len(levels)] for k in range(batch)], dtype=dtype, device=x.device
        )
        result = check_purity(
            check, prior, f"{name} ({short})", lambda u: call(prior, u, level), (x,), (other,)
        )
        shape = tuple(x.shape) if image else (batch,)
        wrong = (
            f"{name} has shape {tuple(result.shape)}, expected the shape of x, {shape}"
            if image
            else f"{name} has shape {tuple(result.shape)}, expected one number for each of {batch} "
            "items; sum over every axis but the first, x.flatten(1).sum(1)"
        )
        if not check.holds(f"{name} has the shape ({short})", tuple(result.shape) == shape, wrong):
            return
        check_kind(check, f"{name} ({short})", result, x)
        if len(levels) > 1:
            for k, number in enumerate(level.tolist()):
                same = call(prior, x, torch.tensor(number, dtype=dtype, device=x.device))
                check.at_most(
                    f"{name} takes a level per item ({short})",
                    gap(item(same, k), item(result, k)),
                    item_tolerance or ROUNDING[dtype],
                    f"{name} with one level per item gives item {k} another result "
                    "than with its level alone, by {figure:.1e} relative; use expand(level, x)",
                )
        check_items(
            check,
            name,
            result,
            lambda k: call(
                prior.select(torch.tensor([k], device=x.device)), item(x, k), level[k : k + 1]
            ),
            batch,
            dtype,
            item_tolerance,
        )
        permuted = call(prior.select(order), x.index_select(0, order), level.index_select(0, order))
        check.at_most(
            f"{name} permutes ({short})",
            gap(permuted, result.index_select(0, order)),
            max(1e-6, item_tolerance or 0),
            f"{name} of a permuted batch is not the permuted result, by {{figure:.1e}} relative",
        )

    offers = prior.offers
    # A prior with one step has one noise level.
    steps = (1.0,) if prior.unit_step else steps
    if "energy" in offers:
        test("energy", lambda r, u, _: r.energy(u), (1.0,), False)
    if "gradient" in offers and not prior.is_constraint:
        test(
            "gradient",
            lambda r, u, _: r.gradient(u, Generator(u.device).manual_seed(0)),
            (1.0,),
            True,
        )
    if "prox" in offers:
        test("prox", lambda r, u, t: r.prox(u, t), steps, True)
    if "denoise" in offers:
        test(
            "denoise",
            lambda r, u, s: r.denoise(u, s),
            (prior.sigma,) if prior.fixed_level or prior.unit_step else sigmas,
            True,
        )


def _check_consistent(
    check: Checklist,
    prior: ExplicitPrior,
    x: Tensor,
    steps: Sequence[float],
    seed: int,
    prox_tolerance: float,
) -> None:
    """Compare the methods of a prior with each other, in float64."""
    offers = prior.offers
    # A little noise moves the image off the kinks of a nonsmooth energy, which have no gradient.
    rough = x + 0.05 * x.abs().mean() * randn_like(x, seed + 1)
    if {"energy", "gradient"} <= offers and not prior.is_constraint:
        _check_gradient(check, prior, rough, seed)
    if prior.is_convex:
        _check_convexity(check, prior, x, seed)
    if "prox" in offers:
        _check_prox(check, prior, x, steps, seed, prox_tolerance)
    if "split" in offers:
        K, F = prior.split()
        if {"energy"} <= offers & F.offers:
            check.at_most(
                "split has the same energy",
                gap(F.energy(K(rough)), prior.energy(rough)),
                1e-9,
                "split() = (K, F), but F.energy(K x) is not energy(x): "
                "they differ by {figure:.1e} relative",
            )
        check.holds(
            "split has a prox", "prox" in F.offers, f"split() = (K, F), but F = {F!r} has no prox"
        )
    if "joint" in offers:
        channels, pieces = prior.joint(tuple(x.shape[1:]))
        whole = torch.cat([rough, rough.new_zeros(len(rough), channels, *rough.shape[2:])], 1)
        check.holds(
            "joint has a prox in every piece",
            all({"split", "prox"} & piece.prior.offers for piece in pieces.terms),
            "joint() gives a sum, and one of its priors neither splits nor has a prox",
        )
        if "energy" in offers:
            above = (prior.energy(rough) / pieces.energy(whole).clamp_min(1e-300) - 1).amax()
            check.at_most(
                "joint lies above the energy",
                float(above),
                5e-3,
                "joint() gives a sum that is below energy(x) by {figure:.1e} relative at w = 0, "
                "and energy(x) is its least value",
            )
    if "quadratic" in offers and "energy" in offers:
        L, b = prior.quadratic()
        residual = rough if L is None else L(rough)
        residual = residual if b is None else residual - b
        check.at_most(
            "quadratic has the same energy",
            gap(0.5 * inner(residual, residual), prior.energy(rough)),
            1e-9,
            "quadratic() = (L, b), but 1/2 |L x - b|^2 is not energy(x): "
            "they differ by {figure:.1e} relative",
        )
    if {"weights", "energy"} <= offers:
        _check_weights(check, prior, rough, seed)
    if {"majoriser", "energy", "gradient"} <= offers:
        _check_majoriser(check, prior, rough, seed)


def _check_gradient(check: Checklist, prior: ExplicitPrior, x: Tensor, seed: int) -> None:
    if not bool(torch.isfinite(prior.energy(x)).all()):
        return
    gradient = prior.gradient(x, Generator(x.device).manual_seed(0))
    for k in range(3):
        direction = randn_like(x, seed + 2 + k)
        direction = direction / expand(item_norm(direction), x)
        # Short enough to stay clear of the next kink, long enough for the digits of float64.
        step = 1e-5 * float(x.abs().mean().clamp_min(1e-3))
        slope = derivative(prior.energy, x, direction, step)
        expected = inner(gradient, direction)
        size = torch.maximum(item_norm(gradient) * x[0].numel() ** -0.5, expected.abs()).clamp_min(
            1e-12
        )
        digits = 1e-14 * prior.energy(x).abs() / (step * size)
        check.at_most(
            "gradient belongs to energy",
            ((slope - expected).abs() / size - 10 * digits).clamp_min(0),
            1e-3,
            "gradient is not the gradient of energy: along a random direction they differ by "
            "{figure:.1e} relative",
        )


def _check_convexity(check: Checklist, prior: ExplicitPrior, x: Tensor, seed: int) -> None:
    r"""Look for two images between which a prior that is stated to be convex is not.

    Convexity is :math:`R((u + v) / 2) \le (R(u) + R(v)) / 2` for all u and v, and
    :math:`\langle \nabla R(u) - \nabla R(v), u - v \rangle \ge 0`. The pairs lie at all scales
    around the image, because an energy may bend down far from it only, and differ in all pixels or
    in a few, because a sum over all pixels hides the few that bend down.
    """
    scale = float(x.abs().mean()) or 1.0
    # An energy that is itself iterated to a tolerance is not exact, and takes long.
    iterated = "joint" in prior.offers
    tolerance = 5e-3 if iterated else 1e-9
    for k, size in enumerate((0.1, 10.0) if iterated else (1e-2, 1e-1, 1.0, 10.0, 100.0)):
        a, b = randn_like(x, seed + 40 + k), randn_like(x, seed + 50 + k)
        few = (randn_like(x, seed + 60 + k).abs() > 1.5).to(x)
        for u, v in (
            (x + size * scale * a, x + size * scale * b),
            (x, x + size * scale * a),
            (x + size * scale * few * a, x + size * scale * few * b),
            (size * x, -x),
        ):
            if "energy" in prior.offers:
                ends = (prior.energy(u) + prior.energy(v)) / 2
                middle = prior.energy((u + v) / 2)
                rise = torch.where(ends.isfinite(), middle - ends, torch.zeros_like(ends))
                # A prior that is flat is compared with its size nearby.
                check.at_most(
                    "is_convex: midpoints lie below",
                    rise / torch.maximum(ends.abs(), middle.abs()).clamp_min(1e-12),
                    tolerance,
                    "is_convex is True, but R((u + v) / 2) is above (R(u) + R(v)) / 2 for two "
                    "images, by {figure:.1e} of it; leave is_convex out",
                )
            elif "gradient" in prior.offers and not prior.is_constraint:
                draws = Generator(x.device).manual_seed(0)
                slope = prior.gradient(u, draws)
                draws = Generator(x.device).manual_seed(0)
                change, moved = slope - prior.gradient(v, draws), u - v
                largest = (item_norm(change) * item_norm(moved)).clamp_min(1e-12)
                check.at_most(
                    "is_convex: the gradient is monotone",
                    -inner(change, moved) / largest,
                    max(tolerance, 1e-6),
                    "is_convex is True, but <gradient(u) - gradient(v), u - v> is negative for two "
                    "images, {figure:.1e} of its largest size; leave is_convex out",
                )


def _check_prox(
    check: Checklist,
    prior: ExplicitPrior,
    x: Tensor,
    steps: Sequence[float],
    seed: int,
    tolerance: float,
) -> None:
    other = x.flip(-1) * 0.8 + 0.1 * x.abs().mean() * randn_like(x, seed + 3)
    for number in (1.0,) if prior.unit_step else steps:
        step = torch.full((len(x),), number, dtype=precision(x), device=x.device)
        p = prior.prox(x, step)
        if "energy" in prior.offers:
            gradient = (
                (lambda u: prior.gradient(u, None))
                if "gradient" in prior.offers and not prior.is_constraint
                else None
            )
            check_minimises(
                check,
                f"prox at step {number:g}",
                prior.energy,
                p,
                x,
                step,
                prior.is_convex,
                tolerance,
                seed,
                gradient,
            )
        if prior.is_convex:
            q = prior.prox(other, step)
            gained = inner(p - q, p - q) - inner(p - q, x - other)
            size = item_norm(x - other).square().clamp_min(torch.finfo(x.dtype).tiny)
            check.at_most(
                f"prox at step {number:g} is firm",
                gained / size,
                tolerance,
                "prox is not firmly nonexpansive, as the prox of a convex prior is: "
                "|p - q|^2 <= <p - q, x - z> is violated by {figure:.1e} of |x - z|^2",
            )
            weight = torch.full_like(step, 0.7)
            if not prior.is_constraint:
                dual = prior.prox_conjugate(x.clone(), step, weight)
                moreau = x - expand(step, x) * prior.prox(x / expand(step, x), weight / step)
                check.at_most(
                    f"prox_conjugate at step {number:g}",
                    gap(dual, moreau),
                    max(1e-8, tolerance),
                    "prox_conjugate is not v - step * prox(v / step, weight / step): "
                    "they differ by {figure:.1e} relative",
                )


def _check_weights(check: Checklist, prior: ExplicitPrior, x: Tensor, seed: int) -> None:
    weights = prior.weights(x)
    check.at_most(
        "weights make the gradient",
        gap(weights * x, prior.gradient(x, Generator(x.device).manual_seed(0))),
        1e-9,
        "weights(x) * x is not gradient(x): they differ by {figure:.1e} relative",
    )
    if not prior.is_majoriser:
        return
    for k, size in enumerate((1e-2, 1.0, 30.0)):
        other = x + size * x.abs().mean() * randn_like(x, seed + 20 + k)
        bound = prior.energy(x) + 0.5 * (inner(other, weights * other) - inner(x, weights * x))
        check.at_most(
            "weights majorise",
            (prior.energy(other) - bound) / bound.abs().clamp_min(1e-300),
            1e-9,
            "1/2 <u, w u> with w = weights(x) is below the energy somewhere, by {figure:.1e} of "
            "it; so is_majoriser is wrong",
        )


def _check_majoriser(check: Checklist, prior: ExplicitPrior, x: Tensor, seed: int) -> None:
    energy, slope, majoriser = (
        prior.energy(x),
        prior.gradient(x, Generator(x.device).manual_seed(0)),
        prior.majoriser(x),
    )
    for k, size in enumerate((1e-3, 1.0, 30.0)):
        change = size * x.abs().mean() * randn_like(x, seed + 30 + k)
        bound = energy + inner(slope, change) + 0.5 * inner(change, majoriser.product(change))
        check.at_most(
            "the majoriser lies above",
            (prior.energy(x + change) - bound) / bound.abs().clamp_min(1e-300),
            1e-9,
            "energy(x) + <gradient, v> + 1/2 <v, H v> with H = majoriser(x) is below energy(x + v) "
            "somewhere, by {figure:.1e} of it",
        )
