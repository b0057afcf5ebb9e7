"""Models of a scene from photographs: parameters, renderer, misfit of pictures, silhouettes."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.catalogue.registry import require_settings
from invtoolbox.data_terms import LeastSquares, Photometric
from invtoolbox.data_terms.base import DataTerm, ResidualTerm
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras, focus_point
from invtoolbox.operators.base import Operator
from invtoolbox.priors import ImplicitPrior, Misfit, Prior, ThroughOperator
from invtoolbox.problem import Problem

Point = tuple[float, float, float]
Background = float | Point
Pace = Callable[[int], float]


@dataclass(frozen=True)
class Look:
    """Rendered views of C cameras.

    Attributes:
        color: colors in front of the background, clipped to 0 and 1, ``(C, 3, height, width)``.
        alpha: opacity of every pixel, ``(C, 1, height, width)``.
        depth: expected depth along z, ``(C, 1, height, width)``; meaningless if alpha is 0.
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor


@dataclass(frozen=True)
class SceneModel(ABC):
    """Representation of a scene with its settings; the parameters belong to an implicit prior.

    Args:
        low: smallest corner of the box that holds the scene, in the frame of the cameras.
        high: largest corner of that box.
        background: color behind the scene, from 0 to 1: a number, or one number per channel.
        renderer: further settings of the operator.
    """

    low: Point
    high: Point
    background: Background = 0.0
    renderer: Mapping[str, Any] = field(default_factory=dict)

    #: Name of the file that holds the scene.
    file_name: ClassVar[str]

    def change(self, changes: Mapping[str, Any]) -> Self:
        """Return the model with other settings.

        Args:
            changes: new values, by name.

        Raises:
            InputError: if the model has no such setting.
        """
        settings = [field.name for field in dataclasses.fields(self)]
        require_settings(type(self).__name__, changes, settings)
        try:
            return dataclasses.replace(self, **changes)
        except TypeError as error:
            raise InputError(
                f"{type(self).__name__} cannot take {dict(changes)}: {error}"
            ) from error

    def with_pace(self, pace: Pace) -> Self:
        """Return the model with a schedule that follows a budget, if it has one and no length.

        Args:
            pace: function that returns the share of the budget that is used before an iteration.
        """
        return self

    # -- parameters --------------------------------------------------------------------------------

    @abstractmethod
    def start(self) -> ImplicitPrior:
        """Return the prior of the first stage."""

    @abstractmethod
    def follow(
        self, before: ImplicitPrior, parameters: dict[str, Tensor]
    ) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        """Return the prior of a later stage and its initial parameters.

        Args:
            before: prior of the previous stage.
            parameters: result of the previous stage, which is resampled to the new prior.
        """

    @abstractmethod
    def save_state(self, path: Path, prior: ImplicitPrior, parameters: dict[str, Tensor]) -> None:
        """Write the initial state of the next stage, without loss.

        Args:
            path: name of the file.
            prior: prior of the finished stage.
            parameters: its parameters.
        """

    @abstractmethod
    def load_state(self, path: Path) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        """Read a file that `save_state` wrote.

        Args:
            path: name of the file.
        """

    @abstractmethod
    def write(self, path: Path, x: Any) -> Path:
        """Write the scene to a file that other programs can read.

        Args:
            path: name of the file.
            x: the scene.
        """

    @abstractmethod
    def describe(self, x: Any) -> str:
        """Return the size of the scene as text.

        Args:
            x: the scene.
        """

    # -- pictures ----------------------------------------------------------------------------------

    @abstractmethod
    def operator(self, cameras: Cameras, outputs: tuple[str, ...] = ("color",)) -> Operator:
        """Return the renderer of some cameras.

        Args:
            cameras: the cameras.
            outputs: rendered quantities.
        """

    @abstractmethod
    def measurements(self, operator: Operator, pictures: Tensor) -> Tensor:
        """Convert pictures to the layout of the operator's predictions, with a batch of one.

        Args:
            operator: the renderer.
            pictures: pictures ``(C, channels, height, width)``.
        """

    @abstractmethod
    def pictures(self, operator: Operator, prediction: Tensor) -> Tensor:
        """Convert a prediction to pictures ``(C, channels, height, width)``.

        Args:
            operator: the renderer.
            prediction: its prediction of one scene.
        """

    @property
    @abstractmethod
    def default_data_term(self) -> DataTerm:
        """Default data term of pictures."""

    def shade(self) -> float | Tensor:
        """Return the background as the operators take it."""
        return (
            torch.tensor(self.background)
            if isinstance(self.background, tuple)
            else float(self.background)
        )

    def problem(self, pictures: PosedPictures, data_term: DataTerm | None = None) -> Problem:
        """Return the problem of finding the scene from pictures.

        Args:
            pictures: pictures with their cameras.
            data_term: misfit of pictures; None for `default_data_term`.
        """
        A, term = self.operator(pictures.cameras), data_term or self.default_data_term
        if pictures.mask is not None:
            if not isinstance(term, (ResidualTerm, Photometric)):
                raise InputError(
                    f"some pixels of the pictures do not count, and {term} has no weights; choose "
                    "another data term, such as photometric or least-squares"
                )
            term = term.restrict(self.measurements(A, pictures.mask))
        return Problem(self.measurements(A, pictures.on(self.shade())), A, term)

    def regularizer(self, pictures: PosedPictures, subset_size: int | None) -> Prior | None:
        """Return the priors that the representation needs, relative to the mean misfit, or None.

        Args:
            pictures: pictures with their cameras.
            subset_size: number of blocks of the operator per step; None for all.
        """
        return None

    def look(self, x: Any, cameras: Cameras) -> Look:
        """Render the views of cameras one after the other, so that memory holds one picture.

        Args:
            x: the scene.
            cameras: the cameras.
        """
        device = (x[0] if isinstance(x, tuple) else x.means).device
        views = [torch.zeros(0, 5, *cameras.size)]
        with torch.no_grad():
            for k in range(len(cameras)):
                A = self.operator(cameras[k], ("color", "alpha", "depth")).to(device=device)
                views.append(self.pictures(A, A(x)).cpu())
        channels = torch.cat(views)
        return Look(channels[:, :3].clamp(0, 1), channels[:, 3:4], channels[:, 4:5])


