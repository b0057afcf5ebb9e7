"""The arc of a scan, and the edges that its rays are tangent to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators.tomography.arcs import arc_of, determined_edges


def degrees(first: float, last: float, count: int) -> Tensor:
    return torch.deg2rad(torch.linspace(first, last, count))


@pytest.mark.parametrize(
    ("angles", "covered"),
    [
        (degrees(0, 60, 61), 61),
        (degrees(150, 210, 61), 61),  # across the end of half a turn
        (degrees(300, 420, 121), 121),
        (degrees(0, 179, 180), 180),
        (degrees(0, 360, 361), 180),
        (degrees(0, 144, 5), 180),  # few views, evenly spread
        (torch.cat([degrees(0, 60, 61), degrees(180, 240, 61)]), 61),  # opposite views are alike
    ],
)
def test_views_of_a_parallel_beam_cover_an_arc(angles: Tensor, covered: float) -> None:
    arc = arc_of(it.operators.ParallelBeam((16, 16), angles, 24))
    assert arc is not None
    assert math.degrees(arc.covered) == pytest.approx(covered, abs=0.01)
    assert arc.is_limited == (covered < 150)


def test_a_fan_needs_half_a_turn_and_its_angle() -> None:
    def limited(last: float) -> bool:
        A = it.operators.FanBeam((16, 16), degrees(0, last, 181), 24, 40.0, 60.0)
        arc = arc_of(A)
        assert arc is not None
        # The corners of the image are 8 sqrt(2) from the axis, and the source 40.
        assert math.degrees(arc.needed) == pytest.approx(180 + 32.86, abs=0.01)
        return arc.is_limited

    assert limited(170) and limited(180) and not limited(185)


def test_other_operators_have_no_arc() -> None:
    assert arc_of(it.operators.Identity((1, 8, 8))) is None
    assert arc_of(it.operators.ParallelBeam((8, 8), [0.0, 1.0], 12)) is None


@pytest.mark.filterwarnings("ignore:the field of view")
@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_edges_along_rays_are_determined(kind: str) -> None:
    """A disc has edges of every direction: the determined share is that of the arc."""
    angles, shape = degrees(20, 80, 61), (64, 64)
    A = (
        it.operators.ParallelBeam(shape, angles, 96)
        if kind == "parallel"
        else it.operators.FanBeam(shape, angles, 96, 4000.0, 8000.0)
    )
    across = torch.arange(64.0) - 31.5
    disc = torch.sigmoid(24 - torch.hypot(across, across[:, None]))
    edges = determined_edges(A, disc)
    rim = torch.hypot(*torch.gradient(disc)) > 0.1
    assert float(edges[rim].double().mean()) == pytest.approx(61 / 180, abs=0.05)
    # A ray of the view a touches the disc at the angles a and a + 180 degrees of its center.
    angle = torch.rad2deg(torch.atan2(-across[:, None], across)) % 180
    assert bool(edges[rim & (angle > 25) & (angle < 75)].all())
    assert not bool(edges[rim & ((angle < 15) | (angle > 85))].any())


def test_a_short_arc_is_a_finding() -> None:
    def names(last: float) -> list[str]:
        A = it.operators.ParallelBeam((32, 32), degrees(30, last, 61), 48)
        x = torch.zeros(1, 1, 32, 32)
        x[..., 10:20, 8:22] = 0.1
        findings = it.measurements.check_measurements(it.Problem(A(x), A))
        for finding in findings:
            assert finding.name != "arc" or "at 120 to 181 degrees to the rows" in finding.sentence
        return [finding.name for finding in findings]

    assert names(90) == ["arc"] and names(209) == []


@pytest.mark.parametrize("views", [1, 2])
def test_one_or_two_views_are_a_finding(views: int) -> None:
    A = it.operators.ParallelBeam((32, 32), degrees(0, 90, views), 48)
    x = torch.zeros(1, 1, 32, 32)
    x[..., 10:20, 8:22] = 0.1
    findings = it.measurements.check_measurements(it.Problem(A(x), A))
    assert any(f.name == "arc" and "comes from the prior alone" in f.sentence for f in findings)
