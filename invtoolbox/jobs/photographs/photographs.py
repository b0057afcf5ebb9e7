"""Photographs of a scene: training views, views held out to judge it, and views that fit badly."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox import metrics
from invtoolbox.core.guards import check_range
from invtoolbox.datasets.views.photograph_files import resize
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.errors import InputError, unknown_name
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.jobs.photographs.models import SceneModel


@dataclass(frozen=True, eq=False)
class Photographs:
    """Training views and held-out views of a scene.

    Attributes:
        train: views that the scene is found from.
        held: views held out; may be empty.
    """

    train: PosedPictures
    held: PosedPictures

    @property
    def judged(self) -> PosedPictures:
        """Views that judge a reconstruction: the held-out views, or the training views if none."""
        return self.held if len(self.held) else self.train


def scale(pictures: PosedPictures, factor: float) -> PosedPictures:
    """Return smaller pictures, averaged over areas, with their cameras.

    Args:
        pictures: the pictures.
        factor: ratio of the new size to the old one, above 0 and at most 1.
    """
    check_range("scale", "(0, 1]", factor=factor)
    if factor == 1:
        return pictures
    cameras, source = pictures.cameras.scale(factor), pictures.source
    change: dict[str, Any] = {"cameras": cameras}
    if pictures.sizes is not None:
        across = torch.tensor(cameras.size) / torch.tensor(pictures.cameras.size)
        change["sizes"] = (pictures.sizes * across).long().clamp(min=1)
    if source is not None:
        change["source"] = lambda rows: scale(source(rows), factor)
    elif len(pictures):
        rgba = torch.cat([pictures.pictures, pictures.alpha], dim=1)
        rgba, mask, depth = resize(cameras.size, rgba, pictures.mask, pictures.depth)
        change |= {"mask": mask, "depth": depth}
        change |= {"pictures": rgba[:, :3].contiguous(), "alpha": rgba[:, 3:].contiguous()}
    return replace(pictures, **change)


def split_views(
    pictures: PosedPictures,
    hold_out: int | Sequence[str] = 0,
    train: Sequence[str] | None = None,
    count: int | None = None,
) -> Photographs:
    """Divide views into training views and held-out views.

    Args:
        pictures: all views.
        hold_out: k to hold out every k-th view in the order of the names (numbers in names are
            compared as numbers, so that r_10 follows r_9), 0 for none; or names of views, also with
            ``*`` and ``?``. The held-out views are spread evenly, and neither the first nor the
            last view is held out, because the views next to them are on one side only.
        train: names of the training views; by default all that are not held out.
        count: number of training views, evenly spread over them; by default all.

    Raises:
        InputError: if a name belongs to no view, a view is in both parts, or no training view is
            left.

    >>> from invtoolbox.geometry import look_at
    >>> from dataclasses import replace
    >>> names = ("r_9.png", "r_10.png", "r_1.png")
    >>> cameras = replace(look_at(torch.eye(3) + 0.5, size=(2, 2)), names=names)
    >>> pictures = PosedPictures(cameras, torch.zeros(3, 3, 2, 2), torch.ones(3, 1, 2, 2))
    >>> parts = split_views(pictures, hold_out=2)
    >>> parts.train.cameras.names, parts.held.cameras.names
    (('r_10.png', 'r_1.png'), ('r_9.png',))
    """
    names = pictures.cameras.names or tuple(str(k) for k in range(len(pictures)))
    order = sorted(range(len(names)), key=lambda k: _natural(names[k]))
    held = torch.zeros(len(names), dtype=torch.bool)
    if not isinstance(hold_out, int):
        held = _match(names, hold_out, "held out")
    elif hold_out < 0:
        raise InputError(f"hold_out=k holds out every k-th view, 0 for none, got {hold_out}")
    elif hold_out > 0:
        held[_spread(order, hold_out)] = True
    training = ~held if train is None else _match(names, train, "to train from")
    both = [names[k] for k in (training & held).nonzero().flatten().tolist()]
    if both:
        raise InputError(f"the view {both[0]} is both held out and to train from; choose one")
    if not bool(training.any()):
        raise InputError(
            f"all {len(names)} views are held out, and none is left to train from; hold out fewer"
        )
    rows = torch.tensor([k for k in order if bool(training[k])])
    if count is not None:
        if not 1 <= count <= len(rows):
            raise InputError(f"{count} training views were requested, and there are {len(rows)}")
        rows = rows[torch.arange(count) * len(rows) // count]
    return Photographs(pictures[rows.sort().values], pictures[held])


def judge(
    color: Tensor, truth: PosedPictures, background: float | Tensor, names: Iterable[str]
) -> dict[str, Tensor]:
    """Compute metrics of renderings, one value per view.

    Pixels that the mask of a picture excludes do not count. SSIM is left out if a picture is
    smaller than its window.

    Args:
        color: renderings from 0 to 1, ``(C, 3, height, width)``.
        truth: photographs of the same cameras.
        background: color behind photographs with an alpha.
        names: names of functions of `invtoolbox.metrics`.
    """
    pictures, mask = truth.on(background), None
    if truth.mask is not None:
        mask = (truth.mask > 0).expand_as(pictures)
        color = torch.where(mask, color, pictures)  # the windows of SSIM see no excluded pixel
    small = min(pictures.shape[2:]) < 11
    return {
        name: getattr(metrics, name)(color, pictures, mask=mask)
        for name in names
        if not (small and name == "ssim")
    }


def _spread(order: list[int], hold_out: int) -> list[int]:
    """Return every ``hold_out``-th of some numbers, evenly spread, without the first and the last.

    >>> _spread(list(range(11)), 10), _spread(list(range(20)), 10)
    ([5], [5, 14])
    """
    if hold_out == 1:
        return order
    inside = order[1:-1]
    number = min(round(len(order) / hold_out), len(inside))
    return [inside[int((k + 0.5) * len(inside) / number)] for k in range(number)]


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sorting key that compares numbers in names as numbers."""
    return [
        (int(piece), "") if piece.isdigit() else (-1, piece)
        for piece in re.split(r"(\d+)", name)
        if piece
    ]


def _match(names: Sequence[str], patterns: Sequence[str], purpose: str) -> Tensor:
    """Return a mask of the views that names or patterns match, with or without a suffix."""
    mask, stems = torch.zeros(len(names), dtype=torch.bool), [Path(name).stem for name in names]
    for pattern in patterns:
        rows = [
            k
            for k, spellings in enumerate(zip(names, stems))
            if any(fnmatch.fnmatchcase(spelling, pattern) for spelling in spellings)
        ]
        if not rows:
            raise unknown_name(f"view {purpose}", pattern, stems)
        mask[rows] = True
    return mask


#: Numbers of photographs between which residuals are compared: fewer are no statistic, and more
#: would take long to render.
_LEAST, _MOST = 12, 400
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
    if not names or not _LEAST <= len(pictures) <= _MOST:
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
