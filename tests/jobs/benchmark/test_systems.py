"""Systems of tables: an item of each, whose truth has no error and whose simple answer has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.jobs.benchmark.case import Case
from invtoolbox.jobs.benchmark.systems import mri, registration, system_named
from invtoolbox.jobs.benchmark.systems.limited_angle import ArcRow
from invtoolbox.jobs.benchmark.systems.mri import ScanRow, SliceTable
from invtoolbox.jobs.benchmark.systems.normals import ObjectRow
from invtoolbox.jobs.benchmark.systems.pictures import PictureRow
from invtoolbox.jobs.benchmark.systems.registration import PairRow
from invtoolbox.jobs.benchmark.systems.scene_flow import StreetRow
from invtoolbox.jobs.benchmark.systems.tomography import SliceRow

NAMED: dict[str, Any] = {"name": "a", "reported_on": ["a"]}


def opened(system: str, row: Any, number: int = 0) -> Case:
    assert number < system_named(system).count(row)
    return system_named(system).open(row, number)


def score(case: Case, answer: Any) -> float:
    return next(iter(case.scores(answer).values()))


def test_pictures_count_kernels_and_have_noise_of_their_number(tmp_path: Path) -> None:
    truth = torch.rand(1, 1, 32, 32)
    it.datasets.write_png(tmp_path / "a.png", truth, (0.0, 1.0))
    row = PictureRow(**NAMED, path=str(tmp_path), noise=2.55)
    case = opened("pictures", row)
    y, physics = case.arguments()
    assert (y - truth).std() == pytest.approx(0.01, rel=0.1)
    assert float(physics.noise_model.sigma) == pytest.approx(0.01)
    assert torch.equal(case.simple(), y) and score(case, y) == pytest.approx(40, abs=0.6)
    with pytest.raises(InputError, match="not finite"):
        case.scores(torch.full_like(y, torch.nan))
    with pytest.raises(InputError, match="got str"):
        case.scores("an image")


@pytest.mark.data
def test_blurred_pictures_use_levins_kernels(data_dir: Path, tmp_path: Path) -> None:
    it.datasets.write_png(tmp_path / "a.png", torch.rand(1, 1, 32, 32), (0.0, 1.0))
    row = PictureRow(**NAMED, path=str(tmp_path), noise=2.55, kernels=[1, 4])
    assert opened("pictures", row, 1).label == "picture 1, kernel 4"


def test_slices_of_a_patient_are_reduced_and_scanned(tmp_path: Path) -> None:
    hu = np.full((3, 64, 64), -1000, np.int16)
    hu[:, 16:48, 20:40] = 40
    path = tmp_path / "slices.npz"
    np.savez(path, hu=hu, patient=["a", "b", "b"], pixel_mm=[1.0, 0.7, 0.8])
    row = SliceRow(**NAMED, path=str(path), patients=["b"], pixels=32, views=12, unit="1/mm")
    case = opened("tomography", row, 1)
    y, physics = case.arguments()
    assert case.label == "b slice 2" and y.shape == (1, 1, 12, 48)
    assert physics.operator.pixel_size == pytest.approx((1.6, 1.6))
    water = 1.04 * 0.0193
    assert score(case, physics.operator.pseudo_inverse(y)) > 10
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8:24, 10:20] = water
    assert score(case, truth) > 100
    with pytest.raises(InputError, match="the patient a has 1 slices, and 2 are asked for"):
        opened("tomography", row.model_copy(update={"patients": ["a"]}))


@pytest.mark.data
def test_arcs_are_cut_out_of_a_full_scan(data_dir: Path) -> None:
    row = ArcRow(**NAMED, discs=["ta"], degrees=20, starts=[0, 350])
    case = opened("limited_angle", row, 1)
    y = case.arguments()[0]
    assert y.shape[-2] == 41 and case.label == "disc ta from 350 degrees"
    truth = torch.from_numpy(case.truth)[None, None].float()
    assert score(case, truth) == pytest.approx(1.0)
    assert -1 <= score(case, case.simple()) < 0.9


def test_lines_of_k_space_leave_the_simple_answer_behind_the_truth(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    volume = np.random.default_rng(0).random((20, 24, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii")
    image = SliceTable(file=str(tmp_path / "a.nii"), index=2, coils=3, noise=0.01)
    row = ScanRow(**NAMED, acceleration=4, pixels=16, images=[image])
    case = opened("mri", row)
    y, physics = case.arguments()
    assert y.shape == (1, 3, 16, 16) and y.is_complex()
    taken = physics.operator.sampled[0, 0].expand(y.shape[1:]) > 0
    assert taken.float().mean() == pytest.approx(0.25)
    assert bool((y[0][~taken] == 0).all())
    assert 5 < score(case, case.simple()) < 40
    far = image.model_copy(update={"index": 99})
    with pytest.raises(InputError, match="slice 99 is asked for"):
        opened("mri", row.model_copy(update={"images": [far]}))


def test_coils_are_normalized_and_lines_hold_the_middle() -> None:
    maps = mri.ring_of_coils((8, 10), 4)
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(8, 10))
    taken = mri.random_lines((100, 100), 4, 0)[:, 0]
    assert bool(taken[46:54].all()) and int(taken.sum()) == 25


def test_a_plane_is_integrated_up_to_its_scale(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "plane"
    folder.mkdir()
    flat = np.full((12, 14, 3), 128, np.uint8)
    flat[..., 2] = 255
    Image.fromarray(flat).save(folder / "normal_map.png")
    Image.fromarray(np.full((12, 14), 255, np.uint8)).save(folder / "mask.png")
    np.savetxt(folder / "K.txt", [[50.0, 0, 7], [0, 50, 6], [0, 0, 1]])
    np.savez(folder / "depth_gt.npz", depth=np.full((12, 14), 300.0))
    case = opened("normals", ObjectRow(**NAMED, path=str(tmp_path), objects=["plane"]))
    assert score(case, np.full((12, 14), 7.0)) == pytest.approx(0, abs=1e-9)
    # 128 of 255 is 0.002 off zero.
    assert score(case, case.simple()) < 1.0
    assert score(case, case.solve("bilateral", None, "none")[0]) < 1.0
    tilted = np.full((12, 14), 300.0)
    tilted[:, 7:] += 3
    assert score(case, tilted) == pytest.approx(1.5, rel=0.05)


def test_the_flow_of_a_street_is_measured_by_class_and_range() -> None:
    row = StreetRow(**NAMED, seeds=[900], sources=[8], points=4000)
    case = opened("scene_flow", row)
    source, target = case.arguments()
    assert source.labels is None and target.labels is None
    street = it.simulation.street(sweeps=42, seed=900, points=4000)
    truth = street[8].labels.flow
    exact, nothing = case.scores(truth), case.scores(case.simple())
    assert exact["bucketed EPE"] == pytest.approx(0, abs=1e-3)
    assert nothing["bucketed EPE"] == pytest.approx(1, abs=1e-3)
    assert {"EPE of CAR", "EPE, 35 to 50 m", "static [m]"} <= set(exact)
    picture = case.picture(truth)
    assert picture is not None and np.array_equal(picture, case.truth) and picture.max() > 0.3
    still = case.picture(case.simple())
    # The residual of the simple answer is zero up to rounding.
    assert still is not None and still.max() == pytest.approx(0.3, abs=1e-4)
    with pytest.raises(InputError, match="the flow of every point must have the shape"):
        case.scores(truth[1:])


def test_a_heart_is_moved_back_by_the_inverse_of_its_motion() -> None:
    rows, columns = np.mgrid[:64, :64]
    fade = np.exp(-(((rows - 32) ** 2 + (columns - 32) ** 2) / 300.0))
    u = np.stack([2.0 * fade, -1.0 * fade])
    muscle = (np.hypot(rows - 32, columns - 32) < 16) & (np.hypot(rows - 32, columns - 32) > 9)
    moving, fixed = registration.move_back(registration.heart_picture(muscle, 0), u, 0.03, 0)
    warped = it.operators.Warp(torch.from_numpy(u)[None].float())(moving[None, None])
    apart, together = (x - fixed for x in (moving, warped[0, 0]))
    assert together.square().mean() < 0.3 * apart.square().mean()


def test_rings_have_a_known_motion() -> None:
    case = opened("registration", PairRow(**NAMED, kind="ring", seeds=[3]))
    truth = it.simulation.beating_ring.simulate_ring(3).displacement
    assert score(case, truth) == 0 and 2 < score(case, case.simple()) < 5


@pytest.mark.data
def test_a_heart_without_frames_is_refused(data_dir: Path) -> None:
    with pytest.raises(InputError, match="needs the key frames"):
        system_named("registration").count(PairRow(**NAMED, kind="heart", seeds=[0]))
