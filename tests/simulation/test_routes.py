"""Routes: tracks are closed and smooth, and the way is the integral of the speed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invtoolbox.errors import InputError
from invtoolbox.simulation.world import Route, Speed, Track


@given(st.floats(-500, 500), st.floats(0.5, 20), st.booleans())
def test_a_track_is_run_through_at_unit_speed_along_its_heading(
    way: float, corner: float, backwards: bool
) -> None:
    track = Track((3.0, -2.0), 20.0, corner, backwards)
    x, y, heading = track.at(way)
    step = 1e-4
    further, higher, _ = track.at(way + step)
    assert (further - x) / step == pytest.approx(math.cos(heading), abs=1e-3)
    assert (higher - y) / step == pytest.approx(math.sin(heading), abs=1e-3)
    again = track.at(way + track.length)
    assert again[:2] == pytest.approx((x, y), abs=1e-9)


def test_a_track_turns_right_unless_it_runs_backwards() -> None:
    track = Track((0.0, 0.0), 10.0, 4.0)
    assert track.at(track.length / 4)[:2] == pytest.approx((10.0, 0.0))
    assert Track((0.0, 0.0), 10.0, 4.0, backwards=True).at(track.length / 4)[:2] == pytest.approx(
        (-10.0, 0.0)
    )
    # The middle of a corner lies on its circle.
    corner = track.at(6.0 + math.pi)[:2]
    assert corner == pytest.approx((6 + 4 * math.sqrt(0.5),) * 2)


@given(st.floats(-100, 100))
def test_the_way_is_the_integral_of_the_speed(time: float) -> None:
    speed = Speed((0.0, 5.0, 8.0, 10.0, 14.0), (6.0, 6.0, 0.0, 0.0, 6.0))
    # By the middle: exact where the speed is linear, and off by its bend at a knot.
    assert speed.way(time + 1e-3) - speed.way(time) == pytest.approx(
        1e-3 * speed.at(time + 5e-4), abs=1e-6
    )
    assert speed.way(time + 14.0) - speed.way(time) == pytest.approx(speed.way(14.0), abs=1e-9)


def test_a_route_starts_where_its_clock_says() -> None:
    track, speed = Track((0.0, 0.0), 20.0, 5.0), Speed((0.0, 4.0, 6.0, 8.0), (3.0, 3.0, 0.0, 3.0))
    late = Route(track, speed, 2.0, 0.15, clock=5.0)
    assert late.at(0.0) == Route(track, speed, 2.0, 0.15).at(5.0) and late.at(0.0)[2] == 0.15


def test_faults_are_named() -> None:
    with pytest.raises(InputError, match="corners"):
        Track((0.0, 0.0), 5.0, 6.0)
    with pytest.raises(InputError, match="two knots"):
        Speed((0.0,), (1.0,))
    for times, speeds in (
        ((0.0, 0.0), (1.0, 1.0)),
        ((0.0, 1.0), (1.0, 2.0)),
        ((0.0, 1.0), (-1.0, -1.0)),
    ):
        with pytest.raises(InputError, match="growing times"):
            Speed(times, speeds)
