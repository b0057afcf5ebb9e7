"""The 2D projectors against a matrix written out by hand: transpose, derivatives, purity."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.native import launch, run_on_threads
from invtoolbox.kernels.tomography.joseph import (
    JosephArguments,
    _lines,
    backproject,
    joseph_kernel,
    project,
)
from invtoolbox.kernels.tomography.rays import Rays

DOT = {torch.float32: 1e-5, torch.float64: 1e-12}


def random_rays(
    shape: tuple[int, int],
    views: int,
    detectors: int,
    seed: int,
    pixel_size: tuple[float, float] = (1.0, 1.0),
) -> Rays:
    """Lines in any direction, some of which miss the image."""
    g = torch.Generator().manual_seed(seed)
    reach = max(shape[0] * pixel_size[0], shape[1] * pixel_size[1])
    point = (torch.rand(2, views, detectors, generator=g, dtype=torch.float64) - 0.5) * 1.4 * reach
    angle = torch.rand(views, detectors, generator=g, dtype=torch.float64) * 7
    return Rays.through((point[0], point[1]), (3 * angle.cos(), 3 * angle.sin()), shape, pixel_size)


def matrix(rays: Rays) -> Tensor:
    """Joseph's method written down sample by sample, (V * D, H * W)."""
    height, width = rays.shape
    out = np.zeros((rays.offset.numel(), height, width))
    tables = (rays.offset, rays.slope, rays.step, rays.vertical)
    for r, (a, b, step, vertical) in enumerate(zip(*(t.flatten().tolist() for t in tables))):
        lines, across = (height, width) if vertical else (width, height)
        for j in range(lines):
            x = a + b * (j - (lines - 1) / 2) + (across - 1) / 2
            i = int(np.floor(x))
            for pixel, weight in ((i, 1 - (x - i)), (i + 1, x - i)):
                if 0 <= pixel < across:
                    out[(r, j, pixel) if vertical else (r, pixel, j)] += step * weight
    return torch.from_numpy(out.reshape(rays.offset.numel(), -1))


def parallel_rays(shape: tuple[int, int], detectors: int, spacing: float) -> Rays:
    """Evenly spaced parallel rays, along the axes, the diagonal and in other directions."""
    angle = torch.tensor([0.0, 45, 90, 135, 180, 17, -50, 77.5], dtype=torch.float64).deg2rad()
    cells = (torch.arange(detectors, dtype=torch.float64) - (detectors - 1) / 2) * spacing + 0.1
    cosine, sine = angle.cos()[:, None], angle.sin()[:, None]
    return Rays.through((cells * cosine, cells * sine), (-sine, cosine), shape, (1.0, 1.0))


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 0.3


