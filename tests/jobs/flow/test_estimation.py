"""Scene flow of a pair: right about who moves, a flow for every point, the same whoever asks."""

import dataclasses

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import relative_motion, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow import Preparation, estimate
from invtoolbox.jobs.flow.methods import METHODS, Default, Motion, Pair
from invtoolbox.jobs.flow.published import EulerSettings
from invtoolbox.jobs.flow.window import Neighbour


@pytest.fixture(scope="module")
def street():
    return it.simulation.street(sweeps=2, points=24_000, seed=0)


@pytest.fixture(scope="module")
def small_street():
    return it.simulation.street(sweeps=2, points=12_000, seed=0)


def motion_of(sweeps):
    return relative_motion(sweeps[0].pose, sweeps[1].pose)


def test_the_default_method_on_a_simulated_street(street):
    first, second = street[0], street[1]
    found = estimate(first, second)
    errors = it.metrics.evaluate(found, first, ego_motion=motion_of(street))
    zero = it.metrics.evaluate(
        found.flow - found.residual(first.points), first, ego_motion=motion_of(street)
    )
    assert errors.dynamic < 0.5 * zero.dynamic
    assert errors.static < 0.01
    still = ~found.dynamic & found.valid
    assert float(found.residual(first.points)[still].norm(dim=1).max()) < 0.05 + 1e-4


def test_calling_twice_gives_the_same_bits(street):
    first, second = (estimate(street[0], street[1]) for _ in range(2))
    assert torch.equal(first.flow, second.flow) and torch.equal(first.instance, second.instance)


def test_arrays_in_array_out_and_every_row_gets_a_flow(street):
    points = street[0].points.numpy().copy()
    points[7] = np.nan
    flow = it.scene_flow(points, street[1].points.numpy(), ego_motion=motion_of(street).numpy())
    assert isinstance(flow, np.ndarray) and flow.shape == points.shape and flow.dtype == np.float32
    assert np.isnan(flow[7]).all() and np.isfinite(np.delete(flow, 7, 0)).all()


def test_a_method_of_the_users_own(street):
    class Everything:
        def __call__(self, pair, seed):
            return Motion(torch.full_like(pair.source, 0.1), torch.full((len(pair.source),), -1))

    found = estimate(street[0], street[1], Everything())
    moved = found.residual(street[0].points)[found.dynamic]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), atol=1e-4, rtol=0)


def test_two_identical_sweeps(street):
    found = estimate(street[0], street[0])
    assert not bool(found.dynamic.any()) and any("same points" in note for note in found.notes)


class FakeCloud:
    """Attributes of `open3d.geometry.PointCloud`, whose points NumPy converts."""

    def __init__(self, points: torch.Tensor) -> None:
        self.points = points.double().tolist()


class FakeMesh:
    """Attributes of `open3d.geometry.TriangleMesh`."""

    def __init__(self, points: torch.Tensor) -> None:
        self.vertices = points.double().tolist()
        self.triangles = [[0, 1, 2]]


def test_clouds_and_meshes_of_other_packages(street):
    first, second = street[0].points[:4000], street[1].points[:4000]
    expected = it.scene_flow(first, second, ego_motion=motion_of(street))
    for kind in (FakeCloud, FakeMesh):
        source, target = kind(first), kind(second)
        flow = it.scene_flow(source, target, ego_motion=motion_of(street))
        assert isinstance(flow, np.ndarray)
        np.testing.assert_array_equal(flow, expected.numpy())
    trimesh = pytest.importorskip("trimesh")
    flow = it.scene_flow(
        trimesh.PointCloud(first.numpy()), FakeCloud(second), ego_motion=motion_of(street)
    )
    np.testing.assert_array_equal(flow, expected.numpy())
    mixed = it.scene_flow(first, FakeCloud(second), ego_motion=motion_of(street))
    assert torch.equal(mixed, expected)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (torch.zeros(0, 3), "empty"),
        (torch.full((50, 3), float("nan")), "none of its 50 points"),
        (torch.zeros(5, 2), "expected points"),
        (None, "expected points"),
        (np.array([["a", "b", "c"]]), "expected points"),
    ],
)
def test_bad_sweeps_are_named(street, source, words):
    with pytest.raises(InputError, match=words) as error:
        it.scene_flow(source, street[1])
    assert "the source" in str(error.value) or "source" in str(error.value)


