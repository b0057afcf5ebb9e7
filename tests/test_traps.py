"""Traps of paths, links, names, imports and sockets: each is refused, and nothing is harmed.

A row of a table is a trap: what a user or a file from elsewhere does, and the words of the refusal.
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.catalogue.documents import as_toml, change_content, set_key
from invtoolbox.catalogue.presets import prior_named, solver_named
from invtoolbox.catalogue.shelves import find
from invtoolbox.cli import parser
from invtoolbox.datasets.output import locking
from invtoolbox.datasets.shelf import sweep_options
from invtoolbox.errors import InputError
from invtoolbox.jobs.photographs.command import COMMAND
from invtoolbox.plotting import flow_viewer
from tests.command_line import Run, here, one_sentence, run
from tests.jobs.test_commands import LINES, files

__all__ = ["files", "here", "run"]

CT = "ct sinogram.npy --geometry geometry.toml --max-iterations 2 --overwrite"
DEBLUR = "deblur photo.png --kernel kernel.png --max-iterations 2 --overwrite"

#: Command lines whose results would replace what they are computed from; `here` has the files, and
#: links to them. "@" stands for the folder.
OVER_INPUTS = {
    "the same name": f"{CT} -o sinogram.npy",
    "a relative name": f"{CT} -o ./deep/../sinogram.npy",
    "an absolute name": f"{CT} -o @/sinogram.npy",
    "a link to the file": f"{CT} -o link.npy",
    "a hard link": f"{CT} -o hard.npy",
    "through a linked folder": f"{CT} -o same/sinogram.npy",
    "the input by a link": f"{CT.replace('sinogram', 'link')} -o sinogram.npy",
    "the second output": f"{CT} -o slice.tif sinogram.npy",
    "the reference": f"{CT} --reference truth.npy -o truth.npy",
    "the description of the values": f"{CT} -o geometry.raw",
    "the saved scene": f"{CT} -o slice.tif --save-scene geometry.toml",
    "without iterations": "ct sinogram.npy --geometry geometry.toml --fbp --overwrite -o sinogram.npy",
    "slices of a study": f"{CT} --items all -o sinogram.npy",
    "a picture": f"{DEBLUR} -o photo.png",
    "the kernel": f"{DEBLUR} -o kernel.png",
    "the report": f"{DEBLUR} -o out.png --report page.html",
    "a picture of the folder": f"{DEBLUR.replace('photo.png', 'stack')} -o stack/0.png",
    "the folder itself": f"{DEBLUR.replace('photo.png', 'stack')} -o stack",
    "a study of the folder": f"{DEBLUR.replace('photo.png', 'stack')} --items all -o stack",
    "a scene of its results": "run earlier.toml --output earlier --overwrite",
    "a scene of its own folder": "run inside.toml --overwrite",
    "sweeps": "flow sweeps --out sweeps --overwrite",
    "below the sweeps": "flow sweeps --out sweeps/flow --overwrite",
    "a report among the sweeps": "flow sweeps --out flow --report sweeps/0.html --overwrite",
    "photographs": "reconstruct stack --out stack --overwrite",
    "held-out photographs": "reconstruct capture/held-out --out capture --overwrite",
    "the recipe with changes": "train priors/mine/recipe.toml --set seed=3 --overwrite",
    "a picture of the recipe": "train curve.toml --output stack --overwrite",
}

RECIPE = """name = "mine"
[network]
name = "convex-convolution"
widths = [4]
strides = [1]
[prior]
name = "learned-proximal"
sigma = 0.1
[data]
DATA
noise_std = 0.1
crop = 8
[[stage]]
loss = "l1"
steps = 2
"""


@pytest.fixture
def linked(here: Path) -> Path:
    """The user's folder with links, a stack, sweeps, earlier results and recipes."""
    for folder in ("deep", "stack", "sweeps", "earlier", "capture/held-out", "priors/mine"):
        Path(folder).mkdir(parents=True)
    os.symlink("sinogram.npy", "link.npy")
    os.link("sinogram.npy", "hard.npy")
    os.symlink(here, "same", target_is_directory=True)
    for k, place in enumerate(("stack/0", "stack/1", "capture/held-out/0", "capture/held-out/1")):
        picture = np.random.default_rng(k).random((16, 16))
        it.datasets.write_png(f"{place}.png", picture, (0.0, 1.0))
        points = np.random.default_rng(k).normal(size=(100, 4)).astype("<f4")
        points.tofile(f"sweeps/{k}.bin")
    os.link("photo.png", "page.html")
    os.link("photo.png", "earlier/reconstruction.png")
    scene = (
        '[measurements]\npath = "earlier/reconstruction.png"\n[operator]\nname = "blur"\n'
        'kernel = { path = "kernel.png", normalized = true }\n[solver]\nmax_iterations = 2\n'
    )
    Path("earlier.toml").write_text(scene)
    Path("inside.toml").write_text(f'{scene}[output]\nfolder = "earlier"\n')
    Path("priors/mine/recipe.toml").write_text(RECIPE.replace("DATA", 'photographs = ["coins"]'))
    Path("curve.toml").write_text(RECIPE.replace("DATA", 'paths = ["stack"]'))
    return here


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its path."""
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in names}


@pytest.mark.parametrize("trap", OVER_INPUTS)
def test_results_never_replace_an_input(run: Run, linked: Path, trap: str) -> None:
    before = contents(linked)
    sentence = one_sentence(run(*OVER_INPUTS[trap].replace("@", str(linked)).split()))
    assert "never written into the source" in sentence
    assert contents(linked) == before


@pytest.mark.parametrize("command", LINES)
def test_no_command_replaces_its_input(run: Run, files: Path, command: str) -> None:
    words = LINES[command].split()
    for number, name in enumerate(word for word in words[:3] if Path(word).is_file()):
        os.link(name, f"result{number}.json")
        before = contents(files)
        ran = run(command, *words, "--output", f"result{number}.json", "--overwrite")
        assert "never written into the source" in one_sentence(ran)
        assert contents(files) == before


#: Files of the user in the folder of the results, and the command that would write one of that name.
IN_THE_WAY = {
    "README.md": "train curve.toml --output .",
    "curve.csv": "train curve.toml --output .",
    "metrics.json": "flow sweeps --out .",
    "report.html": "flow sweeps --out . --report report.html",
    "reconstruction.tif": "run earlier.toml --output .",
    "slice.tif": "ct sinogram.npy --geometry geometry.toml -o slice.tif",
    "study.json": "deblur stack --kernel kernel.png --items all -o .",
}


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_no_file_is_replaced_without_overwrite(run: Run, linked: Path, name: str) -> None:
    Path(name).write_text("{}")
    before = contents(linked)
    sentence = one_sentence(run(*IN_THE_WAY[name].split()))
    assert name in sentence and "--overwrite" in sentence
    assert contents(linked) == before


def test_an_input_that_is_not_replaced_is_none_of_this(run: Run, linked: Path) -> None:
    before = Path("sinogram.npy").read_bytes()
    assert run(*CT.split(), "-o", "slice.npy", "-q").code == 0
    assert run(*CT.split(), "-o", "slice.npy", "-q").code == 0
    assert run(*["run", "earlier.toml", "--output", "other", "-q"]).code == 0
    assert Path("sinogram.npy").read_bytes() == before and not list(linked.rglob("*.lock"))


#: Runs that write to a place while another run does: the place that is locked, and the second run.
AT_ONCE = {
    "files": ("slice.tif", f"{CT} -o slice.tif"),
    "the second file": ("slice.npy", f"{CT} -o slice.tif slice.npy"),
    "a file by a link": ("deep/slice.tif", f"{CT} -o same/deep/slice.tif"),
    "a folder": ("out", f"{DEBLUR} -o out"),
    "a scene": ("out", "run earlier.toml --output out --overwrite"),
    "its resumption": ("out", "run earlier.toml --output out --resume"),
    "a study": ("out", f"{DEBLUR.replace('photo.png', 'stack')} --items all -o out"),
    "flow": ("out", "flow sweeps --out out --overwrite"),
    "a training": ("out", "train curve.toml --output out --overwrite"),
}


@pytest.mark.parametrize("trap", AT_ONCE)
def test_two_runs_never_write_to_one_place(run: Run, linked: Path, trap: str) -> None:
    place, line = AT_ONCE[trap]
    with locking(place):
        before = contents(linked)
        assert "another run writes there" in one_sentence(run(*line.split()))
        assert contents(linked) == before
    assert not list(linked.rglob(".*.lock"))


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys, time; from invtoolbox.datasets.output import locking\n"
        "with locking(sys.argv[1]): print('locked', flush=True); time.sleep(60)"
    )
    place = tmp_path / "out"
    words = [sys.executable, "-c", code, str(place)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="another run writes there"), locking(place):
            pass
        first.send_signal(signal.SIGKILL)
    assert (tmp_path / ".out.lock").exists()
    with locking(place):
        pass
    assert not (tmp_path / ".out.lock").exists()


# -- what files from elsewhere may name ------------------------------------------------------------

BLUR = {
    "measurements": {"path": "photo.png"},
    "operator": {"name": "blur", "kernel": {"gaussian": 1.0}},
    "prior": [{"name": "tv", "weight": 0.1}],
    "solver": {"max_iterations": 2},
}
SCAN = {"measurements": {"path": "sinogram.npy", "geometry": "geometry.toml"}, "prior": []}
CONE_BEAM = {"kind": "cone", "volume_shape": [4, 4, 4], "detector_shape": [6, 8], "voxel_size": 1.0}
PARALLEL = {"kind": "parallel", "num_detectors": 24, "image_shape": [16, 16]}
NETWORK = {"name": "dncnn", "depth": 3, "width": 4, "weights": "@/secret.safetensors"}

#: Scenes that lie in the folder of the user and name what lies in another one, "@": the scene, and
#: what it changes.
SCENES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "measurements above": (BLUR, {"measurements.path": "../home/secret.png"}),
    "measurements by a whole path": (BLUR, {"measurements.path": "@/secret.png"}),
    "measurements in the home folder": (BLUR, {"measurements.path": "~/secret.png"}),
    "a file of a data set": (
        BLUR,
        {"measurements": {"dataset": "photographs", "file": "@/secret.png"}},
    ),
    "a kernel": (BLUR, {"operator.kernel": {"path": "@/secret.png"}}),
    "a reference": (BLUR, {"evaluation.reference.path": "@/secret.png"}),
    "a picture to simulate from": (
        BLUR,
        {"measurements": {"simulate": {"path": "../home/secret.png", "noise_std": 0.1}}},
    ),
    "weights of a network": (
        BLUR,
        {"prior": [{"name": "denoiser", "sigma": 0.1, "network": NETWORK}]},
    ),
    "a preset": (
        BLUR,
        {"preset": "p", "presets": {"p": {"measurements.path": "@/secret.png"}}},
    ),
    "a geometry": (SCAN, {"measurements.geometry": "@/geometry.toml"}),
    "angles of a geometry in the scene": (
        SCAN,
        {"measurements.geometry": {**PARALLEL, "angles": {"file": "@/secret.npy"}}},
    ),
    "angles of an operator": (
        BLUR,
        {
            "operator": {
                "name": "parallel-beam",
                "num_detectors": 24,
                "angles": {"unit": "degrees", "file": "../home/secret.npy"},
            },
            "measurements": {"simulate": {"path": "photo.png", "noise_std": 0.1}},
        },
    ),
    "poses of a scan": (
        SCAN,
        {"measurements.geometry": {**CONE_BEAM, "vectors": "@/secret.npy"}},
    ),
    "poses of an operator": (
        {"measurements": {"path": "sinogram.npy"}, "prior": []},
        {"operator": {"name": "cone-beam", **CONE_BEAM, "vectors": "@/secret.npy"}},
    ),
    "a normal map": ({"normals": {"path": "@/secret.npy"}}, {}),
    "a mask of normals": ({"normals": {"path": "map.npy"}}, {"normals.mask": "@/secret.png"}),
    "a depth": ({"normals": {"path": "map.npy"}}, {"normals.truth": "../home/secret.npy"}),
    "an image to register": (
        {"registration": {"moving": "photo.png", "fixed": "../home/secret.png"}},
        {},
    ),
    "labels": (
        {"registration": {"moving": "photo.png", "fixed": "photo.png"}},
        {"registration.labels": "@/secret.png"},
    ),
    "events": ({"events": {"path": "@/secret.npy"}}, {}),
    "a mesh": ({"mesh": {"path": "@/secret.obj"}, "handles": {"positions": "map.npy"}}, {}),
    "frames of bones": ({"bones": {"frames": ["@/secret.obj", "@/secret.obj"], "count": 2}}, {}),
    "pictures of a motion": (
        {"motion": {"rest": "rest.ply", "pictures": ["@", "@"]}},
        {},
    ),
    "pictures of a motion by a pattern": (
        {"motion": {"rest": "rest.ply", "pictures": "../hom*"}},
        {},
    ),
    "a picture that moves": (
        {"animation": {"picture": "@/secret.png", "rest": ["photo.png"], "moved": ["photo.png"]}},
        {},
    ),
    "sweeps": ({"sweeps": {"path": "@/sweeps"}}, {}),
    "poses of sweeps": (
        {"sweeps": {"path": "sweeps"}},
        {"sweeps.options": {"poses": "@/secret.txt"}},
    ),
    "photographs": ({"views": {"path": "@/sweeps"}, "prior": [{"name": "gaussians"}]}, {}),
    "results above": (BLUR, {"output.folder": "../home/results"}),
    "results by a whole path": (BLUR, {"output.folder": "@/results"}),
    "results in the home folder": (BLUR, {"output.folder": "~/results"}),
    "results through a link": (BLUR, {"output.folder": "door/results"}),
    "results out and in": (BLUR, {"output.folder": "deep/../../home"}),
    "results of sweeps": ({"sweeps": {"path": "sweeps"}}, {"output.folder": "@/results"}),
    "results of normals": ({"normals": {"path": "map.npy"}}, {"output.folder": "door"}),
}

CARD = """reader = "pictures"
folder = "set"
default = "a.png"
licence = "none"
source = "nowhere"
[sha256]
"a.png" = "00"
"""
#: Cards of data sets in the current folder: the words of `CARD` and those in place of them.
CARDS = {
    "a folder above": ('"set"', '"../home"'),
    "a whole path": ('"set"', '"@"'),
    "a file above": ('"a.png"', '"../../home/secret.png"'),
    "a listed file above": ('"a.png" = "00"', '"a.png" = "00"\n"../../home/secret.png" = "00"'),
    "a module with a part": ('"set"', '"set"\npackage = "trap.part"'),
    "a module": ('"set"', '"set"\npackage = "trap"'),
    "a module of Python": ('"set"', '"set"\npackage = "this.x"'),
    "above a package": ('"set"', '"../numpy"\npackage = "skimage"'),
    "poses in the home folder": ('"nowhere"', '"nowhere"\n[options]\nposes = "~/secret.txt"'),
    "poses by a whole path": ('"nowhere"', '"nowhere"\n[options]\nposes = "@/secret.txt"'),
    "times above": ('"nowhere"', '"nowhere"\n[options]\ntimes = "../home/secret.txt"'),
}

PRIOR = """prior = "denoiser"
sigma = 0.1
[network]
name = "dncnn"
depth = 3
width = 4
weights = "weights.safetensors"
"""
#: Cards of priors, in the same way, with words of the refusal.
PRIORS = {
    "weights above": ('"weights.saf', '"../../../home/secret.saf', "outside of"),
    "weights by a whole path": ('"weights.saf', '"@/secret.saf', "outside of"),
    "a pickle": ("weights.safetensors", "weights.pth", "safetensors file next to"),
    "a function as network": ('"dncnn"', '"os:system"', "no network"),
    "a function as prior": (PRIOR, 'prior = "os.system"', "no prior"),
}

#: Recipes, in the same way.
RECIPES = {
    "a name above": ('"mine"', '"../../home/mine"'),
    "a name of a whole path": ('"mine"', '"@/mine"'),
    "a hidden name": ('"mine"', '".mine"'),
    "pictures above": ("DATA", 'paths = ["../home/secret.png"]'),
    "pictures by a whole path": ("DATA", 'paths = ["@/secret.png"]'),
    "a network by import": ('"convex-convolution"', '"trap:network"'),
}


@pytest.fixture
def download(linked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that was downloaded, the current one, next to the home folder with secrets."""
    folder, home = tmp_path / "download", tmp_path / "home"
    folder.mkdir()
    for path in linked.iterdir():
        if path not in (folder, home) and path.name != "same":
            path.rename(folder / path.name)
    home.mkdir()
    os.symlink(home, folder / "door", target_is_directory=True)
    it.datasets.write_png(home / "secret.png", np.random.default_rng(0).random((16, 16)))
    np.save(home / "secret.npy", np.zeros((16, 16)))
    np.save(folder / "map.npy", np.ones((16, 16, 3)))
    points = torch.zeros(1, 4, 3)
    splats = it.geometry.gaussians.Splats.of_points(points, points, 0.1, 0.9)
    it.datasets.write_splats(folder / "rest.ply", splats)
    for name in ("secret.txt", "secret.obj", "geometry.toml"):
        (home / name).write_text("0 0 0\n")
    (home / "sweeps").mkdir()
    (home / "secret.safetensors").write_bytes(b"secret")
    (folder / "trap.py").write_text("raise SystemExit('the trap was imported')\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("INVTOOLBOX_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "set").mkdir(parents=True)
    return folder


