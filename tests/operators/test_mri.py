"""Cartesian MRI: the contract, deepinv's own figures, closed forms, coil maps from the data, the solvers on complex images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import CartesianMRI, estimate_coil_maps, outer_noise_std
from invtoolbox.testing import check_operator


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed)
    )


def lines(*shape: int, seed: int = 0) -> torch.Tensor:
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    mask[..., shape[-1] // 2] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "maps"),
    [
        (lines(6, 7), None),
        (lines(1, 7), noise(4, 6, 7)),
        (lines(3, 1, 6, 7), noise(4, 6, 7)),
        (lines(4, 6, 7), noise(3, 4, 6, 7)),
        (lines(3, 1, 1, 7).double() * 0.7, None),
    ],
)
def test_keeps_the_contract(mask: torch.Tensor, maps: torch.Tensor | None) -> None:
    A = CartesianMRI(mask, (6, 7), maps)
    assert A.range_shape == (1 if maps is None else 4, 6, 7)
    assert check_operator(A, noise(3, 1, 6, 7, seed=1)).ok


def test_a_sequence_has_a_mask_for_every_frame() -> None:
    mask = lines(5, 6, 7)
    A = CartesianMRI(mask, (1, 5, 6, 7), noise(2, 1, 6, 7), axes=2)
    assert check_operator(A, noise(2, 1, 5, 6, 7, seed=1)).ok
    x = noise(1, 1, 5, 6, 7, seed=2)
    for frame in range(5):
        alone = CartesianMRI(mask[frame], (6, 7), A.coil_maps[0, :, 0])(x[:, :, frame])  # type: ignore[index]
        torch.testing.assert_close(A(x)[:, :, frame], alone)
    volume = CartesianMRI(lines(4, 6, 7), (1, 4, 6, 7))
    assert check_operator(volume, noise(2, 1, 4, 6, 7)).ok


def test_agrees_with_deepinv() -> None:
    from deepinv.physics import MultiCoilMRI

    maps, mask, x = (
        noise(3, 8, 9).to(torch.complex64),
        lines(8, 9),
        noise(2, 1, 8, 9, seed=2).to(torch.complex64),
    )
    physics = MultiCoilMRI(mask=mask.float(), coil_maps=maps, img_size=(2, 8, 9))
    theirs = physics.A(torch.view_as_real(x[:, 0]).movedim(-1, 1).contiguous())
    ours = CartesianMRI(mask, (8, 9), maps)(x)
    torch.testing.assert_close(
        torch.complex(theirs[:, 0], theirs[:, 1]), ours, rtol=1e-5, atol=1e-5
    )


def test_closed_forms() -> None:
    A, x = CartesianMRI(lines(6, 7), (6, 7)), noise(2, 1, 6, 7)
    assert A.norm().tolist() == [1.0]
    torch.testing.assert_close(A(A.pseudo_inverse(A(x))), A(x))
    coils = CartesianMRI(torch.ones(6, 7), (6, 7), noise(3, 6, 7))
    torch.testing.assert_close(coils.pseudo_inverse(coils(x)), x)
    assert A.has_normal_resolvent and not coils.has_normal_resolvent
    assert A.sampled.unique().tolist() == [0.0, 1.0]


def test_gradient_in_the_coil_maps() -> None:
    A, x, maps = (
        CartesianMRI(lines(4, 5), (4, 5), noise(2, 4, 5)),
        noise(1, 1, 4, 5),
        noise(1, 2, 4, 5, seed=3).requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda m: A.with_parameters(coil_maps=m)(x), (maps,))
    assert torch.autograd.gradcheck(lambda m: A.with_parameters(coil_maps=m).adjoint(A(x)), (maps,))


@pytest.mark.parametrize(
    ("mask", "shape", "maps", "message"),
    [
        (torch.ones(3, 3), (4, 4), None, "broadcast"),
        (torch.zeros(4, 4), (4, 4), None, "zero everywhere"),
        (torch.ones(4, 4), (4, 4), torch.ones(2, 3, 4), "coil_maps"),
        (torch.ones(4, 4), (2, 4, 4), None, "one complex channel"),
        (torch.ones(2, 1, 4, 4), (4, 4), torch.ones(3, 2, 4, 4), "different sizes"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(
    mask: torch.Tensor, shape: tuple[int, ...], maps: Any, message: str
) -> None:
    with pytest.raises(it.InputError, match=message):
        CartesianMRI(mask, shape, maps)


def test_noise_of_the_outer_samples() -> None:
    rows = torch.arange(64) - 32
    signal = 100 * torch.exp(-(rows[:, None] ** 2 + rows**2) / 50.0)
    for seed, std in ((0, 0.5), (1, 2.0)):
        y = signal + std * torch.view_as_complex(
            torch.randn(1, 3, 64, 64, 2, generator=torch.Generator().manual_seed(seed))
        )
        mask = lines(64, 64, seed=seed)
        assert float(outer_noise_std(y * mask, mask)) == pytest.approx(std, rel=0.05)
        torch.testing.assert_close(outer_noise_std(y * mask), outer_noise_std(y * mask, mask))


# -- coil maps -------------------------------------------------------------------------------------


def scan(size: int = 48, coils: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc with structure, and smooth complex sensitivities around it of unit norm."""
    line = torch.linspace(-1, 1, size, dtype=torch.float64)
    rows, columns = line[:, None], line[None, :]
    radius = torch.hypot(rows, columns)
    x = ((radius < 0.7) * (1 + 0.5 * torch.cos(6 * rows) * torch.cos(5 * columns))).to(
        torch.complex128
    )
    angles = torch.arange(coils) * 2 * torch.pi / coils
    maps = torch.stack(
        [
            torch.exp(-0.6 * ((rows - a.sin()) ** 2 + (columns - a.cos()) ** 2))
            * torch.exp(1j * (rows * a.cos() - columns * a.sin()))
            for a in angles
        ]
    )
    return x, maps / maps.abs().square().sum(0).sqrt()


