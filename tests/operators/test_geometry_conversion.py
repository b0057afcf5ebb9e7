"""Geometries of ASTRA and ODL (live), CIL and TIGRE (objects with their documented attributes): the same rays, there and back."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.operators import (
    ConeBeam,
    FanBeam,
    ParallelBeam,
    ParallelBeam3D,
    VectorScan,
    from_astra,
    from_cil,
    from_odl,
    from_tigre,
    to_astra,
    to_cil,
    to_odl,
    to_tigre,
)
from invtoolbox.operators.tomography import trajectories

ANGLES = np.array([0.1, 0.5, 1.2, 2.0, 3.3, 4.1])
VOLUME: dict[str, Any] = dict(
    volume_shape=(12, 14, 13),
    angles=ANGLES,
    detector_shape=(17, 19),
    voxel_size=(1.0, 0.9, 1.1),
    detector_spacing=(1.3, 1.4),
)
CONE = VOLUME | dict(source_origin=40.0, source_detector=60.0)


def same(A: Any, B: Any) -> None:
    """The same kind of scan with the same rays."""
    assert type(A) is type(B)
    if hasattr(A, "volume_shape"):
        assert A.volume_shape == B.volume_shape and A.detector_shape == B.detector_shape
        np.testing.assert_allclose(A.voxel_size, B.voxel_size)
        torch.testing.assert_close(A.vectors, B.vectors, rtol=0, atol=1e-10)
        return
    assert A.image_shape == B.image_shape and A.num_detectors == B.num_detectors
    np.testing.assert_allclose(A.pixel_size, B.pixel_size)
    assert A.detector_spacing == pytest.approx(B.detector_spacing)
    np.testing.assert_allclose(
        np.exp(1j * A.angles.numpy()), np.exp(1j * B.angles.numpy()), atol=1e-10
    )
    np.testing.assert_allclose(
        A.detector_shift + 0 * A.angles, B.detector_shift + 0 * B.angles, atol=1e-10
    )
    if isinstance(A, FanBeam):
        assert (A.source_origin, A.source_detector, A.curved) == pytest.approx(
            (B.source_origin, B.source_detector, B.curved)
        )


def blob(height: int, width: int) -> torch.Tensor:
    i, j = torch.meshgrid(
        torch.arange(height) - 0.3 * height, torch.arange(width) - 0.6 * width, indexing="ij"
    )
    return torch.exp(-(i**2 / 60 + j**2 / 25))


# -- ASTRA -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cone", "parallel3d"])
def test_astra_3d(kind: str) -> None:
    astra = pytest.importorskip("astra")
    volumes = [
        astra.create_vol_geom(14, 13, 12),
        astra.create_vol_geom(14, 13, 12, -6, 6, -8, 8, -5, 5),
    ]
    geometry = astra.create_proj_geom(
        kind, 1.5, 1.7, 15, 17, ANGLES, *([40.0, 20.0] if kind == "cone" else [])
    )
    vectors = astra.geom_2vec(geometry)
    for volume in volumes:
        A, B = from_astra(geometry, volume), from_astra(vectors, volume)
        assert type(A) is type(B) is (ConeBeam if kind == "cone" else ParallelBeam3D)
        np.testing.assert_allclose(A.vectors, vectors["Vectors"], atol=1e-12)
        np.testing.assert_allclose(B.vectors, vectors["Vectors"], atol=1e-12)
        back, window = to_astra(A)
        assert window == volume and back.keys() == geometry.keys() and back["type"] == kind
        assert all(np.array_equal(back[name], geometry[name]) for name in geometry)
        moved = astra.geom_postalignment(geometry, (0.4, 0.7))
        C = from_astra(moved, volume)
        assert type(C) is type(A)
        np.testing.assert_allclose(to_astra(C)[0]["Vectors"], moved["Vectors"], atol=1e-12)
        tilted = moved | dict(Vectors=moved["Vectors"] + 0.01 * np.arange(12))
        D = from_astra(tilted, volume)
        assert isinstance(D, VectorScan)
        np.testing.assert_allclose(to_astra(D)[0]["Vectors"], tilted["Vectors"], atol=1e-12)


def test_a_small_tilt_is_not_taken_for_none() -> None:
    for A in (ConeBeam(**CONE, tilt=0.003), ParallelBeam3D(**VOLUME, tilt=0.003)):
        B = from_astra(*to_astra(A))
        assert isinstance(B, VectorScan) and torch.equal(A.vectors, B.vectors)


def test_astra_volumes_beside_the_origin() -> None:
    """What matters is where the rays run through the voxels."""
    astra = pytest.importorskip("astra")
    geometry = astra.create_proj_geom("cone", 1.5, 1.7, 25, 27, ANGLES, 60.0, 20.0)
    A = from_astra(geometry, astra.create_vol_geom(14, 13, 12, -5.5, 7.5, -7, 7, -3, 9))
    assert isinstance(A, VectorScan)
    np.testing.assert_allclose(
        A.vectors[:, :3], astra.geom_2vec(geometry)["Vectors"][:, :3] - [1.0, 0.0, 3.0], atol=1e-12
    )
    B = from_astra(geometry, astra.create_vol_geom(14, 13, 12, -6.5, 6.5, -7, 7, -3, 9))
    assert isinstance(B, ConeBeam)  # above the plane of the circle: Feldkamp's method holds
    np.testing.assert_allclose(B.vectors[:, [2, 5]], -3.0)
    P = from_astra(
        astra.create_proj_geom("parallel", 1.2, 30, ANGLES),
        astra.create_vol_geom(14, 13, -5, 8, -7, 7),
    )
    np.testing.assert_allclose(P.detector_shift, -1.5 * np.cos(ANGLES), atol=1e-12)


def test_astra_helix_and_curved_panel() -> None:
    A = ConeBeam(
        **CONE | dict(angles=np.linspace(-9, 12, 80)), pitch=4.0, detector_shift=(0.3, 0.5)
    )
    B = from_astra(*to_astra(A))
    same(A, B)
    assert isinstance(B, ConeBeam) and float(B.pitch) == pytest.approx(4.0)
    C = ConeBeam(**CONE, curved=True, detector_shift=(0.5, 0.0))
    geometry, volume = to_astra(C)
    assert geometry["type"] == "cyl_cone_vec" and geometry["Vectors"].shape == (6, 13)
    D = from_astra(geometry, volume)
    assert D.curved and torch.equal(D.vectors, C.vectors)
    geometry["Vectors"][:, 12] = 50
    with pytest.raises(InputError, match="around the source"):
        from_astra(geometry, volume)


def test_astra_2d_projects_the_same() -> None:
    astra = pytest.importorskip("astra")
    volume = astra.create_vol_geom(40, 36, -18, 18, -20, 20)
    x = blob(40, 36)
    for geometry in (
        astra.create_proj_geom("parallel", 1.2, 60, ANGLES),
        astra.create_proj_geom("fanflat", 1.5, 61, ANGLES, 80.0, 40.0),
    ):
        A = from_astra(geometry, volume)
        assert type(A) is (ParallelBeam if geometry["type"] == "parallel" else FanBeam)
        back, window = to_astra(A)
        assert window == volume and all(
            np.array_equal(back[name], geometry[name]) for name in geometry
        )
        moved = astra.geom_postalignment(geometry, 0.7)
        B = from_astra(moved, volume)
        np.testing.assert_allclose(to_astra(B)[0]["Vectors"], moved["Vectors"], atol=1e-12)
        projector = astra.create_projector(
            "line_fanflat" if isinstance(A, FanBeam) else "linear", moved, volume
        )
        theirs = torch.from_numpy(astra.create_sino(x.numpy(), projector)[1])
        assert float((B(x[None, None])[0, 0] - theirs).norm() / theirs.norm()) < 0.02


def test_astra_refusals() -> None:
    A = FanBeam((9, 9), ANGLES, 20, 40.0, 60.0)
    geometry, window = to_astra(A)
    with pytest.raises(InputError, match="no ASTRA geometry named"):
        from_astra(geometry | dict(type="fan"), window)
    with pytest.raises(InputError, match="must have 2 dimensions"):
        from_astra(geometry, to_astra(ConeBeam(**CONE))[1])
    with pytest.raises(InputError, match="curved detector in 2D"):
        to_astra(FanBeam((9, 9), ANGLES, 20, 40.0, 60.0, curved=True))
    with pytest.raises(InputError, match="every item"):
        to_astra(ConeBeam(**CONE).with_parameters(tilt=torch.tensor([[0.0], [0.1]])))
    with pytest.raises(InputError, match="2D or 3D scan"):
        to_astra(it.operators.Identity((1, 4)))
    shifted, _ = to_astra(FanBeam((9, 9), ANGLES, 20, 40.0, 60.0, detector_shift=0.5))
    shifted["Vectors"][:, 0] += 1
    with pytest.raises(InputError, match="circle around the image's centre"):
        from_astra(shifted, window)


# -- ODL -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "A",
    [
        ConeBeam(**CONE, detector_shift=(0.3, 0.5), pitch=2.0),
        ConeBeam(**CONE, detector_shift=(0.3, 0.0), curved=True),
        ParallelBeam3D(**VOLUME, detector_shift=(0.3, 0.5)),
        FanBeam((14, 13), ANGLES, 27, 40.0, 60.0, (0.9, 1.1), 1.4, 0.3),
        FanBeam((14, 13), ANGLES, 27, 40.0, 60.0, (0.9, 1.1), 1.4, 0.3, curved=True),
        ParallelBeam((14, 13), ANGLES, 27, (0.9, 1.1), 1.4, 0.3),
    ],
    ids=str,
)
def test_odl_there_and_back(A: Any) -> None:
    pytest.importorskip("odl")
    geometry, space = to_odl(A)
    same(from_odl(geometry, space), A)
    shape = getattr(A, "volume_shape", None) or A.image_shape
    assert tuple(space.shape) == shape[::-1]


def test_odl_projects_the_same() -> None:
    """On its own ASTRA backend, which leaves out the shift of a parallel detector."""
    odl = pytest.importorskip("odl")
    pytest.importorskip("astra")
    from odl.applications.tomo import RayTransform

    for A in (
        ParallelBeam((40, 40), ANGLES, 67, 1.0, 1.4),
        FanBeam((40, 40), ANGLES, 67, 80.0, 120.0, 1.0, 1.4, 0.3),
    ):
        geometry, _ = to_odl(A)
        space = odl.uniform_discr([-20, -20], [20, 20], (40, 40), dtype="float32")
        array = blob(40, 40).numpy()
        theirs = np.asarray(RayTransform(space, geometry, impl="astra_cpu")(array).data)
        ours = from_odl(geometry, space)(torch.from_numpy(np.rot90(array).copy())[None, None])[
            0, 0
        ].numpy()
        assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)


def test_odl_refusals() -> None:
    pytest.importorskip("odl")
    with pytest.raises(InputError, match="grow from view to view"):
        to_odl(ParallelBeam((14, 13), ANGLES[::-1].copy(), 27))
    with pytest.raises(InputError, match="not support the tilt"):
        to_odl(ConeBeam(**CONE, tilt=0.1))
    with pytest.raises(InputError, match="one detector_shift for all views"):
        to_odl(ConeBeam(**CONE, detector_shift=np.arange(12.0).reshape(6, 2) / 10))


# -- TIGRE: the attributes of its geometry ---------------------------------------------------------


def tigre(**further: Any) -> Any:
    return SimpleNamespace(
        **dict(
            DSO=40.0,
            DSD=60.0,
            nVoxel=np.array([12, 14, 13]),
            dVoxel=np.array([1.0, 0.9, 1.1]),
            nDetector=np.array([17, 19]),
            dDetector=np.array([1.3, 1.4]),
            mode="cone",
        )
        | further
    )


def test_tigre_source_is_at_positive_x_at_angle_0() -> None:
    A = from_tigre(tigre(offDetector=np.array([0.5, 0.3])), np.array([0.0, math.pi / 2]))
    assert (
        isinstance(A, ConeBeam) and A.voxel_size == (1.0, 0.9, 1.1) and A.detector_shape == (17, 19)
    )
    torch.testing.assert_close(
        A.vectors[0].reshape(4, 3),
        torch.tensor(
            [[40.0, 0, 0], [-20.0, 0.3, 0.5], [0, 1.4, 0], [0, 0, 1.3]], dtype=torch.float64
        ),
    )
    torch.testing.assert_close(
        A.vectors[1, :3], torch.tensor([0.0, 40.0, 0.0], dtype=torch.float64)
    )


def test_tigre_there_and_back() -> None:
    A = ConeBeam(
        **CONE, detector_shift=(0.3, 0.5), axis_shift=0.4, detector_rotation=(0.02, 0.03, 0.05)
    )
    geometry, angles = to_tigre(A, SimpleNamespace())
    same(from_tigre(geometry, angles), A)
    np.testing.assert_array_equal(geometry.sDetector, geometry.nDetector * geometry.dDetector)
    # The same through Euler angles and vectors.
    B = from_tigre(geometry, np.stack([angles, 0 * angles, 0 * angles + 1e-12], 1))
    assert isinstance(B, VectorScan)
    torch.testing.assert_close(B.vectors, A.vectors, rtol=0, atol=1e-9)
    P = ParallelBeam3D(**VOLUME, detector_shift=(0.3, 0.5))
    same(from_tigre(*to_tigre(P, SimpleNamespace())), P)
    shifts = np.arange(12.0).reshape(6, 2) / 10
    C = ConeBeam(**CONE, detector_shift=shifts)
    same(from_tigre(*to_tigre(C, SimpleNamespace())), C)


@pytest.mark.filterwarnings("ignore:the field of view")
def test_tigre_offsets_and_tilts() -> None:
    """`offOrigin` (z, y, x) moves the volume; the second Euler angle tilts source and panel about y before the turn about z."""
    plain = from_tigre(tigre(), ANGLES)
    A = from_tigre(tigre(offOrigin=np.array([3.0, 2.0, 1.0])), ANGLES)
    torch.testing.assert_close(
        A.vectors[:, :3], plain.vectors[:, :3] - torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    )
    B = from_tigre(tigre(), np.array([[0.0, 0.2, 0.0]]))
    torch.testing.assert_close(
        B.vectors[0, :3],
        40 * torch.tensor([math.cos(0.2), 0.0, -math.sin(0.2)], dtype=torch.float64),
    )
    lamino = trajectories.laminography([math.pi / 2], 40.0, 60.0, -0.2, (1.3, 1.4))
    torch.testing.assert_close(B.vectors, lamino)


def test_tigre_refusals(monkeypatch: Any) -> None:
    with pytest.raises(InputError, match="not support the pitch"):
        to_tigre(ConeBeam(**CONE, pitch=1.0), SimpleNamespace())
    with pytest.raises(InputError, match="flat panel"):
        to_tigre(ConeBeam(**CONE, curved=True), SimpleNamespace())
    with pytest.raises(InputError, match="DSO.*2 entries for 6 angles"):
        from_tigre(tigre(DSO=np.array([40.0, 41.0])), ANGLES)
    monkeypatch.setitem(sys.modules, "tigre", None)
    with pytest.raises(MissingDependency, match="install TIGRE"):
        to_tigre(ConeBeam(**CONE))


# -- CIL: the attributes of its geometries, as its create_... functions set them -------------------


class Acquisition:
    """The documented interface of CIL's AcquisitionGeometry, and the attributes that its own converters read."""

    def __init__(
        self, kind: str, first: Any, detector: Any, axis: Any, direction: Any = (0.0, 0.0, 1.0)
    ) -> None:
        size = len(detector)
        panel = SimpleNamespace(
            position=np.array(detector), direction_x=np.eye(size)[0], direction_y=np.eye(3)[2]
        )
        system = SimpleNamespace(geometry=kind, detector=panel)
        system.rotation_axis = SimpleNamespace(
            position=np.array(axis), direction=np.array(direction) / np.linalg.norm(direction)
        )
        if kind == "parallel":
            system.ray = SimpleNamespace(direction=np.array(first))
        else:
            system.source = SimpleNamespace(position=np.array(first))
        self.config = SimpleNamespace(system=system)

    @classmethod
    def create_Cone3D(
        cls,
        source_position: Any,
        detector_position: Any,
        rotation_axis_position: Any = (0.0, 0.0, 0.0),
        rotation_axis_direction: Any = (0.0, 0.0, 1.0),
    ) -> Acquisition:
        return cls(
            "cone",
            source_position,
            detector_position,
            rotation_axis_position,
            rotation_axis_direction,
        )

    @classmethod
    def create_Cone2D(
        cls, source_position: Any, detector_position: Any, rotation_axis_position: Any = (0.0, 0.0)
    ) -> Acquisition:
        return cls("cone", source_position, detector_position, rotation_axis_position)

    @classmethod
    def create_Parallel3D(cls, ray_direction: Any, detector_position: Any) -> Acquisition:
        return cls("parallel", ray_direction, detector_position, (0.0, 0.0, 0.0))

    @classmethod
    def create_Parallel2D(cls, ray_direction: Any, detector_position: Any) -> Acquisition:
        return cls("parallel", ray_direction, detector_position, (0.0, 0.0))

    @classmethod
    def create_Cone3D_Flex(
        cls,
        source_position_set: Any,
        detector_position_set: Any,
        detector_direction_x_set: Any,
        detector_direction_y_set: Any,
        volume_centre_position: Any = (0.0, 0.0, 0.0),
    ) -> Acquisition:
        self = object.__new__(cls)
        detectors = [
            SimpleNamespace(position=d, direction_x=x, direction_y=y)
            for d, x, y in zip(
                detector_position_set, detector_direction_x_set, detector_direction_y_set
            )
        ]
        self.config = SimpleNamespace(
            system=SimpleNamespace(
                geometry="cone_flex",
                source=[SimpleNamespace(position=s) for s in source_position_set],
                detector=detectors,
                volume_centre=SimpleNamespace(position=np.array(volume_centre_position)),
            )
        )
        return self

    def set_angles(
        self, angles: Any, initial_angle: float = 0.0, angle_unit: str = "degree"
    ) -> Acquisition:
        self.config.angles = SimpleNamespace(
            angle_data=np.asarray(angles), initial_angle=initial_angle, angle_unit=angle_unit
        )
        return self

    def set_panel(
        self, num_pixels: Any, pixel_size: Any = (1.0, 1.0), origin: str = "bottom-left"
    ) -> Acquisition:
        self.config.panel = SimpleNamespace(
            num_pixels=np.array(num_pixels), pixel_size=np.array(pixel_size), origin=origin
        )
        return self