def home_of(folder: Path) -> Path:
    return folder.parent / "home"


@pytest.mark.parametrize("trap", SCENES)
def test_a_scene_names_nothing_outside_of_its_folders(download: Path, trap: str) -> None:
    home, (scene, changes) = home_of(download), SCENES[trap]
    content = change_content(Path("trap.toml"), copy.deepcopy(scene), {})
    for key, value in changes.items():
        set_key(content, key, value)
    Path("trap.toml").write_text(as_toml(content).replace("@", str(home)))
    before = contents(download), contents(home)
    with pytest.raises(InputError, match="outside of"):
        it.run("trap.toml", progress=False)
    assert (contents(download), contents(home)) == before


@pytest.mark.parametrize("trap", CARDS)
def test_a_card_of_data_opens_and_imports_nothing_else(download: Path, trap: str) -> None:
    home, (words, others) = home_of(download), CARDS[trap]
    Path("datasets").mkdir()
    Path("datasets/mine.toml").write_text(
        CARD.replace(words, others).replace("@", str(home)).replace('"00"', f'"{"0" * 64}"')
    )
    before, modules = contents(home), {*sys.modules}
    with pytest.raises(InputError, match=r"outside of|none of those that hold data|file of the"):
        sweep_options("mine")
        it.datasets.take_files("mine", home)
    assert contents(home) == before and not {"trap", "this"} & ({*sys.modules} - modules)


