"""Normal integration: known surfaces, jumps, two sides, batches, and input that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError


def hill(n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Return normals, depth in pixels and the mask of a hill seen from above."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    depth = -8 * torch.exp(-3 * (u**2 + v**2) + u)
    return normals_of(depth), depth, u**2 + v**2 < 0.95


def normals_of(depth: Tensor, sign: float = 1.0) -> Tensor:
    """Return the normals of a depth map by central differences."""
    along, across = torch.gradient(depth.double())
    n = sign * torch.stack([across, -along, torch.ones_like(along)], -1)
    return (n / n.norm(dim=-1, keepdim=True)).float()


def error(depth: Tensor, truth: Tensor, mask: Tensor) -> float:
    gap = (depth - truth)[mask]
    return float((gap - gap.median()).abs().mean())


def test_a_hill_is_found_in_the_unit_of_the_pixel() -> None:
    normals, truth, mask = hill()
    depth = it.integrate_normals(normals, mask, 0.1)
    assert error(depth / 0.1, truth, mask) < 0.05
    assert bool(depth[~mask].isnan().all()) and float(depth[mask].median().abs()) < 1e-5
    found = it.integrate_normals(normals.numpy(), mask.numpy())
    assert isinstance(found, np.ndarray) and np.allclose(
        found * 0.1, depth, equal_nan=True, atol=1e-5
    )


def test_a_jump_is_kept_that_least_squares_smooths() -> None:
    """Two slopes meet along a part of a cliff, which fades out: only then is its height known."""
    v, u = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    cliff = 0.5 * (v - 16).clamp_min(0)
    truth = torch.where(u < 24, cliff, 0.0)
    normals = normals_of(cliff)
    normals[:, 24:] = torch.tensor([0.0, 0.0, 1.0])
    mask = torch.ones(48, 48, dtype=torch.bool)
    sharp = error(it.integrate_normals(normals, mask, k=2.0), truth, mask)
    smooth = error(it.integrate_normals(normals, mask, k=0.0), truth, mask)
    assert sharp < 0.3 * smooth, (sharp, smooth)


def test_a_large_map_starts_from_a_coarser_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from invtoolbox.jobs.normals import problem

    normals, truth, mask = hill(61)
    K = torch.tensor([[200.0, 0, 30], [0, 200.0, 30], [0, 0, 1]])
    plain = [it.integrate_normals(normals, mask, camera) for camera in (None, K)]
    monkeypatch.setattr(problem, "_LARGE", 500)
    for camera, first in zip((None, K), plain):
        second = it.integrate_normals(normals, mask, camera)
        assert torch.allclose(first[mask], second[mask], atol=0.02)
    assert error(plain[0], truth, mask) < 0.05


def test_an_item_is_the_same_alone_and_in_a_batch() -> None:
    normals, _, mask = hill()
    both = torch.stack([normals, normals.flip(1) * torch.tensor([-1.0, 1, 1])])
    masks = torch.stack([mask, mask.flip(1)])
    masks[1, :12] = False
    depth = it.integrate_normals(both, masks)
    for k in range(2):
        alone = it.integrate_normals(both[k], masks[k])
        assert torch.equal(alone.nan_to_num(9), depth[k].nan_to_num(9))


def test_the_mesh_faces_the_camera_and_is_left_out_at_jumps() -> None:
    normals, _, mask = hill()
    surface = it.surface_from_normals(normals, mask)
    mesh = surface.meshes()[0]
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    facing = torch.linalg.cross(b - a, c - a)
    assert bool((facing[:, 2] < 0).all()) and len(mesh.vertices) <= int(mask.sum())
    assert len(surface.meshes(stretch=0.5)[0].faces) < len(mesh.faces)


def body(n: int = 64) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return normals and depth of the front and the back of a torso with an arm in front of it."""
    v, u = torch.meshgrid(torch.arange(float(n)), torch.arange(float(n)), indexing="ij")
    mask = torch.zeros(n, n, dtype=torch.bool)
    depth = [torch.full((n, n), torch.inf), torch.full((n, n), -torch.inf)]
    normals = [torch.zeros(n, n, 3), torch.zeros(n, n, 3)]
    for (x, y, z), (a, b, c) in (((32, 32, 0), (20, 27, 11)), ((29, 35, -20), (6, 16, 5))):
        rest = 1 - ((u - x) / a) ** 2 - ((v - y) / b) ** 2
        for side, sign in enumerate((-1, 1)):
            height = c * rest.clamp_min(0).sqrt()
            surface = z + sign * height
            seen = (rest > 0) & (sign * surface > sign * depth[side])
            out = torch.stack([(u - x) / a**2, -(v - y) / b**2, -sign * height / c**2], -1)
            depth[side] = torch.where(seen, surface, depth[side])
            out = torch.nn.functional.normalize(out, dim=-1)
            normals[side] = torch.where(seen[..., None], out, normals[side])
        mask |= rest > 0
    return normals, depth, mask


