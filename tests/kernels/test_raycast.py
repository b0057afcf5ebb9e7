"""The ray-caster: closed forms, and all primitives one by one in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rigid, rotation, transform
from invtoolbox.kernels.rendering.raycast import KINDS, Primitives, cast_rays

F64 = torch.float64


Three = tuple[float, float, float]


def one(
    kind: str, half_size: Three, place: Three = (0, 0, 0), turn: Three = (0, 0, 0)
) -> Primitives:
    pose = rigid(rotation(torch.tensor(turn, dtype=F64)), torch.tensor(place, dtype=F64))
    return Primitives.still([kind], torch.tensor([half_size], dtype=F64), pose[None])


def shoot(
    primitives: Primitives,
    origin: tuple[float, ...],
    direction: tuple[float, ...],
    share: float = 0.0,
) -> tuple[float, int]:
    rays = [torch.tensor([values], dtype=F64) for values in (origin, direction, share)]
    ranges, hits = cast_rays(rays[0], rays[1], rays[2], primitives)
    return float(ranges), int(hits)


@pytest.mark.parametrize(
    ("primitives", "origin", "direction", "expected"),
    [
        (one("box", (1, 2, 3)), (-5, 0, 0), (1, 0, 0), 4.0),
        (one("box", (1, 2, 3)), (0, 0, 9), (0, 0, -2), 6.0),
        (one("box", (1, 2, 3)), (0, 0, 0), (0, 1, 0), 2.0),  # from inside
        (one("box", (1, 1, 1), turn=(0, 0, math.pi / 4)), (-5, 0, 0), (1, 0, 0), 5 - math.sqrt(2)),
        (one("box", (1, 2, 3)), (-5, 2.01, 0), (1, 0, 0), math.inf),
        (one("box", (1, 2, 3)), (-5, 0, 0), (-1, 0, 0), math.inf),  # behind
        (one("cylinder", (0.1, 0.1, 4), (50, 0, 0)), (0, 0, 0), (1, 0, 0), 49.9),
        (one("cylinder", (2, 2, 1)), (0.5, 0.5, 7), (0, 0, -1), 6.0),  # onto its end
        (one("cylinder", (2, 2, 1)), (2.1, 0, 7), (0, 0, -1), math.inf),
        (one("cylinder", (2, 2, 1)), (-5, 0, 1.1), (1, 0, 0), math.inf),  # over it
        (one("cylinder", (2, 3, 1)), (0, -9, 0), (0, 1, 0), 6.0),
        (one("ellipsoid", (2, 2, 2)), (-5, 1, 0), (1, 0, 0), 5 - math.sqrt(3)),
        (one("ellipsoid", (1, 2, 3)), (0, 0, 9), (0, 0, -1), 6.0),
        (one("plane", (1, 1, 1)), (0, 0, 1.8), (1, 0, -1), 1.8 * math.sqrt(2)),
        (one("plane", (1, 1, 1)), (0, 0, 1.8), (1, 0, 0), math.inf),
        (one("plane", (1, 1, 1)), (0, 0, 1.8), (1, 0, 1), math.inf),
    ],
)
def test_closed_forms(
    primitives: Primitives, origin: tuple[float, ...], direction: tuple[float, ...], expected: float
) -> None:
    ranges, hit = shoot(primitives, origin, direction)
    assert ranges == pytest.approx(expected, abs=1e-12)
    assert hit == (-1 if expected == math.inf else 0)


def test_time_moves_and_turns_them() -> None:
    # A bar that goes 4 m along y and turns a quarter about a pivot 1 m behind it.
    box = one("box", (1, 0.1, 1))
    moving = Primitives(
        box.kind,
        box.half_size,
        box.pose,
        torch.tensor([[0.0, 4, 0]], dtype=F64),
        torch.tensor([[0.0, 0, math.pi / 2]], dtype=F64),
        torch.tensor([[-1.0, 0, 0]], dtype=F64),
    )
    assert shoot(moving, (-9, 0, 0), (1, 0, 0), 0.0)[0] == pytest.approx(8)
    # Half way: the pivot at (-1, 2), the bar from there on at 45 degrees.
    assert shoot(moving, (-9, 2 + math.sqrt(0.5), 0), (1, 0, 0), 0.5)[0] == pytest.approx(
        8 + math.sqrt(0.5) - 0.1 * math.sqrt(2)
    )
    # At the end it stands along y from the pivot at (-1, 4).
    assert shoot(moving, (-9, 5, 0), (1, 0, 0), 1.0)[0] == pytest.approx(7.9)
    assert shoot(moving, (-9, 0, 0), (1, 0, 0), 1.0)[1] == -1


def interval(kind: int, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays are inside of a unit primitive, by the textbook: (N,), (N,); the first above the second where they miss."""
    if kind == 0:
        t = -o[:, 2] / d[:, 2]
        return t, t
    low, high = torch.full_like(o[:, 0], -math.inf), torch.full_like(o[:, 0], math.inf)
    if kind in (1, 2):
        axes = [0, 1, 2] if kind == 1 else [2]
        ends = torch.stack([(-1 - o[:, axes]) / d[:, axes], (1 - o[:, axes]) / d[:, axes]])
        low, high = ends.amin(0).amax(1), ends.amax(0).amin(1)
    if kind in (2, 3):
        axes = [0, 1] if kind == 2 else [0, 1, 2]
        a, b, c = (
            d[:, axes].square().sum(1),
            (o * d)[:, axes].sum(1),
            o[:, axes].square().sum(1) - 1,
        )
        root = (b * b - a * c).clamp(min=-1e300).sqrt()  # NaN where it misses
        low, high = torch.maximum(low, (-b - root) / a), torch.minimum(high, (-b + root) / a)
    return low, high


