"""The axis of rotation, found from simulated scans whose axis is known, and from the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from invtoolbox import datasets
from invtoolbox.datasets.scans.center_of_rotation import center_of_rotation
from invtoolbox.errors import InputError

COLUMNS = 192


def ellipses(angles: np.ndarray, axis: float, seed: int, scale: float = 1.0) -> np.ndarray:
    """Exact line integrals of a large ellipse and eight small ones within a disc of 0.7 * scale half
    detectors."""
    generator = np.random.default_rng(seed)
    u = (np.arange(COLUMNS) - axis)[None] / COLUMNS * 2
    shapes = [(0.0, 0.0, 0.7 * scale, 0.6 * scale, 1.0)]
    shapes += [
        (
            *generator.uniform(-0.45, 0.45, 2) * scale,
            *generator.uniform(0.03, 0.2, 2) * scale,
            generator.uniform(-0.5, 1),
        )
        for _ in range(8)
    ]
    sinogram = np.zeros((angles.size, COLUMNS))
    for x, y, a, b, density in shapes:
        cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
        width = (a * cosine) ** 2 + (b * sine) ** 2
        t = u - x * cosine - y * sine
        sinogram += 2 * density * a * b / width * np.sqrt(np.clip(width - t**2, 0, None))
    return sinogram


SCANS = {
    "half turn": np.linspace(0, np.pi, 180, endpoint=False),
    "half turn, both ends": np.linspace(0, np.pi, 181),
    "few views": np.linspace(0, np.pi, 60, endpoint=False),
    "full turn": np.linspace(0, 2 * np.pi, 240, endpoint=False),
    "turning backwards": np.linspace(0, -np.pi, 180, endpoint=False),
    "golden angles": (np.arange(233) * np.pi * (np.sqrt(5) - 1) / 2) % np.pi,
}


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("axis", [95.5, 78.3, 113.85])
def test_simulated_scans_to_a_fifth_of_a_column(name: str, axis: float) -> None:
    angles = SCANS[name]
    for seed in range(2):
        sinogram = ellipses(angles, axis, seed)
        sinogram += 0.02 * np.random.default_rng(seed).standard_normal(sinogram.shape)
        assert abs(center_of_rotation(sinogram, angles) - axis) < 0.2


def test_without_noise_to_a_fiftieth() -> None:
    angles = SCANS["half turn"]
    errors = [
        center_of_rotation(ellipses(angles, axis, 3), angles) - axis
        for axis in (80.25, 95.5, 101.6)
    ]
    assert np.abs(errors).max() < 0.02


@pytest.mark.parametrize("axis", [85.3, 104.6])
def test_object_wider_than_the_detector(axis: float) -> None:
    angles = np.linspace(0, np.pi, 240, endpoint=False)
    sinogram = ellipses(angles, axis, 1, scale=1.8)
    assert sinogram[:, [0, -1]].max() > 0.5 * sinogram.max()
    assert abs(center_of_rotation(sinogram, angles) - axis) < 0.6


def test_rows_that_share_an_axis_help_each_other() -> None:
    angles, axis = SCANS["half turn"], 90.4
    rows = np.stack([ellipses(angles, axis, seed) for seed in range(6)])
    rows += 0.3 * np.random.default_rng(0).standard_normal(rows.shape)
    assert abs(center_of_rotation(rows, angles) - axis) < 0.3


def test_pure() -> None:
    angles = SCANS["few views"]
    sinogram = ellipses(angles, 97.1, 0)
    before = sinogram.copy()
    assert center_of_rotation(sinogram, angles) == center_of_rotation(sinogram, angles)
    assert np.array_equal(sinogram, before)


def test_what_shows_no_axis_is_refused() -> None:
    angles = SCANS["half turn"]
    sinogram = ellipses(angles, 90.0, 0)
    with pytest.raises(InputError, match="half a turn"):
        center_of_rotation(sinogram[:90], angles[:90])
    with pytest.raises(InputError, match="leave a gap"):
        center_of_rotation(sinogram, np.append(angles[:-1], 1e60))
    with pytest.raises(InputError, match="constant"):
        center_of_rotation(np.ones_like(sinogram), angles)
    with pytest.raises(InputError, match="one angle per view"):
        center_of_rotation(sinogram.T, angles)
    with pytest.raises(InputError, match="NaN"):
        center_of_rotation(np.where(sinogram > 1, np.nan, sinogram), angles)
    with pytest.raises(InputError, match="search"):
        center_of_rotation(sinogram, angles, search=(-5, 20))


@pytest.mark.data
def test_tooth(data_dir: Path) -> None:
    tooth = datasets.open(data_dir / "tomopy_tooth" / "tooth.h5")
    assert len(tooth) == 2
    for row in range(2):
        item = tooth[row]
        assert item.y.shape == (1, 1, 181, 640)
        assert abs(item.meta["center_column"] - 295.5) < 0.5
        assert abs(center_of_rotation(item.y[0, 0].numpy(), item.geometry.angles) - 295.5) < 0.5
