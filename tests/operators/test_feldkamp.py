"""Analytic inversion in 3D: a ball comes back with its density, for every arc, panel, shift, unit and filter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.voxel_backprojection import VoxelViews, voxel_backproject
from invtoolbox.operators.tomography.cone_beam import ConeBeam
from invtoolbox.operators.tomography.fan_beam import FanBeam
from invtoolbox.operators.tomography.filtered_backprojection import FILTERS
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam, ParallelBeam3D
from tests.operators.scan_3d_helpers import chords, grid, interior, relative, turn

VOLUME, CENTRE, RADIUS = (24, 60, 60), (8.0, -6.0, 3.0), 9.0
NEAR, FAR = 200.0, 300.0
SHORT = math.pi + 2 * math.atan(65 / FAR) + 0.2


def density(
    A: Any, filter: str = "hann", centre: Any = CENTRE, radius: float = RADIUS
) -> torch.Tensor:
    """What comes back inside the ball."""
    return interior(A, A.pseudo_inverse(chords(A, centre, radius).float(), filter), centre, radius)


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize(
    "further",
    [
        {},
        dict(detector_shift=(3.3, 0.0)),
        dict(axis_shift=7.0, detector_shift=(10.5, 0.0)),
        dict(angles=turn(150, 1.0, SHORT)),
        dict(angles=turn(150, 1.0, math.pi + 2 * math.asin(30 / NEAR) + 0.06)),
        dict(angles=turn(150, 1.0, -SHORT), axis_shift=7.0, detector_shift=(10.5, 0.0)),
        dict(detector_shape=(40, 80), detector_shift=(25.0, 0.0)),
        dict(detector_shape=(40, 80), detector_shift=(-25.0, 0.0)),
        dict(source_origin=torch.full((180,), NEAR), source_detector=torch.full((180,), FAR)),
    ],
    ids=[
        "turn",
        "shift",
        "axis",
        "short scan",
        "short for the object",
        "short, axis",
        "half fan",
        "other half",
        "a distance a view",
    ],
)
@pytest.mark.filterwarnings("ignore:the field of view")
def test_a_ball_has_its_density(further: dict[str, Any], curved: bool) -> None:
    arguments: dict[str, Any] = (
        dict(angles=turn(180), detector_shape=(40, 130), source_origin=NEAR, source_detector=FAR)
        | further
    )
    x = density(ConeBeam(VOLUME, curved=curved, **arguments))
    assert (x - 1).abs().max() < 0.01


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("angles", [turn(40), turn(40, 0.3, 3.8)], ids=["turn", "short scan"])
def test_the_middle_slice_is_that_of_a_fan_beam(angles: torch.Tensor, curved: bool) -> None:
    A = ConeBeam(
        (1, 14, 13), angles, (1, 23), 40.0, 60.0, (1.0, 0.9, 1.1), 1.5, (0.3, 0.0), curved=curved
    )
    F = FanBeam((14, 13), angles, 23, 40.0, 60.0, (0.9, 1.1), 1.5, 0.3, curved)
    y = torch.rand(1, 1, 40, 23, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (
        relative(A.pseudo_inverse(y[:, :, :, None])[:, :, 0], F.pseudo_inverse(y).flip(2)) < 1e-12
    )
    P = ParallelBeam3D((1, 14, 13), angles, (1, 23), (1.0, 0.9, 1.1), 1.5, (0.3, 0.0))
    Q = ParallelBeam((14, 13), angles, 23, (0.9, 1.1), 1.5, 0.3)
    assert (
        relative(P.pseudo_inverse(y[:, :, :, None])[:, :, 0], Q.pseudo_inverse(y).flip(2)) < 1e-12
    )


@pytest.mark.filterwarnings("ignore:the field of view")
def test_shifts_and_small_turns_of_source_and_panel() -> None:
    for further in (
        dict(detector_shift=(3.3, 4.2)),
        dict(detector_rotation=(0.02, 0.03, 0.02)),
        dict(source_shift=(2.0, 1.0, 2.0)),
        dict(source_shift=(0.0, 4.0, 0.0), detector_shift=(0.0, 4.0)),
    ):
        assert (
            density(ConeBeam(VOLUME, turn(180), (40, 130), NEAR, FAR, **further)) - 1
        ).abs().max() < 0.01, further


@pytest.mark.parametrize("filter", FILTERS)
def test_every_filter_keeps_the_scale_in_any_unit(filter: str) -> None:
    A = ConeBeam(
        (12, 40, 80), turn(180), (30, 130), 0.2, 0.3, (2e-3, 1.5e-3, 0.75e-3), (2e-3, 1e-3)
    )
    x = density(A, filter, (8e-3, -6e-3, 3e-3), 9e-3)
    assert abs(float(x.mean()) - 1) < 0.01


@pytest.mark.parametrize(
    "further",
    [
        dict(angles=turn(180, 0.0, math.pi)),
        dict(angles=turn(180), detector_shift=(3.0, 1.5)),
        dict(angles=turn(180), detector_shape=(30, 60), detector_shift=(15.0, 1.5)),
    ],
    ids=["half a turn", "shift", "half acquisition"],
)
@pytest.mark.filterwarnings("ignore:the field of view")
def test_parallel_ball_has_its_density(further: dict[str, Any]) -> None:
    A = ParallelBeam3D(VOLUME, **dict(detector_shape=(30, 90)) | further)  # type: ignore[arg-type]
    assert (density(A) - 1).abs().max() < 0.01


def test_laminography_lacks_the_cone_of_frequencies_around_the_axis() -> None:
    """A share 1 - cos(tilt) of all directions of frequency is never seen: the centre of a ball comes back as cos(tilt)."""
    A = ParallelBeam3D((50, 60, 60), turn(180), (60, 90), tilt=0.3)
    assert float(density(A).mean()) == pytest.approx(math.cos(0.3), abs=0.005)
    with pytest.raises(InputError, match="full turn"):
        B = ParallelBeam3D((50, 60, 60), turn(90, 0.0, math.pi), (60, 90), tilt=0.3)
        B.pseudo_inverse(torch.zeros(1, *B.range_shape))


def test_outside_is_dark_and_below_the_plane_still_good() -> None:
    A = ConeBeam((48, 50, 50), turn(150), (90, 110), NEAR, FAR)
    centre = (5.0, 4.0, -12.0)
    x = A.pseudo_inverse(chords(A, centre, 8.0), "hann")
    assert (interior(A, x, centre, 8.0) - 1).abs().max() < 0.02
    p, q, r = grid(A)
    outside = (((p - centre[0]) ** 2 + (q - centre[1]) ** 2 + (r - centre[2]) ** 2).sqrt() > 14) & (
        (p**2 + q**2).sqrt() < 24
    )
    assert x[0, 0][outside].abs().mean() < 0.01


def test_refuses_what_is_no_circle() -> None:
    common: dict[str, Any] = dict(
        volume_shape=VOLUME, detector_shape=(40, 130), source_origin=NEAR, source_detector=FAR
    )
    for further, message in (
        (dict(angles=turn(50), pitch=3.0), "a pitch; use it.solve"),
        (dict(angles=turn(50), tilt=0.1), "a tilt"),
        (
            dict(angles=turn(50, 0.0, SHORT), detector_shape=(40, 80), detector_shift=(25.0, 0.0)),
            "one side",
        ),
    ):
        with pytest.warns(UserWarning) if "one" in message else _nothing():
            A = ConeBeam(**common | further)
        with pytest.raises(InputError, match=message):
            A.pseudo_inverse(torch.zeros(1, *A.range_shape))
    with pytest.raises(InputError, match="hann"):
        ConeBeam(**common, angles=turn(9)).pseudo_inverse(torch.zeros(1, 1, 9, 40, 130), "han")
    with pytest.raises(InputError, match="pseudo-inverse"):
        ConeBeam(**common, angles=turn(9)).pseudo_inverse(torch.zeros(1, 1, 9, 40, 129))


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("curved", [False, True])
def test_is_linear_pure_and_differentiable(curved: bool) -> None:
    A = ConeBeam((4, 5, 6), turn(5), (6, 9), 30.0, 45.0, detector_spacing=1.7, curved=curved)
    y = torch.rand(3, 2, 5, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = A.pseudo_inverse(y)
    assert torch.equal(A.pseudo_inverse(y), x) and torch.equal(A.pseudo_inverse(y[1:2]), x[1:2])
    assert (
        relative(A.pseudo_inverse_chunks(lambda views: y[:, :, views], views_per_chunk=2), x)
        < 1e-12
    )
    assert relative(A.pseudo_inverse(y.float()), x) < 1e-5
    assert torch.autograd.gradcheck(
        lambda y: A.pseudo_inverse(y, "hann"), y[:1, :1].clone().requires_grad_(), fast_mode=True
    )
    shifts = torch.tensor([[[0.0, 0.0]], [[0.5, 0.0]], [[0.9, 0.0]]], dtype=torch.float64)
    B = A.with_parameters(detector_shift=shifts)
    assert torch.equal(
        B.pseudo_inverse(y)[1:2], A.with_parameters(detector_shift=shifts[1]).pseudo_inverse(y[1:2])
    )


@pytest.mark.parametrize("curved", [False, True])
def test_back_projection_has_a_transpose(curved: bool) -> None:
    g = torch.Generator().manual_seed(0)
    table = torch.rand(3, 15, generator=g, dtype=torch.float64)
    table[:, 11] += 6
    table[:, 3] = table[:, 7] = 9.0
    if curved:
        table[:, 12], table[:, 13], table[:, 14] = 2.0, 0.5, 1.5
    views = VoxelViews(table, (3, 5, 18), (4, 5), curved)
    y = torch.randn(2, 3, 4, 5, generator=g, dtype=torch.float64).requires_grad_()
    assert float(voxel_backproject(y, views).detach().abs().max()) > 0
    assert torch.autograd.gradcheck(lambda y: voxel_backproject(y, views), y, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda y: voxel_backproject(y, views), y, fast_mode=True)
    assert torch.equal(voxel_backproject(y[1:], views), voxel_backproject(y, views)[1:])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        large = VoxelViews(table, (20, 30, 40), (4, 5), curved)
        two = voxel_backproject(y, large)
        torch.set_num_threads(1)
        assert torch.equal(two, voxel_backproject(y, large))
    finally:
        torch.set_num_threads(before)
    # Lines of voxels that are seen in one column have a kernel of their own.
    table[:, [2, 10]] = 0.0
    table[:, 6] = 0.3
    for depth in (1, 5, 33, 70):
        line = VoxelViews(table, (depth, 6, 7), (4, 5), curved)
        nearly = VoxelViews(
            table + torch.nn.functional.one_hot(torch.tensor(2), 15) * 1e-9,
            (depth, 6, 7),
            (4, 5),
            curved,
        )
        assert (
            relative(voxel_backproject(y.detach(), line), voxel_backproject(y.detach(), nearly))
            < 1e-7
        )
        assert torch.autograd.gradcheck(
            lambda y, line=line: voxel_backproject(y, line), y, fast_mode=True
        )
    with pytest.raises(InputError, match="projections of shape"):
        voxel_backproject(y[:, :2], views)


@pytest.mark.filterwarnings("ignore:the field of view")
@pytest.mark.parametrize(
    "A",
    [
        ConeBeam((10, 14, 14), turn(40), (14, 20), 60.0, 150.0, 0.4, 1.0),
        ConeBeam(
            *((10, 14, 14), turn(40), (14, 20), 60.0, 150.0, 0.4, 1.0),
            detector_shift=(3.0, 1.0),
            axis_shift=0.3,
            source_shift=(0.0, 0.4, 0.0),
        ),
        ConeBeam(
            *((10, 14, 14), turn(40), (14, 20), 60.0, 150.0, 0.4, 1.0),
            detector_rotation=(0.05, 0.0, 0.03),
        ),
        ParallelBeam3D((10, 14, 14), turn(40), (10, 20), tilt=0.2),
    ],
)
def test_slabs_are_the_slices_of_the_whole(A: Any) -> None:
    y = torch.rand(1, *A.range_shape, generator=torch.Generator().manual_seed(0))
    whole = A.pseudo_inverse(y)
    for count in (1, 3, 10):
        parts = []
        for start in range(0, 10, count):
            slab, rows = A.slab(start, min(start + count, 10))
            parts.append(slab.pseudo_inverse(y[:, :, :, rows].contiguous()))
        assert torch.allclose(torch.cat(parts, 2), whole, atol=3e-5 * float(whole.abs().max()))
    assert bool((A.detector_rotation != 0).any()) or slab_rows(A) < A.detector_shape[0]


def slab_rows(A: Any) -> int:
    rows = A.slab(0, 1)[1]
    return int(rows.stop - rows.start)


def test_scans_without_slabs_are_refused() -> None:
    A = ConeBeam((4, 6, 6), turn(40), (12, 18), 60.0, 150.0, pitch=0.2)
    with pytest.raises(InputError, match="not divided into slabs"):
        A.slab(0, 2)
    vectors = ConeBeam((4, 6, 6), turn(40), (12, 18), 60.0, 150.0).vectors
    with pytest.raises(InputError, match="not divided into slabs"):
        ConeBeam.from_vectors((4, 6, 6), vectors, (12, 18)).slab(0, 2)
