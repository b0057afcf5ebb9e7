"""Turn, shift and scale: what pictures alone cannot tell about where their cameras stand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.scenes.best_rotation import best_rotation
from invtoolbox.scenes.cameras import Cameras
from invtoolbox.scenes.rigid import inverse, rigid


@dataclass(frozen=True, eq=False)
class Similarity:
    """``p -> scale R p + t``.

    Attributes:
        scale: above 0, a tensor without axes.
        rotation: R, ``(3, 3)``.
        shift: t, ``(3,)``.
    """

    scale: Tensor
    rotation: Tensor
    shift: Tensor

    @classmethod
    def between(cls, source: Tensor, target: Tensor) -> Similarity:
        """The one that takes points to others with the least squared distance (Umeyama, IEEE TPAMI 13, 1991), computed in float64.

        Args:
            source, target: ``(N, 3)``, three or more that lie on no line.

        >>> source = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> found = Similarity.between(source, 2 * source + 1)
        >>> round(float(found.scale), 5), found.shift
        (2.0, tensor([1., 1., 1.]))
        """
        if (
            source.ndim != 2
            or source.shape != target.shape
            or source.shape[1] != 3
            or len(source) < 3
        ):
            raise InputError(
                f"a similarity is found from three or more pairs of points (N, 3), got {tuple(source.shape)} and "
                f"{tuple(target.shape)}"
            )
        p, q = source.to(torch.float64), target.to(torch.float64)
        middle_p, middle_q = p.mean(0), q.mean(0)
        p, q = p - middle_p, q - middle_q
        R = best_rotation(q.T @ p)
        size = p.square().sum()
        if not float(size) > 0:
            raise InputError(
                "a similarity is found from points in several places, and these are all in one"
            )
        scale = (q * (p @ R.T)).sum() / size
        return cls(scale.to(source), R.to(source), (middle_q - scale * R @ middle_p).to(source))

    @classmethod
    def of_cameras(cls, source: Cameras, target: Cameras) -> Similarity:
        """The one that takes the places of cameras to those of others."""
        return cls.between(source.centres, target.centres)

    def points(self, points: Tensor) -> Tensor:
        """``(..., 3)``, moved."""
        return self.scale * points @ self.rotation.T + self.shift

    def cameras(self, cameras: Cameras) -> Cameras:
        """The cameras that see moved points as the given ones see them where they were; depths grow by the scale."""
        to_world = inverse(cameras.world_to_camera)
        moved = rigid(self.rotation @ to_world[:, :3, :3], self.points(to_world[:, :3, 3]))
        return replace(cameras, world_to_camera=inverse(moved))

    def inverse(self) -> Similarity:
        back = self.rotation.T
        return Similarity(1 / self.scale, back, -(back @ self.shift) / self.scale)
