"""Binning, cropping and selecting: the new geometry sees the image as the old one did."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import invtoolbox as it
from invtoolbox.datasets import Geometry, Measurement, center_of_rotation
from invtoolbox.processing import bin_detector, crop_detector, select_views


def geometry(kind: str, **changes: object) -> Geometry:
    own: dict[str, object] = {
        "kind": kind,
        "angles": tuple(k * math.pi / 40 for k in range(40)),
        "num_detectors": 123,
        "image_shape": (48, 48),
        "detector_spacing": 0.6,
        "detector_shift": 1.7,
        "pixel_size": 1.0,
    }
    if kind == "fan":
        own |= {
            "source_origin": 200.0,
            "source_detector": 300.0,
            "detector_spacing": 1.0,
            "curved": True,
        }
    return Geometry(**{**own, **changes})  # type: ignore[arg-type]


def blob(n: int = 48) -> torch.Tensor:
    line = torch.arange(n) - (n - 1) / 2
    return 0.05 * torch.exp(-((line[:, None] + 5) ** 2 + (line - 7) ** 2) / 60)[None, None]


@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_a_cropped_detector_sees_the_same_rays(kind: str) -> None:
    g = geometry(kind)
    y = g.operator()(blob())
    cropped = crop_detector(Measurement(y, g, noise_std=0.1), 13, 101)
    assert (
        cropped.geometry is not None
        and cropped.noise_std == 0.1
        and cropped.meta["detector_cells"] == (13, 101)
    )
    torch.testing.assert_close(cropped.geometry.operator()(blob()), cropped.y, rtol=0, atol=1e-5)
    with pytest.raises(it.InputError, match=r"0\.\.123"):
        crop_detector(Measurement(y, g), 0, 124)


@pytest.mark.parametrize("kind", ["parallel", "fan"])
@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_a_binned_detector_lies_where_the_cells_lay(kind: str, factor: int) -> None:
    g = geometry(kind)
    y = g.operator()(blob())
    binned = bin_detector(Measurement(y, g, noise_std=0.1), factor, average="line integral")
    assert binned.geometry is not None and binned.noise_std == pytest.approx(
        0.1 / math.sqrt(factor)
    )
    assert binned.y.shape[-1] == 123 // factor
    # The middle of a wide cell is nearly its mean, for a smooth object.
    predicted = binned.geometry.operator()(blob())
    assert float((predicted - binned.y).norm() / binned.y.norm()) < (0.012 if factor < 5 else 0.03)
    if factor > 1:
        moved = Geometry(
            **{
                **vars(binned.geometry),
                "detector_shift": binned.geometry.detector_shift + 0.25 * g.detector_spacing,
            }
        )
        assert float((moved.operator()(blob()) - binned.y).norm()) > float(
            (predicted - binned.y).norm()
        )


def test_a_wide_cell_averages_what_passes() -> None:
    g = geometry("parallel", num_detectors=124)
    y = torch.rand(1, 1, 40, 124, generator=torch.Generator().manual_seed(0)) * 4
    binned = bin_detector(Measurement(y, g), 4)
    torch.testing.assert_close(binned.y, -(-y).exp().unflatten(-1, (31, 4)).mean(-1).log())
    strong = bin_detector(Measurement(y + 500, g), 4)  # exp(-500) is 0 in float32
    torch.testing.assert_close(strong.y, binned.y + 500)
    with pytest.raises(it.InputError, match=r"factor of bin_detector must lie in \[1, "):
        bin_detector(Measurement(y, g), 125)
    with pytest.raises(it.InputError, match="average of bin_detector must be 'transmission' or"):
        bin_detector(Measurement(y, g), 2, average="counts")


def test_views_take_their_angles_along() -> None:
    g = geometry("fan")
    y = g.operator()(blob())
    for views in (slice(5, None, 3), [7, 3, -1], torch.tensor([0, 39])):
        some = select_views(Measurement(y, g), views)
        assert some.geometry is not None
        torch.testing.assert_close(some.geometry.operator()(blob()), some.y, rtol=0, atol=1e-5)
    with pytest.raises(it.InputError, match="40 views"):
        select_views(Measurement(y, g), [40])
    with pytest.raises(it.InputError, match="geometry"):
        select_views(Measurement(torch.zeros(1, 1, 4, 4)), [0])


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:the field of view")
def test_the_axis_of_the_tooth_stays_where_it_is(data_dir: Path) -> None:
    item = it.datasets.open(data_dir / "tomopy_tooth" / "tooth.h5")[0]
    assert item.geometry is not None
    for changed in (
        bin_detector(item, 2),
        crop_detector(item, 40, 600),
        bin_detector(crop_detector(item, 3, 638), 2),
    ):
        assert changed.geometry is not None
        found = center_of_rotation(changed.y[0, 0].numpy(), changed.geometry.angles)
        assert found == pytest.approx(changed.geometry.axis_column, abs=0.1)
        full, small = (
            item.geometry.operator().pseudo_inverse(item.y),
            changed.geometry.operator().pseudo_inverse(changed.y),
        )
        smooth = (
            torch.nn.functional.avg_pool2d(full, 5, 1, 2),
            torch.nn.functional.avg_pool2d(small, 5, 1, 2),
        )
        assert float((smooth[0] - smooth[1]).norm() / smooth[0].norm()) < 0.08
