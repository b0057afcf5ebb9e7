"""Textures of meshes: a cube rendered in closed form, files that trimesh reads, and refusals."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.datasets import PosedPictures, write_mesh, write_splats
from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, Mesh, Splats, look_at
from invtoolbox.jobs.photographs.surface import spread_out
from invtoolbox.jobs.photographs.texture import bake, simplify, unwrap

CORNERS = 0.5 * torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
CUBE = Mesh(CORNERS, torch.tensor([t for a, b, c, d in QUADS for t in ([a, b, c], [a, c, d])]))
#: Colors (3, 2, 3) without any symmetry.
ASYMMETRIC = torch.tensor(
    [[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 0]], [[0, 1, 1], [0.2, 0.4, 0.6]]]
).permute(2, 0, 1)


def paint(points: Tensor) -> Tensor:
    """Colors of places in space."""
    waves = torch.tensor([[6.0, 2, 1], [1, -5, 3], [2, 3, 7]])
    return 0.5 + 0.4 * torch.sin(points @ waves)


def look_at_cube(cameras: Cameras) -> PosedPictures:
    """Pictures of the painted cube: rays meet a box in closed form."""
    origins, directions = cameras.rays()
    ends = torch.stack([(side - origins) / directions for side in (-0.5, 0.5)])
    enter, leave = ends.amin(0).amax(-1), ends.amax(0).amin(-1)
    alpha = (enter < leave).float()[..., None]
    colors = alpha * paint(origins + enter[..., None] * directions)
    return PosedPictures(cameras, colors.movedim(-1, 1), alpha.movedim(-1, 1))


def around() -> Cameras:
    grid = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 0.2, 1) for z in (-1.0, 1)])
    return look_at(2.2 * functional.normalize(grid, dim=1), size=(96, 128), field_of_view=40.0)


def colors_at(path: Path, mesh: Mesh, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Places on the faces and their colors, as trimesh reads a file."""
    trimesh = pytest.importorskip("trimesh")
    read = trimesh.load(path, force="mesh", process=False)
    assert read.visual.kind == "texture" and len(read.faces) == len(mesh.faces)
    material = read.visual.material
    picture = material.image if hasattr(material, "image") else material.baseColorTexture
    corners = torch.tensor(np.array(read.vertices)).float()[torch.tensor(np.array(read.faces))]
    uv = torch.tensor(np.array(read.visual.uv)).float()[torch.tensor(np.array(read.faces))]
    points, places = ((shares[:, None, :, None] * t).sum(2).flatten(0, 1) for t in (corners, uv))
    table = trimesh.visual.color.uv_to_interpolated_color(places.numpy(), picture)
    return points, torch.tensor(np.array(table)[:, :3]).float() / 255


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_a_texture_is_read_by_trimesh_the_right_way_up(tmp_path: Path, suffix: str) -> None:
    """The corners of a square have the colors of the corners of the picture."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    square = Mesh(
        vertices,
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
        uv=vertices[:, :2],
        texture=ASYMMETRIC,
    )
    write_mesh(tmp_path / f"square{suffix}", square)
    trimesh = pytest.importorskip("trimesh")
    read = trimesh.load(tmp_path / f"square{suffix}", force="mesh", process=False)
    material = read.visual.material
    picture = material.image if hasattr(material, "image") else material.baseColorTexture
    assert picture.size == (2, 3)
    # y = 0 is the lowest row of the picture, x = 0 its first column.
    for corner, row, column in ((0, 2, 0), (1, 2, 1), (2, 0, 1), (3, 0, 0)):
        vertex = int(np.abs(read.vertices - vertices[corner].numpy()).sum(1).argmin())
        near = read.visual.uv[vertex] * 0.98 + 0.01
        color = trimesh.visual.color.uv_to_color(near[None], picture)[0, :3]
        assert np.abs(color / 255 - ASYMMETRIC[:, row, column].numpy()).max() < 0.01
    if suffix == ".obj":
        assert "map_Kd square.png" in (tmp_path / "square.mtl").read_text()
        (tmp_path / "square.obj").unlink()
        with pytest.raises(InputError, match=r"square\.mtl exists"):
            write_mesh(tmp_path / "square.obj", square)
    else:
        (chunk,) = struct.unpack_from("<I", (tmp_path / "square.glb").read_bytes(), 12)
        head = json.loads((tmp_path / "square.glb").read_bytes()[20 : 20 + chunk])
        assert head["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0
        assert head["images"][0]["mimeType"] == "image/png"


def test_other_formats_keep_the_colors_and_a_texture_needs_places(tmp_path: Path) -> None:
    tinted = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.eye(3), torch.eye(3)[:, :2])
    tinted = it.geometry.Mesh(
        *(getattr(tinted, n) for n in ("vertices", "faces", "colors", "uv")), ASYMMETRIC
    )
    write_mesh(tmp_path / "t.ply", tinted)
    colors = it.datasets.read_mesh(tmp_path / "t.ply").colors
    assert colors is not None and torch.equal(colors, torch.eye(3))
    with pytest.raises(InputError, match=r"needs uv \(3, 2\)"):
        Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), texture=ASYMMETRIC)


def test_a_cube_has_the_texture_that_its_pictures_show(tmp_path: Path) -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    pytest.importorskip("xatlas")
    pictures = look_at_cube(around())
    # One photograph in twelve is of something else.
    pictures.pictures[4] = pictures.alpha[4] * torch.rand(
        3, 1, 1, generator=torch.Generator().manual_seed(0)
    )
    baked = bake(unwrap(CUBE, 256), pictures.each())
    assert len(baked.faces) == 12
    inner = torch.rand(40, 3, generator=torch.Generator().manual_seed(1))
    inner = 0.1 + 0.7 * inner / inner.sum(1, keepdim=True)
    for suffix in (".glb", ".obj"):
        write_mesh(tmp_path / f"cube{suffix}", baked)
        points, colors = colors_at(tmp_path / f"cube{suffix}", baked, inner)
        error = (colors - paint(points)).abs()
        assert float(error.mean()) < 0.01 and float(error.max()) < 0.08, error.max()
    far = look_at(torch.tensor([[9.0, 0, 0]]), (20.0, 0, 0), size=(8, 8))
    with pytest.raises(InputError, match="no photograph sees the mesh"):
        bake(unwrap(CUBE, 64), look_at_cube(far).each())


def test_what_no_photograph_sees_has_the_colors_of_the_vertices() -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    pytest.importorskip("xatlas")
    red = torch.tensor([1.0, 0, 0]).expand(8, 3)
    front = look_at(torch.tensor([[0.0, 0, -2.2]]), size=(96, 96), field_of_view=40.0)
    baked = bake(unwrap(Mesh(CUBE.vertices, CUBE.faces, red), 128), look_at_cube(front).each())
    assert baked.texture is not None
    share = (baked.texture - red[0].view(3, 1, 1)).abs().amax(0).lt(1e-6).float().mean()
    assert 0.6 < float(share) < 0.9  # five faces of six, and none of the background of the texture


def test_a_mesh_is_simplified_to_a_number_of_faces() -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    rows = torch.arange(20.0)
    grid = torch.cartesian_prod(rows, rows)
    flat = torch.cat([grid, torch.zeros(400, 1)], 1)
    a = (torch.arange(19)[:, None] * 20 + torch.arange(19)).flatten()
    faces = torch.cat([torch.stack([a, a + 1, a + 20], 1), torch.stack([a + 1, a + 21, a + 20], 1)])
    mesh = Mesh(flat, faces, flat / 19)
    simple = simplify(mesh, 50)
    assert len(simple.faces) <= 50 and float(simple.vertices[:, 2].abs().max()) < 1e-4
    assert simple.colors is not None and simplify(mesh, 10_000) is mesh
    with pytest.raises(InputError, match="faces"):
        simplify(mesh, 3)


def test_any_number_of_views_is_spread_and_ends_with_the_time() -> None:
    for total in (1, 2, 9, 45, 100):
        assert sorted(spread_out(total, total, 9.0, False, "")) == list(range(total))
    assert list(spread_out(40, 40, -1.0, False, "")) == list(spread_out(40, 8, 9.0, False, ""))


def test_gaussians_as_splat_have_32_bytes_each(tmp_path: Path) -> None:
    """Three floats of the centre, three of the scales, RGBA and the quaternion as bytes."""
    splats = Splats.of_points(
        torch.tensor([[[1.0, 2, 3], [4, 5, 6]]]), torch.eye(3)[None, :2], 0.1, 0.5
    )
    quats = torch.tensor([[[1.0, 0, 0, 0], [0.5, -0.5, 0.5, 0.5]]])
    scales = torch.tensor([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]])
    opacities = torch.tensor([[1.0, 0.4]])
    from dataclasses import replace

    write_splats(
        tmp_path / "s.splat", replace(splats, quats=quats, scales=scales, opacities=opacities)
    )
    content = (tmp_path / "s.splat").read_bytes()
    assert len(content) == 64
    first = struct.unpack("<6f8B", content[:32])  # the larger one
    assert first[:6] == pytest.approx((4, 5, 6, 0.4, 0.5, 0.6))
    assert first[6:] == (0, 255, 0, 102, 192, 64, 192, 192)
    second = struct.unpack("<6f8B", content[32:])
    assert second[:3] == (1, 2, 3) and second[6:] == (255, 0, 0, 255, 255, 128, 128, 128)


@pytest.fixture
def finished(here: Path) -> Path:
    """A finished run of balls of Gaussians."""
    assert main(["reconstruct", "gaussians.toml", "-q", "--set", "stage=[{iterations = 3}]"]) == 0
    return here


WORDS = ["reconstruct", "gaussians.toml", "-q", "--set", "stage=[{iterations = 3}]"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--output", "fox.fbx"], "no format for the suffix '.fbx'"),
        (["--output", "cams.txt"], "no format for the suffix '.txt'"),
        (["--output", "gone/fox.splat"], "the folder gone does not exist"),
        (["--output", "taken.splat"], "taken.splat exists; give --overwrite"),
        (["--output", "sub/cameras.txt"], "images.txt exists; give --overwrite"),
        (["--box", "0", "0", "0", "1", "-1", "1"], "smallest corner, then the largest"),
        (["--faces", "3"], "--faces"),
        (["--length", "r_0:1,1+r_1:1,1", "r_1:3,3+r_0:3,3", "0"], "length must be positive"),
        (["--length", "0,0,0", "0,0,0", "1"], "are one point"),
        (["--length", "r_0:1,1", "0,0,0", "1"], "is seen in one picture"),
        (["--length", "r_0:1,1+r_77:1,1", "0,0,0", "1"], "no picture of a length named 'r_77'"),
        (["--length", "here", "0,0,0", "1"], "cannot be read"),
        (["--length", "r_0:1,23+r_3:1,1", "0,0,0", "1"], "belong to no point"),
        (["--length", "0,0,0", "1,0,0", "1", "--gps"], "give one of length, markers and gps"),
        (["--gps"], "0 of 12 pictures have a position in their header"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], fault: str
) -> None:
    Path("taken.splat").write_text("mine")
    Path("sub").mkdir()
    Path("sub/images.txt").write_text("mine")
    assert main([*WORDS, *words]) == 2
    assert fault in capsys.readouterr().err
    assert not Path("results").exists() and Path("taken.splat").read_text() == "mine"


def test_a_finished_run_writes_files_in_the_formats_of_their_names(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = ["--export", "b.splat", "b.ply", "t.json", "cameras.txt"]
    assert main([*WORDS, "--resume", *every]) == 0
    assert Path("b.splat").stat().st_size % 32 == 0
    views = it.datasets.open_views("photographs")
    (table,) = (json.loads(Path("t.json").read_text()),)
    names = [frame["file_path"] for frame in table["frames"]]
    assert len(names) == 12 and names[0] == "photographs/r_0.png" and table["w"] == 24
    model = it.datasets.read_colmap(".")
    rows = [[Path(n).name for n in views.cameras.names].index(Path(name).name) for name in names]
    poses = views.cameras.world_to_camera[rows]
    for cameras in (it.datasets.open_views("t.json").cameras, model):
        assert torch.allclose(cameras.world_to_camera.float(), poses, atol=1e-5)
    # A second run of the same name replaces nothing.
    assert main([*WORDS, "--resume", "--output", "b.splat"]) == 2
    assert "b.splat exists" in capsys.readouterr().err
    few = ["--resume", "--output", "few.ply", "--box", "0", "-1", "-1", "1", "1", "1"]
    assert main([*WORDS, *few]) == 0
    inside = it.datasets.read_splats("few.ply").means[0]
    assert bool((inside[:, 0] >= 0).all()) and 0 < len(inside) < len(
        it.datasets.read_splats("b.ply").means[0]
    )
    none = ["--resume", "--output", "none.ply", "--box", "8", "8", "8", "9", "9", "9"]
    assert main([*WORDS, *none]) == 2 and "no Gaussian lies in the box" in capsys.readouterr().err
    assert main(["reconstruct", "voxels.toml", "--output", "v.splat"]) == 2
    assert "the scene is a grid of voxels" in capsys.readouterr().err


def test_a_mesh_of_the_command_has_a_texture(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    pytest.importorskip("xatlas")
    words = ["reconstruct", "photographs", "--model", "voxel-grid", "--faces", "500"]
    for change in (
        "stage=[{iterations = 2}]",
        "prior.voxel-grid.resolution=8",
        "prior.voxel-grid.alpha=0.9",
        "output.texture=64",
    ):
        words += ["--set", change]
    assert main([*words, "--output", "v.glb"]) == 0
    assert "v.glb" in capsys.readouterr().out
    assert not Path("results/photographs/mesh.obj").exists()
    trimesh = pytest.importorskip("trimesh")
    read = trimesh.load("v.glb", force="mesh")
    assert read.visual.kind == "texture" and 0 < len(read.faces) <= 500
    crop = ["--resume", "--export", "w.obj", "--box", "5", "5", "5", "6", "6", "6"]
    assert main([*words, *crop]) == 2
    assert "no face of the mesh lies in the box" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "xatlas", None)
    assert main([*words, "--resume", "--output", "w.glb"]) == 2
    assert "[3d]" in capsys.readouterr().err


def test_a_length_and_a_box_scale_the_world(here: Path) -> None:
    """The balls are 0.84 apart; the distance of two of them is called 84 m."""
    ends = torch.tensor([[-0.4, 0.0, 0.0], [0.4, 0.2, 0.1]])
    views = it.datasets.open_views("photographs")
    pixels = views.cameras.project(ends)[0]
    words = [
        "+".join(
            f"r_{k}:{float(pixels[r, e, 0]):.2f},{float(pixels[r, e, 1]):.2f}" for r, k in rows
        )
        for e in range(2)
        for rows in [[(r, int(Path(n).stem[2:])) for r, n in enumerate(views.cameras.names[:5])]]
    ]
    length = float((ends[0] - ends[1]).norm())
    from invtoolbox.jobs.photographs.scene import read_view_scene

    file = read_view_scene("gaussians.toml", {"views.length": [*words, 100 * length]})
    moved = file.pictures()
    assert torch.allclose(moved.cameras.centres, 100 * views.cameras.centres, rtol=2e-3, atol=1e-3)
    assert "by a length of" in moved.notes[-1]
