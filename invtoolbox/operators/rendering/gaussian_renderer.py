"""Renderers of 3D Gaussians as forward operators: camera pictures, and lidar ranges.

`GaussianRenderer` predicts what cameras measure, `GaussianRanges` what the rays of lidar sweeps
measure.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from invtoolbox.core.constants import compute_once, constant, is_nonzero
from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError, check_name
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.geometry.lens import Lens
from invtoolbox.geometry.ray_splatting import ray_rasterization
from invtoolbox.geometry.rigid import inverse, rigid, rotation
from invtoolbox.geometry.splatting import check_skew, rasterization
from invtoolbox.operators.base import Operator

Output = Literal["color", "alpha", "depth", "median_depth", "normal", "plane_depth", "distortion"]
_CHANNELS = {
    "color": 3,
    "alpha": 1,
    "depth": 1,
    "median_depth": 1,
    "normal": 3,
    "plane_depth": 1,
    "distortion": 1,
}


class _SplatOperator(Operator):
    """Base of the operators on `geometry.Splats`: outputs, pose parameter and blocks.

    Attributes:
        outputs: names of the outputs.
        channels: number of channels of the color.
        twist: motion of the sensors in their own frames, the parameter of the operator.
        index: numbers of the sensors of a subset; ``None`` for all. The parameters remain those of
            all sensors.
        pose_step: unit in which solvers move ``twist``.
    """

    outputs: tuple[str, ...]
    channels: int
    twist: Tensor
    index: Tensor | None = None
    pose_step: float

    def _forward(self, x: Any) -> Tensor:
        return self(x)

    def _check_splats(self, x: Any) -> None:
        if not isinstance(x, Splats):
            raise InputError(
                f"{self} takes Splats, as decoded by priors.Gaussians(), got {type(x).__name__}"
            )

    def _check_channels(self, channels: int) -> None:
        if channels != self.channels:
            raise InputError(
                f"{self} has {self.channels} channels, but the Gaussians have {channels}; pass "
                "channels="
            )

    def _concatenate(self, planes: dict[str, Tensor | None]) -> Tensor:
        """Concatenate the outputs along the channels, which move behind the batch."""
        chosen = [plane for name in self.outputs if (plane := planes[name]) is not None]
        return (chosen[0] if len(chosen) == 1 else torch.cat(chosen, -1)).movedim(-1, 1)

    def _set_range(self) -> None:
        raise NotImplementedError

    def fixed_scales(self) -> dict[str, float]:
        return {"twist": self.pose_step}

    @property
    def blocks(self) -> int:
        """Number of sensors: cameras, or sweeps."""
        return self.twist.shape[-2] if self.index is None else len(self.index)

    def subset(self, index: Any) -> Self:
        """Return the operator for some of the sensors.

        Its parameter is still the twist of all sensors, which a solver may estimate.
        """
        subset, every = copy.copy(self), self.index
        if every is None:
            every = torch.arange(self.twist.shape[-2], device=self.twist.device)
        subset.index = every[index].reshape(-1)
        subset._set_range()
        return subset


class GaussianRenderer(_SplatOperator):
    r"""Camera pictures of `geometry.Splats`, ``(batch, channels, camera, row, column)``.

    The channels of the outputs follow one after the other. See `geometry.rasterization` for the
    computation. Derivatives reach every tensor of the splats, and the parameter ``twist``, which
    moves the cameras in their own frames (`Cameras.rotate`) and is 0 by default:
    ``Problem(..., unknown={"twist": None})`` refines poses. Blocks are cameras, so a solver's
    ``subset_size`` is the number of pictures per step.

    Args:
        cameras: cameras of every item, or a sequence with the cameras of each item, all of one size
            and number.
        outputs: names out of ``"color"``, ``"alpha"``, ``"depth"`` (expected, along z),
            ``"median_depth"`` and ``"normal"`` (in the world, weighted by alpha); and for flat
            Gaussians ``"plane_depth"`` (at which rays meet the planes of the Gaussians) and
            ``"distortion"`` (spread of the depths in a pixel).
        background: color of the background: a number, or one number per channel.
        channels: number of channels of the color.
        antialiased: whether ``rasterize_mode`` of `geometry.rasterization` is "antialiased".
        near: smallest depth of a visible Gaussian.
        far: largest depth of a visible Gaussian.
        radius_clip: radius in pixels up to which Gaussians are left out.
        pose_step: unit in which solvers move ``twist``, radians and lengths of the world.
        lens: lens of all cameras, for pictures that are not straightened; None for the lenses that
            the cameras have (`Cameras.lenses`).
        rolling: motion of each camera in its own frame while a picture is read from the first to
            the last row, ``(cameras, 6)``: a rotation vector in radians, then a shift, as
            `Cameras.rotate` takes them. None if all rows are read at once.
        absgrad: whether the information of `with_info` has "absgrad", see `geometry.rasterization`;
            ``DefaultStrategy(absolute=True)`` needs it.
        backend: renderer, ``"own"``, or ``"gsplat"``, which renders on CUDA with that library if it
            is installed.
        blur: variance added to the Gaussians in the picture, ``eps2d`` of `geometry.rasterization`,
            square pixels. Silhouettes swell by the order of its standard deviation. The default is
            that of Kerbl et al.; a pixel has a variance of 1/12.

    >>> from invtoolbox.geometry import look_at
    >>> camera = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(8, 12))
    >>> A = GaussianRenderer(camera, background=1.0)
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
        lens: Lens | None = None,
        absgrad: bool = False,
        rolling: Tensor | None = None,
        blur: float = 0.3,
    ) -> None:
        check_range(self, "(0, inf]", blur=blur)
        for name in outputs:
            check_name("output of GaussianRenderer", name, _CHANNELS)
        check_name("backend of GaussianRenderer", backend, ("own", "gsplat"))
        if backend != "own" and (absgrad or rolling is not None):
            raise InputError(
                "backend='gsplat' has neither absgrad nor a rolling shutter here; take backend='own'"
            )
        every = [cameras] if isinstance(cameras, Cameras) else list(cameras)
        if not every or len({(len(c), c.size) for c in every}) > 1:
            raise InputError(
                "GaussianRenderer takes cameras, or the cameras of every item, of the same number "
                "and size each"
            )
        if rolling is not None and tuple(rolling.shape) != (len(every[0]), 6):
            raise InputError(
                f"rolling has the shape {tuple(rolling.shape)}, expected {(len(every[0]), 6)}, one "
                "motion per camera"
            )
        self.rolling = rolling
        self.size = every[0].size
        self.world_to_camera = torch.stack([c.world_to_camera for c in every])
        self.intrinsics = torch.stack([c.intrinsics for c in every])
        check_skew(self.intrinsics)
        self.twist = self.world_to_camera.new_zeros(len(every), len(every[0]), 6)
        self.items = None if isinstance(cameras, Cameras) else len(every)
        self.outputs, self.channels, self.antialiased = tuple(outputs), channels, antialiased
        self.background = torch.as_tensor(background, dtype=self.intrinsics.dtype)
        self.near, self.far, self.radius_clip, self.blur = near, far, radius_clip, blur
        self.pose_step, self.backend, self.absgrad = pose_step, backend, absgrad
        if len({c.lenses for c in every}) > 1:
            raise InputError(
                "GaussianRenderer takes the same lenses in every item; render the items apart"
            )
        lenses = every[0].lenses if lens is None else (lens,)
        # One lens for all, or one per camera.
        lenses = lenses[:1] if len(set(lenses)) == 1 else lenses
        self.lenses = lenses if any(lens.distorts for lens in lenses) else ()
        self.domain_shape = ()
        self._set_range()

    def _set_range(self) -> None:
        channels = sum(
            self.channels if name == "color" else _CHANNELS[name] for name in self.outputs
        )
        self.range_shape = (channels, self.blocks, *self.size)

    def __call__(self, x: Any) -> Tensor:
        return self.with_info(x)[0]

    def with_info(self, x: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the prediction, and information about the Gaussians.

        The information is "splats" and "boxes" of every Gaussian in every view, as returned by
        `geometry.rasterization`, and the "size" of a picture, width and height; and "absgrad" if
        the operator was created with it.
        """
        color, info = self._render(x)
        size = constant((self.size[1], self.size[0]), x.means)
        names = ("splats", "boxes", "absgrad")
        return color, {**{name: info[name] for name in names if name in info}, "size": size}

    def contributors(self, x: Any, number: int) -> tuple[Tensor, Tensor]:
        """Find the Gaussians of every pixel with the largest weights ``alpha T``.

        Args:
            x: the Gaussians.
            number: number k of Gaussians per pixel.

        Returns:
            numbers of the Gaussians, the largest weight first, -1 if there are fewer, and their
            weights, 0 then, ``(batch, cameras, height, width, k)`` each.

        >>> from invtoolbox.geometry import look_at
        >>> camera = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(8, 8))
        >>> places = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
        >>> x = Splats.of_points(places, torch.zeros(1, 2, 3), 0.5, 0.9)
        >>> ids, weights = GaussianRenderer(camera).contributors(x, 3)
        >>> ids[0, 0, 4, 4]  # the nearer one hides the other
        tensor([ 1,  0, -1])
        """
        check_range(self, "[1, inf)", number=number)
        if self.backend != "own":
            raise InputError("backend='gsplat' finds no contributors; take backend='own'")
        with torch.no_grad():
            info = self._render(x, number)[1]
        return info["ids"], info["weights"]

    def _render(self, x: Any, contributors: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the prediction, and the information of `geometry.rasterization`."""
        self._check_splats(x)
        batch, like = x.means.shape[0], x.means
        if self.items is not None and batch != self.items:
            raise InputError(
                f"{self} takes a batch of {self.items}, because its cameras differ from item to "
                f"item, got a batch of {batch}"
            )
        views = self._poses(like).expand(batch, -1, -1, -1)
        Ks = self._select(self.intrinsics).to(like).expand(batch, -1, -1, -1)
        more: dict[str, Any] = {"contributors": contributors} if contributors else {}
        if self.absgrad:
            more["absgrad"] = True
        if self.rolling is not None:
            more["viewmats_rs"] = self._ends(views)
        behind = (
            self.background.to(like).expand(batch, views.shape[1], self.channels)
            if compute_once(is_nonzero, self.background)
            else None
        )
        depth = "depth" in self.outputs
        image, alpha, info = self._rasterization()(
            means=x.means,
            quats=x.quats,
            scales=x.scales,
            opacities=x.opacities,
            colors=x.colors,
            viewmats=views,
            Ks=Ks,
            width=self.size[1],
            height=self.size[0],
            near_plane=self.near,
            far_plane=self.far,
            radius_clip=self.radius_clip,
            eps2d=self.blur,
            sh_degree=x.degree,
            backgrounds=behind,
            render_mode="RGB+ED" if depth else "RGB",
            rasterize_mode="antialiased" if self.antialiased else "classic",
            normals="normal" in self.outputs,
            median_depth="median_depth" in self.outputs,
            surface=not {"plane_depth", "distortion"}.isdisjoint(self.outputs),
            lens=self._own_lenses(),
            **more,
        )
        self._check_channels(image.shape[-1] - depth)
        planes = {
            "color": image[..., : self.channels],
            "alpha": alpha,
            "depth": image[..., self.channels :],
            "normal": info.get("normals"),
            **{name: info.get(name) for name in ("median_depth", "plane_depth", "distortion")},
        }
        return self._concatenate(planes), info

    def _ends(self, views: Tensor) -> Tensor:
        """Return world to camera when the last row is read, ``(batch, C, 4, 4)``."""
        assert self.rolling is not None
        rolling = self.rolling if self.index is None else self.rolling[self.index]
        # The motion is in the frame of the camera, so it is applied after world to camera.
        step = rolling.to(views)
        return rigid(rotation(step[:, :3]), step[:, 3:]) @ views

    def _own_lenses(self) -> Lens | tuple[Lens, ...] | None:
        """Return the lens of all views, or the lenses of the subset."""
        if len(self.lenses) < 2:
            return self.lenses[0] if self.lenses else None
        every = self.lenses if self.index is None else [self.lenses[k] for k in self.index.tolist()]
        return tuple(every)

    def _poses(self, like: Tensor) -> Tensor:
        """Return world to camera after the twists, ``(1 or batch, C, 4, 4)``."""
        twist = self._select(self.twist).to(like)
        fixed = self._select(self.world_to_camera).to(like)
        if not twist.requires_grad and not compute_once(is_nonzero, self.twist):
            return fixed
        count = max(len(twist), len(fixed))
        flat = fixed.expand(count, -1, -1, -1).flatten(0, 1)
        K = self._select(self.intrinsics).to(like).expand(count, -1, -1, -1).flatten(0, 1)
        cameras = Cameras(flat, K, self.size).rotate(twist.expand(count, -1, -1).flatten(0, 1))
        return cameras.world_to_camera.unflatten(0, (count, -1))

    def _select(self, field: Tensor) -> Tensor:
        """Select the cameras of the subset."""
        return field if self.index is None else field[:, self.index]

    def _rasterization(self) -> Any:
        if self.backend == "own":
            return partial(rasterization, checked=True)
        from invtoolbox.geometry.gsplat_backend import rasterization as by_gsplat

        return by_gsplat

    @property
    def cameras(self) -> Cameras:
        """Cameras after the twists; if items have their own cameras, those of all items in turn."""
        poses = self._poses(self.twist).detach()
        K = self._select(self.intrinsics).expand(len(poses), -1, -1, -1)
        lens = self._own_lenses()
        lenses = (lens,) * K.shape[1] if isinstance(lens, Lens) else lens or ()
        return Cameras(poses.flatten(0, 1), K.flatten(0, 1), self.size, lenses=lenses * len(poses))

    def nearby(self, distance: float) -> Self:
        """Return the operator of the alpha of Gaussians within a distance of the cameras.

        `priors.OcclusionPenalty` uses it.
        """
        renderer = copy.copy(self)
        renderer.outputs, renderer.far = ("alpha",), self.near + distance
        renderer.background = torch.zeros_like(self.background)
        renderer._set_range()
        return renderer

    # -- parameters --------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Tensor]:
        return {"twist": self.twist if self.items is not None else self.twist[0]}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        # Parameters that all items share come without an axis of items.
        return super()._replace({k: t[None] if t.ndim == 2 else t for k, t in parameters.items()})

    def select(self, index: Tensor) -> Self:
        renderer = copy.copy(self)
        for name in self.item_fields:
            value = getattr(self, name)
            if len(value) > 1:
                setattr(renderer, name, value.index_select(0, index))
        renderer.items = None if self.items is None else len(index)
        return renderer

    def __repr__(self) -> str:
        words = [f"{self.blocks} cameras", f"{self.size[0]}x{self.size[1]}"]
        words += [] if self.outputs == ("color",) else [f"outputs={self.outputs}"]
        words += ["antialiased"] if self.antialiased else []
        words += [f"blur={self.blur:g}"] if self.blur != 0.3 else []
        words += [f"lenses={self.lenses}"] if self.lenses else []
        return f"GaussianRenderer({', '.join(words)})"


