"""Depth maps up to scale and shift, on an analytic scene."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, look_at
from invtoolbox.jobs.video_depths.align import _judge
from invtoolbox.operators import DepthGaps

SCALE = torch.tensor([2.0, 0.7, 1.3, 0.4])
SHIFT = torch.tensor([0.5, -0.3, 0.0, 1.0])


def scene(size: tuple[int, int] = (64, 80)) -> tuple[Cameras, Tensor]:
    """Return four cameras, and the depths ``(4, row, column)`` of a floor, a wall and a ball."""
    turn = torch.tensor([-0.3, -0.1, 0.1, 0.3])
    height = torch.tensor([-0.2, 0.1, -0.1, 0.2])
    cameras = look_at(
        torch.stack([3 * turn.sin(), height - 0.5, -3 * turn.cos()], 1),
        size=size,
        field_of_view=45.0,
    )
    origins, directions = cameras.rays()
    depths = []
    for normal, offset in (((0.0, 1.0, 0.0), 0.6), ((-0.3, 0.0, 1.0), 0.8)):
        n = torch.tensor(normal)
        distance = (offset - origins @ n) / (directions @ n)
        depths.append(torch.where(distance > 0, distance, torch.inf))
    a = directions.square().sum(-1)
    b = (origins * directions).sum(-1)
    inside = b**2 - a * (origins.square().sum(-1) - 0.45**2)
    depths.append(torch.where(inside > 0, (-b - inside.clamp_min(0).sqrt()) / a, torch.inf))
    return cameras, torch.stack(depths).amin(0)


def maps_of(truth: Tensor, noise: float) -> Tensor:
    draws = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    maps = SCALE[:, None, None] * truth * (1 + noise * draws) + SHIFT[:, None, None]
    maps[1, :6, :6] = torch.nan
    return maps


def test_scales_and_depths_are_found_from_noisy_maps() -> None:
    cameras, truth = scene()
    maps = maps_of(truth, 0.02)
    found = it.align_depths(maps, cameras, noise=0.02, max_iterations=20)
    assert found.alignments[0].status == ("converged",)
    assert float((found.scale[0] / SCALE - 1).abs().max()) < 0.01
    assert float(((found.shift[0] - SHIFT) / SCALE / truth.mean()).abs().max()) < 0.03
    known = maps.isfinite()
    before, after = (
        (depth - truth)[known].square().mean().sqrt()
        for depth in (found.aligned[0], found.depths[0])
    )
    assert float(after) < 0.8 * float(before)
    assert float(found.depths[0][~known].abs().max()) == 0
    assert float(found.noise[0]) == pytest.approx(0.02)


def test_an_item_alone_and_in_a_batch() -> None:
    cameras, truth = scene((24, 30))
    maps = torch.stack([maps_of(truth, 0.02), truth])[:, 1:3]
    whole, lone = (it.align_depths(m, cameras[1:3], consistency=0.0) for m in (maps, maps[:1]))
    assert torch.equal(whole.scale[:1], lone.scale)
    assert torch.equal(whole.depths[:1], lone.depths)
    assert 0.01 < float(lone.noise[0]) < 0.04


def test_derivative_of_the_gaps() -> None:
    cameras, truth = scene((12, 16))
    A = DepthGaps(maps_of(truth, 0.0)[None, None].double(), cameras)
    x = torch.stack([-SCALE.log(), -SHIFT / SCALE])[None].double() + 0.02
    J = A.linearize(x)
    v = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = torch.randn_like(J(v))
    assert torch.isclose((J(v) * w).sum(), (v * J.adjoint(w)).sum(), rtol=1e-12)
    ahead, back = A(x + 1e-6 * v), A(x - 1e-6 * v)
    apart = ((ahead - back) / 2e-6 - J(v)).abs()
    # A pixel at the border of a picture or of an interpolation cell has no derivative.
    assert float((apart > 1e-5).double().mean()) < 0.01
    it.testing.check_operator(A)
    it.testing.check_operator(J)


def test_bad_input_is_named() -> None:
    cameras, truth = scene((12, 16))
    with pytest.raises(InputError, match="takes maps"):
        it.align_depths(truth[:, 1:], cameras)
    with pytest.raises(InputError, match="view 2 of item 0 has no two different values"):
        it.align_depths(torch.where(torch.arange(4).view(-1, 1, 1) == 2, 1.0, truth), cameras)
    with pytest.raises(InputError, match="two cameras"):
        it.align_depths(truth[:1], cameras[0])
    with pytest.raises(InputError, match="at one position"):
        it.align_depths(truth[:2], cameras[[0, 0]])
    with pytest.raises(InputError, match="noise of align_depths must"):
        it.align_depths(truth, cameras, noise=0.0)


@pytest.mark.slow
def test_status_and_doubt_come_from_the_gaps() -> None:
    cameras, truth = scene((24, 30))
    draws = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    depths = truth * (1 + 0.03 * draws)
    # Depths already: the gaps show no error of scale, so that scale and shift stay as they are.
    kept = it.align_depths(depths, cameras, consistency=0.0)
    assert kept.status == ("unchanged",) and kept.notes == ()
    assert torch.equal(kept.aligned[0], depths)
    # A scale and a shift per view: the same gaps now show them.
    found = it.align_depths(maps_of(truth, 0.0), cameras, consistency=0.0)
    assert found.status[0] != "unchanged"
    assert found.doubt.shape == (1, 4) and bool((found.doubt > 0).all())
    # Views nearer to each other know less.
    near = it.align_depths(depths[1:3], cameras[1:3], consistency=0.0)
    assert float(near.doubt.max()) > float(kept.doubt.max())


def test_a_change_of_a_scale_that_is_not_clear_is_named() -> None:
    doubt, change = torch.tensor([0.12, 0.16]), torch.tensor([-0.21, -0.29])
    status, notes = _judge(0.3, doubt, change)
    assert status == "supported"
    assert "scale of map 1 was changed by 34%" in notes[0] and "open by 16%" in notes[0]
    assert _judge(0.3, doubt / 4, change) == ("supported", ())
    assert _judge(0.3, doubt, change / 20) == ("supported", ())


@pytest.mark.parametrize(
    ("other", "way"), [(lambda d: 3 / d, "1 / map"), (lambda d: 6 - d, "-map")]
)
def test_maps_that_grow_towards_the_camera_are_named(
    other: Callable[[Tensor], Tensor], way: str
) -> None:
    x = torch.tensor([-0.4, 0.0, 0.4])
    cameras = look_at(torch.stack([x, 0 * x, -3 + 0 * x], 1), size=(18, 24), field_of_view=40.0)
    origins, directions = cameras.rays()
    slopes = [torch.tensor(n) for n in ((0.0, -0.6, -0.8), (0.6, 0.0, -0.8))]
    depth = torch.stack([-(origins @ n) / (directions @ n) for n in slopes]).amin(0)
    found = it.align_depths(other(depth), cameras, consistency=0)
    assert found.status == ("undetermined",)
    assert any(f"give {way}" in note for note in found.notes)
    with pytest.raises(InputError, match="maps and it.geometry.Cameras, in this order"):
        it.align_depths(cameras, depth)  # type: ignore[arg-type]
