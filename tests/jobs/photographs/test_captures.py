"""Photographs as users have them: without cameras, of several sizes, with masks, on disk, unevenly exposed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.datasets import (
    PosedPictures,
    find_cameras,
    open_found_cameras,
    open_views,
    read_mesh,
)
from invtoolbox.datasets.views.photograph_files import extract_frames, find_photographs
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry import Cameras, Lens
from invtoolbox.jobs.photographs import GaussianModel, Stage, solve_in_stages, split_views
from invtoolbox.operators import ExposedRenderer, GaussianRenderer
from tests.jobs.photographs.conftest import GAUSSIANS, balls, cameras, write_photographs, write_rgba


def write_two_sizes(folder: Path) -> Path:
    """Write six upright and six wide photographs of the balls, with a transforms.json."""
    views = cameras()
    frames: list[dict[str, Any]] = []
    for k, size in enumerate([(30, 20), (18, 26)] * 6):
        K = views.intrinsics[k].clone()
        K[0, 2], K[1, 2] = size[1] / 2, size[0] / 2
        one = Cameras(views.world_to_camera[[k]], K[None], size, (f"r_{k}.png",))
        written = it.datasets.write_transforms(folder / "one.json", one, overwrite=True)
        table = json.loads(written.path.read_text())
        frames.append({**table["frames"][0], "w": size[1], "h": size[0]})
        seen = GaussianRenderer(one, ("color", "alpha"))(balls())[0].transpose(0, 1)
        write_rgba(folder / f"r_{k}.png", seen[0])
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return folder


def test_pictures_of_two_sizes_and_orientations_make_one_scene(tmp_path: Path) -> None:
    found = open_views(write_two_sizes(tmp_path))
    assert found.cameras.size == (30, 26) and found.sizes is not None and found.mask is not None
    assert found.sizes[:2].tolist() == [[30, 20], [18, 26]]
    assert torch.equal(found.mask.sum((1, 2, 3)).long(), found.sizes.prod(1))
    assert [tuple(one.pictures.shape[2:]) for one in found[:2].each()] == [(30, 20), (18, 26)]
    (tmp_path / "scene.toml").write_text(f'[views]\npath = "."\nbackground = 1.0\n{GAUSSIANS}')
    outcome = it.run(tmp_path / "scene.toml", output=tmp_path / "out", progress=False)
    assert outcome.mean("psnr") > 20
    sizes = {Image.open(p).size for p in (tmp_path / "out" / "held-out").iterdir()}
    assert sizes <= {(20, 30), (26, 18)}


def test_a_scene_is_found_from_pictures_that_are_not_straightened(tmp_path: Path) -> None:
    views = cameras()
    for k in range(len(views)):
        seen = GaussianRenderer(views[k], ("color", "alpha"), lens=Lens(radial=(-0.3,)))(balls())
        write_rgba(tmp_path / f"r_{k}.png", seen[0, :, 0])
    named = replace(views, names=tuple(f"r_{k}.png" for k in range(len(views))))
    written = it.datasets.write_transforms(tmp_path / "transforms.json", named)
    table = json.loads(written.path.read_text())
    written.path.write_text(json.dumps({**table, "camera_model": "OPENCV", "k1": -0.3}))
    scene = f'[views]\npath = "."\nbackground = 1.0\nstraighten = false\n{GAUSSIANS}'
    (tmp_path / "scene.toml").write_text(scene)
    outcome = it.run(tmp_path / "scene.toml", output=tmp_path / "out", progress=False)
    assert outcome.cameras.lenses[0] == Lens(radial=(-0.3,)) and outcome.mean("psnr") > 20
    again = it.datasets.write_transforms(tmp_path / "again.json", outcome.cameras)
    table = json.loads(again.path.read_text())
    assert table["camera_model"] == "OPENCV" and {f["k1"] for f in table["frames"]} == {-0.3}


def test_largest_side_reduces_pictures_while_they_are_read(tmp_path: Path) -> None:
    folder = write_two_sizes(tmp_path)
    small, large = open_views(folder, largest_side=15), open_views(folder)
    assert small.sizes is not None and small.sizes[:2].tolist() == [[15, 10], [10, 15]]
    point = torch.zeros(1, 3)
    ratio = small.cameras.project(point)[0] / large.cameras.project(point)[0]
    assert torch.allclose(ratio[0], torch.tensor([[0.5, 0.5]]), atol=1e-5)
    with pytest.raises(InputError, match="largest_side of Loading must be at least 1, got 0"):
        open_views(folder, largest_side=0)


def some_pictures(folder: Path, mask: bool = False) -> PosedPictures:
    found = open_views(write_photographs(folder))
    if not mask:
        return found
    inside = torch.ones(len(found), 1, *found.cameras.size)
    inside[:, :, :10, :12] = 0
    return replace(found, mask=inside)


def trained(pictures: PosedPictures, steps: int = 6, **settings: Any) -> Any:
    low, high = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)
    settings = {"count": 100, "degree": 0, "length": steps, **settings}
    model = GaussianModel(low, high, 1.0, **settings)
    adam = it.solvers.Adam(subset_size=1, epsilon=1e-15)
    views = split_views(pictures, 4)
    return solve_in_stages(model, views, [Stage(steps)], adam, progress=False)


def test_masked_pixels_have_no_influence(tmp_path: Path) -> None:
    pictures = some_pictures(tmp_path, mask=True)
    assert pictures.mask is not None
    noise = torch.rand(pictures.pictures.shape, generator=torch.Generator().manual_seed(0))
    spoiled = replace(pictures, pictures=torch.where(pictures.mask > 0, pictures.pictures, noise))
    for similarity in (0.0, 0.2):
        term = it.data_terms.Photometric(similarity).restrict(pictures.mask.transpose(0, 1)[None])
        p = torch.rand(1, 3, *pictures.mask.transpose(0, 1).shape[1:])
        values = [term.value(p, t.on(1.0).transpose(0, 1)[None]) for t in (pictures, spoiled)]
        assert torch.allclose(*values, rtol=0.0, atol=0.0)
        gradient = term.grad(p, pictures.on(1.0).transpose(0, 1)[None])
        assert bool((gradient[..., :10, :12] == 0).all()) and bool((gradient != 0).any())
    first, second = (trained(t, rates={}).x.means for t in (pictures, replace(spoiled)))
    assert torch.allclose(first, second, atol=1e-6)
    weights = torch.ones(1, 3, 2, 24, 24)
    p, y = torch.rand(1, 3, 2, 24, 24), torch.rand(1, 3, 2, 24, 24)
    plain, weighted = it.data_terms.Photometric(), it.data_terms.Photometric(weights=weights)
    assert torch.allclose(plain.value(p, y), weighted.value(p, y))


def test_pictures_on_disk_give_the_same_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_photographs(tmp_path)
    stored = open_views(folder, on_disk=True)
    assert len(stored.pictures) == 0 and "on disk" in repr(stored)
    assert torch.equal(stored[3:5].read([1]).pictures, open_views(folder).pictures[4:5])
    assert torch.equal(trained(stored).x.means, trained(open_views(folder)).x.means)
    with pytest.raises(InputError, match="choose photometric, or reduce them with largest_side"):
        GaussianModel((-1.0,) * 3, (1.0,) * 3).problem(stored, it.data_terms.L1())
    monkeypatch.setattr("invtoolbox.jobs.photographs.scene.IN_MEMORY", 0)
    monkeypatch.chdir(tmp_path)
    Path("scene.toml").write_text(f'[views]\npath = "."\nscale = 0.5\n{GAUSSIANS}')
    assert it.run("scene.toml", ["stage=[{iterations = 3}]"], progress=False).mean("psnr") > 5


def test_the_exposure_of_each_picture_is_found(tmp_path: Path) -> None:
    """With a known scene; benchmarks/photographs.py finds both."""
    true = torch.empty(12, 3).uniform_(-0.35, 0.35, generator=torch.Generator().manual_seed(0))
    true = true - true.mean(0)
    views, scene = cameras(), balls()
    y = ExposedRenderer(views, true)(scene)
    ratio = y / GaussianRenderer(views)(scene)
    assert torch.allclose(ratio[0, :, :, 12, 12].T, true.exp(), atol=1e-4)
    still = dict.fromkeys(("means", "quats", "log_scales", "logit_opacities", "colors"), 0.0)
    prior = it.priors.Gaussians(scene.means, degree=0, strategy=None, rates=still)
    parameters = prior.initial() | {
        "log_scales": scene.scales.log(),
        "logit_opacities": scene.opacities.logit(),
        "colors": scene.colors,
    }
    A, term = ExposedRenderer(views), it.data_terms.Photometric(0.0)
    solution = it.solve(
        it.Problem(y, A, term, unknown={"exposure": None}),
        prior,
        it.solvers.Adam(subset_size=3, decay=0.1),
        initial=parameters,
        max_iterations=200,
        tolerance=0.0,
        progress=False,
    )
    found = solution.problem.operator
    assert isinstance(found, ExposedRenderer)
    assert float((found.gains[0].log() - true).abs().median()) < 0.02 < float(true.abs().median())
    with pytest.raises(InputError, match="one value per camera"):
        ExposedRenderer(cameras(), torch.zeros(3, 3))


def test_the_exposure_goes_on_in_the_next_stage(tmp_path: Path) -> None:
    pictures = some_pictures(tmp_path)
    settings = {"exposure": True, "count": 50, "degree": 0, "strategy": "none"}
    model = GaussianModel((-1.0,) * 3, (1.0,) * 3, **settings)  # type: ignore[arg-type]
    views, adam = split_views(pictures, 4), it.solvers.Adam(subset_size=1)
    one = solve_in_stages(model, views, [Stage(8)], adam, progress=False)
    two = solve_in_stages(
        model, views, [Stage(8), Stage(1)], adam, progress=False, folder=tmp_path / "work"
    )
    before, after = (t.solution.problem.operator.gains for t in (one, two))  # type: ignore[attr-defined]
    assert 0 < float((after - before).abs().max()) < 0.02 < float((before - 1).abs().max())


def picture(path: Path, size: tuple[int, int] = (32, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_faults_of_photographs_without_cameras_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(Path("one/a.png"))
    for name, kind in (("phone", "IMG_1.AVIF"), ("raw", "DSC_1.NEF")):
        Path(name).mkdir()
        Path(name, kind).write_bytes(b"...")
    expected = {
        "one": "holds one photograph, a.png",
        "phone": "AVIF files, which are not read here; convert them to JPEG or PNG first, for "
        "example with heif-convert",
        "raw": "for example with darktable-cli",
    }
    for folder, fault in expected.items():
        assert main(["reconstruct", folder]) == 2
        assert fault in capsys.readouterr().err
    picture(Path("two/images/a.png"))
    picture(Path("two/images/b.png"))
    assert [p.name for p in find_photographs(Path("two"))] == ["a.png", "b.png"]
    Path("film.mp4").write_bytes(b"no film")
    for name in ("av", "pycolmap"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match="decoded by PyAV, which is not installed"):
        extract_frames(Path("film.mp4"), Path("frames"))
    with pytest.raises(MissingDependency, match="placed by pycolmap, which is not installed"):
        find_cameras("two", "results")


def test_a_mask_of_another_size_and_missing_pictures_are_named(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path)
    table = json.loads((folder / "transforms.json").read_text())
    picture(folder / "mask.png", (9, 9))
    table["frames"][0]["mask_path"] = "mask.png"
    table |= {"w": 24, "h": 24, "fl_x": 30.0}
    (folder / "transforms.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match=r"mask\.png has the shape \(9, 9\), but its picture"):
        open_views(folder)
    for file in folder.glob("r_*.png"):
        file.unlink()
    with pytest.raises(InputError, match="none of the 12 pictures of .* exists"):
        open_views(folder)


def test_photographs_that_do_not_match_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    for name in ("a.png", "bb.png", "ccc.png"):
        picture(tmp_path / "set" / name, (60, 80))
    with pytest.raises(InputError, match=r"0 of 3 could be placed, not a\.png, bb\.png, ccc\.png"):
        find_cameras(tmp_path / "set", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["a.png", "bb.png", "ccc.png"]


def test_the_sharpest_frames_of_a_video_are_taken(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        draw = np.random.default_rng(0)
        for k in range(20):
            flat = np.full((48, 64, 3), 12 * k, dtype=np.uint8)
            sharp = draw.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(sharp if k in (3, 14) else flat, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    files = extract_frames(film, tmp_path / "frames", 2)
    assert [f.name for f in files] == ["frame_0000.png", "frame_0001.png"]
    assert all(np.asarray(Image.open(f)).std() > 30 for f in files)
    film.write_bytes(b"no film")
    with pytest.raises(InputError, match="cannot be decoded as a video"):
        extract_frames(film, tmp_path / "frames", 2)


@pytest.mark.data
def test_photographs_become_a_scene_and_a_mesh_by_one_command(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycolmap")
    pytest.importorskip("open3d", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    Path("fox").mkdir()
    files = sorted((data_dir / "ngp_fox_270x480" / "images").glob("*.jpg"))
    for file in files[:6]:
        (Path("fox") / file.name).symlink_to(file)
    small = ["views.largest_side=60", "stage=[{iterations=40}]", "prior.gaussians.length=40"]
    words = [word for one in small for word in ("--set", one)]
    assert main(["reconstruct", "fox", "--mesh", "-q", *words]) == 0
    found = open_found_cameras("results/fox/cameras/cameras.json")
    assert len(found) == 6 and found.points is not None and len(found.points) > 100
    assert len(read_mesh("results/fox/mesh.obj").faces) > 50
    assert sorted(p.name for p in Path("fox").iterdir()) == [f.name for f in files[:6]]
