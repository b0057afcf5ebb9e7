"""Motion by bones: rigid motions with learned weights (`Bones`)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.sparse_graph import sparse_graph
from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.geometry.meshes import mesh_edges
from invtoolbox.geometry.moving_shapes import Moving, blend_turns, farthest_points, places_of
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.geometry.rigid import rigid, rotation, rotation_vector
from invtoolbox.geometry.rigid_parts import Parts, rigid_parts
from invtoolbox.geometry.skinning import Skinning, blend, spread
from invtoolbox.kernels.points.sparse_product import SparseProduct
from invtoolbox.operators.tracked_points import TrackedPoints
from invtoolbox.priors.base import Prior, Problem
from invtoolbox.priors.implicit.deformation import Motion, bind_rigidity, repeat_shape
from invtoolbox.priors.settings import replace, require_bound

#: Number of nodes between which the logits of a point are interpolated.
_NEAREST = 4
#: Number of neighbours over which the errors of tracks are averaged, and which joins nodes.
_NEIGHBOURS = 6
#: Largest number of tracks that are divided into parts.
_MOST_TRACKS = 1500
#: Least logit at the start, relative to the logit of the part that a node belongs to.
_LEAST_LOGIT = -15.0


class Bones(Motion):
    r"""Motion with bones: ``p'_t = sum_b w_b(p) (R_tb (p - c_b) + c_b + t_tb)``.

    The weights are the softmax of logits, which are learned on nodes of the shape and interpolated
    between them along its surface. A known motion (`operators.TrackedPoints`) gives the first parts
    by `geometry.rigid_parts.rigid_parts`; other measurements start from parts of equal size, at
    rest. Its energy, with the places ``p^b_t`` to which each bone alone would take a node, and the
    diagonal of the shape as the unit of length, is

    .. math:: S = \frac{w B}{2} \sum_t \Big( \frac{1}{K} \sum_k \Big[ \frac{1}{s^2} \sum_b w_{kb}
              |p^b_{kt} - p'_{kt}|^2 + \frac{1}{a^2} |p'_{k,t+1} - 2 p'_{kt} + p'_{k,t-1}|^2 \Big]
              \Big) + \frac{w r}{2} \sum_{kl} |z_k - z_l|^2.

    So bones agree where they share points, which carries a bone along that was not seen; the motion
    changes little from time to time; and neighbouring nodes k, l have similar logits z. The
    decoded `geometry.Moving` has ``at(2.5)`` between times, ``at_pose(pose)`` for poses that did
    not occur, and ``skeleton()``.

    Source: linear blend skinning with smooth weights from example poses as in Le and Deng,
    "Smooth skinning decomposition with rigid bones", SIGGRAPH Asia 2012, and learned bones as in
    Zhang et al., "Learning implicit representation for reconstructing articulated objects" (LIMR),
    ICLR 2024; the energy is ours.

    Args:
        count: number of bones.
        times: number of times T.
        weights: ``"learned"``, or known shares ``(N, B)`` or ``(batch, N, B)``, not negative; rows
            are normalized to add up to 1.
        nodes: number of nodes of the learned weights, 300 by default: as fine as parts can be told
            apart.
        slack: s, usual distance between the places of the bones of a point, relative to the
            diagonal.
        acceleration: a, usual change of the motion from time to time, relative to the diagonal; inf
            for times without an order, such as single poses.
        roughness: r, weight of the difference of the logits of neighbouring nodes.
        weight: w, weight of the energy. 1 is for a misfit in units of its noise, such as
            ``LeastSquares(noise_std)``; for the mean misfit of pictures take about 1e-4.
        rigidity: priors of the nodes' displacements ``(batch, T, nodes, 3)``, such as ``1e6 *
            ARAP()``, which are added to S; see `ControlNodes`.

    Raises:
        InputError: if there are fewer points than bones, if a mesh is in several pieces, or if
            known weights do not fit the points.

    >>> import invtoolbox as it
    >>> bar = torch.cartesian_prod(torch.arange(12.0), torch.arange(3.0), torch.arange(3.0))
    >>> up = torch.tensor([0.0, 0.0, 1.0])
    >>> frames = torch.stack([bar + angle * (bar[:, :1] - 6).clamp_min(0) * up for angle in (0.2, 0.4)])
    >>> A = it.operators.TrackedPoints(bar[None], times=2)
    >>> problem = it.Problem(A.displacements(frames[None]), A, it.data_terms.LeastSquares(0.05))
    >>> prior = it.priors.Deformation(bar, Bones(3, times=2))
    >>> x = it.solve(problem, prior, it.solvers.LBFGS(), max_iterations=50, progress=False).x
    >>> bool((x.at(1) - frames[1]).norm(dim=-1).mean() < 0.1)
    True
    """

    item_fields: ClassVar[tuple[str, ...]] = (
        "points",
        "nodes_of",
        "interpolation",
        "pairs",
        "start",
        "rigidity",
    )

    def __init__(
        self,
        count: int = 20,
        times: int = 1,
        weights: Literal["learned"] | Tensor = "learned",
        nodes: int = 300,
        slack: float = 0.04,
        acceleration: float = 0.1,
        roughness: float = 0.1,
        weight: float = 1.0,
        rigidity: Prior | None = None,
    ) -> None:
        check_range(self, "[1, inf)", count=count, nodes=nodes, times=times)
        check_range(self, "(0, inf]", slack=slack, acceleration=acceleration)
        check_range(self, "[0, inf]", roughness=roughness, weight=weight)
        if not isinstance(weights, Tensor) and weights != "learned":
            raise InputError(
                f"the weights of Bones are 'learned' or a tensor (N, B), got {weights!r}"
            )
        self.count, self.times, self.nodes = int(count), int(times), int(nodes)
        self.rigidity = None if rigidity is None else rigidity.as_sum()
        self.slack, self.acceleration = float(slack), float(acceleration)
        self.roughness, self.weight = float(roughness), float(weight)
        self.weights = None if not isinstance(weights, Tensor) else _shares(weights, self.count)
        self.points = torch.zeros(1, 0, 3)
        self.nodes_of = torch.zeros(1, 0, dtype=torch.long)
        self.interpolation: tuple[SparseProduct, ...] = ()
        self.pairs: tuple[Tensor, ...] = ()
        self.start: tuple[dict[str, Tensor], ...] = ()

    # -- the shape and the first guess -------------------------------------------------------------

    def bind(
        self, points: Tensor, faces: Tensor | None = None, problem: Problem | None = None
    ) -> Self:
        n = points.shape[1]
        if n < self.count:
            raise InputError(
                f"{self!r} needs at least as many points as bones, and the shape has {n}; take "
                "fewer bones, or give the shape its points"
            )
        if self.weights is not None and self.weights.shape[1] != n:
            raise InputError(
                f"the weights of {self!r} are those of {self.weights.shape[1]} points, and the "
                f"shape has {n}"
            )
        items = [_Surface(item, faces, min(self.nodes, n)) for item in points.detach()]
        A = None if problem is None else problem.operator
        learned = self.weights is None
        if problem is not None and learned and isinstance(A, TrackedPoints) and A.is_shared:
            start = self._divide_tracks(items, A, problem.y0)
        else:
            every = torch.arange(n)
            start = tuple(self._first(x, k, None, every) for k, x in enumerate(items))
        nodes = torch.stack([item.points[item.nodes] for item in items])
        return replace(
            super().bind(points, faces, problem),
            points=points.detach(),
            nodes_of=torch.stack([item.nodes for item in items]),
            rigidity=bind_rigidity(self.rigidity, nodes, repr(self)),
            interpolation=tuple(item.interpolation() for item in items),
            pairs=tuple(item.pairs() for item in items),
            start=start,
        )

    def _divide_tracks(
        self, surfaces: list[_Surface], A: TrackedPoints, y: Tensor
    ) -> tuple[dict[str, Tensor], ...]:
        """Return the first bones of every item, the rigid parts of the tracked points."""
        if A.times != self.times:
            raise InputError(f"{self!r} has {self.times} times, and {A} has {A.times}")
        index = A.index[0]
        if len(index) <= 2 * self.count:
            raise InputError(
                f"{self!r} needs tracks of more than {2 * self.count} points, and {A} has "
                f"{len(index)}; take fewer bones"
            )
        start = []
        for k, displacements in enumerate(y):
            surface = surfaces[k if len(surfaces) > 1 else 0]
            tracks = surface.points[index].to(displacements) + displacements
            start.append(self._first(surface, k, tracks, index))
        return tuple(start)

    def _first(
        self, surface: _Surface, item: int, tracks: Tensor | None, index: Tensor
    ) -> dict[str, Tensor]:
        """Return centres, poses and logits of the first parts of an item."""
        points, count = surface.points, self.count
        if self.weights is not None:
            shares = self.weights[item if len(self.weights) > 1 else 0].to(points)
            centres = shares.T @ points / shares.sum(0)[:, None].clamp_min(1e-12)
            return self._at_rest(centres)
        if tracks is None:
            seeds = farthest_points(points, count)
            labels = surface.distances(seeds).argmin(0)
            parts = None
            divided = torch.arange(len(points), device=points.device)
        else:
            divided, parts = _divide(surface, tracks, index, count)
            labels = parts.labels
        places = points[divided]
        number = int(labels.max()) + 1
        centres = torch.stack([places[labels == b].mean(0) for b in range(number)])
        away = torch.stack([surface.nearest(divided[labels == b]) for b in range(number)], 1)
        # Shares that fall like a Gaussian of two node spacings with the distance from a part.
        logits = (-0.5 * (away / (2 * surface.spacing)).square()).clamp_min(_LEAST_LOGIT)
        start = self._at_rest(centres)
        if parts is not None:
            arrived = (parts.rotations @ centres[..., None]).squeeze(-1) + parts.translations
            start["turns"] = rotation_vector(parts.rotations)
            size = float((points.amax(0) - points.amin(0)).norm())
            start["translations"] = (arrived - centres) / size
        # If there are fewer parts than bones, the last bones start as copies that few nodes follow.
        copies = torch.arange(count, device=points.device) % number
        lower = torch.where(torch.arange(count, device=points.device) < number, 0.0, -2.0)
        return {
            "turns": start["turns"][:, copies],
            "translations": start["translations"][:, copies],
            "centres": centres[copies],
            "logits": logits[:, copies] + lower.to(logits),
        }

    def _at_rest(self, centres: Tensor) -> dict[str, Tensor]:
        zeros = centres.new_zeros(self.times, *centres.shape)
        return {"turns": zeros, "translations": zeros.clone(), "centres": centres}

    # -- the motion --------------------------------------------------------------------------------

    def initial(self) -> dict[str, Tensor]:
        require_bound(self, self.start)
        return {name: torch.stack([item[name] for item in self.start]) for name in self.start[0]}

    def move(self, parameters: dict[str, Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        weights, poses = self._weights(parameters), self._poses(parameters)
        places = points.expand(len(poses), -1, -1)
        return blend(weights, poses, places) - places[:, None], blend_turns(weights, poses)

    def moving(self, parameters: dict[str, Tensor], shape: Any) -> Moving:
        weights, poses = self._weights(parameters), self._poses(parameters)
        shape = repeat_shape(shape, len(poses))
        places = places_of(shape)
        turns = blend_turns(weights, poses) if isinstance(shape, Splats) else None
        displacements = blend(weights, poses, places) - places[:, None]
        return Moving(displacements, turns, shape, Skinning(weights, poses))

    def energy(self, parameters: dict[str, Tensor]) -> Tensor:
        poses = self._poses(parameters)
        batch = len(poses)
        index = self.nodes_of.expand(batch, -1)
        places = self.points.expand(batch, -1, -1).gather(1, index[..., None].expand(-1, -1, 3))
        if self.weights is None:
            shares = parameters["logits"].softmax(-1)
        else:
            every = self._weights(parameters)
            shares = every.gather(1, index[..., None].expand(-1, -1, every.shape[-1]))
        arrived = blend(shares, poses, places)
        # The two terms in square brackets: bones agree, and the motion changes little.
        bracket = spread(shares, poses, places, arrived).mean(2).sum(1) / self.slack**2
        if self.times > 2 and self.acceleration < torch.inf:
            change = arrived[:, 2:] - 2 * arrived[:, 1:-1] + arrived[:, :-2]
            bracket = bracket + change.square().sum(-1).mean(2).sum(1) / self.acceleration**2
        total = 0.5 * self.count * bracket / self.size**2
        if self.weights is None:
            rough = [
                (z[pair[0]] - z[pair[1]]).square().sum()
                for z, pair in zip(parameters["logits"], _per_item(self.pairs, batch))
            ]
            total = total + 0.5 * self.roughness * torch.stack(rough)
        total = self.weight * total
        return (
            total
            if self.rigidity is None
            else total + self.rigidity.energy(arrived - places[:, None])
        )

    def _weights(self, parameters: dict[str, Tensor]) -> Tensor:
        batch = len(parameters["turns"])
        if self.weights is not None:
            return self.weights.to(parameters["turns"]).expand(batch, -1, -1)
        matrices = _per_item(self.interpolation, batch)
        logits = [matrix(z) for matrix, z in zip(matrices, parameters["logits"])]
        return torch.stack(logits).softmax(-1)

    def _poses(self, parameters: dict[str, Tensor]) -> Tensor:
        # A shift of the centre is a shift of the bone, so the centres stay as they are.
        centres = parameters["centres"].detach()[:, None]
        R = rotation(parameters["turns"])
        arrived = centres + self.size * parameters["translations"]
        return rigid(R, arrived - (R @ centres[..., None]).squeeze(-1))

    def __repr__(self) -> str:
        return f"Bones({self.count}, times={self.times})"


class _Surface:
    """Points of an item with their distances along the surface, and the nodes among them."""

    def __init__(self, points: Tensor, faces: Tensor | None, nodes: int) -> None:
        self.points = points
        edges = _connected_edges(points, faces)
        lengths = (points[edges[0]] - points[edges[1]]).norm(dim=1).double().clamp_min(1e-12)
        self._graph = sparse_graph(edges, lengths, len(points))
        self.nodes = farthest_points(points, nodes)
        self._from_nodes = self.distances(self.nodes)
        between = self._from_nodes[:, self.nodes]
        between = between + torch.diag(between.new_full((nodes,), torch.inf))
        #: Mean distance of a node to its nearest node.
        self.spacing = float(between.amin(1).mean()) if nodes > 1 else 1.0
        self._between = between

    def distances(self, sources: Tensor) -> Tensor:
        """Return the distance of every point from some points, ``(sources, N)``."""
        from scipy.sparse.csgraph import dijkstra

        lengths = dijkstra(self._graph, directed=False, indices=sources.cpu().numpy())
        return torch.from_numpy(lengths).to(self.points)

    def nearest(self, sources: Tensor) -> Tensor:
        """Return the distance of every node from the nearest of some points, ``(nodes,)``."""
        from scipy.sparse.csgraph import dijkstra

        starts = sources.cpu().numpy()
        lengths = dijkstra(self._graph, directed=False, indices=starts, min_only=True)
        return torch.from_numpy(np.asarray(lengths)).to(self.points)[self.nodes]

    def interpolation(self) -> SparseProduct:
        """Return the matrix from values of nodes to those of points, Gaussian in the distance."""
        count = min(_NEAREST, len(self.nodes))
        squared, index = self._from_nodes.T.square().topk(count, dim=1, largest=False)
        shares = torch.exp(-(squared - squared[:, :1]) / (2 * self.spacing**2))
        shares = shares / shares.sum(1, keepdim=True)
        rows = torch.arange(len(self.points), device=self.points.device)
        shape = (len(self.points), len(self.nodes))
        return SparseProduct(
            rows.repeat_interleave(count), index.flatten(), shares.flatten(), shape
        )

    def pairs(self) -> Tensor:
        """Return the pairs of neighbouring nodes, ``(2, P)``."""
        count = min(_NEIGHBOURS, len(self.nodes)) - 1
        index = self._between.topk(count, largest=False).indices
        node = torch.arange(len(self.nodes), device=index.device)[:, None].expand_as(index)
        return torch.stack([node.flatten(), index.flatten()])


def _divide(surface: _Surface, tracks: Tensor, index: Tensor, count: int) -> tuple[Tensor, Parts]:
    """Divide tracks into rigid parts; return the points that were divided, and the parts."""
    if len(index) > _MOST_TRACKS:
        some = farthest_points(surface.points[index], _MOST_TRACKS)
        index, tracks = index[some], tracks[:, some]
    near = surface.distances(index)[:, index].topk(_NEIGHBOURS, largest=False).indices
    return index, rigid_parts(surface.points[index], tracks, count, near)


def _connected_edges(points: Tensor, faces: Tensor | None) -> Tensor:
    """Return the edges of a mesh, or of as many neighbours as connect the points."""
    if faces is not None:
        edges = mesh_edges(faces, len(points))
        graph = NeighbourGraph(points, edges, torch.ones_like(points[:1, 0]).expand(edges.shape[1]))
        sizes = torch.bincount(graph.components())
        if len(sizes) > 1:
            raise InputError(
                f"the mesh is in {len(sizes)} pieces that share no edge, the smallest of "
                f"{int(sizes.min())} vertices; join them, or pass the vertices without faces, so "
                "that near points are neighbours"
            )
        return edges
    neighbours = 10
    while True:
        graph = NeighbourGraph.of_points(points, neighbours, symmetric=True)
        if neighbours >= len(points) or int(graph.components().max()) == 0:
            return graph.edges
        neighbours *= 2


def _per_item(entries: tuple, batch: int) -> tuple:
    """Return one entry per item."""
    return entries * batch if len(entries) == 1 else entries


def _shares(weights: Tensor, count: int) -> Tensor:
    weights = weights if weights.ndim == 3 else weights[None]
    if weights.ndim != 3 or weights.shape[-1] != count:
        raise InputError(
            f"known weights of {count} bones are (N, {count}) or (batch, N, {count}), got "
            f"{tuple(weights.shape)}"
        )
    sums = weights.sum(-1, keepdim=True)
    if not bool((weights >= 0).all() and (sums > 0).all() and sums.isfinite().all()):
        raise InputError(
            "known weights of bones must not be negative, with a positive weight for every point"
        )
    return weights / sums
