"""Compare an image of k-space with zero filling by samples that neither has seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.jobs.images.decisions.held_out_pixels import with_weights
from invtoolbox.jobs.images.decisions.judge import Again
from invtoolbox.jobs.images.decisions.thresholds import (
    RINGS_OF_FREQUENCIES,
    SAMPLES_HELD,
    SAMPLES_SEED,
)
from invtoolbox.operators.mri.cartesian import CartesianMRI
from invtoolbox.parameter_choice.held_out import separate_generator
from invtoolbox.problem import Problem


def leave_out_samples(problem: Problem) -> Problem:
    """Return k-space whose mask leaves out the samples of weight 0, and other problems as they are.

    Otherwise zero filling takes such samples for measurements. Items without any weight keep their mask.

    Args:
        problem: measurements, operator and data term.
    """
    A, weights = problem.operator, getattr(problem.data_term, "weights", None)
    if not isinstance(A, CartesianMRI) or weights is None:
        return problem
    mask = A.mask * (weights != 0).to(A.mask)
    mask = torch.where((mask != 0).flatten(1).any(1).view(-1, *[1] * (mask.ndim - 1)), mask, A.mask)
    if bool(((mask != 0) == (A.mask != 0)).all()):
        return problem
    changed = problem.with_measurements(problem.y0.where(mask != 0, 0))
    return changed.with_operator(A.with_parameters(mask=mask))


def predict_gaps(problem: Problem, again: Again) -> tuple[Tensor, Tensor]:
    """Return the squared errors that the prior and zero filling have in the gaps, ``(batch,)`` each.

    Both come from the remaining samples and predict held-out ones, whose squared errors are summed with
    the number of gaps per held-out sample of their ring of frequencies. The noise of the held-out
    samples counts in both. Masks of lines are held out by lines.

    Args:
        problem: k-space on a grid.
        again: solves another problem in the same way.
    """
    A: Any = problem.operator
    y = problem.y0
    sampled = (A.sampled > 0).any(1).expand(problem.batch, *A.sampled.shape[2:])
    gaps = torch.stack([_gaps_of_held(mask, A.axes) for mask in sampled])[:, None].to(y.device)
    fitted = gaps == 0
    x = again(problem.with_data_term(with_weights(problem, fitted)))
    simple = A.with_parameters(mask=A.mask * fitted.to(A.mask)).pseudo_inverse(y)
    gaps = gaps * A.sampled.to(gaps)  # a coil may lack samples that others have
    by_prior, by_simple = (
        (gaps * (A(image) - y).abs().square()).flatten(1).sum(1) for image in (x, simple)
    )
    return by_prior, by_simple


def _gaps_of_held(sampled: Tensor, axes: int) -> Tensor:
    """Draw samples to hold out, and return the number of gaps that each of them stands for.

    Samples nearer to frequency zero than every gap are never held out, and no sample is if no other
    would remain.

    Args:
        sampled: mask of the samples, booleans ``(*space)``.
        axes: number of the last axes that are frequencies.

    Returns:
        A number per place, float64, 0 for samples that are not held out.
    """
    space = sampled.shape
    lines = sampled.cpu()
    for axis in range(sampled.ndim):
        if bool((lines.all(axis) == lines.any(axis)).all()):
            lines = lines.narrow(axis, 0, 1)
    radius = torch.zeros(lines.shape, dtype=torch.float64)
    for axis in range(sampled.ndim - axes, sampled.ndim):
        n = space[axis]
        if lines.shape[axis] == n > 1:
            distance = (torch.arange(n).double() - n // 2) / (n / 2)
            radius += distance.square().view(-1, *[1] * (sampled.ndim - 1 - axis))
    counts = torch.zeros(lines.shape, dtype=torch.float64)
    gaps = ~lines
    if not bool(gaps.any()):
        return counts.expand(space)
    radii, _ = radius[gaps].sort()
    bounds = radii[[len(radii) * k // RINGS_OF_FREQUENCIES for k in range(RINGS_OF_FREQUENCIES)]]
    ring = torch.bucketize(radius, bounds, right=True) - 1  # -1 in the middle
    generator = separate_generator(SAMPLES_SEED)
    rest = 0  # gaps of rings further out that hold no samples
    for k in reversed(range(RINGS_OF_FREQUENCIES)):
        candidates = (lines & (ring == k)).flatten().nonzero().squeeze(1)
        rest += int((gaps & (ring == k)).sum())
        if len(candidates):
            order = torch.randperm(len(candidates), generator=generator)
            chosen = candidates[order[: -(-len(candidates) // SAMPLES_HELD)]]
            counts.view(-1)[chosen] = rest / len(chosen)
            rest = 0
    if not bool((lines & (counts == 0)).any()):
        counts = torch.zeros_like(counts)
    return counts.expand(space)