class Image(SimpleNamespace):
    def __init__(self, **sizes: Any) -> None:
        super().__init__(
            **dict(
                voxel_num_z=1,
                voxel_size_x=1.0,
                voxel_size_y=1.0,
                voxel_size_z=1.0,
                center_x=0.0,
                center_y=0.0,
                center_z=0.0,
            )
            | sizes
        )


@pytest.fixture
def cil(monkeypatch: Any) -> None:
    framework = ModuleType("cil.framework")
    framework.AcquisitionGeometry, framework.ImageGeometry = Acquisition, Image  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cil", ModuleType("cil"))
    monkeypatch.setitem(sys.modules, "cil.framework", framework)


@pytest.mark.usefixtures("cil")
@pytest.mark.parametrize(
    "A",
    [
        ConeBeam(**CONE, detector_shift=(0.3, 0.5), axis_shift=0.4),
        ParallelBeam3D(**VOLUME, detector_shift=(0.3, 0.5)),
        FanBeam((14, 13), ANGLES, 27, 40.0, 60.0, (0.9, 1.1), 1.4, 0.3),
        ParallelBeam((14, 13), ANGLES, 27, (0.9, 1.1), 1.4, 0.3),
    ],
    ids=str,
)
def test_cil_there_and_back(A: Any) -> None:
    same(from_cil(*to_cil(A)), A)


