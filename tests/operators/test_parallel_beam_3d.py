"""Parallel beam in 3D: known projections, slices that are 2D scans, ASTRA's vectors, laminography, poses, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invtoolbox.errors import InputError
from invtoolbox.operators.tomography import trajectories
from invtoolbox.operators.tomography.cone_beam import VectorScan
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam, ParallelBeam3D
from invtoolbox.testing import check_operator
from tests.operators.scan_3d_helpers import ball, bells, chords, relative, spot, turn

SMALL: dict[str, Any] = dict(
    volume_shape=(5, 7, 6),
    angles=[0.31, 1.17, 2.6],
    detector_shape=(7, 11),
    voxel_size=(1.0, 0.9, 1.1),
    detector_spacing=(1.2, 1.1),
)


def random(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "shape, voxel, further",
    [
        ((32, 40, 40), 1.0, {}),
        ((33, 35, 30), (1.2, 0.9, 1.1), dict(detector_shift=(1.7, -0.8))),
        ((30, 32, 33), 0.5, dict(tilt=0.4, detector_rotation=(0.1, 0.0, 0.1))),
    ],
)
def test_projections_of_a_spot_and_a_ball(shape: Any, voxel: Any, further: dict[str, Any]) -> None:
    extent = np.array(shape) * voxel
    size, inner = float(np.linalg.norm(extent)), float(extent.min())
    A = ParallelBeam3D(
        shape, turn(11), (60, 64), voxel, (1.1 * size / 60, 1.1 * size / 64), **further
    )
    centre, radius, width = (0.17 * inner, -0.09 * inner, 0.11 * inner), 0.27 * inner, 0.12 * inner
    tolerance = (
        0.06 * max(A.voxel_size) / (2**0.5 * width)
    )  # a spot 0.06 of a voxel off would differ by this much
    assert relative(A(spot(A, centre, width)), bells(A, centre, width)) < tolerance
    assert (
        relative(A(ball(A, centre, radius)), chords(A, centre, radius))
        < 0.5 * max(A.voxel_size) / radius
    )


def test_slices_are_2d_scans_upside_down() -> None:
    A = ParallelBeam3D((4, 14, 13), turn(7), (4, 17), (1.0, 0.9, 1.1), (1.0, 1.2), (0.3, 0.0))
    P = ParallelBeam((14, 13), turn(7), 17, (0.9, 1.1), 1.2, 0.3)
    x = random((2, 1, 4, 14, 13))
    for k in range(4):
        assert relative(A(x)[:, :, :, k], P(x[:, :, k].flip(2))) < 1e-12


def test_vectors_are_astras() -> None:
    astra = pytest.importorskip("astra")
    angles = np.linspace(0.1, 6.0, 8)
    geometry = astra.create_proj_geom("parallel3d", 1.5, 1.7, 15, 17, angles)
    A = ParallelBeam3D((12, 14, 13), angles, (15, 17), detector_spacing=(1.7, 1.5))
    np.testing.assert_allclose(A.vectors, astra.geom_2vec(geometry)["Vectors"], atol=1e-12)
    B = A.with_parameters(detector_shift=torch.tensor([0.4 * 1.5, 0.7 * 1.7], dtype=torch.float64))
    np.testing.assert_allclose(
        B.vectors, astra.geom_postalignment(geometry, (0.4, 0.7))["Vectors"], atol=1e-12
    )
    torch.testing.assert_close(trajectories.parallel(angles, (1.7, 1.5), (0.6, 1.19)), B.vectors)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(2, 9), st.integers(2, 9)),
    panel=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    views=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=12, deadline=None)
@pytest.mark.filterwarnings("ignore:the field of view")
def test_is_an_operator(shape: Any, panel: Any, views: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    r = torch.rand(9, generator=g, dtype=torch.float64).tolist()
    angles = 6 * torch.rand(views, generator=g, dtype=torch.float64)
    A = ParallelBeam3D(
        shape,
        angles,
        panel,
        (0.7 + r[0], 0.7 + r[1], 0.7 + r[2]),
        (0.7 + r[3], 0.7 + r[4]),
        (0.5 * r[5], 0.5 * r[6]),
        0.4 * r[7],
        (0.0, 0.1, 0.2 * r[8]),
    )
    check_operator(A, batch=2)


def test_every_pose_is_differentiable() -> None:
    A = ParallelBeam3D(**SMALL)
    start = dict(
        angles=A.angles,
        detector_shift=0.3 * random((3, 2), 1),
        tilt=torch.tensor([0.07], dtype=torch.float64),
        detector_rotation=0.1 * random((3, 3), 2),
    )
    x = random((1, 1, 5, 7, 6)).requires_grad_()
    free = [value.clone().requires_grad_() for value in start.values()]
    assert torch.autograd.gradcheck(
        lambda x, *p: A.with_parameters(**dict(zip(start, p)))(x),
        (x, *free),
        eps=1e-6,
        atol=2e-5,
        fast_mode=True,
    )
    # Not upright: rays that run exactly in a plane of voxels are at a kink of the interpolation.
    A = A.with_parameters(**start)
    B = ParallelBeam3D.from_vectors(A.volume_shape, A.vectors, A.detector_shape, A.voxel_size)
    assert isinstance(B, VectorScan) and B.parallel and torch.equal(B(x), A(x))
    poses = [value.clone().requires_grad_() for value in B.parameters().values()]
    assert torch.autograd.gradcheck(
        lambda *p: B.with_parameters(**dict(zip(B.parameters(), p)))(x.detach()),
        poses,
        eps=1e-6,
        atol=2e-5,
        fast_mode=True,
    )


def test_subsets_items_and_chunks() -> None:
    A = ParallelBeam3D(**SMALL)
    x = random((2, 2, 5, 7, 6))
    assert torch.equal(A.subset([2, 0])(x), A(x)[:, :, [2, 0]])
    assert torch.equal(torch.cat([y for _, y in A.project_chunks(x, 2)], 2), A(x))
    B = A.with_parameters(angles=torch.stack([A.angles, A.angles + 0.2]))
    check_operator(B)
    assert torch.equal(
        B.select(torch.tensor([1]))(x[1:]),
        ParallelBeam3D(**SMALL | dict(angles=A.angles + 0.2))(x[1:]),
    )
    assert torch.equal(B.subset([1])(x), B(x)[:, :, 1:2])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(angles=np.arange(180)), "degrees.*deg2rad"),
        (dict(detector_shift=(100.0, 0.0)), "no ray"),
        (dict(detector_shift=(7.0, 0.0)), "never sees the centre"),
        (dict(tilt=10.0), "radians"),
        (dict(detector_spacing=(1.0, 1.0, 1.0)), "detector_spacing must be one length or 2"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ParallelBeam3D(**SMALL | arguments)


def test_at_angle_0_the_rays_run_along_the_rows() -> None:
    A = ParallelBeam3D((3, 4, 5), [0.0, math.pi / 2], (3, 5), voxel_size=(1.0, 0.5, 1.0))
    x = random((1, 1, 3, 4, 5))
    torch.testing.assert_close(A(x)[0, 0, 0], 0.5 * x[0, 0].sum(1))
    B = ParallelBeam3D(
        (3, 4, 5), [math.pi / 2], (3, 4), voxel_size=(1.0, 0.5, 1.0), detector_spacing=(1.0, 0.5)
    )
    # A quarter turn on, columns of the panel grow with y.
    torch.testing.assert_close(B(x)[0, 0, 0], x[0, 0].sum(2))
