"""Smooth depths, and nothing right in front of the cameras: what sparse views leave open."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.operators.base import Operator
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.composed import ThroughOperator


class DepthSmoothness(ExplicitPrior):
    r"""``R(d) = mean over neighbouring pixels of w |d_i - d_j|^2``, or ``w |d_i - d_j|``.

    Of depths ``(batch, channel, picture, row, column)``.

    Through a renderer of views that nobody took it says that surfaces are smooth from there too: ``DepthSmoothness() @ A`` with
    ``A = VoxelRenderer(unseen, outputs=("depth",), block=8)``, on patches, or ``GaussianRenderer(unseen, outputs=("depth",))``. Pixels
    that meet nothing, of depth 0, have no neighbours.

    With ``edges`` the prediction holds the colours and, last, the depth (``outputs=("colour", "depth")``), and ``w = exp(-edges |c_i -
    c_j|)``, |.| the mean over channels: depths may jump where colours do. Weights are held when derivatives are taken.

    Sources: Niemeyer et al., "RegNeRF", CVPR 2022, equation 4 (8 x 8 patches of unseen views, squares); Godard et al., "Unsupervised
    monocular depth estimation", CVPR 2017, equation 3 (edges, the modulus).

    Args:
        power: 2 for squares, 1 for the modulus.
        edges: how fast the weight falls with the difference of the colours; None for depths alone.

    >>> import torch
    >>> step = torch.tensor([[1.0, 1.0], [3.0, 3.0]]).view(1, 1, 1, 2, 2)
    >>> DepthSmoothness().energy(step)  # two of four pairs of neighbours differ, by 2
    tensor([2.])
    """

    def __init__(self, power: Literal[1, 2] = 2, edges: float | None = None) -> None:
        if power not in (1, 2):
            raise unknown_name("power of DepthSmoothness", str(power), ("1", "2"))
        if edges is not None and not edges >= 0:
            raise InputError(f"edges of DepthSmoothness is not negative, got {edges}")
        self.power, self.edges = power, edges
        self.is_smooth = power == 2

    def energy(self, x: Tensor) -> Tensor:
        wanted = 1 if self.edges is None else 2
        if x.ndim != 5 or (x.shape[1] != 1 if wanted == 1 else x.shape[1] < 2):
            kind = "1 channel, the depth" if wanted == 1 else "colours and, last, a depth"
            raise InputError(
                f"{self!r} takes pictures (batch, channel, picture, row, column) with {kind}, got {tuple(x.shape)}; renderers "
                "of voxels give pictures with block='picture' or the side of patches"
            )
        depth = x[:, -1]
        total, pairs = depth.new_zeros(len(x)), depth.new_zeros(len(x))
        for axis in (2, 3):
            one, other = (
                depth.narrow(axis, 1, depth.shape[axis] - 1),
                depth.narrow(axis, 0, depth.shape[axis] - 1),
            )
            both = ((one > 0) & (other > 0)).to(depth)
            weight = both
            if self.edges is not None:
                weight = (
                    both * (-self.edges * x.detach()[:, :-1].diff(dim=axis + 1).abs().mean(1)).exp()
                )
            apart = one - other
            total = total + (weight * (apart.square() if self.power == 2 else apart.abs())).flatten(
                1
            ).sum(1)
            pairs = pairs + both.flatten(1).sum(1)
        return total / pairs.clamp_min(1)

    def __repr__(self) -> str:
        return (
            f"DepthSmoothness(power={self.power}"
            + ("" if self.edges is None else f", edges={self.edges:g}")
            + ")"
        )


class OcclusionPenalty(ThroughOperator):
    r"""``R(x) = mean over rays of tau``, the optical thickness of what lies within ``distance`` of the cameras.

    Few views are explained best by walls of fog right before each of them; nothing else is seen there, and a penalty on the density along
    the first part of every ray removes them.

    Source: Yang, Pavone and Wang, "FreeNeRF", CVPR 2023, equation 7, with a distance in place of a number of samples.

    Args:
        operator: a renderer of the cameras, with a method ``nearby(distance)``: its thickness, or alpha, up to there.
        distance: from the cameras (from the renderer's ``near``) in the unit of the world.
        subset_size: blocks of a step, see `ThroughOperator`.
        seed: of the draws.

    >>> import torch
    >>> import invtoolbox as it
    >>> from invtoolbox.scenes import look_at
    >>> from invtoolbox.scenes.voxels import Voxels, VoxelSpace
    >>> A = it.operators.VoxelRenderer(look_at(torch.tensor([[0.0, 0.0, -1.0]]), size=(2, 2), field_of_view=1.0))
    >>> space = VoxelSpace.box(5, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), scale=2.0)
    >>> fog = Voxels(torch.full((1, 125), 0.5413), torch.zeros(1, 125, 1, 3), space)  # softplus is 1, so the density is 2
    >>> bool((OcclusionPenalty(A, 0.5).energy(fog) - 2.0 * 0.5).abs() < 1e-3)
    True
    """

    def __init__(
        self, operator: Any, distance: float, subset_size: int | None = None, seed: int = 0
    ) -> None:
        if not isinstance(operator, Operator) or not hasattr(operator, "nearby"):
            raise InputError(
                f"OcclusionPenalty takes a VoxelRenderer or a GaussianRenderer, got {type(operator).__name__}"
            )
        if not distance > 0:
            raise InputError(f"the distance of OcclusionPenalty is positive, got {distance}")
        self.distance = distance
        super().__init__(_Mean(), operator.nearby(distance), subset_size, seed)

    def __repr__(self) -> str:
        return f"OcclusionPenalty({self.operator!r}, {self.distance:g})"


class _Mean(ExplicitPrior):
    """``R(p)``: the mean of the prediction."""

    is_convex = True

    def energy(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1)
