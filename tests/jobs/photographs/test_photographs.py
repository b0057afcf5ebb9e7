"""Which views are used, and what is wrong with folders of photographs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from invtoolbox.datasets import PosedPictures, open_views
from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras
from invtoolbox.jobs.photographs import split_views, visible_box
from invtoolbox.jobs.photographs.models import check_visible
from invtoolbox.jobs.photographs.photographs import scale
from tests.jobs.photographs.conftest import cameras, write_photographs


def named(*names: str) -> PosedPictures:
    views = replace(cameras(len(names), 4), names=names)
    return PosedPictures(views, torch.zeros(len(names), 3, 4, 4), torch.ones(len(names), 1, 4, 4))


def stems(views: PosedPictures) -> list[str]:
    return [Path(name).stem for name in views.cameras.names]


def test_every_so_manyth_view_is_counted_in_the_order_of_numbers() -> None:
    pictures = named(*(f"r_{k}.png" for k in sorted(range(23), key=str)))
    parts = split_views(pictures, 10)
    assert sorted(stems(parts.held)) == ["r_16", "r_6"] and len(parts.train) == 21
    assert stems(split_views(pictures, 10, count=4).train) == stems(
        split_views(pictures, 10, count=4).train
    )
    assert set(stems(split_views(pictures, 10, count=4).train)) == {"r_0", "r_5", "r_11", "r_17"}


def test_views_by_name_and_pattern() -> None:
    pictures = named("a_1.png", "a_2.png", "b_1.png", "b_2.png")
    parts = split_views(pictures, ["b_*"], train=["a_2"])
    assert stems(parts.held) == ["b_1", "b_2"] and stems(parts.train) == ["a_2"]
    none = split_views(pictures, 0)
    assert len(none.held) == 0 and len(none.train) == 4 and none.judged is none.train
    assert len(scale(none.held, 0.5)) == 0 and scale(none.train, 0.5).cameras.size == (2, 2)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"hold_out": 1}, "all 3 views are held out"),
        ({"hold_out": ["r_*"]}, "all 3 views are held out"),
        ({"hold_out": ["r_9"]}, "there is no view held out named 'r_9'"),
        ({"hold_out": 2, "train": ["r_1"]}, "r_1.png is both held out and to train from"),
        ({"hold_out": 0, "count": 4}, "4 training views were requested, and there are 3"),
        ({"hold_out": -1}, "got -1"),
    ],
)
def test_faults_of_the_choice_are_named(settings: dict, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        split_views(named("r_0.png", "r_1.png", "r_2.png"), **settings)


def test_a_folder_is_read_and_what_is_missing_is_skipped(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "some")
    (folder / "r_3.png").unlink()
    found = open_views(folder)
    assert len(found) == 11 and found.skipped == ("./r_3",)
    assert found.pictures.max() > 0.5 and found.alpha.max() > 0.9
    assert torch.allclose(found.cameras.world_to_camera[0], cameras().world_to_camera[0], atol=1e-5)


def test_faults_of_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file or folder"):
        open_views(tmp_path / "gone")
    with pytest.raises(InputError, match="holds no"):
        open_views(tmp_path)
    folder = write_photographs(tmp_path / "some")
    with pytest.raises(InputError, match="named 'blendr'; did you mean 'blender'"):
        open_views(folder, "blendr")
    (folder / "transforms.json").write_text(json.dumps({"frames": []}))
    with pytest.raises(InputError, match=r"transforms\.json"):
        open_views(folder)


def test_smaller_pictures_are_averaged_and_their_cameras_see_the_same() -> None:
    views = cameras(2, 4)
    pictures = PosedPictures(views, torch.arange(96.0).view(2, 3, 4, 4), torch.ones(2, 1, 4, 4))
    half = scale(pictures, 0.5)
    assert torch.equal(half.pictures[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    point = torch.tensor([[0.1, 0.2, 0.3]])
    assert torch.allclose(half.cameras.project(point)[0], views.project(point)[0] / 2, atol=1e-5)
    with pytest.raises(InputError, match=r"factor of scale must lie in \(0, 1\]"):
        scale(pictures, 2.0)


def test_the_box_is_what_the_cameras_look_at_and_a_box_beside_is_refused() -> None:
    views = cameras()
    low, high = visible_box(views)
    assert all(abs(a + b) < 0.6 for a, b in zip(low, high)) and 1.2 < high[0] - low[0] < 4
    assert check_visible(views, low, high) == len(views)
    with pytest.raises(InputError, match=r"none of the 12 cameras sees anything of the box"):
        check_visible(views, (50.0, 50.0, 50.0), (51.0, 51.0, 51.0))
    away = Cameras(
        torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])) @ views.world_to_camera,
        views.intrinsics,
        views.size,
    )
    with pytest.raises(InputError, match="away from one another"):
        visible_box(away)
