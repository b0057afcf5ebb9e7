"""Plane-to-plane distance: value, gradient, Gauss-Newton matrix, items and weights."""

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry.surface_normals import Surface


@pytest.fixture
def wall():
    torch.manual_seed(0)
    return (
        torch.rand(400, 3, dtype=torch.float64) * torch.tensor([6.0, 0.0, 3.0], dtype=torch.float64)
    )[None]


def test_points_slide_along_the_surface(wall):
    term = it.data_terms.PlaneToPlane(scale=(1.0, 1.0), along=1e-6)
    inside = torch.tensor([[[2.0, 0.0, 1.5], [4.0, 0.0, 1.0]]], dtype=torch.float64)
    off = torch.tensor([0.0, 0.3, 0.0], dtype=torch.float64)
    assert float(term.value(inside, wall)) < 1e-6
    torch.testing.assert_close(
        term.value(inside + off, wall),
        torch.tensor([0.5 * 0.09 / 1.09], dtype=torch.float64),
        rtol=1e-3,
        atol=0,
    )


def test_gradient_and_majorizer(wall):
    term = it.data_terms.PlaneToPlane(scale=(0.5, 0.5), along=0.05)
    torch.manual_seed(1)
    p = (wall[:, :20] + 0.1 * torch.randn(1, 20, 3, dtype=torch.float64)).requires_grad_()
    slope = term.grad(p.detach(), wall)
    step = 1e-6 * torch.randn_like(slope)
    with torch.no_grad():
        change = term.value(p + step, wall) - term.value(p - step, wall)
        torch.testing.assert_close(change, 2 * (slope * step).sum((1, 2)), rtol=1e-4, atol=1e-14)
        # The quadratic with the Gauss-Newton matrix lies above the term (Geman and McClure's
        # function is concave in the square).
        product = term.gauss_newton(p, wall)
        for scale in (1e-3, 1e-2, 1e-1):
            d = scale * torch.randn_like(slope)
            above = (
                term.value(p, wall) + (slope * d).sum((1, 2)) + 0.5 * (d * product(d)).sum((1, 2))
            )
            assert bool((term.value(p + d, wall) <= above + 1e-12).all())


def test_items_share_a_cloud_and_padding_counts_nothing(wall):
    torch.manual_seed(2)
    p = wall[:, :30] + 0.05 * torch.randn(3, 30, 3, dtype=torch.float64)
    weights = torch.ones(3, 30, dtype=torch.float64)
    weights[1, 10:] = 0
    term = it.data_terms.PlaneToPlane(weights=weights)
    together = term.value(p, wall)
    for k in range(3):
        alone = it.data_terms.PlaneToPlane(weights=weights[k : k + 1]).value(p[k : k + 1], wall)
        torch.testing.assert_close(together[k : k + 1], alone)
    short = it.data_terms.PlaneToPlane().value(p[1:2, :10], wall)
    torch.testing.assert_close(together[1:2], short)
    shared = it.data_terms.PlaneToPlane(weights=weights, surface=Surface.of(wall[0], along=0.005))
    torch.testing.assert_close(shared.value(p, wall), together)


def test_the_scale_falls_with_the_iterations():
    term = it.data_terms.PlaneToPlane(scale=(1.0, 0.1), decay=0.5)
    assert [term.at(k).tau for k in (0, 1, 2, 10)] == [1.0, 0.5, 0.25, 0.1]


def test_one_cloud_for_a_batch_of_items(wall):
    points = wall[:, :50].repeat(4, 1, 1)
    problem = it.Problem(wall, it.operators.PointWarp(points), it.data_terms.PlaneToPlane())
    assert problem.batch == 4
    some = problem.select(torch.tensor([2, 0]))
    assert some.batch == 2 and some.y.shape[0] == 1


@pytest.mark.parametrize("settings", [{"scale": (0.0, 1.0)}, {"decay": 1.5}, {"along": 0.0}])
def test_wrong_settings(settings):
    with pytest.raises(InputError, match="of PlaneToPlane must"):
        it.data_terms.PlaneToPlane(**settings)


def test_measurements_that_are_no_points():
    with pytest.raises(InputError, match="points"):
        it.Problem(
            torch.zeros(1, 5, 2),
            it.operators.PointWarp(torch.zeros(1, 4, 3)),
            it.data_terms.PlaneToPlane(),
        )


def test_a_bound_term_that_knows_some_partners_has_the_same_bits(wall):
    torch.manual_seed(3)
    points = wall[:, :40].repeat(2, 1, 1)
    weights = torch.ones(2, 40, dtype=torch.float64)
    weights[1, 25:] = 0
    term = it.data_terms.PlaneToPlane(weights=weights)
    bound = term.prepare(it.Problem(wall, it.operators.PointWarp(points), term), it.solve)
    place = points.clone()
    for k in range(4):
        place = place.clone()
        place[k % 2, : 10 * k] += 0.1 * torch.randn(10 * k, 3, dtype=torch.float64)
        for again in (bound.at(k), bound.at(k)):
            assert torch.equal(again.value(place, wall), term.at(k).value(place, wall))
            assert torch.equal(again.grad(place, wall), term.at(k).grad(place, wall))
    one = bound.select(torch.tensor([0]))
    assert torch.equal(one.value(place[:1], wall), bound.at(0).value(place, wall)[:1])
