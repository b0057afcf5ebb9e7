"""The report of a scene from photographs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.plotting import QualityCurve, ViewPicture, write_view_report


def view(name: str, error: float) -> ViewPicture:
    truth = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(len(name)))
    alpha = torch.zeros(1, 12, 16)
    alpha[:, 3:9, 4:12] = 1
    depth = 2 + torch.arange(12.0)[None, :, None].expand(1, 12, 16) / 10
    return ViewPicture(
        name,
        truth,
        (truth + error).clamp(0, 1),
        depth,
        alpha,
        {"psnr": -20 * torch.log10(torch.tensor(error)).item(), "ssim": 1 - error},
    )


def test_the_page_shows_the_worst_to_the_best_beside_the_truth(tmp_path: Path) -> None:
    views = [view(f"v_{k}.png", 0.01 * (k + 1)) for k in range(9)]
    page = write_view_report(
        tmp_path / "report.html",
        "Nine <views>",
        views,
        "A lead.",
        True,
        [v.rendering for v in views[:4]],
        QualityCurve([1.0, 2.0, 4.0], [10.0, 20.0, 25.0], [2.5]),
        [("a grid", ["10", "1.0", "25.00"])],
        {"solver": "Adam"},
        ["two frames were skipped"],
        "viewer.html",
    )
    text = page.read_text()
    shown = re.findall(r"<h3>(v_\d)</h3>", text)
    assert (
        shown[0] == "v_8" and shown[-1] == "v_0" and len(shown) == 6 and "6 of 9 are shown" in text
    )
    assert (
        "Nine &lt;views&gt;" in text
        and "A lead." in text
        and 'href="viewer.html"' in text
        and "two frames were skipped" in text
    )
    assert (
        text.count("<b>Photograph</b>")
        == text.count("<b>Depth</b>")
        == text.count("<b>Error</b>")
        == 6
    )
    assert 'src="http' not in text and "<script" not in text
    assert 'max="3"' in text and text.count('alt="Turntable') == 4 and text.count("hidden") >= 3
    assert "40.00" in text and "0.9900" in text  # of v_0, in the table
    assert text.count('class="level"') == 1
    with pytest.raises(InputError):
        write_view_report(page, "again", views, overwrite=False)


def test_the_simple_answer_is_shown_beside_the_rendering(tmp_path: Path) -> None:
    one = replace(view("v.png", 0.1), nearest=torch.rand(3, 12, 16), nearest_psnr=8.5)
    text = write_view_report(tmp_path / "report.html", "One", [one]).read_text()
    assert "<b>Nearest training photograph</b>" in text and "PSNR 8.50" in text
    assert "Renderings have 20.0 dB on average" in text and "the simple answer, 8.5 dB" in text


def test_training_views_are_called_so_and_nothing_solid_has_no_depth(tmp_path: Path) -> None:
    one = view("v.png", 0.1)
    empty = ViewPicture(
        one.name, one.photograph, one.rendering, one.depth, torch.zeros_like(one.alpha), {}
    )
    text = write_view_report(tmp_path / "report.html", "One", [empty], held_out=False).read_text()
    assert (
        "<h2>Training views</h2>" in text
        and "found from these" in text
        and "<svg" not in text
        and "Turntable" not in text
    )
