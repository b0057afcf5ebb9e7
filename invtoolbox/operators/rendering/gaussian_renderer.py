"""Pictures and depths of 3D Gaussians: a renderer as a forward operator.

Ranges that a lidar measures of 3D Gaussians: rays for pixels, as a forward operator.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.geometry.ray_splatting import ray_rasterization
from invtoolbox.geometry.rigid import inverse, rigid, rotation
from invtoolbox.geometry.splatting import rasterization
from invtoolbox.operators.base import Operator

Output = Literal["color", "alpha", "depth", "median_depth", "normal"]
_CHANNELS = {"color": 3, "alpha": 1, "depth": 1, "median_depth": 1, "normal": 3}


class GaussianRenderer(Operator):
    r"""``A(x)``: what cameras see of `geometry.Splats`, ``(batch, channels, camera, row, column)``.

    The channels are those of the outputs, one after the other. See `geometry.rasterization` for what is computed; derivatives reach every
    tensor of the splats, and the parameter ``twist``, which moves the cameras in their own frames (`Cameras.rotate`) and is 0 where nothing
    else is said: ``Problem(..., unknown={"twist": None})`` refines poses. Blocks are cameras, so that a solver's ``subset_size`` is the
    number of pictures that a step looks at.

    Args:
        cameras: those of every item, or a sequence with those of each, all of one size and number.
        outputs: out of ``"color"``, ``"alpha"``, ``"depth"`` (expected, along z), ``"median_depth"`` and ``"normal"`` (in the world,
            weighed by alpha).
        background: the color that stands behind everything: a number, or one a channel.
        channels: of the color.
        antialiased: see ``rasterize_mode`` there.
        near, far: depths between which Gaussians are seen.
        radius_clip: Gaussians that reach no farther than so many pixels are left out.
        pose_step: the unit in which solvers move ``twist``, radians and lengths of the world.
        backend: ``"own"``, or ``"gsplat"``: on CUDA that library renders, where it is installed.

    >>> from invtoolbox.geometry import look_at
    >>> A = GaussianRenderer(look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(8, 12)), background=1.0)
    >>> x = Splats.of_points(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), 0.3, 0.9)
    >>> A(x).shape, round(float(A(x)[0, 0, 0, 4, 6]), 3)
    (torch.Size([1, 3, 1, 8, 12]), 0.265)
    """

    item_fields: ClassVar[tuple[str, ...]] = ("world_to_camera", "intrinsics", "twist")

    def __init__(
        self,
        cameras: Cameras | Sequence[Cameras],
        outputs: tuple[Output, ...] = ("color",),
        background: float | Tensor = 0.0,
        channels: int = 3,
        antialiased: bool = False,
        near: float = 0.01,
        far: float = 1e10,
        radius_clip: float = 0.0,
        pose_step: float = 1e-3,
        backend: Literal["own", "gsplat"] = "own",
    ) -> None:
        for name in outputs:
            if name not in _CHANNELS:
                raise unknown_name("output of GaussianRenderer", name, _CHANNELS)
        if backend not in ("own", "gsplat"):
            raise unknown_name("backend of GaussianRenderer", backend, ("own", "gsplat"))
        every = [cameras] if isinstance(cameras, Cameras) else list(cameras)
        if not every or len({(len(c), c.size) for c in every}) > 1:
            raise InputError(
                "GaussianRenderer takes cameras, or the cameras of every item, as many and of one size each"
            )
        self.size = every[0].size
        self.world_to_camera = torch.stack([c.world_to_camera for c in every])
        self.intrinsics = torch.stack([c.intrinsics for c in every])
        self.twist = self.world_to_camera.new_zeros(len(every), len(every[0]), 6)
        self.items = None if isinstance(cameras, Cameras) else len(every)
        self.index: Tensor | None = (
            None  # of a subset, its cameras; the parameters remain those of all
        )
        self.outputs, self.channels, self.antialiased = tuple(outputs), channels, antialiased
        self.background = torch.as_tensor(background, dtype=self.intrinsics.dtype)
        self.near, self.far, self.radius_clip, self.pose_step, self.backend = (
            near,
            far,
            radius_clip,
            pose_step,
            backend,
        )
        self.domain_shape = ()
        self._set_range()

    def _set_range(self) -> None:
        channels = sum(
            self.channels if name == "color" else _CHANNELS[name] for name in self.outputs
        )
        self.range_shape = (channels, self.blocks, *self.size)

    def __call__(self, x: Any) -> Tensor:
        return self.with_info(x)[0]

    def _forward(self, x: Any) -> Tensor:
        return self.with_info(x)[0]

    def with_info(self, x: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The prediction, and "splats" and "boxes" of every Gaussian in every view, as `geometry.rasterization` gives them, and the
        "size" of a picture, width and height."""
        if not isinstance(x, Splats):
            raise InputError(
                f"{self} takes Splats, as priors.Gaussians() makes them, got {type(x).__name__}"
            )
        batch, like = x.means.shape[0], x.means
        if self.items is not None and batch != self.items:
            raise InputError(
                f"{self} takes a batch of {self.items}, because its cameras differ from item to item, got a batch of {batch}"
            )
        views, Ks = (
            self._poses(like).expand(batch, -1, -1, -1),
            self._seen(self.intrinsics).to(like).expand(batch, -1, -1, -1),
        )
        behind = (
            self.background.to(like).expand(batch, views.shape[1], self.channels)
            if bool((self.background != 0).any())
            else None
        )
        depth = "depth" in self.outputs
        image, alpha, info = self._rasterization()(
            x.means,
            x.quats,
            x.scales,
            x.opacities,
            x.colors,
            views,
            Ks,
            self.size[1],
            self.size[0],
            self.near,
            self.far,
            self.radius_clip,
            sh_degree=x.degree,
            backgrounds=behind,
            render_mode="RGB+ED" if depth else "RGB",
            rasterize_mode="antialiased" if self.antialiased else "classic",
            normals="normal" in self.outputs,
            median_depth="median_depth" in self.outputs,
        )
        channels = image.shape[-1] - depth
        if channels != self.channels:
            raise InputError(
                f"{self} was told of {self.channels} channels, and the Gaussians have {channels}; pass channels="
            )
        known = {
            "color": image[..., : self.channels],
            "alpha": alpha,
            "depth": image[..., self.channels :],
            "normal": info.get("normals"),
            "median_depth": info.get("median_depth"),
        }
        parts = [part for name in self.outputs if (part := known[name]) is not None]
        prediction = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        seen = {name: info[name] for name in ("splats", "boxes") if name in info}
        return prediction.movedim(-1, 1), {
            **seen,
            "size": like.new_tensor([self.size[1], self.size[0]]),
        }

    def _poses(self, like: Tensor) -> Tensor:
        """World to camera with the twists made, ``(1 or batch, C, 4, 4)``."""
        twist = self._seen(self.twist).to(like)
        fixed = self._seen(self.world_to_camera).to(like)
        if not twist.requires_grad and not bool((twist != 0).any()):
            return fixed
        count = max(len(twist), len(fixed))
        flat = fixed.expand(count, -1, -1, -1).flatten(0, 1)
        cameras = Cameras(
            flat,
            self._seen(self.intrinsics).to(like).expand(count, -1, -1, -1).flatten(0, 1),
            self.size,
        )
        return cameras.rotate(twist.expand(count, -1, -1).flatten(0, 1)).world_to_camera.unflatten(
            0, (count, -1)
        )

    def _seen(self, field: Tensor) -> Tensor:
        """Of the cameras that are looked through."""
        return field if self.index is None else field[:, self.index]

    def _rasterization(self) -> Any:
        if self.backend == "own":
            return rasterization
        from invtoolbox.geometry.gsplat_backend import rasterization as by_gsplat

        return by_gsplat

    @property
    def cameras(self) -> Cameras:
        """The cameras as they are moved, of every item one after the other where items have their own."""
        poses = self._poses(self.twist).detach()
        K = self._seen(self.intrinsics).expand(len(poses), -1, -1, -1)
        return Cameras(poses.flatten(0, 1), K.flatten(0, 1), self.size)

    def nearby(self, distance: float) -> Self:
        """The alpha alone, of what lies within so far of the cameras; for `priors.OcclusionPenalty`."""
        other = copy.copy(self)
        other.outputs, other.far, other.background = (
            ("alpha",),
            self.near + distance,
            torch.zeros_like(self.background),
        )
        other._set_range()
        return other

    # -- parameters and blocks -------------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Tensor]:
        return {"twist": self.twist if self.items is not None else self.twist[0]}

    def fixed_scales(self) -> dict[str, float]:
        return {"twist": self.pose_step}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        given = parameters.get("twist")
        if given is not None and given.ndim == 2:
            parameters = {**parameters, "twist": given[None]}
        return super()._replace(parameters)

    def select(self, index: Tensor) -> Self:
        other = copy.copy(self)
        for name in self.item_fields:
            value = getattr(self, name)
            if len(value) > 1:
                setattr(other, name, value.index_select(0, index))
        other.items = None if self.items is None else len(index)
        return other

    @property
    def blocks(self) -> int:
        """The number of cameras."""
        return int(self.world_to_camera.shape[1]) if self.index is None else len(self.index)

    def subset(self, index: Any) -> Self:
        """The operator for some of the cameras; its parameter is still the twist of all, which a solver may be finding."""
        other = copy.copy(self)
        every = (
            torch.arange(self.world_to_camera.shape[1], device=self.twist.device)
            if self.index is None
            else self.index
        )
        other.index = every[index].reshape(-1)
        other._set_range()
        return other

    def __repr__(self) -> str:
        shown = [f"{self.blocks} cameras", f"{self.size[0]}x{self.size[1]}"]
        shown += [] if self.outputs == ("color",) else [f"outputs={self.outputs}"]
        shown += ["antialiased"] if self.antialiased else []
        return f"GaussianRenderer({', '.join(shown)})"


