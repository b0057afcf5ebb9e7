"""Commands made from scene tables: help, --set, --save-scene, --resume, and files or a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.geometry import look_at
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.jobs.kinds import kinds
from invtoolbox.simulation.beating_ring import simulate_ring
from invtoolbox.simulation.events import simulate_events
from invtoolbox.simulation.ramp import simulate_ramp
from tests.command_line import Run, one_sentence
from tests.datasets import test_segy
from tests.datasets.mri_sets import centred_fft, header, phantom, write_fastmri

#: A command line of every command made from tables; the files come from `files`.
LINES = {
    "normals": "map.npy --k 0 --set integration.max_iterations=3",
    "register": "before.npy after.npy --set registration.max_iterations=2",
    "warp": "before.npy --transform shift.tfm --like after.npy",
    "events": "recording.npz --camera K.txt --iterations 3",
    "animate": "before.npy --rest a0.npy --moved a1.npy --iterations 3",
    "waves": "line.sgy --rows 4 --spacing 10 --frequency 12 --velocities 1400 1800 "
    "--start 1500 1600 --bands 8 --iterations 1",
    "deform": "grid.obj handles.txt --iterations 3",
    "bones": "grid.obj bent.obj --count 2 --iterations 3",
    "mri": "knee.h5 --regularization 0.1 --max-iterations 2",
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("map.npy", simulate_ramp()[0].numpy()[:, :24, :24])
    for k, names in enumerate((("before", "after"), ("a0", "a1"))):
        ring = simulate_ring(k)
        for name, image in zip(names, (ring.moving, ring.fixed)):
            np.save(f"{name}.npy", image[0, 0].numpy())
    shift = it.geometry.Affine([[1, 0, 1.5], [0, 1, 2.5], [0, 0, 1]])
    it.datasets.write_transform("shift.tfm", shift)
    truth = simulate_events(0, count=300)
    it.datasets.write_events("recording.npz", truth.events)
    np.savetxt("K.txt", truth.intrinsics.numpy())
    test_segy.write(Path("line.sgy"), samples=80)
    x, y = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    vertices = torch.stack([x.flatten(), y.flatten(), 0 * x.flatten()], 1)
    corners = [5 * i + j for i in range(4) for j in range(4)]
    faces = [[k, k + 5, k + 1] for k in corners] + [[k + 1, k + 5, k + 6] for k in corners]
    it.datasets.write_mesh("grid.obj", Mesh(vertices.double(), torch.tensor(faces)))
    bent = vertices + 0.3 * (x.flatten() - 2).clamp_min(0)[:, None] * torch.eye(3)[2]
    it.datasets.write_mesh("bent.obj", Mesh(bent.double(), torch.tensor(faces)))
    kspace = centred_fft(phantom(24, 20))[None]
    write_fastmri(Path("knee.h5"), kspace, header((24, 20, 1), (240, 200, 5)))
    Path("handles.txt").write_text("0 0 0 0\n4 0 4 0\n20 4 0 1.5\n")
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    """The digest of every numeric file of a folder; of .npz and .h5, of their arrays."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".npz", ".npy"):
            opened: Any = np.load(path)
            arrays = opened if path.suffix == ".npz" else {"": opened}
            content = b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))
        elif path.suffix == ".h5" and path.stem != "transform":
            content = it.Solution.load(path).x.numpy().tobytes()
        elif path.is_dir():
            content = b"".join(inner.read_bytes() for inner in sorted(path.iterdir()))
        elif path.suffix in (".ply", ".obj", ".mha", ".h5") or path.name == "metrics.json":
            content = path.read_bytes()
        else:
            continue
        found[path.name] = hashlib.sha256(content).hexdigest()
    return found


def test_every_kind_with_a_command_has_a_line_here() -> None:
    own = {"flow", "reconstruct", "ct", "deblur", "deconvolve", "depths"}
    assert {entry.command for entry in kinds().values() if entry.command} - own == set(LINES)