def test_cil_turns_the_object() -> None:
    """CIL's source is at negative y at angle 0, and its angles count the object's turn: ours have the opposite sign."""
    image = Image(voxel_num_x=13, voxel_num_y=14, voxel_num_z=12)
    acquisition = (
        Acquisition.create_Cone3D([0.0, -40.0, 0.0], [0.0, 20.0, 0.0])
        .set_angles([0.0, 30.0])
        .set_panel((19, 17), (1.4, 1.3))
    )
    A = from_cil(acquisition, image)
    assert (
        isinstance(A, ConeBeam) and A.detector_shape == (17, 19) and A.volume_shape == (12, 14, 13)
    )
    np.testing.assert_allclose(A.angles, [0.0, -math.pi / 6], atol=1e-12)
    np.testing.assert_allclose(
        A.vectors[0], [0, -40, 0, 0, 20, 0, 1.4, 0, 0, 0, 0, 1.3], atol=1e-12
    )
    acquisition.set_angles([0.0, 0.5], initial_angle=0.1, angle_unit="radian")
    np.testing.assert_allclose(from_cil(acquisition, image).angles, [-0.1, -0.6])
    # Row 0 at the top of the panel: the same cells with their rows flipped.
    top = from_cil(acquisition.set_panel((19, 17), (1.4, 1.3), "top-left"), image)
    x = torch.rand(1, 1, 12, 14, 13, generator=torch.Generator().manual_seed(0))
    acquisition.set_panel((19, 17), (1.4, 1.3))
    torch.testing.assert_close(top(x), from_cil(acquisition, image)(x).flip(3))


