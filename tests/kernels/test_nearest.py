"""Nearest neighbours against all distances."""

from __future__ import annotations

import sys

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.kernels.points.nearest import Tree


def clouds(
    n: int = 700, m: int = 500, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(n, 3, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn(m, 3, generator=generator, dtype=torch.float64).to(dtype),
    )


def every_distance(p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = (p[:, None].double() - q[None].double()).norm(dim=-1).min(1)
    return found.values, found.indices


@pytest.mark.parametrize("package", ["pykdtree", "scipy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_is_the_least_of_all_distances(
    package: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "scipy":
        monkeypatch.setitem(sys.modules, "pykdtree.kdtree", None)
    p, q = clouds(dtype=dtype)
    distance, index = Tree(q).query(p)
    expected, which = every_distance(p, q)
    assert torch.equal(index, which) and distance.dtype == dtype
    torch.testing.assert_close(distance, expected.to(dtype))


def test_beyond_the_bound_there_is_nothing() -> None:
    p, q = clouds()
    distance, index = Tree(q).query(p, bound=0.3)
    expected, which = every_distance(p, q)
    near = expected <= 0.3
    assert bool(near.any()) and bool((~near).any())
    assert (
        torch.equal(index[near], which[near])
        and bool(distance[~near].isinf().all())
        and int(index[~near].max()) == 0
    )


@pytest.mark.parametrize("package", ["pykdtree", "scipy"])
@pytest.mark.parametrize("bound", [None, 0.3])
def test_what_is_not_finite_has_no_neighbour(
    package: str, bound: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "scipy":
        monkeypatch.setitem(sys.modules, "pykdtree.kdtree", None)
    p, q = clouds()
    p[3], p[5, 1], p[7] = float("nan"), float("inf"), 1e38
    tree = Tree(q)
    distance, index = tree.query(p, bound)
    assert (
        bool(distance[[3, 5]].isinf().all())
        and not bool(index[[3, 5]].any())
        and 0 <= int(index[7]) < len(q)
    )
    sound = torch.ones(len(p), dtype=torch.bool)
    sound[[3, 5, 7]] = False
    assert torch.equal(index[sound], tree.query(p[sound], bound)[1])


def test_threads_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = clouds(9000, 8000)
    alone = Tree(q).query(p)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    together = Tree(q).query(p)
    assert all(torch.equal(a, b) for a, b in zip(alone, together))


def test_no_points_at_all() -> None:
    assert Tree(torch.zeros(1, 3)).query(torch.zeros(0, 3))[1].shape == (0,)
    with pytest.raises(InputError, match="at least one"):
        Tree(torch.zeros(0, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_as_on_the_cpu() -> None:
    p, q = clouds(20_000, 15_000)
    on_cpu, on_gpu = Tree(q).query(p, 0.2), Tree(q.cuda()).query(p.cuda(), 0.2)
    torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0])
    assert float((on_gpu[1].cpu() == on_cpu[1]).float().mean()) > 0.999
