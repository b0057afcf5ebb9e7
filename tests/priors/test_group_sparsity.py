"""Group sparsity: groups of channels, groups that a map names, groups of wavelet coefficients, and bounds that join in exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import L1, Box, GroupL1, GroupSparsity, NonNegative, WaveletL1
from invtoolbox.testing import check_prior

LABELS = torch.tensor([[0, 0, 1, 1, -1], [2, 0, 2, 3, -1], [2, 2, 5, 5, 5]])


def images(*shape: int, complex_: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (
        torch.complex(x, torch.randn(shape, generator=generator, dtype=torch.float64))
        if complex_
        else x
    )


PRIORS: dict[str, Callable[[], it.priors.ExplicitPrior]] = {
    "labels": lambda: GroupSparsity(LABELS),
    "labels of values": lambda: GroupSparsity(torch.arange(60).view(4, 3, 5) % 7, "size"),
    "weighted labels": lambda: GroupSparsity(LABELS, torch.tensor([0.0, 1.0, 0.5, 2.0, 1.0, 3.0])),
    "channels": lambda: GroupL1(2),
    "wavelet": lambda: WaveletL1("haar", levels=1, coupled=True),
}


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("complex_", [False, True])
def test_keeps_the_contracts(name: str, complex_: bool) -> None:
    check_prior(PRIORS[name](), images(2, 4, 3, 5, complex_=complex_), prox_tolerance=1e-9)


@pytest.mark.parametrize(
    "prior",
    [
        L1(lower=0.0),
        L1(-0.3, 0.4),
        L1(0.2, torch.tensor([0.5, 1.0])),
        L1(upper=-0.1),
        GroupL1(2, nonnegative=True),
        GroupL1(interleaved=True, size=2, nonnegative=True),
    ],
)
def test_bounds_are_part_of_the_prox(prior: it.priors.ExplicitPrior) -> None:
    x = images(2, 4, 3, 5)
    check_prior(prior, x, steps=(0.05, 0.5), prox_tolerance=1e-9)
    # A long primal-dual run that knows the two parts separately.
    bare = L1() if isinstance(prior, L1) else GroupL1(prior.size, prior.interleaved)
    bounds = prior.bounds if isinstance(prior, L1) else NonNegative()
    assert bounds is not None
    problem = it.Problem(x, it.operators.Identity((4, 3, 5)))
    reference = it.solve(
        problem,
        bare + bounds,
        it.solvers.PDHG(),
        0.3,
        tolerance=1e-10,
        max_iterations=20000,
        progress=False,
    ).x
    torch.testing.assert_close(prior.prox(x, 0.3), reference, rtol=0, atol=1e-7)
    assert bool(prior.energy(reference).isfinite().all()) and not bool(
        prior.energy(10 * x).isfinite().any()
    )


@pytest.mark.parametrize("name", PRIORS)
def test_batch_equals_items_bitwise(name: str) -> None:
    prior, x, steps = PRIORS[name](), images(2, 4, 3, 5).float(), torch.tensor([0.1, 0.7])
    for k in range(2):
        assert torch.equal(prior.prox(x[k : k + 1], steps[k : k + 1])[0], prior.prox(x, steps)[k])
        assert torch.equal(prior.energy(x[k : k + 1])[0], prior.energy(x)[k])


def test_labels_of_channels_are_groups_of_channels() -> None:
    x = images(2, 4, 3, 5)
    labels = torch.arange(15).view(3, 5)
    torch.testing.assert_close(GroupSparsity(labels).energy(x), GroupL1().energy(x))
    torch.testing.assert_close(GroupSparsity(labels).prox(x, 0.4), GroupL1().prox(x, 0.4))


def test_large_groups_are_not_preferred() -> None:
    """With the weights ``sqrt(size)`` a constant costs its modulus times the number of values, whatever the groups are."""
    x = torch.full((1, 1, 3, 5), 2.0)
    free = int((LABELS < 0).sum())
    assert float(GroupSparsity(LABELS, "size").energy(x)) == pytest.approx(2 * (15 - free))


def test_a_map_finds_which_regions_changed() -> None:
    """Regions without a change are exactly 0, although every pixel is noisy."""
    labels = torch.arange(16).view(4, 4).repeat_interleave(6, 0).repeat_interleave(6, 1)
    truth = torch.zeros(1, 1, 24, 24)
    truth[..., (labels == 5) | (labels == 10)] = 1
    y = truth + 0.3 * images(1, 1, 24, 24).float()
    u = GroupSparsity(labels, "size").prox(y, 0.5)
    assert {int(k) for k in labels[u[0, 0] != 0].unique()} == {5, 10}
    # Value by value, what is kept of the two regions costs false alarms elsewhere.
    assert int((L1().prox(y, 0.5)[truth == 0] != 0).sum()) > 30


def test_coupled_wavelets_keep_the_edges_of_weak_channels() -> None:
    """Colors share their edges: at equal thresholds the group keeps the edges of a channel of little contrast."""
    from skimage import data

    grey = torch.from_numpy(data.camera()[100:164, 180:244].copy()).float() / 255
    truth = torch.stack([grey, 0.5 * grey, 0.2 * grey])[None]
    y = truth + 0.05 * images(1, 3, 64, 64).float()

    def best(coupled: bool) -> float:
        return max(
            float(it.metrics.psnr(WaveletL1(coupled=coupled).prox(y, t), truth))
            for t in (0.05, 0.08, 0.12, 0.16, 0.2)
        )

    assert best(True) > best(False) + 0.3


@pytest.mark.parametrize(
    "make",
    [
        lambda: GroupSparsity(torch.zeros(3)),
        lambda: GroupSparsity(LABELS, torch.ones(3)),
        lambda: GroupSparsity(LABELS, "area"),  # type: ignore[arg-type]
        lambda: GroupSparsity(LABELS).energy(torch.zeros(1, 1, 3, 4)),
        lambda: L1(1.0, 0.0),
        lambda: L1(lower=0.0).prox(torch.zeros(1, 1, 2, dtype=torch.complex64), 1.0),
        lambda: Box(0, 1).energy(torch.zeros(1, 1, 2, dtype=torch.complex64)),
    ],
)
def test_bad_input_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()
