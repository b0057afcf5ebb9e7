"""Checks that the methods of a prior agree: energy, gradient, prox, decode of implicit ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.core.pytrees import tree_leaves
from invtoolbox.core.settings import cast_dtype
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.priors.base import ExplicitPrior, ImplicitPrior
from invtoolbox.testing.common import (
    Checklist,
    check_items,
    check_purity,
    derivative,
    gap,
    item,
    parts,
    precision,
    randn_like,
)


def check_agreement(
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
        joint_variable = torch.cat(
            [rough, rough.new_zeros(len(rough), channels, *rough.shape[2:])], 1
        )
        check.holds(
            "joint has a prox in every piece",
            all({"split", "prox"} & piece.prior.offers for piece in pieces.terms),
            "joint() gives a sum, and one of its priors neither splits nor has a prox",
        )
        if "energy" in offers:
            above = (
                prior.energy(rough) / pieces.energy(joint_variable).clamp_min(1e-300) - 1
            ).amax()
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
    if {"majorizer", "energy", "gradient"} <= offers:
        _check_majorizer(check, prior, rough, seed)


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
                change, difference = slope - prior.gradient(v, draws), u - v
                largest = (item_norm(change) * item_norm(difference)).clamp_min(1e-12)
                check.at_most(
                    "is_convex: the gradient is monotone",
                    -inner(change, difference) / largest,
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
    z = x.flip(-1) * 0.8 + 0.1 * x.abs().mean() * randn_like(x, seed + 3)
    for number in (1.0,) if prior.unit_step else steps:
        step = torch.full((len(x),), number, dtype=precision(x), device=x.device)
        p = prior.prox(x, step)
        if "energy" in prior.offers:
            gradient = (
                (lambda u: prior.gradient(u, None))
                if "gradient" in prior.offers and not prior.is_constraint
                else None
            )
            check_minimizes(
                check,
                f"prox at step {number:g}",
                prior.energy,
                p,
                x=x,
                step=step,
                convex=prior.is_convex,
                tolerance=tolerance,
                seed=seed,
                gradient=gradient,
            )
        if prior.is_convex:
            q = prior.prox(z, step)
            gained = inner(p - q, p - q) - inner(p - q, x - z)
            size = item_norm(x - z).square().clamp_min(torch.finfo(x.dtype).tiny)
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
    if not prior.is_majorizer:
        return
    for k, size in enumerate((1e-2, 1.0, 30.0)):
        z = x + size * x.abs().mean() * randn_like(x, seed + 20 + k)
        bound = prior.energy(x) + 0.5 * (inner(z, weights * z) - inner(x, weights * x))
        check.at_most(
            "weights majorize",
            (prior.energy(z) - bound) / bound.abs().clamp_min(1e-300),
            1e-9,
            "1/2 <u, w u> with w = weights(x) is below the energy somewhere, by {figure:.1e} of "
            "it; so is_majorizer is wrong",
        )


def _check_majorizer(check: Checklist, prior: ExplicitPrior, x: Tensor, seed: int) -> None:
    energy, slope, majorizer = (
        prior.energy(x),
        prior.gradient(x, Generator(x.device).manual_seed(0)),
        prior.majorizer(x),
    )
    for k, size in enumerate((1e-3, 1.0, 30.0)):
        change = size * x.abs().mean() * randn_like(x, seed + 30 + k)
        bound = energy + inner(slope, change) + 0.5 * inner(change, majorizer.product(change))
        check.at_most(
            "the majorizer lies above",
            (prior.energy(x + change) - bound) / bound.abs().clamp_min(1e-300),
            1e-9,
            "energy(x) + <gradient, v> + 1/2 <v, H v> with H = majorizer(x) is below energy(x + v) "
            "somewhere, by {figure:.1e} of it",
        )


def check_minimizes(
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
            difference = u - p
            excess = excess + inner(difference, difference) / (2 * step)
        # The energy of a constraint is infinite outside: such a candidate is no better.
        violation = torch.maximum(
            violation, torch.where(torch.isfinite(phi(u)), excess, -torch.inf)
        )
    scale = torch.maximum(at_p.abs(), reach.square() / (2 * step)).clamp_min(
        torch.finfo(x.dtype).tiny
    )
    check.at_most(
        f"{what} minimizes",
        violation / scale,
        tolerance,
        f"{what} does not minimize R(u) + |u - x|^2 / (2 step): "
        "another image is better by {figure:.1e} of it",
    )


def check_implicit(
    check: Checklist,
    prior: ImplicitPrior,
    precisions: Sequence[torch.dtype],
    seed: int,
    batch: int = 3,
) -> None:
    """Test ``initial``, ``decode`` and ``energy`` of an implicit prior.

    The tests are of shapes, purity, the independence of items, and the derivative in every leaf.
    """
    for dtype in precisions:
        _check_in(check, prior.to(dtype), dtype, seed, batch)


def _check_in(
    check: Checklist, prior: ImplicitPrior, dtype: torch.dtype, seed: int, batch: int
) -> None:
    short = str(dtype).removeprefix("torch.")
    start, again = prior.initial(), prior.initial()
    names = tuple(start)
    same = names == tuple(again) and all(torch.equal(start[n], again[n]) for n in names)
    check.holds(
        f"initial twice ({short})",
        same,
        "initial() twice gives different parameters; seed its draws",
    )
    wrong = [n for n in names if start[n].dtype != cast_dtype(start[n].dtype, dtype)]
    check.holds(
        f"initial keeps the precision ({short})",
        not wrong,
        f"after to({dtype}), initial()[{wrong[0] if wrong else ''!r}] is not of that precision",
    )
    sizes = {len(start[n]) for n in names} - {1}
    if not check.holds(
        f"initial has a batch axis ({short})",
        all(start[n].ndim for n in names) and len(sizes) <= 1,
        "every leaf of initial() needs the batch, or 1, as its first axis",
    ):
        return
    batch = sizes.pop() if sizes else batch
    leaves = tuple(start[n].expand(batch, *start[n].shape[1:]).clone() for n in names)
    # The items differ, so that mixing them is detected.
    scale = tuple(0.05 * (leaf.abs().mean() + 1e-2) for leaf in leaves)
    leaves = tuple(
        leaf + s * d if _is_continuous(leaf) else leaf
        for leaf, s, d in zip(
            leaves, scale, map(lambda k: _noise(leaves[k], seed + k), range(len(leaves)))
        )
    )

    def decode(*values: Tensor, prior: ImplicitPrior = prior) -> Any:
        decoded = prior.decode(dict(zip(names, values)), Generator(values[0].device).manual_seed(0))
        return decoded if isinstance(decoded, Tensor) else tuple(t for _, t in tree_leaves(decoded))

    x = check_purity(
        check, prior, f"decode ({short})", decode, leaves, tuple(0.9 * t for t in leaves)
    )
    if not check.holds(
        f"decode keeps the batch ({short})",
        all(len(p) == batch for p in parts(x)),
        f"decode of {batch} items gives {len(parts(x)[0])}",
    ):
        return

    def alone(k: int) -> Any:
        return decode(
            *(item(t, k) for t in leaves),
            prior=prior.select(torch.tensor([k], device=leaves[0].device)),
        )

    check_items(check, "decode", x, alone, batch, dtype)
    energy = prior.energy(dict(zip(names, leaves)), prior.decode(dict(zip(names, leaves))))
    check.holds(
        f"energy has shape (batch,) ({short})",
        tuple(energy.shape) == (batch,),
        f"energy(parameters, x) has shape {tuple(energy.shape)}, expected ({batch},)",
    )
    if dtype == torch.float64:
        _check_derivative(check, names, leaves, decode, seed)


def _check_derivative(
    check: Checklist, names: tuple[str, ...], leaves: tuple[Tensor, ...], decode: Any, seed: int
) -> None:
    with torch.enable_grad():
        free = tuple(t.detach().clone().requires_grad_(_is_continuous(t)) for t in leaves)
        x = decode(*free)
        weights = randn_like(tuple(p.detach() for p in parts(x)), seed + 20)
        total = torch.stack([(p * w).sum().real for p, w in zip(parts(x), weights)]).sum()
        if not check.holds(
            "decode is differentiable",
            total.requires_grad,
            "automatic differentiation does not pass through decode; do not detach, "
            "and write it in torch",
        ):
            return
        gradients = torch.autograd.grad(total, free, allow_unused=True)

    def value(t: float) -> Tensor:
        shifted = tuple(
            leaf + t * d if g is not None else leaf
            for leaf, d, g in zip(leaves, directions, gradients)
        )
        return torch.stack(
            [(p * w).sum().real for p, w in zip(parts(decode(*shifted)), weights)]
        ).sum()

    # In proportion to the leaves, so that no kink of a network (ReLU) lies within the step.
    directions = tuple(
        1e-2 * leaf.abs().mean() * _noise(leaf, seed + 30 + k) for k, leaf in enumerate(leaves)
    )
    expected = torch.stack(
        [(g.conj() * d).sum().real for g, d in zip(gradients, directions) if g is not None]
    ).sum()
    step = 1e-5
    check.at_most(
        "decode has the right derivative",
        gap((value(step) - value(-step)) / (2 * step), expected),
        1e-4,
        "the derivative of decode is not the one that finite differences give: "
        "they differ by {figure:.1e} relative",
    )
    used = [n for n, g in zip(names, gradients) if g is not None]
    check.holds("decode uses a parameter", bool(used), "decode depends on none of its parameters")


def _noise(leaf: Tensor, seed: int) -> Tensor:
    return randn_like(leaf, seed) if _is_continuous(leaf) else torch.zeros_like(leaf)


def _is_continuous(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()