@pytest.mark.parametrize("command", LINES)
def test_a_saved_scene_gives_the_results_of_its_command(
    run: Run, files: Path, command: str
) -> None:
    words = LINES[command].split()
    ran = run(command, *words, "--output", "first", "--save-scene", "scene.toml", "--quiet")
    assert ran.code == 0 and not ran.out, ran.err
    first = digests(files / "first")
    assert len(first) >= 2 and (files / "first" / "report.html").is_file()
    assert run("run", "scene.toml", "--output", "second", "--quiet").code == 0
    assert digests(files / "second") == first
    # A finished run is read; other settings are refused; nothing is written over.
    assert "finished already" in run(command, *words, "--output", "first", "--resume").out
    assert "holds results" in one_sentence(run(command, *words, "--output", "first"))
    with_title = run(command, *words, "--output", "first", "--resume", "--set", "title=x", "-q")
    assert with_title.code == 0
    assert "scene.toml: there is a file" in one_sentence(
        run(command, *words, "--output", "third", "--save-scene", "scene.toml")
    )
    assert not (files / "third").exists()


@pytest.mark.parametrize("command", LINES)
def test_the_help_has_an_example_and_the_shared_options(run: Run, command: str) -> None:
    text = run(command, "--help").out
    assert f"  invtoolbox {command} " in text
    for option in ("--set KEY=VALUE", "--resume", "--save-scene FILE", "--output PATH"):
        assert option in text, option


def test_files_are_written_by_their_suffixes(run: Run, files: Path) -> None:
    words = ("normals", "map.npy", "--k", "0", "--set", "integration.max_iterations=2", "-o")
    outputs = ("d.npz", "m.ply", "r.html", "m.json")
    ran = run(*words, *outputs)
    assert ran.code == 0, ran.err
    assert (
        "relief" in json.loads(Path("m.json").read_text())
        and "relief" in Path("r.html").read_text()
    )
    assert "d.npz exists" in one_sentence(run(*words, *outputs))
    assert "holds no settings" in one_sentence(run(*words, *outputs, "--resume"))
    before = Path("d.npz").read_bytes()
    assert run(*words, *outputs, "--overwrite", "-q").code == 0
    assert Path("d.npz").read_bytes() == before
    assert "suffix '.pdf'" in one_sentence(run(*words, "x.pdf"))
    assert not Path("x.pdf").exists()


def test_an_error_names_the_option_and_not_the_key(run: Run, files: Path) -> None:
    assert "--k is -1.0" in one_sentence(run("normals", "map.npy", "--k", "-1"))
    assert "there is no file no.npy" in one_sentence(run("normals", "no.npy"))
    assert "[integration] has no key 'kk'" in one_sentence(
        run("normals", "map.npy", "--set", "integration.kk=1")
    )
    sentence = one_sentence(run("deform", "grid.obj", "bad.txt"))
    assert "bad.txt" in sentence
    Path("bad.txt").write_text("0 0 0 0\n99 1 1 1\n")
    assert "from 0 to 24" in one_sentence(run("deform", "grid.obj", "bad.txt"))


def test_depths_of_pictures_with_cameras(run: Run, files: Path) -> None:
    x = torch.tensor([-0.4, 0.0, 0.4])
    cameras = look_at(torch.stack([x, 0 * x, -3 + 0 * x], 1), size=(24, 32), field_of_view=40.0)
    origins, directions = cameras.rays()
    slopes = [torch.tensor(n) for n in ((0.0, -0.6, -0.8), (0.6, 0.0, -0.8))]
    depth = torch.stack([-(origins @ n) / (directions @ n) for n in slopes]).amin(0)
    frames = []
    Path("maps").mkdir()
    for k in range(3):
        it.datasets.write_png(f"view{k}.png", torch.full((3, 24, 32), 0.5))
        np.save(f"maps/view{k}.npy", (2 * depth[k] + 0.5).numpy())
        pose = torch.linalg.inv(cameras.world_to_camera[k].double())
        pose[:3, 1:3] *= -1  # the axes of OpenGL
        frames.append({"file_path": f"view{k}.png", "transform_matrix": pose.tolist()})
    K = cameras.intrinsics[0]
    focal = {"fl_x": float(K[0, 0]), "fl_y": float(K[1, 1]), "w": 32, "h": 24}
    centre = {"cx": float(K[0, 2]) + 0.5, "cy": float(K[1, 2]) + 0.5}
    Path("transforms.json").write_text(json.dumps({**focal, **centre, "frames": frames}))
    ran = run("depths", "transforms.json", "maps", "--iterations", "2", "-o", "out")
    assert ran.code == 0, ran.err
    with np.load("out/depths.npz") as arrays:
        assert np.allclose(arrays["scale"], 2, rtol=0.05) and len(arrays["names"]) == 3
