"""Space carving: the visual hull of an object from its silhouettes before a plain background."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras

#: A pixel is background if no channel differs from the background by more; a little over the
#: rounding of 8 bits.
TOLERANCE = 0.004


def carve_surface(
    cameras: Cameras,
    pictures: Tensor,
    background: float | Tensor,
    count: int,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    generator: Generator | None = None,
    cells: int = 64,
    share: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Sample points on the visual hull of an object, with the colors of the pixels that see them.

    A cell of a box is empty if more than a share of the cameras that see it show background there
    (Laurentini, "The visual hull concept", 1994; the share tolerates holes in silhouettes, where an
    object has the color of the background). The ray of a random pixel then ends in the first cell
    that is not empty.

    Args:
        cameras: C cameras.
        pictures: pictures, ``(C, channels, height, width)``.
        background: color of the background: a number, or one number per channel.
        count: number of points.
        low: lower corner of a box that contains the object.
        high: upper corner of the box.
        generator: random generator that draws the pixels.
        cells: number of cells along the longest side of the box.
        share: share of the cameras that see a cell and may be wrong about it.

    Returns:
        points ``(count, 3)`` and colors ``(count, channels)``.

    Raises:
        InputError: if the pictures do not fit the cameras, or if all cells of the box are empty.

    >>> from invtoolbox.geometry.cameras import look_at
    >>> centres = torch.tensor([[0.0, 0, -4], [4, 0, 0], [0.0, 0.1, 4]])
    >>> cameras = look_at(centres, size=(9, 9), field_of_view=40.0)
    >>> pictures = torch.ones(3, 3, 9, 9)
    >>> pictures[:, :, 3:6, 3:6] = 0.5
    >>> box = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)
    >>> points, colors = carve_surface(cameras, pictures, 1.0, 5, *box)
    >>> bool((points.abs() < 0.9).all()), colors[0]
    (True, tensor([0.5000, 0.5000, 0.5000]))
    """
    cameras.require_pinholes("carve_surface")
    height, width = cameras.size
    if pictures.ndim != 4 or (len(pictures), *pictures.shape[2:]) != (len(cameras), height, width):
        raise InputError(
            f"pictures have the shape {tuple(pictures.shape)}, expected "
            f"{(len(cameras), 'channels', height, width)}, those of the cameras"
        )
    shade = torch.as_tensor(background).to(pictures).reshape(-1, 1, 1)
    silhouettes = ((pictures - shade).abs() > TOLERANCE).any(1)
    corner, end = pictures.new_tensor(low), pictures.new_tensor(high)
    side = float((end - corner).max()) / cells
    shape = tuple(int(n) for n in ((end - corner) / side).ceil().long().clamp_min(1))
    full = ~_empty(cameras, silhouettes, corner, side, shape, share)
    if not bool(full.any()) or not bool(silhouettes.any()):
        raise InputError(
            f"the silhouettes leave nothing in the box from {low} to {high}; is the background "
            f"{background}, and the box where the cameras look?"
        )
    points, colors, hits = [], [], 0
    pixels = silhouettes.nonzero()
    # Rays of pixels at the rim of a silhouette may miss all full cells: twice as many rays as points
    # are drawn, and again until there are enough.
    for _ in range(100):
        rays = pixels[torch.randint(len(pixels), (2 * count,), generator=generator)]
        place, hit = _first(cameras, rays, full, corner, end, side)
        points.append(place[hit])
        colors.append(pictures[rays[hit, 0], :, rays[hit, 1], rays[hit, 2]])
        hits += int(hit.sum())
        if hits >= count:
            break
    else:
        raise InputError(
            "hardly a ray of the pictures meets what the silhouettes leave in the box from "
            f"{low} to {high}; make it larger"
        )
    return torch.cat(points)[:count], torch.cat(colors)[:count]


def _empty(
    cameras: Cameras,
    silhouettes: Tensor,
    corner: Tensor,
    side: float,
    shape: tuple[int, ...],
    share: float,
) -> Tensor:
    """Return the cells that more than the share of the cameras see empty, or no camera sees."""
    height, width = cameras.size
    # A cell covers several pixels, so a silhouette is dilated by half of a cell, and by at least
    # one pixel. A length l at the distance d is f l / d pixels wide.
    focal_length = float(cameras.intrinsics[:, 0, 0].mean())
    middle = corner + 0.5 * side * corner.new_tensor(shape)
    distance = float((cameras.centres - middle).norm(dim=1).mean())
    grow = max(1, round(0.5 * side * focal_length / max(distance, 1e-9)))
    dilated = (
        torch.nn.functional.max_pool2d(silhouettes[:, None].float(), 2 * grow + 1, 1, grow)[:, 0]
        > 0
    )
    places = torch.cartesian_prod(
        *(
            corner[k] + side * (torch.arange(n, dtype=corner.dtype) + 0.5)
            for k, n in enumerate(shape)
        )
    )
    # Votes of the cameras per cell: those whose picture contains its centre, and those that show
    # background there.
    views, against = torch.zeros(len(places)), torch.zeros(len(places))
    for k in range(len(cameras)):
        pixel, depth = cameras[k].project(places)
        column, row = pixel[0].floor().long().unbind(1)
        inside = (depth[0] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        views += inside
        against += inside & ~dilated[k, row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return ((against > share * views) | (views == 0)).view(shape)


def _first(
    cameras: Cameras, pixels: Tensor, full: Tensor, corner: Tensor, end: Tensor, side: float
) -> tuple[Tensor, Tensor]:
    """Find the place where the rays of pixels first meet a full cell, and whether they do.

    The pixels are ``(n, 3)``: camera, row and column.
    """
    camera = pixels[:, 0]
    middles = torch.stack([pixels[:, 2], pixels[:, 1], torch.ones_like(camera)], 1).to(corner)
    middles[:, :2] += 0.5
    # The direction of the pixel (u, v) in the world is R^T K^-1 (u, v, 1), scaled to length 1.
    to_world = (
        cameras.world_to_camera[:, :3, :3].transpose(1, 2) @ torch.linalg.inv(cameras.intrinsics)
    ).to(corner)
    direction = torch.nn.functional.normalize(
        (to_world[camera] @ middles[..., None]).squeeze(-1), dim=1
    )
    start = cameras.centres.to(corner)[camera]
    # Only the part of a ray between the faces of the box counts: the ray is inside of all three
    # slabs from the last entry to the first exit (Kay and Kajiya, 1986).
    ends = torch.stack([(corner - start) / direction, (end - start) / direction])
    enter, leave = ends.amin(0).amax(1).clamp_min(0), ends.amax(0).amin(1)
    # Samples half a cell apart up to the diagonal of the box, (n, steps).
    steps = int(float((end - corner).norm()) / side * 2) + 1
    along = enter[:, None] + 0.5 * side * (torch.arange(steps, dtype=corner.dtype) + 0.5)
    cell = ((start[:, None] + along[..., None] * direction[:, None] - corner) / side).floor().long()
    inside = (
        (cell >= 0).all(-1) & (cell < torch.tensor(full.shape)).all(-1) & (along < leave[:, None])
    )
    cell = torch.where(inside[..., None], cell, 0)
    hit = inside & full[cell[..., 0], cell[..., 1], cell[..., 2]]
    # argmax returns the first of equal values, so the sample nearest to the camera.
    place = start + along.gather(1, hit.to(torch.uint8).argmax(1, keepdim=True)) * direction
    return place, hit.any(1)
