"""Every mistake is named in one sentence, and the same data without the mistake raise no alarm."""

from __future__ import annotations

import math
import warnings

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError, MeasurementWarning
from invtoolbox.measurements import Finding, check_measurements, register
from invtoolbox.operators import ConeBeam, FanBeam, ParallelBeam, ParallelBeam3D
from invtoolbox.operators.noise import RelativeGaussian


class PluggedOperator(it.operators.Identity):
    """Operator of a plug-in that has a check of its own."""


TURN = torch.arange(60, dtype=torch.float64) * (2 * math.pi / 60)
NOISE = RelativeGaussian(0.01)


def phantom(size: int = 64) -> Tensor:
    """Return ellipses of a body, ``(1, 1, size, size)``, without any symmetry."""
    row, column = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    image = torch.zeros(size, size)
    for value, y, x, a, b in (
        (0.02, 0.05, -0.02, 0.7, 0.55),
        (-0.012, -0.2, 0.2, 0.25, 0.15),
        (0.02, 0.3, -0.25, 0.12, 0.18),
        (0.03, -0.35, -0.3, 0.08, 0.06),
    ):
        image += value * (((row - y) / a) ** 2 + ((column - x) / b) ** 2 < 1)
    return image[None, None]


def parallel(angles: Tensor = TURN / 2, cells: int = 96, **settings: float) -> ParallelBeam:
    return ParallelBeam((64, 64), angles, cells, **settings)


def fan(angles: Tensor = TURN, cells: int = 96, **settings: float) -> FanBeam:
    settings = {"detector_spacing": 1.5, "source_detector": 260.0, **settings}
    return FanBeam((64, 64), angles, cells, 160.0, **settings)


def names(
    y: Tensor, A: it.operators.Operator, D: it.data_terms.DataTerm | None = None
) -> list[str]:
    found = check_measurements(it.Problem(y, A, D))
    assert all(f.sentence and "\n" not in f.sentence for f in found)
    return [f.name for f in found]


def sentence(y: Tensor, A: it.operators.Operator, D: it.data_terms.DataTerm | None = None) -> str:
    findings = check_measurements(it.Problem(y, A, D))
    (finding,) = (f for f in findings if f.name != "truncated")
    return finding.sentence


SCANS = {
    "parallel": parallel(),
    "parallel, full turn": parallel(TURN),
    "parallel, 20 views": parallel(TURN[::3] / 2),
    "parallel, off centre": parallel(detector_shift=5.0),
    "fan": fan(),
    "fan, 20 views": fan(TURN[::3]),
    "fan, curved": FanBeam((64, 64), TURN, 96, 160.0, 260.0, 1.0, 1.5, curved=True),
    "fan, short scan": fan(TURN[:40]),
    "fan, 60 degrees": fan(TURN[:10]),
    "fan, clockwise": fan(-TURN),
    "fan, closed": fan(torch.linspace(0, 2 * math.pi, 60, dtype=torch.float64)),
    "tomosynthesis": fan(torch.deg2rad(torch.linspace(-8, 8, 17))),
}


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("name", SCANS)
def test_right_data_raise_no_alarm(name: str, noise: float) -> None:
    A = SCANS[name]
    y = A.simulate(phantom(), RelativeGaussian(noise), seed=1)
    std = float((y - A(phantom())).std()) if noise else None
    remarks = ["arc"] if name in ("fan, 60 degrees", "tomosynthesis") else []
    assert names(y, A, it.data_terms.LeastSquares(std)) == remarks


@pytest.mark.filterwarnings("ignore:the field of view")
def test_an_object_wider_than_the_detector_is_a_remark_and_no_alarm() -> None:
    vectors = ConeBeam((6, 64, 64), TURN, (8, 48), 160.0, 260.0, 1.0, 1.5).vectors
    panel = ConeBeam.from_vectors((6, 64, 64), vectors, (8, 48))
    for A in (parallel(cells=44), parallel(TURN, cells=44), fan(cells=48), panel):
        truth = (
            phantom() if len(A.domain_shape) == 3 else phantom()[:, :, None].expand(1, 1, 6, 64, 64)
        )
        (finding,) = check_measurements(it.Problem(A.simulate(truth, NOISE, seed=1), A))
        assert finding.name == "truncated" and finding.is_remark
    # In a full turn, the far side of a panel sees what the near side cuts off.
    half = FanBeam((64, 64), TURN, 60, 160.0, 260.0, 1.0, 1.5, detector_shift=24.0)
    assert names(half.simulate(phantom(), NOISE, seed=1), half) == []


