"""The weight of robust misfits by held-out measurements: near the best, per item, refusals."""

from __future__ import annotations

from unittest.mock import ANY

import pytest
import torch

import invtoolbox as it
from invtoolbox.core.content import digest
from invtoolbox.data_terms import L1, DataTerm, Huber, LeastSquares, Student
from invtoolbox.data_terms.robust import Robust
from invtoolbox.parameter_choice import RobustValidation, rule_named
from invtoolbox.parameter_choice.robust_level import scale_robust


def picture() -> torch.Tensor:
    x = torch.full((1, 1, 24, 24), 0.3)
    x[..., 4:18, 6:20], x[..., 10:14, 2:12] = 0.8, 0.5
    return x


def damage(y: torch.Tensor, share: float = 0.2) -> torch.Tensor:
    """Replace a share of the measurements by the least and the largest value."""
    draw = torch.rand(y.shape, generator=torch.Generator().manual_seed(1))
    y = torch.where(draw < share / 2, 0.0, y)
    return torch.where(draw > 1 - share / 2, max(1.0, float(y.max())), y)


@pytest.mark.parametrize(
    "term",
    [
        L1(),
        L1(noise_std=0.02),
        Huber(noise_std=0.02),
        pytest.param(Student(noise_std=0.02), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_outliers_are_removed_by_default(term: DataTerm) -> None:
    x, A = picture(), it.operators.Identity((1, 24, 24))
    y = damage(A.simulate(x, 0.01, seed=0))
    solution = it.reconstruct(y, A, "tv", data_term=term, progress=False)
    assert solution.weight_search is not None
    assert solution.weight_search.rule == "robust-validation"
    assert float((solution.x - x).norm()) < 0.4 * float((y - x).norm())


@pytest.mark.parametrize("term", [Huber(), Student()], ids=repr)
@pytest.mark.parametrize("unit", [1.0, 255.0])
def test_a_robust_misfit_without_a_level_gets_that_of_most_measurements(
    term: Robust, unit: float
) -> None:
    A = it.operators.Inpainting(torch.rand(48, 48) < 0.9, (1, 48, 48))
    x = torch.nn.functional.interpolate(picture(), scale_factor=2.0)
    problem = it.Problem(unit * A(damage(x + 0.01 * torch.randn(x.shape))), A, term)
    scaled, notes = scale_robust(problem)
    assert float(scaled.data_term.noise_std) / unit == pytest.approx(0.01, rel=0.2)
    assert "got no noise_std" in notes[0]
    for written in (Huber(0.1), Huber(noise_std=0.1), L1(), LeastSquares()):
        assert scale_robust(problem.with_data_term(written)) == (ANY, ())


def test_written_weights_belong_to_the_misfit_as_written() -> None:
    y, A = damage(picture()), it.operators.Identity((1, 24, 24))
    problem, tv = it.Problem(y, A, Huber()), it.priors.TotalVariation()
    options = {"max_iterations": 2, "progress": False}
    for solution in (
        it.solve(problem, tv, None, 0.1, **options),
        it.solve(problem, 0.1 * tv, **options),
    ):
        assert solution.problem.data_term.noise_std is None
    bare = it.solve(problem, it.priors.NonNegative(), **options)
    assert bare.problem.data_term.noise_std is not None and "got no noise_std" in bare.notes[0]


def test_the_level_of_k_space_and_of_many_axes_is_estimated() -> None:
    """Gaps of complex numbers and of four axes ended in a traceback."""
    draw, mask = torch.Generator().manual_seed(0), torch.zeros(48, 48)
    mask[:, ::3] = mask[:, 20:28] = 1
    A = it.operators.CartesianMRI(mask, (48, 48))
    y = A.simulate(torch.ones(1, 1, 48, 48) + 0j, 0.02, seed=0)
    scaled, _ = scale_robust(it.Problem(y, A, Huber()))
    assert float(scaled.data_term.noise_std) == pytest.approx(0.02, rel=0.2)
    y = 0.02 * torch.randn(1, 1, 4, 5, 12, 12, generator=draw)
    term = Huber(weights=(torch.rand(y.shape, generator=draw) < 0.9).float())
    scaled, _ = scale_robust(it.Problem(y, it.operators.Identity(y.shape[1:]), term))
    assert float(scaled.data_term.noise_std) == pytest.approx(0.02, rel=0.2)


def test_the_level_of_many_measurements_is_that_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invtoolbox.parameter_choice.robust_level._ENOUGH", 1 << 10)
    y = 0.02 * torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    scaled, _ = scale_robust(it.Problem(y, it.operators.Identity((1, 128, 128)), Student()))
    assert float(scaled.data_term.noise_std) == pytest.approx(0.02, rel=0.1)


def test_only_terms_without_scale_have_another_content_than_before() -> None:
    for term in (Huber(0.1), Huber(noise_std=0.1), Huber(1.345, 0.1)):
        assert "has_no_scale" not in vars(term)
    assert digest(Huber()) != digest(Huber(1.345))


@pytest.mark.parametrize("name", ["0.1", "1E-3", "1e5", "-1"])
def test_a_number_as_text_is_refused(name: str) -> None:
    with pytest.raises(it.InputError, match=f"text '{name}'; give the number"):
        rule_named(name)
    with pytest.raises(it.InputError, match="no rule"):
        rule_named("²")


def test_the_weight_of_student_is_sought_under_a_convex_term_of_its_curvature() -> None:
    y, std = torch.zeros(2, 1, 4, 4), torch.tensor([0.1, 2.0])
    for term in (Student(noise_std=std), Student(nu=1.0)):
        convex = term.convex(y)
        assert convex.is_convex and isinstance(convex, Huber)
        assert torch.allclose(convex.curvature(y), term.curvature(y))


def test_wrong_rays_of_a_scan_are_outvoted() -> None:
    x, angles = picture(), torch.arange(30) * torch.pi / 30
    A = it.operators.ParallelBeam((24, 24), angles, 36)
    y = damage(A.simulate(x, 0.05, seed=0), 0.1)
    problem = it.Problem(y, A, L1())
    solution = it.solve(problem, it.priors.TotalVariation(), progress=False)
    assert solution.weight_search is not None
    assert solution.weight_search.rule == "robust-validation"
    assert float((solution.x - x).norm()) < 0.4 * float((A.pseudo_inverse(y) - x).norm())


def test_an_item_alone_has_the_weight_of_the_batch() -> None:
    A, x = it.operators.Identity((1, 24, 24)), picture()
    weights = torch.ones(2, 1, 24, 24)
    weights[1, ..., :6] = 0.5
    y = torch.cat([damage(x, 0.1), damage(x, 0.3)])
    problem = it.Problem(y, A, L1(weights=weights))
    tv, settings = it.priors.TotalVariation(), {"max_iterations": 5, "progress": False}
    both = it.solve(problem, tv, regularization=RobustValidation(), **settings)
    alone = it.solve(
        problem.select(torch.tensor([1])), tv, regularization=RobustValidation(), **settings
    )
    assert torch.equal(alone.regularization, both.regularization[1:])


def test_the_held_out_loss_does_not_depend_on_fitted_measurements() -> None:
    fitted = (torch.arange(6.0) < 4).float().view(1, 1, 6)
    for whole in (L1(), Huber(noise_std=0.5), Student()):
        assert isinstance(whole, Robust)
        term, y = whole.hold_out(fitted, 1 - fitted), torch.zeros(1, 1, 6)
        prediction = torch.arange(6.0).view(1, 1, 6)
        loss = term.held_out_loss(prediction, y)
        assert torch.equal(loss, term.held_out_loss(prediction + 9 * fitted, y))
        single = whole.value(prediction[..., 4:], y[..., 4:]) / 2
        assert float(loss) == pytest.approx(float(single))
        assert torch.equal(term.value(prediction, y), term.value(prediction + 1 - fitted, y))
        with pytest.raises(it.InputError, match="held out"):
            whole.held_out_loss(prediction, y)


def test_other_misfits_are_refused() -> None:
    A, y, tv = it.operators.Identity((1, 24, 24)), picture(), it.priors.TotalVariation()
    problem = it.Problem(y, A, LeastSquares())
    with pytest.raises(it.InputError, match="robust-validation"):
        it.solve(problem, tv, regularization="robust-validation", progress=False)
