"""Faults of a detector, offsets and beams of another kind are named, and right scans raise no alarm."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import MeasurementWarning
from invtoolbox.jobs.images.decisions import order
from invtoolbox.jobs.images.decisions.bad_readings import BadReadings
from invtoolbox.measurements import check_measurements, repair_measurements
from invtoolbox.measurements.detector import find_bad_readings, share_of_gains, sinograms
from invtoolbox.measurements.findings import Finding
from invtoolbox.operators import ConeBeam, FanBeam
from invtoolbox.operators.noise import RelativeGaussian
from tests.jobs.images.decisions.helpers import case_of, mended
from tests.measurements.test_mistakes import NOISE, TURN, fan, parallel, phantom

VIEWS = torch.arange(90, dtype=torch.float64) * (2 * math.pi / 90)


def names(
    y: Tensor, A: it.operators.Operator, D: it.data_terms.DataTerm | None = None
) -> list[str]:
    return [f.name for f in check_measurements(it.Problem(y, A, D)) if not f.is_remark]


def measured(A: it.operators.Operator, seed: int = 1) -> Tensor:
    return A.simulate(2 * phantom(), NOISE, seed=seed)


def with_fault(y: Tensor, fault: str) -> Tensor:
    y, draw = y.clone(), torch.Generator().manual_seed(0)
    if fault == "dead":
        y[..., 40] = 0
    elif fault == "hot":
        y[torch.rand(y.shape, generator=draw) < 0.01] = 1.5 * y.max()
    elif fault == "clipped":
        y = y.clamp_max(float(y.flatten().quantile(0.98)))
    elif fault == "gains":
        y = y - torch.log1p(0.05 * torch.randn(y.shape[-1], generator=draw))
    elif fault == "offset":
        y = y + 0.1 * y.max()
    elif fault == "sign":
        y = -y
    return y


@pytest.mark.parametrize("A", [parallel(), parallel(TURN), fan(), fan(TURN[:40])], ids=str)
@pytest.mark.parametrize("fault", ["dead", "hot", "clipped", "gains", "offset", "sign"])
def test_faults_are_named(A: it.operators.Operator, fault: str) -> None:
    y = measured(A)
    assert names(y, A) == []
    assert names(with_fault(y, fault), A) == [fault]


def test_bad_readings_are_found_one_by_one_and_per_item() -> None:
    A = fan()
    y = torch.cat([measured(A), with_fault(measured(A, 2), "hot")])
    dead, hot, clipped = find_bad_readings(sinograms(y, A))
    assert not bool(dead.any()) and not bool(hot[0].any()) and not bool(clipped[0].any())
    truth = (y[1] == y[1].max())[0]
    assert bool((hot[1][truth]).all()) and int((hot[1] & ~truth).sum()) <= 1
    alone = find_bad_readings(sinograms(y[1:], A))
    assert torch.equal(alone[1][0], hot[1])


def test_rings_around_the_axis_are_no_dead_cells_and_hide_none() -> None:
    A = parallel(TURN[:60] / 2)
    side = A.domain_shape[-1]
    v, u = torch.meshgrid(*[torch.arange(side) - (side - 1) / 2] * 2, indexing="ij")
    radius = torch.hypot(u, v) / (side / 2)
    x = ((radius > 0.5) & (radius < 0.56)).float() + (radius < 0.8).float()
    y = A.simulate(x[None, None], 0.01, seed=1)
    assert not bool(find_bad_readings(sinograms(y, A))[0].any())
    y[..., 40] = 0
    dead = find_bad_readings(sinograms(y, A))[0]
    assert dead.any(1)[0].nonzero().flatten().tolist() == [40]


def test_two_dead_cells_on_both_sides_of_the_axis_are_no_ring() -> None:
    A = parallel(TURN[:60] / 2)
    side = A.domain_shape[-1]
    v, u = torch.meshgrid(*[torch.arange(side) - (side - 1) / 2] * 2, indexing="ij")
    x = (torch.hypot(u, v) < 0.35 * side).float()
    y = A.simulate(x[None, None], 0.01, seed=1)
    cells = [40, y.shape[-1] - 1 - 40]
    y[..., cells] = 0
    dead = find_bad_readings(sinograms(y, A))[0]
    assert dead.any(1)[0].nonzero().flatten().tolist() == sorted(cells)


def test_a_fact_is_apart_from_what_to_do() -> None:
    A = fan()
    fact = "1 cells of the detector are dead or of another gain, 1.04% of the measurements, which no image explains"
    (finding,) = check_measurements(it.Problem(with_fault(measured(A), "dead"), A))
    assert finding == Finding(
        "dead",
        f"{fact}; give them weight 0 (the step repairs, or repair=True of it.solve)",
        fact=fact,
    )


def test_repairs_are_weights_and_leave_nothing_to_find() -> None:
    A = fan()
    y = with_fault(measured(A), "dead")
    problem, sentences = repair_measurements(it.Problem(y, A))
    weights = problem.data_term.weights
    assert len(sentences) == 1 and "1 cells" in sentences[0]
    assert float((weights == 0).float().mean()) == pytest.approx(1 / 96)
    assert not bool(weights[..., 40].any()) and torch.equal(problem.y, y)
    assert names(problem.y, A, problem.data_term) == []


@lru_cache
def sound_scan() -> tuple[it.operators.Operator, Tensor, Tensor, it.Solution]:
    """Return an operator, an image, its scan without faults, and the reconstruction of the scan."""
    A = FanBeam((40, 40), VIEWS[::2], 64, 100.0, 160.0, detector_spacing=1.4)
    x = 2 * phantom(40)
    y = A.simulate(x, NOISE, seed=1)
    return A, x, y, it.reconstruct(y, A, "tv", repair=True, progress=False)


# A dead cell takes the path of a hot one.
@pytest.mark.parametrize("fault", [pytest.param("dead", marks=pytest.mark.slow), "hot", "gains"])
def test_a_fault_does_not_decide_the_weight(fault: str) -> None:
    A, x, y, right = sound_scan()
    broken = with_fault(y, fault)
    assert not any("repaired" in note for note in right.notes)
    if fault == "gains":  # by default
        with pytest.warns(MeasurementWarning, match="gains of the cells were found and subtracted"):
            answer = it.reconstruct(broken, A, "tv", progress=False)
        assert any("automatic='-gains' keeps them" in note for note in answer.notes)
    else:
        answer = it.reconstruct(broken, A, "tv", repair=True, progress=False)
    assert any("repaired" in note for note in answer.notes)
    loss = it.metrics.psnr(right.x, x, data_range=0.08) - it.metrics.psnr(
        answer.x, x, data_range=0.08
    )
    assert float(loss) < (12.0 if fault == "gains" else 1.5)
    if fault == "gains":  # no prior knows which smooth part of the gains belongs to the object
        x_raw = it.solve(it.Problem(broken, A), "tv", progress=False, check=False).x
        raw = it.metrics.psnr(x_raw, x, data_range=0.08)
        assert float(it.metrics.psnr(answer.x, x, data_range=0.08) - raw) > 8
    assert 0.2 < float(answer.regularization / right.regularization) < 5


def rings(size: int) -> Tensor:
    """Return a disc whose density changes with every pixel of the distance to its centre."""
    axis = torch.arange(4 * size) / 4 - size / 2 + 0.375 - 0.25
    distance = torch.hypot(axis[:, None], axis)
    profile = 1 + 0.5 * torch.randn(size, generator=torch.Generator().manual_seed(3))
    fine = torch.where(distance < 0.45 * size, profile[distance.long().clamp_max(size - 1)], 0)
    return fine.view(size, 4, size, 4).mean((1, 3))[None, None] / size


@pytest.mark.parametrize("A", [parallel(), fan()], ids=str)
def test_rings_of_the_object_are_no_gains(A: it.operators.Operator) -> None:
    x = rings(A.domain_shape[-1])
    y = A.simulate(x, float(0.003 * A(x).max()), seed=0)
    assert float(share_of_gains(sinograms(y, A)).median()) > 0.06  # the cells do differ
    assert "gains" not in names(y, A)
    assert "gains" in names(with_fault(y, "gains"), A)


def mends(y: Tensor, A: it.operators.Operator) -> list[str]:
    """Return whether measurements are changed before a solve by default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = order._ask_all(order.MEND, [case_of(it.Problem(y, A))], order.off_words("all"))
    return ["as it was" if torch.equal(case.problem.y0, y) else "changed" for case in cases]


