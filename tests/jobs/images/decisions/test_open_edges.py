"""A scene that goes on beyond the edges of a blurred picture is not mirrored there."""

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.interrupts import limit
from invtoolbox.jobs.images.decisions.open_edges import goes_on, open_edges
from tests.jobs.images.decisions.test_simple_answer import picture, rmse


def blur(size: int, boundary: str) -> it.operators.Blur:
    return it.operators.Blur(torch.ones(5, 5) / 25, (1, size, size), boundary=boundary)


def beyond() -> tuple[Tensor, it.operators.Blur, Tensor]:
    """Return a picture that goes on beyond its edges, the operator that mirrors it, and the truth."""
    scene = picture(40)
    y = blur(40, "periodic").simulate(scene, 3e-4, seed=0)[..., 8:32, 8:32].contiguous()
    return y, blur(24, "reflect"), scene[..., 8:32, 8:32].contiguous()


def test_a_picture_that_goes_on_is_not_mirrored_and_a_mirrored_one_is() -> None:
    """The mirror made edges ring at low noise, with errors above those of the blurred picture."""
    goes_on, A, truth = beyond()
    mirrored = A.simulate(truth, 3e-4, seed=0)
    y = torch.cat([goes_on, mirrored])
    both = it.reconstruct(y, A, "tikhonov", max_iterations=100, progress=False)
    assert sum("'valid' took the place" in note for note in both.notes) == 1
    for k in range(2):
        assert rmse(both.x[k], truth) < 0.8 * rmse(y[k], truth)
    kept = it.reconstruct(
        goes_on, A, "tikhonov", regularization=1e-4, max_iterations=9, progress=False
    )
    assert not any("took the place" in note for note in kept.notes)


def test_held_out_pixels_show_the_right_boundary() -> None:
    """The answer with the right boundary had more detail than that of the mirror, and was not taken."""
    A = it.operators.Blur(torch.ones(3, 3) / 9, (1, 24, 24))
    wide = it.operators.Blur(torch.ones(3, 3) / 9, (1, 40, 40), boundary="periodic")
    scene = picture(40)
    y, truth = (z[..., 4:28, 4:28].contiguous() for z in (wide.simulate(scene, 3e-4, 0), scene))
    both = torch.cat([y, A.simulate(truth, 3e-4, seed=0)])
    solution = it.reconstruct(both, A, "tv", progress=False)
    notes = [note[:22] for note in solution.notes if "took the place" in note]
    assert notes == ["edges of item 0 ring l"]
    assert rmse(solution.x[0], truth) < 0.02  # the mirror leaves 0.03


def test_the_imaginary_part_of_held_out_pixels_counts() -> None:
    """The squares of a complex residual were cast to their real part, and the worse boundary won."""
    y, A, truth = beyond()
    both = torch.cat([y, A.simulate(truth, 3e-4, seed=0)])
    choices = []
    for factor in (1.0, 1j):
        problem = it.Problem(factor * both, A)
        opened = open_edges(problem)
        assert opened is not None

        def again(posed: it.Problem, scale: complex = factor) -> Tensor:
            size = posed.operator.domain_shape[-1]
            image = picture(40)[..., 20 - size // 2 : 20 + size // 2, 20 - size // 2 :]
            return (scale * image[..., :size]).expand(2, -1, -1, -1)

        choices.append(goes_on(problem, opened, again)[0].tolist())
    assert choices == 2 * [[True, False]]


def test_items_are_opened_alone_as_in_a_batch() -> None:
    """An item that is not finite kept the others from being opened."""
    y, A, truth = beyond()
    y = torch.cat([A.simulate(truth, 3e-4, seed=0), y, torch.full_like(y, torch.nan)])
    with pytest.warns(it.errors.MeasurementWarning, match="item 2 is skipped"):
        three = it.reconstruct(y, A, "tikhonov", max_iterations=50, progress=False)
    assert three.status[2] == "invalid" and bool(three.x[2].isnan().all())
    assert [note[:22] for note in three.notes if "took the place" in note] == [
        "edges of item 1 ring l"
    ]
    for k in range(2):
        alone = it.reconstruct(y[[k]], A, "tikhonov", max_iterations=50, progress=False)
        assert torch.equal(alone.x[0], three.x[k]), k


def test_what_cannot_be_opened_keeps_the_mirror() -> None:
    """A prior with an image of one size ended the call by an error, and a late answer was taken."""
    y, A, truth = beyond()
    settings = {"max_iterations": 5, "progress": False}
    solution = it.reconstruct(y, A, it.priors.Tikhonov(reference=truth), **settings)
    assert any("no scene beyond the edges was compared" in note for note in solution.notes)
    for prior in (None, 0.01 * it.priors.Tikhonov()):
        solution = it.reconstruct(y, A, prior, **settings)
        assert not any("edges" in note for note in solution.notes)
    solution = it.reconstruct(y, A, "tikhonov", max_iterations=0, progress=False)
    assert not any("took the place" in note for note in solution.notes)
    with limit(1e-3):
        solution = it.reconstruct(y, A, "tikhonov", **settings)
    assert any("no time for the step open-edges" in note for note in solution.notes)