def coarse(depth: Tensor, mask: Tensor) -> Tensor:
    from scipy.ndimage import gaussian_filter

    share = gaussian_filter(mask.float().numpy(), 3)
    mean = gaussian_filter(torch.where(mask, depth, 0.0).numpy(), 3) / np.maximum(share, 1e-6)
    return torch.where(mask, torch.from_numpy(mean), torch.nan)


def test_two_sides_with_a_coarse_prior_find_the_jump_that_one_side_misses() -> None:
    normals, truth, mask = body()
    prior = [coarse(z, mask) for z in truth]

    def away(z: Tensor, side: int = 0) -> float:
        return float((z - truth[side])[mask].square().mean().sqrt())

    alone = it.integrate_normals(normals[0], mask)
    alone = alone + (prior[0] - alone)[mask].mean()
    front, back = it.integrate_normals(normals, mask, prior=prior)
    assert away(front) < 0.5 * away(alone) and away(front) < away(prior[0])
    assert away(back, 1) < 0.5
    assert bool((front <= back)[mask].all())
    batch = it.integrate_normals(
        [torch.stack([n, n]) for n in normals], mask, prior=[torch.stack([p, p]) for p in prior]
    )
    assert torch.equal(batch[1][1][mask], back[mask])


def test_the_mesh_of_two_sides_is_closed() -> None:
    normals, truth, mask = body()
    surface = it.surface_from_normals(normals, mask, prior=truth)
    mesh = surface.meshes()[0]
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    # The volume by the divergence theorem; faces point outwards, with y down and z forward.
    volume = float(torch.linalg.det(torch.stack([a, b, c], 1)).sum() / 6)
    within = float((truth[1] - truth[0])[mask].sum())
    assert volume == pytest.approx(within, rel=0.1)
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    assert torch.equal(edges.unique(dim=0), edges.flip(1).unique(dim=0))


def test_sides_that_cross_are_parted() -> None:
    normals, truth, mask = body()
    surface = it.surface_from_normals(normals, mask, prior=(truth[0] + 30, truth[1]))
    front, back = surface.depth[0]
    assert bool((front <= back)[mask].all())
    assert any("moved to the middle" in note for note in surface.notes)
    with pytest.raises(InputError, match="the back normal map point away"):
        it.integrate_normals((normals[0], normals[0]), mask)
    with pytest.raises(InputError, match="2 normal map"):
        it.integrate_normals(normals, mask, prior=truth[0])


def test_sides_without_a_prior_meet_at_the_silhouette() -> None:
    normals, truth, mask = body()
    front, back = it.integrate_normals(normals, mask)
    # The outermost pixels of the body are several pixels thick, and the sides meet there.
    gap = (back - front - truth[1] + truth[0])[mask]
    assert float(gap.abs().median()) < 6
    apart = it.integrate_normals(normals, mask, coupling=0.0)
    assert float((apart[1] - apart[0])[mask].median().abs()) < 2  # both have the median 0


