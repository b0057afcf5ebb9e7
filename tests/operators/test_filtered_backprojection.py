"""Filtered back-projection: a disc comes back with its density, for every geometry, arc and filter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.pixel_backprojection import PixelViews, pixel_backproject
from invtoolbox.operators.tomography.fan_beam import FanBeam
from invtoolbox.operators.tomography.filtered_backprojection import (
    FILTERS,
    arc_weights,
    filter_projections,
    parker_weights,
)
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam
from invtoolbox.operators.tomography.scan_2d import Scan2D
from tests.operators.scan_helpers import (
    cells,
    chords,
    disc,
    fan_distance,
    parallel_distance,
    relative,
    turn,
)

CENTRE, RADIUS = (10.0, -14.0), 20.0
NEAR, FAR = 200.0, 300.0
FAN = 2 * math.atan(150 / FAR)


def interior(A: Scan2D, x: Tensor) -> Tensor:
    """The values at least three pixels inside the disc."""
    return x[disc(A, CENTRE, RADIUS - 3) > 0.999]


def exterior(A: Scan2D, x: Tensor) -> Tensor:
    return x[disc(A, CENTRE, RADIUS + 5) < 0.001]


def fan_sinogram(A: FanBeam, spacing: float, shift: float = 0.0) -> Tensor:
    s = cells(A.num_detectors, spacing, shift)
    gamma = s / FAR if A.curved else (s / FAR).atan()
    return chords(fan_distance(A.angles, gamma, NEAR, CENTRE), RADIUS)[None, None]


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize(
    "angles, shift",
    [
        (turn(200, 0.0, math.pi), 0.0),
        (torch.linspace(0, 2 * math.pi, 361), 4.3),
        (turn(200, 1.0, -math.pi), -2.0),
    ],
)
def test_parallel_disc_has_its_density(angles: Tensor, shift: float, filter: str) -> None:
    A = ParallelBeam((100, 111), angles, 180, detector_shift=shift)
    x = A.pseudo_inverse(
        chords(parallel_distance(A.angles, cells(180, 1.0, shift), CENTRE), RADIUS)[None, None],
        filter,
    )
    assert (interior(A, x) - 1).abs().max() < 0.01
    assert abs(float(exterior(A, x).mean())) < 2e-3


def test_pixels_need_not_be_square_and_units_cancel() -> None:
    A = ParallelBeam((200, 150), turn(200, 0.0, math.pi), 180, pixel_size=(0.5, 0.75))
    x = A.pseudo_inverse(
        chords(parallel_distance(A.angles, cells(180, 1.0, 0.0), CENTRE), RADIUS)[None, None],
        "hann",
    )
    assert (interior(A, x) - 1).abs().max() < 0.01
    metres = ParallelBeam(
        (200, 150),
        turn(200, 0.0, math.pi),
        180,
        pixel_size=(0.5e-3, 0.75e-3),
        detector_spacing=1e-3,
    )
    y = A(disc(A, CENTRE, RADIUS))
    assert relative(metres.pseudo_inverse(1e-3 * y), A.pseudo_inverse(y)) < 1e-9


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize(
    "angles",
    [
        turn(360, 0.2),
        torch.linspace(0, 2 * math.pi, 361),
        turn(360, 0.2, -2 * math.pi),
        turn(300, 1.0, math.pi + FAN + 0.15),
        turn(300, 1.0, -math.pi - FAN - 0.15),
        turn(400, 5.0, math.pi + FAN + 0.9),
    ],
    ids=["turn", "both ends", "backwards", "short scan", "short backwards", "overscan"],
)
def test_fan_disc_has_its_density(angles: Tensor, curved: bool) -> None:
    A = FanBeam((100, 111), angles, 300, NEAR, FAR, curved=curved)
    x = A.pseudo_inverse(fan_sinogram(A, 1.0))
    assert (interior(A, x) - 1).abs().max() < 0.01
    assert abs(float(exterior(A, x).mean())) < 2e-3


@pytest.mark.parametrize("curved", [False, True])
def test_fan_detector_shift(curved: bool) -> None:
    A = FanBeam((100, 111), turn(360), 320, NEAR, FAR, detector_shift=7.3, curved=curved)
    assert (interior(A, A.pseudo_inverse(fan_sinogram(A, 1.0, 7.3))) - 1).abs().max() < 0.01


def test_parker_weights_of_a_ray_and_its_twin_add_up_to_one() -> None:
    g = torch.Generator().manual_seed(0)
    for length in (math.pi + 0.5, math.pi + 0.9, 2 * math.pi - 0.3):
        beta = length * torch.rand(1000, 1, generator=g, dtype=torch.float64)
        gamma = 0.5 * torch.rand(1000, 1, generator=g, dtype=torch.float64) - 0.25
        twin = beta + math.pi - 2 * gamma
        both = (twin <= length)[:, 0]
        total = parker_weights(beta, gamma, length) + parker_weights(twin, -gamma, length)
        torch.testing.assert_close(total[both], torch.ones_like(total[both]), rtol=0, atol=1e-9)
        alone = (beta > length - math.pi + 2 * gamma) & (beta < math.pi + 2 * gamma)
        assert (parker_weights(beta, gamma, length)[alone] == 1).all()


def test_a_limited_arc_is_a_plain_weighted_sum() -> None:
    """Half the arc plus the other half is the whole arc, up to the trapezoidal rule's ends."""
    A = ParallelBeam((60, 60), turn(120, 0.0, math.pi), 90)
    y = A(disc(A, (3.0, 5.0), 15.0))
    halves = [A.subset(range(61)), A.subset([*range(60, 120), 0])]
    parts = [
        B.pseudo_inverse(y[:, :, list(i)])
        for B, i in zip(halves, (range(61), [*range(60, 120), 0]))
    ]
    assert relative(parts[0] + parts[1], A.pseudo_inverse(y)) < 1e-6
    fan = FanBeam((60, 60), turn(90, 0.0, math.pi / 2), 100, 100.0, 120.0)
    assert not arc_weights(fan.angles, 2 * math.pi).closed
    assert torch.isfinite(fan.pseudo_inverse(fan(disc(fan, (3.0, 5.0), 15.0)))).all()


