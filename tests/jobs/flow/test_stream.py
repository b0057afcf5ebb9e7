"""The flow of sweeps that arrive one after the other: that of the batch, with tracks, in constant memory."""

from __future__ import annotations

import gc
import weakref
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import relative_motion
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow import Preparation, preparation, sweep_window
from invtoolbox.jobs.flow.estimation import FlowEstimate
from invtoolbox.jobs.flow.results import FlowStudy
from invtoolbox.jobs.flow.stream import _TrackList
from tests.jobs.flow.recording import MeanOfWindow

POINTS = 3000


@pytest.fixture(scope="module")
def street() -> list[Sweep]:
    sweeps = it.simulation.street(sweeps=8, points=POINTS, seed=2)
    return [sweeps[k] for k in range(8)]


class Recording:
    """Open sweeps; those of some numbers cannot be read."""

    def __init__(self, sweeps: list[Sweep], damaged: tuple[int, ...] = ()) -> None:
        self.sweeps, self.damaged = sweeps, damaged
        self.names = [f"{k:03d}" for k in range(len(sweeps))]

    def __len__(self) -> int:
        return len(self.sweeps)

    def __getitem__(self, index: int) -> Sweep:
        if index in self.damaged:
            raise InputError(f"{self.names[index]} is damaged")
        return self.sweeps[index]


def batch(sweeps: Any, folder: Path, **how: Any) -> FlowStudy:
    sweeps = Recording(sweeps) if isinstance(sweeps, list) else sweeps
    return it.flow_sequence(sweeps, folder, progress=False, **how)


def streamed(sweeps: list[Sweep], **how: Any) -> dict[int, Any]:
    stream = it.FlowStream(**how)
    results = [stream.push(sweep) for sweep in sweeps]
    return {found.index: found for found in results if found is not None}


def equal(one: Any, two: Any) -> bool:
    return all(
        torch.equal(getattr(one, name).nan_to_num(9e9), getattr(two, name).nan_to_num(9e9))
        for name in ("flow", "ego_motion", "dynamic", "ground", "valid")
    ) and torch.equal(one.instance >= 0, two.instance >= 0)


def content(study: FlowStudy) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(study.folder.glob("*.npz"))}


