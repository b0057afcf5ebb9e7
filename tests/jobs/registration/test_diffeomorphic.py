"""Fields of a velocity: they do not fold, have an inverse, and do not depend on the order of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets.volumes.volume import VolumeInMemory
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.geometry.transforms import Affine, Composite, resample
from invtoolbox.jobs.registration.linear import LinearStages
from invtoolbox.objective.linearization import Linearization
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.image_warp import Exponential, warp_images
from invtoolbox.priors import PriorSum
from invtoolbox.testing import check_operator
from tests.command_line import Run, one_sentence
from tests.jobs.registration.test_register import case, error, textured
from tests.jobs.registration.test_stages import PICTURE, body, motion_3d, moved, turn_2d

FIELD = ("diffeomorphic",)


def smooth_velocity(shape: tuple[int, ...], largest: float, seed: int = 0) -> Tensor:
    """Return sums of a few waves, with a largest length in the unit of the grid."""
    draws = np.random.default_rng(seed)
    p = np.stack(np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij"))
    v = np.zeros_like(p)
    for _ in range(4):
        waves = np.tensordot(draws.uniform(-7, 7, len(shape)), p, 1) + draws.uniform(0, 6)
        v += draws.standard_normal(len(shape)).reshape(-1, *[1] * len(shape)) * np.sin(waves)
    edge = np.prod(np.sin(np.pi * p), 0)  # nothing flows out of the image
    return torch.from_numpy(largest * edge * v / np.abs(v).max())[None]


def gap(first: Tensor, second: Tensor, spacing: tuple[float, ...]) -> float:
    """Return the largest distance that one displacement after the other leaves."""
    return float((first + warp_images(second, first, spacing)).norm(dim=1).max())


@pytest.mark.parametrize("space", [(9, 7), (4, 6, 5)])
def test_the_exponential_keeps_the_contracts(space: tuple[int, ...]) -> None:
    spacing = (1.0, 0.5, 2.0)[: len(space)]
    draws = torch.Generator().manual_seed(0)
    v = 0.1 * torch.randn(2, len(space), *space, generator=draws, dtype=torch.float64)
    check_operator(Exponential((len(space), *space), spacing), v)


def test_the_flow_of_a_linear_velocity_is_the_matrix_exponential() -> None:
    axes = torch.meshgrid(torch.arange(41.0) - 20, 0.5 * (torch.arange(41.0) - 20), indexing="ij")
    p, G = torch.stack(axes).double(), torch.tensor([[0.2, -0.5], [0.4, -0.1]]).double()
    v = torch.einsum("ij,jrc->irc", G, p)[None]
    u = torch.einsum("ij,jrc->irc", torch.matrix_exp(G) - torch.eye(2), p)[None]
    inside = (slice(None), slice(None), slice(15, 26), slice(15, 26))  # flows stay in the grid
    assert (Exponential((2, 41, 41), (1.0, 0.5))(v) - u)[inside].abs().max() < 2e-3
    assert not Exponential((2, 41, 41), time=0.0)(v).any()


@pytest.mark.parametrize(
    "space, spacing", [((40, 48), (1.0, 0.5)), ((20, 24, 18), (2.0, 1.0, 1.0))]
)
def test_the_flow_back_is_the_inverse(space: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    v = smooth_velocity(space, 3.0)
    there, back = (Exponential((len(space), *space), spacing, t)(v) for t in (1.0, -1.0))
    assert gap(there, back, spacing) < 0.1 < 1.0 < float(there.norm(dim=1).max())
    assert not bool(it.metrics.folding(there, spacing).any())


def test_large_volumes_have_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    v = smooth_velocity((8, 9, 7), 2.0).requires_grad_()
    A, gradients = Exponential((3, 8, 9, 7)), []
    for limit in (1 << 17, 1):
        monkeypatch.setattr("invtoolbox.operators.image_warp._STORED", limit)
        gradients.append(torch.autograd.grad(A(v).square().sum(), v)[0])
    assert torch.equal(*gradients)


def test_stacked_misfits_have_the_gauss_newton_matrix_of_their_sum() -> None:
    image, y = (torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    parts = [it.operators.ImageWarp(image[k : k + 1]) for k in range(2)]
    measured = tuple(y[k : k + 1] for k in range(2))
    term = it.data_terms.Stack(
        it.data_terms.LeastSquares(), it.data_terms.LeastSquares(0.5), weights=(1.0, 3.0)
    )
    problem = it.Problem(measured, it.operators.stack(parts), term)
    u, v = 0.3 * torch.rand(1, 2, 6, 5), torch.rand(1, 2, 6, 5)
    objective = Objective(problem, PriorSum(()), torch.ones(1))
    expected = sum(
        w * J.adjoint(J(v)) for w, J in zip((1.0, 12.0), [A.linearize(u) for A in parts])
    )
    assert torch.allclose(Linearization(objective, u).product(v), expected, atol=1e-5)


# Mutual information takes the path of the other losses; test_register.py has it without inverses.
@pytest.mark.parametrize(
    "loss",
    ["least-squares", "ncc", "lncc", pytest.param("mi", marks=pytest.mark.slow), "mind"],
)
def test_a_known_motion_is_found_and_exchanged_images_have_its_inverse(loss: str) -> None:
    moving, fixed, u = case(spacing=0.5)
    motion = it.register(moving, fixed, spacing=0.5, stages=FIELD, loss=loss)
    back = it.register(fixed, moving, spacing=0.5, stages=FIELD, loss=loss)
    assert error(motion, u) < 0.3 * 0.5 and motion.jacobian.min() > 0.2
    assert (motion.displacement - back.inverse).norm(dim=1).max() < 0.1 * 0.5
    gaps = motion.displacement + warp_images(motion.inverse, motion.displacement, (0.5, 0.5))
    assert gaps[..., 4:-4, 4:-4].norm(dim=1).max() < 0.05 * 0.5
    assert motion.has_inverse and motion.solutions[0].status == motion.status[:1]


def test_nothing_folds_where_displacements_do() -> None:
    moving, fixed, _ = case()
    noise = torch.randn(fixed.shape, generator=torch.Generator().manual_seed(1))
    prior = 3e-2 * it.priors.Diffusion()
    folded, flowing = (
        it.register(moving, fixed + 0.5 * noise, prior, stages=stages, max_iterations=10)
        for stages in (("bending",), FIELD)
    )
    assert float(it.metrics.folding(folded.displacement)) > 0
    assert float(it.metrics.folding(flowing.displacement)) == 0
    with pytest.raises(InputError, match="folds"):
        folded.inverse  # noqa: B018
    assert not folded.has_inverse


def test_a_batch_masks_and_landmarks() -> None:
    moving, fixed = (torch.cat([case(k)[side] for k in range(2)]) for side in (0, 1))
    both = it.register(moving, fixed, stages=FIELD, max_iterations=4)
    alone = it.register(moving[1:], fixed[1:], stages=FIELD, max_iterations=4)
    assert torch.equal(both.displacement[1:], alone.displacement)
    assert torch.equal(both.inverse[1:], alone.inverse)
    moving, fixed, u = case()
    broken, mask = fixed.clone(), torch.ones(48, 48, dtype=torch.bool)
    broken[..., 20:28, 20:28], mask[20:28, 20:28] = 4.0, False
    motion = it.register(moving, broken, stages=FIELD, mask=mask)
    assert error(motion, u) < 0.6 * error(it.register(moving, broken, stages=FIELD), u)
    flat = 1e-3 * textured()
    flat[..., :24] += 1  # nothing but an edge
    points = np.array([[10.0, 12.0], [30.0, 35.0]])
    pairs = points + np.array([0.0, 2.0]), points
    pulled = it.register(flat, flat, landmarks=pairs, landmark_weight=1e4, stages=FIELD)
    for row, column in points.astype(int):
        assert abs(float(pulled.displacement[0, 1, row, column]) - 2) < 0.2


@pytest.mark.slow
def test_volumes_of_two_grids_have_one_inverse_field() -> None:
    head = body((24, 28, 26))
    v = smooth_velocity((24, 28, 26), 2.5, seed=4).float()
    bent = warp_images(torch.from_numpy(head)[None, None], Exponential(v.shape[1:])(v), (1.0,) * 3)
    fixed = VolumeInMemory(bent[0, 0].numpy(), Grid((2.0, 2.0, 2.0), (3.0, 4.0, 5.0)))
    moving = VolumeInMemory(
        np.ascontiguousarray(head[:, ::-1]),
        Grid((2.0, 2.0, 2.0), (3.0, 58.0, 5.0), ((0, 0, 1), (0, -1, 0), (1, 0, 0))),
    )
    motion = it.register(moving, fixed, stages=("affine", "diffeomorphic"), smoothness=0.1)
    assert isinstance(motion.transform(), Composite)
    correlations = [
        float(it.metrics.correlation(image[None, None], bent))
        for image in (torch.from_numpy(head), motion.warped[0, 0])
    ]
    assert correlations[1] > 0.5 + 0.5 * correlations[0]
    # The inverse belongs to the moving image's pixels, along its axes.
    points = moving.grid.points((24, 28, 26))
    u = motion.inverse[0].double().movedim(0, -1)  # slices, rows (against y), columns
    there = points + torch.stack([u[..., 2], -u[..., 1], u[..., 0]], -1)
    again = motion.transform()(there)
    assert (again - points)[4:-4, 4:-4, 4:-4].norm(dim=-1).max() < 0.1 * 2.0


def bent(image: np.ndarray, largest: float, seed: int) -> np.ndarray:
    flow = Exponential((image.ndim, *image.shape))(smooth_velocity(image.shape, largest, seed))
    return warp_images(torch.from_numpy(image)[None, None], flow.float(), (1.0,) * image.ndim)[0, 0]


@pytest.mark.parametrize("extras", [False, True])
def test_exchanged_pictures_have_the_inverse_of_all_stages(extras: bool) -> None:
    M = turn_2d(40.0, 1.1, (6.0, -4.0), 64)
    pair = PICTURE, moved(bent(PICTURE, 3.0, 6).numpy(), M)
    there, back = (
        ({}, {}) if not extras else ({"mask": PICTURE > -1}, {"moving_mask": PICTURE > -1})
    )
    if extras:
        there["mask"][:20] = back["moving_mask"][:20] = False
        points = np.array([[30.0, 30.0], [40.0, 35.0]])  # rows and columns
        ends = (points[:, ::-1] @ M[:2, :2].T + M[:2, 2])[:, ::-1].copy()
        there["landmarks"], back["landmarks"] = (ends, points), (points, ends)
    stages = ("rigid", "similarity", *FIELD)
    motion = it.register(*pair, stages=stages, **there)
    other = it.register(*pair[::-1], stages=stages, **back)
    inside = torch.from_numpy(pair[1] > 0.2)[None]
    gaps = (motion.displacement - other.inverse).norm(dim=1)[inside]
    assert gaps.max() < 0.1 < 5.0 < float(motion.displacement.norm(dim=1).max())
    product = motion.linear[0].matrix @ other.linear[0].matrix
    assert (product - torch.eye(3)).abs().max() < 1e-9
    assert motion.has_inverse and motion.jacobian[inside].min() > 0.2


@pytest.mark.slow
def test_exchanged_volumes_of_two_grids_have_the_inverse() -> None:
    head, M = body((18, 22, 20)), motion_3d()
    grids = Grid((4.0, 3.0, 3.5), (10.0, -20.0, 5.0)), Grid((4.5, 3.5, 3.0), (12.0, -24.0, 3.0))
    values = resample(bent(head, 1.0, 7)[None, None], Affine(M), grids[1], grids[0], (18, 22, 26))
    moving = VolumeInMemory(head, grids[0])
    fixed = VolumeInMemory(values[0, 0].numpy(), grids[1])
    stages = ("rigid", *FIELD)
    motion, other = (
        it.register(*p, stages=stages, max_iterations=5) for p in ((moving, fixed), (fixed, moving))
    )
    points = fixed.grid.points(fixed.shape)[values[0, 0] > 0.2]
    gaps = other.transform()(motion.transform()(points)) - points
    assert gaps.norm(dim=-1).max() < 0.1 * 3.0 < 10 < float(motion.displacement.abs().max())
    assert motion.displacement.shape == (1, 3, 18, 22, 26)


@pytest.mark.slow
def test_a_turn_by_180_degrees_has_no_halfway_frame() -> None:
    pair = PICTURE, np.ascontiguousarray(PICTURE[::-1, ::-1])
    motion = it.register(*pair, stages=("rigid", *FIELD))
    assert any("has no half" in note for note in motion.notes)
    assert float(it.metrics.correlation(motion.warped, torch.tensor(pair[1])[None, None])) > 0.999


@pytest.mark.parametrize("wrong", [0, 1])
def test_of_different_motions_in_both_directions_the_better_counts(
    monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    M, fit, calls = turn_2d(30.0, 1.0, (4.0, 2.0), 64), LinearStages.fit, list[int]()
    turn = torch.from_numpy(turn_2d(150.0, 1.0, (0.0, 0.0), 64))

    def fit_one(self: LinearStages, *images: Any) -> Any:
        matrix, solution = fit(self, *images)
        calls.append(len(calls))
        return (turn if calls[-1] == wrong else matrix), solution

    monkeypatch.setattr(LinearStages, "fit", fit_one)
    motion = it.register(PICTURE, moved(PICTURE, M), stages=("rigid", *FIELD))
    assert len(calls) == 2
    assert np.abs(motion.linear[0].matrix.numpy() - M).max() < 0.05


def test_itk_applies_both_directions(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sitk = pytest.importorskip("SimpleITK")
    monkeypatch.chdir(tmp_path)
    head = body((20, 24, 22))
    v = smooth_velocity((20, 24, 22), 2.0, seed=5).float()
    bent = warp_images(torch.from_numpy(head)[None, None], Exponential(v.shape[1:])(v), (1.0,) * 3)
    for name, image, size in (("a", head, 1.5), ("b", bent[0, 0].numpy(), 1.5)):
        grid = Grid((size, size, size), (1.0, 2.0, 3.0))
        it.datasets.write(f"{name}.nii.gz", VolumeInMemory(image, grid))
    words = (
        "register",
        "a.nii.gz",
        "b.nii.gz",
        "--stages",
        "diffeomorphic",
        "--smoothness",
        "0.1",
        "-q",
    )
    ran = run(
        *words, "--transform", "to_a.mha", "--inverse", "to_b.nii.gz", "-o", "w.nii.gz", "f.npz"
    )
    assert ran.code == 0, ran.err
    fields = [
        sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(name), sitk.sitkVectorFloat64))
        for name in ("to_a.mha", "to_b.nii.gz")
    ]
    points = np.random.default_rng(0).uniform(8.0, 22.0, (40, 3))
    lengths, gaps = [], []
    for point in points:
        there = np.array(fields[0].TransformPoint(point))
        lengths.append(np.linalg.norm(there - point))
        gaps.append(np.linalg.norm(np.array(fields[1].TransformPoint(there)) - point))
    assert max(gaps) < 0.05 * 1.5 < 0.2 * max(lengths)
    with np.load("f.npz") as file:
        assert file["inverse"].shape == file["displacement"].shape == (3, 20, 24, 22)
    assert "does not hold" in one_sentence(run(*words, "--transform", "m.tfm", "-o", "x.nii.gz"))


IMAGE = textured()[0, 0]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: it.register(IMAGE, IMAGE, stages=("bending", *FIELD)), "one of them"),
        (lambda: it.register(IMAGE, IMAGE, stages=(*FIELD, "affine")), "not in the order"),
        (lambda: Exponential((3, 8, 8)), "velocities.*got"),
        (lambda: Exponential((2, 8, 8), squarings=-1), "squarings"),
    ],
)
def test_bad_input_is_one_sentence(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_labels_in_place_of_images_are_noted() -> None:
    labels = torch.zeros(40, 40, dtype=torch.int16)
    labels[10:25, 8:30], labels[15:20, 12:22] = 1, 3
    pair = labels, labels.roll(1, 0)
    notes = it.register(*pair, stages=("translation",)).notes
    assert any("the moving image and the fixed image look like labels" in note for note in notes)
    picture = (1000 * (IMAGE - IMAGE.min())).to(torch.int16)
    assert not it.register(picture, picture.roll(1, 0), stages=("translation",)).notes