def test_coil_maps_are_found_up_to_a_phase() -> None:
    x, maps = scan()
    y = CartesianMRI(torch.ones(48, 48), (48, 48), maps)(x[None, None])
    found = estimate_coil_maps(y, calibration=24, crop=0.8)[0]
    inside = torch.zeros(48, 48, dtype=torch.bool)
    inside[12:36, 12:36] = True
    overlap = (found.conj() * maps).sum(0).abs()
    assert float(overlap[inside].min()) > 0.999
    assert float(found[:, 0, 0].abs().max()) == 0  # nothing is seen in the corner
    # The phase is smooth, so that a prior on the image is not misled.
    step = (found[:, 12:36, 13:36] * found[:, 12:36, 12:35].conj()).sum(0)
    assert float(step.angle().abs().max()) < 0.3
    with pytest.raises(it.InputError, match="are missing"):
        estimate_coil_maps(y * lines(48, 48))
    alone = estimate_coil_maps(torch.cat([y, 2 * y.flip(1)]), crop=0.8)[:1]
    torch.testing.assert_close(alone[0], found)


# -- complex images in the solvers -----------------------------------------------------------------


@pytest.fixture(scope="module")
def undersampled() -> tuple[it.Problem, torch.Tensor]:
    x, maps = scan(32)
    x = x * torch.exp(1j * torch.linspace(0, 2, 32, dtype=torch.float64))
    mask = lines(32, 32, seed=1)
    mask[12:20, 12:20] = True
    A = CartesianMRI(mask, (32, 32), maps)
    y = A.simulate(x[None, None], 0.01) * A.sampled
    return it.Problem(
        torch.cat([y, 2 * y]), A, it.data_terms.LeastSquares(noise_std=0.01, weights=A.sampled)
    ), x[None, None]


@pytest.mark.parametrize(
    "prior", [it.priors.TotalVariation(), it.priors.WaveletL1("db2", levels=2)]
)
def test_convex_solvers_agree_on_complex_images(
    undersampled: tuple[it.Problem, torch.Tensor], prior: Any
) -> None:
    problem, x = undersampled
    results = {}
    for solver in (
        it.solvers.FISTA(tolerance=1e-5),
        it.solvers.PDHG(tolerance=1e-4),
        it.solvers.ADMM(tolerance=1e-4),
    ):
        solution = it.solve(
            problem, prior, solver, regularization=20.0, max_iterations=3000, progress=False
        )
        assert solution.x.dtype == torch.complex128 and set(solution.status) == {"converged"}
        objective = solution.history["objective"][1]
        assert not objective.is_complex() and bool(objective.isfinite().all())
        alone = it.solve(
            problem.select(torch.tensor([1])),
            prior,
            solver,
            regularization=20.0,
            max_iterations=3000,
            progress=False,
        )
        assert float((alone.x[0] - solution.x[1]).norm() / solution.x[1].norm()) < 1e-3
        results[type(solver).__name__] = solution.x
    for name in ("PDHG", "ADMM"):
        assert float((results[name] - results["FISTA"]).norm() / results["FISTA"].norm()) < 2e-3, (
            name
        )
    zero_filled = problem.operator.pseudo_inverse(problem.y)[0] - x[0]  # type: ignore[attr-defined]
    assert float((results["FISTA"][0] - x[0]).norm()) < 0.5 * float(zero_filled.norm())