def test_gains_stay_if_something_else_is_wrong() -> None:
    A = fan()
    x = 2 * phantom()
    assert mends(with_fault(measured(A), "gains"), A) == ["changed"]
    assert mends(measured(A), A) == ["as it was"]
    # Another axis of rotation, and counts whose flat field is missing.
    shifted = FanBeam(
        A.image_shape, A.angles, 96, A.source_origin, A.source_detector,
        detector_spacing=A.detector_spacing, detector_shift=4 * A.detector_spacing,
    )  # fmt: skip
    assert mends(with_fault(shifted.simulate(x, NOISE, seed=1), "gains"), A) == ["as it was"]
    counts = (1e4 * (-with_fault(measured(A), "gains")).exp()).round()
    assert mends(counts, A) == ["as it was"]


def test_a_beam_of_another_kind() -> None:
    assert names(measured(fan()), parallel(TURN)) == ["beam"]
    assert names(measured(parallel(TURN)), fan()) == ["beam"]


@pytest.mark.parametrize("kind", ["centred", "smooth"])
@pytest.mark.parametrize("noise", [0.003, 0.02])
def test_bodies_that_show_no_fan_angle_raise_no_alarm(kind: str, noise: float) -> None:
    row, column = torch.meshgrid(*[torch.linspace(-1, 1, 64)] * 2, indexing="ij")
    x = torch.exp(-(row**2 + column**2) / 0.15)
    if kind == "smooth":
        x = torch.exp(-((row - 0.05) ** 2) / 0.2 - (column + 0.03) ** 2 / 0.15)
    A = FanBeam((64, 64), VIEWS, 96, 160.0, 260.0, detector_spacing=1.5)
    for seed in range(3):
        assert names(A.simulate(0.04 * x[None, None], RelativeGaussian(noise), seed), A) == []