# The latency between the two others is the same code.
@pytest.mark.parametrize("latency", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_stream_is_the_batch_over_the_same_windows_bit_for_bit(
    street: list[Sweep], tmp_path: Path, latency: int
) -> None:
    flows = streamed(street, window=4, latency=latency)
    study = batch(street, tmp_path / "out", window=4, latency=latency)
    assert not study.failed
    compared = [k for k in flows if k < 7]
    assert compared == list(range(latency == 0, min(8 - latency, 7)))
    for k in compared:
        assert equal(flows[k], study[k]), f"sweep {k}"
    # A stream that begins later gives the same as soon as its window is full.
    later = streamed(street[3:], window=4, latency=latency)
    for k in range(3, 8 - 3 - latency):
        assert equal(later[k], flows[k + 3])
    if latency == 2:
        # A window of four has one sweep before the source, and one after the target, as in the middle of
        # the centred windows.
        centred = batch(street, tmp_path / "centred", window=4, items="2:4")
        assert equal(centred[0], flows[2]) and equal(centred[1], flows[3])


@pytest.mark.parametrize("how", [{}, {"latency": 0}])
def test_resumed_in_any_order_the_files_are_the_same(tmp_path: Path, how: dict[str, Any]) -> None:
    """Points are deskewed with the motion from the sweep before, which may lie outside the window."""
    raw = it.simulation.street(sweeps=7, points=3000, seed=2, deskew=False)
    sweeps = [raw[k] for k in range(7)]
    assert sweeps[0].deskewed is False and sweeps[0].time is not None
    settings = {"window": 3, "preparation": Preparation(deskew="always"), **how}
    whole = batch(sweeps, tmp_path / "whole", **settings)
    assert any("deskewed" in note for note in whole.reports[3].facts["notes"])
    for items in ("5", "2:4", "all"):
        parts = batch(sweeps, tmp_path / "parts", items=items, resume=items != "5", **settings)
    assert not parts.failed and content(parts) == content(whole)
    assert [r.outcome for r in parts.reports].count("kept") == 3
    # The sweep before the window is an input: a change of it is noticed.
    changed = [*sweeps[:2], replace(sweeps[2], points=sweeps[2].points + 0.001), *sweeps[3:]]
    again = batch(changed, tmp_path / "parts", resume=True, **settings)
    # Sweep 2 is in the windows of 0 to 3 and before that of 4; with a latency of 0, in those of 2 to 4,
    # before that of 5, and the place where the flow of 1 is compared with the labels.
    unchanged = 0 if how else 5
    assert [r.outcome for r in again.reports] == [
        "kept" if k == unchanged else "done" for k in range(6)
    ]


def test_every_sweep_is_prepared_once(
    street: list[Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def count(sweep: Sweep, *rest: Any) -> Any:
        made.append(sweep.source)
        return preparation.prepare_sweep(sweep, *rest)

    monkeypatch.setattr(sweep_window, "prepare_sweep", count)
    streamed(street[:5], window=3)
    assert sorted(made) == sorted(sweep.source for sweep in street[:5])
    made.clear()
    batch(street, tmp_path / "out", window=5, method=MeanOfWindow())
    assert len(made) == len(set(made)) == 8


@pytest.mark.slow
def test_memory_holds_the_window_alone(street: list[Sweep]) -> None:
    stream, alive, most = it.FlowStream(MeanOfWindow(), window=4, latency=1), [], []
    for k in range(9):
        sweep = replace(street[0], points=street[0].points.clone(), timestamp=0.1 * k, labels=None)
        alive.append(weakref.ref(sweep.points))
        stream.push(sweep)
        del sweep
        gc.collect()
        most.append(sum(one() is not None for one in alive))
    assert most[-1] == max(most) == 4


def test_bodies_keep_their_numbers_and_have_the_right_velocity() -> None:
    sweeps = it.simulation.street(sweeps=9, points=24_000, seed=2)
    stream = it.FlowStream(latency=1)
    numbers: dict[int, list[int]] = defaultdict(list)
    errors, changes = [], 0
    for k in range(9):
        found = stream.push(sweeps[k])
        if found is None or found.index < 2:
            continue
        source = sweeps[found.index]
        labels = source.labels
        assert labels is not None and labels.instance is not None
        E = relative_motion(source.pose, sweeps[found.index + 1].pose)  # type: ignore[arg-type]
        points = source.points.double()
        still = points @ E[:3, :3].T + E[:3, 3] - points
        assert [body.number for body in found.bodies] == sorted(
            {int(n) for n in found.instance.unique() if n >= 0},
            key=[b.number for b in found.bodies].index,
        )
        for body in found.bodies:
            rows = found.instance == body.number
            things = labels.instance[rows & labels.dynamic]
            if body.points < 20 or len(things) < 0.8 * body.points:
                continue
            thing = int(things.mode().values)
            numbers[thing].append(body.number)
            truth = (labels.flow.double() - still)[rows].mean(0) @ E[:3, :3] / 0.1
            errors.append(float((body.velocity.double() - truth).norm() / truth.norm()))
            torch.testing.assert_close(body.centre, source.points[rows].mean(0))
    assert len(numbers) >= 3 and len(errors) >= 12
    assert float(np.median(errors)) < 0.1
    followed = {thing: seen for thing, seen in numbers.items() if len(seen) >= 3}
    changes = sum(len(set(seen)) - 1 for seen in followed.values())
    assert followed and changes <= 0.1 * sum(map(len, followed.values()))
    # No two things share a number.
    owners = defaultdict(set)
    for thing, seen in numbers.items():
        for number in seen:
            owners[number].add(thing)
    assert max(map(len, owners.values())) == 1


def box(x: float, seed: int) -> torch.Tensor:
    """A car at x metres ahead on a road with walls, other points for every seed."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int, size: list[float], at: list[float]) -> torch.Tensor:
        return torch.rand(count, 3, generator=generator) * torch.tensor(size) + torch.tensor(at)

    car = draw(700, [4.2, 1.8, 1.4], [x, 3.0, -1.7])
    car[:350, 1], car[350:, 0] = 3.0, x
    return torch.cat(
        [
            draw(12000, [70.0, 24.0, 0.0], [-35.0, -12.0, -1.75]),
            draw(2500, [70.0, 0.0, 4.0], [-35.0, 12.0, -1.7]),
            draw(2500, [70.0, 0.0, 4.0], [-35.0, -12.0, -1.7]),
            car,
        ]
    )


def test_the_flow_of_the_newest_sweep_is_predicted() -> None:
    """No later sweep is known: the car goes on at 10 m/s, and the sensor as it did."""
    stream = it.FlowStream(ego_motion="poses")
    for k in range(5):
        # The sensor drives 0.5 m per sweep, and the car 1 m.
        pose = torch.eye(4, dtype=torch.float64)
        pose[0, 3] = 0.5 * k
        found = stream.push(box(6.0 + 0.5 * k, k) - torch.tensor([0.0, 0.0, 0.0]), 0.1 * k, pose)
        assert (found is None) == (k == 0)
    # The walls are given in the frame of the sensor and have no marks, so they seem to stand.
    assert found is not None and found.index == 4 and len(found.bodies) == 1
    body = found.bodies[0]
    torch.testing.assert_close(body.velocity, torch.tensor([10.0, 0.0, 0.0]), atol=0.5, rtol=0)
    assert body.age >= 3 and body.points > 600
    car = found.flow[-700:][found.instance[-700:] == body.number]
    torch.testing.assert_close(car.mean(0), torch.tensor([0.5, 0.0, 0.0]), atol=0.05, rtol=0)
    still = found.flow[:-700][found.instance[:-700] < 0]
    torch.testing.assert_close(
        still, torch.tensor([-0.5, 0, 0]).expand_as(still), atol=1e-5, rtol=0
    )


def test_tracks_of_single_points_are_matched_by_place_and_velocity() -> None:
    """Two points that meet and part keep their numbers; one that is hidden for a sweep, too."""
    tracks = _TrackList()
    E, seen = torch.eye(4, dtype=torch.float64), []
    for k in range(4):
        points = torch.tensor([[0.3 * k, 0.0, 0.0], [0.9 - 0.3 * k, 0.2, 0.0], [9.0, 9.0, 0.0]])
        flow = torch.tensor([[0.3, 0.0, 0.0], [-0.3, 0.0, 0.0], [0.0, 0.0, 0.0]])
        # The second point is hidden in sweep 1.
        instance = torch.tensor([0, -1, -1] if k == 1 else [1, 0, -1])
        yes = torch.ones(3, dtype=torch.bool)
        found = FlowEstimate(flow, E, instance >= 0, ~yes, instance, yes, "", 0.0, ())
        seen.append(tracks.number(k, found, points, 0.1))
    one, two = seen[0].instance[:2].tolist()
    assert one != two and seen[0].instance[2] == -1
    for k, numbers in enumerate(([one, two], [one, -1], [one, two], [one, two])):
        assert seen[k].instance[:2].tolist() == numbers, f"sweep {k}"
    last = {body.number: body for body in seen[3].bodies}
    assert last[one].age == 4 and last[two].age == 3
    torch.testing.assert_close(last[two].velocity, torch.tensor([-3.0, 0.0, 0.0]))


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "empty": (torch.zeros(0, 3), {}, "empty"),
    "no measurement": (torch.full((50, 3), torch.nan), {}, "none of its 50 points"),
    "wrong shape": (torch.zeros(50, 4), {}, r"expected points \(N, 3\)"),
    "words": (np.array([["a", "b", "c"]]), {}, "expected points"),
    "too early": (None, {"time": 0.1}, "in the order of time"),
    "no time": (None, {"time": float("nan")}, "time of push"),
    "words for a time": (None, {"time": "now"}, "time of push"),
    "after a pause": (None, {"time": 60.0}, "10 s apart"),
    "no motion": (None, {"pose": torch.ones(4, 4)}, "the pose"),
    "elsewhere": (
        None,
        {"pose": torch.eye(4) + 900 * torch.eye(4)[3].outer(torch.eye(4)[3])},
        "pose",
    ),
}


def test_bad_sweeps_are_refused_and_the_stream_goes_on(street: list[Sweep]) -> None:
    stream, undisturbed = (it.FlowStream(window=3, latency=1) for _ in range(2))
    for k in range(2):
        stream.push(street[k])
        undisturbed.push(street[k])
    for points, how, words in BAD.values():
        with pytest.raises(InputError, match=words):
            stream.push(street[2].points if points is None else points, **{"time": 0.25, **how})
    first, second = stream.push(street[3]), undisturbed.push(street[3])
    assert first is not None and second is not None and equal(first, second)
    assert first.index == 1 and [b.number for b in first.bodies] == [
        b.number for b in second.bodies
    ]


def test_sweeps_of_other_places_are_refused(street: list[Sweep]) -> None:
    stream = it.FlowStream(window=3, latency=1)
    stream.push(street[0])
    far = street[1].pose.clone()  # type: ignore[union-attr]
    far[0, 3] += 500
    with pytest.raises(InputError, match="do not overlap"):
        stream.push(street[1].points, 0.1, far)
    assert stream.push(street[1]) is not None
    moved = street[0].points.double() + torch.tensor([4e4, 2e4, 0.0], dtype=torch.float64)
    with pytest.raises(InputError, match="frame of the sensor"):
        it.FlowStream().push(moved)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"window": 1}, "window"),
        ({"window": 14}, "window"),
        ({"window": 3, "latency": 3}, "latency"),
        ({"latency": -1}, "latency"),
        ({"latency": 0.5}, "latency"),
        ({"method": "nsfp"}, "latency=1"),
        ({"method": "nspf"}, "nsfp"),
        ({"ego_motion": "gps"}, "ego_motion"),
    ],
)
def test_settings_out_of_bounds(how: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        it.FlowStream(**how)


def test_a_damaged_sweep_costs_two_results_and_no_window_crosses_it(
    street: list[Sweep], tmp_path: Path
) -> None:
    whole = batch(street, tmp_path / "whole", window=4)
    for damaged in ((3,), (0,)):
        sweeps = Recording(street, damaged)
        study = batch(sweeps, tmp_path / str(damaged[0]), window=4)
        bad = {damaged[0], damaged[0] - 1} - {-1}
        assert {k for k, r in enumerate(study.reports) if r.outcome == "failed"} == bad
        assert all("is damaged" in report.error for report in study.failed)
        # Single results are those of the whole run.
        k = damaged[0] + 1
        alone = batch(sweeps, tmp_path / f"alone{k}", window=4, items=[k])
        assert equal(alone[0], study[k])
        notes = study.reports[k].facts["notes"]
        assert any("left out of the window" in note for note in notes)
    # Windows without the sweep are as they were.
    assert equal(batch(sweeps, tmp_path / "last", window=4, items=[5])[0], whole[5])
    # A sweep that is whole again changes the results of its windows.
    again = batch(street, tmp_path / "3", window=4, resume=True)
    assert content(again) == content(whole)


def test_arrays_without_times_and_poses(street: list[Sweep]) -> None:
    pytest.importorskip("small_gicp")
    stream = it.FlowStream(window=3, latency=1)
    for sweep in street[:3]:
        found = stream.push(sweep.points.numpy())
    assert found is not None and found.points.shape == found.flow.shape
    E = relative_motion(street[1].pose, street[2].pose)  # type: ignore[arg-type]
    assert float((found.ego_motion - E)[:3, 3].norm()) < 0.05
    assert any("registration" in note for note in found.notes)
