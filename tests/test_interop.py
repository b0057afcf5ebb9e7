"""Other packages, both ways, through whole reconstructions: what they bring in works in our solvers, and what we give works in theirs.

That single operators compute the same numbers is tested in `tests/operators/test_adapters.py` and
`test_geometry_conversion.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

import invtoolbox as it
from invtoolbox.core.content import digest
from invtoolbox.errors import InputError


def phantom(n: int = 32) -> torch.Tensor:
    grid = torch.linspace(-1, 1, n)
    disc = (torch.hypot(grid[:, None], grid) < 0.8).float()
    spot = (torch.hypot(grid[:, None] - 0.3, grid + 0.2) < 0.25).float()
    return (0.5 * disc + 0.5 * spot)[None, None]


def scan(n: int = 32, views: int = 40) -> it.operators.ParallelBeam:
    return it.operators.ParallelBeam((n, n), torch.arange(views) * torch.pi / views, 3 * n // 2)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


# -- deepinv: our operators in its reconstructors and trainers -------------------------------------


def test_deepinvs_reconstructor_with_our_scan_finds_our_minimizer() -> None:
    """The same objective, 1/2 |A x - y|^2 + 1/2 |x|^2 w, by its proximal gradient and by our conjugate gradients."""
    deepinv = pytest.importorskip("deepinv")
    A, x = scan(), torch.cat([phantom(), 0.5 * phantom().flip(3)])
    y, weight = A(x), 5.0
    physics = it.to_deepinv(A)
    step = 1.0 / (float(A.norm()) ** 2 * 1.01)
    # deepinv's objective is lambda_reg * prior + data fidelity, and its Tikhonov prior is 1/2
    # |x|^2.
    model = deepinv.optim.PGD(
        prior=deepinv.optim.Tikhonov(),
        data_fidelity=deepinv.optim.L2(),
        lambda_reg=weight,
        stepsize=step,
        max_iter=600,
        early_stop=False,
    )
    theirs = model(y, physics)
    ours = it.solve(
        it.Problem(y, A),
        it.priors.Tikhonov(),
        regularization=weight,
        tolerance=1e-6,
        progress=False,
    ).x
    assert relative(theirs, ours) < 5e-3


def test_deepinvs_trainer_trains_a_network_on_our_scan(tmp_path: Any) -> None:
    deepinv = pytest.importorskip("deepinv")
    torch.manual_seed(0)
    physics = it.to_deepinv(scan(16, 12))
    physics.noise_model = deepinv.physics.GaussianNoise(0.1)
    images = torch.cat([phantom(16) * s for s in (0.5, 0.7, 0.9, 1.1)])

    class Pairs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, k: int) -> Any:
            return {"x": images[k], "y": physics(images[k : k + 1])[0]}

    model = deepinv.models.ArtifactRemoval(
        deepinv.models.DnCNN(1, 1, depth=3, nf=8, pretrained=None), mode="pinv"
    )
    before = [p.detach().clone() for p in model.parameters()]
    y = physics(images)
    error = float((model(y, physics) - images).square().mean())
    loader = torch.utils.data.DataLoader(Pairs(), batch_size=4)
    trainer = deepinv.Trainer(
        model,
        physics,
        torch.optim.Adam(model.parameters(), 3e-3),
        loader,
        losses=deepinv.loss.SupLoss(),
        epochs=8,
        online_measurements=False,
        save_path=None,
        show_progress_bar=False,
        verbose=False,
        device="cpu",
        log_train_batch=False,
        non_blocking_transfers=False,
    )
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert float((model(y, physics) - images).square().mean()) < error


def test_a_gradient_flows_through_our_operator_inside_deepinv() -> None:
    pytest.importorskip("deepinv")
    physics = it.to_deepinv(scan(16, 12))
    x = phantom(16).requires_grad_()
    physics.A(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * scan(16, 12).normal(phantom(16)), rtol=1e-4, atol=1e-3)


# -- deepinv: priors, both ways --------------------------------------------------------------------


def blurred() -> tuple[it.operators.Blur, torch.Tensor]:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (16, 16))
    x = torch.cat([phantom(16), 0.5 * phantom(16).flip(3)])
    return A, A.simulate(x, noise=0.02, seed=0)


class Shrink(torch.nn.Module):
    """A denoiser for every level, in deepinv's convention."""

    def forward(self, x: torch.Tensor, sigma: Any) -> torch.Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return (x + level**2 * x.mean((2, 3), keepdim=True)) / (1 + level**2)


