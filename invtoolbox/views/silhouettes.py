"""What the alpha of photographs says about a scene: where it stops the light, and where nothing is."""

from __future__ import annotations

import torch

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.datasets.cameras_blender import PosedPictures
from invtoolbox.errors import InputError
from invtoolbox.priors.composed import ThroughOperator
from invtoolbox.priors.explicit.misfit import Misfit
from invtoolbox.views.models import SceneModel


def silhouette_prior(
    model: SceneModel, pictures: PosedPictures, subset_size: int | None = None
) -> ThroughOperator:
    """The mean over pixels of the square of what the scene's alpha misses of that of the pictures.

    Colours do not tell fog of the background's colour from the background, and few views do not show it from the side; alpha does.

    Args:
        model: how the scene is represented.
        pictures: with an alpha; pixels that their mask leaves out take no part.
        subset_size: blocks of the model's operator (rays, pictures) that a step looks at; None for all.

    Raises:
        InputError: for pictures without an alpha.

    >>> from invtoolbox.scenes import look_at
    >>> from invtoolbox.views import VoxelModel
    >>> pictures = PosedPictures(look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(4, 4)), torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
    >>> model = VoxelModel((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), resolution=4, alpha=1e-6)
    >>> grid = model.start()
    >>> round(float(silhouette_prior(model, pictures).energy(grid.decode(grid.initial()))), 6)  # the scene is empty, as it should be
    0.0
    """
    if bool((pictures.alpha == 1).all()):
        raise InputError(
            "silhouettes are those of pictures with an alpha, and these have none; leave silhouettes out"
        )
    A = model.operator(pictures.cameras, ("alpha",))
    y = model.measurements(A, pictures.alpha)
    counts = torch.ones_like(y) if pictures.mask is None else model.measurements(A, pictures.mask)
    size = subset_size if subset_size is None or A.blocks is None else min(subset_size, A.blocks)
    # Least squares are half the sum of the squares.
    return ThroughOperator(Misfit(y, LeastSquares(weights=2 / counts.sum() * counts)), A, size)
