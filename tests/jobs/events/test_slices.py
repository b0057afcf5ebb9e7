"""Slices that are chosen by the motion, and motions that the events leave open."""

from __future__ import annotations

import functools

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Events
from invtoolbox.jobs.events.event_flow import affine_estimate, shrink, slice_by_motion, thin
from invtoolbox.simulation import SimulatedEvents, simulate_events, simulate_textured_plane

PLANE = {"size": (60, 80), "focal": 70.0, "threshold": 0.5}
#: Squares of constant brightness.
SQUARES = (
    torch.rand(48, 48, generator=torch.Generator().manual_seed(0))
    .repeat_interleave(8, 0)
    .repeat_interleave(8, 1)
)


@functools.cache
def long_recording() -> SimulatedEvents:
    return simulate_textured_plane(8, SQUARES, travel=45.0, **PLANE)  # type: ignore[arg-type]


def test_a_slice_ends_where_its_motion_is_clear() -> None:
    recording = long_recording()
    events = recording.events
    part = slice_by_motion(events)
    path = float(recording.flow[: len(part)].norm(dim=1).mean()) * part.duration
    assert 5 < path < 20 and 2 * len(part) < len(events)
    assert torch.equal(part.times, events.times[: len(part)])
    # Half of it would not do, unless it was the first.
    before = affine_estimate([events[: len(part) // 2]], iterations=10)
    assert float(before.length) < 8 or len(part) < 60 * 80
    assert len(slice_by_motion(events, most=500)) <= 500
    assert slice_by_motion(part) is not part and len(slice_by_motion(part)) == len(part)


def test_the_flow_of_a_recording_is_that_of_its_slice() -> None:
    recording = long_recording()
    found = it.event_flow(recording.events, recording.intrinsics, iterations=15)
    used = len(found.slices[0])
    assert used < len(recording.events) and "first" in found.notes[0]
    flow = found.at_events()
    assert flow.shape == recording.flow.shape
    wrong = (flow[:used] - recording.flow[:used]).norm(dim=1).mean()
    assert float(wrong / recording.flow[:used].norm(dim=1).mean()) < 0.12
    alone = it.event_flow(found.slices[0], recording.intrinsics, iterations=15)
    assert torch.equal(alone.flow, found.flow)


def test_affine_motion_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    start = 4 + torch.rand(60, 2, generator=generator).double() * torch.tensor([36, 28])
    which = torch.randint(60, (4000,), generator=generator)
    at = torch.rand(4000, generator=generator).double().sort()[0]
    middle = start[which]
    flow = torch.stack([4 + 0.1 * (middle[:, 0] - 22), -2 + 0.05 * (middle[:, 1] - 18)], 1)
    events = Events.of(*(middle + (at - 0.5)[:, None] * flow).unbind(1), at, size=(36, 44))
    estimate = affine_estimate([events], iterations=40)
    expected = torch.tensor([[4, 0, 0.1 * 21.5 / 3**0.5], [-2, 0.05 * 17.5 / 3**0.5, 0]])
    assert float((estimate.affine[0] - expected).norm() / expected.norm()) < 0.15
    assert float(estimate.gain) > 1.5 and 3.5 < float(estimate.length) < 6


def test_motion_along_parallel_edges_is_not_determined() -> None:
    recording = simulate_textured_plane(4, "stripes", travel=12.0, **PLANE)  # type: ignore[arg-type]
    found = it.event_flow(recording.events, recording.intrinsics, iterations=20)
    assert found.status == ("undetermined",)
    assert any("all edges are parallel" in note for note in found.notes)
    used = len(found.slices[0])
    wrong = (found.at_events()[:used] - recording.flow[:used]).norm(dim=1).mean()
    assert float(wrong / recording.flow[:used].norm(dim=1).mean()) < 1
    # The flow has one direction, across the edges.
    values = torch.linalg.svdvals(found.flow.reshape(-1, 2))
    assert float(values[1]) < 1e-4 * float(values[0])


def test_events_at_random_have_no_flow() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y, t = torch.rand(3, 3000, generator=generator).double()
    events = Events.of(43 * x, 35 * y, t.sort()[0], size=(36, 44))
    found = it.event_flow(events, simulate_events(0, count=2, size=(36, 44)).intrinsics)
    assert found.status == ("undetermined",) and not bool(found.flow.any())
    assert any("the flow is 0" in note for note in found.notes)


def test_an_item_of_a_batch_has_its_own_slice() -> None:
    items = [simulate_events(k, count=n, size=(24, 28)).events for k, n in ((1, 900), (2, 300))]
    K = simulate_events(1, count=2, size=(24, 28)).intrinsics
    both = it.event_flow(items, K, iterations=6)
    for k, item in enumerate(items):
        alone = it.event_flow(item, K, iterations=6)
        assert torch.equal(both.flow[k], alone.flow[0])
        assert len(both.slices[k]) == len(alone.slices[0])


def test_thinned_and_shrunk_events_keep_their_time_and_place() -> None:
    events = simulate_events(0, count=1000).events
    few = thin(events, 100)
    assert len(few) == 100 and few.duration == events.duration
    small = shrink(events, 3)
    assert small.size == (22, 22)
    assert torch.allclose(3 * (small.places + 0.5) - 0.5, events.places, atol=1e-5)
    assert shrink(events, 1) is events and thin(events, 1000) is events


def test_bad_settings_are_one_sentence() -> None:
    truth = simulate_events(0, count=300)
    with pytest.raises(InputError, match="most of event_flow") as caught:
        it.event_flow(truth.events, truth.intrinsics, most=10)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="1 events, and a flow takes at least 200"):
        it.event_flow(truth.events[:1], truth.intrinsics)
