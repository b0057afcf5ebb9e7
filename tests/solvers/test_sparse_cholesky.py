"""Sparse factors of systems of springs, compared with dense systems."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.solvers import local_global
from invtoolbox.solvers.local_global import Factors, Graph, group_equal
from tests.emulated_cuda import emulate_cuda


def graph(seed: int) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 5, 5]])
    strengths = torch.rand(6, generator=generator) + 0.1
    free = torch.tensor([True, True, False, True, True, True])
    return Graph(
        diagonal=torch.rand(6, generator=generator),
        edges=(edges,),
        strengths=(strengths,),
        free=free,
    )


def dense(system: Graph) -> torch.Tensor:
    matrix = torch.diag(system.diagonal.double())
    for i, j, c in zip(*system.edges[0].tolist(), system.strengths[0].double().tolist()):
        matrix[i, i] += c
        matrix[j, j] += c
        matrix[i, j] -= c
        matrix[j, i] -= c
    return matrix[system.free][:, system.free]


@pytest.mark.parametrize("which", [[0, 0, 0], [0, 1, 0]])
def test_items_are_solved_by_their_factors(which: list[int]) -> None:
    systems = [graph(0), graph(1)]
    right = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    answer = Factors(systems).solve(right, torch.tensor(which))
    for k, number in enumerate(which):
        free = systems[number].free
        exact = torch.linalg.solve(dense(systems[number]), right[k, free])
        torch.testing.assert_close(answer[k, free], exact)
        assert bool((answer[k, ~free] == 0).all())
        alone = Factors([systems[number]]).solve(right[k : k + 1], torch.tensor([0]))
        assert torch.equal(alone[0], answer[k])


def test_equal_systems_share_a_factor() -> None:
    first, second = graph(0), graph(1)
    assert group_equal([first, second, graph(0)]) == ([first, second], [0, 1, 0])


@pytest.mark.parametrize("spare", [0, -1])
def test_a_gpu_multiplies_by_all_inverses_if_they_fit(
    monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    """Two inverses of six points, in float64, and a limit of as many bytes or of one less."""
    monkeypatch.setattr(local_global, "_LARGEST_INVERSE", 2 * 6 * 6 * 8 + spare)
    systems, which = [graph(0), graph(1)], torch.tensor([1])
    right = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = Factors(systems).solve(right, which)
    with emulate_cuda() as tally:
        factors = Factors(
            [
                Graph(
                    diagonal=system.diagonal.to("cuda"),
                    edges=tuple(edges.to("cuda") for edges in system.edges),
                    strengths=tuple(strengths.to("cuda") for strengths in system.strengths),
                    free=system.free.to("cuda"),
                )
                for system in systems
            ]
        )
        right, which = right.to("cuda"), which.to("cuda")
        for _ in range(12):
            tally.clear()
            answer = factors.solve(right, which).cpu()
        copies = tally.copies.total()
    torch.testing.assert_close(answer, expected)
    assert copies == (1 if spare == 0 else 3)  # that of the test, and two to the CPU and back
