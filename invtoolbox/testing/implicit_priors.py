"""Checks of an implicit prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.core.pytrees import tree_leaves
from invtoolbox.core.settings import cast_dtype
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.testing.common import (
    Checklist,
    check_items,
    check_purity,
    gap,
    item,
    parts,
    randn_like,
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
