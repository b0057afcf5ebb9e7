"""Gaussian splatting: a compositor in forty lines, reference images, and derivatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.rigid import rotation
from invtoolbox.geometry.splatting import rasterization
from invtoolbox.kernels.native import warp
from invtoolbox.kernels.rendering.splat_binning import _bin_by_torch, bin_splats
from invtoolbox.kernels.rendering.splat_compositing import Tasks, composite
from invtoolbox.kernels.rendering.splat_projection import Projection, project
from tests.device_jobs import deterministic
from tests.emulated_cuda import emulate_cuda

F64 = torch.float64


def need_blocks() -> None:
    """Skip a test of blocks of threads if this version of Warp has none on a CPU."""
    if not hasattr(warp().config, "enable_cpu_blocks"):
        pytest.skip("blocks of threads on a CPU need warp-lang 1.19 or later")


def scene(
    count: int = 12,
    views: int = 2,
    degree: int = 2,
    seed: int = 0,
    size: tuple[int, int] = (20, 18),
    dtype: torch.dtype = F64,
    scenes: tuple[int, ...] = (),
) -> list[Any]:
    """What `rasterization` takes, up to width and height; the views differ in position and attitude."""
    g = torch.Generator().manual_seed(seed)
    width, height = size

    def normal(*shape: int) -> Tensor:
        return torch.randn(*scenes, *shape, generator=g, dtype=F64)

    colors = 0.3 * normal(count, (degree + 1) ** 2, 3) if degree >= 0 else normal(count, 3)
    from invtoolbox.geometry.rigid import rigid, rotation

    twist = normal(views, 6)
    shift = 0.2 * twist[..., 3:] + torch.tensor([0.0, 0, 4], dtype=F64)
    view = rigid(rotation(0.1 * twist[..., :3].reshape(-1, 3)), shift.reshape(-1, 3)).reshape(
        *scenes, views, 4, 4
    )
    K = torch.tensor(
        [[0.9 * width, 0, width / 2], [0, 0.95 * width, height / 2], [0, 0, 1]], dtype=F64
    ).expand(*scenes, views, 3, 3)
    parts = [
        0.6 * normal(count, 3),
        normal(count, 4),
        (0.4 * normal(count, 3) - 1.2).exp(),
        torch.sigmoid(normal(count)),
        colors,
        view,
        K,
    ]
    return [*(part.to(dtype) for part in parts), width, height]


def brute_force(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    features: Tensor,
    view: Tensor,
    K: Tensor,
    width: int,
    height: int,
    antialiased: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, transmittance and median depth of one view, every pixel against every Gaussian."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=1).unbind(1)
    R = torch.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            1 - 2 * (x * x + y * y),
        ],
        1,
    ).view(-1, 3, 3)
    p = means @ view[:3, :3].T + view[:3, 3]
    order = p[:, 2].argsort(stable=True)
    order = order[p[order, 2] > 0.01]
    p, features, opacities = p[order], features[order], opacities[order]
    axes = view[:3, :3] @ (R * scales[:, None])[order]
    focal, centre, size = K.diagonal()[:2], K[:2, 2], torch.tensor([width, height])
    margin = 0.15 * size.to(means) / focal
    slope = torch.minimum(
        torch.maximum(p[:, :2] / p[:, 2:], -centre / focal - margin),
        (size - centre) / focal + margin,
    )
    J = torch.cat([torch.diag_embed(focal / p[:, 2:]), (-focal * slope / p[:, 2:])[..., None]], 2)
    sharp = (J @ axes) @ (J @ axes).transpose(1, 2)
    covariance = sharp + 0.3 * torch.eye(2, dtype=F64)
    if antialiased:
        opacities = (
            opacities * (torch.linalg.det(sharp) / torch.linalg.det(covariance)).clamp_min(0).sqrt()
        )
    middle = focal * p[:, :2] / p[:, 2:] + centre
    rows, columns = torch.meshgrid(
        torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
    )
    d = torch.stack([columns, rows], -1).to(means)[:, :, None] - middle
    alpha = opacities * torch.exp(
        -0.5 * torch.einsum("hwni,nij,hwnj->hwn", d, torch.linalg.inv(covariance), d)
    )
    alpha = torch.where(alpha < 1 / 255, 0.0, alpha.clamp_max(0.999))
    behind = (1 - alpha).cumprod(2)
    alpha = torch.where(behind <= 1e-4, 0.0, alpha)
    behind = torch.where(behind <= 1e-4, 1.0, behind).cummin(2).values
    before = torch.cat([torch.ones_like(behind[..., :1]), behind[..., :-1]], 2)
    crosses = (behind <= 0.5) & (before > 0.5)
    median = torch.where(crosses.any(2), (crosses * p[:, 2]).sum(2), 0.0)
    return (alpha * before) @ features, behind[..., -1], median


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_it_agrees_with_a_compositor_that_tries_every_pixel_with_every_gaussian(
    mode: Any, dtype: torch.dtype
) -> None:
    *gaussians, views, K, width, height = scene(400, 2, -1, seed=3, size=(50, 37), dtype=dtype)
    gaussians[2] = 0.4 * gaussians[2]
    gaussians[0][:20, 2] -= 4  # beside and behind the camera
    image, alpha, info = rasterization(
        *gaussians,
        views,
        K,
        width,
        height,
        render_mode="RGB+D",
        rasterize_mode=mode,
        median_depth=True,
    )
    for k in range(2):
        given = [t.double() for t in gaussians]
        depth = (given[0] @ views[k, 2, :3].double() + views[k, 2, 3].double())[:, None]
        expected, clear, median = brute_force(
            *given[:4],
            torch.cat([given[4], depth], 1),
            views[k].double(),
            K[k].double(),
            width,
            height,
            mode == "antialiased",
        )
        bar = 1e-5 if dtype == torch.float32 else 1e-11
        assert (image[k] - expected).abs().max() < bar * float(expected.abs().max())
        assert (alpha[k, ..., 0] - (1 - clear)).abs().max() < bar
        assert (info["median_depth"][k, ..., 0] - median).abs().max() < bar * 5
        assert float(clear.min()) < 0.01  # opaque somewhere, so that pixels end early


@pytest.mark.data
@pytest.mark.parametrize("name", ["basic_case", "tiny_case"])
def test_it_agrees_with_the_images_of_gsplat(name: str, data_dir: Path) -> None:
    from safetensors.torch import load_file

    case = load_file(data_dir / "brush_reference" / f"{name}.safetensors")
    height, width = case["out_img"].shape[:2]
    view = torch.eye(4)
    view[:3, 3] = torch.tensor([-0.123, -0.456, 8.0])
    K = torch.tensor([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1]])
    image, alpha, _ = rasterization(
        case["means"],
        case["quats"],
        case["scales"].exp(),
        case["opacities"].sigmoid(),
        case["coeffs"],
        view[None],
        K[None],
        width,
        height,
        sh_degree=3,
    )
    assert (torch.cat([image, alpha], -1)[0] - case["out_img"]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("degree", "settings"),
    [
        (
            3,
            {
                "render_mode": "RGB+ED",
                "rasterize_mode": "antialiased",
                "normals": True,
                "median_depth": True,
            },
        ),
        (1, {"render_mode": "RGB+D"}),
        (0, {"surface": True}),
        (-1, {}),
    ],
)
def test_derivatives_reach_every_parameter_and_the_pose(
    degree: int, settings: dict[str, Any]
) -> None:
    *gaussians, K, width, height = scene(3, 2, degree, seed=5, size=(8, 6))

    def render(*free: Tensor) -> tuple[Tensor, ...]:
        image, alpha, info = rasterization(
            *free, K, width, height, sh_degree=None if degree < 0 else degree, **settings
        )
        names = ("normals", "median_depth", "plane_depth", "distortion")
        return image, alpha, *(info[name] for name in names if name in info)

    free = [t.clone().requires_grad_(True) for t in gaussians]
    assert torch.autograd.gradcheck(render, free, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)
    image, *_ = render(*free)
    for gradient in torch.autograd.grad(image.sum(), free):
        assert float(gradient.abs().max()) > 0


def test_what_a_gpu_runs_gives_the_same() -> None:
    need_blocks()
    *gaussians, views, K, width, height = scene(200, 3, 1, seed=2, size=(40, 30))
    how = Projection(width, height, degree=1, depth=True)
    splats, boxes, reaches = project(*(t[None] for t in (*gaussians, views, K)), how)
    tiles, by_torch = bin_splats(boxes, reaches, width, height), _bin_by_torch(boxes, reaches, 3, 2)
    for name in ("entries", "starts", "bases", "pairs", "shares"):
        assert torch.equal(getattr(tiles, name), getattr(by_torch, name)), name
    single = reaches.float().contiguous()  # depth and tile in one key
    order = bin_splats(boxes, single, width, height).entries
    assert torch.equal(_bin_by_torch(boxes, single, 3, 2).entries, order)
    results = []
    for tasks, ordered in (("tile", False), ("pixel", False), ("block", False), ("block", True)):
        free = splats.detach().requires_grad_(True)
        planes = composite(free, boxes, reaches, tiles, width, height, 3, tasks)
        slope = torch.randn(planes.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
        with deterministic(ordered):
            results.append((planes.detach(), *torch.autograd.grad(planes, free, slope)))
    for tile, *gpu, ordered in zip(*results):
        for values in gpu:
            assert (tile - values).abs().max() < 1e-10 * float(tile.abs().max())
        assert torch.equal(gpu[-1], ordered)  # blocks always add in the same order


def test_blocks_of_threads_agree_in_single_precision() -> None:
    need_blocks()
    *gaussians, views, K, width, height = scene(300, 2, 1, seed=4, size=(40, 30))
    inputs = (t[None].float() for t in (*gaussians, views, K))
    splats, boxes, reaches = project(*inputs, Projection(width, height, degree=1))
    tiles, results = bin_splats(boxes, reaches, width, height), {}
    tasks: Tasks
    for tasks in ("tile", "pixel", "block"):
        free = splats.detach().requires_grad_(True)
        planes = composite(free, boxes, reaches, tiles, width, height, tasks=tasks)
        results[tasks] = (planes.detach(), torch.autograd.grad(planes.square().sum(), free)[0])
    for image, gradient in (results["tile"], results["pixel"]):
        assert (results["block"][0] - image).abs().max() < 1e-6 * float(image.abs().max())
        assert (results["block"][1] - gradient).abs().max() < 1e-5 * float(gradient.abs().max())


@pytest.mark.parametrize("tasks", ["tile", "pixel", "block"])
def test_absolute_gradients_are_sums_over_pixels_of_absolute_values(tasks: Tasks) -> None:
    if tasks == "block":
        need_blocks()
    *gaussians, views, K, width, height = scene(60, 1, 0, seed=2, size=(20, 18))
    how = Projection(width, height, degree=0)
    splats, boxes, reaches = project(*(t[None] for t in (*gaussians, views, K)), how)
    tiles = bin_splats(boxes, reaches, width, height)
    free = splats.detach().requires_grad_(True)
    zeros = free.detach().new_zeros(1, 60, 2).requires_grad_(True)
    planes = composite(free, boxes, reaches, tiles, width, height, None, tasks, None, zeros)
    slope = torch.randn(planes.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    plain, absolute = torch.autograd.grad(planes, (free, zeros), slope, retain_graph=True)
    wanted, total = torch.zeros_like(absolute), torch.zeros_like(plain)
    for place in torch.cartesian_prod(torch.arange(height), torch.arange(width)).tolist():
        one = torch.zeros_like(slope)
        one[:, :, place[0], place[1]] = slope[:, :, place[0], place[1]]
        own = torch.autograd.grad(planes, free, one, retain_graph=True)[0]
        wanted, total = wanted + own[..., :2].abs(), total + own
    assert torch.allclose(plain, total) and torch.allclose(absolute, wanted)
    assert float((absolute - plain[..., :2].abs()).min()) > -1e-12
    again = torch.autograd.grad(
        composite(free, boxes, reaches, tiles, width, height, None, tasks), free, slope
    )
    assert torch.equal(again[0], plain)


def test_the_largest_contributors_of_a_pixel() -> None:
    *gaussians, views, K, width, height = scene(40, 2, 0, seed=3, size=(20, 18))
    count = len(gaussians[0])
    own = [*gaussians[:4], torch.eye(count, dtype=F64)]  # the color of a Gaussian is its number
    shares, alpha, info = rasterization(*own, views, K, width, height, contributors=5)
    most, ids = shares.sort(-1, descending=True)
    assert info["ids"].shape == (2, height, width, 5) and float(alpha.max()) > 0.5
    assert torch.allclose(info["weights"], most[..., :5])
    there = info["weights"] > 0
    assert torch.equal(info["ids"][there], ids[..., :5][there])
    assert bool((info["ids"][~there] == -1).all())


def test_a_gpu_is_given_many_threads() -> None:
    """A million Gaussians take at least 250,000 threads in the projection, 100,000 in the sum."""
    *gaussians, views, K, width, height = scene(1000, 1, 0, size=(20, 18), dtype=torch.float32)
    with emulate_cuda() as tally:
        free = [t.to("cuda").requires_grad_(True) for t in gaussians]
        image, *_ = rasterization(*free, views.to("cuda"), K.to("cuda"), width, height, sh_degree=0)
        torch.autograd.grad(image.sum(), free)
        tasks = {
            (kernel.file.split("/")[1], kernel.definitions["PART"]): tasks
            for kernel, tasks in tally.kernels
            if "PART" in kernel.definitions
        }
    assert tasks == {
        ("splat_projection.cpp", 4): 250,
        ("splat_projection_gradient.cpp", 4): 250,
        ("splat_compositing_sum.cpp", 8): 125,
    }


def test_scenes_of_a_batch_are_equal_to_themselves_alone() -> None:
    *gaussians, K, width, height = scene(
        300, 2, 1, seed=4, size=(33, 21), dtype=torch.float32, scenes=(5,)
    )
    # The last one is smaller: filled up with Gaussians of opacity 0.
    gaussians[3][4, 100:] = 0
    free = [t.clone().requires_grad_(True) for t in gaussians]
    image, alpha, _ = rasterization(*free, K, width, height, sh_degree=1)
    together = torch.autograd.grad(image.square().sum(), free)
    for k in range(5):
        count = 100 if k == 4 else 300
        own = [
            t[k].clone() if t.ndim == 4 and t.shape[-1] == 4 else t[k, :count].clone()
            for t in gaussians
        ]
        own = [t.requires_grad_(True) for t in own]
        image_k, alpha_k, _ = rasterization(*own, K[k], width, height, sh_degree=1)
        assert torch.equal(image[k], image_k) and torch.equal(alpha[k], alpha_k)
        for one, every in zip(torch.autograd.grad(image_k.square().sum(), own), together):
            assert torch.equal(one, every[k, : len(one)])


def test_a_background_shows_through_and_depth_is_expected_or_composited() -> None:
    given = scene(5, 1, -1)
    image, alpha, _ = rasterization(*given)
    white, _, _ = rasterization(*given, backgrounds=torch.ones(1, 3, dtype=F64))
    assert torch.allclose(white, image + 1 - alpha)
    depth, alpha, _ = rasterization(*given, render_mode="D")
    expected, _, _ = rasterization(*given, render_mode="ED")
    assert torch.allclose(expected * alpha, depth)
    assert 3 < float(expected[alpha > 0.5].mean()) < 5


def test_a_flat_gaussian_shows_the_normal_of_its_plane() -> None:
    *gaussians, view, K, width, height = scene(1, 1, -1)
    gaussians[0][:] = 0
    gaussians[1][:] = torch.tensor([1.0, 0.2, 0, 0])
    gaussians[2][:] = torch.tensor([0.5, 0.5, 1e-4])
    gaussians[3][:] = 0.9
    _, alpha, info = rasterization(*gaussians, view, K, width, height, normals=True)
    shown = info["normals"][0, 9, 10] / alpha[0, 9, 10]
    angle = 2 * torch.atan(torch.tensor(0.2, dtype=F64))
    # The axis z turned about x, towards the camera.
    assert torch.allclose(
        shown, torch.stack([torch.zeros_like(angle), angle.sin(), -angle.cos()]), atol=1e-12
    )


def test_flat_gaussians_on_a_plane_have_its_depth_and_no_distortion() -> None:
    """Disks on the plane n . x = 2, whose means have depths of their own, in two views."""
    axis = torch.tensor([0.3, -0.2, 1.0], dtype=F64)
    normal = axis / axis.norm()
    generator = torch.Generator().manual_seed(0)
    spots = torch.rand(80, 2, generator=generator, dtype=F64) * 4 - 2
    means = torch.cat([spots, (2 - spots @ normal[:2, None]) / normal[2]], 1)
    # Turn the axis z to the normal.
    half = torch.tensor([1 + normal[2], -normal[1], normal[0], 0.0], dtype=F64)
    quats, scales = half.expand(80, 4), torch.tensor([0.2, 0.4, 1e-3], dtype=F64).expand(80, 3)
    view = torch.eye(4, dtype=F64).repeat(2, 1, 1)
    view[1, :3, :3] = rotation(torch.tensor([0.1, 0.3, 0.2], dtype=F64))
    view[1, :3, 3] = torch.tensor([0.5, 0.1, 1.0], dtype=F64)
    K = torch.tensor([[16.0, 0, 10], [0, 18, 8], [0, 0, 1]], dtype=F64).expand(2, 3, 3)
    opacities, colors = torch.full((80,), 0.6, dtype=F64), torch.ones(80, 1, dtype=F64)
    given = means, quats, scales, opacities, colors, view, K, 20, 16
    info = rasterization(*given, surface=True, render_mode="RGB+ED")[2]
    for k in range(2):
        origins, rays = Cameras(view[[k]], K[[k]], (16, 20)).rays()
        true = (2 - origins[0] @ normal) / (rays[0] @ normal)
        seen = info["median_ids"][k, ..., 0] >= 0
        assert int(seen.sum()) > 40
        assert torch.allclose(info["plane_depth"][k, ..., 0][seen], true[seen], rtol=1e-10)
    # Means at one depth are not spread; two sheets are, by w_1 w_2 (z_1 - z_2)^2.
    one = torch.tensor([1.0, 0, 0, 0], dtype=F64).expand(2, 4)
    sheets = torch.tensor([[0.0, 0, 2], [0, 0, 3]], dtype=F64)
    flat = torch.tensor([9.0, 9, 1e-3], dtype=F64).expand(2, 3)
    for middles, apart in ((sheets, 1.0), (sheets * torch.tensor([1.0, 1, 0]) + 2, 0.0)):
        seen = rasterization(
            middles, one, flat, opacities[:2], colors[:2], view[:1], K[:1], 20, 16, surface=True
        )[2]["distortion"]
        assert float((seen[0, 8, 10] - 0.6 * 0.24 * apart).abs()) < 5e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: torch.ones(12, 3, dtype=F64)}, "quats have the shape"),
        ({4: torch.ones(12, 8, 3, dtype=F64)}, "spherical harmonics of degree 2"),
        ({3: torch.ones(12)}, "bring them together"),
        ({6: torch.ones(2, 3, 3, dtype=F64)}, "skew"),
    ],
)
def test_what_does_not_fit_is_said(change: dict[int, Tensor], message: str) -> None:
    given = scene()
    for place, value in change.items():
        given[place] = value
    with pytest.raises(InputError, match=message):
        rasterization(*given, sh_degree=2)
