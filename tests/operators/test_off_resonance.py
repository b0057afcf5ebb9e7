"""Off-resonance by segments against the exact sum, and the trajectories by name."""

from __future__ import annotations

import math

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import (
    NonUniformFourier,
    cones_trajectory,
    mri_trajectory,
    radial_trajectory,
    spiral_trajectory,
    stack_of_stars,
)
from invtoolbox.operators.mri.off_resonance import Segments
from invtoolbox.testing import check_operator


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed)
    )


def field(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return -41 + 169 * torch.rand(*shape, dtype=torch.float64, generator=draw)


def test_segments_are_the_exact_sum_for_every_pixel_and_time() -> None:
    k = spiral_trajectory(14, interleaves=2).double()
    f, t = field(14, 12), torch.linspace(0.001, 0.021, k.shape[1], dtype=torch.float64)
    k[..., 1] *= 12 / 14
    A = NonUniformFourier(k, (14, 12), width=12, field_map=f, times=t)
    x = noise(1, 1, 14, 12)
    rows, columns = (torch.arange(n, dtype=torch.float64) - n // 2 for n in (14, 12))
    phase = k[..., 0, None, None] * rows[:, None] / 14 + k[..., 1, None, None] * columns / 12
    phase = f * t[:, None, None] - phase
    exact = (torch.exp(2j * torch.pi * phase) * x[0, 0]).sum((-2, -1)) / math.sqrt(14 * 12)
    assert float((A(x)[0, 0] - exact).norm() / exact.norm()) < 1e-5
    assert A.segments is not None and A.segments.count <= 12
    # The sign matters: with the opposite map the prediction is another one.
    wrong = NonUniformFourier(k, (14, 12), width=12, field_map=-f, times=t)
    assert float((wrong(x)[0, 0] - exact).norm() / exact.norm()) > 0.1


def test_a_homogeneous_field_turns_the_phase_alone() -> None:
    k, t = radial_trajectory(8, spokes=3), torch.linspace(0, 0.01, 16)
    x = noise(1, 1, 8, 8)
    A = NonUniformFourier(k, (8, 8), field_map=torch.full((8, 8), 30.0), times=t)
    turned = torch.exp(2j * math.pi * 30 * t.double()) * NonUniformFourier(k, (8, 8))(x)
    torch.testing.assert_close(A(x), turned, rtol=0, atol=1e-5)


def test_a_field_map_an_item_keeps_the_contract() -> None:
    k, t = radial_trajectory(8, spokes=2, samples=10), torch.linspace(0, 0.01, 10)
    A = NonUniformFourier(k, (8, 7), noise(2, 8, 7), field_map=field(3, 8, 7), times=t)
    assert A.items == 3
    x = noise(3, 1, 8, 7, seed=1)
    assert check_operator(A, x).ok
    torch.testing.assert_close(A.select(torch.tensor([2]))(x[2:]), A(x)[2:], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("field_map", "times", "message"),
    [
        (torch.zeros(8, 8), None, "times is missing"),
        (None, torch.zeros(16), "field_map is missing"),
        (torch.zeros(8, 7), torch.zeros(16), "expected real frequencies in Hz"),
        (torch.zeros(8, 8), torch.zeros(5), "does not broadcast"),
        (torch.full((8, 8), torch.nan), torch.zeros(16), "must be real and finite"),
        (torch.linspace(0, 9e4, 64).view(8, 8), torch.linspace(0, 20, 16), "Hz and in seconds"),
    ],
)
def test_wrong_field_maps_get_one_sentence(
    field_map: torch.Tensor | None, times: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(it.InputError, match=message):
        NonUniformFourier(radial_trajectory(8, spokes=2), (8, 8), field_map=field_map, times=times)


def test_fewer_segments_for_a_larger_tolerance() -> None:
    f, t = field(1, 40), torch.linspace(0, 0.02, 30)
    exact = torch.exp(2j * math.pi * f[0, :, None] * t.double())
    counts, errors = [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        segments = Segments(f, t, tolerance)
        product = torch.einsum("lf,lt->ft", segments.in_space[0], segments.in_time)
        counts.append(segments.count)
        errors.append(float((product - exact).abs().max()))
    assert counts == sorted(set(counts)) and errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


@pytest.mark.parametrize(
    ("name", "shape", "readouts"),
    [
        ("radial", (12, 10), 5),
        ("spiral", (12, 10), 3),
        ("stack-of-stars", (1, 4, 8, 10), 5),
        ("cones", (1, 6, 8, 10), 20),
    ],
)
def test_trajectories_by_name_fit_the_image(
    name: str, shape: tuple[int, ...], readouts: int
) -> None:
    k = mri_trajectory(name, shape, readouts, samples=24)
    A = NonUniformFourier(k, shape, width=4)
    half = torch.tensor(A.domain_shape[1:]) / 2
    largest = k.abs().reshape(-1, len(half)).amax(0)
    assert k.shape[-2] == 24
    assert bool((largest <= half + 1e-4).all()) and bool((largest > 0.7 * half).all())
    density = A.density()
    assert bool(density.isfinite().all()) and bool((density > 0).all())


def test_spirals_have_constant_speed_and_full_turns() -> None:
    k = spiral_trajectory(64, interleaves=4)
    steps = (k[:, 1:] - k[:, :-1]).norm(dim=-1)[:, 40:]
    assert float(steps.max() / steps.min()) < 1.1
    assert 0.6 < float(steps.mean()) < 0.9  # 3/4 of a cycle
    angle = torch.atan2(k[:, -1, 0], k[:, -1, 1])
    apart = (angle[1:] - angle[:-1]) % (2 * math.pi)
    torch.testing.assert_close(apart, torch.full_like(apart, math.pi / 2), atol=1e-4, rtol=0)


def test_stars_are_stacked_and_cones_have_their_polar_angle() -> None:
    k = stack_of_stars((3, 8, 8), spokes=2)
    assert k[:, 0, 0, 0].tolist() == [-1, 0, 1]
    torch.testing.assert_close(k[1, ..., 1:], radial_trajectory(8, 2))
    cones = cones_trajectory((16, 16, 16), cones=7, samples=9)
    cosine = cones[:, 1:, 0] / cones[:, 1:].norm(dim=-1)
    torch.testing.assert_close(cosine, cosine[:, :1].expand_as(cosine))
    torch.testing.assert_close(cosine[:, 0], 1 - (2 * torch.arange(7) + 1) / 7)


def test_wrong_names_and_axes_get_one_sentence() -> None:
    with pytest.raises(it.InputError, match="spiral"):
        mri_trajectory("spirals of Archimedes", (8, 8), 3)
    with pytest.raises(it.InputError, match="has 3 axes"):
        mri_trajectory("cones", (8, 8), 3)
    with pytest.raises(it.InputError, match="interleaves"):
        spiral_trajectory(8, 0)