@pytest.mark.parametrize("batch", [1, 2, 11])
@pytest.mark.parametrize("shape", [(9, 12), (1, 7), (6, 1)])
def test_is_the_matrix_of_josephs_method(shape: tuple[int, int], batch: int) -> None:
    rays = random_rays(shape, 5, 13, seed=1, pixel_size=(0.7, 1.3))
    A = matrix(rays)
    x, y = uniform(batch, *shape), uniform(batch, 5, 13, seed=1)
    torch.testing.assert_close(
        project(x, rays).flatten(1), x.flatten(1) @ A.T, rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        backproject(y, rays).flatten(1), y.flatten(1) @ A, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("spacing", [0.3, 0.55, 0.6, 0.8, 1.0, 1.0001, -1.3, 2.5, -40.0])
@pytest.mark.parametrize("detectors", [1, 2, 70, 1030])
def test_parallel_rays_are_the_matrix_too(detectors: int, spacing: float) -> None:
    """Evenly spaced rays are collected by the pixels, in vectors of cells."""
    shape = (37, 50)
    rays = parallel_rays(shape, detectors, spacing)
    A = matrix(rays)
    x, y = uniform(3, *shape), uniform(3, 8, detectors, seed=1)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        images, sinograms = x.to(dtype), y.to(dtype)
        forward, adjoint = project(images, rays), backproject(sinograms, rays)
        bound = {"rtol": 0.0, "atol": tolerance}
        Ax, Aty = x.flatten(1) @ A.T, y.flatten(1) @ A
        torch.testing.assert_close(forward.double().flatten(1) / 50, Ax / 50, **bound)
        scale = A.sum(0).max()
        torch.testing.assert_close(adjoint.double().flatten(1) / scale, Aty / scale, **bound)
        gap = (forward.double() * y).sum() - (x * adjoint.double()).sum()
        assert abs(gap) <= DOT[dtype] * Ax.norm() * y.norm()
        assert torch.equal(project(images[1:2], rays)[0], forward[1])
        assert torch.equal(backproject(sinograms[1:2], rays)[0], adjoint[1])


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    views=st.integers(1, 7),
    detectors=st.integers(1, 50),
    batch=st.integers(1, 20),
    seed=st.integers(0, 10**6),
    double=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_adjoint_is_exact(
    height: int, width: int, views: int, detectors: int, batch: int, seed: int, double: bool
) -> None:
    dtype = torch.float64 if double else torch.float32
    rays = random_rays((height, width), views, detectors, seed)
    x = uniform(batch, height, width, seed=seed, dtype=dtype)
    y = uniform(batch, views, detectors, seed=1, dtype=dtype)
    Ax, Aty = project(x, rays).double(), backproject(y, rays).double()
    gap = (Ax * y).sum((1, 2)) - (x * Aty).sum((1, 2))
    scale = Ax.flatten(1).norm(dim=1) * y.double().flatten(1).norm(dim=1)
    assert bool((gap.abs() <= DOT[dtype] * scale + 1e-30).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_item_has_the_same_answer_alone_and_in_company(dtype: torch.dtype) -> None:
    rays = random_rays((30, 41), 6, 50, seed=3)
    x, y = uniform(21, 30, 41, dtype=dtype), uniform(21, 6, 50, dtype=dtype)
    for k in (0, 7, 20):
        assert torch.equal(project(x, rays)[k : k + 1], project(x[k : k + 1], rays))
        assert torch.equal(backproject(y, rays)[k : k + 1], backproject(y[k : k + 1], rays))
    x[3] = float("nan")
    assert torch.isfinite(project(x, rays)[[2, 4]]).all()


@pytest.mark.parametrize("batch", [1, 5])
def test_bitwise_the_same_on_any_number_of_threads(batch: int) -> None:
    rays = random_rays((150, 170), 40, 160, seed=4)
    x, y = (
        uniform(batch, 150, 170, dtype=torch.float32),
        uniform(batch, 40, 160, dtype=torch.float32),
    )
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append((project(x, rays), backproject(y, rays)))
    finally:
        torch.set_num_threads(before)
    for forward, adjoint in results[1:]:
        assert torch.equal(forward, results[0][0]) and torch.equal(adjoint, results[0][1])


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scatter_kernel_of_cuda_is_the_same_transpose(dtype: torch.dtype, mode: int) -> None:
    """Run the atomic scatter of a GPU on one thread: the same sums in another order."""
    rays = random_rays((21, 34), 6, 40, seed=5).to(torch.device("cpu"), dtype)
    y = uniform(2, 6, 40, dtype=dtype)
    coefficients = torch.cat([rays.step[None], uniform(2, 6, 40, seed=9, dtype=dtype)])[
        : 1 + 2 * mode
    ].contiguous()
    images = []
    for name in ("backproject", "scatter"):
        zeros = torch.zeros(2, 21, 34, dtype=dtype)
        rows, columns = (torch.zeros_like(t) for t in _lines(zeros, 1))
        kernel = joseph_kernel(name, dtype, 1, mode, LINES=1)
        tasks = 2 * (rays.offset.numel() if name == "scatter" else 21 + 34)
        tables = (rays.offset, rays.slope, coefficients, rays.order)
        sizes = (rays.number_vertical, rays.offset.numel(), 40, 21, 34, 2)
        launch(kernel, tasks, JosephArguments(rows, columns, y, *tables, *sizes), 0.0)
        images.append(rows[:, :, 2:-2, 0] + columns[:, :, 2:-2, 0].transpose(1, 2))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=tolerance)
    if mode == 0:
        torch.testing.assert_close(images[0], backproject(y, rays), rtol=0, atol=tolerance)


def test_derivatives_in_images_and_rays_to_second_order() -> None:
    rays = random_rays((5, 6), 2, 5, seed=6)

    def scan(offset: Tensor, slope: Tensor, step: Tensor) -> Rays:
        return Rays(offset, slope, step, rays.vertical, rays.shape)

    geometry = [t.clone().requires_grad_() for t in (rays.offset, rays.slope, rays.step)]
    x, y = uniform(2, 5, 6).requires_grad_(), uniform(2, 2, 5).requires_grad_()
    for function, value in (
        (lambda v, *g: project(v, scan(*g)), x),
        (lambda v, *g: backproject(v, scan(*g)), y),
    ):
        assert torch.autograd.gradcheck(function, (value, *geometry), eps=1e-7, atol=1e-5)
        assert torch.autograd.gradgradcheck(
            function, (value, *geometry), eps=1e-7, atol=1e-5, fast_mode=True
        )


def test_forward_mode_agrees_with_reverse_mode() -> None:
    rays = random_rays((8, 6), 3, 7, seed=7)

    def forward(x: Tensor, offset: Tensor, slope: Tensor, step: Tensor) -> Tensor:
        return project(x, Rays(offset, slope, step, rays.vertical, rays.shape))

    def adjoint(y: Tensor, offset: Tensor, slope: Tensor, step: Tensor) -> Tensor:
        return backproject(y, Rays(offset, slope, step, rays.vertical, rays.shape))

    for function, value in ((forward, uniform(2, 8, 6)), (adjoint, uniform(2, 3, 7))):
        inputs = (value, rays.offset, rays.slope, rays.step)
        tangents = tuple(uniform(*t.shape, seed=k) for k, t in enumerate(inputs))
        output, derivative = torch.func.jvp(function, inputs, tangents)
        dual = uniform(*output.shape, seed=8)
        grads = torch.func.vjp(function, *inputs)[1](dual)
        expected = sum((g * t).sum() for g, t in zip(grads, tangents))
        torch.testing.assert_close((derivative * dual).sum(), expected)


def test_complex_images_are_projected_part_by_part() -> None:
    rays = random_rays((6, 6), 2, 5, seed=8)
    x = torch.complex(uniform(1, 6, 6), uniform(1, 6, 6, seed=1))
    torch.testing.assert_close(project(x, rays).imag, project(x.imag.contiguous(), rays))
    y = torch.complex(uniform(1, 2, 5), uniform(1, 2, 5, seed=1))
    torch.testing.assert_close(backproject(y, rays).real, backproject(y.real.contiguous(), rays))


def test_an_empty_batch_gives_an_empty_batch() -> None:
    rays = random_rays((6, 5), 2, 4, seed=8)
    assert project(torch.zeros(0, 6, 5), rays).shape == (0, 2, 4)
    assert backproject(torch.zeros(0, 2, 4), rays).shape == (0, 6, 5)


def test_bad_input_is_named() -> None:
    rays = random_rays((6, 5), 2, 4, seed=8)
    with pytest.raises(InputError, match=r"\(batch, 6, 5\).*got \(1, 5, 6\)"):
        project(torch.zeros(1, 5, 6), rays)
    with pytest.raises(InputError, match="float16"):
        backproject(torch.zeros(1, 2, 4, dtype=torch.float16), rays)


def test_an_error_in_a_part_reaches_the_caller() -> None:
    def part(first: int, last: int) -> None:
        if first == 2:
            raise KeyError(first)

    with pytest.raises(KeyError):
        run_on_threads(2, iter([(k, k + 1) for k in range(5)]), part)


def test_warp_starts_silently_and_only_when_needed() -> None:
    code = (
        "import sys, torch\nfrom invtoolbox.kernels.tomography.joseph import project\nfrom "
        "invtoolbox.kernels.tomography.rays import Rays\nassert 'warp' not in sys.modules\none = "
        "torch.ones(1, 1, dtype=torch.float64)\nproject(torch.ones(1, 4, 4), Rays.through((one, "
        "one), (one, 2 * one), (4, 4), (1.0, 1.0)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "" and run.stderr == ""