@pytest.mark.parametrize(
    ("own", "name", "weight"),
    [
        (it.priors.L1(), "L1Prior", 0.02),
        (it.priors.TotalVariation(tolerance=1e-8), "TVPrior", 0.02),
        (it.priors.Tikhonov(), "Tikhonov", 0.02),
        (0.5 * it.priors.L1(), "L1Prior", 0.01),
    ],
)
def test_our_prior_in_deepinvs_solver_is_deepinvs_prior(own: Any, name: str, weight: float) -> None:
    deepinv = pytest.importorskip("deepinv")
    A, y = blurred()
    found = [
        deepinv.optim.PGD(
            prior=prior,
            data_fidelity=deepinv.optim.L2(),
            lambda_reg=w,
            stepsize=1.0,
            max_iter=10,
            early_stop=False,
        )(y, it.to_deepinv(A))
        for prior, w in (
            (it.to_deepinv(own), 0.02),
            (getattr(deepinv.optim, name)(), weight),
        )
    ]
    assert relative(*found) < 1e-3


def test_our_denoiser_in_deepinvs_solvers_is_deepinvs_plug_and_play() -> None:
    deepinv = pytest.importorskip("deepinv")
    A, y = blurred()
    physics, network = it.to_deepinv(A), Shrink()
    ours = it.to_deepinv(it.priors.Denoiser(network, sigma=0.3))
    for kind, theirs in (
        (deepinv.optim.PGD, deepinv.optim.PnP(network)),
        (deepinv.optim.HQS, deepinv.optim.PnP(network)),
        (deepinv.optim.GD, deepinv.optim.RED(network)),
    ):
        found = [
            kind(
                prior=prior,
                data_fidelity=deepinv.optim.L2(),
                g_param=0.2,
                stepsize=0.7,
                max_iter=5,
                early_stop=False,
            )(y, physics)
            for prior in (theirs, ours)
        ]
        assert relative(found[1], found[0]) < 1e-5, kind
    levels = torch.tensor([0.1, 0.4])
    torch.testing.assert_close(ours.denoiser(y, levels), network(y, levels))
    shrunk = it.to_deepinv(it.priors.L1()).denoiser(y, levels)  # the prox with the step sigma^2
    torch.testing.assert_close(shrunk, it.priors.L1().prox(y, levels**2))
    assert ours.double().fn is not None and not ours.explicit_prior


def test_a_sum_for_deepinv_adds_energies_and_moves_with_the_module() -> None:
    pytest.importorskip("deepinv")
    prior = it.to_deepinv(0.5 * it.priors.TotalVariation() + it.priors.Tikhonov())
    x = phantom(16)
    wanted = 0.5 * it.priors.TotalVariation().energy(x) + it.priors.Tikhonov().energy(x)
    torch.testing.assert_close(prior.fn(x), wanted)
    with pytest.raises(InputError, match="implicit prior"):
        it.to_deepinv(it.priors.CoordinateNetwork())
    with pytest.raises(InputError, match="an operator or a prior"):
        it.to_deepinv(3)


@pytest.mark.parametrize(
    ("name", "own", "solver"),
    [
        ("L1Prior", "L1", "pdhg"),
        ("L1Prior", "L1", "admm"),
        ("L1Prior", "L1", "fista"),
        ("TVPrior", "TotalVariation", "fista"),
    ],
)
def test_deepinvs_prior_in_our_solvers_is_our_prior(name: str, own: str, solver: str) -> None:
    deepinv = pytest.importorskip("deepinv")
    A, y = blurred()
    found = [
        it.solve(
            it.Problem(y, A), p, solver, regularization=0.02, max_iterations=6, progress=False
        ).x
        for p in (it.as_prior(getattr(deepinv.optim, name)()), getattr(it.priors, own)())
    ]
    assert relative(*found) < 5e-3


