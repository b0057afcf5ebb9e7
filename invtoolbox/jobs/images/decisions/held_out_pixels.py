"""Compare a prior with an interpolation on pixels that neither has seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.jobs.images.decisions.judge import Again, Verdict, judge
from invtoolbox.jobs.images.decisions.thresholds import (
    BIHARMONIC_LARGEST,
    BLOCK_PARTS,
    HEAVIEST,
    MOST_HELD,
    PIXEL_ERRORS,
    PIXEL_FOLDS,
    PIXELS_ENOUGH,
)
from invtoolbox.objective.gaps import interpolate
from invtoolbox.operators.imaging.downsampling import Downsampling
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.parameter_choice.held_out import ONE_OF, separate_generator
from invtoolbox.problem import Problem


def compare_in_gaps(problem: Problem, known: Tensor, again: Again) -> Verdict:
    """Predict held-out pixels by the prior and by an interpolation.

    Args:
        problem: a picture with gaps, or a small picture under `Downsampling`.
        known: the pixels that are measured, booleans of the shape of ``y``.
        again: solves another problem in the same way.
    """
    y, A = _pixels(problem), problem.operator
    is_small = isinstance(A, Downsampling)

    def predict(x: Tensor) -> Tensor:
        return A(x) if is_small else x

    def enlarge(image: Tensor) -> Tensor:
        if not is_small:
            return image
        size = problem.image_shape[1:]
        return torch.nn.functional.interpolate(image, size, mode="bicubic", align_corners=False)

    folds = min(PIXEL_FOLDS, -(-PIXELS_ENOUGH // y[0].numel()))
    squares = []
    for fold in range(folds):
        held = torch.cat([hold_out_gaps(mask, fold) for mask in known])
        fitted = known & ~held
        x = again(problem.with_data_term(with_weights(problem, fitted)))
        simple = enlarge(_interpolate_items(y, fitted))
        weights = held * _like_gaps(known, fitted).to(y)
        pair = [weights * (predict(z) - y).square() for z in (x, simple)]
        squares.append(_sum_holes(torch.stack([*pair, weights], 1), held))
    wins, errors = judge(torch.cat(squares, 2), -PIXEL_ERRORS)
    name = "a bicubic interpolation" if is_small else "an interpolation of the known pixels"

    def reason(k: int) -> str:
        prior, simple = (float(error[k]) for error in errors)
        return (
            f"{name} predicts held-out ones to {simple:.3g}, and the prior to {prior:.3g}: x is the "
            "interpolation"
        )

    return Verdict(
        wins,
        lambda k: enlarge(interpolate_smoothly(y[k : k + 1], known[k : k + 1])),
        reason,
        errors[0],
        errors[1],
    )


def hold_out_gaps(known: Tensor, seed: int) -> Tensor:
    """Return pixels to hold out whose gaps resemble the real ones, ``(1, channel, *space)``.

    Candidates are a random sixth of the known pixels, and the pattern of gaps moved by a random
    shift, in a third of the blocks of three sizes. The one is chosen whose distances to the next
    fitted pixel are closest to those of the unknown pixels. No pixel is held out if no candidate
    leaves enough others.

    Args:
        known: booleans ``(channel, *space)``.
        seed: seed of the draws.
    """
    generator = separate_generator(seed)
    first = known.any(0)
    space = first.shape
    scattered = torch.rand(space, generator=generator).to(first.device) < 1 / ONE_OF
    if bool(first.all()):
        return scattered.expand(1, *known.shape) & known
    shift = [int(torch.randint(1, n, (), generator=generator)) if n > 1 else 0 for n in space]
    shifted = ~first.roll(shift, tuple(range(len(space))))
    patterns = [scattered & first]
    for count in BLOCK_PARTS:
        side = [max(1, n // count) for n in space]
        chosen = torch.rand([-(-n // s) for n, s in zip(space, side)], generator=generator) < 1 / 3
        for axis, (n, s) in enumerate(zip(space, side)):
            chosen = chosen.repeat_interleave(s, axis).narrow(axis, 0, n)
        patterns.append(shifted & chosen.to(first.device) & first)
    aim = _mean_distance(~first, first)
    number = int(first.sum())
    most = min(number - 1, max(1.0, MOST_HELD * number))  # at least one pixel is fitted
    patterns = [p for p in patterns if 0 < int(p.sum()) <= most]
    best = min(
        patterns,
        key=lambda p: abs(np.log(_mean_distance(p, first & ~p) / aim)),
        default=torch.zeros_like(first),
    )
    return best.expand(1, *known.shape) & known


def _mean_distance(of: Tensor, to: Tensor) -> float:
    """Return the mean distance of some pixels to the nearest of others."""
    return float(_distances(to)[of.cpu().numpy()].mean())


def _distances(to: Tensor) -> np.ndarray:
    """Return the distance of every pixel to the nearest of some."""
    from scipy.ndimage import distance_transform_edt

    distances: np.ndarray = distance_transform_edt(~to.cpu().numpy())
    return distances


def _like_gaps(known: Tensor, fitted: Tensor) -> Tensor:
    """Return weights by which held-out pixels lie as far from fitted pixels as gaps from known ones.

    The weight is the quotient of the shares of both at a distance (importance sampling), since an
    interpolation loses more with the distance than a prior, or less. Distances are counted in steps
    of half an octave.

    Args:
        known: booleans ``(batch, channel, *space)``.
        fitted: the known pixels that are not held out, booleans of the same shape.
    """
    weights = torch.ones(known.shape, dtype=torch.float64)
    for item, (is_known, is_fitted) in enumerate(zip(known.any(1), fitted.any(1))):
        is_gap, is_held = (~is_known).cpu().numpy(), (is_known & ~is_fitted).cpu().numpy()
        if not is_gap.any() or not is_held.any():
            continue
        steps = [
            (2 * np.log2(np.maximum(_distances(to), 1))).round().astype(int)
            for to in (is_known, is_fitted)
        ]
        gaps, held = (
            np.bincount(step[where], minlength=64) / where.sum()
            for step, where in zip(steps, (is_gap, is_held))
        )
        ratio = np.minimum(gaps / np.maximum(held, 1e-12), HEAVIEST)
        if (ratio * held).any():
            weights[item] = torch.from_numpy(ratio[steps[1]])
    return weights.to(known.device)


def _sum_holes(squares: Tensor, held: Tensor) -> Tensor:
    """Return sums over holes, since errors of the pixels of a hole depend on each other.

    Args:
        squares: ``(batch, 3, channel, *space)``.
        held: the held-out pixels, booleans ``(batch, channel, *space)``; pixels that touch by a
            side or a corner belong to one hole.

    Returns:
        Sums ``(batch, 3, pixels)``, 0 where there is no further hole.
    """
    from scipy.ndimage import label

    touching = np.ones([3] * (held.ndim - 2))
    labels = [label(item.cpu().numpy(), structure=touching)[0] for item in held.any(1)]
    holes = torch.from_numpy(np.stack(labels)).long().to(squares.device).flatten(1)[:, None]
    values = squares.sum(2).flatten(2)
    return torch.zeros_like(values).scatter_add(
        2, (holes - 1).clamp_min(0).expand_as(values), values
    )


def interpolate_smoothly(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels by biharmonic interpolation, large images by means of blocks.

    Args:
        image: ``(1, channel, *space)``.
        known: booleans of the same shape.
    """
    if image[0, 0].numel() > BIHARMONIC_LARGEST or image.ndim != 4:
        return interpolate(image, known)
    channels = []
    for values, mask in zip(image[0].double().cpu().numpy(), known[0].cpu().numpy()):
        scale = float(np.abs(values[mask]).max(initial=0.0)) or 1.0
        channels.append(scale * inpaint_biharmonic(np.where(mask, values / scale, 0), ~mask))
    return torch.as_tensor(np.stack(channels)[None]).to(image)


def _interpolate_items(image: Tensor, known: Tensor) -> Tensor:
    return torch.cat([interpolate_smoothly(*pair) for pair in zip(image.split(1), known.split(1))])


def _pixels(problem: Problem) -> Tensor:
    """Return the measured pixels, zero where none was measured."""
    A: Any = problem.operator
    return A.pseudo_inverse(problem.y) if isinstance(A, Inpainting) else problem.y0


def with_weights(problem: Problem, fitted: Tensor) -> LeastSquares:
    """Return the least squares of some of the measurements.

    Args:
        problem: the whole problem.
        fitted: the measurements that count, booleans that broadcast against ``y``.
    """
    term = problem.data_term
    assert isinstance(term, LeastSquares)
    weights = fitted.to(problem.y0.real)
    if term.weights is not None:
        weights = weights * term.weights.to(weights)
    return LeastSquares(term.noise_std, weights)
