"""Graphs of neighbouring points, along which rigidity is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.settings import Settings
from invtoolbox.core.sparse_graph import connected_components
from invtoolbox.errors import InputError, unknown_name
from invtoolbox.geometry.meshes import (
    check_mesh,
    cotangent_weights,
    half_cotangents,
    mesh_edges,
)
from invtoolbox.kernels.points.sparse_product import SparseProduct

Weights = Literal["uniform", "gaussian"]
MeshWeights = Literal["spokes-and-rims", "clamped", "cotangent", "uniform"]


@dataclass(frozen=True, eq=False)
class NeighbourGraph(Settings):
    r"""N points in space and E directed edges: of a cloud, a mesh, or the centres of Gaussians.

    Attributes:
        positions: positions at rest, ``(N, 3)``.
        edges: edges, ``(2, E)`` whole numbers: the point that an edge starts at, and its
            neighbour.
        weights: weights of the edges, ``(E,)``, not negative.
        signed: whether weights may be negative, as cotangents are; ``sum_ij w_ij |x_i - x_j|^2`` is
            not negative nevertheless.
        owners: the point whose neighbourhood an edge belongs to, ``(E,)`` whole numbers; None if it
            is the start of the edge.
        differences: the sparse matrix ``(E, N)`` with ``(differences(v))_e = v_i - v_j`` for the
            edge e from i to j.

    >>> points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    >>> graph = NeighbourGraph.of_points(points, neighbours=1)
    >>> graph.edges
    tensor([[0, 1, 2],
            [1, 0, 1]])
    >>> graph.vectors[2]
    tensor([2., 0., 0.])
    """

    positions: Tensor
    edges: Tensor
    weights: Tensor
    signed: bool = False
    owners: Tensor | None = None
    differences: SparseProduct = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n, e = len(self.positions), self.edges.shape[-1]
        if self.positions.ndim != 2 or self.edges.shape != (2, e) or self.weights.shape != (e,):
            raise InputError(
                "a NeighbourGraph takes positions (N, d), edges (2, E) and weights (E,), got "
                f"{tuple(self.positions.shape)}, {tuple(self.edges.shape)} and "
                f"{tuple(self.weights.shape)}"
            )
        if not bool((self.weights.isfinite() if self.signed else self.weights >= 0).all()):
            raise InputError(
                "the weights of a NeighbourGraph must be finite and not negative, but some are not"
            )
        # Row e has 1 in the column of the edge's point and -1 in that of its neighbour.
        rows, ones = torch.arange(e, device=self.edges.device), torch.ones_like(self.weights)
        signs = torch.cat([ones, -ones])
        matrix = SparseProduct(rows.repeat(2), self.edges.flatten(), signs, (e, n))
        object.__setattr__(self, "differences", matrix)

    @classmethod
    def of_points(
        cls,
        points: Tensor,
        neighbours: int | None = 10,
        radius: float | None = None,
        labels: Tensor | None = None,
        weights: Weights = "uniform",
        scale: float | None = None,
        symmetric: bool = False,
    ) -> Self:
        r"""Create the graph of the nearest neighbours of each point.

        Args:
            points: finite points, ``(N, 3)``.
            neighbours: number of nearest points that each point is joined to; None joins all points
                within the radius.
            radius: largest distance of a neighbour, in the unit of the points.
            labels: whole numbers ``(N,)``; edges join points of one label only, and points of a
                negative label have no edges.
            weights: ``"uniform"``: 1; ``"gaussian"``: ``exp(-d^2 / (2 scale^2))`` at the distance
                d.
            scale: scale of Gaussian weights; by default the median length of the edges.
            symmetric: whether to join both points of every pair to each other.
        """
        cloud = _check_cloud(points, neighbours, radius, labels, weights, scale)
        members = (
            np.arange(len(cloud)) if labels is None else (labels >= 0).nonzero()[:, 0].cpu().numpy()
        )
        cloud = cloud[members]
        if labels is not None:
            cloud = _separate_labels(cloud, labels.cpu().numpy()[members])
        pairs = (
            _pairs_within(cloud, radius)
            if neighbours is None and radius is not None
            else _nearest_pairs(cloud, neighbours or 1, radius)
        )
        if labels is not None and len(pairs):
            # The fourth coordinate is the label; a point with too few neighbours of its label has
            # also found others.
            pairs = pairs[cloud[pairs[:, 0], 3] == cloud[pairs[:, 1], 3]]
        if symmetric:
            pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
        # Numbers among the labelled points become numbers among all points.
        edges = torch.from_numpy(np.ascontiguousarray(members[pairs].T)).to(points.device)
        length = (points[edges[0]] - points[edges[1]]).norm(dim=1)
        if weights == "gaussian" and len(length):
            # w = exp(-d^2 / (2 scale^2)).
            width = float(length.median()) if scale is None else scale
            return cls(points, edges, torch.exp(-0.5 * (length / max(width, 1e-12)).square()))
        return cls(points, edges, torch.ones_like(length))

    @classmethod
    def of_mesh(cls, vertices: Tensor, faces: Tensor, weights: MeshWeights = "clamped") -> Self:
        r"""Create the graph of the edges of a triangle mesh, each in both directions.

        Args:
            vertices: finite positions, ``(N, 3)``.
            faces: whole numbers, ``(F, 3)``; they need not be consistently oriented.
            weights: weights of the edges. ``"cotangent"`` is half the sum of the cotangents of the
                angles opposite to the edge, which is negative between obtuse angles;
                ``sum w |x_i - x_j|^2 / 2`` is then the Dirichlet energy of the mesh, which is not
                negative (Pinkall and Polthier 1993). ``"clamped"`` sets negative cotangent weights
                to 0. ``"uniform"`` is 1. Sums of squares that are not differences of one field, as
                in `priors.ARAP`, do become negative under signed weights: a mesh with obtuse
                triangles then leaves its shape at rest for a crumpled shape of less energy.
                Therefore negative weights are set to 0 by default. ``"spokes-and-rims"`` adds to
                the signed edges of each vertex the opposite edges of its triangles. The
                neighbourhoods of `priors.ARAP` are then triangles as a whole, whose energies
                ``area |F - R|^2`` are not negative (Chao et al., "A simple geometric model for
                elastic deformations", 2010).

        A triangle without area counts as an equilateral one, because it has no cotangents.

        Raises:
            InputError: if a face names a vertex that does not exist.
        """
        check_mesh(vertices, faces)
        if weights not in get_args(MeshWeights):
            raise unknown_name("weights", weights, get_args(MeshWeights))
        edges = mesh_edges(faces, len(vertices))
        if weights == "uniform":
            return cls(vertices, edges, vertices.new_ones(edges.shape[1]))
        cotangents = cotangent_weights(vertices, faces, edges)
        if weights == "clamped":
            return cls(vertices, edges, cotangents.clamp_min(0))
        if weights == "cotangent":
            return cls(vertices, edges, cotangents, signed=True)
        # The rim of a corner is the opposite edge, with the cotangent of this corner.
        corners, after, before = (faces.long().roll(-k, 1).flatten() for k in range(3))
        rims = half_cotangents(vertices, faces).flatten().to(cotangents)
        return cls(
            vertices,
            torch.cat([edges, torch.stack([after, before])], 1),
            torch.cat([cotangents, rims]),
            signed=True,
            owners=torch.cat([edges[0], corners]),
        )

    @classmethod
    def of_grid(
        cls, shape: Sequence[int], spacing: float = 1.0, density: Tensor | None = None
    ) -> Self:
        r"""Create the graph of the voxels of a grid and their neighbours along the axes.

        Args:
            shape: shape of the grid, 3 numbers; the position of voxel (i, j, k) is
                ``spacing * (i, j, k)``.
            spacing: distance between neighbouring voxels.
            density: density of shape ``shape``, not negative: an edge has the weight
                ``sqrt(density_i density_j)``, so that empty voxels have no edges.
        """
        sizes = tuple(int(n) for n in shape)
        if len(sizes) != 3 or min(sizes) < 1 or not spacing > 0:
            raise InputError(
                "the graph of a grid takes 3 positive sizes and a positive spacing, got "
                f"{sizes} and {spacing}"
            )
        if density is not None and (
            tuple(density.shape) != sizes or not bool((density >= 0).all())
        ):
            raise InputError(
                f"the density of a grid of {sizes} must have its shape and must not be negative, "
                f"got {tuple(density.shape)}"
            )
        device = None if density is None else density.device
        dtype = torch.get_default_dtype() if density is None else density.dtype
        # Every voxel but the last of an axis is joined to its successor along this axis; the stable
        # sort orders the edges by their first voxel.
        place = torch.arange(sizes[0] * sizes[1] * sizes[2], device=device).view(sizes)
        half = torch.cat(
            [
                torch.stack(
                    [place.narrow(axis, 0, n - 1).flatten(), place.narrow(axis, 1, n - 1).flatten()]
                )
                for axis, n in enumerate(sizes)
            ],
            dim=1,
        )
        edges = torch.cat([half, half.flip(0)], dim=1)
        edges = edges[:, edges[0].argsort(stable=True)]
        steps = torch.stack(
            torch.meshgrid(*[torch.arange(n, device=device) for n in sizes], indexing="ij"), dim=-1
        )
        positions = steps.view(-1, 3).to(dtype) * spacing
        if density is None:
            return cls(positions, edges, torch.ones(edges.shape[1], dtype=dtype, device=device))
        # The geometric mean of the densities of both ends.
        masses = density.flatten()
        weights = (masses[edges[0]] * masses[edges[1]]).sqrt()
        return cls(positions, edges[:, weights > 0], weights[weights > 0])

    def components(self) -> Tensor:
        """Return the number of the connected component of each point, ``(N,)``."""
        return connected_components(self.edges, len(self))

    @property
    def vectors(self) -> Tensor:
        """Edges at rest, ``positions_i - positions_j``: ``(E, d)``."""
        return self.positions[self.edges[0]] - self.positions[self.edges[1]]

    def __len__(self) -> int:
        return len(self.positions)


def _check_cloud(
    points: Tensor,
    neighbours: int | None,
    radius: float | None,
    labels: Tensor | None,
    weights: str,
    scale: float | None,
) -> np.ndarray:
    """Return the points as an array, after checking the arguments of `NeighbourGraph.of_points`."""
    if points.ndim != 2 or not bool(points.isfinite().all()):
        raise InputError(
            f"a NeighbourGraph is built from finite points (N, 3), got {tuple(points.shape)}"
            + ("" if points.ndim != 2 else " with some that are NaN or infinite")
        )
    if neighbours is None and radius is None:
        raise InputError("a NeighbourGraph needs a number of neighbours, a radius, or both")
    check_range("a NeighbourGraph", "[1, inf)", neighbours=neighbours)
    check_range("a NeighbourGraph", "(0, inf]", radius=radius, scale=scale)
    if labels is not None and labels.shape != points.shape[:1]:
        raise InputError(
            f"{len(points)} points take labels of shape ({len(points)},), got {tuple(labels.shape)}"
        )
    if weights not in ("uniform", "gaussian"):
        raise unknown_name("weights", weights, ("uniform", "gaussian"))
    return points.detach().double().cpu().numpy()


def _separate_labels(cloud: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Append a coordinate that separates points of different labels by more than any distance."""
    # The diagonal of the bounding box is the largest possible distance.
    size = float(np.linalg.norm(np.ptp(cloud, axis=0))) if len(cloud) else 0.0
    number = np.unique(labels, return_inverse=True)[1].reshape(-1)
    return np.concatenate([cloud, number[:, None] * (2 * size + 1.0)], axis=1)


def _nearest_pairs(cloud: np.ndarray, neighbours: int, radius: float | None) -> np.ndarray:
    from scipy.spatial import cKDTree

    n = len(cloud)
    if n < 2:
        return np.zeros((0, 2), dtype=np.int64)
    # cKDTree excludes the bound itself: the next number above the radius includes it. Every point is
    # its own nearest point, so one more is asked for.
    bound = np.inf if radius is None else np.nextafter(radius, np.inf)
    distance, index = cKDTree(cloud).query(
        cloud, k=min(neighbours + 1, n), distance_upper_bound=bound
    )
    itself = index == np.arange(n)[:, None]
    # If many points lie at one place, a point may not be among its nearest points; the last one is
    # then dropped.
    itself[~itself.any(1), -1] = True
    joined = ~itself & np.isfinite(distance)
    return np.stack([np.nonzero(joined)[0], index[joined]], axis=1).astype(np.int64)


def _pairs_within(cloud: np.ndarray, radius: float) -> np.ndarray:
    from scipy.spatial import cKDTree

    half = (
        cKDTree(cloud).query_pairs(radius, output_type="ndarray").astype(np.int64)
        if len(cloud)
        else np.zeros((0, 2), np.int64)
    )
    # The tree returns each pair once and in no order.
    pairs = np.concatenate([half, half[:, ::-1]])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
