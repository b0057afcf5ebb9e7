"""First positions of Gaussians from the points of structure from motion."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.jobs.photographs.watch import spread

#: Largest number of pictures that are read for further points.
_PICTURES = 40


def fill_points(pictures: PosedPictures, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the points of a capture and further ones, ``count`` positions and colors ``(N, 3)``.

    Few photographs give few points, which leave out smooth surfaces. A further point lies on the
    ray of a random pixel, at the depth of the point that is seen nearest to this pixel, and has the
    color of the pixel.

    Args:
        pictures: pictures with points; pixels that the mask excludes are not drawn.
        count: number of positions; all points are returned if there are more.
        seed: seed of the draws.

    >>> from invtoolbox.geometry import look_at
    >>> camera = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(8, 8))
    >>> wall = torch.tensor([[-1.0, -1.0, 0.0], [1.0, 1.0, 0.0]])  # at the depth 4
    >>> white = torch.ones(1, 3, 8, 8)
    >>> seen = PosedPictures(camera, white, white[:, :1], points=wall, colors=torch.ones(2, 3))
    >>> places, colors = fill_points(seen, 20)
    >>> places.shape, bool((places[:, 2].abs() < 1e-5).all())
    (torch.Size([20, 3]), True)
    """
    assert pictures.points is not None
    points = pictures.points.float()
    grey = torch.full_like(points, 0.5)
    places, colors = [points], [grey if pictures.colors is None else pictures.colors.float()]
    views = pictures[spread(len(pictures), _PICTURES)]
    generator = torch.Generator().manual_seed(seed)
    missing = max(0, count - len(points))
    for k, view in enumerate(views.each()):
        number = missing * (k + 1) // len(views) - missing * k // len(views)
        pixels, depth = view.cameras.project(points)
        height, width = view.cameras.size
        inside = (depth[0] > 0) & (pixels[0] >= 0).all(1)
        inside &= (pixels[0, :, 0] < width) & (pixels[0, :, 1] < height)
        allowed = torch.ones(height, width) if view.mask is None else view.mask[0, 0]
        if not bool(inside.any()) or not bool((allowed > 0).any()) or number == 0:
            continue
        drawn = torch.multinomial(allowed.flatten(), number, True, generator=generator)
        row, column = drawn // width, drawn % width
        middle = torch.stack([column, row], 1) + 0.5
        near = cKDTree(pixels[0, inside].numpy()).query(middle.numpy())[1]
        origins, directions = view.cameras.rays(middle[None])
        places.append(origins[0] + depth[0, inside][near, None] * directions[0])
        colors.append(view.pictures[0, :, row, column].T)
    return torch.cat(places), torch.cat(colors)