def brute_force(
    origins: Tensor, directions: Tensor, share: Tensor, primitives: Primitives
) -> tuple[Tensor, Tensor]:
    best, found = torch.full_like(share, math.inf), torch.full(share.shape, -1)
    unit = directions / directions.norm(dim=1, keepdim=True)
    for p in range(len(primitives)):
        turn = rotation(-share[:, None] * primitives.turn[p])
        pivot, pose = primitives.pivot[p], primitives.pose[p]
        back = (
            (turn @ (origins - pivot - share[:, None] * primitives.way[p])[..., None]).squeeze(-1)
            + pivot
            - pose[:3, 3]
        )
        o = back @ pose[:3, :3] / primitives.half_size[p]
        d = (turn @ unit[..., None]).squeeze(-1) @ pose[:3, :3] / primitives.half_size[p]
        low, high = interval(int(primitives.kind[p]), o, d)
        t = torch.where(low > 0, low, high)
        better = (low <= high) & (t > 0) & (t < best)
        best, found = (
            torch.where(better, t, best),
            torch.where(better, torch.full_like(found, p), found),
        )
    return best, found


def clutter(count: int, generator: torch.Generator, moving: bool) -> Primitives:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    kind = torch.randint(0, 4, (count,), generator=generator)
    kind[kind == 0] = torch.where(
        torch.rand(int((kind == 0).sum()), generator=generator) < 0.2, 0, 2
    )
    pose = rigid(rotation(normal(count, 3)), 15 * normal(count, 3))
    zero = torch.zeros(count, 3, dtype=F64)
    return Primitives(
        kind,
        0.2 + 2 * torch.rand(count, 3, generator=generator, dtype=F64),
        pose,
        normal(count, 3) if moving else zero,
        normal(count, 3) * (torch.arange(count) % 2)[:, None] if moving else zero,
        pose[:, :3, 3] + normal(count, 3),
    )


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("spread", [0.0, 10.0])
def test_agrees_with_trying_all_one_by_one(moving: bool, spread: float) -> None:
    generator = torch.Generator().manual_seed(4)
    primitives = clutter(120, generator, moving)
    origins = spread * torch.randn(4000, 3, generator=generator, dtype=F64)
    directions = torch.randn(4000, 3, generator=generator, dtype=F64)
    share = torch.rand(4000, generator=generator, dtype=F64)
    ranges, hits = cast_rays(origins, directions, share, primitives)
    expected, owners = brute_force(origins, directions, share, primitives)
    torch.testing.assert_close(ranges, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(hits, owners)
    assert len(hits.unique()) > 30
    # A frame far away, in float32: relative to the rays, as a sensor sees it.
    far = rigid(torch.eye(3, dtype=F64), torch.tensor([3e5, -2e5, 50.0], dtype=F64))
    there = Primitives(
        primitives.kind,
        primitives.half_size,
        far @ primitives.pose,
        primitives.way,
        primitives.turn,
        transform(far, primitives.pivot),
    )
    base = transform(far, torch.zeros(4000, 3, dtype=F64))
    assert spread or torch.equal(cast_rays(base, directions, share, there)[1], owners)


def test_single_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    primitives = clutter(100, generator, True)
    directions = torch.randn(3000, 3, generator=generator)
    share, origins = torch.rand(3000, generator=generator), torch.zeros(3000, 3)
    ranges, hits = cast_rays(origins, directions, share, primitives)
    expected, owners = cast_rays(origins.double(), directions.double(), share.double(), primitives)
    assert ranges.dtype == torch.float32
    same = hits == owners
    assert float(same.double().mean()) > 0.998  # grazing rays may pass
    torch.testing.assert_close(ranges[same].double(), expected[same], rtol=1e-3, atol=1e-3)
    assert (
        float((ranges[same].double() - expected[same])[expected[same].isfinite()].abs().median())
        < 1e-5
    )


def test_reach_and_order_and_threads() -> None:
    generator = torch.Generator().manual_seed(2)
    primitives = clutter(80, generator, True)
    directions, share = (
        torch.randn(20000, 3, generator=generator, dtype=F64),
        torch.rand(20000, generator=generator, dtype=F64),
    )
    origins = torch.zeros(20000, 3, dtype=F64)
    ranges, hits = cast_rays(origins, directions, share, primitives)
    near, near_hits = cast_rays(origins, directions, share, primitives, reach=12.0)
    assert torch.equal(near, torch.where(ranges < 12, ranges, math.inf)) and torch.equal(
        near_hits, torch.where(ranges < 12, hits, -1)
    )
    shuffled = torch.randperm(80, generator=generator)
    again, numbers = cast_rays(origins, directions, share, primitives[shuffled])
    assert torch.equal(again, ranges) and torch.equal(
        torch.cat([shuffled, torch.tensor([-1])])[numbers], hits
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(cast_rays(origins, directions, share, primitives)[0], ranges)
    finally:
        torch.set_num_threads(threads)


def test_nothing_to_meet_and_nobody_to_meet_it() -> None:
    ball = one("ellipsoid", (1, 1, 1))
    nothing = ball[torch.zeros(0, dtype=torch.int64)]
    assert shoot(nothing, (0, 0, 0), (1, 0, 0)) == (math.inf, -1)
    assert cast_rays(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0), ball)[0].shape == (0,)


def test_faults_are_named() -> None:
    with pytest.raises(InputError, match="kind of primitive"):
        Primitives.still(["cone"], torch.ones(1, 3), torch.eye(4)[None])
    with pytest.raises(InputError, match="half_size of Primitives must be positive"):
        one("box", (1, 0, 1))
    with pytest.raises(InputError, match="pose has the shape"):
        Primitives.still(["box"], torch.ones(1, 3), torch.eye(4))
    with pytest.raises(InputError, match=r"\(N, 3\)"):
        cast_rays(torch.zeros(4, 3), torch.zeros(3, 3), torch.zeros(4), one("box", (1, 1, 1)))
    with pytest.raises(InputError, match="float32 or float64"):
        cast_rays(
            torch.zeros(4, 3).long(), torch.zeros(4, 3), torch.zeros(4), one("box", (1, 1, 1))
        )
    assert len(KINDS) == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees() -> None:
    generator = torch.Generator().manual_seed(3)
    primitives = clutter(100, generator, True)
    rays = torch.randn(5000, 3, generator=generator, dtype=F64)
    share = torch.rand(5000, generator=generator, dtype=F64)
    here = cast_rays(torch.zeros_like(rays), rays, share, primitives)
    there = cast_rays(torch.zeros_like(rays).cuda(), rays.cuda(), share.cuda(), primitives)
    torch.testing.assert_close(there[0].cpu(), here[0], rtol=1e-9, atol=1e-9)
    assert torch.equal(there[1].cpu(), here[1])
