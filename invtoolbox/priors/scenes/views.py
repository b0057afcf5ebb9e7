"""Priors of rendered views, for scenes that few pictures leave undetermined.

`DepthSmoothness`, `DepthConsistency` and `NormalConsistency` are priors of depths and normals,
`OcclusionPenalty` removes fog right before the cameras, `RaySpread` draws the density of a ray
together, and `Disagreement` compares two models of one scene.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.reductions import mean_items, sum_items
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.operators.base import Operator
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.composed import ThroughOperator
from invtoolbox.priors.settings import replace


class DepthSmoothness(ExplicitPrior):
    """Smoothness of depths ``(batch, channel, picture, row, column)``.

    ``R(d) = mean over neighbouring pixels of w |d_i - d_j|^2``, or ``w |d_i - d_j|``. Through a
    renderer of further views it favors surfaces that are smooth from there too:
    ``DepthSmoothness() @ A`` with ``A = VoxelRenderer(unseen, outputs=("depth",), block=8)``, on
    patches, or ``GaussianRenderer(unseen, outputs=("depth",))``. Pixels without a surface, of depth
    0, have no neighbours.

    With ``edges`` the prediction holds the colors and, last, the depth
    (``outputs=("color", "depth")``), and ``w = exp(-edges |c_i - c_j|)``, with |.| the mean over
    channels: depths may jump where colors do. The weights are held fixed in derivatives.

    Sources: Niemeyer et al., "RegNeRF", CVPR 2022, equation 4 (8 x 8 patches of unseen views,
    squares); Godard et al., "Unsupervised monocular depth estimation", CVPR 2017, equation 3
    (edges, the modulus).

    Args:
        power: 2 for squares, 1 for the modulus.
        edges: rate at which the weight falls with the difference of the colors; None for depths
            alone.

    >>> import torch
    >>> step = torch.tensor([[1.0, 1.0], [3.0, 3.0]]).view(1, 1, 1, 2, 2)
    >>> DepthSmoothness().energy(step)  # two of four pairs of neighbours differ, by 2
    tensor([2.])
    """

    def __init__(self, power: Literal[1, 2] = 2, edges: float | None = None) -> None:
        check_choice(self, (1, 2), power=power)
        check_range(self, "[0, inf]", edges=edges)
        self.power, self.edges = power, edges
        self.is_smooth = power == 2

    def energy(self, x: Tensor) -> Tensor:
        alone = self.edges is None
        if x.ndim != 5 or (x.shape[1] != 1 if alone else x.shape[1] < 2):
            kind = "1 channel, the depth" if alone else "colors and, last, a depth"
            raise InputError(
                f"{self!r} takes pictures (batch, channel, picture, row, column) with {kind}, got "
                f"{tuple(x.shape)}; renderers of voxels give pictures with block='picture' or the "
                "side of patches"
            )
        depth = x[:, -1]
        total, pairs = depth.new_zeros(len(x)), depth.new_zeros(len(x))
        for axis in (2, 3):
            near, far = (depth.narrow(axis, k, depth.shape[axis] - 1) for k in (1, 0))
            both = ((near > 0) & (far > 0)).to(depth)
            weight = both
            if self.edges is not None:
                contrast = x.detach()[:, :-1].diff(dim=axis + 1).abs().mean(1)
                weight = both * (-self.edges * contrast).exp()
            apart = near - far
            cost = weight * (apart.square() if self.power == 2 else apart.abs())
            total = total + sum_items(cost)
            pairs = pairs + sum_items(both)
        return total / pairs.clamp_min(1)

    def __repr__(self) -> str:
        edges = "" if self.edges is None else f", edges={self.edges:g}"
        return f"DepthSmoothness(power={self.power}{edges})"


class _CameraPrior(ExplicitPrior):
    """Base class of priors of the pictures of some cameras, with a tolerance of depths."""

    is_smooth = True
    cameras: Cameras
    tolerance: float

    def subset(self, index: Any) -> Self:
        return replace(self, cameras=self.cameras[index])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.cameras)} cameras, tolerance={self.tolerance:g})"


class DepthConsistency(_CameraPrior):
    """Consistency of the depths of several views.

    ``R(d) = mean of rho((z_ij(p) - d_j(q)) / d_j(q))`` over pairs of views i and j and the pixels p
    of i. Pixel p of view i at its depth d_i(p) is a point. z_ij is the depth of that point in view
    j, and q is its position in that picture, between whose pixels d_j is interpolated.
    ``rho(r) = sqrt(r^2 + s^2) - s``, s the smoothing.

    Pixels take part if both views have a surface there, q lies in the picture, and the two depths
    differ by less than ``tolerance``. A point with a larger difference is hidden in view j, or
    hides what view i does not see, and gives no information. If neighbouring pixels of view j
    differ by as much, there is an edge between them and no interpolated depth.

    Depths are ``(batch, 1, picture, row, column)``, measured ones or, with
    ``DepthConsistency(cameras) @ A``, those of a renderer. A scene agrees with itself except for
    haze, so the prior matters for depths that are variables of their own (of a network, of a
    sensor).

    Source: Bai et al., "GeoVideo", 2025 (the multi-view geometric loss).

    Args:
        cameras: cameras of the pictures.
        tolerance: relative difference of depths beyond which a point counts as hidden.
        smoothing: s, below which relative differences cost their square.
        neighbours: largest difference of the positions of two compared views in their order; None
            for all pairs.

    >>> from invtoolbox.geometry import look_at
    >>> positions = torch.tensor([[0.0, 0.0, -2.0], [0.5, 0.0, -2.0]])
    >>> cameras = look_at(positions, target=(0.0, 0.0, 1e6), size=(8, 8))
    >>> wall = torch.full((2, 1, 2, 8, 8), 3.0)  # both cameras face a wall
    >>> wall[1, :, 0] = 3.3
    >>> energies = DepthConsistency(cameras, smoothing=0.01).energy(wall)
    >>> [round(e, 3) for e in energies.tolist()]
    [0.0, 0.086]
    """

    def __init__(
        self,
        cameras: Cameras,
        tolerance: float = 0.2,
        smoothing: float = 1e-3,
        neighbours: int | None = None,
    ) -> None:
        check_range(self, "(0, inf]", tolerance=tolerance, smoothing=smoothing)
        check_range(self, "[1, inf)", neighbours=neighbours)
        if len(cameras) < 2:
            raise InputError("DepthConsistency compares views, and needs at least two cameras")
        self.cameras, self.neighbours = cameras, neighbours
        self.tolerance, self.smoothing = tolerance, smoothing

    def energy(self, x: Tensor) -> Tensor:
        count, size = len(self.cameras), self.cameras.size
        if x.ndim != 5 or tuple(x.shape[1:]) != (1, count, *size):
            raise InputError(
                f"{self!r} takes depths (batch, 1, {count}, {size[0]}, {size[1]}), got "
                f"{tuple(x.shape)}; renderers of voxels give pictures with block='picture'"
            )
        depths = x[:, 0]
        total, pixels = depths.new_zeros(len(x)), depths.new_zeros(len(x))
        cameras = self.cameras.to(depths.dtype, depths.device)
        origins, directions = cameras.rays()
        for i in range(count):
            # (batch, row, column, 3)
            points = origins[i] + depths[:, i, :, :, None] * directions[i]
            for j in range(count):
                if i == j or (self.neighbours is not None and abs(i - j) > self.neighbours):
                    continue
                misfit, valid = self._compare(points, depths[:, i], depths[:, j], cameras[j])
                total = total + sum_items(misfit * valid)
                pixels = pixels + sum_items(valid)
        return total / pixels.clamp_min(1)

    def _compare(
        self, points: Tensor, depth_i: Tensor, depth_j: Tensor, camera: Cameras
    ) -> tuple[Tensor, Tensor]:
        """Return the cost of each point of view i in view j, and whether it takes part.

        Both are ``(batch, row, column)``.
        """
        height, width = camera.size
        places, z = camera.project(points.reshape(-1, 3))
        places, z = places[0].view(*points.shape[:3], 2), z[0].view(points.shape[:3])
        ahead = z > 0
        places = torch.where(ahead[..., None], places, -1.0)  # outside, if behind the camera
        grid = 2 * places / places.new_tensor([width, height]) - 1
        depth_at_q = functional.grid_sample(
            depth_j[:, None], grid, align_corners=False, padding_mode="border"
        )[:, 0]
        # There is no depth between pixels of different surfaces, or if one of them has no surface.
        fixed = depth_j.detach()[:, None]
        spread = functional.max_pool2d(fixed, 3, 1, 1) + functional.max_pool2d(-fixed, 3, 1, 1)
        smooth = ((fixed > 0) & (spread < self.tolerance * fixed)).to(depth_j)
        solid = functional.grid_sample(smooth, grid, align_corners=False, padding_mode="border")[
            :, 0
        ]
        inside = ((grid.abs() <= 1).all(-1)) & ahead & (depth_i > 0) & (solid > 0.999)
        apart = (z - depth_at_q) / torch.where(inside, depth_at_q, 1.0)
        valid = (inside & (apart.detach().abs() < self.tolerance)).to(depth_j)
        return (apart.square() + self.smoothing**2).sqrt() - self.smoothing, valid


class NormalConsistency(_CameraPrior):
    """Consistency of rendered normals with the surface of the rendered depths.

    ``R(p) = mean over pixels of alpha - n . N``, n the rendered normal and N the normal of the
    surface that the rendered depths make. Predictions are ``(batch, 5, picture, row, column)``:
    normals in the world weighted by alpha, alpha, and depths along z, as
    ``GaussianRenderer(cameras, outputs=("normal", "alpha", "depth"))`` gives them.
    ``NormalConsistency(cameras) @ A`` is a prior of the scene, on the cameras of the pictures or on
    any others.

    With the weights w_i of the Gaussians of a pixel, n is ``sum w_i n_i``, so the pixel costs
    ``sum w_i (1 - n_i . N)``: 0 if every Gaussian in it lies along the surface, up to 2 alpha if
    they face the other way. N is the cross product of the differences between the points of the
    pixels below and above, right and left, towards the camera. Pixels take part if these and their
    own have a surface and differ by less than ``tolerance``; elsewhere there is an edge.

    Depths of Gaussians are the depths of their means, so N is informative if the Gaussians are
    smaller than the surface that they make up. For flat Gaussians (`priors.Gaussians` with
    ``flat=True``) render "plane_depth" in place of "depth", and with ``distortion`` above 0 a sixth
    channel "distortion", whose mean over the pixels is added: it draws the Gaussians of a pixel
    together.

    Source: Huang et al., "2D Gaussian splatting for geometrically accurate radiance fields",
    SIGGRAPH 2024, equations 13 and 14.

    Args:
        cameras: cameras of the pictures.
        tolerance: relative difference of neighbouring depths beyond which there is an edge.
        distortion: weight of the mean distortion, one over the square of a length.

    Raises:
        InputError: The predictions have other channels, or other pictures than the pictures of the
            cameras.

    >>> from invtoolbox.geometry import look_at
    >>> camera = look_at(torch.tensor([[0.0, 0.0, -3.0]]), size=(8, 8))
    >>> wall = torch.zeros(1, 5, 1, 8, 8)
    >>> wall[:, 2], wall[:, 3], wall[:, 4] = -0.9, 0.9, 3.0  # wall and normals face the camera
    >>> turned = wall.clone()
    >>> turned[:, 1], turned[:, 2] = -0.9 * 0.6, -0.9 * 0.8
    >>> [round(float(NormalConsistency(camera).energy(p)), 4) + 0.0 for p in (wall, turned)]
    [0.0, 0.18]
    """

    def __init__(self, cameras: Cameras, tolerance: float = 0.1, distortion: float = 0.0) -> None:
        check_range(self, "(0, inf]", tolerance=tolerance)
        check_range(self, "[0, inf]", distortion=distortion)
        self.cameras, self.tolerance, self.distortion = cameras, tolerance, distortion

    def energy(self, x: Tensor) -> Tensor:
        if (
            x.ndim != 5
            or x.shape[1] != (6 if self.distortion > 0 else 5)
            or x.shape[2] != len(self.cameras)
            or tuple(x.shape[3:]) != self.cameras.size
        ):
            raise InputError(
                f"{self!r} takes pictures (batch, {6 if self.distortion > 0 else 5}, "
                f"{len(self.cameras)}, {self.cameras.size[0]}, {self.cameras.size[1]}) of normal, "
                f"alpha and depth, and of the distortion if it has a weight, got {tuple(x.shape)}; "
                "render them with outputs=('normal', 'alpha', 'depth')"
            )
        if min(x.shape[3:]) < 3:
            raise InputError(
                f"{self!r} compares pixels with the pixels on both sides, and pictures of "
                f"{x.shape[3]} by {x.shape[4]} have none"
            )
        normal, alpha, depth = x[:, :3].movedim(1, -1), x[:, 3], x[:, 4]
        origins, directions = self.cameras.to(x.dtype, x.device).rays()
        points = origins + depth[..., None] * directions
        inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        middle = depth[inside].detach()
        down, on_rows = self._across(points, depth, middle, 2)
        right, on_columns = self._across(points, depth, middle, 3)
        surface = torch.linalg.cross(down, right)  # towards the camera for any depths
        length = surface.norm(dim=-1, keepdim=True)
        valid = on_rows * on_columns * (length[..., 0].detach() > 0)
        surface = surface / torch.where(length > 0, length, 1.0)
        apart = valid * (alpha[inside] - (normal[inside] * surface).sum(-1))
        energy = sum_items(apart) / sum_items(valid).clamp_min(1)
        return energy + self.distortion * mean_items(x[:, 5]) if self.distortion else energy

    def _across(
        self, points: Tensor, depth: Tensor, middle: Tensor, axis: int
    ) -> tuple[Tensor, Tensor]:
        """Return the difference of the next and the previous pixel along an axis.

        The second value is whether both lie on the surface of the pixel between them, whose depth
        is ``middle``.
        """
        across, size = 5 - axis, points.shape[axis]

        def shift(picture: Tensor, first: int) -> Tensor:
            ends = picture.narrow(axis, first, size - 2)
            return ends.narrow(across, 1, picture.shape[across] - 2)

        on = middle > 0
        for first in (0, 2):
            end = shift(depth.detach(), first)
            on = on & (end > 0) & ((end - middle).abs() < self.tolerance * middle)
        # The derivative of depths adds in the order in which these two are made.
        before, after = shift(points, 0), shift(points, 2)
        return after - before, on.to(points)


class OcclusionPenalty(ThroughOperator):
    """Mean over rays of the optical thickness within ``distance`` of the cameras.

    ``R(x) = mean over rays of tau``. Few views are explained best by walls of fog right before each
    of them, where no other view sees anything. A penalty on the density along the first part of
    every ray removes them.

    Source: Yang, Pavone and Wang, "FreeNeRF", CVPR 2023, equation 7, with a distance in place of a
    number of samples.

    Args:
        operator: renderer of the cameras with a method ``nearby(distance)``, which predicts its
            thickness, or alpha, up to there.
        distance: distance from the cameras (from the renderer's ``near``) in the unit of the world.
        subset_size: number of blocks of a step, see `ThroughOperator`.
        seed: seed of the draws.

    >>> import torch
    >>> import invtoolbox as it
    >>> from invtoolbox.geometry import look_at
    >>> from invtoolbox.geometry.voxels import Voxels, VoxelSpace
    >>> camera = look_at(torch.tensor([[0.0, 0.0, -1.0]]), size=(2, 2), field_of_view=1.0)
    >>> A = it.operators.VoxelRenderer(camera)
    >>> space = VoxelSpace.box(5, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), scale=2.0)
    >>> raw = torch.full((1, 125), 0.5413)  # its softplus is 1, so the density is 2
    >>> fog = Voxels(raw, torch.zeros(1, 125, 1, 3), space)
    >>> bool((OcclusionPenalty(A, 0.5).energy(fog) - 2.0 * 0.5).abs() < 1e-3)
    True
    """

    def __init__(
        self, operator: Any, distance: float, subset_size: int | None = None, seed: int = 0
    ) -> None:
        if not isinstance(operator, Operator) or not hasattr(operator, "nearby"):
            raise InputError(
                "OcclusionPenalty takes a VoxelRenderer or a GaussianRenderer, "
                f"got {type(operator).__name__}"
            )
        check_range(self, "(0, inf]", distance=distance)
        self.distance = distance
        super().__init__(_Mean(), operator.nearby(distance), subset_size, seed)

    def __repr__(self) -> str:
        return f"OcclusionPenalty({self.operator!r}, {self.distance:g})"


class RaySpread(ExplicitPrior):
    """Mean spread of the density along rays: entropy, or distortion.

    ``R(p) = mean of s over the rays with alpha above least_alpha``. Predictions have two channels,
    alpha and the spread s of each ray: ``RaySpread() @ VoxelRenderer(cameras, outputs=("alpha",
    "entropy"))``, or ``outputs=("alpha", "distortion")``, which `kernels.rendering.voxel_rendering`
    defines. Rays of a surface have little spread, and rays through fog have much. The selection of
    rays is held fixed in derivatives.

    Sources: Kim, Seo and Han, "InfoNeRF: ray entropy minimization for few-shot neural volume
    rendering", CVPR 2022, equations 7 to 9 (entropy of shares of alpha, here of the weights, on
    views with and without pictures); Barron et al., "Mip-NeRF 360", CVPR 2022, equation 15
    (distortion).

    Args:
        least_alpha: share of the light that a ray must lose to take part.

    Raises:
        InputError: The predictions do not have two channels.

    >>> import torch
    >>> import invtoolbox as it
    >>> from invtoolbox.geometry import look_at
    >>> from invtoolbox.geometry.voxels import Voxels, VoxelSpace
    >>> camera = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(2, 2), field_of_view=1.0)
    >>> A = it.operators.VoxelRenderer(camera, outputs=("alpha", "entropy"))
    >>> space = VoxelSpace.box(9, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    >>> middle = (space.places()[:, 2] - 4).abs() < 0.5
    >>> black = torch.zeros(1, space.rows, 1, 3)
    >>> wall = Voxels(torch.where(middle, 6.0, -9.0)[None], black, space)
    >>> fog = Voxels(torch.full((1, space.rows), -1.0), black, space)
    >>> prior = RaySpread() @ A
    >>> bool(prior.energy(wall) < 0.6 * prior.energy(fog))
    True
    """

    is_smooth = True

    def __init__(self, least_alpha: float = 0.1) -> None:
        check_range(self, "[0, 1)", least_alpha=least_alpha)
        self.least_alpha = least_alpha

    def energy(self, x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[1] != 2:
            raise InputError(
                f"{self!r} takes two channels, alpha and a spread, got shape {tuple(x.shape)}; "
                "render them with outputs=('alpha', 'entropy') or ('alpha', 'distortion')"
            )
        alpha, spread = x.flatten(2).unbind(1)
        met = (alpha.detach() > self.least_alpha).to(x)
        return (met * spread).sum(1) / met.sum(1).clamp_min(1)

    def __repr__(self) -> str:
        return f"RaySpread(least_alpha={self.least_alpha:g})"


class Disagreement(ExplicitPrior):
    """Difference of two predictions: ``R(p) = mean |p_1 - p_2|``, or of the squares.

    p_1 is the first half of the channels and p_2 the second, as `operators.OnBoth` predicts them.
    Two models of few views differ most where both are wrong. So pictures of further poses on which
    they agree are more likely right:
    ``ThroughOperator(Disagreement(), OnBoth(renderer of such poses), subset_size=1)``.

    Source: Zhang et al., "CoR-GS: sparse-view 3D Gaussian splatting via co-regularization", ECCV
    2024, which adds structural similarity.

    Args:
        power: 1 for the modulus, 2 for squares.

    >>> import torch
    >>> pictures = torch.cat([torch.zeros(1, 3, 2, 4, 4), torch.full((1, 3, 2, 4, 4), 0.5)], dim=1)
    >>> Disagreement().energy(pictures), Disagreement(power=2).energy(pictures)
    (tensor([0.5000]), tensor([0.2500]))
    """

    is_convex = True
    is_smooth = True  # except where both agree exactly; the modulus has the slope 0 there

    def __init__(self, power: Literal[1, 2] = 1) -> None:
        check_choice(self, (1, 2), power=power)
        self.power = power

    def energy(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise InputError(
                f"{self!r} compares two halves of the channels, as operators.OnBoth predicts "
                f"them, got {x.shape[1]} channels"
            )
        first, second = x.chunk(2, dim=1)
        apart = first - second
        return mean_items(apart.abs() if self.power == 1 else apart.square())

    def __repr__(self) -> str:
        return f"Disagreement(power={self.power})"


class _Mean(ExplicitPrior):
    """Mean of the prediction."""

    is_convex = True

    def energy(self, x: Tensor) -> Tensor:
        return mean_items(x)
