"""Deskewing undoes what a sensor that moves while it measures does to what stands still, and can be undone."""

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.ego_motion import deskewing
from tests.jobs.flow.street import motion, seen_while_moving, street


@pytest.fixture
def skewed():
    """A street seen at 0.1 s a turn from a car at 15 m/s in a bend, the street, and the sensor's motion."""
    points = street(0, noise=0.0)[0]
    travel = motion(1.5, 0.05, 3.0)
    time = (torch.atan2(points[:, 1], points[:, 0]) / (2 * torch.pi) + 0.5).float() * 0.1
    seen = seen_while_moving(points, travel, time.double() / 0.1)
    return Sweep(seen.float(), time=time, deskewed=False, source="turn.bin"), points, travel


def test_a_rolling_shutter_is_undone(skewed):
    sweep, points, travel = skewed
    deskew, _ = deskewing(sweep, inverse(travel), 0.1)
    assert (sweep.points - points).norm(dim=1).max() > 1
    torch.testing.assert_close(deskew(sweep.points.double()), points, atol=1e-5, rtol=0)
    torch.testing.assert_close(deskew.undo(deskew(sweep.points)), sweep.points, atol=1e-5, rtol=0)


def test_times_before_the_timestamp(skewed):
    sweep, points, travel = skewed
    late = Sweep(
        seen_while_moving(points, travel, sweep.time.double() / 0.1 - 1).float(),
        time=sweep.time - 0.1,
        deskewed=False,
    )
    deskew, _ = deskewing(late, inverse(travel), 0.1)
    torch.testing.assert_close(deskew(late.points.double()), points, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("deskewed", "has_time", "period", "words"),
    [
        (True, True, 0.1, "the data set is deskewed"),
        (None, True, 0.1, "does not state a need"),
        (False, False, 0.1, "no times"),
        (False, True, 0.0, "0 s apart"),
        (False, True, -0.1, "-0.1 s apart"),
    ],
)
def test_when_it_is_not_done(deskewed, has_time, period, words):
    sweep = Sweep(
        torch.ones(2, 3),
        time=torch.zeros(2) if has_time else None,
        deskewed=deskewed,
        source="turn.bin",
    )
    deskew, why = deskewing(sweep, motion(), period)
    assert deskew is None and words in why
    assert deskewing(sweep, motion(), period, "never")[0] is None
    if has_time and period > 0:
        assert deskewing(sweep, motion(), period, "always")[0] is not None
    else:
        with pytest.raises(InputError, match="turn.bin cannot be deskewed"):
            deskewing(sweep, motion(), period, "always")


def test_a_point_without_time_stays():
    sweep = Sweep(torch.ones(2, 3), time=torch.tensor([0.05, torch.nan]), deskewed=False)
    deskew, _ = deskewing(sweep, motion(), 0.1)
    moved = deskew(sweep.points)
    assert torch.equal(moved[1], sweep.points[1]) and not torch.equal(moved[0], sweep.points[0])
    with pytest.raises(InputError, match="'auto', 'always' or 'never'"):
        deskewing(sweep, motion(), 0.1, "often")
