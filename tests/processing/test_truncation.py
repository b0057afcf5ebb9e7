"""A detector narrower than the object."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.datasets import Geometry, Measurement
from invtoolbox.measurements import check_measurements
from invtoolbox.processing import crop_detector, detector, extend_truncated


def disc(n: int = 96) -> torch.Tensor:
    line = torch.arange(n) - (n - 1) / 2
    radius = torch.hypot(line[:, None], line[None, :])
    return (
        (radius < 40).float()
        + 0.5 * (torch.hypot(line[:, None] - 6, line[None, :] + 5) < 8).float()
    )[None, None]


@pytest.mark.filterwarnings("ignore:the field of view")
def test_the_inside_of_a_truncated_scan_becomes_usable() -> None:
    angles = tuple(k * math.pi / 120 for k in range(120))
    g = Geometry(
        "parallel", angles=angles, num_detectors=139, image_shape=(96, 96), detector_shift=0.3
    )
    whole = Measurement(g.operator()(disc()), g)
    narrow = crop_detector(
        whole, 45, 94
    )  # sees 24 pixels around the axis of an object of radius 40
    line = torch.arange(96) - 47.5
    inside = torch.hypot(line[:, None], line[None, :]) < 21
    errors = {}
    for name, scan in (("cut", narrow), ("extended", extend_truncated(narrow)), ("whole", whole)):
        assert scan.geometry is not None
        x = scan.geometry.operator().pseudo_inverse(scan.y)
        errors[name] = float((x - disc())[0, 0][inside].square().mean().sqrt())
    assert errors["extended"] < 0.35 * errors["cut"]
    assert errors["whole"] < errors["extended"]


def test_what_was_measured_stays_where_it_was() -> None:
    g = Geometry(
        "parallel", angles=(0.0, 1.0), num_detectors=9, image_shape=(4, 4), detector_shift=0.5
    )
    y = torch.rand(1, 1, 2, 9)
    longer = extend_truncated(Measurement(y, g), 3)
    assert torch.equal(longer.y[..., 3:-3], y)
    assert longer.geometry is not None and longer.geometry.axis_column == g.axis_column + 3
    with pytest.raises(it.InputError, match=r"cells of extend_truncated must lie in \[1, 8\]"):
        extend_truncated(Measurement(y, g), 9)


@pytest.mark.filterwarnings("ignore:the field of view")
def test_every_scan_is_extended_by_its_operator() -> None:
    """A wide object in front of a narrow panel: less than half the error of the views as they are."""
    angles = torch.arange(90) * (2 * math.pi / 90)
    ball = torch.zeros(1, 1, 12, 48, 48)
    line = torch.arange(48) - 23.5
    ball[..., torch.hypot(line[:, None], line[None, :]) < 19] = 1.0
    inside = torch.hypot(line[:, None], line[None, :]) < 8
    wide: list[tuple[torch.Tensor, Any]] = [
        (ball, it.operators.ConeBeam((12, 48, 48), angles, (14, 64), 200.0, 240.0)),
        (ball[:, :, 0], it.operators.FanBeam((48, 48), angles, 64, 200.0, 240.0)),
        (ball, it.operators.ParallelBeam3D((12, 48, 48), angles[:45], (14, 64))),
    ]
    for x, A in wide:
        y, n = A(x), 20
        narrow = A.widen(-n)
        cut = y[..., n:-n]
        assert narrow.range_shape == cut.shape[1:]
        longer, extended = extend_truncated(cut, n, operator=narrow)
        assert longer.shape == y.shape and extended.range_shape == A.range_shape
        errors = [
            float((B.pseudo_inverse(values) - x)[..., inside].abs().mean())
            for B, values in ((narrow, cut), (extended, longer))
        ]
        assert errors[1] < 0.5 * errors[0], (A, errors)
        findings = check_measurements(it.Problem(cut, narrow))
        assert "truncated" in {finding.name for finding in findings}
        assert "truncated" not in {finding.name for finding in check_measurements(it.Problem(y, A))}
    vectors = it.operators.ConeBeam.from_vectors((12, 48, 48), wide[0][1].vectors, (14, 64))
    y = vectors(ball)[..., 20:-20]
    longer, extended = extend_truncated(y, operator=vectors.widen(-20))
    assert longer.shape[-1] == 48 and torch.allclose(extended.vectors, vectors.vectors)
    with pytest.raises(it.InputError, match="needs the operator of a tensor"):
        extend_truncated(y)  # type: ignore[call-overload]


@pytest.mark.filterwarnings("ignore:the field of view")
@pytest.mark.parametrize("share", [0.15, 0.3])
def test_the_extension_reaches_as_far_as_the_object(share: float) -> None:
    """An ellipse with inclusions: its total beyond the detector, and 1.5 times the error of the whole detector."""
    side, line = 64, torch.arange(64) - 31.5
    y, x = line[:, None] / 32, line[None, :] / 32
    image = 0.02 * ((x / 0.92) ** 2 + (y / 0.8) ** 2 <= 1).float()
    for cx, cy, a, b, value in ((0.2, 0.3, 0.2, 0.1, 0.6), (-0.4, -0.1, 0.1, 0.25, -0.4)):
        image += 0.02 * value * (((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 <= 1)
    angles = torch.arange(100) * (2 * math.pi / 100)
    cells = 100
    A = it.operators.FanBeam((side, side), angles, cells, 256.0, 384.0, 1.0, 1.5)
    whole = A.simulate(image[None, None], noise=0.01, seed=1)
    cut = (cells - round((1 - share) * 0.92 * side)) // 2
    longer, extended = extend_truncated(whole[..., cut:-cut].contiguous(), operator=A.widen(-cut))
    added = (longer.shape[-1] - (cells - 2 * cut)) // 2
    ends = [longer[..., :added].sum() + longer[..., -added:].sum()]
    ends.append(whole[..., :cut].sum() + whole[..., -cut:].sum())
    assert 0.6 < float(ends[0] / ends[1]) < 1.7
    inside = torch.hypot(line[:, None], line[None, :]) < (cells - 2 * cut) / 2 - 1
    errors = [
        float((B.pseudo_inverse(values) - image)[..., inside].square().mean().sqrt())
        for B, values in ((A, whole), (extended, longer))
    ]
    assert errors[1] < 1.5 * errors[0], errors


@pytest.mark.filterwarnings("ignore:the field of view")
def test_inclusions_do_not_mislead_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies with twelve ellipses: fits without the inclusions bring the worst of five near the whole detector."""
    line = (torch.arange(64) - 31.5) / 32
    y, x = line[:, None], line[None, :]
    inside = torch.hypot(x, y) < 0.56
    angles = torch.arange(100) * (2 * math.pi / 100)
    A = it.operators.FanBeam((64, 64), angles, 100, 256.0, 384.0, 1.0, 1.5)
    ratios: dict[int, list[float]] = {0: [], 2: []}
    for seed in (200, 202, 203, 204, 209):
        drawn = torch.rand(12, 5, generator=torch.Generator().manual_seed(seed)).tolist()
        image = ((x / 0.92) ** 2 + (y / 0.88) ** 2 <= 1).float()
        for cx, cy, a, b, value in drawn:
            u, v = (x - 1.2 * cx + 0.6) / (0.05 + 0.2 * a), (y - 1.2 * cy + 0.6) / (0.05 + 0.2 * b)
            image += (value - 0.4) * (u**2 + v**2 <= 1)
        image = 0.02 * image[None, None].clamp_min(0)
        whole = A.simulate(image, noise=0.01, seed=seed)
        few = whole[..., 30:-30].contiguous()
        of_whole = (A.pseudo_inverse(whole) - image)[..., inside].norm()
        for fits, of_fits in ratios.items():
            monkeypatch.setattr(detector, "_FITS", fits)
            longer, extended = extend_truncated(few, operator=A.widen(-30))
            of_fits.append(
                float((extended.pseudo_inverse(longer) - image)[..., inside].norm() / of_whole)
            )
    assert max(ratios[2]) < 1.3 and max(ratios[2]) < max(ratios[0]) - 0.1, ratios


@pytest.mark.filterwarnings("ignore:the field of view")
def test_a_wide_object_is_no_constant() -> None:
    """In every view and on both sides, a disc that is wider than the detector measures the same."""
    A = it.operators.ParallelBeam((96, 96), torch.arange(90) * math.pi / 90, 61)
    y = A.simulate(0.02 * disc(), noise=0.01, seed=0)
    assert {f.name for f in check_measurements(it.Problem(y, A))} == {"truncated"}
    wide = A.widen(30)
    constant = wide.simulate(0.02 * disc(), noise=0.01, seed=0) + 0.5
    assert "offset" in {f.name for f in check_measurements(it.Problem(constant, wide))}


def test_a_measurement_of_a_panel_is_extended() -> None:
    g = it.datasets.Geometry3D("parallel3d", (3, 9), (3, 4, 4), angles=(0.0, 1.0))
    y = torch.rand(1, 1, 2, 3, 9)
    longer: Any = extend_truncated(Measurement(y, g), 3)
    assert longer.geometry.detector_shape == (3, 15) and torch.equal(longer.y[..., 3:-3], y)