@pytest.mark.parametrize("A", [parallel(), parallel(TURN), fan()])
def test_counts(A: it.operators.Operator) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(2000 * torch.exp(-A(phantom())), generator=generator)
    (finding,) = check_measurements(it.Problem(counts, A))
    assert finding.is_fatal and "counts of photons" in finding.sentence
    with pytest.raises(InputError, match="not like line integrals"):
        it.reconstruct(counts, A, progress=False)
    assert "-log(y)" in sentence(counts / 2000, A)
    assert names(counts, A, it.data_terms.PoissonTransmission(2000.0)) == []


@pytest.mark.parametrize("shift", [-2.0, 3.0, 9.0])
@pytest.mark.parametrize("make", [parallel, lambda **k: parallel(TURN, **k), fan])
def test_shifted_axis(make: type, shift: float) -> None:
    y = make(detector_shift=shift).simulate(phantom(), NOISE, seed=0)
    text = sentence(y, make())
    assert text.startswith("the axis of rotation projects to cell")
    found = float(text.split("detector_shift = ")[1].split(" ")[0])
    assert abs(found - shift) < 0.3
    assert names(y, make(detector_shift=shift)) == []


@pytest.mark.filterwarnings("ignore:the field of view")
def test_shifted_axis_of_a_truncated_scan() -> None:
    y = parallel(cells=44, detector_shift=3.0).simulate(phantom(), NOISE, seed=0)
    text = sentence(y, parallel(cells=44))
    assert abs(float(text.split("detector_shift = ")[1].split(" ")[0]) - 3) < 0.3


@pytest.mark.parametrize("kind", ["cone", "parallel"])
def test_shifted_axis_of_a_panel(kind: str) -> None:
    def scan(shift: float) -> it.operators.Operator:
        if kind == "cone":
            return ConeBeam(
                (6, 64, 64), TURN, (8, 96), 160.0, 260.0, 1.0, 1.5, detector_shift=(shift, 0.0)
            )
        return ParallelBeam3D((6, 64, 64), TURN / 2, (6, 96), detector_shift=(shift, 0.0))

    x = phantom()[:, :, None].expand(1, 1, 6, 64, 64).contiguous()
    y = scan(4.0).simulate(x, NOISE, seed=0)
    assert names(y, scan(4.0)) == []
    assert "the first number of detector_shift = " in sentence(y, scan(0.0))


def test_a_shift_of_the_wrong_sign() -> None:
    y = parallel(detector_shift=4.0).simulate(phantom(), NOISE, seed=0)
    assert "seems to be reversed" in sentence(y, parallel(detector_shift=-4.0))


@pytest.mark.parametrize("make", [parallel, fan])
def test_units_of_angles(make: type) -> None:
    right = make()
    y = right.simulate(phantom(), NOISE, seed=0)
    assert "converted once too often" in sentence(y, make(torch.deg2rad(right.angles)))
    few = torch.linspace(-6, 6, 25)
    y = make(torch.deg2rad(few)).simulate(phantom(), NOISE, seed=0)
    assert "torch.deg2rad(angles)" in sentence(y, make(few))


@pytest.mark.parametrize("make", [lambda a: parallel(a), lambda a: fan(a)])
def test_the_end_of_a_turn(make: type) -> None:
    opened, closed = TURN, torch.linspace(0, 2 * math.pi, 60, dtype=torch.float64)
    y = make(opened).simulate(phantom(), NOISE, seed=0)
    assert "end one step earlier" in sentence(y, make(closed))
    y = make(closed).simulate(phantom(), NOISE, seed=0)
    assert "the last view repeats the first" in sentence(y, make(opened))


def test_the_end_of_half_a_turn() -> None:
    many = torch.arange(120, dtype=torch.float64) * (math.pi / 120)
    closed = torch.linspace(0, math.pi, 120, dtype=torch.float64)
    assert "end one step earlier" in sentence(parallel(many)(phantom()), parallel(closed))
    assert "the last view repeats" in sentence(parallel(closed)(phantom()), parallel(many))


@pytest.mark.filterwarnings("ignore:the field of view")
@pytest.mark.parametrize("factor", [2.0, 1.6, 1 / 1.6, 1.15])
def test_detector_spacing_of_a_fan(factor: float) -> None:
    y = fan().simulate(phantom(), NOISE, seed=0)
    text = sentence(y, fan(detector_spacing=1.5 * factor))
    assert abs(float(text.split("detector_spacing (")[1].split(" ")[0]) - 1.5) < 0.12


