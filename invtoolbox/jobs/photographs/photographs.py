"""Photographs of a scene: the training views, and the views held out to judge the result."""

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