@pytest.mark.parametrize("trap", PRIORS)
def test_a_card_of_a_prior_loads_its_own_weights_alone(download: Path, trap: str) -> None:
    words, others, refusal = PRIORS[trap]
    Path("priors/other").mkdir()
    text = PRIOR.replace(words, others).replace("@", str(home_of(download)))
    Path("priors/other/card.toml").write_text(text)
    with pytest.raises(InputError, match=refusal):
        it.priors.load("other")


@pytest.mark.parametrize("trap", RECIPES)
def test_a_recipe_writes_and_reads_in_its_folders(download: Path, trap: str) -> None:
    home, (words, others) = home_of(download), RECIPES[trap]
    text = RECIPE.replace(words, others).replace("DATA", 'photographs = ["coins"]')
    Path("trap.toml").write_text(text.replace("@", str(home)))
    before = contents(download), contents(home)
    with pytest.raises(InputError, match="outside of|name is|no network"):
        it.training.run_recipe("trap.toml", progress=False)
    assert (contents(download), contents(home)) == before


#: Files of the current folder with a name of the toolbox, what is loaded, and whether the file is used.
SHADOWS: dict[str, tuple[str, str, Callable[[], Any], bool]] = {
    "a trained prior": (
        "priors/lpn-natural-0.1/card.toml",
        'prior = "tv"\n',
        lambda: it.priors.load("lpn-natural-0.1"),
        False,
    ),
    "a prior of the toolbox": (
        "priors/tv/card.toml",
        'prior = "wavelet"\n',
        lambda: prior_named("TV"),
        False,
    ),
    "a solver": (
        "solvers/fista.toml",
        'solver = "admm"\n',
        lambda: solver_named("fista"),
        False,
    ),
    "a preset": (
        "solvers/sart.toml",
        'solver = "admm"\n',
        lambda: solver_named("sart"),
        True,
    ),
    "a scene": ("scenes/ct-small.toml", 'title = "x"\n', lambda: find("scenes", "ct-small"), True),
    "data": ("datasets/ct-small.toml", CARD, lambda: find("datasets", "ct-small"), True),
}