RangeOutput = Literal["range", "median_range", "alpha", "color"]
_OUTPUTS = ("range", "median_range", "alpha", "color")


class GaussianRanges(Operator):
    r"""``A(x)``: what the rays of lidar sweeps see of `geometry.Splats`, ``(batch, channels, sweep, ray)``.

    The channels are those of the outputs, one after the other; see `geometry.ray_rasterization` for what is computed. Ranges are 0 where
    nothing is met. Derivatives reach every tensor of the splats, and the parameter ``twist``, ``(sweeps, 6)``, which moves the sensors in
    their own frames: a rotation vector, then a shift. Blocks are sweeps.

    Args:
        directions: of the rays in the sensors' frame, of any length, 0 for none: ``(R, 3)`` for all sweeps alike, or ``(C, R, 3)``.
        poses: sensor to world, as data sets of lidar sweeps give it, ``(C, 4, 4)``; the world is the sensor's frame where not given.
        outputs: out of ``"range"`` (expected), ``"median_range"``, ``"alpha"`` and ``"color"`` (intensities, say).
        channels: of the color.
        beam: standard deviation of a beam across, radians.
        near, far: depths between which Gaussians are seen.
        pose_step: the unit in which solvers move ``twist``, radians and lengths of the world.

    >>> from invtoolbox.simulation import SpinningLidar
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
        outputs: tuple[RangeOutput, ...] = ("range",),
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
        count = sum(self.channels if name == "color" else 1 for name in self.outputs)
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
        if color.shape[-1] != self.channels and "color" in self.outputs:
            raise InputError(
                f"{self} was told of {self.channels} channels, and the Gaussians have {color.shape[-1]}; pass channels="
            )
        known = {
            "range": info["range"],
            "median_range": info.get("median_range"),
            "alpha": alpha,
            "color": color,
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
