"""Texture of a mesh, baked from photographs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.environment import open3d, optional_package
from invtoolbox.core.guards import check_range
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, Mesh, to_open3d

#: Number of views that a texel is blended from, and difference of colors at which a view counts half.
BEST, OUTLIER = 5, 0.1
#: Least cosine between the normal of a face and the direction to a camera, and least alpha.
LEAST_COSINE, LEAST_ALPHA = 0.15, 0.5
#: Number of faces that are unwrapped at once.
SLAB = 5000
#: Largest side of the maps of depth, in which it is looked up what a camera sees, pixels.
MAP_SIDE = 800
#: Largest difference between the depth of a texel and of a pixel of a map next to it, in units of
#: the width of this pixel at the texel.
TOLERANCE = 5.0
#: Share of a picture, from its border, in which its weight falls to 0.
BORDER = 0.05


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """Return a mesh of about a number of faces, by Open3D's quadric decimation.

    More faces remain if no edge can be removed without turning a face over, as in a mesh of many
    small parts.

    Source: Garland and Heckbert, "Surface simplification using quadric error metrics", SIGGRAPH
    1997.

    Args:
        mesh: the mesh; it is returned itself if it has no more faces.
        faces: number of faces.

    Raises:
        InputError: if `faces` is below 4.
        MissingDependency: if Open3D is not installed.
    """
    check_range("simplify", "[4, inf)", faces=faces)
    if len(mesh.faces) <= faces:
        return mesh
    simple = Mesh.of(to_open3d(mesh).simplify_quadric_decimation(faces))
    return Mesh(simple.vertices.float(), simple.faces, simple.colors)


def unwrap(mesh: Mesh, size: int = 2048) -> Mesh:
    """Return a mesh whose vertices have places in a texture, by xatlas; its texture is empty.

    Vertices on the seams of the charts become several.

    Args:
        mesh: the mesh.
        size: approximate number of texels along a side of the texture.

    Raises:
        InputError: if the faces have no area.
        MissingDependency: if xatlas is not installed.
    """
    check_range("unwrap", "[16, 16384]", size=size)
    package = optional_package("xatlas", "a texture needs xatlas; install it with", "3d")
    atlas, packing, charts = package.Atlas(), package.PackOptions(), package.ChartOptions()
    vertices, faces = mesh.vertices.detach().cpu().float(), mesh.faces.cpu()
    a, b, c = vertices[faces].unbind(1)
    area = float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum()) / 2
    packing.padding, charts.max_iterations, charts.max_cost = 1, 1, 8.0
    # Charts fill half of the texture.
    packing.texels_per_unit = size * (0.5 / max(area, 1e-30)) ** 0.5
    # The time of xatlas grows with the square of a mesh, so that slabs of it are faster.
    middles = (a + b + c)[:, int((vertices.amax(0) - vertices.amin(0)).argmax())]
    slabs = middles.argsort().split(SLAB)
    numbers = []
    for slab in slabs:
        number, corners = faces[slab].unique(return_inverse=True)
        numbers.append(number)
        atlas.add_mesh(vertices[number].numpy(), corners.numpy().astype(np.uint32))
    atlas.generate(charts, packing)
    if not atlas.width * atlas.height:
        raise InputError("the faces of the mesh have no area, so it has no texture")
    tables: list[tuple[Tensor, ...]] = []
    count = 0
    for k, number in enumerate(numbers):
        rows, corners, uv = (torch.from_numpy(t.astype(np.float64)) for t in atlas.get_mesh(k))
        tables.append((number[rows.long()], corners.long() + count, uv.float()))
        count += len(rows)
    rows, corners, uv = map(torch.cat, zip(*tables))
    return Mesh(
        mesh.vertices[rows],
        corners,
        None if mesh.colors is None else mesh.colors[rows],
        uv,
        torch.zeros(3, atlas.height, atlas.width),
    )


def texture_side(mesh: Mesh, cameras: Cameras) -> int:
    """Return the side of a texture that holds what the pictures show, two texels per pixel.

    Every face counts with its pixels in the picture that shows it largest,
    ``area cos(angle) f^2 / z^2``; half of a texture is empty.

    Args:
        mesh: the mesh.
        cameras: cameras of the pictures.
    """
    a, b, c = mesh.vertices.float()[mesh.faces].unbind(1)
    middles, normals = (a + b + c) / 3, torch.linalg.cross(b - a, c - a) / 2
    most = torch.zeros(len(middles))
    for k in range(len(cameras)):
        pixels, depth = (t[0] for t in cameras[k].project(middles))
        towards = cameras.centres[k] - middles
        across = (normals * towards).sum(1) / towards.norm(dim=1)
        size = across * (cameras.intrinsics[k, 0, 0] / depth).square()
        inside = (pixels > 0) & (pixels < torch.tensor(cameras.size[::-1]))
        most = torch.where((depth > 0) & inside.all(1), most.maximum(size), most)
    return max(16, round(float(4 * most.sum()) ** 0.5))


def bake(mesh: Mesh, pictures: Iterable[PosedPictures]) -> Mesh:
    """Return a mesh with a texture from photographs.

    Every texel is projected into the pictures that see it: its face looks at the camera, and its
    depth agrees with the depth map of the mesh. A picture has the weight ``cos(angle) f^2 / z^2``,
    the number of pixels per area of the surface, which falls to 0 at the borders. Of the `BEST`
    pictures the texel is the mean; weights fall with the distance from the median, so that what
    moved or shines in one of them is left out. Texels that no picture sees have the colors of the
    vertices if there are any, otherwise of the nearest texel.

    Args:
        mesh: mesh with places in a texture, see `unwrap`.
        pictures: photographs with their cameras, one at a time; those of lenses may be distorted.

    Raises:
        InputError: if no picture sees the mesh.
        MissingDependency: if Open3D is not installed.
    """
    texels = _Texels.of(mesh)
    scene = ray_scene(mesh.vertices, mesh.faces)
    count = len(texels.points)
    weights, colors = torch.zeros(BEST, count), torch.zeros(BEST, count, 3)
    for picture in pictures:
        rows, weight, color = _look(texels, picture, scene)
        # The picture takes the place of the worst of those that were kept, if it is better.
        worst = weights[:, rows].argmin(0)
        better = weight > weights[worst, rows]
        rows, worst = rows[better], worst[better]
        weights[worst, rows], colors[worst, rows] = weight[better], color[better]
    visible = (weights > 0).any(0)
    if not bool(visible.any()):
        raise InputError(
            "no photograph sees the mesh, so it has no texture; check that the box and the cameras "
            "belong together"
        )
    blended = torch.full((count, 3), torch.nan) if texels.colors is None else texels.colors
    blended[visible] = _blend(weights[:, visible], colors[:, visible])
    return Mesh(mesh.vertices, mesh.faces, mesh.colors, mesh.uv, texels.spread(blended))


@dataclass(frozen=True, eq=False)
class _Texels:
    """N texels on the faces of a mesh.

    Attributes:
        size: height and width of the texture.
        places: number of each texel, row by row from above, ``(N,)``.
        points: positions, ``(N, 3)``.
        faces: numbers of their faces, ``(N,)``.
        planes: normals of the faces and their distances from the origin, ``(F, 4)``.
        colors: colors of the vertices there, or None.
    """

    size: tuple[int, int]
    places: Tensor
    points: Tensor
    faces: Tensor
    planes: Tensor
    colors: Tensor | None

    @classmethod
    def of(cls, mesh: Mesh) -> _Texels:
        assert mesh.texture is not None and mesh.uv is not None
        height, width = mesh.texture.shape[1:]
        # Rays through the middles of the texels meet the mesh that is spread out in its texture.
        spread = torch.cat([mesh.uv, torch.zeros_like(mesh.uv[:, :1])], 1)
        scene = ray_scene(spread * torch.tensor([width, height, 1.0]), mesh.faces)
        parts = []
        for rows in torch.arange(height).split(256):
            v, u = torch.meshgrid(height - rows - 0.5, torch.arange(width) + 0.5, indexing="ij")
            down = torch.tensor([0.0, 0.0, -1.0]).expand(*u.shape, 3)
            hit = cast_rays(scene, torch.stack([u, v, torch.ones_like(u)], -1), down)
            place = (hit["t_hit"].isfinite()).flatten().nonzero()[:, 0]
            face = hit["primitive_ids"].flatten()[place]
            share = hit["primitive_uvs"].view(-1, 2)[place]
            parts.append((place + int(rows[0]) * width, face, share))
        places, face, share = map(torch.cat, zip(*parts))
        share = torch.cat([1 - share.sum(1, keepdim=True), share], 1)
        vertices, corners = mesh.vertices.float(), mesh.faces[face]
        a, b, c = vertices[mesh.faces].unbind(1)
        normals = functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
        planes = torch.cat([normals, (normals * a).sum(1, keepdim=True)], 1)

        def blend(values: Tensor) -> Tensor:
            return (share[..., None] * values[corners]).sum(1)

        colors = None if mesh.colors is None else blend(mesh.colors.float())
        return cls((height, width), places, blend(vertices), face, planes, colors)

    def spread(self, colors: Tensor) -> Tensor:
        """Return the texture; texels without a color have the color of the nearest one."""
        from scipy.ndimage import distance_transform_edt

        height, width = self.size
        texture = torch.full((height * width, 3), torch.nan).index_copy(0, self.places, colors)
        empty = texture[:, 0].isnan().view(self.size).numpy()
        y, x = distance_transform_edt(empty, return_distances=False, return_indices=True)
        nearest = torch.from_numpy(y.astype(np.int64) * width + x).view(-1)
        return texture[nearest].T.reshape(3, height, width).contiguous()


def _look(texels: _Texels, picture: PosedPictures, scene: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the numbers of the texels that a picture sees, their weights and their colors."""
    camera, (height, width) = picture.cameras, picture.cameras.size
    # Distances of the camera from the planes of the faces, above 0 in front of them.
    ahead = texels.planes[:, :3] @ camera.centres[0] - texels.planes[:, 3]
    rows = (ahead > 0)[texels.faces].nonzero()[:, 0]
    pixels, depth = (t[0] for t in camera.project(texels.points[rows]))
    place = 2 * pixels / torch.tensor([width, height]) - 1
    inside = ((depth > 0) & (place.abs().amax(1) < 1)).nonzero()[:, 0]
    rows, place, depth = rows[inside], place[inside], depth[inside]
    # The map of depth belongs to a pinhole, whose rays need no undistortion.
    small = camera.pinholes().scale(min(1.0, MAP_SIDE / max(camera.size)))
    straight = 2 * small.project(texels.points[rows])[0][0] / torch.tensor(small.size[::-1]) - 1
    origins, directions = small.rays()
    # A direction has the length of one unit of depth, so the length along it is the depth.
    nearest = cast_rays(scene, origins, directions)["t_hit"]
    ends = torch.cat([sign * functional.max_pool2d(sign * nearest, 3, 1, 1) for sign in (-1, 1)])
    near, far = _sample(ends, straight, "nearest").unbind(1)
    reach = TOLERANCE * depth / small.intrinsics[0, 0, 0]
    distance = (camera.centres[0] - texels.points[rows]).norm(dim=1)
    cosine = ahead[texels.faces[rows]] / distance
    is_seen = (depth - near <= reach) & (far - depth <= reach) & (cosine > LEAST_COSINE)
    index = is_seen.nonzero()[:, 0]
    counts = torch.ones_like(picture.alpha) if picture.mask is None else picture.mask
    channels = torch.cat([picture.pictures[0], picture.alpha[0], counts[0]])
    colors, alpha, counts = _sample(channels, place[index], "bilinear").split([3, 1, 1], 1)
    border = ((1 - place[index].abs().amax(1)) / (2 * BORDER)).clamp(max=1)
    focal = camera.intrinsics[0, 0, 0] * ((alpha > LEAST_ALPHA) & (counts > 0.99))[:, 0]
    weight = cosine[index] * (focal / depth[index]).square() * border
    # Colors are premultiplied by the alpha.
    return rows[index], weight, colors / alpha.clamp(min=LEAST_ALPHA)