@pytest.mark.usefixtures("cil")
def test_cil_poses_of_every_view() -> None:
    A = VectorScan(
        (12, 14, 13),
        ConeBeam(**CONE, tilt=0.2, detector_rotation=(0.1, 0.0, 0.2)).vectors,
        (17, 19),
        (1.0, 0.9, 1.1),
    )
    acquisition, image = to_cil(A)
    same(from_cil(acquisition, image), A)
    acquisition.config.system.volume_centre.position = np.array([1.0, 0.5, -0.5])
    torch.testing.assert_close(
        from_cil(acquisition, image).vectors[:, :3],
        A.vectors[:, :3] - torch.tensor([1.0, 0.5, -0.5]).double(),
    )
    circle = from_cil(
        *to_cil(VectorScan((12, 14, 13), ConeBeam(**CONE).vectors, (17, 19), (1.0, 0.9, 1.1)))
    )
    same(circle, ConeBeam(**CONE))
    with pytest.raises(InputError, match="every view in CIL"):
        to_cil(VectorScan((12, 14, 13), ParallelBeam3D(**VOLUME).vectors, (17, 19), parallel=True))


def test_cil_laminography_and_refusals(monkeypatch: Any) -> None:
    image = Image(voxel_num_x=13, voxel_num_y=14, voxel_num_z=6)
    leaning = Acquisition.create_Cone3D(
        [0.0, -40.0, 0.0],
        [0.0, 20.0, 0.0],
        rotation_axis_direction=[0.0, -math.sin(0.2), math.cos(0.2)],
    )
    A = from_cil(leaning.set_angles([0.0]).set_panel((19, 17)), image)
    assert isinstance(A, VectorScan)
    # The axis leans towards the source: seen from the object, the source stands above the plane of
    # rotation.
    torch.testing.assert_close(A.vectors, trajectories.laminography([0.0], 40.0, 60.0, 0.2))
    with pytest.raises(InputError, match="parallel or cone beam, got"):
        from_cil(
            SimpleNamespace(
                config=SimpleNamespace(system=SimpleNamespace(geometry="spect"), panel=None)
            ),
            image,
        )
    monkeypatch.setitem(sys.modules, "cil", None)
    with pytest.raises(MissingDependency, match="install CIL"):
        to_cil(ConeBeam(**CONE))
    with pytest.raises(InputError, match="not support the pitch"):
        to_cil(ConeBeam(**CONE, pitch=1.0))