def test_an_object_beyond_the_image() -> None:
    y = parallel().simulate(phantom(), NOISE, seed=0)
    small = ParallelBeam((24, 24), TURN / 2, 96)
    assert "reaches beyond the image" in sentence(y, small)


def test_a_reversed_detector_of_a_fan() -> None:
    y = fan().simulate(phantom(), NOISE, seed=0)
    assert "runs the other way" in sentence(y.flip(-1), fan())
    assert "runs the other way" in sentence(y, fan(-TURN))


@pytest.mark.filterwarnings("ignore:the field of view")
@pytest.mark.parametrize("make", [parallel, fan])
def test_a_transposed_sinogram(make: type) -> None:
    A = make(cells=60, **({} if make is parallel else {"detector_spacing": 2.4}))
    y = A.simulate(phantom(), NOISE, seed=0)
    assert names(y, A) == []
    assert "axes are exchanged" in sentence(y.transpose(-1, -2), A)
    with pytest.raises(InputError, match="axis 2"):
        it.Problem(parallel()(phantom()).transpose(-1, -2), parallel())


@pytest.mark.parametrize(
    ("stated", "text"), [(2.55, "0.01 would fit"), (0.1, "times the noise"), (0.01, None)]
)
def test_the_noise_level_of_a_picture(stated: float, text: str | None) -> None:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (128, 128))
    y = A.simulate(it.datasets.photograph("camera")[..., ::4, ::4], noise=0.01, seed=0)
    D = it.data_terms.LeastSquares(noise_std=stated)
    assert names(y, A, D) == [] if text is None else text in sentence(y, A, D)
    if text is None:  # a picture of 8 bits with the noise of one in [0, 1]
        assert "2.55 would fit" in sentence(255 * y, A, D)


def test_the_noise_level_of_scattered_pixels_raises_no_alarm() -> None:
    """Half of the pixels are known, so no window of 4 by 4 is whole and nothing is estimated."""
    mask = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    A = it.operators.Inpainting(mask, (1, 32, 32))
    y = A.simulate(it.datasets.photograph("camera")[..., 80:112, 200:232], noise=0.02, seed=0)
    assert names(y, A, it.data_terms.LeastSquares(noise_std=0.02)) == []
    assert "larger than every" in sentence(y, A, it.data_terms.LeastSquares(noise_std=2.0))


def test_samples_that_were_not_taken() -> None:
    y = it.operators.Fourier((1, 64, 64))(phantom().to(torch.complex64))
    mask = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.3
    assert "exactly zero" in sentence(y * mask, it.operators.Fourier((1, 64, 64)))
    assert "exactly zero" in sentence(
        y * mask, it.operators.CartesianMRI(torch.ones(1, 1), (64, 64))
    )
    for D in (None, it.data_terms.Exact()):
        assert names(y * mask, it.operators.CartesianMRI(mask, (64, 64)), D) == []


def test_an_unused_page(tmp_path: object) -> None:
    from invtoolbox.measurements import report_unused_pages

    np.save(f"{tmp_path}/stack.npy", np.zeros((5, 8, 8), np.float32))
    opened = it.datasets.open(f"{tmp_path}/stack.npy")
    with pytest.warns(MeasurementWarning, match="5 pages, and only page 0 is used"):
        report_unused_pages(opened, "stack.npy", "choose one")


def test_unused_detector_rows(tmp_path: object) -> None:
    """A scan of a parallel beam has one sinogram per row, and one is reconstructed by default."""
    from invtoolbox.measurements import report_unused_pages

    with h5py.File(f"{tmp_path}/scan.h5", "w") as file:
        data = np.full((12, 3, 16), 900, np.uint16)
        data[..., 5:11] = 500
        file["exchange/data"] = data
        file["exchange/data_white"] = np.full((2, 3, 16), 1000, np.uint16)
        file["exchange/data_dark"] = np.zeros((2, 3, 16), np.uint16)
        file["exchange/theta"] = np.arange(12) * 15.0
    opened = it.datasets.open(f"{tmp_path}/scan.h5")
    with pytest.warns(MeasurementWarning, match="3 detector rows, and only .* --items all"):
        report_unused_pages(opened, "scan.h5", "choose one")


