"""Kernels of the wrong width: found in the spectrum, scaled by `reconstruct`, and left alone if right."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.jobs.images.decisions import kernel_width as width_step
from invtoolbox.jobs.images.decisions.kernel_width import KernelWidth
from invtoolbox.jobs.images.kernels import disc_kernel, gaussian_kernel, motion_kernel
from invtoolbox.measurements.kernel_width import (
    Width,
    fit_width,
    propose_width,
    scale_kernel,
    with_width,
)
from tests.jobs.images.decisions.helpers import mended


@pytest.fixture(scope="module")
def scene() -> Tensor:
    return it.datasets.photograph("camera")[..., 100:228, 100:228].contiguous()


def blurred(
    scene: Tensor, given: Tensor, true: Tensor, boundary: str, noise: float = 0.005
) -> it.Problem:
    """Return a problem with the given kernel, of measurements with the true one."""
    y = it.operators.Blur(true, scene.shape[-2:], boundary).simulate(scene, noise, seed=0)
    lost = [n - 1 if boundary == "valid" else 0 for n in given.shape]
    shape = [n + m for n, m in zip(y.shape[-2:], lost)]
    return it.Problem(y, it.operators.Blur(given, shape, boundary))


def test_a_scaled_gaussian_is_a_gaussian_of_another_width() -> None:
    """The transfer function of the scaled kernel is that of the kernel at scaled frequencies."""
    wide, narrow = gaussian_kernel(2.5, "k"), gaussian_kernel(2.0, "k")
    scaled = scale_kernel(wide, 0.8)
    margin = (len(wide) - len(narrow)) // 2
    torch.testing.assert_close(scaled[margin:-margin, margin:-margin], narrow, rtol=0, atol=2e-5)
    grown = scale_kernel(narrow, 1.25)
    assert grown.shape[0] > narrow.shape[0] and float(grown.sum()) == pytest.approx(1, abs=1e-6)
    middle = (len(grown) - len(wide)) // 2
    cut = grown[middle:-middle, middle:-middle] if middle else grown
    torch.testing.assert_close(cut, wide, rtol=0, atol=2e-4)


def test_the_point_of_a_kernel_with_an_even_number_of_entries_stays() -> None:
    """Entry ``n // 2`` is at the point, so a scaled kernel does not move the image."""
    kernel = torch.zeros(1, 6)
    kernel[0, 3] = 1.0  # a point
    for factor in (0.8, 1.25):
        scaled = scale_kernel(kernel, factor)
        assert int(scaled[0].argmax()) == scaled.shape[1] // 2


@pytest.mark.parametrize("boundary", ["reflect", "valid"])
@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
@pytest.mark.parametrize("kind", ["disc", "motion"])
def test_the_width_is_found(scene: Tensor, boundary: str, factor: float, kind: str) -> None:
    def kernel(factor: float) -> Tensor:
        if kind == "disc":
            return disc_kernel(3.0 * factor, "kernel")
        return motion_kernel((9.0 * factor, 30.0), "kernel")

    problem = blurred(scene, kernel(factor), kernel(1.0), boundary)
    width = fit_width(problem.y0[0, 0], kernel(factor))
    assert abs(math.log(width.factor * factor)) < 0.06
    assert (propose_width(problem) is None) is (factor == 1.0)


def test_what_is_not_known_is_left_alone(scene: Tensor) -> None:
    kernel, wide = disc_kernel(3.0, "kernel"), disc_kernel(3.6, "kernel")
    problem = blurred(scene, wide, kernel, "reflect")
    y, A = problem.y0, problem.operator
    assert propose_width(problem) is not None
    # A small picture shows too little, and weights may hide anything.
    assert propose_width(blurred(scene[..., :40, :40], wide, kernel, "reflect")) is None
    weights = it.data_terms.LeastSquares(weights=torch.ones_like(y))
    assert propose_width(it.Problem(y, A, weights)) is None
    constant = torch.full_like(y, 0.5)
    assert propose_width(it.Problem(constant, A)) is None


@pytest.mark.parametrize(
    ("boundary", "factor"),
    [pytest.param("reflect", 1.2, marks=pytest.mark.slow), ("valid", 1.25)],
)
def test_reconstruct_scales_the_kernel_and_says_so(
    scene: Tensor, boundary: str, factor: float
) -> None:
    kernel, given = disc_kernel(3.0, "kernel"), disc_kernel(3.0 * factor, "kernel")
    problem = blurred(scene, given, kernel, boundary)
    A = problem.operator
    assert isinstance(A, it.operators.Blur)

    def quality(repair: bool | None) -> tuple[float, it.Solution]:
        solution = it.reconstruct(problem.y0, A, "denoiser-natural", repair=repair, progress=False)
        assert solution.x.shape[1:] == A.domain_shape
        # The middle of the image lies at the middle of the scene, in all but rows of unknown values.
        middle = [
            x[..., x.shape[-2] // 2 - 40 :, x.shape[-1] // 2 - 40 :] for x in (solution.x, scene)
        ]
        pair = [x[..., :80, :80] for x in middle]
        return float(it.metrics.psnr(*pair, data_range=1.0)), solution

    with pytest.warns(it.MeasurementWarning, match="times as wide.*was scaled"):
        scaled, solution = quality(None)
    assert any("automatic='-kernel-width' keeps it" in note for note in solution.notes)
    kept, _ = quality(False)
    assert scaled > kept + 2


def test_a_picture_with_a_constant_middle_keeps_its_kernel() -> None:
    """Both images of the middle would be constant, so they show nothing."""
    scene = it.datasets.photograph("camera")[..., 60:420, 60:420]
    kernel, given = disc_kernel(3.0, "kernel"), disc_kernel(3.6, "kernel")
    problem = blurred(scene, given, kernel, "reflect")
    y = problem.y0.clone()
    y[..., 52:308, 52:308] = float(y.mean())
    masked = problem.with_measurements(y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(width_step, "propose_width", lambda _: Width(0.83, 100.0, 0.1))
        same, notes = mended(KernelWidth(), masked)
    assert same is masked and not notes


@pytest.mark.slow
def test_a_right_kernel_stays(scene: Tensor) -> None:
    kernel = disc_kernel(3.0, "kernel")
    problem = blurred(scene, kernel, kernel, "reflect")
    one = it.reconstruct(problem.y0, problem.operator, "denoiser-natural", progress=False)
    two = it.reconstruct(
        problem.y0, problem.operator, "denoiser-natural", repair=False, progress=False
    )
    assert torch.equal(one.x, two.x)


def test_a_wider_kernel_keeps_the_image_and_loses_measurements_at_the_border(scene: Tensor) -> None:
    kernel, given = disc_kernel(3.0, "kernel"), disc_kernel(2.5, "kernel")
    problem = blurred(scene, given, kernel, "valid")
    wider = with_width(problem, 1.2)
    assert wider.operator.domain_shape == problem.operator.domain_shape
    assert wider.y0.shape[1:] == wider.operator.range_shape
    lost = (problem.y0.shape[-1] - wider.y0.shape[-1]) // 2
    assert lost > 0 and torch.equal(wider.y0, problem.y0[..., lost:-lost, lost:-lost])
    assert torch.equal(with_width(problem, 1.0).y0, problem.y0)


def test_a_texture_with_the_spectrum_of_another_kernel_is_left_alone() -> None:
    brick = it.datasets.photograph("brick")[..., :300, :300].contiguous()
    kernel = disc_kernel(2.0, "kernel")
    problem = blurred(brick, kernel, kernel, "reflect", noise=0.02)
    assert propose_width(problem) is not None
    assert mended(KernelWidth(), problem) == (problem, ())
