"""The 3D projectors against a matrix written out from the definition, its transpose, and a ball."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.joseph import backproject, project
from invtoolbox.kernels.tomography.rays import Rays, Views, table_of
from invtoolbox.kernels.tomography.volume import (
    _launch,
    backproject_volume,
    project_volume,
    scatter_fixed,
    scatter_owned,
)

DOT = {torch.float32: 1e-5, torch.float64: 1e-12}
KINDS = ("flat", "curved", "parallel")


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 0.3


def random_views(
    shape: tuple[int, int, int],
    panel: tuple[int, int],
    count: int,
    kind: str,
    seed: int,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    aligned: bool = False,
    fine: float = 1.0,
) -> Views:
    """Return poses from any direction, off the centre.

    ``aligned``: poses around the z axis with rows stacked along z, as on a circle or helix.
    """
    g = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=g, dtype=torch.float64)

    size = max(n * h for n, h in zip(shape, voxel_size))
    angle = 7 * rand(count)
    height = (rand(count) - 0.5) * (0.6 if aligned else 4)
    out = torch.nn.functional.normalize(torch.stack([angle.sin(), -angle.cos(), height], 1), dim=1)
    zero = torch.zeros(count, dtype=torch.float64)
    across = torch.stack([angle.cos(), angle.sin(), zero], 1)
    up = torch.stack([zero, zero, zero + 1], 1) if aligned else torch.linalg.cross(out, across)
    if not aligned:
        roll = rand(count)[:, None]
        across, up = roll.cos() * across + roll.sin() * up, roll.cos() * up - roll.sin() * across
    centre = 0.2 * size * (rand(count, 3) - 0.5)
    pitch = fine * 2.2 * size / max(panel)
    source = out if kind == "parallel" else centre + 2 * size * out
    sign = torch.where(rand(count) < 0.5, -1.0, 1.0)[:, None]
    return Views(
        source,
        centre - size * out,
        across * pitch,
        sign * up * pitch * 0.9,
        panel,
        shape,
        voxel_size,
        parallel=kind == "parallel",
        curved=kind == "curved",
    )


def matrix(views: Views) -> Tensor:
    """Return the matrix of Joseph's method in 3D, sample by sample, (V * R * C, D * H * W)."""
    shape, size = views.volume[::-1], torch.tensor(views.voxel_size[::-1], dtype=torch.float64)
    rows, columns = views.panel
    out = torch.zeros(views.count, rows, columns, *views.volume, dtype=torch.float64)
    for n in range(views.count):
        source, detector, u, v = (
            t[n].double() for t in (views.source, views.detector, views.u, views.v)
        )
        for r in range(rows):
            for c in range(columns):
                cp, rp = c - (columns - 1) / 2, r - (rows - 1) / 2
                cell = detector + cp * u + rp * v
                if views.curved:
                    e = detector - source
                    turn = cp * u.norm() / e.norm()
                    cell = source + turn.cos() * e + turn.sin() * e.norm() * u / u.norm() + rp * v
                point, direction = (cell, source) if views.parallel else (source, cell - source)
                p, d = point / size, direction / size
                m = int(d.abs().argmax())
                a, b = (k for k in range(3) if k != m)
                length = direction.norm() / d[m].abs()
                for t in range(shape[m]):
                    at = p + (t - (shape[m] - 1) / 2 - p[m]) / d[m] * d
                    x = [float(at[k]) + (shape[k] - 1) / 2 for k in range(3)]
                    for i in (math.floor(x[a]), math.floor(x[a]) + 1):
                        for j in (math.floor(x[b]), math.floor(x[b]) + 1):
                            if 0 <= i < shape[a] and 0 <= j < shape[b]:
                                index = [0, 0, 0]
                                index[m], index[a], index[b] = t, i, j
                                out[n, r, c, index[2], index[1], index[0]] += (
                                    length * (1 - abs(x[a] - i)) * (1 - abs(x[b] - j))
                                )
    return out.reshape(views.count * rows * columns, -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("fine", [1.0, 0.3, 3.0])
def test_is_the_matrix_of_josephs_method(kind: str, aligned: bool, fine: float) -> None:
    """Compare with the matrix for cells as far apart as voxels, closer and farther (``fine``).

    The kernels treat these cases differently.
    """
    shape, panel = (4, 6, 5), (20, 5)
    views = random_views(
        shape, panel, 3, kind, seed=1, voxel_size=(0.9, 0.7, 1.3), aligned=aligned, fine=fine
    )
    if aligned:
        views = dataclasses.replace(views, v=views.v * 0.5)
    A = matrix(views)
    assert int(A.sum(1).gt(0).sum()) >= 20
    x, y = uniform(2, *shape), uniform(2, 3, *panel, seed=1)
    torch.testing.assert_close(
        project_volume(x, views).flatten(1), x.flatten(1) @ A.T, rtol=1e-11, atol=1e-11
    )
    torch.testing.assert_close(
        backproject_volume(y, views).flatten(1), y.flatten(1) @ A, rtol=1e-11, atol=1e-11
    )
    single, again = project_volume(x.float(), views), backproject_volume(y.float(), views)
    torch.testing.assert_close(single.flatten(1).double(), x.flatten(1) @ A.T, rtol=0, atol=2e-5)
    torch.testing.assert_close(again.flatten(1).double(), y.flatten(1) @ A, rtol=0, atol=2e-5)


@given(
    depth=st.integers(1, 30),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    count=st.integers(1, 4),
    kind=st.sampled_from(KINDS),
    aligned=st.booleans(),
    fine=st.floats(0.2, 4.0),
    double=st.booleans(),
    voxel=st.tuples(*[st.floats(0.3, 3.0)] * 3),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_adjoint_is_exact(
    depth: int,
    height: int,
    width: int,
    rows: int,
    columns: int,
    count: int,
    kind: str,
    aligned: bool,
    fine: float,
    double: bool,
    voxel: tuple[float, float, float],
    seed: int,
) -> None:
    dtype = torch.float64 if double else torch.float32
    views = random_views(
        (depth, height, width), (rows, columns), count, kind, seed, voxel, aligned, fine
    )
    x = uniform(2, depth, height, width, seed=seed, dtype=dtype)
    y = uniform(2, count, rows, columns, seed=1, dtype=dtype)
    Ax, Aty = project_volume(x, views).double(), backproject_volume(y, views).double()
    gap = (Ax * y).sum((1, 2, 3)) - (x * Aty).sum((1, 2, 3))
    # A ray that barely touches the volume has a small A x or a small A' y by cancellation.
    scale = torch.maximum(
        Ax.flatten(1).norm(dim=1) * y.double().flatten(1).norm(dim=1),
        x.double().flatten(1).norm(dim=1) * Aty.flatten(1).norm(dim=1),
    )
    assert bool((gap.abs() <= DOT[dtype] * scale + 1e-30).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_cells_far_apart_see_few_voxels(kind: str, aligned: bool, dtype: torch.dtype) -> None:
    """Draw tiny scans with beams so wide that rays of a column run to both sides of the source."""
    draw = random.Random(f"{kind} {aligned}")
    for _ in range(40):
        shape = tuple(draw.randint(1, 3) for _ in range(3))
        panel, count = (draw.randint(1, 3), draw.randint(1, 3)), draw.randint(1, 4)
        voxel = tuple(draw.uniform(0.3, 3.0) for _ in range(3))
        views = random_views(
            shape, panel, count, kind, draw.randrange(10**6), voxel, aligned, draw.uniform(1, 4)
        )
        voxels, cells = math.prod(shape), math.prod(panel) * count
        forward = project_volume(torch.eye(voxels, dtype=dtype).view(voxels, *shape), views)
        back = backproject_volume(torch.eye(cells, dtype=dtype).view(cells, count, *panel), views)
        A, bound = matrix(views), {torch.float32: 2e-5, torch.float64: 1e-9}[dtype]
        assert float((forward.flatten(1).T - A).abs().max()) < bound
        assert float((back.flatten(1) - A).abs().max()) < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("aligned", [False, True])
def test_bitwise_the_same_alone_in_company_again_and_on_any_number_of_threads(
    dtype: torch.dtype, aligned: bool
) -> None:
    views = random_views((40, 30, 41), (50, 60), 5, "flat", seed=3, aligned=aligned)
    x, y = uniform(3, 40, 30, 41, dtype=dtype), uniform(3, 5, 50, 60, dtype=dtype)
    forward, adjoint = project_volume(x, views), backproject_volume(y, views)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for k in range(3):
                assert torch.equal(project_volume(x[k : k + 1], views), forward[k : k + 1])
                assert torch.equal(backproject_volume(y[k : k + 1], views), adjoint[k : k + 1])
    finally:
        torch.set_num_threads(before)
    x[1] = float("nan")
    assert torch.isfinite(project_volume(x, views)[[0, 2]]).all()


def ball_error(size: int, views: Views, centre: Tensor, radius: float) -> float:
    """Return the relative error of projections of a ball against its exact line integrals.

    The ball is rasterised with 3^3 points per voxel.
    """
    fine = ((torch.arange(3 * size, dtype=torch.float64) + 0.5) / (3 * size) - 0.5) * 2
    z, y, x = (
        fine[:, None, None] - centre[2],
        fine[None, :, None] - centre[1],
        fine[None, None] - centre[0],
    )
    inside = (x * x + y * y + z * z < radius * radius).to(torch.float32)
    volume = torch.nn.functional.avg_pool3d(inside[None, None], 3)[:, 0]
    h = 2.0 / size
    views = dataclasses.replace(views, volume=(size, size, size), voxel_size=(h, h, h))
    rows, columns = views.panel
    cp = torch.arange(columns, dtype=torch.float64)[:, None] - (columns - 1) / 2
    rp = torch.arange(rows, dtype=torch.float64)[:, None, None] - (rows - 1) / 2
    source, detector, u, v = (
        t[:, None, None] for t in (views.source, views.detector, views.u, views.v)
    )
    cell = detector + cp * u + rp * v
    if views.curved:
        e, spacing = detector - source, u.norm(dim=-1, keepdim=True)
        turn = cp * spacing / e.norm(dim=-1, keepdim=True)
        cell = (
            source
            + turn.cos() * e
            + turn.sin() * e.norm(dim=-1, keepdim=True) * u / spacing
            + rp * v
        )
    point, direction = (cell, source) if views.parallel else (source, cell - source)
    off = torch.linalg.cross((point - centre).expand_as(cell), direction.expand_as(cell)).norm(
        dim=-1
    ) / direction.norm(dim=-1)
    exact = 2 * (radius**2 - off**2).clamp(min=0).sqrt()
    return float((project_volume(volume, views)[0] - exact).norm() / exact.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aligned", [False, True])
def test_a_ball_off_the_centre_is_where_the_convention_says(kind: str, aligned: bool) -> None:
    views = random_views((2, 2, 2), (31, 40), 5, kind, seed=5, aligned=aligned)
    centre = torch.tensor([0.35, -0.25, 0.2], dtype=torch.float64)
    errors = [ball_error(size, views, centre, 0.4) for size in (16, 33, 64)]
    assert errors[0] > 1.6 * errors[1] > 2.5 * errors[2] and errors[2] < 0.036


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aligned", [False, True])
def test_derivatives_in_everything(kind: str, aligned: bool) -> None:
    shape, panel = (5, 4, 6), (4, 5)
    views = random_views(shape, panel, 2, kind, seed=6, voxel_size=(0.8, 1.1, 0.9), aligned=aligned)
    geometry = [
        t.clone().requires_grad_() for t in (views.source, views.detector, views.u, views.v)
    ]
    x, y = uniform(2, *shape).requires_grad_(), uniform(2, 2, *panel, seed=1).requires_grad_()

    def posed(function: Callable[[Tensor, Views], Tensor]) -> Callable[..., Tensor]:
        return lambda value, s, d, u, v: function(
            value, dataclasses.replace(views, source=s, detector=d, u=u, v=v)
        )

    for function, value in ((project_volume, x), (backproject_volume, y)):
        call = posed(function)
        assert torch.autograd.gradcheck(
            call, (value, *geometry), eps=1e-7, atol=1e-6, rtol=1e-5, fast_mode=True
        )
        # Forward mode against reverse mode, and the gradient in the geometry differentiated in the
        # value.
        inputs = (value.detach(), *(t.detach() for t in geometry))
        tangents = tuple(uniform(*t.shape, seed=k) for k, t in enumerate(inputs))
        output, derivative = torch.func.jvp(call, inputs, tangents)
        dual = uniform(*output.shape, seed=8).requires_grad_()
        leaves = [t.clone().requires_grad_() for t in inputs]
        grads = torch.autograd.grad(call(*leaves), leaves, dual, create_graph=True)
        torch.testing.assert_close(
            (derivative * dual).sum(), sum((g * t).sum() for g, t in zip(grads, tangents))
        )
        slope = sum((g * t).sum() for g, t in zip(grads[1:], tangents[1:]))
        by_value, by_dual = torch.autograd.grad(slope, (leaves[0], dual), retain_graph=True)
        torch.testing.assert_close((by_value * leaves[0]).sum(), slope)
        torch.testing.assert_close((by_dual * dual).sum(), slope)
        with pytest.raises(InputError, match="no second derivative in the geometry"):
            torch.autograd.grad(slope, leaves[1])


def test_one_slice_in_parallel_beam_is_the_2d_projector() -> None:
    """The 2D kernels' y points against the rows, the 3D ones' along them."""
    angles = torch.arange(9, dtype=torch.float64) * 0.37
    s = torch.arange(25, dtype=torch.float64) - 12
    zero = torch.zeros_like(angles)
    rays = Rays.through(
        (s * angles.cos()[:, None], s * angles.sin()[:, None]),
        (angles.sin()[:, None], -angles.cos()[:, None]),
        (16, 14),
        (0.9, 1.1),
    )
    views = Views(
        torch.stack([angles.sin(), angles.cos(), zero], 1),
        torch.zeros(9, 3),
        torch.stack([angles.cos(), -angles.sin(), zero], 1),
        torch.tensor([0.0, 0.0, 1.0]).expand(9, 3),
        (1, 25),
        (1, 16, 14),
        (1.0, 0.9, 1.1),
        True,
        False,
    )
    x, y = uniform(2, 16, 14), uniform(2, 9, 25)
    torch.testing.assert_close(
        project_volume(x[:, None], views)[:, :, 0], project(x, rays), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        backproject_volume(y[:, :, None], views)[:, 0], backproject(y, rays), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernels_of_cuda_are_the_same_pair(kind: str, dtype: torch.dtype) -> None:
    """Run the kernels of a GPU (ray by ray, atomic scatter, whole numbers) on one thread."""
    shape, panel = (9, 12, 10), (11, 13)
    views = random_views(shape, panel, 4, kind, seed=7, voxel_size=(0.9, 0.7, 1.3))
    x, y = uniform(2, *shape, dtype=dtype), uniform(2, 4, *panel, dtype=dtype)
    table = table_of(views, x.device)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-11
    direct = torch.empty_like(y)
    _launch("project", direct.numel(), x, direct, table, views)
    torch.testing.assert_close(direct, project_volume(x, views), rtol=0, atol=tolerance)
    expected = backproject_volume(y, views)
    volumes = [torch.zeros_like(x) for _ in range(3)]
    _launch("scatter", y.numel(), volumes[0], y, table, views)
    scatter_fixed(y, table, views, volumes[1])
    scatter_owned(y, table, None, views, volumes[2])
    for volume in volumes:
        torch.testing.assert_close(volume, expected, rtol=0, atol=tolerance)


def test_steep_rays_are_counted_once() -> None:
    """Project with a cone so wide that rays of one panel have all three main axes.

    No ray is missed or counted twice, also on the diagonals.
    """
    size = 17
    s = torch.tensor([[0.0, -20.0, 0.0], [-20.0, -20.0, 0.0]], dtype=torch.float64)
    out = -s / s.norm(dim=1, keepdim=True)
    u = torch.stack([-out[:, 1], out[:, 0], torch.zeros(2)], 1)
    views = Views(
        s,
        10 * out,
        4 * u,
        torch.tensor([[0.0, 0.0, 4.0]]).expand(2, 3),
        (41, 41),
        (size, size, size),
        (1.0, 1.0, 1.0),
        False,
        False,
    )
    x = torch.ones(1, size, size, size, dtype=torch.float64)
    turned = dataclasses.replace(
        views, v=views.v + torch.tensor([1e-12, 0.0, 0.0])
    )  # the other kernel
    torch.testing.assert_close(
        project_volume(x, views), project_volume(x, turned), rtol=0, atol=1e-9
    )
    y = uniform(1, 2, 41, 41)
    torch.testing.assert_close(
        backproject_volume(y, views), backproject_volume(y, turned), rtol=0, atol=1e-9
    )


def test_rows_along_z_but_for_rounding_are_rows_along_z() -> None:
    views = random_views((6, 7, 8), (9, 10), 3, "flat", seed=9, aligned=True)
    off = dataclasses.replace(
        views, v=(views.v + torch.tensor([1e-17, -2e-17, 0.0])).requires_grad_()
    )
    x = uniform(1, 6, 7, 8)
    assert torch.equal(project_volume(x, off), project_volume(x, views))
    (sideways,) = torch.autograd.grad(project_volume(x, off).sum(), off.v)
    assert bool((sideways[:, :2].abs() > 1e-3).all())


def test_complex_volumes_are_projected_part_by_part() -> None:
    views = random_views((4, 5, 6), (3, 4), 2, "flat", seed=8)
    x = torch.complex(uniform(1, 4, 5, 6), uniform(1, 4, 5, 6, seed=1))
    torch.testing.assert_close(
        project_volume(x, views).imag, project_volume(x.imag.contiguous(), views)
    )
    y = torch.complex(uniform(1, 2, 3, 4), uniform(1, 2, 3, 4, seed=1))
    torch.testing.assert_close(
        backproject_volume(y, views).real, backproject_volume(y.real.contiguous(), views)
    )


def test_empty_batches_and_no_views() -> None:
    views = random_views((4, 5, 6), (3, 4), 2, "flat", seed=8)
    assert project_volume(torch.zeros(0, 4, 5, 6), views).shape == (0, 2, 3, 4)
    assert backproject_volume(torch.zeros(0, 2, 3, 4), views).shape == (0, 4, 5, 6)
    none = dataclasses.replace(
        views, **{k: getattr(views, k)[:0] for k in ("source", "detector", "u", "v")}
    )
    assert project_volume(torch.zeros(1, 4, 5, 6), none).shape == (1, 0, 3, 4)
    assert torch.equal(backproject_volume(torch.zeros(1, 0, 3, 4), none), torch.zeros(1, 4, 5, 6))


def test_bad_input_is_named() -> None:
    views = random_views((4, 5, 6), (3, 4), 2, "flat", seed=8)
    with pytest.raises(InputError, match=r"\(batch, 4, 5, 6\).*got \(1, 4, 6, 5\)"):
        project_volume(torch.zeros(1, 4, 6, 5), views)
    with pytest.raises(InputError, match="curved panel"):
        dataclasses.replace(views, parallel=True, curved=True)
    with pytest.raises(InputError, match="float16"):
        backproject_volume(torch.zeros(1, 2, 3, 4, dtype=torch.float16), views)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height", [30.0, -400.0, 2e4, math.nan, math.inf])
def test_a_panel_beside_the_volume_sees_nothing(kind: str, height: float) -> None:
    """Move source and panel along z, so that columns pass beside their lines of voxels.

    The line has no whole number of vectors; heights that are no numbers must not crash.
    """
    views = random_views((21, 9, 10), (20, 7), 3, kind, seed=4, aligned=True)
    lift = torch.tensor([0.0, 0.0, height], dtype=torch.float64)
    source = views.source if kind == "parallel" else views.source + lift
    views = dataclasses.replace(views, source=source, detector=views.detector + lift)
    x, y = uniform(1, 21, 9, 10), uniform(1, 3, 20, 7)
    projections, volume = project_volume(x, views), backproject_volume(y, views)
    if not math.isfinite(height):
        return
    table = table_of(views, x.device)
    expected, spread = torch.empty_like(projections), torch.zeros_like(volume)
    _launch("project", expected.numel(), x, expected, table, views)
    scatter_owned(y, table, None, views, spread)
    torch.testing.assert_close(projections, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(volume, spread, rtol=1e-11, atol=1e-11)
    if abs(height) > 100:
        assert not projections.any() and not volume.any()