@pytest.mark.parametrize(
    ("name", "settings", "own", "shape"),
    [
        ("L1Prior", {}, "L1", (2, 3, 5, 4)),
        ("Tikhonov", {}, "Tikhonov", (2, 3, 5, 4)),
        ("L12Prior", {"l2_axis": 1}, "GroupL1", (2, 3, 5, 4)),
        ("TVPrior", {"def_crit": 1e-9, "n_it_max": 3000}, "TotalVariation", (2, 3, 5, 4)),
        ("TVPrior", {"def_crit": 1e-9, "n_it_max": 3000}, "TotalVariation", (1, 1, 3, 4, 3)),
    ],
)
def test_a_prior_of_deepinv_with_an_equal_becomes_it(
    name: str, settings: dict[str, Any], own: str, shape: tuple[int, ...]
) -> None:
    """Value and prox are deepinv's to 1e-5, of channels, volumes and batches with their own steps."""
    deepinv = pytest.importorskip("deepinv")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = getattr(deepinv.optim, name)(**settings)
    prior = it.as_prior(theirs)
    assert type(prior).__name__ == own
    torch.testing.assert_close(prior.energy(x), theirs.fn(x).double(), rtol=1e-5, atol=0)
    expected = theirs.prox(x, gamma=0.3)
    assert relative(prior.prox(x, 0.3), expected) < 1e-5


def test_a_prior_of_deepinv_without_an_equal_stays_deepinvs() -> None:
    """A subclass is another function, the norm of rows too, and wavelets differ at the border."""
    deepinv = pytest.importorskip("deepinv")

    class Mine(deepinv.optim.L1Prior):
        pass

    for theirs in (Mine(), deepinv.optim.L12Prior(), deepinv.optim.TVL1Prior()):
        assert "DeepinvPrior" in repr(it.as_prior(theirs))
    with pytest.raises(InputError, match=r"the class TVPrior; pass TVPrior\(\)"):
        it.as_prior(deepinv.optim.TVPrior)


def test_deepinvs_priors_keep_our_contracts() -> None:
    deepinv = pytest.importorskip("deepinv")
    x = torch.cat([phantom(16), 0.3 * phantom(16)]) + 0.1 * torch.randn(
        2, 1, 16, 16, generator=torch.Generator().manual_seed(0)
    )
    for source in (deepinv.optim.TVL1Prior(), deepinv.optim.L12Prior()):
        prior = it.as_prior(source)
        assert prior.offers == {"energy", "gradient", "prox"}
        steps = torch.tensor([0.05, 0.2])
        content = digest(prior)
        both = prior.prox(x, steps)
        assert torch.equal(both[1:], prior.prox(x[1:], 0.2))
        assert content == digest(prior)  # a call changes nothing
        assert torch.equal(prior.energy(x)[1:], prior.energy(x[1:]))
        assert not prior.gradient(x).requires_grad and not x.requires_grad
    network = Shrink()
    plug = it.as_prior(deepinv.optim.PnP(network), sigma=0.2)
    assert isinstance(plug, it.priors.Denoiser) and plug.sigma == 0.2
    assert it.as_prior(network).sigma == 0.05
    score = it.as_prior(deepinv.optim.ScorePrior(network), sigma=0.2)
    assert score.offers == {"gradient"}
    torch.testing.assert_close(score.gradient(x), (x - network(x, 0.2)) / 0.04)

    class Smooth(deepinv.optim.Prior):
        def __init__(self) -> None:
            super().__init__()
            self.explicit_prior = True

        def fn(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return (x.flatten(1) ** 4).sum(1)

    smooth = it.as_prior(Smooth())
    assert smooth.offers == {"energy", "gradient"} and smooth.smooth
    torch.testing.assert_close(smooth.gradient(x), 4 * x**3)
    assert it.as_prior(it.to_deepinv(it.priors.L1())).terms[0].prior.offers == it.priors.L1().offers


def test_functions_become_priors_by_their_role() -> None:
    A, y = blurred()
    square = it.as_prior(lambda x: 0.5 * x.flatten(1).square().sum(1), role="energy")
    shrink = it.as_prior(
        lambda x, step: x / (1 + torch.as_tensor(step).reshape(-1, 1, 1, 1)), role="prox"
    )
    slope = it.as_prior(lambda x: x, role="gradient")
    wanted = it.solve(it.Problem(y, A), it.priors.Tikhonov(), regularization=0.1, progress=False).x
    # Without an energy no line search helps, and Condat-Vu estimates its step.
    for prior, solver in ((square, None), (shrink, None), (slope, it.solvers.CondatVu())):
        found = it.solve(
            it.Problem(y, A), prior, solver, regularization=0.1, tolerance=1e-5, progress=False
        )
        assert relative(found.x, wanted) < 1e-2, prior
    with pytest.raises(InputError, match="role of as_prior must be"):
        it.as_prior(lambda x: x, role="weights")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="as_prior takes"):
        it.as_prior(3)


