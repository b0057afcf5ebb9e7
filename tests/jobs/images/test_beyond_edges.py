"""A scene that goes on beyond the edges of a blurred picture is not mirrored there."""

import torch

import invtoolbox as it
from tests.jobs.images.test_floor import picture, rmse


def blur(size: int, boundary: str) -> it.operators.Blur:
    return it.operators.Blur(torch.ones(5, 5) / 25, (1, size, size), boundary=boundary)


def test_a_picture_that_goes_on_is_not_mirrored_and_a_mirrored_one_is() -> None:
    """The mirror made edges ring at low noise, with errors above those of the blurred picture."""
    scene, A = picture(40), blur(24, "reflect")
    truth = scene[..., 8:32, 8:32].contiguous()
    goes_on = blur(40, "periodic").simulate(scene, 3e-4, seed=0)[..., 8:32, 8:32].contiguous()
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