def test_findings_are_warnings_and_notes_once() -> None:
    A = parallel()
    y = parallel(detector_shift=3.0).simulate(phantom(), NOISE, seed=0)
    with pytest.warns(MeasurementWarning) as seen:
        solution = it.reconstruct(y, A, "tikhonov", regularization=1.0, progress=False)
    assert len(seen) == 1
    assert [n for n in solution.notes if n == str(seen[0].message)] == [str(seen[0].message)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", MeasurementWarning)
        it.solve(it.Problem(y, A), "tikhonov", max_iterations=1, progress=False, check=False)


def test_a_short_arc_is_a_note_and_no_warning() -> None:
    A = fan(TURN[:10])
    solution = it.solve(it.Problem(A(phantom()), A), "tikhonov", max_iterations=1, progress=False)
    assert any("determine only edges" in note for note in solution.notes)

    @register(PluggedOperator)
    def remark(subject: object) -> Finding:
        return Finding("remark", "nothing is wrong", is_remark=True)

    problem = it.Problem(torch.ones(1, 1, 4), PluggedOperator((1, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", MeasurementWarning)
        solution = it.solve(problem, "tikhonov", max_iterations=1, progress=False)
    assert "nothing is wrong" in solution.notes


def test_checks_change_nothing_and_take_their_kind_only() -> None:
    A = fan()
    y = A.simulate(phantom(), NOISE, seed=0)
    before = y.clone()
    check_measurements(it.Problem(y, A))
    assert torch.equal(y, before)
    from invtoolbox.measurements import findings

    size = len(findings._CHECKS)
    try:
        register(it.operators.Blur)(lambda subject: Finding("blur", "too blurred"))
        blur = it.operators.Blur(torch.ones(1, 3) / 3, (8, 8))
        assert names(torch.ones(1, 1, 8, 8), blur) == ["blur"]
        assert names(y, A) == []
    finally:
        del findings._CHECKS[size:]


def test_stacked_measurements_are_checked_one_by_one() -> None:
    A = it.operators.stack([parallel(), fan()])
    y = (parallel(detector_shift=3.0)(phantom()), fan()(phantom()))
    D = it.data_terms.Stack(it.data_terms.LeastSquares(), it.data_terms.LeastSquares())
    assert [f.name for f in check_measurements(it.Problem(y, A, D))] == ["axis"]


def test_report() -> None:
    y = fan(detector_shift=3.0).simulate(phantom(), NOISE, seed=0)
    report = it.data_report(it.Problem(y, fan()))
    assert report.stated_axis == 47.5 and report.axis is not None
    assert abs(report.axis - 45.5) < 0.1 and report.findings[0].name == "axis"
    text = str(report)
    assert "cell 47.50 by the geometry; 45.5" in text and "not stated" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_warning_names_the_line_of_the_user() -> None:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (64, 64))
    y = A.simulate(it.datasets.photograph("camera")[..., ::8, ::8], 0.01, seed=0)
    settings = {"regularization": 1.0, "max_iterations": 1, "progress": False}
    with pytest.warns(MeasurementWarning) as seen:
        it.solve(
            it.Problem(y, A, it.data_terms.LeastSquares(2.55)), it.priors.Tikhonov(), **settings
        )
        it.reconstruct(y, A, prior="tikhonov", noise_std=2.55, **settings)
    assert [warning.filename for warning in seen] == [__file__] * 2


def test_an_offset_detector_is_no_wrong_spacing() -> None:
    """Its opposite rays lie near the axis, where noise hides the fan angle."""
    from tests.operators.scan_helpers import cells, chords, fan_distance, turn

    count, shift = 40, 24.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        A = FanBeam(
            (56, 56),
            turn(90, 0.2),
            count,
            150.0,
            225.0,
            detector_spacing=1.5,
            detector_shift=shift,
        )
    gamma = (cells(count, 1.5, shift) / 225.0).atan()
    discs = [((0.0, 0.0), 25.0, 1.0), ((8.0, -9.0), 6.0, 0.5), ((-6.0, 10.0), 7.0, -0.4)]
    parts = [v * chords(fan_distance(A.angles, gamma, 150.0, c), r) for c, r, v in discs]
    y = torch.stack(parts).sum(0)
    y = y + 2.0 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).double()
    findings = check_measurements(it.Problem(y.float()[None, None], A))
    assert not [f for f in findings if f.name in ("spacing", "reversed")]


@pytest.mark.parametrize("make", [parallel, fan])
def test_half_a_turn_that_is_given_as_a_full_one(make: type) -> None:
    right = make()
    angles = right.angles - right.angles[0]
    steps = angles.diff().median()
    is_half = float(angles[-1] + steps) < 4
    wrong = angles * (2 if is_half else 0.5)
    y = right.simulate(phantom(), NOISE, seed=0)
    assert "turn" not in names(y, right)
    assert "turn" in names(y, make(angles=wrong))
