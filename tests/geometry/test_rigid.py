"""Rigid motions: exponential and logarithm undo each other, also at no turn and at half a turn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import (
    check_motion,
    inverse,
    part_of,
    relative_motion,
    rigid,
    rotation,
    rotation_vector,
    transform,
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    st.sampled_from([0.0, 1e-9, 1e-5, 0.1, 1.0, 3.0, 3.1415926]),
)
def test_logarithm_undoes_exponential(direction, angle):
    v = torch.tensor(direction, dtype=torch.float64)
    v = (
        angle * v / v.norm()
        if v.norm() > 1e-3
        else torch.tensor([0.0, 0.0, angle], dtype=torch.float64)
    )
    R = rotation(v)
    torch.testing.assert_close(R @ R.T, torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(rotation_vector(R), v, atol=1e-7, rtol=0)


def test_half_a_turn():
    R = rotation(torch.tensor([torch.pi, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(
        rotation_vector(R).abs(),
        torch.tensor([torch.pi, 0, 0], dtype=torch.float64),
        atol=1e-7,
        rtol=0,
    )


def test_the_gradient_of_a_rotation_at_zero():
    v = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation, (v,))
    assert torch.autograd.gradcheck(
        rotation, (torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True),)
    )


def test_a_point_that_stands_still():
    torch.manual_seed(0)
    poses = rigid(
        rotation(torch.randn(2, 3, dtype=torch.float64)), torch.randn(2, 3, dtype=torch.float64)
    )
    world = torch.randn(5, 3, dtype=torch.float64)
    first, second = (transform(inverse(pose), world) for pose in poses)
    torch.testing.assert_close(transform(relative_motion(*poses), first), second)


def test_parts_of_a_motion():
    motion = rigid(
        rotation(torch.tensor([0.0, 0.0, 0.2], dtype=torch.float64)),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
    )
    parts = part_of(motion, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(parts[0], torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(parts[2], motion)
    torch.testing.assert_close(
        rotation_vector(parts[1, :3, :3])[2], torch.tensor(0.1, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("motion", "words"),
    [
        (torch.eye(3), "4 by 4"),
        (torch.diag(torch.tensor([2.0, 1, 1, 1])), "not a rotation"),
        (torch.diag(torch.tensor([-1.0, 1, 1, 1])), "not a rotation"),
        (torch.eye(4) + torch.tensor([[0.0] * 4] * 3 + [[1.0, 0, 0, 0]]), "last row"),
    ],
)
def test_what_is_no_motion_is_refused(motion, words):
    with pytest.raises(InputError, match=words):
        check_motion(motion, "the ego motion")