def test_views_are_weighted_by_the_angle_that_they_stand_for() -> None:
    angles = torch.cat([turn(100, 0.0, math.pi / 2), turn(300, math.pi / 2, math.pi / 2)])
    arc = arc_weights(angles, math.pi)
    assert arc.closed and abs(float(arc.weights.sum()) - math.pi) < 1e-6
    A = ParallelBeam(
        (100, 111), angles[torch.randperm(400, generator=torch.Generator().manual_seed(0))], 180
    )
    x = A.pseudo_inverse(
        chords(parallel_distance(A.angles, cells(180, 1.0, 0.0), CENTRE), RADIUS)[None, None]
    )
    assert (interior(A, x) - 1).abs().max() < 0.01
    open_arc = arc_weights(torch.linspace(0.1, 1.1, 11, dtype=torch.float64), math.pi)
    assert (
        not open_arc.closed
        and abs(open_arc.length - 1) < 1e-9
        and abs(float(open_arc.weights.sum()) - 1) < 1e-9
    )
    assert float(
        arc_weights(torch.tensor([0.0, math.pi / 2]), math.pi).weights.sum()
    ) == pytest.approx(math.pi)


def test_the_filter_is_linear_shift_invariant_and_cuts_off() -> None:
    y = torch.rand(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    impulse = torch.zeros(1, 50, dtype=torch.float64)
    impulse[0, 10] = 1
    h = filter_projections(impulse, 2.0)[0]
    assert float(h[10]) == pytest.approx(2 / (4 * 4)) and abs(float(h[12])) < 1e-12
    assert float(h[13]) == pytest.approx(-2 / (math.pi * 3 * 2) ** 2)
    torch.testing.assert_close(filter_projections(y[:, :].roll(0), 1.0), filter_projections(y, 1.0))
    wave = torch.cos(math.pi * 0.8 * torch.arange(400, dtype=torch.float64))[None]
    assert filter_projections(wave, 1.0, "hann", 0.5)[0, 100:300].abs().max() < 1e-3
    assert filter_projections(wave, 1.0)[0, 100:300].abs().max() > 0.3
    with pytest.raises(InputError, match="did you mean 'hann'"):
        filter_projections(y, 1.0, "han")
    with pytest.raises(InputError, match="cutoff"):
        filter_projections(y, 1.0, cutoff=0.0)


@pytest.mark.parametrize("curved", [False, True])
def test_pixel_backprojection_and_its_transpose(curved: bool) -> None:
    A = FanBeam((9, 12), turn(5), 17, 30.0, 40.0, curved=curved)
    views: PixelViews = A._pixel_views(A.angles, A.detector_shift)
    y = torch.randn(
        3, 5, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: pixel_backproject(y, views), y)
    assert torch.autograd.gradgradcheck(lambda y: pixel_backproject(y, views), y)
    assert torch.equal(pixel_backproject(y, views)[1:2], pixel_backproject(y[1:2], views))


@pytest.mark.parametrize("curved", [False, True])
def test_an_item_has_the_same_answer_alone_on_any_threads_and_in_float32(curved: bool) -> None:
    A = FanBeam((70, 80), turn(90), 150, NEAR, FAR, curved=curved)
    y = torch.randn(5, 2, 90, 150, generator=torch.Generator().manual_seed(0))
    x = A.pseudo_inverse(y)
    assert relative(A.pseudo_inverse(y[3:4]), x[3:4]) < 1e-6
    assert relative(x, A.pseudo_inverse(y.double())) < 1e-4
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert relative(A.pseudo_inverse(y), x) < 1e-6
    finally:
        torch.set_num_threads(before)


def test_is_differentiable_and_names_wrong_shapes() -> None:
    A = ParallelBeam((8, 8), turn(6, 0.0, math.pi), 12)
    y = torch.rand(
        1, 2, 6, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: A.pseudo_inverse(y, "hann"), y)
    with pytest.raises(InputError, match="pseudo-inverse"):
        A.pseudo_inverse(torch.zeros(1, 1, 6, 11))


def ellipses_and_geometry(beam: str, count: int, shift: float) -> tuple[Scan2D, Tensor, Tensor]:
    """A scan in a full turn, three overlapping discs, and their line integrals in closed form."""
    angles, places = turn(240, 0.3), []
    discs = [((4.0, -7.0), 34.0, 1.0), ((20.0, 10.0), 9.0, 0.6), ((-24.0, -12.0), 7.0, -0.5)]
    A: Scan2D
    if beam == "parallel":
        A = ParallelBeam((100, 100), angles, count, detector_shift=shift)
        places = [parallel_distance(A.angles, cells(count, 1.0, shift), c) for c, _, _ in discs]
    else:
        spacing, curved = 1.5, beam == "curved fan"
        A = FanBeam(
            (100, 100),
            angles,
            count,
            NEAR,
            FAR,
            detector_spacing=spacing,
            detector_shift=spacing * shift,
            curved=curved,
        )
        s = cells(count, spacing, spacing * shift)
        gamma = s / FAR if curved else (s / FAR).atan()
        places = [fan_distance(A.angles, gamma, NEAR, c) for c, _, _ in discs]
    y = sum(value * chords(d, radius) for d, (_, radius, value) in zip(places, discs))
    truth = sum(value * disc(A, c, radius) for c, radius, value in discs)
    assert isinstance(y, Tensor) and isinstance(truth, Tensor)
    return A, y[None, None], truth


@pytest.mark.filterwarnings("ignore:the field of view")
@pytest.mark.parametrize("beam", ["parallel", "fan", "curved fan"])
@pytest.mark.parametrize("over", [0.12, 0.5, 0.95])
@pytest.mark.parametrize("side", [-1, 1])
def test_an_offset_detector_loses_nothing_in_a_full_turn(beam: str, over: float, side: int) -> None:
    """The detector reaches from the far edge over the axis, by a share of the half width."""
    full = 112
    part = math.ceil(full * (1 + over) / 2)
    A, y, truth = ellipses_and_geometry(beam, part, side * (full - part) / 2)
    whole, y_whole, _ = ellipses_and_geometry(beam, full, 0.0)
    error = (A.pseudo_inverse(y) - truth).square().mean().sqrt()
    error_whole = (whole.pseudo_inverse(y_whole) - truth).square().mean().sqrt()
    assert error < 1.1 * error_whole