# -- deepinv: its physics and denoisers in our solvers ---------------------------------------------


def test_deepinvs_mri_and_ours_have_one_minimizer() -> None:
    """Its images are two real channels, ours are complex; TV sees each channel there, so the prior is a square."""
    deepinv = pytest.importorskip("deepinv")
    mask = (torch.rand(1, 16, generator=torch.Generator().manual_seed(0)) > 0.4).float()
    theirs = it.as_operator(
        deepinv.physics.MRI(mask=mask.expand(1, 1, 16, 16), img_size=(2, 16, 16))
    )
    ours = it.operators.CartesianMRI(mask, (16, 16))
    x = torch.complex(phantom(16), 0.3 * phantom(16).flip(2))
    pair = torch.cat([x.real, x.imag], 1)
    ours_x = it.solve(
        it.Problem(ours(x), ours),
        it.priors.Tikhonov(),
        regularization=0.1,
        tolerance=1e-6,
        progress=False,
    ).x
    theirs_x = it.solve(
        it.Problem(theirs(pair), theirs),
        it.priors.Tikhonov(),
        regularization=0.1,
        tolerance=1e-6,
        progress=False,
    ).x
    torch.testing.assert_close(
        torch.complex(theirs_x[:, :1], theirs_x[:, 1:]), ours_x, rtol=0, atol=1e-4
    )


def test_a_denoiser_of_deepinv_stands_for_the_prox_it_computes() -> None:
    """Its TV denoiser is a prox of TV, so plug-and-play with it minimizes what PDHG minimizes with our TV."""
    deepinv = pytest.importorskip("deepinv")
    A = it.operators.Blur(torch.ones(3, 3) / 9, (24, 24), "periodic")
    y = A.simulate(phantom(24), noise=0.05, seed=0)
    network = deepinv.models.TVDenoiser(n_it_max=150, crit=1e-7)

    def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
        found: torch.Tensor = network(x, ths=0.02 * sigma**2)
        return found

    problem = it.Problem(y, A)
    plugged = it.solve(
        problem,
        it.priors.Denoiser(denoiser, sigma=1.0),
        it.solvers.ADMM(rho=0.3),
        regularization=1.0,
        max_iterations=50,
        tolerance=1e-5,
        progress=False,
    )
    exact = it.solve(
        problem, it.priors.TotalVariation(), regularization=0.02, tolerance=1e-5, progress=False
    )
    assert relative(plugged.x, exact.x) < 0.003


def test_a_network_of_deepinv_takes_the_noise_level_of_each_item() -> None:
    deepinv = pytest.importorskip("deepinv")
    torch.manual_seed(0)
    network = deepinv.models.DRUNet(
        in_channels=1, out_channels=1, nc=[4, 4, 4, 4], nb=1, pretrained=None
    ).eval()
    prior = it.priors.Denoiser(network, sigma=torch.tensor([0.02, 0.2]))
    A = it.operators.Inpainting(
        torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.3, (16, 16)
    )
    y = A(torch.cat([phantom(16), phantom(16)]))
    both = it.solve(it.Problem(y, A), prior, it.solvers.ADMM(), max_iterations=3, progress=False).x
    assert not torch.equal(both[0], both[1])
    alone = it.solve(
        it.Problem(y[1:], A),
        it.priors.Denoiser(network, sigma=0.2),
        it.solvers.ADMM(),
        max_iterations=3,
        progress=False,
    ).x
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-5)


