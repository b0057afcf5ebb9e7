"""A detector narrower than the object."""

from __future__ import annotations

import math

import pytest
import torch

import invtoolbox as it
from invtoolbox.datasets import Geometry, Measurement
from invtoolbox.processing import crop_detector, extend_truncated


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