def test_missing_keys_of_astra_and_exchanged_geometries_are_named() -> None:
    window = {"WindowMinX": -2.0, "WindowMaxX": 2.0, "WindowMinY": -2.0, "WindowMaxY": 2.0}
    volume = {"GridRowCount": 4, "GridColCount": 4, "option": window}
    views = {"type": "parallel", "DetectorSpacingX": 1.0, "DetectorCount": 6}
    views["ProjectionAngles"] = [0.0, 1.0]
    with pytest.raises(
        it.InputError, match="no key 'DetectorWidth', which 'type' 'parallel' needs"
    ):
        it.operators.from_astra(views, volume)
    with pytest.raises(it.InputError, match="the first argument of from_astra"):
        it.operators.from_astra(volume, views)
    with pytest.raises(it.InputError, match=r"by it.operators.from_astra\(proj_geom, vol_geom\)"):
        it.as_operator(views)


def test_arguments_in_another_order_are_named() -> None:
    geometry = SimpleNamespace(DSO=100.0)
    with pytest.raises(InputError, match="from_tigre takes a geometry and the angles"):
        it.operators.from_tigre([0.0, 1.0], geometry)
    with pytest.raises(InputError, match="from_odl takes a geometry and the space"):
        it.operators.from_odl(SimpleNamespace(partition=None), SimpleNamespace(angles=None))


def test_objects_of_odl_are_told_how_to_come_in() -> None:
    odl = pytest.importorskip("odl")
    space = odl.uniform_discr([0, 0], [1, 1], [4, 4])
    with pytest.raises(InputError, match=r"odl.as_scipy_operator\(operator\)"):
        it.as_operator(odl.IdentityOperator(space))
    with pytest.raises(InputError, match="no operator"):
        it.as_operator(space)
