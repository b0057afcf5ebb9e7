"""Operators of other packages: the same numbers, exact adjoints, nothing of the caller's changed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import deepinv
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from deepinv.physics import MRI, BlurFFT, CompressedSensing, Inpainting, Tomography
from deepinv.physics import Blur as DeepinvBlur
from deepinv.physics import Downsampling as DeepinvDownsampling

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators import Blur, Identity, LinearOperator, Operator


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    real = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=real).to(dtype)


def _dot_test(A: LinearOperator, batch: int = 2, dtype: torch.dtype = torch.float32) -> float:
    batch = A.items or batch
    x = _random(batch, *A.domain_shape, seed=1, dtype=dtype)
    Ax = A(x)
    parts = tuple(part.detach() for part in (Ax if isinstance(Ax, tuple) else (Ax,)))
    ys = tuple(_random(*part.shape, seed=2, dtype=part.dtype) for part in parts)
    wide = torch.complex128 if parts[0].is_complex() else torch.float64
    left = sum((p.to(wide) * y.to(wide).conj()).sum().real for p, y in zip(parts, ys))
    back = A.adjoint(ys if isinstance(Ax, tuple) else ys[0]).detach()
    right = (x.to(torch.complex128) * back.to(torch.complex128).conj()).sum().real
    size = (
        sum(float(p.abs().square().sum()) for p in parts) ** 0.5
        * sum(float(y.abs().square().sum()) for y in ys) ** 0.5
    )
    return abs(float(left - right)) / size


def _tomography() -> Tomography:
    return Tomography(angles=7, img_width=16, normalize=False)


PHYSICS: dict[str, Callable[[], deepinv.physics.LinearPhysics]] = {
    "blur": lambda: DeepinvBlur(filter=torch.rand(1, 1, 3, 5), padding="reflect"),
    "blur_fft": lambda: BlurFFT(img_size=(1, 16, 16), filter=torch.rand(1, 1, 3, 5)),
    "inpainting": lambda: Inpainting(
        img_size=(1, 16, 16), mask=(torch.rand(1, 16, 16) > 0.5).float()
    ),
    "mri": lambda: MRI(img_size=(2, 16, 16), mask=(torch.rand(1, 16, 16) > 0.5).float()),
    "downsampling": lambda: DeepinvDownsampling(img_size=(1, 16, 16), factor=2, filter="bicubic"),
    "compressed_sensing": lambda: CompressedSensing(m=20, img_size=(1, 16, 16)),
    "tomography": _tomography,
}


@pytest.mark.parametrize("name", PHYSICS)
def test_deepinv_physics(name: str) -> None:
    physics = PHYSICS[name]()
    shape = (1, 16, 16) if name == "blur" else None
    A = it.as_operator(physics, shape)
    assert isinstance(A, LinearOperator)
    x = _random(2, *A.domain_shape)
    y = physics.A(x)
    assert A.range_shape == tuple(y.shape[1:])
    torch.testing.assert_close(A(x), y, rtol=0, atol=0)
    torch.testing.assert_close(A.adjoint(y), physics.A_adjoint(y), rtol=0, atol=0)
    assert _dot_test(A) < 1e-5


def test_noise_is_not_applied() -> None:
    physics = Inpainting(
        img_size=(1, 8, 8), mask=torch.ones(1, 8, 8), noise_model=deepinv.physics.GaussianNoise(1.0)
    )
    x = _random(1, 1, 8, 8)
    assert torch.equal(it.as_operator(physics)(x), x)


def test_the_callers_physics_is_left_alone() -> None:
    physics = Inpainting(img_size=(1, 8, 8), mask=(torch.rand(1, 8, 8) > 0.5).float())
    A = it.as_operator(physics)
    before, x = physics.mask.clone(), _random(1, 1, 8, 8)
    y = A(x)
    A.with_parameters(mask=torch.ones(1, 1, 8, 8))
    A.pseudo_inverse(y)
    assert torch.equal(physics.mask, before)
    physics.mask.zero_()
    assert torch.equal(A(x), y)
    single = BlurFFT(img_size=(1, 8, 8), filter=torch.rand(1, 1, 3, 3))
    double = it.as_operator(single).to(torch.float64)
    assert double(x.double()).dtype == torch.float64 and single.A(x).dtype == torch.float32
    torch.testing.assert_close(double(x.double()).float(), single.A(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: DeepinvBlur(filter=p),
        lambda p: BlurFFT(img_size=(1, 12, 12), filter=p),
    ],
    ids=["blur", "blur_fft"],
)
def test_parameters_that_differ_from_item_to_item(
    make: Callable[[torch.Tensor], deepinv.physics.LinearPhysics],
) -> None:
    filters = torch.rand(3, 1, 3, 3)
    A, x = it.as_operator(make(filters), (1, 12, 12)), _random(3, 1, 12, 12)
    assert A.items == 3
    alone = [make(filters[k : k + 1]).A(x[k : k + 1]) for k in range(3)]
    torch.testing.assert_close(A(x), torch.cat(alone))
    chosen = A.select(torch.tensor([2, 0]))
    torch.testing.assert_close(chosen(x[[2, 0]]), torch.cat([alone[2], alone[0]]))
    other = A.with_parameters(filter=filters.flip(0))
    torch.testing.assert_close(other(x)[:1], make(filters[2:]).A(x[:1]))
    with pytest.raises(it.InputError, match="batch of 3"):
        A(x[:2])
    assert _dot_test(A) < 1e-6


def test_gradients_in_the_parameters_of_a_physics() -> None:
    A, x = (
        it.as_operator(DeepinvBlur(filter=torch.rand(1, 1, 3, 3)), (1, 8, 8)),
        _random(1, 1, 8, 8),
    )
    kernel = torch.rand(1, 1, 3, 3).requires_grad_()
    (slope,) = torch.autograd.grad(A.with_parameters(filter=kernel)(x).square().sum(), kernel)
    step = torch.zeros(1, 1, 3, 3)
    step[0, 0, 1, 2] = 1e-2
    up, down = (
        A.with_parameters(filter=kernel.detach() + s * step)(x).square().sum() for s in (1, -1)
    )
    assert float((up - down) / 2e-2) == pytest.approx(float(slope[0, 0, 1, 2]), rel=1e-2)


def test_stacked_and_composed_physics() -> None:
    first = Inpainting(img_size=(1, 12, 12), mask=(torch.rand(1, 12, 12) > 0.5).float())
    second = DeepinvBlur(filter=torch.rand(1, 1, 3, 3), padding="valid")
    x = _random(2, 1, 12, 12)
    A = it.as_operator(deepinv.physics.stack(first, second), (1, 12, 12))
    assert A.range_shape == ((1, 12, 12), (1, 10, 10))
    torch.testing.assert_close(A(x)[1], second.A(x))
    assert _dot_test(A) < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        physics = second * first
    B = it.as_operator(physics, (1, 12, 12))
    torch.testing.assert_close(B(x), second.A(first.A(x)))
    assert _dot_test(B) < 1e-6


@pytest.mark.parametrize("name", ["blur_fft", "inpainting", "mri"])
def test_closed_forms_of_a_decomposable_physics(name: str) -> None:
    A = it.as_operator(PHYSICS[name]())
    assert isinstance(A, LinearOperator) and A.has_normal_resolvent
    v, rho, weight = _random(2, *A.domain_shape), torch.tensor([0.5, 2.0]), torch.tensor([1.5, 0.3])
    x = A.normal_resolvent(v, rho, weight)
    torch.testing.assert_close(
        weight.view(2, 1, 1, 1) * A.normal(x) + rho.view(2, 1, 1, 1) * x, v, rtol=1e-4, atol=1e-5
    )
    assert not it.as_operator(PHYSICS["downsampling"]()).has_normal_resolvent


def test_nonlinear_physics() -> None:
    physics = deepinv.physics.Physics(A=lambda x, **_: x.square())
    A = it.as_operator(physics, (1, 4, 4))
    x, v = _random(2, 1, 4, 4), _random(2, 1, 4, 4, seed=1)
    assert not isinstance(A, LinearOperator)
    torch.testing.assert_close(A.linearize(x)(v), 2 * x * v)


def test_a_converted_physics_draws_from_a_generator_of_its_own() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = deepinv.physics.GaussianNoise(0.1, rng=generator)
    physics = DeepinvBlur(filter=torch.rand(1, 1, 3, 3), padding="circular", noise_model=noise)
    before = generator.get_state()
    A = it.as_operator(physics, (1, 4, 4))
    copied = A.physics.noise_model.rng
    assert copied is not generator and torch.equal(copied.get_state(), before)
    torch.rand(1, generator=copied)
    assert torch.equal(generator.get_state(), before)
    assert not torch.equal(copied.get_state(), before)


def test_physics_of_noise_alone_is_the_identity_and_takes_its_shape_from_the_picture() -> None:
    """As another operator it was solved 10 dB below the noisy picture itself."""
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.03))
    assert isinstance(it.as_operator(physics, (1, 4, 4)), it.operators.Identity)
    y = _random(1, 1, 12, 12)
    blur = DeepinvBlur(filter=torch.ones(1, 1, 3, 3) / 9, padding="circular")
    for theirs in (physics, blur):
        settings: dict[str, object] = {"regularization": 0.01, "max_iterations": 5}
        solution = it.reconstruct(y, theirs, deepinv.optim.L1Prior(), progress=False, **settings)
        assert solution.x.shape == y.shape
    with pytest.raises(it.InputError, match=r"is deepinv's L2\(sigma\)"):
        it.reconstruct(y, physics, data_term=deepinv.optim.L2(sigma=0.1))
    with pytest.raises(it.InputError, match="solve takes a Problem or a list of them, got Tensor"):
        it.solve(y, physics)  # type: ignore[call-overload]


def test_a_physics_without_a_shape_says_what_to_do() -> None:
    with pytest.raises(it.InputError, match="domain_shape="):
        it.as_operator(DeepinvBlur(filter=torch.rand(1, 1, 3, 3)))


# -- SciPy and PyLops ------------------------------------------------------------------------------


def test_pylops() -> None:
    pylops = pytest.importorskip("pylops")
    op = pylops.FirstDerivative(dims=(5, 6), axis=1, dtype="float64")
    A = it.as_operator(op)
    assert A.domain_shape == A.range_shape == (1, 5, 6)
    x = _random(2, 1, 5, 6, dtype=torch.float64)
    np.testing.assert_allclose(A(x)[1, 0].numpy(), op @ x[1, 0].numpy())
    assert _dot_test(A, dtype=torch.float64) < 1e-14
    assert _dot_test(A, dtype=torch.float32) < 1e-6 and A(x.float()).dtype == torch.float32


def test_sparse_matrices_and_linear_operators_flatten_in_c_order() -> None:
    matrix = scipy.sparse.random(10, 24, density=0.4, random_state=0, format="csr")
    x = _random(3, 2, 3, 4, dtype=torch.float64)
    wanted = torch.tensor(np.stack([matrix @ item.numpy().ravel() for item in x])).reshape(3, 1, 10)
    for obj in (matrix, matrix.tocoo(), scipy.sparse.linalg.aslinearoperator(matrix)):
        A = it.as_operator(obj, (2, 3, 4))
        torch.testing.assert_close(A(x), wanted)
        assert _dot_test(A, dtype=torch.float64) < 1e-14
        exact = np.linalg.norm(matrix.toarray(), 2)
        assert float(A.norm(tolerance=1e-9, max_iterations=2000)) == pytest.approx(exact, rel=1e-4)
    with pytest.raises(it.InputError, match=r"24 columns, but domain_shape \(1, 5, 5\) has 25"):
        it.as_operator(matrix, (1, 5, 5))


def test_a_complex_operator() -> None:
    pylops = pytest.importorskip("pylops")
    op = pylops.signalprocessing.FFT(dims=16, real=False, dtype="complex128")
    A = it.as_operator(op)
    assert _dot_test(A, dtype=torch.complex128) < 1e-14


def test_gradients_pass_through_scipy() -> None:
    matrix = scipy.sparse.random(5, 6, density=0.6, random_state=0, format="csr")
    A = it.as_operator(matrix)
    x = _random(2, 1, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(A, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda z: A(z).square(), (x,))
    square = it.as_operator(lambda z: z.square(), (1, 6))
    torch.testing.assert_close(
        (A @ square).linearize(x.detach())(x.detach()), A(2 * x.detach().square())
    )
    mapped = torch.func.vmap(A)(torch.stack([x.detach(), 2 * x.detach()]))
    torch.testing.assert_close(mapped[1], 2 * A(x.detach()))


# -- matrices and functions ------------------------------------------------------------------------


def test_dense_matrices() -> None:
    matrix = _random(3, 7, 12, dtype=torch.float64)
    A = it.as_operator(matrix, (1, 3, 4))
    assert A.items == 3 and _dot_test(A, dtype=torch.float64) < 1e-14 and _dot_test(A) < 1e-6
    x = _random(3, 1, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(A(x)[1, 0], matrix[1] @ x[1].flatten())
    torch.testing.assert_close(A.norm(dtype=torch.float64), torch.linalg.matrix_norm(matrix, 2))
    torch.testing.assert_close(A(A.pseudo_inverse(A(x))), A(x))
    torch.testing.assert_close(A.select(torch.tensor([2]))(x[2:]), A(x)[2:])
    one = it.as_operator(matrix[0].numpy())
    assert one.items is None and one(x.reshape(3, 1, 12)).shape == (3, 1, 7)


def _sparse(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    matrix = _random(10, 24, seed=3, dtype=dtype)
    return torch.where(_random(10, 24, seed=4) > 0.4, matrix, torch.zeros_like(matrix))


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr"])
def test_sparse_tensors(layout: str) -> None:
    dense = _sparse()
    size = {"blocksize": (2, 3)} if layout == "bsr" else {}
    A = it.as_operator(
        dense.to_sparse(layout=getattr(torch, f"sparse_{layout}"), **size), (2, 3, 4), (1, 2, 5)
    )
    B = it.as_operator(dense, (2, 3, 4), (1, 2, 5))
    assert isinstance(A, LinearOperator) and isinstance(B, LinearOperator)
    x = _random(3, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(A(x), B(x), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(A.adjoint(B(x)), B.normal(x), rtol=1e-13, atol=1e-13)
    assert _dot_test(A, dtype=torch.float64) < 1e-14 and _dot_test(A) < 1e-6
    for one, dtype in ((x, torch.float64), (x.float(), torch.float32)):
        assert A(one).dtype == A.adjoint(A(one)).dtype == dtype
        for k in range(3):
            assert torch.equal(A(one)[k], A(one[k : k + 1])[0])
    assert A.to(torch.float32).parameters()["values"].dtype == torch.float32
    torch.testing.assert_close(
        A.normal_diagonal(), dense.square().sum(0).reshape(1, 2, 3, 4), rtol=1e-14, atol=0
    )
    exact = float(torch.linalg.matrix_norm(dense, 2))
    assert float(A.norm(tolerance=1e-9, max_iterations=2000)) == pytest.approx(exact, rel=1e-4)


def test_a_complex_sparse_tensor() -> None:
    A = it.as_operator(_sparse(torch.complex128).to_sparse())
    assert isinstance(A, LinearOperator)
    assert _dot_test(A, dtype=torch.complex128) < 1e-14
    real = _random(2, 1, 24)
    assert A(real).dtype == torch.complex64
    slope = torch.autograd.gradcheck(A, (_random(2, 1, 24, dtype=torch.float64).requires_grad_(),))
    assert slope


def test_gradients_of_a_sparse_tensor_in_images_and_entries() -> None:
    A = it.as_operator(_sparse().to_sparse_coo())
    x = _random(2, 1, 24, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(A, (x,), check_forward_ad=True)
    values = A.parameters()["values"].clone().requires_grad_()
    for pick in ("__call__", "adjoint"):
        z = x.detach() if pick == "__call__" else x.detach()[..., :10]
        torch.testing.assert_close(
            getattr(A.with_parameters(values=2 * values), pick)(z), 2 * getattr(A, pick)(z)
        )
        assert torch.autograd.gradcheck(
            lambda v, name=pick, z=z: getattr(A.with_parameters(values=v), name)(z),
            (values,),
            check_forward_ad=True,
        )
    repeated = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (2, 2), check_invariants=True)
    assert float(it.as_operator(repeated)(torch.ones(1, 1, 2))[0, 0, 0]) == 3.0
    y = A(x.detach())
    solution = it.solve(it.Problem(y, A), it.priors.Tikhonov(), regularization=1.0, progress=False)
    assert solution.status == ("converged", "converged")


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(2, 3, 4).to_sparse(), "to_dense"),
        (torch.ones(3, 4).to_sparse(1), "1 dense axes"),
        (torch.tensor([[1.0, float("nan")]]).to_sparse(), "NaN or infinite"),
    ],
)
def test_what_is_no_sparse_matrix_gets_one_sentence(matrix: torch.Tensor, message: str) -> None:
    with pytest.raises(it.InputError, match=message):
        it.as_operator(matrix)
    with pytest.raises(it.InputError, match=r"has 24 columns"):
        it.as_operator(_sparse().to_sparse_csr(), (1, 5, 5))


def test_an_item_has_the_same_bits_alone_through_a_network() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(512, 10)
    network = torch.nn.Sequential(*layers)
    A, x = it.as_operator(network, (1, 8, 8)), torch.rand(3, 1, 8, 8)
    assert torch.equal(A(x)[1:2], A(x[1:2]))
    slope = A.linearize(x).adjoint(torch.ones(3, 10))
    assert torch.equal(slope[1:2], A.linearize(x[1:2]).adjoint(torch.ones(1, 10)))


def test_functions_and_networks() -> None:
    A = it.as_operator(lambda x: x[..., ::2] * 3, (2, 8), linear=True, channelwise=True)
    assert A.range_shape == (2, 4) and _dot_test(A) < 1e-6
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    B = it.as_operator(network, (1, 8, 8))
    assert not isinstance(B, LinearOperator) and B.range_shape == (2, 8, 8)
    with pytest.raises(it.InputError, match="is not linear"):
        it.as_operator(network, (1, 8, 8), linear=True)
    linear = it.as_operator(torch.nn.Conv2d(1, 2, 3, padding=1, bias=False), (1, 8, 8), linear=True)
    assert _dot_test(linear) < 1e-6
    x, before = _random(1, 1, 8, 8), network.weight.clone()
    zeroed = B.with_parameters(**{"weight": torch.zeros_like(before)})
    torch.testing.assert_close(zeroed(x), network.bias.view(1, 2, 1, 1).expand(1, 2, 8, 8))
    assert torch.equal(network.weight, before) and torch.equal(B(x), network(x))
    assert (
        B.to(torch.float64)(x.double()).dtype == torch.float64
        and network.weight.dtype == torch.float32
    )


def test_a_given_adjoint_is_used() -> None:
    calls = []
    A = it.as_operator(lambda x: 2 * x, (1, 4), adjoint=lambda y: calls.append(y) or 2 * y)
    calls.clear()
    assert isinstance(A, LinearOperator) and A.adjoint(torch.ones(1, 1, 4))[0, 0, 0] == 2
    assert len(calls) == 1


@pytest.mark.parametrize(
    "adjoint", [lambda y: 5 * y, lambda y: -2 * y, lambda y: 2 * y.flip(-1), lambda y: y[..., 1:]]
)
def test_a_wrong_adjoint_is_refused(adjoint: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(InputError, match="adjoint="):
        it.as_operator(lambda x: 2 * x, (1, 400), adjoint=adjoint)


def test_an_adjoint_that_is_nearly_matched_or_complex_is_accepted() -> None:
    phases = torch.exp(1j * torch.arange(400.0))
    A = it.as_operator(lambda x: 2 * x, (1, 400), adjoint=lambda y: 2.04 * y)
    B = it.as_operator(lambda x: phases * x, (1, 400), adjoint=lambda y: (phases.conj() * y).real)
    assert isinstance(A, LinearOperator) and isinstance(B, LinearOperator)


def test_the_adjoint_of_an_operator_of_large_values_is_tested() -> None:
    """The products of the dot test leave float32, the values do not."""
    A = it.as_operator(lambda x: 1e18 * x, (1, 400), adjoint=lambda y: 1e18 * y)
    assert isinstance(A, LinearOperator)
    with pytest.raises(InputError, match="not the adjoint"):
        it.as_operator(lambda x: 1e18 * x, (1, 400), adjoint=lambda y: -1e18 * y)


def test_a_scipy_operator_without_adjoint_names_what_is_missing() -> None:
    half = scipy.sparse.linalg.LinearOperator((2, 3), matvec=lambda v: v[:2])
    A = it.as_operator(half, (1, 3))
    with pytest.raises(InputError, match="has no rmatvec"):
        A.adjoint(torch.ones(1, 1, 2))


def test_a_function_of_two_outputs() -> None:
    A = it.as_operator(lambda x: (x.sum(-1), x * 2), (2, 6), linear=True)
    assert A.range_shape == ((2,), (2, 6)) and _dot_test(A) < 1e-6


@pytest.mark.parametrize(
    ("obj", "shape", "message"),
    [
        (3, None, "got int"),
        (torch.sin, None, r"domain_shape=\(channel"),
        (lambda x: x.sum(), (1, 4), "first axis is the batch"),
        (torch.ones(3), None, r"\(m, n\)"),
    ],
)
def test_what_is_no_operator_gets_one_sentence(
    obj: object, shape: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(it.InputError, match=message):
        it.as_operator(obj, shape)


def test_an_operator_stays_itself() -> None:
    A = Identity((1, 4, 4))
    assert it.as_operator(A) is A and it.as_operator(it.to_deepinv(A)) is A


# -- to SciPy and PyLops ---------------------------------------------------------------------------


def _mri() -> LinearOperator:
    return it.operators.CartesianMRI((_random(6, 6) > 0).float(), (6, 6))


EXPORTED: dict[str, Callable[[], LinearOperator]] = {
    "blur": lambda: Blur(torch.rand(3, 3), (2, 6, 7), "valid"),
    "scan": lambda: it.operators.ParallelBeam((8, 8), torch.arange(5) * 0.6, 11),
    "mri": _mri,
    "stack": lambda: it.operators.stack([Identity((1, 4, 4)), Blur(torch.rand(3, 3), (4, 4))]),
    "sparse": lambda: it.operators.SparseMatrix(_sparse(torch.complex128).to_sparse()),
}


def _flat(value: torch.Tensor | tuple[torch.Tensor, ...]) -> np.ndarray:
    parts = value if isinstance(value, tuple) else (value,)
    return torch.cat([part.flatten() for part in parts]).numpy()


@pytest.mark.parametrize("name", EXPORTED)
def test_an_operator_in_scipy(name: str) -> None:
    A = EXPORTED[name]()
    linear = it.to_scipy(A)
    assert isinstance(linear, scipy.sparse.linalg.LinearOperator) and it.as_operator(linear) is A
    is_complex = name in ("mri", "sparse")
    dtype = torch.complex128 if is_complex else torch.float64
    assert linear.dtype == (np.complex128 if is_complex else np.float64)
    x = _random(1, *A.domain_shape, dtype=dtype)
    y = A(x)
    assert linear.shape == A.shape == (_flat(y).size, x.numel())
    np.testing.assert_array_equal(linear @ _flat(x), _flat(y))
    np.testing.assert_array_equal(linear.H @ _flat(y), _flat(A.adjoint(y)))
    columns = np.stack([_flat(x), 2 * _flat(x)], axis=1)
    np.testing.assert_array_equal((linear @ columns)[:, 0], _flat(y))
    np.testing.assert_allclose(linear @ (1j * _flat(x)), 1j * _flat(y), rtol=1e-12, atol=1e-12)
    v, w = (_flat(_random(n, seed=k, dtype=dtype)) for k, n in enumerate(linear.shape[::-1]))
    assert np.vdot(w, linear @ v) == pytest.approx(np.vdot(linear.H @ w, v), rel=1e-9)
    found = scipy.sparse.linalg.lsqr(linear, _flat(y), atol=1e-12, btol=1e-12, iter_lim=500)[0]
    np.testing.assert_allclose(linear @ found, _flat(y), atol=1e-6 * np.abs(_flat(y)).max())
    assert it.to_scipy(A, torch.float32).dtype == (np.complex64 if is_complex else np.float32)
    # SciPy's protocol without a conversion.
    other = scipy.sparse.linalg.aslinearoperator(A)
    assert other.shape == linear.shape and other.dtype == linear.dtype
    np.testing.assert_array_equal(other.rmatvec(_flat(y)), linear.rmatvec(_flat(y)))


@pytest.mark.parametrize("name", EXPORTED)
def test_an_operator_in_pylops(name: str) -> None:
    pylops = pytest.importorskip("pylops")
    A = EXPORTED[name]()
    op = it.to_pylops(A)
    assert isinstance(op, pylops.LinearOperator)
    dtype = torch.complex128 if np.issubdtype(op.dtype, np.complexfloating) else torch.float64
    x = _random(1, *A.domain_shape, dtype=dtype)
    np.testing.assert_array_equal(np.ravel(op @ _flat(x)), _flat(A(x)))
    np.testing.assert_array_equal(np.ravel(op.H @ _flat(A(x))), _flat(A.normal(x)))
    pylops.utils.dottest(op, complexflag=3 if dtype.is_complex else 0, rtol=1e-9)
    image = x[0].numpy()
    assert np.asarray(op @ image.reshape(op.dims)).size == op.shape[0]
    found = pylops.optimization.basic.cgls(
        op, _flat(A(x)), x0=np.zeros(op.shape[1], op.dtype), niter=300, tol=1e-20
    )[0]
    np.testing.assert_allclose(
        np.ravel(op @ found), _flat(A(x)), atol=1e-5 * np.abs(_flat(A(x))).max()
    )


def test_what_scipy_cannot_take_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    several = Blur(torch.rand(3, 1, 3, 3), (6, 6))
    with pytest.raises(it.InputError, match="belong to 3 items; select one"):
        it.to_scipy(several)
    one = it.to_scipy(several.select(torch.tensor([1])))
    x = _random(3, 1, 6, 6, dtype=torch.float64)
    np.testing.assert_allclose(one @ _flat(x[1]), _flat(several(x)[1]), rtol=1e-12)
    with pytest.raises(it.InputError, match="to_pylops takes a linear operator"):
        it.to_pylops(it.as_operator(torch.sin, (1, 4)))
    monkeypatch.setitem(sys.modules, "pylops", None)
    with pytest.raises(ImportError, match=r"PyLops, which is not installed; .*\[interop\]"):
        it.to_pylops(Identity((1, 4)))


# -- back to deepinv -------------------------------------------------------------------------------


def test_deepinvs_own_reconstructor_gives_the_same_with_our_blur_as_with_theirs() -> None:
    kernel = torch.rand(1, 1, 5, 5)
    kernel = kernel / kernel.sum()
    theirs = DeepinvBlur(filter=kernel, padding="reflect")
    ours = it.to_deepinv(Blur(kernel, (1, 32, 32)))
    x = torch.rand(2, 1, 32, 32)
    y = theirs.A(x)
    results = []
    for physics in (theirs, ours):
        solver = deepinv.optim.PGD(
            prior=deepinv.optim.TVPrior(n_it_max=20),
            data_fidelity=deepinv.optim.L2(),
            lambda_reg=1e-3,
            stepsize=1.0,
            max_iter=20,
            early_stop=False,
        )
        results.append(solver(y, physics))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-4)
    assert float((results[1] - x).square().mean()) < float((y - x).square().mean())


def test_a_physics_made_of_an_operator() -> None:
    kernel = _random(3, 3, dtype=torch.float64)
    A = Blur(kernel, (1, 12, 12), "periodic")
    physics = it.to_deepinv(A)
    x, z = (
        _random(2, 1, 12, 12, dtype=torch.float64),
        _random(2, 1, 12, 12, seed=1, dtype=torch.float64),
    )
    y = A(x)
    torch.testing.assert_close(physics(x), y)
    assert physics.img_size == (1, 12, 12)
    # argmin gamma / 2 |A u - y|^2 + 1 / 2 |u - z|^2
    u = physics.prox_l2(z, y, 3.0)
    torch.testing.assert_close(3.0 * A.adjoint(A(u) - y) + u - z, torch.zeros_like(u))
    assert float((A(physics.A_dagger(y)) - y).norm() / y.norm()) < 1e-4
    torch.testing.assert_close(physics.A(x, kernel=2 * kernel), 2 * y)
    torch.testing.assert_close(physics(x), y)
    single = it.to_deepinv(A).to(torch.float32)
    assert single.operator.kernel.dtype == torch.float32 and A.kernel.dtype == torch.float64
    copied = physics.clone()
    torch.testing.assert_close(copied.A(x), y)
    stacked = it.to_deepinv(it.operators.stack([A, 2 * A]))
    torch.testing.assert_close(stacked.A_adjoint(stacked.A(x)), 5 * A.normal(x))
    nonlinear = it.to_deepinv(it.as_operator(torch.sin, (1, 12, 12)))
    torch.testing.assert_close(nonlinear.A(x), x.sin())
    with pytest.raises(it.InputError, match="takes an operator"):
        it.to_deepinv(Operator)  # type: ignore[arg-type]


PSEUDO_INVERTED: dict[str, Callable[[], LinearOperator]] = {
    **{
        f"blur, {boundary}": lambda b=boundary: Blur(torch.rand(5, 3), (2, 16, 17), b)
        for boundary in ("valid", "zero", "reflect", "periodic")
    },
    "scan": EXPORTED["scan"],
    "mri": EXPORTED["mri"],
    "coils": lambda: it.operators.CartesianMRI(
        (_random(8, 8) > 0).float(), (8, 8), _random(1, 3, 8, 8, dtype=torch.complex64)
    ),
    "stack": EXPORTED["stack"],
    "downsampling": lambda: it.operators.Downsampling((1, 12, 12), 3),
    "inpainting": lambda: it.operators.Inpainting((_random(1, 9, 9) > 0).float(), (1, 9, 9)),
    "matrix": lambda: it.operators.Matrix(_random(5, 9) @ _random(9, 12, seed=1)),
    "sparse": lambda: it.operators.SparseMatrix(_sparse(torch.float32).to_sparse()),
    "hadamard": lambda: it.operators.HadamardSensing((1, 6, 6), 20),
}


@pytest.mark.parametrize("name", PSEUDO_INVERTED)
def test_a_dagger_is_the_pseudo_inverse(name: str) -> None:
    torch.manual_seed(0)
    A = PSEUDO_INVERTED[name]()
    physics = it.to_deepinv(A)
    dtype = torch.complex64 if name in ("mri", "coils") else torch.float32
    x = _random(2, *A.domain_shape, dtype=dtype)
    y = physics.A(x)
    found = physics.A_dagger(y)
    size = it.operators.base.item_norm(A(x))
    # A A^+ A = A
    error = it.operators.base.item_norm(A(found - x)) / size
    assert float(error.max()) < 1e-3
    # deepinv's own test, `test_pseudo_inverse` in its tests/test_physics.py.
    r = A.normal(x)
    back = physics.A_dagger(physics.A(r), solver="lsqr", tol=0.0001, max_iter=50)
    assert float((back - r).norm() / r.norm()) < 0.05
    assert physics.max_iter == 500 and physics.tol == 1e-5
    # Items do not depend on each other, and any unit will do.
    for k in range(2):
        assert torch.equal(physics.A_dagger(physics.A(x[k : k + 1]))[0], found[k])
    tiny = physics.A_dagger(physics.A(1e-25 * x))
    torch.testing.assert_close(1e25 * tiny, found, rtol=1e-2, atol=1e-2 * float(found.abs().max()))
    assert float(physics.A_dagger(0 * y).abs().max()) == 0


def test_a_dagger_has_derivatives_and_takes_parameters() -> None:
    A = Blur(torch.rand(3, 3, dtype=torch.float64) + 3 * torch.eye(3).double(), (5, 5), "valid")
    physics = it.to_deepinv(A)
    y = _random(1, 1, 3, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: physics.A_dagger(y, tol=1e-14), (y,))
    torch.testing.assert_close(
        physics.A_dagger(y, kernel=2 * A.kernel, tol=1e-12), physics.A_dagger(y, tol=1e-12) / 2
    )


def test_pixels_that_an_inpainting_physics_does_not_measure_do_not_count() -> None:
    """Noise at missing pixels is no measurement; it decided the weight and the noise level."""
    truth = it.datasets.photograph("camera")[..., 128:192:2, 200:264:2]
    mask = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.5
    physics = Inpainting(img_size=(1, 32, 32), mask=mask.float())
    noise = 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    masked = it.Problem(mask * (truth + noise), physics)
    everywhere = it.Problem(mask * truth + noise, physics)
    assert torch.equal(masked.y, everywhere.y)
    solution = it.reconstruct(mask * truth + noise, physics, prior="tv", progress=False)
    assert float(it.metrics.psnr(solution.x, truth)) > 18  # 8.7 with zeros at missing pixels


def test_a_pair_of_functions_is_refused_with_the_call_that_takes_it() -> None:
    with pytest.raises(it.InputError, match="adjoint=adjoint"):
        it.as_operator((torch.sin, torch.cos))
