"""Fan beam: known sinograms on a flat and a curved detector, ASTRA's numbers, the adjoint, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invtoolbox.errors import InputError
from invtoolbox.operators.tomography.fan_beam import FanBeam
from tests.operators.scan_helpers import (
    bells,
    blob,
    cells,
    chords,
    disc,
    fan_distance,
    parallel_distance,
    relative,
    spot,
    turn,
)


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize(
    "shape, pixel_size, shift",
    [((64, 64), 1.0, 0.0), ((65, 50), 0.5, 1.7), ((40, 81), (1.2, 0.8), -2.0)],
)
def test_sinogram_of_a_spot_and_a_disc(shape, pixel_size, shift, curved) -> None:  # type: ignore[no-untyped-def]
    """Pins the source's place, the sign of the angle, the detector's direction, scale and shift."""
    size = float(max(np.array(shape) * pixel_size))
    far = 2.2 * size
    spacing = 2.6 * size / 200
    A = FanBeam(shape, turn(50), 200, 0.7 * far, far, pixel_size, spacing, shift, curved)
    inner = float(min(np.array(shape) * pixel_size))
    centre, radius, width = (0.17 * inner, -0.09 * inner), 0.27 * inner, 0.1 * inner
    s = cells(200, spacing, shift)
    distance = fan_distance(A.angles, s / far if curved else (s / far).atan(), 0.7 * far, centre)
    # A spot that is 1/20 of a pixel off would differ by this much.
    tolerance = 0.05 * max(A.pixel_size) / (2**0.5 * width)
    assert relative(A(spot(A, centre, width))[0, 0], bells(distance, width)) < tolerance
    assert relative(A(disc(A, centre, radius))[0, 0], chords(distance, radius)) < 0.025


def test_agrees_with_astra_on_a_flat_detector() -> None:
    """ASTRA's CPU has intersection lengths only (`line`): another model, equal where the image is smooth."""
    astra = pytest.importorskip("astra")
    shape = (192, 256)
    A = FanBeam(shape, turn(40), 480, 640.0, 900.0, detector_spacing=1.2)
    geometry = astra.create_proj_geom("fanflat", 1.2, 480, A.angles.numpy(), 640.0, 260.0)
    projector = astra.create_projector("line_fanflat", geometry, astra.create_vol_geom(*shape))

    def theirs(image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(astra.create_sino(image.numpy(), projector)[1])

    smooth = blob(*shape)
    assert relative(A(smooth[None, None])[0, 0], theirs(smooth)) < 1e-3
    from skimage.data import shepp_logan_phantom
    from skimage.transform import resize

    phantom = torch.from_numpy(resize(shepp_logan_phantom(), shape).astype(np.float32))
    assert relative(A(phantom[None, None])[0, 0], theirs(phantom)) < 2e-2
    centre, radius = (31.0, -17.0), 60.0
    x = disc(A, centre, radius)
    exact = chords(
        fan_distance(A.angles, (cells(480, 1.2, 0.0) / 900).atan(), 640.0, centre), radius
    )
    assert relative(A(x)[0, 0], exact) <= relative(theirs(x[0, 0].float()), exact)


@given(
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    views=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    curved=st.booleans(),
    double=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_adjoint(
    height: int, width: int, views: int, seed: int, curved: bool, double: bool
) -> None:
    dtype, tolerance = (torch.float64, 1e-12) if double else (torch.float32, 1e-5)
    g = torch.Generator().manual_seed(seed)
    near = 30 + 30 * float(torch.rand(1, generator=g))
    A = FanBeam(
        (height, width),
        6 * torch.rand(views, generator=g),
        90,
        near,
        1.4 * near,
        detector_shift=0.4,
        curved=curved,
    )
    x = torch.randn(2, *A.domain_shape, generator=g, dtype=dtype)
    y = torch.randn(2, *A.range_shape, generator=g, dtype=dtype)
    gap = (A(x).double() * y).sum() - (x * A.adjoint(y).double()).sum()
    assert abs(float(gap)) <= tolerance * float(A(x).double().norm() * y.double().norm()) + 1e-30


@pytest.mark.parametrize("curved", [False, True])
def test_angles_and_shift_are_differentiable(curved: bool) -> None:
    angles = torch.tensor([0.31, 1.17, 2.4], dtype=torch.float64, requires_grad=True)
    shift = torch.tensor([0.13, -0.2, 0.05], dtype=torch.float64, requires_grad=True)
    A = FanBeam((7, 6), angles.detach(), 9, 11.0, 16.0, detector_spacing=1.3, curved=curved)
    x = torch.rand(
        2, 1, 7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, a, s: A.with_parameters(angles=a, detector_shift=s)(x),
        (x, angles, shift),
        eps=1e-7,
        atol=1e-5,
    )


def test_a_source_far_away_makes_parallel_rays() -> None:
    A = FanBeam((40, 40), turn(10), 61, 1e7, 1e7 + 1)
    from invtoolbox.operators.tomography.parallel_beam import ParallelBeam

    x = blob(40, 40)[None, None].double()
    assert relative(A(x), ParallelBeam((40, 40), turn(10), 61)(x)) < 1e-5
    exact = bells(parallel_distance(A.angles, cells(61, 1.0, 0.0), (4.0, 3.0)), 4.0)
    assert relative(A(spot(A, (4.0, 3.0), 4.0))[0, 0], exact) < 5e-3


def test_items_and_subsets() -> None:
    A = FanBeam((9, 8), turn(6), 14, 20.0, 30.0, detector_spacing=1.5)
    x = torch.rand(2, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(A.subset([4, 1])(x), A(x)[:, :, [4, 1]])
    shifts = torch.tensor([[0.0], [0.7]], dtype=torch.float64)
    B = A.with_parameters(detector_shift=shifts)
    assert torch.equal(B(x)[0], A(x[:1])[0])
    assert torch.equal(B(x)[1], A.with_parameters(detector_shift=shifts[1])(x[1:])[0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(angles=torch.arange(0.0, 360.0)), "degrees.*deg2rad"),
        (dict(source_origin=30.0), "source turns inside the image"),
        (dict(source_detector=80.0), "source_detector"),
        (dict(source_origin=math.inf), "source_origin"),
        (dict(detector_shift=1000.0), "no ray|never sees"),
        (dict(detector_shift=100.0), "never sees the centre"),
        (dict(angles=[[0.0]]), "shape"),
    ],
)
def test_refuses(arguments, message) -> None:  # type: ignore[no-untyped-def]
    good = dict(
        image_shape=(50, 50),
        angles=[0.0, 0.5, 1.0],
        num_detectors=120,
        source_origin=100.0,
        source_detector=150.0,
    )
    with pytest.raises(InputError, match=message):
        FanBeam(**(good | arguments))  # type: ignore[arg-type]
