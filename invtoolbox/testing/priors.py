"""`check_prior`: test a prior against its contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.core.content import digest
from invtoolbox.core.guards import as_tensor
from invtoolbox.core.reductions import norm_items
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.operators.elementary import Identity
from invtoolbox.priors.base import ExplicitPrior, ImplicitPrior, Prior, PriorSum
from invtoolbox.priors.learned.denoiser import WORSE
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.testing.common import (
    ROUNDING,
    Checklist,
    Report,
    check_items,
    check_kind,
    check_purity,
    gap,
    in_precision,
    item,
    randn_like,
)
from invtoolbox.testing.operators import PRECISIONS
from invtoolbox.testing.prior_methods import check_agreement, check_implicit

#: Error of a denoised image, in norms of the noise, that is no fault whatever the image.
_SHARE_OF_NOISE = 3.0


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
    """Test a prior against its contract, on images ``x`` of the kind that it is meant for.

    Every method that the prior offers is tested: shape, precision and device are kept, a call
    changes nothing, a second call is bitwise equal, an item gives the same result alone and in a
    batch, steps and noise levels may differ from item to item, and a permuted batch gives the
    permuted result. The methods are compared in float64:

    * ``gradient`` is the gradient of ``energy``, by finite differences in random directions;
    * ``prox(x, step)`` minimizes ``R(u) + |u - x|^2 / (2 step)``: no other candidate is better, and
      for a convex prior every other is worse by at least ``|u - prox|^2 / (2 step)``;
    * if ``is_convex``, no midpoint of two images has a larger energy than the two on average (or,
      without an energy, the gradient is monotone);
    * a prox of a convex prior is firmly nonexpansive, with or without an energy;
    * ``denoise`` leaves noisy images nearer to the clean ones than a constant is;
    * ``weights(x) x`` is the gradient, and if ``is_majorizer``, the weights make a majorant;
    * the quadratic of ``majorizer(x)`` lies above the energy;
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
    x = _require(prior, x)
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
                steps=steps,
                sigmas=sigmas,
                precisions=precisions,
                seed=seed,
                prox_tolerance=prox_tolerance,
                item_tolerance=item_tolerance,
            )
        if prepared.implicit is not None:
            with check.attempt("the implicit prior"):
                check_implicit(check, prepared.implicit, precisions, seed)
    return check.finish(raise_error)


def _require(prior: Any, x: Any) -> Tensor:
    """Return images as a tensor, or raise an `InputError` if an argument is of another kind."""
    if not isinstance(prior, (PriorSum, ImplicitPrior, ExplicitPrior)):
        if isinstance(prior, type):
            name = prior.__name__
            got = f"the class {name}; make an object of it, {name}()"
        else:
            got = f"a {type(prior).__name__}; it.as_prior makes functions and networks priors"
        raise InputError(f"check_prior takes an explicit or an implicit prior, got {got}")
    images = as_tensor(x)
    if images.ndim < 3 and not isinstance(prior, ImplicitPrior):
        raise InputError(
            f"check_prior takes images (batch, channel, *space), got the shape {tuple(images.shape)}; "
            "add axes in front, x[None, None]"
        )
    return images


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
                check,
                prior.to(dtype),
                in_precision(x, dtype),
                steps=steps,
                sigmas=sigmas,
                dtype=dtype,
                item_tolerance=item_tolerance,
            )
    unusable = (" has the shape", " runs", " gives tensors")
    if torch.float64 in precisions and not any(
        not f.ok and any(word in f.name for word in unusable) for f in check.findings
    ):
        with check.attempt("the comparison of the methods"):
            check_agreement(
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
    short, batch, reversed_x = str(dtype).removeprefix("torch."), len(x), x.flip(-1) * 0.9 + 0.02
    order = torch.arange(batch - 1, -1, -1, device=x.device)

    def test(
        name: str,
        call: Callable[[ExplicitPrior, Tensor, Tensor], Tensor],
        levels: Sequence[float],
        image: bool,
    ) -> None:
        if _check_signature(check, prior, name):
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
            check, prior, f"{name} ({short})", lambda u: call(prior, u, level), (x,), (reversed_x,)
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
            batch=batch,
            dtype=dtype,
            tolerance=item_tolerance,
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
        if _check_signature(check, prior, "denoise"):
            with check.attempt(f"the effect of denoise ({short})"):
                _check_effect(check, prior, x, sigmas, short)


def _check_signature(check: Checklist, prior: ExplicitPrior, name: str) -> bool:
    """Check that a method takes the arguments that solvers pass by position."""
    expected = inspect.signature(getattr(ExplicitPrior, name))
    signature = inspect.signature(getattr(prior, name))
    try:
        signature.bind(*list(expected.parameters)[1:])
    except TypeError as error:
        return check.holds(
            f"{name} takes its arguments",
            False,
            f"{name}{signature} does not take what solvers pass, {error}; write def {name}"
            f"({', '.join(expected.parameters)})",
        )
    return True


def _check_effect(
    check: Checklist, prior: ExplicitPrior, x: Tensor, sigmas: Sequence[float], short: str
) -> None:
    """Check that denoised images are nearer to clean images than constant images are."""
    levels = (prior.sigma,) if prior.fixed_level or prior.unit_step else sigmas
    clean = x - x.flatten(2).mean(2).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    for level in levels:
        sigma = torch.as_tensor(level, dtype=x.real.dtype, device=x.device).expand(len(x))
        noise = expand(sigma, x) * randn_like(x, seed=1)
        error = norm_items(prior.denoise(x + noise, sigma) - x)
        # Images that a level exceeds may well become constant.
        allowed = torch.maximum(norm_items(clean), _SHARE_OF_NOISE * norm_items(noise))
        check.at_most(
            f"denoise keeps the image ({short})",
            (error / allowed).min(),
            WORSE,
            f"denoise at sigma {float(sigma[0]):g} leaves images farther from the clean ones than a "
            "constant is, {figure:.2g} times; it returns the image without noise, in the scale of "
            "its argument: subtract a predicted noise from x, and divide by the scale of the network",
        )