def _blend(weights: Tensor, colors: Tensor) -> Tensor:
    """Return the mean of colors ``(K, N, 3)`` with weights ``(K, N)``, close to their median."""
    middle = torch.where(weights[..., None] > 0, colors, torch.nan).nanmedian(0).values
    off = (colors - middle).square().sum(-1) / (3 * OUTLIER**2)
    weights = weights / (1 + off) ** 2
    return (weights[..., None] * colors).sum(0) / weights.sum(0)[:, None]


def _sample(picture: Tensor, place: Tensor, mode: str) -> Tensor:
    """Return the values ``(N, channels)`` of a picture at places from -1 to 1."""
    sampled = functional.grid_sample(
        picture[None], place[None, None].float(), mode, "border", align_corners=False
    )
    return sampled[0, :, 0].T


def ray_scene(vertices: Tensor, faces: Tensor) -> Any:
    """Return Open3D's scene of a mesh for rays."""
    o3d = open3d()
    scene = o3d.t.geometry.RaycastingScene()
    arrays = vertices.detach().cpu().float().numpy(), faces.cpu().numpy().astype(np.uint32)
    scene.add_triangles(*map(o3d.core.Tensor, arrays))
    return scene


def cast_rays(scene: Any, origins: Tensor, directions: Tensor) -> dict[str, Tensor]:
    """Return what rays ``(..., 3)`` hit first: their lengths, faces and places in the faces."""
    rays = torch.cat([origins, directions], -1).float().contiguous().numpy()
    hits = scene.cast_rays(open3d().core.Tensor(rays))
    kinds = {"t_hit": np.float32, "primitive_ids": np.int64, "primitive_uvs": np.float32}
    return {n: torch.from_numpy(hits[n].numpy().astype(kind)) for n, kind in kinds.items()}
