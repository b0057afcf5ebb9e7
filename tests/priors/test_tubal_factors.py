"""Products of tensors under products of tubes: their definition, limits, and a small recovery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import TubalFactors
from invtoolbox.testing import check_prior


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def prepared(prior: TubalFactors, *shape: int, dtype: torch.dtype = torch.float64) -> TubalFactors:
    y = torch.zeros(1, *shape, dtype=dtype)
    return prior.prepare(it.Problem(y, it.operators.Identity(shape)), it.solve)


def transpose(x: Tensor) -> Tensor:
    """Transpose every slice ``x[..., i, :, :]``, conjugate it, and reverse the slices after 0."""
    return x.mH.roll(-1, -3).flip(-3)


@pytest.mark.parametrize("n", [1, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_product_is_a_circular_convolution_of_slices(n: int, dtype: torch.dtype) -> None:
    prior = prepared(TubalFactors(2), n, 3, 6, dtype=dtype)
    left, right = (drawn(2, *leaf.shape[1:], dtype=dtype) for leaf in prior.initial().values())
    expected = torch.stack(
        [sum(left[:, j] @ right[:, (i - j) % n] for j in range(n)) for i in range(n)], 1
    )
    torch.testing.assert_close(prior.decode({"left": left, "right": right}), expected)


@pytest.mark.parametrize("n", [1, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_symmetric_product_is_its_own_transpose(n: int, dtype: torch.dtype) -> None:
    left = drawn(2, n, 3, 2, dtype=dtype)
    x = prepared(TubalFactors(2, symmetric=True), n, 3, 3, dtype=dtype).decode({"left": left})
    torch.testing.assert_close(x, transpose(x))
    right = transpose(left)
    plain = prepared(TubalFactors(2), n, 3, 3, dtype=dtype)
    torch.testing.assert_close(x, plain.decode({"left": left, "right": right}))


@pytest.mark.parametrize(
    ("prior", "shape"),
    [
        (TubalFactors(2), (3, 2, 4)),
        (TubalFactors(1, tubes=2, rows=3), (2, 3, 2, 2)),
        (TubalFactors(2, tubes=3, rows=1, symmetric=True), (4, 2, 3, 2)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_keeps_the_contracts(
    prior: TubalFactors, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    check_prior(prior, drawn(2, *shape, dtype=dtype))
    bound = prepared(prior, *shape, dtype=dtype)
    start = bound.initial()
    leaves = [drawn(2, *leaf.shape[1:], dtype=dtype).requires_grad_() for leaf in start.values()]
    decode = lambda *leaves: bound.decode(dict(zip(start, leaves)))  # noqa: E731
    assert decode(*leaves).shape == (2, *shape)
    assert torch.autograd.gradcheck(decode, leaves)


def test_axes() -> None:
    left, right = drawn(1, 5, 3, 2), drawn(1, 5, 2, 4)
    factors = {"left": left, "right": right}
    plain = prepared(TubalFactors(2), 5, 3, 4).decode(factors)
    moved = prepared(TubalFactors(2, tubes=3, rows=2), 4, 3, 5).decode(factors)
    torch.testing.assert_close(moved, plain.transpose(1, 3))
    split = prepared(TubalFactors(2, tubes=2, rows=3), 2, 5, 3, 2).decode(factors)
    torch.testing.assert_close(split, plain.unflatten(3, (2, 2)).movedim(3, 1))


def test_the_first_factors_have_the_scale() -> None:
    start = prepared(TubalFactors(400, scale=0.5), 4, 30, 30).initial()
    for leaf in start.values():
        assert float(leaf.std()) == pytest.approx(0.5 / 20, rel=0.05)
    other = prepared(TubalFactors(400, scale=0.5, seed=1), 4, 30, 30).initial()
    assert not torch.equal(start["left"], other["left"])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_an_item_has_the_same_bits_alone(symmetric: bool, dtype: torch.dtype) -> None:
    y = drawn(3, 8, 12, 12, dtype=dtype)
    prior = TubalFactors(3, symmetric=symmetric, scale=0.1)

    def fit(y: Tensor) -> Tensor:
        problem = it.Problem(y, it.operators.Identity((8, 12, 12)))
        solver = it.solvers.GradientDescent(max_iterations=6)
        return it.solve(problem, prior, solver, progress=False, check=False).x

    together = fit(y)
    for k in range(3):
        assert torch.equal(fit(y[k : k + 1])[0], together[k])


def recover(rank: int, scale: float) -> float:
    """Return the error of a tensor of tubal rank 1 from 70 products with random tensors.

    The symmetric tensors of its shape have 78 free entries.
    """
    spectrum = torch.linalg.qr(torch.fft.rfft(drawn(4, 6, 1), dim=0)).Q
    truth = torch.fft.irfft(spectrum @ spectrum.mH, n=4, dim=0)[None]
    rows = drawn(70, 4, 6, 6)
    rows = (rows + transpose(rows)) / 2
    A = it.as_operator(rows.flatten(1) / 70**0.5, (4, 6, 6))
    solution = it.solve(
        it.Problem(A(truth), A),
        TubalFactors(rank, symmetric=True, scale=scale),
        it.solvers.GradientDescent(step_size=0.1, tolerance=0.0),
        max_iterations=300,
        progress=False,
        check=False,
    )
    return float((solution.x - truth).norm() / truth.norm())


def test_small_factors_find_a_tensor_of_low_rank() -> None:
    assert max(recover(6, 1e-7), recover(20, 1e-7)) < 1e-3 < 0.05 < recover(6, 0.1)


def test_a_solution_is_saved_and_loaded(tmp_path: Path) -> None:
    problem = it.Problem(drawn(2, 3, 4, 5), it.operators.Identity((3, 4, 5)))
    solution = it.solve(problem, TubalFactors(2), max_iterations=3, progress=False, check=False)
    again = it.Solution.load(solution.save(tmp_path / "factors.h5"))
    assert torch.equal(solution.x, again.x) and solution.parameters.keys() == {"left", "right"}
    for name, leaf in solution.parameters.items():
        assert torch.equal(leaf, again.parameters[name])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, "rank of TubalFactors must be at least 1"),
        ({"rank": 1, "scale": 0.0}, "scale of TubalFactors must be positive"),
        ({"rank": 1, "scale": float("nan")}, "scale of TubalFactors must be positive"),
        ({"rank": 1, "tubes": 2, "rows": 2}, "two axes"),
        ({"rank": 1, "tubes": 0}, "two axes"),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TubalFactors(**settings)


def test_bad_images() -> None:
    with pytest.raises(InputError, match="prepared"):
        TubalFactors(1).initial()
    with pytest.raises(InputError, match="prepared"):
        TubalFactors(1, symmetric=True).decode({"left": drawn(1, 4, 3, 1)})
    with pytest.raises(InputError, match="TubalFactors needs axes 1 and 2 and at least one more"):
        prepared(TubalFactors(1), 3, 4)
    with pytest.raises(InputError, match="axes 4 and 2"):
        prepared(TubalFactors(1, tubes=4), 3, 4, 5)
    with pytest.raises(InputError, match="3 rows .* and 8 columns"):
        prepared(TubalFactors(1, symmetric=True), 5, 3, 2, 4)


def test_the_text_of_the_prior_has_its_changed_settings() -> None:
    assert repr(TubalFactors(3)) == "TubalFactors(3)"
    assert repr(TubalFactors(3, symmetric=True)) == "TubalFactors(3, symmetric=True)"