def test_a_world_frame_and_damage_are_told_from_a_sensor_s(street):
    far = torch.tensor([5e5, 4e6, 100.0], dtype=torch.float64)
    with pytest.raises(InputError, match="the source: coordinates this large.*float64"):
        it.scene_flow(
            (street[0].points + far).float(), (street[1].points + far).float(), ego_motion="none"
        )
    points = street[0].points.clone()
    points[:3] = torch.tensor([[1e30, 0.0, 0.0], [3e8, -2e8, 1e5], [0.0, 9e5, 10.0]])
    flow = it.scene_flow(points, street[1].points, ego_motion=motion_of(street))
    assert bool(flow.isfinite().all())
    assert torch.equal(
        flow[3:],
        it.scene_flow(street[0].points[3:], street[1].points, ego_motion=motion_of(street)),
    )


def in_one_frame(street, shift):
    """Return both clouds in the frame of the second sweep, shifted."""
    first = transform(motion_of(street), street[0].points.double())
    return first + shift, street[1].points.double() + shift


def test_a_frame_of_a_map_changes_little_and_is_said(small_street):
    far = torch.tensor([5e5, 4e6, 100.0], dtype=torch.float64)
    here, there = in_one_frame(small_street, 0 * far)
    flow = it.scene_flow(here, there, ego_motion="none")
    given = it.scene_flow(here + far, there + far, ego_motion="none", sensor_origin=far.tolist())
    torch.testing.assert_close(given, flow, atol=1e-3, rtol=0)
    away = Sweep(here + far)
    found = estimate(away, Sweep(there + far), preparation=Preparation(ego_motion="none"))
    assert any("sensor_origin= gives it" in note for note in found.notes)
    assert float((found.flow - flow).norm(dim=1).mean()) < 0.01
    torch.testing.assert_close(found.residual(away.points), found.flow)
    with pytest.raises(InputError, match="three finite numbers"):
        it.scene_flow(here, there, sensor_origin=(0.0, 1.0))


def test_what_is_assumed_about_the_ground_changes_little(small_street):
    first, second = small_street
    plain = estimate(first, second)
    assert bool(plain.dynamic.any()) and not any("ground" in note for note in plain.notes)
    kept = estimate(first, second, preparation=Preparation(ground="none"))
    assert float((kept.flow - plain.flow).norm(dim=1).mean()) < 1e-3
    stray = torch.tensor([[8.0, 4.0, -7.0]])
    high = ~first.labels.ground
    above, below = (
        Sweep(torch.cat([sweep.points[~sweep.labels.ground], stray]), sweep.timestamp, pose=pose)
        for sweep, pose in ((first, first.pose), (second, second.pose))
    )
    found = estimate(above, below)
    assert not bool(found.ground.any())
    assert any("no ground was found" in note for note in found.notes)
    both = plain.dynamic[high] & found.dynamic[:-1]
    assert int(both.sum()) > 0.9 * int(plain.dynamic[high].sum())


def test_precision_and_strides_do_not_matter(street):
    points = street[0].points
    flow = it.scene_flow(points, street[1].points, ego_motion=motion_of(street))
    wide = torch.zeros(len(points), 6, dtype=torch.float64)
    wide[:, ::2] = points.double()
    assert torch.equal(
        it.scene_flow(wide[:, ::2], street[1].points.double(), ego_motion=motion_of(street)), flow
    )
    backwards = points.numpy().copy()[:, ::-1]
    backwards.flags.writeable = False
    turned = it.scene_flow(
        backwards[:, ::-1], street[1].points.numpy()[:, ::-1][:, ::-1], ego_motion=motion_of(street)
    )
    assert np.array_equal(turned, flow.numpy())


def test_times_that_are_not_known_are_not_used(street):
    first = dataclasses.replace(street[0], time=torch.full_like(street[0].time, torch.nan))
    found, without = (
        estimate(one, street[1]) for one in (first, dataclasses.replace(first, time=None))
    )
    assert torch.equal(found.flow, without.flow)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ["default", "icp-flow", "voxel"])
def test_on_a_gpu_as_on_the_cpu(street, method):
    on_cpu = estimate(street[0], street[1], method)
    on_gpu = estimate(street[0], street[1], method, device="cuda")
    assert (
        on_gpu.flow.device.type == "cpu"
        and float((on_gpu.dynamic == on_cpu.dynamic).float().mean()) > 0.99
    )
    assert float((on_gpu.flow - on_cpu.flow).norm(dim=1).median()) < 1e-3
    flow = it.scene_flow(
        street[0].points.cuda(),
        street[1].points.cuda(),
        method,
        ego_motion=motion_of(street).cuda(),
        device="cuda:0",
    )
    assert flow.is_cuda and flow.shape == street[0].points.shape


