"""Checks of the noise level, and of zeros that are no measurements."""

from __future__ import annotations

import torch

from invtoolbox.data_terms.base import ResidualTerm
from invtoolbox.measurements.findings import Finding, Subject, leave_out, register
from invtoolbox.operators.base import Operator
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.blur_3d import Blur3D
from invtoolbox.operators.imaging.downsampling import Downsampling
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.operators.imaging.space_varying_blur import SpaceVaryingBlur
from invtoolbox.operators.mri.cartesian import CartesianMRI
from invtoolbox.operators.mri.fourier import Fourier
from invtoolbox.operators.mri.non_uniform_fourier import NonUniformFourier
from invtoolbox.operators.tomography.scan_2d import Scan

#: Kinds of measurements whose noise can be told from their structure.
_KINDS = (
    Identity,
    Blur,
    Blur3D,
    SpaceVaryingBlur,
    Downsampling,
    Inpainting,
    Scan,
    Fourier,
    CartesianMRI,
    NonUniformFourier,
)
#: Least number of measurements of one item, from which their noise is estimated.
_LEAST = 1024
#: Ratio of the stated to the estimated noise level, either way, that cannot be an error of the
#: estimate.
_FAR = 4.0
#: Fine structure is taken for noise: an estimate below this share of the largest measurement does
#: not contradict a smaller level.
_STRUCTURE = 0.02
#: Least number of views and of cells of a scan whose noise contradicts a smaller level.
_SMALL = 40
#: Share of the measurements of a spectrum that may be exactly zero.
_ZEROS = 0.05
#: Largest values of pictures and scanners of 8, 12 and 16 bits.
_FULL_SCALES = (255.0, 4095.0, 65535.0)


@register(Operator)
def check_noise_level(subject: Subject) -> Finding | None:
    """Find a stated noise level that is far from the estimated one, or in other units."""
    D, y = subject.problem.data_term, subject.problem.y0
    if not isinstance(D, ResidualTerm) or D.noise_std is None:
        return None
    size = y.abs().flatten(1).amax(1).cpu().double()
    stated = D.noise_std.detach().cpu().double().expand(len(size))
    can_estimate = isinstance(subject.operator, _KINDS) and y[0].numel() >= _LEAST
    estimated = subject.noise_std if can_estimate else None
    if estimated is None or not bool(estimated.isfinite().all()):
        loud = (stated > size) & (size > 0)
        if not bool(loud.any()):
            return None
        k = int(loud.nonzero()[0])
        return Finding(
            "noise",
            f"noise_std = {float(stated[k]):.4g} is larger than every measurement (at most "
            f"{float(size[k]):.4g}); give it in the units of the measurements",
        )
    # Rounding to float32 is a noise too; below it no level can be estimated.
    estimated = estimated.maximum(1e-6 * size)
    ratio = stated / estimated.clamp_min(1e-300)
    # Pictures of whole grey levels, and a noise level for values from 0 to 1.
    other_units = (ratio < 1 / 50) & (size > 2) & (estimated > 0.25 * _STRUCTURE * size)
    certain = ((estimated > _STRUCTURE * size) | other_units) & (not y.is_complex())
    # On a small detector, the windows of an estimate are no small part of the object.
    certain &= not isinstance(subject.operator, Scan) or min(y.shape[2], y.shape[-1]) >= _SMALL
    off = ((ratio > _FAR) | (ratio < 1 / _FAR) & certain) & (size > 0)
    if not bool(off.any()):
        return None
    k = int(off.nonzero()[0])
    level, estimate, factor = float(stated[k]), float(estimated[k]), float(ratio[k])
    scales = () if isinstance(subject.operator, Scan) else _FULL_SCALES
    scale = next((s for s in scales if 0.5 < factor / s < 2 or 0.5 < factor * s < 2), None)
    if scale is None:
        hint = "check its units and its value, or leave it out to have it estimated"
    elif factor > 1:
        hint = f"it seems to be in units of 1 / {scale:g}; {level / scale:.4g} would fit"
    else:
        hint = (
            f"the measurements seem to be in units of 1 / {scale:g}; {level * scale:.4g} would fit"
        )
    return Finding(
        "noise",
        f"noise_std = {level:.4g} is {_times(factor)} the noise estimated from the measurements, "
        f"{estimate:.4g}; {hint}",
        item=k,
    )


@register(Fourier, CartesianMRI, NonUniformFourier)
def check_zeros(subject: Subject) -> Finding | None:
    """Find samples of a spectrum that are exactly zero because they were not taken."""
    y = subject.problem.y0
    if not y.is_complex() or y.numel() == 0:
        return None
    weights = getattr(subject.problem.data_term, "weights", None)
    if weights is None:  # such as `Exact`, which leaves the mask to the operator
        weights = subject.problem.operator.sampled
    counted = (
        torch.ones_like(y, dtype=torch.bool)
        if weights is None
        else (weights.to(y.device) > 0).expand_as(y)
    )
    blank = (y == 0) & counted
    share = float(blank.sum()) / max(1, int(counted.sum()))
    # A single line without any signal was not taken either.
    empty = [
        int((blank | ~counted).all(axis).logical_and(counted.any(axis)).all(1).sum())
        for axis in (-1, -2)
    ]
    if share == 1 or (share <= _ZEROS and not (y.ndim >= 4 and any(empty))):
        return None
    lines = (
        f" ({empty[0]} rows and {empty[1]} columns entirely)" if y.ndim >= 4 and any(empty) else ""
    )
    return Finding(
        "zeros",
        f"{share:.1%} of the samples that count as measured are exactly zero{lines}, so they were "
        "probably not taken; give the operator their mask (y != 0), or "
        "LeastSquares(weights=(y != 0).float())",
        repair=lambda problem: leave_out(problem, blank),
    )


def _times(factor: float) -> str:
    if factor >= 1:
        return f"{factor:.3g} times"
    return f"1 / {1 / factor:.3g} of"
