"""The nuclear norm: known singular values, exactness of the prox for every tiling, and a dynamic series that it completes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import NuclearNorm
from invtoolbox.testing import check_prior


def images(*shape: int, complex_: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (
        torch.complex(x, torch.randn(shape, generator=generator, dtype=torch.float64))
        if complex_
        else x
    )


CASES: dict[str, tuple[Callable[[], NuclearNorm], tuple[int, ...]]] = {
    "channels": (NuclearNorm, (2, 4, 5, 6)),
    "more channels than pixels": (NuclearNorm, (2, 7, 2, 2)),
    "square": (NuclearNorm, (2, 4, 4)),
    "one channel": (NuclearNorm, (2, 1, 5, 6)),
    "patches": (lambda: NuclearNorm(patch=3, offset=1), (2, 4, 5, 7)),
    "tall patches": (lambda: NuclearNorm(patch=(1, 2)), (2, 4, 3, 5)),
    "frames": (lambda: NuclearNorm(axis=2), (2, 2, 4, 5, 6)),
    "frames in patches": (
        lambda: NuclearNorm(axis=2, patch=(2, 4), offset=(1, 2)),
        (2, 2, 4, 5, 6),
    ),
    "the last axis": (lambda: NuclearNorm(axis=3, patch=2), (2, 1, 5, 3)),
    "volumes": (lambda: NuclearNorm(patch=(2, 3, 2)), (2, 3, 3, 4, 3)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("complex_", [False, True])
def test_keeps_the_contracts(name: str, complex_: bool) -> None:
    make, shape = CASES[name]
    check_prior(make(), images(*shape, complex_=complex_), steps=(0.1, 0.7), prox_tolerance=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_energy_is_the_sum_of_the_singular_values(name: str) -> None:
    """Against the matrices, patch by patch, as a loop writes them down."""
    make, shape = CASES[name]
    prior, x = make(), images(*shape)
    rows = x.movedim(prior.axis, 1)
    space = list(range(2, x.ndim)) if prior.axis == 1 else list(range(3, x.ndim))
    blocks = [rows]
    for k, axis in enumerate(space):
        n = rows.shape[axis]
        size = (
            n
            if prior.patch is None
            else prior.patch
            if isinstance(prior.patch, int)
            else prior.patch[k]
        )
        start = prior.offset if isinstance(prior.offset, int) else prior.offset[k]
        edges = sorted({0, n, *(e for e in range(start % size, n, size))})
        blocks = [block.narrow(axis, a, b - a) for block in blocks for a, b in pairwise(edges)]
    expected = sum(torch.linalg.matrix_norm(block.flatten(2), "nuc") for block in blocks)
    torch.testing.assert_close(prior.energy(x), expected)
    # Not moved at all, an image comes back as it was, whatever the tiling.
    torch.testing.assert_close(prior.prox(x, 0.0), x)


@pytest.mark.parametrize("name", CASES)
def test_batch_equals_items_bitwise(name: str) -> None:
    make, shape = CASES[name]
    prior, x, steps = make(), images(*shape).float(), torch.tensor([0.1, 0.7])
    for k in range(2):
        assert torch.equal(prior.prox(x[k : k + 1], steps[k : k + 1])[0], prior.prox(x, steps)[k])


def test_items_of_odd_sizes_have_the_same_bits_alone_and_nan_stays_in_its_item() -> None:
    prior, x = NuclearNorm(), images(4, 5, 7, 9)
    found, energy = prior.prox(x, 0.5), prior.energy(x)
    for k in range(4):
        assert torch.equal(prior.prox(x[k : k + 1], 0.5)[0], found[k])
        assert torch.equal(prior.energy(x[k : k + 1])[0], energy[k])
    x[1, 2, 3, 4] = torch.nan
    assert bool(prior.prox(x, 0.5)[1].isnan().all()) and bool(prior.energy(x)[1].isnan())
    assert torch.equal(prior.prox(x, 0.5)[2:], found[2:])


def test_the_prox_lowers_the_rank() -> None:
    x = images(1, 6, 8, 9)
    values = torch.linalg.svdvals(x.flatten(2))[0]
    u = NuclearNorm().prox(x, float(values[3]) + 1e-9)
    assert int(torch.linalg.matrix_rank(u.flatten(2))) == 3
    assert not bool(NuclearNorm().prox(x, 1e3).any())
    assert bool(NuclearNorm().gradient(torch.zeros(1, 3, 4, 4)).isfinite().all())


def test_accurate_where_singular_values_are_small() -> None:
    """By way of the Gram matrix, float32 would lose singular values below 3e-4 of the largest."""
    left, right = torch.linalg.qr(images(1, 4, 4)[0]).Q, torch.linalg.qr(images(1, 100, 4)[0]).Q
    values = torch.tensor([1.0, 1e-2, 1e-4, 1e-5], dtype=torch.float64)
    x = (left * values) @ right.T
    u = NuclearNorm().prox(x.view(1, 4, 10, 10).float(), 5e-6).view(4, 100).double()
    expected = (left * (values - 5e-6)) @ right.T
    assert float(torch.linalg.matrix_norm(u - expected, 2)) < 2e-6


def test_completes_a_dynamic_series() -> None:
    """Two pictures that come and go: half of the samples of every frame are enough for low rank, not for the frames alone."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 16, 16, generator=generator)
    times = torch.linspace(0, 6.28, 12)
    truth = (torch.stack([times.sin(), times.cos()], 1) @ pictures.flatten(1)).view(1, 12, 16, 16)
    mask = (torch.rand(1, 12, 16, 16, generator=generator) < 0.5).float()
    problem = it.Problem(mask * truth, it.operators.Inpainting(mask[0], (12, 16, 16)))
    x = it.solve(problem, NuclearNorm(), it.solvers.FISTA(), 0.05, tolerance=1e-5, progress=False).x
    assert float((x - truth).norm() / truth.norm()) < 0.05
    alone = it.solve(
        problem,
        it.priors.TotalVariation(),
        it.solvers.FISTA(),
        0.01,
        max_iterations=50,
        progress=False,
    ).x
    assert float((alone - truth).norm() / truth.norm()) > 0.4


def test_locally_low_rank_follows_what_moves() -> None:
    """Every place has a time course of its own, so the series has full rank, and every patch rank 1."""
    generator = torch.Generator().manual_seed(0)
    courses = (
        torch.randn(8, 4, 4, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    )
    truth = (courses * (1 + torch.rand(1, 16, 16, generator=generator)))[None]
    y = truth + 0.3 * torch.randn(truth.shape, generator=generator)

    def error(prior: NuclearNorm) -> float:
        return min(
            float((prior.prox(y, t) - truth).norm() / truth.norm())
            for t in (0.3, 0.6, 1.2, 2.4, 4.8)
        )

    assert error(NuclearNorm(patch=4)) < 0.6 * error(NuclearNorm())


@pytest.mark.parametrize(
    "make",
    [
        lambda: NuclearNorm(axis=0),
        lambda: NuclearNorm(patch=0),
        lambda: NuclearNorm(patch=2, offset=-1),
        lambda: NuclearNorm(axis=4).energy(torch.zeros(1, 2, 3, 4)),
        lambda: NuclearNorm(patch=(2, 2, 2)).energy(torch.zeros(1, 2, 3, 4)),
    ],
)
def test_bad_input_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()
