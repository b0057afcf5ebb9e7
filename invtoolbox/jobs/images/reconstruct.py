"""The one-liner: measurements and an operator in, a solution out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from invtoolbox.catalogue.presets import priors_named, split_priors
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.jobs.images.automatic import solve_automatically, solve_with_defaults
from invtoolbox.jobs.images.metal import solve_without_metal
from invtoolbox.jobs.images.repairs import solve_repaired
from invtoolbox.jobs.images.wide_grid import find_wider, solve_beyond
from invtoolbox.operators.base import Operator
from invtoolbox.priors.automatic import Auto
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem, as_measurements
from invtoolbox.solution import Solution
from invtoolbox.solvers.base import Solver


@naming_arguments
def reconstruct(
    y: Any,
    A: Any,
    prior: str | Prior | Sequence[str | Prior] | None = "tv",
    noise_std: float | Tensor | None = None,
    data_term: DataTerm | None = None,
    solver: Solver | str | None = None,
    regularization: Any = "auto",
    max_iterations: int | None = None,
    seed: int = 0,
    progress: bool = True,
    repair: bool | None = None,
    metal: bool | float = False,
) -> Solution:
    """Reconstruct images from measurements; everything that is not given is chosen.

    Args:
        y: measurements, a tensor or an array, ``(batch, *A.range_shape)``; the batch axis may be
            left out, and the channel axis as well.
        A: the forward operator, or anything `as_operator` takes.
        prior: a prior, a name of ``invtoolbox list priors``, names with commas between them, a list
            of them, or None for least squares. ``"auto"`` compares candidates by held-out
            measurements (`it.priors.Auto`). ``"tv"`` also bounds an image of a short arc by the rays
            that nothing absorbs.
        noise_std: standard deviation of the noise, a number or one number per item; estimated from
            ``y`` if the rule for the weight needs it (the default does not).
        data_term: misfit between prediction and measurements; by default that of the noise model
            of a deepinv physics, as in `as_reconstructor`, and least squares for other operators.
        solver: solver or its name, as in `solve`.
        regularization: weight of the prior, as in `solve`.
        max_iterations: largest number of iterations, as in `solve`.
        seed: seed of random draws.
        progress: show a progress bar on a terminal.
        repair: first mend what can be mended, as in `solve`, and subtract gains of the cells of a
            scan. By default, only what is certain is mended. Dead, hot and clipped readings are left
            out if a fit to the others predicts another value: a thin plate that a ray meets
            lengthwise looks like a hot reading, but other rays show it too. Gains of cells are
            subtracted if no image explains them and no other check finds a mistake. The kernel of a
            blur is scaled if the picture's spectrum fits it better and edges then ring less, from
            64 pixels per side on. Every repair is a note.
        metal: leave out the rays of a scan that meet metal, and put the metal of the filtered
            back-projection back; True, or the attenuation above which a pixel is metal, as in
            `it.processing.reduce_metal`.

    Returns:
        The solution; its ``x`` always has the shape ``(batch, channel, *space)``. If the weight is
        not given, the answer is compared with a simple one: a picture with gaps with its
        interpolation, a denoised picture with the noisy one, an enlarged picture with the bicubic
        one, a scan with its filtered back-projection. Where the prior is no better, ``x`` is the
        simple answer, as a note says. A scan of a small image is also solved on pixels of half the
        size; if they predict held-out views better, ``x`` is the mean over blocks of them. A blurred
        picture under the boundary "reflect" is also solved under "valid", with unknowns beyond its
        edges, and ``x`` is its answer if that has clearly less total variation. If rays
        of a scan that miss the image measure an object there, ``x`` is the middle of the solution
        on a grid that covers the detector's field of view. If the object of a 2D scan is wider than
        the detector, its views are continued by `extend_truncated`, unless no image explains what
        that adds.

    Raises:
        InputError: in the cases of `Problem` and `solve`, and if both ``noise_std`` and
            ``data_term`` are given.

    >>> import torch, invtoolbox as it
    >>> A = it.operators.Blur(torch.ones(1, 3) / 3, (16, 16))
    >>> y = np.zeros((16, 16), dtype=np.float32)
    >>> y[4:12, 4:12] = 1
    >>> it.reconstruct(y, A, prior="tikhonov", noise_std=0.05, progress=False).x.shape
    torch.Size([1, 1, 16, 16])
    """
    problem = _problem_of(y, A, noise_std, data_term)
    # Objects stay as the user made them.
    entries = split_priors(prior)
    names = entries if all(isinstance(entry, str) for entry in entries) else []
    prior = priors_named(entries)

    def run(chosen: Problem, items: Tensor) -> Solution:
        priors, weight = None if prior is None else prior.select(items), regularization
        if isinstance(weight, Tensor) and weight.numel() > 1:
            weight = weight.index_select(0, items.to(weight.device))
        settings: dict[str, Any] = {"regularization": weight, "max_iterations": max_iterations}
        settings |= {"seed": seed, "progress": progress}
        if isinstance(priors, Auto):
            return solve_automatically(chosen, priors, solver, settings)
        return solve_with_defaults(chosen, priors, names, solver, settings)

    def solve_some(chosen: Problem, places: Tensor) -> Solution:
        if (wider := find_wider(chosen)) is None:
            return run(chosen, places)
        return solve_beyond(chosen, wider, lambda inner, items: run(inner, places[items]))

    def solve_reduced(chosen: Problem, places: Tensor) -> Solution:
        if metal is False:
            return solve_some(chosen, places)
        return solve_without_metal(
            chosen, lambda inner, items: solve_some(inner, places[items]), metal
        )

    return solve_repaired(problem, solve_reduced, repair)


def _problem_of(
    y: Any, A: Any, noise_std: float | Tensor | None, data_term: DataTerm | None
) -> Problem:
    """Return the problem of the arguments of `reconstruct`."""
    if data_term is not None and noise_std is not None:
        raise InputError("give noise_std, or a data_term that knows it, not both")
    operator, y = (A, y) if isinstance(A, Operator) else _operator_of(A, y)
    y = with_axes(y, operator)
    if data_term is None and noise_std is None and _is_of_deepinv(A):
        from invtoolbox.data_terms.deepinv_noise import likelihood

        return Problem(*likelihood(y, operator, A))
    term = LeastSquares(noise_std=noise_std) if data_term is None else data_term
    return Problem(y, operator, term)


def _is_of_deepinv(obj: Any) -> bool:
    deepinv = sys.modules.get("deepinv")
    return deepinv is not None and isinstance(obj, deepinv.physics.Physics)


def _operator_of(obj: Any, y: Any) -> tuple[Operator, Any]:
    """Return the operator of an object, and the measurements without deepinv's ``TensorList``.

    Physics of deepinv may leave the shape of images to ``y``.
    """
    if isinstance(y, Operator) or _is_of_deepinv(y):
        raise InputError(
            "the arguments are exchanged: reconstruct(y, A) takes the measurements first"
        )
    if _is_of_deepinv(obj):
        from invtoolbox.operators.deepinv_physics import operator_of, to_tuple

        y = as_measurements(y) if _is_array(y) else y
        return operator_of(y, obj, None), to_tuple(y)
    from invtoolbox.operators.adapters import as_operator

    return as_operator(obj), y


def with_axes(y: Any, A: Operator) -> Any:
    """Return measurements with the batch axis and the channel axis that were left out.

    Args:
        y: measurements, a tensor, an array or a tuple of them.
        A: operator that predicts them.
    """
    shape = A.range_shape
    is_plain = bool(shape) and not isinstance(shape[0], tuple)
    if isinstance(y, (tuple, list)) and not (is_plain and _holds_numbers(y)):
        return y
    y = np.asarray(y) if isinstance(y, (tuple, list)) else y  # in double precision
    tensor = y if isinstance(y, Tensor) else as_measurements(y)
    if not is_plain:
        return tensor
    missing = len(shape) + 1 - tensor.ndim
    if missing == 2 and shape[0] == 1:
        return tensor[None, None]
    return tensor[None] if missing == 1 else tensor


def _holds_numbers(values: Any) -> bool:
    """Return whether a list holds numbers at its ends, as ``array.tolist()`` does."""
    while isinstance(values, (tuple, list)) and values:
        values = values[0]
    return isinstance(values, (int, float, complex))


def _is_array(values: Any) -> bool:
    return isinstance(values, (np.ndarray, str, bytes, PurePath))
