"""Ranges that a lidar measures of 3D Gaussians: rays for pixels, as a forward operator."""

from __future__ import annotations

import copy
from typing import Any, Literal, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.operators.base import Operator
from invtoolbox.scenes.rigid import inverse, rigid, rotation
from invtoolbox.scenes.splat_rays import ray_rasterization
from invtoolbox.scenes.splats import Splats

Output = Literal["range", "median_range", "alpha", "colour"]
_OUTPUTS = ("range", "median_range", "alpha", "colour")


class GaussianRanges(Operator):
    r"""``A(x)``: what the rays of lidar sweeps see of `scenes.Splats`, ``(batch, channels, sweep, ray)``.

    The channels are those of the outputs, one after the other; see `scenes.ray_rasterization` for what is computed. Ranges are 0 where
    nothing is met. Derivatives reach every tensor of the splats, and the parameter ``twist``, ``(sweeps, 6)``, which moves the sensors in
    their own frames: a rotation vector, then a shift. Blocks are sweeps.

    Args:
        directions: of the rays in the sensors' frame, of any length, 0 for none: ``(R, 3)`` for all sweeps alike, or ``(C, R, 3)``.
        poses: sensor to world, as data sets of lidar sweeps give it, ``(C, 4, 4)``; the world is the sensor's frame where not given.
        outputs: out of ``"range"`` (expected), ``"median_range"``, ``"alpha"`` and ``"colour"`` (intensities, say).
        channels: of the colour.
        beam: standard deviation of a beam across, radians.
        near, far: depths between which Gaussians are seen.
        pose_step: the unit in which solvers move ``twist``, radians and lengths of the world.

    >>> from invtoolbox.scenes import SpinningLidar
    >>> rays = SpinningLidar(rings=4, azimuths=8).directions.float().reshape(-1, 3)
    >>> A = GaussianRanges(rays, outputs=("range", "alpha"))
    >>> wall = Splats.of_points(torch.tensor([[[5.0, 0.0, 0.0]]]), torch.ones(1, 1, 3), 2.0, 0.99)
    >>> A(wall).shape, round(float(A(wall)[0, 0].max()), 1)
    (torch.Size([1, 2, 1, 32]), 5.8)
    """

    def __init__(
        self,
        directions: Tensor,
        poses: Tensor | None = None,
        outputs: tuple[Output, ...] = ("range",),
        channels: int = 3,
        beam: float = 1e-3,
        near: float = 0.01,
        far: float = 1e10,
        pose_step: float = 1e-3,
    ) -> None:
        for name in outputs:
            if name not in _OUTPUTS:
                raise unknown_name("output of GaussianRanges", name, _OUTPUTS)
        poses = torch.eye(4, dtype=directions.dtype)[None] if poses is None else poses
        if (
            poses.ndim != 3
            or poses.shape[1:] != (4, 4)
            or directions.ndim not in (2, 3)
            or directions.shape[-1] != 3
            or (directions.ndim == 3 and len(directions) != len(poses))
        ):
            raise InputError(
                "GaussianRanges takes directions (R, 3) or (C, R, 3) and poses (C, 4, 4), got "
                f"{tuple(directions.shape)} and {tuple(poses.shape)}"
            )
        self.directions = directions.expand(len(poses), *directions.shape[-2:])
        self.to_sensor = inverse(poses)
        self.twist = self.to_sensor.new_zeros(len(poses), 6)
        self.index: Tensor | None = (
            None  # of a subset, its sweeps; the parameters remain those of all
        )
        self.outputs, self.channels, self.beam, self.near, self.far, self.pose_step = (
            tuple(outputs),
            channels,
            beam,
            near,
            far,
            pose_step,
        )
        self.domain_shape = ()
        self._set_range()

    def _set_range(self) -> None:
        count = sum(self.channels if name == "colour" else 1 for name in self.outputs)
        self.range_shape = (count, self.blocks, self.directions.shape[1])

    def __call__(self, x: Any) -> Tensor:
        if not isinstance(x, Splats):
            raise InputError(
                f"{self} takes Splats, as priors.Gaussians() makes them, got {type(x).__name__}"
            )
        batch, like = x.means.shape[0], x.means
        color, alpha, info = ray_rasterization(
            x.means,
            x.quats,
            x.scales,
            x.opacities,
            x.colors,
            self._views(like).expand(batch, -1, -1, -1),
            self._seen(self.directions, 0),
            self.near,
            self.far,
            self.beam,
            x.degree,
            median_range="median_range" in self.outputs,
        )
        if color.shape[-1] != self.channels and "colour" in self.outputs:
            raise InputError(
                f"{self} was told of {self.channels} channels, and the Gaussians have {color.shape[-1]}; pass channels="
            )
        known = {
            "range": info["range"],
            "median_range": info.get("median_range"),
            "alpha": alpha,
            "colour": color,
        }
        parts = [part for name in self.outputs if (part := known[name]) is not None]
        return torch.cat(parts, -1).movedim(-1, 1)

    def _forward(self, x: Any) -> Tensor:
        return self(x)

    def _seen(self, field: Tensor, axis: int) -> Tensor:
        """Of the sweeps that are looked at."""
        return field if self.index is None else field.index_select(axis, self.index)

    def _views(self, like: Tensor) -> Tensor:
        """World to sensor with the twists made, ``(C, 4, 4)``, or ``(batch, C, 4, 4)`` where every item has its own."""
        twist = self._seen(self.twist, -2).to(like)
        return rigid(rotation(twist[..., :3]), twist[..., 3:]) @ self._seen(self.to_sensor, 0).to(
            like
        )

    @property
    def poses(self) -> Tensor:
        """Sensor to world as the twists have moved it, ``(C, 4, 4)``, or ``(batch, C, 4, 4)`` where every item has its own."""
        return inverse(self._views(self.to_sensor)).detach()

    # -- parameters and blocks -------------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Tensor]:
        return {"twist": self.twist}

    def fixed_scales(self) -> dict[str, float]:
        return {"twist": self.pose_step}

    @property
    def blocks(self) -> int:
        """The number of sweeps."""
        return len(self.to_sensor) if self.index is None else len(self.index)

    def subset(self, index: Any) -> Self:
        """The operator for some of the sweeps; its parameter is still the twist of all, which a solver may be finding."""
        other = copy.copy(self)
        every = (
            torch.arange(len(self.to_sensor), device=self.twist.device)
            if self.index is None
            else self.index
        )
        other.index = every[index].reshape(-1)
        other._set_range()
        return other

    def __repr__(self) -> str:
        shown = [f"{self.blocks} sweeps", f"{self.directions.shape[1]} rays"]
        shown += [] if self.outputs == ("range",) else [f"outputs={self.outputs}"]
        return f"GaussianRanges({', '.join(shown)})"