# -- SciPy and PyLops ------------------------------------------------------------------------------


def test_a_sparse_matrix_in_a_whole_solve_is_scipys_answer() -> None:
    matrix = scipy.sparse.random(60, 36, density=0.3, random_state=0, format="csr")
    truth = np.random.default_rng(0).normal(size=(2, 36))
    y = torch.from_numpy(truth @ matrix.toarray().T)[:, None]
    solution = it.solve(
        it.Problem(y, it.as_operator(matrix, (1, 6, 6))),
        it.priors.Tikhonov(),
        regularization=0.5,
        tolerance=1e-12,
        max_iterations=200,
        progress=False,
    )
    for k in range(2):
        wanted = scipy.sparse.linalg.lsqr(
            matrix, y[k, 0].numpy(), damp=0.5**0.5, atol=1e-13, btol=1e-13
        )[0]
        np.testing.assert_allclose(solution.x[k].numpy().ravel(), wanted, atol=1e-7)


def test_our_operator_in_scipys_solver() -> None:
    A, y = scan(12, 10), scan(12, 10)(phantom(12)).double()
    shape = tuple(int(np.prod(s)) for s in (A.range_shape, A.domain_shape))
    double = A.to(torch.float64)
    outside = scipy.sparse.linalg.LinearOperator(
        shape,
        dtype=np.float64,
        matvec=lambda x: (
            double(torch.from_numpy(np.array(x)).reshape(1, *A.domain_shape)).numpy().ravel()
        ),
        rmatvec=lambda v: (
            double.adjoint(torch.from_numpy(np.array(v)).reshape(1, *A.range_shape)).numpy().ravel()
        ),
    )
    wanted = scipy.sparse.linalg.lsqr(outside, y.numpy().ravel(), damp=1.0, atol=1e-12, btol=1e-12)[
        0
    ]
    ours = it.solve(
        it.Problem(y, A),
        it.priors.Tikhonov(),
        regularization=1.0,
        dtype=torch.float64,
        tolerance=1e-12,
        progress=False,
    ).x
    np.testing.assert_allclose(ours.numpy().ravel(), wanted, atol=1e-6)


def test_a_pylops_operator_behind_ours_in_a_solve() -> None:
    pylops = pytest.importorskip("pylops")
    smoothing = it.as_operator(pylops.Smoothing2D((3, 3), dims=(16, 16), dtype="float64"))
    blur = it.operators.Blur(torch.ones(1, 3) / 3, (16, 16), "zero")
    A = blur @ smoothing
    assert it.testing.check_operator(A).ok
    problem = it.Problem(A.simulate(phantom(16), 0.01, seed=0), A, it.data_terms.LeastSquares(0.01))
    solution = it.solve(
        problem, it.priors.TotalVariation(), regularization=3.0, max_iterations=300, progress=False
    )
    assert (
        float(it.metrics.psnr(solution.x, phantom(16)))
        > float(it.metrics.psnr(problem.y, phantom(16))) + 1
    )


# -- ASTRA and ODL ---------------------------------------------------------------------------------


def test_astras_optomo_reconstructs_as_the_scan_of_its_geometry() -> None:
    astra = pytest.importorskip("astra")
    geometry = astra.create_proj_geom("parallel", 1.0, 48, np.arange(40) * np.pi / 40)
    volume = astra.create_vol_geom(32, 32)
    projector = astra.create_projector("linear", geometry, volume)
    try:
        A = it.as_operator(astra.OpTomo(projector), (1, 32, 32), (1, 40, 48))
        ours = it.operators.from_astra(geometry, volume)
        assert relative(A(phantom()), ours(phantom())) < 1e-4
        assert relative(A.adjoint(ours(phantom())), ours.adjoint(ours(phantom()))) < 1e-4
        y = ours.simulate(torch.cat([phantom(), phantom().flip(2)]), 0.1, seed=0)
        images = [
            it.solve(
                it.Problem(y, operator, it.data_terms.LeastSquares(0.1)),
                it.priors.TotalVariation(),
                it.solvers.PDHG(),
                regularization=2.0,
                max_iterations=40,
                tolerance=0.0,
                progress=False,
            ).x
            for operator in (A, ours)
        ]
        assert relative(images[0], images[1]) < 1e-3
    finally:
        astra.projector.delete(projector)