RangeOutput = Literal["range", "median_range", "alpha", "color"]
_OUTPUTS = ("range", "median_range", "alpha", "color")


class GaussianRanges(_SplatOperator):
    r"""Lidar ranges of `geometry.Splats`, ``(batch, channels, sweep, ray)``.

    The channels of the outputs follow one after the other; see `geometry.ray_rasterization` for
    the computation. The range of a ray that meets no Gaussian is 0. Derivatives reach every tensor
    of the splats, and the parameter ``twist``, ``(sweeps, 6)``, which moves the sensors in their
    own frames: a rotation vector, then a shift. Blocks are sweeps.

    Args:
        directions: directions of the rays in the sensors' frame, of any length, 0 for no ray:
            ``(R, 3)`` for all sweeps alike, or ``(C, R, 3)``.
        poses: sensor to world, as in data sets of lidar sweeps, ``(C, 4, 4)``; by default the world
            is the sensor's frame.
        outputs: names out of ``"range"`` (expected), ``"median_range"``, ``"alpha"`` and
            ``"color"`` (for example intensities).
        channels: number of channels of the color.
        beam: standard deviation of a beam across its direction, radians.
        near: smallest depth of a visible Gaussian.
        far: largest depth of a visible Gaussian.
        pose_step: unit in which solvers move ``twist``, radians and lengths of the world.

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
            check_name("output of GaussianRanges", name, _OUTPUTS)
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
        self.outputs, self.channels, self.beam = tuple(outputs), channels, beam
        self.near, self.far, self.pose_step = near, far, pose_step
        self.domain_shape = ()
        self._set_range()

    def _set_range(self) -> None:
        count = sum(self.channels if name == "color" else 1 for name in self.outputs)
        self.range_shape = (count, self.blocks, self.directions.shape[1])

    def __call__(self, x: Any) -> Tensor:
        self._check_splats(x)
        batch, like = x.means.shape[0], x.means
        color, alpha, info = ray_rasterization(
            means=x.means,
            quats=x.quats,
            scales=x.scales,
            opacities=x.opacities,
            colors=x.colors,
            viewmats=self._views(like).expand(batch, -1, -1, -1),
            directions=self._select(self.directions, 0),
            near=self.near,
            far=self.far,
            beam=self.beam,
            sh_degree=x.degree,
            median_range="median_range" in self.outputs,
        )
        if "color" in self.outputs:
            self._check_channels(color.shape[-1])
        planes = {
            "range": info["range"],
            "median_range": info.get("median_range"),
            "alpha": alpha,
            "color": color,
        }
        return self._concatenate(planes)

    def _select(self, field: Tensor, axis: int) -> Tensor:
        """Select the sweeps of the subset."""
        return field if self.index is None else field.index_select(axis, self.index)

    def _views(self, like: Tensor) -> Tensor:
        """Return world to sensor after the twists, ``(C, 4, 4)`` or ``(batch, C, 4, 4)``."""
        twist = self._select(self.twist, -2).to(like)
        fixed = self._select(self.to_sensor, 0).to(like)
        return rigid(rotation(twist[..., :3]), twist[..., 3:]) @ fixed

    @property
    def poses(self) -> Tensor:
        """Sensor to world after the twists, ``(C, 4, 4)``, or ``(batch, C, 4, 4)`` per item."""
        return inverse(self._views(self.to_sensor)).detach()

    # -- parameters --------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Tensor]:
        return {"twist": self.twist}

    def __repr__(self) -> str:
        words = [f"{self.blocks} sweeps", f"{self.directions.shape[1]} rays"]
        words += [] if self.outputs == ("range",) else [f"outputs={self.outputs}"]
        return f"GaussianRanges({', '.join(words)})"