@pytest.mark.parametrize("trap", SHADOWS)
def test_a_name_of_the_toolbox_is_not_replaced_without_a_word(download: Path, trap: str) -> None:
    name, text, load, is_used = SHADOWS[trap]
    before = load()
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    with pytest.warns(UserWarning, match="has the same name") as notes:
        loaded = load()
    assert (str(loaded) != str(before)) == is_used and len(notes) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load()  # it is said once
    with it.datasets.trusting():
        assert str(load()) != str(before)


# -- who may listen --------------------------------------------------------------------------------


on_linux = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc/net")


def children(process: int) -> list[int]:
    """Return the processes that a process and its children have started, from /proc."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    started = [child for child, parent in parents.items() if parent == process]
    return [*started, *(inner for child in started for inner in children(child))]


def listening() -> set[str]:
    """Return the addresses at which this process and its children listen, from /proc/net."""
    sockets = set()
    for process in (os.getpid(), *children(os.getpid())):
        with contextlib.suppress(OSError):
            for handle in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(handle))
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state, inode = (line.split()[k] for k in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in sockets:
                number = bytes.fromhex(local.partition(":")[0])
                addresses.add(".".join(map(str, number[::-1])) if len(number) == 4 else local)
    return addresses


@contextmanager
def a_page() -> Iterator[None]:
    server = it.plotting.SceneServer(port=0, report=lambda sentence: None)
    yield
    server.close()


@contextmanager
def a_command(*words: str) -> Iterator[None]:
    """The page of `reconstruct --live`, while its job runs."""
    arguments = parser().parse_args(["reconstruct", "lego-gaussians", "--live", "-q", *words])
    job = SimpleNamespace(
        file=SimpleNamespace(
            name="x", scene=SimpleNamespace(views=SimpleNamespace(background=1.0))
        ),
        run=lambda *_, **__: started.set() or finished.wait(60),
        print_outcome=lambda *_: 0,
    )
    started, finished = threading.Event(), threading.Event()
    thread = threading.Thread(target=COMMAND.finish, args=(job, arguments))
    thread.start()
    assert started.wait(60)
    yield
    finished.set()
    thread.join()


@contextmanager
def a_window() -> Iterator[None]:
    """The window of `flow --view`; a program of that name listens where it is told, as Rerun does."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        program = Path(folder, "rerun")
        program.write_text(
            f"#!{sys.executable}\nimport argparse, socket, time\np = argparse.ArgumentParser()\n"
            "p.add_argument('--bind', default='0.0.0.0')\np.add_argument('--port', type=int)\n"
            "a = p.parse_args()\ns = socket.create_server((a.bind, a.port))\ntime.sleep(60)\n"
        )
        program.chmod(0o755)
        patch.setattr("sysconfig.get_path", lambda kind: folder)
        calls: list[str] = []
        before = {*children(os.getpid())}
        rerun = SimpleNamespace(init=lambda title: None, connect_grpc=calls.append)
        flow_viewer._start(rerun, "x", None)
        assert calls[0].startswith("rerun+http://127.0.0.1:")
        yield
        for child in {*children(os.getpid())} - before:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@contextmanager
