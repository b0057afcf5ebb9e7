"""Parallel beam: known sinograms, ASTRA's numbers, the adjoint, the parameters, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invtoolbox.errors import InputError
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam
from tests.operators.scan_helpers import (
    bells,
    blob,
    cells,
    chords,
    disc,
    parallel_distance,
    relative,
    spot,
    turn,
)


@pytest.mark.parametrize(
    "shape, pixel_size, shift",
    [
        ((64, 64), 1.0, 0.0),
        ((65, 64), 1.0, 3.25),
        ((48, 81), 0.5, -1.0),
        ((71, 50), (0.8, 1.25), 0.7),
    ],
)
def test_sinogram_of_a_spot_and_a_disc(shape, pixel_size, shift) -> None:  # type: ignore[no-untyped-def]
    """Pins pixel centres, axis order, the sign of the angle, the detector's direction and its shift."""
    spacing = 0.9 * float(np.max(pixel_size))
    A = ParallelBeam(
        shape, turn(50), 141, pixel_size=pixel_size, detector_spacing=spacing, detector_shift=shift
    )
    size = min(shape[0] * A.pixel_size[0], shape[1] * A.pixel_size[1])
    centre, radius, width = (0.17 * size, -0.09 * size), 0.27 * size, 0.1 * size
    distance = parallel_distance(A.angles, cells(141, spacing, shift), centre)
    # A spot that is 1/20 of a pixel off would differ by this much.
    tolerance = 0.05 * max(A.pixel_size) / (2**0.5 * width)
    assert relative(A(spot(A, centre, width))[0, 0], bells(distance, width)) < tolerance
    assert relative(A(disc(A, centre, radius))[0, 0], chords(distance, radius)) < 0.025


@pytest.mark.parametrize("shape", [(64, 64), (60, 75), (33, 20)])
def test_equals_astra_linear(shape: tuple[int, int]) -> None:
    astra = pytest.importorskip("astra")
    A = ParallelBeam(shape, turn(77), 120, detector_spacing=1.1)
    projector = astra.create_projector(
        "linear",
        astra.create_proj_geom("parallel", 1.1, 120, A.angles.numpy()),
        astra.create_vol_geom(*shape),
    )
    x = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.rand(1, 1, 77, 120, generator=torch.Generator().manual_seed(1))
    assert (
        relative(A(x)[0, 0], torch.from_numpy(astra.create_sino(x[0, 0].numpy(), projector)[1]))
        < 1e-4
    )
    back = torch.from_numpy(astra.create_backprojection(y[0, 0].numpy(), projector)[1])
    assert relative(A.adjoint(y)[0, 0], back) < 1e-4


def test_error_against_a_disc_is_astras() -> None:
    astra = pytest.importorskip("astra")
    A = ParallelBeam((96, 96), turn(60), 140)
    centre, radius = (11.0, -7.0), 30.0
    x = disc(A, centre, radius)
    exact = chords(parallel_distance(A.angles, cells(140, 1.0, 0.0), centre), radius)
    for model, slack in (("linear", 1.001), ("line", 1.0), ("strip", 1.0)):
        projector = astra.create_projector(
            model,
            astra.create_proj_geom("parallel", 1.0, 140, A.angles.numpy()),
            astra.create_vol_geom(96, 96),
        )
        theirs = torch.from_numpy(astra.create_sino(x[0, 0].float().numpy(), projector)[1])
        assert relative(A(x)[0, 0], exact) <= slack * relative(theirs, exact)


@given(
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    views=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 3),
    double=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_adjoint(
    height: int, width: int, views: int, seed: int, channels: int, double: bool
) -> None:
    dtype, tolerance = (torch.float64, 1e-12) if double else (torch.float32, 1e-5)
    g = torch.Generator().manual_seed(seed)
    size = 0.5 + torch.rand(3, generator=g)
    A = ParallelBeam(
        (channels, height, width),
        6 * torch.rand(views, generator=g),
        70,
        pixel_size=size[:2].tolist(),
        detector_spacing=float(size[2]),
        detector_shift=0.2,
    )
    x = torch.randn(2, *A.domain_shape, generator=g, dtype=dtype)
    y = torch.randn(2, *A.range_shape, generator=g, dtype=dtype)
    gap = (A(x).double() * y).sum() - (x * A.adjoint(y).double()).sum()
    assert abs(float(gap)) <= tolerance * float(A(x).double().norm() * y.double().norm()) + 1e-30