def test_linear_solvers_agree_on_complex_images(
    undersampled: tuple[it.Problem, torch.Tensor],
) -> None:
    problem, x = undersampled
    cg = it.solve(
        problem,
        it.priors.Tikhonov(),
        it.solvers.ConjugateGradient(tolerance=1e-8),
        regularization=1.0,
        progress=False,
    ).x
    other = it.solve(
        problem,
        it.priors.Tikhonov(),
        it.solvers.LBFGS(tolerance=1e-7),
        regularization=1.0,
        progress=False,
    ).x
    assert float((cg - other).norm() / cg.norm()) < 1e-4
    gradient = it.solve(
        problem,
        it.priors.Tikhonov(),
        it.solvers.GradientDescent(tolerance=1e-6),
        regularization=1.0,
        max_iterations=5000,
        progress=False,
    ).x
    assert float((cg - gradient).norm() / cg.norm()) < 1e-3
    sense = it.solve(problem, solver=it.solvers.CGLS(), progress=False).x
    assert float((sense[0] - x[0]).norm() / x.norm()) < 0.1


@pytest.mark.parametrize(
    "solver",
    [it.solvers.Adam(learning_rate=0.05), it.solvers.LBFGS(), it.solvers.GradientDescent()],
    ids=repr,
)
def test_the_phase_of_the_image_does_not_matter(
    undersampled: tuple[it.Problem, torch.Tensor], solver: Any
) -> None:
    problem, _ = undersampled
    turn = complex(0.6, 0.8)
    turned = it.Problem(problem.y * turn, problem.operator, problem.data_term)
    first, second = (
        it.solve(
            p, it.priors.Tikhonov(), solver, regularization=1.0, max_iterations=30, progress=False
        ).x
        for p in (problem, turned)
    )
    assert float((turn * first - second).norm() / first.norm()) < 1e-6


def test_the_discrepancy_counts_complex_samples_that_were_taken(
    undersampled: tuple[it.Problem, torch.Tensor],
) -> None:
    problem, x = undersampled
    truth = torch.cat([x, 2 * x])
    term = problem.data_term
    expected = term.expected_discrepancy(problem.y)
    assert expected is not None
    # The noise of the second item is twice that of the first.
    torch.testing.assert_close(
        term.discrepancy(problem.operator(truth), problem.y) / torch.tensor([1.0, 2.0]),
        expected.double(),
        rtol=0.03,
        atol=0,
    )
    solution = it.solve(
        problem.select(torch.tensor([0])), it.priors.TotalVariation(), progress=False
    )
    assert float((solution.x[0] - x[0]).norm() / x.norm()) < 0.1


def test_coil_maps_are_an_unknown_beside_the_image() -> None:
    x, maps = scan(32)
    A = CartesianMRI(lines(32, 32, seed=1), (32, 32), maps)
    y = A(x[None, None])
    wrong = A.with_parameters(
        coil_maps=maps * (1 + 0.1 * noise(4, 1, 1))
    )  # a gain of each coil that is off
    problem = it.Problem(torch.cat([y, 2 * y]), wrong, unknown={"coil_maps": None})
    solution = it.solve(
        problem,
        it.priors.Tikhonov(),
        it.solvers.LBFGS(),
        regularization=1e-4,
        max_iterations=40,
        progress=False,
    )
    assert solution.parameters is not None and solution.parameters["coil_maps"].shape == (
        2,
        4,
        32,
        32,
    )
    fixed = it.solve(
        it.Problem(y, wrong), it.priors.Tikhonov(), regularization=1e-4, progress=False
    )
    left = float((solution.problem.operator(solution.x)[:1] - y).norm())
    assert left < 0.5 * float((wrong(fixed.x) - y).norm())


def test_coils_without_maps_are_named_with_their_estimate() -> None:
    A = it.operators.CartesianMRI(torch.ones(16, 16), (16, 16))
    with pytest.raises(
        it.InputError, match="of 4 coils, give CartesianMRI their coil_maps, for example"
    ):
        it.Problem(torch.ones(1, 4, 16, 16, dtype=torch.complex64), A)
