"""Shapes that move over time: `Deformation`, and the motions of the points of a shape.

`PointMotion` moves every point independently, `ControlNodes` with nearby nodes, and `NetworkMotion`
by a network of place and time. `priors.Bones` moves the points of a part together.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.geometry.moving_shapes import (
    Moving,
    blend_weights,
    farthest_points,
    map_tensors,
    places_of,
)
from invtoolbox.geometry.rotations import of_rotation_vector, rotation_matrices
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.operators.points import check_points
from invtoolbox.priors.adaptive import AdaptivePrior, select_leaves
from invtoolbox.priors.base import ImplicitPrior, Prior, PriorSum, Problem
from invtoolbox.priors.implicit.coordinate_network import apply_layers, draw_layers
from invtoolbox.priors.settings import replace, require_bound


class Deformation(ImplicitPrior):
    """A shape and its motion: x is `geometry.moving_shapes.Moving`.

    `Moving` is the shape at rest, and the displacements and rotations of its points at T times. The
    prior is used under `operators.OverTime`, which renders each time with its own cameras, and with
    any prior of rigidity, which is evaluated on the displacements:
    ``Deformation(splats, PointMotion()) + 10.0 * ARAP(graph=graph)`` with
    ``graph = NeighbourGraph.of_points(splats.means[0])``. A prior of one flow takes the mean over
    the times. The shape is known, or is found together with its motion.

    Args:
        shape: known `Splats`, `Voxels`, `geometry.Mesh` or points ``(N, 3)`` or
            ``(batch, N, 3)``, or an implicit prior: `VoxelGrid`, `Gaussians` with
            ``strategy=None``. Of a mesh, x holds the vertices.
        motion: `ControlNodes`, `PointMotion`, `NetworkMotion` or `Bones`.
        rate: factor on the step of the motion's parameters.

    Raises:
        InputError: The shape cannot be moved, or the number of its parameters changes.

    >>> import torch
    >>> from invtoolbox.priors.implicit.deformation import ControlNodes
    >>> ball = Splats.of_points(torch.rand(1, 50, 3), torch.ones(1, 50, 3), 0.1, 0.9)
    >>> prior = Deformation(ball, ControlNodes(8, times=3)).prepare(None, None)
    >>> prior.decode(prior.initial()).displacements.shape
    torch.Size([1, 3, 50, 3])
    """

    def __init__(
        self,
        shape: Splats | Voxels | Mesh | Tensor | ImplicitPrior,
        motion: Motion,
        rate: float = 1.0,
    ) -> None:
        if not isinstance(shape, (Splats, Voxels, Mesh, Tensor, ImplicitPrior)):
            raise InputError(
                "Deformation moves Splats, Voxels, a Mesh, points or an implicit prior of such, "
                f"got {type(shape).__name__}"
            )
        faces = shape.faces if isinstance(shape, Mesh) else None
        if isinstance(shape, Mesh):
            shape = shape.vertices
        if isinstance(shape, Tensor):
            shape = check_points(shape[None] if shape.ndim == 2 else shape, "Deformation")
        if isinstance(shape, AdaptivePrior) and shape.is_adaptive:
            raise InputError(
                f"Deformation needs a fixed number of points, and {shape!r} changes it; "
                "give it strategy=None"
            )
        if not isinstance(motion, Motion):
            raise InputError(
                f"Deformation moves by a Motion such as ControlNodes(), got {type(motion).__name__}"
            )
        check_range(self, "(0, inf]", rate=rate)
        self.shape, self.motion, self.rate = shape, motion, float(rate)
        self.faces: Tensor | None = faces

    def prepare(self, problem: Problem | None, solve: Any) -> Self:
        shape = rest = self.shape
        if isinstance(shape, ImplicitPrior):
            assert problem is not None
            shape = shape.prepare(problem, solve)
            rest = shape.decode(shape.initial())
        elif problem is not None:
            shape = rest = map_tensors(shape, lambda t: t.to(problem.y0))
        motion = self.motion.bind(places_of(rest).detach(), self.faces, problem)
        return replace(self, shape=shape, motion=motion)

    def at(self, iteration: int) -> Self:
        if not isinstance(self.shape, ImplicitPrior):
            return self
        return replace(self, shape=self.shape.at(iteration))

    def initial(self) -> dict[str, Tensor]:
        """Return the leaves ``motion.NAME`` of the motion and ``shape.NAME`` of a free shape."""
        require_bound(self, self.motion.size or None)
        of_shape = self.shape.initial() if isinstance(self.shape, ImplicitPrior) else {}
        return {
            **{f"motion.{name}": leaf for name, leaf in self.motion.initial().items()},
            **{f"shape.{name}": leaf for name, leaf in of_shape.items()},
        }

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Moving:
        shape = self.shape
        if isinstance(shape, ImplicitPrior):
            shape = shape.decode(select_leaves(parameters, "shape"), generator)
        return self.motion.moving(select_leaves(parameters, "motion"), shape)

    def energy(self, parameters: dict[str, Tensor], x: Moving) -> Tensor:
        energy = self.motion.energy(select_leaves(parameters, "motion"))
        return (
            energy + self.shape.energy(select_leaves(parameters, "shape"), x.shape)
            if isinstance(self.shape, ImplicitPrior)
            else energy
        )

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        of_shape = (
            self.shape.learning_rates(select_leaves(parameters, "shape"))
            if isinstance(self.shape, ImplicitPrior)
            else {}
        )
        return {
            **{
                f"motion.{name}": self.rate * rate
                for name, rate in self.motion.learning_rates(
                    select_leaves(parameters, "motion")
                ).items()
            },
            **{
                f"shape.{name}": rate
                for name, rate in of_shape.items()
                if f"shape.{name}" in parameters
            },
        }

    def select(self, index: Tensor) -> Self:
        if isinstance(self.shape, ImplicitPrior):
            shape = self.shape.select(index)
        else:
            shape = map_tensors(self.shape, lambda t: t.index_select(0, index) if len(t) > 1 else t)
        return replace(self, motion=self.motion.select(index), shape=shape)

    def __repr__(self) -> str:
        return f"Deformation({self.shape!r}, {self.motion!r})"


class Motion(Settings, ABC):
    """Base class of the motions by which `Deformation` moves a shape.

    A motion gives displacements and rotations of the points at T times from parameters that start
    at rest. Translations are in units of ``size``, the diagonal of the box around the points, so
    that a step of a solver means the same for every scene. Rotations are rotation vectors in
    radians.
    """

    times: int
    size: float = 0.0

    def bind(
        self, points: Tensor, faces: Tensor | None = None, problem: Problem | None = None
    ) -> Self:
        """Return a copy for the points at rest ``(1 or batch, N, 3)``, or vertices of a mesh.

        If measurements of a known kind show the motion, the copy starts from it.
        """
        return replace(self, size=float((points[0].amax(0) - points[0].amin(0)).norm()))

    @abstractmethod
    def initial(self) -> dict[str, Tensor]: ...

    @abstractmethod
    def move(self, parameters: dict[str, Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the displacements and quaternions of points ``(1 or batch, N, 3)``.

        They are ``(batch, T, N, 3)`` and ``(batch, T, N, 4)``.
        """

    def energy(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return the energy of the motion itself, ``(batch,)``; 0 unless overridden."""
        first = next(iter(parameters.values()))
        return first.new_zeros(len(first))

    def moving(self, parameters: dict[str, Tensor], shape: Any) -> Moving:
        """Return the moving shape."""
        displacements, turns = self.move(parameters, places_of(shape))
        return Moving(
            displacements,
            turns if isinstance(shape, Splats) else None,
            repeat_shape(shape, len(displacements)),
        )

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        """Return a factor on the solver's step for each leaf; 1 unless overridden."""
        return dict.fromkeys(parameters, 1.0)


class ControlNodes(Motion):
    """Motion with nearby control nodes: ``p' = sum_k w_k(p) (R_k (p - n_k) + n_k + t_k)``.

    The rotation of a point is the mean of the rotations of its nodes. Nodes are points of the
    shape, as far from each other as possible. The blend weights are Gaussian in the distance at
    rest, over ``neighbours`` nodes. Few nodes are a strong prior.

    Source: Sumner, Schmid and Pauly, "Embedded deformation for shape manipulation", SIGGRAPH 2007;
    on Gaussians, 512 nodes, 3 neighbours: Huang et al., "SC-GS", CVPR 2024.

    Args:
        count: number of nodes.
        times: number of times T.
        neighbours: number of nodes that a point follows.
        width: width of the weights, in the unit of the points; the mean distance between nodes by
            default.
        rigidity: priors of the nodes' displacements ``(batch, T, count, 3)``, such as
            ``10.0 * NodeARAP()`` from time to time or ``10.0 * ARAP()`` against rest, on a graph of
            the nodes. It is part of S(z), which no weight of the problem scales.
    """

    item_fields: ClassVar[tuple[str, ...]] = ("nodes", "index", "weights", "rigidity")

    def __init__(
        self,
        count: int = 64,
        times: int = 1,
        neighbours: int = 3,
        width: float | None = None,
        rigidity: Prior | None = None,
    ) -> None:
        check_range(self, "[1, inf)", count=count, neighbours=neighbours, times=times)
        check_range(self, "(0, inf]", width=width)
        self.count, self.neighbours, self.width = int(count), int(neighbours), width
        self.rigidity = None if rigidity is None else rigidity.as_sum()
        self.times = int(times)
        self.nodes = self.weights = torch.zeros(1, 0, 3)
        self.index = torch.zeros(1, 0, 1, dtype=torch.long)

    def bind(
        self, points: Tensor, faces: Tensor | None = None, problem: Problem | None = None
    ) -> Self:
        nodes = torch.stack(
            [item[farthest_points(item, min(self.count, len(item)))] for item in points.detach()]
        )
        blends = [
            blend_weights(item, centres, self.neighbours, self.width)
            for item, centres in zip(points.detach(), nodes)
        ]
        index, weights = (torch.stack(column) for column in zip(*blends))
        return replace(
            super().bind(points, faces, problem),
            nodes=nodes,
            index=index,
            weights=weights,
            rigidity=bind_rigidity(self.rigidity, nodes, repr(self)),
        )

    def initial(self) -> dict[str, Tensor]:
        start = torch.zeros_like(self.nodes)[:, None].repeat(1, self.times, 1, 1)
        return {"translations": start, "turns": start.clone()}

    def move(self, parameters: dict[str, Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        t, q = self.size * parameters["translations"], of_rotation_vector(parameters["turns"])
        batch, (n, k) = len(t), self.index.shape[1:]
        nodes, weights = (
            self.nodes.expand(batch, -1, -1),
            self.weights.expand(batch, -1, -1)[:, None, :, :, None],
        )
        flat = self.index.expand(batch, -1, -1).flatten(1)

        def of_neighbours(values: Tensor) -> Tensor:
            """Gather values of nodes: ``(batch, ..., K, c) -> (batch, ..., N, neighbours, c)``."""
            index = flat.view(batch, *[1] * (values.ndim - 3), n * k, 1)
            return values.gather(
                -2, index.expand(*values.shape[:-2], n * k, values.shape[-1])
            ).unflatten(-2, (n, k))

        R = of_neighbours(rotation_matrices(q).flatten(-2)).unflatten(-1, (3, 3))
        away = points.expand(batch, -1, -1)[:, :, None] - of_neighbours(nodes)
        # sum_k w_k ((R_k - 1) (p - n_k) + t_k), and the mean of the quaternions.
        turned = (R @ away[:, None, ..., None]).squeeze(-1) - away[:, None]
        displacements = (weights * (turned + of_neighbours(t))).sum(3)
        turns = (weights * of_neighbours(q)).sum(3)
        return displacements, turns / turns.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    def energy(self, parameters: dict[str, Tensor]) -> Tensor:
        if self.rigidity is None:
            return super().energy(parameters)
        return self.rigidity.energy(self.size * parameters["translations"])

    def __repr__(self) -> str:
        return f"ControlNodes({self.count}, times={self.times}, neighbours={self.neighbours})"


class PointMotion(Motion):
    """Independent motion of every point, from rest.

    It is no prior at all, and is meant to be combined with a prior of rigidity.

    Args:
        times: number of times T.
    """

    item_fields: ClassVar[tuple[str, ...]] = ("zeros",)

    def __init__(self, times: int = 1) -> None:
        check_range(self, "[1, inf)", times=times)
        self.times = int(times)
        self.zeros = torch.zeros(1, 0, 3)

    def bind(
        self, points: Tensor, faces: Tensor | None = None, problem: Problem | None = None
    ) -> Self:
        return replace(super().bind(points, faces, problem), zeros=torch.zeros_like(points))

    def initial(self) -> dict[str, Tensor]:
        start = self.zeros[:, None].repeat(1, self.times, 1, 1)
        return {"translations": start, "turns": start.clone()}

    def move(self, parameters: dict[str, Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        return self.size * parameters["translations"], of_rotation_vector(parameters["turns"])

    def __repr__(self) -> str:
        return f"PointMotion(times={self.times})"


class NetworkMotion(Motion):
    """Motion by a network: ``(u, r)(p, t) = MLP(cos 2 pi B (p, t), sin 2 pi B (p, t))``.

    The displacement u and the rotation r are functions of place and time. The inputs are random
    Fourier features of the place, in units of the size of the shape, and of the time, from -1/2 to
    1/2. There is one network per item, which starts at rest. Frequencies beyond the bandwidth are
    learned late: this is a prior of smoothness in space and time.

    Args:
        times: number of times T.
        bandwidth: standard deviation of the frequencies, in cycles over the shape.
        features: number of frequencies.
        width: width of the hidden layers.
        depth: number of hidden layers.
        seed: seed of the frequencies and of the first weights.
    """

    def __init__(
        self,
        times: int = 1,
        bandwidth: float = 0.5,
        features: int = 32,
        width: int = 64,
        depth: int = 2,
        seed: int = 0,
    ) -> None:
        check_range(self, "[1, inf)", times=times, features=features, width=width, depth=depth)
        check_range(self, "(0, inf]", bandwidth=bandwidth)
        self.times, self.bandwidth, self.seed = int(times), bandwidth, seed
        self.features, self.width, self.depth = features, width, depth
        self.centre = torch.zeros(3)

    def bind(
        self, points: Tensor, faces: Tensor | None = None, problem: Problem | None = None
    ) -> Self:
        return replace(super().bind(points, faces, problem), centre=points[0].mean(0))

    def initial(self) -> dict[str, Tensor]:
        """Draw the weights by He initialization; the last layer is 0."""
        sizes = [2 * self.features, *[self.width] * self.depth, 6]
        return draw_layers(sizes, 0.0, self.seed + 1, self.centre)

    def move(self, parameters: dict[str, Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        batch, n = parameters["weight0"].shape[0], points.shape[1]
        when = (
            torch.linspace(-0.5, 0.5, self.times, dtype=points.dtype, device=points.device)
            if self.times > 1
            else points.new_zeros(1)
        )
        place = (
            ((points - self.centre) / self.size)
            .expand(batch, -1, -1)[:, None]
            .expand(-1, self.times, -1, -1)
        )
        inputs = torch.cat([place, when.view(1, -1, 1, 1).expand(batch, -1, n, 1)], dim=-1).flatten(
            1, 2
        )
        generator = torch.Generator().manual_seed(self.seed)
        frequencies = self.bandwidth * torch.randn(4, self.features, generator=generator).to(points)
        phase = 2 * math.pi * inputs @ frequencies
        features = torch.cat([phase.cos(), phase.sin()], dim=-1)
        out = apply_layers(parameters, features, torch.nn.functional.silu).unflatten(
            1, (self.times, n)
        )
        return self.size * out[..., :3], of_rotation_vector(out[..., 3:])

    def __repr__(self) -> str:
        return (
            f"NetworkMotion(times={self.times}, bandwidth={self.bandwidth:g}, "
            f"width={self.width}, depth={self.depth})"
        )


def bind_rigidity(rigidity: PriorSum | None, nodes: Tensor, what: str) -> PriorSum | None:
    """Return priors of the displacements of nodes ``(1 or batch, K, 3)``, bound to the nodes."""
    if rigidity is None:
        return None
    if rigidity.implicit is not None:
        raise InputError(f"the rigidity of {what} is made of explicit priors, got {rigidity!r}")
    return rigidity._each(lambda prior: prior.bind(nodes))


def repeat_shape(shape: Any, batch: int) -> Any:
    """Return a shape with one entry per item of a batch."""
    return map_tensors(shape, lambda t: t.expand(batch, *t.shape[1:]))
