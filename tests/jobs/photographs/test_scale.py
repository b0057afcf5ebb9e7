"""The metre of a scene: rendered markers, positions in headers, and what cannot give it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from invtoolbox.datasets import PosedPictures
from invtoolbox.datasets.views.structure_from_motion import fit_positions
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry import look_at
from invtoolbox.geometry.cameras import Similarity
from invtoolbox.jobs.photographs.scale import by_length, by_markers, by_positions, move
from tests.datasets.test_photograph_headers import gps

#: Texels per unit of the world, and the side of a marker in texels.
UNIT, SIDE = 400.0, 120


def board_seen(numbers: tuple[int, ...]) -> PosedPictures:
    """Four pictures of two markers in the plane z = 0, by rays that meet it."""
    cv2 = pytest.importorskip("cv2")
    kind = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_100)
    board = np.full((240, 400), 255, np.uint8)
    for k, number in enumerate(numbers):
        left = 40 + 200 * k
        board[60 : 60 + SIDE, left : left + SIDE] = kind.generateImageMarker(number, SIDE)
    texture = torch.from_numpy(board).float()[None, None] / 255
    places = torch.tensor(
        [[0.5, 0.3, -1.4], [-0.6, 0.2, -1.5], [0.1, -0.5, -1.3], [0.0, 0.4, -1.6]]
    )
    cameras = look_at(places, size=(240, 320), field_of_view=50.0)
    origins, directions = cameras.scale(3.0).rays()
    points = (origins - origins[..., 2:] / directions[..., 2:] * directions)[..., :2]
    place = 2 * UNIT * points / torch.tensor([400.0, 240.0])
    sampled = functional.grid_sample(texture.expand(4, 1, -1, -1), place, align_corners=False)
    gray = functional.avg_pool2d(torch.where(place.abs().amax(-1)[:, None] > 1, 0.4, sampled), 3)
    names = tuple(f"{k}.png" for k in range(4))
    return PosedPictures(
        replace(cameras, names=names), gray.expand(-1, 3, -1, -1), torch.ones_like(gray)
    )


def test_printed_markers_give_the_metre_to_one_per_cent() -> None:
    views = board_seen((3, 17))
    factor, note = by_markers(0.06, "5x5_100", views)
    assert factor == pytest.approx(0.06 * UNIT / SIDE, rel=0.01)
    assert note.startswith("2 markers in 4 pictures")
    with pytest.raises(InputError, match="no marker of the dictionary 4x4_50 is seen in two"):
        by_markers(0.06, "4x4_50", views)
    with pytest.raises(InputError, match="no dictionary of markers named '4x4_51'"):
        by_markers(0.06, "4x4_51", views)
    with pytest.raises(InputError, match="markers must be positive"):
        by_markers(0.0, "4x4_50", views)


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    views = PosedPictures(
        look_at(torch.eye(3)[:1] * 2, size=(4, 4)), torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    )
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingDependency, match=r"need OpenCV; install it with .*\[captures\]"):
        by_markers(0.1, "4x4_50", views)


def test_a_length_may_be_clicked_or_given_by_coordinates() -> None:
    places = torch.tensor([[0.5, 0.3, -4.0], [-0.6, 0.2, -4.1], [0.1, -0.5, -4.3]])
    cameras = replace(look_at(places, size=(240, 320)), names=("in/a.jpg", "in/b.jpg", "in/c.jpg"))
    views = PosedPictures(cameras, torch.zeros(3, 3, 1, 1), torch.ones(3, 1, 1, 1))
    ends = torch.tensor([[0.2, 0.1, 0.0], [-0.3, 0.4, 0.2]])
    pixels = cameras.project(ends)[0]
    words = [
        "+".join(
            f"{name}:{u:.3f},{v:.3f}"
            for name, (u, v) in zip(("a", "b.jpg", "in/c.jpg"), p.tolist())
        )
        for p in pixels.transpose(0, 1)
    ]
    true = 2.0 / float((ends[0] - ends[1]).norm())
    assert by_length(*words, 2.0, views)[0] == pytest.approx(true, rel=1e-3)
    assert by_length("0.2,0.1,0", "-0.3,0.4,0.2", 2.0, views)[0] == pytest.approx(true, rel=1e-6)
    assert by_length(words[0], "-0.3,0.4,0.2", 2.0, views)[0] == pytest.approx(true, rel=1e-3)


def positions(metres: Tensor) -> list[tuple[float, float, float]]:
    """Latitudes, longitudes and heights around 50 degrees north (WGS 84)."""
    square = 1 - 0.00669438 * math.sin(math.radians(50)) ** 2
    along, across = 6378137.0 * (1 - 0.00669438) / square**1.5, 6378137.0 / square**0.5
    return [
        (
            50 + math.degrees(n / along),
            8 + math.degrees(e / (across * math.cos(math.radians(50)))),
            u,
        )
        for e, n, u in metres.double().tolist()
    ]


def seen_from(
    centres: Tensor, places: list[tuple[float, float, float] | None], folder: Path
) -> PosedPictures:
    """Views at some places, whose files have positions in their headers."""
    files = [folder / f"{k}.jpg" for k in range(len(places))]
    for file, place in zip(files, places):
        Image.new("RGB", (8, 6)).save(file, exif=gps(*place) if place else Image.Exif())
    cameras = look_at(centres, (0.3, 0.2, 9.0), size=(6, 8))
    count = len(files)
    return PosedPictures(
        cameras, torch.zeros(count, 3, 6, 8), torch.ones(count, 1, 6, 8), files=tuple(files)
    )


def test_positions_in_headers_turn_a_capture_to_east_north_and_up(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    metres = 30 * torch.randn(12, 3, generator=generator)
    metres = metres - metres.mean(0)
    away = metres + 0.5 * torch.randn(12, 3, generator=generator)
    away[4] += 200  # one position is wrong
    views = seen_from(
        0.1 * metres.flip(1) * torch.tensor([1.0, 1, -1]), list(positions(away)), tmp_path
    )
    fit, note = by_positions(views)
    moved = move(views, fit, note)
    spans = moved.cameras.centres - moved.cameras.centres[:1]
    assert float((spans - (metres - metres[:1])).norm(dim=1).max()) < 1.5
    assert "east, north and up" in moved.notes[-1]
    assert "GPS" in note and float(fit.scale) == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize(
    ("metres", "fault"),
    [
        ([[0.0, 0, 0], [9, 0, 0], None, None], "2 of 4 pictures have a position"),
        ([[0.0, 0, 0]] * 4, "too coarse"),
        ([[0.0, 0, 0], [2, 1, 3], [1, 4, -3], [3, 0, 1]], "too coarse"),
    ],
)
def test_positions_that_give_no_metre_are_refused(
    metres: list[list[float] | None], fault: str, tmp_path: Path
) -> None:
    centres = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    places = [None if m is None else positions(torch.tensor([m]))[0] for m in metres]
    with pytest.raises(InputError, match=fault):
        by_positions(seen_from(centres, places, tmp_path))


def test_a_similarity_has_weights() -> None:
    source = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    target = 3 * source.roll(1, 1) + 1
    target[2] += 50
    weights = torch.ones(6)
    weights[2] = 0
    fit = Similarity.between(source, target, weights)
    assert float(fit.scale) == pytest.approx(3, abs=1e-9)
    assert torch.allclose(fit.points(source[:2]), target[:2])
    note = fit_positions(source[:4], [(50.0, 8.0, 0.0)] * 4)
    assert not note[2]