def _bad(name: str) -> dict[str, Any]:
    normals, _, mask = hill()
    wrong: dict[str, Any] = {"normals": normals, "mask": mask}
    if name == "nan":
        normals[20, 21, 1] = torch.nan
    elif name == "zero":
        normals[20, 21] = 0
    elif name == "picture":
        wrong["normals"] = normals / 2 + 0.5
    elif name == "whole":
        wrong["normals"] = (normals * 127 + 128).to(torch.uint8)
    elif name == "x":
        wrong["normals"] = normals * torch.tensor([-1.0, 1.0, 1.0])
    elif name == "y":
        wrong["normals"] = normals * torch.tensor([1.0, -1.0, 1.0])
    elif name == "z":
        wrong["normals"] = normals * torch.tensor([1.0, 1.0, -1.0])
    elif name == "empty":
        wrong["mask"] = mask & False
    elif name == "size":
        wrong["mask"] = mask[1:]
    elif name == "large":
        wrong["intrinsics"] = torch.tensor([[99.0, 0, 39], [0, 99, 39], [0, 0, 1]])
    elif name == "small":
        wrong["intrinsics"] = torch.tensor([[99.0, 0, 9], [0, 99, 9], [0, 0, 1]])
    elif name == "pixel":
        wrong["intrinsics"] = -1.0
    elif name == "median":
        wrong["median_depth"] = 3.0
    elif name == "prior":
        wrong["prior"] = torch.ones(3, 3)
    return wrong


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "1 pixels of the normal map inside of the mask are NaN .* row 20, column 21"),
        ("zero", "no direction"),
        ("picture", r"map it to normals with 2 \* value - 1"),
        ("whole", "whole numbers"),
        ("x", "wrong handedness.* negate x, which must point to the right"),
        ("y", "wrong handedness.* negate y, which must point up"),
        ("z", "negate its z axis"),
        ("empty", "the mask is empty"),
        ("size", "39 rows|\\(39, 40\\)"),
        ("large", "belong to a picture of about 78 x 78 pixels"),
        ("small", "belong to a picture of about 18 x 18 pixels"),
        ("pixel", "pixel_size of the camera must be positive"),
        ("median", "median_depth"),
        ("prior", "the prior has the shape"),
    ],
)
def test_bad_input_is_one_sentence(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        it.integrate_normals(**_bad(name))


def test_findings_are_in_the_notes() -> None:
    normals, _, mask = hill()
    rounded = (normals * 127.5 + 127.5).round() / 127.5 - 1
    mask[:, 19] = False
    notes = it.surface_from_normals(rounded, mask).notes
    assert any("as 8-bit maps do; they were renormalized" in note for note in notes)
    assert any("in 2 pieces" in note for note in notes)
    stretched = it.surface_from_normals(1.2 * normals, mask).notes
    assert any("by more than 2%, which rounding does not explain" in note for note in stretched)
    assert len(it.surface_from_normals(normals).notes) == 0


@pytest.mark.data
def test_a_real_object_is_as_close_as_published(data_dir: Path) -> None:
    """DiLiGenT's cat, in millimetres: 0.074 published, 1.60 by least squares."""
    folder = data_dir / "bini_normals" / "Fig7_diligent" / "cat"
    normals = it.datasets.read_normal_map(folder / "normal_map.png")
    mask = it.datasets.read_mask(folder / "mask.png")
    K = it.datasets.read_intrinsics(folder / "K.txt")
    with np.load(folder / "depth_gt.npz") as file:
        truth = torch.from_numpy(file[file.files[0]])[mask]
    surface = it.surface_from_normals(normals, mask, K, median_depth=float(truth.nanmedian()))
    depth = surface.depth[0, 0][mask].double()
    depth = depth * (truth / depth).nanmedian()
    assert float((depth - truth).abs().nanmean()) < 0.09
    assert surface.solutions[0].status == ("converged",)


@pytest.mark.parametrize(("axis", "name"), [(0, "x"), (1, "y")])
def test_a_mirrored_axis_of_a_smooth_surface_is_named(axis: int, name: str) -> None:
    """The slopes of a gentle hill change by less than rounding to 8 bits, and are exact here."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    hill = -8 * torch.exp(-3 * (u**2 + v**2))
    down, across = torch.gradient(hill)
    normals = torch.nn.functional.normalize(torch.stack([across, -down, 0 * u + 1], -1), dim=-1)
    it.integrate_normals(normals)
    mirrored = normals.clone()
    mirrored[..., axis] *= -1
    with pytest.raises(InputError, match="handedness"):
        it.integrate_normals(mirrored)
    # Noise says nothing of an axis.
    noise = 0.02 * torch.randn(64, 64, 3, generator=torch.Generator().manual_seed(0))
    flat = torch.tensor([0.0, 0.0, 1.0]).expand(64, 64, 3) + noise
    it.integrate_normals(torch.nn.functional.normalize(flat, dim=-1))


def gentle() -> torch.Tensor:
    """Normals of two low hills, whose slopes change less per pixel than 8 bits show."""
    column = (torch.arange(48.0) - 23.5) / 22
    row = column[:, None]
    first = 0.5 * torch.exp(-6 * (column - 0.2) ** 2 - 3 * (row + 0.3) ** 2)
    y, x = torch.gradient(first + 0.3 * torch.exp(-8 * (column + 0.4) ** 2 - 4 * (row - 0.3) ** 2))
    normals = torch.stack([-x, y, torch.ones_like(x)], -1)
    return normals / normals.norm(dim=-1, keepdim=True)


def test_a_green_channel_of_8_bits_that_points_down_is_refused() -> None:
    rounded = ((gentle() + 1) * 127.5).round() / 127.5 - 1
    it.integrate_normals(rounded)
    with pytest.raises(InputError, match="negate y, which must point up"):
        it.integrate_normals(rounded * torch.tensor([1.0, -1.0, 1.0]))


def test_rounding_of_a_slope_that_is_constant_along_rows_is_no_mirrored_axis() -> None:
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    q, p = torch.gradient(0.03 * column - 4 * ((row - 32) / 64) ** 2)
    normals = torch.stack([-p, q, torch.ones_like(p)], -1)
    normals = normals / normals.norm(dim=-1, keepdim=True)
    it.integrate_normals(((normals + 1) * 127.5).round() / 127.5 - 1, max_iterations=1)


def test_channels_in_the_order_blue_green_red_are_refused() -> None:
    with pytest.raises(InputError, match="reverse its channels"):
        it.integrate_normals(gentle().flip(-1))


def test_the_identity_is_no_camera() -> None:
    with pytest.raises(InputError, match="principal point .* give the matrix of this camera"):
        it.integrate_normals(gentle(), intrinsics=torch.eye(3))
