"""The one-liner: measurements and an operator in, a solution out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.jobs.images.decisions.case import Case
from invtoolbox.jobs.images.decisions.default_prior import choose_priors
from invtoolbox.jobs.images.decisions.order import decide, off_words
from invtoolbox.operators.base import Operator
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem, as_measurements
from invtoolbox.solution import Solution
from invtoolbox.solvers.base import Solver


@naming_arguments
def reconstruct(
    y: Any,
    A: Any,
    prior: str | Prior | Sequence[str | Prior] | None = "default",
    noise_std: float | Tensor | None = None,
    data_term: DataTerm | None = None,
    solver: Solver | str | None = None,
    regularization: Any = "auto",
    max_iterations: int | None = None,
    seed: int = 0,
    progress: bool = True,
    automatic: str = "all",
    repair: bool | None = None,
    metal: bool | float = False,
) -> Solution:
    """Reconstruct images from measurements; everything that is not given is chosen.

    Args:
        y: measurements, a tensor or an array, ``(batch, *A.range_shape)``; the batch axis may be
            left out, and the channel axis as well.
        A: the forward operator, or anything `as_operator` takes.
        prior: a prior, a name of ``invtoolbox list priors``, names with commas between them, a list
            of them, or None for least squares. ``"default"`` follows from the kind of problem: a
            denoiser for photographs, total variation for others. ``"auto"`` compares candidates by
            held-out measurements (`it.priors.Auto`).
        noise_std: standard deviation of the noise, a number or one number per item; estimated from
            ``y`` if the rule for the weight needs it (the default does not).
        data_term: misfit between prediction and measurements; by default that of the noise model
            of a deepinv physics, as in `as_reconstructor`, and least squares for other operators.
        solver: solver or its name, as in `solve`.
        regularization: weight of the prior, as in `solve`.
        max_iterations: largest number of iterations, as in `solve`.
        seed: seed of random draws.
        progress: show a progress bar on a terminal.
        automatic: steps that are decided automatically, in the order of ``invtoolbox list decisions``:
            ``"all"``, ``"none"`` (the bits of `it.solve`), or names with a sign. ``"-finer-grid,-gains"``
            starts from all, and ``"+metal"`` from none.
        repair: word of earlier versions: True adds the step ``repairs``, and False leaves out every step
            that mends measurements.
        metal: leave out the rays of a scan that meet metal, and put the metal of the filtered
            back-projection back; True, or the attenuation above which a pixel is metal, as in
            `it.processing.reduce_metal`. It adds the step ``metal``.

    Returns:
        The solution; its ``x`` always has the shape ``(batch, channel, *space)``. Its ``decisions`` state
        which steps were asked, on which evidence they were decided, and what they cost: faults are
        mended, the problem is posed (grid, prior, misfit, bounds), and if the weight is not given,
        other answers are compared with the prior's by measurements that neither has seen. Where the
        prior is no better, ``x`` is the simple answer, as a note states.

    Raises:
        InputError: in the cases of `Problem` and `solve`, for a step that does not exist, and if both ``noise_std`` and
            ``data_term`` are given.

    >>> import torch, invtoolbox as it
    >>> A = it.operators.Blur(torch.ones(1, 3) / 3, (16, 16))
    >>> y = np.zeros((16, 16), dtype=np.float32)
    >>> y[4:12, 4:12] = 1
    >>> it.reconstruct(y, A, prior="tikhonov", noise_std=0.05, progress=False).x.shape
    torch.Size([1, 1, 16, 16])
    """
    problem = _problem_of(y, A, noise_std, data_term)
    priors, names = choose_priors(prior, problem)
    settings = {
        "regularization": regularization,
        "max_iterations": max_iterations,
        "seed": seed,
        "progress": progress,
    }
    off = off_words(automatic, repair)
    if metal is not False:
        off.pop("metal", None)
    threshold = True if metal is False else metal
    case = Case.of(problem, priors, solver, settings, names, threshold)
    return decide(case, off)


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
