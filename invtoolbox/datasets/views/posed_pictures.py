"""Pictures with their cameras, in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.geometry.cameras import Cameras

#: Fields with one picture per camera.
_PICTURES = ("pictures", "alpha", "mask", "depth")


@dataclass(frozen=True, eq=False)
class PosedPictures:
    """Pictures, and the cameras that took them.

    Attributes:
        cameras: C cameras, in the order of the pictures; ``cameras.names`` are the names of the
            files.
        pictures: RGB between 0 and 1, premultiplied by the alpha, ``(C, 3, height, width)``.
        alpha: alpha, ``(C, 1, height, width)``; ones if the files have no alpha.
        skipped: names of the frames without a file.
        mask: 1 for pixels that count and 0 for pixels that the set excludes,
            ``(C, 1, height, width)``; None if all pixels count.
        depth: depth along the camera's z in the unit of the poses, 0 if unknown,
            ``(C, 1, height, width)``; or None.
        points: points of the scene in the world, ``(N, 3)``, or None.
        colors: colors of the points in [0, 1], ``(N, 3)``, or None.
        box: corners ``(low, high)`` of the part of the world that contains the scene, ``(2, 3)``,
            or None.
        near_far: least and largest depth of the scene per camera, ``(C, 2)``, or None.
        sizes: height and width of each picture if they differ, ``(C, 2)``; otherwise None. Smaller
            pictures lie in the upper left corner, and the mask is 0 outside of them.
        source: function that reads the pictures of some numbers from files; None if the tensors
            hold the pictures. With a source, `pictures` and `alpha` have no rows, and `read`
            returns pictures.
        notes: sentences about what was read in place of what, such as smaller copies of pictures.
        files: paths of the pictures, one per camera; or empty.
    """

    cameras: Cameras
    pictures: Tensor
    alpha: Tensor
    skipped: tuple[str, ...] = ()
    mask: Tensor | None = None
    depth: Tensor | None = None
    points: Tensor | None = None
    colors: Tensor | None = None
    box: Tensor | None = None
    near_far: Tensor | None = None
    sizes: Tensor | None = None
    source: Callable[[Tensor], PosedPictures] | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: Any) -> PosedPictures:
        """Select pictures by a slice, numbers, or a mask."""
        rows = torch.arange(len(self))[index].reshape(-1)
        load = self.source
        fields = ("near_far", "sizes") if load else (*_PICTURES, "near_far", "sizes")
        chosen = {name: t[rows] for name in fields if (t := getattr(self, name)) is not None}
        source = None if load is None else lambda numbers: load(rows[numbers])
        files = tuple(self.files[int(k)] for k in rows) if self.files else ()
        return replace(self, cameras=self.cameras[rows], source=source, files=files, **chosen)

    def read(self, index: Any = slice(None)) -> PosedPictures:
        """Return some of the pictures in memory, read from their files if they are on disk.

        Args:
            index: a slice, numbers, or a mask.
        """
        chosen = self[index]
        if chosen.source is None:
            return chosen
        loaded = chosen.source(torch.arange(len(chosen)))
        return replace(chosen, source=None, **{name: getattr(loaded, name) for name in _PICTURES})

    def each(self) -> Iterator[PosedPictures]:
        """Yield the pictures one by one, in memory and without the padding of smaller ones."""
        for k in range(len(self)):
            picture = self.read([k])
            if picture.sizes is None:
                yield picture
                continue
            height, width = (int(side) for side in picture.sizes[0])
            cut = {
                name: padded[..., :height, :width]
                for name in _PICTURES
                if (padded := getattr(picture, name)) is not None
            }
            cameras = replace(picture.cameras, size=(height, width))
            yield replace(picture, cameras=cameras, sizes=None, **cut)

    @property
    def bytes(self) -> int:
        """Memory that colors and alpha of all pictures take, bytes."""
        height, width = self.cameras.size
        return 16 * len(self) * height * width

    def on(self, background: float | Tensor) -> Tensor:
        """Blend the pictures with a color as background, ``(C, 3, height, width)``."""
        shade = torch.as_tensor(background, dtype=self.pictures.dtype)
        return self.pictures + (1 - self.alpha) * (shade.view(-1, 1, 1) if shade.ndim else shade)

    def __repr__(self) -> str:
        height, width = self.cameras.size
        extra = [
            name
            for name in ("mask", "depth", "points", "box", "near_far")
            if getattr(self, name) is not None
        ]
        return (
            f"PosedPictures({len(self)} of {height} x {width} pixels"
            + (" at most" if self.sizes is not None else "")
            + (f", with {', '.join(extra)}" if extra else "")
            + (f", {len(self.skipped)} skipped" if self.skipped else "")
            + (", on disk" if self.source is not None else "")
            + "".join(f"; {note}" for note in self.notes)
            + ")"
        )