@pytest.mark.parametrize(("rows", "cells", "views"), [(4, 16, 20), (4, 16, 40), (6, 20, 60)])
def test_noise_of_small_panels_raises_no_alarm(rows: int, cells: int, views: int) -> None:
    n = int(0.6 * cells)
    angles = torch.arange(views) * (2 * math.pi / views)
    A = ConeBeam((rows, n, n), angles, (rows, cells), 3.0 * n, 5.0 * n, 1.0, 1.8)
    x = torch.zeros(1, 1, rows, n, n)
    x[..., n // 4 : n // 2 + n // 5, n // 3 : 3 * n // 4] = 1
    y = A(x)
    std = 0.01 * float(y.max())
    y = y + std * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    assert "noise" not in names(y, A, it.data_terms.LeastSquares(std))


def test_logarithms_to_base_ten() -> None:
    A = parallel(torch.arange(180, dtype=torch.float64) * (math.pi / 180))
    counts = torch.poisson(
        5000 * torch.exp(-A(4 * phantom())), generator=torch.Generator().manual_seed(0)
    ).clamp_min(1)
    assert names(-(counts / 5000).log10(), A) == ["base"]
    assert names(-(counts / 5000).log(), A) == []


def test_counts_with_a_background_or_a_scale() -> None:
    A, draw = fan(), torch.Generator().manual_seed(0)
    mean = 100 * A(phantom()).clamp_min(0)
    y = torch.poisson(mean + 20, generator=draw)
    Poisson = it.data_terms.Poisson
    (finding,) = check_measurements(it.Problem(y, A, Poisson()))
    assert finding.name == "background"
    stated = float(finding.sentence.split("background=")[1].rstrip(")"))
    assert abs(stated - 20) < 1
    assert names(y, A, Poisson(20.0)) == []
    assert names(0.05 * y, A, Poisson(1.0)) == ["scaled"]


@pytest.mark.parametrize("views", [60, 90, 180])
def test_structure_between_views_is_no_noise(views: int) -> None:
    """The noise of many photons is small compared with what changes from view to view."""
    A = it.operators.FanBeam(
        (128, 128), torch.arange(views) * (2 * torch.pi / views), 192, 500.0, 800.0, pixel_size=0.66
    )
    clean = 1e5 * torch.exp(-A(it.datasets.ct_small("1/mm").y))
    y = torch.poisson(clean, generator=torch.Generator().manual_seed(0))
    term = it.data_terms.PoissonTransmission
    assert "scaled" not in names(y, A, term(1e5))
    # Structure only adds to the variance, so one that is too small is certain.
    assert ("scaled" in names(0.4 * y, A, term(4e4))) is (views > 60)


def test_only_readings_that_the_others_contradict_are_left_out_by_default() -> None:
    n = 64
    A = it.operators.ParallelBeam((n, n), torch.arange(60) * torch.pi / 60, 96)
    v = torch.arange(n) - (n - 1) / 2
    body = 0.02 * ((v / 26) ** 2 + (v[:, None] / 22) ** 2 < 1).float()
    y = A.simulate(body[None, None], 0.02, seed=0)
    faulty = torch.zeros_like(y, dtype=torch.bool)
    faulty[..., 40] = faulty[0, 0, 30, 50] = faulty[0, 0, 12, 60] = True
    broken = torch.where(faulty, 3 * y.max(), y)
    with pytest.warns(it.MeasurementWarning, match="left out: .*automatic='-bad-readings' keeps"):
        problem, notes = mended(BadReadings(), it.Problem(broken, A))
    assert len(notes) == 1 and torch.equal(problem.data_term.weights == 0, faulty)
    assert mended(BadReadings(), it.Problem(y, A))[1] == ()
    # Rays along a thin plate look hot, and the other rays show the plate.
    plate = body + 0.4 * ((v.abs() < 0.6) & (v[:, None].abs() < 20))
    y = A.simulate(plate[None, None], 0.02, seed=0)
    assert "hot" in [finding.name for finding in check_measurements(it.Problem(y, A))]
    assert mended(BadReadings(), it.Problem(y, A))[1] == ()


@pytest.mark.filterwarnings("ignore:.*2 cells of the detector are dead")
def test_a_dead_cell_costs_nothing_if_nothing_is_chosen() -> None:
    A = it.operators.ParallelBeam((48, 48), torch.arange(40) * torch.pi / 40, 72)
    x = torch.zeros(1, 1, 48, 48)
    x[..., 14:34, 12:30] = 0.05
    y = A.simulate(x, 0.02, seed=0)
    broken = y.clone()
    broken[..., 30] = 0.0

    def quality(measured: torch.Tensor, repair: bool | None) -> float:
        settings = {"regularization": 0.02, "max_iterations": 60, "progress": False}
        found = it.reconstruct(measured, A, "tv", repair=repair, **settings).x
        return float(it.metrics.psnr(found, x, data_range=0.05))

    clean = quality(y, None)
    assert quality(broken, None) > clean - 1.0 and quality(broken, False) < clean - 3.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int16])