def test_sweeps_of_different_places(street):
    with pytest.raises(InputError, match="overlap"):
        it.scene_flow(street[0].points, street[1].points + 500.0, ego_motion="none")


def test_unknown_names(street):
    with pytest.raises(InputError, match="default"):
        it.scene_flow(street[0], street[1], method="defualt")
    with pytest.raises(InputError, match="ego_motion"):
        it.scene_flow(street[0], street[1], ego_motion=torch.eye(3))


QUICK = {
    "nsfp": {"max_iterations": 2},
    "euler": {"settings": EulerSettings(steps=1, window=2, max_iterations=2)},
}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_by_name_takes_a_whole_sweep(name):
    street = it.simulation.street(sweeps=2, points=6000)
    found = estimate(
        street[0], street[1], dataclasses.replace(METHODS[name](), **QUICK.get(name, {}))
    )
    assert bool(found.flow.isfinite().all()) and len(found.flow) == len(street[0])


@pytest.mark.parametrize("name", ["euler", "floxels"])
def test_published_methods_use_the_sweeps_of_a_window(name):
    """A thing that is hidden in the target moves as the other sweeps show."""
    cloud = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)) * 2
    walk = [cloud + torch.tensor([0.3 * step, 0.0, 0.0]) for step in (-2, -1, 0, 1, 2)]
    window = tuple(Neighbour(walk[k], k - 2.0) for k in (0, 1, 4))
    pair = Pair(walk[2], walk[3][:20], torch.zeros(0, 3), window=window)
    settings = {"euler": {"settings": EulerSettings(max_iterations=50, rigid=0.0)}}
    method = dataclasses.replace(METHODS[name](), **settings.get(name, {}))
    found = method(pair, 0).flow.mean(0)
    assert float((found - torch.tensor([0.3, 0.0, 0.0])).norm()) < 0.15


def test_no_points_at_all_for_a_method():
    none = torch.zeros(0, 3)
    for name in ("default", "icp-flow"):
        assert METHODS[name]()(Pair(none, none, none), 0).flow.shape == (0, 3)


@pytest.mark.data
def test_argoverse_pair(data_dir):
    """The bars of the default method, with the data set's ego motion and ground."""
    sweeps = it.datasets.open_sweeps(next((data_dir / "av2_pair").glob("*-*")))
    first = sweeps[0]
    found = estimate(first, sweeps[1], Default(), Preparation(ground="labels"))
    errors = it.metrics.evaluate(found, first, ego_motion=motion_of(sweeps))
    assert errors.dynamic < 0.17 and errors.static < 0.005


def test_a_window_gives_what_its_sweeps_give_in_any_order():
    street = it.simulation.street(sweeps=5, points=6000, seed=1)
    sweeps = [street[k] for k in range(5)]
    first = estimate(sweeps[2], sweeps[3], window=[sweeps[0], sweeps[4], sweeps[1]])
    again = estimate(sweeps[2], sweeps[3], window=[sweeps[4], sweeps[1], sweeps[0]])
    assert torch.equal(first.flow, again.flow)
    assert any("a window of 5 sweeps" in note for note in first.notes)


def test_a_sweep_of_the_window_that_cannot_be_used_is_left_out():
    street = it.simulation.street(sweeps=4, points=3000, seed=1)
    empty = Sweep(torch.zeros(0, 3), timestamp=0.3, source="the empty one")
    late = dataclasses.replace(street[3], timestamp=3e8, source="the late one")
    slow = dataclasses.replace(street[3], time=1e9 * street[3].time, source="the slow one")
    away = torch.eye(4, dtype=torch.float64)
    away[0, 3] = 500.0
    lost = dataclasses.replace(street[3], pose=street[3].pose @ away, source="the lost one")
    window = [street[0], empty, street[1], late, slow, lost]
    found = estimate(street[1], street[2], window=window)
    without = estimate(street[1], street[2], window=[street[0]])
    assert torch.equal(found.flow, without.flow)
    for name in ("empty", "late", "slow", "lost"):
        assert any(f"left out of the window: the {name} one" in note for note in found.notes)
    with pytest.raises(InputError, match="timestamps"):
        it.scene_flow(street[0].points, street[1].points, window=[street[2]], ego_motion="none")
    for wrong in (street[2], [street[2].points]):
        with pytest.raises(InputError, match="a window is a list of Sweeps"):
            it.scene_flow(street[0], street[1], window=wrong)
