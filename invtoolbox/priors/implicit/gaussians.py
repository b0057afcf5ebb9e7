"""A scene of 3D Gaussians, which split, move and vanish during the solve."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.carving import carve_surface
from invtoolbox.geometry.gaussians import Splats, colors_to_harmonics, effective_rank
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.priors.adaptive import AdaptivePrior, Intermediate, Transfer
from invtoolbox.priors.base import Problem
from invtoolbox.priors.implicit.gaussian_strategies import (
    DEAD,
    DefaultStrategy,
    MCMCStrategy,
    Strategy,
)
from invtoolbox.priors.settings import replace

#: Learning rate of `solvers.Adam` that the factors below refer to.
_RATE = 1e-2
#: Steps of each leaf in the papers; the step of the means is a share of the scene's size.
_RATES = {
    "means": 1.6e-4,
    "log_scales": 5e-3,
    "logit_opacities": 5e-2,
    "quats": 1e-3,
    "colors": 2.5e-3,
    "harmonics": 2.5e-3 / 20,
}

#: Share of a budget after which the steps of all leaves fall, to a tenth at its end.
SETTLE = 0.6

#: Thickness of flat Gaussians at the start, as a share of their radius.
FLATNESS = 0.01

_DEFAULT = DefaultStrategy()


class Gaussians(AdaptivePrior):
    """A scene of 3D Gaussians: x is `geometry.Splats`.

    The parameters are means, quaternions, logarithms of scales, logits of opacities and harmonics
    (Kerbl et al., "3D Gaussian splatting for real-time radiance field rendering", ACM TOG 42,
    2023). Under `operators.GaussianRenderer` and `data_terms.Photometric`, with
    `solvers.Adam(subset_size=1)`, the solve is their training: each step uses one picture. The
    steps of the leaves are theirs at Adam's default ``learning_rate`` of 0.01. The step of the
    means is relative to the size of the scene, which is the size of the cameras' positions (1.1
    times the largest distance from their centre), and falls to a hundredth over ``decay_over``
    steps.

    Args:
        points: first means, ``(N, 3)``, or ``(B, N, 3)`` with different points per item.
        colors: first colors, ``(N, 3)`` or ``(B, N, 3)`` in [0, 1]; grey by default.
        degree: degree of the spherical harmonics, 0 to 3.
        strategy: `DefaultStrategy`, `MCMCStrategy`, or None to keep the number of Gaussians.
        opacity: first opacity.
        scale: first standard deviation; the mean distance to the three nearest neighbours by
            default.
        extent: size of the scene; computed from the cameras' positions by default.
        decay_over: number of steps over which the step of the means falls to a hundredth; None
            keeps it.
        degree_every: number of steps after which the next degree of the harmonics takes part; 0
            uses all from the start.
        rates: factors on the steps of leaves, ``{"means": 2.0}``.
        dropout: share of the Gaussians that a step leaves out, drawn anew in each, so that no
            Gaussian depends on another; for few views. It grows from 0 over ``decay_over`` steps
            (at once if that is None). The opacities of the others grow by ``1 / (1 - share)``, up
            to 1, which keeps their mean. Source: Park, Ryu and Kim, "DropGaussian", CVPR 2025, with
            a share of 0.2.
        flat: whether Gaussians are flat, for surfaces: the third standard deviation is a hundredth
            of the first ones at the start and is not changed. The disks start in the planes of
            their neighbours. Disks have a normal and a plane (``outputs=("plane_depth", "normal")`` of
            `operators.GaussianRenderer`). Source: Huang et al., "2D Gaussian splatting for
            geometrically accurate radiance fields", SIGGRAPH 2024.
        needles: weight, per view, of the mean over the Gaussians of ``max(-log(r - 1), 0)`` with
            the effective rank r of the variances (`geometry.gaussians.effective_rank`). Disks and
            balls, of rank 2 and above, cost nothing; needles, whose area vanishes, cost most.
            Source: Hyung et al., "Effective rank analysis and regularization for enhanced 3D
            Gaussian splatting", NeurIPS 2024.

    Raises:
        InputError: The points, colors or settings do not fit.

    >>> prior = Gaussians.random(100, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), degree=1)
    >>> prior.decode(prior.initial())
    Splats of 1 scenes, 100 Gaussians each, degree 1
    """

    item_fields: ClassVar[tuple[str, ...]] = ("points", "colors", "scales")

    def __init__(
        self,
        points: Tensor,
        colors: Tensor | None = None,
        degree: int = 3,
        strategy: Strategy | None = _DEFAULT,
        opacity: float = 0.1,
        scale: float | None = None,
        extent: float | None = None,
        decay_over: int | None = 30_000,
        degree_every: int = 1000,
        rates: dict[str, float] | None = None,
        dropout: float = 0.0,
        flat: bool = False,
        needles: float = 0.0,
    ) -> None:
        points = points[None] if points.ndim == 2 else points
        if (
            points.ndim != 3
            or points.shape[-1] != 3
            or points.shape[1] < 1
            or not bool(points.isfinite().all())
        ):
            raise InputError(
                f"Gaussians takes finite points (N, 3) or (B, N, 3), got {tuple(points.shape)}"
            )
        colors = (
            torch.full_like(points, 0.5)
            if colors is None
            else colors.to(points).reshape(-1, *colors.shape[-2:])
        )
        if colors.shape[1:] != points.shape[1:] or len(colors) not in (1, len(points)):
            raise InputError(
                "Gaussians takes a color for every point, "
                f"got {tuple(colors.shape)} for {tuple(points.shape)}"
            )
        check_choice(self, (0, 1, 2, 3), degree=degree)
        check_range(self, "(0, 1)", opacity=opacity)
        check_range(self, "(0, inf]", scale=scale)
        check_range(self, "[0, 1)", dropout=dropout)
        check_range(self, "[0, inf]", needles=needles)
        unknown = set(rates or {}) - set(_RATES)
        if unknown:
            raise InputError(
                f"rates of Gaussians names {', '.join(sorted(unknown))}; "
                f"its leaves are {', '.join(_RATES)}"
            )
        self.points, self.colors = points, colors.expand_as(points)
        self.scales = (
            torch.full_like(points[..., 0], scale)
            if scale is not None
            else torch.stack([_spacing(p) for p in points])
        )
        self.degree, self.strategy, self.opacity, self.extent = degree, strategy, opacity, extent
        self.decay_over, self.degree_every = decay_over, degree_every
        self.rates, self.dropout = dict(rates or {}), dropout
        self.flat, self.needles = bool(flat), needles
        self.pace: Callable[[int], float] | None = None
        self.size: float | None = extent
        self.views = 1
        self.iteration: int | None = None  # None: everything takes part
        #: The box whose contents are carved out of the pictures, if they give the first means.
        self.box: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
        self.seed = 0

    @classmethod
    def random(
        cls,
        count: int,
        low: tuple[float, float, float],
        high: tuple[float, float, float],
        degree: int = 3,
        strategy: Strategy | None = _DEFAULT,
        seed: int = 0,
        opacity: float = 0.1,
        decay_over: int | None = 30_000,
        degree_every: int = 1000,
        rates: dict[str, float] | None = None,
        carve: bool = False,
        dropout: float = 0.0,
        flat: bool = False,
        needles: float = 0.0,
    ) -> Self:
        """Create ``count`` Gaussians of random colors at random places of a box.

        Args:
            count: number of Gaussians.
            low: lower corner of the box.
            high: upper corner of the box.
            degree: see `Gaussians`.
            strategy: see `Gaussians`.
            seed: seed of the draws.
            opacity: see `Gaussians`.
            decay_over: see `Gaussians`.
            degree_every: see `Gaussians`.
            rates: see `Gaussians`.
            carve: whether to start, once the pictures are known, on the visual hull of what they
                show before the renderer's background, in the colors of their pixels
                (`geometry.carve_surface`). This is for one object before a plain background;
                without it the first thousands of steps are spent on finding the object.
            dropout: see `Gaussians`.
            flat: see `Gaussians`.
            needles: see `Gaussians`.
        """
        generator = torch.Generator().manual_seed(seed)
        corner, end = torch.tensor(low), torch.tensor(high)
        if count < 1 or not bool((end > corner).all()):
            raise InputError(
                "Gaussians.random takes at least one Gaussian and a box with low below high, "
                f"got {count}, {low} and {high}"
            )
        points = corner + (end - corner) * torch.rand(count, 3, generator=generator)
        prior = cls(
            points,
            torch.rand(count, 3, generator=generator),
            degree,
            strategy,
            opacity,
            decay_over=decay_over,
            degree_every=degree_every,
            rates=rates,
            dropout=dropout,
            flat=flat,
            needles=needles,
        )
        prior.seed = seed
        prior.box = (low, high) if carve else None
        return prior

    def prepare(self, problem: Problem, solve: Any) -> Self:
        bound = replace(self, views=problem.operator.blocks or 1)
        cameras = getattr(problem.operator, "cameras", None)
        if self.extent is None:
            centres = self.points[0] if cameras is None else cameras.centres
            bound.size = _extent(centres)
            if not bound.size > 0:  # one camera
                bound.size = _extent(self.points[0])
        if self.box is not None:
            bound._carve(problem)
        return bound

    def _carve(self, problem: Problem) -> None:
        assert self.box is not None
        operator: Any = problem.operator
        y = problem.y
        outputs = getattr(operator, "outputs", ())
        background = getattr(operator, "background", None)
        if "color" not in outputs[:1] or background is None:
            raise InputError(
                "Gaussians.random(carve=True) needs the pictures of a GaussianRenderer with color "
                f"first; {operator} has none"
            )
        places, colors = [], []
        for k in range(len(y)):
            A = operator if operator.items is None else operator.select(torch.tensor([k]))
            generator = torch.Generator().manual_seed(self.seed)
            place, color = carve_surface(
                A.cameras.to(device="cpu"),
                y[k, :3].transpose(0, 1).cpu(),
                background.cpu(),
                self.points.shape[1],
                *self.box,
                generator,
            )
            places.append(place.to(y))
            colors.append(color.to(y))
        self.points, self.colors = torch.stack(places), torch.stack(colors)
        self.scales = torch.stack([_spacing(p) for p in self.points])

    def with_pace(self, pace: Callable[[int], float] | None) -> Self:
        """Return the prior with a schedule that follows a budget.

        Everything that is counted in steps (``decay_over``, ``degree_every``, start and stop of the
        strategy) then follows ``decay_over`` times the share of the budget that is used, and the
        steps of all leaves fall to a tenth over its last 40 per cent.

        Args:
            pace: function that returns the share that is used before an iteration, from 0 to 1;
                None for a schedule that follows the iterations.
        """
        return replace(self, pace=pace)

    def at(self, iteration: int) -> Self:
        return replace(self, iteration=self._scheduled(iteration))

    def _scheduled(self, iteration: int) -> int:
        """Return the step of the schedule at an iteration."""
        if self.pace is None or self.decay_over is None:
            return iteration
        return round(self.pace(iteration) * self.decay_over)

    def initial(self) -> dict[str, Tensor]:
        points = self.points
        turn = torch.zeros(*points.shape[:2], 4, dtype=points.dtype, device=points.device)
        turn[..., 0] = 1
        scales = self.scales.clamp_min(1e-7).log()[..., None].expand_as(points).contiguous()
        if self.flat:
            turn = torch.stack([_orientations(p) for p in points])
            scales[..., 2] += math.log(FLATNESS)
        leaves = {
            "means": points,
            "quats": turn,
            "log_scales": scales,
            "logit_opacities": torch.full_like(
                points[..., 0], math.log(self.opacity / (1 - self.opacity))
            ),
            "colors": colors_to_harmonics(self.colors),
        }
        if self.degree > 0:
            leaves["harmonics"] = points.new_zeros(*points.shape[:2], (self.degree + 1) ** 2 - 1, 3)
        return leaves

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Splats:
        active = self.degree
        if self.iteration is not None and self.degree_every > 0:
            active = min(self.degree, self.iteration // self.degree_every)
        colors = parameters["colors"]
        if active > 0:
            colors = torch.cat(
                [colors, parameters["harmonics"][..., : (active + 1) ** 2 - 1, :]], -2
            )
        opacities = parameters["logit_opacities"].sigmoid()
        share = self.dropout * self._progress()
        if generator is not None and share > 0:
            opacities = (
                opacities * _keep(opacities.shape[1], share, generator).to(opacities) / (1 - share)
            ).clamp_max(1)
        scales = parameters["log_scales"].exp()
        if self.flat:
            # Not thicker than a tenth of the disk, so that the third axis remains the normal.
            thickness = torch.minimum(scales[..., 2], 0.1 * scales[..., :2].amin(-1)).detach()
            scales = torch.cat([scales[..., :2], thickness[..., None]], -1)
        return Splats(parameters["means"], parameters["quats"], scales, opacities, colors)

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        first = parameters["logit_opacities"]
        living = first > DEAD + 1
        count = living.sum(1).clamp_min(1)
        thin = first.new_zeros(len(first))
        if self.needles > 0:
            lack = -(effective_rank(parameters["log_scales"]) - 1 + 1e-5).log().clamp_max(0)
            thin = self.views * self.needles * (lack * living).sum(1) / count
        if not isinstance(self.strategy, MCMCStrategy):
            return thin
        opacity = (first.sigmoid() * living).sum(
            1
        ) / count  # of all, also in a step that leaves some out
        scale = (x.scales * living[..., None]).sum((1, 2)) / (3 * count)
        return thin + self.views * (
            self.strategy.opacity_weight * opacity + self.strategy.scale_weight * scale
        )

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        return {
            name: self.rates.get(name, 1.0)
            * _RATES[name]
            / _RATE
            * (self._means_rate() if name == "means" else self._settling())
            for name in parameters
            if name in _RATES
        }

    def _means_rate(self) -> float:
        """Return the size of the scene, times the factor of the schedule."""
        fallen = (
            1.0 if self.decay_over is None or self.iteration is None else 0.01 ** self._progress()
        )
        return (self.size or 1.0) * fallen

    def _settling(self) -> float:
        """Return the factor by which all other steps fall at the end of a budget."""
        late = 0.0 if self.pace is None else (self._progress() - SETTLE) / (1 - SETTLE)
        return float(0.1 ** max(0.0, late))

    def _progress(self) -> float:
        """Return the progress of the schedule, 0 to 1; 1 if there is none."""
        return (
            1.0
            if self.decay_over is None or self.iteration is None
            else min(1.0, self.iteration / self.decay_over)
        )

    # -- Gaussians come and go ---------------------------------------------------------------------

    @property
    def is_adaptive(self) -> bool:
        return self.strategy is not None

    def adapts(self, iteration: int) -> bool:
        if self.strategy is None:
            return False
        if self.pace is None:
            return self.strategy.adapts(iteration)
        return self.strategy.adapts(iteration, self._scheduled(iteration))

    def statistics(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        return {} if self.strategy is None else self.strategy.statistics(parameters)

    def gather(
        self,
        statistics: dict[str, Tensor],
        parameters: dict[str, Tensor],
        info: dict[str, Intermediate],
    ) -> dict[str, Tensor]:
        return statistics if self.strategy is None else self.strategy.gather(statistics, info)

    def adapt(
        self,
        parameters: dict[str, Tensor],
        statistics: dict[str, Tensor],
        iteration: int,
        generator: Generator,
    ) -> tuple[dict[str, Tensor], Transfer]:
        assert self.strategy is not None
        if isinstance(self.strategy, MCMCStrategy) and self.iteration is not None:
            iteration = self.iteration
        return self.strategy.adapt(parameters, statistics, iteration, generator, self.size or 1.0)

    def resize(
        self, parameters: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
    ) -> dict[str, Tensor]:
        """More rows of opacity 0 behind the others; fewer where they are such."""
        rows = shapes["means"][0]
        grown = {}
        for name, leaf in parameters.items():
            fill = leaf.new_full(
                (len(leaf), max(0, rows - leaf.shape[1]), *leaf.shape[2:]),
                DEAD if name == "logit_opacities" else 0.0,
            )
            grown[name] = torch.cat([leaf[:, :rows], fill], 1)
        if rows < parameters["means"].shape[1] and bool(
            (parameters["logit_opacities"][:, rows:] > DEAD + 1).any()
        ):
            order = (
                (parameters["logit_opacities"] <= DEAD + 1)
                .long()
                .sort(dim=1, stable=True)
                .indices[:, :rows]
            )
            grown = {
                name: torch.stack([leaf[k, order[k]] for k in range(len(leaf))])
                for name, leaf in parameters.items()
            }
        return grown

    def perturb(
        self, parameters: dict[str, Tensor], rate: float, generator: Generator
    ) -> dict[str, Tensor]:
        if not isinstance(self.strategy, MCMCStrategy) or not self.strategy.noise > 0:
            return parameters
        step = rate * self.learning_rates(parameters)["means"]
        return {**parameters, "means": self.strategy.perturb(parameters, step, generator)}

    def __repr__(self) -> str:
        optional = [
            (self.rates, f"rates={self.rates}"),
            (self.dropout, f"dropout={self.dropout:g}"),
            (self.flat, "flat=True"),
            (self.needles, f"needles={self.needles:g}"),
        ]
        settings = [
            f"{self.points.shape[1]} points",
            f"degree={self.degree}",
            f"strategy={self.strategy!r}",
            *(text for is_set, text in optional if is_set),
            f"decay_over={self.decay_over}",
            f"degree_every={self.degree_every}",
        ]
        return f"Gaussians({', '.join(settings)})"


def _extent(points: Tensor) -> float:
    """Return 1.1 times the largest distance of points from their centre."""
    return 1.1 * float((points - points.mean(0)).norm(dim=1).max())


def _keep(rows: int, share: float, generator: Generator) -> Tensor:
    """Draw which rows a step keeps.

    The draws depend neither on the number of rows nor on the other draws of the iteration.
    """
    seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
    draws = torch.Generator(generator.device).manual_seed(seed)
    return torch.rand(rows, generator=draws, device=draws.device, dtype=torch.float64) >= share


def _spacing(points: Tensor) -> Tensor:
    """Return the mean distance of each point to its three nearest neighbours, ``(N,)``."""
    if len(points) < 2:
        return torch.full_like(points[:, 0], 0.1)
    graph = NeighbourGraph.of_points(points, neighbours=min(3, len(points) - 1))
    total = torch.zeros_like(points[:, 0]).index_add(0, graph.edges[0], graph.vectors.norm(dim=1))
    return total / min(3, len(points) - 1)


def _orientations(points: Tensor) -> Tensor:
    """Return quaternions that turn the axis z to the normal of each point, ``(N, 4)``.

    The normal is the direction in which the nearest neighbours of the point vary least.
    """
    spread = torch.zeros(len(points), 3, 3, dtype=points.dtype, device=points.device)
    if len(points) > 3:
        graph = NeighbourGraph.of_points(points, neighbours=min(10, len(points) - 1))
        away = graph.vectors
        spread = spread.index_add(0, graph.edges[0], away[:, :, None] * away[:, None])
    normal = torch.linalg.eigh(spread)[1][..., 0]
    # Half the turn from z to n is that of (1 + n_z, -n_y, n_x, 0); -n is the same normal.
    x, y, z = (normal * torch.where(normal[:, 2:] < 0, -1.0, 1.0)).unbind(1)
    return torch.stack([1 + z, -y, x, torch.zeros_like(z)], 1)