def test_an_empty_scan_and_half_precision_are_measurements(dtype: torch.dtype) -> None:
    A = it.operators.ParallelBeam((16, 16), torch.arange(40) * math.pi / 40, 24)
    for y in (torch.zeros(1, 1, 40, 24), measured_squares(A)):
        problem = it.Problem(y.to(dtype), A)
        assert problem.y0.dtype == torch.float32
        assert check_measurements(problem) is not None


def measured_squares(A: it.operators.Operator) -> Tensor:
    x = torch.zeros(1, 1, 16, 16)
    x[..., 4:12, 5:9] = 1.0
    return A(x)


def test_a_scan_of_more_readings_than_torch_sorts_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit of torch is 2^24 values; here the sample is smaller than the scan."""
    A = fan()
    y = measured(A)
    before = names(y, A)
    monkeypatch.setattr("invtoolbox.core.reductions._MOST", 1000)
    assert names(y, A) == before == []
    assert names(with_fault(y, "dead"), A) == ["dead"]


def test_the_cap_of_an_ellipsoid_is_no_dead_cell() -> None:
    """Its peak lies in the middle of a few cells in every view, as it does for a real fault."""
    cap = torch.tensor([0.0, 0.616, 0.767, 0.616, 0.0])
    planes = torch.zeros(1, 46, 23)
    planes[..., 9:14] = cap
    planes += 0.002 * torch.randn(planes.shape, generator=torch.Generator().manual_seed(0))
    assert not bool(find_bad_readings(planes)[0].any())
    planes[..., 11] += 0.5
    assert find_bad_readings(planes)[0][0, 0].nonzero().flatten().tolist() == [11]


def test_the_top_of_a_bell_is_no_dead_cell() -> None:
    bell = [0.07, 0.29, 0.87, 1.89, 3.36, 5.22, 7.18, 8.22, 7.36, 4.95, 2.45, 0.87, 0.22]
    planes = torch.zeros(1, 25, 43)
    planes[..., 14:27] = torch.tensor(bell)
    planes += 0.01 * torch.randn(planes.shape, generator=torch.Generator().manual_seed(0))
    assert not bool(find_bad_readings(planes)[0].any())


def test_a_smooth_peak_of_one_of_few_views_is_not_hot() -> None:
    """Neighbouring views differ much, and neighbouring cells continue the peak."""
    cells, views = torch.arange(-26.0, 26.0), torch.arange(21) * (2 * math.pi / 21)
    draw, y = torch.Generator().manual_seed(4), torch.zeros(21, 52)
    for _ in range(4):
        distance, phase, width, height = torch.rand(4, generator=draw)
        centre = 20 * distance * torch.sin(views + 6.3 * phase)[:, None]
        y += (0.5 + height) * torch.exp(-(((cells - centre) / (1.5 + 4 * width)) ** 2))
    assert not bool(find_bad_readings(y[None])[1].any())
    y[8, 30] += 5.0
    assert find_bad_readings(y[None])[1][0].nonzero().tolist() == [[8, 30]]


def test_a_wide_object_with_noise_is_no_offset() -> None:
    """Its outermost rays change from view to view by less than the noise of a single view."""
    A, draw = parallel(TURN), torch.Generator().manual_seed(0)
    ends = torch.linspace(-1, 1, A.range_shape[-1]).square()
    y = 3 * (1 - ends / 3) * torch.ones(A.range_shape)[None]
    y = y + 0.3 * torch.randn(y.shape, generator=draw)
    steady = y.clone()
    y = y + 0.25 * torch.cos(2 * A.angles).view(1, 1, -1, 1)
    assert "offset" in names(steady, A)
    assert "offset" not in names(y, A)
