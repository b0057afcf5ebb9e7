"""Photographs that do not fit the scene of the others: blurred, of something else, or with motion.

A few such pictures spoil a scene, because the misfit averages over all of them. They are found by
their residuals under the scene so far, compared with the residuals of photographs taken nearby, and
left out of what follows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.jobs.photographs.models import SceneModel

#: Numbers of photographs between which residuals are compared: fewer are no statistic, and more
#: would take long to render.
LEAST, MOST = 12, 400
#: Number of photographs nearby that one is compared with.
_NEAR = 8
#: Robust standard deviations above which a view stands out, and factors that it must exceed: of the
#: mean error, and of the lack of fine detail. The error of the worst block named clean pictures as
#: well, because thin things are often seen by one view alone.
_DEVIATIONS, _FACTORS = (6.0, 5.0), (1.3, 1.3)
#: Mean error above which a view shows something else.
_STRANGE = 0.1


def find_bad_views(model: SceneModel, x: Any, pictures: PosedPictures) -> dict[str, str]:
    """Return the names of views that fit badly, with the reason.

    Two logarithms are compared per view with their median over the `_NEAR` nearest cameras: the mean
    error, and the lack of fine detail against the rendering. A view stands out by the median
    absolute deviation of these differences over all views.

    Args:
        model: model of the scene.
        x: scene that was found from these and other views.
        pictures: the views.
    """
    names = pictures.cameras.names
    if not names or not LEAST <= len(pictures) <= MOST:
        return {}
    measures = torch.stack([_measure(model, x, view) for view in pictures.each()])
    if float(measures[:, 0].median().exp()) > _STRANGE:  # nothing is found yet
        return {}
    near = _nearest(pictures.cameras)
    excess = measures - measures[near].median(1).values
    deviation = 1.4826 * (excess - excess.median(0).values).abs().median(0).values
    least = torch.tensor(_FACTORS).log()
    bound = torch.maximum(torch.tensor(_DEVIATIONS) * deviation, least)
    error, blur = (excess - excess.median(0).values > bound).unbind(1)
    strange = error & (measures[:, 0].exp() > _STRANGE)
    reasons = {
        "shows something else, or its camera is wrong": strange,
        "is blurred": blur & ~strange,
        "shows something that moved, or that no other shows": error & ~strange & ~blur,
    }
    return {
        names[k]: reason
        for reason, chosen in reasons.items()
        for k in chosen.nonzero().flatten().tolist()
    }


def _measure(model: SceneModel, x: Any, view: PosedPictures) -> Tensor:
    """Return the logarithms of the mean error and of the lack of detail, ``(2,)``."""
    photograph, rendering = view.on(model.shade()), model.look(x, view.cameras).color
    counts = torch.ones_like(photograph[:, :1]) if view.mask is None else view.mask
    # Exposure is no misfit: the gain per channel that fits best.
    products = (counts * rendering * photograph).sum((2, 3)), (counts * rendering**2).sum((2, 3))
    rendering = rendering * (products[0] / products[1].clamp_min(1e-6))[..., None, None]
    error = counts * (photograph - rendering)
    # A motion blurs one axis: mean squared differences along rows and along columns.
    detail = [
        torch.stack([(counts * picture).diff(dim=axis).square().mean() for axis in (2, 3)])
        for picture in (rendering, photograph)
    ]
    lack = (detail[0] / detail[1].clamp_min(1e-8)).amax()
    mean = error.abs().mean(1).sum() / counts.sum().clamp_min(1)
    return torch.stack([mean, lack]).clamp_min(1e-6).log()


def _nearest(cameras: Cameras) -> Tensor:
    """Return the numbers of the nearest cameras of each camera, in place and direction."""
    centres, axes = cameras.centres, cameras.world_to_camera[:, 2, :3]
    apart = torch.cdist(centres, centres)
    apart = apart / apart.median().clamp_min(1e-9) + 1 - axes @ axes.T
    apart.fill_diagonal_(torch.inf)
    return apart.topk(min(_NEAR, len(apart) - 1), largest=False).indices