def test_an_odl_operator_through_its_scipy_export() -> None:
    odl = pytest.importorskip("odl")
    matrix = np.random.default_rng(0).normal(size=(20, 12))
    try:
        from odl.core.operator.oputils import as_scipy_operator
    except ImportError:
        from odl.operator.oputils import as_scipy_operator
    operator = odl.MatrixOperator(matrix)
    A = it.as_operator(as_scipy_operator(operator), (1, 3, 4))
    x = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(A(x)[1, 0], torch.from_numpy(matrix @ x[1].numpy().ravel()))
    assert it.testing.check_operator(A).ok


def test_an_odl_scan_and_ours_reconstruct_the_same() -> None:
    odl = pytest.importorskip("odl")
    from odl.applications.tomo import parallel_beam_geometry

    space = odl.uniform_discr([-16, -16], [16, 16], (32, 32), dtype="float32")
    A = it.operators.from_odl(parallel_beam_geometry(space, num_angles=40), space)
    y = A.simulate(phantom(), 0.1, seed=0)
    assert relative(A.pseudo_inverse(y), phantom()) < 0.4
    solution = it.solve(
        it.Problem(y, A, it.data_terms.LeastSquares(0.1)),
        it.priors.TotalVariation(),
        progress=False,
    )
    assert relative(solution.x, phantom()) < 0.1


# -- NumPy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y,
        lambda y: np.asfortranarray(y),
        lambda y: y[::-1].copy()[::-1],
        lambda y: y.astype(">f4"),
        lambda y: y.astype("f8"),
        lambda y: np.frombuffer(y.tobytes(), y.dtype).reshape(y.shape),
    ],
    ids=["plain", "fortran", "negative stride", "big endian", "float64", "read-only"],
)
def test_arrays_of_any_layout_go_in_and_are_left_alone(change: Any) -> None:
    A = scan(16, 12)
    plain = A(phantom(16))[0, 0].numpy()
    given = change(plain)
    before = given.copy()
    settings = dict(prior="tikhonov", regularization=1.0, progress=False)
    wanted = it.reconstruct(plain, A, **settings).x
    for measured in (given, given[None, None]):
        x = it.reconstruct(measured, A, **settings).x
        assert x.dtype == (torch.float64 if given.dtype == np.float64 else torch.float32)
        torch.testing.assert_close(x.float(), wanted, rtol=1e-4, atol=1e-4)
    x = it.solve(
        it.Problem(given[None, None], A), it.priors.Tikhonov(), regularization=1.0, progress=False
    ).x
    torch.testing.assert_close(x.float(), wanted, rtol=1e-4, atol=1e-4)
    assert np.array_equal(given, before) and isinstance(wanted.numpy(), np.ndarray)


def test_settings_may_be_arrays() -> None:
    kernel = np.ones((3, 3)) / 9
    angles = np.arange(12) * np.pi / 12
    assert it.operators.Blur(kernel, (8, 8))(torch.ones(1, 1, 8, 8)).dtype == torch.float32
    ours = it.operators.ParallelBeam((16, 16), torch.from_numpy(angles), 24)
    assert torch.equal(
        it.operators.ParallelBeam((16, 16), angles, 24)(phantom(16)), ours(phantom(16))
    )


@pytest.mark.parametrize(
    "metric",
    [it.metrics.psnr, it.metrics.rmse, it.metrics.mae, it.metrics.relative_error, it.metrics.ssim],
)
def test_a_metric_of_arrays_says_what_to_do(metric: Any) -> None:
    with pytest.raises(
        InputError, match=r"x is a ndarray; metrics take tensors, so pass torch.as_tensor\(x\)"
    ):
        metric(phantom().numpy(), phantom().numpy())
