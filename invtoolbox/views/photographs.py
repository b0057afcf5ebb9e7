"""Which photographs a scene is found from, and which are held out to judge it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.datasets.views.transforms import PosedPictures
from invtoolbox.errors import InputError, unknown_name


@dataclass(frozen=True, eq=False)
class Photographs:
    """The views of a scene, in two parts.

    Attributes:
        train: those that it is found from.
        held: those held out; there may be none.
    """

    train: PosedPictures
    held: PosedPictures

    @property
    def judged(self) -> PosedPictures:
        """Those that a reconstruction is judged by: what is held out, or where nothing is, what it was found from."""
        return self.held if len(self.held) else self.train

    def scale(self, factor: float) -> Photographs:
        """All of them smaller, averaged over areas."""
        return (
            self
            if factor == 1
            else Photographs(scale(self.train, factor), scale(self.held, factor))
        )


def scale(pictures: PosedPictures, factor: float) -> PosedPictures:
    """Smaller pictures, averaged over areas, and the cameras that take such ones."""
    if not 0 < factor <= 1:
        raise InputError(
            f"pictures are made smaller by a factor above 0 and at most 1, got {factor}"
        )
    if factor == 1:
        return pictures
    cameras = pictures.cameras.scale(factor)
    if not len(pictures):
        return replace(pictures, cameras=cameras)
    rgba = functional.interpolate(
        torch.cat([pictures.pictures, pictures.alpha], dim=1), size=cameras.size, mode="area"
    )
    # A pixel counts where all that it covers does; depths are not averaged over what lies in front of something else.
    mask = (
        None
        if pictures.mask is None
        else (functional.interpolate(1 - pictures.mask, size=cameras.size, mode="area") == 0).to(
            rgba
        )
    )
    depth = (
        None
        if pictures.depth is None
        else functional.interpolate(pictures.depth, size=cameras.size, mode="nearest-exact")
    )
    return replace(
        pictures,
        cameras=cameras,
        pictures=rgba[:, :3].contiguous(),
        alpha=rgba[:, 3:].contiguous(),
        mask=mask,
        depth=depth,
    )


def split_views(
    pictures: PosedPictures,
    hold_out: int | Sequence[str] = 0,
    train: Sequence[str] | None = None,
    count: int | None = None,
) -> Photographs:
    """Divide views into those to train from and those held out.

    Args:
        pictures: all of them.
        hold_out: every so manyth of them in the order of their names, the first one included (numbers count as numbers, so that r_10 comes
            after r_9), 0 for none; or their names, also with ``*`` and ``?``.
        train: the names of those to train from; by default all that are not held out.
        count: how many of these, evenly spread over them; by default all.

    Raises:
        InputError: for a name that no view has, for views that are in both parts, and where none is left to train from.

    >>> from invtoolbox.geometry import look_at
    >>> from dataclasses import replace
    >>> cameras = replace(look_at(torch.eye(3) + 0.5, size=(2, 2)), names=("r_9.png", "r_10.png", "r_1.png"))
    >>> parts = split_views(PosedPictures(cameras, torch.zeros(3, 3, 2, 2), torch.ones(3, 1, 2, 2)), hold_out=2)
    >>> parts.train.cameras.names, parts.held.cameras.names
    (('r_9.png',), ('r_10.png', 'r_1.png'))
    """
    names = pictures.cameras.names or tuple(str(k) for k in range(len(pictures)))
    order = sorted(range(len(names)), key=lambda k: _natural(names[k]))
    held = torch.zeros(len(names), dtype=torch.bool)
    if not isinstance(hold_out, int):
        held = _named(names, hold_out, "held out")
    elif hold_out < 0:
        raise InputError(f"every so manyth view is held out, 0 for none, got {hold_out}")
    elif hold_out > 0:
        held[torch.tensor(order[::hold_out])] = True
    kept = ~held if train is None else _named(names, train, "to train from")
    both = [names[k] for k in (kept & held).nonzero().flatten().tolist()]
    if both:
        raise InputError(f"the view {both[0]} is both held out and to train from; choose one")
    if not bool(kept.any()):
        raise InputError(
            f"all {len(names)} views are held out, and none is left to train from; hold out fewer"
        )
    rows = torch.tensor([k for k in order if bool(kept[k])])
    if count is not None:
        if not 1 <= count <= len(rows):
            raise InputError(f"{count} views are to be trained from, and there are {len(rows)}")
        rows = rows[torch.arange(count) * len(rows) // count]
    return Photographs(pictures[rows.sort().values], pictures[held])


def _natural(name: str) -> list[tuple[int, str]]:
    """A key under which numbers in names are in the order of numbers."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]


def _named(names: Sequence[str], wanted: Sequence[str], what: str) -> Tensor:
    """Which views the names or patterns mean, with or without the suffix of the file."""
    mask = torch.zeros(len(names), dtype=torch.bool)
    for word in wanted:
        found = [
            k
            for k, name in enumerate(names)
            if fnmatch.fnmatchcase(name, word) or fnmatch.fnmatchcase(Path(name).stem, word)
        ]
        if not found:
            raise unknown_name(f"view {what}", word, [Path(name).stem for name in names])
        mask[found] = True
    return mask
