"""Metrics: known answers, agreement with scikit-image and scikit-learn, items, masks and borders."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from invtoolbox import metrics
from invtoolbox.datasets.shelf import photograph
from invtoolbox.errors import InputError

PIXELWISE = [
    metrics.psnr,
    metrics.rmse,
    metrics.mae,
    metrics.relative_error,
    metrics.correlation,
    metrics.ssim,
]


def images(shape: tuple[int, ...] = (3, 2, 24, 20), seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.rand(shape, generator=generator)
    return reference + 0.1 * torch.randn(shape, generator=generator), reference


def test_known_answers() -> None:
    reference = torch.full((2, 1, 4, 5), 2.0)
    error = torch.tensor([0.5, -1.0]).reshape(2, 1, 1, 1)
    x = reference + error
    assert torch.equal(metrics.rmse(x, reference), torch.tensor([0.5, 1.0]))
    assert torch.equal(metrics.mae(x, reference), torch.tensor([0.5, 1.0]))
    assert torch.equal(metrics.relative_error(x, reference), torch.tensor([0.25, 0.5]))
    expected = torch.tensor([20 * math.log10(2 / 0.5), 20 * math.log10(2 / 1)])
    torch.testing.assert_close(metrics.psnr(x, reference, data_range=2.0), expected)
    assert torch.isinf(metrics.psnr(reference, reference)).all()


def test_data_range_may_differ_from_item_to_item() -> None:
    x, reference = images()
    ranges = torch.tensor([1.0, 2.0, 255.0])
    for metric in (metrics.psnr, metrics.ssim):
        together = metric(x, reference, data_range=ranges)
        alone = [
            metric(x[i : i + 1], reference[i : i + 1], data_range=float(ranges[i]))
            for i in range(3)
        ]
        assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("metric", PIXELWISE)
def test_each_item_alone(metric) -> None:
    x, reference = images()
    together = metric(x, reference)
    assert together.shape == (3,) and together.dtype == torch.float32
    assert torch.equal(
        together, torch.cat([metric(x[i : i + 1], reference[i : i + 1]) for i in range(3)])
    )
    one_reference = metric(x, reference[:1])
    assert torch.equal(one_reference[2:], metric(x[2:], reference[:1]))
    assert metric(x.double(), reference.double()).dtype == torch.float64


@pytest.mark.parametrize("metric", PIXELWISE)
def test_border_is_a_crop_and_a_mask(metric) -> None:
    x, reference = images()
    cropped = metric(x[..., 3:-3, 3:-3], reference[..., 3:-3, 3:-3])
    mask = torch.zeros(x.shape[2:], dtype=torch.bool)
    mask[3:-3, 3:-3] = True
    bordered = metric(x, reference, border=3)
    if metric is not metrics.ssim:
        assert torch.equal(bordered, cropped)
        torch.testing.assert_close(metric(x, reference, mask=mask), cropped)
    else:
        # Windows may see what lies outside: the border of SSIM is one of its map, beyond the five
        # pixels of the window.
        wider = torch.zeros(x.shape[2:], dtype=torch.bool)
        wider[8:-8, 8:-8] = True
        torch.testing.assert_close(bordered, metric(x, reference, mask=wider))
        torch.testing.assert_close(bordered, cropped)


def test_what_lies_outside_the_mask_does_not_matter() -> None:
    x, reference = images()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.5
    spoiled = torch.where(mask, x, torch.full_like(x, float("nan")))
    for metric in PIXELWISE[:-1]:
        assert torch.equal(metric(spoiled, reference, mask=mask), metric(x, reference, mask=mask))


@pytest.mark.parametrize("name", ["camera", "cat"])
@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_psnr_and_ssim_are_those_of_scikit_image(name: str, noise: float) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    reference = photograph(name)[..., :160, 40:180]
    x = reference + noise * torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
    a, b = x[0].double().numpy(), reference[0].double().numpy()
    similarity = structural_similarity(
        a,
        b,
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert abs(metrics.ssim(x, reference).item() - similarity) < 1e-6
    assert (
        abs(metrics.psnr(x, reference).item() - peak_signal_noise_ratio(b, a, data_range=1.0))
        < 1e-4
    )


@pytest.mark.parametrize("metric", [metrics.ssim, metrics.psnr])
def test_strips_of_large_images_change_nothing(
    metric: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, reference = (image.double() for image in images((2, 3, 40, 24)))
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    for settings in ({}, {"border": 2}, {"mask": mask}, {"mask": mask, "border": 1}):
        whole = metric(x, reference, **settings)
        monkeypatch.setattr(metrics.images, "_STRIP", 7 * 3 * 24)
        torch.testing.assert_close(metric(x, reference, **settings), whole)
        monkeypatch.undo()


def test_ssim_of_a_volume() -> None:
    from skimage.metrics import structural_similarity

    x, reference = images((1, 1, 14, 16, 13))
    a, b = x[0, 0].double().numpy(), reference[0, 0].double().numpy()
    similarity = structural_similarity(
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert abs(metrics.ssim(x, reference).item() - similarity) < 1e-6


def test_correlation_is_that_of_numpy_and_blind_to_scale() -> None:
    x, reference = images()
    expected = [
        np.corrcoef(x[i].ravel().double(), reference[i].ravel().double())[0, 1] for i in range(3)
    ]
    torch.testing.assert_close(
        metrics.correlation(x, reference), torch.tensor(expected, dtype=torch.float32)
    )
    torch.testing.assert_close(
        metrics.correlation(5 - 3 * x, reference), -metrics.correlation(x, reference)
    )


def test_complex_images() -> None:
    x = torch.tensor([[[3 + 4j, 0j]]], dtype=torch.complex64)
    assert metrics.rmse(x, torch.zeros_like(x)).item() == pytest.approx(5 / math.sqrt(2))
    with pytest.raises(InputError, match="real images"):
        metrics.correlation(x, x)


def test_gradients_flow() -> None:
    x, reference = images((2, 1, 12, 13))
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: metrics.ssim(z, reference.double()), (x,), eps=1e-6, atol=1e-6, fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda z: metrics.psnr(z, reference.double()), (x,), fast_mode=True
    )


def test_matthews_correlation_is_that_of_scikit_learn() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(3, 1, 9, 8, generator=generator) > 0.6
    x = reference ^ (torch.rand(3, 1, 9, 8, generator=generator) > 0.8)
    expected = [
        sklearn_metrics.matthews_corrcoef(reference[i].ravel(), x[i].ravel()) for i in range(3)
    ]
    score = metrics.matthews_correlation(x, reference)
    torch.testing.assert_close(score, torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(metrics.matthews_correlation(x.float(), reference), score)
    mask = torch.rand(9, 8, generator=generator) > 0.3
    expected = sklearn_metrics.matthews_corrcoef(reference[0, 0][mask], x[0, 0][mask])
    masked = metrics.matthews_correlation(x[:1], reference[:1], mask=mask)
    assert masked.item() == pytest.approx(expected, abs=1e-6)


def test_matthews_correlation_of_a_single_class_is_zero() -> None:
    truth = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    assert metrics.matthews_correlation(torch.ones_like(truth), truth).item() == 0
    with pytest.raises(InputError, match="threshold it first"):
        metrics.matthews_correlation(torch.rand(1, 1, 5, 5), truth)


def test_otsu_finds_the_valley_of_each_item() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 1, 40, 40, generator=generator) > 0.4
    x = truth.float() + 0.1 * torch.randn(truth.shape, generator=generator)
    x = x * torch.tensor([1.0, 50.0]).reshape(2, 1, 1, 1)
    threshold = metrics.otsu_threshold(x)
    assert 0.2 < threshold[0] < 0.8 and 10 < threshold[1] < 40
    assert (metrics.matthews_correlation(metrics.otsu_segmentation(x), truth) > 0.99).all()
    with pytest.raises(InputError, match="NaN"):
        metrics.otsu_threshold(torch.full((1, 1, 2, 2), float("nan")))


def test_end_point_error() -> None:
    flow = torch.zeros(2, 4, 3)
    flow[0, 0] = torch.tensor([3.0, 4.0, 0.0])
    flow[1, :, 2] = 2.0
    truth = torch.zeros_like(flow)
    assert torch.equal(metrics.end_point_error(flow, truth), torch.tensor([1.25, 2.0]))
    assert metrics.end_point_error(flow[0], truth[0]).item() == 1.25
    mask = torch.tensor([True, False, False, True])
    assert torch.equal(metrics.end_point_error(flow, truth, mask), torch.tensor([2.5, 2.0]))
    with pytest.raises(InputError, match="must agree"):
        metrics.end_point_error(flow, truth[:, :3])
    with pytest.raises(InputError, match="leaves no point"):
        metrics.end_point_error(flow, truth, torch.zeros(4, dtype=torch.bool))


def test_what_cannot_be_compared_is_refused() -> None:
    x, reference = images()
    with pytest.raises(InputError, match="axis 3"):
        metrics.psnr(x, reference[..., :-1])
    with pytest.raises(InputError, match=r"batch, channel"):
        metrics.psnr(x[0, 0], reference[0, 0])
    with pytest.raises(InputError, match="boolean"):
        metrics.rmse(x, reference, mask=torch.ones(x.shape))
    with pytest.raises(InputError, match="item 1 is empty"):
        metrics.rmse(x, reference, mask=torch.tensor([True, False, True]).reshape(3, 1, 1, 1))
    with pytest.raises(InputError, match="leaves nothing"):
        metrics.mae(x, reference, border=10)
    with pytest.raises(InputError, match="data_range"):
        metrics.psnr(x, reference, data_range=0.0)
    with pytest.raises(InputError, match="at least 11"):
        metrics.ssim(x[..., :9, :9], reference[..., :9, :9])


def test_arrays_are_answered_with_the_call_that_converts_them() -> None:
    with pytest.raises(InputError, match=r"torch.as_tensor\(flow\)"):
        metrics.end_point_error(np.zeros((4, 3)), np.zeros((4, 3)))  # type: ignore[arg-type]
