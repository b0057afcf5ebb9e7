"""The viewer of scenes: a browser draws what the renderers draw."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, Splats, look_at
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.metrics import psnr
from invtoolbox.operators import GaussianRenderer, VoxelRenderer
from invtoolbox.plotting import write_viewer
from invtoolbox.plotting.web_viewer import shown_splats, shown_voxels, viewer_page
from tests.plotting.browser import screenshot

SIDE = 500


def cameras() -> Cameras:
    places = torch.tensor([[0.0, -1.0, -4.0], [3.5, -1.5, 0.5], [-2.0, 2.0, 3.0]])
    return replace(
        look_at(places, size=(SIDE // 5, SIDE // 5), field_of_view=45.0),
        names=("front.png", "right.png", "behind.png"),
    )


def splats(count: int = 60, seed: int = 0) -> Splats:
    """Gaussians of all shapes, attitudes and colors, these other from every side."""
    g = torch.Generator().manual_seed(seed)
    means = 2 * torch.rand(1, count, 3, generator=g) - 1
    scales = 0.03 + 0.3 * torch.rand(1, count, 3, generator=g) ** 2
    colors = torch.randn(1, count, 9, 3, generator=g) * torch.tensor([1.0, *[0.4] * 8])[:, None]
    return Splats(
        means,
        torch.randn(1, count, 4, generator=g),
        scales,
        0.2 + 0.75 * torch.rand(1, count, generator=g),
        colors,
    )


def ball(degree: int = 0) -> Voxels:
    """A ball that is red on one side and green on the other."""
    space = VoxelSpace.box(24, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    places = -1 + space.places() * torch.tensor(space.cell)
    density = 40 * (0.7 - places.norm(dim=1))
    color = (
        torch.stack([4 * places[:, 0], -4 * places[:, 0], torch.full_like(places[:, 0], -3.0)], 1)
        / 0.2821
    )
    return Voxels(density[None], color[None, :, None], space)


def test_a_browser_draws_gaussians_as_the_renderer_does(tmp_path: Path) -> None:
    x, views = splats(), cameras()
    page = write_viewer(
        tmp_path / "scene.html", x, views, "Gaussians of all shapes", background=(1.0, 0.9, 0.8)
    )
    drawn = screenshot(page, "#view=1&bare", SIDE, tmp_path / "drawn.png")
    seen = GaussianRenderer(views[1].scale(5), background=torch.tensor([1.0, 0.9, 0.8]))(x)[
        0, :, 0
    ].clamp(0, 1)
    assert float(psnr(drawn[None], seen[None])) > 33
    other = GaussianRenderer(views[0].scale(5), background=torch.tensor([1.0, 0.9, 0.8]))(x)[
        0, :, 0
    ].clamp(0, 1)
    assert float(psnr(drawn[None], other[None])) < 22  # of another place it is no picture


def test_a_browser_draws_the_surface_of_voxels(tmp_path: Path) -> None:
    x, views = ball(), cameras()
    page = write_viewer(tmp_path / "scene.html", x, views, "A ball", background=1.0)
    drawn = screenshot(page, "#view=0&bare", SIDE, tmp_path / "drawn.png")
    A = VoxelRenderer(views[0].scale(5), background=1.0)
    assert float(psnr(drawn[None], A.pictures(A(x))[:, 0].clamp(0, 1))) > 24


def content_of(page: bytes) -> dict:
    found = re.search(
        rb'<script type="application/json" id="scene">(.*?)</script>', page, re.DOTALL
    )
    assert found is not None
    content: dict = json.loads(found.group(1).replace(b"<\\/", b"</"))
    return content


def test_the_page_needs_nothing_from_outside_and_says_what_it_shows() -> None:
    page = viewer_page(splats(), cameras(), 'A "title" </script>')
    text = page.decode()
    assert "://" not in text and "src=" not in text and text.count("</script>") == 2
    assert "A &quot;title&quot; &lt;/script&gt;" in text and "@" not in re.sub(
        r"@media|@keyframes", "", text.split("<script")[0]
    )
    content = content_of(page)
    assert (
        content["count"] == 60
        and content["bases"] == 9
        and [c["name"] for c in content["cameras"]] == ["front", "right", "behind"]
    )
    assert content["caption"] == "60 Gaussians" and sum(
        v * v for v in content["up"]
    ) == pytest.approx(1, abs=1e-5)
    alone = content_of(viewer_page(splats()))
    assert alone["cameras"] == [] and alone["eye"] != alone["target"]


def test_the_gaussians_that_cover_most_are_kept_and_the_transparent_left_out() -> None:
    x = splats()
    hidden = replace(
        x, opacities=torch.where(torch.arange(60) % 2 == 0, x.opacities, torch.zeros(()))
    )
    assert len(shown_splats(hidden).places) == 30
    few = shown_splats(x, most=10)
    assert len(few.places) == 10 and "10 Gaussians of 60" in few.caption
    kept = {tuple(p) for p in few.places.tolist()}
    area = x.scales[0].sort(dim=1).values[:, 1:].prod(1) * x.opacities[0]
    assert {tuple(p) for p in x.means[0, area.topk(10).indices].tolist()} == kept


def test_buried_nodes_of_a_grid_are_left_out_and_thin_ones_shown() -> None:
    shown = shown_voxels(ball())
    radius = shown.places.norm(dim=1)
    assert float(radius.min()) > 0.5 and float(radius.max()) < 0.85 and shown.squashed
    thin = ball()._replace(density=torch.full((1, 24**3), -6.0))
    assert len(shown_voxels(thin).places) > 0
    few = shown_voxels(ball(), most=20)
    assert len(few.places) == 20


def test_an_empty_scene_and_a_file_that_is_there_are_refused(tmp_path: Path) -> None:
    x = splats()
    with pytest.raises(InputError, match="nothing of the scene is visible"):
        viewer_page(replace(x, opacities=torch.zeros_like(x.opacities)))
    (tmp_path / "scene.html").write_text("mine")
    with pytest.raises(InputError, match="a file of that name already"):
        write_viewer(tmp_path / "scene.html", x)