def workers() -> Iterator[None]:
    from invtoolbox.jobs.study.workers import _client

    with _client(1, None, 1):
        yield


SERVERS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "the page of a scene": a_page,
    "reconstruct --live": a_command,
    "flow --view": a_window,
    "workers": workers,
}


@on_linux
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_listens_on_this_machine_alone(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listening()
    with SERVERS[server]():
        assert listening() == {*before, "127.0.0.1"}


@on_linux
def test_all_of_the_network_is_opened_by_name_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with a_command("--host", "0.0.0.0"):
        assert "0.0.0.0" in listening()
    address = capsys.readouterr().out.split()[-1]
    assert "0.0.0.0" not in address and len(address.rpartition("/")[2]) >= 20


#: Requests without the word of the address, "@".
REQUESTS = ("/", "/version", "/wrong", "/wrong/version", "/@x", "/@/../@", "/x@/version")


@pytest.mark.parametrize("request_path", REQUESTS)
def test_a_page_is_shown_to_who_has_its_address(request_path: str) -> None:
    server = it.plotting.SceneServer(port=0, report=lambda sentence: None)
    base, _, word = server.address.rpartition("/")
    try:
        with urlopen(server.address + "/version") as answer:
            assert answer.read() == b"0"
        with pytest.raises(HTTPError, match="404"):
            urlopen(base + request_path.replace("@", word))
    finally:
        server.close()