def test_angles_and_shift_are_differentiable() -> None:
    angles = torch.tensor([0.31, 1.17, 2.4], dtype=torch.float64, requires_grad=True)
    shift = torch.tensor([0.13], dtype=torch.float64, requires_grad=True)
    A = ParallelBeam((7, 6), angles.detach(), 9)
    x = torch.rand(
        2, 1, 7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()

    def forward(x, angles, shift):  # type: ignore[no-untyped-def]
        return A.with_parameters(angles=angles, detector_shift=shift)(x)

    assert torch.autograd.gradcheck(forward, (x, angles, shift), eps=1e-7, atol=1e-5)
    y = torch.rand(2, 1, 3, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    adjoint = A.with_parameters(angles=angles, detector_shift=shift).adjoint
    assert torch.autograd.gradcheck(
        lambda y, *_: adjoint(y), (y.requires_grad_(), angles, shift), eps=1e-7, atol=1e-5
    )
    _, derivative = torch.func.jvp(
        lambda a: forward(x, a, shift), (angles,), (torch.ones_like(angles),)
    )
    step = 1e-6
    numeric = (forward(x, angles + step, shift) - forward(x, angles - step, shift)) / (2 * step)
    torch.testing.assert_close(derivative, numeric, rtol=1e-4, atol=1e-5)


def test_every_item_may_have_its_own_geometry() -> None:
    A = ParallelBeam((9, 8), turn(4), 12)
    angles = torch.stack([turn(4), turn(4) + 0.2])
    B = A.with_parameters(angles=angles)
    x = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    for k in range(2):
        alone = ParallelBeam((9, 8), angles[k], 12)
        assert torch.equal(B(x)[k], alone(x[k : k + 1])[0])
        assert torch.equal(B.adjoint(B(x))[k], alone.adjoint(alone(x[k : k + 1]))[0])
        assert torch.equal(B.select(torch.tensor([k]))(x[k : k + 1]), alone(x[k : k + 1]))
    assert A.items is None and B.items == 2
    with pytest.raises(InputError, match="batch of 2"):
        B(x[:1])


def test_items_are_not_taken_for_views() -> None:
    """Two views that both items share, and a shift of each item's own."""
    B = ParallelBeam((9, 8), turn(2), 12).with_parameters(
        detector_shift=torch.tensor([[0.0], [0.5]])
    )
    x = torch.rand(2, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    for k in range(2):
        assert torch.equal(B.select(torch.tensor([k]))(x[k : k + 1]), B(x)[k : k + 1])


def test_a_subset_is_the_same_views() -> None:
    shifts = torch.linspace(-1, 1, 10, dtype=torch.float64)
    A = ParallelBeam((9, 8), turn(10), 12, detector_shift=shifts)
    x = torch.rand(1, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([7, 2, 3])
    assert torch.equal(A.subset(index)(x), A(x)[:, :, index])
    assert torch.equal(A.subset(slice(1, None, 3))(x), A(x)[:, :, 1::3])


def test_a_change_of_the_angles_in_place_is_noticed() -> None:
    angles = turn(5)
    A = ParallelBeam((9, 8), angles, 12)
    x = torch.rand(1, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    A(x)
    angles += 0.1
    assert torch.equal(A(x), ParallelBeam((9, 8), turn(5) + 0.1, 12)(x))


def test_a_table_made_in_inference_mode_serves_autograd() -> None:
    A = ParallelBeam((9, 8), turn(5), 12)
    x = torch.rand(1, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        A(x)
    A(x.requires_grad_()).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, A.adjoint(torch.ones(1, *A.range_shape)))


def test_calls_are_pure_and_precision_is_a_copy() -> None:
    A = ParallelBeam((20, 21), turn(12), 30)
    x = torch.rand(3, 1, 20, 21, generator=torch.Generator().manual_seed(0))
    assert torch.equal(A(x), A(x)) and torch.equal(A.adjoint(A(x)), A.adjoint(A(x)))
    moved = A.to(torch.float32)
    assert torch.equal(moved(x), ParallelBeam((20, 21), turn(12).float(), 30)(x))
    assert relative(moved(x), A(x.double())) < 1e-5
    assert relative(A(x), A(x.double())) < 1e-6


def test_of_a_constant_along_an_axis() -> None:
    """Angle 0: rays along the columns. The integral of the whole image is the same in every view."""
    x = blob(40, 50)[None, None].double()
    A = ParallelBeam((40, 50), [0.0, math.pi / 2, 0.4], 90, pixel_size=0.5, detector_spacing=0.5)
    torch.testing.assert_close(A(x)[0, 0, 0, 20:70], x[0, 0].sum(0) * 0.5)
    # A quarter turn on, the detector points upwards: cell 25 is the lowest row.
    torch.testing.assert_close(A(x)[0, 0, 1, 25:65], x[0, 0].sum(1).flip(0) * 0.5)
    torch.testing.assert_close(
        A(x).sum(3)[0, 0] * 0.5, (x.sum() * 0.25).expand(3), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(angles=np.arange(180)), "degrees.*deg2rad"),
        (dict(angles=[0.1, float("nan")]), "finite.*view 1"),
        (dict(angles=[]), "at least one view"),
        (dict(num_detectors=0), "num_detectors"),
        (dict(num_detectors=3.5), "num_detectors"),
        (dict(pixel_size=-1.0), "pixel_size"),
        (dict(detector_spacing=0.0), "detector_spacing"),
        (dict(image_shape=(5,)), "image_shape"),
        (dict(detector_shift=500.0), "no ray"),
        (dict(detector_shift=40.0), "never sees the centre"),
        (dict(detector_shift=[0.0, 1.0]), "one entry per view"),
    ],
)
def test_refuses(arguments, message) -> None:  # type: ignore[no-untyped-def]
    good = dict(image_shape=(50, 50), angles=[0.0, 0.5, 1.0], num_detectors=72)
    with pytest.raises(InputError, match=message):
        ParallelBeam(**(good | arguments))  # type: ignore[arg-type]


def test_warns_of_a_detector_that_is_too_small() -> None:
    with pytest.warns(UserWarning, match="cuts the object off"):
        ParallelBeam((50, 50), [0.0], 30)
    with pytest.raises(InputError, match=r"\(batch, channel, 50, 50\).*row.*has 49"):
        ParallelBeam((50, 50), [0.0], 72)(torch.zeros(1, 1, 49, 50))
