"""What a scene of photographs is made of: its parameters, the renderer that shows it, and the misfit of pictures.

What the alpha of photographs says about a scene: where it stops the light, and where nothing is.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.rendered_views import Photometric
from invtoolbox.datasets.views.transforms import PosedPictures
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras, focus_point
from invtoolbox.operators.base import Operator
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.composed import ThroughOperator
from invtoolbox.priors.images.prior_image import Misfit
from invtoolbox.problem import Problem

Point = tuple[float, float, float]
Background = float | Point


@dataclass(frozen=True)
class Look:
    """What C cameras see.

    Attributes:
        color: in front of the background, cut off at 0 and 1, ``(C, 3, height, width)``.
        alpha: how much of the light was stopped, ``(C, 1, height, width)``.
        depth: its expectation along z, ``(C, 1, height, width)``; means nothing where alpha is 0.
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor


@dataclass(frozen=True)
class SceneModel(ABC):
    """A way to represent a scene, with its settings; the parameters themselves are those of an implicit prior.

    Args:
        low, high: corners of the box that holds the scene, in the frame of the cameras.
        background: the color behind everything, from 0 to 1: a number, or one a channel.
        renderer: further settings of the operator.
    """

    low: Point
    high: Point
    background: Background = 0.0
    renderer: Mapping[str, Any] = field(default_factory=dict)

    #: The file that holds the scene.
    file_name: ClassVar[str]

    def change(self, changes: Mapping[str, Any]) -> Self:
        """The model with other settings, as a stage says them."""
        known = [f.name for f in dataclasses.fields(self)]
        for key in changes:
            if key not in known:
                raise InputError(
                    f"{type(self).__name__} has no setting {key!r}; it has {', '.join(known)}"
                )
        try:
            return dataclasses.replace(self, **changes)
        except TypeError as error:
            raise InputError(
                f"{type(self).__name__} cannot take {dict(changes)}: {error}"
            ) from error

    # -- parameters --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def start(self) -> ImplicitPrior:
        """The prior of a first stage."""

    @abstractmethod
    def follow(
        self, before: ImplicitPrior, parameters: dict[str, Tensor]
    ) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        """The prior of a later stage, and the parameters that it starts from: those of the stage before in its own shape."""

    @abstractmethod
    def save_state(self, path: Path, prior: ImplicitPrior, parameters: dict[str, Tensor]) -> None:
        """Write what the next stage starts from, exactly."""

    @abstractmethod
    def load_state(self, path: Path) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        """Read what `save_state` wrote."""

    @abstractmethod
    def write(self, path: Path, x: Any) -> Path:
        """Write the scene as a file that other programs may read."""

    @abstractmethod
    def describe(self, x: Any) -> str:
        """How large the scene is, in words."""

    # -- pictures ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def operator(self, cameras: Cameras, outputs: tuple[str, ...] = ("color",)) -> Operator:
        """The renderer of some cameras."""

    @abstractmethod
    def measurements(self, operator: Operator, pictures: Tensor) -> Tensor:
        """Pictures ``(C, channels, height, width)`` as the operator predicts them, with a batch of one."""

    @abstractmethod
    def pictures(self, operator: Operator, prediction: Tensor) -> Tensor:
        """A prediction of one scene as pictures ``(C, channels, height, width)``."""

    @property
    @abstractmethod
    def default_data_term(self) -> DataTerm:
        """How the misfit of pictures is measured where nothing else is said."""

    def shade(self) -> float | Tensor:
        """The background as the operators take it."""
        return (
            torch.tensor(self.background)
            if isinstance(self.background, tuple)
            else float(self.background)
        )

    def problem(self, pictures: PosedPictures, data_term: DataTerm | None = None) -> Problem:
        """Find the scene from pictures."""
        A = self.operator(pictures.cameras)
        return Problem(
            self.measurements(A, pictures.on(self.shade())), A, data_term or self.default_data_term
        )

    def look(self, x: Any, cameras: Cameras) -> Look:
        """What cameras see of a scene, one after the other, so that memory holds one picture."""
        seen, device = [], (x[0] if isinstance(x, tuple) else x.means).device
        with torch.no_grad():
            for k in range(len(cameras)):
                A = self.operator(cameras[k], ("color", "alpha", "depth")).to(device=device)
                seen.append(self.pictures(A, A(x)).cpu())
        every = torch.cat(seen) if seen else torch.zeros(0, 5, *cameras.size)
        return Look(every[:, :3].clamp(0, 1), every[:, 3:4], every[:, 4:5])


def weight_unit(problem: Problem) -> float:
    """What a weight of 1 beside the mean misfit is in the objective, which holds its sum.

    Weights of explicit priors stand beside the misfit of one value of a picture on average (of `LeastSquares`, its square), so that they
    depend neither on the number of pictures nor on their size.
    """
    if isinstance(problem.data_term, Photometric):
        return float(problem.operator.blocks or 1)
    values = problem.y0[0].numel()
    return 0.5 * values if isinstance(problem.data_term, LeastSquares) else float(values)


def visible_box(cameras: Cameras) -> tuple[Point, Point]:
    """The corners of a cube about the point that the cameras look at, as large as what they see there.

    >>> from invtoolbox.geometry import look_at
    >>> places = torch.tensor([[0.0, 0.0, -4.0], [4.0, 0.0, 0.0]])
    >>> low, high = visible_box(look_at(places, size=(8, 8), field_of_view=90.0))
    >>> [round(v, 3) for v in high]
    [4.0, 4.0, 4.0]
    """
    try:
        middle = focus_point(cameras)
    except InputError as error:
        raise InputError(
            f"{error}, and no box can be guessed; give low and high, its corners in their frame"
        ) from error
    depth = ((middle - cameras.centres) * cameras.world_to_camera[:, 2, :3]).sum(1)
    reach = float(
        depth[depth > 0].median() * min(cameras.size) / 2 / cameras.intrinsics[:, 1, 1].median()
    )
    low, high = (tuple(float(v) for v in middle + sign * reach) for sign in (-1, 1))
    return low, high  # type: ignore[return-value]


def check_visible(cameras: Cameras, low: Point, high: Point) -> int:
    """How many of the cameras see something of a box.

    Raises:
        InputError: none does.
    """
    ends = torch.tensor([low, high], dtype=cameras.world_to_camera.dtype)
    share = torch.linspace(0, 1, 9, dtype=ends.dtype)
    points = torch.cartesian_prod(
        *(ends[0, k] + (ends[1, k] - ends[0, k]) * share for k in range(3))
    )
    pixels, depth = cameras.project(points)
    height, width = cameras.size
    inside = (
        (depth > 0) & (pixels >= 0).all(-1) & (pixels[..., 0] < width) & (pixels[..., 1] < height)
    )
    seeing = int(inside.any(1).sum())
    if not seeing:
        raise InputError(
            f"none of the {len(cameras)} cameras sees anything of the box from {low} to {high}; give low and high, its "
            "corners in the frame of the cameras, or leave both out"
        )
    return seeing


def silhouette_prior(
    model: SceneModel, pictures: PosedPictures, subset_size: int | None = None
) -> ThroughOperator:
    """The mean over pixels of the square of what the scene's alpha misses of that of the pictures.

    Colors do not tell fog of the background's color from the background, and few views do not show it from the side; alpha does.

    Args:
        model: how the scene is represented.
        pictures: with an alpha; pixels that their mask leaves out take no part.
        subset_size: blocks of the model's operator (rays, pictures) that a step looks at; None for all.

    Raises:
        InputError: for pictures without an alpha.

    >>> from invtoolbox.geometry import look_at
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
