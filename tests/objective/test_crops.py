"""Parts of large pictures, on which weights are chosen."""

import pytest
import torch

import invtoolbox as it
from invtoolbox.objective.crops import crop_large


def pictures(rows: int = 400, columns: int = 420) -> torch.Tensor:
    """Return two photographs, ``(2, 1, rows, columns)``, the second without its upper half."""
    camera = it.datasets.photograph("camera")[..., :rows, :columns]
    lower = camera.clone()
    lower[..., : rows // 2, :] = 0.5
    return torch.cat([camera, lower])


@pytest.mark.parametrize("boundary", ["reflect", "valid", "periodic", "zero"])
def test_a_part_is_predicted_as_in_the_whole(boundary: str) -> None:
    kernel = torch.rand(4, 7, generator=torch.Generator().manual_seed(0))
    A = it.operators.Blur(kernel / kernel.sum(), (400, 420), boundary)
    x = pictures()
    part = crop_large(it.Problem(A(x), A))
    assert part is not None and part.problem.y.shape == (2, 1, 256, 256)
    assert torch.allclose(part.problem.operator(part.cut(x)), part.problem.y, atol=1e-5)


def test_every_item_has_the_part_that_it_has_alone() -> None:
    A = it.operators.Blur(torch.ones(5, 5) / 25, (400, 420))
    y = A(pictures())
    both = crop_large(it.Problem(y, A))
    assert both is not None and both.corners[0] != both.corners[1]
    for k in range(2):
        alone = crop_large(it.Problem(y[k : k + 1], A))
        assert alone is not None and torch.equal(alone.problem.y0, both.problem.y0[k : k + 1])


def test_only_large_pictures_under_least_squares_without_weights_have_a_part() -> None:
    A = it.operators.Identity((1, 400, 420))
    problem = it.Problem(pictures(), A)
    assert crop_large(problem) is not None
    for term in (it.data_terms.LeastSquares(weights=torch.ones(1)), it.data_terms.L1()):
        assert crop_large(it.Problem(pictures(), A, term)) is None
    assert crop_large(it.Problem(pictures(300, 300), it.operators.Identity((1, 300, 300)))) is None


def test_the_weight_is_chosen_on_a_part_and_fits_the_whole() -> None:
    A, truth = it.operators.Identity((1, 400, 420)), pictures()[:1]
    problem, tv = it.Problem(A.simulate(truth, noise=0.08, seed=0), A), it.priors.TotalVariation()
    solution = it.solve(problem, tv, progress=False)
    assert any("256 x 256 pixels" in note for note in solution.notes)
    errors = []
    for factor in (0.5, 1.0, 2.0):
        weight = factor * solution.regularization
        x = it.solve(problem, tv, regularization=weight, max_iterations=100, progress=False).x
        errors.append(float((x - truth).norm()))
    assert errors[1] == min(errors)