def weight_unit(problem: Problem) -> float:
    """Return the factor from a weight relative to the mean misfit to a weight in the objective.

    The objective holds the sum of the misfit. Weights of explicit priors are relative to the mean
    misfit of one value of a picture (for `LeastSquares`, the mean square), so that they depend
    neither on the number of pictures nor on their size.

    Args:
        problem: problem of the pictures.
    """
    if isinstance(problem.data_term, Photometric):
        return float(problem.operator.blocks or 1)
    values = problem.y0[0].numel()
    return 0.5 * values if isinstance(problem.data_term, LeastSquares) else float(values)


def visible_box(cameras: Cameras) -> tuple[Point, Point]:
    """Return the corners of a cube around the point that the cameras look at.

    The cube is as large as the part of the scene that the cameras see there.

    Args:
        cameras: the cameras.

    Raises:
        InputError: if the cameras do not look at one point.

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


def box_of_points(points: Tensor, share: float = 0.96) -> tuple[Point, Point]:
    """Return the corners of the box that holds the middle share of points along every axis.

    Points of structure from motion include a few that lie far away.

    Args:
        points: points of the scene, ``(N, 3)``.
        share: share of the points between both sides of the box.

    >>> box_of_points(torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None].expand(-1, 3))
    ((-0.96, -0.96, -0.96), (0.96, 0.96, 0.96))
    """
    ends = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64)
    low, high = torch.quantile(points.double(), ends, dim=0).tolist()
    return tuple(round(v, 9) for v in low), tuple(round(v, 9) for v in high)  # type: ignore[return-value]


def check_visible(cameras: Cameras, low: Point, high: Point) -> int:
    """Return the number of cameras that see a part of a box.

    Args:
        cameras: the cameras.
        low: smallest corner of the box.
        high: largest corner of the box.

    Raises:
        InputError: if no camera sees it.
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
            f"none of the {len(cameras)} cameras sees anything of the box from {low} to {high}; "
            "give low and high, its corners in the frame of the cameras, or leave both out"
        )
    return seeing


def silhouette_prior(
    model: SceneModel, pictures: PosedPictures, subset_size: int | None = None
) -> ThroughOperator:
    """Return the prior of silhouettes: the mean squared difference of rendered and given alpha.

    Colors cannot distinguish fog of the background's color from the background, and few views do
    not show such fog from the side; alpha does.

    Args:
        model: representation of the scene.
        pictures: pictures with an alpha; masked pixels are left out.
        subset_size: number of blocks of the operator (rays, pictures) per step; None for all.

    Raises:
        InputError: if the pictures have no alpha.

    >>> from invtoolbox.geometry import look_at
    >>> from invtoolbox.jobs.photographs import VoxelModel
    >>> camera = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(4, 4))
    >>> pictures = PosedPictures(camera, torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
    >>> model = VoxelModel((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), resolution=4, alpha=1e-6)
    >>> grid = model.start()  # an empty scene
    >>> empty = grid.decode(grid.initial())
    >>> round(float(silhouette_prior(model, pictures).energy(empty)), 6)
    0.0
    """
    if bool((pictures.alpha == 1).all()):
        raise InputError(
            "silhouettes need pictures with an alpha, and these have none; leave silhouettes out"
        )
    A = model.operator(pictures.cameras, ("alpha",))
    y = model.measurements(A, pictures.alpha)
    counts = torch.ones_like(y) if pictures.mask is None else model.measurements(A, pictures.mask)
    size = subset_size if subset_size is None or A.blocks is None else min(subset_size, A.blocks)
    # Least squares are half the sum of the squares.
    return ThroughOperator(Misfit(y, LeastSquares(weights=2 / counts.sum() * counts)), A, size)
