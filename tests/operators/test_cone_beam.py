"""Cone beam: known projections on flat and curved panels, ASTRA's vectors, the adjoint, poses, chunks, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators.tomography import trajectories
from invtoolbox.operators.tomography.cone_beam import ConeBeam, VectorScan
from invtoolbox.operators.tomography.fan_beam import FanBeam
from invtoolbox.operators.tomography.scan_checks import seen_cells
from invtoolbox.testing import check_operator
from tests.operators.scan_3d_helpers import ball, bells, chords, rays, relative, spot, turn

SMALL: dict[str, Any] = dict(
    volume_shape=(5, 7, 6),
    angles=[0.31, 1.17, 2.6],
    detector_shape=(6, 8),
    source_origin=14.0,
    source_detector=21.0,
    voxel_size=(1.0, 0.9, 1.1),
    detector_spacing=(1.7, 1.6),
)


def random(
    shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize(
    "shape, voxel, further",
    [
        ((32, 40, 40), 1.0, {}),
        ((33, 35, 30), (1.2, 0.9, 1.1), dict(detector_shift=(1.7, 0.0), axis_shift=1.3)),
        ((24, 31, 44), (1.0, 1.3, 0.8), dict(pitch=6.0, detector_shift=(-1.0, 0.0))),
        ((30, 32, 33), 0.5, dict(tilt=0.4, detector_rotation=(0.0, 0.0, 0.1))),
    ],
)
def test_projections_of_a_spot_and_a_ball(
    shape: Any, voxel: Any, further: dict[str, Any], curved: bool
) -> None:
    """Pins the source's place, voxel centres, axes, the panel's direction, scale and shift."""
    extent = np.array(shape) * voxel
    size, inner = float(np.linalg.norm(extent)), float(extent.min())
    further = further | (
        {} if curved else dict(detector_shift=(*further.get("detector_shift", (0.3, 0))[:1], 0.9))
    )
    A = ConeBeam(
        shape,
        turn(11),
        (60, 64),
        1.5 * size,
        2.2 * size,
        voxel,
        2.2 * size / 60,
        curved=curved,
        **further,
    )
    centre, radius, width = (0.17 * inner, -0.09 * inner, 0.11 * inner), 0.27 * inner, 0.12 * inner
    # A spot that is 1/20 of a voxel off would differ by this much.
    tolerance = 0.05 * max(A.voxel_size) / (2**0.5 * width)
    assert relative(A(spot(A, centre, width)), bells(A, centre, width)) < tolerance
    # The ball's edge is smoothed over a voxel: pins scale and support.
    assert (
        relative(A(ball(A, centre, radius)), chords(A, centre, radius))
        < 0.5 * max(A.voxel_size) / radius
    )


@pytest.mark.parametrize("curved", [False, True])
def test_the_middle_slice_is_a_fan_beam_upside_down(curved: bool) -> None:
    A = ConeBeam(
        (3, 14, 13), turn(7), (3, 17), 40.0, 60.0, (1.0, 0.9, 1.1), 1.5, (0.3, 0.0), curved=curved
    )
    F = FanBeam((14, 13), turn(7), 17, 40.0, 60.0, (0.9, 1.1), 1.5, 0.3, curved)
    x = random((2, 1, 14, 13))
    volume = torch.zeros(2, 1, 3, 14, 13, dtype=torch.float64)
    volume[:, :, 1] = x
    assert relative(A(volume)[:, :, :, 1], F(x.flip(2))) < 1e-12


def test_vectors_are_astras() -> None:
    astra = pytest.importorskip("astra")
    angles = np.linspace(0.1, 6.0, 8)
    geometry = astra.create_proj_geom("cone", 1.5, 1.7, 15, 17, angles, 40.0, 20.0)
    A = ConeBeam((12, 14, 13), angles, (15, 17), 40.0, 60.0, detector_spacing=(1.7, 1.5))
    np.testing.assert_allclose(A.vectors, astra.geom_2vec(geometry)["Vectors"], atol=1e-12)
    moved = astra.geom_postalignment(geometry, (0.4, 0.7))["Vectors"]
    np.testing.assert_allclose(
        A.with_parameters(
            detector_shift=torch.tensor([0.4 * 1.5, 0.7 * 1.7], dtype=torch.float64)
        ).vectors,
        moved,
        atol=1e-12,
    )


def test_poses_do_what_they_say() -> None:
    A = ConeBeam(**SMALL)
    s, d, u, v = A.vectors.split(3, -1)
    eu, ev = u / u.norm(dim=1, keepdim=True), v / v.norm(dim=1, keepdim=True)
    n = (d - s) / (d - s).norm(dim=1, keepdim=True)

    def vectors(**parameters: Any) -> tuple[torch.Tensor, ...]:
        return A.with_parameters(
            **{k: torch.tensor(v, dtype=torch.float64) for k, v in parameters.items()}
        ).vectors.split(3, -1)

    new = vectors(source_shift=(0.1, 0.2, 0.3))
    torch.testing.assert_close(new[0], s + 0.1 * eu + 0.2 * ev + 0.3 * n)
    torch.testing.assert_close(new[1], d)
    new = vectors(detector_shift=[(0.5, 0.7)] * 3)
    torch.testing.assert_close(new[1], d + 0.5 * eu + 0.7 * ev)
    new = vectors(axis_shift=0.4)
    torch.testing.assert_close(new[0], s - 0.4 * eu)
    torch.testing.assert_close(new[1], d - 0.4 * eu)
    new = vectors(detector_rotation=(0.0, 0.0, math.pi / 2))
    torch.testing.assert_close(new[2], 1.6 * ev)
    torch.testing.assert_close(new[3], -1.7 * eu)
    torch.testing.assert_close(vectors(detector_rotation=(math.pi / 2, 0.0, 0.0))[3], 1.7 * n)
    torch.testing.assert_close(vectors(detector_rotation=(0.0, math.pi / 2, 0.0))[2], 1.6 * n)
    new = vectors(pitch=3.0)
    torch.testing.assert_close(new[0][:, 2], 3 * A.angles / (2 * math.pi))
    new = vectors(tilt=0.3)
    torch.testing.assert_close(
        new[0][:, 2], torch.full((3,), 14 * math.sin(0.3), dtype=torch.float64)
    )
    for left, right in ((new[1] - new[0], new[2]), (new[1] - new[0], new[3]), (new[2], new[3])):
        assert float((left * right).sum(1).abs().max()) < 1e-12


def test_trajectories_are_the_operators() -> None:
    torch.testing.assert_close(
        trajectories.circular([0.1, 2.0], 14.0, 21.0, (1.7, 1.6), (0.2, 0.3), 0.5),
        ConeBeam(
            **SMALL | dict(angles=[0.1, 2.0], detector_shift=(0.2, 0.3), axis_shift=0.5)
        ).vectors,
    )
    torch.testing.assert_close(
        trajectories.helical([0.1, 2.0], 14.0, 21.0, 2.5, (1.7, 1.6)),
        ConeBeam(**SMALL | dict(angles=[0.1, 2.0], pitch=2.5)).vectors,
    )
    torch.testing.assert_close(
        trajectories.laminography([0.1, 2.0], 14.0, 21.0, 0.2, (1.7, 1.6)),
        ConeBeam(**SMALL | dict(angles=[0.1, 2.0], tilt=0.2)).vectors,
    )


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(2, 9), st.integers(2, 9)),
    panel=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    views=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    curved=st.booleans(),
)
@settings(max_examples=12, deadline=None)
@pytest.mark.filterwarnings("ignore:the field of view")
def test_is_an_operator(shape: Any, panel: Any, views: int, seed: int, curved: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    r = torch.rand(12, generator=g, dtype=torch.float64).tolist()
    A = ConeBeam(
        shape,
        6 * torch.rand(views, generator=g, dtype=torch.float64),
        panel,
        25 + 10 * r[0],
        40 + 20 * r[1],
        (0.7 + r[2], 0.7 + r[3], 0.7 + r[4]),
        (1 + r[5], 1 + r[6]),
        (0.2 * r[7] - 0.1, 0.0 if curved else 0.2 * r[8] - 0.1),
        pitch=0.5 * r[9],
        tilt=0.1 * r[10],
        curved=curved,
        axis_shift=0.1 * r[11],
        source_shift=[0.1, 0.2, 0.3],
        detector_rotation=[0.03, -0.02, 0.05],
    )
    check_operator(A, batch=2)


@pytest.mark.parametrize("curved", [False, True])
def test_every_pose_is_differentiable(curved: bool) -> None:
    A = ConeBeam(**SMALL, curved=curved)
    x = random((1, 1, 5, 7, 6)).requires_grad_()
    views = len(A.angles)
    start = dict(
        angles=A.angles,
        source_origin=A.source_origin,
        source_detector=A.source_detector,
        detector_shift=torch.tensor([[0.13, 0.0], [-0.2, 0.0], [0.05, 0.0]])
        if curved
        else 0.3 * random((views, 2), 1),
        axis_shift=torch.tensor([0.21]),
        pitch=torch.tensor([0.4]),
        tilt=torch.tensor([0.07]),
        source_shift=0.3 * random((views, 3), 2),
        detector_rotation=0.1 * random((views, 3), 3),
    )
    free = [value.double().clone().requires_grad_() for value in start.values()]

    def forward(x: torch.Tensor, *poses: torch.Tensor) -> torch.Tensor:
        return A.with_parameters(**dict(zip(start, poses)))(x)

    assert torch.autograd.gradcheck(forward, (x, *free), eps=1e-6, atol=2e-5, fast_mode=True)
    y = random((1, 1, views, 6, 8), 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda y, *p: A.with_parameters(**dict(zip(start, p))).adjoint(y),
        (y, *free),
        eps=1e-6,
        atol=2e-5,
        fast_mode=True,
    )


def test_vectors_are_parameters() -> None:
    A = ConeBeam(**SMALL)
    B = ConeBeam.from_vectors(A.volume_shape, A.vectors, A.detector_shape, A.voxel_size)
    x = random((2, 3, 5, 7, 6))
    assert isinstance(B, VectorScan) and torch.equal(B(x), A(x))
    free = {name: value.clone().requires_grad_() for name, value in B.parameters().items()}
    assert list(free) == ["source", "detector", "u", "v"]
    assert torch.autograd.gradcheck(
        lambda *p: B.with_parameters(**dict(zip(free, p)))(x[:1, :1]),
        tuple(free.values()),
        eps=1e-6,
        atol=2e-5,
        fast_mode=True,
    )
    check_operator(B, batch=2)
    with pytest.raises(InputError, match="CGLS"):
        B.pseudo_inverse(A(x))


def test_subsets_and_chunks() -> None:
    A = ConeBeam(
        **SMALL | dict(angles=turn(7)),
        detector_shift=torch.stack([torch.linspace(-1, 1, 7), torch.zeros(7)], 1).double(),
    )
    x = random((2, 1, 5, 7, 6), dtype=torch.float32)
    y = A(x)
    index = torch.tensor([4, 1, 1])
    assert torch.equal(A.subset(index)(x), y[:, :, index])
    assert torch.equal(A.subset(slice(1, None, 2))(x), y[:, :, 1::2])
    assert (
        A.blocks == 7 and A.subset([2]).blocks == 1 and A.subset([2]).detector_shift.shape == (1, 2)
    )
    out = torch.empty_like(y)
    for views, part in A.project_chunks(x, 3):
        out[:, :, views] = part
    assert torch.equal(out, y)
    seen: list[slice] = []

    def load(views: slice) -> torch.Tensor:
        seen.append(views)
        return y[:, :, views]

    assert relative(A.adjoint_chunks(load, 2), A.adjoint(y)) < 1e-6
    assert [views.start for views in seen] == [0, 2, 4, 6]
    B = ConeBeam(**SMALL | dict(angles=turn(7)), views_per_chunk=2)
    C = ConeBeam(**SMALL | dict(angles=turn(7)))
    assert relative(B.normal(x), C.adjoint(C(x))) < 1e-6
    assert relative(B.pseudo_inverse(y), C.pseudo_inverse(y)) < 1e-6
    assert torch.equal(C.normal(x), C.adjoint(C(x)))


def test_every_item_may_have_its_own_geometry() -> None:
    A = ConeBeam(**SMALL)
    x = random((2, 3, 5, 7, 6))
    shifts = random((2, 1, 2), 5)
    tilts = torch.tensor([[0.0], [0.1]], dtype=torch.float64)
    B = A.with_parameters(detector_shift=shifts, tilt=tilts)
    assert B.items == 2 and A.items is None and B.vectors.shape == (2, 3, 12)
    for k in range(2):
        alone = ConeBeam(**SMALL, detector_shift=shifts[k], tilt=tilts[k])
        assert torch.equal(B(x)[k], alone(x[k : k + 1])[0])
        assert torch.equal(B.select(torch.tensor([k]))(x[k : k + 1]), alone(x[k : k + 1]))
        assert torch.equal(B.adjoint(B(x))[k], alone.adjoint(alone(x[k : k + 1]))[0])
    check_operator(B)
    # Items as many as views: nothing is taken for something else.
    C = A.subset([0, 1]).with_parameters(axis_shift=torch.tensor([[0.0], [0.5]]))
    assert torch.equal(C.select(torch.tensor([1]))(x[1:]), C(x)[1:])
    with pytest.raises(InputError, match="different numbers of items"):
        A.with_parameters(detector_shift=shifts, tilt=torch.zeros(3, 1))


def test_names_and_problems() -> None:
    from invtoolbox.catalogue.registry import lookup

    assert lookup("operators", "cone-beam") is ConeBeam is it.operators.ConeBeam
    A = ConeBeam(**SMALL)
    assert it.Problem(torch.zeros(1, *A.range_shape), A).subset([0, 2]).y.shape[2] == 2
    assert A.to(torch.float32).angles.dtype == torch.float32


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(angles=torch.arange(0.0, 360.0)), "degrees.*deg2rad"),
        (dict(angles=torch.arange(0.0, 3600.0), pitch=5.0), "degrees"),
        (dict(angles=[0.0, math.nan]), "finite.*view 1"),
        (dict(volume_shape=(5, 6)), "volume_shape must be"),
        (dict(detector_shape=7), "detector_shape must be"),
        (dict(voxel_size=(1.0, 2.0)), "voxel_size must be one length or 3"),
        (dict(voxel_size=-1.0), "voxel_size"),
        (dict(source_origin=2.0), "source of ConeBeam.*inside the volume"),
        (dict(source_detector=10.0), "source_detector"),
        (dict(source_origin=[14.0, 15.0]), "one entry, or one per view"),
        (dict(detector_shift=(1.0, 2.0, 3.0)), "detector_shift.*shape"),
        (dict(detector_shift=(100.0, 0.0)), "no ray"),
        (dict(detector_shift=(9.0, 0.0)), "never sees the centre"),
        (dict(detector_shift=(0.0, 0.5), curved=True), "curved panel"),
        (dict(tilt=20.0), "tilt must be in radians"),
        (dict(source_origin=None), "source_origin of a scan must be positive"),
        (dict(angles="all"), "angles must be a number, or an array"),
        (dict(voxel_size="1 mm"), "voxel_size must be a number"),
        (dict(views_per_chunk=0), "views_per_chunk"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConeBeam(**SMALL | arguments)


def test_warns_of_what_is_cut_off() -> None:
    with pytest.warns(UserWarning, match="cuts the object off at the sides"):
        ConeBeam(**SMALL | dict(detector_shape=(6, 4)))
    with pytest.warns(UserWarning, match="cuts the object off above or below"):
        ConeBeam(**SMALL | dict(detector_shape=(2, 8)))
    with pytest.raises(InputError, match=r"\(batch, channel, 5, 7, 6\).*slice"):
        ConeBeam(**SMALL)(torch.zeros(1, 1, 4, 7, 6))
    ConeBeam(**SMALL | dict(angles=torch.linspace(-30, 30, 400), pitch=1.0, detector_shape=(2, 8)))


@pytest.mark.parametrize(
    "vectors, message",
    [
        ([[0, -20, 0, 0, 20, 0, 0, 1, 0, 0, 0, 1.0]], "edge-on.*view 0"),
        (np.zeros((3, 12)), "length 0"),
        (np.zeros((3, 6)), "shape"),
        (np.full((1, 12), np.nan), "finite"),
    ],
)
def test_refuses_vectors(vectors: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VectorScan((4, 4, 4), vectors, (3, 3))


def test_draws_its_geometry(tmp_path: Any) -> None:
    for A in (
        ConeBeam(**SMALL),
        ConeBeam(**SMALL, curved=True, tilt=0.2),
        FanBeam((5, 5), [0.0, 0.1], 9, 10.0, 15.0),
    ):
        figure = A.plot()
        figure.savefig(tmp_path / "geometry.png")
        assert (tmp_path / "geometry.png").stat().st_size > 10_000
    # The volume's outline on the panel in view 0 begins at its corner (-x, -y, -z).
    A = ConeBeam(**SMALL)
    first = A.plot().axes[1].lines[0]
    source, detector, u, v = A.vectors[0].numpy().reshape(4, 3)
    across, along, depth = np.linalg.solve(
        np.stack([u, v, detector - source], 1), [-3.3, -3.15, -2.5] - source
    )
    np.testing.assert_allclose(
        [first.get_xdata()[0], first.get_ydata()[0]], [across / depth + 3.5, along / depth + 2.5]
    )


@pytest.mark.parametrize(
    "further",
    [
        {},
        dict(curved=True),
        dict(tilt=0.3, pitch=4.0, detector_rotation=(0.1, 0.2, 0.3)),
        dict(curved=True, detector_rotation=(0.1, 0.05, 0.3), source_shift=(0.3, 0.2, 0.1)),
    ],
    ids=str,
)
def test_cells_are_seen_in_themselves(further: dict[str, Any]) -> None:
    A = ConeBeam(**SMALL, **further)
    start, direction = rays(A)
    for k in range(3):
        places = (start + 0.7 * direction)[k].reshape(-1, 3)
        row, column, depth = seen_cells(A._views(A.vectors, A.vectors), places)
        np.testing.assert_allclose(
            row[k].reshape(6, 8), np.arange(6)[:, None] + np.zeros(8), atol=1e-9
        )
        np.testing.assert_allclose(
            column[k].reshape(6, 8), np.arange(8) + np.zeros((6, 1)), atol=1e-9
        )
        assert bool((depth[k] > 0).all())
