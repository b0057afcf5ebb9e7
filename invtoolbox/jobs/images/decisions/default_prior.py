"""The default prior, by the kind of problem."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from invtoolbox.catalogue.presets import priors_named, split_priors
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.decisions.one_material import is_absorption
from invtoolbox.jobs.images.decisions.thresholds import LOWEST_OF_PHOTOGRAPH
from invtoolbox.measurements.ranges import highest, is_in_range
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.downsampling import Downsampling
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem, fitted_back_projection

#: The word for the default prior.
DEFAULT = "default"
#: Kinds of problems and their default priors.
TABLE = {
    "photographs: one or three channels, least squares, values from 0 to about 1": "denoiser-natural",
    "scans in which no measurement is negative beyond the noise": "tv,nonnegative",
    "all others": "tv",
}
_PHOTOGRAPHS, SCANS, _OTHERS = TABLE.values()


def default_prior(problem: Problem) -> str:
    """Return the name of the default prior of a problem.

    Args:
        problem: measurements, operator and data term.

    >>> import torch
    >>> picture, A = torch.rand(1, 3, 32, 32), Identity((3, 32, 32))
    >>> default_prior(Problem(picture, A)), default_prior(Problem(200 * picture, A))
    ('denoiser-natural', 'tv')
    """
    A, y = problem.operator, problem.y
    if type(problem.data_term) is not LeastSquares or not isinstance(y, Tensor) or y.is_complex():
        return _OTHERS
    if isinstance(A, Scan):
        return SCANS if is_absorption(problem.without_skipping()) else _OTHERS
    is_picture = isinstance(A, (Identity, Blur, Inpainting, Downsampling)) and not problem.unknown
    if is_picture and y.ndim == 4 and y.shape[1] in (1, 3):
        x = fitted_back_projection(problem.without_skipping()).detach()
        if is_in_range(highest(x), (0, 1)) and -highest(-x) > LOWEST_OF_PHOTOGRAPH:
            return _PHOTOGRAPHS
    return _OTHERS


def choose_priors(
    prior: str | Prior | Sequence[str | Prior] | None, problem: Problem
) -> tuple[Prior | None, list[str]]:
    """Return the sum of priors, and their names if all were chosen by their names.

    Args:
        prior: priors and names as in `reconstruct`; ``"default"`` alone is `default_prior`.
        problem: measurements, operator and data term.

    Raises:
        InputError: for an unknown name, or if ``"default"`` stands next to other priors.
    """
    entries = split_priors(default_prior(problem) if prior == DEFAULT else prior)
    if any(isinstance(entry, str) and entry == DEFAULT for entry in entries):
        raise InputError("prior 'default' stands alone; leave the others out, or name all priors")
    names = entries if all(isinstance(entry, str) for entry in entries) else []
    return priors_named(entries), names
