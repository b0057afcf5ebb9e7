"""Flow as a spline, alone and tied to the motion of a camera."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry.epipolar import motion_field
from invtoolbox.priors import AffineFlow, CameraFlow, FlowSpline
from invtoolbox.priors.implicit.affine_flow import spline_of_affine
from invtoolbox.priors.implicit.flow_spline import sample_spline
from tests.operators.test_event_warp import drawn

K = torch.tensor([[10.0, 0, 5.5], [0, 11.0, 4.0], [0, 0, 1]])


def problem(items: int = 2) -> it.Problem:
    A = it.operators.EventWarp([drawn(k, 20) for k in range(items)], 2, (3, 5, 6))
    return it.Problem(A.measurements(), A, it.data_terms.Contrast())


def test_the_contract_of_an_implicit_prior() -> None:
    twist = torch.tensor([[0.1, 0, 1, 0, 0.1, 0], [1, 0, 0.2, 0, 0, 0.1]])
    motion = CameraFlow(intrinsics=K, twist=twist, epipolar=torch.tensor([0.1, 1.0]))
    for prior in (FlowSpline((4, 5, 6)), motion):
        it.testing.check_prior(prior, torch.zeros(2, 1), problem=problem())


def test_a_spline_of_linear_controls_is_linear_and_costs_nothing() -> None:
    places = torch.linspace(0, 1, 7, dtype=torch.float64)
    controls = torch.arange(6.0).double()
    expected = 1 + 3 * places
    assert torch.allclose(sample_spline(controls, 0, places), expected, atol=1e-12)
    prior = FlowSpline((4, 5, 6)).prepare(problem(), it.solve)
    ramp = torch.arange(6.0).expand(1, 2, 4, 5, 6)
    assert float(prior.energy({"controls": ramp}, None)) == 0
    assert float(prior.energy({"controls": ramp**2}, None)) > 0


def test_the_flow_of_a_static_world_lies_on_its_epipolar_lines() -> None:
    prior = CameraFlow(intrinsics=K, twist=torch.tensor([0.6, 0, 0.8, 0.1, -0.2, 0.3]))
    bound = prior.prepare(problem(1), it.solve)
    row, column = torch.meshgrid(torch.linspace(0, 8, 5), torch.linspace(0, 11, 6), indexing="ij")
    rays = torch.stack([(column - 5.5) / 10, (row - 4) / 11], -1)
    depth = 1 + torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
    flow = motion_field(rays, prior.twist[0], 1 / depth) * torch.tensor([10.0, 11.0])
    x = flow.permute(2, 0, 1)[None, :, None].expand(1, 2, 3, 5, 6)
    parameters = bound.initial()
    assert float(bound.distances(parameters, x).abs().max()) < 1e-4
    moved = bound.distances(parameters, x + torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1))
    assert 0.1 < float(moved.abs().mean()) <= 1.01
    assert torch.allclose(bound.twists(parameters, 3)[0, 1], prior.twist[0])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="at least 4 control points"):
        FlowSpline((3, 4, 4))
    with pytest.raises(InputError, match="needs the intrinsics"):
        CameraFlow()
    image = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    with pytest.raises(InputError, match=r"use it.operators.EventWarp"):
        FlowSpline().prepare(image, it.solve)


def test_an_affine_flow_is_that_of_its_control_points() -> None:
    prior = AffineFlow()
    it.testing.check_prior(prior, torch.zeros(2, 1), problem=problem())
    with pytest.raises(InputError, match=r"use it.operators.EventWarp"):
        prior.prepare(it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4))), it.solve)
    affine = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1))
    flow = prior.prepare(problem(), it.solve).decode({"affine": affine})
    controls = (4, 5, 7)
    spline = FlowSpline(controls).prepare(problem(), it.solve)
    points = {"controls": spline_of_affine(affine, controls)}
    assert torch.allclose(spline.decode(points), flow, atol=1e-5)
    assert float(spline.energy(points, None).max()) < 1e-10
