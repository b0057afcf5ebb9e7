"""The one-liner: axes that were left out, names, NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.decisions.smooth_noise import ConstantPicture
from tests.jobs.images.decisions.helpers import case_of


@pytest.mark.parametrize(
    "shape", [(12, 12), (1, 12, 12), (1, 1, 12, 12), (3, 12, 12), (2, 3, 12, 12)]
)
def test_axes_that_were_left_out_are_added(shape: tuple[int, ...]) -> None:
    A = it.operators.Blur(torch.ones(1, 3) / 3, (12, 12))
    y = np.random.default_rng(0).random(shape, dtype=np.float32)
    y.flags.writeable = False
    solution = it.reconstruct(y, A, prior="tikhonov", regularization=0.1, progress=False)
    whole = torch.as_tensor(y.copy()).reshape((1,) * (4 - len(shape)) + shape)
    expected = it.solve(
        it.Problem(whole, A), it.priors.Tikhonov(), regularization=0.1, progress=False
    )
    assert torch.equal(solution.x, expected.x) and solution.x.shape == whole.shape


def test_several_priors_by_name_and_as_objects() -> None:
    A = it.operators.Identity((1, 6, 6))
    solution = it.reconstruct(
        np.ones((6, 6)),
        A,
        prior=["tikhonov", 2 * it.priors.Tikhonov()],
        regularization=1.0,
        max_iterations=1,
        progress=False,
    )
    assert solution.prior == "Tikhonov() + 2 * Tikhonov()" and solution.x.dtype == torch.float64


def test_what_does_not_fit_is_said() -> None:
    A = it.operators.Identity((1, 6, 6))
    with pytest.raises(InputError, match="row"):
        it.reconstruct(np.ones((5, 6)), A)
    with pytest.raises(InputError, match="did you mean 'tv'"):
        it.reconstruct(np.ones((6, 6)), A, prior="tvv")
    with pytest.raises(InputError, match="not both"):
        it.reconstruct(np.ones((6, 6)), A, noise_std=1.0, data_term=it.data_terms.LeastSquares(1.0))
    with pytest.raises(InputError, match="NaN"):
        it.reconstruct(np.full((6, 6), np.nan), A)


def test_a_scan_in_a_batch_with_a_faulty_one_is_solved_as_alone() -> None:
    angles = torch.arange(40) * torch.pi / 40
    A = it.operators.ParallelBeam((32, 32), angles, 48)
    x = torch.zeros(2, 1, 32, 32)
    x[..., 8:22, 10:24] = 0.1
    y = A.simulate(x, 0.01, seed=0)
    y[1, 0, :, 20] = 0.0
    together = it.reconstruct(y, A, "tikhonov", repair=True, progress=False)
    alone = [it.reconstruct(item[None], A, "tikhonov", repair=True, progress=False) for item in y]
    assert not any("repaired" in note for note in alone[0].notes)
    assert any("repaired" in note for note in alone[1].notes)
    for k in range(2):
        torch.testing.assert_close(together.x[k], alone[k].x[0], rtol=0, atol=0)


def test_names_joined_by_commas_are_several_priors() -> None:
    A = it.operators.Identity((1, 8, 8))
    y = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    settings = {"regularization": 0.1, "max_iterations": 5, "progress": False}
    ours = it.reconstruct(y, A, "total variation,nonnegative", **settings).x
    for priors in (["tv", "nonnegative"], "tv,nonnegative"):
        assert torch.equal(it.reconstruct(y, A, priors, **settings).x, ours)
        assert torch.equal(it.solve(it.Problem(y, A), priors, **settings).x, ours)


def test_the_words_of_other_packages_are_answered_with_ours() -> None:
    A = it.operators.Identity((1, 8, 8))
    y = torch.rand(1, 1, 8, 8)
    for word, meant in (("weight", "regularization"), ("max_iter", "max_iterations")):
        sentence = f"no argument '{word}'; did you mean '{meant}'"
        with pytest.raises(it.InputError, match=sentence):
            it.reconstruct(y, A, "tv", **{word: 1})  # type: ignore[arg-type]
        with pytest.raises(it.InputError, match=sentence):
            it.solve(it.Problem(y, A), "tv", **{word: 1})  # type: ignore[call-overload]
    with pytest.raises(it.InputError, match="has no argument 'zzz'; it has y, A, prior"):
        it.reconstruct(y, A, zzz=1)  # type: ignore[call-arg]


def test_lists_are_arrays_and_exchanged_arguments_are_named() -> None:
    A = it.operators.Identity((1, 6, 6))
    y = np.random.default_rng(0).random((6, 6), dtype=np.float32)
    settings: dict[str, object] = {"regularization": 0.1, "progress": False}
    answers = [it.reconstruct(values, A, **settings).x for values in (y.astype(float), y.tolist())]
    assert torch.allclose(*answers)
    with pytest.raises(InputError, match="the arguments are exchanged"):
        it.reconstruct(A, y)


def test_exchanged_axes_are_named() -> None:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (6, 8))
    with pytest.raises(InputError, match=r"give y.movedim\(-1, 1\)"):
        it.reconstruct(np.zeros((6, 8, 3)), A)
    with pytest.raises(InputError, match=r"give y.swapaxes\(-1, -2\)"):
        it.reconstruct(np.zeros((8, 6)), A)


def test_devices_and_precisions_that_do_not_exist_are_named() -> None:
    A = it.operators.Identity((1, 6, 6))
    problem = it.Problem(torch.zeros(1, 1, 6, 6), A)
    with pytest.raises(InputError, match="there is no device named 'gpu'"):
        it.solve(problem, "tv", device="gpu")
    with pytest.raises(InputError, match="got torch.float16"):
        it.solve(problem, "tv", dtype=torch.float16)
    x = it.solve(problem, "tv", dtype="float64", progress=False).x  # type: ignore[arg-type]
    assert x.dtype == torch.float64
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="the device cuda was given"):
            A.to("cuda")


def test_physics_of_deepinv_take_arrays_and_name_what_is_missing() -> None:
    """The adjoint was called with the array, and the error was that of deepinv."""
    import deepinv

    physics = deepinv.physics.Blur(torch.ones(1, 1, 3, 3) / 9, padding="circular")
    y = physics.A(torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    settings: dict[str, object] = {"regularization": 0.1, "max_iterations": 3, "progress": False}
    answers = [it.reconstruct(values, physics, **settings).x for values in (y, y.numpy())]
    assert torch.equal(*answers)
    for values in (y[0, 0], y[0, 0].numpy(), y.double(), y.tolist()):
        with pytest.raises(InputError, match="Blur does not state the shape of its images"):
            it.reconstruct(values, physics)
    with pytest.raises(InputError, match="the arguments are exchanged"):
        it.reconstruct(physics, y)


def test_complex_views_are_two_real_scans() -> None:
    angles = torch.arange(30) * torch.pi / 30
    A = it.operators.ParallelBeam((24, 24), angles, 36)
    x = torch.zeros(1, 1, 24, 24)
    x[..., 6:16, 8:18] = 0.1
    y = torch.complex(A(x), 2 * A(x))
    back = A.pseudo_inverse(y)
    assert torch.equal(back.imag, A.pseudo_inverse(2 * A(x)))
    solution = it.reconstruct(y, A, "tikhonov", 0.01, max_iterations=5, progress=False)
    assert solution.x.is_complex()


def test_a_constant_picture_needs_no_search_for_a_weight() -> None:
    y = torch.full((1, 1, 64, 64), 0.5)
    solution = it.reconstruct(y, it.operators.Identity((1, 64, 64)), "tv", progress=False)
    assert torch.equal(solution.x, y) and solution.status == ("converged",)
    assert solution.weight_search is None and "constant" in solution.notes[0]
    options = {"noise_std": 0.1, "max_iterations": 2, "progress": False}
    drawn = it.reconstruct(
        y[..., :6, :6], it.operators.Identity((1, 6, 6)), "tv", solver="myula", **options
    )
    assert not any("constant" in note for note in drawn.notes)  # draws depend on the weight
    both = it.Problem(torch.cat([torch.rand(1, 1, 64, 64), y]), solution.problem.operator)
    prior = it.priors.TotalVariation()
    proposals = ConstantPicture().propose(case_of(both, prior=prior))
    assert [proposal.case is not None for proposal in proposals] == [False, True]
    implicit = prior + it.priors.RigidMotion()
    misses = [ConstantPicture().misses(case_of(both, prior=p)) for p in (prior, implicit)]
    assert not misses[0] and misses[1]
